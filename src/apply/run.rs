//! Updates of one shape in a row, held back until there are enough of them for the statement that takes many.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::transform::{RUN_ROWS, Statement};

/// Rows that wait, all of one statement, no two with the same key.
#[derive(Default)]
pub(super) struct UpdateRun {
    statement: Option<Statement>,
    rows: usize,
    bytes: Vec<u8>,
    /// Where each parameter ends in `bytes`; none for null, whose end is that of the one before.
    ends: Vec<(usize, bool)>,
    /// Hashes of the keys. Two keys with one hash only end a run early.
    keys: HashSet<u64>,
    hasher: RandomState,
}

/// Whether a row was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// That was the last one: the run must go out now.
    Full,
    /// It is of another statement, or its key is in the run: what waits must go out before.
    No,
}

impl UpdateRun {
    pub(super) fn push(&mut self, statement: &Statement, parameters: &[Option<&[u8]>]) -> Taken {
        if self.statement.as_ref().is_some_and(|waiting| waiting.id != statement.id) {
            return Taken::No;
        }
        let key = parameters.len().saturating_sub(statement.keys);
        if !self.keys.insert(self.hasher.hash_one(parameters.get(key..))) {
            return Taken::No;
        }
        self.statement.get_or_insert_with(|| statement.clone());
        for parameter in parameters {
            self.bytes.extend_from_slice(parameter.unwrap_or_default());
            self.ends.push((self.bytes.len(), parameter.is_some()));
        }
        self.rows += 1;
        if self.rows == RUN_ROWS { Taken::Full } else { Taken::Yes }
    }

    /// The statement of the rows that wait, if any do.
    pub(super) fn statement(&self) -> Option<&Statement> {
        self.statement.as_ref()
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows == RUN_ROWS
    }

    /// All parameters, one row after the other.
    pub(super) fn parameters(&self) -> Vec<Option<&[u8]>> {
        let mut start = 0;
        self.ends
            .iter()
            .map(|&(end, is_some)| {
                let value = self.bytes.get(start..end).filter(|_| is_some);
                start = end;
                value
            })
            .collect()
    }

    pub(super) fn clear(&mut self) {
        self.statement = None;
        self.rows = 0;
        self.bytes.clear();
        self.ends.clear();
        self.keys.clear();
    }
}
