//! `sentinel`: remote control of the processes that use an archive, also while they run.

use super::arguments::{Endpos, Everywhere, SourceArguments};
use super::config::File;
use super::place::{self, ArchiveArguments};
use super::print;
use super::reach::Side;
use crate::model::{Fault, Position};
use crate::pg::inspect;
use crate::sentinel::{Control, Sentinel};

/// Look at or change where a pipeline stops and whether it applies, also while it runs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice sentinel get --name shop --json
  pgsluice sentinel set endpos current --name shop --source postgresql://app@db1/shop
  pgsluice sentinel set prefetch --name shop")]
pub(crate) struct SentinelCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print what is set and how far the processes are
    #[command(after_help = "Example:\n  pgsluice sentinel get --name shop --json")]
    Get {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Set one thing
    #[command(subcommand)]
    Set(Setting),
}

#[derive(Debug, clap::Subcommand)]
enum Setting {
    /// Stop at a position; 0/0 never stops
    #[command(after_help = "Example:\n  pgsluice sentinel set endpos 16/B374D848 --name shop")]
    Endpos {
        /// An LSN, or 'current' for where the source's WAL ends now
        #[arg(value_name = "LSN|current")]
        endpos: Endpos,
        #[command(flatten)]
        archive: ArchiveArguments,
        #[command(flatten)]
        source: SourceArguments,
    },
    /// Apply what is received
    #[command(after_help = "Example:\n  pgsluice sentinel set apply --name shop")]
    Apply {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Only receive; the target stays where it is
    #[command(after_help = "Example:\n  pgsluice sentinel set prefetch --name shop")]
    Prefetch {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
}

impl SentinelCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let control = match &self.verb {
            Verb::Get { archive } => open(archive, file)?.read()?,
            Verb::Set(Setting::Endpos { endpos, archive, source }) => {
                let sentinel = open(archive, file)?;
                let endpos = resolve(*endpos, source, file).await?;
                sentinel.update(|control| control.endpos = endpos)?
            }
            Verb::Set(Setting::Apply { archive }) => {
                open(archive, file)?.update(|control| control.apply = true)?
            }
            Verb::Set(Setting::Prefetch { archive }) => {
                open(archive, file)?.update(|control| control.apply = false)?
            }
        };
        print::report(everywhere.json, &control, || table(&control))
    }
}

fn open(archive: &ArchiveArguments, file: &File) -> Result<Sentinel, Fault> {
    Sentinel::open(&place::sentinel(&archive.place(file)?.archive)?)
}

/// The position that an endpos means now.
pub(crate) async fn resolve(
    endpos: Endpos,
    source: &SourceArguments,
    file: &File,
) -> Result<Position, Fault> {
    match endpos {
        Endpos::At(position) => Ok(position),
        Endpos::Current => {
            let client = Side::Source.connect(&source.conninfo(file)?, "pgsluice sentinel").await?;
            inspect::current_position(&client).await.map_err(Side::Source.says())
        }
    }
}

fn table(control: &Control) -> String {
    let mut rows = vec![
        ("startpos", control.startpos.to_string()),
        ("endpos", control.endpos().map_or_else(|| "never".into(), |endpos| endpos.to_string())),
        ("apply", if control.apply { "on".into() } else { "off (prefetch)".into() }),
        ("write_lsn", control.write_lsn.to_string()),
        ("flush_lsn", control.flush_lsn.to_string()),
        ("replay_lsn", control.replay_lsn.to_string()),
    ];
    if let Some(hold) = control.hold {
        rows.push(("hold", format!("applies nothing behind {}, for a comparison", hold.lsn)));
    }
    print::pairs(&rows)
}
