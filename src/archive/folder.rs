//! The archive's folder: its manifest and the listing of its segments.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::{Fault, Position};
use crate::segment::SegmentName;

use super::{Manifest, SegmentFile, disk};

/// An archive on local disk. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Archive {
    root: Arc<Path>,
    manifest: Arc<Manifest>,
}

const MANIFEST: &str = "manifest.json";

impl Archive {
    /// Makes the archive, or opens it where one of the same source and slot is there already; then the manifest that
    /// it has stays. An archive of another source is refused.
    pub fn create(root: &Path, manifest: Manifest) -> Result<Archive, Fault> {
        if root.join(MANIFEST).exists() {
            let archive = Archive::open(root)?;
            if let Some(difference) = archive.manifest.difference(&manifest) {
                return Err(Fault::person(format!(
                    "the archive {} is another source's: {difference}",
                    root.display()
                ))
                .hint("give another --archive or --name"));
            }
            return Ok(archive);
        }
        for folder in [root, &root.join("segments"), &root.join("catalog")] {
            disk::create_folder(folder)?;
        }
        disk::write_once(root, MANIFEST, manifest.to_json()?.as_bytes())
            .map_err(|error| disk::fault("cannot write the manifest in", root, &error))?;
        Ok(Archive { root: root.into(), manifest: Arc::new(manifest) })
    }

    pub fn open(root: &Path) -> Result<Archive, Fault> {
        let path = root.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Fault::stop(format!("there is no archive in {}", root.display()))
                .hint("run `pgsluice setup` first, or give its place with --archive"),
            _ => disk::fault("cannot read", &path, &error),
        })?;
        let manifest = Manifest::from_json(&String::from_utf8_lossy(&text))?;
        Ok(Archive { root: root.into(), manifest: Arc::new(manifest) })
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

    /// The sealed segments, sorted. That each begins where the one before it ends is for
    /// [`Archive::check_contiguous`] to say.
    pub fn segments(&self) -> Result<Vec<SegmentName>, Fault> {
        Ok(self.listing()?.into_iter().filter(|name| name.through.is_some()).collect())
    }

    /// All segments, sorted: the open one comes last where all is well.
    pub fn listing(&self) -> Result<Vec<SegmentName>, Fault> {
        let folder = self.segments_folder();
        let fault = |error: &io::Error| disk::fault("cannot list", &folder, error);
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
        names.sort_by_key(|name| (name.after, name.through.unwrap_or(Position(u64::MAX))));
        Ok(names)
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

/// The log misses what lies between `end` and the segment `next`.
pub(super) fn gap(end: Position, next: SegmentName) -> Fault {
    Fault::person(format!(
        "the log has a gap: it ends at {end} and goes on with segment {next} after {}",
        next.after
    ))
    .hint("restore the missing segments from a copy")
}
