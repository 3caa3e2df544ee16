//! The schema of a dump, made on the target phase by phase.
//!
//! Each entry is made in one transaction with its note in `pgsluice.defined`, so a run that was cut off at any moment is gone on with, and
//! nothing is made twice or left out. The note is written first: who comes again while the server is still at what it was told before waits
//! for that, and then sees that it is done.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_postgres::{Client, Transaction};

use super::schedule::{Next, Schedule, Task};
use crate::dump::{Dump, Entry, Phase, Unit};
use crate::model::{Fault, quote_literal};
use crate::pg::{Conninfo, control, defined};

/// How many entries that take no time go into one transaction.
const TOGETHER: usize = 50;

/// How often what fails for a deadlock is tried.
const ATTEMPTS: usize = 5;

/// The note of the whole first phase, where it was made at once.
const BEFORE: &str = "before";

const OUT_OF_SHARED_MEMORY: &str = "53200";

/// What is to be made, and how.
pub struct Definition<'a> {
    pub dump: &'a Dump,
    pub target: &'a Conninfo,
    /// Whose notes they are.
    pub stream: &'a str,
    pub application: &'a str,
    /// How many indexes are made at a time.
    pub jobs: usize,
    /// For making indexes, such as `1GB`; none leaves the server's.
    pub maintenance_work_mem: Option<&'a str>,
    /// How large a table is, by schema and name: indexes of large ones are begun first.
    pub size: &'a (dyn Fn(&str, &str) -> u64 + Sync),
    /// Is told of each entry that is done.
    pub told: &'a (dyn Fn(Done<'_>) + Sync),
}

/// An entry was made.
#[derive(Clone, Debug)]
pub struct Done<'a> {
    pub phase: Phase,
    /// The last one of those that were made together; none where that is the whole phase.
    pub entry: Option<&'a Entry>,
    /// How many of the phase are done now, those of earlier runs among them, and how many there are.
    pub done: usize,
    pub of: usize,
    pub seconds: f64,
}

/// Makes what belongs to a phase and is not there yet. The phases are to be run in their order.
pub async fn define(phase: Phase, what: &Definition<'_>) -> Result<(), Fault> {
    let (client, known_settings) = what.connect().await?;
    defined::prepare(&client).await.map_err(at_target)?;
    let noted = defined::read(&client, what.stream).await.map_err(at_target)?;
    let units = what.dump.units(phase);
    let run = Run { what, phase, known_settings, of: units.len(), done: Mutex::new(0) };
    if noted.contains(BEFORE) && phase == Phase::Before {
        return Ok(());
    }
    let begun = units.iter().any(|unit| noted.contains(&unit.main.key()));
    let units = run.missing(units, &noted);
    match phase {
        Phase::Before if begun => run.in_order(client, &units, TOGETHER).await,
        Phase::Before => run.all_at_once(client, &units).await,
        Phase::Index => run.side_by_side(client, units).await,
        Phase::After => run.in_order(client, &units, TOGETHER).await,
        Phase::Last => run.in_order(client, &units, 1).await,
    }
}

impl Definition<'_> {
    /// A connection, and the settings that the server knows.
    async fn connect(&self) -> Result<(Client, BTreeSet<String>), Fault> {
        let client = control::connect(self.target, self.application).await.map_err(at_target)?;
        let failed = |e: tokio_postgres::Error| at_target(control::fault(&e));
        let names = client.query("SELECT name FROM pg_settings", &[]).await.map_err(failed)?;
        let known: BTreeSet<String> = names.iter().map(|row| row.get(0)).collect();
        if let Some(memory) = self.maintenance_work_mem {
            let set = format!("SET maintenance_work_mem = {}", quote_literal(memory));
            client.batch_execute(&set).await.map_err(failed)?;
        }
        if known.contains("client_connection_check_interval") {
            // So that what nobody waits for any more ends soon. Not on all systems a server can find out.
            let _ = client.batch_execute("SET client_connection_check_interval = '2s'").await;
        }
        Ok((client, known))
    }
}

fn at_target(fault: Fault) -> Fault {
    fault.context("target")
}

struct Run<'a> {
    what: &'a Definition<'a>,
    phase: Phase,
    known_settings: BTreeSet<String>,
    of: usize,
    done: Mutex<usize>,
}

impl Run<'_> {
    fn missing<'u>(&self, units: Vec<Unit<'u>>, noted: &HashSet<String>) -> Vec<Unit<'u>> {
        let missing: Vec<_> = units.into_iter().filter(|unit| !noted.contains(&unit.main.key())).collect();
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = self.of - missing.len();
        missing
    }

    fn tell(&self, entry: Option<&Entry>, count: usize, started: Instant) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += count;
        let seconds = started.elapsed().as_secs_f64();
        (self.what.told)(Done { phase: self.phase, entry, done: *done, of: self.of, seconds });
    }

    /// In one transaction, so that a target which has something of it already stays as it is. A transaction has room for the locks of some thousand
    /// tables only; more are made in several.
    async fn all_at_once(&self, mut client: Client, units: &[Unit<'_>]) -> Result<(), Fault> {
        let started = Instant::now();
        let entries: Vec<&Entry> = units.iter().flat_map(Unit::entries).collect();
        match self.make(&mut client, &[BEFORE.into()], &entries).await {
            Ok(()) => {
                self.tell(None, self.of, started);
                Ok(())
            }
            Err(fault) if fault.sqlstate.as_deref() == Some(OUT_OF_SHARED_MEMORY) => {
                self.in_order(client, units, TOGETHER).await
            }
            Err(fault) => Err(self.name_culprit(client, &entries, fault).await),
        }
    }

    /// The script as a whole has failed, and the server does not tell where: so it is run once more in pieces, and all are undone.
    async fn name_culprit(&self, mut client: Client, entries: &[&Entry], fault: Fault) -> Fault {
        let fault = at_target(fault);
        let Ok(mut transaction) = client.transaction().await else { return fault };
        for chunk in entries.chunks(TOGETHER) {
            let Ok(attempt) = transaction.transaction().await else { return fault };
            if self.execute(&attempt, chunk).await.is_ok() {
                let _ = attempt.commit().await;
                continue;
            }
            let _ = attempt.rollback().await;
            for entry in chunk {
                if let Err(fault) = self.execute(&transaction, &[entry]).await {
                    return explained(fault, entry);
                }
            }
        }
        fault
    }

    /// Several connections, each with one unit at a time. After a failure what is being made is made to its end, since it may have taken
    /// hours, and nothing else is begun.
    async fn side_by_side(&self, client: Client, mut units: Vec<Unit<'_>>) -> Result<(), Fault> {
        let size = |unit: &Unit<'_>| {
            unit.main.table.as_ref().map_or(0, |(schema, table)| (self.what.size)(schema, table))
        };
        units.sort_by_cached_key(|unit| std::cmp::Reverse(size(unit)));
        let places: HashMap<u32, usize> =
            units.iter().enumerate().map(|(place, unit)| (unit.main.id, place)).collect();
        let tasks = units.iter().map(|unit| Task {
            table: unit.main.table.clone(),
            alone: unit.entries().any(|entry| entry.alters_table),
            needs: unit.needs().iter().filter_map(|id| places.get(id).copied()).collect(),
        });
        let schedule = Mutex::new(Schedule::new(tasks.collect()));
        let schedule = || schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = Notify::new();
        let worker = async |first: Option<Client>| -> Result<(), Fault> {
            let mut client = match first {
                Some(client) => client,
                None => match self.what.connect().await {
                    Ok((client, _)) => client,
                    Err(fault) => {
                        tracing::warn!(%fault, "one connection less makes the indexes");
                        return Ok(());
                    }
                },
            };
            loop {
                let change = changed.notified();
                let next = schedule().next();
                match next {
                    Next::End => return Ok(()),
                    Next::Wait => change.await,
                    Next::Take(place) => {
                        let made = match units.get(place) {
                            Some(unit) => self.one(&mut client, unit).await,
                            None => Ok(()),
                        };
                        schedule().done(place);
                        if made.is_err() {
                            schedule().stop();
                        }
                        changed.notify_waiters();
                        made?;
                    }
                }
            }
        };
        let jobs = self.what.jobs.clamp(1, units.len().max(1));
        let mut clients = vec![Some(client)];
        clients.resize_with(jobs, || None);
        let results = join_all(clients.into_iter().map(worker)).await;
        results.into_iter().collect()
    }

    async fn in_order(&self, mut client: Client, units: &[Unit<'_>], together: usize) -> Result<(), Fault> {
        let mut failed = None;
        for chunk in units.chunks(together) {
            let started = Instant::now();
            let keys: Vec<String> = chunk.iter().map(|unit| unit.main.key()).collect();
            let entries: Vec<&Entry> = chunk.iter().flat_map(Unit::entries).collect();
            match chunk {
                [_, _, ..] if self.make(&mut client, &keys, &entries).await.is_ok() => {
                    self.tell(chunk.last().map(|unit| unit.main), chunk.len(), started);
                }
                // By itself each one that fails has a name.
                _ => {
                    for unit in chunk {
                        match self.one(&mut client, unit).await {
                            // What comes last does not need each other, mostly.
                            Err(fault) if self.phase == Phase::Last && fault.sqlstate.is_some() => {
                                tracing::error!(error = %fault, "left out for now");
                                failed.get_or_insert(fault);
                            }
                            done => done?,
                        }
                    }
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn one(&self, client: &mut Client, unit: &Unit<'_>) -> Result<(), Fault> {
        let started = Instant::now();
        let entries: Vec<&Entry> = unit.entries().collect();
        let mut attempt = 1;
        loop {
            match self.make(client, &[unit.main.key()], &entries).await {
                Ok(()) => break,
                Err(fault) if fault.sqlstate.as_deref() == Some("40P01") && attempt < ATTEMPTS => {
                    attempt += 1
                }
                Err(fault) => return Err(explained(fault, unit.main)),
            }
        }
        self.tell(Some(unit.main), 1, started);
        Ok(())
    }

    /// Notes and makes entries in one transaction, unless they are noted already.
    async fn make(&self, client: &mut Client, keys: &[String], entries: &[&Entry]) -> Result<(), Fault> {
        let failed = |e: tokio_postgres::Error| control::fault(&e);
        let transaction = client.transaction().await.map_err(failed)?;
        if !defined::note(&transaction, self.what.stream, keys).await? {
            return match keys {
                [_] => Ok(()),
                // Some are, some are not: then one by one.
                _ => Err(Fault::retry("some of the entries were made meanwhile")),
            };
        }
        self.execute(&transaction, entries).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn execute(&self, transaction: &Transaction<'_>, entries: &[&Entry]) -> Result<(), Fault> {
        let script = self.what.dump.sql(entries, &self.known_settings).await?;
        transaction.batch_execute(&script).await.map_err(|e| control::fault(&e))
    }
}

/// Says what could not be made, and what to do about it.
fn explained(fault: Fault, entry: &Entry) -> Fault {
    let hint = match fault.sqlstate.as_deref() {
        Some("42P06" | "42P07" | "42710" | "42723" | "42712") => Some(
            "the target must not have what is to be made there: drop it, or begin with an empty database",
        ),
        Some("42704") if fault.message.starts_with("role ") => Some(match entry.kind.as_str() {
            "POLICY" | "USER MAPPING" => "create the role on the target",
            _ => "create the role on the target, or leave owners and privileges out",
        }),
        Some("42501") => Some("--no-owner and --no-privileges leave owners and privileges out"),
        Some("22023" | "42704") if fault.message.contains("tablespace") => {
            Some("create the tablespace on the target, or leave tablespaces out")
        }
        _ => None,
    };
    let fault = match (hint, &fault.hint) {
        (Some(hint), _) => fault.hint(hint),
        _ => fault,
    };
    at_target(fault.context(format!("making {}", entry.shown())))
}
