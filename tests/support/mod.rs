//! What the tests on real servers stand on: throw-away clusters, object stores, sessions, the built
//! program, comparison.
//!
//! Everything started here ends with the test that started it: by `Drop` when it returns or panics, and by a
//! watcher process when the test itself is killed. Nothing listens but on loopback and on sockets in the
//! cluster's own folder. `PGSLUICE_KEEP=1` leaves the folders for a look at them.

#![allow(dead_code, unused_imports, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod browser;
mod bucket;
mod clock;
mod cluster;
mod compare;
mod duckdb;
pub mod http;
pub mod ledger;
pub mod many;
mod moto;
mod process;
mod program;
mod proxy;
mod road;
mod session;
mod template;
mod versions;

use std::time::{Duration, Instant};

pub use rustix::process::Signal;

pub use bucket::{Bucket, Misdeed};
pub use clock::WrongClock;
pub use cluster::{Cluster, Preparation, StopMode};
pub use compare::{assert_tables_equal, difference_between, tables_difference};
pub use duckdb::duckdb_python;
pub use moto::Moto;
pub use process::{Outcome, Running, Watcher, is_root};
pub use program::Pgsluice;
pub use proxy::Proxy;
pub use road::Road;
pub use session::{Row, Session};
pub use versions::Version;

/// A source and a target of the default version, started.
pub fn pair() -> (Cluster, Cluster) {
    (Cluster::source(), Cluster::target())
}

/// Asks until it is so, and fails the test with `what` where it isn't within the limit.
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// An LSN as a number, for tests that step through them.
pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.trim().split_once('/').unwrap_or_else(|| panic!("'{text}' is no LSN"));
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}
