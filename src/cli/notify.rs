//! What a service manager hears of a run by `sd_notify`; nothing where it gave no NOTIFY_SOCKET.

use sd_notify::NotifyState;

use crate::follow::Standing;

/// Speaks only when it is called, from the conductor's loop: one that hangs is silent, and its watchdog bites.
#[derive(Default)]
pub(super) struct Notify {
    is_ready: bool,
}

impl Notify {
    /// The loop runs: ready, the first time; and how things stand.
    pub(super) fn beat(&mut self, mode: &str, standing: &Standing) {
        let status = format!(
            "{mode}, lag {} bytes / {:.1} s, durable up to {}, applied up to {}",
            standing.lag_bytes, standing.lag_seconds, standing.flush_lsn, standing.replay_lsn
        );
        let status = NotifyState::Status(&status);
        if std::mem::replace(&mut self.is_ready, true) {
            tell(&[NotifyState::Watchdog, status]);
        } else {
            tell(&[NotifyState::Ready, NotifyState::Watchdog, status]);
        }
    }

    /// The loop has ended, and the process will.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager can't be told");
    }
}
