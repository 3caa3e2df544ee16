//! How fast the source is read: all who read it together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be taken at once after nothing was taken for a while.
const BURST: Duration = Duration::from_millis(100);

/// A limit that is shared.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: f64,
    /// When all that was taken so far has been paid for.
    paid: Mutex<Instant>,
}

impl Rate {
    pub fn new(bytes_per_second: u64) -> Rate {
        Rate { bytes_per_second: bytes_per_second.max(1) as f64, paid: Mutex::new(Instant::now()) }
    }

    /// How long who has taken these bytes is to wait before it takes more.
    pub(super) fn takes(&self, bytes: u64) -> Duration {
        self.takes_at(bytes, Instant::now())
    }

    fn takes_at(&self, bytes: u64, now: Instant) -> Duration {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = now.checked_sub(BURST).map_or(*paid, |then| (*paid).max(then));
        *paid = begins + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_the_rate_allows() {
        let rate = Rate::new(1000);
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_secs(10) + Duration::from_millis(milliseconds);
        assert_eq!(rate.takes_at(50, at(0)), Duration::ZERO, "a burst");
        assert_eq!(rate.takes_at(150, at(0)), Duration::from_millis(100));
        assert_eq!(rate.takes_at(500, at(50)), Duration::from_millis(550), "another one's debt counts");
        assert_eq!(rate.takes_at(0, at(700)), Duration::ZERO);
    }
}
