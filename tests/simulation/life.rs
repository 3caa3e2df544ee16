//! One life of a receiver and an applier, from their start to a stop or a crash, and the world around them that outlives it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use pgsluice::archive::{Archive, Durable, Location, Mark, Reader, Tail, WriterOptions, WriterState};
use pgsluice::model::{Format, Position};
use pgsluice::pg::Conninfo;
use pgsluice::receive::{Control, Source, open_log, receive};

use super::crash::crash;
use super::history::History;
use super::random::Random;
use super::source::Said;
use super::target::Target;
use super::{checks, source};
use crate::log::messages::manifest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Stop,
    Crash,
    /// When all is received.
    Complete,
}

/// What the source knows of its slot and its WAL.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) confirmed: Position,
    pub(super) wal_end: Position,
    /// Transactions that are committed by now.
    committed: usize,
}

/// What lasts from one life to the next.
pub(super) struct World {
    folder: PathBuf,
    history: Arc<History>,
    slot: Slot,
    target: Target,
    /// What the target was at the start of earlier lives.
    earlier: Vec<Target>,
    lives: u32,
    random: Random,
}

/// What the parts of one life share.
pub(super) struct Life {
    history: Arc<History>,
    archive: PathBuf,
    end: End,
    state: Mutex<State>,
    is_over: AtomicBool,
    over: Notify,
}

struct State {
    slot: Slot,
    target: Target,
    random: Random,
    /// The crash, or stop, comes with this status, or this transaction that is applied; whatever is first.
    left: u64,
    after_crash: PathBuf,
}

impl World {
    pub(super) fn new(folder: &Path, history: Arc<History>, random: &mut Random) -> World {
        let slot = Slot { confirmed: history.start, wal_end: history.start, committed: 0 };
        let target = Target::new(history.start);
        let world = World {
            folder: folder.to_owned(),
            slot,
            target,
            earlier: Vec::new(),
            lives: 0,
            random: random.fork(),
            history,
        };
        let mut manifest = manifest();
        manifest.start = world.history.start;
        let archive = Location::folder(world.archive()).create(manifest).unwrap();
        std::fs::remove_dir_all(archive.catalog_folder()).unwrap();
        std::fs::write(archive.catalog_folder(), b"").unwrap();
        world
    }

    fn archive(&self) -> PathBuf {
        self.folder.join(format!("archive-{}", self.lives))
    }

    /// Lets a receiver and an applier live until the end that is meant for them.
    pub(super) async fn live(&mut self, end: End) {
        // Neither server needs to have kept what it did last: the slot's position is written now and then, and commits may not wait for the disk.
        self.earlier.push(self.target.clone());
        if self.random.one_in(4) {
            let back = self.random.below(self.earlier.len() as u64) as usize;
            self.target = self.earlier[back].clone();
        }
        if self.random.one_in(4) {
            let back = self.random.below(self.slot.confirmed.0 - self.history.start.0 + 1);
            self.slot.confirmed = Position(self.slot.confirmed.0 - back);
        }
        let archive = Archive::open(&self.archive()).unwrap();
        let life = Arc::new(Life {
            history: Arc::clone(&self.history),
            archive: self.archive(),
            end,
            state: Mutex::new(State {
                slot: self.slot,
                target: self.target.clone(),
                random: self.random.fork(),
                left: 1 + self.random.below(40),
                after_crash: self.folder.join(format!("archive-{}", self.lives + 1)),
            }),
            is_over: AtomicBool::new(false),
            over: Notify::new(),
        });
        let sockets = self.folder.join("sockets");
        std::fs::create_dir_all(&sockets).unwrap();
        let serving = {
            let (sockets, life, random) = (sockets.clone(), Arc::clone(&life), self.random.fork());
            tokio::spawn(async move { source::serve(&sockets, life, random).await })
        };
        received(&archive, &life, &sockets, &mut self.random).await;
        assert!(!serving.is_finished(), "the source has panicked");
        serving.abort();
        if let Err(ended) = serving.await
            && ended.is_panic()
        {
            std::panic::resume_unwind(ended.into_panic());
        }
        assert!(!life.state.is_poisoned(), "a check has failed");
        let state = life.state();
        (self.slot, self.target) = (state.slot, state.target.clone());
        if end == End::Crash && life.is_over() {
            self.lives += 1;
        }
    }

    /// The last life, in which nothing is cut.
    pub(super) async fn finish(mut self) -> (Archive, Target) {
        self.live(End::Complete).await;
        (Archive::open(&self.archive()).unwrap(), self.target)
    }
}

/// Receives and applies until the life is over.
async fn received(archive: &Archive, life: &Arc<Life>, sockets: &Path, random: &mut Random) {
    let (stop, stopped) = watch::channel(false);
    let endpos = (life.end == End::Complete).then(|| life.history.end());
    let control = Control {
        stop: stopped.clone(),
        endpos: watch::channel(endpos).1,
        applied: watch::channel(Position::ZERO).1,
        received: watch::channel(Position::ZERO).0,
    };
    let conninfo =
        format!("host={} port={} user=u dbname=app sslmode=disable", sockets.display(), source::PORT);
    let source = Source {
        conninfo: Conninfo::parse(&conninfo).unwrap(),
        slot: "pgsluice".into(),
        publication: "pgsluice".into(),
        sequences: false,
        streaming: false,
        format: Format::Text,
    };
    let options = WriterOptions {
        segment_bytes_max: random.any(&[2 << 10, 8 << 10, 64 << 20]),
        segment_transactions_max: random.any(&[3, 10, 1 << 20]),
        ..WriterOptions::default()
    };
    let writer = open_log(archive, &source, options, &control).await.unwrap().unwrap();
    let durable = writer.durable();
    let (position, slot) = (durable.borrow().position, life.slot());
    assert!(position >= slot.confirmed, "{} was confirmed, the log has {position}", slot.confirmed);
    assert!(position >= life.state().target.position, "more was applied than the log has: {position}");
    let mut applying = {
        let (archive, life) = (archive.clone(), Arc::clone(life));
        let (tail, durable) = (writer.tail(), writer.durable());
        tokio::spawn(async move { apply(&archive, &life, tail, durable).await })
    };
    let limit = Duration::from_millis(random.below(400) + 100);
    let ending = {
        let life = Arc::clone(life);
        tokio::spawn(async move {
            if tokio::time::timeout(limit, life.over.notified()).await.is_err() && life.end != End::Complete {
                life.finish();
            }
            if life.end == End::Complete {
                std::future::pending::<()>().await
            }
            stop.send_replace(true);
        })
    };
    let mut receiving = std::pin::pin!(receive(archive, writer, &source, control));
    let log = tokio::select! {
        log = &mut receiving => log,
        ended = &mut applying => {
            ended.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
            assert!(life.is_over(), "the applier has ended");
            receiving.await
        }
    };
    ending.abort();
    let log = log.unwrap_or_else(|fault| panic!("the receiver: {fault}"));
    assert_eq!(durable.borrow().state, WriterState::Running);
    if life.end == End::Complete {
        let wanted = life.history.end();
        assert!(log >= wanted, "the receiver ended at {log}, before {wanted}");
        while life.state().target.position < wanted {
            assert!(!applying.is_finished(), "the applier has ended");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        life.is_over.store(true, Ordering::SeqCst);
    }
    if !applying.is_finished() {
        applying.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
    }
}

/// Brings what is durable to the target, whole transactions at a time.
async fn apply(archive: &Archive, life: &Life, tail: Tail, mut durable: watch::Receiver<Durable>) {
    let mut reader = Reader::open(archive, life.state().target.position, Some(tail)).unwrap();
    let mut pending = Vec::new();
    while !life.is_over() {
        let Some(frame) = tokio::task::block_in_place(|| reader.try_next()).unwrap() else {
            let _ = tokio::time::timeout(Duration::from_millis(5), reader.wait()).await;
            continue;
        };
        pending.extend_from_slice(&frame.raw);
        if frame.ends_on_commit {
            // It is synced before it is shown, and said to be durable in the next moment, with nothing else to wait for.
            let said = durable.wait_for(|durable| durable.position >= frame.through);
            tokio::time::timeout(Duration::from_secs(5), said).await.expect("not durable").unwrap();
            life.apply(&std::mem::take(&mut pending));
        }
    }
}

impl Life {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn history(&self) -> &Arc<History> {
        &self.history
    }

    pub(super) fn is_last(&self) -> bool {
        self.end == End::Complete
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    pub(super) fn slot(&self) -> Slot {
        self.state().slot
    }

    pub(super) fn is_committed(&self, end: Position) -> bool {
        self.slot().wal_end >= end
    }

    /// The source commits some more.
    pub(super) fn commit_more(&self, random: &mut Random) {
        let mut state = self.state();
        let slot = &mut state.slot;
        let count = self.history.transactions.len();
        slot.committed = (slot.committed + 1 + random.below(4) as usize).min(count);
        slot.wal_end = slot.wal_end.max(self.history.transactions[slot.committed - 1].end);
    }

    /// How far a keepalive may say that everything was sent, where this much was.
    pub(super) fn idle_until(&self, sent: Position, random: &mut Random) -> Position {
        let mut state = self.state();
        let transactions = &self.history.transactions;
        let next = transactions.iter().find(|transaction| transaction.end > sent);
        let Some(next) = next else {
            // WAL of other databases.
            state.slot.wal_end.0 += random.below(3) * 0x100;
            return state.slot.wal_end;
        };
        // Its own WAL up to the next record that is told of.
        let end = Position(sent.0 + random.below(next.begins.0.saturating_sub(sent.0) + 1));
        state.slot.wal_end = state.slot.wal_end.max(end);
        end
    }

    /// The source is told that everything up to there is safe.
    pub(super) fn confirmed(&self, said: &Said) {
        let mut state = self.state();
        if self.is_over() {
            return;
        }
        let Said { last, written, flushed, sent } = *said;
        assert!(flushed >= last, "the confirmed position went back from {last} to {flushed}");
        assert!(flushed <= written, "confirmed {flushed}, received {written}");
        // What was durable when it was said is so now.
        let durable = Mark::read(&self.archive).unwrap().unwrap().position;
        assert!(flushed <= durable, "{flushed} was confirmed, but only {durable} is durable");
        assert!(
            flushed <= sent.max(state.slot.confirmed),
            "{flushed} was confirmed, but only {sent} was sent"
        );
        state.slot.confirmed = state.slot.confirmed.max(flushed);
        self.count(&mut state);
    }

    fn apply(&self, records: &[u8]) {
        let mut state = self.state();
        if self.is_over() && self.end != End::Complete {
            return;
        }
        state.target.apply(records, checks::bank);
        self.count(&mut state);
    }

    fn count(&self, state: &mut State) {
        state.left = state.left.saturating_sub(1);
        if state.left == 0 && self.end != End::Complete {
            self.end_with(state);
        }
    }

    fn finish(&self) {
        let mut state = self.state();
        if !self.is_over() {
            self.end_with(&mut state);
        }
    }

    /// A crash is a copy of the disk; whatever the old machine does from then on is for nothing.
    fn end_with(&self, state: &mut State) {
        if self.end == End::Crash {
            crash(&self.archive, &state.after_crash, &mut state.random);
        }
        self.is_over.store(true, Ordering::SeqCst);
        self.over.notify_one();
    }
}
