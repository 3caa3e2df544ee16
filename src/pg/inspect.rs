//! Facts about a server, its database and the role we are, read from its catalogs and never guessed from names.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::{fault, position};
use super::{Conninfo, ReplicationStream};
use crate::model::{Fault, Position};

const FLUSH_POLL: Duration = Duration::from_millis(50);

/// A pool of the server's that can run out.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    pub max: i32,
    pub used: i64,
}

impl Pool {
    pub fn is_full(self) -> bool {
        self.used >= i64::from(self.max)
    }
}

/// One server as seen from one connection.
#[derive(Clone, Debug)]
pub struct Server {
    /// `server_version_num`, such as 150020.
    pub version: u32,
    pub system_identifier: u64,
    pub database: String,
    /// Tells apart servers that are copies of one another and so share the system identifier.
    pub started: String,
    /// The database's encoding, such as `UTF8`.
    pub encoding: String,
    pub wal_level: String,
    pub in_recovery: bool,
    pub role: String,
    pub superuser: bool,
    /// CREATE on the database: needed for publications and schemas.
    pub may_create: bool,
    pub replication_slots: Pool,
    pub wal_senders: Pool,
    /// How many replication origins may have progress, and how many there are.
    pub origins: Pool,
}

const SERVER: &str = "
SELECT current_setting('server_version_num')::int4,
       (SELECT system_identifier::text FROM pg_control_system()),
       d.datname::text, pg_encoding_to_char(d.encoding)::text,
       current_setting('wal_level'), pg_is_in_recovery(), r.rolname::text, r.rolsuper,
       has_database_privilege(d.oid, 'CREATE'),
       current_setting('max_replication_slots')::int4, (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::int4, (SELECT count(*) FROM pg_stat_replication),
       coalesce(current_setting('max_active_replication_origins', true),
                current_setting('max_replication_slots'))::int4,
       (SELECT count(*) FROM pg_replication_origin), pg_postmaster_start_time()::text
  FROM pg_database d, pg_roles r
 WHERE d.datname = current_database() AND r.rolname = current_user";

pub async fn server(client: &Client) -> Result<Server, Fault> {
    let row = client.query_one(SERVER, &[]).await.map_err(|e| fault("inspecting the server", &e))?;
    let number = || {
        let version = u32::try_from(row.get::<_, i32>(0)).ok()?;
        Some((version, row.get::<_, &str>(1).parse().ok()?))
    };
    let (version, system_identifier) =
        number().ok_or_else(|| Fault::stop("the server's version or system identifier makes no sense"))?;
    Ok(Server {
        version,
        system_identifier,
        database: row.get(2),
        encoding: row.get(3),
        wal_level: row.get(4),
        in_recovery: row.get(5),
        role: row.get(6),
        superuser: row.get(7),
        may_create: row.get(8),
        replication_slots: Pool { max: row.get(9), used: row.get(10) },
        wal_senders: Pool { max: row.get(11), used: row.get(12) },
        origins: Pool { max: row.get(13), used: row.get(14) },
        started: row.get(15),
    })
}

pub async fn timeline(client: &Client) -> Result<u32, Fault> {
    let query = "SELECT timeline_id FROM pg_control_checkpoint()";
    let row = client.query_one(query, &[]).await.map_err(|e| fault("reading the timeline", &e))?;
    Ok(row.get::<_, i32>(0).unsigned_abs())
}

/// The end of what was written to WAL (replayed, on a standby). Taken after a commit it is at or past the commit's end.
pub async fn current_position(client: &Client) -> Result<Position, Fault> {
    let query =
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END";
    let row = client.query_one(query, &[]).await.map_err(|e| fault("reading the WAL position", &e))?;
    Ok(position(row.get::<_, PgLsn>(0)))
}

/// Waits until everything that the server has written to WAL so far is durable there; false where that takes too long. A commit that
/// was visible before is then safe from a crash.
pub async fn wait_for_flush(client: &Client, patience: Duration) -> Result<bool, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading the WAL position", e);
    let inserted =
        client.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await.map_err(|e| doing(&e))?;
    let inserted: PgLsn = inserted.get(0);
    let started = Instant::now();
    loop {
        let query = "SELECT pg_current_wal_flush_lsn() >= $1";
        if client.query_one(query, &[&inserted]).await.map_err(|e| doing(&e))?.get(0) {
            return Ok(true);
        }
        if started.elapsed() >= patience {
            return Ok(false);
        }
        tokio::time::sleep(FLUSH_POLL).await;
    }
}

/// Whether the role may `SET session_replication_role`. Before version 15 that was for superusers alone.
pub async fn may_set_replication_role(client: &Client, server: &Server) -> Result<bool, Fault> {
    if server.version < 150_000 {
        return Ok(server.superuser);
    }
    let query = "SELECT has_parameter_privilege('session_replication_role', 'SET')";
    let row = client.query_one(query, &[]).await.map_err(|e| fault("inspecting privileges", &e))?;
    Ok(row.get(0))
}

/// Whether a walsender takes us. Found out by connecting, since managed services grant the right by other means than
/// the role's attribute.
pub async fn replication_right(conninfo: &Conninfo, application_name: &str) -> Result<(), Fault> {
    ReplicationStream::connect(conninfo, application_name, &[]).await?.identify_system().await.map(drop)
}

/// `15.20` for 150020.
pub fn version_name(version: u32) -> String {
    format!("{}.{}", version / 10_000, version % 10_000)
}
