//! DDL captured on the source and run on the target, at its place between the rows.

use crate::support::{Cluster, Pgsluice, Road, assert_tables_equal};

const SCHEMA: &str = "create table t(id int primary key, note text)";

fn road() -> Road {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(SCHEMA);
    target.run_script(SCHEMA);
    let program = Pgsluice::between(&source, &target).env("PGSLUICE_DDL", "apply");
    program.run(&["setup", "--capture-ddl"]).done();
    Road { source, target, program }
}

/// Everything that can be seen of the tables, types, views and functions of a database.
const SHAPE: &str = "
    select string_agg(line, E'\\n' order by line) from (
        select c.relkind::text || ' ' || c.oid::regclass || coalesce(' ' || string_agg(a.attname || ' ' ||
               format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || a.attgenerated::text || a.attidentity::text || ' ' ||
               coalesce(pg_get_expr(d.adbin, d.adrelid), ''), ', ' order by a.attname), '') as line
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
          left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
         where n.nspname not in ('pgsluice', 'information_schema') and n.nspname !~ '^pg_' group by c.oid, c.relkind
        union all select 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(c.oid)
          from pg_constraint c join pg_namespace n on n.oid = connamespace where n.nspname !~ '^pg_|pgsluice|information_schema'
        union all select 'enum ' || enumtypid::regtype || ' ' || enumlabel || ' ' || enumsortorder from pg_enum
        union all select 'function ' || oid::regprocedure from pg_proc where pronamespace in (select oid from pg_namespace where nspname in ('public', 'app'))
        union all select 'comment ' || objoid::regclass || ' ' || description from pg_description where classoid = 'pg_class'::regclass and objoid > 16384
    ) lines";

#[track_caller]
fn same_shape(road: &Road) {
    let [source, target] = [&road.source, &road.target].map(|cluster| cluster.value(SHAPE));
    assert_eq!(source, target);
}

/// Runs the changes on the source, and both sides are equal in rows and shape.
#[track_caller]
fn check(changes: &[&str]) {
    let road = road();
    for change in changes {
        road.change(change);
    }
    road.arrives();
    same_shape(&road);
}

/// Rows that were there when the DDL came; the refusal tells of it, and by hand it goes on.
#[track_caller]
fn refuses(changes: &str, words: &str, by_hand: &str) {
    let road = road();
    road.change("insert into t values (1, 'a'), (2, 'b')");
    road.arrives();
    road.change(changes);
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains(words), "{outcome}");
    let (_, rest) = outcome.stderr.split_once("--skip-ddl ").unwrap_or_else(|| panic!("{outcome}"));
    let lsn = rest.split_whitespace().next().unwrap();
    road.target.run_script(by_hand);
    road.program.run(&["follow", "--endpos", "current", "--skip-ddl", lsn]).done();
    same_shape(&road);
}

#[test]
fn ddl_between_rows_of_one_transaction_is_one_transaction_on_the_target() {
    let road = road();
    let change = "begin; insert into t values (1, 'a'); alter table t add column n int default 7;
         insert into t values (2, 'b', 8); create table fresh(id int primary key, t int references t);
         insert into fresh select i, 1 from generate_series(1, 300) i; update fresh set t = 2 where id < 150;
         alter table t drop column note; update t set n = 9 where id = 1; drop table if exists nothing;
         insert into t select i, i from generate_series(10, 50) i; commit";
    road.change(change);
    road.change("insert into fresh values (1000, 2)");
    road.arrives();
    same_shape(&road);
    assert_eq!(road.target.value("select transactions from pgsluice.progress"), "2");
    // A change after the DDL that the target refuses takes all of it back, and is named.
    road.target.run_script("insert into fresh values (2000, 2)");
    road.change("begin; create table late(); alter table fresh add column x int; insert into fresh values (2000, 2, 3); commit");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("INSERT of public.fresh (id = '2000')"), "{outcome}");
    assert_eq!(road.target.value("select count(*) from pg_class where relname = 'late'"), "0");
    road.target.run_script("delete from fresh where id = 2000");
    road.arrives();
    same_shape(&road);
}

#[test]
fn all_kinds_of_objects() {
    check(&[
        "create schema app; create schema \"Odd \"\"name\";",
        "set search_path = app, public; create table k(id serial primary key, v numeric(9,2) check (v > 0));
         insert into k(v) values (1.5), (2); create index on k(v); comment on table k is 'it''s; one';",
        "create type mood as enum ('sad', 'ok'); create domain app.positive as int check (value > 0)",
        "create table \"Odd \"\"name\".\"T;\"(\"a;b\" mood primary key, p app.positive)",
        "insert into \"Odd \"\"name\".\"T;\" values ('sad', 1), ('ok', null)",
        "alter type mood add value 'happy' after 'ok'",
        "insert into \"Odd \"\"name\".\"T;\" values ('happy', 3)",
        "alter type mood rename value 'ok' to 'fine'",
        "create view v as select id, note from t; create materialized view app.m as select count(*) as n from t",
        "create function twice(i int) returns int language sql as $$ select i * 2; $$",
        "create function once(i int) returns int begin atomic; select i; end",
        "alter table t add constraint note_given check (note <> ''), alter column note set default 'x;'",
        "create table part(id int, at date, primary key (id, at)) partition by range (at)",
        "create table part_1 partition of part for values from ('2020-01-01') to ('2021-01-01');
         create table part_2(id int not null, at date not null, primary key (id, at));",
        "alter table part attach partition part_2 for values from ('2021-01-01') to ('2022-01-01')",
        "insert into part values (1, '2020-05-05'), (2, '2021-05-05')",
        "alter table part detach partition part_2",
        "alter table t rename column note to remark; alter table t rename to renamed; insert into renamed values (77, 'r')",
        "create sequence s increment 5; alter sequence s owned by renamed.id",
        "refresh materialized view app.m",
        "drop view v; alter table renamed alter remark type varchar(40); drop materialized view app.m; drop function once(int)",
        "create unlogged table u(id int primary key); create temp table gone(); drop table gone",
        "grant select on renamed to public; create role bob; alter table renamed owner to bob; drop table if exists nothing",
    ]);
}

#[test]
fn what_cannot_run_inside_a_transaction_runs_inside_of_it_without() {
    let road = road();
    road.change("insert into t values (1, 'a')");
    road.source.query("create index concurrently t_note on t(note)");
    road.source.query("create index concurrently t_other on t(note, id)");
    road.source.query("drop index concurrently t_other");
    road.arrives();
    same_shape(&road);
}

/// What was altered shows only inside the transaction, where a table is looked up between changes that are under way.
#[test]
fn tables_that_are_first_met_after_ddl() {
    for rows in [1, 10] {
        check(&[
            "create table b(id int primary key, n int); insert into b select i, 0 from generate_series(1, 3) i",
            &format!(
                "begin; alter table t add m int; insert into t select i, 'x', 1 from generate_series(100, 99 + {rows}) i;
                 truncate b; insert into b values (7, 7); commit"
            ),
        ]);
    }
}

#[test]
fn rows_of_created_tables_come_once() {
    check(&[
        "insert into t select i, 'n' from generate_series(1, 20) i",
        "create table copied as select id, note, random() as r from t where id > 3 -- with a comment",
        "alter table copied replica identity full; update copied set note = 'x' where id < 10; delete from copied where id = 20;",
        "create table empty as select * from t with no data",
    ]);
}

#[test]
fn defaults_that_all_rows_get_alike() {
    check(&[
        "insert into t select i, 'n' from generate_series(1, 20) i",
        "alter table t add column a int default 3 + 4, add column b text not null default 'b', add column c date default '2020-01-31'",
        "set datestyle = 'sql, dmy'; alter table t add column d date default '03/02/2020'; insert into t(id) values (100)",
        "alter table t add column g int generated always as (id * 2) stored",
        "alter table t alter column a type bigint using a * 2",
    ]);
}

#[test]
fn values_that_would_differ_are_refused() {
    refuses(
        "alter table t add column at timestamptz default now()",
        "here they would get",
        "alter table t add column at timestamptz default now()",
    );
    refuses("alter table t add column n serial", "computed one by one", "alter table t add column n serial");
    refuses(
        "alter table t alter column note type text using md5(random()::text || note)",
        "the new values come from random",
        "select 1",
    );
    refuses(
        "create unlogged table u(id int primary key); insert into u values (1); alter table u set logged",
        "was unlogged",
        "alter table u set logged; insert into u values (1)",
    );
}

#[test]
fn ddl_whose_text_is_not_known_is_refused_and_can_be_run_by_hand() {
    refuses(
        "insert into t values (3, 'c'); do $$ begin create table inner_one(id int primary key); end $$; insert into inner_one values (1)",
        "was run by a function",
        "create table inner_one(id int primary key)",
    );
    refuses(
        "begin; create table one(id int primary key); savepoint s; create table two(); rollback to s; select id into three from t; commit",
        "SELECT INTO",
        "create table one(id int primary key); create table three(id int)",
    );
}

#[test]
fn the_sources_own_ddl_never_fails() {
    let road = road();
    road.source.run_script("drop function pgsluice.write_ddl");
    road.change("create table unseen(id int primary key)");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("trigger failed"), "{outcome}");
    road.source.run_script("create role low login; create schema low authorization low");
    let low = road.source.conninfo().replace("user=postgres", "user=low");
    road.target.run_script("create table unseen(id int primary key)");
    road.program.run(&["setup", "--capture-ddl"]).done();
    let session = crate::support::Session::open(&low).unwrap();
    session.query("create table mine(id int primary key); insert into mine values (1)");
    session.query("create temp table t(x int); alter table t add y int; drop table t");
}

#[test]
fn another_search_path_on_the_target_is_noticed() {
    let road = road();
    road.source.run_script("alter event trigger pgsluice_ddl_command_end disable; create schema app; alter event trigger pgsluice_ddl_command_end enable always");
    road.change("set search_path = app, public; create table lost(id int primary key)");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("app.lost"), "{outcome}");
    assert_eq!(road.target.value("select count(*) from pg_class where relname = 'lost'"), "0");
    road.target.run_script("create schema app");
    road.arrives();
}

#[test]
fn it_can_be_printed_or_ignored() {
    let road = road();
    let quiet =
        |text: &str| road.program.run(&["follow", "--endpos", "current", "--ddl", text]).done().stderr;
    road.change("create view v as select 1 as one; insert into t values (1, 'x')");
    assert!(quiet("print").contains("create view v as select 1 as one"));
    road.change("create view w as select 2 as two; insert into t values (2, 'y')");
    assert!(quiet("ignore").contains("the log holds ddl, which is not applied"));
    assert_tables_equal(&road.source, &road.target);
    assert_eq!(road.target.value("select count(*) from pg_views where viewname in ('v', 'w')"), "0");
}

#[test]
fn a_kill_in_the_middle_repeats_no_ddl() {
    let road = road();
    for round in 0..6 {
        let running = road.follow();
        for step in 0..5 {
            road.change(&format!(
                "begin; insert into t(id) values ({round}{step}0); alter table t add column c_{round}_{step} int default {step};
                 create table made_{round}_{step}(id int primary key); insert into made_{round}_{step} values (1); commit"
            ));
        }
        running.kill();
    }
    road.arrives();
    same_shape(&road);
}

#[test]
fn setup_says_who_may_not_and_cleanup_takes_it_away() {
    let road = road();
    road.source.run_script("create role app login replication; alter table t owner to app; grant create on database postgres to app");
    let low = road.source.conninfo().replace("user=postgres", "user=app");
    let arguments = ["setup", "--capture-ddl", "--source", &low, "--name", "other", "--archive", "other"];
    let outcome = road.program.run(&arguments).ends_with(1);
    assert!(outcome.stderr.contains("may not make event triggers"), "{outcome}");
    road.program.run(&["cleanup"]).done();
    assert_eq!(road.source.value("select count(*) from pg_event_trigger"), "0");
    assert_eq!(road.source.value("select count(*) from pg_namespace where nspname = 'pgsluice'"), "0");
}
