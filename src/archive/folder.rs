//! The archive's folder: its manifest and the listing of its segments.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::model::{Fault, Position};
use crate::segment::{Encryption, Keyring, SegmentName};
use crate::store::Store;

use super::copies::Copies;
use super::depot::Depot;
use super::{Location, Manifest, Mark, SegmentFile, cover, depot, disk, indexer};

/// An archive on local disk, or with its sealed segments in a store. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    root: Arc<Path>,
    manifest: Arc<Manifest>,
    stored: Option<Arc<Stored>>,
    keys: Keyring,
}

/// What an archive with a store has besides its folder.
struct Stored {
    depot: Depot,
    copies: Copies,
    spool_bytes_max: u64,
}

const MANIFEST: &str = "manifest.json";
/// How old a listing of the store may be.
const LISTING_AGE: Duration = Duration::from_secs(1);
/// How often it is listed anew where what is found is no log, since some was merged or pruned while it was listed.
const LISTINGS: u32 = 3;

impl Archive {
    /// [`Location::create`] in a folder.
    pub fn create(root: &Path, manifest: Manifest) -> Result<Archive, Fault> {
        Location::folder(root).create(manifest)
    }

    /// [`Location::open`] of a folder.
    pub fn open(root: &Path) -> Result<Archive, Fault> {
        Location::folder(root).open()
    }

    pub(super) fn make(location: &Location, manifest: Manifest) -> Result<Archive, Fault> {
        if let Some(archive) = Archive::find(location)? {
            return archive.unless_another(&manifest);
        }
        let text = manifest.to_json()?;
        let stored = Stored::open(location)?;
        let there = match &stored {
            Some(stored) => Manifest::read(&stored.depot.put_manifest(Bytes::from(text))?)?,
            None => manifest.clone(),
        };
        // Another may have made it at this moment.
        Archive::settle(location, there, stored)?.unless_another(&manifest)
    }

    pub(super) fn find(location: &Location) -> Result<Option<Archive>, Fault> {
        let path = location.folder.join(MANIFEST);
        let here = match std::fs::read(&path) {
            Ok(text) => Some(Manifest::read(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(disk::fault("cannot read", &path, &error)),
        };
        let stored = Stored::open(location)?;
        if stored.is_none() && location.folder.join(depot::WRITERS).exists() {
            return Err(Fault::usage(format!(
                "{} is the store of an archive, not an archive",
                location.folder.display()
            ))
            .hint("give the archive's spool too, with --spool"));
        }
        let Some(kept) = &stored else {
            return Ok(here.map(|manifest| Archive::at(location, manifest, None)));
        };
        let there = kept.depot.manifest()?;
        let there = there.map(|text| Manifest::read(&text)).transpose()?;
        match (here, there) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(Fault::person(format!(
                "{} is the spool of an archive, but there is none in {location}",
                location.folder.display()
            ))
            .hint("check --archive and --spool; what the spool holds is not lost")),
            (None, Some(manifest)) => Archive::settle(location, manifest, stored).map(Some),
            (Some(here), Some(manifest)) if here.archive_id == manifest.archive_id => {
                Ok(Some(Archive::at(location, manifest, stored)))
            }
            (Some(here), Some(manifest)) => Err(Fault::person(format!(
                "the spool {} is of archive {}, but {location} is archive {}",
                location.folder.display(),
                here.archive_id,
                manifest.archive_id
            ))
            .hint("give this archive a spool of its own with --spool")),
        }
    }

    /// Makes the folder.
    fn settle(
        location: &Location,
        manifest: Manifest,
        stored: Option<Arc<Stored>>,
    ) -> Result<Archive, Fault> {
        let root = location.folder.as_path();
        for folder in [root, &root.join("segments"), &root.join("catalog")] {
            disk::create_folder(folder)?;
        }
        disk::write_once(root, MANIFEST, manifest.to_json()?.as_bytes())
            .map_err(|error| disk::fault("cannot write the manifest in", root, &error))?;
        Ok(Archive::at(location, manifest, stored))
    }

    fn at(location: &Location, manifest: Manifest, stored: Option<Arc<Stored>>) -> Archive {
        Archive {
            root: location.folder.as_path().into(),
            manifest: manifest.into(),
            stored,
            keys: location.keys.clone(),
        }
    }

    fn unless_another(self, manifest: &Manifest) -> Result<Archive, Fault> {
        match self.manifest.difference(manifest) {
            Some(difference) => Err(Fault::person(format!(
                "the archive {} is another source's: {difference}",
                self.root.display()
            ))
            .hint("give another --archive or --name")),
            None => Ok(self),
        }
    }

    /// The source's timeline in the newest segment; none where there is no segment.
    pub fn timeline(&self) -> Result<Option<u32>, Fault> {
        for name in self.listing()?.into_iter().rev() {
            match SegmentFile::open(self, name) {
                Ok(Some(file)) => return Ok(Some(file.header().timeline)),
                Ok(None) => {}
                // A crash may have left it without its header; recovery looks at it.
                Err(_) if name.through.is_none() => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// How a segment is to be written. Each that is begun, and each that is written anew, asks for its own.
    pub(super) fn encryption(&self) -> Result<Option<Encryption>, Fault> {
        Ok(Encryption::new(&self.keys, disk::random()?))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn segments_folder(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub fn segment_path(&self, name: SegmentName) -> PathBuf {
        self.segments_folder().join(name.to_string())
    }

    /// Whether a receiver holds the archive's lock. The lock is shared for an instant to find out, never kept.
    pub fn has_receiver(&self) -> Result<bool, Fault> {
        let path = self.root.join("lock");
        let fault = |error: &io::Error| disk::fault("cannot look at", &path, error);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fault(&error)),
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(fault(&error)),
            },
        }
    }

    pub fn catalog_folder(&self) -> PathBuf {
        self.root.join("catalog")
    }

    /// Where a receiver keeps what is not of the log yet. Only whoever holds the archive's lock may look there.
    pub fn spool_folder(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Makes a folder in the archive's own. Where that is away it is not made anew: it would be in the way of the one that comes back.
    pub(crate) fn make_folder(&self, path: &Path) -> Result<(), Fault> {
        match self.root.join(MANIFEST).try_exists() {
            Ok(false) => Err(Fault::retry(format!("the archive's folder {} is away", self.root.display()))),
            Ok(true) => disk::create_folder(path),
            Err(error) => Err(disk::fault("cannot look into", &self.root, &error)),
        }
    }

    /// The sealed segments, sorted. That each begins where the one before it ends is for
    /// [`Archive::check_contiguous`] to say.
    pub fn segments(&self) -> Result<Vec<SegmentName>, Fault> {
        Ok(self.listing()?.into_iter().filter(|name| name.through.is_some()).collect())
    }

    /// All segments, sorted, whether they are in the folder, in the store or in both: the open one comes last where all is well. Those that a
    /// wider one covers are left out.
    pub fn listing(&self) -> Result<Vec<SegmentName>, Fault> {
        for attempt in 0..LISTINGS {
            let names = self.list_once()?;
            if cover::is_regular(&names) {
                return Ok(names);
            }
            std::thread::sleep(Duration::from_millis(2 << attempt));
        }
        let mut names = self.list_once()?;
        if let Some(pruned) = self.pruned_through()? {
            cover::forget_pruned(&mut names, pruned);
        }
        Ok(names)
    }

    /// How far the log goes that is durable here.
    pub fn end(&self) -> Result<Position, Fault> {
        let Some(last) = self.listing()?.last().copied() else { return Ok(self.manifest().start) };
        if let Some(through) = last.through {
            return Ok(through);
        }
        let mark = Mark::read(&self.root).map_err(|error| disk::fault("cannot read", &self.root, &error))?;
        // It may have been sealed since it was listed.
        let mark = mark.filter(|mark| mark.segment >= last.after);
        Ok(mark.map_or(last.after, |mark| mark.position))
    }

    fn list_once(&self) -> Result<Vec<SegmentName>, Fault> {
        // First the store: which copies in the folder are of the log depends on it.
        let mut names = self.depot().map_or(Ok(Vec::new()), |depot| depot.segments(LISTING_AGE))?;
        names.extend(self.folder_listing()?);
        Ok(cover::uncovered(names))
    }

    /// Those that are in the folder, sorted, without those that a wider one covers, and without copies of what the store was seen to have no more.
    pub(super) fn folder_listing(&self) -> Result<Vec<SegmentName>, Fault> {
        let mut names = self.folder_names()?;
        if let Some(depot) = self.depot() {
            names.retain(|name| !depot.begins_behind(*name));
        }
        Ok(cover::uncovered(names))
    }

    /// All that are in the folder, sorted.
    pub(super) fn folder_names(&self) -> Result<Vec<SegmentName>, Fault> {
        let folder = self.segments_folder();
        // There was an archive: its disk may be mounted again.
        let fault = |error: &io::Error| match error.kind() {
            io::ErrorKind::NotFound => Fault::retry(format!("cannot list {}: {error}", folder.display())),
            _ => disk::fault("cannot list", &folder, error),
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(|error| fault(&error))? {
            let file = entry.map_err(|error| fault(&error))?.file_name();
            let text = file.to_string_lossy();
            match SegmentName::parse(&text) {
                Some(name) => names.push(name),
                None if text.ends_with(".seg") || text.ends_with(".open") => {
                    return Err(Fault::person(format!(
                        "{text} in {} is no name of a segment",
                        folder.display()
                    ))
                    .hint("a segment was renamed; its right name is the range in its header and trailer"));
                }
                None => {}
            }
        }
        names.sort_by_key(order);
        Ok(names)
    }

    /// The length of a segment, wherever it is; of an open one how long its file is. `None` where it is gone.
    pub fn size_bytes(&self, name: SegmentName) -> Result<Option<u64>, Fault> {
        let here = indexer::file_bytes(self, name)?;
        Ok(here.or_else(|| self.depot().and_then(|depot| depot.size_bytes(name))))
    }

    /// Whether the store was seen to have a segment.
    pub(crate) fn is_stored(&self, name: SegmentName) -> bool {
        self.depot().is_some_and(|depot| depot.size_bytes(name).is_some())
    }

    /// The first segment of a listing that the folder has and that the store's log has passed by: the folder is a spool that was
    /// left behind. Where the log in the store ends comes with it.
    pub(super) fn passed_by(&self, names: &[SegmentName]) -> Option<(SegmentName, Position)> {
        let end = self.depot()?.end()?;
        let depot = self.depot()?;
        let name = names.iter().find(|name| name.after < end && !depot.holds(**name))?;
        Some((*name, end))
    }

    /// Two segments that can't both be of the log.
    pub(super) fn overlap(&self, one: SegmentName, other: SegmentName) -> Fault {
        match self.passed_by(&[one, other]) {
            Some((name, end)) => left_behind(self, name, end),
            None => Fault::person(format!("segments {one} and {other} overlap"))
                .hint("one of them is a copy or another archive's"),
        }
    }

    /// Where the log begins: at its start, or where it was pruned up to.
    pub fn beginning(&self) -> Result<Position, Fault> {
        Ok(self.listing()?.first().map_or(self.manifest.start, |name| name.after))
    }

    /// The archive's part in its store, if it has one.
    pub(super) fn depot(&self) -> Option<&Depot> {
        self.stored.as_ref().map(|stored| &stored.depot)
    }

    pub fn has_store(&self) -> bool {
        self.stored.is_some()
    }

    /// Where the log in the store ends; none where there is no store, or nothing in it. Blocks on the network.
    pub fn stored_through(&self) -> Result<Option<Position>, Fault> {
        let Some(depot) = self.depot() else { return Ok(None) };
        depot.look()?;
        Ok(depot.end())
    }

    /// The same as it was seen last, which is how it is where this process brings the segments. Asks nobody.
    pub fn stored_as_seen(&self) -> Option<Position> {
        self.depot().and_then(|depot| depot.end())
    }

    /// How many bytes of sealed segments the folder may hold where there is a store.
    pub(super) fn spool_bytes_max(&self) -> u64 {
        self.stored.as_ref().map_or(u64::MAX, |stored| stored.spool_bytes_max)
    }

    /// Brings a sealed segment that only the store has into the folder, and the next one behind the scenes. One that is gone is not brought.
    pub(super) fn bring(&self, name: SegmentName, next_too: bool) -> Result<(), Fault> {
        let Some(stored) = &self.stored else { return Ok(()) };
        if stored.depot.size_bytes(name).is_some()
            && let Err(fault) = stored.copies.bring(self, &stored.depot, name)
            // Else it was found to be pruned, or merged with others.
            && stored.depot.size_bytes(name).is_some()
        {
            return Err(fault);
        }
        if next_too {
            Copies::bring_next(self, &stored.depot, name);
        }
        Ok(())
    }

    /// So many bytes of sealed segments are in the folder that may be removed again, where it holds too many.
    pub(super) fn evict(&self, added: u64) {
        if let Some(stored) = &self.stored {
            stored.copies.evict(self, &stored.depot, None, added);
        }
    }

    /// Removes what the store has of it; the folder is for the caller to remove.
    pub fn remove_stored(&self) -> Result<(), Fault> {
        self.depot().map_or(Ok(()), Depot::remove_all)
    }

    /// Refuses a listing with a gap, an overlap, or an open segment that is not the last.
    pub fn check_contiguous(names: &[SegmentName]) -> Result<(), Fault> {
        for pair in names.windows(2) {
            let [one, next] = pair else { continue };
            match one.through {
                Some(through) if through == next.after => {}
                Some(through) if through < next.after => return Err(gap(through, *next)),
                _ => {
                    return Err(Fault::person(format!("segments {one} and {next} overlap"))
                        .hint("one of them is a copy or another archive's"));
                }
            }
        }
        Ok(())
    }
}

impl Stored {
    fn open(location: &Location) -> Result<Option<Arc<Stored>>, Fault> {
        let Some(place) = &location.store else { return Ok(None) };
        let depot = Depot::new(Store::open(place)?);
        let copies = Copies::default();
        Ok(Some(Arc::new(Stored { depot, copies, spool_bytes_max: location.spool_bytes_max })))
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("root", &self.root).finish_non_exhaustive()
    }
}

fn order(name: &SegmentName) -> (Position, Position) {
    (name.after, name.through.unwrap_or(Position(u64::MAX)))
}

/// A spool has a segment that is not of the log.
pub(super) fn left_behind(archive: &Archive, name: SegmentName, end: Position) -> Fault {
    Fault::person(format!(
        "another receiver has extended this archive up to {end}, and the spool {} has {name}, which is not of it",
        archive.root().display()
    ))
    .hint("give a new --spool; keep the old one until `archive verify` finds the archive sound with the new one")
}

/// The log misses what lies between `end` and the segment `next`.
pub(super) fn gap(end: Position, next: SegmentName) -> Fault {
    Fault::person(format!(
        "the log has a gap: it ends at {end} and goes on with segment {next} after {}",
        next.after
    ))
    .hint("restore the missing segments from a copy")
}
