//! What stands in the way of an output plugin that knows of no publication: rows can't be filtered, nor renamed.

use super::{Finding, Plan, SourceFacts, Wish, error};
use crate::model::OutputPlugin;
use crate::pg::quote_ident;
use crate::pg::tables::shown_name;

/// What is asked for and the plugin can't give.
pub(crate) fn plugin_findings(
    plugin: OutputPlugin,
    source: &SourceFacts,
    wish: &Wish<'_>,
    plan: &Plan,
) -> Vec<Finding> {
    if plugin == OutputPlugin::Pgoutput {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if source.publication.as_ref().is_some_and(|publication| publication.via_root) {
        let name = quote_ident(wish.publication);
        findings.push(error(
            format!(
                "publication {name} publishes via the partition root, but {plugin} sends changes under the names of the partitions"
            ),
            format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = false); -- or --plugin pgoutput"),
        ));
    }
    for ((schema, name), _) in plan.filters.iter().filter(|(_, filter)| filter.rows.is_some()) {
        findings.push(error(
            format!("rows of {} are filtered, which {plugin} can't do", shown_name(schema, name)),
            "publish all rows of the table, or use --plugin pgoutput",
        ));
    }
    findings
}
