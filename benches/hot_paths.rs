//! What each change costs in the pure rooms: reading its message, making a statement with parameters of it, folding it.
//! `cargo bench --profile release --bench hot_paths`. Frames are measured by `log_throughput`.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use pgsluice::model::{Column, Relation, ReplicaIdentity};
use pgsluice::pgoutput::decode;
use pgsluice::transform::{
    Choice, ColumnType, Equality, Fold, Found, Generated, Identity, Parameters, Planner, Replaces, RowKey,
    Step, TargetColumn, TargetTable,
};

const ROUNDS: usize = 5;
const CHANGES: usize = 200_000;
const RELATION: u32 = 1;

/// What is folded before it is read again.
const FOLD_BYTES: usize = 16 << 20;

fn main() {
    for (name, columns, length) in [("narrow", 4, 8), ("wide", 12, 40)] {
        for tag in [b'I', b'U', b'D'] {
            let messages: Vec<_> = (0..CHANGES).map(|row| change(tag, row, columns, length)).collect();
            each_path(&format!("{name} {}", char::from(tag)), columns, &messages);
        }
    }
    let updates: Vec<_> = (0..CHANGES).map(|number| change(b'U', number % 1_000, 4, 8)).collect();
    each_path("hot U", 4, &updates);
}

/// Each path holds the one before it: nothing can be done with a message that was not read.
fn each_path(name: &str, columns: usize, messages: &[Vec<u8>]) {
    measure(&format!("decode {name}"), messages, || {
        for message in messages {
            black_box(decode(message).unwrap());
        }
    });
    let mut planner = planner(columns);
    measure(&format!("plan   {name}"), messages, || {
        let mut parameters = Parameters::default();
        for message in messages {
            let message = decode(message).unwrap();
            assert!(matches!(planner.plan(&message, &mut parameters).unwrap(), Step::Execute(_)));
            black_box(parameters.values());
        }
    });
    let key = RowKey { columns: vec![0], is_whole: true, replaces: Replaces::None };
    measure(&format!("fold   {name}"), messages, || {
        let mut fold = Fold::default();
        for message in messages {
            assert!(fold.take(&key, &decode(message).unwrap()));
            if fold.bytes() >= FOLD_BYTES {
                black_box(fold.groups(RELATION));
                fold.clear();
            }
        }
        black_box(fold.groups(RELATION));
    });
}

/// The fastest of some rounds: noise only adds.
fn measure(name: &str, messages: &[Vec<u8>], mut pass: impl FnMut()) {
    let bytes: usize = messages.iter().map(Vec::len).sum();
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        pass();
        best = best.min(start.elapsed());
    }
    let seconds = best.as_secs_f64();
    println!(
        "{name:16} {:7.0} ns a change {:8.0} MB/s",
        seconds * 1e9 / CHANGES as f64,
        bytes as f64 / 1e6 / seconds
    );
}

/// A change of one row, whose first column is the key.
fn change(tag: u8, row: usize, columns: usize, length: usize) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(RELATION.to_be_bytes());
    message.push(if tag == b'D' { b'K' } else { b'N' });
    message.extend((columns as u16).to_be_bytes());
    for column in 0..columns {
        if tag == b'D' && column > 0 {
            message.push(b'n');
            continue;
        }
        let value = format!("{:0length$}", row * columns + column);
        message.push(b't');
        message.extend((value.len() as u32).to_be_bytes());
        message.extend(value.as_bytes());
    }
    message
}

/// One that knows a table of text columns.
fn planner(columns: usize) -> Planner {
    let names = (0..columns).map(|column| format!("c{column}"));
    let relation = Relation {
        oid: RELATION,
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: names
            .clone()
            .enumerate()
            .map(|(at, name)| Column { name, key: at == 0, type_oid: 25, type_modifier: -1 })
            .collect(),
    };
    let table = TargetTable {
        oid: RELATION,
        schema: "public".into(),
        name: "t".into(),
        partitioned: false,
        root: None,
        columns: names
            .map(|name| TargetColumn {
                name,
                type_name: "text".into(),
                declared_oid: 25,
                castable: true,
                has_send: false,
                column_type: ColumnType { oid: 25, modifier: -1, ..ColumnType::default() },
                must_be_given: false,
                generated: Generated::No,
                identity: Identity::No,
                equality: Equality { exact: true, ..Equality::default() },
            })
            .collect(),
        fires: false,
        unique: vec![vec!["c0".into()]],
        apart: Vec::new(),
        primary_key: vec!["c0".into()],
        family: Vec::new(),
        referring: Vec::new(),
    };
    let mut planner = Planner::default();
    planner.define(relation);
    planner
        .bind(RELATION, Found { table: Some(table), arriving: Vec::new(), refused: None }, &Choice::default())
        .unwrap();
    planner
}
