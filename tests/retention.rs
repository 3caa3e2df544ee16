//! What of the log is removed, and what never is.

use std::time::{Duration, Instant};

use pgsluice::archive::{Archive, Pin, Policy, Prune, Reader, Registered, Writer};
use pgsluice::verify::verify;
use serde_json::{Value, json};

use crate::log::messages;
use crate::support::ledger::{self, Dice};
use crate::support::{
    Cluster, Pgsluice, Road, Running, StopMode, assert_tables_equal, lsn, lsn_text, seconds, wait_until,
};

const TABLE: &str = "create table t(id int primary key, v text);";
const STORE: [(&str, &str); 2] = [("PGSLUICE_SPOOL", "spool"), ("PGSLUICE_DURABLE", "store")];

fn road() -> Road {
    Road::new(TABLE)
}

/// The program with the same archive and another target.
fn beside(road: &Road, target: &Cluster) -> Pgsluice {
    let archive = road.program.archive().display().to_string();
    Pgsluice::between(&road.source, target).env("PGSLUICE_ARCHIVE", &archive)
}

fn another_target() -> Cluster {
    let target = Cluster::target();
    target.run_script(TABLE);
    target
}

/// Brings a few segments into the log and onto the road's target, and gives where the log ends.
fn grow(road: &Road, from: u32) -> String {
    grow_by(road, from, "follow")
}

fn grow_by(road: &Road, from: u32, command: &str) -> String {
    for part in 0..3 {
        let from = from + part * 100;
        road.change(&format!(
            "insert into t select i, md5(i::text) from generate_series({from}, {}) i",
            from + 99
        ));
        road.program.run(&[command, "--endpos", "current"]).done();
    }
    end(road)
}

fn end(road: &Road) -> String {
    road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned()
}

fn beginning(program: &Pgsluice) -> u64 {
    lsn(program.status()["archive"]["first_lsn"].as_str().unwrap())
}

fn prune(program: &Pgsluice, more: &[&str]) -> Value {
    program.run(&[&["archive", "prune", "--json"], more].concat()).done().json()
}

fn count(report: &Value, part: &str) -> u64 {
    report[part]["segments"].as_u64().unwrap()
}

fn assert_sound(program: &Pgsluice) {
    program.run(&["archive", "verify"]).done();
}

#[test]
fn what_is_applied_goes_when_it_is_told_to_and_all_else_goes_on() {
    let road = road();
    let start = beginning(&road.program);
    grow(&road, 1);
    let would = prune(&road.program, &[]);
    assert!(would["dry_run"].as_bool().unwrap() && count(&would, "goes") >= 2, "{would}");
    assert_eq!(beginning(&road.program), start);
    let text = road.program.run(&["archive", "prune"]).done().stdout;
    assert!(text.contains("--yes"), "{text}");

    let done = prune(&road.program, &["--yes"]);
    assert_eq!((&done["goes"], &done["stays"]), (&would["goes"], &would["stays"]));
    assert_eq!(beginning(&road.program), lsn(would["goes"]["through"].as_str().unwrap()));
    assert_sound(&road.program);
    grow(&road, 1001);
    assert_tables_equal(&road.source, &road.target);
    assert_sound(&road.program);
    let list = road.program.run(&["archive", "list", "--json"]).done().stdout;
    let reindexed = road.program.run(&["archive", "reindex", "--json"]).done().json();
    assert_eq!(reindexed["segments"], list.lines().count());

    // A target that needs the whole log.
    let target = another_target();
    let outcome = beside(&road, &target).run(&["apply", "--endpos", &end(&road)]).ends_with(4);
    assert!(outcome.stderr.contains("the log begins at"), "{}", outcome.stderr);
    assert_eq!(target.value("select to_regclass('pgsluice.progress') is null"), "t");
}

#[test]
fn what_is_young_or_little_stays() {
    let road = road();
    grow(&road, 1);
    let held = |more: &[&str]| {
        let report = prune(&road.program, more);
        (count(&report, "goes"), report["held_by"].clone())
    };
    assert_eq!(held(&["--keep-age", "1h"]), (0, json!([{ "kind": "keep_age" }])));
    assert_eq!(held(&["--keep-bytes", "1GiB"]), (0, json!([{ "kind": "keep_bytes" }])));
    assert_eq!(held(&["--keep-age", "0s", "--keep-bytes", "0"]), held(&[]));
    road.program.run(&["archive", "prune", "--keep-age", "7"]).ends_with(2);
    road.program.run(&["archive", "prune", "--force"]).ends_with(2);
}

#[test]
fn the_slower_of_two_targets_holds_back() {
    let road = road();
    let target = another_target();
    let other = beside(&road, &target);
    let reached = grow(&road, 1);
    other.run(&["apply", "--endpos", &reached]).done();
    let end = grow(&road, 1001);

    let appliers = road.program.status()["appliers"].clone();
    let slower = appliers.as_array().unwrap().iter().min_by_key(|a| lsn(a["lsn"].as_str().unwrap())).unwrap();
    assert_eq!(appliers.as_array().unwrap().len(), 2, "{appliers}");
    assert!(slower["target"].as_str().unwrap().contains(&target.port().to_string()), "{slower}");
    let done = prune(&road.program, &["--yes"]);
    assert_eq!(done["held_by"][0]["name"], slower["name"], "{done}");
    assert!(count(&done, "goes") >= 1 && count(&done, "stays") >= 3, "{done}");
    assert!(lsn(done["goes"]["through"].as_str().unwrap()) <= lsn(slower["lsn"].as_str().unwrap()), "{done}");
    assert_sound(&road.program);
    other.run(&["apply", "--endpos", &end]).done();
    assert_tables_equal(&road.source, &target);
    assert!(count(&prune(&road.program, &[]), "goes") >= 2);
}

#[test]
fn a_target_that_is_left_behind_by_force_is_told() {
    let road = road();
    let target = another_target();
    let other = beside(&road, &target);
    let reached = grow(&road, 1);
    other.run(&["apply", "--endpos", &reached]).done();
    grow(&road, 1001);
    let force = ["--force", "--keep-bytes", "0"];
    let would = prune(&road.program, &force);
    let left = would["left_behind"].as_array().unwrap();
    assert!(
        left.len() == 1 && left[0]["target"].as_str().unwrap().contains(&target.port().to_string()),
        "{would}"
    );
    prune(&road.program, &[&force[..], &["--yes"]].concat());
    assert_sound(&road.program);
    let outcome = other.run(&["apply", "--endpos", &end(&road)]).ends_with(4);
    assert!(outcome.stderr.contains("the log holds what comes after"), "{}", outcome.stderr);
    grow(&road, 2001);
    assert_tables_equal(&road.source, &road.target);

    // It is given up, and holds nothing back any more.
    let before = count(&prune(&road.program, &[]), "goes");
    let name = left[0]["name"].as_str().unwrap();
    road.program.run(&["archive", "forget", name]).done();
    road.program.run(&["archive", "forget", name]).ends_with(1);
    assert!(count(&prune(&road.program, &[]), "goes") > before);
}

#[test]
fn without_a_target_nobody_knows_what_may_go() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(TABLE);
    let program = Pgsluice::between(&source, &target);
    let run = |arguments: &[&str]| {
        let mut command = program.command(arguments);
        command.env_remove("PGSLUICE_TARGET");
        Running::spawn(command).wait(seconds(60))
    };
    run(&["setup"]).done();
    for id in 1..4 {
        source.query(&format!("insert into t values ({id})"));
        run(&["receive", "--endpos", "current"]).done();
    }
    let outcome = run(&["archive", "prune", "--yes"]).ends_with(1);
    assert!(outcome.stderr.contains("--force"), "{}", outcome.stderr);
    let done = run(&["archive", "prune", "--force", "--keep-age", "0s", "--yes", "--json"]).done().json();
    assert!(count(&done, "goes") >= 2, "{done}");
    run(&["archive", "verify"]).done();
}

#[test]
fn a_target_counts_from_its_setup_to_its_cleanup() {
    let road = road();
    let start = end(&road);
    let appliers = road.program.status()["appliers"].clone();
    assert_eq!(
        (appliers[0]["lsn"].as_str(), appliers[0]["stream"].as_str()),
        (Some(start.as_str()), Some("pgsluice"))
    );
    road.change("insert into t values (1)");
    road.program.run(&["receive", "--endpos", "current"]).done();
    road.change("insert into t values (2)");
    road.program.run(&["receive", "--endpos", "current"]).done();
    let would = prune(&road.program, &[]);
    assert_eq!((count(&would, "goes"), &would["held_by"][0]["kind"]), (0, &json!("applier")), "{would}");
    road.program.run(&["cleanup"]).done();
    assert_eq!(road.program.status()["appliers"], json!([]));
}

#[test]
fn what_is_pinned_stays_even_by_force() {
    let road = road();
    let pinned = grow(&road, 1);
    road.program.run(&["archive", "pin", "before-cutover", &pinned]).done();
    road.program.run(&["archive", "pin", "before-cutover", &pinned]).ends_with(1);
    for name in ["Before", "a/b", "../x", ""] {
        road.program.run(&["archive", "pin", name, &pinned]).ends_with(2);
    }
    let before = lsn_text(beginning(&road.program) - 1);
    let outcome = road.program.run(&["archive", "pin", "gone", &before]).ends_with(1);
    assert!(outcome.stderr.contains("the log begins at"), "{}", outcome.stderr);
    grow(&road, 1001);
    let done = prune(&road.program, &["--force", "--keep-bytes", "0", "--yes"]);
    assert_eq!(done["held_by"], json!([{ "kind": "pin", "name": "before-cutover", "lsn": pinned }]));
    assert!(beginning(&road.program) <= lsn(&pinned) && count(&done, "stays") >= 3, "{done}");
    assert_sound(&road.program);
    let pins = road.program.run(&["archive", "pins", "--json"]).done().json();
    assert_eq!((&pins["name"], &pins["lsn"]), (&json!("before-cutover"), &json!(pinned)));
    road.program.run(&["archive", "unpin", "before-cutover"]).done();
    road.program.run(&["archive", "unpin", "before-cutover"]).ends_with(1);
    assert!(count(&prune(&road.program, &["--yes"]), "goes") >= 2);
}

/// The log goes on at one end while it is removed at the other, and the applier tells how far it is.
#[test]
fn prunes_beside_a_running_follow() {
    let road = ledger::road();
    let (load, _script) = ledger::load(&road.source, 200);
    let running = road.program.start(&["follow", "--segment-age", "1"]);
    let (start, mut moves) = (beginning(&road.program), 0);
    let mut last = start;
    wait_until(seconds(90), "the log's beginning has moved thrice", || {
        let report = prune(&road.program, &["--yes"]);
        assert_sound(&road.program);
        let now = beginning(&road.program);
        moves += u32::from(now > last);
        last = now;
        assert!(count(&report, "stays") >= 1 || last == start, "{report}");
        std::thread::sleep(Duration::from_millis(300));
        moves >= 3
    });
    ledger::assert_holds(&road.target);
    load.kill();
    road.finish(running);
    assert_sound(&road.program);
    ledger::assert_holds(&road.target);
    road.change("insert into scratch values (-1)");
    road.arrives();
}

#[test]
fn prunes_a_store_that_feeds_a_target_elsewhere() {
    let road = ledger::road_with(&STORE);
    let target = ledger::another_target();
    let place = road.program.archive().display().to_string();
    let elsewhere = Pgsluice::between(&road.source, &target)
        .env("PGSLUICE_ARCHIVE", &place)
        .env("PGSLUICE_SPOOL", "spool");
    // On a third machine, which has copies of nothing.
    let pruner = Pgsluice::between(&road.source, &target)
        .env("PGSLUICE_ARCHIVE", &place)
        .env("PGSLUICE_SPOOL", "spool");
    let (load, _script) = ledger::load(&road.source, 200);
    let running = road.program.start(&["follow", "--segment-age", "1"]);
    wait_until(seconds(30), "the store has a segment", || road.program.archive().join("segments").exists());
    let applier = elsewhere.start(&["apply"]);
    let start = beginning(&pruner);
    let mut dice = Dice(3);
    let mut moves = 0;
    let mut last = start;
    wait_until(seconds(90), "the log's beginning has moved twice", || {
        // Cut off at some moment, mostly.
        let pruning = pruner.start(&["archive", "prune", "--yes"]);
        std::thread::sleep(dice.milliseconds(1, 60));
        pruning.kill();
        std::thread::sleep(Duration::from_millis(300));
        let now = beginning(&pruner);
        moves += u32::from(now > last);
        last = now;
        assert_sound(&pruner);
        moves >= 2
    });
    let applier_log = applier.terminate(seconds(30)).done();
    assert!(!applier_log.stderr.contains("can't be told"), "{applier_log}");
    load.kill();
    road.finish(running);
    prune(&pruner, &["--yes"]);
    // What the receiver's spool has of what is gone is neither the log nor brought again.
    assert_eq!(beginning(&road.program), beginning(&pruner));
    assert!(beginning(&pruner) > start);
    road.change("insert into scratch values (-1)");
    road.arrives();
    assert_eq!(beginning(&road.program), beginning(&pruner));
    assert_sound(&road.program);
    let end = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    elsewhere.run(&["apply", "--endpos", &end]).done();
    assert_tables_equal(&road.source, &target);
    ledger::assert_holds(&target);
}

/// It has seen the segments that are gone, and was not looking when they went.
#[test]
fn a_running_applier_that_is_left_behind_ends() {
    let road = Road::with_settings(TABLE, TABLE, &STORE);
    let target = another_target();
    let elsewhere = beside(&road, &target).env("PGSLUICE_SPOOL", "spool");
    grow(&road, 1);
    let mut applier = elsewhere.start(&["apply"]);
    let is_there = |count: &str| target.value("select count(*) from t") == count;
    wait_until(seconds(30), "the rows are there", || is_there("300"));
    grow(&road, 301);
    wait_until(seconds(30), "the rows are there", || is_there("600"));
    elsewhere.run(&["sentinel", "set", "prefetch"]).done();
    let at_work = "select count(*) from pg_stat_activity where application_name = 'pgsluice apply'";
    wait_until(seconds(30), "nothing is applied", || target.value(at_work) == "0");
    grow_by(&road, 601, "receive");
    grow_by(&road, 901, "receive");
    let force = ["archive", "prune", "--force", "--keep-bytes", "0", "--yes"];
    road.program.run(&force).done();
    assert!(applier.is_running());
    elsewhere.run(&["sentinel", "set", "apply"]).done();
    let outcome = applier.wait(seconds(60)).ends_with(4);
    assert!(outcome.stderr.contains("the log holds what comes after"), "{}", outcome.stderr);
    assert!(is_there("600"));
}

#[tokio::test]
async fn a_pin_and_a_prune_that_meet_give_way() {
    let folder = tempfile::tempdir().unwrap();
    let archive = messages::archive(folder.path());
    let mut writer = Writer::open(&archive, 1, messages::options()).unwrap();
    for sent in messages::transactions(5) {
        messages::append(&mut writer, &sent);
        writer.seal();
    }
    writer.close().await.unwrap();
    let policy = Policy { beyond_appliers: true, ..Policy::default() };
    let prune = Prune::plan(&archive, policy).unwrap();
    assert_eq!((prune.goes.len(), prune.through()), (4, Some(messages::end(4))));
    let pin = |name: &str, number: u64| {
        let pin = Pin { name: name.into(), lsn: messages::end(number), created: String::new() };
        archive.pin(&pin).map_err(|fault| fault.message)
    };
    pin("first", 2).unwrap();
    assert!(prune.perform(&archive, |_| ()).unwrap_err().message.contains("pin first"));
    assert_eq!(archive.segments().unwrap().len(), 5);
    // What a prune has not done is not in the way of a pin.
    pin("second", 3).unwrap();
    for name in ["first", "second"] {
        assert!(archive.unpin(name).unwrap());
    }
    // It has told how far it goes, and was killed before it went there.
    std::fs::write(folder.path().join("pruned.json"), r#"{"through":"0/1400"}"#).unwrap();
    assert!(pin("third", 3).unwrap_err().contains("0/1400"));
    pin("fourth", 4).unwrap();
    assert_eq!(archive.pins().unwrap().len(), 1);
    Prune::plan(&archive, policy).unwrap().perform(&archive, |_| ()).unwrap();
    assert_eq!(archive.beginning().unwrap(), messages::end(4));
}

#[tokio::test]
async fn kill_9_of_a_prune_leaves_no_hole() {
    let folder = tempfile::tempdir().unwrap();
    let archive = messages::archive(folder.path());
    let program = Pgsluice::with("host=nowhere", "host=nowhere")
        .env("PGSLUICE_ARCHIVE", &folder.path().display().to_string());
    let mut dice = Dice(11);
    let (mut cut_short, mut written) = (0, 0);
    for _ in 0..ledger::kills().max(30) {
        let mut writer = Writer::open(&archive, 1, messages::options()).unwrap();
        messages::append(
            &mut writer,
            &[
                messages::relation(100, "one", 25),
                messages::type_definition(900, "mood"),
                messages::relation(200, "two", 900),
            ],
        );
        for sent in messages::transactions(written + 150).split_off(written as usize) {
            messages::append(&mut writer, &sent);
            writer.seal();
        }
        written += 150;
        writer.close().await.unwrap();
        let before = archive.segments().unwrap();
        let arguments = ["archive", "prune", "--force", "--keep-bytes", "0", "--yes"];
        let pruning = program.start(&arguments);
        let started = Instant::now();
        while archive.segments().unwrap().first() == before.first() && started.elapsed() < seconds(5) {
            std::hint::spin_loop();
        }
        std::thread::sleep(dice.milliseconds(0, 1500) / 1000);
        pruning.kill();
        let after = archive.segments().unwrap();
        assert!(before.ends_with(&after) && !after.is_empty(), "{before:?} {after:?}");
        cut_short += u32::from(after.len() > 1);
        let report = verify(&archive, |_| ()).unwrap();
        assert_eq!((report.problems, report.last_lsn), (Vec::new(), messages::end(written)));
        let first = archive.beginning().unwrap();
        assert!(Reader::open(&archive, first, None).is_ok());
        assert!(
            first == archive.manifest().start
                || Reader::open(&archive, archive.manifest().start, None).is_err()
        );
    }
    assert!(cut_short > 5, "only {cut_short} were cut short");
}

/// What was told of the target survives its crash, also where commits are acknowledged before they are durable.
#[test]
fn a_crash_of_the_target_takes_nothing_back_that_was_told() {
    let target = Cluster::prepare()
        .set("synchronous_commit", "off")
        .set("wal_writer_delay", "2000ms")
        .set("wal_writer_flush_after", "1GB")
        .start();
    let source = Cluster::source();
    let road = ledger::road_between(source, target);
    let (load, _script) = ledger::load(&road.source, 100);
    let archive = Archive::open(&road.program.archive()).unwrap();
    let told = || archive.appliers().unwrap().first().map(|applier: &Registered| applier.lsn).unwrap();
    for _ in 0..2 {
        let running = road.program.start(&["follow"]);
        let before = told();
        wait_until(seconds(60), "the applier has told where it is", || told() > before);
        road.target.stop(StopMode::Immediate);
        let told = told();
        road.target.start();
        let row = road.target.value("select lsn from pgsluice.progress");
        assert!(lsn(&row) >= told.0, "told {told}, and after the crash {row}");
        running.terminate(seconds(60)).done();
    }
    load.kill();
    road.arrives();
    ledger::assert_holds(&road.target);
}
