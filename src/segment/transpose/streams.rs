//! Byte streams, packed into one payload. Short ones share a zstd frame, long ones have their own.

use super::super::codec::Squeeze;
use super::super::take::{Take, put_varint};
use super::super::{Codec, Damage};
use super::WHAT;

/// Streams shorter than this are compressed together: a zstd frame of its own costs a dozen bytes.
const ALONE_BYTES: usize = 512;
/// More than any frame has.
const STREAMS_MAX: usize = 1 << 20;

const TOGETHER: u64 = 0;
const CONSTANT: u64 = 1;
const STORED: u64 = 2;
const ZSTD: u64 = 3;

/// Streams in the making. The first is meta.
pub(super) struct Pack {
    pub(super) meta: Vec<u8>,
    streams: Vec<Vec<u8>>,
}

impl Pack {
    pub(super) fn new() -> Pack {
        Pack { meta: Vec::new(), streams: Vec::new() }
    }

    pub(super) fn push(&mut self, stream: Vec<u8>) {
        self.streams.push(stream);
    }

    /// Bytes of all streams.
    pub(super) fn len(&self) -> usize {
        self.streams.iter().map(Vec::len).fold(self.meta.len(), usize::saturating_add)
    }

    /// Count; for each stream its length and how it is stored; the short ones together; the long ones.
    pub(super) fn finish(&self, squeeze: &mut Squeeze) -> Vec<u8> {
        let all = || std::iter::once(&self.meta).chain(&self.streams);
        let mut out = Vec::new();
        put_varint(&mut out, all().count() as u64);
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        for stream in all() {
            let length = (stream.len() as u64) << 2;
            match stream.first() {
                Some(first) if stream.len() > 2 && stream.iter().all(|byte| byte == first) => {
                    put_varint(&mut out, length | CONSTANT);
                    out.push(*first);
                }
                _ if stream.len() < ALONE_BYTES => {
                    put_varint(&mut out, length | TOGETHER);
                    together.extend_from_slice(stream);
                }
                _ => {
                    let (codec, stored) = squeeze.encode(stream);
                    put_varint(&mut out, length | if codec == Codec::Stored { STORED } else { ZSTD });
                    if codec != Codec::Stored {
                        put_varint(&mut out, stored.len() as u64);
                    }
                    alone.extend_from_slice(stored);
                }
            }
        }
        let (codec, stored) = squeeze.encode(&together);
        out.push(codec.number());
        put_varint(&mut out, stored.len() as u64);
        out.extend_from_slice(stored);
        out.extend_from_slice(&alone);
        out
    }
}

/// Streams that are read back, handed out in their order.
pub(super) struct Unpack {
    streams: std::vec::IntoIter<Vec<u8>>,
}

enum Place {
    Together(usize),
    Constant(usize, u8),
    Alone { length: usize, stored: usize, codec: Codec },
}

impl Unpack {
    /// Refuses streams that are longer than `bytes_max` together, before anything is allocated for them.
    pub(super) fn open(
        payload: &[u8],
        bytes_max: usize,
        decompressor: &mut zstd::bulk::Decompressor<'static>,
    ) -> Result<Unpack, Damage> {
        let mut take = Take::new(payload, WHAT);
        let count = take.count()?;
        if count > STREAMS_MAX {
            return Err(take.malformed());
        }
        let mut places = Vec::with_capacity(count);
        let (mut together, mut left) = (0usize, bytes_max as u64);
        for _ in 0..count {
            let word = take.varint()?;
            left = left.checked_sub(word >> 2).ok_or(take.malformed())?;
            let length = (word >> 2) as usize;
            places.push(match word & 3 {
                TOGETHER => {
                    together = together.saturating_add(length);
                    Place::Together(length)
                }
                CONSTANT => Place::Constant(length, take.u8()?),
                STORED => Place::Alone { length, stored: length, codec: Codec::Stored },
                _ => Place::Alone { length, stored: take.count()?, codec: Codec::Zstd },
            });
        }
        let codec = Codec::plain(take.u8()?, WHAT)?;
        let group = codec.decode(take.block()?, together, decompressor, WHAT)?;
        let mut group = Take::new(&group, WHAT);
        let mut streams = Vec::with_capacity(count);
        for place in places {
            streams.push(match place {
                Place::Together(length) => group.bytes(length)?.to_vec(),
                Place::Constant(length, byte) => vec![byte; length],
                Place::Alone { length, stored, codec } => {
                    codec.decode(take.bytes(stored)?, length, decompressor, WHAT)?
                }
            });
        }
        if !take.is_empty() {
            return Err(take.malformed());
        }
        Ok(Unpack { streams: streams.into_iter() })
    }

    /// The next stream. More than there are is damage.
    pub(super) fn next(&mut self) -> Result<Vec<u8>, Damage> {
        self.streams.next().ok_or(Damage::Short(WHAT))
    }
}
