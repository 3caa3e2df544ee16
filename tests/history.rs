//! What the log says of a row, and that what was done by mistake can be taken back.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::{Cluster, Pgsluice, Road, Version};

/// Columns of all kinds: some that have no `=`, that print otherwise than they cast, that are stored apart, that can't be given.
const TABLES: &str = r#"
create type mood as enum ('sad', 'it''s fine', 'happy');
create table item(
    id int generated always as identity primary key,
    "odd ""name" text, n numeric, doc json, at timestamptz, bytes bytea, flag boolean, code char(10),
    tags text[], feeling mood, span interval, f float8, host inet,
    twice int generated always as (id * 2) stored,
    big text);
alter table item alter big set storage external;
create table entry(a int, b text, c point);
create table line(order_id int, line int, what text, primary key (order_id, line));
"#;

const ITEMS: &str = r#"
insert into item("odd ""name", n, doc, at, bytes, flag, code, tags, feeling, span, f, host, big)
select case when i % 7 = 0 then null else 'it''s \ $undo$ ' || chr(10) || i end, i / 3.0, json_build_object('a ', i),
       '2026-01-01 10:00:00+02'::timestamptz + i * interval '1 s', sha256(i::text::bytea), i % 2 = 0, 'c' || i,
       array[i::text, null, 'x,"y'], (enum_range(null::mood))[i % 3 + 1], i * interval '1 day 3 h', i / 7.0,
       '10.0.0.1'::inet + i, case when i % 100 = 0 then repeat(md5(i::text), 100) end
from generate_series({from}, {to}) i;
"#;

fn items(from: u32, to: u32) -> String {
    ITEMS.replace("{from}", &from.to_string()).replace("{to}", &to.to_string())
}

fn road(version: u32) -> Option<Road> {
    let source = Cluster::prepare_source().version(&Version::find(version)?).start();
    Some(Road::between(source, Cluster::target(), TABLES, TABLES))
}

fn receive(road: &Road) {
    road.program.run(&["receive", "--endpos", "current"]).done();
}

/// Rows as they print, in the order of what they print.
fn rows(road: &Road, table: &str, which: &str) -> String {
    let rows = format!(
        "select string_agg(r, chr(10) order by r) from (select t::text as r from {table} t where {which}) t"
    );
    road.source.value(&rows)
}

/// Runs a script as psql does that reads it from a pipe.
fn psql(road: &Road, script: &str) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let mut command = road.source.client("psql");
    command.args(["-X"]).stdin(Stdio::from(std::fs::File::open(file.path()).unwrap()));
    command.output().unwrap()
}

#[track_caller]
fn psql_done(road: &Road, script: &str) {
    let done = psql(road, script);
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success() && said.iter().all(String::is_empty), "{} {said:?}", done.status);
}

#[track_caller]
fn undo(road: &Road, more: &[&str]) -> String {
    road.program.run(&[&["history", "--undo-sql"], more].concat()).done().stdout
}

/// A transaction that updates and deletes ten thousand rows, while others write to other rows, is taken back from the log alone.
fn a_mistake_is_taken_back(version: u32) {
    let Some(road) = road(version) else { return };
    road.change(&items(1, 6000));
    road.change("insert into entry select i % 100, i::text, point(i, 1) from generate_series(1, 300) i");
    receive(&road);
    // In several segments and transactions; not all after-images are inserts.
    road.change(&items(6001, 12000));
    road.change("update item set n = n + 1, big = big || 'x' where id % 1000 < 500 and id <= 10000");
    road.change("update item set flag = null where id % 3 = 0");
    receive(&road);
    let rest = "id > 10000";
    let (before, entries) = (rows(&road, "item", "id <= 10000"), rows(&road, "entry", "true"));

    let mistaken = road.source.session();
    mistaken.query("begin");
    let xid = mistaken.value("select pg_current_xact_id()");
    mistaken.query(
        "update item set \"odd \"\"name\" = 'oops', n = null, doc = '{}', at = now(), bytes = '', flag = not flag, code = 'x',
             tags = '{}', feeling = 'sad', span = '0', f = 'nan', host = '::1' where id <= 5000",
    );
    road.change("update item set n = n * 2 where id > 10000");
    // Some of them twice, and one after it was given what it had.
    mistaken.query("update item set n = 7 where id <= 100; update item set n = n where id = 1");
    mistaken.query("delete from item where id between 4901 and 10000");
    mistaken.query("insert into item overriding system value values (20000), (20001)");
    mistaken.query("update item set n = 1 where id = 20000; delete from item where id = 20001");
    mistaken.query("update entry set b = 'oops', c = null where a < 50");
    mistaken.query("delete from entry where a > 60; insert into entry values (1, null, null)");
    road.change("delete from item where id > 11990 and id < 20000");
    mistaken.query("commit");
    road.change("update item set code = 'later' where id between 11000 and 15000");
    let others = rows(&road, "item", rest);
    receive(&road);

    let script = undo(&road, &["--xid", &xid]);
    assert!(script.contains("Rows put back: 5218, "), "{}", &script[..600]);
    psql_done(&road, &script);
    assert_eq!(rows(&road, "item", "id <= 10000"), before);
    assert_eq!(rows(&road, "entry", "true"), entries);
    let left = others.lines().filter(|row| !row.starts_with("(20000,")).collect::<Vec<_>>().join("\n");
    assert_eq!(rows(&road, "item", rest), left);

    // Twice is once too often: nothing is as it was left, and so nothing happens.
    let again = psql(&road, &script);
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(3), "{said}");
    assert!(said.contains("is not as the change has left it, rows found: 0"), "{said}");
    assert_eq!(rows(&road, "item", "id <= 10000"), before);
}

#[test]
fn a_mistake_is_taken_back_on_15() {
    a_mistake_is_taken_back(15);
}

#[test]
fn a_mistake_is_taken_back_on_18() {
    a_mistake_is_taken_back(18);
}

#[test]
fn what_is_not_in_the_log_is_not_guessed() {
    let road = Road::with(&format!("{TABLES}{}", items(1, 10)), &format!("{TABLES}{}", items(1, 10)));
    road.change(&items(11, 20));
    road.change("insert into line values (1, 1, 'a'), (1, 2, 'b')");
    let session = road.source.session();
    session.query("begin");
    let xid = session.value("select pg_current_xact_id()");
    session.query("update item set n = 0 where id in (3, 13); delete from item where id in (4, 14)");
    session.query("delete from line where line = 1; commit");
    receive(&road);

    let refused = road.program.run(&["history", "--undo-sql", "--xid", &xid]).ends_with(1);
    assert_eq!(refused.stdout, "");
    for part in [
        "2 of the changes can't be undone",
        "UPDATE of public.item (id=3)",
        "DELETE of public.item (id=4)",
        "--partial",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    let partial = undo(&road, &["--xid", &xid, "--partial"]);
    assert!(partial.contains("-- NOT undone: 2: UPDATE of public.item (id=3)"), "{partial}");
    let lines = undo(&road, &["--xid", &xid, "--tables", "line"]);
    assert!(!lines.contains("item"), "{lines}");
    psql_done(&road, &partial);
    assert_eq!(road.source.value("select string_agg(id::text, ',') from item where n = 0"), "3");
    assert_eq!(road.source.value("select count(*) from item"), "19");
    assert_eq!(rows(&road, "line", "true"), "(1,1,a)\n(1,2,b)");

    // It was undone, so the row is there.
    let twice = psql(&road, &lines);
    assert_eq!(twice.status.code(), Some(3), "{}", String::from_utf8_lossy(&twice.stderr));

    road.change("truncate line");
    let xid = road.source.value("insert into line values (9, 9, '') returning xmin");
    let from = road.program.run(&["archive", "show", "--xid", &xid, "--json"]).done();
    assert_eq!(from.stdout, "", "{from}");
    receive(&road);
    let truncated = ["history", "--undo-sql", "--from-xid", &xid, "--to-xid", &xid];
    assert!(road.program.run(&truncated).done().stdout.contains("DELETE FROM \"public\".\"line\""));
    let pinned = road.source.current_lsn();
    road.change("truncate line");
    receive(&road);
    let end = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    let refused =
        road.program.run(&["history", "--undo-sql", "--from-lsn", &pinned, "--to-lsn", &end]).ends_with(1);
    assert!(refused.stderr.contains("TRUNCATE of public.line"), "{refused}");
    for wrong in
        [&["history", "--undo-sql"][..], &["history", "--undo-sql", "--from-lsn", "0/0"], &["history"]]
    {
        road.program.run(wrong).ends_with(2);
    }
}

fn history(road: &Road, more: &[&str]) -> Vec<Value> {
    let lines = road.program.run(&[&["history", "--json"], more].concat()).done().stdout;
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What happened, and to which key.
fn brief(versions: &[Value], key: &str) -> Vec<String> {
    let one = |version: &Value| {
        let operation = version["operation"].as_str().unwrap();
        let key = |of: &str| version[of][key].as_str().map(str::to_owned);
        let former = key("former_key").map(|former| format!("{former}>")).unwrap_or_default();
        format!("{operation} {former}{}", key("key").unwrap_or_default())
    };
    versions.iter().map(one).collect()
}

#[test]
fn a_row_is_followed_through_keys_names_and_segments() {
    let key = "07".repeat(32);
    let settings =
        [("PGSLUICE_SPOOL", "spool"), ("PGSLUICE_DURABLE", "store"), ("PGSLUICE_ARCHIVE_KEY", key.as_str())];
    let road = Road::with_settings(TABLES, TABLES, &settings);
    road.change("insert into line values (1, 1, 'a'), (1, 2, 'other')");
    receive(&road);
    road.change("insert into item (id, n, big) overriding system value values (1, 1, repeat('b', 9000)), (2, 0, null)");
    road.change("insert into entry values (5, 'x', '(1,1)')");
    receive(&road);
    for number in 2..4 {
        road.change(&format!("update item set n = {number} where id = 1"));
        // A segment without it.
        receive(&road);
        road.change(&format!("insert into line values (2, {number}, '')"));
        receive(&road);
    }
    // Its key changes to one that another row had, and back, and another one takes its old key.
    road.change("delete from line where line = 2 and order_id = 1");
    road.change("update line set line = 2, what = 'moved' where order_id = 1");
    road.change("insert into line values (1, 1, 'new')");
    road.change("alter table line add extra int default 7");
    road.change("update line set what = 'end' where (order_id, line) = (1, 2)");
    road.change("update entry set b = 'y'");
    road.change("alter table item rename to thing");
    road.change("update thing set n = 4 where id = 1");
    receive(&road);
    road.change("truncate line; delete from thing where id = 1");
    receive(&road);

    let versions = history(&road, &["public.thing", "1"]);
    assert_eq!(
        brief(&versions, "id"),
        ["insert 1", "update 1", "update 1", "alter ", "update 1", "delete 1"]
    );
    assert_eq!(versions[3]["differences"][0], "renamed from public.item");
    // What was not sent is filled in.
    assert_eq!(versions[5]["old"]["big"].as_str().unwrap().len(), 9000);
    assert_eq!((&versions[2]["old"]["n"], &versions[2]["new"]["n"]), (&"2".into(), &"3".into()));
    assert_eq!(versions[1]["unknown"], serde_json::json!([]));
    let by_old_name = history(&road, &["item", "1"]);
    assert_eq!(by_old_name, versions);
    road.program.run(&["archive", "compact", "--older-than", "0s"]).done();
    assert_eq!(history(&road, &["item", "1"]), versions);

    let versions = history(&road, &["line", "order_id=1", "line=1"]);
    assert_eq!(
        brief(&versions, "line"),
        ["insert 1", "update 1>2", "insert 1", "alter ", "update 2", "truncate "]
    );
    let moved = &versions[1];
    assert_eq!((&moved["old"]["what"], &moved["new"]["what"]), (&"a".into(), &"moved".into()));
    let versions = history(&road, &["line", "line=2", "order_id=1"]);
    let other = ["insert 1", "insert 2", "delete 2", "update 1>2", "alter ", "update 2", "truncate "];
    assert_eq!(brief(&versions, "line"), other);

    // Whole rows tell rows where there is no key.
    let versions = history(&road, &["entry", "a=5"]);
    assert_eq!(brief(&versions, "a"), ["insert 5", "update 5"]);
    assert_eq!(versions[1]["old"]["b"], "x");

    // A part of it; what was before that is not known, and said so.
    let xid = versions[1]["xid"].to_string();
    let part = history(&road, &["thing", "1", "--from-xid", &xid]);
    assert_eq!(brief(&part, "id"), ["update 1", "delete 1"]);
    assert!(
        part[0]["old"].get("n").is_none() && part[0]["unknown"].as_array().unwrap().contains(&"big".into())
    );
    let text = road.program.run(&["history", "thing", "1", "--to-xid", &xid]).done().stdout;
    assert!(text.contains("UPDATE public.item (id='1')\n    n: '1' → '2'\n"), "{text}");
    let none = road.program.run(&["history", "thing", "77"]).done().stdout;
    assert!(none.contains("the log says nothing of that row"), "{none}");

    let wrong: [&[&str]; 4] = [&["line", "1"], &["line", "line=1"], &["entry", "5"], &["entry", "nothing=5"]];
    for arguments in wrong {
        let outcome = road.program.run(&[&["history"], arguments].concat()).ends_with(2);
        assert!(outcome.stderr.contains("hint"), "{outcome}");
    }
}

#[test]
fn what_says_nothing_of_a_table_is_not_read() {
    let road = Road::with(TABLES, TABLES);
    road.change("insert into line values (1, 1, 'a')");
    receive(&road);
    let before = segments(&road);
    road.change("insert into entry select i, repeat(md5(i::text), 10), null from generate_series(1, 100) i");
    receive(&road);
    let after = segments(&road);
    road.change("delete from line");
    receive(&road);
    let damaged: Vec<_> = after.into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    let mut bytes = std::fs::read(&damaged[0]).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&damaged[0], bytes).unwrap();

    assert_eq!(history(&road, &["line", "line=1", "order_id=1"]).len(), 2);
    let xid = history(&road, &["line", "line=1", "order_id=1"])[1]["xid"].to_string();
    psql_done(&road, &undo(&road, &["--xid", &xid, "--tables", "line"]));
    assert_eq!(rows(&road, "line", "true"), "(1,1,a)");
    road.program.run(&["history", "entry", "a=1"]).ends_with(4);
}

fn segments(road: &Road) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(road.program.archive().join("segments")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect()
}

/// Rows that were there before the log began are known from a base, as they were then or as the log has changed them since.
#[test]
fn what_was_before_the_log_is_in_a_base() {
    let source = Cluster::source();
    source.run_script(&format!("{TABLES}{}", items(1, 300)));
    let program = Pgsluice::between(&source, &Cluster::target());
    let road = Road { source, target: Cluster::target(), program };
    road.program.run(&["clone", "--into-archive", "--keyless", "full"]).done();
    road.change("update item set n = -n, big = 'b' where id > 200");
    road.change("update item set id = default where id = 299; delete from item where id = 300");
    receive(&road);
    let before = rows(&road, "item", "true");
    let session = road.source.session();
    session.query("begin");
    let xid = session.value("select pg_current_xact_id()");
    session.query("update item set doc = null, flag = true; delete from item where id % 2 = 0; commit");
    receive(&road);
    psql_done(&road, &undo(&road, &["--xid", &xid]));
    assert_eq!(rows(&road, "item", "true"), before);
}

/// What would silently go wrong where the script is run is looked at first, and each look can be left out.
#[test]
fn what_the_script_would_do_wrong_is_looked_at_first() {
    let Some(road) = road(15) else { return };
    road.program.run(&["cleanup", "--archive-too"]).done();
    road.program.run(&["setup", "--where", "line=line <> 99", "--keyless", "full"]).done();
    road.change(&items(1, 20));
    road.change("insert into line values (1, 1, 'a'), (1, 2, 'b')");
    let xid_of = |sql: &str| {
        let session = road.source.session();
        session.query(&format!("begin; {sql}"));
        let xid = session.value("select pg_current_xact_id()");
        session.query("commit");
        receive(&road);
        xid
    };
    let refused = |script: &str, what: &str| {
        let before = [rows(&road, "item", "true"), rows(&road, "line", "true")];
        let done = psql(&road, script);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(3) && said.contains(what), "{what}: {said}");
        assert_eq!([rows(&road, "item", "true"), rows(&road, "line", "true")], before);
    };
    let xid = xid_of("delete from line where line = 2");
    let script = undo(&road, &["--xid", &xid]);
    refused(&script, "is published with a filter of rows");
    let script = undo(&road, &["--xid", &xid, "--filtered"]);
    road.source.run_script(
        "create function f() returns trigger language plpgsql as 'begin return new; end';
         create trigger fires before insert on line for each row execute function f()",
    );
    refused(&script, "triggers of public.line would fire");
    let script = undo(&road, &["--xid", &xid, "--filtered", "--with-triggers"]);
    road.source.run_script("alter table line rename to old; create table line(like old including all)");
    refused(&script, "is not the table that was changed");
    road.source.run_script("drop table line; alter table old rename to line");
    psql_done(&road, &script);
    assert_eq!(rows(&road, "line", "true"), "(1,1,a)\n(1,2,b)");
    // A column that takes the place and the name of another has nothing of what that one had.
    xid_of(
        "alter table item add column fresh int; update item set fresh = -n; alter table item drop column n; \
         alter table item rename column fresh to n",
    );
    let xid = xid_of("delete from item where id = 3");
    let outcome = road.program.run(&["history", "--undo-sql", "--xid", &xid, "--tables", "item"]);
    assert!(outcome.code != Some(0) && outcome.stderr.contains("can't be undone"), "{outcome}");
}
