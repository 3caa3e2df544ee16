//! A message of the slot: read, shown, and planned for a table of the target. Whatever is read can be walked to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_fuzz::pgoutput::{Message, Old, Tuple, decode, decode_stream, split_streamed};
use pgsluice_fuzz::segment::{peek, relation_name, relation_type_oids, truncated_oids};
use pgsluice_fuzz::transform::{
    Choice, ColumnType, Equality, Found, Generated, Identity, Parameters, Planner, Referring, Step,
    TargetColumn, TargetTable, TypeKind,
};

fuzz_target!(|bytes: &[u8]| {
    let mut planner = Planner::default();
    // Messages that follow each other, each with its length before it.
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first() {
        let (message, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        look(&mut planner, message);
    }
    look(&mut planner, bytes);
});

fn look(planner: &mut Planner, bytes: &[u8]) {
    let _ = (relation_name(bytes), relation_type_oids(bytes), truncated_oids(bytes).count());
    let _ = (decode_stream(bytes), split_streamed(bytes));
    let known = peek(bytes);
    let Ok(message) = decode(bytes) else { return };
    assert!(known.is_ok(), "what is decoded can be looked into");
    match &message {
        Message::Relation(relation) => planner.define(relation.clone()),
        Message::Type { oid, schema, name } => planner.define_type(*oid, schema, name),
        Message::Insert { new, .. } => walk(new),
        Message::Update { old: Old::Key(old) | Old::Row(old), new, .. } => {
            walk(old);
            walk(new);
        }
        Message::Delete { old: Old::Key(old) | Old::Row(old), .. } => walk(old),
        _ => {}
    }
    let mut parameters = Parameters::default();
    for _ in 0..3 {
        match planner.plan(&message, &mut parameters) {
            Ok(Step::LookUp(oid)) => {
                let (found, choice) = found(planner, oid);
                if planner.bind(oid, found, &choice).is_err() {
                    return;
                }
            }
            Ok(Step::Execute(statement)) => {
                assert_eq!(statement.parameter_count(), parameters.values().len());
                return;
            }
            Ok(Step::Nothing) | Err(_) => return,
        }
    }
}

fn walk(tuple: &Tuple<'_>) {
    assert_eq!(tuple.values().count(), tuple.len());
}

/// A table much as the relation wants it; what each column is like, and whether it is there, depends on its name.
fn found(planner: &Planner, oid: u32) -> (Found, Choice) {
    let relation = planner.relation(oid).expect("a relation that is asked for is known");
    let like = |name: &str| name.bytes().fold(0u8, u8::wrapping_add);
    let columns = relation.columns.iter().filter(|column| like(&column.name) % 11 != 1).map(|column| {
        let like = like(&column.name);
        TargetColumn {
            name: column.name.clone(),
            type_name: "text".into(),
            column_type: ColumnType { oid: 25, modifier: -1, ..ColumnType::default() },
            declared_oid: column.type_oid,
            castable: true,
            has_send: like % 2 == 1,
            must_be_given: like % 3 == 1,
            generated: if like % 7 == 1 { Generated::Yes } else { Generated::No },
            identity: if like % 5 == 1 { Identity::Always } else { Identity::No },
            equality: Equality { operator_schema: None, exact: like % 2 == 0, record: like % 3 == 0 },
        }
    });
    let table = TargetTable {
        oid,
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        partitioned: oid % 2 == 1,
        root: None,
        columns: columns.collect(),
        fires: false,
        unique: relation.columns.first().map(|column| vec![column.name.clone()]).into_iter().collect(),
        apart: Vec::new(),
        primary_key: relation.columns.first().map(|column| column.name.clone()).into_iter().collect(),
        family: vec![oid],
        referring: (oid % 3 == 0)
            .then(|| Referring { oid: oid.wrapping_add(1), name: "other".into() })
            .into_iter()
            .collect(),
    };
    let arriving = relation.columns.iter().map(|column| {
        let (oid, modifier, name) = (column.type_oid, column.type_modifier, column.name.clone());
        let kind = if modifier % 2 == 0 { TypeKind::Domain } else { TypeKind::Other };
        Some(ColumnType { oid, element: 0, modifier, kind, name, sql: "text".into() })
    });
    let found = Found { table: (oid % 8 != 7).then_some(table), arriving: arriving.collect(), refused: None };
    (found, Choice { ignore_extra: oid % 3 == 1, ..Choice::default() })
}
