//! The archive as one side of a comparison: a database into which it is brought back, as far as the applier is.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::arguments::{Everywhere, Names};
use super::copying::CopyShown;
use super::reach::Side;
use super::replay::Replay;
use crate::apply::{Ddl, DdlMode, OnError, Rules, Target};
use crate::archive::{Archive, Point, resolve};
use crate::compare::{Options, Report};
use crate::copy::SchemaOptions;
use crate::dump::Wanted;
use crate::model::{Fault, Position};
use crate::pg::pattern::Pattern;
use crate::pg::tables::{self, Table, quoted_name};
use crate::pg::{Conninfo, control, copied, progress};

const APPLICATION: &str = "pgsluice compare";
/// How often the log is asked whether it has come as far as the applier.
const POLL: Duration = Duration::from_millis(200);
/// How long a session of a comparison that was cut off may take to go.
const TAKEOVER: Duration = Duration::from_secs(5);
/// What is brought within this time is brought while the applier stands.
const SHORT: Duration = Duration::from_secs(5);

/// Tables that are in the base, or that the log has spoken of.
const SPOKEN_OF: &str = "
SELECT c.oid FROM pgsluice.copied t JOIN pg_class c ON c.relname = t.name
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = t.schema WHERE t.stream = $1
UNION SELECT target_table FROM pgsluice.counterpart WHERE archive_id = $2";

/// A database that only comparisons use, one at a time.
pub(super) struct Scratch {
    replay: Replay,
    /// The stream of the target that is compared.
    stream: String,
    /// For the log to have what the target has.
    patience: Duration,
    everywhere: Everywhere,
    /// Has the lock.
    client: Client,
}

impl Scratch {
    /// The source of a comparison. Refused where somebody else uses that database.
    pub(super) async fn new(
        archive: Archive,
        options: &Options,
        names: &Names,
        everywhere: &Everywhere,
    ) -> Result<Scratch, Fault> {
        let client = control::connect(&options.source, APPLICATION).await.map_err(at_scratch)?;
        let (tables, exclude) = (options.tables.clone(), options.exclude.clone());
        let target = Target {
            conninfo: options.source.clone(),
            // Origins are the whole server's, which may be the target's.
            stream: format!("{}_scratch", names.origin),
            sequences: false,
            rules: Rules { tables, exclude, ..Rules::default() },
            ddl: Ddl { mode: DdlMode::Apply, ..Ddl::default() },
            after: [].into(),
            lanes: 1,
            delay: Duration::ZERO,
            shapes: None,
            accept_rules: false,
            only_local: false,
            on_error: OnError::Stop,
            only: None,
            parts: None,
        };
        let replay = Replay {
            archive,
            target,
            base: None,
            // Roles and tablespaces are not compared.
            making: Some(SchemaOptions {
                wanted: Wanted { owners: false, privileges: false, tablespaces: false },
                maintenance_work_mem: None,
            }),
            jobs: options.jobs,
        };
        let patience = options.held.as_ref().map(|held| held.patience).unwrap_or_default();
        let (stream, everywhere) = (names.origin.clone(), everywhere.clone());
        let scratch = Scratch { replay, stream, patience, everywhere, client };
        scratch.refuse_used().await?;
        Ok(scratch)
    }

    /// Compares when it is about as far as the target, and has it come the rest of the way while the applier stands.
    pub(super) async fn compared(
        self: Rc<Scratch>,
        mut options: Options,
        compare: impl AsyncFn(&Options) -> Result<Report, Fault>,
    ) -> Result<Report, Fault> {
        self.approach(&options.target).await?;
        if let Some(held) = &mut options.held {
            let scratch = Rc::clone(&self);
            held.bring = Some(Rc::new(move |lsn| {
                let scratch = Rc::clone(&scratch);
                Box::pin(async move { scratch.bring(lsn).await })
            }));
        }
        loop {
            let tables = self.tables().await?;
            // Those that were excluded are not there.
            options.exclude = self.unspoken(&tables).await?;
            let report = compare(&options).await?;
            let now = self.tables().await?;
            if now == tables && self.unspoken(&now).await? == options.exclude {
                return Ok(report);
            }
            tracing::info!("the log has made or altered tables: once more");
        }
    }

    async fn refuse_used(&self) -> Result<(), Fault> {
        let lock = "SELECT pg_try_advisory_lock(hashtextextended('pgsluice compare', 0))";
        let started = Instant::now();
        while !self.client.query_one(lock, &[]).await.map_err(says)?.get::<_, bool>(0) {
            // The backend of one that was killed goes by itself.
            if started.elapsed() > TAKEOVER {
                return Err(Fault::stop("another comparison uses --scratch").hint("wait for its end"));
            }
            tokio::time::sleep(POLL).await;
        }
        let refused =
            |what: String| Fault::usage(what).hint("CREATE DATABASE makes one; it may be dropped afterwards");
        if progress::read(&self.client, &self.stream).await.map_err(at_scratch)?.is_some() {
            return Err(refused(format!("--scratch is a target itself: it has stream {}", self.stream)));
        }
        let ours = copied::clone(&self.client, &self.replay.target.stream).await.map_err(at_scratch)?;
        match self.tables().await?.first() {
            Some(table) if ours.is_none() => {
                Err(refused(format!("--scratch is not empty: it has table {}", table.shown())))
            }
            _ => Ok(()),
        }
    }

    /// Brings the database to about where the target is, so that little is left for when the applier stands.
    async fn approach(&self, target: &Conninfo) -> Result<(), Fault> {
        let client = Side::Target.connect(target, APPLICATION).await?;
        loop {
            let started = Instant::now();
            self.bring(self.reached(&client).await.map_err(Side::Target.says())?).await?;
            if started.elapsed() < SHORT {
                return Ok(());
            }
        }
    }

    /// How far the target is.
    async fn reached(&self, target: &Client) -> Result<Position, Fault> {
        let Some(progress) = progress::read(target, &self.stream).await? else {
            return Err(Fault::stop(format!("there is no progress of stream {}", self.stream))
                .hint("give --archive or --name as for follow"));
        };
        let clone = copied::clone(target, &self.stream).await?;
        match clone.and_then(|clone| clone.through) {
            Some(through) if through > progress.lsn => Err(Fault::stop(format!(
                "the rows were copied up to {through}, and the changes are applied up to {} only",
                progress.lsn
            ))
            .hint("wait until the applier is there")),
            _ => Ok(progress.lsn),
        }
    }

    /// Brings the database to a position that the target has.
    async fn bring(&self, lsn: Position) -> Result<(), Fault> {
        let started = Instant::now();
        let archive = &self.replay.archive;
        while archive.end()? < lsn {
            if started.elapsed() > self.patience {
                let end = archive.end()?;
                return Err(Fault::stop(format!("the target is at {lsn}, and the archive ends at {end}"))
                    .hint("what is not in the store yet can't be compared: give a longer --timeout, or start pgsluice receive"));
            }
            tokio::time::sleep(POLL).await;
        }
        let reached = resolve(archive, &Point::Lsn(lsn), None)?;
        let before = self.replay.before(&reached).await.map_err(at_scratch)?;
        let shown = CopyShown::new(&self.everywhere);
        self.replay.to(&reached, &before, &shown, &self.everywhere).await.map(drop).map_err(at_scratch)
    }

    /// The tables as they are now.
    async fn tables(&self) -> Result<Vec<Table>, Fault> {
        tables::tables(&self.client).await.map_err(at_scratch)
    }

    /// Those of which the archive says nothing: the schema has them, and they were not published, or nothing was ever in them.
    async fn unspoken(&self, tables: &[Table]) -> Result<Vec<Pattern>, Fault> {
        let archive_id = self.replay.archive.manifest().archive_id.to_string();
        let rows = self.client.query(SPOKEN_OF, &[&self.replay.target.stream, &archive_id]).await;
        let spoken_of: HashSet<u32> = rows.map_err(says)?.iter().map(|row| row.get(0)).collect();
        let mut unspoken = Vec::new();
        for table in tables.iter().filter(|table| !table.partitioned) {
            if table.ancestors.iter().chain([&table.oid]).any(|oid| spoken_of.contains(oid)) {
                continue;
            }
            let query =
                format!("SELECT EXISTS (SELECT FROM ONLY {})", quoted_name(&table.schema, &table.name));
            if !self.client.query_one(&query, &[]).await.map_err(says)?.get::<_, bool>(0) {
                tracing::info!(table = table.shown(), "not compared: the archive says nothing of it");
                unspoken.push(Pattern::of(&table.schema, &table.name));
            }
        }
        Ok(unspoken)
    }
}

fn says(error: tokio_postgres::Error) -> Fault {
    at_scratch(control::fault(&error))
}

fn at_scratch(fault: Fault) -> Fault {
    fault.context("scratch")
}
