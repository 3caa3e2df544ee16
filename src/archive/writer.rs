//! The receiver's end of the log.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::model::{Fault, Position};
use crate::segment::{Cut, SegmentName};

use super::builder::Builder;
use super::merging::Merging;
use super::queue::{Command, Queue};
use super::scribe::{Scribe, Start};
use super::shipper::Shipper;
use super::{Archive, Compaction, Mark, Tail, disk, indexer, recovery};

#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// A segment is sealed at the first commit behind this many stored bytes.
    pub segment_bytes_max: u64,
    /// And after so many transactions: what is known of each stays in memory until then, however few bytes it takes on disk.
    pub segment_transactions_max: u64,
    /// And at the first commit this long after its first transaction.
    pub segment_age_seconds: u64,
    /// Bytes of records that may wait for the disk before [`Writer::is_full`].
    pub queue_bytes: usize,
    pub tail_bytes: usize,
    pub zstd_level: i32,
    /// What must hold a transaction before the source is told that it may forget it.
    pub durability: Durability,
    /// Whether small segments are merged meanwhile.
    pub compaction: Option<Compaction>,
}

/// Where a transaction is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// In the folder, synced.
    #[default]
    Local,
    /// In the archive's store, so that the loss of this machine's disk loses nothing.
    Store,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            segment_bytes_max: 64 << 20,
            segment_transactions_max: 1 << 20,
            segment_age_seconds: 600,
            queue_bytes: 16 << 20,
            tail_bytes: 32 << 20,
            zstd_level: 1,
            durability: Durability::Local,
            compaction: Some(Compaction::default()),
        }
    }
}

/// How the writer's thread fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterState {
    Running,
    /// The disk is full, or the folder away. It goes on by itself when there is space, or the folder is back.
    Stalled(Arc<str>),
    /// It has ended; what is not durable is lost and has to be received again.
    Failed(Arc<str>),
    /// Another receiver extends the log.
    Superseded(Arc<str>),
}

impl WriterState {
    /// Whether it goes on, or will by itself.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self, WriterState::Running | WriterState::Stalled(_))
    }
}

/// How far the log is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    pub position: Position,
    /// What a receiver may confirm to the source: as far, or less far where the [`Durability`] asked for wants more.
    pub confirmable: Position,
    /// Where in the open segment that is.
    pub mark: Mark,
    /// Bytes of records that waited for the disk when this was published; 0: all that was sent is durable.
    pub queued_bytes: usize,
    pub state: WriterState,
}

/// What writer and thread share beside the queue.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) queued_bytes: AtomicUsize,
    pub(super) room: Notify,
    /// The length of the open file, and how many segments were sealed before it.
    pub(super) stored_bytes: AtomicU64,
    pub(super) sealed: AtomicU64,
    pub(super) failed: AtomicBool,
    pub(super) closing: Arc<AtomicBool>,
    /// The source's slot was seen to be ours.
    pub(super) holds_slot: AtomicBool,
    /// Sealed segments that the archive's store does not have yet, with their lengths.
    unstored: Mutex<BTreeMap<SegmentName, u64>>,
}

impl Shared {
    pub(super) fn unstored(&self) -> MutexGuard<'_, BTreeMap<SegmentName, u64>> {
        self.unstored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often the lock is tried, 50 ms apart.
const LOCK_ATTEMPTS: u32 = 10;
/// An open file that holds nothing but idle progress is sealed from here on.
const IDLE_BYTES_MAX: u64 = 1 << 20;

/// How long a merge may go on that waits for a store: nothing is lost by leaving it.
const MERGE_PATIENCE: Duration = Duration::from_secs(5);

fn ends_in_time(thread: &JoinHandle<()>) -> bool {
    let since = Instant::now();
    while !thread.is_finished() && since.elapsed() < MERGE_PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    thread.is_finished()
}

/// The one writer of an archive. All but [`Writer::room`] and [`Writer::close`] is synchronous and never touches the
/// disk. Dropped without `close`, it writes what it was given whole, and leaves the segment open for the next to recover.
pub struct Writer {
    builder: Builder,
    options: WriterOptions,
    shared: Arc<Shared>,
    durable: watch::Receiver<Durable>,
    tail: Tail,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<Result<Position, Fault>>>,
    indexer: Option<JoinHandle<()>>,
    shipper: Option<JoinHandle<()>>,
    merging: Option<(Sender<()>, JoinHandle<()>)>,
    timeline: u32,
    /// Segments that were asked to be sealed.
    seals: u64,
    seal_wanted: bool,
    /// When the open segment got its first transaction, and how many it has.
    segment_since: Option<Instant>,
    segment_transactions: u64,
    sealed_at: Instant,
}

impl Writer {
    /// Takes the archive's lock, recovers what a crash left, and begins a segment. A log that holds nothing yet begins
    /// on `timeline`; one that does stays on its own until [`Writer::continue_on`]. Blocks on the disk.
    pub fn open(archive: &Archive, timeline: u32, options: WriterOptions) -> Result<Writer, Fault> {
        let lock = Arc::new(lock(archive)?);
        let end = recovery::recover(archive, options.zstd_level)?;
        let timeline = end.timeline.unwrap_or(timeline);
        if let Some(key) = archive.keys().ids().next() {
            tracing::info!(%key, "the log is encrypted from here on");
        }
        let shared = Arc::new(Shared::default());
        let unstored = recovery::unstored(archive)?;
        let stored = unstored.first_key_value().map_or(end.position, |(name, _)| name.after);
        let confirmable = match options.durability {
            Durability::Local => end.position,
            Durability::Store => stored,
        };
        *shared.unstored() = unstored;
        let (durable_sender, durable) = watch::channel(Durable {
            position: end.position,
            confirmable,
            mark: Mark::default(),
            queued_bytes: 0,
            state: WriterState::Running,
        });
        let tail = Tail::new(options.tail_bytes, durable.clone());
        let durable_sender = Arc::new(durable_sender);
        let (sealed, sealed_segments) = channel();
        let merged = sealed.clone();
        let (pressed, pressed_segments) = channel();
        let (commands, receiver) = channel();
        let scribe = Scribe::open(Start {
            archive: archive.clone(),
            timeline,
            zstd_level: options.zstd_level,
            shared: Arc::clone(&shared),
            tail: tail.clone(),
            durable: Arc::clone(&durable_sender),
            confirms: options.durability == Durability::Local,
            queue: Queue::new(receiver),
            sealed,
            end,
        })?;
        let failed = |error| Fault::stop(format!("cannot start the log's threads: {error}"));
        let closing = Arc::clone(&shared.closing);
        let (level, lock_too) = (options.zstd_level, Arc::clone(&lock));
        let left_over = shared.unstored().keys().copied().collect();
        let handed = indexer::Handed { sealed: sealed_segments, pressed, left_over };
        let indexer = indexer::spawn(archive.clone(), level, handed, closing, lock_too);
        let indexer = indexer.map_err(failed)?;
        let shipper = Shipper {
            archive: archive.clone(),
            shared: Arc::clone(&shared),
            durable: durable_sender,
            sealed: pressed_segments,
            from: stored,
            confirms: options.durability == Durability::Store,
        };
        let shipper =
            archive.depot().map(|_| shipper.spawn(Arc::clone(&lock))).transpose().map_err(failed)?;
        let merging = options.compaction.map(|compaction| {
            let (alive, end) = channel();
            let (archive, closing) = (archive.clone(), Arc::clone(&shared.closing));
            Ok((alive, Merging { archive, compaction, merged, end, closing }.spawn()?))
        });
        let merging = merging.transpose().map_err(failed)?;
        let writing = std::thread::Builder::new().name("log".into()).spawn(move || {
            let result = scribe.run();
            drop(lock);
            result
        });
        Ok(Writer {
            builder: Builder::new(end.position),
            options,
            shared,
            durable,
            tail,
            commands: Some(commands),
            thread: Some(writing.map_err(failed)?),
            indexer: Some(indexer),
            shipper,
            merging,
            timeline,
            seals: 0,
            seal_wanted: false,
            segment_since: None,
            segment_transactions: 0,
            sealed_at: Instant::now(),
        })
    }

    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }

    /// The end of the last whole transaction, or idle progress, that was taken.
    pub fn received(&self) -> Position {
        self.builder.received()
    }

    /// The source's timeline in the log's last segment.
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// What follows is of that timeline, and goes to another segment where it is another. Only between transactions.
    pub fn continue_on(&mut self, timeline: u32) {
        if timeline != self.timeline {
            self.timeline = timeline;
            self.seal_now(true);
            self.send(Command::Timeline(timeline));
        }
    }

    /// Takes one pgoutput message, verbatim. After an error the unfinished transaction is to be discarded.
    pub fn append(&mut self, message: &[u8]) -> Result<(), Fault> {
        let completed = self.builder.append(message)?;
        while let Some(cut) = self.builder.due() {
            self.send_frame(cut)?;
        }
        if completed {
            if self.segment_since.is_none() {
                self.segment_since = Some(Instant::now());
            }
            self.segment_transactions += 1;
            let full = self.segment_transactions >= self.options.segment_transactions_max
                || self.stored_bytes() >= self.options.segment_bytes_max;
            if self.seal_wanted || full {
                self.seal();
            }
        }
        Ok(())
    }

    /// Idle progress: everything up to `through` was seen and nothing of it is pending. Only between transactions; it
    /// goes to the disk with the next frame.
    pub fn progress(&mut self, through: Position) {
        self.builder.progress(through);
    }

    /// Forgets the unfinished transaction, also what of it is in the file already.
    pub fn discard(&mut self) {
        if self.builder.discard() {
            self.send(Command::Discard);
        }
    }

    /// Closes the frame in hand at its last commit and gives it to the disk.
    pub fn flush(&mut self) {
        if let Some(cut) = self.builder.flush() {
            // A failed thread has published why.
            let _ = self.send_frame(cut);
        }
        self.tick();
    }

    /// Seals what is due by age; between transactions, else at the end of the one in hand.
    pub fn tick(&mut self) {
        let age = Duration::from_secs(self.options.segment_age_seconds);
        let old = self.segment_since.is_some_and(|since| since.elapsed() >= age);
        let idle = self.segment_since.is_none() && self.stored_bytes() >= IDLE_BYTES_MAX;
        // Else a source that has nothing to tell would keep its WAL.
        let overdue = self.options.durability == Durability::Store && self.sealed_at.elapsed() >= age;
        if old || idle || overdue {
            self.seal_now(idle || overdue);
        }
    }

    /// Flushes, and seals the segment where it holds a transaction, or idle progress that can be confirmed only when it is in the
    /// store. Inside a transaction: when that ends.
    pub fn seal(&mut self) {
        let confirmable = self.durable.borrow().confirmable;
        self.seal_now(self.options.durability == Durability::Store && self.received() > confirmable);
    }

    /// The source's slot is this receiver's: what the archive's store has from now on is decided by it.
    pub fn holds_slot(&self) {
        self.shared.holds_slot.store(true, Ordering::Release);
    }

    fn seal_now(&mut self, idle_too: bool) {
        if self.builder.in_transaction() {
            self.seal_wanted = true;
            return;
        }
        self.seal_wanted = false;
        if let Some(cut) = self.builder.flush() {
            let _ = self.send_frame(cut);
        }
        if self.segment_since.take().is_some() || idle_too {
            self.sealed_at = Instant::now();
            self.builder.start_segment();
            self.segment_transactions = 0;
            self.seals += 1;
            self.send(Command::Seal);
        }
    }

    /// Bytes of records that wait in the frame in hand, up to its last commit.
    pub fn frame_bytes(&self) -> usize {
        self.builder.committed()
    }

    /// Whether so much waits for the disk that no more should be read from the source.
    pub fn is_full(&self) -> bool {
        self.shared.queued_bytes.load(Ordering::Acquire) >= self.options.queue_bytes && !self.failed()
    }

    /// Waits until it is not full, or has failed. May be dropped at any time.
    pub async fn room(&self) {
        loop {
            let notified = self.shared.room.notified();
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// Discards the unfinished transaction, makes the rest durable, seals, and ends the thread. On a full disk it
    /// gives up at once. Returns the durable position.
    pub async fn close(mut self) -> Result<Position, Fault> {
        self.discard();
        if let Some(cut) = self.builder.flush() {
            self.send_frame(cut)?;
        }
        self.send(Command::Finish);
        self.shared.closing.store(true, Ordering::Release);
        self.commands = None;
        let Some(thread) = self.thread.take() else { return Ok(self.builder.received()) };
        // The indexer waits for all who send to it.
        let merging = self.merging.take().map(|(alive, thread)| {
            drop(alive);
            thread
        });
        let (indexer, shipper) = (self.indexer.take(), self.shipper.take());
        let joined = tokio::task::spawn_blocking(move || {
            let result = thread.join();
            let has_merged = merging.is_none_or(|merging| ends_in_time(&merging));
            for other in [indexer.filter(|_| has_merged), shipper].into_iter().flatten() {
                let _ = other.join();
            }
            result
        })
        .await;
        match joined {
            Ok(Ok(result)) => result,
            _ => Err(Fault::stop("the log's thread has panicked")),
        }
    }

    /// The length of the open file, as far as the thread has come; 0 while a seal is under way.
    fn stored_bytes(&self) -> u64 {
        let current = self.shared.sealed.load(Ordering::Acquire) == self.seals;
        if current { self.shared.stored_bytes.load(Ordering::Acquire) } else { 0 }
    }

    fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    fn send_frame(&mut self, cut: Cut) -> Result<(), Fault> {
        self.shared.queued_bytes.fetch_add(cut.raw.len(), Ordering::AcqRel);
        if self.failed() || !self.send(Command::Frame(cut)) {
            let reason = match &self.durable.borrow().state {
                WriterState::Failed(reason) | WriterState::Superseded(reason) => reason.to_string(),
                _ => "its thread has ended".into(),
            };
            return Err(Fault::stop(format!("the log cannot be written: {reason}")));
        }
        Ok(())
    }

    fn send(&self, command: Command) -> bool {
        self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some((alive, thread)) = self.merging.take() {
            drop(alive);
            let _ = thread.join();
        }
        for other in [self.indexer.take(), self.shipper.take()].into_iter().flatten() {
            let _ = other.join();
        }
    }
}

/// The archive's lock, held as long as the file is open.
pub(super) fn lock(archive: &Archive) -> Result<File, Fault> {
    let path = archive.root().join("lock");
    let fault = |error: &std::io::Error| disk::fault("cannot lock", &path, error);
    let file = disk::open_or_create(&path).map_err(|error| fault(&error))?;
    // Commands that look share the lock for a moment.
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::Error(error)) => return Err(fault(&error)),
        }
    }
    Err(Fault::stop(format!("archive {} is in use by another receiver", archive.root().display()))
        .hint("stop the other pgsluice first; `pgsluice status` looks at the archive while it runs"))
}
