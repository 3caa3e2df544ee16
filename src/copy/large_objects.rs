//! Large objects, as they are when they are copied: logical decoding tells nothing of them, so no later change reaches the target.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::dump::Wanted;
use crate::faults;
use crate::model::Fault;
use crate::pg::control;
use crate::pg::copied::{self, Copied, Moment};

use super::Options;

/// Objects that are brought in one transaction.
const OBJECTS: i64 = 200;
/// Bytes of each of them that are read at once, and of a longer one at a time.
const PIECE_BYTES: i32 = 64 << 10;
const LONG_PIECE_BYTES: i32 = 4 << 20;
/// How often it is told how far it is.
const TELL: Duration = Duration::from_secs(10);
/// Of the system catalog that has them, in what is noted of the tables that are copied.
const PG_LARGEOBJECT: u32 = 2613;

const MOMENT: &str = "SELECT pg_current_snapshot()::text, EXISTS (SELECT FROM pg_largeobject_metadata)";

const NEXT: &str = "SELECT array_agg(oid ORDER BY oid) FROM (
    SELECT oid FROM pg_largeobject_metadata WHERE oid > $1 ORDER BY oid LIMIT $2) next";

/// Owners, comments and privileges, as SQL that gives them to the target's.
const BELONGINGS: &str = "
SELECT $2 AND true, format('ALTER LARGE OBJECT %s OWNER TO %I', oid, pg_get_userbyid(lomowner))
  FROM pg_largeobject_metadata WHERE oid = ANY ($1)
UNION ALL
SELECT true, format('COMMENT ON LARGE OBJECT %s IS %L', oid, obj_description(oid, 'pg_largeobject'))
  FROM pg_largeobject_metadata WHERE oid = ANY ($1) AND obj_description(oid, 'pg_largeobject') IS NOT NULL
UNION ALL
SELECT $3 AND true, format('GRANT %s ON LARGE OBJECT %s TO %s%s', a.privilege_type, o.oid,
         CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)
  FROM pg_largeobject_metadata o, aclexplode(o.lomacl) a WHERE o.oid = ANY ($1) AND a.grantee <> o.lomowner";

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LargeObjects {
    pub objects: u64,
    pub bytes: u64,
}

/// Refuses a target that has some of its own, where the source has some that are to be brought.
pub async fn refuse_other_large_objects(options: &Options) -> Result<(), Fault> {
    let (source, target) = options.clients().await?;
    let noted = copied::tables(&target, &options.stream).await?.contains_key(&PG_LARGEOBJECT);
    let has_some: bool = source.query_one(MOMENT, &[]).await.map_err(at_source)?.get(1);
    match has_some && !noted {
        true => refuse_others(&target).await,
        false => Ok(()),
    }
}

async fn refuse_others(target: &Client) -> Result<(), Fault> {
    let there = "SELECT EXISTS (SELECT FROM pg_largeobject_metadata)";
    if target.query_one(there, &[]).await.map_err(at_target)?.get(0) {
        return Err(Fault::stop("the target has large objects already")
            .hint("empty it, or leave those of the source behind with --no-large-objects"));
    }
    Ok(())
}

/// Brings those that are not on the target yet, in the order of their OIDs, which they keep. None where nothing is left to be brought. Refused
/// where the target has some that it did not bring.
pub async fn large_objects(options: &Options, with: &Wanted) -> Result<Option<LargeObjects>, Fault> {
    let (mut source, mut target) = options.clients().await?;
    let noted = copied::tables(&target, &options.stream).await?.remove(&PG_LARGEOBJECT);
    if noted.as_ref().is_some_and(|noted| noted.whole.is_some()) {
        return Ok(None);
    }
    let row = source.query_one(MOMENT, &[]).await.map_err(at_source)?;
    if !row.get::<_, bool>(1) {
        return Ok(None);
    }
    let moment = Moment { snapshot: row.get(0), through: options.after };
    if noted.is_none() {
        refuse_others(&target).await?;
        // From now on those of the target are ours.
        let begun = Copied {
            oid: PG_LARGEOBJECT,
            filenode: 0,
            parts: 1,
            part_blocks: 0,
            first: moment.snapshot.clone(),
            whole: None,
            done: HashMap::new(),
        };
        let note = copied::note_begin(&options.stream, "pg_catalog", "pg_largeobject", &begun);
        target.batch_execute(&note).await.map_err(at_target)?;
    }
    // Where it stands is noted as the blocks that a part has: an object has none.
    let mut last = noted.map_or(0, |noted| noted.part_blocks as u32);
    let (mut brought, mut told) = (LargeObjects::default(), Instant::now());
    while let Some(oid) = bring(options, &mut source, &mut target, last, &mut brought, with).await? {
        last = oid;
        if told.elapsed() >= TELL {
            told = Instant::now();
            tracing::info!(objects = brought.objects, bytes = brought.bytes, "copying large objects");
        }
    }
    let note = copied::note_whole(&options.stream, PG_LARGEOBJECT, &moment);
    target.batch_execute(&note).await.map_err(at_target)?;
    Ok(Some(brought))
}

/// Brings the next ones behind an OID in one transaction, and gives the last of them.
async fn bring(
    options: &Options,
    source: &mut Client,
    target: &mut Client,
    last: u32,
    brought: &mut LargeObjects,
    with: &Wanted,
) -> Result<Option<u32>, Fault> {
    let snapshot = source.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let source = snapshot.start().await.map_err(at_source)?;
    let next: Option<Vec<u32>> = source.query_one(NEXT, &[&last, &OBJECTS]).await.map_err(at_source)?.get(0);
    let Some(oids) = next else { return Ok(None) };
    let first = "SELECT oid, lo_get(oid, 0, $2) FROM unnest($1::oid[]) oid";
    let rows = source.query(first, &[&oids, &PIECE_BYTES]).await.map_err(at_source)?;
    let begun: Vec<(u32, Vec<u8>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let target = target.transaction().await.map_err(at_target)?;
    let make = "SELECT lo_from_bytea(oid, data) FROM unnest($1::oid[], $2::bytea[]) made(oid, data)";
    let (begun_oids, data): (Vec<u32>, Vec<&[u8]>) =
        begun.iter().map(|(oid, data)| (*oid, data.as_slice())).unzip();
    target.execute(make, &[&begun_oids, &data]).await.map_err(at_target)?;
    for (oid, data) in &begun {
        brought.objects += 1;
        brought.bytes += data.len() as u64;
        if data.len() == PIECE_BYTES as usize {
            brought.bytes += bring_rest(&source, &target, *oid).await?;
        }
    }
    for row in source.query(BELONGINGS, &[&oids, &with.owners, &with.privileges]).await.map_err(at_source)? {
        let (is_wanted, sql): (bool, String) = (row.get(0), row.get(1));
        if is_wanted {
            target.batch_execute(&sql).await.map_err(at_target)?;
        }
    }
    let Some(last) = oids.last().copied() else { return Ok(None) };
    let note = copied::note_cursor(&options.stream, PG_LARGEOBJECT, last.into());
    target.batch_execute(&note).await.map_err(at_target)?;
    faults::point("copy.before_large_objects_commit");
    target.commit().await.map_err(at_target)?;
    Ok(Some(last))
}

/// What follows the first piece of an object, in bytes.
async fn bring_rest(source: &Transaction<'_>, target: &Transaction<'_>, oid: u32) -> Result<u64, Fault> {
    let mut offset = i64::from(PIECE_BYTES);
    loop {
        let piece = "SELECT lo_get($1, $2, $3)";
        let row = source.query_one(piece, &[&oid, &offset, &LONG_PIECE_BYTES]).await.map_err(at_source)?;
        let data: Vec<u8> = row.get(0);
        if !data.is_empty() {
            target.execute("SELECT lo_put($1, $2, $3)", &[&oid, &offset, &data]).await.map_err(at_target)?;
            offset += data.len() as i64;
        }
        if data.len() < LONG_PIECE_BYTES as usize {
            return Ok((offset - i64::from(PIECE_BYTES)) as u64);
        }
    }
}

fn at_source(error: tokio_postgres::Error) -> Fault {
    control::fault(&error)
        .context("source: large objects")
        .hint("the role must be allowed to read them; --no-large-objects leaves them behind")
}

fn at_target(error: tokio_postgres::Error) -> Fault {
    control::fault(&error).context("target: large objects")
}
