//! Reading the target's answers while the statements are still being sent.
//!
//! A task of its own, so that neither side ever waits for a full socket buffer. Statements are numbered from 0 within a
//! batch in the order of their completions, and every row change must report exactly one row.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::model::Fault;
use crate::pg::{PipelineReader, Reply};

/// What the target said up to a Sync.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The first statement that failed, and why. Those after it were not executed.
    pub(super) failed: Option<(u64, Fault)>,
    /// The first row change that touched no row or several, with the target's words (`UPDATE 0`).
    pub(super) mismatch: Option<(u64, String)>,
    /// Rows that came in by COPY.
    pub(super) copied: u64,
    /// Changes that have given way to rows of other sources.
    pub(super) gave_way: u64,
    /// First column of the first row that was returned.
    pub(super) value: Option<String>,
}

/// Set as soon as the batch is known to be lost, so that the sender stops sending the rest of it.
pub(super) type Lost = Arc<AtomicBool>;

/// Where the server's messages go instead, byte for byte, while another client speaks over the connection.
pub(super) type Diverted = Arc<Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>>;

/// A statement that must touch more than one row: its number in the batch, and how many.
pub(super) type Expected = (u64, u64);

/// Reads until the connection ends; the fault that ended it is the last thing sent.
pub(super) async fn read(
    mut reader: PipelineReader,
    lost: Lost,
    mut expected: mpsc::UnboundedReceiver<Expected>,
    reports: mpsc::UnboundedSender<Result<Report, Fault>>,
    diverted: Diverted,
) {
    let mut report = Report::default();
    let mut completed = 0;
    let mut next: Option<Expected> = None;
    loop {
        let gone = |fault| {
            lost.store(true, Ordering::Relaxed);
            let _ = reports.send(Err(fault));
        };
        let reply = match reader.try_result() {
            Ok(Some(reply)) => reply,
            Ok(None) => {
                let filled = reader.fill().await;
                match filled.and_then(|()| divert(&mut reader, &diverted)) {
                    Ok(()) => continue,
                    Err(fault) => return gone(fault),
                }
            }
            Err(fault) => return gone(fault),
        };
        match reply {
            Reply::CommandComplete { tag, rows } => {
                // Told before the statement was sent.
                next = next.or_else(|| expected.try_recv().ok());
                let touches =
                    next.take_if(|(statement, _)| *statement == completed).map_or(1, |(_, rows)| rows);
                if tag.starts_with("COPY") {
                    report.copied += rows.unwrap_or(0);
                } else if rows != Some(touches) && is_row_change(tag) && report.mismatch.is_none() {
                    report.mismatch = Some((completed, tag.to_owned()));
                    lost.store(true, Ordering::Relaxed);
                }
                completed += 1;
            }
            Reply::DataRow(mut row) => {
                let first = row.next();
                report.gave_way += u64::from(first.is_none());
                let value = first.flatten().map(|text| String::from_utf8_lossy(text).into_owned());
                report.value = report.value.take().or(value);
            }
            Reply::Error(fault) => {
                lost.store(true, Ordering::Relaxed);
                report.failed.get_or_insert((completed, fault));
            }
            Reply::ReadyForQuery { .. } => {
                completed = 0;
                next = None;
                while expected.try_recv().is_ok() {}
                if reports.send(Ok(std::mem::take(&mut report))).is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

/// Passes on what has come, if it is meant for somebody else. Nothing of ours is under way then, so it came after the last answer.
fn divert(reader: &mut PipelineReader, diverted: &Diverted) -> Result<(), Fault> {
    let diverted = diverted.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(elsewhere) = &*diverted else { return Ok(()) };
    while let Some(message) = reader.try_raw()? {
        // Who does not listen any more has no need of it.
        let _ = elsewhere.send(message);
    }
    Ok(())
}

fn is_row_change(tag: &str) -> bool {
    tag.starts_with("UPDATE") || tag.starts_with("DELETE") || tag.starts_with("INSERT")
}
