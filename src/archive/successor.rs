//! The source's successor: what `pg_upgrade` made of it, with its slot (PostgreSQL 17 and later). The log goes on there.
//!
//! ```text
//! successors/AFTER.json   made when an operator says so; the last one holds
//! ```
//!
//! `pg_upgrade` keeps OIDs and transaction ids, begins the new WAL behind the old, and refuses a slot that has not had everything.
//! So nothing lies between the old slot's end and the new slot's beginning; but system identifier and timeline are new ones.

use serde::{Deserialize, Serialize};

use super::Archive;
use super::depot::json;
use super::manifest::decimal_string;
use crate::model::{Fault, Position};

pub(super) const SUCCESSORS: &str = "successors";

/// `successors/AFTER.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Successor {
    /// Where the log ended: it has all that the server before had to say.
    pub after: Position,
    /// Where the new slot begins.
    pub from: Position,
    #[serde(with = "decimal_string")]
    pub system_identifier: u64,
    pub timeline: u32,
    pub server_version_num: u32,
}

/// Which server the log comes from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub system_identifier: u64,
    pub server_version_num: u32,
}

impl Archive {
    /// The server that the log goes on from. Blocks on disk or network.
    pub fn origin(&self) -> Result<Origin, Fault> {
        let manifest = self.manifest();
        Ok(self.successor()?.map_or(
            Origin {
                system_identifier: manifest.system_identifier,
                server_version_num: manifest.server_version_num,
            },
            |last| Origin {
                system_identifier: last.system_identifier,
                server_version_num: last.server_version_num,
            },
        ))
    }

    /// The last one; none where the log comes from one server.
    pub fn successor(&self) -> Result<Option<Successor>, Fault> {
        Ok(self.successors()?.into_iter().max_by_key(|successor| successor.after))
    }

    pub(super) fn successors(&self) -> Result<Vec<Successor>, Fault> {
        self.notes(SUCCESSORS)
    }

    /// From here on the log comes from there. One that was told for the same end, and has given nothing, gives way.
    pub fn succeed(&self, successor: &Successor) -> Result<(), Fault> {
        self.put_note(&format!("{SUCCESSORS}/{:016X}.json", successor.after.0), &json(successor)?)
    }
}
