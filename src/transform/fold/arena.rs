//! Bytes of many small things in one piece of memory.

use crate::pgoutput::Tuple;

#[derive(Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
}

/// Where something lies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    start: usize,
    length: usize,
    /// What may be written there in its place.
    room: usize,
}

impl Arena {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let length = self.bytes.len() - start;
        Span { start, length, room: length }
    }

    /// Puts something in the place of what is not needed any more, where it fits: rows that change often take no more memory.
    pub(super) fn replace(&mut self, before: Option<Span>, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let written = self.push(write);
        let Some(place) = before.filter(|before| written.length <= before.room) else { return written };
        self.bytes.copy_within(written.start.., place.start);
        self.bytes.truncate(written.start);
        Span { length: written.length, ..place }
    }

    pub(super) fn get(&self, span: Span) -> Option<&[u8]> {
        self.bytes.get(span.start..)?.get(..span.length)
    }

    pub(super) fn tuple(&self, span: Span) -> Option<Tuple<'_>> {
        self.get(span).and_then(Tuple::written)
    }
}
