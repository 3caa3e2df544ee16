use super::*;
use crate::archive::ArchiveTotals;
use crate::pg::slot::Slot;
use crate::sentinel::Control;
use crate::serve::look::Disk;
use crate::serve::pending::Pending;

fn road() -> Road {
    Road {
        source: None,
        target: None,
        slot: "shop".into(),
        publication: "shop".into(),
        stream: "shop".into(),
        transaction_age: Duration::from_secs(300),
    }
}

fn slot() -> Slot {
    Slot {
        name: "shop".into(),
        plugin: None,
        database: None,
        active_pid: None,
        confirmed_flush: None,
        retained_bytes: 0,
        wal_status: Some("reserved".into()),
        safe_wal_bytes: None,
        failover: false,
        keep_bytes_max: None,
    }
}

fn source() -> SourceLook {
    SourceLook {
        slot: Some(slot()),
        current_lsn: Position(1000),
        holders: Vec::new(),
        keyless: Vec::new(),
        clock_ahead_seconds: 0.0,
    }
}

fn archive() -> ArchiveLook {
    ArchiveLook {
        totals: ArchiveTotals {
            first_lsn: Position(1),
            last_lsn: Position(1000),
            segments: 1,
            bytes: 1,
            raw_bytes: 1,
            transactions: 1,
            changes: 1,
            first_time: None,
            last_time: None,
            tables: Vec::new(),
            levels: Vec::new(),
        },
        sealed: Position(900),
        stored: None,
        pending: Some(Pending::default()),
        control: Some(Control { apply: true, ..Control::default() }),
        receiving: true,
        appliers: Vec::new(),
        disk: None,
    }
}

fn look() -> Look {
    Look { source: Ok(source()), target: Err("-".into()), archive: Ok(archive()) }
}

/// Names and levels of the signs of a look.
fn told(look: &Look) -> Vec<(&'static str, Level)> {
    let status = Status::of(look, "shop", Timestamp(0));
    let seen = Seen {
        road: &road(),
        look,
        status: &status,
        rates: Rates::default(),
        limits: Limits::default(),
        receives: true,
        applies: true,
    };
    signs(&seen).into_iter().map(|sign| (sign.alarm, sign.level)).collect()
}

#[test]
fn a_sound_pipeline_gives_no_sign() {
    assert_eq!(told(&look()), []);
}

#[test]
fn a_slot_tells_before_it_is_lost() {
    let told = |status: &str, safe: Option<i64>, limit: Option<i64>, retained: u64| {
        let slot = Slot {
            wal_status: Some(status.into()),
            safe_wal_bytes: safe,
            keep_bytes_max: limit,
            retained_bytes: retained,
            ..slot()
        };
        told(&Look { source: Ok(SourceLook { slot: Some(slot), ..source() }), ..look() })
    };
    assert_eq!(told("reserved", Some(400), Some(1000), 0), []);
    assert_eq!(told("extended", Some(299), Some(1000), 0), [("slot_near_limit", Level::Warning)]);
    assert_eq!(told("extended", Some(99), Some(1000), 0), [("slot_near_limit", Level::Critical)]);
    assert_eq!(told("unreserved", Some(-5), Some(1000), 0), [("slot_near_limit", Level::Critical)]);
    assert_eq!(told("lost", None, Some(1000), 0), [("slot_lost", Level::Critical)]);
    assert_eq!(told("extended", None, None, 17 << 30), [("wal_retained", Level::Warning)]);
    let gone = Look { source: Ok(SourceLook { slot: None, ..source() }), ..look() };
    assert_eq!(self::told(&gone), [("slot_lost", Level::Critical)]);
}

#[test]
fn a_full_disk_is_told_of_by_what_is_left() {
    let told = |free_bytes, size_bytes| {
        let disk = Some(Disk { free_bytes, size_bytes });
        told(&Look { archive: Ok(ArchiveLook { disk, ..archive() }), ..look() })
    };
    assert_eq!(told(50 << 30, 1 << 40), []);
    assert_eq!(told(1 << 30, 5 << 30), []);
    assert_eq!(told(10 << 30, 1 << 40), [("spool_filling", Level::Warning)]);
    assert_eq!(told(100 << 20, 1 << 40), [("spool_filling", Level::Critical)]);
    assert_eq!(told(1 << 20, 2 << 20), []);
}

#[test]
fn what_does_not_move_is_the_same_sign_and_what_moves_another() {
    let subject = |stored: u64| {
        let look =
            Look { archive: Ok(ArchiveLook { stored: Some(Position(stored)), ..archive() }), ..look() };
        let status = Status::of(&look, "shop", Timestamp(0));
        let seen = Seen {
            road: &road(),
            look: &look,
            status: &status,
            rates: Rates::default(),
            limits: Limits::default(),
            receives: true,
            applies: true,
        };
        signs(&seen).into_iter().map(|sign| (sign.alarm, sign.subject)).collect::<Vec<_>>()
    };
    assert_eq!(subject(900), []);
    assert_eq!(subject(800), [("store_behind", "0/320".to_owned())]);
    assert_ne!(subject(800), subject(801));
}

#[test]
fn clocks_and_keys_and_long_transactions() {
    let blocker = Blocker {
        kind: BlockerKind::Session { pid: 7, xid: "700".into() },
        who: "role a, psql, active".into(),
        age_seconds: Some(400.0),
        query: "SELECT ?".into(),
    };
    let seen = SourceLook {
        holders: vec![blocker],
        keyless: vec!["public.t".into()],
        clock_ahead_seconds: -6.0,
        ..source()
    };
    let told = told(&Look { source: Ok(seen), ..look() });
    assert_eq!(
        told,
        [
            ("slot_held", Level::Warning),
            ("table_without_key", Level::Warning),
            ("clock_skew", Level::Warning)
        ]
    );
}

#[test]
fn sizes_and_times_are_short() {
    assert_eq!([size(1023), size(1536), size(5 << 40)], ["1023 B", "1.5 KiB", "5.0 TiB"]);
    assert_eq!([span(42.0), span(430.0), span(12_600.0)], ["42 s", "7 min", "3.5 h"]);
}
