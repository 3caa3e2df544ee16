//! The log is kept from before the oldest transaction that is set aside, by a pin of the archive: made before the transaction is noted, and
//! removed when it is known for good that none is left that needs it.

use tokio_postgres::Client;

use crate::archive::{Archive, Pin};
use crate::model::{Fault, Lsn, Position};
use crate::pg::{dead, inspect};

/// What the names of a stream's pins for one target begin with.
async fn stem(client: &Client, stream: &str) -> Result<String, Fault> {
    let server = inspect::server(client).await?;
    let key = [stream, &server.system_identifier.to_string(), &server.database].join("\0");
    let hash = blake3::hash(key.as_bytes()).to_hex();
    Ok(format!("dead-{}-", hash.chars().take(16).collect::<String>()))
}

fn ours(archive: &Archive, stem: &str) -> Result<Vec<Pin>, Fault> {
    let pins = archive.pins()?;
    Ok(pins.into_iter().filter(|pin| pin.name.starts_with(stem)).collect())
}

/// Keeps the log from before this commit on. Blocks on disk or network.
pub(in crate::apply) async fn keep(
    archive: &Archive,
    client: &Client,
    stream: &str,
    commit_lsn: Lsn,
) -> Result<(), Fault> {
    let stem = stem(client, stream).await?;
    let lsn = Position(commit_lsn.0);
    tokio::task::block_in_place(|| {
        if ours(archive, &stem)?.iter().any(|pin| pin.lsn <= lsn) {
            return Ok(());
        }
        let created = jiff::Timestamp::now().to_string();
        archive.pin(&Pin { name: format!("{stem}{:x}", lsn.0), lsn, created })
    })
}

/// Keeps no more of the log than what is still set aside. To be called by who has the stream's lock, or while nobody applies it. Blocks on disk or
/// network.
pub async fn release(archive: &Archive, client: &Client, stream: &str) -> Result<(), Fault> {
    let notes = dead::read(client, stream).await?;
    let oldest = notes.first().map(|note| note.commit_lsn);
    if let Some(oldest) = oldest {
        // One that is behind it keeps enough only together with what is there.
        let stem = stem(client, stream).await?;
        let name = format!("{stem}{:x}", oldest.0);
        let pins = tokio::task::block_in_place(|| ours(archive, &stem))?;
        if !pins.iter().any(|pin| pin.name == name) {
            let created = jiff::Timestamp::now().to_string();
            tokio::task::block_in_place(|| archive.pin(&Pin { name, lsn: Position(oldest.0), created }))?;
        }
    }
    let stem = stem(client, stream).await?;
    tokio::task::block_in_place(|| {
        for pin in ours(archive, &stem)? {
            if oldest.is_none_or(|oldest| pin.lsn != Position(oldest.0)) {
                archive.unpin(&pin.name)?;
            }
        }
        Ok(())
    })
}
