//! Transactions that are taken while they are under way: the log must be the same as if they had come whole.
//!
//! The oracle is a second receiver with a slot of the same start and streaming off: the chains of both archives, which
//! cover every message but definitions, must be equal.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pgsluice::archive::{Archive, Reader};
use pgsluice::model::Value;
use pgsluice::pgoutput::{Message, decode};

use crate::support::{
    Cluster, Pgsluice, Road, Running, Session, Signal, Version, assert_tables_equal, lsn, seconds, wait_until,
};

const SCHEMA: &str = "
create type mood as enum ('good', 'bad');
create table a(id int primary key, note text, mood mood);
create table b(id int primary key, note text);
create table c(id int primary key, note text);
create table tick(id serial primary key);
";

/// A source that streams early, the program with streaming on it, and further ones with slots of the same start.
struct Stage {
    road: Road,
    whole: Pgsluice,
}

impl Stage {
    fn new(version: &Version, schema: &str, target_schema: &str) -> Stage {
        let source = Cluster::prepare_source().set("logical_decoding_work_mem", "64kB");
        let source = source.set("max_prepared_transactions", "5");
        let target = Cluster::prepare().version(version).start();
        let mut road = Road::between(source.version(version).start(), target, schema, target_schema);
        road.program = road.program.env("PGSLUICE_SEQUENCES", "off");
        Stage { whole: Stage::another(&road, "whole"), road }
    }

    fn another(road: &Road, name: &str) -> Pgsluice {
        // Each receiver writes samples of its own, which the other one gets too.
        let program = Pgsluice::between(&road.source, &road.target).env("PGSLUICE_SEQUENCES", "off");
        let program = program.env("PGSLUICE_NAME", name);
        program.run(&["setup", "--keyless", "full"]).done();
        program
    }

    fn session(&self) -> Session {
        self.road.source.session()
    }

    /// `receive` in the background, returned when the slot is in use.
    #[track_caller]
    fn receive(&self) -> Running {
        let mut running = self.road.program.start(&["receive"]);
        wait_until(seconds(20), "the slot is in use", || {
            assert!(running.is_running(), "receive ended by itself: {}", running.log());
            self.walsender().is_some()
        });
        running
    }

    fn walsender(&self) -> Option<String> {
        let pid = "select active_pid from pg_replication_slots where slot_name = 'pgsluice' and active_pid is not null";
        self.road.source.query(pid).pop().and_then(|row| row[0].clone())
    }

    /// A plain transaction between; where a receiver runs, waits until everything up to it was sent.
    fn settle(&self) {
        let session = self.session();
        session.query("insert into tick default values");
        if self.walsender().is_none() {
            return;
        }
        let end = session.value("select pg_current_wal_lsn()");
        wait_until(seconds(60), "everything was sent", || {
            let sent = format!("select count(*) from pg_stat_replication where sent_lsn >= '{end}'");
            session.value(&sent) != "0"
        });
    }

    fn statistic(&self, column: &str) -> u64 {
        let sql = format!("select {column} from pg_stat_replication_slots where slot_name = 'pgsluice'");
        self.road.source.value(&sql).parse().unwrap()
    }

    fn spool(&self) -> Vec<String> {
        files(&self.road.program.archive().join("spool"))
    }

    fn segment_bytes(&self) -> u64 {
        let segments = self.road.program.archive().join("segments");
        files(&segments)
            .iter()
            .map(|name| std::fs::metadata(segments.join(name)).map_or(0, |file| file.len()))
            .sum()
    }

    /// All that is committed is received, by both; the logs are equal, and what is applied is equal.
    #[track_caller]
    fn assert_equal(&self) {
        self.road.program.run(&["receive", "--endpos", "current"]).done();
        self.whole.run(&["receive", "--endpos", "current", "--streaming", "off"]).done();
        assert_eq!(content(&self.road.program), content(&self.whole));
        assert_eq!(self.spool(), Vec::<String>::new());
        self.road.arrives();
    }
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// What tells an archive's content from any other.
#[track_caller]
fn content(program: &Pgsluice) -> [serde_json::Value; 3] {
    let report = program.run(&["archive", "verify", "--json"]).done().json();
    ["transactions", "changes", "chain"].map(|name| report[name].clone())
}

/// Some 100 bytes a row.
fn fill(table: &str, ids: std::ops::Range<u32>) -> String {
    let note = "md5(i::text) || md5((i + 1)::text)";
    format!(
        "insert into {table}(id, note) select i, {note} from generate_series({}, {}) i",
        ids.start,
        ids.end - 1
    )
}

/// Interleaved transactions with all that may stand in them. Each step is sent before the next begins, where somebody receives.
fn workload(stage: &Stage) {
    let (one, two, three) = (stage.session(), stage.session(), stage.session());
    let step = |session: &Session, sql: &str| {
        session.query(sql);
        stage.settle();
    };
    step(&one, &format!("begin; {}", fill("a", 0..2000)));
    step(&two, &format!("begin; {}", fill("b", 0..2000)));
    step(&three, "insert into c values (1, 'between')");

    // Rows of subtransactions that are rolled back, in the middle of others; nested ones, and one that is released.
    step(&one, &format!("savepoint x; {}", fill("a", 10_000..12_000)));
    step(&one, &format!("savepoint y; {}", fill("a", 12_000..13_000)));
    step(&one, &format!("rollback to x; {}; release x", fill("a", 2000..3000)));
    step(&one, &format!("savepoint z; {}; rollback to z", fill("a", 20_000..21_000)));

    // DDL in a subtransaction that is rolled back.
    let altered = "insert into b select i, md5(i::text), i from generate_series(10000, 12000) i";
    step(&two, &format!("savepoint x; alter table b add column late int; {altered}"));
    step(&two, &format!("rollback to x; {}", fill("b", 2000..4000)));
    step(
        &two,
        "select pg_logical_emit_message(true, 'in', 'side'), pg_logical_emit_message(false, 'out', 'side')",
    );
    step(&two, "commit");
    step(&three, &fill("b", 4000..4010));

    // DDL that stays, between rows.
    step(&two, &format!("begin; {}", fill("b", 5000..7000)));
    step(
        &two,
        "alter table b add column extra text; update b set extra = note where id between 5000 and 6500",
    );
    step(&two, "insert into b select i, null, md5(i::text) from generate_series(7000, 9000) i");

    // All kinds of changes, an enum, TRUNCATE in the middle.
    step(&one, "insert into c select i, 'truncated' from generate_series(100, 2000) i");
    step(&one, "truncate c");
    step(&one, &fill("c", 100..200));
    step(&one, "update a set mood = case id % 2 when 0 then 'good' else 'bad' end::mood where id < 1500");
    step(&one, "update a set id = -id where id between 1 and 1000; delete from a where id > 2500");
    step(&one, "commit");
    step(&two, "commit");

    // Two-phase transactions, which come at their COMMIT PREPARED; long values, and rows that are tried in vain.
    step(&one, &format!("begin; {}; prepare transaction 'kept'", fill("a", 50_000..53_000)));
    step(&two, &format!("begin; {}; prepare transaction 'dropped'", fill("a", 60_000..63_000)));
    let long = "(select string_agg(md5((i * n)::text), '') from generate_series(1, 500) n)";
    step(&three, &format!("begin; insert into c select i, {long} from generate_series(3000, 3050) i"));
    step(&three, "insert into c select i, '' from generate_series(2990, 4000) i on conflict do nothing");
    step(&two, "rollback prepared 'dropped'");
    step(&one, "commit prepared 'kept'");
    step(&three, "update c set id = -id where id > 3000; commit");

    // Nothing of these is left.
    step(&one, &format!("begin; {}", fill("a", 30_000..33_000)));
    step(&two, &format!("begin; savepoint x; {}", fill("b", 30_000..33_000)));
    step(&one, "rollback");
    // Version 14 sends transactions whole even where they are empty.
    let end = if stage.road.source.version().major < 15 { "rollback" } else { "rollback to x; commit" };
    step(&two, end);
    step(
        &one,
        "begin; create table fresh(id int primary key); insert into fresh select generate_series(1, 2000)",
    );
    step(&one, "rollback");
    step(&three, &format!("{}; update b set note = 'x' where id < 10", fill("a", 40_000..40_010)));
}

fn each_version(test: impl Fn(&Version)) {
    Version::all().iter().for_each(test);
}

#[test]
fn what_is_streamed_makes_the_same_log() {
    each_version(|version| {
        let stage = Stage::new(
            version,
            SCHEMA,
            &SCHEMA.replace(
                "table b(id int primary key, note text",
                "table b(id int primary key, note text, extra text",
            ),
        );
        let late = Stage::another(&stage.road, "late");
        let running = stage.receive();
        workload(&stage);
        // Some of it spills: a row can't be streamed before all its parts are there.
        assert!(stage.statistic("stream_txns") >= 5, "transactions were streamed");
        running.terminate(seconds(20)).done();
        stage.assert_equal();
        // Read from the slot after the fact, where each transaction is streamed up to its end.
        late.run(&["receive", "--endpos", "current"]).done();
        assert_eq!(content(&late), content(&stage.whole), "{}", version.major);
    });
}

/// A logical message is tagged with the transaction, even where it is of a subtransaction that is rolled back.
#[test]
fn logical_messages_of_rolled_back_subtransactions_do_not_stay() {
    each_version(|version| {
        let stage = Stage::new(version, SCHEMA, SCHEMA);
        let running = stage.receive();
        let session = stage.session();
        for round in 0..2 {
            let first = round * 10_000;
            session.query(&format!("begin; {}; savepoint x", fill("a", first..first + 2000)));
            session.query("select pg_logical_emit_message(true, 'rolled', 'back')");
            session.query(&fill("b", first..first + 2000));
            stage.settle();
            session.query("rollback to x");
            session.query("select pg_logical_emit_message(true, 'com', 'mitted')");
            session.query(&format!("{}; commit", fill("c", first..first + 2000)));
            stage.settle();
        }
        // The next one is streamed again.
        let before = stage.statistic("stream_txns");
        session.query(&format!("begin; {}", fill("a", 50_000..53_000)));
        wait_until(seconds(20), "it is streamed", || {
            stage.settle();
            stage.statistic("stream_txns") > before
        });
        session.query("commit");
        running.terminate(seconds(20)).done();
        stage.assert_equal();
        assert_eq!(
            content(&stage.whole)[1],
            2 * 4000 + 3000 + stage.road.source.value("select count(*) from tick").parse::<u64>().unwrap()
        );
    });
}

/// The source takes the definition that it sent last to be in force, though a transaction that joins later has an older one.
#[test]
fn a_definition_that_was_overtaken_does_not_come_back() {
    each_version(|version| {
        let schema = "create schema old; create table old.t(id int primary key, note text);
                      create table tick(id serial primary key)";
        let stage = Stage::new(version, schema, schema);
        let running = stage.receive();
        let (one, two) = (stage.session(), stage.session());
        one.query(&format!("begin; {}", fill("old.t", 0..2000)));
        stage.settle();
        two.query("alter schema old rename to new");
        two.query("insert into new.t values (10000, 'describes the table anew')");
        stage.settle();
        one.query("commit");
        stage.settle();
        two.query("insert into new.t values (10001, 'describes nothing')");
        stage.settle();
        running.terminate(seconds(20)).done();
        assert_ne!(stage.statistic("stream_txns"), 0);
        let late = late_rows(&stage.road.program);
        assert_eq!(late, ["10000 of new", "10001 of new"], "{}", version.major);
    });
}

/// The rows with ids of five digits, each with the schema of the definition that is in force there in the log.
fn late_rows(program: &Pgsluice) -> Vec<String> {
    let archive = Archive::open(&program.archive()).unwrap();
    let mut reader = Reader::open(&archive, archive.manifest().start, None).unwrap();
    let (mut schemas, mut rows) = (HashMap::new(), Vec::new());
    while let Some(frame) = reader.try_next().unwrap() {
        for message in frame.records() {
            match decode(message.unwrap()).unwrap() {
                Message::Relation(relation) => drop(schemas.insert(relation.oid, relation.schema)),
                Message::Insert { relation, new } => {
                    if let Some(Value::Text(id)) = new.values().next()
                        && id.len() == 5
                    {
                        rows.push(format!("{} of {}", String::from_utf8_lossy(id), schemas[&relation]));
                    }
                }
                _ => {}
            }
        }
    }
    rows
}

#[test]
fn after_a_lost_connection_everything_is_streamed_again() {
    each_version(|version| {
        let stage = Stage::new(version, SCHEMA, SCHEMA);
        let running = stage.receive();
        let (one, two) = (stage.session(), stage.session());
        let mut next = 0;
        let mut grow = |session: &Session, table: &str| {
            session.query(&fill(table, next..next + 2000));
            next += 2000;
            stage.settle();
        };
        one.query("begin");
        two.query("begin");
        for _ in 0..3 {
            grow(&one, "a");
            grow(&two, "b");
            let ended = stage.walsender().unwrap();
            stage.road.source.query(&format!("select pg_terminate_backend({ended})"));
            // The old one may be there for a moment.
            let again = || stage.walsender().is_some_and(|walsender| walsender != ended);
            wait_until(seconds(20), "it is connected again", again);
        }
        two.query("rollback");
        grow(&one, "a");
        one.query("commit");
        stage.settle();
        running.terminate(seconds(20)).done();
        stage.assert_equal();
    });
}

/// Makes the open transaction too large for the spool's memory: rows of some 320 bytes that don't compress well.
fn large(stage: &Stage, session: &Session, rows: u32) {
    let note = ["md5(random()::text)"; 10].join(" || ");
    session.query(&format!("insert into a(id, note) select i, {note} from generate_series(1, {rows}) i"));
    stage.settle();
    wait_until(seconds(20), "it is on the disk", || !stage.spool().is_empty());
}

fn one_version() -> Version {
    Version::default_one()
}

#[test]
fn kill_9_while_spooling() {
    let stage = Stage::new(&one_version(), SCHEMA, SCHEMA);
    let session = stage.session();
    let running = stage.receive();
    session.query("begin");
    large(&stage, &session, 30_000);
    running.kill();
    assert_ne!(stage.spool(), Vec::<String>::new(), "nothing could be removed");
    let running = stage.receive();
    session.query(&fill("a", 100_000..102_000));
    stage.settle();
    running.kill();
    session.query("commit");
    stage.assert_equal();
}

/// Ends the receiver again and again as soon as it has begun to write the transaction into the log.
fn cut_while_joining(end: impl Fn(Running)) {
    let stage = Stage::new(&one_version(), SCHEMA, SCHEMA);
    let session = stage.session();
    session.query("begin; insert into b values (-1, 'in the same transaction')");
    let mut running = stage.receive();
    large(&stage, &session, 300_000);
    session.query("commit");
    let transactions = |committed: bool| {
        let ticks = stage.road.source.value("select count(*) from tick").parse::<u64>().unwrap();
        ticks + u64::from(committed)
    };
    // Looked at often, since it does not take long.
    let is_joining = || {
        let started = Instant::now();
        while stage.segment_bytes() <= 500_000 {
            assert!(started.elapsed() < seconds(60), "it does not join the log");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    is_joining();
    end(running);
    assert_eq!(content(&stage.road.program)[0], transactions(false), "it was cut in the middle");
    for _ in 0..2 {
        running = stage.receive();
        is_joining();
        end(running);
    }
    stage.assert_equal();
    assert_eq!(content(&stage.road.program)[0], transactions(true));
}

#[test]
fn kill_9_while_joining() {
    cut_while_joining(|running| drop(running.kill()));
}

#[test]
fn a_stop_while_joining() {
    cut_while_joining(|running| {
        running.signal(Signal::TERM);
        let started = Instant::now();
        running.wait(seconds(10)).done();
        assert!(started.elapsed() < seconds(5), "it waited for the transaction");
    });
}

/// The transaction was replicated to the source itself from elsewhere; that is said once, before its changes.
#[test]
fn transactions_with_an_origin() {
    let stage = Stage::new(&one_version(), SCHEMA, SCHEMA);
    let running = stage.receive();
    let session = stage.session();
    session.query(
        "select pg_replication_origin_create('elsewhere'), pg_replication_origin_session_setup('elsewhere')",
    );
    session.query(&format!(
        "begin; select pg_replication_origin_xact_setup('0/7', now()); {}",
        fill("a", 0..3000)
    ));
    stage.settle();
    session.query(&format!("{}; commit", fill("b", 0..3000)));
    stage.settle();
    assert_ne!(stage.statistic("stream_txns"), 0);
    running.terminate(seconds(20)).done();
    stage.road.arrives();
}

/// Needs a file system of its own, which only root may mount.
#[test]
fn a_full_disk_under_the_spool_stops_nothing_for_good() {
    let stage = Stage::new(&one_version(), SCHEMA, SCHEMA);
    let spool = stage.road.program.archive().join("spool");
    std::fs::create_dir_all(&spool).unwrap();
    let place = spool.display().to_string();
    let run = |arguments: &[&str]| {
        Command::new(arguments[0]).args(&arguments[1..]).output().is_ok_and(|output| output.status.success())
    };
    if !run(&["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", &place]) {
        eprintln!("not run: mounting a small file system is not allowed here");
        return;
    }
    stage.road.source.set("wal_sender_timeout", "2s");
    let mut running = stage.receive();
    let session = stage.session();
    session.query(&format!("begin; {}", fill("a", 0..200_000)));
    stage.session().query("insert into tick default values");
    let connection = "select pid from pg_stat_replication";
    let before = stage.road.source.query(connection);
    wait_until(seconds(20), "it says so", || running.log().contains("disk is full"));
    // Three times the source's patience.
    std::thread::sleep(seconds(6));
    let after = stage.road.source.query(connection);
    let alive = running.is_running();
    let enlarged = run(&["mount", "-o", "remount,size=200m", &place]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert_eq!((before.len(), &after), (1, &before), "the connection was lost: {}", running.log());
        assert!(alive && enlarged, "{}", running.log());
        session.query("commit");
        let end = lsn(&stage.road.source.current_lsn());
        wait_until(seconds(60), "it is confirmed", || {
            let confirmed =
                "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgsluice'";
            lsn(&stage.road.source.value(confirmed)) >= end
        });
        running.terminate(seconds(20)).done();
        stage.assert_equal();
        assert_tables_equal(&stage.road.source, &stage.road.target);
    }));
    run(&["umount", "-l", &place]);
    std::thread::sleep(Duration::from_millis(100));
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
