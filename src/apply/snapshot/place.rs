//! Where a snapshot goes on the target, and what is there.

use tokio_postgres::Client;

use super::names::tables_of;
use super::qualified;
use crate::model::Fault;
use crate::pg::control::fault;
use crate::pg::snapshots::{self, Noted};

/// A view, and the tables behind it.
#[derive(Clone, Debug)]
pub(in crate::apply) struct Place {
    pub(super) noted: Noted,
    pub(super) tables: [String; 2],
}

impl Place {
    pub(in crate::apply) fn new(stream: &str, source_table: u32, schema: String, name: String) -> Place {
        let tables = tables_of(&name);
        Place { noted: Noted { schema, name, stream: stream.to_owned(), source_table }, tables }
    }

    /// The view, quoted.
    pub(in crate::apply) fn view(&self) -> String {
        qualified(&self.noted.schema, &self.noted.name)
    }

    /// One of the tables, quoted.
    pub(super) fn table(&self, at: usize) -> String {
        qualified(&self.noted.schema, self.table_name(at))
    }

    pub(super) fn table_name(&self, at: usize) -> &str {
        self.tables.get(at).map_or("", String::as_str)
    }

    /// For people.
    pub(in crate::apply) fn name(&self) -> String {
        format!("{}.{}", self.noted.schema, self.noted.name)
    }
}

/// What the target has in that place.
#[derive(Clone, Copy, Debug)]
pub(in crate::apply) struct Standing {
    pub(super) has_schema: bool,
    /// OIDs of the view, and of the table that it shows with its number.
    pub(super) view: Option<u32>,
    pub(super) shown: Option<(usize, u32)>,
    /// Number of the table that it does not show, and its OID where it is there.
    pub(super) hidden: (usize, Option<u32>),
}

/// A relation of some name.
#[derive(Clone, Copy)]
struct There {
    oid: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    View,
    Table,
    Other,
}

const LOOK: &str = "
SELECT n.oid IS NOT NULL, v.oid, v.relkind::text, a.oid, a.relkind::text, b.oid, b.relkind::text,
       array(SELECT DISTINCT d.refobjid FROM pg_rewrite r
               JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
              WHERE r.ev_class = v.oid AND r.rulename = '_RETURN')
  FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1
  LEFT JOIN pg_class v ON v.relnamespace = n.oid AND v.relname = $2
  LEFT JOIN pg_class a ON a.relnamespace = n.oid AND a.relname = $3
  LEFT JOIN pg_class b ON b.relnamespace = n.oid AND b.relname = $4";

impl Standing {
    /// Looks, and refuses what is not ours.
    pub(super) async fn look(client: &Client, place: &Place) -> Result<Standing, Fault> {
        let Noted { schema, name, stream, source_table } = &place.noted;
        let noted = snapshots::read(client, (schema, name), (stream, *source_table)).await?;
        let own = noted.iter().find(|noted| (&noted.schema, &noted.name) == (schema, name));
        if let Some(own) = own.filter(|own| own.stream != *stream) {
            return Err(Fault::stop(format!(
                "view {} of the target shows snapshots of stream {}",
                place.name(),
                own.stream
            ))
            .hint("two streams can't fill one view: rename the table in one of them by --rules"));
        }
        for other in noted.iter().filter(|noted| (&noted.schema, &noted.name) != (schema, name)) {
            let (view, before) = (place.name(), format!("{}.{}", other.schema, other.name));
            tracing::warn!(view, before, "the table was called otherwise before: that view stays as it is");
        }
        let [first, second] = &place.tables;
        let row = client.query_one(LOOK, &[schema, name, first, second]).await.map_err(|e| fault(&e))?;
        let there = |at: usize| {
            let kind = |kind: &str| match kind {
                "v" => Kind::View,
                "r" => Kind::Table,
                _ => Kind::Other,
            };
            let oid = row.get::<_, Option<u32>>(at);
            oid.map(|oid| There { oid, kind: kind(row.get::<_, Option<&str>>(at + 1).unwrap_or_default()) })
        };
        let (view, tables) = (there(1), [there(3), there(5)]);
        place.refuse_others(view, tables, own.is_some())?;
        let (has_schema, shows): (bool, Vec<u32>) = (row.get(0), row.get(7));
        let place_of = |oid: u32| tables.iter().position(|table| table.is_some_and(|table| table.oid == oid));
        let shown = match (view, shows.as_slice()) {
            (None, _) => None,
            (Some(_), &[oid]) if place_of(oid).is_some() => place_of(oid).map(|at| (at, oid)),
            (Some(_), _) => {
                let message = format!(
                    "view {} of the target was changed: it shows something else than {first} or {second}",
                    place.name()
                );
                return Err(Fault::stop(message)
                    .hint(format!("drop it, and the next run makes it anew: DROP VIEW {};", place.view())));
            }
        };
        let at = shown.map_or(0, |(at, _)| 1 - at.min(1));
        let hidden = (at, tables.get(at).copied().flatten().map(|table| table.oid));
        Ok(Standing { has_schema, view: view.map(|view| view.oid), shown, hidden })
    }
}

impl Place {
    fn refuse_others(
        &self,
        view: Option<There>,
        tables: [Option<There>; 2],
        is_ours: bool,
    ) -> Result<(), Fault> {
        let again = "then run the same command again; or give the table another name by --rules";
        let name = self.name();
        match view.map(|view| view.kind) {
            Some(Kind::Table) => {
                return Err(Fault::stop(format!(
                    "the target has an ordinary table {name}, where the view of a snapshot is to be"
                ))
                .hint(format!("rename or drop it: ALTER TABLE {} RENAME TO …; {again}", self.view())));
            }
            Some(Kind::Other) => {
                return Err(Fault::stop(format!(
                    "the target has {name}, which is no view, where the view of a snapshot is to be"
                ))
                .hint(format!("rename or drop it, {again}")));
            }
            Some(Kind::View) if !is_ours => {
                return Err(Fault::stop(format!(
                    "the target has a view {name} that pgsluice did not make, where that of a snapshot is to be"
                ))
                .hint(format!("rename or drop it: ALTER VIEW {} RENAME TO …; {again}", self.view())));
            }
            Some(Kind::View) | None => {}
        }
        for (table, name) in tables.iter().zip(&self.tables) {
            if let Some(table) = table.filter(|table| !is_ours || table.kind != Kind::Table) {
                let kind = if table.kind == Kind::Table { "a table" } else { "something" };
                let message = format!(
                    "the target has {kind} {}.{name} that pgsluice did not make, and needs the name for snapshots",
                    self.noted.schema
                );
                return Err(Fault::stop(message).hint(format!("rename or drop it, {again}")));
            }
        }
        Ok(())
    }
}

/// Who uses a relation.
#[derive(Clone, Debug, Default)]
pub(in crate::apply) struct Users {
    /// Processes of the target, those whose transactions are oldest first.
    pub(in crate::apply) pids: String,
    /// One of them waits for us in turn.
    pub(in crate::apply) wait_for_us: bool,
}

/// Who has locks on a relation of that quoted name, beside us.
pub(in crate::apply) async fn users(client: &Client, name: &str, ours: &str) -> Result<Users, Fault> {
    let query = "SELECT coalesce(string_agg(u.pid::text, ', '), ''), coalesce(bool_or(u.waits), false)
                   FROM (SELECT DISTINCT a.xact_start, l.pid, $2::text::int4 = ANY (pg_blocking_pids(l.pid)) AS waits
                           FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                           LEFT JOIN pg_stat_activity a ON a.pid = l.pid
                          WHERE d.datname = current_database() AND l.relation = to_regclass($1) AND l.granted
                            AND l.pid <> $2::text::int4
                          ORDER BY a.xact_start) u";
    let row = client.query_one(query, &[&name, &ours]).await.map_err(|e| fault(&e))?;
    Ok(Users { pids: row.get(0), wait_for_us: row.get(1) })
}
