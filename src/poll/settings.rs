//! How a table is polled, as it was asked for. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pg::tables::{quoted_name, shown_name};

/// Which rows a pull brings, and what they mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Rows above the last value of a column, each once.
    #[default]
    Append,
    /// The same of rows that are also updated: each is what its row is now.
    Upsert,
    /// Rows whose keys a trigger has noted, also those that are gone.
    Queue,
    /// All rows, unless nothing changed.
    Snapshot,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Append => "append",
            Method::Upsert => "upsert",
            Method::Queue => "queue",
            Method::Snapshot => "snapshot",
        }
    }

    /// Whether it is seen that a row was deleted.
    pub fn sees_deletes(self) -> bool {
        matches!(self, Method::Queue | Method::Snapshot)
    }

    fn has_column(self) -> bool {
        matches!(self, Method::Append | Method::Upsert)
    }

    pub(super) fn has_key(self) -> bool {
        matches!(self, Method::Upsert | Method::Queue)
    }
}

/// Which of the newest rows wait, since older ones may not be visible yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// Those that are younger.
    Time(Duration),
    /// Those with so many of the highest numbers.
    Numbers(u64),
}

impl Boundary {
    pub const TIME: Duration = Duration::from_secs(600);
    pub const NUMBERS: u64 = 10;
}

/// A table or view, and how it is polled.
#[derive(Clone, Debug)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub method: Method,
    /// The control column.
    pub column: Option<String>,
    /// Columns that tell rows apart.
    pub key: Vec<String>,
    /// From the beginning of one pull to that of the next.
    pub every: Duration,
    pub boundary: Option<Boundary>,
    /// Rows of one pull.
    pub limit: Option<u64>,
    /// Of the sessions that write a column of local times.
    pub time_zone: Option<String>,
    /// Only by transactions that have ended; only by the boundary; by both where it is not said.
    pub exact: Option<bool>,
    /// All where none is named.
    pub columns: Vec<String>,
    /// Only rows of which it is true.
    pub condition: Option<String>,
    /// Schema and name of the queue that the trigger fills.
    pub queue: Option<(String, String)>,
    /// A snapshot of more bytes is warned of.
    pub warn_bytes: u64,
}

impl Table {
    pub const EVERY: Duration = Duration::from_secs(300);
    pub const WARN_BYTES: u64 = 1 << 30;
    /// Rows of a queue that are read at a time where no limit is set.
    pub const QUEUE_LIMIT: u64 = 10_000;
    /// The ids of a batch of a queue are held in memory.
    const QUEUE_LIMIT_MAX: u64 = 1_000_000;

    pub fn new(schema: &str, name: &str, method: Method) -> Table {
        Table {
            schema: schema.into(),
            name: name.into(),
            method,
            column: None,
            key: Vec::new(),
            every: Table::EVERY,
            boundary: None,
            limit: None,
            time_zone: None,
            exact: None,
            columns: Vec::new(),
            condition: None,
            queue: None,
            warn_bytes: Table::WARN_BYTES,
        }
    }

    pub fn shown(&self) -> String {
        shown_name(&self.schema, &self.name)
    }

    pub fn quoted(&self) -> String {
        quoted_name(&self.schema, &self.name)
    }

    /// What does not go together; nothing where all does.
    pub fn check(&self) -> Result<(), String> {
        let method = self.method.name();
        let wants = |is_there: bool, wanted: bool, key: &str, why: &str| match (is_there, wanted) {
            (false, true) => Err(format!("method {method} needs {key}: {why}")),
            (true, false) => Err(format!("{key} means nothing to method {method}")),
            _ => Ok(()),
        };
        let by_column = self.method.has_column();
        wants(self.column.is_some(), by_column, "column", "the time or number that rises with new rows")?;
        wants(!self.key.is_empty(), self.method.has_key(), "key", "the columns that tell rows apart")?;
        wants(
            self.queue.is_some(),
            self.method == Method::Queue,
            "queue",
            "the table that the trigger fills (`pgsluice poll queue-sql` prints both)",
        )?;
        for (is_there, key) in [
            (self.boundary.is_some(), "boundary"),
            (self.exact.is_some(), "exact"),
            (self.time_zone.is_some(), "time-zone"),
        ] {
            wants(is_there, by_column && is_there, key, "")?;
        }
        wants(self.limit.is_some(), self.method != Method::Snapshot && self.limit.is_some(), "limit", "")?;
        if self.exact == Some(true) && self.boundary.is_some() {
            return Err("exact = true has no boundary: leave one of them out".into());
        }
        if self.limit == Some(0) {
            return Err("limit is at least 1".into());
        }
        if self.method == Method::Queue && self.limit > Some(Table::QUEUE_LIMIT_MAX) {
            return Err(format!("a queue's limit is at most {}", Table::QUEUE_LIMIT_MAX));
        }
        if self.every.is_zero() {
            return Err("every is longer than nothing".into());
        }
        let is_read = |name: &String| self.columns.is_empty() || self.columns.contains(name);
        if let Some(name) = self.column.iter().chain(&self.key).find(|name| !is_read(name)) {
            return Err(format!("columns leaves out {name}, which is needed"));
        }
        Ok(())
    }

    /// How much waits by time.
    pub(super) fn boundary_time(&self) -> Duration {
        match self.boundary {
            Some(Boundary::Time(length)) => length,
            _ => Boundary::TIME,
        }
    }

    pub(super) fn boundary_numbers(&self) -> u64 {
        match self.boundary {
            Some(Boundary::Numbers(count)) => count,
            _ => Boundary::NUMBERS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_refused() {
        let check = |change: &dyn Fn(&mut Table), method, said: &str| {
            let mut table = Table::new("s", "t", method);
            change(&mut table);
            match table.check() {
                Ok(()) => assert_eq!(said, ""),
                Err(why) => assert!(!said.is_empty() && why.contains(said), "{why}"),
            }
        };
        let column = |table: &mut Table| table.column = Some("c".into());
        check(&column, Method::Append, "");
        check(&|_| {}, Method::Append, "needs column");
        check(&|_| {}, Method::Snapshot, "");
        check(&column, Method::Snapshot, "column means nothing");
        check(&|table| table.limit = Some(1), Method::Snapshot, "limit means nothing");
        check(&|table| table.exact = Some(true), Method::Snapshot, "exact means nothing");
        check(&column, Method::Upsert, "needs key");
        check(&|table| table.key = vec!["k".into()], Method::Queue, "needs queue");
        let with = |table: &mut Table| {
            column(table);
            table.columns = vec!["other".into()];
        };
        check(&with, Method::Append, "leaves out c");
        let both = |table: &mut Table| {
            column(table);
            table.exact = Some(true);
            table.boundary = Some(Boundary::Numbers(1));
        };
        check(&both, Method::Append, "no boundary");
    }
}
