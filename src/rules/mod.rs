//! Rules: what the rows of a table are on a target that is not a copy (`docs/RULES.md`).
//!
//! ```text
//! log: Relation, changes ─► RuleSet::shape ─► Shaped::change ─► Relation, changes as the target has them ─► Planner
//! copied rows            ───────────────────► Shaped::row    ─► rows
//! ```
//!
//! Pure. A file of rules is checked as a whole before anything starts; what can be known only with a table's columns is checked when its
//! definition is met, before its first change. A row is a function of the source's row, and of the transaction that changed it where it tells of that, so that copied rows, changes and
//! replays give the same. Where a change says too little of a row for its rules it is a [`Refusal`], never a guess.
//!
//! No error tells a value of a row, or the key of hashes. Deliberately absent: more rows out of one, look-ups, a language of our own.

mod change;
mod expression;
mod kind;
mod mask;
mod metadata;
mod parse;
mod read;
mod shape;

use crate::model::{Fault, Format};
use crate::pg::pattern::Pattern;
use crate::transform::Refusal;

pub use change::{Changes, Spare, Truncated};
pub use parse::KeyPlace;
pub use shape::Shaped;

use mask::Secret;
use parse::{ColumnRule, Rule, Work};

/// All that a file of rules says.
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    hash: Option<KeyPlace>,
    secret: Option<Secret>,
    /// What rows tell of where they come from.
    source: String,
    /// The text without what means nothing: comments, spaces, order.
    canonical: String,
}

const TEXT_HINT: &str = "start a new archive with --format text";
/// What the key of hashes has at least.
const KEY_BYTES_MIN: usize = 16;

impl RuleSet {
    /// Reads the text of a file, and tells all that is wrong with it, line by line.
    pub fn parse(text: &str) -> Result<RuleSet, Fault> {
        let parse::Parsed { rules, hash } = parse::parse(text)?;
        let written = toml::from_str::<toml::Table>(text).map(|table| table.to_string());
        let canonical = written.map_err(|error| Fault::usage(error.message().to_owned()))?;
        Ok(RuleSet { rules, hash, secret: None, source: String::new(), canonical })
    }

    /// Where the key of hashes is, for [`RuleSet::with_key`].
    pub fn key_place(&self) -> Option<&KeyPlace> {
        self.hash.as_ref()
    }

    /// With the key of hashes. A line's end behind it is no part of it.
    pub fn with_key(self, key: &[u8]) -> Result<RuleSet, Fault> {
        let key = key.strip_suffix(b"\n").unwrap_or(key);
        let key = key.strip_suffix(b"\r").unwrap_or(key);
        if key.len() < KEY_BYTES_MIN {
            return Err(Fault::usage(format!("the key of hashes has fewer than {KEY_BYTES_MIN} bytes"))
                .hint("make one with: openssl rand -hex 32"));
        }
        Ok(RuleSet { secret: Some(Secret::new(key)), ..self })
    }

    /// For the source of this name, which is that of its stream on the target. Refused where it must be in a list and is not.
    pub fn of_source(self, source: &str) -> Result<RuleSet, Fault> {
        let by_name = self.rules.iter().filter(|rule| rule.by.is_none());
        for order in by_name.filter_map(|rule| rule.order.as_ref()) {
            if !order.it.iter().any(|name| name == source) {
                return Err(Fault::usage(format!(
                    "rules, line {}: source {source} is not in the order of sources",
                    order.line
                ))
                .hint("the name of a source is that of its stream on the target: --origin, or --name"));
            }
        }
        Ok(RuleSet { source: source.to_owned(), ..self })
    }

    /// Refused where a rule reads values, and they come in binary form. Where that is not known, the first such row is refused.
    pub fn refuse_format(&self, format: Format) -> Result<(), Fault> {
        match self.reads().next().filter(|_| format == Format::Binary) {
            None => Ok(()),
            Some((line, what)) => Err(Fault::usage(format!(
                "rules, line {line}: {what} reads values, and those of this archive come in binary form"
            ))
            .hint(TEXT_HINT)),
        }
    }

    /// Refused where a rule reads or writes text that is not in the source's encoding (`server_encoding`).
    pub fn refuse_encoding(&self, encoding: &str) -> Result<(), Fault> {
        let reader = self.reads().find(|(_, what)| !matches!(*what, "hash" | "cast"));
        match reader.or_else(|| self.writer()).filter(|_| encoding != "UTF8") {
            None => Ok(()),
            Some((line, what)) => Err(Fault::usage(format!(
                "rules, line {line}: {what} wants UTF-8, and the source's encoding is {encoding}"
            ))
            .hint("name, schema, into, keep, drop, hash, null and cast work in any encoding")),
        }
    }

    /// Tells these rules from others, with their key.
    pub fn fingerprint(&self) -> String {
        let mark = self.secret.as_ref().map(Secret::mark).unwrap_or_default();
        let hash = blake3::hash(format!("{mark}\n{}", self.canonical).as_bytes());
        hash.to_hex().chars().take(32).collect()
    }

    /// Whether rows of other sources may be in a table.
    pub fn has_conflicts(&self) -> bool {
        self.rules.iter().any(|rule| rule.conflict.is_some())
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.rules.len()
    }

    /// Where a table of the source is on the target, if a rule means it.
    pub fn place(&self, schema: &str, name: &str) -> Option<(String, String)> {
        let mut rules = self.rules.iter().filter(|rule| rule.tables.matches(schema, name)).peekable();
        rules.peek()?;
        let (mut place, mut into) = ((schema.to_owned(), name.to_owned()), None);
        for rule in rules {
            place.0 = rule.schema.as_ref().map_or(place.0, |schema| schema.it.clone());
            place.1 = rule.name.as_ref().map_or(place.1, |name| name.it.clone());
            into = into.or(rule.into.as_ref().map(|into| into.it.clone()));
        }
        Some(into.unwrap_or(place))
    }

    /// Whether a rule means the table of the source.
    pub fn means(&self, schema: &str, name: &str) -> bool {
        self.rules.iter().any(|rule| rule.tables.matches(schema, name))
    }

    /// Tables that have another definition on the target than on the source, or may have one. Who makes a schema leaves them out.
    pub fn remade(&self) -> impl Iterator<Item = &Pattern> {
        let makes_a_column = |column: &ColumnRule| {
            let is_new =
                matches!(column.work, Some(Work::Constant(_) | Work::Expression(_) | Work::Metadata(_)));
            is_new || column.name.is_some() || column.cast.is_some()
        };
        let is_remade = move |rule: &&Rule| {
            let elsewhere = rule.schema.is_some() || rule.name.is_some() || rule.into.is_some();
            elsewhere || rule.keep.is_some() || rule.drop.is_some() || rule.columns.iter().any(makes_a_column)
        };
        self.rules.iter().filter(is_remade).map(|rule| &rule.tables)
    }

    /// Patterns of rules that mean none of these tables of the source: they may be misspelt.
    pub fn unmatched<'r, 't>(
        &'r self,
        seen: impl Iterator<Item = (&'t str, &'t str)> + Clone,
    ) -> impl Iterator<Item = String> + 'r
    where
        't: 'r,
    {
        let seen: Vec<_> = seen.collect();
        let is_unmatched =
            move |rule: &&Rule| !seen.iter().any(|(schema, name)| rule.tables.matches(schema, name));
        self.rules.iter().filter(is_unmatched).map(|rule| rule.tables.to_string())
    }

    /// Refuses a rule for one table that is none of these, which are all that the source has: what it should mask would go as it is.
    pub fn refuse_misspelt<'t>(&self, all: impl Iterator<Item = (&'t str, &'t str)>) -> Result<(), Fault> {
        let all: Vec<_> = all.collect();
        let is_misspelt = |rule: &&Rule| {
            let is_meant = |(schema, name): &(&str, &str)| rule.tables.matches(schema, name);
            rule.tables.names_one_table() && !all.iter().any(is_meant)
        };
        match self.rules.iter().find(is_misspelt) {
            None => Ok(()),
            Some(rule) => Err(Fault::stop(format!(
                "rules, line {}: the source has no table {} whose rows come under that name",
                rule.line, rule.tables
            ))
            .hint("mend the name; the rows of a partitioned table come under the names of its partitions, such as public.orders_*; or leave the rule out")),
        }
    }

    /// What must read values, by line.
    fn reads(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let of_column = |column: &ColumnRule| {
            let what = match &column.work {
                Some(Work::Hash) => "hash",
                Some(Work::Partial { .. }) => "partial",
                Some(Work::Regex { .. }) => "regex",
                Some(Work::Expression(_)) => "expression",
                Some(Work::Constant(_) | Work::Metadata(_)) => return None,
                _ if column.cast.is_some() => "cast",
                _ => return None,
            };
            Some((column.line, what))
        };
        self.rules.iter().flat_map(move |rule| {
            let filter = rule.filter.as_ref().map(|filter| (filter.line, "where"));
            filter.into_iter().chain(rule.columns.iter().filter_map(of_column))
        })
    }

    /// The first of what writes text of its own that is not ASCII.
    fn writer(&self) -> Option<(usize, &'static str)> {
        let columns = self.rules.iter().flat_map(|rule| &rule.columns);
        columns.into_iter().find_map(|column| match &column.work {
            Some(Work::Fixed(text)) if !text.is_ascii() => Some((column.line, "fixed")),
            Some(Work::Constant(text)) if !text.is_ascii() => Some((column.line, "constant")),
            _ => None,
        })
    }
}

fn refusal(line: usize, what: impl std::fmt::Display) -> Refusal {
    Refusal { message: format!("rules, line {line}: {what}"), hint: None, add_columns: None }
}

fn hinted(refusal: Refusal, hint: impl Into<String>) -> Refusal {
    Refusal { hint: Some(hint.into()), ..refusal }
}

#[cfg(test)]
mod tests;
