//! `cutover`: the last steps of a migration, in an order in which each but the last can be taken back.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio_postgres::Client;

use super::arguments::{Everywhere, FilterArguments, RoadArguments};
use super::backfill::refuse_left_out;
use super::compare::{Shown, stop, verdict};
use super::conduct::needed_target;
use super::config::File;
use super::reach::Side;
use super::{place, print};
use crate::compare::{self, Held, Report as Compared};
use crate::model::{Fault, Position};
use crate::pg::control::fault;
use crate::pg::{Conninfo, dead, inspect, quote_ident, ruled, slot};
use crate::sentinel::Sentinel;

const APPLICATION: &str = "pgsluice cutover";
const POLL: Duration = Duration::from_millis(200);

/// Move over to the target: stop the writing, wait, compare, and end the stream
///
/// While pgsluice follow (or receive and apply) runs: looks at the lag; with --read-only makes the source's database read-only and ends the sessions of others there; waits until
/// the target has everything; compares all tables; and only then, as the last step, sets endpos, at which follow sets the sequences and ends. Until that step a signal, a
/// difference or a time-out takes everything back, and all goes on as before.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice cutover --read-only --source postgresql://admin@db1/shop --target postgresql://app@db2/shop --name shop")]
pub(crate) struct CutoverCommand {
    #[command(flatten)]
    road: RoadArguments,
    #[command(flatten)]
    filter: FilterArguments,
    /// Let nobody write to the source's database any more: new sessions are read-only, and those of others are ended. Without it, stop
    /// the writing yourself before
    #[arg(long)]
    read_only: bool,
    /// Refuse to begin while the target is further behind
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    max_lag: u64,
    /// Do without the comparison
    #[arg(long)]
    no_compare: bool,
    /// Connections to each side that compare at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// How long each step may take that waits for others
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// How it went.
#[derive(Serialize)]
struct Report {
    read_only: bool,
    /// When it began.
    lag_bytes: u64,
    tables_compared: usize,
    rows_compared: u64,
    /// Everything up to here is on the target.
    endpos: Position,
    seconds: f64,
}

impl CutoverCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let started = Instant::now();
        let place = self.road.archive.place(file)?;
        let names = self.road.stream.names(&place, file)?;
        let (source, target) =
            (self.road.source.conninfo(file)?, needed_target(self.road.target.conninfo(file)?)?);
        place.archive.open()?;
        let home = place::sentinel(&place.archive)?;
        let road = Road {
            source: Side::Source.connect(&source, APPLICATION).await?,
            sentinel: Sentinel::open(&home)?,
            slot: names.slot.clone(),
            patience: Duration::from_secs(self.timeout),
            stop: stop()?,
        };
        let (tables, exclude) = (self.filter.tables(file)?, self.filter.exclude(file)?);
        refuse_left_out(&target, &names.origin, &tables, &exclude).await?;
        refuse_dead(&target, &names.origin).await?;
        if !self.no_compare {
            let client = Side::Target.connect(&target, APPLICATION).await?;
            let refused = ruled::refuse(&client, &names.origin, "the comparison of a cutover").await;
            refused.map_err(|fault| Side::Target.says()(fault).hint("--no-compare does without"))?;
        }
        let lag_bytes = road.refuse_to_begin(self.max_lag << 20).await?;
        tracing::info!(lag_bytes, "the target keeps up");
        let (at, stream) = (target.clone(), names.origin.clone());
        let compare = compare::Options {
            source,
            target,
            publication: names.publication,
            tables,
            exclude,
            columns: self.filter.columns(file)?,
            held: Some(Held { sentinel: home, stream: names.origin, patience: road.patience, bring: None }),
            jobs: self.jobs.into(),
            show: 20,
            repair: false,
        };
        let compared = async {
            if self.read_only {
                road.make_read_only().await?;
                tracing::info!("nobody writes to the source any more");
            } else {
                road.warn_of_writers().await?;
            }
            let position = road.current().await?;
            road.go_beyond().await?;
            road.arrives(position).await?;
            refuse_dead(&at, &stream).await?;
            tracing::info!(%position, "the target has everything");
            if self.no_compare {
                return Ok::<_, Fault>(None);
            }
            let shown = Shown::new(everywhere);
            let report = compare::run(&compare, road.stop.clone(), &|event| shown.tell(&event)).await;
            shown.clear();
            let report = report?;
            verdict(&report)?;
            Ok(Some(report))
        };
        let compared: Option<Compared> = match compared.await {
            Ok(compared) => compared,
            Err(fault) => {
                if self.read_only {
                    road.make_writable().await?;
                }
                return Err(fault.context("given up, and all goes on as before"));
            }
        };
        let rows_compared =
            compared.iter().flat_map(|report| &report.tables).map(|table| table.source_rows).sum();
        let tables_compared = compared.as_ref().map_or(0, |report| report.tables.len());
        tracing::info!(tables_compared, rows_compared, "source and target are equal");
        let endpos = road.current().await?;
        tokio::task::block_in_place(|| road.sentinel.update(|control| control.endpos = endpos))?;
        road.ends(endpos).await?;
        let seconds = started.elapsed().as_secs_f64();
        let report =
            Report { read_only: self.read_only, lag_bytes, tables_compared, rows_compared, endpos, seconds };
        print::report(everywhere.json, &report, || table(&report))
    }
}

/// Refuses a target that lacks what was set aside.
async fn refuse_dead(target: &Conninfo, stream: &str) -> Result<(), Fault> {
    let client = Side::Target.connect(target, APPLICATION).await?;
    dead::refuse_open(&client, stream, "the target lacks changes").await
}

/// What runs, and is to come to its end.
struct Road {
    source: Client,
    sentinel: Sentinel,
    slot: String,
    patience: Duration,
    stop: watch::Receiver<bool>,
}

impl Road {
    /// Says how far the target is behind, if all is as it has to be.
    async fn refuse_to_begin(&self, lag_max: u64) -> Result<u64, Fault> {
        let control = tokio::task::block_in_place(|| self.sentinel.read())?;
        if let Some(endpos) = control.endpos() {
            return Err(Fault::stop(format!("endpos is set already, to {endpos}")));
        }
        if !control.apply {
            return Err(
                Fault::stop("changes are only prefetched, not applied").hint("pgsluice sentinel set apply")
            );
        }
        if !self.is_received().await? {
            return Err(Fault::stop(format!("nobody receives from slot {}", self.slot))
                .hint("start pgsluice follow, and let the target catch up"));
        }
        let lag = self.current().await?.bytes_since(control.replay_lsn);
        if lag > lag_max {
            return Err(Fault::stop(format!("the target is {} behind", print::size(lag)))
                .hint("wait until it has caught up (pgsluice status), or give a larger --max-lag"));
        }
        Ok(lag)
    }

    async fn is_received(&self) -> Result<bool, Fault> {
        let slot = slot::read(&self.source, &self.slot).await.map_err(Side::Source.says())?;
        Ok(slot.is_some_and(|slot| slot.active_pid.is_some()))
    }

    async fn current(&self) -> Result<Position, Fault> {
        inspect::current_position(&self.source).await.map_err(Side::Source.says())
    }

    async fn execute(&self, sql: &str) -> Result<(), Fault> {
        self.source.batch_execute(sql).await.map_err(|error| Side::Source.says()(fault(&error)))
    }

    async fn make_read_only(&self) -> Result<(), Fault> {
        let database = self.database().await?;
        self.execute(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await?;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND backend_type = 'client backend'
                      AND pid <> pg_backend_pid() AND application_name NOT LIKE 'pgsluice%'";
        self.execute(end).await
    }

    async fn make_writable(&self) -> Result<(), Fault> {
        let database = self.database().await?;
        self.execute(&format!("ALTER DATABASE {database} RESET default_transaction_read_only")).await
    }

    async fn database(&self) -> Result<String, Fault> {
        let row = self.source.query_one("SELECT current_database()::text", &[]).await;
        let row = row.map_err(|error| Side::Source.says()(fault(&error)))?;
        Ok(quote_ident(row.get(0)))
    }

    /// Who has written and not committed may yet do so.
    async fn warn_of_writers(&self) -> Result<(), Fault> {
        let query =
            "SELECT string_agg('pid ' || pid || coalesce(' of ' || nullif(application_name, ''), ''), ', ')
                       FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL";
        let row = self.source.query_one(query, &[]).await;
        let row = row.map_err(|error| Side::Source.says()(fault(&error)))?;
        if let Some(writers) = row.get::<_, Option<String>>(0) {
            tracing::warn!(
                writers,
                "somebody still writes to the source: what comes after the end is not on the target"
            );
        }
        Ok(())
    }

    /// Writes something that is decoded. A source without news tells only every some seconds how far it is, and nobody can work
    /// meanwhile.
    async fn go_beyond(&self) -> Result<(), Fault> {
        let message =
            "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgsluice.cutover', '')";
        self.execute(message).await
    }

    /// Waits until the target has everything up to there.
    async fn arrives(&self, position: Position) -> Result<(), Fault> {
        let what = format!("the target has not reached {position}");
        self.wait(&what, async || Ok(self.replayed()? >= position)).await
    }

    /// Waits until whoever received and applied has come to the end.
    async fn ends(&self, endpos: Position) -> Result<(), Fault> {
        let what = format!("endpos {endpos} is set, and pgsluice follow has not ended");
        self.wait(&what, async || Ok(self.replayed()? >= endpos && !self.is_received().await?)).await
    }

    fn replayed(&self) -> Result<Position, Fault> {
        Ok(tokio::task::block_in_place(|| self.sentinel.read())?.replay_lsn)
    }

    async fn wait(
        &self,
        what: &str,
        mut is_so: impl AsyncFnMut() -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let started = Instant::now();
        while !is_so().await? {
            if *self.stop.borrow() {
                return Err(Fault::stop(format!("interrupted: {what}")));
            }
            if started.elapsed() >= self.patience {
                return Err(Fault::stop(format!("{what} within {} s", self.patience.as_secs()))
                    .hint("look at pgsluice status, or give a larger --timeout"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

fn table(report: &Report) -> String {
    let source = if report.read_only { "read-only" } else { "as it was" };
    print::pairs(&[
        ("endpos", report.endpos.to_string()),
        (
            "compared",
            format!("{} rows in {} tables, all equal", report.rows_compared, report.tables_compared),
        ),
        ("source", source.into()),
        ("seconds", format!("{:.1}", report.seconds)),
        ("next", "let the applications use the target; then pgsluice cleanup".into()),
    ])
}
