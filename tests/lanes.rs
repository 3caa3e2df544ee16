//! Batches over several connections: each row once, whatever ends the applier between their commits.

use crate::support::ledger::{self, Dice};
use crate::support::{Cluster, Road, Running, Session, assert_tables_equal, seconds, wait_until};

const TABLES: &str = "
create table t(id int primary key, v text);
create table u(id int primary key, v text);
create table log(v text);
create table scratch(v text);
";

const LANES: [(&str, &str); 1] = [("PGSLUICE_LANES", "4")];

/// What the log says of a torn batch.
const TORN: &str = "a batch was committed by some of its lanes";

fn road() -> Road {
    Road::with_settings(TABLES, TABLES, &LANES)
}

/// Makes the last commit of each batch fail, or wait, after those of the other lanes.
fn at_the_last_commit(target: &Cluster, body: &str) {
    at_commit(target, "progress", body);
}

/// Does something when what has changed this table of ours commits.
fn at_commit(target: &Cluster, table: &str, body: &str) {
    target.run_script(&format!(
        "create function at_commit() returns trigger language plpgsql as $$ begin {body} return null; end $$;
         create constraint trigger at_commit after update on pgsluice.{table} deferrable initially deferred
           for each row execute function at_commit();
         alter table pgsluice.{table} enable always trigger at_commit;"
    ));
}

/// The backend of a killed applier sleeps on.
fn clear_the_commit(target: &Cluster) {
    target.query("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'");
    target.run_script("drop trigger at_commit on pgsluice.progress; drop function at_commit");
}

/// Rows of several tables, so that each of four lanes has some.
fn change(road: &Road, value: &str) {
    road.source.run_script(&format!(
        "insert into t select i * 300, '{value}' from generate_series(1, 50) i
           on conflict (id) do update set v = excluded.v || t.v;
         insert into u select i * 300, '{value}' from generate_series(1, 50) i
           on conflict (id) do update set v = excluded.v || u.v;
         delete from u where id % 7 = 0;
         delete from t where id < 0;
         update t set id = -id where id % 11 = 0;
         insert into log select '{value}' from generate_series(1, 50) i;"
    ));
}

/// Lanes that have committed a batch which the stream's progress does not cover.
const TORN_LANES: &str =
    "select count(*) from pgsluice.lane l join pgsluice.progress p using (stream) where l.lsn > p.lsn";

fn torn_lanes(target: &Cluster) -> String {
    target.value(TORN_LANES)
}

#[test]
fn a_batch_goes_over_all_lanes() {
    let road = road();
    change(&road, "one");
    road.arrives();
    let lanes = "select count(*) from pgsluice.lane l join pgsluice.progress p using (stream)
                  where l.lsn = p.lsn and l.lanes = 4 and l.digest > 0";
    assert_eq!(road.target.value(lanes), "3");
    let tagged = "select count(*) from pg_replication_origin where roname like 'pgsluice lane %'";
    assert_eq!(road.target.value(tagged), "3");
    // Live, source transactions stay whole: the lanes stay where they are.
    let running = road.follow();
    wait_until(seconds(20), "live", || running.log().contains("live"));
    change(&road, "two");
    road.wait_for("select count(*) from log");
    let behind =
        "select count(*) from pgsluice.lane l join pgsluice.progress p using (stream) where l.lsn < p.lsn";
    assert_eq!(road.target.value(behind), "3");
    road.finish(running);
    road.program.run(&["cleanup"]).done();
    assert_eq!(road.target.value("select to_regclass('pgsluice.lane') is null"), "t");
    assert_eq!(road.target.value(tagged), "0");
}

#[test]
fn a_last_commit_that_fails_leaves_a_batch_that_is_ended_later() {
    let road = road();
    road.target.run_script("create sequence attempts");
    at_the_last_commit(&road.target, "if nextval('public.attempts') < 4 then raise exception 'no'; end if;");
    change(&road, "one");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains(TORN), "{outcome}");
    assert!(
        outcome.stderr.contains("error: ending a batch that other lanes have committed: no"),
        "{outcome}"
    );
    assert_eq!(torn_lanes(&road.target), "3");
    let outcome = road.program.follow_to_current();
    assert!(outcome.stderr.contains(TORN), "{outcome}");
    assert_tables_equal(&road.source, &road.target);
    change(&road, "two");
    road.arrives();
}

/// A torn batch is repeated over as many lanes as before, whatever is asked for now.
#[test]
fn a_torn_batch_is_ended_by_a_run_with_other_lanes_and_another_endpos() {
    let road = road();
    change(&road, "one");
    let early = road.source.current_lsn();
    change(&road, "two");
    let running = tear(&road);
    running.kill();
    clear_the_commit(&road.target);
    let outcome = road.program.run(&["follow", "--lanes", "1", "--endpos", &early]).done();
    assert!(outcome.stderr.contains(TORN), "{outcome}");
    assert_eq!(torn_lanes(&road.target), "0");
    assert_tables_equal(&road.source, &road.target);
    change(&road, "three");
    road.arrives();
}

/// Starts a follow whose batch stays torn.
fn tear(road: &Road) -> Running {
    road.program.run(&["receive", "--endpos", "current"]).done();
    at_the_last_commit(&road.target, "perform pg_sleep(3600);");
    let running = road.program.start(&["follow"]);
    wait_until(seconds(20), "three lanes have committed", || torn_lanes(&road.target) == "3");
    running
}

/// What the lanes have committed must be what the log gives now; otherwise rows would be lost in silence.
#[test]
fn a_torn_batch_is_not_ended_with_other_filters() {
    let road = road();
    change(&road, "one");
    tear(&road).kill();
    clear_the_commit(&road.target);
    for other in [["--exclude", "public.u"], ["--exact", "public.t"]] {
        let outcome = road.program.run(&["follow", "--endpos", "current", other[0], other[1]]);
        assert_ne!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.stderr.contains("some lanes have committed a batch"), "{outcome}");
        assert!(outcome.stderr.contains("hint"), "{outcome}");
        assert_eq!(torn_lanes(&road.target), "3");
    }
    road.arrives();
}

/// Keeps a live applier waiting for this table, so that a backlog comes behind it. `touch` changes a row of it. The applier goes on
/// when the session goes back to savepoint `s`, and keeps what `first` has locked.
fn hold_up(road: &Road, table: &str, touch: &str, first: &str) -> Session {
    // What is known of the target must have been looked up.
    road.source.run_script(touch);
    road.wait_for(&format!("select sum(hashtextextended(x::text, 0)::numeric)::text from {table} x"));
    let lock = road.target.session();
    for sql in ["begin", first, "savepoint s", &format!("lock table {table} in share row exclusive mode")] {
        lock.query(sql);
    }
    road.source.run_script(touch);
    let waits = "select count(*) from pg_locks where not granted and locktype = 'relation'";
    wait_until(seconds(20), "the applier waits for the lock", || road.target.value(waits) != "0");
    lock
}

/// An applier that was shut out must not commit what it still has in hand.
#[test]
fn lanes_of_an_earlier_epoch_do_not_commit() {
    let road = road();
    change(&road, "one");
    road.arrives();
    let running = road.follow();
    wait_until(seconds(20), "live", || running.log().contains("live"));
    road.target.query("update pgsluice.lane set epoch = epoch + 1");
    let lock = hold_up(&road, "t", "update t set v = v || '!' where id = 300", "select 1");
    change(&road, "two");
    std::thread::sleep(seconds(1));
    lock.query("commit");
    road.wait_for("select count(*) from log");
    assert!(running.log().contains("progress of 'pgsluice' on the target is"), "{}", running.log());
    road.finish(running);
}

#[test]
fn kill_9_between_the_commits_of_lanes_loses_nothing_and_doubles_nothing() {
    let road = ledger::road();
    // The first of the others has not committed yet when the last has.
    at_commit(&road.target, "lane", "if new.lane = 1 then perform pg_sleep(0.05); end if;");
    let (load, _script) = ledger::load(&road.source, 400);
    let mut dice = Dice(3);
    let torn = format!("select ({TORN_LANES}) > 0");
    let watch = road.target.session();
    for kill in 0..ledger::kills() {
        let running = road.program.start(&["follow", "--lanes", "4"]);
        match kill % 2 {
            0 => wait_until(seconds(60), "a torn batch", || watch.value(&torn) == "t"),
            _ => std::thread::sleep(dice.milliseconds(50, 900)),
        }
        running.kill();
        if kill % 5 == 4 {
            road.program.run(&["follow", "--lanes", "3", "--endpos", "current"]).done();
            ledger::assert_holds(&road.target);
        }
    }
    load.kill();
    road.arrives();
    ledger::assert_holds(&road.target);
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn terminated_lanes_lose_nothing_and_double_nothing() {
    let road = ledger::road();
    at_commit(&road.target, "lane", "if new.lane = 1 then perform pg_sleep(0.05); end if;");
    let (load, _script) = ledger::load(&road.source, 400);
    let mut running = road.program.start(&["follow", "--lanes", "4"]);
    let mut dice = Dice(4);
    let control = road.target.session();
    let mut terminated = 0;
    while terminated < ledger::kills() {
        std::thread::sleep(dice.milliseconds(20, 700));
        // One of them, so that the others may already have committed.
        let rows = control.query(
            "select pg_terminate_backend(pid) from pg_stat_activity
              where backend_type = 'client backend' and pid <> pg_backend_pid() and application_name = 'pgsluice apply'
              order by random() limit 1",
        );
        terminated += u64::from(!rows.is_empty());
        assert!(running.is_running(), "{}", running.log());
    }
    load.kill();
    road.finish(running);
    ledger::assert_holds(&road.target);
}

/// An index that is made after the table was looked at binds rows of different lanes together.
#[test]
fn lanes_that_wait_for_each_other_give_way() {
    let schema = "create table t(id int primary key, email text not null)";
    let road = Road::with_settings(schema, schema, &LANES);
    road.source.run_script(
        "create unique index on t(email); insert into t select i * 300, i from generate_series(1, 8000) i;
         insert into t select i, 'y' || i from generate_series(1, 9) i",
    );
    road.arrives();
    let running = road.follow();
    wait_until(seconds(20), "live", || running.log().contains("live"));
    let lock = hold_up(&road, "t", "update t set email = email || '?' where id = 300", "select 1");
    // The last rows take over the addresses that the first ones leave.
    road.source.run_script(
        "begin; update t set email = 'free' || id where id between 1 and 9;
         update t set email = email || '!' where id >= 300;
         update t set email = 'y' || (8001 - id / 300) where id > 7991 * 300; commit",
    );
    std::thread::sleep(seconds(1));
    lock.query("create unique index on t(email)");
    lock.query("commit");
    road.wait_for("select count(*), sum(hashtextextended(t::text, 0)::numeric)::text from t");
    let log = running.log();
    assert!(log.contains("batch refused"), "{log}");
    road.finish(running);
}

/// A lane waits for a user, who waits for another lane, which waits in the applier.
#[test]
fn lanes_that_wait_for_each_other_by_way_of_a_user_give_way() {
    let road = road();
    change(&road, "one");
    road.arrives();
    let running = road.follow();
    wait_until(seconds(20), "live", || running.log().contains("live"));
    let user =
        hold_up(&road, "t", "update t set v = v || '!' where id = 300", "update t set v = v where id = 600");
    road.source.run_script("begin; update t set v = v || '?'; update u set v = v || '?'; commit");
    std::thread::sleep(seconds(1));
    user.query("rollback to s");
    std::thread::sleep(seconds(1));
    user.query("update u set v = v");
    user.query("commit");
    road.wait_for("select sum(hashtextextended(v, 0)::numeric)::text from u");
    assert!(running.log().contains("lanes wait for each other"), "{}", running.log());
    road.finish(running);
}

#[test]
fn who_else_waits_is_left_alone() {
    let road = road();
    change(&road, "one");
    road.arrives();
    road.target.query("create table other(id int)");
    road.target.query("insert into other values (1)");
    let running = road.follow();
    let (first, second) = (road.target.session(), road.target.session());
    first.query("begin");
    first.query("update other set id = 2");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| second.try_query("update other set id = 3").map(drop));
        std::thread::sleep(seconds(4));
        first.query("commit");
        waits.join().unwrap().unwrap();
    });
    road.target.query("drop table other");
    road.finish(running);
}

/// What of a torn batch is under way at a stop is rolled back.
#[test]
fn a_torn_batch_survives_stops_in_its_middle() {
    let road = road();
    road.source.run_script("insert into u select i, repeat('x', 200) from generate_series(1, 300000) i");
    tear(&road).kill();
    clear_the_commit(&road.target);
    for round in 1..7 {
        let running = road.program.start(&["follow"]);
        std::thread::sleep(std::time::Duration::from_millis(150 * round));
        running.terminate(seconds(40)).done();
    }
    road.arrives();
}

/// A DELETE carries only its key: nothing in it tells that the row that is inserted next takes its address over.
#[test]
fn rows_bound_by_an_index_that_is_no_key_stay_in_one_lane() {
    let schema = "create table t(id int primary key, email text unique)";
    let road = Road::with_settings(schema, schema, &LANES);
    road.source.run_script("insert into t select i * 300, i from generate_series(1, 100) i");
    road.arrives();
    road.source.run_script(
        "do $$ declare i int; begin for i in 1..2000 loop
           delete from t where id = (1 + i % 100) * 300;
           insert into t values ((1 + i % 100) * 300 + 30000, 1 + i % 100);
           update t set id = id - 30000 where id = (1 + i % 100) * 300 + 30000;
           commit;
         end loop; end $$",
    );
    let outcome = road.program.follow_to_current();
    assert!(!outcome.stderr.contains("batch refused"), "{outcome}");
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn without_a_place_for_lanes_one_connection_applies() {
    let road = road();
    road.target.run_script(
        "create role mover login; alter table t owner to mover; alter table u owner to mover;
         alter table log owner to mover; alter table scratch owner to mover;
         drop table pgsluice.lane;
         grant usage on schema pgsluice to mover; grant all on all tables in schema pgsluice to mover;
         do $$ begin
           if current_setting('server_version_num')::int >= 150000 then
             execute 'grant set on parameter session_replication_role to mover';
           else
             alter role mover superuser;
           end if;
         end $$",
    );
    change(&road, "one");
    let conninfo = format!("{} user=mover", road.target.conninfo());
    let outcome = road.program.run(&["follow", "--target", &conninfo, "--endpos", "current"]).done();
    assert!(outcome.stderr.contains("everything goes over one connection"), "{outcome}");
    assert_tables_equal(&road.source, &road.target);
}
