//! `backfill`: tables of a running pipeline are brought anew or for the first time, and then are what the source has, however often it is cut off.

use std::time::Duration;

use crate::support::ledger::{self, Dice};
use crate::support::{Cluster, Pgsluice, Road, Running, StopMode, assert_tables_equal, seconds, wait_until};

/// Tables of several parts of a MiB, beside those of the ledger: rows that are large, that move, and that have no key.
const TABLES: &str = "
create table big(id bigint primary key, v int, note text, fat text);
alter table big alter fat set storage external;
create table bag(v int, note text);
create table events(at int, v text, primary key (at)) partition by range (at);
create table events_1 partition of events for values from (0) to (1000);
create table events_2 partition of events for values from (1000) to (2000);
";

const ROWS: &str = "
insert into big select i, 0, repeat(md5(i::text), 3), case when i % 50 = 0 then repeat(md5(i::text), 200) end from generate_series(1, 30000) i;
insert into big select i, 0 from generate_series(100001, 101000) i;
insert into bag select i % 1000, md5(i::text) from generate_series(1, 20000) i;
insert into events select i, md5(i::text) from generate_series(0, 1999) i;
";

/// What somebody does to the target who should not, without being noticed by who applies: each change below finds its row.
const DAMAGE: &str = "
update big set v = -5 where id % 7 = 0; delete from big where id > 100500; insert into big select -i, 1 from generate_series(1, 500) i;
insert into bag select 7, 'mine' from generate_series(1, 100);
update events set v = 'mine' where at % 3 = 0;
";

/// A road whose source and target have the same rows, but for what was done to the target. Nothing of it is in the log.
fn damaged() -> Road {
    let schema = format!("{}{TABLES}", ledger::TABLES);
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(&format!("{schema}{}{ROWS}", ledger::TRANSFER));
    target.run_script(&format!("{schema}{ROWS}"));
    let road = Road::between(source, target, "", "");
    road.target.run_script(DAMAGE);
    Road { program: road.program.limit(seconds(120)), ..road }
}

const BACKFILL: [&str; 4] = ["backfill", "--part-size", "1", "--json"];
const DAMAGED: [&str; 3] = ["public.big", "bag", "events"];

/// What goes on meanwhile, on tables that are brought and on others: rows that move, that come and go, that change their keys, with values that
/// are not sent.
fn disturb(source: &Cluster, seed: u64, rate: u32) -> (Running, tempfile::NamedTempFile) {
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "\\set id random(1, 30000)\n\\set to random(30001, 90000)\n\\set dice random(1, 11)\n\
        \\if :dice <= 4\nupdate big set v = v + 1 where id = :id;\n\
        \\elif :dice = 5\nupdate big set id = :to where id = :id and not exists (select from big where id = :to);\n\
        \\elif :dice = 6\ndelete from big where id = :id;\n\
        \\elif :dice = 7\ninsert into big values (:id, -1, 'again', repeat('x', 3000)) on conflict do nothing;\n\
        \\elif :dice = 8\nupdate big set fat = repeat(md5(random()::text), 150), note = 'n' where id = :id;\n\
        \\elif :dice = 9\nupdate bag set v = v + 1000 where ctid = (select ctid from bag limit 1 offset (:id % 100));\n\
        \\elif :dice = 10\nupdate events set v = 'e' || :to where at = :id % 2000;\n\
        \\else\nbegin;\nupdate account set note = 'both' where id = 1 + :id % 20;\nsavepoint s;\n\
        update big set v = v + 100 where id = :id;\nrelease s;\ncommit;\n\\endif\n";
    std::fs::write(script.path(), text).unwrap();
    let path = script.path().display().to_string();
    let (seed, rate) = (format!("--random-seed={seed}"), rate.to_string());
    (source.start_pgbench(&["-n", "-c", "3", "-T", "86400", "-R", &rate, &seed, "-f", &path]), script)
}

fn start(program: &Pgsluice, more: &[&str]) -> Running {
    program.start(&[&BACKFILL, more].concat())
}

#[track_caller]
fn finishes(program: &Pgsluice, more: &[&str]) -> serde_json::Value {
    start(program, more).wait(seconds(120)).done().json()
}

/// Nothing of a backfill is left on the target.
#[track_caller]
fn assert_clean(target: &Cluster) {
    assert_eq!(target.value("select count(*) from pgsluice.progress"), "1");
    assert_eq!(target.value("select count(*) from pgsluice.copied"), "0");
    assert_eq!(target.value("select count(*) from pgsluice.joining where through is null"), "0");
    assert_eq!(target.value("select count(*) from pg_replication_origin where roname like '%backfill'"), "0");
}

#[test]
fn damaged_tables_are_brought_anew_while_all_goes_on() {
    let road = damaged();
    let (load, _script) = ledger::load(&road.source, 150);
    let (more, _more) = disturb(&road.source, 1, 300);
    let following = road.follow();
    std::thread::sleep(seconds(1));
    let report = finishes(&road.program, &DAMAGED);
    assert_eq!(report["tables"].as_array().unwrap().len(), 4, "{report}");
    assert!(report["rows"].as_u64().unwrap() > 50_000, "{report}");
    std::thread::sleep(seconds(1));
    drop((load, more));
    road.finish(following);
    ledger::assert_holds(&road.target);
    assert_clean(&road.target);
}

/// Rows are missing that are changed: there the applier stops, and with the tables left to the backfill it goes on.
#[test]
fn a_pipeline_that_stopped_goes_on() {
    let road = damaged();
    road.target
        .run_script("delete from big where id % 11 = 0; delete from bag where v < 300; delete from events_1");
    road.change("update big set v = v + 1 where id < 100");
    let outcome = road.program.run(&["follow"]).ends_with(1);
    assert!(outcome.stderr.contains("touched 0 rows"), "{outcome}");
    let running = start(&road.program, &DAMAGED);
    wait_until(seconds(20), "the tables are left out", || {
        road.target.value("select to_regclass('pgsluice.joining') is not null") == "t"
            && road.target.value("select count(*) from pgsluice.joining") == "4"
    });
    let following = road.follow();
    let (more, _more) = disturb(&road.source, 9, 200);
    running.wait(seconds(120)).done();
    drop(more);
    road.finish(following);
}

/// The changes that came meanwhile are for nobody but the tables that were left out, so that no batch tells of the handover.
#[test]
fn an_applier_without_work_hears_of_it() {
    let road = damaged();
    let following = road.follow();
    let (more, _more) = disturb(&road.source, 2, 100);
    finishes(&road.program, &["big", "bag", "events", "account"]);
    drop(more);
    road.wait_for("select count(*), sum(v), sum(id) from big");
    road.finish(following);
}

#[test]
fn tables_are_added_to_a_running_pipeline() {
    let schema = format!("{}{TABLES}", ledger::TABLES);
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(&format!("{schema}{}{ROWS}", ledger::TRANSFER));
    target.run_script(&schema);
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    program
        .run(&["setup", "--keyless", "full", "--tables", "account", "ledger", "entered", "scratch"])
        .done();
    let road = Road { source, target, program };
    let (load, _script) = ledger::load(&road.source, 150);
    let (more, _more) = disturb(&road.source, 3, 300);
    let following = road.follow();
    let outcome = start(&road.program, &["bag"]).wait(seconds(60)).ends_with(1);
    assert!(outcome.stderr.contains("ALTER TABLE \"public\".\"bag\" REPLICA IDENTITY FULL"), "{outcome}");
    road.change("alter table bag replica identity full");
    finishes(&road.program, &["big", "events"]);
    finishes(&road.program, &["bag"]);
    assert_eq!(
        road.source.value("select string_agg(tablename, ' ' order by tablename) from pg_publication_tables"),
        "account bag big entered events_1 events_2 ledger scratch"
    );
    drop((load, more));
    road.finish(following);
    ledger::assert_holds(&road.target);
    assert_clean(&road.target);
}

#[test]
fn kill_9_of_either_again_and_again_costs_only_time() {
    let road = damaged();
    let (load, _script) = ledger::load(&road.source, 100);
    let (more, _more) = disturb(&road.source, 4, 200);
    let mut following = Some(road.program.start(&["follow", "--lanes", "3"]));
    let mut dice = Dice(7);
    // Where it has come to its end, it begins anew.
    let tables = || {
        let under_way = "select count(*) from pgsluice.joining where active and through is null";
        let begun = road.target.value("select to_regclass('pgsluice.joining') is not null") == "t";
        if begun && road.target.value(under_way) != "0" { &[][..] } else { &DAMAGED }
    };
    for _ in 0..ledger::kills() {
        let running = start(&road.program, tables());
        std::thread::sleep(dice.milliseconds(100, 2500));
        if dice.number(0, 3) == 0 {
            drop(following.take().map(Running::kill));
            std::thread::sleep(dice.milliseconds(0, 500));
            following = Some(road.program.start(&["follow", "--lanes", "3"]));
        }
        std::thread::sleep(dice.milliseconds(0, 500));
        running.kill();
    }
    finishes(&road.program, tables());
    drop((load, more));
    let following = following.take().unwrap();
    road.finish(following);
    ledger::assert_holds(&road.target);
}

/// It is cut off at each of its steps; what it had done is not done again, and nobody is left waiting.
#[cfg(feature = "faults")]
#[test]
fn it_goes_on_from_where_it_was_cut_off() {
    let road = damaged();
    let (load, _script) = ledger::load(&road.source, 100);
    let (more, _more) = disturb(&road.source, 5, 200);
    let following = road.follow();
    let (moves, mut tables) = ("select lsn from pgsluice.progress where stream = 'pgsluice'", &DAMAGED[..]);
    for point in [
        "backfill.after_join",
        "backfill.after_publish",
        "backfill.after_empty",
        "copy.before_commit",
        "copy.after_commit",
        "copy.after_commit:3",
        "copy.before_refresh_commit",
        "backfill.before_handover",
        "backfill.after_handover",
    ] {
        let mut command = road.program.command(&[&BACKFILL, tables].concat());
        command.env("PGSLUICE_FAILPOINT", point);
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.stderr.contains("failpoint "), "{point} was not reached: {outcome}");
        let before = road.target.value(moves);
        wait_until(seconds(20), "the applier goes on", || road.target.value(moves) != before);
        tables = &[];
    }
    // It was handed over, and nothing is under way.
    let outcome = start(&road.program, &[]).wait(seconds(30)).ends_with(2);
    assert!(outcome.stderr.contains("no backfill is under way"), "{outcome}");
    drop((load, more));
    road.finish(following);
    ledger::assert_holds(&road.target);
}

/// The source's table is emptied meanwhile, and filled again, while its copy is under way and behind it.
#[test]
fn a_truncate_meanwhile_is_not_outlived_by_rows() {
    let road = damaged();
    let following = road.follow();
    let running = start(&road.program, &["big", "bag", "--rate", "1"]);
    for round in 0..5 {
        std::thread::sleep(Duration::from_millis(400));
        road.change(&format!(
            "truncate bag, scratch; insert into bag select {round}, 'new' from generate_series(1, 300);
             insert into scratch values ({round})"
        ));
    }
    let report = running.wait(seconds(120)).done().json();
    assert!(report["copy_seconds"].as_f64().unwrap() > 4.0, "faster than it was to be: {report}");
    road.change("truncate big; insert into big values (1, 1)");
    road.program.run(&["backfill", "events"]).done();
    road.finish(following);
}

/// Tables of which one refers to the other are truncated at once while one of them is left out. PostgreSQL truncates no table without those that
/// refer to it, so the other one is emptied row by row, by whoever has it.
#[test]
fn a_truncate_of_tables_of_which_one_is_left_out_is_applied_by_both() {
    const TABLES: &str = "
        create table parent(id int generated by default as identity primary key, note text);
        create table child(id bigint primary key, parent int references parent, note text);
        create table large(id bigint primary key, fat text);
        alter table large alter fat set storage external;";
    for left_out in ["child", "parent"] {
        let road = Road::new(TABLES);
        road.change(
            "insert into parent(note) select i::text from generate_series(1, 500) i;
             insert into child select i, 1 + i % 500, 'c' from generate_series(1, 2000) i;
             insert into large select i, repeat(md5(i::text), 100) from generate_series(1, 2000) i",
        );
        let following = road.follow();
        road.wait_for("select count(*) from large");
        road.target.run_script(&format!(
            "insert into {left_out} (id, note) values (100000, 'mine'); select setval('parent_id_seq', 7777)"
        ));
        let mut running = start(&road.program, &[left_out, "large", "--rate", "1", "--jobs", "2"]);
        // Mine has gone, and those of the source are there.
        let rows = format!("select max(id) from {left_out}");
        let last = road.source.value(&rows);
        wait_until(seconds(30), "the small table is copied", || road.target.value(&rows) == last);
        road.change(
            "truncate parent, child restart identity; insert into parent(note) values ('new'), ('newer');
             insert into child values (1, 2, 'new')",
        );
        if left_out == "child" {
            road.wait_for("select count(*), min(note) from parent");
            assert!(following.log().contains("TRUNCATE applied as DELETE"), "{}", following.log());
        } else {
            road.wait_for("select count(*), min(note) from child");
        }
        assert!(running.is_running(), "{}", running.log());
        let outcome = running.wait(seconds(60)).done();
        assert_eq!(outcome.stderr.contains("TRUNCATE applied as DELETE"), left_out == "parent", "{outcome}");
        let sequence = "select last_value || ' ' || is_called from parent_id_seq";
        assert_eq!(road.target.value(sequence), "1 false", "{left_out}");
        road.change("delete from child; delete from parent where note = 'new'");
        road.finish(following);
    }
}

#[test]
fn lost_servers_are_outlived() {
    let road = damaged();
    let (load, _script) = ledger::load(&road.source, 50);
    let (more, _more) = disturb(&road.source, 11, 200);
    let mut following = road.follow();
    let mut running = start(&road.program, &["big", "bag", "events", "--rate", "2"]);
    let mut dice = Dice(3);
    for round in 0..6 {
        std::thread::sleep(dice.milliseconds(200, 900));
        match round % 3 {
            0 => road.target.restart(StopMode::Immediate),
            1 => road.target.restart(StopMode::Fast),
            _ => drop(road.source.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgsluice%'")),
        }
        assert!(following.is_running(), "{}", following.log());
    }
    assert!(running.is_running(), "{}", running.log());
    running.wait(seconds(120)).done();
    drop((load, more));
    road.finish(following);
    ledger::assert_holds(&road.target);
}

/// Somebody ends each statement of the source that takes long: with parts of half the size, and those that are here kept, it comes through.
#[test]
fn a_time_out_costs_no_more_than_the_part() {
    let road = Road::new(
        "create table t(id int primary key, v int, fat text); alter table t alter fat set storage plain;
         create table bag(v int, fat text); alter table bag alter fat set storage plain",
    );
    // What the buffers of a socket of TCP hold would count as sent.
    let program = road.program.source(&road.source.socket_conninfo());
    let road = Road { program, ..road };
    road.change(
        "insert into t select i, 0, repeat('x', 1900) from generate_series(1, 8000) i;
         insert into bag select i, repeat('y', 1900) from generate_series(1, 3000) i",
    );
    let following = road.follow();
    road.wait_for("select count(*) from bag");
    let run = ["backfill", "bag", "t", "--jobs", "1", "--rate", "4", "--part-size", "4", "--in-order"];
    let running = road.program.start(&run);
    let (source, target) = (road.source.session(), road.target.session());
    wait_until(seconds(30), "it has begun", || {
        target.value("select to_regclass('pgsluice.copied_part') is not null") == "t"
            && target.value("select count(*) from pgsluice.joining") == "2"
    });
    let cancel = |table: &str| {
        let canceled = format!(
            "select count(pg_cancel_backend(pid)) from pg_stat_activity where query like 'COPY%\"{table}\"%' and state = 'active'
                and clock_timestamp() - query_start > '100 ms'"
        );
        source.value(&canceled).parse::<u32>().unwrap()
    };
    let parts_of_t = "select count(*) from pgsluice.copied_part join pgsluice.copied using (stream, source_table) where name = 't'";
    let (mut of_bag, mut of_t, mut round) = (0, 0, 0);
    wait_until(seconds(90), "the tables are handed over", || {
        if of_bag == 0 {
            of_bag = cancel("bag");
        }
        if of_t == 0 && target.value(parts_of_t) != "0" {
            of_t = cancel("t");
        }
        round += 1;
        if round % 10 == 0 {
            source.query(&format!("update t set v = v + 1 where id = {}", 1 + round * 7 % 8000));
            source.query("insert into bag values (-1, 'new')");
        }
        target.value("select count(*) from pgsluice.joining where through is null") == "0"
    });
    let outcome = running.wait(seconds(30)).done();
    assert!(of_bag > 0 && of_t > 0, "{of_bag} and {of_t} were canceled: {outcome}");
    for said in ["public.bag", "public.t"] {
        let halved = |line: &str| line.contains("parts of half the size") && line.contains(said);
        assert!(outcome.stderr.lines().any(halved), "{said}: {outcome}");
    }
    let anew = |line: &str| line.contains("copied anew") && line.contains("public.t");
    assert!(!outcome.stderr.lines().any(anew), "{outcome}");
    road.finish(following);
    assert_clean(&road.target);
}

/// SEMANTICS C-3: the commit is in WAL, sent and applied before a snapshot shows it; the table is emptied, and what is copied does not have it.
#[test]
fn a_commit_that_waits_for_a_standby_is_not_lost() {
    let road = damaged();
    let following = road.follow();
    road.change("alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()");
    wait_until(seconds(10), "a standby is waited for", || {
        road.source.value("show synchronous_standby_names") == "nobody"
    });
    let mut frozen = road.source.client("psql");
    frozen.args(["-X", "-q", "-d", &road.source.conninfo(), "-c"]).arg(
        "begin; update big set v = 4711 where id = 29999; insert into bag values (4711, 'frozen'); commit",
    );
    let frozen = Running::spawn(frozen);
    // The applier has it, and no snapshot.
    let arrived = "select count(*) from bag where v = 4711";
    wait_until(seconds(10), "the commit arrives", || road.target.value(arrived) == "1");
    assert_eq!(road.source.value(arrived), "0", "the commit shows");
    let mut running = start(&road.program, &DAMAGED);
    std::thread::sleep(seconds(2));
    assert!(running.is_running(), "{}", running.log());
    road.change("alter system reset synchronous_standby_names; select pg_reload_conf()");
    frozen.wait(seconds(10)).done();
    running.wait(seconds(60)).done();
    road.finish(following);
    assert_eq!(road.target.value(arrived), "1");
}

/// Nobody applies: the tables are beyond the others then, and the applier leaves out what they have.
#[test]
fn an_applier_that_is_behind_leaves_out_what_the_tables_have() {
    let road = damaged();
    road.program.follow_to_current();
    let receiving = road.program.start(&["receive"]);
    let (load, _script) = ledger::load(&road.source, 100);
    let (more, _more) = disturb(&road.source, 6, 300);
    std::thread::sleep(seconds(1));
    finishes(&road.program, &DAMAGED);
    let ahead =
        "select count(*) from pgsluice.joining join pgsluice.progress using (stream) where through > lsn";
    assert_eq!(road.target.value(ahead), "4");
    std::thread::sleep(seconds(1));
    drop((load, more));
    receiving.terminate(seconds(30)).done();
    road.program.run(&["follow", "--lanes", "3", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &road.target);
    ledger::assert_holds(&road.target);
    // What is noted of them means nothing any more, and goes with the next one.
    finishes_at_rest(&road, "bag");
    assert_eq!(road.target.value("select count(*) from pgsluice.joining where name <> 'bag'"), "0");
}

#[track_caller]
fn finishes_at_rest(road: &Road, table: &str) {
    let receiving = road.program.start(&["receive"]);
    finishes(&road.program, &[table]);
    receiving.terminate(seconds(30)).done();
    road.program.follow_to_current();
    assert_tables_equal(&road.source, &road.target);
}

/// A table is new on the source, and its rows come before the target has it: there the applier stops. It is added with what it has then, and
/// altered while it is brought.
#[test]
fn a_table_that_is_new_is_added_where_ddl_is_applied_too() {
    let road = damaged();
    road.program.run(&["setup", "--capture-ddl"]).done();
    let follow = ["follow", "--ddl", "apply"];
    let following = road.program.start(&follow);
    let (load, _script) = ledger::load(&road.source, 50);
    let (more, _more) = disturb(&road.source, 8, 100);
    let running = start(&road.program, &["big", "bag", "--rate", "4"]);
    std::thread::sleep(seconds(1));
    road.change(
        "create table new(id int primary key, v text); insert into new select i, 'v' from generate_series(1, 100) i;
         alter table bag add w int default 7; update bag set w = 1 where v < 100; alter table account add x int",
    );
    running.wait(seconds(120)).done();
    finishes(&road.program, &["new", "events"]);
    road.change("alter table big add w int; update big set w = 1 where id % 100 = 0; update new set v = 'w'");
    drop((load, more));
    road.finish(following);
}

/// Rows that are selected are brought, and with them those that are written meanwhile; others stay as they are, right or wrong.
#[test]
fn selected_rows_are_brought_in_their_place() {
    let road = damaged();
    // All that is wrong with it is selected.
    road.target.run_script("delete from big where id < 0; update big set v = 0 where id % 7 = 0; delete from big where id > 100500;
        update big set v = -7 where id between 100001 and 100300; insert into big select i, 9 from generate_series(200001, 200100) i");
    let (more, _more) = disturb(&road.source, 10, 300);
    let (load, _script) = ledger::load(&road.source, 50);
    let following = road.follow();
    std::thread::sleep(seconds(1));
    let selected = ["big", "--where", "id > 100000 -- not more"];
    #[cfg(feature = "faults")]
    {
        let mut command = road.program.command(&[&BACKFILL[..], &selected].concat());
        command.env("PGSLUICE_FAILPOINT", "copy.before_selected_commit");
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.stderr.contains("failpoint "), "{outcome}");
        std::thread::sleep(seconds(1));
        let outcome = start(&road.program, &["big", "--where", "id > 7"]).wait(seconds(60)).ends_with(2);
        assert!(outcome.stderr.contains("under way in another way"), "{outcome}");
    }
    let outcome = start(&road.program, &selected).wait(seconds(60)).done();
    assert!(outcome.stderr.contains("rows brought") && !outcome.stderr.contains("emptied"), "{outcome}");
    let outcome =
        start(&road.program, &["bag", "events", "--where", "v = 'mine'"]).wait(seconds(60)).ends_with(2);
    assert!(
        outcome.stderr.contains("--where can't be asked of \"public\".\"bag\" of the source"),
        "{outcome}"
    );
    // A table without a key is brought whole.
    let outcome = start(&road.program, &["bag", "--where", "v = 7"]).wait(seconds(60)).done();
    assert!(
        outcome.stderr.contains("all of its rows are brought") && outcome.stderr.contains("emptied"),
        "{outcome}"
    );
    finishes(&road.program, &["events"]);
    // From here on what is wrong was written since.
    let since = road.source.value("select pg_current_xact_id()");
    drop((load, more));
    road.change("update big set v = 11 where id < 500; insert into big values (300001, 1)");
    road.wait_for("select count(*) from big where id = 300001");
    road.target.run_script("update big set v = 12 where id < 500; delete from big where id = 300001");
    finishes(&road.program, &["big", "--min-xid", &since]);
    let outcome = start(&road.program, &["big", "--min-xid", "999999999"]).wait(seconds(60)).ends_with(2);
    assert!(outcome.stderr.contains("has not come to transaction 999999999"), "{outcome}");
    road.finish(following);
}

const NOW: &str = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// Among what was written since a time is what a transaction wrote that began long before, whose id is lower than those of others; and the
/// source's ids have come round, so that those of the log have their upper halves from the source.
#[test]
fn what_was_written_since_a_time_is_brought() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.stop(StopMode::Fast);
    source.reset_wal(&["-e", "3"]);
    source.start();
    let schema = "create table t(id int primary key, v int)";
    let road = Road::between(source, target, schema, schema);
    let following = road.follow();
    road.change("insert into t select i, 0 from generate_series(2, 100) i");
    let long = road.source.session();
    long.query("begin");
    long.query("insert into t values (1, 1)");
    road.change("update t set v = 1 where id = 70");
    std::thread::sleep(Duration::from_millis(20));
    let since = road.source.value(NOW);
    std::thread::sleep(Duration::from_millis(20));
    road.change("update t set v = 2 where id between 50 and 60");
    long.query("commit");
    assert!(road.source.value("select pg_current_xact_id()").parse::<u64>().unwrap() > 3 << 32);
    road.wait_for("select count(*), sum(v) from t");
    road.target.run_script("update t set v = -1 where id between 50 and 60 or id in (1, 90)");
    for (arguments, code, said) in [
        (&["--since", "2001-01-01T00:00:00Z"][..], 1, "lies before the log, whose first transaction"),
        (&["--since", "2101-01-01T00:00:00Z"], 1, "the log has no transaction of 2101-01-01"),
        (&["--since", "2101-01-01"], 2, "a time is such as"),
        (&["--since", &since, "--min-xid", "7"], 2, "cannot be used with"),
        (&["--since", &since, "--mode", "only-changes"], 2, "brings no rows"),
    ] {
        let outcome = start(&road.program, &[&["t"], arguments].concat()).wait(seconds(60)).ends_with(code);
        assert!(outcome.stderr.contains(said), "{said}: {outcome}");
    }
    #[cfg(feature = "faults")]
    {
        let mut command = road.program.command(&[&BACKFILL[..], &["t", "--since", &since]].concat());
        command.env("PGSLUICE_FAILPOINT", "copy.before_selected_commit");
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.stderr.contains("failpoint "), "{outcome}");
        let other = road.source.value(NOW);
        let outcome = start(&road.program, &["--since", &other]).wait(seconds(60)).ends_with(2);
        assert!(outcome.stderr.contains("under way in another way"), "{outcome}");
    }
    let outcome = start(&road.program, &["t", "--since", &since]).wait(seconds(60)).done();
    assert!(outcome.stderr.contains("rows brought") && !outcome.stderr.contains("emptied"), "{outcome}");
    let wrong = "select string_agg(id::text, ' ') from t where v < 0";
    assert_eq!(road.target.value(wrong), "90", "only what was written since was to be brought");
    road.change("update t set v = 3 where id = 90");
    road.finish(following);
}

fn config(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// In one run: all rows of one table, some of others, and none of one that is new in the pipeline.
#[test]
fn each_table_is_treated_as_the_file_says() {
    const NAMES: [&str; 4] = ["chosen", "recent", "taken", "whole"];
    let schema: String =
        NAMES.map(|name| format!("create table {name}(id int primary key, v int);")).concat();
    let (source, target) = (Cluster::source(), Cluster::target());
    for side in [&source, &target] {
        side.run_script(&schema);
    }
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    program.run(&["setup", "--tables", "chosen", "recent", "whole"]).done();
    let road = Road { source, target, program };
    let rows =
        NAMES.map(|name| format!("insert into {name} select i, 0 from generate_series(1, 100) i;")).concat();
    road.change(&rows);
    road.target.run_script("insert into taken select i, 0 from generate_series(1, 100) i");
    let following = road.follow();
    road.wait_for("select count(*) from whole");
    std::thread::sleep(Duration::from_millis(20));
    let since = road.source.value(NOW);
    road.change("update recent set v = 1 where id > 50; update chosen set v = 1 where id > 50");
    road.wait_for("select sum(v) from recent");
    // The lower half of each is right only where all rows are brought.
    road.target.run_script(
        "update chosen set v = -1; update recent set v = -1; update taken set v = -1 where id <= 50; update whole set v = -1",
    );
    for (text, said) in [
        ("[backfill.nowhere]\nrate = 1", "the source has no logged table nowhere"),
        ("[backfill.whole]\nrate = 1\n[backfill.'public.*']", "more than one section [backfill.…]"),
        ("[backfill.whole]\nmode = 'only-changes'\nwhere = 'true'", "brings no rows"),
        ("[backfill.whole]\nmin-xid = 4\nsince = 2026-01-01T00:00:00Z", "min-xid and since"),
        ("[backfill.whole]\njobs = 4", "unknown field"),
        ("[backfill.whole]\nmode = 'only-changes'", "changes of public.whole are applied already"),
    ] {
        let file = config(text);
        let path = file.path().display().to_string();
        let outcome = start(&road.program, &["whole", "--config", &path]).wait(seconds(60)).ends_with(2);
        assert!(outcome.stderr.contains(said), "{said}: {outcome}");
    }
    let file = config(&format!(
        "[backfill.'public.chosen']\nwhere = 'id > 50'\n[backfill.recent]\nsince = '{since}'\n\
         [backfill.taken]\nmode = 'only-changes'\n[backfill.whole]\nrate = 1\npriority = 1\n"
    ));
    let path = file.path().display().to_string();
    let outcome = start(&road.program, &[&NAMES[..], &["--config", &path]].concat()).wait(seconds(60)).done();
    assert_eq!(outcome.json()["tables"].as_array().unwrap().len(), 4, "{outcome}");
    let wrong = |name: &str| road.target.value(&format!("select count(*) from {name} where v < 0"));
    assert_eq!(NAMES.map(wrong), ["50", "50", "50", "0"]);
    assert_clean(&road.target);
    // What is typed outranks it.
    let typed = ["chosen", "recent", "--where", "id between 2 and 50", "--min-xid", "3", "--config", &path];
    finishes(&road.program, &typed);
    assert_eq!(NAMES.map(wrong), ["1", "1", "50", "0"]);
    road.change(
        "update chosen set v = 5 where id = 1; update recent set v = 5 where id = 1; update taken set v = 5; delete from whole where id < 9",
    );
    road.finish(following);
}

#[cfg(feature = "faults")]
fn dies_at(program: &Pgsluice, point: &str, more: &[&str]) {
    let mut command = program.command(&[&BACKFILL, more].concat());
    command.env("PGSLUICE_FAILPOINT", point);
    let outcome = Running::spawn(command).wait(seconds(60));
    assert!(outcome.stderr.contains("failpoint "), "{point}: {outcome}");
}

/// What is chosen on the target can't be told any more once its rows are gone.
#[cfg(feature = "faults")]
#[test]
fn a_selection_that_became_all_rows_stays_so_when_it_is_cut_off() {
    let road = Road::new("create table t(id int primary key, v int)");
    road.change("insert into t select i, i from generate_series(1, 20000) i");
    road.target.run_script("update t set v = -1 where id <= 12000");
    let following = road.follow();
    let spoiled = ["t", "--where", "v < 0"];
    for point in ["backfill.after_selected", "backfill.after_empty"] {
        dies_at(&road.program, point, &spoiled);
    }
    finishes(&road.program, &spoiled);
    assert_eq!(road.target.value("select count(*) from t"), "20000");
    assert_clean(&road.target);
    road.finish(following);
}

/// Rows that count as being there are those of the beginning, whatever is brought of other tables before it ends.
#[cfg(feature = "faults")]
#[test]
fn what_is_written_while_others_are_brought_arrives() {
    let (source, target) = (Cluster::source(), Cluster::target());
    for side in [&source, &target] {
        side.run_script("create table chosen(id int primary key, v int); create table taken(id int primary key);
            insert into chosen select i, i from generate_series(1, 100) i; insert into taken select generate_series(1, 100)");
    }
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    program.run(&["setup", "--tables", "chosen"]).done();
    let road = Road { source, target, program };
    road.target.run_script("update chosen set v = -1 where id > 50");
    let following = road.follow();
    let file = config("[backfill.chosen]\nwhere = 'id > 50'\n[backfill.taken]\nmode = 'only-changes'\n");
    let run = ["chosen", "taken", "--config", &file.path().display().to_string()];
    dies_at(&road.program, "copy.before_selected_commit", &run);
    road.source.query("insert into taken values (101)");
    finishes(&road.program, &run);
    road.source.query("insert into taken values (102)");
    road.finish(following);
}

/// Tables that come first are there when a run that copies one part after the other is cut off.
#[cfg(feature = "faults")]
#[test]
fn tables_are_copied_in_the_order_that_is_wanted() {
    let road = Road::new(
        "create table a(id int primary key, v text); create table b(id int primary key, v text); create table c(id int primary key, v text)",
    );
    road.change(
        "insert into a select i, repeat('x', 500) from generate_series(1, 1000) i; insert into b values (1, ''); insert into c values (1, '')",
    );
    let following = road.follow();
    road.wait_for("select count(*) from c");
    let file = config("[backfill.b]\npriority = 2\n[backfill.a]\npriority = -1\n");
    let path = file.path().display().to_string();
    for (arguments, first) in [
        (&["*"][..], "a"),
        (&["c", "b", "a", "--in-order"], "c"),
        (&["*", "--config", &path], "b"),
        (&["c", "*", "--in-order", "--config", &path], "c"),
    ] {
        let mut command = road.program.command(&[&BACKFILL[..], &["--jobs", "1"], arguments].concat());
        command.env("PGSLUICE_FAILPOINT", "copy.after_commit");
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.stderr.contains("failpoint "), "{outcome}");
        let copied = "select string_agg(name, ' ') from pgsluice.copied";
        assert_eq!(road.target.value(copied), first, "{arguments:?}");
        finishes(&road.program, &[]);
    }
    road.finish(following);
}

#[test]
fn only_changes_takes_the_rows_that_are_there() {
    let schema = "create table t(id int primary key, v int); create table other(id int primary key);";
    let road = Road::new(schema);
    road.program.run(&["cleanup", "--archive-too"]).done();
    road.program.run(&["setup", "--tables", "other"]).done();
    let following = road.follow();
    road.change("insert into t select i, 0 from generate_series(1, 100) i");
    road.target.run_script("insert into t select i, 0 from generate_series(1, 100) i");
    let report = finishes(&road.program, &["t", "--mode", "only-changes"]);
    assert_eq!(report["rows"], 0);
    road.change(
        "update t set v = 1 where id % 2 = 0; delete from t where id % 5 = 0; insert into other values (1)",
    );
    road.finish(following);
    assert_eq!(road.target.value("select count(*) || ' ' || sum(v) from t"), "80 40");
}

#[test]
fn what_was_given_up_is_left_out_until_it_is_brought() {
    let road = damaged();
    let following = road.follow();
    let running = start(&road.program, &["big", "--rate", "1"]);
    let copying = "select to_regclass('pgsluice.copied') is not null and exists (select from pg_stat_activity where query like 'COPY%')";
    wait_until(seconds(30), "the copy has begun", || road.target.value(copying) == "t");
    running.terminate(seconds(10)).done();
    let another = road.target.session();
    another.query("select pg_advisory_lock(hashtextextended('pgsluice backfill of pgsluice', 0))");
    let outcome = start(&road.program, &[]).wait(seconds(60)).ends_with(1);
    assert!(outcome.stderr.contains("another backfill of 'pgsluice' is at work"), "{outcome}");
    drop(another);
    let outcome = start(&road.program, &["bag"]).wait(seconds(60)).ends_with(2);
    assert!(outcome.stderr.contains("a backfill of public.big is under way"), "{outcome}");
    assert_eq!(finishes(&road.program, &["--abort"])["given_up"][0], "public.big");
    road.change("update big set v = v + 1; insert into scratch values (1)");
    road.wait_for("select count(*) from scratch");
    let outcome = road.program.run(&["compare"]).ends_with(1);
    assert!(outcome.stderr.contains("left out until they are backfilled: public.big"), "{outcome}");
    finishes(&road.program, &["bag", "events"]);
    finishes(&road.program, &["big"]);
    road.program.run(&["compare"]).done();
    road.finish(following);
    road.program.run(&["cleanup"]).done();
    assert_eq!(road.target.value("select to_regnamespace('pgsluice') is null"), "t");
}

#[test]
fn what_can_not_be_brought_is_told_before_anything_is_done() {
    let road = Road::new("create table t(id int primary key); create table bag(v int)");
    road.change("create table only_here(id int primary key)");
    for (arguments, code, said) in [
        (&["nowhere"][..], 2, "the source has no logged table nowhere"),
        (&["bag", "--mode", "precise"], 2, "public.bag has no key"),
        (&["only_here"], 1, "--table='\"public\".\"only_here\"'"),
        (&[], 2, "no backfill is under way"),
        (&["--abort"], 2, "no backfill is under way"),
    ] {
        let outcome = start(&road.program, arguments).wait(seconds(60)).ends_with(code);
        assert!(outcome.stderr.contains(said), "{said}: {outcome}");
    }
    let joining = "select to_regclass('pgsluice.joining') is null or (select count(*) = 0 from pg_stat_user_tables where relname = 'joining' and n_tup_ins > 0)";
    assert_eq!(road.target.value(joining), "t");
}
