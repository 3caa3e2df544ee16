//! The first look: every row of both sides, summed up where it is.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::try_join_all;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::model::Fault;
use crate::pg::control;

use super::moment::Moment;
use super::plan::{Pair, Side};
use super::report::TableReport;
use super::sql::Pages;
use super::{Event, says};

/// Pages that one query goes through.
const PIECE_PAGES: u64 = 16 << 10;

/// What is known of a table.
#[derive(Debug)]
pub(super) struct Tally {
    /// By bucket, what the source has more than the target: rows, and the sum of their hashes.
    buckets: Vec<(i64, i128)>,
    source_rows: u64,
    target_rows: u64,
    time: Option<(Instant, Instant)>,
}

impl Tally {
    fn new(pair: &Pair) -> Tally {
        let count = usize::try_from(pair.buckets).unwrap_or(1);
        Tally { buckets: vec![(0, 0); count], source_rows: 0, target_rows: 0, time: None }
    }

    /// Takes in a bucket of a piece of one side.
    fn add(&mut self, is_source: bool, bucket: usize, rows: u64, sum: i128) {
        let sign = if is_source { 1 } else { -1 };
        *(if is_source { &mut self.source_rows } else { &mut self.target_rows }) += rows;
        if let Some((count, total)) = self.buckets.get_mut(bucket) {
            *count += sign * rows.cast_signed();
            *total += i128::from(sign) * sum;
        }
    }

    /// The buckets whose rows are not the same.
    pub(super) fn differing(&self) -> Vec<u64> {
        let differs = self.buckets.iter().enumerate().filter(|(_, bucket)| **bucket != (0, 0));
        differs.map(|(at, _)| at as u64).collect()
    }

    pub(super) fn report(&self, pair: &Pair) -> TableReport {
        TableReport {
            name: pair.name.clone(),
            source_rows: self.source_rows,
            target_rows: self.target_rows,
            ranges: pair.buckets,
            seconds: self.time.map_or(0.0, |(start, end)| (end - start).as_secs_f64()),
            ..TableReport::default()
        }
    }
}

/// Pages of a table to be read, and how many bytes that is.
struct Piece {
    pair: usize,
    pages: Pages,
    bytes: u64,
}

/// The pieces of one side, large tables first.
fn pieces(pairs: &[Pair], side: impl Fn(&Pair) -> &Side) -> VecDeque<Piece> {
    let mut order: Vec<_> = pairs.iter().enumerate().map(|(at, pair)| (at, side(pair))).collect();
    order.sort_by_key(|(_, side)| std::cmp::Reverse(side.extent.bytes));
    let mut pieces = VecDeque::new();
    for (pair, side) in order {
        let count = side.extent.pages.div_ceil(PIECE_PAGES).max(1);
        for piece in 0..count {
            let to = (piece + 1 < count).then(|| (piece + 1) * PIECE_PAGES);
            let pages = Pages { from: piece * PIECE_PAGES, to };
            pieces.push_back(Piece { pair, pages, bytes: side.extent.bytes / count });
        }
    }
    pieces
}

/// Reads all tables on both sides, over all connections at the same time.
pub(super) async fn sums(
    pairs: &[Pair],
    moment: &Moment,
    tell: &dyn Fn(Event<'_>),
) -> Result<Vec<Tally>, Fault> {
    let tallies = Mutex::new(pairs.iter().map(Tally::new).collect::<Vec<_>>());
    let source = Mutex::new(pieces(pairs, |pair| &pair.source));
    let target = Mutex::new(pieces(pairs, |pair| &pair.target));
    let work = |client, is_source: bool| {
        let pieces = if is_source { &source } else { &target };
        let tallies = &tallies;
        async move {
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(piece) = next else { return Ok::<_, Fault>(()) };
                let Some(pair) = pairs.get(piece.pair) else { return Ok(()) };
                let started = Instant::now();
                let sums = read(client, pair, is_source, piece.pages).await.map_err(|fault| {
                    says(if is_source { "source" } else { "target" })(fault.context(&pair.name))
                })?;
                let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(tally) = tallies.get_mut(piece.pair) {
                    sums.into_iter().for_each(|(bucket, rows, sum)| tally.add(is_source, bucket, rows, sum));
                    let first = tally.time.map_or(started, |(first, _)| first.min(started));
                    tally.time = Some((first, Instant::now()));
                }
                tell(Event::Read(piece.bytes));
            }
        }
    };
    let workers = moment.source.iter().map(|client| work(client, true));
    let workers = workers.chain(moment.target.iter().map(|client| work(client, false)));
    try_join_all(workers).await?;
    Ok(tallies.into_inner().unwrap_or_else(PoisonError::into_inner))
}

async fn read(
    client: &Client,
    pair: &Pair,
    is_source: bool,
    pages: Pages,
) -> Result<Vec<(usize, u64, i128)>, Fault> {
    let side = if is_source { &pair.source } else { &pair.target };
    let sql = side.table.sums(&pair.columns, pair.buckets, pages);
    let messages = client.simple_query(&sql).await.map_err(|error| control::fault(&error))?;
    let mut sums = Vec::new();
    for message in &messages {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let parsed =
            || Some((row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?, row.get(2)?.parse().ok()?));
        sums.push(parsed().ok_or_else(|| Fault::stop("a sum of hashes makes no sense"))?);
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_have_cancels_out() {
        let mut tally = Tally { buckets: vec![(0, 0); 4], source_rows: 0, target_rows: 0, time: None };
        let huge = i128::from(i64::MIN) * 1_000_000;
        for (is_source, bucket, rows, sum) in [
            (true, 0, 5, huge),
            (false, 0, 2, huge - 7),
            (false, 0, 3, 7),
            (true, 1, 2, 10),
            (false, 1, 2, 11),
            (true, 3, 1, 0),
        ] {
            tally.add(is_source, bucket, rows, sum);
        }
        assert_eq!(tally.differing(), [1, 3]);
        assert_eq!((tally.source_rows, tally.target_rows), (8, 7));
    }
}
