//! The applier's end of the log.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::model::{Fault, Position, Remedy};
use crate::segment::{FrameScratch, HEADER_BYTES, Peek, Records, SegmentName, peek, push_record};

use super::folder::gap;
use super::segment_file::damaged;
use super::{Archive, Durable, Frame, Mark, SegmentFile, Span, Tail, disk, rewrite};

/// How often a reader in another process looks whether there is more.
const POLL: Duration = Duration::from_millis(20);

/// How often it is looked again for what seems to be missing when a reader is opened.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(10);

/// How far the current segment may be read.
enum Limit {
    /// It is sealed: to its last frame, and on to the next segment.
    Sealed(SealedEnd),
    /// It is open, or not there yet.
    Open(u64),
}

#[derive(Clone, Copy)]
struct SealedEnd {
    offset: u64,
    through: Position,
    chain: [u8; 32],
}

/// Reads frames in the order of the log, from memory where the tail has them and else from the files. Its cursor is
/// always (segment, offset), so it can go from one to the other at any frame. The tail knows the places that frames had when
/// they were written, so a segment that was met as a sealed file is read on from there.
pub struct Reader {
    archive: Archive,
    tail: Option<Tail>,
    watched: Option<watch::Receiver<Durable>>,
    /// The current segment's `after`, and where its next frame is.
    segment: Position,
    offset: u64,
    /// Bytes of the segment's records before that. They find the place again in a file that was pressed or merged with others
    /// meanwhile, whose frames are others; there it may be inside of a frame, so many bytes behind its start.
    records_before: u64,
    inside: usize,
    /// The chain's value where the segment before ended.
    chain: Option<[u8; 32]>,
    /// A segment before was encrypted: so are all behind it.
    was_encrypted: bool,
    file: Option<SegmentFile>,
    sealed: Option<SealedEnd>,
    mark: Mark,
    /// Sealed segments that follow, as they were last listed: to list them anew for each would take ever longer.
    ahead: VecDeque<SegmentName>,
    /// The only parts of the log that are wanted, if not all.
    parts: Option<Arc<[Span]>>,
    /// Relation definitions of the part of the first segment that was skipped.
    definitions: VecDeque<Frame>,
    /// Where the log stands behind the last frame that was given.
    reached: Position,
    in_transaction: bool,
    scratch: FrameScratch,
}

impl Reader {
    /// Reads what comes after a position. The first frame may begin with transactions that `after` covers, and is
    /// preceded by a frame of the relation definitions that were skipped. Blocks on the disk.
    pub fn open(archive: &Archive, after: Position, tail: Option<Tail>) -> Result<Reader, Fault> {
        // A receiver that starts seals what it finds open: between a listing and a look at it that may have got another name.
        for _ in 0..LOOKS {
            match Reader::open_listed(archive, None, after, tail.clone()) {
                Err(fault) if fault.remedy == Remedy::Person => std::thread::sleep(LOOK),
                opened => return opened,
            }
        }
        Reader::open_listed(archive, None, after, tail)
    }

    /// The same, for who opens many: with a listing that was made before and need not be the newest.
    pub fn open_listed(
        archive: &Archive,
        listing: Option<&[SegmentName]>,
        after: Position,
        tail: Option<Tail>,
    ) -> Result<Reader, Fault> {
        let watched = tail.as_ref().map(Tail::durable);
        let mut reader = Reader {
            archive: archive.clone(),
            tail,
            watched,
            segment: after,
            offset: HEADER_BYTES as u64,
            records_before: 0,
            inside: 0,
            chain: None,
            was_encrypted: false,
            file: None,
            sealed: None,
            mark: Mark::default(),
            ahead: VecDeque::new(),
            parts: None,
            definitions: VecDeque::new(),
            reached: after,
            in_transaction: false,
            scratch: FrameScratch::default(),
        };
        reader.look()?;
        let listing = match listing {
            Some(names) => Cow::Borrowed(names),
            None => Cow::Owned(archive.listing()?),
        };
        let first = listing.first().map_or(archive.manifest().start, |name| name.after);
        let sealed = listing.iter().filter_map(|name| name.through).max();
        let end = sealed.unwrap_or(first).max(reader.mark.position);
        if after > end
            && let Some(open) = listing.last().filter(|name| name.through.is_none())
            && let Some(limit) = reader.reach(*open, after)?
        {
            reader.skip(after, limit)?;
            return Ok(reader);
        }
        if after < first || after > end {
            return Err(out_of_reach(after, first, end));
        }
        let holds =
            |name: &&SegmentName| name.after <= after && name.through.is_none_or(|through| after < through);
        reader.segment = match listing.iter().find(holds) {
            Some(name) => name.after,
            // Between segments: where one ends and the next is not begun, else in a gap.
            None if sealed.unwrap_or(first) <= after => sealed.unwrap_or(first),
            None => match listing.iter().find(|name| name.after > after) {
                Some(next) => return Err(gap(after, *next)),
                None => after,
            },
        };
        reader.look_ahead(&listing);
        if reader.segment < after {
            let (Limit::Sealed(SealedEnd { offset: limit, .. }) | Limit::Open(limit)) = reader.limit()?;
            reader.skip(after, limit)?;
        }
        Ok(reader)
    }

    /// The same reader, which passes by sealed segments that have nothing of these parts: it neither fetches nor reads them, and gives an empty
    /// frame that goes as far as they do.
    pub fn only(self, parts: Option<Arc<[Span]>>) -> Reader {
        Reader { parts, ..self }
    }

    /// What [`Reader::try_next`] would give, as far as it can be told without the disk; `None` where it can't.
    pub fn try_next_in_memory(&mut self) -> Result<Option<Option<Frame>>, Fault> {
        if let Some(frame) = self.next_of_tail()? {
            return Ok(Some(Some(frame)));
        }
        let durable = self.watched.as_mut().map(|watched| watched.borrow_and_update().mark);
        let ends_here =
            durable.is_some_and(|mark| (mark.segment, mark.offset) == (self.segment, self.offset));
        Ok(if ends_here && self.sealed.is_none() && self.definitions.is_empty() { Some(None) } else { None })
    }

    fn next_of_tail(&mut self) -> Result<Option<Frame>, Fault> {
        let Some(tail) = self.tail.as_ref().filter(|_| self.sealed.is_none() && self.definitions.is_empty())
        else {
            return Ok(None);
        };
        match tail.get((self.segment, self.offset)) {
            Some((frame, next)) => self.give(frame, next).map(Some),
            None => Ok(None),
        }
    }

    /// The next frame, or `None` at the durable end of the log. Blocks on the disk.
    pub fn try_next(&mut self) -> Result<Option<Frame>, Fault> {
        if let Some(frame) = self.definitions.pop_front() {
            return Ok(Some(frame));
        }
        loop {
            if let Some(frame) = self.next_of_tail()? {
                return Ok(Some(frame));
            }
            if let Some(frame) = self.pass_by() {
                return Ok(Some(frame));
            }
            match self.limit()? {
                Limit::Sealed(end) if self.offset >= end.offset => self.cross(end),
                Limit::Sealed(SealedEnd { offset: limit, .. }) | Limit::Open(limit)
                    if self.offset < limit =>
                {
                    self.renew_file()?;
                    let Some(file) = &self.file else { return Ok(None) };
                    let (header, raw) = file.frame(self.offset, limit, &mut self.scratch)?;
                    let next = self.offset.saturating_add(header.len());
                    let mut frame = Frame::new(&header, Bytes::from(raw), false);
                    if self.inside > 0 {
                        let name = file.name();
                        let rest = frame.behind(std::mem::take(&mut self.inside));
                        frame = rest.map_err(|damage| damaged(name, self.offset, &damage))?;
                    }
                    return self.give(frame, next).map(Some);
                }
                _ => return Ok(None),
            }
        }
    }

    /// Goes to the next segment that is wanted, from the beginning of one that is not.
    fn pass_by(&mut self) -> Option<Frame> {
        let parts = self.parts.clone()?;
        let from = self.segment;
        if self.file.is_some() || self.sealed.is_some() || self.offset > HEADER_BYTES as u64 {
            return None;
        }
        while let Some(name) = self.ahead.front().copied()
            && let Some(through) = name.through
            && name.after == self.segment
            && is_outside(&parts, name)
        {
            self.ahead.pop_front();
            self.segment = through;
        }
        if self.segment == from {
            return None;
        }
        // What the chain is there only the segments that were passed by tell.
        self.chain = None;
        self.reached = self.reached.max(self.segment);
        Some(Frame::bare(self.reached, Bytes::new()))
    }

    /// Waits until there may be more; it may be wrong. May be dropped at any time.
    pub async fn wait(&mut self) {
        if let Some(watched) = &mut self.watched
            && watched.changed().await.is_ok()
        {
            return;
        }
        for _ in 0..50 {
            tokio::time::sleep(POLL).await;
            if Mark::read(self.archive.root()).ok().flatten().is_some_and(|mark| mark != self.mark) {
                return;
            }
        }
    }

    /// The end of what may be read, as last seen.
    pub fn durable(&self) -> Position {
        let watched = self.watched.as_ref().map(|watched| watched.borrow().position);
        watched.unwrap_or(self.mark.position).max(self.reached)
    }

    fn give(&mut self, frame: Frame, next: u64) -> Result<Frame, Fault> {
        if frame.starts_in_transaction != self.in_transaction || frame.through < self.reached_in_segment() {
            return Err(damaged(
                self.name(),
                self.offset,
                &crate::segment::Damage::Malformed("the order of the frames"),
            ));
        }
        self.offset = next;
        self.records_before = self.records_before.saturating_add(frame.raw.len() as u64);
        self.in_transaction = !frame.ends_on_commit;
        self.reached = self.reached.max(frame.through);
        Ok(frame)
    }

    /// What a frame of the current segment must reach at least. The first may lie before the position asked for.
    fn reached_in_segment(&self) -> Position {
        if self.chain.is_some() { self.reached } else { self.segment }
    }

    fn name(&self) -> SegmentName {
        self.file.as_ref().map_or(SegmentName::open(self.segment), SegmentFile::name)
    }

    fn cross(&mut self, end: SealedEnd) {
        self.segment = end.through;
        self.offset = HEADER_BYTES as u64;
        self.records_before = 0;
        self.chain = Some(end.chain);
        self.was_encrypted |= self.file.take().is_some_and(|file| file.header().encrypted);
        self.sealed = None;
        self.reached = self.reached.max(end.through);
    }

    /// Takes the newest mark in.
    fn look(&mut self) -> Result<(), Fault> {
        if let Some(watched) = &mut self.watched {
            self.mark = watched.borrow_and_update().mark;
        } else if let Some(mark) = Mark::read(self.archive.root())
            .map_err(|error| disk::fault("cannot read the durable mark in", self.archive.root(), &error))?
        {
            self.mark = mark;
        }
        Ok(())
    }

    fn limit(&mut self) -> Result<Limit, Fault> {
        if let Some(end) = self.sealed {
            return Ok(Limit::Sealed(end));
        }
        let known =
            self.file.is_some() && self.mark.segment == self.segment && self.offset < self.mark.offset;
        if !known {
            self.look()?;
        }
        if let Some(end) = self.foreseen() {
            return Ok(Limit::Sealed(end));
        }
        // Files are there before the mark that speaks of them; but a listing may miss one that is being renamed.
        for _ in 0..20 {
            if self.file.is_some() && self.mark.segment == self.segment {
                return Ok(Limit::Open(self.mark.offset));
            }
            let listing = self.archive.listing()?;
            if self.widen(&listing)? {
                continue;
            }
            self.look_ahead(&listing);
            let mut here = listing.iter().filter(|name| name.after == self.segment);
            let (one, other) = (here.next(), here.next());
            if let (Some(one), Some(other)) = (one, other) {
                return Err(self.archive.overlap(*one, *other));
            }
            match one {
                Some(name) if name.through.is_some() => {
                    // What was opened while it was open may have been merged into this one since.
                    self.file.take_if(|file| file.name() != *name);
                    if self.open_file(*name)?
                        && let Some(end) = self.seal(*name)?
                    {
                        return Ok(Limit::Sealed(end));
                    }
                }
                // Without a mark that speaks of it nothing of an open segment may be read.
                Some(_) if self.mark.segment < self.segment => return Ok(Limit::Open(0)),
                // Its header may still change, with the source's timeline.
                Some(_) if self.mark.segment == self.segment && self.mark.offset <= HEADER_BYTES as u64 => {
                    return Ok(Limit::Open(HEADER_BYTES as u64));
                }
                Some(name) if self.mark.segment == self.segment => {
                    self.open_file(*name)?;
                }
                Some(_) => {}
                None => match listing.iter().find(|name| name.after > self.segment) {
                    None if self.mark.position <= self.segment => return Ok(Limit::Open(0)),
                    _ => {}
                },
            }
            std::thread::sleep(Duration::from_millis(2));
            self.look()?;
        }
        let listing = self.archive.listing()?;
        if let Some(first) = listing.first().filter(|first| first.after > self.segment) {
            return Err(out_of_reach(self.reached, first.after, self.durable()));
        }
        match listing.iter().find(|name| name.after > self.segment) {
            Some(next) => Err(gap(self.segment, *next)),
            None => Err(Fault::person(format!(
                "the log was durable up to {}, and the segment that holds what comes after {} is missing",
                self.mark.position, self.segment
            ))
            .hint("restore the missing segments from a copy")),
        }
    }

    /// Where the current segment was merged into one that begins before it, that one becomes the current segment: `true` then.
    fn widen(&mut self, listing: &[SegmentName]) -> Result<bool, Fault> {
        let is_wider = |name: &&SegmentName| name.after < self.segment && name.through > Some(self.segment);
        let Some(wider) = listing.iter().find(is_wider).copied() else { return Ok(false) };
        self.file = None;
        // The chain's value where the current one began is not told there.
        self.chain = None;
        if !self.open_file(wider)? {
            return Ok(false);
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let (trailer, footer) = file.sealed(wider)?;
        let (file, scratch) = (&*file, &mut self.scratch);
        let before = rewrite::records_before(
            &footer.frames,
            self.segment,
            |frame| Ok(file.frame(frame.offset, trailer.footer_offset, scratch)?.1),
            |frame, damage| damaged(wider, frame.offset, damage),
        )?;
        self.records_before = self.records_before.saturating_add(before);
        self.segment = wider.after;
        Ok(true)
    }

    /// Keeps the sealed segments that follow, as far as each begins where the one before it ends.
    fn look_ahead(&mut self, listing: &[SegmentName]) {
        let from = listing.partition_point(|name| name.after < self.segment);
        let names = listing.get(from..).unwrap_or_default();
        let chained = names.iter().zip(names.iter().skip(1));
        let sound = chained.take_while(|(one, next)| one.through == Some(next.after)).count();
        self.ahead = names.iter().take(sound + 1).copied().collect();
        self.ahead.retain(|name| name.through.is_some());
    }

    /// The current segment, if it is known what it is called. One that is gone meanwhile, or is not what was expected, is for a new
    /// listing to explain.
    fn foreseen(&mut self) -> Option<SealedEnd> {
        while self.ahead.front().is_some_and(|name| name.after < self.segment) {
            self.ahead.pop_front();
        }
        let name = self.ahead.front().copied().filter(|name| name.after == self.segment)?;
        self.ahead.pop_front();
        if self.file.is_some() {
            return None;
        }
        match self.open_file(name) {
            Ok(true) => self.seal(name).ok().flatten(),
            _ => None,
        }
    }

    /// Opens the current segment's file, unless it is open. `false` where it was renamed meanwhile.
    fn open_file(&mut self, name: SegmentName) -> Result<bool, Fault> {
        if self.file.is_none() {
            if name.through.is_some() {
                let next = self.ahead.iter().find(|next| Some(next.after) == name.through);
                let is_next_wanted = match (&self.parts, next) {
                    (Some(parts), Some(next)) => !is_outside(parts, *next),
                    _ => true,
                };
                self.archive.bring(name, is_next_wanted)?;
            }
            let Some(file) = SegmentFile::open(&self.archive, name)? else { return Ok(false) };
            if self.chain.is_some_and(|chain| chain != file.header().chain) {
                return Err(Fault::person(format!(
                    "segment {name} does not follow the one before it: the chain of hashes is broken at {}",
                    name.after
                ))
                .hint("it is of another run of this archive; restore the right one from a copy"));
            }
            if self.was_encrypted && !file.header().encrypted {
                return Err(Fault::person(format!(
                    "segment {name} is not encrypted, and the one before it is: no receiver goes on like that"
                ))
                .hint("somebody has put it there; restore the right one from a copy"));
            }
            self.file = Some(file);
        }
        Ok(true)
    }

    /// Reads where the sealed segment ends, and finds in it the place of what is read next.
    fn seal(&mut self, name: SegmentName) -> Result<Option<SealedEnd>, Fault> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let (trailer, footer) = file.sealed(name)?;
        let mut before = 0u64;
        let here = footer.frames.iter().find(|frame| {
            let start = before;
            before = before.saturating_add(frame.header.raw_len.into());
            // Frames without records can't be told apart by their bytes, but by how far they go.
            let is_idle = frame.header.is_empty() && start == self.records_before;
            before > self.records_before || (is_idle && frame.header.through > self.reached)
        });
        (self.offset, self.inside) = match here {
            Some(frame) => {
                let start = before.saturating_sub(frame.header.raw_len.into());
                (frame.offset, self.records_before.saturating_sub(start) as usize)
            }
            None => (trailer.footer_offset, 0),
        };
        let end = SealedEnd { offset: trailer.footer_offset, through: trailer.through, chain: trailer.chain };
        self.sealed = Some(end);
        Ok(self.sealed)
    }

    /// Opens the file anew where a recovery has put another in its place.
    fn renew_file(&mut self) -> Result<(), Fault> {
        if self.sealed.is_none()
            && let Some(file) = &self.file
            && file.size_bytes()? <= self.offset
        {
            let name = file.name();
            self.file = None;
            self.open_file(name)?;
        }
        Ok(())
    }

    /// Opens the open segment and looks for `after` behind the durable mark, which may be too old after a crash of the
    /// machine: who has applied up to there may stand there. More is given only when a receiver has renewed the mark.
    /// Gives the offset behind the frame that reaches it.
    fn reach(&mut self, name: SegmentName, after: Position) -> Result<Option<u64>, Fault> {
        self.segment = name.after;
        if !self.open_file(name)? {
            return Ok(None);
        }
        let Some(file) = &self.file else { return Ok(None) };
        let (mut offset, size) = (HEADER_BYTES as u64, file.size_bytes()?);
        // The file may end in a torn frame: that is no fault here, recovery will see to it.
        loop {
            let header = match file.frame(offset, size, &mut self.scratch) {
                Ok((header, _)) => header,
                // Its key is missing.
                Err(fault) if fault.remedy == Remedy::Usage => return Err(fault),
                Err(_) => return Ok(None),
            };
            offset = offset.saturating_add(header.len());
            if header.ends_on_commit && header.through >= after {
                return Ok(Some(offset));
            }
        }
    }

    /// Moves to the first frame that is not covered by `after`, and keeps the definitions of the frames before it.
    fn skip(&mut self, after: Position, limit: u64) -> Result<(), Fault> {
        let Some(file) = &self.file else { return Ok(()) };
        // A transaction in several frames begins behind the last frame that ends on a commit.
        let (mut at, mut start) = (HEADER_BYTES as u64, HEADER_BYTES as u64);
        let (mut before, mut before_start) = (0u64, 0u64);
        let mut describing = Vec::new();
        while at < limit {
            let header = file.frame_header(at, limit)?;
            if header.ends_on_commit && header.through > after {
                break;
            }
            if header.has_relations {
                describing.push(at);
            }
            at = at.saturating_add(header.len());
            before = before.saturating_add(header.raw_len.into());
            if header.ends_on_commit {
                (start, before_start) = (at, before);
            }
        }
        let mut definitions = BTreeMap::new();
        for offset in describing.into_iter().filter(|offset| *offset < start) {
            let (_, raw) = file.frame(offset, limit, &mut self.scratch)?;
            for message in Records::new(&raw) {
                let message = message.map_err(|damage| damaged(file.name(), offset, &damage))?;
                // Types sort before the relations that use them.
                let key = match peek(message) {
                    Ok(Peek::Type { oid }) => (0, oid),
                    Ok(Peek::Relation { oid }) => (1, oid),
                    _ => continue,
                };
                definitions.insert(key, message.to_vec());
            }
        }
        if !definitions.is_empty() {
            let mut raw = Vec::new();
            definitions.values().for_each(|message| push_record(&mut raw, message));
            self.definitions.push_back(Frame::bare(after, Bytes::from(raw)));
        }
        (self.offset, self.records_before, self.inside) = (start, before_start, 0);
        Ok(())
    }
}

/// Whether a segment has nothing of any part.
fn is_outside(parts: &[Span], name: SegmentName) -> bool {
    parts.iter().all(|part| part.through <= name.after || name.through.is_some_and(|end| end <= part.after))
}

/// The log does not hold what comes after that position: it is of another archive, or it was pruned beyond it.
fn out_of_reach(after: Position, first: Position, end: Position) -> Fault {
    Fault::person(format!(
        "the log holds what comes after {first} up to {end}, and not what comes after {after}"
    ))
    .hint("give the archive that belongs to this target, or load the target anew")
}
