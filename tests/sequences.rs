//! Sequences: sampled into the log, set on the target at endpos, never behind what was given out.

use crate::support::{Road, assert_tables_equal, lsn, seconds, wait_until};

const SCHEMA: &str = r#"
create table t(id serial primary key, note text);
create schema "Sales ""x";
create table "Sales ""x"."Order"(id int generated always as identity primary key, note text);
create sequence down increment -2 minvalue -1000 maxvalue 10 start 10;
create sequence round minvalue 1 maxvalue 5 cycle;
create sequence never;
create sequence placed;
"#;

fn state(road: &Road, sequence: &str) -> [String; 2] {
    let sql = format!("select last_value || ' ' || is_called from {sequence}");
    [road.source.value(&sql), road.target.value(&sql)]
}

#[track_caller]
fn assert_same(road: &Road, sequence: &str) {
    let [source, target] = state(road, sequence);
    assert_eq!(source, target, "{sequence}");
}

#[test]
fn after_the_cut_over_defaults_never_collide() {
    let road = Road::new(SCHEMA);
    let running = road.follow();
    let insert = "insert into t(note) select 'n' from generate_series(1, 7);
                  insert into \"Sales \"\"x\".\"Order\"(note) values ('a');";
    for _ in 0..50 {
        road.change(insert);
    }
    road.change(
        "select nextval('down') from generate_series(1, 3); select nextval('round') from generate_series(1, 7);
         select setval('placed', 700, false); begin; insert into t(note) values ('lost'); rollback;",
    );
    road.finish(running);
    for sequence in ["t_id_seq", "\"Sales \"\"x\".\"Order_id_seq\"", "down", "round", "never", "placed"] {
        assert_same(&road, sequence);
    }
    assert_eq!(road.target.value("select nextval('placed')"), "700");
    road.target.run_script(insert);
}

#[test]
fn an_earlier_endpos_gets_a_sample_of_that_time_or_later() {
    let road = Road::new(SCHEMA);
    road.change("insert into t(note) values ('1'), ('2'), ('3')");
    let early = road.source.value("select pg_current_wal_lsn()");
    road.program.run(&["receive", "--endpos", &early]).done();
    road.change("insert into t(note) select 'more' from generate_series(1, 97)");
    road.program.run(&["receive", "--endpos", "current"]).done();
    let outcome = road.program.run(&["apply", "--endpos", &early]).done();
    assert!(outcome.stderr.contains("sequences set"), "{outcome}");
    let at: i64 = road.target.value("select last_value from t_id_seq").parse().unwrap();
    assert!((3..=100).contains(&at), "{at}");
    road.target.run_script("insert into t(note) values ('target')");
    road.target.run_script("delete from t where note = 'target'");
}

#[test]
fn a_later_run_finds_the_sample_of_an_earlier_one() {
    let road = Road::new(SCHEMA);
    road.change("insert into t(note) values ('1'), ('2'), ('3')");
    road.program.run(&["follow", "--endpos", "current", "--sequences", "on"]).done();
    assert_same(&road, "t_id_seq");
    road.target.run_script("select setval('t_id_seq', 1, false)");
    let end = road.target.value("select lsn from pgsluice.progress");
    road.program.run(&["apply", "--endpos", &end]).done();
    assert_same(&road, "t_id_seq");
}

#[test]
fn what_is_further_on_the_target_stays() {
    let road = Road::new(SCHEMA);
    road.target.run_script("select setval('t_id_seq', 5000); select setval('down', -900)");
    road.change("insert into t(note) values ('x'); select nextval('down')");
    road.program.follow_to_current();
    assert_eq!(state(&road, "t_id_seq")[1], "5000 true");
    assert_eq!(state(&road, "down")[1], "-900 true");
}

#[test]
fn sequences_that_the_target_lacks_or_limits_are_named() {
    let road = Road::with(
        SCHEMA,
        "create table t(id int primary key, note text); create schema \"Sales \"\"x\";
         create table \"Sales \"\"x\".\"Order\"(id int primary key, note text);
         create sequence placed maxvalue 10;",
    );
    road.change("insert into t(note) values ('x'); select setval('placed', 11)");
    let outcome = road.program.follow_to_current();
    for name in ["public.t_id_seq", "\"Sales \"\"x\".\"Order_id_seq\"", "public.down", "not on the target"] {
        assert!(outcome.stderr.contains(name), "{name}: {outcome}");
    }
    assert!(outcome.stderr.contains("beyond the limits"), "{outcome}");
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn they_can_be_left_alone() {
    let road = Road::new(SCHEMA);
    road.change("insert into t(note) values ('x')");
    let outcome = road.program.run(&["follow", "--endpos", "current", "--sequences", "off"]).done();
    assert!(!outcome.stderr.contains("sequences set"), "{outcome}");
    assert_eq!(state(&road, "t_id_seq")[1], "1 false");
}

#[test]
fn an_idle_source_stays_idle() {
    let road = Road::new(SCHEMA);
    let running = road.follow();
    road.change("insert into t(note) values ('x')");
    let emitted = "select count(*) from pg_logical_slot_peek_binary_changes('watch', null, null,
        'proto_version', '1', 'publication_names', 'pgsluice', 'messages', 'true') where get_byte(data, 0) = 77";
    road.change("select pg_create_logical_replication_slot('watch', 'pgoutput')");
    wait_until(seconds(30), "a sample is written", || road.source.value(emitted) == "1");
    let end = lsn(&road.source.value("select pg_current_wal_insert_lsn()"));
    std::thread::sleep(seconds(12));
    assert_eq!(road.source.value(emitted), "1");
    let later = lsn(&road.source.value("select pg_current_wal_insert_lsn()"));
    assert!(later - end < 2000, "{} bytes of WAL", later - end);
    road.finish(running);
    assert_same(&road, "t_id_seq");
}

#[test]
fn unreadable_ones_are_named_and_cost_nothing_else() {
    let road = Road::new(&format!(
        "{SCHEMA} create role app login superuser; create table own(id int primary key);"
    ));
    road.source.run_script(
        "alter role app nosuperuser replication; grant select on all tables in schema public to app;",
    );
    let conninfo = road.source.conninfo().replace("user=postgres", "user=app");
    let target = road.target.conninfo();
    road.change("insert into t(note) values ('x')");
    let outcome = road
        .program
        .run(&["follow", "--endpos", "current", "--source", &conninfo, "--target", &target])
        .done();
    assert!(outcome.stderr.contains("public.t_id_seq"), "{outcome}");
    assert_tables_equal(&road.source, &road.target);
}
