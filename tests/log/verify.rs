//! What a verification finds, whole or quick, and that it can be broken off.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use pgsluice::archive::{Archive, reindex};
use pgsluice::catalog::Catalog;
use pgsluice::model::Fault;
use pgsluice::verify::{Checkpoint, Manner, Report, verify, verify_as};

use super::messages::*;
use crate::support::many::segments;

fn quick(archive: &Archive) -> Report {
    verify_as(archive, Manner { quick: true, ..Manner::default() }, |_| ()).unwrap()
}

fn damage(archive: &Archive, number: usize, at: impl Fn(usize) -> usize) {
    let path = archive.segment_path(archive.segments().unwrap()[number]);
    let mut bytes = fs::read(&path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_quick_look_finds_what_is_wrong_at_the_ends_and_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let archive = segments(folder.path(), 20);
    let sound = quick(&archive);
    assert_eq!((&sound.chain, sound.segments), (&verify(&archive, |_| ()).unwrap().chain, 20));
    assert_eq!(sound.problems, []);
    // Header, footer, trailer; and a frame, which only the whole verification reads.
    damage(&archive, 3, |_| 20);
    damage(&archive, 7, |length| length - 150);
    damage(&archive, 11, |length| length - 20);
    damage(&archive, 15, |_| 140);
    let ranges = |report: Report| -> Vec<_> {
        report.problems.iter().map(|problem| (problem.after, problem.through)).collect()
    };
    let range = |number: u64| (end(number), Some(end(number + 1)));
    assert_eq!(ranges(quick(&archive)), [range(3), range(7), range(11)]);
    assert_eq!(ranges(verify(&archive, |_| ()).unwrap()), [range(3), range(7), range(11), range(15)]);
    let gone = archive.segment_path(archive.segments().unwrap()[17]);
    fs::remove_file(gone).unwrap();
    let found = quick(&archive).problems;
    assert!(found.last().unwrap().what.contains("segments are missing"), "{found:?}");
    assert_eq!((found.last().unwrap().after, found.last().unwrap().through), range(17));
}

#[test]
fn a_beginning_that_no_prune_has_removed_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let archive = segments(folder.path(), 5);
    let names = archive.segments().unwrap();
    names[..2].iter().for_each(|name| fs::remove_file(archive.segment_path(*name)).unwrap());
    for report in [quick(&archive), verify(&archive, |_| ()).unwrap()] {
        let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
        assert_eq!((problem.after, problem.through), (START, Some(end(2))));
    }
    fs::write(folder.path().join("pruned.json"), serde_json::json!({ "through": end(2) }).to_string())
        .unwrap();
    assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
}

#[test]
fn a_catalog_that_says_something_else_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let archive = segments(folder.path(), 5);
    assert_eq!(verify(&archive, |_| ()).unwrap().indexed, 0);
    reindex(&archive, |_, _| ()).unwrap();
    let report = verify(&archive, |_| ()).unwrap();
    assert_eq!((report.indexed, report.problems), (5, Vec::new()));
    let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0).unwrap();
    let mut row = catalog.segment(end(2)).unwrap().unwrap();
    row.transactions += 1;
    let rows = pgsluice::catalog::SegmentRows {
        segment: row,
        frames: Vec::new(),
        tables: Vec::new(),
        relations: Vec::new(),
        pins: Vec::new(),
    };
    catalog.index(&rows).unwrap();
    drop(catalog);
    let report = quick(&archive);
    assert_eq!((report.indexed, report.problems.len()), (4, 1));
    assert!(report.problems[0].what.contains("reindex"), "{report:?}");
    reindex(&archive, |_, _| ()).unwrap();
    assert_eq!(quick(&archive).problems, []);
}

/// Breaks off after so many segments, and says how many were looked at before that.
fn broken_off(archive: &Archive, checkpoint: Checkpoint, after: usize) -> Result<(Report, usize), Fault> {
    let stop = AtomicBool::new(false);
    let mut first = None;
    let manner = Manner { quick: false, checkpoint, stop: Some(&stop) };
    let report = verify_as(archive, manner, |progress| {
        first.get_or_insert(progress.segments);
        stop.store(progress.segments >= after, Ordering::Relaxed);
    })?;
    Ok((report, first.unwrap_or_default()))
}

fn is_kept(folder: &Path) -> bool {
    folder.join("verifying.json").exists()
}

#[test]
fn what_is_broken_off_goes_on_where_it_was_unless_segments_have_changed() {
    let folder = tempfile::tempdir().unwrap();
    let archive = segments(folder.path(), 40);
    damage(&archive, 5, |_| 140);
    let whole = verify(&archive, |_| ()).unwrap();
    assert_eq!(whole.problems.len(), 1);
    for step in [10, 20, 30] {
        let (report, first) = broken_off(&archive, Checkpoint::Resume, step).unwrap();
        assert_eq!((first, report.segments, report.complete), (step - 10, step as u64, false));
        assert_eq!(report.problems, whole.problems);
        assert!(is_kept(folder.path()));
    }
    let (report, first) = broken_off(&archive, Checkpoint::Resume, usize::MAX).unwrap();
    assert_eq!((first, &report), (30, &whole));
    assert!(!is_kept(folder.path()));

    // Not where it is not wanted, nor where it would not hold.
    broken_off(&archive, Checkpoint::Keep, 10).unwrap();
    assert_eq!(broken_off(&archive, Checkpoint::Keep, 10).unwrap().1, 0);
    let path = archive.segment_path(archive.segments().unwrap()[2]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [bytes.as_slice(), b"x"].concat()).unwrap();
    let (report, first) = broken_off(&archive, Checkpoint::Resume, usize::MAX).unwrap();
    assert_eq!((first, report.problems.len()), (0, 2));
    fs::write(&path, bytes).unwrap();
    // A quick one is no part of a whole one.
    let stop = AtomicBool::new(true);
    let manner = Manner { quick: true, checkpoint: Checkpoint::Keep, stop: Some(&stop) };
    assert!(!verify_as(&archive, manner, |_| ()).unwrap().complete && is_kept(folder.path()));
    assert_eq!(broken_off(&archive, Checkpoint::Resume, usize::MAX).unwrap(), (whole, 0));
}
