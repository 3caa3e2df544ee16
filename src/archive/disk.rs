//! Files and folders as the archive wants them: private, not through links, durable.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::faults;
use crate::model::Fault;

/// Random bytes, good enough for keys.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    let mut read = || File::open("/dev/urandom")?.read_exact(&mut bytes);
    read().map_err(|error| Fault::stop(format!("cannot read random bytes: {error}")))?;
    Ok(bytes)
}

/// An IO error told as a fault: what was being done, to what.
pub(crate) fn fault(doing: &str, path: &Path, error: &io::Error) -> Fault {
    let fault = Fault::stop(format!("{doing} {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => fault.hint("the archive belongs to another user"),
        _ if is_full(error) => fault.hint("free space on the archive's disk"),
        _ => fault,
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether what failed did so since its folder is not there: on a disk that is not mounted, or moved.
pub(crate) fn is_away(error: &io::Error, folder: &Path) -> bool {
    error.kind() == io::ErrorKind::NotFound && !folder.is_dir()
}

pub(crate) fn create_folder(path: &Path) -> Result<(), Fault> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| fault("cannot create the folder", path, &error))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options
}

pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    options().read(true).open(path)
}

pub(super) fn open_to_write(path: &Path) -> io::Result<File> {
    options().read(true).write(true).open(path)
}

/// Opens a file, making it where it is not.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Makes a file that must not be there yet.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    options().read(true).write(true).create_new(true).open(path)
}

/// Makes a file as long as that, with zeros that already have their place on the disk.
pub(super) fn take_space(file: &File, length: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length)?)
}

/// Removes a file. One that is gone already is as good.
pub(super) fn remove(path: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault("cannot remove", path, &error)),
        _ => Ok(()),
    }
}

/// Held while a name in the folder is given or taken that another process may take or give at the same time.
pub(super) fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    folder.lock()?;
    Ok(folder)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if faults::mutated("folder_is_not_synced") {
        return Ok(());
    }
    File::open(path)?.sync_all()?;
    faults::names_are_durable(path)
}

/// Writes a whole file so that after a crash it is there with all its bytes or not at all.
pub(crate) fn write_once(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let staged = folder.join(format!("{name}.tmp"));
    let mut file = options().write(true).create(true).truncate(true).open(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&staged, folder.join(name))?;
    sync_folder(folder)
}
