//! What a table of the target is like, from its catalog.

use tokio_postgres::Client;

use crate::model::{Fault, Relation};
use crate::pg::control::fault;
use crate::transform::{Equality, Generated, Identity, TargetColumn, TargetTable};

/// Types whose equal values have equal text, so that `=` finds exactly the row that was sent: bool, bytea, "char", name,
/// int8, int2, int4, text, oid, macaddr, inet, cidr, varchar, date, time, timestamp, timestamptz, uuid, pg_lsn.
const EXACT: &[u32] =
    &[16, 17, 18, 19, 20, 21, 23, 25, 26, 829, 869, 650, 1043, 1082, 1083, 1114, 1184, 2950, 3220];

/// Columns with the facts that decide how they are written and compared. Domains count as their base type.
const COLUMNS: &str = "
with recursive base(attnum, type, kind, next) as (
    select a.attnum, t.oid, t.typtype, t.typbasetype
      from pg_attribute a join pg_type t on t.oid = a.atttypid
     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
    union all
    select b.attnum, t.oid, t.typtype, t.typbasetype from base b join pg_type t on t.oid = b.next where b.kind = 'd')
select a.attname::text, a.attgenerated::text, a.attidentity::text, b.type, b.kind::text,
       coalesce(c.collisdeterministic, true),
       (select n.nspname::text from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
         where o.oprname = '=' and o.oprleft = b.type and o.oprright = b.type
         order by n.nspname = 'pg_catalog' desc limit 1),
       format_type(a.atttypid, null)
  from pg_attribute a join base b on b.attnum = a.attnum and b.kind <> 'd'
  left join pg_collation c on c.oid = a.attcollation
 where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
 order by a.attnum";

const PRIMARY_KEY: &str = "
select a.attname::text from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
 where i.indrelid = $1 and i.indisprimary and i.indimmediate and i.indisvalid";

/// Looks the relation up on the target by its name.
pub(super) async fn look_up(client: &Client, relation: &Relation) -> Result<TargetTable, Fault> {
    let name = format!("{}.{}", relation.schema, relation.name);
    let find = "select c.oid, c.relkind::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')";
    let table = client
        .query_opt(find, &[&relation.schema, &relation.name])
        .await
        .map_err(|error| fault(&error).context(format!("looking up table {name} on the target")))?
        .ok_or_else(|| {
            Fault::stop(format!("table {name} does not exist on the target"))
                .hint("create it there with the source's definition, or leave it out with --exclude")
        })?;
    let (oid, kind): (u32, String) = (table.get(0), table.get(1));
    let columns = client.query(COLUMNS, &[&oid]).await.map_err(|error| fault(&error))?;
    let primary_key = client.query(PRIMARY_KEY, &[&oid]).await.map_err(|error| fault(&error))?;
    Ok(TargetTable {
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        partitioned: kind == "p",
        columns: columns.iter().map(column).collect(),
        primary_key: primary_key.iter().map(|row| row.get(0)).collect(),
    })
}

fn column(row: &tokio_postgres::Row) -> TargetColumn {
    let (generated, identity): (String, String) = (row.get(1), row.get(2));
    let (type_oid, kind, deterministic): (u32, String, bool) = (row.get(3), row.get(4), row.get(5));
    let operator_schema: Option<String> = row.get(6);
    TargetColumn {
        name: row.get(0),
        type_name: row.get(7),
        generated: if generated.is_empty() { Generated::No } else { Generated::Yes },
        identity: match identity.as_str() {
            "a" => Identity::Always,
            "d" => Identity::ByDefault,
            _ => Identity::No,
        },
        equality: Equality {
            operator_schema: operator_schema.filter(|schema| schema != "pg_catalog"),
            exact: deterministic && (kind == "e" || EXACT.contains(&type_oid)),
        },
    }
}
