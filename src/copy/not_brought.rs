//! What a dump of one database does not bring, or the target needs beforehand: told to the user, each with what to do.

use tokio_postgres::Client;

use crate::model::{Fault, quote_ident};
use crate::pg::control;

/// Lines for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotBrought {
    /// What the target lacks and the schema names: SQL where that makes it.
    pub lacking: Vec<String>,
    /// What stays behind, or is otherwise there than one may think.
    pub left: Vec<String>,
}

/// Roles that own something, or have or gave privileges. Those of the system itself are pinned, and so are not among what depends; therefore the
/// owners of relations, schemas and functions beside them.
const ROLES: &str = "
SELECT DISTINCT r.rolname::text, r.rolcanlogin, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolreplication
  FROM pg_roles r
 WHERE r.rolname !~ '^pg_' AND r.oid IN (
       SELECT refobjid FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass
          AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       UNION SELECT relowner FROM pg_class WHERE oid >= 16384
       UNION SELECT nspowner FROM pg_namespace WHERE oid >= 16384
       UNION SELECT proowner FROM pg_proc WHERE oid >= 16384)
 ORDER BY 1";

const TABLESPACES: &str = "
SELECT t.spcname::text FROM pg_tablespace t
 WHERE t.oid IN (SELECT reltablespace FROM pg_class) AND t.spcname !~ '^pg_' ORDER BY 1";

/// Each gives lines of text.
const LEFT: [&str; 7] = [
    "SELECT 'setting of the database: ALTER DATABASE ' || quote_ident(current_database()) || ' SET ' || split_part(s, '=', 1)
       FROM pg_db_role_setting, unnest(setconfig) s
      WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "SELECT 'setting of role ' || r.rolname || ' in this database: ' || split_part(s, '=', 1)
       FROM pg_db_role_setting, unnest(setconfig) s, pg_roles r
      WHERE r.oid = setrole AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "SELECT 'publication ' || pubname FROM pg_publication
      WHERE pubname NOT IN (SELECT slot_name FROM pg_replication_slots WHERE database = current_database())",
    "SELECT 'subscription ' || subname FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "SELECT 'user mapping of ' || usename || ' for server ' || srvname || ': its options can''t be read'
       FROM pg_user_mappings WHERE umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
    "SELECT 'rows of unlogged table ' || c.oid::regclass || ': their changes are not in the WAL'
       FROM pg_class c WHERE c.relkind = 'r' AND c.relpersistence = 'u'",
    "SELECT 'materialized view ' || c.oid::regclass || ' is refreshed at the end, and not later'
       FROM pg_class c WHERE c.relkind = 'm' AND c.relispopulated",
];

/// How many large objects the source has, where it has any.
pub async fn large_objects_left(source: &Client) -> Result<Option<String>, Fault> {
    let query = "SELECT count(*) || ' large objects' FROM pg_largeobject_metadata HAVING count(*) > 0";
    let row = source.query_opt(query, &[]).await.map_err(|e| control::fault(&e).context("source"))?;
    Ok(row.map(|row| row.get(0)))
}

/// What of the source's database the target lacks, and what is not brought there, large objects aside.
pub async fn not_brought(source: &Client, target: &Client) -> Result<NotBrought, Fault> {
    let at = |side| move |e: tokio_postgres::Error| control::fault(&e).context(side);
    let names = async |query: &str| -> Result<Vec<String>, Fault> {
        let rows = target.query(query, &[]).await.map_err(at("target"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let mut found = NotBrought::default();
    let there = names("SELECT rolname::text FROM pg_roles").await?;
    for row in source.query(ROLES, &[]).await.map_err(at("source"))? {
        let name: String = row.get(0);
        if there.contains(&name) {
            continue;
        }
        let words = ["LOGIN", "SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION"];
        let options: Vec<&str> = words
            .iter()
            .enumerate()
            .filter(|(at, _)| row.get::<_, bool>(at + 1))
            .map(|(_, word)| *word)
            .collect();
        found
            .lacking
            .push(format!("CREATE ROLE {} {}", quote_ident(&name), options.join(" ")).trim_end().into());
    }
    let there = names("SELECT spcname::text FROM pg_tablespace").await?;
    for row in source.query(TABLESPACES, &[]).await.map_err(at("source"))? {
        let name: String = row.get(0);
        if !there.contains(&name) {
            found.lacking.push(format!("CREATE TABLESPACE {} LOCATION '…'", quote_ident(&name)));
        }
    }
    for query in LEFT {
        let rows = source.query(query, &[]).await.map_err(at("source"))?;
        found.left.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    Ok(found)
}
