//! How a server fares while a stream runs: who holds its slot back, who is in the applier's way, and what time it is there.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio_postgres::{Client, Row};

use super::answer::fault;
use super::masked::masked;
use crate::model::Fault;

/// A session that is in somebody's way, or a prepared transaction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blocker {
    pub kind: BlockerKind,
    /// `role app, psql, idle in transaction`, or the name of a prepared transaction.
    pub who: String,
    /// Of its transaction; none where this role may not know.
    pub age_seconds: Option<f64>,
    /// Its last statement, without the values in it.
    pub query: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum BlockerKind {
    /// With its transaction id, if it has one.
    Session {
        pid: i32,
        xid: String,
    },
    Prepared {
        database: String,
    },
}

impl Blocker {
    fn of(row: &Row) -> Blocker {
        let text = |at| row.get::<_, Option<String>>(at).unwrap_or_default();
        Blocker {
            kind: match row.get(0) {
                Some(pid) => BlockerKind::Session { pid, xid: text(4) },
                None => BlockerKind::Prepared { database: text(4) },
            },
            who: row.get(1),
            age_seconds: row.get(2),
            query: masked(&text(3)),
        }
    }

    /// What ends it. A prepared transaction is its coordinator's to decide about.
    pub fn cure(&self) -> String {
        match &self.kind {
            BlockerKind::Session { pid, .. } => format!("SELECT pg_terminate_backend({pid});"),
            BlockerKind::Prepared { database } => {
                let name = super::sql::quote_literal(&self.who);
                format!(
                    "ask its coordinator, then in database {database}: COMMIT PREPARED {name}; or ROLLBACK PREPARED {name};"
                )
            }
        }
    }
}

/// No more are told of.
const BLOCKERS_MAX: i64 = 5;

/// Transactions that have written and have run for so long, oldest first, in whichever database: a slot's `restart_lsn` can't pass what
/// it was when the oldest of them began. How old those of other roles are is not told without `pg_read_all_stats`: they are all given.
pub async fn long_transactions(client: &Client, age_min: Duration) -> Result<Vec<Blocker>, Fault> {
    let query = "
SELECT a.pid, format('role %s, %s, %s', coalesce(a.usename, 'unknown'), coalesce(nullif(a.application_name, ''), 'no application name'),
                     coalesce(a.state, 'state unknown')),
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8, a.query, a.backend_xid::text, age(a.backend_xid)
  FROM pg_stat_activity a
 WHERE a.backend_xid IS NOT NULL
   AND (a.xact_start IS NULL OR a.xact_start <= clock_timestamp() - make_interval(secs => $1))
UNION ALL
SELECT NULL, gid, extract(epoch FROM clock_timestamp() - prepared)::float8, NULL, database::text, age(transaction)
  FROM pg_prepared_xacts WHERE prepared <= clock_timestamp() - make_interval(secs => $1)
 ORDER BY 6 DESC LIMIT $2";
    let rows = client
        .query(query, &[&age_min.as_secs_f64(), &BLOCKERS_MAX])
        .await
        .map_err(|e| fault("looking for long transactions", &e))?;
    Ok(rows.iter().map(Blocker::of).collect())
}

/// Who has locks that a session of ours in this database waits for.
pub async fn in_the_way(client: &Client) -> Result<Vec<Blocker>, Fault> {
    let query = "
SELECT DISTINCT ON (b.pid) b.pid,
       format('role %s, %s, %s', coalesce(b.usename, 'unknown'), coalesce(nullif(b.application_name, ''), 'no application name'),
              coalesce(b.state, 'state unknown')),
       extract(epoch FROM clock_timestamp() - b.xact_start)::float8, b.query, b.backend_xid::text
  FROM pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) p(pid)
  JOIN pg_stat_activity b ON b.pid = p.pid
 WHERE w.application_name = 'pgsluice apply' AND w.datname = current_database() AND w.wait_event_type = 'Lock'
   AND b.application_name <> 'pgsluice apply'
 ORDER BY b.pid LIMIT $1";
    let rows = client
        .query(query, &[&BLOCKERS_MAX])
        .await
        .map_err(|e| fault("looking for what blocks the applier", &e))?;
    Ok(rows.iter().map(Blocker::of).collect())
}

/// By how many seconds the server's clock is ahead of this machine's; less than 0 where it is behind. As exact as the answer was fast.
pub async fn clock_ahead(client: &Client) -> Result<f64, Fault> {
    let (began, since) = (SystemTime::now(), Instant::now());
    let query = "SELECT extract(epoch FROM clock_timestamp())::float8";
    let row = client.query_one(query, &[]).await.map_err(|e| fault("reading the server's clock", &e))?;
    let here = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(row.get::<_, f64>(0) - here.as_secs_f64() - since.elapsed().as_secs_f64() / 2.0)
}

/// Published tables whose UPDATE and DELETE fail on the source, as `schema.name`.
pub async fn keyless(client: &Client, publication: &str) -> Result<Vec<String>, Fault> {
    let query = "
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_publication_tables p
  JOIN pg_namespace n ON n.nspname = p.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
 WHERE p.pubname = $1 AND c.relkind = 'r' AND CASE c.relreplident
         WHEN 'f' THEN false
         WHEN 'd' THEN NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
         WHEN 'i' THEN NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)
         ELSE true END
 ORDER BY 1 LIMIT $2";
    let rows = client
        .query(query, &[&publication, &BLOCKERS_MAX])
        .await
        .map_err(|e| fault("looking for tables without a key", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
