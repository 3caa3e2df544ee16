//! Which segments may go: whole ones, from the old end on, and none that somebody needs. Pure.

use serde::Serialize;

use crate::model::{Position, Timestamp};
use crate::segment::SegmentName;

use super::{Pin, Registered};

/// What shall stay although nobody needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Segments with a commit at that time or later stay.
    pub keep_since: Option<Timestamp>,
    /// The newest segments stay that together have so many bytes.
    pub keep_bytes: Option<u64>,
    /// Targets are left behind that still need what goes.
    pub beyond_appliers: bool,
}

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub name: SegmentName,
    pub bytes: u64,
}

impl Candidate {
    pub(super) fn through(&self) -> Position {
        self.name.through.unwrap_or(self.name.after)
    }
}

/// Why a segment stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    Applier {
        name: String,
        stream: String,
        target: String,
        lsn: Position,
    },
    Pin {
        name: String,
        lsn: Position,
    },
    KeepAge,
    KeepBytes,
    /// The log's end is told by its newest sealed segment.
    Newest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// How many segments go, the oldest ones.
    pub(super) goes: usize,
    /// Why the first one stays that does.
    pub(super) held_by: Vec<Reason>,
}

/// Decides over sealed segments in the order of the log. The time of a segment's last commit is asked for only where nothing else
/// keeps it; one without a commit has none.
pub(super) fn decide<E>(
    segments: &[Candidate],
    appliers: &[Registered],
    pins: &[Pin],
    policy: &Policy,
    mut last_time: impl FnMut(&Candidate) -> Result<Option<Timestamp>, E>,
) -> Result<Decision, E> {
    let mut newer_bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    for (number, segment) in segments.iter().enumerate() {
        newer_bytes = newer_bytes.saturating_sub(segment.bytes);
        // What comes after a position is needed, so a segment that ends there is not.
        let is_needed = |lsn: Position| lsn < segment.through();
        let mut held_by = Vec::new();
        if !policy.beyond_appliers {
            held_by.extend(appliers.iter().filter(|applier| is_needed(applier.lsn)).map(applier_reason));
        }
        let pins = pins.iter().filter(|pin| is_needed(pin.lsn));
        held_by.extend(pins.map(|pin| Reason::Pin { name: pin.name.clone(), lsn: pin.lsn }));
        if number + 1 == segments.len() {
            held_by.push(Reason::Newest);
        }
        if policy.keep_bytes.is_some_and(|bytes| newer_bytes < bytes) {
            held_by.push(Reason::KeepBytes);
        }
        if held_by.is_empty()
            && let Some(since) = policy.keep_since
            && last_time(segment)?.is_some_and(|time| time >= since)
        {
            held_by.push(Reason::KeepAge);
        }
        if !held_by.is_empty() {
            return Ok(Decision { goes: number, held_by });
        }
    }
    Ok(Decision { goes: 0, held_by: Vec::new() })
}

fn applier_reason(applier: &Registered) -> Reason {
    Reason::Applier {
        name: applier.name.clone(),
        stream: applier.stream.clone(),
        target: applier.target.clone(),
        lsn: applier.lsn,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn applier(lsn: u64) -> Registered {
        Registered {
            name: format!("a{lsn}"),
            stream: "s".into(),
            target: "t".into(),
            system_identifier: "1".into(),
            database: "d".into(),
            lsn: Position(lsn),
            time: String::new(),
        }
    }

    fn pin(lsn: u64) -> Pin {
        Pin { name: format!("p{lsn}"), lsn: Position(lsn), created: String::new() }
    }

    /// Segments (0, 10], (10, 20], … of 100 bytes each, whose last commits are at 10, 20, …
    fn segments(count: u64) -> Vec<Candidate> {
        let segment = |number: u64| Candidate {
            name: SegmentName::sealed(Position(number * 10), Position(number * 10 + 10)),
            bytes: 100,
        };
        (0..count).map(segment).collect()
    }

    fn decided(segments: &[Candidate], appliers: &[u64], pins: &[u64], policy: Policy) -> Decision {
        let appliers: Vec<_> = appliers.iter().copied().map(applier).collect();
        let pins: Vec<_> = pins.iter().copied().map(pin).collect();
        let time =
            |segment: &Candidate| Ok::<_, Infallible>(Some(Timestamp(segment.through().0.cast_signed())));
        decide(segments, &appliers, &pins, &policy, time).unwrap_or_else(|never| match never {})
    }

    #[test]
    fn what_somebody_needs_stays() {
        let check = |appliers: &[u64], pins: &[u64], policy: Policy, goes: usize, held_by: &str| {
            let decision = decided(&segments(5), appliers, pins, policy);
            let reason = |reason: &Reason| match reason {
                Reason::Applier { name, .. } | Reason::Pin { name, .. } => name.clone(),
                other => format!("{other:?}"),
            };
            let reasons: Vec<_> = decision.held_by.iter().map(reason).collect();
            assert_eq!(
                (decision.goes, reasons.join(" ").as_str()),
                (goes, held_by),
                "{appliers:?} {pins:?} {policy:?}"
            );
        };
        let nothing = Policy::default();
        let force = Policy { beyond_appliers: true, ..nothing };
        let age = |since: i64| Policy { keep_since: Some(Timestamp(since)), ..nothing };
        let bytes = |bytes: u64| Policy { keep_bytes: Some(bytes), ..nothing };
        check(&[], &[], nothing, 4, "Newest");
        check(&[0], &[], nothing, 0, "a0");
        check(&[9], &[], nothing, 0, "a9");
        check(&[10], &[], nothing, 1, "a10");
        check(&[35, 25], &[], nothing, 2, "a25");
        check(&[25, 24], &[21], nothing, 2, "a25 a24 p21");
        check(&[1000], &[], nothing, 4, "Newest");
        check(&[1000], &[30], nothing, 3, "p30");
        check(&[5], &[], force, 4, "Newest");
        check(&[5], &[15], force, 1, "p15");
        check(&[1000], &[], age(30), 2, "KeepAge");
        check(&[1000], &[], age(31), 3, "KeepAge");
        check(&[15], &[], age(30), 1, "a15");
        check(&[1000], &[], bytes(0), 4, "Newest");
        check(&[1000], &[], bytes(200), 3, "KeepBytes");
        check(&[1000], &[], bytes(201), 2, "KeepBytes");
        check(&[1000], &[], bytes(u64::MAX), 0, "KeepBytes");
        check(&[1000], &[], Policy { keep_since: Some(Timestamp(20)), ..bytes(100) }, 1, "KeepAge");
        check(&[1000], &[], Policy { keep_since: Some(Timestamp(99)), ..bytes(300) }, 2, "KeepBytes");
        assert_eq!(decided(&[], &[], &[], nothing), Decision { goes: 0, held_by: Vec::new() });
    }

    #[test]
    fn a_segment_without_commits_has_no_age() {
        let policy = Policy { keep_since: Some(Timestamp(0)), ..Policy::default() };
        let decision = decide(&segments(3), &[], &[], &policy, |_| Ok::<_, Infallible>(None));
        assert_eq!(decision.unwrap().goes, 2);
    }

    proptest! {
        #[test]
        fn never_beyond_what_is_needed(
            lengths in prop::collection::vec((1u64..50, 0u64..1000, any::<i8>()), 0..20),
            appliers in prop::collection::vec(0u64..1000, 0..4),
            pins in prop::collection::vec(0u64..1000, 0..4),
            since in prop::option::of(any::<i8>()),
            keep_bytes in prop::option::of(0u64..10_000),
            beyond_appliers in any::<bool>(),
        ) {
            let (mut after, mut segments, mut times) = (100, Vec::new(), std::collections::BTreeMap::new());
            for (length, bytes, time) in lengths {
                let name = SegmentName::sealed(Position(after), Position(after + length));
                segments.push(Candidate { name, bytes });
                times.insert(name, Timestamp(time.into()));
                after += length;
            }
            let policy = Policy {
                keep_since: since.map(|since| Timestamp(since.into())),
                keep_bytes,
                beyond_appliers,
            };
            let who: Vec<_> = appliers.iter().copied().map(applier).collect();
            let what: Vec<_> = pins.iter().copied().map(pin).collect();
            let time = |segment: &Candidate| Ok::<_, Infallible>(times.get(&segment.name).copied());
            let Decision { goes, held_by } = decide(&segments, &who, &what, &policy, time).unwrap();
            let (gone, stays) = segments.split_at(goes);
            prop_assert_eq!(stays.is_empty(), segments.is_empty());
            prop_assert_eq!(held_by.is_empty(), segments.is_empty());
            if let Some(last) = gone.last() {
                prop_assert!(pins.iter().all(|pin| last.through().0 <= *pin));
                prop_assert!(beyond_appliers || appliers.iter().all(|lsn| last.through().0 <= *lsn));
            }
            for segment in gone {
                prop_assert!(policy.keep_since.is_none_or(|since| times[&segment.name] < since));
            }
            let kept: u64 = stays.iter().map(|segment| segment.bytes).sum();
            prop_assert!(gone.is_empty() || keep_bytes.is_none_or(|bytes| kept >= bytes));
        }
    }
}
