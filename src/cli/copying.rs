//! What is shown of a copy: on a terminal a bar for each table that is under way and one for all, elsewhere lines in the log.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::arguments::Everywhere;
use super::print;
use crate::copy::{Done, Progress, SchemaOptions, TableProgress};
use crate::dump::{Entry, Wanted};

/// How often a log line tells of progress where no terminal shows it.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// What of the schema is told of.
const TOLD_SECONDS: f64 = 1.0;

/// How the schema is made.
#[derive(Debug, clap::Args)]
pub(super) struct MakingArguments {
    /// The target has the tables already, without rows
    #[arg(long, help_heading = "Copy")]
    pub(super) no_schema: bool,
    /// Leave the owners of objects out: all belong to the target's role
    #[arg(long, help_heading = "Copy")]
    no_owner: bool,
    /// Leave privileges out (GRANT)
    #[arg(long, help_heading = "Copy")]
    no_privileges: bool,
    /// Leave tablespaces out
    #[arg(long, help_heading = "Copy")]
    no_tablespaces: bool,
    /// Memory for making an index, such as 1GB [default: the target's]
    #[arg(long, value_name = "SIZE", help_heading = "Copy")]
    maintenance_work_mem: Option<String>,
}

impl MakingArguments {
    pub(super) fn options(&self) -> SchemaOptions {
        SchemaOptions {
            wanted: Wanted {
                owners: !self.no_owner,
                privileges: !self.no_privileges,
                tablespaces: !self.no_tablespaces,
            },
            maintenance_work_mem: self.maintenance_work_mem.clone(),
        }
    }
}

/// What was copied in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyEnd {
    pub(super) tables: usize,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

pub(super) struct CopyShown {
    progress: Progress,
    started: Instant,
    /// Of what was copied by earlier runs the rate knows nothing.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bars: Option<MultiProgress>,
    total: Option<ProgressBar>,
    tables: HashMap<String, ProgressBar>,
    before: Option<u64>,
    logged: Option<Instant>,
    end: Option<CopyEnd>,
}

impl CopyShown {
    pub(super) fn new(everywhere: &Everywhere) -> CopyShown {
        let visible = std::io::stderr().is_terminal() && !everywhere.quiet;
        let state = State { bars: visible.then(MultiProgress::new), ..State::default() };
        CopyShown { progress: Progress::default(), started: Instant::now(), state: Mutex::new(state) }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Shows how far it is; false once it has ended.
    pub(super) fn tell(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.end.is_some() {
            return false;
        }
        let tables = self.progress.tables();
        let (rows, bytes, done) = sums(&tables);
        let before = *state.before.get_or_insert(bytes);
        let rate = bytes.saturating_sub(before) as f64 / self.started.elapsed().as_secs_f64().max(0.1);
        match &state.bars {
            Some(_) => state.draw(&tables, bytes, rate),
            None if state.logged.is_none_or(|then| then.elapsed() >= LOG_INTERVAL) && !tables.is_empty() => {
                state.logged = Some(Instant::now());
                let running: Vec<&str> = tables
                    .iter()
                    .filter(|table| table.is_running())
                    .map(|table| table.name.as_str())
                    .collect();
                tracing::info!(
                    tables_done = done,
                    tables = tables.len(),
                    rows,
                    bytes,
                    bytes_per_second = rate as u64,
                    percent = percent(&tables),
                    running = running.join(", "),
                    "copying"
                );
            }
            None => {}
        }
        true
    }

    /// Tells of a part of the schema that was made, where that took a while.
    pub(super) fn made(done: &Done<'_>) {
        let what = done.entry.map(Entry::shown).unwrap_or_default();
        let (seconds, of) = (done.seconds, done.of);
        if seconds >= TOLD_SECONDS {
            tracing::info!(what, seconds, done = done.done, of, "made");
        } else {
            tracing::debug!(what, seconds, done = done.done, of, "made");
        }
    }

    /// Takes note that all is copied.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.end.is_some() {
            return;
        }
        let tables = self.progress.tables();
        let (rows, bytes, _) = sums(&tables);
        let seconds = self.started.elapsed().as_secs_f64();
        if let Some(bars) = &state.bars {
            let _ = bars.clear();
        }
        tracing::info!(tables = tables.len(), rows, bytes, seconds, "copied");
        state.end = Some(CopyEnd { tables: tables.len(), rows, bytes, seconds });
    }

    pub(super) fn ended(&self) -> Option<CopyEnd> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).end
    }
}

impl State {
    fn draw(&mut self, tables: &[std::sync::Arc<TableProgress>], bytes: u64, rate: f64) {
        let Some(bars) = &self.bars else { return };
        let total = self.total.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta}");
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let estimates = tables.iter().map(|table| (table.rows(), expected(table)));
        let (rows, all) = estimates.fold((0, 0), |sum, (rows, all)| (sum.0 + rows, sum.1 + all));
        total.set_length(all.max(1));
        total.set_position(rows);
        let done = tables.iter().filter(|table| table.is_done()).count();
        let rate = print::size(rate as u64);
        total.set_message(format!("{done}/{} tables, {}, {rate}/s", tables.len(), print::size(bytes)));
        for table in tables {
            match (table.is_running(), self.tables.contains_key(&table.name)) {
                (true, false) => {
                    let style =
                        ProgressStyle::with_template("  {msg} {wide_bar} {human_pos} rows {per_sec} {eta}");
                    let bar = bars.add(ProgressBar::new(expected(table)));
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.set_message(table.name.clone());
                    self.tables.insert(table.name.clone(), bar);
                }
                (false, true) => {
                    if let Some(bar) = self.tables.remove(&table.name) {
                        bar.finish_and_clear();
                    }
                }
                _ => {}
            }
            if let Some(bar) = self.tables.get(&table.name) {
                bar.set_length(expected(table));
                bar.set_position(table.rows());
            }
        }
    }
}

/// How many rows a table will have, as far as it can be told.
fn expected(table: &TableProgress) -> u64 {
    if table.is_done() { table.rows() } else { table.estimate.unwrap_or(0).max(table.rows()) }
}

/// Rows, bytes and whole tables.
fn sums(tables: &[std::sync::Arc<TableProgress>]) -> (u64, u64, usize) {
    tables.iter().fold((0, 0, 0), |(rows, bytes, done), table| {
        (rows + table.rows(), bytes + table.bytes(), done + usize::from(table.is_done()))
    })
}

fn percent(tables: &[std::sync::Arc<TableProgress>]) -> u64 {
    let (rows, all) =
        tables.iter().fold((0u64, 0u64), |(rows, all), table| (rows + table.rows(), all + expected(table)));
    rows.saturating_mul(100).checked_div(all).unwrap_or(0)
}
