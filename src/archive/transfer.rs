//! An archive copied to another place, segment by segment, so that it can be gone on with there.

use std::fs::File;
use std::path::Path;

use crate::model::{Fault, Position};
use crate::segment::{Damage, SegmentName, check_sealed};

use super::segment_file::{Unsound, damaged};
use super::{Archive, Compaction, Compactor, Location, SegmentFile, cover, disk, shipper, writer};

/// What the name of a file ends in that is being copied.
const STAGED: &str = ".copy";

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Transferred {
    /// By this run; others were there already.
    pub segments: u64,
    pub bytes: u64,
    /// Of bases, by this run.
    pub base_bytes: u64,
    /// The copy holds the log up to here.
    pub through: Position,
}

/// Copies the bases, and the sealed segments that the other place does not have yet, in order and each checked before it is given its name there, so that
/// what was copied when it breaks off is an archive too. The place is made, or must have an earlier copy. `progress` hears how many
/// segments of how many are done.
pub fn transfer(
    from: &Archive,
    to: &Location,
    mut progress: impl FnMut(usize, usize),
) -> Result<(Archive, Transferred), Fault> {
    let names = from.segments()?;
    Archive::check_contiguous(&names)?;
    to.try_out()?;
    let copy = to.create(from.manifest().clone())?;
    if copy.manifest().archive_id != from.manifest().archive_id {
        return Err(Fault::person(format!("{to} has another archive, {}", copy.manifest().archive_id))
            .hint("give a place that is empty, or has an earlier copy of this archive"));
    }
    let lock = writer::lock(&copy)?;
    let there = copy.listing()?;
    Archive::check_contiguous(&there)?;
    let begins = names.first().map_or(from.manifest().start, |name| name.after);
    let end = there.last().map_or(begins, |name| name.through.unwrap_or(name.after));
    let missing: Vec<_> = names.iter().filter(|name| name.through > Some(end)).copied().collect();
    let last = names.last().and_then(|name| name.through).unwrap_or(begins);
    // What was merged here since takes the place of what the copy has of it.
    let joins = |next: &SegmentName| next.after == end || there.iter().any(|name| name.after == next.after);
    let goes_on = missing.first().map_or(last == end, joins);
    if !goes_on || there.iter().any(|name| name.through.is_none()) {
        return Err(Fault::person(format!(
            "{to} has the log up to {end}, and not as this archive's segments part it"
        ))
        .hint("a receiver has gone on there, so it is no copy any more; give another place"));
    }
    let beginning = there.first().map_or(begins, |name| name.after);
    take_along(from, &copy, beginning)?;
    let mut done = Transferred { segments: 0, bytes: 0, base_bytes: 0, through: end };
    let store = match (copy.depot(), missing.first()) {
        (Some(depot), Some(first)) => {
            let writer = shipper::writer(&copy)?;
            depot.claim(writer, end)?;
            if first.after < end && !depot.counts_now(*first) {
                return Err(Fault::person(format!(
                    "{to} has the log up to {end} by another spool, and segment {first} begins before that"
                ))
                .hint("give another place, or the spool that the copy was begun with"));
            }
            Some((depot, writer))
        }
        _ => None,
    };
    for (number, name) in missing.iter().enumerate() {
        progress(number, missing.len());
        unless_other(from, *name, &copy, &there)?;
        from.bring(*name, true)?;
        let path = from.segment_path(*name);
        done.bytes += check(from, *name)?;
        match store {
            Some((depot, writer)) => depot.upload(writer, *name, &path)?,
            None => place(&copy, *name, &path)?,
        }
        done.segments += 1;
        done.through = name.through.unwrap_or(name.after);
    }
    progress(missing.len(), missing.len());
    Compactor::new(&copy, Compaction::default()).remove_left_over(|| true)?;
    done.base_bytes = copy.take_bases(from)?;
    drop(lock);
    Ok((copy, done))
}

/// What the copy must know of: that what it misses was pruned, the pins, and what became of the source. One that was removed here since stays there.
fn take_along(from: &Archive, copy: &Archive, beginning: Position) -> Result<(), Fault> {
    if beginning > copy.manifest().start {
        copy.tell_pruned(copy.pruned_through()?.unwrap_or_default().max(beginning))?;
    }
    let there = copy.pins()?;
    for pin in from.pins()?.iter().filter(|pin| there.iter().all(|other| other.name != pin.name)) {
        copy.take_pin(pin)?;
    }
    from.successors()?.iter().try_for_each(|successor| copy.succeed(successor))
}

/// Refuses a segment that was merged since the copy was made and does not say what the copy has in its place.
fn unless_other(
    from: &Archive,
    name: SegmentName,
    copy: &Archive,
    there: &[SegmentName],
) -> Result<(), Fault> {
    let covered: Vec<_> = there.iter().filter(|part| cover::covers(name, **part)).collect();
    if covered.is_empty() {
        return Ok(());
    }
    let gone = || Fault::retry("segments came and went while they were copied");
    let commits = |archive: &Archive, name: SegmentName| {
        Ok::<_, Fault>(SegmentFile::open(archive, name)?.ok_or_else(gone)?.sealed(name)?.1.commits)
    };
    let ours = commits(from, name)?;
    let mut theirs = Vec::new();
    for part in covered {
        theirs.extend(commits(copy, *part)?);
    }
    if ours.starts_with(&theirs) {
        return Ok(());
    }
    Err(Fault::person(format!("the copy has other transactions than segment {name}"))
        .hint("a receiver has gone on there, so it is no copy any more; give another place"))
}

/// Goes through a segment as it is, and gives its length.
pub(super) fn check(from: &Archive, name: SegmentName) -> Result<u64, Fault> {
    let gone = || Fault::retry(format!("segment {name} went away while it was copied"));
    let file = SegmentFile::open(from, name)?.ok_or_else(gone)?;
    let length = file.size_bytes()?;
    let checked = check_sealed(
        length,
        from.keys(),
        |offset, length| file.bytes(offset, length).map_err(Unsound::Fault),
        |_, _| Ok(()),
    );
    match checked {
        Ok(checked) if Some(checked.trailer.through) == name.through => Ok(length),
        Ok(_) => Err(damaged(name, length, &Damage::Malformed("the segment's end"))),
        Err(Unsound::Flaw(flaw)) => Err(damaged(name, flaw.offset, &flaw.damage)),
        Err(Unsound::Fault(fault)) => Err(fault),
    }
}

/// Gives a copy of the file its name in a folder, durable with all its bytes.
fn place(copy: &Archive, name: SegmentName, path: &Path) -> Result<(), Fault> {
    let staged = copy.segments_folder().join(format!("{name}{STAGED}"));
    let write = || {
        let mut from = disk::open_to_read(path)?;
        let mut file = disk::open_or_create(&staged)?;
        file.set_len(0)?;
        std::io::copy(&mut from, &mut file)?;
        File::sync_all(&file)?;
        std::fs::rename(&staged, copy.segment_path(name))?;
        disk::sync_folder(&copy.segments_folder())
    };
    write().map_err(|error| disk::fault("cannot write", &staged, &error))
}
