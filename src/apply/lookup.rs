//! What the target has for a relation of the log, from its catalog.

use tokio_postgres::Client;

use crate::model::{Fault, Relation, is_portable_between, quote_ident};
use crate::pg::control::fault;
use crate::transform::{
    ColumnType, Equality, Found, Generated, Identity, Planner, Referring, TargetColumn, TargetTable, TypeKind,
};

/// Types whose equal values have equal text, so that `=` finds exactly the row that was sent: bool, bytea, "char", name,
/// int8, int2, int4, text, oid, macaddr, inet, cidr, varchar, date, time, timestamp, timestamptz, uuid, pg_lsn.
const EXACT: &[u32] =
    &[16, 17, 18, 19, 20, 21, 23, 25, 26, 829, 869, 650, 1043, 1082, 1083, 1114, 1184, 2950, 3220];

/// Columns with the facts that decide how they are written and compared. Domains count as their base type.
const COLUMNS: &str = "
with recursive base(attnum, type, kind, next, modifier) as (
    select a.attnum, t.oid, t.typtype, t.typbasetype, greatest(a.atttypmod, t.typtypmod)
      from pg_attribute a join pg_type t on t.oid = a.atttypid
     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
    union all
    select b.attnum, t.oid, t.typtype, t.typbasetype, greatest(b.modifier, t.typtypmod)
      from base b join pg_type t on t.oid = b.next where b.kind = 'd')
select a.attname::text, a.attgenerated::text, a.attidentity::text, b.type, b.kind::text,
       coalesce(c.collisdeterministic, true),
       (select n.nspname::text from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
         where o.oprname = '=' and o.oprleft = b.type and o.oprright = b.type
         order by n.nspname = 'pg_catalog' desc limit 1),
       format_type(b.type, -1), format_type(a.atttypid, a.atttypmod), b.modifier, t.typname::text,
       case when t.typcategory = 'A' then t.typelem else 0::oid end, t.typcategory::text,
       coalesce(e.typtype, t.typtype)::text, b.type <> a.atttypid,
       a.attnotnull and not a.atthasdef and a.attidentity = '',
       not exists (select from pg_cast k where k.castsource = 'text'::regtype and k.castmethod = 'f'
                      and k.casttarget in (a.atttypid, b.type)),
       t.typsend::oid <> 0, a.atttypid
  from pg_attribute a join base b on b.attnum = a.attnum and b.kind <> 'd'
  join pg_type t on t.oid = b.type
  left join pg_type e on t.typcategory = 'A' and e.oid = t.typelem
  left join pg_collation c on c.oid = a.attcollation
 where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
 order by a.attnum";

/// Types of the log by what the target calls them: those that are built in by OID, all others by name.
const ARRIVING: &str = "
select t.oid, case when t.typcategory = 'A' then t.typelem else 0::oid end, format_type(named.oid, w.modifier),
       coalesce(e.typtype, t.typtype)::text, named.typtype = 'd'
  from unnest($1::oid[], $2::int4[], $3::text[], $4::text[]) with ordinality w(oid, modifier, schema, name, at)
  left join pg_namespace n on n.nspname = w.schema
  left join pg_type named on case when w.name is null then named.oid = w.oid
                                  else named.typname = w.name and named.typnamespace = n.oid end
  left join lateral (
      with recursive base(oid, kind, next) as (
          select named.oid, named.typtype, named.typbasetype
          union all
          select p.oid, p.typtype, p.typbasetype from base b join pg_type p on p.oid = b.next where b.kind = 'd')
      select oid from base where kind <> 'd') base on true
  left join pg_type t on t.oid = base.oid
  left join pg_type e on t.typcategory = 'A' and e.oid = t.typelem
 order by w.at";

/// The first OID that a type can have that is not built in for all servers alike (`FirstGenbkiObjectId`).
const FIRST_NAMED_TYPE: u32 = 10_000;

const PRIMARY_KEY: &str = "
select a.attname::text from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
 where i.indrelid = $1 and i.indisprimary and i.indimmediate and i.indisvalid";

/// Sets of columns that no two rows have in common, as the columns' own types compare.
const UNIQUE: &str = "
select array_agg(a.attname::text)
  from pg_index i
 cross join lateral unnest((i.indkey::int2[])[0:i.indnkeyatts - 1], (i.indclass::oid[])[0:i.indnkeyatts - 1],
                           (i.indcollation::oid[])[0:i.indnkeyatts - 1]) as k(attnum, opclass, collated)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  join pg_opclass o on o.oid = k.opclass
 where i.indrelid = $1 and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
 group by i.indexrelid having bool_and(o.opcdefault and k.collated = a.attcollation)";

/// Indexes that keep rows apart, of the table and its partitions: their columns where these are compared as the columns' own types
/// compare, and nothing else is.
const APART: &str = "
with recursive tree(oid) as (
    select $1::oid union all select h.inhrelid from tree join pg_inherits h on h.inhparent = tree.oid)
select case when bool_and(i.indisunique and not i.indisexclusion and i.indpred is null and i.indexprs is null
                          and o.opcdefault and k.collated = a.attcollation) then array_agg(a.attname::text) end
  from tree join pg_index i on i.indrelid = tree.oid
 cross join lateral unnest((i.indkey::int2[])[0:i.indnkeyatts - 1], (i.indclass::oid[])[0:i.indnkeyatts - 1],
                           (i.indcollation::oid[])[0:i.indnkeyatts - 1]) as k(attnum, opclass, collated)
  left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  left join pg_opclass o on o.oid = k.opclass
 where i.indisunique or i.indisexclusion group by i.indexrelid";

/// What a TRUNCATE empties, and what refers to it.
const FAMILY: &str = "
with family(oid) as (select $1::oid union select relid::oid from pg_partition_tree($1::oid::regclass)),
     referring(oid) as (select conrelid from pg_constraint
                         where contype = 'f' and confrelid in (select oid from family)
                           and conrelid not in (select oid from family) group by conrelid)
select array(select oid from family), array(select oid from referring order by oid),
       array(select oid::regclass::text from referring order by oid)";

/// Looks the relation up on the target by its name. `source_version`: that of the server from which the log came
/// (`server_version_num`).
pub(super) async fn look_up(
    client: &Client,
    planner: &Planner,
    relation: &Relation,
    source_version: u32,
) -> Result<Found, Fault> {
    let doing = |error: &tokio_postgres::Error| {
        fault(error).context(format!("looking up table {}.{} on the target", relation.schema, relation.name))
    };
    let arriving = arriving(client, planner, relation).await.map_err(|error| doing(&error))?;
    let find = "select c.oid, c.relkind::text, m.nspname::text, r.relname::text,
                       exists (select from pg_trigger t where t.tgenabled in ('A', 'R') and t.tgrelid in
                                  (with recursive tree(oid) as (
                                       select c.oid union all
                                       select i.inhrelid from tree join pg_inherits i on i.inhparent = tree.oid)
                                   select oid from tree))
                       or exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_enabled in ('A', 'R')),
                       current_setting('server_version_num')::int4
                  from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  left join pg_class r on c.relispartition and r.oid = pg_partition_root(c.oid)
                  left join pg_namespace m on m.oid = r.relnamespace
                 where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')";
    let table =
        client.query_opt(find, &[&relation.schema, &relation.name]).await.map_err(|error| doing(&error))?;
    let Some(table) = table else { return Ok(Found { table: None, arriving, refused: None }) };
    let (oid, kind): (u32, String) = (table.get(0), table.get(1));
    let columns = client.query(COLUMNS, &[&oid]).await.map_err(|error| doing(&error))?;
    let primary_key = client.query(PRIMARY_KEY, &[&oid]).await.map_err(|error| doing(&error))?;
    let unique = client.query(UNIQUE, &[&oid]).await.map_err(|error| doing(&error))?;
    let apart = client.query(APART, &[&oid]).await.map_err(|error| doing(&error))?;
    let family = client.query_one(FAMILY, &[&oid]).await.map_err(|error| doing(&error))?;
    let referring = family.get::<_, Vec<u32>>(1).into_iter().zip(family.get::<_, Vec<String>>(2));
    let target_version = table.get::<_, i32>(5).unsigned_abs();
    let takes_binary =
        |column: &TargetColumn| is_portable_between(column.column_type.oid, source_version, target_version);
    let table = TargetTable {
        oid,
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        partitioned: kind == "p",
        fires: table.get(4),
        root: table.get::<_, Option<String>>(2).zip(table.get(3)),
        columns: columns
            .iter()
            .map(column)
            .map(|found| TargetColumn { has_send: found.has_send && takes_binary(&found), ..found })
            .collect(),
        primary_key: primary_key.iter().map(|row| row.get(0)).collect(),
        unique: unique.iter().map(|row| row.get(0)).collect(),
        apart: apart.iter().map(|row| row.get(0)).collect(),
        family: family.get(0),
        referring: referring.map(|(oid, name)| Referring { oid, name }).collect(),
    };
    Ok(Found { table: Some(table), arriving, refused: None })
}

/// The types of the relation's columns. A user's type is named by the log; of a domain it gives the base type.
pub(super) async fn arriving(
    client: &Client,
    planner: &Planner,
    relation: &Relation,
) -> Result<Vec<Option<ColumnType>>, tokio_postgres::Error> {
    let columns = &relation.columns;
    let oids: Vec<u32> = columns.iter().map(|column| column.type_oid).collect();
    let modifiers: Vec<i32> = columns.iter().map(|column| column.type_modifier).collect();
    let named: Vec<Option<(&str, &str)>> =
        oids.iter().map(|oid| if *oid < FIRST_NAMED_TYPE { None } else { planner.type_name(*oid) }).collect();
    let schemas: Vec<Option<&str>> = named.iter().map(|named| named.map(|(schema, _)| schema)).collect();
    let names: Vec<Option<&str>> = named.iter().map(|named| named.map(|(_, name)| name)).collect();
    let rows = client.query(ARRIVING, &[&oids, &modifiers, &schemas, &names]).await?;
    let types = rows.iter().zip(columns).zip(named).map(|((row, column), named)| {
        let is_told = named.is_some() || (1..FIRST_NAMED_TYPE).contains(&column.type_oid);
        let (oid, kind): (Option<u32>, Option<String>) = (row.get(0), row.get(3));
        is_told.then(|| ColumnType {
            oid: oid.unwrap_or(0),
            element: row.get(1),
            modifier: column.type_modifier,
            kind: match named {
                Some(("pg_catalog", _)) => TypeKind::Domain,
                _ if row.get::<_, Option<bool>>(4) == Some(true) => TypeKind::Domain,
                _ if kind.as_deref() == Some("e") => TypeKind::Enum,
                _ => TypeKind::Other,
            },
            name: named.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            sql: row.get::<_, Option<String>>(2).filter(|_| oid.is_some()).unwrap_or_else(|| {
                named.map_or_else(
                    || format!("of OID {}", column.type_oid),
                    |(schema, name)| format!("{}.{}", quote_ident(schema), quote_ident(name)),
                )
            }),
        })
    });
    Ok(types.collect())
}

/// Types of users and extensions begin here (transam.h, `FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16384;

fn column(row: &tokio_postgres::Row) -> TargetColumn {
    let (generated, identity): (String, String) = (row.get(1), row.get(2));
    let (type_oid, kind, deterministic): (u32, String, bool) = (row.get(3), row.get(4), row.get(5));
    let operator_schema: Option<String> = row.get(6);
    TargetColumn {
        name: row.get(0),
        type_name: row.get(7),
        castable: row.get(16),
        has_send: row.get(17),
        declared_oid: row.get(18),
        column_type: ColumnType {
            oid: type_oid,
            element: row.get(11),
            modifier: row.get(9),
            kind: match (row.get::<_, bool>(14), row.get::<_, &str>(13), row.get::<_, &str>(12)) {
                (true, ..) => TypeKind::Domain,
                (_, "e", _) => TypeKind::Enum,
                // Built-in ones pad or cut (char, name), or are known by their OIDs.
                (_, _, "S") if type_oid >= FIRST_NORMAL_OID => TypeKind::TextLike,
                _ => TypeKind::Other,
            },
            name: row.get(10),
            sql: row.get(8),
        },
        must_be_given: row.get(15),
        generated: if generated.is_empty() { Generated::No } else { Generated::Yes },
        identity: match identity.as_str() {
            "a" => Identity::Always,
            "d" => Identity::ByDefault,
            _ => Identity::No,
        },
        equality: Equality {
            operator_schema: operator_schema.filter(|schema| schema != "pg_catalog"),
            exact: deterministic && (kind == "e" || EXACT.contains(&type_oid)),
            record: kind == "c",
        },
    }
}
