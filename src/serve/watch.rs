//! Looks at source, target and archive again and again, beside a process that runs.
//!
//! Three threads: one asks the servers, judges, and answers requests; the others read the archive and what is kept beside it, which blocks. What a look
//! costs is bounded by its share of time: the longer one takes, the later comes the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::archive::Archive;
use crate::copy::Progress;
use crate::follow::{Mode, Standing};
use crate::meter::METER;
use crate::model::{Fault, Position, Timestamp};
use crate::pg::now;
use crate::sentinel::Home;

use super::alarms::{Limits, Part, Seen, arrival_seconds, signs, some};
use super::board::{Board, Shown};
use super::exposition::memory_bytes;
use super::hook::{Hooks, Teller};
use super::http::{self, Door, Listen};
use super::look::{ArchiveLook, Found, Line, Look, Notes, Road};
use super::status::Status;
use super::trend::{Rates, Sample, Trend};
use super::ward::Ward;

/// The shortest time between two looks at one part.
const PACE: Duration = Duration::from_secs(2);
/// A look may take this part of the time.
const SHARE: u32 = 30;
const PACE_MAX: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(1500);
/// How often a thread that waits looks whether it shall end.
const GLANCE: Duration = Duration::from_millis(100);
/// The conductor tells how things stand once a second; after so long without a word it is taken for hung.
const ALIVE: Duration = Duration::from_secs(15);

/// What is watched, and for whom.
pub struct Watched {
    pub road: Road,
    pub archive: Archive,
    pub home: Home,
    pub limits: Limits,
    pub hooks: Hooks,
    pub listen: Option<Listen>,
    pub token: Option<String>,
    /// How far behind in seconds the target may be to count as ready.
    pub ready_lag_seconds: f64,
    /// Of a copy that runs in this process.
    pub copy: Option<Progress>,
    pub receives: bool,
    pub applies: bool,
}

/// Watches until it is dropped.
pub struct Watch {
    standing: watch::Sender<Option<(Standing, Instant)>>,
    /// Where it listens; the port is a real one, also where 0 was asked for.
    pub address: Option<std::net::SocketAddr>,
}

impl Watch {
    pub fn start(watched: Watched) -> Result<Watch, Fault> {
        let listener = watched.listen.map(http::bind).transpose()?;
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let door = Door {
            home: watched.home.clone(),
            source: watched.road.source.clone(),
            is_loopback: address.is_some_and(|address| address.ip().is_loopback()),
            token: watched.token.clone(),
        };
        let door = Arc::new(door.checked()?);
        let teller = watched.hooks.clone().start()?;
        let unstarted = |error| Fault::stop(format!("cannot start the status page's thread: {error}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unstarted)?;
        let (standing, heard) = watch::channel(None);
        let applied = watch::Sender::new(None);
        let archive = watch::Sender::new(Err(UNSEEN.to_owned()));
        let looks = archive.subscribe();
        let notes = watch::Sender::new(None);
        let at_notes = AtNotes {
            archive: watched.archive.clone(),
            home: watched.home.clone(),
            ours: watched.receives,
            found: notes.clone(),
        };
        let at_archive = AtArchive {
            archive: watched.archive.clone(),
            notes: notes.subscribe(),
            ours: watched.receives,
            applied: applied.subscribe(),
            found: archive,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("watch-notes").spawn(move || at_notes.run()).map_err(unstarted)?;
        thread("watch-archive").spawn(move || at_archive.run()).map_err(unstarted)?;
        let run = move || {
            runtime.block_on(async move {
                let board = Arc::new(Board::default());
                if let Some(listener) =
                    listener.and_then(|listener| tokio::net::TcpListener::from_std(listener).ok())
                {
                    tokio::spawn(http::serve(listener, Arc::clone(&board), door));
                }
                watch_all(watched, heard, looks, applied, &board, &teller).await;
            });
            // Who still answers is not waited for.
            runtime.shutdown_background();
        };
        thread("serve").spawn(run).map_err(unstarted)?;
        Ok(Watch { standing, address })
    }

    /// How things stand, as the conductor tells it.
    pub fn tell(&self, standing: &Standing) {
        self.standing.send_replace(Some((*standing, Instant::now())));
    }
}

const UNSEEN: &str = "not looked at yet";

/// The thread that reads what is kept beside the log. A store that is away holds it up, and nothing else.
struct AtNotes {
    archive: Archive,
    home: Home,
    ours: bool,
    found: watch::Sender<Option<Notes>>,
}

impl AtNotes {
    fn run(self) {
        again_and_again(
            &self.found,
            |_| true,
            || {
                let before = self.found.borrow().clone().unwrap_or_default();
                let notes = Notes::read(&self.archive, &self.home, self.ours);
                notes.warn_after(&before);
                Some(notes.or(before))
            },
        );
    }
}

/// The thread that reads the archive.
struct AtArchive {
    archive: Archive,
    notes: watch::Receiver<Option<Notes>>,
    /// This process is the one that writes to it.
    ours: bool,
    applied: watch::Receiver<Option<Position>>,
    found: watch::Sender<Found<ArchiveLook>>,
}

impl AtArchive {
    fn run(self) {
        again_and_again(&self.found, Result::is_ok, || {
            // Copied: who holds what is borrowed holds up who writes it.
            let (notes, applied) = (self.notes.borrow().clone(), *self.applied.borrow());
            match notes {
                None => Err(UNSEEN.to_owned()),
                Some(notes) => ArchiveLook::read(&self.archive, &notes, applied, self.ours),
            }
        });
    }
}

/// Looks until nobody wants to know any more.
fn again_and_again<T>(found: &watch::Sender<T>, is_found: impl Fn(&T) -> bool, look: impl Fn() -> T) {
    while !found.is_closed() {
        let began = Instant::now();
        let seen = look();
        let pause = pause(began.elapsed(), is_found(&seen));
        drop(found.send_replace(seen));
        let until = Instant::now() + pause;
        while Instant::now() < until && !found.is_closed() {
            std::thread::sleep(GLANCE);
        }
    }
}

/// How long to wait after a look that took so long. One that found nothing has but waited: that all is well again is to be seen soon.
fn pause(took: Duration, is_found: bool) -> Duration {
    if is_found { (took * SHARE).clamp(PACE, PACE_MAX) } else { PACE }
}

/// Looks and judges until the process that is watched drops its end.
async fn watch_all(
    watched: Watched,
    mut heard: watch::Receiver<Option<(Standing, Instant)>>,
    archive: watch::Receiver<Found<ArchiveLook>>,
    applied: watch::Sender<Option<Position>>,
    board: &Board,
    teller: &Teller,
) {
    let source = watch::Sender::new(Err(UNSEEN.to_owned()));
    let target = watch::Sender::new(Err(UNSEEN.to_owned()));
    let at_source = async {
        let mut line = Line::default();
        loop {
            let began = Instant::now();
            let found = watched.road.source(&mut line).await;
            let pause = pause(began.elapsed(), found.is_ok());
            drop(source.send_replace(found));
            tokio::time::sleep(pause).await;
        }
    };
    let at_target = async {
        let mut line = Line::default();
        loop {
            let began = Instant::now();
            let found = watched.road.target(&mut line).await;
            if let Ok(look) = &found {
                applied.send_replace(look.applied());
            }
            let pause = pause(began.elapsed(), found.is_ok());
            drop(target.send_replace(found));
            tokio::time::sleep(pause).await;
        }
    };
    let judging = async {
        let mut judge = Judge {
            watched: &watched,
            trend: Trend::new(watched.limits.patience),
            ward: Ward::default(),
            seconds: 0,
        };
        loop {
            // At the conductor's pace, so that a position is always as old as the one before it was; and without it at one's own.
            if let Ok(Err(_)) = tokio::time::timeout(TICK, heard.changed()).await {
                return;
            }
            let standing = *heard.borrow_and_update();
            let look = Look {
                source: source.borrow().clone(),
                target: target.borrow().clone(),
                archive: archive.borrow().clone(),
            };
            judge.step(&look, standing, board, teller);
        }
    };
    tokio::select! {
        () = judging => {}
        () = at_source => {}
        () = at_target => {}
    }
}

/// Puts what was seen together, once a second.
struct Judge<'a> {
    watched: &'a Watched,
    trend: Trend,
    ward: Ward,
    seconds: u64,
}

impl Judge<'_> {
    fn step(&mut self, look: &Look, standing: Option<(Standing, Instant)>, board: &Board, teller: &Teller) {
        let now = now();
        let watched = self.watched;
        let Look { source, target, archive } = look;
        let mut status = Status::of(look, &watched.road.slot, now);
        let alive = standing.is_none_or(|(_, at)| at.elapsed() < ALIVE);
        let standing = standing.map(|(standing, _)| standing);
        if let Some(standing) = &standing {
            self.refine(&mut status, standing);
        }
        self.trend.push(sample(&status, now));
        let rates = self.trend.rates();
        let seen = Seen {
            road: &watched.road,
            look,
            status: &status,
            rates,
            limits: watched.limits,
            receives: watched.receives && standing.is_some(),
            applies: watched.applies && standing.is_some(),
        };
        // Before anything was looked at there is nothing to be judged.
        let is_unseen = |error: Option<&String>| error.is_some_and(|error| error == UNSEEN);
        let unseen = is_unseen(source.as_ref().err())
            || is_unseen(target.as_ref().err())
            || is_unseen(archive.as_ref().err());
        let signs = if unseen { Vec::new() } else { signs(&seen) };
        let unseen_parts = [
            (Part::Source, source.is_err()),
            (Part::Target, target.is_err()),
            (Part::Archive, archive.is_err()),
        ];
        let unseen_parts: Vec<Part> =
            unseen_parts.into_iter().filter_map(|(part, is)| is.then_some(part)).collect();
        for change in self.ward.step(now, signs, &unseen_parts) {
            teller.tell(&change);
        }
        status.alarms = self.ward.open();
        board.exposition().set(&status, look, watched.limits.delay);
        let before = board.shown();
        let history_json = match self.seconds {
            seconds if seconds < 60 || seconds.is_multiple_of(5) => {
                json!(self.trend.history()).to_string().into()
            }
            _ => before.history_json.clone(),
        };
        self.seconds = self.seconds.saturating_add(1);
        let mut whole = status.json();
        if let Some(fields) = whole.as_object_mut() {
            fields.insert("process".into(), self.process(&status, &rates, now));
            fields.insert("copy".into(), watched.copy.as_ref().map_or(Value::Null, copy_json));
        }
        let unready = if unseen { Some(UNSEEN.to_owned()) } else { self.unready(&status) };
        board.show(Shown {
            status_json: whole.to_string().into(),
            tables_json: json!(status.tables()).to_string().into(),
            history_json,
            is_alive: alive,
            control: archive.as_ref().ok().and_then(|look| look.control),
            unready,
            status: Some(status),
        });
    }

    /// What this process knows of itself is newer than what was looked up.
    fn refine(&self, status: &mut Status, standing: &Standing) {
        status.held |= standing.held;
        if self.watched.receives {
            status.write_lsn = some(standing.write_lsn).or(status.write_lsn);
            if let Ok(source) = &mut status.source {
                source.current_lsn = source.current_lsn.max(standing.write_lsn);
            }
            if let Ok(contents) = &mut status.archive {
                contents.last_lsn = contents.last_lsn.max(standing.flush_lsn);
            }
        }
        if self.watched.applies {
            status.mode = Some(standing.mode);
            if let Ok(applier) = &mut status.applier {
                applier.replay_lsn = applier.replay_lsn.max(standing.replay_lsn);
                applier.lag_bytes = Some(standing.lag_bytes);
                if standing.is_lag_known {
                    applier.lag_seconds = Some(standing.lag_seconds);
                }
            }
        }
    }

    fn unready(&self, status: &Status) -> Option<String> {
        if !self.watched.applies {
            return Some("this process applies nothing".into());
        }
        if status.mode == Some(Mode::Done) {
            return None;
        }
        if !matches!(status.mode, Some(Mode::Live | Mode::Catchup)) {
            return Some(format!("mode is {}", status.mode_name()));
        }
        let limit = self.watched.ready_lag_seconds + self.watched.limits.delay.as_secs_f64();
        match &status.applier {
            Err(why) => Some(why.clone()),
            Ok(applier) => match applier.lag_seconds {
                Some(lag) if lag > limit => Some(format!("{lag:.1} s behind, more than {limit:.1} s")),
                // Before the first transaction it is not known when that was.
                None if applier.lag_bytes.is_some_and(|bytes| bytes > 0) => {
                    Some("behind, and nothing was applied yet".into())
                }
                _ => None,
            },
        }
    }

    fn process(&self, status: &Status, rates: &Rates, now: Timestamp) -> Value {
        let lag = status.applier.as_ref().ok().and_then(|applier| applier.lag_bytes);
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "name": self.watched.hooks.name,
            "at": now,
            "receives": self.watched.receives,
            "applies": self.watched.applies,
            "writable": self.watched.token.is_some(),
            "apply_delay_seconds": self.watched.limits.delay.as_secs_f64(),
            "memory_bytes": memory_bytes(),
            "rates": rates,
            "arrival_seconds": lag.and_then(|lag| arrival_seconds(lag, rates)),
        })
    }
}

fn sample(status: &Status, now: Timestamp) -> Sample {
    let applier = status.applier.as_ref().ok();
    let durable = status.archive.as_ref().map(|contents| contents.last_lsn).unwrap_or_default();
    Sample {
        at: now,
        source: status.source.as_ref().map(|source| source.current_lsn).unwrap_or_default(),
        received: status.write_lsn.unwrap_or(durable),
        applied: applier.map(|applier| applier.replay_lsn).unwrap_or_default(),
        lag_bytes: applier.and_then(|applier| applier.lag_bytes).unwrap_or_default(),
        lag_seconds: applier.and_then(|applier| applier.lag_seconds).unwrap_or_default(),
        received_bytes: METER.received_bytes.get(),
        changes: METER.applied_changes.get(),
        batches: METER.batches.get(),
        full_batches: METER.full_batches.get(),
    }
}

/// How far a copy is. Rows that a table will have are the source's estimate.
fn copy_json(progress: &Progress) -> Value {
    let tables = progress.tables();
    let rows = tables.iter().map(|table| {
        json!({
            "name": table.name,
            "rows": table.rows(),
            "rows_estimated": table.estimate,
            "bytes": table.bytes(),
            "parts": table.parts,
            "running": table.is_running(),
            "done": table.is_done(),
        })
    });
    json!({ "tables": rows.collect::<Vec<_>>() })
}
