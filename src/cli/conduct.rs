//! What `follow`, `receive`, `apply` and those that copy have in common: their flags, the run itself, its progress and its report.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::{Endpos, Everywhere, FilterArguments, RulesArguments};
use super::config::File;
use super::notify::Notify;
use super::poll::PollSettings;
use super::print;
use super::reach::Side;
use super::rules::RulesFileArguments;
use super::setup;
use crate::apply::{Ddl, DdlMode, OnError, Target};
use crate::archive::{Archive, Compaction, Durability, Location, WriterOptions};
use crate::follow::{self, Mode, Options, Standing};
use crate::model::{Fault, Lsn, Position};
use crate::pg::{Conninfo, inspect};
use crate::receive::Source;
use crate::serve::Watch;

/// How often a log line tells of progress where no terminal shows it.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How segments are written.
#[derive(Debug, clap::Args)]
pub(crate) struct SegmentArguments {
    /// Seal a segment at this size
    #[arg(long, value_name = "MIB", default_value_t = 64, help_heading = "Log")]
    segment_size: u64,
    /// Seal a segment at this age
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Log")]
    segment_age: u64,
    /// Merge small segments into larger ones when nothing was written to them for so long; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, help_heading = "Log")]
    compact_after: u64,
    /// What must have a transaction before the source may forget it: this machine's disk, or the archive's store [default: local]
    #[arg(
        long,
        env = "PGSLUICE_DURABLE",
        value_name = "local|store",
        hide_possible_values = true,
        help_heading = "Log"
    )]
    durable: Option<Durable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durable {
    Local,
    Store,
}

impl SegmentArguments {
    pub(crate) fn options(&self, location: &Location, file: &File) -> Result<WriterOptions, Fault> {
        if !(1..=4096).contains(&self.segment_size) || self.segment_age == 0 {
            return Err(Fault::usage("--segment-size takes 1 to 4096 MiB, --segment-age at least a second"));
        }
        let durability = match self.durable.or(file.durable) {
            Some(Durable::Store) if location.store.is_none() => {
                return Err(Fault::usage("--durable store wants an archive with a store")
                    .hint("give --archive s3://…, gs://… or az://…, or a folder and --spool"));
            }
            Some(Durable::Store) => Durability::Store,
            Some(Durable::Local) | None => Durability::Local,
        };
        Ok(WriterOptions {
            segment_bytes_max: self.segment_size << 20,
            segment_age_seconds: self.segment_age,
            durability,
            compaction: (self.compact_after > 0)
                .then(|| Compaction { age_seconds_min: self.compact_after, ..Compaction::default() }),
            ..WriterOptions::default()
        })
    }
}

/// How large transactions are taken.
#[derive(Debug, clap::Args)]
pub(crate) struct StreamingArguments {
    /// Take large transactions while they are under way, into the archive's spool/ until they commit; off, the source
    /// keeps them on its disk and sends them at their commit
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        hide_possible_values = true,
        help_heading = "Log"
    )]
    streaming: Switch,
}

/// Something that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SequenceArguments {
    /// Sample the source's sequences into the log, and set those of the target at endpos [default: on]
    #[arg(long, env = "PGSLUICE_SEQUENCES", value_name = "on|off", hide_possible_values = true)]
    sequences: Option<Switch>,
}

impl SequenceArguments {
    pub(crate) fn are_on(&self, file: &File) -> bool {
        self.sequences.or(file.sequences).unwrap_or(Switch::On) == Switch::On
    }
}

/// Over how many connections to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) struct Lanes(u32);

/// More lanes than this can't be asked for, and more than the other one are not taken by `auto`.
const LANES_MAX: u32 = 64;
const LANES_AUTO_MAX: usize = 4;

impl std::str::FromStr for Lanes {
    type Err = String;

    fn from_str(text: &str) -> Result<Lanes, String> {
        if text == "auto" {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
            return Ok(Lanes(cores.min(LANES_AUTO_MAX) as u32));
        }
        let count = text.parse().ok().filter(|count| (1..=LANES_MAX).contains(count));
        count.map(Lanes).ok_or_else(|| format!("takes auto, or a number from 1 to {LANES_MAX}"))
    }
}

impl TryFrom<toml::Value> for Lanes {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Lanes, String> {
        value.as_str().map_or_else(|| value.to_string().parse(), str::parse)
    }
}

/// How long the target trails the source on purpose, such as `1h`, `90m` or `30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Delay(pub(super) Duration);

impl std::str::FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Delay, String> {
        let wrong = || format!("'{text}' is no length of time, such as 1h, 90m or 30s");
        let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        Duration::try_from(parsed).map(Delay).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Delay, String> {
        text.parse()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct LaneArguments {
    /// Connections to the target over which large batches go while it catches up; live there is one. With several, readers of the
    /// target may for a moment see one part of a batch before another. auto: one a core, at most 4 [default: 1]
    #[arg(long, env = "PGSLUICE_LANES", value_name = "auto|N")]
    lanes: Option<Lanes>,
}

impl LaneArguments {
    pub(crate) fn count(&self, file: &File) -> u32 {
        self.lanes.or(file.lanes).map_or(1, |lanes| lanes.0)
    }
}

/// What to do with captured DDL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DdlChoice {
    /// Run it on the target, at its place between the rows
    Apply,
    /// Log it
    Print,
    /// Leave it to --on-schema-change
    Ignore,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DdlArguments {
    /// What to do with DDL that setup --capture-ddl put into the log [default: ignore]
    #[arg(long, env = "PGSLUICE_DDL", value_name = "POLICY")]
    ddl: Option<DdlChoice>,
    /// Transactions whose DDL was run on the target by hand, by the LSN that the refusal tells
    #[arg(long, value_name = "LSN", num_args = 1.., value_delimiter = ',')]
    skip_ddl: Vec<Lsn>,
}

impl DdlArguments {
    pub(crate) fn ddl(&self, file: &File) -> Ddl {
        let mode = match self.ddl.or(file.ddl) {
            Some(DdlChoice::Apply) => DdlMode::Apply,
            Some(DdlChoice::Print) => DdlMode::Print,
            Some(DdlChoice::Ignore) | None => DdlMode::Ignore,
        };
        Ddl { mode, skip: self.skip_ddl.clone() }
    }
}

impl StreamingArguments {
    pub(crate) fn is_on(&self) -> bool {
        self.streaming == Switch::On
    }
}

/// How changes get into the archive.
#[derive(Debug, clap::Args)]
pub(crate) struct ReceivingArguments {
    #[command(flatten)]
    pub(crate) segments: SegmentArguments,
    #[command(flatten)]
    streaming: StreamingArguments,
}

impl ReceivingArguments {
    pub(crate) fn source(&self, wanted: &setup::Options, sequences: bool) -> Source {
        Source {
            conninfo: wanted.source.clone(),
            slot: wanted.slot.clone(),
            publication: wanted.publication.clone(),
            streaming: self.streaming.is_on(),
            format: wanted.format,
            sequences,
        }
    }
}

/// How changes get to the target.
#[derive(Debug, clap::Args)]
pub(crate) struct ApplyingArguments {
    #[command(flatten)]
    pub(crate) rules: RulesArguments,
    #[command(flatten)]
    pub(crate) file: RulesFileArguments,
    /// Take other rules than those by which rows came so far: those that are there stay as they are
    #[arg(long)]
    accept_rules: bool,
    #[command(flatten)]
    pub(crate) sequences: SequenceArguments,
    #[command(flatten)]
    ddl: DdlArguments,
    #[command(flatten)]
    lanes: LaneArguments,
    /// Apply each transaction so long after its commit, such as 1h: a mistake on the source can be stopped before it arrives, with
    /// `sentinel set endpos`. The log is as complete as ever [default: none]
    #[arg(long, env = "PGSLUICE_APPLY_DELAY", value_name = "TIME")]
    apply_delay: Option<Delay>,
    /// What to do with a transaction whose rows the target refuses (a violated constraint, a value out of range): stop; or set it aside,
    /// with all that touch its rows later, and go on (docs/DEAD.md) [default: stop]
    #[arg(long, env = "PGSLUICE_ON_ERROR", value_name = "stop|quarantine", hide_possible_values = true)]
    on_error: Option<ErrorChoice>,
    /// Which transactions of the source to apply: any; or none but its own, without those that came to it from elsewhere by replication, so
    /// that two databases can follow each other (docs/SOURCES.md) [default: any]
    #[arg(long, env = "PGSLUICE_ORIGINS", value_name = "any|none", hide_possible_values = true)]
    origins: Option<OriginChoice>,
}

/// Which transactions of the source are applied, as the option of PostgreSQL's subscriptions says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OriginChoice {
    Any,
    None,
}

/// What to do with what the target refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ErrorChoice {
    Stop,
    Quarantine,
}

impl ApplyingArguments {
    /// The target of a stream, of the tables that are meant.
    pub(crate) fn target(
        &self,
        conninfo: Conninfo,
        stream: String,
        filter: &FilterArguments,
        file: &File,
    ) -> Result<Target, Fault> {
        let shapes = self.file.read(file, &stream)?;
        let rules = self.rules.rules(filter, file)?;
        if shapes.is_some() && !rules.columns.is_empty() {
            return Err(Fault::usage("--columns and --rules both say which columns there are")
                .hint("say keep or drop in the rules, and leave out --columns"));
        }
        if shapes.is_some() && !(rules.tables.is_empty() && rules.exclude.is_empty()) {
            return Err(Fault::usage("--tables and --exclude don't go with --rules: of a partition that is elsewhere on the target nobody could tell whether they mean it")
                .hint("publish only some tables (pgsluice setup --tables), or leave their rows out by a rule: where = \"false\""));
        }
        // Two appliers that wait for each other's rows over several connections would not be told of a deadlock.
        let is_contested = shapes.as_ref().is_some_and(|rules| rules.has_conflicts());
        let lanes = if is_contested { 1 } else { self.lanes.count(file) };
        Ok(Target {
            conninfo,
            stream,
            sequences: self.sequences.are_on(file),
            rules,
            shapes,
            accept_rules: self.accept_rules,
            only_local: self.origins.or(file.origins) == Some(OriginChoice::None),
            ddl: self.ddl.ddl(file),
            after: file.poll.iter().filter_map(PollSettings::after).cloned().collect(),
            lanes,
            delay: self.apply_delay.or(file.apply_delay).unwrap_or_default().0,
            on_error: match self.on_error.or(file.on_error) {
                Some(ErrorChoice::Quarantine) => OnError::Quarantine,
                Some(ErrorChoice::Stop) | None => OnError::Stop,
            },
            only: None,
            parts: None,
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct EndposArguments {
    /// Stop once everything up to here is done: an LSN, or 'current' for where the source's WAL ends now
    #[arg(long, value_name = "LSN|current")]
    endpos: Option<Endpos>,
}

impl EndposArguments {
    pub(crate) fn is_given(&self) -> bool {
        self.endpos.is_some()
    }

    pub(crate) async fn position(&self, source: Option<&Conninfo>) -> Result<Option<Position>, Fault> {
        match (self.endpos, source) {
            (None, _) => Ok(None),
            (Some(Endpos::At(position)), _) => Ok(Some(position)),
            (Some(Endpos::Current), Some(source)) => {
                let client = Side::Source.connect(source, "pgsluice endpos").await?;
                inspect::current_position(&client).await.map(Some).map_err(Side::Source.says())
            }
            (Some(Endpos::Current), None) => {
                Err(Fault::usage("--endpos current asks the source, and none was given")
                    .hint("give --source URI, or an LSN"))
            }
        }
    }
}

/// A target must be named where changes are applied.
pub(crate) fn needed_target(target: Option<Conninfo>) -> Result<Conninfo, Fault> {
    target.ok_or_else(|| {
        Fault::usage("no target was given")
            .hint("give --target URI, set PGSLUICE_TARGET, or write it into --config")
    })
}

/// Runs the stages and reports how they ended.
pub(crate) async fn conduct(
    options: Options,
    watch: Option<Watch>,
    everywhere: &Everywhere,
) -> Result<(), Fault> {
    let mut shown = Shown::new(&options.archive, everywhere);
    let mut notify = Notify::default();
    let tell = |standing: &Standing| {
        notify.beat(standing.mode.name(), standing);
        shown.tell(standing);
        if let Some(watch) = &watch {
            watch.tell(standing);
        }
    };
    let ended = follow::run(options, tell).await;
    notify.stopping();
    shown.clear();
    let standing = ended?;
    if standing.mode == Mode::Done {
        tracing::info!(replay_lsn = %standing.replay_lsn, flush_lsn = %standing.flush_lsn, "endpos reached");
    }
    print::report(everywhere.json, &standing, || table(&standing))
}

fn table(standing: &Standing) -> String {
    print::pairs(&[
        ("mode", standing.mode.name().into()),
        ("write_lsn", standing.write_lsn.to_string()),
        ("flush_lsn", standing.flush_lsn.to_string()),
        ("replay_lsn", standing.replay_lsn.to_string()),
        ("transactions", standing.transactions.to_string()),
        ("changes", standing.changes.to_string()),
    ])
}

/// The progress line on a terminal; log lines elsewhere.
pub(super) struct Shown {
    archive: Archive,
    bar: Option<ProgressBar>,
    last: Option<(Instant, Standing)>,
    logged: Option<(Instant, Mode)>,
}

impl Shown {
    pub(super) fn new(archive: &Archive, everywhere: &Everywhere) -> Shown {
        let visible = std::io::stderr().is_terminal() && !everywhere.quiet;
        let bar = visible.then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Shown { archive: archive.clone(), bar, last: None, logged: None }
    }

    pub(super) fn tell(&mut self, standing: &Standing) {
        let now = Instant::now();
        let rate = self.last.replace((now, *standing)).map_or(0.0, |(then, before)| {
            let seconds = now.duration_since(then).as_secs_f64().max(0.001);
            standing.changes.saturating_sub(before.changes) as f64 / seconds
        });
        let due = self
            .logged
            .is_none_or(|(then, before)| before != standing.mode || now.duration_since(then) >= LOG_INTERVAL);
        if let Some(bar) = &self.bar {
            bar.set_message(format!(
                "{}{} lag {} / {:.1} s, {rate:.0} changes/s, applied {}, archive {}",
                standing.mode.name(),
                if standing.held { ", held," } else { "" },
                print::size(standing.lag_bytes),
                standing.lag_seconds,
                standing.replay_lsn,
                print::size(size_of(&self.archive)),
            ));
            bar.tick();
        } else if due {
            self.logged = Some((now, standing.mode));
            tracing::info!(
                mode = standing.mode.name(),
                flush_lsn = %standing.flush_lsn,
                replay_lsn = %standing.replay_lsn,
                lag_bytes = standing.lag_bytes,
                lag_seconds = standing.lag_seconds,
                changes_per_second = rate as u64,
                "progress"
            );
        }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Bytes of the archive's segments; 0 where the folder can't be read, which other messages tell.
fn size_of(archive: &Archive) -> u64 {
    let Ok(entries) = std::fs::read_dir(archive.segments_folder()) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}
