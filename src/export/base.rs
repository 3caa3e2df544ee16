//! A base of the archive as the beginning of a script: the rows that the tables had when the log's part begins.

use std::collections::HashSet;

use super::Options;
use super::change::shown;
use crate::archive::{Archive, Base, BaseTable, Said, Span, read_tables, whereabouts};
use crate::model::{Fault, Relation, quote_ident};
use crate::transform;

/// Writes the rows of the tables, each table in a transaction of its own. The files have them as COPY prints them.
pub(super) fn write(
    archive: &Archive,
    base: &Base,
    options: &Options<'_>,
    write: &mut dyn FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    refuse_older(archive, base, options)?;
    for table in base.tables.iter().filter(|table| (options.is_wanted)(&table.schema, &table.name)) {
        let what = format!(
            "{}.{} as the base {} has it, rows: {}",
            table.schema, table.name, base.begin.id, table.rows
        );
        let name = format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name));
        write(format!("\n{}BEGIN;\n", transform::comment(&what)).as_bytes())?;
        write(&transform::block(&transform::must_be_empty(&table.schema, &table.name)))?;
        write(format!("COPY {name}{} FROM stdin;\n", columns(table)).as_bytes())?;
        for (oid, number, file) in table.files() {
            let mut reader = archive.base_reader(&base.begin, oid, number, file)?;
            while let Some(block) = reader.block()? {
                write(&block)?;
            }
        }
        write(b"\\.\nCOMMIT;\n")?;
    }
    Ok(())
}

fn columns(table: &BaseTable) -> String {
    let names: Vec<_> = table.columns.iter().map(|name| quote_ident(name)).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// What was done before the base to a table that is not in it would be left out.
fn refuse_older(archive: &Archive, base: &Base, options: &Options<'_>) -> Result<(), Fault> {
    let known: HashSet<u32> = base.tables.iter().map(|table| table.oid).collect();
    let is_wanted =
        |oid: u32, schema: &str, name: &str| !known.contains(&oid) && (options.is_wanted)(schema, name);
    let before = Span { after: archive.beginning()?, through: base.begin.start };
    let places = whereabouts(archive, before, is_wanted)?;
    let is_meant = |relation: &Relation| is_wanted(relation.oid, &relation.schema, &relation.name);
    read_tables(archive, &places.spans, &is_meant, |said| match said {
        Said::Changed { relation, .. } => Err(unknown(base, relation)),
        Said::Truncated { relations, .. } => {
            relations.first().map_or(Ok(()), |relation| Err(unknown(base, relation)))
        }
        Said::Begin { .. } | Said::Commit(_) | Said::Defined { .. } => Ok(()),
    })
}

fn unknown(base: &Base, relation: &Relation) -> Fault {
    Fault::stop(format!(
        "{} was changed before {}, where the base {} begins, and is not in it",
        shown(relation),
        base.begin.start,
        base.begin.id
    ))
    .hint("leave it out with --exclude, or take a base of all tables with pgsluice clone --into-archive")
}
