//! Where an archive is.

use std::fmt;
use std::path::PathBuf;

use crate::model::Fault;
use crate::segment::Keyring;
use crate::store::{Place, Store};

use super::depot::Depot;
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
    /// What its segments are encrypted with; without a key what is written is not, and what is encrypted can't be read.
    pub keys: Keyring,
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
            keys: Keyring::default(),
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

    /// Whether there is a store, and no archive in it, be there a spool or not.
    pub fn is_gone(&self) -> Result<bool, Fault> {
        let Some(place) = &self.store else { return Ok(false) };
        Ok(Depot::new(Store::open(place)?).manifest()?.is_none())
    }

    /// Refuses a place where no archive can be made, or where one would not be safe.
    pub fn try_out(&self) -> Result<(), Fault> {
        let Some(place) = &self.store else { return Ok(()) };
        if Store::open(place)?.probe()?.put_once || self.single_writer {
            return Ok(());
        }
        Err(Fault::stop(format!("{self} overwrites what is there already, so two receivers can't be told apart")).hint(
            "use another store; or give --single-writer, and let nothing but the source's slot keep them apart",
        ))
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
