//! Follows a row from one key to the next. Pure.
//!
//! A key may be that of one row today and of another tomorrow. So a row that came to the key in question, or left it, is followed under
//! its other keys only for the time between two changes of them.

use std::collections::{HashMap, HashSet};

use super::known::Key;

/// A change's number, from the first one that is read.
pub(super) type Moment = u64;

/// A row that got another key.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) at: Moment,
    pub(super) old: Key,
    pub(super) new: Key,
}

/// Under which keys, and when, there may be versions of the row. Both ends belong to it.
#[derive(Debug, Default)]
pub(super) struct Followed(HashMap<Key, Vec<(Moment, Moment)>>);

type ByKey<'m> = HashMap<&'m Key, Vec<&'m Move>>;

fn of<'b, 'm>(by: &'b ByKey<'m>, key: &Key) -> &'b [&'m Move] {
    by.get(key).map_or(&[], Vec::as_slice)
}

impl Followed {
    /// Of the rows that ever had one of these keys. Moves are in the order of the log.
    pub(super) fn new(targets: impl IntoIterator<Item = Key>, moves: &[Move]) -> Followed {
        let (mut leaving, mut coming) = (ByKey::new(), ByKey::new());
        for one in moves {
            leaving.entry(&one.old).or_default().push(one);
            coming.entry(&one.new).or_default().push(one);
        }
        let mut followed = Followed::default();
        let mut seen = HashSet::new();
        let mut to_do: Vec<(Key, Moment, Moment)> =
            targets.into_iter().map(|key| (key, 0, Moment::MAX)).collect();
        while let Some((key, from, to)) = to_do.pop() {
            if !seen.insert((key.clone(), from, to)) {
                continue;
            }
            let within = |one: &&&Move| (from..=to).contains(&one.at);
            for came in of(&coming, &key).iter().filter(within) {
                // Since another row left that key, or this one came to it.
                let before = |one: &&&Move| one.at < came.at;
                let left = of(&leaving, &came.old).iter().rfind(before).map_or(0, |one| one.at + 1);
                let start = of(&coming, &came.old).iter().rfind(before).map_or(left, |one| one.at.max(left));
                to_do.push((came.old.clone(), start, came.at));
            }
            for left in of(&leaving, &key).iter().filter(within) {
                let after = |one: &&&Move| one.at > left.at;
                let end = of(&leaving, &left.new).iter().find(after).map_or(Moment::MAX, |one| one.at);
                to_do.push((left.new.clone(), left.at, end));
            }
            followed.0.entry(key).or_default().push((from, to));
        }
        followed
    }

    pub(super) fn has(&self, key: &Key, at: Moment) -> bool {
        self.0.get(key).is_some_and(|times| times.iter().any(|(from, to)| (*from..=*to).contains(&at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, Relation, ReplicaIdentity};
    use crate::transform::Cell;

    fn key(text: &str) -> Key {
        let column = Column { name: "id".into(), key: true, type_oid: 25, type_modifier: -1 };
        let relation = Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Default,
            columns: vec![column],
        };
        Key::of(&relation, &[0], &vec![Cell::Text(text.as_bytes().into())])
    }

    /// The moments at which a key is followed, of the first ten.
    fn when(moves: &[(Moment, &str, &str)], asked: &str) -> Vec<Moment> {
        let one = |(at, old, new): &(Moment, &str, &str)| Move { at: *at, old: key(old), new: key(new) };
        let moves: Vec<_> = moves.iter().map(one).collect();
        let followed = Followed::new([key("x")], &moves);
        (0..10).filter(|at| followed.has(&key(asked), *at)).collect()
    }

    #[test]
    fn a_row_is_followed_to_and_from_its_other_keys() {
        let moves = [(2, "a", "b"), (4, "b", "x"), (6, "x", "c"), (8, "c", "d")];
        assert_eq!(when(&moves, "x"), (0..10).collect::<Vec<_>>());
        assert_eq!(when(&moves, "a"), [0, 1, 2]);
        assert_eq!(when(&moves, "b"), [2, 3, 4]);
        assert_eq!(when(&moves, "c"), [6, 7, 8]);
        assert_eq!(when(&moves, "d"), [8, 9]);
    }

    #[test]
    fn who_takes_a_key_afterwards_is_another() {
        // Another row goes from a to b before, and a third one takes a after.
        let moves = [(1, "a", "z"), (4, "a", "x"), (7, "e", "a"), (8, "a", "f")];
        assert_eq!(when(&moves, "a"), [2, 3, 4]);
        assert!(when(&moves, "z").is_empty());
        assert!(when(&moves, "e").is_empty());
        assert!(when(&moves, "f").is_empty());
    }

    #[test]
    fn rows_that_exchange_their_keys_are_told_apart() {
        let moves = [(3, "x", "t"), (4, "y", "x"), (5, "t", "y")];
        assert_eq!(when(&moves, "t"), [3, 4, 5]);
        assert_eq!(when(&moves, "y"), (0..10).collect::<Vec<_>>());
    }
}
