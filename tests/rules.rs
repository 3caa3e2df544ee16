//! Rules: a target that is no copy has just the rows that they say, whatever happens on the source.

use crate::support::{Cluster, Pgsluice, pair};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A source and a target with these tables, and rules between them.
fn between(source_schema: &str, target_schema: &str, rules: &str) -> (Cluster, Cluster, Pgsluice) {
    let (source, target) = pair();
    source.run_script(source_schema);
    target.run_script(target_schema);
    let program = Pgsluice::between(&source, &target).env("SECRET", KEY);
    let program = write(program, rules);
    program.run(&["setup"]).done();
    (source, target, program)
}

fn write(program: Pgsluice, rules: &str) -> Pgsluice {
    let path = program.folder().join("shop.rules");
    std::fs::write(&path, rules).unwrap();
    program.env("PGSLUICE_RULES", &path.display().to_string())
}

/// All rows of a query, one a line.
fn rows(cluster: &Cluster, sql: &str) -> String {
    let all = format!("select string_agg(r::text, e'\\n' order by r::text) from ({sql}) r");
    let rows = cluster.query(&all);
    rows[0][0].clone().unwrap_or_default()
}

#[track_caller]
fn same(source: &Cluster, expected: &str, target: &Cluster, found: &str) {
    assert_eq!(rows(target, found), rows(source, expected));
}

#[test]
fn tables_and_columns_are_what_the_rules_say() {
    let (source, target, program) = between(
        "create extension pgcrypto;
         create table users(id int8 primary key, ref uuid, mail text, phone text, card varchar(20), note text, born text, secret text);
         create table orders(id int primary key, user_id int8, total numeric)",
        "create schema shop;
         create table shop.people(id int8 primary key, ref uuid, email text, phone text, card varchar(20), note text, born date,
                                  region varchar(2), label text);
         create table shop.orders(id int primary key, user_id int8, total numeric, is_large bool)",
        r#"hash.key-env = "SECRET"
           [table."public.*"]
           schema = "shop"
           [table."public.users"]
           name = "people"
           drop = ["secret"]
           [table."public.users".column]
           id = { hash = true }
           ref = { hash = true }
           mail = { name = "email", hash = true }
           phone = { partial = { first = 2, last = 2, with = "x" } }
           card = { regex = '\d{4}-', with = "....-" }
           note = { fixed = "hidden" }
           born = { cast = "date" }
           region = { constant = "eu" }
           label = { expression = "(mail == null ? '?' : mail.split('@')[0]) + '/' + string(size(note == null ? '' : note))" }
           [table."public.orders".column]
           user_id = { hash = true }
           is_large = { expression = "double(total) > 100.0" }"#,
    );
    source.run_script(
        "insert into users select i, md5(i::text)::uuid, 'user' || i || '@example.org', '0301234' || i, '1111-2222-3333-44' || i % 10,
                nullif(repeat('n', i), 'nnn'), '2026-01-' || lpad(i::text, 2, '0'), 'secret' from generate_series(1, 20) i;
         insert into orders select i, i % 20 + 1, i * 10 + 0.10 from generate_series(1, 40) i;
         update users set mail = null, phone = '1' where id = 4; update users set id = 100 where id = 5; delete from users where id = 6;
         update orders set user_id = 100 where user_id = 5; delete from orders where id > 30; update users set note = 'x' where id < 3",
    );
    program.follow_to_current();
    let hash = |value: &str| format!("left(encode(hmac({value}, '{KEY}', 'sha256'), 'hex'), 32)");
    let number =
        format!("(('x' || left({}, 16))::bit(64)::int8 >> 1) & 9223372036854775807", hash("id::text"));
    let uuid = "(left(h, 12) || '8' || substr(h, 14, 3) || to_hex((('x' || substr(h, 17, 1))::bit(4)::int & 3) | 8) || substr(h, 18))::uuid";
    let expected = format!(
        "select {number}, {uuid}, {}, case when length(phone) > 4 then left(phone, 2) || repeat('x', length(phone) - 4) || right(phone, 2)
                else repeat('x', length(phone)) end, regexp_replace(card, '\\d{{4}}-', '....-', 'g'),
                case when note is not null then 'hidden' end, born::date, 'eu'::text,
                coalesce(split_part(mail, '@', 1), '?') || '/' || length(coalesce(note, ''))
           from (select *, {} h from users) u",
        hash("mail"),
        hash("ref::text"),
    );
    same(
        &source,
        &expected,
        &target,
        "select id, ref, email, phone, card, note, born, region::text, label from shop.people",
    );
    let number = number.replace("id::text", "user_id::text");
    let expected = format!("select id, {number}, total, total > 100 from orders");
    same(&source, &expected, &target, "select * from shop.orders");
    // The same mask on a key and on what refers to it.
    assert_eq!(target.value("select count(*) from shop.orders o where not exists (select from shop.people p where p.id = o.user_id)"),
               source.value("select count(*) from orders o where not exists (select from users p where p.id = o.user_id)"));
}

/// Random changes of rows, in many transactions, with and without savepoints.
const LOAD: &str = "
create procedure load(name text, rounds int) language plpgsql as $$
declare k int; c text; begin
    for i in 1..rounds loop
        for j in 1..(1 + random() * 5)::int loop
            k := (random() * 40)::int;
            c := (array['DE', 'US', 'FR', null])[1 + (random() * 3)::int];
            case (random() * 5)::int
            when 0 then execute format('delete from %s where id = $1', name) using k;
            when 1 then execute format('update %1$s set id = $2 where id = $1 and not exists (select from %1$s where id = $2)', name)
                        using k, (random() * 60)::int;
            when 2 then execute format('update %s set country = $2 where id = $1', name) using k, c;
            when 3 then execute format('update %s set n = n + 1 where id = $1', name) using k;
            else execute format('insert into %s values ($1, $2, $3, $4) on conflict do nothing', name)
                 using k, c, (random() * 9)::int, case when random() < 0.5 then (select string_agg(md5(g::text || i), '') from generate_series(1, 400) g) end;
            end case;
        end loop;
        commit;
    end loop;
end $$;";

#[test]
fn rows_enter_and_leave_a_filter_under_load() {
    let columns = "(id int primary key, country text, n int, long text)";
    let (source, target, program) = between(
        &format!(
            "create table t{columns}; alter table t alter long set storage external, replica identity full; {LOAD}"
        ),
        &format!("create table t{columns}"),
        "[table.t]\nwhere = \"country == 'DE' || n > 4\"",
    );
    for round in 0..6 {
        source.run_script("call load('t', 150)");
        let arguments = ["follow", "--endpos", "current"];
        let exact = ["follow", "--endpos", "current", "--apply", "exact"];
        program.run(if round == 4 { &exact } else { &arguments }).done();
        same(
            &source,
            "select * from t where coalesce(country = 'DE', false) or n > 4",
            &target,
            "select * from t",
        );
    }
    source.run_script("truncate t; insert into t values (1, 'DE', 1), (2, 'US', 1)");
    program.follow_to_current();
    assert_eq!(rows(&target, "select id from t"), "(1)");
}

#[test]
fn several_tables_go_into_one_and_are_told_apart() {
    let columns = "(id int primary key, country text, n int, long text)";
    let (source, target, program) = between(
        &format!(
            "create schema one; create schema two; create table one.t{columns}; create table two.t{columns}; {LOAD}"
        ),
        "create schema every; create table every.t(id int, country text, n int, long text, shard text, primary key (shard, id))",
        "[table.'one.t']\ninto = 'every.t'\ntruncate = 'delete'\ncolumn.shard = { constant = '1' }
         [table.'two.t']\ninto = 'every.t'\ntruncate = 'delete'\ncolumn.shard = { constant = '2' }",
    );
    let all = "select *, '1'::text shard from one.t union all select *, '2' from two.t";
    for _ in 0..3 {
        source.run_script("call load('one.t', 60)");
        source.run_script("call load('two.t', 60)");
        program.follow_to_current();
        same(&source, all, &target, "select * from every.t");
    }
    source.run_script("truncate one.t; insert into one.t values (1)");
    program.follow_to_current();
    same(&source, all, &target, "select * from every.t");
    let refusing = write(program, "[table.'*.t']\ninto = 'every.t'");
    let outcome = refusing.run(&["follow", "--endpos", "current"]).ends_with(4);
    assert!(outcome.stderr.contains("other rules") && outcome.stderr.contains("--accept-rules"), "{outcome}");
}

#[test]
fn rows_of_one_and_the_same_key_come_in_the_order_of_the_log() {
    let (source, target, program) = between(
        "create schema one; create schema two; create table one.t(id int primary key, v int); create table two.t(id int primary key, v int)",
        "create schema every; create table every.t(id int primary key, v int)",
        "[table.'*.t']\ninto = 'every.t'",
    );
    // Each row is in one of the two at any time.
    source.run_script(
        "do $$ begin for i in 1..200 loop
             insert into one.t values (i % 7, i); delete from one.t where id = i % 7;
             insert into two.t values (i % 7, i); update two.t set v = -i where id = i % 7; delete from two.t where id = i % 7;
             insert into one.t values (i % 7, i * 2); delete from one.t where id = i % 7; end loop; end $$;
         insert into two.t values (3, 33); insert into one.t values (4, 44)",
    );
    program.follow_to_current();
    same(&source, "select * from one.t union all select * from two.t", &target, "select * from every.t");
    source.run_script("truncate one.t");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(
        outcome.stderr.contains("TRUNCATE of one.t") && outcome.stderr.contains("truncate = \"delete\""),
        "{outcome}"
    );
    let program = write(program, "[table.'*.t']\ninto = 'every.t'\ntruncate = 'ignore'");
    program.run(&["follow", "--endpos", "current"]).ends_with(4);
    program.run(&["follow", "--endpos", "current", "--accept-rules"]).done();
    assert_eq!(rows(&target, "select * from every.t"), "(3,33)\n(4,44)");
}

#[test]
fn what_rules_can_not_tell_is_refused_and_never_guessed() {
    let (source, target, program) = between(
        "create table t(id int primary key, country text, secret text); create table u(id int primary key)",
        "create table t(id int primary key, country text, secret text, label text); create table u(id int primary key)",
        "[table.t]\nwhere = \"country == 'DE'\"",
    );
    source.run_script("insert into u values (1); insert into t values (1, 'DE', 'geheim')");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(1);
    assert!(
        outcome.stderr.contains("line 2") && outcome.stderr.contains("REPLICA IDENTITY FULL"),
        "{outcome}"
    );
    // What came before is kept.
    assert_eq!(target.value("select count(*) from u"), "1");
    let program = write(program, "[table.t]\ncolumn.label.expression = \"string(1 / (size(secret) - 6))\"");
    let outcome = program.run(&["follow", "--endpos", "current", "--accept-rules"]).ends_with(1);
    assert!(
        outcome.stderr.contains("division by zero") && outcome.stderr.contains("INSERT of public.t"),
        "{outcome}"
    );
    assert!(!outcome.stderr.contains("geheim"), "{outcome}");
    // Set aside, and brought when the rules are right.
    target.query("alter table t add constraint short check (length(label) < 2)");
    let program = write(program, "[table.t]\ndrop = ['secret']\ncolumn.label.expression = \"country\"");
    let quarantine = ["follow", "--endpos", "current", "--on-error", "quarantine", "--accept-rules"];
    program.run(&quarantine).done();
    source.run_script("update t set country = 'FR' where id = 1; insert into t values (2, 'X', 'geheim')");
    program.run(&quarantine[..5]).done();
    assert_eq!(rows(&target, "select id, label from t"), "(2,X)");
    target.query("alter table t drop constraint short");
    program.run(&["dead", "retry"]).done();
    assert_eq!(rows(&target, "select id, country, secret, label from t"), "(1,FR,,FR)\n(2,X,,X)");
    let none = program.env("PGSLUICE_RULES", "");
    let outcome = none.run(&["compare"]);
    assert!(outcome.stderr.contains("rules have made them"), "{outcome}");
}

#[test]
fn other_rules_are_taken_only_when_it_is_said() {
    let table = "create table t(id int primary key, v text)";
    let (source, target, program) = between(table, table, "[table.t]\ncolumn.v.fixed = 'one'");
    source.run_script("insert into t values (1, 'x')");
    program.follow_to_current();
    let bare = std::fs::remove_file(program.folder().join("shop.rules"));
    assert!(bare.is_ok());
    let program = write(program, "# the same\n[table.\"t\"]\ncolumn.v = { fixed = \"one\" }");
    source.run_script("insert into t values (2, 'x')");
    program.follow_to_current();
    let program = write(program, "[table.t]\ncolumn.v.fixed = 'two'");
    let outcome = program.run(&["follow", "--endpos", "current"]).ends_with(4);
    assert!(outcome.stderr.contains("by other rules"), "{outcome}");
    source.run_script("insert into t values (3, 'x')");
    program.run(&["follow", "--endpos", "current", "--accept-rules"]).done();
    program.follow_to_current();
    assert_eq!(rows(&target, "select * from t"), "(1,one)\n(2,one)\n(3,two)");
    let archive = program.archive().display().to_string();
    let without = Pgsluice::between(&source, &target).env("PGSLUICE_ARCHIVE", &archive);
    let outcome = without.run(&["follow", "--endpos", "current"]).ends_with(4);
    assert!(outcome.stderr.contains("none are given"), "{outcome}");
}

#[test]
fn rules_are_tried_on_the_archive_alone() {
    let table = "create table t(id int primary key, country text, mail text)";
    let (source, _target, program) = between(
        &format!("{table}; alter table t replica identity full"),
        table,
        "[table.t]\nwhere = \"country == 'DE'\"\ncolumn.mail.partial = { first = 1 }",
    );
    source.run_script("insert into t values (1, 'DE', 'ada@x'), (2, 'US', 'bob@x'); update t set country = 'DE' where id = 2; delete from t where id = 1; truncate t");
    program.run(&["receive", "--endpos", &source.current_lsn()]).done();
    let program = program.env("PGSLUICE_TARGET", "host=nowhere.invalid");
    let rules = program.folder().join("shop.rules").display().to_string();
    let told = program.run(&["rules", "test", &rules, "--json"]).done();
    let lines: Vec<serde_json::Value> =
        told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ops: Vec<_> = lines
        .iter()
        .map(|line| (line["before"]["op"].as_str().unwrap(), line["after"][0]["op"].as_str()))
        .collect();
    let expected = [
        ("insert", Some("insert")),
        ("insert", None),
        ("update", Some("insert")),
        ("delete", Some("delete")),
        ("truncate", Some("truncate")),
    ];
    assert_eq!(ops, expected);
    assert_eq!(lines[0]["after"][0]["new"]["mail"], "a****");
    let text = program.run(&["rules", "test", &rules, "--limit", "2"]).done().stdout;
    assert!(
        text.contains("insert public.t new") && text.contains("-> nothing") && text.lines().count() == 4,
        "{text}"
    );
    program.run(&["rules", "check", &rules]).done();
    std::fs::write(&rules, "[table.t]\nwher = 'x'\ncolumn.mail.hash = true").unwrap();
    let outcome = program.run(&["rules", "check", &rules]).ends_with(2);
    assert!(
        outcome.stderr.contains("line 2: unknown key wher") && outcome.stderr.contains("line 3"),
        "{outcome}"
    );
    std::fs::write(&rules, "[table.t]\ncolumn.x.expression = 'string(1 / 0)'").unwrap();
    program.run(&["rules", "test", &rules]).ends_with(3);
}
