//! Snapshots of polled tables: a TRUNCATE at the beginning of a transaction, and all rows behind it. Each is a batch of its own.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::super::inside::Inside as Talk;
use super::super::shaper::Given;
use super::super::snapshot::{self, LOCK_NOT_AVAILABLE, Place, Ready, Users};
use super::super::{After, describe, lookup};
use super::{Applier, Flow, Inside, Run};
use crate::faults;
use crate::model::{Fault, Position, Relation, Value};
use crate::pg::control::fault;
use crate::pg::pattern::Rename;
use crate::pg::snapshots::{self, Shown};
use crate::pgoutput::{Begin, Message, Truncate};
use crate::rules::{Shaped, Spare};
use crate::transform::Arriving;

/// Our own schema, should it be polled from a source that is itself a target.
const OWN_SCHEMA: &str = "pgsluice";
const DEPENDENT_OBJECTS: &str = "2BP01";
const SAVEPOINT: &str = "pgsluice_swap";
/// `unknown`, which columns of old views may have, and what rules leave open.
const AS_TEXT: [u32; 2] = [705, 0];

/// Between two tries to get a lock.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// After which it is looked who has it, and how often that is told.
const LOOK: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(30);

/// What the transaction in hand is, where tables are polled.
pub(super) enum Snapshot {
    /// Nothing of it was read that tells.
    Possible,
    /// It has ordinary changes.
    Not,
    /// Of this table, which is not for this target.
    LeftOut(u32),
    Coming(Box<Coming>),
}

/// A snapshot whose rows go into the table that the view does not show.
pub(super) struct Coming {
    oid: u32,
    place: Place,
    ready: Ready,
    /// A client inside of the transaction.
    talk: Talk,
    rows: u64,
    began: Instant,
}

/// A lock that is waited for.
struct Waiting {
    since: Instant,
    told: Option<Instant>,
    pause: Duration,
}

impl Waiting {
    fn begin() -> Waiting {
        Waiting { since: Instant::now(), told: None, pause: PAUSE_MIN }
    }
}

impl Snapshot {
    /// The table of the source of which one comes.
    pub(super) fn table(&self) -> Option<u32> {
        match self {
            Snapshot::Coming(coming) => Some(coming.oid),
            Snapshot::Possible | Snapshot::Not | Snapshot::LeftOut(_) => None,
        }
    }
}

impl Coming {
    /// What the target says of it.
    pub(super) fn explain(&self, fault: Fault) -> Fault {
        let state = fault.sqlstate.clone().unwrap_or_default();
        let is_about_rows = state.starts_with("22") || state.starts_with("23");
        let fault = fault.context(format!("snapshot of {}", self.place.name()));
        if state == DEPENDENT_OBJECTS {
            return fault.hint("the view must be made anew; drop what came to depend on it meanwhile, run the same command again");
        }
        if fault.hint.is_none() && is_about_rows {
            return fault.hint(
                "the view shows the snapshot before; drop the constraint or index that was made on the tables behind it, or mend the source",
            );
        }
        fault
    }
}

impl Applier<'_> {
    /// Takes in a change of a snapshot; none where it is an ordinary one.
    pub(super) async fn snapshot(
        &mut self,
        run: &mut Run,
        begin: Begin,
        change: &Message<'_>,
    ) -> Result<Option<Flow>, Fault> {
        if !self.archive.manifest().is_polled() {
            return Ok(None);
        }
        match (&run.snapshot, change) {
            (Snapshot::Possible, Message::Truncate(truncate)) => {
                self.begin_snapshot(run, begin, truncate).await.map(Some)
            }
            (
                Snapshot::Possible | Snapshot::Not,
                Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. },
            ) => {
                run.snapshot = Snapshot::Not;
                Ok(None)
            }
            (Snapshot::LeftOut(oid), Message::Insert { relation, .. }) if oid == relation => {
                Ok(Some(Flow::On))
            }
            (Snapshot::Coming(coming), Message::Insert { relation, .. }) if coming.oid == *relation => {
                self.snapshot_row(run, begin, change).await.map(Some)
            }
            (
                _,
                Message::Truncate(_)
                | Message::Insert { .. }
                | Message::Update { .. }
                | Message::Delete { .. },
            ) => {
                let fault = Fault::person(
                    "a TRUNCATE stands where a snapshot does not begin, or other changes than its rows are in one",
                );
                Err(fault.context(describe::begun(begin)))
            }
            _ => Ok(None),
        }
    }

    /// Makes the table ready that the view does not show. All before is committed.
    async fn begin_snapshot(
        &mut self,
        run: &mut Run,
        begin: Begin,
        truncate: &Truncate,
    ) -> Result<Flow, Fault> {
        // So far nothing of it was taken in.
        let inside = std::mem::replace(&mut run.inside, Inside::Nothing);
        let flow = self.finish(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        run.inside = inside;
        run.first = Some(begin.commit_time);
        self.report(run);
        let &[oid] = truncate.relations.as_slice() else {
            return Err(run.at(Fault::person("a snapshot is of one table")));
        };
        let Some((place, relation)) =
            self.place_of(&run.catalog, oid).await.map_err(|fault| run.at(fault))?
        else {
            run.snapshot = Snapshot::LeftOut(oid);
            return Ok(Flow::On);
        };
        snapshots::prepare(&run.catalog).await?;
        let columns = self.columns_of(&run.catalog, &relation).await.map_err(|fault| run.at(fault))?;
        let mut waiting = Waiting::begin();
        loop {
            let flow = self.open(run).await?;
            if flow != Flow::On {
                return Ok(flow);
            }
            if let Err(refused) = run.lanes.main.verdict().await {
                return self.refused(run, refused).await;
            }
            let mut talk = Talk::open().await?;
            let prepared = run
                .lanes
                .main
                .inside(&mut talk, async |client| snapshot::prepare(client, &place, &columns).await)
                .await;
            let busy = match prepared {
                Ok(Ok(ready)) => {
                    run.lanes.main.copy_by(&ready.copy).await?;
                    let coming = Coming { oid, place, ready, talk, rows: 0, began: Instant::now() };
                    run.snapshot = Snapshot::Coming(Box::new(coming));
                    faults::point("apply.snapshot_emptied");
                    return Ok(Flow::On);
                }
                Ok(Err(busy)) => busy,
                Err(fault) => {
                    self.refusals += 1;
                    return Err(run.at(fault.context(format!("snapshot of {}", place.name()))));
                }
            };
            // Nothing is kept from anybody meanwhile.
            run.give_up().await?;
            run.first = Some(begin.commit_time);
            self.report(run);
            let flow = self.wait(run, &mut waiting, &busy, "an old snapshot is still read").await?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
    }

    /// Where the snapshot of a table goes, and what it is there; none where it is not for this target.
    async fn place_of(&mut self, catalog: &Client, oid: u32) -> Result<Option<(Place, Relation)>, Fault> {
        let relation = self.planner.relation(oid).cloned().ok_or_else(|| {
            Fault::person(format!("a snapshot is of relation {oid}, which the log does not define before it"))
        })?;
        let source = self.shaper.source(oid).cloned();
        let source = source.as_ref().unwrap_or(&relation);
        let rules = &self.target.rules;
        let family = rules.family(catalog, source, &relation).await?;
        let choice = rules.choose(&family);
        self.seen.extend(family);
        let Some(choice) = choice.filter(|_| source.schema != OWN_SCHEMA) else { return Ok(None) };
        if choice.columns.is_some() {
            let name = format!("{}.{}", source.schema, source.name);
            return Err(Fault::stop(format!("--columns is not for {name}, of which snapshots come"))
                .hint("name the columns where the table is polled, or leave them out by --rules"));
        }
        if let Some(refusal) = self.shaper.refusal(oid) {
            return Err(Fault::from(refusal.clone()));
        }
        let name = format!("{}.{}", relation.schema, relation.name);
        if self.shaper.shaped(oid).is_some_and(Shaped::is_routed) {
            return Err(Fault::stop(format!(
                "by the rules rows of several tables go into {name}, and snapshots come of one of them"
            ))
            .hint("a snapshot has a view of its own: leave out into"));
        }
        if self.shaper.shaped(oid).is_some_and(|shaped| shaped.arriving() != Arriving::New) {
            return Err(Fault::stop(format!(
                "by the rules rows of {name} stay, or give way to others, and a snapshot is all that there is"
            ))
            .hint("leave the mode out; or poll the table by upsert"));
        }
        if relation.columns.is_empty() {
            return Err(Fault::stop(format!("{name} has no columns")));
        }
        let (schema, name) = Rename::place(&self.target.rules.renames, &relation.schema, &relation.name);
        Ok(Some((Place::new(&self.target.stream, oid, schema, name), relation)))
    }

    /// Name and type of each column, as the target names them.
    async fn columns_of(
        &self,
        catalog: &Client,
        relation: &Relation,
    ) -> Result<Vec<(String, String)>, Fault> {
        let arriving = lookup::arriving(catalog, &self.planner, relation).await;
        let arriving = arriving.map_err(|error| fault(&error))?;
        let mut columns = Vec::new();
        for (column, of) in relation.columns.iter().zip(arriving) {
            let named = |what: String| {
                let table = format!("{}.{}", relation.schema, relation.name);
                Fault::stop(format!("column {} of {table} is of {what}", column.name))
            };
            let sql = match of {
                _ if AS_TEXT.contains(&column.type_oid) => "text".to_owned(),
                Some(of) if of.oid != 0 => of.sql,
                Some(of) => {
                    return Err(named(format!("type {}, which the target does not have", of.sql)).hint(
                        "make the type on the target (CREATE TYPE, CREATE EXTENSION), or poll the column as text; then run the same command again",
                    ));
                }
                None => {
                    return Err(named(format!(
                        "a type of OID {}, which the log does not name",
                        column.type_oid
                    )));
                }
            };
            columns.push((column.name.clone(), sql));
        }
        Ok(columns)
    }

    /// Hands on a row, as it is on this target.
    async fn snapshot_row(
        &mut self,
        run: &mut Run,
        begin: Begin,
        change: &Message<'_>,
    ) -> Result<Flow, Fault> {
        let mut spare = Spare::default();
        match self.given(change, begin, &mut spare) {
            Ok(Given::Same) => bring_row(run, change).await?,
            Ok(Given::Rows(rows)) => {
                for row in rows.iter().flatten() {
                    bring_row(run, row).await?;
                }
            }
            Ok(Given::Nothing | Given::Truncate { .. }) => return Ok(Flow::On),
            Err(refusal) => return Err(self.untold(run, change, refusal)),
        }
        self.go_on(run, change).await
    }

    /// All rows have been read: gives their table what the one that is shown has.
    pub(super) async fn end_snapshot(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        if let Err(refused) = run.lanes.main.verdict().await {
            return self.refused(run, refused).await;
        }
        let Snapshot::Coming(coming) = &mut run.snapshot else { return Ok(Flow::On) };
        let Coming { place, ready, talk, rows, .. } = coming.as_mut();
        let shown = Shown { rows: *rows, lsn: run.advance.end, taken_at: run.advance.commit_time };
        let work = async |client: &Client| snapshot::finish(client, place, ready, shown).await;
        if let Err(fault) = run.lanes.main.inside(talk, work).await {
            self.refusals += 1;
            return Err(coming.explain(fault));
        }
        faults::point("apply.snapshot_whole");
        Ok(Flow::On)
    }

    /// Commits a snapshot whose verdict is good, with the view that shows it. Whoever reads the view is waited for, and nobody waits long for us.
    pub(super) async fn swap(&mut self, run: &mut Run, end: Position) -> Result<Flow, Fault> {
        if let Err(refused) = run.lanes.main.savepoint(SAVEPOINT).await {
            return self.refused(run, refused).await;
        }
        let mut waiting = Waiting::begin();
        loop {
            let Snapshot::Coming(coming) = &mut run.snapshot else { return Ok(Flow::On) };
            let Coming { place, ready, talk, .. } = coming.as_mut();
            let work = async |client: &Client| snapshot::swap(client, place, ready).await;
            let statements = match run.lanes.main.inside(talk, work).await {
                Ok(statements) => statements,
                Err(fault) => return Err(coming.explain(fault)),
            };
            let view = place.view();
            run.lanes.main.commit_behind(&statements).await?;
            let refused = match run.lanes.main.committed(end).await {
                Ok(()) => {
                    let (view, rows) = (place.name(), coming.rows);
                    let (seconds, waited_seconds) =
                        (coming.began.elapsed().as_secs_f64(), waiting.since.elapsed().as_secs_f64());
                    tracing::info!(view, rows, %end, seconds, waited_seconds, "the view shows a new snapshot");
                    run.snapshot = Snapshot::Possible;
                    return Ok(Flow::On);
                }
                Err(refused) => refused,
            };
            if refused.fault.sqlstate.as_deref() != Some(LOCK_NOT_AVAILABLE) {
                return self.refused(run, refused).await;
            }
            if let Err(refused) = run.lanes.main.go_back(SAVEPOINT).await {
                return self.refused(run, refused).await;
            }
            match self.wait(run, &mut waiting, &view, "the view is in use").await? {
                Flow::On => {}
                other => {
                    run.give_up().await?;
                    return Ok(other);
                }
            }
        }
    }

    /// Runs what is to be run once the view shows a new snapshot of the table. What fails is told, and not tried again.
    pub(super) async fn run_after(&self, run: &mut Run, oid: u32) {
        let Some(source) = self.shaper.source(oid).or_else(|| self.planner.relation(oid)) else { return };
        let is_meant = |after: &&After| (&after.table.0, &after.table.1) == (&source.schema, &source.name);
        let table = format!("{}.{}", source.schema, source.name);
        for statement in self.target.after.iter().filter(is_meant).flat_map(|after| &after.statements) {
            let began = Instant::now();
            match run.catalog.batch_execute(statement).await {
                Ok(()) => {
                    let seconds = began.elapsed().as_secs_f64();
                    tracing::info!(table, statement, seconds, "run after the swap");
                }
                Err(error) => {
                    let error = fault(&error);
                    tracing::warn!(table, statement, %error, "failed after the swap; it is not tried again");
                }
            }
        }
    }

    /// Waits a while for those who use a relation, and tells who they are where it takes long.
    async fn wait(
        &self,
        run: &mut Run,
        waiting: &mut Waiting,
        relation: &str,
        why: &str,
    ) -> Result<Flow, Fault> {
        if waiting.since.elapsed() > LOOK {
            let Users { pids, wait_for_us } =
                snapshot::users(&run.catalog, relation, run.lanes.main.backend_pid()).await?;
            if waiting.told.is_none_or(|told| told.elapsed() > TELL) {
                waiting.told = Some(Instant::now());
                let seconds = waiting.since.elapsed().as_secs();
                tracing::warn!(relation, pids, seconds, "{why}: a snapshot waits for it");
            }
            if wait_for_us {
                tracing::warn!(
                    relation,
                    pids,
                    "who uses it waits for us in turn: the snapshot is begun anew"
                );
                return Ok(Flow::Again);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(waiting.pause) => {}
            _ = run.stop.wait_for(|stop| *stop) => return Ok(Flow::Stopped),
        }
        waiting.pause = (2 * waiting.pause).min(PAUSE_MAX);
        Ok(Flow::On)
    }
}

async fn bring_row(run: &mut Run, row: &Message<'_>) -> Result<(), Fault> {
    let Message::Insert { new, .. } = row else {
        return Err(run.at(Fault::person("a snapshot has something else than rows")));
    };
    let values: Result<Vec<_>, Fault> = new.values().map(text).collect();
    let values = values.map_err(|fault| run.at(fault))?;
    run.lanes.main.copy_row(&values).await?;
    run.advance.changes += 1;
    if let Snapshot::Coming(coming) = &mut run.snapshot {
        coming.rows += 1;
    }
    Ok(())
}

fn text(value: Value<'_>) -> Result<Option<&[u8]>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(text)),
        Value::Unchanged | Value::Binary(_) => {
            Err(Fault::person("a row of a snapshot has a value that is no text"))
        }
    }
}
