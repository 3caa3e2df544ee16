//! Copies, in the spool, of segments that the store has: brought whole when they are read, the next while one is, and removed again
//! where there are too many.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::model::Fault;
use crate::segment::SegmentName;

use super::depot::Depot;
use super::{Archive, ArchiveId, disk};

/// What the name of a file ends in that is being brought, or merged from others.
const STAGED: &str = ".part";
/// How often the spool is looked through while it is filled once.
const LOOKS: u64 = 16;

/// Segments that are on their way, so that nobody brings one twice.
#[derive(Default)]
pub(super) struct Copies {
    /// What earlier ones have left was looked for.
    swept: OnceLock<()>,
    coming: Mutex<BTreeSet<SegmentName>>,
    came: Condvar,
    /// Bytes of sealed segments that the spool holds at most, unless others bring some too; none before they were counted.
    held: Mutex<Option<Held>>,
}

#[derive(Clone, Copy)]
struct Held {
    bytes: u64,
    /// Of them, what came since they were counted.
    since: u64,
}

impl Copies {
    fn coming(&self) -> MutexGuard<'_, BTreeSet<SegmentName>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a sealed segment into the spool, if it is not there. Blocks on the network.
    pub(super) fn bring(&self, archive: &Archive, depot: &Depot, name: SegmentName) -> Result<(), Fault> {
        let path = archive.segment_path(name);
        self.swept.get_or_init(|| sweep(archive));
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
        self.evict(archive, depot, Some(name), depot.size_bytes(name).unwrap_or_default());
        Ok(())
    }

    /// One more segment is in the spool. Looks through the spool where it may hold too much now, or may do so because of others.
    pub(super) fn evict(&self, archive: &Archive, depot: &Depot, read: Option<SegmentName>, added: u64) {
        let limit = archive.spool_bytes_max();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = held.map(|held| Held { bytes: held.bytes + added, since: held.since + added });
        let may_do = now.filter(|now| now.bytes <= limit && now.since <= limit / LOOKS);
        *held = may_do.or_else(|| evict(archive, depot, read).map(|bytes| Held { bytes, since: 0 }));
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

/// Where a file is written that is to become a segment. Locked while somebody is at it.
pub(super) fn staged_path(archive: &Archive, name: SegmentName) -> Result<PathBuf, Fault> {
    Ok(archive.segments_folder().join(format!("{name}.{}{STAGED}", ArchiveId::random()?)))
}

fn download(archive: &Archive, depot: &Depot, name: SegmentName) -> Result<(), Fault> {
    let path = archive.segment_path(name);
    let staged = staged_path(archive, name)?;
    let fault = |error: std::io::Error| disk::fault("cannot write", &staged, &error);
    let mut file = disk::create_new(&staged).map_err(fault)?;
    let mut write = || {
        // Held as long as somebody is at it.
        file.lock().map_err(fault)?;
        depot.download(name, &mut file)?;
        // A name that a crash of the machine left without its bytes would be taken for damage.
        file.sync_all().map_err(fault)?;
        std::fs::rename(&staged, &path).map_err(fault)
    };
    write().inspect_err(|_| {
        // Where this fails it is swept away later.
        let _ = std::fs::remove_file(&staged);
    })
}

/// Removes copies, oldest first, until the spool holds no more than it may; but not one that is being read, nor its neighbours. Others may do
/// the same at this moment, and what can't be removed stays.
/// Says how many bytes are left.
fn evict(archive: &Archive, depot: &Depot, read: Option<SegmentName>) -> Option<u64> {
    let names = archive.folder_names();
    let names =
        names.inspect_err(|error| tracing::warn!(%error, "the spool's copies can't be looked through"));
    let names = names.ok()?;
    let sealed = names.into_iter().filter(|name| name.through.is_some());
    let length = |name: &SegmentName| std::fs::metadata(archive.segment_path(*name)).map(|file| file.len());
    let held: Vec<_> = sealed.filter_map(|name| Some((name, length(&name).ok()?))).collect();
    let mut total: u64 = held.iter().map(|(_, bytes)| bytes).sum();
    for (name, bytes) in held {
        if total <= archive.spool_bytes_max() {
            break;
        }
        let is_near =
            read.is_some_and(|read| name.through >= Some(read.after) && Some(name.after) <= read.through);
        if is_near || (!depot.holds(name) && !depot.begins_behind(name)) {
            continue;
        }
        match std::fs::remove_file(archive.segment_path(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, segment = %name, "a copy can't be removed from the spool");
            }
            _ => total = total.saturating_sub(bytes),
        }
    }
    Some(total)
}

/// Removes what a crash has left of segments that were being brought or merged.
pub(super) fn sweep(archive: &Archive) {
    for entry in std::fs::read_dir(archive.segments_folder()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let named = name.strip_suffix(STAGED).and_then(|rest| rest.rsplit_once('.'));
        let is_ours = named.is_some_and(|(name, _)| SegmentName::parse(name).is_some());
        let is_left = || disk::open_to_write(&entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if is_ours && is_left() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
