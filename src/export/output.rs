//! Where an export goes. The invariant: a folder has its name only when all in it is whole and durable; in a bucket `export.json` is there then.

use std::fs::{File, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;

use crate::archive::{ArchiveId, disk};
use crate::faults;
use crate::model::Fault;
use crate::store::{Put, Store};

/// The last one that is written.
const REPORT: &str = "export.json";
/// In a bucket, while an export is under way.
const CLAIM: &str = "export.partial";

pub enum Destination {
    Stdout,
    Folder(PathBuf),
    Store(Store),
}

/// A file of the export.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    pub name: String,
    pub bytes: u64,
    pub changes: u64,
}

pub struct Output(Kind);

enum Kind {
    Stdout,
    Folder { staging: Staging, to: PathBuf, _lock: File },
    Store { claim: Claim, staging: Staging },
}

/// A folder for the files that are being written; it goes with its owner, unless it has another name by then.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, folder = %self.0.display(), "can't be removed");
            }
            _ => {}
        }
    }
}

/// A place in a bucket that is ours. It is given back where nothing was put there.
struct Claim {
    store: Store,
    has_files: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.has_files
            && let Err(error) = self.store.delete(CLAIM)
        {
            tracing::warn!(%error, "{CLAIM} can't be removed");
        }
    }
}

impl Output {
    /// Refuses where something is already.
    pub fn open(to: Destination) -> Result<Output, Fault> {
        match to {
            Destination::Stdout => Ok(Output(Kind::Stdout)),
            Destination::Folder(to) => open_folder(&to),
            Destination::Store(store) => open_store(store),
        }
    }

    pub(super) fn create(&self, name: &str) -> Result<Sink, Fault> {
        let staging = match &self.0 {
            Kind::Stdout => {
                return Ok(Sink {
                    name: name.into(),
                    to: To::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout())),
                    bytes: 0,
                });
            }
            Kind::Folder { staging, .. } | Kind::Store { staging, .. } => &staging.0,
        };
        let path = staging.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| fault("cannot make the folder", folder, &error))?;
        }
        let file = disk::create_new(&path).map_err(|error| fault("cannot make", &path, &error))?;
        Ok(Sink {
            name: name.into(),
            to: To::File(BufWriter::with_capacity(BUFFER_BYTES, file), path),
            bytes: 0,
        })
    }

    /// The file is whole.
    pub(super) fn keep(&mut self, mut sink: Sink, changes: u64) -> Result<Written, Fault> {
        sink.flush().map_err(|error| sink.fault(&error))?;
        let Sink { name, to, bytes } = sink;
        if let To::File(file, path) = to {
            let synced =
                file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
            synced.map_err(|error| fault("cannot write", &path, &error))?;
            if let Kind::Store { claim, .. } = &mut self.0 {
                claim.has_files = true;
                claim.store.upload(&name, &path)?;
                std::fs::remove_file(&path).map_err(|error| fault("cannot remove", &path, &error))?;
            }
        }
        Ok(Written { name, bytes, changes })
    }

    /// All files are kept.
    pub(super) fn complete(self, report: &[u8]) -> Result<(), Fault> {
        match self.0 {
            Kind::Stdout => Ok(()),
            Kind::Folder { staging, to, _lock } => {
                let folder = &staging.0;
                let write = || {
                    disk::write_once(folder, REPORT, report)?;
                    sync_folders(folder)
                };
                write().map_err(|error| fault("cannot write to", folder, &error))?;
                faults::point("export.before_name");
                std::fs::rename(folder, &to).map_err(|error| match error.kind() {
                    ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory => taken(&to.display()),
                    _ => fault("cannot give its name to", &to, &error),
                })?;
                // From now on its old name may be another's.
                std::mem::forget(staging);
                let above = to.parent().unwrap_or(Path::new("/"));
                File::open(above)
                    .and_then(|folder| folder.sync_all())
                    .map_err(|error| fault("cannot sync", above, &error))
            }
            Kind::Store { mut claim, .. } => {
                claim.has_files = true;
                let store = &claim.store;
                match store.put_once(REPORT, Bytes::copy_from_slice(report))? {
                    Put::Done => store.delete(CLAIM),
                    Put::Exists => Err(taken(store.place())),
                }
            }
        }
    }
}

fn open_folder(to: &Path) -> Result<Output, Fault> {
    let to = std::fs::canonicalize(to).or_else(|_| std::path::absolute(to));
    let to = to.map_err(|error| Fault::usage(format!("--to-dir: {error}")))?;
    match std::fs::read_dir(&to) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(taken(&to.display()));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(taken(&to.display())),
        Err(error) => return Err(fault("cannot look into", &to, &error)),
    }
    let (Some(above), Some(name)) = (to.parent(), to.file_name()) else { return Err(taken(&to.display())) };
    let staging = above.join(format!("{}.partial", name.to_string_lossy()));
    let prepare = || {
        std::fs::create_dir_all(&staging)?;
        File::open(&staging)
    };
    let lock = prepare().map_err(|error| fault("cannot make the folder", &staging, &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Fault::stop(format!("another export writes to {}", staging.display()))
                .hint("wait for its end, or give another --to-dir"));
        }
        Err(TryLockError::Error(error)) => return Err(fault("cannot lock", &staging, &error)),
    }
    // What an export has left that was cut off.
    empty(&staging).map_err(|error| fault("cannot empty", &staging, &error))?;
    Ok(Output(Kind::Folder { staging: Staging(staging), to, _lock: lock }))
}

/// Removes what an export can have left in a folder, and nothing else: that is an error.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let is_ours = |name: &str| {
            [".sql", ".jsonl", ".json", ".json.tmp", ".parquet"].iter().any(|end| name.ends_with(end))
        };
        if entry.file_type()?.is_dir() {
            empty(&path)?;
            std::fs::remove_dir(&path)?;
        } else if is_ours(&name) {
            std::fs::remove_file(&path)?;
        } else {
            return Err(io::Error::new(
                ErrorKind::AlreadyExists,
                format!("{} is of no export", path.display()),
            ));
        }
    }
    Ok(())
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

fn open_store(store: Store) -> Result<Output, Fault> {
    if !store.list("", None)?.is_empty() {
        return Err(taken(store.place()));
    }
    let id = ArchiveId::random()?.to_string();
    if store.put_once(CLAIM, Bytes::from(id.clone()))? == Put::Exists {
        return Err(taken(store.place()));
    }
    let claim = Claim { store, has_files: false };
    let staging = std::env::temp_dir().join(format!("pgsluice-export-{id}"));
    disk::create_folder(&staging)?;
    Ok(Output(Kind::Store { claim, staging: Staging(staging) }))
}

fn taken(place: &dyn std::fmt::Display) -> Fault {
    Fault::usage(format!("there is something at {place} already, and nothing is overwritten"))
        .hint("give --to-dir a place that is empty, or not there yet")
}

fn fault(doing: &str, path: &Path, error: &io::Error) -> Fault {
    let fault = Fault::stop(format!("{doing} {}: {error}", path.display()));
    match error.kind() {
        _ if disk::is_full(error) => {
            fault.hint("free space on that disk; nothing of this export has a name yet")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => fault.hint(
            "give --to-dir a folder whose parent may be written to: it is written beside it and then renamed",
        ),
        _ => fault,
    }
}

/// A file that has this name in the export can't be written.
pub(super) fn unwritten(name: &str, error: &io::Error) -> Fault {
    fault("cannot write", Path::new(name), error)
}

const BUFFER_BYTES: usize = 256 << 10;

/// A file of the export that is being written.
pub(super) struct Sink {
    name: String,
    to: To,
    bytes: u64,
}

enum To {
    Stdout(BufWriter<Stdout>),
    File(BufWriter<File>, PathBuf),
}

impl Sink {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.write_all(bytes).map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &io::Error) -> Fault {
        match &self.to {
            To::Stdout(_) if error.kind() == ErrorKind::BrokenPipe => Fault::stop(READER_GONE),
            To::Stdout(_) => Fault::stop(format!("writing to stdout: {error}")),
            To::File(_, path) => fault("cannot write", path, error),
        }
    }
}

/// The message of the fault where whoever reads stdout went away.
pub const READER_GONE: &str = "whoever reads the export went away before its end";

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.to {
            To::Stdout(to) => to.write(bytes)?,
            To::File(to, _) => to.write(bytes)?,
        };
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Stdout(to) => to.flush(),
            To::File(to, _) => to.flush(),
        }
    }
}
