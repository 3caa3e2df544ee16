//! The replication slot, seen and made from the control plane.
//!
//! It is created by SQL: no snapshot has to be exported, and the answer's LSN is the consistent point. Every transaction
//! whose commit starts at or after it will be sent, none before.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::{fault, position};
use crate::model::{Fault, OutputPlugin, Position};

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug)]
pub struct Slot {
    pub name: String,
    /// None for a physical slot.
    pub plugin: Option<String>,
    pub database: Option<String>,
    /// The process that uses it now.
    pub active_pid: Option<i32>,
    /// None while it is being created.
    pub confirmed_flush: Option<Position>,
    /// WAL that is kept because of it, in bytes.
    pub retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// How much WAL may yet be written before the slot is lost, in bytes; none where nothing limits it, or it is lost.
    pub safe_wal_bytes: Option<i64>,
    /// Standbys have it too.
    pub failover: bool,
    /// The server's `max_slot_wal_keep_size`, in bytes; none where it has no limit.
    pub keep_bytes_max: Option<i64>,
}

const SLOT: &str = "
SELECT slot_name::text, plugin::text, database::text, active_pid, confirmed_flush_lsn,
       greatest(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                     ELSE pg_current_wal_lsn() END, restart_lsn), 0)::int8,
       wal_status, safe_wal_size,
       (SELECT nullif(setting::int8, -1) * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       -- A column that not every version has.
       coalesce((to_jsonb(s) ->> 'failover')::bool, false)
  FROM pg_replication_slots s WHERE slot_name = $1";

/// The first version whose slots `pg_upgrade` brings along.
pub const SURVIVES_SINCE: u32 = 170_000;
/// The first version with slots that standbys have too.
pub const FAILOVER_SINCE: u32 = 170_000;

pub async fn read(client: &Client, name: &str) -> Result<Option<Slot>, Fault> {
    let row = client
        .query_opt(SLOT, &[&name])
        .await
        .map_err(|e| fault(&format!("reading replication slot \"{name}\""), &e))?;
    Ok(row.map(|row| Slot {
        name: row.get(0),
        plugin: row.get(1),
        database: row.get(2),
        active_pid: row.get(3),
        confirmed_flush: row.get::<_, Option<PgLsn>>(4).map(position),
        retained_bytes: row.get::<_, Option<i64>>(5).and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        wal_status: row.get(6),
        safe_wal_bytes: row.get(7),
        keep_bytes_max: row.get(8),
        failover: row.get(9),
    }))
}

/// Creates the slot and gives its consistent point. The server first waits for every transaction that runs and has
/// written: see [`within`].
pub async fn create(
    client: &Client,
    watch: &Client,
    name: &str,
    plugin: OutputPlugin,
    failover: bool,
    patience: Duration,
) -> Result<Position, Fault> {
    let doing = format!("creating replication slot \"{name}\"");
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(|e| fault(&doing, &e))?;
    let creation = async {
        let failover = if failover { ", failover => true" } else { "" };
        let query =
            format!("SELECT lsn FROM pg_create_logical_replication_slot($1, $2, false, false{failover})");
        let row = client.query_one(&query, &[&name, &plugin.name()]).await;
        row.map(|row| position(row.get::<_, PgLsn>(0))).map_err(|e| explain(fault(&doing, &e), plugin))
    };
    let limit = Limit { patience, flag: "--slot-timeout", called_off: std::future::pending() };
    within(creation, watch, row.get(0), &doing, limit).await
}

/// When a slot's creation is given up.
pub struct Limit<F> {
    pub patience: Duration,
    /// Which flag sets it.
    pub flag: &'static str,
    /// Ready when nobody wants the slot any more.
    pub called_off: F,
}

/// Waits for a slot's creation by the server's process `pid`. It waits for every transaction that runs and has written, so one forgotten
/// session blocks it: after a while the creation is called off, through another connection, and the fault names who was
/// in the way. Nothing is left behind then.
pub async fn within<T>(
    creation: impl Future<Output = Result<T, Fault>>,
    watch: &Client,
    pid: i32,
    doing: &str,
    limit: Limit<impl Future<Output = ()>>,
) -> Result<T, Fault> {
    tokio::pin!(creation);
    let called_off = limit.called_off;
    tokio::pin!(called_off);
    let start = Instant::now();
    let mut told = false;
    let mut blockers = Vec::new();
    while start.elapsed() < limit.patience {
        tokio::select! {
            created = &mut creation => return created,
            () = &mut called_off => {
                blockers.clear();
                break;
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let now = blocking(watch, pid).await?;
        if !now.is_empty() {
            blockers = now;
        }
        if !told && let Some(blocker) = blockers.first() {
            tracing::warn!(blocked_by = %blocker, "{doing} waits for a transaction to end");
            told = true;
        }
    }
    watch.execute("SELECT pg_cancel_backend($1)", &[&pid]).await.map_err(|e| fault(doing, &e))?;
    // The creation may have won the race against its cancellation.
    if let Ok(created) = creation.await {
        return Ok(created);
    }
    if blockers.is_empty() {
        return Err(Fault::stop(format!("{doing}: given up")));
    }
    let names = blockers.join("; ");
    let pids: Vec<_> = blockers.iter().filter_map(|blocker| blocker.split(' ').nth(1)).collect();
    let seconds = start.elapsed().as_secs();
    Err(Fault::stop(format!("{doing}: not possible within {seconds} s, blocked by {names}")).hint(format!(
        "end that transaction (SELECT pg_terminate_backend({})) or wait longer with {}",
        pids.join("), pg_terminate_backend("),
        limit.flag
    )))
}

/// Says what to do where the server can't load the slot's plugin.
pub fn explain(fault: Fault, plugin: OutputPlugin) -> Fault {
    if fault.message.contains("may not be used as an output plugin") {
        return fault.hint(format!(
            "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding', '{plugin}'; SELECT pg_reload_conf(); -- as a superuser of the source"
        ));
    }
    if fault.sqlstate.as_deref() == Some("58P01") {
        return fault.hint(format!("install {plugin} on the source (a package such as postgresql-15-{plugin}), or use --plugin pgoutput"));
    }
    fault
}

/// Who holds the transactions that `pid` waits for: `pid 123 (role app, psql, idle in transaction since …)`.
async fn blocking(watch: &Client, pid: i32) -> Result<Vec<String>, Fault> {
    let query = "
SELECT format('pid %s (role %s, application \"%s\", %s, transaction since %s)', a.pid, a.usename, a.application_name,
              coalesce(a.state, 'state unknown'), to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))
  FROM unnest(pg_blocking_pids($1)) b JOIN pg_stat_activity a ON a.pid = b";
    let rows = watch
        .query(query, &[&pid])
        .await
        .map_err(|e| fault("looking for what blocks the slot's creation", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Drops the slot; false where there was none.
pub async fn drop(client: &Client, name: &str) -> Result<bool, Fault> {
    let dropped = client
        .execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await
        .map_err(|e| fault(&format!("dropping replication slot \"{name}\""), &e))?;
    Ok(dropped > 0)
}
