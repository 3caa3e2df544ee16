//! Source to log: takes the changes off the slot as fast as they come and confirms what is durable.
//!
//! Three that never wait for each other: the pump reads messages into the log's frame in hand; the log's own thread
//! compresses and syncs; the herald tells the source how far that is. When the disk can't keep up the pump stops
//! reading, and the herald still answers, so that the source waits instead of hanging up.
//!
//! The pump has a thread and a runtime of its own. There it may block: on the disk, and for a moment while the source is ahead, so
//! that nothing wakes for each of the small pieces in which a source sends. The herald is a task elsewhere.
//!
//! Invariants: nothing is confirmed before it is durable; a transaction enters the log whole and once, by the end LSN of its
//! commit; the log is continued only from the source that it came from, without a gap ([`admit`]).

mod acknowledge;
mod admit;
mod begin;
mod door;
mod herald;
pub(crate) mod published;
mod pump;
mod sequences;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::archive::{Archive, Durable, Manifest, Writer, WriterOptions, WriterState};
use crate::meter::METER;
use crate::model::{Fault, Format, Position, Remedy, quote_literal};
use crate::pg::{Conninfo, ReplicationStream};

use admit::{LogState, SlotState, SourceState};
use begin::Begun;
use herald::Herald;
use sequences::{Sampled, Sampler};

/// Where the changes come from.
#[derive(Clone, Debug)]
pub struct Source {
    pub conninfo: Conninfo,
    pub slot: String,
    pub publication: String,
    /// Sample its sequences into the log.
    pub sequences: bool,
    /// Takes large transactions while they are under way, where the server has it (14 and later).
    pub streaming: bool,
    /// In which values are asked for: [`Format::Binary`] as long as all types are portable, and only of pgoutput.
    pub format: Format,
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

const APPLICATION: &str = "pgsluice receive";
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long the end of a connection waits for the archive's store.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Why one connection came to its end.
enum Ended {
    /// Stopped by the operator, or everything is in the log that it was meant to bring.
    Finished,
    /// What comes next is needed in another way.
    Again(Again),
    Cut(Fault),
}

/// In which way a source is asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Again {
    /// Up to here without streaming.
    Whole(Position),
    /// As text from here on: this column has a type whose binary form means something to its own server only.
    Text { column: String },
}

/// How a connection asks the source for its changes.
#[derive(Clone, Copy)]
struct Asked {
    streaming: bool,
    format: Format,
    /// Up to here only.
    whole_until: Option<Position>,
}

/// Opens the log for writing. A log that holds nothing yet asks the source for its timeline; none where stopped meanwhile.
pub async fn open_log(
    archive: &Archive,
    source: &Source,
    options: WriterOptions,
    control: &Control,
) -> Result<Option<Writer>, Fault> {
    let mut stop = control.stop.clone();
    let mut backoff = BACKOFF_MIN;
    let timeline = loop {
        if let Some(timeline) = tokio::task::block_in_place(|| archive.timeline())? {
            break timeline;
        }
        let identified = async {
            let mut stream = ReplicationStream::connect(&source.conninfo, APPLICATION, &[]).await?;
            stream.identify_system().await
        };
        match identified.await {
            Ok(system) => break system.timeline,
            Err(fault) if !may_pass(&fault) => return Err(fault),
            Err(fault) => {
                tracing::warn!(error = %fault, retry_seconds = backoff.as_secs_f64(), "source can't be reached");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    };
    tokio::task::block_in_place(|| Writer::open(archive, timeline, options)).map(Some)
}

/// Receives until stopped or until endpos, across lost connections. Returns how far the log is durable.
pub async fn receive(
    archive: &Archive,
    writer: Writer,
    source: &Source,
    control: Control,
) -> Result<Position, Fault> {
    let (archive, source, elsewhere) = (archive.clone(), source.clone(), Handle::current());
    let (sender, ended) = oneshot::channel();
    let unstarted = |error| Fault::stop(format!("cannot start the receiver's thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unstarted)?;
    let thread = std::thread::Builder::new().name("receive".into());
    let receiving = thread.spawn(move || {
        let received = runtime.block_on(connections(&archive, writer, &source, control, &elsewhere));
        // Who asked may be gone.
        let _ = sender.send(received);
    });
    receiving.map_err(unstarted)?;
    ended.await.unwrap_or_else(|_| Err(Fault::stop("the receiver has panicked")))
}

/// One connection after the other. What they leave to do `elsewhere` does not wait for this thread.
async fn connections(
    archive: &Archive,
    mut writer: Writer,
    source: &Source,
    mut control: Control,
    elsewhere: &Handle,
) -> Result<Position, Fault> {
    let mut backoff = BACKOFF_MIN;
    let sampled = Arc::new(Mutex::new(Sampled::default()));
    let mut whole_until = None;
    let mut format = source.format;
    loop {
        if *control.stop.borrow() || is_complete(&writer, &control) {
            return writer.close().await;
        }
        let started = writer.received();
        whole_until = whole_until.filter(|until| *until > started);
        let asked = Asked { streaming: source.streaming && whole_until.is_none(), format, whole_until };
        let ended = connection(archive, &mut writer, source, asked, &sampled, &mut control, elsewhere).await;
        // What came of a transaction that is not whole will be sent again.
        writer.discard();
        let fault = match ended {
            Ok(Ended::Finished) => continue,
            Ok(Ended::Again(Again::Text { column })) => {
                tracing::warn!(
                    column,
                    "its type can't go to another server in binary form: receiving as text from here on"
                );
                format = Format::Text;
                continue;
            }
            Ok(Ended::Again(Again::Whole(position))) => {
                tracing::info!(until = %position, "a streamed transaction is in doubt and is taken again, whole");
                whole_until = Some(position);
                continue;
            }
            Ok(Ended::Cut(fault)) | Err(fault) => fault,
        };
        if !may_pass(&fault) {
            // What came before the fault is kept; the fault itself is what the caller must hear.
            writer.close().await?;
            return Err(fault);
        }
        if writer.received() > started {
            backoff = BACKOFF_MIN;
        }
        METER.source_retries.inc();
        tracing::warn!(error = %fault, retry_seconds = backoff.as_secs_f64(), "connection to the source lost");
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = control.stop.wait_for(|stop| *stop) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// A lost connection has changed nothing on the source, whether or not a request was under way.
fn may_pass(fault: &Fault) -> bool {
    matches!(fault.remedy, Remedy::Retry | Remedy::Reread)
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
    asked: Asked,
    sampled: &Arc<Mutex<Sampled>>,
    control: &mut Control,
    elsewhere: &Handle,
) -> Result<Ended, Fault> {
    let mut stop = control.stop.clone();
    let Begun { mut events, status, door } = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Finished),
        started = start(archive, writer, source, asked) => started?,
    };
    let herald = Herald::start(elsewhere, status, writer.durable(), control.applied.clone());
    let sampler = Sampler::new(source, sampled);
    let ended = pump::pump(&mut events, door, writer, control, &herald, asked.whole_until, sampler).await;
    if let Ok(Ended::Finished | Ended::Again(_)) = ended {
        // Before the connection ends the source shall know all that will be kept.
        settled(writer).await?;
        herald.finish(stored(writer).await).await;
    }
    ended
}

/// Connects, checks that this source continues the log, and begins streaming where that ends.
async fn start(
    archive: &Archive,
    writer: &mut Writer,
    source: &Source,
    asked: Asked,
) -> Result<Begun, Fault> {
    let mut stream = ReplicationStream::connect(&source.conninfo, APPLICATION, &[]).await?;
    let durable = settled(writer).await?;
    let timeline = check(archive, writer, &mut stream, source, durable).await?;
    writer.continue_on(timeline);
    let begun = begin::begin(archive, source, stream, durable, asked).await?;
    writer.holds_slot();
    let format = asked.format.name();
    tracing::info!(slot = source.slot, plugin = archive.manifest().plugin, format, from = %durable, timeline, "receiving");
    Ok(begun)
}

/// Waits until all whole transactions that were received are durable, or the disk takes no more for now.
async fn settled(writer: &mut Writer) -> Result<Position, Fault> {
    writer.flush();
    let received = writer.received();
    let mut durable = writer.durable();
    let reached = |durable: &Durable| durable.position >= received || durable.state != WriterState::Running;
    let settled = durable.wait_for(reached).await.map_err(|_| log_ended())?;
    healthy(&settled)?;
    Ok(settled.position)
}

/// Seals where that is what can be confirmed, and waits for a while until the archive's store has it. How far that is.
async fn stored(writer: &mut Writer) -> Position {
    let (received, mut durable) = (writer.received(), writer.durable());
    let reached =
        |durable: &Durable| durable.confirmable >= received || durable.state != WriterState::Running;
    if !reached(&durable.borrow()) {
        writer.seal();
        // Whether it came so far or not is in what is confirmed.
        let _ = tokio::time::timeout(STORE_PATIENCE, durable.wait_for(reached)).await;
    }
    durable.borrow().confirmable
}

/// A log that can't be written any more is the end; a full disk is not, it is waited for.
fn healthy(durable: &Durable) -> Result<(), Fault> {
    match &durable.state {
        WriterState::Running | WriterState::Stalled(_) => Ok(()),
        WriterState::Superseded(reason) => Err(Fault::person(reason.to_string())
            .hint("let only one receiver run; keep this one's spool until the other has gone on")),
        WriterState::Failed(reason) => Err(Fault::stop(format!("the log can't be written: {reason}")).hint(
            "mend the disk, then run the same command again: nothing that was not durable was confirmed",
        )),
    }
}

fn log_ended() -> Fault {
    Fault::stop("the log's thread has ended")
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
    let history = stream.timeline_history(system.timeline).await?;
    let manifest = archive.manifest();
    let mut log =
        LogState { system_identifier: manifest.system_identifier, timeline: writer.timeline(), durable };
    if let Some(successor) = archive.successor()? {
        log = log.on(&successor)?;
    }
    let switched_at = history.iter().find(|switch| switch.timeline == log.timeline);
    let slot = slot_state(stream, &source.slot, manifest).await?.ok_or_else(|| {
        let missed = system.position.bytes_since(durable);
        Fault::person(format!(
            "slot \"{}\" does not exist on the source: the archive ends at {durable}, {missed} bytes before its end",
            source.slot
        ))
        .hint("a new slot can't give what came in between: start a new archive and copy the tables anew")
    })?;
    if slot.confirmed > log.durable && archive.has_store() {
        unless_extended(archive, &slot, log.durable)?;
    }
    admit::admit(
        &log,
        &SourceState {
            system_identifier: system.system_identifier,
            timeline: system.timeline,
            flushed: system.position,
            switched_at: switched_at.map(|switch| switch.switched_at),
            slot,
        },
    )?;
    Ok(system.timeline)
}

/// Refuses to go on where another receiver does, or did since this one began: then nothing is missing.
fn unless_extended(archive: &Archive, slot: &SlotState, durable: Position) -> Result<(), Fault> {
    if slot.active {
        return Err(Fault::retry(format!("slot \"{}\" is in use by another receiver", slot.name)));
    }
    let stored = archive.stored_through()?.unwrap_or_default();
    if stored <= durable {
        return Ok(());
    }
    Err(Fault::stop(format!("another receiver has extended the archive up to {stored}, from {durable}"))
        .hint("run the same command again: it goes on from there"))
}

/// The slot as the decision needs it, from the very server that will stream; none where it does not exist. Refuses one that
/// speaks of something else.
async fn slot_state(
    stream: &mut ReplicationStream,
    slot: &str,
    manifest: &Manifest,
) -> Result<Option<SlotState>, Fault> {
    let query = format!(
        "SELECT plugin, database, confirmed_flush_lsn, wal_status, active FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = {}",
        quote_literal(slot)
    );
    let Some(row) = stream.simple(&query).await?.into_iter().next() else { return Ok(None) };
    let mut fields = row.into_iter().map(Option::unwrap_or_default);
    let mut field = || fields.next().unwrap_or_default();
    for (what, wanted) in [("plugin", &manifest.plugin), ("database", &manifest.database)] {
        let found = field();
        if found != *wanted {
            return Err(Fault::person(format!(
                "slot \"{slot}\" is of {what} '{found}', but the archive of {wanted}"
            ))
            .hint("check --slot and --archive"));
        }
    }
    // None while the slot is being created, and of a lost one.
    let confirmed = field().parse().unwrap_or_default();
    let (lost, active) = (field() == "lost", field() == "t");
    Ok(Some(SlotState { name: slot.to_owned(), confirmed, lost, active }))
}
