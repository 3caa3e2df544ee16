//! Commit times.

use std::fmt;

use serde::{Serialize, Serializer};

/// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's `TimestampTz`. Commit times are not ordered by position.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// 2000-01-01 in microseconds since 1970-01-01.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

impl Timestamp {
    pub fn from_unix_microseconds(microseconds: i64) -> Timestamp {
        Timestamp(microseconds.saturating_sub(EPOCH_MICROSECONDS))
    }

    pub fn unix_microseconds(self) -> i64 {
        self.0.saturating_add(EPOCH_MICROSECONDS)
    }

    pub fn seconds_since(self, earlier: Timestamp) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }
}

/// RFC 3339 in UTC; the bare number where a calendar can't hold it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.unix_microseconds()) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{} µs since 2000-01-01", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc3339() {
        assert_eq!(Timestamp(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert!(Timestamp(i64::MAX).to_string().ends_with("since 2000-01-01"));
    }
}
