//! What differing rows are: missing, extra, or different.

use std::collections::BTreeMap;

use serde::Serialize;

/// Values of columns, as they print; none is null.
pub(super) type Values = Vec<Option<String>>;

/// A row as one side has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// A hash of the key; rows come in its order.
    pub(super) order: i64,
    /// Of the whole row.
    pub(super) hash: i64,
    pub(super) key: Values,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// On the source alone.
    Missing,
    /// On the target alone.
    Extra,
    /// On both, with other values.
    Different,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) kind: Kind,
    pub(super) key: Values,
    /// Of the row; of the source's where there is one.
    pub(super) hash: i64,
}

/// What differs between rows whose keys have the same hash. Where a key is there several times, as in a table without one, each row of
/// one side stands for one of the other.
pub(super) fn classify(source: Vec<Row>, target: Vec<Row>) -> Vec<Difference> {
    let mut by_key: BTreeMap<Values, (Vec<i64>, Vec<i64>)> = BTreeMap::new();
    for row in source {
        by_key.entry(row.key).or_default().0.push(row.hash);
    }
    for row in target {
        by_key.entry(row.key).or_default().1.push(row.hash);
    }
    let mut differences = Vec::new();
    for (key, (mut source, mut target)) in by_key {
        source.retain(|hash| match target.iter().position(|other| other == hash) {
            Some(at) => {
                target.swap_remove(at);
                false
            }
            None => true,
        });
        let both = source.len().min(target.len());
        let (of_both, missing) = source.split_at_checked(both).unwrap_or((&source, &[]));
        let mut push =
            |kind, hash: &i64| differences.push(Difference { kind, key: key.clone(), hash: *hash });
        of_both.iter().for_each(|hash| push(Kind::Different, hash));
        missing.iter().for_each(|hash| push(Kind::Missing, hash));
        target.iter().skip(both).for_each(|hash| push(Kind::Extra, hash));
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, i64)]) -> Vec<Row> {
        rows.iter().map(|(key, hash)| Row { order: 1, hash: *hash, key: vec![Some((*key).into())] }).collect()
    }

    #[track_caller]
    fn check(source: &[(&str, i64)], target: &[(&str, i64)], expected: &[(Kind, &str, i64)]) {
        let found = classify(rows(source), rows(target));
        let found: Vec<_> = found.iter().map(|d| (d.kind, d.key[0].as_deref().unwrap(), d.hash)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn keys_are_paired() {
        use Kind::*;
        check(&[("a", 1), ("b", 2)], &[("b", 2), ("a", 1)], &[]);
        check(
            &[("a", 1), ("b", 2)],
            &[("b", 3), ("c", 4)],
            &[(Missing, "a", 1), (Different, "b", 2), (Extra, "c", 4)],
        );
    }

    #[test]
    fn doubles_are_counted() {
        use Kind::*;
        check(&[("a", 1), ("a", 1), ("a", 1)], &[("a", 1)], &[(Missing, "a", 1), (Missing, "a", 1)]);
        check(&[("a", 1)], &[("a", 2), ("a", 1)], &[(Extra, "a", 2)]);
        check(&[("a", 1)], &[("a", 2), ("a", 3)], &[(Different, "a", 1), (Extra, "a", 3)]);
    }
}
