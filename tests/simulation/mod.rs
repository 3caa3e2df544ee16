//! The road on fakes, seeded: the real receiver, log and reader between a source that is made up and a target in memory.
//!
//! A run is a history of transactions and a few *lives* of a receiver with an applier at its side. Connections are cut at any byte, statuses come
//! late, and each life ends with a stop or with a crash of its machine: what was not synced is cut off, zero, or anything. Then the next life begins with what
//! the disk has left, a slot that may have gone back, and a target that may have gone back too. At every status, at each transaction that is applied, at every
//! start and at the end it is checked that nothing was promised too early, lost, or done twice.
//!
//! `PGSLUICE_SEEDS=100000 tools/test simulation` takes other seeds than the short run does; `PGSLUICE_SEED=17` takes that one alone. The
//! history and the plan of the faults follow from the seed; threads and sockets are real, so their timing does not.

mod checks;
mod crash;
mod history;
mod life;
mod random;
mod source;
mod target;

use std::sync::Arc;

use pgsluice::archive::{Archive, Reader};
use pgsluice::model::Position;
use pgsluice::verify::verify;

use history::History;
use life::{End, World};
use random::Random;
use target::Target;

/// Seeds of a run that nobody asked for.
const SEEDS: u64 = 200;
/// Runs at the same time: most of each is waiting.
const AT_ONCE: usize = 24;

#[test]
fn nothing_is_lost_or_doubled_whatever_is_cut_or_crashes() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("PGSLUICE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PGSLUICE_SEEDS").unwrap_or(SEEDS),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let mut runs = tokio::task::JoinSet::new();
        for seed in seeds {
            let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
            runs.spawn(async move {
                let _slot = slot;
                let limit = std::time::Duration::from_secs(120);
                if let Err(panic) = tokio::spawn(tokio::time::timeout(limit, run(seed)))
                    .await
                    .map(|ended| ended.expect("stuck"))
                {
                    std::panic::resume_unwind(Box::new(format!(
                        "PGSLUICE_SEED={seed}: {}",
                        words(panic.into_panic())
                    )));
                }
            });
            while let Some(ended) = runs.try_join_next() {
                ended.map_err(|panic| words(panic.into_panic())).unwrap();
            }
        }
        while let Some(ended) = runs.join_next().await {
            ended.map_err(|panic| words(panic.into_panic())).unwrap();
        }
    });
}

/// What a panic has said.
fn words(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast_ref::<&str>().map_or_else(|| "panicked".into(), |text| (*text).into()),
    }
}

async fn run(seed: u64) {
    let mut random = Random::new(seed);
    let history = Arc::new(History::make(&mut random));
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), Arc::clone(&history), &mut random);
    for _ in 0..random.below(5) {
        world.live(random.any(&[End::Crash, End::Crash, End::Stop])).await;
    }
    let (archive, target) = world.finish().await;
    check(&archive, &target, &history);
}

/// The log says exactly what the source did, after each transaction; and the target, that went back and forth beside it, agrees.
fn check(archive: &Archive, target: &Target, history: &History) {
    let report = verify(archive, |_| ()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let mut reader = Reader::open(archive, history.start, None).unwrap();
    let mut replayed = Target::new(history.start);
    let mut states = history.transactions.iter();
    let mut pending = Vec::new();
    while let Some(frame) = reader.try_next().unwrap() {
        pending.extend_from_slice(&frame.raw);
        if !frame.ends_on_commit {
            continue;
        }
        replayed.apply(&std::mem::take(&mut pending), |replayed| {
            let transaction = states.next().expect("more transactions than the source had");
            assert_eq!(replayed.position, transaction.end);
            assert_eq!(replayed.checksum(), transaction.state, "at {}", transaction.end);
            checks::bank(replayed);
        });
    }
    assert_eq!(states.next().map(|transaction| transaction.end), None, "the log lacks a transaction");
    assert!(report.last_lsn >= history.end());
    assert_eq!(target.rows(), replayed.rows());
    assert!(target.position >= history.end(), "{}", target.position);
    assert_eq!(report.transactions, history.transactions.len() as u64);
}

/// Where the log of every run begins.
const START: Position = Position(0x0100_0000);
