//! Changes of one kind to different rows, held back until there are enough of them for the statement that takes many.

use crate::transform::Statement;

/// Rows for which the form for many is used: with fewer each goes alone.
const ROWS_MIN: usize = 4;
/// Rows, and bytes, that go in one statement.
const ROWS_MAX: usize = 2000;
const BYTES_MAX: usize = 1 << 20;

/// Rows that wait, all of one statement.
#[derive(Default)]
pub(super) struct Run {
    statement: Option<Statement>,
    rows: usize,
    bytes: Vec<u8>,
    /// Where each parameter ends in `bytes`, row by row; whether it is not null.
    ends: Vec<(usize, bool)>,
}

impl Run {
    /// Whether rows of this statement can be added.
    pub(super) fn takes(&self, statement: &Statement) -> bool {
        self.statement.as_ref().is_none_or(|waiting| waiting.id == statement.id)
    }

    pub(super) fn push(&mut self, statement: &Statement, parameters: &[Option<&[u8]>]) {
        self.statement.get_or_insert_with(|| statement.clone());
        for parameter in parameters {
            self.bytes.extend_from_slice(parameter.unwrap_or_default());
            self.ends.push((self.bytes.len(), parameter.is_some()));
        }
        self.rows += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows >= ROWS_MAX || self.bytes.len() + self.ends.len() * size_of::<(usize, bool)>() >= BYTES_MAX
    }

    /// The statement of the rows that wait, if any do.
    pub(super) fn statement(&self) -> Option<&Statement> {
        self.statement.as_ref()
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether they are worth the form for many.
    pub(super) fn is_many(&self) -> bool {
        self.rows >= ROWS_MIN
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
    }
}
