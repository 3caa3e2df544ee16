//! Rules where rows are copied: a clone, and a base of the archive, give what the changes behind them give.

use crate::support::{Cluster, Pgsluice, Running, pair, seconds};

const KEY: &str = "0123456789abcdef0123456789abcdef";

const SOURCE: &str = r"
create table users(id int8 primary key, mail text, note text, country text); alter table users replica identity full;
create table orders(id int primary key, user_id int8, total numeric);
create table s1(id int primary key, v text); create table s2(id int primary key, v text);
create table plain(id int primary key, v text);
insert into users select i, 'user' || i || '@example.org', (array['a', E'tab\there', E'line\nbreak', E'back\\slash \\N', '', null])[1 + i % 6],
       (array['DE', 'US', null])[1 + i % 3] from generate_series(1, 20000) i;
insert into orders select i, i % 20000 + 1, i + 0.10 from generate_series(1, 20000) i;
insert into s1 select i, 's1 ' || i from generate_series(1, 3000) i; insert into s2 select i, 's2 ' || i from generate_series(1, 3000) i;
insert into plain select i, 'v' from generate_series(1, 1000) i;
create procedure load(rounds int) language plpgsql as $$
declare k int; begin
    for i in 1..rounds loop
        k := 1 + (random() * 20200)::int;
        insert into users values (k, 'new' || i, E'new\t\\', 'DE')
            on conflict (id) do update set country = (array['DE', 'US', null])[1 + (random() * 2)::int], note = i::text;
        update orders set user_id = k where id = 1 + (random() * 19999)::int;
        delete from users where id = 1 + (random() * 20000)::int;
        update s1 set v = 'up ' || i where id = 1 + i % 3000; delete from s2 where id = i; insert into s2 values (10000 + i, 'in') on conflict (id) do update set v = excluded.v || 'x';
        update plain set v = i::text where id = 1 + i % 1000;
        commit;
    end loop;
end $$;";

/// What clone can't make itself; it makes `orders` and `plain`.
const TARGET: &str = "
create schema shop; create table shop.people(id int8 primary key, mail text, note text, size int);
create table s(shard text, id int, v text, primary key (shard, id));";

const RULES: &str = r#"
hash.key-env = "SECRET"
[table."public.users"]
schema = "shop"
name = "people"
drop = ["country"]
where = "country == 'DE'"
[table."public.users".column]
id = { hash = true }
mail = { partial = { first = 3 } }
size = { expression = "note == null ? -1 : size(note)" }
[table."public.orders".column]
user_id = { hash = true }
[table."public.s1"]
into = "public.s"
truncate = "delete"
column.shard = { constant = "one" }
[table."public.s2"]
into = "public.s"
truncate = "delete"
column.shard = { constant = "two" }
"#;

fn program(source: &Cluster, target: &Cluster) -> Pgsluice {
    let program = Pgsluice::between(source, target).env("SECRET", KEY).limit(seconds(120));
    let path = program.folder().join("shop.rules");
    std::fs::write(&path, RULES).unwrap();
    program.env("PGSLUICE_RULES", &path.display().to_string())
}

/// The target's rows, and what they should be of the source's.
#[track_caller]
fn is_what_rules_say(source: &Cluster, target: &Cluster) {
    let digest = |cluster: &Cluster, sql: &str| {
        cluster.value(&format!(
            "select count(*) || ' ' || md5(string_agg(r::text, e'\\n' order by r::text collate \"C\")) from ({sql}) r"
        ))
    };
    let hash = |value: &str| {
        format!(
            "(('x' || encode(substr(hmac({value}::text, '{KEY}', 'sha256'), 1, 8), 'hex'))::bit(64)::int8 >> 1) & 9223372036854775807"
        )
    };
    source.run_script("create extension if not exists pgcrypto");
    let people = format!(
        "select {}, left(mail, 3) || repeat('*', length(mail) - 3), note, coalesce(length(note), -1) from users where country = 'DE'",
        hash("id")
    );
    let orders = format!("select id, {}, total from orders", hash("user_id"));
    let shards = "select 'one'::text, id, v from s1 union all select 'two', id, v from s2";
    for (expected, found) in [
        (people.as_str(), "select id, mail, note, size from shop.people"),
        (&orders, "select id, user_id, total from orders"),
        (shards, "select shard, id, v from s"),
        ("select * from plain", "select * from plain"),
    ] {
        assert_eq!(digest(target, found), digest(source, expected), "{found}");
    }
}

fn loading(source: &Cluster, rounds: u32) -> Running {
    let mut command = source.client("psql");
    command.args(["-c", &format!("call load({rounds})")]);
    Running::spawn(command)
}

#[test]
fn a_clone_under_load_a_replay_of_a_base_and_the_changes_behind_them_are_alike() {
    let (source, target) = pair();
    source.run_script(SOURCE);
    target.run_script(TARGET);
    let first = program(&source, &target);
    let load = loading(&source, 2000);
    first.run(&["clone", "--keep", "--part-size", "1", "--jobs", "3"]).done();
    load.wait(seconds(120)).done();
    first.follow_to_current();
    is_what_rules_say(&source, &target);
    // Not without them, and not by others.
    let bare =
        Pgsluice::between(&source, &target).env("PGSLUICE_ARCHIVE", &first.archive().display().to_string());
    let outcome = bare.run(&["follow", "--endpos", "current"]).ends_with(4);
    assert!(outcome.stderr.contains("none are given"), "{outcome}");
    let outcome = first.run(&["backfill", "public.users"]).ends_with(1);
    assert!(outcome.stderr.contains("rules have made them"), "{outcome}");
    // TRUNCATE of one shard is what it was of rows that were copied.
    source.run_script("truncate s1; insert into s1 values (1, 'again')");
    first.follow_to_current();
    is_what_rules_say(&source, &target);

    let second = Cluster::target();
    second.run_script(TARGET);
    let base = Pgsluice::between(&source, &second).limit(seconds(120));
    let load = loading(&source, 500);
    base.run(&["clone", "--into-archive", "--part-size", "1", "--slot", "base", "--publication", "base"])
        .done();
    load.wait(seconds(120)).done();
    base.run(&["receive", "--endpos", "current", "--slot", "base", "--publication", "base"]).done();
    let replayed = program(&source, &second).env("PGSLUICE_ARCHIVE", &base.archive().display().to_string());
    replayed.run(&["replay", "--jobs", "3"]).done();
    is_what_rules_say(&source, &second);
}

#[cfg(feature = "faults")]
#[test]
fn a_clone_that_dies_goes_on_by_the_rules() {
    let (source, target) = pair();
    source.run_script(SOURCE);
    target.run_script(TARGET);
    let program = program(&source, &target);
    let clone = ["clone", "--keep", "--part-size", "1", "--jobs", "2"];
    for point in ["copy.before_commit:2", "copy.after_commit:3", "copy.before_commit:4"] {
        let mut command = program.command(&clone);
        command.env("PGSLUICE_FAILPOINT", point);
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.stderr.contains("failpoint copy."), "{point} was not reached: {outcome}");
        loading(&source, 100).wait(seconds(60)).done();
    }
    program.run(&clone).done();
    program.follow_to_current();
    is_what_rules_say(&source, &target);
}

#[test]
fn a_target_that_does_not_fit_the_rules_is_refused_before_anything_is_copied() {
    let (source, target) = pair();
    source.run_script(SOURCE);
    let program = program(&source, &target);
    let outcome = program.run(&["clone", "--keep"]).ends_with(1);
    assert!(outcome.stderr.contains("by the rules") || outcome.stderr.contains("missing"), "{outcome}");
    target.run_script(TARGET);
    target.run_script("alter table shop.people drop column size");
    let outcome = program.run(&["clone", "--keep"]).ends_with(1);
    assert!(outcome.stderr.contains("\"size\""), "{outcome}");
    target.run_script("alter table shop.people add column size int");
    program.run(&["clone", "--keep"]).done();
    is_what_rules_say(&source, &target);
    let outcome = program.run(&["follow", "--tables", "public.users"]).ends_with(2);
    assert!(outcome.stderr.contains("don't go with --rules"), "{outcome}");
    let outcome = program.run(&["clone", "--into-archive"]).ends_with(2);
    assert!(outcome.stderr.contains("replay takes --rules"), "{outcome}");
}

#[test]
fn rules_that_mean_no_table_or_mix_two_are_refused_before_anything_is_copied() {
    let (source, target) = pair();
    let tables = "create table users(id int primary key, mail text) partition by range (id);
                  create table users_1 partition of users for values from (0) to (10);
                  create schema a; create table a.t(id int primary key); create schema b; create table b.t(id int primary key);";
    source.run_script(tables);
    source.run_script("insert into users values (1, 'ada@example.org'); insert into a.t values (1); insert into b.t values (1)");
    target.run_script(tables);
    let program = Pgsluice::between(&source, &target).env("SECRET", KEY);
    let path = program.folder().join("shop.rules");
    let program = program.env("PGSLUICE_RULES", &path.display().to_string());
    let is_refused = |rules: &str, said: &str| {
        std::fs::write(&path, rules).unwrap();
        let outcome = program.run(&["clone", "--keep", "--no-schema"]).ends_with(1);
        assert!(outcome.stderr.contains(said), "{outcome}");
        assert_eq!(target.value("select (select count(*) from users) + (select count(*) from a.t) + (select count(*) from b.t)"), "0");
    };
    // The rows come under the partition's name: what is to be masked would go as it is.
    is_refused(
        "hash.key-env = 'SECRET'\n[table.'public.users'.column]\nmail = { hash = true }",
        "whose rows come under that name",
    );
    is_refused("[table.'a.t']\nschema = 'b'", "both go into");
    std::fs::write(&path, "[table.'public.users_*'.column]\nmail = { partial = { first = 1 } }").unwrap();
    program.run(&["clone", "--keep", "--no-schema"]).done();
    assert_eq!(target.value("select mail from users"), "a**************");
}
