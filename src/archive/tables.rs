//! Which parts of the log have to be read for some tables: sealed segments tell in their footers, which the catalog knows, what
//! happened in them to which table.

use std::collections::BTreeSet;

use crate::model::{Fault, Position};
use crate::segment::{Peek, peek, relation_name};

use super::Archive;
use super::inspect::{contents, steadily};
use super::known::Known;

/// A part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub after: Position,
    pub through: Position,
}

/// Where tables are in the log.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts {
    /// In order. What is in an open segment is always one.
    pub spans: Vec<Span>,
    /// Of the tables, by whatever names they went.
    pub oids: BTreeSet<u32>,
}

/// Looks for tables by OID, schema and name, which are those of any time: which parts of `(after, through]` may say something of them, also
/// under another name.
pub fn whereabouts(
    archive: &Archive,
    Span { after, through }: Span,
    is_wanted: impl Fn(u32, &str, &str) -> bool,
) -> Result<Whereabouts, Fault> {
    steadily(|| {
        let listing = archive.listing()?;
        let beginning = listing.first().map_or(after, |name| name.after);
        let Some(known) = Known::of(archive, &listing, beginning)? else { return Ok(None) };
        let mut oids = BTreeSet::new();
        let mut look = |oid: u32, message: &[u8]| {
            let Ok(names) = relation_name(message) else { return };
            let [schema, name] = [names.schema, names.name].map(String::from_utf8_lossy);
            if is_wanted(oid, &schema, &name) {
                oids.insert(oid);
            }
        };
        known.relations(&mut look)?;
        for name in listing.iter().filter(|name| name.through.is_none()) {
            let Some(open) = contents(archive, *name)? else { return Ok(None) };
            let versions = open.footer.relations.iter().flat_map(|entry| &entry.versions);
            versions.for_each(|version| {
                if let Ok(Peek::Relation { oid }) = peek(&version.message) {
                    look(oid, &version.message);
                }
            });
        }
        let mut wanted = BTreeSet::new();
        known.tables(|row| {
            if oids.contains(&row.oid) {
                wanted.insert(row.segment);
            }
        })?;
        let mut spans: Vec<Span> = Vec::new();
        for name in &listing {
            let end = name.through.unwrap_or(through).min(through);
            let may = name.through.is_none() || wanted.contains(&name.after);
            if !may || name.after >= through || end <= after {
                continue;
            }
            match spans.last_mut() {
                Some(last) if last.through == name.after => last.through = end,
                _ => spans.push(Span { after: name.after.max(after), through: end }),
            }
        }
        Ok(Some(Whereabouts { spans, oids }))
    })
}
