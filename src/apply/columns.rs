//! Columns added to the target, in a transaction of their own: a crash leaves at most a column that is needed soon anyway, and
//! the table is locked for a moment only.

use tokio_postgres::Client;

use crate::model::Fault;
use crate::pg::control::fault;

/// How long to wait for those who use the table. Everybody who comes after us waits too.
const LOCK_TIMEOUT: &str = "2s";

/// Runs a statement that adds columns where they are missing.
pub(super) async fn add(client: &Client, statement: &str) -> Result<(), Fault> {
    // One message is one transaction.
    let sql = format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {statement}");
    client.batch_execute(&sql).await.map_err(|error| {
        let fault = fault(&error).context(format!("adding columns on the target ({statement})"));
        if fault.sqlstate.as_deref() == Some("42501") {
            fault.hint("run it as the table's owner, or apply as that role; then run the same command again")
        } else {
            fault
        }
    })
}
