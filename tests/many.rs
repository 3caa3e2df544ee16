//! Many segments: what is done with them takes a time that grows with their number at most, and what asks for few of them none.
//!
//! `PGSLUICE_SEGMENTS=100000` makes it long; the figures are printed.

use std::fs;
use std::time::{Duration, Instant};

use pgsluice::archive::{Archive, Lookup, Page, Reader, find, list_page, totals};
use pgsluice::model::{Timestamp, Xid};
use pgsluice::sentinel::{Control, Home, Sentinel};
use pgsluice::verify::{Manner, verify_as};

use crate::log::messages::{START, end, time};
use crate::support::many::{TABLE, into_store, segments, stored};
use crate::support::{Cluster, Pgsluice, seconds};

fn count() -> u64 {
    std::env::var("PGSLUICE_SEGMENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500)
}

/// Does it, and prints how long it took.
fn timed<T>(what: &str, act: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = act();
    eprintln!("{what}: {:.3} s", started.elapsed().as_secs_f64());
    (done, started.elapsed())
}

/// Everything that only looks.
fn look(archive: &Archive, count: u64, what: &str) {
    for round in ["cold", "warm"] {
        let what = |act: &str| format!("{what}, {round}: {act}");
        let (listed, _) = timed(&what("the newest page"), || {
            list_page(archive, Page { last: Some(50), before: None }).unwrap()
        });
        assert_eq!((listed.segments.len(), listed.segments_total), (50, count as usize));
        assert_eq!(listed.segments.last().unwrap().through, end(count));
        let page = Page { last: Some(10), before: Some(end(20)) };
        let before = list_page(archive, page).unwrap().segments;
        assert_eq!((before.len(), before.last().unwrap().after), (10, end(19)));
        let (sums, _) = timed(&what("totals"), || totals(archive).unwrap());
        assert_eq!((sums.segments, sums.transactions, sums.changes), (count, count, count));
        assert_eq!((sums.tables[0].name.as_str(), sums.tables[0].events.inserts), ("public.one", count));
        let wanted = count / 2;
        for lookup in [
            Lookup::Lsn(end(wanted)),
            Lookup::Time(Timestamp(time(end(wanted)))),
            Lookup::Xid(Xid(wanted as u32)),
        ] {
            let (found, _) = timed(&what(&format!("{lookup:?}")), || find(archive, lookup).unwrap());
            assert_eq!(found.iter().map(|found| found.end_lsn).collect::<Vec<_>>(), [end(wanted)]);
        }
    }
}

fn verified(archive: &Archive, count: u64, what: &str) {
    let quick = Manner { quick: true, ..Manner::default() };
    let (quick, _) = timed(&format!("{what}: verify --quick"), || verify_as(archive, quick, |_| ()).unwrap());
    let (whole, _) =
        timed(&format!("{what}: verify"), || verify_as(archive, Manner::default(), |_| ()).unwrap());
    assert_eq!((&quick.chain, quick.segments, quick.transactions), (&whole.chain, count, count));
    assert_eq!((quick.problems, whole.problems), (Vec::new(), Vec::new()));
}

fn read_all(archive: &Archive) -> u64 {
    let mut reader = Reader::open(archive, START, None).unwrap();
    let mut transactions = 0;
    while let Some(frame) = reader.try_next().unwrap() {
        transactions += u64::from(frame.transactions);
    }
    transactions
}

#[test]
fn a_folder_of_many_segments_is_looked_at_and_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let count = count();
    let archive = segments(&folder.path().join("archive"), count);
    look(&archive, count, "folder");
    verified(&archive, count, "folder");
    let (read, _) = timed("folder: read all", || read_all(&archive));
    assert_eq!(read, count);
}

#[test]
fn a_store_of_many_segments_is_known_from_its_footers() {
    let folder = tempfile::tempdir().unwrap();
    let count = count();
    let made = segments(&folder.path().join("made"), count);
    let store = folder.path().join("store");
    into_store(&made, &store);
    let archive = stored(&store, folder.path().join("spool"));
    look(&archive, count, "store");
    assert!(archive.root().join("seen").exists());
    assert_eq!(fs::read_dir(archive.segments_folder()).unwrap().count(), 0, "nothing was brought whole");
    // What is remembered is enough for another process, and where the objects of old segments can't be read.
    for name in archive.segments().unwrap().iter().take(10) {
        let path = store.join("segments/00000001").join(name.to_string());
        let length = fs::metadata(&path).unwrap().len();
        fs::write(&path, vec![0; length as usize]).unwrap();
    }
    let again = stored(&store, folder.path().join("spool"));
    assert_eq!(totals(&again).unwrap().transactions, count);
    let quick = verify_as(&again, Manner { quick: true, ..Manner::default() }, |_| ()).unwrap();
    assert_eq!(quick.problems.len(), 10, "each is told: {:?}", quick.problems);
}

/// An applier that is started at the end of so many segments, and one that goes through them.
#[test]
fn an_applier_starts_at_once_and_goes_through_many_segments() {
    let count = count();
    let target = Cluster::target();
    target.run_script(TABLE);
    let program = Pgsluice::with("host=127.0.0.1 port=1 user=nobody dbname=none", &target.conninfo());
    let program = program.limit(seconds(3000));
    segments(&program.archive(), count);
    let control = Control { startpos: START, apply: true, ..Control::default() };
    Sentinel::create(&Home::Folder(program.archive()), control).unwrap();
    let applied = |number: u64, how: &str| {
        let endpos = end(number).to_string();
        let mut running = program.start(&["apply", "--sequences", how, "--endpos", &endpos]);
        let mut resident = 0;
        while running.is_running() {
            resident = resident.max(running.resident_bytes_max());
            std::thread::sleep(Duration::from_millis(10));
        }
        let done = running.wait(seconds(3000)).done();
        eprintln!("applier: at most {} MiB resident", resident >> 20);
        assert_eq!(target.value("select count(*) from one"), number.to_string());
        done
    };
    timed("applier: set-up and one segment", || applied(1, "off"));
    let (_, took) = timed("applier: start and one segment", || applied(2, "off"));
    assert!(took < seconds(20), "{took:?}");
    timed("applier: all segments but a few", || applied(count - 1, "off"));
    timed("applier: start behind all others, and the last segment", || applied(count, "off"));
    timed("applier: the same, and a search for sequences", || applied(count, "on"));
    let (page, _) = timed("archive list", || program.run(&["archive", "list"]).done());
    assert!(page.stdout.contains(&format!("50 of {count} segments")), "{}", page.stdout);
    assert_eq!(program.run(&["archive", "list", "--json"]).done().stdout.lines().count() as u64, count);
    let (status, _) = timed("status", || program.status());
    assert_eq!(status["archive"]["transactions"], count);
    assert_eq!(status["tables"][0]["applied_events"], count);
}
