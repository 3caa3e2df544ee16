//! Messages of transactions whose commit was not seen yet: a little in memory, beyond that a file for each of them.
//!
//! ```text
//! file, then memory:  entry entry entry …        entry = length u32 | xid of the (sub)transaction u32 | CRC32C of the message u32 | message
//! ```
//!
//! Where the archive is encrypted, so is the file, with a key that is in memory only: what is written at once is a length (u64) and a box.
//!
//! It lasts as long as a connection, since the source sends such a transaction anew on the next one: what a crash left
//! is removed and never read, and nothing here is synced; a disk that gives back something else is noticed by the checksums.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::disk;
use crate::model::{Fault, Remedy, Xid};
use crate::segment::Cipher;

/// Bytes in memory, of all transactions together.
const MEMORY_BYTES_MAX: usize = 4 << 20;
const READ_BYTES: usize = 256 << 10;

pub(super) struct Spool {
    folder: PathBuf,
    encrypts: bool,
    open: HashMap<Xid, Spooled>,
    memory_bytes: usize,
    memory_bytes_max: usize,
    /// The disk was full when it was tried last; no more must be taken in.
    stalled: bool,
}

/// What there is of one transaction.
#[derive(Default)]
pub(super) struct Spooled {
    file: Option<SpoolFile>,
    /// Behind what is in the file.
    memory: Vec<u8>,
    /// Subtransactions that were rolled back.
    aborted: HashSet<Xid>,
    has_logical_messages: bool,
    /// A logical message may be of a subtransaction that was rolled back.
    is_doubtful: bool,
}

/// A file that goes when it is dropped.
struct SpoolFile {
    file: File,
    path: PathBuf,
    length: u64,
    cipher: Option<Cipher>,
    /// Of a box that was opened, what has not been read yet.
    opened: io::Cursor<Vec<u8>>,
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "a file of the spool could not be removed");
        }
    }
}

impl Spool {
    /// Makes the folder, or empties it. To be called only by the holder of the archive's lock.
    pub(super) fn open(folder: PathBuf, encrypts: bool) -> Result<Spool, Fault> {
        clear(&folder)?;
        Ok(Spool {
            folder,
            encrypts,
            open: HashMap::new(),
            memory_bytes: 0,
            memory_bytes_max: MEMORY_BYTES_MAX,
            stalled: false,
        })
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Takes in a message, given as its first byte and the rest, of `subxid` in the transaction `xid` (the two may be
    /// the same). It is kept in any case; where the disk is full afterwards, the spool is stalled.
    pub(super) fn append(&mut self, xid: Xid, subxid: Xid, tag: u8, rest: &[u8]) -> Result<(), Fault> {
        let length = u32::try_from(rest.len().saturating_add(1))
            .map_err(|_| Fault::stop(format!("a message of transaction {} is too long", xid.0)))?;
        let spooled = self.open.entry(xid).or_default();
        let before = spooled.memory.len();
        spooled.memory.extend_from_slice(&length.to_le_bytes());
        spooled.memory.extend_from_slice(&subxid.0.to_le_bytes());
        spooled.memory.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&[tag]), rest).to_le_bytes());
        spooled.memory.push(tag);
        spooled.memory.extend_from_slice(rest);
        spooled.has_logical_messages |= tag == b'M';
        self.memory_bytes += spooled.memory.len() - before;
        self.relieve()
    }

    /// Forgets a subtransaction, or the whole transaction where both are the same. One that was never seen is no error.
    pub(super) fn abort(&mut self, xid: Xid, subxid: Xid) {
        if xid == subxid {
            self.take(xid);
        } else if let Some(spooled) = self.open.get_mut(&xid) {
            spooled.aborted.insert(subxid);
            // The plugin tags a logical message with the transaction, whichever subtransaction it is of.
            spooled.is_doubtful |= spooled.has_logical_messages;
        }
    }

    /// Takes a transaction out. One that never had a message is empty.
    pub(super) fn take(&mut self, xid: Xid) -> Spooled {
        let spooled = self.open.remove(&xid).unwrap_or_default();
        self.memory_bytes -= spooled.memory.len();
        spooled
    }

    /// Writes to the disk what is too much for the memory, the longest first.
    pub(super) fn relieve(&mut self) -> Result<(), Fault> {
        while self.memory_bytes > self.memory_bytes_max {
            let Some((xid, spooled)) = self.open.iter_mut().max_by_key(|(_, s)| s.memory.len()) else {
                break;
            };
            let path = self.folder.join(format!("{}.spool", xid.0));
            match spooled.write(&path, self.encrypts) {
                Ok(bytes) => self.memory_bytes -= bytes,
                Err(error) if disk::is_full(&error) || disk::is_away(&error, &self.folder) => {
                    if !std::mem::replace(&mut self.stalled, true) {
                        tracing::warn!(%error, "the archive's disk is full or away: a transaction under way can't be taken in for now");
                    }
                    return Ok(());
                }
                Err(error) => return Err(disk::fault("cannot write", &path, &error)),
            }
        }
        if std::mem::take(&mut self.stalled) {
            tracing::info!("the archive's disk takes it in again");
        }
        Ok(())
    }
}

fn clear(folder: &Path) -> Result<(), Fault> {
    disk::create_folder(folder)?;
    let fault = |error: &io::Error| disk::fault("cannot empty", folder, error);
    let kind = std::fs::symlink_metadata(folder).map_err(|error| fault(&error))?.file_type();
    if !kind.is_dir() {
        return Err(Fault::stop(format!("{} is not a folder", folder.display())).hint(
            "move it away: transactions under way are kept there, and what is found there is removed",
        ));
    }
    for entry in std::fs::read_dir(folder).map_err(|error| fault(&error))? {
        let path = entry.map_err(|error| fault(&error))?.path();
        std::fs::remove_file(&path).map_err(|error| disk::fault("cannot remove", &path, &error))?;
    }
    Ok(())
}

impl Spooled {
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Moves what is in memory behind what is in the file; all of it or nothing. Gives the number of bytes.
    fn write(&mut self, path: &Path, encrypts: bool) -> io::Result<usize> {
        if self.file.is_none() {
            self.file = Some(SpoolFile::create(path, encrypts)?);
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        file.append(&self.memory)?;
        Ok(std::mem::take(&mut self.memory).len())
    }

    /// All messages in the order in which they came.
    pub(super) fn entries(self) -> Entries {
        let Spooled { file, memory, aborted, .. } = self;
        // Writing at given offsets has left the file's own at its beginning.
        let file = file.map(|file| BufReader::with_capacity(READ_BYTES, file));
        Entries { file, memory: io::Cursor::new(memory), aborted, message: Vec::new() }
    }
}

impl Read for SpoolFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(cipher) = &self.cipher else { return self.file.read(buffer) };
        let read = self.opened.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        let place = self.file.stream_position()?;
        if place == self.length {
            return Ok(0);
        }
        let mut length = [0; 8];
        self.file.read_exact(&mut length)?;
        let mut sealed = Vec::new();
        (&self.file).take(u64::from_le_bytes(length)).read_to_end(&mut sealed)?;
        let opened = cipher.open(&sealed, &place.to_le_bytes());
        self.opened = io::Cursor::new(opened.ok_or_else(changed)?);
        self.opened.read(buffer)
    }
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what was written is not what is read")
}

impl SpoolFile {
    fn create(path: &Path, encrypts: bool) -> io::Result<SpoolFile> {
        let secret = || disk::random().map_err(io::Error::other);
        let cipher = encrypts.then(|| secret().map(Cipher::passing)).transpose()?;
        let file = disk::create_new(path)?;
        Ok(SpoolFile { file, path: path.into(), length: 0, cipher, opened: io::Cursor::default() })
    }

    /// Writes all of it or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sealed = self.cipher.as_ref().map(|cipher| {
            let sealed = cipher.seal(bytes, &self.length.to_le_bytes());
            [&(sealed.len() as u64).to_le_bytes(), sealed.as_slice()].concat()
        });
        let bytes = sealed.as_deref().unwrap_or(bytes);
        if let Err(error) = self.file.write_all_at(bytes, self.length) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn unreadable(&self, error: &io::Error) -> Fault {
        let fault = disk::fault("cannot read", &self.path, error);
        // The source sends it again on the next connection.
        let remedy = if error.kind() == io::ErrorKind::InvalidData { Remedy::Retry } else { fault.remedy };
        Fault { remedy, ..fault }
    }
}

/// The messages of one transaction, without those of subtransactions that were rolled back.
pub(super) struct Entries {
    file: Option<BufReader<SpoolFile>>,
    memory: io::Cursor<Vec<u8>>,
    aborted: HashSet<Xid>,
    message: Vec<u8>,
}

impl Entries {
    /// The next message; none at the end. Blocks on the disk.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        loop {
            let read = match &mut self.file {
                Some(file) => {
                    read_entry(file, &mut self.message).map_err(|error| file.get_ref().unreadable(&error))?
                }
                None => read_entry(&mut self.memory, &mut self.message)
                    .map_err(|error| Fault::stop(format!("cannot read the spool: {error}")))?,
            };
            match read {
                Some(subxid) if self.aborted.contains(&subxid) => {}
                Some(_) => return Ok(Some(&self.message)),
                None if self.file.is_some() => self.file = None,
                None => return Ok(None),
            }
        }
    }
}

/// Reads an entry's message into `message` and gives its xid; none at the end.
fn read_entry(reader: &mut impl io::BufRead, message: &mut Vec<u8>) -> io::Result<Option<Xid>> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut number = || {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes)?;
        Ok::<_, io::Error>(u32::from_le_bytes(bytes))
    };
    let (length, xid, checksum) = (number()?, number()?, number()?);
    message.clear();
    // As much as there is, not as much as a damaged length says.
    if reader.take(u64::from(length)).read_to_end(message)? < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if crc32c::crc32c(message) != checksum {
        return Err(changed());
    }
    Ok(Some(Xid(xid)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn small(folder: &Path) -> Spool {
        Spool { memory_bytes_max: 64, ..Spool::open(folder.join("spool"), false).unwrap() }
    }

    fn files(spool: &Spool) -> usize {
        std::fs::read_dir(&spool.folder).unwrap().count()
    }

    fn text(spooled: Spooled) -> String {
        let mut entries = spooled.entries();
        let mut text = String::new();
        while let Some(message) = entries.next().unwrap() {
            text.push_str(std::str::from_utf8(message).unwrap());
            text.push(' ');
        }
        text
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn transactions_come_back_whole_and_apart() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = small(folder.path());
        for number in 0..30 {
            spool.append(Xid(7), Xid(7 + number % 3), b'I', format!("{number}").as_bytes()).unwrap();
            spool.append(Xid(20), Xid(20), b'U', b"").unwrap();
            assert!(spool.memory_bytes <= 64 && !spool.is_stalled());
        }
        assert_eq!(files(&spool), 2);
        spool.abort(Xid(7), Xid(8));
        spool.abort(Xid(20), Xid(20));
        spool.abort(Xid(99), Xid(99));
        spool.abort(Xid(98), Xid(99));
        assert_eq!(files(&spool), 1);
        let expected: String = (0..30).filter(|n| n % 3 != 1).map(|n| format!("I{n} ")).collect();
        assert_eq!(text(spool.take(Xid(7))), expected);
        assert_eq!((files(&spool), spool.memory_bytes), (0, 0));
        assert_eq!(text(spool.take(Xid(7))), "");
    }

    #[test]
    fn an_encrypted_spool_gives_back_what_it_hides() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool { encrypts: true, ..small(folder.path()) };
        for number in 0..30 {
            spool.append(Xid(7), Xid(7), b'I', format!("secret{number}").as_bytes()).unwrap();
        }
        let path = spool.folder.join("7.spool");
        let written = std::fs::read(&path).unwrap();
        assert!(!written.windows(6).any(|window| window == b"secret"));
        let mut spooled = spool.take(Xid(7));
        let expected: String = (0..30).map(|number| format!("Isecret{number} ")).collect();
        let file = spooled.file.as_mut().unwrap();
        file.file.write_all_at(&[written[40] ^ 1], 40).unwrap();
        let error = file.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        file.file.write_all_at(&[written[40]], 40).unwrap();
        file.file.rewind().unwrap();
        assert_eq!(text(spooled), expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_crash_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("spool");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(folder.path().join("elsewhere"), "kept").unwrap();
        std::fs::write(place.join("7.spool"), "left").unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), place.join("8.spool")).unwrap();
        let mut spool = small(folder.path());
        assert_eq!(files(&spool), 0);
        assert_eq!(std::fs::read(folder.path().join("elsewhere")).unwrap(), b"kept");
        spool.append(Xid(7), Xid(7), b'I', &[b'x'; 100]).unwrap();
        assert_eq!(files(&spool), 1);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.join("7.spool")), 0o600);
        drop(spool);
        std::fs::remove_dir(&place).unwrap();
        std::os::unix::fs::symlink(folder.path(), &place).unwrap();
        assert!(Spool::open(place, false).is_err(), "a link is not followed");
    }

    #[test]
    fn a_logical_message_before_a_subtransaction_is_rolled_back_is_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path().join("spool"), false).unwrap();
        spool.abort(Xid(1), Xid(2));
        spool.append(Xid(1), Xid(1), b'M', b"").unwrap();
        assert!(!spool.take(Xid(1)).is_doubtful());
        spool.append(Xid(1), Xid(1), b'M', b"").unwrap();
        spool.abort(Xid(1), Xid(2));
        assert!(spool.take(Xid(1)).is_doubtful());
    }

    #[test]
    fn damaged_entries_are_errors() {
        let mut message = Vec::new();
        let wrong = b"\x01\0\0\0\x01\0\0\0\0\0\0\0x";
        for bytes in
            [&b"\xFF\xFF\xFF\x7F\x01\0\0\0\0\0\0\0x"[..], b"\x01\0", b"\x02\0\0\0\x01\0\0\0\0\0\0\0x", wrong]
        {
            assert!(read_entry(&mut io::Cursor::new(bytes), &mut message).is_err());
        }
    }
}
