//! Which column repeats what another has just said: the foreign key of the row before, the old row's unchanged columns.

use super::column::Column;

/// How many values of a column are held against the others.
const SAMPLE: usize = 256;
/// Fewer values are not worth it.
const VALUES_MIN: usize = 16;

/// The values of a column that are the last value of another before them.
pub(super) struct Copies {
    pub(super) source: usize,
    pub(super) hits: Vec<bool>,
}

/// The column that the one of that number copies best, where that is most of its values.
pub(super) fn find(columns: &[Column<'_>], number: usize) -> Option<Copies> {
    let values = &columns.get(number)?.values;
    let sample = values.get(..SAMPLE.min(values.len()))?;
    if values.len() < VALUES_MIN || is_constant(values) {
        return None;
    }
    let mut best = (sample.len() / 2, None);
    for (other, source) in columns.iter().enumerate() {
        if other == number || source.values.len() < VALUES_MIN || is_constant(&source.values) {
            continue;
        }
        let hits = hits(sample, &source.values).filter(|hit| *hit).count();
        if hits > best.0 {
            best = (hits, Some(other));
        }
    }
    let source = best.1?;
    let hits = hits(values, &columns.get(source)?.values).collect();
    Some(Copies { source, hits })
}

fn is_constant(values: &[&[u8]]) -> bool {
    values.windows(2).take(SAMPLE).all(|pair| pair.first() == pair.last())
}

/// For each value whether it is the last of `source` that stands before it in the records.
fn hits<'a>(values: &[&'a [u8]], source: &[&'a [u8]]) -> impl Iterator<Item = bool> {
    let mut rest = source.iter().peekable();
    let mut last: Option<&[u8]> = None;
    values.iter().map(move |value| {
        while let Some(said) = rest.next_if(|said| said.as_ptr() < value.as_ptr()) {
            last = Some(said);
        }
        last == Some(*value)
    })
}
