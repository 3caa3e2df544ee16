//! A change of the source's row as a change of the target's.
//!
//! ```text
//!              old row passes   does not
//! new passes   update           insert (the row enters)
//! does not     delete (leaves)  nothing
//! ```
//!
//! Where rows stay that the source deletes ([`Mode`]) a delete is an update that marks the row or ends its version, and an update that changes
//! the key is that and an insert.

use super::kind::Kind;
use super::metadata::{Metadata, Operation, Stamp};
use super::parse::{Mode, Truncating};
use super::shape::{Filter, Output, Shaped};
use super::{TEXT_HINT, hinted, refusal};
use crate::model::{Column, Format, ReplicaIdentity, Value, quote_ident};
use crate::pgoutput::{Begin, Message, Old, Tuple, TupleBuffer};
use crate::transform::{Emptying, Refusal, Removal};

/// Memory for the rows of a change, used again.
#[derive(Debug, Default)]
pub struct Spare {
    old: TupleBuffer,
    new: TupleBuffer,
    gone: TupleBuffer,
}

/// What a change is on the target, in this order: nothing, or up to two changes of rows.
pub type Changes<'s> = [Option<Message<'s>>; 2];

/// A row with what else is known of it.
struct Row<'v> {
    values: &'v [Value<'v>],
    /// The row before, where values that did not change may be.
    before: Option<Before<'v>>,
}

#[derive(Clone, Copy)]
struct Before<'v> {
    values: &'v [Value<'v>],
    /// Of a key the other columns mean nothing.
    is_key: bool,
}

impl<'v> Row<'v> {
    fn sent(&self, at: usize) -> Value<'v> {
        self.values.get(at).copied().unwrap_or(Value::Unchanged)
    }

    /// A value, if need be that of the row before; [`Value::Unchanged`] where nothing tells it.
    fn known(&self, at: usize, columns: &[Column]) -> Value<'v> {
        let sent = self.sent(at);
        let before = self.before.filter(|before| {
            sent == Value::Unchanged && (!before.is_key || columns.get(at).is_some_and(|column| column.key))
        });
        before.and_then(|before| before.values.get(at).copied()).unwrap_or(sent)
    }
}

/// How much of a row is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A value that did not change may stay away.
    Changes,
    /// The row enters: the target has nothing of it.
    All,
    /// Columns of the key; the others are null.
    Key,
    /// The key, and what says that the row is gone; the others are as they are.
    Gone,
}

/// What becomes of a row.
enum Fate<'r, 'v> {
    Comes(&'r Row<'v>),
    Changes(&'r Row<'v>),
    Goes,
}

impl Shaped {
    /// A change of a row, of a transaction that began so, as the target has it. `message` is one of this table.
    pub fn change<'s>(
        &self,
        message: &Message<'_>,
        begin: Begin,
        spare: &'s mut Spare,
    ) -> Result<Changes<'s>, Refusal> {
        let (old, new) = match *message {
            Message::Insert { new, .. } => (Old::Absent, Some(new)),
            Message::Update { old, new, .. } => (old, Some(new)),
            Message::Delete { old, .. } => (old, None),
            _ => return Ok([None, None]),
        };
        let is_insert = matches!(message, Message::Insert { .. });
        if let Some(line) = self.only_inserts.filter(|_| !is_insert) {
            let what = format!("table {} has changes that are no inserts, against only-inserts", self.name());
            return Err(hinted(
                refusal(line, what),
                "leave out only-inserts; where then wants REPLICA IDENTITY FULL on the source",
            ));
        }
        let new: Option<Vec<Value<'_>>> = new.map(|row| self.load(row)).transpose()?;
        let (before, is_key): (Option<Vec<Value<'_>>>, bool) = match old {
            Old::Absent => (None, false),
            Old::Key(row) => (Some(self.load(row)?), true),
            Old::Row(row) => (Some(self.load(row)?), false),
        };
        let before = before.as_deref().map(|values| Before { values, is_key });
        let new = new.as_deref().map(|values| Row { values, before });
        let old = before.map(|before| Row { values: before.values, before: None });
        let passes = match &self.filter {
            None => (true, true),
            Some(filter) => self.passes(filter, old.as_ref(), new.as_ref(), is_insert)?,
        };
        let relation = self.relation.oid;
        let stamp = |operation| self.stamp(Some(begin), operation);
        let fate = match (&new, passes) {
            (Some(row), (was, true)) if is_insert || !was => Fate::Comes(row),
            (Some(row), (_, true)) => Fate::Changes(row),
            // It may be there since it passed.
            (Some(row), (_, false)) if self.replaces => {
                self.shape(row, Wanted::Key, stamp(Operation::Delete), &mut spare.old)?;
                return Ok([Some(Message::Delete { relation, old: Old::Key(spare.old.tuple()) }), None]);
            }
            // A row that leaves has passed before, and so what was before is told.
            (_, (true, _)) if !is_insert => Fate::Goes,
            _ => return Ok([None, None]),
        };
        let Spare { old: old_row, new: new_row, gone } = spare;
        let first = match (fate, self.mode) {
            (Fate::Comes(row), _) => {
                self.shape(row, Wanted::All, stamp(Operation::Insert), new_row)?;
                Message::Insert { relation, new: new_row.tuple() }
            }
            (Fate::Changes(row), Mode::Same) if self.contest.is_none() => {
                self.shape(row, Wanted::Changes, stamp(Operation::Update), new_row)?;
                Message::Update { relation, old: self.old(before, begin, old_row)?, new: new_row.tuple() }
            }
            (Fate::Changes(row), _) => {
                // A value that stays away would be that of another source's row.
                let wanted = if self.contest.is_some() { Wanted::All } else { Wanted::Changes };
                self.shape(row, wanted, stamp(Operation::Update), new_row)?;
                let old = self.old(before, begin, old_row)?;
                if self.has_moved(old, new_row.tuple()) {
                    let gone = self.gone(before, begin, gone)?;
                    self.shape(row, Wanted::All, stamp(Operation::Insert), new_row)?;
                    return Ok([gone, Some(Message::Insert { relation, new: new_row.tuple() })]);
                }
                Message::Update { relation, old: Old::Absent, new: new_row.tuple() }
            }
            (Fate::Goes, _) => return Ok([self.gone(before, begin, gone)?, None]),
        };
        Ok([Some(first), None])
    }

    /// Whether the row has another key on the target than before.
    fn has_moved(&self, old: Old<'_>, new: Tuple<'_>) -> bool {
        let (Old::Key(old) | Old::Row(old)) = old else { return false };
        let mut columns = self.relation.columns.iter().zip(old.values().zip(new.values()));
        columns.any(|(column, (old, new))| column.key && new != Value::Unchanged && old != new)
    }

    fn stamp(&self, begin: Option<Begin>, operation: Operation) -> Stamp<'_> {
        Stamp { begin, operation, source: &self.from }
    }

    /// A row that is gone on the source, and may stay on the target.
    fn gone<'s>(
        &self,
        before: Option<Before<'_>>,
        begin: Begin,
        into: &'s mut TupleBuffer,
    ) -> Result<Option<Message<'s>>, Refusal> {
        let relation = self.relation.oid;
        if self.mode == Mode::Same {
            return Ok(Some(Message::Delete { relation, old: self.old(before, begin, into)? }));
        }
        let Some(Before { values, .. }) = before else { return Ok(None) };
        let stamp = self.stamp(Some(begin), Operation::Delete);
        self.shape(&Row { values, before: None }, Wanted::Gone, stamp, into)?;
        Ok(Some(Message::Update { relation, old: Old::Absent, new: into.tuple() }))
    }

    /// A row that was read from the source's table, which is whole; false where it is not for the target. `values` in the order of the
    /// source's columns.
    pub fn row(&self, values: &[Value<'_>], into: &mut TupleBuffer) -> Result<bool, Refusal> {
        self.refuse_length(values.len())?;
        let row = Row { values, before: None };
        if let Some(filter) = &self.filter
            && !self.verdict(filter, &row)?
        {
            return Ok(false);
        }
        self.shape(&row, Wanted::All, self.stamp(None, Operation::Copy), into)?;
        Ok(true)
    }

    /// What a TRUNCATE of the table is on the target, by a transaction that began so.
    pub fn truncated(&self, begin: Begin) -> Result<Truncated, Refusal> {
        let Some(line) = self.into else {
            return match (&self.contest, self.mode) {
                (None, Mode::Same) => Ok(Truncated::Whole),
                (Some(_), _) if self.marks().is_empty() => Err(self.of_all_sources()),
                _ => Ok(Truncated::Rows(self.emptying(begin, self.marks()))),
            };
        };
        match self.truncating {
            Truncating::Ignore => Ok(Truncated::Nothing),
            Truncating::Delete if self.marks().is_empty() => Err(self.of_all_sources()),
            Truncating::Delete => Ok(Truncated::Rows(self.emptying(begin, self.marks()))),
            Truncating::Refuse => {
                let what = format!(
                    "a TRUNCATE of table {} would empty {}.{} of the rows of other tables too",
                    self.name(),
                    self.relation.schema,
                    self.relation.name
                );
                Err(hinted(
                    refusal(line, what),
                    "say truncate = \"delete\", with a constant that tells the table's rows, or truncate = \"ignore\"; then run the same command again with --accept-rules",
                ))
            }
        }
    }

    fn of_all_sources(&self) -> Refusal {
        let what =
            format!("a TRUNCATE of table {} would empty it of the rows of other sources too", self.name());
        hinted(refusal(self.line, what), "add a column with metadata = \"source\", which tells its rows")
    }

    fn emptying(&self, begin: Begin, rows: Vec<(String, String)>) -> Emptying {
        let stamp = self.stamp(Some(begin), Operation::Delete);
        let columns = self.relation.columns.iter().zip(&self.outputs);
        let told: Vec<_> = columns
            .filter_map(|(column, output)| match output {
                Output::Metadata(metadata, kind) => {
                    Some((*metadata, column.name.clone(), metadata.text(stamp, *kind)?.into_owned()))
                }
                _ => None,
            })
            .collect();
        let of = |wanted: Metadata| told.iter().find(|(metadata, ..)| *metadata == wanted);
        let by = match (self.mode, of(Metadata::DeletedAt), of(Metadata::ValidFrom), of(Metadata::ValidTo)) {
            (Mode::SoftDelete, Some((_, marker, _)), ..) => Removal::Mark(marker.clone()),
            (Mode::History, _, Some((_, from, _)), Some((_, to, time))) => {
                Removal::End { from: from.clone(), to: to.clone(), time: time.clone() }
            }
            _ => Removal::Delete,
        };
        let set = match self.mode {
            Mode::SoftDelete => told.into_iter().map(|(_, column, text)| (column, text)).collect(),
            Mode::Same | Mode::History => Vec::new(),
        };
        Emptying { rows, by, set }
    }

    fn name(&self) -> String {
        format!("{}.{}", self.source.schema, self.source.name)
    }

    fn load<'m>(&self, row: Tuple<'m>) -> Result<Vec<Value<'m>>, Refusal> {
        let values: Vec<_> = row.values().collect();
        self.refuse_length(values.len())?;
        Ok(values)
    }

    fn refuse_length(&self, length: usize) -> Result<(), Refusal> {
        let columns = self.source.columns.len();
        if length == columns {
            return Ok(());
        }
        let message =
            format!("a row of {} has {length} columns where its definition has {columns}", self.name());
        Err(Refusal { message, hint: None, add_columns: None })
    }

    /// Whether the row before and the row behind the change pass.
    fn passes(
        &self,
        filter: &Filter,
        old: Option<&Row<'_>>,
        new: Option<&Row<'_>>,
        is_insert: bool,
    ) -> Result<(bool, bool), Refusal> {
        // A state that goes may never have been there.
        if self.replaces && !is_insert {
            return Ok((true, false));
        }
        if !is_insert && !filter.knows_old {
            let what =
                format!("table {} has a change of an old row of which where can't be told", self.name());
            return Err(hinted(refusal(filter.line, what), self.full()));
        }
        let after = new.map(|row| self.verdict(filter, row)).transpose()?;
        let before = match old {
            Some(row) => Some(self.verdict(filter, row)?),
            // It reads columns of the key alone, and the key is as it was.
            None => after,
        };
        Ok((before.unwrap_or(false), after.unwrap_or(false)))
    }

    fn verdict(&self, filter: &Filter, row: &Row<'_>) -> Result<bool, Refusal> {
        self.refuse_unsent(filter.line, &filter.inputs, row)?;
        filter.expression.passes(&|name| self.get(name, row)).map_err(|what| {
            refusal(filter.line, format!("where has failed on a row of table {}: {what}", self.name()))
        })
    }

    /// An input of an expression.
    fn get<'r>(&'r self, name: &str, row: &Row<'r>) -> Option<(&'r Column, Value<'r>)> {
        let columns = &self.source.columns;
        let at = columns.iter().position(|column| column.name == name)?;
        Some((columns.get(at)?, row.known(at, columns)))
    }

    fn refuse_unsent(&self, line: usize, inputs: &[usize], row: &Row<'_>) -> Result<(), Refusal> {
        let columns = &self.source.columns;
        if inputs.iter().any(|at| matches!(row.known(*at, columns), Value::Binary(_))) {
            let what =
                format!("an expression reads rows of table {}, which come in binary form", self.name());
            return Err(hinted(refusal(line, what), TEXT_HINT));
        }
        match inputs.iter().find(|at| row.known(**at, columns) == Value::Unchanged) {
            None => Ok(()),
            Some(at) => Err(self.unsent(line, *at)),
        }
    }

    fn unsent(&self, line: usize, at: usize) -> Refusal {
        let column = self.source.columns.get(at).map_or("?", |column| column.name.as_str());
        let what = format!(
            "column {column} of table {} is needed, and the source did not send it, since it did not change (TOAST)",
            self.name()
        );
        hinted(refusal(line, what), self.full())
    }

    fn full(&self) -> String {
        let table = format!("{}.{}", quote_ident(&self.source.schema), quote_ident(&self.source.name));
        format!(
            "on the source: ALTER TABLE {table} REPLICA IDENTITY FULL; that helps with what changes from then on"
        )
    }

    /// What finds the row on the target.
    fn old<'s>(
        &self,
        before: Option<Before<'_>>,
        begin: Begin,
        into: &'s mut TupleBuffer,
    ) -> Result<Old<'s>, Refusal> {
        let Some(Before { values, is_key }) = before else { return Ok(Old::Absent) };
        let row = Row { values, before: None };
        let is_key = is_key || self.relation.identity != ReplicaIdentity::Full;
        // What it was told of an earlier change finds no row; what this one tells may decide whose row it is.
        let stamp = self.stamp(Some(begin), Operation::Delete);
        self.shape(&row, if is_key { Wanted::Key } else { Wanted::Changes }, stamp, into)?;
        Ok(if is_key { Old::Key(into.tuple()) } else { Old::Row(into.tuple()) })
    }

    fn shape(
        &self,
        row: &Row<'_>,
        wanted: Wanted,
        stamp: Stamp<'_>,
        into: &mut TupleBuffer,
    ) -> Result<(), Refusal> {
        into.clear();
        let mut spare = Vec::new();
        let sent = row.values.iter().find_map(|value| value.bytes());
        let format = sent.map_or(Format::Text, |(format, _)| format);
        for (at, (output, column)) in self.outputs.iter().zip(&self.relation.columns).enumerate() {
            let unwritable = |error: crate::pgoutput::Unwritable| Refusal {
                message: format!("column {} of table {}: {error}", column.name, self.name()),
                hint: None,
                add_columns: None,
            };
            if wanted == Wanted::Key && !column.key && !self.decides(at) {
                into.push(Value::Null).map_err(unwritable)?;
                continue;
            }
            // By what is sent of the new row it is found, also where the key did not change and is long.
            let finds = column.key && (self.mode != Mode::Same || self.contest.is_some());
            let wanted = if finds && wanted == Wanted::Changes { Wanted::All } else { wanted };
            let tells = self.decides(at)
                || match output {
                    Output::Metadata(metadata, _) => {
                        self.mode == Mode::SoftDelete || *metadata == Metadata::ValidTo
                    }
                    _ => false,
                };
            if wanted == Wanted::Gone && !column.key && !tells {
                into.push(Value::Unchanged).map_err(unwritable)?;
                continue;
            }
            let text;
            let value = match output {
                Output::Same(at) => self.plain(*at, row, wanted)?,
                Output::Null => Value::Null,
                Output::Constant(text) => self.own(text, format, column)?,
                Output::Metadata(metadata, kind) => {
                    metadata.value(stamp, *kind, format, &mut spare).ok_or_else(|| self.no_binary(column))?
                }
                Output::Masked { at, mask, line } => match self.plain(*at, row, wanted)? {
                    Value::Null => Value::Null,
                    Value::Unchanged => Value::Unchanged,
                    Value::Binary(_) if mask.reads() => {
                        return Err(hinted(self.failed(*line, column, "it is in binary form"), TEXT_HINT));
                    }
                    Value::Text(bytes) | Value::Binary(bytes) => {
                        text = mask.of(bytes).map_err(|what| self.failed(*line, column, what))?;
                        self.own(&text, format, column)?
                    }
                },
                Output::Computed { expression, inputs, line } => {
                    let is_unchanged = |at: &usize| row.sent(*at) == Value::Unchanged;
                    if wanted == Wanted::Changes && !inputs.is_empty() && inputs.iter().all(is_unchanged) {
                        Value::Unchanged
                    } else {
                        self.refuse_unsent(*line, inputs, row)?;
                        let value = expression.text(&|name| self.get(name, row));
                        match value.map_err(|what| self.failed(*line, column, &what))? {
                            Some(value) => {
                                text = value;
                                self.own(&text, format, column)?
                            }
                            None => Value::Null,
                        }
                    }
                }
            };
            into.push(value).map_err(unwritable)?;
        }
        Ok(())
    }

    /// A value of the source.
    fn plain<'r>(&self, at: usize, row: &Row<'r>, wanted: Wanted) -> Result<Value<'r>, Refusal> {
        if wanted == Wanted::Changes {
            return Ok(row.sent(at));
        }
        match row.known(at, &self.source.columns) {
            Value::Unchanged => {
                let line = self.filter.as_ref().map_or(self.line, |filter| filter.line);
                Err(self.unsent(line, at))
            }
            known => Ok(known),
        }
    }

    /// A text of ours, in the format of its row: that of a text is the same bytes in both.
    fn own<'t>(&self, text: &'t str, format: Format, column: &Column) -> Result<Value<'t>, Refusal> {
        let kind = Kind { type_oid: column.type_oid, type_modifier: column.type_modifier };
        match format {
            Format::Text => Ok(Value::Text(text.as_bytes())),
            Format::Binary if kind.is_text() => Ok(Value::Binary(text.as_bytes())),
            Format::Binary => Err(self.no_binary(column)),
        }
    }

    fn no_binary(&self, column: &Column) -> Refusal {
        Refusal {
            message: format!(
                "rules: rows of table {} come in binary form, and column {} is no text",
                self.name(),
                column.name
            ),
            hint: Some(format!(
                "say cast = \"text\" of it, and give the target's column that type; or {TEXT_HINT}"
            )),
            add_columns: None,
        }
    }

    fn failed(&self, line: usize, column: &Column, what: &str) -> Refusal {
        refusal(line, format!("column {} of a row of table {}: {what}", column.name, self.name()))
    }
}

/// What a TRUNCATE is on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truncated {
    /// A TRUNCATE.
    Whole,
    Nothing,
    /// Some rows go, or all are marked.
    Rows(Emptying),
}
