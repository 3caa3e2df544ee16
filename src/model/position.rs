//! Addresses in the source's WAL, and positions in the log.
//!
//! The log is ordered by commit, so only the end of a commit (or a keepalive that nothing precedes) is a
//! [`Position`], which can be compared. Any other address in WAL is a mere [`Lsn`], which can't: the LSN of a
//! change may be lower than an earlier commit's, and many changes may share one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A byte address in WAL, as PostgreSQL's `pg_lsn`. Deliberately without an order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Lsn(pub u64);

/// A place in the log: every transaction whose commit ends at or before it is covered, no other is.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// A transaction id as messages carry it: 32 bits, so it wraps and is never a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

impl Xid {
    /// Of two that are less than 2^31 apart.
    pub fn is_before(self, other: Xid) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
    }
}

impl Position {
    pub const ZERO: Position = Position(0);

    /// Whether a transaction whose commit record starts at `commit_lsn` is covered. Its end lies after its start,
    /// and may touch the start of the next one, hence the strict comparison (logical.c, `SnapBuildXactNeedsSkip`).
    pub fn covers_commit_at(self, commit_lsn: Lsn) -> bool {
        commit_lsn.0 < self.0
    }

    /// Bytes of WAL from `earlier` to here; zero where `earlier` is later.
    pub fn bytes_since(self, earlier: Position) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn lsn(self) -> Lsn {
        Lsn(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lsn().fmt(f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not an LSN such as `16/B374D848`.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not an LSN such as 16/B374D848")]
pub struct BadLsn(String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Lsn, BadLsn> {
        let half = |part: &str| {
            let hex = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| BadLsn(text.into()))
    }
}

impl FromStr for Position {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Position, BadLsn> {
        text.parse().map(|lsn: Lsn| Position(lsn.0))
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_as_postgres_does() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "g/0", "+1/0", "123456789/0", "0/ 1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn adjacent_commits_are_two() {
        let progress = Position(0x2022AD8);
        assert!(progress.covers_commit_at(Lsn(0x2022AA8)));
        assert!(!progress.covers_commit_at(Lsn(0x2022AD8)));
    }
}
