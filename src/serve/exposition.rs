//! Metrics, in the text that Prometheus reads (OpenMetrics 1.0). What is a level is set from the status once a second; what the
//! stages count themselves comes from `meter`.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::follow::Mode;
use crate::meter::METER;
use crate::model::Position;

use super::alarms::Level;
use super::look::{Look, SourceLook};
use super::status::Status;

type Figure = Gauge<f64, AtomicU64>;

/// A place on the road whose position is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "they are the labels' values")]
enum Place {
    source,
    confirmed,
    received,
    durable,
    stored,
    applied,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct At {
    at: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InMode {
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAlarm {
    alarm: &'static str,
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Part {
    part: &'static str,
}

/// The figures and what they are called.
pub(super) struct Exposition {
    registry: Mutex<Registry>,
    position: Family<At, Figure>,
    mode: Family<InMode, Figure>,
    alarms: Family<OfAlarm, Figure>,
    reachable: Family<Part, Figure>,
    lag_bytes: Figure,
    lag_seconds: Figure,
    retained: Figure,
    safe: Figure,
    segments: Figure,
    archive_bytes: Figure,
    archive_raw_bytes: Figure,
    disk_free: Figure,
    memory: Figure,
    delay: Figure,
    requests: Counter,
}

impl Default for Exposition {
    fn default() -> Exposition {
        let mut registry = Registry::with_prefix("pgsluice");
        let exposition = Exposition {
            registry: Mutex::default(),
            position: Family::default(),
            mode: Family::default(),
            alarms: Family::default(),
            reachable: Family::default(),
            lag_bytes: Figure::default(),
            lag_seconds: Figure::default(),
            retained: Figure::default(),
            safe: Figure::default(),
            segments: Figure::default(),
            archive_bytes: Figure::default(),
            archive_raw_bytes: Figure::default(),
            disk_free: Figure::default(),
            memory: Figure::default(),
            delay: Figure::default(),
            requests: Counter::default(),
        };
        let e = &exposition;
        registry.register(
            "build",
            "Version of the program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("position", "LSN in bytes that a part of the road has reached", e.position.clone());
        registry.register("mode", "1 for the mode that the pipeline is in", e.mode.clone());
        registry.register("alarms", "Open alarms", e.alarms.clone());
        registry.register("reachable", "1 where the last look at a part succeeded", e.reachable.clone());
        let mut bytes = |name, help, figure: &Figure| {
            registry.register_with_unit(name, help, Unit::Bytes, figure.clone());
        };
        bytes("lag", "WAL in the archive that the target does not have", &e.lag_bytes);
        bytes("slot_retained_wal", "WAL that the source keeps for the slot", &e.retained);
        bytes(
            "slot_safe_wal",
            "WAL that may be written before the slot is lost; +Inf where nothing limits it",
            &e.safe,
        );
        bytes("archive", "The archive's segments", &e.archive_bytes);
        bytes("archive_raw", "The same, before compression", &e.archive_raw_bytes);
        bytes("disk_free", "Free space where the log is written", &e.disk_free);
        bytes("memory", "Resident memory of this process", &e.memory);
        registry.register_with_unit(
            "lag",
            "Age of what the target has",
            Unit::Seconds,
            e.lag_seconds.clone(),
        );
        registry.register("archive_segments", "Segments of the archive", e.segments.clone());
        registry.register_with_unit(
            "apply_delay",
            "How far the target trails on purpose",
            Unit::Seconds,
            e.delay.clone(),
        );
        registry.register("requests", "Requests answered here", e.requests.clone());
        METER.register(&mut registry);
        Exposition { registry: Mutex::new(registry), ..exposition }
    }
}

impl Exposition {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }

    pub(super) fn count_request(&self) {
        self.requests.inc();
    }

    /// Takes over what is known now.
    pub(super) fn set(&self, status: &Status, look: &Look, delay: Duration) {
        let at = |place, position: Option<Position>| {
            if let Some(position) = position {
                self.position.get_or_create(&At { at: place }).set(position.0 as f64);
            }
        };
        let source = status.source.as_ref().ok();
        let contents = status.archive.as_ref().ok();
        let applier = status.applier.as_ref().ok();
        at(Place::source, source.map(|source| source.current_lsn));
        at(Place::confirmed, source.and_then(|source| source.confirmed_flush_lsn));
        at(Place::received, status.write_lsn);
        at(Place::durable, contents.map(|contents| contents.last_lsn));
        at(Place::stored, status.stored);
        at(Place::applied, applier.map(|applier| applier.replay_lsn));
        for mode in Mode::ALL {
            let is_now = f64::from(u8::from(status.mode == Some(mode)));
            self.mode.get_or_create(&InMode { mode: mode.name() }).set(is_now);
        }
        self.alarms.clear();
        for alarm in &status.alarms {
            let labels = OfAlarm { alarm: alarm.alarm, level: alarm.level.name() };
            self.alarms.get_or_create(&labels).inc();
        }
        // So that a rule finds a figure when all is well.
        for level in Level::ALL {
            self.alarms
                .get_or_create(&OfAlarm { alarm: "any", level: level.name() })
                .set(status.alarms.iter().filter(|alarm| alarm.level == level).count() as f64);
        }
        for (part, there) in
            [("source", source.is_some()), ("archive", contents.is_some()), ("target", applier.is_some())]
        {
            self.reachable.get_or_create(&Part { part }).set(f64::from(u8::from(there)));
        }
        // What is not known is no number, and surely not 0.
        let set = |figure: &Figure, value: Option<f64>| _ = figure.set(value.unwrap_or(f64::NAN));
        let bytes = |bytes: u64| bytes as f64;
        let (source_look, disk) =
            (look.source.as_ref().ok(), look.archive.as_ref().ok().and_then(|look| look.disk));
        set(&self.lag_bytes, applier.and_then(|applier| applier.lag_bytes).map(bytes));
        set(&self.lag_seconds, applier.and_then(|applier| applier.lag_seconds));
        set(&self.retained, source.and_then(|source| source.retained_wal_bytes).map(bytes));
        set(&self.safe, source_look.map(safe_bytes));
        set(&self.segments, contents.map(|contents| contents.segments as f64));
        set(&self.archive_bytes, contents.map(|contents| bytes(contents.bytes)));
        set(&self.archive_raw_bytes, contents.map(|contents| bytes(contents.raw_bytes)));
        set(&self.disk_free, disk.map(|disk| bytes(disk.free_bytes)));
        set(&self.memory, memory_bytes().map(bytes));
        self.delay.set(delay.as_secs_f64());
    }
}

/// WAL that may be written before the slot is lost: 0 where it is, without end where nothing limits it.
fn safe_bytes(look: &SourceLook) -> f64 {
    match &look.slot {
        Some(slot) if slot.wal_status.as_deref() != Some("lost") => {
            slot.safe_wal_bytes.map_or(f64::INFINITY, |bytes| bytes as f64)
        }
        _ => 0.0,
    }
}

/// Resident memory of this process (proc(5), `VmRSS`).
pub(super) fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}
