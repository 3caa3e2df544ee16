//! Rules by which rows stay that the source changes or deletes, each held against a log that triggers of the source have written.

use crate::support::{Cluster, Pgsluice, Running, pair, seconds};

/// Tables, what happens to them, and `audit.seen`: each row that was written, and each that was deleted, in the order of its key's changes.
///
/// In `full` keys move, values are long, and the table is truncated; in `lean` only the key of old rows is sent.
const SOURCE: &str = "
create table lean(id int primary key, country text, n int);
create table full_rows(id int primary key, country text, n int, long text);
alter table full_rows replica identity full, alter long set storage external;
create schema audit;
create table audit.seen(at bigserial primary key, name text, id int, is_there bool, row jsonb, xid xid8 default pg_current_xact_id());
create function look() returns trigger language plpgsql as $$ begin
    if tg_op in ('UPDATE', 'DELETE') and (tg_op = 'DELETE' or old.id <> new.id) then
        insert into audit.seen(name, id, is_there, row) values (tg_table_name, old.id, false, to_jsonb(old)); end if;
    if tg_op <> 'DELETE' then
        insert into audit.seen(name, id, is_there, row) values (tg_table_name, new.id, true, to_jsonb(new)); end if;
    return null;
end $$;
create function look_at_all() returns trigger language plpgsql as $$ begin
    execute format('insert into audit.seen(name, id, is_there, row) select %L, id, false, to_jsonb(t) from %I t', tg_table_name, tg_table_name);
    return null;
end $$;
create trigger look after insert or update or delete on lean for each row execute function look();
create trigger look after insert or update or delete on full_rows for each row execute function look();
create trigger look_at_all before truncate on lean for each statement execute function look_at_all();
create trigger look_at_all before truncate on full_rows for each statement execute function look_at_all();
insert into lean select i, 'DE', i from generate_series(1, 50) i;
insert into full_rows select i, 'US', i, repeat(md5(i::text), 200) from generate_series(1, 50) i;
create procedure load(name text, rounds int) language plpgsql as $$
declare k int; begin
    for i in 1..rounds loop
        for j in 1..(1 + random() * 5)::int loop
            k := (random() * 70)::int;
            case (random() * 6)::int
            when 0 then execute format('delete from %I where id = $1', name) using k;
            when 1 then if name = 'full_rows' then
                execute format('update %1$I set id = $2, n = n + 1 where id = $1 and not exists (select from %1$I where id = $2)', name) using k, (random() * 90)::int;
                end if;
            when 2 then execute format('update %I set country = $2 where id = $1', name) using k, (array['DE', 'US', null])[1 + (random() * 2)::int];
            when 3 then execute format('delete from %I where id = $1', name) using k;
                execute format('insert into %I(id, country, n) values ($1, ''back'', 0)', name) using k;
            when 4 then execute format('update %I set n = n + 1 where id = $1', name) using k;
            else execute format('insert into %I(id, country, n) values ($1, $2, $3) on conflict do nothing', name) using k, 'new', i;
            end case;
        end loop;
        commit;
    end loop;
end $$;";

const SEEN: &str = "create schema audit; create table audit.seen(at bigint primary key, name text, id int, is_there bool, row jsonb, xid xid8);";

/// What was seen, with when; of what was there before any change, from the beginning of all times.
const EVENTS: &str = "
with events as (
    select s.*, case when s.xid = (select min(xid::text::int8)::text::xid8 from audit.seen) then '-infinity'::timestamptz
                     else pg_xact_commit_timestamp(s.xid::xid) end time
      from audit.seen s),
last as (  -- what a transaction has left of a key
    select distinct on (name, id, xid) * from events order by name, id, xid, at desc)";

fn begin(rules: &str, target_schema: &str) -> (Cluster, Cluster, Pgsluice) {
    let source = Cluster::prepare_source().set("track_commit_timestamp", "on").start();
    let target = Cluster::target();
    source.run_script(&format!("begin; {SOURCE} commit;"));
    target.run_script(&format!("{SEEN} {target_schema}"));
    let program = Pgsluice::between(&source, &target).limit(seconds(120));
    let path = program.folder().join("kept.rules");
    std::fs::write(&path, rules).unwrap();
    let program = program.env("PGSLUICE_RULES", &path.display().to_string());
    (source, target, program)
}

fn loads(source: &Cluster, rounds: u32) -> Vec<Running> {
    let load = |name: &str| {
        let mut command = source.client("psql");
        command.args(["-c", &format!("call load('{name}', {rounds})")]);
        Running::spawn(command)
    };
    ["lean", "full_rows"].map(load).into()
}

#[track_caller]
fn same(source: &Cluster, expected: &str, target: &Cluster, found: &str) {
    let lines = |cluster: &Cluster, with: &str, sql: &str| {
        let sql = format!(
            "{with} select string_agg(r::text, e'\\n' order by r::text collate \"C\") from ({sql}) r"
        );
        let text = cluster.query(&sql)[0][0].clone().unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (expected, found) = (lines(source, EVENTS, expected), lines(target, "", found));
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).take(5).collect();
    let more: Vec<_> = found.iter().filter(|line| !expected.contains(line)).take(5).collect();
    assert!(expected == found, "missing: {missing:#?}\nnot expected: {more:#?}");
    assert!(expected.len() >= 20, "there is little to compare");
}

const ONE: &str = "(row->>'id')::int id, row->>'country' country, (row->>'n')::int n";

const SOFT_RULES: &str = r#"
[table."public.*"]
mode = "soft-delete"
key = ["id"]
[table."public.*".column]
gone = { metadata = "deleted-at" }
is_gone = { metadata = "deleted" }
xid = { metadata = "xid" }
op = { metadata = "operation" }
lsn = { metadata = "lsn" }
time = { metadata = "commit-time" }
"#;

const SOFT_TARGET: &str = "
create table lean(id int primary key, country text, n int, gone timestamptz, is_gone bool, xid int8, op text, lsn pg_lsn, time timestamptz);
create table full_rows(id int primary key, country text, n int, long text, gone timestamptz, is_gone bool, xid int8, op text, lsn pg_lsn, time timestamptz);";

/// What a row was last, and when it was deleted.
fn soft_is_right(source: &Cluster, target: &Cluster) {
    for name in ["lean", "full_rows"] {
        soft_is_right_of(source, target, name);
    }
}

fn soft_is_right_of(source: &Cluster, target: &Cluster, name: &str) {
    let expected = format!(
        "select {ONE}, md5(row->>'long') long, case when not is_there then time end gone, not is_there is_gone,
                nullif(time, '-infinity') time, case when time <> '-infinity' then xid::text::int8 end xid
           from (select distinct on (id) * from events where name = '{name}' order by id, at desc) e"
    );
    let long = if name == "lean" { "null::text" } else { "md5(long)" };
    let found = format!("select id, country, n, {long} long, gone, is_gone, time, xid from {name}");
    same(source, &expected, target, &found);
    let wrong = format!(
        "select count(*) from {name} where (lsn = '0/0') <> (op = 'copy') or is_gone <> (op = 'delete') or (gone is null) = is_gone"
    );
    assert_eq!(target.value(&wrong), "0");
}

#[test]
fn deleted_rows_stay_and_are_marked() {
    let (source, target, program) = begin(SOFT_RULES, SOFT_TARGET);
    program.run(&["clone", "--keep", "--no-schema"]).done();
    soft_is_right(&source, &target);
    for exact in [false, true, false] {
        for load in loads(&source, 150) {
            load.wait(seconds(60)).done();
        }
        let how = if exact { "exact" } else { "net" };
        program.run(&["follow", "--endpos", "current", "--apply", how]).done();
        soft_is_right(&source, &target);
    }
    source.run_script(
        "truncate lean, full_rows; insert into lean select i, 'again', i from generate_series(10, 30) i",
    );
    program.follow_to_current();
    soft_is_right(&source, &target);
}

const HISTORY_RULES: &str = r#"
[table."public.*"]
mode = "history"
key = ["id"]
[table."public.*".column]
at = { metadata = "lsn", cast = "int8" }
since = { metadata = "valid-from" }
until = { metadata = "valid-to" }
xid = { metadata = "xid" }
"#;

const HISTORY_TARGET: &str = "
create table lean(id int, country text, n int, at int8, since timestamptz, until timestamptz, xid int8, primary key (id, at));
create table full_rows(id int, country text, n int, long text, at int8, since timestamptz, until timestamptz, xid int8, primary key (id, at));
create unique index on lean(id) where until = 'infinity'; create unique index on full_rows(id) where until = 'infinity';";

/// All versions that anybody could see, with the times between which they were there.
fn history_is_right(source: &Cluster, target: &Cluster) {
    for name in ["lean", "full_rows"] {
        let expected = format!(
            "select {ONE}, md5(row->>'long') long, time since, until, case when time <> '-infinity' then xid::text::int8 end xid
               from (select *, lead(time, 1, 'infinity') over (partition by id order by at) until from last where name = '{name}') l
              where is_there"
        );
        let long = if name == "lean" { "null::text" } else { "md5(long)" };
        let found =
            format!("select id, country, n, {long} long, since, until, xid from {name} where since < until");
        same(source, &expected, target, &found);
    }
}

#[test]
fn each_version_of_a_row_is_kept_with_its_times() {
    let (source, target, program) = begin(HISTORY_RULES, HISTORY_TARGET);
    program.run(&["clone", "--keep", "--no-schema"]).done();
    history_is_right(&source, &target);
    for exact in [false, true] {
        for load in loads(&source, 150) {
            load.wait(seconds(60)).done();
        }
        let how = if exact { "exact" } else { "net" };
        program.run(&["follow", "--endpos", "current", "--apply", how]).done();
        history_is_right(&source, &target);
    }
    source.run_script(
        "truncate lean, full_rows; insert into lean select i, 'again', i from generate_series(10, 30) i",
    );
    program.follow_to_current();
    history_is_right(&source, &target);
    // The rows as they were at any time.
    let then = source.value(&format!(
        "{EVENTS} select time from events where name = 'lean' order by at desc offset 100 limit 1"
    ));
    let expected = format!(
        "select id, row->>'country', row->>'n' from (select distinct on (id) * from last where name = 'lean' and time <= '{then}' order by id, at desc) l where is_there"
    );
    let found = format!("select id, country, n from lean where since <= '{then}' and '{then}' < until");
    let rows = |cluster: &Cluster, with: &str, sql: &str| {
        cluster.value(&format!("{with} select string_agg(r::text, ' ' order by r::text) from ({sql}) r"))
    };
    assert_eq!(rows(&target, "", &found), rows(&source, EVENTS, &expected));
}

#[test]
fn a_replay_of_a_base_and_its_log_gives_the_same_history() {
    let (source, target, program) = begin(HISTORY_RULES, HISTORY_TARGET);
    let plain = Pgsluice::between(&source, &target).limit(seconds(120));
    plain.run(&["clone", "--into-archive"]).done();
    for load in loads(&source, 150) {
        load.wait(seconds(60)).done();
    }
    plain.run(&["receive", "--endpos", "current"]).done();
    let replayed = program.env("PGSLUICE_ARCHIVE", &plain.archive().display().to_string());
    replayed.run(&["replay", "--no-schema"]).done();
    history_is_right(&source, &target);
    // Without a key in the rules, which a base does not know either, and over several connections.
    let second = Cluster::target();
    second.run_script(&format!("{SEEN} {SOFT_TARGET}"));
    let keyless = SOFT_RULES.replace("public.*", "public.lean").replace("key = [\"id\"]\n", "");
    let path = plain.folder().join("soft.rules");
    std::fs::write(&path, format!("{keyless}[table.'public.full_rows']\nkeep = ['id']\n")).unwrap();
    let replayed = Pgsluice::between(&source, &second)
        .limit(seconds(120))
        .env("PGSLUICE_ARCHIVE", &plain.archive().display().to_string())
        .env("PGSLUICE_RULES", &path.display().to_string());
    replayed.run(&["replay", "--no-schema", "--lanes", "3"]).done();
    soft_is_right_of(&source, &second, "lean");
}

/// A row that the target refuses is set aside with what follows it, and comes when it may.
#[test]
fn a_row_that_stays_is_set_aside_and_brought_later() {
    let (source, target, program) = begin(SOFT_RULES, SOFT_TARGET);
    program.run(&["clone", "--keep", "--no-schema"]).done();
    target.run_script("alter table lean add constraint small check (n < 1000)");
    let follow = || program.run(&["follow", "--endpos", "current", "--on-error", "quarantine"]).done();
    source.run_script("update lean set n = 5000 where id = 7");
    follow();
    source.run_script("delete from lean where id = 7");
    source.run_script("insert into lean values (7, 'back', 1)");
    source.run_script("delete from lean where id = 8");
    follow();
    assert_eq!(target.value("select n from lean where id = 7 and not is_gone"), "7");
    assert_eq!(target.value("select count(*) from lean where id = 8 and is_gone"), "1");
    target.run_script("alter table lean drop constraint small");
    program.run(&["dead", "retry"]).done();
    soft_is_right(&source, &target);
}

/// A kill where a batch is under way, and where its commit is.
#[cfg(feature = "faults")]
#[test]
fn a_kill_makes_no_version_twice() {
    let (source, target, program) = begin(HISTORY_RULES, HISTORY_TARGET);
    program.run(&["clone", "--keep", "--no-schema"]).done();
    for load in loads(&source, 100) {
        load.wait(seconds(60)).done();
    }
    for point in ["apply.mid_batch:40", "apply.before_commit", "apply.after_commit"] {
        let mut command = program.command(&["follow", "--endpos", "current"]);
        command.env("PGSLUICE_FAILPOINT", point);
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.stderr.contains("failpoint apply."), "{point} was not reached: {outcome}");
        source.run_script("call load('lean', 20)");
    }
    program.follow_to_current();
    history_is_right(&source, &target);
}

#[test]
fn a_table_that_can_not_keep_rows_so_is_refused_with_the_cure() {
    let table = "create table t(id int primary key, v text)";
    let (source, target) = pair();
    source.run_script(table);
    target.run_script(
        "create table t(id int primary key, v text, at pg_lsn, since timestamptz, until timestamptz)",
    );
    let program = Pgsluice::between(&source, &target);
    let path = program.folder().join("kept.rules");
    let rules = "[table.t]\nmode = 'history'\ncolumn.at.metadata = 'lsn'\ncolumn.since.metadata = 'valid-from'\ncolumn.until.metadata = 'valid-to'";
    std::fs::write(&path, rules).unwrap();
    let program = program.env("PGSLUICE_RULES", &path.display().to_string());
    program.run(&["setup"]).done();
    source.run_script("insert into t values (1, 'a')");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(
        outcome.stderr.contains("unique") && outcome.stderr.contains("ADD UNIQUE (\"id\", \"at\")"),
        "{outcome}"
    );
    target.run_script("alter table t add unique (id, at)");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("room for one version of each (\"id\")"), "{outcome}");
    target.run_script("alter table t drop constraint t_pkey");
    program.follow_to_current();
    // A row that is live twice would be one that somebody else has put there.
    target.run_script(
        "insert into t values (2, 'x', '0/1', now(), 'infinity'), (2, 'y', '0/2', now(), 'infinity')",
    );
    source.run_script("insert into t values (2, 'b'); update t set v = 'c' where id = 2");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("public.t"), "{outcome}");
}
