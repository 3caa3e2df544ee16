//! A sentinel as an object of the archive's store, replaced only while it is what was read.

use bytes::Bytes;

use crate::model::Fault;
use crate::store::{Store, Tag};

use super::{NAME, Stored, parse};

/// How often a change is tried that others come before.
const ATTEMPTS: u32 = 50;

pub(super) struct Object(pub(super) Store);

impl Object {
    pub(super) fn create(&self, stored: &Stored) -> Result<(), Fault> {
        if self.load()?.is_none() {
            self.0.put_once(NAME, text(stored)?)?;
        }
        Ok(())
    }

    pub(super) fn load(&self) -> Result<Option<(Stored, Tag)>, Fault> {
        let Some((bytes, tag)) = self.0.get_tagged(NAME)? else { return Ok(None) };
        Ok(Some((parse(&bytes, &format!("{NAME} in {}", self.0.place()))?, tag)))
    }

    /// Writes what the change says is new; `None` where there is no sentinel. Every version is another body, so an answer that got lost
    /// is found out; and two who write the same body want the same.
    pub(super) fn update(
        &self,
        mut change: impl FnMut(&mut Stored) -> bool,
    ) -> Result<Option<Stored>, Fault> {
        for _ in 0..ATTEMPTS {
            let Some((mut stored, tag)) = self.load()? else { return Ok(None) };
            if !change(&mut stored) || self.0.replace(NAME, text(&stored)?, &tag)? {
                return Ok(Some(stored));
            }
        }
        Err(Fault::retry(format!("the sentinel in {} changes all the time", self.0.place())))
    }
}

fn text(stored: &Stored) -> Result<Bytes, Fault> {
    let text = serde_json::to_vec(stored);
    text.map(Bytes::from).map_err(|error| Fault::stop(format!("cannot write JSON: {error}")))
}
