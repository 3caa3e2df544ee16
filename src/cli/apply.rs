//! `apply`: archive to target.

use super::arguments::{
    Everywhere, FilterArguments, RulesArguments, SourceArguments, StreamArguments, TargetArguments,
};
use super::conduct::{
    DdlArguments, EndposArguments, LaneArguments, SequenceArguments, conduct, needed_target,
};
use super::config::File;
use super::place::{self, ArchiveArguments};
use super::setup;
use crate::apply::Target;
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
    rules: RulesArguments,
    #[command(flatten)]
    endpos: EndposArguments,
    #[command(flatten)]
    sequences: SequenceArguments,
    #[command(flatten)]
    ddl: DdlArguments,
    #[command(flatten)]
    lanes: LaneArguments,
}

impl ApplyCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let place = self.archive.place(file)?;
        let stream = self.stream.names(&place, file)?.origin;
        let target = needed_target(self.target.conninfo(file)?)?;
        let rules = self.rules.rules(&self.filter, file)?;
        let archive = place.archive.open()?;
        let home = place::sentinel(&place.archive)?;
        // A copy of an archive has none.
        let startpos = archive.manifest().start;
        let sentinel = Sentinel::create(&home, Control { startpos, apply: true, ..Control::default() })?;
        setup::prepare_target(&target, &stream, &archive).await?;
        let endpos = self.endpos.position(self.source.optional(file)?.as_ref()).await?;
        let sequences = self.sequences.are_on(file);
        let (ddl, lanes) = (self.ddl.ddl(file), self.lanes.count(file));
        let target =
            Some(Target { conninfo: target, stream, sequences, rules, ddl, lanes, only: None, parts: None });
        let writer = WriterOptions::default();
        conduct(Options { archive, sentinel, source: None, target, endpos, writer, gate: None }, everywhere)
            .await
    }
}
