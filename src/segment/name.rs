//! A segment's name is the range that it holds, so that a sorted listing is the log and a gap shows in `ls`.

use std::fmt;

use crate::model::Position;

/// The range `(after, through]` that a segment holds; an open one has no end yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub after: Position,
    /// `None` while the segment is open.
    pub through: Option<Position>,
}

impl SegmentName {
    pub fn open(after: Position) -> SegmentName {
        SegmentName { after, through: None }
    }

    pub fn sealed(after: Position, through: Position) -> SegmentName {
        SegmentName { after, through: Some(through) }
    }

    /// Reads a file's name; anything but exactly what [`fmt::Display`] writes is none of ours.
    pub fn parse(text: &str) -> Option<SegmentName> {
        let position = |hex: &str| {
            let valid = hex.len() == 16 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
            valid.then(|| u64::from_str_radix(hex, 16).ok()).flatten().map(Position)
        };
        if let Some(stem) = text.strip_suffix(".open") {
            return Some(SegmentName::open(position(stem)?));
        }
        let (after, through) = text.strip_suffix(".seg")?.split_once('-')?;
        let name = SegmentName::sealed(position(after)?, position(through)?);
        (name.through > Some(name.after)).then_some(name)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.through {
            Some(through) => write!(f, "{:016X}-{:016X}.seg", self.after.0, through.0),
            None => write!(f, "{:016X}.open", self.after.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_sort_by_position() {
        let low = SegmentName::sealed(Position(0xFF), Position(0x1_0000_0000));
        let high = SegmentName::open(Position(0x1_0000_0000));
        assert_eq!(low.to_string(), "00000000000000FF-0000000100000000.seg");
        assert_eq!(high.to_string(), "0000000100000000.open");
        for name in [low, high] {
            assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        }
        assert!(low < high && low.to_string() < high.to_string());
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            ".open",
            "FF.open",
            "00000000000000ff.open",
            "0000000000000001.open.tmp",
            "0000000000000002-0000000000000001.seg",
            "0000000000000001-0000000000000001.seg",
            "+000000000000001-0000000000000002.seg",
            "0000000000000001-0000000000000002",
        ] {
            assert_eq!(SegmentName::parse(text), None, "{text}");
        }
    }
}
