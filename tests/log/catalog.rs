//! The catalog is derived: however it came about, it holds the same, and finds what the segments hold.

use std::fs;
use std::path::Path;

use pgsluice::archive::{Archive, Lookup, find, list, reindex, show, totals};
use pgsluice::catalog::Catalog;
use pgsluice::model::{Position, Timestamp, Xid};

use super::messages::*;

type Entries = Vec<(Box<[u8]>, Box<[u8]>)>;

fn entries(archive: &Archive) -> Entries {
    let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0).unwrap();
    catalog.entries().unwrap()
}

async fn grown(folder: &Path) -> Archive {
    let archive = archive(folder);
    let sent = transactions(30);
    for chunk in sent.chunks(10) {
        let mut writer = open(&archive);
        for (number, messages) in chunk.iter().enumerate() {
            if number == 0 && messages.len() == 5 {
                append(
                    &mut writer,
                    &[relation(100, "one", 25), type_definition(900, "mood"), relation(200, "two", 900)],
                );
            }
            append(&mut writer, messages);
            if number % 4 == 3 {
                writer.seal();
            } else if number % 2 == 1 {
                writer.flush();
            }
        }
        writer.close().await.unwrap();
    }
    archive
}

#[tokio::test]
async fn rebuilt_and_grown_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let archive = grown(folder.path()).await;
    let grown = entries(&archive);
    assert!(grown.len() > 9 * 2, "{}", grown.len());
    let segments = archive.segments().unwrap().len();
    assert_eq!(reindex(&archive, |_, _| ()).unwrap(), segments);
    assert_eq!(entries(&archive), grown);

    // Missing, damaged, of another archive: healed by the next writer.
    let catalog = archive.catalog_folder();
    let harms: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(&catalog).unwrap(),
        &|| fs::write(catalog.join("CURRENT"), b"nonsense").unwrap(),
        &|| {
            for entry in fs::read_dir(&catalog).unwrap() {
                let path = entry.unwrap().path();
                let length = fs::metadata(&path).unwrap().len() as usize;
                fs::write(&path, vec![0xA5; length.max(64)]).unwrap();
            }
        },
        &|| {
            fs::remove_dir_all(&catalog).unwrap();
            drop(Catalog::create(&catalog, [1; 16]).unwrap());
        },
    ];
    for (number, harm) in harms.iter().enumerate() {
        harm();
        open(&archive).close().await.unwrap();
        assert_eq!(entries(&archive), grown, "harm {number}");
    }
    // Segments that are gone are forgotten.
    let mut kept = archive.segments().unwrap();
    for name in kept.drain(..2) {
        fs::remove_file(archive.segment_path(name)).unwrap();
    }
    open(&archive).close().await.unwrap();
    let healed = entries(&archive);
    reindex(&archive, |_, _| ()).unwrap();
    assert_eq!(entries(&archive), healed);
    assert!(healed.len() < grown.len());
}

#[tokio::test]
async fn the_catalog_finds_frames() {
    let folder = tempfile::tempdir().unwrap();
    let archive = grown(folder.path()).await;
    let catalog = Catalog::open(&archive.catalog_folder(), archive.manifest().archive_id.0).unwrap();
    let rows = catalog.segments().unwrap();
    assert_eq!(rows.len(), archive.segments().unwrap().len());
    assert_eq!(rows.iter().map(|row| row.transactions).sum::<u64>(), 30);
    for number in 1..=30 {
        let frame = catalog.frame_at(end(number)).unwrap().unwrap();
        assert!(frame.first <= end(number) && end(number) <= frame.last);
        assert_eq!(catalog.frame_since(Timestamp(time(end(number)))).unwrap(), Some(frame));
        assert_eq!(catalog.frames_of_xid(Xid(end(number).0 as u32)).unwrap(), [frame]);
    }
    assert_eq!(catalog.frame_at(Position(end(30).0 + 1)).unwrap(), None);
    assert_eq!(catalog.frame_since(Timestamp(i64::MAX)).unwrap(), None);
    assert_eq!(catalog.frames_of_xid(Xid(1)).unwrap(), []);
    let history = catalog.relation_history(200).unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].after, &history[0].message), (START, &relation(200, "two", 900)));
    assert_eq!(catalog.relation_history(201).unwrap(), []);
}

#[tokio::test]
async fn looking_works_beside_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let archive = grown(folder.path()).await;
    let mut writer = open(&archive);
    append(
        &mut writer,
        &[relation(100, "renamed", 25), type_definition(900, "mood"), relation(200, "two", 900)],
    );
    append(&mut writer, &transaction(end(31)));
    writer.flush();
    durable(&writer, end(31)).await;
    append(&mut writer, &[begin(end(32), 1)]);

    for number in 1..=31 {
        let lookups = [
            Lookup::Lsn(end(number)),
            Lookup::Lsn(Position(end(number).0 - 0xFF)),
            Lookup::Time(Timestamp(time(end(number)))),
            Lookup::Xid(Xid(end(number).0 as u32)),
        ];
        for lookup in lookups {
            let found = find(&archive, lookup.clone()).unwrap();
            assert_eq!(found.len(), 1, "{lookup:?}");
            assert_eq!(found[0].end_lsn, end(number), "{lookup:?}");
        }
    }
    assert_eq!(find(&archive, Lookup::Lsn(Position(end(31).0 + 1))).unwrap(), []);
    assert_eq!(find(&archive, Lookup::Xid(Xid(3))).unwrap(), []);

    let lines = list(&archive).unwrap();
    assert_eq!(lines.len(), archive.segments().unwrap().len() + 1);
    assert!(lines.windows(2).all(|pair| pair[0].through == pair[1].after));
    let last = lines.last().unwrap();
    let json = serde_json::to_value(last).unwrap();
    assert_eq!((json["state"].as_str(), json["transactions"].as_u64()), (Some("open"), Some(1)));
    assert_eq!(json["through"].as_str(), Some("0/2F00"));
    let shown = show(&archive, "0/2E80").unwrap();
    assert_eq!((shown.summary.name.as_str(), shown.relations.len()), (last.name.as_str(), 2));
    assert_eq!(show(&archive, &lines[0].name).unwrap().summary, lines[0]);
    assert_eq!(show(&archive, "nonsense").unwrap_err().exit_code(), 2);

    let sums = totals(&archive).unwrap();
    assert_eq!((sums.first_lsn, sums.last_lsn), (START, end(31)));
    assert_eq!((sums.transactions, sums.changes, sums.segments), (31, 93, lines.len() as u64));
    let tables: Vec<_> =
        sums.tables.iter().map(|table| (table.name.as_str(), table.events.inserts)).collect();
    assert_eq!(tables, [("public.renamed", 62), ("public.two", 31)]);
    assert_eq!(pgsluice::verify::verify(&archive, |_| ()).unwrap().problems, []);
    drop(writer);
}
