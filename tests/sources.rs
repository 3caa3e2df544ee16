//! Several sources into one target: whose row it is where two have one, and two databases that follow each other.

use crate::support::{Cluster, Pgsluice, Running, pair, seconds};

/// A table, what happens to it, and what was seen of it in `audit.seen`: rows as they were written, and keys that went.
const SOURCE: &str = "
create table t(id int primary key, v text, n int);
create schema audit;
create table audit.seen(at bigserial primary key, id int, is_there bool, v text, n int, xid xid8 default pg_current_xact_id());
create function look() returns trigger language plpgsql as $$ begin
    if tg_op = 'DELETE' or tg_op = 'UPDATE' and old.id <> new.id then
        insert into audit.seen(id, is_there) values (old.id, false); end if;
    if tg_op <> 'DELETE' then insert into audit.seen(id, is_there, v, n) values (new.id, true, new.v, new.n); end if;
    return null;
end $$;
create trigger look after insert or update or delete on t for each row execute function look();
create procedure load(name text, rounds int) language plpgsql as $$
declare k int; m int; begin
    for i in 1..rounds loop
        for j in 1..(1 + random() * 3)::int loop
            k := (random() * 60)::int;
            case (random() * 4)::int
            when 0 then delete from t where id = k;
            when 1 then m := (random() * 60)::int; if not exists (select from t where id = m) then update t set id = m where id = k; end if;
            when 2 then update t set v = name || i, n = i where id = k;
            else insert into t values (k, name || i, i) on conflict (id) do update set n = excluded.n;
            end case;
        end loop;
        commit;
        perform pg_sleep(0.001);
    end loop;
end $$;";

/// The last that was seen of each row, when, and whether it is there.
const LAST: &str = "select distinct on (id) id, is_there, v, n, pg_xact_commit_timestamp(xid::xid) time from audit.seen order by id, at desc";

const TARGET: &str = "
create table t(id int primary key, v text, n int, time timestamptz, source text, gone timestamptz);
create schema audit; create table audit.seen(at bigint primary key, id int, is_there bool, v text, n int, xid xid8);";

fn rules(conflict: &str, more: &str) -> String {
    format!(
        "[table.'public.t']\n{conflict}\n[table.'public.t'.column]\ntime = {{ metadata = 'commit-time' }}\nsource = {{ metadata = 'source' }}\n{more}\n\
         [table.'audit.seen']\nwhere = 'false'\nonly-inserts = true\n"
    )
}

fn source() -> Cluster {
    let source = Cluster::prepare_source().set("track_commit_timestamp", "on").start();
    source.run_script(SOURCE);
    source
}

fn pipeline(name: &str, source: &Cluster, target: &Cluster, rules: &str) -> Pgsluice {
    let program = Pgsluice::between(source, target).limit(seconds(120)).env("PGSLUICE_NAME", name);
    let path = program.folder().join("shared.rules");
    std::fs::write(&path, rules).unwrap();
    program.env("PGSLUICE_RULES", &path.display().to_string())
}

fn loading(source: &Cluster, name: &str, rounds: u32) -> Running {
    let mut command = source.client("psql");
    command.args(["-c", &format!("call load('{name}', {rounds})")]);
    Running::spawn(command)
}

/// Both at once, up to where their sources are.
fn follow(pipelines: [&Pgsluice; 2]) {
    for run in pipelines.map(|program| program.start(&["follow", "--endpos", "current"])) {
        run.wait(seconds(120)).done();
    }
}

#[test]
fn of_two_sources_the_last_commit_wins_whatever_comes_first() {
    let (one, two, target) = (source(), source(), Cluster::target());
    target.run_script(TARGET);
    let rules = rules("conflict = 'last'\nmode = 'soft-delete'", "gone.metadata = 'deleted-at'");
    let first = pipeline("one", &one, &target, &rules);
    let second = pipeline("two", &two, &target, &rules);
    first.run(&["setup"]).done();
    second.run(&["setup"]).done();
    for _ in 0..3 {
        let loads = [loading(&one, "one", 250), loading(&two, "two", 250)];
        for load in loads {
            load.wait(seconds(60)).done();
        }
        follow([&first, &second]);
        target.run_script("drop table if exists seen_one, seen_two");
        for (source, name) in [(&one, "one"), (&two, "two")] {
            let rows = source.value(&format!("select json_agg(l) from ({LAST}) l"));
            target.run_script(&format!(
                "create table seen_{name} as select * from json_to_recordset('{rows}') as r(id int, is_there bool, v text, n int, time timestamptz)"
            ));
        }
        let expected = "select distinct on (id) id, is_there, case when is_there then v end v, case when is_there then n end n, time, source
                          from (select *, 'one' source from seen_one union all select *, 'two' from seen_two) b order by id, time desc";
        let found = "select id, gone is null, case when gone is null then v end, case when gone is null then n end, time, source from t";
        let wrong = format!(
            "select count(*) from (({expected}) except ({found}) union all ({found}) except ({expected})) d"
        );
        assert_eq!(target.value(&wrong), "0");
        assert!(target.value("select count(distinct source) from t") == "2");
    }
}

#[test]
fn the_first_one_keeps_its_row_and_the_order_of_sources_decides() {
    for (conflict, expected) in [
        ("conflict = 'first'", "1 one a\n2 two x\n3 one c\n5 one e"),
        ("conflict = 'order'\norder = ['two', 'one']", "1 two b2\n2 two x\n3 one c\n5 one e"),
        ("conflict = 'order'\norder = ['one', 'two']", "1 one a\n2 one y2\n3 one c\n5 one e"),
    ] {
        let (one, two, target) = (source(), source(), Cluster::target());
        target.run_script(TARGET);
        let rules = rules(conflict, "");
        let (first, second) =
            (pipeline("one", &one, &target, &rules), pipeline("two", &two, &target, &rules));
        first.run(&["setup"]).done();
        second.run(&["setup"]).done();
        one.run_script("insert into t values (1, 'a'), (3, 'c'), (5, 'e')");
        first.follow_to_current();
        two.run_script("insert into t values (1, 'b'), (2, 'x'); update t set v = 'b2' where id = 1; insert into t values (5, 'z'); delete from t where id = 5; insert into t values (4, 'w'); delete from t where id = 4");
        second.follow_to_current();
        one.run_script("insert into t values (2, 'y'); update t set v = 'y2' where id = 2");
        first.follow_to_current();
        let found =
            target.value("select string_agg(concat_ws(' ', id, source, v), e'\\n' order by id) from t");
        // What the second one deletes was the first one's before only where that gives way.
        let expected =
            if conflict.contains("['two'") { expected.replace("\n5 one e", "") } else { expected.into() };
        assert_eq!(found, expected, "{conflict}");
    }
    let unknown = pipeline(
        "three",
        &source(),
        &Cluster::target(),
        &rules("conflict = 'order'\norder = ['one', 'two']", ""),
    );
    let outcome = unknown.run(&["setup"]).ends_with(2);
    assert!(outcome.stderr.contains("source three is not in the order"), "{outcome}");
}

#[test]
fn rows_of_two_sources_are_copied_into_one_table() {
    let (one, two, target) = (source(), source(), Cluster::target());
    target.run_script(TARGET);
    one.run_script("insert into t select i, 'one', i from generate_series(1, 3000) i");
    two.run_script("insert into t select i, 'two', i from generate_series(2001, 5000) i");
    let rules = rules("conflict = 'order'\norder = ['two', 'one']", "");
    let (first, second) = (pipeline("one", &one, &target, &rules), pipeline("two", &two, &target, &rules));
    first.run(&["clone", "--keep", "--no-schema"]).done();
    let load = loading(&two, "two", 50);
    second.run(&["clone", "--keep", "--no-schema"]).done();
    load.wait(seconds(60)).done();
    one.run_script("update t set n = -1 where id > 2900; delete from t where id = 1");
    follow([&first, &second]);
    assert_eq!(target.value("select count(*) from t where source = 'one' and (id > 2000 or n < 0)"), "0");
    assert_eq!(target.value("select count(*) from t where source = 'one' and id > 60"), "1940");
    let rows = "select md5(string_agg(id || ' ' || v || ' ' || n, ',' order by id)) from t";
    let found = target.value(&format!("{rows} where source = 'two'"));
    assert_eq!(found, two.value(rows));
    // TRUNCATE takes what is its own.
    two.run_script("truncate t");
    second.follow_to_current();
    assert_eq!(target.value("select count(*) from t where source = 'two'"), "0");
    assert!(target.value("select count(*) from t") != "0");
}

/// Each side's own rows say when and where they were written; what comes says it too.
const BOTH: &str = "
create table t(id int primary key, v text, at timestamptz not null, site text not null);
alter table t replica identity full;
create function stamp() returns trigger language plpgsql as $$ begin
    new.at := clock_timestamp(); new.site := current_setting('app.site'); return new; end $$;
create trigger stamp before insert or update on t for each row execute function stamp();";

#[test]
fn two_databases_follow_each_other_without_a_loop() {
    let start = |site: &str| {
        let cluster = Cluster::prepare_source().start();
        cluster.run_script(&BOTH.replace("current_setting('app.site')", &format!("'{site}'")));
        cluster
    };
    let (east, west) = (start("east"), start("west"));
    let rules = "[table.'public.t']\nkey = ['id']\nconflict = 'last'\nby = 'at'";
    let there = pipeline("east", &east, &west, rules).env("PGSLUICE_ORIGINS", "none");
    let back = pipeline("west", &west, &east, rules).env("PGSLUICE_ORIGINS", "none");
    there.run(&["setup"]).done();
    back.run(&["setup"]).done();
    let writes = "do $$ begin for i in 1..300 loop
        insert into t(id, v) values ((random() * 40)::int, md5(random()::text)) on conflict (id) do update set v = excluded.v; commit; end loop; end $$";
    let changes = |cluster: &Cluster| {
        cluster.value("select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_user_tables where relname = 't'")
    };
    for _ in 0..2 {
        let mut runs = Vec::new();
        for cluster in [&east, &west] {
            let mut command = cluster.client("psql");
            command.args(["-c", writes]);
            runs.push(Running::spawn(command));
        }
        runs.into_iter().for_each(|run| drop(run.wait(seconds(60)).done()));
        follow([&there, &back]);
        follow([&there, &back]);
    }
    east.run_script("insert into t(id, v) values (101, 'east')");
    west.run_script("insert into t(id, v) values (102, 'west')");
    follow([&there, &back]);
    let rows = "select string_agg(t::text, e'\\n' order by id) from t";
    assert_eq!(east.value(rows), west.value(rows));
    assert_eq!(east.value("select count(distinct site) from t"), "2");
    // What came from there does not go back.
    let before = (changes(&east), changes(&west));
    for _ in 0..3 {
        follow([&there, &back]);
    }
    assert_eq!((changes(&east), changes(&west)), before);
    east.run_script("delete from t where id < 20");
    follow([&there, &back]);
    assert_eq!(west.value("select count(*) from t where id < 20"), "0");
    let (source, target) = pair();
    source.run_script("create table t(id int primary key)");
    target.run_script("create table t(id int primary key)");
    let other = Pgsluice::between(&source, &target).env("PGSLUICE_PLUGIN", "test_decoding");
    let outcome = other.run(&["follow", "--endpos", "current", "--origins", "none"]).ends_with(2);
    assert!(outcome.stderr.contains("does not tell where transactions came from"), "{outcome}");
}
