//! Proof that the log is what was received. Hides how: every checksum, every length, every message decoded, everything
//! that a segment says of itself worked out again, the chain of hashes recomputed from the first message to the last,
//! each segment's place in the archive, and what the catalog says of it. Or quickly, from the two ends of each segment.
//!
//! Segments are looked at side by side, each by itself (`look`), and then held against their neighbours in order (`walk`), which
//! may be interrupted and gone on with (`checkpoint`). In the end come the files of the bases.
//!
//! Deliberately absent: mending. What is damaged is restored from a copy.

mod bases;
mod checkpoint;
mod look;
mod walk;

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::model::{Fault, Position};

/// What `archive verify` has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Only the ends of the segments were looked at.
    pub quick: bool,
    /// It was not broken off.
    pub complete: bool,
    pub segments: u64,
    /// Of them, those that the catalog has, and agrees with.
    pub indexed: u64,
    pub bytes: u64,
    pub transactions: u64,
    pub changes: u64,
    /// The range that was looked at.
    pub first_lsn: Position,
    pub last_lsn: Position,
    /// The chain's value at the end, in hex: the same for two archives if and only if they hold the same transactions.
    pub chain: String,
    /// Whole ones; their files were read too, unless it was done quickly.
    pub bases: u64,
    /// Empty where all is well.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Of the segments that were gone through, and of all.
    pub bytes: u64,
    pub bytes_total: u64,
}

/// How to verify.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner<'a> {
    /// Only header, footer and trailer of each sealed segment, and what they say of each other and of the neighbours.
    pub quick: bool,
    pub checkpoint: Checkpoint,
    /// Set to break it off behind the segments in hand.
    pub stop: Option<&'a AtomicBool>,
}

/// Whether it is kept in the archive's folder how far a verification has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    #[default]
    None,
    Keep,
    /// And one that was broken off is gone on with.
    Resume,
}

/// Goes through the whole archive, also while a receiver runs. A fault only where it can't be read at all; what is
/// wrong with it is in the report.
pub fn verify(archive: &Archive, progress: impl FnMut(Progress)) -> Result<Report, Fault> {
    verify_as(archive, Manner::default(), progress)
}

/// The same, as one likes.
pub fn verify_as(
    archive: &Archive,
    manner: Manner<'_>,
    mut progress: impl FnMut(Progress),
) -> Result<Report, Fault> {
    let mut report = walk::walk(archive, manner, &mut progress)?;
    if report.complete && !manner.quick {
        bases::read(archive, manner.stop, &mut report)?;
    }
    Ok(report)
}
