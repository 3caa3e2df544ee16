//! `receive`: source to archive.

use super::arguments::{Everywhere, SourceArguments, StreamArguments, TableArguments, TargetArguments};
use super::conduct::{EndposArguments, SegmentArguments, SequenceArguments, StreamingArguments, conduct};
use super::config::File;
use super::place::{self, ArchiveArguments};
use super::setup;
use crate::follow::Options;
use crate::model::Fault;
use crate::receive::Source;
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
    segments: SegmentArguments,
    #[command(flatten)]
    sequences: SequenceArguments,
    #[command(flatten)]
    streaming: StreamingArguments,
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
        let writer = self.segments.options(&wanted.archive, file)?;
        let archive = setup::done(&wanted).await?;
        let sentinel = Sentinel::open(&place::sentinel(&wanted.archive)?)?;
        let endpos = self.endpos.position(Some(&wanted.source)).await?;
        let (slot, publication) = (wanted.slot, wanted.publication);
        let (sequences, streaming) = (self.sequences.are_on(file), self.streaming.is_on());
        let format = wanted.format;
        let source =
            Some(Source { conninfo: wanted.source, slot, publication, sequences, streaming, format });
        conduct(Options { archive, sentinel, source, target: None, endpos, writer, gate: None }, everywhere)
            .await
    }
}
