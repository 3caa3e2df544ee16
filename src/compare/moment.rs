//! One position at which both sides are looked at.
//!
//! A new slot's consistent point X and the snapshot that comes with it are exact: it has the transactions whose commit record starts
//! before X, all of which end at or before X, and no other (a snapshot beside `pg_current_wal_lsn()` is not). The applier is
//! made to stand before the slot is made, so that it can't be beyond X; then it goes on to X and says so in its progress
//! row. A snapshot of the target in which that row is X has exactly the same transactions. Once there are both, the applier may go on.
//!
//! A TRUNCATE or a rewrite of a table shows through snapshots. So the tables are locked (ACCESS SHARE): on the target before its snapshot
//! is taken, on the source, where a slot would wait for who waits for that lock, right after; and then their files must be those that
//! the snapshot knows.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::model::{Fault, Position, quote_literal};
use crate::pg::slot::{self, Limit};
use crate::pg::{Conninfo, CreatedSlot, ReplicationStream, SnapshotAction, control, progress};
use crate::sentinel::Holder;

use super::plan::{Pair, Side};
use super::{APPLICATION, Bring, Event, Held, Options, interrupted, says, stopped};

/// How often the applier may be found to have passed the position.
const ATTEMPTS: u32 = 4;
const POLL: Duration = Duration::from_millis(50);
/// How long an applier may be away, as between two connections to the target.
const ABSENCE: Duration = Duration::from_secs(10);

/// Settings of sessions that read.
const READING: &str = "SET row_security = off; SET jit = off";
/// A query whose client is gone ends by itself, where the server's system can tell.
const WATCHFUL: &str = "SET client_connection_check_interval = '1s'";

/// Whether a table has another file than the snapshot says that it had. The catalog's row is that of the snapshot, the function's answer is of now.
const REWRITTEN: &str = "
SELECT coalesce(bool_or(c.relfilenode <> pg_relation_filenode(c.oid)), false)
  FROM unnest(ARRAY[{}]::regclass[]) t(name)
  LEFT JOIN LATERAL (SELECT relid FROM pg_partition_tree(t.name)) leaf ON true
  JOIN pg_class c ON c.oid = coalesce(leaf.relid, t.name)";

/// Connections to both sides, in transactions that see them as they are at one position.
pub(super) struct Moment {
    /// None where nothing changes.
    pub(super) lsn: Option<Position>,
    pub(super) source: Vec<Client>,
    pub(super) target: Vec<Client>,
}

impl Moment {
    /// One connection of each side.
    pub(super) fn pair(&self) -> Result<(&Client, &Client), Fault> {
        let pair = self.source.first().zip(self.target.first());
        pair.ok_or_else(|| Fault::stop("no connections to compare by"))
    }
}

/// Takes it. `holder` has asked the applier to stand; none where nothing changes.
pub(super) async fn take(
    options: &Options,
    pairs: &[Pair],
    watch: &Client,
    holder: Option<&Holder>,
    stop: watch::Receiver<bool>,
    tell: &dyn Fn(Event<'_>),
) -> Result<Moment, Fault> {
    if let (Some(holder), Some(held)) = (holder, &options.held) {
        return Taking { options, pairs, watch, holder, held, stop, tell }.take().await;
    }
    let source = snapshot(&options.source, pairs.iter().map(|pair| &pair.source)).await;
    let target = snapshot(&options.target, pairs.iter().map(|pair| &pair.target)).await;
    let (source, target) = (source.map_err(says("source"))?, target.map_err(says("target"))?);
    Ok(Moment {
        lsn: None,
        source: source.share(&options.source, options.jobs).await.map_err(says("source"))?,
        target: target.share(&options.target, options.jobs).await.map_err(says("target"))?,
    })
}

struct Taking<'a> {
    options: &'a Options,
    pairs: &'a [Pair],
    /// An ordinary connection to the source.
    watch: &'a Client,
    holder: &'a Holder,
    held: &'a Held,
    stop: watch::Receiver<bool>,
    tell: &'a dyn Fn(Event<'_>),
}

impl Taking<'_> {
    async fn take(self) -> Result<Moment, Fault> {
        let mut settle = self.holder.is_heard_within();
        for _ in 0..ATTEMPTS {
            (self.tell)(Event::Waiting("the applier is asked to stand"));
            self.pause(settle).await?;
            if let Some(bring) = &self.held.bring {
                if let Some(moment) = self.of_copy(bring).await? {
                    return Ok(moment);
                }
                tracing::info!("the applier did not stand still: once more");
                settle *= 3;
                continue;
            }
            (self.tell)(Event::Waiting("waiting for a snapshot of the source"));
            let (lsn, source) = self.source().await.map_err(says("source"))?;
            if let Some(source) = source {
                self.holder.set(lsn).await?;
                self.nudge().await;
                if let Some(target) = self.arrival(lsn).await? {
                    let target = target.share(&self.options.target, self.options.jobs).await;
                    return Ok(Moment { lsn: Some(lsn), source, target: target.map_err(says("target"))? });
                }
                tracing::info!(%lsn, "the applier had passed the position before it heard of it: once more");
                settle *= 3;
            } else {
                tracing::info!(%lsn, "a table was truncated or rewritten in between: once more");
            }
            self.holder.set(Position(1)).await?;
        }
        Err(Fault::stop(format!("no position was found in {ATTEMPTS} attempts"))
            .hint("the log above says why: an applier that is out of the sentinel's reach, or tables that are truncated all the time"))
    }

    /// Of a copy that is brought to where the applier stands; none where that went on meanwhile.
    async fn of_copy(&self, bring: &Bring) -> Result<Option<Moment>, Fault> {
        let before = self.target().await?;
        let Some(lsn) = before.position(&self.held.stream).await.map_err(says("target"))? else {
            return Ok(None);
        };
        // A later one tells whether the applier has stood all the while.
        drop(before);
        (self.tell)(Event::Waiting("bringing the archive's copy to where the applier stands"));
        let patience = self.held.patience;
        tokio::select! {
            brought = bring(lsn) => brought?,
            () = stopped(self.stop.clone()) => return Err(interrupted()),
            () = tokio::time::sleep(patience) => {
                return Err(Fault::stop(format!("the archive's copy did not come to {lsn} within {} s", patience.as_secs()))
                    .hint("the applier goes on; give a longer --timeout, which is how long it may stand"));
            }
        }
        let target = self.target().await?;
        if target.position(&self.held.stream).await.map_err(says("target"))? != Some(lsn) {
            return Ok(None);
        }
        let source = snapshot(&self.options.source, self.pairs.iter().map(|pair| &pair.source)).await;
        let (source, jobs) = (source.map_err(says("source"))?, self.options.jobs);
        Ok(Some(Moment {
            lsn: Some(lsn),
            source: source.share(&self.options.source, jobs).await.map_err(says("source"))?,
            target: target.share(&self.options.target, jobs).await.map_err(says("target"))?,
        }))
    }

    async fn target(&self) -> Result<Snapshot, Fault> {
        let target = snapshot(&self.options.target, self.pairs.iter().map(|pair| &pair.target));
        target.await.map_err(says("target"))
    }

    /// A position, and connections that see the source as it was there; none where its tables are not those of then any more.
    async fn source(&self) -> Result<(Position, Option<Vec<Client>>), Fault> {
        let (stream, slot) = self.slot().await?;
        let name = slot.snapshot_name.unwrap_or_default();
        let source = import(&self.options.source, &name, self.options.jobs).await?;
        // The slot was made for its snapshot only.
        drop(stream);
        let first = source.first().ok_or_else(|| Fault::stop("no connections to compare by"))?;
        lock_tables(first, self.pairs.iter().map(|pair| &pair.source)).await?;
        let names: Vec<_> = self.pairs.iter().map(|pair| quote_literal(&pair.quoted)).collect();
        let is_rewritten =
            run(first, &REWRITTEN.replace("{}", &names.join(", "))).await?.as_deref() != Some("f");
        Ok((slot.consistent_point, (!is_rewritten).then_some(source)))
    }

    async fn pause(&self, time: Duration) -> Result<(), Fault> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = stopped(self.stop.clone()) => Err(interrupted()),
        }
    }

    /// A temporary slot, with the connection whose snapshot can be imported until it is dropped.
    async fn slot(&self) -> Result<(ReplicationStream, CreatedSlot), Fault> {
        let mut stream = ReplicationStream::connect(&self.options.source, APPLICATION, &[]).await?;
        let rows = stream.simple("SELECT pg_backend_pid()").await?;
        let pid = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        let pid: i32 = pid.ok_or_else(|| Fault::stop("the server does not say which process it is"))?;
        let name = format!("pgsluice_compare_{pid}");
        let limit =
            Limit { patience: self.held.patience, flag: "--timeout", called_off: stopped(self.stop.clone()) };
        let creation = stream.create_slot(&name, "pgoutput", true, SnapshotAction::Export);
        let doing = "taking a snapshot of the source";
        let created = slot::within(creation, self.watch, pid, doing, limit).await;
        match created {
            Err(_) if *self.stop.borrow() => Err(interrupted()),
            created => Ok((stream, created?)),
        }
    }

    /// Else an applier of an idle source would only get to X with the next keepalive that is written to the log. A commit behind X
    /// lets it know at once.
    async fn nudge(&self) {
        // It waits for no standby.
        let message =
            "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgsluice.compare', '')";
        if let Err(fault) = run(self.watch, message).await {
            tracing::debug!(error = %fault, "no message in the source's WAL");
        }
    }

    /// Waits for the applier, and has a snapshot of the target then; none where it is beyond.
    async fn arrival(&self, lsn: Position) -> Result<Option<Snapshot>, Fault> {
        let client = connect(&self.options.target).await.map_err(says("target"))?;
        let (mut last, mut moved) = (Position::ZERO, Instant::now());
        let mut seen = Instant::now();
        loop {
            let row = progress::read(&client, &self.held.stream).await.map_err(says("target"))?;
            let row = row.ok_or_else(|| {
                Fault::stop(format!("target: there is no progress of stream {}", self.held.stream))
                    .hint("give --archive or --name as for follow, or --static where nothing is replicated")
            })?;
            if row.lsn > lsn {
                return Ok(None);
            }
            if row.lsn == lsn {
                break;
            }
            if row.lsn != last {
                (last, moved) = (row.lsn, Instant::now());
                (self.tell)(Event::Waiting(&format!("waiting for the applier at {last} to come to {lsn}")));
            }
            if progress::has_applier(&client, &self.held.stream).await.map_err(says("target"))? {
                seen = Instant::now();
            } else if seen.elapsed() > ABSENCE {
                return Err(Fault::stop(format!(
                    "nobody applies to the target, which is at {last}: it does not come to {lsn}"
                ))
                .hint(
                    "start pgsluice follow or apply; or compare with --static where neither side changes",
                ));
            }
            if moved.elapsed() > self.held.patience {
                let seconds = self.held.patience.as_secs();
                return Err(Fault::stop(format!(
                    "the applier has stayed at {last} for {seconds} s, and should come to {lsn}"
                ))
                .hint("look at pgsluice status and at the applier's log, or give a longer --timeout"));
            }
            self.pause(POLL).await?;
        }
        let snapshot = self.target().await?;
        let seen = snapshot.position(&self.held.stream).await.map_err(says("target"))?;
        // A lease that ran out meanwhile.
        Ok((seen == Some(lsn)).then_some(snapshot))
    }
}

/// A session whose snapshot others can have.
struct Snapshot {
    client: Client,
    name: String,
}

async fn snapshot<'s>(conninfo: &Conninfo, sides: impl Iterator<Item = &'s Side>) -> Result<Snapshot, Fault> {
    let client = connect(conninfo).await?;
    // The first query takes the snapshot, and a LOCK is none.
    run(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    lock_tables(&client, sides).await?;
    let name = run(&client, "SELECT pg_export_snapshot()").await?;
    Ok(Snapshot { client, name: name.ok_or_else(|| Fault::stop("the server exports no snapshot"))? })
}

/// Whether lanes are ahead of the progress.
pub(super) async fn is_torn(client: &Client, stream: &str) -> Result<bool, Fault> {
    if run(client, "SELECT to_regclass('pgsluice.lane')").await?.is_none() {
        return Ok(false);
    }
    let stream = quote_literal(stream);
    let torn = format!(
        "SELECT max(l.lsn) FROM pgsluice.lane l JOIN pgsluice.progress p USING (stream) WHERE stream = {stream} AND l.lsn > p.lsn"
    );
    Ok(run(client, &torn).await?.is_some())
}

impl Snapshot {
    /// What the progress row is in it, unless lanes are ahead of it.
    async fn position(&self, stream: &str) -> Result<Option<Position>, Fault> {
        let torn = is_torn(&self.client, stream).await?;
        let stream = quote_literal(stream);
        let row = format!("SELECT lsn FROM pgsluice.progress WHERE stream = {stream}");
        let lsn = run(&self.client, &row).await?;
        if torn {
            return Ok(None);
        }
        Ok(lsn.and_then(|lsn| lsn.parse().ok()))
    }

    /// So many connections with it, this one among them.
    async fn share(self, conninfo: &Conninfo, count: usize) -> Result<Vec<Client>, Fault> {
        let mut clients = import(conninfo, &self.name, count.saturating_sub(1)).await?;
        clients.push(self.client);
        Ok(clients)
    }
}

async fn import(conninfo: &Conninfo, snapshot: &str, count: usize) -> Result<Vec<Client>, Fault> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let client = connect(conninfo).await?;
        run(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        run(&client, &format!("SET TRANSACTION SNAPSHOT {}", quote_literal(snapshot))).await?;
        clients.push(client);
    }
    Ok(clients)
}

async fn connect(conninfo: &Conninfo) -> Result<Client, Fault> {
    let client = control::connect(conninfo, APPLICATION).await?;
    run(&client, READING).await?;
    if let Err(fault) = run(&client, WATCHFUL).await {
        tracing::debug!(error = %fault, "queries would go on after a kill");
    }
    Ok(client)
}

/// Waits for nobody for long: who waits for a lock keeps others from getting it.
async fn lock_tables<'s>(client: &Client, sides: impl Iterator<Item = &'s Side>) -> Result<(), Fault> {
    let tables: Vec<_> = sides.map(|side| side.table.from.as_str()).collect();
    if tables.is_empty() {
        return Ok(());
    }
    run(client, "SET LOCAL lock_timeout = '10s'").await?;
    let locked = run(client, &format!("LOCK TABLE {} IN ACCESS SHARE MODE", tables.join(", "))).await;
    locked.map_err(|fault| fault.context("locking the tables against TRUNCATE and ALTER"))?;
    run(client, "SET LOCAL lock_timeout = 0").await.map(drop)
}

/// Runs SQL; the first value of the first row, if there is one.
pub(super) async fn run(client: &Client, sql: &str) -> Result<Option<String>, Fault> {
    let messages = client.simple_query(sql).await.map_err(|error| control::fault(&error))?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.and_then(|row| row.get(0)).map(str::to_owned))
}
