//! `receive`: source to archive.

use super::arguments::{Everywhere, SourceArguments, StreamArguments, TableArguments, TargetArguments};
use super::conduct::{EndposArguments, ReceivingArguments, SequenceArguments, conduct};
use super::config::File;
use super::place::{self, ArchiveArguments};
use super::setup;
use super::watching::{WatchArguments, Watching};
use crate::follow::Options;
use crate::model::Fault;
use crate::sentinel::Sentinel;

/// Receive changes into the archive only; does what setup does first where that was not done. Run it again to resume
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice receive --source postgresql://app@db1/shop --name shop")]
pub(crate) struct ReceiveCommand {
    #[command(flatten)]
    source: SourceArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
    #[command(flatten)]
    stream: StreamArguments,
    #[command(flatten)]
    tables: TableArguments,
    #[command(flatten)]
    endpos: EndposArguments,
    #[command(flatten)]
    receiving: ReceivingArguments,
    #[command(flatten)]
    sequences: SequenceArguments,
    #[command(flatten)]
    watching: WatchArguments,
}

impl ReceiveCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let wanted = setup::Options {
            target: None,
            ..setup::options(
                &self.source,
                &TargetArguments::default(),
                &self.archive,
                &self.stream,
                &self.tables,
                file,
            )?
        };
        let writer = self.receiving.segments.options(&wanted.archive, file)?;
        let archive = setup::done(&wanted).await?;
        let home = place::sentinel(&wanted.archive)?;
        let sentinel = Sentinel::open(&home)?;
        let endpos = self.endpos.position(Some(&wanted.source)).await?;
        let source = Some(self.receiving.source(&wanted, self.sequences.are_on(file)));
        let options = Options { archive, sentinel, source, target: None, endpos, writer, gate: None };
        let watch = self.watching.start(file, &options, &Watching::of(&wanted, &home))?;
        conduct(options, watch, everywhere).await
    }
}
