//! Writes one segment, or several that follow each other, anew as one: short frames are merged, what the messages say stays.
//!
//! A reader may come from the end of any segment that was merged into a larger one, or know how many bytes of that segment's
//! records it has read. So the records keep their order and their bytes, and where two segments met can be told from the larger one: there a
//! frame ends, or one goes on behind a Commit and in front of a Begin. What goes before that transaction is of the first segment.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use crate::faults;
use crate::model::{Fault, Position};
use crate::segment::{
    Commit, Cut, Damage, Encoder, Encryption, FrameEntry, FrameHeader, FrameScratch, Peek, Records,
    SegmentName, Totals, Trailer, check_sealed, peek, push_record,
};

use super::segment_file::Unsound;
use super::{Archive, SegmentFile, disk};

/// Only frames of fewer bytes of records are merged, until they are as long as the writer's own.
const SHORT_BYTES: u32 = 256 << 10;
const MERGED_BYTES: usize = 1 << 20;

/// Whether a frame is merged with short ones beside it: it ends between transactions, and holds no part of one.
pub(super) fn is_short(frame: &FrameHeader) -> bool {
    frame.ends_on_commit && !frame.starts_in_transaction && frame.raw_len < SHORT_BYTES
}

/// What becomes of frames that are not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LongFrames {
    AsTheyAre,
    /// Compressed anew.
    Anew,
}

pub(super) struct Rewrite<'a> {
    pub(super) archive: &'a Archive,
    /// Of what is written.
    pub(super) name: SegmentName,
    pub(super) zstd_level: i32,
    pub(super) long_frames: LongFrames,
}

/// Frames that become one.
struct Run {
    raw: Vec<u8>,
    last: FrameHeader,
    /// The only one as it is in its file, where it is to stay so.
    stored: Option<(FrameHeader, Vec<u8>)>,
    /// Whether the last record, if there is one, is a Commit.
    is_settled: bool,
}

impl Run {
    /// Whether a frame may join. In what is merged a segment may begin behind what is not settled, or may have begun there before an earlier
    /// merge.
    fn takes(&self, frame: &FrameHeader, is_merge: bool) -> bool {
        let short = is_short(&self.last) && is_short(frame) && self.raw.len() < MERGED_BYTES;
        short && (self.is_settled || !is_merge)
    }
}

/// What the segments that are read say of themselves, taken together.
#[derive(Default)]
struct Account {
    last: Option<Trailer>,
    totals: Totals,
    commits: Vec<Commit>,
}

impl Account {
    fn add(&mut self, trailer: Trailer, commits: Vec<Commit>) {
        let (sum, more) = (self.totals, trailer.totals);
        let (first_time, last_time) = match (sum.transactions, more.transactions) {
            (0, _) => (more.first_time, more.last_time),
            (_, 0) => (sum.first_time, sum.last_time),
            _ => (sum.first_time.min(more.first_time), sum.last_time.max(more.last_time)),
        };
        self.totals = Totals {
            transactions: sum.transactions.saturating_add(more.transactions),
            changes: sum.changes.saturating_add(more.changes),
            raw_bytes: sum.raw_bytes.saturating_add(more.raw_bytes),
            first_time,
            last_time,
        };
        self.commits.extend(commits);
        self.last = Some(trailer);
    }

    /// Whether a trailer says the same.
    fn agrees(&self, trailer: &Trailer) -> bool {
        let last = self
            .last
            .as_ref()
            .is_some_and(|last| (last.chain, last.through) == (trailer.chain, trailer.through));
        last && self.totals == trailer.totals
    }
}

impl Rewrite<'_> {
    /// Writes what these segments hold into a staged file, makes it durable and reads it back. `false` where it was stopped, or one of them
    /// is gone.
    pub(super) fn write(
        &self,
        from: &[SegmentName],
        new: &File,
        staged: &Path,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<bool, Fault> {
        let fault = |error: std::io::Error| disk::fault("cannot write", staged, &error);
        let Some(last) = from.last() else { return Ok(false) };
        let Some(last) = SegmentFile::open(self.archive, *last)? else { return Ok(false) };
        // What was not encrypted stays so: it would not become secret by that, and what follows it may not be either.
        let mut encryption = if last.header().encrypted { self.archive.encryption()? } else { None };
        let mut pen: Option<Pen> = None;
        let mut account = Account::default();
        let mut scratch = FrameScratch::default();
        for name in from {
            self.archive.bring(*name, false)?;
            let Some(mut file) = SegmentFile::open(self.archive, *name)? else { return Ok(false) };
            let (trailer, footer) = file.sealed(*name)?;
            let pen = match &mut pen {
                Some(pen) => pen,
                none => none.insert(Pen::new(self, &file, encryption.take())),
            };
            if pen.encoder.header().timeline != file.header().timeline {
                return Err(self.damage(&Damage::Malformed("the source's timeline")));
            }
            if file.header().encrypted && !pen.encoder.header().encrypted {
                return Err(self.refuse("behind an encrypted segment comes one that is not"));
            }
            for entry in &footer.frames {
                if !go_on() {
                    return Ok(false);
                }
                let (header, raw) = file.frame(entry.offset, trailer.footer_offset, &mut scratch)?;
                if header != entry.header {
                    return Err(self.damage(&Damage::Malformed("the frame index in the segment footer")));
                }
                let stored = match self.long_frames {
                    LongFrames::AsTheyAre => Some(file.stored(entry.offset, trailer.footer_offset)?),
                    LongFrames::Anew => None,
                };
                pen.take(header, raw, stored).map_err(|damage| self.damage(&damage))?;
                (&*new).write_all(&std::mem::take(&mut pen.out)).map_err(fault)?;
            }
            account.add(trailer, footer.commits);
        }
        let Some(mut pen) = pen else { return Ok(false) };
        pen.end_run().map_err(|damage| self.damage(&damage))?;
        let sealed = pen.encoder.seal(&mut pen.out);
        if !account.agrees(&sealed) {
            return Err(self.refuse("it would say something else"));
        }
        (&*new).write_all(&pen.out).map_err(fault)?;
        if !go_on() {
            return Ok(false);
        }
        faults::point("press.before_sync");
        File::sync_all(new).map_err(fault)?;
        self.prove(new, staged, &account)?;
        Ok(true)
    }

    /// Reads the staged file as `archive verify` would, and holds what it says against what it was made of.
    fn prove(&self, new: &File, staged: &Path, account: &Account) -> Result<(), Fault> {
        let read = |offset: u64, length: usize| {
            let mut bytes = vec![0; length];
            match new.read_exact_at(&mut bytes, offset) {
                Ok(()) => Ok(bytes),
                Err(error) => Err(Unsound::Fault(disk::fault("cannot read", staged, &error))),
            }
        };
        let length = new.metadata().map_err(|error| disk::fault("cannot read", staged, &error))?.len();
        match check_sealed(length, self.archive.keys(), read, |_, _| Ok(())) {
            Err(Unsound::Fault(fault)) => Err(fault),
            Err(Unsound::Flaw(flaw)) => Err(self.damage(&flaw.damage)),
            Ok(checked) if checked.footer.commits != account.commits => {
                Err(self.refuse("it would have other commits"))
            }
            Ok(_) => Ok(()),
        }
    }

    fn damage(&self, damage: &Damage) -> Fault {
        self.refuse(&damage.to_string())
    }

    fn refuse(&self, what: &str) -> Fault {
        Fault::stop(format!(
            "segment {} could not be written anew, and all stays as it is: {what}",
            self.name
        ))
    }
}

/// What is being written.
struct Pen {
    encoder: Encoder,
    is_merge: bool,
    run: Option<Run>,
    /// Bytes of the new file that are not in it yet.
    out: Vec<u8>,
}

impl Pen {
    fn new(rewrite: &Rewrite<'_>, first: &SegmentFile, encryption: Option<Encryption>) -> Pen {
        let encoder = Encoder::transposing(first.header().clone(), rewrite.zstd_level, encryption);
        let out = encoder.header().encode().to_vec();
        Pen { encoder, is_merge: matches!(rewrite.long_frames, LongFrames::Anew), run: None, out }
    }

    fn take(
        &mut self,
        frame: FrameHeader,
        raw: Vec<u8>,
        stored: Option<(FrameHeader, Vec<u8>)>,
    ) -> Result<(), Damage> {
        let ends_with_commit = ends_with_commit(&raw)?;
        match &mut self.run {
            Some(run) if run.takes(&frame, self.is_merge) => {
                run.raw.extend(raw);
                run.is_settled = ends_with_commit.unwrap_or(run.is_settled);
                (run.last, run.stored) = (frame, None);
            }
            _ => {
                self.end_run()?;
                self.run =
                    Some(Run { raw, last: frame, stored, is_settled: ends_with_commit.unwrap_or(true) });
            }
        }
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), Damage> {
        let Some(Run { raw, last, stored, .. }) = self.run.take() else { return Ok(()) };
        if let Some((header, stored)) = stored {
            return self.encoder.copy(header, &stored, &raw, &mut self.out);
        }
        let cut = Cut { raw: Bytes::from(raw), ends_on_commit: last.ends_on_commit, through: last.through };
        self.encoder.frame(&cut, &mut self.out).map(|_| ())
    }
}

/// Whether the last record is a Commit; none where there is no record.
pub(super) fn ends_with_commit(raw: &[u8]) -> Result<Option<bool>, Damage> {
    let last = Records::new(raw).last().transpose()?.map(peek).transpose()?;
    Ok(last.map(|last| matches!(last, Peek::Commit { .. })))
}

/// In a segment's frames, where its records begin that come after `position`, counted in bytes of records: what stands before was of segments that
/// ended at or before it. `decode` gives a frame's records. Only for a position where a segment ended that this one was made of.
pub(super) fn records_before(
    frames: &[FrameEntry],
    position: Position,
    decode: impl FnOnce(&FrameEntry) -> Result<Vec<u8>, Fault>,
    damaged: impl Fn(&FrameEntry, &Damage) -> Fault,
) -> Result<u64, Fault> {
    let (mut before, mut start) = (0u64, 0u64);
    for frame in frames {
        let header = &frame.header;
        if header.ends_on_commit && header.through > position {
            if header.starts_in_transaction || header.transactions == 0 || header.first > position {
                break;
            }
            let raw = decode(frame)?;
            let inside = behind_commits(&raw, position).map_err(|damage| damaged(frame, &damage))?;
            return Ok(start.saturating_add(inside));
        }
        before = before.saturating_add(header.raw_len.into());
        if header.ends_on_commit {
            start = before;
        }
    }
    Ok(start)
}

/// How many bytes of records there are up to the last commit that ends at or before the position.
fn behind_commits(raw: &[u8], position: Position) -> Result<u64, Damage> {
    let (mut so_far, mut found) = (Vec::new(), 0);
    for message in Records::new(raw) {
        let message = message?;
        push_record(&mut so_far, message);
        match peek(message)? {
            Peek::Commit { end, .. } if end <= position => found = so_far.len() as u64,
            Peek::Commit { .. } => break,
            _ => {}
        }
    }
    Ok(found)
}
