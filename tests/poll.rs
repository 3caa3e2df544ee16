//! Polled sources: whatever commits whenever, each row comes to the log, as often as its method says, and the role that reads may do
//! nothing but SELECT.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgsluice::archive::{Archive, Reader};
use pgsluice::model::{Position, Value};
use pgsluice::pgoutput::{Message, Old, Tuple, decode};

use crate::support::{
    Cluster, Outcome, Pgsluice, Running, Session, WrongClock, assert_tables_equal, seconds, wait_until,
};

/// What the log says of one row, or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Insert(Vec<Option<String>>),
    Delete(Vec<Option<String>>),
    Truncate,
}

/// Transactions of the log that have something of a table, in order.
fn log(archive: &Path, table: &str) -> Vec<Vec<Said>> {
    let archive = Archive::open(archive).unwrap();
    let mut reader = Reader::open(&archive, archive.manifest().start, None).unwrap();
    let (mut tables, mut said, mut now) = (BTreeMap::new(), Vec::new(), Vec::new());
    let row = |tuple: Tuple<'_>| {
        let text = |value| match value {
            Value::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
            Value::Null => None,
            other => panic!("{other:?}"),
        };
        tuple.values().map(text).collect::<Vec<_>>()
    };
    let mut through = Position::ZERO;
    while let Some(frame) = reader.try_next().unwrap() {
        for record in frame.records() {
            let is_it = |oid: u32, tables: &BTreeMap<u32, String>| tables[&oid] == table;
            match decode(record.unwrap()).unwrap() {
                Message::Relation(relation) => {
                    tables.insert(relation.oid, format!("{}.{}", relation.schema, relation.name));
                }
                Message::Insert { relation, new } if is_it(relation, &tables) => {
                    now.push(Said::Insert(row(new)));
                }
                Message::Delete { relation, old: Old::Key(key) } if is_it(relation, &tables) => {
                    now.push(Said::Delete(row(key)));
                }
                Message::Truncate(truncate) if is_it(truncate.relations[0], &tables) => {
                    now.push(Said::Truncate);
                }
                Message::Commit(commit) => {
                    assert!(commit.commit_lsn.0 >= through.0 && commit.end > through);
                    through = commit.end;
                    if !now.is_empty() {
                        said.push(std::mem::take(&mut now));
                    }
                }
                _ => {}
            }
        }
    }
    said
}

/// The first columns of all inserts, in order.
fn inserted(archive: &Path, table: &str) -> Vec<String> {
    let first = |said| match said {
        Said::Insert(row) => row[0].clone().unwrap(),
        other => panic!("{other:?}"),
    };
    log(archive, table).into_iter().flatten().map(first).collect()
}

/// What rows are, where each insert is what its row is now and each delete says that it is gone.
fn rows_now(archive: &Path, table: &str) -> BTreeSet<Vec<Option<String>>> {
    let mut rows = BTreeMap::new();
    for said in log(archive, table).into_iter().flatten() {
        match said {
            Said::Insert(row) => drop(rows.insert(row[0].clone(), row)),
            Said::Delete(key) => drop(rows.remove(&key[0])),
            Said::Truncate => rows.clear(),
        }
    }
    rows.into_values().collect()
}

fn rows_of(cluster: &Cluster, sql: &str) -> BTreeSet<Vec<Option<String>>> {
    cluster.query(&format!("set timezone = utc; {sql}")).into_iter().collect()
}

/// A source that is not made for logical decoding, a role on it that may only read, and what it polls.
struct Polled {
    source: Cluster,
    target: Cluster,
    program: Pgsluice,
}

const POLLER: &str = "create role poller login; revoke create on schema public from public;
    grant usage on schema public to poller; grant select on all tables in schema public to poller;
    alter default privileges in schema public grant select on tables to poller";

impl Polled {
    fn new(schema: &str, polls: &str) -> Polled {
        Polled::on(Cluster::target(), schema, polls)
    }

    fn on(source: Cluster, schema: &str, polls: &str) -> Polled {
        let target = Cluster::target();
        source.run_script(schema);
        source.run_script(POLLER);
        let poller = source.conninfo().replace("user=postgres", "user=poller");
        let program = Pgsluice::with(&poller, &target.conninfo());
        let polled = Polled { source, target, program };
        polled.configure(polls);
        polled
    }

    fn configure(&self, polls: &str) {
        std::fs::write(self.program.folder().join("poll.toml"), polls).unwrap();
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Outcome {
        self.program.run(&[&["poll", "--config", "poll.toml"], arguments].concat())
    }

    /// Each table once.
    #[track_caller]
    fn pull(&self) -> serde_json::Value {
        self.run(&["--once", "--now", "--json"]).done().json()
    }

    fn start(&self) -> Running {
        self.program.start(&["poll", "--config", "poll.toml"])
    }

    #[track_caller]
    fn status(&self, table: &str) -> serde_json::Value {
        let status = self.program.run(&["poll", "status", "--json"]).done().json();
        let tables = status["tables"].as_array().unwrap();
        tables.iter().find(|state| state["table"] == table).cloned().unwrap_or_default()
    }

    /// Brings all of the log to the target.
    #[track_caller]
    fn apply(&self) -> Outcome {
        let status = self.program.run(&["poll", "status", "--json"]).done().json();
        let through = status["through"].as_str().unwrap();
        self.program.run(&["apply", "--endpos", through]).done()
    }

    fn inserted(&self, table: &str) -> Vec<String> {
        inserted(&self.program.archive(), table)
    }

    /// Waits until the log has all ids that the table has.
    #[track_caller]
    fn arrives(&self, running: &mut Running, table: &str) {
        let count: usize = self.source.value(&format!("select count(*) from {table}")).parse().unwrap();
        let began = Instant::now();
        let manifest = self.program.archive().join("manifest.json");
        wait_until(seconds(20), "the archive is made", || manifest.exists());
        while self.status(&format!("public.{table}"))["rows"].as_u64() < Some(count as u64) {
            assert!(running.is_running(), "{}", running.log());
            assert!(
                began.elapsed() < seconds(60),
                "{count} rows, and {}\n{}",
                self.status(&format!("public.{table}")),
                running.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Sessions that write until they are ended, each in transactions of its own.
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Writers {
    /// `each` makes one transaction, by the session's number and the transaction's.
    fn start(
        source: &Cluster,
        count: u64,
        each: impl Fn(&Session, u64, u64) + Send + Sync + 'static,
    ) -> Writers {
        let (stop, each) = (Arc::new(AtomicBool::new(false)), Arc::new(each));
        let writer = |number| {
            let (session, stop, each) = (source.session(), Arc::clone(&stop), Arc::clone(&each));
            std::thread::spawn(move || {
                let mut transactions = 0;
                while !stop.load(Ordering::Relaxed) {
                    each(&session, number, transactions);
                    transactions += 1;
                }
                transactions
            })
        };
        let threads = (0..count).map(writer).collect();
        Writers { stop, threads }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Some number below the limit, another one each time.
fn some(number: u64, transaction: u64, limit: u64) -> u64 {
    (number.wrapping_mul(7919) ^ transaction.wrapping_mul(104_729)).wrapping_mul(2_654_435_761) % limit
}

/// For how long concurrent writers write.
fn load_time() -> Duration {
    seconds(std::env::var("PGSLUICE_POLL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20))
}

#[test]
fn rows_that_commit_late_are_appended_once() {
    // By the clock with a boundary and without, by the number with and without.
    let table = |name: &str| {
        format!(
            "create table {name}(id bigserial primary key, at timestamptz not null default now(), what text);"
        )
    };
    let names = ["by_boundary", "by_exact", "by_both", "number_exact", "number_both", "careless"];
    let schema: String = names.iter().map(|name| table(name)).collect();
    let poll = |name: &str, rest: &str| {
        format!("[[poll]]\ntable = 'public.{name}'\nmethod = 'append'\nevery = '300ms'\n{rest}\n")
    };
    let polls = [
        poll("by_boundary", "column = 'at'\nboundary = '3s'\nexact = false"),
        poll("by_exact", "column = 'at'\nexact = true"),
        poll("by_both", "column = 'at'\nboundary = '1s'"),
        poll("number_exact", "column = 'id'\nexact = true"),
        poll("number_both", "column = 'id'"),
        // Nothing waits: what must go wrong here shows that the load is one.
        poll("careless", "column = 'id'\nexact = false\nboundary = 0"),
    ];
    let polled = Polled::new(&schema, &polls.concat());
    polled.target.run_script(&schema);
    let mut running = polled.program.start(&["poll", "--config", "poll.toml", "--jobs", "3"]);
    let writers = Writers::start(&polled.source, 6, move |session, number, transaction| {
        session.query("begin");
        for name in names {
            session.query(&format!("insert into {name}(what) values (e'\\\\a\\tb\\n{number}')"));
        }
        // One holds its rows back for longer than the others' boundary is behind.
        pause(if number == 0 { 2000 } else { some(number, transaction, 300) });
        for name in names {
            session.query(&format!("insert into {name}(what) values (null), ('ü')"));
        }
        session.query(if some(transaction, number, 10) == 0 { "rollback" } else { "commit" });
    });
    std::thread::sleep(load_time());
    let transactions = writers.end();
    for name in names.into_iter().filter(|name| *name != "careless") {
        polled.arrives(&mut running, name);
    }
    running.terminate(seconds(20)).done();
    for name in names {
        let (mut found, wanted) = (
            polled.inserted(&format!("public.{name}")),
            polled.source.query(&format!("select id from {name}")),
        );
        let wanted: BTreeSet<String> = wanted.into_iter().map(|row| row[0].clone().unwrap()).collect();
        let count = found.len();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), count, "{name}: a row came twice");
        if name == "careless" {
            assert!(found.len() < wanted.len(), "no row has committed late");
            polled.source.query("truncate careless");
            continue;
        }
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted, "{name}");
    }
    println!("{transactions} transactions");
    polled.program.run(&["archive", "verify"]).done();
    polled.apply();
    polled.target.query("truncate careless");
    assert_tables_equal(&polled.source, &polled.target);
}

#[test]
fn rows_that_are_updated_are_what_they_are_now() {
    let schema = "create table t(id int primary key, at timestamptz not null default now(), local timestamp not null, v bigint);
        create index on t(at); create view v as select id, at, v * 2 as twice from t where id % 2 = 0";
    let poll = |name: &str, column: &str, rest: &str| {
        format!(
            "[[poll]]\ntable = 'public.{name}'\nmethod = 'upsert'\nkey = ['id']\ncolumn = '{column}'\nevery = '300ms'\n{rest}\n"
        )
    };
    let polls = poll("t", "at", "exact = true\nlimit = 100000") + &poll("v", "at", "boundary = '2s'");
    let polled = Polled::new(schema, &polls);
    polled.source.query("insert into t select i, now(), localtimestamp, 0 from generate_series(0, 99) i");
    let mut running = polled.start();
    let writers = Writers::start(&polled.source, 5, |session, number, transaction| {
        // Each its own rows, so that none waits for another's transaction.
        let id = number + 5 * some(number, transaction, 20);
        session.query("begin");
        session.query(&format!("update t set v = v + 1, at = now() where id = {id}"));
        pause(if number == 0 { 1500 } else { some(transaction, number, 200) });
        session.query(&format!(
            "insert into t values ({}, now(), localtimestamp, 1) on conflict (id) do update set v = t.v + 1, at = now()",
            100 + number + 5 * (transaction % 50)
        ));
        session.query(if some(transaction, number, 8) == 0 { "rollback" } else { "commit" });
    });
    std::thread::sleep(load_time());
    writers.end();
    let archive = polled.program.archive();
    for (name, sql) in [
        ("t", "select id::text, at::text, local::text, v::text from t"),
        ("v", "select id::text, at::text, twice::text from v"),
    ] {
        let wanted = rows_of(&polled.source, sql);
        wait_until(seconds(60), name, || {
            assert!(running.is_running(), "{}", running.log());
            rows_now(&archive, &format!("public.{name}")) == wanted
        });
    }
    running.terminate(seconds(20)).done();
    let target = "create table t(id int primary key, at timestamptz, local timestamp, v bigint); insert into t values (1, null, null, -1);
        create table v(id int primary key, at timestamptz, twice bigint)";
    polled.target.run_script(target);
    polled.apply();
    for sql in ["select * from t", "select * from v"] {
        assert_eq!(rows_of(&polled.target, sql), rows_of(&polled.source, sql));
    }
    let state = polled.status("public.t");
    assert_eq!((&state["sees_deletes"], &state["method"]), (&false.into(), &"upsert".into()));
    assert_eq!(state["limit_by"], "exact");
    assert_eq!(polled.status("public.v")["limit_by"], "both");
}

#[test]
fn a_snapshot_is_all_rows_and_is_left_out_where_nothing_changed() {
    let schema = "create table accounts(id int primary key, cents bigint not null);
        insert into accounts select i, 100 from generate_series(1, 1000) i;
        create view total as select count(*) as count, sum(cents) as cents from accounts";
    let polls =
        "[[poll]]\ntable = 'public.accounts'\nmethod = 'snapshot'\nwarn-size = '1KiB'\nevery = '200ms'
        [[poll]]\ntable = 'public.total'\nmethod = 'snapshot'\nevery = '200ms'";
    let polled = Polled::new(schema, polls);
    let archive = polled.program.archive();
    let outcome = polled.run(&["--once", "--now"]).done();
    assert!(outcome.stderr.contains("poll_large"), "{outcome}");
    let shot = |number: usize| {
        let said = log(&archive, "public.accounts").remove(number);
        assert_eq!(said[0], Said::Truncate);
        said[1..].to_vec()
    };
    assert_eq!(shot(0).len(), 1000);
    // The server may count what was written before only now, and then the rows decide; after that it has counted all.
    polled.pull();
    pause(1500);
    polled.pull();
    polled.pull();
    assert_eq!(log(&archive, "public.accounts").len(), 1);
    assert_eq!(polled.status("public.accounts")["decided_by"], "statistics");
    assert_eq!(polled.status("public.total")["decided_by"], "content hash");
    assert_eq!(log(&archive, "public.total").len(), 1);

    polled
        .source
        .query("alter table accounts add column note text; alter table accounts drop column cents cascade");
    polled.run(&["--once", "--now", "--table", "public.accounts"]).done();
    assert_eq!(shot(1)[0], Said::Insert(vec![Some("1".into()), None]));
    assert_eq!(polled.status("public.accounts")["decided_by"], "definition");
    // A view that is gone is that table's fault alone.
    let outcome = polled.run(&["--once", "--now"]).ends_with(1);
    assert!(outcome.stderr.contains("no table or view public.total"), "{outcome}");
    polled.source.query(
        "alter table accounts add column cents bigint default 100; create view total as select sum(cents) as cents from accounts",
    );
    polled
        .source
        .query("truncate accounts; insert into accounts select i, null, 100 from generate_series(1, 500) i");

    let mut running = polled.start();
    let writers = Writers::start(&polled.source, 3, |session, number, transaction| {
        let (from, to) = (1 + some(number, transaction, 500), 1 + some(transaction, number + 7, 500));
        session.query(&format!(
            "begin; update accounts set cents = cents - 1 where id = least({from}, {to});
             select pg_sleep(0.05); update accounts set cents = cents + 1 where id = greatest({from}, {to}); commit"
        ));
    });
    std::thread::sleep(load_time() / 2);
    writers.end();
    let count = log(&archive, "public.accounts").len();
    assert!(count > 5, "{count} snapshots");
    let wanted = rows_of(&polled.source, "select id::text, note, cents::text from accounts");
    wait_until(seconds(30), "the last snapshot", || rows_now(&archive, "public.accounts") == wanted);
    assert!(running.is_running(), "{}", running.log());
    running.terminate(seconds(20)).done();
    for said in log(&archive, "public.accounts").into_iter().skip(2) {
        let cents = said.iter().map(|said| match said {
            Said::Insert(row) => row[2].clone().unwrap().parse::<i64>().unwrap(),
            _ => 0,
        });
        assert_eq!((said.len(), cents.sum::<i64>()), (501, 50_000), "half of a transaction was seen");
    }
    assert!(polled.status("public.accounts")["sees_deletes"] == true);
    polled.apply();
    for sql in ["select id::text, note, cents::text from accounts", "select cents::text from total"] {
        assert_eq!(rows_of(&polled.target, sql), rows_of(&polled.source, sql));
    }
}

const QUEUE: &str = "[[poll]]\ntable = 'public.t'\nmethod = 'queue'\nkey = ['id', 'part']\nqueue = 'public.t_queue'\nevery = '200ms'\nlimit = 300\n";

/// With the queue made by the SQL that the program prints, which a person would run.
fn queued(schema: &str, polls: &str) -> Polled {
    let polled = Polled::new(schema, polls);
    let sql = polled.run(&["queue-sql"]);
    assert_eq!(sql.code, Some(2), "the file is given behind the verb: {sql}");
    let sql = polled.program.run(&["poll", "queue-sql", "--config", "poll.toml"]).done().stdout;
    polled.source.run_script(&sql);
    polled.source.query("grant delete on t_queue to poller");
    polled
}

#[test]
fn a_queue_brings_what_was_touched_and_what_is_gone() {
    let schema = "create table t(id int, part text, v bigint, primary key (id, part)); create role writer login; grant all on t to writer;
        insert into t select i, 'ä', 0 from generate_series(1, 100) i";
    let polled = queued(schema, QUEUE);
    let mut running = polled.start();
    let writers = Writers::start(&polled.source, 4, |session, number, transaction| {
        let id = 1 + number + 4 * some(number, transaction, 50);
        session.query("begin; set local role writer");
        for step in 0..3 {
            let id = id + 200 * step;
            session.query(&format!(
                "insert into t values ({id}, 'x', {transaction}) on conflict (id, part) do update set v = excluded.v"
            ));
        }
        pause(if number == 0 { 800 } else { some(transaction, number, 60) });
        let gone = format!("delete from t where part like '{number}-%'");
        let all_of_it = format!("update t set v = v where id % 4 = {}", (1 + number) % 4);
        session.query(match some(transaction, number + 3, 4) {
            0 => &gone,
            1 => &all_of_it,
            _ => "select",
        });
        session.query(&format!("delete from t where id = {id} and v % 3 = 0"));
        session.query(&format!(
            "update t set part = '{number}-{transaction}' where id = {} and v % 5 = 0 and part = 'x'",
            id + 200
        ));
        session.query(if some(transaction, number, 8) == 0 { "rollback" } else { "commit" });
    });
    let archive = polled.program.archive();
    let same = |running: &mut Running| {
        let wanted = rows_of(&polled.source, "select id::text, part, v::text from t");
        wait_until(seconds(60), "the queue is drained", || {
            assert!(running.is_running(), "{}", running.log());
            polled.source.value("select count(*) from t_queue") == "0"
        });
        let mut rows = BTreeMap::new();
        for said in log(&archive, "public.t").into_iter().flatten() {
            match said {
                Said::Insert(row) => drop(rows.insert(row[..2].to_vec(), row)),
                Said::Delete(key) => drop(rows.remove(&key[..2])),
                Said::Truncate => panic!("a queue has no truncate"),
            }
        }
        assert_eq!(rows.into_values().collect::<BTreeSet<_>>(), wanted);
    };
    std::thread::sleep(load_time() / 2);
    writers.end();
    same(&mut running);
    polled.source.query("truncate t; insert into t values (1, 'new', 1)");
    same(&mut running);
    running.terminate(seconds(20)).done();
    let state = polled.status("public.t");
    assert!(state["deleted"].as_u64() > Some(0) && state["sees_deletes"] == true, "{state}");
    polled.target.run_script("create table t(id int, part text, v bigint, primary key (id, part))");
    polled.apply();
    assert_eq!(rows_of(&polled.target, "select * from t"), rows_of(&polled.source, "select * from t"));
}

#[test]
fn a_batch_ends_between_two_values() {
    let schema = "create table t(id bigserial, at timestamptz not null)";
    let poll = |limit| {
        format!(
            "[[poll]]\ntable = 'public.t'\nmethod = 'append'\ncolumn = 'at'\nevery = '1h'\nlimit = {limit}\n"
        )
    };
    let polled = Polled::new(schema, &poll(10));
    // Rows of one value, four at a time.
    polled.source.query(
        "insert into t(at) select timestamptz '2026-01-01 00:00Z' + i / 4 * interval '1 hour' from generate_series(0, 24) i",
    );
    let alarm = polled.program.folder().join("alarm");
    let told = |limit: &str| {
        let command = format!("echo $PGSLUICE_ALARM $PGSLUICE_ALARM_LEVEL > {}", alarm.display());
        let outcome = polled.run(&["--once", "--now", "--alarm-exec", &command]);
        let stderr = outcome.stderr.clone();
        assert_eq!(stderr.contains("poll_limit"), !limit.is_empty(), "{outcome}");
        if !limit.is_empty() {
            wait_until(seconds(10), "the command", || {
                std::fs::read_to_string(&alarm).is_ok_and(|text| text.contains(limit))
            });
        }
        outcome
    };
    for (rows, level) in [(8, "warning"), (16, "warning"), (25, "warning"), (25, "")] {
        told(level).done();
        assert_eq!(polled.inserted("public.t").len(), rows);
    }
    for said in log(&polled.program.archive(), "public.t") {
        assert!(said.len() == 8 || said.len() == 9, "{said:?}");
    }
    polled.source.query("insert into t(at) select '2026-02-01 00:00Z' from generate_series(1, 11)");
    let outcome = told("critical").ends_with(1);
    assert!(outcome.stderr.contains("raise limit") && outcome.stderr.contains("cancelled"), "{outcome}");
    told("critical").ends_with(1);
    assert!(polled.status("public.t")["error"].as_str().unwrap().contains("2026-02-01"));
    assert_eq!(polled.inserted("public.t").len(), 25);
    polled.configure(&poll(11));
    told("warning").done();
    assert_eq!(polled.inserted("public.t").len(), 36);
    assert!(polled.status("public.t")["error"].is_null());
}

#[test]
fn batches_of_numbers_follow_each_other() {
    let schema = "create table t(id bigserial); insert into t select from generate_series(1, 125)";
    let polls = "[[poll]]\ntable = 'public.t'\nmethod = 'append'\ncolumn = 'id'\nlimit = 7\nexact = true\n";
    let polled = Polled::new(schema, polls);
    let mut running = polled.start();
    polled.arrives(&mut running, "t");
    running.terminate(seconds(20)).done();
    let wanted: Vec<_> = (1..=125).map(|id| id.to_string()).collect();
    assert_eq!(polled.inserted("public.t"), wanted);
    assert_eq!(log(&polled.program.archive(), "public.t").len(), 18);
}

/// Each row is read once, while four minutes of the source pass in a second, over a change of clocks in Berlin. Rows are written in its local time.
/// Gives the source.
fn over_a_change_of_clocks(from: &str, until: &str) -> Option<Cluster> {
    let clock = WrongClock::find()?;
    let source = Cluster::target();
    source.stop(crate::support::StopMode::Fast);
    source.start_with_clock(&clock, &format!("@{from} x240"));
    let schema = "create table t(id bigserial, at timestamp not null default localtimestamp, utc timestamptz default now());
        create table d(id bigserial, at date not null default current_date)";
    let polls = "[[poll]]\ntable = 'public.t'\nmethod = 'append'\ncolumn = 'at'\ntime-zone = 'Europe/Berlin'\nboundary = '3min'\nevery = '200ms'
        [[poll]]\ntable = 'public.d'\nmethod = 'append'\ncolumn = 'at'\ntime-zone = 'Europe/Berlin'\nevery = '200ms'";
    let polled = Polled::on(source, schema, polls);
    let mut running = polled.start();
    let writers = Writers::start(&polled.source, 3, |session, number, transaction| {
        session.query("set timezone = 'Europe/Berlin'");
        session.query("begin");
        session.query("insert into t default values");
        // Up to two minutes of the source.
        pause(some(number, transaction, 500));
        session.query("insert into t default values; insert into d default values; commit");
    });
    let is_over = format!("select now() > '{until}Z'");
    wait_until(seconds(90), "the hours around the change are over", || polled.source.value(&is_over) == "t");
    writers.end();
    polled.arrives(&mut running, "t");
    let state = polled.status("public.d");
    // The day is not over.
    assert_eq!(state["rows"], 0, "{state}");
    running.terminate(seconds(20)).done();
    let mut found = polled.inserted("public.t");
    let count = found.len();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), count, "a row came twice");
    let wanted = polled.source.query("select id from t").into_iter().map(|row| row[0].clone().unwrap());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted.collect::<BTreeSet<_>>());
    Some(polled.source)
}

#[test]
fn the_hour_that_comes_twice_is_read_once() {
    // Three o'clock of summer time, at 01:00 UTC, is two o'clock of winter time.
    let source = over_a_change_of_clocks("2026-10-25 00:10:00", "2026-10-25 02:20");
    let twice = "select count(*) > 0 from t a, t b where a.at > b.at and a.utc < b.utc";
    assert!(source.is_none_or(|source| source.value(twice) == "t"), "the clock was not set back");
}

#[test]
fn the_hour_that_is_left_out_is_not_waited_for() {
    // Two o'clock of winter time, at 01:00 UTC, is three o'clock of summer time.
    let source = over_a_change_of_clocks("2026-03-29 00:20:00", "2026-03-29 01:40");
    let jump =
        "select max(at) - min(at) - (max(utc) - min(utc)) between interval '59 min' and '61 min' from t";
    assert!(source.is_none_or(|source| source.value(jump) == "t"), "the clock was not set forward");
}

#[test]
fn the_newest_numbers_wait_until_no_higher_ones_come() {
    let schema = "create table t(id bigserial); alter table t alter id drop not null; create table c(id int8); create sequence c_numbers cache 20;
        alter table c alter column id set default nextval('c_numbers')";
    let polls =
        "[[poll]]\ntable = 'public.t'\nmethod = 'append'\ncolumn = 'id'\nboundary = 5\nevery = '2s'\n";
    let polled = Polled::new(schema, polls);
    polled.source.query("insert into t select from generate_series(1, 20)");
    polled.pull();
    assert_eq!(polled.inserted("public.t").len(), 15);
    polled.pull();
    assert_eq!(polled.inserted("public.t").len(), 15);
    pause(2100);
    // Also across runs: since when is kept in the log.
    polled.pull();
    assert_eq!(polled.inserted("public.t").len(), 20);
    assert_eq!(polled.status("public.t")["limit_by"], "stillness");
    polled.source.query("insert into t values (null), (30), (default)");
    polled.pull();
    assert_eq!(polled.inserted("public.t").len(), 21);

    let cached = "[[poll]]\ntable = 'public.c'\nmethod = 'append'\ncolumn = 'id'\nevery = '1s'\n";
    polled.configure(&format!("{cached}exact = true"));
    polled.source.query("insert into c default values");
    let outcome = polled.run(&["--once", "--now"]).ends_with(2);
    assert!(outcome.stderr.contains("20 numbers of the sequence at a time"), "{outcome}");
}

#[test]
fn an_open_transaction_holds_back_what_it_may_yet_write() {
    let schema =
        "create table e(id bigserial, at timestamptz default now()); create table b(like e including all);
        create table n(like e including all); create table other(id int)";
    let poll = |name: &str, rest: &str| {
        format!(
            "[[poll]]\ntable = 'public.{name}'\nmethod = 'append'\ncolumn = 'at'\nevery = '500ms'\n{rest}\n"
        )
    };
    let polls = poll("e", "exact = true")
        + &poll("b", "boundary = '1s'")
        + &poll("n", "boundary = '1s'\nexact = false");
    let source = Cluster::prepare().set("max_prepared_transactions", "5").start();
    let polled = Polled::on(source, schema, &polls);
    let session = polled.source.session();
    // It has written nothing yet, and is of another table as far as anybody knows.
    session.query("begin; select 1");
    pause(50);
    polled
        .source
        .query("insert into e default values; insert into b default values; insert into n default values");
    pause(2200);
    polled.pull();
    let counts = || ["e", "b", "n"].map(|name| polled.inserted(&format!("public.{name}")).len());
    assert_eq!(counts(), [0, 0, 1]);
    session.query("insert into e default values; insert into b default values; insert into n default values");
    session.query("prepare transaction 'p'");
    let mut running = polled.start();
    pause(1500);
    assert_eq!(counts(), [0, 0, 1]);
    // In another database nobody writes here.
    polled.source.query("create database elsewhere");
    let elsewhere = polled.source.session_of("elsewhere");
    elsewhere.query("begin; select 1");
    session.query("commit prepared 'p'");
    wait_until(seconds(20), "rows that waited", || counts()[..2] == [2, 2]);
    assert!(running.is_running());
    assert_eq!(counts(), [2, 2, 1], "a boundary alone would not have missed it");
    running.terminate(seconds(20)).done();
}

#[test]
fn what_the_program_reads_itself_holds_nothing_back() {
    let schema = "create table e(id bigserial, at timestamptz default now());
        create view slow as select 1 as one from (select pg_sleep(5) offset 0) wait";
    let polls = "[[poll]]\ntable = 'public.slow'\nmethod = 'snapshot'
        [[poll]]\ntable = 'public.e'\nmethod = 'append'\ncolumn = 'at'\nexact = true\nevery = '200ms'";
    let polled = Polled::new(schema, polls);
    let running = polled.start();
    let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_until(seconds(20), "the view is read", || polled.source.value(sleeping) == "1");
    polled.source.query("insert into e default values");
    let archive = polled.program.archive();
    wait_until(seconds(4), "the row", || inserted(&archive, "public.e").len() == 1);
    assert_eq!(polled.source.value(sleeping), "1", "the view was read too soon");
    running.terminate(seconds(20)).done();
}

#[test]
fn a_kill_loses_nothing_and_doubles_nothing() {
    let schema = "create table t(id int, part text, v bigint, primary key (id, part)); create table a(id bigserial, at timestamptz default now());
        create table s(id int primary key, v int); insert into s values (1, 0)";
    let polls = format!(
        "[[poll]]\ntable = 'public.a'\nmethod = 'append'\ncolumn = 'id'\nexact = true\nevery = '100ms'\n
         [[poll]]\ntable = 'public.s'\nmethod = 'snapshot'\nevery = '100ms'\n{QUEUE}"
    );
    let polled = queued(schema, &polls);
    let writers = Writers::start(&polled.source, 3, |session, number, transaction| {
        let id = some(number, transaction, 40);
        session.query(&format!(
            "begin; insert into a select from generate_series(1, 5); update s set v = v + 1;
             insert into t values ({id}, 'x', 1) on conflict (id, part) do update set v = t.v + 1; commit"
        ));
        pause(20);
        session.query(&format!("delete from t where id = {} and v % 3 = 0", some(transaction, number, 40)));
    });
    let start = |failpoint: Option<&str>| {
        let mut command = polled.program.command(&["poll", "--config", "poll.toml", "--segment-age", "1"]);
        failpoint.map(|name| command.env("PGSLUICE_FAILPOINT", name));
        Running::spawn(command)
    };
    let mut dice = 1;
    for _ in 0..8 {
        dice += 1;
        let running = start(None);
        pause(300 + some(dice, 1, 900));
        running.kill();
    }
    #[cfg(feature = "faults")]
    for point in [
        "poll.before_commit:3",
        "poll.after_commit:3",
        "poll.before_queue_delete:2",
        "poll.after_queue_delete:2",
        "log.after_write:3",
        "log.after_sync:3",
        "log.before_rename:1",
        "log.after_rename:1",
    ] {
        let outcome = start(Some(point)).wait(seconds(30));
        assert!(outcome.code.is_none() && outcome.stderr.contains("reached"), "{point}: {outcome}");
    }
    writers.end();
    let mut running = start(None);
    polled.arrives(&mut running, "a");
    wait_until(seconds(30), "the queue is drained", || {
        polled.source.value("select count(*) from t_queue") == "0"
    });
    let archive = polled.program.archive();
    let last = rows_of(&polled.source, "select id::text, v::text from s");
    wait_until(seconds(30), "the last snapshot", || rows_now(&archive, "public.s") == last);
    running.terminate(seconds(20)).done();
    let (mut found, wanted) = (polled.inserted("public.a"), polled.source.query("select id from a"));
    let count = found.len();
    found.sort();
    found.dedup();
    assert_eq!((count, found.len()), (wanted.len(), wanted.len()));
    let wanted = rows_of(&polled.source, "select id::text, part, v::text from t");
    assert_eq!(rows_now(&archive, "public.t"), wanted);
    polled.program.run(&["archive", "verify"]).done();
}

#[test]
fn one_run_at_a_time() {
    let schema = "create table t(id bigserial)";
    let polls = "[[poll]]\ntable = 'public.t'\nmethod = 'snapshot'\nevery = '200ms'\n";
    let polled = Polled::new(schema, polls);
    let first = polled.start();
    wait_until(seconds(20), "the first run", || !log_is_empty(&polled));
    let outcome = polled.run(&["--once", "--lock-wait", "1s"]).ends_with(1);
    assert!(outcome.stderr.contains("another run polls"), "{outcome}");
    let mut second = polled.program.start(&["poll", "--config", "poll.toml", "--lock-wait", "60s"]);
    pause(1000);
    assert!(second.is_running() && second.log().contains("waiting for another run"), "{}", second.log());
    first.terminate(seconds(20)).done();
    polled.source.query("insert into t values (7)");
    let archive = polled.program.archive();
    wait_until(seconds(20), "the second run", || rows_now(&archive, "public.t").len() == 1);
    // A lock whose session is gone is taken anew.
    polled.source.query("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'");
    polled.source.query("insert into t values (8)");
    wait_until(seconds(20), "it goes on", || rows_now(&archive, "public.t").len() == 2);
    wait_until(seconds(20), "the lock", || {
        polled.source.value("select count(*) from pg_locks where locktype = 'advisory' and granted") == "1"
    });
    // So does a run whose source is away for a while.
    polled.source.restart(crate::support::StopMode::Fast);
    polled.source.query("insert into t values (9)");
    wait_until(seconds(60), "it goes on again", || rows_now(&archive, "public.t").len() == 3);
    second.terminate(seconds(20)).done();
}

fn log_is_empty(polled: &Polled) -> bool {
    !polled.program.archive().join("manifest.json").exists()
        || log(&polled.program.archive(), "public.t").is_empty()
}

#[test]
fn what_can_not_be_polled_is_refused() {
    let schema = "create table t(id bigserial, at timestamp, name text, day timestamptz); create table secret(id int); revoke select on secret from public";
    let polled = Polled::new(schema, "");
    polled.source.query("revoke select on secret from poller");
    let poll = |table: &str, rest: &str| format!("[[poll]]\ntable = '{table}'\nmethod = 'append'\n{rest}\n");
    for (polls, code, said) in [
        (String::new(), 2, "no table is to be polled"),
        (poll("public.t", "column = 'id'\ncolum = 'id'"), 2, "line 5: unknown field"),
        ("\n\n[[poll]]\ntable = 'public.t'\nmethod = 'upsert'\ncolumn = 'id'".into(), 2, "line 3"),
        (poll("public.t", "column = 'id'").repeat(2), 2, "twice"),
        (poll("public.*", "column = 'id'"), 2, "not one table"),
        (poll("public.t", "column = 'at'"), 2, "nobody says of which zone"),
        (poll("public.t", "column = 'at'\ntime-zone = 'Nowhere/Land'"), 2, "Nowhere/Land"),
        (poll("public.t", "column = 'day'\ntime-zone = 'UTC'"), 2, "leave out time-zone"),
        (poll("public.t", "column = 'name'"), 2, "no control column"),
        (poll("public.t", "column = 'id'\nboundary = '1h'"), 2, "a number is no length of time"),
        (poll("public.t", "column = 'day'\nboundary = 7"), 2, "a time is no number"),
        (poll("public.t", "column = 'nothing'"), 1, "no column nothing"),
        (poll("public.nothing", "column = 'id'"), 1, "no table or view"),
        (poll("public.secret", "column = 'id'"), 1, "permission denied"),
    ] {
        polled.configure(&polls);
        let outcome = polled.run(&["--once"]).ends_with(code);
        assert!(outcome.stderr.contains(said), "{said}: {outcome}");
    }
    polled.configure(&poll("public.t", "column = 'id'"));
    polled.pull();
    polled.configure(&poll("public.t", "column = 'day'"));
    let outcome = polled.run(&["--once"]).ends_with(1);
    assert!(outcome.stderr.contains("was polled by column id"), "{outcome}");
    for command in [&["setup"][..], &["receive"], &["follow"]] {
        let outcome = polled.program.run(command).ends_with(4);
        assert!(outcome.stderr.contains("pgsluice poll"), "{outcome}");
    }
    let polls = polled.program.run(&["status", "--json"]).done().json()["polls"].clone();
    assert!(polls.as_array().unwrap().iter().any(|state| state["table"] == "public.t"), "{polls}");
    // Somebody else's, of the same name.
    let elsewhere = Cluster::source();
    elsewhere.query("select pg_create_logical_replication_slot('pgsluice', 'pgoutput')");
    polled.program.run(&["cleanup", "--source", &elsewhere.conninfo()]).done();
    assert_eq!(elsewhere.value("select count(*) from pg_replication_slots"), "1");
    let other = Pgsluice::between(&Cluster::source(), &polled.target);
    let source = Cluster::source();
    source.query("create table t(id int primary key)");
    polled.target.query("create table t(id int primary key)");
    let other = other.source(&source.conninfo());
    other.run(&["setup"]).done();
    std::fs::write(other.folder().join("poll.toml"), poll("public.t", "column = 'id'")).unwrap();
    let outcome = other.run(&["poll", "--config", "poll.toml", "--once"]).ends_with(4);
    assert!(outcome.stderr.contains("fed from slot"), "{outcome}");
}

#[test]
fn a_range_comes_again_and_a_column_that_was_added_comes_along() {
    let schema = "create type mood as enum ('well', 'ill'); create domain short as varchar(5);
        create table t(id bigserial primary key, at timestamptz not null default now(), mood mood, b bytea, f float8, s short,
                       g int generated always as (1) stored);
        create table a(id bigserial)";
    let polls = "[[poll]]\ntable = 'public.t'\nmethod = 'upsert'\nkey = ['id']\ncolumn = 'id'\nexact = true\nwhere = \"mood is distinct from 'ill'\"
        [[poll]]\ntable = 'public.a'\nmethod = 'append'\ncolumn = 'id'\nexact = true";
    let polls = polls.replace("'ill'", "'ill'::public.mood");
    let polled = Polled::new(schema, &polls);
    polled.source.query(
        "insert into t(mood, b, f, s) values ('well', '\\x00ff', 0.1, 'a'), ('ill', null, null, null), (null, '', 'NaN', E'\\t\\n\\\\'); insert into a values (default)",
    );
    polled.pull();
    let archive = polled.program.archive();
    let columns = "id::text, at::text, mood::text, b::text, f::text, s::text";
    let wanted = |columns: &str| {
        rows_of(&polled.source, &format!("select {columns} from t where mood is distinct from 'ill'"))
    };
    assert_eq!(rows_now(&archive, "public.t"), wanted(columns));
    polled.source.query("update t set s = 'new'; alter table t add column more int default 7; insert into t(mood) values ('well')");
    polled.pull();
    assert_eq!(log(&archive, "public.t").concat().len(), 3);
    let last = polled.status("public.t")["last"].clone();
    let outcome = polled.run(&["--table", "public.t", "--from", "1", "--to", "3", "--json"]).done();
    assert_eq!(outcome.json()["rows"], 2);
    assert_eq!(polled.status("public.t")["last"], last);
    assert_eq!(rows_now(&archive, "public.t"), wanted(&format!("{columns}, more::text")));

    let again = ["--table", "public.a", "--from", "1", "--to", "9"];
    let outcome = polled.run(&again).ends_with(2);
    assert!(outcome.stderr.contains("--append-again"), "{outcome}");
    polled.run(&[&again[..], &["--append-again"]].concat()).done();
    assert_eq!(polled.inserted("public.a"), ["1", "1"]);
}

#[test]
fn a_store_has_what_a_queue_forgets() {
    let schema = "create table t(id int, part text, v bigint, primary key (id, part)); insert into t values (1, 'a', 1)";
    let mut polled = queued(schema, QUEUE);
    let spool = polled.program.folder().join("spool").display().to_string();
    polled.program = polled.program.env("PGSLUICE_SPOOL", &spool).env("PGSLUICE_DURABLE", "store");
    polled.pull();
    polled.source.query("update t set v = 2");
    polled.pull();
    assert_eq!(polled.source.value("select count(*) from t_queue"), "0");
    // All of it is in the store: the spool may go, and the next run is behind whatever it had.
    let before = polled.program.run(&["poll", "status", "--json"]).done().json();
    std::fs::remove_dir_all(&spool).unwrap();
    polled.source.query("delete from t");
    polled.pull();
    let after = polled.program.run(&["poll", "status", "--json"]).done().json();
    let lsn = |status: &serde_json::Value| crate::support::lsn(status["through"].as_str().unwrap());
    assert!(lsn(&after) > lsn(&before));
    assert_eq!(after["tables"][0]["deleted"], 1, "{after}");
    polled.program.run(&["archive", "verify"]).done();
}

#[test]
fn a_large_pull_streams_and_may_be_killed_half_way() {
    let schema = "create table t(id bigserial, what text); create table s(what text);
        insert into t(what) select repeat(md5(i::text), 8) from generate_series(1, 500000) i; insert into s select what from t";
    let polls = "[[poll]]\ntable = 'public.t'\nmethod = 'append'\ncolumn = 'id'\nboundary = 0\nexact = true
        [[poll]]\ntable = 'public.s'\nmethod = 'snapshot'"
        .replace("boundary = 0\n", "");
    let polled = Polled::new(schema, &polls);
    let size = || {
        let folder = polled.program.archive().join("segments");
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum::<u64>()
    };
    let running = polled.start();
    wait_until(seconds(60), "some of it is on the disk", || size() > 1 << 20);
    running.kill();
    let mut running = polled.start();
    polled.arrives(&mut running, "t");
    polled.arrives(&mut running, "s");
    let memory = running.resident_bytes_max() >> 20;
    assert!(memory < 200, "{memory} MiB");
    running.terminate(seconds(30)).done();
    println!("{memory} MiB for {} MiB", (2 * 500_000 * 270) >> 20);
    let found: BTreeSet<_> = polled.inserted("public.t").into_iter().collect();
    assert_eq!((found.len(), polled.inserted("public.t").len()), (500_000, 500_000));
    polled.program.run(&["archive", "verify"]).done();
}
