//! Makes a sealed segment small: the many short frames of a live source are merged and transposed, into a new file that
//! takes the place of the old one under the same name.
//!
//! At every moment there is one whole segment of that name, so a crash at any point leaves either the old or the new one, and
//! perhaps a staged file that the next recovery removes. What the messages say stays as it is, byte for byte, and so do the
//! chain's value and the totals; only the places of the frames change. Who has the old file open reads it to its end.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::faults;
use crate::model::Fault;
use crate::segment::{Cut, Encoder, Footer, FrameEntry, FrameScratch, SegmentName, Trailer, check_sealed};

use super::segment_file::Unsound;
use super::{Archive, SegmentFile, disk};

/// Only frames of fewer bytes of records are merged, until they are as long as the writer's own.
const SHORT_BYTES: u32 = 256 << 10;
const MERGED_BYTES: u32 = 1 << 20;

/// What the staged file's name ends in. The listing knows no such names.
pub(super) const STAGED: &str = ".new";

/// Whether the segment was pressed: not where there is nothing to merge, or where `go_on` said no. A fault leaves the segment
/// as it was.
pub(super) fn press(
    archive: &Archive,
    name: SegmentName,
    zstd_level: i32,
    go_on: impl FnMut() -> bool,
) -> Result<bool, Fault> {
    let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(false) };
    let sealed = file.sealed(name)?;
    let frames = &sealed.1.frames;
    let runs = runs(frames);
    if runs.len() == frames.len() {
        return Ok(false);
    }
    let path = archive.segment_path(name);
    let staged = staged(archive, name);
    let written = rewrite(archive, &mut file, name, &sealed, &runs, zstd_level, go_on);
    if !matches!(written, Ok(true)) {
        // It may not be there yet; the next recovery removes it where this fails.
        let _ = std::fs::remove_file(&staged);
        return written;
    }
    let replace = || {
        // Meanwhile it may have been pruned, and must not come back.
        let _lock = disk::lock_folder(&archive.segments_folder())?;
        if !path.try_exists()? {
            std::fs::remove_file(&staged)?;
            return Ok(false);
        }
        faults::point("press.before_rename");
        std::fs::rename(&staged, &path)?;
        faults::point("press.after_rename");
        disk::sync_folder(&archive.segments_folder())?;
        faults::point("press.after_folder_sync");
        Ok(true)
    };
    if !replace().map_err(|error| disk::fault("cannot replace", &path, &error))? {
        return Ok(false);
    }
    tracing::debug!(segment = %name, frames = frames.len(), runs = runs.len(), "pressed a segment");
    Ok(true)
}

fn staged(archive: &Archive, name: SegmentName) -> PathBuf {
    archive.segments_folder().join(format!("{name}{STAGED}"))
}

/// Which frames become one: short ones that follow each other and end between transactions, each other alone.
fn runs(frames: &[FrameEntry]) -> Vec<&[FrameEntry]> {
    let short = |frame: &FrameEntry| {
        let whole = frame.header.ends_on_commit && !frame.header.starts_in_transaction;
        whole && frame.header.raw_len < SHORT_BYTES
    };
    let mut bytes = 0;
    let run = frames.chunk_by(|one, next| {
        // Asked once for each pair, in order.
        bytes = if bytes == 0 { one.header.raw_len } else { bytes };
        let together = short(one) && short(next) && bytes < MERGED_BYTES;
        bytes = if together { bytes.saturating_add(next.header.raw_len) } else { 0 };
        together
    });
    run.collect()
}

/// Writes the staged file and makes it durable. `false` where it was stopped.
fn rewrite(
    archive: &Archive,
    file: &mut SegmentFile,
    name: SegmentName,
    (trailer, footer): &(Trailer, Footer),
    runs: &[&[FrameEntry]],
    zstd_level: i32,
    mut go_on: impl FnMut() -> bool,
) -> Result<bool, Fault> {
    let staged = &staged(archive, name);
    let fault = |error: std::io::Error| disk::fault("cannot write", staged, &error);
    let damage = |damage: crate::segment::Damage| {
        Fault::stop(format!("segment {name} could not be pressed, and stays as it is: {damage}"))
    };
    let mut new = disk::open_or_create(staged).map_err(fault)?;
    new.set_len(0).map_err(fault)?;
    // What was not encrypted stays so: it would not become secret by that.
    let encryption = if file.header().encrypted { archive.encryption()? } else { None };
    let mut encoder = Encoder::transposing(file.header().clone(), zstd_level, encryption);
    let mut scratch = FrameScratch::default();
    let mut out = encoder.header().encode().to_vec();
    for run in runs {
        if !go_on() {
            return Ok(false);
        }
        let mut raw = Vec::new();
        for frame in *run {
            let (header, records) = file.frame(frame.offset, trailer.footer_offset, &mut scratch)?;
            if header != frame.header {
                return Err(damage(crate::segment::Damage::Malformed(
                    "the frame index in the segment footer",
                )));
            }
            raw.extend(records);
        }
        match run {
            [frame] => {
                let (header, stored) = file.stored(frame.offset, trailer.footer_offset)?;
                encoder.copy(header, &stored, &raw, &mut out).map_err(damage)?;
            }
            [.., last] => {
                let through = last.header.through;
                let cut = Cut { raw: Bytes::from(raw), ends_on_commit: true, through };
                encoder.frame(&cut, &mut out).map_err(damage)?;
            }
            [] => {}
        }
        new.write_all(&out).map_err(fault)?;
        out.clear();
    }
    let sealed = encoder.seal(&mut out);
    if (sealed.chain, sealed.through, sealed.totals) != (trailer.chain, trailer.through, trailer.totals) {
        return Err(Fault::stop(format!(
            "segment {name} could not be pressed, and stays as it is: it would say something else"
        )));
    }
    new.write_all(&out).map_err(fault)?;
    if !go_on() {
        return Ok(false);
    }
    faults::point("press.before_sync");
    File::sync_all(&new).map_err(fault)?;
    proof(archive, &new, staged, name, footer)?;
    Ok(true)
}

/// Reads the staged file as `archive verify` would, and holds what it says against the footer of the one that it is to replace.
fn proof(
    archive: &Archive,
    new: &File,
    staged: &Path,
    name: SegmentName,
    footer: &Footer,
) -> Result<(), Fault> {
    let read = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        match new.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(Unsound::Fault(disk::fault("cannot read", staged, &error))),
        }
    };
    let length = new.metadata().map_err(|error| disk::fault("cannot read", staged, &error))?.len();
    let checked = check_sealed(length, archive.keys(), read, |_, _| Ok(()));
    let other =
        |what: &str| Fault::stop(format!("segment {name} could not be pressed, and stays as it is: {what}"));
    match checked {
        Err(Unsound::Fault(fault)) => Err(fault),
        Err(Unsound::Flaw(flaw)) => Err(other(&flaw.damage.to_string())),
        Ok(checked) if checked.footer.commits != footer.commits => Err(other("it would have other commits")),
        Ok(_) => Ok(()),
    }
}

/// Removes what a crash has left of a press.
pub(super) fn sweep(archive: &Archive) -> Result<(), Fault> {
    let folder = archive.segments_folder();
    let fault = |error: &std::io::Error| disk::fault("cannot tidy", &folder, error);
    for entry in std::fs::read_dir(&folder).map_err(|error| fault(&error))? {
        let path = entry.map_err(|error| fault(&error))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_ours = name.strip_suffix(STAGED).and_then(SegmentName::parse).is_some();
        if is_ours && let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, file = %path.display(), "a file that is no part of the log can't be removed");
        }
    }
    Ok(())
}
