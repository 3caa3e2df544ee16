//! Bases in the archive, and `replay`: any moment of the source comes back from the archive alone.

use std::path::{Path, PathBuf};

use crate::support::ledger::Dice;
use crate::support::{Bucket, Cluster, Pgsluice, Running, Session, StopMode, Version, seconds, wait_until};

const SCHEMA: &str = "
create table big(id bigint primary key, v int, note text, fat text);
alter table big alter fat set storage external;
create index on big(note);
create table bag(v int, note text);
alter table bag replica identity full;
create type mood as enum ('fine', 'bad');
create table odd(\"The Key\" text primary key, mood mood, twice int generated always as (n * 2) stored, n int);
create table part(at int, v text, primary key (at)) partition by range (at);
create table part_1 partition of part for values from (0) to (1000);
create table part_2 partition of part for values from (1000) to (2000);
create table child(id int generated always as identity primary key, big bigint references big on delete cascade);
create table mark(n int primary key);
create view seen as select id, v from big where v > 0;
";

const ROWS: &str = "
insert into big select i, 0, repeat(md5(i::text), 3), case when i % 50 = 0 then repeat(md5(i::text), 200) end from generate_series(1, 20000) i;
insert into bag select i % 1000, md5(i::text) || E'\\t\\\\\\n' from generate_series(1, 5000) i;
insert into odd(\"The Key\", mood, n) select 'k' || i, (array['fine', 'bad'])[1 + i % 2]::mood, i from generate_series(1, 500) i;
insert into part select i, md5(i::text) from generate_series(0, 1999) i;
insert into child(big) select i from generate_series(1, 500) i;
";

const TABLES: [&str; 5] = ["big", "bag", "odd", "part", "child"];

const BASE: [&str; 7] = ["clone", "--into-archive", "--keyless", "full", "--part-size", "1", "--json"];

/// What a moment is called, and what the tables were then.
struct Moment {
    flags: Vec<String>,
    sums: String,
}

struct Stage {
    source: Cluster,
    /// Empty, with a database for each replay.
    target: Cluster,
    program: Pgsluice,
}

fn sums(session: &Session, tables: &[&str]) -> String {
    let sum = |table: &&str| {
        format!("select '{table}', count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) from {table} t")
    };
    let queries: Vec<String> = tables.iter().map(sum).collect();
    format!("{:?}", session.query(&queries.join(" union all ")))
}

impl Stage {
    fn new() -> Stage {
        Stage::with(Cluster::source(), Cluster::target(), &[])
    }

    fn with(source: Cluster, target: Cluster, settings: &[(&str, &str)]) -> Stage {
        source.run_script(SCHEMA);
        source.run_script(ROWS);
        let program = Pgsluice::between(&source, &target).limit(seconds(120));
        let program = settings.iter().fold(program, |program, (name, value)| program.env(name, value));
        Stage { source, target, program }
    }

    /// The program elsewhere, with the archive alone and an empty database.
    fn target_of(&self, database: &str) -> String {
        self.target.query(&format!("create database {database}"));
        self.target.conninfo_of(database)
    }

    /// Without a target, which is made later.
    fn sets_up(&self) {
        let mut command = self.program.command(&["setup", "--keyless", "full"]);
        command.env_remove("PGSLUICE_TARGET");
        Running::spawn(command).wait(seconds(60)).done();
    }

    fn replay(&self, program: &Pgsluice, database: &str, flags: &[&str]) -> serde_json::Value {
        let target = self.target_of(database);
        program.run(&[&["replay", "--json", "--target", &target], flags].concat()).done().json()
    }

    /// Stops every writer for an instant, and says what can be called this moment, each by a transaction of its own.
    fn moment(&self, session: &Session, number: u64) -> Moment {
        session.query("begin; lock table big, bag, odd, part, child in share mode");
        let sums = sums(session, &TABLES);
        session.query(&format!("insert into mark values ({number})"));
        let value = |sql: &str| session.value(sql);
        let flags = match number % 3 {
            0 => vec!["--to-lsn".to_owned(), value("select pg_current_wal_insert_lsn()")],
            1 => {
                let xid = value("select (pg_current_xact_id()::text::numeric % 4294967296)::text");
                vec!["--to-xid".to_owned(), xid]
            }
            _ => {
                let utc = "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
                let time = value(utc);
                session.query("select pg_sleep(0.002)");
                vec!["--to-time".to_owned(), time]
            }
        };
        session.query("commit");
        Moment { flags, sums }
    }
}

/// Rows that move, change their keys, come and go, with values that are not sent.
fn disturb(source: &Cluster) -> (Running, tempfile::NamedTempFile) {
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "\\set id random(1, 20000)\n\\set to random(20001, 40000)\n\\set dice random(1, 9)\n\
        \\if :dice <= 3\nupdate big set v = v + 1 where id = :id;\n\
        \\elif :dice = 4\nupdate big set id = :to where id = :id and id > 500 and not exists (select from big where id = :to);\n\
        \\elif :dice = 5\ndelete from big where id = :id;\n\
        \\elif :dice = 6\ninsert into big values (:id, -1, 'again', repeat('x', 3000)) on conflict do nothing;\n\
        \\elif :dice = 7\nupdate bag set v = v + 1000 where ctid = (select ctid from bag limit 1 offset (:id % 100));\n\
        \\elif :dice = 8\nupdate part set v = md5(v) where at = :id % 2000;\n\
        \\else\nbegin;\nupdate odd set n = n + 1 where \"The Key\" = 'k' || (:id % 500);\nsavepoint s;\n\
        insert into child(big) select id from big where id = :id;\nrelease s;\ncommit;\n\\endif\n";
    std::fs::write(script.path(), text).unwrap();
    let path = script.path().display().to_string();
    (source.start_pgbench(&["-n", "-c", "3", "-T", "86400", "-R", "300", "-f", &path]), script)
}

fn strings(moment: &Moment) -> Vec<&str> {
    moment.flags.iter().map(String::as_str).collect()
}

/// A base is taken under load, moments are noted, the source stops for good; then each of them is made from the store alone.
fn any_moment(target: Cluster, moments: u64) {
    let bucket = Bucket::start();
    let mut settings = bucket.environment();
    settings.push(("PGSLUICE_ARCHIVE".into(), "s3://bucket/shop".into()));
    settings.push(("PGSLUICE_SPOOL".into(), "spool".into()));
    settings.push(("PGSLUICE_DURABLE".into(), "store".into()));
    let variables: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let stage = Stage::with(Cluster::source(), target, &variables);
    let (load, _script) = disturb(&stage.source);
    let report = stage.program.run(&BASE).done().json();
    assert!(report["tables"].as_u64() >= Some(6) && report["rows"].as_u64() > Some(20_000), "{report}");
    let receiver = stage.program.start(&["receive", "--segment-age", "1"]);
    let session = stage.source.session();
    let mut dice = Dice(7);
    let mut noted = Vec::new();
    for number in 0..moments {
        std::thread::sleep(dice.milliseconds(50, 400));
        noted.push(stage.moment(&session, number));
    }
    drop(load);
    stage.source.rests();
    stage.source.query("insert into mark values (-1)");
    let end = stage.source.current_lsn();
    wait_until(seconds(60), "all of it is in the store", || {
        let query = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pgsluice'";
        stage.source.value(&format!("select ({query}) >= '{end}'")) == "t"
    });
    receiver.terminate(seconds(30)).done();
    let last = sums(&session, &TABLES);
    drop(session);
    stage.source.stop(StopMode::Immediate);

    // Another machine, which has neither the spool nor the source.
    let nowhere = "host=127.0.0.1 port=1 user=nobody dbname=none";
    let elsewhere = Pgsluice::with(nowhere, nowhere).limit(seconds(120));
    let elsewhere = variables.iter().fold(elsewhere, |program, (name, value)| program.env(name, value));
    for (number, moment) in noted.iter().enumerate() {
        let database = format!("m{number}");
        let mut flags = strings(moment);
        // By its xid the moment's own transaction is named.
        flags.extend((flags[0] == "--to-xid").then_some("--exclusive"));
        let report = stage.replay(&elsewhere, &database, &flags);
        let made = stage.target.session_of(&database);
        assert_eq!(sums(&made, &TABLES), moment.sums, "{flags:?} {report}");
        assert_eq!(made.value("select count(*) from mark"), number.to_string(), "{flags:?}");
        assert!(report["next_lsn"].is_string(), "{report}");
        drop(made);
        stage.target.query(&format!("drop database {database}"));
    }
    stage.replay(&elsewhere, "whole", &[]);
    let made = stage.target.session_of("whole");
    assert_eq!(sums(&made, &TABLES), last);
    // The schema came too: what was made behind the rows, and the sequence goes on.
    let indexes = "select count(*) from pg_indexes where schemaname = 'public'";
    assert_eq!(made.value(indexes), "8");
    assert_eq!(made.value("select count(*) from pg_constraint where contype = 'f'"), "1");
    assert_eq!(made.value("select count(*) > 0 from seen"), "t");
    made.query("insert into child(big) values (null)");
    elsewhere.run(&["archive", "verify"]).done();
}

#[test]
fn any_moment_comes_back_from_the_bucket_alone() {
    any_moment(Cluster::target(), 14);
}

#[test]
fn any_moment_comes_back_on_a_newer_version() {
    let Some(newest) = Version::all().into_iter().max_by_key(|version| version.major) else { return };
    any_moment(Cluster::prepare().version(&newest).start(), 6);
}

/// Kills whoever takes the base, again and again, and then whoever brings it back.
#[test]
fn kill_9_again_and_again_costs_only_time() {
    let stage = Stage::new();
    let (load, _script) = disturb(&stage.source);
    let mut dice = Dice(11);
    for _ in 0..crate::support::ledger::kills().min(30) {
        let running = stage.program.start(&BASE);
        std::thread::sleep(dice.milliseconds(50, 1500));
        running.kill();
    }
    for point in ["base.before_file:2", "base.after_table:1"] {
        dies_at(&stage.program, point);
    }
    let half = stage.target_of("half");
    stage.program.run(&BASE).done();
    drop(load);
    stage.source.rests();
    stage.program.run(&["receive", "--endpos", "current"]).done();
    let bases = stage.program.run(&["archive", "bases", "--json"]).done().stdout;
    assert!(bases.lines().any(|line| line.contains("\"whole\"")), "{bases}");
    for point in ["restore.before_commit:3", "restore.after_commit:5"] {
        let mut command = stage.program.command(&["replay", "--target", &half]);
        command.env("PGSLUICE_FAILPOINT", point);
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.stderr.contains("reached"), "{point}: {outcome}");
    }
    stage.program.run(&["replay", "--target", &half]).done();
    let target = stage.target_of("made");
    for _ in 0..crate::support::ledger::kills().min(30) {
        let running = stage.program.start(&["replay", "--target", &target, "--jobs", "2"]);
        std::thread::sleep(dice.milliseconds(50, 1200));
        running.kill();
    }
    let running = stage.program.start(&["replay", "--target", &target]);
    let outcome = running.wait(seconds(120));
    // It may have come to its end before the last kill.
    let is_there = outcome.code == Some(0) || outcome.stderr.contains("--from-target");
    assert!(is_there, "{outcome}");
    let all = [&TABLES[..], &["mark"]].concat();
    for database in ["made", "half"] {
        let made = stage.target.session_of(database);
        assert_eq!(sums(&made, &all), sums(&stage.source.session(), &all), "{database}");
    }
}

fn dies_at(program: &Pgsluice, point: &str) {
    // What an earlier run has left would be gone on with.
    let unfinished = program.run(&["archive", "bases", "--json"]).stdout;
    for line in unfinished.lines() {
        let base: serde_json::Value = serde_json::from_str(line).unwrap();
        program.run(&["archive", "drop-base", base["base"].as_str().unwrap()]).done();
    }
    let mut command = program.command(&BASE);
    command.env("PGSLUICE_FAILPOINT", point);
    let outcome = Running::spawn(command).wait(seconds(60));
    let name = point.split(':').next().unwrap();
    assert!(outcome.stderr.contains(&format!("failpoint {name} reached")), "{point}: {outcome}");
}

/// The accident: one table as it was, beside the one that lives on.
#[test]
fn one_table_comes_back_beside_the_live_one() {
    let stage = Stage::new();
    stage.program.run(&BASE).done();
    stage
        .source
        .run_script("update big set v = 1 where id <= 100; insert into odd(\"The Key\", n) values ('x', 1)");
    let good = sums(&stage.source.session(), &["big"]);
    let before = stage.source.current_lsn();
    stage
        .source
        .run_script("update big set v = 2; delete from big where id % 3 = 0; insert into mark values (5)");
    stage.program.run(&["receive", "--endpos", "current"]).done();
    let live = stage.source.conninfo();
    let rescue = |flags: &[&str]| {
        let common = ["replay", "--target", &live, "--origin", "rescue", "--json"];
        stage.program.run(&[&common, flags].concat())
    };
    let report = rescue(&["--to-lsn", &before, "--rename", "public.big=restored.big_before"]).done().json();
    assert_eq!((&report["tables"], &report["rows"]), (&1.into(), &20_000.into()), "{report}");
    let session = stage.source.session();
    assert_eq!(sums(&session, &["restored.big_before"]).replace("restored.big_before", "big"), good);
    // The live tables have nothing of it.
    assert_eq!(session.value("select count(*) from big where v <> 2"), "0");
    assert_eq!(session.value("select count(*) from mark"), "1");
    let primary_key = "select count(*) from pg_constraint where conrelid = 'restored.big_before'::regclass and contype = 'p'";
    assert_eq!(session.value(primary_key), "1");
    // To a later moment, but only as the same table; applied without the name it would go into the live one.
    let again = rescue(&["--rename", "public.big=restored.big_before"]).ends_with(1);
    assert!(again.stderr.contains("--from-target"), "{again}");
    let other = rescue(&["--from-target", "--tables", "public.big"]).ends_with(4);
    assert!(other.stderr.contains("--rename"), "{other}");
    let endpos = stage.source.current_lsn();
    stage.program.run(&["receive", "--endpos", "current"]).done();
    let apply = ["apply", "--target", &live, "--origin", "rescue", "--endpos", &endpos];
    stage.program.run(&apply).ends_with(4);
    rescue(&["--from-target", "--rename", "public.big=restored.big_before"]).done();
    let now = sums(&session, &["restored.big_before"]).replace("restored.big_before", "big");
    assert_eq!(now, sums(&session, &["big"]));
    // Put away, while nobody holds the pipeline's slot: that stays.
    let cleanup = ["cleanup", "--target-only", "--target", &live, "--origin", "rescue"];
    stage.program.run(&cleanup).done();
    assert_eq!(session.value("select count(*) from pg_replication_slots"), "1");
    assert_eq!(session.value("select count(*) from pg_publication"), "1");
    assert_eq!(session.value("select to_regnamespace('pgsluice') is null"), "t");
    stage.program.run(&["receive", "--endpos", "current"]).done();
}

#[test]
fn a_replay_goes_on_to_later_moments_and_never_back() {
    let stage = Stage::new();
    stage.program.run(&BASE).done();
    let target = stage.target_of("made");
    let mut marks = Vec::new();
    for number in 0..3 {
        stage.source.run_script(&format!(
            "insert into mark values ({number}); update big set v = {number} where id = 7"
        ));
        marks.push(stage.source.current_lsn());
    }
    stage.program.run(&["receive", "--endpos", "current"]).done();
    let made = stage.target.session_of("made");
    for (number, mark) in marks.iter().enumerate() {
        let mut flags = vec!["replay", "--target", &target, "--to-lsn", mark, "--json"];
        flags.extend((number > 0).then_some("--from-target"));
        let report = stage.program.run(&flags).done().json();
        assert_eq!(report["mode"], "done", "{report}");
        assert_eq!(made.value("select v from big where id = 7"), number.to_string());
    }
    let back = stage.program.run(&["replay", "--target", &target, "--to-lsn", &marks[0], "--from-target"]);
    assert!(back.ends_with(1).stderr.contains("can't go back"));
    // What was brought back whole is a target like any other.
    stage.source.run_script("update big set v = 9 where id = 7");
    stage.program.run(&["follow", "--target", &target, "--endpos", "current"]).done();
    assert_eq!(sums(&made, &TABLES), sums(&stage.source.session(), &TABLES));
}

/// DDL, new tables and dropped ones, while the base is taken.
#[test]
fn tables_that_change_while_the_base_is_taken() {
    let stage = Stage::new();
    let mut dice = Dice(3);
    for round in 0..4 {
        let running = stage.program.start(&BASE);
        for step in 0..4 {
            std::thread::sleep(dice.milliseconds(20, 250));
            let name = format!("{round}_{step}");
            stage.source.run_script(&format!(
                "create table t_{name}(id int primary key, v text); insert into t_{name} select i, 'x' from generate_series(1, 100) i;
                 alter table odd add c_{name} int; update odd set c_{name} = 1 where n % 7 = 0;
                 drop table if exists t_{round}_{}; truncate part_1; insert into part select i, 'n' from generate_series(0, 50) i;",
                step / 2
            ));
        }
        running.wait(seconds(60)).done();
        stage.program.run(&["receive", "--endpos", "current"]).done();
        let database = format!("made_{round}");
        // The log may have DDL behind the base that nobody captured, so it goes only as far as the base is whole.
        let bases = stage.program.run(&["archive", "bases", "--json"]).done().stdout;
        let base: serde_json::Value = serde_json::from_str(bases.lines().last().unwrap()).unwrap();
        let through = base["through"].as_str().unwrap().to_owned();
        stage.replay(&stage.program, &database, &["--to-lsn", &through]);
        let made = stage.target.session_of(&database);
        assert_eq!(made.value("select count(*) from big"), "20000");
        stage.program.run(&["archive", "drop-base", base["base"].as_str().unwrap()]).done();
    }
    let after = stage.program.run(&["archive", "pins", "--json"]).done().stdout;
    assert_eq!(after, "", "a base that is gone keeps nothing");
}

#[test]
fn a_base_is_taken_beside_a_receiver_that_runs() {
    let stage = Stage::new();
    stage.sets_up();
    let receiver = stage.program.start(&["receive"]);
    wait_until(seconds(20), "it receives", || {
        stage.source.value("select count(*) from pg_stat_replication where state = 'streaming'") == "1"
    });
    let (load, _script) = disturb(&stage.source);
    let report = stage.program.run(&BASE).done().json();
    drop(load);
    stage.source.rests();
    receiver.terminate(seconds(20)).done();
    stage.program.run(&["receive", "--endpos", "current"]).done();
    stage.replay(&stage.program, "made", &[]);
    assert_eq!(
        sums(&stage.target.session_of("made"), &TABLES),
        sums(&stage.source.session(), &TABLES),
        "{report}"
    );
}

#[test]
fn some_tables_of_a_base_and_a_base_of_some_tables() {
    let stage = Stage::new();
    stage
        .program
        .run(
            &[&BASE[..], &["--tables", "public.big,public.odd,public.part*", "--exclude", "public.part_2"]]
                .concat(),
        )
        .done();
    stage
        .source
        .run_script("update big set v = 4; update odd set n = n + 1; insert into bag values (1, 'x')");
    stage.program.run(&["receive", "--endpos", "current"]).done();
    let here = stage.source.session();
    stage.replay(&stage.program, "one_of_it", &["--tables", "public.big"]);
    let made = stage.target.session_of("one_of_it");
    assert_eq!(sums(&made, &["big"]), sums(&here, &["big"]));
    assert_eq!(made.value("select to_regclass('odd') is null and to_regclass('bag') is null"), "t");
    // Not unasked: others were published too.
    let target = stage.target_of("all_of_it");
    let replay = |flags: &[&str]| stage.program.run(&[&["replay", "--target", &target], flags].concat());
    assert!(replay(&[]).ends_with(1).stderr.contains("only some of the source's tables"));
    let bases = stage.program.run(&["archive", "bases", "--json"]).done().json();
    replay(&["--base", bases["base"].as_str().unwrap()]).done();
    let made = stage.target.session_of("all_of_it");
    assert_eq!(sums(&made, &["big", "odd", "part_1"]), sums(&here, &["big", "odd", "part_1"]));
    assert_eq!(made.value("select to_regclass('bag') is null"), "t");
}

#[test]
fn what_can_not_be_brought_back_is_told() {
    let stage = Stage::new();
    stage.sets_up();
    stage.source.run_script("insert into mark values (1)");
    stage.program.run(&["receive", "--endpos", "current"]).done();
    let target = stage.target_of("made");
    let replay = |flags: &[&str]| stage.program.run(&[&["replay", "--target", &target], flags].concat());
    let told = |flags: &[&str], code: i32, what: &str| {
        let outcome = replay(flags).ends_with(code);
        assert!(outcome.stderr.contains(what), "{what}: {outcome}");
    };
    told(&[], 1, "--into-archive");
    let before = stage.source.current_lsn();
    stage.source.run_script("insert into mark values (2)");
    stage.program.run(&BASE).done();
    told(&["--to-lsn", &before], 1, "first moment");
    told(&["--tables", "public.nothing"], 2, "public.nothing");
    told(&["--rename", "big=other"], 2, "--rename");
    told(&["--rename", "public.nothing=public.other"], 2, "public.nothing");
    told(&["--to-lsn", "FFFF/0"], 1, "behind the log");
    told(&["--from-target"], 1, "--from-target");
    told(&["--to-lsn", "0/1", "--to-xid", "7"], 2, "cannot be used with");
    // Rows that are somebody's stay, and nothing is begun that would be in the way later.
    let session = stage.target.session_of("made");
    session.query(
        "create table big(id bigint primary key, v int, note text, fat text); insert into big values (1)",
    );
    told(&["--tables", "public.big", "--no-schema"], 1, "has rows");
    assert_eq!(session.value("select count(*) from big"), "1");
    session.query("drop table big");
    replay(&["--tables", "public.big"]).done();
    assert_eq!(session.value("select count(*) from big"), "20000");
    told(&["--origin", "other", "--tables", "public.big", "--no-schema"], 1, "has rows");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn base_files(program: &Pgsluice) -> Vec<PathBuf> {
    let is_file = |path: &PathBuf| path.parent().is_some_and(|folder| folder.ends_with("files"));
    files(&program.archive().join("base")).into_iter().filter(is_file).collect()
}

#[test]
fn damage_is_found_before_it_is_believed() {
    let stage = Stage::new();
    stage.program.run(&BASE).done();
    stage.program.run(&["archive", "verify"]).done();
    let mut dice = Dice(5);
    for path in base_files(&stage.program) {
        let whole = std::fs::read(&path).unwrap();
        let mut changed = whole.clone();
        let at = dice.number(0, whole.len() as u64 - 1) as usize;
        changed[at] ^= 4;
        std::fs::write(&path, changed).unwrap();
        let outcome = stage.program.run(&["archive", "verify", "--json"]).ends_with(3);
        assert!(outcome.stdout.contains("damaged"), "{} at {at}: {outcome}", path.display());
        std::fs::write(&path, whole).unwrap();
    }
    let victim =
        base_files(&stage.program).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = std::fs::read(&victim).unwrap();
    std::fs::write(&victim, &whole[..whole.len() - 1]).unwrap();
    let target = stage.target_of("made");
    let outcome = stage.program.run(&["replay", "--target", &target]).ends_with(4);
    assert!(outcome.stderr.contains("damaged"), "{outcome}");
    std::fs::write(&victim, &whole).unwrap();
    stage.program.run(&["replay", "--target", &target]).done();
    assert_eq!(sums(&stage.target.session_of("made"), &TABLES), sums(&stage.source.session(), &TABLES));
}

#[test]
fn an_encrypted_base_goes_along_and_tells_nothing() {
    let key = "11".repeat(32);
    let stage = Stage::with(Cluster::source(), Cluster::target(), &[("PGSLUICE_ARCHIVE_KEY", &key)]);
    stage.source.run_script("insert into mark values (1); update odd set mood = 'bad' where n = 1; insert into bag values (1, 'very secret')");
    stage.program.run(&BASE).done();
    for path in base_files(&stage.program) {
        let bytes = std::fs::read(&path).unwrap();
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!shown.contains("very secret") && !shown.contains("PGDMP"), "{}", path.display());
    }
    let copy = tempfile::tempdir().unwrap();
    let place = copy.path().join("copy").display().to_string();
    for _ in 0..2 {
        stage.program.run(&["archive", "copy", &place]).done();
    }
    let target = stage.target_of("made");
    let replay = ["replay", "--archive", &place, "--target", &target];
    let without = Pgsluice::between(&stage.source, &stage.target);
    let outcome = without.run(&replay).ends_with(2);
    assert!(outcome.stderr.contains("key"), "{outcome}");
    stage.program.run(&replay).done();
    assert_eq!(sums(&stage.target.session_of("made"), &TABLES), sums(&stage.source.session(), &TABLES));
}

#[test]
fn a_prune_leaves_what_a_base_needs() {
    let stage = Stage::new();
    stage.sets_up();
    stage.source.run_script("insert into mark values (1)");
    stage.program.run(&["receive", "--endpos", "current"]).done();
    stage.program.run(&BASE).done();
    stage.source.run_script("insert into mark values (2)");
    stage.program.run(&["receive", "--endpos", "current"]).done();
    let pruned = stage.program.run(&["archive", "prune", "--keep-age", "0s", "--force", "--yes"]).done();
    assert!(!pruned.stdout.is_empty());
    stage.replay(&stage.program, "made", &[]);
    assert_tables_equal_in(&stage, "made");
}

fn assert_tables_equal_in(stage: &Stage, database: &str) {
    assert_eq!(sums(&stage.target.session_of(database), &TABLES), sums(&stage.source.session(), &TABLES));
}

#[test]
fn what_says_nothing_of_the_wanted_tables_is_not_read() {
    let stage = Stage::new();
    stage.program.run(&BASE).done();
    let segments = || {
        let entries = std::fs::read_dir(stage.program.archive().join("segments")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<std::collections::BTreeSet<PathBuf>>()
    };
    // A segment each.
    let change = |sql: &str| {
        let before = segments();
        stage.source.run_script(sql);
        stage.program.run(&["receive", "--endpos", "current"]).done();
        segments().difference(&before).cloned().collect::<Vec<_>>()
    };
    change("update big set v = 1, note = 'one' where id = 1");
    let mut others = change("update bag set v = v + 1");
    others.extend(change("insert into odd(\"The Key\", n) values ('more', 1)"));
    change(
        "update bag set v = -v where v = 7; update big set v = 2 where id = 1; delete from big where id = 2",
    );
    others.extend(change("delete from mark; truncate bag"));
    // The newest sample of the sequences is in the last one.
    change("insert into big values (-1, 5)");
    assert_eq!(others.len(), 3, "{others:?}");
    for path in &others {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[300] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let report = stage.replay(&stage.program, "part", &["--tables", "big"]);
    let made = stage.target.session_of("part");
    assert_eq!(sums(&made, &["big"]), sums(&stage.source.session(), &["big"]));
    assert_eq!(report["stopped_at"], report["replay_lsn"], "{report}");
    // And on from there.
    change("update big set v = 3 where id = 3");
    let target = stage.target.conninfo_of("part");
    stage.program.run(&["replay", "--target", &target, "--tables", "big", "--from-target"]).done();
    assert_eq!(sums(&made, &["big"]), sums(&stage.source.session(), &["big"]));
    let whole = stage.target_of("whole");
    stage.program.run(&["replay", "--target", &whole]).ends_with(4);
}

/// As for the applier, a table is one of those that are meant if it has become a partition of one of them.
#[test]
fn a_table_that_became_a_partition_is_not_passed_by() {
    let (source, target) = (Cluster::source(), Cluster::target());
    let parent = "create table parent(id int primary key) partition by range (id); create table other(id int primary key);
                  create table a partition of parent for values from (0) to (10); create table b(id int primary key check (id >= 10 and id < 20));";
    source.run_script(parent);
    target
        .run_script(&format!("{parent} alter table parent attach partition b for values from (10) to (20)"));
    let program = Pgsluice::between(&source, &target);
    program.run(&["clone", "--into-archive"]).done();
    for sql in ["insert into b values (10)", "insert into other values (1)", "insert into b values (11)"] {
        source.run_script(sql);
        program.run(&["receive", "--endpos", "current"]).done();
    }
    program.run(&["replay", "--no-schema", "--tables", "parent"]).done();
    assert_eq!(target.value("select array_agg(id order by id) from parent"), "{10,11}");
    assert_eq!(target.value("select count(*) from other"), "0");
}
