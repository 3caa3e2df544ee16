//! The receiver's thread that merges small segments as they get older. Nothing waits for it, and it waits for nothing but time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::indexer::Task;
use super::{Archive, Compaction, Compactor};

/// How often it looks whether there is something to merge: so many times while a segment gets old enough, within these bounds.
const LOOKS: u64 = 4;
const PAUSE_SECONDS: (u64, u64) = (1, 300);
/// It leaves the processors to others.
const NICENESS: i32 = 10;

pub(super) struct Merging {
    pub(super) archive: Archive,
    pub(super) compaction: Compaction,
    /// To where the catalog is kept.
    pub(super) merged: Sender<Task>,
    /// Nobody sends: it ends when the other end is gone.
    pub(super) end: Receiver<()>,
    pub(super) closing: Arc<AtomicBool>,
}

impl Merging {
    pub(super) fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("merge".into()).spawn(move || self.run())
    }

    fn run(self) {
        // On Linux that is this thread's alone.
        let _ = rustix::process::nice(NICENESS);
        let (least, most) = PAUSE_SECONDS;
        let pause = Duration::from_secs((self.compaction.age_seconds_min / LOOKS).clamp(least, most));
        let mut compactor = Compactor::new(&self.archive, self.compaction);
        while self.end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            // Where there is a store, whoever extends the log does it; others would do no harm, and the same once more.
            if self.archive.depot().is_some_and(|depot| !depot.is_ours()) {
                continue;
            }
            let done = compactor.run(
                || !self.closing.load(Ordering::Acquire),
                |name, _| {
                    let _ = self.merged.send(Task::Merged(name));
                },
            );
            match done {
                Ok(done) if done.segments_before > 0 => tracing::info!(
                    segments_before = done.segments_before,
                    segments_after = done.segments_after,
                    bytes_before = done.bytes_before,
                    bytes_after = done.bytes_after,
                    "merged segments"
                ),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "small segments stay as they are for now"),
            }
        }
    }
}
