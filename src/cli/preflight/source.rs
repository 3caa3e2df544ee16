//! What stands in the way on the source.

use std::collections::{BTreeSet, HashMap};

use super::super::setup::KeylessPolicy;
use super::{Finding, Plan, SourceFacts, VERSION_MIN, Wish, error, warning};
use crate::model::ReplicaIdentity;
use crate::pg::inspect::version_name;
use crate::pg::publication::Published;
use crate::pg::quote_ident;
use crate::pg::slot;
use crate::pg::tables::{Keyless, Table, shown_name};

/// Minor releases from which on transactions concurrent with ALTER PUBLICATION and other DDL lose no changes.
const SOUND_MINORS: [(u32, u32); 4] = [(14, 18), (15, 13), (16, 9), (17, 5)];

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
    if wish.failover && server.version < slot::FAILOVER_SINCE {
        findings.push(error(
            "the source's version has no slots that standbys have too: PostgreSQL 17 is the first",
            "leave out --failover; docs/OPERATIONS.md has what to do when the source is lost",
        ));
    } else if wish.failover && source.slot.as_ref().is_some_and(|slot| !slot.failover) {
        findings.push(error(
            format!("slot {} was made without --failover", wish.slot),
            format!(
                "while nobody receives, by psql with replication=database: ALTER_REPLICATION_SLOT {} (FAILOVER true)",
                quote_ident(wish.slot)
            ),
        ));
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
    let names = plan.arriving.iter().map(|table| (table.schema.as_str(), table.name.as_str()));
    if let Some(fault) = wish.rules.and_then(|rules| rules.refuse_misspelt(names).err()) {
        findings.push(error(fault.message, fault.hint.unwrap_or_default()));
    }
    publication_findings(source, wish, plan, &mut findings);
    generated_findings(source, wish, plan, &mut findings);
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
    if let Some(existing) = source.publication.as_ref().filter(|existing| !existing.schemas.is_empty()) {
        findings.push(error(
            format!(
                "publication {name} publishes whole schemas ({}), of which nobody can tell what comes",
                existing.schemas.join(", ")
            ),
            format!("DROP PUBLICATION {name}; -- and name the tables instead: --tables 'schema.*'"),
        ));
        return;
    }
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

/// From this version on a replica identity must not contain generated columns that are not published.
const GENERATED_REFUSED_SINCE: u32 = 180_000;

/// Tables that are matched whole, generated columns too (`CheckCmdReplicaIdentity`). A publication that is there has its effect
/// already, and may publish them.
fn generated_findings(source: &SourceFacts, wish: &Wish<'_>, plan: &Plan, findings: &mut Vec<Finding>) {
    if source.server.version < GENERATED_REFUSED_SINCE || source.publication.is_some() {
        return;
    }
    let becomes_full = |table: &Table| {
        wish.keyless == KeylessPolicy::Full && plan.keyless.iter().any(|keyless| keyless.oid == table.oid)
    };
    for table in &plan.arriving {
        let full = table.identity == ReplicaIdentity::Full || becomes_full(table);
        if full && table.columns.iter().any(|column| column.generated) {
            findings.push(error(
                format!(
                    "{} has generated columns and is matched by whole rows (REPLICA IDENTITY FULL): once it is published its UPDATE and DELETE fail on the source",
                    table.shown()
                ),
                format!(
                    "ALTER TABLE {} REPLICA IDENTITY DEFAULT; -- with a primary key; or, where they are stored: CREATE PUBLICATION {} FOR ALL TABLES WITH (publish_generated_columns = stored)",
                    table.quoted(),
                    quote_ident(wish.publication)
                ),
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
