//! How the rows of a table are kept on the target: as they are, with those that were deleted, with all versions, beside those of other sources.

use super::metadata::Metadata;
use super::parse::{Conflict, Mode};
use super::read::Lined;
use super::shape::{Made, Output, Shaped, Shaping, Use};
use super::{hinted, refusal};
use crate::transform::{Arriving, Contest, Refusal, Versioned};

impl Shaping<'_> {
    /// How its rows are kept, for which it has all that is needed.
    pub(super) fn mode(&self, made: &[Made]) -> Result<Mode, Refusal> {
        let said = self.rules.iter().find_map(|rule| rule.mode.as_ref());
        let mode = said.map(|mode| mode.it).unwrap_or_default();
        for (at, one) in made.iter().enumerate() {
            let Output::Metadata(metadata, _) = one.output else { continue };
            let what = match metadata {
                _ if made.iter().take(at).any(|other| other.output.tells(metadata)) => {
                    "tells what another column tells"
                }
                Metadata::Deleted | Metadata::DeletedAt if mode != Mode::SoftDelete => {
                    "wants mode = \"soft-delete\""
                }
                Metadata::ValidFrom | Metadata::ValidTo if mode != Mode::History => {
                    "wants mode = \"history\""
                }
                _ => continue,
            };
            return Err(refusal(
                one.line,
                format!("column {} of table {} {what}", one.column.name, self.table()),
            ));
        }
        let Some(Lined { line, .. }) = said else { return Ok(Mode::Same) };
        let is_told = |wanted: Metadata| made.iter().any(|made| made.output.tells(wanted));
        if let Some((_, name)) = mode.needs().iter().find(|(metadata, _)| !is_told(*metadata)) {
            let what =
                format!("the mode of table {} wants a column with metadata = \"{name}\"", self.table());
            return Err(refusal(*line, what));
        }
        if self.usage != Use::Rows && !made.iter().any(|made| made.column.key) {
            let what = format!("the mode of table {} wants a key, and it has none", self.table());
            return Err(hinted(
                refusal(*line, what),
                format!(
                    "give it a primary key or another replica identity on the source; or {} and say key = [\"…\"]",
                    self.full()
                ),
            ));
        }
        Ok(mode)
    }

    /// Whose row it is where other sources have rows in the table, for which it has all that is needed.
    pub(super) fn contest(&self, made: &[Made]) -> Result<Option<Contest>, Refusal> {
        let Some(Lined { line, it: conflict }) = self.rules.iter().find_map(|rule| rule.conflict.as_ref())
        else {
            return Ok(None);
        };
        let place = |wanted: Metadata| made.iter().position(|made| made.output.tells(wanted));
        let is_kept = self.rules.iter().any(|rule| rule.mode.is_some());
        if is_kept && *conflict != Conflict::Last {
            let what = format!(
                "a deleted row of table {} would keep its key from all other sources for ever",
                self.table()
            );
            return Err(hinted(refusal(*line, what), "soft-delete goes with conflict = \"last\""));
        }
        let (needed, name) = conflict.needs();
        let by = self.rules.iter().find_map(|rule| rule.by.as_ref());
        let needed = match by {
            None => place(needed).ok_or_else(|| {
                let what =
                    format!("conflicts of table {} want a column with metadata = \"{name}\"", self.table());
                hinted(refusal(*line, what), "or say by = \"…\": a column of the target that decides them")
            })?,
            Some(by) => made.iter().position(|made| made.column.name == by.it).ok_or_else(|| {
                refusal(by.line, format!("table {} has no column {} on the target", self.table(), by.it))
            })?,
        };
        let is_known = |made: &Made| match &made.output {
            Output::Same(at) | Output::Masked { at, .. } => self.is_carried(*at),
            Output::Computed { inputs, .. } => inputs.iter().all(|at| self.is_carried(*at)),
            Output::Null | Output::Constant(_) | Output::Metadata(..) => true,
        };
        let only_inserts = self.rules.iter().any(|rule| rule.only_inserts);
        if let Some(decider) = made.get(needed).filter(|made| !is_known(made) && !only_inserts) {
            let what = format!(
                "column {} of table {} decides conflicts, and the source does not send it of rows that it deletes",
                decider.column.name,
                self.table()
            );
            return Err(hinted(refusal(*line, what), self.full()));
        }
        if !made.iter().any(|made| made.column.key) {
            let what = format!("conflicts of table {} want a key, and it has none", self.table());
            return Err(hinted(refusal(*line, what), self.full()));
        }
        let order = self.rules.iter().find_map(|rule| rule.order.as_ref());
        Ok(Some(match (conflict, order) {
            (Conflict::Last, _) => Contest::Last { time: needed, source: place(Metadata::Source) },
            (Conflict::Order, Some(order)) => {
                Contest::Order { source: needed, names: order.it.as_slice().into() }
            }
            (Conflict::First | Conflict::Order, _) => Contest::First { source: needed },
        }))
    }
}

impl Shaped {
    /// Whether a column of the target, by place, decides whose row it is.
    pub(super) fn decides(&self, at: usize) -> bool {
        match &self.contest {
            Some(Contest::Last { time, source }) => *time == at || *source == Some(at),
            Some(Contest::First { source } | Contest::Order { source, .. }) => *source == at,
            None => false,
        }
    }

    /// Whose row it is, where other sources have rows in the same table.
    pub fn contest(&self) -> Option<&Contest> {
        self.contest.as_ref()
    }

    /// Texts by column that only its rows have in a table with those of others; none where there are none.
    pub fn marks(&self) -> Vec<(String, String)> {
        let is_told = self.outputs.iter().any(|output| output.tells(Metadata::Source));
        if self.contest.is_some() && !is_told {
            return Vec::new();
        }
        let columns = self.relation.columns.iter().zip(&self.outputs);
        let marks = columns.filter_map(|(column, output)| match output {
            Output::Constant(text) if self.is_routed() => Some((column.name.clone(), text.clone())),
            Output::Metadata(Metadata::Source, _) => Some((column.name.clone(), self.from.clone())),
            _ => None,
        });
        marks.collect()
    }

    /// What a row may find on the target when it comes.
    pub fn arriving(&self) -> Arriving {
        let place = |wanted: Metadata| self.outputs.iter().position(|output| output.tells(wanted));
        let versioned = || {
            let position = place(Metadata::Position)?;
            Some(Versioned { position, from: place(Metadata::ValidFrom)?, to: place(Metadata::ValidTo)? })
        };
        match self.mode {
            _ if self.contest.is_some() => self.contest.clone().map(Arriving::Contested),
            Mode::Same => None,
            Mode::SoftDelete => place(Metadata::DeletedAt).map(Arriving::Reviving),
            Mode::History => versioned().map(Arriving::Versioned),
        }
        .unwrap_or_default()
    }
}
