//! RocksDB, made small: an index that is written once a segment needs neither caches nor threads.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rocksdb::{BlockBasedOptions, Cache, DB, Direction, IteratorMode, LogLevel, Options, WriteBatch};

use crate::model::{Fault, Position, Timestamp, Xid};

use super::rows::{FRAME, PIN, RELATION, SEGMENT, TABLE, VERSION_KEY, key, key_numbers, relation_key};
use super::{FrameRow, PinRow, RelationRow, SegmentRow, SegmentRows, TableRow};

/// Changed when rows change; another version is deleted and built anew.
const VERSION: &[u8] = b"3 ";

/// A key and its value.
type Entry = (Box<[u8]>, Box<[u8]>);

pub struct Catalog {
    db: DB,
    /// Where a second opener keeps its own log; removed with it.
    beside: Option<PathBuf>,
}

fn fault(error: &rocksdb::Error) -> Fault {
    Fault::stop(format!("the catalog cannot be used: {}", error.clone().into_string()))
        .hint("`pgsluice archive reindex` builds it anew from the segments")
}

fn options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(1 << 20));
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(1 << 20);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(4 << 20);
    options.set_max_open_files(64);
    options.set_max_background_jobs(1);
    options.set_keep_log_file_num(1);
    options.set_log_level(LogLevel::Error);
    options
}

impl Catalog {
    /// Opens the catalog of an archive as its owner. One that is damaged, of another archive or of another version is
    /// deleted and begun anew: its owner then indexes the segments again.
    pub fn open(folder: &Path, archive_id: [u8; 16]) -> Result<Catalog, Fault> {
        Catalog::open_if(folder, archive_id, Catalog::is_readable)
    }

    /// The same, without reading it through first: damage shows when it is met.
    pub fn open_unread(folder: &Path, archive_id: [u8; 16]) -> Result<Catalog, Fault> {
        Catalog::open_if(folder, archive_id, |_| true)
    }

    fn open_if(
        folder: &Path,
        archive_id: [u8; 16],
        is_good: impl FnOnce(&Catalog) -> bool,
    ) -> Result<Catalog, Fault> {
        let identity = [VERSION, &archive_id].concat();
        match DB::open(&options(), folder) {
            Ok(db) => {
                let catalog = Catalog { db, beside: None };
                match catalog.db.get(VERSION_KEY) {
                    Ok(Some(found)) if found == identity && is_good(&catalog) => return Ok(catalog),
                    Ok(None) if catalog.entries().is_ok_and(|entries| entries.is_empty()) => {
                        catalog.db.put(VERSION_KEY, &identity).map_err(|error| fault(&error))?;
                        return Ok(catalog);
                    }
                    _ => tracing::warn!("the catalog is damaged or of another archive: building it anew"),
                }
            }
            Err(error) if error.kind() == rocksdb::ErrorKind::Busy || error.to_string().contains("lock") => {
                return Err(fault(&error));
            }
            Err(error) => tracing::warn!(%error, "the catalog cannot be opened: building it anew"),
        }
        Catalog::create(folder, archive_id)
    }

    /// An empty catalog, whatever was there before.
    pub fn create(folder: &Path, archive_id: [u8; 16]) -> Result<Catalog, Fault> {
        let io = |error: std::io::Error| {
            Fault::stop(format!("cannot clear the catalog {}: {error}", folder.display()))
        };
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(io)?;
        let db = DB::open(&options(), folder).map_err(|error| fault(&error))?;
        db.put(VERSION_KEY, [VERSION, &archive_id].concat()).map_err(|error| fault(&error))?;
        Ok(Catalog { db, beside: None })
    }

    /// Opens it to look, beside an owner that may be at work. `None` where that does not go, or it is not this archive's.
    pub fn open_to_look(folder: &Path, archive_id: [u8; 16]) -> Option<Catalog> {
        if !folder.join("CURRENT").exists() {
            return None;
        }
        let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
        let beside = std::env::temp_dir().join(format!("pgsluice-look-{}-{unique}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&beside).ok()?;
        let mut options = options();
        options.set_max_open_files(-1);
        let Ok(db) = DB::open_as_secondary(&options, folder, &beside) else {
            let _ = std::fs::remove_dir_all(&beside);
            return None;
        };
        let catalog = Catalog { db, beside: Some(beside) };
        let identity = catalog.db.get(VERSION_KEY).ok().flatten();
        (identity? == [VERSION, &archive_id].concat()).then_some(catalog)
    }

    /// Whether every entry can be read; RocksDB checks its checksums on the way.
    fn is_readable(&self) -> bool {
        self.db.iterator(IteratorMode::Start).all(|entry| entry.is_ok())
    }

    /// All keys and values, in order.
    pub fn entries(&self) -> Result<Vec<Entry>, Fault> {
        let entries = self.db.iterator(IteratorMode::Start);
        entries.map(|entry| entry.map_err(|error| fault(&error))).collect()
    }

    fn scan(&self, start: Vec<u8>) -> impl Iterator<Item = Result<Entry, Fault>> {
        let kind = start.first().copied();
        let entries = self.db.iterator(IteratorMode::From(&start, Direction::Forward));
        entries
            .map(|entry| entry.map_err(|error| fault(&error)))
            .take_while(move |entry| entry.as_ref().map_or(true, |(key, _)| key.first().copied() == kind))
    }

    /// The segments that are indexed, in order.
    pub fn segments(&self) -> Result<Vec<SegmentRow>, Fault> {
        self.segments_from(Position::ZERO).collect()
    }

    /// Those that begin there or later, in order.
    pub fn segments_from(&self, after: Position) -> impl Iterator<Item = Result<SegmentRow, Fault>> {
        let rows = self.scan(key(SEGMENT, &[after.0]));
        rows.map(|row| row.and_then(|(key, value)| SegmentRow::decode(&key, &value).ok_or_else(odd)))
    }

    /// The segment that begins there.
    pub fn segment(&self, after: Position) -> Result<Option<SegmentRow>, Fault> {
        let first = self.segments_from(after).next().transpose()?;
        Ok(first.filter(|row| row.after == after))
    }

    /// What happened to tables, segment by segment from the one that begins there.
    pub fn tables_from(&self, after: Position) -> impl Iterator<Item = Result<TableRow, Fault>> {
        let rows = self.scan(key(TABLE, &[after.0]));
        rows.map(|row| row.and_then(|(key, value)| TableRow::decode(&key, &value).ok_or_else(odd)))
    }

    /// Pins, from the segment that begins there on.
    pub fn pins_from(&self, after: Position) -> impl Iterator<Item = Result<PinRow, Fault>> {
        let rows = self.scan(key(PIN, &[after.0]));
        rows.map(|row| row.and_then(|(key, value)| PinRow::decode(&key, &value).ok_or_else(odd)))
    }

    /// Whether it has all that a segment gives; `None` where it has another form of that segment, or none.
    pub fn agrees(&self, rows: &SegmentRows) -> Result<Option<bool>, Fault> {
        let same_form =
            |row: &SegmentRow| (row.through, row.bytes) == (rows.segment.through, rows.segment.bytes);
        let Some(row) = self.segment(rows.segment.after)?.filter(same_form) else { return Ok(None) };
        let mut is_same = row == rows.segment;
        for (key, value) in entries(rows) {
            is_same &= self.db.get(key).map_err(|error| fault(&error))?.is_some_and(|there| there == value);
        }
        Ok(Some(is_same))
    }

    fn frames_from(&self, position: Position) -> impl Iterator<Item = Result<FrameRow, Fault>> {
        let rows = self.scan(key(FRAME, &[position.0]));
        rows.map(|row| row.and_then(|(key, value)| FrameRow::decode(&key, &value).ok_or_else(odd)))
    }

    /// The first frame whose last commit ends at or behind the position.
    pub fn frame_at(&self, position: Position) -> Result<Option<FrameRow>, Fault> {
        self.frames_from(position).next().transpose()
    }

    /// The first frame, in the order of the log, with a commit at that time or later.
    pub fn frame_since(&self, time: Timestamp) -> Result<Option<FrameRow>, Fault> {
        let mut segments = self.segments()?.into_iter();
        let Some(segment) = segments.find(|segment| segment.transactions > 0 && segment.last_time >= time)
        else {
            return Ok(None);
        };
        let late =
            |frame: &Result<FrameRow, Fault>| frame.as_ref().map_or(true, |frame| frame.last_time >= time);
        self.frames_from(segment.after).find(late).transpose()
    }

    /// The frames that may hold a transaction of that xid; there may be several, since xids wrap.
    pub fn frames_of_xid(&self, xid: Xid) -> Result<Vec<FrameRow>, Fault> {
        let may = |frame: &FrameRow| (frame.xid_min..=frame.xid_max).contains(&xid.0);
        let frames = self.frames_from(Position::ZERO);
        frames.filter(|frame| frame.as_ref().map_or(true, may)).collect()
    }

    /// How a relation was described, from its first definition to its last.
    pub fn relation_history(&self, oid: u32) -> Result<Vec<RelationRow>, Fault> {
        let mut history: Vec<RelationRow> = Vec::new();
        for entry in self.scan(key(RELATION, &[oid.into()])) {
            let (key, message) = entry?;
            let [found, after, _, _] = key_numbers(&key).ok_or_else(odd)?;
            if found != u64::from(oid) {
                break;
            }
            if history.last().is_none_or(|last| *last.message != *message) {
                history.push(RelationRow { oid, after: Position(after), message: message.into() });
            }
        }
        Ok(history)
    }

    /// All definitions of relations: OID and message.
    pub fn relations(&self) -> impl Iterator<Item = Result<(u32, Box<[u8]>), Fault>> {
        self.scan(vec![RELATION]).map(|entry| {
            let (key, message) = entry?;
            let [oid, ..] = key_numbers::<4>(&key).ok_or_else(odd)?;
            Ok((u32::try_from(oid).map_err(|_| odd())?, message))
        })
    }

    /// Adds a sealed segment, whole or not at all. Adding it again changes nothing.
    pub fn index(&self, rows: &SegmentRows) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        entries(rows).for_each(|(key, value)| batch.put(key, value));
        self.db.write(batch).map_err(|error| fault(&error))
    }

    /// Takes out a segment that is no longer in the log.
    pub fn forget(&self, segment: &SegmentRow) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        for frame in self.frames_from(segment.after) {
            let frame = frame?;
            if frame.last > segment.through {
                break;
            }
            if frame.segment == segment.after {
                batch.delete(frame.key());
            }
        }
        for table in self.tables_from(segment.after) {
            let table = table?;
            if table.segment != segment.after {
                break;
            }
            // Its definitions hold from somewhere inside of the segment.
            for entry in self.scan(key(RELATION, &[table.oid.into(), segment.after.0])) {
                let (key, _) = entry?;
                let [oid, after, owner, _] = key_numbers(&key).ok_or_else(odd)?;
                if oid != u64::from(table.oid) || after > segment.through.0 {
                    break;
                }
                if owner == segment.after.0 {
                    batch.delete(key);
                }
            }
            batch.delete(table.key());
        }
        for pin in self.pins_from(segment.after) {
            let pin = pin?;
            if pin.segment != segment.after {
                break;
            }
            batch.delete(pin.key());
        }
        batch.delete(segment.key());
        self.db.write(batch).map_err(|error| fault(&error))
    }

    /// Writes what is in memory to its files.
    pub fn flush(&self) -> Result<(), Fault> {
        self.db.flush().map_err(|error| fault(&error))
    }
}

/// All that a segment gives, as keys and values.
fn entries(rows: &SegmentRows) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let segment = rows.segment.after;
    let frames = rows.frames.iter().map(|frame| (frame.key(), frame.value()));
    let tables = rows.tables.iter().map(|table| (table.key(), table.value()));
    let relations = rows.relations.iter().enumerate().map(move |(number, relation)| {
        (relation_key(relation.oid, relation.after, segment, number), relation.message.clone())
    });
    let own = std::iter::once((rows.segment.key(), rows.segment.value()));
    let pins = rows.pins.iter().map(|pin| (pin.key(), pin.value()));
    frames.chain(tables).chain(relations).chain(pins).chain(own)
}

fn odd() -> Fault {
    Fault::stop("the catalog has an entry that makes no sense")
        .hint("`pgsluice archive reindex` builds it anew from the segments")
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            let _ = std::fs::remove_dir_all(beside);
        }
    }
}
