//! Archives of very many small segments, made by the real encoder without a receiver, in a folder and in a folder as a store.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pgsluice::archive::{Archive, ArchiveId, Location};
use pgsluice::segment::{Cut, Encoder, Header, SegmentName, push_record};
use pgsluice::store::Place;

use crate::log::messages::{START, begin, commit, end, insert, manifest, relation};

/// What a target must have for these archives.
pub const TABLE: &str = "create table one(id int primary key, value text);";

/// Segments of one transaction each, which inserts the row of its number into `one`.
pub fn segments(folder: &Path, count: u64) -> Archive {
    let archive = Archive::create(folder, manifest()).unwrap();
    let (mut chain, mut after) = ([0; 32], START);
    for number in 1..=count {
        let header = Header {
            timeline: 1,
            system_identifier: manifest().system_identifier,
            after,
            chain,
            archive_id: manifest().archive_id.0,
            encrypted: false,
        };
        let mut raw = Vec::new();
        for message in [
            begin(end(number), number as u32),
            relation(100, "one", 25),
            insert(100, number, b"x"),
            commit(end(number)),
        ] {
            push_record(&mut raw, &message);
        }
        let mut bytes = header.encode().to_vec();
        let mut encoder = Encoder::new(header, 1, None);
        let through = end(number);
        encoder.frame(&Cut { raw: Bytes::from(raw), ends_on_commit: true, through }, &mut bytes).unwrap();
        chain = encoder.seal(&mut bytes).chain;
        fs::write(archive.segment_path(SegmentName::sealed(after, through)), bytes).unwrap();
        after = through;
    }
    archive
}

/// Moves the segments of a folder into another one as a store, as if a receiver had brought them there.
pub fn into_store(archive: &Archive, store: &Path) {
    let write = |key: &str, text: String| {
        let path = store.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("manifest.json", fs::read_to_string(archive.root().join("manifest.json")).unwrap());
    write(
        "writers/00000001.json",
        serde_json::json!({ "writer": ArchiveId([1; 16]).to_string() }).to_string(),
    );
    write("begins/00000001.json", serde_json::json!({ "after": START }).to_string());
    fs::rename(archive.segments_folder(), store.join("segments-00000001")).unwrap();
    fs::create_dir_all(store.join("segments")).unwrap();
    fs::rename(store.join("segments-00000001"), store.join("segments/00000001")).unwrap();
}

/// An archive in a folder as a store, with a spool of its own.
pub fn stored(store: &Path, spool: PathBuf) -> Archive {
    let place = Place::parse(&format!("file://{}", store.display())).unwrap();
    Location { store: place, ..Location::folder(spool) }.open().unwrap()
}
