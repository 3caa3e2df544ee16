//! `follow`: the whole road under one conductor.

use super::arguments::{Everywhere, RoadArguments, TableArguments};
use super::clone::warn_of_unfinished;
use super::conduct::{ApplyingArguments, EndposArguments, ReceivingArguments, conduct, needed_target};
use super::config::File;
use super::place;
use super::setup;
use super::watching::{WatchArguments, Watching};
use crate::follow::Options;
use crate::model::Fault;
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
    endpos: EndposArguments,
    #[command(flatten)]
    receiving: ReceivingArguments,
    #[command(flatten)]
    applying: ApplyingArguments,
    #[command(flatten)]
    watching: WatchArguments,
}

impl FollowCommand {
    /// The same along another road.
    pub(super) fn along(self, road: RoadArguments) -> FollowCommand {
        FollowCommand { road, ..self }
    }

    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let on_schema_change = self.applying.rules.schema.policy(file);
        let road = self.road.options(&self.tables, file)?;
        let rules = self.applying.file.read(file, &road.origin)?;
        let wanted = setup::Options { on_schema_change, rules, ..road };
        if let Some(rules) = &wanted.rules {
            rules.refuse_format(wanted.format)?;
        }
        let target = needed_target(wanted.target.clone())?;
        let stream = wanted.origin.clone();
        let target = self.applying.target(target, stream, &self.tables.filter, file)?;
        let writer = self.receiving.segments.options(&wanted.archive, file)?;
        let archive = setup::done(&wanted).await?;
        warn_of_unfinished(&target.conninfo, &target.stream).await;
        let home = place::sentinel(&wanted.archive)?;
        let sentinel = Sentinel::open(&home)?;
        let endpos = self.endpos.position(Some(&wanted.source)).await?;
        let source = Some(self.receiving.source(&wanted, target.sequences));
        let target = Some(target);
        let options = Options { archive, sentinel, source, target, endpos, writer, gate: None };
        let watch = self.watching.start(file, &options, &Watching::of(&wanted, &home))?;
        conduct(options, watch, everywhere).await
    }
}
