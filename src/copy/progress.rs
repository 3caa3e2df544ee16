//! How far a copy is, for those who watch.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How far the tables are. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    tables: Arc<Mutex<Vec<Arc<TableProgress>>>>,
}

/// How far one table is.
#[derive(Debug)]
pub struct TableProgress {
    pub name: String,
    /// Rows, as the source's planner estimates; none where it does not know.
    pub estimate: Option<u64>,
    pub parts: u32,
    rows: AtomicU64,
    bytes: AtomicU64,
    parts_done: AtomicU32,
    running: AtomicU32,
}

impl Progress {
    /// The tables anew, in the order in which they are shown.
    pub(super) fn set(&self, tables: Vec<Arc<TableProgress>>) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = tables;
    }

    pub fn tables(&self) -> Vec<Arc<TableProgress>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TableProgress {
    /// With what is on the target already.
    pub(super) fn new(
        name: String,
        estimate: Option<u64>,
        parts: u32,
        parts_done: u32,
        (rows, bytes): (u64, u64),
    ) -> TableProgress {
        TableProgress {
            name,
            estimate,
            parts,
            rows: rows.into(),
            bytes: bytes.into(),
            parts_done: parts_done.into(),
            running: 0.into(),
        }
    }

    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// As COPY writes them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    pub fn is_done(&self) -> bool {
        self.parts_done.load(Ordering::Relaxed) >= self.parts
    }

    pub(super) fn moved(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn part_begins(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// It had so many rows, and was told to have others.
    pub(super) fn part_ends(&self, rows: u64, told: u64) {
        self.rows.fetch_add(rows.wrapping_sub(told), Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.parts_done.fetch_add(1, Ordering::Relaxed);
    }
}
