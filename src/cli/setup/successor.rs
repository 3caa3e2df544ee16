//! `--source-upgraded`: the archive's source has another system identifier since `pg_upgrade`, and the slot came along.

use std::cell::RefCell;
use std::collections::HashSet;

use super::super::reach::Side;
use super::survey::Survey;
use crate::archive::{Archive, Span, Successor, whereabouts};
use crate::model::{Fault, Position};
use crate::pg::tables::{Table, shown_name};
use crate::pg::{inspect, slot};

const ANOTHER: &str = "check --source: only what pg_upgrade made of the archive's source, with the slot that came along, goes on with its log; for any other server: a new archive, and copy the tables anew";

impl Survey<'_> {
    /// Where this source is what `pg_upgrade` made of the archive's, and that has not been told yet. Refuses any other server.
    pub(super) async fn successor(&self) -> Result<Option<Successor>, Fault> {
        let (Some(archive), true) = (&self.archive, self.options.source_upgraded) else { return Ok(None) };
        let (origin, server) = (archive.origin()?, &self.facts.server);
        if origin.system_identifier == server.system_identifier {
            return self.mended(archive);
        }
        if archive.has_receiver()? {
            return Err(Fault::stop("a receiver has this archive open").hint("stop it first"));
        }
        let refused = |why: String| Err(Fault::person(why).hint(ANOTHER));
        if server.version < origin.server_version_num {
            return refused(format!(
                "the source's version is {}, older than {} of the server that the log comes from",
                server.version, origin.server_version_num
            ));
        }
        if origin.server_version_num < slot::SURVIVES_SINCE {
            return refused(format!(
                "the log comes from a server of version {}, of which pg_upgrade keeps no slots: slot {} was made since",
                origin.server_version_num, self.options.slot
            ));
        }
        let after = archive.end()?;
        let name = &self.options.slot;
        let Some(from) = self.facts.slot.as_ref().and_then(|slot| slot.confirmed_flush) else {
            return refused(format!(
                "slot {name} did not come along: pg_upgrade keeps slots from version 17 on"
            ));
        };
        if from < after {
            return refused(format!(
                "slot {name} stands at {from}, {} bytes before the log's end: pg_upgrade goes on behind it",
                after.bytes_since(from)
            ));
        }
        refuse_other_tables(archive, after, &self.facts.tables)?;
        tracing::info!(%after, %from, bytes = from.bytes_since(after), "the log ends, and the new slot begins");
        let timeline = inspect::timeline(&self.source).await.map_err(Side::Source.says())?;
        Ok(Some(Successor {
            after,
            from,
            system_identifier: server.system_identifier,
            timeline,
            server_version_num: server.version,
        }))
    }

    /// The same anew, where it was told on a machine that had less of the log than this one, and nothing has come since.
    fn mended(&self, archive: &Archive) -> Result<Option<Successor>, Fault> {
        let (Some(told), after) = (archive.successor()?, archive.end()?) else { return Ok(None) };
        Ok((told.after < after && after < told.from).then_some(Successor { after, ..told }))
    }
}

/// Tables keep their OIDs in `pg_upgrade`, and by a dump get others. One may have been made anew since, but not all.
fn refuse_other_tables(archive: &Archive, end: Position, tables: &[Table]) -> Result<(), Fault> {
    let told = RefCell::new(HashSet::new());
    let all = Span { after: archive.beginning()?, through: end };
    whereabouts(archive, all, |oid, schema, name| {
        told.borrow_mut().insert((oid, format!("{schema}.{name}")));
        false
    })?;
    let told = told.into_inner();
    let names: HashSet<&str> = told.iter().map(|(_, name)| name.as_str()).collect();
    let name_of = |table: &Table| format!("{}.{}", table.schema, table.name);
    let is_same = |table: &&Table| told.contains(&(table.oid, name_of(table)));
    let mut known = tables.iter().filter(|table| names.contains(name_of(table).as_str())).peekable();
    let Some(first) = known.peek().map(|table| shown_name(&table.schema, &table.name)) else {
        if told.is_empty() {
            return Ok(());
        }
        return Err(Fault::person("the source has none of the tables that the log tells of").hint(ANOTHER));
    };
    if known.any(|table| is_same(&table)) {
        return Ok(());
    }
    Err(Fault::person(format!(
        "table {first} is another one here than in the log, as all of its tables are: the source was made by a dump, not by pg_upgrade"
    ))
    .hint(ANOTHER))
}
