//! The queue of a trigger: which keys were touched. Its rows say only that; what a row is now is read from the table, under the same snapshot, so
//! that many changes of a row are one, and a key without a row is a row that is gone.

use super::Table;
use super::sql;
use crate::pg::tables::quoted_name;
use crate::pg::{quote_ident, quote_literal};

/// The queue's own column, which orders it.
pub(super) const ID: &str = "pgsluice_id";

fn queue_of(table: &Table) -> (&str, &str) {
    table.queue.as_ref().map_or(("", ""), |(schema, name)| (schema.as_str(), name.as_str()))
}

pub(super) fn quoted_queue(table: &Table) -> String {
    let (schema, name) = queue_of(table);
    quoted_name(schema, name)
}

/// What a person runs on the source, once: queue, function and triggers. Needs no connection.
pub fn script(table: &Table) -> String {
    let (schema, name) = queue_of(table);
    let (quoted, queue) = (table.quoted(), quoted_name(schema, name));
    // Names are cut at 63 bytes by the server, the same way each time.
    let function = quoted_name(schema, &format!("{name}_note"));
    let (each, all) = (quote_ident(&format!("{name}_each")), quote_ident(&format!("{name}_all")));
    let keys = sql::list(table.key.iter().map(String::as_str));
    let of = |row: &str| {
        let column = |name: &String| format!("{row}.{}", quote_ident(name));
        table.key.iter().map(column).collect::<Vec<_>>().join(", ")
    };
    let (old, new) = (of("OLD"), of("NEW"));
    format!(
        "-- The keys of rows of {shown} that were touched. Writers of the table need no right on the queue; who polls needs
--   GRANT SELECT ON {quoted} TO poller; GRANT SELECT, DELETE ON {queue} TO poller;
BEGIN;
CREATE TABLE {queue} AS SELECT {keys} FROM {quoted} WITH NO DATA;
ALTER TABLE {queue} ADD COLUMN {ID} bigserial PRIMARY KEY;
REVOKE ALL ON {queue} FROM PUBLIC;
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    INSERT INTO {queue} ({keys}) SELECT {keys} FROM {quoted};
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO {queue} ({keys}) VALUES ({old});
  END IF;
  IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND ROW({old}) IS DISTINCT FROM ROW({new}) THEN
    INSERT INTO {queue} ({keys}) VALUES ({new});
  END IF;
  RETURN NULL;
END $note$;
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;
CREATE TRIGGER {each} AFTER INSERT OR UPDATE OR DELETE ON {quoted} FOR EACH ROW EXECUTE PROCEDURE {function}();
CREATE TRIGGER {all} BEFORE TRUNCATE ON {quoted} FOR EACH STATEMENT EXECUTE PROCEDURE {function}();
-- Rows that a subscription or a restore writes are noted, too.
ALTER TABLE {quoted} ENABLE ALWAYS TRIGGER {each};
ALTER TABLE {quoted} ENABLE ALWAYS TRIGGER {all};
COMMIT;
",
        shown = table.shown()
    )
}

/// The ids of the oldest rows of the queue.
pub(super) fn ids(table: &Table) -> String {
    let limit = table.limit.unwrap_or(Table::QUEUE_LIMIT);
    // Qualified, or it would be ordered by the text.
    format!("SELECT q.{ID}::text FROM {} q ORDER BY q.{ID} LIMIT {limit}", quoted_queue(table))
}

/// For each key of the queue's rows up to an id: whether there is a row (`t` or null), the key, and the row's columns.
pub(super) fn copy<'n>(table: &Table, columns: impl Iterator<Item = &'n str> + Clone, last: &str) -> String {
    let key = || table.key.iter().enumerate();
    let inner = |(number, name): (usize, &String)| format!("{} AS k{number}", quote_ident(name));
    let keys: Vec<_> = key().map(inner).collect();
    let outer: Vec<_> = key().map(|(number, _)| format!("q.k{number}")).collect();
    let same: Vec<_> = key().map(|(number, _)| format!("x.k{number} = q.k{number}")).collect();
    let known: Vec<_> = key().map(|(number, _)| format!("q.k{number} IS NOT NULL")).collect();
    let read: Vec<_> = columns
        .clone()
        .enumerate()
        .map(|(number, name)| format!("{} AS c{number}", quote_ident(name)))
        .collect();
    let given: Vec<_> = columns.enumerate().map(|(number, _)| format!("x.c{number}")).collect();
    let rows = sql::Range::default().rows(table);
    format!(
        "COPY (SELECT x.is_there, {}, {} FROM (SELECT DISTINCT {} FROM {} WHERE {ID} <= {}) q
                 LEFT JOIN (SELECT true AS is_there, {}, {}{rows}) x ON {} WHERE {}) TO STDOUT",
        outer.join(", "),
        given.join(", "),
        keys.join(", "),
        quoted_queue(table),
        quote_literal(last),
        keys.join(", "),
        read.join(", "),
        same.join(" AND "),
        known.join(" AND "),
    )
}

/// Exactly those rows of the queue.
pub(super) fn delete(table: &Table, ids: &[String]) -> String {
    format!("DELETE FROM {} WHERE {ID} = ANY ('{{{}}}'::int8[])", quoted_queue(table), ids.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::Method;

    #[test]
    fn keys_are_noted_and_read_by_their_names() {
        let mut table = Table::new("public", "orders", Method::Queue);
        table.key = vec!["a".into(), "B".into()];
        table.queue = Some(("public".into(), "orders_queue".into()));
        let script = script(&table);
        assert!(script.contains(r#"VALUES (OLD."a", OLD."B")"#), "{script}");
        assert!(script.contains(r#""public"."orders_queue_note"()"#), "{script}");
        let copy = copy(&table, ["a", "B", "c"].into_iter(), "7");
        assert!(copy.contains("x.k0 = q.k0 AND x.k1 = q.k1"), "{copy}");
        assert_eq!(
            delete(&table, &["1".into(), "9".into()]),
            r#"DELETE FROM "public"."orders_queue" WHERE pgsluice_id = ANY ('{1,9}'::int8[])"#
        );
    }
}
