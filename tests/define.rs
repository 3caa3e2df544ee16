//! The schema of one database made in another: all of it, after any number of ends, and with some of the tables left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgsluice::copy::{Definition, NotBrought, define, not_brought};
use pgsluice::dump::{Dump, Phase, Programs, Wanted};
use pgsluice::model::Fault;
use pgsluice::pg::{Conninfo, control, defined};
use tokio::runtime::Runtime;

use crate::support::{Cluster, Version, seconds, wait_until};

/// Something of each kind that pg_dump knows.
const EVERYTHING: &str = include_str!("define/everything.sql");

struct Clone {
    source: Cluster,
    target: Cluster,
    folder: tempfile::TempDir,
    runtime: Runtime,
}

impl Clone {
    fn new(schema: &str) -> Clone {
        Clone::between(Cluster::source(), Cluster::target(), schema)
    }

    fn between(source: Cluster, target: Cluster, schema: &str) -> Clone {
        for role in ["app", "\"o'w\"\"n er\""] {
            source.query(&format!("create role {role}"));
            target.query(&format!("create role {role}"));
        }
        source.run_script(schema);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Clone { source, target, folder: tempfile::tempdir().unwrap(), runtime: runtime.unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("schema.dump")
    }

    fn programs(&self) -> Programs {
        let all: Vec<PathBuf> = Version::all().into_iter().map(|version| version.bin).collect();
        let version = self.source.version().major * 10_000 + 1;
        self.runtime.block_on(Programs::among(&all, version)).unwrap()
    }

    fn dump(&self) -> Dump {
        self.dump_wanted(Wanted::default()).unwrap()
    }

    fn dump_wanted(&self, wanted: Wanted) -> Result<Dump, Fault> {
        let (programs, source) = (self.programs(), conninfo(&self.source));
        self.runtime.block_on(programs.dump(&source, &wanted, None, &self.file()))?;
        Dump::open(&programs, &self.file(), wanted)
    }

    fn define(&self, dump: &Dump, phase: Phase) -> Result<Vec<String>, Fault> {
        self.runtime.block_on(run(dump, &conninfo(&self.target), phase, 3))
    }

    #[track_caller]
    fn define_all(&self, dump: &Dump) {
        for phase in Phase::ALL {
            self.define(dump, phase).unwrap_or_else(|fault| panic!("{phase:?}: {fault} ({:?})", fault.hint));
        }
    }

    fn not_brought(&self) -> NotBrought {
        self.runtime.block_on(async {
            let source = control::connect(&conninfo(&self.source), "test").await.unwrap();
            let target = control::connect(&conninfo(&self.target), "test").await.unwrap();
            not_brought(&source, &target).await.unwrap()
        })
    }

    #[track_caller]
    fn assert_equal(&self) {
        assert_same(&schema(&self.source, "postgres"), &schema(&self.target, "postgres"));
        self.assert_complete();
    }

    /// Where versions differ, pg_dump says the same thing in other words; so it is held against what psql makes there of the same dump.
    #[track_caller]
    fn assert_equal_to_psql(&self) {
        let script = self.source.dump(&["--schema-only", "--no-publications", "--no-subscriptions"]);
        let file = self.folder.path().join("script.sql");
        std::fs::write(&file, script).unwrap();
        self.target.query("create database oracle");
        let mut psql = self.target.client("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "oracle", "-f"]).arg(file);
        let done = psql.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_same(&schema(&self.target, "oracle"), &schema(&self.target, "postgres"));
        self.assert_complete();
    }

    /// What the schema does not show.
    #[track_caller]
    fn assert_complete(&self) {
        let invalid = "select count(*) from pg_index where not indisvalid";
        assert_eq!(self.target.value(invalid), self.source.value(invalid));
        let filled = "select string_agg(relname || relispopulated, ',' order by relname) from pg_class where relkind = 'm'";
        assert_eq!(self.target.value(filled), self.source.value(filled));
    }
}

#[track_caller]
fn assert_same(expected: &str, found: &str) {
    if expected != found {
        let (expected, found): (BTreeSet<&str>, BTreeSet<&str>) =
            (expected.lines().collect(), found.lines().collect());
        panic!(
            "missing: {:#?}\ntoo much: {:#?}\n(or in another order)",
            expected.difference(&found),
            found.difference(&expected)
        );
    }
}

fn conninfo(cluster: &Cluster) -> Conninfo {
    Conninfo::parse_with(&cluster.conninfo(), &|_| None).unwrap()
}

/// Runs a phase; what was told of, in order.
async fn run(dump: &Dump, target: &Conninfo, phase: Phase, jobs: usize) -> Result<Vec<String>, Fault> {
    let told = Mutex::new(Vec::new());
    let size = |_: &str, table: &str| if table == "plain" { 1000 } else { 1 };
    let tell = |done: pgsluice::copy::Done<'_>| {
        assert!(done.done <= done.of && done.phase == phase, "{done:?}");
        told.lock().unwrap().push(done.entry.map(|entry| entry.shown()).unwrap_or_default());
    };
    let definition = Definition {
        dump,
        target,
        stream: "s",
        application: "define test",
        jobs,
        maintenance_work_mem: Some("16MB"),
        size: &size,
        told: &tell,
    };
    define(phase, &definition).await?;
    Ok(told.into_inner().unwrap())
}

/// As pg_dump prints it, without what differs from run to run.
fn schema(cluster: &Cluster, database: &str) -> String {
    let arguments = ["--schema-only", "--exclude-schema=pgsluice", "--no-publications", "--no-subscriptions"];
    let script = cluster.dump(&[&arguments[..], &[database]].concat());
    let noise = ["\\restrict ", "\\unrestrict "];
    let lines = script.lines().filter(|line| !noise.iter().any(|noise| line.starts_with(noise)));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn everything_arrives() {
    let clone = Clone::new(EVERYTHING);
    let dump = clone.dump();
    clone.define_all(&dump);
    clone.assert_equal();
    // Once more: nothing is left to do.
    for phase in Phase::ALL {
        assert_eq!(clone.define(&dump, phase).unwrap(), Vec::<String>::new());
    }
    clone.assert_equal();
}

#[test]
fn everything_arrives_on_a_newer_version() {
    let Some(version) = Version::all().into_iter().max_by_key(|version| version.major) else { return };
    let target = Cluster::prepare().version(&version).start();
    let clone = Clone::between(Cluster::source(), target, EVERYTHING);
    clone.define_all(&clone.dump());
    clone.assert_equal_to_psql();
}

#[test]
fn largest_tables_come_first_and_rows_before_indexes() {
    let clone = Clone::new(EVERYTHING);
    let dump = clone.dump();
    clone.define(&dump, Phase::Before).unwrap();
    let indexes = "select count(*) from pg_index where indrelid >= 16384 and indrelid not in
        (select oid from pg_class where relkind = 't' or relnamespace = 'pgsluice'::regnamespace)";
    assert_eq!(clone.target.value(indexes), "0");
    let told = clone.runtime.block_on(run(&dump, &conninfo(&clone.target), Phase::Index, 1)).unwrap();
    assert!(told.iter().take(3).all(|name| name.ends_with(" of public.plain")), "{told:?}");
    let keys = "select count(*) from pg_constraint where contype = 'f'";
    clone.define(&dump, Phase::After).unwrap();
    assert_eq!(clone.target.value(keys), "0");
    let told = clone.define(&dump, Phase::Last).unwrap();
    assert!(told[0].starts_with("fk constraint"), "{told:?}");
    assert!(told.last().unwrap().starts_with("event trigger"), "{told:?}");
}

/// Ends the task or the connections at random moments of each phase; the runs that follow go on.
#[test]
fn after_any_number_of_ends_it_is_the_same() {
    let clone = Clone::new(EVERYTHING);
    let dump = Arc::new(clone.dump());
    let target = conninfo(&clone.target);
    let (mut random, mut ends) = (0x2545_F491_4F6C_DD1D_u64, [0; 4]);
    for (at, phase) in Phase::ALL.into_iter().enumerate() {
        loop {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // At once at first, and late enough at last, whatever the machine is busy with.
            let limit = Duration::from_millis(random % (2 + 20 * ends[at]));
            let (dump, target) = (Arc::clone(&dump), target.clone());
            let task = clone.runtime.spawn(async move { run(&dump, &target, phase, 3).await });
            std::thread::sleep(limit);
            if !task.is_finished() {
                ends[at] += 1;
                if random & 0x10000 == 0 {
                    task.abort();
                } else {
                    clone.target.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'define test'");
                }
            }
            match clone.runtime.block_on(task) {
                Ok(Ok(_)) => break,
                Ok(Err(fault)) => assert!(
                    fault.sqlstate.is_none() || fault.sqlstate.as_deref() == Some("57P01"),
                    "{phase:?}: {fault} {:?}",
                    fault.sqlstate
                ),
                Err(_aborted) => {}
            }
        }
    }
    assert!(ends.iter().all(|ends| *ends > 0), "{ends:?}");
    clone.assert_equal();
}

#[test]
fn what_is_there_already_is_named_and_nothing_is_changed() {
    let clone = Clone::new(EVERYTHING);
    clone.target.query("create table part_1(x int)");
    let before = schema(&clone.target, "postgres");
    let dump = clone.dump();
    let fault = clone.define(&dump, Phase::Before).unwrap_err();
    assert!(
        fault.message.contains("making table public.part_1: relation \"part_1\" already exists"),
        "{fault}"
    );
    assert!(fault.hint.unwrap().contains("empty database"));
    assert_eq!(schema(&clone.target, "postgres"), before);
    clone.target.query("drop table part_1");
    clone.define_all(&dump);
    clone.assert_equal();
}

#[test]
fn an_entry_that_fails_is_named_and_made_later() {
    let clone = Clone::new(EVERYTHING);
    let dump = clone.dump();
    clone.define(&dump, Phase::Before).unwrap();
    clone.target.query("insert into plain(id, note) values (1, 'a'), (2, 'a')");
    let fault = clone.define(&dump, Phase::Index).unwrap_err();
    assert!(
        fault
            .message
            .contains("making constraint plain_note_key of public.plain: could not create unique index"),
        "{fault}"
    );
    clone.target.query("delete from plain where id = 2; insert into a values (1, 77)");
    clone.define(&dump, Phase::Index).unwrap();
    clone.target.query("drop function public.trg() cascade");
    let fault = clone.define(&dump, Phase::After).unwrap_err();
    assert!(
        fault.message.contains("function public.trg() does not exist")
            && fault.message.contains("making trigger "),
        "{fault}"
    );
    clone.target.query("create function trg() returns trigger language plpgsql as $$begin return new; end$$");
    clone.define(&dump, Phase::After).unwrap();
    let fault = clone.define(&dump, Phase::Last).unwrap_err();
    assert!(
        fault.message.contains("making fk constraint a_b_id_fkey of public.a: insert or update"),
        "{fault}"
    );
    clone.target.query("delete from a");
    clone.define(&dump, Phase::Last).unwrap();
    clone.assert_equal();
}

/// What a killed process has begun the server still does; who comes next waits for it.
#[test]
fn who_comes_again_waits_for_what_is_still_being_made() {
    let clone = Clone::new("create table t(id int primary key, note text)");
    let dump = clone.dump();
    clone.define(&dump, Phase::Before).unwrap();
    let key = dump.units(Phase::Index)[0].main.key();
    let session = clone.target.session();
    session.query(&format!(
        "begin; insert into pgsluice.defined values ('s', '{key}'); alter table t add primary key (id)"
    ));
    std::thread::scope(|scope| {
        let again = scope.spawn(|| clone.define(&dump, Phase::Index).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!again.is_finished());
        session.query("commit");
        again.join().unwrap();
    });
    for phase in [Phase::After, Phase::Last] {
        clone.define(&dump, phase).unwrap();
    }
    clone.assert_equal();
}

#[test]
fn tables_can_be_left_out() {
    let clone = Clone::new(EVERYTHING);
    let (dump, left_out) =
        clone.dump().choose(&[], &["plain".parse().unwrap(), "part_2".parse().unwrap()]).unwrap();
    for line in ["table public.plain", "table public.part_2", "table public.part_2_1"] {
        assert!(left_out.iter().any(|left| left == line), "{line}: {left_out:#?}");
    }
    for start in [
        "view public.grouped, which needs",
        "materialized view public.mv, which needs table public.plain",
        "materialized view public.mv2, which needs",
        "function f(integer) in schema public, which needs table public.plain",
        "function fg() in schema public, which needs",
        "fk constraint Or der x_plain_id_fkey of \"Sa \"\"les\".\"Or der x\", which needs",
    ] {
        assert!(left_out.iter().any(|left| left.starts_with(start)), "{start}: {left_out:#?}");
    }
    clone.define_all(&dump);
    let tables = "select string_agg(relname, ',' order by relname) from pg_class
                   where relkind in ('r', 'p', 'v', 'm') and relnamespace = 'public'::regnamespace and relname ~ '^(part(_[0-9])*|plain|mv.*|grouped|a)$'";
    assert_eq!(clone.target.value(tables), "a,part,part_1");
    let sequences = "select count(*) from pg_class where relname = 'plain_id_seq'";
    assert_eq!(clone.target.value(sequences), "0");

    // One partition alone.
    clone.target.query("create database other");
    let other = Conninfo::parse_with(&clone.target.conninfo_of("other"), &|_| None).unwrap();
    let (dump, _) = clone.dump().choose(&["part_1".parse().unwrap()], &[]).unwrap();
    for phase in Phase::ALL {
        clone.runtime.block_on(run(&dump, &other, phase, 3)).unwrap();
    }
    let other = clone.target.session_of("other");
    assert_eq!(other.value(tables), "part_1");
    let keys =
        "select count(*) from pg_index where indrelid = 'part_1'::regclass and indisprimary and indisvalid";
    assert_eq!(other.value(keys), "1");
}

#[test]
fn owners_privileges_and_tablespaces_can_be_left_out() {
    let source = Cluster::source();
    let space = source.folder().join("space");
    source.query(&format!("copy (select 1) to program 'mkdir {}'", space.display()));
    source.query(&format!("create tablespace far location '{}'", space.display()));
    let clone = Clone::between(source, Cluster::target(), EVERYTHING);
    clone.source.run_script("create role gone login createdb; create table t(id int primary key using index tablespace far) tablespace far; alter table t owner to gone; grant select on plain to gone");
    let told = clone.not_brought();
    assert_eq!(
        told.lacking,
        ["CREATE ROLE \"gone\" LOGIN CREATEDB", "CREATE TABLESPACE \"far\" LOCATION '…'"]
    );
    let dump = clone.dump();
    let fault = clone.define(&dump, Phase::Before).unwrap_err();
    assert!(fault.hint.is_some_and(|hint| hint.contains("leave")), "{}", fault.message);
    let dump = clone.dump_wanted(Wanted { owners: false, privileges: false, tablespaces: false }).unwrap();
    clone.define_all(&dump);
    let owners = "select string_agg(distinct pg_get_userbyid(relowner), ',') from pg_class where relname in ('t', 'plain', 'Or der\nx')";
    assert_eq!(clone.target.value(owners), "postgres");
}

#[test]
fn what_is_not_brought_is_told() {
    let clone = Clone::new(
        "create table t(id int primary key); create publication p for table t; create unlogged table quick(id int);
         alter database postgres set work_mem = '8MB';
         create materialized view m as select 1 as x; alter role app in database postgres set work_mem = '9MB'",
    );
    let told = clone.not_brought();
    assert_eq!(told.lacking, Vec::<String>::new());
    let expected = [
        "setting of the database: ALTER DATABASE postgres SET work_mem",
        "setting of role app in this database: work_mem",
        "publication p",
        "rows of unlogged table public.quick: their changes are not in the WAL",
        "materialized view public.m is refreshed at the end, and not later",
    ];
    assert_eq!(told.left, expected);
}

#[test]
fn our_own_things_are_left_where_they_are() {
    let clone = Clone::new("create table t(id int primary key)");
    clone.source.run_script(
        "create schema pgsluice; create table pgsluice.progress(x int primary key);
         create function pgsluice.capture_ddl() returns event_trigger language plpgsql as $$begin end$$;
         create event trigger pgsluice_ddl on ddl_command_end execute function pgsluice.capture_ddl()",
    );
    clone.define_all(&clone.dump());
    assert_eq!(clone.target.value("select count(*) from pg_event_trigger"), "0");
    let ours = "select string_agg(relname, ',') from pg_class where relkind = 'r' and relnamespace = 'pgsluice'::regnamespace";
    assert_eq!(clone.target.value(ours), "defined");
    clone.runtime.block_on(async {
        let mut client = control::connect(&conninfo(&clone.target), "test").await.unwrap();
        assert!(defined::drop(&mut client, "s").await.unwrap() > 0);
        assert_eq!(defined::drop(&mut client, "s").await.unwrap(), 0);
    });
    assert_eq!(clone.target.value("select count(*) from pg_namespace where nspname = 'pgsluice'"), "0");
}

#[test]
fn programs_that_are_missing_or_too_old_are_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let find = |folders: &[&Path], version| {
        let folders: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
        runtime.block_on(Programs::among(&folders, version))
    };
    let empty = tempfile::tempdir().unwrap();
    let fault = find(&[empty.path(), Path::new("/nowhere")], 180_001).unwrap_err();
    assert!(fault.message.contains("not installed") && fault.hint.unwrap().contains("postgresql-client-18"));
    let own = Version::default_one();
    let fault = find(&[&own.bin], 990_000).unwrap_err();
    assert!(fault.message.contains(&format!("the newest one is of version {}", own.major)), "{fault}");
    assert_eq!(find(&[empty.path(), &own.bin], 90_600).unwrap().major(), own.major);
    // A wrapper chooses by itself, so it is passed over.
    for name in ["pg_dump", "pg_restore"] {
        std::os::unix::fs::symlink("/bin/echo", empty.path().join(name)).unwrap();
    }
    assert!(find(&[empty.path()], 130_000).is_err());
    // Of several the nearest one that is new enough.
    let all: Vec<Version> = Version::all();
    let folders: Vec<&Path> = all.iter().rev().map(|version| version.bin.as_path()).collect();
    for version in &all {
        assert_eq!(find(&folders, version.major * 10_000 + 3).unwrap().major(), version.major);
    }
}

#[test]
fn a_dump_that_fails_says_why_without_secrets() {
    let clone = Clone::new("create table t(id int)");
    let programs = clone.programs();
    let dump = |conninfo: &str, snapshot| {
        let conninfo = Conninfo::parse_with(conninfo, &|_| None).unwrap();
        clone.runtime.block_on(programs.dump(&conninfo, &Wanted::default(), snapshot, &clone.file()))
    };
    let wrong = clone.source.conninfo().replace("user=postgres", "user=nobody password=SECRET");
    let fault = dump(&wrong, None).unwrap_err();
    assert!(fault.message.contains("role \"nobody\" does not exist"), "{fault}");
    assert!(!format!("{fault:?}").contains("SECRET"));
    assert!(dump(&clone.source.conninfo(), Some("00000000-1")).unwrap_err().message.contains("snapshot"));
    assert!(!clone.file().exists());

    let session = clone.source.session();
    session.query("begin isolation level repeatable read");
    let snapshot = session.value("select pg_export_snapshot()");
    clone.source.query("create table later(id int)");
    dump(&clone.source.conninfo(), Some(&snapshot)).unwrap();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(clone.file()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let dump = Dump::open(&programs, &clone.file(), Wanted::default()).unwrap();
    let names: Vec<&str> = dump.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert!(names.contains(&"t") && !names.contains(&"later"), "{names:?}");
    assert_eq!(std::fs::read_dir(clone.folder.path()).unwrap().count(), 1);
}

#[test]
fn more_tables_than_a_transaction_has_locks_for() {
    let target = Cluster::prepare().set("max_locks_per_transaction", "10").start();
    let schema = "do $$begin for i in 1..1500 loop execute format('create table t%s(id int, note text)', i); end loop; end$$";
    let clone = Clone::between(
        Cluster::prepare_source().set("max_locks_per_transaction", "1000").start(),
        target,
        schema,
    );
    let dump = clone.dump();
    let target = conninfo(&clone.target);
    let task = clone.runtime.spawn({
        let (dump, target) = (clone.dump(), target.clone());
        async move { run(&dump, &target, Phase::Before, 1).await }
    });
    let some = "select count(*) from pg_class where relkind = 'r' and relname like 't%' having count(*) > 99";
    // Who asks may meet the shared memory full, as everybody there does.
    let session = clone.target.session();
    wait_until(seconds(60), "some tables are there", || {
        session.try_query(some).is_ok_and(|rows| !rows.is_empty())
    });
    task.abort();
    let _ = clone.runtime.block_on(task);
    let told = clone.define(&dump, Phase::Before).unwrap();
    assert!(!told.is_empty() && told.len() < 30, "{told:?}");
    assert!(clone.define(&dump, Phase::Before).unwrap().is_empty());
    clone.assert_equal();
}

#[test]
fn a_source_with_a_password_and_a_role_without_rights() {
    let clone = Clone::new("create role reader login password 'SECRET'; create table t(id int primary key)");
    let hba = clone.source.data_folder().join("pg_hba.conf");
    let rules = "host all postgres 127.0.0.1/32 trust\nhost all reader 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(&hba, rules).unwrap();
    clone.source.query("select pg_reload_conf()");
    wait_until(seconds(10), "the rules are in force", || {
        clone.source.value("select count(*) from pg_hba_file_rules where auth_method = 'scram-sha-256'")
            == "1"
    });
    let programs = clone.programs();
    let dump = |password: &str| {
        let text =
            clone.source.conninfo().replace("user=postgres", &format!("user=reader password={password}"));
        let conninfo = Conninfo::parse_with(&text, &|_| None).unwrap();
        clone.runtime.block_on(programs.dump(&conninfo, &Wanted::default(), None, &clone.file()))
    };
    let fault = dump("SECRET-wrong").unwrap_err();
    assert!(fault.message.contains("password authentication failed"), "{fault}");
    assert!(!format!("{fault:?}").contains("SECRET"));
    let fault = dump("SECRET").unwrap_err();
    assert!(fault.message.contains("permission denied for table t"), "{fault}");
    clone.source.query("grant select on t to reader");
    dump("SECRET").unwrap();
}
