//! Source against target while changes go on: nothing is found on an equal pair, what differs is named and put right, and the applier
//! is let go whatever becomes of the comparison.

use std::time::Duration;

use serde_json::Value;

use super::support::{
    Cluster, Pgsluice, Road, Signal, Version, assert_tables_equal, pair, seconds, wait_until,
};

#[track_caller]
fn compare(program: &Pgsluice, arguments: &[&str], code: i32) -> Value {
    program.run(&[&["compare", "--json"], arguments].concat()).ends_with(code).json()
}

#[track_caller]
fn equal(program: &Pgsluice, arguments: &[&str]) -> Value {
    let report = compare(program, arguments, 0);
    for table in report["tables"].as_array().unwrap() {
        assert_eq!(table["source_rows"], table["target_rows"], "{report}");
        assert_eq!(table["rows"], Value::Array(Vec::new()), "{report}");
    }
    report
}

fn table<'r>(report: &'r Value, name: &str) -> &'r Value {
    let tables = report["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"))
}

/// `kind key columns` of each row that is shown, sorted.
fn shown(report: &Value, name: &str) -> Vec<String> {
    let rows = table(report, name)["rows"].as_array().unwrap();
    let columns = |row: &Value| {
        let names = row["columns"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        names.collect::<Vec<_>>().join(",")
    };
    let mut rows: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {} {}", row["kind"].as_str().unwrap(), row["key"], columns(row)))
        .collect();
    rows.sort();
    rows
}

#[test]
fn an_equal_pair_is_equal_under_load_again_and_again() {
    let road = Road::pgbench();
    let running = road.follow();
    let load = road.source.start_pgbench(&["-n", "-c", "4", "-T", "300"]);
    let mut lsn = String::new();
    for round in 0..12 {
        let jobs = ["1", "2", "4"][round % 3];
        let report = equal(&road.program, &["--jobs", jobs]);
        assert_eq!(report["tables"].as_array().unwrap().len(), 4, "{report}");
        assert_ne!(report["lsn"], *lsn, "{report}");
        lsn = report["lsn"].as_str().unwrap().to_owned();
    }
    assert_ne!(road.target.value("select count(*) from pgbench_history"), "0");
    assert!(road.program.sentinel().get("hold").is_none());
    drop(load);
    road.finish(running);
    assert_eq!(road.source.value("select count(*) from pg_replication_slots"), "1");
}

const BIG: &str = "create table big(id bigint primary key, a text, n numeric, doc text);
    insert into big select i, 'row ' || i, i / 7.0, case when i % 1000 = 0 then repeat(md5(i::text), 300) end
      from generate_series(1, 200000) i;
    create table busy(id int primary key, n int); insert into busy select i, 0 from generate_series(1, 100) i;";

#[test]
fn three_rows_of_many_are_named_and_put_right_under_load() {
    let road = Road::new(BIG);
    let running = road.follow();
    let script = road.program.folder().join("load.sql");
    std::fs::write(
        &script,
        "\\set id random(1, 100)\n\\set big random(1, 100000)\nbegin;\nupdate busy set n = n + 1 where id = :id;\n\
         update big set n = n + 1 where id = :big;\ncommit;\n",
    )
    .unwrap();
    let script = script.display().to_string();
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "300", "-f", &script]);
    equal(&road.program, &[]);

    road.target.query("update big set doc = overlay(doc placing 'X' from 4000 for 1) where id = 150000");
    road.target.query("delete from big where id = 150001");
    road.target.query("insert into big values (-5, 'nobody')");
    let report = compare(&road.program, &[], 3);
    let expected =
        [r#"different {"id":"150000"} doc"#, r#"extra {"id":"-5"} "#, r#"missing {"id":"150001"} "#];
    assert_eq!(shown(&report, "public.big"), expected);
    let big = table(&report, "public.big");
    assert_eq!((&big["missing"], &big["extra"], &big["different"]), (&1.into(), &1.into(), &1.into()));
    assert_eq!(table(&report, "public.busy")["rows"], Value::Array(Vec::new()));
    let few = compare(&road.program, &["--show", "1", "--tables", "big"], 3);
    assert_eq!((shown(&few, "public.big").len(), few["tables"].as_array().unwrap().len()), (1, 1));
    let outcome = road.program.run(&["compare"]).ends_with(3);
    assert!(outcome.stdout.contains("public.big different (id) = (150000): doc"), "{outcome}");
    assert!(outcome.stderr.contains("3 rows differ"), "{outcome}");

    let report = compare(&road.program, &["--repair"], 0);
    assert_eq!(table(&report, "public.big")["repaired"], 3);
    equal(&road.program, &[]);
    road.change("update big set a = 'again' where id in (150000, 150001)");
    drop(load);
    road.finish(running);
}

/// Tables by what tells their rows apart; `COLLATION` is another one on either side.
const KEYS: &str = r#"
create type mood as enum ('sad', 'ok', 'happy');
create domain short as varchar(20);
create table of_int(k int primary key, v text);
create table of_bigint(k bigint primary key, v text);
create table of_uuid(k uuid primary key, v text);
create table of_text(k text collate "COLLATION" primary key, v text);
create table of_char(k char(12) primary key, v char(30));
create table of_time(k timestamptz primary key, v text);
create table of_many(a text collate "COLLATION", b numeric, c date, v text, primary key (a, b, c));
create table of_index(x int not null unique, v text); alter table of_index replica identity using index of_index_x_key;
create table "Of ""Quotes"""("K\'" int primary key, "the v" text);
create table keyless(a int, v text);
create table typed(k int primary key, v text, m mood, d short, b bit(5), j jsonb, js json, xs int[], r int4range, f float8, by bytea,
    i interval, ip inet, mo money, ts tsvector, p point, ch char(8), x xml, co of_int);
create table made(n int, twice int generated always as (n * 2) stored, id int generated always as identity, k int primary key, v text);
create table parts(k int, at int, v text, primary key (k, at)) partition by list (at);
create table parts_1 partition of parts for values in (1);
create table parts_2 partition of parts for values in (2);
create table toasted(k int primary key, v text); alter table toasted alter v set storage external;
create table empty(k int primary key, v text);
create table nothing();
create table beside(k int primary key, v text);
"#;

const ROWS: &str = r#"
insert into of_int select i, 'v' || i from generate_series(-500, 500) i;
insert into of_bigint select i * 10000000000, null from generate_series(1, 3000) i;
insert into of_uuid select md5(i::text)::uuid, 'v' || i from generate_series(1, 1000) i;
insert into of_text select chr(64 + i % 50) || '-Ä ß\' || i, 'it''s \ ' || i from generate_series(1, 1000) i;
insert into of_char select 'c ' || i, 'v ' || i from generate_series(1, 1000) i;
insert into of_time select timestamptz '2024-01-01 00:00:00.123456+00' + i * interval '1 hour', 'v' from generate_series(1, 1000) i;
insert into of_many select 'a' || i % 7, i / 3.0, date '2000-01-01' + i, 'v' from generate_series(1, 1000) i;
insert into of_index select i, 'v' from generate_series(1, 1000) i;
insert into "Of ""Quotes""" select i, 'v' from generate_series(1, 10) i;
insert into keyless select i % 10, nullif('v' || i % 3, 'v1') from generate_series(1, 1000) i;
insert into typed select i, 'v', 'ok', 'short', b'10101', '{"b": 1, "a": [2]}', '{"b":  1}', array[1, null, i], '[1,5)', 0.1 + 0.2 * i, '\x00ff',
    '1 year -3 days 04:05:06', '10.0.0.1/8', 12.5, 'a fat cat'::tsvector, '(1,2)', 'ab', '<a> b</a>', row(i, 'x "y" ,')::of_int from generate_series(1, 20) i;
insert into made(n, k, v) select i, i, 'v' from generate_series(1, 20) i;
insert into parts select i, 1 + i % 2, 'v' from generate_series(1, 1000) i;
insert into toasted select i, repeat(md5(i::text), 500) from generate_series(1, 50) i;
insert into beside values (1, 'v');
"#;

/// One row less, one changed, one more, in each of them.
const DAMAGE: &str = r#"
delete from of_int where k = -7; update of_int set v = null where k = 8; insert into of_int values (501, 'x');
delete from of_bigint where k = 20000000000; update of_bigint set v = '' where k = 30000000000; insert into of_bigint values (-1, 'x');
delete from of_uuid where v = 'v3'; update of_uuid set v = 'w' where v = 'v4'; insert into of_uuid values (md5('x')::uuid, 'x');
delete from of_text where v like '% 3'; update of_text set v = 'w' where v like '% 4'; insert into of_text values ('zß\', 'x');
delete from of_char where k = 'c 3'; update of_char set v = 'w' where k = 'c 4'; insert into of_char values ('d', 'x');
delete from of_time where k < '2024-01-01 01:30+00'; update of_time set v = 'w' where k = '2024-01-01 02:00:00.123456+00';
insert into of_time values ('1999-01-01', 'x');
delete from of_many where c = '2000-01-04'; update of_many set v = 'w' where c = '2000-01-05'; insert into of_many values ('A', 1.50, '1999-01-01', 'x');
delete from of_index where x = 3; update of_index set v = 'w' where x = 4; insert into of_index values (-1, 'x');
delete from "Of ""Quotes""" where "K\'" = 3; update "Of ""Quotes""" set "the v" = 'w' where "K\'" = 4; insert into "Of ""Quotes""" values (-1, 'x');
delete from keyless where ctid in (select ctid from keyless where a = 3 and v = 'v2' limit 2); insert into keyless values (4, null), (4, null);
delete from typed where k = 3; update typed set f = f + 1e-13, b = b'10100', co = row(4, null) where k = 4;
insert into typed(k, v) values (-1, 'x');
delete from made where k = 3; update made set v = 'w' where k = 4; insert into made(k, v) values (-1, 'x');
delete from parts where k = 3; update parts set v = 'w' where k = 4; insert into parts values (-1, 1, 'x');
delete from toasted where k = 3; update toasted set v = overlay(v placing 'X' from 9000 for 1) where k = 4; insert into toasted values (-1, 'x');
insert into empty values (1, 'x');
"#;

fn kinds(source: u32, target: u32) {
    let (Some(of_source), Some(of_target)) = (Version::find(source), Version::find(target)) else { return };
    let source = Cluster::prepare_source().version(&of_source).start();
    let target = Cluster::prepare().version(&of_target).start();
    // What a server was built without is left out.
    let can = |cluster: &Cluster, sql: &str| cluster.session().try_query(sql).is_ok();
    let sorts = |cluster: &Cluster| can(cluster, "select 'a' < 'B' collate \"en-x-icu\"");
    let xml = "select xmlparse(content 'a')";
    let xml = if can(&source, xml) && can(&target, xml) { "xml" } else { "text" };
    let collations = match (sorts(&source), sorts(&target)) {
        (true, _) => ["en-x-icu", "C"],
        (false, true) => ["C", "en-x-icu"],
        (false, false) => ["C", "POSIX"],
    };
    let [at_source, at_target] = collations.map(|collation| {
        format!("{}{ROWS}", KEYS.replace("COLLATION", collation).replace("x xml", &format!("x {xml}")))
    });
    let road = Road::between(source, target, &at_source, &at_target);
    let running = road.follow();
    road.change("update made set v = 'u' where k = 9; update keyless set a = a + 100 where a = 9");
    equal(&road.program, &[]);
    road.target.run_script(DAMAGE);
    let report = compare(&road.program, &[], 3);
    for found in report["tables"].as_array().unwrap() {
        let name = found["name"].as_str().unwrap();
        let counts = ["missing", "extra", "different"].map(|kind| found[kind].as_u64().unwrap());
        let expected = match name {
            "public.keyless" => [2, 2, 0],
            "public.empty" => [0, 1, 0],
            "public.nothing" | "public.beside" => [0, 0, 0],
            "public.parts_1" => [0, 1, 1],
            "public.parts_2" => [1, 0, 0],
            _ => [1, 1, 1],
        };
        assert_eq!(counts, expected, "{name}: {report}");
    }
    assert_eq!(report["tables"].as_array().unwrap().len(), 18, "{report}");
    let changed = shown(&report, "public.typed").into_iter().find(|row| row.starts_with("different"));
    assert_eq!(changed.unwrap(), r#"different {"k":"4"} b,f,co"#);
    assert!(
        shown(&report, "public.keyless").contains(&r#"extra {"a":"4","v":null} "#.to_owned()),
        "{report}"
    );
    compare(&road.program, &["--repair"], 0);
    equal(&road.program, &[]);
    road.finish(running);
}

#[test]
fn every_kind_of_key_and_type_15_to_15() {
    kinds(15, 15);
}

#[test]
fn every_kind_of_key_and_type_15_to_18() {
    kinds(15, 18);
}

#[test]
fn every_kind_of_key_and_type_18_to_15() {
    kinds(18, 15);
}

#[test]
fn encodings_may_differ() {
    let (source, target) = pair();
    source.query("create database other encoding 'LATIN1' locale 'C' template template0");
    target.query("create database other encoding 'UTF8' locale 'C' template template0");
    for cluster in [&source, &target] {
        let session = cluster.session_of("other");
        session.query("create table t(k text primary key, v text)");
        session.query("insert into t select 'é' || i, 'ß' from generate_series(1, 100) i");
    }
    let program = Pgsluice::with(&source.conninfo_of("other"), &target.conninfo_of("other"));
    equal(&program, &["--static"]);
    target.session_of("other").query("update t set v = 'ü' where k = 'é7'");
    let report = compare(&program, &["--static", "--repair"], 0);
    assert_eq!(shown(&report, "public.t"), [r#"different {"k":"é7"} v"#]);
    assert_eq!(target.session_of("other").value("select v from t where k = 'é7'"), "ß");
}

#[test]
fn filters_of_the_publication_hold() {
    let schema = "create table t(id int, region int, a text, b text, primary key (id, region));
        insert into t select i, i % 4, 'a', 'b' || i from generate_series(1, 1000) i; create table other(id int primary key);
        insert into other values (1);";
    let of_target = "create table t(id int, region int, a text, primary key (id, region));
        insert into t select i, i % 4, 'a' from generate_series(1, 1000) i where i % 4 < 2; create table other(id int primary key);";
    let (source, target) = pair();
    source.run_script(schema);
    target.run_script(of_target);
    let program = Pgsluice::between(&source, &target);
    program.run(&["setup", "--tables", "t", "--columns", "t=id,region,a", "--where", "t=region < 2"]).done();
    let report = equal(&program, &["--static"]);
    assert_eq!(report["tables"].as_array().unwrap().len(), 1);
    assert_eq!(table(&report, "public.t")["source_rows"], 500);
    target.query("update t set a = 'c' where id = 4; insert into t values (2, 2, 'a')");
    let report = compare(&program, &["--static"], 3);
    let extra = r#"extra {"id":"2","region":"2"} "#;
    assert_eq!(shown(&report, "public.t"), [r#"different {"id":"4","region":"0"} a"#, extra]);
    target.query("alter table t drop a");
    let report = compare(&program, &["--static"], 3);
    assert_eq!(table(&report, "public.t")["problem"], "the target has no column a");
    let report = compare(&program, &["--static", "--columns", "t=id,region"], 3);
    assert_eq!(shown(&report, "public.t"), [extra]);
    program.run(&["compare", "--static", "--tables", "nowhere"]).ends_with(2);
}

#[test]
fn without_an_applier_it_says_so() {
    let (source, target) = pair();
    for cluster in [&source, &target] {
        cluster.run_script("create table t(id int primary key); insert into t values (1)");
    }
    // No archive, no name, no slot.
    let program = Pgsluice::between(&source, &target);
    equal(&program, &["--static"]);
    program.run(&["compare"]).ends_with(1);
    program.run(&["setup"]).done();
    let outcome = program.run(&["compare"]).ends_with(1);
    assert!(outcome.stderr.contains("nobody applies to the target"), "{outcome}");
    assert!(outcome.stderr.contains("--static"), "{outcome}");
    assert!(program.sentinel().get("hold").is_none());
    assert_eq!(source.value("select count(*) from pg_replication_slots"), "1");
}

const SMALL: &str = "create table t(id int primary key, v text); insert into t values (1, 'v');";

/// A TRUNCATE shows through snapshots, and one that waits for a lock of ours would be waited for by our slot.
#[test]
fn tables_that_are_truncated_meanwhile_are_equal() {
    let schema = "create table t(id int primary key, v text); create table marks(n serial primary key);";
    let road = Road::new(schema);
    let running = road.follow();
    let script = road.program.folder().join("truncate.sql");
    std::fs::write(
        &script,
        "begin;\ninsert into marks default values;\ntruncate t;\ninsert into t select i, random() from generate_series(1, 500) i;\n\
         commit;\n\\sleep 150 ms\n",
    )
    .unwrap();
    let load =
        road.source.start_pgbench(&["-n", "-c", "1", "-T", "300", "-f", &script.display().to_string()]);
    wait_until(seconds(30), "rows", || road.target.value("select count(*) from t") == "500");
    for _ in 0..6 {
        assert_eq!(table(&equal(&road.program, &[]), "public.t")["source_rows"], 500);
    }
    drop(load);
    road.finish(running);
}

#[test]
fn a_killed_comparison_lets_the_applier_go() {
    let road = Road::new(SMALL);
    let running = road.follow();
    equal(&road.program, &[]);
    let open = road.source.session();
    open.query("begin; insert into t values (2, 'open')");
    let held = |expected: bool| {
        wait_until(seconds(60), "held as expected", || road.program.status()["held"] == expected);
    };
    let comparing = road.program.start(&["compare", "--timeout", "100"]);
    held(true);
    // While it beats the lease does not end.
    std::thread::sleep(Duration::from_secs(35));
    road.change("insert into t values (3, 'held')");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(road.target.value("select count(*) from t where id = 3"), "0");
    let second = road.program.run(&["compare"]).ends_with(1);
    assert!(second.stderr.contains("another comparison"), "{second}");
    comparing.kill();
    wait_until(seconds(40), "the applier goes on", || {
        road.target.value("select count(*) from t where id = 3") == "1"
    });
    held(false);
    let slots = "select count(*) from pg_replication_slots where temporary";
    open.query("commit");
    wait_until(seconds(20), "no slot is left", || road.source.value(slots) == "0");

    // One that is interrupted leaves nothing behind, and at once.
    open.query("begin; insert into t values (4, 'open')");
    let comparing = road.program.start(&["compare"]);
    held(true);
    wait_until(seconds(20), "the slot is being made", || road.source.value(slots) == "1");
    comparing.signal(Signal::INT);
    let outcome = comparing.wait(seconds(10)).ends_with(1);
    assert!(outcome.stderr.contains("interrupted"), "{outcome}");
    assert!(road.program.sentinel().get("hold").is_none());
    assert_eq!(road.source.value(slots), "0");
    open.query("commit");
    equal(&road.program, &[]);
    road.finish(running);
}

#[test]
fn a_held_applier_obeys_signals_and_is_held_when_it_is_back() {
    let road = Road::new(SMALL);
    let running = road.follow();
    let open = road.source.session();
    open.query("begin; insert into t values (2, 'open')");
    let comparing = road.program.start(&["compare", "--timeout", "100"]);
    wait_until(seconds(60), "held", || road.program.status()["held"] == true);
    std::thread::sleep(Duration::from_secs(1));
    running.terminate(seconds(20)).done();
    let running = road.follow();
    road.change("insert into t values (3, 'held')");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(road.target.value("select count(*) from t where id = 3"), "0");
    open.query("commit");
    comparing.wait(seconds(60)).done();
    road.wait_for("select count(*) from t");
    road.finish(running);
}

/// A commit that waits for a standby is in WAL, has been sent to us and applied, and is not visible on the source yet.
#[test]
fn a_commit_frozen_on_its_way_is_waited_for() {
    let road = Road::new(SMALL);
    let running = road.follow();
    road.source.set("synchronous_standby_names", "nobody");
    let mut frozen = road.source.client("psql");
    frozen.args(["-XAtq", "-c", "set application_name = 'frozen'; update t set v = 'frozen' where id = 1"]);
    let mut frozen = frozen.spawn().unwrap();
    wait_until(seconds(20), "applied", || road.target.value("select v from t") == "frozen");
    assert_eq!(road.source.value("select v from t"), "v");
    let outcome = road.program.run(&["compare", "--timeout", "4"]).ends_with(1);
    assert!(
        outcome.stderr.contains("application \"frozen\"") && outcome.stderr.contains("--timeout"),
        "{outcome}"
    );
    let comparing = road.program.start(&["compare"]);
    std::thread::sleep(Duration::from_secs(3));
    road.source.set("synchronous_standby_names", "");
    comparing.wait(seconds(60)).done();
    assert!(frozen.wait().unwrap().success());
    road.finish(running);
}

#[test]
fn works_beside_a_receiver_and_an_applier_apart_with_a_store() {
    let (source, target) = pair();
    source.pgbench(&["-i", "-q", "-s", "1"]);
    // One that pgbench leaves alone.
    source.query("insert into pgbench_accounts values (200000, 1, 0, '')");
    target.copy_from(&source);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("store")).unwrap();
    let program = Pgsluice::between(&source, &target)
        .env("PGSLUICE_ARCHIVE", &path("store"))
        .env("PGSLUICE_SPOOL", &path("spool"));
    program.run(&["setup", "--keyless", "full"]).done();
    let receiving = program.start(&["receive"]);
    let applying = program.start(&["apply", "--lanes", "2"]);
    let load = source.start_pgbench(&["-n", "-c", "2", "-T", "300"]);
    wait_until(seconds(30), "applied", || target.value("select count(*) from pgbench_history") != "0");
    for _ in 0..3 {
        equal(&program, &[]);
    }
    target.query("delete from pgbench_accounts where aid = 200000");
    let report = compare(&program, &["--repair"], 0);
    assert_eq!(shown(&report, "public.pgbench_accounts"), [r#"missing {"aid":"200000"} "#]);
    drop(load);
    program.run(&["sentinel", "set", "endpos", "current"]).done();
    receiving.wait(seconds(60)).done();
    applying.wait(seconds(60)).done();
    assert_tables_equal(&source, &target);
}

/// The source has nothing to do with it: neither asked nor needed.
#[test]
fn the_archive_alone_says_what_the_target_should_have() {
    let road = Road::new(BIG);
    for cluster in [&road.source, &road.target] {
        cluster.run_script("create unlogged table own(id int primary key)");
    }
    let running = road.follow();
    road.program.run(&["clone", "--into-archive"]).done();
    let script = road.program.folder().join("load.sql");
    std::fs::write(
        &script,
        "\\set id random(1, 100)\n\\set big random(1, 100000)\nbegin;\nupdate busy set n = n + 1 where id = :id;\n\
         update big set n = n + 1 where id = :big;\ncommit;\n",
    )
    .unwrap();
    let script = script.display().to_string();
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "300", "-R", "200", "-f", &script]);
    road.target.query("create database scratch");
    road.target.query("insert into own values (1)");
    let scratch = road.target.conninfo_of("scratch");
    let nowhere = "host=127.0.0.1 port=1 user=nobody dbname=none";
    let flags = ["--source", nowhere, "--scratch", &scratch];
    let killed = road.program.start(&[&["compare"], &flags[..]].concat());
    std::thread::sleep(Duration::from_millis(700));
    killed.kill();
    for _ in 0..2 {
        let report = equal(&road.program, &flags);
        let names: Vec<_> = report["tables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|table| table["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["public.big", "public.busy"]);
    }
    assert!(road.program.sentinel().get("hold").is_none());

    road.target.query("update big set doc = overlay(doc placing 'X' from 4000 for 1) where id = 150000");
    road.target.query("delete from big where id = 150001");
    road.target.query("insert into big values (-5, 'nobody')");
    let report = compare(&road.program, &flags, 3);
    let expected =
        [r#"different {"id":"150000"} doc"#, r#"extra {"id":"-5"} "#, r#"missing {"id":"150001"} "#];
    assert_eq!(shown(&report, "public.big"), expected);
    assert_eq!(table(&report, "public.busy")["rows"], Value::Array(Vec::new()));
    road.program.run(&["compare", "--repair"]).done();
    drop(load);
    // What came later is on both sides, a new table with it, and nobody applies any more.
    road.change("update big set a = 'later' where id = 7; delete from busy where id = 3");
    road.finish(running);
    let report = equal(&road.program, &flags);
    assert_eq!(table(&report, "public.busy")["source_rows"], 99);
    road.target.query("delete from busy where id = 4");
    let report = compare(&road.program, &flags, 3);
    assert_eq!(shown(&report, "public.busy"), [r#"missing {"id":"4"} "#]);
    // Other tables want another database: what is brought there is noted.
    let less = [&flags[..], &["--exclude", "busy"]].concat();
    road.program.run(&[&["compare"], &less[..]].concat()).ends_with(4);
    road.target.query("create database less");
    let conninfo = road.target.conninfo_of("less");
    let report = equal(&road.program, &["--source", nowhere, "--scratch", &conninfo, "--exclude", "busy"]);
    assert_eq!(report["tables"].as_array().unwrap().len(), 1, "{report}");
}

/// DDL of the log is run there too; a table that is empty again is still one that the log has spoken of.
#[test]
fn tables_that_are_newer_than_the_base_are_compared_with_the_archive() {
    let (source, target) = (Cluster::source(), Cluster::target());
    let old = "create table old(id int primary key, v int); create table part(id int primary key) partition by range (id);
               create table part_1 partition of part for values from (0) to (10); create table part_rest partition of part default";
    for cluster in [&source, &target] {
        cluster.run_script(old);
    }
    let program = Pgsluice::between(&source, &target).env("PGSLUICE_DDL", "apply");
    let road = Road { source, target, program };
    let publication = "create publication pgsluice for all tables with (publish_via_partition_root = true)";
    road.source.query(publication);
    road.program.run(&["setup", "--capture-ddl"]).done();
    let running = road.follow();
    road.program.run(&["clone", "--into-archive"]).done();
    road.change("insert into part values (5); create table new(id int primary key, v int); insert into new values (1, 1), (2, 2)");
    road.change("alter table old add more text; insert into old values (1, 1, 'x'); delete from new");
    road.wait_for("select array_agg(id) || array[(select count(*)::int from new)] from old");
    road.target.query("create database scratch");
    let flags = ["--scratch", &road.target.conninfo_of("scratch")];
    let names = |report: &Value| {
        let tables = report["tables"].as_array().unwrap().iter();
        tables.map(|table| table["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&equal(&road.program, &flags)), ["public.new", "public.old", "public.part"]);
    road.target.query("insert into new values (3, 3); insert into part_rest values (77)");
    let report = compare(&road.program, &flags, 3);
    assert_eq!(shown(&report, "public.new"), [r#"extra {"id":"3"} "#]);
    assert_eq!(shown(&report, "public.part"), [r#"extra {"id":"77"} "#]);
    road.target.query("delete from new; delete from part where id = 77");
    road.finish(running);
}

#[test]
fn a_database_that_somebody_uses_is_no_scratch() {
    let road = Road::new(BIG);
    let running = road.follow();
    road.program.run(&["clone", "--into-archive"]).done();
    let refused = |conninfo: &str, why: &str| {
        let outcome = road.program.run(&["compare", "--scratch", conninfo]).ends_with(2);
        assert!(outcome.stderr.contains(why), "{outcome}");
    };
    refused(&road.target.conninfo(), "is a target itself");
    refused(&road.source.conninfo(), "is not empty: it has table public.big");
    refused("port=none", "--scratch");
    road.program.run(&["compare", "--scratch", &road.target.conninfo(), "--repair"]).ends_with(2);
    assert_eq!(road.source.value("select to_regnamespace('pgsluice')"), "");
    road.finish(running);
    let bare = Road::new(BIG);
    let running = bare.follow();
    bare.target.query("create database scratch");
    let outcome =
        bare.program.run(&["compare", "--scratch", &bare.target.conninfo_of("scratch")]).ends_with(1);
    assert!(outcome.stderr.contains("no base to begin with"), "{outcome}");
    bare.finish(running);
}
