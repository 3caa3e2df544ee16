//! Whether two databases hold the same rows.

use super::{Cluster, Session};

const TABLES: &str = "select n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence = 'p'
      and n.nspname <> 'information_schema' and n.nspname <> 'pgsluice' and n.nspname !~ '^pg_'
    order by 1";

/// What differs, table by table; none when all user tables of both have the same names and the same rows.
/// Rows are compared as text, in any order, doubles counted.
pub fn tables_difference(source: &Cluster, target: &Cluster) -> Option<String> {
    tables_difference_in("postgres", source, target)
}

pub fn tables_difference_in(database: &str, source: &Cluster, target: &Cluster) -> Option<String> {
    let (source, target) = (source.session_of(database), target.session_of(database));
    let (expected, found) = (source.query(TABLES), target.query(TABLES));
    if expected != found {
        return Some(format!("tables differ: source {expected:?}, target {found:?}"));
    }
    let mut differences = Vec::new();
    for table in &expected {
        let (name, quoted) = (table[0].as_ref().unwrap(), table[1].as_ref().unwrap());
        let sql = format!(
            "select count(*) || ' rows, checksum ' || coalesce(md5(string_agg(row, '' order by row)), 'none')
             from (select md5(t::text) as row from {quoted} t) rows"
        );
        let (expected, found) = (source.value(&sql), target.value(&sql));
        if expected != found {
            differences.push(format!("{name}: source {expected}, target {found}"));
        }
    }
    (!differences.is_empty()).then(|| differences.join("\n"))
}

#[track_caller]
pub fn assert_tables_equal(source: &Cluster, target: &Cluster) {
    if let Some(difference) = tables_difference(source, target) {
        panic!("{difference}");
    }
}

/// Tables whose rows are compared between two databases that need not be laid out alike. Partitions are compared under
/// their root, and by themselves where the other side has them too.
const COMPARABLE: &str = "select n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname),
        c.relispartition, c.relkind = 'p',
        (select string_agg(format('t.%I', a.attname), ', ' order by a.attname) from pg_attribute a
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
   from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p') and c.relpersistence = 'p'
    and n.nspname <> 'information_schema' and n.nspname <> 'pgsluice' and n.nspname !~ '^pg_'
  order by 1";

/// How values are printed for a comparison, whatever role and database say.
const PLAIN: &str = "set datestyle = iso; set intervalstyle = postgres; set timezone = utc; set bytea_output = hex;
    set extra_float_digits = 3; set lc_monetary = 'C'; set xmlbinary = base64; set search_path = public; set row_security = off";

/// What the source's tables have that the target's don't, or the other way; the columns that the source has, by name, as text.
/// With queries, what these give instead.
pub fn difference_between(source: &Session, target: &Session, queries: &[String]) -> Option<String> {
    source.query(PLAIN);
    target.query(PLAIN);
    let encoding = |session: &Session| session.value("select getdatabaseencoding()");
    // Bytes are compared in the source's encoding, where there is one, else as they are.
    let bytes = if encoding(source) == encoding(target) { "{}" } else { "convert_to({}, 'UTF8')" };
    let mut differences = Vec::new();
    for query in queries {
        let (expected, found) = (source.query(query), target.query(query));
        if expected != found {
            differences.push(format!("{query}: source {expected:?}, target {found:?}"));
        }
    }
    if !queries.is_empty() {
        return (!differences.is_empty()).then(|| differences.join("\n"));
    }
    let there: Vec<_> = target.query(COMPARABLE).into_iter().map(|mut row| row.swap_remove(0)).collect();
    for table in source.query(COMPARABLE) {
        let text = |at: usize| table[at].clone().unwrap_or_default();
        let (name, quoted, columns) = (text(0), text(1), text(4));
        if !there.contains(&table[0]) {
            if text(2) == "f" {
                differences.push(format!("{name} is not on the target"));
            }
            continue;
        }
        let only = if text(3) == "t" { "" } else { "only " };
        let row = bytes.replace("{}", &format!("row({columns})::text"));
        let rows = format!("select md5({row}) as row from {only}{quoted} t");
        let sql = format!(
            "select count(*) || ' rows, checksum ' || coalesce(md5(string_agg(row, '' order by row)), 'none') from ({rows}) r"
        );
        let (expected, found) = (source.value(&sql), target.try_query(&sql));
        let found = match &found {
            Ok(rows) => rows[0][0].clone().unwrap_or_default(),
            Err(error) => error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string),
        };
        if expected != found {
            let sample = format!("select row({columns})::text from {only}{quoted} t order by 1 limit 10");
            let shown = |session: &Session| {
                session
                    .try_query(&sample)
                    .map_or_else(|e| e.to_string(), |rows| format!("{rows:?}").chars().take(2000).collect())
            };
            differences.push(format!(
                "{name}: source {expected}, target {found}\n  source {}\n  target {}",
                shown(source),
                shown(target)
            ));
        }
    }
    (!differences.is_empty()).then(|| differences.join("\n"))
}
