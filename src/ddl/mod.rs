//! DDL that the source's event triggers have told: what of it can be run on the target, and how.
//!
//! Pure. An event tells the whole string that the client sent, and a command's tag; the string is split into statements, and the
//! commands of a transaction are matched with them in order. Only what is certain is run: DDL from inside of functions, or that
//! does not match one to one, is a stop with its reason. Deliberately absent: parsing of SQL beyond its words.

mod event;
mod plan;
mod split;
mod tag;

pub use event::{Event, Kind, Object, PREFIX};
pub use plan::{Action, Run, plan};
