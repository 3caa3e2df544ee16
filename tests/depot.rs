//! Archives whose sealed segments are in a store, here a folder: nothing lost with the spool, targets fed from elsewhere, and one
//! receiver at a time.

use std::path::{Path, PathBuf};

use crate::support::ledger::{self, Dice};
use crate::support::{
    Bucket, Cluster, Misdeed, Moto, Pgsluice, Road, Running, StopMode, assert_tables_equal, seconds,
    wait_until,
};

const TABLE: &str = "create table t(id int primary key, v text);";
const STORE: [(&str, &str); 2] = [("PGSLUICE_SPOOL", "spool"), ("PGSLUICE_DURABLE", "store")];
/// A segment a second, so that much goes to the store.
const RECEIVE: [&str; 3] = ["receive", "--segment-age", "1"];

fn road() -> Road {
    Road::with_settings(TABLE, TABLE, &STORE)
}

/// A road with its archive in a bucket.
fn road_to(bucket: &[(String, String)]) -> Road {
    let variables = bucket.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let place = [("PGSLUICE_ARCHIVE", "s3://bucket/some/prefix"), ("PGSLUICE_SPOOL", "spool")];
    Road::with_settings(TABLE, TABLE, &variables.chain(place).collect::<Vec<_>>())
}

/// The program with that archive, on another machine.
fn elsewhere_by(bucket: &[(String, String)], road: &Road, target: &Cluster) -> Pgsluice {
    let program = elsewhere(road, target).env("PGSLUICE_ARCHIVE", "s3://bucket/some/prefix");
    bucket.iter().fold(program, |program, (name, value)| program.env(name, value))
}

/// The program with the same archive, on what might be another machine.
fn elsewhere(road: &Road, target: &Cluster) -> Pgsluice {
    let program = Pgsluice::between(&road.source, target);
    STORE
        .iter()
        .fold(program, |program, (name, value)| program.env(name, value))
        .env("PGSLUICE_ARCHIVE", &road.program.archive().display().to_string())
}

fn another_target(schema: &str) -> Cluster {
    let target = Cluster::target();
    target.run_script(schema);
    target
}

fn rows(road: &Road, from: u32, to: u32) {
    road.change(&format!(
        "insert into t select i, repeat(md5(i::text), 20) from generate_series({from}, {to}) i"
    ));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn sealed(folder: &Path) -> Vec<PathBuf> {
    files(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect()
}

/// How far the log is in the store.
fn confirmed(road: &Road) -> String {
    road.source.value("select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgsluice'")
}

/// Whether the source may forget everything up to there.
fn is_confirmed(road: &Road, end: &str) -> bool {
    road.source.value(&format!("select '{}'::pg_lsn >= '{end}'", confirmed(road))) == "t"
}

/// A receiver that has a transaction in the store and, until the segment is so old, another one in its spool.
fn receiver_of_two(road: &Road, segment_age: &str) -> Running {
    rows(road, 1, 1000);
    road.program.run(&["receive", "--endpos", "current"]).done();
    let receiver = road.program.start(&["receive", "--segment-age", segment_age]);
    rows(road, 1001, 2000);
    let received = || road.program.status()["archive"]["transactions"].as_u64().unwrap_or_default() >= 2;
    wait_until(seconds(20), "the second transaction is in the spool", received);
    receiver
}

#[test]
fn a_target_elsewhere_is_fed_by_the_store_alone_and_its_spool_is_bounded() {
    let road = road();
    for batch in 0..3 {
        rows(&road, batch * 40_000 + 1, (batch + 1) * 40_000);
        // What is sealed when it ends is a segment.
        road.program.run(&["receive", "--endpos", "current"]).done();
    }
    road.change("update t set v = v || 'x' where id % 5 = 0; delete from t where id % 7 = 0;");
    road.program.run(&["follow", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &road.target);
    assert!(sealed(&road.program.archive()).len() > 3);

    let target = another_target(TABLE);
    let elsewhere = elsewhere(&road, &target);
    let endpos = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    elsewhere.run(&["apply", "--spool-limit", "1", "--endpos", &endpos]).done();
    assert_tables_equal(&road.source, &target);

    let copies = sealed(&elsewhere.folder().join("spool"));
    let bytes: u64 = copies.iter().map(|path| path.metadata().unwrap().len()).sum();
    let largest = copies.iter().map(|path| path.metadata().unwrap().len()).max().unwrap_or_default();
    assert!(copies.len() <= 3 && bytes <= (1 << 20) + 2 * largest, "{bytes} bytes of copies: {copies:?}");
    // What is not here is read where it is.
    let chain =
        |program: &Pgsluice| program.run(&["archive", "verify", "--json"]).done().json()["chain"].clone();
    assert_eq!(chain(&elsewhere), chain(&road.program));
}

#[test]
fn a_target_elsewhere_goes_on_with_what_is_sealed_later() {
    let road = road();
    let target = another_target(TABLE);
    let receiver = road.program.start(&RECEIVE);
    let applier = elsewhere(&road, &target);
    let running = applier.start(&["apply"]);
    for (from, to) in [(1, 100), (101, 200)] {
        rows(&road, from, to);
        wait_until(seconds(30), "the rows are there", || {
            target.value("select count(*) from t") == to.to_string()
        });
    }
    running.terminate(seconds(20)).done();
    receiver.terminate(seconds(20)).done();
}

#[test]
fn the_slot_moves_when_the_store_has_it_also_while_the_source_is_idle() {
    let road = road();
    rows(&road, 1, 1000);
    let end = road.source.current_lsn();
    let receiver = road.program.start(&RECEIVE);
    wait_until(seconds(30), "the rows are confirmed", || is_confirmed(&road, &end));
    assert!(!sealed(&road.program.archive()).is_empty());
    // Another database's WAL.
    road.source.query("create database other");
    let end = road.source.current_lsn();
    wait_until(seconds(60), "what is idle is confirmed", || is_confirmed(&road, &end));
    receiver.terminate(seconds(20)).done();
}

#[test]
fn a_spool_that_is_lost_with_its_machine_loses_nothing() {
    let road = road();
    rows(&road, 1, 5000);
    road.program.run(&["receive", "--endpos", "current", "--segment-size", "1"]).done();
    // This comes into the spool, and not into the store.
    let receiver = road.program.start(&["receive", "--segment-age", "600"]);
    rows(&road, 5001, 6000);
    let spool = road.program.folder().join("spool");
    let received = || road.program.status()["archive"]["transactions"].as_u64().unwrap_or_default() >= 2;
    wait_until(seconds(20), "the second transaction is in the spool", received);
    receiver.kill();
    std::fs::remove_dir_all(&spool).unwrap();

    road.program.run(&["follow", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &road.target);
    road.program.run(&["archive", "verify"]).done();
    let claims = files(&road.program.archive().join("writers"));
    assert_eq!(claims.len(), 2, "{claims:?}");
}

#[test]
fn a_spool_that_is_lost_with_what_was_confirmed_is_told() {
    let road = Road::with_settings(TABLE, TABLE, &STORE[..1]);
    rows(&road, 1, 100);
    let receiver = road.program.start(&["receive"]);
    let end = road.source.current_lsn();
    wait_until(seconds(20), "it is confirmed", || is_confirmed(&road, &end));
    receiver.kill();
    std::fs::remove_dir_all(road.program.folder().join("spool")).unwrap();
    let outcome = road.program.run(&["receive", "--endpos", "current"]).ends_with(4);
    assert!(outcome.stderr.contains("gap of"), "{}", outcome.stderr);
}

/// It sleeps while another takes the log over, and wakes with segments that it would still bring.
#[test]
fn a_receiver_that_was_thought_dead_changes_nothing() {
    let road = road();
    let sleeper = receiver_of_two(&road, "5");
    sleeper.signal(rustix::process::Signal::STOP);
    road.source.query("select pg_terminate_backend(active_pid) from pg_replication_slots where active");
    wait_until(seconds(20), "the slot is free", || {
        road.source.value("select count(*) from pg_replication_slots where active") == "0"
    });

    let target = another_target(TABLE);
    let other = elsewhere(&road, &target);
    rows(&road, 2001, 3000);
    let running = other.start(&["follow", "--segment-age", "1"]);
    let claims = road.program.archive().join("writers");
    wait_until(seconds(30), "the other has claimed the log", || files(&claims).len() == 2);
    sleeper.signal(rustix::process::Signal::CONT);
    let outcome = sleeper.wait(seconds(60));
    assert_ne!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("another receiver"), "{}", outcome.stderr);

    rows(&road, 3001, 4000);
    other.run(&["sentinel", "set", "endpos", "current"]).done();
    running.wait(seconds(60)).done();
    assert_tables_equal(&road.source, &target);
    other.run(&["archive", "verify"]).done();
    // The sleeper's spool is told that it was left behind, unless the log has all that is in it.
    let outcome = road.program.run(&["receive", "--endpos", "current"]);
    if outcome.code == Some(0) {
        other.run(&["follow", "--endpos", "current"]).done();
        assert_tables_equal(&road.source, &target);
        road.program.run(&["archive", "verify"]).done();
    } else {
        assert!(outcome.ends_with(4).stderr.contains("another receiver"));
    }
}

/// Set on one machine, done on others.
#[test]
fn control_reaches_the_processes_of_other_machines() {
    let road = road();
    rows(&road, 1, 100);
    let receiver = road.program.start(&RECEIVE);
    let target = another_target(TABLE);
    let other = elsewhere(&road, &target);
    let applier = other.start(&["apply"]);
    let has = |rows: &str| target.value("select count(*) from t") == rows;
    wait_until(seconds(30), "the first rows are there", || has("100"));

    road.program.run(&["sentinel", "set", "prefetch"]).done();
    // By then it has been asked for more than once.
    std::thread::sleep(seconds(3));
    rows(&road, 101, 200);
    let end = road.source.current_lsn();
    wait_until(seconds(30), "the next rows are in the store", || is_confirmed(&road, &end));
    std::thread::sleep(seconds(3));
    assert!(has("100"), "prefetch was not heard of");
    road.program.run(&["sentinel", "set", "apply"]).done();
    wait_until(seconds(30), "the next rows are there", || has("200"));

    other.run(&["sentinel", "set", "endpos", "current"]).done();
    receiver.wait(seconds(30)).done();
    applier.wait(seconds(30)).done();
    assert_tables_equal(&road.source, &target);
    let sentinel = road.program.sentinel();
    let lsn = |name: &str| crate::support::lsn(sentinel[name].as_str().unwrap());
    assert!(lsn("replay_lsn") >= crate::support::lsn(&end), "{sentinel}");
    assert!(lsn("flush_lsn") >= lsn("endpos"), "{sentinel}");
}

/// What it left over follows what the store has; but the log is another's by now, who has brought nothing yet.
#[test]
fn a_receiver_that_comes_back_without_the_slot_takes_nothing_over() {
    let road = road();
    let first = receiver_of_two(&road, "600");
    first.kill();

    let target = another_target(TABLE);
    let other = elsewhere(&road, &target);
    let running = other.start(&["follow", "--segment-age", "600"]);
    wait_until(seconds(30), "the rows are there", || target.value("select count(*) from t") == "2000");
    let back = road.program.start(&RECEIVE);
    wait_until(seconds(30), "it finds the slot in use", || back.log().contains("is active for PID"));
    std::thread::sleep(seconds(3));
    assert_eq!(files(&road.program.archive().join("writers")).len(), 2);
    assert_eq!(sealed(&road.program.archive()).len(), 1);
    back.terminate(seconds(10)).done();

    rows(&road, 2001, 3000);
    other.run(&["sentinel", "set", "endpos", "current"]).done();
    running.wait(seconds(60)).done();
    assert_tables_equal(&road.source, &target);
    other.run(&["archive", "verify"]).done();
}

/// Another one that waits for the slot goes on where the first has left the log.
#[test]
fn a_receiver_that_waits_is_told_to_run_again_and_then_goes_on() {
    let road = road();
    rows(&road, 1, 1000);
    let first = road.program.start(&RECEIVE);
    let target = another_target(TABLE);
    let other = elsewhere(&road, &target);
    let waiting = other.start(&["follow"]);
    let told = || ["is active for PID", "in use by another"].iter().any(|word| waiting.log().contains(word));
    wait_until(seconds(30), "the other waits for the slot", told);
    rows(&road, 1001, 2000);
    let end = road.source.current_lsn();
    wait_until(seconds(30), "the rows are confirmed", || is_confirmed(&road, &end));
    first.terminate(seconds(20)).done();
    let outcome = waiting.wait(seconds(60)).ends_with(1);
    assert!(outcome.stderr.contains("run the same command again"), "{}", outcome.stderr);
    other.run(&["follow", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &target);
}

#[test]
fn a_source_without_news_stops_fast_while_a_store_is_waited_for() {
    let road = road();
    let receiver = road.program.start(&["receive", "--segment-age", "600"]);
    wait_until(seconds(20), "the slot is in use", || {
        road.source.value("select active from pg_replication_slots") == "t"
    });
    road.source.query("create database other");
    road.source.stop_within(StopMode::Fast, seconds(10)).unwrap();
    receiver.kill();
}

#[test]
fn the_folder_of_a_store_is_not_taken_for_an_archive() {
    let road = road();
    rows(&road, 1, 10);
    road.program.run(&["receive", "--endpos", "current"]).done();
    let archive = road.program.archive().display().to_string();
    let bare = Pgsluice::between(&road.source, &road.target).env("PGSLUICE_ARCHIVE", &archive);
    let outcome = bare.run(&["archive", "list"]).ends_with(2);
    assert!(outcome.stderr.contains("--spool"), "{}", outcome.stderr);
}

/// What is uploaded beneath a mount is not in the store.
#[test]
fn a_store_that_has_lost_its_claims_confirms_nothing() {
    let road = road();
    rows(&road, 1, 100);
    let end = road.source.current_lsn();
    let receiver = road.program.start(&RECEIVE);
    wait_until(seconds(30), "the first rows are confirmed", || is_confirmed(&road, &end));
    let (archive, aside) = (road.program.archive(), road.program.folder().join("aside"));
    std::fs::rename(&archive, &aside).unwrap();
    rows(&road, 101, 200);
    let end = road.source.current_lsn();
    wait_until(seconds(60), "it is told", || receiver.log().contains("is it mounted"));
    assert!(!is_confirmed(&road, &end), "{}", receiver.log());
    let _ = std::fs::remove_dir_all(&archive);
    std::fs::rename(&aside, &archive).unwrap();
    wait_until(seconds(90), "it has gone on by itself", || is_confirmed(&road, &end));
    receiver.terminate(seconds(30)).done();
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn kill_9_with_a_store_loses_nothing_and_doubles_nothing() {
    let road = ledger::road_with(&STORE);
    let (load, _script) = ledger::load(&road.source, 400);
    let target = ledger::another_target();
    let elsewhere = elsewhere(&road, &target);
    let mut dice = Dice(7);
    for _ in 0..ledger::kills() {
        let applier = elsewhere.start(&["apply", "--spool-limit", "1"]);
        let running = road.program.start(&["follow", "--segment-age", "1", "--spool-limit", "1"]);
        std::thread::sleep(dice.milliseconds(300, 3000));
        running.kill();
        applier.kill();
        ledger::assert_holds(&road.target);
        ledger::assert_holds(&target);
    }
    load.kill();
    road.arrives();
    let endpos = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    elsewhere.run(&["apply", "--endpos", &endpos]).done();
    assert_tables_equal(&road.source, &target);
    elsewhere.run(&["archive", "verify"]).done();
}

#[test]
fn a_store_with_another_archive_or_without_the_spools_own_is_refused() {
    let (one, other) = (road(), road());
    let stranger = Cluster::prepare_source().fresh().start();
    let crossed = elsewhere(&one, &one.target).source(&stranger.conninfo());
    let outcome = crossed.run(&["setup"]).ends_with(4);
    assert!(outcome.stderr.contains("another source's"), "{}", outcome.stderr);
    let outcome = elsewhere(&one, &one.target)
        .env("PGSLUICE_SPOOL", &other.program.folder().join("spool").display().to_string())
        .run(&["archive", "list"])
        .ends_with(4);
    assert!(outcome.stderr.contains("--spool"), "{}", outcome.stderr);
    std::fs::remove_dir_all(one.program.archive()).unwrap();
    let outcome = one.program.run(&["archive", "list"]).ends_with(4);
    assert!(outcome.stderr.contains("there is none in"), "{}", outcome.stderr);
}

#[test]
fn cleanup_removes_what_the_store_has_when_asked() {
    let road = road();
    rows(&road, 1, 100);
    road.program.run(&["receive", "--endpos", "current"]).done();
    assert!(!files(&road.program.archive()).is_empty());
    road.program.run(&["cleanup"]).done();
    assert!(!files(&road.program.archive()).is_empty());
    road.program.run(&["cleanup", "--archive-too"]).done();
    assert_eq!(files(&road.program.archive()), [] as [PathBuf; 0]);
    assert!(!road.program.folder().join("spool").exists());
}

#[test]
fn an_s3_server_holds_an_archive() {
    let moto = Moto::with_bucket("bucket");
    let road = road_to(&moto.environment());
    for batch in 0..3 {
        rows(&road, batch * 20_000 + 1, (batch + 1) * 20_000);
        road.program.run(&["receive", "--endpos", "current", "--durable", "store"]).done();
    }
    // Longer than what goes in one piece, in one transaction.
    rows(&road, 200_001, 400_000);
    road.program.run(&["follow", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &road.target);

    let target = another_target(TABLE);
    let elsewhere = elsewhere_by(&moto.environment(), &road, &target);
    let status = road.program.status();
    let endpos = status["archive"]["last_lsn"].as_str().unwrap();
    assert_eq!(status["archive"]["stored_lsn"], endpos);
    elsewhere.run(&["apply", "--endpos", endpos]).done();
    assert_tables_equal(&road.source, &target);
    elsewhere.run(&["archive", "verify"]).done();
    std::fs::remove_dir_all(elsewhere.folder().join("spool/segments")).unwrap();
    std::fs::create_dir(elsewhere.folder().join("spool/segments")).unwrap();
    // By ranges of the objects.
    elsewhere.run(&["archive", "verify"]).done();
    let sealed = |program: &Pgsluice| {
        let list = program.run(&["archive", "list"]).done().stdout;
        list.lines().filter(|line| line.contains("sealed")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sealed(&elsewhere), sealed(&road.program));
    assert!(sealed(&elsewhere).len() > 2);
}

#[test]
fn a_store_that_is_away_fills_the_spool_up_to_its_limit_and_then_the_source_waits() {
    let bucket = Bucket::start();
    let road = road_to(&bucket.environment());
    road.source.query("alter system set wal_sender_timeout = '3s'");
    road.source.query("select pg_reload_conf()");
    let away = [Misdeed::Cut, Misdeed::Refuse(503, "SlowDown")];
    bucket.misdeeds("PUT", away.into_iter().cycle().take(100_000));
    let receiver = road.program.start(&["receive", "--segment-size", "1", "--spool-limit", "2"]);
    for batch in 0..8 {
        rows(&road, batch * 20_000 + 1, (batch + 1) * 20_000);
    }
    wait_until(seconds(60), "the spool is full", || receiver.log().contains("--spool-limit"));
    let walsender = "select pid from pg_stat_replication";
    let (pid, full) = (road.source.value(walsender), confirmed(&road));
    // For a long one: PGSLUICE_OUTAGE_SECONDS=600.
    let outage = std::env::var("PGSLUICE_OUTAGE_SECONDS").map_or(8, |text| text.parse().unwrap());
    std::thread::sleep(seconds(outage));
    assert_eq!((road.source.value(walsender), confirmed(&road)), (pid.clone(), full), "{}", receiver.log());
    let spool = sealed(&road.program.folder().join("spool"));
    let bytes: u64 = spool.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!((2 << 20..6 << 20).contains(&bytes), "{bytes} in {spool:?}");
    assert!(!bucket.has("segments"));

    bucket.clear_misdeeds("PUT");
    let end = road.source.current_lsn();
    wait_until(seconds(90), "it has gone on by itself", || is_confirmed(&road, &end));
    assert_eq!(road.source.value(walsender), pid);
    receiver.terminate(seconds(30)).done();
    road.arrives();
}

#[test]
fn a_store_that_answers_wrongly_is_asked_again() {
    let bucket = Bucket::start();
    let road = road_to(&bucket.environment());
    let target = another_target(TABLE);
    let elsewhere = elsewhere_by(&bucket.environment(), &road, &target);
    for batch in 0..4 {
        bucket.misdeeds(
            "PUT",
            [
                Misdeed::DoneThenCut,
                Misdeed::DoneBut(500, "InternalError"),
                Misdeed::Refuse(503, "SlowDown"),
                Misdeed::Cut,
                Misdeed::DoneBut(409, "OperationAborted"),
            ],
        );
        bucket.misdeeds("GET", [Misdeed::Cut, Misdeed::Refuse(500, "InternalError"), Misdeed::Shorten(10)]);
        bucket.misdeeds("HEAD", [Misdeed::Cut]);
        rows(&road, batch * 20_000 + 1, (batch + 1) * 20_000);
        road.program.run(&["receive", "--endpos", "current"]).done();
        let endpos = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
        bucket.misdeeds("GET", [Misdeed::Shorten(10), Misdeed::Refuse(503, "SlowDown"), Misdeed::Shorten(1)]);
        elsewhere.run(&["apply", "--endpos", &endpos]).done();
        assert_tables_equal(&road.source, &target);
    }
    elsewhere.run(&["archive", "verify"]).done();
}

#[test]
fn a_store_that_overwrites_is_refused_unless_that_is_wanted() {
    let bucket = Bucket::start();
    bucket.ignore_conditions();
    let (source, target) = (Cluster::source(), Cluster::target());
    let program = Pgsluice::between(&source, &target).env("PGSLUICE_ARCHIVE", "s3://bucket/p");
    let program =
        bucket.environment().iter().fold(program, |program, (name, value)| program.env(name, value));
    let outcome = program.run(&["setup"]).ends_with(1);
    assert!(outcome.stderr.contains("--single-writer"), "{}", outcome.stderr);
    assert_eq!(source.value("select count(*) from pg_replication_slots"), "0");
    program.run(&["setup", "--single-writer"]).done();
}

#[test]
fn a_segment_that_the_store_has_changed_is_not_applied() {
    let road = road();
    rows(&road, 1, 20_000);
    road.program.run(&["receive", "--endpos", "current"]).done();
    let stored = sealed(&road.program.archive());
    let mut bytes = std::fs::read(&stored[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&stored[0], bytes).unwrap();
    let target = another_target(TABLE);
    let elsewhere = elsewhere(&road, &target);
    let endpos = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    let outcome = elsewhere.run(&["apply", "--endpos", &endpos]).ends_with(4);
    assert!(outcome.stderr.contains("damaged at offset"), "{}", outcome.stderr);
    assert_eq!(target.value("select count(*) from t"), "0");
    elsewhere.run(&["archive", "verify"]).ends_with(3);
}

/// From a folder to a store and from there to another folder, where a receiver goes on; each copy is killed a few times.
#[test]
fn an_archive_moves_to_another_place_and_goes_on_there() {
    let road = Road::new(TABLE);
    for batch in 0..6 {
        rows(&road, batch * 20_000 + 1, (batch + 1) * 20_000);
        road.program.run(&["receive", "--endpos", "current"]).done();
    }
    let folder = road.program.folder().to_owned();
    let path = |name: &str| folder.join(name).display().to_string();
    let mut dice = Dice(3);
    let mut copy = |program: &Pgsluice, arguments: &[&str]| {
        for _ in 0..ledger::kills() {
            let copying = program.start(&[&["archive", "copy"], arguments].concat());
            std::thread::sleep(dice.milliseconds(5, 60));
            copying.kill();
        }
        program.run(&[&["archive", "copy", "--json"], arguments].concat()).done().json()
    };
    let there = copy(&road.program, &[&path("store"), "--to-spool", &path("other-spool")]);
    assert_eq!(there["verified"]["transactions"], 6);
    let stored = Pgsluice::between(&road.source, &road.target)
        .env("PGSLUICE_ARCHIVE", &path("store"))
        .env("PGSLUICE_SPOOL", &path("other-spool"));
    let here = copy(&stored, &[&path("second")]);
    assert_eq!(here["verified"]["chain"], there["verified"]["chain"]);
    // Nothing new.
    let again = stored.run(&["archive", "copy", "--json", &path("second")]).done().json();
    assert_eq!(again["copied"]["segments"], 0);

    let second = Pgsluice::between(&road.source, &road.target).env("PGSLUICE_ARCHIVE", &path("second"));
    rows(&road, 200_001, 200_100);
    second.run(&["follow", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &road.target);
    second.run(&["archive", "verify"]).done();
    // What has gone on is a copy no more, in neither direction.
    stored.run(&["archive", "copy", &path("second")]).ends_with(4);
    road.program.run(&["archive", "copy", &path("archive")]).ends_with(2);
}

/// Two appliers with a target and a spool each, of which one is killed again and again; a third one comes when all is over, and has
/// nothing but the store.
#[test]
fn targets_that_are_fed_from_one_store_end_equal_though_an_applier_is_killed() {
    let road = road();
    let targets = [another_target(TABLE), another_target(TABLE)];
    let [steady, killed] = targets.each_ref().map(|target| elsewhere(&road, target));
    let receiver = road.program.start(&RECEIVE);
    let running = steady.start(&["apply"]);
    let mut dice = Dice(11);
    for kill in 0..ledger::kills() {
        let first = kill as u32 * 500;
        rows(&road, first + 1, first + 500);
        road.change("update t set v = v || 'x' where id % 5 = 0; delete from t where id % 7 = 0;");
        let applier = killed.start(&["apply"]);
        std::thread::sleep(dice.milliseconds(50, 2500));
        applier.kill();
    }
    // What it seals at its end it brings into the store.
    receiver.terminate(seconds(60)).done();
    let status = road.program.status();
    // The road's own target is registered by its set-up.
    assert_eq!(status["appliers"].as_array().unwrap().len(), 3, "{status}");
    let endpos = status["archive"]["last_lsn"].as_str().unwrap().to_owned();
    running.terminate(seconds(60)).done();
    let third = another_target(TABLE);
    let late = elsewhere(&road, &third);
    for (program, target) in [(&steady, &targets[0]), (&killed, &targets[1]), (&late, &third)] {
        program.run(&["apply", "--endpos", &endpos]).done();
        assert_tables_equal(&road.source, target);
    }
}
