//! What is shown now: made once a second by who watches, read by whoever asks.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::sentinel::Control;

use super::exposition::Exposition;
use super::status::Status;

/// Everything that may be asked for, as it was at one moment.
pub(super) struct Shown {
    /// None before the first look.
    pub status: Option<Status>,
    /// JSON of the same, with what only this process knows.
    pub status_json: Bytes,
    pub tables_json: Bytes,
    pub history_json: Bytes,
    /// The sentinel, as it was seen last.
    pub(super) control: Option<Control>,
    /// Whether the conductor has been heard of lately.
    pub is_alive: bool,
    /// Why the target is not caught up; none where it is.
    pub unready: Option<String>,
}

impl Default for Shown {
    fn default() -> Shown {
        Shown {
            status: None,
            status_json: Bytes::from_static(b"{}"),
            tables_json: Bytes::from_static(b"[]"),
            history_json: Bytes::from_static(b"{}"),
            control: None,
            is_alive: true,
            unready: Some("nothing was looked at yet".into()),
        }
    }
}

#[derive(Default)]
pub(super) struct Board {
    shown: Mutex<Arc<Shown>>,
    exposition: Exposition,
}

impl Board {
    pub(super) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn show(&self, shown: Shown) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    /// For Prometheus.
    pub(super) fn exposition(&self) -> &Exposition {
        &self.exposition
    }
}
