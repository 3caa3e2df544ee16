//! `backfill`: tables of a running pipeline, brought anew or for the first time.

mod choose;
mod join;
mod settings;
mod steps;

use std::time::Duration;

use serde::Serialize;

use super::arguments::{Everywhere, RoadArguments};
use super::compare::stop;
use super::conduct::needed_target;
use super::config::File;
use super::copying::CopyShown;
use super::points::parse_time;
use super::print;
use super::reach::Side;
use crate::copy::{PartSize, Selection, Written};
use crate::model::{Fault, Position, Timestamp};
use crate::pg::pattern::{BadPattern, Pattern};
use crate::pg::tables::shown_name;
use crate::pg::{Conninfo, joining};
pub(crate) use settings::TableSettings;
use settings::{Settings, Treatment};
use steps::{Ended, Work};

const APPLICATION: &str = "pgsluice backfill";
const TELL: Duration = Duration::from_millis(100);

/// Bring tables of a running pipeline anew, or add tables to it, while it goes on for all others
///
/// The applier leaves the tables out while they are emptied, copied, and brought up to where it is; then it has them again, with no change lost or
/// doubled. They are to be on the target already; on the source they are added to the publication where they are not in it. To pause, end it (Ctrl-C):
/// run again it goes on where it was, and whole tables and parts are not copied again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice backfill public.orders 'sales.*' --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop
  pgsluice backfill public.audit --mode only-changes --name shop
  pgsluice backfill public.orders --where 'total > 100' --name shop
  pgsluice backfill public.orders --since 2026-01-31T10:42:00Z --name shop
  pgsluice backfill --name shop          goes on with what an earlier run began

In the file of --config single tables have settings of their own: mode, where, min-xid, since, rate (as the flags), and priority (the highest first):
  [backfill.\"public.orders\"]
  where = \"total > 100\"")]
pub(crate) struct BackfillCommand {
    /// Tables of the source, such as public.orders or 'sales.*'; none to go on with what an earlier run began
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    #[command(flatten)]
    road: RoadArguments,
    /// What is brought [default: auto]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// Tables, and parts of large ones, that are copied at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Size of the parts into which large tables are divided
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..))]
    part_size: u64,
    /// Copy at most so much in a second [default: as fast as it goes]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Bring only rows of which this SQL condition is true, and those that are changed meanwhile; the others on the target stay, and count as
    /// they are. The tables are to be in the pipeline already
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Bring only rows that were written by this transaction of the source (pg_current_xact_id()) or later ones; what they deleted stays on the
    /// target, where the applier has not deleted it
    #[arg(long, value_name = "XID", conflicts_with = "since")]
    min_xid: Option<u64>,
    /// The same from the transactions on that committed at this time or later (RFC 3339), as the log has them
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Copy the tables in the order in which they are typed [default: by the priority that the file gives them, then the largest first]
    #[arg(long, requires = "tables")]
    in_order: bool,
    /// Give up what an earlier run began. The tables stay as they are, and are left out until they are backfilled; those that were added
    /// to the publication are taken out of it
    #[arg(long, conflicts_with_all = ["tables", "mode", "rate", "condition", "min_xid", "since"])]
    abort: bool,
}

/// What of a table is brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// precise for tables with a key, without-primary-key for others
    #[default]
    Auto,
    /// All rows; changes are withheld until their rows are there, so that each key has its history in order. Refuses tables without a key
    Precise,
    /// The same by the places of the rows, for any table; one without a key whose copy is cut off is copied from its beginning
    WithoutPrimaryKey,
    /// No rows: those on the target count as those that the source has now, and changes from now on are applied
    OnlyChanges,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    tables: Vec<String>,
    rows: u64,
    bytes: u64,
    copy_seconds: f64,
    /// The stream's applier has the tables behind it.
    through: Position,
}

impl BackfillCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let written = self.min_xid.map(Written::Xid).or(self.since.map(Written::Time));
        let typed = Treatment {
            mode: self.mode,
            selection: Selection { condition: self.condition.clone(), written },
            ..Treatment::default()
        };
        let place = self.road.archive.place(file)?;
        let patterns = self.tables.iter().map(|text| text.parse()).collect::<Result<Vec<Pattern>, _>>();
        let patterns = patterns.map_err(|error: BadPattern| Fault::usage(error.to_string()))?;
        let order = if self.in_order { patterns.as_slice() } else { &[] };
        let settings = Settings::new(typed, self.rate.is_some(), order, &file.backfill)?;
        let work = Work {
            names: self.road.stream.names(&place, file)?,
            source: self.road.source.conninfo(file)?,
            target: needed_target(self.road.target.conninfo(file)?)?,
            archive: place.archive.open()?,
            patterns,
            settings,
            jobs: self.jobs.into(),
            part_size: PartSize::bytes(self.part_size << 20),
            bytes_per_second: self.rate.map(|rate| rate << 20),
        };
        if self.abort {
            let tables = work.give_up().await?;
            return print::report(everywhere.json, &serde_json::json!({ "given_up": tables }), || {
                print::pairs(&[("given up", tables.join(", "))])
            });
        }
        let copied = CopyShown::new(everywhere);
        let telling = async {
            loop {
                copied.tell();
                tokio::time::sleep(TELL).await;
            }
        };
        let mut stop = stop()?;
        let Ended { tables, through } = tokio::select! {
            ended = work.perform(&copied) => ended?,
            () = telling => return Ok(()),
            // What is cut off is undone by the target, and done by the next run.
            _ = stop.wait_for(|stop| *stop) => {
                tracing::warn!("stopped before the tables were handed over, and they are left out until then: run pgsluice backfill again");
                return Ok(());
            }
        };
        let end = copied.ended();
        let report = Report {
            tables,
            rows: end.map_or(0, |end| end.rows),
            bytes: end.map_or(0, |end| end.bytes),
            copy_seconds: end.map_or(0.0, |end| end.seconds),
            through,
        };
        print::report(everywhere.json, &report, || table(&report))
    }
}

/// Refuses where tables that are meant are left out for now, so that the target can't be what the source is.
pub(super) async fn refuse_left_out(
    target: &Conninfo,
    stream: &str,
    tables: &[Pattern],
    exclude: &[Pattern],
) -> Result<(), Fault> {
    let client = Side::Target.connect(target, APPLICATION).await?;
    let joining = joining::read(&client, stream).await.map_err(Side::Target.says())?;
    let meant = |schema: &str, name: &str| {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(schema, name));
        (tables.is_empty() || any(tables)) && !any(exclude)
    };
    let out = joining.iter().filter(|table| table.through.is_none() && meant(&table.schema, &table.name));
    let out: Vec<_> = out.map(|table| shown_name(&table.schema, &table.name)).collect();
    match out.is_empty() {
        true => Ok(()),
        false => {
            Err(Fault::stop(format!("tables are left out until they are backfilled: {}", out.join(", ")))
                .hint("run pgsluice backfill to its end, or leave them out with --exclude"))
        }
    }
}

fn table(report: &Report) -> String {
    print::pairs(&[
        ("tables", report.tables.join(", ")),
        ("rows", report.rows.to_string()),
        ("copied", print::size(report.bytes)),
        ("seconds", format!("{:.1}", report.copy_seconds)),
        ("handed over at", report.through.to_string()),
    ])
}
