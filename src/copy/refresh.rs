//! A table whose parts were read under several snapshots, brought to one.
//!
//! On the target is a subset of what the first snapshot showed: every row that was not written since, and some that were. Under
//! a new snapshot all rows are read that were written since the first one's horizon. From the target go the rows of their keys, and those
//! of all keys that were deleted or changed since, which the log tells; then the rows that were read go in. What is left was never touched, so the
//! table equals the new snapshot, and at no moment do two rows claim one key.

use std::time::Duration;

use crate::archive::Reader;
use crate::faults;
use crate::model::{Fault, Format, Position, Relation, Value, VisibleXids, Xid};
use crate::pg::copied::{self, Copied, Moment};
use crate::pg::{CopyRows, Pipeline, load, transfer};
use crate::pgoutput::{Begin, Message, Old, Tuple, decode};

use super::Options;
use super::part::simple;
use super::plan::{self, Which};
use super::session;
use super::survey::Table;

/// Keys of the log that wait in memory.
const KEYS_BYTES: usize = 1 << 20;

/// Whether it could be done: not where the log does not tell the keys of what has gone.
pub(super) async fn refresh(options: &Options, table: &Table, copied: &Copied) -> Result<bool, Fault> {
    if table.key.is_empty() || table.filenode != copied.filenode {
        return Ok(false);
    }
    let doing = |fault: Fault| fault.context(format!("bringing {} to one snapshot", table.shown()));
    try_refresh(options, table, copied).await.map_err(doing)
}

async fn try_refresh(options: &Options, table: &Table, copied: &Copied) -> Result<bool, Fault> {
    let archive = &options.archive;
    let before = Moment { snapshot: copied.first.clone(), through: Position::ZERO }.seen()?;
    let (mut source, mut target) = tokio::try_join!(
        session::source(&options.source),
        session::target(&options.target, &archive.manifest().server_encoding)
    )?;
    let (moment, filenode) = session::begin(&mut source, None, Some(table)).await?;
    if filenode != copied.filenode {
        return Ok(false);
    }
    let horizon = before.min;
    let window = Window::after(options.after, Some(before), &moment)?;
    simple(&mut target, "BEGIN").await?;
    simple(&mut target, &temporary(table)).await?;
    let read = plan::read(table, Which::Since(horizon));
    let write = into("fresh", &table.columns, table.format);
    let rows = transfer(&mut source, &read, &mut target, &write, None, |_, _| Duration::ZERO).await?;
    session::settle(&mut source, &moment).await?;
    let Some(gone) = gone(options, table, &window, &mut target).await? else { return Ok(false) };
    let replace = replace(table, &copied::note_whole(&options.stream, table.oid, &moment));
    simple(&mut target, &replace).await?;
    faults::point("copy.before_refresh_commit");
    simple(&mut target, "COMMIT").await?;
    tracing::info!(table = table.shown(), rows, keys = gone.keys, "brought to one snapshot");
    Ok(true)
}

/// SQL that makes the places where rows wait that were read, and keys that are gone.
pub(super) fn temporary(table: &Table) -> String {
    let (name, key) = (table.quoted(), plan::columns(&table.key));
    format!(
        "CREATE TEMP TABLE fresh ON COMMIT DROP AS SELECT {} FROM {name} WITH NO DATA; \
         CREATE TEMP TABLE gone ON COMMIT DROP AS SELECT {key} FROM {name} WITH NO DATA",
        plan::columns(&table.columns)
    )
}

/// SQL that puts what waits there in the place of what the table has, with a note.
pub(super) fn replace(table: &Table, note: &str) -> String {
    let (name, only) = (table.quoted(), table.on_target());
    let columns = plan::columns(&table.columns);
    let same = |other: &str| {
        let key = table.key.iter().map(|name| plan::columns(std::slice::from_ref(name)));
        key.map(|key| format!("t.{key} = {other}.{key}")).collect::<Vec<_>>().join(" AND ")
    };
    format!(
        "ANALYZE pg_temp.fresh; ANALYZE pg_temp.gone; \
         DELETE FROM {only} t USING pg_temp.gone g WHERE {}; DELETE FROM {only} t USING pg_temp.fresh f WHERE {}; \
         INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM pg_temp.fresh; {note}",
        same("g"),
        same("f"),
    )
}

pub(super) fn into(temporary: &str, columns: &[String], format: Format) -> String {
    let format = if format == Format::Binary { " WITH (FORMAT binary)" } else { "" };
    format!("COPY pg_temp.{temporary} ({}) FROM STDIN{format}", plan::columns(columns))
}

/// Transactions that come after a position, that the first snapshot does not show, if there is one, and the new one does.
pub(super) struct Window {
    after: Position,
    before: Option<VisibleXids>,
    now: VisibleXids,
    /// They were all committed before.
    end: Position,
}

/// What they did that a look at the table as it is now does not tell.
pub(super) struct Gone {
    /// Of rows that were deleted or changed.
    pub(super) keys: u64,
    /// Of those that touched the table, the one with the lowest id.
    pub(super) oldest: Option<Xid>,
}

impl Window {
    pub(super) fn after(after: Position, before: Option<VisibleXids>, now: &Moment) -> Result<Window, Fault> {
        Ok(Window { after, before, now: now.seen()?, end: now.through })
    }

    fn holds(&self, begin: Begin) -> bool {
        self.end.covers_commit_at(begin.commit_lsn)
            && !self.after.covers_commit_at(begin.commit_lsn)
            && !self.before.as_ref().is_some_and(|before| before.include(begin.xid))
            && self.now.include(begin.xid)
    }
}

/// Loads the keys that the window's transactions deleted or changed; none where the log does not tell them.
pub(super) async fn gone(
    options: &Options,
    table: &Table,
    window: &Window,
    target: &mut Pipeline,
) -> Result<Option<Gone>, Fault> {
    let (mut keys, mut oldest) = (Keys::new(table), None);
    let start = window.after;
    let mut reader = tokio::task::block_in_place(|| Reader::open(&options.archive, start, None))?;
    let mut inside = None;
    let mut read = start;
    while read < window.end {
        let Some(frame) = tokio::task::block_in_place(|| reader.try_next())? else {
            // All that is durable has been read.
            if reader.durable() >= window.end {
                break;
            }
            reader.wait().await;
            continue;
        };
        for record in frame.records() {
            let unreadable = |error: &dyn std::fmt::Display| {
                Fault::person(format!("the log after {read} can't be read: {error}"))
            };
            let message =
                decode(record.map_err(|error| unreadable(&error))?).map_err(|error| unreadable(&error))?;
            match &message {
                Message::Begin(begin) => inside = window.holds(*begin).then_some(begin.xid),
                Message::Commit(_) => inside = None,
                Message::Relation(relation) if relation.oid == table.oid => keys.define(relation),
                change => {
                    let Some(xid) = inside.filter(|_| touches(change, table.oid)) else { continue };
                    if oldest.is_none_or(|oldest| xid.is_before(oldest)) {
                        oldest = Some(xid);
                    }
                    if keys.take(change)? == Taken::Unknown {
                        return Ok(None);
                    }
                }
            }
        }
        keys.flush(target, KEYS_BYTES).await?;
        read = read.max(frame.through);
    }
    keys.flush(target, 0).await?;
    Ok(Some(Gone { keys: keys.count, oldest }))
}

fn touches(change: &Message<'_>, oid: u32) -> bool {
    match change {
        Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. } => *relation == oid,
        Message::Truncate(truncate) => truncate.relations.contains(&oid),
        _ => false,
    }
}

/// Keys of one table that wait to be loaded, in either format.
struct Keys<'t> {
    table: &'t Table,
    /// Where the key's columns are in a row of the log.
    places: Option<Vec<usize>>,
    text: CopyRows,
    binary: CopyRows,
    waiting: (u64, u64),
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Known,
    /// Something has gone, and what can't be told.
    Unknown,
}

impl<'t> Keys<'t> {
    fn new(table: &'t Table) -> Keys<'t> {
        Keys {
            table,
            places: None,
            text: CopyRows::new(Format::Text, 0),
            binary: CopyRows::new(Format::Binary, 0),
            waiting: (0, 0),
            count: 0,
        }
    }

    fn define(&mut self, relation: &Relation) {
        let place =
            |name: &String| relation.columns.iter().position(|column| column.name == *name && column.key);
        self.places = self.table.key.iter().map(place).collect();
    }

    fn take(&mut self, message: &Message<'_>) -> Result<Taken, Fault> {
        let (relation, old) = match message {
            Message::Update { relation, old, .. } | Message::Delete { relation, old } => (*relation, old),
            Message::Truncate(truncate) if truncate.relations.contains(&self.table.oid) => {
                return Ok(Taken::Unknown);
            }
            _ => return Ok(Taken::Known),
        };
        if relation != self.table.oid {
            return Ok(Taken::Known);
        }
        match old {
            Old::Absent => Ok(Taken::Known),
            Old::Key(row) | Old::Row(row) => self.push(*row),
        }
    }

    fn push(&mut self, row: Tuple<'_>) -> Result<Taken, Fault> {
        let Some(places) = &self.places else { return Ok(Taken::Unknown) };
        let values: Vec<Value<'_>> = row.values().collect();
        let mut key = Vec::with_capacity(places.len());
        let mut format = Format::Text;
        for place in places {
            let Some((of_value, bytes)) = values.get(*place).and_then(|value| value.bytes()) else {
                return Ok(Taken::Unknown);
            };
            format = of_value;
            key.push(Some(bytes));
        }
        match format {
            Format::Text => self.waiting.0 += 1,
            Format::Binary => self.waiting.1 += 1,
        }
        self.count += 1;
        let rows = if format == Format::Text { &mut self.text } else { &mut self.binary };
        rows.push(&key)?;
        Ok(Taken::Known)
    }

    /// Loads what waits, if it is more than this.
    async fn flush(&mut self, target: &mut Pipeline, bytes_max: usize) -> Result<(), Fault> {
        for (format, rows, waiting) in [
            (Format::Text, &mut self.text, &mut self.waiting.0),
            (Format::Binary, &mut self.binary, &mut self.waiting.1),
        ] {
            if *waiting == 0 || rows.waiting().len() < bytes_max {
                continue;
            }
            rows.end();
            load(target, &into("gone", &self.table.key, format), rows.waiting())
                .await
                .map_err(|fault| fault.context("target"))?;
            *rows = CopyRows::new(format, 0);
            *waiting = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, Lsn, ReplicaIdentity, Timestamp, Xid};
    use crate::pgoutput::{Truncate, TupleBuffer};

    fn relation(identity: ReplicaIdentity) -> Relation {
        let column = |name: &str, key| Column { name: name.into(), key, type_oid: 23, type_modifier: -1 };
        let columns = vec![column("a b", false), column("id", true)];
        Relation { oid: 1, schema: "public".into(), name: "t".into(), identity, columns }
    }

    fn row(values: &[Value<'_>]) -> TupleBuffer {
        let mut row = TupleBuffer::default();
        values.iter().for_each(|value| row.push(*value).unwrap());
        row
    }

    #[test]
    fn keys_are_taken_from_what_was_there_before() {
        let table = plan::tests::table();
        let mut keys = Keys::new(&table);
        let old = row(&[Value::Null, Value::Text(b"7")]);
        let delete = Message::Delete { relation: 1, old: Old::Key(old.tuple()) };
        assert_eq!(keys.take(&delete).unwrap(), Taken::Unknown, "no definition");
        keys.define(&relation(ReplicaIdentity::Default));
        assert_eq!(keys.take(&delete).unwrap(), Taken::Known);
        let new = row(&[Value::Unchanged, Value::Text(b"8")]);
        for (old, count) in [(Old::Absent, 1), (Old::Key(old.tuple()), 2), (Old::Row(old.tuple()), 3)] {
            let update = Message::Update { relation: 1, old, new: new.tuple() };
            assert_eq!(keys.take(&update).unwrap(), Taken::Known);
            assert_eq!(keys.count, count);
        }
        assert_eq!(keys.text.waiting(), b"7\n7\n7\n");
        let elsewhere = Message::Delete { relation: 2, old: Old::Key(old.tuple()) };
        assert_eq!((keys.take(&elsewhere).unwrap(), keys.count), (Taken::Known, 3));
        let unsent = row(&[Value::Null, Value::Unchanged]);
        let unsent = Message::Delete { relation: 1, old: Old::Row(unsent.tuple()) };
        assert_eq!(keys.take(&unsent).unwrap(), Taken::Unknown);
        let truncate = |oid| {
            Message::Truncate(Truncate { relations: vec![oid], cascade: false, restart_identity: false })
        };
        assert_eq!(keys.take(&truncate(1)).unwrap(), Taken::Unknown);
        assert_eq!(keys.take(&truncate(2)).unwrap(), Taken::Known);
    }

    #[test]
    fn the_window_is_what_only_the_new_snapshot_shows() {
        let seen = |text| VisibleXids::parse(text).unwrap();
        let (before, now) = (Some(seen("10:15:10,12")), seen("18:20:18"));
        let window = Window { after: Position(50), before, now, end: Position(500) };
        for (xid, commit_lsn, holds) in [
            (9, 100, false),
            (10, 100, true),
            (11, 100, false),
            (12, 100, true),
            (15, 100, true),
            (18, 100, false),
            (19, 100, true),
            (20, 100, false),
            (15, 500, false),
            (15, 49, false),
            (15, 50, true),
        ] {
            let begin =
                Begin { commit_lsn: Lsn(commit_lsn), commit_time: Timestamp::default(), xid: Xid(xid) };
            assert_eq!(window.holds(begin), holds, "{xid} {commit_lsn}");
        }
    }
}
