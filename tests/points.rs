//! Points of the log: by position, time, transaction id and name, in whatever form its segments are.

use std::path::Path;

use pgsluice::archive::{
    Archive, Compaction, Compactor, Lookup, Pin, Point, Reached, find, reindex, resolve,
};
use pgsluice::model::{Fault, Position, Timestamp, Xid};
use pgsluice::verify::verify;

use crate::log::messages::{
    START, append, archive, begin, commit, durable, end, insert, open, pin, relation,
};
use crate::support::{Cluster, Pgsluice, Road, lsn, lsn_text, seconds, wait_until};

/// A transaction of the log.
#[derive(Clone)]
struct Sent {
    end: Position,
    time: i64,
    xid: u32,
    pin: Option<&'static str>,
}

fn messages(sent: &Sent) -> Vec<Vec<u8>> {
    let mut first = begin(sent.end, sent.xid);
    first[9..17].copy_from_slice(&sent.time.to_be_bytes());
    let mut last = commit(sent.end);
    last[18..26].copy_from_slice(&sent.time.to_be_bytes());
    let named = sent.pin.map(pin);
    let change = [relation(100, "one", 25), insert(100, 1, b"v")];
    [first].into_iter().chain(change).chain(named).chain([last]).collect()
}

/// Some of it in sealed segments, some in the open one, which the writer keeps.
async fn log_of(folder: &Path, sent: &[Sent]) -> (Archive, pgsluice::archive::Writer) {
    let archive = archive(folder);
    let mut writer = open(&archive);
    for (number, transaction) in sent.iter().enumerate() {
        append(&mut writer, &messages(transaction));
        if number % 3 == 0 {
            writer.flush();
        }
        if number % 5 == 1 {
            writer.seal();
        }
    }
    writer.flush();
    durable(&writer, sent.last().unwrap().end).await;
    (archive, writer)
}

/// Times that go to and fro, in pairs of one time.
fn with_times(times: &[i64]) -> Vec<Sent> {
    let sent = times.iter().zip(1..);
    sent.map(|(time, number)| Sent { end: end(number), time: *time, xid: number as u32, pin: None }).collect()
}

/// The ends of the last one that is applied and the first that is not.
fn parts(reached: &Reached) -> (Option<Position>, Option<Position>) {
    let end = |found: &Option<pgsluice::archive::Found>| found.as_ref().map(|found| found.end_lsn);
    (end(&reached.last), end(&reached.next))
}

/// What a rule that looks at each transaction says.
fn parted_by(sent: &[Sent], is_out: impl Fn(&Sent) -> bool) -> (Option<Position>, Option<Position>) {
    let out = sent.iter().position(&is_out).unwrap_or(sent.len());
    (out.checked_sub(1).map(|last| sent[last].end), sent.get(out).map(|next| next.end))
}

#[track_caller]
fn refused(result: Result<Reached, Fault>, why: &str) {
    let fault = result.unwrap_err();
    assert!(fault.message.contains(why), "{fault}");
    assert!(fault.hint.is_some(), "{fault}");
}

#[tokio::test]
async fn a_time_is_where_the_order_of_the_log_first_passes_it() {
    let folder = tempfile::tempdir().unwrap();
    let sent = with_times(&[100, 300, 200, 200, 400, 350, 360, 100, 500, 450, 600, 600, 550, 700]);
    let (archive, _writer) = log_of(folder.path(), &sent).await;
    for time in (90..=710).step_by(10) {
        for inclusive in [true, false] {
            let point = Point::Time(Timestamp(time));
            let reached = resolve(&archive, &point, Some(inclusive));
            let is_out = |sent: &Sent| sent.time > time || !inclusive && sent.time == time;
            match parted_by(&sent, is_out) {
                (None, _) => refused(reached, "lies before the log"),
                (_, None) => refused(reached, "no transaction in it is later; its last one ends at 0/1E00"),
                expected => {
                    let reached = reached.unwrap();
                    assert_eq!(parts(&reached), expected, "{time} {inclusive}");
                    assert_eq!(Some(reached.through), expected.0);
                }
            }
        }
        if (100..700).contains(&time) {
            let point = Point::Time(Timestamp(time));
            let reached = |inclusive| resolve(&archive, &point, inclusive).unwrap();
            assert_eq!(reached(None), reached(Some(true)));
        }
    }
}

#[tokio::test]
async fn a_position_has_what_ends_at_or_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let sent = with_times(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let (archive, mut writer) = log_of(folder.path(), &sent).await;
    let idle = Position(end(8).0 + 0x80);
    writer.progress(idle);
    writer.flush();
    durable(&writer, idle).await;
    for lsn in START.0 - 1..=idle.0 + 1 {
        for inclusive in [true, false] {
            let point = Point::Lsn(Position(lsn));
            let reached = resolve(&archive, &point, Some(inclusive));
            if lsn < START.0 {
                refused(reached, "lies before the log, which begins at 0/1000");
            } else if lsn > idle.0 {
                refused(reached, "lies behind the log, which ends at 0/1880");
            } else {
                let reached = reached.unwrap();
                let is_out = |sent: &Sent| sent.end.0 > lsn || !inclusive && sent.end.0 == lsn;
                assert_eq!(parts(&reached), parted_by(&sent, is_out), "{lsn:X} {inclusive}");
                assert!(reached.through.0 <= lsn && !(inclusive && reached.through.0 < lsn));
                // A copy at any position up to the next commit has nothing that is left out.
                let next = reached.next.map_or(idle.0 + 1, |next| next.end_lsn.0);
                let again = resolve(&archive, &point, Some(inclusive)).unwrap();
                assert!(again.has_not_passed(Position(next - 1)) && !again.has_not_passed(Position(next)));
            }
        }
    }
}

#[tokio::test]
async fn an_id_is_one_transaction_or_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let mut sent = with_times(&[10, 20, 30, 40, 50, 60, 70, 80]);
    sent[6].xid = sent[1].xid;
    let (archive, _writer) = log_of(folder.path(), &sent).await;
    let at = |xid, inclusive| resolve(&archive, &Point::Xid(Xid(xid)), Some(inclusive));
    assert_eq!(parts(&at(4, true).unwrap()), (Some(end(4)), Some(end(5))));
    assert_eq!(parts(&at(4, false).unwrap()), (Some(end(3)), Some(end(4))));
    let first = at(1, false).unwrap();
    assert_eq!((parts(&first), first.through), ((None, Some(end(1))), START));
    let last = at(8, true).unwrap();
    assert_eq!((parts(&last), last.through), ((Some(end(8)), None), end(8)));
    refused(at(9, true), "no transaction 9 from 0/1000 to 0/1800");
    refused(at(2, true), "given 2 times: ends at 0/1200 (2000-01-01T00:00:00.000020Z), 0/1700");
}

fn pin_ends(archive: &Archive, name: &str) -> Vec<Position> {
    find(archive, Lookup::Pin(name.into())).unwrap().iter().map(|found| found.end_lsn).collect()
}

#[tokio::test]
async fn pins_stay_whatever_becomes_of_their_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut sent = with_times(&(1..=40).collect::<Vec<_>>());
    for (number, name) in [(0, "first"), (9, "second"), (24, "twice"), (25, "twice"), (39, "open")] {
        sent[number].pin = Some(name);
    }
    let (archive, mut writer) = log_of(folder.path(), &sent).await;
    // What was not committed has no name, and what is outside of transactions is none.
    append(&mut writer, &[begin(end(41), 41), pin("rolled-back")]);
    writer.discard();
    let mut outside = pin("outside");
    outside[1] = 0;
    append(&mut writer, &[outside]);
    append(&mut writer, &messages(&Sent { end: end(41), time: 41, xid: 41, pin: Some("Not A Name") }));
    writer.flush();
    durable(&writer, end(41)).await;
    let check = |archive: &Archive| {
        let ends: [(&str, &[u64]); 6] = [
            ("first", &[1]),
            ("second", &[10]),
            ("twice", &[25, 26]),
            ("open", &[40]),
            ("rolled-back", &[]),
            ("outside", &[]),
        ];
        for (name, numbers) in ends {
            let expected: Vec<_> = numbers.iter().map(|number| end(*number)).collect();
            assert_eq!(pin_ends(archive, name), expected, "{name}");
            let point = Point::Pin(name.into());
            match (numbers, resolve(archive, &point, None), resolve(archive, &point, Some(false))) {
                ([number], Ok(with), Ok(without)) => {
                    assert_eq!(parts(&with), (Some(end(*number)), Some(end(number + 1))));
                    assert_eq!(without.next.unwrap().end_lsn, end(*number));
                }
                ([], with, _) => refused(with, "there is no pin"),
                (_, with, _) => refused(with, "more than one pin twice: at 0/2900, 0/2A00"),
            }
        }
        assert_eq!(verify(archive, |_| ()).unwrap().problems, []);
    };
    check(&archive);
    writer.close().await.unwrap();
    check(&archive);
    reindex(&archive, |_, _| ()).unwrap();
    check(&archive);
    let at_once = Compaction { age_seconds_min: 0, ..Compaction::default() };
    let merged = Compactor::new(&archive, at_once).run(|| true, |_, _| ()).unwrap();
    assert!(merged.segments_after < merged.segments_before, "{merged:?}");
    check(&archive);
    // The catalog that is there knows other segments; a new one knows these.
    open(&archive).close().await.unwrap();
    check(&archive);
    std::fs::remove_dir_all(archive.catalog_folder()).unwrap();
    check(&archive);

    // Pins of retention are found by the same name.
    let keep = |name: &str, lsn| Pin { name: name.into(), lsn, created: "2026-01-01T00:00:00Z".into() };
    archive.pin(&keep("kept", Position(end(7).0 + 8))).unwrap();
    archive.pin(&keep("second", end(10))).unwrap();
    archive.pin(&keep("first", end(2))).unwrap();
    let pinned = |name: &str| resolve(&archive, &Point::Pin(name.into()), None);
    assert_eq!(parts(&pinned("kept").unwrap()), (Some(end(7)), Some(end(8))));
    assert_eq!(parts(&pinned("second").unwrap()), (Some(end(10)), Some(end(11))));
    refused(pinned("first"), "more than one pin first");
    assert_eq!(pinned("No").unwrap_err().exit_code(), 2);
}

const TABLE: &str = "create table t(id int primary key);";

/// The archive of a program, as another process sees it.
fn shown(program: &Pgsluice, arguments: &[&str]) -> serde_json::Value {
    program.run(&[&["archive", "show", "--json"], arguments].concat()).done().json()
}

#[test]
fn a_pin_of_the_source_is_found_in_a_store_and_encrypted() {
    let key = "07".repeat(32);
    let settings =
        [("PGSLUICE_SPOOL", "spool"), ("PGSLUICE_DURABLE", "store"), ("PGSLUICE_ARCHIVE_KEY", key.as_str())];
    let road = Road::with_settings(TABLE, TABLE, &settings);
    road.change("insert into t values (1)");
    let pinned = road.program.run(&["pin", "before-two", "--json"]).done().json();
    road.change("insert into t values (2)");
    road.program.run(&["pin", "before-two", "--json"]).done();
    road.arrives();
    let twice = road.program.run(&["archive", "show", "--pin", "before-two", "--json"]).done().stdout;
    assert_eq!(twice.lines().count(), 2, "the log did not show the first one yet: {twice}");

    road.program.run(&["pin", "three"]).done();
    road.arrives();
    let outcome = road.program.run(&["pin", "three"]).ends_with(1);
    assert!(outcome.stderr.contains("there is a pin three already, at "), "{outcome}");
    road.program.run(&["archive", "pin", "kept", &road.source.current_lsn()]).done();
    road.program.run(&["pin", "kept"]).ends_with(1);
    road.program.run(&["pin", "Bad Name"]).ends_with(2);

    // From the store alone.
    let program = Pgsluice::between(&road.source, &road.target);
    let url = road.program.archive().display().to_string();
    let program = [("PGSLUICE_ARCHIVE", url.as_str()), ("PGSLUICE_SPOOL", "other")]
        .into_iter()
        .chain([("PGSLUICE_ARCHIVE_KEY", key.as_str())])
        .fold(program, |program, (name, value)| program.env(name, value));
    let found = program.run(&["archive", "show", "--pin", "before-two", "--json"]).done().stdout;
    let first: serde_json::Value = serde_json::from_str(found.lines().next().unwrap()).unwrap();
    assert_eq!(first["xid"], pinned["xid"]);
    assert!(lsn(first["end_lsn"].as_str().unwrap()) <= lsn(pinned["lsn"].as_str().unwrap()));
    assert_eq!(shown(&program, &["--pin", "three"])["xid"].as_u64().map(|xid| xid > 0), Some(true));
}

/// A target that is brought to a point has the rows that were there, whatever the times of commits say.
#[test]
fn points_of_a_real_source_are_prefixes_of_its_log() {
    for plugin in ["pgoutput", "test_decoding"] {
        let road = Road::with_settings(TABLE, TABLE, &[("PGSLUICE_PLUGIN", plugin)]);
        road.change("insert into t values (1)");
        let old = road.source.session();
        old.query("select pg_replication_origin_create('elsewhere')");
        old.query("select pg_replication_origin_session_setup('elsewhere')");
        old.query("begin; insert into t values (2)");
        old.query("select pg_replication_origin_xact_setup('0/1', '2001-01-01 00:00:00+00')");
        old.query("commit");
        road.change("insert into t values (3)");
        let between = road.source.value("select to_json(clock_timestamp())#>>'{}'");
        road.program.run(&["pin", "three"]).done();
        road.change("insert into t values (4)");
        let receiver = road.program.start(&["receive"]);
        let current = lsn(&road.source.current_lsn());
        wait_until(seconds(30), "it is in the log", || {
            let last = road.program.status()["archive"]["last_lsn"].as_str().map(lsn);
            last.is_some_and(|last| last >= current)
        });
        receiver.terminate(seconds(20)).done();

        let archive = Archive::open(&road.program.archive()).unwrap();
        let time = between.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let by_time = Point::Time(Timestamp::from_unix_microseconds(time));
        let by_name = Point::Pin("three".into());
        let by_time = resolve(&archive, &by_time, None).unwrap();
        let with = resolve(&archive, &by_name, None).unwrap();
        let without = resolve(&archive, &by_name, Some(false)).unwrap();
        assert_eq!((&by_time.last, &by_time.next), (&without.last, &with.last));
        let second = with.last.as_ref().unwrap().end_lsn;
        assert_eq!(resolve(&archive, &Point::Lsn(second), None).unwrap(), with);
        for reached in [without, with] {
            road.program.run(&["apply", "--endpos", &lsn_text(reached.through.0)]).done();
            assert_eq!(road.target.value("select string_agg(id::text, ',' order by id) from t"), "1,2,3");
        }
        drop::<Cluster>(road.source);
    }
}
