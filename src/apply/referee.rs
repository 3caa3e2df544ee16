//! Lanes that wait for each other: what no lane may do, since each commits only when all are done, and what the target can't see,
//! since the one that is waited for waits for nothing on the target. It should not happen, as lanes change different rows; but
//! an index that somebody has just made may bind two rows together.

use std::time::Duration;

use crate::model::Fault;
use crate::pg::{Conninfo, control};

const INTERVAL: Duration = Duration::from_secs(1);

/// Cancels, for as long as it runs, what waits for the end of a transaction of another of these backends.
pub(super) async fn watch(target: Conninfo, pids: Vec<String>) {
    loop {
        if let Err(fault) = look(&target, &pids).await {
            tracing::debug!(error = %fault, "nobody watches the lanes for now");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(target: &Conninfo, pids: &[String]) -> Result<(), Fault> {
    let client = control::connect(target, "pgsluice apply").await?;
    let cancel = format!(
        "SELECT pid FROM pg_locks WHERE pid = ANY ('{{{0}}}') AND NOT granted AND locktype IN ('transactionid', 'tuple') \
         AND pg_blocking_pids(pid) && '{{{0}}}' AND pg_cancel_backend(pid)",
        pids.join(",")
    );
    let cancel = client.prepare(&cancel).await.map_err(|error| control::fault(&error))?;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let cancelled = client.query(&cancel, &[]).await.map_err(|error| control::fault(&error))?;
        if !cancelled.is_empty() {
            tracing::warn!("lanes waited for each other: their batch goes over one connection");
        }
    }
}
