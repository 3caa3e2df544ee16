//! What of the log is for this target, and what happens where the target lacks something.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::model::{Fault, Relation, quote_ident};
use crate::pg::control::fault;
use crate::pg::counterpart::Mismatch;
use crate::pg::filter::ColumnList;
use crate::pg::pattern::{Pattern, Rename};
use crate::transform::{Arriving, Choice, Refusal};

/// What to do when the target does not have what a change needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSchemaChange {
    /// Stop, and name the DDL that lets the same command go on.
    #[default]
    Stop,
    /// Add columns that are missing.
    AddColumns,
    /// Leave columns out that are missing.
    IgnoreExtra,
}

/// Which tables and columns of the log are applied.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Only these tables, if any is given.
    pub tables: Vec<Pattern>,
    /// Not these.
    pub exclude: Vec<Pattern>,
    pub columns: Vec<ColumnList>,
    /// Tables whose changes are applied one by one.
    pub exact: Vec<Pattern>,
    /// Tables that are called otherwise on the target.
    pub renames: Vec<Rename>,
    pub on_schema_change: OnSchemaChange,
}

/// The names of the partitioned tables above a table of the target, since the log does not tell the source's.
const ANCESTORS: &str = "
select n.nspname::text, c.relname::text
  from pg_class t join pg_namespace s on s.oid = t.relnamespace
  cross join lateral pg_partition_ancestors(t.oid) a
  join pg_class c on c.oid = a.relid join pg_namespace n on n.oid = c.relnamespace
 where s.nspname = $1 and t.relname = $2 and c.oid <> t.oid";

impl Rules {
    /// Names under which the patterns may mean a table: its own on the source, and those of the partitioned tables above it, which are
    /// those of the target.
    pub(super) async fn family(
        &self,
        client: &Client,
        source: &Relation,
        relation: &Relation,
    ) -> Result<Vec<(String, String)>, Fault> {
        let mut family = vec![(source.schema.clone(), source.name.clone())];
        let patterns = [&self.tables, &self.exclude, &self.exact];
        if patterns.iter().any(|patterns| !patterns.is_empty()) || !self.columns.is_empty() {
            let rows = client
                .query(ANCESTORS, &[&relation.schema, &relation.name])
                .await
                .map_err(|error| fault(&error).context("looking up partitions on the target"))?;
            family.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
        }
        Ok(family)
    }

    /// Which tables are meant, and what they are called; empty where it is all as they are.
    pub fn scope(&self) -> String {
        let mut parts = Vec::new();
        for (flag, patterns) in [("--tables", &self.tables), ("--exclude", &self.exclude)] {
            parts.extend(patterns.iter().map(|pattern| format!("{flag} {pattern}")));
        }
        parts.extend(self.renames.iter().map(|rename| format!("--rename {rename}")));
        parts.sort();
        parts.dedup();
        parts.join(" ")
    }

    /// What holds for a table of these names, or none where it is left out.
    pub(super) fn choose(&self, family: &[(String, String)]) -> Option<Choice> {
        let meant = |pattern: &Pattern| family.iter().any(|(schema, name)| pattern.matches(schema, name));
        if self.exclude.iter().any(meant) || !(self.tables.is_empty() || self.tables.iter().any(meant)) {
            return None;
        }
        let list = self.columns.iter().find(|list| meant(&list.tables));
        Some(Choice {
            ignore_extra: self.on_schema_change == OnSchemaChange::IgnoreExtra,
            columns: list.map(|list| list.columns.clone()),
            exact: self.exact.iter().any(meant),
            loose: Vec::new(),
            arriving: Arriving::New,
        })
    }

    /// Patterns that match none of these tables: they may be misspelt.
    pub(super) fn unmatched<'r>(&'r self, seen: &BTreeSet<(String, String)>) -> Vec<&'r Pattern> {
        let lists = self.columns.iter().map(|list| &list.tables);
        self.tables
            .iter()
            .chain(&self.exclude)
            .chain(&self.exact)
            .chain(lists)
            .filter(|pattern| !seen.iter().any(|(schema, name)| pattern.matches(schema, name)))
            .collect()
    }
}

/// The refusal of changes of a table that has the name, by now, of one that was brought back under another.
pub(super) fn another(relation: &Relation, place: &Relation) -> Refusal {
    let message = format!(
        "table {}.{} of the source is another one than that which {}.{} was made of: it was dropped or renamed meanwhile",
        relation.schema, relation.name, place.schema, place.name
    );
    Refusal { message, hint: Some("replay to a moment before that".into()), add_columns: None }
}

/// The refusal of a mode for rows of which only what they are is known, and not what they were.
pub(super) fn polled(relation: &Relation) -> Refusal {
    let table = format!("{}.{}", relation.schema, relation.name);
    Refusal {
        message: format!("table {table} is polled, and a mode wants changes as logical decoding tells them"),
        hint: Some("leave out mode for it".into()),
        add_columns: None,
    }
}

/// The refusal of changes that would go into a table that only happens to have the name.
pub(super) fn not_the_same(relation: &Relation, target_table: u32, mismatch: Mismatch) -> Refusal {
    let (schema, name) = (&relation.schema, &relation.name);
    let table = format!("{}.{}", quote_ident(schema), quote_ident(name));
    let forget = format!(
        "DELETE FROM pgsluice.counterpart WHERE {};",
        match mismatch {
            Mismatch::Elsewhere(..) => format!("source_table = {}", relation.oid),
            Mismatch::Taken => format!("target_table = {target_table}"),
        }
    );
    let (message, hint) = match mismatch {
        Mismatch::Elsewhere(before_schema, before) => (
            format!(
                "table {schema}.{name} of the source was called otherwise before: its changes went into {before_schema}.{before} of the target, which is not {schema}.{name} there"
            ),
            format!(
                "rename {}.{} on the target as it was renamed on the source; or, if {table} is the right one: {forget} then run the same command again",
                quote_ident(&before_schema),
                quote_ident(&before)
            ),
        ),
        Mismatch::Taken => (
            format!(
                "table {schema}.{name} of the source is a new one: the target's took the changes of an earlier table of that name, whose rows it holds"
            ),
            format!(
                "do on the target what was done on the source (drop and create it, or rename it); or, if its rows are right: {forget} then run the same command again"
            ),
        ),
    };
    Refusal { message, hint: Some(hint), add_columns: None }
}
