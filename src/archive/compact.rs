//! Merges small sealed segments that follow each other into large ones, compressed harder.
//!
//! The merged segment is written beside the others, read back, and given its name: from then on it counts, and those that it covers don't,
//! so there is no moment with a hole. Only then are they removed. A crash in between leaves some over, which the next run removes. Who has one
//! of them open reads it to its end; who looks for one that is gone looks at the listing anew, and finds its place in the merged one.
//!
//! Any number of processes may do this at a time, see `blocks` for why. In a folder a merged segment gets its name only while all its parts are
//! there. In a store its name is put only where there is none, so that nobody's bytes change under it, in the epoch of its parts; a receiver
//! that has lost the log to another may go on merging what was of the log before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::faults;
use crate::model::{Fault, Remedy};
use crate::segment::SegmentName;

use super::blocks::{Limits, Segment, merges};
use super::rewrite::{LongFrames, Rewrite};
use super::{Archive, SegmentFile, copies, cover, disk, transfer};

/// How segments are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Only segments are merged that were not written to for so long.
    pub age_seconds_min: u64,
    /// All that become one have together at most so many stored bytes.
    pub bytes_max: u64,
    /// And so many transactions: what is known of each is in memory while they are merged.
    pub transactions_max: u64,
    pub zstd_level: i32,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { age_seconds_min: 3600, bytes_max: 64 << 20, transactions_max: 1 << 20, zstd_level: 15 }
    }
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// So many segments and bytes became so many.
    pub segments_before: u64,
    pub bytes_before: u64,
    pub segments_after: u64,
    pub bytes_after: u64,
    /// Segments that an earlier merge, cut off, had left.
    pub left_over: u64,
}

/// What must be known of a segment to merge it, and does not change with how it is stored.
#[derive(Clone, Copy)]
struct Facts {
    timeline: u32,
    transactions: u64,
    /// Whether it can follow another one inside a segment: see [`facts`].
    may_follow: bool,
}

/// Remembers what it has learned of the segments.
pub struct Compactor {
    archive: Archive,
    compaction: Compaction,
    facts: BTreeMap<SegmentName, Facts>,
    /// The store was looked through for what others have left over.
    has_looked: bool,
}

impl Compactor {
    pub fn new(archive: &Archive, compaction: Compaction) -> Compactor {
        Compactor { archive: archive.clone(), compaction, facts: BTreeMap::new(), has_looked: false }
    }

    /// What [`Compactor::run`] would merge, and into what.
    pub fn plan(&mut self) -> Result<Vec<Vec<SegmentName>>, Fault> {
        let runs = self.runs()?.into_iter();
        Ok(runs.map(|run| run.into_iter().map(|segment| segment.name).collect()).collect())
    }

    fn runs(&mut self) -> Result<Vec<Vec<Segment>>, Fault> {
        let segments = self.segments()?;
        let Compaction { age_seconds_min, bytes_max, .. } = self.compaction;
        let age_seconds_min = i64::try_from(age_seconds_min).unwrap_or(i64::MAX);
        merges(&segments, Limits { bytes_max, age_seconds_min }, |run| self.fits(run))
    }

    /// Removes what was left over, then merges until nothing is left to merge or `go_on` says no. `merged` hears of each merge.
    pub fn run(
        &mut self,
        mut go_on: impl FnMut() -> bool,
        mut merged: impl FnMut(SegmentName, &Compacted),
    ) -> Result<Compacted, Fault> {
        copies::sweep(&self.archive);
        let mut done = Compacted { left_over: self.remove_left_over(&mut go_on)?, ..Compacted::default() };
        // What can't be merged keeps nothing else from it, and is told in the end.
        let (mut fault, mut refused) = (None, BTreeSet::new());
        loop {
            let mut came_on = false;
            for run in self.runs()? {
                if !go_on() {
                    return Ok(done);
                }
                let parts: Vec<_> = run.iter().map(|segment| segment.name).collect();
                if refused.contains(&parts) {
                    continue;
                }
                let (name, after) = match self.merge(&parts, &mut go_on) {
                    Ok(Some(merged)) => merged,
                    Ok(None) => continue,
                    Err(again) => {
                        fault.get_or_insert(lasting(again)?);
                        refused.insert(parts);
                        continue;
                    }
                };
                came_on = true;
                done.segments_before += parts.len() as u64;
                done.segments_after += 1;
                done.bytes_before += run.iter().map(|segment| segment.bytes).sum::<u64>();
                done.bytes_after += after;
                merged(name, &done);
            }
            if !came_on {
                return fault.map_or(Ok(done), Err);
            }
        }
    }

    /// The sealed segments of the store where there is one, else of the folder.
    fn segments(&self) -> Result<Vec<Segment>, Fault> {
        let seconds =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let now = seconds(SystemTime::now());
        let mut segments = Vec::new();
        if let Some(depot) = self.archive.depot() {
            depot.look()?;
            for name in depot.segments(Duration::MAX)? {
                let Some(stored) = depot.stored(name) else { continue };
                let age_seconds = now.saturating_sub(stored.since);
                segments.push(Segment { name, bytes: stored.bytes, age_seconds, epoch: stored.epoch });
            }
            return Ok(segments);
        }
        for name in self.archive.segments()? {
            let path = self.archive.segment_path(name);
            match std::fs::metadata(&path).and_then(|file| Ok((file.len(), file.modified()?))) {
                Ok((bytes, since)) => {
                    segments.push(Segment { name, bytes, age_seconds: now - seconds(since), epoch: 0 });
                }
                // Others prune or merge.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(disk::fault("cannot look at", &path, &error)),
            }
        }
        Ok(segments)
    }

    /// Whether the content of segments allows that they become one.
    fn fits(&mut self, run: &[Segment]) -> Result<bool, Fault> {
        let (mut transactions, mut timeline) = (0u64, None);
        for (number, segment) in run.iter().enumerate() {
            let facts = match self.facts.get(&segment.name) {
                Some(facts) => *facts,
                None => match facts(&self.archive, segment.name)? {
                    Some(facts) => *self.facts.entry(segment.name).or_insert(facts),
                    None => return Ok(false),
                },
            };
            transactions = transactions.saturating_add(facts.transactions);
            let same_timeline = *timeline.get_or_insert(facts.timeline) == facts.timeline;
            if !same_timeline
                || (number > 0 && !facts.may_follow)
                || transactions > self.compaction.transactions_max
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives what came of it, and its length. `None` where it was stopped, or some of the parts are gone.
    fn merge(
        &mut self,
        parts: &[SegmentName],
        go_on: impl FnMut() -> bool,
    ) -> Result<Option<(SegmentName, u64)>, Fault> {
        let archive = self.archive.clone();
        let [first, .., last] = parts else { return Ok(None) };
        let name = SegmentName { after: first.after, through: last.through };
        let staged = copies::staged_path(&archive, name)?;
        let fault = |error: io::Error| disk::fault("cannot write", &staged, &error);
        let new = disk::create_new(&staged).map_err(fault)?;
        new.lock().map_err(fault)?;
        let zstd_level = self.compaction.zstd_level;
        let rewrite = Rewrite { archive: &archive, name, zstd_level, long_frames: LongFrames::Anew };
        let placed = rewrite.write(parts, &new, &staged, go_on).and_then(|written| match written {
            true => {
                faults::point("compact.before_name");
                self.place(name, parts, &staged)
            }
            false => Ok(false),
        });
        // Where this fails it is swept away later.
        let _ = std::fs::remove_file(&staged);
        match placed {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            // What it was made of is no more: others prune or merge.
            Err(fault) => {
                let there = archive.listing()?;
                return if parts.iter().all(|part| there.contains(part)) { Err(fault) } else { Ok(None) };
            }
        }
        let after = new.metadata().map_err(fault)?.len();
        tracing::debug!(segment = %name, segments = parts.len(), bytes = after, "merged segments");
        faults::point("compact.after_name");
        self.remove(name, parts)?;
        parts.iter().for_each(|part| {
            self.facts.remove(part);
        });
        Ok(Some((name, after)))
    }

    /// Makes a staged segment count. `false` where it may not.
    fn place(
        &self,
        name: SegmentName,
        parts: &[SegmentName],
        staged: &std::path::Path,
    ) -> Result<bool, Fault> {
        let (folder, path) = (self.archive.segments_folder(), self.archive.segment_path(name));
        let fault = |error: io::Error| disk::fault("cannot give its name to", staged, &error);
        let Some(depot) = self.archive.depot() else {
            let _lock = disk::lock_folder(&folder).map_err(fault)?;
            for part in parts {
                // What was pruned must not come back.
                if !self.archive.segment_path(*part).try_exists().map_err(fault)? {
                    return Ok(false);
                }
            }
            if path.try_exists().map_err(fault)? {
                return Ok(false);
            }
            std::fs::rename(staged, &path).map_err(fault)?;
            disk::sync_folder(&folder).map_err(fault)?;
            return Ok(true);
        };
        let Some(epoch) = parts.first().and_then(|part| depot.stored(*part)).map(|stored| stored.epoch)
        else {
            return Ok(false);
        };
        let bytes = Bytes::from(std::fs::read(staged).map_err(fault)?);
        if depot.put_merged(epoch, name, bytes)? {
            // Read soon, most likely.
            std::fs::rename(staged, &path).map_err(fault)?;
            return Ok(true);
        }
        self.is_sound(name)
    }

    /// Goes through a segment of somebody else's, as it is, and holds its ends against those beside it. `false` where it is gone.
    fn is_sound(&self, wide: SegmentName) -> Result<bool, Fault> {
        self.archive.bring(wide, false)?;
        let Some(chain) = chain(&self.archive, wide)? else { return Ok(false) };
        transfer::check(&self.archive, wide)?;
        let beside =
            |other: &SegmentName| other.through == Some(wide.after) || Some(other.after) == wide.through;
        for other in self.archive.segments()?.into_iter().filter(beside) {
            let fits = match self::chain(&self.archive, other)? {
                Some((_, ends)) if other.through == Some(wide.after) => ends == chain.0,
                Some((begins, _)) if Some(other.after) == wide.through => begins == chain.1,
                _ => true,
            };
            if !fits {
                let what = format!(
                    "segments {wide} and {other} don't follow each other: the chain of hashes is broken"
                );
                return Err(Fault::person(what).hint("what the first of them covers was not removed"));
            }
        }
        Ok(true)
    }

    /// Removes what a wider segment holds, which was gone through. Oldest first.
    fn remove(&self, wide: SegmentName, parts: &[SegmentName]) -> Result<(), Fault> {
        let parts = || parts.iter().filter(|part| cover::covers(wide, **part) && **part != wide);
        if let Some(depot) = self.archive.depot() {
            parts().try_for_each(|part| depot.remove(*part))?;
        }
        for part in parts() {
            disk::remove(&self.archive.segment_path(*part))?;
            faults::point("compact.amid_removal");
        }
        let folder = self.archive.segments_folder();
        disk::sync_folder(&folder).map_err(|error| disk::fault("cannot remove segments in", &folder, &error))
    }

    /// Removes segments that a wider one covers, after a look through that.
    pub(super) fn remove_left_over(&mut self, mut go_on: impl FnMut() -> bool) -> Result<u64, Fault> {
        let there = match self.archive.depot() {
            Some(depot) => {
                if !self.has_looked {
                    depot.look_anew()?;
                    self.has_looked = true;
                }
                depot.left_over()
            }
            None => self.archive.folder_names()?,
        };
        let counts = match self.archive.depot() {
            Some(depot) => depot.segments(Duration::MAX)?,
            None => self.archive.segments()?,
        };
        let mut left_over: BTreeMap<SegmentName, Vec<SegmentName>> = BTreeMap::new();
        for name in there {
            let holder = counts.partition_point(|wide| wide.after <= name.after).checked_sub(1);
            if let Some(wide) = holder.and_then(|holder| counts.get(holder))
                && *wide != name
                && cover::covers(*wide, name)
            {
                left_over.entry(*wide).or_default().push(name);
            }
        }
        let mut count = 0;
        for (wide, parts) in left_over {
            if go_on() && self.is_sound(wide)? {
                self.remove(wide, &parts)?;
                count += parts.len() as u64;
            }
        }
        Ok(count)
    }
}

/// The chain's values where a segment begins and where it ends.
type Chains = ([u8; 32], [u8; 32]);

fn chain(archive: &Archive, name: SegmentName) -> Result<Option<Chains>, Fault> {
    let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(None) };
    let begins = file.header().chain;
    Ok(Some((begins, file.trailer(name)?.chain)))
}

/// What must be known of a segment. One that begins with messages outside of transactions, at the very position where the segment before it
/// ends, could not be told from that one's messages.
fn facts(archive: &Archive, name: SegmentName) -> Result<Option<Facts>, Fault> {
    let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(None) };
    let (trailer, footer) = file.sealed(name)?;
    let first = footer.frames.iter().find(|frame| !frame.header.is_empty());
    let may_follow =
        first.is_none_or(|frame| !frame.header.ends_on_commit || frame.header.through > name.after);
    let (timeline, transactions) = (file.header().timeline, trailer.totals.transactions);
    Ok(Some(Facts { timeline, transactions, may_follow }))
}

/// What may pass by itself, as a store that is away, is the end of all of it for now.
fn lasting(fault: Fault) -> Result<Fault, Fault> {
    if fault.remedy == Remedy::Retry { Err(fault) } else { Ok(fault) }
}
