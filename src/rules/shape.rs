//! What a table of the source is on the target, by the rules that mean it.

use std::collections::HashSet;
use std::sync::Arc;

use super::expression::Expression;
use super::kind::Kind;
use super::mask::{self, Mask};
use super::metadata::Metadata;
use super::parse::{ColumnRule, Mode, Rule, Truncating, Work};
use super::{RuleSet, hinted, refusal};
use crate::model::{Column, Relation, ReplicaIdentity, quote_ident};
use crate::transform::{Contest, Refusal};

/// A table of the source with its rules.
#[derive(Debug)]
pub struct Shaped {
    /// The table as the log has it.
    pub(super) source: Relation,
    /// As the target has it. It keeps the source's OID, which names it in changes.
    pub(super) relation: Relation,
    /// What is in the columns of the target.
    pub(super) outputs: Vec<Output>,
    pub(super) filter: Option<Filter>,
    /// The line of the rule by which only inserts come.
    pub(super) only_inserts: Option<usize>,
    /// The line of `into`.
    pub(super) into: Option<usize>,
    pub(super) truncating: Truncating,
    pub(super) mode: Mode,
    /// Whose row it is, where other sources have one with its key.
    pub(super) contest: Option<Contest>,
    /// The first line that means it.
    pub(super) line: usize,
    /// The name of the source.
    pub(super) from: String,
    /// Inserts are rows as they are, which may have been there.
    pub(super) replaces: bool,
}

/// What is in a column of the target.
#[derive(Debug)]
pub(super) enum Output {
    /// A column of the source.
    Same(usize),
    Null,
    Constant(String),
    Metadata(Metadata, Kind),
    Masked {
        at: usize,
        mask: Mask,
        line: usize,
    },
    Computed {
        expression: Arc<Expression>,
        inputs: Vec<usize>,
        line: usize,
    },
}

impl Output {
    /// Whether it tells this of a change.
    pub(super) fn tells(&self, wanted: Metadata) -> bool {
        matches!(self, Output::Metadata(metadata, _) if *metadata == wanted)
    }
}

/// Which rows there are on the target.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) line: usize,
    pub(super) expression: Arc<Expression>,
    pub(super) inputs: Vec<usize>,
    /// An old row has all that it reads.
    pub(super) knows_old: bool,
}

impl RuleSet {
    /// What a table is on the target; none where no rule means it.
    pub fn shape(&self, source: &Relation) -> Result<Option<Shaped>, Refusal> {
        self.shape_for(source, Use::Changes)
    }

    /// The same for rows that are read from it and nothing else: of its identity nothing is known.
    pub fn shape_rows(&self, source: &Relation) -> Result<Option<Shaped>, Refusal> {
        self.shape_for(source, Use::Rows)
    }

    /// The same of a log whose rows are states: what is inserted is the row as it is, which may have been there.
    pub fn shape_states(&self, source: &Relation) -> Result<Option<Shaped>, Refusal> {
        self.shape_for(source, Use::States)
    }

    fn shape_for(&self, source: &Relation, usage: Use) -> Result<Option<Shaped>, Refusal> {
        let means = |rule: &&Rule| rule.tables.matches(&source.schema, &source.name);
        let rules: Vec<&Rule> = self.rules.iter().filter(means).collect();
        if rules.is_empty() {
            return Ok(None);
        }
        Shaping { set: self, rules, source, usage }.shape().map(Some)
    }
}

pub(super) struct Shaping<'r> {
    pub(super) set: &'r RuleSet,
    pub(super) rules: Vec<&'r Rule>,
    pub(super) source: &'r Relation,
    pub(super) usage: Use,
}

/// What a table's definition is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Changes,
    Rows,
    States,
}

/// A column of the target that is being put together.
pub(super) struct Made {
    pub(super) column: Column,
    pub(super) output: Output,
    pub(super) line: usize,
}

impl Shaping<'_> {
    fn shape(&self) -> Result<Shaped, Refusal> {
        self.refuse_missing()?;
        let mut made = self.of_source()?;
        made.extend(self.added()?);
        let line = self.rules.first().map_or(0, |rule| rule.line);
        if made.is_empty() {
            return Err(refusal(line, format!("table {} has no column left", self.table())));
        }
        let mut names = HashSet::new();
        if let Some(twice) = made.iter().find(|made| !names.insert(made.column.name.as_str())) {
            let what = format!("table {} would have column {} twice", self.table(), twice.column.name);
            return Err(refusal(twice.line, what));
        }
        self.identify(&mut made)?;
        let into = self.rules.iter().find_map(|rule| rule.into.as_ref());
        let own = || (self.source.schema.clone(), self.source.name.clone());
        let (schema, name) = self.set.place(&self.source.schema, &self.source.name).unwrap_or_else(own);
        let is_full = made.iter().all(|made| made.column.key) && self.is_full();
        let is_declared = !is_full && self.rules.iter().any(|rule| rule.key.is_some());
        let identity = if is_declared { ReplicaIdentity::Index } else { self.source.identity };
        let (mode, contest) = (self.mode(&made)?, self.contest(&made)?);
        let only_inserts = self.rules.iter().find(|rule| rule.only_inserts).map(|rule| rule.line);
        let filter = self.filter(only_inserts.is_some())?;
        let has_key = made.iter().any(|made| made.column.key);
        let (columns, outputs) = made.into_iter().map(|made| (made.column, made.output)).unzip();
        Ok(Shaped {
            source: self.source.clone(),
            relation: Relation { oid: self.source.oid, schema, name, identity, columns },
            outputs,
            filter,
            only_inserts,
            into: into.map(|into| into.line),
            truncating: self
                .rules
                .iter()
                .find_map(|rule| rule.truncate.as_ref())
                .map_or_else(Truncating::default, |it| it.it),
            mode,
            contest,
            from: self.set.source.clone(),
            replaces: self.usage == Use::States && has_key,
            line,
        })
    }

    pub(super) fn table(&self) -> String {
        format!("{}.{}", self.source.schema, self.source.name)
    }

    fn is_full(&self) -> bool {
        self.source.identity == ReplicaIdentity::Full
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.source.columns.iter().position(|column| column.name == name)
    }

    /// Whether each old row has the column.
    pub(super) fn is_carried(&self, at: usize) -> bool {
        self.is_full() || self.source.columns.get(at).is_some_and(|column| column.key)
    }

    /// Rules for one table alone mean its columns, unless they say otherwise: a misspelt mask would let values through.
    fn refuse_missing(&self) -> Result<(), Refusal> {
        for rule in self.rules.iter().filter(|rule| rule.tables.exact().is_some()) {
            let lists = [&rule.keep, &rule.drop].into_iter().flatten();
            let listed = lists.flat_map(|list| list.it.iter().map(|name| (list.line, name)));
            let must_be = |column: &&ColumnRule| !column.optional && !column.makes();
            let said = rule.columns.iter().filter(must_be).map(|column| (column.line, &column.column));
            if let Some((line, name)) = listed.chain(said).find(|(_, name)| self.place(name).is_none()) {
                let what = format!("table {} has no column {name}", self.table());
                return Err(hinted(
                    refusal(line, what),
                    "mend the name; or, if the column is still to come, say optional = true of it",
                ));
            }
        }
        Ok(())
    }

    fn rule_of(&self, name: &str) -> Option<&ColumnRule> {
        self.rules.iter().flat_map(|rule| &rule.columns).find(|column| column.column == name)
    }

    /// Whether a column of the source is left out.
    fn is_dropped(&self, name: &String) -> bool {
        self.rules.iter().any(|rule| {
            rule.drop.as_ref().is_some_and(|drop| drop.it.contains(name))
                || rule.keep.as_ref().is_some_and(|keep| !keep.it.contains(name))
                    && self.rule_of(name).is_none()
        })
    }

    /// The columns that are the source's.
    fn of_source(&self) -> Result<Vec<Made>, Refusal> {
        let mut made = Vec::new();
        for (at, column) in self.source.columns.iter().enumerate() {
            if self.is_dropped(&column.name) {
                continue;
            }
            let Some(rule) = self.rule_of(&column.name) else {
                made.push(Made { column: column.clone(), output: Output::Same(at), line: 0 });
                continue;
            };
            let from = Kind { type_oid: column.type_oid, type_modifier: column.type_modifier };
            let (output, kind) = self.output(at, column, from, rule)?;
            let column = Column {
                name: rule.name.as_ref().unwrap_or(&column.name).clone(),
                key: column.key,
                type_oid: kind.type_oid,
                type_modifier: kind.type_modifier,
            };
            made.push(Made { column, output, line: rule.line });
        }
        Ok(made)
    }

    fn output(
        &self,
        at: usize,
        column: &Column,
        from: Kind,
        rule: &ColumnRule,
    ) -> Result<(Output, Kind), Refusal> {
        let line = rule.line;
        // What is no text any more may be any text, which the target's type takes or refuses.
        let texts = rule.cast.unwrap_or(if from.is_text() { from } else { Kind::ANY });
        let masked = |mask| Output::Masked { at, mask, line };
        let named = || format!("column {} of table {}", column.name, self.table());
        Ok(match &rule.work {
            None => (Output::Same(at), rule.cast.unwrap_or(from)),
            Some(Work::Null) => (Output::Null, rule.cast.unwrap_or(from)),
            Some(Work::Hash) => {
                let to = rule.cast.unwrap_or(from);
                let Some(secret) = &self.set.secret else {
                    return Err(refusal(line, "the key of hashes was not given"));
                };
                let Some(mask) = mask::hash(secret, from, to) else {
                    let what = format!("the type of {} can't hold a hash that keeps values apart", named());
                    return Err(hinted(
                        refusal(line, what),
                        "add a cast to text, uuid or int8, and give the target's column that type",
                    ));
                };
                (masked(mask), to)
            }
            Some(Work::Fixed(text)) => (masked(Mask::Fixed(text.clone())), texts),
            Some(Work::Partial { first, last, with }) => {
                (masked(Mask::Partial { first: *first, last: *last, with: *with }), texts)
            }
            Some(Work::Regex { regex, with }) => {
                (masked(Mask::Regex { regex: regex.clone(), with: with.clone() }), texts)
            }
            Some(Work::Expression(expression)) => {
                (self.computed(line, expression)?, rule.cast.unwrap_or(Kind::ANY))
            }
            Some(Work::Constant(_) | Work::Metadata(_)) => {
                let what = format!("{} is there already, and this makes a new one", named());
                return Err(hinted(refusal(line, what), "say fixed, or give the new column another name"));
            }
        })
    }

    fn computed(&self, line: usize, expression: &Arc<Expression>) -> Result<Output, Refusal> {
        let inputs = self.inputs(line, expression)?;
        Ok(Output::Computed { expression: Arc::clone(expression), inputs, line })
    }

    fn inputs(&self, line: usize, expression: &Expression) -> Result<Vec<usize>, Refusal> {
        let place = |name: &str| {
            let missing = || refusal(line, format!("table {} has no column {name}", self.table()));
            self.place(name).ok_or_else(missing)
        };
        expression.reads().map(place).collect()
    }

    /// The columns that the source does not have.
    fn added(&self) -> Result<Vec<Made>, Refusal> {
        let rules = self.rules.iter().flat_map(|rule| &rule.columns);
        let mut made = Vec::new();
        for rule in rules.filter(|rule| self.place(&rule.column).is_none()) {
            let kind = rule.cast.unwrap_or(Kind::ANY);
            let (output, kind) = match &rule.work {
                Some(Work::Constant(text)) => (Output::Constant(text.clone()), kind),
                Some(Work::Expression(expression)) => (self.computed(rule.line, expression)?, kind),
                Some(Work::Metadata(metadata)) => {
                    let kind = metadata.kind(rule.cast).unwrap_or(kind);
                    (Output::Metadata(*metadata, kind), kind)
                }
                _ => continue,
            };
            let column = Column {
                name: rule.name.as_ref().unwrap_or(&rule.column).clone(),
                key: false,
                type_oid: kind.type_oid,
                type_modifier: kind.type_modifier,
            };
            made.push(Made { column, output, line: rule.line });
        }
        Ok(made)
    }

    /// Says which columns of the target identify its rows.
    fn identify(&self, made: &mut [Made]) -> Result<(), Refusal> {
        let declared = self.rules.iter().find_map(|rule| rule.key.as_ref());
        // What an old row was told of its change is not known any more, and what meets others is found by a key.
        let is_contested = self.rules.iter().any(|rule| rule.conflict.is_some());
        let teller = made.iter().find(|made| is_contested || matches!(made.output, Output::Metadata(..)));
        match (self.is_full(), teller, declared) {
            (true, None, _) => {
                made.iter_mut().for_each(|made| made.column.key = true);
                return Ok(());
            }
            // Rows that are only read are found by nothing.
            (true, Some(_), None) if self.usage == Use::Rows && !is_contested => {
                made.iter_mut().for_each(|made| made.column.key = false);
                return Ok(());
            }
            (true, Some(teller), None) => {
                let what = match self.usage {
                    Use::Rows => format!(
                        "a base does not tell the key of table {}, by which it meets rows of other sources",
                        self.table()
                    ),
                    Use::Changes | Use::States => format!(
                        "table {} has REPLICA IDENTITY FULL, and its rows can't be found by column {}",
                        self.table(),
                        teller.column.name
                    ),
                };
                let line = match teller.line {
                    0 => self.rules.first().map_or(0, |rule| rule.line),
                    line => line,
                };
                return Err(hinted(
                    refusal(line, what),
                    "say key = [\"…\"]: the columns that identify rows on the target",
                ));
            }
            _ => {}
        }
        let has_identity = self.source.columns.iter().any(|column| column.key);
        let is_routed = self.rules.iter().any(|rule| rule.into.is_some());
        match declared {
            Some(key) => {
                let is_there = |name: &String| made.iter().any(|made| made.column.name == *name);
                if let Some(name) = key.it.iter().find(|name| !is_there(name)) {
                    let what = format!("table {} has no column {name} on the target", self.table());
                    return Err(refusal(key.line, what));
                }
                for made in made.iter_mut() {
                    let tells_apart = is_routed && matches!(made.output, Output::Constant(_));
                    made.column.key = has_identity && (tells_apart || key.it.contains(&made.column.name));
                }
            }
            None => {
                let keys = self.source.columns.iter().filter(|column| column.key);
                if let Some(lost) = keys.into_iter().find(|column| self.is_dropped(&column.name)) {
                    let line = self.rules.first().map_or(0, |rule| rule.line);
                    let what = format!(
                        "column {} is part of the key of {} and can't be dropped",
                        lost.name,
                        self.table()
                    );
                    return Err(hinted(
                        refusal(line, what),
                        "keep it; or say key = [\"…\"]: the columns that identify rows on the target",
                    ));
                }
                // Each table that goes into one has rows of its own there.
                for made in
                    made.iter_mut().filter(|made| is_routed && matches!(made.output, Output::Constant(_)))
                {
                    made.column.key = has_identity;
                }
            }
        }
        for made in made.iter().filter(|made| made.column.key) {
            let name = &made.column.name;
            let what = match &made.output {
                Output::Metadata(..) => {
                    format!("column {name} tells of changes, and can't identify rows of {}", self.table())
                }
                Output::Null
                | Output::Masked {
                    mask: Mask::Fixed(_) | Mask::Partial { .. } | Mask::Regex { .. }, ..
                } => {
                    format!(
                        "column {name} is part of the key of {}, and rows must differ in it",
                        self.table()
                    )
                }
                Output::Same(at) | Output::Masked { at, .. } if !self.is_carried(*at) => {
                    self.unknown_key(name)
                }
                Output::Computed { inputs, .. } if !inputs.iter().all(|at| self.is_carried(*at)) => {
                    self.unknown_key(name)
                }
                _ => continue,
            };
            let line = if made.line > 0 { made.line } else { declared.map_or(0, |key| key.line) };
            return Err(hinted(
                refusal(line, what),
                format!("hash keeps keys apart; an expression over other columns wants {}", self.full()),
            ));
        }
        Ok(())
    }

    fn unknown_key(&self, name: &str) -> String {
        format!(
            "column {name} identifies rows of {} and is made of what the source does not send of old rows",
            self.table()
        )
    }

    /// The cure.
    pub(super) fn full(&self) -> String {
        let table = format!("{}.{}", quote_ident(&self.source.schema), quote_ident(&self.source.name));
        format!("on the source: ALTER TABLE {table} REPLICA IDENTITY FULL;")
    }

    fn filter(&self, only_inserts: bool) -> Result<Option<Filter>, Refusal> {
        let Some(filter) = self.rules.iter().find_map(|rule| rule.filter.as_ref()) else { return Ok(None) };
        let inputs = self.inputs(filter.line, &filter.it)?;
        let unknown =
            inputs.iter().find(|at| !self.is_carried(**at)).and_then(|at| self.source.columns.get(*at));
        // Without an identity the source publishes neither updates nor deletes.
        let has_identity = self.is_full() || self.source.columns.iter().any(|column| column.key);
        if let Some(column) = unknown.filter(|_| has_identity && !only_inserts && self.usage != Use::States) {
            let what = format!(
                "where reads column {} of table {}, which the source does not send of old rows: nobody could tell whether a row was there before",
                column.name,
                self.table()
            );
            let hint =
                format!("{} or, if the table gets inserts alone, say only-inserts = true", self.full());
            return Err(hinted(refusal(filter.line, what), hint));
        }
        let expression = Arc::clone(&filter.it);
        Ok(Some(Filter { line: filter.line, expression, inputs, knows_old: unknown.is_none() }))
    }
}

impl Shaped {
    /// The table as the target has it. It keeps the source's OID, which names it in changes.
    pub fn relation(&self) -> &Relation {
        &self.relation
    }

    /// The table as the log has it.
    pub fn source(&self) -> &Relation {
        &self.source
    }

    /// Whether rows of other tables go into the same one: their order among each other counts, and each knows its own rows only by
    /// constants.
    pub fn is_routed(&self) -> bool {
        self.into.is_some()
    }

    /// Columns of the target, by place, in which equal values may be different texts.
    pub fn loose(&self) -> Vec<usize> {
        let is_loose = |(output, column): &(&Output, &Column)| match output {
            Output::Same(at) => self.source.columns.get(*at).is_none_or(|of| of.type_oid != column.type_oid),
            Output::Masked { mask, .. } => !mask.is_canonical(),
            Output::Computed { .. } => true,
            Output::Null | Output::Constant(_) | Output::Metadata(..) => false,
        };
        let columns = self.outputs.iter().zip(&self.relation.columns);
        (0..).zip(columns).filter(|(_, column)| is_loose(column)).map(|(at, _)| at).collect()
    }
}
