//! What the stages count of their own work: how long it took, how much it was, how often it was done again.
//!
//! Nothing here decides anything. The stages write, `serve` shows; where nothing is served, nobody reads.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The figures of this process.
pub static METER: LazyLock<Meter> = LazyLock::new(Meter::new);

pub struct Meter {
    /// One fdatasync of the open segment.
    pub sync_seconds: Histogram,
    /// One segment into the store.
    pub upload_seconds: Histogram,
    /// A batch on the target: from when it was sent whole until its COMMIT was answered.
    pub batch_seconds: Histogram,
    /// Source transactions of a batch.
    pub batch_transactions: Histogram,
    /// Changes of a batch, as they were in the log.
    pub batch_changes: Histogram,
    /// Bytes that came from the source.
    pub received_bytes: Counter,
    /// Source transactions, and changes, that are on the target.
    pub applied_transactions: Counter,
    pub applied_changes: Counter,
    /// Batches that were committed.
    pub batches: Counter,
    /// Batches that ended since they were as large as they may be.
    pub full_batches: Counter,
    /// Batches that the target refused and that were done again row by row, or rolled back.
    pub refused_batches: Counter,
    /// Changes that have given way to rows of other sources.
    pub gave_way: Counter,
    /// Transactions that were set aside.
    pub dead: Counter,
    /// Connections that were lost and made again.
    pub source_retries: Counter,
    pub target_retries: Counter,
    /// Uploads that were tried again.
    pub store_retries: Counter,
}

/// From 100 µs to 26 s.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 19))
}

/// From 1 to 262,144.
fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 10))
}

impl Meter {
    fn new() -> Meter {
        Meter {
            sync_seconds: times(),
            upload_seconds: times(),
            batch_seconds: times(),
            batch_transactions: counts(),
            batch_changes: counts(),
            received_bytes: Counter::default(),
            applied_transactions: Counter::default(),
            applied_changes: Counter::default(),
            batches: Counter::default(),
            full_batches: Counter::default(),
            refused_batches: Counter::default(),
            gave_way: Counter::default(),
            dead: Counter::default(),
            source_retries: Counter::default(),
            target_retries: Counter::default(),
            store_retries: Counter::default(),
        }
    }

    /// Puts all of it on show.
    pub fn register(&self, registry: &mut Registry) {
        let mut times = |name, help, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        times("sync", "Time of one fdatasync of the open segment", &self.sync_seconds);
        times("upload", "Time to bring one segment into the store", &self.upload_seconds);
        times("batch", "Time from when a batch was sent until its COMMIT was answered", &self.batch_seconds);
        let help = "Source transactions in one transaction on the target";
        registry.register("batch_transactions", help, self.batch_transactions.clone());
        registry.register(
            "batch_changes",
            "Changes in one transaction on the target",
            self.batch_changes.clone(),
        );
        let mut count = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        count("received_bytes", "Bytes that came from the source", &self.received_bytes);
        count(
            "applied_transactions",
            "Source transactions that this process applied",
            &self.applied_transactions,
        );
        count("applied_changes", "Changes that this process applied", &self.applied_changes);
        count("batches", "Batches that were committed", &self.batches);
        count("full_batches", "Batches that were as large as they may be", &self.full_batches);
        count(
            "refused_batches",
            "Batches that the target refused and that were done again",
            &self.refused_batches,
        );
        count(
            "gave_way",
            "Changes that have given way to rows of other sources (rules with conflict)",
            &self.gave_way,
        );
        count("dead_transactions", "Transactions that were set aside (--on-error quarantine)", &self.dead);
        count("source_retries", "Connections to the source that were lost", &self.source_retries);
        count(
            "target_retries",
            "Connections to the target that were lost, and batches put off",
            &self.target_retries,
        );
        count(
            "store_retries",
            "Requests for the store's part of the log that were put off",
            &self.store_retries,
        );
    }
}

/// Notes how long something took.
pub fn observe(histogram: &Histogram, took: Duration) {
    histogram.observe(took.as_secs_f64());
}
