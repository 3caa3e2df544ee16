//! Sets of columns, small and cheap to compare.

/// A set of column ordinals. Up to 64 columns it takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ColumnSet {
    low: u64,
    high: Vec<u64>,
}

impl ColumnSet {
    pub(super) fn insert(&mut self, column: usize) {
        let (word, bit) = (column / 64, 1 << (column % 64));
        if word == 0 {
            self.low |= bit;
            return;
        }
        if self.high.len() < word {
            self.high.resize(word, 0);
        }
        if let Some(slot) = self.high.get_mut(word - 1) {
            *slot |= bit;
        }
    }

    pub(super) fn contains(&self, column: usize) -> bool {
        let (word, bit) = (column / 64, 1 << (column % 64));
        let slot = if word == 0 { self.low } else { self.high.get(word - 1).copied().unwrap_or(0) };
        slot & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_1600_columns() {
        let mut set = ColumnSet::default();
        for column in [0, 63, 64, 1599] {
            assert!(!set.contains(column));
            set.insert(column);
            assert!(set.contains(column));
        }
        assert!(!set.contains(1));
        assert!(!set.contains(2000));
    }
}
