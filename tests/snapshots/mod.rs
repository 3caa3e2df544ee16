//! Snapshots of polled tables on the target: a view over two tables, swapped so that readers neither wait nor see a part.

#[cfg(feature = "faults")]
mod killed;
mod log;
mod polled;
mod readers;
mod shapes;

use crate::support::{Cluster, Pgsluice, lsn, seconds};
use log::{INT4, INT8, Log, TEXT, plain, table, texts, version};

fn progress(target: &Cluster) -> u64 {
    lsn(&target.value("select lsn from pgsluice.progress"))
}

/// Rows, least and greatest version of what the view shows.
fn seen(target: &Cluster) -> String {
    target.value("select format('%s %s %s', count(*), min(ver), max(ver)) from s.t")
}

#[test]
fn the_first_snapshot_makes_schema_tables_and_view_of_the_types_that_are_told() {
    let target = Cluster::target();
    target
        .run_script("create type mood as enum ('sad', 'ok'); create domain posint as int check (value > 0)");
    let mut log = Log::to(&target);
    let long = format!("{}Ä", "n".repeat(61));
    let columns = [
        ("id", INT8, -1),
        ("price", 1700, (10 << 16 | 2) + 4),
        ("name", 1043, 24),
        ("at", 1184, -1),
        ("tags", 1009, -1),
        ("Mood", 90_001, -1),
        ("count", 90_002, -1),
        ("moods", 90_003, -1),
        ("odd\"one", 705, -1),
    ];
    let wide = table(7, &long, &columns);
    let rows: [&[&str]; 3] = [
        &["1", "10.50", "ä\tb\\n", "2026-01-31 10:00:00+00", "{a,NULL,\"b,c\"}", "ok", "5", "{sad,ok}", "x"],
        &["2", "NaN", "NULL", "NULL", "{}", "NULL", "NULL", "NULL", ""],
        &["3", "-0.01", "", "infinity", "NULL", "sad", "1", "{}", "NULL"],
    ];
    log.define_type(90_001, "public", "mood");
    // Of a domain the log tells what it stands on, or its name.
    log.define_type(90_002, "public", "posint");
    log.define_type(90_003, "public", "_mood");
    log.snapshot(&wide, texts(&rows));
    log.snapshot(&plain(), []);
    log.apply();
    let types = "select string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum)
                   from pg_attribute where attrelid = (select oid from pg_class where relkind = 'v' and relname like 'nnn%') and attnum > 0";
    assert_eq!(
        target.value(types),
        "id bigint, price numeric(10,2), name character varying(20), at timestamp with time zone, tags text[], Mood mood, \
         count posint, moods mood[], odd\"one text"
    );
    let view = format!("s.\"{long}\"");
    assert_eq!(
        target.value(&format!("select count(*) from {view} where name = E'ä\\tb\\\\n' and tags[2] is null")),
        "1"
    );
    let mut sent: Vec<_> = texts(&rows);
    sent.sort();
    let mut there = target.query(&format!("select * from {view}"));
    there.sort();
    assert_eq!(there, sent);
    assert_eq!(seen(&target), "0  ");
    assert_eq!(target.value("select string_agg(relkind::text, '' order by relkind::text) from pg_class where relnamespace = 's'::regnamespace and relkind in ('r', 'v')"), "rrvv");
    let noted = "select format('%s %s %s %s', view_schema, shown, rows, lsn) from pgsluice.snapshot where view_name = 't'";
    assert_eq!(target.value(noted), format!("s t__a 0 {}", log.end()));

    // The same again: the tables take turns, and the older rows are gone.
    log.snapshot(&plain(), version(1, 10));
    log.snapshot(&wide, texts(&rows[..1]));
    log.snapshot(&plain(), version(2, 1000));
    log.snapshot(&plain(), version(3, 20));
    log.apply();
    assert_eq!(seen(&target), "20 3 3");
    assert_eq!(target.value(&format!("select count(*) from {view}")), "1");
    assert_eq!(target.value(noted), format!("s t__b 20 {}", log.end()));
    // Its statistics are of its rows.
    assert_eq!(target.value("select reltuples from pg_class where relname = 't__b'"), "20");
    assert_eq!(
        target
            .value("select count(*) from pg_class where relkind = 'r' and relnamespace = 's'::regnamespace"),
        "4"
    );
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let target = Cluster::target();
    target.run_script("create schema s; create table s.t(x int); insert into s.t values (7)");
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, 5));
    let said = log.refused();
    assert!(said.contains("ordinary table s.t") && said.contains("ALTER TABLE"), "{said}");
    assert_eq!(target.value("select x from s.t"), "7");

    target.run_script("drop table s.t; create view s.t as select 8 x");
    let said = log.refused();
    assert!(said.contains("view s.t that pgsluice did not make"), "{said}");
    assert_eq!(target.value("select x from s.t"), "8");

    target.run_script("drop view s.t; create materialized view s.t as select 9 x");
    let said = log.refused();
    assert!(said.contains("s.t, which is no view"), "{said}");

    target
        .run_script("drop materialized view s.t; create table s.t__b(y int); insert into s.t__b values (1)");
    let said = log.refused();
    assert!(said.contains("a table s.t__b that pgsluice did not make"), "{said}");
    assert_eq!(target.value("select y from s.t__b"), "1");

    target.run_script("drop table s.t__b");
    log.apply();
    assert_eq!(seen(&target), "5 1 1");

    // It was made to show something else.
    target.run_script("create or replace view s.t as select 1::int8 id, 2 ver, 'own'::text note");
    log.snapshot(&plain(), version(2, 6));
    let said = log.refused();
    assert!(said.contains("view s.t of the target was changed") && said.contains("DROP VIEW"), "{said}");
    assert_eq!(target.value("select note from s.t"), "own");
    target.run_script("drop view s.t");
    log.apply();
    assert_eq!(seen(&target), "6 2 2");

    // Another stream.
    let other = log.program.run(&["apply", "--origin", "other", "--endpos", &log.end()]).ends_with(1);
    assert!(other.stderr.contains("shows snapshots of stream"), "{other}");
    assert_eq!(seen(&target), "6 2 2");
}

#[test]
fn a_type_that_the_target_lacks_is_asked_for() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.define_type(90_001, "public", "mood");
    let of = table(5, "m", &[("id", INT4, -1), ("m", 90_001, -1)]);
    log.snapshot(&of, texts(&[&["1", "ok"]]));
    let said = log.refused();
    assert!(said.contains("public\".\"mood") && said.contains("CREATE TYPE"), "{said}");
    assert_eq!(target.value("select to_regnamespace('s') is null"), "t");
    target.run_script("create type mood as enum ('ok')");
    log.apply();
    assert_eq!(target.value("select m from s.m"), "ok");
    // One of which nobody knows the name.
    log.snapshot(&table(6, "n", &[("id", 90_009, -1)]), texts(&[&["1"]]));
    let said = log.refused();
    assert!(said.contains("OID 90009, which the log does not name"), "{said}");
}

#[test]
fn other_transactions_of_the_log_keep_their_place() {
    let target = Cluster::target();
    target.run_script("create schema s; create table s.events(id int8, what text)");
    let events = table(200, "events", &[("id", INT8, -1), ("what", TEXT, -1)]);
    let mut log = Log::to(&target);
    for round in 1..=20u32 {
        log.transaction(|log| {
            log.define(&events);
            (0..3).for_each(|at| log.insert(200, &[Some((3 * round + at).to_string()), Some("x".into())]));
        });
        if round % 2 == 0 {
            log.snapshot(&plain(), version(round, round));
        }
    }
    // A table of that name that was renamed on the source: the view of the old name stays.
    let renamed = table(100, "t2", &[("id", INT8, -1), ("ver", INT4, -1), ("note", TEXT, -1)]);
    log.snapshot(&renamed, version(9, 9));
    let outcome = log.program.run(&["apply", "--endpos", &log.end(), "--lanes", "2"]).done();
    assert!(outcome.stderr.contains("that view stays as it is"), "{outcome}");
    assert_eq!(target.value("select format('%s %s', count(*), count(distinct id)) from s.events"), "60 60");
    assert_eq!(seen(&target), "20 20 20");
    assert_eq!(target.value("select count(*) from s.t2"), "9");
    // Left out by name.
    log.snapshot(&plain(), version(30, 1));
    log.snapshot(&renamed, version(31, 1));
    log.program.run(&["apply", "--endpos", &log.end(), "--exclude", "s.t"]).done();
    assert_eq!(seen(&target), "20 20 20");
    assert_eq!(target.value("select ver from s.t2"), "31");
    // What stands where nobody writes it is not guessed at.
    log.transaction(|log| {
        log.define(&plain());
        log.insert(200, &[Some("1".into()), Some("x".into())]);
        log.truncate(100);
        log.insert(100, &version(40, 1).next().unwrap());
    });
    let outcome = log.program.run(&["apply", "--endpos", &log.end()]).ends_with(4);
    assert!(outcome.stderr.contains("where a snapshot does not begin"), "{outcome}");
    assert_eq!(target.value("select count(*) from s.events"), "60");
}

#[test]
fn rules_hold_for_snapshots() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    let path = log.program.folder().join("of.rules");
    let rules = r#"[table."s.*"]
        schema = "dwh"
        [table."s.t"]
        name = "things"
        where = "id > 2"
        [table."s.t".column]
        note = { name = "remark", fixed = "hidden" }
        region = { constant = "eu" }
        double = { expression = "id * 2", cast = "int8" }"#;
    std::fs::write(&path, rules).unwrap();
    log.snapshot(&plain(), version(1, 5));
    log.snapshot(&plain(), version(2, 4));
    let end = log.end();
    let arguments = ["apply", "--endpos", &end, "--rules", path.to_str().unwrap()];
    log.program.run(&arguments).done();
    let rows = target.query("select * from dwh.things order by id");
    let expected = texts(&[&["3", "2", "hidden", "eu", "6"], &["4", "2", "hidden", "eu", "8"]]);
    assert_eq!(rows, expected);
    // One that goes into a table with others has no view of its own.
    let target = Cluster::target();
    std::fs::write(&path, "[table.\"s.t\"]\ninto = \"dwh.all\"\ncolumn.region = { constant = \"eu\" }")
        .unwrap();
    let program = Pgsluice::with("host=127.0.0.1 port=1", &target.conninfo())
        .env("PGSLUICE_ARCHIVE", log.program.archive().to_str().unwrap());
    let outcome = program.run(&arguments).ends_with(1);
    assert!(outcome.stderr.contains("leave out into"), "{outcome}");
}

#[test]
fn commands_are_run_after_a_swap_and_one_that_fails_holds_nothing_up() {
    let target = Cluster::target();
    target.run_script("create table told(at int generated always as identity, what int)");
    let mut log = Log::to(&target);
    let path = log.program.folder().join("poll.toml");
    let file = r#"
        [[poll]]
        table = "s.t"
        method = "snapshot"
        after = ["insert into public.told(what) select count(*) from s.t", "select 1 / 0",
                 "create index if not exists late on s.t__a(id); insert into public.told(what) values (-1)"]
        [[poll]]
        table = "s.other"
        method = "snapshot"
        after = ["insert into public.told(what) values (0)"]"#;
    std::fs::write(&path, file).unwrap();
    log.snapshot(&plain(), version(1, 3));
    log.snapshot(&plain(), version(2, 4));
    let end = log.end();
    let arguments = ["apply", "--endpos", &end, "--config", path.to_str().unwrap()];
    let outcome = log.program.run(&arguments).done();
    assert_eq!(outcome.stderr.matches("division by zero").count(), 2, "{outcome}");
    assert_eq!(target.value("select string_agg(what::text, ' ' order by at) from told"), "3 -1 4 -1");
    assert_eq!(seen(&target), "4 2 2");
    // They are no part of what is applied.
    log.program.run(&arguments).done();
    assert_eq!(target.value("select count(*) from told"), "4");
    std::fs::write(&path, file.replacen("snapshot", "queue\"\nkey = [\"id\"]\nqueue = \"s.q", 1)).unwrap();
    let outcome = log.program.run(&arguments).ends_with(2);
    assert!(outcome.stderr.contains("after means nothing to method queue"), "{outcome}");
}

#[test]
fn a_large_snapshot_streams_and_is_visible_at_once() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, 10));
    log.apply();
    let filler = "f".repeat(300);
    let rows = (1..=300_000u32)
        .map(|id| vec![Some(id.to_string()), Some("2".into()), Some(format!("{id} {filler}"))]);
    log.snapshot(&plain(), rows);
    let running = log.program.start(&["apply", "--endpos", &log.end()]);
    let mut resident = 0;
    let mut running = running;
    while running.is_running() {
        resident = resident.max(running.resident_bytes_max());
        assert!(["10 1 1", "300000 2 2"].contains(&seen(&target).as_str()));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.wait(seconds(60)).done();
    assert_eq!(seen(&target), "300000 2 2");
    eprintln!("at most {} MiB of memory for a snapshot of 90 MiB", resident >> 20);
    assert!(resident < 100 << 20, "{resident}");
    // Nobody has to vacuum it: rows are frozen, and their pages known to be visible to all, but for some that are empty yet.
    if target.version().major >= 14 {
        let visible =
            "select relallvisible > 0.9 * relpages and relpages > 1000 from pg_class where relname = 't__b'";
        assert_eq!(target.value(visible), "t");
    }
}

#[test]
fn a_role_that_is_no_superuser_is_enough() {
    let target = Cluster::target();
    if target.version().major < 15 {
        return;
    }
    target.run_script(
        "create role sluice login; grant create on database postgres to sluice;
         grant set on parameter session_replication_role to sluice; create role reader",
    );
    let mut log = Log::by(&target.conninfo().replace("user=postgres", "user=sluice"));
    log.snapshot(&plain(), version(1, 3));
    log.apply();
    target.run_script("grant usage on schema s to reader; grant select on s.t to reader");
    log.snapshot(&plain(), version(2, 4));
    let dropped = table(100, "t", &[("ver", INT4, -1), ("id", INT8, -1)]);
    log.snapshot(&dropped, texts(&[&["3", "1"]]));
    log.apply();
    assert_eq!(target.value("set role reader; select ver from s.t").trim(), "3");
    assert_eq!(target.value("select viewowner from pg_views where viewname = 't'"), "sluice");
    // Cleaning up leaves the view, and no word of ours.
    log.program.run(&["cleanup", "--target-only"]).done();
    assert_eq!(target.value("select to_regnamespace('pgsluice') is null"), "t");
    assert_eq!(target.value("select count(*) from s.t"), "1");
}

#[test]
fn a_row_that_an_index_of_the_user_refuses_stops_it_and_the_view_stays() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, 5));
    log.apply();
    target.run_script("create unique index on s.t__a(id)");
    let before = progress(&target);
    let twice = version(2, 3).chain(version(2, 3));
    log.snapshot(&plain(), twice);
    let said = log.refused();
    assert!(said.contains("snapshot of s.t") && said.contains("unique"), "{said}");
    // It is not set aside either: the next one would be all the rows again.
    let end = log.end();
    log.program.run(&["apply", "--endpos", &end, "--on-error", "quarantine"]).ends_with(1);
    assert_eq!((seen(&target), progress(&target)), ("5 1 1".into(), before));
    target.run_script("drop index s.t__a_id_idx");
    log.apply();
    assert_eq!(seen(&target), "6 2 2");
}
