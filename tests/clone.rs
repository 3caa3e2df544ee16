//! `clone`: rows and changes together are what the source has, wherever the two meet and however often the copy is interrupted.

use std::time::Duration;

use crate::support::ledger::{self, Dice};
use crate::support::{Cluster, Pgsluice, Running, StopMode, assert_tables_equal, seconds, wait_until};

/// Tables of several parts of a MiB, with rows that are large, that move and that have no key.
const TABLES: &str = "
create table big(id bigint primary key, v int, note text, fat text);
alter table big alter fat set storage external;
create table bag(v int, note text);
alter table bag replica identity full;
create type mood as enum ('fine', 'bad');
create domain short as varchar(10);
create table odd(\"The Key\" text primary key, mood mood, short short, twice int generated always as (n * 2) stored, n int);
create table \"Empty\"(id int primary key);
create table events(at int, v text, primary key (at)) partition by range (at);
create table events_1 partition of events for values from (0) to (1000);
create table events_2 partition of events for values from (1000) to (2000);
";

const ROWS: &str = "
insert into big select i, 0, repeat(md5(i::text), 3), case when i % 50 = 0 then repeat(md5(i::text), 200) end from generate_series(1, 40000) i;
insert into bag select i % 1000, md5(i::text) from generate_series(1, 60000) i;
insert into odd(\"The Key\", mood, short, n) select 'k' || i, (array['fine', 'bad'])[1 + i % 2]::mood, i::text, i from generate_series(1, 500) i;
insert into events select i, md5(i::text) from generate_series(0, 1999) i;
";

struct Pair {
    source: Cluster,
    target: Cluster,
    program: Pgsluice,
}

/// The tables with rows on the source, without any on the target.
fn prepared(tables: &str, rows: &str) -> Pair {
    between(Cluster::source(), Cluster::target(), tables, rows)
}

fn between(source: Cluster, target: Cluster, tables: &str, rows: &str) -> Pair {
    source.run_script(tables);
    target.run_script(tables);
    source.run_script(rows);
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    Pair { source, target, program }
}

const CLONE: [&str; 8] =
    ["clone", "--no-schema", "--keep", "--keyless", "full", "--part-size", "1", "--json"];

impl Pair {
    fn start(&self, more: &[&str]) -> Running {
        self.program.start(&[&CLONE, more].concat())
    }

    /// Runs it until it ends by itself, at a point.
    fn dies_at(&self, point: &str) {
        let mut command = self.program.command(&CLONE);
        command.env("PGSLUICE_FAILPOINT", point);
        let outcome = Running::spawn(command).wait(seconds(60));
        let name = point.split(':').next().unwrap();
        assert!(
            outcome.stderr.contains(&format!("failpoint {name} reached")),
            "{point} was not reached: {outcome}"
        );
    }

    #[track_caller]
    fn finishes(&self) -> serde_json::Value {
        let outcome = self.start(&[]).wait(seconds(120)).done();
        assert_tables_equal(&self.source, &self.target);
        outcome.json()
    }

    fn parts(&self, table: &str) -> String {
        self.target.value(&format!(
            "select count(*) from pgsluice.copied_part where source_table = (select source_table from pgsluice.copied where name = '{table}')"
        ))
    }
}

/// What goes on while the copy runs: rows that move, that come and go, that change their keys, with values that are not sent.
fn disturb(source: &Cluster, seed: u64) -> (Running, tempfile::NamedTempFile) {
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "\\set id random(1, 40000)\n\\set to random(40001, 90000)\n\\set dice random(1, 10)\n\
        \\if :dice <= 4\nupdate big set v = v + 1 where id = :id;\n\
        \\elif :dice = 5\nupdate big set id = :to where id = :id and not exists (select from big where id = :to);\n\
        \\elif :dice = 6\ndelete from big where id = :id;\n\
        \\elif :dice = 7\ninsert into big values (:id, -1, 'again', repeat('x', 3000)) on conflict do nothing;\n\
        \\elif :dice = 8\nupdate big set fat = repeat(md5(random()::text), 150), note = 'n' where id = :id;\n\
        \\elif :dice = 9\nupdate bag set v = v + 1000 where ctid = (select ctid from bag limit 1 offset (:id % 100));\n\
        \\else\nbegin;\nupdate odd set n = n + 1 where \"The Key\" = 'k' || (:id % 500);\nsavepoint s;\n\
        update big set v = v + 100 where id = :id;\nrelease s;\ninsert into \"Empty\" values (:to) on conflict do nothing;\ncommit;\n\\endif\n";
    std::fs::write(script.path(), text).unwrap();
    let path = script.path().display().to_string();
    let seed = format!("--random-seed={seed}");
    (source.start_pgbench(&["-n", "-c", "4", "-T", "86400", "-R", "800", &seed, "-f", &path]), script)
}

#[test]
fn rows_and_the_changes_that_came_meanwhile_arrive() {
    let clone = prepared(&format!("{TABLES}{}", ledger::TABLES), ROWS);
    clone.source.run_script(ledger::TRANSFER);
    clone.target.run_script("truncate account");
    let (load, _script) = ledger::load(&clone.source, 300);
    let (more, _more) = disturb(&clone.source, 1);
    std::thread::sleep(Duration::from_millis(500));
    let mut running = clone.start(&["--follow"]);
    wait_until(seconds(60), "the copy is done", || {
        assert!(running.is_running(), "{}", running.log());
        clone.target.value("select to_regclass('pgsluice.clone') is not null") == "t"
            && clone.target.value("select count(through) from pgsluice.clone") == "1"
    });
    std::thread::sleep(seconds(1));
    drop((load, more));
    clone.source.rests();
    clone.program.run(&["sentinel", "set", "endpos", "current"]).done();
    let report = running.wait(seconds(60)).done().json();
    assert_tables_equal(&clone.source, &clone.target);
    ledger::assert_holds(&clone.target);
    assert!(report["rows"].as_u64().unwrap() > 100_000, "{report}");
    assert!(report["tables"].as_u64().unwrap() >= 9, "{report}");
}

#[test]
fn it_ends_where_the_source_was_when_all_was_copied() {
    let clone = prepared(TABLES, ROWS);
    let report = clone.finishes();
    assert_eq!(report["mode"], "done");
    assert_eq!(report["rows"], 40_000 + 60_000 + 500 + 2000);
    // Once more finds nothing to copy, and applies what came since.
    clone.source.run_script("update big set v = 7 where id < 10; delete from bag where v = 3");
    clone.finishes();
    assert_eq!(clone.target.value("select count(*) from big where v = 7"), "9");
}

#[test]
fn kill_9_again_and_again_costs_only_time() {
    let clone = prepared(&format!("{TABLES}{}", ledger::TABLES), ROWS);
    clone.source.run_script(ledger::TRANSFER);
    clone.target.run_script("truncate account");
    let (load, _script) = ledger::load(&clone.source, 200);
    let (more, _more) = disturb(&clone.source, 2);
    let mut dice = Dice(5);
    for _ in 0..ledger::kills() {
        let running = clone.start(&["--jobs", "2"]);
        std::thread::sleep(dice.milliseconds(150, 1500));
        running.kill();
    }
    drop((load, more));
    clone.source.rests();
    clone.finishes();
    ledger::assert_holds(&clone.target);
}

/// After the first part was copied all that can go wrong with the others happens to the rows: a tuple that moves is in no part or in two,
/// and what was not sent of a value that is stored apart is nowhere in the log (SEMANTICS C-5).
#[cfg(feature = "faults")]
#[test]
fn rows_that_move_between_parts_of_different_snapshots_are_there_once() {
    for format in ["text", "binary"] {
        let clone = prepared(
            "create table moving(id int primary key, v int, fat text, mail int unique, pad text);
             alter table moving alter fat set storage external;",
            "insert into moving select i, 0, repeat(md5(i::text), 70), i, repeat('p', 150) from generate_series(1, 30000) i",
        );
        let clone = Pair { program: clone.program.env("PGSLUICE_FORMAT", format), ..clone };
        clone.dies_at("copy.after_commit:2");
        assert_ne!(clone.parts("moving"), "0");
        clone.source.run_script(
            "-- From the copied parts to the end of the table, and back into holes.
             update moving set v = 1 where id % 3 = 0;
             vacuum moving;
             update moving set v = 2 where id % 7 = 0;
             -- Keys, with a value that is not sent.
             update moving set id = id + 100000 where id % 11 = 0;
             delete from moving where id % 13 = 0;
             insert into moving select id, 5, 'again', -id from generate_series(13, 3000, 26) id where id % 11 <> 0 on conflict do nothing;
             -- Two rows exchange a unique value.
             begin;
             update moving set mail = -1000000 where id = 1;
             update moving set mail = 1 where id = 2;
             update moving set mail = 2 where id = 1;
             commit;
             begin; savepoint a; update moving set v = 9 where id = 4; release a; savepoint b; delete from moving where id = 5; rollback to b; commit;
             vacuum moving;",
        );
        clone.dies_at("copy.before_commit:1");
        clone
            .source
            .run_script("update moving set v = v + 1 where id % 5 = 0; delete from moving where id % 17 = 0");
        clone.dies_at("copy.before_refresh_commit:1");
        clone.source.run_script("update moving set id = -id where id % 19 = 0");
        let mut finishing = clone.start(&[]);
        for _ in 0..20 {
            if !finishing.is_running() {
                break;
            }
            clone.source.run_script("update moving set v = v + 1 where id % 97 = 0");
        }
        finishing.wait(seconds(60)).done();
        clone.finishes();
    }
}

/// The parts that are there are of no use when the source's table is another one.
#[cfg(feature = "faults")]
#[test]
fn what_cannot_be_continued_is_copied_anew() {
    for change in [
        "truncate moving; insert into moving select i, 1 from generate_series(1, 1000) i",
        "vacuum full moving",
        "alter table moving drop constraint moving_pkey; alter table moving replica identity full",
        "update moving set v = 1; truncate moving",
    ] {
        let clone = prepared(
            "create table moving(id int primary key, v int)",
            "insert into moving select i, 0 from generate_series(1, 200000) i",
        );
        clone.dies_at("copy.after_commit:1");
        clone.source.run_script(change);
        clone.finishes();
    }
    let keyless = prepared(
        "create table moving(v int); alter table moving replica identity full",
        "insert into moving select i from generate_series(1, 200000) i",
    );
    keyless.dies_at("copy.after_commit:1");
    keyless.source.run_script("update moving set v = v + 1 where v < 100");
    keyless.finishes();
}

/// SEMANTICS C-3: the commit is in WAL, and sent, before a snapshot shows it. What is copied does not have it, although the LSN says so.
#[cfg(feature = "faults")]
#[test]
fn a_commit_that_waits_for_a_standby_is_not_lost() {
    let clone = prepared(TABLES, ROWS);
    // The log and the clone begin, and nothing is copied.
    clone.dies_at("copy.before_commit:1");
    clone.source.run_script("alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()");
    wait_until(seconds(10), "a standby is waited for", || {
        clone.source.value("show synchronous_standby_names") == "nobody"
    });
    let mut frozen = clone.source.client("psql");
    frozen.args(["-X", "-q", "-d", &clone.source.conninfo(), "-c"]).arg(
        "begin; update big set v = 4711 where id = 39999; insert into bag values (4711, 'frozen');
         insert into \"Empty\" values (4711); commit",
    );
    let frozen = Running::spawn(frozen);
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    wait_until(seconds(10), "the commit waits", || clone.source.value(waits) == "1");
    assert_eq!(clone.source.value("select count(*) from \"Empty\""), "0", "the commit shows");
    clone.start(&[]).wait(seconds(60)).done();
    assert_eq!(clone.target.value("select count(*) from \"Empty\""), "1");
    assert_eq!(clone.target.value("select v from big where id = 39999"), "4711");
    clone.source.run_script("alter system reset synchronous_standby_names; select pg_reload_conf()");
    frozen.wait(seconds(10)).done();
    assert_tables_equal(&clone.source, &clone.target);
}

/// What was committed when the log began and did not show yet is in neither; so all that ran then is waited for.
#[test]
fn transactions_that_ran_when_the_log_began_are_waited_for() {
    let clone = prepared(TABLES, ROWS);
    clone.program.run(&["setup", "--keyless", "full"]).done();
    let old = clone.source.session();
    old.query("begin; update big set v = 1 where id = 1");
    let mut running = clone.start(&[]);
    std::thread::sleep(seconds(2));
    assert!(running.is_running(), "{}", running.log());
    assert_eq!(clone.target.value("select count(*) from big"), "0");
    old.query("commit");
    running.wait(seconds(60)).done();
    assert_tables_equal(&clone.source, &clone.target);
}

#[test]
fn lost_servers_are_outlived() {
    let clone = prepared(TABLES, ROWS);
    let (more, _more) = disturb(&clone.source, 3);
    let mut running = clone.start(&["--jobs", "3", "--follow"]);
    let begun = "select to_regclass('pgsluice.clone') is not null and exists (select from pg_stat_activity where query like 'COPY%')";
    wait_until(seconds(30), "the copy has begun", || {
        !running.is_running() || clone.target.value(begun) == "t"
    });
    let mut dice = Dice(9);
    for round in 0..6 {
        std::thread::sleep(dice.milliseconds(100, 800));
        let target = round % 2 == 0;
        let cluster = if target { &clone.target } else { &clone.source };
        let mode = if round % 3 == 0 { StopMode::Immediate } else { StopMode::Fast };
        if target || round == 5 {
            cluster.restart(mode);
        } else {
            cluster.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgsluice%'");
        }
        assert!(running.is_running(), "{}", running.log());
    }
    drop(more);
    wait_until(seconds(60), "the copy is done", || {
        assert!(running.is_running(), "{}", running.log());
        clone.target.value("select count(through) from pgsluice.clone") == "1"
    });
    clone.program.run(&["sentinel", "set", "endpos", "current"]).done();
    running.wait(seconds(60)).done();
    assert_tables_equal(&clone.source, &clone.target);
}

#[test]
fn a_stop_is_clean_though_the_source_is_away() {
    let clone = prepared("create table t(id int primary key)", "insert into t values (1)");
    let mut running = clone.start(&["--follow"]);
    wait_until(seconds(60), "the clone is finished", || {
        assert!(running.is_running(), "{}", running.log());
        clone.target.value("select to_regclass('pgsluice.clone') is not null") == "t"
            && clone.target.value("select count(*) from pgsluice.clone where finished") == "1"
    });
    clone.source.stop(StopMode::Immediate);
    std::thread::sleep(seconds(1));
    running.terminate(seconds(30)).done();
}

#[test]
fn rows_of_somebody_else_are_not_touched() {
    let clone = prepared(TABLES, ROWS);
    clone.target.run_script("insert into odd values ('mine')");
    let outcome = clone.start(&[]).wait(seconds(60)).ends_with(1);
    assert!(
        outcome.stderr.contains("odd of the target has rows that no clone brought"),
        "{}",
        outcome.stderr
    );
    assert_eq!(clone.target.value("select count(*) from odd"), "1");
    // A target whose clone is not finished takes no changes.
    let outcome = clone.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("run pgsluice clone again"), "{}", outcome.stderr);
    clone.target.run_script("truncate odd");
    clone.finishes();
    clone.program.run(&["cleanup"]).done();
    assert_eq!(clone.target.value("select to_regnamespace('pgsluice') is null"), "t");
}

/// Only what is published is copied: rows, columns, tables.
#[test]
fn filters_hold_for_the_copy_too() {
    let clone = prepared(
        "create table part(id int primary key, region text, secret text); create table whole(id int primary key);",
        "insert into part select i, case when i % 3 = 0 then 'EU' else 'US' end, 's' from generate_series(1, 900) i;
         insert into whole select generate_series(1, 10)",
    );
    let filters =
        ["--where", "public.part=region = 'EU'", "--columns", "public.part=id,region", "--exclude", "whole"];
    let arguments = [&["clone", "--no-schema", "--json"][..], &filters].concat();
    clone.source.run_script("alter table part alter region set not null; create unique index part_filter on part(id, region); alter table part replica identity using index part_filter");
    clone.program.run(&arguments).done();
    assert_eq!(
        clone.target.value("select count(*) || ' ' || count(secret) from part where region = 'EU'"),
        "300 0"
    );
    assert_eq!(clone.target.value("select count(*) from part"), "300");
    assert_eq!(clone.target.value("select count(*) from whole"), "0");
}

/// A shop with everything that must wait for the rows, or for the changes behind them.
const SHOP: &str = "
create table customer(id bigint generated always as identity primary key, mail text unique, noted timestamptz default now());
create table orders(id serial primary key, customer bigint not null references customer, total numeric(10, 2) check (total >= 0));
create table line(orders int references orders on delete cascade, n int, what text, primary key (orders, n));
create index on line using hash (what);
create index on orders (customer) include (total);
create view spent as select c.id, c.mail, sum(o.total) from customer c join orders o on o.customer = c.id group by c.id;
create materialized view sums as select customer, sum(total) from orders group by customer;
create unique index on sums(customer);
create function touch() returns trigger language plpgsql as $$ begin new.noted := now(); return new; end $$;
create trigger touch before update on customer for each row execute function touch();
create statistics spread on customer, total from orders;
insert into customer(mail) select 'm' || i from generate_series(1, 3000) i;
insert into orders(customer, total) select 1 + i % 3000, i % 90 from generate_series(1, 9000) i;
insert into line select 1 + i % 9000, i / 9000, md5(i::text) from generate_series(1, 40000) i;
";

/// Rows of different tables that belong together, all the time.
fn shop(source: &Cluster) -> (Running, tempfile::NamedTempFile) {
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "\\set total random(1, 100)\n\\set dice random(1, 5)\nbegin;\n\
        insert into customer(mail) values ('n' || nextval('customer_id_seq'));\n\
        insert into orders(customer, total) select max(id), :total from customer;\n\
        insert into line select max(id), 1, 'new' from orders;\ncommit;\n\
        \\if :dice = 1\ndelete from orders where id = (select min(id) from orders);\n\\endif\n\
        update orders set total = :total where id = (select max(id) from orders);\n";
    std::fs::write(script.path(), text).unwrap();
    let path = script.path().display().to_string();
    (source.start_pgbench(&["-n", "-c", "1", "-T", "86400", "-R", "150", "-f", &path]), script)
}

/// The definitions of both sides, without what is ours.
fn assert_schemas_equal(clone: &Pair) {
    let schema = |cluster: &Cluster| {
        let dump = cluster.dump(&["--schema-only", "--no-publications", "--exclude-schema=pgsluice"]);
        let lines: Vec<String> =
            dump.lines().filter(|line| !line.starts_with("\\")).map(str::to_owned).collect();
        lines.join("\n")
    };
    assert_same_lines(&schema(&clone.source), &schema(&clone.target));
}

#[track_caller]
fn assert_same_lines(left: &str, right: &str) {
    let differs = left.lines().zip(right.lines()).find(|(left, right)| left != right);
    assert!(left == right, "the schemas differ, first in {differs:?}");
}

#[test]
fn an_empty_database_becomes_the_source() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(&format!("{SHOP}{TABLES}{ROWS}"));
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    let clone = Pair { source, target, program };
    let (load, _script) = shop(&clone.source);
    let running = clone.program.start(&["clone", "--follow", "--keyless", "full", "--part-size", "1"]);
    std::thread::sleep(seconds(4));
    drop(load);
    clone.program.run(&["sentinel", "set", "endpos", "current"]).done();
    running.wait(seconds(60)).done();
    assert_tables_equal(&clone.source, &clone.target);
    assert_schemas_equal(&clone);
    assert_eq!(clone.target.value("select count(*) > 0 from sums"), "t");
    assert_eq!(
        clone.target.value("select last_value from customer_id_seq"),
        clone.source.value("select last_value from customer_id_seq")
    );
    assert_eq!(
        clone
            .target
            .value("select count(*) from pg_stats where schemaname = 'public' and tablename = 'line'"),
        "3"
    );
}

#[test]
fn an_empty_database_becomes_the_source_however_often_it_is_killed() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(&format!("{SHOP}{TABLES}{ROWS}"));
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    let clone = Pair { source, target, program };
    let (load, _script) = shop(&clone.source);
    let arguments = ["clone", "--keyless", "full", "--part-size", "1", "--jobs", "2", "--keep"];
    let mut dice = Dice(11);
    for _ in 0..ledger::kills() {
        let running = clone.program.start(&arguments);
        std::thread::sleep(dice.milliseconds(100, 2000));
        running.kill();
    }
    drop(load);
    clone.program.run(&arguments).done();
    clone.program.follow_to_current();
    assert_tables_equal(&clone.source, &clone.target);
    assert_schemas_equal(&clone);
}

/// What follows the rows is made by whoever comes after a kill, once all tables are whole.
#[test]
fn triggers_and_statistics_outlive_a_kill_behind_the_rows() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(SHOP);
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    let clone = Pair { source, target, program };
    let mut command = clone.program.command(&["clone", "--keep"]);
    command.env("PGSLUICE_FAILPOINT", "copy.after_complete");
    let outcome = Running::spawn(command).wait(seconds(60));
    assert!(outcome.stderr.contains("failpoint copy.after_complete reached"), "{outcome}");
    clone.program.run(&["clone", "--keep"]).done();
    assert_schemas_equal(&clone);
    assert_tables_equal(&clone.source, &clone.target);
    let analyzed = "select count(distinct tablename) from pg_stats where schemaname = 'public' and tablename in ('customer', 'orders', 'line')";
    assert_eq!(clone.target.value(analyzed), "3");
    let last = "select last_value from customer_id_seq";
    assert_eq!(clone.target.value(last), clone.source.value(last));
}

/// Without --follow nothing stays behind that would keep the source's WAL.
#[test]
fn a_clone_leaves_no_slot() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(SHOP);
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    let report = program.run(&["clone", "--json"]).done().json();
    assert_eq!(report["tables"], 3);
    assert!(
        !program.archive().read_dir().unwrap().any(|file| file
            .unwrap()
            .path()
            .extension()
            .is_some_and(|e| e == "dump"))
    );
    assert_eq!(source.value("select count(*) from pg_replication_slots"), "0");
    assert_eq!(source.value("select count(*) from pg_publication"), "0");
    assert_eq!(target.value("select to_regnamespace('pgsluice') is null"), "t");
    assert_tables_equal(&source, &target);
}

/// Rows of children are their own; and what the log has of a table that is gone fits nothing.
#[cfg(feature = "faults")]
#[test]
fn children_and_tables_that_go_away_are_seen_for_what_they_are() {
    let clone = prepared(
        "create table parent(id int primary key, v text); create table child(primary key (id)) inherits (parent);
         create table going(id int primary key, v int); create table later(id int primary key);",
        "insert into child select i, repeat('c', 500) from generate_series(1, 10000) i;
         insert into parent select i, repeat('p', 300) from generate_series(1, 8000) i;
         insert into going select i, 0 from generate_series(1, 100) i",
    );
    clone.dies_at("copy.after_commit:1");
    clone.source.run_script(
        "delete from only parent where id = 5; update only parent set v = 'moved' where id % 7 = 0;
         update going set v = 1; create table made(id int primary key); insert into made values (1);",
    );
    clone.dies_at("copy.after_commit:2");
    clone.source.run_script(
        "update going set v = 2; drop table going; drop table made; delete from only parent where id = 6",
    );
    // A table that was made meanwhile is in the log as a whole.
    let outcome = clone.start(&[]).wait(seconds(60)).ends_with(1);
    assert!(outcome.stderr.contains("on the target: CREATE TABLE \"public\".\"made\""), "{outcome}");
    clone.target.run_script("create table made(id int primary key)");
    clone.start(&[]).wait(seconds(60)).done();
    clone.target.run_script("drop table going; drop table made");
    assert_tables_equal(&clone.source, &clone.target);
    assert_eq!(clone.target.value("select count(*) from only parent"), "7998");
    assert_eq!(clone.target.value("select count(*) from child"), "10000");
}

/// Writing a table anew while its parts are read would move every row: it waits.
#[test]
fn a_table_that_is_written_anew_meanwhile_is_read_whole() {
    let clone = prepared(TABLES, ROWS);
    let (more, _more) = disturb(&clone.source, 4);
    let running = clone.start(&["--jobs", "1"]);
    for _ in 0..5 {
        clone.source.run_script(
            "vacuum full big; cluster big using big_pkey; alter table bag alter v type bigint; alter table bag alter v type int",
        );
    }
    drop(more);
    running.wait(seconds(60)).done();
    clone.finishes();
}

#[test]
fn a_foreign_key_that_fails_keeps_nothing_else_from_being_made() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(
        "create table a(id int primary key); create table b(id int primary key, a int references a);
         create table c(id int primary key references b); create materialized view m as select count(*) from b;
         insert into a values (1); insert into b values (1, 1); insert into c values (1);
         alter table b disable trigger all; insert into b values (2, 2); alter table b enable trigger all;",
    );
    let program = Pgsluice::between(&source, &target).limit(seconds(60));
    let outcome = program.run(&["clone", "--keep"]).done();
    assert!(
        outcome.stderr.contains("b_a_fkey") && outcome.stderr.contains("run the same command again"),
        "{outcome}"
    );
    assert_eq!(
        target.value("select string_agg(conname, ' ') from pg_constraint where contype = 'f'"),
        "c_id_fkey"
    );
    assert_eq!(target.value("select count from m"), "2");
    let outcome = program.run(&["follow", "--endpos", "current"]).done();
    assert!(outcome.stderr.contains("pgsluice clone makes them"), "{outcome}");
    source.run_script("insert into a values (2)");
    let outcome = program.run(&["clone", "--keep"]).done();
    assert!(!outcome.stderr.contains("run the same command again"), "{outcome}");
    assert_eq!(target.value("select count(*) from pg_constraint where contype = 'f'"), "2");
}

const LARGE_OBJECTS: &str = "
create role reader;
select lo_from_bytea(20000 + i, convert_to(repeat(md5(i::text), i % 7), 'UTF8')) from generate_series(1, 450) i;
select lo_from_bytea(30000, (select string_agg(sha512(i::text::bytea), '') from generate_series(1, 80000) i));
select lo_from_bytea(30001, convert_to(repeat('x', 65536), 'UTF8'));
select lo_create(30002);
select lo_put(30002, 9000000, 'behind a hole');
alter large object 20001 owner to reader;
comment on large object 20002 is 'it''s large';
grant select on large object 20003 to reader with grant option;
grant update on large object 20003 to public;
";

fn large_objects(cluster: &Cluster) -> String {
    let told = "select string_agg(concat_ws(' ', oid, md5(lo_get(oid)), pg_get_userbyid(lomowner), lomacl, obj_description(oid, 'pg_largeobject')), ';' order by oid)
                  from pg_largeobject_metadata";
    cluster.value(told)
}

/// Brought in several transactions, of which a kill undoes none that was committed.
#[test]
fn large_objects_come_with_whose_they_are() {
    let pair = prepared("create table t(id int primary key, picture oid)", "insert into t values (1, 20001)");
    pair.source.run_script(LARGE_OBJECTS);
    pair.target.run_script("create role reader");
    let ours = "select count(*) from pg_largeobject_metadata";
    pair.dies_at("copy.before_large_objects_commit:2");
    assert_eq!(pair.target.value(ours), "200");
    // One of somebody else's does not move the place where it goes on.
    pair.target.run_script("alter large object 20010 owner to reader; select lo_create(4000000000)");
    pair.finishes();
    pair.target.run_script("select lo_unlink(4000000000)");
    // Those that were there are not brought again.
    assert_eq!(
        pair.target.value("select lomowner::regrole from pg_largeobject_metadata where oid = 20010"),
        "reader"
    );
    pair.target.run_script("alter large object 20010 owner to postgres");
    assert_eq!(large_objects(&pair.target), large_objects(&pair.source));
    assert_eq!(pair.target.value(ours), "453");
}

#[test]
fn large_objects_stay_behind_where_they_are_not_wanted() {
    for flags in [&["--no-large-objects"][..], &["--tables", "t"]] {
        let pair = prepared("create table t(id int primary key)", "insert into t values (1)");
        pair.source.run_script("select lo_create(5); select lo_create(6)");
        pair.target.run_script("select lo_create(7)");
        let outcome = pair.start(flags).wait(seconds(60)).done();
        assert!(outcome.stderr.contains("2 large objects"), "{outcome}");
        assert_eq!(pair.target.value("select string_agg(oid::text, ' ') from pg_largeobject_metadata"), "7");
        assert_tables_equal(&pair.source, &pair.target);
    }
    let pair = prepared("create table t(id int primary key)", "insert into t values (1)");
    pair.source.run_script("select lo_create(7)");
    pair.target.run_script("select lo_create(7)");
    let outcome = pair.start(&[]).wait(seconds(60)).ends_with(1);
    assert!(outcome.stderr.contains("the target has large objects already"), "{outcome}");
}

#[test]
fn a_table_without_columns_is_copied() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(
        "create table nothing(); insert into nothing default values; insert into nothing default values",
    );
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    program.run(&["clone", "--keyless", "full"]).done();
    assert_eq!(target.value("select count(*) from nothing"), "2");
}
