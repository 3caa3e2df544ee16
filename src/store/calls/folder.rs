//! What a folder needs beside object_store: replacing a file only if it is the one that was read, and what a crash left.

use std::fs::File;
use std::io;
use std::path::Path as FilePath;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::PutMode;
use object_store::path::Path;

use super::super::Tag;
use super::super::trouble::{Kind, Trouble};
use super::{Calls, present, tag};

impl Calls {
    /// Under a lock on the file's folder, which all that replace files there take.
    pub(super) async fn update_file(&self, path: &Path, body: &Bytes, read: &Tag) -> Result<bool, Trouble> {
        let file = format!("/{path}");
        let lock = blocking(move || {
            let folder = FilePath::new(&file).parent().unwrap_or(FilePath::new("/"));
            match File::open(folder) {
                Ok(folder) => folder.lock().map(|()| Some(folder)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        });
        let Some(_lock) = lock.await? else { return Ok(false) };
        match present(self.look(path).await)? {
            Some(meta) if tag(&meta) == *read => {
                self.put(path, body, PutMode::Overwrite).await.map(|()| true)
            }
            _ => Ok(false),
        }
    }
}

/// Makes the name of a file durable whose writer may have been killed before it could do so.
pub(super) async fn sync(path: &Path) -> Result<(), Trouble> {
    let file = format!("/{path}");
    blocking(move || {
        FilePath::new(&file).ancestors().skip(1).try_for_each(|folder| File::open(folder)?.sync_all())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Trouble> {
    let refuse = |error: &dyn std::fmt::Display| Trouble::new(Kind::Refused, error.to_string());
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| refuse(&error))?;
    done.map_err(|error| refuse(&error))
}

/// A writer who is that slow has lost its lease on any lock.
const STAGED_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Removes files that a put staged (`name#1`) and never gave their name. Not young ones: their writers may be alive, and a name
/// that is free again would be taken by another.
pub(in crate::store) fn sweep(folder: &FilePath) -> io::Result<usize> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += sweep(&entry.path())?;
            continue;
        }
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.rsplit_once('#')).map_or("", |(_, suffix)| suffix);
        let is_staged = !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit());
        let age = || SystemTime::now().duration_since(entry.metadata().ok()?.modified().ok()?).ok();
        if is_staged && age().is_some_and(|age| age > STAGED_AGE_MIN) {
            std::fs::remove_file(entry.path())?;
            count += 1;
        }
    }
    Ok(count)
}
