//! The writer's thread: compresses, hashes, writes, makes durable, publishes, seals. The only one that touches the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::faults;
use crate::meter::{METER, observe};
use crate::model::{Fault, Position};
use crate::segment::{Cut, Encoder, Header, SegmentName};

use super::indexer::Task;
use super::mark::MarkFile;
use super::queue::{Command, Queue};
use super::recovery::End;
use super::tail::{Place, cost};
use super::writer::Shared;
use super::{Archive, Durable, Frame, Mark, Tail, WriterState, disk};

/// How many bytes of records are written at most before they are synced and published.
const GROUP_BYTES: usize = 8 << 20;
/// Space of the open file is taken so far ahead. While its length stays as it is, making it durable takes the disk half as long.
const AHEAD_BYTES: u64 = 1 << 20;

pub(super) struct Scribe {
    archive: Archive,
    timeline: u32,
    zstd_level: i32,
    shared: Arc<Shared>,
    tail: Tail,
    durable: Arc<watch::Sender<Durable>>,
    /// What is durable here may be confirmed.
    confirms: bool,
    mark: MarkFile,
    /// Sealed segments go to the catalog's thread.
    sealed: Sender<Task>,
    file: Arc<File>,
    /// The length of the file: behind the last frame come zeros.
    length: u64,
    encoder: Encoder,
    buffer: Vec<u8>,
    /// What is written whole, up to the last frame that ends between transactions.
    written: Mark,
    dirty: bool,
    stalled: bool,
    queue: Queue,
    /// The transaction at hand was found to be discarded while the disk was full; its other frames are not written.
    abandoned: bool,
    /// Frames that wait for their commit and the sync.
    unpublished: VecDeque<(Place, Frame, u64)>,
    unpublished_bytes: usize,
}

/// What a [`Scribe`] starts with.
pub(super) struct Start {
    pub(super) archive: Archive,
    pub(super) timeline: u32,
    pub(super) zstd_level: i32,
    pub(super) shared: Arc<Shared>,
    pub(super) tail: Tail,
    pub(super) durable: Arc<watch::Sender<Durable>>,
    pub(super) confirms: bool,
    pub(super) queue: Queue,
    pub(super) sealed: Sender<Task>,
    pub(super) end: End,
}

impl Scribe {
    /// Begins a segment where the log ends.
    pub(super) fn open(start: Start) -> Result<Scribe, Fault> {
        let Start { archive, timeline, zstd_level, shared, tail, durable, confirms, queue, sealed, end } =
            start;
        let mark = MarkFile::open(archive.root())
            .map_err(|error| disk::fault("cannot open the durable mark in", archive.root(), &error))?;
        let encoder = Encoder::new(header(&archive, timeline, end), zstd_level, archive.encryption()?);
        let path = archive.segment_path(SegmentName::open(end.position));
        let file = begin_file(&archive, encoder.header())
            .map_err(|error| disk::fault("cannot create", &path, &error))?;
        let written = beginning(&encoder);
        let scribe = Scribe {
            archive,
            timeline,
            zstd_level,
            shared,
            tail,
            durable,
            confirms,
            mark,
            sealed,
            file: Arc::new(file),
            length: written.offset,
            encoder,
            buffer: Vec::new(),
            written,
            dirty: false,
            stalled: false,
            queue,
            abandoned: false,
            unpublished: VecDeque::new(),
            unpublished_bytes: 0,
        };
        scribe.publish()?;
        Ok(scribe)
    }

    /// Works until the writer is gone or says so. A fault is published, and ends it.
    pub(super) fn run(mut self) -> Result<Position, Fault> {
        let result = self.work();
        if let Err(fault) = &result {
            tracing::error!(error = %fault, "the log's writer has failed");
            self.shared.failed.store(true, Ordering::Release);
            self.durable
                .send_modify(|durable| durable.state = WriterState::Failed(fault.message.as_str().into()));
            self.shared.room.notify_waiters();
        }
        result.map(|()| self.encoder.ledger().through())
    }

    fn work(&mut self) -> Result<(), Fault> {
        while let Some(first) = self.queue.wait() {
            let mut next = Some(first);
            let mut group = 0;
            while let Some(command) = next {
                match command {
                    Command::Frame(cut) => {
                        group += cut.raw.len();
                        self.frame(cut)?;
                    }
                    Command::Discard => self.discard()?,
                    Command::Seal => {
                        self.seal(true)?;
                        self.shared.stored_bytes.store(self.encoder.end(), Ordering::Release);
                        self.shared.sealed.fetch_add(1, Ordering::AcqRel);
                    }
                    Command::Timeline(timeline) => self.change_timeline(timeline)?,
                    Command::Finish => return self.seal(false),
                }
                next = if group < GROUP_BYTES { self.queue.next() } else { None };
            }
            self.sync()?;
        }
        Ok(())
    }

    fn frame(&mut self, cut: Cut) -> Result<(), Fault> {
        let raw_bytes = cut.raw.len();
        if !self.abandoned {
            self.write_frame(cut)?;
        }
        self.shared.queued_bytes.fetch_sub(raw_bytes, Ordering::AcqRel);
        self.shared.room.notify_waiters();
        Ok(())
    }

    fn write_frame(&mut self, cut: Cut) -> Result<(), Fault> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let entry = self.encoder.frame(&cut, &mut buffer).map_err(|damage| {
            Fault::stop(format!(
                "a frame after {} could not be made: {damage}",
                self.encoder.ledger().through()
            ))
        })?;
        faults::point("log.after_compress");
        let unfinished = !entry.header.ends_on_commit;
        let written = self.wait_for_store(unfinished)? && {
            self.take_space(entry.offset.saturating_add(entry.header.len()));
            self.write(&buffer, entry.offset, unfinished)?
        };
        self.buffer = buffer;
        if !written {
            self.abandoned = true;
            return Ok(());
        }
        faults::point("log.after_write");
        self.dirty = true;
        if entry.header.ends_on_commit {
            self.written.offset = self.encoder.end();
            self.written.position = entry.header.through;
        }
        let frame = Frame::new(&entry.header, cut.raw, true);
        self.unpublished_bytes += cost(&frame);
        self.unpublished.push_back(((self.encoder.header().after, entry.offset), frame, self.encoder.end()));
        // A transaction may be larger than the tail: what would leave it at once need not wait for it.
        while self.unpublished_bytes > self.tail.bytes_max()
            && let Some((_, frame, _)) = self.unpublished.pop_front()
        {
            self.unpublished_bytes = self.unpublished_bytes.saturating_sub(cost(&frame));
        }
        self.shared.stored_bytes.store(self.encoder.end(), Ordering::Release);
        Ok(())
    }

    fn discard(&mut self) -> Result<(), Fault> {
        self.abandoned = false;
        let end = self.encoder.discard();
        let place = (self.encoder.header().after, end);
        self.unpublished.retain(|(at, _, _)| *at < place);
        self.unpublished_bytes = self.unpublished.iter().map(|(_, frame, _)| cost(frame)).sum();
        // Synced, so that a crash can't bring back a frame of it between those that follow.
        self.file
            .set_len(end)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| self.fault("cannot cut", &error))?;
        self.length = end;
        Ok(())
    }

    /// Makes durable what was written and tells everybody.
    fn sync(&mut self) -> Result<(), Fault> {
        if !self.dirty {
            return Ok(());
        }
        faults::point("log.before_sync");
        // Never tried again: after a failed fsync the kernel may have dropped the pages and the next one succeeds.
        let began = Instant::now();
        self.file.sync_data().map_err(|error| self.fault("cannot make durable", &error))?;
        observe(&METER.sync_seconds, began.elapsed());
        faults::point("log.after_sync");
        self.dirty = false;
        let written = (self.written.segment, self.written.offset);
        let whole = self.unpublished.partition_point(|(place, _, _)| *place < written);
        let published: Vec<_> = self.unpublished.drain(..whole).collect();
        for (_, frame, _) in &published {
            self.unpublished_bytes = self.unpublished_bytes.saturating_sub(cost(frame));
        }
        self.tail.extend(published);
        self.publish()?;
        faults::point("log.after_publish");
        Ok(())
    }

    fn publish(&self) -> Result<(), Fault> {
        let mark = self.written;
        self.mark.write(mark).map_err(|error| disk::fault("cannot write", &self.mark.path, &error))?;
        self.durable.send_modify(|durable| {
            durable.position = mark.position;
            if self.confirms {
                durable.confirmable = mark.position;
            }
            durable.mark = mark;
            durable.queued_bytes = self.shared.queued_bytes.load(Ordering::Acquire);
            if !self.stalled && durable.state.is_alive() {
                durable.state = WriterState::Running;
            }
        });
        Ok(())
    }

    /// Seals the segment when the log moved in it, and begins the next one there.
    fn seal(&mut self, begin_next: bool) -> Result<(), Fault> {
        self.sync()?;
        let after = self.encoder.header().after;
        if self.encoder.ledger().through() == after {
            return Ok(());
        }
        faults::point("log.at_rotation");
        let mut bytes = Vec::new();
        let trailer = self.encoder.seal(&mut bytes);
        let end = self.encoder.end();
        self.write(&bytes, end, false)?;
        let length = end.saturating_add(bytes.len() as u64);
        self.file.set_len(length).map_err(|error| self.fault("cannot cut", &error))?;
        faults::point("log.before_seal_sync");
        // All, since the length that it now has must be durable too.
        self.file.sync_all().map_err(|error| self.fault("cannot make durable", &error))?;
        faults::point("log.before_rename");
        let name = SegmentName::sealed(after, trailer.through);
        let (old, new) =
            (self.archive.segment_path(SegmentName::open(after)), self.archive.segment_path(name));
        let folder = self.archive.segments_folder();
        self.insist(false, || std::fs::rename(&old, &new))?;
        faults::point("log.after_rename");
        self.insist(false, || disk::sync_folder(&folder))?;
        faults::point("log.after_folder_sync");
        tracing::debug!(segment = %name, transactions = trailer.totals.transactions, "sealed a segment");
        if self.archive.depot().is_some() {
            self.shared.unstored().insert(name, length);
        }
        let _ = self.sealed.send(Task::Sealed(name));
        if begin_next {
            let end = End { position: trailer.through, chain: trailer.chain, timeline: Some(self.timeline) };
            let encryption = self.archive.encryption()?;
            self.encoder =
                Encoder::new(header(&self.archive, self.timeline, end), self.zstd_level, encryption);
            let (archive, header) = (self.archive.clone(), self.encoder.header().clone());
            let mut file = None;
            self.insist(false, || {
                file = Some(begin_file(&archive, &header)?);
                Ok(())
            })?;
            if let Some(file) = file {
                self.file = Arc::new(file);
            }
            self.written = beginning(&self.encoder);
            self.length = self.written.offset;
            self.publish()?;
        }
        Ok(())
    }

    fn change_timeline(&mut self, timeline: u32) -> Result<(), Fault> {
        let header = Header { timeline, ..self.encoder.header().clone() };
        self.timeline = timeline;
        self.encoder = Encoder::new(header, self.zstd_level, self.archive.encryption()?);
        let bytes = self.encoder.header().encode();
        self.file
            .write_all_at(&bytes, 0)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| self.fault("cannot write", &error))
    }

    /// Waits while too much waits for the archive's store. Only for what is sealed: a transaction larger than that must come to its end.
    fn wait_for_store(&mut self, unfinished: bool) -> Result<bool, Fault> {
        let (shared, bytes_max) = (Arc::clone(&self.shared), self.archive.spool_bytes_max());
        self.insist(unfinished, || match shared.unstored().values().sum::<u64>() {
            bytes if bytes >= bytes_max => Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("{bytes} bytes wait for the archive's store, and --spool-limit is {bytes_max}"),
            )),
            _ => Ok(()),
        })
    }

    /// Takes the space up to `end` and more. Where it can't be had, the file grows as it is written.
    fn take_space(&mut self, end: u64) {
        if end > self.length && disk::take_space(&self.file, end.saturating_add(AHEAD_BYTES)).is_ok() {
            self.length = end.saturating_add(AHEAD_BYTES);
        }
    }

    /// Writes at `offset`; where the disk is full, takes back what was written in part and waits for space.
    /// `false` when that was given up, as in [`Scribe::insist`].
    fn write(&mut self, bytes: &[u8], offset: u64, unfinished: bool) -> Result<bool, Fault> {
        let file = Arc::clone(&self.file);
        let (mut length, end) = (self.length, offset.saturating_add(bytes.len() as u64));
        let written = self.insist(unfinished, || {
            let written = file.write_all_at(bytes, offset);
            length = if written.is_ok() { length.max(end) } else { offset };
            if written.is_err() {
                file.set_len(offset)?;
            }
            written
        });
        self.length = length;
        written
    }

    /// Does it, again and again while the disk is full, or the folder away. What was written before is made durable meanwhile. `false`
    /// when it is for an unfinished transaction that is to be discarded anyway, which may be too large for the disk.
    fn insist(&mut self, unfinished: bool, mut act: impl FnMut() -> io::Result<()>) -> Result<bool, Fault> {
        loop {
            match act() {
                Ok(()) => {
                    self.resumed();
                    return Ok(true);
                }
                Err(error) => {
                    let Some(passing) = self.passing(&error) else {
                        return Err(self.fault("cannot write", &error));
                    };
                    self.sync()?;
                    if self.stall(passing, &error, unfinished)? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// What stands in the way and passes without harm: until then nothing is confirmed that is not durable.
    fn passing(&self, error: &io::Error) -> Option<Passing> {
        // An error of our own making has no number.
        match disk::is_full(error) {
            true if error.raw_os_error().is_some() => Some(Passing::DiskFull),
            true => Some(Passing::SpoolFull),
            false => disk::is_away(error, &self.archive.segments_folder()).then_some(Passing::FolderAway),
        }
    }

    /// Says what stands in the way and waits a second, or gives up when the writer is being closed. `true` when the
    /// transaction at hand, which is `unfinished`, was found to be discarded.
    fn stall(&mut self, passing: Passing, error: &io::Error, unfinished: bool) -> Result<bool, Fault> {
        let what = passing.what();
        if !std::mem::replace(&mut self.stalled, true) {
            tracing::warn!(%error, "{what}: no more is taken until {}", passing.end());
            self.tell(WriterState::Stalled(format!("{what}: {error}").as_str().into()));
        }
        for _ in 0..20 {
            if unfinished && self.queue.discards() {
                return Ok(true);
            }
            if self.shared.closing.load(Ordering::Acquire) {
                return Err(Fault::stop(format!("{what}: {error}"))
                    .hint(format!("{}; the source sends again what was not acknowledged", passing.cure())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }

    fn resumed(&mut self) {
        if std::mem::take(&mut self.stalled) {
            tracing::info!("the log goes on");
            self.tell(WriterState::Running);
        }
    }

    /// Tells how it fares, unless another thread has told the end of it.
    fn tell(&self, state: WriterState) {
        self.durable.send_modify(|durable| {
            if durable.state.is_alive() {
                durable.state = state;
            }
        });
    }

    fn fault(&self, doing: &str, error: &io::Error) -> Fault {
        disk::fault(doing, &self.archive.segment_path(SegmentName::open(self.encoder.header().after)), error)
    }
}

/// What the log waits for.
#[derive(Clone, Copy)]
enum Passing {
    DiskFull,
    SpoolFull,
    /// A disk that is not mounted, or a folder that was moved.
    FolderAway,
}

impl Passing {
    fn what(self) -> &'static str {
        match self {
            Passing::DiskFull => "the archive's disk is full",
            Passing::SpoolFull => "the spool is full",
            Passing::FolderAway => "the archive's folder is away",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Passing::DiskFull | Passing::SpoolFull => "there is space",
            Passing::FolderAway => "it is back",
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Passing::DiskFull | Passing::SpoolFull => "make space there",
            Passing::FolderAway => "bring it back",
        }
    }
}

/// The mark of a segment that holds nothing yet.
fn beginning(encoder: &Encoder) -> Mark {
    let after = encoder.header().after;
    Mark { segment: after, offset: encoder.end(), position: after }
}

fn header(archive: &Archive, timeline: u32, end: End) -> Header {
    Header {
        archive_id: archive.manifest().archive_id.0,
        system_identifier: archive.manifest().system_identifier,
        timeline,
        after: end.position,
        chain: end.chain,
        encrypted: !archive.keys().is_empty(),
    }
}

/// Makes the open file, durable with its name. Leaves nothing behind where it can't.
fn begin_file(archive: &Archive, header: &Header) -> io::Result<File> {
    let path = archive.segment_path(SegmentName::open(header.after));
    let file = disk::create_new(&path)?;
    faults::point("log.after_create");
    let fill = || {
        file.write_all_at(&header.encode(), 0)?;
        file.sync_data()?;
        disk::sync_folder(&archive.segments_folder())
    };
    if let Err(error) = fill() {
        std::fs::remove_file(&path)?;
        return Err(error);
    }
    faults::point("log.after_begin");
    Ok(file)
}
