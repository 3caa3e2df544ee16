//! What the event triggers write; `pg/capture.sql` is the other side of it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The prefix of the messages.
pub const PREFIX: &str = "pgsluice.ddl";

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    #[serde(rename = "event")]
    pub kind: Kind,
    /// The command's tag, such as `ALTER TABLE`.
    pub tag: String,
    /// When the client's message came in: the same for all statements of one string.
    #[serde(default)]
    pub at: String,
    /// The whole string that the client sent. Only in the first event of a string, and not where it is too long.
    #[serde(default)]
    pub query: Option<String>,
    /// From inside of a function, a procedure or DO.
    #[serde(default)]
    pub nested: bool,
    #[serde(default)]
    pub role: String,
    /// Those that decide what the text means, `search_path` among them.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    #[serde(default)]
    pub objects: Vec<Object>,
    /// What rows get that were there before a column was, as an array's text.
    #[serde(default)]
    pub missing: Vec<Missing>,
    #[serde(default)]
    pub error: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// A command begins that will write rows, before its end is told.
    #[serde(rename = "ddl_command_start")]
    Start,
    /// A command is done.
    #[serde(rename = "ddl_command_end")]
    Command,
    /// Objects were dropped by the command that comes next.
    #[serde(rename = "sql_drop")]
    Drop,
    /// A table is rewritten by the command that comes next.
    #[serde(rename = "table_rewrite")]
    Rewrite,
    /// The trigger could not tell more.
    #[serde(rename = "failed")]
    Failed,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Object {
    /// As `pg_identify_object` says it; none for privileges.
    #[serde(rename = "type")]
    pub kind: String,
    pub schema: Option<String>,
    /// Qualified and quoted.
    pub identity: Option<String>,
    #[serde(default)]
    temporary: bool,
    /// Why a table is rewritten: bits of `AT_REWRITE_*` (event_trigger.h).
    #[serde(default)]
    pub reason: u32,
    #[serde(default)]
    pub unlogged: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Missing {
    pub table: String,
    pub column: String,
    pub value: String,
}

impl Object {
    pub fn is_temporary(&self) -> bool {
        self.temporary || self.schema.as_deref() == Some("pg_temp")
    }

    /// Whether `to_regclass` finds it by its identity, and its name is not one that the server made up.
    pub(super) fn is_relation(&self) -> bool {
        matches!(self.kind.as_str(), "table" | "view" | "materialized view" | "foreign table")
    }
}
