//! What of the log is left out: a change of a table whose copied rows have it already, and of one that another applier has for now.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use super::Target;
use crate::model::{Fault, Position, VisibleXids};
use crate::pg::tables::shown_name;
use crate::pg::{copied, joining};
use crate::pgoutput::{Begin, Message};

/// The snapshots in which the tables were copied, by the source's OID.
#[derive(Debug, Default)]
pub(super) struct Stitches {
    /// That in which the schema was read.
    schema: Option<(VisibleXids, Position)>,
    tables: HashMap<u32, (VisibleXids, Position)>,
    /// No snapshot shows what was committed from here on.
    end: Position,
    /// Tables that another applier has, up to a position or without an end.
    others: HashMap<u32, Option<Position>>,
    /// All other tables are another's.
    only: Option<HashSet<u32>>,
}

impl Stitches {
    /// Refuses rules that mean other tables than the target was brought back with: what is renamed there might go into the wrong one.
    pub(super) async fn read(client: &Client, target: &Target) -> Result<Stitches, Fault> {
        let copied = copied::stitches(client, &target.stream).await?;
        let (stream, rules) = (&target.stream, &target.rules);
        if let Some(scope) = &copied.scope {
            copied::refuse_other_scope(stream, scope, &rules.scope())?;
        }
        let joining = joining::read(client, &target.stream).await?;
        let names: Vec<_> = joining.iter().filter(|table| table.through.is_none()).collect();
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|table| shown_name(&table.schema, &table.name)).collect();
            tracing::info!(tables = names.join(", "), "left out: a backfill brings them, or was given up");
        }
        let mut stitches = Stitches {
            others: joining.into_iter().map(|table| (table.oid, table.through)).collect(),
            only: target.only.clone(),
            ..Stitches::default()
        };
        if let Some(moment) = copied.schema {
            stitches.schema = Some((moment.seen()?, moment.through));
        }
        for (oid, moment) in copied.tables {
            stitches.end = stitches.end.max(moment.through);
            stitches.tables.insert(oid, (moment.seen()?, moment.through));
        }
        Ok(stitches)
    }

    /// Whether some table's rows may have changes of this transaction already.
    pub(super) fn reach(&self, begin: Begin) -> bool {
        self.end.covers_commit_at(begin.commit_lsn)
    }

    /// Whether the target's schema was made of one that has the transaction's DDL.
    pub(super) fn has_ddl(&self, begin: Begin) -> bool {
        self.schema.as_ref().is_some_and(|schema| shows(schema, begin))
    }

    /// Whether rows of this table of the source were copied.
    pub(super) fn knows(&self, oid: u32) -> bool {
        self.tables.contains_key(&oid)
    }

    /// Whether the copied rows of a table show the transaction. An LSN alone can't tell: a commit is in WAL before it shows.
    pub(super) fn has(&self, oid: u32, begin: Begin) -> bool {
        let table = self.tables.get(&oid).or_else(|| self.tables.get(&copied::ALL_OTHERS));
        table.is_some_and(|table| shows(table, begin))
    }

    /// Whether some table is another applier's, without an end.
    pub(super) fn leaves_tables_out(&self) -> bool {
        self.others.values().any(Option::is_none)
    }

    /// Whether a change of this table is not to be applied here.
    fn leaves_out(&self, oid: u32, begin: Begin) -> bool {
        let is_anothers = self.only.as_ref().is_some_and(|only| !only.contains(&oid))
            || self.others.get(&oid).is_some_and(|through| {
                through.is_none_or(|through| through.covers_commit_at(begin.commit_lsn))
            });
        is_anothers || self.has(oid, begin)
    }

    /// What of a change is still to be applied; none where nothing of it is.
    pub(super) fn rest<'c, 'm>(
        &self,
        begin: Begin,
        change: &'c Message<'m>,
        spare: &'c mut Option<Message<'m>>,
    ) -> Option<&'c Message<'m>> {
        if !self.reach(begin) && self.others.is_empty() && self.only.is_none() {
            return Some(change);
        }
        match change {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => (!self.leaves_out(*relation, begin)).then_some(change),
            Message::Truncate(truncate) => {
                let mut rest = truncate.clone();
                rest.relations.retain(|oid| !self.leaves_out(*oid, begin));
                if rest.relations.len() == truncate.relations.len() {
                    return Some(change);
                }
                (!rest.relations.is_empty()).then(|| &*spare.insert(Message::Truncate(rest)))
            }
            _ => Some(change),
        }
    }
}

fn shows((seen, through): &(VisibleXids, Position), begin: Begin) -> bool {
    through.covers_commit_at(begin.commit_lsn) && seen.include(begin.xid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, Timestamp, Xid};
    use crate::pgoutput::{Old, Truncate, TupleBuffer};

    fn begin(commit_lsn: u64, xid: u32) -> Begin {
        Begin { commit_lsn: Lsn(commit_lsn), commit_time: Timestamp::default(), xid: Xid(xid) }
    }

    /// Table 1 in a snapshot of before 100, without 95; table 2 in one of before 110.
    fn stitches() -> Stitches {
        let seen = |text| VisibleXids::parse(text).unwrap();
        let tables = [(1, (seen("95:100:95"), Position(1000))), (2, (seen("110:110:"), Position(2000)))];
        Stitches { tables: tables.into(), end: Position(2000), ..Stitches::default() }
    }

    #[test]
    fn what_the_snapshot_shows_is_left_out() {
        let stitches = stitches();
        for (oid, commit_lsn, xid, has) in [
            (1, 900, 94, true),
            // In WAL before the snapshot was taken, and not shown by it.
            (1, 900, 95, false),
            (1, 900, 99, true),
            (1, 900, 100, false),
            // A transaction id that came round again.
            (1, 1000, 94, false),
            (2, 1999, 109, true),
            (2, 2000, 110, false),
            (3, 900, 94, false),
        ] {
            assert_eq!(stitches.has(oid, begin(commit_lsn, xid)), has, "{oid} {commit_lsn} {xid}");
        }
        assert!(stitches.reach(begin(1999, 200)) && !stitches.reach(begin(2000, 1)));
    }

    #[test]
    fn a_truncate_of_several_tables_keeps_those_that_need_it() {
        let stitches = stitches();
        let truncate = |relations: &[u32]| {
            Message::Truncate(Truncate {
                relations: relations.to_vec(),
                cascade: false,
                restart_identity: false,
            })
        };
        for (relations, xid, rest) in [
            (&[1, 2][..], 105, Some(truncate(&[1]))),
            (&[1, 2], 94, None),
            (&[1, 2], 110, Some(truncate(&[1, 2]))),
            (&[2, 3], 94, Some(truncate(&[3]))),
        ] {
            let (change, mut spare) = (truncate(relations), None);
            assert_eq!(
                stitches.rest(begin(900, xid), &change, &mut spare),
                rest.as_ref(),
                "{relations:?} {xid}"
            );
        }
        let row = TupleBuffer::default();
        let change = |relation| Message::Delete { relation, old: Old::Key(row.tuple()) };
        let stays = |stitches: &Stitches, relation, commit_lsn| {
            stitches.rest(begin(commit_lsn, 200), &change(relation), &mut None).is_some()
        };
        let others =
            Stitches { others: [(1, None), (2, Some(Position(5000)))].into(), ..Stitches::default() };
        for (relation, commit_lsn, is_ours) in
            [(1, 1, false), (1, 9000, false), (2, 4999, false), (2, 5000, true), (3, 1, true)]
        {
            assert_eq!(stays(&others, relation, commit_lsn), is_ours, "{relation} {commit_lsn}");
        }
        assert!(others.leaves_tables_out());
        let own = Stitches { only: Some([1].into()), ..Stitches::default() };
        assert!(stays(&own, 1, 9000) && !stays(&own, 2, 9000) && !own.leaves_tables_out());
        let delete = Message::Delete { relation: 1, old: Old::Key(row.tuple()) };
        assert_eq!(stitches.rest(begin(900, 94), &delete, &mut None), None);
        assert_eq!(stitches.rest(begin(900, 95), &delete, &mut None), Some(&delete));
    }
}
