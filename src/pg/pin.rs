//! Names for points of the source's WAL.

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::{fault, position};
use crate::model::{Fault, Position, Xid};

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// At or behind the end of its commit.
    pub through: Position,
    /// As transactions of the log are told: 32 bits.
    pub xid: Xid,
}

/// Commits a transaction that holds nothing but a message, and waits until it is durable.
pub async fn write(client: &Client, prefix: &str, name: &str) -> Result<Pinned, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("writing a pin into the source's WAL", e);
    client.batch_execute("SET synchronous_commit = local").await.map_err(|e| doing(&e))?;
    let row = client
        .query_one(
            "SELECT pg_current_xact_id()::xid::text, pg_logical_emit_message(true, $1, $2::text)",
            &[&prefix, &name],
        )
        .await
        .map_err(|e| doing(&e))?;
    let xid = row.get::<_, &str>(0).parse().map(Xid);
    let xid = xid.map_err(|_| Fault::stop("the source gave a transaction id that makes no sense"))?;
    let row = client.query_one("SELECT pg_current_wal_flush_lsn()", &[]).await.map_err(|e| doing(&e))?;
    Ok(Pinned { through: position(row.get::<_, PgLsn>(0)), xid })
}
