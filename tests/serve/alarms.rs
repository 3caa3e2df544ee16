//! Each alarm by its real cause, and gone with its cure.

use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Served;
use crate::support::http::{Request, answer};

use crate::support::{
    Cluster, Moto, Pgsluice, Proxy, Road, StopMode, WrongClock, is_root, seconds, wait_until,
};

/// A road whose alarms come soon.
const SOON: &[&str] = &["follow", "--alarm-patience", "2", "--alarm-transaction-age", "1"];

impl Served {
    fn alarms(&self) -> Vec<Value> {
        self.get("/status")["alarms"].as_array().cloned().unwrap_or_default()
    }

    #[track_caller]
    fn raises(&self, alarm: &str) -> Value {
        self.raises_within(60, alarm)
    }

    #[track_caller]
    fn raises_within(&self, limit_seconds: u64, alarm: &str) -> Value {
        let mut found = None;
        wait_until(seconds(limit_seconds), alarm, || {
            found = self.alarms().into_iter().find(|open| open["alarm"] == alarm);
            found.is_some()
        });
        found.unwrap()
    }

    #[track_caller]
    fn is_over(&self, alarm: &str) {
        wait_until(seconds(90), &format!("{alarm} is over"), || {
            self.alarms().iter().all(|open| open["alarm"] != alarm)
        });
    }

    /// The one of this subject is.
    #[track_caller]
    fn is_over_of(&self, alarm: &str, subject: &str) {
        wait_until(seconds(60), &format!("{alarm} of {subject} is over"), || {
            self.alarms().iter().all(|open| open["alarm"] != alarm || open["subject"] != subject)
        });
    }
}

fn text<'a>(alarm: &'a Value, field: &str) -> &'a str {
    alarm[field].as_str().unwrap()
}

#[test]
fn a_transaction_that_holds_the_slot_is_told_with_its_statement_and_its_cure() {
    let road = Road::new("create table t(id int primary key, v text)");
    let told = road.program.folder().join("told");
    let command = format!(
        "cat >> {0}; echo >> {0}; echo \"$PGSLUICE_ALARM $PGSLUICE_ALARM_STATE $PGSLUICE_SOURCE.\" >> {0}.env",
        told.display()
    );
    let served = Served::start(&road, &[SOON, &["--alarm-exec", &command]].concat());
    let forgotten = road.source.session();
    forgotten.query("begin; insert into t values (7, 'sec' || 'ret')");
    let alarm = served.raises("slot_held");
    assert_eq!(text(&alarm, "level"), "warning");
    assert!(
        text(&alarm, "message").contains("INSERT INTO t VALUES (?, ? || ?)")
            || text(&alarm, "message").contains("insert into t values (?, ? || ?)"),
        "{alarm}"
    );
    assert!(!alarm.to_string().contains("ret'"), "{alarm}");
    // What the alarm says is what helps.
    let cure = text(&alarm, "cure").split(" -- ").next().unwrap();
    road.source.session().query(cure);
    served.is_over("slot_held");
    let lines = || std::fs::read_to_string(&told).unwrap_or_default();
    wait_until(seconds(20), "the command was told of both", || lines().lines().count() == 2);
    let states: Vec<String> = lines()
        .lines()
        .map(|line| {
            let message: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&message["alarm"], &message["pipeline"]), (&"slot_held".into(), &"pgsluice".into()));
            text(&message, "state").to_owned()
        })
        .collect();
    assert_eq!(states, ["raised", "over"]);
    // Nothing of ours is in its environment.
    let environment = std::fs::read_to_string(told.with_extension("env")).unwrap();
    assert_eq!(environment, "slot_held raised .\nslot_held over .\n");
    road.finish(served.running);
}

#[test]
fn a_prepared_transaction_holds_the_slot_too() {
    let source = Cluster::prepare_source().set("max_prepared_transactions", "5").start();
    let road = Road::between(
        source,
        Cluster::target(),
        "create table t(id int primary key)",
        "create table t(id int primary key)",
    );
    let served = Served::start(&road, SOON);
    road.source.run_script("begin; insert into t values (1); prepare transaction 'forgotten'");
    let alarm = served.raises("slot_held");
    assert!(
        text(&alarm, "cure").contains("COMMIT PREPARED 'forgotten'; or ROLLBACK PREPARED 'forgotten';"),
        "{alarm}"
    );
    road.source.run_script("rollback prepared 'forgotten'");
    served.is_over("slot_held");
    road.finish(served.running);
}

/// Bodies of POST requests.
fn webhook() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut refused = false;
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            while let Some(request) = Request::read(&mut reader) {
                // The first one is refused: it comes again.
                let code = if std::mem::replace(&mut refused, true) { 200 } else { 503 };
                if code == 200 {
                    let _ = sender.send(serde_json::from_slice(&request.body).unwrap());
                }
                reader.get_mut().write_all(&answer(code, &[], b"", 0)).unwrap();
            }
        }
    });
    (format!("http://{address}/hook?key=verySecretKey"), receiver)
}

#[test]
fn servers_that_are_away_are_told_to_a_webhook_and_come_back() {
    let road = Road::new("create table t(id int primary key)");
    let (url, told) = webhook();
    let served = Served::start(&road, &[SOON, &["--alarm-url", &url]].concat());
    served.seen();
    road.target.stop(StopMode::Fast);
    let alarm = served.raises("target_away");
    assert!(text(&alarm, "cure").contains("everything goes on by itself"), "{alarm}");
    road.target.start();
    served.is_over("target_away");
    let states = || {
        told.recv_timeout(seconds(30))
            .map(|message| (text(&message, "alarm").to_owned(), text(&message, "state").to_owned()))
    };
    assert_eq!(states(), Ok(("target_away".into(), "raised".into())));
    assert_eq!(states(), Ok(("target_away".into(), "over".into())));
    road.source.stop(StopMode::Fast);
    assert_eq!(text(&served.raises("source_away"), "level"), "critical");
    road.source.start();
    served.is_over("source_away");
    assert!(!served.running.log().contains("verySecretKey"));
    road.finish(served.running);
}

#[test]
fn a_lock_on_the_target_is_told_with_who_has_it() {
    let road = Road::new("create table t(id int primary key)");
    let served = Served::start(&road, SOON);
    let blocker = road.target.session();
    blocker.query("begin; lock table t in access exclusive mode");
    road.change("insert into t values (1)");
    let alarm = served.raises("apply_blocked");
    assert!(text(&alarm, "message").contains("lock table t"), "{alarm}");
    assert_eq!(text(&served.raises("apply_stuck"), "level"), "warning");
    let cure = text(&alarm, "cure").split(" -- ").next().unwrap();
    road.target.session().query(cure);
    served.is_over("apply_blocked");
    served.is_over("apply_stuck");
    road.finish(served.running);
}

/// Each row of the history takes so many seconds, until trigger `slow` is disabled.
fn slow_down(road: &Road, seconds: &str) {
    road.target.run_script(&format!(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep({seconds}); return new; end $$;
         create trigger slow before insert on pgbench_history for each row execute function slow();
         alter table pgbench_history enable always trigger slow"
    ));
}

#[test]
fn a_target_that_falls_ever_further_behind_is_told() {
    let road = Road::pgbench();
    // Each row takes its time.
    slow_down(&road, "0.02");
    let served = Served::start(&road, SOON);
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "600", "-R", "200"]);
    let alarm = served.raises("lag_growing");
    assert!(text(&alarm, "message").contains("more each second"), "{alarm}");
    drop(load);
    road.target.run_script("alter table pgbench_history disable trigger slow");
    served.is_over("lag_growing");
    road.finish(served.running);
}

#[test]
fn a_target_that_sets_the_pace_is_told() {
    let road = Road::pgbench();
    // Less than what is written meanwhile, and no more: the batches come one after the other, each as large as it may be.
    slow_down(&road, "0.002");
    let served = Served::start(&road, &[SOON, &["--apply", "exact"]].concat());
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "600", "-R", "1000"]);
    let alarm = served.raises("batches_full");
    assert_eq!(text(&alarm, "level"), "notice");
    assert!(text(&alarm, "message").contains("the target sets the pace"), "{alarm}");
    drop(load);
    road.target.run_script("alter table pgbench_history disable trigger slow");
    served.is_over("batches_full");
    road.finish(served.running);
}

#[test]
fn a_target_that_keeps_up_sets_no_pace() {
    let road = Road::pgbench();
    let served = Served::start(&road, &[SOON, &["--apply", "exact"]].concat());
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "600", "-R", "300"]);
    std::thread::sleep(seconds(25));
    assert!(served.alarms().is_empty(), "{:?}", served.alarms());
    drop(load);
    road.finish(served.running);
}

#[test]
fn clocks_that_are_wrong_are_told() {
    let Some(clock) = WrongClock::find() else { return };
    let road = Road::new("create table t(id int primary key)");
    for (cluster, offset) in [(&road.source, "+30s"), (&road.target, "-20s")] {
        cluster.stop(StopMode::Fast);
        cluster.start_with_clock(&clock, offset);
    }
    let served = Served::start(&road, SOON);
    let told = || {
        let alarms = served.alarms().into_iter().filter(|open| open["alarm"] == "clock_skew");
        let mut told: Vec<_> = alarms.map(|alarm| text(&alarm, "message").to_owned()).collect();
        told.sort();
        told
    };
    wait_until(seconds(60), "both clocks are told", || told().len() == 2);
    assert_eq!(
        told(),
        [
            "the source's clock is 30 s ahead of this machine's",
            "the target's clock is 20 s behind this machine's"
        ]
    );
    road.change("insert into t values (1)");
    road.wait_for("select count(*) from t");
    // Right from now on, by which the source's goes back.
    road.source.restart(StopMode::Fast);
    served.is_over_of("clock_skew", "source");
    assert_eq!(told().len(), 1);
    road.target.restart(StopMode::Fast);
    served.is_over("clock_skew");
    road.change("insert into t values (2)");
    road.wait_for("select count(*) from t");
    road.finish(served.running);
}

#[test]
fn an_archive_whose_folder_is_away_is_told_and_waited_for() {
    let road = Road::new("create table t(id int primary key)");
    let served = Served::start(&road, &[SOON, &["--segment-age", "1"]].concat());
    road.change("insert into t values (1)");
    road.wait_for("select count(*) from t");
    served.seen();
    let (archive, elsewhere) = (road.program.archive(), road.program.folder().join("elsewhere"));
    std::fs::rename(&archive, &elsewhere).unwrap();
    let alarm = served.raises("archive_away");
    assert_eq!(text(&alarm, "level"), "critical");
    // What its segments were to be called can't be said there.
    (2..8).for_each(|id| {
        road.change(&format!("insert into t values ({id})"));
        std::thread::sleep(Duration::from_millis(700));
    });
    wait_until(seconds(20), "it waits", || served.running.log().contains("the archive's folder is away"));
    std::thread::sleep(seconds(3));
    assert!(!archive.exists(), "it was made anew");
    std::fs::rename(&elsewhere, &archive).unwrap();
    served.is_over("archive_away");
    road.wait_for("select count(*) from t");
    road.change("insert into t values (8)");
    road.finish(served.running);
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn an_archive_whose_store_is_away_is_told_by_who_reads_it() {
    let moto = Moto::with_bucket("bucket");
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.run_script("create table t(id int primary key)");
    }
    let program = with_store(&moto, Pgsluice::between(&source, &target));
    let road = Road { source, target, program };
    road.program.run(&["setup"]).done();
    let receive = road.program.start(&["receive", "--segment-age", "1"]);
    let spool = road.program.folder().join("another").display().to_string();
    let patience = ["apply", "--alarm-patience", "2", "--spool", &spool];
    let served = Served::start(&road, &patience);
    road.change("insert into t values (1)");
    road.wait_for("select count(*) from t");
    served.seen();
    moto.running().signal(Signal::STOP);
    road.change("insert into t values (2)");
    // Beside them somebody asks, who can't look into the archive either, and claims nothing.
    let asked = [["status", "--json"].as_slice(), &["status"]].map(|words| road.program.start(words));
    // Each call to a store has half a minute.
    let alarm = served.raises_within(180, "archive_away");
    assert_eq!(text(&alarm, "level"), "critical");
    assert_eq!(road.target.value("select count(*) from t"), "1");
    let [status, said] = asked.map(|asked| asked.wait(seconds(180)).done());
    let (status, said) = (status.json(), said.stdout);
    assert_eq!((&status["mode"], &status["archive"]), (&"unknown".into(), &Value::Null));
    assert!(text(&status["unreachable"], "archive").contains("s3://bucket/shop"), "{status}");
    assert!(status["source"]["active_pid"].is_i64(), "{status}");
    assert!(said.contains("unknown: somebody receives from the slot"), "{said}");
    moto.running().signal(Signal::CONT);
    served.is_over("archive_away");
    road.wait_for("select count(*) from t");
    assert_ne!(road.program.status()["mode"], "unknown");
    served.running.terminate(seconds(60)).done();
    receive.terminate(seconds(60)).done();
}

#[test]
fn a_table_without_a_key_is_told() {
    let road = Road::new("create table t(id int primary key)");
    let served = Served::start(&road, SOON);
    road.change("alter table t replica identity nothing");
    let alarm = served.raises("table_without_key");
    assert_eq!(text(&alarm, "subject"), "public.t");
    let cure = text(&alarm, "cure").split(" -- ").next().unwrap().to_owned();
    road.change(&cure);
    served.is_over("table_without_key");
    road.finish(served.running);
}

#[test]
fn wal_that_is_kept_without_a_limit_is_told() {
    let road = Road::new("create table t(id int primary key)");
    let served = Served::start(&road, &[SOON, &["--alarm-wal", "48MiB"]].concat());
    served.seen();
    let forgotten = road.source.session();
    forgotten.query("begin; insert into t values (1)");
    switch_wal(&road, 1);
    std::thread::sleep(seconds(5));
    assert!(served.alarms().iter().all(|open| open["alarm"] != "wal_retained"), "{:?}", served.alarms());
    switch_wal(&road, 3);
    let alarm = served.raises("wal_retained");
    assert_eq!((text(&alarm, "level"), text(&alarm, "subject")), ("warning", "pgsluice"));
    assert!(text(&alarm, "message").ends_with("for slot \"pgsluice\", without a limit"), "{alarm}");
    assert!(served.seen()["source"]["retained_wal_bytes"].as_u64().unwrap() > 48 << 20);
    forgotten.query("commit");
    until_the_slot_moves(&road, &served, "wal_retained");
    road.finish(served.running);
}

/// Ends the source's segment of WAL again and again: 16 MiB each time.
fn switch_wal(road: &Road, times: usize) {
    (0..times).for_each(|_| {
        drop(road.source.query("select pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()"))
    });
}

/// The slot moves on with the source's next note of its running transactions.
#[track_caller]
fn until_the_slot_moves(road: &Road, served: &Served, alarm: &str) {
    wait_until(seconds(60), &format!("{alarm} is over"), || {
        road.source.run_script("checkpoint; insert into t select max(id) + 1 from t");
        std::thread::sleep(Duration::from_millis(500));
        served.alarms().iter().all(|open| open["alarm"] != alarm)
    });
}

#[test]
fn a_slot_near_its_limit_is_told_before_it_is_lost_and_after() {
    let source = Cluster::prepare_source()
        .set("max_slot_wal_keep_size", "160MB")
        .set("max_wal_size", "64MB")
        .set("min_wal_size", "32MB")
        .start();
    let schema = "create table t(id int primary key)";
    let road = Road::between(source, Cluster::target(), schema, schema);
    let served = Served::start(&road, SOON);
    let forgotten = road.source.session();
    forgotten.query("begin; insert into t values (1)");
    let mut told = None;
    wait_until(seconds(60), "slot_near_limit", || {
        switch_wal(&road, 1);
        std::thread::sleep(Duration::from_millis(2200));
        told = served.alarms().into_iter().find(|open| open["alarm"] == "slot_near_limit");
        told.is_some()
    });
    assert!(text(told.as_ref().unwrap(), "message").contains("is lost after"), "{told:?}");
    forgotten.query("commit");
    until_the_slot_moves(&road, &served, "slot_near_limit");
    road.finish(served.running);
    // Nobody receives, and the source is not asked to wait: the slot goes.
    switch_wal(&road, 14);
    road.source.run_script("checkpoint");
    let status = road.program.status();
    let alarm =
        status["alarms"].as_array().unwrap().iter().find(|open| open["alarm"] == "slot_lost").cloned();
    let alarm = alarm.unwrap_or_else(|| panic!("{status}"));
    assert_eq!((text(&alarm, "level"), text(&alarm, "subject")), ("critical", "pgsluice"));
}

/// With the archive in the bucket, and a spool in the program's own folder.
fn with_store(moto: &Moto, program: Pgsluice) -> Pgsluice {
    let spool = program.folder().join("spool").display().to_string();
    let program = program.env("PGSLUICE_ARCHIVE", "s3://bucket/shop").env("PGSLUICE_SPOOL", &spool);
    moto.environment().iter().fold(program, |program, (name, value)| program.env(name, value))
}

#[test]
fn a_store_that_is_away_is_told_and_the_spool_goes_on() {
    let moto = Moto::with_bucket("bucket");
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.run_script("create table t(id int primary key)");
    }
    let program = with_store(&moto, Pgsluice::between(&source, &target));
    let road = Road { source, target, program };
    let served = Served::start(&road, &[SOON, &["--segment-age", "1"]].concat());
    road.change("insert into t values (1)");
    served.seen();
    moto.running().signal(Signal::STOP);
    road.change("insert into t values (2)");
    std::thread::sleep(seconds(2));
    road.change("insert into t values (3)");
    let alarm = served.raises("store_behind");
    assert!(text(&alarm, "message").contains("not brought into the archive's store"), "{alarm}");
    road.wait_for("select count(*) from t");
    moto.running().signal(Signal::CONT);
    served.is_over("store_behind");
    served.running.terminate(seconds(60)).done();
}

/// A small disk for the archive; none where mounting is not permitted.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).unwrap();
        let mut command = std::process::Command::new("mount");
        let mounted = is_root()
            && command
                .args(["-t", "tmpfs", "-o", "size=400m", "none"])
                .arg(at)
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: mounting a tmpfs is not permitted here");
        }
        mounted.then(|| SmallDisk(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_fills_is_told() {
    let schema = "create table t(id int primary key)";
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.run_script(schema);
    }
    let program = Pgsluice::between(&source, &target);
    let Some(disk) = SmallDisk::mount(&program.archive()) else { return };
    let road = Road { source, target, program };
    let served = Served::start(&road, SOON);
    road.change("insert into t values (1)");
    served.seen();
    assert!(served.alarms().is_empty(), "{:?}", served.alarms());
    let filler = disk.0.join("filler");
    let leave = |bytes: u64| {
        let _ = std::fs::remove_file(&filler);
        let disk = rustix::fs::statvfs(&disk.0).unwrap();
        let fill = (disk.f_bavail * disk.f_frsize).saturating_sub(bytes);
        std::fs::write(&filler, vec![1; usize::try_from(fill).unwrap()]).unwrap();
    };
    leave(30 << 20);
    let alarm = served.raises("spool_filling");
    assert_eq!(text(&alarm, "level"), "warning");
    leave(4 << 20);
    wait_until(seconds(30), "critical", || served.raises("spool_filling")["level"] == "critical");
    std::fs::remove_file(&filler).unwrap();
    served.is_over("spool_filling");
    road.finish(served.running);
}

#[test]
fn a_source_that_sends_nothing_is_told() {
    let road = Road::new("create table t(id int primary key, v text)");
    let served = Served::start(&road, SOON);
    served.seen();
    let sender = "select active_pid from pg_replication_slots where slot_name = 'pgsluice'";
    let process = Pid::from_raw(road.source.value(sender).parse().unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    road.change("insert into t select n, repeat(md5(n::text), 20) from generate_series(1, 60000) n");
    let alarm = served.raises("receive_stuck");
    assert_eq!(text(&alarm, "level"), "critical");
    kill_process(process, Signal::CONT).unwrap();
    served.is_over("receive_stuck");
    road.finish(served.running);
}

#[test]
fn what_passes_by_itself_is_no_alarm() {
    let road = Road::new("create table t(id int primary key)");
    let proxy = Proxy::before(road.target.port());
    let target = road
        .target
        .conninfo()
        .replace(&format!("port={}", road.target.port()), &format!("port={}", proxy.port()));
    let served = Served::start(&road, &["follow", "--alarm-patience", "30", "--target", &target]);
    served.seen();
    proxy.cut();
    road.change("insert into t values (1)");
    road.wait_for("select count(*) from t");
    assert!(served.alarms().is_empty(), "{:?}", served.alarms());
    assert!(!served.running.log().contains("alarm="), "{}", served.running.log());
    road.finish(served.running);
}
