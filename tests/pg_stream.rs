//! The replication stream and the applier's pipeline on a real server.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::{Cluster, StopMode, Version, lsn, seconds, wait_until};
use pgsluice::model::{Fault, Position, Remedy};
use pgsluice::pg::{
    Conninfo, Event, Pipeline, PipelineOptions, ReplicationStream, Reply, SnapshotAction, Status,
    TransactionStatus, publication_names,
};
use tokio::runtime::Runtime;

fn wait<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(future)
}

fn conninfo(cluster: &Cluster) -> Conninfo {
    Conninfo::parse_with(&cluster.conninfo(), &|_| None).unwrap()
}

fn stream(cluster: &Cluster) -> ReplicationStream {
    wait(ReplicationStream::connect(&conninfo(cluster), "receiver", &[]))
        .unwrap_or_else(|fault| panic!("{fault:?}"))
}

fn shown(fault: &Fault) -> String {
    format!(
        "{} | {} | {}",
        fault.sqlstate.as_deref().unwrap_or(""),
        fault.message,
        fault.hint.as_deref().unwrap_or("")
    )
}

/// The error of what can't be shown when it succeeds.
#[track_caller]
fn refused<T>(result: Result<T, Fault>) -> Fault {
    result.err().expect("succeeded")
}

const OPTIONS: [(&str, &str); 2] = [("proto_version", "1"), ("publication_names", "\"pub\"")];

fn applier<'a>() -> PipelineOptions<'a> {
    PipelineOptions {
        application_name: "applier",
        client_encoding: None,
        synchronous_commit: Some("off"),
        replica_role: true,
    }
}

#[test]
fn changes_stream_and_confirmations_move_the_slot() {
    let cluster = Cluster::source();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    cluster.psql("create publication pub for all tables");
    let mut commands = stream(&cluster);
    let identity = wait(commands.identify_system()).unwrap();
    assert_eq!(
        identity.system_identifier.to_string(),
        cluster.value("select system_identifier from pg_control_system()")
    );
    assert_eq!((identity.timeline, identity.database.as_str()), (1, "postgres"));
    assert!(wait(commands.timeline_history(1)).unwrap().is_empty());
    let slot = wait(commands.create_slot("s1", "pgoutput", false, SnapshotAction::Export)).unwrap();
    let snapshot = slot.snapshot_name.clone().unwrap();
    cluster.query(&format!(
        "begin isolation level repeatable read; set transaction snapshot '{snapshot}'; commit"
    ));
    assert!(slot.consistent_point >= identity.position);
    assert_eq!(commands.server_version_num() / 10_000, cluster.version().major);

    cluster.pgbench(&["-n", "-c", "4", "-t", "250"]);
    let end = Position(lsn(&cluster.current_lsn()));
    let (mut receiver, mut sender) = wait(commands.start("s1", slot.consistent_point, &OPTIONS)).unwrap();
    let (mut begins, mut commits, mut updates, mut inserts, mut last) = (0, 0, 0, 0, Position::ZERO);
    wait(async {
        while last < end {
            match receiver.next().await.unwrap() {
                Event::Data { message, .. } => match message[0] {
                    b'B' => begins += 1,
                    b'C' => commits += 1,
                    b'U' => updates += 1,
                    b'I' => inserts += 1,
                    b'R' | b'Y' => {}
                    other => panic!("message {other}"),
                },
                Event::Keepalive { wal_end, .. } => last = wal_end,
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!((begins, commits, updates, inserts), (1000, 1000, 3000, 1000));
    let confirmed = "select confirmed_flush_lsn from pg_replication_slots";
    let before = cluster.value(confirmed);
    // Nothing is confirmed by what is only written.
    wait(sender.send(Status { written: end, ..Status::default() })).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(cluster.value(confirmed), before);
    let status = Status { written: end, flushed: end, applied: end, reply_requested: true };
    wait(sender.send(status)).unwrap();
    wait_until(seconds(5), "confirmed", || Position(lsn(&cluster.value(confirmed))) == end);
    // The reply that was asked for.
    wait(async {
        let answer = tokio::time::timeout(Duration::from_secs(5), receiver.next()).await.unwrap().unwrap();
        assert!(matches!(answer, Event::Keepalive { .. }), "{answer:?}");
    });

    // A second receiver is told who is there.
    let fault = refused(wait(stream(&cluster).start("s1", end, &OPTIONS)));
    assert!(
        shown(&fault).contains("55006") && shown(&fault).contains("another receiver"),
        "{}",
        shown(&fault)
    );
    assert_eq!(fault.remedy, Remedy::Retry);
    wait(sender.finish()).unwrap();
    let fault = wait(async {
        loop {
            if let Err(fault) = receiver.next().await {
                return fault;
            }
        }
    });
    assert_eq!(fault.remedy, Remedy::Retry);
    let mut commands = stream(&cluster);
    wait(commands.drop_slot("s1", true)).unwrap();
    assert_eq!(cluster.value("select count(*) from pg_replication_slots"), "0");
}

#[test]
fn a_status_task_of_its_own_keeps_a_stalled_receiver_alive() {
    let cluster = Cluster::source();
    cluster.psql("create table t(id int); create publication pub for all tables");
    let mut commands =
        wait(ReplicationStream::connect(&conninfo(&cluster), "receiver", &[("wal_sender_timeout", "1s")]))
            .unwrap();
    let slot = wait(commands.create_slot("s1", "pgoutput", false, SnapshotAction::Nothing)).unwrap();
    assert_eq!(slot.snapshot_name, None);
    let (mut receiver, mut sender) = wait(commands.start("s1", Position::ZERO, &OPTIONS)).unwrap();
    cluster.psql("insert into t select generate_series(1, 200000)");
    wait(async {
        let reports = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                sender.send(Status::default()).await.unwrap();
            }
        });
        // Nothing is read for three times the server's patience.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut inserts = 0;
        while inserts < 200_000 {
            if let Event::Data { message: [b'I', ..], .. } = receiver.next().await.unwrap() {
                inserts += 1;
            }
        }
        reports.abort();
    });
}

#[test]
fn hostile_names_stay_names() {
    let cluster = Cluster::source();
    let names = [r#"a"b"#, "a'b", r"a\b", "a;b", "a--b", "a,b", "Ä", "$$", " "];
    for name in names {
        let quoted = pgsluice::pg::quote_ident(name);
        cluster.query(&format!("create publication {quoted} for all tables"));
    }
    cluster.psql("create table t(id int primary key)");
    let mut commands = stream(&cluster);
    wait(commands.create_slot("s1", "pgoutput", true, SnapshotAction::Nothing)).unwrap();
    cluster.psql("insert into t values (1)");
    // An error drops the temporary slots of its connection.
    let mut others = stream(&cluster);
    // Before the minor versions of August 2026 replication commands don't know a quote inside quotes, and say so.
    let is_one_of = |fault: &Fault, expected: &str, name: &str| {
        let code = fault.sqlstate.as_deref();
        let known = code == Some(expected) || (name.contains('"') && code == Some("42601"));
        assert!(known, "{}", shown(fault));
    };
    for name in names {
        let fault = refused(wait(others.create_slot(name, "pgoutput", true, SnapshotAction::Nothing)));
        is_one_of(&fault, "42602", name);
        is_one_of(&refused(wait(others.drop_slot(name, false))), "42704", name);
    }
    let list = publication_names(names);
    let (mut receiver, _sender) =
        wait(commands.start("s1", Position::ZERO, &[("proto_version", "1"), ("publication_names", &list)]))
            .unwrap();
    let found = wait(async {
        loop {
            match receiver.next().await.unwrap() {
                Event::Data { message: [b'I', ..], .. } => return true,
                _ => continue,
            }
        }
    });
    assert!(found);
}

#[test]
fn faults_of_slots_say_who_can_mend_them() {
    let cluster = Cluster::source();
    cluster.query("create database other");
    cluster.query("create publication pub for all tables");
    cluster.query("select pg_create_logical_replication_slot('there', 'pgoutput')");
    let start = |slot: &str| refused(wait(stream(&cluster).start(slot, Position::ZERO, &OPTIONS)));
    let fault = start("missing");
    assert_eq!(
        (fault.remedy, fault.sqlstate.as_deref()),
        (Remedy::Person, Some("42704")),
        "{}",
        shown(&fault)
    );
    let elsewhere = Conninfo::parse_with(&cluster.conninfo_of("other"), &|_| None).unwrap();
    let fault = wait(async {
        let commands = ReplicationStream::connect(&elsewhere, "receiver", &[]).await.unwrap();
        refused(commands.start("there", Position::ZERO, &OPTIONS).await)
    });
    assert_eq!(fault.remedy, Remedy::Person, "{}", shown(&fault));
    let mut commands = stream(&cluster);
    let fault = refused(wait(commands.create_slot("there", "pgoutput", false, SnapshotAction::Nothing)));
    assert_eq!((fault.remedy, fault.sqlstate.as_deref()), (Remedy::Stop, Some("42710")));
    let fault = refused(wait(commands.create_slot("new", "no_such_plugin", false, SnapshotAction::Nothing)));
    assert_eq!(fault.remedy, Remedy::Stop, "{}", shown(&fault));
    // A connection goes on after an error, and ends with its server.
    assert_eq!(wait(commands.simple("select 1; select null")).unwrap(), [vec![Some("1".into())], vec![None]]);

    let (mut receiver, _sender) = wait(commands.start("there", Position::ZERO, &OPTIONS)).unwrap();
    cluster.stop(StopMode::Immediate);
    let fault = wait(async {
        loop {
            if let Err(fault) = receiver.next().await {
                return fault;
            }
        }
    });
    assert_eq!(fault.remedy, Remedy::Retry, "{}", shown(&fault));

    let replica_level = Cluster::prepare().set("wal_level", "replica").start();
    let fault =
        refused(wait(stream(&replica_level).create_slot("s1", "pgoutput", false, SnapshotAction::Nothing)));
    assert!(shown(&fault).contains("ALTER SYSTEM SET wal_level"), "{}", shown(&fault));
    assert_eq!(fault.remedy, Remedy::Stop);
}

#[test]
fn a_lost_slot_is_for_a_person() {
    let cluster = Cluster::prepare_source()
        .set("max_slot_wal_keep_size", "1MB")
        .set("max_wal_size", "32MB")
        .set("min_wal_size", "32MB")
        .start();
    cluster.psql("create table t(x text); create publication pub for all tables");
    cluster.query("select pg_create_logical_replication_slot('s1', 'pgoutput')");
    let invalid = "select count(*) from pg_replication_slots where wal_status = 'lost'";
    wait_until(seconds(60), "the slot is lost", || {
        cluster.query("insert into t select repeat('x', 1000) from generate_series(1, 20000)");
        cluster.query("select pg_switch_wal()");
        cluster.query("checkpoint");
        cluster.value(invalid) == "1"
    });
    let fault = refused(wait(stream(&cluster).start("s1", Position::ZERO, &OPTIONS)));
    assert_eq!(
        (fault.remedy, fault.sqlstate.as_deref()),
        (Remedy::Person, Some("55000")),
        "{}",
        shown(&fault)
    );
}

#[test]
fn a_large_pipeline_flows_both_ways_at_once() {
    let cluster = Cluster::target();
    flow(&cluster, &cluster.conninfo());
}

#[test]
fn a_large_pipeline_flows_through_tls_too() {
    // Of a build that has TLS, which those of some packages lack.
    let packaged = Version::all().into_iter().rfind(|version| version.bin.starts_with("/usr/lib/postgresql"));
    let cluster = Cluster::prepare().version(&packaged.unwrap_or_else(Version::default_one)).start();
    encrypt(&cluster);
    flow(&cluster, &format!("{} sslmode=require", cluster.conninfo()));
}

async fn connect_encrypted(conninfo: &Conninfo, encrypted: bool) -> Pipeline {
    let mut pipeline = Pipeline::connect(conninfo, &applier()).await.unwrap();
    let rows = pipeline.simple("select ssl from pg_stat_ssl where pid = pg_backend_pid()").await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some(if encrypted { "t" } else { "f" }));
    pipeline
}

/// Turns TLS on, with a certificate that nobody checks.
fn encrypt(cluster: &Cluster) {
    let owner = std::fs::metadata(cluster.data_folder()).unwrap();
    let arguments =
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=any -keyout server.key -out server.crt";
    let mut openssl = std::process::Command::new("openssl");
    let output = openssl.args(arguments.split(' ')).current_dir(cluster.data_folder()).output().unwrap();
    assert!(output.status.success());
    for name in ["server.key", "server.crt"] {
        let path = cluster.data_folder().join(name);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    cluster.set("ssl", "on");
    let on = "select count(*) from pg_settings where name = 'ssl' and setting = 'on'";
    wait_until(seconds(10), on, || cluster.value(on) == "1");
}

fn flow(cluster: &Cluster, text: &str) {
    cluster.psql("create table t(id int, note text)");
    let conninfo = Conninfo::parse_with(text, &|_| None).unwrap();
    const ROWS: u64 = 100_000;
    wait(async {
        let pipeline = connect_encrypted(&conninfo, text.contains("require")).await;
        let (mut writer, mut reader) = pipeline.into_halves();
        let note = "n".repeat(50);
        let writing = tokio::spawn(async move {
            writer.parse("begin", "BEGIN").unwrap();
            writer.bind_execute("begin", []).unwrap();
            writer.parse("insert", "INSERT INTO public.t VALUES ($1, $2) RETURNING id, note").unwrap();
            for id in 0..ROWS {
                let id = id.to_string();
                let note = (!id.ends_with('7')).then_some(note.as_bytes());
                writer.bind_execute("insert", [Some(id.as_bytes()), note]).unwrap();
                writer.drain().await.unwrap();
            }
            writer.parse("", "COMMIT").unwrap();
            writer.bind_execute("", []).unwrap();
            writer.sync().unwrap();
            writer.flush().await.unwrap();
            assert_eq!(writer.pending(), 0);
            writer
        });
        let (mut rows, mut touched, mut nulls) = (0, 0, 0);
        loop {
            match reader.next_result().await.unwrap() {
                Reply::DataRow(mut fields) => {
                    assert_eq!(fields.next().unwrap().unwrap(), rows.to_string().as_bytes());
                    nulls += u64::from(fields.next().unwrap().is_none());
                    rows += 1;
                }
                Reply::CommandComplete { tag: "BEGIN" | "COMMIT", rows } => assert_eq!(rows, None),
                Reply::CommandComplete { tag, rows } => {
                    assert_eq!(tag, "INSERT 0 1");
                    touched += rows.unwrap();
                }
                Reply::ReadyForQuery { status } => {
                    assert_eq!(status, TransactionStatus::Idle);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((rows, touched, nulls), (ROWS, ROWS, ROWS / 10));
        writing.await.unwrap().terminate().await.unwrap();
    });
    assert_eq!(cluster.value("select count(*) || ' ' || count(note) from t"), "100000 90000");
}

/// Reads up to ReadyForQuery; what each answer was, in a word.
async fn answers(pipeline: &mut Pipeline) -> Vec<String> {
    let mut answers = Vec::new();
    loop {
        answers.push(match pipeline.reader.next().await.unwrap() {
            Reply::ParseComplete => "parse".into(),
            Reply::BindComplete => "bind".into(),
            Reply::CloseComplete => "close".into(),
            Reply::CommandComplete { tag, rows } => format!("{tag}={rows:?}"),
            Reply::DataRow(fields) => format!("row{}", fields.count()),
            Reply::CopyInResponse => "copy".into(),
            Reply::Error(fault) => format!("error {}", fault.sqlstate.unwrap()),
            Reply::Notice { sqlstate, .. } => format!("notice {sqlstate}"),
            Reply::ReadyForQuery { status } => {
                answers.push(format!("{status:?}"));
                return answers;
            }
        });
    }
}

#[test]
fn an_error_is_over_at_the_next_sync() {
    let cluster = Cluster::target();
    cluster.psql("create table t(id int primary key)");
    wait(async {
        let mut pipeline = Pipeline::connect(&conninfo(&cluster), &applier()).await.unwrap();
        pipeline.writer.parse("i", "INSERT INTO public.t VALUES ($1)").unwrap();
        pipeline.writer.parse("b", "BEGIN").unwrap();
        pipeline.writer.bind_execute("b", []).unwrap();
        for id in ["1", "2", "1", "3"] {
            pipeline.writer.bind_execute("i", [Some(id.as_bytes())]).unwrap();
        }
        pipeline.writer.sync().unwrap();
        pipeline.writer.flush().await.unwrap();
        let expected = [
            "parse",
            "parse",
            "bind",
            "BEGIN=None",
            "bind",
            "INSERT 0 1=Some(1)",
            "bind",
            "INSERT 0 1=Some(1)",
            "bind",
            "error 23505",
            "Failed",
        ];
        assert_eq!(answers(&mut pipeline).await, expected);
        // The names of statements outlive the failed transaction.
        assert_eq!(pipeline.simple("ROLLBACK").await.unwrap().len(), 0);
        pipeline.writer.bind_execute("i", [Some(&b"7"[..])]).unwrap();
        pipeline.writer.bind_execute("i", [Some(&b"not a number"[..])]).unwrap();
        pipeline.writer.sync().unwrap();
        pipeline.writer.close_statement("i").unwrap();
        pipeline.writer.parse("i", "UPDATE public.t SET id = id + 1 WHERE id = $1::int4").unwrap();
        pipeline.writer.bind_execute("i", [Some(&b"9"[..])]).unwrap();
        pipeline.writer.parse("", "DROP TABLE IF EXISTS public.none; ").unwrap();
        pipeline.writer.bind_execute("", []).unwrap();
        pipeline.writer.sync().unwrap();
        pipeline.writer.flush().await.unwrap();
        assert_eq!(answers(&mut pipeline).await, ["bind", "INSERT 0 1=Some(1)", "error 22P02", "Idle"]);
        let expected = [
            "close",
            "parse",
            "bind",
            "UPDATE 0=Some(0)",
            "parse",
            "bind",
            "notice 00000",
            "DROP TABLE=None",
            "Idle",
        ];
        assert_eq!(answers(&mut pipeline).await, expected);
        // One transaction under a Sync: the row before the error is gone with it.
        let rows = pipeline.simple("SELECT count(*) FROM public.t").await.unwrap();
        assert_eq!(rows[0][0].as_deref(), Some("0"));
        let fault = pipeline.simple("SELECT 1; SELECT 1/0").await.unwrap_err();
        assert_eq!((fault.remedy, fault.sqlstate.as_deref()), (Remedy::Stop, Some("22012")));
        let fault = pipeline.simple("COPY public.t TO STDOUT").await.unwrap_err();
        assert!(fault.message.contains("COPY"));
    });
}

#[test]
fn too_many_parameters_are_an_error_here() {
    let cluster = Cluster::target();
    wait(async {
        let mut pipeline = Pipeline::connect(&conninfo(&cluster), &applier()).await.unwrap();
        let mut pending = |count| {
            let result = pipeline.writer.bind_execute("", std::iter::repeat_n(None, count));
            (result.is_ok(), pipeline.writer.pending())
        };
        let (accepted, size) = pending(65_535);
        assert!(accepted);
        // Nothing of the refused one is left to be sent.
        assert_eq!(pending(65_536), (false, size));
    });
}

#[test]
fn copy_goes_through_the_pipeline() {
    let cluster = Cluster::target();
    cluster.psql("create table t(id int primary key, note text)");
    wait(async {
        let mut pipeline = Pipeline::connect(&conninfo(&cluster), &applier()).await.unwrap();
        let copy = |pipeline: &mut Pipeline, text: &[u8]| {
            let writer = &mut pipeline.writer;
            writer.parse("", "COPY public.t FROM STDIN").unwrap();
            writer.bind_execute("", []).unwrap();
            writer.copy_data(text).unwrap();
            writer.copy_done().unwrap();
        };
        copy(&mut pipeline, b"1\tone\n2\t\\N\n");
        copy(&mut pipeline, b"3\tthree\n");
        pipeline.writer.sync().unwrap();
        pipeline.writer.flush().await.unwrap();
        let expected =
            ["parse", "bind", "copy", "COPY 2=Some(2)", "parse", "bind", "copy", "COPY 1=Some(1)", "Idle"];
        assert_eq!(answers(&mut pipeline).await, expected);
        // A COPY that fails, with others behind it.
        copy(&mut pipeline, b"4\tfour\n3\tagain\n");
        copy(&mut pipeline, b"5\tfive\n");
        pipeline.writer.sync().unwrap();
        pipeline.writer.flush().await.unwrap();
        assert_eq!(answers(&mut pipeline).await, ["parse", "bind", "copy", "error 23505", "Idle"]);
        pipeline.writer.parse("", "COPY public.t FROM STDIN").unwrap();
        pipeline.writer.bind_execute("", []).unwrap();
        pipeline.writer.copy_data(b"6\tsix\n").unwrap();
        pipeline.writer.copy_fail("changed my mind").unwrap();
        pipeline.writer.sync().unwrap();
        pipeline.writer.flush().await.unwrap();
        assert_eq!(answers(&mut pipeline).await, ["parse", "bind", "copy", "error 57014", "Idle"]);
        let rows = pipeline.simple("SELECT count(*) FROM public.t").await.unwrap();
        assert_eq!(rows[0][0].as_deref(), Some("3"));
    });
}

#[test]
fn a_broken_pipeline_leaves_its_outcome_open() {
    let cluster = Cluster::target();
    wait(async {
        let mut pipeline = Pipeline::connect(&conninfo(&cluster), &applier()).await.unwrap();
        pipeline
            .writer
            .parse("", "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())")
            .unwrap();
        pipeline.writer.bind_execute("", []).unwrap();
        pipeline.writer.sync().unwrap();
        pipeline.writer.flush().await.unwrap();
        let fault = loop {
            match pipeline.reader.next_result().await.unwrap() {
                Reply::Error(fault) => break fault,
                Reply::DataRow(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((fault.remedy, fault.sqlstate.as_deref()), (Remedy::Reread, Some("57P01")));
        assert_eq!(pipeline.reader.next_result().await.unwrap_err().remedy, Remedy::Reread);
    });
}

/// PostgreSQL 15 fails, 18 would leave changes out with a warning.
#[test]
fn a_publication_younger_than_its_slot_stops_the_stream() {
    for version in Version::all() {
        let cluster = Cluster::prepare_source().version(&version).start();
        cluster.psql("create table t(id int)");
        cluster.query("select pg_create_logical_replication_slot('s1', 'pgoutput')");
        cluster.query("insert into t values (1)");
        cluster.query("create publication pub for all tables");
        cluster.query("insert into t values (2)");
        let commands = stream(&cluster);
        assert_eq!(commands.server_version_num() / 10_000, version.major);
        let (mut receiver, _sender) = wait(commands.start("s1", Position::ZERO, &OPTIONS)).unwrap();
        let fault = wait(async {
            loop {
                match receiver.next().await {
                    Ok(Event::Data { message: [b'I', ..], .. }) => {
                        panic!("{version:?}: a change after the skipped one")
                    }
                    Ok(_) => {}
                    Err(fault) => return fault,
                }
            }
        });
        assert_eq!(fault.remedy, Remedy::Person, "{version:?}: {}", shown(&fault));
        assert!(shown(&fault).contains("publication \"pub\""), "{}", shown(&fault));
    }
}
