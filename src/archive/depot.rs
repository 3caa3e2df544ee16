//! The archive's part in a store: which objects it has there, and which of them are the log.
//!
//! ```text
//! PREFIX/manifest.json            as in the folder; put once
//!        writers/EPOCH.json       who may extend the log from now on; put once
//!        begins/EPOCH.json        from where; put once, by that writer
//!        segments/EPOCH/NAME      sealed segments, as they are in the folder
//!        appliers/, pins/, pruned.json     see `holds`
//! ```
//!
//! A receiver with another spool than the last one's *claims* the log before it adds to it, in two steps: it puts the next epoch, and
//! only then looks where the log ends and puts that as the epoch's beginning. Who has uploaded a segment looks at the epochs once
//! more before that counts. So of any upload one of two things is true: it was there when a later claim looked for the end, and is of
//! the log; or its writer has found the claim and confirms nothing of it. From an epoch's beginning on no segment of an earlier epoch counts, whatever a
//! receiver that was thought dead still brings. Readers look at the epochs after the segments too, and take nothing new while a claim has
//! no beginning yet.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::faults;
use crate::model::{Fault, Position};
use crate::segment::SegmentName;
use crate::store::{Put, Store};

use super::{ArchiveId, base, cover, holds};

const MANIFEST: &str = "manifest.json";
pub(super) const WRITERS: &str = "writers";
const BEGINS: &str = "begins";
const SEGMENTS: &str = "segments";
/// How often the segments are listed anew where those that are found are no log: some were merged or pruned between two pages of a listing.
const LISTINGS: usize = 3;

/// `writers/EPOCH.json`.
#[derive(Serialize, Deserialize)]
struct Writer {
    writer: ArchiveId,
}

/// `begins/EPOCH.json`: the log as the epoch's writer found it ended here.
#[derive(Serialize, Deserialize)]
struct Begin {
    after: Position,
}

/// A claim to the log. Epochs are counted from 1.
#[derive(Clone)]
struct Epoch {
    writer: ArchiveId,
    begin: Option<Position>,
    /// All its segments were listed when a later epoch had begun.
    is_closed: bool,
}

/// A segment's object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) epoch: usize,
    pub(super) bytes: u64,
    /// When it came into the store, in seconds since 1970.
    pub(super) since: i64,
}

/// What was seen in the store.
#[derive(Clone, Default)]
struct Known {
    epochs: Vec<Epoch>,
    /// The log's segments.
    segments: BTreeMap<SegmentName, Stored>,
    /// Others that were of the log, and may be there still: a wider one has what they hold, or they were to be pruned.
    left_over: BTreeMap<SegmentName, Stored>,
    looked: Option<Instant>,
}

impl Known {
    /// Whether a segment of an epoch is of the log.
    fn counts(&self, epoch: usize, name: SegmentName) -> bool {
        let mut from = self.epochs.iter().skip(epoch.saturating_sub(1)).map(|epoch| epoch.begin);
        let own = from.next().flatten();
        own.is_some_and(|own| name.after >= own) && from.flatten().all(|later| name.after < later)
    }

    fn end(&self) -> Option<Position> {
        self.segments.last_key_value().and_then(|(name, _)| name.through)
    }

    fn is_regular(&self) -> bool {
        let mut names = self.segments.keys().zip(self.segments.keys().skip(1));
        names.all(|(one, next)| one.through == Some(next.after))
    }

    /// Leaves only those that count.
    fn settle(&mut self, counts: impl FnOnce(Vec<SegmentName>) -> Vec<SegmentName>) {
        let mut all = std::mem::take(&mut self.segments);
        let counted = counts(all.keys().copied().collect());
        self.segments = counted.into_iter().filter_map(|name| all.remove_entry(&name)).collect();
        self.left_over.extend(all);
    }

    /// Takes in a segment, and leaves out what it covers.
    fn widen(&mut self, name: SegmentName, stored: Stored) {
        let from = self.segments.range(SegmentName::open(name.after)..).map(|(part, _)| *part);
        let covered: Vec<_> = from.take_while(|part| cover::covers(name, *part)).collect();
        for part in covered {
            self.left_over.extend(self.segments.remove_entry(&part));
        }
        self.segments.insert(name, stored);
    }

    /// The segment that holds all that this one does: itself, or one that it was merged into.
    fn holder(&self, name: SegmentName) -> Option<SegmentName> {
        let before = SegmentName { through: Some(Position(u64::MAX)), ..name };
        let (holder, _) = self.segments.range(..=before).next_back()?;
        cover::covers(*holder, name).then_some(*holder)
    }

    fn forget_segments(&mut self) {
        self.segments.clear();
        self.left_over.clear();
        self.epochs.iter_mut().for_each(|epoch| epoch.is_closed = false);
    }

    fn is_held_by(&self, writer: ArchiveId) -> bool {
        self.epochs.last().is_some_and(|last| last.writer == writer)
    }
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
        self.known().end()
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
        self.stored(name).map(|stored| stored.bytes)
    }

    /// A segment of the log, as last seen.
    pub(super) fn stored(&self, name: SegmentName) -> Option<Stored> {
        self.known().segments.get(&name).copied()
    }

    /// Whether the store was seen to have all that a sealed segment holds, be it merged with others.
    pub(super) fn holds(&self, name: SegmentName) -> bool {
        self.known().holder(name).is_some()
    }

    /// Whether a segment would be of the log if the last writer brought it.
    pub(super) fn counts_now(&self, name: SegmentName) -> bool {
        let known = self.known();
        known.counts(known.epochs.len(), name)
    }

    /// Whether this process extends the log.
    pub(super) fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::Acquire)
    }

    /// What may be there still and is no part of the log any more, oldest first.
    pub(super) fn left_over(&self) -> Vec<SegmentName> {
        self.known().left_over.keys().copied().collect()
    }

    /// Puts a segment that was merged from others of that epoch, which counts as they do, beside them, unless another has done that. `true`: with
    /// these bytes.
    pub(super) fn put_merged(&self, epoch: usize, name: SegmentName, merged: Bytes) -> Result<bool, Fault> {
        let (key, mut bytes) = (segment_key(epoch, name), merged.len() as u64);
        let is_this = self.store.put_once(&key, merged)? == Put::Done;
        if !is_this {
            bytes = self.store.size(&key)?.ok_or_else(|| gone(name))?;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.known().widen(name, Stored { epoch, bytes, since: now.as_secs() as i64 });
        Ok(is_this)
    }

    pub(super) fn range(&self, name: SegmentName, offset: u64, length: usize) -> Result<Bytes, Fault> {
        let range = self.store.range(&self.key(name)?, offset, length)?;
        range.ok_or_else(|| self.miss(name))
    }

    /// Writes the segment to a file.
    pub(super) fn download(&self, name: SegmentName, file: &mut File) -> Result<(), Fault> {
        let size = self.store.download(&self.key(name)?, file)?;
        size.map(|_| ()).ok_or_else(|| self.miss(name))
    }

    /// Removes the log's first segment, or one that is no part of the log any more.
    pub(super) fn remove(&self, name: SegmentName) -> Result<(), Fault> {
        let stored = {
            let known = self.known();
            known.segments.get(&name).or_else(|| known.left_over.get(&name)).copied()
        };
        let Some(stored) = stored else { return Ok(()) };
        self.store.delete(&segment_key(stored.epoch, name))?;
        let mut known = self.known();
        known.segments.remove(&name);
        known.left_over.remove(&name);
        Ok(())
    }

    /// A segment is gone: it was pruned with all before it, or merged with others.
    fn miss(&self, name: SegmentName) -> Fault {
        self.look_anew().err().unwrap_or_else(|| gone(name))
    }

    /// The segment that begins there, as last seen.
    pub(super) fn next(&self, after: Position) -> Option<SegmentName> {
        let known = self.known();
        let mut from = known.segments.range(SegmentName::open(after)..);
        from.next().map(|(name, _)| *name).filter(|name| name.after == after)
    }

    /// Whether the last claim is this writer's, and whole.
    pub(super) fn is_held_by(&self, writer: ArchiveId) -> Result<bool, Fault> {
        self.look()?;
        let known = self.known();
        Ok(known.is_held_by(writer) && known.epochs.last().is_some_and(|last| last.begin.is_some()))
    }

    /// Makes sure that the log is this writer's to extend from `after` on, which must be its end. Only for who holds the source's slot,
    /// or has the claim already.
    pub(super) fn claim(&self, writer: ArchiveId, after: Position) -> Result<(), Fault> {
        if !self.is_held_by(writer)? {
            let (is_ours, epoch, end) = {
                let known = self.known();
                (known.is_held_by(writer), known.epochs.len(), known.end())
            };
            let epoch = match is_ours {
                // Cut off between the two steps.
                true => epoch,
                false => {
                    unless_elsewhere(end, after)?;
                    faults::point("store.before_epoch");
                    if self.store.put_once(&writer_key(epoch + 1), json(&Writer { writer })?)? == Put::Exists
                    {
                        return Err(superseded(after));
                    }
                    epoch + 1
                }
            };
            faults::point("store.after_epoch");
            unless_elsewhere(self.end_before(epoch)?, after)?;
            if self.store.put_once(&begin_key(epoch), json(&Begin { after })?)? == Put::Exists {
                return Err(superseded(after));
            }
            faults::point("store.after_begin");
            self.look()?;
            if !self.known().is_held_by(writer) {
                return Err(superseded(after));
            }
        }
        self.is_ours.store(true, Ordering::Release);
        Ok(())
    }

    /// Brings a segment into the store. When this returns it is of the log; refused where another writer has claimed that meanwhile.
    pub(super) fn upload(&self, writer: ArchiveId, name: SegmentName, path: &Path) -> Result<(), Fault> {
        let epoch = {
            let known = self.known();
            // Another's epoch is not ours to put anything into.
            if !known.is_held_by(writer) {
                return Err(superseded(name.after));
            }
            known.epochs.len()
        };
        faults::point("store.before_put");
        let bytes = self.store.upload(&segment_key(epoch, name), path)?;
        faults::point("store.after_put");
        // Only now: a claim that comes later finds this segment.
        self.look()?;
        let mut known = self.known();
        if !known.is_held_by(writer) || known.epochs.len() != epoch || !known.counts(epoch, name) {
            return Err(superseded(name.after));
        }
        // A listing that does not have it yet does not say when it came.
        let stored = known.segments.entry(name).or_insert(Stored { epoch, bytes, since: i64::MAX });
        stored.bytes = bytes;
        faults::point("store.after_look");
        Ok(())
    }

    /// Removes what broken uploads have left where the store is a folder.
    pub(super) fn sweep(&self) -> Result<(), Fault> {
        self.store.sweep().map(|_| ())
    }

    /// Removes the archive, the manifest last. What else is below the prefix stays.
    pub(super) fn remove_all(&self) -> Result<(), Fault> {
        self.store.delete(holds::PRUNED)?;
        for folder in [SEGMENTS, base::FOLDER, holds::APPLIERS, holds::PINS, BEGINS, WRITERS] {
            for object in self.store.list(folder, None)? {
                self.store.delete(&object.key)?;
            }
        }
        self.store.delete(MANIFEST)
    }

    /// Where what is not a segment is kept.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, name: SegmentName) -> Result<String, Fault> {
        let stored = self.stored(name).ok_or_else(|| gone(name))?;
        Ok(segment_key(stored.epoch, name))
    }

    /// Takes in what is new in the store.
    pub(super) fn look(&self) -> Result<(), Fault> {
        self.look_from(|_| ())
    }

    /// Takes in what is there now, also where that was known in other parts.
    pub(super) fn look_anew(&self) -> Result<(), Fault> {
        self.look_from(Known::forget_segments)
    }

    fn look_from(&self, mut begin: impl FnMut(&mut Known)) -> Result<(), Fault> {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.known().clone();
        self.look_for_epochs(&mut seen)?;
        loop {
            let epochs = seen.epochs.len();
            // A claim that has not begun may leave what is brought at this moment out. But it may never begin, where its receiver was
            // lost, and who sees the store for the first time has nothing else to go by; a claim looks once more.
            if seen.looked.is_none() || seen.epochs.last().is_some_and(|last| last.begin.is_some()) {
                begin(&mut seen);
                self.look_for_segments(&mut seen)?;
                for _ in 0..LISTINGS {
                    if seen.is_regular() {
                        break;
                    }
                    seen.forget_segments();
                    self.look_for_segments(&mut seen)?;
                }
                if !seen.is_regular()
                    && let Some(holds::Pruned { through }) = self.read(holds::PRUNED)?
                {
                    seen.settle(|mut names| {
                        cover::forget_pruned(&mut names, through);
                        names
                    });
                }
            }
            self.look_for_epochs(&mut seen)?;
            if seen.epochs.len() == epochs {
                break;
            }
            // Somebody has claimed the log meanwhile: what was taken in may not be of it.
            let known = self.known();
            (seen.segments, seen.left_over) = (known.segments.clone(), known.left_over.clone());
            seen.epochs.iter_mut().for_each(|epoch| epoch.is_closed = false);
        }
        let mut segments = std::mem::take(&mut seen.segments);
        segments.retain(|name, stored| seen.counts(stored.epoch, *name));
        *self.known() = Known { segments, looked: Some(Instant::now()), ..seen };
        Ok(())
    }

    /// Where the log ends that this epoch, which is claimed but has not begun, is to go on with.
    fn end_before(&self, epoch: usize) -> Result<Option<Position>, Fault> {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.known().clone();
        self.look_for_epochs(&mut seen)?;
        if seen.epochs.len() != epoch {
            return Err(superseded(seen.end().unwrap_or_default()));
        }
        self.look_for_segments(&mut seen)?;
        Ok(seen.end())
    }

    /// Takes in claims that were not seen yet. One that was seen must still be there: else this is not the store that it was, but
    /// perhaps the folder on which it was mounted.
    fn look_for_epochs(&self, seen: &mut Known) -> Result<(), Fault> {
        let there = self.store.list(WRITERS, None)?;
        let known = seen.epochs.len();
        let expected = (1..=there.len().max(known)).map(writer_key);
        if there.len() < known
            || !there.iter().map(|object| &object.key).eq(expected.collect::<Vec<_>>().iter())
        {
            let fault = match there.len() < known {
                true => Fault::retry("the archive's store has lost the claims to its log: is it mounted?"),
                false => Fault::person("the claims to the log in the archive's store are not in sequence")
                    .hint("restore what is missing in writers/ from a copy, or remove what does not belong there"),
            };
            return Err(fault);
        }
        for epoch in known + 1..=there.len() {
            let Writer { writer } = self.read(&writer_key(epoch))?.ok_or_else(|| lost(&writer_key(epoch)))?;
            seen.epochs.push(Epoch { writer, begin: None, is_closed: false });
        }
        for (epoch, number) in seen.epochs.iter_mut().zip(1..).filter(|(epoch, _)| epoch.begin.is_none()) {
            let begin: Option<Begin> = self.read(&begin_key(number))?;
            epoch.begin = begin.map(|begin| begin.after);
        }
        Ok(())
    }

    /// Takes in segments that were not seen yet.
    fn look_for_segments(&self, seen: &mut Known) -> Result<(), Fault> {
        let last = seen.epochs.iter().rposition(|epoch| epoch.begin.is_some());
        let mut is_more = false;
        for number in 0..seen.epochs.len() {
            let begun = |epoch: &&mut Epoch| epoch.begin.is_some() && !epoch.is_closed;
            let Some(epoch) = seen.epochs.get_mut(number).filter(begun) else { continue };
            epoch.is_closed = Some(number) < last;
            let (of, folder) = (number + 1, segment_folder(number + 1));
            let newest = seen.segments.iter().rev().find(|(_, known)| known.epoch == of);
            let newest = newest.map(|(name, _)| segment_key(of, *name));
            for object in self.store.list(&folder, newest.as_deref())? {
                // What a cut upload has left, under other names, is not of the log.
                let name = object.key.strip_prefix(&folder).and_then(|name| name.strip_prefix('/'));
                let name = name.and_then(SegmentName::parse).filter(|name| name.through.is_some());
                if let Some(name) = name.filter(|name| seen.counts(of, *name)) {
                    let (bytes, since) = (object.size_bytes, object.modified_seconds);
                    seen.segments.insert(name, Stored { epoch: of, bytes, since });
                    is_more = true;
                }
            }
        }
        if is_more {
            seen.settle(cover::uncovered);
        }
        Ok(())
    }

    fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Fault> {
        let Some(text) = self.store.get(key)? else { return Ok(None) };
        parsed(key, &text).map(Some)
    }
}

/// Refuses a log that ends, if it has an end yet, at another place than this.
fn unless_elsewhere(end: Option<Position>, after: Position) -> Result<(), Fault> {
    end.filter(|end| *end != after).map_or(Ok(()), |end| Err(superseded(end)))
}

pub(super) fn json(value: &impl Serialize) -> Result<Bytes, Fault> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from).map_err(|error| Fault::stop(format!("cannot write JSON: {error}")))
}

/// Reads what [`json`] has written.
pub(super) fn parsed<T: serde::de::DeserializeOwned>(key: &str, text: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(text).map_err(|error| {
        Fault::person(format!("{key} of the archive can't be understood: {error}"))
            .hint("restore it from a copy; what is in appliers/ or pins/ may be removed if nothing needs it")
    })
}

fn writer_key(epoch: usize) -> String {
    format!("{WRITERS}/{epoch:08}.json")
}

fn begin_key(epoch: usize) -> String {
    format!("{BEGINS}/{epoch:08}.json")
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

fn lost(key: &str) -> Fault {
    Fault::retry(format!("{key} in the archive's store comes and goes"))
}

/// Another receiver has the log.
fn superseded(after: Position) -> Fault {
    Fault::person(format!("another receiver, with another spool, extends this archive from {after} on"))
        .hint("let only one receiver run, and keep this one's spool until the other has gone on")
}
