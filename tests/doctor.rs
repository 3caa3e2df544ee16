//! `doctor`: what stands in the way is told with what mends it, and is gone once that was done.

use serde_json::Value;

use crate::support::{Cluster, Outcome, Pgsluice, Road};

const SCHEMA: &str = "create table t(id int primary key, v text)";

/// What is found, by level and message; with the exit code that goes with it.
#[track_caller]
fn findings(program: &Pgsluice, arguments: &[&str], code: i32) -> Vec<Value> {
    let outcome = program.run(&[&["doctor", "--json"], arguments].concat()).ends_with(code);
    outcome.json()["findings"].as_array().unwrap().clone()
}

#[track_caller]
fn cure_of(findings: &[Value], part: &str) -> String {
    let found = findings.iter().find(|finding| finding["message"].as_str().unwrap().contains(part));
    found.unwrap_or_else(|| panic!("no '{part}' in {findings:#?}"))["cure"].as_str().unwrap().to_owned()
}

/// The SQL of a cure.
fn sql(cure: &str) -> &str {
    cure.split(" -- ").next().unwrap()
}

#[test]
fn a_sound_pair_has_nothing_in_the_way_before_and_while_it_runs() {
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.run_script(SCHEMA);
    }
    let program = Pgsluice::between(&source, &target);
    assert_eq!(findings(&program, &[], 0), [] as [Value; 0]);
    target.run_script("drop table t");
    let empty = findings(&program, &[], 0);
    assert!(cure_of(&empty, "no tables yet").contains("clone --follow"));
    target.run_script(SCHEMA);
    let outcome: Outcome = program.run(&["doctor"]).done();
    assert!(outcome.stdout.contains("can begin"), "{outcome}");
    // Nothing was made.
    assert_eq!(source.value("select count(*) from pg_replication_slots"), "0");
    assert_eq!(target.value("select count(*) from pg_namespace where nspname = 'pgsluice'"), "0");
    program.run(&["setup"]).done();
    let road = Road { source, target, program };
    let idle = findings(&road.program, &[], 3);
    assert!(cure_of(&idle, "nobody receives from slot pgsluice").contains("pgsluice follow"));
    let follow = road.follow();
    assert_eq!(findings(&road.program, &[], 0), [] as [Value; 0]);
    road.finish(follow);
}

#[test]
fn what_has_drifted_is_told_and_mended_by_its_cure() {
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.run_script(SCHEMA);
    }
    let program = Pgsluice::between(&source, &target);
    program.run(&["setup", "--tables", "public.*"]).done();
    let road = Road { source, target, program };
    let follow = road.follow();
    road.source.run_script("create table late(id int primary key)");
    road.target.run_script(
        "alter table t alter v type varchar(10);
         alter table t add constraint once unique (v) deferrable;
         create function f() returns trigger language plpgsql as $$ begin return new; end $$;
         create trigger always before insert on t for each row execute function f();
         alter table t enable always trigger always",
    );
    // Without patterns the publication says what is meant.
    findings(&road.program, &[], 0);
    // And what it would want then is not there.
    let found = findings(&road.program, &["--tables", "public.*"], 1);
    assert!(
        cure_of(&found, "late of the source is not published").contains("pgsluice backfill"),
        "{found:#?}"
    );
    for part in
        ["is text on the source and character varying(10)", "constraint \"once\"", "trigger \"always\""]
    {
        let cure = cure_of(&found, part);
        road.target.run_script(sql(&cure));
    }
    road.target.run_script("create table late(id int primary key)");
    let left = findings(&road.program, &["--exclude", "public.late"], 0);
    assert_eq!(left, [] as [Value; 0]);
    // Gone from the target.
    road.target.run_script("alter table t drop column v");
    let found = findings(&road.program, &["--exclude", "public.late"], 1);
    road.target.run_script(sql(&cure_of(&found, "is missing on the target")));
    findings(&road.program, &["--exclude", "public.late"], 0);
    follow.terminate(crate::support::seconds(30)).done();
}

#[test]
fn what_setup_would_refuse_is_told_before() {
    let source = Cluster::prepare().set("wal_level", "replica").start();
    let target = Cluster::target();
    source.run_script("create table t(id int)");
    let program = Pgsluice::between(&source, &target);
    let found = findings(&program, &[], 1);
    assert!(cure_of(&found, "wal_level is replica").contains("ALTER SYSTEM SET wal_level"));
    assert!(cure_of(&found, "no usable replica identity").contains("REPLICA IDENTITY FULL"));
}

#[test]
fn a_slot_that_is_gone_needs_a_decision() {
    let road = Road::new(SCHEMA);
    road.source.query("select pg_drop_replication_slot('pgsluice')");
    let found = findings(&road.program, &[], 4);
    assert!(!cure_of(&found, "does not exist on the source").is_empty());
    let outcome = road.program.run(&["doctor"]).ends_with(4);
    assert!(outcome.stderr.contains("without a decision"), "{outcome}");
}

#[test]
fn sequences_that_are_behind_are_told_once_all_is_applied() {
    let road = Road::new("create table t(id bigserial primary key)");
    road.change("insert into t default values; insert into t default values");
    road.source.rests();
    let endpos = road.source.current_lsn();
    road.program.run(&["sentinel", "set", "endpos", &endpos]).done();
    road.program.run(&["follow", "--sequences", "off"]).done();
    let found = findings(&road.program, &[], 3);
    let cure = cure_of(&found, "t_id_seq of the target is behind");
    road.target.query(sql(&cure).trim_end_matches(';'));
    assert_eq!(road.target.value("select nextval('t_id_seq')"), "3");
    let left = findings(&road.program, &[], 0);
    assert!(left.iter().all(|finding| finding["level"] == "notice"), "{left:#?}");
}

#[test]
fn who_is_away_is_told_and_the_others_are_looked_at_still() {
    let road = Road::new(SCHEMA);
    road.source.stop(crate::support::StopMode::Fast);
    let found = findings(&road.program, &[], 1);
    assert!(!found.is_empty());
    assert!(
        found.iter().all(|finding| !finding["message"].as_str().unwrap().contains("target")),
        "{found:#?}"
    );
    road.source.start();
    road.target.stop(crate::support::StopMode::Fast);
    let found = findings(&road.program, &[], 1);
    assert!(
        found.iter().any(|finding| finding["message"].as_str().unwrap().contains("target")),
        "{found:#?}"
    );
    road.target.start();
}
