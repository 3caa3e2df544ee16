//! What stands in the way on the target.

use std::collections::HashMap;

use super::{Finding, Plan, SourceFacts, TargetFacts, VERSION_MIN, Wish, error, warning};
use crate::apply::OnSchemaChange;
use crate::pg::inspect::version_name;
use crate::pg::progress::Place;
use crate::pg::tables::Table;
use crate::pg::{quote_ident, quote_literal};

/// How the finding of a table that is not on the target ends.
pub(crate) const MISSING: &str = " is missing on the target";

pub(crate) fn target_findings(
    source: &SourceFacts,
    target: &TargetFacts,
    wish: &Wish<'_>,
    plan: &Plan,
) -> Vec<Finding> {
    let server = &target.server;
    let role = quote_ident(&server.role);
    let mut findings = Vec::new();
    if server.version < VERSION_MIN {
        findings.push(error(
            format!(
                "the target runs PostgreSQL {}; 14 is the oldest that is supported",
                version_name(server.version)
            ),
            "upgrade the target to PostgreSQL 14 or later",
        ));
    }
    if server.in_recovery {
        findings.push(error("the target is a standby and can't be written", "connect to its primary"));
    }
    let same = server.system_identifier == source.server.system_identifier
        && server.started == source.server.started
        && server.database == source.server.database;
    if same {
        findings.push(error("source and target are the same database", "give another --target"));
    }
    if server.encoding != source.server.encoding {
        findings.push(warning(
            format!(
                "the source's encoding is {}, the target's is {}",
                source.server.encoding, server.encoding
            ),
            format!("create the target database with ENCODING {}", quote_literal(&source.server.encoding)),
        ));
    }
    if !target.may_set_replication_role {
        findings.push(error(
            format!("role {role} may not set session_replication_role on the target, so triggers and foreign keys would act twice"),
            if server.version < 150_000 {
                format!("ALTER ROLE {role} SUPERUSER; -- before PostgreSQL 15 the privilege can't be granted alone")
            } else {
                format!("GRANT SET ON PARAMETER session_replication_role TO {role};")
            },
        ));
    }
    let database = quote_ident(&server.database);
    match target.progress {
        Place::Absent if !server.may_create => findings.push(error(
            format!("role {role} may not create schema pgsluice on the target, where the progress is kept"),
            format!("GRANT CREATE ON DATABASE {database} TO {role};"),
        )),
        Place::Schema { usable: false } => findings.push(error(
            format!("role {role} may not create tables in schema pgsluice of the target"),
            format!("GRANT USAGE, CREATE ON SCHEMA pgsluice TO {role};"),
        )),
        Place::Table { usable: false } => findings.push(error(
            format!("role {role} may not write pgsluice.progress on the target"),
            format!("GRANT USAGE ON SCHEMA pgsluice TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgsluice TO {role};"),
        )),
        Place::Absent | Place::Schema { .. } | Place::Table { .. } => {}
    }
    if !target.origin_functions_denied.is_empty() {
        let functions = target.origin_functions_denied.join(", ");
        findings.push(warning(
            format!("role {role} may not use replication origins on the target: changes are not tagged against loops"),
            format!("GRANT EXECUTE ON FUNCTION {functions} TO {role};"),
        ));
    } else if !target.origin_exists && server.origins.is_full() {
        let setting = if server.version >= 180_000 {
            "max_active_replication_origins"
        } else {
            "max_replication_slots"
        };
        findings.push(warning(
            format!(
                "all {} replication origins of the target are in use: changes may go untagged",
                server.origins.max
            ),
            format!(
                "ALTER SYSTEM SET {setting} = {}; -- then restart the target",
                server.origins.max.saturating_add(4)
            ),
        ));
    }
    table_findings(target, wish, plan, &mut findings);
    findings
}

fn table_findings(target: &TargetFacts, wish: &Wish<'_>, plan: &Plan, findings: &mut Vec<Finding>) {
    let role = quote_ident(&target.server.role);
    let there: HashMap<(&str, &str), &Table> =
        target.tables.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table)).collect();
    let mut met = HashMap::new();
    for wanted in &plan.arriving {
        if let Some((schema, name)) = wish.rules.and_then(|rules| rules.place(&wanted.schema, &wanted.name)) {
            if !there.contains_key(&(schema.as_str(), name.as_str())) {
                findings.push(error(
                    format!(
                        "table {schema}.{name}, which by the rules takes rows of {}{MISSING}",
                        wanted.shown()
                    ),
                    format!(
                        "CREATE TABLE {}.{} (…); -- as the rules have it",
                        quote_ident(&schema),
                        quote_ident(&name)
                    ),
                ));
            }
            continue;
        }
        let (name, shown) = (wanted.quoted(), wanted.shown());
        let Some(&table) = there.get(&(wanted.schema.as_str(), wanted.name.as_str())) else {
            let shell = name.replace('\'', "'\\''");
            findings.push(error(
                format!("table {shown}{MISSING}"),
                format!(
                    "pg_dump --schema-only --table='{shell}' \"$PGSLUICE_SOURCE\" | psql \"$PGSLUICE_TARGET\""
                ),
            ));
            continue;
        };
        met.insert(table.oid, (name.clone(), shown.clone()));
        column_findings(wanted, table, wish.on_schema_change, findings);
        if !table.denied.is_empty() {
            let (schema, own): (Vec<_>, Vec<_>) =
                table.denied.iter().map(String::as_str).partition(|privilege| *privilege == "USAGE");
            let mut mend = Vec::new();
            if !schema.is_empty() {
                mend.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", quote_ident(&table.schema)));
            }
            if !own.is_empty() {
                mend.push(format!("GRANT {} ON {name} TO {role};", own.join(", ")));
            }
            findings.push(error(
                format!("role {role} lacks privileges on {shown} of the target: {}", table.denied.join(", ")),
                mend.join(" "),
            ));
        }
        if table.row_security {
            findings.push(error(
                format!("row security of {shown} on the target would hide rows from role {role}"),
                format!("ALTER ROLE {role} BYPASSRLS; -- or ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"),
            ));
        }
        if !table.logged {
            findings.push(warning(
                format!("{shown} is unlogged on the target: a crash empties it while the progress stays"),
                format!("ALTER TABLE {name} SET LOGGED;"),
            ));
        }
    }
    for key in &target.deferrable_keys {
        if let Some((name, shown)) = met.get(&key.table) {
            let constraint = quote_ident(&key.name);
            let immediate = key.definition.replace(" DEFERRABLE", "").replace(" INITIALLY DEFERRED", "");
            findings.push(warning(
                format!("constraint {constraint} of {shown} on the target is deferrable, so nothing checks it while changes are applied"),
                format!("ALTER TABLE {name} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} {immediate};"),
            ));
        }
    }
    for trigger in &target.eager_triggers {
        if let Some((name, shown)) = met.get(&trigger.table) {
            let kind = if trigger.definition == "A" { "ALWAYS" } else { "REPLICA" };
            findings.push(warning(
                format!(
                    "trigger {} of {shown} on the target is ENABLE {kind} and runs on applied changes too",
                    quote_ident(&trigger.name)
                ),
                format!("ALTER TABLE {name} ENABLE TRIGGER {};", quote_ident(&trigger.name)),
            ));
        }
    }
}

fn column_findings(
    wanted: &Table,
    table: &Table,
    on_schema_change: OnSchemaChange,
    findings: &mut Vec<Finding>,
) {
    let (name, shown) = (wanted.quoted(), wanted.shown());
    for column in wanted.columns.iter().filter(|column| !column.generated) {
        let quoted = quote_ident(&column.name);
        match table.columns.iter().find(|other| other.name == column.name) {
            None => {
                let mend = format!("ALTER TABLE {name} ADD COLUMN {quoted} {};", column.type_name);
                let missing = format!("column {quoted} of {shown} is missing on the target");
                findings.push(match on_schema_change {
                    OnSchemaChange::Stop => error(missing, mend),
                    OnSchemaChange::AddColumns => warning(format!("{missing}, and will be added"), mend),
                    OnSchemaChange::IgnoreExtra => warning(format!("{missing}, and is left out"), mend),
                });
            }
            Some(other) if other.generated => findings.push(error(
                format!("column {quoted} of {shown} is generated on the target but not on the source"),
                format!("ALTER TABLE {name} ALTER COLUMN {quoted} DROP EXPRESSION;"),
            )),
            Some(_) => {}
        }
    }
    for column in &table.columns {
        let must_be_given = column.not_null && !column.fills_itself && !column.generated;
        let given = wanted.columns.iter().any(|other| other.name == column.name && !other.generated);
        if must_be_given && !given {
            let quoted = quote_ident(&column.name);
            findings.push(error(
                format!("column {quoted} of {shown} on the target is NOT NULL without a default, and the source does not send it"),
                format!("ALTER TABLE {name} ALTER COLUMN {quoted} DROP NOT NULL; -- or SET DEFAULT"),
            ));
        }
    }
}
