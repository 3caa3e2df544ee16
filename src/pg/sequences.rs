//! Sequences: what they stand at on the source, as a message of the stream, and setting those of the target.
//!
//! Logical decoding says nothing of sequences. So they are read now and then and written into the source's WAL as a logical
//! message that is not transactional; it comes through the slot like everything else, at a position of PostgreSQL's own.
//! The end of WAL is read before the sequences: every row committed up to there had its numbers before, so a
//! sample is an upper bound for all positions up to its `as_of`.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::{fault, position};
use super::tables::{quoted_name, shown_name};
use super::{quote_ident, quote_literal};
use crate::model::{Fault, Position};

/// The prefix of the messages.
pub const PREFIX: &str = "pgsluice.sequences";
/// Sequences read by one statement.
const CHUNK: usize = 500;

/// All sequences at one moment; the content of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub as_of: Position,
    pub sequences: Vec<Sequence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub schema: String,
    pub name: String,
    pub last_value: i64,
    /// `last_value` was given out; else it is the next to be.
    pub is_called: bool,
}

/// A sample, and the names of those that this role may not read. None on a standby, which can't write a message.
pub async fn read(client: &Client, publication: &str) -> Result<Option<(Sample, Vec<String>)>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading the sequences", e);
    let standby = client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(|e| doing(&e))?;
    if standby.get(0) {
        return Ok(None);
    }
    let as_of = client.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await.map_err(|e| doing(&e))?;
    let as_of = position(as_of.get::<_, PgLsn>(0));
    let list = "SELECT n.nspname::text, c.relname::text,
               has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT')
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'S' AND c.relpersistence <> 't'
           AND n.nspname <> 'pgsluice' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
           AND (EXISTS (SELECT FROM pg_publication WHERE pubname = $1 AND puballtables)
                OR n.nspname IN (SELECT schemaname FROM pg_publication_tables WHERE pubname = $1)
                -- Elsewhere, but what a column of a published table takes its default from.
                OR EXISTS (SELECT FROM pg_depend d JOIN pg_attrdef a ON a.oid = d.objid
                             JOIN pg_class t ON t.oid = a.adrelid JOIN pg_namespace s ON s.oid = t.relnamespace
                             JOIN pg_publication_tables p ON p.schemaname = s.nspname AND p.tablename = t.relname
                            WHERE p.pubname = $1 AND d.classid = 'pg_attrdef'::regclass
                              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid))
         ORDER BY 1, 2";
    let listed = client.query(list, &[&publication]).await.map_err(|e| doing(&e))?;
    let (mut names, mut unreadable) = (Vec::<(String, String)>::new(), Vec::new());
    for row in &listed {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        if row.get(2) {
            names.push((schema, name));
        } else {
            unreadable.push(shown_name(&schema, &name));
        }
    }
    let mut sequences = Vec::with_capacity(names.len());
    for chunk in names.chunks(CHUNK) {
        let each = chunk.iter().enumerate().map(|(at, (schema, name))| {
            format!("SELECT {at}, last_value, is_called FROM {}", quoted_name(schema, name))
        });
        let query = format!("{} ORDER BY 1", each.collect::<Vec<_>>().join(" UNION ALL "));
        let rows = client.query(&query, &[]).await.map_err(|e| doing(&e))?;
        sequences.extend(chunk.iter().zip(&rows).map(|((schema, name), row)| Sequence {
            schema: schema.clone(),
            name: name.clone(),
            last_value: row.get(1),
            is_called: row.get(2),
        }));
    }
    Ok(Some((Sample { as_of, sequences }, unreadable)))
}

/// Writes a sample into the source's WAL; gives the end of its record, at which it comes through the slot.
pub async fn emit(client: &Client, sample: &Sample) -> Result<Position, Fault> {
    let content = serde_json::to_vec(sample).map_err(|error| Fault::stop(format!("a sample: {error}")))?;
    let doing = |e: &tokio_postgres::Error| fault("writing the sequences into the source's WAL", e);
    client.batch_execute("SET synchronous_commit = local").await.map_err(|e| doing(&e))?;
    // A message alone is not flushed, and so not sent, on an otherwise idle server; the commit of a transaction id is.
    let row = client
        .query_one(
            "SELECT pg_logical_emit_message(false, $1, $2::bytea), pg_current_xact_id()::text",
            &[&PREFIX, &content],
        )
        .await
        .map_err(|e| doing(&e))?;
    Ok(position(row.get::<_, PgLsn>(0)))
}

/// Those of a sample that the target is behind of: its next number may have been given out by the source. Each with the SQL that
/// mends it.
pub async fn behind(client: &Client, sample: &Sample) -> Result<Vec<(String, String)>, Fault> {
    let mut behind = Vec::new();
    for sequence in sample.sequences.iter().filter(|sequence| sequence.is_called) {
        // One that may not be read is not known to be behind.
        let query = "SELECT s.seqincrement > 0, l.last_value
                       FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
                       JOIN pg_namespace n ON n.oid = c.relnamespace
                       JOIN pg_sequences l ON l.schemaname = n.nspname AND l.sequencename = c.relname
                      WHERE n.nspname = $1 AND c.relname = $2 AND NOT s.seqcycle
                        AND has_sequence_privilege(c.oid, 'SELECT, USAGE')";
        let row = client.query_opt(query, &[&sequence.schema, &sequence.name]).await;
        let row = row.map_err(|e| fault("looking at the target's sequences", &e))?;
        let Some(row) = row else { continue };
        let (ascends, last): (bool, Option<i64>) = (row.get(0), row.get(1));
        let is_behind =
            last.is_none_or(|last| (last < sequence.last_value) == ascends && last != sequence.last_value);
        if is_behind {
            let name = quoted_name(&sequence.schema, &sequence.name);
            behind.push((
                shown_name(&sequence.schema, &sequence.name),
                format!("SELECT setval({}, {});", quote_literal(&name), sequence.last_value),
            ));
        }
    }
    Ok(behind)
}

/// What became of a sample on the target.
#[derive(Debug, Default)]
pub struct Outcome {
    pub set: u64,
    /// Not on the target.
    pub missing: Vec<String>,
    /// With limits that the source's value lies beyond.
    pub out_of_range: Vec<String>,
}

/// Sets the target's sequences to the sample's, only ever forward: one that is further stays. A sequence that cycles has no
/// forward, so it is set as it is on the source.
pub async fn set(client: &Client, sample: &Sample) -> Result<Outcome, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("looking at the target's sequences", e);
    let mut outcome = Outcome::default();
    for sequence in &sample.sequences {
        let facts = client
            .query_opt(
                "SELECT s.seqincrement > 0, s.seqmin, s.seqmax, s.seqcycle
                   FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
                &[&sequence.schema, &sequence.name],
            )
            .await
            .map_err(|e| doing(&e))?;
        let shown = shown_name(&sequence.schema, &sequence.name);
        let Some(facts) = facts else {
            outcome.missing.push(shown);
            continue;
        };
        let quoted = quoted_name(&sequence.schema, &sequence.name);
        let doing = format!("setting sequence {shown} on the target");
        let now = client
            .query_one(&format!("SELECT last_value, is_called FROM {quoted}"), &[])
            .await
            .map_err(|e| fault(&doing, &e))?;
        let limits = facts.get(1)..=facts.get(2);
        let forward = Forward { ascending: facts.get(0), cycles: facts.get(3) }
            .leads((now.get(0), now.get(1)), sequence);
        if !limits.contains(&sequence.last_value) {
            outcome.out_of_range.push(shown);
        } else if forward {
            let sql = format!(
                "SELECT setval({}::regclass, {}, {})",
                quote_literal(&quoted),
                sequence.last_value,
                sequence.is_called
            );
            client.query_one(&sql, &[]).await.map_err(|e| {
                fault(&doing, &e).hint(format!(
                    "all rows are applied; the role needs GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {}, \
                     or leave sequences alone with --sequences off",
                    quote_ident(&sequence.schema)
                ))
            })?;
            outcome.set += 1;
        }
    }
    Ok(outcome)
}

/// Which way a sequence goes.
struct Forward {
    ascending: bool,
    cycles: bool,
}

impl Forward {
    /// Whether the sample's value lies ahead of `(last_value, is_called)`.
    fn leads(&self, now: (i64, bool), sample: &Sequence) -> bool {
        let (last, called) = now;
        let then = (sample.last_value, sample.is_called);
        if self.cycles || then.0 == last {
            return then != now && (self.cycles || !called);
        }
        (then.0 > last) == self.ascending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ascending: bool, cycles: bool, now: (i64, bool), then: (i64, bool), leads: bool) {
        let sample = Sequence { schema: "s".into(), name: "q".into(), last_value: then.0, is_called: then.1 };
        assert_eq!(Forward { ascending, cycles }.leads(now, &sample), leads, "{now:?} to {then:?}");
    }

    #[test]
    fn only_forward() {
        check(true, false, (1, false), (5, true), true);
        check(true, false, (5, true), (5, true), false);
        check(true, false, (5, false), (5, true), true);
        check(true, false, (5, true), (5, false), false);
        check(true, false, (6, true), (5, true), false);
        check(false, false, (-1, false), (-5, true), true);
        check(false, false, (-6, true), (-5, true), false);
        check(true, true, (90, true), (3, true), true);
        check(true, true, (3, true), (3, true), false);
        check(true, true, (3, true), (3, false), true);
    }

    #[test]
    fn the_content_is_json_with_textual_positions() {
        let text = r#"{"as_of":"1/A","sequences":[{"schema":"S \"x","name":"q","last_value":-9223372036854775808,"is_called":false}]}"#;
        let sample: Sample = serde_json::from_str(text).unwrap();
        assert_eq!(sample.as_of, Position(0x1_0000_000A));
        assert_eq!(serde_json::to_string(&sample).unwrap(), text);
    }
}
