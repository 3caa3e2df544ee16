//! How long a commit on the source takes to be visible on the target: writers commit rows at a fixed rate, and a watcher asks the
//! target for those that it has not seen. Both clocks are this process's. `tools/bench` runs it; alone, with the table
//! that `TABLE` says on both sides and something that replicates it:
//! `cargo bench --profile release --bench latency -- SOURCE TARGET RATE SECONDS`.
//!
//! A commit's time is when its answer has arrived, and a row is visible when the answer that holds it has arrived. So the
//! figures are too long by up to one period of the watcher; with the source as TARGET it measures itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};

const TABLE: &str = "create table latency (number bigint primary key)";
const WRITERS: u32 = 4;
/// Asking without a pause would take a core from those who are measured.
const PERIOD: Duration = Duration::from_micros(250);
/// What is written in the first seconds does not count: plans, caches and connections are made then.
const WARM_UP: Duration = Duration::from_secs(2);
/// The longest wait for the last row.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [source, target, rate, seconds] = arguments.as_slice() else {
        eprintln!("usage: latency SOURCE TARGET RATE SECONDS; both sides have: {TABLE}");
        std::process::exit(2);
    };
    let rate: f64 = rate.parse().expect("RATE is a number");
    let seconds: f64 = seconds.parse().expect("SECONDS is a number");
    let start = Instant::now() + Duration::from_millis(100);
    let length = WARM_UP + Duration::from_secs_f64(seconds);
    let period = Duration::from_secs_f64(f64::from(WRITERS) / rate);
    let count = (length.as_secs_f64() / period.as_secs_f64()) as usize;
    let writers: Vec<JoinHandle<Vec<Instant>>> = (0..WRITERS as usize)
        .map(|writer| {
            let (source, first) = (source.clone(), start + period * writer as u32 / WRITERS);
            thread::spawn(move || write(&source, writer, first, period, count))
        })
        .collect();
    let seen = watch(target, count * WRITERS as usize, start + length + PATIENCE);
    let committed: Vec<Vec<Instant>> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    report(&committed, &seen, start + WARM_UP);
}

/// A connection that is only driven while somebody waits for an answer of it, on a thread of its own.
fn connect(conninfo: &str) -> (Runtime, Client) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(conninfo, NoTls)).expect("to connect");
    runtime.spawn(connection);
    (runtime, client)
}

/// When each row's commit was answered. A late one is not left out, and those after it catch up.
fn write(source: &str, writer: usize, first: Instant, period: Duration, count: usize) -> Vec<Instant> {
    let (runtime, client) = connect(source);
    let insert = runtime.block_on(client.prepare("insert into latency values ($1)")).unwrap();
    let mut committed = Vec::with_capacity(count);
    for number in 0..count {
        let due = first + period * number as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let row = (writer + number * WRITERS as usize) as i64;
        runtime.block_on(client.execute(&insert, &[&row])).unwrap();
        committed.push(Instant::now());
    }
    committed
}

/// When each row was first seen, until all are or patience ends.
fn watch(target: &str, count: usize, end: Instant) -> Vec<Option<Instant>> {
    let (runtime, client) = connect(target);
    let query = runtime.block_on(client.prepare("select number from latency where number >= $1")).unwrap();
    let mut seen = vec![None; count];
    let mut first_missing = 0;
    while first_missing < count && Instant::now() < end {
        let asked = Instant::now();
        let rows = runtime.block_on(client.query(&query, &[&(first_missing as i64)])).unwrap();
        let now = Instant::now();
        for row in &rows {
            seen[row.get::<_, i64>(0) as usize].get_or_insert(now);
        }
        while seen.get(first_missing).is_some_and(Option::is_some) {
            first_missing += 1;
        }
        thread::sleep(PERIOD.saturating_sub(asked.elapsed()));
    }
    seen
}

fn report(committed: &[Vec<Instant>], seen: &[Option<Instant>], from: Instant) {
    let mut milliseconds = Vec::new();
    for (writer, commits) in committed.iter().enumerate() {
        let sights = seen.iter().skip(writer).step_by(WRITERS as usize);
        for (commit, sight) in commits.iter().zip(sights).filter(|(commit, _)| **commit >= from) {
            // A row may be seen before its writer hears of it.
            milliseconds
                .extend(sight.map(|sight| sight.saturating_duration_since(*commit).as_secs_f64() * 1e3));
        }
    }
    let missing = seen.iter().filter(|sight| sight.is_none()).count();
    milliseconds.sort_by(f64::total_cmp);
    let at = |part: f64| milliseconds[((milliseconds.len() - 1) as f64 * part).round() as usize];
    let first =
        committed.iter().flatten().filter(|commit| **commit >= from).min().expect("a commit that counts");
    let last = committed.iter().flatten().max().expect("a commit");
    println!(
        "{}",
        serde_json::json!({
            "transactions": milliseconds.len(),
            "missing": missing,
            "rate": milliseconds.len() as f64 / (*last - *first).as_secs_f64(),
            "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0),
        })
    );
    if missing > 0 {
        std::process::exit(1);
    }
}
