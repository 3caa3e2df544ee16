//! Which of the segments that are there are the log. Pure.
//!
//! A segment that was merged from others stands beside them until they are removed: the wider one counts. A prune and a merge know nothing
//! of each other; what the one removes the other may bring back behind it, and then it is the prune that counts.

use std::cmp::Reverse;

use crate::model::Position;
use crate::segment::SegmentName;

/// In the order of the log, without those that lie within a wider one.
pub(super) fn uncovered(mut names: Vec<SegmentName>) -> Vec<SegmentName> {
    // The open one comes last where all is well.
    names.sort_by_key(|name| (name.after, name.through.is_none(), Reverse(name.through)));
    let mut reach = None;
    names.retain(|name| {
        let is_covered = name.through.is_some() && name.through <= reach;
        reach = reach.max(name.through);
        !is_covered
    });
    names
}

/// Whether one segment holds all that the other does.
pub(super) fn covers(wide: SegmentName, name: SegmentName) -> bool {
    name.through.is_some() && wide.after <= name.after && name.through <= wide.through
}

/// The first place where a segment does not begin where the one before it ends: the number of the later one.
fn irregular(names: &[SegmentName]) -> Option<usize> {
    names.array_windows().position(|[one, next]| one.through != Some(next.after)).map(|first| first + 1)
}

pub(super) fn is_regular(names: &[SegmentName]) -> bool {
    irregular(names).is_none()
}

/// Drops what stands in front of a hole or an overlap that a prune up to `pruned` accounts for: it was to go, and what follows is whole.
pub(super) fn forget_pruned(names: &mut Vec<SegmentName>, pruned: Position) {
    while let Some(later) = irregular(names)
        && names.get(later).is_some_and(|name| name.after <= pruned)
    {
        names.drain(..later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<SegmentName> {
        let name = |part: &str| {
            let (after, through) = part.split_once('-').unwrap();
            let position = |text: &str| Position(text.parse().unwrap());
            match through {
                "" => SegmentName::open(position(after)),
                through => SegmentName::sealed(position(after), position(through)),
            }
        };
        text.split_whitespace().map(name).collect()
    }

    #[test]
    fn the_wider_one_counts() {
        let check = |there: &str, counts: &str| assert_eq!(uncovered(names(there)), names(counts), "{there}");
        check("", "");
        check("2-3 1-2 3-", "1-2 2-3 3-");
        check("1-2 2-3 1-3 3-4", "1-3 3-4");
        check("1-2 1-2 1-4 2-3 3-4 2-4 4-5 5-6 4-6 6-", "1-4 4-6 6-");
        // What else overlaps stays, to be told.
        check("1-3 2-4", "1-3 2-4");
        check("1-3 1-", "1-3 1-");
        check("1-3 2-", "1-3 2-");
    }

    #[test]
    fn a_prune_accounts_for_what_stands_before_a_hole_that_it_made() {
        let check = |there: &str, pruned: u64, left: &str| {
            let mut there = names(there);
            forget_pruned(&mut there, Position(pruned));
            assert_eq!(there, names(left), "{pruned}");
        };
        check("1-3 4-5 5-", 4, "4-5 5-");
        check("1-3 4-5 5-", 3, "1-3 4-5 5-");
        check("1-3 2-5 5-6", 2, "2-5 5-6");
        check("1-3 2-5 5-6", 1, "1-3 2-5 5-6");
        check("1-2 2-3 5-6 7-8 8-", 6, "5-6 7-8 8-");
        check("1-2 2-3 5-6 7-8 8-", 7, "7-8 8-");
        check("1-2 2-3 3-", 3, "1-2 2-3 3-");
    }
}
