//! The chaos run: a bank on the source, the program between it and a target, and faults in turns.

use std::time::{Duration, Instant};

use pgsluice::archive::Mark;
use pgsluice::faults::POINTS;

use super::checkers::{self, Forward};
use super::options::Options;
use super::oracle::{self, Oracle};
use super::tally::Tally;
use crate::support::ledger::{self, Dice};
use crate::support::{
    Bucket, Cluster, Misdeed, Outcome, Pgsluice, Proxy, Running, Session, Signal, StopMode,
    assert_tables_equal, lsn, lsn_text, seconds,
};

/// How many states of the source are kept to be compared with stops of a replay.
const MOMENTS_MAX: u64 = 20;
/// How long a process may take to end when it is told to, with everything else well.
const END: Duration = seconds(60);
/// Settings that a source gets so that much happens in little time.
const SOURCE: [(&str, &str); 2] = [("logical_decoding_work_mem", "64kB"), ("wal_sender_timeout", "10s")];

/// What the source had when its log ended here.
struct Moment {
    end: u64,
    sums: Vec<String>,
}

/// A process of ours.
struct Process {
    role: &'static str,
    running: Running,
    /// Something was done to a server or the network since it was started: then it may end by itself, to be run again.
    is_troubled: bool,
}

struct Chaos {
    options: Options,
    dice: Dice,
    source: Cluster,
    target: Cluster,
    source_proxy: Proxy,
    target_proxy: Proxy,
    bucket: Option<Bucket>,
    program: Pgsluice,
    load: Option<(Running, tempfile::NamedTempFile)>,
    processes: Vec<Process>,
    oracle: Oracle,
    moments: Vec<Moment>,
    progress: Forward,
    confirmed: Forward,
    /// It was stopped at once since the last look: commits that were not durable may be gone.
    target_crashed: bool,
    /// Its slots may be where they were at an earlier checkpoint; before version 17 after any stop.
    source_restarted: bool,
    start: u64,
    tally: Tally,
}

/// Says how the same schedule is had again, when a run fails.
struct Replay(String);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FAIL\nthe same schedule again: {}", self.0);
        }
    }
}

#[test]
fn a_bank_survives_chaos() {
    let options = Options::read();
    let version = crate::support::Version::default_one().major;
    let store = if options.store { " --store" } else { "" };
    let again =
        format!("tools/chaos --seed {} --kills {} --version {version}{store}", options.seed, options.kills);
    eprintln!("seed {}: {again}", options.seed);
    let _replay = Replay(again);
    let mut chaos = Chaos::new(options);
    let began = Instant::now();
    for number in 0..chaos.options.kills {
        if chaos.options.limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        chaos.round(number);
    }
    let report = chaos.end(version);
    eprintln!("{report:#}");
    if let Some(path) = &chaos.options.report {
        std::fs::write(path, report.to_string()).unwrap();
    }
}

impl Chaos {
    fn new(options: Options) -> Chaos {
        let source =
            SOURCE.iter().fold(Cluster::prepare_source(), |source, (name, value)| source.set(name, value));
        let (source, target) = (source.start(), Cluster::target());
        source.run_script(&format!("{}{}", ledger::TABLES, ledger::TRANSFER));
        target.run_script(ledger::TABLES);
        let (source_proxy, target_proxy) = (Proxy::before(source.port()), Proxy::before(target.port()));
        let through = |port: u16| format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        let mut program = Pgsluice::with(&through(source_proxy.port()), &through(target_proxy.port()))
            .env("PGSLUICE_DDL", "apply");
        let bucket = options.store.then(Bucket::start);
        if let Some(bucket) = &bucket {
            let place = [
                ("PGSLUICE_ARCHIVE", "s3://bucket/chaos"),
                ("PGSLUICE_SPOOL", "spool"),
                ("PGSLUICE_DURABLE", "store"),
            ];
            let place = place.map(|(name, value)| (name.to_owned(), value.to_owned()));
            program = bucket
                .environment()
                .into_iter()
                .chain(place)
                .fold(program, |program, (name, value)| program.env(&name, &value));
        }
        let oracle = Oracle::create(&source.session());
        program.run(&["setup", "--keyless", "full", "--capture-ddl"]).done();
        let start = lsn(&source
            .value("select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgsluice'"));
        let load = Some(ledger::load_by(&source, options.rate, options.seed));
        Chaos {
            dice: Dice(options.seed),
            options,
            source,
            target,
            source_proxy,
            target_proxy,
            bucket,
            program,
            load,
            processes: Vec::new(),
            oracle,
            moments: Vec::new(),
            progress: Forward::default(),
            confirmed: Forward::default(),
            target_crashed: false,
            source_restarted: false,
            start,
            tally: Tally::new(),
        }
    }

    /// What is not running is run, something happens to it, and everything that must hold is looked at.
    fn round(&mut self, number: u64) {
        self.start_missing();
        if self.options.store {
            self.misdeeds();
        }
        std::thread::sleep(self.dice.milliseconds(50, 1200));
        self.fault();
        std::thread::sleep(self.dice.milliseconds(0, 300));
        self.look();
        let every = (self.options.kills / MOMENTS_MAX).max(1);
        if number.is_multiple_of(every) {
            self.keep_a_moment();
        }
        // As many columns as a table may have, there are not.
        if number % 10 == 4 && number < 5000 {
            self.source.query(&format!("alter table scratch add column c{number} int default {number}"));
        }
    }

    fn start_missing(&mut self) {
        let together = self.dice.number(0, 2) == 0;
        let roles: &[&'static str] = if self.processes.is_empty() && together {
            &["follow"]
        } else if self.processes.iter().any(|process| process.role == "follow") {
            &[]
        } else {
            &["receive", "apply"]
        };
        for role in roles {
            if self.processes.iter().any(|process| process.role == *role) {
                continue;
            }
            let lanes = if self.dice.number(0, 4) == 0 { "2" } else { "1" };
            let arguments: &[&str] = match *role {
                "follow" => &["follow", "--segment-age", "1", "--lanes", lanes],
                "receive" => &["receive", "--segment-age", "1"],
                _ => &["apply", "--lanes", lanes],
            };
            let mut command = self.program.command(arguments);
            if self.dice.number(0, 2) == 0 {
                let (name, _) = POINTS[self.dice.number(0, POINTS.len() as u64) as usize];
                let hit = self.dice.number(1, 9);
                command.env("PGSLUICE_FAILPOINT", format!("{name}:{hit}"));
            }
            self.tally.start(role);
            self.processes.push(Process { role, running: Running::spawn(command), is_troubled: false });
        }
    }

    /// One thing that goes wrong.
    fn fault(&mut self) {
        let what = self.dice.number(0, 100);
        let time = self.dice.milliseconds(100, 1500);
        let proxy = if self.dice.number(0, 2) == 0 { &self.source_proxy } else { &self.target_proxy };
        let is_troubled = what >= 45;
        let name = match what {
            0..30 => self.end_one(Signal::KILL),
            30..45 => self.end_one(Signal::TERM),
            45..51 => backends(&self.source, "end of a backend of the source"),
            51..58 => backends(&self.target, "end of a backend of the target"),
            58..65 => {
                self.target.restart(StopMode::Immediate);
                self.target_crashed = true;
                "immediate stop of the target"
            }
            65..70 => {
                self.target.restart(StopMode::Fast);
                "fast stop of the target"
            }
            70..75 => {
                self.source.restart(StopMode::Immediate);
                self.source_restarted = true;
                "immediate stop of the source"
            }
            75..78 => {
                self.source.restart(StopMode::Fast);
                self.source_restarted = true;
                "fast stop of the source"
            }
            78..85 => {
                proxy.cut();
                "connections cut"
            }
            85..89 => {
                proxy.hold(time);
                "connections held up"
            }
            89..93 => {
                proxy.dribble(time);
                "byte by byte"
            }
            93..97 => {
                proxy.delay(time / 20, time);
                "late delivery"
            }
            _ => {
                // Half open: one side is gone for the other, which does not hear of it for a while.
                proxy.forget();
                std::thread::sleep(2 * time);
                proxy.cut();
                "half-open connections"
            }
        };
        if is_troubled {
            self.processes.iter_mut().for_each(|process| process.is_troubled = true);
        }
        self.tally.fault(name);
        let load_died = self.load.as_mut().is_some_and(|(load, _)| !load.is_running());
        if load_died {
            let seed = self.dice.number(0, 1 << 30);
            self.load = Some(ledger::load_by(&self.source, self.options.rate, seed));
        }
    }

    /// One of our processes, or all of them, end.
    fn end_one(&mut self, signal: Signal) -> &'static str {
        let all = self.dice.number(0, 4) == 0;
        let chosen = self.dice.number(0, 2) as usize;
        let mut name = "kill -9";
        for at in (0..self.processes.len()).rev() {
            if !all && self.processes.len() > 1 && at != chosen {
                continue;
            }
            let mut process = self.processes.remove(at);
            let has_ended = !process.running.is_running();
            name = match (signal, process.role) {
                (Signal::TERM, _) => "SIGTERM",
                (_, "receive") => "kill -9 of receive",
                (_, "apply") => "kill -9 of apply",
                _ => "kill -9 of follow",
            };
            let outcome = match signal == Signal::KILL {
                true if !has_ended => {
                    process.running.kill();
                    continue;
                }
                true => process.running.wait(END),
                false => process.running.terminate(END),
            };
            self.judge(process.role, process.is_troubled, signal == Signal::TERM, &outcome);
        }
        name
    }

    /// A process that has ended by itself, or was asked to: was it right?
    fn judge(&mut self, role: &str, is_troubled: bool, was_asked: bool, outcome: &Outcome) {
        match outcome.code {
            Some(0) => {}
            None => match outcome.stderr.split_once("failpoint ") {
                Some((_, rest)) => self.tally.failpoint(rest.split(' ').next().unwrap_or_default()),
                // It was told to end before it had begun, and did not listen yet.
                None => assert!(was_asked && !outcome.stderr.contains("progress mode="), "{outcome}"),
            },
            // What could not be reached can be tried again.
            Some(1) if is_troubled || self.options.store => self.tally.gave_up(),
            Some(_) => panic!("{role} ended by itself: {outcome}"),
        }
    }

    /// The store will do wrong for a while.
    fn misdeeds(&mut self) {
        let Some(bucket) = &self.bucket else { return };
        for method in ["PUT", "GET", "HEAD"] {
            bucket.clear_misdeeds(method);
            if self.dice.number(0, 3) > 0 {
                continue;
            }
            let misdeed = match self.dice.number(0, 7) {
                0 => Misdeed::Refuse(503, "SlowDown"),
                1 => Misdeed::Cut,
                2 => Misdeed::DoneBut(500, "InternalError"),
                3 => Misdeed::DoneThenCut,
                4 => Misdeed::Late(self.dice.milliseconds(10, 800)),
                5 => Misdeed::Shorten(self.dice.number(1, 30) as usize),
                _ => Misdeed::Echo(403),
            };
            let count = self.dice.number(1, 4) as usize;
            bucket.misdeeds(method, std::iter::repeat_n(misdeed, count));
            self.tally.misdeeds();
        }
    }

    /// Everything that must hold at any moment.
    fn look(&mut self) {
        for at in (0..self.processes.len()).rev() {
            if !self.processes[at].running.is_running() {
                let process = self.processes.remove(at);
                let outcome = process.running.wait(END);
                assert_ne!(outcome.code, Some(0), "{} ended by itself: {outcome}", process.role);
                self.judge(process.role, process.is_troubled, false, &outcome);
            }
        }
        let (source, target) = (self.source.session(), self.target.session());
        let progress = lsn(&target.value("select lsn from pgsluice.progress"));
        let confirmed =
            source.value("select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgsluice'");
        let confirmed = lsn(&confirmed);
        let durable = self.durable();
        let wrong = [
            Some(ledger::wrong(&target)).filter(|wrong| !wrong.is_empty()),
            self.progress.step("the target's progress", progress, std::mem::take(&mut self.target_crashed)),
            self.confirmed.step("the slot", confirmed, std::mem::take(&mut self.source_restarted)),
            checkers::confirmed_too_much(confirmed, durable),
        ];
        let wrong: Vec<String> = wrong.into_iter().flatten().collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        self.oracle.listen(&source);
        self.tally.look();
    }

    /// How far the archive is what it says it is: with a store, that.
    fn durable(&self) -> u64 {
        let names: Vec<String> = match &self.bucket {
            Some(bucket) => bucket.keys(),
            None => {
                let entries = std::fs::read_dir(self.program.archive().join("segments")).unwrap();
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
            }
        };
        let sealed = checkers::newest_end(names.iter().map(String::as_str)).unwrap_or(self.start);
        let open = match self.bucket {
            Some(_) => None,
            None => Mark::read(&self.program.archive()).unwrap().map(|mark| mark.position.0),
        };
        sealed.max(open.unwrap_or(self.start))
    }

    /// Remembers what the source has at this moment.
    fn keep_a_moment(&mut self) {
        let session = self.source.session();
        // Waits for the transactions under way, whose commits are behind us when we have the locks, and keeps others out.
        session.query("begin; lock table account, ledger, entered, scratch in exclusive mode");
        let end = lsn(&session.value("select pg_current_wal_insert_lsn()"));
        self.moments.push(Moment { end, sums: sums(&session) });
        session.query("commit");
    }

    /// Everything arrives, and all that was kept says the same.
    fn end(&mut self, version: u32) -> serde_json::Value {
        self.load = None;
        if let Some(bucket) = &self.bucket {
            ["PUT", "GET", "HEAD"].iter().for_each(|method| bucket.clear_misdeeds(method));
        }
        self.look();
        while let Some(process) = self.processes.pop() {
            let outcome = process.running.terminate(END);
            self.judge(process.role, process.is_troubled, true, &outcome);
        }
        self.keep_a_moment();
        self.program.run(&["follow", "--endpos", "current"]).done();
        self.look();
        assert_tables_equal(&self.source, &self.target);
        self.program.run(&["archive", "verify"]).done();
        let copy = self.program.folder().join("copy");
        self.program.run(&["archive", "copy", &copy.display().to_string()]).done();
        let log = oracle::transactions_of(&copy);
        if let Some(difference) = checkers::difference(self.oracle.transactions(), &log) {
            panic!("{difference}");
        }
        assert!(log.len() > 10, "there was hardly any load");
        self.replay();
        self.tally.report(self.options.seed, version, self.options.store, log.len(), self.moments.len())
    }

    /// The log alone gives an empty target each state that the source was seen in, and in the end all of it.
    fn replay(&self) {
        let target = ledger::another_target();
        for moment in &self.moments {
            let end = lsn_text(moment.end);
            let mut command = self.program.command(&["apply", "--endpos", &end]);
            command.env("PGSLUICE_TARGET", target.conninfo());
            Running::spawn(command).wait(seconds(120)).done();
            assert_eq!(
                sums(&target.session()),
                moment.sums,
                "a replay up to {end} is not what the source had"
            );
        }
        assert_tables_equal(&self.source, &target);
    }
}

/// The rows of all tables.
fn sums(session: &Session) -> Vec<String> {
    let sum = |table: &&str| {
        session.value(&format!(
            "select count(*) || ' rows of {table}, ' || coalesce(md5(string_agg(row, '' order by row)), 'none')
             from (select md5(t::text) as row from {table} t) rows"
        ))
    };
    ["account", "ledger", "entered", "scratch"].iter().map(sum).collect()
}

/// Ends what a server does for us.
fn backends(cluster: &Cluster, name: &'static str) -> &'static str {
    cluster.query(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgsluice%'",
    );
    name
}
