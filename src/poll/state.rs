//! How far all polls are: written whole into each transaction of the log that they make, and read from the last one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limit::By;
use super::{Method, PREFIX, refuse_other};
use crate::archive::{Archive, Reader};
use crate::model::{Fault, Position};
use crate::pgoutput::{Message, decode};
use crate::segment::{Peek, peek};

/// The state behind one transaction of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Of that transaction.
    pub xid: u32,
    /// By the tables' names, as `shown`.
    pub tables: BTreeMap<String, TableState>,
}

/// How far the polls of one table are. Values are PostgreSQL's own text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    pub method: Method,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What that counts, with its time zone: a value of another type means something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// The highest value of the control column that was brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The source's clock when the last pull looked (RFC 3339), and how many rows it brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
    #[serde(default)]
    pub last_rows: u64,
    /// Rows of all pulls.
    #[serde(default)]
    pub rows: u64,
    /// Rows of all pulls that were found to be gone.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deleted: u64,
    /// Up to where the last pull took rows, and what that came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_by: Option<By>,
    /// The highest number that was seen, and since when (microseconds since 2000 on the source's clock).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_since: Option<i64>,
    /// Of a snapshot: a hash of its definition, one of its rows, what the server had counted before it was taken, what decided the last time,
    /// and when the rows were looked at last (microseconds since 2000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked: Option<i64>,
    /// A queue's rows are changes of what was brought whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_loaded: bool,
    /// Why the last pull failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TableState {
    /// Whether more has become another than when and where the last pull looked: that alone is not worth a transaction of the log.
    pub(super) fn is_news_to(&self, before: &TableState) -> bool {
        let quiet = |state: &TableState| TableState {
            last_run: None,
            last_rows: 0,
            limit: None,
            limit_by: None,
            looked: None,
            ..state.clone()
        };
        quiet(self) != quiet(before)
    }
}

/// A table's state, for who looks.
#[derive(Serialize)]
pub struct Polled<'a> {
    pub table: &'a str,
    pub sees_deletes: bool,
    #[serde(flatten)]
    pub state: &'a TableState,
}

impl State {
    pub fn polled(&self) -> Vec<Polled<'_>> {
        let polled = self.tables.iter().map(|(table, state)| Polled {
            table,
            sees_deletes: state.method.sees_deletes(),
            state,
        });
        polled.collect()
    }
}

/// The state behind the last durable transaction of the log, with where that ends; none where there is none. Blocks on the disk.
pub fn last_state(archive: &Archive) -> Result<Option<(Position, State)>, Fault> {
    refuse_other(archive)?;
    let listing = archive.listing()?;
    // The newest may be open, and have nothing yet.
    for segment in listing.iter().rev() {
        let mut reader = Reader::open_listed(archive, Some(&listing), segment.after, None)?;
        let mut last = None;
        while let Some(frame) = reader.try_next()? {
            for record in frame.records() {
                let unreadable = |error: &dyn std::fmt::Display| {
                    Fault::person(format!("the frame through {} can't be read: {error}", frame.through))
                        .hint("`pgsluice archive verify` tells what is damaged")
                };
                let bytes = record.map_err(|error| unreadable(&error))?;
                if !matches!(peek(bytes), Ok(Peek::Message { transactional: true })) {
                    continue;
                }
                let message = decode(bytes).map_err(|error| unreadable(&error))?;
                if let Message::Logical { prefix, content, .. } = message
                    && prefix == PREFIX.as_bytes()
                {
                    let state: State = serde_json::from_slice(content).map_err(|error| unreadable(&error))?;
                    last = Some((frame.through, state));
                }
            }
        }
        if last.is_some() {
            return Ok(last);
        }
    }
    match archive.end()? > archive.manifest().start {
        false => Ok(None),
        true => Err(Fault::person("the log has no transaction that says how far the polls are")
            .hint("its end is missing, or it was written by something else: `pgsluice archive verify`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let table = TableState {
            method: Method::Upsert,
            last: Some("2026-01-01".into()),
            limit_by: Some(By::Both),
            ..TableState::default()
        };
        let state = State { xid: 7, tables: [("s.t".to_owned(), table.clone())].into() };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        assert!(!TableState { last_run: Some("now".into()), ..table.clone() }.is_news_to(&table));
        assert!(TableState { error: Some("e".into()), ..table.clone() }.is_news_to(&table));
    }
}
