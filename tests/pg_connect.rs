//! Connecting to real servers: TLS, authentication, names, and what is said when it does not work.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{Cluster, Road, Version};
use pgsluice::model::{Fault, Remedy};
use pgsluice::pg::{Conninfo, Pipeline, PipelineOptions, ReplicationStream, control};
use tokio::runtime::Runtime;

fn wait<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(future)
}

/// What a connection string leads to, with nothing but these variables in the environment.
fn attempt_with(text: &str, variables: &[(&str, &str)]) -> Result<String, Fault> {
    let variable = |wanted: &str| {
        variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
    };
    let conninfo = Conninfo::parse_with(text, &variable)?;
    wait(async {
        let client = control::connect(&conninfo, "pg_connect").await?;
        let sql = "select current_user || ' ' || current_database() || ' ' || coalesce(
                       (select 'tls' from pg_stat_ssl where pid = pg_backend_pid() and ssl), 'plain')";
        Ok(client.query_one(sql, &[]).await.map_err(|error| control::fault(&error))?.get(0))
    })
}

fn attempt(text: &str) -> Result<String, Fault> {
    attempt_with(text, &[])
}

type Expected<'a> = Result<&'a str, (Remedy, &'a str)>;

/// Each string leads to an answer, or to a fault with a remedy that holds a text (in message, code or hint).
#[track_caller]
fn check(cluster: &Cluster, cases: &[(&str, Expected<'_>)]) {
    let port = cluster.port();
    for (text, expected) in cases {
        let found = attempt(&format!("port={port} {text}"));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "{text}"),
            (Err(fault), Err((remedy, expected))) => {
                let shown = shown(&fault);
                assert!(shown.contains(expected), "{text}: {shown}");
                assert_eq!(fault.remedy, *remedy, "{text}: {shown}");
                assert!(!shown.contains("secret"), "{text}: {shown}");
            }
            (Ok(found), Err(expected)) => panic!("{text}: connected as {found}, not {expected:?}"),
            (Err(fault), Ok(_)) => panic!("{text}: {}\n{}", shown(&fault), cluster.log()),
        }
    }
}

fn shown(fault: &Fault) -> String {
    format!(
        "{} | {} | {}",
        fault.sqlstate.as_deref().unwrap_or(""),
        fault.message,
        fault.hint.as_deref().unwrap_or("")
    )
}

/// A folder of keys and certificates.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Keys {
        let keys = Keys(tempfile::tempdir().unwrap());
        keys.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
                      -keyout ca.key -out ca.crt",
        );
        keys
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, arguments: &str) {
        let output =
            Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.0.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A certificate signed by the authority; `names` are subjectAltName entries, `key` an algorithm of `openssl req`.
    fn sign(&self, name: &str, common_name: &str, names: &str, key: &str, how: &str) {
        self.openssl(&format!(
            "req -new -newkey {key} -nodes -subj /CN={common_name} -keyout {name}.key -out {name}.csr"
        ));
        std::fs::write(self.path("extensions"), format!("basicConstraints=CA:FALSE\n{names}\n")).unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial {how} -extfile extensions -out {name}.crt"
        ));
    }

    /// Makes the server use a certificate of this folder.
    fn install(&self, cluster: &Cluster, name: &str) {
        let owner = std::fs::metadata(cluster.data_folder()).unwrap();
        for (from, to) in [
            (format!("{name}.crt"), "server.crt"),
            (format!("{name}.key"), "server.key"),
            ("ca.crt".into(), "root.crt"),
        ] {
            let to = cluster.data_folder().join(to);
            std::fs::copy(self.path(&from), &to).unwrap();
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
            chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        cluster.set("ssl_ca_file", "root.crt");
        cluster.set("ssl", "on");
        reloaded(cluster, "select count(*) from pg_settings where name = 'ssl' and setting = 'on'", "1");
    }
}

/// A server of a build that has TLS, which those of some packages lack.
fn with_tls() -> Cluster {
    let packaged = Version::all().into_iter().rfind(|version| version.bin.starts_with("/usr/lib/postgresql"));
    Cluster::prepare().version(&packaged.unwrap_or_else(Version::default_one)).start()
}

const P256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

/// Settings take effect a moment after a reload; a certificate is then in use by new sessions.
#[track_caller]
fn reloaded(cluster: &Cluster, sql: &str, expected: &str) {
    crate::support::wait_until(crate::support::seconds(10), sql, || cluster.value(sql) == expected);
    std::thread::sleep(std::time::Duration::from_millis(200));
}

/// Replaces pg_hba.conf; the superuser stays admitted over loopback for the harness.
fn admit(cluster: &Cluster, lines: &str) {
    let file = cluster.data_folder().join("pg_hba.conf");
    let text = format!("host all postgres 127.0.0.1/32 trust\nlocal all postgres trust\n{lines}\n");
    let count = text.lines().count();
    std::fs::write(file, text).unwrap();
    cluster.value("select pg_reload_conf()");
    reloaded(cluster, "select count(*) from pg_hba_file_rules where error is null", &count.to_string());
}

/// A name for the server that is no loopback address, although it leads there.
const ELSEWHERE: &str = "host=0.0.0.0";
const NAMED: &str = "host=db.test hostaddr=127.0.0.1";

/// Under TLS a connection ends only when both of its halves are gone; until then its backend keeps other appliers out.
#[test]
fn a_target_over_tls_is_let_go_at_each_stop() {
    let keys = Keys::new();
    keys.sign("server", "db.test", "subjectAltName=IP:127.0.0.1", P256, "-days 2");
    let target = with_tls();
    keys.install(&target, "server");
    let schema = "create table t(id int primary key)";
    let Road { source, target, program } = Road::between(Cluster::source(), target, schema, schema);
    let over_tls = format!("{} sslmode=verify-full sslrootcert={}", target.conninfo(), keys.text("ca.crt"));
    let road = Road { source, target, program: program.target(&over_tls) };
    let running = road.follow();
    for id in 1..=3 {
        road.change(&format!("insert into t values ({id})"));
        road.wait_for("select count(*) from t");
        let tls = "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'pgsluice apply'";
        assert_eq!(road.target.value(tls), "t");
        road.program.run(&["sentinel", "set", "prefetch"]).done();
        let sessions = "select count(*) from pg_stat_activity where application_name = 'pgsluice apply'";
        crate::support::wait_until(crate::support::seconds(10), sessions, || {
            road.target.value(sessions) == "0"
        });
        road.program.run(&["sentinel", "set", "apply"]).done();
    }
    road.finish(running);
}

#[test]
fn certificates_are_checked_as_the_mode_demands() {
    let cluster = with_tls();
    let keys = Keys::new();
    keys.sign("server", "ignored.test", "subjectAltName=DNS:db.test,IP:127.0.0.1", P256, "-days 2");
    keys.install(&cluster, "server");
    keys.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout o.key -out o.crt");
    let (ca, other) = (keys.text("ca.crt"), keys.text("o.crt"));
    let (tls, plain) = (Ok("postgres postgres tls"), Ok("postgres postgres plain"));
    let stop = |text| Err((Remedy::Stop, text));
    let case = |host: &str, rest: String| format!("{host} user=postgres {rest}");
    for (text, expected) in [
        (case(NAMED, format!("sslmode=verify-full sslrootcert={ca}")), tls),
        (case("host=127.0.0.1", format!("sslmode=verify-full sslrootcert={ca}")), tls),
        (
            case("host=wrong.test hostaddr=127.0.0.1", format!("sslmode=verify-full sslrootcert={ca}")),
            stop("not for this host name"),
        ),
        (
            case("host=ignored.test hostaddr=127.0.0.1", format!("sslmode=verify-full sslrootcert={ca}")),
            stop("not for this host name"),
        ),
        (
            case("host=localhost", format!("sslmode=verify-full sslrootcert={ca}")),
            stop("connect by the name"),
        ),
        (case("host=wrong.test hostaddr=127.0.0.1", format!("sslmode=verify-ca sslrootcert={ca}")), tls),
        (
            case(NAMED, format!("sslmode=verify-ca sslrootcert={other}")),
            stop("not signed by a known authority"),
        ),
        (case(NAMED, format!("sslmode=verify-full sslrootcert={other}")), stop("sslrootcert=FILE")),
        (
            case(NAMED, format!("sslmode=require sslrootcert={other}")),
            stop("not signed by a known authority"),
        ),
        (case("host=wrong.test hostaddr=127.0.0.1", format!("sslmode=require sslrootcert={ca}")), tls),
        (case(NAMED, "sslmode=require".into()), tls),
        (case(NAMED, "sslmode=prefer".into()), tls),
        (case(NAMED, "sslmode=allow".into()), plain),
        (case(NAMED, "sslmode=disable".into()), plain),
        (case(NAMED, String::new()), tls),
        (case(ELSEWHERE, String::new()), stop("no sslmode was given")),
        (case(ELSEWHERE, "sslmode=verify-full".into()), stop("not signed by a known authority")),
        (case(ELSEWHERE, "sslmode=require".into()), tls),
        (case(NAMED, "sslmode=verify-ca".into()), Err((Remedy::Usage, "sslrootcert=FILE"))),
        (case(NAMED, "sslmode=verify-full sslrootcert=/nonexistent".into()), stop("/nonexistent")),
        (case(NAMED, "sslmode=require ssl_min_protocol_version=TLSv1.3".into()), tls),
        (case(&format!("host={}", cluster.folder().display()), "sslmode=verify-full".into()), plain),
    ] {
        check(&cluster, &[(&text, expected)]);
    }
    // TLS 1.2 and another kind of key.
    keys.sign("rsa", "db.test", "subjectAltName=DNS:db.test", "rsa:2048", "-days 2 -sha384");
    keys.install(&cluster, "rsa");
    cluster.set("ssl_max_protocol_version", "TLSv1.2");
    reloaded(&cluster, "show ssl_max_protocol_version", "TLSv1.2");
    check(
        &cluster,
        &[
            (&case(NAMED, format!("sslmode=verify-full sslrootcert={ca}")), tls),
            (&case(NAMED, "sslmode=require ssl_min_protocol_version=TLSv1.3".into()), stop("TLS")),
        ],
    );
    keys.sign("old", "db.test", "subjectAltName=DNS:db.test", P256, "-days -1");
    keys.install(&cluster, "old");
    check(
        &cluster,
        &[
            (&case(NAMED, format!("sslmode=verify-full sslrootcert={ca}")), stop("has expired")),
            (&case(NAMED, format!("sslmode=verify-ca sslrootcert={ca}")), stop("has expired")),
            (&case(NAMED, "sslmode=require".into()), tls),
        ],
    );
}

#[test]
fn self_made_certificates_of_the_manual_work() {
    let cluster = with_tls();
    let keys = Keys::new();
    // As the server's manual tells to make one: no alternative names, an authority of its own.
    keys.openssl("req -new -x509 -days 365 -nodes -text -out self.crt -keyout self.key -subj /CN=db.test");
    keys.install(&cluster, "self");
    let own = keys.text("self.crt");
    let other = keys.text("ca.crt");
    for (text, expected) in [
        (format!("{NAMED} sslmode=verify-full sslrootcert={own}"), Ok("postgres postgres tls")),
        (format!("{NAMED} sslmode=verify-ca sslrootcert={own}"), Ok("postgres postgres tls")),
        (
            format!("host=other.test hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={own}"),
            Err((Remedy::Stop, "not for this host name")),
        ),
        (format!("{NAMED} sslmode=verify-full sslrootcert={other}"), Err((Remedy::Stop, "TLS handshake"))),
        (ELSEWHERE.to_string(), Err((Remedy::Stop, "no sslmode was given"))),
    ] {
        check(&cluster, &[(&format!("user=postgres {text}"), expected)]);
    }
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_demanded() {
    let cluster = Cluster::target();
    check(
        &cluster,
        &[
            (
                "user=postgres host=127.0.0.1 sslmode=require",
                Err((Remedy::Stop, "sslmode=require demands it")),
            ),
            ("user=postgres host=127.0.0.1 sslmode=verify-full", Err((Remedy::Stop, "turn ssl on"))),
            ("user=postgres host=0.0.0.0", Err((Remedy::Stop, "no sslmode was given"))),
            ("user=postgres host=127.0.0.1 sslmode=prefer", Ok("postgres postgres plain")),
            ("user=postgres host=127.0.0.1", Ok("postgres postgres plain")),
            ("user=postgres host=0.0.0.0 sslmode=prefer", Ok("postgres postgres plain")),
        ],
    );
}

#[test]
fn client_certificates_prove_the_user() {
    let cluster = with_tls();
    let keys = Keys::new();
    keys.sign("server", "db.test", "subjectAltName=DNS:db.test", P256, "-days 2");
    keys.install(&cluster, "server");
    keys.sign("mallory", "mallory", "", P256, "-days 2");
    cluster.psql("create role ann login; create role bob login");
    admit(&cluster, "hostssl all all 127.0.0.1/32 cert");
    // PKCS#8 as made, PKCS#1, and SEC1.
    keys.sign("ann", "ann", "", "rsa:2048", "-days 2");
    keys.openssl("rsa -in ann.key -traditional -out ann-pkcs1.key");
    keys.sign("bob", "bob", "", P256, "-days 2");
    keys.openssl("ec -in bob.key -out bob-sec1.key");
    for key in ["ann.key", "ann-pkcs1.key", "bob.key", "bob-sec1.key", "mallory.key"] {
        std::fs::set_permissions(keys.path(key), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let with = |user: &str, certificate: &str, key: &str| {
        let (certificate, key, ca) = (keys.text(certificate), keys.text(key), keys.text("ca.crt"));
        format!(
            "{NAMED} sslmode=verify-full sslrootcert={ca} user={user} dbname=postgres sslcert={certificate} sslkey={key}"
        )
    };
    check(
        &cluster,
        &[
            (&with("ann", "ann.crt", "ann.key"), Ok("ann postgres tls")),
            (&with("ann", "ann.crt", "ann-pkcs1.key"), Ok("ann postgres tls")),
            (&with("bob", "bob.crt", "bob.key"), Ok("bob postgres tls")),
            (&with("bob", "bob.crt", "bob-sec1.key"), Ok("bob postgres tls")),
            (&with("ann", "mallory.crt", "mallory.key"), Err((Remedy::Stop, "28000"))),
            (&with("ann", "ann.crt", "bob.key"), Err((Remedy::Stop, "client certificate"))),
            (&with("ann", "ann.crt", "missing.key"), Err((Remedy::Stop, "missing.key"))),
            (&format!("{NAMED} sslmode=require user=ann dbname=postgres"), Err((Remedy::Stop, "28000"))),
        ],
    );
    std::fs::set_permissions(keys.path("ann.key"), PermissionsExt::from_mode(0o644)).unwrap();
    check(&cluster, &[(&with("ann", "ann.crt", "ann.key"), Err((Remedy::Stop, "chmod 0600")))]);
}

#[test]
fn passwords_go_only_where_nobody_listens() {
    let cluster = with_tls();
    let keys = Keys::new();
    keys.sign("server", "db.test", "subjectAltName=DNS:db.test", "rsa:2048", "-days 2");
    keys.install(&cluster, "server");
    cluster.psql(
        "create role scram login password 'secret1'; set password_encryption = 'md5';
                  create role old login password 'secret2'",
    );
    admit(
        &cluster,
        "host all scram 127.0.0.1/32 scram-sha-256\nhost all old 127.0.0.1/32 md5\n\
                     hostssl all all 127.0.0.1/32 password\nhost nobody clear 127.0.0.1/32 password",
    );
    let stop = |text| Err((Remedy::Stop, text));
    check(
        &cluster,
        &[
            ("host=127.0.0.1 user=scram dbname=postgres password=secret1", Ok("scram postgres tls")),
            (
                "host=127.0.0.1 user=scram dbname=postgres password=secret1 sslmode=disable",
                Ok("scram postgres plain"),
            ),
            (
                "host=127.0.0.1 user=scram dbname=postgres password=secret1 channel_binding=require",
                Ok("scram postgres tls"),
            ),
            (
                "host=127.0.0.1 user=scram dbname=postgres password=secret1 channel_binding=disable",
                Ok("scram postgres tls"),
            ),
            (
                "host=0.0.0.0 user=scram dbname=postgres password=secret1 sslmode=disable",
                Ok("scram postgres plain"),
            ),
            (
                "host=127.0.0.1 user=scram dbname=postgres password=secret1 channel_binding=require sslmode=disable",
                stop("channel_binding=require"),
            ),
            ("host=127.0.0.1 user=postgres channel_binding=require", stop("channel_binding=require")),
            (
                "host=127.0.0.1 user=old dbname=postgres password=secret2 channel_binding=require",
                stop("channel_binding=require"),
            ),
            ("host=127.0.0.1 user=scram dbname=postgres password=secret-wrong", stop("28P01")),
            (
                "host=127.0.0.1 user=scram dbname=postgres password=secret-wrong sslmode=disable",
                stop("PGPASSWORD"),
            ),
            ("host=127.0.0.1 user=scram dbname=postgres", stop("none was given")),
            ("host=127.0.0.1 user=nobody dbname=postgres password=secret1", stop("28P01")),
            ("host=127.0.0.1 user=scram dbname=absent password=secret1", stop("3D000")),
            ("host=127.0.0.1 user=old dbname=postgres password=secret2", Ok("old postgres tls")),
            (
                "host=127.0.0.1 user=old dbname=postgres password=secret2 sslmode=disable",
                Ok("old postgres plain"),
            ),
            (
                "host=0.0.0.0 user=old dbname=postgres password=secret2 sslmode=disable",
                stop("require_auth=md5"),
            ),
            (
                "host=0.0.0.0 user=old dbname=postgres password=secret2 sslmode=disable require_auth=md5",
                Ok("old postgres plain"),
            ),
            (
                "host=127.0.0.1 user=old dbname=postgres password=secret2 require_auth=scram-sha-256",
                stop("require_auth"),
            ),
            ("host=127.0.0.1 user=postgres require_auth=scram-sha-256", stop("require_auth")),
        ],
    );
    cluster.psql("create role clear login password 'secret3'");
    admit(&cluster, "host all clear 127.0.0.1/32 password");
    check(
        &cluster,
        &[
            ("host=127.0.0.1 user=clear dbname=postgres password=secret3", Ok("clear postgres tls")),
            (
                "host=0.0.0.0 user=clear dbname=postgres password=secret3 sslmode=require",
                Ok("clear postgres tls"),
            ),
            (
                "host=0.0.0.0 user=clear dbname=postgres password=secret3 sslmode=disable",
                stop("it was not sent"),
            ),
            ("host=127.0.0.1 user=scram dbname=postgres password=secret1", stop("pg_hba.conf")),
            (
                "host=0.0.0.0 user=postgres sslmode=disable target_session_attrs=standby",
                Err((Remedy::Retry, "target_session_attrs")),
            ),
            ("host=127.0.0.1 user=postgres target_session_attrs=read-write", Ok("postgres postgres tls")),
            ("host=127.0.0.1 user=postgres target_session_attrs=prefer-standby", Ok("postgres postgres tls")),
        ],
    );
    // Admitted only without TLS, or only with it: prefer and allow find the way that is open.
    admit(&cluster, "hostnossl all clear 127.0.0.1/32 trust\nhostssl all scram 127.0.0.1/32 trust");
    check(
        &cluster,
        &[
            ("host=127.0.0.1 user=clear dbname=postgres sslmode=prefer", Ok("clear postgres plain")),
            ("host=127.0.0.1 user=scram dbname=postgres sslmode=allow", Ok("scram postgres tls")),
            ("host=127.0.0.1 user=clear dbname=postgres sslmode=require", stop("28000")),
        ],
    );
}

#[test]
fn names_files_and_sockets_lead_to_the_server() {
    let cluster = Cluster::target();
    let (port, folder) = (cluster.port(), cluster.folder().to_str().unwrap().to_owned());
    cluster.psql("create role ann login password 'secret1'");
    admit(&cluster, "host all ann 127.0.0.1/32 scram-sha-256\nlocal all ann scram-sha-256");
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pass = write("pass", format!("{folder}:{port}:postgres:ann:secret1\n127.0.0.1:*:*:ann:secret1\n"));
    let services =
        write("services", format!("[there]\nhost=127.0.0.1\nport={port}\nuser=ann\ndbname=postgres\n"));
    let ann = "ann postgres plain";
    let encoded = folder.replace('/', "%2F");
    assert_eq!(
        attempt_with(&format!("postgres://ann@{encoded}:{port}/postgres"), &[("PGPASSFILE", &pass)]).unwrap(),
        ann
    );
    assert_eq!(
        attempt_with(&format!("host={folder} port={port} user=ann dbname=postgres passfile={pass}"), &[])
            .unwrap(),
        ann
    );
    let variables = [("PGSERVICEFILE", services.as_str()), ("PGPASSFILE", pass.as_str())];
    assert_eq!(attempt_with("service=there", &variables).unwrap(), ann);
    assert_eq!(attempt_with("postgres:///?service=there", &variables).unwrap(), ann);
    let port_text = port.to_string();
    let variables = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port_text),
        ("PGUSER", "ann"),
        ("PGPASSWORD", "secret1"),
        ("PGDATABASE", "postgres"),
    ];
    assert_eq!(attempt_with("", &variables).unwrap(), ann);
    // The first host that answers.
    let text = format!("postgres://postgres@{encoded}nothing:1,127.0.0.1:1,127.0.0.1:{port}/postgres");
    assert_eq!(attempt(&text).unwrap(), "postgres postgres plain");
}

#[test]
fn unreachable_servers_are_for_another_try() {
    for (text, expected) in [
        ("host=127.0.0.1 port=1 user=me", "is the server running"),
        ("host=/nonexistent port=1 user=me", "is the server running"),
        ("host=no-such-host.invalid user=me", "check the host's name"),
        ("postgres://me@127.0.0.1:1,127.0.0.1:2/d", "127.0.0.1:1: can't connect"),
    ] {
        let fault = attempt(text).unwrap_err();
        assert!(shown(&fault).contains(expected), "{}", shown(&fault));
        assert_eq!(fault.remedy, Remedy::Retry, "{}", shown(&fault));
    }
}

/// A peer that answers every connection's first bytes with the same ones.
fn peer(answer: &'static [u8], close: bool) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
            if !close {
                open.push(stream);
            }
        }
    });
    port
}

#[test]
fn odd_peers_are_seen_through() {
    const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    // An error put in before TLS begins is nobody's word.
    const FORGED: &[u8] = b"ESFATAL\0C28P01\0MFORGED\0\0";
    // A whole greeting in plain text behind the promise of TLS.
    const INJECTED: &[u8] = b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    for (answer, close, mode, expected) in [
        (HTTP, false, "require", "is it a PostgreSQL server?"),
        (HTTP, false, "disable", "impossible length"),
        (FORGED, false, "require", "with an error"),
        (INJECTED, false, "require", "TLS handshake"),
        (b"N", false, "require", "has no TLS"),
        (b"", true, "require", "closed"),
        (b"", true, "disable", "closed"),
        (b"", false, "disable connect_timeout=1", "no answer within 1 s"),
        (b"R\0\0\0\x08\0\0\0\x07", false, "disable", "method 7"),
        (b"R\0\0\0\x04", false, "disable", "broken authentication"),
        (b"R\0\0\0\x08\0\0\0\x0c", false, "disable", "not begun"),
    ] {
        let port = peer(answer, close);
        let fault = attempt(&format!("host=127.0.0.1 port={port} user=me password=secret sslmode={mode}"))
            .unwrap_err();
        assert!(shown(&fault).contains(expected), "{}", shown(&fault));
        assert!(!shown(&fault).contains("FORGED"), "{}", shown(&fault));
    }
}

#[test]
fn sessions_pin_what_decides_how_values_print() {
    let cluster =
        Cluster::prepare_source().set("datestyle", "SQL, DMY").set("idle_session_timeout", "600000").start();
    cluster.psql("alter role postgres set timezone = 'Japan'; alter role postgres set bytea_output = 'escape';
                  alter role postgres set search_path = 'public'; alter role postgres set statement_timeout = '1h';
                  alter role postgres set synchronous_commit = 'local'; alter role postgres set client_encoding = 'latin1'");
    let conninfo = format!("{} options='-c timezone=Asia/Tokyo -c geqo=off'", cluster.conninfo());
    let conninfo = Conninfo::parse_with(&conninfo, &|_| None).unwrap();
    let shown = "select string_agg(current_setting(name), '|' order by n) from unnest(array['datestyle', 'timezone',
                 'bytea_output', 'search_path', 'statement_timeout', 'idle_session_timeout', 'geqo', 'extra_float_digits',
                 'session_replication_role', 'client_encoding', 'synchronous_commit']) with ordinality as s(name, n)";
    let pinned = "ISO, DMY|UTC|hex||0|0|off|3";
    wait(async {
        let mut stream =
            ReplicationStream::connect(&conninfo, "pins", &[("wal_sender_timeout", "3s")]).await.unwrap();
        let rows = stream.simple(shown).await.unwrap();
        // A role's client_encoding holds, unless the session says otherwise; the stream says it is the server's.
        assert_eq!(rows[0][0].as_deref().unwrap(), format!("{pinned}|origin|UTF8|local"));
        assert_eq!(stream.simple("show wal_sender_timeout").await.unwrap()[0][0].as_deref(), Some("3s"));
        assert_eq!(stream.server_encoding(), "UTF8");
        let options = PipelineOptions {
            application_name: "pins",
            client_encoding: Some("LATIN1"),
            synchronous_commit: Some("off"),
            replica_role: true,
        };
        let mut pipeline = Pipeline::connect(&conninfo, &options).await.unwrap();
        let rows = pipeline.simple(shown).await.unwrap();
        assert_eq!(rows[0][0].as_deref().unwrap(), format!("{pinned}|replica|LATIN1|off"));
        let client = control::connect(&conninfo, "pins").await.unwrap();
        let row = client.query_one(shown, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), format!("{pinned}|origin|UTF8|local"));
    });
    assert!(Path::new(&cluster.data_folder()).exists());
}

#[test]
fn a_missing_privilege_names_its_grant() {
    let cluster = Cluster::target();
    cluster.psql("create role ann login");
    let conninfo = format!("host=127.0.0.1 port={} user=ann dbname=postgres", cluster.port());
    let conninfo = Conninfo::parse_with(&conninfo, &|_| None).unwrap();
    let options = PipelineOptions {
        application_name: "applier",
        client_encoding: None,
        synchronous_commit: None,
        replica_role: true,
    };
    let fault = wait(Pipeline::connect(&conninfo, &options)).err().unwrap();
    assert!(
        shown(&fault).contains("GRANT SET ON PARAMETER session_replication_role TO \"ann\""),
        "{}",
        shown(&fault)
    );
    match cluster.version().major {
        ..15 => cluster.psql("alter role ann superuser"),
        _ => cluster.psql("grant set on parameter session_replication_role to ann"),
    };
    wait(Pipeline::connect(&conninfo, &options)).unwrap_or_else(|fault| panic!("{}", shown(&fault)));
    cluster.psql("alter role ann nosuperuser");
    let fault = wait(ReplicationStream::connect(&conninfo, "receiver", &[])).err().unwrap();
    assert!(shown(&fault).contains("ALTER ROLE \"ann\" REPLICATION"), "{}", shown(&fault));
}

#[test]
fn the_control_client_survives_large_answers_and_ends() {
    let cluster = Cluster::target();
    let conninfo = Conninfo::parse_with(&cluster.conninfo(), &|_| None).unwrap();
    wait(async {
        let client = control::connect(&conninfo, "control").await.unwrap();
        let row = client
            .query_one("select repeat('x', 3000000) || current_setting('application_name')", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0).len(), 3_000_007);
        let error = client.query_one("select 1/0", &[]).await.unwrap_err();
        assert_eq!(control::fault(&error).sqlstate.as_deref(), Some("22012"));
        let error =
            client.batch_execute("select pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())").await;
        let fault = control::fault(&error.unwrap_err());
        assert_eq!(fault.remedy, Remedy::Retry, "{}", shown(&fault));
        let error = client.query_one("select 1", &[]).await.unwrap_err();
        assert_eq!(control::fault(&error).remedy, Remedy::Reread);
    });
}
