//! Small segments become large ones behind everybody's back: what the log says stays, whoever reads, prunes or kills meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use pgsluice::archive::{
    Archive, Compacted, Compaction, Compactor, Location, Policy, Prune, Reader, Writer, reindex, transfer,
};
use pgsluice::catalog::Catalog;
use pgsluice::model::Position;
use pgsluice::store::Place;
use pgsluice::verify::verify;
use serde_json::Value;

use crate::log::messages::*;
use crate::support::ledger::{self, Dice};
use crate::support::{
    Bucket, Cluster, Misdeed, Pgsluice, Road, Running, assert_tables_equal, lsn, seconds, wait_until,
};

const AT_ONCE: Compaction =
    Compaction { age_seconds_min: 0, bytes_max: 64 << 20, transactions_max: 1 << 20, zstd_level: 9 };

fn compact(archive: &Archive) -> Compacted {
    Compactor::new(archive, AT_ONCE).run(|| true, |_, _| ()).unwrap()
}

fn chain(archive: &Archive) -> String {
    let report = verify(archive, |_| ()).unwrap();
    assert_eq!(report.problems, []);
    report.chain
}

/// Each transaction in a frame of its own, some in a segment of their own; messages outside of transactions and idle progress between.
fn grow(writer: &mut Writer, from: u64, to: u64) -> Vec<Vec<u8>> {
    let note = b"M\0\0\0\0\0\0\0\x10\x10app\0\0\0\0\x02hi".to_vec();
    let mut said = Vec::new();
    for number in from..=to {
        let messages = transactions(number).pop().unwrap();
        if number == from {
            append(
                writer,
                &[relation(100, "one", 25), type_definition(900, "mood"), relation(200, "two", 900)],
            );
        }
        append(writer, &messages);
        said.extend(flat(&[messages]));
        if number % 5 < 3 {
            writer.flush();
        }
        if number % 7 == 0 {
            append(writer, std::slice::from_ref(&note));
            said.push(note.clone());
        }
        if number % 11 == 0 {
            writer.flush();
            writer.progress(Position(writer.received().0 + 8));
        }
        if number % 6 == 0 || number % 13 == 0 {
            writer.seal();
        }
        if number % 9 == 0 {
            // In front of all else in its segment, perhaps.
            append(writer, std::slice::from_ref(&note));
            said.push(note.clone());
            writer.flush();
        }
    }
    writer.flush();
    said
}

/// All keys and values of the catalog.
type Entries = Vec<(Box<[u8]>, Box<[u8]>)>;

fn entries(archive: &Archive) -> Entries {
    let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0).unwrap();
    catalog.entries().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_merged_says_the_same_and_the_catalog_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let expected = grow(&mut writer, 1, 1000);
    writer.close().await.unwrap();
    let (before, proof) = (archive.segments().unwrap(), chain(&archive));
    let done = compact(&archive);
    let after = archive.segments().unwrap();
    assert!(before.len() > 200 && after.len() * 3 < before.len(), "{} became {}", before.len(), after.len());
    assert_eq!(done.segments_before - done.segments_after, (before.len() - after.len()) as u64);
    assert!(done.bytes_after * 3 < done.bytes_before, "{done:?}");
    assert_eq!((chain(&archive), after.last()), (proof, before.last()));
    assert_eq!(said(&frames(&archive, START)), expected);
    assert_eq!(names(&archive.segments_folder()).len(), after.len());
    // Nothing is left to do.
    assert_eq!(compact(&archive), Compacted::default());

    // The next receiver brings the catalog up to date, and goes on.
    let mut writer = open(&archive);
    let more = grow(&mut writer, 1001, 1010);
    writer.close().await.unwrap();
    let grown = entries(&archive);
    reindex(&archive, |_, _| ()).unwrap();
    assert_eq!(entries(&archive), grown);
    assert_eq!(said(&frames(&archive, START)), [expected, more].concat());
}

/// Wherever a reader stands, in memory or in a file, within a segment or between two: it misses nothing, and sees nothing twice.
#[tokio::test]
async fn readers_go_on_across_a_merge() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let mut expected = grow(&mut writer, 1, 150);
    durable(&writer, end(150)).await;
    let mut readers = Vec::new();
    for number in 0..200 {
        for tail in [None, Some(writer.tail())] {
            let mut reader = Reader::open(&archive, START, tail).unwrap();
            let got: Vec<_> = std::iter::from_fn(|| reader.try_next().unwrap()).take(number).collect();
            readers.push((reader, got));
        }
    }
    // What comes next pushes all else out of memory.
    let large = vec![b'x'; 2 << 20];
    for number in [300, 301] {
        let next =
            [begin(end(number), 1), relation(100, "one", 25), insert(100, 1, &large), commit(end(number))];
        append(&mut writer, &next);
        expected.extend(flat(&[next.to_vec()]));
        writer.seal();
    }
    writer.flush();
    durable(&writer, end(301)).await;
    let before = archive.segments().unwrap().len();
    // What was merged already is merged once more, and the next receiver looks whether it is to be pressed.
    for bytes_max in [1500, 4000, 64 << 20] {
        let compaction = Compaction { bytes_max, ..AT_ONCE };
        Compactor::new(&archive, compaction).run(|| true, |_, _| ()).unwrap();
    }
    assert!(archive.segments().unwrap().len() * 3 < before);
    writer.close().await.unwrap();
    let writer = open(&archive);
    for (number, (mut reader, mut got)) in readers.into_iter().enumerate() {
        got.extend(drain(&mut reader));
        assert!(said(&got) == expected, "reader {number} has {} of {}", said(&got).len(), expected.len());
        assert_eq!(got.iter().map(|frame| frame.transactions).sum::<u32>(), 152, "reader {number}");
    }
    // One that begins somewhere gets what it asked for, and maybe some before it.
    for number in (1..150).step_by(7) {
        let rest = said(&frames(&archive, end(number)));
        let at =
            expected.iter().position(|message| *message == begin(end(number + 1), end(number + 1).0 as u32));
        assert!(rest.ends_with(&expected[at.unwrap()..]), "{number}");
    }
    writer.close().await.unwrap();
}

/// A copy of all files is what a crash leaves; here at each step of a merge.
#[tokio::test]
async fn every_crash_leaves_the_whole_log() {
    let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let expected = grow(&mut writer, 1, 200);
    writer.close().await.unwrap();
    let before: Vec<_> = names(&archive.segments_folder());
    let proof = chain(&archive);
    crate::log::copy(folder.path(), left.path());
    compact(&archive);
    let merged: Vec<_> =
        names(&archive.segments_folder()).into_iter().filter(|name| !before.contains(name)).collect();
    assert!(!merged.is_empty());
    let segments = left.path().join("segments");
    for name in &merged {
        let staged = segments.join(format!("{name}.0123456789abcdef0123456789abcdef.part"));
        fs::write(staged, b"half of it").unwrap();
    }
    let crashed = Archive::open(left.path()).unwrap();
    let holds = || {
        assert_eq!(chain(&crashed), proof);
        assert_eq!(said(&frames(&crashed, START)), expected);
    };
    holds();
    for name in &merged {
        fs::copy(archive.segments_folder().join(name), segments.join(name)).unwrap();
        holds();
    }
    let parts: Vec<_> =
        before.iter().filter(|name| !names(&archive.segments_folder()).contains(name)).collect();
    for part in parts.iter().take(parts.len() / 2) {
        fs::remove_file(segments.join(part)).unwrap();
        holds();
    }
    let done = compact(&crashed);
    assert_eq!(done.left_over as usize, parts.len() - parts.len() / 2);
    holds();
    assert_eq!(names(&segments), names(&archive.segments_folder()));
}

/// It stands beside what it covers, and is damaged: nothing is removed for its sake.
#[tokio::test]
async fn nothing_is_removed_for_a_damaged_segment() {
    let (folder, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    grow(&mut writer, 1, 200);
    writer.close().await.unwrap();
    crate::log::copy(folder.path(), left.path());
    compact(&archive);
    let crashed = Archive::open(left.path()).unwrap();
    let before = names(&crashed.segments_folder());
    let merged = archive.segments().unwrap()[0];
    let mut bytes = fs::read(archive.segment_path(merged)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(crashed.segment_path(merged), bytes).unwrap();
    let fault = Compactor::new(&crashed, AT_ONCE).run(|| true, |_, _| ()).unwrap_err();
    assert!(fault.message.contains("is damaged"), "{fault}");
    assert!(before.iter().all(|name| crashed.segments_folder().join(name).exists()));
}

#[tokio::test]
async fn timelines_are_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let mut expected = grow(&mut writer, 1, 60);
    writer.continue_on(2);
    expected.extend(grow(&mut writer, 61, 300));
    writer.close().await.unwrap();
    compact(&archive);
    assert_eq!(said(&frames(&archive, START)), expected);
    let segments = archive.segments().unwrap();
    assert!(segments.iter().any(|name| name.after == end(60)), "{segments:?}");
    assert!(segments.len() > 12, "{segments:?}");
}

/// A prune that was planned before segments were merged, and one that is cut off in the middle.
#[tokio::test]
async fn a_prune_and_a_merge_that_meet_leave_no_hole() {
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let expected = grow(&mut writer, 1, 400);
    writer.close().await.unwrap();
    let policy = Policy { beyond_appliers: true, keep_bytes: Some(2000), ..Policy::default() };
    for (number, cut) in [0, 1, 3, usize::MAX].into_iter().enumerate() {
        let place = copies.path().join(number.to_string());
        crate::log::copy(folder.path(), &place);
        let archive = Archive::open(&place).unwrap();
        let before = archive.segments().unwrap();
        let prune = Prune::plan(&archive, policy).unwrap();
        assert!(prune.goes.len() > 20, "{}", prune.goes.len());
        let merged_after = (number % 2 == 0).then(|| compact(&archive));
        if cut == usize::MAX {
            prune.perform(&archive, |_| ()).unwrap();
        } else {
            // As far as one comes that is killed.
            let through = prune.through().unwrap();
            fs::write(place.join("pruned.json"), format!("{{\"through\":\"{through}\"}}")).unwrap();
            for gone in prune.goes.iter().take(cut) {
                let _ = fs::remove_file(archive.segment_path(gone.name));
            }
        }
        if merged_after.is_none() {
            compact(&archive);
        }
        let report = verify(&archive, |_| ()).unwrap();
        assert_eq!(report.problems, [], "cut after {cut}");
        let rest = said(&frames(&archive, report.first_lsn));
        assert!(expected.ends_with(&rest) && !rest.is_empty());
        let again = Prune::plan(&archive, policy).unwrap();
        again.perform(&archive, |_| ()).unwrap();
        assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
        assert!(archive.segments().unwrap().last() == before.last());
    }
}

/// A merged segment that comes when all that it was made of, and more, was pruned: it stands alone in front of a hole.
#[tokio::test]
async fn what_comes_late_behind_a_prune_is_no_part_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    grow(&mut writer, 1, 400);
    writer.close().await.unwrap();
    compact(&archive);
    let merged = archive.segments().unwrap()[0];
    let bytes = fs::read(archive.segment_path(merged)).unwrap();
    let policy = Policy { beyond_appliers: true, keep_bytes: Some(1), ..Policy::default() };
    Prune::plan(&archive, policy).unwrap().perform(&archive, |_| ()).unwrap();
    let left = archive.segments().unwrap();
    assert!(merged.through < left.first().map(|name| name.after), "{left:?}");
    fs::write(archive.segment_path(merged), bytes).unwrap();
    assert_eq!(archive.segments().unwrap(), left);
    assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
    open(&archive).close().await.unwrap();
    // Without a prune that accounts for it, it is a hole.
    fs::remove_file(folder.path().join("pruned.json")).unwrap();
    assert!(!verify(&archive, |_| ()).unwrap().problems.is_empty());
}

#[tokio::test]
async fn a_copy_goes_on_when_its_source_was_merged() {
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let mut expected = grow(&mut writer, 1, 200);
    writer.close().await.unwrap();
    let plain = Location::folder(copies.path().join("plain"));
    let stored = Location {
        store: Place::parse(&format!("file://{}", copies.path().join("store").display())).unwrap(),
        ..Location::folder(copies.path().join("spool"))
    };
    for place in [&plain, &stored] {
        transfer(&archive, place, |_, _| ()).unwrap();
    }
    let mut writer = open(&archive);
    expected.extend(grow(&mut writer, 201, 400));
    writer.close().await.unwrap();
    compact(&archive);
    for place in [&plain, &stored] {
        let (copy, done) = transfer(&archive, place, |_, _| ()).unwrap();
        assert!(done.segments > 0);
        assert_eq!((chain(&copy), said(&frames(&copy, START))), (chain(&archive), expected.clone()));
        let (_, again) = transfer(&archive, place, |_, _| ()).unwrap();
        assert_eq!(again.segments, 0);
    }
}

const TABLE: &str = "create table t(id int primary key, v text);";
const STORE: [(&str, &str); 2] = [("PGSLUICE_SPOOL", "spool"), ("PGSLUICE_DURABLE", "store")];
const QUICKLY: [&str; 5] = ["follow", "--segment-age", "1", "--compact-after", "1"];

fn segments(program: &Pgsluice) -> usize {
    program.run(&["archive", "list", "--json"]).done().stdout.lines().count()
}

fn assert_sound(program: &Pgsluice) -> Value {
    program.run(&["archive", "verify", "--json"]).done().json()
}

fn sealed(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sealed(&path));
        } else if path.extension().is_some_and(|extension| extension == "seg") {
            found.push(path);
        }
    }
    found
}

fn elsewhere(road: &Road, target: &Cluster) -> Pgsluice {
    Pgsluice::between(&road.source, target)
        .env("PGSLUICE_ARCHIVE", &road.program.archive().display().to_string())
        .env("PGSLUICE_SPOOL", "spool")
}

/// So that a block of the log comes to its end.
fn pass_a_block(road: &Road) {
    road.source.query("select pg_logical_emit_message(false, 'x', repeat('x', 40000))");
    road.change("insert into t select coalesce(max(id), 0) + 1, 'x' from t");
    road.program.run(&["receive", "--endpos", "current"]).done();
}

#[test]
fn by_hand_it_tells_first_and_then_does_it() {
    let road = Road::new(TABLE);
    for id in 1..=12 {
        road.change(&format!("insert into t values ({}, md5('{id}'))", id * 100));
        road.program.run(&["receive", "--endpos", "current"]).done();
    }
    pass_a_block(&road);
    pass_a_block(&road);
    let before = segments(&road.program);
    let run =
        |more: &[&str]| road.program.run(&[&["archive", "compact", "--json"], more].concat()).done().json();
    // Too young, all of them.
    assert_eq!(run(&[])["segments_before"], 0);
    let would = run(&["--older-than", "0s", "--dry-run"]);
    assert!(
        would["dry_run"].as_bool().unwrap() && would["segments_before"].as_u64().unwrap() >= 4,
        "{would}"
    );
    assert_eq!(segments(&road.program), before);
    let done = run(&["--older-than", "0s"]);
    assert_eq!(done["segments_before"], would["segments_before"], "{done}");
    assert!(segments(&road.program) < before);
    assert_sound(&road.program);
    let text = road.program.run(&["archive", "compact"]).done().stdout;
    assert!(text.contains("merged"), "{text}");
    road.arrives();
}

#[test]
fn what_is_encrypted_stays_so() {
    let key = "5a".repeat(32);
    let road = Road::with_settings(TABLE, TABLE, &[("PGSLUICE_ARCHIVE_KEY", &key)]);
    for id in 1..=6 {
        road.change(&format!("insert into t values ({}, 'a secret of {id}')", id * 100));
        road.program.run(&["receive", "--endpos", "current"]).done();
    }
    pass_a_block(&road);
    pass_a_block(&road);
    let archive = road.program.archive().display().to_string();
    let without = Pgsluice::between(&road.source, &road.target).env("PGSLUICE_ARCHIVE", &archive);
    let before = segments(&road.program);
    let refused = without.run(&["archive", "compact", "--older-than", "0s"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("--key-file"), "{refused}");
    road.program.run(&["archive", "compact", "--older-than", "0s"]).done();
    assert!(segments(&road.program) < before);
    assert_sound(&road.program);
    for path in sealed(&road.program.archive()) {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(8).any(|some| some == b"a secret"), "{}", path.display());
    }
    road.arrives();
}

/// What comes before the first encrypted segment stays as it is, since behind an encrypted one only such may come.
#[test]
fn a_log_that_was_encrypted_later_stays_in_order() {
    let key = "5a".repeat(32);
    let road = Road::new(TABLE);
    let archive = road.program.archive().display().to_string();
    let with_key = Pgsluice::between(&road.source, &road.target)
        .env("PGSLUICE_ARCHIVE", &archive)
        .env("PGSLUICE_ARCHIVE_KEY", &key);
    for (round, program) in [&road.program, &with_key].into_iter().enumerate() {
        for id in 1..=8 {
            road.change(&format!("insert into t values ({}, 'some text of {id}')", round * 1000 + id));
            road.source.query("select pg_logical_emit_message(false, 'x', repeat('x', 1000))");
            program.run(&["receive", "--endpos", "current"]).done();
        }
    }
    road.source.query("select pg_logical_emit_message(false, 'x', repeat('x', 300000))");
    for id in 1..=2 {
        road.change(&format!("insert into t values ({}, 'x')", 5000 + id));
        with_key.run(&["receive", "--endpos", "current"]).done();
    }
    let before = segments(&with_key);
    with_key.run(&["archive", "compact", "--older-than", "0s"]).done();
    assert!(segments(&with_key) < before);
    assert_sound(&with_key);
    with_key.run(&["follow", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn an_idle_source_leaves_few_segments() {
    let road = Road::with_settings(TABLE, TABLE, &STORE);
    let receiver = road.program.start(&["receive", "--segment-age", "1", "--compact-after", "2"]);
    // Another database's WAL moves the log, and nothing else does.
    road.source.query("create database other");
    let mut most = 0;
    wait_until(seconds(90), "many segments became few", || {
        road.source.query("select pg_logical_emit_message(false, 'x', repeat('x', 3000))");
        road.source.query("checkpoint");
        let now = segments(&road.program);
        most = most.max(now);
        most > 10 && now * 2 < most
    });
    receiver.terminate(seconds(20)).done();
    road.change("insert into t values (1, 'x')");
    road.arrives();
    assert_sound(&road.program);
}

/// Receiver, merges by hand and prunes are killed in turns, while the log grows at the one end and is removed at the other.
fn killed_at_random(road: &Road, elsewhere: &[(&Pgsluice, &Cluster)]) {
    let (load, _script) = ledger::load(&road.source, 200);
    let mut dice = Dice(11);
    let start = lsn(assert_sound(&road.program)["first_lsn"].as_str().unwrap());
    let (mut beginning, mut merged) = (start, 0);
    for round in 0..ledger::kills() {
        let appliers: Vec<_> = elsewhere.iter().map(|(program, _)| program.start(&["apply"])).collect();
        let running = road.program.start(&QUICKLY);
        std::thread::sleep(dice.milliseconds(1000, 3500));
        let hands: Vec<Running> = match round % 3 {
            0 => vec![road.program.start(&["archive", "compact", "--older-than", "0s"])],
            1 => vec![road.program.start(&["archive", "prune", "--yes"])],
            _ => vec![
                road.program.start(&["archive", "compact", "--older-than", "0s"]),
                road.program.start(&["archive", "prune", "--yes"]),
                road.program.start(&["archive", "compact", "--older-than", "1s"]),
            ],
        };
        std::thread::sleep(dice.milliseconds(1, 150));
        hands.into_iter().for_each(|hand| drop(hand.kill()));
        merged += u32::from(running.log().contains("merged segments"));
        let ended = running.kill();
        assert!(!ended.stderr.contains("a gap") && !ended.stderr.contains("overlap"), "{}", ended.stderr);
        for applier in appliers {
            let ended = applier.kill();
            assert!(!ended.stderr.contains("a gap") && !ended.stderr.contains("overlap"), "{}", ended.stderr);
        }
        let report = assert_sound(&road.program);
        let now = lsn(report["first_lsn"].as_str().unwrap());
        assert!(now >= start, "{report}");
        beginning = beginning.max(now);
        ledger::assert_holds(&road.target);
        elsewhere.iter().for_each(|(_, target)| ledger::assert_holds(target));
    }
    load.kill();
    assert!(beginning > start, "nothing was pruned");
    road.arrives();
    let done = road.program.run(&["archive", "compact", "--older-than", "0s", "--json"]).done().json();
    // On a busy machine none of the receivers may have lived long enough.
    assert!(merged > 0 || done["segments_before"].as_u64().unwrap() > 0, "nothing was merged");
    let report = assert_sound(&road.program);
    assert!(report["segments"].as_u64().unwrap() < 40, "{done} {report}");
    let endpos = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    for (program, target) in elsewhere {
        program.run(&["apply", "--endpos", &endpos]).done();
        assert_tables_equal(&road.source, target);
    }
}

#[test]
fn kill_9_of_receivers_merges_and_prunes_leaves_the_log_whole() {
    let road = ledger::road();
    killed_at_random(&road, &[]);
    let there = names(&road.program.archive().join("segments"));
    assert_eq!(there.len(), segments(&road.program), "{there:?}");
}

#[test]
fn kill_9_of_receivers_merges_and_prunes_leaves_a_stores_log_whole() {
    let road = ledger::road_with(&STORE);
    let target = ledger::another_target();
    let other = elsewhere(&road, &target);
    killed_at_random(&road, &[(&other, &target)]);
    let there = sealed(&road.program.archive().join("segments"));
    assert_eq!(there.len(), assert_sound(&other)["segments"].as_u64().unwrap() as usize, "{there:?}");
}

/// It has taken the log over when the first wakes up, who is merging what he believes to be the log.
#[test]
fn one_who_has_lost_the_log_may_go_on_merging() {
    let road = ledger::road_with(&STORE);
    let (load, _script) = ledger::load(&road.source, 300);
    let sleeper = road.program.start(&QUICKLY);
    let mut dice = Dice(5);
    wait_until(seconds(60), "segments are merged", || sleeper.log().contains("merged segments"));
    std::thread::sleep(dice.milliseconds(500, 2500));
    sleeper.signal(rustix::process::Signal::STOP);
    road.source.query("select pg_terminate_backend(active_pid) from pg_replication_slots where active");
    let target = ledger::another_target();
    let other = elsewhere(&road, &target).env("PGSLUICE_DURABLE", "store");
    let running = other.start(&QUICKLY);
    let claims = road.program.archive().join("writers");
    wait_until(seconds(60), "the other has claimed the log", || names(&claims).len() == 2);
    wait_until(seconds(60), "segments are merged again", || running.log().contains("merged segments"));
    other.run(&["archive", "prune", "--yes"]).done();
    sleeper.signal(rustix::process::Signal::CONT);
    // It waits for the slot now and merges what it knows, unless it had something to bring, and was told.
    wait_until(seconds(60), "the first has gone on", || sleeper.log().contains("another receiver"));
    for _ in 0..5 {
        std::thread::sleep(seconds(1));
        assert_sound(&other);
    }
    load.kill();
    sleeper.kill();
    other.run(&["sentinel", "set", "endpos", "current"]).done();
    running.wait(seconds(60)).done();
    assert_tables_equal(&road.source, &target);
    other.run(&["archive", "compact", "--older-than", "0s"]).done();
    assert_sound(&other);
}

/// Each answer of the store may be lost, late or wrong; and two do the same at once.
#[test]
fn a_store_that_answers_wrongly_does_no_harm() {
    let bucket = Bucket::start();
    let place = [("PGSLUICE_ARCHIVE", "s3://bucket/p"), ("PGSLUICE_SPOOL", "spool")];
    let environment = bucket.environment();
    let variables: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(place).collect();
    let road = Road::with_settings(TABLE, TABLE, &variables);
    let target = Cluster::target();
    target.run_script(TABLE);
    let other = variables
        .iter()
        .fold(Pgsluice::between(&road.source, &target), |program, (name, value)| program.env(name, value));
    for round in 1..=4u64 {
        for id in 0..9 {
            road.change(&format!("insert into t values ({}, md5('{id}'))", round * 1_000_000 + id));
            road.program.run(&["receive", "--endpos", "current"]).done();
        }
        pass_a_block(&road);
        let misdeed = [
            Misdeed::DoneThenCut,
            Misdeed::DoneBut(500, "InternalError"),
            Misdeed::Cut,
            Misdeed::DoneBut(409, "OperationAborted"),
        ][round as usize - 1]
            .clone();
        bucket.misdeeds("PUT", [misdeed.clone(), misdeed.clone()]);
        bucket.misdeeds("DELETE", [misdeed.clone(), misdeed]);
        bucket.misdeeds("GET", [Misdeed::Cut, Misdeed::Refuse(500, "InternalError")]);
        let compact = ["archive", "compact", "--older-than", "0s"];
        let both = [road.program.start(&compact), other.start(&compact)];
        let logs = both.map(|one| one.wait(seconds(120)));
        assert!(logs.iter().any(|log| log.code == Some(0)), "{} {}", logs[0], logs[1]);
        let report = assert_sound(&other);
        assert_eq!(report["transactions"].as_u64(), Some(round * 10), "{report}");
        assert!(report["segments"].as_u64().unwrap() < 10 + round * 4, "{report}");
    }
    let endpos = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    other.run(&["apply", "--endpos", &endpos]).done();
    assert_tables_equal(&road.source, &target);
}
