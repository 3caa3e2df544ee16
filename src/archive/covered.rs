//! Which changes of the log a base has already.

use std::collections::HashMap;

use crate::model::{Fault, Position, VisibleXids};
use crate::pgoutput::Begin;

use super::{Archive, Base, Point, resolve};

pub struct Covered {
    /// Transactions before that are in it.
    start: Position,
    /// By table, what its snapshot saw, and where the WAL ended then: ids come round.
    seen: HashMap<u32, (VisibleXids, Position)>,
}

impl Covered {
    /// Of the tables that are wanted, by their OIDs.
    pub fn by(base: &Base, is_wanted: impl Fn(u32) -> bool) -> Result<Covered, Fault> {
        let mut seen = HashMap::new();
        for table in base.tables.iter().filter(|table| is_wanted(table.oid)) {
            let snapshot = VisibleXids::parse(&table.snapshot);
            let snapshot =
                snapshot.ok_or_else(|| Fault::person("a base has a snapshot that makes no sense"))?;
            seen.insert(table.oid, (snapshot, table.through));
        }
        Ok(Covered { start: base.begin.start, seen })
    }

    /// Whether a base has this table as it is after that transaction.
    pub fn has(&self, table: u32, begin: &Begin) -> bool {
        let seen = self.seen.get(&table);
        seen.is_some_and(|(seen, through)| {
            self.start.covers_commit_at(begin.commit_lsn)
                || through.covers_commit_at(begin.commit_lsn) && seen.include(begin.xid)
        })
    }

    /// From where on the log has to be read for these tables.
    pub fn start(&self, mut tables: impl Iterator<Item = u32>) -> Option<Position> {
        tables.all(|table| self.seen.contains_key(&table)).then_some(self.start)
    }
}

/// The newest base that has nothing from behind a position, and what the log has since.
pub fn base_before(archive: &Archive, position: Position) -> Result<Option<Base>, Fault> {
    let bases = archive.bases()?;
    if bases.is_empty() {
        return Ok(None);
    }
    let beginning = archive.beginning()?;
    let reached = resolve(archive, &Point::Lsn(position), None)?;
    let fits = |base: &Base| base.begin.start >= beginning && reached.has_not_passed(base.through);
    Ok(bases.into_iter().rfind(fits))
}
