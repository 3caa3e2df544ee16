//! How bytes are stored: as they are, compressed, or as compressed columns.

use std::borrow::Cow;

use super::{Damage, transpose};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Stored,
    Zstd,
    /// Of frames only.
    Transposed,
}

impl Codec {
    pub(super) fn number(self) -> u8 {
        match self {
            Codec::Stored => 0,
            Codec::Zstd => 1,
            Codec::Transposed => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Result<Codec, Damage> {
        match number {
            0 => Ok(Codec::Stored),
            1 => Ok(Codec::Zstd),
            2 => Ok(Codec::Transposed),
            _ => Err(Damage::Codec(number)),
        }
    }

    /// Of bytes that are no records.
    pub(super) fn plain(number: u8, what: &'static str) -> Result<Codec, Damage> {
        match Codec::from_number(number)? {
            Codec::Transposed => Err(Damage::Malformed(what)),
            codec => Ok(codec),
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
            Codec::Transposed => transpose::decode(stored, raw_len, decompressor)?,
        };
        if raw.len() == raw_len { Ok(raw) } else { Err(Damage::Malformed(what)) }
    }
}

/// Shorter records are tried both ways.
const TRIED_BYTES: usize = 256 << 10;
/// Of longer ones, which are alike, every so many are.
const TRIED_EVERY: u32 = 16;

/// A zstd context that is used again for each block.
pub(super) struct Squeeze {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
    decompressor: zstd::bulk::Decompressor<'static>,
    /// Counts long runs of records, and whether transposing was shorter when both ways were last tried.
    turn: u32,
    pays: bool,
}

impl Squeeze {
    pub(super) fn new(level: i32) -> Squeeze {
        // Setting the level only fails where zstd knows no such level; its default then serves.
        let compressor = zstd::bulk::Compressor::new(level).unwrap_or_default();
        Squeeze {
            compressor,
            buffer: Vec::new(),
            decompressor: zstd::bulk::Decompressor::default(),
            turn: 0,
            pays: true,
        }
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

    /// Records, transposed where that is shorter. What can't be had back is never given.
    pub(super) fn encode_records(&mut self, raw: &[u8]) -> (Codec, Cow<'_, [u8]>) {
        let long = raw.len() >= TRIED_BYTES;
        let both = !long || self.turn.is_multiple_of(TRIED_EVERY);
        if long {
            self.turn = self.turn.wrapping_add(1);
        }
        let columns = if both || self.pays { self.transpose(raw) } else { None };
        if !both && let Some(columns) = columns {
            return (Codec::Transposed, Cow::Owned(columns));
        }
        let zstd_bytes = self.encode(raw).1.len();
        let columns = columns.filter(|columns| columns.len() < zstd_bytes);
        if both && long {
            self.pays = columns.is_some();
        }
        match columns {
            Some(columns) => (Codec::Transposed, Cow::Owned(columns)),
            None if zstd_bytes < raw.len() => (Codec::Zstd, Cow::Borrowed(&self.buffer)),
            None => (Codec::Stored, Cow::Owned(raw.to_vec())),
        }
    }

    fn transpose(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let columns = transpose::encode(raw, self)?;
        let back = transpose::decode(&columns, raw.len(), &mut self.decompressor);
        (back.as_deref() == Ok(raw)).then_some(columns)
    }
}
