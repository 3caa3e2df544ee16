//! Words for a change, for the error that stops at it.

use crate::model::{Position, Value};
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
        .map(|(column, value)| format!("{} = {}", column.name, shown(value)))
        .collect();
    format!("{verb} of {}.{} ({}) in {}", relation.schema, relation.name, key.join(", "), begun(begin))
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

/// At most 60 characters of a value.
fn shown(value: Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Unchanged => "(not sent)".into(),
        Value::Binary(bytes) => format!("{} bytes", bytes.len()),
        Value::Text(text) => {
            let text = String::from_utf8_lossy(text);
            let short: String = text.chars().take(60).collect();
            if short.len() < text.len() { format!("'{short}…'") } else { format!("'{text}'") }
        }
    }
}
