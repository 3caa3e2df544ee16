//! What a clone has brought to the target so far: which tables, under which snapshots of the source. Written in the transactions that
//! carry the rows, so that after any crash it says exactly what is there.

use std::collections::HashMap;

use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, ToSql};

use super::answer::{fault, position};
use super::progress::{self, own_table};
use super::sql::quote_literal;
use crate::model::{Fault, Position, VisibleXids};

const CLONE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.clone (
    stream     text PRIMARY KEY,
    archive_id text NOT NULL,
    -- The log and its slot were made for this clone alone.
    alone      boolean NOT NULL,
    -- Transactions from this one on are in the log, if they committed.
    first_xid  bigint NOT NULL,
    -- What of the source's schema was brought here, where that was done.
    schema_snapshot text,
    schema_through  pg_lsn,
    -- Those of the source that are to be copied.
    tables     oid[] NOT NULL DEFAULT '{}',
    -- Once all tables are here: where the source's WAL ended when the last snapshot was taken.
    through    pg_lsn,
    -- Once what follows the rows is here too, such as foreign keys.
    finished   boolean NOT NULL DEFAULT false,
    -- Once nothing is left but to clean up.
    done       boolean NOT NULL DEFAULT false,
    -- Where it was brought back from an archive: which tables, and what they are called here.
    scope      text
)";

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.copied (
    stream       text NOT NULL,
    source_table oid NOT NULL,
    schema       text NOT NULL,
    name         text NOT NULL,
    -- Of the source's table when its copy began: parts are ranges of that file's blocks.
    filenode     oid NOT NULL,
    parts        int NOT NULL,
    part_blocks  bigint NOT NULL,
    first        text NOT NULL,
    -- Once it is whole: the snapshot that it equals, and where the WAL ended when that was taken.
    snapshot     text,
    through      pg_lsn,
    PRIMARY KEY (stream, source_table)
)";

const PART: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.copied_part (
    stream       text NOT NULL,
    source_table oid NOT NULL,
    part         int NOT NULL,
    snapshot     text NOT NULL,
    through      pg_lsn NOT NULL,
    rows         bigint NOT NULL,
    bytes        bigint NOT NULL,
    PRIMARY KEY (stream, source_table, part)
)";

/// The row of a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clone {
    pub archive_id: String,
    /// The log and its slot were made for this clone alone.
    pub alone: bool,
    /// Transactions from this one on are in the log, if they committed.
    pub first_xid: u64,
    /// In which the source's schema was read that was made here.
    pub schema: Option<Moment>,
    /// OIDs of those of the source that are to be copied.
    pub tables: Vec<u32>,
    /// None while tables are missing.
    pub through: Option<Position>,
    /// What follows the rows is here too, such as foreign keys.
    pub finished: bool,
    /// Nothing is left but to clean up.
    pub done: bool,
    /// Where it was brought back from an archive: which tables, and what they are called here.
    pub scope: Option<String>,
}

/// A snapshot of the source, and where its WAL ended once it was taken: what it shows was committed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// As `pg_snapshot` prints it.
    pub snapshot: String,
    pub through: Position,
}

impl Moment {
    pub fn seen(&self) -> Result<VisibleXids, Fault> {
        VisibleXids::parse(&self.snapshot)
            .ok_or_else(|| Fault::stop(format!("'{}' is not a snapshot", self.snapshot)))
    }
}

/// A table whose copy has begun.
#[derive(Clone, Debug)]
pub struct Copied {
    pub oid: u32,
    pub filenode: u32,
    pub parts: u32,
    /// Blocks of the source's table in each part but the last, which has the rest.
    pub part_blocks: u64,
    /// The snapshot in which the first part was read.
    pub first: String,
    /// What it equals; none while parts are missing, or are of different snapshots.
    pub whole: Option<Moment>,
    pub done: HashMap<u32, Part>,
}

/// A part that is here.
#[derive(Clone, Debug)]
pub struct Part {
    pub moment: Moment,
    pub rows: u64,
    pub bytes: u64,
}

/// Makes the places where it is kept.
pub async fn prepare(client: &Client) -> Result<(), Fault> {
    progress::own_schema(client).await?;
    for (name, create) in [("clone", CLONE), ("copied", TABLE), ("copied_part", PART)] {
        if !own_table(client, name, create).await? {
            return Err(Fault::stop(format!("the user of the target may not write pgsluice.{name}"))
                .hint("let it create tables in schema pgsluice, or own that one"));
        }
    }
    Ok(())
}

/// SQL that is true where the copy of one of these tables has begun.
pub fn any_of(stream: &str, tables: &[u32]) -> String {
    let tables: Vec<_> = tables.iter().map(u32::to_string).collect();
    format!(
        "EXISTS (SELECT FROM pgsluice.copied WHERE stream = {} AND source_table = ANY ('{{{}}}'::oid[]))",
        quote_literal(stream),
        tables.join(",")
    )
}

async fn exists(client: &Client) -> Result<bool, Fault> {
    let query = "SELECT to_regclass('pgsluice.clone') IS NOT NULL";
    let row = client.query_one(query, &[]).await.map_err(|e| fault("looking for pgsluice.clone", &e))?;
    Ok(row.get(0))
}

fn moment(snapshot: Option<String>, through: Option<PgLsn>) -> Option<Moment> {
    Some(Moment { snapshot: snapshot?, through: position(through?) })
}

/// The stream's clone, if one was begun.
pub async fn clone(client: &Client, stream: &str) -> Result<Option<Clone>, Fault> {
    if !exists(client).await? {
        return Ok(None);
    }
    let query =
        "SELECT archive_id, alone, first_xid, schema_snapshot, schema_through, through, tables, finished, done,
                -- A table of an earlier version has no such column.
                to_jsonb(clone) ->> 'scope'
           FROM pgsluice.clone WHERE stream = $1";
    let row = client.query_opt(query, &[&stream]).await.map_err(|e| fault("reading pgsluice.clone", &e))?;
    Ok(row.map(|row| Clone {
        archive_id: row.get(0),
        alone: row.get(1),
        first_xid: row.get::<_, i64>(2).unsigned_abs(),
        schema: moment(row.get(3), row.get(4)),
        through: row.get::<_, Option<PgLsn>>(5).map(position),
        tables: row.get(6),
        finished: row.get(7),
        done: row.get(8),
        scope: row.get(9),
    }))
}

/// Notes that a clone begins.
pub async fn begin(
    client: &Client,
    stream: &str,
    archive_id: &str,
    alone: bool,
    first_xid: u64,
) -> Result<(), Fault> {
    let insert = "INSERT INTO pgsluice.clone (stream, archive_id, alone, first_xid) VALUES ($1, $2, $3, $4)
                  ON CONFLICT (stream) DO NOTHING";
    write(client, insert, &[&stream, &archive_id, &alone, &first_xid.cast_signed()]).await
}

/// Notes of what the schema was made that is here.
pub async fn note_schema(client: &Client, stream: &str, moment: &Moment) -> Result<(), Fault> {
    let update = "UPDATE pgsluice.clone SET schema_snapshot = $2, schema_through = $3 WHERE stream = $1";
    write(client, update, &[&stream, &moment.snapshot, &PgLsn::from(moment.through.0)]).await
}

/// Notes that tables are brought back from an archive: which, and what they are called here.
pub async fn begin_restore(
    client: &Client,
    stream: &str,
    archive_id: &str,
    first_xid: u64,
    scope: &str,
) -> Result<(), Fault> {
    let doing = |e: &tokio_postgres::Error| fault("preparing pgsluice.clone", e);
    let known = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pgsluice.clone'::regclass
                                   AND attname = 'scope' AND NOT attisdropped)";
    let is_known: bool = client.query_one(known, &[]).await.map_err(|e| doing(&e))?.get(0);
    if !is_known {
        // An earlier version has made the table.
        let add = "ALTER TABLE pgsluice.clone ADD COLUMN IF NOT EXISTS scope text";
        client.batch_execute(add).await.map_err(|e| doing(&e))?;
    }
    let insert = "INSERT INTO pgsluice.clone (stream, archive_id, alone, first_xid, scope)
                  VALUES ($1, $2, false, $3, $4) ON CONFLICT (stream) DO NOTHING";
    write(client, insert, &[&stream, &archive_id, &first_xid.cast_signed(), &scope]).await
}

/// In what is noted of a copy: every table of the source that is not noted itself.
pub const ALL_OTHERS: u32 = 0;

/// Refuses rules that mean other tables than those that were brought back: what is renamed there might go into the wrong one.
pub fn refuse_other_scope(stream: &str, noted: &str, given: &str) -> Result<(), Fault> {
    if noted == given {
        return Ok(());
    }
    let all = |scope: &str| if scope.is_empty() { "all tables".to_owned() } else { scope.to_owned() };
    Err(Fault::person(format!(
        "stream {stream} of the target was brought back with {}, not with {}",
        all(noted),
        all(given)
    ))
    .hint("give the same --tables, --exclude and --rename as then, or choose another --origin"))
}

/// Notes which tables are to be copied, besides those that were noted before.
pub async fn note_tables(client: &Client, stream: &str, oids: &[u32]) -> Result<(), Fault> {
    let update = "UPDATE pgsluice.clone SET tables = ARRAY(SELECT DISTINCT unnest(tables || $2::oid[]))
                   WHERE stream = $1 AND NOT tables @> $2::oid[]";
    write(client, update, &[&stream, &oids]).await
}

/// Notes a table as whole of which nothing is copied in parts, such as one that is on the source no more.
pub async fn note_whole_as_is(client: &Client, stream: &str, oid: u32, moment: &Moment) -> Result<(), Fault> {
    write(client, &note_of(stream, oid, moment), &[]).await
}

/// The SQL of that.
pub fn note_of(stream: &str, oid: u32, moment: &Moment) -> String {
    let (snapshot, through) = (quote_literal(&moment.snapshot), moment.through);
    format!(
        "INSERT INTO pgsluice.copied (stream, source_table, schema, name, filenode, parts, part_blocks, first, snapshot, through) \
         VALUES ({}, {oid}, '', '', 0, 0, 0, {snapshot}, {snapshot}, '{through}') ON CONFLICT (stream, source_table) \
         DO UPDATE SET snapshot = excluded.snapshot, through = excluded.through",
        quote_literal(stream)
    )
}

/// Notes that what follows the rows is here too.
pub async fn finish(client: &Client, stream: &str) -> Result<(), Fault> {
    write(client, "UPDATE pgsluice.clone SET finished = true WHERE stream = $1", &[&stream]).await
}

/// Notes that nothing is left but to clean up.
pub async fn done(client: &Client, stream: &str) -> Result<(), Fault> {
    write(client, "UPDATE pgsluice.clone SET done = true WHERE stream = $1", &[&stream]).await
}

/// Notes that others than the clone use its log from now on.
pub async fn share(client: &Client, stream: &str) -> Result<(), Fault> {
    write(client, "UPDATE pgsluice.clone SET alone = false WHERE stream = $1", &[&stream]).await
}

/// Notes that all tables are whole.
pub async fn complete(client: &Client, stream: &str, through: Position) -> Result<(), Fault> {
    let update = "UPDATE pgsluice.clone SET through = $2 WHERE stream = $1";
    write(client, update, &[&stream, &PgLsn::from(through.0)]).await
}

async fn write(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), Fault> {
    match client.execute(sql, parameters).await {
        Ok(_) => Ok(()),
        Err(error) => Err(fault("writing pgsluice.clone", &error)),
    }
}

/// The tables of a stream's clone, by the OID of the source.
pub async fn tables(client: &Client, stream: &str) -> Result<HashMap<u32, Copied>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading what was copied", e);
    let query = "SELECT source_table, filenode, parts, part_blocks, first, snapshot, through
                   FROM pgsluice.copied WHERE stream = $1";
    let rows = client.query(query, &[&stream]).await.map_err(|e| doing(&e))?;
    let mut tables: HashMap<u32, Copied> = rows
        .iter()
        .map(|row| {
            let table = Copied {
                oid: row.get(0),
                filenode: row.get(1),
                parts: row.get::<_, i32>(2).unsigned_abs(),
                part_blocks: row.get::<_, i64>(3).unsigned_abs(),
                first: row.get(4),
                whole: moment(row.get(5), row.get(6)),
                done: HashMap::new(),
            };
            (table.oid, table)
        })
        .collect();
    let query = "SELECT source_table, part, snapshot, through, rows, bytes
                   FROM pgsluice.copied_part WHERE stream = $1";
    for row in client.query(query, &[&stream]).await.map_err(|e| doing(&e))? {
        let Some(table) = tables.get_mut(&row.get(0)) else { continue };
        let part = Part {
            moment: Moment { snapshot: row.get(2), through: position(row.get(3)) },
            rows: row.get::<_, i64>(4).unsigned_abs(),
            bytes: row.get::<_, i64>(5).unsigned_abs(),
        };
        table.done.insert(row.get::<_, i32>(1).unsigned_abs(), part);
    }
    Ok(tables)
}

/// What the applier leaves out: what the schema has already, and of these tables of the source, by OID, everything that the snapshot shows.
#[derive(Debug, Default)]
pub struct Stitches {
    pub schema: Option<Moment>,
    pub tables: HashMap<u32, Moment>,
    /// [`Clone::scope`].
    pub scope: Option<String>,
}

/// Empty where nothing was cloned; refuses where a clone is not finished.
pub async fn stitches(client: &Client, stream: &str) -> Result<Stitches, Fault> {
    let Some(clone) = clone(client, stream).await? else { return Ok(Stitches::default()) };
    if clone.through.is_none() {
        return Err(Fault::stop("the clone of this target is not finished")
            .hint("run pgsluice clone again, or replay: it goes on where it was"));
    }
    let tables = tables(client, stream).await?;
    let tables = tables.into_iter().filter_map(|(oid, table)| Some((oid, table.whole?))).collect();
    Ok(Stitches { schema: clone.schema, tables, scope: clone.scope })
}

/// SQL that notes that a table's copy begins.
pub fn note_begin(stream: &str, schema: &str, name: &str, table: &Copied) -> String {
    let Copied { oid, filenode, parts, part_blocks, first, .. } = table;
    format!(
        "INSERT INTO pgsluice.copied (stream, source_table, schema, name, filenode, parts, part_blocks, first) \
         VALUES ({}, {oid}, {}, {}, {filenode}, {parts}, {part_blocks}, {})",
        quote_literal(stream),
        quote_literal(schema),
        quote_literal(name),
        quote_literal(first),
    )
}

/// SQL that notes that a part is here.
pub fn note_part(stream: &str, oid: u32, number: u32, part: &Part) -> String {
    format!(
        "INSERT INTO pgsluice.copied_part VALUES ({}, {oid}, {number}, {}, '{}', {}, {})",
        quote_literal(stream),
        quote_literal(&part.moment.snapshot),
        part.moment.through,
        part.rows,
        part.bytes,
    )
}

/// Makes two parts of each part of a table, those that are here among them, where they are not too small for that.
pub async fn halve_parts(client: &Client, stream: &str, oid: u32, blocks_min: u64) -> Result<(), Fault> {
    let place = format!("stream = {} AND source_table = {oid}", quote_literal(stream));
    let divisible = format!(
        "{place} AND snapshot IS NULL AND parts BETWEEN 2 AND 1000000000 AND part_blocks % 2 = 0 AND part_blocks >= {}",
        blocks_min.saturating_mul(2)
    );
    // The lock waits for those whose commit is on its way: their notes have the old numbers. Those below 0 are nobody's.
    let sql = format!(
        "BEGIN; LOCK TABLE pgsluice.copied_part IN EXCLUSIVE MODE; \
         UPDATE pgsluice.copied_part SET part = -1 - part \
          WHERE {place} AND EXISTS (SELECT FROM pgsluice.copied WHERE {divisible}); \
         INSERT INTO pgsluice.copied_part (stream, source_table, part, snapshot, through, rows, bytes) \
         SELECT stream, source_table, 2 * (-1 - part) + half, snapshot, through, \
                CASE half WHEN 0 THEN rows ELSE 0 END, CASE half WHEN 0 THEN bytes ELSE 0 END \
           FROM pgsluice.copied_part, generate_series(0, 1) half WHERE {place} AND part < 0; \
         DELETE FROM pgsluice.copied_part WHERE {place} AND part < 0; \
         UPDATE pgsluice.copied SET parts = 2 * parts, part_blocks = part_blocks / 2 WHERE {divisible}; COMMIT"
    );
    client.batch_execute(&sql).await.map_err(|e| fault("writing pgsluice.copied_part", &e))
}

/// SQL that notes what a table equals now that it is whole.
pub fn note_whole(stream: &str, oid: u32, moment: &Moment) -> String {
    format!(
        "UPDATE pgsluice.copied SET snapshot = {}, through = '{}' WHERE stream = {} AND source_table = {oid}",
        quote_literal(&moment.snapshot),
        moment.through,
        quote_literal(stream),
    )
}

/// SQL that notes how far something is that is copied in the order of a number instead of in parts: [`Copied::part_blocks`].
pub fn note_cursor(stream: &str, oid: u32, cursor: i64) -> String {
    let stream = quote_literal(stream);
    format!(
        "UPDATE pgsluice.copied SET part_blocks = {cursor} WHERE stream = {stream} AND source_table = {oid}"
    )
}

/// SQL that forgets a table, for its copy to begin anew.
pub fn forget(stream: &str, oid: u32) -> String {
    let stream = quote_literal(stream);
    format!(
        "DELETE FROM pgsluice.copied_part WHERE stream = {stream} AND source_table = {oid}; \
         DELETE FROM pgsluice.copied WHERE stream = {stream} AND source_table = {oid}"
    )
}

/// SQL that forgets all that was noted of a stream.
pub(super) fn forget_all(stream: &str) -> String {
    let tables = ["copied_part", "copied", "clone"]
        .map(|table| format!("DELETE FROM pgsluice.{table} WHERE stream = {}", quote_literal(stream)));
    tables.join("; ")
}

/// Deletes all that was noted of a stream; false where there was nothing. The tables go with the last row, where the role may drop them.
pub async fn drop(client: &mut Client, stream: &str) -> Result<bool, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("dropping what is noted of a clone", e);
    let owned =
        "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('pgsluice.clone')";
    let Some(owned) = client.query_opt(owned, &[]).await.map_err(|e| doing(&e))? else { return Ok(false) };
    let name = quote_literal(stream);
    let delete = format!(
        "DELETE FROM pgsluice.copied_part WHERE stream = {name}; DELETE FROM pgsluice.copied WHERE stream = {name}"
    );
    client.batch_execute(&delete).await.map_err(|e| doing(&e))?;
    let delete = "DELETE FROM pgsluice.clone WHERE stream = $1";
    let deleted = client.execute(delete, &[&stream]).await.map_err(|e| doing(&e))?;
    if owned.get(0) {
        progress::drop_if_empty(client, "clone", "pgsluice.copied, pgsluice.copied_part").await?;
    }
    Ok(deleted > 0)
}
