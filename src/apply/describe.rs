//! Words for a change, for the error that stops at it.

use crate::model::{Position, Relation, Value};
use crate::pgoutput::{Begin, Message, Old};
use crate::transform::Planner;

pub(super) fn begun(begin: Begin) -> String {
    format!("transaction {} committed at {} ({})", begin.xid.0, begin.commit_lsn, begin.commit_time)
}

pub(super) fn transaction(begin: Begin, end: Position) -> String {
    format!("{}, ending at {end}", begun(begin))
}

/// `UPDATE of public.t (id = 5) in transaction 777 committed at 0/2022AA8 (…)`.
pub(super) fn change(planner: &Planner, message: &Message<'_>, begin: Begin) -> String {
    let (verb, oid, row) = match *message {
        Message::Insert { relation, new } => ("INSERT", relation, Some(new)),
        Message::Update { relation, old, new } => ("UPDATE", relation, Some(known(old).unwrap_or(new))),
        Message::Delete { relation, old } => ("DELETE", relation, known(old)),
        Message::Truncate(_) => return format!("TRUNCATE in {}", begun(begin)),
        _ => return begun(begin),
    };
    let Some(relation) = planner.relation(oid) else { return begun(begin) };
    let values = row.into_iter().flat_map(|row| row.values());
    let key: Vec<_> = relation
        .columns
        .iter()
        .zip(values)
        .filter(|(column, _)| column.key)
        .map(|(column, value)| format!("{} = {}", column.name, shown(value, column.type_oid)))
        .collect();
    format!("{verb} of {}.{} ({}) in {}", relation.schema, relation.name, key.join(", "), begun(begin))
}

/// The same of tables, without the row: `UPDATE of public.t in transaction 777 committed at 0/2022AA8 (…)`.
pub(super) fn of_tables<'r>(
    relation: impl Fn(u32) -> Option<&'r Relation>,
    message: &Message<'_>,
    begin: Begin,
) -> String {
    let (verb, oids) = match message {
        Message::Insert { relation, .. } => ("INSERT", vec![*relation]),
        Message::Update { relation, .. } => ("UPDATE", vec![*relation]),
        Message::Delete { relation, .. } => ("DELETE", vec![*relation]),
        Message::Truncate(truncate) => ("TRUNCATE", truncate.relations.clone()),
        _ => return begun(begin),
    };
    let tables = oids.into_iter().filter_map(relation);
    let tables: Vec<_> = tables.map(|table| format!("{}.{}", table.schema, table.name)).collect();
    format!("{verb} of {} in {}", tables.join(", "), begun(begin))
}

/// The table of a row's change.
pub(super) fn table(message: &Message<'_>) -> Option<u32> {
    match message {
        Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. } => Some(*relation),
        _ => None,
    }
}

fn known(old: Old<'_>) -> Option<crate::pgoutput::Tuple<'_>> {
    match old {
        Old::Absent => None,
        Old::Key(tuple) | Old::Row(tuple) => Some(tuple),
    }
}

/// Types whose binary form is an integer, and those of which it is the text (OIDs).
const INTEGERS: &[u32] = &[20, 21, 23];
const TEXTS: &[u32] = &[19, 25, 1042, 1043];
/// Of a value in binary form that is neither.
const BYTES_SHOWN_MAX: usize = 30;

/// At most 60 characters of a value.
fn shown(value: Value<'_>, type_oid: u32) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Unchanged => "(not sent)".into(),
        Value::Binary(bytes) if TEXTS.contains(&type_oid) => shown(Value::Text(bytes), type_oid),
        Value::Binary(bytes) if INTEGERS.contains(&type_oid) && bytes.len() <= 8 => {
            let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
            let start = if negative { -1 } else { 0 };
            format!("'{}'", bytes.iter().fold(start, |number: i64, byte| number << 8 | i64::from(*byte)))
        }
        Value::Binary(bytes) => {
            let shown = bytes.iter().take(BYTES_SHOWN_MAX);
            let hex: String = shown.map(|byte| format!("{byte:02x}")).collect();
            format!("'\\x{hex}{}'", if bytes.len() > BYTES_SHOWN_MAX { "…" } else { "" })
        }
        Value::Text(text) => {
            let text = String::from_utf8_lossy(text);
            let short: String = text.chars().take(60).collect();
            if short.len() < text.len() { format!("'{short}…'") } else { format!("'{text}'") }
        }
    }
}
