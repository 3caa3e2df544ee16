//! What keeps a running process and its sentinel in touch: a thread of its own, so that a store that is slow, or away, holds up nobody.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::model::{Fault, Position};

use super::{Control, Hold, Keeper, Sentinel};

/// How long an ending process waits for its last word to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far a process has come; `0/0` for what it has no part in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub write_lsn: Position,
    pub flush_lsn: Position,
    pub replay_lsn: Position,
    /// A hold whose owner is gone: it is taken away.
    pub expired: Option<Hold>,
}

/// Hears what others set, and tells how far this process is.
pub struct Link {
    control: watch::Receiver<Control>,
    reached: watch::Sender<Reached>,
    end: mpsc::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Link {
    /// Reads the sentinel, and keeps in touch with it from then on.
    pub fn open(mut sentinel: Sentinel) -> Result<Link, Fault> {
        let first = sentinel.changed()?.unwrap_or_default();
        let (control_sender, control) = watch::channel(first);
        let (reached, reached_receiver) = watch::channel(Reached::default());
        let (end, ends) = mpsc::channel();
        let (done, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("sentinel".into())
            .spawn(move || {
                run(sentinel, &control_sender, reached_receiver, &ends);
                let _ = done.send(());
            })
            .map_err(|error| Fault::stop(format!("cannot start the sentinel's thread: {error}")))?;
        Ok(Link { control, reached, end, ended })
    }

    /// What is set now, as far as is known.
    pub fn control(&self) -> Control {
        *self.control.borrow()
    }

    /// The next thing that is set. May be dropped at any time.
    pub async fn changed(&mut self) -> Control {
        if self.control.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.control.borrow_and_update()
    }

    /// To be written in a while.
    pub fn tell(&self, reached: Reached) {
        self.reached.send_replace(reached);
    }

    /// Writes what was told last, if the sentinel can be reached.
    pub async fn close(self) {
        drop(self.end);
        if tokio::time::timeout(PATIENCE, self.ended).await.is_err() {
            tracing::warn!("the sentinel was not told how far this process came: it can't be reached");
        }
    }
}

/// How often the sentinel is looked at, and told something. What a store does is paid for by the request.
pub(super) fn paces(sentinel: &Sentinel) -> (Duration, Duration) {
    match sentinel.keeper {
        Keeper::File(_) => (Duration::from_millis(200), Duration::from_secs(1)),
        Keeper::Object(_) => (Duration::from_secs(1), Duration::from_secs(10)),
    }
}

fn run(
    mut sentinel: Sentinel,
    control: &watch::Sender<Control>,
    reached: watch::Receiver<Reached>,
    ends: &mpsc::Receiver<()>,
) {
    let (look, tell) = paces(&sentinel);
    let mut told_at = Instant::now();
    let (mut is_reached, mut told) = (true, Reached::default());
    loop {
        let is_over = ends.recv_timeout(look) != Err(mpsc::RecvTimeoutError::Timeout);
        let mut trouble = None;
        let now = *reached.borrow();
        if (is_over || told_at.elapsed() >= tell) && told != now {
            told_at = Instant::now();
            match sentinel.update(|control| now.note(control)) {
                Ok(_) => told = now,
                Err(fault) => trouble = Some(fault),
            }
        }
        if !is_over {
            match sentinel.changed() {
                Ok(Some(now)) => drop(control.send_replace(now)),
                Ok(None) => {}
                Err(fault) => trouble = Some(fault),
            }
        }
        if let Some(fault) = &trouble
            && is_reached
        {
            tracing::warn!(error = %fault, "the sentinel can't be reached; what it said last holds");
        }
        is_reached = trouble.is_none();
        if is_over {
            return;
        }
    }
}

impl Reached {
    /// Positions only grow, and a hold that has got another beat stays.
    fn note(self, control: &mut Control) {
        control.write_lsn = control.write_lsn.max(self.write_lsn);
        control.flush_lsn = control.flush_lsn.max(self.flush_lsn);
        control.replay_lsn = control.replay_lsn.max(self.replay_lsn);
        control.hold = control.hold.filter(|hold| self.expired != Some(*hold));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentinel::Home;

    #[test]
    fn what_is_set_is_heard_and_what_was_reached_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::Folder(folder.path().to_owned());
        let sentinel = Sentinel::create(&home, Control::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut link = Link::open(Sentinel::open(&home).unwrap()).unwrap();
            assert_eq!(link.control(), Control::default());
            sentinel.update(|control| control.endpos = Position(7)).unwrap();
            assert_eq!(link.changed().await.endpos(), Some(Position(7)));
            link.tell(Reached { replay_lsn: Position(5), ..Reached::default() });
            link.tell(Reached { replay_lsn: Position(6), ..Reached::default() });
            link.close().await;
        });
        let control = sentinel.read().unwrap();
        assert_eq!((control.replay_lsn, control.write_lsn), (Position(6), Position::ZERO));
    }
}
