//! The words that all other rooms speak. Hides nothing, does nothing: no IO, no clock, no logging.

mod facts;
mod fault;
mod format;
mod plugin;
mod position;
mod relation;
mod sql;
mod time;
mod value;

pub use facts::{ColumnFacts, TableFacts, VisibleXids};
pub use fault::{Fault, Remedy};
pub use format::{Format, is_portable, is_portable_between};
pub use plugin::{OutputPlugin, UnknownPlugin};
pub use position::{Lsn, Position, Xid};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use sql::{quote_ident, quote_literal};
pub use time::Timestamp;
pub use value::Value;
