//! Looking at the log without being its writer: what `archive list`, `archive show` and `status` tell. Takes no lock.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::catalog::{SegmentRow, TableRow};
use crate::model::{Fault, Position, Timestamp};
use crate::segment::{
    FRAME_HEADER_BYTES, Footer, FrameCheck, HEADER_BYTES, Header, RelationEntry, SegmentName, Totals,
};

use super::folder::left_behind;
use super::known::Known;
use super::segment_file::damaged;
use super::{Archive, Mark, SegmentFile, disk};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentState {
    Sealed,
    Open,
}

/// A line of `archive list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentSummary {
    pub name: String,
    pub state: SegmentState,
    pub after: Position,
    pub through: Position,
    /// On disk; of the open one what is durable.
    pub bytes: u64,
    pub raw_bytes: u64,
    pub transactions: u64,
    pub changes: u64,
    /// The least and the greatest commit time.
    pub first_time: Option<Timestamp>,
    pub last_time: Option<Timestamp>,
}

/// `archive show` of one segment.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentDetail {
    #[serde(flatten)]
    pub summary: SegmentSummary,
    pub archive_id: String,
    /// A string, since JSON numbers are not safe for 64 bits.
    pub system_identifier: String,
    pub timeline: u32,
    /// The chain's value where it begins and where it ends.
    pub chain_start: String,
    pub chain_end: String,
    pub frames: Vec<FrameSummary>,
    pub relations: Vec<RelationSummary>,
}

#[derive(Clone, Debug, Serialize)]
pub struct FrameSummary {
    pub offset: u64,
    pub through: Position,
    pub bytes: u64,
    pub raw_bytes: u64,
    pub transactions: u64,
    pub changes: u64,
    pub ends_on_commit: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct RelationSummary {
    pub oid: u32,
    pub name: String,
    #[serde(flatten)]
    pub events: Events,
    /// How many definitions the segment holds.
    pub versions: usize,
}

/// What happened to one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Of the change messages.
    pub bytes: u64,
}

/// What `status` tells of the archive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArchiveTotals {
    pub first_lsn: Position,
    pub last_lsn: Position,
    pub segments: u64,
    pub bytes: u64,
    pub raw_bytes: u64,
    pub transactions: u64,
    pub changes: u64,
    /// The least and the greatest commit time.
    pub first_time: Option<Timestamp>,
    pub last_time: Option<Timestamp>,
    pub tables: Vec<TableTotals>,
    pub levels: Vec<Level>,
}

/// Segments of about one size: merged ones are in a higher level than those that they were made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Level {
    /// All are smaller: 1 MiB in the lowest level, four times as much in each next one.
    pub below_bytes: u64,
    pub segments: u64,
    pub bytes: u64,
}

impl Level {
    fn bound(bytes: u64) -> u64 {
        let mut bound = 1 << 20;
        while bound <= bytes && bound < 1 << 60 {
            bound <<= 2;
        }
        bound
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableTotals {
    /// `schema.name`, unquoted.
    pub name: String,
    #[serde(flatten)]
    pub events: Events,
}

impl Events {
    fn of(relation: &RelationEntry) -> Events {
        Events {
            inserts: relation.inserts,
            updates: relation.updates,
            deletes: relation.deletes,
            truncates: relation.truncates,
            bytes: relation.bytes,
        }
    }

    fn of_row(row: &TableRow) -> Events {
        let TableRow { inserts, updates, deletes, truncates, bytes, .. } = *row;
        Events { inserts, updates, deletes, truncates, bytes }
    }

    fn add(&mut self, other: Events) {
        self.inserts = self.inserts.saturating_add(other.inserts);
        self.updates = self.updates.saturating_add(other.updates);
        self.deletes = self.deletes.saturating_add(other.deletes);
        self.truncates = self.truncates.saturating_add(other.truncates);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    pub fn total(self) -> u64 {
        [self.updates, self.deletes, self.truncates].into_iter().fold(self.inserts, u64::saturating_add)
    }
}

/// A segment's content, be it sealed or still open.
pub(super) struct Contents {
    pub(super) name: SegmentName,
    pub(super) header: Header,
    pub(super) chain: [u8; 32],
    pub(super) through: Position,
    pub(super) bytes: u64,
    pub(super) totals: Totals,
    pub(super) footer: Footer,
}

/// Does it again when a segment was sealed, and thus renamed, at this moment.
pub(super) fn steadily<T>(mut act: impl FnMut() -> Result<Option<T>, Fault>) -> Result<T, Fault> {
    for _ in 0..10 {
        if let Some(result) = act()? {
            return Ok(result);
        }
    }
    Err(Fault::retry("segments come and go while they are listed"))
}

/// Reads a segment's content. `None` where it was renamed meanwhile.
pub(super) fn contents(archive: &Archive, name: SegmentName) -> Result<Option<Contents>, Fault> {
    let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(None) };
    let header = file.header().clone();
    if name.through.is_some() {
        let (trailer, footer) = file.sealed(name)?;
        let (chain, through, totals) = (trailer.chain, trailer.through, trailer.totals);
        return Ok(Some(Contents {
            name,
            header,
            chain,
            through,
            bytes: file.size_bytes()?,
            totals,
            footer,
        }));
    }
    let mark = Mark::read(archive.root())
        .map_err(|error| disk::fault("cannot read the durable mark in", archive.root(), &error))?;
    let limit = match mark {
        Some(mark) if mark.segment == name.after => mark.offset,
        Some(mark) if mark.segment > name.after => return Ok(None),
        _ => HEADER_BYTES as u64,
    };
    let mut check = FrameCheck::new(&header, archive.keys());
    while check.end() < limit {
        let flaw = |flaw: crate::segment::Flaw| damaged(name, flaw.offset, &flaw.damage);
        let frame = check.next(&file.bytes(check.end(), FRAME_HEADER_BYTES)?, limit).map_err(flaw)?;
        let bytes = file.bytes(check.end(), FRAME_HEADER_BYTES.saturating_add(frame.stored_len as usize))?;
        check.frame(&bytes).map_err(flaw)?;
    }
    let ledger = check.ledger();
    let footer = Footer {
        frames: check.frames().to_vec(),
        commits: ledger.commits().to_vec(),
        relations: ledger.relations().cloned().collect(),
        pins: ledger.pins().to_vec(),
    };
    let (chain, through, totals) = (ledger.chain(), ledger.through(), ledger.totals());
    Ok(Some(Contents { name, header, chain, through, bytes: limit, totals, footer }))
}

fn summary(name: SegmentName, through: Position, bytes: u64, totals: Totals) -> SegmentSummary {
    let some = totals.transactions > 0;
    SegmentSummary {
        name: name.to_string(),
        state: if name.through.is_some() { SegmentState::Sealed } else { SegmentState::Open },
        after: name.after,
        through,
        bytes,
        raw_bytes: totals.raw_bytes,
        transactions: totals.transactions,
        changes: totals.changes,
        first_time: some.then_some(totals.first_time),
        last_time: some.then_some(totals.last_time),
    }
}

fn sealed_summary(name: SegmentName, row: &SegmentRow) -> SegmentSummary {
    let totals = Totals {
        transactions: row.transactions,
        changes: row.changes,
        raw_bytes: row.raw_bytes,
        first_time: row.first_time,
        last_time: row.last_time,
    };
    summary(name, row.through, row.bytes, totals)
}

/// Which part of a listing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Only so many, the newest ones.
    pub last: Option<usize>,
    /// Only those that begin before that.
    pub before: Option<Position>,
}

/// Segments in order, and how many there are in all.
#[derive(Clone, Debug)]
pub struct Listed {
    pub segments: Vec<SegmentSummary>,
    pub segments_total: usize,
}

/// All segments in order.
pub fn list(archive: &Archive) -> Result<Vec<SegmentSummary>, Fault> {
    Ok(list_page(archive, Page::default())?.segments)
}

/// A part of the segments, in order; no others are looked into.
pub fn list_page(archive: &Archive, page: Page) -> Result<Listed, Fault> {
    steadily(|| {
        let mut names = archive.listing()?;
        if let Some((name, end)) = archive.passed_by(&names) {
            tracing::warn!("{}", left_behind(archive, name, end));
        }
        let (segments_total, beginning) = (names.len(), names.first().map(|name| name.after));
        names.retain(|name| page.before.is_none_or(|before| name.after < before));
        let names = names.split_off(names.len().saturating_sub(page.last.unwrap_or(usize::MAX)));
        let Some(known) = Known::of(archive, &names, beginning.unwrap_or_default())? else { return Ok(None) };
        let mut segments = Vec::with_capacity(names.len());
        for name in names {
            let line = match known.segment(name) {
                Some(row) => Some(sealed_summary(name, row)),
                None => {
                    contents(archive, name)?.map(|open| summary(name, open.through, open.bytes, open.totals))
                }
            };
            let Some(line) = line else { return Ok(None) };
            segments.push(line);
        }
        Ok(Some(Listed { segments, segments_total }))
    })
}

/// One segment by its name, or by the position that it holds or begins after.
pub fn show(archive: &Archive, segment: &str) -> Result<SegmentDetail, Fault> {
    let position: Option<Position> = segment.parse().ok();
    steadily(|| {
        let listing = archive.listing()?;
        let chosen = listing.iter().find(|name| match position {
            Some(position) => position >= name.after && name.through.is_none_or(|through| position < through),
            None => name.to_string() == segment,
        });
        let Some(name) = chosen else {
            return Err(Fault::usage(format!("the archive has no segment {segment}"))
                .hint("`pgsluice archive list` names them; an LSN chooses the one that holds it"));
        };
        Ok(contents(archive, *name)?.map(|contents| detail(&contents)))
    })
}

fn detail(contents: &Contents) -> SegmentDetail {
    let hex = |bytes: [u8; 32]| blake3::Hash::from_bytes(bytes).to_hex().to_string();
    let frames = contents.footer.frames.iter().map(|frame| FrameSummary {
        offset: frame.offset,
        through: frame.header.through,
        bytes: frame.header.len(),
        raw_bytes: frame.header.raw_len.into(),
        transactions: frame.header.transactions.into(),
        changes: frame.header.changes.into(),
        ends_on_commit: frame.header.ends_on_commit,
    });
    let relations = contents.footer.relations.iter().map(|relation| RelationSummary {
        oid: relation.oid,
        name: table_name(relation),
        events: Events::of(relation),
        versions: relation.versions.len(),
    });
    SegmentDetail {
        summary: summary(contents.name, contents.through, contents.bytes, contents.totals),
        archive_id: super::ArchiveId(contents.header.archive_id).to_string(),
        system_identifier: contents.header.system_identifier.to_string(),
        timeline: contents.header.timeline,
        chain_start: hex(contents.header.chain),
        chain_end: hex(contents.chain),
        frames: frames.collect(),
        relations: relations.collect(),
    }
}

pub(super) fn table_name(relation: &RelationEntry) -> String {
    format!("{}.{}", String::from_utf8_lossy(&relation.schema), String::from_utf8_lossy(&relation.name))
}

/// Sums over all segments, table by table.
pub fn totals(archive: &Archive) -> Result<ArchiveTotals, Fault> {
    steadily(|| {
        let start = archive.manifest().start;
        let mut totals = ArchiveTotals {
            first_lsn: start,
            last_lsn: start,
            segments: 0,
            bytes: 0,
            raw_bytes: 0,
            transactions: 0,
            changes: 0,
            first_time: None,
            last_time: None,
            tables: Vec::new(),
            levels: Vec::new(),
        };
        let mut levels: BTreeMap<u64, Level> = BTreeMap::new();
        // By OID, each with where its name was seen last.
        let mut tables: BTreeMap<u32, (Position, TableTotals)> = BTreeMap::new();
        let mut add = |segment: Position, oid: u32, name: &str, events: Events| {
            let (named, table) = tables.entry(oid).or_insert_with(|| {
                (segment, TableTotals { name: name.to_owned(), events: Events::default() })
            });
            if *named <= segment && table.name != name {
                (*named, table.name) = (segment, name.to_owned());
            }
            table.events.add(events);
        };
        let listing = archive.listing()?;
        let beginning = listing.first().map_or(start, |name| name.after);
        let Some(known) = Known::of(archive, &listing, beginning)? else { return Ok(None) };
        known.tables(|row| add(row.segment, row.oid, &row.name, Events::of_row(row)))?;
        totals.first_lsn = beginning;
        for name in listing {
            let line = match known.segment(name) {
                Some(row) => sealed_summary(name, row),
                None => {
                    let Some(open) = contents(archive, name)? else { return Ok(None) };
                    for relation in &open.footer.relations {
                        add(name.after, relation.oid, &table_name(relation), Events::of(relation));
                    }
                    summary(name, open.through, open.bytes, open.totals)
                }
            };
            totals.last_lsn = line.through;
            totals.segments += 1;
            totals.bytes = totals.bytes.saturating_add(line.bytes);
            totals.raw_bytes = totals.raw_bytes.saturating_add(line.raw_bytes);
            let below_bytes = Level::bound(line.bytes);
            let level = levels.entry(below_bytes).or_insert(Level { below_bytes, segments: 0, bytes: 0 });
            level.segments += 1;
            level.bytes = level.bytes.saturating_add(line.bytes);
            totals.transactions = totals.transactions.saturating_add(line.transactions);
            totals.changes = totals.changes.saturating_add(line.changes);
            totals.first_time = [totals.first_time, line.first_time].into_iter().flatten().min();
            totals.last_time = totals.last_time.max(line.last_time);
        }
        // A table that was dropped and made again has two OIDs and one name.
        let mut by_name: BTreeMap<String, Events> = BTreeMap::new();
        for (_, table) in tables.into_values() {
            by_name.entry(table.name).or_default().add(table.events);
        }
        totals.levels = levels.into_values().collect();
        totals.tables = by_name.into_iter().map(|(name, events)| TableTotals { name, events }).collect();
        Ok(Some(totals))
    })
}

/// How many transactions, and how many events by `schema.table`.
pub type TransactionsAndEvents = (u64, BTreeMap<String, u64>);

/// Of sealed segments that follow each other. `None` where one went away meanwhile.
pub fn events(archive: &Archive, names: &[SegmentName]) -> Result<Option<TransactionsAndEvents>, Fault> {
    let Some(known) = Known::of(archive, names, Position::ZERO)? else { return Ok(None) };
    let transactions = names.iter().filter_map(|name| known.segment(*name)).map(|row| row.transactions).sum();
    let mut tables = BTreeMap::new();
    known.tables(|row| match tables.get_mut(&row.name) {
        Some(events) => *events += Events::of_row(row).total(),
        None => _ = tables.insert(row.name.clone(), Events::of_row(row).total()),
    })?;
    Ok(Some((transactions, tables)))
}
