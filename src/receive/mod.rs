//! Source to log: takes the changes off the slot as fast as they come and confirms what is durable.
//!
//! Three tasks that never wait for each other: the pump reads messages into the log's frame in hand; the log's own thread
//! compresses and syncs; the herald tells the source how far that is. When the disk can't keep up the pump stops
//! reading, and the herald still answers, so that the source waits instead of hanging up.
//!
//! Invariants: nothing is confirmed before it is durable; a transaction enters the log whole and once, by the end LSN of its
//! commit; the log is continued only from the source that it came from, without a gap ([`admit`]).

mod acknowledge;
mod admit;
mod herald;
mod pump;

use std::time::Duration;

use tokio::sync::watch;

use crate::archive::{Archive, Durable, Writer};
use crate::model::{Fault, Position, Remedy};
use crate::pg::Conninfo;
use crate::pg::replication::ReplicationStream;

use admit::{LogState, SlotState, SourceState};

/// Where the changes come from.
#[derive(Clone, Debug)]
pub struct Source {
    pub conninfo: Conninfo,
    pub slot: String,
    pub publication: String,
}

/// How a running receiver is steered.
#[derive(Clone)]
pub struct Control {
    /// Turns true when the receiver shall finish.
    pub stop: watch::Receiver<bool>,
    pub endpos: watch::Receiver<Option<Position>>,
    /// How far the target is, for the source's `replay_lsn`.
    pub applied: watch::Receiver<Position>,
    /// Told how far the log holds the source's changes.
    pub received: watch::Sender<Position>,
}

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Why one connection came to its end.
enum Ended {
    /// Stopped by the operator, or everything up to endpos is in the log.
    Finished,
    Cut(Fault),
}

/// Receives until stopped or until endpos, across lost connections. Returns how far the log is durable.
pub async fn receive(
    archive: &Archive,
    mut writer: Writer,
    source: &Source,
    mut control: Control,
) -> Result<Position, Fault> {
    let mut backoff = BACKOFF_MIN;
    loop {
        if *control.stop.borrow() || is_complete(&writer, &control) {
            return writer.close().await;
        }
        let started = writer.received();
        let fault = match connection(archive, &mut writer, source, &mut control).await {
            Ok(Ended::Finished) => continue,
            Ok(Ended::Cut(fault)) | Err(fault) => fault,
        };
        writer.discard();
        if fault.remedy != Remedy::Retry {
            // What came before the fault is kept; the fault itself is what the caller must hear.
            writer.close().await?;
            return Err(fault);
        }
        if writer.received() > started {
            backoff = BACKOFF_MIN;
        }
        tracing::warn!(error = %fault, retry_seconds = backoff.as_secs_f64(), "connection to the source lost");
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = control.stop.wait_for(|stop| *stop) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Whether everything up to endpos has been received.
fn is_complete(writer: &Writer, control: &Control) -> bool {
    control.endpos.borrow().is_some_and(|endpos| writer.received() >= endpos)
}

/// One connection from start to end; whole transactions that came over it stay in the log.
async fn connection(
    archive: &Archive,
    writer: &mut Writer,
    source: &Source,
    control: &mut Control,
) -> Result<Ended, Fault> {
    let mut stream = ReplicationStream::connect(&source.conninfo, "pgsluice receive").await?;
    let durable = settled(writer).await?;
    let timeline = check(archive, writer, &mut stream, source, durable).await?;
    writer.continue_on(timeline);
    let publications = crate::pg::publication_list(&[&source.publication]);
    let options = [("proto_version", "1"), ("publication_names", publications.as_str()), ("messages", "true")];
    let (mut events, status) = stream.start(&source.slot, durable, &options).await?;
    tracing::info!(slot = source.slot, from = %durable, timeline, "receiving");

    let herald = herald::Herald::start(status, writer.durable(), control.applied.clone());
    let ended = pump::pump(&mut events, writer, control, &herald).await;
    if let Ok(Ended::Finished) = ended {
        // Before the connection ends the source shall know all that will be kept.
        writer.flush();
        let durable = settled(writer).await?;
        herald.finish(durable).await;
    }
    ended
}

/// Waits until all that was handed to the disk is durable.
async fn settled(writer: &Writer) -> Result<Position, Fault> {
    let mut durable = writer.durable();
    let settled = durable.wait_for(Durable::is_settled).await.map_err(|_| Fault::stop("the log's thread has ended"))?;
    settled.check()?;
    Ok(settled.position)
}

/// Refuses a source that can't continue the log; gives its timeline.
async fn check(
    archive: &Archive,
    writer: &Writer,
    stream: &mut ReplicationStream,
    source: &Source,
    durable: Position,
) -> Result<u32, Fault> {
    let system = stream.identify_system().await?;
    let switched_at = if system.timeline > writer.timeline() {
        let history = stream.timeline_history(system.timeline).await?;
        history.iter().find(|switch| switch.timeline == writer.timeline()).map(|switch| switch.position)
    } else {
        None
    };
    let slot = stream.read_slot(&source.slot).await?;
    let slot = slot.ok_or_else(|| {
        Fault::person(format!(
            "slot \"{}\" does not exist on the source; the archive ends at {durable}, {} bytes behind the source",
            source.slot,
            system.position.bytes_since(durable)
        ))
        .hint("a new slot can't give what came in between; start a new archive and copy the tables anew")
    })?;
    slot.usable_by(&archive.manifest().plugin, &archive.manifest().database)?;
    let log = LogState {
        system_identifier: archive.manifest().system_identifier,
        timeline: writer.timeline(),
        durable,
    };
    admit::admit(
        &log,
        &SourceState {
            system_identifier: system.system_identifier,
            timeline: system.timeline,
            flushed: system.position,
            switched_at,
            slot: SlotState { name: source.slot.clone(), confirmed: slot.confirmed, lost: slot.lost },
        },
    )?;
    Ok(system.timeline)
}
