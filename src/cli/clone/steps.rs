//! The steps of a clone, in their order; each is safe to repeat, and none is done twice.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::super::arguments::Names;
use super::super::cleanup::Cleanup;
use super::super::copying::CopyShown;
use super::super::reach::Side;
use super::super::setup;
use super::{APPLICATION, CloneCommand};
use crate::copy::{self, LargeObjects, Refreshed, Schema};
use crate::dump::Phase;
use crate::follow::Gate;
use crate::model::{Fault, Position, Remedy};
use crate::pg::{Conninfo, copied, inspect, publication};

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long the source is given to let the slot go.
const PATIENCE: Duration = Duration::from_secs(15);

/// The applying that waits for the copy, and then goes on beside it.
pub(super) struct Applying<'a> {
    pub(super) open: &'a watch::Sender<Gate>,
    /// How far the target is.
    pub(super) applied: &'a watch::Sender<Position>,
}

/// Tries again what a lost connection has interrupted.
pub(in crate::cli) async fn across_lost_connections<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut backoff = BACKOFF_MIN;
    loop {
        let started = Instant::now();
        let fault = match attempt().await {
            Err(fault) if matches!(fault.remedy, Remedy::Retry | Remedy::Reread) => fault,
            done => return done,
        };
        if started.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_MIN;
        }
        tracing::warn!(error = %fault, retry_seconds = backoff.as_secs_f64(), "the copy was interrupted");
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl CloneCommand {
    /// Brings everything over that is not changes, across lost connections; false where something could not be made at the end.
    pub(super) async fn copy(
        &self,
        options: &copy::Options,
        wanted: &setup::Options,
        alone: bool,
        shown: &CopyShown,
        applying: &Applying<'_>,
    ) -> Result<bool, Fault> {
        across_lost_connections(async || self.try_copy(options, wanted, alone, shown, applying).await).await
    }

    async fn try_copy(
        &self,
        options: &copy::Options,
        wanted: &setup::Options,
        alone: bool,
        shown: &CopyShown,
        applying: &Applying<'_>,
    ) -> Result<bool, Fault> {
        copy::begin(options, alone).await?;
        if self.follow || self.keep {
            copy::share(options).await?;
        }
        let clone = copy::standing(options).await?;
        let is_finished = clone.as_ref().is_some_and(|clone| clone.finished);
        let schema = match self.copy.schema.no_schema || is_finished {
            true => None,
            false => Some(Schema::read(options, &self.copy.schema.options()).await?),
        };
        let make = async |phase| match &schema {
            Some(schema) => {
                let told = |done: copy::Done<'_>| CopyShown::made(&done);
                schema.make(&options.target, &options.stream, options.jobs, phase, &told).await
            }
            None => Ok(()),
        };
        let through = match clone.and_then(|clone| clone.through) {
            Some(through) => through,
            None => {
                if let Some(schema) = &schema {
                    tell_of_rest(options, schema).await?;
                }
                make(Phase::Before).await?;
                setup::done(wanted).await?;
                if self.brings_large_objects(options) {
                    copy::refuse_other_large_objects(options).await?;
                }
                loop {
                    copy::rows(options, shown.progress()).await?;
                    make(Phase::Index).await?;
                    // Those that a row names are there, if it still names them.
                    self.large_objects(options).await?;
                    if let Refreshed::Whole(through) = copy::refresh(options).await? {
                        break through;
                    }
                }
            }
        };
        if !is_finished {
            make(Phase::After).await?;
            // Triggers and policies are there only now.
            setup::setup(wanted).await?;
            copy::analyze(options).await?;
            copy::sequences(options).await?;
        }
        shown.end();
        let until = match self.follow || self.endpos.is_given() {
            true => None,
            false => {
                let client = Side::Source.connect(&options.source, APPLICATION).await?;
                let now = inspect::current_position(&client).await.map_err(Side::Source.says())?;
                Some(now.max(through))
            }
        };
        // Once: a retry after it finds the gate open.
        applying.open.send_if_modified(|gate| {
            let shut = *gate == Gate::Shut;
            if shut {
                *gate = Gate::Open { until, least: through };
            }
            shut
        });
        // Only now do rows of different tables fit together.
        let _ = applying.applied.subscribe().wait_for(|applied| *applied >= through).await;
        if let Err(fault) = make(Phase::Last).await {
            if fault.remedy != Remedy::Stop {
                return Err(fault);
            }
            // The rows are right, and so are the changes that go on.
            tracing::error!(error = %fault, "not everything could be made that comes last: mend it, and run the same command again");
            return Ok(false);
        }
        copy::finish(options).await?;
        if let Some(schema) = schema {
            schema.forget()?;
        }
        Ok(true)
    }

    fn brings_large_objects(&self, options: &copy::Options) -> bool {
        !self.copy.no_large_objects && options.tables.is_empty()
    }

    /// Brings large objects, or says that they stay behind.
    async fn large_objects(&self, options: &copy::Options) -> Result<(), Fault> {
        if !self.brings_large_objects(options) {
            return tell_of_large_objects(&options.source).await;
        }
        if let Some(brought) = copy::large_objects(options, &self.copy.schema.options().wanted).await? {
            let LargeObjects { objects, bytes } = brought;
            tracing::warn!(
                objects,
                bytes,
                "large objects are as they were just now: the log tells nothing of their changes"
            );
        }
        Ok(())
    }
}

/// Says that large objects stay behind, where there are some.
pub(super) async fn tell_of_large_objects(source: &Conninfo) -> Result<(), Fault> {
    let client = Side::Source.connect(source, APPLICATION).await?;
    if let Some(what) = copy::large_objects_left(&client).await? {
        tracing::warn!(what, "not cloned");
    }
    Ok(())
}

/// Whether nothing of it is there yet, so that all that setup makes is for this clone.
pub(super) async fn is_new(wanted: &setup::Options) -> Result<bool, Fault> {
    let client = Side::Source.connect(&wanted.source, APPLICATION).await?;
    let publication = publication::read(&client, &wanted.publication).await.map_err(Side::Source.says())?;
    Ok(publication.is_none() && wanted.archive.find()?.is_none())
}

/// Takes away what would keep the source's WAL for nobody.
pub(super) async fn clean_up(wanted: setup::Options) -> Result<(), Fault> {
    let names = Names {
        plugin: wanted.plugin,
        slot: wanted.slot,
        publication: wanted.publication,
        origin: wanted.origin,
    };
    let (source, target, archive) = (wanted.source, wanted.target, wanted.archive);
    let cleanup = Cleanup { source: Some(source), target, names, archive, archive_too: false };
    let started = Instant::now();
    loop {
        match cleanup.perform().await {
            Ok(removed) => {
                let archive = &cleanup.archive;
                tracing::info!(removed = removed.join(", "), %archive, "cleaned up; the archive stays");
                return Ok(());
            }
            // The source may not have noticed yet that the receiver has gone.
            Err(fault) if started.elapsed() > PATIENCE => return Err(fault),
            Err(_) => tokio::time::sleep(BACKOFF_MIN).await,
        }
    }
}

/// Says of a target whose clone lacks what comes last that it does.
pub(in crate::cli) async fn warn_of_unfinished(target: &Conninfo, stream: &str) {
    let Ok(client) = Side::Target.connect(target, APPLICATION).await else { return };
    if let Ok(Some(clone)) = copied::clone(&client, stream).await
        && clone.through.is_some()
        && !clone.finished
    {
        tracing::warn!(
            "the clone of this target lacks foreign keys and what else comes last: pgsluice clone makes them"
        );
    }
}

/// Says what a clone leaves behind.
async fn tell_of_rest(options: &copy::Options, schema: &Schema) -> Result<(), Fault> {
    let source = Side::Source.connect(&options.source, APPLICATION).await?;
    let target = Side::Target.connect(&options.target, APPLICATION).await?;
    let rest = copy::not_brought(&source, &target).await?;
    for what in &rest.lacking {
        tracing::warn!(what, "the target lacks what the schema names");
    }
    for what in schema.left_out.iter().chain(&rest.left) {
        tracing::warn!(what, "not cloned as it is");
    }
    Ok(())
}
