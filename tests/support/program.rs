//! The built program, with where its things are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::Cluster;
use super::process::{Outcome, Running, without_postgres_environment};

/// One source, one target, one archive; every command that is run gets them by environment.
pub struct Pgsluice {
    folder: TempDir,
    variables: Vec<(String, String)>,
    limit: Duration,
}

impl Pgsluice {
    pub fn between(source: &Cluster, target: &Cluster) -> Pgsluice {
        Pgsluice::with(&source.conninfo(), &target.conninfo())
    }

    pub fn with(source: &str, target: &str) -> Pgsluice {
        let folder = tempfile::Builder::new().prefix("pgsluice-test-").tempdir().unwrap();
        let archive = folder.path().join("archive").display().to_string();
        let variables = [("SOURCE", source), ("TARGET", target), ("ARCHIVE", archive.as_str())]
            .map(|(name, value)| (format!("PGSLUICE_{name}"), value.to_owned()));
        let program = Pgsluice { folder, variables: variables.into(), limit: Duration::from_secs(120) };
        ["PLUGIN", "FORMAT"].into_iter().fold(program, |program, word| {
            match std::env::var(format!("PGSLUICE_TEST_{word}")) {
                Ok(value) => program.env(&format!("PGSLUICE_{word}"), &value),
                Err(_) => program,
            }
        })
    }

    /// Sets or replaces a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Pgsluice {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.into(), value.into()));
        self
    }

    pub fn source(self, conninfo: &str) -> Pgsluice {
        self.env("PGSLUICE_SOURCE", conninfo)
    }

    pub fn target(self, conninfo: &str) -> Pgsluice {
        self.env("PGSLUICE_TARGET", conninfo)
    }

    /// How long a command may run in the foreground before the test fails.
    pub fn limit(mut self, limit: Duration) -> Pgsluice {
        self.limit = limit;
        self
    }

    pub fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGSLUICE_")) {
            command.env_remove(name);
        }
        without_postgres_environment(&mut command);
        // No passfile, service file or default archive of whoever runs the tests.
        command.env("HOME", self.folder.path()).env_remove("XDG_DATA_HOME").env_remove("XDG_STATE_HOME");
        command.args(arguments).envs(self.variables.iter().cloned()).current_dir(self.folder.path());
        command
    }

    /// Runs a command to its end, whatever that is.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.start(arguments).wait(self.limit)
    }

    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::spawn(self.command(arguments))
    }

    /// `follow` until everything that is committed on the source now has arrived.
    #[track_caller]
    pub fn follow_to_current(&self) -> Outcome {
        self.run(&["follow", "--endpos", "current"]).done()
    }

    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        self.run(&["status", "--json"]).done().json()
    }

    #[track_caller]
    pub fn sentinel(&self) -> serde_json::Value {
        self.run(&["sentinel", "get", "--json"]).done().json()
    }
}
