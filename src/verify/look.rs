//! A segment by itself.

use std::cell::RefCell;

use crate::archive::known::Index;
use crate::archive::{Archive, Mark, SegmentFile};
use crate::model::{Fault, Position, Remedy};
use crate::pgoutput;
use crate::segment::{
    Checked, Damage, FRAME_HEADER_BYTES, Flaw, FrameCheck, FrameHeader, HEADER_BYTES, Records, SegmentName,
    TRAILER_BYTES, check_ends, check_sealed,
};

/// Objects are read in pieces of at least this length.
const PIECE_BYTES: usize = 4 << 20;

/// What was found.
#[derive(Default)]
pub(super) struct Finding {
    /// The chain's value in its header; none where that can't be read.
    pub(super) chain: Option<[u8; 32]>,
    /// Whether it is encrypted, as far as its header can be read.
    pub(super) encrypted: Option<bool>,
    /// None where something is wrong with it.
    pub(super) sound: Option<Sound>,
    /// The byte that is looked at.
    pub(super) at: Option<u64>,
    /// What is wrong, and at which byte.
    pub(super) flaws: Vec<(Option<u64>, String)>,
}

/// What a sound segment gives to the next.
pub(super) struct Sound {
    pub(super) through: Position,
    pub(super) chain: [u8; 32],
    pub(super) bytes: u64,
    pub(super) transactions: u64,
    pub(super) changes: u64,
    /// The catalog has it.
    pub(super) is_indexed: bool,
}

/// Why a segment could not be gone through.
enum Trouble {
    Flaw(Flaw),
    Fault(Fault),
}

impl From<Flaw> for Trouble {
    fn from(flaw: Flaw) -> Trouble {
        Trouble::Flaw(flaw)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Fault(fault)
    }
}

/// Looks at a segment. `None` where it is gone, under this name. A fault where it can't be told what is wrong with it.
pub(super) fn look(
    archive: &Archive,
    index: &Index,
    quick: bool,
    name: SegmentName,
) -> Result<Option<Finding>, Fault> {
    let mut finding = Finding::default();
    let trouble = match go_through(archive, index, quick, name, &mut finding) {
        Ok(true) => return Ok(Some(finding)),
        Ok(false) => return Ok(None),
        Err(trouble) => trouble,
    };
    let flaw = match trouble {
        Trouble::Flaw(flaw) => match flaw.damage.locked(format_args!("segment {name}")) {
            Some(fault) => return Err(fault),
            None => (Some(flaw.offset), flaw.damage.to_string()),
        },
        Trouble::Fault(fault) if fault.remedy == Remedy::Person => (finding.at, fault.message),
        // It was pruned, or replaced.
        Trouble::Fault(_) if archive.size_bytes(name)?.is_none() => return Ok(None),
        // What a disk can't read is damaged; a store that is away, or lets nobody in, says nothing of its objects.
        Trouble::Fault(fault) if fault.remedy == Remedy::Stop && !archive.is_stored(name) => {
            (finding.at, fault.message)
        }
        Trouble::Fault(fault) => return Err(fault),
    };
    finding.sound = None;
    finding.flaws.push(flaw);
    Ok(Some(finding))
}

/// `false` where it is gone.
fn go_through(
    archive: &Archive,
    index: &Index,
    quick: bool,
    name: SegmentName,
    finding: &mut Finding,
) -> Result<bool, Trouble> {
    finding.at = Some(0);
    let Some(mut file) = SegmentFile::open_stored(archive, name)? else { return Ok(false) };
    finding.chain = Some(file.header().chain);
    finding.encrypted = Some(file.header().encrypted);
    if name.through.is_none() {
        let Some(limit) = open_limit(archive, name)? else { return Ok(false) };
        finding.sound = Some(open(archive, &file, limit)?);
        return Ok(true);
    }
    let bytes = file.size_bytes()?;
    finding.at = bytes.checked_sub(TRAILER_BYTES as u64);
    // Compares it with the name.
    let trailer = file.trailer(name)?;
    finding.at = Some(trailer.footer_offset);
    let checked = if quick { ends(&mut file, name)? } else { whole(archive, &file, bytes)? };
    let Checked { trailer, footer, .. } = &checked;
    let agrees = index.agrees(name, (trailer, footer), bytes);
    if agrees == Some(false) {
        let what = "the catalog says something else of it; `pgsluice archive reindex` builds it anew";
        finding.flaws.push((None, what.into()));
    }
    finding.sound = Some(Sound {
        through: trailer.through,
        chain: trailer.chain,
        bytes,
        transactions: trailer.totals.transactions,
        changes: trailer.totals.changes,
        is_indexed: agrees == Some(true),
    });
    Ok(true)
}

fn ends(file: &mut SegmentFile, name: SegmentName) -> Result<Checked, Trouble> {
    let (trailer, footer) = file.sealed(name)?;
    let header = file.header().clone();
    check_ends(&header, &trailer, &footer)?;
    Ok(Checked { header, trailer, footer })
}

fn whole(archive: &Archive, file: &SegmentFile, length: u64) -> Result<Checked, Trouble> {
    let piece = RefCell::new((0, Vec::new()));
    let read = |offset: u64, count: usize| {
        let mut piece = piece.borrow_mut();
        let within = |piece: &(u64, Vec<u8>)| {
            let start = usize::try_from(offset.checked_sub(piece.0)?).ok()?;
            piece.1.get(start..start.checked_add(count)?).map(<[u8]>::to_vec)
        };
        if let Some(bytes) = within(&piece) {
            return Ok(bytes);
        }
        let ahead = length.saturating_sub(offset).min(PIECE_BYTES as u64) as usize;
        *piece = (offset, file.bytes(offset, count.max(ahead))?);
        Ok::<_, Trouble>(within(&piece).unwrap_or_default())
    };
    check_sealed(length, archive.keys(), read, |_, raw| decodes(raw))
}

/// How much of an open segment is durable. `None` where it is not open any more.
fn open_limit(archive: &Archive, name: SegmentName) -> Result<Option<u64>, Fault> {
    let mark = Mark::read(archive.root());
    let mark =
        mark.map_err(|error| Fault::stop(format!("cannot read the archive's durable mark: {error}")))?;
    Ok(match mark {
        Some(mark) if mark.segment == name.after => Some(mark.offset),
        Some(mark) if mark.segment > name.after => None,
        _ => Some(HEADER_BYTES as u64),
    })
}

fn open(archive: &Archive, file: &SegmentFile, limit: u64) -> Result<Sound, Trouble> {
    let mut check = FrameCheck::new(file.header(), archive.keys());
    while check.end() < limit {
        let header: FrameHeader = check.next(&file.bytes(check.end(), FRAME_HEADER_BYTES)?, limit)?;
        let bytes = file.bytes(check.end(), FRAME_HEADER_BYTES.saturating_add(header.stored_len as usize))?;
        let raw = check.frame(&bytes)?;
        decodes(&raw).map_err(|damage| check.flaw(damage))?;
    }
    let totals = check.ledger().totals();
    Ok(Sound {
        through: check.ledger().through(),
        chain: check.ledger().chain(),
        bytes: limit,
        transactions: totals.transactions,
        changes: totals.changes,
        is_indexed: false,
    })
}

/// Whether every message can be read as the applier will.
fn decodes(raw: &[u8]) -> Result<(), Damage> {
    for message in Records::new(raw) {
        pgoutput::decode(message?).map_err(|_| Damage::Malformed("a pgoutput message"))?;
    }
    Ok(())
}
