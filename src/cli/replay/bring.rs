//! A target that is brought to a moment of the log, whatever it has of that by now.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use super::super::arguments::Everywhere;
use super::super::clone::{across_lost_connections, interrupted};
use super::super::conduct::Shown;
use super::super::copying::CopyShown;
use super::super::reach::Side;
use super::super::setup::make_progress;
use crate::apply::{self, DdlMode, Rules, Target};
use crate::archive::{
    Archive, ArchiveId, Base, BaseTable, Reached, Span, Whereabouts, WriterOptions, disk, whereabouts,
};
use crate::copy::{self, RestoreOptions, Schema, SchemaOptions};
use crate::dump::Phase;
use crate::follow::{self, Mode, Standing};
use crate::model::{Fault, Position};
use crate::pg::copied;
use crate::pg::pattern::Pattern;
use crate::pg::progress::{self, Progress};
use crate::pg::tables;
use crate::sentinel::{Control, Home, Sentinel};

const APPLICATION: &str = "pgsluice replay";
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);

/// What is brought back, and where to.
pub(crate) struct Replay {
    pub(crate) archive: Archive,
    pub(crate) target: Target,
    /// What the id of the base to begin with begins with.
    pub(crate) base: Option<String>,
    /// None where the target has the tables.
    pub(crate) making: Option<SchemaOptions>,
    pub(crate) jobs: usize,
}

impl Replay {
    /// What the target has by now; refused where that is of something else, or behind the moment.
    pub(crate) async fn before(&self, reached: &Reached) -> Result<Before, Fault> {
        let client = self.client().await?;
        let before = Before {
            clone: copied::clone(&client, &self.target.stream).await.map_err(Side::Target.says())?,
            progress: progress::read(&client, &self.target.stream).await.map_err(Side::Target.says())?,
        };
        before.refuse_foreign(&self.archive, &self.target.stream, reached)?;
        Ok(before)
    }

    /// Begins, resumes, or goes on with what was finished at an earlier moment.
    pub(crate) async fn to(
        &self,
        reached: &Reached,
        before: &Before,
        shown: &CopyShown,
        everywhere: &Everywhere,
    ) -> Result<Standing, Fault> {
        let mut rules = self.target.rules.clone();
        let base = match before.is_finished() {
            true => None,
            false => Some(self.base(reached, before.clone.as_ref())?),
        };
        let narrows = match (&base, &before.clone) {
            (None, Some(begun)) => begun_with(self.archive.bases()?, begun),
            _ => base.clone(),
        };
        if let Some(base) = &narrows {
            refuse_unmatched(base, &rules)?;
            within(&mut rules, base)?;
        }
        let parts = match &narrows {
            Some(base) => self.parts(base, &rules, before).await?,
            None => None,
        };
        // No commit ends between the two.
        let through = base.as_ref().map_or(reached.through, |base| reached.through.max(base.through));
        let loading = base.map(|base| RestoreOptions {
            archive: self.archive.clone(),
            base,
            target: self.target.conninfo.clone(),
            stream: self.target.stream.clone(),
            tables: rules.tables.clone(),
            exclude: rules.exclude.clone(),
            scope: rules.scope(),
            renames: rules.renames.clone(),
            jobs: self.jobs,
            sequences: self.target.sequences,
            rules: self.target.shapes.clone(),
        });
        if loading.is_some() {
            let client = self.client().await?;
            copied::prepare(&client).await.map_err(Side::Target.says())?;
            apply::settle_rules(&client, &self.target).await?;
        }
        let schema = match &loading {
            Some(options) => self.loaded(options, shown).await?,
            None => None,
        };
        let standing = self.apply(everywhere, rules, parts, through).await?;
        if standing.mode != Mode::Done {
            return Err(broken_off());
        }
        if let Some(options) = &loading {
            across_lost_connections(async || {
                if let Some(schema) = &schema {
                    make(schema, options, Phase::Last).await?;
                }
                copy::finish_restore(options).await
            })
            .await?;
            schema.map_or(Ok(()), Schema::forget)?;
        }
        // A target that stands still would keep the log for nothing.
        let client = self.client().await?;
        let name = apply::registered_name(&client, &self.target.conninfo, &self.target.stream).await;
        self.archive.forget_applier(&name.map_err(Side::Target.says())?)?;
        Ok(standing)
    }

    async fn client(&self) -> Result<Client, Fault> {
        Side::Target.connect(&self.target.conninfo, APPLICATION).await
    }

    /// The parts of the log that may have something for the target, where only some of the base's tables are wanted and it is known. DDL may
    /// stand anywhere.
    async fn parts(&self, base: &Base, rules: &Rules, before: &Before) -> Result<Option<Arc<[Span]>>, Fault> {
        let wanted = copy::wanted(base, &rules.tables, &rules.exclude);
        if wanted.len() == base.tables.len() || self.target.ddl.mode != DdlMode::Ignore {
            return Ok(None);
        }
        let there = tables::tables(&self.client().await?).await.map_err(Side::Target.says())?;
        // As the applier asks: a table may have become a partition of one that is meant.
        let is_under_one = |table: &BaseTable| {
            let here = there.iter().find(|here| (&here.schema, &here.name) == (&table.schema, &table.name));
            let above =
                there.iter().filter(|above| here.is_some_and(|here| here.ancestors.contains(&above.oid)));
            let mut names = above.map(|above| (&above.schema, &above.name));
            names.any(|(schema, name)| rules.tables.iter().any(|pattern| pattern.matches(schema, name)))
        };
        let is_wanted =
            |table: &&BaseTable| wanted.iter().any(|one| one.oid == table.oid) || is_under_one(table);
        let (_, unwanted): (Vec<_>, Vec<_>) = base.tables.iter().partition(is_wanted);
        // One that the base does not know may be any, by another name.
        let may_be_wanted = |_, schema: &str, name: &str| {
            !unwanted.iter().any(|table| table.schema == schema && table.name == name)
        };
        let after = before.progress.as_ref().map_or(base.begin.start, |progress| progress.lsn);
        let through = self.archive.end()?;
        match whereabouts(&self.archive, Span { after, through }, may_be_wanted) {
            Ok(Whereabouts { mut spans, .. }) => {
                // Of what comes meanwhile nothing is known.
                spans.push(Span { after: through, through: Position(u64::MAX) });
                Ok(Some(spans.into()))
            }
            Err(error) => {
                tracing::warn!(%error, "all of the log is read, since it is not known where the tables are");
                Ok(None)
            }
        }
    }

    /// Loads the base, and tells how far that is.
    async fn loaded(&self, options: &RestoreOptions, shown: &CopyShown) -> Result<Option<Schema>, Fault> {
        let loading = across_lost_connections(async || self.load(options, shown).await);
        let telling = async {
            loop {
                shown.tell();
                tokio::time::sleep(TELL).await;
            }
        };
        let schema = tokio::select! {
            loaded = loading => loaded?,
            () = telling => return Err(broken_off()),
            stopped = interrupted() => return stopped.and(Err(broken_off())),
        };
        shown.end();
        Ok(schema)
    }

    /// That which an earlier run has begun with, or the newest that has nothing from behind the moment.
    fn base(&self, reached: &Reached, begun: Option<&copied::Clone>) -> Result<Base, Fault> {
        let mut bases = self.archive.bases()?;
        if let Some(begun) = begun {
            bases = begun_with(bases, begun).into_iter().collect();
            if bases.is_empty() {
                return Err(Fault::stop("the base that this target was begun with is gone from the archive")
                    .hint("replay into an empty target"));
            }
        }
        if let Some(id) = &self.base {
            bases.retain(|base| base.begin.id.to_string().starts_with(id.as_str()));
        }
        let beginning = self.archive.beginning()?;
        let all = bases.clone();
        bases.retain(|base| reached.has_not_passed(base.through) && base.begin.start >= beginning);
        if bases.is_empty() {
            return Err(none_fits(&all, reached, beginning));
        }
        let is_chosen = begun.is_some() || self.base.is_some();
        let serves = |base: &Base| {
            is_chosen
                || is_full(base)
                || (!self.target.rules.tables.is_empty() && unmatched(base, &self.target.rules).is_empty())
        };
        let newest = bases.last().cloned();
        match bases.into_iter().rev().find(serves) {
            Some(base) => Ok(base),
            None => newest.filter(|base| !unmatched(base, &self.target.rules).is_empty()).ok_or_else(|| {
                Fault::stop("the bases that fit have only some of the source's tables").hint(
                    "choose tables with --tables, or a base with --base; pgsluice archive bases prints them",
                )
            }),
        }
    }

    /// Brings the base to the target, as far as it is not there, and gives what is still to be made of the schema.
    async fn load(&self, options: &RestoreOptions, shown: &CopyShown) -> Result<Option<Schema>, Fault> {
        copy::begin_restore(options).await?;
        let client = self.client().await?;
        let start = options.base.begin.start;
        let mut created = Vec::new();
        let made =
            make_progress(&client, &options.target, &options.stream, &options.archive, start, &mut created);
        made.await.map_err(Side::Target.says())?;
        let schema = match &self.making {
            Some(making) => Some(copy::restored_schema(options, making).await?),
            None => None,
        };
        let standing = copied::clone(&client, &options.stream).await.map_err(Side::Target.says())?;
        if standing.is_some_and(|clone| clone.through.is_some()) {
            return Ok(schema);
        }
        if let Some(schema) = &schema {
            for what in &schema.left_out {
                tracing::warn!(what, "not brought back as it was");
            }
            make(schema, options, Phase::Before).await?;
        }
        copy::make_renamed(options).await?;
        copy::load_rows(options, shown.progress()).await?;
        if let Some(schema) = &schema {
            make(schema, options, Phase::Index).await?;
            make(schema, options, Phase::After).await?;
        }
        copy::restored_analyze(options).await?;
        copy::restored_sequences(options).await?;
        copy::complete_restore(options).await?;
        Ok(schema)
    }

    /// Applies the log up to the moment. The archive's own sentinel steers others.
    async fn apply(
        &self,
        everywhere: &Everywhere,
        rules: Rules,
        parts: Option<Arc<[Span]>>,
        through: Position,
    ) -> Result<Standing, Fault> {
        let archive = &self.archive;
        let target = Target { rules, parts, ..self.target.clone() };
        let home = archive.root().join(format!("replay-{}", ArchiveId::random()?));
        let control = Control { startpos: archive.manifest().start, apply: true, ..Control::default() };
        disk::create_folder(&home)?;
        let sentinel = Sentinel::create(&Home::Folder(home.clone()), control)?;
        let mut shown = Shown::new(archive, everywhere);
        let options = follow::Options {
            archive: archive.clone(),
            sentinel,
            source: None,
            target: Some(target),
            endpos: Some(through),
            writer: WriterOptions::default(),
            gate: None,
        };
        let ended = follow::run(options, |standing| shown.tell(standing)).await;
        shown.clear();
        if let Err(error) = std::fs::remove_dir_all(&home) {
            tracing::warn!(%error, folder = %home.display(), "can't be removed");
        }
        ended
    }
}

/// What the target has of the stream.
pub(crate) struct Before {
    clone: Option<copied::Clone>,
    progress: Option<Progress>,
}

impl Before {
    pub(crate) fn is_begun(&self) -> bool {
        self.clone.is_some()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.clone.as_ref().is_some_and(|clone| clone.finished)
    }

    /// That nothing is left to be done.
    pub(crate) fn already(&self, stream: &str) -> Fault {
        let at =
            self.progress.as_ref().map(|progress| format!(", up to {}", progress.lsn)).unwrap_or_default();
        Fault::stop(format!("stream {stream} was brought back to this target already{at}"))
            .hint("--from-target goes on with it to a later moment; another --origin begins anew")
    }

    /// Refuses a target that this archive was not replayed into, or that is further than the moment.
    fn refuse_foreign(&self, archive: &Archive, stream: &str, reached: &Reached) -> Result<(), Fault> {
        let id = archive.manifest().archive_id.to_string();
        let other = self.clone.as_ref().is_some_and(|clone| clone.archive_id != id);
        let replayed = self.clone.as_ref().is_some_and(|clone| clone.scope.is_some());
        if other || (!replayed && (self.clone.is_some() || self.progress.is_some())) {
            return Err(Fault::person(format!(
                "the target has a stream {stream} that was not brought back from this archive"
            ))
            .hint("choose another --origin, or another target"));
        }
        match &self.progress {
            Some(progress) if !reached.has_not_passed(progress.lsn) => Err(Fault::stop(format!(
                "the target is at {} already, and a replay can't go back to {}",
                progress.lsn, reached.through
            ))
            .hint("replay into an empty target")),
            _ => Ok(()),
        }
    }
}

fn none_fits(bases: &[Base], reached: &Reached, beginning: Position) -> Fault {
    let Some(first) = bases.first() else {
        return Fault::stop("the archive has no base to begin with, or none of that id")
            .hint("pgsluice clone --into-archive takes one; what was before that can't be brought back");
    };
    let needed: Vec<String> = bases
        .iter()
        .map(|base| format!("{} needs the log from {} to {}", base.begin.id, base.begin.start, base.through))
        .collect();
    Fault::stop(format!(
        "no base of the archive fits {}: {}; the log begins at {beginning}",
        reached.through,
        needed.join(", ")
    ))
    .hint(format!("the first moment that the archive may have is {}", first.through))
}

/// The base that a target was begun with.
fn begun_with(bases: Vec<Base>, begun: &copied::Clone) -> Option<Base> {
    bases.into_iter().find(|base| base.begin.first_xid == begun.first_xid)
}

/// Whether it has every table that is published.
fn is_full(base: &Base) -> bool {
    base.begin.tables.is_empty() && base.begin.exclude.is_empty()
}

/// A base that has only some tables: nothing of others is applied.
fn within(rules: &mut Rules, base: &Base) -> Result<(), Fault> {
    if is_full(base) {
        return Ok(());
    }
    let wanted = copy::wanted(base, &rules.tables, &rules.exclude);
    if wanted.is_empty() {
        return Err(Fault::usage(format!("base {} has none of these tables", base.begin.id)));
    }
    rules.tables = wanted.iter().map(|table| Pattern::of(&table.schema, &table.name)).collect();
    rules.exclude.clear();
    Ok(())
}

/// What was typed and means no table of the base.
fn unmatched(base: &Base, rules: &Rules) -> Vec<String> {
    copy::unmatched(base, &rules.tables, &rules.renames)
}

fn refuse_unmatched(base: &Base, rules: &Rules) -> Result<(), Fault> {
    match unmatched(base, rules).as_slice() {
        [] => Ok(()),
        unmatched => Err(Fault::usage(format!("base {} has no table {}", base.begin.id, unmatched.join(", ")))
            .hint("pgsluice archive bases shows what there is; of a table whose partitions are published each is renamed by itself")),
    }
}

async fn make(schema: &Schema, options: &RestoreOptions, phase: Phase) -> Result<(), Fault> {
    let told = |done: copy::Done<'_>| CopyShown::made(&done);
    schema.make(&options.target, &options.stream, options.jobs, phase, &told).await
}

fn broken_off() -> Fault {
    Fault::stop("stopped before the target was there")
        .hint("run the same command again: it goes on where it was")
}
