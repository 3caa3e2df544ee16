//! What is asked of a store, until its answer is clear.

pub(super) mod folder;
mod probe;
mod upload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use super::access::Patience;
use super::place::{Keeper, Place};
use super::trouble::{Kind, Trouble};
use super::{Object, Put, Tag};

/// What a download holds in memory.
pub(super) const PIECE_BYTES: usize = 8 << 20;

/// What is read at once; a length that a store announces is not trusted with more memory.
const OBJECT_BYTES_MAX: u64 = 1 << 30;

pub(in crate::store) struct Calls {
    client: Arc<dyn ObjectStore>,
    keeper: Keeper,
    prefix: String,
    patience: Patience,
}

impl Calls {
    pub(super) fn new(client: Arc<dyn ObjectStore>, place: &Place, patience: Patience) -> Calls {
        // What a disk refuses it refuses again.
        let retry = if place.keeper == Keeper::Folder { Duration::ZERO } else { patience.retry };
        let patience = Patience { retry, ..patience };
        Calls { client, keeper: place.keeper, prefix: place.prefix.clone(), patience }
    }

    pub(super) async fn put_once(&self, key: &str, body: Bytes) -> Result<Put, Trouble> {
        let path = &self.path(key)?;
        self.persist(|| self.create(path, &body)).await
    }

    pub(super) async fn overwrite(&self, key: &str, body: Bytes) -> Result<(), Trouble> {
        let path = &self.path(key)?;
        self.persist(|| self.put(path, &body, PutMode::Overwrite)).await
    }

    pub(super) async fn replace(&self, key: &str, body: Bytes, tag: Tag) -> Result<bool, Trouble> {
        let path = &self.path(key)?;
        self.persist(|| self.update(path, &body, &tag)).await
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<(Bytes, Tag)>, Trouble> {
        let path = &self.path(key)?;
        present(self.persist(|| self.fetch(path, GetOptions::new())).await)
    }

    pub(super) async fn range(
        &self,
        key: &str,
        offset: u64,
        length: usize,
        tag: Option<Tag>,
    ) -> Result<Option<Bytes>, Trouble> {
        let path = &self.path(key)?;
        let range = offset..offset.saturating_add(length as u64);
        let etag = tag.and_then(|tag| tag.etag);
        let piece = self.persist(|| async {
            let options = GetOptions::new().with_range(Some(range.clone())).with_if_match(etag.clone());
            match self.fetch(path, options).await {
                Ok((bytes, _)) => Ok(bytes),
                Err(trouble) if trouble.kind == Kind::Absent => Err(trouble),
                // Stores refuse ranges without a byte, each in its own way.
                Err(trouble) => match self.look(path).await {
                    Ok(meta) if meta.size <= offset || range.is_empty() => Ok(Bytes::new()),
                    _ => Err(trouble),
                },
            }
        });
        present(piece.await)
    }

    pub(super) async fn head(&self, key: &str) -> Result<Option<(u64, Tag)>, Trouble> {
        let path = &self.path(key)?;
        let meta = present(self.persist(|| self.look(path)).await)?;
        Ok(meta.map(|meta| (meta.size, tag(&meta))))
    }

    pub(super) async fn list(&self, folder: &str, after: Option<String>) -> Result<Vec<Object>, Trouble> {
        let path = &self.path(folder)?;
        let after = &match &after {
            Some(key) => Some(self.path(key)?),
            None => None,
        };
        self.persist(|| self.list_once(path, after.as_ref())).await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), Trouble> {
        let path = &self.path(key)?;
        let deleted = self.persist(|| self.within(self.patience.answer, self.client.delete(path)));
        present(deleted.await).map(|_| ())
    }

    /// Makes the object, or finds out what is there instead.
    async fn create(&self, path: &Path, body: &Bytes) -> Result<Put, Trouble> {
        let Err(trouble) = self.put(path, body, PutMode::Create).await else { return Ok(Put::Done) };
        if !trouble.is_unclear() {
            return Err(trouble);
        }
        match self.holds(path, body).await {
            Ok(Some(true)) if self.keeper == Keeper::Folder => folder::sync(path).await.map(|()| Put::Done),
            Ok(Some(true)) => Ok(Put::Done),
            Ok(Some(false)) => Ok(Put::Exists),
            // Not made; a conflict with another writer who then made none is no more than that.
            Ok(None) => Err(trouble.passing()),
            Err(again) if again.may_pass() => Err(trouble.passing()),
            Err(refusal) => Err(refusal),
        }
    }

    async fn update(&self, path: &Path, body: &Bytes, tag: &Tag) -> Result<bool, Trouble> {
        if self.keeper == Keeper::Folder {
            return self.update_file(path, body, tag).await;
        }
        let version = UpdateVersion { e_tag: tag.etag.clone(), version: tag.version.clone() };
        let Err(trouble) = self.put(path, body, PutMode::Update(version)).await else { return Ok(true) };
        if !trouble.is_unclear() {
            return Err(trouble);
        }
        match present(self.fetch(path, GetOptions::new()).await)? {
            Some((there, _)) if there == body => Ok(true),
            // Nothing happened yet.
            Some((_, now)) if now == *tag => Err(trouble.passing()),
            Some(_) | None => Ok(false),
        }
    }

    async fn put(&self, path: &Path, body: &Bytes, mode: PutMode) -> Result<(), Trouble> {
        let limit = self.patience.for_bytes(body.len() as u64);
        let put = self.client.put_opts(path, body.clone().into(), PutOptions::from(mode));
        self.within(limit, put).await.map(|_| ())
    }

    /// Whether the object holds these bytes; `None` where there is none.
    async fn holds(&self, path: &Path, body: &Bytes) -> Result<Option<bool>, Trouble> {
        let Some(meta) = present(self.look(path).await)? else { return Ok(None) };
        if meta.size != body.len() as u64 {
            return Ok(Some(false));
        }
        let there = present(self.fetch(path, GetOptions::new()).await)?;
        Ok(there.map(|(bytes, _)| bytes == body))
    }

    async fn look(&self, path: &Path) -> Result<ObjectMeta, Trouble> {
        self.within(self.patience.answer, self.client.head(path)).await
    }

    async fn fetch(&self, path: &Path, options: GetOptions) -> Result<(Bytes, Tag), Trouble> {
        let answer = self.within(self.patience.answer, self.client.get_opts(path, options)).await?;
        let tag = tag(&answer.meta);
        let announced = answer.range.end.saturating_sub(answer.range.start);
        if announced > OBJECT_BYTES_MAX {
            let text = format!("{announced} bytes are too many to be read at once");
            return Err(Trouble::new(Kind::Refused, text));
        }
        let bytes = self.within(self.patience.for_bytes(announced), answer.bytes()).await?;
        if bytes.len() as u64 != announced {
            let text = format!("{announced} bytes were announced, {} came", bytes.len());
            return Err(Trouble::new(Kind::Away, text));
        }
        Ok((bytes, tag))
    }

    async fn list_once(&self, folder: &Path, after: Option<&Path>) -> Result<Vec<Object>, Trouble> {
        let folder = (!folder.as_ref().is_empty()).then_some(folder);
        let mut listing = match after {
            Some(after) => self.client.list_with_offset(folder, after),
            None => self.client.list(folder),
        };
        let mut objects = Vec::new();
        loop {
            let next = async { listing.next().await.transpose() };
            let Some(meta) = self.within(self.patience.answer, next).await? else { break };
            // Not every server knows where to start.
            let is_after = after.is_none_or(|after| meta.location > *after);
            if let Some(key) = self.key(&meta.location).filter(|_| is_after) {
                let modified_seconds = meta.last_modified.timestamp();
                objects.push(Object { key, size_bytes: meta.size, modified_seconds });
            }
        }
        // A store need not list in order.
        objects.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(objects)
    }

    fn path(&self, key: &str) -> Result<Path, Trouble> {
        let both =
            [self.prefix.as_str(), key].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>();
        Path::parse(both.join("/")).map_err(|_| Trouble::new(Kind::Refused, "no object can have this name"))
    }

    fn key(&self, path: &Path) -> Option<String> {
        let path = path.as_ref();
        let key =
            if self.prefix.is_empty() { path } else { path.strip_prefix(&self.prefix)?.strip_prefix('/')? };
        Some(key.to_owned())
    }

    /// The client has no limit that knows how much a request carries.
    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(Trouble::from),
            Err(_) => Err(Trouble::new(Kind::Away, format!("no answer within {} s", limit.as_secs_f32()))),
        }
    }

    /// Tries again, after pauses that grow, while it may help and there is time.
    async fn persist<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let started = Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            let trouble = match attempt().await {
                Ok(done) => return Ok(done),
                Err(trouble) => trouble,
            };
            if !trouble.may_pass() || started.elapsed() + pause > self.patience.retry {
                return Err(trouble.after(started.elapsed()));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

fn tag(meta: &ObjectMeta) -> Tag {
    Tag { etag: meta.e_tag.clone(), version: meta.version.clone() }
}

/// An object that is not there is no trouble.
fn present<T>(done: Result<T, Trouble>) -> Result<Option<T>, Trouble> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(trouble) if trouble.kind == Kind::Absent => Ok(None),
        Err(trouble) => Err(trouble),
    }
}
