use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A value: `-` is null, `?` unchanged, what begins with a backslash in binary form, anything else text.
fn value(text: &str) -> Value<'_> {
    match text {
        "-" => Value::Null,
        "?" => Value::Unchanged,
        text if text.starts_with('\\') => Value::Binary(text.as_bytes()),
        text => Value::Text(text.as_bytes()),
    }
}

fn tuple(values: &[String]) -> TupleBuffer {
    let mut row = TupleBuffer::default();
    values.iter().for_each(|text| row.push(value(text)).unwrap());
    row
}

fn shown(row: Tuple<'_>) -> Vec<String> {
    let text = |value| match value {
        Value::Null => "-".to_owned(),
        Value::Unchanged => "?".to_owned(),
        Value::Text(text) | Value::Binary(text) => String::from_utf8(text.to_vec()).unwrap(),
    };
    row.values().map(text).collect()
}

const TABLE: u32 = 7;

/// A change of a table `(id, a, b)` whose key is `id`.
#[derive(Clone, Debug)]
enum Change {
    Insert(Vec<String>),
    Update { old: Option<Vec<String>>, new: Vec<String> },
    Delete(Vec<String>),
}

impl Change {
    /// From words: `+ 1 x y`, `= 1 x ?`, `1 = 2 x y` (a change of key), `- 1`.
    fn read(text: &str) -> Change {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let key = |id: &String| vec![id.clone(), "-".into(), "-".into()];
        match (words[0].as_str(), &words[1..]) {
            ("+", row) => Change::Insert(row.to_vec()),
            ("=", row) => Change::Update { old: None, new: row.to_vec() },
            ("-", row) => Change::Delete(key(&row[0])),
            (_, row) => Change::Update { old: Some(key(&words[0])), new: row[1..].to_vec() },
        }
    }

    fn with(&self, work: impl FnOnce(&Message<'_>)) {
        let rows = match self {
            Change::Insert(new) => (None, Some(tuple(new))),
            Change::Update { old, new } => (old.as_deref().map(tuple), Some(tuple(new))),
            Change::Delete(old) => (Some(tuple(old)), None),
        };
        let old = rows.0.as_ref().map_or(Old::Absent, |old| Old::Key(old.tuple()));
        let message = match (self, &rows.1) {
            (Change::Insert(_), Some(new)) => Message::Insert { relation: TABLE, new: new.tuple() },
            (Change::Update { .. }, Some(new)) => Message::Update { relation: TABLE, old, new: new.tuple() },
            _ => Message::Delete { relation: TABLE, old },
        };
        work(&message);
    }
}

fn key() -> RowKey {
    RowKey { columns: vec![0], is_whole: true, replaces: Replaces::None }
}

/// What comes out, each change as [`Change::read`] reads it.
fn net(fold: &Fold) -> Vec<String> {
    let groups = fold.groups(TABLE);
    let rows = groups.iter().flat_map(|group| &group.rows);
    rows.map(|row| match row.message(TABLE).unwrap() {
        Message::Insert { new, .. } => format!("+ {}", shown(new).join(" ")),
        Message::Update { old: Old::Absent, new, .. } => format!("= {}", shown(new).join(" ")),
        Message::Delete { old: Old::Key(old), .. } => format!("- {}", shown(old)[0]),
        other => panic!("{other:?}"),
    })
    .collect()
}

#[track_caller]
fn check_key(key: &RowKey, changes: &[&str], expected: &[&str]) {
    let mut fold = Fold::default();
    for text in changes {
        let text = text.strip_prefix('!').map_or((*text, true), |refused| (refused, false));
        Change::read(text.0).with(|message| assert_eq!(fold.take(key, message), text.1, "{}", text.0));
    }
    assert_eq!(net(&fold), expected, "{changes:?}");
}

/// What is not taken has a `!` before it.
#[track_caller]
fn check(changes: &[&str], expected: &[&str]) {
    check_key(&key(), changes, expected);
}

#[test]
fn the_changes_of_a_row_become_one() {
    check(&["+ 1 x y", "= 1 x z"], &["+ 1 x z"]);
    check(&["+ 1 x y", "= 1 z ?"], &["+ 1 z y"]);
    check(&["+ 1 x y", "- 1"], &[]);
    check(&["+ 1 x y", "- 1", "+ 1 z z"], &["+ 1 z z"]);
    check(&["= 1 x ?", "= 1 z ?"], &["= 1 z ?"]);
    check(&["= 1 x y", "= 1 z ?"], &["= 1 z y"]);
    check(&["= 1 x ?", "= 1 - y"], &["= 1 - y"]);
    check(&["= 1 x y", "- 1"], &["- 1"]);
    check(&["- 1", "+ 1 x y"], &["- 1", "+ 1 x y"]);
    check(&["- 1", "+ 1 x y", "= 1 z ?"], &["- 1", "+ 1 z y"]);
    check(&["- 1", "+ 1 x y", "- 1"], &["- 1"]);
}

#[test]
fn keys_of_one_format_only() {
    check(&["+ \\1 x y", "= \\1 x z", "!= 1 x w", "!+ 2 x y", "!- 1"], &["+ \\1 x z"]);
    check(&["= 1 x y", "!\\1 = \\2 x y", "!- \\1", "- 1"], &["- 1"]);
    check(&["= 1 \\x ?", "= 1 x y"], &["= 1 x y"]);
    // Nor over what was sent before of the same batch: the caller is told of the change once.
    let mut fold = Fold::default();
    for (text, expected) in [("+ 1 x y", true), ("+ 2 x y", true), ("+ \\3 x y", false), ("+ \\4 x y", true)]
    {
        Change::read(text).with(|message| assert_eq!(fold.take(&key(), message), expected, "{text}"));
        fold.clear();
    }
    let pair = RowKey { columns: vec![0, 1], is_whole: true, replaces: Replaces::None };
    check_key(&pair, &["!+ 1 \\x y", "+ 1 x y"], &["+ 1 x y"]);
}

#[test]
fn integers_in_binary_form_are_ordered_by_value() {
    let mut fold = Fold::default();
    let order = [i64::MIN, -256, -1, 0, 1, 255, 256, i64::MAX];
    for number in order.iter().rev() {
        let mut row = TupleBuffer::default();
        row.push(Value::Binary(&number.to_be_bytes())).unwrap();
        assert!(fold.take(&key(), &Message::Insert { relation: TABLE, new: row.tuple() }));
    }
    let rows = fold.groups(TABLE).remove(0).rows;
    let numbers = rows.iter().map(|row| match row.message(TABLE) {
        Some(Message::Insert { new, .. }) => new.values().next().and_then(Value::bytes).unwrap().1.try_into(),
        other => panic!("{other:?}"),
    });
    assert_eq!(numbers.map(|bytes| i64::from_be_bytes(bytes.unwrap())).collect::<Vec<_>>(), order);
}

#[test]
fn a_change_of_key_is_a_delete_and_an_insert() {
    check(&["1 = 2 x y"], &["- 1", "+ 2 x y"]);
    check(&["1 = 2 x y", "2 = 3 ? z"], &["- 1", "+ 3 x z"]);
    check(&["1 = 0 x y", "2 = 1 z z", "0 = 2 x y"], &["- 1", "- 2", "+ 1 z z", "+ 2 x y"]);
    check(&["+ 1 x y", "1 = 2 ? z"], &["+ 2 x z"]);
    check(&["= 1 x y", "1 = 2 ? z"], &["- 1", "+ 2 x z"]);
    check(&["1 = 2 x y", "+ 1 z z"], &["- 1", "+ 1 z z", "+ 2 x y"]);
    check(&["- 2", "1 = 2 x y", "- 2"], &["- 1", "- 2"]);
    // The whole row must be known, by the log and by what the target stores.
    check(&["!1 = 2 x ?"], &[]);
    check(&["= 1 x ?", "!1 = 2 x ?"], &["= 1 x ?"]);
    let narrow = RowKey { is_whole: false, ..key() };
    check_key(&narrow, &["!1 = 2 x y", "+ 3 x y", "3 = 4 x y"], &["+ 4 x y"]);
}

#[test]
fn what_can_not_be_is_not_taken() {
    check(&["+ 1 x y", "!+ 1 x y", "= 2 x y", "!+ 2 x y"], &["= 2 x y", "+ 1 x y"]);
    check(&["- 1", "!- 1", "!= 1 x y", "!1 = 2 x y"], &["- 1"]);
    check(&["+ 1 x y", "- 1", "!- 1", "!= 1 x y", "!1 = 2 x y"], &[]);
    check(&["= 2 x y", "!1 = 2 x y"], &["= 2 x y"]);
    check(&["!+ - x y", "!= ? x y"], &[]);
}

#[test]
fn rows_without_a_key_can_only_come() {
    let keyless = RowKey { columns: Vec::new(), is_whole: true, replaces: Replaces::None };
    check_key(
        &keyless,
        &["+ 2 x y", "+ 1 x y", "!= 1 x y", "+ 2 x y", "!- 1"],
        &["+ 2 x y", "+ 1 x y", "+ 2 x y"],
    );
}

#[test]
fn keys_go_in_order_and_integers_by_value() {
    check(&["- 10", "- 9", "- -1", "- x", "- 100"], &["- -1", "- 9", "- 10", "- 100", "- x"]);
}

#[test]
fn groups_have_the_same_columns() {
    let mut fold = Fold::default();
    for text in ["= 1 x ?", "= 2 ? y", "= 3 x ?", "= 4 x y", "- 5", "+ 6 x y"] {
        Change::read(text).with(|message| assert!(fold.take(&key(), message)));
    }
    let groups = fold.groups(TABLE);
    let sizes: Vec<_> = groups.iter().map(|group| (group.kind, group.rows.len())).collect();
    let update = GroupKind::Update;
    assert_eq!(
        sizes,
        [(GroupKind::Delete, 1), (update, 1), (update, 1), (update, 2), (GroupKind::Insert, 1)]
    );
}

#[test]
fn rows_that_change_often_take_no_more_memory() {
    let mut fold = Fold::default();
    let mut sizes = Vec::new();
    for round in 0..1000 {
        Change::read(&format!("= 1 {} y", 1000 + round)).with(|message| assert!(fold.take(&key(), message)));
        sizes.push(fold.bytes());
    }
    assert_eq!(sizes.first(), sizes.last());
    fold.clear_table(TABLE);
    assert_eq!((fold.bytes(), fold.is_empty()), (0, true));
}

/// Rows of a table by key, without it.
type Rows = BTreeMap<String, Vec<String>>;

/// What a target does with one change: refuses what touches no row, or comes to a key that is taken.
fn apply(rows: &mut Rows, change: &Change) {
    let put = |rows: &mut Rows, row: &[String], before: Option<Vec<String>>| {
        let values = row[1..].iter().enumerate();
        let values = values.map(|(at, text)| match text.as_str() {
            "?" => before.as_ref().expect("a value that was not sent is known")[at].clone(),
            text => text.to_owned(),
        });
        let values = values.collect();
        assert_eq!(rows.insert(row[0].clone(), values), None, "key {} is taken", row[0]);
    };
    match change {
        Change::Insert(new) => put(rows, new, None),
        Change::Update { old, new } => {
            let before = rows.remove(&old.as_ref().unwrap_or(new)[0]);
            assert!(before.is_some(), "{change:?} touches no row");
            put(rows, new, before);
        }
        Change::Delete(old) => assert!(rows.remove(&old[0]).is_some(), "{change:?} touches no row"),
    }
}

/// A history that could happen: each step is a change that the rows of its time allow.
fn history(steps: &[(u8, u8, u8, bool)], rows: &mut Rows) -> Vec<Change> {
    let mut changes = Vec::new();
    for (at, &(what, one, other, toasted)) in steps.iter().enumerate() {
        let (id, to) = (format!("{}", one % 5), format!("{}", other % 5));
        let last = if toasted { "?".to_owned() } else { format!("b{at}") };
        let key = |id: &String| vec![id.clone(), "-".into(), "-".into()];
        let change = match (rows.contains_key(&id), what % 4) {
            (false, _) => Change::Insert(vec![id, format!("a{at}"), format!("b{at}")]),
            (true, 0) => Change::Delete(key(&id)),
            (true, 1) if !rows.contains_key(&to) => {
                Change::Update { old: Some(key(&id)), new: vec![to, format!("a{at}"), last] }
            }
            (true, _) => Change::Update { old: None, new: vec![id, format!("a{at}"), last] },
        };
        apply(rows, &change);
        changes.push(change);
    }
    changes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn folded_is_as_if_each_change_was_made(
        steps in prop::collection::vec(any::<(u8, u8, u8, bool)>(), 0..40),
        begin in prop::collection::vec(any::<u8>(), 0..5),
        is_whole in any::<bool>(),
    ) {
        let begin: Rows =
            begin.iter().map(|id| (format!("{}", id % 5), vec!["a".into(), "b".into()])).collect();
        let mut source = begin.clone();
        let changes = history(&steps, &mut source);
        let mut target = begin;
        let (key, mut fold) = (RowKey { is_whole, ..key() }, Fold::default());
        let unfold = |fold: &mut Fold, target: &mut Rows| {
            net(fold).iter().for_each(|text| apply(target, &Change::read(text)));
            fold.clear_table(TABLE);
        };
        for change in &changes {
            let mut taken = false;
            change.with(|message| taken = fold.take(&key, message));
            if !taken {
                unfold(&mut fold, &mut target);
                apply(&mut target, change);
            }
        }
        unfold(&mut fold, &mut target);
        prop_assert_eq!(target, source);
    }
}

#[test]
fn of_rows_that_may_be_there_the_last_holds() {
    let states = RowKey { replaces: Replaces::Any, ..key() };
    check_key(&states, &["+ 1 x y", "+ 1 z z"], &["+ 1 z z"]);
    check_key(&states, &["- 1", "+ 1 x y"], &["+ 1 x y"]);
    check_key(&states, &["+ 1 x y", "- 1", "- 1"], &["- 1"]);
    check_key(&states, &["+ 1 x y", "- 1", "+ 1 z z"], &["+ 1 z z"]);
    check_key(&states, &["= 1 ? gone", "+ 1 z -"], &["+ 1 z -"]);
    // Marked as deleted, and there again: it is there in any case.
    let marked = RowKey { replaces: Replaces::Marked, ..key() };
    check_key(&marked, &["= 1 ? gone", "+ 1 z -"], &["= 1 z -"]);
    check_key(&marked, &["+ 1 x -", "= 1 ? gone"], &["+ 1 x gone"]);
}

proptest! {
    #[test]
    fn folded_states_are_as_if_each_was_written(
        steps in prop::collection::vec((any::<bool>(), 0u8..4), 0..30),
        begin in prop::collection::btree_set(0u8..4, 0..4),
    ) {
        // A row that is written may be there, and one that is deleted may not.
        let write = |rows: &mut Rows, text: &str| match Change::read(text) {
            Change::Insert(row) => drop(rows.insert(row[0].clone(), row[1..].to_vec())),
            Change::Delete(old) => drop(rows.remove(&old[0])),
            Change::Update { .. } => panic!("{text}"),
        };
        let mut expected: Rows = begin.iter().map(|id| (id.to_string(), vec!["a".into(), "b".into()])).collect();
        let mut found = expected.clone();
        let (states, mut fold) = (RowKey { replaces: Replaces::Any, ..key() }, Fold::default());
        for (at, (is_there, id)) in steps.iter().enumerate() {
            let text = if *is_there { format!("+ {id} x{at} y") } else { format!("- {id}") };
            write(&mut expected, &text);
            Change::read(&text).with(|message| assert!(fold.take(&states, message), "{text}"));
        }
        net(&fold).iter().for_each(|text| write(&mut found, text));
        prop_assert_eq!(found, expected);
    }
}
