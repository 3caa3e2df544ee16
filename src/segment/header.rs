//! The file header: whose log this is, where it begins, and the chain's value there.

use crate::model::Position;

use super::Damage;
use super::take::Take;

pub const HEADER_BYTES: usize = 84;

const MAGIC: [u8; 8] = *b"PGSLUICE";
const VERSION: u16 = 1;
/// The payloads of the frames and the footer are boxes.
const ENCRYPTED: u16 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Random, of the archive's manifest; a segment of another archive is foreign though its source be the same.
    pub archive_id: [u8; 16],
    pub system_identifier: u64,
    pub timeline: u32,
    pub after: Position,
    pub chain: [u8; 32],
    pub encrypted: bool,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let flags = if self.encrypted { ENCRYPTED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.timeline.to_le_bytes());
        out.extend_from_slice(&self.system_identifier.to_le_bytes());
        out.extend_from_slice(&self.after.0.to_le_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.archive_id);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Reads the header at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Header, Damage> {
        let mut take = Take::new(bytes, "the segment header");
        let covered = Take::new(bytes, "the segment header").bytes(HEADER_BYTES - 4)?;
        if take.array()? != MAGIC {
            return Err(take.malformed());
        }
        let version = take.u16()?;
        let flags = take.u16()?;
        let timeline = take.u32()?;
        let system_identifier = take.u64()?;
        let after = Position(take.u64()?);
        let chain = take.array()?;
        let archive_id = take.array()?;
        if take.u32()? != crc32c::crc32c(covered) {
            return Err(Damage::Checksum("the segment header"));
        }
        if version != VERSION || flags & !ENCRYPTED != 0 {
            return Err(Damage::Version(version));
        }
        let encrypted = flags & ENCRYPTED != 0;
        Ok(Header { archive_id, system_identifier, timeline, after, chain, encrypted })
    }
}
