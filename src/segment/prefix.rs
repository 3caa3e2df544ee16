//! What is left of an open file after a crash.

use crate::model::Position;

use super::{
    Damage, Encoder, Encryption, FRAME_HEADER_BYTES, FrameHeader, FrameScratch, HEADER_BYTES, Header,
    Keyring, NonceStart, Opener,
};

/// The longest run of valid frames that ends between transactions.
pub struct Prefix {
    /// Goes on where the prefix ends: appends to it or seals it.
    pub encoder: Encoder,
    /// Bytes that belong to no such frame: torn, damaged, or of a transaction whose commit never came.
    pub dropped_bytes: u64,
}

impl Prefix {
    pub fn through(&self) -> Position {
        self.encoder.ledger().through()
    }
}

/// Reads an open file of `file_len` bytes through `read(offset, length)`. `None` where not even its header is whole.
///
/// A frame whose checksum holds was written by us, so one that holds and yet makes no sense is an error and not an end.
pub fn valid_prefix<E: From<Damage>>(
    file_len: u64,
    zstd_level: i32,
    (keys, nonces): (&Keyring, NonceStart),
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Option<Prefix>, E> {
    if file_len < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let Ok(header) = Header::decode(&read(0, HEADER_BYTES)?) else { return Ok(None) };
    let opener = Opener::new(&header, keys);
    let encryption = match header.encrypted {
        true => Some(Encryption::new(keys, nonces).ok_or_else(Encryption::missing)?),
        false => None,
    };
    let mut encoder = Encoder::new(header, zstd_level, encryption);
    let mut scratch = FrameScratch::default();
    loop {
        let left = file_len.saturating_sub(encoder.end());
        if left < FRAME_HEADER_BYTES as u64 {
            break;
        }
        let Ok(header) = FrameHeader::decode(&read(encoder.end(), FRAME_HEADER_BYTES)?) else { break };
        if header.len() > left {
            break;
        }
        let frame = read(encoder.end(), FRAME_HEADER_BYTES.saturating_add(header.stored_len as usize))?;
        let raw = match header.payload(&frame, encoder.end(), &opener, &mut scratch) {
            Ok(raw) => raw,
            Err(Damage::Checksum(_)) => break,
            Err(damage) => return Err(damage.into()),
        };
        encoder.restore(header, &raw)?;
    }
    let end = encoder.discard();
    Ok(Some(Prefix { encoder, dropped_bytes: file_len.saturating_sub(end) }))
}
