//! Whether two databases hold the same rows.

use super::Cluster;

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
