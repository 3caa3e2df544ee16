//! DDL capture on the source: event triggers that write each command into WAL as a logical message, at its place between the
//! rows of its transaction. Opt-in, and besides slot and publication the only thing of ours there. `capture.sql` has the functions.

use tokio_postgres::Client;

use super::answer::fault;
use crate::model::Fault;

const FUNCTIONS: &str = include_str!("capture.sql");
/// The events, which name the triggers too, and their filters. Commands that write rows themselves are told of before they do.
const EVENTS: [(&str, &str); 4] = [
    ("ddl_command_start", "WHEN TAG IN ('CREATE TABLE AS', 'SELECT INTO')"),
    ("ddl_command_end", ""),
    ("sql_drop", ""),
    ("table_rewrite", ""),
];

/// Whether the schema is a superuser's, and nobody else may create in it.
const SCHEMA: &str = "SELECT owner.rolsuper AND NOT EXISTS (
           SELECT FROM aclexplode(n.nspacl) g LEFT JOIN pg_roles r ON r.oid = g.grantee
            WHERE g.privilege_type = 'CREATE' AND r.rolsuper IS NOT TRUE)
      FROM pg_namespace n JOIN pg_roles owner ON owner.oid = n.nspowner WHERE n.nspname = 'pgsluice'";

/// Why the role may not; nothing is left of the attempt.
pub async fn denied(client: &Client) -> Result<Option<Fault>, Fault> {
    let script = match script(client).await {
        Ok(script) => format!("BEGIN; {script}"),
        Err(fault) => return Ok(Some(fault)),
    };
    let tried = client.batch_execute(&script).await;
    client.batch_execute("ROLLBACK").await.map_err(|e| fault("taking DDL capture back", &e))?;
    Ok(tried.err().map(|e| fault("creating event triggers", &e)))
}

/// Makes what is missing; false where all was there.
pub async fn install(client: &Client) -> Result<bool, Fault> {
    let missing = triggers(client).await?.len() < EVENTS.len();
    let script = script(client).await?;
    client.batch_execute(&script).await.map_err(|e| fault("creating event triggers", &e))?;
    Ok(missing)
}

/// What makes or renews it.
async fn script(client: &Client) -> Result<String, Fault> {
    let present = triggers(client).await?;
    let schema = client.query_opt(SCHEMA, &[]).await.map_err(|e| fault("looking for schema pgsluice", &e))?;
    let mut script = match schema {
        None => "CREATE SCHEMA pgsluice;".to_owned(),
        Some(row) if row.get(0) => String::new(),
        Some(_) => {
            return Err(Fault::stop(
                "others than superusers may create functions in schema pgsluice of the source, or drop its functions: they could \
                 put their own in place of those that run as a superuser",
            )
            .hint("ALTER SCHEMA pgsluice OWNER TO CURRENT_USER; REVOKE CREATE ON SCHEMA pgsluice FROM …"));
        }
    };
    script += FUNCTIONS;
    for (event, filter) in EVENTS {
        let name = format!("pgsluice_{event}");
        if !present.contains(&name) {
            // ALWAYS: what another applier does in the replica role counts too.
            script += &format!(
                "CREATE EVENT TRIGGER {name} ON {event} {filter} EXECUTE FUNCTION pgsluice.capture_ddl();
                 ALTER EVENT TRIGGER {name} ENABLE ALWAYS;"
            );
        }
    }
    Ok(script)
}

async fn triggers(client: &Client) -> Result<Vec<String>, Fault> {
    let query = "SELECT evtname::text FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid
                   JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE n.nspname = 'pgsluice' AND p.proname = 'capture_ddl'";
    let rows = client.query(query, &[]).await.map_err(|e| fault("looking for event triggers", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What became of the capture at cleanup.
#[derive(Debug, PartialEq, Eq)]
pub enum Dropped {
    Absent,
    Dropped,
    /// These slots of the database may want it.
    Kept(Vec<String>),
}

/// Drops it, unless other slots of the database are there.
pub async fn drop(client: &Client) -> Result<Dropped, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("dropping DDL capture", e);
    let present = triggers(client).await?;
    if present.is_empty() {
        return Ok(Dropped::Absent);
    }
    let others = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()";
    let others = client.query(others, &[]).await.map_err(|e| doing(&e))?;
    if !others.is_empty() {
        return Ok(Dropped::Kept(others.iter().map(|row| row.get(0)).collect()));
    }
    let mut script = String::new();
    for name in present {
        script += &format!("DROP EVENT TRIGGER {};", super::quote_ident(&name));
    }
    script += "DROP FUNCTION IF EXISTS pgsluice.capture_ddl(), pgsluice.write_ddl(text, text, boolean, text, jsonb, boolean);";
    client.batch_execute(&script).await.map_err(|e| doing(&e))?;
    // A source that is a target too keeps its progress there.
    let used = "SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass
                                 AND refobjid = 'pgsluice'::regnamespace)";
    if !client.query_one(used, &[]).await.map_err(|e| doing(&e))?.get::<_, bool>(0) {
        client.batch_execute("DROP SCHEMA pgsluice").await.map_err(|e| doing(&e))?;
    }
    Ok(Dropped::Dropped)
}
