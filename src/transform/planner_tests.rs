//! Cases of the planner: a definition, a target and a change give SQL and parameters.

use super::super::{ColumnType, Equality, Found, Generated, Referring, TargetColumn, TypeKind};
use super::*;
use crate::model::{Column, ReplicaIdentity};
use crate::pgoutput::decode;

const PLAIN: TargetColumn = TargetColumn {
    name: String::new(),
    type_name: String::new(),
    column_type: ColumnType {
        oid: 25,
        element: 0,
        modifier: -1,
        kind: TypeKind::Other,
        name: String::new(),
        sql: String::new(),
    },
    declared_oid: 25,
    castable: true,
    has_send: false,
    must_be_given: false,
    generated: Generated::No,
    identity: Identity::No,
    equality: Equality { operator_schema: None, exact: true, record: false },
};

pub(super) fn column(name: &str) -> TargetColumn {
    TargetColumn { name: name.into(), type_name: "text".into(), ..PLAIN }
}

pub(super) fn target(columns: Vec<TargetColumn>) -> TargetTable {
    TargetTable {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        partitioned: false,
        root: None,
        columns,
        fires: false,
        unique: vec![vec!["id".into()]],
        apart: Vec::new(),
        primary_key: Vec::new(),
        family: vec![1],
        referring: Vec::new(),
    }
}

/// The target has this table, and the log's types are not told.
fn found(table: TargetTable) -> Found {
    Found { table: Some(table), arriving: Vec::new(), refused: None }
}

/// A relation 9 of columns whose names end in `*` where they are part of the replica identity.
pub(super) fn relation(identity: ReplicaIdentity, columns: &[&str]) -> Relation {
    let columns = columns.iter().map(|name| Column {
        name: name.trim_end_matches('*').into(),
        key: name.ends_with('*'),
        type_oid: 25,
        type_modifier: -1,
    });
    Relation { oid: 9, schema: "public".into(), name: "t".into(), identity, columns: columns.collect() }
}

/// `-` is null, `?` unchanged, what begins with a backslash in binary form, anything else text.
fn tuple(values: &[&str]) -> Vec<u8> {
    let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        match *value {
            "-" => bytes.push(b'n'),
            "?" => bytes.push(b'u'),
            text => {
                bytes.push(if text.starts_with('\\') { b'b' } else { b't' });
                bytes.extend((text.len() as u32).to_be_bytes());
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

pub(super) fn message(parts: &[(&str, &[&str])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, values) in parts {
        let mut tags = tag.bytes();
        if bytes.is_empty() {
            bytes.extend(tags.next());
            bytes.extend(9u32.to_be_bytes());
        }
        bytes.extend(tags);
        bytes.extend(tuple(values));
    }
    bytes
}

#[track_caller]
fn check(relation: Relation, target: TargetTable, change: &[(&str, &[&str])], expected: &str) {
    let mut planner = Planner::default();
    let bytes = message(change);
    let mut parameters = Parameters::default();
    planner.define(relation);
    assert!(matches!(planner.plan(&decode(&bytes).unwrap(), &mut parameters), Ok(Step::LookUp(9))));
    let planned = planner
        .bind(9, found(target), &Choice::default())
        .and_then(|_| planner.plan(&decode(&bytes).unwrap(), &mut parameters))
        .map(|step| match step {
            Step::Execute(statement) => Some(statement.sql.to_string()),
            _ => None,
        });
    let shown = match planned {
        Ok(Some(sql)) => {
            let values = parameters.values().iter();
            let values = values.map(|value| value.map_or("-".into(), |text| String::from_utf8_lossy(text)));
            format!("{sql} | {}", values.collect::<Vec<_>>().join(" "))
        }
        Ok(None) => "nothing".into(),
        Err(refusal) => format!("refused: {}", refusal.message),
    };
    assert_eq!(shown.replace('"', ""), expected);
}

pub(super) fn keyed() -> Relation {
    relation(ReplicaIdentity::Default, &["id*", "a", "b"])
}

fn plain() -> TargetTable {
    target(vec![column("b"), column("extra"), column("a"), column("id")])
}

#[test]
fn inserts_by_name() {
    check(
        keyed(),
        plain(),
        &[("IN", &["1", "-", "x"])],
        "INSERT INTO public.t (id, a, b) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3) | 1 - x",
    );
}

#[test]
fn updates_what_was_sent() {
    check(
        keyed(),
        plain(),
        &[("UN", &["1", "y", "?"])],
        "UPDATE ONLY public.t SET a = $1 WHERE id = $2 | y 1",
    );
    check(
        keyed(),
        plain(),
        &[("UN", &["1", "?", "?"])],
        "UPDATE ONLY public.t SET id = $1 WHERE id = $2 | 1 1",
    );
}

#[test]
fn moves_a_key() {
    check(
        keyed(),
        plain(),
        &[("UK", &["1", "-", "-"]), ("N", &["2", "y", "?"])],
        "UPDATE ONLY public.t SET id = $1, a = $2 WHERE id = $3 | 2 y 1",
    );
}

#[test]
fn deletes_by_key() {
    check(keyed(), plain(), &[("DK", &["1", "-", "-"])], "DELETE FROM ONLY public.t WHERE id = $1 | 1");
    let partitioned = TargetTable { partitioned: true, ..plain() };
    check(keyed(), partitioned, &[("DK", &["1", "-", "-"])], "DELETE FROM public.t WHERE id = $1 | 1");
}

fn binary(name: &str, oid: u32) -> TargetColumn {
    let column_type = ColumnType { oid, ..column(name).column_type };
    TargetColumn { has_send: true, column_type, declared_oid: oid, ..column(name) }
}

#[test]
fn values_in_binary_form_go_to_columns_of_the_same_type() {
    let alike = || target(vec![binary("id", 25), binary("a", 25), binary("b", 25)]);
    let insert = "INSERT INTO public.t (id, a, b) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3)";
    check(keyed(), alike(), &[("IN", &["\\1", "-", "\\x"])], &format!("{insert} | \\1 - \\x"));
    check(
        keyed(),
        alike(),
        &[("UN", &["\\1", "\\y", "?"])],
        "UPDATE ONLY public.t SET a = $1 WHERE id = $2 | \\y \\1",
    );
    let mixed = "refused: table public.t: a row has values in text and in binary form";
    check(keyed(), alike(), &[("IN", &["\\1", "-", "x"])], mixed);
    let other = || target(vec![binary("id", 25), binary("a", 25), binary("b", 23)]);
    let refused = "refused: column b of table public.t came in binary form; it is TYPE on the source and text on the target";
    check(keyed(), other(), &[("IN", &["\\1", "-", "\\x"])], refused);
    check(keyed(), other(), &[("IN", &["\\1", "-", "-"])], &format!("{insert} | \\1 - -"));
    check(keyed(), other(), &[("IN", &["1", "-", "x"])], &format!("{insert} | 1 - x"));
    check(keyed(), other(), &[("DK", &["\\1", "-", "-"])], "DELETE FROM ONLY public.t WHERE id = $1 | \\1");
    let inexact = TargetColumn { equality: Equality::default(), ..binary("b", 25) };
    check(
        relation(ReplicaIdentity::Full, &["id*", "a*", "b*"]),
        target(vec![binary("id", 25), binary("a", 25), inexact]),
        &[("DO", &["\\1", "-", "\\x"])],
        "WITH one AS MATERIALIZED (SELECT ctid AS row, tableoid AS part FROM ONLY public.t WHERE id = $1 AND a IS NULL \
         AND (b IS NOT NULL AND pg_catalog.format('%s', b) COLLATE pg_catalog.C \
         = pg_catalog.format('%s', $2) COLLATE pg_catalog.C) LIMIT 1) \
         DELETE FROM ONLY public.t AS t USING one WHERE t.ctid = one.row AND t.tableoid = one.part | \\1 \\x",
    );
}

#[test]
fn parameters_in_binary_form_have_their_types() {
    let mut planner = Planner::default();
    planner.define(keyed());
    let array = ColumnType { element: 25, ..column("b").column_type };
    let array = TargetColumn { column_type: array, ..binary("b", 25) };
    let table = target(vec![binary("id", 25), binary("a", 25), array]);
    planner.bind(9, found(table), &Choice::default()).unwrap();
    let mut planned = |change: &[(&str, &[&str])]| {
        let bytes = message(change);
        match planner.plan(&decode(&bytes).unwrap(), &mut Parameters::default()) {
            Ok(Step::Execute(statement)) => statement.clone(),
            other => panic!("{other:?}"),
        }
    };
    let update = planned(&[("UN", &["\\1", "\\y", "?"])]);
    assert_eq!((update.format, &*update.types), (Format::Binary, &[25, 25][..]));
    let many = update.many.unwrap();
    assert_eq!(many.elements, [25, 25]);
    assert_eq!(
        many.sql.replace('"', ""),
        "UPDATE ONLY public.t AS t SET a = r.c1 FROM unnest($1::text[], $2::text[]) AS r (c1, c2) WHERE t.id = r.c2"
    );
    // An array of arrays would be one array.
    assert!(planned(&[("UN", &["\\1", "\\y", "\\z"])]).many.is_none());
    let as_text = planned(&[("UN", &["1", "y", "?"])]);
    assert_eq!((as_text.format, as_text.types.len()), (Format::Text, 0));
    assert!(as_text.many.is_some() && as_text.id != update.id);
    let copy = planner.copy(9, Format::Binary).unwrap();
    assert!(copy.sql.ends_with("FROM STDIN WITH (FORMAT binary)"), "{}", copy.sql);
    let check = copy.check.as_ref().unwrap();
    assert!(check.sql.contains("pg_catalog.pg_typeof(r.\"a\") = 25::pg_catalog.regtype"), "{}", check.sql);
    assert!(planner.copy(9, Format::Text).unwrap().check.is_none());
}

#[test]
fn finds_one_of_equal_rows() {
    let inexact = TargetColumn { equality: Equality::default(), ..column("b") };
    check(
        relation(ReplicaIdentity::Full, &["id*", "a*", "b*"]),
        target(vec![column("id"), column("a"), inexact]),
        &[("DO", &["1", "-", "1.0"])],
        "WITH one AS MATERIALIZED (SELECT ctid AS row, tableoid AS part FROM ONLY public.t WHERE id = $1 AND a IS NULL \
         AND (b IS NOT NULL AND pg_catalog.format('%s', b) COLLATE pg_catalog.C = $2) LIMIT 1) \
         DELETE FROM ONLY public.t AS t USING one WHERE t.ctid = one.row AND t.tableoid = one.part | 1 1.0",
    );
}

#[test]
fn whole_rows_use_the_targets_key() {
    let keyed = TargetTable { primary_key: vec!["id".into()], ..plain() };
    check(
        relation(ReplicaIdentity::Full, &["id*", "a*"]),
        keyed,
        &[("UO", &["1", "-"]), ("N", &["2", "z"])],
        "UPDATE ONLY public.t SET id = $1, a = $2 WHERE id = $3 | 2 z 1",
    );
}

#[test]
fn identity_always_is_never_set() {
    let always = || TargetColumn { identity: Identity::Always, ..column("id") };
    check(
        keyed(),
        target(vec![always(), column("a"), column("b")]),
        &[("UN", &["1", "x", "y"])],
        "UPDATE ONLY public.t SET a = $1, b = $2 WHERE id = $3 | x y 1",
    );
    check(
        keyed(),
        target(vec![always(), column("a"), column("b"), column("extra")]),
        &[("UK", &["1", "-", "-"]), ("N", &["2", "x", "?"])],
        "WITH old AS (DELETE FROM ONLY public.t WHERE id = $1 RETURNING *) INSERT INTO public.t (id, a, b, extra) \
         OVERRIDING SYSTEM VALUE SELECT $2, $3, old.b, old.extra FROM old | 1 2 x",
    );
    let unkeyed = TargetColumn { identity: Identity::Always, ..column("b") };
    check(
        keyed(),
        target(vec![column("id"), column("a"), unkeyed]),
        &[("UN", &["1", "x", "7"])],
        "UPDATE ONLY public.t SET a = $1 WHERE id = $2 AND b = $3 | x 1 7",
    );
}

#[test]
fn generated_columns_are_left_to_the_target() {
    let generated = TargetColumn { generated: Generated::Yes, ..column("b") };
    check(
        keyed(),
        target(vec![column("id"), column("a"), generated]),
        &[("IN", &["1", "2", "3"])],
        "INSERT INTO public.t (id, a) OVERRIDING SYSTEM VALUE VALUES ($1, $2) | 1 2",
    );
}

#[test]
fn extension_types_compare_by_their_own_operator() {
    let citext = Equality { operator_schema: Some("ext".into()), ..Equality::default() };
    check(
        keyed(),
        target(vec![TargetColumn { equality: citext, ..column("id") }, column("a"), column("b")]),
        &[("DK", &["A", "-", "-"])],
        "DELETE FROM ONLY public.t WHERE id OPERATOR(ext.=) $1 | A",
    );
}

#[test]
fn refuses_what_it_cannot_say() {
    let lacking = target(vec![column("id"), column("a")]);
    check(
        keyed(),
        lacking,
        &[("IN", &["1", "2", "3"])],
        "refused: table public.t on the target has no column b, which the change needs",
    );
    check(
        relation(ReplicaIdentity::Nothing, &["id", "a", "b"]),
        plain(),
        &[("UN", &["1", "2", "3"])],
        "refused: an UPDATE or DELETE of public.t names no key columns",
    );
    check(
        keyed(),
        plain(),
        &[("IN", &["1", "2"])],
        "refused: a row of public.t has 2 columns where its definition has 3",
    );
    check(
        keyed(),
        plain(),
        &[("IN", &["1", "?", "3"])],
        "refused: table public.t: a value that is needed was not sent (unchanged TOAST)",
    );
}

#[test]
fn truncates_all_tables_at_once() {
    let mut planner = Planner::default();
    let other = Relation { oid: 10, name: "u".into(), ..keyed() };
    for (relation, name) in [(keyed(), "t"), (other, "u")] {
        let oid = relation.oid;
        planner.define(relation);
        planner.bind(oid, found(TargetTable { name: name.into(), ..plain() }), &Choice::default()).unwrap();
    }
    let bytes = b"T\0\0\0\x02\x03\0\0\0\x09\0\0\0\x0A";
    let mut parameters = Parameters::default();
    let Ok(Step::Execute(statement)) = planner.plan(&decode(bytes).unwrap(), &mut parameters) else {
        panic!("not planned")
    };
    assert_eq!(&*statement.sql, "TRUNCATE ONLY \"public\".\"t\", ONLY \"public\".\"u\" RESTART IDENTITY");
}

#[test]
fn a_part_of_a_truncate_that_is_referred_to_is_deleted() {
    let mut planner = Planner::default();
    let referring = |oid| Referring { oid, name: format!("of {oid}") };
    let other = Relation { oid: 10, name: "u".into(), ..keyed() };
    for (relation, at, by) in [(keyed(), 1, vec![2]), (other, 2, vec![1, 3])] {
        let (oid, name) = (relation.oid, relation.name.clone());
        planner.define(relation);
        let by = by.into_iter().map(referring).collect();
        let table = TargetTable { oid: at, name, family: vec![at], referring: by, ..plain() };
        planner.bind(oid, found(table), &Choice::default()).unwrap();
    }
    let mut check = |relations: &[u32], is_part, begins: &str, referring: &[&str]| {
        let truncate = Truncate {
            relations: relations.to_vec(),
            cascade: false,
            restart_identity: relations.len() == 1,
        };
        assert_eq!(planner.referring(&truncate), referring);
        let mut parameters = Parameters::default();
        let planned = match is_part {
            true => planner.plan_rest(&truncate, &mut parameters),
            false => planner.plan(&Message::Truncate(truncate), &mut parameters),
        };
        let Ok(Step::Execute(statement)) = planned else { panic!("not planned") };
        assert!(statement.sql.starts_with(begins), "{}", statement.sql);
        assert_eq!(statement.sql.contains("ALTER SEQUENCE"), begins == "DO " && relations.len() == 1);
    };
    check(&[9], false, "TRUNCATE ", &["of 2"]);
    check(&[9], true, "DO ", &["of 2"]);
    check(&[9, 10], false, "TRUNCATE ", &["of 3"]);
    check(&[9, 10], true, "DO ", &["of 3"]);
    planner.leave_out(10);
    let whole = Truncate { relations: vec![9, 10], cascade: false, restart_identity: false };
    let mut parameters = Parameters::default();
    let Ok(Step::Execute(statement)) = planner.plan(&Message::Truncate(whole), &mut parameters) else {
        panic!("not planned")
    };
    assert!(statement.sql.starts_with("DO ") && !statement.sql.contains("\"u\""), "{}", statement.sql);
}

#[test]
fn statements_are_reused_until_the_definition_changes() {
    let mut planner = Planner::default();
    let id_of = |planner: &mut Planner, change: &[(&str, &[&str])]| {
        let bytes = message(change);
        let mut parameters = Parameters::default();
        match planner.plan(&decode(&bytes).unwrap(), &mut parameters).unwrap() {
            Step::Execute(statement) => Some(statement.id),
            _ => None,
        }
    };
    planner.define(keyed());
    planner.bind(9, found(plain()), &Choice::default()).unwrap();
    let first = id_of(&mut planner, &[("UN", &["1", "x", "y"])]);
    assert_eq!(first, id_of(&mut planner, &[("UN", &["2", "-", "z"])]));
    assert_ne!(first, id_of(&mut planner, &[("UN", &["2", "?", "z"])]));
    planner.define(keyed());
    assert_eq!(first, id_of(&mut planner, &[("UN", &["3", "x", "y"])]));
    planner.define(relation(ReplicaIdentity::Default, &["id*", "a", "c"]));
    assert_eq!(None, id_of(&mut planner, &[("UN", &["3", "x", "y"])]));
}

/// The statement for many rows of a change.
#[track_caller]
fn many(target: TargetTable, change: &[(&str, &[&str])]) -> Option<String> {
    let mut planner = Planner::default();
    planner.define(keyed());
    planner.bind(9, found(target), &Choice::default()).unwrap();
    let bytes = message(change);
    match planner.plan(&decode(&bytes).unwrap(), &mut Parameters::default()).unwrap() {
        Step::Execute(statement) => statement.many.as_ref().map(|many| many.sql.replace('"', "")),
        _ => None,
    }
}

#[test]
fn what_is_found_by_a_key_has_a_form_for_many_rows() {
    let update: &[(&str, &[&str])] = &[("UN", &["1", "y", "z"])];
    assert_eq!(
        many(plain(), update).unwrap(),
        "UPDATE ONLY public.t AS t SET a = r.c1, b = r.c2 \
         FROM (SELECT c1::text AS c1, c2::text AS c2, c3::text AS c3 \
         FROM unnest($1::text[], $2::text[], $3::text[]) AS u (c1, c2, c3)) AS r WHERE t.id = r.c3"
    );
    assert_eq!(
        many(plain(), &[("DK", &["1", "-", "-"])]).unwrap(),
        "DELETE FROM ONLY public.t AS t USING (SELECT c1::text AS c1 FROM unnest($1::text[]) AS u (c1)) AS r \
         WHERE t.id = r.c1"
    );
    assert_eq!(many(plain(), &[("IN", &["1", "y", "z"])]), None);
    let mut other_cast = plain();
    other_cast.columns.iter_mut().for_each(|column| column.castable = column.name != "b");
    assert_eq!(many(other_cast, update), None);
}

#[test]
fn rows_are_folded_by_their_key_unless_something_looks_at_each() {
    #[track_caller]
    fn check(relation: Relation, target: TargetTable, expected: Option<(&[usize], bool)>) {
        let mut planner = Planner::default();
        planner.define(relation);
        planner.bind(9, found(target), &Choice::default()).unwrap();
        let bytes = message(&[("IN", &["1", "y", "z"])]);
        let way = planner.way(&decode(&bytes).unwrap()).unwrap();
        let key = match way {
            Way::Fold(9, key) => Some((key.columns.as_slice(), key.is_whole)),
            Way::Alone => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(key, expected);
    }
    let full = || relation(ReplicaIdentity::Full, &["id*", "a*", "b*"]);
    let mut whole = plain();
    whole.columns.retain(|column| column.name != "extra");
    check(keyed(), plain(), Some((&[0], false)));
    check(keyed(), whole.clone(), Some((&[0], true)));
    check(full(), whole.clone(), Some((&[], true)));
    check(
        full(),
        TargetTable { primary_key: vec!["b".into(), "id".into()], ..whole.clone() },
        Some((&[0, 2], true)),
    );
    check(keyed(), TargetTable { fires: true, ..whole }, None);
}
