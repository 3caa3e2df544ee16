//! Cases of a target that lacks something: a definition, a table and a change give SQL, or a refusal with the DDL.

use super::super::{ColumnType, Found, TargetColumn, TargetTable, TypeKind};
use super::tests::{column, keyed, message, relation, target};
use super::*;
use crate::model::ReplicaIdentity;
use crate::pgoutput::decode;

const TEXT: u32 = 25;
const INTEGER: u32 = 23;

fn of(oid: u32, sql: &str) -> Option<ColumnType> {
    Some(ColumnType { oid, modifier: -1, sql: sql.into(), kind: TypeKind::Other, ..ColumnType::default() })
}

/// What comes of the change, without quotes: the SQL, or the refusal, its hint and the statement that adds columns.
#[track_caller]
fn plan(
    relation: Relation,
    table: Option<TargetTable>,
    arriving: &[Option<ColumnType>],
    choice: &Choice,
    change: &[(&str, &[&str])],
) -> (String, String, Option<String>) {
    let mut planner = Planner::default();
    let mut parameters = Parameters::default();
    let oid = relation.oid;
    planner.define(relation);
    planner.bind(oid, Found { table, arriving: arriving.to_vec(), refused: None }, choice).unwrap();
    let bytes = message(change);
    let plain = |text: &str| text.replace('"', "");
    match planner.plan(&decode(&bytes).unwrap(), &mut parameters) {
        Ok(Step::Execute(statement)) => (plain(&statement.sql), String::new(), None),
        Ok(_) => ("nothing".into(), String::new(), None),
        Err(refusal) => {
            let hint = refusal.hint.unwrap_or_default();
            (plain(&refusal.message), plain(&hint), refusal.add_columns.map(|sql| plain(&sql)))
        }
    }
}

const INSERT: &[(&str, &[&str])] = &[("IN", &["1", "2", "3"])];

fn types() -> [Option<ColumnType>; 3] {
    [of(INTEGER, "integer"), of(TEXT, "text"), of(INTEGER, "integer")]
}

fn id() -> TargetColumn {
    TargetColumn { column_type: of(INTEGER, "integer").unwrap(), ..column("id") }
}

#[test]
fn a_column_at_the_end_can_be_added() {
    let (message, hint, add) =
        plan(keyed(), Some(target(vec![id(), column("a")])), &types(), &Choice::default(), INSERT);
    assert_eq!(message, "table public.t on the target has no column b, which the change needs");
    assert_eq!(
        hint,
        "on the target: ALTER TABLE public.t ADD COLUMN b integer; then run the same command again"
    );
    assert_eq!(add.unwrap(), "ALTER TABLE public.t ADD COLUMN IF NOT EXISTS b integer");
}

#[test]
fn a_column_that_may_have_been_renamed_is_not_added() {
    let add = |table| plan(keyed(), Some(target(table)), &types(), &Choice::default(), INSERT).2;
    let number = |name: &str| TargetColumn { name: name.into(), ..id() };
    assert!(add(vec![id(), column("a")]).is_some());
    assert!(add(vec![id(), column("a"), column("other")]).is_some());
    assert!(add(vec![id(), column("a"), number("other")]).is_none());
    // Not at the end.
    assert!(add(vec![id(), number("b")]).is_none());
    let renamed = plan(
        keyed(),
        Some(target(vec![id(), column("before"), number("b")])),
        &types(),
        &Choice::default(),
        INSERT,
    );
    assert!(renamed.1.contains("ALTER TABLE public.t RENAME COLUMN before TO a;"), "{}", renamed.1);
}

#[test]
fn a_column_of_an_absent_type_is_not_added() {
    let arriving = [of(INTEGER, "integer"), of(TEXT, "text"), of(0, "app.mood")];
    let (message, _, add) =
        plan(keyed(), Some(target(vec![id(), column("a")])), &arriving, &Choice::default(), INSERT);
    assert!(message.ends_with("type app.mood does not exist on the target, create it first"), "{message}");
    assert_eq!(add, None);
}

#[test]
fn only_changes_that_need_a_column_are_refused() {
    let table = || Some(target(vec![id(), column("a")]));
    let planned = |change| plan(keyed(), table(), &types(), &Choice::default(), change).0;
    assert_eq!(planned(&[("DK", &["1", "-", "-"])]), "DELETE FROM ONLY public.t WHERE id = $1");
    assert!(planned(&[("UN", &["1", "2", "?"])]).contains("no column b"));
    let lossy = Some(target(vec![TargetColumn { column_type: of(1082, "date").unwrap(), ..id() }]));
    let (message, ..) = plan(keyed(), lossy, &types(), &Choice::default(), &[("DK", &["1", "-", "-"])]);
    assert!(message.contains("column id of table public.t is integer on the source and date"), "{message}");
}

#[test]
fn a_missing_table_is_described() {
    let (message, hint, add) = plan(keyed(), None, &types(), &Choice::default(), INSERT);
    assert_eq!(message, "table public.t does not exist on the target");
    assert!(
        hint.contains("CREATE TABLE public.t (id integer, a text, b integer, PRIMARY KEY (id));"),
        "{hint}"
    );
    assert_eq!(add, None);
    let truncate = b"T\0\0\0\x01\0\0\0\0\x09";
    let mut planner = Planner::default();
    planner.define(keyed());
    planner.define(Relation { name: "now".into(), ..keyed() });
    planner.bind(9, Found { table: None, arriving: Vec::new(), refused: None }, &Choice::default()).unwrap();
    let refusal = planner.plan(&decode(truncate).unwrap(), &mut Parameters::default()).unwrap_err();
    assert!(refusal.hint.unwrap().contains("ALTER TABLE \"public\".\"t\" RENAME TO \"now\";"));
}

#[test]
fn left_out_columns_are_neither_written_nor_compared() {
    let ignore = Choice { ignore_extra: true, ..Choice::default() };
    let table = || Some(target(vec![id(), column("a")]));
    assert_eq!(
        plan(keyed(), table(), &types(), &ignore, INSERT).0,
        "INSERT INTO public.t (id, a) OVERRIDING SYSTEM VALUE VALUES ($1, $2)"
    );
    assert_eq!(
        plan(keyed(), table(), &types(), &ignore, &[("UN", &["1", "2", "3"])]).0,
        "UPDATE ONLY public.t SET a = $1 WHERE id = $2"
    );
    let full = relation(ReplicaIdentity::Full, &["id*", "a*", "b*"]);
    let found = plan(full, table(), &types(), &ignore, &[("DO", &["1", "2", "-"])]).0;
    assert!(found.contains("WHERE id = $1 AND a = $2 LIMIT 1"), "{found}");
    let chosen = Choice { columns: Some(vec!["id".into(), "b".into()]), ..Choice::default() };
    let whole = Some(target(vec![id(), column("a"), TargetColumn { name: "b".into(), ..id() }]));
    assert_eq!(
        plan(keyed(), whole, &types(), &chosen, INSERT).0,
        "INSERT INTO public.t (id, b) OVERRIDING SYSTEM VALUE VALUES ($1, $2)"
    );
}

#[test]
fn the_key_is_never_left_out() {
    let ignore = Choice { ignore_extra: true, ..Choice::default() };
    let (message, ..) = plan(keyed(), Some(target(vec![column("a")])), &types(), &ignore, INSERT);
    assert!(message.contains("no column id"), "{message}");
    let chosen = Choice { columns: Some(vec!["a".into()]), ..Choice::default() };
    let (message, ..) = plan(keyed(), Some(target(vec![id(), column("a")])), &types(), &chosen, INSERT);
    assert!(message.contains("column id is part of the key of public.t"), "{message}");
    let (message, ..) = plan(keyed(), Some(target(vec![column("z")])), &types(), &ignore, INSERT);
    assert!(message.contains("no column id"), "{message}");
}
