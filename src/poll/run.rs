//! Polls table by table, several at a time, until it is stopped or all were pulled once.

use std::sync::{Mutex as Shared, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::{Mutex, Notify, watch};

use super::alarm::{Alarm, Alarms, Tell};
use super::due::{Next, Plan};
use super::lock::Lock;
use super::log::Log;
use super::look::{self, Sessions};
use super::pull::{Pulled, Puller, Which};
use super::shape::{self, Control, Shape};
use super::state::State;
use super::{Method, Table, make, queue, refuse_other};
use crate::archive::{Archive, WriterOptions};
use crate::model::{Fault, Position, Remedy, quote_literal};
use crate::pg::{Conninfo, Pipeline, now};

/// What to poll, and where it goes.
pub struct Options {
    pub archive: Archive,
    pub source: Conninfo,
    pub tables: Vec<Table>,
    pub writer: WriterOptions,
    /// Tables that are pulled at a time.
    pub jobs: usize,
    /// For how long another run is waited for.
    pub lock_wait: Duration,
    pub pulls: Pulls,
    /// Turns true when the run shall end.
    pub stop: watch::Receiver<bool>,
}

/// Which pulls a run makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulls {
    /// Each table by its period.
    UntilStopped,
    /// Each table that is due, or with `all` each, once.
    Once { all: bool },
    /// A range of each table once more.
    Again(Again),
}

/// Values of the control column, both included, as PostgreSQL reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    pub from: String,
    pub to: String,
}

/// What a run has done.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outcome {
    pub pulls: u64,
    pub rows: u64,
    pub deleted: u64,
    /// How far the log is durable.
    pub through: Position,
    /// Tables whose last pull failed, and why.
    pub failed: std::collections::BTreeMap<String, String>,
}

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_secs(1);

/// A lost connection has changed nothing on the source.
fn may_pass(fault: &Fault) -> bool {
    matches!(fault.remedy, Remedy::Retry | Remedy::Reread)
}

/// Polls. `tell` hears of what a person should do something about.
pub async fn run(options: Options, tell: &Tell<'_>) -> Result<Outcome, Fault> {
    refuse_other(&options.archive)?;
    let sessions = Sessions::default();
    let mut stop = options.stop.clone();
    let Some(mut lock) = begin(&options, &sessions).await? else { return Ok(Outcome::default()) };
    let (archive, writer) = (options.archive.clone(), options.writer.clone());
    let log = tokio::task::block_in_place(|| Log::open(&archive, writer, now()))?;
    if let Err(fault) = same_as_before(&options.tables, log.state()) {
        log.close().await?;
        return Err(fault);
    }
    let is_once = options.pulls != Pulls::UntilStopped;
    let all = options.pulls != Pulls::Once { all: false };
    let states = &log.state().tables;
    let lasts = options.tables.iter().map(|table| {
        let last = states.get(&table.shown()).and_then(|state| state.last_run.as_deref());
        (last.and_then(look::time), table.every)
    });
    let plan = Plan::new(lasts, is_once, is_once && all);
    let log = Mutex::new(log);
    let pullers = options.tables.iter().map(|table| Puller {
        table,
        log: &log,
        sessions: &sessions,
        candidates: Mutex::default(),
    });
    let crew = Crew {
        options: &options,
        pullers: pullers.collect(),
        plan: Shared::new(plan),
        changed: Notify::new(),
        alarms: Alarms::new(tell),
        outcome: Shared::default(),
        is_once,
    };
    let ended = loop {
        let workers = try_join_all((0..options.jobs.max(1)).map(|_| crew.work()));
        let ticking = async {
            loop {
                tokio::time::sleep(TICK).await;
                if let Ok(mut log) = log.try_lock() {
                    log.tick();
                }
            }
        };
        let lost = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break Ok(()),
            lost = lock.lost() => lost,
            done = workers => break done.map(drop),
            () = ticking => break Ok(()),
        };
        tracing::warn!(error = %lost, "the lock is taken anew");
        crew.put_back();
        match begin(&options, &sessions).await {
            Ok(Some(taken)) => lock = taken,
            Ok(None) => break Ok(()),
            Err(fault) => break Err(fault),
        }
    };
    let mut outcome = crew.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
    drop(crew);
    outcome.through = log.into_inner().close().await?;
    drop(lock);
    ended.map(|()| outcome)
}

/// Takes the lock, and looks whether all tables can be polled; waits for a source that is away, unless that is for once. None where stopped meanwhile.
async fn begin(options: &Options, sessions: &Sessions) -> Result<Option<Lock>, Fault> {
    let mut stop = options.stop.clone();
    let mut backoff = BACKOFF_MIN;
    loop {
        let id = options.archive.manifest().archive_id;
        let taking = async {
            let lock = Lock::take(&options.source, sessions, id, options.lock_wait).await?;
            check(options, sessions).await?;
            Ok(lock)
        };
        let taken = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
            taken = taking => taken,
        };
        match taken {
            Ok(lock) => return Ok(Some(lock)),
            Err(fault) if may_pass(&fault) && options.pulls == Pulls::UntilStopped => {
                tracing::warn!(error = %fault, retry_seconds = backoff.as_secs_f64(), "source can't be reached");
            }
            Err(fault) => return Err(fault),
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Refuses what can't be polled as it was asked for, before anything is read.
async fn check(options: &Options, sessions: &Sessions) -> Result<(), Fault> {
    let mut source = sessions.connect(&options.source).await?;
    make::refuse_another(&options.archive, &mut source).await?;
    let clock = look::clock(&mut source).await?;
    for table in &options.tables {
        let shown = table.shown();
        let shape = Shape::read(&mut source, table).await?;
        if table.column.is_some() {
            let control = shape.control(table)?;
            let mode = shape::mode(table, clock.is_standby)?;
            if let (Control::Local | Control::Day, Some(zone)) = (control, &table.time_zone) {
                let known = format!("SELECT now() AT TIME ZONE {}", quote_literal(zone));
                source.simple(&known).await.map_err(|fault| {
                    Fault::usage(format!("time-zone of {shown}: {}", fault.message))
                        .hint("name a zone of the source's pg_timezone_names")
                })?;
            }
            if control == Control::Number
                && let Some(cache) =
                    shape::sequence_cache(&mut source, table).await?.filter(|cache| *cache > 1)
            {
                shape::cached(table, cache)?;
            }
            tracing::debug!(table = shown, method = table.method.name(), limit = ?mode, "is polled");
        }
        if table.method == Method::Queue {
            shape.refuse_heirs(table)?;
            may_drain(&mut source, table, clock.is_standby).await?;
            source.simple(&queue::ids(table)).await.map_err(|fault| {
                fault.context(format!("the queue of {shown}")).hint(
                    "make queue and trigger with what `pgsluice poll queue-sql` prints, and GRANT SELECT, DELETE on the queue",
                )
            })?;
        }
        if !table.method.sees_deletes() {
            tracing::info!(table = shown, method = table.method.name(), "rows that are deleted are not seen");
        }
    }
    Ok(())
}

/// Refuses a queue whose rows could be read and never removed.
async fn may_drain(source: &mut Pipeline, table: &Table, is_standby: bool) -> Result<(), Fault> {
    let (shown, queue) = (table.shown(), quote_literal(&queue::quoted_queue(table)));
    let asked = format!(
        "SELECT (current_setting('transaction_read_only') = 'off' AND coalesce(has_table_privilege(to_regclass({queue}), 'DELETE'), true))::text"
    );
    if !is_standby && look::cell(source, &asked).await?.as_deref() == Some("true") {
        return Ok(());
    }
    Err(Fault::stop(format!("what was read from the queue of {shown} could not be removed from it"))
        .hint("GRANT SELECT, DELETE on the queue to the role that polls, and let it write; a standby can't have a queue"))
}

/// Refuses to go on in another way than a table's rows have come so far.
fn same_as_before(tables: &[Table], state: &State) -> Result<(), Fault> {
    for table in tables {
        let shown = table.shown();
        let Some(before) = state.tables.get(&shown) else { continue };
        let (is, was) = (table.method.name(), before.method.name());
        if table.method != before.method {
            return Err(Fault::stop(format!("{shown} was polled by method {was} so far, and is to be by {is}"))
                .hint("its rows would mean something else from here on: begin a new archive (--name) for a new target"));
        }
        if table.column != before.column {
            let column = |column: &Option<String>| column.clone().unwrap_or_default();
            return Err(Fault::stop(format!(
                "{shown} was polled by column {} so far, and is to be by {}",
                column(&before.column),
                column(&table.column)
            ))
            .hint("values of one say nothing of the other: begin a new archive (--name)"));
        }
    }
    Ok(())
}

/// All that the workers share.
struct Crew<'a> {
    options: &'a Options,
    pullers: Vec<Puller<'a>>,
    plan: Shared<Plan>,
    /// A pull has ended.
    changed: Notify,
    alarms: Alarms<'a>,
    outcome: Shared<Outcome>,
    is_once: bool,
}

impl Crew<'_> {
    /// Pulls what is due, until there is nothing more in this run. A fault of one table is that table's; one of the log is all's.
    async fn work(&self) -> Result<(), Fault> {
        let mut connection = None;
        let mut backoff = BACKOFF_MIN;
        loop {
            let next = self.plan.lock().unwrap_or_else(PoisonError::into_inner).next(now());
            let number = match next {
                Next::Over => return Ok(()),
                Next::Wait(length) => {
                    let _ = tokio::time::timeout(length, self.changed.notified()).await;
                    continue;
                }
                Next::Pull(number) => number,
            };
            let Some(puller) = self.pullers.get(number) else { return Ok(()) };
            let began = now();
            let every = puller.table.every;
            let pause = match self.pull(puller, &mut connection).await {
                Ok(pulled) => {
                    backoff = BACKOFF_MIN;
                    let has_more = pulled.has_more;
                    self.note(puller, pulled);
                    if has_more { Duration::ZERO } else { every }
                }
                Err(fault) => {
                    // Of no use any more, in the midst of what it was asked.
                    connection = None;
                    if fault.remedy == Remedy::Person || puller.log.lock().await.has_failed() {
                        return Err(fault);
                    }
                    self.failed(puller, &fault).await?;
                    let pause = if may_pass(&fault) { backoff.min(every) } else { every };
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    pause
                }
            };
            self.plan.lock().unwrap_or_else(PoisonError::into_inner).ended(number, began, pause);
            self.changed.notify_waiters();
        }
    }

    async fn pull(&self, puller: &Puller<'_>, connection: &mut Option<Pipeline>) -> Result<Pulled, Fault> {
        let source = match connection {
            Some(source) => source,
            none => none.insert(puller.sessions.connect(&self.options.source).await?),
        };
        let which = match &self.options.pulls {
            Pulls::Again(Again { from, to }) => Which::Again { from: from.clone(), to: to.clone() },
            Pulls::UntilStopped | Pulls::Once { .. } => Which::New,
        };
        let pulled = puller.pull(source, &which).await;
        pulled.map_err(|fault| fault.context(format!("polling {}", puller.table.shown())))
    }

    fn note(&self, puller: &Puller<'_>, pulled: Pulled) {
        let shown = puller.table.shown();
        let Pulled { rows, deleted, position, has_more, alarms, by } = pulled;
        let is_cancelled = alarms.iter().find(|alarm| alarm.is_critical).map(|alarm| alarm.message.clone());
        let by = by.unwrap_or_default();
        match position {
            Some(position) => {
                tracing::info!(table = shown, rows, deleted, has_more, by, through = %position, "pulled");
            }
            None => tracing::debug!(table = shown, by, "nothing new"),
        }
        self.alarms.stand(&shown, alarms);
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.pulls += 1;
        outcome.rows += rows;
        outcome.deleted += deleted;
        match is_cancelled {
            Some(why) => drop(outcome.failed.insert(shown, why)),
            None => drop(outcome.failed.remove(&shown)),
        }
    }

    /// Takes note of a fault in the table's state.
    async fn failed(&self, puller: &Puller<'_>, fault: &Fault) -> Result<(), Fault> {
        let shown = puller.table.shown();
        let hint = fault.hint.clone().unwrap_or_default();
        if may_pass(fault) {
            tracing::warn!(table = shown, error = %fault, "a pull has failed");
        }
        let before = puller.log.lock().await.state().tables.get(&shown).cloned().unwrap_or_default();
        let state = super::TableState { error: Some(fault.message.clone()), ..before.clone() };
        // A lost connection passes by itself, mostly.
        if !may_pass(fault) || self.is_once {
            if before.error != state.error {
                puller.note(&before, state, now()).await?;
            }
            let alarm = Alarm {
                kind: "poll_failed",
                table: shown.clone(),
                is_critical: true,
                message: fault.message.clone(),
                cure: if hint.is_empty() { "see what the source says".into() } else { hint },
            };
            self.alarms.stand(&shown, vec![alarm]);
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.failed.insert(shown, fault.message.clone());
        Ok(())
    }

    /// Pulls that were under way have not been.
    fn put_back(&self) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).put_back();
    }
}
