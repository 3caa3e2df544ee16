//! An S3 server on loopback: moto, which keeps its objects in memory.

use std::path::PathBuf;
use std::process::Command;

use super::process::{self, Running};
use super::{http, seconds, versions, wait_until};

pub struct Moto {
    running: Running,
    address: String,
}

impl Moto {
    /// Started, with a bucket of this name.
    pub fn with_bucket(bucket: &str) -> Moto {
        let moto = Moto::start(&[]);
        let answer = http::ask(&moto.address, "PUT", &format!("/{bucket}"), b"");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        moto
    }

    /// Started with a certificate that it made for itself, and without a bucket.
    pub fn with_tls() -> Moto {
        Moto::start(&["-s"])
    }

    fn start(options: &[&str]) -> Moto {
        let python = stores_folder().join("moto/bin/python");
        assert!(python.exists(), "no S3 server at {}: tools/stores installs it", python.display());
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]).args(options);
        command.current_dir("/").env("NO_COLOR", "1");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        let mut running = Running::spawn(command);
        let find_address = |log: String| {
            let (_, rest) = log.split_once("Running on http")?;
            let (_, rest) = rest.split_once("://")?;
            rest.split_once(char::is_whitespace).map(|(address, _)| address.to_owned())
        };
        let mut address = None;
        wait_until(seconds(60), "moto listens", || {
            assert!(running.is_running(), "moto ended: {}", running.log());
            address = find_address(running.log());
            address.is_some()
        });
        Moto { running, address: address.unwrap() }
    }

    /// The variables by which a program reaches it.
    pub fn environment(&self) -> Vec<(String, String)> {
        http::s3_environment(&self.address)
    }

    /// For signals: stopped, it is a store that does not answer.
    pub fn running(&self) -> &Running {
        &self.running
    }
}

/// Where `tools/stores` puts what it installs.
pub fn stores_folder() -> PathBuf {
    match std::env::var_os("PGSLUICE_STORES") {
        Some(folder) => folder.into(),
        None if process::is_root() => "/var/cache/pgsluice/stores".into(),
        None => versions::cache_folder().join("stores"),
    }
}
