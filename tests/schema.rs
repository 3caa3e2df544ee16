//! Schema changes in the middle of the stream, on either side: equal rows, or a stop that names what would mend it.

use crate::support::{Outcome, Pgsluice, Road, Running, assert_tables_equal, seconds, wait_until};

const POLICY: &str = "PGSLUICE_ON_SCHEMA_CHANGE";
const ADD_COLUMNS: &[(&str, &str)] = &[(POLICY, "add-columns")];

/// Applies what there is, which ends in a stop that names all these; nothing of the transaction is on the target.
#[track_caller]
fn stops(program: &Pgsluice, names: &[&str]) -> Outcome {
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    named(&outcome, names);
    outcome
}

#[track_caller]
fn named(outcome: &Outcome, names: &[&str]) {
    for name in names.iter().chain(&["committed at 0/", "hint:"]) {
        assert!(outcome.stderr.contains(name), "'{name}' is named: {outcome}");
    }
}

/// The statement of the hint that begins like this.
#[track_caller]
fn mend(outcome: &Outcome, beginning: &str) -> String {
    let text = &outcome.stderr;
    let hint = &text[text.find("hint:").unwrap_or_else(|| panic!("{outcome}"))..];
    let start = hint.find(beginning).unwrap_or_else(|| panic!("'{beginning}' in {outcome}"));
    let end = hint[start..].find(';').unwrap_or_else(|| panic!("{outcome}"));
    hint[start..=start + end].replace('\n', " ")
}

const KEYED: &str = "create table t(id int primary key, a text); insert into t values (1, 'one'), (2, 'two')";

#[test]
fn an_added_column_stops_until_the_target_has_it() {
    let road = Road::new(KEYED);
    road.change(
        "insert into t values (3, 'three');
         alter table t add column b numeric(10,2), add column \"C c\" timestamptz(3)[];
         delete from t where id = 1;
         insert into t values (4, 'four', 1.25, '{now}')",
    );
    let stopped = stops(
        &road.program,
        &["INSERT of public.t (id = '4')", "column \"b\"", "column \"C c\"", "numeric(10,2)"],
    );
    // What came before is kept.
    assert_eq!(road.target.value("select string_agg(id::text, ',' order by id) from t"), "2,3");
    stops(&road.program, &["INSERT of public.t (id = '4')"]);
    for column in ["\"b\"", "\"C c\""] {
        let ddl = mend(&stopped, &format!("ALTER TABLE \"public\".\"t\" ADD COLUMN {column}"));
        road.target.query(&ddl);
    }
    road.arrives();
}

#[test]
fn columns_are_added() {
    let schema = format!(
        "{KEYED}; create schema app; create type app.mood as enum ('sad', 'ok'); create domain app.code as varchar(9)"
    );
    let road = Road::with_settings(&schema, &schema, ADD_COLUMNS);
    road.change(
        "begin; insert into t values (3, 'three'); alter table t add column b numeric(10,2), add column m app.mood; \
         insert into t values (4, 'four', 1.25, 'ok'); alter table t add column ms app.mood[], add column c app.code; \
         update t set ms = '{sad,ok}', c = 'x' where id = 1; commit;
         alter table t add column \"select\" bit(3), add column z interval day to second (2);
         update t set \"select\" = '101', z = '1 day 02:03:04.56' where id = 2",
    );
    road.arrives();
    let types = "select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum) from pg_attribute
                  where attrelid = 't'::regclass and attnum > 0";
    let expected = road.source.value(types).replace("app.code", "character varying");
    assert_eq!(road.target.value(types), expected);
}

#[test]
fn columns_of_partitions_are_added_to_their_root() {
    let schema = "create table root(id int primary key, a text) partition by range (id);
                  create table low partition of root for values from (0) to (10);
                  create table high(a text, id int not null); alter table root attach partition high for values from (10) to (20);
                  create table parent(id int primary key); create table child(extra int, primary key (id)) inherits (parent)";
    let road = Road::with_settings(schema, schema, ADD_COLUMNS);
    road.change(
        "alter table root add column b int; insert into root values (1, 'x', 2), (11, 'y', 3); update root set id = 12 where id = 1;
         alter table parent add column b int; insert into child values (1, 2, 3); insert into parent values (2, 4)",
    );
    road.arrives();
}

#[test]
fn what_cannot_simply_be_added_stops() {
    // A type that the target does not have.
    let road = Road::with_settings(KEYED, KEYED, ADD_COLUMNS);
    road.change("create type mood as enum ('ok'); alter table t add column m mood; insert into t values (3, 'three', 'ok')");
    stops(&road.program, &["\"public\".\"mood\" does not exist", "column \"m\""]);
    road.target.query("create type mood as enum ('ok')");
    road.arrives();

    // A column that has another name now.
    road.change("alter table t rename column a to label; update t set label = 'changed' where id = 1");
    let stopped = stops(&road.program, &["column \"label\""]);
    road.target.query(&mend(&stopped, "ALTER TABLE \"public\".\"t\" RENAME COLUMN \"a\" TO \"label\""));
    road.arrives();

    // A column of the key.
    road.change(
        "alter table t drop constraint t_pkey, add column part int default 0, add primary key (id, part);
         insert into t values (9, 'nine', null, 1)",
    );
    stops(&road.program, &["column \"part\""]);
    road.target.query(
        "alter table t drop constraint t_pkey, add column part int default 0, add primary key (id, part)",
    );
    road.arrives();
}

#[test]
fn a_column_that_the_source_has_dropped() {
    let road = Road::new(
        "create table t(id int primary key, must int not null, may int, given int not null default 7);
         insert into t values (1, 1, 1, 1)",
    );
    road.change("alter table t drop column must, drop column may, drop column given; update t set id = 2; delete from t; insert into t values (3)");
    let stopped = stops(&road.program, &["INSERT of public.t (id = '3')", "\"must\"", "DROP NOT NULL"]);
    road.target.query(&mend(&stopped, "ALTER TABLE \"public\".\"t\" DROP COLUMN \"must\""));
    road.program.follow_to_current();
    assert_eq!(road.target.value("select t::text from t"), "(3,,7)");
}

#[test]
fn types_that_would_change_values_are_refused() {
    let road = Road::with(
        "create table same(id int primary key, n numeric(9,3), t timestamp(3), c char(4), v varchar(9), f float4, j jsonb);
         create table wide(id int primary key, n int, v varchar(9), f float4, k numeric(9,3));
         create table narrow(id int primary key, n numeric(9,3));
         create table zone(id int primary key, n timestamptz);
         create table floats(id int primary key, n float8)",
        "create table same(id int primary key, n numeric(9,3), t timestamp(3), c char(4), v varchar(9), f float4, j jsonb);
         create table wide(id bigint primary key, n bigint, v text, f float8, k numeric);
         create table narrow(id int primary key, n numeric(9,2));
         create table zone(id int primary key, n timestamp);
         create table floats(id int primary key, n float4)",
    );
    road.change(
        "insert into same values (1, 1.125, '2024-03-04 05:06:07.891', 'ab', 'x ', 0.1, '{}'); update same set n = 2.375;
         insert into wide values (1, 5, 'x ', 0.1, 1.125); update wide set k = 2.375;",
    );
    road.arrives();
    for (table, value, there) in [
        ("narrow", "1.125", "numeric(9,2)"),
        ("zone", "'2024-03-04 05:06:07+05'", "timestamp without time zone"),
        ("floats", "0.1234567890123", "real"),
    ] {
        road.change(&format!("insert into {table} values (1, {value})"));
        let stopped = stops(&road.program, &[&format!("public.{table}"), "column \"n\"", there]);
        assert_eq!(road.target.value(&format!("select count(*) from {table}")), "0");
        road.target
            .query(&mend(&stopped, &format!("ALTER TABLE \"public\".\"{table}\" ALTER COLUMN \"n\" TYPE")));
        road.arrives();
    }
    // Retyped in the middle; a text that the target's type can't read is its own refusal.
    road.change(
        "alter table wide alter column n type numeric; update wide set n = 5; update wide set n = 5.5",
    );
    stops(&road.program, &["UPDATE of public.wide (id = '1')", "5.5"]);
    road.target.query("alter table wide alter column n type numeric");
    road.arrives();
}

#[test]
fn a_missing_table_is_described() {
    let road = Road::new("create table first(id int primary key)");
    road.change(
        "create type mood as enum ('ok'); create table \"New t\"(id bigint, part text, m mood, n numeric(5,1)[], primary key (part, id));
         insert into first values (1); truncate \"New t\"; insert into \"New t\" values (1, 'p', 'ok', '{1.5}')",
    );
    let stopped = stops(&road.program, &["TRUNCATE in ", "public.New t does not exist", "mood"]);
    assert_eq!(road.target.value("select count(*) from first"), "1");
    road.target.query("create type mood as enum ('ok')");
    road.target.query(&mend(&stopped, "CREATE TABLE \"public\".\"New t\" ("));
    let shape = "select string_agg(attname || format_type(atttypid, atttypmod), ',' order by attnum) from pg_attribute
                  where attrelid = '\"New t\"'::regclass and attnum > 0";
    assert_eq!(road.target.value(shape), road.source.value(shape));
    road.arrives();
    // Gone from the target behind our back.
    road.target.query("drop table first");
    road.change("insert into first values (2)");
    stops(&road.program, &["public.first does not exist on the target"]);
}

#[test]
fn a_renamed_table() {
    let road = Road::new(&format!("{KEYED}; create table u(id int primary key, a text)"));
    let running = road.follow();
    road.change("insert into t values (3, 'three'); insert into u values (1, 'u')");
    road.wait_for("select count(*) from t");
    road.change("alter table t rename to renamed; insert into renamed values (4, 'four')");
    let stopped = running.wait(seconds(60)).ends_with(1);
    named(&stopped, &["public.renamed does not exist"]);
    road.target.query(&mend(&stopped, "ALTER TABLE \"public\".\"t\" RENAME TO \"renamed\""));
    road.arrives();

    // Another table of the target has the new name.
    road.change(
        "alter table u rename to former; alter table renamed rename to u; insert into u values (5, 'five')",
    );
    stops(&road.program, &["went into public.renamed of the target"]);
    stops(&road.program, &["went into public.renamed of the target"]);
    road.target.query("alter table u rename to former; alter table renamed rename to u");
    road.arrives();
}

#[test]
fn a_table_that_was_dropped_and_created_again() {
    let road = Road::new(KEYED);
    let again = "drop table t; create table t(id int primary key, a text)";
    road.change(&format!("{again}; insert into t values (7, 'seven')"));
    stops(&road.program, &["public.t of the source is a new one"]);
    stops(&road.program, &["public.t of the source is a new one"]);
    road.target.query(again);
    road.arrives();
    // Or it is emptied, and called right.
    road.change(&format!("{again}; insert into t values (8, 'eight')"));
    let stopped = stops(&road.program, &["public.t of the source is a new one"]);
    road.target.query("truncate t");
    road.target.query(&mend(&stopped, "DELETE FROM pgsluice.counterpart"));
    road.arrives();
}

#[test]
fn the_publication_changes_in_the_middle() {
    let road = Road::with("", "create table a(id int primary key); create table b(id int primary key)");
    road.change("create table a(id int primary key); create table b(id int primary key)");
    road.source.query("drop publication pgsluice");
    road.source.query("create publication pgsluice for table a");
    road.change(
        "insert into a values (1); insert into b values (1); alter publication pgsluice add table b; insert into b values (2);
         alter publication pgsluice drop table a; insert into a values (2); insert into b values (3)",
    );
    road.program.follow_to_current();
    assert_eq!(road.target.value("select string_agg(id::text, ',') from a"), "1");
    assert_eq!(road.target.value("select string_agg(id::text, ',' order by id) from b"), "2,3");
}

#[test]
fn extra_columns_of_the_source_are_left_out() {
    let road = Road::with_settings(
        "create table t(id int primary key, a text, secret text); create table doubles(a int, secret int);
         insert into doubles values (1, 1), (1, 2), (1, 3), (2, 1); create table keys(a int, b int, primary key (a, b))",
        "create table t(id int primary key, a text, extra int default 5); create table doubles(a int, mine serial);
         insert into doubles values (1), (1), (1), (2); create table keys(a int primary key)",
        &[(POLICY, "ignore-extra")],
    );
    road.change(
        "insert into t values (1, 'x', 'y'), (2, 'x', 'y'); update t set secret = 'z' where id = 1; update t set a = 'w', id = 3 where id = 2;
         delete from doubles where secret = 2; update doubles set secret = 9 where a = 2; update doubles set a = 3 where secret = 3",
    );
    road.program.follow_to_current();
    for sql in [
        "select string_agg(id || a, ',' order by id) from t",
        "select string_agg(a::text, ',' order by a) from doubles",
    ] {
        assert_eq!(road.target.value(sql), road.source.value(sql));
    }
    assert_eq!(road.target.value("select sum(extra) from t"), "10");
    road.change("insert into keys values (1, 1)");
    stops(&road.program, &["public.keys", "column \"b\""]);
}

#[test]
fn the_target_may_be_changed_first_while_it_follows() {
    let road = Road::new("create table t(id int primary key, a text, n smallint, m int)");
    road.change("insert into t select i, 'x', i, i from generate_series(1, 100) i");
    let mut running = road.follow();
    let load = load(&road);
    wait_for_rows(&road, 200);
    // Before the source, and with statements prepared for the table as it was.
    road.target.query(
        "alter table t add column b numeric(10,2), alter column n type int, alter column m type bigint",
    );
    road.change("alter table t alter column n type int, alter column m type bigint");
    road.change("alter table t add column b numeric(10,2)");
    road.change("update t set b = 1.25, n = 70000, m = 3000000000 where id <= 50; insert into t values (-1, 'y', 70000, 3000000000, 2.5)");
    wait_for_rows(&road, 400);
    road.change("alter table t alter column a type varchar(50)");
    road.target.query("alter table t alter column a type varchar(99)");
    wait_for_rows(&road, 500);
    assert!(running.is_running(), "{}", running.log());
    load.kill();
    road.finish(running);
}

/// Only the target's columns grow: what was prepared for the old ones must not stop anything.
#[test]
fn a_refusal_by_what_was_looked_up_earlier_is_not_believed() {
    let road = Road::with(
        "create table t(id int primary key, n int)",
        "create table t(id int primary key, n smallint)",
    );
    let running = road.follow();
    road.change("insert into t values (1, 1); update t set n = 2");
    road.wait_for("select n from t");
    road.target.query("alter table t alter column n type int");
    road.change("insert into t values (2, 70000); update t set n = 80000 where id = 1");
    road.wait_for("select sum(n) from t");
    road.finish(running);
}

/// Rows by one session after another until it is killed; `grow` counts them.
fn load(road: &Road) -> Running {
    let script = road.program.folder().join("load.sql");
    std::fs::write(
        &script,
        "insert into t(id, a) select coalesce(max(id), 0) + 1, 'load' from t;\n\
         update t set a = md5(a) where id = 1 + (random() * 50)::int;\n",
    )
    .unwrap();
    let script = script.display().to_string();
    road.source.start_pgbench(&["-n", "-c", "1", "-T", "120", "-f", &script])
}

#[track_caller]
fn wait_for_rows(road: &Road, count: u32) {
    let target = road.target.session();
    wait_until(seconds(60), "rows on the target", || {
        target.value("select count(*) from t").parse::<u32>().unwrap() >= count
    });
}

#[test]
fn columns_added_under_load_stop_and_go_on() {
    let road = Road::new("create table t(id int primary key, a text)");
    let running = road.follow();
    let load = load(&road);
    wait_for_rows(&road, 100);
    road.change("alter table t add column b int; alter table t alter column b set default 5");
    let stopped = running.wait(seconds(60)).ends_with(1);
    named(&stopped, &["public.t", "column \"b\""]);
    road.target.query(&mend(&stopped, "ALTER TABLE \"public\".\"t\" ADD COLUMN \"b\""));
    let before = road.target.value("select count(*) from t").parse::<u32>().unwrap();
    let running = road.follow();
    wait_for_rows(&road, before + 100);
    load.kill();
    road.finish(running);
}

#[test]
fn columns_added_under_load_are_added() {
    let schema = "create table t(id int primary key, a text)";
    let road = Road::with_settings(schema, schema, ADD_COLUMNS);
    let mut running = road.follow();
    let load = load(&road);
    for round in 1..=3 {
        wait_for_rows(&road, round * 100);
        road.change(&format!(
            "alter table t add column b{round} int; alter table t alter column b{round} set default 5"
        ));
    }
    // Somebody reads the table all the while, which makes the ALTER wait and try again.
    let reader = road.target.session();
    reader.query("begin; select count(*) from t");
    road.change("alter table t add column c int; update t set c = 1 where id = 1");
    std::thread::sleep(seconds(4));
    assert!(running.is_running(), "{}", running.log());
    reader.query("commit");
    road.wait_for("select id, to_jsonb(t) ->> 'c' from t where to_jsonb(t) ->> 'c' is not null");
    load.kill();
    road.finish(running);
}

#[test]
fn adding_needs_the_right_to() {
    let road = Road::with_settings(KEYED, KEYED, ADD_COLUMNS);
    road.target.psql(
        "create role worker login; grant set on parameter session_replication_role to worker; grant all on t to worker;
         grant usage, create on schema pgsluice to worker; grant all on all tables in schema pgsluice to worker",
    );
    let program = Pgsluice::with(
        &road.source.conninfo(),
        &road.target.conninfo().replace("user=postgres", "user=worker"),
    )
    .env(POLICY, "add-columns")
    .env("PGSLUICE_ARCHIVE", &road.program.archive().display().to_string());
    road.change("alter table t add column b int; update t set b = 1");
    stops(&program, &["must be owner of table t", "ADD COLUMN"]);
    road.arrives();
    assert_tables_equal(&road.source, &road.target);
}
