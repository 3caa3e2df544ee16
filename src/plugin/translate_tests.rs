use super::*;
use crate::model::{ColumnFacts, Lsn};
use crate::plugin::{test_decoding, wal2json};

/// The transaction that speaks; snapshots of [`answer`] have seen it.
const XID: Xid = Xid(100);

fn column(name: &str, type_name: &str, type_oid: u32, key: bool) -> ColumnFacts {
    ColumnFacts {
        name: name.into(),
        type_oid,
        type_name: type_name.into(),
        type_modifier: -1,
        user_type: (type_oid >= 16384).then(|| ("public".into(), type_name.into())),
        key,
        left_out: false,
        toastable: type_name == "text",
    }
}

/// `public.t(id integer primary key, note text, n integer)`.
fn facts() -> TableFacts {
    TableFacts {
        oid: 5,
        published: true,
        partitioned: false,
        identity: ReplicaIdentity::Default,
        columns: vec![
            column("id", "integer", 23, true),
            column("note", "text", 25, false),
            column("n", "integer", 23, false),
        ],
    }
}

fn full() -> TableFacts {
    let mut facts = facts();
    facts.identity = ReplicaIdentity::Full;
    facts.columns.iter_mut().for_each(|column| column.key = true);
    facts
}

fn answer(table: Option<TableFacts>) -> Answer {
    let seen = VisibleXids { min: Xid(101), max: Xid(101), running: vec![] };
    let types = [("integer", Some(23)), ("text", Some(25)), ("gone", None)];
    let types = types.map(|(name, oid)| (name.to_owned(), oid)).into();
    Answer { seen, everything: true, table, types }
}

fn name(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

fn knowing(answer: Answer) -> Translator {
    let mut translator = Translator { xid: XID, ..Translator::new(Published::default()) };
    translator.learn(name("t"), answer);
    translator
}

/// A message as one line.
fn shown(bytes: &[u8]) -> String {
    let row = |tuple: &pgoutput::Tuple<'_>| {
        let values = tuple.values().map(|value| match value {
            Value::Null => "null".into(),
            Value::Unchanged => "unchanged".into(),
            Value::Text(text) | Value::Binary(text) => String::from_utf8_lossy(text).into_owned(),
        });
        values.collect::<Vec<_>>().join(",")
    };
    let old = |old: &Old<'_>| match old {
        Old::Absent => String::new(),
        Old::Key(key) => format!(" key {}", row(key)),
        Old::Row(whole) => format!(" old {}", row(whole)),
    };
    use pgoutput::Message::{Delete, Insert, Relation, Truncate, Type, Update};
    match pgoutput::decode(bytes).unwrap() {
        Relation(relation) => {
            let column = |column: &crate::model::Column| {
                format!("{}{}:{}", column.name, if column.key { "*" } else { "" }, column.type_oid)
            };
            let columns: Vec<_> = relation.columns.iter().map(column).collect();
            let full = if relation.identity == ReplicaIdentity::Full { " full" } else { "" };
            format!("{} is {}({}){full}", relation.oid, relation.name, columns.join(","))
        }
        Type { oid, schema, name } => format!("{oid} is type {schema}.{name}"),
        Insert { relation, new } => format!("{relation} + {}", row(&new)),
        Update { relation, old: before, new } => format!("{relation} ={} new {}", old(&before), row(&new)),
        Delete { relation, old: before } => format!("{relation} -{}", old(&before)),
        Truncate(truncate) => format!("truncate {:?}", truncate.relations),
        other => format!("{other:?}"),
    }
}

/// What comes of a text, joined by `; `, or `?` where more must be known, or `!` and the refusal.
fn say(translator: &mut Translator, text: &str) -> String {
    let message = match text.starts_with('{') {
        true => wal2json::parse(text.as_bytes(), false).unwrap(),
        false => test_decoding::parse(text.as_bytes(), Lsn(9)).unwrap(),
    };
    match translator.take(&message) {
        Ok(Outcome::Said) => translator.messages().map(shown).collect::<Vec<_>>().join("; "),
        Ok(Outcome::LookUp(question)) => format!("? {}", question.table),
        Err(refusal) => format!("! {}", refusal.message),
    }
}

#[track_caller]
fn check(answer: Answer, text: &str, expected: &str) {
    let mut translator = knowing(answer);
    let said = say(&mut translator, text);
    match expected.strip_prefix('!') {
        Some(words) => assert!(said.starts_with('!') && said.contains(words), "{text}: {said}"),
        None => assert_eq!(said, expected, "{text}"),
    }
}

const IS_T: &str = "5 is t(id*:23,note:25,n:23)";
const IS_FULL: &str = "5 is t(id*:23,note*:25,n*:23) full";

#[test]
fn changes_that_agree_with_the_catalog() {
    let cases = [
        ("table public.t: INSERT: id[integer]:1 note[text]:'a' n[integer]:null", "5 + 1,a,null"),
        (
            "table public.t: UPDATE: id[integer]:1 note[text]:unchanged-toast-datum n[integer]:2",
            "5 = new 1,unchanged,2",
        ),
        (
            "table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 note[text]:'' n[integer]:2",
            "5 = key 1,null,null new 2,,2",
        ),
        ("table public.t: DELETE: id[integer]:1", "5 - key 1,null,null"),
    ];
    for (text, expected) in cases {
        check(answer(Some(facts())), text, &format!("{IS_T}; {expected}"));
    }
    let cases = [
        (
            "table public.t: UPDATE: old-key: id[integer]:1 n[integer]:3 new-tuple: id[integer]:1 note[text]:'' n[integer]:2",
            "5 = old 1,null,3 new 1,,2",
        ),
        ("table public.t: DELETE: note[text]:'x'", "5 - old null,x,null"),
        ("table public.t: DELETE:", "5 - old null,null,null"),
    ];
    for (text, expected) in cases {
        check(answer(Some(full())), text, &format!("{IS_FULL}; {expected}"));
    }
}

#[test]
fn wal2json_leaves_out_what_did_not_change() {
    let update = |identity: &str| {
        format!(
            r#"{{"action":"U","schema":"public","table":"t","columns":[{{"name":"id","typeoid":23,"value":1}},{{"name":"n","typeoid":23,"value":null}}],"identity":[{{"name":"id","typeoid":23,"value":{identity}}}]}}"#
        )
    };
    check(answer(Some(facts())), &update("1"), &format!("{IS_T}; 5 = new 1,unchanged,null"));
    check(answer(Some(facts())), &update("7"), &format!("{IS_T}; 5 = key 7,null,null new 1,unchanged,null"));
    // A number can't be left out: it was not there then.
    let mut later = facts();
    later.columns.push(column("later", "integer", 23, false));
    check(answer(Some(later)), &update("1"), "5 is t(id*:23,n:23); 5 = new 1,null");
}

#[test]
fn definitions_are_given_once_and_again_when_they_change() {
    let mut translator = knowing(answer(Some(facts())));
    let delete = "table public.t: DELETE: id[integer]:1";
    let gone = "table public.t: DELETE: id[integer]:1 gone[integer]:2";
    assert_eq!(say(&mut translator, delete), format!("{IS_T}; 5 - key 1,null,null"));
    assert_eq!(say(&mut translator, delete), "5 - key 1,null,null");
    assert_eq!(say(&mut translator, gone), "5 is t(id*:23,gone*:23); 5 - key 1,2");
    assert_eq!(say(&mut translator, gone), "5 - key 1,2");
    assert_eq!(say(&mut translator, delete), format!("{IS_T}; 5 - key 1,null,null"));
    translator.forget_announced();
    assert_eq!(say(&mut translator, delete), format!("{IS_T}; 5 - key 1,null,null"));
    // Another table has the id now: what was said of it holds no longer.
    translator.learn(name("u"), answer(Some(facts())));
    assert_eq!(
        say(&mut translator, &delete.replace("public.t", "public.u")),
        "5 is u(id*:23,note:25,n:23); 5 - key 1,null,null"
    );
    assert_eq!(say(&mut translator, delete), "? public.t");
}

#[test]
fn what_the_catalog_does_not_show_yet_is_looked_up_again() {
    let insert = "table public.t: INSERT: id[integer]:1";
    assert_eq!(say(&mut Translator::new(Published::default()), insert), "? public.t");
    let unseen =
        |table| Answer { seen: VisibleXids { min: XID, max: XID, running: vec![] }, ..answer(table) };
    check(unseen(Some(facts())), insert, "? public.t");
    check(unseen(None), insert, "? public.t");
    check(unseen(Some(TableFacts { published: false, ..facts() })), insert, "? public.t");
    check(unseen(None), "table public.t: TRUNCATE: (no-flags)", "? public.t");
    // A key only, or a row whose other values are null.
    check(unseen(Some(full())), "table public.t: DELETE: id[integer]:1", "? public.t");
    // What agrees need not be newer.
    check(
        unseen(Some(facts())),
        "table public.t: DELETE: id[integer]:1",
        &format!("{IS_T}; 5 - key 1,null,null"),
    );
}

#[test]
fn definitions_of_then_are_made_of_the_change() {
    check(
        answer(Some(facts())),
        "table public.t: INSERT: id[integer]:1 old[text]:'x'",
        "5 is t(id*:23,old:25); 5 + 1,x",
    );
    check(
        answer(Some(facts())),
        "table public.t: UPDATE: id[integer]:1 old[text]:'x'",
        "5 is t(id*:23,old:25); 5 = new 1,x",
    );
    let gone = u32::MAX - 1;
    check(
        answer(None),
        "table public.t: UPDATE: old-key: a[integer]:1 new-tuple: a[integer]:2 b[text]:'x'",
        &format!("{gone} is t(a*:23,b:25); {gone} = key 1,null new 2,x"),
    );
    let mut generated = facts();
    generated.columns[2].left_out = true;
    check(
        answer(Some(generated)),
        "table public.t: INSERT: id[integer]:1 n[integer]:7",
        "5 is t(id*:23); 5 + 1",
    );
    check(answer(None), "table public.t: UPDATE: a[integer]:1", "!without its key");
    check(answer(Some(full())), "table public.t: UPDATE: id[integer]:1", "!without its key");
    check(answer(None), "table public.t: INSERT: a[gone]:'x'", "!type gone");
    check(answer(None), "table public.t: INSERT: a[unasked]:'x'", "? public.t");
    check(answer(None), "table public.t: DELETE: (no-tuple-data)", "!without its row");
    check(
        Answer { everything: false, ..answer(None) },
        "table public.t: INSERT: a[integer]:1",
        "!gone from the source",
    );
}

#[test]
fn tables_that_are_not_published_say_nothing() {
    let unpublished = || answer(Some(TableFacts { published: false, ..facts() }));
    check(unpublished(), "table public.t: INSERT: id[integer]:1", "");
    check(unpublished(), "table public.t: DELETE: (no-tuple-data)", "");
    check(unpublished(), "table public.t: TRUNCATE: (no-flags)", "");
}

/// Nobody knows any more when it left the publication.
#[test]
fn tables_that_were_published_are_so_until_a_transaction_that_began_later() {
    let unpublished = || answer(Some(TableFacts { published: false, ..facts() }));
    let of_a_list = |table| Answer { everything: false, ..answer(table) };
    let insert = "table public.t: INSERT: id[integer]:1 note[text]:'a' n[integer]:null";
    let truncate = "table public.t: TRUNCATE: (no-flags)";
    let mut translator = knowing(answer(Some(facts())));
    assert!(translator.learn(name("t"), unpublished()).is_some());
    assert!(translator.learn(name("t"), unpublished()).is_none());
    assert_eq!(say(&mut translator, insert), format!("{IS_T}; 5 + 1,a,null"));
    assert_eq!(say(&mut translator, truncate), "truncate [5]");
    translator.xid = Xid(101);
    assert_eq!(say(&mut translator, insert), "? public.t");
    let later = VisibleXids { min: Xid(102), max: Xid(102), running: vec![] };
    translator.learn(name("t"), Answer { seen: later, ..unpublished() });
    assert_eq!(say(&mut translator, insert), "");
    let mut translator = knowing(of_a_list(Some(facts())));
    translator.learn(name("t"), of_a_list(None));
    let gone = u32::MAX - 1;
    assert_eq!(say(&mut translator, insert), format!("{gone} is t(id:23,note:25,n:23); {gone} + 1,a,null"));
}

#[test]
fn truncates_name_ordinary_tables() {
    let mut translator = knowing(answer(Some(facts())));
    translator.learn(name("root"), answer(Some(TableFacts { oid: 6, partitioned: true, ..facts() })));
    translator.learn(name("gone"), answer(None));
    let gone = u32::MAX - 1;
    assert_eq!(
        say(&mut translator, "table public.root, public.t, public.gone: TRUNCATE: cascade"),
        format!("{IS_T}; {gone} is gone(); truncate [5, {gone}]")
    );
    assert_eq!(say(&mut translator, "table public.t, public.new: TRUNCATE: cascade"), "? public.new");
}

#[test]
fn types_that_are_not_built_in_are_named() {
    let mut facts = facts();
    facts.columns[2] = column("n", "mood", 20000, false);
    check(
        answer(Some(facts)),
        "table public.t: INSERT: id[integer]:1 note[text]:'a' n[mood]:'sad'",
        "20000 is type public.mood; 5 is t(id*:23,note:25,n:20000); 5 + 1,a,sad",
    );
}

#[test]
fn a_doubtful_null_is_refused() {
    let insert = |oid: u32| {
        format!(
            r#"{{"action":"I","schema":"public","table":"t","columns":[{{"name":"id","typeoid":23,"value":1}},{{"name":"note","typeoid":{oid},"value":null}},{{"name":"n","typeoid":23,"value":null}}]}}"#
        )
    };
    let mut numbers = facts();
    numbers.columns[1] = column("note", "numeric", 1700, false);
    check(answer(Some(numbers)), &insert(1700), "!column note of table public.t is null, or NaN");
    check(answer(Some(facts())), &insert(25), &format!("{IS_T}; 5 + 1,null,null"));
}
