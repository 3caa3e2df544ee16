//! The thread that brings sealed segments into the archive's store, one after the other in the order of the log.
//!
//! A store that is away is tried again and again; the spool grows meanwhile, up to its limit, and then the log's writer stalls as on a
//! full disk. What is not in the store when the writer is closed is brought by the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::model::{Fault, Position, Remedy};
use crate::segment::SegmentName;

use super::depot::Depot;
use super::writer::Shared;
use super::{Archive, ArchiveId, Durable, WriterState, copies, disk};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a writer that is being closed waits for a store that has troubles.
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
    /// Only what is in the store may be confirmed.
    pub(super) confirms: bool,
}

impl Shipper {
    pub(super) fn spawn(self, lock: Arc<std::fs::File>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("ship".into()).spawn(move || {
            if let Err(fault) = self.run() {
                tracing::error!(error = %fault, "segments can't be brought into the store any more");
                self.shared.failed.store(true, Ordering::Release);
                let state = WriterState::Failed(fault.message.as_str().into());
                self.durable.send_modify(|durable| durable.state = state);
                self.shared.room.notify_waiters();
            }
            drop(lock);
        })
    }

    fn run(&self) -> Result<(), Fault> {
        let Some(depot) = self.archive.depot() else { return Ok(()) };
        let writer = writer(&self.archive)?;
        if let Err(fault) = depot.sweep() {
            tracing::warn!(error = %fault, "what a broken upload may have left in the store stays there");
        }
        let mut claimed = false;
        while let Ok(name) = self.sealed.recv() {
            let ship = || {
                if !claimed {
                    depot.claim(writer, name.after)?;
                    claimed = true;
                }
                self.ship(depot, writer, name)
            };
            if !self.insist(ship, name)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn ship(&self, depot: &Depot, writer: ArchiveId, name: SegmentName) -> Result<(), Fault> {
        let path = self.archive.segment_path(name);
        if depot.size_bytes(name).is_none() {
            depot.upload(writer, name, &path)?;
            tracing::debug!(segment = %name, "brought a segment into the store");
        }
        self.shared.unstored().remove(&name);
        let through = name.through.unwrap_or(name.after);
        if self.confirms {
            self.durable.send_modify(|durable| durable.confirmable = durable.confirmable.max(through));
        }
        copies::evict(&self.archive, depot, Position(u64::MAX))
    }

    /// Does it until it succeeds; `false` when the writer was closed and it did not in time.
    fn insist(&self, mut act: impl FnMut() -> Result<(), Fault>, name: SegmentName) -> Result<bool, Fault> {
        let mut backoff = BACKOFF_MIN;
        let mut closing = None;
        loop {
            let fault = match act() {
                Ok(()) => return Ok(true),
                Err(fault) if fault.remedy == Remedy::Retry => fault,
                Err(fault) => return Err(fault),
            };
            tracing::warn!(
                error = %fault,
                segment = %name,
                retry_seconds = backoff.as_secs_f64(),
                "a segment can't be brought into the store"
            );
            let again = Instant::now() + backoff;
            while Instant::now() < again {
                if self.shared.closing.load(Ordering::Acquire) {
                    let since = *closing.get_or_insert_with(Instant::now);
                    if since.elapsed() >= PATIENCE {
                        return Ok(false);
                    }
                }
                std::thread::sleep(GLANCE);
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
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
