//! What a store can be trusted with, tried rather than asked.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use object_store::PutMode;

use super::super::trouble::{Kind, Trouble};
use super::super::{Put, Support};
use super::Calls;

impl Calls {
    pub(in crate::store) async fn probe(&self) -> Result<Support, Trouble> {
        self.persist(async || {
            // A name of its own: several may try at once.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
            let key = format!("probe-{:x}-{now:x}", std::process::id());
            let support = self.probe_with(&key).await;
            if let Err(trouble) = self.delete(&key).await {
                // Somebody who may not delete may still keep an archive.
                tracing::warn!(key, kind = ?trouble.kind, "the object of a trial is left behind");
            }
            support
        })
        .await
    }

    async fn probe_with(&self, key: &str) -> Result<Support, Trouble> {
        let path = &self.path(key)?;
        let [first, second, third] =
            ["first", "second", "third"].map(|text| Bytes::from_static(text.as_bytes()));
        let mut support = Support { put_once: false, replace: false };
        match self.create(path, &first).await {
            Ok(Put::Done) => {}
            Err(trouble) if trouble.kind == Kind::Unsupported => return Ok(support),
            Ok(Put::Exists) => return Err(Trouble::new(Kind::Away, "a new object was there already")),
            Err(trouble) => return Err(trouble),
        }
        match self.put(path, &second, PutMode::Create).await {
            Ok(()) => return Ok(support),
            Err(trouble) if trouble.kind == Kind::Exists => support.put_once = true,
            Err(trouble) => return Err(trouble),
        }
        let Some((there, tag)) = self.get(key).await? else {
            return Err(Trouble::new(Kind::Away, "an object is gone that was just made"));
        };
        support.put_once &= there == first;
        let replaced = match self.update(path, &second, &tag).await {
            // The tag is old now.
            Ok(true) => self.update(path, &third, &tag).await.map(|again| !again),
            other => other,
        };
        support.replace = match replaced {
            Ok(replaced) => replaced,
            Err(trouble) if matches!(trouble.kind, Kind::Unsupported | Kind::Refused) => false,
            Err(trouble) => return Err(trouble),
        };
        Ok(support)
    }
}
