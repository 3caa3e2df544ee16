//! A segment, opened to be read: its file, or where the folder has none its object in the store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::model::Fault;
use crate::segment::{
    Damage, FRAME_HEADER_BYTES, Flaw, Footer, FrameHeader, FrameScratch, HEADER_BYTES, Header, Opener,
    SegmentName, TRAILER_BYTES, Trailer,
};

use super::{Archive, disk};

/// A file is held open, so it can be read on when the segment is sealed and thus renamed. Of an object each part that is asked
/// for is fetched by itself.
pub struct SegmentFile {
    bytes: Bytes,
    name: SegmentName,
    header: Header,
    opener: Opener,
}

/// Where a segment's bytes are.
enum Bytes {
    File(File),
    Object { archive: Archive, length: u64, end: OnceLock<bytes::Bytes> },
}

/// The last bytes of an object come together, since what is asked for first, the trailer and mostly the footer, is there.
const END_BYTES: u64 = 64 << 10;

/// Damage, or a key that is missing, told with the segment, the place and the range that is in doubt.
pub(super) fn damaged(name: SegmentName, offset: u64, damage: &Damage) -> Fault {
    if let Some(fault) = damage.locked(format_args!("segment {name}")) {
        return fault;
    }
    let range = match name.through {
        Some(through) => format!("it holds ({}, {through}]", name.after),
        None => format!("it holds what comes after {}", name.after),
    };
    Fault::person(format!("segment {name} is damaged at offset {offset}: {damage}; {range}"))
        .hint("restore this segment from a copy; `pgsluice archive verify` tells what else is wrong")
}

/// Why a segment that was gone through is not taken.
pub(super) enum Unsound {
    Fault(Fault),
    Flaw(Flaw),
}

impl From<Flaw> for Unsound {
    fn from(flaw: Flaw) -> Unsound {
        Unsound::Flaw(flaw)
    }
}

impl SegmentFile {
    /// Opens and checks the header against the name and the manifest. `None` where there is no such segment (any more).
    pub fn open(archive: &Archive, name: SegmentName) -> Result<Option<SegmentFile>, Fault> {
        SegmentFile::open_at(archive, name, false)
    }

    /// Opens the object, where the store has one, also if there is a copy of it in the folder.
    pub(crate) fn open_stored(archive: &Archive, name: SegmentName) -> Result<Option<SegmentFile>, Fault> {
        SegmentFile::open_at(archive, name, archive.is_stored(name))
    }

    fn open_at(archive: &Archive, name: SegmentName, stored: bool) -> Result<Option<SegmentFile>, Fault> {
        let path = archive.segment_path(name);
        let opened = match stored {
            true => Err(io::ErrorKind::NotFound.into()),
            false => disk::open_to_read(&path),
        };
        let bytes = match opened {
            Ok(file) => Bytes::File(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match archive.depot().and_then(|depot| depot.size_bytes(name)) {
                    Some(length) => Bytes::Object { archive: archive.clone(), length, end: OnceLock::new() },
                    None => return Ok(None),
                }
            }
            Err(error) => return Err(disk::fault("cannot open", &path, &error)),
        };
        let mut start = [0; HEADER_BYTES];
        let header = match bytes.read_exact_at(&mut start, 0, name) {
            Ok(true) => Header::decode(&start),
            Ok(false) => Err(Damage::Short("the segment header")),
            Err(_) if bytes.are_gone(name) => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let header = header.map_err(|damage| damaged(name, 0, &damage))?;
        let manifest = archive.manifest();
        let foreign = |what: &str| {
            Fault::person(format!("segment {name} does not belong here: {what}"))
                .hint("move it away and restore the archive's own segment from a copy")
        };
        if header.archive_id != manifest.archive_id.0 {
            return Err(foreign("it is of another archive"));
        }
        if header.system_identifier != manifest.system_identifier {
            return Err(foreign("it is of another source"));
        }
        if header.after != name.after {
            return Err(foreign(&format!("its header says that it begins after {}", header.after)));
        }
        let opener = Opener::new(&header, archive.keys());
        Ok(Some(SegmentFile { bytes, name, header, opener }))
    }

    pub fn name(&self) -> SegmentName {
        self.name
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn size_bytes(&self) -> Result<u64, Fault> {
        match &self.bytes {
            Bytes::File(file) => file
                .metadata()
                .map(|metadata| metadata.len())
                .map_err(|error| Fault::stop(format!("cannot read segment {}: {error}", self.name))),
            Bytes::Object { length, .. } => Ok(*length),
        }
    }

    fn damaged(&self, offset: u64, damage: &Damage) -> Fault {
        damaged(self.name, offset, damage)
    }

    fn read(&self, offset: u64, bytes: &mut [u8], what: &'static str) -> Result<(), Fault> {
        match self.bytes.read_exact_at(bytes, offset, self.name)? {
            true => Ok(()),
            false => Err(self.damaged(offset, &Damage::Short(what))),
        }
    }

    /// The header of the frame at `offset`, which must end at or before `limit`. Its checksum is not looked at.
    pub fn frame_header(&self, offset: u64, limit: u64) -> Result<FrameHeader, Fault> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        self.read(offset, &mut bytes, "a frame header")?;
        let header = FrameHeader::decode(&bytes).map_err(|damage| self.damaged(offset, &damage))?;
        if offset.checked_add(header.len()).is_none_or(|end| end > limit) {
            return Err(self.damaged(offset, &Damage::Short("a frame")));
        }
        Ok(header)
    }

    /// The frame at `offset`, checked and decoded.
    pub fn frame(
        &self,
        offset: u64,
        limit: u64,
        scratch: &mut FrameScratch,
    ) -> Result<(FrameHeader, Vec<u8>), Fault> {
        let (header, frame) = self.whole(offset, limit)?;
        let raw = header.payload(&frame, offset, &self.opener, scratch);
        let raw = raw.map_err(|damage| self.damaged(offset, &damage))?;
        Ok((header, raw))
    }

    /// The frame at `offset`, checked, with its payload decrypted and not decoded.
    pub(super) fn stored(&self, offset: u64, limit: u64) -> Result<(FrameHeader, Vec<u8>), Fault> {
        let (header, frame) = self.whole(offset, limit)?;
        let stored = header.stored(&frame, offset, &self.opener);
        let stored = stored.map_err(|damage| self.damaged(offset, &damage))?;
        Ok((header, stored.into_owned()))
    }

    fn whole(&self, offset: u64, limit: u64) -> Result<(FrameHeader, Vec<u8>), Fault> {
        let header = self.frame_header(offset, limit)?;
        let mut frame = vec![0; FRAME_HEADER_BYTES.saturating_add(header.stored_len as usize)];
        self.read(offset, &mut frame, "a frame")?;
        let again = FrameHeader::decode(&frame).map_err(|damage| self.damaged(offset, &damage))?;
        if again != header {
            return Err(self.damaged(offset, &Damage::Malformed("a frame header")));
        }
        Ok((header, frame))
    }

    /// The trailer of a sealed segment. `name` is what it is called now; it may have been opened under its open name.
    pub fn trailer(&mut self, name: SegmentName) -> Result<Trailer, Fault> {
        self.name = name;
        let length = self.size_bytes()?;
        let short = || self.damaged(length, &Damage::Short("the segment trailer"));
        let offset = length.checked_sub(TRAILER_BYTES as u64).ok_or_else(short)?;
        let mut bytes = [0; TRAILER_BYTES];
        self.read(offset, &mut bytes, "the segment trailer")?;
        let trailer = Trailer::decode(&bytes, length).map_err(|damage| self.damaged(offset, &damage))?;
        if name.through != Some(trailer.through) {
            return Err(Fault::person(format!(
                "segment {name} does not belong here: its trailer says that it ends at {}",
                trailer.through
            ))
            .hint("it was renamed; restore the archive's own segment from a copy"));
        }
        Ok(trailer)
    }

    /// The trailer and the footer of a sealed segment.
    pub fn sealed(&mut self, name: SegmentName) -> Result<(Trailer, Footer), Fault> {
        let trailer = self.trailer(name)?;
        let mut footer = vec![0; trailer.footer_len as usize];
        self.read(trailer.footer_offset, &mut footer, "the segment footer")?;
        let decoded = Footer::decode(&footer, &trailer, self.header.after, &self.opener);
        let decoded = decoded.map_err(|damage| self.damaged(trailer.footer_offset, &damage))?;
        Ok((trailer, decoded))
    }

    /// Bytes as they are in the file.
    pub fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
        // The length may be made up: what the file can't hold is not asked for.
        if self.size_bytes()?.checked_sub(offset).is_none_or(|left| left < length as u64) {
            return Err(self.damaged(offset, &Damage::Short("the segment")));
        }
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes, "the segment")?;
        Ok(bytes)
    }
}

impl Bytes {
    /// Whether it is an object that was found to be gone.
    fn are_gone(&self, name: SegmentName) -> bool {
        match self {
            Bytes::File(_) => false,
            Bytes::Object { archive, .. } => {
                archive.depot().is_none_or(|depot| depot.size_bytes(name).is_none())
            }
        }
    }

    /// `false` where it ends before that.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64, name: SegmentName) -> Result<bool, Fault> {
        match self {
            Bytes::File(file) => match file.read_exact_at(bytes, offset) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(error) => {
                    Err(Fault::stop(format!("cannot read segment {name} at offset {offset}: {error}")))
                }
            },
            Bytes::Object { archive, length, end } => {
                let behind = offset.saturating_add(bytes.len() as u64);
                let Some(depot) = archive.depot().filter(|_| behind <= *length) else { return Ok(false) };
                let end_offset = length.saturating_sub(END_BYTES);
                let Some(within) = offset.checked_sub(end_offset) else {
                    return Ok(fill(bytes, &depot.range(name, offset, bytes.len())?));
                };
                if end.get().is_none() {
                    let _ = end.set(depot.range(name, end_offset, (length - end_offset) as usize)?);
                }
                let found = end.get().and_then(|end| end.get(within as usize..)).unwrap_or_default();
                Ok(fill(bytes, found.get(..bytes.len()).unwrap_or_default()))
            }
        }
    }
}

/// `false` where these are not as many.
fn fill(bytes: &mut [u8], found: &[u8]) -> bool {
    let whole = found.len() == bytes.len();
    if whole {
        bytes.copy_from_slice(found);
    }
    whole
}
