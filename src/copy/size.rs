//! How large the parts are into which tables are divided: smaller once one was cut off by a time-out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The size of a block of a table. Servers with another one have larger or smaller parts.
pub(super) const BLOCK_BYTES: u64 = 8192;
/// Parts are not made smaller than this.
pub(super) const PART_BLOCKS_MIN: u64 = (1 << 20) / BLOCK_BYTES;

/// Of a table of the source, roughly. All copies of it are one.
#[derive(Clone, Debug)]
pub struct PartSize(Arc<AtomicU64>);

impl PartSize {
    pub fn bytes(bytes: u64) -> PartSize {
        PartSize(Arc::new(AtomicU64::new((bytes / BLOCK_BYTES).max(1))))
    }

    pub(super) fn blocks(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// For tables whose copy begins from now on.
    pub(super) fn halve(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, half);
    }
}

/// Half of so many blocks, where that is not too few.
fn half(blocks: u64) -> Option<u64> {
    (blocks >= 2 * PART_BLOCKS_MIN).then_some(blocks / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_halved_down_to_a_mebibyte() {
        let size = PartSize::bytes(6 << 20);
        let same = size.clone();
        for blocks in [768, 384, 192, 192] {
            assert_eq!(same.blocks(), blocks);
            size.halve();
        }
        assert_eq!(PartSize::bytes(1).blocks(), 1);
    }
}
