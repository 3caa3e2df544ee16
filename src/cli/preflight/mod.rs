//! What stands in the way, each finding with the SQL or the command that mends it. Facts in, findings out: no connection.

mod ddl;
mod filters;
mod format;
mod plugin;
mod source;
mod target;

use serde::Serialize;

use super::setup::KeylessPolicy;
use crate::apply::OnSchemaChange;
use crate::model::{Fault, Format};
use crate::pg::filter::{ColumnList, RowFilter};
use crate::pg::inspect::Server;
use crate::pg::pattern::{Pattern, choose, names_to_publish};
use crate::pg::progress::Place;
use crate::pg::publication::{Filters, Publication, Published};
use crate::pg::slot::Slot;
use crate::pg::tables::{Attachment, Table};
use crate::rules::RuleSet;

pub(crate) use ddl::capture_findings;
pub(crate) use filters::filter_findings;
pub(crate) use format::format_findings;
pub(crate) use plugin::plugin_findings;
pub(crate) use source::source_findings;
pub(crate) use target::{MISSING, target_findings};

/// The oldest version that is supported, on either side.
const VERSION_MIN: u32 = 140_000;

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
    pub(crate) columns: &'a [ColumnList],
    pub(crate) rows: &'a [RowFilter],
    pub(crate) rules: Option<&'a RuleSet>,
    pub(crate) on_schema_change: OnSchemaChange,
    pub(crate) keyless: KeylessPolicy,
    pub(crate) format: Format,
    pub(crate) failover: bool,
}

/// Which tables are published, and how.
pub(crate) struct Plan {
    pub(crate) published: Published,
    pub(crate) filters: Filters,
    /// The tables under whose names changes arrive.
    pub(crate) arriving: Vec<Table>,
    /// Published tables whose UPDATE and DELETE would fail on the source.
    pub(crate) keyless: Vec<Table>,
}

impl Wish<'_> {
    /// Filters were asked for; otherwise a publication keeps those that it has.
    pub(crate) fn filters(&self) -> bool {
        !(self.columns.is_empty() && self.rows.is_empty())
    }
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
    let mut complete = unfiltered && !wish.filters();
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
    let mut arriving: Vec<Table> = chosen.iter().filter(arrives).map(|table| (*table).clone()).collect();
    let filters = match (&published, existing) {
        (Published::Tables(names), _) if wish.filters() => filters::wanted(names, wish),
        (_, Some(existing)) => existing.filters.clone(),
        (_, None) => Filters::new(),
    };
    for table in &mut arriving {
        let filter = filters.get(&(table.schema.clone(), table.name.clone()));
        if let Some(listed) = filter.and_then(|filter| filter.columns.as_ref()) {
            table.columns.retain(|column| listed.contains(&column.name));
        }
    }
    Plan { published, filters, arriving, keyless }
}
