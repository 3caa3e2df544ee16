//! What has happened in a run.

use std::collections::BTreeMap;
use std::time::Instant;

pub(super) struct Tally {
    began: Instant,
    faults: BTreeMap<String, u64>,
    starts: BTreeMap<&'static str, u64>,
    failpoints: BTreeMap<String, u64>,
    /// Times that a method of the store was told to do wrong.
    misdeeds: u64,
    /// Processes that ended by themselves because a server or the network was away.
    gave_up: u64,
    looks: u64,
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally {
            began: Instant::now(),
            faults: BTreeMap::new(),
            starts: BTreeMap::new(),
            failpoints: BTreeMap::new(),
            misdeeds: 0,
            gave_up: 0,
            looks: 0,
        }
    }

    pub(super) fn fault(&mut self, what: &str) {
        *self.faults.entry(what.to_owned()).or_default() += 1;
    }

    pub(super) fn start(&mut self, role: &'static str) {
        *self.starts.entry(role).or_default() += 1;
    }

    pub(super) fn failpoint(&mut self, name: &str) {
        *self.failpoints.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn misdeeds(&mut self) {
        self.misdeeds += 1;
    }

    pub(super) fn gave_up(&mut self) {
        self.gave_up += 1;
    }

    pub(super) fn look(&mut self) {
        self.looks += 1;
    }

    /// For the end of a run in which everything held.
    pub(super) fn report(
        &self,
        seed: u64,
        version: u32,
        store: bool,
        transactions: usize,
        stops: usize,
    ) -> serde_json::Value {
        serde_json::json!({
            "result": "PASS",
            "seed": seed,
            "version": version,
            "store": store,
            "seconds": self.began.elapsed().as_secs(),
            "kills": self.faults.values().sum::<u64>(),
            "kills_by_kind": self.faults,
            "starts": self.starts,
            "failpoints": self.failpoints,
            "misdeeds_of_the_store": self.misdeeds,
            "gave_up": self.gave_up,
            "looks": self.looks,
            "transactions": transactions,
            "stops_compared": stops,
        })
    }
}
