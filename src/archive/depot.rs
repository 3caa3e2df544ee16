//! The archive's part in a store: which objects it has there, and which of them are the log.
//!
//! ```text
//! PREFIX/manifest.json            as in the folder; put once
//!        writers/EPOCH.json       who extends the log, and from where on; put once
//!        segments/EPOCH/NAME      sealed segments, as they are in the folder
//!        appliers/, pins/, pruned.json     see `holds`
//! ```
//!
//! A receiver with another spool than the last one's *claims* the log before it adds to it: it puts the next epoch, with the end of
//! the log as it found it. From there on only segments of its epoch count, and only one writer can put an epoch. So
//! a receiver that was thought dead may wake and go on to upload: nobody will take notice, and it learns of the claim before its
//! next upload. That is also why segments need not be put once.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{Fault, Position};
use crate::segment::SegmentName;
use crate::store::{Put, Store};

use super::ArchiveId;

const MANIFEST: &str = "manifest.json";
const WRITERS: &str = "writers";
const SEGMENTS: &str = "segments";

/// An epoch's object: whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    writer: ArchiveId,
    /// The log as this writer found it ended here.
    after: Position,
}

/// What was seen in the store.
#[derive(Default)]
struct Known {
    /// Epochs are counted from 1.
    claims: Vec<Claim>,
    /// The log's segments, each with its epoch and its length.
    segments: BTreeMap<SegmentName, (usize, u64)>,
    looked: Option<Instant>,
}

pub(super) struct Depot {
    store: Store,
    known: Mutex<Known>,
    /// Held while the store is looked at, which may take as long as its time-outs.
    looking: Mutex<()>,
    /// What is added to the log is added by this process.
    is_ours: AtomicBool,
}

impl Depot {
    pub(super) fn new(store: Store) -> Depot {
        Depot { store, known: Mutex::default(), looking: Mutex::default(), is_ours: AtomicBool::new(false) }
    }

    pub(super) fn manifest(&self) -> Result<Option<Bytes>, Fault> {
        self.store.get(MANIFEST)
    }

    /// Gives the one that is there in the end, which may be another's.
    pub(super) fn put_manifest(&self, manifest: Bytes) -> Result<Bytes, Fault> {
        match self.store.put_once(MANIFEST, manifest.clone())? {
            Put::Done => Ok(manifest),
            Put::Exists => self
                .manifest()?
                .ok_or_else(|| Fault::retry("the archive's manifest comes and goes in its store")),
        }
    }

    /// The log's segments in the store, as they were at most so long ago.
    pub(super) fn segments(&self, age_max: Duration) -> Result<Vec<SegmentName>, Fault> {
        let age = self.known().looked.map(|looked| looked.elapsed());
        let is_ours = self.is_ours.load(Ordering::Acquire);
        if age.is_none_or(|age| age >= age_max && !is_ours) {
            self.look()?;
        }
        Ok(self.known().segments.keys().copied().collect())
    }

    /// Where the log in the store ends, as last seen; none where it has no segment.
    pub(super) fn end(&self) -> Option<Position> {
        self.known().segments.last_key_value().and_then(|(name, _)| name.through)
    }

    /// Whether the log, as last seen, begins behind a segment: then what a folder has of it is a copy that was left.
    pub(super) fn begins_behind(&self, name: SegmentName) -> bool {
        let known = self.known();
        known
            .segments
            .first_key_value()
            .is_some_and(|(first, _)| name.through.is_some_and(|end| end <= first.after))
    }

    /// The length of a segment that the store was seen to have.
    pub(super) fn size_bytes(&self, name: SegmentName) -> Option<u64> {
        self.known().segments.get(&name).map(|(_, bytes)| *bytes)
    }

    pub(super) fn range(&self, name: SegmentName, offset: u64, length: usize) -> Result<Bytes, Fault> {
        let range = self.store.range(&self.key(name)?, offset, length)?;
        range.ok_or_else(|| self.forget_through(name))
    }

    /// Writes the segment to a file.
    pub(super) fn download(&self, name: SegmentName, file: &mut File) -> Result<(), Fault> {
        let size = self.store.download(&self.key(name)?, file)?;
        size.map(|_| ()).ok_or_else(|| self.forget_through(name))
    }

    /// Removes the log's first segment.
    pub(super) fn remove_first(&self, name: SegmentName) -> Result<(), Fault> {
        self.store.delete(&self.key(name)?)?;
        self.forget_through(name);
        Ok(())
    }

    /// A segment is gone, and so are those before it, since only the log's first is ever removed.
    fn forget_through(&self, name: SegmentName) -> Fault {
        self.known().segments.retain(|other, _| *other > name);
        gone(name)
    }

    /// The segment that begins there, as last seen.
    pub(super) fn next(&self, after: Position) -> Option<SegmentName> {
        let known = self.known();
        let mut from = known.segments.range(SegmentName::open(after)..);
        from.next().map(|(name, _)| *name).filter(|name| name.after == after)
    }

    /// Makes sure that the log is this writer's to extend from `after` on, which must be its end.
    pub(super) fn claim(&self, writer: ArchiveId, after: Position) -> Result<(), Fault> {
        self.look()?;
        let (last, epoch) = {
            let known = self.known();
            (known.claims.last().cloned(), known.claims.len() + 1)
        };
        if last.is_none_or(|last| last.writer != writer) {
            if let Some(end) = self.end().filter(|end| *end != after) {
                return Err(taken(end));
            }
            let claim = Claim { writer, after };
            let text = serde_json::to_vec(&claim)
                .map_err(|error| Fault::stop(format!("cannot write a claim: {error}")))?;
            match self.store.put_once(&claim_key(epoch), text.into())? {
                Put::Done => self.known().claims.push(claim),
                Put::Exists => return Err(taken(after)),
            }
        }
        self.is_ours.store(true, Ordering::Release);
        Ok(())
    }

    /// Brings a segment into the store. Refused where another writer has claimed the log meanwhile.
    pub(super) fn upload(&self, writer: ArchiveId, name: SegmentName, path: &Path) -> Result<(), Fault> {
        self.look()?;
        let (last, epoch) = {
            let known = self.known();
            (known.claims.last().cloned(), known.claims.len())
        };
        if last.as_ref().is_none_or(|last| last.writer != writer) {
            return Err(taken(last.map_or(name.after, |last| last.after)));
        }
        let bytes = self.store.upload(&segment_key(epoch, name), path)?;
        self.known().segments.insert(name, (epoch, bytes));
        Ok(())
    }

    /// Removes what broken uploads have left where the store is a folder.
    pub(super) fn sweep(&self) -> Result<(), Fault> {
        self.store.sweep().map(|_| ())
    }

    /// Removes everything, the manifest last.
    pub(super) fn remove(&self) -> Result<(), Fault> {
        for folder in [SEGMENTS, WRITERS, ""] {
            for object in self.store.list(folder, None)? {
                self.store.delete(&object.key)?;
            }
        }
        Ok(())
    }

    /// Where what is not a segment is kept.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, name: SegmentName) -> Result<String, Fault> {
        let known = self.known();
        let (epoch, _) = known.segments.get(&name).ok_or_else(|| gone(name))?;
        Ok(segment_key(*epoch, name))
    }

    /// Takes in what is new in the store.
    pub(super) fn look(&self) -> Result<(), Fault> {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.known().claims.len();
        let last = claim_key(seen);
        for object in self.store.list(WRITERS, (seen > 0).then_some(last.as_str()))? {
            let epoch = self.known().claims.len() + 1;
            let text = match object.key == claim_key(epoch) {
                true => self.store.get(&object.key)?,
                false => None,
            };
            let claim = text.and_then(|text| serde_json::from_slice::<Claim>(&text).ok());
            let claim = claim.ok_or_else(|| {
                Fault::person(format!("{} in the archive's store is no claim {epoch}", object.key))
                    .hint("restore it from a copy, or remove what does not belong there")
            })?;
            let mut known = self.known();
            known.segments.retain(|name, _| name.after < claim.after);
            known.claims.push(claim);
        }
        let claims = self.known().claims.clone();
        for (number, claim) in claims.iter().enumerate().skip(seen.saturating_sub(1)) {
            let until = claims.get(number + 1).map_or(Position(u64::MAX), |next| next.after);
            self.look_at(number + 1, claim.after..until)?;
        }
        self.known().looked = Some(Instant::now());
        Ok(())
    }

    /// Takes in the segments of an epoch that were not seen yet and begin in that range.
    fn look_at(&self, epoch: usize, begins: Range<Position>) -> Result<(), Fault> {
        let last = {
            let known = self.known();
            known.segments.iter().rev().find(|(_, (of, _))| *of == epoch).map(|(name, _)| *name)
        };
        let last = last.map(|name| segment_key(epoch, name));
        let folder = segment_folder(epoch);
        let objects = self.store.list(&folder, last.as_deref())?;
        let named = objects.into_iter().filter_map(|object| {
            // What a cut upload has left, under other names, is not of the log.
            let name = object.key.strip_prefix(&folder)?.strip_prefix('/').and_then(SegmentName::parse)?;
            (name.through.is_some() && begins.contains(&name.after))
                .then_some((name, (epoch, object.size_bytes)))
        });
        self.known().segments.extend(named);
        Ok(())
    }
}

fn claim_key(epoch: usize) -> String {
    format!("{WRITERS}/{epoch:08}.json")
}

fn segment_folder(epoch: usize) -> String {
    format!("{SEGMENTS}/{epoch:08}")
}

fn segment_key(epoch: usize, name: SegmentName) -> String {
    format!("{}/{name}", segment_folder(epoch))
}

fn gone(name: SegmentName) -> Fault {
    Fault::retry(format!("segment {name} is not in the archive's store any more"))
}

/// Another receiver has the log.
fn taken(after: Position) -> Fault {
    Fault::person(format!("another receiver, with another spool, extends this archive from {after} on"))
        .hint("let only one receiver run; this one's spool has nothing that the source will not send again to the other")
}
