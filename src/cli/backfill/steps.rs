//! The steps of a backfill, in their order; each is safe to repeat, and none is done twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::super::arguments::Names;
use super::super::clone::across_lost_connections;
use super::super::copying::CopyShown;
use super::super::reach::Side;
use super::join::{shown_names, under_way};
use super::settings::{Settings, by_selection, selection_of};
use crate::apply::{self, Ddl, OnError, Rules, Target};
use crate::archive::{Archive, Reader};
use crate::copy::{self, PartSize, Rate, Refreshed};
use crate::faults;
use crate::follow::{Handover, hand_over};
use crate::model::{Fault, Position};
use crate::pg::joining::{self, Joining, own_stream};
use crate::pg::pattern::Pattern;
use crate::pg::{Conninfo, copied, origin, progress, tables};

/// How long to wait for what an earlier run has left behind on the target.
pub(super) const TAKEOVER: Duration = Duration::from_secs(15);
pub(super) const POLL: Duration = Duration::from_millis(50);

/// What is to be done, and where.
pub(super) struct Work {
    pub(super) names: Names,
    pub(super) source: Conninfo,
    pub(super) target: Conninfo,
    pub(super) archive: Archive,
    pub(super) patterns: Vec<Pattern>,
    pub(super) settings: Settings,
    pub(super) jobs: usize,
    pub(super) part_size: PartSize,
    pub(super) bytes_per_second: Option<u64>,
}

/// What was done.
pub(super) struct Ended {
    pub(super) tables: Vec<String>,
    pub(super) through: Position,
}

impl Work {
    /// Brings the tables and hands them over, across lost connections.
    pub(super) async fn perform(&self, shown: &CopyShown) -> Result<Ended, Fault> {
        let (mut handing, mut joined) = (None, false);
        across_lost_connections(async || self.try_perform(shown, &mut handing, &mut joined).await).await
    }

    /// `handing`: the tables whose handover was begun, and may have happened.
    async fn try_perform(
        &self,
        shown: &CopyShown,
        handing: &mut Option<Vec<Joining>>,
        joined: &mut bool,
    ) -> Result<Ended, Fault> {
        let (source, target) = self.clients().await?;
        let stream = &self.names.origin;
        let is_over = *joined && under_way(&target, stream).await?.is_empty();
        if is_over && (handing.is_none() || self.was_given_up(&target).await?) {
            return Err(Fault::stop("the backfill was given up meanwhile").hint("begin it anew"));
        }
        if let Some(tables) = handing
            && is_over
        {
            self.forget(&target).await;
            let main = progress::read(&target, stream).await.map_err(Side::Target.says())?;
            let through = main.map(|row| row.lsn).unwrap_or_default();
            return Ok(Ended { tables: shown_names(tables), through });
        }
        let all = tables::tables(&source).await.map_err(Side::Source.says())?;
        let treatments = self.settings.of_tables(&all)?;
        let joining = self.join(&source, &target, &all, &treatments).await?;
        *joined = true;
        faults::point("backfill.after_join");
        let sent = self.publish(&source, &target, &joining).await?;
        // With what was found to be among them.
        let joining = under_way(&target, stream).await?;
        faults::point("backfill.after_publish");
        let after = self.begin(&target, &joining).await?;
        let options = copy::Options {
            archive: self.archive.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            stream: own_stream(stream),
            publication: self.names.publication.clone(),
            tables: Vec::new(),
            exclude: Vec::new(),
            only: Some(sent.clone()),
            after,
            jobs: self.jobs,
            part_size: self.part_size.clone(),
            rate: self.bytes_per_second.map(|rate| Arc::new(Rate::new(rate))),
            rates: treatments.rates(),
            priorities: treatments.priorities(),
            sequences: false,
            rules: None,
        };
        let least = self.copy(&options, &joining, &source, &target, shown).await?;
        nudge(&source).await;
        let handed = Target {
            conninfo: self.target.clone(),
            stream: own_stream(stream),
            sequences: false,
            rules: Rules::default(),
            ddl: Ddl::default(),
            after: [].into(),
            lanes: 1,
            delay: Duration::ZERO,
            shapes: None,
            accept_rules: false,
            only_local: false,
            on_error: OnError::Stop,
            parts: None,
            only: Some(joining.iter().map(|table| table.oid).chain(sent).collect()),
        };
        let handover = Handover { archive: &self.archive, target: &handed, stream, least };
        *handing = Some(joining.clone());
        let through = hand_over(&handover, &target).await?;
        self.forget(&target).await;
        Ok(Ended { tables: shown_names(&joining), through })
    }

    /// Whether tables are left out that nobody is at.
    async fn was_given_up(&self, target: &Client) -> Result<bool, Fault> {
        let left_out = joining::read(target, &self.names.origin).await.map_err(Side::Target.says())?;
        Ok(left_out.iter().any(|table| !table.active && table.through.is_none()))
    }

    /// Makes the tables' own progress, at a position that all comes behind which the snapshots may not show.
    async fn begin(&self, target: &Client, joining: &[Joining]) -> Result<Position, Fault> {
        let (stream, manifest) = (&self.names.origin, self.archive.manifest());
        let own = own_stream(stream);
        let at_target = Side::Target.says();
        if let Some(row) = progress::read(target, &own).await.map_err(&at_target)? {
            return Ok(row.lsn);
        }
        let main = progress::read(target, stream).await.map_err(&at_target)?;
        let main = main.map(|row| row.lsn).unwrap_or(manifest.start);
        let reader = tokio::task::block_in_place(|| Reader::open(&self.archive, main, None))?;
        // Where other rows on the target count, what was left out since then is to be looked at.
        let after = match joining.iter().all(|table| selection_of(table).is_everything()) {
            true => reader.durable().max(main),
            false => joining.iter().map(|table| table.since).min().unwrap_or(main).min(main),
        };
        apply::register(&self.archive, target, &self.target, &own, after).await.map_err(&at_target)?;
        let (system, id) = (manifest.system_identifier.to_string(), manifest.archive_id.to_string());
        progress::create(target, &own, after, &system, &id).await.map_err(&at_target)?;
        if origin::denied(target).await.map_err(&at_target)?.is_empty() {
            origin::create(target, &own).await.map_err(&at_target)?;
        }
        Ok(after)
    }

    /// Copies what is not on the target yet. No snapshot shows what was committed from the position on that it gives.
    async fn copy(
        &self,
        options: &copy::Options,
        joining: &[Joining],
        source: &Client,
        target: &Client,
        shown: &CopyShown,
    ) -> Result<Position, Fault> {
        // Every transaction that began before the tables were published and left to us has ended then, and shows.
        copy::begin(options, false).await?;
        let clone = || copied::clone(target, &options.stream);
        if clone().await?.is_some_and(|clone| clone.through.is_some()) {
            tracing::info!("copied by an earlier run");
        } else {
            let oids: Vec<u32> = joining.iter().map(|table| table.oid).collect();
            copied::note_tables(target, &options.stream, &oids).await?;
            let taken: HashSet<u32> =
                joining.iter().filter(|table| !table.copies).map(|table| table.oid).collect();
            let groups = by_selection(joining.iter().map(|table| (selection_of(table), table.oid)));
            let copied: HashSet<u32> =
                options.only.iter().flatten().copied().filter(|oid| !taken.contains(oid)).collect();
            let is_copied = !copied.is_empty();
            let (copied, taken) = (options.only(copied), options.only(taken));
            // Soon: what is committed before that counts as being there.
            copy::from_now(&taken).await?;
            if !groups.is_empty() {
                nudge(source).await;
            }
            for (selection, oids) in groups {
                let whole = copy::selected(&options.only(oids), &selection).await?;
                joining::bring_all(target, &self.names.origin, &whole).await.map_err(Side::Target.says())?;
                faults::point("backfill.after_selected");
            }
            if is_copied {
                copy::empty(&copied).await?;
                faults::point("backfill.after_empty");
            }
            loop {
                copy::from_now(&taken).await?;
                if is_copied {
                    copy::rows(&copied, shown.progress()).await?;
                }
                if let Refreshed::Whole(_) = copy::refresh(options).await? {
                    break;
                }
            }
            if is_copied {
                copy::analyze(&copied).await?;
            }
        }
        let missing = copy::missing(options).await?;
        if !missing.is_empty() {
            return Err(Fault::stop(format!("tables of these OIDs were not copied: {missing:?}")).hint(
                "was one taken out of the publication meanwhile? pgsluice backfill --abort, then begin anew",
            ));
        }
        shown.end();
        let through = clone().await?.and_then(|clone| clone.through);
        through.ok_or_else(|| Fault::retry("the copy's notes have gone from the target"))
    }

    /// Takes away what is left when the tables were handed over or given up. It does no harm where it stays.
    pub(super) async fn forget(&self, target: &Client) {
        let own = own_stream(&self.names.origin);
        let forgotten = async {
            drop_origin(target, &own).await?;
            let name = apply::registered_name(target, &self.target, &own).await?;
            tokio::task::block_in_place(|| self.archive.forget_applier(&name))
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "what the backfill kept for itself can't be removed: pgsluice cleanup does it");
        }
    }
}

/// The backend of the applier that had it may be on its way out.
async fn drop_origin(target: &Client, name: &str) -> Result<(), Fault> {
    const OBJECT_IN_USE: &str = "55006";
    let started = Instant::now();
    loop {
        match origin::drop(target, name).await {
            Err(fault)
                if fault.sqlstate.as_deref() == Some(OBJECT_IN_USE) && started.elapsed() < TAKEOVER =>
            {
                tokio::time::sleep(POLL).await;
            }
            other => return other.map(drop),
        }
    }
}

/// Has the source write something behind what the snapshots show, since the log of an idle one comes on slowly. It waits for no standby.
async fn nudge(source: &Client) {
    let message =
        "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgsluice.backfill', '')";
    if let Err(error) = source.batch_execute(message).await {
        tracing::debug!(%error, "no message in the source's WAL");
    }
}
