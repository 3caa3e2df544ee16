//! Reads what the log says of some tables, in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::model::{Fault, Position, Relation};
use crate::pgoutput::{Begin, Message, Truncate, decode};
use crate::segment::{Peek, peek};

use super::{Archive, Frame, Reader, Span};

/// What is said, in the order of the log.
pub enum Said<'a> {
    Begin {
        begin: Begin,
        /// Where its commit ends; none where that is not near enough to be known yet.
        end: Option<Position>,
    },
    /// The end of the commit.
    Commit(Position),
    /// A table's definition, where it is another than the one before it.
    Defined { before: &'a Relation, relation: &'a Relation },
    /// An insert, update or delete.
    Changed { relation: &'a Arc<Relation>, message: &'a Message<'a> },
    Truncated {
        /// Those of the tables that are wanted.
        relations: &'a [Arc<Relation>],
        truncate: &'a Truncate,
    },
}

/// Definitions as they were last seen; none of tables that are not wanted.
type Definitions = HashMap<u32, Option<Arc<Relation>>>;

/// Reads these parts of the log, of the tables that are wanted by their definitions. Transactions with nothing of them begin and end too.
pub fn read_tables(
    archive: &Archive,
    spans: &[Span],
    is_wanted: &dyn Fn(&Relation) -> bool,
    mut each: impl FnMut(Said<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let listing = archive.listing()?;
    let mut definitions = Definitions::new();
    for span in spans {
        let mut reader = Reader::open_listed(archive, Some(&listing), span.after, None)?;
        // Whether the transaction in hand is one of the span's.
        let mut is_inside = false;
        while let Some(frame) = reader.try_next()? {
            if frame_says(&frame, span, is_wanted, &mut definitions, &mut is_inside, &mut each)? == Flow::Over
                || frame.ends_on_commit && frame.through >= span.through
            {
                break;
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    /// What comes next is behind the span.
    Over,
}

fn frame_says(
    frame: &Frame,
    span: &Span,
    is_wanted: &dyn Fn(&Relation) -> bool,
    definitions: &mut Definitions,
    is_inside: &mut bool,
    each: &mut impl FnMut(Said<'_>) -> Result<(), Fault>,
) -> Result<Flow, Fault> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Fault::person(format!("the frame through {} can't be read: {error}", frame.through))
            .hint("`pgsluice archive verify` tells what is damaged")
    };
    let mut ends = ends(frame);
    for record in frame.records() {
        let bytes = record.map_err(|error| unreadable(&error))?;
        match peek(bytes).map_err(|error| unreadable(&error))? {
            Peek::Begin { .. } | Peek::Commit { .. } | Peek::Relation { .. } => {}
            Peek::Insert { relation } | Peek::Update { relation } | Peek::Delete { relation }
                if *is_inside && matches!(definitions.get(&relation), Some(Some(_)) | None) => {}
            Peek::Truncate if *is_inside => {}
            _ => continue,
        }
        match decode(bytes).map_err(|error| unreadable(&error))? {
            Message::Begin(begin) => {
                let end = ends.pop_front();
                if !span.through.covers_commit_at(begin.commit_lsn) {
                    return Ok(Flow::Over);
                }
                *is_inside = !span.after.covers_commit_at(begin.commit_lsn);
                if *is_inside {
                    each(Said::Begin { begin, end })?;
                }
            }
            Message::Commit(commit) if *is_inside => {
                *is_inside = false;
                each(Said::Commit(commit.end))?;
            }
            Message::Relation(relation) => define(definitions, relation, is_wanted, each)?,
            Message::Truncate(ref truncate) => {
                let wanted = |oid: &u32| definitions.get(oid).cloned().flatten();
                let relations: Vec<_> = truncate.relations.iter().filter_map(wanted).collect();
                if !relations.is_empty() {
                    each(Said::Truncated { relations: &relations, truncate })?;
                }
            }
            ref message @ (Message::Insert { relation: oid, .. }
            | Message::Update { relation: oid, .. }
            | Message::Delete { relation: oid, .. }) => match definitions.get(&oid) {
                Some(Some(relation)) => each(Said::Changed { relation, message })?,
                Some(None) => {}
                None => {
                    return Err(unreadable(&format!("a change of table {oid}, which it does not define")));
                }
            },
            _ => {}
        }
    }
    Ok(Flow::On)
}

/// Where the transactions end that begin in a frame, as far as they end in it too.
fn ends(frame: &Frame) -> VecDeque<Position> {
    let mut in_hand = frame.starts_in_transaction;
    let mut ends = VecDeque::new();
    for bytes in frame.records().map_while(Result::ok) {
        if let Ok(Peek::Commit { end, .. }) = peek(bytes) {
            // That of the one that began before the frame does not count.
            if !std::mem::take(&mut in_hand) {
                ends.push_back(end);
            }
        }
    }
    ends
}

fn define(
    definitions: &mut Definitions,
    relation: Relation,
    is_wanted: &dyn Fn(&Relation) -> bool,
    each: &mut impl FnMut(Said<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let before = definitions.get(&relation.oid).cloned().flatten();
    if before.as_deref() == Some(&relation) {
        return Ok(());
    }
    if let Some(before) = &before {
        each(Said::Defined { before, relation: &relation })?;
    }
    let oid = relation.oid;
    definitions.insert(oid, is_wanted(&relation).then(|| Arc::new(relation)));
    Ok(())
}
