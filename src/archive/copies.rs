//! Copies, in the spool, of segments that the store has: brought whole when they are read, the next while one is, and removed again
//! where there are too many.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::model::{Fault, Position};
use crate::segment::SegmentName;

use super::depot::Depot;
use super::{Archive, disk};

/// What the name of a file ends in that is being brought.
const STAGED: &str = ".part";

/// Segments that are on their way, so that nobody brings one twice.
#[derive(Default)]
pub(super) struct Copies {
    coming: Mutex<BTreeSet<SegmentName>>,
    came: Condvar,
}

impl Copies {
    fn coming(&self) -> MutexGuard<'_, BTreeSet<SegmentName>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a sealed segment into the spool, if it is not there. Blocks on the network.
    pub(super) fn bring(&self, archive: &Archive, depot: &Depot, name: SegmentName) -> Result<(), Fault> {
        let path = archive.segment_path(name);
        loop {
            let mut coming = self.coming();
            if path.exists() {
                return Ok(());
            }
            if coming.insert(name) {
                break;
            }
            drop(self.came.wait(coming));
        }
        let brought = download(archive, depot, name);
        self.coming().remove(&name);
        self.came.notify_all();
        brought?;
        tracing::debug!(segment = %name, "brought a segment from the store");
        evict(archive, depot, name.after)
    }

    /// Begins to bring the segment that follows this one.
    pub(super) fn bring_next(archive: &Archive, depot: &Depot, name: SegmentName) {
        let next = depot.next(name.through.unwrap_or(name.after));
        let Some(next) = next.filter(|next| !archive.segment_path(*next).exists()) else { return };
        let archive = archive.clone();
        let bringing = std::thread::Builder::new().name("copies".into()).spawn(move || {
            if let Err(error) = archive.bring(next, false) {
                tracing::debug!(%error, segment = %next, "could not bring a segment ahead of its time");
            }
        });
        // Who reads it brings it himself then.
        drop(bringing);
    }
}

fn download(archive: &Archive, depot: &Depot, name: SegmentName) -> Result<(), Fault> {
    let path = archive.segment_path(name);
    let staged = archive.segments_folder().join(format!("{name}.{}{STAGED}", std::process::id()));
    let fault = |error: std::io::Error| disk::fault("cannot write", &staged, &error);
    let mut file = disk::open_or_create(&staged).map_err(fault)?;
    let mut write = || {
        file.set_len(0).map_err(fault)?;
        depot.download(name, &mut file)?;
        // A name that a crash of the machine left without its bytes would be taken for damage.
        file.sync_all().map_err(fault)?;
        std::fs::rename(&staged, &path).map_err(fault)
    };
    write().inspect_err(|_| {
        // The next start of a receiver removes it where this fails.
        let _ = std::fs::remove_file(&staged);
    })
}

/// Removes copies, oldest first, until the spool holds no more than it may; none of those from a position on.
pub(super) fn evict(archive: &Archive, depot: &Depot, keep_from: Position) -> Result<(), Fault> {
    let mut held = Vec::new();
    for name in archive.folder_names()?.into_iter().filter(|name| name.through.is_some()) {
        match std::fs::metadata(archive.segment_path(name)) {
            Ok(metadata) => held.push((name, metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(disk::fault("cannot look at", &archive.segment_path(name), &error)),
        }
    }
    let mut total: u64 = held.iter().map(|(_, bytes)| bytes).sum();
    for (name, bytes) in held {
        if total <= archive.spool_bytes_max() || name.through > Some(keep_from) {
            break;
        }
        if depot.size_bytes(name).is_none() && !depot.begins_behind(name) {
            continue;
        }
        disk::remove(&archive.segment_path(name))?;
        total = total.saturating_sub(bytes);
    }
    Ok(())
}

/// Whether a file is what somebody who is gone has left of a copy.
pub(super) fn is_left_over(file: &str) -> bool {
    let named = file.strip_suffix(STAGED).and_then(|rest| rest.rsplit_once('.'));
    let process = named.filter(|(name, _)| SegmentName::parse(name).is_some());
    let process = process.and_then(|(_, process)| rustix::process::Pid::from_raw(process.parse().ok()?));
    process.is_some_and(|process| rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH))
}
