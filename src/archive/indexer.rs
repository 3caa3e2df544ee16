//! Keeps the catalog in step with the segments, on a thread of its own: the log never waits for its index.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::catalog::{Catalog, FrameRow, RelationRow, SegmentRow, SegmentRows};
use crate::model::Fault;
use crate::segment::{Footer, SegmentName, Trailer};

use super::{Archive, SegmentFile, writer};

/// Brings the catalog up to date, then adds each segment that is sealed. A fault ends it, for the next start to heal:
/// the log does without it.
pub(super) fn run(archive: &Archive, sealed: &Receiver<SegmentName>, closing: &AtomicBool) {
    let index = || -> Result<(), Fault> {
        let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0)?;
        // A stop waits a little for a catalog that is built anew, and no longer: the next start goes on with it.
        let mut closing_since = None;
        reconcile(archive, &catalog, |_, _| {
            !closing.load(Ordering::Acquire)
                || closing_since.get_or_insert_with(Instant::now).elapsed() < Duration::from_secs(1)
        })?;
        while let Ok(name) = sealed.recv() {
            if let Some(rows) = segment_rows(archive, name)? {
                catalog.index(&rows)?;
            }
        }
        Ok(())
    };
    if let Err(error) = index() {
        tracing::warn!(%error, "the catalog is not kept up to date; it is derived and will be healed at the next start");
    }
}

/// Indexes the segments that the catalog misses and forgets those that are gone. `go_on(done, of)` may stop it.
fn reconcile(
    archive: &Archive,
    catalog: &Catalog,
    mut go_on: impl FnMut(usize, usize) -> bool,
) -> Result<(), Fault> {
    let names = archive.segments()?;
    let mut indexed: BTreeMap<_, _> = catalog.segments()?.into_iter().map(|row| (row.after, row)).collect();
    let mut missing = Vec::new();
    for name in names {
        match indexed.remove(&name.after) {
            Some(row) if Some(row.through) == name.through => {}
            other => {
                if let Some(row) = other {
                    catalog.forget(&row)?;
                }
                missing.push(name);
            }
        }
    }
    for gone in indexed.values() {
        catalog.forget(gone)?;
    }
    let count = missing.len();
    for (done, name) in missing.into_iter().enumerate() {
        if !go_on(done, count) {
            return Ok(());
        }
        if let Some(rows) = segment_rows(archive, name)? {
            catalog.index(&rows)?;
        }
    }
    go_on(count, count);
    Ok(())
}

/// Builds the catalog anew and says how many segments it holds. Refused while a receiver runs.
pub fn reindex(archive: &Archive, mut progress: impl FnMut(usize, usize)) -> Result<usize, Fault> {
    let _lock = writer::lock(archive)?;
    let catalog = Catalog::create(&archive.catalog_folder(), archive.manifest().archive_id.0)?;
    reconcile(archive, &catalog, |done, of| {
        progress(done, of);
        true
    })?;
    catalog.flush()?;
    Ok(catalog.segments()?.len())
}

fn segment_rows(archive: &Archive, name: SegmentName) -> Result<Option<SegmentRows>, Fault> {
    let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(None) };
    let (trailer, footer) = file.sealed(name)?;
    Ok(Some(rows(name, &trailer, &footer, file.size_bytes()?)))
}

fn rows(name: SegmentName, trailer: &Trailer, footer: &Footer, bytes: u64) -> SegmentRows {
    let totals = trailer.totals;
    let segment = SegmentRow {
        after: name.after,
        through: trailer.through,
        bytes,
        raw_bytes: totals.raw_bytes,
        transactions: totals.transactions,
        changes: totals.changes,
        first_time: totals.first_time,
        last_time: totals.last_time,
    };
    let mut rest = footer.commits.as_slice();
    let mut frames = Vec::new();
    for entry in &footer.frames {
        let Some((commits, behind)) = rest.split_at_checked(entry.header.transactions as usize) else {
            break;
        };
        rest = behind;
        let (Some(first), Some(last)) = (commits.first(), commits.last()) else { continue };
        let times = || commits.iter().map(|commit| commit.time);
        let xids = || commits.iter().map(|commit| commit.xid.0);
        frames.push(FrameRow {
            segment: name.after,
            offset: entry.offset,
            first: first.end,
            last: last.end,
            transactions: commits.len() as u64,
            first_time: times().min().unwrap_or_default(),
            last_time: times().max().unwrap_or_default(),
            xid_min: xids().min().unwrap_or_default(),
            xid_max: xids().max().unwrap_or_default(),
        });
    }
    let versions = footer.relations.iter().flat_map(|relation| {
        relation.versions.iter().map(|version| RelationRow {
            oid: relation.oid,
            after: version.after,
            message: version.message.to_vec(),
        })
    });
    SegmentRows { segment, frames, relations: versions.collect() }
}

/// The thread, and what it shares with the writer.
pub(super) fn spawn(
    archive: Archive,
    sealed: Receiver<SegmentName>,
    closing: Arc<AtomicBool>,
    lock: Arc<std::fs::File>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("catalog".into()).spawn(move || {
        run(&archive, &sealed, &closing);
        drop(lock);
    })
}
