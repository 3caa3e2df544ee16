//! Changes to SQL: which statement a change of the log becomes on the target.
//!
//! Pure. The applier looks up what the target's table is like ([`TargetTable`]), gives it to the [`Planner`] with the
//! relation of the log, and then every change comes out as [`Step`]s, in order. Columns are matched by name; the
//! key is the one that the source sent, not the target's. A change that can't be expressed exactly is a [`Refusal`],
//! with the DDL that would let it pass.
//!
//! A batch is a run of whole source transactions, of which the [`Fold`] keeps the net change of each row.

mod arriving;
mod columns;
mod fit;
mod fold;
mod planner;
mod redo;
mod statement;
mod target;
mod types;
mod undo;

pub use arriving::{Arriving, Contest, Versioned};
pub use fit::{Choice, Refusal};
pub use fold::{Fold, Group, GroupKind, NetRow, Replaces, RowKey};
pub use planner::{Apart, Parameters, Planner, Step, Way};
pub use redo::{must_be_empty, redo, truncate};
pub use statement::{Check, Emptying, Many, Removal, Statement, StatementKind, equal, take_in};
pub use target::{Equality, Found, Generated, Identity, Referring, TargetColumn, TargetTable};
pub use types::{ColumnType, TypeKind};
pub use undo::{
    Cell, Guard, Lacking, Row, RowChange, SCRIPT_TAIL, block, block_of, comment, has_key, named, script_head,
    sent, session_head, undo,
};
