//! The log: where its bytes are now. Hides the folder, the open file, recovery, and whether a frame comes from memory.
//!
//! ```text
//! ROOT/manifest.json   whose log this is; written once
//!      lock            held by the one receiver
//!      durable         how far the open segment may be read, overwritten after each fsync
//!      segments/       the truth: a sorted listing is the log
//!      catalog/        derived from the segments
//!      seen/           what others than the receiver have read of segments, so that they need not read it again
//!      appliers/, pins/, pruned.json     who needs which part of it; in the store where there is one
//!      successors/     servers that the source became by pg_upgrade; in the store where there is one
//!      base/           rows of tables as they were at some time, and the schema, so that the log has something to begin with
//!      spool/          a running receiver's own: transactions whose commit was not seen yet
//! ```
//!
//! Received ≥ durable ≥ read: a [`Writer`] acknowledges what an fsync has covered, a [`Reader`] never passes it, and
//! neither ever shows a part of a transaction whose commit is not durable. The [`Tail`] is a cache of frames by their
//! place in a file and nothing else; a reader without it sees the same frames, later.

pub(crate) mod abreast;
mod base;
mod base_file;
mod blocks;
mod builder;
mod compact;
mod copies;
mod cover;
mod covered;
mod depot;
pub(crate) mod disk;
mod folder;
mod frame;
mod holds;
mod indexer;
mod inspect;
pub(crate) mod known;
mod location;
mod lookup;
mod manifest;
mod mark;
mod merging;
mod point;
mod press;
mod prune;
mod queue;
mod reader;
mod recovery;
mod retention;
mod rewrite;
mod said;
mod scribe;
mod segment_file;
mod shipper;
mod since;
mod successor;
mod tables;
mod tail;
mod transfer;
mod writer;

pub use crate::segment::Records;
pub use base::{Base, BaseBegin, BaseFile, BaseLock, BaseSchema, BaseTable};
pub use base_file::{BaseReader, BaseWriter};
pub use compact::{Compacted, Compaction, Compactor};
pub use covered::{Covered, base_before};
pub use folder::Archive;
pub use frame::Frame;
pub use holds::{Pin, Registered};
pub use indexer::reindex;
pub use inspect::{
    ArchiveTotals, Events, FrameSummary, Level, Listed, Page, RelationSummary, SegmentDetail, SegmentState,
    SegmentSummary, TableTotals, TransactionsAndEvents, events, list, list_page, show, totals,
};
pub use location::Location;
pub use lookup::{Found, Lookup, find};
pub use manifest::{ArchiveId, Manifest};
pub use mark::Mark;
pub use point::{Point, Reached, resolve, whole};
pub use prune::Prune;
pub use reader::Reader;
pub use retention::{Candidate, Policy, Reason};
pub use said::{Said, read_tables};
pub use segment_file::SegmentFile;
pub use since::{Since, since};
pub use successor::{Origin, Successor};
pub use tables::{Span, Whereabouts, whereabouts};
pub use tail::Tail;
pub use transfer::{Transferred, transfer};
pub use writer::{Durability, Durable, Writer, WriterOptions, WriterState};
