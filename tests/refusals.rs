//! Bad input and bad surroundings: one clear error with a hint, the right exit code, everything left as it was.

use std::process::Command;

use crate::support::{Cluster, Outcome, Pgsluice, Road, StopMode, pair, seconds};

const SECRET: &str = "open-sesame-4711";

/// The right exit code, one error, a hint, what it must name, and never a secret.
#[track_caller]
fn refused(outcome: Outcome, code: i32, names: &[&str]) {
    let outcome = outcome.ends_with(code);
    let lines: Vec<String> = outcome.stderr.lines().map(str::to_lowercase).collect();
    let errors = lines.iter().filter(|line| line.starts_with("error:")).count();
    assert_eq!(errors, 1, "one error line: {outcome}");
    assert!(lines.iter().any(|line| line.trim_start().starts_with("hint:")), "a hint: {outcome}");
    for name in names {
        assert!(outcome.stderr.contains(name), "'{name}' is named: {outcome}");
    }
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!said.contains(SECRET), "a secret was said: {outcome}");
    assert!(!said.contains("panicked"), "{outcome}");
}

/// All that setup could have changed on a server.
fn traces(cluster: &Cluster) -> Vec<crate::support::Row> {
    cluster.query(
        "select 'slot', slot_name::text from pg_replication_slots
         union all select 'publication', pubname::text from pg_publication
         union all select 'origin', roname from pg_replication_origin
         union all select 'schema', nspname::text from pg_namespace where nspname = 'pgsluice'
         union all select 'identity', relname::text || relreplident::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
         order by 1, 2",
    )
}

/// Runs `setup` where it must be refused, and looks that nothing came of it.
#[track_caller]
fn setup_refused(source: &Cluster, target: &Cluster, program: &Pgsluice, code: i32, names: &[&str]) {
    let before = (traces(source), traces(target));
    refused(program.run(&["setup"]), code, names);
    assert_eq!((traces(source), traces(target)), before);
    assert!(!program.archive().join("manifest.json").exists());
}

fn with_password(cluster: &Cluster) {
    cluster.query(&format!("create role guarded login superuser password '{SECRET}'"));
    let path = cluster.data_folder().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&path).unwrap();
    let guarded = "host all,replication guarded 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(path, format!("host all guarded 127.0.0.1/32 scram-sha-256\n{guarded}{rules}")).unwrap();
    cluster.query("select pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(200));
}

#[test]
fn wrong_usage_is_2() {
    let program = Pgsluice::with("host=127.0.0.1", "host=127.0.0.1");
    for arguments in [
        &["follow", "--endpos", "nonsense"][..],
        &["sentinel", "set", "endpos", "1/2/3"],
        &["follow", "--no-such-flag"],
        &["no-such-command"],
        &["setup", "--source", "postgresql://127.0.0.1:port/x"],
    ] {
        let outcome = program.run(arguments).ends_with(2);
        assert!(!outcome.stderr.is_empty(), "{outcome}");
    }
}

#[test]
fn a_wrong_password() {
    let (source, target) = pair();
    with_password(&source);
    let wrong = format!("postgresql://guarded:{SECRET}-not@127.0.0.1:{}/postgres", source.port());
    let program = Pgsluice::with(&wrong, &target.conninfo());
    setup_refused(&source, &target, &program, 1, &["guarded"]);

    let right = wrong.replace("-not@", "@");
    let program = program.source(&right);
    let outcome = program.run(&["-v", "setup", "--json"]).done();
    assert!(!format!("{outcome}").contains(SECRET), "{outcome}");
    let manifest = std::fs::read_to_string(program.archive().join("manifest.json")).unwrap();
    assert!(!manifest.contains(SECRET));
}

#[test]
fn an_unknown_host_and_a_closed_port() {
    let target = Cluster::target();
    let source = format!("postgresql://who:{SECRET}@no-such-host.invalid/db");
    refused(Pgsluice::with(&source, &target.conninfo()).run(&["setup"]), 1, &["no-such-host.invalid"]);
    let source = format!("host=127.0.0.1 port=1 user=who password={SECRET} dbname=db");
    refused(Pgsluice::with(&source, &target.conninfo()).run(&["setup"]), 1, &["127.0.0.1"]);
}

#[test]
fn an_unknown_database() {
    let (source, target) = pair();
    let program = Pgsluice::with(&source.conninfo_of("nowhere"), &target.conninfo());
    setup_refused(&source, &target, &program, 1, &["nowhere"]);
}

#[test]
fn wal_level_replica() {
    let (source, target) = (Cluster::prepare().set("wal_level", "replica").start(), Cluster::target());
    let program = Pgsluice::between(&source, &target);
    setup_refused(&source, &target, &program, 1, &["wal_level", "logical"]);
}

#[test]
fn a_role_without_privileges() {
    let (source, target) = pair();
    source.psql("create role plain login; create table t(id int primary key)");
    target.psql("create role plain login; create table t(id int primary key)");
    let plain = |cluster: &Cluster| cluster.conninfo().replace("user=postgres", "user=plain");
    let program = Pgsluice::with(&plain(&source), &target.conninfo());
    setup_refused(&source, &target, &program, 1, &["plain"]);
    let program = Pgsluice::with(&source.conninfo(), &plain(&target));
    setup_refused(&source, &target, &program, 1, &["plain"]);
}

#[test]
fn a_table_or_a_column_that_the_target_lacks() {
    let (source, target) = pair();
    source.psql("create table here(id int primary key, a int); create table there(id int primary key)");
    target.psql("create table here(id int primary key)");
    let program = Pgsluice::between(&source, &target);
    setup_refused(&source, &target, &program, 1, &["public.there", "here", "a"]);
}

#[test]
fn tables_without_a_key() {
    let (source, target) = pair();
    for cluster in [&source, &target] {
        cluster.psql(
            "create table keyed(id int primary key); create table keyless(id int);
             create table late(id int primary key deferrable)",
        );
    }
    let program = Pgsluice::between(&source, &target);
    setup_refused(&source, &target, &program, 1, &["public.keyless", "public.late", "--keyless"]);

    program.run(&["setup", "--keyless", "exclude"]).done();
    let published = "select string_agg(tablename, ',') from pg_publication_tables";
    assert_eq!(source.value(published), "keyed");
    source.psql("insert into keyed values (1); insert into keyless values (1); update keyless set id = 2");
    program.follow_to_current();
    assert_eq!(target.value("select count(*) from keyed"), "1");
    assert_eq!(target.value("select count(*) from keyless"), "0");
}

#[test]
fn a_slot_of_another_plugin_or_database() {
    let (source, target) = pair();
    source.query("select pg_create_logical_replication_slot('pgsluice', 'test_decoding')");
    let program = Pgsluice::between(&source, &target);
    setup_refused(&source, &target, &program, 1, &["pgsluice", "test_decoding"]);
    source.query("select pg_drop_replication_slot('pgsluice')");

    source.query("create database other");
    source.session_of("other").query("select pg_create_logical_replication_slot('pgsluice', 'pgoutput')");
    setup_refused(&source, &target, &program, 1, &["pgsluice", "other"]);
}

#[test]
fn a_slot_in_use_and_a_second_applier() {
    let road = Road::new("create table keyless(id int)");
    let mut first = road.follow();
    let other = Pgsluice::between(&road.source, &road.target);
    // The same archive: its lock says so at once.
    let archive = road.program.archive().display().to_string();
    refused(other.run(&["receive", "--archive", &archive]), 1, &["in use"]);

    let second = other.start(&["apply", "--archive", &archive]);
    for id in 0..20 {
        road.change(&format!("insert into keyless values ({id})"));
    }
    refused(second.wait(seconds(40)), 1, &["pgsluice"]);
    assert!(first.is_running(), "{}", first.log());
    road.finish(first);
}

#[test]
fn an_archive_of_another_source() {
    let road = Road::new("create table t(id int primary key)");
    road.change("insert into t values (1)");
    road.arrives();
    let other = Cluster::prepare_source().fresh().start();
    other.query("create table t(id int primary key)");
    let program = Pgsluice::between(&other, &road.target);
    let archive = road.program.archive().display().to_string();
    let before = (traces(&other), traces(&road.target));
    for command in ["setup", "follow", "receive"] {
        refused(program.run(&[command, "--archive", &archive]), 4, &["system identifier"]);
    }
    assert_eq!((traces(&other), traces(&road.target)), before);
}

#[test]
fn commands_without_an_archive() {
    let (source, target) = pair();
    let program = Pgsluice::between(&source, &target);
    for command in [&["apply"][..], &["sentinel", "get"], &["archive", "list"], &["archive", "verify"]] {
        refused(program.run(command), 1, &["setup"]);
    }
    assert!(!program.archive().exists());
}

#[test]
fn a_damaged_manifest() {
    let road = Road::new("create table t(id int primary key)");
    road.change("insert into t values (1)");
    road.arrives();
    let path = road.program.archive().join("manifest.json");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    let applied = road.target.value("select count(*) from t");
    for bytes in [&whole[..whole.len() / 2], b"", b"{}", &flipped] {
        std::fs::write(&path, bytes).unwrap();
        refused(road.program.run(&["follow", "--endpos", "current"]), 4, &["manifest"]);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    assert_eq!(road.target.value("select count(*) from t"), applied);
    std::fs::write(&path, whole).unwrap();
    road.arrives();
}

#[test]
fn a_damaged_segment_is_found_and_not_applied() {
    let road = Road::new("create table t(id int primary key, note text)");
    road.change("insert into t select i, md5(i::text) from generate_series(1, 1000) i");
    road.program.run(&["receive", "--endpos", "current"]).done();
    let segments = road.program.archive().join("segments");
    let path = std::fs::read_dir(segments)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .unwrap();
    let whole = std::fs::read(&path).unwrap();
    for at in [40, whole.len() / 3, whole.len() / 2] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let verified = road.program.run(&["archive", "verify"]).ends_with(3);
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(format!("{verified}").contains(name.as_ref()), "{verified}");
        let applied = road.program.run(&["apply", "--endpos", "current"]);
        assert!(matches!(applied.code, Some(1 | 4)), "{applied}");
        assert_eq!(road.target.value("select count(*) from t"), "0");
    }
    std::fs::write(&path, whole).unwrap();
    road.arrives();
}

/// Needs a file system of its own, which only root may mount.
#[test]
fn a_full_disk_stops_nothing_for_good() {
    let road = Road::new("create table t(id int primary key, note text)");
    let archive = road.program.archive();
    let segments = archive.join("segments");
    let mount = |arguments: &[&str]| {
        Command::new(arguments[0]).args(&arguments[1..]).output().is_ok_and(|o| o.status.success())
    };
    let place = segments.display().to_string();
    std::fs::create_dir_all(&segments).unwrap();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", &place]) {
        eprintln!("not run: mounting a small file system is not allowed here");
        return;
    }
    road.source.query("alter system set wal_sender_timeout = '2s'");
    road.source.query("select pg_reload_conf()");
    let mut running = road.follow();
    // Random, so that it does not compress into the little room there is.
    let rows = "select i, string_agg(md5(random()::text), '') from generate_series(1, 4000) i, generate_series(1, 40) group by i";
    road.change(&format!("insert into t {rows}"));
    std::thread::sleep(seconds(2));
    let connection = "select pid, confirmed_flush_lsn from pg_stat_replication join pg_replication_slots on pid = active_pid";
    let before = road.source.query(connection);
    // Five times the source's patience.
    std::thread::sleep(seconds(10));
    let after = road.source.query(connection);
    let held = road.target.value("select count(*) from t");
    let alive = running.is_running();
    let enlarged = mount(&["mount", "-o", "remount,size=200m", &place]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert_eq!(before.len(), 1, "{}", running.log());
        assert_eq!(after, before, "the connection was lost, or what is not durable was confirmed");
        assert_eq!(held, "0", "the transaction can't have been durable");
        assert!(alive && enlarged, "{}", running.log());
        road.wait_for("select count(*) from t");
        road.program.run(&["archive", "verify"]).done();
        road.finish(running);
    }));
    mount(&["umount", "-l", &place]);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn setup_is_safe_to_run_again() {
    let road = Road::new("create table t(id int primary key); create table keyless(id int)");
    road.change("insert into t values (1)");
    road.arrives();
    let before = (traces(&road.source), traces(&road.target));
    road.program.run(&["setup", "--keyless", "full"]).done();
    assert_eq!((traces(&road.source), traces(&road.target)), before);
    road.change("insert into t values (2)");
    road.arrives();
}

#[test]
fn what_may_come_back_is_waited_for() {
    let road = Road::new("create table t(id int primary key)");
    let mut running = road.follow();
    road.target.stop(StopMode::Fast);
    road.change("insert into t values (1)");
    std::thread::sleep(seconds(2));
    assert!(running.is_running(), "{}", running.log());
    road.target.start();
    road.finish(running);
}
