//! How fast the log takes small messages, and what they cost on disk:
//! `cargo bench --profile release --bench log_throughput [-- TRANSACTIONS [ARCHIVE]]`. Shaped as pgbench's: three updates and an
//! insert. The same with a key. Then the codecs on one core, on the records of these, or of the archive whose folder is given.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use pgsluice::archive::{Archive, ArchiveId, Location, Manifest, Reader, Writer, WriterOptions};
use pgsluice::model::Position;
use pgsluice::segment::{Key, Keyring, from_transposed, transposed};

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let transactions = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(250_000u64);
    let folder = tempfile::tempdir_in(".").unwrap();
    let archive = log(&folder.path().join("plain"), Keyring::default(), transactions);
    println!("with a key:");
    log(&folder.path().join("encrypted"), Keyring::new(vec![Key::new([1; 32])]), transactions);
    let other = arguments.next().map(|folder| Archive::open(folder.as_ref()).unwrap());
    codecs(other.as_ref().unwrap_or(&archive));
}

/// Writes a log and reads it.
fn log(folder: &Path, keys: Keyring, transactions: u64) -> Archive {
    let manifest = Manifest {
        format: Manifest::FORMAT,
        archive_id: ArchiveId::random().unwrap(),
        name: "throughput".into(),
        system_identifier: 1,
        database: "app".into(),
        slot: "pgsluice".into(),
        publication: "pgsluice".into(),
        plugin: "pgoutput".into(),
        server_version_num: 150_000,
        server_encoding: "UTF8".into(),
        start: Position(0x1000),
        created: String::new(),
    };
    let archive = Location { keys, ..Location::folder(folder) }.create(manifest).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut source = Source { random: 1, end: 0x1000, time: 800_000_000_000_000, message: Vec::new() };
    let (mut raw, mut in_append) = (0u64, std::time::Duration::ZERO);
    let start = Instant::now();
    runtime.block_on(async {
        let mut writer = Writer::open(&archive, 1, WriterOptions::default()).unwrap();
        for oid in 1..=4 {
            writer.append(&source.relation(oid)).unwrap();
        }
        let mut batch = Vec::new();
        for number in 0..transactions {
            source.transaction(number as u32, &mut batch);
            if batch.len() > 5_000 || number + 1 == transactions {
                let clock = Instant::now();
                for message in &batch {
                    raw += message.len() as u64;
                    writer.append(message).unwrap();
                }
                in_append += clock.elapsed();
                batch.clear();
                writer.room().await;
            }
        }
        writer.close().await.unwrap();
    });
    let elapsed = start.elapsed();
    let mut stored = 0;
    for name in archive.segments().unwrap() {
        stored += std::fs::metadata(archive.segment_path(name)).unwrap().len();
    }
    let megabytes = raw as f64 / 1e6;
    println!(
        "written  {megabytes:.0} MB in {elapsed:.2?}: {:.0} MB/s with making the messages",
        megabytes / elapsed.as_secs_f64()
    );
    println!("append   {in_append:.2?} of it: {:.0} MB/s", megabytes / in_append.as_secs_f64());
    println!(
        "stored   {stored} bytes: {:.1} a transaction, {:.2} times smaller",
        stored as f64 / transactions as f64,
        raw as f64 / stored as f64
    );
    let (mut frames, mut records) = (0, 0u64);
    let start = Instant::now();
    let mut reader = Reader::open(&archive, Position(0x1000), None).unwrap();
    while let Some(frame) = reader.try_next().unwrap() {
        frames += 1;
        records += frame.records().count() as u64;
    }
    let elapsed = start.elapsed();
    println!(
        "read     {records} messages in {frames} frames in {elapsed:.2?}: {:.0} MB/s",
        megabytes / elapsed.as_secs_f64()
    );
    archive
}

/// Long frames and nothing else: zstd at level 1 of the whole stream, zstd frame by frame, transposed.
fn codecs(archive: &Archive) {
    let mut reader = Reader::open(archive, archive.manifest().start, None).unwrap();
    let (mut frames, mut stream) = (vec![Vec::new()], Vec::new());
    let mut transactions = 0;
    while let Some(frame) = reader.try_next().unwrap() {
        transactions += frame.transactions;
        frame.records().for_each(|message| stream.extend_from_slice(message.unwrap()));
        if frames.last().unwrap().len() + frame.raw.len() > 5 << 18 {
            frames.push(Vec::new());
        }
        frames.last_mut().unwrap().extend_from_slice(&frame.raw);
        if stream.len() > 400 << 20 {
            break;
        }
    }
    let megabytes = stream.len() as f64 / 1e6;
    let line = |what: &str, bytes: usize, clock: Instant| {
        let speed = megabytes / clock.elapsed().as_secs_f64();
        let each = bytes as f64 / f64::from(transactions);
        println!("{what:22} {bytes:>10} bytes, {each:6.1} a transaction, {speed:4.0} MB/s");
    };
    let clock = Instant::now();
    let whole = zstd::bulk::compress(&stream, 1).unwrap().len();
    line("zstd -1 of the stream", whole, clock);
    let clock = Instant::now();
    let zstd: Vec<_> = frames.iter().map(|raw| zstd::bulk::compress(raw, 1).unwrap()).collect();
    line("zstd -1 of frames", zstd.iter().map(Vec::len).sum(), clock);
    let clock = Instant::now();
    let transposed: Vec<_> = frames.iter().map(|raw| transposed(raw, 1).unwrap()).collect();
    let bytes = transposed.iter().map(Vec::len).sum();
    line("transposed", bytes, clock);
    let clock = Instant::now();
    for (payload, raw) in zstd.iter().zip(&frames) {
        assert_eq!(zstd::bulk::decompress(payload, raw.len()).unwrap().len(), raw.len());
    }
    line("zstd, back", zstd.iter().map(Vec::len).sum(), clock);
    let clock = Instant::now();
    for (payload, raw) in transposed.iter().zip(&frames) {
        assert_eq!(from_transposed(payload, raw.len()).unwrap().len(), raw.len());
    }
    line("transposed, back", bytes, clock);
    println!("transposed is {:.3} of zstd -1 of the stream", bytes as f64 / whole as f64);
}

struct Source {
    random: u64,
    end: u64,
    time: i64,
    message: Vec<u8>,
}

impl Source {
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn relation(&self, oid: u32) -> Vec<u8> {
        let mut out = vec![b'R'];
        out.extend(oid.to_be_bytes());
        out.extend(b"public\0pgbench\0d\0\x01\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF");
        out
    }

    fn row(&mut self, kind: u8, oid: u32, values: &[&str]) -> Vec<u8> {
        self.message.clear();
        self.message.push(kind);
        self.message.extend(oid.to_be_bytes());
        self.message.push(b'N');
        self.message.extend((values.len() as u16).to_be_bytes());
        for value in values {
            self.message.push(b't');
            self.message.extend((value.len() as u32).to_be_bytes());
            self.message.extend(value.as_bytes());
        }
        self.message.clone()
    }

    fn transaction(&mut self, xid: u32, out: &mut Vec<Vec<u8>>) {
        self.end += 0x240 + self.random(64) * 8;
        self.time += 80 + self.random(300) as i64;
        let (account, teller, delta) =
            (self.random(1_000_000), self.random(100), self.random(10_000) as i64 - 5_000);
        let balance = (self.random(1_000_000) as i64 - 500_000).to_string();
        let (account, teller, delta) = (account.to_string(), teller.to_string(), delta.to_string());
        let mut begin = vec![b'B'];
        begin.extend((self.end - 0x30).to_be_bytes());
        begin.extend(self.time.to_be_bytes());
        begin.extend((700 + xid + self.random(8) as u32).to_be_bytes());
        out.push(begin);
        let filler = " ".repeat(84);
        out.push(self.row(b'U', 1, &[&account, "1", &balance, &filler]));
        out.push(self.row(b'U', 2, &[&teller, "1", &balance, ""]));
        out.push(self.row(b'U', 3, &["1", &balance, ""]));
        let time = format!(
            "2026-01-01 00:{:02}:{:02}.{:06}",
            xid / 60_000 % 60,
            xid / 1_000 % 60,
            self.time % 1_000_000
        );
        out.push(self.row(b'I', 4, &[&teller, "1", &account, &delta, &time, "                      "]));
        let mut commit = vec![b'C', 0];
        commit.extend((self.end - 0x30).to_be_bytes());
        commit.extend(self.end.to_be_bytes());
        commit.extend(self.time.to_be_bytes());
        out.push(commit);
    }
}
