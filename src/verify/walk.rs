//! Segment after segment, each held against the one before it.
//!
//! What is looked at may change meanwhile: an open segment is sealed, old ones are pruned, small ones give way to a wider one. Then one
//! that was listed is gone, and the archive is listed anew; the walk goes on from where it stands, or from the border where what
//! is there now begins.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::archive::abreast::abreast;
use crate::archive::known::{self, Index};
use crate::archive::{Archive, Mark};
use crate::model::{Fault, Position};
use crate::segment::SegmentName;

use super::checkpoint::{self, Kept};
use super::look::{Finding, Sound, look};
use super::{Checkpoint, Manner, Problem, Progress, Report};

/// How often it is kept how far the walk has come.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// How often a segment may be listed that is not there.
const TRIES: u32 = 10;

/// Where the walk stands: at the border of two segments.
#[derive(Clone, Debug)]
pub(super) struct Stand {
    pub(super) through: Position,
    /// None where it is not known: the segment before could not be read.
    pub(super) chain: Option<[u8; 32]>,
    /// The segment before was encrypted: then this one is.
    pub(super) encrypted: bool,
    pub(super) segments: u64,
    pub(super) indexed: u64,
    pub(super) bytes: u64,
    pub(super) transactions: u64,
    pub(super) changes: u64,
    /// How many problems lie before it.
    pub(super) problems: usize,
    /// Of the names and lengths of the segments before it.
    pub(super) digest: [u8; 32],
}

/// A segment as it was listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) name: SegmentName,
    pub(super) bytes: u64,
}

struct Walk<'a> {
    archive: &'a Archive,
    first: Position,
    stand: Stand,
    /// All borders up to there.
    behind: Vec<Stand>,
    problems: Vec<Problem>,
}

impl Stand {
    /// The first segment of all has nothing before it; an archive's own first begins the chain.
    fn at_beginning(archive: &Archive, beginning: Position) -> Stand {
        Stand {
            through: beginning,
            chain: (beginning == archive.manifest().start).then_some([0; 32]),
            encrypted: false,
            segments: 0,
            indexed: 0,
            bytes: 0,
            transactions: 0,
            changes: 0,
            problems: 0,
            digest: [0; 32],
        }
    }
}

pub(super) fn walk(
    archive: &Archive,
    manner: Manner<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Fault> {
    // Before the listing: what a receiver adds meanwhile is not missed.
    let mark = Mark::read(archive.root());
    let mark =
        mark.map_err(|error| Fault::stop(format!("cannot read the archive's durable mark: {error}")))?;
    let index = Index::open(archive);
    let mut lines = lines(archive)?;
    let mut walk = Walk::begin(archive, &lines)?;
    if manner.checkpoint == Checkpoint::Resume
        && let Some(kept) = checkpoint::read(archive, manner.quick, &lines)
    {
        walk.go_on(kept);
    }
    let width = match (manner.quick, archive.has_store()) {
        (true, _) => known::width(archive),
        (false, true) => 4,
        (false, false) => std::thread::available_parallelism().map_or(1, usize::from).min(4),
    };
    let stops = || manner.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
    let (mut tries, mut farthest, mut kept_at) = (0, Position::ZERO, Instant::now());
    let complete = loop {
        let rest = walk.rest(&lines);
        let (bytes_total, mut bytes) = (
            lines.iter().map(|line| line.bytes).sum(),
            lines.iter().rev().skip(rest.len()).map(|line| line.bytes).sum(),
        );
        let mut gone = None;
        let mut tell = |bytes: u64, left: usize| {
            progress(Progress {
                segments: lines.len() - left,
                segments_total: lines.len(),
                bytes,
                bytes_total,
            });
        };
        let mut left = rest.len();
        tell(bytes, left);
        let act = |line: &Line| look(archive, &index, manner.quick, line.name);
        let walked = abreast(rest, width, act, |line, finding| {
            match finding? {
                Some(finding) => walk.take(*line, finding),
                None => gone = Some(*line),
            }
            if manner.checkpoint != Checkpoint::None && kept_at.elapsed() >= KEEP_EVERY {
                walk.keep(manner.quick);
                kept_at = Instant::now();
            }
            (bytes, left) = (bytes + line.bytes, left - 1);
            tell(bytes, left);
            Ok(gone.is_none() && !stops())
        });
        if let Err(fault) = walked {
            if manner.checkpoint != Checkpoint::None {
                walk.keep(manner.quick);
            }
            return Err(fault);
        }
        let Some(line) = gone else { break left == 0 };
        tries = if walk.stand.through > farthest { 0 } else { tries + 1 };
        farthest = farthest.max(walk.stand.through);
        if tries >= TRIES {
            let flaws = vec![(None, "it is listed, and not there".into())];
            walk.take(line, Finding { flaws, ..Finding::default() });
            if line.name.through.is_none() {
                break true;
            }
        }
        std::thread::sleep(Duration::from_millis(10) * tries);
        lines = self::lines(archive)?;
        walk.step_back(&lines)?;
    };
    if let Some(mark) = mark.filter(|mark| complete && mark.position > walk.stand.through) {
        walk.problem(
            walk.stand.through,
            Some(mark.position),
            "what was acknowledged to the source is missing at the end of the log".into(),
        );
    }
    if manner.checkpoint != Checkpoint::None {
        if complete { checkpoint::remove(archive) } else { walk.keep(manner.quick) }
    }
    Ok(walk.report(manner.quick, complete))
}

/// All segments, with their lengths.
fn lines(archive: &Archive) -> Result<Vec<Line>, Fault> {
    let mut lines = Vec::new();
    for name in archive.listing()? {
        let bytes = archive.size_bytes(name)?.unwrap_or_default();
        lines.push(Line { name, bytes });
    }
    Ok(lines)
}

impl<'a> Walk<'a> {
    fn begin(archive: &'a Archive, lines: &[Line]) -> Result<Walk<'a>, Fault> {
        let start = archive.manifest().start;
        let first = lines.first().map_or(start, |line| line.name.after);
        let stand = Stand::at_beginning(archive, first);
        let mut walk = Walk { archive, first, stand, behind: Vec::new(), problems: Vec::new() };
        let pruned = archive.pruned_through()?.unwrap_or(start).max(start);
        if first > pruned {
            walk.problem(
                pruned,
                Some(first),
                "segments are missing at the beginning, where no prune was".into(),
            );
        }
        walk.stand.problems = walk.problems.len();
        Ok(walk)
    }

    fn go_on(&mut self, kept: Kept) {
        self.behind = vec![self.stand.clone()];
        (self.stand, self.problems) = (kept.stand, kept.problems);
    }

    /// What is still to be looked at.
    fn rest<'l>(&self, lines: &'l [Line]) -> &'l [Line] {
        let done = match self.behind.is_empty() {
            true => 0,
            false => lines.partition_point(|line| {
                line.name.through.is_some_and(|through| through <= self.stand.through)
            }),
        };
        lines.get(done..).unwrap_or_default()
    }

    /// Goes back to a border where what is listed now has one too, and on to where it begins.
    fn step_back(&mut self, lines: &[Line]) -> Result<(), Fault> {
        let beginning = lines.first().map_or(self.stand.through, |line| line.name.after);
        if beginning > self.stand.through && self.archive.pruned_through()? >= Some(beginning) {
            // What is between was pruned meanwhile.
            (self.first, self.stand.through, self.stand.chain) = (beginning, beginning, None);
            return Ok(());
        }
        let next = self.rest(lines).first().map(|line| line.name.after);
        while let Some(next) = next
            && self.stand.through > next
            && let Some(border) = self.behind.pop()
        {
            self.problems.truncate(border.problems);
            self.stand = border;
        }
        Ok(())
    }

    fn problem(&mut self, after: Position, through: Option<Position>, what: String) {
        self.problems.push(Problem { segment: None, offset: None, after, through, what });
    }

    fn take(&mut self, line: Line, finding: Finding) {
        let (name, before) = (line.name, self.stand.clone());
        if name.after != before.through {
            let what = if name.after > before.through { "segments are missing" } else { "segments overlap" };
            let (after, through) = (before.through.min(name.after), before.through.max(name.after));
            self.problem(after, Some(through), format!("{what} before {name}"));
        }
        let mut flaws = finding.flaws;
        // What follows a gap can't go on from before it.
        let expected = before.chain.filter(|_| name.after == before.through);
        if expected.is_some_and(|chain| finding.chain.is_some_and(|own| own != chain)) {
            flaws.insert(0, (Some(0), "the chain of hashes does not go on from the segment before".into()));
        }
        if before.encrypted && finding.encrypted == Some(false) {
            flaws.insert(0, (Some(0), "it is not encrypted, and the segment before is".into()));
        }
        for (offset, what) in flaws {
            let (after, through) = (name.after, name.through);
            self.problems.push(Problem { segment: Some(name.to_string()), offset, after, through, what });
        }
        let stand = &mut self.stand;
        stand.segments += 1;
        stand.encrypted |= finding.encrypted == Some(true);
        stand.chain = finding.sound.as_ref().map(|sound| sound.chain);
        let reached =
            finding.sound.as_ref().map(|sound| sound.through).or(name.through).unwrap_or(name.after);
        stand.through = stand.through.max(reached);
        if let Some(Sound { bytes, transactions, changes, is_indexed, .. }) = finding.sound {
            stand.bytes += bytes;
            stand.transactions += transactions;
            stand.changes += changes;
            stand.indexed += u64::from(is_indexed);
        }
        stand.digest = checkpoint::digest(stand.digest, line);
        stand.problems = self.problems.len();
        if name.through.is_some() {
            self.behind.push(before);
        }
    }

    fn keep(&self, quick: bool) {
        checkpoint::write(self.archive, quick, &self.stand, &self.problems);
    }

    fn report(self, quick: bool, complete: bool) -> Report {
        let Stand { through, chain, segments, indexed, bytes, transactions, changes, .. } = self.stand;
        let hex = |chain: [u8; 32]| blake3::Hash::from_bytes(chain).to_hex().to_string();
        Report {
            quick,
            complete,
            bases: 0,
            segments,
            indexed,
            bytes,
            transactions,
            changes,
            first_lsn: self.first,
            last_lsn: through,
            chain: chain.map(hex).unwrap_or_default(),
            problems: self.problems,
        }
    }
}
