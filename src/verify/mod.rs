//! Proof that the log is what was received. Hides how: every checksum, every length, every message decoded, everything
//! that a segment says of itself worked out again, the chain of hashes recomputed from the first message to the last,
//! and each segment's place in the archive.
//!
//! Deliberately absent: mending. What is damaged is restored from a copy.

use serde::Serialize;

use crate::archive::{Archive, Mark, SegmentFile};
use crate::model::{Fault, Position};
use crate::pgoutput;
use crate::segment::{
    Damage, FRAME_HEADER_BYTES, Flaw, FrameCheck, FrameHeader, HEADER_BYTES, Records, SegmentName,
    check_sealed,
};

/// What `archive verify` has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub segments: u64,
    pub bytes: u64,
    pub transactions: u64,
    pub changes: u64,
    /// The range that was looked at.
    pub first_lsn: Position,
    pub last_lsn: Position,
    /// The chain's value at the end, in hex: the same for two archives if and only if they hold the same transactions.
    pub chain: String,
    /// Empty where all is well.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A segment's name; none where it is the log as a whole.
    pub segment: Option<String>,
    /// Where in the segment's file.
    pub offset: Option<u64>,
    /// The transactions in doubt are those that end in `(after, through]`; open at the end where that is not known.
    pub after: Position,
    pub through: Option<Position>,
    pub what: String,
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub segments: usize,
    pub segments_total: usize,
    pub bytes: u64,
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

/// What a sound segment gives to the next.
struct Sound {
    through: Position,
    chain: [u8; 32],
    bytes: u64,
    transactions: u64,
    changes: u64,
}

/// Goes through the whole archive, also while a receiver runs. A fault only where it can't be read at all; what is
/// wrong with it is in the report.
pub fn verify(archive: &Archive, mut progress: impl FnMut(Progress)) -> Result<Report, Fault> {
    // Before the listing: what a receiver adds meanwhile is not missed.
    let mark = Mark::read(archive.root());
    let mark =
        mark.map_err(|error| Fault::stop(format!("cannot read the archive's durable mark: {error}")))?;
    let listing = archive.listing()?;
    let start = listing.first().map_or(archive.manifest().start, |name| name.after);
    let mut report = Report {
        segments: 0,
        bytes: 0,
        transactions: 0,
        changes: 0,
        first_lsn: start,
        last_lsn: start,
        chain: String::new(),
        problems: Vec::new(),
    };
    // The first segment of all has nothing before it; an archive's own first begins the chain.
    let mut chain = (start == archive.manifest().start).then_some([0; 32]);
    for (number, listed) in listing.iter().enumerate() {
        progress(Progress { segments: number, segments_total: listing.len(), bytes: report.bytes });
        let mut name = *listed;
        let known = report.problems.len();
        let mut checked = segment(archive, name, &mut chain, &mut report)?;
        if checked.is_none() {
            // It was sealed since it was listed.
            if let Some(renamed) = archive.listing()?.into_iter().find(|other| other.after == name.after) {
                name = renamed;
                checked = segment(archive, name, &mut chain, &mut report)?;
            }
        }
        if !matches!(checked, Some(Some(_)))
            && let Some(through) = name.through
            && archive.beginning()? >= through
        {
            // It was pruned since it was listed, and all before it.
            report.problems.truncate(known);
            (report.first_lsn, report.last_lsn, chain) = (through, through, None);
            continue;
        }
        if name.after != report.last_lsn {
            let what = if name.after > report.last_lsn { "segments are missing" } else { "segments overlap" };
            report.problems.push(Problem {
                segment: None,
                offset: None,
                after: report.last_lsn.min(name.after),
                through: Some(report.last_lsn.max(name.after)),
                what: format!("{what} before {name}"),
            });
        }
        let sound = checked.flatten();
        report.segments += 1;
        report.last_lsn = report.last_lsn.max(match (&sound, name.through) {
            (Some(sound), _) => sound.through,
            (None, Some(through)) => through,
            (None, None) => name.after,
        });
        chain = sound.as_ref().map(|sound| sound.chain);
        if let Some(sound) = sound {
            report.bytes += sound.bytes;
            report.transactions += sound.transactions;
            report.changes += sound.changes;
        }
    }
    if let Some(mark) = mark
        && mark.position > report.last_lsn
    {
        report.problems.push(Problem {
            segment: None,
            offset: None,
            after: report.last_lsn,
            through: Some(mark.position),
            what: "what was acknowledged to the source is missing at the end of the log".into(),
        });
    }
    report.chain =
        chain.map(|chain| blake3::Hash::from_bytes(chain).to_hex().to_string()).unwrap_or_default();
    progress(Progress { segments: listing.len(), segments_total: listing.len(), bytes: report.bytes });
    Ok(report)
}

/// A fault where its key is missing; `None` where the file is gone; `Some(None)` where something is wrong, which is then in the report.
fn segment(
    archive: &Archive,
    name: SegmentName,
    chain: &mut Option<[u8; 32]>,
    report: &mut Report,
) -> Result<Option<Option<Sound>>, Fault> {
    let mut problem = |offset: Option<u64>, what: String| {
        report.problems.push(Problem {
            segment: Some(name.to_string()),
            offset,
            after: name.after,
            through: name.through,
            what,
        });
    };
    let mut file = match SegmentFile::open(archive, name) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(fault) => {
            problem(None, fault.message);
            return Ok(Some(None));
        }
    };
    if chain.is_some_and(|chain| chain != file.header().chain) {
        problem(Some(0), "the chain of hashes does not go on from the segment before".into());
    }
    let checked = match name.through {
        Some(_) => sealed(archive, &mut file, name),
        None => match open_limit(archive, name) {
            Ok(Some(limit)) => open(archive, &file, limit),
            Ok(None) => return Ok(None),
            Err(fault) => Err(fault.into()),
        },
    };
    match checked {
        Ok(sound) => return Ok(Some(Some(sound))),
        Err(Trouble::Flaw(flaw)) => match flaw.damage.locked(format_args!("segment {name}")) {
            Some(fault) => return Err(fault),
            None => problem(Some(flaw.offset), flaw.damage.to_string()),
        },
        Err(Trouble::Fault(fault)) => problem(None, fault.message),
    }
    Ok(Some(None))
}

fn sealed(archive: &Archive, file: &mut SegmentFile, name: SegmentName) -> Result<Sound, Trouble> {
    let checked = check_sealed(
        file.size_bytes()?,
        archive.keys(),
        |offset, length| file.bytes(offset, length).map_err(Trouble::from),
        |_, raw| decodes(raw),
    )?;
    let bytes = file.size_bytes()?;
    // Compares the trailer with the name.
    let trailer = file.trailer(name)?;
    let totals = checked.trailer.totals;
    Ok(Sound {
        through: trailer.through,
        chain: trailer.chain,
        bytes,
        transactions: totals.transactions,
        changes: totals.changes,
    })
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
    })
}

/// Whether every message can be read as the applier will.
fn decodes(raw: &[u8]) -> Result<(), Damage> {
    for message in Records::new(raw) {
        pgoutput::decode(message?).map_err(|_| Damage::Malformed("a pgoutput message"))?;
    }
    Ok(())
}
