//! Takes the cases of one lane through the program: live, in catchup, and once more from the archive.

use std::collections::HashMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::case::{self, Case, Command, Refusal, Step};
use super::{Lane, Plugin};
use crate::support::{Cluster, Outcome, Pgsluice, Running, Session, difference_between, seconds, wait_until};

/// Cases in flight; most of a case's time is waiting.
const AT_ONCE: usize = 3;

/// Runs every case that is for the lane, and fails with the list of those that failed. `PGSLUICE_CONFORMANCE_CASE` names one
/// case, or the begin of some; `PGSLUICE_CONFORMANCE_RESULTS` a file that gets a line of JSON for each.
pub fn all(lane: Lane) {
    let wanted = std::env::var("PGSLUICE_CONFORMANCE_CASE").unwrap_or_default();
    let cases = case::all();
    let cases: Vec<&Case> =
        cases.iter().filter(|case| case.name.starts_with(&wanted) && case.is_for(&lane)).collect();
    let ground = Ground::new(lane);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = ground.run(case);
                    ground.report(case, &result);
                    if let Result::Failed(what) = result {
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("--- {}: {what}", case.name));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "{} of {} cases failed\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

enum Result {
    Equal,
    /// As the case says it must be.
    Refused(String),
    /// The server lacks what the case needs.
    NotAtHand,
    Failed(String),
}

/// The servers of a lane. Each case has databases of its own.
struct Ground {
    lane: Lane,
    source: Cluster,
    target: Cluster,
}

impl Ground {
    fn new(lane: Lane) -> Ground {
        let spacious = |preparation: crate::support::Preparation| {
            preparation
                .version(&lane.version)
                .set("max_prepared_transactions", "10")
                .set("max_replication_slots", "50")
                .set("max_wal_senders", "30")
        };
        let mut target = spacious(Cluster::prepare());
        if lane.version.major >= 18 {
            target = target.set("max_active_replication_origins", "50");
        }
        let (source, target) = (spacious(Cluster::prepare_source()).start(), target.start());
        if lane.plugin == Plugin::Wal2json {
            source.allow_wal2json();
        }
        Ground { lane, source, target }
    }

    fn run(&self, case: &Case) -> Result {
        if case.needs.as_ref().is_some_and(|query| self.source.session().try_query(query).is_err()) {
            return Result::NotAtHand;
        }
        let road = Road::new(self, case);
        let expected = case.refusal(&self.lane);
        let ended = catch_unwind(AssertUnwindSafe(|| road.travel(expected)));
        road.clear();
        match (ended, expected) {
            (Err(panic), _) => Result::Failed(message(&*panic)),
            (Ok(Err(what)), _) => Result::Failed(what),
            (Ok(Ok(())), Some(refusal)) => Result::Refused(refusal.says.clone()),
            (Ok(Ok(())), None) => Result::Equal,
        }
    }

    fn report(&self, case: &Case, result: &Result) {
        let Some(path) = std::env::var_os("PGSLUICE_CONFORMANCE_RESULTS") else { return };
        let (word, detail) = match result {
            Result::Equal => ("equal", ""),
            Result::Refused(says) => ("refused", says.as_str()),
            Result::NotAtHand => ("not at hand", ""),
            Result::Failed(what) => ("failed", what.as_str()),
        };
        let line = serde_json::json!({
            "case": case.name, "plugin": self.lane.plugin.name(), "version": self.lane.version.major,
            "result": word, "detail": detail,
        });
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// One case under way: a source, and three targets that were the same before its changes.
struct Road<'a> {
    ground: &'a Ground,
    case: &'a Case,
    database: String,
    source: String,
    live: Stream,
    catchup: Stream,
    replay: Stream,
}

/// One way into a target.
struct Stream {
    name: &'static str,
    database: String,
    program: Pgsluice,
}

impl<'a> Road<'a> {
    fn new(ground: &'a Ground, case: &'a Case) -> Road<'a> {
        let database: String =
            case.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let conninfo = |cluster: &Cluster, database: &str, role: &Option<String>| {
            let role = role.as_deref().unwrap_or("postgres");
            format!("host=127.0.0.1 port={} user={role} dbname={database}", cluster.port())
        };
        let source = conninfo(&ground.source, &database, &case.source_role);
        let stream = |name: &'static str| {
            let database = format!("{database}_{name}");
            let target = conninfo(&ground.target, &database, &case.target_role);
            let program = Pgsluice::with(&source, &target)
                .env("PGSLUICE_NAME", &database.to_lowercase())
                .env("PGSLUICE_PLUGIN", ground.lane.plugin.name());
            Stream { name, database, program }
        };
        let (live, catchup, replay) = (stream("live"), stream("catchup"), stream("replay"));
        // The third target gets what the second one's archive holds.
        let archive = catchup.program.archive().display().to_string();
        let replay = Stream { program: replay.program.env("PGSLUICE_ARCHIVE", &archive), ..replay };
        Road { ground, case, source, live, catchup, replay, database }
    }

    fn travel(&self, expected: Option<&Refusal>) -> std::result::Result<(), String> {
        self.make_databases()?;
        let setup = self.run(&self.catchup, &["setup"], true);
        if let Some(refusal) = expected.filter(|refusal| refusal.by == Command::Setup) {
            return refused(&setup, refusal);
        }
        done(&setup)?;
        let live = self.follow()?;
        let changed = self.change();
        let end = self.ground.source.current_lsn();
        let live = self.finish(live)?;
        changed?;

        let catchup = |road: &Road<'_>| road.run(&road.catchup, &["follow", "--endpos", &end], true);
        let replay = |road: &Road<'_>| road.run(&road.replay, &["apply", "--endpos", &end], false);
        let ends = [("live", live), ("catchup", catchup(self))];
        for (name, outcome) in &ends {
            check(outcome, expected).map_err(|what| format!("{name}: {what}"))?;
        }
        // What was refused is in the archive too, if only the target refused it.
        let archived = self.run(&self.catchup, &["receive", "--endpos", &end], false);
        if archived.code == Some(0) {
            check(&replay(self), expected).map_err(|what| format!("replay: {what}"))?;
        }
        done(&self.run(&self.catchup, &["archive", "verify"], false))?;

        if expected.is_some() {
            let Some(mend) = &self.case.mend else { return Ok(()) };
            for stream in self.streams() {
                self.script(&self.ground.target, &stream.database, mend)?;
            }
            let live = self.run(&self.live, &["follow", "--endpos", &end], true);
            for outcome in [live, catchup(self), replay(self)] {
                done(&outcome)?;
            }
        }
        self.streams().into_iter().try_for_each(|stream| self.compare(stream))
    }

    fn streams(&self) -> [&Stream; 3] {
        [&self.live, &self.catchup, &self.replay]
    }

    fn run(&self, stream: &Stream, arguments: &[&str], with_setup: bool) -> Outcome {
        stream.program.run(&self.arguments(arguments, with_setup))
    }

    fn arguments<'b>(&'b self, arguments: &[&'b str], with_setup: bool) -> Vec<&'b str> {
        let more = if with_setup { self.case.setup.as_slice() } else { &[] };
        arguments.iter().copied().chain(more.iter().map(String::as_str)).collect()
    }

    fn make_databases(&self) -> std::result::Result<(), String> {
        let Road { ground, case, .. } = self;
        let create = |database: &str, template: &str, encoding: &str| {
            format!("create database {database} template {template} encoding '{encoding}'")
        };
        ground.source.query(&create(&self.database, "template0", &case.source_encoding));
        self.script(&ground.source, &self.database, &format!("{}{}", case.schema, case.source))?;
        let first = &self.live.database;
        ground.target.query(&create(first, "template0", &case.target_encoding));
        self.script(&ground.target, first, &format!("{}{}", case.schema, case.target))?;
        for stream in [&self.catchup, &self.replay] {
            ground.target.query(&create(&stream.database, first, &case.target_encoding));
        }
        Ok(())
    }

    /// Starts `follow` and waits until it has its slot, or has ended by itself.
    fn follow(&self) -> std::result::Result<Running, String> {
        let mut running = self.live.program.start(&self.arguments(&["follow"], true));
        let session = self.ground.source.session();
        let active = format!(
            "select count(*) from pg_replication_slots where slot_name = '{}' and active_pid is not null",
            self.live.database.to_lowercase()
        );
        wait_until(seconds(60), "the slot is in use", || {
            !running.is_running() || session.value(&active) == "1"
        });
        if running.is_running() { Ok(running) } else { Err(format!("live: {}", running.wait(seconds(1)))) }
    }

    /// Ends `follow` where the changes end; it may have ended by itself where it must refuse them.
    fn finish(&self, mut running: Running) -> std::result::Result<Outcome, String> {
        if running.is_running() {
            done(&self.run(&self.live, &["sentinel", "set", "endpos", "current"], false))?;
        }
        let started = Instant::now();
        while running.is_running() {
            if started.elapsed() > seconds(60) {
                let sentinel = self.run(&self.live, &["sentinel", "get"], false);
                return Err(format!("live: endpos is not reached: {sentinel}\n{}", running.kill()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running.wait(seconds(1)))
    }

    fn change(&self) -> std::result::Result<(), String> {
        let mut sessions: HashMap<&str, Session> = HashMap::new();
        for step in &self.case.steps {
            match step {
                Step::Script(sql) => self.script(&self.ground.source, &self.database, sql)?,
                Step::Session(name, sql) => {
                    let session = sessions.entry(name).or_insert_with(|| {
                        let session = self.ground.source.session_of(&self.database);
                        session.query("set statement_timeout = '20s'");
                        session
                    });
                    session.try_query(sql).map_err(|error| format!("session {name}: {sql}: {error:?}"))?;
                }
            }
        }
        Ok(())
    }

    fn script(&self, cluster: &Cluster, database: &str, sql: &str) -> std::result::Result<(), String> {
        if sql.trim().is_empty() {
            return Ok(());
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), sql).unwrap();
        let mut psql = cluster.client("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file.path());
        psql.env("PGDATABASE", database).env("PGCLIENTENCODING", "UTF8");
        psql.env("PGOPTIONS", "-c client_min_messages=warning");
        let said = psql.output().unwrap();
        match said.status.success() {
            true => Ok(()),
            false => Err(format!("SQL of the case in {database}: {}", String::from_utf8_lossy(&said.stderr))),
        }
    }

    fn compare(&self, stream: &Stream) -> std::result::Result<(), String> {
        let source = self.ground.source.session_of(&self.database);
        let target = self.ground.target.session_of(&stream.database);
        match difference_between(&source, &target, &self.case.compare) {
            None => Ok(()),
            Some(difference) => Err(format!("{}: SOURCE AND TARGET DIFFER: {difference}", stream.name)),
        }
    }

    /// Leaves room for the other cases.
    fn clear(&self) {
        let (source, target) = (self.ground.source.session(), self.ground.target.session());
        let slots = format!(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = '{0}' and active;
             select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '{0}'",
            self.database
        );
        let _ = source.try_query(&slots);
        let _ = source.try_query(&format!("drop database if exists {} with (force)", self.database));
        for stream in self.streams() {
            let _ = target.try_query(&format!("drop database if exists {} with (force)", stream.database));
            // A backend that is on its way out may still have it.
            let name = stream.database.to_lowercase();
            let origin = format!(
                "select pg_replication_origin_drop(roname) from pg_replication_origin where roname = '{name}'"
            );
            (0..50).find(|_| {
                target
                    .try_query(&origin)
                    .inspect_err(|_| std::thread::sleep(Duration::from_millis(20)))
                    .is_ok()
            });
        }
    }
}

fn done(outcome: &Outcome) -> std::result::Result<(), String> {
    if outcome.code == Some(0) { Ok(()) } else { Err(outcome.to_string()) }
}

fn refused(outcome: &Outcome, refusal: &Refusal) -> std::result::Result<(), String> {
    if outcome.code != Some(refusal.code) {
        return Err(format!("expected to be refused with exit code {}: {outcome}", refusal.code));
    }
    if !outcome.stderr.contains(&refusal.says) {
        return Err(format!("the refusal does not say '{}': {outcome}", refusal.says));
    }
    Ok(())
}

fn check(outcome: &Outcome, expected: Option<&Refusal>) -> std::result::Result<(), String> {
    match expected {
        Some(refusal) => refused(outcome, refusal),
        None => done(outcome),
    }
}
