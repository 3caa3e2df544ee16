//! Transactions that the target refuses are set aside: whole, with all that touch their rows later, and nothing else.

use serde_json::Value;

use crate::support::ledger::Dice;
use crate::support::{Cluster, Outcome, Pgsluice, Road, Running, assert_tables_equal, seconds, wait_until};

const QUARANTINE: [(&str, &str); 1] = [("PGSLUICE_ON_ERROR", "quarantine")];

fn road(tables: &str, refuses: &str) -> Road {
    Road::with_settings(tables, &format!("{tables};{refuses}"), &QUARANTINE)
}

/// What is set aside, in the order of the log.
fn dead(program: &Pgsluice) -> Vec<Value> {
    let listed = program.run(&["dead", "list", "--json"]).done().json();
    listed.as_array().unwrap().clone()
}

fn reasons(program: &Pgsluice) -> String {
    let word = |note: &Value| note["reason"].as_str().unwrap().chars().next().unwrap();
    dead(program).iter().map(word).collect()
}

fn lsn(note: &Value) -> &str {
    note["lsn"].as_str().unwrap()
}

fn rows(cluster: &Cluster, sql: &str) -> String {
    let rows = cluster.query(sql);
    let text = |row: &Vec<Option<String>>| row[0].clone().unwrap_or_default();
    rows.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn retried(program: &Pgsluice) -> Outcome {
    program.run(&["dead", "retry"]).done()
}

#[test]
fn a_refused_transaction_and_all_that_touch_its_rows_are_set_aside_whole_and_brought_later() {
    let tables = "create table t(id int primary key, v int); create table u(id int primary key, v text)";
    let road = road(tables, "alter table t add constraint small check (v < 100)");
    road.change(
        "begin; insert into t values (1, 1), (2, 271828), (99, 271828); insert into u values (1, 'a'); commit;
         insert into t values (3, 3);
         update u set v = 'held' where id = 1;
         update t set id = 10 where id = 3;
         update t set id = 20 where id = 2;
         insert into t values (2, 5);
         delete from t where id = 20;
         insert into t values (20, 1);
         update t set id = 30 where id = 10;
         update t set id = 1000 where id = 2;
         begin; insert into u values (7, 'free'); update t set v = 2 where id = 1000; commit;
         insert into u values (2, 'free');",
    );
    let outcome = road.program.follow_to_current();
    assert!(outcome.stderr.contains("the target lacks what was set aside"), "{outcome}");
    assert!(!outcome.stderr.contains("271828"), "values of rows are not logged: {outcome}");
    assert_eq!(reasons(&road.program), "rhhhhhhh");
    assert_eq!(rows(&road.target, "select id || ':' || v from t"), "30:3");
    assert_eq!(rows(&road.target, "select id || ':' || v from u"), "2:free");
    let notes = dead(&road.program);
    assert_eq!(notes[0]["sqlstate"], "23514");
    assert!(notes[0]["error"].as_str().unwrap().contains("violates check constraint \"small\""), "{notes:?}");
    assert_eq!(notes[1]["held_by"], notes[0]["lsn"]);
    assert_eq!(notes[4]["held_by"], notes[2]["lsn"]);
    let shown = road.program.run(&["dead", "show", lsn(&notes[0]), "--json"]).done().stdout;
    let shown: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown.len(), 4);
    assert_eq!(shown[1]["new"]["v"], "271828");
    assert_eq!(shown[3]["table"], "public.u");
    let text = road.program.run(&["dead", "show", lsn(&notes[4])]).done().stdout;
    assert!(text.contains("delete public.t") && text.contains("key: id = '20'"), "{text}");
    let at = lsn(&notes[0]);
    let sql =
        road.program.run(&["export", "--format", "sql", "--from-lsn", at, "--to-lsn", at]).done().stdout;
    assert_eq!(sql.matches("INSERT INTO").count(), 4, "{sql}");

    // Rows are held still after a new start; the whole table after a TRUNCATE.
    road.change("update t set v = 4 where id = 30; update t set v = 9 where id = 20; insert into u values (3, 'free')");
    road.program.follow_to_current();
    assert_eq!(reasons(&road.program), "rhhhhhhhh");
    assert_eq!(rows(&road.target, "select id || ':' || v from t"), "30:4");
    road.change("truncate t; insert into t values (50, 1); insert into u values (4, 'free')");
    road.program.follow_to_current();
    assert_eq!(reasons(&road.program), "rhhhhhhhhhh");
    road.change("insert into t values (51, 1); insert into u values (5, 'free')");
    let outcome = road.program.follow_to_current();
    assert!(outcome.stderr.contains("whole_tables=1"), "{outcome}");
    assert_eq!(reasons(&road.program), "rhhhhhhhhhhh");
    assert_eq!(rows(&road.target, "select id from u order by 1"), "2 3 4 5");

    // It is refused again, with nothing of it on the target.
    let before = rows(&road.target, "select count(*) from u");
    let outcome = road.program.run(&["dead", "retry"]).ends_with(1);
    assert!(
        outcome.stderr.contains("violates check constraint") && outcome.stderr.contains("stays set aside"),
        "{outcome}"
    );
    assert_eq!(rows(&road.target, "select count(*) from u"), before);
    assert_eq!(reasons(&road.program).len(), 12);
    road.target.run_script("alter table t drop constraint small");
    retried(&road.program);
    assert_tables_equal(&road.source, &road.target);
    assert!(dead(&road.program).is_empty());
    road.change("update t set v = 77; update u set v = 'end'; insert into t values (2, 2)");
    road.arrives();
    assert_eq!(road.program.run(&["archive", "pins", "--json"]).done().stdout.matches("dead-").count(), 0);
    road.program.run(&["cleanup"]).done();
    assert_eq!(road.target.value("select to_regclass('pgsluice.dead') is null"), "t");
}

#[test]
fn tables_whose_rows_are_not_told_apart_are_held_as_a_whole() {
    let tables = "create table k(v int); alter table k replica identity full;
                  create table n(id numeric primary key, v int);
                  create table e(id int primary key, email text unique);
                  create table f(id int primary key, v int); alter table f replica identity full";
    let road = road(
        tables,
        "alter table k add constraint no_13 check (v <> 13); alter table n add constraint no_13 check (v <> 13);
         alter table e add constraint no_13 check (email <> '13'); alter table f add constraint no_13 check (v < 13)",
    );
    road.change(
        "insert into k values (1), (1), (2);
         insert into k values (13);
         insert into k values (1);
         delete from k where v = 2;
         insert into n values (1, 1);
         insert into n values (2, 13);
         insert into n values (3, 1);
         insert into e values (1, 'a');
         insert into e values (2, '13');
         insert into e values (3, 'c');
         insert into f values (1, 1), (2, 2);
         update f set v = 13 where id = 1;
         update f set v = 3 where id = 2;
         update f set v = 14 where id = 1;",
    );
    road.program.follow_to_current();
    assert_eq!(reasons(&road.program), "rhhrhrhrh");
    assert_eq!(rows(&road.target, "select v from k order by 1"), "1 1 2");
    assert_eq!(rows(&road.target, "select id from n"), "1");
    assert_eq!(rows(&road.target, "select id from e"), "1");
    assert_eq!(rows(&road.target, "select id || ':' || v from f order by 1"), "1:1 2:3");
    for table in ["k", "n", "e", "f"] {
        road.target.run_script(&format!("alter table {table} drop constraint no_13"));
    }
    retried(&road.program);
    road.arrives();
}

/// Accounts with numbered entries: what was applied of an account is always a beginning of what there is.
const ACCOUNTS: &str = "
create table account(id int primary key, balance bigint not null, n int not null);
create table entry(account int, n int, delta bigint, primary key (account, n));
insert into account select i, 0, 0 from generate_series(1, 400) i;
";

const MOVE: &str = "
create function move(payer int, payee int, amount int) returns void language plpgsql as $$
declare
    number int;
begin
    perform 1 from account where id in (payer, payee) order by id for update;
    update account set balance = balance + amount, n = n + 1 where id = payer returning n into number;
    insert into entry values (payer, number, amount);
    if payee % 50 = 0 and payee <> payer then
        update account set balance = balance + amount, n = n + 1 where id = payee returning n into number;
        insert into entry values (payee, number, amount);
    end if;
end $$;
";

const REFUSES: &str = "alter table entry add constraint refused check (delta <> 7)";

const WRONG: &str = "
select count(*) from account a
 where n <> (select count(*) from entry e where e.account = a.id)
    or n <> (select coalesce(max(n), 0) from entry e where e.account = a.id)
    or balance <> (select coalesce(sum(delta), 0) from entry e where e.account = a.id)";

fn accounts(settings: &[(&str, &str)]) -> Road {
    let settings = [&QUARANTINE[..], settings].concat();
    Road::with_settings(&format!("{ACCOUNTS}{MOVE}"), &format!("{ACCOUNTS}{REFUSES}"), &settings)
}

/// pgbench's arguments behind which the file of its script comes; one amount in a thousand is refused.
fn script() -> tempfile::NamedTempFile {
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "\\set payer random(1, 400)\n\\set payee random(1, 400)\n\\set amount random(1, 1000)\n\
                select move(:payer, :payee, :amount);\n";
    std::fs::write(script.path(), text).unwrap();
    script
}

/// Adds a number of transactions to the source.
fn moves(road: &Road, each: u32, seed: u32) {
    let script = script();
    let (each, seed) = (each.to_string(), format!("--random-seed={seed}"));
    let path = script.path().display().to_string();
    road.source.pgbench(&["-n", "-c", "4", "-t", &each, &seed, "-f", &path]);
}

/// While only some lanes have committed a batch, nothing can be said.
#[track_caller]
fn assert_sound(road: &Road) {
    let wrong = format!(
        "select case when exists (select from pgsluice.lane join pgsluice.progress using (stream)
             where lane.lsn > progress.lsn) then 0 else ({WRONG}) end"
    );
    assert_eq!(road.target.value(&wrong), "0");
}

/// Nothing of a transaction that is set aside is on the target, and all of every other; the accounts that lack something are those of it.
#[track_caller]
fn assert_only_dead_are_missing(road: &Road) -> usize {
    assert_eq!(road.target.value(WRONG), "0");
    let notes = dead(&road.program);
    let (mut missing, mut bad) = (0, 0);
    for note in &notes {
        let shown = road.program.run(&["dead", "show", lsn(note), "--json"]).done().stdout;
        let changes: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let entries: Vec<_> = changes.iter().filter(|change| change["table"] == "public.entry").collect();
        for entry in &entries {
            let (account, n) =
                (entry["new"]["account"].as_str().unwrap(), entry["new"]["n"].as_str().unwrap());
            let is_there = format!("select count(*) from entry where account = {account} and n = {n}");
            assert_eq!(road.target.value(&is_there), "0", "{note}");
        }
        bad += usize::from(entries.iter().any(|entry| entry["new"]["delta"] == "7"));
        missing += entries.len();
    }
    let count = |cluster: &Cluster| cluster.value("select count(*) from entry").parse::<usize>().unwrap();
    assert_eq!(count(&road.source), count(&road.target) + missing);
    assert!(bad >= notes.iter().filter(|note| note["reason"] == "refused").count());
    notes.len()
}

fn mended(road: &Road) {
    road.target.run_script("alter table entry drop constraint refused");
    retried(&road.program);
    road.arrives();
    assert_eq!(road.target.value(WRONG), "0");
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn of_a_load_all_but_what_touches_refused_rows_arrives_in_order() {
    let road = accounts(&[]);
    let running = road.follow();
    moves(&road, 500, 1);
    moves(&road, 500, 2);
    road.source.rests();
    road.program.run(&["sentinel", "set", "endpos", "current"]).done();
    running.wait(seconds(120)).done();
    let dead = assert_only_dead_are_missing(&road);
    assert!(dead >= 4, "{dead}");
    println!("{dead} of 4000 transactions were set aside");
    mended(&road);
}

#[test]
fn a_backlog_over_lanes_sets_the_same_aside() {
    let road = accounts(&[("PGSLUICE_LANES", "2")]);
    moves(&road, 500, 3);
    road.program.run(&["receive", "--endpos", "current"]).done();
    road.program.follow_to_current();
    let before = assert_only_dead_are_missing(&road);
    assert!(before >= 2, "{before}");
    moves(&road, 250, 4);
    road.program.run(&["receive", "--endpos", "current"]).done();
    road.program.follow_to_current();
    assert!(assert_only_dead_are_missing(&road) > before);
    mended(&road);
}

#[test]
fn kill_9_loses_and_doubles_nothing_of_what_is_set_aside() {
    let road = accounts(&[]);
    let script = script();
    let path = script.path().display().to_string();
    let load = road.source.start_pgbench(&[
        "-n",
        "-c",
        "2",
        "-T",
        "86400",
        "-R",
        "200",
        "--random-seed=5",
        "-f",
        &path,
    ]);
    let mut dice = Dice(9);
    for kill in 0..crate::support::ledger::kills() {
        let running = road.program.start(&["follow", "--lanes", if kill % 3 == 2 { "2" } else { "1" }]);
        std::thread::sleep(dice.milliseconds(100, 1500));
        running.kill();
        assert_sound(&road);
    }
    #[cfg(feature = "faults")]
    for name in ["apply.dead_before_note", "apply.dead_after_note"] {
        for hit in [1, 3] {
            let mut command = road.program.command(&["follow"]);
            command.env("PGSLUICE_FAILPOINT", format!("{name}:{hit}"));
            let outcome = Running::spawn(command).wait(seconds(60));
            assert!(outcome.stderr.contains(&format!("failpoint {name} reached")), "{outcome}");
            assert_sound(&road);
        }
    }
    load.kill();
    road.source.rests();
    road.program.follow_to_current();
    assert_only_dead_are_missing(&road);
    // A retry that is killed has brought a beginning of them, each once.
    road.target.run_script("alter table entry drop constraint refused");
    for _ in 0..3 {
        let running = road.program.start(&["dead", "retry"]);
        std::thread::sleep(dice.milliseconds(100, 400));
        running.kill();
        assert_eq!(road.target.value(WRONG), "0");
    }
    retried(&road.program);
    road.arrives();
    assert_eq!(road.target.value(WRONG), "0");
}

const T: &str = "create table t(id int primary key, v int); create table u(id int primary key, v int)";
const SMALL: &str =
    "alter table t add constraint small check (v < 100); alter table u add constraint small check (v < 100)";

#[test]
fn what_is_set_aside_is_kept_by_a_prune() {
    let road = road(T, SMALL);
    road.change("insert into t values (1, 200)");
    road.program.follow_to_current();
    for value in 0..5 {
        road.change(&format!("insert into u values ({value}, {value}); select pg_switch_wal()"));
        road.program.run(&["follow", "--endpos", "current", "--segment-age", "1"]).done();
        std::thread::sleep(seconds(1));
    }
    let goes = |report: Value| report["goes"]["segments"].as_u64().unwrap();
    assert_eq!(goes(road.program.run(&["archive", "prune", "--yes", "--json"]).done().json()), 0);
    road.target.run_script("alter table t drop constraint small");
    retried(&road.program);
    assert_tables_equal(&road.source, &road.target);
    assert!(goes(road.program.run(&["archive", "prune", "--yes", "--json"]).done().json()) > 0);
    road.arrives();
}

#[test]
fn retry_and_skip_need_the_stream_and_keep_the_order() {
    let road = road(T, SMALL);
    road.change(
        "insert into t values (1, 200); update t set v = 201 where id = 1; insert into u values (1, 200);
         update u set v = 202 where id = 1; insert into u values (2, 2)",
    );
    let running = road.follow();
    road.wait_for("select count(*) from u where id = 2");
    for verb in [&["dead", "retry"][..], &["dead", "skip", "0/1", "--yes"]] {
        let outcome = road.program.run(verb).ends_with(1);
        assert!(
            outcome.stderr.contains("an applier of 'pgsluice' is at work") && outcome.stderr.contains("stop"),
            "{outcome}"
        );
    }
    running.terminate(seconds(30)).done();
    let notes = dead(&road.program);
    assert_eq!(reasons(&road.program), "rhrh");
    road.target.run_script("alter table t drop constraint small");
    // The first two can be brought, the third can't.
    let outcome = road.program.run(&["dead", "retry", lsn(&notes[1])]).ends_with(1);
    assert!(outcome.stderr.contains("which stays set aside"), "{outcome}");
    road.program.run(&["dead", "retry", "0/1"]).ends_with(2);
    let outcome = road.program.run(&["dead", "retry", "--json"]).ends_with(1);
    assert_eq!(outcome.json()["brought"].as_array().unwrap().len(), 2, "{outcome}");
    assert_eq!(outcome.json()["left"], 2);
    assert_eq!(rows(&road.target, "select v from t"), "201");
    let notes = dead(&road.program);
    assert_eq!(reasons(&road.program), "rh");
    let outcome = road.program.run(&["dead", "skip", lsn(&notes[0]), "--yes"]).ends_with(1);
    assert!(outcome.stderr.contains("--with-dependents"), "{outcome}");
    let outcome = road.program.run(&["dead", "skip", lsn(&notes[1])]).ends_with(2);
    assert!(outcome.stderr.contains("--yes"), "{outcome}");
    road.program.run(&["dead", "skip", lsn(&notes[0]), "--with-dependents", "--yes"]).done();
    assert!(dead(&road.program).is_empty());
    assert_eq!(rows(&road.target, "select id from u"), "2");
    road.change("update t set v = 5; insert into u values (3, 3)");
    road.program.follow_to_current();
    assert_eq!(rows(&road.target, "select id from u order by 1"), "2 3");
}

#[test]
fn without_it_and_for_what_is_not_about_rows_the_applier_stops_or_waits_as_ever() {
    let road = Road::with(T, &format!("{T};{SMALL}"));
    road.change("insert into u values (1, 1); insert into t values (1, 200)");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("violates check constraint"), "{outcome}");
    assert_eq!(road.target.value("select to_regclass('pgsluice.dead') is null"), "t");
    assert!(dead(&road.program).is_empty());
    let quarantine = ["follow", "--endpos", "current", "--on-error", "quarantine"];
    road.program.run(&quarantine).done();
    assert_eq!(reasons(&road.program), "r");

    // With what is set aside, a run that stops does so where its rows are touched, with all before it applied.
    road.change("insert into u values (2, 2); update t set v = 1 where id = 1; insert into u values (3, 3)");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("changes rows of the transaction"), "{outcome}");
    assert_eq!(rows(&road.target, "select id from u order by 1"), "1 2");
    road.program.run(&quarantine).done();
    assert_eq!(rows(&road.target, "select id from u order by 1"), "1 2 3");
    assert_eq!(reasons(&road.program), "rh");

    // A lock that is not given, a row that is not there, a column that is missing.
    road.target.run_script("alter role postgres set lock_timeout = '300ms'");
    let lock = road.target.session();
    lock.query("begin; lock table u in access exclusive mode");
    road.change("insert into u values (4, 4)");
    let running = road.program.start(&quarantine);
    std::thread::sleep(seconds(3));
    lock.query("commit");
    running.wait(seconds(60)).done();
    assert_eq!(reasons(&road.program), "rh");
    road.target.run_script("delete from u where id = 4");
    road.change("update u set v = 5 where id = 4");
    let outcome = road.program.run(&quarantine).ends_with(1);
    assert!(outcome.stderr.contains("touched 0 rows"), "{outcome}");
    road.target.run_script("insert into u values (4, 4); alter table u rename v to w");
    let outcome = road.program.run(&quarantine).ends_with(1);
    assert!(outcome.stderr.contains("column"), "{outcome}");
    road.target.run_script("alter table u rename w to v; alter table t drop constraint small");
    assert_eq!(reasons(&road.program), "rh");
    retried(&road.program);
    road.arrives();
}

#[test]
fn what_the_target_refuses_at_its_commit_is_set_aside_too() {
    let road = road(
        T,
        "create function late() returns trigger language plpgsql as $$ begin
             if new.v = 13 then raise exception 'not 13'; end if; return null; end $$;
         create constraint trigger late after insert or update on t deferrable initially deferred
           for each row execute function late(); alter table t enable always trigger late",
    );
    road.change("insert into u values (1, 1); insert into t values (1, 13); insert into u values (2, 2); insert into t values (2, 1)");
    road.program.follow_to_current();
    // Whatever looks at each change of a table may look at all of it.
    assert_eq!(reasons(&road.program), "rh");
    assert_eq!(dead(&road.program)[0]["sqlstate"], "P0001");
    assert_eq!(rows(&road.target, "select id from u order by 1"), "1 2");
    road.program.run(&["dead", "retry"]).ends_with(1);
    road.target.run_script("drop trigger late on t");
    retried(&road.program);
    road.arrives();
}

#[test]
fn it_is_told_as_long_as_something_is_set_aside_and_nothing_is_taken_for_complete() {
    let road = road(T, SMALL);
    road.change("insert into t values (1, 271828); insert into u values (1, 1)");
    let running = road.follow();
    road.wait_for("select count(*) from u");
    let status = road.program.status();
    assert_eq!(status["dead"], 1, "{status}");
    let alarm = |status: &Value| {
        let alarms = status["alarms"].as_array().unwrap().clone();
        alarms.into_iter().find(|alarm| alarm["alarm"] == "dead_letters")
    };
    let told = alarm(&status).unwrap();
    assert_eq!(told["level"], "warning");
    assert!(told["message"].as_str().unwrap().contains("lacks 1 transactions"), "{told}");
    assert!(told["cure"].as_str().unwrap().contains("pgsluice dead list"), "{told}");
    assert!(!status.to_string().contains("271828"), "values of rows are not told: {status}");
    for refused in [&["cutover"][..], &["compare", "--repair"], &["backfill", "public.u"]] {
        let outcome = road.program.run(refused).ends_with(1);
        assert!(
            outcome.stderr.contains("1 transactions are set aside") && outcome.stderr.contains("dead retry"),
            "{outcome}"
        );
    }
    running.terminate(seconds(30)).done();
    road.target.run_script("alter table t drop constraint small");
    retried(&road.program);
    let status = road.program.status();
    assert_eq!(status["dead"], 0);
    assert_eq!(alarm(&status), None);
    let running = road.follow();
    road.program.run(&["backfill", "public.u"]).done();
    wait_until(seconds(30), "live", || {
        running.log().contains("mode=\"live\"") || running.log().contains("live")
    });
    road.program.run(&["cutover"]).done();
    running.wait(seconds(60)).done();
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn ddl_is_not_run_while_rows_of_before_it_are_set_aside() {
    let tables = T;
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(tables);
    target.run_script(&format!("{tables};{SMALL}"));
    let program = Pgsluice::between(&source, &target)
        .env("PGSLUICE_ON_ERROR", "quarantine")
        .env("PGSLUICE_DDL", "apply");
    program.run(&["setup", "--capture-ddl"]).done();
    source.run_script("insert into t values (1, 200); insert into u values (1, 1); alter table u add column w int; insert into u values (2, 2, 2)");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("transactions before it are set aside"), "{outcome}");
    assert_eq!(rows(&target, "select id from u"), "1");
    target.run_script("alter table t drop constraint small");
    retried(&program);
    program.follow_to_current();
    assert_tables_equal(&source, &target);
    // One that is refused and has ddl itself.
    target.run_script("alter table t add constraint small check (v < 300)");
    source.run_script("begin; alter table t add column w int; insert into t values (2, 300, 3); commit");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("violates check constraint"), "{outcome}");
    assert!(dead(&program).is_empty());
}

#[test]
fn a_row_that_changes_all_the_time_is_set_aside_each_time() {
    let road = road(T, SMALL);
    road.change("insert into t values (1, 200)");
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "\\set id random(1, 1000000000)\nbegin;\ninsert into u values (:id, 1) on conflict do nothing;\n\
                update t set v = v + 1 where id = 1;\ncommit;\ninsert into u values (-:id, 1) on conflict do nothing;\n";
    std::fs::write(script.path(), text).unwrap();
    let path = script.path().display().to_string();
    road.source.pgbench(&["-n", "-c", "4", "-t", "250", "-f", &path]);
    let started = std::time::Instant::now();
    road.program.follow_to_current();
    let set_aside = started.elapsed();
    assert_eq!(dead(&road.program).len(), 1001);
    assert_eq!(road.target.value("select count(*) from u where id > 0"), "0");
    assert_ne!(road.target.value("select count(*) from u where id < 0"), "0");
    let started = std::time::Instant::now();
    road.program.follow_to_current();
    let begun = started.elapsed();
    road.target.run_script("alter table t drop constraint small");
    let started = std::time::Instant::now();
    retried(&road.program);
    println!("set aside in {set_aside:?}, begun again in {begun:?}, brought in {:?}", started.elapsed());
    road.arrives();
}

#[test]
fn what_the_filters_of_now_leave_out_is_neither_forgotten_nor_in_the_way() {
    let tables = "create table t(id int primary key, v int); create table u(id int primary key, v int)";
    let road = road(tables, "alter table t add constraint small check (v < 100)");
    road.change("insert into t values (1, 500); insert into t values (2, 600); insert into u values (1, 1)");
    road.program.follow_to_current();
    assert_eq!(reasons(&road.program), "rr");
    road.target.run_script("alter table t drop constraint small");
    let notes = dead(&road.program);
    let last = lsn(&notes[1]);
    // With other filters than it was applied with nothing of it is brought, and nothing is done without.
    for arguments in [&["dead", "retry", last][..], &["dead", "retry"], &["dead", "skip", last, "--yes"]] {
        let refused = road.program.run(&[arguments, &["--tables", "public.u"]].concat());
        assert_ne!(refused.code, Some(0), "{refused}");
        assert!(refused.stderr.contains("left out by the filters"), "{refused}");
        assert_eq!(dead(&road.program).len(), 2, "{refused}");
    }
    // An applier that leaves the table out goes by its changes, however many touch those rows.
    road.change(
        "update t set v = 7 where id = 1; update t set v = 8 where id = 1; truncate t; insert into u values (2, 2)",
    );
    road.program.run(&["follow", "--endpos", "current", "--tables", "public.u"]).done();
    assert_eq!(rows(&road.target, "select id::text from u order by id"), "1 2");
    assert_eq!(dead(&road.program).len(), 2);
}
