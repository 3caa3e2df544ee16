//! How bytes are stored: as they are, or compressed.

use super::Damage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Stored,
    Zstd,
}

impl Codec {
    pub(super) fn number(self) -> u8 {
        match self {
            Codec::Stored => 0,
            Codec::Zstd => 1,
        }
    }

    pub(super) fn from_number(number: u8, what: &'static str) -> Result<Codec, Damage> {
        match number {
            0 => Ok(Codec::Stored),
            1 => Ok(Codec::Zstd),
            _ => Err(Damage::Malformed(what)),
        }
    }

    /// Undoes it; the result has exactly `raw_len` bytes, which the caller has checked against a limit.
    pub(super) fn decode(
        self,
        stored: &[u8],
        raw_len: usize,
        decompressor: &mut zstd::bulk::Decompressor<'static>,
        what: &'static str,
    ) -> Result<Vec<u8>, Damage> {
        let raw = match self {
            Codec::Stored => stored.to_vec(),
            Codec::Zstd => decompressor.decompress(stored, raw_len).map_err(|_| Damage::Malformed(what))?,
        };
        if raw.len() == raw_len { Ok(raw) } else { Err(Damage::Malformed(what)) }
    }
}

/// A zstd context that is used again for each block.
pub(super) struct Squeeze {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Squeeze {
    pub(super) fn new(level: i32) -> Squeeze {
        // Setting the level only fails where zstd knows no such level; its default then serves.
        let compressor = zstd::bulk::Compressor::new(level).unwrap_or_default();
        Squeeze { compressor, buffer: Vec::new() }
    }

    /// The smaller of both forms.
    pub(super) fn encode<'a>(&'a mut self, raw: &'a [u8]) -> (Codec, &'a [u8]) {
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        match self.compressor.compress_to_buffer(raw, &mut self.buffer) {
            Ok(_) if self.buffer.len() < raw.len() => (Codec::Zstd, &self.buffer),
            _ => (Codec::Stored, raw),
        }
    }
}
