//! A sentinel as a file of the archive's folder; a lock beside it makes read, change and replace one step.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::model::Fault;

use super::{NAME, Stored, missing, parse};

const LOCK: &str = "sentinel.lock";
/// Far more than it can need; a larger file is not ours.
const BYTES_MAX: u64 = 64 * 1024;

pub(super) struct File {
    folder: PathBuf,
    seen: Option<Seen>,
}

/// What a reader saw last: the file's identity, so that an unchanged one is not read again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    modified: (i64, i64),
}

impl File {
    pub(super) fn new(folder: &Path) -> File {
        File { folder: folder.to_owned(), seen: None }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn create(&self, stored: &Stored) -> Result<(), Fault> {
        let _lock = self.lock()?;
        match self.load()? {
            Some(_) => Ok(()),
            None => self.store(stored),
        }
    }

    /// Writes what the change says is new; `None` where there is no sentinel.
    pub(super) fn update(
        &self,
        mut change: impl FnMut(&mut Stored) -> bool,
    ) -> Result<Option<Stored>, Fault> {
        let _lock = self.lock()?;
        let mut stored = self.load()?;
        if let Some(stored) = &mut stored
            && change(stored)
        {
            self.store(stored)?;
        }
        Ok(stored)
    }

    /// What is in the file, unless it is the one that was read last this way.
    pub(super) fn load_changed(&mut self) -> Result<Option<Stored>, Fault> {
        let path = self.path();
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(&self.folder.display())),
            other => other.map_err(|e| broken("reading", &path, &e))?,
        };
        let now = Seen { inode: metadata.ino(), modified: (metadata.mtime(), metadata.mtime_nsec()) };
        if self.seen == Some(now) {
            return Ok(None);
        }
        let stored = self.load()?.ok_or_else(|| missing(&self.folder.display()))?;
        self.seen = Some(now);
        Ok(Some(stored))
    }

    pub(super) fn load(&self) -> Result<Option<Stored>, Fault> {
        let path = self.path();
        let bytes = match std::fs::metadata(&path).and_then(|metadata| {
            if metadata.len() > BYTES_MAX { Ok(Vec::new()) } else { std::fs::read(&path) }
        }) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| broken("reading", &path, &e))?,
        };
        parse(&bytes, &path.display().to_string()).map(Some)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    fn lock(&self) -> Result<std::fs::File, Fault> {
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
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Nothing was changed, and the same may succeed later (a full disk).
fn broken(doing: &str, path: &Path, error: &std::io::Error) -> Fault {
    Fault::retry(format!("{doing} {}: {error}", path.display()))
}
