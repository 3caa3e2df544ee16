//! `clone`: rows first, then the changes that came meanwhile.

mod base;
mod steps;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::arguments::{Everywhere, RoadArguments, TableArguments};
use super::conduct::{ApplyingArguments, EndposArguments, ReceivingArguments, Shown, needed_target};
use super::config::File;
use super::copying::{CopyShown, MakingArguments};
use super::place;
use super::print;
use super::reach::Side;
use super::setup;
use super::watching::{WatchArguments, Watching};
use crate::apply;
use crate::copy;
use crate::follow::{self, Gate, Mode, Standing};
use crate::model::{Fault, Position};
use crate::pg::copied;
use crate::sentinel::Sentinel;

use steps::{Applying, clean_up, is_new};

pub(super) use steps::{across_lost_connections, warn_of_unfinished};

const APPLICATION: &str = "pgsluice clone";

/// Copy the schema and the tables, then apply what changed meanwhile; with --follow go on with that. Run it again to resume
///
/// Without --follow it ends where the source was when everything was copied, and takes away the slot that it made for that.
///
/// The source's changes are received from the first second, so its WAL does not pile up however long the copy takes. What a crash or a lost
/// connection leaves undone is done by the next run, exactly: whole tables, and parts of large ones, are not copied again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice clone --follow --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop
  pgsluice clone --into-archive --source postgresql://app@db1/shop --archive s3://bucket/shop --name shop")]
pub(crate) struct CloneCommand {
    /// Go on with the changes when everything is copied, as pgsluice follow does
    #[arg(long)]
    follow: bool,
    /// Copy into the archive instead of a target: rows and schema, compressed, beside the log. From there pgsluice replay builds targets as
    /// of any moment since, without the source. The slot stays
    #[arg(long, conflicts_with_all = ["no_schema", "keep"])]
    into_archive: bool,
    /// Without --follow: keep slot, publication, archive and progress, so that pgsluice follow can go on
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    road: RoadArguments,
    #[command(flatten)]
    tables: TableArguments,
    #[command(flatten)]
    endpos: EndposArguments,
    #[command(flatten)]
    copy: CopyArguments,
    #[command(flatten)]
    receiving: ReceivingArguments,
    #[command(flatten)]
    applying: ApplyingArguments,
    #[command(flatten)]
    watching: WatchArguments,
}

/// How rows are copied.
#[derive(Debug, clap::Args)]
struct CopyArguments {
    #[command(flatten)]
    schema: MakingArguments,
    /// Tables, and parts of large ones, that are copied at a time
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Copy")]
    jobs: u16,
    /// Size of the parts into which large tables are divided
    #[arg(long, value_name = "MIB", default_value_t = 512, help_heading = "Copy")]
    part_size: u64,
    /// Leave large objects behind. They are copied where no --tables are chosen, as they are then: the WAL tells nothing of what becomes of them
    #[arg(long, help_heading = "Copy")]
    no_large_objects: bool,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    tables: usize,
    rows: u64,
    bytes: u64,
    copy_seconds: f64,
    /// From here on the target is as the source was at a moment.
    through: Position,
    #[serde(flatten)]
    standing: Standing,
}

impl CloneCommand {
    /// The same along another road.
    pub(super) fn along(self, road: RoadArguments) -> CloneCommand {
        CloneCommand { road, ..self }
    }

    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        if self.copy.jobs == 0 || self.copy.part_size == 0 {
            return Err(Fault::usage("--jobs and --part-size take at least 1"));
        }
        if self.into_archive {
            self.applying.file.refuse(
                file,
                "--into-archive",
                "a base is as the source is: replay takes --rules",
            )?;
            return self.take_base(everywhere, file).await;
        }
        let on_schema_change = self.applying.rules.schema.policy(file);
        let road = self.road.options(&self.tables, file)?;
        let rules = self.applying.file.read(file, &road.origin)?;
        let wanted = setup::Options { on_schema_change, rules: rules.clone(), ..road };
        let target = needed_target(wanted.target.clone())?;
        let stream = wanted.origin.clone();
        let target = self.applying.target(target, stream, &self.tables.filter, file)?;
        let writer = self.receiving.segments.options(&wanted.archive, file)?;
        let client = Side::Target.connect(&target.conninfo, APPLICATION).await?;
        let before = copied::clone(&client, &wanted.origin).await.map_err(Side::Target.says())?;
        if before.is_some_and(|clone| clone.done) {
            tracing::info!("cloned by an earlier run, which did not come to clean up");
            return clean_up(wanted).await;
        }
        // Here it shows whether the target can be reached and written, before anything of ours holds the source's WAL.
        copied::prepare(&client).await.map_err(Side::Target.says())?;
        apply::settle_rules(&client, &target).await?;
        let alone = !self.follow && !self.keep && is_new(&wanted).await?;
        let archive = setup::done(&setup::Options { target: None, ..wanted.clone() }).await?;
        let home = place::sentinel(&wanted.archive)?;
        let sentinel = Sentinel::open(&home)?;
        let endpos = self.endpos.position(Some(&wanted.source)).await?;
        let options = copy::Options {
            after: archive.manifest().start,
            archive: archive.clone(),
            source: wanted.source.clone(),
            target: target.conninfo.clone(),
            stream: target.stream.clone(),
            publication: wanted.publication.clone(),
            tables: wanted.tables.clone(),
            exclude: wanted.exclude.clone(),
            only: None,
            jobs: self.copy.jobs.into(),
            part_size: copy::PartSize::bytes(self.copy.part_size << 20),
            rate: None,
            rates: Default::default(),
            priorities: Default::default(),
            sequences: target.sequences,
            rules,
        };
        let (open, gate) = watch::channel(Gate::Shut);
        let mut shown = Shown::new(&archive, everywhere);
        let copied = CopyShown::new(everywhere);
        let stages = follow::Options {
            archive,
            sentinel,
            source: Some(self.receiving.source(&wanted, target.sequences)),
            target: Some(target),
            endpos,
            writer,
            gate: Some(gate),
        };
        let parts = Watching { copy: Some(copied.progress()), ..Watching::of(&wanted, &home) };
        let watched = self.watching.start(file, &stages, &parts)?;
        let applied = watch::Sender::new(Position::ZERO);
        let tell = |standing: &Standing| {
            applied.send_replace(standing.replay_lsn);
            if let Some(watched) = &watched {
                watched.tell(standing);
            }
            if !copied.tell() {
                shown.tell(standing);
            }
        };
        let running = follow::run(stages, tell);
        let copying = async {
            let done = self
                .copy(&options, &wanted, alone, &copied, &Applying { open: &open, applied: &applied })
                .await;
            if done.is_err() {
                open.send_replace(Gate::Stop);
            }
            done
        };
        // What a signal interrupts is undone by the target, and done by the next run.
        let (standing, done) = {
            let (mut running, mut copying) = (std::pin::pin!(running), std::pin::pin!(copying));
            tokio::select! {
                standing = &mut running => match &standing {
                    Ok(Standing { mode: Mode::Done, .. }) => {
                        // All up to endpos, and that is beyond every snapshot.
                        applied.send_replace(Position(u64::MAX));
                        tokio::select! {
                            done = &mut copying => (standing, done),
                            _ = interrupted() => (standing, Ok(false)),
                        }
                    }
                    _ => (standing, Ok(false)),
                },
                done = &mut copying => (running.await, done),
            }
        };
        shown.clear();
        let is_finished = done?;
        let standing = standing?;
        let Some(end) = copied.ended() else {
            tracing::warn!("stopped before everything was copied: run the same command again to go on");
            return Ok(());
        };
        if !is_finished {
            tracing::warn!(
                "stopped before foreign keys and what else comes last were made: run the same command again"
            );
        }
        let clone = copy::standing(&options).await?;
        let report = Report {
            tables: end.tables,
            rows: end.rows,
            bytes: end.bytes,
            copy_seconds: end.seconds,
            through: clone.as_ref().and_then(|clone| clone.through).unwrap_or_default(),
            standing,
        };
        if is_finished && standing.mode == Mode::Done && !self.follow && !self.keep {
            if clone.is_some_and(|clone| clone.alone) {
                let client = Side::Target.connect(&options.target, APPLICATION).await?;
                copied::done(&client, &wanted.origin).await.map_err(Side::Target.says())?;
                clean_up(wanted).await?;
            } else {
                let slot = &wanted.slot;
                tracing::warn!(
                    slot,
                    "the slot was not made for this clone alone, and stays: pgsluice cleanup drops it"
                );
            }
        }
        print::report(everywhere.json, &report, || table(&report))
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn interrupted() -> Result<(), Fault> {
    let listen = |kind| signal(kind).map_err(|error| Fault::stop(format!("listening for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn table(report: &Report) -> String {
    print::pairs(&[
        ("tables", report.tables.to_string()),
        ("rows", report.rows.to_string()),
        ("copied", print::size(report.bytes)),
        ("seconds", format!("{:.1}", report.copy_seconds)),
        ("consistent from", report.through.to_string()),
        ("replay_lsn", report.standing.replay_lsn.to_string()),
        ("changes", report.standing.changes.to_string()),
    ])
}
