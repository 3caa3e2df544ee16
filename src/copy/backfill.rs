//! What a copy into tables that were in use does otherwise than one into new tables.

use super::session;
use super::{Options, clear, copied};
use crate::model::Fault;
use crate::pg::counterpart;

/// Empties the tables whose copy has not begun. Nobody else may write to them.
pub async fn empty(options: &Options) -> Result<(), Fault> {
    let (source, target) = options.clients().await?;
    let known = copied::tables(&target, &options.stream).await?;
    for table in options.survey(&source, &target).await? {
        if !known.contains_key(&table.oid) {
            tracing::info!(table = table.shown(), "emptied on the target");
            clear(&target, options, &table).await?;
            // Whatever it took before, or another one took for it, is not there any more.
            let archive_id = options.archive.manifest().archive_id.to_string();
            counterpart::forget(&target, &archive_id, table.oid, &table.quoted()).await?;
        }
    }
    Ok(())
}

/// Instead of a copy: the rows that are on the target count as those that the source has now, by one snapshot for all tables of which nothing is
/// noted yet.
pub async fn from_now(options: &Options) -> Result<(), Fault> {
    let (source, target) = options.clients().await?;
    let tables = options.survey(&source, &target).await?;
    let known = copied::tables(&target, &options.stream).await?;
    if tables.iter().all(|table| known.contains_key(&table.oid)) {
        return Ok(());
    }
    let mut session = session::source(&options.source).await?;
    let (moment, _) = session::begin(&mut session, None, None).await?;
    session::settle(&mut session, &moment).await?;
    for table in tables.iter().filter(|table| !known.contains_key(&table.oid)) {
        copied::note_whole_as_is(&target, &options.stream, table.oid, &moment).await?;
    }
    Ok(())
}

/// Those of the tables that are meant that are not whole, such as one that was renamed meanwhile and is not published by its new name.
pub async fn missing(options: &Options) -> Result<Vec<u32>, Fault> {
    let (_, target) = options.clients().await?;
    let known = copied::tables(&target, &options.stream).await?;
    let is_whole = |oid: &u32| known.get(oid).is_some_and(|table| table.whole.is_some());
    Ok(options.only.iter().flatten().copied().filter(|oid| !is_whole(oid)).collect())
}
