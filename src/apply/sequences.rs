//! Sequences at endpos: which sample of the log holds for it, and setting the target's by it.
//!
//! The first sample as of endpos or later is an upper bound for all that was applied. It lies behind endpos in the log,
//! so the log is read on for it; a receiver that is at work may still be about to write it. Without one the latest
//! before it is taken, and said to be older.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::Control;
use crate::archive::{Archive, Frame, Reader, Tail};
use crate::model::{Fault, Lsn, Position};
pub(super) use crate::pg::sequences::Sample;
use crate::pg::sequences::{self, PREFIX};
use crate::pgoutput::{Message, decode};

/// How long a receiver that is at work gets for its last sample; it gives itself five seconds.
const PATIENCE: Duration = Duration::from_secs(7);
/// Bytes of the log that are searched, at most, on each side of endpos.
const SEARCH_BYTES: usize = 2 << 30;
/// What it takes to open one more segment, as bytes that might have been searched instead.
const SEGMENT_COST: usize = 1 << 20;

/// Sets the target's sequences as of `endpos`. `progress`: what is applied; `latest`: the newest sample that was met.
pub(super) async fn set(
    archive: &Archive,
    tail: Option<Tail>,
    target: &Client,
    progress: Position,
    latest: Option<Sample>,
    control: &Control,
) -> Result<(), Fault> {
    let Some(endpos) = *control.endpos.borrow() else { return Ok(()) };
    let found = match behind(archive, tail, progress, endpos, latest, control).await? {
        Some(sample) => Some(sample),
        None => tokio::task::block_in_place(|| before(archive, progress))?,
    };
    let Some(sample) = found else {
        tracing::info!("the log tells nothing of sequences, so none was set");
        return Ok(());
    };
    let outcome = sequences::set(target, &sample).await?;
    if !outcome.missing.is_empty() {
        tracing::warn!(sequences = %outcome.missing.join(", "), "not on the target, so not set");
    }
    if !outcome.out_of_range.is_empty() {
        tracing::warn!(
            sequences = %outcome.out_of_range.join(", "),
            "not set: the source's value lies beyond the limits that the target has for them"
        );
    }
    if sample.as_of < progress {
        tracing::warn!(
            as_of = %sample.as_of, applied = %progress,
            "the sequences are those of an earlier moment than the rows: the receiver had no time to look at them \
             again; compare them before the target is written to"
        );
    }
    tracing::info!(set = outcome.set, of = sample.sequences.len(), as_of = %sample.as_of, "sequences set");
    Ok(())
}

/// The first sample as of `endpos` or later that comes after `progress`, else the latest.
async fn behind(
    archive: &Archive,
    tail: Option<Tail>,
    progress: Position,
    endpos: Position,
    mut latest: Option<Sample>,
    control: &Control,
) -> Result<Option<Sample>, Fault> {
    let mut reader = tokio::task::block_in_place(|| Reader::open(archive, progress, tail))?;
    let deadline = Instant::now() + PATIENCE;
    let mut searched = 0;
    while latest.as_ref().is_none_or(|sample| sample.as_of < endpos) && searched < SEARCH_BYTES {
        // Asked before the log is read to its end, which a receiver may move while it leaves.
        let grows = archive.has_receiver()? && Instant::now() < deadline && !*control.stop.borrow();
        match tokio::task::block_in_place(|| reader.try_next())? {
            Some(frame) => {
                searched += frame.raw.len();
                latest = samples(&frame).find(|sample| sample.as_of >= endpos).or(latest);
            }
            None if grows => {
                let _ = tokio::time::timeout(Duration::from_millis(100), reader.wait()).await;
            }
            None => break,
        }
    }
    Ok(latest)
}

/// The latest sample before `progress`, searched backwards by segments.
fn before(archive: &Archive, progress: Position) -> Result<Option<Sample>, Fault> {
    let mut searched = 0;
    let mut end = progress;
    let listing = archive.listing()?;
    for segment in listing.iter().rev().filter(|segment| segment.after < progress) {
        let mut reader = Reader::open_listed(archive, Some(&listing), segment.after, None)?;
        searched += SEGMENT_COST;
        let mut found = None;
        while let Some(frame) = reader.try_next()? {
            searched += frame.raw.len();
            found = samples(&frame).last().or(found);
            if frame.through >= end {
                break;
            }
        }
        if found.is_some() || searched > SEARCH_BYTES {
            return Ok(found);
        }
        end = segment.after;
    }
    Ok(None)
}

fn samples(frame: &Frame) -> impl Iterator<Item = Sample> {
    // Of other messages not even the tag is looked at twice.
    let records =
        frame.records().filter_map(|record| record.ok().filter(|bytes| bytes.first() == Some(&b'M')));
    records.filter_map(|bytes| match decode(bytes) {
        Ok(Message::Logical { transactional: false, prefix, content, lsn }) => sample(prefix, content, lsn),
        _ => None,
    })
}

/// The sample that a logical message is, if it is one. One that claims to be of a moment behind its own record is somebody's
/// invention.
pub(super) fn sample(prefix: &[u8], content: &[u8], lsn: Lsn) -> Option<Sample> {
    if prefix != PREFIX.as_bytes() {
        return None;
    }
    let sample: Result<Sample, _> = serde_json::from_slice(content);
    let sample =
        sample.inspect_err(|error| tracing::warn!(%error, "a sample of sequences can't be read")).ok()?;
    (sample.as_of <= Position(lsn.0)).then_some(sample)
}
