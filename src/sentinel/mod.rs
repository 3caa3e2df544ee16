//! How control is kept: one small object in the archive, changed by compare-and-set.
//!
//! It hides where that object is and how a change is made whole. Operators write `endpos` and `apply`, the processes that
//! run write their positions (at most once a second), and each of them sees the others' changes. Here it is
//! `sentinel.json` in the archive's folder; a lock beside it makes read, change and replace one step, and a version that
//! every change increments tells readers that something is new. The positions in it are for looking only: what was
//! acknowledged or applied is never decided by them.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{Fault, Position};

/// What is kept. Positions are `0/0` where unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub startpos: Position,
    /// Where to stop; unset means never.
    pub endpos: Position,
    /// Whether what is received is also applied; otherwise it is only prefetched.
    pub apply: bool,
    pub write_lsn: Position,
    pub flush_lsn: Position,
    pub replay_lsn: Position,
}

impl Control {
    pub fn endpos(&self) -> Option<Position> {
        (self.endpos != Position::ZERO).then_some(self.endpos)
    }
}

/// The file: a version beside the fields.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    #[serde(flatten)]
    control: Control,
}

/// What a reader saw last: the file's identity, so that an unchanged one is not read again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    modified: (i64, i64),
}

/// A handle on an archive's sentinel.
pub struct Sentinel {
    folder: PathBuf,
    seen: Option<Seen>,
    version: u64,
}

const NAME: &str = "sentinel.json";
const LOCK: &str = "sentinel.lock";
/// Far more than it can need; a larger file is not ours.
const BYTES_MAX: u64 = 64 * 1024;

impl Sentinel {
    /// Makes the sentinel of the archive in `folder`. One that is there stays as it is.
    pub fn create(folder: &Path, control: Control) -> Result<Sentinel, Fault> {
        let sentinel = Sentinel { folder: folder.to_owned(), seen: None, version: 0 };
        let lock = sentinel.lock()?;
        match sentinel.load() {
            Ok(Some(_)) => {}
            Ok(None) => sentinel.store(&Stored { version: 1, control })?,
            Err(fault) => return Err(fault),
        }
        drop(lock);
        Ok(sentinel)
    }

    pub fn open(folder: &Path) -> Result<Sentinel, Fault> {
        let sentinel = Sentinel { folder: folder.to_owned(), seen: None, version: 0 };
        sentinel.read()?;
        Ok(sentinel)
    }

    pub fn read(&self) -> Result<Control, Fault> {
        self.load()?.map(|stored| stored.control).ok_or_else(|| self.missing())
    }

    /// Reads, changes and replaces in one step; gives what is kept now. Nothing is written where nothing changes.
    pub fn update(&self, change: impl FnOnce(&mut Control)) -> Result<Control, Fault> {
        let lock = self.lock()?;
        let mut stored = self.load()?.ok_or_else(|| self.missing())?;
        let before = stored.control;
        change(&mut stored.control);
        if stored.control != before {
            stored.version += 1;
            self.store(&stored)?;
        }
        drop(lock);
        Ok(stored.control)
    }

    /// What is kept, if it changed since this handle last asked (the first time always). Costs one `stat` otherwise.
    pub fn changed(&mut self) -> Result<Option<Control>, Fault> {
        let path = self.path();
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.missing()),
            other => other.map_err(|e| broken("reading", &path, &e))?,
        };
        let seen = Seen { inode: metadata.ino(), modified: (metadata.mtime(), metadata.mtime_nsec()) };
        if self.seen == Some(seen) {
            return Ok(None);
        }
        let stored = self.load()?.ok_or_else(|| self.missing())?;
        self.seen = Some(seen);
        if self.version == stored.version {
            return Ok(None);
        }
        self.version = stored.version;
        Ok(Some(stored.control))
    }

    fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    fn missing(&self) -> Fault {
        Fault::stop(format!("no sentinel in {}", self.folder.display()))
            .hint("make the archive with: pgsluice setup")
    }

    fn lock(&self) -> Result<File, Fault> {
        let path = self.folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| broken("opening", &path, &e))?;
        file.lock().map_err(|e| broken("locking", &path, &e))?;
        Ok(file)
    }

    fn load(&self) -> Result<Option<Stored>, Fault> {
        let path = self.path();
        let bytes = match std::fs::metadata(&path).and_then(|metadata| {
            if metadata.len() > BYTES_MAX { Ok(Vec::new()) } else { std::fs::read(&path) }
        }) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| broken("reading", &path, &e))?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Fault::person(format!("the sentinel {} is damaged: {error}", path.display())).hint(
                "it holds control only, no data: remove it, run pgsluice setup, and set endpos and apply again",
            )
        })
    }

    fn store(&self, stored: &Stored) -> Result<(), Fault> {
        let path = self.path();
        let failed = |e: &std::io::Error| broken("writing", &path, e);
        let text = serde_json::to_vec(stored).map_err(|e| failed(&e.into()))?;
        replace(&path, &text).map_err(|e| failed(&e))
    }
}

/// Puts a file in place whole, or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Nothing was changed, and the same may succeed later (a full disk).
fn broken(doing: &str, path: &Path, error: &std::io::Error) -> Fault {
    Fault::retry(format!("{doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Remedy;

    fn fresh() -> (tempfile::TempDir, Sentinel) {
        let folder = tempfile::tempdir().unwrap();
        let control = Control { startpos: Position(0x10), apply: true, ..Control::default() };
        let sentinel = Sentinel::create(folder.path(), control).unwrap();
        (folder, sentinel)
    }

    #[test]
    fn creation_keeps_what_is_there() {
        let (folder, sentinel) = fresh();
        sentinel.update(|control| control.endpos = Position(0x20)).unwrap();
        let again = Sentinel::create(folder.path(), Control::default()).unwrap().read().unwrap();
        assert_eq!(again.endpos(), Some(Position(0x20)));
        assert!(again.apply);
    }

    #[test]
    fn is_written_as_the_contract_says() {
        let (_folder, sentinel) = fresh();
        let text = serde_json::to_string(&sentinel.read().unwrap()).unwrap();
        let expected = r#"{"startpos":"0/10","endpos":"0/0","apply":true,"write_lsn":"0/0","flush_lsn":"0/0","replay_lsn":"0/0"}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_reader_sees_each_change_once() {
        let (folder, writer) = fresh();
        let mut reader = Sentinel::open(folder.path()).unwrap();
        assert!(reader.changed().unwrap().is_some());
        assert!(reader.changed().unwrap().is_none());
        writer.update(|control| control.apply = false).unwrap();
        assert!(!reader.changed().unwrap().unwrap().apply);
        writer.update(|control| control.apply = false).unwrap();
        assert!(reader.changed().unwrap().is_none());
    }

    #[test]
    fn concurrent_changes_are_all_kept() {
        let (folder, sentinel) = fresh();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let own = Sentinel::open(folder.path()).unwrap();
                    for _ in 0..25 {
                        own.update(|control| control.write_lsn.0 += 1).unwrap();
                    }
                });
            }
        });
        assert_eq!(sentinel.read().unwrap().write_lsn, Position(100));
    }

    #[test]
    fn damage_is_told_and_left_alone() {
        let (folder, sentinel) = fresh();
        let path = folder.path().join(NAME);
        for damage in [&b""[..], b"{", b"{\"version\":1}", &[b' '; 100_000]] {
            std::fs::write(&path, damage).unwrap();
            let fault = sentinel.update(|control| control.apply = true).unwrap_err();
            assert_eq!(fault.remedy, Remedy::Person);
            assert!(fault.hint.is_some());
            assert_eq!(std::fs::read(&path).unwrap(), damage);
        }
    }
}
