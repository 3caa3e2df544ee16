//! The publication: which tables the slot's changes come from.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::answer::fault;
use super::quote_ident;
use super::tables::quoted_name;
use crate::model::Fault;

/// What a publication publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// FOR ALL TABLES, future ones too.
    Everything,
    /// Schema and name of each.
    Tables(BTreeSet<(String, String)>),
}

#[derive(Clone, Debug)]
pub struct Publication {
    pub published: Published,
    /// INSERT, UPDATE, DELETE and TRUNCATE are all published.
    pub whole: bool,
    /// `publish_via_partition_root`: changes come under the root's name, and a leaf's TRUNCATE does not come at all.
    pub via_root: bool,
    /// The role may alter it.
    pub owned: bool,
}

pub async fn read(client: &Client, name: &str) -> Result<Option<Publication>, Fault> {
    let doing = format!("reading publication \"{name}\"");
    let query = "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot,
                        pg_has_role(pubowner, 'USAGE')
                   FROM pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(query, &[&name]).await.map_err(|e| fault(&doing, &e))? else {
        return Ok(None);
    };
    let published = if row.get(0) {
        Published::Everything
    } else {
        let query = "SELECT n.nspname::text, c.relname::text
                       FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
                       JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE p.pubname = $1";
        let rows = client.query(query, &[&name]).await.map_err(|e| fault(&doing, &e))?;
        Published::Tables(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    Ok(Some(Publication { published, whole: row.get(1), via_root: row.get(2), owned: row.get(3) }))
}

fn list(tables: &BTreeSet<(String, String)>) -> String {
    let names: Vec<_> = tables.iter().map(|(schema, name)| quoted_name(schema, name)).collect();
    names.join(", ")
}

/// Creates it. Must be committed before the slot is made, since the slot reads publications as they were at each LSN.
pub async fn create(client: &Client, name: &str, published: &Published) -> Result<(), Fault> {
    let what = match published {
        Published::Everything => "ALL TABLES".to_owned(),
        Published::Tables(tables) => format!("TABLE {}", list(tables)),
    };
    client
        .batch_execute(&format!("CREATE PUBLICATION {} FOR {what}", quote_ident(name)))
        .await
        .map_err(|e| fault(&format!("creating publication \"{name}\""), &e))
}

/// Gives a publication of named tables another list.
pub async fn set_tables(
    client: &Client,
    name: &str,
    tables: &BTreeSet<(String, String)>,
) -> Result<(), Fault> {
    client
        .batch_execute(&format!("ALTER PUBLICATION {} SET TABLE {}", quote_ident(name), list(tables)))
        .await
        .map_err(|e| fault(&format!("altering publication \"{name}\""), &e))
}

/// Drops it; false where there was none.
pub async fn drop(client: &Client, name: &str) -> Result<bool, Fault> {
    if read(client, name).await?.is_none() {
        return Ok(false);
    }
    client
        .batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name)))
        .await
        .map_err(|e| fault(&format!("dropping publication \"{name}\""), &e))?;
    Ok(true)
}
