//! The tail: the newest frames in memory, for readers in the writer's process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::Position;

use super::{Durable, Frame};

/// A frame's place: the `after` of its segment and its offset there.
pub(super) type Place = (Position, u64);

#[derive(Default)]
struct Frames {
    /// Each with the offset behind it.
    by_place: BTreeMap<Place, (Frame, u64)>,
    bytes: usize,
}

/// A cache of frames by their place, bounded in bytes, oldest out first. Only what is durable enters it.
#[derive(Clone)]
pub struct Tail {
    frames: Arc<Mutex<Frames>>,
    bytes_max: usize,
    durable: watch::Receiver<Durable>,
}

impl Tail {
    pub(super) fn new(bytes_max: usize, durable: watch::Receiver<Durable>) -> Tail {
        Tail { frames: Arc::default(), bytes_max, durable }
    }

    pub(super) fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(super) fn get(&self, place: Place) -> Option<(Frame, u64)> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.by_place.get(&place).cloned()
    }

    pub(super) fn extend(&self, more: impl IntoIterator<Item = (Place, Frame, u64)>) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, frame, next) in more {
            frames.bytes += cost(&frame);
            frames.by_place.insert(place, (frame, next));
        }
        while frames.bytes > self.bytes_max
            && let Some((_, (frame, _))) = frames.by_place.pop_first()
        {
            frames.bytes = frames.bytes.saturating_sub(cost(&frame));
        }
    }
}

/// Its records and about what the entry itself takes.
pub(super) fn cost(frame: &Frame) -> usize {
    frame.raw.len() + 256
}
