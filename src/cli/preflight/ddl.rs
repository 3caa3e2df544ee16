//! What stands in the way of DDL capture, and what it does not cover.

use super::{Finding, Plan, SourceFacts, error, warning};
use crate::model::Fault;
use crate::pg::publication::Published;
use crate::pg::quote_ident;

/// `denied`: why the role may not make event triggers.
pub(crate) fn capture_findings(source: &SourceFacts, plan: &Plan, denied: Option<&Fault>) -> Vec<Finding> {
    let role = quote_ident(&source.server.role);
    let mut findings = Vec::new();
    if let Some(fault) = denied {
        findings.push(error(
            format!("role {role} may not make event triggers on the source, so DDL can't be captured: {}", fault.message),
            "run setup --capture-ddl as a superuser once (some managed services have a role for it), or leave it out: rows and \
             sequences arrive without it, and --on-schema-change says what was altered",
        ));
    }
    if let Published::Tables(_) = plan.published {
        findings.push(warning(
            "DDL is captured, but the publication names its tables: a table that is created later arrives without its rows",
            "ALTER PUBLICATION … ADD TABLE …; -- after each CREATE TABLE, or publish all tables",
        ));
    }
    findings
}
