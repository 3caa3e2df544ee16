//! Removes the log's oldest segments, one by one from the old end, so that a crash at any moment leaves a log without a hole.
//!
//! Takes no lock of the receiver's: that one only adds to the other end. Where there is a store, only what is in it is considered.
//!
//! Nor does it wait for who merges segments (`compact`). A merged one may come while those that it was made of are removed, and then
//! stands alone in front of a hole: whoever lists the log finds in `pruned.json` that it was to go, and leaves it out. It is removed at the end
//! here, or by the next prune.

use std::time::Duration;

use crate::faults;
use crate::model::{Fault, Position, Timestamp};
use crate::segment::SegmentName;

use super::retention::{Candidate, Policy, Reason, decide};
use super::{Archive, Pin, Registered, SegmentFile, disk, inspect};

/// What a prune would do, or has done.
#[derive(Clone, Debug)]
pub struct Prune {
    /// Sealed segments in the order of the log.
    pub goes: Vec<Candidate>,
    pub stays: Vec<Candidate>,
    /// Why the first one stays that does.
    pub held_by: Vec<Reason>,
    pub appliers: Vec<Registered>,
    pub pins: Vec<Pin>,
    policy: Policy,
}

impl Prune {
    /// Looks what may go. Refused where no target is known, since then nobody knows who needs what.
    pub fn plan(archive: &Archive, policy: Policy) -> Result<Prune, Fault> {
        inspect::steadily(|| Prune::plan_once(archive, policy))
    }

    /// `None` where segments were pruned or merged meanwhile.
    fn plan_once(archive: &Archive, policy: Policy) -> Result<Option<Prune>, Fault> {
        let Some(mut segments) = candidates(archive)? else { return Ok(None) };
        let names: Vec<_> = segments.iter().map(|segment| segment.name).collect();
        Archive::check_contiguous(&names)?;
        let (appliers, pins) = (archive.appliers()?, archive.pins()?);
        if appliers.is_empty() && !policy.beyond_appliers {
            return Err(Fault::stop("no target is registered in this archive, so none is known to have what would go")
                .hint("a target is registered by `setup`, `apply` and `follow`; where there is none, say with --force that nobody needs the log's old end"));
        }
        let mut came_and_went = false;
        let decision = decide(&segments, &appliers, &pins, &policy, |segment| {
            let time = last_time(archive, segment)?;
            came_and_went |= time.is_none();
            Ok::<_, Fault>(time.flatten())
        })?;
        if came_and_went {
            return Ok(None);
        }
        let stays = segments.split_off(decision.goes);
        Ok(Some(Prune { goes: segments, stays, held_by: decision.held_by, appliers, pins, policy }))
    }

    /// Where the log begins afterwards.
    pub fn through(&self) -> Option<Position> {
        self.goes.last().map(Candidate::through)
    }

    /// The targets that need what goes.
    pub fn left_behind(&self) -> impl Iterator<Item = &Registered> {
        let through = self.through().unwrap_or_default();
        self.appliers.iter().filter(move |applier| applier.lsn < through)
    }

    /// Does it. `progress` hears how many segments are gone.
    pub fn perform(&self, archive: &Archive, mut progress: impl FnMut(usize)) -> Result<(), Fault> {
        let Some(through) = self.through() else { return Ok(()) };
        self.announce(archive, through)?;
        faults::point("prune.after_announce");
        for (number, segment) in self.goes.iter().enumerate() {
            faults::point("prune.before_remove");
            remove(archive, segment.name)?;
            faults::point("prune.after_remove");
            progress(number + 1);
        }
        // What was merged meanwhile, or earlier and had left something over.
        let goes = |name: &SegmentName| name.through.is_some_and(|end| end <= through);
        if let Some(depot) = archive.depot() {
            depot.look_anew()?;
            let names = depot.left_over().into_iter().chain(depot.segments(Duration::MAX)?);
            return names.filter(goes).try_for_each(|name| remove(archive, name));
        }
        archive.folder_names()?.into_iter().filter(goes).try_for_each(|name| remove_here(archive, name))
    }

    /// Writes how far it will go, and then looks whether anybody has come meanwhile who needs that.
    fn announce(&self, archive: &Archive, through: Position) -> Result<(), Fault> {
        let before = archive.pruned_through()?;
        archive.tell_pruned(before.unwrap_or_default().max(through))?;
        let needs = |lsn: Position| lsn < through;
        let pin =
            archive.pins()?.into_iter().find(|pin| needs(pin.lsn)).map(|pin| format!("pin {}", pin.name));
        let applier = match self.policy.beyond_appliers {
            true => None,
            false => archive.appliers()?.into_iter().find(|applier| needs(applier.lsn)),
        };
        let Some(who) = pin.or(applier.map(|applier| format!("applier {}", applier.name))) else {
            return Ok(());
        };
        archive.tell_pruned(before.unwrap_or_default())?;
        Err(Fault::retry(format!("{who} has come meanwhile, and needs what would go")).hint("run it again"))
    }
}

/// The sealed segments of the store where there is one, else of the folder.
fn candidates(archive: &Archive) -> Result<Option<Vec<Candidate>>, Fault> {
    let mut candidates = Vec::new();
    if let Some(depot) = archive.depot() {
        for name in depot.segments(Duration::ZERO)? {
            let bytes = depot.size_bytes(name).unwrap_or_default();
            candidates.push(Candidate { name, bytes });
        }
        return Ok(Some(candidates));
    }
    for name in archive.segments()? {
        let path = archive.segment_path(name);
        match std::fs::metadata(&path) {
            Ok(metadata) => candidates.push(Candidate { name, bytes: metadata.len() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk::fault("cannot look at", &path, &error)),
        }
    }
    Ok(Some(candidates))
}

/// None where it is gone, and where it holds no commit.
fn last_time(archive: &Archive, segment: &Candidate) -> Result<Option<Option<Timestamp>>, Fault> {
    let Some(mut file) = SegmentFile::open(archive, segment.name)? else { return Ok(None) };
    let totals = file.trailer(segment.name)?.totals;
    Ok(Some((totals.transactions > 0).then_some(totals.last_time)))
}

/// Removes the log's first segment. Where there is a store the log has it until its object is gone.
fn remove(archive: &Archive, name: SegmentName) -> Result<(), Fault> {
    remove_here(archive, name)?;
    faults::point("prune.between");
    archive.depot().map_or(Ok(()), |depot| depot.remove(name))
}

fn remove_here(archive: &Archive, name: SegmentName) -> Result<(), Fault> {
    let folder = archive.segments_folder();
    let fault = |error: std::io::Error| disk::fault("cannot remove segments in", &folder, &error);
    let _lock = disk::lock_folder(&folder).map_err(fault)?;
    disk::remove(&archive.segment_path(name))?;
    disk::sync_folder(&folder).map_err(fault)
}
