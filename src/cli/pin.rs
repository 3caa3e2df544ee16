//! `pin`: a name for a moment of the source.

use serde_json::json;

use super::arguments::{Everywhere, SourceArguments};
use super::config::File;
use super::place::ArchiveArguments;
use super::print;
use super::reach::Side;
use super::setup;
use crate::archive::{self, Archive, Lookup};
use crate::model::Fault;
use crate::pg::{self, inspect};
use crate::segment::{PIN_PREFIX, is_pin_name};

/// Give this moment of the source a name, by a transaction of its own in its WAL, to come back to it with --to-pin
///
/// The name is in the log once a receiver has got that far. It keeps nothing: for that there is `archive pin`, which names a position of
/// the log and keeps what comes after it. --to-pin knows the names of both.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice pin before-release-7 --name shop --source postgresql://app@db1/shop
  pgsluice archive show --pin before-release-7 --name shop")]
pub(crate) struct PinCommand {
    /// 1 to 63 lower-case letters, digits, - and _
    pin: String,
    #[command(flatten)]
    source: SourceArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
}

impl PinCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let name = &self.pin;
        if !is_pin_name(name.as_bytes()) {
            return Err(Fault::usage(format!("'{name}' can't be a pin's name"))
                .hint("give 1 to 63 lower-case letters, digits, - and _"));
        }
        let archive = self.archive.place(file)?.archive.find()?;
        match &archive {
            Some(archive) => refuse_second(archive, name)?,
            None => {
                tracing::warn!("there is no archive here yet, so whether the name is in use is not known")
            }
        }
        let conninfo = self.source.conninfo(file)?;
        let client = Side::Source.connect(&conninfo, "pgsluice pin").await?;
        if let Some(archive) = &archive {
            // A log has the messages of its own database alone.
            let server = inspect::server(&client).await.map_err(Side::Source.says())?;
            setup::refuse_archive_of_another(archive, &server)?;
        }
        let pinned = pg::pin::write(&client, PIN_PREFIX, name).await.map_err(Side::Source.says())?;
        let (lsn, xid) = (pinned.through, pinned.xid.0);
        print::report(everywhere.json, &json!({ "pin": name, "lsn": lsn, "xid": xid }), || {
            format!("pinned: {name} is transaction {xid}, which ends at or before {lsn}")
        })
    }
}

fn refuse_second(archive: &Archive, name: &str) -> Result<(), Fault> {
    let written = archive::find(archive, Lookup::Pin(name.to_owned()))?.pop().map(|found| found.end_lsn);
    let kept = archive.pins()?.into_iter().find(|pin| pin.name == name).map(|pin| pin.lsn);
    match written.or(kept) {
        None => Ok(()),
        Some(lsn) => Err(Fault::stop(format!("there is a pin {name} already, at {lsn}"))
            .hint("give another name: what is in the log stays there")),
    }
}
