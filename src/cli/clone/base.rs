//! `clone --into-archive`: the rows and the schema into the archive instead of a target.

use serde::Serialize;
use tokio::sync::watch;

use super::super::arguments::Everywhere;
use super::super::conduct::Shown;
use super::super::config::File;
use super::super::copying::CopyShown;
use super::super::place;
use super::super::print;
use super::super::reach::Side;
use super::super::setup;
use super::steps::{across_lost_connections, tell_of_large_objects};
use super::{APPLICATION, CloneCommand, interrupted};
use crate::archive::{Archive, Base};
use crate::copy::{self, BaseOptions};
use crate::follow::{self, Gate, Standing};
use crate::model::{Fault, Position};
use crate::pg::inspect;
use crate::sentinel::Sentinel;

/// How often it is looked how far another process has received.
const POLL: std::time::Duration = std::time::Duration::from_millis(200);
/// How often progress is told.
const TELL: std::time::Duration = std::time::Duration::from_secs(1);

/// What came of it.
#[derive(Serialize)]
struct Report {
    base: String,
    tables: usize,
    rows: u64,
    /// Of COPY's text, by this run and earlier ones.
    raw_bytes: u64,
    /// In the archive.
    bytes: u64,
    start_lsn: Position,
    /// The first moment that can be restored.
    through: Position,
    flush_lsn: Position,
}

impl CloneCommand {
    pub(super) async fn take_base(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let wanted = setup::Options { target: None, ..self.road.options(&self.tables, file)? };
        let writer = self.receiving.segments.options(&wanted.archive, file)?;
        let sequences = self.applying.sequences.are_on(file);
        let archive = setup::done(&wanted).await?;
        tell_of_large_objects(&wanted.source).await?;
        let options = BaseOptions {
            archive: archive.clone(),
            source: wanted.source.clone(),
            publication: wanted.publication.clone(),
            tables: wanted.tables.clone(),
            exclude: wanted.exclude.clone(),
            jobs: self.copy.jobs.into(),
            part_bytes: self.copy.part_size << 20,
            schema: self.copy.schema.options().wanted,
        };
        let copied = CopyShown::new(everywhere);
        let taking = async {
            let base =
                across_lost_connections(async || copy::take_base(&options, copied.progress()).await).await;
            copied.end();
            base
        };
        let (base, flush_lsn) = if archive.has_receiver()? {
            tracing::info!("another process receives into this archive, and goes on with that");
            let waited = async {
                let base = taking.await?;
                wait_for(&archive, base.through).await.map(|end| (base, end))
            };
            let telling = async {
                loop {
                    copied.tell();
                    tokio::time::sleep(TELL).await;
                }
            };
            tokio::select! {
                done = waited => done?,
                () = telling => unreachable!("it tells for ever"),
                stopped = interrupted() => return stopped.and(Err(broken_off())),
            }
        } else {
            let (open, gate) = watch::channel(Gate::Shut);
            let mut shown = Shown::new(&archive, everywhere);
            let stages = follow::Options {
                archive: archive.clone(),
                sentinel: Sentinel::open(&place::sentinel(&wanted.archive)?)?,
                source: Some(self.receiving.source(&wanted, sequences)),
                target: None,
                endpos: None,
                writer,
                gate: Some(gate),
            };
            let tell = |standing: &Standing| {
                if !copied.tell() {
                    shown.tell(standing);
                }
            };
            let receiving = follow::run(stages, tell);
            let taken = async {
                let taken = self.taken(&options, taking.await).await;
                open.send_replace(match &taken {
                    Ok((base, until)) => Gate::Open { until: *until, least: base.through },
                    Err(_) => Gate::Stop,
                });
                taken
            };
            let (standing, taken) = {
                let (mut receiving, mut taken) = (std::pin::pin!(receiving), std::pin::pin!(taken));
                tokio::select! {
                    // A signal, or something that can't be mended by waiting.
                    standing = &mut receiving => (standing, Err(broken_off())),
                    taken = &mut taken => (receiving.await, taken),
                }
            };
            shown.clear();
            let (standing, (base, _)) = match taken {
                Ok(taken) => (standing?, taken),
                Err(fault) => return standing.and(Err(fault)),
            };
            if standing.flush_lsn < base.through {
                return Err(broken_off());
            }
            (base, standing.flush_lsn)
        };
        if !self.follow {
            let slot = &wanted.slot;
            tracing::info!(
                slot,
                "the slot stays, and keeps WAL until pgsluice receive or follow goes on, or cleanup drops it"
            );
        }
        let report = report(&base, flush_lsn);
        print::report(everywhere.json, &report, || table(&report))
    }

    /// A base with where its receiver may stop.
    async fn taken(
        &self,
        options: &BaseOptions,
        base: Result<Base, Fault>,
    ) -> Result<(Base, Option<Position>), Fault> {
        let base = base?;
        if self.follow || self.endpos.is_given() {
            return Ok((base, self.endpos.position(Some(&options.source)).await?));
        }
        let client = Side::Source.connect(&options.source, APPLICATION).await?;
        let now = inspect::current_position(&client).await.map_err(Side::Source.says())?;
        let until = now.max(base.through);
        Ok((base, Some(until)))
    }
}

fn broken_off() -> Fault {
    Fault::stop("stopped before the base was whole, with the log that it needs")
        .hint("run the same command again: it goes on where it was")
}

/// Waits until the log, which another process writes, goes that far.
async fn wait_for(archive: &Archive, through: Position) -> Result<Position, Fault> {
    loop {
        let end = archive.end()?;
        if end >= through {
            return Ok(end);
        }
        if !archive.has_receiver()? {
            return Err(Fault::stop(format!(
                "the base is whole, but the log ends at {end}, and nobody receives what it needs up to {through}"
            ))
            .hint("run pgsluice receive"));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn report(base: &Base, flush_lsn: Position) -> Report {
    Report {
        base: base.begin.id.to_string(),
        tables: base.tables.len(),
        rows: base.rows(),
        raw_bytes: base.files().map(|(.., file)| file.raw_bytes).sum(),
        bytes: base.bytes(),
        start_lsn: base.begin.start,
        through: base.through,
        flush_lsn,
    }
}

fn table(report: &Report) -> String {
    print::pairs(&[
        ("base", report.base.clone()),
        ("tables", report.tables.to_string()),
        ("rows", report.rows.to_string()),
        ("copied", print::size(report.raw_bytes)),
        ("in the archive", print::size(report.bytes)),
        ("consistent from", report.through.to_string()),
        ("flush_lsn", report.flush_lsn.to_string()),
    ])
}
