//! What a crash has left: the open file is cut to its longest valid prefix and sealed, or removed when it holds nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use crate::faults;
use crate::model::{Fault, Position};
use crate::segment::{Damage, HEADER_BYTES, SegmentName, valid_prefix};

use super::folder::left_behind;
use super::segment_file::damaged;
use super::{Archive, Mark, SegmentFile, copies, disk, press};

/// Where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) position: Position,
    pub(super) chain: [u8; 32],
    /// Of its last segment, if there is one.
    pub(super) timeline: Option<u32>,
}

/// Either the file could not be read or its bytes make no sense.
enum Trouble {
    Io(std::io::Error),
    Damage(Damage),
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Trouble {
        Trouble::Damage(damage)
    }
}

/// Brings the log into the state in which all segments are sealed. The caller holds the lock.
pub(super) fn recover(archive: &Archive, zstd_level: i32) -> Result<End, Fault> {
    press::sweep(archive)?;
    copies::sweep(archive);
    let listing = listing(archive)?;
    let mut end = sealed_end(archive, &listing)?;
    match listing.last() {
        Some(name) if name.through.is_none() => {
            if name.after != end.position {
                return Err(Fault::person(format!(
                    "the log has a gap: it ends at {}, and the open segment {name} begins after {}",
                    end.position, name.after
                ))
                .hint("restore the missing segments from a copy"));
            }
            if let Some(recovered) = seal_left_over(archive, *name, end, zstd_level)? {
                end = recovered;
            }
        }
        _ => check_mark(archive, end.position)?,
    }
    Ok(end)
}

/// All segments. A spool that has some which the store's log has passed by was left behind, unless that is an open one which never
/// took anything, as of a receiver that has waited for the slot.
fn listing(archive: &Archive) -> Result<Vec<SegmentName>, Fault> {
    let mut all = archive.listing()?;
    let Some((depot, end)) = archive.depot().and_then(|depot| Some((depot, depot.end()?))) else {
        return Ok(all);
    };
    let passed_by = |name: &SegmentName| name.after < end && !depot.holds(*name);
    if let Some(open) = all.iter().copied().find(|name| name.through.is_none() && passed_by(name)) {
        let path = archive.segment_path(open);
        let fault = |error: std::io::Error| disk::fault("cannot remove", &path, &error);
        if std::fs::metadata(&path).map_err(fault)?.len() <= HEADER_BYTES as u64 {
            std::fs::remove_file(&path).map_err(fault)?;
            all.retain(|name| *name != open);
        }
    }
    match archive.passed_by(&all) {
        None => Ok(all),
        Some((other, end)) => Err(left_behind(archive, other, end)),
    }
}

/// The end of the last sealed segment.
fn sealed_end(archive: &Archive, listing: &[SegmentName]) -> Result<End, Fault> {
    Archive::check_contiguous(listing)?;
    let Some(last) = listing.iter().rev().find(|name| name.through.is_some()) else {
        return Ok(End { position: archive.manifest().start, chain: [0; 32], timeline: None });
    };
    let file = SegmentFile::open(archive, *last)?;
    let mut file =
        file.ok_or_else(|| Fault::retry(format!("segment {last} vanished while it was opened")))?;
    let (trailer, _) = file.sealed(*last)?;
    let timeline = Some(file.header().timeline);
    Ok(End { position: trailer.through, chain: trailer.chain, timeline })
}

/// Refuses a log that ends before what was acknowledged to the source, which will not send it again.
fn check_mark(archive: &Archive, end: Position) -> Result<(), Fault> {
    let mark = Mark::read(archive.root())
        .map_err(|error| disk::fault("cannot read the durable mark in", archive.root(), &error))?;
    match mark {
        Some(mark) if mark.position > end => Err(Fault::person(format!(
            "the log was durable up to {} and now ends at {end}: what was acknowledged in ({end}, {}] is lost or damaged",
            mark.position, mark.position
        ))
        .hint("restore the segments from a copy; nothing was changed")),
        _ => Ok(()),
    }
}

fn seal_left_over(
    archive: &Archive,
    name: SegmentName,
    end: End,
    zstd_level: i32,
) -> Result<Option<End>, Fault> {
    let folder = archive.segments_folder();
    let path = archive.segment_path(name);
    let fault = |doing: &str, error: &std::io::Error| disk::fault(doing, &path, error);
    let file = disk::open_to_write(&path).map_err(|error| fault("cannot open", &error))?;
    let length = file.metadata().map_err(|error| fault("cannot read", &error))?.len();
    let secrets = (archive.keys(), disk::random()?);
    let prefix = valid_prefix(length, zstd_level, secrets, |offset, length| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes).map_err(Trouble::Io)
    });
    let prefix = prefix.map_err(|trouble| match trouble {
        Trouble::Io(error) => fault("cannot read", &error),
        Trouble::Damage(damage) => damaged(name, 0, &damage),
    })?;
    check_mark(archive, prefix.as_ref().map_or(end.position, |prefix| prefix.through()))?;
    let Some(prefix) = prefix.filter(|prefix| prefix.through() > name.after) else {
        // A reader that has it open must see that nothing is in it.
        file.set_len(0).map_err(|error| fault("cannot empty", &error))?;
        std::fs::remove_file(&path).map_err(|error| fault("cannot remove", &error))?;
        disk::sync_folder(&folder).map_err(|error| fault("cannot remove", &error))?;
        return Ok(None);
    };
    // Opening for reading checks that the header is of this archive.
    let opened = SegmentFile::open(archive, name)?;
    if opened.is_none_or(|opened| opened.header().chain != end.chain) {
        return Err(damaged(name, 0, &Damage::Malformed("the chain's link to the segment before")));
    }
    let mut tail = Vec::new();
    let trailer = prefix.encoder.seal(&mut tail);
    let sealed = SegmentName::sealed(name.after, trailer.through);
    let seal = || {
        file.set_len(prefix.encoder.end())?;
        file.write_all_at(&tail, prefix.encoder.end())?;
        faults::point("recovery.before_sync");
        file.sync_data()?;
        faults::point("recovery.before_rename");
        std::fs::rename(&path, archive.segment_path(sealed))?;
        faults::point("recovery.after_rename");
        disk::sync_folder(&folder)
    };
    seal().map_err(|error| fault("cannot seal", &error))?;
    tracing::info!(segment = %sealed, dropped_bytes = prefix.dropped_bytes, "sealed what a stopped receiver left");
    let timeline = Some(prefix.encoder.header().timeline);
    Ok(Some(End { position: trailer.through, chain: trailer.chain, timeline }))
}

/// The sealed segments of the folder that the archive's store does not have, with their lengths; none where there is no store.
pub(super) fn unstored(archive: &Archive) -> Result<BTreeMap<SegmentName, u64>, Fault> {
    let Some(depot) = archive.depot() else { return Ok(BTreeMap::new()) };
    let names = archive.folder_listing()?.into_iter();
    let unstored = names.filter(|name| name.through.is_some() && !depot.holds(*name));
    let measured = unstored.map(|name| {
        let path = archive.segment_path(name);
        let metadata = std::fs::metadata(&path);
        Ok((name, metadata.map_err(|error| disk::fault("cannot look at", &path, &error))?.len()))
    });
    measured.collect()
}
