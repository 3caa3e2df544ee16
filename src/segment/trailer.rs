//! The trailer: a sealed segment's last bytes, from which all else is found.

use crate::model::{Position, Timestamp};

use super::take::Take;
use super::{Damage, Totals};

pub const TRAILER_BYTES: usize = 112;

const MAGIC: [u8; 8] = *b"SEALED\r\n";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub footer_offset: u64,
    pub footer_len: u64,
    pub footer_checksum: u32,
    pub through: Position,
    pub totals: Totals,
    /// The chain's value behind the last transaction.
    pub chain: [u8; 32],
}

impl Trailer {
    /// What an encrypted footer is bound to: all that the trailer says besides of the footer's own bytes.
    pub(super) fn about(&self) -> Vec<u8> {
        let mut about = Vec::with_capacity(TRAILER_BYTES);
        about.extend_from_slice(&MAGIC);
        about.extend_from_slice(&self.footer_offset.to_le_bytes());
        self.put_summary(&mut about);
        about
    }

    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.footer_offset.to_le_bytes());
        out.extend_from_slice(&self.footer_len.to_le_bytes());
        out.extend_from_slice(&self.footer_checksum.to_le_bytes());
        self.put_summary(&mut out);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        let mut bytes = [0; TRAILER_BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Appends what it says of the segment.
    fn put_summary(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.through.0.to_le_bytes());
        for value in [self.totals.transactions, self.totals.changes, self.totals.raw_bytes] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for time in [self.totals.first_time, self.totals.last_time] {
            out.extend_from_slice(&time.0.to_le_bytes());
        }
        out.extend_from_slice(&self.chain);
    }

    /// Reads exactly the last [`TRAILER_BYTES`] of a segment of `file_len` bytes.
    pub fn decode(bytes: &[u8], file_len: u64) -> Result<Trailer, Damage> {
        let mut take = Take::new(bytes, "the segment trailer");
        let covered = Take::new(bytes, "the segment trailer").bytes(TRAILER_BYTES - 4)?;
        if take.array()? != MAGIC {
            return Err(take.malformed());
        }
        let trailer = Trailer {
            footer_offset: take.u64()?,
            footer_len: take.u64()?,
            footer_checksum: take.u32()?,
            through: Position(take.u64()?),
            totals: Totals {
                transactions: take.u64()?,
                changes: take.u64()?,
                raw_bytes: take.u64()?,
                first_time: Timestamp(take.i64()?),
                last_time: Timestamp(take.i64()?),
            },
            chain: take.array()?,
        };
        if take.u32()? != crc32c::crc32c(covered) {
            return Err(Damage::Checksum("the segment trailer"));
        }
        let end = trailer.footer_offset.checked_add(trailer.footer_len);
        if !take.is_empty() || end.and_then(|end| end.checked_add(TRAILER_BYTES as u64)) != Some(file_len) {
            return Err(take.malformed());
        }
        Ok(trailer)
    }
}
