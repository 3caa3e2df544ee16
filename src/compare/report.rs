//! What a comparison found.

use serde::{Serialize, Serializer};

use crate::model::Position;

use super::classify::Kind;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Both sides were looked at as of here: what ends at or before it is in them, nothing else. None where nothing changed.
    pub lsn: Option<Position>,
    /// How long the applier was asked to stand.
    pub held_seconds: f64,
    pub seconds: f64,
    pub tables: Vec<TableReport>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TableReport {
    pub name: String,
    pub source_rows: u64,
    pub target_rows: u64,
    /// Groups of rows that were compared by their sums.
    pub ranges: u64,
    pub missing: u64,
    pub extra: u64,
    pub different: u64,
    /// Rows that were put right.
    pub repaired: u64,
    pub seconds: f64,
    /// Why it could not be compared, or repaired.
    pub problem: Option<String>,
    /// The first of those that differ.
    pub rows: Vec<ShownRow>,
}

/// A row that differs.
#[derive(Clone, Debug, Serialize)]
pub struct ShownRow {
    pub kind: Kind,
    /// Without a key all columns.
    #[serde(serialize_with = "as_object")]
    pub key: Vec<(String, Option<String>)>,
    /// Those with another value, where both sides have the row.
    pub columns: Vec<String>,
}

impl Report {
    /// Rows that differ still.
    pub fn differing(&self) -> u64 {
        self.tables.iter().map(|table| table.differing().saturating_sub(table.repaired)).sum()
    }

    pub fn problems(&self) -> usize {
        self.tables.iter().filter(|table| table.problem.is_some()).count()
    }
}

impl TableReport {
    pub fn differing(&self) -> u64 {
        self.missing + self.extra + self.different
    }

    pub(super) fn may_be_repaired(&self) -> bool {
        self.differing() > 0 && self.problem.is_none()
    }
}

fn as_object<S: Serializer>(key: &[(String, Option<String>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(key.iter().map(|(name, value)| (name, value)))
}
