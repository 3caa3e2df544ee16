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
    // By the clock with a boundary and without, by the number with and without: five tables, each at once.
    let table = |name: &str| {
        format!(
            "create table {name}(id bigserial primary key, at timestamptz not null default now(), what text);"
        )
    };
    let names = ["by_boundary", "by_exact", "by_both", "number_exact", "number_both"];
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
    for name in names {
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
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted, "{name}");
    }
    println!("{transactions} transactions");
    polled.program.run(&["archive", "verify"]).done();
    polled.apply();
    assert_tables_equal(&polled.source, &polled.target);
}
