//! What stands in the way, each finding with the SQL or the command that mends it. Facts in, findings out: no connection.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::setup::KeylessPolicy;
use crate::model::Fault;
use crate::pg::inspect::{Server, version_name};
use crate::pg::pattern::{Pattern, choose, names_to_publish};
use crate::pg::progress::Place;
use crate::pg::publication::{Publication, Published};
use crate::pg::slot::Slot;
use crate::pg::tables::{Attachment, Keyless, Table, shown_name};
use crate::pg::{quote_ident, quote_literal};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Setup refuses.
    Error,
    /// Setup goes on.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub what: String,
    /// SQL or a command.
    pub mend: String,
}

fn error(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { severity: Severity::Error, what: what.into(), mend: mend.into() }
}

fn warning(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, what: what.into(), mend: mend.into() }
}

/// The refusal that lists every error, or none.
pub(crate) fn refusal(findings: &[Finding]) -> Option<Fault> {
    let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    if errors.is_empty() {
        return None;
    }
    let lines: Vec<_> =
        errors.iter().map(|finding| format!("\n  - {}\n    mend: {}", finding.what, finding.mend)).collect();
    let message =
        format!("preflight found {} in the way, nothing was changed:{}", lines.len(), lines.concat());
    Some(Fault::stop(message).hint("mend what is listed, then run pgsluice setup again"))
}

/// The source as it was found.
pub(crate) struct SourceFacts {
    pub(crate) server: Server,
    /// Why no replication connection could be had.
    pub(crate) replication_denied: Option<String>,
    pub(crate) tables: Vec<Table>,
    pub(crate) publication: Option<Publication>,
    pub(crate) slot: Option<Slot>,
    /// It is a target of another stream, so our own schema must be kept out of the publication.
    pub(crate) has_progress_schema: bool,
}

/// The target as it was found.
pub(crate) struct TargetFacts {
    pub(crate) server: Server,
    pub(crate) tables: Vec<Table>,
    pub(crate) deferrable_keys: Vec<Attachment>,
    pub(crate) eager_triggers: Vec<Attachment>,
    pub(crate) may_set_replication_role: bool,
    pub(crate) origin_functions_denied: Vec<String>,
    pub(crate) origin_exists: bool,
    pub(crate) progress: Place,
}

/// What was asked for.
pub(crate) struct Wish<'a> {
    pub(crate) publication: &'a str,
    pub(crate) slot: &'a str,
    pub(crate) tables: &'a [Pattern],
    pub(crate) exclude: &'a [Pattern],
    pub(crate) keyless: KeylessPolicy,
}

/// Which tables are published, and how.
pub(crate) struct Plan {
    pub(crate) published: Published,
    /// The tables under whose names changes arrive.
    pub(crate) arriving: Vec<Table>,
    /// Published tables whose UPDATE and DELETE would fail on the source.
    pub(crate) keyless: Vec<Table>,
}

pub(crate) fn plan(source: &SourceFacts, wish: &Wish<'_>) -> Plan {
    let unfiltered = wish.tables.is_empty() && wish.exclude.is_empty();
    let existing = source.publication.as_ref();
    let mut chosen = match existing.map(|publication| &publication.published) {
        // A publication that is there says which tables are meant, unless patterns do.
        Some(Published::Tables(names)) if unfiltered => {
            let named: Vec<u32> = source
                .tables
                .iter()
                .filter(|table| names.contains(&(table.schema.clone(), table.name.clone())))
                .map(|table| table.oid)
                .collect();
            let family = |table: &&Table| {
                std::iter::once(&table.oid).chain(&table.ancestors).any(|oid| named.contains(oid))
            };
            source.tables.iter().filter(family).collect()
        }
        _ => choose(&source.tables, wish.tables, wish.exclude),
    };
    let mut keyless: Vec<Table> =
        chosen.iter().filter(|table| table.keyless().is_some()).copied().cloned().collect();
    let mut complete = unfiltered;
    if wish.keyless == KeylessPolicy::Exclude && !keyless.is_empty() {
        complete = false;
        chosen.retain(|table| table.keyless().is_none());
        keyless.clear();
    }
    let everything = complete
        && match existing.map(|publication| &publication.published) {
            Some(published) => *published == Published::Everything,
            None => source.server.superuser && !source.has_progress_schema,
        };
    let published = if everything {
        Published::Everything
    } else {
        let names = names_to_publish(&source.tables, &chosen);
        Published::Tables(names.iter().map(|table| (table.schema.clone(), table.name.clone())).collect())
    };
    let via_root = existing.is_some_and(|publication| publication.via_root);
    let arrives = |table: &&&Table| if via_root { table.ancestors.is_empty() } else { !table.partitioned };
    let arriving = chosen.iter().filter(arrives).map(|table| (*table).clone()).collect();
    Plan { published, arriving, keyless }
}

/// Minor releases from which on transactions concurrent with ALTER PUBLICATION and other DDL lose no changes.
const SOUND_MINORS: [(u32, u32); 4] = [(14, 18), (15, 13), (16, 9), (17, 5)];
const VERSION_MIN: u32 = 140_000;

pub(crate) fn source_findings(source: &SourceFacts, wish: &Wish<'_>, plan: &Plan) -> Vec<Finding> {
    let server = &source.server;
    let role = quote_ident(&server.role);
    let mut findings = Vec::new();
    if server.version < VERSION_MIN {
        findings.push(error(
            format!(
                "the source runs PostgreSQL {}; 14 is the oldest that is supported",
                version_name(server.version)
            ),
            "upgrade the source to PostgreSQL 14 or later",
        ));
    }
    let (major, minor) = (server.version / 10_000, server.version % 10_000);
    if let Some((_, sound)) = SOUND_MINORS.iter().find(|(of, sound)| *of == major && minor < *sound) {
        findings.push(warning(
            format!(
                "the source runs PostgreSQL {}, which can lose changes of transactions that run while a publication or table is altered",
                version_name(server.version)
            ),
            format!("upgrade the source to {major}.{sound} or later"),
        ));
    }
    if server.in_recovery {
        findings.push(error(
            "the source is a standby, where no publication can be created",
            "connect to its primary",
        ));
    }
    if server.wal_level != "logical" {
        findings.push(error(
            format!("wal_level is {} on the source, logical decoding needs logical", server.wal_level),
            "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the source",
        ));
    }
    if server.encoding != "UTF8" {
        let foreign = |table: &&Table| {
            let mut names =
                table.columns.iter().map(|column| &column.name).chain([&table.schema, &table.name]);
            names.any(|name| !name.is_ascii())
        };
        for table in plan.arriving.iter().filter(foreign) {
            findings.push(error(
                format!(
                    "{}.{} or one of its columns has a name that is not ASCII, which can't be read from a source in {}",
                    quote_ident(&table.schema),
                    quote_ident(&table.name),
                    server.encoding
                ),
                "rename it, or leave the table out with --exclude",
            ));
        }
    }
    if source.slot.is_none() && server.replication_slots.is_full() {
        findings.push(error(
            format!("all {} replication slots of the source are in use", server.replication_slots.max),
            format!(
                "ALTER SYSTEM SET max_replication_slots = {}; -- then restart the source",
                server.replication_slots.max.saturating_add(4)
            ),
        ));
    }
    let attached = source.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
    if !attached && server.wal_senders.is_full() {
        findings.push(error(
            format!("all {} walsenders of the source are in use", server.wal_senders.max),
            format!(
                "ALTER SYSTEM SET max_wal_senders = {}; -- then restart the source",
                server.wal_senders.max.saturating_add(4)
            ),
        ));
    } else if let Some(reason) = &source.replication_denied {
        findings.push(error(
            format!("role {role} gets no replication connection to the source: {reason}"),
            format!("ALTER ROLE {role} REPLICATION; -- on managed services grant their replication role, and allow it in pg_hba.conf"),
        ));
    }
    publication_findings(source, wish, plan, &mut findings);
    if wish.keyless == KeylessPolicy::Refuse {
        findings.extend(plan.keyless.iter().map(keyless_finding));
    } else {
        for table in plan.keyless.iter().filter(|table| !table.owned) {
            findings.push(error(
                format!("role {role} does not own {}, so it can't set its replica identity", table.shown()),
                format!("ALTER TABLE {} REPLICA IDENTITY FULL; -- as its owner", table.quoted()),
            ));
        }
    }
    findings
}

fn publication_findings(source: &SourceFacts, wish: &Wish<'_>, plan: &Plan, findings: &mut Vec<Finding>) {
    let role = quote_ident(&source.server.role);
    let name = quote_ident(wish.publication);
    let wanted_names = match &plan.published {
        Published::Tables(names) if names.is_empty() => {
            findings.push(error(
                "no table is left to publish",
                "create tables on the source, or widen --tables, --exclude or --keyless",
            ));
            return;
        }
        Published::Tables(names) => Some(names),
        Published::Everything => None,
    };
    let to_add: BTreeSet<_> = match source.publication.as_ref() {
        None => {
            if !source.server.may_create {
                findings.push(error(
                    format!(
                        "role {role} may not create a publication in database {}",
                        source.server.database
                    ),
                    format!("GRANT CREATE ON DATABASE {} TO {role};", quote_ident(&source.server.database)),
                ));
            }
            wanted_names.into_iter().flatten().cloned().collect()
        }
        Some(existing) => {
            if !existing.whole {
                findings.push(error(
                    format!("publication {name} does not publish every kind of change"),
                    format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');"),
                ));
            }
            if existing.via_root && source.tables.iter().any(|table| table.partitioned) {
                findings.push(warning(
                    format!("publication {name} publishes via the partition root, so that the TRUNCATE of a partition is never sent"),
                    format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = false);"),
                ));
            }
            match (&existing.published, wanted_names) {
                (Published::Tables(has), Some(wants)) => {
                    if has != wants && !existing.owned {
                        findings.push(error(
                            format!("role {role} does not own publication {name} and can't give it the wanted tables"),
                            format!("ALTER PUBLICATION {name} OWNER TO {role};"),
                        ));
                    }
                    wants.difference(has).cloned().collect()
                }
                (Published::Everything, None) => BTreeSet::new(),
                _ => {
                    findings.push(error(
                        format!("publication {name} exists and is of another kind than the wanted one (FOR ALL TABLES against a list)"),
                        if source.slot.is_some() {
                            format!("pgsluice cleanup, then setup again, since slot {} has read it", wish.slot)
                        } else {
                            format!("DROP PUBLICATION {name}; -- or choose another with --publication")
                        },
                    ));
                    BTreeSet::new()
                }
            }
        }
    };
    let owned: HashMap<(&str, &str), bool> = source
        .tables
        .iter()
        .map(|table| ((table.schema.as_str(), table.name.as_str()), table.owned))
        .collect();
    for (schema, table) in &to_add {
        if !owned.get(&(schema.as_str(), table.as_str())).copied().unwrap_or(false) {
            findings.push(error(
                format!("role {role} does not own {}, so it can't publish it", shown_name(schema, table)),
                format!("CREATE PUBLICATION {name} FOR ALL TABLES; -- as a superuser, or run setup as the tables' owner"),
            ));
        }
    }
    if source.publication.is_some() && source.slot.is_some() {
        for (schema, table) in &to_add {
            findings.push(warning(
                format!(
                    "{} is published from now on; its earlier changes are not in the log",
                    shown_name(schema, table)
                ),
                "load the table's rows into the target once more",
            ));
        }
    }
}

fn keyless_finding(table: &Table) -> Finding {
    let (name, shown) = (table.quoted(), table.shown());
    let reason = match table.keyless() {
        Some(Keyless::DeferrablePrimaryKey) => "its primary key is deferrable",
        Some(Keyless::Nothing) => "REPLICA IDENTITY NOTHING",
        Some(Keyless::IndexGone) => "its identity index is gone",
        Some(Keyless::NoPrimaryKey) | None => "no primary key",
    };
    error(
        format!(
            "{shown} has no usable replica identity ({reason}): once it is published its UPDATE and DELETE fail on the source"
        ),
        format!("ALTER TABLE {name} REPLICA IDENTITY FULL; -- or --keyless full, or --keyless exclude"),
    )
}

pub(crate) fn target_findings(source: &SourceFacts, target: &TargetFacts, plan: &Plan) -> Vec<Finding> {
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
            format!("GRANT USAGE ON SCHEMA pgsluice TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON pgsluice.progress TO {role};"),
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
    table_findings(target, plan, &mut findings);
    findings
}

fn table_findings(target: &TargetFacts, plan: &Plan, findings: &mut Vec<Finding>) {
    let role = quote_ident(&target.server.role);
    let there: HashMap<(&str, &str), &Table> =
        target.tables.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table)).collect();
    let mut met = HashMap::new();
    for wanted in &plan.arriving {
        let (name, shown) = (wanted.quoted(), wanted.shown());
        let Some(&table) = there.get(&(wanted.schema.as_str(), wanted.name.as_str())) else {
            let shell = name.replace('\'', "'\\''");
            findings.push(error(
                format!("table {shown} is missing on the target"),
                format!(
                    "pg_dump --schema-only --table='{shell}' \"$PGSLUICE_SOURCE\" | psql \"$PGSLUICE_TARGET\""
                ),
            ));
            continue;
        };
        met.insert(table.oid, (name.clone(), shown.clone()));
        column_findings(wanted, table, findings);
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

fn column_findings(wanted: &Table, table: &Table, findings: &mut Vec<Finding>) {
    let (name, shown) = (wanted.quoted(), wanted.shown());
    for column in wanted.columns.iter().filter(|column| !column.generated) {
        let quoted = quote_ident(&column.name);
        match table.columns.iter().find(|other| other.name == column.name) {
            None => findings.push(error(
                format!("column {quoted} of {shown} is missing on the target"),
                format!("ALTER TABLE {name} ADD COLUMN {quoted} {};", column.type_name),
            )),
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
