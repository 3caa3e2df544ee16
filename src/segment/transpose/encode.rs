//! Records to columns.

use super::super::Records;
use super::super::codec::Squeeze;
use super::super::take::put_varint;
use super::column::Column;
use super::rows::{Clock, RowTable};
use super::shape::{
    BEGIN, CHANGES, CHANGES_MAX, COMMIT, Cell, Change, RAW, split_begin, split_change, split_commit,
};
use super::streams::Pack;
use super::{RAW_BYTES_MAX, copies, numbers, streams_bytes_max};

#[derive(Default)]
struct Gathering<'a> {
    /// The changes, each with the first columns of its rows, and the one that followed it last time.
    changes: Vec<(Change, Vec<usize>, usize)>,
    /// The number of the change before.
    last: usize,
    rows: RowTable,
    order: Vec<u8>,
    start: Option<Clock>,
    clock: Clock,
    begins: [Vec<u64>; 3],
    commits: [Vec<u64>; 4],
    raw: Vec<&'a [u8]>,
    columns: Vec<Column<'a>>,
}

/// The payload of these records; `None` where they can't be transposed, or what comes of it would be no shorter.
pub(in super::super) fn encode(raw: &[u8], squeeze: &mut Squeeze) -> Option<Vec<u8>> {
    payload(raw, squeeze).filter(|payload| payload.len() < raw.len())
}

/// The same, however long it is.
pub(super) fn payload(raw: &[u8], squeeze: &mut Squeeze) -> Option<Vec<u8>> {
    if raw.len() > RAW_BYTES_MAX {
        return None;
    }
    let mut gathering = Gathering::default();
    let mut canonical = 0usize;
    let mut cells = Vec::new();
    for message in Records::new(raw) {
        let message = message.ok()?;
        let length_bytes = (message.len() | 1).ilog2() as usize / 7 + 1;
        canonical += length_bytes + message.len();
        gathering.message(message, &mut cells);
    }
    // The lengths are not kept but written anew.
    if canonical != raw.len() {
        return None;
    }
    let pack = gathering.write();
    (pack.len() <= streams_bytes_max(raw.len())).then(|| pack.finish(squeeze))
}

impl<'a> Gathering<'a> {
    fn message(&mut self, message: &'a [u8], cells: &mut Vec<Cell<'a>>) {
        let shape = match message.first() {
            Some(b'B') => split_begin(message).map(|fields| self.begin(fields)),
            Some(b'C') => split_commit(message).map(|fields| self.commit(fields)),
            _ => self.change(message, cells),
        };
        if shape.is_none() {
            self.raw.push(message);
        }
        self.order.push(shape.unwrap_or(RAW));
    }

    fn change(&mut self, message: &'a [u8], cells: &mut Vec<Cell<'a>>) -> Option<u8> {
        cells.clear();
        let change = split_change(message, cells)?;
        let number = self.number(change)?;
        let (_, places, _) = self.changes.get(number)?;
        for (row, place) in cells.chunks(usize::from(change.columns).max(1)).zip(places) {
            let columns = self.columns.iter_mut().skip(*place);
            columns.zip(row).for_each(|(column, cell)| column.push(*cell));
        }
        Some(number as u8 + CHANGES)
    }

    /// The number of a change like this; `None` where there are too many others.
    fn number(&mut self, change: Change) -> Option<usize> {
        let is = |known: &(Change, Vec<usize>, usize)| known.0 == change;
        let follower = self.changes.get(self.last).map_or(0, |(_, _, follower)| *follower);
        if self.changes.get(follower).is_some_and(is) {
            self.last = follower;
            return Some(follower);
        }
        let number = match self.changes.iter().position(is) {
            Some(number) => number,
            None if self.changes.len() == CHANGES_MAX => return None,
            None => {
                let places = self.rows.places(change)?;
                self.columns.resize_with(self.rows.columns(), Column::default);
                self.changes.push((change, places, 0));
                self.changes.len() - 1
            }
        };
        if let Some((_, _, follower)) = self.changes.get_mut(self.last) {
            *follower = number;
        }
        self.last = number;
        Some(number)
    }

    fn begin(&mut self, [lsn, time, xid]: [u64; 3]) -> u8 {
        let clock = &mut self.clock;
        if self.start.is_none() {
            *clock = Clock { lsn, end: lsn, time, xid };
            self.start = Some(*clock);
        }
        let told = [lsn.wrapping_sub(clock.end), time.wrapping_sub(clock.time), xid.wrapping_sub(clock.xid)];
        self.begins.iter_mut().zip(told).for_each(|(field, value)| field.push(value));
        *clock = Clock { lsn, time, xid, ..*clock };
        BEGIN
    }

    fn commit(&mut self, [flags, lsn, end, time]: [u64; 4]) -> u8 {
        let clock = &mut self.clock;
        if self.start.is_none() {
            *clock = Clock { lsn, end: lsn, time, xid: 0 };
            self.start = Some(*clock);
        }
        let told = [flags, lsn.wrapping_sub(clock.lsn), end.wrapping_sub(lsn), time.wrapping_sub(clock.time)];
        self.commits.iter_mut().zip(told).for_each(|(field, value)| field.push(value));
        *clock = Clock { end, time, ..*clock };
        COMMIT
    }

    fn write(self) -> Pack {
        let mut pack = Pack::new();
        put_varint(&mut pack.meta, self.changes.len() as u64);
        self.changes.iter().for_each(|(change, _, _)| change.put(&mut pack.meta));
        pack.push(self.order);
        let start = self.start.unwrap_or_default();
        for field in [start.lsn, start.end, start.time, start.xid] {
            put_varint(&mut pack.meta, field);
        }
        for field in self.begins.iter().chain(&self.commits) {
            numbers::put(field.iter().copied(), &mut pack);
        }
        numbers::put(self.raw.iter().map(|message| message.len() as u64), &mut pack);
        pack.push(self.raw.concat());
        for (number, column) in self.columns.iter().enumerate() {
            column.write(copies::find(&self.columns, number).as_ref(), &mut pack);
        }
        pack
    }
}
