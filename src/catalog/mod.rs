//! The index of the log, in RocksDB: position, commit time, xid → segment and frame; relations' history;
//! what happened to which table; pins. Hides RocksDB.
//!
//! No fact lives only here. What a segment contributes is a function of that segment alone, so that a rebuilt catalog
//! holds the same entries as one that grew. It is opened by the receiver; those who only look open it beside it, and
//! read the segments themselves where it does not help.

mod rows;
mod store;

pub use rows::{FrameRow, PinRow, RelationRow, SegmentRow, SegmentRows, TableRow};
pub use store::Catalog;
