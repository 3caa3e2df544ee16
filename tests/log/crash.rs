//! A crash leaves the open file cut anywhere; nothing that was durable is lost, and nothing partial is seen.

use std::fs;
use std::path::Path;

use pgsluice::archive::{Archive, Mark, Reader, Writer};
use pgsluice::model::{Fault, Position};
use pgsluice::segment::SegmentName;
use pgsluice::verify::verify;

use super::messages::*;

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            // A file may be renamed while it is copied, as in a crash.
            let _ = fs::copy(entry.path(), target);
        }
    }
}

fn reopen(archive: &Archive) -> Result<Position, Fault> {
    Writer::open(archive, 1, options()).map(|writer| writer.received())
}

/// Puts a file where the catalog would be, so that thousands of openings don't build one each. The log does without.
fn without_catalog(archive: &Archive) {
    let folder = archive.catalog_folder();
    fs::remove_dir_all(&folder).unwrap();
    fs::write(folder, b"").unwrap();
}

/// An archive whose open segment holds `count` transactions in frames of two, and the bytes of that segment.
async fn with_open_segment(folder: &Path, count: u64) -> (Archive, Vec<u8>) {
    let archive = archive(folder);
    without_catalog(&archive);
    let mut writer = open(&archive);
    for (number, messages) in transactions(count).iter().enumerate() {
        append(&mut writer, messages);
        if number % 2 == 1 {
            writer.flush();
        }
    }
    writer.flush();
    durable(&writer, end(count)).await;
    // The begin of a transaction that never ends.
    writer.append(&begin(end(count + 1), 1)).unwrap();
    drop(writer);
    let path = archive.segment_path(SegmentName::open(START));
    let mut bytes = fs::read(&path).unwrap();
    // Space is taken ahead. Most tests here are about every byte, and do without.
    let space = bytes.split_off(Mark::read(folder).unwrap().unwrap().offset as usize);
    assert!(!space.is_empty() && space.iter().all(|byte| *byte == 0));
    fs::write(path, &bytes).unwrap();
    (archive, bytes)
}

#[tokio::test]
async fn space_taken_ahead_is_no_part_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, mut bytes) = with_open_segment(folder.path(), 4).await;
    let path = archive.segment_path(SegmentName::open(START));
    let mark = fs::read(folder.path().join("durable")).unwrap();
    for space in [1, 43, 44, 1 << 20] {
        let _ = fs::remove_dir_all(folder.path().join("segments"));
        fs::create_dir(folder.path().join("segments")).unwrap();
        fs::write(folder.path().join("durable"), &mark).unwrap();
        let end_of_frames = bytes.len();
        bytes.resize(end_of_frames + space, 0);
        fs::write(&path, &bytes).unwrap();
        bytes.truncate(end_of_frames);
        assert_eq!(said(&frames(&archive, START)), flat(&transactions(4)), "{space}");
        assert!(verify(&archive, |_| ()).unwrap().problems.is_empty(), "{space}");
        // Recovered, and sealed without it.
        assert_eq!(reopen(&archive).unwrap(), end(4));
        let sealed = fs::metadata(archive.segment_path(SegmentName::sealed(START, end(4)))).unwrap();
        assert!(sealed.len() < end_of_frames as u64 + 4096, "{space}");
        assert_eq!(said(&frames(&archive, START)), flat(&transactions(4)), "{space}");
        assert!(verify(&archive, |_| ()).unwrap().problems.is_empty(), "{space}");
    }
}

#[tokio::test]
async fn every_cut_of_the_open_file_leaves_a_prefix_on_a_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, bytes) = with_open_segment(folder.path(), 4).await;
    let sent = transactions(4);
    let path = archive.segment_path(SegmentName::open(START));
    let mut ends = std::collections::BTreeSet::new();
    for length in 0..=bytes.len() {
        let _ = fs::remove_dir_all(folder.path().join("segments"));
        let _ = fs::remove_file(folder.path().join("durable"));
        fs::create_dir(folder.path().join("segments")).unwrap();
        fs::write(&path, &bytes[..length]).unwrap();
        let received = reopen(&archive).unwrap();
        let whole = (received.0 - START.0) / 0x100;
        assert_eq!(whole % 2, 0, "frames hold two transactions, cut at {length}");
        assert_eq!(said(&frames(&archive, START)), flat(&sent[..whole as usize]), "cut at {length}");
        ends.insert(whole);
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [0, 2, 4]);
}

#[tokio::test]
async fn every_damaged_byte_of_the_open_file_is_refused_when_it_was_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, bytes) = with_open_segment(folder.path(), 4).await;
    let path = archive.segment_path(SegmentName::open(START));
    let mark = Mark::read(folder.path()).unwrap().unwrap();
    assert_eq!((mark.offset, mark.position), (bytes.len() as u64, end(4)));
    for offset in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << (offset % 8);
        fs::write(&path, &damaged).unwrap();
        let fault = reopen(&archive).unwrap_err();
        assert_eq!(fault.exit_code(), 4, "{offset}: {fault}");
        assert!(!verify(&archive, |_| ()).unwrap().problems.is_empty(), "{offset}");
        let read = Reader::open(&archive, START, None).and_then(|mut reader| {
            while reader.try_next()?.is_some() {}
            Ok(())
        });
        assert!(read.is_err(), "{offset}");
        assert_eq!(fs::read(&path).unwrap(), damaged, "nothing was changed");
    }
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let fault = reopen(&archive).unwrap_err();
        assert!(fault.message.contains("was durable up to 0/1400"), "{length}: {fault}");
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(reopen(&archive).unwrap(), end(4));
}

#[tokio::test]
async fn a_copy_taken_at_any_moment_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let sent = transactions(400);
    let mut writer = open(&archive);
    for (number, messages) in sent.iter().enumerate() {
        append(&mut writer, messages);
        writer.flush();
        if number % 60 == 59 {
            writer.seal();
        }
        if number % 20 == 0 {
            copy(folder.path(), &copies.path().join(number.to_string()));
        }
    }
    writer.close().await.unwrap();
    for number in (0..400).step_by(20) {
        let root = copies.path().join(number.to_string());
        // The copy is no snapshot: its mark may be newer than its files, which a crash does not do.
        let _ = fs::remove_file(root.join("durable"));
        let copied = Archive::open(&root).unwrap();
        let received = reopen(&copied).unwrap();
        let whole = (received.0 - START.0) / 0x100;
        assert_eq!(said(&frames(&copied, START)), flat(&sent[..whole as usize]));
        // It goes on where it was cut, and ends as the original did.
        let mut writer = open(&copied);
        for (number, messages) in sent.iter().enumerate().skip(whole as usize) {
            if number == whole as usize && number > 0 {
                append(
                    &mut writer,
                    &[relation(100, "one", 25), type_definition(900, "mood"), relation(200, "two", 900)],
                );
            }
            append(&mut writer, messages);
        }
        writer.close().await.unwrap();
        let (one, other) = (verify(&archive, |_| ()).unwrap(), verify(&copied, |_| ()).unwrap());
        assert_eq!((one.problems, one.chain), (Vec::new(), other.chain));
        assert_eq!(other.problems, []);
    }
}

#[tokio::test]
async fn idle_progress_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    writer.progress(Position(0x5000));
    writer.flush();
    durable(&writer, Position(0x5000)).await;
    // Older than what was taken: no step back.
    writer.progress(Position(0x4000));
    assert_eq!(writer.received(), Position(0x5000));
    drop(writer);
    assert_eq!(reopen(&archive).unwrap(), Position(0x5000));
    assert_eq!(reopen(&archive).unwrap(), Position(0x5000));
    assert_eq!(archive.segments().unwrap().len(), 1);
    let report = verify(&archive, |_| ()).unwrap();
    assert_eq!((report.problems, report.last_lsn), (Vec::new(), Position(0x5000)));
}

#[tokio::test]
async fn a_second_writer_is_refused_while_the_first_lives() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let writer = open(&archive);
    let fault = Writer::open(&archive, 1, options()).err().unwrap();
    assert!(fault.message.contains("in use by another receiver"), "{fault}");
    assert!(pgsluice::archive::reindex(&archive, |_, _| ()).is_err());
    writer.close().await.unwrap();
    assert_eq!(reopen(&archive).unwrap(), START);
}

#[tokio::test]
async fn a_reader_goes_on_across_the_writers_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let sent = transactions(40);
    let mut reader = Reader::open(&archive, START, None).unwrap();
    let mut got = Vec::new();
    for (round, chunk) in sent.chunks(4).enumerate() {
        let mut writer = open(&archive);
        got.extend(drain(&mut reader));
        if round > 0 {
            append(
                &mut writer,
                &[relation(100, "one", 25), type_definition(900, "mood"), relation(200, "two", 900)],
            );
        }
        chunk.iter().for_each(|messages| append(&mut writer, messages));
        writer.flush();
        if round % 3 == 0 {
            durable(&writer, end((round as u64 + 1) * 4)).await;
            got.extend(drain(&mut reader));
        }
        if round % 2 == 0 {
            drop(writer);
        } else {
            writer.close().await.unwrap();
        }
        got.extend(drain(&mut reader));
    }
    got.extend(drain(&mut reader));
    assert_eq!(said(&got), flat(&sent));
}

/// A machine that crashes may bring back an older mark than the data that it was written for.
#[tokio::test]
async fn a_reader_may_stand_behind_a_mark_that_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let sent = transactions(3);
    let mut writer = open(&archive);
    let mark = folder.path().join("durable");
    for (number, messages) in sent.iter().enumerate() {
        append(&mut writer, messages);
        writer.flush();
        durable(&writer, end(number as u64 + 1)).await;
        if number == 0 {
            fs::copy(&mark, folder.path().join("old")).unwrap();
        }
    }
    drop(writer);
    fs::copy(folder.path().join("old"), &mark).unwrap();
    let mut reader = Reader::open(&archive, end(2), None).unwrap();
    assert!(said(&drain(&mut reader)).is_empty());
    assert!(Reader::open(&archive, Position(end(3).0 + 1), None).is_err());
    let writer = open(&archive);
    assert_eq!(said(&drain(&mut reader)), flat(&sent[2..]));
    drop(writer);
}

/// Whatever is done in whatever order, the log holds what was received whole, and each crash loses only what was not
/// durable.
#[tokio::test]
async fn any_order_of_doings_keeps_what_was_durable() {
    for seed in 1..=12u64 {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(folder.path());
        if seed > 2 {
            without_catalog(&archive);
        }
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut writer = open(&archive);
        // What was sent whole and not lost since, each with its end.
        let mut model: Vec<(Position, Vec<Vec<u8>>)> = Vec::new();
        let mut reader = Reader::open(&archive, START, Some(writer.tail())).unwrap();
        let mut got = Vec::new();
        for _ in 0..150 {
            let at = Position(writer.received().0 + 0x40 + next(5) * 8);
            match next(12) {
                0..=4 => {
                    let mut messages = transaction(at);
                    let definitions =
                        [relation(100, "one", 25), type_definition(900, "mood"), relation(200, "two", 900)];
                    messages.splice(1..1, definitions);
                    let cut = if next(4) == 0 { next(8) as usize } else { messages.len() };
                    append(&mut writer, &messages[..cut]);
                    if cut < messages.len() {
                        if next(2) == 0 {
                            writer.flush();
                        }
                        if next(2) == 0 {
                            writer.seal();
                        }
                        writer.discard();
                    } else {
                        model.push((at, messages));
                    }
                }
                5 | 6 => writer.flush(),
                7 => writer.seal(),
                8 => writer.progress(at),
                9 => {
                    writer.flush();
                    durable(&writer, writer.received()).await;
                }
                10 => got.extend(drain(&mut reader)),
                _ => {
                    let acknowledged = writer.durable().borrow().position;
                    if next(2) == 0 {
                        let received = writer.received();
                        assert_eq!(writer.close().await.unwrap(), received);
                    } else {
                        drop(writer);
                    }
                    got.extend(drain(&mut reader));
                    writer = open(&archive);
                    assert!(writer.received() >= acknowledged);
                    model.retain(|(end, _)| *end <= writer.received());
                    got.extend(drain(&mut reader));
                    reader = Reader::open(&archive, writer.received(), Some(writer.tail())).unwrap();
                    assert!(said(&drain(&mut reader)).is_empty());
                }
            }
        }
        writer.close().await.unwrap();
        got.extend(drain(&mut reader));
        let expected: Vec<_> = model.into_iter().map(|(_, messages)| messages).collect();
        assert_eq!(said(&frames(&archive, START)), flat(&expected), "seed {seed}");
        assert_eq!(said(&got), flat(&expected), "seed {seed}, as it was followed");
        let report = verify(&archive, |_| ()).unwrap();
        assert_eq!((report.problems, report.transactions), (Vec::new(), expected.len() as u64));
    }
}
