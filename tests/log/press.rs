//! A sealed segment is made small behind everybody's back: what it says stays, and nobody notices.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgsluice::archive::{Archive, Mark, Reader, Writer, WriterOptions, reindex, show};
use pgsluice::catalog::Catalog;
use pgsluice::model::Position;
use pgsluice::segment::SegmentName;
use pgsluice::verify::verify;

use super::messages::*;

fn raw_bytes(archive: &Archive, name: SegmentName) -> Vec<u64> {
    show(archive, &name.to_string()).unwrap().frames.iter().map(|frame| frame.raw_bytes).collect()
}

/// Waits until the segment has so many frames.
fn pressed(archive: &Archive, name: SegmentName, frames: usize) {
    let started = Instant::now();
    while raw_bytes(archive, name).len() != frames {
        assert!(started.elapsed() < Duration::from_secs(20), "{name} is not pressed");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Each transaction in a frame of its own; a message outside of transactions and idle progress in others.
fn live(writer: &mut Writer, sent: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    let note = b"M\0\0\0\0\0\0\0\x10\x10app\0\0\0\0\x02hi".to_vec();
    let mut said = Vec::new();
    for (number, messages) in sent.iter().enumerate() {
        append(writer, messages);
        said.extend(flat(std::slice::from_ref(messages)));
        writer.flush();
        if number % 3 == 0 {
            append(writer, std::slice::from_ref(&note));
            said.push(note.clone());
            writer.flush();
        }
        if number % 4 == 1 {
            writer.progress(Position(writer.received().0 + 8));
            writer.flush();
        }
    }
    said
}

fn staged(archive: &Archive) -> Vec<PathBuf> {
    let entries = fs::read_dir(archive.segments_folder()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().ends_with(".new")).collect()
}

#[tokio::test]
async fn short_frames_become_one() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let expected = live(&mut writer, &transactions(200));
    durable(&writer, end(200)).await;
    let before = verify(&archive, |_| ()).unwrap();
    let written = Mark::read(folder.path()).unwrap().unwrap().offset;
    writer.close().await.unwrap();
    let name = archive.segments().unwrap()[0];
    assert_eq!(raw_bytes(&archive, name).len(), 1);
    let bytes = fs::metadata(archive.segment_path(name)).unwrap().len();
    assert!(bytes * 4 < written, "{bytes} of {written}");
    assert_eq!(said(&frames(&archive, START)), expected);
    // It says the same in a different way, and the catalog knows the new places.
    let after = verify(&archive, |_| ()).unwrap();
    assert_eq!((after.problems, after.chain, after.transactions), (Vec::new(), before.chain, 200));
    let entries = || {
        let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0).unwrap();
        catalog.entries().unwrap()
    };
    let grown = entries();
    reindex(&archive, |_, _| ()).unwrap();
    assert_eq!(entries(), grown);
    // One that begins in the middle gets what it asked for, and maybe some before it.
    for number in [1, 77, 200] {
        let rest = said(&frames(&archive, end(number)));
        assert!(number == 200 || rest.ends_with(&expected[expected.len() - 10..]));
    }
    assert!(staged(&archive).is_empty());
}

#[tokio::test]
async fn long_frames_and_parts_of_transactions_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let sent = transactions(40);
    let large = vec![b'x'; 300 << 10];
    for (number, messages) in sent.iter().enumerate() {
        let mut messages = messages.clone();
        let rows = if number == 20 { 40 } else { usize::from(number % 10 == 5) };
        let at = messages.len() - 1;
        (0..rows).for_each(|_| messages.insert(at, insert(100, 1, &large)));
        append(&mut writer, &messages);
        writer.flush();
        durable(&writer, end(number as u64 + 1)).await;
    }
    let before: Vec<_> = said(&frames(&archive, START));
    writer.close().await.unwrap();
    assert_eq!(said(&frames(&archive, START)), before);
    let lengths = raw_bytes(&archive, archive.segments().unwrap()[0]);
    assert!(lengths.windows(2).all(|pair| pair.iter().any(|length| *length >= 256 << 10)), "{lengths:?}");
    assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
}

/// Wherever a reader stands, in memory or in the file, with the segment open or sealed: it misses nothing, and sees nothing
/// twice.
#[tokio::test]
async fn readers_go_on_across_a_press() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let mut expected = live(&mut writer, &transactions(20));
    writer.flush();
    durable(&writer, end(20)).await;
    let mut readers = Vec::new();
    for number in 0..40 {
        for tail in [None, Some(writer.tail())] {
            let mut reader = Reader::open(&archive, START, tail).unwrap();
            let got: Vec<_> = std::iter::from_fn(|| reader.try_next().unwrap()).take(number).collect();
            readers.push((reader, got));
        }
    }
    writer.seal();
    let next =
        [begin(end(30), 1), relation(100, "one", 25), insert(100, 1, &vec![b'x'; 2 << 20]), commit(end(30))];
    let name = SegmentName::sealed(START, writer.received());
    // What comes next pushes all else out of memory.
    append(&mut writer, &next);
    writer.flush();
    durable(&writer, end(30)).await;
    pressed(&archive, name, 1);
    expected.extend(flat(&[next.to_vec()]));
    for (number, (mut reader, mut got)) in readers.into_iter().enumerate() {
        got.extend(drain(&mut reader));
        assert!(said(&got) == expected, "reader {number} has {} of {}", said(&got).len(), expected.len());
        assert_eq!(got.iter().map(|frame| frame.transactions).sum::<u32>(), 21, "reader {number}");
        assert_eq!(got.iter().map(|frame| frame.changes).sum::<u32>(), 61, "reader {number}");
    }
    writer.close().await.unwrap();
}

#[tokio::test]
async fn what_a_crash_leaves_is_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let expected = live(&mut writer, &transactions(30));
    durable(&writer, end(30)).await;
    // The open file, as a killed writer leaves it.
    let open_path = archive.segment_path(SegmentName::open(START));
    let left = fs::read(&open_path).unwrap();
    let mark = fs::read(folder.path().join("durable")).unwrap();
    writer.close().await.unwrap();
    let name = archive.segments().unwrap()[0];
    let small = fs::read(archive.segment_path(name)).unwrap();
    for cut in [0, 1, small.len() / 2, small.len()] {
        for path in archive.listing().unwrap() {
            fs::remove_file(archive.segment_path(path)).unwrap();
        }
        fs::write(&open_path, &left).unwrap();
        fs::write(folder.path().join("durable"), &mark).unwrap();
        let staged_path = archive.segments_folder().join(format!("{name}.new"));
        fs::write(&staged_path, &small[..cut]).unwrap();
        // It is no part of the log, for nobody.
        assert_eq!(said(&frames(&archive, START)), expected);
        assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
        let writer = open(&archive);
        pressed(&archive, name, 1);
        writer.close().await.unwrap();
        assert!(fs::read(archive.segment_path(name)).unwrap() == small, "pressed to the same bytes");
        assert!(staged(&archive).is_empty());
        assert_eq!(said(&frames(&archive, START)), expected);
    }
}

#[tokio::test]
async fn a_segment_that_can_not_be_pressed_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let expected = live(&mut writer, &transactions(30));
    // Something stands where it would be staged.
    let name = SegmentName::sealed(START, writer.received());
    let obstacle = archive.segments_folder().join(format!("{name}.new"));
    fs::create_dir(&obstacle).unwrap();
    writer.close().await.unwrap();
    assert!(raw_bytes(&archive, name).len() > 30);
    assert_eq!(said(&frames(&archive, START)), expected);
    fs::remove_dir(&obstacle).unwrap();
    let writer = open(&archive);
    pressed(&archive, name, 1);
    writer.close().await.unwrap();
    let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0).unwrap();
    let grown = catalog.entries().unwrap();
    drop(catalog);
    reindex(&archive, |_, _| ()).unwrap();
    let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0).unwrap();
    assert_eq!(catalog.entries().unwrap(), grown);
}

/// Two segments that were sealed in a hurry are both pressed later.
#[tokio::test]
async fn an_archive_of_short_frames_is_pressed_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = Writer::open(&archive, 1, WriterOptions::default()).unwrap();
    let sent = transactions(30);
    let mut expected = Vec::new();
    for part in sent.chunks(10) {
        let name = archive.segments_folder().join(format!(
            "{}.new",
            SegmentName::sealed(writer.received(), {
                expected.extend(live(&mut writer, part));
                writer.received()
            })
        ));
        fs::create_dir(name).unwrap();
        writer.seal();
    }
    writer.close().await.unwrap();
    let names = archive.segments().unwrap();
    assert!(names.len() == 3 && names.iter().all(|name| raw_bytes(&archive, *name).len() > 10));
    staged(&archive).into_iter().for_each(|path| fs::remove_dir(path).unwrap());
    let writer = open(&archive);
    names.iter().for_each(|name| pressed(&archive, *name, 1));
    writer.close().await.unwrap();
    assert_eq!(said(&frames(&archive, START)), expected);
    assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
}

/// An idle source leaves frames that say only how far it is: they look alike but for that.
#[tokio::test]
async fn readers_go_on_behind_idle_frames() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let transaction = |number: u64| {
        [begin(end(number), 1), relation(100, "one", 25), insert(100, 1, b"x"), commit(end(number))]
    };
    let mut readers: Vec<_> =
        [None, Some(writer.tail())].map(|tail| Reader::open(&archive, START, tail).unwrap()).into();
    let mut got = [Vec::new(), Vec::new()];
    let mut sent = Vec::new();
    // In the second segment the readers know the chain, and the third is idle from its beginning.
    for segment in 0..4u64 {
        if segment != 2 {
            append(&mut writer, &transaction(10 * segment + 1));
            sent.push(transaction(10 * segment + 1).to_vec());
        }
        writer.flush();
        for idle in 2..6 {
            writer.progress(end(10 * segment + idle));
            writer.flush();
            durable(&writer, end(10 * segment + idle)).await;
            for (reader, got) in readers.iter_mut().zip(&mut got) {
                got.extend(drain(reader));
            }
        }
        writer.seal();
    }
    append(&mut writer, &transaction(90));
    sent.push(transaction(90).to_vec());
    writer.flush();
    durable(&writer, end(90)).await;
    for (mut reader, mut got) in readers.into_iter().zip(got) {
        got.extend(drain(&mut reader));
        assert_eq!(said(&got), flat(&sent));
    }
    writer.close().await.unwrap();
    assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
}
