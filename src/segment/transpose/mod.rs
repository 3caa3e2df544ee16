//! The transposed codec: a frame's records as columns, each compressed alone. Like things side by side take a fraction of what
//! they take message by message. Hides how a row becomes columns; [`encode`] and [`decode`] are exact inverses.
//!
//! ```text
//! records ─► shapes    which message comes next: begin, commit, a change of a relation, anything else as it is
//!            numbers   positions, times, xids: against the one before, in byte planes
//!            columns   for each relation, row (old or new) and column: kinds, and values
//!                      value = copy of another column's last | template and its numbers | text
//! ```
//!
//! The payload is a list of streams; the first, *meta*, tells what the others are, in the order in which they are needed.
//! `docs/FORMAT.md` has the bytes. Deliberately absent: knowledge of types and definitions. All is seen from the values
//! themselves, so that a frame needs nothing but itself.

mod column;
mod copies;
mod decode;
mod encode;
mod field;
mod numbers;
mod rows;
mod shape;
mod streams;

use super::Damage;
use super::codec::Squeeze;

pub(super) use decode::decode;
pub(super) use encode::encode;

/// Longer records are not transposed: they are single huge messages, and decoding must not take any memory that is asked for.
pub(super) const RAW_BYTES_MAX: usize = 16 << 20;

/// What the streams may be together. Some take more than the records do: a short number may stand in eight planes.
fn streams_bytes_max(raw_len: usize) -> usize {
    raw_len.saturating_mul(4).saturating_add(64 << 10)
}

/// Columns of all rows of a frame together.
const COLUMNS_MAX: usize = 1 << 14;

const WHAT: &str = "a transposed payload";

/// Records as they stand in the payload of a transposed frame; `None` where that would not be shorter.
pub fn transposed(raw: &[u8], zstd_level: i32) -> Option<Vec<u8>> {
    encode(raw, &mut Squeeze::new(zstd_level))
}

/// The records of a transposed payload, which are `raw_len` bytes.
pub fn from_transposed(payload: &[u8], raw_len: usize) -> Result<Vec<u8>, Damage> {
    decode(payload, raw_len, &mut zstd::bulk::Decompressor::default())
}

#[cfg(test)]
mod tests;
