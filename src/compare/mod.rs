//! Source against target, table by table, at one exact position while changes go on, and the difference put right. Hides how the
//! two are brought to one position (`moment`), how rows are told apart without sending them (`sums`, `rows`), and how what is wrong is
//! written (`repair`).
//!
//! ```text
//! applier stands ─► slot: snapshot of the source at X ─► applier goes on to X ─► snapshot of the target ─► applier goes on
//!                         each row a 64-bit hash, hashes summed into buckets by their own low bits, on both servers
//!                         buckets that differ ─► their rows' keys and hashes, merged ─► missing, extra, different
//! ```
//!
//! A bucket is chosen by the row's hash, not by its key: so the rows can be read in whatever order each server has them, in pieces
//! side by side, and nothing depends on an order of keys that two servers may not agree on. A row that differs makes its bucket of the
//! source differ and its bucket of the target, so both forms of it are found in the second look. `docs/COMPARE.md` has the limits.

mod classify;
mod moment;
mod plan;
mod repair;
mod report;
mod rows;
mod sql;
mod sums;

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::model::{Fault, Position, Remedy};
use crate::pg::filter::ColumnList;
use crate::pg::pattern::Pattern;
use crate::pg::{Conninfo, control, dead, progress};
use crate::sentinel::{Holder, Home, Sentinel};

use moment::Moment;
use plan::Pair;

pub use classify::Kind;
pub use report::{Report, ShownRow, TableReport};

const APPLICATION: &str = "pgsluice compare";

/// What is compared, and how.
pub struct Options {
    pub source: Conninfo,
    pub target: Conninfo,
    /// Says which tables, columns and rows the target should have; without it all user tables are meant.
    pub publication: String,
    pub tables: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
    pub columns: Vec<ColumnList>,
    /// Where the two are the same; none where nothing changes.
    pub held: Option<Held>,
    /// Connections to each side.
    pub jobs: usize,
    /// Differing rows of a table that are named.
    pub show: usize,
    pub repair: bool,
}

/// Whose applier is held.
pub struct Held {
    pub sentinel: Home,
    /// The progress row's name.
    pub stream: String,
    /// For the source's transactions to end, and for the applier to move.
    pub patience: Duration,
    /// Where the source is a copy, brings it to a position that the target has.
    pub bring: Option<Bring>,
}

/// Has a copy come to a position.
pub type Bring = Rc<dyn Fn(Position) -> LocalBoxFuture<'static, Result<(), Fault>>>;

/// What is heard while it runs.
pub enum Event<'a> {
    /// Nothing is read before something has happened.
    Waiting(&'a str),
    /// So many bytes of tables are to be read.
    Begins(u64),
    Read(u64),
    Compared(&'a TableReport),
}

/// Compares, and with `repair` once more what differed, with the applier held until that is repaired.
pub async fn run(
    options: &Options,
    stop: watch::Receiver<bool>,
    tell: &dyn Fn(Event<'_>),
) -> Result<Report, Fault> {
    let started = Instant::now();
    let mut report = round(options, None, stop.clone(), tell).await?;
    if options.repair && report.tables.iter().any(TableReport::may_be_repaired) {
        let differing: Vec<_> = report.tables.extract_if(.., |table| table.may_be_repaired()).collect();
        let names: Vec<_> = differing.iter().map(|table| table.name.clone()).collect();
        let second = round(options, Some(&names), stop, tell).await?;
        let is_there = |name: &String| second.tables.iter().any(|table| table.name == *name);
        let gone = differing.into_iter().filter(|table| !is_there(&table.name));
        report.tables.extend(gone.map(|table| TableReport {
            problem: Some("not repaired: it can't be compared any more".into()),
            ..table
        }));
        report.lsn = second.lsn;
        report.held_seconds += second.held_seconds;
        report.tables.extend(second.tables);
        report.tables.sort_by(|one, other| one.name.cmp(&other.name));
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// One comparison; of these tables only, which are then repaired.
async fn round(
    options: &Options,
    only: Option<&[String]>,
    stop: watch::Receiver<bool>,
    tell: &dyn Fn(Event<'_>),
) -> Result<Report, Fault> {
    let source = control::connect(&options.source, APPLICATION).await.map_err(says("source"))?;
    let target = control::connect(&options.target, APPLICATION).await.map_err(says("target"))?;
    if options.repair && options.held.is_none() {
        refuse_beside_an_applier(&target).await?;
    }
    let mut plan = plan::read(&source, &target, options).await?;
    if let Some(only) = only {
        plan.pairs.retain(|pair| only.contains(&pair.name));
        plan.problems.retain(|table| only.contains(&table.name));
    }
    let since = Instant::now();
    let mut holder = match &options.held {
        Some(held) => Some(Holder::take(Sentinel::open(&held.sentinel)?).await?),
        None => None,
    };
    let taken = moment::take(options, &plan.pairs, &source, holder.as_ref(), stop.clone(), tell).await;
    let mut held = holder.is_some().then(|| since.elapsed());
    // Only what is written needs an applier that stands until the end.
    if taken.is_err() || only.is_none() {
        release(holder.take()).await;
    }
    let moment = taken?;
    if let (Some(held), Some(_)) = (&options.held, only) {
        // It stands now, so no more is set aside, which a retry would bring once more.
        let refused = dead::refuse_open(&target, &held.stream, "nothing is repaired").await;
        if let Err(fault) = refused {
            release(holder.take()).await;
            return Err(says("target")(fault));
        }
    }
    let compared = tokio::select! {
        compared = tables(options, &plan.pairs, &moment, only.is_some(), tell) => compared,
        () = stopped(stop) => Err(interrupted()),
    };
    if holder.is_some() {
        held = Some(since.elapsed());
        release(holder).await;
    }
    let held_seconds = held.unwrap_or_default().as_secs_f64();
    let mut tables = compared?;
    tables.append(&mut plan.problems);
    tables.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Report { lsn: moment.lsn, held_seconds, seconds: 0.0, tables })
}

/// Without an applier that is held nothing keeps what it applies meanwhile from being undone.
async fn refuse_beside_an_applier(target: &Client) -> Result<(), Fault> {
    let place = progress::place(target).await.map_err(says("target"))?;
    let streams = match place {
        progress::Place::Table { .. } => {
            moment::run(target, "SELECT string_agg(stream, ', ') FROM pgsluice.progress").await?
        }
        _ => None,
    };
    streams.map_or(Ok(()), |streams| {
        Err(Fault::stop(format!(
            "changes are applied to the target ({streams}), and --static would not see them"
        ))
        .hint("repair without --static, while pgsluice follow or apply runs"))
    })
}

async fn tables(
    options: &Options,
    pairs: &[Pair],
    moment: &Moment,
    repair: bool,
    tell: &dyn Fn(Event<'_>),
) -> Result<Vec<TableReport>, Fault> {
    tell(Event::Begins(pairs.iter().map(|pair| pair.source.extent.bytes + pair.target.extent.bytes).sum()));
    let tallies = sums::sums(pairs, moment, tell).await?;
    let mut reports = Vec::new();
    for (pair, tally) in pairs.iter().zip(tallies) {
        let started = Instant::now();
        let mut report = tally.report(pair);
        let buckets = tally.differing();
        if !buckets.is_empty() {
            let kept = if repair { repair::ROWS_MAX + 1 } else { options.show };
            let (source, target) = moment.pair()?;
            let found = rows::differences(source, target, pair, &buckets, kept).await?;
            (report.missing, report.extra, report.different) = (found.missing, found.extra, found.different);
            let shown = found.kept.get(..options.show.min(found.kept.len())).unwrap_or_default();
            report.rows = rows::shown(source, target, pair, shown).await?;
            if repair {
                let guard = options.held.as_ref().map(|held| held.stream.as_str()).zip(moment.lsn);
                match repair::refusal(pair, &found.kept) {
                    Some(refusal) => report.problem = Some(refusal),
                    None => {
                        let repaired =
                            repair::repair(source, &options.target, pair, &found.kept, guard).await;
                        match repaired {
                            Ok(rows) => report.repaired = rows,
                            // Others may still be put right.
                            Err(fault) if fault.remedy == Remedy::Stop => {
                                report.problem = Some(fault.to_string());
                            }
                            Err(fault) => return Err(fault),
                        }
                    }
                }
            }
        }
        report.seconds += started.elapsed().as_secs_f64();
        tell(Event::Compared(&report));
        reports.push(report);
    }
    Ok(reports)
}

async fn release(holder: Option<Holder>) {
    if let Some(holder) = holder {
        holder.release().await;
    }
}

/// Says of a fault on which side it happened.
fn says(side: &'static str) -> impl Fn(Fault) -> Fault {
    move |fault| fault.context(side)
}

/// Ready when somebody wants this to end.
async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn interrupted() -> Fault {
    Fault::stop("interrupted: the applier goes on, and nothing of the table in hand was changed")
}
