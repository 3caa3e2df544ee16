//! Where the columns of a row are among all columns of a frame, and what begins and commits are told against.

use super::COLUMNS_MAX;
use super::shape::{Change, Row};

/// The fields of the begin or commit before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) lsn: u64,
    pub(super) end: u64,
    pub(super) time: u64,
    pub(super) xid: u64,
}

/// Rows of one relation, one width and one kind share their columns, whatever is done to them. Their order is that in which
/// the changes name them first.
#[derive(Default)]
pub(super) struct RowTable {
    rows: Vec<((u32, u16, Row), usize)>,
    columns: usize,
}

impl RowTable {
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The first columns of a change's rows; `None` where there are too many, and then none is added.
    pub(super) fn places(&mut self, change: Change) -> Option<Vec<usize>> {
        let (rows, columns) = (self.rows.len(), self.columns);
        let places =
            change.rows().map(|(row, _)| self.place((change.relation, change.columns, row))).collect();
        if Option::is_none(&places) {
            self.rows.truncate(rows);
            self.columns = columns;
        }
        places
    }

    fn place(&mut self, key: (u32, u16, Row)) -> Option<usize> {
        if let Some((_, place)) = self.rows.iter().find(|(known, _)| *known == key) {
            return Some(*place);
        }
        let place = self.columns;
        let columns = place.checked_add(key.1.into()).filter(|columns| *columns <= COLUMNS_MAX)?;
        self.columns = columns;
        self.rows.push((key, place));
        Some(place)
    }
}
