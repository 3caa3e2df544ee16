//! What a running process shows, and whom it tells: `--listen` and the alarms.

use std::path::PathBuf;
use std::time::Duration;

use super::config::File;
use super::setup;
use super::size::Size;
use crate::copy::Progress;
use crate::follow::Options;
use crate::model::Fault;
use crate::pg::Conninfo;
use crate::sentinel::Home;
use crate::serve::{Hooks, Limits, Listen, Road, Watch, Watched};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Operation")]
pub(crate) struct WatchArguments {
    /// Serve the status page, REST and metrics there; a port alone is on loopback. Nobody who reaches it needs a password to look
    #[arg(long, env = "PGSLUICE_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<Listen>,
    /// A file with a token; who has it may set endpos and apply over HTTP. Without it nothing can be changed there
    #[arg(long, env = "PGSLUICE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How far behind the target may be for /readyz to say that it is ready [default: 10]
    #[arg(long, value_name = "SECONDS")]
    ready_lag: Option<u32>,
    /// Run this in a shell when an alarm is raised and when it is over: JSON on its standard input, and in PGSLUICE_ALARM_…
    #[arg(long, env = "PGSLUICE_ALARM_EXEC", value_name = "COMMAND")]
    alarm_exec: Option<String>,
    /// POST the same JSON there
    #[arg(long, env = "PGSLUICE_ALARM_URL", hide_env_values = true, value_name = "URL")]
    alarm_url: Option<String>,
    /// How long what may pass by itself is given before it is an alarm [default: 60]
    #[arg(long, value_name = "SECONDS")]
    alarm_patience: Option<u32>,
    /// From which age on a transaction of the source that holds back the slot is an alarm [default: 300]
    #[arg(long, value_name = "SECONDS")]
    alarm_transaction_age: Option<u32>,
    /// How much WAL the source may keep for the slot before it is an alarm, where the source sets no limit, such as 64GiB [default: 16GiB]
    #[arg(long, value_name = "SIZE")]
    alarm_wal: Option<Size>,
}

/// The parts of the stream that a process watches.
pub(crate) struct Watching<'a> {
    pub(crate) source: Option<&'a Conninfo>,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
    pub(crate) stream: &'a str,
    pub(crate) home: &'a Home,
    pub(crate) copy: Option<&'a Progress>,
}

impl<'a> Watching<'a> {
    pub(crate) fn of(wanted: &'a setup::Options, home: &'a Home) -> Watching<'a> {
        Watching {
            source: Some(&wanted.source),
            slot: &wanted.slot,
            publication: &wanted.publication,
            stream: &wanted.origin,
            home,
            copy: None,
        }
    }
}

impl WatchArguments {
    /// Begins to watch what is about to run; none where nobody wants to know.
    pub(crate) fn start(
        &self,
        file: &File,
        options: &Options,
        parts: &Watching<'_>,
    ) -> Result<Option<Watch>, Fault> {
        let hooks = Hooks {
            command: self.alarm_exec.clone().or_else(|| file.alarm_exec.clone()),
            url: self.alarm_url.clone().or_else(|| file.alarm_url.clone()),
            name: parts.stream.to_owned(),
        };
        let written = file.listen.as_ref().map(|text| text.parse().map_err(Fault::usage)).transpose()?;
        let listen = self.listen.or(written);
        if listen.is_none() && hooks.are_none() {
            return Ok(None);
        }
        let seconds = |typed: Option<u32>, written: Option<u32>, otherwise: u32| {
            Duration::from_secs(typed.or(written).unwrap_or(otherwise).into())
        };
        let limits = Limits::default();
        let retained = self.alarm_wal.or(file.alarm_wal).map_or(limits.retained_bytes, |size| size.0);
        let target = options.target.as_ref();
        let watch = Watch::start(Watched {
            road: Road {
                source: parts.source.cloned(),
                target: target.map(|target| target.conninfo.clone()),
                slot: parts.slot.to_owned(),
                publication: parts.publication.to_owned(),
                stream: parts.stream.to_owned(),
                transaction_age: seconds(self.alarm_transaction_age, file.alarm_transaction_age, 300),
            },
            archive: options.archive.clone(),
            home: parts.home.clone(),
            limits: Limits {
                patience: seconds(self.alarm_patience, file.alarm_patience, 60),
                retained_bytes: retained,
                delay: target.map(|target| target.delay).unwrap_or_default(),
                ..limits
            },
            hooks,
            listen,
            token: self.token(file)?,
            ready_lag_seconds: seconds(self.ready_lag, file.ready_lag, 10).as_secs_f64(),
            copy: parts.copy.cloned(),
            receives: options.source.is_some(),
            applies: target.is_some(),
        })?;
        if let Some(address) = watch.address {
            tracing::info!("status page: http://{address}/");
            if !address.ip().is_loopback() {
                tracing::warn!(
                    "the status page can be read by whoever reaches {address}, without a password"
                );
            }
        }
        Ok(Some(watch))
    }

    fn token(&self, file: &File) -> Result<Option<String>, Fault> {
        let path = self.token_file.clone().or_else(|| file.token_file.as_ref().map(PathBuf::from));
        let Some(path) = path else { return Ok(None) };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Fault::usage(format!("--token-file {}: {error}", path.display())))?;
        Ok(Some(text.trim().to_owned()))
    }
}
