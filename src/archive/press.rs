//! Makes a sealed segment small: the many short frames of a live source are merged and transposed, into a new file that
//! takes the place of the old one under the same name.
//!
//! At every moment there is one whole segment of that name, so a crash at any point leaves either the old or the new one, and
//! perhaps a staged file that the next recovery removes. What the messages say stays as it is, byte for byte, and so do the
//! chain's value and the totals; only the places of the frames change. Who has the old file open reads it to its end.

use crate::faults;
use crate::model::Fault;
use crate::segment::{Footer, FrameScratch, SegmentName, Trailer};

use super::rewrite::{LongFrames, Rewrite, ends_with_commit, is_short};
use super::segment_file::damaged;
use super::{Archive, SegmentFile, disk};

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
    let (trailer, footer) = file.sealed(name)?;
    if !has_more_to_merge(&file, &trailer, &footer)? {
        return Ok(false);
    }
    drop(file);
    let path = archive.segment_path(name);
    let staged = archive.segments_folder().join(format!("{name}{STAGED}"));
    let new = disk::open_or_create(&staged).and_then(|new| new.set_len(0).map(|()| new));
    let new = new.map_err(|error| disk::fault("cannot write", &staged, &error))?;
    let rewrite = Rewrite { archive, name, zstd_level, long_frames: LongFrames::AsTheyAre };
    let written = rewrite.write(&[name], &new, &staged, go_on);
    if !matches!(written, Ok(true)) {
        // It may not be there yet; the next recovery removes it where this fails.
        let _ = std::fs::remove_file(&staged);
        return written;
    }
    let replace = || {
        // Meanwhile it may have been pruned or merged with others, and must not come back.
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
    tracing::debug!(segment = %name, frames = footer.frames.len(), "pressed a segment");
    Ok(true)
}

/// Whether two short frames stand side by side of which the first ends with a Commit, or holds nothing. A merge leaves no such pair; what it
/// leaves tells where two segments met, and stays.
fn has_more_to_merge(file: &SegmentFile, trailer: &Trailer, footer: &Footer) -> Result<bool, Fault> {
    let mut scratch = FrameScratch::default();
    for [one, next] in footer.frames.array_windows() {
        if !is_short(&one.header) || !is_short(&next.header) {
            continue;
        }
        let (_, raw) = file.frame(one.offset, trailer.footer_offset, &mut scratch)?;
        let ends = ends_with_commit(&raw).map_err(|damage| damaged(file.name(), one.offset, &damage))?;
        if ends != Some(false) {
            return Ok(true);
        }
    }
    Ok(false)
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
