//! A throw-away PostgreSQL server in a folder of its own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::process::{Running, Watcher, as_server_owner, output, server_owner, without_postgres_environment};
use super::session::{Row, Session};
use super::{Version, WrongClock, seconds, template, wait_until};

/// Stops the server of the folder `$1`, if its process is still that server, and removes the folder.
const CLEAN_UP: &str = r#"
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
ours() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
if ours "$1"; then
    kill -QUIT "$pid"
    for i in $(seq 100); do ours "$1" || break; sleep 0.05; done
    ours "$1" && kill -9 "$pid"
fi
[ -n "$PGSLUICE_KEEP" ] || for i in 1 2 3 4 5; do rm -rf "$1" && break; sleep 0.2; done
"#;

/// What a cluster shall be, before it is started.
pub struct Preparation {
    version: Version,
    settings: Vec<(String, String)>,
    fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    Fast,
    Immediate,
}

pub struct Cluster {
    version: Version,
    folder: PathBuf,
    port: u16,
    watcher: Watcher,
}

impl Preparation {
    pub fn version(mut self, version: &Version) -> Preparation {
        self.version = version.clone();
        self
    }

    pub fn set(mut self, name: &str, value: &str) -> Preparation {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Data that survive the machine's crash: slower, for tests of durability.
    pub fn durable(self) -> Preparation {
        self.set("fsync", "on").set("full_page_writes", "on")
    }

    /// With a system identifier of its own, which copies of the template lack; costs an initdb.
    pub fn fresh(mut self) -> Preparation {
        self.fresh = true;
        self
    }

    pub fn start(self) -> Cluster {
        // Sockets' paths are limited to about 100 bytes, so the folder is near the root.
        let temporary = std::env::temp_dir();
        let parent = if temporary.as_os_str().len() > 40 { Path::new("/tmp") } else { &temporary };
        let folder = tempfile::Builder::new().prefix("pgsluice-pg-").tempdir_in(parent).unwrap().keep();
        let watcher = Watcher::new(CLEAN_UP, &[folder.as_os_str()]);
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        if let Some((user, group)) = server_owner() {
            chown(&folder, Some(user), Some(group)).unwrap();
        }
        template::make_data_folder(&self.version, &folder.join("data"), self.fresh);
        let mut cluster = Cluster { version: self.version, folder, port: 0, watcher };
        for attempt in 1.. {
            cluster.port = free_port();
            cluster.write_settings(&self.settings);
            match cluster.try_start() {
                Ok(()) => break,
                // Somebody was quicker to take the port.
                Err(_) if attempt < 5 && cluster.log().contains("could not bind") => {}
                Err(message) => panic!("{message}\n{}", cluster.log()),
            }
        }
        cluster
    }
}

impl Cluster {
    pub fn prepare() -> Preparation {
        let settings = [
            ("listen_addresses", "127.0.0.1"),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("shared_buffers", "32MB"),
            ("max_connections", "60"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "20"),
            ("max_wal_size", "1GB"),
            ("timezone", "UTC"),
            ("log_line_prefix", "%m [%p] %q%a "),
        ];
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Preparation { version: Version::default_one(), settings, fresh: false }
    }

    /// What is different on a source.
    pub fn prepare_source() -> Preparation {
        Cluster::prepare().set("wal_level", "logical")
    }

    /// Lets the server load wal2json, where it lets none in that is not listed.
    pub fn allow_wal2json(&self) {
        if self.value("select count(*) from pg_settings where name = 'output_plugin_libraries'") == "1" {
            self.query("alter system set output_plugin_libraries = 'pgoutput', 'test_decoding', 'wal2json'");
            self.query("select pg_reload_conf()");
            wait_until(seconds(10), "the setting is in force", || {
                self.value("show output_plugin_libraries").contains("wal2json")
            });
        }
    }

    pub fn source() -> Cluster {
        Cluster::prepare_source().start()
    }

    pub fn target() -> Cluster {
        Cluster::prepare().start()
    }

    pub fn version(&self) -> &Version {
        &self.version
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Of the database `postgres`, as the superuser, over loopback.
    pub fn conninfo(&self) -> String {
        self.conninfo_of("postgres")
    }

    pub fn conninfo_of(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port)
    }

    pub fn uri(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The same over the socket in the cluster's folder.
    pub fn socket_conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.folder.display(), self.port)
    }

    #[track_caller]
    pub fn session(&self) -> Session {
        self.session_of("postgres")
    }

    #[track_caller]
    pub fn session_of(&self, database: &str) -> Session {
        Session::open(&self.conninfo_of(database)).unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()))
    }

    #[track_caller]
    pub fn query(&self, sql: &str) -> Vec<Row> {
        self.session().query(sql)
    }

    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        self.session().value(sql)
    }

    /// Runs a script through psql, so that `\copy` and its like are there; stops at the first error.
    #[track_caller]
    pub fn psql(&self, script: &str) -> String {
        output(self.client("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", script]))
    }

    /// A client program with this cluster as its default server.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.version.program(program));
        without_postgres_environment(&mut command);
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    /// pgbench to its end; one connection string for initialization and load.
    #[track_caller]
    pub fn pgbench(&self, arguments: &[&str]) {
        output(self.client("pgbench").args(arguments));
    }

    pub fn start_pgbench(&self, arguments: &[&str]) -> Running {
        let mut command = self.client("pgbench");
        command.args(arguments);
        Running::spawn(command)
    }

    /// Schema and rows of the database as SQL, as it is now. A newer pg_dump sets what this server does not know.
    #[track_caller]
    pub fn dump(&self, arguments: &[&str]) -> String {
        output(self.client("pg_dump").args(arguments)).replace("SET transaction_timeout = 0;", "")
    }

    /// Brings tables and rows of another cluster here, for tests that start from a copy made at rest.
    #[track_caller]
    pub fn copy_from(&self, other: &Cluster) {
        self.run_script(&other.dump(&["--no-publications", "--no-subscriptions"]));
    }

    /// Runs a script of any length from a file.
    #[track_caller]
    pub fn run_script(&self, script: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        output(self.client("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file.path()));
    }

    /// The end of WAL that is written, as a point that every commit so far lies before.
    /// Waits until no client of pgbench is served any more: one that was killed may leave a statement that goes on, and commits.
    #[track_caller]
    pub fn rests(&self) {
        let served = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
        wait_until(Duration::from_secs(30), "pgbench has ended", || self.value(served) == "0");
    }

    pub fn current_lsn(&self) -> String {
        self.value("select pg_current_wal_lsn()")
    }

    pub fn set(&self, name: &str, value: &str) {
        let session = self.session();
        session.query(&format!("alter system set {name} = '{value}'"));
        session.query("select pg_reload_conf()");
    }

    #[track_caller]
    pub fn stop(&self, mode: StopMode) {
        self.stop_within(mode, Duration::from_secs(30)).unwrap_or_else(|message| panic!("{message}"));
    }

    /// Whether the server stopped in time; it may still be on its way where it didn't.
    pub fn stop_within(&self, mode: StopMode, limit: Duration) -> Result<(), String> {
        let mode = if mode == StopMode::Fast { "fast" } else { "immediate" };
        self.pg_ctl(&["stop", "-w", "-m", mode, "-t", &limit.as_secs().to_string()])
    }

    #[track_caller]
    pub fn start(&self) {
        // After kill -9 the shared memory stays busy until the last orphan has noticed.
        let mut result = Ok(());
        for _ in 0..50 {
            result = self.try_start();
            if result.is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{result:?}\n{}", self.log());
    }

    /// Starts a stopped server whose clock is wrong by so much, such as `+30s`, and nobody else's.
    #[track_caller]
    pub fn start_with_clock(&self, clock: &WrongClock, offset: &str) {
        let library = clock.0.to_str().unwrap();
        // Time-outs, which count from the monotonic clock, are not to be touched.
        let environment =
            [("LD_PRELOAD", library), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        self.try_start_in(&environment).unwrap_or_else(|message| panic!("{message}\n{}", self.log()));
    }

    #[track_caller]
    pub fn restart(&self, mode: StopMode) {
        self.stop(mode);
        self.start();
    }

    /// Changes what a stopped server counts on from, such as `-e 3`: the upper half of its next transaction id.
    #[track_caller]
    pub fn reset_wal(&self, arguments: &[&str]) {
        let mut reset = as_server_owner(&self.version.program("pg_resetwal"));
        output(reset.args(arguments).arg("-D").arg(self.data_folder()));
    }

    /// kill -9 of the postmaster; returns when it is gone.
    pub fn kill(&self) {
        let text = std::fs::read_to_string(self.data_folder().join("postmaster.pid")).unwrap();
        let id = Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap();
        rustix::process::kill_process(id, Signal::KILL).unwrap();
        // Its zombie still counts as a server in the eyes of the next one; init takes it away.
        let process = PathBuf::from(format!("/proc/{}", id.as_raw_nonzero()));
        wait_until(Duration::from_secs(20), "postmaster gone", || !process.exists());
    }

    pub fn is_running(&self) -> bool {
        self.pg_ctl(&["status"]).is_ok()
    }

    /// What the server logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn try_start(&self) -> Result<(), String> {
        self.try_start_in(&[])
    }

    fn try_start_in(&self, environment: &[(&str, &str)]) -> Result<(), String> {
        let log = self.folder.join("log").display().to_string();
        self.pg_ctl_in(environment, &["start", "-w", "-t", "60", "-l", &log])
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Result<(), String> {
        self.pg_ctl_in(&[], arguments)
    }

    fn pg_ctl_in(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Result<(), String> {
        let mut command = as_server_owner(&self.version.bin.join("pg_ctl"));
        command.arg("-D").arg(self.data_folder()).args(arguments).envs(environment.iter().copied());
        // The server must not inherit a pipe that somebody reads to its end.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        let file = std::fs::File::create(&path).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file).stdin(std::process::Stdio::null());
        if command.status().unwrap().success() {
            return Ok(());
        }
        Err(format!("{command:?}\n{}", std::fs::read_to_string(path).unwrap()))
    }

    fn write_settings(&self, settings: &[(String, String)]) {
        let folder = self.folder.display().to_string();
        let mut text = format!("port = {}\nunix_socket_directories = '{folder}'\n", self.port);
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{value}'\n"));
        }
        let path = self.data_folder().join("throw-away.conf");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let main = self.data_folder().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&main).unwrap();
        let include = "\ninclude 'throw-away.conf'\n";
        if !text.ends_with(include) {
            text.push_str(include);
            std::fs::write(main, text).unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- end of the log of the server in {}", self.folder.display());
            eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        self.watcher.fire();
    }
}

/// A port that nothing listens on, below those that the kernel gives to outgoing connections, so that it is
/// still free when the cluster is started again.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(37);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + start.wrapping_add(step) % 12_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
