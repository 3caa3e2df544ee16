//! How far each lane of a stream is: what several connections have applied of one batch, in the transactions that carry their
//! shares. The stream's own row of `pgsluice.progress` is the mark below which all lanes have applied everything.

use tokio_postgres::Client;

use super::answer::fault;
use super::progress::own_table;
use super::sql::quote_literal;
use crate::model::Fault;

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.lane (
    stream text NOT NULL,
    lane   int NOT NULL,
    lanes  int NOT NULL,
    lsn    pg_lsn NOT NULL,
    digest bigint NOT NULL,
    epoch  bigint NOT NULL,
    PRIMARY KEY (stream, lane)
)";

/// Makes the place where they are kept; false where the role may not.
pub async fn prepare(client: &Client) -> Result<bool, Fault> {
    own_table(client, "lane", TABLE).await
}

/// Whether any stream has ever had lanes.
pub(super) async fn exists(client: &Client) -> Result<bool, Fault> {
    let query = "SELECT to_regclass('pgsluice.lane') IS NOT NULL";
    let row = client.query_one(query, &[]).await.map_err(|e| fault("looking for pgsluice.lane", &e))?;
    Ok(row.get(0))
}

/// Deletes a stream's lanes and drops their origins; says how many there were.
pub async fn drop(client: &Client, stream: &str) -> Result<usize, Fault> {
    let doing = |e: &tokio_postgres::Error| fault(&format!("dropping the lanes of \"{stream}\""), e);
    if !exists(client).await? {
        return Ok(0);
    }
    let lanes = "SELECT lane FROM pgsluice.lane WHERE stream = $1";
    let lanes = client.query(lanes, &[&stream]).await.map_err(|e| doing(&e))?;
    for row in &lanes {
        let name = origin(stream, row.get::<_, i32>(0).unsigned_abs());
        super::origin::drop(client, &name).await?;
    }
    let delete = "DELETE FROM pgsluice.lane WHERE stream = $1";
    client.execute(delete, &[&stream]).await.map_err(|e| doing(&e))?;
    Ok(lanes.len())
}

/// The origin of a lane: before PostgreSQL 19 several sessions can't share one.
pub fn origin(stream: &str, lane: u32) -> String {
    format!("{stream} lane {lane}")
}

/// The statement that shuts earlier appliers' lanes out, and tells what they have committed: lane, lanes, lsn, digest. It waits for
/// those that are still at it; one that comes later finds another epoch.
pub fn take_over(stream: &str) -> String {
    format!(
        "UPDATE pgsluice.lane SET epoch = epoch + 1 WHERE stream = {} RETURNING lane, lanes, lsn, digest",
        quote_literal(stream)
    )
}
