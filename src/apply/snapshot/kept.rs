//! What users have made on a view or table of ours: owner, grants, comments, indexes and constraints. It is kept.

use tokio_postgres::Client;

use super::run;
use crate::model::{Fault, quote_ident};
use crate::pg::control::fault;

/// Statements that give a relation of this kind (`VIEW`, `TABLE`) and quoted name the owner, grants and comments of that with the OID,
/// for these columns.
const LIKENESS: &str = "
WITH model AS (SELECT * FROM pg_class WHERE oid = $1),
     columns AS (SELECT * FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND attname = ANY ($4::text[])),
     one AS (SELECT format('ALTER %s %s OWNER TO %I', $3::text, $2::text, pg_get_userbyid(relowner)), 1 FROM model
             UNION ALL
             SELECT format('GRANT %s ON %s TO %s%s', string_agg(privilege_type, ', ' ORDER BY privilege_type), $2::text,
                           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), 2
               FROM model, aclexplode(coalesce(relacl, acldefault('r', relowner))) GROUP BY grantee, is_grantable
             UNION ALL
             SELECT format('GRANT %s (%I) ON %s TO %s%s', privilege_type, attname, $2::text,
                           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), 3
               FROM columns, aclexplode(attacl)
             UNION ALL
             SELECT format('COMMENT ON %s %s IS %L', $3::text, $2::text, obj_description($1, 'pg_class')), 4
              WHERE obj_description($1, 'pg_class') IS NOT NULL
             UNION ALL
             SELECT format('COMMENT ON COLUMN %s.%I IS %L', $2::text, attname, col_description($1, attnum)), 5
               FROM columns WHERE col_description($1, attnum) IS NOT NULL)
SELECT * FROM one AS o(statement, place) ORDER BY place, statement";

/// Statements that take from everybody what grants a relation has, or will have as one that is new: `$1` is its OID, or 0; `$2` its
/// quoted name, `$3` its schema.
const REVOKES: &str = "
SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', $2::text,
                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
  FROM (SELECT (aclexplode(coalesce(relacl, acldefault('r', relowner)))).grantee FROM pg_class WHERE oid = $1
        UNION ALL
        SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user AND $1 = 0::oid
        UNION ALL
        SELECT (aclexplode(d.defaclacl)).grantee FROM pg_default_acl d
         WHERE $1 = 0::oid AND d.defaclobjtype = 'r' AND pg_get_userbyid(d.defaclrole) = current_user
           AND (d.defaclnamespace = 0 OR d.defaclnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $3))) g
 ORDER BY 1";

/// Indexes and constraints that one table has and the other has not, as what follows `ALTER TABLE … ADD` or `CREATE … ON …`. Those that
/// are invalid are still being made, or will never be.
const MISSING: &str = "
WITH items AS (
    SELECT c.conrelid AS relation, NULL AS kind, pg_get_constraintdef(c.oid) AS definition FROM pg_constraint c
     WHERE c.conrelid IN ($1, $2) AND c.contype IN ('p', 'u', 'x', 'c')
    UNION ALL
    SELECT i.indrelid, CASE WHEN i.indisunique THEN 'UNIQUE INDEX' ELSE 'INDEX' END,
           substr(pg_get_indexdef(i.indexrelid),
                  length(format('CREATE %sINDEX %I ON %I.%I ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
                                x.relname, n.nspname, t.relname)) + 1)
      FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
      JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
     WHERE i.indrelid IN ($1, $2) AND i.indisvalid
       AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x')))
SELECT kind, definition FROM items WHERE relation = $1
EXCEPT SELECT kind, definition FROM items WHERE relation = $2
ORDER BY 1 NULLS FIRST, 2";

/// What tables can have that is not brought from one to the other.
const NOT_BROUGHT: &str = "
SELECT string_agg(what, ', ' ORDER BY what) FROM (
    SELECT 'trigger ' || tgname AS what FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
    UNION ALL SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = $1
    UNION ALL SELECT 'foreign key ' || conname FROM pg_constraint WHERE conrelid = $1 AND contype = 'f'
    EXCEPT (
    SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = $2 AND NOT tgisinternal
    UNION ALL SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = $2
    UNION ALL SELECT 'foreign key ' || conname FROM pg_constraint WHERE conrelid = $2 AND contype = 'f')) w";

/// What a relation of this kind and quoted name has to be told, to have owner, grants and comments of another.
pub(super) async fn likeness(
    client: &Client,
    model: u32,
    (kind, name): (&str, &str),
    columns: &[String],
) -> Result<Vec<String>, Fault> {
    let rows = client.query(LIKENESS, &[&model, &name, &kind, &columns]).await.map_err(|e| fault(&e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What takes all grants from a relation of this OID, schema and quoted name; from one that is new where the OID is 0.
pub(super) async fn revokes(
    client: &Client,
    oid: u32,
    schema: &str,
    name: &str,
) -> Result<Vec<String>, Fault> {
    let rows = client.query(REVOKES, &[&oid, &name, &schema]).await.map_err(|e| fault(&e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Gives a table owner, grants and comments of the other one, where they differ.
pub(super) async fn bring(
    client: &Client,
    model: u32,
    table: u32,
    (schema, name): (&str, &str),
    columns: &[String],
) -> Result<(), Fault> {
    let wanted = likeness(client, model, ("TABLE", name), columns).await?;
    if wanted == likeness(client, table, ("TABLE", name), columns).await? {
        return Ok(());
    }
    let (owner, rest) = wanted.split_at(1.min(wanted.len()));
    let revokes = revokes(client, table, schema, name).await?;
    let statements: Vec<_> = owner.iter().chain(&revokes).chain(rest).map(String::as_str).collect();
    run(client, &statements.join(";")).await
}

/// Makes the indexes and constraints that a table lacks. What it can't have any more, since columns are gone or of other types, is told.
pub(super) async fn complete(client: &Client, model: u32, table: u32, name: &str) -> Result<(), Fault> {
    for row in client.query(MISSING, &[&model, &table]).await.map_err(|e| fault(&e))? {
        let (kind, definition): (Option<&str>, &str) = (row.get(0), row.get(1));
        let statement = match kind {
            Some(kind) => format!("CREATE {kind} ON {name} {definition}"),
            None => format!("ALTER TABLE {name} ADD {definition}"),
        };
        match attempt(client, &statement).await? {
            Ok(()) => tracing::info!(statement, "made as it is on the other table of the view"),
            Err(refused) => {
                tracing::warn!(statement, error = %refused, "not brought over from the other table of the view");
            }
        }
    }
    let row = client.query_one(NOT_BROUGHT, &[&model, &table]).await.map_err(|e| fault(&e))?;
    if let Some(what) = row.get::<_, Option<&str>>(0) {
        tracing::warn!(
            table = name,
            what,
            "the other table of the view has what this one lacks: make it there too"
        );
    }
    Ok(())
}

/// Runs a statement that may not fit the table as it is now; gives why it does not. Other faults are the outer ones.
pub(super) async fn attempt(client: &Client, statement: &str) -> Result<Result<(), Fault>, Fault> {
    run(client, "SAVEPOINT pgsluice_attempt").await?;
    match run(client, statement).await {
        Ok(()) => run(client, "RELEASE SAVEPOINT pgsluice_attempt").await.map(Ok),
        // Undefined columns, functions and operators, types without an operator class, columns that something depends on.
        Err(refused) if refused.sqlstate.as_deref().is_some_and(is_misfit) => {
            run(client, "ROLLBACK TO SAVEPOINT pgsluice_attempt; RELEASE SAVEPOINT pgsluice_attempt").await?;
            Ok(Err(refused))
        }
        Err(other) => Err(other.context(statement)),
    }
}

fn is_misfit(sqlstate: &str) -> bool {
    sqlstate.starts_with("42") && sqlstate != "42501" || sqlstate == "0A000"
}

/// Names, quoted and with commas between.
pub(super) fn list(names: &[String]) -> String {
    names.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ")
}
