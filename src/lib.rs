//! pgsluice takes the changes of a PostgreSQL database off its replication slot at once, keeps them in a
//! compressed, checksummed log, and replays them into a target now, later, again, or up to a chosen point.
//!
//! The road is source slot → [`receive`] → [`archive`] (the log) → [`transform`] → [`apply`] → target;
//! [`follow`] conducts it and [`cli`] is what a person types. `ARCHITECTURE.md` is the map.

pub mod apply;
pub mod archive;
pub mod catalog;
pub mod cli;
pub mod compare;
pub mod copy;
pub mod ddl;
pub mod dump;
pub mod export;
pub mod faults;
pub mod follow;
pub mod history;
pub mod meter;
pub mod model;
pub mod pg;
pub mod pgoutput;
pub mod plugin;
pub mod poll;
pub mod receive;
pub mod rules;
pub mod segment;
pub mod sentinel;
pub mod serve;
pub mod store;
pub mod transform;
pub mod verify;
