//! Columns to records.

use super::super::take::Take;
use super::super::{Damage, push_record};
use super::column::{ColumnReader, Origin};
use super::numbers::Numbers;
use super::rows::{Clock, RowTable};
use super::shape::{BEGIN, CHANGES, CHANGES_MAX, COMMIT, Change, RAW, has_bytes};
use super::streams::Unpack;
use super::{RAW_BYTES_MAX, WHAT, streams_bytes_max};

const MALFORMED: Damage = Damage::Malformed(WHAT);

/// The records, which are `raw_len` bytes. What a made-up payload may ask for is bounded by that.
pub(in super::super) fn decode(
    payload: &[u8],
    raw_len: usize,
    decompressor: &mut zstd::bulk::Decompressor<'static>,
) -> Result<Vec<u8>, Damage> {
    if raw_len > RAW_BYTES_MAX {
        return Err(MALFORMED);
    }
    let mut unpack = Unpack::open(payload, streams_bytes_max(raw_len), decompressor)?;
    let meta = unpack.next()?;
    let mut reader = Reader::read(&mut Take::new(&meta, WHAT), &mut unpack)?;
    let mut out = Vec::with_capacity(raw_len);
    let mut message = Vec::new();
    for number in std::mem::take(&mut reader.order) {
        message.clear();
        // A record is a byte longer than its message at least.
        let room = raw_len.checked_sub(out.len() + 1).ok_or(MALFORMED)?;
        reader.message(number, room, &mut message)?;
        push_record(&mut out, &message);
    }
    if out.len() == raw_len { Ok(out) } else { Err(MALFORMED) }
}

/// A column, and its last value where another copies it.
struct Source {
    column: ColumnReader,
    last: Option<Vec<u8>>,
}

struct Reader {
    /// Each with the first columns of its rows.
    changes: Vec<(Change, Vec<usize>)>,
    order: Vec<u8>,
    clock: Clock,
    begins: [Numbers; 3],
    commits: [Numbers; 4],
    raw_lengths: Numbers,
    raw: Vec<u8>,
    raw_at: usize,
    sources: Vec<Source>,
}

impl Reader {
    fn read(meta: &mut Take<'_>, unpack: &mut Unpack) -> Result<Reader, Damage> {
        let count = meta.count()?;
        if count > CHANGES_MAX {
            return Err(MALFORMED);
        }
        let (mut changes, mut rows) = (Vec::with_capacity(count), RowTable::default());
        for _ in 0..count {
            let change = Change::take(meta)?;
            changes.push((change, rows.places(change).ok_or(MALFORMED)?));
        }
        let order = unpack.next()?;
        let clock =
            Clock { lsn: meta.varint()?, end: meta.varint()?, time: meta.varint()?, xid: meta.varint()? };
        let mut numbers = || Numbers::read(meta, unpack);
        let begins = [numbers()?, numbers()?, numbers()?];
        let commits = [numbers()?, numbers()?, numbers()?, numbers()?];
        let raw_lengths = numbers()?;
        let raw = unpack.next()?;
        let mut sources = Vec::new();
        for _ in 0..rows.columns() {
            sources.push(Source { column: ColumnReader::read(meta, unpack)?, last: None });
        }
        let copied: Vec<usize> = sources.iter().filter_map(|source| source.column.source()).collect();
        for source in copied {
            sources.get_mut(source).ok_or(MALFORMED)?.last = Some(Vec::new());
        }
        Ok(Reader { changes, order, clock, begins, commits, raw_lengths, raw, raw_at: 0, sources })
    }

    /// Appends the next message, which must not be longer than `room`.
    fn message(&mut self, number: u8, room: usize, out: &mut Vec<u8>) -> Result<(), Damage> {
        match number {
            RAW => {
                let length = self.raw_lengths.next_usize()?;
                let message = self.raw.get(self.raw_at..).and_then(|rest| rest.get(..length));
                out.extend_from_slice(message.ok_or(Damage::Short(WHAT))?);
                self.raw_at += length;
            }
            BEGIN => {
                let [lsn, time, xid] = &mut self.begins;
                let clock = &mut self.clock;
                clock.lsn = clock.end.wrapping_add(lsn.next()?);
                clock.time = clock.time.wrapping_add(time.next()?);
                clock.xid = clock.xid.wrapping_add(xid.next()?);
                out.push(b'B');
                out.extend_from_slice(&clock.lsn.to_be_bytes());
                out.extend_from_slice(&clock.time.to_be_bytes());
                out.extend_from_slice(&(clock.xid as u32).to_be_bytes());
            }
            COMMIT => {
                let [flags, lsn, end, time] = &mut self.commits;
                let clock = &mut self.clock;
                let flags = flags.next_byte()?;
                let lsn = clock.lsn.wrapping_add(lsn.next()?);
                clock.end = lsn.wrapping_add(end.next()?);
                clock.time = clock.time.wrapping_add(time.next()?);
                out.extend_from_slice(&[b'C', flags]);
                out.extend_from_slice(&lsn.to_be_bytes());
                out.extend_from_slice(&clock.end.to_be_bytes());
                out.extend_from_slice(&clock.time.to_be_bytes());
            }
            _ => {
                let change = self.changes.get(usize::from(number - CHANGES));
                let (change, places) = change.ok_or(MALFORMED)?;
                out.push(change.tag);
                out.extend_from_slice(&change.relation.to_be_bytes());
                for ((_, marker), place) in change.rows().zip(places) {
                    out.push(marker);
                    out.extend_from_slice(&change.columns.to_be_bytes());
                    row(&mut self.sources, *change, *place, room, out)?;
                }
            }
        }
        if out.len() > room { Err(MALFORMED) } else { Ok(()) }
    }
}

/// Appends a row's columns, which are those from `place` on.
fn row(
    sources: &mut [Source],
    change: Change,
    place: usize,
    room: usize,
    out: &mut Vec<u8>,
) -> Result<(), Damage> {
    for number in place..place + usize::from(change.columns) {
        let source = sources.get_mut(number).ok_or(MALFORMED)?;
        let kind = source.column.kind()?;
        out.push(kind);
        if !has_bytes(kind) {
            continue;
        }
        out.extend_from_slice(&[0; 4]);
        let start = out.len();
        if let Origin::Copy(from) = source.column.value(out)? {
            let last = sources.get(from).and_then(|source| source.last.as_deref()).ok_or(MALFORMED)?;
            out.extend_from_slice(last);
        }
        // Before the next one, or copies of a long value would add up.
        if out.len() > room {
            return Err(MALFORMED);
        }
        let (head, value) = out.split_at_mut(start);
        if let Some(length) = head.last_chunk_mut::<4>() {
            *length = (value.len() as u32).to_be_bytes();
        }
        if let Some(last) = sources.get_mut(number).and_then(|source| source.last.as_mut()) {
            last.clear();
            last.extend_from_slice(value);
        }
    }
    Ok(())
}
