//! Which tables are held against which, by which columns, and in how many buckets.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::model::Fault;
use crate::pg::control;
use crate::pg::extent::{self, Extent};
use crate::pg::filter::ColumnList;
use crate::pg::pattern;
use crate::pg::tables::{self, Table, TableColumn};

use super::report::TableReport;
use super::sql;
use super::{Options, says};

/// Rows that share a bucket, about; and buckets of a table, at most.
const BUCKET_ROWS: u64 = 512;
const BUCKETS_MAX: u64 = 1 << 14;
/// Bytes of a row, where nobody knows how many rows there are.
const ROW_BYTES: u64 = 100;

/// What is compared, and what can't be.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) pairs: Vec<Pair>,
    pub(super) problems: Vec<TableReport>,
}

/// A table of the source and its counterpart.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// As people write it.
    pub(super) name: String,
    /// As SQL does, the same on both sides.
    pub(super) quoted: String,
    pub(super) columns: Vec<String>,
    /// What tells rows apart: all columns where there is no key.
    pub(super) key: Vec<String>,
    pub(super) has_key: bool,
    /// The target stores columns that are not compared.
    pub(super) has_more: bool,
    /// A power of two.
    pub(super) buckets: u64,
    pub(super) source: Side,
    pub(super) target: Side,
}

#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) table: sql::Table,
    pub(super) extent: Extent,
}

impl Side {
    /// A key's columns with the types that they have here.
    pub(super) fn key<'k>(&self, columns: &'k [String]) -> sql::Key<'k> {
        sql::Key { columns, types: columns.iter().map(|column| self.type_of(column)).collect() }
    }

    pub(super) fn type_of(&self, column: &str) -> String {
        self.extent.types.get(column).cloned().unwrap_or_else(|| "text".into())
    }
}

/// What is to be compared of a table of the source.
struct Wanted<'a> {
    table: &'a Table,
    columns: Option<Vec<String>>,
    rows: Option<String>,
}

pub(super) async fn read(source: &Client, target: &Client, options: &Options) -> Result<Plan, Fault> {
    let here = tables::tables(source).await.map_err(says("source"))?;
    let there = tables::tables(target).await.map_err(says("target"))?;
    let published = extent::published(source, &options.publication).await.map_err(says("source"))?;
    for pattern in options.tables.iter().chain(&options.exclude) {
        if !here.iter().any(|table| pattern.matches(&table.schema, &table.name)) {
            return Err(Fault::usage(format!("{pattern} matches no table of the source"))
                .hint("names with capitals or dots need double quotes"));
        }
    }
    let chosen = pattern::choose(&here, &options.tables, &options.exclude);
    let wanted: Vec<_> = match published {
        Some(published) => published
            .into_iter()
            .filter_map(|entry| {
                let is_it = |table: &&&Table| table.schema == entry.schema && table.name == entry.name;
                let table = chosen.iter().find(is_it)?;
                Some(Wanted { table, columns: entry.columns, rows: entry.rows })
            })
            .collect(),
        None if options.held.is_some() && options.repair => {
            return Err(Fault::stop(format!(
                "the source has no publication {}, which says what is to be repaired",
                options.publication
            ))
            .hint("name it with --publication"));
        }
        None => pattern::names_to_publish(&here, &chosen)
            .into_iter()
            .map(|table| Wanted { table, columns: None, rows: None })
            .collect(),
    };
    if wanted.is_empty() {
        return Err(Fault::stop("there is no table to compare").hint("correct --tables and --exclude"));
    }
    let counterpart = |table: &Table| there.iter().find(|t| t.schema == table.schema && t.name == table.name);
    let oids: Vec<_> = wanted.iter().map(|wanted| wanted.table.oid).collect();
    let mut at_source = extent::extents(source, &oids).await.map_err(says("source"))?;
    let oids: Vec<_> =
        wanted.iter().filter_map(|wanted| counterpart(wanted.table)).map(|table| table.oid).collect();
    let mut at_target = extent::extents(target, &oids).await.map_err(says("target"))?;
    let recode =
        encoding(source).await.map_err(says("source"))? != encoding(target).await.map_err(says("target"))?;
    let mut plan = Plan::default();
    for wanted in wanted {
        let (table, name) = (wanted.table, wanted.table.shown());
        let found = match counterpart(table) {
            None => Err("the target has no such table".to_owned()),
            Some(other) => columns(&wanted, other, &family(&here, table), options).map(|columns| {
                let extent = |of: &Table, extents: &mut HashMap<u32, Extent>| {
                    side(of, extents.remove(&of.oid).unwrap_or_default(), recode)
                };
                let (source, target) = (extent(table, &mut at_source), extent(other, &mut at_target));
                let more = |column: &TableColumn| !column.generated && !columns.contains(&column.name);
                let has_more = other.columns.iter().any(more);
                let pair = pair(name.clone(), columns, wanted.rows.clone(), source, target, table.quoted());
                Pair { has_more, ..pair }
            }),
        };
        match found {
            Ok(pair) => plan.pairs.push(pair),
            Err(problem) => {
                plan.problems.push(TableReport { name, problem: Some(problem), ..TableReport::default() });
            }
        }
    }
    Ok(plan)
}

/// The names of a table and of the partitioned ones above it.
fn family<'t>(all: &'t [Table], table: &'t Table) -> Vec<&'t Table> {
    let above = all.iter().filter(|other| table.ancestors.contains(&other.oid));
    std::iter::once(table).chain(above).collect()
}

/// The columns to compare: those that are published and asked for, and that no side works out by itself.
fn columns(
    wanted: &Wanted<'_>,
    target: &Table,
    family: &[&Table],
    options: &Options,
) -> Result<Vec<String>, String> {
    let meant = |list: &&ColumnList| family.iter().any(|t| list.tables.matches(&t.schema, &t.name));
    let list = options.columns.iter().find(meant).map(|list| &list.columns);
    let has = |list: Option<&Vec<String>>, name: &String| list.is_none_or(|list| list.contains(name));
    let mut columns = Vec::new();
    for column in wanted.table.columns.iter().filter(|column| !column.generated) {
        if !has(wanted.columns.as_ref(), &column.name) || !has(list, &column.name) {
            continue;
        }
        match target.columns.iter().find(|other| other.name == column.name) {
            Some(other) if other.generated => {}
            Some(_) => columns.push(column.name.clone()),
            None => return Err(format!("the target has no column {}", column.name)),
        }
    }
    Ok(columns)
}

fn side(table: &Table, extent: Extent, recode: bool) -> Side {
    // A partitioned table has no rows of its own, a plain one may have heirs.
    let only = if table.partitioned { "" } else { "ONLY " };
    let from = format!("{only}{}", table.quoted());
    Side { table: sql::Table { from, filter: None, recode }, extent }
}

fn pair(
    name: String,
    columns: Vec<String>,
    filter: Option<String>,
    mut source: Side,
    target: Side,
    quoted: String,
) -> Pair {
    source.table.filter = filter;
    let is_compared = |key: &&Vec<String>| key.iter().all(|column| columns.contains(column));
    let key = source.extent.keys.iter().find(is_compared).cloned();
    let rows = [&source, &target].map(|side| side.extent.rows.unwrap_or(side.extent.bytes / ROW_BYTES));
    let rows = rows.into_iter().max().unwrap_or(0);
    let buckets = (rows / BUCKET_ROWS).max(1).next_power_of_two().min(BUCKETS_MAX);
    let has_key = key.is_some();
    let key = key.unwrap_or_else(|| columns.clone());
    Pair { name, quoted, columns, key, has_key, has_more: false, buckets, source, target }
}

async fn encoding(client: &Client) -> Result<String, Fault> {
    let row = client.query_one("SELECT getdatabaseencoding()::text", &[]).await;
    Ok(row.map_err(|error| control::fault(&error).context("asking for the encoding"))?.get(0))
}
