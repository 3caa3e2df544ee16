//! Edges to PostgreSQL. Hides the wire protocol, authentication and TLS, and how a server is named.
//!
//! Three kinds of connection, all made by [`Conninfo`] and one road of start-up (`wire`):
//!
//! ```text
//! Conninfo ─► dial (TCP, socket, TLS) ─► auth ─► wire ─┬─► ReplicationStream   slots, then the stream
//!                                                      ├─► Pipeline            many statements under one Sync
//!                                                      └─► control::connect    tokio-postgres, for the rest
//! ```
//!
//! Every session pins the settings that decide how values print, so the same value is the same text wherever it
//! comes from. Values are never parsed here. Deliberately absent: what the messages of the stream mean (`pgoutput`),
//! and when to try again (a [`Fault`](crate::model::Fault) only tells whether it makes sense).

mod answer;
mod array;
mod auth;
pub mod capture;
mod clock;
mod conninfo;
pub mod control;
pub mod copied;
mod copy_rows;
pub mod counterpart;
pub mod dead;
pub mod defined;
mod dial;
pub mod extent;
pub mod facts;
pub mod filter;
mod frames;
pub mod inspect;
pub mod joining;
pub mod lane;
mod masked;
pub mod origin;
pub mod pattern;
pub mod pin;
mod pipeline;
pub mod progress;
pub mod publication;
mod replication;
mod rows;
pub mod ruled;
pub mod sequences;
mod server_message;
mod session;
pub mod slot;
pub mod snapshots;
mod sql;
mod stream;
pub mod tables;
mod tls;
mod transfer;
pub mod vitals;
mod wire;

pub use clock::now;
pub use conninfo::{Conninfo, LibpqEnvironment};
pub use copy_rows::{CopyRows, read_text, unescape};
pub use pipeline::{Pipeline, PipelineOptions, PipelineReader, PipelineWriter, Reply, TransactionStatus};
pub use replication::{CreatedSlot, ReplicationStream, SnapshotAction, SystemIdentity, TimelineSwitch};
pub use rows::{Fields, Rows};
pub use sql::{publication_names, quote_ident, quote_literal};
pub use stream::{Event, ReplicationReceiver, Status, StatusSender};
pub use transfer::{Reshape, load, load_pieces, transfer, unload};
