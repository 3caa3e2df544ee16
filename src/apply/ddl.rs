//! Captured DDL on its way to the target: run at its place between the rows, in the transaction that carries them.
//!
//! The events of a transaction are read ahead when the first of them comes, since only all together tell which statement each
//! is of. After it was run, what must hold is looked at: that it met the tables that it met on the source, and that rows which
//! were there got the same values. What does not hold, or is not certain, is a stop: a person runs it and says so.

use std::collections::VecDeque;

use tokio_postgres::Client;

use super::describe;
use super::inside::Inside;
use crate::archive::{Archive, Reader, Tail};
use crate::ddl::{Action, Event, Kind, PREFIX, Run, plan};
use crate::model::{Fault, Lsn, Position, quote_literal};
use crate::pg::control::fault;
use crate::pgoutput::{Begin, Message, decode};

/// What to do with DDL that the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ddl {
    pub mode: DdlMode,
    /// Transactions by the start of their commit, whose DDL a person has run on the target.
    pub skip: Vec<Lsn>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DdlMode {
    Apply,
    /// Log it only.
    Print,
    #[default]
    Ignore,
}

/// Settings that decide what a statement's text means; what the log says of others does not count.
const SETTINGS: [&str; 9] = [
    "search_path",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "standard_conforming_strings",
    "backslash_quote",
    "transform_null_equals",
    "array_nulls",
    "xmloption",
];
/// Bytes of events of one transaction that are held.
const EVENTS_BYTES_MAX: usize = 64 << 20;

/// The DDL of the transaction that is being applied.
pub(super) struct Captured {
    actions: VecDeque<Action>,
    /// What the source ran, for a person.
    queries: Vec<(Lsn, String)>,
    /// Opened with the first statement that is run: from then on only the transaction itself sees the tables as they are.
    pub(super) inside: Option<Inside>,
}

/// Whether a logical message is of the event triggers.
pub(super) fn is_captured(prefix: &[u8]) -> bool {
    prefix == PREFIX.as_bytes()
}

/// For the log: the command and its text.
pub(super) fn print(content: &[u8], lsn: Lsn, begin: Begin) {
    match serde_json::from_slice::<Event>(content) {
        Ok(event) if event.kind == Kind::Command || event.query.is_some() => {
            let query = event.query.unwrap_or_else(|| "(of the string above)".into());
            tracing::info!(%lsn, commit_lsn = %begin.commit_lsn, tag = event.tag, nested = event.nested, %query, "ddl");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%lsn, %error, "a captured ddl can't be read"),
    }
}

impl Captured {
    /// Reads the transaction's events ahead. Blocks on the disk.
    pub(super) fn read(
        archive: &Archive,
        tail: Option<Tail>,
        progress: Position,
        begin: Begin,
    ) -> Result<Captured, Fault> {
        let damaged = |error: &dyn std::fmt::Display| {
            Fault::person(format!("the log can't be read: {error}")).context(describe::begun(begin))
        };
        let mut reader = Reader::open(archive, progress, tail)?;
        let (mut events, mut queries) = (Vec::new(), Vec::new());
        let (mut inside, mut size) = (false, 0);
        while let Some(frame) = reader.try_next()? {
            for record in frame.records() {
                let message = decode(record.map_err(|e| damaged(&e))?).map_err(|e| damaged(&e))?;
                match message {
                    Message::Begin(other) => inside = other.commit_lsn == begin.commit_lsn,
                    Message::Commit(_) if inside => {
                        let actions = plan(&events).into();
                        return Ok(Captured { actions, queries, inside: None });
                    }
                    Message::Logical { transactional: true, lsn, prefix, content }
                        if inside && is_captured(prefix) =>
                    {
                        size += content.len();
                        if size > EVENTS_BYTES_MAX {
                            return Err(
                                Fault::stop("a transaction has too much ddl").context(describe::begun(begin))
                            );
                        }
                        let event: Event = serde_json::from_slice(content).map_err(|e| damaged(&e))?;
                        queries.extend(event.query.clone().map(|query| (lsn, query)));
                        events.push(event);
                    }
                    _ => {}
                }
            }
        }
        Err(damaged(&"a transaction has no end"))
    }

    /// What the next event asks for.
    pub(super) fn next(&mut self) -> Result<Action, Fault> {
        self.actions.pop_front().ok_or_else(|| Fault::stop("the log tells more ddl than before"))
    }

    /// Why it goes no further, and how a person can help.
    pub(super) fn stop(&self, reason: &str, lsn: Lsn, begin: Begin) -> Fault {
        for (lsn, query) in &self.queries {
            tracing::warn!(%lsn, %query, "ddl of the transaction");
        }
        let commit = begin.commit_lsn;
        Fault::stop(format!("ddl at {lsn} in {} is not applied: {reason}", describe::begun(begin))).hint(format!(
            "run the ddl of this transaction on the target by hand, then the same command with --skip-ddl {commit}"
        ))
    }
}

/// Runs one statement over a client that is inside the transaction in hand.
pub(super) async fn run(client: &Client, run: &Run) -> Result<(), Fault> {
    let failed = |e: &tokio_postgres::Error| fault(e);
    let mut script = "SET LOCAL client_encoding = 'UTF8'; SET LOCAL check_function_bodies = off;".to_owned();
    let mut reset = "SET LOCAL check_function_bodies TO DEFAULT;".to_owned();
    for name in SETTINGS {
        if let Some(value) = run.settings.get(name) {
            script += &format!("SELECT pg_catalog.set_config('{name}', {}, true);", quote_literal(value));
            reset += &format!("SET LOCAL {name} TO DEFAULT;");
        }
    }
    for name in &run.before {
        if !exists(client, name).await? {
            return Err(Fault::stop(format!("the target has no {name}")));
        }
    }
    let mut tables = Vec::new();
    for name in &run.tables {
        tables.extend(Altered::look(client, name).await?);
    }
    if !tables.is_empty() && !run.functions.is_empty() {
        let query = "SELECT string_agg(DISTINCT proname::text, ', ') FROM pg_proc
                      WHERE proname::text = ANY ($1) AND provolatile <> 'i'";
        let row = client.query_one(query, &[&run.functions]).await.map_err(|e| failed(&e))?;
        if let Some(names) = row.get::<_, Option<String>>(0) {
            return Err(Fault::stop(format!(
                "the new values come from {names}, which need not give the same again"
            )));
        }
    }
    client.batch_execute(&script).await.map_err(|e| failed(&e))?;
    client.batch_execute(&run.sql).await.map_err(|e| failed(&e))?;
    client.batch_execute(&reset).await.map_err(|e| failed(&e))?;
    for name in &run.after {
        if !exists(client, name).await? {
            return Err(Fault::stop(format!(
                "it did not lead to {name} on the target, whose schemas differ"
            )));
        }
    }
    for table in &tables {
        table.check(client, run).await?;
    }
    client.batch_execute("SET LOCAL client_encoding TO DEFAULT").await.map_err(|e| failed(&e))
}

async fn exists(client: &Client, name: &str) -> Result<bool, Fault> {
    let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await;
    Ok(row.map_err(|e| fault(&e))?.get(0))
}

/// A table with rows, before it is altered.
struct Altered<'r> {
    name: &'r str,
    columns: i16,
}

impl Altered<'_> {
    /// None where there is no table or no row: then nothing can differ.
    async fn look<'r>(client: &Client, name: &'r str) -> Result<Option<Altered<'r>>, Fault> {
        if !exists(client, name).await? {
            return Ok(None);
        }
        let rows = client.query_one(&format!("SELECT EXISTS (SELECT FROM {name})"), &[]).await;
        if !rows.map_err(|e| fault(&e))?.get::<_, bool>(0) {
            return Ok(None);
        }
        let query =
            "SELECT coalesce(max(attnum), 0::int2) FROM pg_attribute WHERE attrelid = to_regclass($1)";
        let columns = client.query_one(query, &[&name]).await.map_err(|e| fault(&e))?.get(0);
        Ok(Some(Altered { name, columns }))
    }

    /// Whether the columns that are new have the same values here as on the source, in rows that were there before.
    async fn check(&self, client: &Client, run: &Run) -> Result<(), Fault> {
        let query = "WITH RECURSIVE tree(relation) AS (
                         SELECT to_regclass($1)::oid
                         UNION SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = relation)
                     SELECT a.attname::text, (SELECT min(m.attmissingval::text) FROM tree JOIN pg_attribute m
                              ON m.attrelid = relation AND m.attname = a.attname AND m.atthasmissing)
                       FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > $2
                        AND NOT a.attisdropped AND a.attgenerated = ''";
        let rows = client.query(query, &[&self.name, &self.columns]).await.map_err(|e| fault(&e))?;
        for row in rows {
            let (column, here): (String, Option<String>) = (row.get(0), row.get(1));
            if run.computes {
                return Err(Fault::stop(format!(
                    "rows of {} got values for the new column \"{column}\" that were computed one by one (a serial or \
                     identity column, a volatile default): here they would get others",
                    self.name
                )));
            }
            let there = run.missing.get(&(self.name.to_owned(), column.clone()));
            if there != here.as_ref() {
                let shown = |value: Option<&String>| value.map_or("null".into(), |value| value.clone());
                return Err(Fault::stop(format!(
                    "rows of {} got {} for the new column \"{column}\", here they would get {}",
                    self.name,
                    shown(there),
                    shown(here.as_ref())
                )));
            }
        }
        Ok(())
    }
}
