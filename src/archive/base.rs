//! Bases: the rows of tables as snapshots of the source showed them, and its schema, kept beside the log, so that the archive alone is enough
//! to build a target.
//!
//! ```text
//! base/begun/ID.json       one that is being taken, or was given up
//!      ID/schema.json      what is whole of it: the schema,
//!      ID/tables/OID.json  and a table each
//!      ID/files/…          their files
//!      done/ID.json        a whole one; written last, and removed first
//! ```
//!
//! A file's name is its writer's alone, so two who take one base at once only do some of the work twice: of each table one note wins.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};

use serde::{Deserialize, Serialize};

use crate::model::{Fault, Position, Remedy};
use crate::pg::sequences::Sample;
use crate::segment::PartHeader;

use super::depot::json;
use super::{Archive, ArchiveId, base_file, disk};

pub(super) const FOLDER: &str = "base";
const BEGUN: &str = "base/begun";
const DONE: &str = "base/done";
const LOCK: &str = "base/lock";

/// A base that is being taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseBegin {
    /// [`Base::FORMAT`].
    pub format: u32,
    pub id: ArchiveId,
    /// Everything that committed before is in every snapshot of the base; the rest is in the log.
    pub start: Position,
    /// Of the source: transactions before it must have ended before the first snapshot is taken.
    pub first_xid: u64,
    /// RFC 3339.
    pub begun: String,
    /// Patterns of the tables that are taken, all where there is none, and of those that are not.
    #[serde(rename = "only")]
    pub tables: Vec<String>,
    pub exclude: Vec<String>,
}

/// A file of a base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    pub name: String,
    pub bytes: u64,
    /// Before they were compressed.
    pub raw_bytes: u64,
    /// BLAKE3 of the file, in hexadecimal digits.
    pub hash: String,
}

/// The schema, as pg_dump wrote it in its own format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseSchema {
    /// In which it was read, as `pg_snapshot` prints it.
    pub snapshot: String,
    /// Where the source's WAL ended then.
    pub through: Position,
    pub file: BaseFile,
}

/// The rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseTable {
    /// Of the source.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// The partitioned tables that it belongs to.
    pub above: Vec<(String, String)>,
    /// In the order in which the rows have them.
    pub columns: Vec<String>,
    /// Their types (OID and modifier); empty in bases of programs that did not note them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<(u32, i32)>,
    /// Tells whether it is still the same table with the same columns.
    pub shape: String,
    pub snapshot: String,
    pub through: Position,
    pub rows: u64,
    /// Rows as COPY prints them as text, in the source's encoding.
    pub parts: Vec<BaseFile>,
}

/// A whole base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    #[serde(flatten)]
    pub begin: BaseBegin,
    pub schema: BaseSchema,
    pub tables: Vec<BaseTable>,
    pub sequences: Option<Sample>,
    /// With the log up to here it is as the source was at one moment, and from here on at any.
    pub through: Position,
    /// RFC 3339.
    pub ended: String,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct Checked {
    #[serde(flatten)]
    base: Base,
    checksum: String,
}

impl BaseBegin {
    fn folder(&self) -> String {
        format!("{FOLDER}/{}", self.id)
    }

    /// The key of a file.
    pub(super) fn file(&self, name: &str) -> String {
        format!("{}/files/{name}", self.folder())
    }

    /// What a file of it begins with.
    pub(super) fn header(&self, archive: &Archive, table: u32, number: u32) -> PartHeader {
        let archive_id = archive.manifest().archive_id.0;
        PartHeader { archive_id, base_id: self.id.0, table, number, encrypted: false }
    }
}

impl Base {
    pub const FORMAT: u32 = 1;

    /// Its files, each with what it must say it is: table and part.
    pub fn files(&self) -> impl Iterator<Item = (u32, u32, &BaseFile)> {
        let schema = std::iter::once((0, 0, &self.schema.file));
        schema.chain(self.tables.iter().flat_map(BaseTable::files))
    }

    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Of its files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|(_, _, file)| file.bytes).sum()
    }

    fn checksum(&self) -> Result<String, Fault> {
        Ok(blake3::hash(&json(self)?).to_hex().to_string())
    }
}

impl BaseTable {
    pub fn files(&self) -> impl Iterator<Item = (u32, u32, &BaseFile)> {
        self.parts.iter().zip(0..).map(|(file, number)| (self.oid, number, file))
    }
}

/// Keeps others who share this archive's folder from taking a base at the same time, until it is dropped.
pub struct BaseLock(#[expect(dead_code, reason = "held")] File);

impl Archive {
    /// Blocks nothing: refuses where another process takes a base.
    pub fn lock_bases(&self) -> Result<BaseLock, Fault> {
        self.make_folder(&self.root().join(FOLDER))?;
        let path = self.root().join(LOCK);
        let fault = |error: &io::Error| disk::fault("cannot lock", &path, error);
        let file = disk::open_or_create(&path).map_err(|error| fault(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(BaseLock(file)),
            Err(TryLockError::WouldBlock) => {
                Err(Fault::stop("another process takes a base into this archive").hint("wait until it ends"))
            }
            Err(TryLockError::Error(error)) => Err(fault(&error)),
        }
    }

    /// The whole bases that can be read, in the order in which they were begun.
    pub fn bases(&self) -> Result<Vec<Base>, Fault> {
        let mut bases = Vec::new();
        for begin in self.begun_bases()? {
            match self.base(&begin) {
                Ok(base) => bases.extend(base),
                Err(fault) if fault.remedy == Remedy::Person => {
                    tracing::warn!(error = %fault, base = %begin.id, "a base can't be used");
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(bases)
    }

    /// A base, if it is whole.
    pub fn base(&self, begin: &BaseBegin) -> Result<Option<Base>, Fault> {
        let Some(Checked { base, checksum }) = self.note(&done(begin))? else { return Ok(None) };
        if base.begin.format != Base::FORMAT {
            return Err(Fault::person(format!("base {} has a format of another version", begin.id))
                .hint("use the version of pgsluice that made it"));
        }
        if base.checksum()? != checksum || base.begin != *begin {
            return Err(Fault::person(format!("what is said of base {} was changed", begin.id))
                .hint("take it from a copy of the archive, or remove it: pgsluice archive drop-base"));
        }
        Ok(Some(base))
    }

    /// All that were begun, whole or not.
    pub fn begun_bases(&self) -> Result<Vec<BaseBegin>, Fault> {
        let mut begun: Vec<BaseBegin> = self.notes(BEGUN)?;
        begun.sort_by_key(|begin| (begin.start, begin.begun.clone()));
        Ok(begun)
    }

    /// Those that are not whole.
    pub fn unfinished_bases(&self) -> Result<Vec<BaseBegin>, Fault> {
        let mut unfinished = self.begun_bases()?;
        // One that can't be read is whole too.
        unfinished.retain(|begin| matches!(self.base(begin), Ok(None)));
        Ok(unfinished)
    }

    pub fn begin_base(&self, begin: &BaseBegin) -> Result<(), Fault> {
        self.put_note(&format!("{BEGUN}/{}.json", begin.id), &json(begin)?)
    }

    /// The schema of a base that is being taken.
    pub fn base_schema(&self, begin: &BaseBegin) -> Result<Option<BaseSchema>, Fault> {
        self.note(&format!("{}/schema.json", begin.folder()))
    }

    pub fn note_base_schema(&self, begin: &BaseBegin, schema: &BaseSchema) -> Result<(), Fault> {
        self.put_note(&format!("{}/schema.json", begin.folder()), &json(schema)?)
    }

    /// The tables of a base that is being taken which are whole.
    pub fn base_tables(&self, begin: &BaseBegin) -> Result<Vec<BaseTable>, Fault> {
        self.notes(&format!("{}/tables", begin.folder()))
    }

    pub fn note_base_table(&self, begin: &BaseBegin, table: &BaseTable) -> Result<(), Fault> {
        self.put_note(&format!("{}/tables/{}.json", begin.folder(), table.oid), &json(table)?)
    }

    /// That a table has to be taken anew, or is there no more.
    pub fn forget_base_table(&self, begin: &BaseBegin, oid: u32) -> Result<(), Fault> {
        self.remove_note(&format!("{}/tables", begin.folder()), &oid.to_string()).map(drop)
    }

    /// From now on it counts, unless somebody else has completed it; then that is it.
    pub fn complete_base(&self, base: Base) -> Result<Base, Fault> {
        if !self.put_base(&base)? {
            let other = self.base(&base.begin)?;
            return other
                .ok_or_else(|| Fault::retry(format!("base {} was removed meanwhile", base.begin.id)));
        }
        // In a store somebody else's may be among them; they go with the base.
        if !self.has_store() {
            for name in self.base_file_names(&base.begin)? {
                if base.files().all(|(_, _, file)| file.name != name) {
                    self.remove_base_object(&base.begin.file(&name))?;
                }
            }
        }
        Ok(base)
    }

    /// False where there is one of this id.
    fn put_base(&self, base: &Base) -> Result<bool, Fault> {
        let checked = Checked { checksum: base.checksum()?, base: base.clone() };
        self.put_note_once(&done(&base.begin), &json(&checked)?)
    }

    /// Removes a base, whole or not.
    pub fn drop_base(&self, begin: &BaseBegin) -> Result<(), Fault> {
        let id = begin.id.to_string();
        // In this order, so that what is left where it breaks off is never said to have files that are gone.
        self.remove_note(DONE, &id)?;
        for table in self.base_tables(begin)? {
            self.forget_base_table(begin, table.oid)?;
        }
        self.remove_note(&begin.folder(), "schema")?;
        for name in self.base_file_names(begin)? {
            self.remove_base_object(&begin.file(&name))?;
        }
        self.remove_note(BEGUN, &id)?;
        let folder = self.root().join(begin.folder());
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(disk::fault("cannot remove", &folder, &error))
            }
            _ => Ok(()),
        }
    }

    /// Takes over the bases of the archive that this one is a copy of, each read whole on the way. Gives the bytes that came.
    pub(super) fn take_bases(&self, from: &Archive) -> Result<u64, Fault> {
        let there = self.bases()?;
        let mut bytes = 0;
        for base in from.bases()? {
            if there.contains(&base) {
                continue;
            }
            for (table, number, file) in base.files() {
                let source = from.base_reader(&base.begin, table, number, file)?;
                base_file::take(self, &base.begin, file, source)?;
                bytes += file.bytes;
            }
            self.begin_base(&base.begin)?;
            self.put_base(&base)?;
        }
        Ok(bytes)
    }

    fn base_file_names(&self, begin: &BaseBegin) -> Result<Vec<String>, Fault> {
        let folder = format!("{}/files", begin.folder());
        let mut names = Vec::new();
        if let Some(depot) = self.depot() {
            let listed = depot.store().list(&folder, None)?;
            names.extend(listed.iter().filter_map(|object| object.key.strip_prefix(&folder)).map(bare));
        }
        let path = self.root().join(&folder);
        match std::fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            entries => {
                for entry in entries.map_err(|error| disk::fault("cannot list", &path, &error))? {
                    let entry = entry.map_err(|error| disk::fault("cannot list", &path, &error))?;
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Ok(names)
    }

    fn remove_base_object(&self, key: &str) -> Result<(), Fault> {
        if let Some(depot) = self.depot() {
            depot.store().delete(key)?;
        }
        disk::remove(&self.root().join(key))
    }
}

fn done(begin: &BaseBegin) -> String {
    format!("{DONE}/{}.json", begin.id)
}

fn bare(rest: &str) -> String {
    rest.trim_start_matches('/').to_owned()
}
