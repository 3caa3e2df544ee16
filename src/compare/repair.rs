//! Writes the difference of a table to the target, in one transaction: what is extra goes, what is different gets the source's values, what is
//! missing is put in. The values are those of the source's snapshot, so this is exact only while the applier stands at that very
//! position; the progress row is locked, and looked at, in the same transaction.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::model::{Fault, Position, quote_literal};
use crate::pg::{Conninfo, control};

use super::classify::{Difference, Kind, Values};
use super::moment::{is_torn, run};
use super::plan::Pair;
use super::rows::fetch;
use super::{APPLICATION, says};

/// With more than this it is cheaper to copy the table anew.
pub(super) const ROWS_MAX: usize = 1_000_000;
/// Rows that are fetched at a time, and bytes of values that go in one statement.
const FETCH_ROWS: usize = 200;
const STATEMENT_BYTES: usize = 1 << 20;

/// Sessions that write do so as an applier's. Locks are neither waited for nor held for long, whatever becomes of us: the applier
/// waits for them.
const WRITING: &str = "
SET session_replication_role = replica; SET row_security = off; SET xmloption = content; SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '30s';
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

/// Why the differences are not repaired, if it is not known that nothing else is lost by that.
pub(super) fn refusal(pair: &Pair, differences: &[Difference]) -> Option<String> {
    let has = |kind| differences.iter().any(|difference| difference.kind == kind);
    if pair.source.table.filter.is_some() && has(Kind::Extra) {
        return Some("not repaired: the publication filters its rows, and which extra ones are the target's own can't be told".into());
    }
    if replaces(pair) && has(Kind::Different) && pair.has_more {
        return Some("not repaired: rows would have to be put in anew for an identity column, and columns that are not compared would be lost".into());
    }
    None
}

/// Whether a row that differs can't be updated.
fn replaces(pair: &Pair) -> bool {
    let identities = &pair.target.extent.identities;
    identities.iter().any(|column| pair.columns.contains(column) && !pair.key.contains(column))
}

/// Repairs a table and says how many rows that were. `guard`: the progress row's name, and where it must stand.
pub(super) async fn repair(
    source: &Client,
    target: &Conninfo,
    pair: &Pair,
    differences: &[Difference],
    guard: Option<(&str, Position)>,
) -> Result<u64, Fault> {
    if differences.len() > ROWS_MAX {
        return Err(Fault::stop(format!(
            "{}: more than {ROWS_MAX} rows differ, which is not repaired",
            pair.name
        ))
        .hint("truncate the table on the target, copy it anew while nothing changes, and set up again"));
    }
    let client = control::connect(target, APPLICATION).await.map_err(says("target"))?;
    let work = async {
        run(&client, WRITING).await?;
        run(&client, "BEGIN").await?;
        if let Some((stream, lsn)) = guard {
            lock_progress(&client, stream, lsn).await?;
        }
        let writer = Writer { source, client: &client, pair };
        writer.delete(differences).await?;
        writer.update(differences).await?;
        writer.insert(differences).await?;
        run(&client, "COMMIT").await
    };
    work.await.map_err(|fault| {
        fault.context(format!("target: repairing {}, of which nothing was changed", pair.name))
    })?;
    Ok(differences.len() as u64)
}

/// Nothing is applied while it is locked.
async fn lock_progress(client: &Client, stream: &str, lsn: Position) -> Result<(), Fault> {
    let query =
        format!("SELECT lsn FROM pgsluice.progress WHERE stream = {} FOR UPDATE", quote_literal(stream));
    let found = run(client, &query).await?;
    if found.as_deref() != Some(lsn.to_string().as_str()) {
        let found = found.unwrap_or_else(|| "gone".into());
        return Err(Fault::retry(format!("the applier did not stay at {lsn}, its progress is {found}"))
            .hint("run it again"));
    }
    if is_torn(client, stream).await? {
        return Err(Fault::retry("some lanes of the applier are ahead of others").hint("run it again"));
    }
    Ok(())
}

struct Writer<'a> {
    source: &'a Client,
    client: &'a Client,
    pair: &'a Pair,
}

impl Writer<'_> {
    async fn delete(&self, differences: &[Difference]) -> Result<(), Fault> {
        let extra = of(differences, Kind::Extra);
        let table = &self.pair.target.table;
        if !self.pair.has_key {
            let mut hashes: BTreeMap<i64, u64> = BTreeMap::new();
            for difference in &extra {
                *hashes.entry(difference.hash).or_default() += 1;
            }
            let hashes: Vec<_> = hashes.into_iter().collect();
            for part in hashes.chunks(FETCH_ROWS * 50) {
                let rows = part.iter().map(|(_, count)| count).sum();
                self.write(&table.delete_by_hash(&self.pair.columns, part), rows).await?;
            }
            return Ok(());
        }
        // A column that no UPDATE may set takes the row out, and in again.
        let replaced = if self.replaces() { of(differences, Kind::Different) } else { Vec::new() };
        let keys: Vec<_> = extra.into_iter().chain(replaced).map(|difference| &difference.key).collect();
        for part in parts(&keys) {
            let sql = table.delete(&self.pair.target.key(&self.pair.key), &part);
            self.write(&sql, part.len() as u64).await?;
        }
        Ok(())
    }

    async fn update(&self, differences: &[Difference]) -> Result<(), Fault> {
        if self.replaces() {
            return Ok(());
        }
        let columns = self.typed(|column| !self.pair.key.contains(column));
        let key = self.pair.target.key(&self.pair.key);
        for differences in of(differences, Kind::Different).chunks(FETCH_ROWS) {
            let rows = self.fetch(differences).await?;
            // Those of the key come first.
            let rows: Vec<_> = differences
                .iter()
                .zip(rows)
                .map(|(difference, values)| {
                    let others = self.pair.columns.iter().zip(values);
                    let others =
                        others.filter(|(name, _)| !self.pair.key.contains(name)).map(|(_, value)| value);
                    difference.key.iter().cloned().chain(others).collect::<Values>()
                })
                .collect();
            for part in parts(&rows.iter().collect::<Vec<_>>()) {
                let sql = self.pair.target.table.update(&columns, &key, &part);
                self.write(&sql, part.len() as u64).await?;
            }
        }
        Ok(())
    }

    async fn insert(&self, differences: &[Difference]) -> Result<(), Fault> {
        let columns = self.typed(|_| true);
        let mut missing = of(differences, Kind::Missing);
        if self.replaces() {
            missing.extend(of(differences, Kind::Different));
        }
        for differences in missing.chunks(FETCH_ROWS) {
            // Without a key all values are in the difference.
            let rows: Vec<Values> = if self.pair.has_key {
                self.fetch(differences).await?
            } else {
                differences.iter().map(|difference| difference.key.clone()).collect()
            };
            for part in parts(&rows.iter().collect::<Vec<_>>()) {
                let sql = self.pair.target.table.insert(&self.pair.quoted, &columns, &part);
                self.write(&sql, part.len() as u64).await?;
            }
        }
        Ok(())
    }

    fn replaces(&self) -> bool {
        replaces(self.pair)
    }

    /// Columns with the types that they have on the target.
    fn typed(&self, wanted: impl Fn(&String) -> bool) -> Vec<(String, String)> {
        let columns = self.pair.columns.iter().filter(|column| wanted(column));
        columns.map(|column| (column.clone(), self.pair.target.type_of(column))).collect()
    }

    /// The source's values of rows, in their order.
    async fn fetch(&self, differences: &[&Difference]) -> Result<Vec<Values>, Fault> {
        let keys: Vec<_> = differences.iter().map(|difference| difference.key.as_slice()).collect();
        let mut rows = fetch(self.source, &self.pair.source, self.pair, &keys).await?;
        let row = |difference: &&Difference| {
            let gone = || Fault::stop("the source has no row with a key that was found there");
            rows.remove(&difference.key).ok_or_else(gone)
        };
        differences.iter().map(row).collect()
    }

    async fn write(&self, sql: &str, rows: u64) -> Result<(), Fault> {
        let messages = self.client.simple_query(sql).await.map_err(|error| control::fault(&error))?;
        let touched = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        if touched != Some(rows) {
            let touched = touched.unwrap_or(0);
            return Err(Fault::stop(format!("{touched} rows were touched where it must be {rows}")).hint(
                "somebody else writes to the target, it has a key twice, or a trigger there leaves rows out",
            ));
        }
        Ok(())
    }
}

fn of(differences: &[Difference], kind: Kind) -> Vec<&Difference> {
    differences.iter().filter(|difference| difference.kind == kind).collect()
}

/// Cuts rows into what goes in one statement.
fn parts<'r>(rows: &[&'r Values]) -> Vec<Vec<&'r [Option<String>]>> {
    let mut parts: Vec<Vec<&[Option<String>]>> = Vec::new();
    let mut bytes = usize::MAX;
    for row in rows {
        let size: usize = row.iter().flatten().map(|value| value.len() + 10).sum();
        bytes = bytes.saturating_add(size);
        match parts.last_mut() {
            Some(part) if bytes <= STATEMENT_BYTES && part.len() < FETCH_ROWS => part.push(row),
            _ => {
                parts.push(vec![row]);
                bytes = size;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_stay_small() {
        let row = |length: usize| vec![Some("x".repeat(length))];
        let rows = [row(10), row(2 * STATEMENT_BYTES), row(10), row(STATEMENT_BYTES - 30), row(30)];
        let parts = parts(&rows.iter().collect::<Vec<_>>());
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 1]);
    }
}
