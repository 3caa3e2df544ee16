//! Tables of a stream that another applier than the stream's own has for now. The stream's applier leaves their changes out, all of them or
//! those up to a position; it reads which these are where it begins, and `pgsluice.progress.joining`, which is raised with every change of
//! them, in every batch under the lock of its progress. So a batch is applied as it stands here, or not at all.

use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, ToSql};

use super::answer::{fault, position};
use super::progress::{self, own_table};
use super::{copied, lane};
use crate::model::{Fault, Position, Remedy, Timestamp};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.joining (
    stream       text NOT NULL,
    source_table oid NOT NULL,
    schema       text NOT NULL,
    name         text NOT NULL,
    -- Changes of transactions that end at or before it are left out; without one, all are.
    through      pg_lsn,
    -- Somebody is at it. Otherwise it was given up, and stays out.
    active       boolean NOT NULL,
    -- Its rows are copied; otherwise those that are there count.
    copies       boolean NOT NULL,
    -- Which rows are, where it is not all: those that fulfil it, and were written by this transaction or later ones, or by what
    -- committed at this time or later.
    condition     text,
    min_xid       bigint,
    changed_since timestamptz,
    -- It was not published before.
    added        boolean NOT NULL,
    -- The target had it up to here when it was left out.
    since        pg_lsn NOT NULL,
    PRIMARY KEY (stream, source_table)
)";

const LOCK_NOT_AVAILABLE: &str = "55P03";

/// A table of the source whose changes the stream's applier leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Up to where; none where there is no end yet.
    pub through: Option<Position>,
    /// Somebody is at it. Otherwise it was given up, and stays out.
    pub active: bool,
    /// Its rows are copied; otherwise those that are there count.
    pub copies: bool,
    /// Of those only such that fulfil this SQL.
    pub condition: Option<String>,
    /// And only such that were written by this transaction or later ones,
    pub min_xid: Option<u64>,
    /// or by those that committed at this time or later.
    pub changed_since: Option<Timestamp>,
    /// It was not published before.
    pub added: bool,
    /// The target had it up to here when it was left out.
    pub since: Position,
}

/// What the applier that has such tables calls its own progress.
pub fn own_stream(stream: &str) -> String {
    format!("{stream} backfill")
}

/// Makes the place where they are kept.
pub async fn prepare(client: &Client) -> Result<(), Fault> {
    match own_table(client, "joining", TABLE).await? {
        true => add_changed_since(client).await,
        false => Err(Fault::stop("the user of the target may not write pgsluice.joining")
            .hint("let it create tables in schema pgsluice, or own that one")),
    }
}

/// An earlier version may have made the table.
async fn add_changed_since(client: &Client) -> Result<(), Fault> {
    let doing = |e: &tokio_postgres::Error| fault("preparing pgsluice.joining", e);
    let known = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pgsluice.joining'::regclass
                                   AND attname = 'changed_since' AND NOT attisdropped)";
    if client.query_one(known, &[]).await.map_err(|e| doing(&e))?.get(0) {
        return Ok(());
    }
    let add = "ALTER TABLE pgsluice.joining ADD COLUMN IF NOT EXISTS changed_since timestamptz";
    client.batch_execute(add).await.map_err(|e| doing(&e))
}

/// The stream's tables that are left out.
pub async fn read(client: &Client, stream: &str) -> Result<Vec<Joining>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading pgsluice.joining", e);
    let exists = "SELECT to_regclass('pgsluice.joining') IS NOT NULL";
    if !client.query_one(exists, &[]).await.map_err(|e| doing(&e))?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let query = "SELECT source_table, schema, name, through, active, copies, added, condition, min_xid, since,
                        -- A table of an earlier version has no such column.
                        (extract(epoch FROM (to_jsonb(joining) ->> 'changed_since')::timestamptz) * 1000000)::int8
                   FROM pgsluice.joining WHERE stream = $1 ORDER BY schema, name, source_table";
    let rows = client.query(query, &[&stream]).await.map_err(|e| doing(&e))?;
    let joining = |row: &tokio_postgres::Row| Joining {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        through: row.get::<_, Option<PgLsn>>(3).map(position),
        active: row.get(4),
        copies: row.get(5),
        added: row.get(6),
        condition: row.get(7),
        min_xid: row.get::<_, Option<i64>>(8).map(i64::cast_unsigned),
        since: position(row.get(9)),
        changed_since: row.get::<_, Option<i64>>(10).map(Timestamp::from_unix_microseconds),
    };
    Ok(rows.iter().map(joining).collect())
}

/// Notes that all rows of these tables of the source are brought, whatever was chosen.
pub async fn bring_all(client: &Client, stream: &str, oids: &[u32]) -> Result<(), Fault> {
    let update = "UPDATE pgsluice.joining SET condition = NULL, min_xid = NULL, changed_since = NULL
                   WHERE stream = $1 AND source_table = ANY ($2)";
    let done = client.execute(update, &[&stream, &oids]).await;
    done.map(|_| ()).map_err(|e| fault("writing pgsluice.joining", &e))
}

/// Tells one state of them from another.
pub async fn version(client: &Client, stream: &str) -> Result<Option<i64>, Fault> {
    let query = "SELECT joining FROM pgsluice.progress WHERE stream = $1";
    let row = client.query_opt(query, &[&stream]).await;
    Ok(row.map_err(|e| fault("reading pgsluice.progress", &e))?.map(|row| row.get(0)))
}

/// The stream's applier held between two batches: it can neither begin nor end one until it is released, or the client is gone.
pub struct Held<'c> {
    client: &'c Client,
    stream: String,
    /// Where its progress is.
    pub lsn: Position,
}

/// Holds the stream's applier; none where a batch goes over several lanes right now, or was committed by some of them only.
pub async fn hold<'c>(client: &'c Client, stream: &str) -> Result<Option<Held<'c>>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault(&format!("holding the applier of \"{stream}\""), e);
    let progress = "SELECT lsn FROM pgsluice.progress WHERE stream = $1 FOR UPDATE";
    let progress = client.prepare(progress).await.map_err(|e| doing(&e))?;
    // A lane that is at work would wait for us, and we for it.
    let lanes = match lane::exists(client).await? {
        true => "SELECT lsn FROM pgsluice.lane WHERE stream = $1 FOR UPDATE NOWAIT",
        false => "SELECT NULL::pg_lsn WHERE $1::text IS NULL",
    };
    let lanes = client.prepare(lanes).await.map_err(|e| doing(&e))?;
    // Whoever holds it asks again and again; where nobody asks, his machine is gone, and the applier shall go on.
    let settings = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 0; \
         SET LOCAL idle_in_transaction_session_timeout = '30s'";
    client.batch_execute(settings).await.map_err(|e| doing(&e))?;
    // One right behind the other, so that the next batch's lanes don't come in between.
    let parameters: [&(dyn ToSql + Sync); 1] = [&stream];
    let (row, lanes) =
        tokio::join!(client.query_opt(&progress, &parameters), client.query(&lanes, &parameters));
    let Some(row) = row.map_err(|e| doing(&e))? else {
        return Err(Fault::stop(format!("the target has no progress row for '{stream}'"))
            .hint("pgsluice backfill is for a pipeline that there is: pgsluice follow or clone make one"));
    };
    let lsn = position(row.get(0));
    let held = Held { client, stream: stream.to_owned(), lsn };
    match lanes {
        Ok(rows) if rows.iter().all(|row| position(row.get(0)) <= lsn) => return Ok(Some(held)),
        Ok(_) => {}
        Err(error) if error.code().is_some_and(|code| code.code() == LOCK_NOT_AVAILABLE) => {}
        Err(error) => return Err(doing(&error)),
    }
    held.release().await?;
    Ok(None)
}

impl Held<'_> {
    /// Lets it go on.
    pub async fn release(self) -> Result<(), Fault> {
        self.client.batch_execute("ROLLBACK").await.map_err(|e| fault("letting the applier go on", &e))
    }

    /// From its next batch on the stream's applier leaves these tables out.
    pub async fn join(self, tables: &[Joining]) -> Result<(), Fault> {
        let insert =
            "INSERT INTO pgsluice.joining (stream, source_table, schema, name, active, copies, added, condition, min_xid, since, changed_since)
                      VALUES ($1, $2, $3, $4, true, $5, $6, $7, $8, $9, $10::text::timestamptz)
                      ON CONFLICT (stream, source_table) DO UPDATE
                      SET schema = excluded.schema, name = excluded.name, through = NULL, active = true,
                          copies = excluded.copies, added = excluded.added,
                          condition = excluded.condition, min_xid = excluded.min_xid, since = excluded.since,
                          changed_since = excluded.changed_since";
        for table in tables {
            let Joining { oid, schema, name, copies, added, condition, .. } = table;
            let (min_xid, since) = (table.min_xid.map(u64::cast_signed), PgLsn::from(self.lsn.0));
            let time = table.changed_since.map(|time| time.to_string());
            let parameters: [&(dyn ToSql + Sync); 10] =
                [&self.stream, oid, schema, name, copies, added, condition, &min_xid, &since, &time];
            self.execute(insert, &parameters).await?;
        }
        // What ended before the progress has no effect any more.
        let forget = "DELETE FROM pgsluice.joining WHERE stream = $1 AND through <= $2";
        self.execute(forget, &[&self.stream, &PgLsn::from(self.lsn.0)]).await?;
        self.commit().await
    }

    /// How far the tables are by their own applier.
    pub async fn own_progress(&self) -> Result<Option<Position>, Fault> {
        let query = "SELECT lsn FROM pgsluice.progress WHERE stream = $1";
        let row = self.client.query_opt(query, &[&own_stream(&self.stream)]).await;
        Ok(row.map_err(|e| fault("reading pgsluice.progress", &e))?.map(|row| position(row.get(0))))
    }

    /// Gives the tables to the stream's applier, from where their own one is, which is not behind it; all that was noted for that goes.
    pub async fn hand_over(self) -> Result<Position, Fault> {
        let own = own_stream(&self.stream);
        let query = "DELETE FROM pgsluice.progress WHERE stream = $1 RETURNING lsn";
        let row = self.client.query_opt(query, &[&own]).await;
        let row = row.map_err(|e| fault("handing the tables over", &e))?;
        let through = row.map(|row| position(row.get(0)));
        let Some(through) = through.filter(|through| *through >= self.lsn) else {
            return Err(Fault::reread("the tables are not where they were"));
        };
        let update =
            "UPDATE pgsluice.joining SET through = $2 WHERE stream = $1 AND active AND through IS NULL";
        self.execute(update, &[&self.stream, &PgLsn::from(through.0)]).await?;
        let forget = "DELETE FROM pgsluice.joining WHERE stream = $1 AND through <= $2";
        self.execute(forget, &[&self.stream, &PgLsn::from(self.lsn.0)]).await?;
        self.forget_copy(&own).await?;
        self.commit().await?;
        Ok(through)
    }

    /// Leaves the tables as they are: nobody is at them any more, and the stream's applier goes on to leave them out.
    pub async fn give_up(self) -> Result<(), Fault> {
        let own = own_stream(&self.stream);
        self.execute("DELETE FROM pgsluice.progress WHERE stream = $1", &[&own]).await?;
        let update = "UPDATE pgsluice.joining SET active = false WHERE stream = $1 AND through IS NULL";
        self.execute(update, &[&self.stream]).await?;
        self.forget_copy(&own).await?;
        self.commit().await
    }

    async fn forget_copy(&self, own: &str) -> Result<(), Fault> {
        let forget = copied::forget_all(own);
        self.client.batch_execute(&forget).await.map_err(|e| fault("forgetting a copy", &e))
    }

    async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), Fault> {
        let done = self.client.execute(sql, parameters).await;
        done.map(|_| ()).map_err(|e| fault("writing pgsluice.joining", &e))
    }

    /// With the news that something has changed.
    async fn commit(self) -> Result<(), Fault> {
        let raise = "UPDATE pgsluice.progress SET joining = joining + 1 WHERE stream = $1";
        self.execute(raise, &[&self.stream]).await?;
        let done = self.client.batch_execute("COMMIT").await;
        done.map_err(|e| Fault { remedy: Remedy::Reread, ..fault("writing pgsluice.joining", &e) })
    }
}

/// Deletes what is noted of a stream's tables, and of those that have them; false where there was nothing.
pub async fn drop(client: &mut Client, stream: &str) -> Result<bool, Fault> {
    let own = own_stream(stream);
    super::origin::drop(client, &own).await?;
    copied::drop(client, &own).await?;
    let was = progress::drop(client, &own).await?;
    let exists = "SELECT to_regclass('pgsluice.joining') IS NOT NULL";
    let doing = |e: &tokio_postgres::Error| fault("writing pgsluice.joining", e);
    if !client.query_one(exists, &[]).await.map_err(|e| doing(&e))?.get::<_, bool>(0) {
        return Ok(was);
    }
    let delete = "DELETE FROM pgsluice.joining WHERE stream = $1";
    let deleted = client.execute(delete, &[&stream]).await.map_err(|e| doing(&e))?;
    Ok(was || deleted > 0)
}
