use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{Column, Lsn, Relation, Remedy, ReplicaIdentity, Timestamp, Value, Xid};
use crate::pgoutput::{Begin, Message, Old, Tuple, TupleBuffer};
use crate::transform::{Arriving, Emptying, Removal, Versioned};

const BEGIN: Begin = Begin { commit_lsn: Lsn(0x10), commit_time: Timestamp(0), xid: Xid(5) };
const TIME: &str = "2000-01-01T00:00:00.000000Z";
const KEY: &[u8] = b"0123456789abcdef";

/// Names and types; those before `keys` are the key.
fn relation(identity: ReplicaIdentity, keys: usize, columns: &[(&str, u32)]) -> Relation {
    let is_full = identity == ReplicaIdentity::Full;
    let column = |(at, (name, type_oid)): (usize, &(&str, u32))| Column {
        name: (*name).into(),
        key: is_full || at < keys,
        type_oid: *type_oid,
        type_modifier: -1,
    };
    let columns = columns.iter().enumerate().map(column).collect();
    Relation { oid: 7, schema: "public".into(), name: "users".into(), identity, columns }
}

const USERS: &[(&str, u32)] = &[("id", 23), ("mail", 25), ("age", 23), ("note", 25)];

fn users(identity: ReplicaIdentity) -> Relation {
    relation(identity, 1, USERS)
}

fn rules(text: &str) -> RuleSet {
    RuleSet::parse(&format!("hash = {{ key-env = \"K\" }}\n{text}")).unwrap().with_key(KEY).unwrap()
}

/// Of table `public.users`.
fn shaped(text: &str, relation: &Relation) -> Result<Shaped, Refusal> {
    rules(&format!("[table.\"public.users\"]\n{text}")).shape(relation).map(Option::unwrap)
}

fn row(cells: &[&str]) -> TupleBuffer {
    let mut buffer = TupleBuffer::default();
    for cell in cells {
        buffer.push(value(cell)).unwrap();
    }
    buffer
}

/// `-` is null, `u` unchanged.
fn value(cell: &str) -> Value<'_> {
    match cell {
        "-" => Value::Null,
        "u" => Value::Unchanged,
        text => Value::Text(text.as_bytes()),
    }
}

fn cells(row: Tuple<'_>) -> String {
    let cell = |value: Value<'_>| match value {
        Value::Null => "-".to_owned(),
        Value::Unchanged => "u".to_owned(),
        Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        Value::Binary(bytes) => format!("b:{}", String::from_utf8_lossy(bytes)),
    };
    row.values().map(cell).collect::<Vec<_>>().join(" ")
}

fn told(changes: Changes<'_>) -> String {
    let told: Vec<_> = changes.into_iter().flatten().map(told_one).collect();
    if told.is_empty() { "nothing".into() } else { told.join(", ") }
}

fn told_one(message: Message<'_>) -> String {
    let old = |old: Old<'_>| match old {
        Old::Absent => String::new(),
        Old::Key(row) => format!(" key {}", cells(row)),
        Old::Row(row) => format!(" old {}", cells(row)),
    };
    match message {
        Message::Insert { new, .. } => format!("insert {}", cells(new)),
        Message::Update { old: before, new, .. } => format!("update{} new {}", old(before), cells(new)),
        Message::Delete { old: before, .. } => format!("delete{}", old(before)),
        other => format!("{other:?}"),
    }
}

/// `+ row`, `~ row`, `~ old row > row`, `~ key row > row`, `- old row`, `- key row`.
#[track_caller]
fn check(shaped: &Shaped, change: &str, expected: &str) {
    let result = apply(shaped, change);
    assert_eq!(result.unwrap_or_else(|refusal| refusal.message), expected, "{change}");
}

fn apply(shaped: &Shaped, change: &str) -> Result<String, Refusal> {
    let (kind, rest) = change.split_at(1);
    let (before, after) = rest.split_once('>').unwrap_or(if kind == "-" { (rest, "") } else { ("", rest) });
    let words = |text: &str| row(&text.split_whitespace().collect::<Vec<_>>());
    let new = words(after);
    let (how, before) = before.trim().split_once(' ').unwrap_or_default();
    let before = words(before);
    let old = match how {
        "old" => Old::Row(before.tuple()),
        "key" => Old::Key(before.tuple()),
        _ => Old::Absent,
    };
    let message = match kind {
        "+" => Message::Insert { relation: 7, new: new.tuple() },
        "~" => Message::Update { relation: 7, old, new: new.tuple() },
        _ => Message::Delete { relation: 7, old },
    };
    let mut spare = Spare::default();
    shaped.change(&message, BEGIN, &mut spare).map(told)
}

#[track_caller]
fn refused(text: &str, relation: &Relation, said: &str, cure: &str) {
    let refusal = shaped(text, relation).unwrap_err();
    assert!(refusal.message.contains(said), "{text}: {}", refusal.message);
    assert!(refusal.hint.clone().unwrap_or_default().contains(cure), "{text}: {:?}", refusal.hint);
}

#[test]
fn columns_are_renamed_dropped_and_made() {
    let text = "schema = 'shop'\nname = 'people'\ndrop = ['note']\n\
                column.mail = { name = 'email' }\ncolumn.age = { cast = 'int8' }\ncolumn.region = { constant = 'eu' }\n\
                column.label = { expression = \"string(id) + '/' + mail\", cast = 'text' }";
    let shaped = shaped(text, &users(ReplicaIdentity::Default)).unwrap();
    let relation = shaped.relation();
    assert_eq!((relation.schema.as_str(), relation.name.as_str(), relation.oid), ("shop", "people", 7));
    let columns: Vec<_> = relation.columns.iter().map(|c| (c.name.as_str(), c.key, c.type_oid)).collect();
    let expected = [
        ("id", true, 23),
        ("email", false, 25),
        ("age", false, 20),
        ("region", false, 0),
        ("label", false, 25),
    ];
    assert_eq!(columns, expected);
    assert_eq!(shaped.loose(), [2, 4]);
    check(&shaped, "+ 1 a@b 3 x", "insert 1 a@b 3 eu 1/a@b");
    check(
        &shaped,
        "~ 1 - 3 u",
        "rules, line 9: column label of a row of table public.users: 'add' does not take string and null",
    );
    check(&shaped, "~ key 1 - - - > 2 a 3 u", "update key 1 - - - - new 2 a 3 eu 2/a");
    check(&shaped, "- key 1 - - -", "delete key 1 - - - -");
    assert!(rules("[table.other]\ndrop = ['x']").shape(&users(ReplicaIdentity::Full)).unwrap().is_none());
}

#[test]
fn a_row_enters_and_leaves_a_filter() {
    let shaped = shaped("where = 'age != null && age >= 18'", &users(ReplicaIdentity::Full)).unwrap();
    for (change, expected) in [
        ("+ 1 a 18 x", "insert 1 a 18 x"),
        ("+ 1 a 17 x", "nothing"),
        ("+ 1 a - x", "nothing"),
        ("~ old 1 a 20 x > 1 b 30 u", "update old 1 a 20 x new 1 b 30 u"),
        ("~ old 1 a 17 x > 1 b 18 u", "insert 1 b 18 x"),
        ("~ old 1 a 18 x > 1 b 17 u", "delete old 1 a 18 x"),
        ("~ old 1 a 17 x > 1 b - u", "nothing"),
        ("~ old 1 a 18 x > 1 a u x", "update old 1 a 18 x new 1 a u x"),
        ("- old 1 a 18 x", "delete old 1 a 18 x"),
        ("- old 1 a 17 x", "nothing"),
    ] {
        check(&shaped, change, expected);
    }
}

#[test]
fn a_filter_reads_what_old_rows_have() {
    let default = users(ReplicaIdentity::Default);
    let cure = "ALTER TABLE \"public\".\"users\" REPLICA IDENTITY FULL";
    refused("where = 'age > 1'", &default, "line 3: where reads column age", cure);
    let by_key = shaped("where = 'id > 10'", &default).unwrap();
    check(&by_key, "~ 11 a 1 u", "update new 11 a 1 u");
    check(&by_key, "~ 9 a 1 x", "nothing");
    check(&by_key, "~ key 9 - - - > 11 a 1 x", "insert 11 a 1 x");
    check(&by_key, "~ key 11 - - - > 9 a 1 u", "delete key 11 - - -");
    let unsent = "rules, line 3: column note of table public.users is needed, and the source did not send it, since it did not change (TOAST)";
    check(&by_key, "~ key 9 - - - > 11 a 1 u", unsent);
    let inserts = shaped("where = 'age > 1'\nonly-inserts = true", &default).unwrap();
    check(&inserts, "+ 1 a 2 x", "insert 1 a 2 x");
    check(
        &inserts,
        "~ 1 a 2 x",
        "rules, line 2: table public.users has changes that are no inserts, against only-inserts",
    );
    // Without an identity there are only inserts.
    let keyless = relation(ReplicaIdentity::Nothing, 0, USERS);
    let shaped = shaped("where = 'age > 1'", &keyless).unwrap();
    check(&shaped, "+ 1 a 1 x", "nothing");
    check(
        &shaped,
        "~ 1 a 2 x",
        "rules, line 3: table public.users has a change of an old row of which where can't be told",
    );
}

#[test]
fn masks_stand_for_values_wherever_they_are() {
    let text = "column.id = { hash = true, cast = 'text' }\ncolumn.mail = { hash = true }\n\
                column.age = { null = true }\ncolumn.note = { partial = { first = 1, last = 1 } }";
    let masked = shaped(text, &users(ReplicaIdentity::Default)).unwrap();
    let one = "20eb7ab13fb70a5c17e7a7d49a4d2de4";
    let told = apply(&masked, "+ 1 1 2 secret").unwrap();
    let [_, id, mail, age, note]: [&str; 5] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((id, age, note), (mail, "-", "s****t"));
    assert_eq!(id.len(), one.len());
    assert_eq!(apply(&masked, "- key 1 - - -").unwrap(), format!("delete key {id} - - -"));
    assert_eq!(apply(&masked, "~ 1 - 2 u").unwrap(), format!("update new {id} - - u"));
    assert_eq!(masked.loose(), [3]);
    let other = shaped(
        "column.mail = { fixed = 'x' }\ncolumn.note = { regex = '[0-9]', with = '#' }",
        &users(ReplicaIdentity::Full),
    )
    .unwrap();
    check(&other, "~ old 1 m 2 a1 > 1 - 2 b22", "update old 1 x 2 a# new 1 - 2 b##");
    check(&other, "~ old 1 m 2 a1 > 1 u 2 u", "update old 1 x 2 a# new 1 u 2 u");
}

#[test]
fn an_expression_over_what_did_not_change_did_not_change() {
    let text = "column.note = { expression = 'note + mail' }\ncolumn.copy = { expression = 'note' }";
    let full = shaped(text, &users(ReplicaIdentity::Full)).unwrap();
    check(&full, "~ old 1 m 2 n > 1 k 2 u", "update old 1 m 2 nm n new 1 k 2 nk u");
    check(&full, "~ old 1 m 2 n > 1 u 2 u", "update old 1 m 2 nm n new 1 u 2 u u");
    let default = shaped(text, &users(ReplicaIdentity::Default)).unwrap();
    check(&default, "~ 1 k 2 n", "update new 1 k 2 nk n");
    let unsent = "rules, line 3: column note of table public.users is needed, and the source did not send it, since it did not change (TOAST)";
    check(&default, "~ 1 k 2 u", unsent);
}

#[test]
fn what_identifies_rows_stays_known() {
    let pair = relation(ReplicaIdentity::Default, 2, &[("tenant", 23), ("id", 23), ("note", 25)]);
    refused("drop = ['tenant']", &pair, "column tenant is part of the key", "key = ");
    let by_id = shaped("drop = ['tenant']\nkey = ['id']", &pair).unwrap();
    assert_eq!(by_id.relation().identity, ReplicaIdentity::Index);
    check(&by_id, "~ key 1 2 - > 1 3 x", "update key 2 - new 3 x");
    check(&by_id, "- key 1 2 -", "delete key 2 -");
    refused("column.id = { null = true }", &pair, "rows must differ", "hash");
    refused("column.id = { fixed = '1' }", &pair, "rows must differ", "hash");
    refused("column.id = { expression = 'note' }", &pair, "does not send of old rows", "FULL");
    refused("key = ['note']", &pair, "does not send of old rows", "FULL");
    refused("column.id = { regex = '1', with = '2' }", &pair, "rows must differ in it", "hash");
    refused("key = ['nothing']", &pair, "no column nothing on the target", "");
    let computed =
        shaped("column.id = { expression = 'id + tenant * 1000' }\nkey = ['id']\ndrop = ['tenant']", &pair)
            .unwrap();
    check(&computed, "~ key 1 2 - > 2 2 x", "update key 1002 - new 2002 x");
    // A key that is made in another way than by a hash may have two texts for one value.
    assert_eq!(computed.loose(), [0]);
}

#[test]
fn rows_of_several_tables_are_told_apart_by_constants() {
    let routed = shaped(
        "into = 'all.users'\ntruncate = 'delete'\ncolumn.shard = { constant = 'one' }",
        &users(ReplicaIdentity::Default),
    );
    let routed = routed.unwrap();
    assert!(routed.is_routed() && routed.relation().schema == "all");
    check(&routed, "~ 1 a 2 x", "update new 1 a 2 x one");
    check(&routed, "- key 1 - - -", "delete key 1 - - - one");
    let keys: Vec<_> = routed.relation().columns.iter().filter(|c| c.key).map(|c| c.name.as_str()).collect();
    assert_eq!(keys, ["id", "shard"]);
    let rows = Emptying { rows: vec![("shard".into(), "one".into())], ..Emptying::default() };
    assert_eq!(routed.truncated(BEGIN).unwrap(), Truncated::Rows(rows));
    let plain = shaped("into = 'all.users'", &users(ReplicaIdentity::Default)).unwrap();
    assert!(plain.truncated(BEGIN).unwrap_err().hint.unwrap().contains("truncate = \"delete\""));
    assert_eq!(
        shaped("drop = ['note']", &users(ReplicaIdentity::Full)).unwrap().truncated(BEGIN),
        Ok(Truncated::Whole)
    );
}

#[test]
fn a_row_tells_of_its_change() {
    let text = "column._lsn = { metadata = 'lsn', cast = 'int8' }\ncolumn._time = { metadata = 'commit-time' }\n\
                column._op = { metadata = 'operation' }\ndrop = ['mail', 'age', 'note']";
    let shaped = shaped(text, &users(ReplicaIdentity::Default)).unwrap();
    let types: Vec<_> = shaped.relation().columns.iter().map(|column| column.type_oid).collect();
    assert_eq!((types.as_slice(), shaped.arriving()), ([23, 20, 1184, 25].as_slice(), Arriving::New));
    check(&shaped, "+ 1 a 2 x", &format!("insert 1 16 {TIME} insert"));
    check(&shaped, "~ 1 a 2 u", &format!("update new 1 16 {TIME} update"));
    check(&shaped, "- key 1 - - -", "delete key 1 - - -");
    let mut copied = TupleBuffer::default();
    assert!(shaped.row(&["1", "a", "2", "x"].map(value), &mut copied).unwrap());
    assert_eq!(cells(copied.tuple()), "1 0 - copy");
    // An old row's is not known.
    let full = users(ReplicaIdentity::Full);
    refused(text, &full, "can't be found by column", "key = [");
    let keyed = super::tests::shaped(&format!("key = ['id']\n{text}"), &full).unwrap();
    check(&keyed, "~ old 1 a 2 x > 1 b 2 x", &format!("update key 1 - - - new 1 16 {TIME} update"));
    check(&keyed, "- old 1 a 2 x", "delete key 1 - - -");
    refused("key = ['_op']\ncolumn._op.metadata = 'operation'", &full, "can't identify rows", "");
}

#[test]
fn a_deleted_row_stays_and_is_marked() {
    let text = "mode = 'soft-delete'\nwhere = 'id < 10'\ncolumn.gone = { metadata = 'deleted-at' }\n\
                column.is_gone = { metadata = 'deleted' }\ndrop = ['age', 'note']";
    let soft = shaped(text, &users(ReplicaIdentity::Default)).unwrap();
    assert_eq!(soft.arriving(), Arriving::Reviving(2));
    // A key that is long is not sent again with the new row.
    check(&soft, "~ key 1 - - - > u a 2 x", "update new 1 a - f");
    let gone = |id: &str| format!("update new {id} u {TIME} t");
    check(&soft, "+ 1 a 2 x", "insert 1 a - f");
    check(&soft, "~ 1 u 2 x", "update new 1 u - f");
    check(&soft, "- key 1 - - -", &gone("1"));
    check(&soft, "~ key 1 - - - > 2 a 2 x", &format!("{}, insert 2 a - f", gone("1")));
    check(&soft, "~ key 1 - - - > 1 a 2 x", "update new 1 a - f");
    check(&soft, "~ key 1 - - - > 11 a 2 x", &gone("1"));
    check(&soft, "~ key 11 - - - > 1 a 2 x", "insert 1 a - f");
    // The row behind the other key is a new one, of which all must be known.
    assert!(apply(&soft, "~ key 1 - - - > 2 u 2 x").unwrap_err().message.contains("TOAST"));
    let set = vec![("gone".into(), TIME.into()), ("is_gone".into(), "t".into())];
    let marked = Emptying { rows: Vec::new(), by: Removal::Mark("gone".into()), set };
    assert_eq!(soft.truncated(BEGIN), Ok(Truncated::Rows(marked)));
    refused("column.gone.metadata = 'deleted-at'", &users(ReplicaIdentity::Default), "wants mode", "");
    refused(
        "column.a.metadata = 'xid'\ncolumn.b.metadata = 'xid'",
        &users(ReplicaIdentity::Default),
        "column b of table public.users tells what",
        "",
    );
    refused("mode = 'soft-delete'", &users(ReplicaIdentity::Default), "metadata = \"deleted-at\"", "");
    let keyless = relation(ReplicaIdentity::Nothing, 0, USERS);
    refused("mode = 'soft-delete'\ncolumn.gone.metadata = 'deleted-at'", &keyless, "wants a key", "FULL");
}

#[test]
fn each_version_of_a_row_is_a_row() {
    let text = "mode = 'history'\nkey = ['id']\ncolumn.at.metadata = 'lsn'\ncolumn.since.metadata = 'valid-from'\n\
                column.until.metadata = 'valid-to'\ndrop = ['age', 'note']";
    let history = shaped(text, &users(ReplicaIdentity::Full)).unwrap();
    assert_eq!(history.arriving(), Arriving::Versioned(Versioned { position: 2, from: 3, to: 4 }));
    let (version, end) = (format!("0/10 {TIME} infinity"), format!("u u {TIME}"));
    check(&history, "+ 1 a 2 x", &format!("insert 1 a {version}"));
    check(&history, "~ old 1 a 2 x > 1 u 3 x", &format!("update new 1 u {version}"));
    check(&history, "- old 1 a 2 x", &format!("update new 1 u {end}"));
    // What did not change is in the old row.
    let moved = format!("update new 1 u {end}, insert 2 a {version}");
    check(&history, "~ old 1 a 2 x > 2 u 2 x", &moved);
    let ended = Removal::End { from: "since".into(), to: "until".into(), time: TIME.into() };
    let ended = Emptying { by: ended, ..Emptying::default() };
    assert_eq!(history.truncated(BEGIN), Ok(Truncated::Rows(ended)));
    let mut copied = TupleBuffer::default();
    assert!(history.row(&["1", "a", "2", "x"].map(value), &mut copied).unwrap());
    assert_eq!(cells(copied.tuple()), "1 a 0/0 -infinity infinity");
}

#[test]
fn a_state_that_leaves_a_filter_goes() {
    let set = rules("[table.users]\nwhere = 'age > 1'");
    let polled = set.shape_states(&users(ReplicaIdentity::Default)).unwrap().unwrap();
    check(&polled, "+ 1 a 1 x", "delete key 1 - - -");
    check(&polled, "+ 2 a 2 x", "insert 2 a 2 x");
    check(&polled, "- key 2 - - -", "delete key 2 - - -");
    // A table of which rows are only added has none to leave.
    let appended = set.shape_states(&relation(ReplicaIdentity::Nothing, 0, USERS)).unwrap().unwrap();
    check(&appended, "+ 1 a 1 x", "nothing");
}

#[test]
fn what_only_a_definition_tells_is_refused_before_its_first_change() {
    let default = users(ReplicaIdentity::Default);
    for (text, said, cure) in [
        ("where = 'agee > 1'", "line 3: table public.users has no column agee", ""),
        ("column.x = { expression = 'row.agee' }", "no column agee", ""),
        ("column.mial = { hash = true }", "line 3: table public.users has no column mial", "optional"),
        ("drop = ['mial']", "no column mial", "mend"),
        ("keep = ['id', 'mial']", "no column mial", "mend"),
        ("column.mail = { constant = 'x' }", "is there already", "fixed"),
        ("column.age = { hash = true }", "can't hold a hash", "cast to text"),
        ("column.mail = { name = 'age' }", "would have column age twice", ""),
        ("drop = ['id', 'mail', 'age', 'note']", "no column left", ""),
    ] {
        refused(text, &default, said, cure);
    }
    assert!(shaped("column.mial = { hash = true, optional = true }", &default).is_ok());
    let set = RuleSet::parse("hash.key-env = 'K'\n[table.users]\ncolumn.mail.hash = true").unwrap();
    assert!(set.shape(&default).unwrap_err().message.contains("the key of hashes was not given"));
}

#[test]
fn values_in_binary_form_are_passed_and_not_read() {
    let binary = |cells: [&'static [u8]; 4]| {
        let mut row = TupleBuffer::default();
        cells.into_iter().for_each(|bytes| row.push(Value::Binary(bytes)).unwrap());
        row
    };
    let of = |text: &str| {
        let set = rules(&format!("[table.users]\n{text}"));
        let shaped = set.shape(&users(ReplicaIdentity::Default)).unwrap().unwrap();
        let (new, mut spare) = (binary([b"1", b"2", b"3", b"4"]), Spare::default());
        let change = shaped.change(&Message::Insert { relation: 7, new: new.tuple() }, BEGIN, &mut spare);
        (set.refuse_format(Format::Binary).map_err(|fault| fault.message), change.map(told))
    };
    for text in [
        "where = 'id > 1'",
        "column.mail = { regex = 'x', with = '' }",
        "column.mail.partial = { first = 1 }",
        "column.mail.hash = true",
        "column.x.expression = 'id'",
    ] {
        let (format, change) = of(text);
        assert!(format.unwrap_err().contains("line 3"), "{text}");
        assert!(change.unwrap_err().hint.unwrap().contains("--format text"), "{text}");
    }
    let text = "drop = ['note']\ncolumn.mail.fixed = 'm'\ncolumn.age.null = true\ncolumn.x = { constant = 'c', cast = 'text' }";
    let (_, change) = of(text);
    assert_eq!(change.unwrap(), "insert b:1 b:m - b:c");
    for text in ["column.age.fixed = '1'", "column.x.constant = 'c'"] {
        let refusal = of(text).1.unwrap_err();
        assert!(refusal.hint.unwrap().contains("cast = \"text\""), "{text}");
    }
}

#[test]
fn other_encodings_are_taken_where_nothing_is_read() {
    let of = |text: &str| rules(&format!("[table.users]\n{text}")).refuse_encoding("LATIN1");
    for text in
        ["where = 'id > 1'", "column.mail.fixed = 'é'", "column.mail.regex = 'x'\ncolumn.mail.with = 'y'"]
    {
        assert!(of(text).unwrap_err().message.contains("line 3"), "{text}");
    }
    assert!(of("drop = ['x']\ncolumn.mail.hash = true\ncolumn.x1.constant = 'e'").is_ok());
}

#[test]
fn a_file_is_refused_whole_with_the_line_of_each_error() {
    for (text, line, said) in [
        ("", 1, "no rules"),
        ("tabel = 1", 1, "unknown key tabel"),
        ("[table.a", 1, ""),
        ("[table.'a.b.c']\ndrop = ['x']", 1, "not a table pattern"),
        ("[table.a]", 1, "says nothing"),
        ("[table.a]\ndropp = ['x']", 2, "unknown key dropp"),
        ("[table.a]\ndrop = 'x'", 2, "list of texts"),
        ("[table.a]\ndrop = []", 2, "empty"),
        ("[table.a]\ndrop = ['x', 'x']", 2, "twice"),
        ("[table.a]\nkeep = ['x']\ndrop = ['y']", 3, "keep and drop"),
        ("[table.a]\nschema = ''", 2, "a name has"),
        ("[table.a]\nschema = 'pgsluice'", 2, "our own"),
        ("[table.a]\ninto = 'pgsluice.x'", 2, "our own"),
        ("[table.'a.*']\nname = 'x'", 2, "into"),
        ("[table.a]\ninto = 'b.*'", 2, "one table"),
        ("[table.a]\ninto = 'b'", 2, "one table"),
        ("[table.a]\ninto = 'b.c'\nname = 'x'", 2, "leave out"),
        ("[table.a]\nwhere = 'x >'", 2, "no expression"),
        ("[table.a]\nwhere = 'foo(x)'", 2, "no function foo"),
        ("[table.a]\nwhere = 7", 2, "wants a text"),
        ("[table.a]\nonly-inserts = 1", 2, "true or false"),
        ("[table.a]\ntruncate = 'ignore'", 2, "for tables with into"),
        ("[table.a]\ninto = 'b.c'\ntruncate = 'no'", 3, "refuse, ignore or delete"),
        ("[table.'x.a']\ninto = 'b.c'\ntruncate = 'delete'", 3, "constant"),
        ("[table.a]\ninto = 'b.c'\ntruncate = 'delete'\ncolumn.s.constant = '1'", 3, "a rule for each"),
        (
            "[table.'x.a']\ninto = 'b.c'\ntruncate = 'delete'\ncolumn.s.constant = '1'\n[table.'y.a']\ninto = 'b.c'\ncolumn.s.constant = '1'",
            6,
            "no constant tells them",
        ),
        ("[table.a]\ncolumn = 1", 2, "sections"),
        ("[table.a]\ncolumn.x = 1", 2, "wants a table"),
        ("[table.a]\ncolumn.x = {}", 2, "nothing is said"),
        ("[table.a]\ncolumn.x = { hush = true }", 2, "unknown key hush"),
        ("[table.a]\ncolumn.x = { hash = true }", 2, "wants a key"),
        ("[table.a]\ncolumn.x = { null = false }", 2, "wants true"),
        ("[table.a]\ncolumn.x = { null = true, fixed = 'a' }", 2, "only one value"),
        ("[table.a]\ncolumn.x = { cast = 'int5' }", 2, "no type int5"),
        ("[table.a]\ncolumn.x = { regex = '(', with = '' }", 2, "no regular expression"),
        ("[table.a]\ncolumn.x = { regex = 'x' }", 2, "wants with"),
        ("[table.a]\ncolumn.x = { with = 'x', null = true }", 2, "with is for regex"),
        ("[table.a]\ncolumn.x = { partial = { first = -1 } }", 2, "not negative"),
        ("[table.a]\ncolumn.x = { partial = { with = 'ab' } }", 2, "one character"),
        ("[table.a]\ncolumn.x = { expression = ')' }", 2, "no expression"),
        ("[table.a]\ncolumn.x = { constant = 'a', name = 'b' }", 2, "stands under"),
        ("[table.a]\ncolumn.x = { metadata = 'lns' }", 2, "metadata is one of lsn,"),
        ("[table.a]\ncolumn.x = { metadata = 'lsn', name = 'b' }", 2, "stands under"),
        ("[table.a]\ncolumn.x = { metadata = 'lsn', cast = 'int4' }", 2, "no value of this type"),
        ("[table.a]\nmode = 'soft'", 2, "mode is soft-delete or history"),
        ("[table.'a.*']\nmode = 'history'\n[table.b]\nmode = 'soft-delete'", 4, "says mode too"),
        ("[table.a]\ncolumn.x = { constant = \"a\\u0000\" }", 2, "no NUL"),
        ("[table.a]\ndrop = ['x']\ncolumn.x = { null = true }", 3, "dropped, in line 2"),
        ("[table.a]\nkeep = ['y']\ncolumn.x = { null = true }", 3, "not kept, in line 2"),
        ("[table.a]\ncolumn.x = { name = 'z' }\ncolumn.y = { name = 'z' }", 3, "would be called z"),
        ("[hash]\nkey = 'secret'", 1, "either key-file"),
        ("[hash]\nkey-file = 'a'\nkey-env = 'b'", 1, "either key-file"),
        // Two rules for the same thing.
        ("[table.'a.*']\nschema = 'x'\n[table.'*.t']\nschema = 'y'", 4, "line 2 says schema too"),
        ("[table.'a.*']\nwhere = 'x > 1'\n[table.'a.t']\nwhere = 'y > 1'", 4, "line 2 says where too"),
        (
            "[table.'a.*']\ncolumn.x.null = true\n[table.'a.t']\ncolumn.x.fixed = 'y'",
            4,
            "line 2 says something of column x too",
        ),
        ("[table.'a.*']\ncolumn.x.null = true\n[table.'a.t']\ndrop = ['x']", 2, "dropped, in line 4"),
        ("[table.'a.*']\ninto = 'b.c'\n[table.'a.t']\nname = 'x'", 4, "into and name"),
    ] {
        let fault = RuleSet::parse(text).unwrap_err();
        assert_eq!(fault.remedy, Remedy::Usage);
        assert!(
            fault.message.contains(&format!("line {line}: ")) && fault.message.contains(said),
            "{text}\n{}",
            fault.message
        );
        assert!(!fault.message.contains("secret"), "{}", fault.message);
    }
    let many = RuleSet::parse("[table.a]\nx = 1\n[table.b]\ny = 1\nwhere = ')'").unwrap_err().message;
    assert!(
        many.starts_with("3 errors")
            && many.contains("line 2")
            && many.contains("line 4")
            && many.contains("line 5"),
        "{many}"
    );
    let apart = "[table.'a.*']\nschema = 'x'\ncolumn.m.null = true\n[table.'b.*']\nschema = 'y'\ncolumn.m.fixed = '1'";
    assert!(RuleSet::parse(apart).is_ok());
}

#[test]
fn the_pages_example_is_right_and_its_tables_have_every_key() {
    let page = include_str!("../../docs/RULES.md");
    let example = page.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(RuleSet::parse(example).unwrap().count(), 4);
    for (text, section) in
        [("[table.a]\nx = 1", "## Of a table"), ("[table.a]\ncolumn.y.x = 1", "## Of a column")]
    {
        let message = RuleSet::parse(text).unwrap_err().message;
        let (_, keys) = message.split_once("it may have: ").unwrap();
        let part = page.split(section).nth(1).unwrap().split("\n## ").next().unwrap();
        let missing = keys.split(", ").find(|key| !part.contains(&format!("`{key}")));
        assert_eq!(missing, None, "{section}");
    }
}

#[test]
fn a_fingerprint_is_of_what_is_said_and_of_the_key() {
    let of = |text: &str, key: &[u8]| RuleSet::parse(text).unwrap().with_key(key).unwrap().fingerprint();
    let one = of("[table.a]\ndrop = ['x']\nschema = 'b'", KEY);
    assert_eq!(
        one,
        of("# why\n[table.a]\nschema = \"b\"\n\n  drop = [ 'x', ] # not this", &[KEY, b"\n"].concat())
    );
    assert_ne!(one, of("[table.a]\ndrop = ['y']\nschema = 'b'", KEY));
    assert_ne!(one, of("[table.a]\ndrop = ['x']\nschema = 'b'", b"fedcba9876543210"));
    let short = RuleSet::parse("[table.a]\ndrop = ['x']").unwrap().with_key(b"short").unwrap_err();
    assert!(!short.message.contains("short\"") && short.hint.is_some());
}

/// What is done to the source, by key: the values of mail, age and note; none deletes.
type Step = (u8, Option<(Option<String>, Option<i8>, String)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (prop::option::of("[a-z]{0,4}"), prop::option::of(any::<i8>()), "[a-z]{0,3}");
    prop::collection::vec((0u8..6, prop::option::weighted(0.8, row)), 0..60)
}

/// A target's rows, by what identifies them there.
type Target = BTreeMap<String, String>;

/// Does a change, and says what is wrong with it for the rows that are there.
fn happen(target: &mut Target, relation: &Relation, changes: Changes<'_>) {
    changes.into_iter().flatten().for_each(|change| happen_one(target, relation, change));
}

fn happen_one(target: &mut Target, relation: &Relation, change: Message<'_>) {
    let key = |row: Tuple<'_>| {
        let cells = cells(row);
        let keys =
            relation.columns.iter().zip(cells.split(' ')).filter(|(column, _)| column.name.starts_with('k'));
        keys.map(|(_, cell)| cell.to_owned()).collect::<Vec<_>>().join(" ")
    };
    match change {
        Message::Insert { new, .. } => {
            assert_eq!(target.insert(key(new), cells(new)), None, "it is there already");
        }
        Message::Update { old, new, .. } => {
            let was = match old {
                Old::Absent => key(new),
                Old::Key(row) | Old::Row(row) => key(row),
            };
            let before = target.remove(&was).expect("it is not there");
            let values = before.split(' ').zip(cells(new).split(' ').map(str::to_owned).collect::<Vec<_>>());
            let values: Vec<_> =
                values.map(|(was, is)| if is == "u" { was.to_owned() } else { is }).collect();
            assert_eq!(target.insert(key(new), values.join(" ")), None, "it is there already");
        }
        Message::Delete { old: Old::Key(row) | Old::Row(row), .. } => {
            target.remove(&key(row)).expect("it is not there");
        }
        other => panic!("{other:?}"),
    }
}

/// Rules for a table with the columns `k`, `mail`, `age` and `note`.
const SETS: &[&str] = &[
    "where = 'age != null && age > 0'\ncolumn.mail = { hash = true }",
    "where = \"mail != null && mail.startsWith('a') || k > 3\"\ncolumn.note = { partial = { first = 1 } }",
    "where = 'k > 2'\ncolumn.k = { hash = true, cast = 'text', name = 'key' }\ndrop = ['mail']",
    "column.sum = { expression = \"(age == null ? 0 : age) + size(note)\" }\ncolumn.region = { constant = 'eu' }",
    "column.k = { expression = 'k * 10' }\ncolumn.note = { regex = '[aeiou]', with = '_' }\ncolumn.age = { null = true }",
];

proptest! {
    /// What changes make of an empty target is what the rules make of the rows at the end.
    #[test]
    fn changes_come_to_the_rows_of_the_end(steps in steps(), set in 0..SETS.len(), is_full: bool, moves in prop::collection::vec(0u8..6, 60)) {
        let identity = if is_full { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
        let columns = [("k", 20), ("mail", 25), ("age", 23), ("note", 25)];
        let relation = relation(identity, 1, &columns);
        let Ok(shaped) = shaped(SETS[set], &relation) else {
            prop_assert!(!is_full, "with all of the old rows all is known");
            return Ok(());
        };
        let text = |key: u8, row: &(Option<String>, Option<i8>, String)| -> Vec<String> {
            let age = row.1.map_or("-".to_owned(), |age| age.to_string());
            let word = |text: &str| if text.is_empty() { "e".to_owned() } else { format!("{text}.") };
            vec![key.to_string(), row.0.as_deref().map_or("-".to_owned(), word), age, word(&row.2)]
        };
        let buffer = |cells: &[String]| row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut source, mut target) = (BTreeMap::<u8, Vec<String>>::new(), Target::new());
        for ((key, step), to) in steps.iter().zip(moves) {
            let before = source.get(key).cloned();
            let key_of = |cells: &[String]| buffer(&[cells[0].clone(), "-".into(), "-".into(), "-".into()]);
            let mut spare = Spare::default();
            let old = before.as_ref().map(|cells| if is_full { buffer(cells) } else { key_of(cells) });
            let old_of = |moved: bool| match &old {
                Some(row) if is_full => Old::Row(row.tuple()),
                Some(row) if moved => Old::Key(row.tuple()),
                _ => Old::Absent,
            };
            match (before, step) {
                (None, None) => {}
                (None, Some(values)) => {
                    let cells = text(*key, values);
                    let new = buffer(&cells);
                    let change = Message::Insert { relation: 7, new: new.tuple() };
                    happen(&mut target, shaped.relation(), shaped.change(&change, BEGIN, &mut spare).unwrap());
                    source.insert(*key, cells);
                }
                (Some(before), Some(values)) => {
                    let to = if source.contains_key(&to) { *key } else { to };
                    let cells = text(to, values);
                    // As the source does: what is long and did not change is not sent, where the old row has it.
                    let mut sent = cells.clone();
                    if is_full && before[3] == cells[3] {
                        sent[3] = "u".into();
                    }
                    let new = buffer(&sent);
                    let change = Message::Update { relation: 7, old: old_of(to != *key), new: new.tuple() };
                    happen(&mut target, shaped.relation(), shaped.change(&change, BEGIN, &mut spare).unwrap());
                    source.remove(key);
                    source.insert(to, cells);
                }
                (Some(_), None) => {
                    let change = Message::Delete { relation: 7, old: old_of(true) };
                    happen(&mut target, shaped.relation(), shaped.change(&change, BEGIN, &mut spare).unwrap());
                    source.remove(key);
                }
            }
        }
        let mut rows: Vec<String> = Vec::new();
        for cells_of in source.values() {
            let (values, mut into) = (cells_of.iter().map(|cell| value(cell)).collect::<Vec<_>>(), TupleBuffer::default());
            if shaped.row(&values, &mut into).unwrap() {
                rows.push(cells(into.tuple()));
            }
        }
        let mut there: Vec<String> = target.into_values().collect();
        rows.sort();
        there.sort();
        prop_assert_eq!(there, rows);
    }
}
