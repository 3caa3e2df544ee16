//! What the log says of single rows: all versions of one, and the SQL that takes changes back.
//!
//! Hides how a row is followed through the log: by its key, from one key to the next, and with what was not sent filled in from what was
//! sent before. Only those parts of the log are read in which something happened to the table.
//!
//! Deliberately absent: a row's values from before the log began, where the archive has no base with them.

mod base;
mod known;
mod trail;
mod undo;
mod versions;

pub use undo::{Undoing, undo};
pub use versions::{Event, RowKey, Version, versions};
