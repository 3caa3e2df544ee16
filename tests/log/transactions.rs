//! Transactions are whole or absent, however large, and relations are known wherever one begins to read.

use pgsluice::archive::{Reader, Writer, WriterOptions};
use pgsluice::model::Position;

use super::messages::*;

/// One transaction of 12 MiB that can't be compressed away, in messages of 64 KiB.
fn huge(number: u64) -> Vec<Vec<u8>> {
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut messages = vec![begin(end(number), 7), relation(100, "one", 25)];
    for row in 0..192 {
        let value: Vec<u8> = (0..8192)
            .flat_map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random.to_le_bytes()
            })
            .collect();
        messages.push(insert(100, row, &value));
    }
    messages.push(commit(end(number)));
    messages
}

#[tokio::test]
async fn a_huge_transaction_is_invisible_until_its_commit_is_durable() {
    for tail_bytes in [1 << 20, 64 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(folder.path());
        let options = WriterOptions { tail_bytes, ..WriterOptions::default() };
        let mut writer = Writer::open(&archive, 1, options).unwrap();
        let mut readers = [
            Reader::open(&archive, START, None).unwrap(),
            Reader::open(&archive, START, Some(writer.tail())).unwrap(),
        ];
        let messages = huge(1);
        let (last, before) = messages.split_last().unwrap();
        append(&mut writer, before);
        writer.flush();
        for _ in 0..50 {
            writer.room().await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            assert!(readers.iter_mut().all(|reader| reader.try_next().unwrap().is_none()));
        }
        let written = std::fs::metadata(archive.root().join("segments/0000000000001000.open")).unwrap().len();
        assert!(written > 8 << 20, "its frames are on disk already: {written}");
        writer.append(last).unwrap();
        writer.flush();
        durable(&writer, end(1)).await;
        for reader in &mut readers {
            let read = drain(reader);
            assert_eq!(said(&read), flat(std::slice::from_ref(&messages)));
            assert!(read.len() > 2 && !read[0].ends_on_commit && read[1].starts_in_transaction);
        }
        // Whoever comes later, too, also when asked for what is behind an earlier commit of the same segment.
        append(&mut writer, &transaction_of_one(2));
        assert_eq!(writer.close().await.unwrap(), end(2));
        assert_eq!(said(&frames(&archive, START)).len(), messages.len() - 1 + 3);
        let rest = frames(&archive, end(1));
        assert_eq!(said(&rest), flat(&[transaction_of_one(2)]));
        assert_eq!(pgsluice::verify::verify(&archive, |_| ()).unwrap().problems, []);
    }
}

fn transaction_of_one(number: u64) -> Vec<Vec<u8>> {
    vec![begin(end(number), 8), insert(100, number, b"small"), commit(end(number))]
}

#[tokio::test]
async fn a_discarded_transaction_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let small = transactions(1);
    append(&mut writer, &small[0]);
    let mut expected = small;
    for round in 0..3u64 {
        let messages = huge(2 + round);
        append(&mut writer, &messages[..messages.len() - 1 - round as usize]);
        writer.flush();
        writer.discard();
        assert_eq!(writer.received(), end(1 + round));
        // It comes again, here shorter; the definitions of the discarded one must not be missed.
        let again = transaction_of_one(2 + round);
        append(&mut writer, &again);
        expected.push(again);
        if round == 1 {
            writer.seal();
        }
    }
    let at_end = huge(9);
    append(&mut writer, &at_end[..100]);
    assert_eq!(writer.close().await.unwrap(), end(4));
    assert_eq!(said(&frames(&archive, START)), flat(&expected));
    assert_eq!(pgsluice::verify::verify(&archive, |_| ()).unwrap().problems, []);
}

#[tokio::test]
async fn each_segment_describes_its_relations_itself() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let sent = transactions(6);
    for messages in &sent {
        append(&mut writer, messages);
        writer.seal();
    }
    let last = vec![begin(end(7), 7), truncate(&[200, 100]), commit(end(7))];
    append(&mut writer, &last);
    writer.close().await.unwrap();
    for name in archive.segments().unwrap() {
        let mut reader = Reader::open(&archive, name.after, None).unwrap();
        let messages = messages(&[reader.try_next().unwrap().unwrap()]);
        let place = |wanted: &[u8]| messages.iter().position(|message| message == wanted);
        let mood = place(&type_definition(900, "mood")).unwrap();
        assert!(mood < place(&relation(200, "two", 900)).unwrap());
        assert!(place(&relation(100, "one", 25)).is_some());
        assert_eq!(messages.iter().filter(|message| message[0] == b'R').count(), 2);
    }
}

#[tokio::test]
async fn a_definition_holds_from_where_it_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let (old, new) = (relation(100, "one", 25), relation(100, "uno", 20));
    append(&mut writer, &[begin(end(1), 1), old.clone(), insert(100, 1, b"a"), commit(end(1))]);
    writer.flush();
    append(
        &mut writer,
        &[begin(end(2), 2), insert(100, 2, b"b"), new.clone(), insert(100, 3, b"c"), commit(end(2))],
    );
    // Asked to be sealed inside a transaction, it waits for the end, or the insert of row 2 would change its meaning.
    append(&mut writer, &[begin(end(3), 3), insert(100, 4, b"d")]);
    writer.seal();
    append(&mut writer, &[commit(end(3)), begin(end(4), 4), insert(100, 5, b"e"), commit(end(4))]);
    writer.close().await.unwrap();
    let names: Vec<_> = archive.segments().unwrap().iter().map(|name| name.through.unwrap()).collect();
    assert_eq!(names, [end(3), end(4)]);
    let behind_first = messages(&frames(&archive, end(1)));
    assert_eq!(behind_first.iter().find(|message| message[0] == b'R'), Some(&old));
    assert_eq!(behind_first.iter().filter(|message| **message == new).count(), 2);
    assert_eq!(messages(&frames(&archive, end(3)))[1], new);
}

#[tokio::test]
async fn disorder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    append(&mut writer, &transactions(1)[0]);
    let cases: [(&str, &[Vec<u8>]); 9] = [
        ("change outside", &[insert(100, 1, b"")]),
        ("commit outside", &[commit(end(3))]),
        ("begin inside", &[begin(end(2), 1), begin(end(2), 1)]),
        ("the same commit again", &[begin(end(1), 1), commit(end(1))]),
        ("unknown relation", &[begin(end(2), 1), insert(77, 1, b"")]),
        ("truncate of an unknown relation", &[begin(end(2), 1), truncate(&[100, 77])]),
        ("short message", &[begin(end(2), 1)[..9].to_vec()]),
        ("streamed transaction", &[b"S\0\0\0\x01\x01".to_vec()]),
        ("nothing", &[Vec::new()]),
    ];
    for (what, messages) in cases {
        let results: Vec<_> = messages.iter().map(|message| writer.append(message)).collect();
        assert!(results.last().unwrap().is_err(), "{what}");
        assert!(results.iter().rev().skip(1).all(Result::is_ok), "{what}");
        writer.discard();
    }
    let again = transaction_of_one(2);
    append(&mut writer, &again);
    assert_eq!(writer.close().await.unwrap(), end(2));
    assert_eq!(said(&frames(&archive, START)), flat(&[transactions(1).remove(0), again]));
}

#[tokio::test]
async fn segments_are_sealed_by_size_count_and_age() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let options =
        WriterOptions { segment_bytes_max: 4_000, segment_age_seconds: 600, ..WriterOptions::default() };
    let mut writer = Writer::open(&archive, 1, options).unwrap();
    let sent = transactions(300);
    for (number, messages) in sent.iter().enumerate() {
        append(&mut writer, messages);
        writer.flush();
        durable(&writer, end(number as u64 + 1)).await;
    }
    writer.close().await.unwrap();
    let count = archive.segments().unwrap().len();
    assert!((5..60).contains(&count), "{count}");

    let options = WriterOptions { segment_age_seconds: 0, ..WriterOptions::default() };
    let mut writer = Writer::open(&archive, 1, options).unwrap();
    writer.tick();
    append(&mut writer, &[relation(100, "one", 25)]);
    append(&mut writer, &transaction_of_one(301));
    writer.flush();
    append(&mut writer, &transaction_of_one(302));
    writer.close().await.unwrap();
    assert_eq!(archive.segments().unwrap().len(), count + 2);

    let options = WriterOptions { segment_transactions_max: 10, ..WriterOptions::default() };
    let mut writer = Writer::open(&archive, 1, options).unwrap();
    append(&mut writer, &[relation(100, "one", 25)]);
    (303..=327).for_each(|number| append(&mut writer, &transaction_of_one(number)));
    writer.close().await.unwrap();
    assert_eq!(archive.segments().unwrap().len(), count + 5);
    assert_eq!(pgsluice::verify::verify(&archive, |_| ()).unwrap().problems, []);
}

#[tokio::test]
async fn messages_outside_transactions_and_timelines_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let mut writer = open(&archive);
    let note = b"M\0\0\0\0\0\0\0\x10\x10app\0\0\0\0\x02hi".to_vec();
    append(&mut writer, std::slice::from_ref(&note));
    append(&mut writer, &transactions(1)[0]);
    append(&mut writer, std::slice::from_ref(&note));
    assert_eq!(writer.timeline(), 1);
    writer.continue_on(1);
    writer.continue_on(2);
    writer.continue_on(3);
    append(&mut writer, &transaction_of_one(2));
    writer.close().await.unwrap();
    let read = said(&frames(&archive, START));
    assert_eq!(read.iter().filter(|message| **message == note).count(), 2);
    assert_eq!(read.len(), 2 + 5 + 3);
    let writer = open(&archive);
    assert_eq!(writer.timeline(), 3);
    assert_eq!(writer.received(), end(2));
    drop(writer);
    let timelines: Vec<_> = archive
        .segments()
        .unwrap()
        .iter()
        .map(|name| pgsluice::archive::show(&archive, &name.to_string()).unwrap().timeline)
        .collect();
    assert_eq!(timelines, [1, 3]);
    assert_eq!(pgsluice::verify::verify(&archive, |_| ()).unwrap().problems, []);
    assert!(Reader::open(&archive, Position(end(2).0), None).unwrap().try_next().unwrap().is_none());
}
