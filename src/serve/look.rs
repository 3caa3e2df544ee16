//! One look at each part of the road. Takes no lock, and says what it could not reach.

use std::path::Path;
use std::time::Duration;

use tokio_postgres::Client;

use crate::archive::{Archive, ArchiveTotals, Location, Registered, totals};
use crate::model::{Fault, Position};
use crate::pg::progress::Progress;
use crate::pg::vitals::{self, Blocker};
use crate::pg::{Conninfo, control, copied, dead, inspect, now, progress, slot};
use crate::sentinel::{Control, Home, Sentinel};

use super::alarms::{Limits, Seen, signs};
use super::pending::Pending;
use super::status::Status;
use super::trend::Rates;
use super::ward::Ward;

/// What was found of one part, or why nothing was.
pub type Found<T> = Result<T, String>;

/// All parts at about the same moment.
#[derive(Clone, Debug)]
pub struct Look {
    pub source: Found<SourceLook>,
    pub target: Found<TargetLook>,
    pub archive: Found<ArchiveLook>,
}

/// Where the parts are.
#[derive(Clone, Debug)]
pub struct Road {
    pub source: Option<Conninfo>,
    pub target: Option<Conninfo>,
    pub slot: String,
    pub publication: String,
    /// Names the progress row.
    pub stream: String,
    /// From how old on a transaction of the source is told of.
    pub transaction_age: Duration,
}

/// The source as its slot's owner sees it.
#[derive(Clone, Debug)]
pub struct SourceLook {
    pub slot: Option<slot::Slot>,
    pub current_lsn: Position,
    /// Transactions that hold the slot back.
    pub holders: Vec<Blocker>,
    /// Published tables whose UPDATE and DELETE fail there.
    pub keyless: Vec<String>,
    /// Its clock against this machine's.
    pub clock_ahead_seconds: f64,
}

#[derive(Clone, Debug)]
pub struct TargetLook {
    pub progress: Option<Progress>,
    /// Transactions of the stream that were set aside.
    pub dead: Option<dead::Open>,
    /// Its tables are being copied, and nothing is applied before they all are.
    pub is_copying: bool,
    /// Who has locks that the applier waits for.
    pub in_the_way: Vec<Blocker>,
    pub clock_ahead_seconds: f64,
}

/// The archive's part, with its sentinel and whether a receiver holds its lock.
#[derive(Clone, Debug)]
pub struct ArchiveLook {
    pub totals: ArchiveTotals,
    /// How far the sealed segments reach.
    pub sealed: Position,
    /// How far it is in its store; none without one.
    pub stored: Option<Position>,
    /// None without a target to be behind.
    pub pending: Option<Pending>,
    pub control: Option<Control>,
    pub receiving: bool,
    pub appliers: Vec<Registered>,
    pub disk: Option<Disk>,
}

/// The disk that the archive's folder is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub free_bytes: u64,
    pub size_bytes: u64,
}

/// How long a question may take before the server counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(15);
const APPLICATION: &str = "pgsluice status";

/// A connection that is kept from one look to the next.
#[derive(Default)]
pub struct Line(Option<Client>);

impl Line {
    /// Asks, over the connection that is there or a new one; after a fault that one is given up.
    pub async fn ask<T>(
        &mut self,
        conninfo: &Conninfo,
        question: impl AsyncFnOnce(&Client) -> Result<T, Fault>,
    ) -> Found<T> {
        let kept = self.0.take().filter(|client| !client.is_closed());
        let asked = async {
            let client = match kept {
                Some(client) => client,
                None => control::connect(conninfo, APPLICATION).await?,
            };
            let answer = question(&client).await?;
            Ok::<_, Fault>((client, answer))
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok((client, answer))) => {
                self.0 = Some(client);
                Ok(answer)
            }
            Ok(Err(fault)) => Err(fault.message),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

impl Look {
    /// Looks once. `home` is the sentinel's.
    pub async fn at(road: &Road, location: &Location, home: Result<Home, Fault>) -> Look {
        let (mut source_line, mut target_line) = (Line::default(), Line::default());
        let (source, target) = tokio::join!(road.source(&mut source_line), road.target(&mut target_line));
        let applied = target.as_ref().ok().and_then(TargetLook::applied);
        let archive = tokio::task::block_in_place(|| {
            let (archive, home) = (location.open(), home);
            let archive = archive.and_then(|archive| Ok((archive, home?))).map_err(|fault| fault.message);
            archive.and_then(|(archive, home)| {
                let notes = Notes::read(&archive, &home, false);
                notes.warn();
                ArchiveLook::read(&archive, &notes, applied, false)
            })
        });
        Look { source, target, archive }
    }

    /// What can be said after one look: alarms are those that need no time to be told.
    pub fn status(&self, road: &Road) -> Status {
        let now = now();
        let mut status = Status::of(self, &road.slot, now);
        let seen = Seen {
            road,
            look: self,
            status: &status,
            rates: Rates::default(),
            limits: Limits::default(),
            receives: false,
            applies: false,
        };
        let at_once = signs(&seen).into_iter().filter(|sign| sign.patience.is_zero());
        let mut ward = Ward::default();
        ward.step(now, at_once.collect(), &[]);
        status.alarms = ward.open();
        status
    }
}

impl Road {
    pub async fn source(&self, line: &mut Line) -> Found<SourceLook> {
        let Some(conninfo) = &self.source else { return Err("no --source was given".into()) };
        line.ask(conninfo, async |client| {
            Ok(SourceLook {
                slot: slot::read(client, &self.slot).await?,
                current_lsn: inspect::current_position(client).await?,
                holders: vitals::long_transactions(client, self.transaction_age).await?,
                keyless: vitals::keyless(client, &self.publication).await?,
                clock_ahead_seconds: vitals::clock_ahead(client).await?,
            })
        })
        .await
    }

    pub async fn target(&self, line: &mut Line) -> Found<TargetLook> {
        let Some(conninfo) = &self.target else { return Err("no --target was given".into()) };
        line.ask(conninfo, async |client| {
            Ok(TargetLook {
                progress: progress::read(client, &self.stream).await?,
                dead: dead::open(client, &self.stream).await?,
                is_copying: copied::clone(client, &self.stream)
                    .await?
                    .is_some_and(|clone| clone.through.is_none()),
                in_the_way: vitals::in_the_way(client).await?,
                clock_ahead_seconds: vitals::clock_ahead(client).await?,
            })
        })
        .await
    }
}

impl TargetLook {
    pub fn applied(&self) -> Option<Position> {
        self.progress.as_ref().map(|progress| progress.lsn)
    }
}

/// What is kept beside the log, in the store where there is one.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    control: Option<Control>,
    appliers: Vec<Registered>,
    /// How far the log is in its store.
    stored: Option<Position>,
    /// Why something could not be read.
    troubles: Vec<String>,
}

impl Notes {
    /// Blocks on the network where there is a store, for as long as its retries take. `ours`: this process is the one that writes to it.
    pub fn read(archive: &Archive, home: &Home, ours: bool) -> Notes {
        fn seen<T>(read: Result<T, Fault>, troubles: &mut Vec<String>) -> Option<T> {
            read.map_err(|fault| troubles.push(fault.to_string())).ok()
        }
        let mut troubles = Vec::new();
        let stored = (archive.has_store() && !ours).then(|| archive.stored_through());
        let stored = stored.and_then(|stored| seen(stored, &mut troubles)).flatten();
        let control = Sentinel::open(home).and_then(|sentinel| sentinel.read());
        let control = seen(control, &mut troubles);
        let appliers = seen(archive.appliers(), &mut troubles).unwrap_or_default();
        Notes { control, appliers, stored, troubles }
    }

    fn warn(&self) {
        self.troubles.iter().for_each(|trouble| tracing::warn!("{trouble}"));
    }

    /// Says what could not be read, unless something could not be before.
    pub fn warn_after(&self, before: &Notes) {
        if before.troubles.is_empty() {
            self.warn();
        }
    }

    /// With what was known before, where it could not be read now.
    pub fn or(self, before: Notes) -> Notes {
        Notes {
            control: self.control.or(before.control),
            appliers: if self.appliers.is_empty() { before.appliers } else { self.appliers },
            stored: self.stored.or(before.stored),
            troubles: self.troubles,
        }
    }
}

impl ArchiveLook {
    /// Blocks on the disk, and on the network where segments are only in the store.
    pub fn read(
        archive: &Archive,
        notes: &Notes,
        applied: Option<Position>,
        ours: bool,
    ) -> Found<ArchiveLook> {
        let control = notes.control;
        let replay = applied.map(|lsn| replay(lsn, control.as_ref()));
        let look = || {
            let start = archive.manifest().start;
            let sealed = archive.listing()?.iter().filter_map(|name| name.through).max();
            Ok::<_, Fault>(ArchiveLook {
                totals: totals(archive)?,
                sealed: sealed.unwrap_or(start),
                stored: match archive.has_store() {
                    true if ours => Some(archive.stored_as_seen().unwrap_or(start)),
                    true => notes.stored,
                    false => None,
                },
                pending: replay.map(|replay| Pending::read(archive, replay)).transpose()?,
                control,
                receiving: ours || archive.has_receiver()?,
                appliers: notes.appliers.clone(),
                disk: Disk::under(archive.root()),
            })
        };
        look().map_err(|fault| fault.message)
    }
}

impl Disk {
    fn under(folder: &Path) -> Option<Disk> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        Some(Disk {
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            size_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }
}

/// The row is the truth, but while nothing is written it stands still; then the applier's own word is further.
pub(super) fn replay(row: Position, control: Option<&Control>) -> Position {
    row.max(control.map_or(Position::ZERO, |control| control.replay_lsn))
}
