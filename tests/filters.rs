//! Filters: tables, columns and rows, in the publication and where changes are applied.

use crate::support::{Cluster, Outcome, Pgsluice, Road, assert_tables_equal, pair};

#[track_caller]
fn refused(outcome: Outcome, code: i32, names: &[&str]) {
    let outcome = outcome.ends_with(code);
    for name in names {
        assert!(outcome.stderr.contains(name), "'{name}' is named: {outcome}");
    }
}

/// A second target of the archive, with rows as they were at its start.
fn second(road: &Road, schema: &str) -> (Cluster, Pgsluice) {
    let target = Cluster::target();
    target.run_script(schema);
    let archive = road.program.archive().display().to_string();
    let program =
        Pgsluice::with(&road.source.conninfo(), &target.conninfo()).env("PGSLUICE_ARCHIVE", &archive);
    (target, program)
}

/// Brings all changes so far into the log, and says where they end.
fn receive(road: &Road) -> String {
    let end = road.source.current_lsn();
    road.program.run(&["receive", "--endpos", &end]).done();
    end
}

#[test]
fn tables_are_chosen_where_the_log_is_applied() {
    let schema = r#"create schema "S.s"; create table "S.s"."T*,""t"(id int primary key); create table "S.s".tx(id int primary key);
        create table child(id int primary key); create table parent(id int primary key);
        create table root(id int primary key) partition by range (id);
        create table leaf partition of root for values from (0) to (10);
        create table other partition of root for values from (10) to (20)"#;
    let road = Road::new(schema);
    road.change(
        r#"insert into "S.s"."T*,""t" values (1); insert into "S.s".tx values (1); insert into child values (1);
           insert into parent values (1); insert into root values (1), (11); truncate child, parent; insert into child values (2)"#,
    );
    let end = receive(&road);

    let (target, program) = second(&road, schema);
    let count = |target: &Cluster, table: &str| target.value(&format!("select count(*) from {table}"));
    // The wildcard inside of quotes is a star, and the comma and the quote belong to the name.
    let tables = r#""S.s"."T*,""t",root,misspelt"#;
    let outcome = program.run(&["apply", "--endpos", &end, "--tables", tables, "child"]).done();
    let warned = outcome.stderr.lines().filter(|line| line.contains("matched this pattern"));
    let warned: Vec<&str> = warned.collect();
    assert!(warned.len() == 1 && warned[0].contains("misspelt"), "{outcome}");
    assert_eq!(count(&target, r#""S.s"."T*,""t""#), "1");
    assert_eq!(count(&target, r#""S.s".tx"#), "0");
    assert_eq!(count(&target, "root"), "2");
    assert_eq!(count(&target, "parent"), "0");
    assert_eq!(target.value("select string_agg(id::text, ',') from child"), "2");

    let (target, program) = second(&road, schema);
    target.query("drop table parent; insert into other values (12)");
    program.run(&["apply", "--endpos", &end, "--exclude", r#""S.s".*"#, "other", "parent"]).done();
    assert_eq!(count(&target, r#""S.s".tx"#), "0");
    assert_eq!(count(&target, "leaf"), "1");
    assert_eq!(target.value("select string_agg(id::text, ',') from other"), "12");
    assert_eq!(target.value("select string_agg(id::text, ',') from child"), "2");
}

#[test]
fn columns_are_chosen_where_the_log_is_applied() {
    let road = Road::new(r#"create table t(id int primary key, a text, "B b" text, c text default 'mine')"#);
    road.change("insert into t values (1, 'a', 'b', 'c'), (2, 'a', 'b', 'c'); update t set c = 'd', \"B b\" = 'e' where id = 1; update t set id = 3 where id = 2");
    let (target, program) =
        second(&road, r#"create table t(id int primary key, "B b" text, c text default 'mine')"#);
    let end = receive(&road);
    program.run(&["apply", "--endpos", &end, "--columns", r#"public.t=ID,"B b""#]).done();
    assert_eq!(target.value("select string_agg(t::text, ',' order by id) from t"), "(1,e,mine),(3,b,mine)");
    let (_target, program) = second(&road, "create table t(id int primary key, a text)");
    refused(
        program.run(&["apply", "--endpos", &end, "--columns", "t=a"]),
        1,
        &["column \"id\"", "key of public.t"],
    );
    refused(program.run(&["apply", "--columns", "t"]), 2, &["--columns", "'t'"]);
}

const FILTERED: &str =
    "create table t(id int primary key, region text, a text, b text); create table u(id int primary key)";

#[test]
fn rows_and_columns_are_filtered_by_the_publication() {
    let (source, target) = pair();
    source.run_script(FILTERED);
    target.run_script(
        "create table t(id int primary key, region text, a text); create table u(id int primary key)",
    );
    let program = Pgsluice::between(&source, &target);
    let setup = ["setup", "--columns", "t=id,region,a", "--where", "t=id > 10 -- and more"];
    let report = program.run(&[&setup[..], &["--json"]].concat()).done().json();
    assert!(report["filters"][0].as_str().unwrap().contains("id > 10"), "{report}");
    let again = program.run(&[&setup[..], &["--json"]].concat()).done().json();
    assert_eq!(again["created"].as_array().unwrap().len(), 0, "{again}");
    // Without filters what is there is kept and told.
    let kept = program.run(&["setup", "--json"]).done().json();
    assert_eq!(kept["created"].as_array().unwrap().len(), 0, "{kept}");
    assert_eq!(kept["filters"].as_array().unwrap().len(), 1, "{kept}");
    source.run_script(
        "insert into t select i, 'EU', 'a', 'b' from generate_series(1, 20) i; insert into u values (1);
         update t set a = 'x', b = 'y' where id in (5, 15); update t set id = 5 + 100 where id = 5; update t set id = 6 - 100 where id = 16",
    );
    program.follow_to_current();
    let rows = "select string_agg(id || region || a, ',' order by id) from t";
    assert_eq!(target.value(rows), source.value(&format!("{rows} where id > 10")));
    assert_eq!(target.value("select count(*) from u"), "1");

    // Another filter is taken.
    let changed = program.run(&["setup", "--where", "t=id > 1000", "--json"]);
    // Without its list, column b is sent, which the target lacks.
    refused(changed, 1, &["column \"b\""]);
    let changed = program
        .run(&["setup", "--columns", "t=id,region,a", "--where", "t=id > 1000", "--json"])
        .done()
        .json();
    assert_eq!(changed["created"][0], "filters of publication pgsluice");
    source.run_script("insert into t values (500, 'EU', 'no', ''), (5000, 'EU', 'yes', '')");
    program.follow_to_current();
    assert_eq!(target.value("select string_agg(id::text, ',') from t where id >= 500"), "5000");
}

#[test]
fn filters_that_would_break_the_source_are_refused() {
    let (source, target) = pair();
    source.run_script(FILTERED);
    target.run_script(FILTERED);
    let program = Pgsluice::between(&source, &target);
    for (arguments, names) in [
        (&["--where", "t=region = 'EU'"][..], &["\"region\"", "replica identity"][..]),
        (&["--columns", "t=region,a"], &["public.t", "replica identity"]),
        (&["--where", "t=no_such = 1"], &["no_such"]),
        (&["--where", "t=random() > 0.5"], &["refuses the filters"]),
        (&["--where", "misspelt=id > 1"], &["misspelt", "matches no table"]),
        (&["--tables", "t", "nothing.*"], &["nothing.*", "matches no table"]),
        (&["--exclude", "T_"], &["T_", "matches no table"]),
    ] {
        refused(program.run(&[&["setup"], arguments].concat()), 1, names);
        assert_eq!(source.value("select count(*) from pg_publication"), "0");
    }
    source.query("alter table t replica identity full");
    program.run(&["setup", "--where", "t=region = 'EU'"]).done();
    source.run_script(
        "insert into t values (1, 'EU', 'a', 'b'), (2, 'US', 'a', 'b'), (3, 'EU', 'a', 'b');
         update t set region = 'US' where id = 1; update t set region = 'EU' where id = 2; delete from t where region = 'US'",
    );
    program.follow_to_current();
    assert_tables_equal(&source, &target);
}

/// PostgreSQL would not truncate the one without the other, which is not the applier's to empty.
#[test]
fn a_truncate_of_tables_of_which_one_is_excluded_empties_the_other() {
    let road = Road::new(
        "create table parent(id int generated by default as identity primary key);
         create table child(id int primary key, parent int references parent)",
    );
    road.change(
        "insert into parent values (default), (default); insert into child values (1, 1);
         truncate parent cascade; insert into parent values (default);
         begin; insert into parent values (default); truncate parent, child restart identity; insert into parent values (default); commit",
    );
    road.target.run_script(
        "set session_replication_role = replica; insert into child values (5, 5); select setval('parent_id_seq', 77)",
    );
    let outcome = road
        .program
        .run(&["follow", "--exclude", "child", "--sequences", "off", "--endpos", "current"])
        .done();
    assert!(outcome.stderr.contains("TRUNCATE applied as DELETE"), "{outcome}");
    assert!(
        outcome.stderr.contains("referring=\"public.child\"")
            || outcome.stderr.contains("referring=public.child")
    );
    assert_eq!(road.target.value("select string_agg(id::text, ' ') from parent"), "1");
    assert_eq!(road.target.value("select string_agg(id::text, ' ') from child"), "5");
    assert_eq!(road.target.value("select last_value || ' ' || is_called from parent_id_seq"), "1 false");
}

#[test]
fn a_publication_with_filters_made_by_hand_is_adopted() {
    let (source, target) = pair();
    source.run_script(FILTERED);
    target.run_script("create table t(id int primary key, a text)");
    source.query("create publication pgsluice for table t (id, a) where (id < 10)");
    let program = Pgsluice::between(&source, &target);
    let outcome = program.run(&["setup", "--json"]).done();
    let filter = outcome.json()["filters"][0].as_str().unwrap().to_owned();
    assert!(filter.contains("(\"id\", \"a\")") && filter.contains("id < 10"), "{filter}");
    assert!(outcome.stderr.contains("TRUNCATE"), "{outcome}");
    source.run_script("insert into t values (1, 'EU', 'a', 'b'), (11, 'EU', 'a', 'b')");
    program.follow_to_current();
    assert_eq!(target.value("select string_agg(t::text, ',') from t"), "(1,a)");
}
