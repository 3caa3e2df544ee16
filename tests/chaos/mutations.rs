//! Rules broken one by one: a scenario that goes well with the program as it is must go wrong with each of them. A proof that nothing can
//! spoil proves nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use super::checkers;
use crate::support::ledger;
use crate::support::{Cluster, Road, Running, Version, seconds, tables_difference, wait_until};

/// What went wrong, or nothing.
type Outcome = Result<(), String>;

/// The scenario holds, and with the rule broken it does not.
#[track_caller]
fn check(mutation: &str, scenario: impl Fn(&Program<'_>) -> Outcome) {
    let sound = scenario(&Program { mutation: None });
    assert_eq!(sound, Ok(()), "without the mutation");
    let broken = scenario(&Program { mutation: Some(mutation) });
    let wrong = broken.expect_err("nobody noticed the mutation");
    eprintln!("{mutation} was noticed: {}", wrong.lines().take(6).collect::<Vec<_>>().join("\n"));
}

/// The program, as it is or with a rule broken.
struct Program<'m> {
    mutation: Option<&'m str>,
}

impl Program<'_> {
    fn command(&self, road: &Road, arguments: &[&str]) -> Command {
        let mut command = road.program.command(arguments);
        command.envs(self.mutation.map(|mutation| ("PGSLUICE_MUTATION", mutation)));
        command
    }

    fn start(&self, road: &Road, arguments: &[&str], failpoint: Option<&str>) -> Running {
        let mut command = self.command(road, arguments);
        command.envs(failpoint.map(|failpoint| ("PGSLUICE_FAILPOINT", failpoint)));
        Running::spawn(command)
    }

    /// To its end, at a failpoint or by itself.
    fn run(&self, road: &Road, arguments: &[&str], failpoint: Option<&str>) -> Outcome {
        let mut running = self.start(road, arguments, failpoint);
        let (started, limit) = (Instant::now(), seconds(if self.mutation.is_some() { 20 } else { 60 }));
        while running.is_running() {
            if started.elapsed() > limit {
                return Err(format!("it does not end: {}", running.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let outcome = running.wait(seconds(10));
        match (failpoint, outcome.code) {
            (None, Some(0)) | (Some(_), None) => Ok(()),
            _ => Err(outcome.to_string()),
        }
    }

    /// All that is committed arrives, and both sides are equal.
    fn arrives(&self, road: &Road) -> Outcome {
        self.run(road, &["follow", "--endpos", "current"], None)?;
        tables_difference(&road.source, &road.target).map_or(Ok(()), Err)
    }
}

fn transfer(road: &Road) {
    road.change("select transfer(1, 2, 10, 0)");
}

/// The program dies while a frame is on its way to the disk; a source that was told that it is there forgets it.
#[test]
fn an_acknowledgement_before_the_sync_is_noticed() {
    check("confirm_before_sync", |program| {
        let road = ledger::road();
        transfer(&road);
        program.arrives(&road)?;
        transfer(&road);
        // Time for a status.
        program.run(&road, &["receive"], Some("log.after_compress:1:1500"))?;
        program.arrives(&road)
    });
}

/// The machine loses its power after a segment was sealed and the next one begun: names that were not synced are gone.
#[test]
fn a_folder_that_is_not_synced_is_noticed() {
    check("folder_is_not_synced", |program| {
        let road = ledger::road();
        let kept = road.program.folder().join("kept");
        let receive = |program: &Program<'_>| {
            let arguments = ["receive", "--segment-age", "1"];
            let mut command = program.command(&road, &arguments);
            command.env("PGSLUICE_DURABLE_NAMES", &kept);
            Running::spawn(command)
        };
        let confirmed = || {
            let end = road.source.current_lsn();
            let sql = format!(
                "select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name = 'pgsluice'"
            );
            wait_until(seconds(30), "all is confirmed", || road.source.value(&sql) == "t");
        };
        // What is there before is durable in any case.
        let running = receive(&Program { mutation: None });
        transfer(&road);
        confirmed();
        running.kill();
        let running = receive(program);
        let segments = road.program.archive().join("segments");
        let sealed = || {
            let names = std::fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| checkers::newest_end([&*name.to_string_lossy()]).is_some()).count()
        };
        transfer(&road);
        wait_until(seconds(30), "a segment is sealed", || sealed() == 2);
        transfer(&road);
        confirmed();
        running.kill();
        std::fs::remove_dir_all(&segments).unwrap();
        std::fs::rename(kept.join("segments"), &segments).unwrap();
        program.arrives(&road)
    });
}

/// What is applied already is applied again by the next run.
#[test]
fn a_progress_that_is_the_start_of_a_commit_is_noticed() {
    check("commit_lsn_is_progress", |program| {
        let road = ledger::road();
        transfer(&road);
        program.arrives(&road)?;
        transfer(&road);
        program.arrives(&road)
    });
}

/// The end of a commit is often the start of the next one.
#[test]
fn a_start_compared_with_an_end_is_noticed() {
    check("adjacent_is_known", |program| {
        let road = Road::new("create table t(id int primary key)");
        let (one, two) = (road.source.session(), road.source.session());
        for round in 0..10 {
            one.query(&format!("begin; insert into t values ({round})"));
            two.query(&format!("begin; insert into t values (100 + {round})"));
            one.query("commit");
            let between = road.source.value("select pg_current_wal_insert_lsn()");
            two.query("commit");
            program.run(&road, &["follow", "--endpos", &between], None)?;
        }
        program.arrives(&road)
    });
}

/// A backend of an applier that is gone is still at it: it has changed rows and progress, and commits while the next applier works.
#[test]
fn a_progress_row_that_is_not_locked_is_noticed() {
    check("progress_is_not_locked", |program| {
        let road = Road::new("create table t(id int)");
        road.change("insert into t values (1)");
        program.run(&road, &["receive", "--endpos", "current"], None)?;
        let end = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
        let old = road.target.session();
        old.query(&format!("begin; insert into t values (1); update pgsluice.progress set lsn = '{end}'"));
        let running = program.start(&road, &["apply", "--endpos", &end], None);
        let waits = "select count(*) from pg_stat_activity where application_name = 'pgsluice apply' and wait_event_type = 'Lock'";
        wait_until(seconds(20), "the next one waits for the row", || road.target.value(waits) == "1");
        old.query("commit");
        running.wait(seconds(60)).done();
        tables_difference(&road.source, &road.target).map_or(Ok(()), Err)
    });
}

/// From PostgreSQL 16 on an aborted transaction advances the origin: an applier that dies before its COMMIT has skipped the batch.
#[test]
fn an_origin_that_is_trusted_is_noticed() {
    let Some(version) = Version::all().into_iter().find(|version| version.major >= 16) else {
        eprintln!("no server here has that flaw: PostgreSQL 16 and later do");
        return;
    };
    check("origin_is_progress", |program| {
        let start = |cluster: crate::support::Preparation| cluster.version(&version).start();
        let road = ledger::road_between(start(Cluster::prepare_source()), start(Cluster::prepare()));
        transfer(&road);
        road.arrives();
        transfer(&road);
        program.run(&road, &["follow"], Some("apply.before_commit:1"))?;
        program.arrives(&road)
    });
}

/// A value that was too long to be sent again is on the target already.
#[test]
fn an_unchanged_value_that_is_made_null_is_noticed() {
    check("unchanged_is_null", |program| {
        let road = ledger::road();
        transfer(&road);
        program.arrives(&road)
    });
}

#[test]
fn a_change_that_is_left_out_is_noticed() {
    check("last_row_is_dropped", |program| {
        let road = ledger::road();
        for _ in 0..3 {
            transfer(&road);
        }
        program.arrives(&road)
    });
}
