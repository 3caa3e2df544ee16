//! Those who read the view: each sees one whole version, and waits for nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::log::{Log, plain, version};
use super::seen;
use crate::support::{Cluster, Session, seconds, wait_until};

const ROWS: u32 = 2000;
/// Count, least and greatest version.
const READ: &str = "select format('%s %s %s %s', count(*), min(ver), max(ver), sum(id)) from s.t";

/// The version that was read, which must be whole.
#[track_caller]
fn whole(read: &str) -> u32 {
    let words: Vec<u64> =
        read.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("nothing: '{read}'"))).collect();
    let sum = u64::from(ROWS) * u64::from(ROWS + 1) / 2;
    assert_eq!((words[0], words[3]), (u64::from(ROWS), sum), "a part: {read}");
    assert_eq!(words[1], words[2], "two versions at once: {read}");
    u32::try_from(words[1]).unwrap()
}

/// Nobody is to wait longer than this for a lock; a statement that does fails.
fn reader(target: &Cluster) -> Session {
    let session = target.session();
    session.query("set lock_timeout = '50ms'");
    session
}

/// What a reader met.
#[derive(Default)]
struct Met {
    reads: u32,
    versions: u32,
    longest: Duration,
}

/// Reads until the flag is up, each time as `read` does; versions never go back.
fn read_on(done: &AtomicBool, mut read: impl FnMut() -> Vec<String>) -> Met {
    let (mut met, mut last) = (Met::default(), 0);
    while !done.load(Ordering::Relaxed) {
        let started = Instant::now();
        let read = read();
        met.longest = met.longest.max(started.elapsed());
        for read in read {
            let now = whole(&read);
            assert!(now >= last, "version {now} after {last}");
            met.versions += u32::from(now > last);
            last = now;
            met.reads += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    met
}

#[test]
fn readers_see_one_whole_version_and_never_wait() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, ROWS));
    log.apply();
    let applier = log.program.start(&["apply"]);
    let done = AtomicBool::new(false);
    let (target, done) = (&target, &done);
    let last = 40;
    std::thread::scope(|scope| {
        let plain_reads = scope.spawn(move || {
            let session = reader(target);
            read_on(done, || vec![session.value(READ)])
        });
        let prepared = scope.spawn(move || {
            let session = reader(target);
            session.query(&format!("set plan_cache_mode = force_generic_plan; prepare p as {READ}"));
            read_on(done, || vec![session.value("execute p")])
        });
        // What was read once in a transaction is read again.
        let transactions = scope.spawn(move || {
            let session = reader(target);
            read_on(done, || {
                session.query("begin");
                let first = session.value(READ);
                std::thread::sleep(Duration::from_millis(5));
                let second = session.value(READ);
                session.query("commit");
                assert_eq!(first, second);
                vec![first]
            })
        });
        // Its snapshot is older than the swap that may come before it looks.
        let repeatable = scope.spawn(move || {
            let session = reader(target);
            read_on(done, || {
                session.query("begin isolation level repeatable read; select count(*) from pg_class");
                std::thread::sleep(Duration::from_millis(30));
                let (first, second) = (session.value(READ), session.value(READ));
                session.query("commit");
                assert_eq!(first, second);
                vec![first]
            })
        });
        for ver in 2..=last {
            log.snapshot(&plain(), version(ver, ROWS));
            std::thread::sleep(Duration::from_millis(100));
        }
        wait_until(seconds(60), "the last version is there", || {
            target.value("select max(ver) from s.t") == last.to_string()
        });
        done.store(true, Ordering::Relaxed);
        for (kind, met) in [
            ("one by one", plain_reads),
            ("prepared", prepared),
            ("in transactions", transactions),
            ("repeatable read", repeatable),
        ] {
            let met = met.join().unwrap();
            eprintln!(
                "{kind}: {} reads of {} versions, the longest {:?}",
                met.reads, met.versions, met.longest
            );
            assert!(met.versions > 5, "{}", met.versions);
        }
    });
    applier.terminate(seconds(30)).done();
    assert_eq!(seen(target), format!("{ROWS} {last} {last}"));
}

#[test]
fn a_transaction_that_has_read_the_view_holds_the_swap_and_nobody_else() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, ROWS));
    log.apply();
    let long = target.session();
    long.query("begin");
    assert_eq!(whole(&long.value(READ)), 1);
    log.snapshot(&plain(), version(2, ROWS));
    let applier = log.program.start(&["apply"]);
    let others = reader(&target);
    let (mut reads, mut longest) = (0, Duration::ZERO);
    let mut read = |until: &mut dyn FnMut() -> bool| {
        let started = Instant::now();
        while !until() {
            let began = Instant::now();
            assert_eq!(whole(&others.value(READ)), 1);
            (reads, longest) = (reads + 1, longest.max(began.elapsed()));
            assert!(started.elapsed() < seconds(60), "{}", applier.log());
        }
    };
    let waits = format!("pids=\"{}", long.backend());
    read(&mut || applier.log().contains(&waits));
    let after = Instant::now();
    read(&mut || after.elapsed() > seconds(3));
    eprintln!("{reads} reads while the swap waits, the longest {longest:?}");
    assert!(applier.log().contains("the view is in use"));
    assert_eq!(whole(&long.value(READ)), 1);
    // A stop does not wait for the reader.
    let started = Instant::now();
    applier.terminate(seconds(10)).done();
    eprintln!("stopped after {:?}", started.elapsed());
    assert_eq!(whole(&others.value(READ)), 1);

    let applier = log.program.start(&["apply"]);
    std::thread::sleep(seconds(1));
    assert_eq!(whole(&long.value(READ)), 1);
    long.query("commit");
    wait_until(seconds(10), "the view is swapped", || whole(&long.value(READ)) == 2);
    applier.terminate(seconds(10)).done();
}

#[test]
fn who_still_reads_the_hidden_table_is_waited_for() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, ROWS));
    log.apply();
    let old = target.session();
    old.query("begin");
    old.query("select count(*) from s.t__a");
    log.snapshot(&plain(), version(2, ROWS));
    log.apply();
    log.snapshot(&plain(), version(3, ROWS));
    let applier = log.program.start(&["apply"]);
    wait_until(seconds(30), "it says so", || applier.log().contains("an old snapshot is still read"));
    assert_eq!(old.value("select max(ver) from s.t__a"), "1");
    assert_eq!(whole(&reader(&target).value(READ)), 2);
    // Nothing is kept open while it waits.
    let idle = "select count(*) from pg_stat_activity where application_name = 'pgsluice apply' and state like 'idle in transaction%'";
    wait_until(seconds(10), "no transaction is open", || target.value(idle) == "0");
    old.query("commit");
    wait_until(seconds(10), "it goes on", || whole(&reader(&target).value(READ)) == 3);
    applier.terminate(seconds(10)).done();
}

/// PostgreSQL's TRUNCATE shows to everybody at once; the rows do so too, since they come frozen.
#[test]
fn a_transaction_whose_snapshot_is_older_than_the_swap_sees_the_new_rows() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, ROWS));
    log.snapshot(&plain(), version(2, ROWS));
    log.apply();
    target.run_script("create index on s.t__a(id); create index on s.t__b(id)");
    for level in ["repeatable read", "serializable"] {
        let old = target.session();
        old.query(&format!("begin isolation level {level}; select count(*) from pg_class"));
        let before = whole(&reader(&target).value(READ));
        log.snapshot(&plain(), version(before + 1, ROWS));
        log.apply();
        assert_eq!(whole(&old.value(READ)), before + 1);
        let by_index = "set enable_seqscan = off; select ver from s.t where id = 5";
        assert_eq!(old.value(by_index), (before + 1).to_string());
        old.query("commit");
    }
}

/// A reader that has the view, and now waits for the table that we fill, would wait for ever.
#[test]
fn who_waits_for_us_while_we_wait_for_it_comes_first() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, ROWS));
    log.snapshot(&plain(), version(2, ROWS));
    log.apply();
    let both = target.session();
    both.query("begin");
    assert_eq!(whole(&both.value(READ)), 2);
    log.snapshot(&plain(), version(3, ROWS));
    let applier = log.program.start(&["apply"]);
    let locked = "select count(*) from pg_locks where relation = 's.t__a'::regclass and mode = 'AccessExclusiveLock' and granted";
    wait_until(seconds(30), "it has the hidden table", || target.value(locked) == "1");
    both.query("set lock_timeout = '20s'");
    assert_eq!(both.value("select max(ver) from s.t__a"), "1");
    assert!(applier.log().contains("begun anew"), "{}", applier.log());
    both.query("commit");
    wait_until(seconds(20), "it is swapped", || whole(&reader(&target).value(READ)) == 3);
    applier.terminate(seconds(10)).done();
}
