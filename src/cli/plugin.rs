//! What stands in the way of an output plugin that knows of no publication: it can be filtered by whole tables only.

use super::preflight::{Finding, Severity};
use crate::model::OutputPlugin;
use crate::pg::publication::Publication;
use crate::pg::quote_ident;

/// What an existing publication asks for and the plugin can't give.
pub(super) fn plugin_findings(
    plugin: OutputPlugin,
    name: &str,
    publication: Option<&Publication>,
) -> Vec<Finding> {
    let via_root = publication.is_some_and(|publication| publication.via_root);
    if plugin == OutputPlugin::Pgoutput || !via_root {
        return Vec::new();
    }
    let name = quote_ident(name);
    vec![Finding {
        severity: Severity::Error,
        what: format!(
            "publication {name} publishes via the partition root, but {plugin} sends changes under the names of the partitions"
        ),
        mend: format!(
            "ALTER PUBLICATION {name} SET (publish_via_partition_root = false); -- or --plugin pgoutput"
        ),
    }]
}
