//! The control plane on real servers: setup, its findings, sentinel, status, cleanup.

use crate::support::{Cluster, Outcome, Pgsluice, Row, Version, pair};
use serde_json::{Value, json};

/// All that setup could have changed on a server.
fn traces(cluster: &Cluster) -> Vec<Row> {
    cluster.query(
        "select 'slot', slot_name::text from pg_replication_slots
         union all select 'publication', p.pubname || ' ' || coalesce((select string_agg(t.schemaname || '.' || t.tablename, ',' order by 1)
                           from pg_publication_tables t where t.pubname = p.pubname), '') from pg_publication p
         union all select 'origin', roname from pg_replication_origin
         union all select 'schema', nspname::text from pg_namespace where nspname = 'pgsluice'
         union all select 'identity', relname::text || relreplident::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
         order by 1, 2",
    )
}

#[track_caller]
fn refused(program: &Pgsluice, arguments: &[&str], code: i32, clusters: [&Cluster; 2]) -> Outcome {
    let before = clusters.map(traces);
    let outcome = program.run(arguments).ends_with(code);
    assert!(outcome.stderr.contains("\nhint: ") && outcome.stderr.contains("error: "), "{outcome}");
    assert_eq!(clusters.map(traces), before, "{outcome}");
    outcome
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

const TABLES: &str =
    "create table a(id int primary key, note text); create table \"B c\"(id int primary key)";

#[test]
fn setup_makes_what_cleanup_removes() {
    let (source, target) = pair();
    let before = [&source, &target].map(|cluster| {
        cluster.psql(TABLES);
        traces(cluster)
    });
    let program = Pgsluice::between(&source, &target);

    let report = program.run(&["setup", "--json"]).done().json();
    assert_eq!(report["tables"], Value::Null);
    assert_eq!(report["origin"], "pgsluice");
    assert_eq!(report["findings"], json!([]));
    assert_eq!(texts(&report["created"]).len(), 5, "{report}");
    assert_eq!(source.value("select puballtables from pg_publication"), "t");
    let start = source.value("select confirmed_flush_lsn from pg_replication_slots");
    assert_eq!(report["start_lsn"], start);
    let row = target.value("select concat_ws(' ', stream, lsn, system_identifier, archive_id, transactions) from pgsluice.progress");
    let identifier = source.value("select system_identifier from pg_control_system()");
    assert_eq!(row, format!("pgsluice {start} {identifier} {} 0", report["archive_id"].as_str().unwrap()));

    let again = program.run(&["setup", "--json"]).done().json();
    assert_eq!(again["created"], json!([]));
    assert_eq!(again["start_lsn"], start);

    let status = program.status();
    assert_eq!(status["mode"], "stopped");
    assert_eq!(status["source"]["confirmed_flush_lsn"], start);
    assert_eq!(status["archive"]["last_lsn"], start);
    assert_eq!(status["archive"]["transactions"], 0);
    assert_eq!(status["applier"]["replay_lsn"], start);
    assert_eq!(status["applier"]["lag_bytes"], 0);
    assert_eq!(status["unreachable"], json!({}));
    assert!(program.run(&["status"]).done().stdout.contains("stopped"));

    let removed = program.run(&["cleanup", "--archive-too", "--json"]).done().json();
    assert_eq!(texts(&removed["removed"]).len(), 6, "{removed}");
    assert_eq!([&source, &target].map(traces), before);
    assert!(!program.archive().exists());
    assert_eq!(program.run(&["cleanup", "--json"]).done().json()["removed"], json!([]));
}

#[test]
fn the_sentinel_is_set_and_read() {
    let (source, target) = pair();
    let program = Pgsluice::between(&source, &target);
    source.psql(TABLES);
    target.psql(TABLES);
    program.run(&["setup"]).done();
    let start = program.sentinel()["startpos"].clone();
    let expected = json!({"startpos": start, "endpos": "0/0", "apply": true,
                          "write_lsn": "0/0", "flush_lsn": "0/0", "replay_lsn": "0/0"});
    assert_eq!(program.sentinel(), expected);
    program.run(&["sentinel", "set", "endpos", "16/B374D848"]).done();
    program.run(&["sentinel", "set", "prefetch"]).done();
    assert_eq!(program.sentinel()["endpos"], "16/B374D848");
    assert_eq!(program.sentinel()["apply"], false);
    source.query("insert into a values (1)");
    let end = source.current_lsn();
    program.run(&["sentinel", "set", "endpos", "current"]).done();
    assert!(crate::support::lsn(program.sentinel()["endpos"].as_str().unwrap()) >= crate::support::lsn(&end));
    program.run(&["sentinel", "set", "apply"]).done();
    assert_eq!(program.sentinel()["apply"], true);

    std::fs::write(program.archive().join("sentinel.json"), "{").unwrap();
    let outcome = program.run(&["sentinel", "get"]).ends_with(4);
    assert!(outcome.stderr.contains("sentinel.json"), "{outcome}");
}

#[test]
fn findings_are_mended_by_what_they_say() {
    let (source, target) = pair();
    source.psql(
        "create table t(id int primary key, a text, g int); create table missing(id int primary key, \"x'y\" int);
         create table late(id int primary key, u int);",
    );
    target.psql(
        "create table t(id int primary key, g int generated always as (1) stored, must int not null);
         create table late(id int, u int, primary key (id) deferrable, unique (u) deferrable initially deferred);
         create function f() returns trigger language plpgsql as 'begin return new; end';
         create trigger always before insert on t for each row execute function f();
         alter table t enable always trigger always;
         create role app login; grant create on database postgres to app;
         grant select, insert, update, delete on t to app;
         alter table late enable row level security;",
    );
    let program =
        Pgsluice::between(&source, &target).target(&target.conninfo().replace("user=postgres", "user=app"));
    let outcome = refused(&program, &["setup", "--json"], 1, [&source, &target]);
    let findings = outcome.json()["findings"].as_array().unwrap().clone();
    let count = |severity: &str| findings.iter().filter(|finding| finding["severity"] == severity).count();
    for named in [
        "session_replication_role",
        "origins",
        "public.missing is missing",
        "\"a\" of public.t is missing",
        "\"g\" of public.t is generated",
        "\"must\" of public.t",
        "privileges on public.t",
        "privileges on public.late",
        "row security of public.late",
        "\"late_pkey\" of public.late",
        "\"late_u_key\" of public.late",
        "trigger \"always\" of public.t",
    ] {
        let named =
            findings.iter().filter(|finding| finding["what"].as_str().unwrap().contains(named)).count();
        assert_eq!(named, 1, "{outcome}");
    }
    assert_eq!((count("error"), count("warning")), (8, 4), "{outcome}");

    // What they say is done, word by word.
    let connections =
        format!("PGSLUICE_SOURCE='{}' PGSLUICE_TARGET='{}'", source.conninfo(), target.conninfo());
    for finding in &findings {
        let mend = finding["mend"].as_str().unwrap();
        if mend.starts_with("pg_dump") {
            let script = format!("export {connections}; {mend}");
            let mut shell = std::process::Command::new("sh");
            let programs = target.version().program("pg_dump").parent().unwrap().display().to_string();
            let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
            let done = shell.args(["-c", &script]).env("PATH", path).output().unwrap();
            // Where only a newer pg_dump is at hand, it sets what this server does not know.
            let errors = String::from_utf8(done.stderr.clone()).unwrap();
            let errors: Vec<&str> =
                errors.lines().filter(|line| !line.contains("\"transaction_timeout\"")).collect();
            assert!(done.status.success() && errors.is_empty(), "{script}: {done:?}");
            target.psql("grant select, insert, update, delete, truncate on missing to app");
        } else {
            target.psql(mend);
        }
    }
    let report = program.run(&["setup", "--json"]).done().json();
    assert_eq!(report["findings"], json!([]));
    assert_eq!(report["origin"], "pgsluice");
}

#[test]
fn ordinary_roles_are_enough() {
    let (source, target) = pair();
    source.psql(
        "create role app login replication; grant create on database postgres to app;
         create schema app authorization app; set role app; create table app.t(id int primary key)",
    );
    target.psql("create role app login; grant create on database postgres to app; create schema app authorization app;
                 set role app; create table app.t(id int primary key)");
    let ordinary = |cluster: &Cluster| cluster.conninfo().replace("user=postgres", "user=app");
    let program = Pgsluice::with(&ordinary(&source), &ordinary(&target));
    if target.version().major >= 15 {
        target.psql("grant set on parameter session_replication_role to app");
    } else {
        target.psql("alter role app superuser");
    }
    let report = program.run(&["setup", "--json"]).done().json();
    assert_eq!(texts(&report["tables"]), ["app.t"]);
    if target.version().major >= 15 {
        assert_eq!(report["origin"], Value::Null);
        assert_eq!(report["findings"][0]["severity"], "warning");
        assert_eq!(target.value("select count(*) from pg_replication_origin"), "0");
    }
    assert_eq!(target.value("select count(*) from pgsluice.progress"), "1");
    program.run(&["cleanup"]).done();
    assert_eq!(target.value("select count(*) from pg_namespace where nspname = 'pgsluice'"), "0");

    let program = Pgsluice::with(&ordinary(&source), &ordinary(&target));
    source.psql("create table theirs(id int primary key); alter role app noreplication");
    target.psql("create table theirs(id int primary key); grant all on theirs to app");
    let outcome = refused(&program, &["setup"], 1, [&source, &target]);
    assert!(outcome.stderr.contains("ALTER ROLE \"app\" REPLICATION"), "{outcome}");
    assert!(outcome.stderr.contains("does not own public.theirs"), "{outcome}");
}

#[test]
fn keyless_tables_get_their_identity_back() {
    let (source, target) = pair();
    let schema = "create table plain(id int); create table late(id int primary key deferrable);
                  create table silent(id int primary key); alter table silent replica identity nothing;
                  create table chosen(id int not null); create unique index chosen_id on chosen(id);
                  alter table chosen replica identity using index chosen_id; create table keyed(id int primary key);";
    source.psql(schema);
    target.psql(&schema.replace(" deferrable", ""));
    let program = Pgsluice::between(&source, &target);
    let before = traces(&source);
    let outcome = refused(&program, &["setup"], 1, [&source, &target]);
    for (table, listed) in
        [("plain", true), ("late", true), ("silent", true), ("chosen", false), ("keyed", false)]
    {
        assert_eq!(outcome.stderr.contains(&format!("public.{table} ")), listed, "{outcome}");
    }
    program.run(&["setup", "--keyless", "full"]).done();
    let full = "select string_agg(relname, ',' order by relname) from pg_class where relreplident = 'f' and relkind = 'r'";
    assert_eq!(source.value(full), "late,plain,silent");
    program.run(&["setup", "--keyless", "full"]).done();
    program.run(&["cleanup"]).done();
    assert_eq!(traces(&source), before);

    let program = Pgsluice::between(&source, &target);
    let report = program.run(&["setup", "--keyless", "exclude", "--json"]).done().json();
    assert_eq!(texts(&report["tables"]), ["public.chosen", "public.keyed"]);
    source.query("insert into plain values (1); update plain set id = 2");
    let again = program.run(&["setup", "--json"]).done().json();
    assert_eq!(again["created"], json!([]));
}

#[test]
fn patterns_choose_what_is_published() {
    let (source, target) = pair();
    let schema = "create schema s; create table s.root(id int, at int, primary key (id, at)) partition by list (at);
                  create table s.one partition of s.root for values in (1);
                  create table s.two partition of s.root for values in (2);
                  create table s.\"Odd.Name\"(id int primary key); create table public.plain(id int primary key);
                  create unlogged table s.unlogged(id int primary key);";
    source.psql(schema);
    target.psql(schema);
    let published = |arguments: &[&str]| {
        let program = Pgsluice::between(&source, &target);
        let arguments = [&["setup", "--json"], arguments].concat();
        let report = program.run(&arguments).done().json();
        let tables = source.query("select tablename from pg_publication_tables order by 1");
        program.run(&["cleanup"]).done();
        let tables: Vec<_> = tables.into_iter().map(|row| row[0].clone().unwrap()).collect();
        (texts(&report["tables"]), tables)
    };
    assert_eq!(published(&["--tables", "s.*"]).0, ["s.\"Odd.Name\"", "s.root"]);
    assert_eq!(published(&["--tables", "s.*"]).1, ["Odd.Name", "one", "two"]);
    assert_eq!(published(&["--exclude", "s.two", "*.plain"]).0, ["s.\"Odd.Name\"", "s.one"]);
    assert_eq!(published(&["--tables", "s.\"Odd.Name\"", "pl?in"]).0, ["public.plain", "s.\"Odd.Name\""]);
    let program = Pgsluice::between(&source, &target);
    refused(&program, &["setup", "--tables", "nothing.*"], 1, [&source, &target]);
    program.run(&["setup", "--tables", "a.b.c"]).ends_with(2);

    // A list that grows later is told: what was before is not in the log.
    program.run(&["setup", "--tables", "public.plain"]).done();
    let report = program.run(&["setup", "--tables", "public.plain,s.root", "--json"]).done().json();
    assert_eq!(texts(&report["created"]), ["tables of publication pgsluice"]);
    assert!(report["findings"][0]["what"].as_str().unwrap().starts_with("s.root is published from now on"));
    source.query("drop publication pgsluice; create publication pgsluice for all tables");
    refused(&program, &["setup", "--tables", "public.plain"], 1, [&source, &target]);
}

#[test]
fn names_that_could_not_be_read_are_refused_before_they_are_captured() {
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.query("create database latin encoding 'LATIN1' locale 'C' template template0");
        cluster.session_of("latin").query("create table \"Stra\u{df}e\"(id int primary key)");
        cluster.session_of("latin").query("create table plain(id int primary key)");
    }
    let latin = |cluster: &Cluster| cluster.conninfo().replace("dbname=postgres", "dbname=latin");
    let program = Pgsluice::with(&latin(&source), &latin(&target));
    let outcome = program.run(&["setup"]).ends_with(1);
    assert!(outcome.stderr.contains("LATIN1") && outcome.stderr.contains("--exclude"), "{outcome}");
    program.run(&["setup", "--exclude", "public.*tra*"]).done();
}

#[test]
fn an_interrupted_setup_is_finished() {
    let (source, target) = pair();
    source.psql(TABLES);
    target.psql(TABLES);
    let program = Pgsluice::between(&source, &target);
    let file = |name: &str| program.archive().join(name);

    // After the publication.
    source.query("create publication pgsluice for all tables");
    program.run(&["setup"]).done();
    let start = program.sentinel()["startpos"].clone();

    // After the slot: the intent says that it is ours.
    let identifier = source.value("select system_identifier from pg_control_system()");
    let intent = json!({"slot": "pgsluice", "system_identifier": identifier}).to_string();
    for name in ["manifest.json", "sentinel.json"] {
        std::fs::remove_file(file(name)).unwrap();
    }
    target.query("delete from pgsluice.progress");
    refused(&program, &["setup"], 4, [&source, &target]);
    std::fs::write(file("setup.json"), intent).unwrap();
    let report = program.run(&["setup", "--json"]).done().json();
    assert_eq!(report["start_lsn"], start);
    assert!(!file("setup.json").exists());

    // After the manifest, and after the sentinel.
    std::fs::remove_file(file("sentinel.json")).unwrap();
    target.query("drop schema pgsluice cascade");
    target.query("select pg_replication_origin_drop('pgsluice')");
    program.run(&["setup"]).done();
    assert_eq!(program.sentinel()["startpos"], start);
    assert_eq!(target.value("select count(*) from pgsluice.progress"), "1");
    assert_eq!(target.value("select count(*) from pg_replication_origin"), "1");
}

#[test]
fn another_system_goes_on_with_the_log_only_where_pg_upgrade_has_made_it() {
    for version in Version::all() {
        only_a_successor_goes_on(&version);
    }
}

fn only_a_successor_goes_on(version: &Version) {
    let source = Cluster::prepare_source().version(version).start();
    let target = Cluster::target();
    let program = Pgsluice::between(&source, &target);
    for cluster in [&source, &target] {
        cluster.psql("create table t(id int primary key)");
    }
    program.run(&["setup"]).done();
    let switch_wal = |cluster: &Cluster, times: usize| {
        for _ in 0..times {
            cluster.psql("select pg_logical_emit_message(true, '', ''); select pg_switch_wal()");
        }
    };
    switch_wal(&source, 2);
    source.psql("insert into t values (1)");
    program.follow_to_current().done();
    // A server that was made by a dump, and has a slot of its own.
    let other = Cluster::prepare_source().version(version).fresh().start();
    let identifier = "select system_identifier from pg_control_system()";
    assert_ne!(other.value(identifier), source.value(identifier));
    other.psql("create table unrelated(id int); create table t(id int primary key)");
    let is_refused = |words: &str| {
        let arguments = ["setup", "--source-upgraded", "--source", &other.conninfo()];
        let outcome = refused(&program, &arguments, 4, [&other, &target]);
        assert!(outcome.stderr.contains(words), "{outcome}");
        assert!(!program.archive().join("successors").exists());
    };
    let make_slot = "select pg_create_logical_replication_slot('pgsluice', 'pgoutput')";
    if version.major < 17 {
        return is_refused("pg_upgrade keeps no slots");
    }
    is_refused("did not come along");
    other.psql(make_slot);
    is_refused("before the log's end");
    other.psql("select pg_drop_replication_slot('pgsluice')");
    switch_wal(&other, 5);
    other.psql(make_slot);
    is_refused("is another one here than in the log");
    // And for the right one nothing has changed.
    let report = program.run(&["setup", "--source-upgraded", "--json"]).done().json();
    assert_eq!(report["created"], json!([]));
}

#[test]
fn what_does_not_belong_together_needs_a_person() {
    let (source, target) = pair();
    source.psql(TABLES);
    target.psql(TABLES);
    let both = [&source, &target];
    let program = Pgsluice::between(&source, &target);
    program.run(&["setup"]).done();

    // Another archive for the same target and slot.
    let other = program.folder().join("other").display().to_string();
    let elsewhere = Pgsluice::between(&source, &target).env("PGSLUICE_ARCHIVE", &other);
    let outcome = refused(&elsewhere, &["setup"], 4, both);
    assert!(outcome.stderr.contains("slot pgsluice exists"), "{outcome}");
    let outcome = refused(&elsewhere, &["setup", "--slot", "second", "--publication", "second"], 4, both);
    assert!(outcome.stderr.contains("belongs to another archive"), "{outcome}");

    let outcome = refused(&program, &["setup", "--slot", "second"], 4, both);
    assert!(outcome.stderr.contains("belongs to slot pgsluice"), "{outcome}");
    source.query("select pg_drop_replication_slot('pgsluice')");
    let outcome = refused(&program, &["setup"], 4, both);
    assert!(outcome.stderr.contains("is gone"), "{outcome}");
    source.query("select pg_create_physical_replication_slot('pgsluice')");
    refused(&program, &["setup"], 4, both);
    refused(&program, &["cleanup"], 4, both);
}

#[test]
fn a_forgotten_transaction_is_named_and_no_slot_stays() {
    let (source, target) = pair();
    source.psql(TABLES);
    target.psql(TABLES);
    let program = Pgsluice::between(&source, &target);
    let forgotten = source.session();
    forgotten.query("begin; insert into a values (1)");
    let outcome = program.run(&["setup", "--slot-timeout", "2"]).ends_with(1);
    assert!(outcome.stderr.contains(&format!("pid {} (role postgres", forgotten.backend())), "{outcome}");
    assert!(outcome.stderr.contains(&format!("pg_terminate_backend({})", forgotten.backend())), "{outcome}");
    assert_eq!(source.value("select count(*) from pg_replication_slots"), "0");
    assert!(!program.archive().join("manifest.json").exists());
    forgotten.query("commit");
    program.run(&["setup"]).done();
}

#[test]
fn source_and_target_must_be_two() {
    let source = Cluster::source();
    source.psql(TABLES);
    let program = Pgsluice::between(&source, &source);
    let outcome = refused(&program, &["setup"], 1, [&source, &source]);
    assert!(outcome.stderr.contains("the same database"), "{outcome}");
}

#[test]
fn status_works_when_nothing_does() {
    let program = Pgsluice::with("host=127.0.0.1 port=1 user=u", "host=127.0.0.1 port=1 user=u");
    let status = program.status();
    for part in ["source", "archive", "applier"] {
        assert_eq!(status[part], Value::Null);
        assert!(!status["unreachable"][part].as_str().unwrap().is_empty());
    }
    assert_eq!(status["tables"], json!([]));
    program.run(&["status"]).done();
}

#[test]
fn flags_win_over_environment_over_file() {
    let program = Pgsluice::with("host=127.0.0.1 port=1 user=u", "host=127.0.0.1 port=1 user=u");
    let config = program.folder().join("config.toml");
    let config_text = config.display().to_string();
    let slot = |program: &Pgsluice, arguments: &[&str]| {
        let arguments = [&["status", "--json", "--config", &config_text], arguments].concat();
        program.run(&arguments).done().json()["unreachable"]["archive"].as_str().unwrap().to_owned()
    };
    std::fs::write(&config, "archive = '/nowhere/file'").unwrap();
    assert!(slot(&program, &["--archive", "/nowhere/flag"]).contains("/nowhere/flag"));
    assert!(!slot(&program, &[]).contains("/nowhere/file"));

    for wrong in ["archvie = 'x'", "name = 1", "= "] {
        std::fs::write(&config, wrong).unwrap();
        program.run(&["status", "--config", &config_text]).ends_with(2);
    }
    for archive in ["ftp://bucket/prefix", "s3://", "s3://user:hunter2@bucket/prefix"] {
        let outcome = program.run(&["setup", "--archive", archive]).ends_with(2);
        assert!(!outcome.stderr.contains("hunter2"), "{outcome}");
    }
    program.run(&["setup", "--plugin", "decoderbufs"]).ends_with(2);
    program.run(&["setup", "--name", "Not/A/Name"]).ends_with(2);
    let outcome = program.run(&["setup", "--source", "postgresql://u:hunter2@127.0.0.1:1/d"]).ends_with(1);
    assert!(outcome.stderr.contains("password was typed on the command line"), "{outcome}");
    assert!(!outcome.stderr.contains("hunter2"), "{outcome}");
}

#[test]
fn every_version_can_be_set_up() {
    for version in Version::all() {
        let source = Cluster::prepare_source().version(&version).start();
        let target = Cluster::prepare().version(&version).start();
        source.psql(TABLES);
        target.psql(TABLES);
        let program = Pgsluice::between(&source, &target);
        program.run(&["setup"]).done();
        assert_eq!(program.status()["unreachable"], json!({}), "{version:?}");
        program.run(&["cleanup"]).done();
    }
}
