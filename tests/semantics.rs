//! What logical decoding says, and what must come of it on the target: the cases that are easily got wrong.

use crate::support::{Road, Session, assert_tables_equal, lsn, seconds, wait_until};

/// Same schema on both sides, changes on the source, same rows on both sides.
#[track_caller]
fn check(schema: &str, changes: &str) {
    let road = Road::new(schema);
    road.change(changes);
    road.arrives();
}

// Identity of transactions.

#[test]
fn adjacent_commits_are_two_transactions() {
    let road = Road::new("create table t(id int primary key)");
    let (one, two) = (road.source.session(), road.source.session());
    for round in 0..10 {
        one.query(&format!("begin; insert into t values ({round})"));
        two.query(&format!("begin; insert into t values (100 + {round})"));
        one.query("commit");
        let between = road.source.value("select pg_current_wal_insert_lsn()");
        two.query("commit");
        // The applier stops between them; the next run goes on from there.
        road.program.run(&["follow", "--endpos", &between]).done();
    }
    road.arrives();
}

#[test]
fn rows_that_share_an_lsn_all_arrive() {
    check(
        "create table t(id int, note text)",
        "copy t from stdin;\n1\ta\n1\ta\n2\tb\n2\tb\n3\tc\n\\.\ninsert into t select i, 'x' from generate_series(1, 3000) i",
    );
}

// The slot, when others touch it.

#[test]
fn a_slot_made_anew_is_a_gap() {
    let road = Road::new("create table t(id int primary key)");
    road.change("insert into t values (1)");
    road.arrives();
    road.change("select pg_drop_replication_slot('pgsluice'); insert into t values (2)");
    road.change(
        "select pg_create_logical_replication_slot('pgsluice', 'pgoutput'); insert into t values (3)",
    );
    refuses_the_gap(&road);
}

#[test]
fn a_slot_that_somebody_else_consumed_is_a_gap() {
    let road = Road::new("create table t(id int primary key)");
    road.change("insert into t values (1)");
    road.arrives();
    road.change("insert into t values (2)");
    road.change(
        "select count(*) from pg_logical_slot_get_binary_changes('pgsluice', null, null,
            'proto_version', '1', 'publication_names', 'pgsluice')",
    );
    road.change("insert into t values (3)");
    refuses_the_gap(&road);
}

#[test]
fn a_lost_slot_is_not_replaced_in_silence() {
    let road = Road::new("create table t(id int primary key)");
    road.change("insert into t values (1)");
    road.arrives();
    road.change("select pg_drop_replication_slot('pgsluice'); insert into t values (2)");
    refuses_the_gap(&road);
}

#[track_caller]
fn refuses_the_gap(road: &Road) {
    for command in [&["follow", "--endpos", "current"], &["receive", "--endpos", "current"]] {
        let outcome = road.program.run(command).ends_with(4);
        assert!(outcome.stderr.contains("pgsluice"), "the slot is named: {outcome}");
    }
    assert_eq!(road.target.value("select string_agg(id::text, ',') from t"), "1");
}

// Finding the row.

#[test]
fn keyless_tables_with_doubles_keep_their_count() {
    check(
        "create table t(a int, b text, c numeric);
         create table no_equality(id int, j json, p point, b box);",
        "insert into t values (1, 'x', 1.0), (1, 'x', 1.0), (1, 'x', 1.0), (null, null, null), (null, null, null);
         delete from t where ctid = (select min(ctid) from t where a = 1);
         update t set b = 'y' where ctid = (select min(ctid) from t where a = 1);
         delete from t where ctid = (select min(ctid) from t where a is null);
         update t set c = 1.00 where ctid = (select max(ctid) from t where a = 1);
         insert into no_equality select 1, '{\"a\": 1,  \"a\": 2}', '(1,2)', '(1,1),(0,0)' from generate_series(1, 3);
         insert into no_equality values (1, '{}', '(1,2)', '(2,0.5),(0,0)'), (2, null, null, null);
         delete from no_equality where ctid = (select min(ctid) from no_equality where id = 1);
         update no_equality set p = '(3,4)' where ctid = (select max(ctid) from no_equality where id = 1);
         update no_equality set id = 5 where ctid = (select min(ctid) from no_equality where id = 1);
         delete from no_equality where id = 2;",
    );
}

#[test]
fn the_key_is_the_replica_identity_not_the_primary_key() {
    check(
        "create table t(id int primary key, u int not null unique, note text);
         alter table t replica identity using index t_u_key;
         create table full_one(id int primary key, note text);
         alter table full_one replica identity full;",
        "insert into t select i, 100 + i, 'note' from generate_series(1, 9) i;
         update t set id = 21 where id = 1;
         update t set u = 222 where id = 2;
         update t set id = 23, u = 223 where id = 3;
         update t set note = null where id = 4;
         delete from t where id = 5;
         begin; update t set id = 26 where id = 6; update t set u = 226 where id = 26; delete from t where u = 226; commit;
         insert into full_one select i, 'note' from generate_series(1, 5) i;
         update full_one set id = id + 10 where id < 3; update full_one set note = null where id = 4;
         delete from full_one where id in (4, 5);",
    );
}

#[test]
fn keys_move_through_each_other() {
    check(
        "create table t(id int primary key, note text); alter table t alter note set storage external;",
        "insert into t select i, repeat(md5(i::text), 400) from generate_series(10, 1, -1) i;
         update t set id = id + 1;
         begin; update t set id = 100 where id = 2; update t set id = 2 where id = 3; update t set id = 3 where id = 100; commit;
         begin; delete from t where id = 5; insert into t values (5, 'new'); update t set id = 55 where id = 5; commit;",
    );
}

#[test]
fn a_missing_row_stops_the_applier_and_names_it() {
    let road = Road::new(
        "create table t(id int primary key, note text); insert into t values (1, 'a'), (4711, 'b')",
    );
    road.target.query("delete from t where id = 4711");
    road.change("insert into t values (2, 'before')");
    let before = road.source.current_lsn();
    road.change("update t set note = 'changed' where id = 4711");
    let after = road.source.current_lsn();
    road.change("insert into t values (3, 'after')");

    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    let said = &outcome.stderr;
    assert!(said.contains("public.t") && said.contains("4711"), "table and key: {outcome}");
    let named = said.split(|c: char| !(c.is_ascii_hexdigit() || c == '/')).filter(|word| {
        matches!(word.split_once('/'), Some((high, low)) if !high.is_empty() && !low.is_empty() && !low.contains('/'))
    });
    let inside = |word: &str| (lsn(&before)..=lsn(&after)).contains(&lsn(word));
    assert!(named.into_iter().any(inside), "an LSN of the transaction: {outcome}");
    assert_eq!(road.target.value("select string_agg(id::text, ',' order by id) from t"), "1,2");

    // Mended by hand, it goes on where it stopped.
    road.target.query("insert into t values (4711, 'b')");
    road.arrives();
}

/// Many rows go out in one statement; nobody may notice.
#[test]
fn long_runs_of_updates_are_as_exact_as_single_ones() {
    let road = Road::new(
        "create type mood as enum ('sad', 'happy'); create domain short as varchar(40);
         create table t(id int, part \"char\", amount numeric(12,3), tags text[], feeling mood, note short, rank int unique,
                        flag bool, code char(5), primary key (part, id));
         create table child(id int primary key, v text);
         insert into t select i, 'a', i, array['x', null], 'sad', 'row ' || i, i, true, 'c' || i % 9 from generate_series(1, 500) i;
         insert into child select i, 'v' from generate_series(1, 300) i",
    );
    // One shape, nulls among the values.
    road.change(
        "update t set amount = amount / 3, tags = case when id % 7 = 0 then null else tags || 'y'::text end",
    );
    road.change("update t set feeling = 'happy', note = null, flag = id % 2 = 0, code = 'd'");
    // The same rows again and again in one transaction, and a table between.
    road.change(
        "begin; update t set amount = amount + 1; update t set amount = amount * 2 where id < 400;
         update child set v = v || id; update t set note = 'last' where id > 100; commit",
    );
    // Unique values move through each other, in an order that the source allowed.
    road.change("update t set rank = rank + 1000");
    road.change("begin; update t set rank = -rank; update t set rank = 2000 - id; commit");
    road.arrives();
}

#[test]
fn a_row_that_is_missing_in_a_long_run_is_named() {
    let road = Road::new(
        "create table t(id int primary key, v int); insert into t select i, 0 from generate_series(1, 300) i",
    );
    road.target.query("delete from t where id = 177");
    road.change("update t set v = 1 where id <= 10");
    road.change("update t set v = 2");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("id = '177'") && outcome.stderr.contains("public.t"), "{outcome}");
    assert_eq!(road.target.value("select sum(v) from t"), "10");
    road.target.query("insert into t values (177, 0)");
    road.arrives();
}

// What a row holds.

#[test]
fn unchanged_toast_stays() {
    let tables: String = [
        ("by_key", "primary key", "default"),
        ("by_index", "primary key", "using index by_index_u_key"),
        ("by_all", "primary key", "full"),
        ("keyless", "", "full"),
    ]
    .map(|(name, key, identity)| {
        format!(
            "create table {name}(id int {key}, u int not null unique, n int, note text, other text);
             alter table {name} alter note set storage external, alter other set storage external;
             alter table {name} replica identity {identity};"
        )
    })
    .concat();
    let changes: String = ["by_key", "by_index", "by_all", "keyless"]
        .map(|name| {
            let long = |seed: &str| {
                format!("(select string_agg(md5({seed}::text || i), '') from generate_series(1, 400) i)")
            };
            let (one, two) = (long("u"), long("n"));
            format!(
                "insert into {name} select g, g, 0, 'short', null from generate_series(1, 12) g;
                 update {name} set note = {one}, other = {two} where id > 1;
                 update {name} set n = 1 where id = 2;
                 update {name} set id = 103 where id = 3;
                 update {name} set u = 104 where id = 4;
                 update {name} set id = 105, u = 105, n = 5 where id = 5;
                 update {name} set note = 'short' where id = 6;
                 update {name} set other = null, n = 7 where id = 7;
                 begin;
                 update {name} set n = 8 where id = 8;
                 update {name} set id = 108, u = 108 where id = 8;
                 update {name} set note = {two} where id = 108;
                 update {name} set n = 88 where id = 108;
                 commit;
                 begin; insert into {name} select 13, 13, 1, {one}, {two} from (values (13, 13)) v(u, n);
                 update {name} set n = 2 where id = 13; update {name} set id = 113 where id = 13; commit;
                 delete from {name} where id = 9;
                 begin; update {name} set n = 3 where id = 10; delete from {name} where id = 10; commit;"
            )
        })
        .concat();
    check(&tables, &changes);
}

#[test]
fn identity_and_generated_columns() {
    check(
        "create table t(id int generated always as identity primary key, n int, twice int generated always as (n * 2) stored);
         create table by_default(id int generated by default as identity primary key, n int);
         create table other_key(k int primary key, id int generated always as identity, n int);",
        "insert into t(n) values (1), (2), (3);
         insert into t(id, n) overriding system value values (100, 100);
         update t set n = 22 where id = 2;
         update t set id = default where id = 3;
         delete from t where id = 1;
         insert into by_default(n) values (1); insert into by_default values (50, 5); update by_default set id = 51 where id = 50;
         insert into other_key(k, n) values (1, 1), (2, 2); update other_key set n = 3 where k = 1;",
    );
}

#[test]
fn columns_are_matched_by_name() {
    let road = Road::with(
        "create table t(id int primary key, a text, b text, dropped int); alter table t drop dropped;",
        "create table t(filler int, b text, more text default 'more', id int primary key, a text); alter table t drop filler;",
    );
    road.change("insert into t values (1, 'a', 'b'), (2, null, ''); update t set b = 'c' where id = 1; update t set id = 3 where id = 2");
    road.program.follow_to_current();
    let rows = "select id, a, b from t order by id";
    assert_eq!(road.target.query(rows), road.source.query(rows));
    assert_eq!(road.target.value("select string_agg(more, ',') from t"), "more,more");
}

#[test]
fn a_column_that_comes_in_the_middle_of_a_transaction() {
    let road = Road::with(
        "create table t(id int primary key, a text)",
        "create table t(id int primary key, a text, b text, c int)",
    );
    road.change(
        "begin; insert into t values (1, 'x'); alter table t add b text; insert into t values (2, 'y', 'z');
         alter table t add c int; insert into t values (3, 'y', 'z', 1); update t set b = 'w' where id = 1; commit;",
    );
    road.arrives();
}

#[test]
fn truncate_names_several_tables() {
    check(
        "create table parent(id int primary key); create table child(id int primary key, p int references parent);
         create table alone(id serial primary key); create table kept(id int primary key);",
        "insert into parent select generate_series(1, 10); insert into child select i, i from generate_series(1, 10) i;
         insert into alone select generate_series(1, 10); insert into kept select generate_series(1, 10);
         begin; insert into kept values (11); truncate parent cascade; insert into parent values (1); insert into child values (1, 1); commit;
         truncate alone restart identity; insert into alone values (5);",
    );
}

#[test]
fn partitions_are_leaves() {
    check(
        "create table p(id int, region text, note text, primary key (id, region)) partition by list (region);
         create table p_north partition of p for values in ('north');
         create table p_south partition of p for values in ('south') partition by range (id);
         create table p_south_low partition of p_south for values from (0) to (100);
         create table p_south_high partition of p_south for values from (100) to (200);",
        "insert into p select i, case when i % 2 = 0 then 'north' else 'south' end, 'note' from generate_series(1, 150) i;
         update p set region = 'south' where id = 2; update p set id = 150 where id = 1; update p set note = 'x' where id < 20;
         delete from p where id between 30 and 40; truncate p_south_low; insert into p values (7, 'south', 'back');",
    );
}

#[test]
fn foreign_keys_and_triggers_do_not_fire_again() {
    check(
        "create table parent(id int primary key);
         create table child(id int primary key, p int references parent on delete cascade);
         create table audit(id serial primary key, what text);
         create function note() returns trigger language plpgsql as $$ begin insert into audit(what) values (tg_op); return null; end $$;
         create trigger t after insert or update or delete on child for each row execute function note();",
        "insert into parent values (1), (2); insert into child values (1, 1), (2, 2), (3, 2); delete from parent where id = 2;
         update child set id = 10 where id = 1;",
    );
}

// Text and names.

#[test]
fn odd_identifiers() {
    let names = [
        r#"S ch"ema"#,
        "new\nline",
        "semi;colon",
        "-- comment",
        "/* open",
        "$$dollar$$",
        r"back\slash",
        "'quote'",
        "select",
        "UPPER",
        "ünï¢ode",
        "a.b",
        " lead",
        "%I",
        "{}",
        "T: INSERT: x",
    ];
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let longest = "x".repeat(63);
    let mut schema = String::new();
    let mut changes = String::new();
    for name in names.into_iter().chain([longest.as_str()]) {
        let quoted = quote(name);
        let table = format!("{quoted}.{quoted}");
        let literal = format!("E'{}'", name.replace('\\', "\\\\").replace('\'', "''"));
        schema.push_str(&format!(
            "create schema {quoted}; create table {table}({quoted} text primary key, \"a\" text, \"$1\" int);"
        ));
        changes.push_str(&format!(
            "insert into {table} values ({literal}, {literal}, 1), ('second', null, 2);
             update {table} set {quoted} = {literal} || 'changed', \"$1\" = 3 where {quoted} = {literal};
             delete from {table} where {quoted} = 'second';"
        ));
    }
    check(&schema, &changes);
}

pub(crate) const TYPES: &str = r#"
create type mood as enum ('sad', 'it''s "fine"', 'größer');
create type pair as (a int, b text);
create domain positive as int check (value > 0);
create domain words as text[];
create table types(
    id int primary key, i2 int2, i8 int8, num numeric, f4 float4, f8 float8, flag bool, txt text, vc varchar(20), ch char(5),
    one "char", nm name, bin bytea, d date, tm time, tmz timetz, ts timestamp, tsz timestamptz, iv interval, cash money,
    uid uuid, j json, jb jsonb, arr int[], texts text[], two int[][], m mood, ms mood[], pr pair, prs pair[], dom positive,
    ws words, ir int4range, tr tstzrange, mr int4multirange, addr inet, net cidr, mac macaddr, bt bit(5), vb varbit, pt point,
    ln line, sg lseg, bx box, pth path, pol polygon, cir circle, vec tsvector, qry tsquery, o oid, wal pg_lsn, snap pg_snapshot,
    cls regclass);
"#;

pub(crate) const TYPE_ROWS: &str = r#"
insert into types values (1, -32768, 9223372036854775807, 12345678901234567890.123456789012345678900, 3.4028235e38, 0.30000000000000004,
    true, E'tab\tnew\nline\\back''quote"double', 'ümläut', 'ab', 'x', 'name', '\x00ff7f275c', '2024-03-04', '24:00:00', '13:14:15.123456+05:30',
    '2024-03-04 05:06:07.123456', '2024-03-04 05:06:07.123456+09', '1 year -2 mons 3 days -04:05:06.789', '12.34',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b": 1,  "a": 1.10, "b": 2}', '{"b": 1.10, "a": [null, "\u00fc"]}', '{1,NULL,3}',
    array['a,b', 'c"d', 'e\f', '', null, 'NULL', '{x}', ' '], '[0:1][2:3]={{1,2},{3,4}}', 'it''s "fine"', '{sad,"größer"}', '(1,"a ""b"", (c)")',
    array['(1,x)', '(,)']::pair[], 7, array['w', 'x y'], '[1,10)', '[2024-01-01 00:00:00+00,)', '{[1,3),[5,7)}', '10.1.2.3/8', '10.0.0.0/8',
    '08:00:2b:01:02:03', B'10101', B'', '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '((0,0),(1,1))', '((0,0),(1,1),(1,0))', '<(0,0),1>',
    'a:1A fat:2B,4C', 'fat & (rat | !cat)', 4294967295, '16/B374D848', '10:20:10,14', 'pg_class');
insert into types(id, num, f4, f8, d, ts, tsz, txt, bin, texts) values
    (2, 'NaN', 'NaN', '-Infinity', 'infinity', '-infinity', 'infinity', '', '', '{}'),
    (3, '0.0000000000000000000000000000001', 1e-45, 5e-324, '4713-01-01 BC', '0044-03-15 12:00:00 BC', '294276-12-31 23:59:59.999999+00', ' ', '\x', null),
    (4, '-Infinity', -0.0::float4, -0.0, '5874897-12-31', '1900-01-01 00:00:00.000001', '1883-11-18 12:03:58-08', 'NULL', '\x5c', '{{a,b},{c,d}}'),
    (5, repeat('9', 2000)::numeric, 1.1, 1e308, '1582-10-15', 'epoch', 'epoch', '\N', '\xdeadbeef', '{NULL}'),
    (6, 1.000, 16777217, 123456789.123456789, null, null, null, '\.', null, null);
update types set txt = txt || 'x', f8 = f8 * 3, iv = iv * 2 where id in (1, 6);
update types set id = 60 where id = 6;
insert into types(id) values (7); delete from types where id = 7;
"#;

#[test]
fn types_arrive_as_text_says() {
    check(TYPES, TYPE_ROWS);
}

#[test]
fn settings_of_the_roles_change_nothing() {
    let road = Road::new(TYPES);
    let odd = [
        ("datestyle", "'SQL, DMY'"),
        ("intervalstyle", "'sql_standard'"),
        ("extra_float_digits", "0"),
        ("bytea_output", "'escape'"),
        ("timezone", "'Asia/Tokyo'"),
        ("search_path", "'pg_temp'"),
    ];
    for (cluster, odd_here) in [(&road.source, &odd[..]), (&road.target, &odd[..5])] {
        for (name, value) in odd_here {
            cluster.query(&format!("alter role postgres set {name} = {value}"));
        }
    }
    road.target.query("alter role postgres set datestyle = 'German, MDY'");
    // The rows are written with settings of their own.
    let script =
        format!("set search_path = public; set datestyle = 'ISO, YMD'; set timezone = 'UTC'; {TYPE_ROWS}");
    road.change(&script);
    road.program.follow_to_current();
    for cluster in [&road.source, &road.target] {
        cluster.query("alter role postgres reset all");
    }
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn extension_types_arrive() {
    check(
        "create extension citext; create extension hstore;
         create table t(id citext primary key, h hstore, c citext[]);",
        "insert into t values ('Key', 'a=>1, \"b c\"=>NULL', '{X,y}'), ('other', '', null);
         update t set h = h || 'z=>\"q\\\"\"' where id = 'key'; update t set id = 'KEY' where id = 'Key'; delete from t where id = 'OTHER';",
    );
}

// What is in the stream besides rows.

#[test]
fn messages_and_origins_and_empty_transactions_pass() {
    check(
        "create table t(id int primary key); create unlogged table fleeting(id int);",
        "select pg_logical_emit_message(false, 'prefix', 'at once');
         begin; select pg_logical_emit_message(true, 'prefix', E'with\\\\000bytes'); insert into t values (1); commit;
         begin; select pg_logical_emit_message(false, 'prefix', 'rolled back'); insert into t values (2); rollback;
         begin; select txid_current(); commit;
         insert into fleeting values (1); truncate fleeting;
         select pg_replication_origin_create('elsewhere');
         select pg_replication_origin_session_setup('elsewhere');
         begin; select pg_replication_origin_xact_setup('0/1234', now()); insert into t values (3); commit;
         select pg_replication_origin_session_reset();
         begin; insert into t values (4); savepoint a; insert into t values (5); rollback to a; insert into t values (6); release a; commit;
         begin; create temp table gone(id int); insert into gone values (1); insert into t values (7); commit;",
    );
}

#[test]
fn a_table_made_later_arrives_when_the_target_has_it() {
    let road = Road::with("", "create table later(id int primary key, note text)");
    road.change("create table later(id int primary key, note text); insert into later values (1, 'first')");
    road.arrives();
    road.change("drop table later");
    road.program.follow_to_current();
}

// An outcome that isn't known.

/// The applier dies while the target's backend is in the middle of COMMIT: that backend commits later.
#[test]
fn a_commit_in_doubt_is_not_done_twice() {
    let road = Road::new("create table keyless(id int)");
    let first = road.follow();
    // A trigger that runs at the very end of the transaction, in replica role too, makes COMMIT slow.
    road.target.query(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(3); return null; end $$;
         create constraint trigger slow after insert on keyless deferrable initially deferred
             for each row execute function slow();
         alter table keyless enable always trigger slow",
    );
    road.change("insert into keyless values (1)");
    let control: Session = road.target.session();
    let committing = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_until(seconds(20), "a slow commit", || control.value(committing) != "0");
    first.kill();
    let second = road.follow();
    road.finish(second);
    assert_eq!(road.target.value("select count(*) from keyless"), "1");
}
