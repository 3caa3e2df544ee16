//! The program ends at each named point and is run again; nothing is lost, nothing doubled. A point that is not reached fails the test.

use pgsluice::faults::{MUTATIONS, POINTS};

use crate::support::ledger::{self, Dice};
use crate::support::{Outcome, Road, Running, assert_tables_equal, lsn, seconds, wait_until};

/// A store that must have what is confirmed, with a segment a second.
const STORE: [(&str, &str); 2] = [("PGSLUICE_SPOOL", "spool"), ("PGSLUICE_DURABLE", "store")];
const FOLLOW: [&str; 3] = ["follow", "--segment-age", "1"];
const FOLLOW_BY_LANES: [&str; 5] = ["follow", "--segment-age", "1", "--lanes", "2"];
/// How often each point ends the program.
const TIMES: &str = "PGSLUICE_CHAOS_FAILPOINTS";

/// Points that a run passes once.
const PASSED_ONCE: [&str; 6] = [
    "receive.after_idle",
    "receive.before_leave",
    "recovery.",
    "store.before_epoch",
    "store.after_epoch",
    "store.after_begin",
];

/// Points that are passed where the source has no more to say.
const AT_REST: [&str; 2] = ["receive.after_idle", "receive.before_leave"];

fn is_among(points: &[&str], name: &str) -> bool {
    points.iter().any(|point| name.starts_with(point))
}

fn times() -> u64 {
    std::env::var(TIMES).map_or(1, |text| text.parse().expect("a number"))
}

/// Runs a command that is to end at a point.
fn start(road: &Road, arguments: &[&str], name: &str, hit: u64) -> Running {
    let mut command = road.program.command(arguments);
    command.env("PGSLUICE_FAILPOINT", format!("{name}:{hit}"));
    Running::spawn(command)
}

#[track_caller]
fn ended_there(outcome: &Outcome, name: &str) {
    let reached = outcome.stderr.contains(&format!("failpoint {name} reached"));
    assert!(outcome.code.is_none() && reached, "{name} was not reached: {outcome}");
}

fn progress(road: &Road) -> u64 {
    lsn(&road.target.value("select lsn from pgsluice.progress"))
}

#[test]
fn the_program_may_end_at_each_point() {
    let road = ledger::road_with(&STORE);
    let load = ledger::load(&road.source, 100);
    let mut dice = Dice(5);
    let mut at = progress(&road);
    let (at_rest, under_load): (Vec<_>, Vec<_>) = POINTS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| {
            !is_among(
                &[
                    "prune.",
                    "compact.",
                    "copy.",
                    "backfill.",
                    "base.",
                    "restore.",
                    "export.",
                    "poll.",
                    "apply.dead_",
                    "apply.snapshot_",
                ],
                name,
            )
        })
        .partition(|name| is_among(&AT_REST, name));
    for name in under_load {
        for time in 0..times() {
            let hit = if time == 0 || is_among(&PASSED_ONCE, name) { 1 } else { dice.number(1, 9) };
            prepare(&road, name);
            if name == "apply.before_first_lane" {
                ended_there(&start(&road, &FOLLOW_BY_LANES, name, 1).wait(seconds(60)), name);
                // Until the batch is whole, so are not the source's transactions.
                road.program.follow_to_current();
            } else {
                ended_there(&start(&road, &FOLLOW, name, hit).wait(seconds(60)), name);
            }
            ledger::assert_holds(&road.target);
            let now = progress(&road);
            assert!(now >= at, "the progress has gone back at {name}");
            at = now;
        }
    }
    drop(load);
    road.arrives();
    for name in at_rest {
        for _ in 0..times() {
            // Nothing of it is for us: only a keepalive tells of it.
            road.change("select pg_create_restore_point('here'); select pg_switch_wal()");
            let outcome = start(&road, &["follow", "--endpos", "current"], name, 1).wait(seconds(60));
            ended_there(&outcome, name);
        }
    }
    road.arrives();
    ledger::assert_holds(&road.target);
    road.program.run(&["archive", "verify"]).done();
    compact(&road);
    assert_replayed(&road);
    prune(&road);
}

/// Brings things to where the point is passed.
fn prepare(road: &Road, name: &str) {
    if name.starts_with("recovery.") {
        // The open segment that it leaves has something in it.
        let durable = || road.program.status()["archive"]["last_lsn"].as_str().map_or(0, lsn);
        let running = road.program.start(&["receive"]);
        let before = durable();
        wait_until(seconds(30), "the log moves", || durable() > before);
        running.kill();
    } else if is_among(&["store.before_epoch", "store.after_epoch", "store.after_begin"], name) {
        // A receiver with another spool claims the log.
        std::fs::remove_dir_all(road.program.folder().join("spool")).unwrap();
    } else if name == "apply.before_first_lane" {
        // What the log has when an applier begins goes over several lanes.
        let running = road.program.start(&["receive"]);
        std::thread::sleep(seconds(2));
        running.terminate(seconds(30)).done();
    }
}

/// The whole log gives another target the same rows.
fn assert_replayed(road: &Road) {
    let target = ledger::another_target();
    let end = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    let mut command = road.program.command(&["apply", "--endpos", &end]);
    command.env("PGSLUICE_TARGET", target.conninfo());
    Running::spawn(command).wait(seconds(120)).done();
    assert_tables_equal(&road.source, &target);
}

fn compact(road: &Road) {
    for (name, _) in POINTS.iter().filter(|(name, _)| name.starts_with("compact.")) {
        for _ in 0..times() {
            // Small segments in a block of the log that comes to its end.
            for _ in 0..3 {
                road.change("insert into scratch values (0)");
                road.arrives();
            }
            road.change("select pg_logical_emit_message(false, '', repeat('x', 300000))");
            for _ in 0..2 {
                road.change("insert into scratch values (0)");
                road.arrives();
            }
            let arguments = ["archive", "compact", "--older-than", "0s"];
            ended_there(&start(road, &arguments, name, 1).wait(seconds(60)), name);
            road.program.run(&["archive", "verify"]).done();
        }
    }
    road.program.run(&["archive", "compact", "--older-than", "0s"]).done();
    road.program.run(&["archive", "verify"]).done();
}

fn prune(road: &Road) {
    for (name, _) in POINTS.iter().filter(|(name, _)| name.starts_with("prune.")) {
        for _ in 0..times() {
            // A sealed segment that the target does not need.
            for _ in 0..2 {
                road.change("insert into scratch values (0)");
                road.arrives();
            }
            ended_there(&start(road, &["archive", "prune", "--yes"], name, 1).wait(seconds(60)), name);
            road.program.run(&["archive", "verify"]).done();
        }
    }
    road.program.run(&["archive", "prune", "--yes"]).done();
    road.arrives();
    road.program.run(&["archive", "verify"]).done();
}

/// A receiver is lost with its spool between the two steps of its claim; or only killed there.
#[test]
fn a_claim_that_never_began_is_no_dead_end() {
    for is_lost in [false, true] {
        let road = ledger::road_with(&STORE);
        let spool = road.program.folder().join("spool");
        road.change("select transfer(1, 2, 3, 0)");
        road.arrives();
        std::fs::remove_dir_all(&spool).unwrap();
        road.change("select transfer(2, 1, 3, 0)");
        ended_there(&start(&road, &FOLLOW, "store.after_epoch", 1).wait(seconds(60)), "store.after_epoch");
        if is_lost {
            std::fs::remove_dir_all(&spool).unwrap();
        }
        road.arrives();
        road.program.run(&["archive", "verify"]).done();
    }
}

/// The tables name what the code has, each once, and the page what the tables have.
#[test]
fn points_and_mutations_are_those_of_the_code() {
    let mut code = String::new();
    read_sources(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut code);
    for (call, table) in [("faults::point(\"", POINTS), ("faults::mutated(\"", MUTATIONS)] {
        let mut called: Vec<_> =
            code.split(call).skip(1).map(|rest| rest.split('"').next().unwrap_or_default()).collect();
        if call.contains("point") {
            assert_eq!(called.len(), table.len(), "a point is a place: each has a name of its own");
        }
        called.sort_unstable();
        called.dedup();
        let mut named: Vec<_> = table.iter().map(|(name, _)| *name).collect();
        named.sort_unstable();
        assert_eq!(called, named);
    }
    let page = include_str!("../../docs/RELIABILITY.md");
    for (name, meaning) in POINTS {
        assert!(
            page.contains(&format!("\n| `{name}` | {meaning} |\n")),
            "{name} is not in docs/RELIABILITY.md"
        );
    }
    for (name, _) in MUTATIONS {
        assert!(page.contains(&format!("\n| `{name}` | ")), "{name} is not in docs/RELIABILITY.md");
    }
}

fn read_sources(folder: &std::path::Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, code);
        } else {
            code.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}
