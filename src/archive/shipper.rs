//! The thread that brings sealed segments into the archive's store, one after the other in the order of the log.
//!
//! A store that is away is tried again and again; the spool grows meanwhile, up to its limit, and then the log's writer stalls as on a
//! full disk. What is not in the store when the writer is closed is brought by the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::meter::{METER, observe};
use crate::model::{Fault, Position, Remedy};
use crate::segment::SegmentName;

use super::depot::Depot;
use super::writer::Shared;
use super::{Archive, ArchiveId, Durable, WriterState, disk};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a writer that is being closed goes on to bring what waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a wait looks whether it shall end.
const GLANCE: Duration = Duration::from_millis(50);

/// Names the spool, which a claim to the log is by.
const WRITER: &str = "writer";

pub(super) struct Shipper {
    pub(super) archive: Archive,
    pub(super) shared: Arc<Shared>,
    pub(super) durable: Arc<watch::Sender<Durable>>,
    /// Sealed segments in the order of the log; some may be in the store already.
    pub(super) sealed: Receiver<SegmentName>,
    /// Where the log ends in the store, as far as this writer goes.
    pub(super) from: Position,
    /// Only what is in the store may be confirmed.
    pub(super) confirms: bool,
}

impl Shipper {
    pub(super) fn spawn(self, lock: Arc<std::fs::File>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("ship".into()).spawn(move || {
            if let Err(fault) = self.run() {
                tracing::error!(error = %fault, "segments can't be brought into the store any more");
                self.shared.failed.store(true, Ordering::Release);
                let reason = fault.message.as_str().into();
                let state = match fault.remedy {
                    Remedy::Person => WriterState::Superseded(reason),
                    _ => WriterState::Failed(reason),
                };
                self.durable.send_modify(|durable| durable.state = state);
                self.shared.room.notify_waiters();
            }
            drop(lock);
        })
    }

    /// Ends with the writer, or where another receiver has the log.
    fn run(&self) -> Result<(), Fault> {
        let Some(depot) = self.archive.depot() else { return Ok(()) };
        if let Err(fault) = depot.sweep() {
            tracing::warn!(error = %fault, "what a broken upload may have left in the store stays there");
        }
        let writer = writer(&self.archive)?;
        // Who has not the slot has nothing to take the log over for; who had it last may bring what was left over.
        let is_held = depot.is_held_by(writer).unwrap_or(false);
        while !is_held && !self.shared.holds_slot.load(Ordering::Acquire) {
            if self.shared.closing.load(Ordering::Acquire) {
                return Ok(());
            }
            std::thread::sleep(GLANCE);
        }
        let mut end = Ending { closing: &self.shared.closing, since: None };
        // At once, so that whoever was thought dead finds out before it does more.
        if !self
            .insist(&mut end, "the log can't be claimed in the store", || depot.claim(writer, self.from))?
        {
            return Ok(());
        }
        while let Ok(name) = self.sealed.recv() {
            let trouble = format!("segment {name} can't be brought into the store");
            if !self.insist(&mut end, &trouble, || self.ship(depot, writer, name))? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn ship(&self, depot: &Depot, writer: ArchiveId, name: SegmentName) -> Result<(), Fault> {
        if !depot.holds(name) {
            let began = Instant::now();
            depot.upload(writer, name, &self.archive.segment_path(name))?;
            observe(&METER.upload_seconds, began.elapsed());
            tracing::debug!(segment = %name, "brought a segment into the store");
        }
        self.shared.unstored().remove(&name);
        let through = name.through.unwrap_or(name.after);
        if self.confirms {
            self.durable.send_modify(|durable| durable.confirmable = durable.confirmable.max(through));
        }
        self.archive.evict(depot.size_bytes(name).unwrap_or_default());
        Ok(())
    }

    /// Does it until it succeeds; `false` when the writer was closed and its time is over. Whatever the store may have against it
    /// now, it may not have later; only who has lost the log is told so at once.
    fn insist(
        &self,
        end: &mut Ending<'_>,
        trouble: &str,
        mut act: impl FnMut() -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        let mut backoff = BACKOFF_MIN;
        while !end.has_come() {
            let fault = match act() {
                Ok(()) => return Ok(true),
                Err(fault) if fault.remedy == Remedy::Person => return Err(fault),
                Err(fault) => fault,
            };
            METER.store_retries.inc();
            let hint = fault.hint.as_deref().unwrap_or_default();
            let retry_seconds = backoff.as_secs_f64();
            tracing::warn!(error = %fault, hint, retry_seconds, "{trouble}");
            let again = Instant::now() + backoff;
            while Instant::now() < again && !end.has_come() {
                std::thread::sleep(GLANCE);
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        Ok(false)
    }
}

/// When a writer that is being closed waits no longer.
struct Ending<'a> {
    closing: &'a AtomicBool,
    since: Option<Instant>,
}

impl Ending<'_> {
    fn has_come(&mut self) -> bool {
        if !self.closing.load(Ordering::Acquire) {
            return false;
        }
        self.since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE
    }
}

/// The spool's own id, made where there is none.
pub(super) fn writer(archive: &Archive) -> Result<ArchiveId, Fault> {
    let path = archive.root().join(WRITER);
    let fault = |doing: &str, error: &std::io::Error| disk::fault(doing, &path, error);
    match std::fs::read_to_string(&path) {
        Ok(text) => ArchiveId::parse(text.trim()).ok_or_else(|| {
            Fault::person(format!("{} names no spool", path.display())).hint("move the spool away")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = ArchiveId::random()?;
            disk::write_once(archive.root(), WRITER, id.to_string().as_bytes())
                .map_err(|error| fault("cannot write", &error))?;
            Ok(id)
        }
        Err(error) => Err(fault("cannot read", &error)),
    }
}
