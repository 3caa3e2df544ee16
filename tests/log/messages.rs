//! pgoutput messages as a source would send them, and an archive to put them into.

use std::path::Path;

use pgsluice::archive::{Archive, ArchiveId, Frame, Manifest, Reader, Writer, WriterOptions};
use pgsluice::model::Position;

/// The archive's start in all tests.
pub(crate) const START: Position = Position(0x1000);

pub(crate) fn manifest() -> Manifest {
    Manifest {
        format: Manifest::FORMAT,
        archive_id: ArchiveId([7; 16]),
        name: "test".into(),
        system_identifier: 7_000_000_000_000_000_001,
        database: "app".into(),
        slot: "pgsluice".into(),
        publication: "pgsluice".into(),
        plugin: "pgoutput".into(),
        server_version_num: 150_020,
        server_encoding: "UTF8".into(),
        start: START,
        created: "2026-01-01T00:00:00Z".into(),
    }
}

pub(crate) fn archive(folder: &Path) -> Archive {
    Archive::create(folder, manifest()).unwrap()
}

pub(crate) fn begin(end: Position, xid: u32) -> Vec<u8> {
    let mut out = vec![b'B'];
    out.extend((end.0 - 0x30).to_be_bytes());
    out.extend(time(end).to_be_bytes());
    out.extend(xid.to_be_bytes());
    out
}

pub(crate) fn time(end: Position) -> i64 {
    800_000_000_000_000 + (end.0 as i64) * 11
}

pub(crate) fn commit(end: Position) -> Vec<u8> {
    let mut out = vec![b'C', 0];
    out.extend((end.0 - 0x30).to_be_bytes());
    out.extend(end.0.to_be_bytes());
    out.extend(time(end).to_be_bytes());
    out
}

/// A table of one int4 column and one of type `type_oid`.
pub(crate) fn relation(oid: u32, name: &str, type_oid: u32) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(oid.to_be_bytes());
    out.extend(b"public\0");
    out.extend(name.as_bytes());
    out.extend(b"\0d\0\x02\x01id\0");
    out.extend(23u32.to_be_bytes());
    out.extend((-1i32).to_be_bytes());
    out.extend(b"\0value\0");
    out.extend(type_oid.to_be_bytes());
    out.extend((-1i32).to_be_bytes());
    out
}

pub(crate) fn type_definition(oid: u32, name: &str) -> Vec<u8> {
    let mut out = vec![b'Y'];
    out.extend(oid.to_be_bytes());
    out.extend(b"public\0");
    out.extend(name.as_bytes());
    out.push(0);
    out
}

pub(crate) fn insert(oid: u32, id: u64, value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'I'];
    out.extend(oid.to_be_bytes());
    out.extend(b"N\0\x02t");
    let id = id.to_string();
    out.extend((id.len() as u32).to_be_bytes());
    out.extend(id.as_bytes());
    out.push(b't');
    out.extend((value.len() as u32).to_be_bytes());
    out.extend(value);
    out
}

pub(crate) fn truncate(oids: &[u32]) -> Vec<u8> {
    let mut out = vec![b'T'];
    out.extend((oids.len() as u32).to_be_bytes());
    out.push(0);
    oids.iter().for_each(|oid| out.extend(oid.to_be_bytes()));
    out
}

/// What gives its transaction a name.
pub(crate) fn pin(name: &str) -> Vec<u8> {
    let mut out = b"M\x01\0\0\0\0\0\0\0\x10pgsluice.pin\0".to_vec();
    out.extend((name.len() as u32).to_be_bytes());
    out.extend(name.as_bytes());
    out
}

/// A small transaction that ends at `end`: two inserts into relation 100, one into 200.
pub(crate) fn transaction(end: Position) -> Vec<Vec<u8>> {
    vec![
        begin(end, end.0 as u32),
        insert(100, end.0, b"some value of the row"),
        insert(100, end.0 + 1, b"another value of another row"),
        insert(200, end.0, b"x"),
        commit(end),
    ]
}

/// Transactions every 0x100 bytes of WAL; the first describes the relations.
pub(crate) fn transactions(count: u64) -> Vec<Vec<Vec<u8>>> {
    (1..=count)
        .map(|number| {
            let mut messages = transaction(end(number));
            if number == 1 {
                messages.splice(
                    1..1,
                    [relation(100, "one", 25), type_definition(900, "mood"), relation(200, "two", 900)],
                );
            }
            messages
        })
        .collect()
}

/// Where the transaction of that number ends.
pub(crate) fn end(number: u64) -> Position {
    Position(START.0 + number * 0x100)
}

pub(crate) fn append(writer: &mut Writer, messages: &[Vec<u8>]) {
    messages.iter().for_each(|message| writer.append(message).unwrap());
}

/// Small limits, so that little is enough to see everything happen.
pub(crate) fn options() -> WriterOptions {
    WriterOptions { tail_bytes: 1 << 20, ..WriterOptions::default() }
}

pub(crate) fn open(archive: &Archive) -> Writer {
    Writer::open(archive, 1, options()).unwrap()
}

/// Waits until everything up to there is durable.
pub(crate) async fn durable(writer: &Writer, position: Position) {
    let mut durable = writer.durable();
    let wait = durable.wait_for(|durable| durable.position >= position);
    tokio::time::timeout(std::time::Duration::from_secs(20), wait)
        .await
        .expect("not durable in time")
        .unwrap();
}

/// Everything that is durable behind `after`.
pub(crate) fn frames(archive: &Archive, after: Position) -> Vec<Frame> {
    drain(&mut Reader::open(archive, after, None).unwrap())
}

pub(crate) fn drain(reader: &mut Reader) -> Vec<Frame> {
    std::iter::from_fn(|| reader.try_next().unwrap()).collect()
}

pub(crate) fn messages(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().flat_map(|frame| frame.records().map(|message| message.unwrap().to_vec())).collect()
}

/// Without Relation and Type messages, which are repeated.
pub(crate) fn said(frames: &[Frame]) -> Vec<Vec<u8>> {
    let mut messages = messages(frames);
    messages.retain(|message| !matches!(message[0], b'R' | b'Y'));
    messages
}

pub(crate) fn flat(transactions: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    let mut messages: Vec<_> = transactions.iter().flatten().cloned().collect();
    messages.retain(|message| !matches!(message[0], b'R' | b'Y'));
    messages
}
