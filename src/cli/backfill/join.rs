//! How the stream's applier is brought to leave tables out, and the source to publish them; and how that is given up.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::super::reach::Side;
use super::APPLICATION;
use super::choose::{Sides, choose};
use super::settings::{Treatments, is_other};
use super::steps::{POLL, TAKEOVER, Work};
use crate::model::Fault;
use crate::pg::joining::{self, Joining};
use crate::pg::tables::{self, Table, shown_name};
use crate::pg::{control, copied, dead, pattern, progress, publication, ruled};

/// How often it is said that the applier is waited for.
const TELL: Duration = Duration::from_secs(10);

impl Work {
    /// Connections to both sides, the target's with a lock by which no other backfill of the stream is at work.
    pub(super) async fn clients(&self) -> Result<(Client, Client), Fault> {
        let source = Side::Source.connect(&self.source, APPLICATION).await?;
        let target = Side::Target.connect(&self.target, APPLICATION).await?;
        let lock = "SELECT pg_try_advisory_lock(hashtextextended('pgsluice backfill of ' || $1, 0))";
        let (stream, started) = (&self.names.origin, Instant::now());
        loop {
            let row = target.query_one(lock, &[stream]).await;
            if row.map_err(|error| Side::Target.says()(control::fault(&error)))?.get(0) {
                return Ok((source, target));
            }
            if started.elapsed() >= TAKEOVER {
                return Err(Fault::stop(format!("another backfill of '{stream}' is at work")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The tables of this run, which the stream's applier leaves out from now on.
    pub(super) async fn join(
        &self,
        source: &Client,
        target: &Client,
        all: &[Table],
        treatments: &Treatments,
    ) -> Result<Vec<Joining>, Fault> {
        let stream = &self.names.origin;
        self.prepare(target).await.map_err(Side::Target.says())?;
        let under_way = under_way(target, stream).await?;
        let sides = Sides { source, target, names: &self.names, archive: &self.archive };
        if under_way.is_empty() {
            self.forget_ended(target).await?;
            if self.patterns.is_empty() {
                return Err(Fault::usage("no backfill is under way").hint("name the tables"));
            }
            let chosen = choose(&sides, all, &self.patterns, treatments).await?;
            self.hold_and_join(target, &chosen).await?;
            tracing::info!(tables = shown_names(&chosen).join(", "), "left to the backfill by the applier");
            return Ok(chosen);
        }
        let other = |what: &str| {
            let tables = shown_names(&under_way).join(", ");
            Fault::usage(format!("a backfill of {tables} is under way{what}"))
                .hint("run pgsluice backfill without tables, but with the same flags, to go on with it, or with --abort to give it up")
        };
        let chosen = pattern::choose(all, &self.patterns, &[]);
        let known: HashSet<u32> = under_way.iter().map(|table| table.oid).collect();
        let misses = |table: &&&Table| !table.partitioned && !known.contains(&table.oid);
        if !self.patterns.is_empty() && (chosen.is_empty() || chosen.iter().any(|table| misses(&table))) {
            return Err(other(""));
        }
        match under_way.iter().any(|table| is_other(treatments.of(table.oid), table)) {
            true => Err(other(" in another way")),
            false => Ok(under_way),
        }
    }

    /// Refuses a target that is not one of this archive's, or not ready.
    async fn prepare(&self, target: &Client) -> Result<(), Fault> {
        let stream = &self.names.origin;
        let archive_id = self.archive.manifest().archive_id.to_string();
        let Some(row) = progress::read(target, stream).await? else {
            return Err(Fault::stop(format!("the target has no progress row for '{stream}'"))
                .hint("backfill is for a pipeline that there is: pgsluice clone or follow makes one"));
        };
        if row.archive_id != archive_id {
            return Err(Fault::person(format!(
                "the target's progress of '{stream}' belongs to archive {}, not to {archive_id}",
                row.archive_id
            ))
            .hint("check --archive and --name"));
        }
        let clone = copied::clone(target, stream).await?;
        if clone.as_ref().is_some_and(|clone| clone.through.is_none()) {
            return Err(Fault::stop("the clone of this target is not finished")
                .hint("run pgsluice clone again: it goes on where it was"));
        }
        let scope = clone.and_then(|clone| clone.scope).unwrap_or_default();
        if scope.contains("--rename") {
            return Err(Fault::stop(format!(
                "stream {stream} has tables under other names ({scope}), which backfill does not know"
            ))
            .hint("pgsluice replay makes them anew"));
        }
        ruled::refuse(target, stream, "backfill").await?;
        joining::prepare(target).await?;
        copied::prepare(target).await
    }

    /// Removes what a run has kept for itself that was cut off behind the handover.
    async fn forget_ended(&self, target: &Client) -> Result<(), Fault> {
        let own = joining::own_stream(&self.names.origin);
        if progress::read(target, &own).await.map_err(Side::Target.says())?.is_none() {
            self.forget(target).await;
        }
        Ok(())
    }

    async fn hold_and_join(&self, target: &Client, tables: &[Joining]) -> Result<(), Fault> {
        let held = hold(target, &self.names.origin).await?;
        // The copied rows would have what was set aside, and get it once more when that is brought. None is noted while we hold the applier.
        let what = "a backfill can't begin";
        if let Err(fault) = dead::refuse_open(target, &self.names.origin, what).await {
            held.release().await.map_err(Side::Target.says())?;
            return Err(fault);
        }
        held.join(tables).await.map_err(Side::Target.says())
    }

    /// Has the source publish what it does not yet. Gives the tables that changes come under.
    pub(super) async fn publish(
        &self,
        source: &Client,
        target: &Client,
        joining: &[Joining],
    ) -> Result<HashSet<u32>, Fault> {
        let name = &self.names.publication;
        let at_source = Side::Source.says();
        let all = tables::tables(source).await.map_err(&at_source)?;
        let sent = publication::sent(source, name).await.map_err(&at_source)?;
        let is_sent = |oid: u32| sent.contains_key(&oid) || sent.values().any(|above| above.contains(&oid));
        let added = joining.iter().filter(|table| table.added && !is_sent(table.oid));
        let added = added.filter_map(|table| all.iter().find(|other| other.oid == table.oid));
        let added: Vec<String> = added.map(Table::quoted).collect();
        if !added.is_empty() {
            publication::add_tables(source, name, &added).await.map_err(&at_source)?;
            tracing::info!(publication = name, tables = added.join(", "), "published from now on");
        }
        let sent = publication::sent(source, name).await.map_err(&at_source)?;
        let ours: HashSet<u32> = joining.iter().map(|table| table.oid).collect();
        let meant = sent
            .iter()
            .filter(|(oid, above)| ours.contains(oid) || above.iter().any(|oid| ours.contains(oid)));
        let meant: HashSet<u32> = meant.map(|(oid, _)| *oid).collect();
        // Partitions that were made since belong to what they are of.
        let more = all.iter().filter(|table| meant.contains(&table.oid) && !ours.contains(&table.oid));
        let more: Vec<Joining> = more
            .filter_map(|table| {
                let root = joining.iter().find(|root| table.ancestors.contains(&root.oid))?;
                let (schema, name) = (table.schema.clone(), table.name.clone());
                // Nothing counts as being there: what it has, it has had from before it was left out.
                let everything = Joining {
                    copies: true,
                    condition: None,
                    min_xid: None,
                    changed_since: None,
                    ..root.clone()
                };
                Some(Joining { oid: table.oid, schema, name, added: false, ..everything })
            })
            .collect();
        if !more.is_empty() {
            self.hold_and_join(target, &more).await?;
        }
        Ok(meant)
    }

    /// Gives up what is under way; says what it was.
    pub(super) async fn give_up(&self) -> Result<Vec<String>, Fault> {
        let (source, target) = self.clients().await?;
        let stream = &self.names.origin;
        let under_way = under_way(&target, stream).await?;
        if under_way.is_empty() {
            self.forget_ended(&target).await?;
            return Err(Fault::usage("no backfill is under way"));
        }
        copied::prepare(&target).await.map_err(Side::Target.says())?;
        hold(&target, stream).await?.give_up().await.map_err(Side::Target.says())?;
        let name = &self.names.publication;
        let published = publication::read(&source, name).await.map_err(Side::Source.says())?;
        let published = published.map(|publication| publication.published);
        if let Some(publication::Published::Tables(names)) = published {
            let added = under_way.iter().filter(|table| table.added);
            let added: Vec<String> = added
                .filter(|table| names.contains(&(table.schema.clone(), table.name.clone())))
                .map(|table| tables::quoted_name(&table.schema, &table.name))
                .collect();
            if !added.is_empty() {
                publication::remove_tables(&source, name, &added).await.map_err(Side::Source.says())?;
            }
        }
        self.forget(&target).await;
        Ok(shown_names(&under_way))
    }
}

/// What somebody is at, or was until it was cut off.
pub(super) async fn under_way(target: &Client, stream: &str) -> Result<Vec<Joining>, Fault> {
    let mut joining = joining::read(target, stream).await.map_err(Side::Target.says())?;
    joining.retain(|table| table.active && table.through.is_none());
    Ok(joining)
}

/// The stream's applier, held between two batches.
async fn hold<'c>(target: &'c Client, stream: &str) -> Result<joining::Held<'c>, Fault> {
    let mut told = Instant::now();
    loop {
        if let Some(held) = joining::hold(target, stream).await.map_err(Side::Target.says())? {
            return Ok(held);
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            tracing::warn!(
                "waiting for the applier: a batch of its goes over several lanes, or was cut off between them (then run it)"
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

pub(super) fn shown_names(tables: &[Joining]) -> Vec<String> {
    tables.iter().map(|table| shown_name(&table.schema, &table.name)).collect()
}
