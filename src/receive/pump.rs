//! Reading messages from the source into the log.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::archive::Writer;
use crate::faults;
use crate::meter::METER;
use crate::model::{Fault, Position};
use crate::pg::{Event, ReplicationReceiver};

use super::door::{Arrival, Door};
use super::herald::Herald;
use super::sequences::Sampler;
use super::{Control, Ended, healthy, is_complete, log_ended};

/// While the source is ahead of us it sends message by message. For so long they gather in the socket, unless the last read has
/// brought so much that there is no need: then one read brings many, and neither side pays for each.
const GATHER: Duration = Duration::from_millis(1);
const GATHERED_BYTES: usize = 64 << 10;
/// Behind so many bytes of one transaction its commit is no longer a matter of an instant.
const LONG_BYTES: usize = 1 << 20;
/// How long a frame may wait for more when the source is ahead of us and latency means nothing.
const LINGER: Duration = Duration::from_millis(100);
/// A commit that the source sends within this time is live: it goes to the disk as soon as that is idle.
const LIVE_SECONDS: f64 = 1.0;
/// Idle progress is written to the log at least this often, or after this much WAL.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
const IDLE_BYTES: u64 = 16 << 20;
/// Silence after which the source is asked for a word, and after which the connection counts as dead.
const ASK_AFTER: Duration = Duration::from_secs(10);
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// State of one connection.
struct Pump<'w> {
    writer: &'w mut Writer,
    door: Door,
    /// The last commit was sent right after it was made.
    live: bool,
    /// Bytes of messages since the last commit.
    uncommitted: usize,
    /// Progress without a transaction that the log does not hold yet.
    idle: Option<Position>,
    idle_written: Instant,
    heard: Instant,
    /// The end of what was given to the disk.
    flushed: Position,
    /// The source says that it has sent everything up to here.
    sent: Position,
    /// A transaction has come since this was last looked at.
    committed: bool,
}

/// Pumps until stopped, until endpos or `until`, or until the connection fails.
pub(super) async fn pump(
    events: &mut ReplicationReceiver,
    door: Door,
    writer: &mut Writer,
    control: &mut Control,
    herald: &Herald,
    until: Option<Position>,
    mut sampler: Option<Sampler>,
) -> Result<Ended, Fault> {
    let mut durable = writer.durable();
    let now = Instant::now();
    let mut pump = Pump {
        flushed: writer.received(),
        writer,
        door,
        live: false,
        uncommitted: 0,
        idle: None,
        idle_written: now,
        heard: now,
        sent: Position::ZERO,
        committed: false,
    };
    let mut tick = tokio::time::interval(LINGER);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gather = false;
    loop {
        if std::mem::take(&mut gather) && !pump.live {
            // All of the thread, so that its runtime does not wake for each piece either.
            std::thread::sleep(GATHER);
        }
        if until.is_some_and(|until| pump.writer.received() >= until) {
            return Ok(Ended::Finished);
        }
        let stopping = *control.stop.borrow();
        let ends = stopping || is_complete(pump.writer, control);
        let seen = pump.sent.max(pump.writer.received());
        let committed = ends && std::mem::take(&mut pump.committed);
        if ends && sampler.as_mut().is_none_or(|sampler| sampler.has_finished(seen, committed)) {
            return Ok(Ended::Finished);
        }
        if let Some(sampler) = sampler.as_mut().filter(|_| !ends) {
            sampler.go_on();
        }
        tokio::select! {
            biased;
            _ = control.stop.wait_for(|stop| *stop), if !stopping => {}
            () = sampled(&mut sampler) => {}
            _ = tick.tick() => {
                healthy(&durable.borrow())?;
                pump.tick(herald)?;
                if let Some(sampler) = &mut sampler {
                    sampler.tick(std::mem::take(&mut pump.committed));
                }
            }
            // Only where something waits for the disk; the rest is seen at a tick.
            changed = durable.changed(), if pump.writer.frame_bytes() > 0 || pump.writer.is_full() => {
                changed.map_err(|_| log_ended())?;
                healthy(&durable.borrow_and_update())?;
            }
            filled = events.fill(), if pump.takes() => {
                match filled {
                    Ok(bytes) => {
                        METER.received_bytes.inc_by(bytes as u64);
                        gather = bytes < GATHERED_BYTES;
                    }
                    Err(fault) => return Ok(Ended::Cut(fault)),
                }
                pump.heard = Instant::now();
                faults::point("receive.after_read");
            }
            () = pump.writer.room(), if pump.writer.is_full() => {}
            () = pump.door.answered(), if pump.door.is_asking() => {}
            () = tokio::task::yield_now(), if pump.door.is_joining() && !pump.writer.is_full() => {}
        }
        if !pump.door.is_ready() && !pump.writer.is_full() {
            pump.door.work(pump.writer)?;
        }
        while pump.takes() {
            match events.try_next() {
                Ok(Some(event)) => pump.take(event, control, herald)?,
                Ok(None) => break,
                Err(fault) => return Ok(Ended::Cut(fault)),
            }
        }
        if let Some(again) = pump.door.again() {
            return Ok(Ended::Again(again));
        }
        herald.received(pump.writer.received());
        control.received.send_replace(pump.writer.received());
        if pump.live && durable.borrow().position >= pump.flushed {
            pump.flush();
        }
    }
}

/// Waits for a sample of the sequences that is under way. Cancel-safe.
async fn sampled(sampler: &mut Option<Sampler>) {
    match sampler {
        Some(sampler) => sampler.done().await,
        None => std::future::pending().await,
    }
}

impl Pump<'_> {
    /// Whether messages may be read: they can go to the log or to the spool.
    fn takes(&self) -> bool {
        self.door.is_ready() && !self.writer.is_full()
    }

    fn take(&mut self, event: Event<'_>, control: &Control, herald: &Herald) -> Result<(), Fault> {
        match event {
            Event::Data { wal_start, send_time, message } => {
                self.data(Arrival { start: wal_start, send_time, message })
            }
            Event::Keepalive { wal_end, reply_requested, .. } => {
                self.keepalive(wal_end, reply_requested, control, herald);
                Ok(())
            }
            Event::Notice { sqlstate, message } => {
                tracing::warn!(sqlstate, message, "notice from the source");
                Ok(())
            }
        }
    }

    fn data(&mut self, arrival: Arrival<'_>) -> Result<(), Fault> {
        self.uncommitted += arrival.message.len();
        let committed = self.door.take(arrival, self.writer)?;
        faults::point("receive.after_append");
        if !self.door.is_between_transactions() {
            self.idle = None;
        }
        if let Some(commit_time) = committed {
            self.committed = true;
            self.uncommitted = 0;
            self.live = arrival.send_time.seconds_since(commit_time) < LIVE_SECONDS;
        } else if self.uncommitted >= LONG_BYTES {
            self.live = false;
        }
        Ok(())
    }

    fn keepalive(&mut self, wal_end: Position, reply_requested: bool, control: &Control, herald: &Herald) {
        faults::point("receive.at_keepalive");
        self.sent = self.sent.max(wal_end);
        if self.door.is_between_transactions() && wal_end > self.writer.received() {
            self.idle = Some(wal_end);
        }
        // Once: what comes while the last sample of the sequences is awaited needs no segment of its own.
        let received = self.writer.received();
        let endpos_reached =
            control.endpos.borrow().is_some_and(|endpos| wal_end >= endpos && received < endpos);
        if reply_requested || endpos_reached {
            // A source that shuts down waits until we have confirmed everything.
            self.write_idle();
            self.writer.seal();
        }
        if reply_requested {
            herald.answer();
        }
    }

    fn flush(&mut self) {
        self.writer.flush();
        self.flushed = self.writer.received();
    }

    fn write_idle(&mut self) {
        if let Some(position) = self.idle.take() {
            self.writer.progress(position);
            self.flush();
            faults::point("receive.after_idle");
            self.idle_written = Instant::now();
        }
    }

    fn tick(&mut self, herald: &Herald) -> Result<(), Fault> {
        self.flush();
        if let Some(idle) = self.idle {
            let far = idle.bytes_since(self.writer.received()) >= IDLE_BYTES;
            if far || self.idle_written.elapsed() >= IDLE_INTERVAL {
                self.write_idle();
            }
        }
        if !self.takes() {
            self.heard = Instant::now();
        }
        if herald.has_ended() {
            return Err(Fault::retry("the source takes no status any more"));
        }
        let silence = self.heard.elapsed();
        if silence >= DEAD_AFTER {
            return Err(Fault::retry(format!("no word from the source for {} seconds", silence.as_secs())));
        }
        if silence >= ASK_AFTER {
            herald.ask();
        }
        Ok(())
    }
}
