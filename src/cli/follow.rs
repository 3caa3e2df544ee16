//! `follow`: the whole road under one conductor.

use super::arguments::{Everywhere, RoadArguments, RulesArguments, TableArguments};
use super::clone::warn_of_unfinished;
use super::conduct::{
    DdlArguments, EndposArguments, LaneArguments, SegmentArguments, SequenceArguments, StreamingArguments,
    conduct, needed_target,
};
use super::config::File;
use super::place;
use super::setup;
use crate::apply::Target;
use crate::follow::Options;
use crate::model::Fault;
use crate::receive::Source;
use crate::sentinel::Sentinel;

/// Receive and apply until endpos or a signal; does what setup does first where that was not done. Run it again to resume
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice follow --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop")]
pub(crate) struct FollowCommand {
    #[command(flatten)]
    road: RoadArguments,
    #[command(flatten)]
    tables: TableArguments,
    #[command(flatten)]
    rules: RulesArguments,
    #[command(flatten)]
    endpos: EndposArguments,
    #[command(flatten)]
    segments: SegmentArguments,
    #[command(flatten)]
    sequences: SequenceArguments,
    #[command(flatten)]
    ddl: DdlArguments,
    #[command(flatten)]
    lanes: LaneArguments,
    #[command(flatten)]
    streaming: StreamingArguments,
}

impl FollowCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let on_schema_change = self.rules.schema.policy(file);
        let wanted = setup::Options { on_schema_change, ..self.road.options(&self.tables, file)? };
        let target = needed_target(wanted.target.clone())?;
        let rules = self.rules.rules(&self.tables.filter, file)?;
        let writer = self.segments.options(&wanted.archive, file)?;
        let archive = setup::done(&wanted).await?;
        warn_of_unfinished(&target, &wanted.origin).await;
        let sentinel = Sentinel::open(&place::sentinel(&wanted.archive)?)?;
        let endpos = self.endpos.position(Some(&wanted.source)).await?;
        let sequences = self.sequences.are_on(file);
        let options = Options {
            archive,
            sentinel,
            source: Some(Source {
                conninfo: wanted.source,
                slot: wanted.slot,
                publication: wanted.publication,
                streaming: self.streaming.is_on(),
                format: wanted.format,
                sequences,
            }),
            target: Some(Target {
                conninfo: target,
                stream: wanted.origin,
                sequences,
                rules,
                ddl: self.ddl.ddl(file),
                lanes: self.lanes.count(file),
                only: None,
                parts: None,
            }),
            endpos,
            writer,
            gate: None,
        };
        conduct(options, everywhere).await
    }
}
