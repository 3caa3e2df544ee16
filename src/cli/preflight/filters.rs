//! Filters of the publication: rows and columns that are not published, and what that does to the source.

use std::collections::BTreeSet;

use super::{Finding, Plan, SourceFacts, Wish, error, warning};
use crate::model::Fault;
use crate::pg::inspect::version_name;
use crate::pg::pattern::Pattern;
use crate::pg::publication::{FILTERS_SINCE, Filters, TableFilter, Unidentified};
use crate::pg::quote_ident;
use crate::pg::tables::{quoted_name, shown_name};

/// What was asked for, table by table; the first list and the first condition that match hold.
pub(super) fn wanted(names: &BTreeSet<(String, String)>, wish: &Wish<'_>) -> Filters {
    names
        .iter()
        .map(|(schema, name)| {
            let columns = wish.columns.iter().find(|list| list.tables.matches(schema, name));
            let rows = wish.rows.iter().find(|filter| filter.tables.matches(schema, name));
            let filter = TableFilter {
                columns: columns.map(|list| list.columns.clone()),
                rows: rows.map(|filter| filter.expression.clone()),
            };
            ((schema.clone(), name.clone()), filter)
        })
        .filter(|(_, filter)| *filter != TableFilter::default())
        .collect()
}

/// What patterns and filters do. `tried` is what the source says of the filters.
pub(crate) fn filter_findings<'w>(
    source: &SourceFacts,
    wish: &Wish<'w>,
    plan: &Plan,
    tried: Result<Vec<Unidentified>, Fault>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let plain = |flag, patterns: &'w [Pattern]| patterns.iter().map(move |pattern| (flag, pattern));
    let patterns = plain("--tables", wish.tables)
        .chain(plain("--exclude", wish.exclude))
        .chain(wish.columns.iter().map(|list| ("--columns", &list.tables)))
        .chain(wish.rows.iter().map(|filter| ("--where", &filter.tables)));
    for (flag, pattern) in patterns {
        if !source.tables.iter().any(|table| pattern.matches(&table.schema, &table.name)) {
            findings.push(error(
                format!("{flag} {pattern} matches no table of the source"),
                "correct the pattern; names with capitals or dots need double quotes",
            ));
        }
    }
    if wish.filters() && source.server.version < FILTERS_SINCE {
        findings.push(error(
            format!(
                "the source runs PostgreSQL {}, whose publications have no filters of rows or columns",
                version_name(source.server.version)
            ),
            "leave out --where; give --columns to pgsluice apply instead, or upgrade the source to 15",
        ));
        return findings;
    }
    match tried {
        Ok(unidentified) => findings.extend(unidentified.iter().map(unidentified_finding)),
        Err(fault) => {
            let mend = fault.hint.unwrap_or_else(|| "correct --where or --columns".into());
            findings.push(error(format!("the source refuses the filters: {}", fault.message), mend));
        }
    }
    for ((schema, name), filter) in &plan.filters {
        let shown = shown_name(schema, name);
        if filter.rows.is_some() {
            findings.push(warning(
                format!("rows of {shown} are filtered, but a TRUNCATE of it is sent whatever its filter"),
                "truncate such a table on the source only if the target's shall be empty as well",
            ));
        }
    }
    findings
}

fn unidentified_finding(found: &Unidentified) -> Finding {
    let (name, shown) = (quoted_name(&found.schema, &found.table), shown_name(&found.schema, &found.table));
    match &found.column {
        Some(column) => error(
            format!(
                "the row filter of {shown} uses column {}, which is not part of its replica identity: UPDATE and DELETE would fail on the source",
                quote_ident(column)
            ),
            format!("ALTER TABLE {name} REPLICA IDENTITY FULL; -- or a filter by key columns"),
        ),
        None => error(
            format!(
                "the columns chosen of {shown} do not hold its replica identity: UPDATE and DELETE would fail on the source"
            ),
            "name the key columns in --columns too; a table with REPLICA IDENTITY FULL can have no list of columns",
        ),
    }
}
