//! What is done with a segment when it is sealed, on a thread of its own: it is pressed, handed on to where it is brought into the
//! archive's store, and entered into the catalog. The log waits for none of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use crate::catalog::{Catalog, FrameRow, PinRow, RelationRow, SegmentRow, SegmentRows, TableRow};
use crate::faults;
use crate::model::{Fault, Position};
use crate::segment::{Footer, SegmentName, Trailer};

use super::abreast::abreast;
use super::{Archive, SegmentFile, cover, disk, inspect, known, press, writer};

/// Sealed segments that a crash or a hurried stop may have left as they were written.
const LEFT_OVER_MAX: usize = 16;
/// How long a stop waits for what is being done. The next start goes on with it.
const PRESS_PATIENCE: Duration = Duration::from_secs(5);
const CATALOG_PATIENCE: Duration = Duration::from_secs(1);

/// The writer's wish to stop, and when it was first seen.
struct Stop<'a> {
    closing: &'a AtomicBool,
    since: Cell<Option<Instant>>,
}

impl Stop<'_> {
    /// Whether there is time yet.
    fn waits(&self, patience: Duration) -> bool {
        if !self.closing.load(Ordering::Acquire) {
            return true;
        }
        let since = self.since.get().unwrap_or_else(Instant::now);
        self.since.set(Some(since));
        since.elapsed() < patience
    }
}

/// Presses what was left over, brings the catalog up to date, then does both with each segment that is sealed. A fault
/// of the catalog is for the next start to heal: the log does without it.
fn run(archive: &Archive, zstd_level: i32, handed: &Handed, closing: &AtomicBool) {
    let Handed { sealed, pressed, left_over } = handed;
    let stop = Stop { closing, since: Cell::new(None) };
    let press = |name: SegmentName| {
        let done = press::press(archive, name, zstd_level, || stop.waits(PRESS_PATIENCE));
        done.unwrap_or_else(|error| {
            tracing::warn!(%error, segment = %name, "a segment stays larger than it need be");
            false
        })
    };
    // One that needs nothing may have others before it that a kill has left.
    match archive.folder_listing() {
        Ok(names) => {
            let sealed = names.into_iter().rev().filter(|name| name.through.is_some());
            sealed.take(LEFT_OVER_MAX).for_each(|name| {
                press(name);
            });
        }
        Err(error) => tracing::warn!(%error, "segments that were left over stay as they are"),
    }
    for name in left_over {
        // Without a store nobody listens.
        let _ = pressed.send(*name);
    }
    let index = || -> Result<(), Fault> {
        let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0)?;
        reconcile(archive, &catalog, Missing::Here, |_, _| stop.waits(CATALOG_PATIENCE))?;
        while let Ok(task) = sealed.recv() {
            let name = match task {
                Task::Sealed(name) => name,
                Task::Merged(name) => {
                    replace_merged(archive, &catalog, name)?;
                    continue;
                }
            };
            let was_pressed = press(name);
            let _ = pressed.send(name);
            if was_pressed && let Some(row) = catalog.segment(name.after)? {
                // It was sealed before the catalog was looked through.
                catalog.forget(&row)?;
            }
            faults::point("index.before");
            if let Some(rows) = segment_rows(archive, name)? {
                catalog.index(&rows)?;
            }
            faults::point("index.after");
            forget_pruned(archive, &catalog)?;
        }
        Ok(())
    };
    if let Err(error) = index() {
        tracing::warn!(%error, "the catalog is not kept up to date; it is derived and will be healed at the next start");
        for task in sealed.iter() {
            if let Task::Sealed(name) = task {
                press(name);
                let _ = pressed.send(name);
            }
        }
    }
}

/// A merged segment takes the place of those that it covers.
fn replace_merged(archive: &Archive, catalog: &Catalog, name: SegmentName) -> Result<(), Fault> {
    let Some(rows) = segment_rows(archive, name)? else { return Ok(()) };
    let covered = |row: &&SegmentRow| cover::covers(name, SegmentName::sealed(row.after, row.through));
    catalog.segments()?.iter().filter(covered).try_for_each(|row| catalog.forget(row))?;
    catalog.index(&rows)
}

/// Forgets the segments that were pruned since; with a store, which may be away, that waits for the next start. Until then their rows
/// lead nowhere, and harm nobody.
fn forget_pruned(archive: &Archive, catalog: &Catalog) -> Result<(), Fault> {
    if archive.depot().is_some() {
        return Ok(());
    }
    let Some(first) = catalog.segments_from(Position::ZERO).next().transpose()? else { return Ok(()) };
    // Only the log's first segment is ever removed: while it is there nothing was.
    if file_bytes(archive, SegmentName::sealed(first.after, first.through))?.is_some() {
        return Ok(());
    }
    forget_before(catalog, archive.beginning()?)
}

/// Forgets the segments that end there or before.
pub(super) fn forget_before(catalog: &Catalog, beginning: Position) -> Result<(), Fault> {
    for row in catalog.segments_from(Position::ZERO) {
        let row = row?;
        if row.through > beginning {
            break;
        }
        catalog.forget(&row)?;
    }
    Ok(())
}

/// Which of the segments that the catalog misses are indexed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Those of the folder: the others' footers are a request each.
    Here,
    All,
}

/// Indexes the segments that the catalog misses and forgets those that are gone. `go_on(done, of)` may stop it.
fn reconcile(
    archive: &Archive,
    catalog: &Catalog,
    wanted: Missing,
    mut go_on: impl FnMut(usize, usize) -> bool,
) -> Result<(), Fault> {
    let names = archive.segments()?;
    let mut indexed: BTreeMap<_, _> = catalog.segments()?.into_iter().map(|row| (row.after, row)).collect();
    let mut missing = Vec::new();
    for name in names {
        let here = file_bytes(archive, name)?;
        match indexed.remove(&name.after) {
            // One that was pressed since has its frames elsewhere, and another length.
            Some(row) if Some(row.through) == name.through && here.is_none_or(|here| here == row.bytes) => {}
            other => {
                if let Some(row) = other {
                    catalog.forget(&row)?;
                }
                if here.is_some() || wanted == Missing::All {
                    missing.push(name);
                }
            }
        }
    }
    for gone in indexed.values() {
        catalog.forget(gone)?;
    }
    let count = missing.len();
    let mut done = 0;
    abreast(
        &missing,
        known::width(archive),
        |name| segment_rows(archive, *name),
        |_, rows| {
            if !go_on(done, count) {
                return Ok(false);
            }
            if let Some(rows) = rows? {
                catalog.index(&rows)?;
            }
            done += 1;
            Ok(true)
        },
    )?;
    if done == count {
        go_on(count, count);
    }
    Ok(())
}

/// Builds the catalog anew and says how many segments it holds. Refused while a receiver runs.
pub fn reindex(archive: &Archive, mut progress: impl FnMut(usize, usize)) -> Result<usize, Fault> {
    let _lock = writer::lock(archive)?;
    known::forget_all(archive)?;
    let catalog = Catalog::create(&archive.catalog_folder(), archive.manifest().archive_id.0)?;
    reconcile(archive, &catalog, Missing::All, |done, of| {
        progress(done, of);
        true
    })?;
    catalog.flush()?;
    Ok(catalog.segments()?.len())
}

/// The length of a segment's file; none where it is not in the folder.
pub(super) fn file_bytes(archive: &Archive, name: SegmentName) -> Result<Option<u64>, Fault> {
    let path = archive.segment_path(name);
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk::fault("cannot look at", &path, &error)),
    }
}

pub(super) fn segment_rows(archive: &Archive, name: SegmentName) -> Result<Option<SegmentRows>, Fault> {
    let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(None) };
    let (trailer, footer) = file.sealed(name)?;
    Ok(Some(rows(name, &trailer, &footer, file.size_bytes()?)))
}

pub(super) fn rows(name: SegmentName, trailer: &Trailer, footer: &Footer, bytes: u64) -> SegmentRows {
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
    let tables = footer.relations.iter().map(|relation| TableRow {
        segment: name.after,
        oid: relation.oid,
        name: inspect::table_name(relation),
        inserts: relation.inserts,
        updates: relation.updates,
        deletes: relation.deletes,
        truncates: relation.truncates,
        bytes: relation.bytes,
    });
    let pins = footer.pins.iter().zip(0..).map(|(pin, number)| PinRow {
        segment: name.after,
        number,
        end: pin.end,
        name: pin.name.clone(),
    });
    SegmentRows {
        segment,
        frames,
        tables: tables.collect(),
        relations: versions.collect(),
        pins: pins.collect(),
    }
}

/// What there is to do with a segment.
pub(super) enum Task {
    Sealed(SegmentName),
    /// From others; only its rows are wanted.
    Merged(SegmentName),
}

/// Segments on their way.
pub(super) struct Handed {
    pub(super) sealed: Receiver<Task>,
    /// To where they are brought into the archive's store.
    pub(super) pressed: Sender<SegmentName>,
    /// Sealed earlier, and not in the store yet.
    pub(super) left_over: Vec<SegmentName>,
}

/// The thread, and what it shares with the writer.
pub(super) fn spawn(
    archive: Archive,
    zstd_level: i32,
    handed: Handed,
    closing: Arc<AtomicBool>,
    lock: Arc<std::fs::File>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("sealed".into()).spawn(move || {
        run(&archive, zstd_level, &handed, &closing);
        drop(lock);
    })
}
