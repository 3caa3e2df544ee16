//! Which neighbouring segments are merged into one. Pure.
//!
//! The log's positions are divided into *blocks*, of 4 KiB, eight of these, eight of those, and so on. What is merged are always all
//! segments that begin in a block, once a segment begins behind it; so a block's range is the same for everybody, however much
//! of the log he has seen and whatever of it was merged already. Of two blocks one contains the other or they have nothing in common, and the
//! same is true of what is merged. So any number of processes may merge without knowing of each other, or while they believe in a log that has
//! long gone on: of two merged segments one covers the other, or they don't meet.
//!
//! A block is merged at most once, so a byte is written at most once for each size of block.

use crate::segment::SegmentName;

/// Sizes of blocks, as powers of two.
const SMALLEST: u32 = 12;
const STEP: u32 = 3;
const LARGEST: u32 = SMALLEST + 11 * STEP;
/// Fewer are merged only if none of them is more than half of all.
const MANY: usize = 8;

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) name: SegmentName,
    pub(super) bytes: u64,
    pub(super) age_seconds: i64,
    /// Of the log's writers: what two of them have written is never merged.
    pub(super) epoch: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) bytes_max: u64,
    pub(super) age_seconds_min: i64,
}

/// Gives the runs of segments to merge, in the order of the log. The newest segment is never among them: it tells where the log ends. `fits` is
/// asked for each run at last, and may refuse it.
pub(super) fn merges<E>(
    segments: &[Segment],
    limits: Limits,
    mut fits: impl FnMut(&[Segment]) -> Result<bool, E>,
) -> Result<Vec<Vec<Segment>>, E> {
    let mut found = Vec::new();
    divide(segments, LARGEST, false, limits, &mut fits, &mut found)?;
    Ok(found)
}

/// Looks at the blocks of one size and, where one is not to be merged, at those in it. `goes_on`: a segment begins behind these.
fn divide<E>(
    segments: &[Segment],
    size: u32,
    goes_on: bool,
    limits: Limits,
    fits: &mut impl FnMut(&[Segment]) -> Result<bool, E>,
    found: &mut Vec<Vec<Segment>>,
) -> Result<(), E> {
    let block = |segment: &Segment| segment.name.after.0 >> size;
    let mut rest = segments.len();
    for inside in segments.chunk_by(|one, next| block(one) == block(next)) {
        rest -= inside.len();
        let is_complete = goes_on || rest > 0;
        if inside.len() < 2 {
            continue;
        }
        if is_complete && is_mergeable(inside, limits) && fits(inside)? {
            found.push(inside.to_vec());
        } else if size > SMALLEST {
            divide(inside, size - STEP, is_complete, limits, fits, found)?;
        }
    }
    Ok(())
}

fn is_mergeable(segments: &[Segment], limits: Limits) -> bool {
    let bytes = || segments.iter().map(|segment| segment.bytes);
    let total = bytes().fold(0, u64::saturating_add);
    let largest = bytes().max().unwrap_or_default();
    let is_worth_it = largest <= total / 2 || segments.len() >= MANY;
    let is_old = segments.iter().all(|segment| segment.age_seconds >= limits.age_seconds_min);
    let one_run = segments
        .array_windows()
        .all(|[one, next]| one.epoch == next.epoch && one.name.through == Some(next.name.after));
    total <= limits.bytes_max && is_worth_it && is_old && one_run
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::super::cover;
    use super::*;
    use crate::model::Position;

    fn segment(after: u64, through: u64, bytes: u64) -> Segment {
        let name = SegmentName::sealed(Position(after), Position(through));
        Segment { name, bytes, age_seconds: 100, epoch: 1 }
    }

    fn planned(segments: &[Segment], limits: Limits) -> Vec<Vec<SegmentName>> {
        let found = merges(segments, limits, |_| Ok::<_, Infallible>(true));
        let found = found.unwrap_or_else(|never| match never {});
        found.into_iter().map(|run| run.into_iter().map(|segment| segment.name).collect()).collect()
    }

    const LIMITS: Limits = Limits { bytes_max: 1000, age_seconds_min: 100 };
    const BLOCK: u64 = 1 << SMALLEST;

    #[test]
    fn whole_blocks_are_merged_that_the_log_has_left() {
        let check = |lengths: &[(u64, u64)],
                     change: &dyn Fn(&mut Vec<Segment>),
                     merged: &[std::ops::Range<usize>]| {
            let mut after = BLOCK * 8;
            let mut segments = Vec::new();
            for (length, bytes) in lengths {
                segments.push(segment(after, after + length, *bytes));
                after += length;
            }
            change(&mut segments);
            let expected: Vec<Vec<_>> = merged
                .iter()
                .map(|range| segments[range.clone()].iter().map(|segment| segment.name).collect())
                .collect();
            assert_eq!(planned(&segments, LIMITS), expected, "{lengths:?}");
        };
        let quarter = BLOCK / 4;
        let as_it_is: &dyn Fn(&mut Vec<Segment>) = &|_| ();
        check(&[], as_it_is, &[]);
        check(&[(quarter, 1); 4], as_it_is, &[]);
        check(&[(quarter, 1); 5], as_it_is, &[0..4]);
        check(&[(quarter, 1); 11], as_it_is, &[0..4, 4..8]);
        check(&[(quarter, 1); 33], as_it_is, &[0..32]);
        check(&[(quarter, 300); 5], as_it_is, &[]);
        check(&[(quarter, 100); 33], as_it_is, &[0..4, 4..8, 8..12, 12..16, 16..20, 20..24, 24..28, 28..32]);
        check(&[(quarter, 1), (BLOCK, 1), (quarter, 1)], as_it_is, &[0..2]);
        // One that is much larger than the others together.
        check(&[(quarter, 900), (BLOCK, 1), (quarter, 1)], as_it_is, &[]);
        check(&[(quarter, 1); 5], &|segments| segments[3].age_seconds = 99, &[]);
        check(&[(quarter, 1); 5], &|segments| segments[3].epoch = 2, &[]);
        check(
            &[(quarter, 1); 33],
            &|segments| segments[3].epoch = 2,
            &[4..8, 8..12, 12..16, 16..20, 20..24, 24..28, 28..32],
        );
        check(&[(quarter, 1); 5], &|segments| segments.truncate(1), &[]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Each of them sees the log as it was some time ago, may be cut off at any moment, and may prune.
        #[test]
        fn any_number_of_processes_may_merge_what_they_see(
            lengths in prop::collection::vec((1u64..6, 0u64..400), 2..200),
            steps in prop::collection::vec((0usize..4, any::<bool>(), 100u64..5000, 0usize..50, 0usize..6), 1..60),
        ) {
            let mut log = Vec::new();
            let mut after = 12345;
            for (length, bytes) in lengths {
                let through = after + length * BLOCK / 3;
                log.push(segment(after, through, bytes));
                after = through;
            }
            let end = log.last().unwrap().name;
            let base = log.clone();
            // All that is there, with how often its bytes were written; and how far a prune was to go.
            let mut there: Vec<(Segment, u32)> = log.iter().map(|segment| (*segment, 0)).collect();
            let mut pruned = log[0].name.after;
            let list = |there: &[(Segment, u32)], pruned: Position| {
                let mut names = cover::uncovered(there.iter().map(|(segment, _)| segment.name).collect());
                cover::forget_pruned(&mut names, pruned);
                names
            };
            let mut seen: Vec<Vec<(Segment, u32)>> = vec![Vec::new(); 4];
            for (process, looks, bytes_max, choice, prune) in steps {
                if looks || seen[process].is_empty() {
                    let names = list(&there, pruned);
                    seen[process] = there.iter().filter(|(segment, _)| names.contains(&segment.name)).copied().collect();
                    seen[process].sort_by_key(|(segment, _)| segment.name);
                    seen[process].dedup_by_key(|(segment, _)| segment.name);
                }
                if prune > 0 && choice % 5 == 0 {
                    // As far as this process believes the log to be parted, and cut off at some moment.
                    let goes: Vec<_> = seen[process].iter().map(|(segment, _)| segment.name).take(prune).collect();
                    let goes = &goes[..goes.len().min(seen[process].len() - 1)];
                    if let Some(last) = goes.last() {
                        pruned = pruned.max(last.through.unwrap());
                    }
                    let cut = choice % goes.len().max(1) + 1;
                    there.retain(|(segment, _)| !goes[..goes.len().min(cut)].contains(&segment.name));
                } else {
                    let segments: Vec<_> = seen[process].iter().map(|(segment, _)| *segment).collect();
                    let limits = Limits { bytes_max, age_seconds_min: 100 };
                    let plan = planned(&segments, limits);
                    if let Some(merge) = plan.get(choice % plan.len().max(1)) {
                        let parts = seen[process].iter().filter(|(part, _)| merge.contains(&part.name));
                        let (bytes, written) = parts.fold((0, 0), |(bytes, written), (part, times)| (bytes + part.bytes, written.max(times + 1)));
                        let (first, last) = (merge[0], *merge.last().unwrap());
                        prop_assert!(last != end);
                        let wide = segment(first.after.0, last.through.unwrap().0, bytes);
                        prop_assert!(written <= (LARGEST - SMALLEST) / STEP + 1, "{}", written);
                        there.push((wide, written));
                        // Perhaps it is cut off here.
                        if choice % 3 > 0 {
                            let keep = if choice % 3 == 1 { merge.len() / 2 } else { 0 };
                            there.retain(|(part, _)| !merge[..merge.len() - keep].contains(&part.name));
                        }
                    }
                }
                let names = list(&there, pruned);
                prop_assert!(cover::is_regular(&names), "{names:?}");
                prop_assert!(names[0].after <= pruned && *names.last().unwrap() == end);
                prop_assert!(names.iter().all(|name| base.iter().any(|part| part.name.after == name.after)));
            }
        }
    }
}
