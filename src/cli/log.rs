//! Log lines on stderr.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::arguments::{Everywhere, LogFormat};
use crate::model::Fault;

/// `-v` and `-q` win over `PGSLUICE_LOG`, which holds a level or directives such as `info,pgsluice::receive=debug`.
pub(crate) fn start(everywhere: &Everywhere, written: Option<LogFormat>) -> Result<(), Fault> {
    let level = match (everywhere.quiet, everywhere.verbose) {
        (true, _) => Some("warn"),
        (_, 0) => None,
        // Our own rooms only; those below us are too chatty to be of use.
        (_, 1) => Some("info,pgsluice=debug"),
        (_, _) => Some("trace"),
    };
    let directives = match level {
        Some(level) => level.to_owned(),
        None => std::env::var("PGSLUICE_LOG").unwrap_or_default(),
    };
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(&directives)
        .map_err(|error| Fault::usage(format!("PGSLUICE_LOG: {error}")))?;
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match everywhere.log_format.or(written).unwrap_or_default() {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Fault::stop(format!("starting the log: {error}")))
}
