//! What stands in the way of values in binary form: they are taken as they are, so types must be built in and the same on both sides.

use std::collections::HashMap;

use super::{Finding, Plan, SourceFacts, TargetFacts, Wish, error};
use crate::model::{Format, is_portable, is_portable_between};
use crate::pg::inspect::version_name;
use crate::pg::quote_ident;
use crate::pg::tables::Table;

pub(crate) fn format_findings(
    source: &SourceFacts,
    target: Option<&TargetFacts>,
    wish: &Wish<'_>,
    plan: &Plan,
) -> Vec<Finding> {
    if wish.format == Format::Text {
        return Vec::new();
    }
    let there: HashMap<(&str, &str), &Table> = target
        .iter()
        .flat_map(|target| &target.tables)
        .map(|table| ((table.schema.as_str(), table.name.as_str()), table))
        .collect();
    let mut findings = Vec::new();
    for table in &plan.arriving {
        let other = there.get(&(table.schema.as_str(), table.name.as_str()));
        for column in table.columns.iter().filter(|column| !column.generated) {
            let (quoted, name, shown) = (quote_ident(&column.name), &column.type_name, table.shown());
            let other = other.and_then(|table| table.columns.iter().find(|other| other.name == column.name));
            if !is_portable(column.type_oid) {
                findings.push(error(
                    format!(
                        "column {quoted} of {shown} is {name}, whose binary form means something to the source only"
                    ),
                    "--format text; or leave it out with --columns or --exclude",
                ));
            } else if let Some(other) = other.filter(|other| other.base_type_oid != column.type_oid) {
                findings.push(error(
                    format!(
                        "column {quoted} of {shown} is {name} on the source and {} on the target, which in binary form is not the same",
                        other.type_name
                    ),
                    format!("ALTER TABLE {} ALTER COLUMN {quoted} TYPE {name}; -- or --format text", table.quoted()),
                ));
            } else if let Some(target) = target
                && !is_portable_between(column.type_oid, source.server.version, target.server.version)
            {
                findings.push(error(
                    format!(
                        "column {quoted} of {shown} is {name}, and in binary form PostgreSQL {} of the target takes infinite values of it for others",
                        version_name(target.server.version)
                    ),
                    "--format text; or upgrade the target to PostgreSQL 17",
                ));
            }
        }
    }
    findings
}
