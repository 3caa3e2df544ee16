//! Conducts the stages: what runs, until when, and what the operator is told. Hides tasks, signals and what the sentinel
//! says; every decision is the [`Machine`]'s.

mod handover;
mod lease;
mod machine;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::apply::{self, Applied, Outcome, Target};
use crate::archive::{Archive, Durable, Tail, WriterOptions};
use crate::model::{Fault, Position};
use crate::pg::now;
use crate::receive::{self, Source};
use crate::sentinel::{Control, Link, Reached, Sentinel};

use lease::Lease;

pub use handover::{Handover, hand_over};
pub use machine::{Command, Event, Machine, Mode, Role};

/// The shortest time between two looks at a position, which a live source moves a thousand times a second.
const PACE: Duration = Duration::from_millis(10);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);

/// What a process takes part in: receives with a source, applies with a target.
pub struct Options {
    pub archive: Archive,
    pub sentinel: Sentinel,
    pub source: Option<Source>,
    pub target: Option<Target>,
    /// Where this run stops; without it, where the sentinel says.
    pub endpos: Option<Position>,
    pub writer: WriterOptions,
    /// Who runs this may hold the applying back; always open otherwise.
    pub gate: Option<watch::Receiver<Gate>>,
}

/// Whether what is received is applied too, besides what the sentinel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Only received, and without an end, since the target is not ready.
    Shut,
    /// Up to `until`, if that is said, and at least up to `least`.
    Open { until: Option<Position>, least: Position },
    /// Everything is to end.
    Stop,
}

impl Gate {
    /// What is wanted, as far as the gate lets it through. A hold needs no gate: it is later than what the target began with.
    fn wanted(self, apply: bool, endpos: Option<Position>, hold: Option<Position>) -> Event {
        match self {
            Gate::Shut => Event::Sentinel { apply: false, endpos: None, hold },
            Gate::Open { least, .. } => {
                Event::Sentinel { apply, endpos: endpos.map(|endpos| endpos.max(least)), hold }
            }
            Gate::Stop => Event::Failed,
        }
    }
}

/// How the pipeline stands, for a progress line or a report.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Standing {
    pub mode: Mode,
    /// Somebody has asked the applier to stand where it is, for a while.
    pub held: bool,
    pub write_lsn: Position,
    pub flush_lsn: Position,
    pub replay_lsn: Position,
    pub lag_bytes: u64,
    /// Age of the first transaction that waits to be applied, as far as the applier has read.
    pub lag_seconds: f64,
    /// Whether that is known.
    #[serde(skip)]
    pub is_lag_known: bool,
    /// Applied by this process.
    pub transactions: u64,
    pub changes: u64,
}

/// Runs until endpos, a signal or a fault. `tell` hears how things stand about once a second.
pub async fn run(options: Options, mut tell: impl FnMut(&Standing)) -> Result<Standing, Fault> {
    let Options { archive, sentinel, source, target, endpos, writer, gate } = options;
    let mut sentinel = Link::open(sentinel)?;
    let mut control = sentinel.control();
    let mut lease = Lease::default();
    lease.hear(control.hold, Instant::now());
    // What was typed holds for this run, until somebody sets another one in the sentinel.
    let mut endpos = endpos.or(control.endpos());
    let mut set = control.endpos();
    let role = match (&source, &target) {
        (Some(_), Some(_)) => Role::Both,
        (None, _) => Role::Apply,
        (_, None) => Role::Receive,
    };
    let mut runner = Runner::new(Stages { archive, source, target, writer });
    // Without one it never changes.
    let (_open, open) = watch::channel(Gate::Open { until: None, least: Position::ZERO });
    let mut gate = gate.unwrap_or(open);
    let mut machine = match said(*gate.borrow(), &control, endpos, &lease) {
        Event::Sentinel { apply, endpos, hold } => Machine::new(role, apply, endpos).held_at(hold),
        _ => Machine::new(role, false, None),
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut second = tokio::time::interval(TELL);
    let mut event = Event::Started;
    let mut waiting = VecDeque::new();
    let mut signals = 0;
    let (mut flushed_at, mut applied_at) = (Instant::now(), Instant::now());
    loop {
        signals += u32::from(event == Event::Signal);
        if signals > 1 {
            return Err(Fault::stop("ended at once by a second signal")
                .hint("nothing is lost: run the same command again to resume"));
        }
        for command in machine.step(event) {
            if command == Command::Finish {
                sentinel.tell(runner.reached(&machine, &mut lease));
                sentinel.close().await;
                let standing = runner.standing(&machine);
                return runner.fault.take().map_or(Ok(standing), Err);
            }
            runner.execute(command);
        }
        if let Some(next) = waiting.pop_front() {
            event = next;
            continue;
        }
        event = tokio::select! {
            biased;
            _ = interrupt.recv() => Event::Signal,
            _ = terminate.recv() => Event::Signal,
            Some(ended) = runner.ended.recv() => {
                // What the stages have said before comes before the end.
                if runner.applied.has_changed().unwrap_or(true) {
                    waiting.push_back(runner.applied());
                }
                waiting.push_back(runner.ended(ended));
                Event::Durable(*runner.flushed.borrow_and_update())
            }
            Ok(()) = paced(flushed_at, runner.flushed.changed()) => {
                flushed_at = Instant::now();
                Event::Durable(*runner.flushed.borrow_and_update())
            }
            Ok(()) = paced(applied_at, runner.applied.changed()) => {
                applied_at = Instant::now();
                runner.applied()
            }
            _ = second.tick() => {
                runner.replayed.send_replace(machine.applied());
                sentinel.tell(runner.reached(&machine, &mut lease));
                tell(&runner.standing(&machine));
                // A hold may have come to its end.
                said(*gate.borrow(), &control, endpos, &lease)
            }
            heard = sentinel.changed() => {
                control = heard;
                lease.hear(control.hold, Instant::now());
                if set != control.endpos() {
                    set = control.endpos();
                    endpos = set;
                }
                said(*gate.borrow(), &control, endpos, &lease)
            }
            Ok(()) = gate.changed() => {
                let gate = *gate.borrow_and_update();
                if let Gate::Open { until: Some(until), .. } = gate {
                    endpos = Some(until);
                }
                said(gate, &control, endpos, &lease)
            }
        };
    }
}

/// Waits for it, but not before some time has gone by since the last one.
async fn paced<T>(last: Instant, event: impl Future<Output = T>) -> T {
    tokio::time::sleep_until(last + PACE).await;
    event.await
}

/// What holds now.
fn said(gate: Gate, control: &Control, endpos: Option<Position>, lease: &Lease) -> Event {
    gate.wanted(control.apply, endpos, lease.hold(Instant::now()))
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Fault> {
    signal(kind).map_err(|error| Fault::stop(format!("can't listen for signals: {error}")))
}

/// A stage that has come to its end.
enum Ended {
    Receiver(Result<Position, Fault>),
    Applier(Result<Outcome, Fault>),
}

/// What the stages are run with.
struct Stages {
    archive: Archive,
    source: Option<Source>,
    target: Option<Target>,
    writer: WriterOptions,
}

/// Tasks and channels of the stages.
struct Runner {
    stages: Stages,
    ends: mpsc::UnboundedSender<Ended>,
    ended: mpsc::UnboundedReceiver<Ended>,
    stop_receiver: watch::Sender<bool>,
    stop_applier: watch::Sender<bool>,
    endpos: watch::Sender<Option<Position>>,
    hold: watch::Sender<Option<Position>>,
    received: watch::Sender<Position>,
    flush: watch::Sender<Position>,
    flushed: watch::Receiver<Position>,
    apply: watch::Sender<Applied>,
    applied: watch::Receiver<Applied>,
    /// For the source's `replay_lsn`.
    replayed: watch::Sender<Position>,
    /// Of the receiver that runs.
    tail: watch::Sender<Option<Tail>>,
    /// The first fault of a stage: what the process ends with.
    fault: Option<Fault>,
}

impl Runner {
    fn new(stages: Stages) -> Runner {
        let (ends, ended) = mpsc::unbounded_channel();
        let (flush, flushed) = watch::channel(Position::ZERO);
        let (apply, applied) = watch::channel(Applied::default());
        Runner {
            stages,
            ends,
            ended,
            stop_receiver: watch::Sender::new(false),
            stop_applier: watch::Sender::new(false),
            endpos: watch::Sender::new(None),
            hold: watch::Sender::new(None),
            received: watch::Sender::new(Position::ZERO),
            flush,
            flushed,
            apply,
            applied,
            replayed: watch::Sender::new(Position::ZERO),
            tail: watch::Sender::new(None),
            fault: None,
        }
    }

    fn execute(&mut self, command: Command) {
        tracing::debug!(?command, "conductor");
        match command {
            Command::StartReceiver => self.start_receiver(),
            Command::StopReceiver => drop(self.stop_receiver.send_replace(true)),
            Command::StartApplier => self.start_applier(),
            Command::StopApplier => drop(self.stop_applier.send_replace(true)),
            Command::SetEndpos(endpos) => drop(self.endpos.send_replace(endpos)),
            Command::SetHold(hold) => drop(self.hold.send_replace(hold)),
            Command::Finish => {}
        }
    }

    fn start_receiver(&mut self) {
        let Some(source) = self.stages.source.clone() else { return };
        self.stop_receiver.send_replace(false);
        let control = receive::Control {
            stop: self.stop_receiver.subscribe(),
            endpos: self.endpos.subscribe(),
            applied: self.replayed.subscribe(),
            received: self.received.clone(),
        };
        let (archive, writer_options) = (self.stages.archive.clone(), self.stages.writer.clone());
        let (flush, tail) = (self.flush.clone(), self.tail.clone());
        // That of an earlier receiver knows nothing new.
        tail.send_replace(None);
        self.spawn("receiver", Ended::Receiver, async move {
            let writer = receive::open_log(&archive, &source, writer_options, &control).await?;
            let Some(writer) = writer else { return Ok(Position::ZERO) };
            tail.send_replace(Some(writer.tail()));
            let telling = tokio::spawn(tell_durable(writer.durable(), flush));
            let received = receive::receive(&archive, writer, &source, control).await;
            let _ = telling.await;
            received
        });
    }

    fn start_applier(&mut self) {
        let Some(target) = self.stages.target.clone() else { return };
        self.stop_applier.send_replace(false);
        let control = apply::Control {
            stop: self.stop_applier.subscribe(),
            endpos: self.endpos.subscribe(),
            hold: self.hold.subscribe(),
            applied: self.apply.clone(),
        };
        let archive = self.stages.archive.clone();
        let (mut tail, mut stop) = (self.tail.subscribe(), self.stop_applier.subscribe());
        let receives = self.stages.source.is_some();
        self.spawn("applier", Ended::Applier, async move {
            if receives {
                // The log is recovered first; then what is fresh comes from memory.
                tokio::select! {
                    _ = tail.wait_for(Option::is_some) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }
            let tail = tail.borrow().clone();
            apply::apply(&archive, tail, &target, control).await
        });
    }

    /// Runs a stage; however it ends, a panic included, the conductor hears of it.
    fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        ended: impl FnOnce(Result<T, Fault>) -> Ended + Send + 'static,
        stage: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) {
        let (ends, stage) = (self.ends.clone(), tokio::spawn(stage));
        tokio::spawn(async move {
            let result = stage.await.unwrap_or_else(|_| Err(Fault::stop(format!("the {name} has panicked"))));
            let _ = ends.send(ended(result));
        });
    }

    fn applied(&mut self) -> Event {
        let applied = *self.applied.borrow_and_update();
        Event::Applied { position: applied.position, log: applied.log, met: applied.is_live }
    }

    fn ended(&mut self, ended: Ended) -> Event {
        let fault = match ended {
            Ended::Receiver(Ok(log)) => return Event::ReceiverEnded { log },
            Ended::Applier(Ok(outcome)) => {
                return Event::ApplierEnded { reached: outcome == Outcome::Reached };
            }
            Ended::Receiver(Err(fault)) => {
                let _ = self.ends.send(Ended::Receiver(Ok(Position::ZERO)));
                fault
            }
            Ended::Applier(Err(fault)) => {
                let _ = self.ends.send(Ended::Applier(Ok(Outcome::Stopped)));
                fault
            }
        };
        self.fault.get_or_insert(fault);
        Event::Failed
    }

    /// How far things are, for the sentinel; only for looking.
    fn reached(&self, machine: &Machine, lease: &mut Lease) -> Reached {
        let (receives, applies) = (self.stages.source.is_some(), self.stages.target.is_some());
        let told = |is_ours: bool, position| if is_ours { position } else { Position::ZERO };
        Reached {
            write_lsn: told(receives, *self.received.borrow()),
            flush_lsn: told(receives, machine.durable()),
            replay_lsn: told(applies, machine.applied()),
            expired: lease.expired(Instant::now()),
        }
    }

    fn standing(&self, machine: &Machine) -> Standing {
        let applied = *self.applied.borrow();
        let lag_bytes = machine.durable().bytes_since(machine.applied());
        let oldest = applied.oldest.filter(|_| lag_bytes > 0);
        Standing {
            mode: machine.mode(),
            held: machine.is_held(),
            write_lsn: (*self.received.borrow()).max(machine.durable()),
            flush_lsn: machine.durable(),
            replay_lsn: machine.applied(),
            lag_bytes: if self.stages.target.is_some() { lag_bytes } else { 0 },
            lag_seconds: oldest.map_or(0.0, |oldest| now().seconds_since(oldest).max(0.0)),
            is_lag_known: lag_bytes == 0 || oldest.is_some(),
            transactions: applied.transactions,
            changes: applied.changes,
        }
    }
}

/// Passes on how far the log is durable, until it is closed.
async fn tell_durable(mut durable: watch::Receiver<Durable>, flush: watch::Sender<Position>) {
    loop {
        flush.send_replace(durable.borrow_and_update().position);
        if durable.changed().await.is_err() {
            return;
        }
    }
}
