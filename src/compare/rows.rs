//! The second look: the rows of the buckets that differ, told apart by their keys.

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::StreamExt;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryStream};

use crate::model::Fault;
use crate::pg::control;

use super::classify::{Difference, Kind, Row, Values, classify};
use super::plan::{Pair, Side};
use super::report::ShownRow;
use super::says;

/// What differs in a table.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) missing: u64,
    pub(super) extra: u64,
    pub(super) different: u64,
    /// The first of them.
    pub(super) kept: Vec<Difference>,
}

/// Reads the buckets' rows on both sides, each in the order of the keys' hashes, and merges them; of the differences so many are kept.
pub(super) async fn differences(
    source: &Client,
    target: &Client,
    pair: &Pair,
    buckets: &[u64],
    kept: usize,
) -> Result<Found, Fault> {
    let query = |side: &Side| side.table.rows(&pair.columns, &pair.key, pair.buckets, buckets);
    let (of_source, of_target) =
        tokio::join!(Rows::open(source, query(&pair.source)), Rows::open(target, query(&pair.target)));
    let mut here = of_source.map_err(says("source"))?;
    let mut there = of_target.map_err(says("target"))?;
    let mut found = Found::default();
    while let Some(order) = here.order().into_iter().chain(there.order()).min() {
        let (source, target) = (
            here.take(order).await.map_err(says("source"))?,
            there.take(order).await.map_err(says("target"))?,
        );
        for difference in classify(source, target) {
            *match difference.kind {
                Kind::Missing => &mut found.missing,
                Kind::Extra => &mut found.extra,
                Kind::Different => &mut found.different,
            } += 1;
            if found.kept.len() < kept {
                found.kept.push(difference);
            }
        }
    }
    Ok(found)
}

/// Rows as they come, and the next one.
struct Rows {
    stream: Pin<Box<SimpleQueryStream>>,
    next: Option<Row>,
}

impl Rows {
    async fn open(client: &Client, sql: String) -> Result<Rows, Fault> {
        let stream = client.simple_query_raw(&sql).await.map_err(|error| control::fault(&error))?;
        let mut rows = Rows { stream: Box::pin(stream), next: None };
        rows.advance().await?;
        Ok(rows)
    }

    fn order(&self) -> Option<i64> {
        self.next.as_ref().map(|row| row.order)
    }

    /// All rows with this hash of their keys, which is that of the next one or before it.
    async fn take(&mut self, order: i64) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        while let Some(row) = self.next.take_if(|row| row.order == order) {
            rows.push(row);
            self.advance().await?;
        }
        Ok(rows)
    }

    async fn advance(&mut self) -> Result<(), Fault> {
        while let Some(message) = self.stream.next().await {
            let SimpleQueryMessage::Row(row) = message.map_err(|error| control::fault(&error))? else {
                continue;
            };
            let number = |at| row.get(at).and_then(|text| text.parse().ok());
            let (Some(order), Some(hash)) = (number(0), number(1)) else {
                return Err(Fault::stop("a row's hash makes no sense"));
            };
            let key = (2..row.len()).map(|at| row.get(at).map(str::to_owned)).collect();
            self.next = Some(Row { order, hash, key });
            return Ok(());
        }
        Ok(())
    }
}

/// Differences as they are reported, with the columns in which rows differ.
pub(super) async fn shown(
    source: &Client,
    target: &Client,
    pair: &Pair,
    differences: &[Difference],
) -> Result<Vec<ShownRow>, Fault> {
    let different = differences.iter().filter(|difference| difference.kind == Kind::Different);
    let keys: Vec<_> = different.map(|difference| difference.key.as_slice()).collect();
    let (here, there) =
        tokio::join!(fetch(source, &pair.source, pair, &keys), fetch(target, &pair.target, pair, &keys));
    let (here, there) = (here.map_err(says("source"))?, there.map_err(says("target"))?);
    let row = |difference: &Difference| {
        let both = here.get(&difference.key).zip(there.get(&difference.key));
        let columns = both.filter(|_| difference.kind == Kind::Different).map(|(here, there)| {
            let columns = pair.columns.iter().zip(here.iter().zip(there));
            columns.filter(|(_, (here, there))| here != there).map(|(name, _)| name.clone()).collect()
        });
        ShownRow {
            kind: difference.kind,
            key: pair.key.iter().cloned().zip(difference.key.iter().cloned()).collect(),
            columns: columns.unwrap_or_default(),
        }
    };
    Ok(differences.iter().map(row).collect())
}

/// The rows with these keys: all compared columns, by key.
pub(super) async fn fetch(
    client: &Client,
    side: &Side,
    pair: &Pair,
    keys: &[&[Option<String>]],
) -> Result<HashMap<Values, Values>, Fault> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = side.table.fetch(&pair.columns, &side.key(&pair.key), keys);
    let messages =
        client.simple_query(&sql).await.map_err(|error| control::fault(&error).context(&pair.name))?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let mut values: Vec<_> = (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect();
            let columns = values.split_off(pair.key.len().min(values.len()));
            Some((values, columns))
        }
        _ => None,
    });
    Ok(rows.collect())
}
