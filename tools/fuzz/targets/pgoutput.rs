//! A message of the slot: read, shown, and planned for a table of the target. Whatever is read can be walked to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_fuzz::pgoutput::{Message, Old, Tuple, decode};
use pgsluice_fuzz::segment::{peek, relation_name, relation_type_oids, truncated_oids};
use pgsluice_fuzz::transform::{
    Equality, Generated, Identity, Parameters, Planner, Step, TargetColumn, TargetTable,
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
    let known = peek(bytes);
    let Ok(message) = decode(bytes) else { return };
    assert!(known.is_ok(), "what is decoded can be looked into");
    match &message {
        Message::Relation(relation) => planner.define(relation.clone()),
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
                let target = target(planner, oid);
                if planner.bind(oid, target).is_err() {
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

/// A table as the relation wants it; what each column is like depends on its name.
fn target(planner: &Planner, oid: u32) -> TargetTable {
    let relation = planner.relation(oid).expect("a relation that is asked for is known");
    let columns = relation.columns.iter().map(|column| {
        let like = column.name.bytes().fold(0u8, u8::wrapping_add);
        TargetColumn {
            name: column.name.clone(),
            type_name: "text".into(),
            generated: if like % 7 == 1 { Generated::Yes } else { Generated::No },
            identity: if like % 5 == 1 { Identity::Always } else { Identity::No },
            equality: Equality { operator_schema: None, exact: like % 2 == 0 },
        }
    });
    TargetTable {
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        partitioned: oid % 2 == 1,
        columns: columns.collect(),
        primary_key: relation.columns.first().map(|column| column.name.clone()).into_iter().collect(),
    }
}
