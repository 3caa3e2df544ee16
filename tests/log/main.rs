//! The log at its seams: what is written is read back, whatever happens in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod catalog;
mod crash;
mod damage;
mod disk_full;
mod messages;
mod round_trip;
mod transactions;
