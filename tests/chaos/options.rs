//! What a run is asked for: by the environment, which `tools/chaos` sets.

use std::path::PathBuf;
use std::time::Duration;

/// How a chaos run goes.
pub(super) struct Options {
    /// Of this the schedule follows: what happens, to whom, after how long.
    pub(super) seed: u64,
    pub(super) kills: u64,
    /// It ends after so long, too.
    pub(super) limit: Option<Duration>,
    /// The archive is in a bucket that misbehaves.
    pub(super) store: bool,
    /// Transactions a second.
    pub(super) rate: u32,
    /// Where a report goes.
    pub(super) report: Option<PathBuf>,
}

impl Options {
    pub(super) fn read() -> Options {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number, not '{text}'")))
        };
        Options {
            seed: number("PGSLUICE_CHAOS_SEED").unwrap_or(1),
            kills: number("PGSLUICE_KILLS").unwrap_or(10),
            limit: number("PGSLUICE_CHAOS_MINUTES").map(|minutes| Duration::from_secs(60 * minutes)),
            store: std::env::var_os("PGSLUICE_CHAOS_STORE").is_some(),
            rate: number("PGSLUICE_CHAOS_RATE").map_or(100, |rate| u32::try_from(rate).unwrap()),
            report: std::env::var_os("PGSLUICE_CHAOS_REPORT").map(PathBuf::from),
        }
    }
}
