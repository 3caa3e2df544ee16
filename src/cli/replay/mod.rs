//! `replay`: a target from the archive alone, as of any moment that it has.

use serde::Serialize;

use super::arguments::{Everywhere, FilterArguments, StreamArguments, TargetArguments};
use super::conduct::{ApplyingArguments, needed_target};
use super::config::File;
use super::copying::{CopyShown, MakingArguments};
use super::place::ArchiveArguments;
use super::points::ToArguments;
use super::print;
use crate::apply::{DdlMode, OnError};
use crate::archive::{Archive, Point, Reached, resolve};
use crate::follow::Standing;
use crate::model::{Fault, Position, Timestamp};
use crate::pg::pattern::{BadRename, Rename};

mod bring;

pub(super) use bring::Replay;

/// Build a target from the archive alone: a base and the changes since, up to a moment. Run it again to resume
///
/// Wants a base in the archive, as pgsluice clone --into-archive takes one. The source is not needed. Without a moment it is everything that the
/// log has; then pgsluice apply can go on with what comes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice replay --to-time 2026-01-31T10:41:59Z --archive s3://bucket/shop --target postgresql://app@db3/shop
  pgsluice replay --to-pin before-release --rename public.orders=restored.orders --name shop --target postgresql://app@db1/shop --origin rescue")]
pub(crate) struct ReplayCommand {
    #[command(flatten)]
    to: ToArguments,
    /// Without the transaction that is just there, or those of just that time
    #[arg(long, requires = "ToArguments")]
    exclusive: bool,
    /// Go on with a target that an earlier replay has made, to a later moment
    #[arg(long)]
    from_target: bool,
    /// Bring a table back under another name, such as public.orders=restored.orders; made like the one that is there, if it is missing.
    /// Without --tables only such tables are brought back
    #[arg(long, value_name = "TABLE=TABLE", num_args = 1.., value_delimiter = ',')]
    rename: Vec<String>,
    /// The base to begin with, by what its id begins with [default: the newest that fits]
    #[arg(long, value_name = "ID")]
    base: Option<String>,
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
    #[command(flatten)]
    stream: StreamArguments,
    #[command(flatten)]
    filter: FilterArguments,
    #[command(flatten)]
    making: MakingArguments,
    /// Tables, and parts of large ones, that are loaded at a time
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Copy")]
    jobs: u16,
    #[command(flatten)]
    applying: ApplyingArguments,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    tables: usize,
    rows: u64,
    /// Everything up to here is on the target, and nothing behind it.
    stopped_at: Position,
    /// The last transaction that is on the target, of those that the log still has.
    last_lsn: Option<Position>,
    last_time: Option<Timestamp>,
    last_xid: Option<u32>,
    /// The first one that was left out.
    next_lsn: Option<Position>,
    next_time: Option<Timestamp>,
    #[serde(flatten)]
    standing: Standing,
}

impl ReplayCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        if self.jobs == 0 {
            return Err(Fault::usage("--jobs takes at least 1"));
        }
        let place = self.archive.place(file)?;
        let stream = self.stream.names(&place, file)?.origin;
        let conninfo = needed_target(self.target.conninfo(file)?)?;
        let archive = place.archive.open()?;
        let reached = self.reached(&archive)?;
        let mut target = self.applying.target(conninfo, stream, &self.filter, file)?;
        target.after = [].into();
        if std::mem::take(&mut target.on_error) == OnError::Quarantine {
            tracing::warn!("replay sets nothing aside: it stops at what the target refuses");
        }
        let rules = &mut target.rules;
        if !rules.columns.is_empty() {
            return Err(Fault::usage("replay brings back whole rows: leave out --columns"));
        }
        rules.renames = self.renames()?;
        if target.shapes.is_some() && !rules.renames.is_empty() {
            return Err(Fault::usage("--rename and --rules both say what tables are called")
                .hint("say schema and name in the rules, and leave out --rename"));
        }
        let only_renamed = rules.tables.is_empty() && !rules.renames.is_empty();
        if only_renamed {
            rules.tables = rules.renames.iter().map(|rename| rename.from.clone()).collect();
        }
        if !rules.renames.is_empty() && target.ddl.mode == DdlMode::Apply {
            tracing::warn!("DDL of the log is left out: it would alter the tables that keep their names");
            target.ddl.mode = DdlMode::Ignore;
        }
        let replay = Replay {
            archive,
            target,
            base: self.base.clone(),
            making: (!(self.making.no_schema || only_renamed)).then(|| self.making.options()),
            jobs: self.jobs.into(),
        };
        let before = replay.before(&reached).await?;
        if self.from_target && !before.is_begun() {
            return Err(Fault::stop(format!(
                "the target has no stream {} that replay has brought back",
                replay.target.stream
            ))
            .hint("leave out --from-target"));
        }
        if before.is_finished() && !self.from_target {
            return Err(before.already(&replay.target.stream));
        }
        let shown = CopyShown::new(everywhere);
        let standing = replay.to(&reached, &before, &shown, everywhere).await?;
        let report = report(&shown, &reached, standing);
        print::report(everywhere.json, &report, || table(&report))
    }

    fn renames(&self) -> Result<Vec<Rename>, Fault> {
        let parse = |text: &String| {
            text.parse().map_err(|error: BadRename| Fault::usage(format!("--rename: {error}")))
        };
        self.rename.iter().map(parse).collect()
    }

    /// Where the moment is in the log.
    fn reached(&self, archive: &Archive) -> Result<Reached, Fault> {
        let point = match self.to.point() {
            Some(point) => point,
            None => Point::Lsn(archive.end()?),
        };
        resolve(archive, &point, Some(!self.exclusive))
    }
}

fn report(shown: &CopyShown, reached: &Reached, standing: Standing) -> Report {
    let end = shown.ended();
    Report {
        tables: end.map_or(0, |end| end.tables),
        rows: end.map_or(0, |end| end.rows),
        stopped_at: reached.through,
        last_lsn: reached.last.as_ref().map(|last| last.end_lsn),
        last_time: reached.last.as_ref().map(|last| last.time),
        last_xid: reached.last.as_ref().map(|last| last.xid),
        next_lsn: reached.next.as_ref().map(|next| next.end_lsn),
        next_time: reached.next.as_ref().map(|next| next.time),
        standing,
    }
}

fn table(report: &Report) -> String {
    let at = |lsn: Option<Position>, time: Option<Timestamp>| match lsn.zip(time) {
        Some((lsn, time)) => format!("{lsn}, committed at {time}"),
        None => "none in the log".into(),
    };
    print::pairs(&[
        ("tables", report.tables.to_string()),
        ("rows", report.rows.to_string()),
        ("stopped at", report.stopped_at.to_string()),
        ("last transaction", at(report.last_lsn, report.last_time)),
        ("first one left out", at(report.next_lsn, report.next_time)),
        ("changes", report.standing.changes.to_string()),
    ])
}
