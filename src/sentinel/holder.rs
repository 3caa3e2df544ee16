//! Who asks appliers to stand still, for as long as it lives: says so again and again, and takes it back at the end.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use crate::model::{Fault, Position};

use super::{Hold, Sentinel, link};

/// How often a hold says that it is still wanted.
const BEAT: Duration = Duration::from_secs(3);
/// How long to listen whether the owner of another hold is still there.
const LISTEN: Duration = Duration::from_secs(10);

/// A hold that is ours.
pub struct Holder {
    sentinel: Arc<Sentinel>,
    owner: u32,
    beating: AbortHandle,
}

impl Holder {
    /// Has all appliers of the archive stand where they are, as soon as they hear of it. Refused while somebody else has them stand.
    pub async fn take(sentinel: Sentinel) -> Result<Holder, Fault> {
        let sentinel = Arc::new(sentinel);
        let owner = RandomState::new().hash_one(std::process::id()) as u32;
        let started = Instant::now();
        let mut other: Option<Hold> = None;
        loop {
            let gone = other.filter(|_| started.elapsed() >= LISTEN);
            let control = change(&sentinel, move |hold| {
                if hold.is_none() || *hold == gone {
                    *hold = Some(Hold { lsn: Position(1), owner, beat: 1 });
                }
            })
            .await?;
            match (control, other) {
                (Some(hold), _) if hold.owner == owner => break,
                (Some(hold), Some(before)) if hold != before => {
                    return Err(Fault::stop("another comparison has the applier stand still")
                        .hint("wait for its end"));
                }
                (hold, _) => other = hold,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let beating = tokio::spawn(beat(Arc::clone(&sentinel), owner)).abort_handle();
        Ok(Holder { sentinel, owner, beating })
    }

    /// Has them go on up to a position, and stand there.
    pub async fn set(&self, lsn: Position) -> Result<(), Fault> {
        let owner = self.owner;
        let hold = change(&self.sentinel, move |hold| {
            if let Some(hold) = hold.as_mut().filter(|hold| hold.owner == owner) {
                (hold.lsn, hold.beat) = (lsn, hold.beat + 1);
            }
        })
        .await?;
        match hold {
            Some(hold) if hold.owner == owner => Ok(()),
            _ => Err(Fault::retry("the applier's hold was taken away").hint("run it again")),
        }
    }

    /// Within what time whoever runs has heard what was set.
    pub fn is_heard_within(&self) -> Duration {
        link::paces(&self.sentinel).0 * 2 + Duration::from_millis(100)
    }

    /// Lets them go on.
    pub async fn release(self) {
        self.beating.abort();
        let owner = self.owner;
        let released =
            change(&self.sentinel, move |hold| *hold = hold.filter(|hold| hold.owner != owner)).await;
        if let Err(error) = released {
            let seconds = Hold::LEASE.as_secs();
            tracing::warn!(%error, "the applier was not told to go on; it does so by itself within {seconds} seconds");
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

async fn beat(sentinel: Arc<Sentinel>, owner: u32) {
    loop {
        tokio::time::sleep(BEAT).await;
        let beaten = change(&sentinel, move |hold| {
            if let Some(hold) = hold.as_mut().filter(|hold| hold.owner == owner) {
                hold.beat += 1;
            }
        });
        if let Err(error) = beaten.await {
            tracing::warn!(%error, "the sentinel can't be reached; without it the applier goes on");
        }
    }
}

/// Changes the hold, and gives the one that there is then.
async fn change(
    sentinel: &Arc<Sentinel>,
    mut change: impl FnMut(&mut Option<Hold>) + Send + 'static,
) -> Result<Option<Hold>, Fault> {
    let sentinel = Arc::clone(sentinel);
    let changed =
        tokio::task::spawn_blocking(move || sentinel.update(|control| change(&mut control.hold))).await;
    changed.map_err(|_| Fault::stop("changing the sentinel has panicked"))?.map(|control| control.hold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentinel::{Control, Home};

    #[tokio::test]
    async fn one_at_a_time_and_none_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::Folder(folder.path().to_owned());
        let sentinel = Sentinel::create(&home, Control::default()).unwrap();
        let open = || Sentinel::open(&home).unwrap();
        let holder = Holder::take(open()).await.unwrap();
        holder.set(Position(9)).await.unwrap();
        assert_eq!(sentinel.read().unwrap().hold.unwrap().lsn, Position(9));
        assert!(Holder::take(open()).await.err().unwrap().message.contains("another comparison"));
        holder.release().await;
        assert_eq!(sentinel.read().unwrap().hold, None);

        let left = Hold { lsn: Position(9), owner: 0, beat: 1 };
        sentinel.update(|control| control.hold = Some(left)).unwrap();
        let holder = Holder::take(open()).await.unwrap();
        sentinel.update(|control| control.hold = Some(left)).unwrap();
        assert!(holder.set(Position(10)).await.is_err());
        holder.release().await;
        assert_eq!(sentinel.read().unwrap().hold, Some(left));
    }
}
