//! A file of a base, written and read: in the archive's folder, or by way of it in the archive's store.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::model::Fault;
use crate::segment::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BlockHeader, Damage, HEADER_BYTES, PartDecoder, PartEncoder,
};

use super::{Archive, ArchiveId, BaseBegin, BaseFile, disk};

/// What the name of a file ends in that is being written.
const STAGED: &str = ".part";
const ZSTD_LEVEL: i32 = 3;
/// Bytes in a block: large enough to compress well, small enough for one to be in each worker's hands.
const BLOCK_BYTES: usize = 1 << 20;

/// Writes a file of a base. What is dropped unfinished leaves nothing that counts.
pub struct BaseWriter {
    archive: Archive,
    key: String,
    name: String,
    staged: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    encoder: PartEncoder,
    waiting: Vec<u8>,
    out: Vec<u8>,
    bytes: u64,
}

impl Archive {
    /// Begins a file, part `number` of a table of the source; of table 0, the schema. Blocks on the disk.
    pub fn base_writer(&self, begin: &BaseBegin, table: u32, number: u32) -> Result<BaseWriter, Fault> {
        let name = format!("{table}-{number}-{}", ArchiveId::random()?);
        let key = begin.file(&name);
        let staged = self.root().join(format!("{key}{STAGED}"));
        if let Some(folder) = staged.parent() {
            self.make_folder(folder)?;
        }
        let file = disk::create_new(&staged).map_err(|error| disk::fault("cannot make", &staged, &error))?;
        let header = begin.header(self, table, number);
        let encoder = PartEncoder::new(header, ZSTD_LEVEL, self.encryption()?);
        let out = encoder.header().to_vec();
        Ok(BaseWriter {
            archive: self.clone(),
            key,
            name,
            staged,
            file,
            hasher: blake3::Hasher::new(),
            encoder,
            waiting: Vec::with_capacity(BLOCK_BYTES),
            out,
            bytes: 0,
        })
    }

    /// Opens a file of a base, which must be the one that is expected. Blocks on disk and network.
    pub fn base_reader(
        &self,
        begin: &BaseBegin,
        table: u32,
        number: u32,
        expected: &BaseFile,
    ) -> Result<BaseReader, Fault> {
        let key = begin.file(&expected.name);
        let path = self.root().join(&key);
        let mut reader = BaseReader {
            what: format!("file {key} of the archive"),
            file: open(self, &key, &path)?,
            hasher: blake3::Hasher::new(),
            decoder: None,
            expected: expected.clone(),
            bytes: 0,
        };
        let mut bytes = [0; HEADER_BYTES];
        reader.fill(&mut bytes)?;
        let header = begin.header(self, table, number);
        let decoder = PartDecoder::new(&bytes, header, self.keys());
        reader.decoder = Some(decoder.map_err(|damage| reader.damaged(&damage))?);
        Ok(reader)
    }
}

/// The file; one that only the store has is brought, and has no name any more as soon as it is open.
fn open(archive: &Archive, key: &str, path: &std::path::Path) -> Result<File, Fault> {
    let fault = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => missing(key),
        _ => disk::fault("cannot read", path, &error),
    };
    let Some(depot) = archive.depot() else { return disk::open_to_read(path).map_err(fault) };
    if let Some(folder) = path.parent() {
        archive.make_folder(folder)?;
    }
    let brought = path.with_extension(format!("{}{STAGED}", ArchiveId::random()?));
    let mut file = disk::create_new(&brought).map_err(fault)?;
    let came = depot.store().download(key, &mut file);
    disk::remove(&brought)?;
    came?.ok_or_else(|| missing(key))?;
    io::Seek::rewind(&mut file).map_err(fault)?;
    Ok(file)
}

fn missing(key: &str) -> Fault {
    Fault::person(format!("{key} is missing in the archive"))
        .hint("bring it back from a copy of the archive, or use another base: pgsluice archive bases")
}

impl BaseWriter {
    /// Appends bytes. Blocks on the disk.
    pub fn write(&mut self, mut raw: &[u8]) -> Result<(), Fault> {
        while !raw.is_empty() {
            let room = BLOCK_BYTES.saturating_sub(self.waiting.len());
            let (now, later) = raw.split_at(room.min(raw.len()));
            self.waiting.extend_from_slice(now);
            raw = later;
            if self.waiting.len() >= BLOCK_BYTES {
                self.block()?;
            }
        }
        Ok(())
    }

    fn block(&mut self) -> Result<(), Fault> {
        if !self.waiting.is_empty() {
            self.encoder.block(&self.waiting, &mut self.out);
            self.waiting.clear();
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.hasher.update(&self.out);
        self.bytes += self.out.len() as u64;
        let written = self.file.write_all(&self.out);
        self.out.clear();
        written.map_err(|error| disk::fault("cannot write", &self.staged, &error))
    }

    /// Makes it durable under its name, in the store where there is one.
    pub fn finish(mut self) -> Result<BaseFile, Fault> {
        self.block()?;
        let BaseWriter { archive, key, name, staged, mut file, mut hasher, encoder, mut out, bytes, .. } =
            self;
        let raw_bytes = encoder.raw_bytes();
        encoder.end(&mut out);
        hasher.update(&out);
        let fault = |error: io::Error| disk::fault("cannot write", &staged, &error);
        file.write_all(&out).map_err(fault)?;
        file.sync_all().map_err(fault)?;
        settle(&archive, &key, &staged)?;
        let bytes = bytes + out.len() as u64;
        Ok(BaseFile { name, bytes, raw_bytes, hash: hasher.finalize().to_hex().to_string() })
    }
}

/// Gives a whole file its name.
fn settle(archive: &Archive, key: &str, staged: &std::path::Path) -> Result<(), Fault> {
    if let Some(depot) = archive.depot() {
        depot.store().upload(key, staged)?;
        return disk::remove(staged);
    }
    let path = archive.root().join(key);
    let name = || {
        std::fs::rename(staged, &path)?;
        path.parent().map_or(Ok(()), disk::sync_folder)
    };
    name().map_err(|error| disk::fault("cannot write", &path, &error))
}

/// Brings a file over from another archive, as it is.
pub(super) fn take(
    archive: &Archive,
    begin: &BaseBegin,
    expected: &BaseFile,
    mut from: BaseReader,
) -> Result<(), Fault> {
    // First it is read through, and its hash is right.
    while from.block()?.is_some() {}
    let key = begin.file(&expected.name);
    let staged = archive.root().join(format!("{key}{STAGED}"));
    if let Some(folder) = staged.parent() {
        archive.make_folder(folder)?;
    }
    let mut write = || {
        io::Seek::rewind(&mut from.file)?;
        let mut file = disk::open_or_create(&staged)?;
        file.set_len(0)?;
        io::copy(&mut from.file, &mut file)?;
        file.sync_all()
    };
    write().map_err(|error| disk::fault("cannot write", &staged, &error))?;
    settle(archive, &key, &staged)
}

/// Reads a file of a base.
pub struct BaseReader {
    what: String,
    file: File,
    hasher: blake3::Hasher,
    /// Once the header was read.
    decoder: Option<PartDecoder>,
    expected: BaseFile,
    bytes: u64,
}

impl BaseReader {
    /// The next bytes; none once all of them have come, and the file has proved to be what was written.
    pub fn block(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let mut head = [0; BLOCK_HEADER_BYTES];
        self.fill(&mut head)?;
        let header = BlockHeader::decode(head).map_err(|damage| self.damaged(&damage))?;
        let mut stored = vec![0; header.stored_len()];
        self.fill(&mut stored)?;
        let Some(decoder) = &mut self.decoder else { return Ok(None) };
        let block = decoder.block(&header, &stored).map_err(|damage| self.damaged(&damage))?;
        let hash = || self.hasher.finalize().to_hex().to_string();
        if block.is_none() && (self.bytes != self.expected.bytes || hash() != self.expected.hash) {
            return Err(self.damaged(&Damage::Checksum("the whole file")));
        }
        Ok(block)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(&Damage::Short("the file")),
            _ => Fault::stop(format!("{} cannot be read: {error}", self.what)),
        })?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn damaged(&self, damage: &Damage) -> Fault {
        damage.locked(&self.what).unwrap_or_else(|| {
            Fault::person(format!("{} is damaged: {damage}", self.what))
                .hint("bring it back from a copy of the archive, or use another base: pgsluice archive bases")
        })
    }
}

const _: () = assert!(BLOCK_BYTES <= BLOCK_BYTES_MAX);
