//! The view, and how it is made to show the other table.

use tokio_postgres::Client;

use super::kept::{likeness, list, revokes};
use super::place::{Place, Standing};
use super::{OURS, Ready};
use crate::model::Fault;
use crate::pg::control::fault;

/// How long to wait in one go for those who use the view. Everybody who comes after us waits as long.
pub(in crate::apply) const LOCK_TIMEOUT: &str = "20ms";

/// Name, type, modifier and collation of a column: what CREATE OR REPLACE VIEW wants to find again.
type Column = (String, u32, i32, u32);

const COLUMNS: &str = "
SELECT attname::text, atttypid, atttypmod, attcollation FROM pg_attribute
 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// What would go with a view that is dropped.
const DEPENDENTS: &str = "
WITH of(class, oid) AS (
    SELECT 'pg_class'::regclass, $1::oid
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typrelid = $1
    UNION ALL SELECT 'pg_type'::regclass, typarray FROM pg_type WHERE typrelid = $1)
SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, 0), ', ')
  FROM of JOIN pg_depend d ON d.refclassid = of.class AND d.refobjid = of.oid
 WHERE NOT (d.classid = 'pg_type'::regclass AND d.deptype = 'i')
   AND NOT (d.classid = 'pg_rewrite'::regclass
            AND EXISTS (SELECT FROM pg_rewrite r WHERE r.oid = d.objid AND r.ev_class = $1 AND r.rulename = '_RETURN'))";

const OPTIONS: &str = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = $1";

/// How the view comes to show another table.
enum Change {
    New,
    /// It has the columns that it had, and perhaps more behind them.
    Replace(u32),
    /// It is dropped and made anew.
    Anew(u32),
}

impl Change {
    async fn of(
        client: &Client,
        standing: &Standing,
        table: u32,
        columns: &[String],
    ) -> Result<Change, Fault> {
        let Some(view) = standing.view else { return Ok(Change::New) };
        let (before, there) = (describe(client, view).await?, describe(client, table).await?);
        let after = columns.iter().filter_map(|name| there.iter().find(|column| column.0 == *name));
        let stays =
            before.len() <= columns.len() && before.iter().zip(after).all(|(one, other)| one == other);
        Ok(if stays { Change::Replace(view) } else { Change::Anew(view) })
    }
}

async fn describe(client: &Client, relation: u32) -> Result<Vec<Column>, Fault> {
    let rows = client.query(COLUMNS, &[&relation]).await.map_err(|e| fault(&e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
}

/// Refuses a change of columns that would take something of the user's away with the view.
pub(super) async fn refuse_dependents(
    client: &Client,
    place: &Place,
    standing: &Standing,
    table: u32,
    columns: &[String],
) -> Result<(), Fault> {
    let Change::Anew(view) = Change::of(client, standing, table, columns).await? else { return Ok(()) };
    let row = client.query_one(DEPENDENTS, &[&view]).await.map_err(|e| fault(&e))?;
    match row.get::<_, Option<String>>(0) {
        None => Ok(()),
        Some(dependents) => Err(depended_on(place, &dependents)),
    }
}

fn depended_on(place: &Place, dependents: &str) -> Fault {
    let name = place.name();
    Fault::stop(format!(
        "columns of {name} were dropped, retyped or reordered on the source, so that the view must be made anew, and this depends on it: {dependents}"
    ))
    .hint("the view shows the snapshot before meanwhile; drop what depends on it, run the same command again, then make that anew")
}

/// The statements that make the view show the table, for the instant before the commit.
pub(in crate::apply) async fn swap(
    client: &Client,
    place: &Place,
    ready: &Ready,
) -> Result<Vec<String>, Fault> {
    let Ready { standing, oid, columns, .. } = ready;
    let (view, table) = (place.view(), place.table(standing.hidden.0));
    let query = format!("SELECT {} FROM {table}", list(columns));
    let mut statements = vec![OURS.to_owned(), format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")];
    match Change::of(client, standing, *oid, columns).await? {
        Change::New => statements.push(format!("CREATE VIEW {view} AS {query}")),
        Change::Replace(old) => {
            let options = options(client, old).await?;
            statements.push(format!("CREATE OR REPLACE VIEW {view}{options} AS {query}"));
        }
        Change::Anew(old) => {
            let options = options(client, old).await?;
            let kept = likeness(client, old, ("VIEW", &view), columns).await?;
            let (owner, rest) = kept.split_at(1.min(kept.len()));
            statements.push(format!("DROP VIEW {view}"));
            statements.push(format!("CREATE VIEW {view}{options} AS {query}"));
            statements.extend(revokes(client, 0, &place.noted.schema, &view).await?);
            statements.extend(owner.iter().chain(rest).cloned());
        }
    }
    Ok(statements)
}

/// Those of the view that is there, which would be lost otherwise.
async fn options(client: &Client, view: u32) -> Result<String, Fault> {
    let row = client.query_one(OPTIONS, &[&view]).await.map_err(|e| fault(&e))?;
    Ok(row.get::<_, Option<&str>>(0).map(|options| format!(" WITH ({options})")).unwrap_or_default())
}
