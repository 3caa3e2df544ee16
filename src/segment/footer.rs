//! The footer: what a sealed segment tells of itself without its frames being read. Typed sections; a reader skips those
//! that it does not know.

use std::sync::Arc;

use crate::model::{Position, Timestamp, Xid};

use super::codec::Squeeze;
use super::take::{Take, put_block, put_varint, put_zigzag};
use super::{
    Codec, Commit, Damage, FrameHeader, HEADER_BYTES, Opener, PinEntry, RelationEntry, RelationVersion,
    Trailer, is_pin_name,
};

const MAGIC: [u8; 4] = *b"FOOT";
const FRAMES: u16 = 1;
const COMMITS: u16 = 2;
const RELATIONS: u16 = 3;
/// Only where there is one.
const PINS: u16 = 4;

/// More than any section of a segment of sensible size; bounds what a made-up length can ask for.
const SECTION_BYTES_MAX: usize = 1 << 30;

/// A frame and where it starts in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    pub offset: u64,
    pub header: FrameHeader,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    pub frames: Vec<FrameEntry>,
    /// In the order of the log; a frame's are found by counting `transactions` of the frames before it.
    pub commits: Vec<Commit>,
    /// Ordered by OID.
    pub relations: Vec<RelationEntry>,
    /// In the order of the log.
    pub pins: Vec<PinEntry>,
}

impl Footer {
    /// Appends the footer's bytes.
    pub(super) fn encode<'a>(
        after: Position,
        frames: &[FrameEntry],
        commits: &[Commit],
        relations: impl ExactSizeIterator<Item = &'a RelationEntry>,
        pins: &[PinEntry],
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&MAGIC);
        let mut squeeze = Squeeze::new(3);
        let always = [
            (FRAMES, encode_frames(after, frames)),
            (COMMITS, encode_commits(after, commits)),
            (RELATIONS, encode_relations(after, relations)),
        ];
        let pins = (!pins.is_empty()).then(|| (PINS, encode_pins(after, pins)));
        for (kind, raw) in always.into_iter().chain(pins) {
            let (codec, stored) = squeeze.encode(&raw);
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&[codec.number(), 0]);
            out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
            out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
            out.extend_from_slice(stored);
        }
    }

    /// Reads the footer that the trailer speaks of. `after` is the header's.
    pub fn decode(
        bytes: &[u8],
        trailer: &Trailer,
        after: Position,
        opener: &Opener,
    ) -> Result<Footer, Damage> {
        if crc32c::crc32c(bytes) != trailer.footer_checksum {
            return Err(Damage::Checksum("the segment footer"));
        }
        let opened = opener.open(bytes, || trailer.about(), "the segment footer")?;
        Footer::sections(&opened, after)
    }

    fn sections(bytes: &[u8], after: Position) -> Result<Footer, Damage> {
        let mut take = Take::new(bytes, "the segment footer");
        if take.array()? != MAGIC {
            return Err(take.malformed());
        }
        let mut footer = Footer::default();
        let mut decompressor = zstd::bulk::Decompressor::default();
        while !take.is_empty() {
            let kind = take.u16()?;
            let codec = take.u8()?;
            take.u8()?;
            let raw_len = take.u32()? as usize;
            let stored_len = take.u32()? as usize;
            let stored = take.bytes(stored_len)?;
            if !matches!(kind, FRAMES | COMMITS | RELATIONS | PINS) {
                continue;
            }
            if raw_len > SECTION_BYTES_MAX {
                return Err(take.malformed());
            }
            let codec = Codec::plain(codec, "a footer section")?;
            let raw = codec.decode(stored, raw_len, &mut decompressor, "a footer section")?;
            let mut section = Take::new(&raw, "a footer section");
            match kind {
                FRAMES => footer.frames = decode_frames(after, &mut section)?,
                COMMITS => footer.commits = decode_commits(after, &mut section)?,
                RELATIONS => footer.relations = decode_relations(after, &mut section)?,
                _ => footer.pins = decode_pins(after, &mut section)?,
            }
            if !section.is_empty() {
                return Err(section.malformed());
            }
        }
        Ok(footer)
    }
}

fn flags(header: &FrameHeader) -> u8 {
    header.codec.number() << 4
        | u8::from(header.ends_on_commit)
        | u8::from(header.has_relations) << 1
        | u8::from(header.starts_in_transaction) << 2
}

/// Columns, since like things side by side compress well: flags, lengths, counts, positions.
fn encode_frames(after: Position, frames: &[FrameEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, frames.len() as u64);
    let headers = || frames.iter().map(|frame| &frame.header);
    out.extend(headers().map(flags));
    headers().for_each(|header| put_varint(&mut out, header.raw_len.into()));
    headers().for_each(|header| put_varint(&mut out, header.stored_len.into()));
    headers().for_each(|header| put_varint(&mut out, header.transactions.into()));
    headers().for_each(|header| put_varint(&mut out, header.changes.into()));
    let mut previous = after;
    for header in headers() {
        put_varint(&mut out, header.first.0.wrapping_sub(previous.0));
        put_varint(&mut out, header.through.0.wrapping_sub(header.first.0));
        previous = header.through;
    }
    out
}

fn decode_frames(after: Position, take: &mut Take<'_>) -> Result<Vec<FrameEntry>, Damage> {
    let count = take.count()?;
    let malformed = take.malformed();
    let flags = take.bytes(count)?;
    let mut column = || -> Result<Vec<u32>, Damage> {
        (0..count).map(|_| u32::try_from(take.varint()?).map_err(|_| malformed.clone())).collect()
    };
    let (raw, stored, transactions, changes) = (column()?, column()?, column()?, column()?);
    let mut frames = Vec::with_capacity(count);
    let (mut offset, mut previous) = (HEADER_BYTES as u64, after);
    for ((((flags, raw_len), stored_len), transactions), changes) in
        flags.iter().zip(raw).zip(stored).zip(transactions).zip(changes)
    {
        let first = Position(previous.0.wrapping_add(take.varint()?));
        let through = Position(first.0.wrapping_add(take.varint()?));
        let header = FrameHeader {
            codec: Codec::from_number(flags >> 4)?,
            ends_on_commit: flags & 1 != 0,
            has_relations: flags & 2 != 0,
            starts_in_transaction: flags & 4 != 0,
            raw_len,
            stored_len,
            transactions,
            changes,
            first,
            through,
        };
        frames.push(FrameEntry { offset, header });
        offset = offset.saturating_add(header.len());
        previous = through;
    }
    Ok(frames)
}

/// Commit records end at multiples of 8 (MAXALIGN), so their distances mostly fit one byte when divided by 8.
fn encode_commits(after: Position, commits: &[Commit]) -> Vec<u8> {
    let ends = || {
        let previous = std::iter::once(after).chain(commits.iter().map(|commit| commit.end));
        commits.iter().zip(previous).map(|(commit, previous)| commit.end.0.wrapping_sub(previous.0))
    };
    let shift: u8 = if ends().all(|delta| delta % 8 == 0) { 3 } else { 0 };
    let mut out = Vec::with_capacity(commits.len().saturating_mul(6));
    put_varint(&mut out, commits.len() as u64);
    out.push(shift);
    ends().for_each(|delta| put_varint(&mut out, delta >> shift));
    let mut time = 0i64;
    for commit in commits {
        put_zigzag(&mut out, commit.time.0.wrapping_sub(time));
        time = commit.time.0;
    }
    let mut xid = 0u32;
    for commit in commits {
        put_zigzag(&mut out, i64::from(commit.xid.0.wrapping_sub(xid) as i32));
        xid = commit.xid.0;
    }
    out
}

fn decode_commits(after: Position, take: &mut Take<'_>) -> Result<Vec<Commit>, Damage> {
    let count = take.count()?;
    let shift = take.u8()?;
    if shift > 3 {
        return Err(take.malformed());
    }
    let mut commits = Vec::with_capacity(count);
    let mut end = after.0;
    for _ in 0..count {
        end = end.wrapping_add(take.varint()? << shift);
        commits.push(Commit { end: Position(end), time: Timestamp(0), xid: Xid(0) });
    }
    let mut time = 0i64;
    for commit in &mut commits {
        time = time.wrapping_add(take.zigzag()?);
        commit.time = Timestamp(time);
    }
    let mut xid = 0u32;
    for commit in &mut commits {
        xid = xid.wrapping_add(take.zigzag()? as u32);
        commit.xid = Xid(xid);
    }
    Ok(commits)
}

fn encode_relations<'a>(
    after: Position,
    relations: impl ExactSizeIterator<Item = &'a RelationEntry>,
) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, relations.len() as u64);
    for relation in relations {
        put_varint(&mut out, relation.oid.into());
        put_block(&mut out, &relation.schema);
        put_block(&mut out, &relation.name);
        for count in
            [relation.inserts, relation.updates, relation.deletes, relation.truncates, relation.bytes]
        {
            put_varint(&mut out, count);
        }
        put_varint(&mut out, relation.versions.len() as u64);
        for version in &relation.versions {
            put_varint(&mut out, version.frame.into());
            put_varint(&mut out, version.after.0.wrapping_sub(after.0));
            put_block(&mut out, &version.message);
        }
    }
    out
}

fn decode_relations(after: Position, take: &mut Take<'_>) -> Result<Vec<RelationEntry>, Damage> {
    let malformed = take.malformed();
    let narrow = |value: u64| u32::try_from(value).map_err(|_| malformed.clone());
    let mut relations = Vec::new();
    for _ in 0..take.count()? {
        let mut relation = RelationEntry {
            oid: narrow(take.varint()?)?,
            schema: take.block()?.into(),
            name: take.block()?.into(),
            inserts: take.varint()?,
            updates: take.varint()?,
            deletes: take.varint()?,
            truncates: take.varint()?,
            bytes: take.varint()?,
            versions: Vec::new(),
        };
        for _ in 0..take.count()? {
            relation.versions.push(RelationVersion {
                frame: narrow(take.varint()?)?,
                after: Position(after.0.wrapping_add(take.varint()?)),
                message: Arc::from(take.block()?),
            });
        }
        relations.push(relation);
    }
    Ok(relations)
}

fn encode_pins(after: Position, pins: &[PinEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, pins.len() as u64);
    for pin in pins {
        put_varint(&mut out, pin.end.0.wrapping_sub(after.0));
        put_block(&mut out, pin.name.as_bytes());
    }
    out
}

fn decode_pins(after: Position, take: &mut Take<'_>) -> Result<Vec<PinEntry>, Damage> {
    let malformed = take.malformed();
    let mut pins = Vec::new();
    for _ in 0..take.count()? {
        let end = Position(after.0.wrapping_add(take.varint()?));
        let name = take.block()?;
        if !is_pin_name(name) {
            return Err(malformed);
        }
        pins.push(PinEntry { name: String::from_utf8_lossy(name).into_owned(), end });
    }
    Ok(pins)
}
