//! Child processes that never outlive the test, and what they said.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user and group that servers run as where this process is root: `postgres`.
pub fn server_owner() -> Option<(u32, u32)> {
    static OWNER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *OWNER.get_or_init(|| {
        let id = |what: &str| output(Command::new("id").args([what, "postgres"])).trim().parse().unwrap();
        is_root().then(|| (id("-u"), id("-g")))
    })
}

/// A command of the server's programs, run as the server's owner.
pub fn as_server_owner(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = server_owner() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env("LC_ALL", "C");
    without_postgres_environment(&mut command);
    command
}

/// No PG* variable of whoever runs the tests reaches a child.
pub fn without_postgres_environment(command: &mut Command) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
        command.env_remove(name);
    }
}

/// Runs it to its end and gives its standard output; anything but success fails the test.
pub fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}\n{stderr}", done.status);
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A shell that sleeps until this process ends, in whatever way, and then runs a script.
pub struct Watcher {
    shell: Child,
}

impl Watcher {
    /// The script gets the arguments as `$1`, `$2`, ...
    pub fn new(script: &str, arguments: &[&std::ffi::OsStr]) -> Watcher {
        // Its input is a pipe whose other end is ours alone: end of file means that we are gone. It is a process
        // group of its own, so that what is sent to the tests' group doesn't reach it.
        let script = format!("trap '' INT TERM HUP; cat >/dev/null; {script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "watcher"]).args(arguments).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Watcher { shell: command.spawn().unwrap() }
    }

    /// Runs the script now and waits for its end.
    pub fn fire(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }

    pub fn disarm(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub command: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub fn done(self) -> Outcome {
        self.ends_with(0)
    }

    #[track_caller]
    pub fn ends_with(self, code: i32) -> Outcome {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Standard output as one JSON object.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outcome { command, code, stdout, stderr } = self;
        write!(f, "{command}\nexit code {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A program in the background. Dropping it kills it.
pub struct Running {
    description: String,
    child: Child,
    ended: Option<ExitStatus>,
    watcher: Watcher,
    folder: TempDir,
}

impl Running {
    pub fn spawn(mut command: Command) -> Running {
        let folder = tempfile::Builder::new().prefix("pgsluice-run-").tempdir().unwrap();
        command.stdin(Stdio::null());
        command.stdout(File::create(folder.path().join("stdout")).unwrap());
        command.stderr(File::create(folder.path().join("stderr")).unwrap());
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
        let description = words.join(" ");
        let child = command.spawn().unwrap_or_else(|error| panic!("{description}: {error}"));
        let id = child.id().to_string();
        // The start time tells the process from a later one of the same id.
        let script = r#"[ "$(cut -d' ' -f22 "/proc/$1/stat")" = "$2" ] && kill -9 "$1"; rm -rf "$3""#;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let started = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19)).unwrap_or("gone");
        let watcher = Watcher::new(script, &[id.as_ref(), started.as_ref(), folder.path().as_os_str()]);
        Running { description, child, ended: None, watcher, folder }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended.is_none()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.said("stderr")
    }

    /// The same of standard output.
    pub fn printed(&self) -> String {
        self.said("stdout")
    }

    fn said(&self, name: &str) -> String {
        let bytes = std::fs::read(self.folder.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// kill -9, and only then returns.
    pub fn kill(mut self) -> Outcome {
        let _ = self.child.kill();
        self.ended = Some(self.child.wait().unwrap());
        self.outcome()
    }

    /// SIGTERM, then the end within the limit.
    #[track_caller]
    pub fn terminate(mut self, limit: Duration) -> Outcome {
        if self.is_running() {
            self.signal(Signal::TERM);
        }
        self.wait(limit)
    }

    /// The end within the limit; where it does not come, the test fails with what was said until then.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let started = Instant::now();
        while self.is_running() {
            if started.elapsed() > limit {
                panic!("still running after {limit:?}: {}", self.kill());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            command: self.description.clone(),
            code: self.ended.and_then(|status| status.code()),
            stdout: self.said("stdout"),
            stderr: self.said("stderr"),
        }
    }

    /// Resident memory's high-water mark.
    pub fn resident_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or(0) * 1024
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.watcher.disarm();
        if std::thread::panicking() {
            eprintln!("{}", self.outcome());
        }
    }
}
