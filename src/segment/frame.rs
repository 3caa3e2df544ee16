//! A frame: the unit of compression and of writing.

use std::borrow::Cow;

use crate::model::Position;

use super::take::Take;
use super::{BOX_BYTES, Codec, Damage, FrameContent, MESSAGE_BYTES_MAX, Opener};

pub const FRAME_HEADER_BYTES: usize = 44;

/// The most that a frame's records may be: it is cut soon after 4 MiB, but one message may be of 1 GiB.
pub const RAW_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (16 << 20);

const MAGIC: [u8; 4] = *b"FRAM";
const ENDS_ON_COMMIT: u8 = 1;
const HAS_RELATIONS: u8 = 2;
const STARTS_IN_TRANSACTION: u8 = 4;

/// What stands before a frame's payload.
///
/// A frame ends between transactions, or else holds nothing but a part of one: a transaction shorter than the limit is
/// never cut. A frame without records only moves `through`, for a source that is busy elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub codec: Codec,
    /// Whether no transaction is unfinished at its end.
    pub ends_on_commit: bool,
    /// Whether it holds Relation or Type messages, which a reader that starts behind it must know.
    pub has_relations: bool,
    pub starts_in_transaction: bool,
    pub raw_len: u32,
    pub stored_len: u32,
    /// Commits inside.
    pub transactions: u32,
    /// Inserts, updates, deletes and truncates inside.
    pub changes: u32,
    /// The end of the first commit inside; `through` where there is none.
    pub first: Position,
    /// How far the log goes with this frame: the end of the last commit inside or idle progress, else as before it.
    pub through: Position,
}

impl FrameHeader {
    /// Appends header and payload.
    pub(super) fn encode(&self, stored: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.put(out);
        let checksum = crc32c::crc32c(out.get(start..).unwrap_or_default());
        out.extend_from_slice(&crc32c::crc32c_append(checksum, stored).to_le_bytes());
        out.extend_from_slice(stored);
    }

    /// What an encrypted payload is bound to: the header, and where in the file the frame is.
    pub(super) fn about(&self, offset: u64) -> Vec<u8> {
        let mut about = Vec::with_capacity(FRAME_HEADER_BYTES + 4);
        self.put(&mut about);
        about.extend_from_slice(&offset.to_le_bytes());
        about
    }

    /// Appends the header without its checksum.
    fn put(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.ends_on_commit, ENDS_ON_COMMIT)
            | flag(self.has_relations, HAS_RELATIONS)
            | flag(self.starts_in_transaction, STARTS_IN_TRANSACTION);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.codec.number(), flags, 0, 0]);
        for value in [self.raw_len, self.stored_len, self.transactions, self.changes] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for position in [self.first, self.through] {
            out.extend_from_slice(&position.0.to_le_bytes());
        }
    }

    /// Reads the header at the start of `bytes`. The checksum covers the payload too and is checked with it
    /// ([`FrameHeader::payload`]); until then only the limits hold.
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader, Damage> {
        let mut take = Take::new(bytes, "a frame header");
        if take.array()? != MAGIC {
            return Err(take.malformed());
        }
        let codec = Codec::from_number(take.u8()?)?;
        let flags = take.u8()?;
        let reserved = take.u16()?;
        let header = FrameHeader {
            codec,
            ends_on_commit: flags & ENDS_ON_COMMIT != 0,
            has_relations: flags & HAS_RELATIONS != 0,
            starts_in_transaction: flags & STARTS_IN_TRANSACTION != 0,
            raw_len: take.u32()?,
            stored_len: take.u32()?,
            transactions: take.u32()?,
            changes: take.u32()?,
            first: Position(take.u64()?),
            through: Position(take.u64()?),
        };
        take.u32()?;
        let known = ENDS_ON_COMMIT | HAS_RELATIONS | STARTS_IN_TRANSACTION;
        if flags & !known != 0
            || reserved != 0
            || header.raw_len as usize > RAW_BYTES_MAX
            || header.stored_len > header.raw_len.saturating_add(BOX_BYTES as u32)
        {
            return Err(take.malformed());
        }
        Ok(header)
    }

    /// Header and payload together.
    pub fn len(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.stored_len)
    }

    pub fn is_empty(&self) -> bool {
        self.raw_len == 0
    }

    /// Whether it says what the records were found to hold.
    pub fn describes(&self, content: &FrameContent) -> bool {
        self.ends_on_commit == content.ends_on_commit
            && self.has_relations == content.has_relations
            && self.starts_in_transaction == content.starts_in_transaction
            && self.transactions == content.transactions
            && self.changes == content.changes
            && self.first == content.first.unwrap_or(self.through)
    }

    /// Checks the whole frame at `offset`, header and payload, against its checksum and gives its records.
    pub fn payload(
        &self,
        frame: &[u8],
        offset: u64,
        opener: &Opener,
        scratch: &mut FrameScratch,
    ) -> Result<Vec<u8>, Damage> {
        self.records(&self.stored(frame, offset, opener)?, scratch)
    }

    /// The same, but gives the payload decrypted and not yet decoded.
    pub fn stored<'a>(&self, frame: &'a [u8], offset: u64, opener: &Opener) -> Result<Cow<'a, [u8]>, Damage> {
        let mut take = Take::new(frame, "a frame");
        let covered = take.bytes(FRAME_HEADER_BYTES - 4)?;
        let checksum = take.u32()?;
        let stored = take.bytes(self.stored_len as usize)?;
        if crc32c::crc32c_append(crc32c::crc32c(covered), stored) != checksum {
            return Err(Damage::Checksum("a frame"));
        }
        let stored = opener.open(stored, || self.about(offset), "a frame's payload")?;
        if stored.len() > self.raw_len as usize {
            return Err(Damage::Malformed("a frame header"));
        }
        Ok(stored)
    }

    /// The records in a [stored](FrameHeader::stored) payload.
    pub fn records(&self, stored: &[u8], scratch: &mut FrameScratch) -> Result<Vec<u8>, Damage> {
        self.codec.decode(stored, self.raw_len as usize, &mut scratch.decompressor, "a frame's payload")
    }
}

/// A zstd context that is used again for each frame.
#[derive(Default)]
pub struct FrameScratch {
    decompressor: zstd::bulk::Decompressor<'static>,
}
