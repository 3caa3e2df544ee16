//! Objects that are written once: in a bucket of S3, Google or Azure, or in a folder. Hides object_store.
//!
//! What an object is called and what is in it is the caller's. The invariant: when a call says that an object is there, it is
//! there with these bytes, and stays, unless the caller replaces it; what a store answers is not believed where it can't be clear (a time-out, a connection that
//! was cut, a 5xx, a conflict), then the object is read back.
//!
//! Calls wait, as for a disk, and may be made from any thread. Each is tried again for a while; a `Fault::retry` after that
//! means that the store is away, and a `Fault::stop` that it refuses. Deliberately absent: a cache.

mod access;
mod calls;
mod place;
mod runner;
mod trouble;

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use access::{Access, Patience};
pub use place::{Keeper, Place};

use crate::model::Fault;
use calls::Calls;
use runner::Runner;
use trouble::{Secrets, Trouble};

/// What became of an object that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there with these bytes; perhaps it was already.
    Done,
    /// Another one of this name is there, with other bytes.
    Exists,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub size_bytes: u64,
    /// When it was written, in seconds since 1970.
    pub modified_seconds: i64,
}

/// Which content of an object was read; see [`Store::replace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    etag: Option<String>,
    version: Option<String>,
}

/// What a store was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// A second object of the same name is refused.
    pub put_once: bool,
    /// An object is replaced only if it is still the one that was read.
    pub replace: bool,
}

/// Cheap to clone. Keys are relative to the place, with `/` between their parts and none at the ends.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    place: Place,
    calls: Arc<Calls>,
    secrets: Secrets,
    runner: Runner,
}

impl Store {
    /// With the credentials and endpoints of this process's environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`). Sends nothing yet.
    pub fn open(place: &Place) -> Result<Store, Fault> {
        Store::open_with(place, &Access::from_environment())
    }

    pub fn open_with(place: &Place, access: &Access) -> Result<Store, Fault> {
        let secrets = access.secrets();
        let client = access
            .connect(place)
            .map_err(|trouble| trouble.into_fault(place, "", "can't be opened", &secrets))?;
        let calls = Arc::new(Calls::new(client, place, access.patience));
        Ok(Store(Arc::new(Inner { place: place.clone(), calls, secrets, runner: Runner::start()? })))
    }

    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// Makes an object unless there is one of this name. To call it again with the same bytes does no harm.
    pub fn put_once(&self, key: &str, body: Bytes) -> Result<Put, Fault> {
        self.call(key, "can't be written", async move |calls, key| calls.put_once(&key, body).await)
    }

    /// Makes or replaces an object: for names that only the caller writes to, or whose content of any time will do.
    pub fn put(&self, key: &str, body: Bytes) -> Result<(), Fault> {
        self.call(key, "can't be written", async move |calls, key| calls.overwrite(&key, body).await)
    }

    /// The whole object; `None` where there is none.
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        Ok(self.get_tagged(key)?.map(|(bytes, _)| bytes))
    }

    /// The whole object, and what tells this content from another.
    pub fn get_tagged(&self, key: &str) -> Result<Option<(Bytes, Tag)>, Fault> {
        self.call(key, "can't be read", async move |calls, key| calls.get(&key).await)
    }

    /// Replaces an object if it still is what was read with this tag; `false` where it isn't, or is gone. The bodies that
    /// are ever given to one key must differ, else an answer that got lost can't be told from another's write.
    pub fn replace(&self, key: &str, body: Bytes, tag: &Tag) -> Result<bool, Fault> {
        let tag = tag.clone();
        self.call(key, "can't be replaced", async move |calls, key| calls.replace(&key, body, tag).await)
    }

    /// These bytes of an object, fewer where it ends before, none beyond its end.
    pub fn range(&self, key: &str, offset: u64, length: usize) -> Result<Option<Bytes>, Fault> {
        self.call(key, "can't be read", async move |calls, key| calls.range(&key, offset, length, None).await)
    }

    pub fn size(&self, key: &str) -> Result<Option<u64>, Fault> {
        let head = self.call(key, "can't be read", async move |calls, key| calls.head(&key).await)?;
        Ok(head.map(|(size, _)| size))
    }

    /// Writes an object out piece by piece and says how long it is; `None`, and nothing written, where there is none. After
    /// an error a part may have been written.
    pub fn download(&self, key: &str, sink: &mut impl Write) -> Result<Option<u64>, Fault> {
        const ACTION: &str = "can't be read";
        let head = self.call(key, ACTION, async move |calls, key| calls.head(&key).await)?;
        let Some((size, tag)) = head else { return Ok(None) };
        let mut written = 0;
        while written < size {
            let length = calls::PIECE_BYTES.min(usize::try_from(size - written).unwrap_or(usize::MAX));
            let tag = tag.clone();
            let piece = self.call(key, ACTION, async move |calls, key| {
                calls.range(&key, written, length, Some(tag)).await
            })?;
            let piece = piece.unwrap_or_default();
            if piece.len() != length {
                let place = self.0.place.describe(key);
                return Err(Fault::retry(format!("{place} {ACTION}: it went away meanwhile")));
            }
            sink.write_all(&piece).map_err(|error| {
                Fault::stop(format!("{}: what was read can't be kept: {error}", self.0.place.describe(key)))
            })?;
            written += length as u64;
        }
        Ok(Some(size))
    }

    /// Brings a file into the store, in parts where it is long, and says how long it is. An object of this name is replaced: for names that
    /// nobody else writes to, since parts can't be put together only where there is none.
    pub fn upload(&self, key: &str, file: &Path) -> Result<u64, Fault> {
        let file = file.to_owned();
        self.call(key, "can't be written", async move |calls, key| calls.upload(&key, &file).await)
    }

    /// The objects in a folder (all where it is empty) and in those below it, whose keys come after the one given, in the
    /// order of their keys.
    pub fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Object>, Fault> {
        let after = after.map(str::to_owned);
        self.call(folder, "can't be listed", async move |calls, folder| calls.list(&folder, after).await)
    }

    /// An object that is gone already is as good.
    pub fn delete(&self, key: &str) -> Result<(), Fault> {
        self.call(key, "can't be deleted", async move |calls, key| calls.delete(&key).await)
    }

    /// Tries with a small object, which it removes, what the store can be trusted with.
    pub fn probe(&self) -> Result<Support, Fault> {
        self.call("", "can't be used", async move |calls, _| calls.probe().await)
    }

    /// Removes what writers that were killed left half-written in a folder, if it is older than a day, and says how many
    /// files that were. Stores elsewhere leave nothing behind.
    pub fn sweep(&self) -> Result<usize, Fault> {
        let Some(folder) = self.0.place.folder() else { return Ok(0) };
        calls::folder::sweep(&folder)
            .map_err(|error| Fault::retry(format!("{} can't be swept: {error}", self.0.place)))
    }

    fn call<T: Send + 'static, F>(
        &self,
        key: &str,
        action: &str,
        operation: impl FnOnce(Arc<Calls>, String) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
    {
        let Inner { place, calls, secrets, runner } = &*self.0;
        let done = runner.run(operation(calls.clone(), key.to_owned()))?;
        done.map_err(|trouble| trouble.into_fault(place, key, action, secrets))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.0.place)
    }
}
