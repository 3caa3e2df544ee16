//! Values in binary form: what arrives is what would have arrived as text.

use pgsluice::model::is_portable;

use crate::support::{Cluster, Outcome, Pgsluice, Road, Version, assert_tables_equal, seconds, wait_until};

/// Every type that may travel in binary form, with values of it; its array is made of them.
const SAMPLES: &str = r#"
create function samples(out type text, out samples text[]) returns setof record language sql as $$ values
    ('bool', '{t,f}'::text[]), ('bytea', array['\x00ff7f275c', '\x', '\x5c', '\x00', '\x31']), ('"char"', '{x,y,""," ",\\}'),
    ('name', '{name,"N M",a,b,c}'), ('int8', '{-9223372036854775808,9223372036854775807,0,-1,10,9}'),
    ('int2', '{-32768,32767,0,-1,10,9}'), ('int4', '{-2147483648,2147483647,0,-1,10,9,256}'), ('oid', '{0,4294967295,1,2,3}'),
    ('text', array['', ' ', E'tab\tnew\nline\\back''quote"', 'größer', '\N', repeat('x', 3000)]), ('varchar', array['', 'a', 'a ', 'ü', 'b']),
    ('bpchar', array['', 'a', 'b  ', 'ü', 'cc']), ('tid', '{"(0,1)","(4294967295,65535)","(7,7)","(7,8)","(8,1)"}'),
    ('xid', '{1,4294967295,3,4,5}'), ('cid', '{0,4294967295}'), ('xid8', '{1,18446744073709551615,3,4,5}'),
    ('json', array['{"b": 1,  "a": 1.10, "b": 2}', 'null', '"\u00fc"']),
    ('jsonb', array['{"b": 1.10, "a": [null, "\u00fc"]}', 'null', '1.0', '1.00', '[]', '{}']),
    ('jsonpath', array['$.a[*] ? (@ > 1.50)', 'strict $']), ('point', '{"(1.5,-2)","(-0,0)","(NaN,Infinity)"}'),
    ('lseg', '{"[(0,0),(1,1)]"}'), ('path', '{"[(0,0),(1,1)]","((0,0),(1,1))"}'), ('box', array['(1,1),(0,0)', '(0,0),(1,1)']),
    ('polygon', '{"((0,0),(1,1),(1,0))"}'), ('line', '{"{1,2,3}"}'), ('circle', '{"<(0,0),1>"}'),
    ('float4', '{NaN,-0,0.5,Infinity,-Infinity,1e-45,3.4028235e38,16777217}'),
    ('float8', '{NaN,-0,0.30000000000000004,Infinity,-Infinity,5e-324,1e308,-1.5}'), ('money', '{12.34,-0.01,0,1,2}'),
    ('cidr', '{10.0.0.0/8,::/0,10.1.0.0/16,1.2.3.4,fe80::/10}'), ('inet', '{10.1.2.3/8,::1,10.1.2.3,1.2.3.4,fe80::1/64}'),
    ('macaddr', '{08:00:2b:01:02:03,08:00:2b:01:02:04,ff:ff:ff:ff:ff:ff,00:00:00:00:00:00,11:11:11:11:11:11}'),
    ('macaddr8', '{08:00:2b:01:02:03:04:05,ff:ff:ff:ff:ff:ff:ff:ff,08:00:2b:01:02:03:04:06,00:00:00:00:00:00:00:00,11:11:11:11:11:11:11:11}'),
    ('date', '{infinity,-infinity,"4713-01-01 BC",5874897-12-31,1582-10-15,2000-01-01}'),
    ('time', '{24:00:00,00:00:00,12:34:56.123456,01:00:00,02:00:00}'),
    ('timetz', '{24:00:00-15:59,13:14:15.123456+05:30,00:00:00+00,01:00:00+01,02:00:00+02:00:01}'),
    ('timestamp', '{infinity,-infinity,"0044-03-15 12:00:00 BC","1900-01-01 00:00:00.000001",epoch,2000-01-01}'),
    ('timestamptz', '{infinity,-infinity,"294276-12-31 23:59:59.999999+00","1883-11-18 12:03:58-08",epoch,2000-01-01}'),
    ('interval', '{"1 year -2 mons 3 days -04:05:06.789","-178000000 years","1 mon","30 days","720:00:00","0"}'),
    ('"bit"', '{10101,"",0,1,11}'), ('varbit', '{10101,"",0,1,11}'),
    ('numeric', array['NaN', 'Infinity', '-Infinity', '1.0', '1.00', '0', '-0.000', '1e-100', repeat('9', 2000), '12345678901234567890.1234567890',
                      '0.0001', '10000', '1e1000']),
    ('uuid', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a13}'),
    ('txid_snapshot', array['10:20:10,14', '1:1:']), ('pg_snapshot', array['10:20:10,14', '1:1:']),
    ('pg_lsn', '{16/B374D848,0/0,FFFFFFFF/FFFFFFFF,0/1,0/2}'), ('tsvector', array['a:1A fat:2B,4C', '', 'b', 'c', 'ü']),
    ('int4range', '{"[1,10)",empty,"(,)","[5,)","(,7)"}'), ('int8range', '{"[1,10)",empty,"(,)","[5,)","(,7)"}'),
    ('numrange', '{"[1.0,1.00]",empty,"(,)","[5.50,)","(,7]"}'), ('daterange', '{"[2024-01-01,infinity]",empty,"(,)","[2024-01-01,)","(,2024-01-01)"}'),
    ('tsrange', '{"[2024-01-01,infinity]",empty,"(,)","[2024-01-01,)","(,2024-01-01)"}'),
    ('tstzrange', '{"[2024-01-01,infinity]",empty,"(,)","[2024-01-01,)","(,2024-01-01)"}'),
    ('int4multirange', '{"{[1,3),[5,7)}","{}","{(,)}","{[1,2)}","{[2,3)}"}'), ('int8multirange', '{"{[1,3),[5,7)}","{}","{(,)}","{[1,2)}","{[2,3)}"}'),
    ('nummultirange', '{"{[1.0,3),[5,7.00)}","{}","{(,)}","{[1,2)}","{[2,3)}"}'), ('datemultirange', '{"{[2024-01-01,2024-01-03)}","{}","{(,)}"}'),
    ('tsmultirange', '{"{[2024-01-01,2024-01-03)}","{}","{(,)}"}'), ('tstzmultirange', '{"{[2024-01-01,2024-01-03)}","{}","{(,)}"}')
$$;
"#;

/// A table with a key of each type that can be one, and one without a key.
const SCHEMA: &str = r#"
do $$ declare r record; n text; begin
  for r in select * from samples() where not type = any(left_out()) loop
    n := replace(r.type, '"', '');
    execute format('create table whole_%s (a %s, b %2$s[], v int, big text)', n, r.type);
    execute format('alter table whole_%s replica identity full; alter table whole_%1$s alter big set storage external', n);
    if exists (select from pg_opclass o join pg_am m on m.oid = o.opcmethod and m.amname = 'btree'
                where o.opcdefault and (o.opcintype = r.type::regtype
                   or o.opcintype = case when r.type in ('varchar') then 25 when r.type like '%multirange' then 4537
                                         when r.type like '%range' then 3831 when r.type = 'cidr' then 869 end)) then
      execute format('create table keyed_%s (k %s primary key, a %2$s[], v int, big text)', n, r.type);
      execute format('alter table keyed_%s alter big set storage external', n);
    end if;
  end loop;
end $$;
create table limited(id int primary key, c char(5), vc varchar(5), n numeric(10,2), ts timestamp(3), tz timestamptz(0), t time(1), b bit(5), vb varbit(5), i interval day to second(2));
alter table limited replica identity full;
create table many_columns(a int, b int, c text, d numeric, e bytea, primary key (c, a));
create table nothing_but_nulls(a int, b text); alter table nothing_but_nulls replica identity full;
create table empty(); alter table empty replica identity full;
create table made(id int generated always as identity primary key, n int, twice int generated always as (n * 2) stored, note text);
"#;

const CHANGES: &str = r#"
create procedure changes(round int) language plpgsql as $$
#variable_conflict use_column
declare r record; k text; w text; long text := repeat(md5(round::text), 100);
begin
  for r in select * from samples() where not type = any(left_out()) loop
    k := 'keyed_' || replace(r.type, '"', ''); w := 'whole_' || replace(r.type, '"', '');
    for copies in 1..2 loop
      execute format('insert into %I select s::%s, array[s, null, s]::%2$s[], %L::int, %L from unnest($1) s', w, r.type, round, long) using r.samples;
    end loop;
    execute format('insert into %I values (null, null, %L, null), (null, %L, null, null)', w, round, '{}');
    commit;
    execute format('update %I set v = coalesce(v, 0) + 1 where ctid in (select ctid from %1$I order by ctid limit 7)', w);
    execute format('update %I set a = b[1], b = null where ctid = (select max(ctid) from %1$I where a is not null)', w);
    execute format('delete from %I where ctid in (select ctid from %1$I order by ctid limit 3)', w);
    commit;
    continue when to_regclass(k) is null;
    execute format('delete from %I', k);
    execute format('insert into %I select s::%s, array[s, null, s]::%2$s[], 0, %L from unnest($1) s on conflict do nothing', k, r.type, long) using r.samples;
    commit;
    execute format('update %I set v = v + 1', k);
    execute format('update %I set a = null where k = %L', k, r.samples[1]);
    commit;
    -- Keys move, one of them to where another was.
    execute format('delete from %I where k = %L', k, r.samples[1]);
    execute format('update %I set k = %L, v = v + 10 where k = %L', k, r.samples[1], r.samples[2]);
    execute format('insert into %I values (%L, null, %L, null)', k, r.samples[2], round);
    commit;
  end loop;
  insert into limited select round * 100 + i, 'a', 'b ', 1.5, now(), now(), localtime, '10101', '1', '1 day 02:03:04.567' from generate_series(1, 10) i;
  update limited set c = 'ü', n = n + 0.05 where id % 3 = 0; delete from limited where id % 7 = 0;
  insert into many_columns select i, round, 'c' || i, i / 3.0, '\x00' from generate_series(1, 10) i on conflict (c, a) do update set b = excluded.b, d = -excluded.d;
  update many_columns set c = c || 'x' where a in (2, 4, 6, 8, 9); update many_columns set e = null where a < 8; delete from many_columns where a = 10;
  insert into nothing_but_nulls select from generate_series(1, 10); update nothing_but_nulls set a = 1 where ctid = (select min(ctid) from nothing_but_nulls);
  insert into nothing_but_nulls values (1, null), (null, null), (null, 'b');
  insert into empty select from generate_series(1, 5);
  insert into made(n, note) select i, 'x' from generate_series(1, 10) i; update made set n = n + 1 where id % 2 = 0; delete from made where id % 5 = 0;
  commit;
end $$;
"#;

/// Both sides with the tables, except for types that don't go between these versions.
fn all_types(source: u32, target: u32) -> Option<Road> {
    let (source, target) = (Version::find(source)?, Version::find(target)?);
    let left_out = if source.major >= 17 && target.major < 17 { "{interval}" } else { "{}" };
    let left_out = format!(
        "create function left_out() returns text[] language sql as $$ select '{left_out}'::text[] $$;"
    );
    let limited = if left_out.contains("interval") { "alter table limited drop column i;" } else { "" };
    let cluster = |version: &Version| {
        let cluster = Cluster::prepare_source().version(version).start();
        for script in [SAMPLES, &left_out, SCHEMA, limited] {
            cluster.run_script(script);
        }
        cluster
    };
    let (source, target) = (cluster(&source), cluster(&target));
    let changes =
        if limited.is_empty() { CHANGES.to_owned() } else { CHANGES.replace(", '1 day 02:03:04.567'", "") };
    source.run_script(&changes);
    let program = Pgsluice::between(&source, &target).env("PGSLUICE_FORMAT", "binary");
    program.run(&["setup"]).done();
    Some(Road { source, target, program })
}

/// The changes went in binary form.
#[track_caller]
fn received_binary(outcome: &Outcome) {
    assert!(outcome.stderr.contains("format=\"binary\"") && !outcome.stderr.contains("as text"), "{outcome}");
}

fn check_all_types(source: u32, target: u32) {
    let Some(road) = all_types(source, target) else {
        eprintln!("PostgreSQL {source} and {target} are not both at hand");
        return;
    };
    for (round, more) in [(1, &[][..]), (2, &["--apply", "exact"])] {
        road.source.run_script(&format!("call changes({round})"));
        let end = road.source.current_lsn();
        received_binary(&road.program.run(&["receive", "--endpos", &end]).done());
        let said = road.program.run(&[&["apply", "--endpos", &end], more].concat()).done().stderr;
        assert!(!said.contains("refused"), "{said}");
        assert_tables_equal(&road.source, &road.target);
    }
    let running = road.follow();
    road.source.run_script("call changes(3)");
    received_binary(&road.finish(running));
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn all_types_15_to_15() {
    check_all_types(15, 15);
}

#[test]
fn all_types_15_to_18() {
    check_all_types(15, 18);
}

#[test]
fn all_types_18_to_18() {
    check_all_types(18, 18);
}

#[test]
fn all_types_18_to_15() {
    check_all_types(18, 15);
}

/// The tables of these tests have every type that may travel so, and its array.
#[test]
fn no_type_is_forgotten() {
    let cluster = Cluster::target();
    cluster.run_script(SAMPLES);
    let tested = "select s.type::regtype::oid from samples() s union
                  select typarray from pg_type where oid in (select s.type::regtype from samples() s)";
    let mut tested: Vec<u32> =
        cluster.query(tested).iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    tested.sort_unstable();
    assert_eq!(tested, (0..20_000).filter(|oid| is_portable(*oid)).collect::<Vec<_>>());
}

/// Intervals that are infinite on the source would be finite on a target that knows no such.
#[test]
fn infinite_intervals_don_t_go_to_servers_that_do_not_know_them() {
    let (Some(source), Some(target)) = (Version::find(18), Version::find(15)) else { return };
    let (source, target) =
        (Cluster::prepare_source().version(&source).start(), Cluster::prepare().version(&target).start());
    for cluster in [&source, &target] {
        cluster.run_script("create table t(id int primary key, i interval)");
    }
    let program = Pgsluice::between(&source, &target);
    let outcome = program.run(&["setup", "--format", "binary"]).ends_with(1);
    assert!(outcome.stderr.contains("column \"i\" of public.t is interval"), "{outcome}");
    // Nobody looked at the target when the log was made.
    program.run(&["setup"]).done();
    source.run_script("insert into t values (1, null); insert into t values (2, 'infinity')");
    program.run(&["receive", "--format", "binary", "--endpos", "current"]).done();
    let outcome = program.run(&["apply"]).ends_with(1);
    assert!(outcome.stderr.contains("column \"i\" of table public.t came in binary form"), "{outcome}");
    assert_eq!(target.value("select string_agg(t::text, ' ') from t"), "(1,)");
}

#[test]
fn types_that_mean_something_to_the_source_only_are_refused_by_setup() {
    let schema = "create type mood as enum ('sad'); create domain positive as int; create type pair as (a int, b int);
        create table bad(id int primary key, m mood, ms mood[], d positive, p pair, r regclass, rs regclass[], x xml, a aclitem);";
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(&format!("{schema} create table other(id int primary key, n int, same int)"));
    target.run_script(&format!("{schema} create table other(id int primary key, n bigint, same positive)"));
    let program = Pgsluice::between(&source, &target);
    for command in [&["setup"][..], &["follow", "--endpos", "current"], &["receive", "--endpos", "current"]] {
        let outcome = program.run(&[command, &["--format", "binary"]].concat()).ends_with(1);
        for column in ["m", "ms", "d", "p", "r", "rs", "x", "a"] {
            assert!(
                outcome.stderr.contains(&format!("column \"{column}\" of public.bad")),
                "{column}: {outcome}"
            );
        }
        let sees_target = command[0] != "receive";
        assert_eq!(
            outcome.stderr.contains("integer on the source and bigint on the target"),
            sees_target,
            "{outcome}"
        );
        assert!(
            outcome.stderr.contains("--format text") && !outcome.stderr.contains("\"same\""),
            "{outcome}"
        );
    }
    let outcome = program.run(&["setup", "--format", "binary", "--plugin", "test_decoding"]).ends_with(2);
    assert!(outcome.stderr.contains("--format text"), "{outcome}");
    program.run(&["setup"]).done();
}

/// The log holds both after a restart; a row's key is not the same bytes in them, and is the same row nevertheless.
#[test]
fn a_log_with_values_of_both_formats() {
    let road = Road::new(
        "create table keyed(id int primary key, n numeric, big text); alter table keyed alter big set storage external;
         create table whole(id int primary key, n numeric, big text); alter table whole replica identity full; alter table whole alter big set storage external;
         create table keyless(a int, n numeric); alter table keyless replica identity full;
         create table pair(a text, b int, n int, primary key (b, a))",
    );
    let changes = |round: u32| {
        format!(
            "insert into keyed select i, {round}, repeat(md5(i::text), 100) from generate_series({round} * 10, {round} * 10 + 9) i;
             update keyed set n = n + 1.0; update keyed set id = -id where id % 10 = 1; update keyed set id = -id where id < 0 and id % 3 = 0;
             update keyed set big = big || 'x' where id % 5 = 0; delete from keyed where id % 7 = {round} % 7;
             insert into keyed values (7, {round}, 'again') on conflict (id) do update set n = excluded.n;
             insert into whole select i, {round}, repeat(md5(i::text), 100) from generate_series({round} * 10, {round} * 10 + 9) i;
             update whole set n = n + 1.0; update whole set id = -id where id % 10 = 1; delete from whole where id % 7 = {round} % 7;
             insert into keyless select i % 3, 1.0 from generate_series(1, 6) i; insert into keyless values (null, 1.00);
             update keyless set n = 1.00 where ctid = (select min(ctid) from keyless);
             delete from keyless where ctid = (select max(ctid) from keyless where a = 2);
             insert into pair values ('a', {round}, 0), ('b', {round}, 0); update pair set n = n + 1; update pair set a = a || 'x' where b = {round} - 1;"
        )
    };
    for more in [&[][..], &["--apply", "exact"]] {
        for (round, format) in ["text", "binary", "text", "binary", "binary", "text"].into_iter().enumerate()
        {
            road.source.run_script(&changes(round as u32 + 1 + more.len() as u32 * 3));
            road.program.run(&["receive", "--format", format, "--endpos", "current"]).done();
        }
        let end = road.source.current_lsn();
        road.program.run(&["receive", "--endpos", &end]).done();
        let said = road.program.run(&[&["apply", "--endpos", &end], more].concat()).done().stderr;
        assert!(!said.contains("refused"), "{said}");
        assert_tables_equal(&road.source, &road.target);
    }
    road.program.run(&["archive", "verify"]).done();
}

/// A receiver that meets a type which can't go so takes the transaction, and all that follow, as text.
#[test]
fn a_table_that_gets_such_a_column_later() {
    for streaming in ["on", "off"] {
        let road = Road::new(
            "create type mood as enum ('sad', 'glad'); create table t(id int primary key, note text); create table u(id int primary key)",
        );
        road.source.set("logical_decoding_work_mem", "64");
        road.target.run_script("alter table t add m mood");
        let mut running = road.program.start(&["follow", "--format", "binary", "--streaming", streaming]);
        road.source.run_script("insert into t select i, 'n' from generate_series(1, 10) i");
        wait_until(seconds(60), "the first rows arrive", || {
            assert!(running.is_running(), "{}", running.log());
            road.target.value("select count(*) from t") == "10"
        });
        assert!(running.log().contains("format=\"binary\""), "{}", running.log());
        road.source.run_script(
            "begin; insert into u select generate_series(1, 3000); insert into t select i, 'before' from generate_series(11, 3000) i;
             alter table t add m mood; update t set m = 'glad' where id % 2 = 0; insert into t values (-1, 'new', 'sad'); commit;
             update t set note = 'after' where id < 20; delete from t where id = 5",
        );
        let outcome = road.finish(running);
        assert!(
            outcome.stderr.contains("column=\"public.t.m\"") && outcome.stderr.contains("as text"),
            "{outcome}"
        );
        road.program.run(&["archive", "verify"]).done();
    }
}

/// A value in binary form says nothing of its type: it goes to a column of the same type only.
#[test]
fn another_type_on_the_target_is_refused_at_the_change() {
    let road = Road::with(
        "create table t(id int primary key, n int, m int); create table ok(id int primary key)",
        "create table t(id int primary key, n bigint, m int); create table ok(id int primary key)",
    );
    road.source.run_script(
        "insert into ok values (1); insert into t values (1, null, 5); insert into t select i, i, 1 from generate_series(2, 9) i; insert into ok values (2)",
    );
    let end = road.source.current_lsn();
    road.program.run(&["receive", "--format", "binary", "--endpos", &end]).done();
    for more in [&[][..], &["--apply", "exact"]] {
        let outcome = road.program.run(&[&["apply", "--endpos", &end], more].concat()).ends_with(1);
        for words in [
            "INSERT of public.t (id = '2') in transaction",
            "column \"n\" of table public.t came in binary form; it is integer on the source and bigint on the target",
            "ALTER TABLE \"public\".\"t\" ALTER COLUMN \"n\" TYPE integer",
        ] {
            assert!(outcome.stderr.contains(words), "{words}: {outcome}");
        }
        assert_eq!(
            road.target.value("select (select string_agg(t::text, ' ') from t) || (select count(*) from ok)"),
            "(1,,5)1"
        );
    }
    road.target.run_script("alter table t alter n type int");
    road.program.run(&["apply", "--endpos", &end]).done();
    assert_tables_equal(&road.source, &road.target);
}

/// Text in binary form is in the source's encoding too.
#[test]
fn encodings_are_converted() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.query("create database latin template template0 encoding 'LATIN1' locale 'C'");
    let schema = "create table t(id text primary key, a text[], j jsonb, v tsvector); create table w(c char(3), j json, n numeric); alter table w replica identity full;";
    source.session_of("latin").query(schema);
    target.run_script(schema);
    let program =
        Pgsluice::with(&source.conninfo_of("latin"), &target.conninfo()).env("PGSLUICE_FORMAT", "binary");
    program.run(&["setup"]).done();
    source.session_of("latin").query(
        "insert into t select U&'\\00fc' || i, array[U&'\\00e4', null], '{\"\\u00fc\": \"\\u00e4\"}', to_tsvector(U&'\\00fc') from generate_series(1, 6) i;
         insert into w values (U&'\\00fc', to_json(U&'\\00e4'::text), 1.0), (U&'\\00e4', null, 2)",
    );
    program.follow_to_current();
    source.session_of("latin").query(
        "update t set a = array[id]; update t set id = id || U&'\\00df' where id like '%3'; update w set n = 1.00 where n = 1; delete from w where n = 2",
    );
    received_binary(&program.follow_to_current());
    let sum = "select (select string_agg(t::text, ' ' order by id collate \"C\") from t) || (select string_agg(w::text, ' ') from w)";
    assert_eq!(source.session_of("latin").value(sum), target.value(sum));
}

/// Rows of a COPY have no types with them: a column that is of another one of the same length by now must not take them.
#[test]
fn a_type_that_changes_on_the_target_meanwhile() {
    let road = Road::with_settings(
        "create table t(id bigint primary key, n bigint)",
        "create domain number as bigint; create table t(id number primary key, n bigint)",
        &[("PGSLUICE_FORMAT", "binary")],
    );
    let insert = |from: u32| {
        let to = from + 9;
        road.source.run_script(&format!("insert into t select i, i from generate_series({from}, {to}) i"));
    };
    let running = road.follow();
    insert(0);
    road.wait_for("select count(*), sum(n) from t");
    road.target.run_script("alter table t alter n type double precision");
    insert(100);
    let outcome = running.wait(seconds(60)).ends_with(1);
    assert!(outcome.stderr.contains("bigint on the source and double precision on the target"), "{outcome}");
    assert_eq!(road.target.value("select count(*) from t"), "10");
    road.target.run_script("alter table t alter id type bigint, alter n type bigint");
    let running = road.follow();
    road.wait_for("select count(*), sum(n) from t");
    // The same type by another name is none that needs a stop: what was known is looked up anew.
    road.target.run_script("alter table t alter id type number");
    insert(200);
    road.finish(running);
}

/// An array that once held a null and a NaN that was computed have other bytes than their equals on the target.
#[test]
fn whole_rows_are_found_whose_bytes_differ() {
    let schema = "create table w(a int[], f float8, v int); alter table w replica identity full;";
    let road = Road::with_settings(
        &format!("{schema} insert into w values ('{{7}}', 'Infinity'::float8 - 'Infinity', 1)"),
        &format!("{schema} insert into w values ('{{7}}', 'NaN', 1)"),
        &[("PGSLUICE_FORMAT", "binary")],
    );
    for change in [
        "insert into w values ('{1,NULL}', 0, 2), (('{1,2,NULL}'::int[])[1:2], 0, 3)",
        "update w set a[2] = 5 where v = 2",
        "update w set v = v + 10",
        "delete from w where v = 12",
        "delete from w",
    ] {
        road.change(change);
        road.arrives();
    }
}
