//! The durable mark: how other processes, and a recovery, know how far the open segment was made durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::Position;

use super::disk;

const BYTES: usize = 36;
const MAGIC: [u8; 8] = *b"DURABLE1";
const NAME: &str = "durable";

/// Overwritten in place after each fsync of the open segment, never before, so it never claims too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The `after` of the open segment.
    pub segment: Position,
    /// The bytes of that segment that may be read.
    pub offset: u64,
    /// The position that they reach.
    pub position: Position,
}

impl Mark {
    fn encode(&self) -> [u8; BYTES] {
        let mut out = Vec::with_capacity(BYTES);
        out.extend_from_slice(&MAGIC);
        for value in [self.segment.0, self.offset, self.position.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    fn decode(bytes: &[u8; BYTES]) -> Option<Mark> {
        let (covered, checksum) = bytes.split_last_chunk::<4>()?;
        let (magic, fields) = covered.split_first_chunk::<8>()?;
        if *magic != MAGIC || crc32c::crc32c(covered) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut fields =
            fields.chunks_exact(8).filter_map(|field| field.try_into().ok().map(u64::from_le_bytes));
        Some(Mark {
            segment: Position(fields.next()?),
            offset: fields.next()?,
            position: Position(fields.next()?),
        })
    }

    /// The mark of the archive in `root`; `None` where there is none or it makes no sense. One that is torn by being
    /// overwritten at this moment is read again.
    pub fn read(root: &Path) -> io::Result<Option<Mark>> {
        let file = match disk::open_to_read(&root.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        for _ in 0..20 {
            let mut bytes = [0; BYTES];
            match file.read_exact_at(&mut bytes, 0) {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                _ => {}
            }
            if let Some(mark) = Mark::decode(&bytes) {
                return Ok(Some(mark));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(None)
    }
}

/// The writer's end of the mark.
pub(super) struct MarkFile {
    file: File,
    pub(super) path: PathBuf,
}

impl MarkFile {
    pub(super) fn open(root: &Path) -> io::Result<MarkFile> {
        let path = root.join(NAME);
        Ok(MarkFile { file: disk::open_or_create(&path)?, path })
    }

    /// Not synced: after a crash of the machine an older mark stands, which claims less.
    pub(super) fn write(&self, mark: Mark) -> io::Result<()> {
        self.file.write_all_at(&mark.encode(), 0)
    }
}
