//! All tests of the built program and of the rooms at their seams, in one binary: each further one would be linked with
//! RocksDB again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod architecture;
mod backfill;
mod binary;
#[cfg(feature = "faults")]
mod chaos;
mod clone;
mod compaction;
mod compare;
mod conformance;
mod control;
mod cutover;
mod ddl;
mod dead;
mod define;
mod depot;
mod doctor;
mod encryption;
mod endpos;
mod export;
mod filters;
mod fold;
mod harness;
mod history;
mod lanes;
mod log;
mod many;
mod modes;
mod notify;
mod package;
mod pagila;
mod pg_connect;
mod pg_stream;
mod plugins;

mod points;
mod poll;
mod quickstart;
mod refusals;
mod replay;
mod retention;
mod road;
mod rules;
mod rules_copied;
mod runbooks;
mod schema;
mod segment;
mod semantics;
mod sequences;
mod serve;
mod simulation;
mod snapshots;
mod sources;
mod store;
mod streaming;
mod support;
