//! `apply`: archive to target.

use super::arguments::{Everywhere, FilterArguments, SourceArguments, StreamArguments, TargetArguments};
use super::conduct::{ApplyingArguments, EndposArguments, conduct, needed_target};
use super::config::File;
use super::place::{self, ArchiveArguments};
use super::setup;
use super::watching::{WatchArguments, Watching};
use crate::archive::WriterOptions;
use crate::follow::Options;
use crate::model::Fault;
use crate::sentinel::{Control, Sentinel};

/// Apply the archive to the target: what is there, then what a receiver adds. Run it again to resume
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice apply --target postgresql://app@db2/shop --name shop")]
pub(crate) struct ApplyCommand {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    source: SourceArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
    #[command(flatten)]
    stream: StreamArguments,
    #[command(flatten)]
    filter: FilterArguments,
    #[command(flatten)]
    endpos: EndposArguments,
    #[command(flatten)]
    applying: ApplyingArguments,
    #[command(flatten)]
    watching: WatchArguments,
}

impl ApplyCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let place = self.archive.place(file)?;
        let names = self.stream.names(&place, file)?;
        let target = needed_target(self.target.conninfo(file)?)?;
        let target = self.applying.target(target, names.origin.clone(), &self.filter, file)?;
        let archive = place.archive.open()?;
        let home = place::sentinel(&place.archive)?;
        // A copy of an archive has none.
        let startpos = archive.manifest().start;
        let sentinel = Sentinel::create(&home, Control { startpos, apply: true, ..Control::default() })?;
        setup::prepare_target(&target.conninfo, &target.stream, &archive).await?;
        let source = self.source.optional(file)?;
        let endpos = self.endpos.position(source.as_ref()).await?;
        let (target, writer) = (Some(target), WriterOptions::default());
        let options = Options { archive, sentinel, source: None, target, endpos, writer, gate: None };
        let parts = Watching {
            source: source.as_ref(),
            slot: &names.slot,
            publication: &names.publication,
            stream: &names.origin,
            home: &home,
            copy: None,
        };
        let watch = self.watching.start(file, &options, &parts)?;
        conduct(options, watch, everywhere).await
    }
}
