//! The task that tells the source how far the log is. Nothing but the socket can hold it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::archive::Durable;
use crate::faults;
use crate::model::{Fault, Position};
use crate::pg::StatusSender;

use super::acknowledge::Acknowledge;

/// Longest silence towards the source. Its `wal_sender_timeout` counts only what it hears from us.
const INTERVAL: Duration = Duration::from_millis(500);
/// Shortest time between two updates that nobody asked for.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Herald {
    shared: Arc<Shared>,
    task: JoinHandle<Result<StatusSender, Fault>>,
    received: watch::Sender<Position>,
    applied: watch::Receiver<Position>,
}

#[derive(Default)]
struct Shared {
    /// The source wants an answer, or we want one of it.
    poke: Notify,
    ask: AtomicBool,
    finish: AtomicBool,
}

impl Herald {
    pub(super) fn start(
        runtime: &Handle,
        sender: StatusSender,
        durable: watch::Receiver<Durable>,
        applied: watch::Receiver<Position>,
    ) -> Herald {
        let shared = Arc::new(Shared::default());
        let (received, seen) = watch::channel(durable.borrow().position);
        let task = runtime.spawn(run(sender, Arc::clone(&shared), seen, durable, applied.clone()));
        Herald { shared, task, received, applied }
    }

    /// Tells how far whole transactions have been received.
    pub(super) fn received(&self, position: Position) {
        self.received.send_replace(position);
    }

    /// Sends a status now.
    pub(super) fn answer(&self) {
        self.shared.poke.notify_one();
    }

    /// Sends a status now and asks the source for a word in return.
    pub(super) fn ask(&self) {
        self.shared.ask.store(true, Ordering::Relaxed);
        self.shared.poke.notify_one();
    }

    /// Whether the sending half has failed; the connection is then of no use.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Sends the last status and takes leave of the source. A connection that is gone already needs none.
    pub(super) async fn finish(mut self, durable: Position) {
        self.shared.finish.store(true, Ordering::Relaxed);
        self.shared.poke.notify_one();
        let Ok(Ok(mut sender)) = (&mut self.task).await else { return };
        faults::point("receive.before_leave");
        let applied = *self.applied.borrow();
        let status = Acknowledge::default().status(durable, durable, applied);
        if let Err(fault) = async {
            sender.send(status).await?;
            sender.finish().await
        }
        .await
        {
            tracing::debug!(error = %fault, "source did not hear the last status");
        }
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut sender: StatusSender,
    shared: Arc<Shared>,
    received: watch::Receiver<Position>,
    mut durable: watch::Receiver<Durable>,
    applied: watch::Receiver<Position>,
) -> Result<StatusSender, Fault> {
    let mut acknowledge = Acknowledge::default();
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = shared.poke.notified() => {}
            () = tokio::time::sleep_until(last + INTERVAL) => {}
            changed = durable.changed() => {
                changed.map_err(|_| super::log_ended())?;
                tokio::time::sleep_until(last + PAUSE).await;
            }
        }
        if shared.finish.load(Ordering::Relaxed) {
            return Ok(sender);
        }
        let held = durable.borrow_and_update().confirmable;
        let held = if faults::mutated("confirm_before_sync") { *received.borrow() } else { held };
        let mut status = acknowledge.status(*received.borrow(), held, *applied.borrow());
        status.reply_requested = shared.ask.swap(false, Ordering::Relaxed);
        faults::point("receive.before_acknowledge");
        sender.send(status).await?;
        faults::point("receive.after_acknowledge");
        last = Instant::now();
    }
}
