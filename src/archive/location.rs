//! Where an archive is.

use std::fmt;
use std::path::PathBuf;

use crate::model::Fault;
use crate::store::Place;

use super::{Archive, Manifest};

/// A folder, and the store that its sealed segments go to where there is one. Then the folder is a spool: it has the open
/// segment, what is not in the store yet, and copies of what was read last.
#[derive(Clone, Debug)]
pub struct Location {
    pub folder: PathBuf,
    pub store: Option<Place>,
    /// Bytes of sealed segments that the folder of an archive with a store may hold.
    pub spool_bytes_max: u64,
    /// Take a store that can't refuse to overwrite an object.
    pub single_writer: bool,
}

impl Location {
    pub const SPOOL_BYTES_MAX: u64 = 10 << 30;

    /// An archive that is nothing but a folder.
    pub fn folder(folder: impl Into<PathBuf>) -> Location {
        Location {
            folder: folder.into(),
            store: None,
            spool_bytes_max: Location::SPOOL_BYTES_MAX,
            single_writer: false,
        }
    }

    /// The archive; none where it was never made.
    pub fn find(&self) -> Result<Option<Archive>, Fault> {
        Archive::find(self)
    }

    pub fn open(&self) -> Result<Archive, Fault> {
        self.find()?.ok_or_else(|| {
            Fault::stop(format!("there is no archive in {self}"))
                .hint("run `pgsluice setup` first, or give its place with --archive")
        })
    }

    /// Makes the archive, or opens it where one of the same source and slot is there already; then the manifest that
    /// it has stays. An archive of another source is refused.
    pub fn create(&self, manifest: Manifest) -> Result<Archive, Fault> {
        Archive::make(self, manifest)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.store {
            Some(store) => write!(f, "{store}"),
            None => write!(f, "{}", self.folder.display()),
        }
    }
}
