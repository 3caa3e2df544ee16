//! The archive as one side of a comparison: a database into which it is brought back, as far as the applier is.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::arguments::{Everywhere, Names};
use super::copying::CopyShown;
use super::reach::Side;
use super::replay::Replay;
use crate::apply::{Ddl, DdlMode, Rules};
use crate::archive::{Archive, Point, resolve};
use crate::copy::SchemaOptions;
use crate::dump::Wanted;
use crate::model::{Fault, Position};
use crate::pg::pattern::Pattern;
use crate::pg::tables::{self, quoted_name};
use crate::pg::{Conninfo, control, copied, progress};

const APPLICATION: &str = "pgsluice compare";
/// How often the log is asked whether it has come as far as the applier.
const POLL: Duration = Duration::from_millis(200);

/// A database that only comparisons use.
pub(super) struct Scratch<'a> {
    replay: Replay,
    /// The stream of the target that is compared.
    stream: String,
    /// For the log to have what the target has.
    patience: Duration,
    everywhere: &'a Everywhere,
}

impl<'a> Scratch<'a> {
    /// Of these tables. Refused where somebody else uses the database.
    pub(super) async fn new(
        archive: Archive,
        conninfo: Conninfo,
        names: &Names,
        rules: Rules,
        jobs: usize,
        patience: Duration,
        everywhere: &'a Everywhere,
    ) -> Result<Scratch<'a>, Fault> {
        let replay = Replay {
            archive,
            conninfo,
            // Origins are the whole server's, which may be the target's.
            stream: format!("{}_scratch", names.origin),
            rules,
            base: None,
            // Roles and tablespaces are not compared.
            making: Some(SchemaOptions {
                wanted: Wanted { owners: false, privileges: false, tablespaces: false },
                maintenance_work_mem: None,
            }),
            jobs,
            sequences: false,
            ddl: Ddl { mode: DdlMode::Apply, ..Ddl::default() },
            lanes: 1,
        };
        let scratch = Scratch { replay, stream: names.origin.clone(), patience, everywhere };
        scratch.refuse_used().await?;
        Ok(scratch)
    }

    /// Where it is.
    pub(super) fn conninfo(&self) -> Conninfo {
        self.replay.conninfo.clone()
    }

    async fn client(&self) -> Result<Client, Fault> {
        control::connect(&self.replay.conninfo, APPLICATION).await.map_err(at_scratch)
    }

    async fn refuse_used(&self) -> Result<(), Fault> {
        let client = self.client().await?;
        let refused =
            |what: String| Fault::usage(what).hint("CREATE DATABASE makes one; it may be dropped afterwards");
        if progress::read(&client, &self.stream).await.map_err(at_scratch)?.is_some() {
            return Err(refused(format!("--scratch is a target itself: it has stream {}", self.stream)));
        }
        let is_ours = copied::clone(&client, &self.replay.stream).await.map_err(at_scratch)?.is_some();
        match tables::tables(&client).await.map_err(at_scratch)?.first() {
            Some(table) if !is_ours => {
                Err(refused(format!("--scratch is not empty: it has table {}", table.shown())))
            }
            _ => Ok(()),
        }
    }

    /// How far the target is.
    pub(super) async fn reached(&self, target: &Conninfo) -> Result<Position, Fault> {
        let client = Side::Target.connect(target, APPLICATION).await?;
        let progress = progress::read(&client, &self.stream).await.map_err(Side::Target.says())?;
        progress.map(|progress| progress.lsn).ok_or_else(|| {
            Fault::stop(format!("target: there is no progress of stream {}", self.stream))
                .hint("give --archive or --name as for follow")
        })
    }

    /// Brings the database to a position that the target has.
    pub(super) async fn bring(&self, lsn: Position) -> Result<(), Fault> {
        let started = Instant::now();
        let archive = &self.replay.archive;
        while archive.end()? < lsn {
            if started.elapsed() > self.patience {
                return Err(Fault::stop(format!(
                    "the target is at {lsn}, and the archive ends at {}",
                    archive.end()?
                ))
                .hint("what is not in the store yet can't be compared: give a longer --timeout, or start pgsluice receive"));
            }
            tokio::time::sleep(POLL).await;
        }
        let reached = resolve(archive, &Point::Lsn(lsn), None)?;
        let before = self.replay.before(&reached).await.map_err(at_scratch)?;
        let shown = CopyShown::new(self.everywhere);
        self.replay.to(&reached, &before, &shown, self.everywhere).await.map(drop).map_err(at_scratch)
    }

    /// Tables of which the archive has no row: the schema has them, and they were not published, or are empty.
    pub(super) async fn without_rows(&self) -> Result<Vec<Pattern>, Fault> {
        let client = self.client().await?;
        let doing = |error: tokio_postgres::Error| at_scratch(control::fault(&error));
        let rows = client
            .query("SELECT schema, name FROM pgsluice.copied WHERE stream = $1", &[&self.replay.stream])
            .await
            .map_err(doing)?;
        let based: HashSet<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let mut without = Vec::new();
        for table in tables::tables(&client).await.map_err(at_scratch)? {
            if table.partitioned || based.contains(&(table.schema.clone(), table.name.clone())) {
                continue;
            }
            let query =
                format!("SELECT EXISTS (SELECT FROM ONLY {})", quoted_name(&table.schema, &table.name));
            if !client.query_one(&query, &[]).await.map_err(doing)?.get::<_, bool>(0) {
                tracing::info!(table = table.shown(), "not compared: the archive has no rows of it");
                without.push(Pattern::of(&table.schema, &table.name));
            }
        }
        Ok(without)
    }
}

fn at_scratch(fault: Fault) -> Fault {
    fault.context("scratch")
}
