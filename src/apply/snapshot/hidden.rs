//! The table that the view does not show: made ready for the rows of the next snapshot, and for being shown.

use tokio_postgres::Client;

use super::kept::{attempt, bring, complete, list};
use super::place::{Place, Standing};
use super::{ITS_OWN, LOCK_NOT_AVAILABLE, OURS, run, view};
use crate::model::{Fault, quote_ident};
use crate::pg::control::fault;
use crate::pg::snapshots::{self, Shown};

/// How long to wait in one go for those who still use the table. Nobody comes after us there. Longer than the deadlock_timeout after which an
/// autovacuum makes room.
const LOCK_TIMEOUT: &str = "2s";

const COLUMNS: &str = "
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// The table, locked and empty, with the columns of the snapshot.
#[derive(Clone, Debug)]
pub(in crate::apply) struct Ready {
    pub(super) standing: Standing,
    pub(super) oid: u32,
    /// The snapshot's, in its order.
    pub(super) columns: Vec<String>,
    /// Takes the rows.
    pub(in crate::apply) copy: String,
}

/// Locks and empties the table, or makes it, and gives it these columns (name and type); none where somebody still uses it, whose name
/// is then given. To be run at the beginning of the transaction.
pub(in crate::apply) async fn prepare(
    client: &Client,
    place: &Place,
    columns: &[(String, String)],
) -> Result<Result<Ready, String>, Fault> {
    run(client, OURS).await?;
    let standing = Standing::look(client, place).await?;
    let (at, oid) = standing.hidden;
    let table = place.table(at);
    if !standing.has_schema {
        run(client, &format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident(&place.noted.schema))).await?;
    }
    let oid = match oid {
        Some(oid) => {
            let lock = format!(
                "SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SET LOCAL lock_timeout TO DEFAULT; \
                 TRUNCATE {table}"
            );
            match run(client, &lock).await {
                Err(fault) if fault.sqlstate.as_deref() == Some(LOCK_NOT_AVAILABLE) => return Ok(Err(table)),
                locked => locked?,
            }
            oid
        }
        None => {
            let like = standing.shown.map(|(shown, _)| {
                let shown = place.table(shown);
                // These are made once the rows are there.
                format!("LIKE {shown} INCLUDING ALL EXCLUDING INDEXES EXCLUDING CONSTRAINTS")
            });
            run(client, &format!("CREATE TABLE {table} ({})", like.unwrap_or_default())).await?;
            let made = client.query_one("SELECT to_regclass($1)::oid", &[&table]).await;
            made.map_err(|e| fault(&e))?.get(0)
        }
    };
    fit(client, &table, oid, columns).await?;
    let columns: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
    view::refuse_dependents(client, place, &standing, oid, &columns).await?;
    // A COPY with FREEZE must find it emptied just before.
    run(client, &format!("TRUNCATE {table}; {ITS_OWN}")).await?;
    let copy = format!("COPY {table} ({}) FROM STDIN WITH (FREEZE true)", list(&columns));
    Ok(Ok(Ready { standing, oid, columns, copy }))
}

/// Gives an empty table these columns, and no others.
async fn fit(client: &Client, table: &str, oid: u32, columns: &[(String, String)]) -> Result<(), Fault> {
    let rows = client.query(COLUMNS, &[&oid]).await.map_err(|e| fault(&e))?;
    let there: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wanted = |name: &str| columns.iter().find(|(wanted, _)| wanted == name).map(|(_, of)| of);
    for (name, of) in &there {
        let column = quote_ident(name);
        let drop = format!("ALTER TABLE {table} DROP COLUMN {column}");
        match wanted(name) {
            None => run(client, &drop).await.map_err(|fault| needed(fault, table))?,
            Some(wanted) if wanted == of => {}
            Some(wanted) => {
                let retype = format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {wanted} USING NULL");
                if let Err(refused) = attempt(client, &retype).await? {
                    let anew = format!("{drop}; ALTER TABLE {table} ADD COLUMN {column} {wanted}");
                    run(client, &anew).await.map_err(|fault| needed(fault, table))?;
                    tracing::warn!(
                        table, column, error = %refused,
                        "the column is another one now; what was made with it, such as indexes, is gone"
                    );
                }
            }
        }
    }
    for (name, of) in columns.iter().filter(|(name, _)| !there.iter().any(|(there, _)| there == name)) {
        run(client, &format!("ALTER TABLE {table} ADD COLUMN {} {of}", quote_ident(name))).await?;
    }
    Ok(())
}

/// The column can't go while something uses it.
fn needed(fault: Fault, table: &str) -> Fault {
    match fault.sqlstate.as_deref() {
        Some("2BP01" | "0A000") => fault.hint(format!(
            "the column is gone, or of another type, on the source: drop what depends on {table}, or make it depend on the view instead; \
             then run the same command again"
        )),
        _ => fault,
    }
}

/// Gives the table, once it has its rows, what the shown one has: indexes and constraints, owner, grants, comments. Counts its rows for the
/// planner, and notes that the view shows it.
pub(in crate::apply) async fn finish(
    client: &Client,
    place: &Place,
    ready: &Ready,
    shown: Shown,
) -> Result<(), Fault> {
    run(client, OURS).await?;
    let (at, _) = ready.standing.hidden;
    let table = place.table(at);
    if let Some((_, model)) = ready.standing.shown {
        complete(client, model, ready.oid, &table).await?;
        bring(client, model, ready.oid, (&place.noted.schema, &table), &ready.columns).await?;
    }
    run(client, &format!("ANALYZE {table}")).await?;
    snapshots::note(client, &place.noted, place.table_name(at), shown).await?;
    run(client, ITS_OWN).await
}
