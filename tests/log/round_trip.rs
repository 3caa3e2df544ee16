use pgsluice::archive::Reader;
use pgsluice::model::Position;

use super::messages::*;

#[tokio::test]
async fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    let sent = transactions(50);
    let mut writer = open(&archive);
    assert_eq!(writer.received(), START);
    for (number, messages) in sent.iter().enumerate() {
        append(&mut writer, messages);
        if number % 7 == 0 {
            writer.flush();
        }
        if number % 20 == 19 {
            writer.seal();
        }
    }
    assert_eq!(writer.received(), end(50));
    assert_eq!(writer.close().await.unwrap(), end(50));

    let read = frames(&archive, START);
    assert_eq!(said(&read), flat(&sent));
    assert!(read.iter().all(|frame| frame.ends_on_commit));
    let names: Vec<_> = archive.listing().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "0000000000001000-0000000000002400.seg",
            "0000000000002400-0000000000003800.seg",
            "0000000000003800-0000000000004200.seg"
        ]
    );
    for number in 0..50 {
        let rest = frames(&archive, end(number));
        let mut expected = flat(&sent[number as usize..]);
        let found = said(&rest);
        assert!(found.ends_with(&expected), "from {number}");
        // Relations are described before they are used, wherever one begins.
        for kind in [b'R', b'Y'] {
            assert!(messages(&rest).iter().any(|message| message[0] == kind), "from {number}");
        }
        expected.clear();
    }
    assert!(frames(&archive, end(50)).is_empty());
    for (after, why) in [(Position(0xFFF), "comes after"), (Position(end(50).0 + 1), "up to 0/4200")] {
        let fault = Reader::open(&archive, after, None).err().unwrap();
        assert!(fault.message.contains(why), "{fault}");
        assert_eq!(fault.exit_code(), 4);
    }
}

#[tokio::test]
async fn a_reader_follows_a_living_writer() {
    for with_tail in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(folder.path());
        let sent = transactions(300);
        let mut writer = open(&archive);
        let mut reader = Reader::open(&archive, START, with_tail.then(|| writer.tail())).unwrap();
        assert_eq!(reader.try_next().unwrap(), None);
        let expected = flat(&sent);
        let reading = tokio::spawn(async move {
            let (mut got, mut ends_in_memory) = (Vec::new(), 0);
            while said(&got).len() < 300 * 5 {
                let in_memory = reader.try_next_in_memory().unwrap();
                ends_in_memory += usize::from(in_memory == Some(None));
                match in_memory.map_or_else(|| reader.try_next(), Ok).unwrap() {
                    Some(frame) => got.push(frame),
                    None => reader.wait().await,
                }
            }
            (got, ends_in_memory)
        });
        for (number, messages) in sent.iter().enumerate() {
            append(&mut writer, messages);
            writer.flush();
            if number % 50 == 49 {
                writer.seal();
            }
            if number % 10 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        let (got, ends_in_memory) =
            tokio::time::timeout(std::time::Duration::from_secs(20), reading).await.unwrap().unwrap();
        assert_eq!(said(&got), expected);
        assert_eq!(got.iter().any(|frame| frame.from_memory), with_tail);
        assert_eq!(ends_in_memory > 0, with_tail);
        writer.close().await.unwrap();
    }
}
