//! `replay`: a target from the archive alone, as of any moment that it has.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use super::arguments::{Everywhere, FilterArguments, RulesArguments, StreamArguments, TargetArguments};
use super::clone::{across_lost_connections, interrupted};
use super::conduct::{DdlArguments, LaneArguments, SequenceArguments, Shown, needed_target};
use super::config::File;
use super::copying::{CopyShown, MakingArguments};
use super::place::ArchiveArguments;
use super::points::ToArguments;
use super::print;
use super::reach::Side;
use super::setup::make_progress;
use crate::apply::{self, DdlMode, Rules, Target};
use crate::archive::{Archive, ArchiveId, Base, Point, Reached, WriterOptions, disk, resolve};
use crate::copy::{self, RestoreOptions, Schema};
use crate::dump::Phase;
use crate::follow::{self, Mode, Standing};
use crate::model::{Fault, Position, Timestamp};
use crate::pg::copied;
use crate::pg::pattern::{BadRename, Pattern, Rename};
use crate::pg::progress::{self, Progress};
use crate::sentinel::{Control, Home, Sentinel};

const APPLICATION: &str = "pgsluice replay";
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);

/// Build a target from the archive alone: a base and the changes since, up to a moment. Run it again to resume
///
/// Wants a base in the archive, as pgsluice clone --into-archive takes one. The source is not needed. Without a moment it is everything that the
/// log has; then pgsluice apply can go on with what comes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice replay --to-time 2026-01-31T10:41:59Z --archive s3://bucket/shop --target postgresql://app@db3/shop
  pgsluice replay --to-pin before-release --rename public.orders=restored.orders --name shop --target postgresql://app@db1/shop --origin rescue")]
pub(crate) struct ReplayCommand {
    #[command(flatten)]
    to: ToArguments,
    /// Without the transaction that is just there, or those of just that time
    #[arg(long, requires = "ToArguments")]
    exclusive: bool,
    /// Go on with a target that an earlier replay has made, to a later moment
    #[arg(long)]
    from_target: bool,
    /// Bring a table back under another name, such as public.orders=restored.orders; made like the one that is there, if it is missing.
    /// Without --tables only such tables are brought back
    #[arg(long, value_name = "TABLE=TABLE", num_args = 1.., value_delimiter = ',')]
    rename: Vec<String>,
    /// The base to begin with, by what its id begins with [default: the newest that fits]
    #[arg(long, value_name = "ID")]
    base: Option<String>,
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
    #[command(flatten)]
    stream: StreamArguments,
    #[command(flatten)]
    filter: FilterArguments,
    #[command(flatten)]
    rules: RulesArguments,
    #[command(flatten)]
    making: MakingArguments,
    /// Tables, and parts of large ones, that are loaded at a time
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Copy")]
    jobs: u16,
    #[command(flatten)]
    sequences: SequenceArguments,
    #[command(flatten)]
    ddl: DdlArguments,
    #[command(flatten)]
    lanes: LaneArguments,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    tables: usize,
    rows: u64,
    /// Everything up to here is on the target, and nothing behind it.
    stopped_at: Position,
    /// The last transaction that is on the target, of those that the log still has.
    last_lsn: Option<Position>,
    last_time: Option<Timestamp>,
    last_xid: Option<u32>,
    /// The first one that was left out.
    next_lsn: Option<Position>,
    next_time: Option<Timestamp>,
    #[serde(flatten)]
    standing: Standing,
}

impl ReplayCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        if self.jobs == 0 {
            return Err(Fault::usage("--jobs takes at least 1"));
        }
        let place = self.archive.place(file)?;
        let stream = self.stream.names(&place, file)?.origin;
        let conninfo = needed_target(self.target.conninfo(file)?)?;
        let archive = place.archive.open()?;
        let reached = self.reached(&archive)?;
        let client = Side::Target.connect(&conninfo, APPLICATION).await?;
        let before = Before::read(&client, &stream).await?;
        before.refuse_foreign(&archive, &stream, &reached)?;
        let mut rules = self.rules.rules(&self.filter, file)?;
        if !rules.columns.is_empty() {
            return Err(Fault::usage("replay brings back whole rows: leave out --columns"));
        }
        rules.renames = self.renames()?;
        let only_renamed = rules.tables.is_empty() && !rules.renames.is_empty();
        if only_renamed {
            rules.tables = rules.renames.iter().map(|rename| rename.from.clone()).collect();
        }
        let base = match before.is_finished() {
            true => None,
            false => Some(self.base(&archive, &reached, &rules, before.clone.as_ref())?),
        };
        let narrows = match (&base, &before.clone) {
            (None, Some(begun)) => begun_with(archive.bases()?, begun),
            _ => base.clone(),
        };
        if let Some(base) = &narrows {
            refuse_unmatched(base, &rules)?;
            within(&mut rules, base)?;
        }
        let mut ddl = self.ddl.ddl(file);
        if !rules.renames.is_empty() && ddl.mode == DdlMode::Apply {
            tracing::warn!("DDL of the log is left out: it would alter the tables that keep their names");
            ddl.mode = DdlMode::Ignore;
        }
        let sequences = self.sequences.are_on(file);
        let target = Target {
            conninfo: conninfo.clone(),
            stream: stream.clone(),
            sequences,
            ddl,
            lanes: self.lanes.count(file),
            only: None,
            rules: rules.clone(),
        };
        let shown = CopyShown::new(everywhere);
        let mut through = reached.through;
        let restored = match base {
            None if !self.from_target => return Err(already(&stream, &before)),
            None => None,
            Some(_) if self.from_target && before.clone.is_none() => {
                return Err(Fault::stop(format!(
                    "the target has no stream {stream} that replay has brought back"
                ))
                .hint("leave out --from-target"));
            }
            Some(base) => {
                // No commit ends between the two.
                through = through.max(base.through);
                let options = RestoreOptions {
                    archive: archive.clone(),
                    base,
                    target: conninfo.clone(),
                    stream: stream.clone(),
                    tables: rules.tables.clone(),
                    exclude: rules.exclude.clone(),
                    scope: rules.scope(),
                    renames: rules.renames,
                    jobs: self.jobs.into(),
                    sequences,
                };
                let schema = !(self.making.no_schema || only_renamed);
                let loading = across_lost_connections(async || self.load(&options, schema, &shown).await);
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
                Some((options, schema))
            }
        };
        let standing = self.apply(everywhere, &archive, target, through).await?;
        if standing.mode != Mode::Done {
            return Err(broken_off());
        }
        if let Some((options, schema)) = restored {
            across_lost_connections(async || {
                if let Some(schema) = &schema {
                    make(schema, &options, Phase::Last).await?;
                }
                copy::finish_restore(&options).await
            })
            .await?;
            schema.map_or(Ok(()), Schema::forget)?;
        }
        // A target that stands still would keep the log for nothing.
        let name = apply::registered_name(&client, &conninfo, &stream).await.map_err(Side::Target.says())?;
        archive.forget_applier(&name)?;
        let report = report(&shown, &reached, standing);
        print::report(everywhere.json, &report, || table(&report))
    }

    fn renames(&self) -> Result<Vec<Rename>, Fault> {
        let parse = |text: &String| {
            text.parse().map_err(|error: BadRename| Fault::usage(format!("--rename: {error}")))
        };
        self.rename.iter().map(parse).collect()
    }

    /// Where the moment is in the log.
    fn reached(&self, archive: &Archive) -> Result<Reached, Fault> {
        let point = match self.to.point() {
            Some(point) => point,
            None => Point::Lsn(archive.end()?),
        };
        resolve(archive, &point, Some(!self.exclusive))
    }

    /// That which an earlier run has begun with, or the newest that has nothing from behind the moment.
    fn base(
        &self,
        archive: &Archive,
        reached: &Reached,
        rules: &Rules,
        begun: Option<&copied::Clone>,
    ) -> Result<Base, Fault> {
        let mut bases = archive.bases()?;
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
        let beginning = archive.beginning()?;
        let all = bases.clone();
        bases.retain(|base| reached.has_not_passed(base.through) && base.begin.start >= beginning);
        if bases.is_empty() {
            return Err(none_fits(&all, reached, beginning));
        }
        let is_chosen = begun.is_some() || self.base.is_some();
        let serves = |base: &Base| {
            is_chosen || is_full(base) || (!rules.tables.is_empty() && unmatched(base, rules).is_empty())
        };
        let newest = bases.last().cloned();
        match bases.into_iter().rev().find(serves) {
            Some(base) => Ok(base),
            None => newest.filter(|base| !unmatched(base, rules).is_empty()).ok_or_else(|| {
                Fault::stop("the bases that fit have only some of the source's tables").hint(
                    "choose tables with --tables, or a base with --base; pgsluice archive bases prints them",
                )
            }),
        }
    }

    /// Brings the base to the target, as far as it is not there, and gives what is still to be made of the schema.
    async fn load(
        &self,
        options: &RestoreOptions,
        brings_schema: bool,
        shown: &CopyShown,
    ) -> Result<Option<Schema>, Fault> {
        copy::begin_restore(options).await?;
        let client = Side::Target.connect(&options.target, APPLICATION).await?;
        let start = options.base.begin.start;
        let mut created = Vec::new();
        let made =
            make_progress(&client, &options.target, &options.stream, &options.archive, start, &mut created);
        made.await.map_err(Side::Target.says())?;
        let schema = match brings_schema {
            true => Some(copy::restored_schema(options, &self.making.options()).await?),
            false => None,
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
        archive: &Archive,
        target: Target,
        through: Position,
    ) -> Result<Standing, Fault> {
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
struct Before {
    clone: Option<copied::Clone>,
    progress: Option<Progress>,
}

impl Before {
    async fn read(client: &Client, stream: &str) -> Result<Before, Fault> {
        let clone = copied::clone(client, stream).await.map_err(Side::Target.says())?;
        let progress = progress::read(client, stream).await.map_err(Side::Target.says())?;
        Ok(Before { clone, progress })
    }

    fn is_finished(&self) -> bool {
        self.clone.as_ref().is_some_and(|clone| clone.finished)
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

fn already(stream: &str, before: &Before) -> Fault {
    let at = before.progress.as_ref().map(|progress| format!(", up to {}", progress.lsn)).unwrap_or_default();
    Fault::stop(format!("stream {stream} was brought back to this target already{at}"))
        .hint("--from-target goes on with it to a later moment; another --origin begins anew")
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

fn report(shown: &CopyShown, reached: &Reached, standing: Standing) -> Report {
    let end = shown.ended();
    Report {
        tables: end.map_or(0, |end| end.tables),
        rows: end.map_or(0, |end| end.rows),
        stopped_at: reached.through,
        last_lsn: reached.last.as_ref().map(|last| last.end_lsn),
        last_time: reached.last.as_ref().map(|last| last.time),
        last_xid: reached.last.as_ref().map(|last| last.xid),
        next_lsn: reached.next.as_ref().map(|next| next.end_lsn),
        next_time: reached.next.as_ref().map(|next| next.time),
        standing,
    }
}

fn table(report: &Report) -> String {
    let at = |lsn: Option<Position>, time: Option<Timestamp>| match lsn.zip(time) {
        Some((lsn, time)) => format!("{lsn}, committed at {time}"),
        None => "none in the log".into(),
    };
    print::pairs(&[
        ("tables", report.tables.to_string()),
        ("rows", report.rows.to_string()),
        ("stopped at", report.stopped_at.to_string()),
        ("last transaction", at(report.last_lsn, report.last_time)),
        ("first one left out", at(report.next_lsn, report.next_time)),
        ("changes", report.standing.changes.to_string()),
    ])
}
