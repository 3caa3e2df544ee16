//! Which tables are meant, and whether they can be taken in: nothing is changed here.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::super::arguments::Names;
use super::super::reach::Side;
use super::Mode;
use super::settings::{Treatment, Treatments, by_selection, refuse_senseless};
use crate::archive::Archive;
use crate::copy::{self, Selection, Written};
use crate::model::{Fault, OutputPlugin, Position, ReplicaIdentity};
use crate::pg::joining::{self, Joining};
use crate::pg::pattern::{self, Pattern};
use crate::pg::tables::{PrimaryKey, Table};
use crate::pg::{control, publication, quote_ident};

/// Where they are looked for.
pub(super) struct Sides<'a> {
    pub(super) source: &'a Client,
    pub(super) target: &'a Client,
    pub(super) names: &'a Names,
    pub(super) archive: &'a Archive,
}

/// What is to be left to us for now. Partitioned tables are among them where they are to be published as such.
pub(super) async fn choose(
    sides: &Sides<'_>,
    all: &[Table],
    patterns: &[Pattern],
    treatments: &Treatments,
) -> Result<Vec<Joining>, Fault> {
    let chosen = pattern::choose(all, patterns, &[]);
    for pattern in patterns {
        if pattern::choose(all, std::slice::from_ref(pattern), &[]).is_empty() {
            return Err(Fault::usage(format!("the source has no logged table {pattern}")));
        }
    }
    for table in &chosen {
        refuse_senseless(treatments.of(table.oid)).map_err(|fault| fault.context(table.shown()))?;
    }
    let name = &sides.names.publication;
    let sent = publication::sent(sides.source, name).await.map_err(Side::Source.says())?;
    let (arriving, unpublished) = divide(&chosen, &sent)?;
    let mode = |table: &Table| treatments.of(table.oid).mode.unwrap_or_default();
    refuse_arriving(sides, arriving.iter().copied().filter(|table| mode(table) == Mode::OnlyChanges)).await?;
    let to_publish = pattern::names_to_publish(all, &unpublished);
    let leaves = unpublished.iter().filter(|table| !table.partitioned).copied();
    let joining: Vec<&Table> = arriving.iter().copied().chain(leaves).collect();
    let lacks_key = |table: &&&Table| mode(table) == Mode::Precise && !table.partitioned && !has_key(table);
    if let Some(table) = joining.iter().find(lacks_key) {
        return Err(Fault::usage(format!("{} has no key by which changes find their row", table.shown()))
            .hint("--mode without-primary-key (or auto) takes it by the places of its rows"));
    }
    if !to_publish.is_empty() {
        refuse_to_publish(sides, &to_publish, &unpublished).await?;
    }
    refuse_missing(sides.target, &joining).await?;
    let selected = |table: &Table| treatments.of(table.oid).selection.clone();
    let groups = by_selection(joining.iter().chain(&to_publish).map(|table| (selected(table), *table)));
    for (selection, tables) in groups {
        refuse_selection(sides, &tables, &to_publish).await?;
        let names: Vec<_> = tables.iter().map(|table| table.quoted()).collect();
        copy::check_selection(sides.archive, sides.source, sides.target, &names, &selection).await?;
    }
    let added = |table: &Table| to_publish.iter().any(|other| other.oid == table.oid);
    let roots = to_publish.iter().copied().filter(|table| table.partitioned);
    Ok(joining
        .iter()
        .copied()
        .chain(roots)
        .map(|table| noted(table, treatments.of(table.oid), added(table)))
        .collect())
}

/// What is noted of a table that is to be left to us.
fn noted(table: &Table, treatment: &Treatment, added: bool) -> Joining {
    let Selection { condition, written } = treatment.selection.clone();
    Joining {
        oid: table.oid,
        schema: table.schema.clone(),
        name: table.name.clone(),
        through: None,
        active: true,
        copies: treatment.mode != Some(Mode::OnlyChanges),
        added,
        condition,
        min_xid: match written {
            Some(Written::Xid(xid)) => Some(xid),
            Some(Written::Time(_)) | None => None,
        },
        changed_since: match written {
            Some(Written::Time(time)) => Some(time),
            Some(Written::Xid(_)) | None => None,
        },
        since: Position::ZERO,
    }
}

/// Those whose changes come already, and those that nothing comes of yet, with what is partitioned among them.
fn divide<'a>(
    chosen: &[&'a Table],
    sent: &BTreeMap<u32, Vec<u32>>,
) -> Result<(Vec<&'a Table>, Vec<&'a Table>), Fault> {
    let (mut arriving, mut unpublished) = (Vec::new(), Vec::new());
    for table in chosen.iter().copied() {
        let above = table.ancestors.iter().find(|oid| sent.contains_key(oid));
        match above {
            _ if sent.contains_key(&table.oid) => arriving.push(table),
            Some(root) if chosen.iter().any(|other| other.oid == *root) => {}
            Some(_) => {
                return Err(Fault::usage(format!(
                    "changes of {} come under the name of the partitioned table above it",
                    table.shown()
                ))
                .hint("name that table"));
            }
            None => unpublished.push(table),
        }
    }
    let leads_somewhere =
        |table: &&Table| !table.partitioned || !sent.values().any(|above| above.contains(&table.oid));
    unpublished.retain(leads_somewhere);
    Ok((arriving, unpublished))
}

fn has_key(table: &Table) -> bool {
    match table.identity {
        ReplicaIdentity::Nothing => false,
        ReplicaIdentity::Index => table.identity_index.is_some(),
        ReplicaIdentity::Default | ReplicaIdentity::Full => table.primary_key == PrimaryKey::Immediate,
    }
}

/// What the applier has until now it has up to where it is, and nobody would have what comes between that and a snapshot.
async fn refuse_arriving(sides: &Sides<'_>, mut arriving: impl Iterator<Item = &Table>) -> Result<(), Fault> {
    let out = joining::read(sides.target, &sides.names.origin).await.map_err(Side::Target.says())?;
    let is_out = |table: &Table| out.iter().any(|other| other.oid == table.oid && other.through.is_none());
    match arriving.find(|table| !is_out(table)) {
        Some(table) => Err(Fault::usage(format!("changes of {} are applied already", table.shown()))
            .hint("--mode only-changes is for tables that are new in the pipeline, or were given up")),
        None => Ok(()),
    }
}

/// Only where the applier has had the table until now do the other rows count.
async fn refuse_selection(sides: &Sides<'_>, tables: &[&Table], to_publish: &[&Table]) -> Result<(), Fault> {
    let out = joining::read(sides.target, &sides.names.origin).await.map_err(Side::Target.says())?;
    let is_out = |table: &Table| out.iter().any(|other| other.oid == table.oid && other.through.is_none());
    let new = tables.iter().find(|table| {
        is_out(table)
            || to_publish.iter().any(|new| new.oid == table.oid || table.ancestors.contains(&new.oid))
    });
    match new {
        Some(table) => {
            Err(Fault::usage(format!("the target does not have the other rows of {}", table.shown()))
                .hint("bring all of its rows, or publish a part of them (pgsluice setup --where)"))
        }
        None => Ok(()),
    }
}

/// A publication that is not as setup makes them is somebody's own.
async fn refuse_to_publish(
    sides: &Sides<'_>,
    to_publish: &[&Table],
    unpublished: &[&Table],
) -> Result<(), Fault> {
    let name = &sides.names.publication;
    let list: Vec<_> = to_publish.iter().map(|table| table.quoted()).collect();
    let sql = format!("ALTER PUBLICATION {} ADD TABLE {}", quote_ident(name), list.join(", "));
    let found = publication::read(sides.source, name).await.map_err(Side::Source.says())?;
    let Some(found) = found else {
        return Err(Fault::stop(format!("the source has no publication {name}"))
            .hint("pgsluice setup makes it; backfill is for a pipeline that there is"));
    };
    if let Some(table) = unpublished.iter().find(|table| table.keyless().is_some()) {
        return Err(Fault::stop(format!(
            "{} has no replica identity: its UPDATE and DELETE would fail on the source once it is published",
            table.shown()
        ))
        .hint(format!("on the source: ALTER TABLE {} REPLICA IDENTITY FULL", table.quoted())));
    }
    if sides.names.plugin != OutputPlugin::Pgoutput {
        return Err(Fault::stop(format!(
            "{} does not tell from when on a table is published, so none can be added while it runs",
            sides.names.plugin
        ))
        .hint(format!("with the receiver stopped: {sql}; then start it, and run this command again")));
    }
    if !found.owned || !found.schemas.is_empty() {
        return Err(Fault::stop(format!("publication {name} is not one that setup made, and is left alone"))
            .hint(format!("on the source: {sql}; then run this command again")));
    }
    Ok(())
}

async fn refuse_missing(target: &Client, tables: &[&Table]) -> Result<(), Fault> {
    let names: Vec<_> = tables.iter().map(|table| table.quoted()).collect();
    let query = "SELECT n FROM unnest($1::text[]) n WHERE to_regclass(n) IS NULL";
    let rows = target.query(query, &[&names]).await;
    let rows = rows.map_err(|error| Side::Target.says()(control::fault(&error)))?;
    let missing: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let options: Vec<_> = missing.iter().map(|name| format!("--table='{name}'")).collect();
    let options = options.join(" ");
    Err(Fault::stop(format!("the target has no table {}", missing.join(", "))).hint(format!(
        "make it as it is on the source: pg_dump --schema-only --no-publications {options} SOURCE | psql TARGET; then run this command again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, partitioned: bool, ancestors: &[u32]) -> Table {
        Table {
            oid,
            schema: "s".into(),
            name: format!("t{oid}"),
            partitioned,
            ancestors: ancestors.to_vec(),
            logged: true,
            identity: ReplicaIdentity::Default,
            identity_index: None,
            primary_key: PrimaryKey::Immediate,
            owned: true,
            denied: Vec::new(),
            row_security: false,
            columns: Vec::new(),
        }
    }

    #[test]
    fn what_is_published_is_told_from_what_is_to_be() {
        let (root, leaf, other) = (table(1, true, &[]), table(2, false, &[1]), table(3, false, &[]));
        let check = |chosen: &[&Table], sent: &[(u32, &[u32])]| {
            let sent = sent.iter().map(|(oid, above)| (*oid, above.to_vec())).collect();
            let oids = |tables: Vec<&Table>| tables.iter().map(|table| table.oid).collect::<Vec<_>>();
            divide(chosen, &sent).ok().map(|(arriving, rest)| (oids(arriving), oids(rest)))
        };
        let family = [&root, &leaf];
        assert_eq!(check(&family, &[]), Some((vec![], vec![1, 2])));
        assert_eq!(check(&family, &[(2, &[1])]), Some((vec![2], vec![])), "by its leaves");
        assert_eq!(check(&family, &[(1, &[])]), Some((vec![1], vec![])), "by its root");
        assert_eq!(check(&[&leaf], &[(1, &[])]), None, "not under its name");
        assert_eq!(check(&[&leaf, &other], &[(3, &[])]), Some((vec![3], vec![2])));
    }

    #[test]
    fn a_key_is_what_changes_find_rows_by() {
        assert!(has_key(&table(1, false, &[])));
        let without = Table { primary_key: PrimaryKey::Absent, ..table(1, false, &[]) };
        assert!(!has_key(&without));
        assert!(!has_key(&Table { identity: ReplicaIdentity::Full, ..without.clone() }));
        let index = Table { identity: ReplicaIdentity::Index, identity_index: Some("i".into()), ..without };
        assert!(has_key(&index));
    }
}
