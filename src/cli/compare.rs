//! `compare`: whether the target has what the source has.

use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::arguments::{Everywhere, FilterArguments, RoadArguments};
use super::backfill::refuse_left_out;
use super::conduct::needed_target;
use super::config::File;
use super::reach::Side;
use super::scratch::Scratch;
use super::{place, print};
use crate::compare::{self, Event, Held, Kind, Options, Report, ShownRow};
use crate::model::Fault;
use crate::pg::{Conninfo, dead, ruled};

/// Characters of a value that are shown to people.
const SHOWN_CHARACTERS: usize = 60;

/// Compare source and target, table by table, at one exact position, while changes go on
///
/// The applier (follow or apply, which must run) is asked to stand for some seconds, until both sides have a snapshot of the same position;
/// then it goes on while the tables are read. Exit code 3 where something differs, and after --repair where something still does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice compare --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop
  pgsluice compare --name shop --tables 'sales.*' --repair
  pgsluice compare --archive s3://bucket/shop --target postgresql://app@db2/shop --scratch postgresql://app@db2/scratch
  pgsluice compare --static --source postgresql://app@db1/shop --target postgresql://app@db3/shop --json")]
pub(crate) struct CompareCommand {
    #[command(flatten)]
    road: RoadArguments,
    #[command(flatten)]
    filter: FilterArguments,
    /// Connections to each side that read at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Differing rows of a table that are named; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
    /// Compare the tables that differ once more with the applier held, and write the difference to the target; exit code 0 where all of
    /// it was written
    #[arg(long)]
    repair: bool,
    /// Compare what both sides have now, for sides that don't change: no applier, archive or slot is needed
    #[arg(long = "static")]
    at_rest: bool,
    /// Compare with what the archive says instead of with the source, which is not needed: a base and the log are brought back into this
    /// database. It must be empty, or left by such a comparison, which it then goes on from
    #[arg(long, value_name = "URI", env = "PGSLUICE_SCRATCH", hide_env_values = true, conflicts_with_all = ["at_rest", "repair"])]
    scratch: Option<String>,
    /// How long transactions of the source may keep its snapshot waiting, and how long the applier may stay in one place before it arrives
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl CompareCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let place = self.road.archive.place(file)?;
        let names = self.road.stream.names(&place, file)?;
        let target = needed_target(self.road.target.conninfo(file)?)?;
        let (tables, exclude) = (self.filter.tables(file)?, self.filter.exclude(file)?);
        let (jobs, patience) = (self.jobs.into(), Duration::from_secs(self.timeout));
        let source = match &self.scratch {
            Some(text) => Conninfo::parse(text).map_err(|fault| fault.context("--scratch"))?,
            None => self.road.source.conninfo(file)?,
        };
        let client = Side::Target.connect(&target, "pgsluice compare").await?;
        ruled::refuse(&client, &names.origin, "compare").await.map_err(Side::Target.says())?;
        let held = match self.at_rest {
            true => None,
            false => {
                place.archive.open()?;
                refuse_left_out(&target, &names.origin, &tables, &exclude).await?;
                if self.repair {
                    // What is set aside would be brought once more by a retry.
                    let client = Side::Target.connect(&target, "pgsluice compare").await?;
                    dead::refuse_open(&client, &names.origin, "nothing is repaired").await?;
                }
                let (sentinel, stream) = (place::sentinel(&place.archive)?, names.origin.clone());
                Some(Held { sentinel, stream, patience, bring: None })
            }
        };
        let options = Options {
            source,
            target,
            publication: names.publication.clone(),
            tables,
            exclude,
            columns: self.filter.columns(file)?,
            held,
            jobs,
            show: self.show,
            repair: self.repair,
        };
        let stop = stop()?;
        let compare = async |options: &Options| {
            let shown = Shown::new(everywhere);
            let compared = compare::run(options, stop.clone(), &|event| shown.tell(&event)).await;
            shown.clear();
            compared
        };
        let report = match &self.scratch {
            Some(_) => {
                let scratch = Scratch::new(place.archive.open()?, &options, &names, everywhere).await?;
                Rc::new(scratch).compared(options, compare).await?
            }
            None => compare(&options).await?,
        };
        print::report(everywhere.json, &report, || table(&report))?;
        verdict(&report)
    }
}

/// Turns true at SIGINT or SIGTERM.
pub(super) fn stop() -> Result<watch::Receiver<bool>, Fault> {
    let listen =
        |kind| signal(kind).map_err(|error| Fault::stop(format!("can't listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        sender.send_replace(true);
        // Who waits for it must not take the end of this task for an answer.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

pub(super) fn verdict(report: &Report) -> Result<(), Fault> {
    let hint = "pgsluice compare --repair writes the difference to the target";
    match (report.differing(), report.problems()) {
        (0, 0) => Ok(()),
        (0, tables) => Err(Fault::difference(format!("{tables} tables could not be compared"))),
        (1, 0) => Err(Fault::difference("a row differs").hint(hint)),
        (rows, 0) => Err(Fault::difference(format!("{rows} rows differ")).hint(hint)),
        (rows, tables) => {
            Err(Fault::difference(format!("{rows} rows differ, and {tables} tables could not be compared"))
                .hint(hint))
        }
    }
}

/// A bar on a terminal, log lines elsewhere.
pub(super) struct Shown {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Shown {
    pub(super) fn new(everywhere: &Everywhere) -> Shown {
        let is_terminal = std::io::stderr().is_terminal() && !everywhere.quiet;
        let bar = if is_terminal { print::bar("comparing") } else { ProgressBar::hidden() };
        Shown { bar, is_terminal }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn tell(&self, event: &Event<'_>) {
        match event {
            Event::Waiting(what) if self.is_terminal => {
                self.bar.set_message((*what).to_owned());
                self.bar.tick();
            }
            Event::Waiting(what) => tracing::debug!("{what}"),
            Event::Begins(bytes) => {
                self.bar.set_message("comparing");
                self.bar.set_length(*bytes);
                self.bar.set_position(0);
                self.bar.reset_elapsed();
                print::of_bytes(&self.bar);
            }
            Event::Read(bytes) => self.bar.inc(*bytes),
            Event::Compared(table) => {
                tracing::debug!(table = %table.name, differing = table.differing(), "compared");
            }
        }
    }
}

fn table(report: &Report) -> String {
    let rows = report.tables.iter().map(|table| {
        let numbers = [table.source_rows, table.target_rows, table.ranges, table.differing(), table.repaired];
        let mut row = vec![table.name.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        row.push(format!("{:.1}", table.seconds));
        row
    });
    let header = ["table", "source rows", "target rows", "ranges", "differing", "repaired", "seconds"];
    let mut text = print::columns(&header, rows);
    for table in &report.tables {
        if let Some(problem) = &table.problem {
            text.push_str(&format!("\n{}: {problem}", table.name));
        }
        for row in &table.rows {
            text.push_str(&format!("\n{} {}", table.name, line(row)));
        }
        let hidden = table.differing().saturating_sub(table.rows.len() as u64);
        if hidden > 0 && !table.rows.is_empty() {
            text.push_str(&format!("\n{} … and {hidden} more", table.name));
        }
    }
    let at = match report.lsn {
        Some(lsn) => format!("at {lsn}, the applier was held for {:.1} s", report.held_seconds),
        None => "of what both sides had".to_owned(),
    };
    text.push_str(&format!("\n{} rows differ; {at}, {:.1} s in all", report.differing(), report.seconds));
    text
}

/// `missing (id) = (7)`, with the columns where a row is on both sides.
fn line(row: &ShownRow) -> String {
    let names: Vec<_> = row.key.iter().map(|(name, _)| name.as_str()).collect();
    let values: Vec<_> = row.key.iter().map(|(_, value)| shortened(value.as_deref())).collect();
    let what = match row.kind {
        Kind::Missing => "missing",
        Kind::Extra => "extra",
        Kind::Different => "different",
    };
    let columns = match row.columns.is_empty() {
        true => String::new(),
        false => format!(": {}", row.columns.join(", ")),
    };
    format!("{what} ({}) = ({}){columns}", names.join(", "), values.join(", "))
}

fn shortened(value: Option<&str>) -> String {
    let Some(text) = value else { return "null".into() };
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::TableReport;

    #[test]
    fn rows_are_named_by_their_keys() {
        let key =
            vec![("a".into(), Some("1".into())), ("b".into(), None), ("c".into(), Some("é".repeat(99)))];
        let row = ShownRow { kind: Kind::Different, key, columns: vec!["x".into(), "y".into()] };
        assert_eq!(line(&row), format!("different (a, b, c) = (1, null, {}…): x, y", "é".repeat(60)));
    }

    #[test]
    fn what_remains_is_exit_code_3() {
        let code = |tables: Vec<TableReport>| {
            let report = Report { lsn: None, held_seconds: 0.0, seconds: 0.0, tables };
            verdict(&report).err().map(|fault| fault.exit_code())
        };
        let table = TableReport { extra: 2, repaired: 2, ..TableReport::default() };
        assert_eq!(code(vec![table.clone()]), None);
        assert_eq!(code(vec![TableReport { repaired: 1, ..table.clone() }]), Some(3));
        assert_eq!(code(vec![TableReport { problem: Some("gone".into()), ..table }]), Some(3));
    }
}
