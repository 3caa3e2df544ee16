//! Transactions that the target refuses and that are set aside while the rest goes on: which rows they hold, what of the log is kept for
//! them, and how they are brought later.
//!
//! ```text
//! log     ── A ── B ── C ── D ──►      B is refused; C changes a row of B's, D none
//! target  ── A ──────────── D ──►      pgsluice.dead: B (refused), C (held by B)
//! retry                  B, C
//! ```
//!
//! What is true is in `pgsluice.dead`: it is written in the target transaction that moves the progress past the one that is set aside,
//! and a row of it goes in the one that brings its changes. The changes are in the log. Which rows are held follows from both.

pub(super) mod held;
mod letter;
pub(super) mod pins;
mod resolve;
mod show;

use crate::model::{Fault, Lsn, Position};
use crate::pgoutput::{Message, Truncate};

pub(super) use held::Held;
pub(super) use letter::{Letter, Said};
pub use pins::release;
pub use resolve::{Resolved, retry, skip};
pub use show::{Cell, Change, show};

/// What to do with a transaction whose rows the target refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Stop, and say which one it is.
    #[default]
    Stop,
    /// Set it aside, and all that touch its rows later.
    Quarantine,
}

/// A transaction that is to be set aside when it is met again.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    pub(super) commit_lsn: Lsn,
    pub(super) reason: Reason,
}

#[derive(Clone, Debug)]
pub(super) enum Reason {
    Refused(Fault),
    /// It touches rows of the transaction that ends there.
    Held(Position),
}

/// Whether the target would refuse the rows again: data exceptions, integrity constraints, check options of views, and what a trigger raises.
pub(super) fn is_about_rows(fault: &Fault) -> bool {
    let state = fault.sqlstate.as_deref().unwrap_or_default();
    state == "P0001" || ["22", "23", "44"].iter().any(|class| state.starts_with(class))
}

/// What of a change is about these tables; none where nothing is.
pub(super) fn of_tables<'c, 'm>(
    tables: &[u32],
    change: &'c Message<'m>,
    spare: &'c mut Option<Message<'m>>,
) -> Option<&'c Message<'m>> {
    match change {
        Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. } => tables.contains(relation).then_some(change),
        Message::Truncate(truncate) => {
            let relations: Vec<u32> =
                truncate.relations.iter().copied().filter(|oid| tables.contains(oid)).collect();
            if relations.len() == truncate.relations.len() {
                return Some(change);
            }
            let rest = Truncate { relations, ..truncate.clone() };
            (!rest.relations.is_empty()).then(|| &*spare.insert(Message::Truncate(rest)))
        }
        _ => None,
    }
}
