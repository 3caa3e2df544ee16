//! Lanes that wait for each other: what no lane may do, since each commits only when all are done, and what the target can't see,
//! since the one that is waited for waits for nothing on the target. Lanes change different rows, but an index that somebody has
//! just made may bind two rows together, and a lane may wait for somebody who waits for another lane.

use std::time::Duration;

use crate::model::Fault;
use crate::pg::{Conninfo, control};

const INTERVAL: Duration = Duration::from_secs(1);

/// A lane that waits, by way of any others, for another lane. Locks for extending a table are over in no time.
const TIED: &str = "
with recursive waiting as materialized (
    select distinct pid from pg_locks
     where pid = any ($1) and not granted and locktype in ('transactionid', 'tuple', 'relation', 'virtualxid')),
chain(lane, pid) as (
    select w.pid, b.pid from waiting w, unnest(pg_blocking_pids(w.pid)) as b(pid)
    union
    select c.lane, b.pid from chain c, unnest(pg_blocking_pids(c.pid)) as b(pid) where c.pid <> all ($1))
select min(lane) from chain where pid = any ($1) and pid <> lane";

/// Cancels, for as long as it runs, what one of these backends waits for in vain.
pub(super) async fn watch(target: Conninfo, lanes: Vec<i32>) {
    loop {
        if let Err(fault) = look(&target, &lanes).await {
            tracing::warn!(error = %fault, "nobody sees for now whether lanes wait for each other");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(target: &Conninfo, lanes: &[i32]) -> Result<(), Fault> {
    let client = control::connect(target, "pgsluice apply").await?;
    let doing = |error: tokio_postgres::Error| control::fault(&error);
    let tied = client.prepare(TIED).await.map_err(doing)?;
    let mut suspect = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let lane: Option<i32> = client.query_one(&tied, &[&lanes]).await.map_err(doing)?.get(0);
        // Seen twice, so that it is no passing moment.
        if lane.is_some() && lane == suspect {
            tracing::warn!("lanes wait for each other: their batch goes over one connection");
            client.execute("select pg_cancel_backend($1)", &[&lane]).await.map_err(doing)?;
        }
        suspect = lane;
    }
}
