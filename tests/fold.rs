//! Net changes give the same rows as each change by itself.

use crate::support::{Cluster, Pgsluice, Road, seconds};

/// Few keys, a second unique column, values stored apart, rows without a key, and one whose key is not the primary one.
const SCHEMA: &str = "
create table keyed(id int primary key, u int unique, big text, n int not null default 0);
alter table keyed alter big set storage external;
create table whole(id int primary key, big text, n int);
alter table whole alter big set storage external;
alter table whole replica identity full;
create table keyless(a int, b text);
alter table keyless replica identity full;
create table by_index(id int primary key, k int not null, big text);
alter table by_index alter big set storage external;
create unique index by_index_k on by_index(k);
alter table by_index replica identity using index by_index_k;
create table pair(a text, b int, n int, primary key (b, a));
";

/// One transaction of up to six steps; what a constraint refuses leaves no trace but a rolled back subtransaction. Where they may
/// clash, rows take over unique values that are no key, so that net changes come in each other's way.
const HISTORY: &str = "
create or replace procedure history(transactions int, clashes bool) language plpgsql as $$
declare step int; id1 int; id2 int; long text; what int;
begin
  for transaction in 1..transactions loop
    for step in 1..1 + (random() * 5)::int loop
      id1 := (random() * 6)::int; id2 := (random() * 6)::int; what := (random() * 100)::int;
      continue when not clashes and (what between 29 and 33 or what between 48 and 50 or what between 80 and 82 or what between 86 and 87);
      long := repeat(md5(random()::text), 100);
      begin
        case
        when what < 14 then insert into keyed values (id1, nullif(id2, 0), case when random() < 0.5 then long end, what);
        when what < 24 then update keyed set n = n + 1 where id = id1;
        when what < 29 then update keyed set big = long where id = id1;
        when what < 34 then update keyed set u = id2 where id = id1;
        when what < 39 then update keyed set id = id2 where id = id1;
        when what < 45 then delete from keyed where id = id1;
        when what < 48 then
          -- Two rows change places, by way of a value that is free.
          update keyed set id = -1 where id = id1;
          update keyed set id = id1 where id = id2;
          update keyed set id = id2 where id = -1;
        when what < 51 then
          update keyed set u = u + 100 where id = id1;
          update keyed set u = (select u - 100 from keyed where id = id1) where id = id2 and id1 <> id2;
          update keyed set u = u + 50 where id = id1;
        when what < 56 then insert into whole values (id1, long, what);
        when what < 61 then update whole set n = n + 1 where id = id1;
        when what < 64 then update whole set id = id2 where id = id1;
        when what < 67 then delete from whole where id = id1;
        when what < 71 then insert into keyless select id1, 'b' from generate_series(1, 2);
        when what < 74 then update keyless set b = b || 'x' where ctid = (select min(ctid) from keyless where a = id1);
        when what < 76 then delete from keyless where ctid = (select min(ctid) from keyless where a = id1);
        when what < 80 then insert into by_index values (id1, id2, long);
        when what < 83 then update by_index set id = id2 where id = id1;
        when what < 86 then update by_index set k = id2 where id = id1;
        when what < 88 then update by_index set id = id1 + 10, k = k + 10 where k = id2;
        when what < 90 then delete from by_index where id = id1;
        when what < 94 then insert into pair values (chr(65 + id1), id2, what);
        when what < 97 then update pair set n = n + 1, a = case when random() < 0.3 then lower(a) else a end where b = id2;
        when what < 99 then delete from pair where b = id1;
        when what < 100 then truncate pair, whole;
        else truncate keyed;
        end case;
      exception when unique_violation then null;
      end;
    end loop;
    commit;
  end loop;
end $$;
";

fn checksums(cluster: &Cluster, database: &str) -> Vec<String> {
    let session = cluster.session_of(database);
    let checksum = |table: &str| {
        session.value(&format!(
            "select format('{table} %s %s', count(*), sum(hashtextextended(t::text, 0)::numeric)) from {table} t"
        ))
    };
    ["keyed", "whole", "keyless", "by_index", "pair"].map(checksum).to_vec()
}

/// Applies histories net and one by one. `PGSLUICE_HISTORIES` says how many. Returns how many batches were refused.
fn check_histories(clashes: bool) -> usize {
    let histories =
        std::env::var("PGSLUICE_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(4);
    let (source, target) = (Cluster::source(), Cluster::target());
    source.run_script(SCHEMA);
    source.run_script(HISTORY);
    let program = Pgsluice::between(&source, &target);
    for database in ["net", "exact", "lanes"] {
        target.query(&format!("create database {database}"));
        target.session_of(database).query(SCHEMA);
        program.run(&["setup", "--target", &target.conninfo_of(database), "--origin", database]).done();
    }
    let mut refused = 0;
    for history in 0..histories {
        let seed = f64::from(history) / f64::from(histories);
        source.run_script(&format!("select setseed({seed}); call history(200, {clashes})"));
        let end = source.current_lsn();
        program.run(&["receive", "--endpos", &end]).done();
        let expected = checksums(&source, "postgres");
        let mut apply = |database: &str, more: &[&str]| {
            let conninfo = target.conninfo_of(database);
            let arguments =
                [&["apply", "--target", &conninfo, "--origin", database, "--endpos", &end], more].concat();
            let said = program.run(&arguments).done().stderr;
            refused += said.matches("batch refused").count();
            checksums(&target, database)
        };
        assert_eq!(apply("exact", &["--apply", "exact"]), expected, "one by one, history {history}");
        assert_eq!(apply("net", &[]), expected, "net, history {history}");
        assert_eq!(apply("lanes", &["--lanes", "4"]), expected, "over lanes, history {history}");
    }
    program.run(&["archive", "verify"]).done();
    refused
}

#[test]
fn histories_applied_net_and_one_by_one() {
    assert_eq!(check_histories(false), 0, "batches were refused, so net changes were not tried");
}

#[test]
fn histories_whose_net_changes_clash() {
    assert_ne!(check_histories(true), 0, "no batch was refused, so nothing clashed");
}

/// Whole rows identify, and at the source two rows may have one key for a while: such a batch must not become another one.
#[test]
fn rows_that_pass_through_each_others_keys_are_never_lost_in_silence() {
    let changes = [
        "begin; update t set id = case id when 1 then 2 else 1 end where id < 3; commit",
        "begin; update t set id = id + 1; commit",
        "begin; insert into t values (1, 'new'); delete from t where id = 1 and v <> 'new'; commit",
        "begin; insert into t values (3, 'new'); update t set v = v || 'x' where id = 3 and v <> 'new';
         delete from t where id = 3 and v = 'new'; commit",
    ];
    for changes in changes {
        let road = Road::with(
            "create table t(id int primary key deferrable initially deferred, v text); alter table t replica identity full",
            "create table t(id int primary key, v text)",
        );
        road.source.run_script("insert into t select i, 'row ' || i from generate_series(1, 9) i");
        road.arrives();
        road.source.run_script(changes);
        let outcome = road.program.run(&["follow", "--endpos", "current"]);
        let rows = |cluster: &Cluster| cluster.value("select string_agg(t::text, ',' order by id) from t");
        let are_equal = rows(&road.source) == rows(&road.target);
        assert!(are_equal || outcome.stderr.contains("public.t"), "{changes}: {outcome}");
        assert_eq!(are_equal, outcome.code == Some(0), "{changes}: {outcome}");
    }
}

/// The target's types cut nothing off, in sets of rows as in single ones.
#[test]
fn values_that_do_not_fit_are_refused_in_sets_too() {
    let of = |length: u32| {
        format!(
            "create domain word as varchar({length}); create table t(id int primary key, v word, b word collate \"C\")"
        )
    };
    let road = Road::with(&of(10), &of(5));
    road.source.run_script("insert into t select i, 'v', 'w' from generate_series(1, 20) i");
    road.arrives();
    road.source.run_script("update t set v = 'vv', b = 'ww'");
    road.arrives();
    road.source.run_script("update t set v = 'vvvvvvvv'");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("too long") && outcome.stderr.contains("public.t"), "{outcome}");
    assert_eq!(road.target.value("select string_agg(distinct v, ',') from t"), "vv");
}

/// Without a unique index on the target a key may mean several rows there, and a count of many rows could balance out.
#[test]
fn a_key_that_means_two_rows_on_the_target() {
    let road = Road::with("create table t(id int primary key, n int)", "create table t(id int, n int)");
    road.source.run_script("insert into t select i, 0 from generate_series(1, 20) i");
    road.arrives();
    road.target.run_script("insert into t values (3, 0); delete from t where id = 4");
    road.source.run_script("update t set n = 1");
    let outcome = road.program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(outcome.stderr.contains("UPDATE of public.t (id = '3')"), "{outcome}");
    assert_eq!(road.target.value("select max(n) from t"), "0");
}

/// Rows that change over and over make no batch without end.
#[test]
fn few_rows_with_many_changes_are_committed_on_the_way() {
    let road = Road::new("create table t(id int primary key, n int)");
    road.source.run_script(
        "insert into t select i, 0 from generate_series(0, 999) i; vacuum analyze t;
         do $$ begin for i in 1..250000 loop
           update t set n = i where id = i % 1000; if i % 100 = 0 then commit; end if;
         end loop; end $$",
    );
    let end = road.source.current_lsn();
    road.program.run(&["receive", "--endpos", &end]).done();
    let before = road.target.value("select pg_current_xact_id()");
    road.program.run(&["apply", "--endpos", &end]).done();
    assert_eq!(road.target.value("select count(*) || ' ' || sum(n) from t"), "1000 249500500");
    let batches: i64 = road
        .target
        .value(&format!("select pg_current_xact_id()::text::int8 - {before}::int8"))
        .parse()
        .unwrap();
    assert!((2..100).contains(&batches), "{batches} transactions on the target");
}

/// A trigger that is enabled for replicated changes sees each of them, and so does one for which the user asks.
#[test]
fn audited_tables_get_every_change() {
    let schema =
        "create table audited(id int primary key, n int); create table asked(id int primary key, n int);
                  create table net(id int primary key, n int);";
    let road = Road::with(schema, schema);
    road.target.run_script(
        "create table seen(place bigserial, name text, n int);
         create function see() returns trigger language plpgsql as $$
         begin insert into public.seen(name, n) values (tg_table_name, new.n); return new; end $$;
         create trigger see after insert or update on audited for each row execute function see();
         alter table audited enable always trigger see;",
    );
    let changes = |table: &str| {
        format!("insert into {table} values (1, 0); update {table} set n = 1; update {table} set n = 2;")
    };
    road.source
        .run_script(&["begin;".to_owned(), changes("audited"), changes("net"), "commit".into()].concat());
    road.program.follow_to_current();
    let seen = |table: &str| {
        road.target.value(&format!(
            "select string_agg(n::text, ',' order by place) from seen where name = '{table}'"
        ))
    };
    assert_eq!(seen("audited"), "0,1,2");
    // Versions of the row: each change leaves one.
    road.target.run_script("create extension if not exists pageinspect");
    let versions = |table: &str| {
        road.target.value(&format!("select count(*) from heap_page_items(get_raw_page('{table}', 0))"))
    };
    assert_eq!(versions("net"), "1");
    road.source.run_script(&["begin;".to_owned(), changes("asked"), "commit".into()].concat());
    let end = road.source.current_lsn();
    road.program.run(&["follow", "--endpos", &end, "--exact", "public.asked"]).done();
    assert_eq!(versions("asked"), "3");
}

/// Rows may go to the keys and unique values of others in one batch. Where net changes come in the way of each other, the batch
/// is applied again change by change.
#[test]
fn keys_and_unique_values_go_round() {
    let schema = "create table t(id int primary key, u int unique, big text)";
    let road = Road::new(schema);
    road.source
        .run_script("insert into t select i, i, repeat(md5(i::text), 100) from generate_series(1, 10) i");
    road.arrives();
    road.source.run_script(
        "begin; update t set id = -id; update t set id = case id when -10 then 1 else 1 - id end; commit;
         begin; update t set u = -u; update t set u = case u when -10 then 1 else 1 - u end; commit;
         begin; delete from t where id = 3; insert into t values (3, 4711, 'x'); update t set u = 3 where id = 3; commit;
         begin; update t set id = id + 100 where id > 5; insert into t select i, 1000 + i, 'y' from generate_series(6, 8) i; commit",
    );
    road.arrives();
    let mut running = road.follow();
    road.source.run_script("begin; update t set u = -u; update t set u = case u when -1 then 4 else -u - 1 end where u < 0 and u > -5; commit");
    crate::support::wait_until(seconds(30), "the rows arrive", || {
        assert!(running.is_running(), "{}", running.log());
        road.target.value("select md5(string_agg(t::text, ';' order by id)) from t")
            == road.source.value("select md5(string_agg(t::text, ';' order by id)) from t")
    });
    running.terminate(seconds(20)).done();
}
