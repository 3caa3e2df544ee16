//! One workload through all output plugins gives the same rows; what a plugin loses is refused.

use crate::semantics::{TYPE_ROWS, TYPES};
use crate::support::{Cluster, Outcome, Pgsluice, Road, Version, assert_tables_equal, seconds, wait_until};

/// Those that the server can load. The tests go on without wal2json, and say so.
fn plugins(version: &Version) -> Vec<&'static str> {
    let mut plugins = vec!["pgoutput", "test_decoding"];
    if version.wal2json().is_some() {
        plugins.push("wal2json");
    } else {
        eprintln!("wal2json is not at hand for PostgreSQL {}: tested without it", version.major);
    }
    plugins
}

/// One plugin's way from the source to a target of its own.
struct Way {
    plugin: &'static str,
    target: Cluster,
    program: Pgsluice,
}

impl Way {
    fn new(source: &Cluster, plugin: &'static str, schema: &str) -> Way {
        if plugin == "wal2json" {
            source.allow_wal2json();
        }
        let target = Cluster::prepare().version(source.version()).start();
        target.run_script(schema);
        let program =
            Pgsluice::between(source, &target).env("PGSLUICE_PLUGIN", plugin).env("PGSLUICE_NAME", plugin);
        program.run(&["setup", "--keyless", "full"]).done();
        Way { plugin, target, program }
    }

    #[track_caller]
    fn arrives(&self, source: &Cluster) {
        eprintln!("through {}", self.plugin);
        self.program.follow_to_current();
        assert_tables_equal(source, &self.target);
        self.program.run(&["archive", "verify"]).done();
    }

    /// Everything that is committed now goes into the log, or is refused.
    fn receive(&self) -> Outcome {
        self.program.run(&["receive", "--endpos", "current"])
    }
}

/// The same changes through every plugin, live with each other and once more from where the run before ended.
#[track_caller]
fn check_through(plugins: &[&'static str], schema: &str, changes: &[&str]) {
    let source = Cluster::source();
    source.run_script(schema);
    let ways: Vec<Way> = plugins.iter().map(|plugin| Way::new(&source, plugin, schema)).collect();
    for changes in changes {
        source.run_script(changes);
        for way in &ways {
            way.arrives(&source);
        }
    }
}

#[track_caller]
fn check(schema: &str, changes: &[&str]) {
    check_through(&plugins(&Version::default_one()), schema, changes);
}

/// Test of one plugin alone, if it is at hand.
#[track_caller]
fn check_each(test: impl Fn(&Cluster, &'static str)) {
    for plugin in plugins(&Version::default_one()).into_iter().skip(1) {
        test(&Cluster::source(), plugin);
    }
}

#[track_caller]
fn refused(outcome: Outcome, words: &[&str]) {
    let outcome = outcome.ends_with(4);
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {outcome}");
    }
}

#[test]
fn rows_keys_names_and_truncates() {
    let schema = r#"
        create schema "S ch";
        create table "S ch"."T: INSERT: x"("a[integer]:1 b" int primary key, "c""d" text, "ünï" text, "new-tuple:" text);
        create table pair(a int, b text, c text, primary key (b, a));
        create table full_row(id int, note text, big text); alter table full_row replica identity full;
        create table full_keyed(id int primary key, n int, note text); alter table full_keyed replica identity full;
        create table by_index(id int primary key, code text not null, note text);
        create unique index by_index_code on by_index(code); alter table by_index replica identity using index by_index_code;
        create table keyless(id int, note text);
        create table made(id int generated always as identity primary key, n int, twice int generated always as (n * 2) stored, note text);
        create table parent(id serial primary key); create table child(id int primary key, p int references parent);
        create table p(id int, region text, note text, primary key (id, region)) partition by list (region);
        create table p_north partition of p for values in ('north');
        create table p_south partition of p for values in ('south');
        create table empty(); alter table empty replica identity full;
        create unlogged table fleeting(id int);
    "#;
    let rows = r#"
        insert into "S ch"."T: INSERT: x" values (1, E'it''s\n new-tuple: x[text]:''y''', 'größer', null), (2, '', E'\\', 'null'), (3, 'unchanged-toast-datum', E'\t"', 'x');
        update "S ch"."T: INSERT: x" set "c""d" = null where "a[integer]:1 b" = 1;
        update "S ch"."T: INSERT: x" set "a[integer]:1 b" = 20 where "a[integer]:1 b" = 2;
        delete from "S ch"."T: INSERT: x" where "a[integer]:1 b" = 3;
        insert into pair values (1, 'x', 'one'), (2, 'y', 'two'), (3, 'z', null);
        update pair set b = 'yy' where a = 2; update pair set c = 'again' where a = 1; delete from pair where a = 3;
        insert into full_row values (1, null, null), (1, null, null), (2, 'x', 'y'), (3, '', null);
        update full_row set note = 'new' where id = 2; delete from full_row where ctid = (select min(ctid) from full_row where id = 1);
        update full_row set big = note where id = 3;
        insert into full_keyed values (1, null, 'x'), (2, 5, null), (3, null, null); update full_keyed set n = null where id = 2;
        update full_keyed set id = 10 where id = 1; delete from full_keyed where id = 3;
        insert into by_index values (1, 'a', 'n'), (2, 'b', null), (3, 'c', ''); update by_index set id = 11 where id = 1;
        update by_index set code = 'bb' where id = 2; update by_index set id = 33, code = 'cc' where id = 3; delete from by_index where code = 'a';
        insert into keyless values (1, 'a'), (1, 'a'), (null, null); update keyless set note = 'b' where id = 1;
        delete from keyless where id is null;
        insert into made(n, note) values (1, 'a'), (2, 'b'), (null, 'c'); update made set n = 5 where n = 1; delete from made where n = 2;
        update made set note = 'd' where n is null;
        insert into parent values (default), (default); insert into child values (1, 1), (2, 2);
        insert into p select i, case when i % 2 = 0 then 'north' else 'south' end, 'note' from generate_series(1, 50) i;
        update p set region = 'south' where id = 2; delete from p where id between 10 and 20;
        insert into empty default values; insert into fleeting values (1);
        begin; insert into child values (3, 1); savepoint s; insert into child values (4, 1); update child set p = 2; rollback to s;
        insert into child values (5, 2); commit;
        begin; insert into child values (6, 1); rollback;
        select pg_logical_emit_message(true, 'a, sz: 1 content:', E'x\nsz: 2'), pg_logical_emit_message(false, 'b', 'at once');
        begin; select pg_logical_emit_message(true, 'p', 'before'); insert into child values (7, 1); select pg_logical_emit_message(false, 'p', 'not'); commit;
    "#;
    let truncates = r#"
        begin; insert into child values (8, 1); truncate parent cascade; insert into parent values (9); commit;
        truncate p, keyless restart identity; insert into p values (1, 'north', 'a'), (2, 'south', 'b');
        begin; truncate p_north; truncate made; insert into p values (3, 'north', 'c'); commit;
        truncate full_row;
    "#;
    check(schema, &[rows, truncates, "insert into child select i, 9 from generate_series(100, 200) i"]);
}

#[test]
fn values_of_all_types() {
    let version = Version::default_one();
    let mut plugins = plugins(&version);
    if !version.wal2json_prints_all_numbers() {
        plugins.retain(|plugin| *plugin != "wal2json");
    }
    check_through(&plugins, TYPES, &[TYPE_ROWS]);
}

/// wal2json up to 2.5 with numbers that are never null, nor what it prints as null.
#[test]
fn values_of_all_types_but_special_numbers() {
    let schema = TYPES.replace(
        "num numeric, f4 float4, f8 float8,",
        "num numeric not null default 1.50, f4 float4 not null default 1e-7, f8 float8 not null default 1e300,",
    );
    let rows = TYPE_ROWS
        .replace("'NaN', 'NaN', '-Infinity'", "'0.00', '1e10', '-1e-5'")
        .replace("(4, '-Infinity'", "(4, '-0.0001'");
    assert!(schema != TYPES && !rows.contains("'NaN'"));
    check(&schema, &[&rows]);
}

#[test]
fn toasted_values_that_did_not_change() {
    let long = "(select string_agg(md5(i::text || $1), '') from generate_series(1, 400) i)";
    let long = |salt: &str| long.replace("$1", &format!("'{salt}'"));
    let schema = "create table t(id int primary key, long text, n int, bytes bytea);
        alter table t alter long set storage external, alter bytes set storage external;
        create table f(id int primary key, long text, n int, other text); alter table f replica identity full;
        alter table f alter long set storage external;";
    let changes = format!(
        "insert into t values (1, {0}, 1, {0}::bytea), (2, {1}, 2, null), (3, 'short', 3, {1}::bytea);
         update t set n = 10 where id = 1; update t set id = 20 where id = 2; update t set id = 10, n = 11 where id = 1;
         update t set long = {2} where id = 3; update t set n = 4, bytes = null where id = 3; update t set long = null where id = 10;
         begin; update t set n = 5 where id = 20; update t set long = 'now short' where id = 20; update t set n = 6 where id = 20; commit;
         insert into f values (1, {0}, 1, null), (2, {1}, 2, {2}); update f set n = 3; update f set id = 10 where id = 1;
         update f set other = 'x' where id = 10; delete from f where id = 2;",
        long("a"),
        long("b"),
        long("c")
    );
    check(schema, &[&changes]);
}

#[test]
fn settings_of_the_role_change_nothing() {
    let source = Cluster::source();
    let schema =
        "create table t(id int primary key, b bytea, f float8 not null, d timestamptz, i interval, m money);";
    source.run_script(schema);
    let ways: Vec<Way> =
        plugins(source.version()).into_iter().map(|plugin| Way::new(&source, plugin, schema)).collect();
    for setting in [
        "bytea_output = 'escape'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = 0",
        "timezone = 'Asia/Tokyo'",
        "quote_all_identifiers = on",
    ] {
        source.query(&format!("alter role postgres set {setting}"));
    }
    source.run_script(
        "insert into t values (1, 'ABC\\000\\377', 0.1::float8 + 0.2, '2024-03-04 05:06:07+00', '1 year -2 mons 3 days -04:05:06', '12.34')",
    );
    for way in &ways {
        way.program.follow_to_current();
    }
    source.query("alter role postgres reset all");
    for way in &ways {
        assert_tables_equal(&source, &way.target);
    }
}

/// Definitions of then: the table is another one when the receiver looks it up.
#[test]
fn changes_of_before_the_table_was_altered() {
    let schema = "create type mood as enum ('sad', 'glad');
        create table t(id int primary key, note text, gone int, kind mood, twice int generated always as (id * 2) stored);
        create table dropped(id int primary key, note text); create table remade(id int primary key, note text);
        create table renamed(id int primary key, note text);
        create table other(id int primary key, b text);";
    check_each(|source, plugin| {
        source.run_script(schema);
        let way = Way::new(source, plugin, schema);
        source.run_script(
            "insert into t values (1, 'a', 5, 'sad'), (2, 'b', 6, 'glad'), (3, 'c', null, null);
             update t set note = 'aa' where id = 1; delete from t where id = 3; update t set id = 20 where id = 2;
             begin; insert into t values (4, 'd', 7, 'sad'); alter table t drop gone; insert into t values (5, 'e'); commit;
             alter table t add later text default 'x';
             insert into dropped values (1, 'a'), (2, null); update dropped set id = 10 where id = 1; delete from dropped where id = 2;
             drop table dropped;
             insert into remade values (1, 'a'); drop table remade; create table remade(id int primary key, note text);
             insert into remade values (2, 'b');
             insert into renamed values (1, 'a'); alter table renamed rename to other_name; alter table other rename to renamed;
             alter table other_name rename to other; alter table renamed rename b to note; alter table other rename note to b;
             insert into other values (7, 'other'); insert into renamed values (8, 'renamed');",
        );
        let end = source.current_lsn();
        way.program.run(&["receive", "--endpos", &end]).done();
        // The log has the changes as they were made; the target follows the tables by hand.
        way.target.run_script("alter table t add later text");
        way.program.run(&["apply", "--endpos", &end]).done();
        let rows = |sql: &str| format!("{:?}", way.target.query(sql));
        assert_eq!(
            rows("select id, note, gone, kind, twice from t order by id"),
            r#"[[Some("1"), Some("aa"), Some("5"), Some("sad"), Some("2")], [Some("4"), Some("d"), Some("7"), Some("sad"), Some("8")], [Some("5"), Some("e"), None, None, Some("10")], [Some("20"), Some("b"), Some("6"), Some("glad"), Some("40")]]"#,
            "{plugin}"
        );
        assert_eq!(rows("select id, note from dropped"), r#"[[Some("10"), Some("a")]]"#, "{plugin}");
        assert_eq!(rows("select id from remade order by id"), r#"[[Some("1")], [Some("2")]]"#, "{plugin}");
        assert_eq!(
            rows("select * from renamed order by id"),
            r#"[[Some("1"), Some("a")], [Some("8"), Some("renamed")]]"#,
            "{plugin}"
        );
        assert_eq!(rows("select * from other order by id"), r#"[[Some("7"), Some("other")]]"#, "{plugin}");
    });
}

#[test]
fn only_published_tables_arrive() {
    let schema = "create table wanted(id int primary key, n int); create table other(id int, n int);
        create table late(id int primary key, n int);";
    check_each(|source, plugin| {
        source.run_script(schema);
        source.run_script(
            "create materialized view mv as select 1 as id, 2 as n; create unique index on mv(id)",
        );
        if plugin == "wal2json" {
            source.allow_wal2json();
        }
        let target = Cluster::target();
        target.run_script(
            "create table wanted(id int primary key, n int); create table late(id int primary key, n int);",
        );
        let program = Pgsluice::between(source, &target).env("PGSLUICE_PLUGIN", plugin);
        program.run(&["setup", "--tables", "public.wanted"]).done();
        source.run_script(
            "insert into wanted values (1, 1); insert into other values (1, 1); update other set n = 2; delete from other;
             begin; insert into other values (2, 2); insert into wanted values (2, 2); truncate other; commit;
             drop materialized view mv; create materialized view mv as select 1 as id, count(*) as n from wanted;
             create unique index on mv(id); insert into wanted values (3, 3); refresh materialized view concurrently mv;",
        );
        let mut running = program.start(&["follow"]);
        let count = |table: &str| target.value(&format!("select count(*) from {table}"));
        wait_until(seconds(30), "the rows arrive", || {
            assert!(running.is_running(), "{}", running.log());
            count("wanted") == "3"
        });
        // What was looked up as not published is looked up again by the next transaction.
        source.run_script("insert into late values (1, 1)");
        source.query("alter publication pgsluice add table late");
        source.run_script("insert into late values (2, 2)");
        wait_until(seconds(30), "the row of the added table arrives", || {
            assert!(running.is_running(), "{}", running.log());
            target.value("select string_agg(id::text, ',') from late").ends_with('2')
        });
        running.terminate(seconds(20)).done();
    });
}

/// A commit is sent before others see it: the catalog is asked again until it shows what the transaction did.
#[test]
fn a_table_of_a_commit_that_waits_for_a_standby() {
    check_each(|source, plugin| {
        let way = Way::new(source, plugin, "create table t(id int primary key)");
        let mut running = way.program.start(&["follow"]);
        source.set("synchronous_standby_names", "nobody");
        let session = source.session();
        let backend = session.backend();
        let creating = std::thread::spawn(move || {
            let _ = session
                .try_query("begin; create table t(id int primary key); insert into t values (7); commit");
        });
        wait_until(seconds(20), "the commit waits", || {
            source.value(&format!("select wait_event from pg_stat_activity where pid = {backend}"))
                == "SyncRep"
        });
        std::thread::sleep(seconds(1));
        assert!(running.is_running(), "{}", running.log());
        assert_eq!(way.target.value("select count(*) from t"), "0");
        source.set("synchronous_standby_names", "");
        wait_until(seconds(30), "the row arrives", || {
            assert!(running.is_running(), "{}", running.log());
            way.target.value("select count(*) from t") == "1"
        });
        creating.join().unwrap();
        running.terminate(seconds(20)).done();
    });
}

#[test]
fn a_killed_receiver_resumes() {
    check_each(|source, plugin| {
        let schema = "create table a(id int primary key, n int, note text); create table b(id int, note text); alter table b replica identity full;";
        source.run_script(schema);
        let way = Way::new(source, plugin, schema);
        source.run_script("insert into a select i, 0, 'x' from generate_series(1, 50) i");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in 0..2 {
                let (stop, session) = (&stop, source.session());
                scope.spawn(move || {
                    let mut round = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        round += 1;
                        session.query(&format!(
                            "begin; update a set n = n + 1 where id % 2 = {client}; insert into b values ({round}, 'it''s'); \
                             delete from b where id = {round} - 20; commit"
                        ));
                    }
                });
            }
            for kill in 0..8 {
                let running = way.program.start(&["follow"]);
                std::thread::sleep(std::time::Duration::from_millis(300 + 150 * kill));
                running.kill();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        way.arrives(source);
    });
}

/// Larger than what is kept in memory until the commit.
#[test]
fn a_large_transaction() {
    check(
        "create table t(id int primary key, note text, n numeric not null);",
        &[
            "begin; insert into t select i, repeat('x', 200), i from generate_series(1, 20000) i; update t set n = n / 3 where id % 3 = 0;
           savepoint s; delete from t; rollback to s; delete from t where id % 7 = 0; commit;",
        ],
    );
}

// Losses are refused.

#[test]
fn publications_that_filter_within_tables() {
    check_each(|source, plugin| {
        let schema = "create table p(id int primary key) partition by range (id); create table p1 partition of p for values from (0) to (10);";
        source.run_script(schema);
        if plugin == "wal2json" {
            source.allow_wal2json();
        }
        source.query("create publication pgsluice for table p with (publish_via_partition_root)");
        let target = Cluster::target();
        target.run_script(schema);
        let program = Pgsluice::between(source, &target).env("PGSLUICE_PLUGIN", plugin);
        let outcome = program.run(&["setup"]).ends_with(1);
        assert!(outcome.stderr.contains("publishes via the partition root, but"), "{outcome}");
        source.query("alter publication pgsluice set (publish_via_partition_root = false)");
        program.run(&["setup"]).done();
        source.run_script("insert into p values (1)");
        program.follow_to_current();
        source.run_script(
            "alter publication pgsluice set (publish_via_partition_root); insert into p values (2)",
        );
        refused(
            program.run(&["receive", "--endpos", "current"]),
            &["public.p1", "under the name of its partition root"],
        );
        if source.version().major < 15 {
            return;
        }
        source.run_script("alter publication pgsluice set (publish_via_partition_root = false); alter publication pgsluice set table p1 where (id > 5)");
        refused(program.run(&["receive", "--endpos", "current"]), &["public.p1", "filters its rows"]);
        let outcome = program.run(&["setup"]).ends_with(1);
        assert!(outcome.stderr.contains("rows of public.p1 are filtered, which"), "{outcome}");
        source.run_script("create table columns(id int primary key, kept text, secret text); alter publication pgsluice set table p1, columns(id, kept)");
        target.run_script("create table columns(id int primary key, kept text, secret text default 'own')");
        source.run_script("insert into columns values (1, 'a', 'b'); update columns set kept = 'c'");
        program.follow_to_current();
        assert_eq!(target.value("select kept || secret from columns"), "cown");
        assert_eq!(target.value("select count(*) from p"), "2");
    });
}

#[test]
fn changes_without_their_row() {
    check_each(|source, plugin| {
        let schema = "create table t(id int, note text)";
        source.run_script(schema);
        if plugin == "wal2json" {
            source.allow_wal2json();
        }
        let target = Cluster::target();
        target.run_script(schema);
        let program = Pgsluice::between(source, &target).env("PGSLUICE_PLUGIN", plugin);
        // As with pgoutput: published tables need a key, or the source itself refuses their changes.
        let outcome = program.run(&["setup"]).ends_with(1);
        assert!(outcome.stderr.contains("public.t has no usable replica identity"), "{outcome}");
        program.run(&["setup", "--keyless", "full"]).done();
        source.run_script("alter table t replica identity nothing; insert into t values (1, 'a')");
        assert!(source.session().try_query("update t set note = 'b'").is_err());
        program.run(&["receive", "--endpos", "current"]).done();
        // What was changed while it was not published is not known.
        source.run_script("drop publication pgsluice; update t set note = 'c'; delete from t; create publication pgsluice for all tables");
        if plugin == "test_decoding" {
            refused(program.run(&["receive", "--endpos", "current"]), &["public.t", "without its key"]);
        }
    });
}

/// What was published when it was changed is not lost because it has left the publication since.
#[test]
fn tables_that_leave_the_publication_while_the_slot_is_behind() {
    check_each(|source, plugin| {
        let schema =
            ["a", "b", "c"].map(|table| format!("create table {table}(id int primary key);")).concat();
        source.run_script(&schema);
        if plugin == "wal2json" {
            source.allow_wal2json();
        }
        let target = Cluster::target();
        target.run_script(&schema);
        let program = Pgsluice::between(source, &target).env("PGSLUICE_PLUGIN", plugin);
        program.run(&["setup", "--tables", "public.a", "--tables", "public.b"]).done();
        source.run_script(
            "insert into b values (1); alter publication pgsluice drop table b; insert into a values (1);
             insert into c values (1)",
        );
        program.follow_to_current();
        let rows =
            |table: &str| target.value(&format!("select string_agg(id::text, ',' order by id) from {table}"));
        assert_eq!([rows("a"), rows("b"), rows("c")], ["1", "1", ""]);
        // Out of it and added again while nobody looked: too much comes rather than too little. And another table has the name
        // of one that left.
        source.run_script(
            "insert into b values (2); alter publication pgsluice add table b; insert into b values (3);
             insert into a values (2); alter publication pgsluice drop table a; alter table a rename to d;
             create table a(id int primary key)",
        );
        program.follow_to_current();
        assert_eq!([rows("a"), rows("b"), rows("c")], ["1,2", "1,2,3", ""]);
        source.run_script("insert into a values (3)");
        program.follow_to_current();
        assert_eq!(rows("a"), "1,2");
    });
}

#[test]
fn tables_of_a_list_that_are_gone() {
    check_each(|source, plugin| {
        let schema = "create table wanted(id int primary key); create table gone(id int primary key);";
        source.run_script(schema);
        if plugin == "wal2json" {
            source.allow_wal2json();
        }
        let target = Cluster::target();
        target.run_script(schema);
        let program = Pgsluice::between(source, &target).env("PGSLUICE_PLUGIN", plugin);
        program.run(&["setup", "--tables", "public.wanted"]).done();
        source.run_script("insert into gone values (1); drop table gone; insert into wanted values (1)");
        refused(
            program.run(&["receive", "--endpos", "current"]),
            &["public.gone", "gone from the source", "at 0/"],
        );
        source.run_script("create table gone(id int primary key)");
        program.follow_to_current();
        assert_eq!(target.value("select count(*) from wanted"), "1");
        assert_eq!(target.value("select count(*) from gone"), "0");
    });
}

#[test]
fn numbers_that_wal2json_prints_as_null() {
    let version = Version::default_one();
    if !plugins(&version).contains(&"wal2json") || version.wal2json_prints_all_numbers() {
        eprintln!("wal2json before 2.6 is not at hand: not tested");
        return;
    }
    let source = Cluster::source();
    let schema = "create table t(id int primary key, f float8, i int)";
    source.run_script(schema);
    let way = Way::new(&source, "wal2json", schema);
    source.run_script("insert into t values (1, 1.5, null)");
    way.arrives(&source);
    source.run_script("insert into t values (2, 'NaN', 1)");
    refused(way.receive(), &["public.t", "column f", "NaN", "2.6", "at 0/"]);
}

#[test]
fn a_server_that_lets_wal2json_not_in() {
    let version = Version::default_one();
    let source = Cluster::source();
    let guarded =
        source.value("select count(*) from pg_settings where name = 'output_plugin_libraries'") == "1";
    if !plugins(&version).contains(&"wal2json") || !guarded {
        eprintln!("no wal2json that the server does not let in: not tested");
        return;
    }
    let target = Cluster::target();
    let program = Pgsluice::between(&source, &target).env("PGSLUICE_PLUGIN", "wal2json");
    let outcome = program.run(&["setup"]).ends_with(1);
    assert!(outcome.stderr.contains("ALTER SYSTEM SET output_plugin_libraries"), "{outcome}");
    source.allow_wal2json();
    program.run(&["setup"]).done();
}

#[test]
fn a_plugin_that_is_not_there_and_one_that_is_not_the_archives() {
    let road = Road::new("create table t(id int primary key)");
    let outcome = road.program.run(&["setup", "--plugin", "test_decoding"]).ends_with(4);
    assert!(outcome.stderr.contains("belongs to plugin pgoutput, not test_decoding"), "{outcome}");
    if road.source.version().wal2json().is_none() {
        let program = Pgsluice::between(&road.source, &road.target).env("PGSLUICE_NAME", "other");
        road.source.allow_wal2json();
        let outcome = program.run(&["setup", "--plugin", "wal2json"]).ends_with(1);
        assert!(outcome.stderr.contains("install wal2json"), "{outcome}");
    }
}
