//! The log at its seams: what is written is read back, whatever happens in between.

mod catalog;
mod crash;
mod damage;
mod disk_full;
pub(crate) mod messages;
mod press;
mod round_trip;
mod transactions;
mod verify;

pub(crate) use crash::copy;
