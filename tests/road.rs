//! The whole road on real servers: what goes in comes out once, whatever happens on the way.

use std::time::{Duration, Instant};

use crate::support::ledger::{self, Dice};
use crate::support::{Road, Signal, StopMode, assert_tables_equal, lsn, seconds, wait_until};

#[test]
fn what_pgbench_writes_arrives() {
    let road = Road::pgbench();
    let running = road.follow();
    road.source.pgbench(&["-n", "-c", "4", "-t", "500"]);
    road.finish(running);
    assert_eq!(road.target.value("select count(*) from pgbench_history"), "2000");
    let status = road.program.status();
    assert_eq!(status["archive"]["transactions"], 2000);
    assert_eq!(status["archive"]["changes"], 8000);
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn a_backlog_arrives() {
    let road = Road::pgbench();
    road.source.pgbench(&["-n", "-c", "4", "-t", "1000"]);
    road.arrives();
    // Running it again finds nothing to do, and changes nothing.
    road.arrives();
}

#[test]
fn kill_9_loses_nothing_and_doubles_nothing() {
    let road = ledger::road();
    let (load, _script) = ledger::load(&road.source, 400);
    let mut dice = Dice(1);
    for _ in 0..ledger::kills() {
        let running = road.program.start(&["follow"]);
        std::thread::sleep(dice.milliseconds(50, 900));
        running.kill();
        ledger::assert_holds(&road.target);
    }
    load.kill();
    road.arrives();
    ledger::assert_holds(&road.target);
    road.program.run(&["archive", "verify"]).done();
    assert_ne!(road.target.value("select count(*) from ledger"), "0");
}

/// Segments are sealed each second and pressed right after it, and the receiver is killed in the middle of that; an applier in
/// another process reads on all the time.
#[test]
fn kill_9_while_segments_are_pressed_loses_nothing_and_doubles_nothing() {
    let road = ledger::road();
    let (load, _script) = ledger::load(&road.source, 400);
    let segments = road.program.archive().join("segments");
    let under_way = || {
        let entries = std::fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().file_name());
        entries.into_iter().any(|name| name.to_string_lossy().ends_with(".new"))
    };
    let mut receiver = road.program.start(&["receive", "--segment-age", "1"]);
    let applier = road.program.start(&["apply"]);
    let mut in_the_middle = 0;
    let mut kills = 0;
    // A press is short: some kills come after it.
    while kills < ledger::kills() || (in_the_middle == 0 && kills < 10 * ledger::kills()) {
        kills += 1;
        let started = Instant::now();
        // What the last one left is swept away; then the next second's segment comes.
        while started.elapsed() < seconds(1) || !under_way() {
            assert!(started.elapsed() < seconds(30), "no segment is pressed: {}", receiver.log());
            std::thread::sleep(Duration::from_micros(200));
        }
        receiver.kill();
        in_the_middle += u64::from(under_way());
        receiver = road.program.start(&["receive", "--segment-age", "1"]);
        ledger::assert_holds(&road.target);
    }
    assert!(in_the_middle > 0, "every press was over before the kill");
    load.kill();
    road.wait_for("select count(*) from ledger");
    applier.terminate(seconds(10)).done();
    receiver.terminate(seconds(10)).done();
    assert!(!under_way());
    assert_tables_equal(&road.source, &road.target);
    road.program.run(&["archive", "verify"]).done();
    let list = road.program.run(&["archive", "list", "--json"]).done().stdout;
    let list: Vec<serde_json::Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(list.len() as u64 >= ledger::kills(), "{list:?}");
    for segment in list {
        let name = segment["name"].as_str().unwrap();
        let shown = road.program.run(&["archive", "show", "--json", name]).done().json();
        let frames = shown["frames"].as_array().unwrap().iter();
        let lengths: Vec<_> = frames.map(|frame| frame["raw_bytes"].as_u64().unwrap()).collect();
        let one_of_two_is_long = |pair: &[u64]| pair.iter().any(|length| *length >= 256 << 10);
        assert!(lengths.windows(2).all(one_of_two_is_long), "{name}: {lengths:?}");
    }
}

/// Killed between making the file and writing its first bytes.
#[test]
fn a_segment_that_was_left_without_its_header_is_made_anew() {
    let road = Road::new("create table t(id int primary key)");
    road.change("insert into t values (1)");
    road.arrives();
    let segments = road.program.archive().join("segments");
    let entries = std::fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().file_name());
    let sealed = entries.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".seg"));
    let last = sealed.max().unwrap();
    let through = last.strip_suffix(".seg").unwrap().split_once('-').unwrap().1;
    std::fs::write(segments.join(format!("{through}.open")), "").unwrap();
    road.change("insert into t values (2)");
    road.arrives();
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn terminated_target_backends_lose_nothing_and_double_nothing() {
    let road = ledger::road();
    let (load, _script) = ledger::load(&road.source, 400);
    let mut running = road.follow();
    let mut dice = Dice(2);
    let control = road.target.session();
    let mut terminated = 0;
    let started = Instant::now();
    while terminated < ledger::kills() {
        std::thread::sleep(dice.milliseconds(20, 700));
        let rows = control.query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where backend_type = 'client backend' and pid <> pg_backend_pid()",
        );
        terminated += u64::from(!rows.is_empty());
        ledger::assert_holds(&road.target);
        assert!(running.is_running(), "{}", running.log());
        assert!(started.elapsed() < seconds(30 + 10 * ledger::kills()), "the applier does not come back");
    }
    load.kill();
    road.finish(running);
    ledger::assert_holds(&road.target);
}

#[test]
fn target_crashes_and_stops_are_survived() {
    let road = ledger::road();
    let (load, _script) = ledger::load(&road.source, 200);
    let running = road.follow();
    for mode in [StopMode::Immediate, StopMode::Fast, StopMode::Immediate] {
        std::thread::sleep(Duration::from_millis(700));
        road.target.restart(mode);
        ledger::assert_holds(&road.target);
    }
    load.kill();
    road.finish(running);
    ledger::assert_holds(&road.target);
}

#[test]
fn source_crashes_are_survived() {
    let road = ledger::road();
    let running = road.follow();
    for round in 0..3 {
        let (load, _script) = ledger::load(&road.source, 300);
        std::thread::sleep(Duration::from_millis(700));
        if round == 1 {
            road.source.kill();
            road.source.start();
        } else {
            road.source.restart(StopMode::Immediate);
        }
        load.kill();
    }
    road.finish(running);
    ledger::assert_holds(&road.target);
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn sigterm_and_sigint_end_with_0_and_the_next_run_resumes() {
    let road = ledger::road();
    let (load, _script) = ledger::load(&road.source, 300);
    for signal in [Signal::TERM, Signal::INT] {
        let running = road.follow();
        std::thread::sleep(Duration::from_millis(700));
        running.signal(signal);
        running.wait(seconds(10)).done();
        ledger::assert_holds(&road.target);
    }
    load.kill();
    road.arrives();
}

#[test]
fn a_clean_stop_acknowledges_what_is_durable() {
    let road = Road::new("create table t(id int primary key)");
    let running = road.follow();
    road.change("insert into t select generate_series(1, 1000)");
    let end = road.source.current_lsn();
    road.wait_for("select count(*) from t");
    running.terminate(seconds(10)).done();
    let confirmed = road.source.value("select confirmed_flush_lsn from pg_replication_slots");
    assert!(lsn(&confirmed) >= lsn(&end), "confirmed {confirmed}, written {end}");
}

#[test]
fn a_source_stops_fast_while_a_receiver_is_attached() {
    let road = Road::new("create table t(id int primary key)");
    let mut running = road.follow();
    for round in 0..3 {
        // Something is in the open segment, and something was just sent.
        road.change(&format!("insert into t select {round} * 100 + i from generate_series(1, 50) i"));
        let started = Instant::now();
        road.source.stop_within(StopMode::Fast, seconds(10)).unwrap();
        assert!(started.elapsed() < seconds(10));
        road.source.start();
        assert!(running.is_running(), "{}", running.log());
        road.wait_for("select count(*) from t");
    }
    road.finish(running);
}

#[test]
fn endpos_current_ends_on_an_idle_source() {
    let road = Road::new("create table t(id int primary key)");
    let program = road.program.limit(seconds(20));
    program.follow_to_current();
    program.follow_to_current();
    program.run(&["receive", "--endpos", "current"]).done();
    program.run(&["apply", "--endpos", "current"]).done();
}

#[test]
fn traffic_in_another_database_releases_wal() {
    let road = Road::new("create table t(id int primary key)");
    road.source.query("create database other");
    let other = road.source.session_of("other");
    let _running = road.follow();
    other.query("create table noise(note text)");
    for _ in 0..8 {
        other.query("insert into noise select repeat(md5(i::text), 30) from generate_series(1, 8000) i");
    }
    let end = lsn(&road.source.current_lsn());
    wait_until(seconds(60), "the slot follows traffic elsewhere", || {
        // restart_lsn moves with records of running transactions, which a checkpoint writes.
        road.source.query("checkpoint");
        std::thread::sleep(Duration::from_millis(500));
        let slot = &road.source.query("select confirmed_flush_lsn, restart_lsn from pg_replication_slots")[0];
        slot.iter().all(|value| lsn(value.as_ref().unwrap()) >= end)
    });
}

#[test]
fn prefetch_takes_wal_off_the_source_and_leaves_the_target_alone() {
    let road = Road::pgbench();
    road.program.run(&["sentinel", "set", "prefetch"]).done();
    assert_eq!(road.program.sentinel()["apply"], false);
    let running = road.follow();
    road.source.pgbench(&["-n", "-c", "4", "-t", "500"]);
    let end = lsn(&road.source.current_lsn());
    wait_until(seconds(30), "the slot is confirmed to the end", || {
        let confirmed = road.source.value("select confirmed_flush_lsn from pg_replication_slots");
        lsn(&confirmed) >= end
    });
    assert_eq!(road.target.value("select count(*) from pgbench_history"), "0");
    assert_eq!(road.program.status()["mode"], "prefetch");

    // Switched on from outside, while it runs.
    road.program.run(&["sentinel", "set", "apply"]).done();
    road.wait_for("select count(*) from pgbench_history");
    road.finish(running);
}

#[test]
fn receive_and_apply_work_apart() {
    let road = Road::pgbench();
    road.source.pgbench(&["-n", "-c", "2", "-t", "200"]);
    road.program.run(&["receive", "--endpos", "current"]).done();
    assert_eq!(road.target.value("select count(*) from pgbench_history"), "0");
    // The applier needs nothing from the source.
    road.source.stop(StopMode::Fast);
    let end = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    road.program.run(&["apply", "--endpos", &end]).done();
    road.source.start();
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn apply_follows_a_receiver_in_another_process() {
    let road = Road::pgbench();
    let receiver = road.program.start(&["receive"]);
    let applier = road.program.start(&["apply"]);
    for _ in 0..3 {
        road.source.pgbench(&["-n", "-c", "2", "-t", "100"]);
        road.wait_for("select count(*) from pgbench_history");
    }
    applier.terminate(seconds(10)).done();
    receiver.terminate(seconds(10)).done();
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn without_its_catalog_the_archive_is_the_same() {
    let road = Road::pgbench();
    road.source.pgbench(&["-n", "-c", "2", "-t", "200"]);
    road.arrives();
    let before = road.program.run(&["archive", "list", "--json"]).done().stdout;
    std::fs::remove_dir_all(road.program.archive().join("catalog")).unwrap();
    assert_eq!(road.program.run(&["archive", "list", "--json"]).done().stdout, before);
    road.source.pgbench(&["-n", "-c", "2", "-t", "200"]);
    road.arrives();
    road.program.run(&["archive", "reindex"]).done();
    road.program.run(&["archive", "verify"]).done();
}

/// One transaction of about 240 MB of messages; held as a whole it would not fit under the limit.
#[test]
fn a_transaction_larger_than_memory_streams_through() {
    let road = Road::new("create table large(id bigint primary key, note text)");
    let running = road.follow();
    road.change("insert into large select i, repeat('0123456789', 60) from generate_series(1, 400000) i");
    road.wait_for("select count(*) from large");
    let resident = running.resident_bytes_max();
    assert!(resident < 256 << 20, "resident memory went up to {resident} bytes");
    // Nor does the source keep it on its disk.
    let statistics = "select spill_txns, spill_bytes, stream_txns from pg_stat_replication_slots";
    assert_eq!(road.source.query(statistics), [["0", "0", "1"].map(|text| Some(text.to_owned()))]);
    road.finish(running);
}

#[test]
fn cleanup_leaves_nothing_behind() {
    let road = Road::new("create table t(id int primary key); create table keyless(id int)");
    assert_eq!(road.source.value("select relreplident from pg_class where relname = 'keyless'"), "f");
    road.change("insert into t values (1)");
    road.arrives();
    road.program.run(&["cleanup"]).done();
    let left = "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)
                     + (select count(*) from pg_replication_origin)
                     + (select count(*) from pg_namespace where nspname = 'pgsluice')";
    assert_eq!(road.source.value(left), "0");
    assert_eq!(road.target.value(left), "0");
    assert_eq!(road.source.value("select relreplident from pg_class where relname = 'keyless'"), "d");
    assert!(road.program.archive().join("manifest.json").exists());
}
