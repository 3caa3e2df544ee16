//! `setup`: looks at both sides, and only when nothing stands in the way makes publication, slot, archive, sentinel,
//! progress row and origin, in this order. Each step is safe to repeat, so a crash between two of them is mended by
//! running it again.

mod check;
mod foreign;
mod make;
mod successor;
mod survey;
mod target;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::arguments::{
    Everywhere, RoadArguments, SchemaArguments, SourceArguments, StreamArguments, TableArguments,
    TargetArguments,
};
use super::config::File;
use super::place::{self, ArchiveArguments};
use super::preflight::{self, Finding};
use super::print;
use super::reach::Side;
use super::rules::RulesFileArguments;
use crate::apply::OnSchemaChange;
use crate::archive::{Archive, Location};
use crate::model::{Fault, Format, OutputPlugin, Position};
use crate::pg::filter::{ColumnList, RowFilter};
use crate::pg::pattern::Pattern;
use crate::pg::{Conninfo, inspect, progress};
use crate::poll;
use crate::rules::RuleSet;
use crate::sentinel::Sentinel;
pub(crate) use check::{Checked, check, sequences_behind};
pub(crate) use foreign::refuse_archive_of_another;
use survey::Survey;
pub(crate) use target::{make_progress, prepare_target};

const APPLICATION: &str = "pgsluice setup";

/// What to do with tables whose UPDATE and DELETE would fail once they are published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeylessPolicy {
    /// Refuse, with the list
    #[default]
    Refuse,
    /// Set REPLICA IDENTITY FULL; cleanup puts back what was
    Full,
    /// Publish the other tables by name
    Exclude,
}

/// What setup is to make, and where.
#[derive(Clone, Debug)]
pub struct Options {
    pub source: Conninfo,
    /// Without one nothing is checked or made there.
    pub target: Option<Conninfo>,
    pub archive: Location,
    pub name: String,
    pub slot: String,
    pub publication: String,
    pub plugin: OutputPlugin,
    /// Names the origin and the progress row.
    pub origin: String,
    pub tables: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
    pub columns: Vec<ColumnList>,
    pub rows: Vec<RowFilter>,
    /// What tables are on the target, where that is not what they are on the source.
    pub rules: Option<Arc<RuleSet>>,
    /// Columns that the target lacks stand in the way only where the applier will stop at them.
    pub on_schema_change: OnSchemaChange,
    pub keyless: KeylessPolicy,
    /// In which the source is asked for values.
    pub format: Format,
    /// Put event triggers on the source that write DDL into the log.
    pub capture_ddl: bool,
    /// How long to wait for other transactions when the slot is created.
    pub slot_timeout: Duration,
    /// Make it one that standbys have too.
    pub failover: bool,
    /// The source is what `pg_upgrade` made of the archive's, with its slot.
    pub source_upgraded: bool,
}

/// What is there after setup.
#[derive(Debug, Serialize)]
pub struct Report {
    pub name: String,
    pub system_identifier: String,
    pub database: String,
    pub publication: String,
    /// The published tables; none means all, future ones too.
    pub tables: Option<Vec<String>>,
    /// Of which tables only a part is published.
    pub filters: Vec<String>,
    pub slot: String,
    /// The log begins after it.
    pub start_lsn: Position,
    pub archive: String,
    pub archive_id: String,
    /// None without a target, and where privileges deny origins.
    pub origin: Option<String>,
    /// What was made by this run, in order; empty when all was there.
    pub created: Vec<String>,
    pub findings: Vec<Finding>,
}

/// Checks and makes everything. Refuses with the list of errors, and then has changed nothing.
pub async fn setup(options: &Options) -> Result<Report, Fault> {
    Survey::take(options).await?.perform().await
}

/// Check source and target, and create publication, slot, archive, sentinel and origin
///
/// Prints what is there in the end. Safe to run again: what exists and fits is kept. When something stands in the way
/// nothing is changed, and each finding names the SQL or the command that mends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice setup --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop")]
pub(crate) struct SetupCommand {
    #[command(flatten)]
    road: RoadArguments,
    #[command(flatten)]
    tables: TableArguments,
    #[command(flatten)]
    schema: SchemaArguments,
    /// The source was upgraded by pg_upgrade, which has kept its slot (PostgreSQL 17): go on with the same log
    #[arg(long)]
    source_upgraded: bool,
    #[command(flatten)]
    rules: RulesFileArguments,
}

impl SetupCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let on_schema_change = self.schema.policy(file);
        let road = self.road.options(&self.tables, file)?;
        let rules = self.rules.read(file, &road.origin)?;
        let options = Options { on_schema_change, rules, source_upgraded: self.source_upgraded, ..road };
        let survey = Survey::take(&options).await?;
        let findings = survey.findings.clone();
        match survey.perform().await {
            Ok(report) => print::report(everywhere.json, &report, || table(&report)),
            Err(fault) => {
                if everywhere.json && preflight::refusal(&findings).is_some() {
                    print::json(&serde_json::json!({ "findings": findings }))?;
                }
                Err(fault)
            }
        }
    }
}

impl RoadArguments {
    /// What was typed, as [`Options`].
    pub(crate) fn options(&self, tables: &TableArguments, file: &File) -> Result<Options, Fault> {
        options(&self.source, &self.target, &self.archive, &self.stream, tables, file)
    }
}

/// The same from its parts, for a command that has not all of them.
pub(crate) fn options(
    source: &SourceArguments,
    target: &TargetArguments,
    archive: &ArchiveArguments,
    stream: &StreamArguments,
    tables: &TableArguments,
    file: &File,
) -> Result<Options, Fault> {
    let place = archive.place(file)?;
    let names = stream.names(&place, file)?;
    Ok(Options {
        source: source.conninfo(file)?,
        target: target.conninfo(file)?,
        archive: place.archive,
        name: place.name,
        slot: names.slot,
        publication: names.publication,
        plugin: names.plugin,
        origin: names.origin,
        tables: tables.filter.tables(file)?,
        exclude: tables.filter.exclude(file)?,
        columns: tables.filter.columns(file)?,
        rows: tables.rows(file)?,
        rules: None,
        on_schema_change: OnSchemaChange::Stop,
        keyless: tables.keyless(file),
        format: tables.format(names.plugin, file)?,
        capture_ddl: tables.capture_ddl(file),
        slot_timeout: tables.slot_timeout(),
        failover: tables.failover(file),
        source_upgraded: false,
    })
}

/// The archive, after setup where that was not done.
pub(crate) async fn done(options: &Options) -> Result<Archive, Fault> {
    let archive = options.archive.find()?;
    archive.as_ref().map_or(Ok(()), poll::refuse)?;
    if let Some(archive) = archive
        && Sentinel::open(&place::sentinel(&options.archive)?).is_ok()
        && is_complete(options, &archive).await?
    {
        return Ok(archive);
    }
    let report = setup(options).await?;
    tracing::info!(slot = report.slot, publication = report.publication, start = %report.start_lsn, "set up");
    options.archive.open()
}

/// Whether the archive is this source's and the target has its progress. A server that is away for now is taken to belong,
/// so that it does not keep a run from resuming; the stages look again when it is back.
async fn is_complete(options: &Options, archive: &Archive) -> Result<bool, Fault> {
    if let Ok(client) = Side::Source.connect(&options.source, APPLICATION).await {
        refuse_archive_of_another(archive, &inspect::server(&client).await.map_err(Side::Source.says())?)?;
    }
    let Some(target) = &options.target else { return Ok(true) };
    match Side::Target.connect(target, APPLICATION).await {
        Ok(client) => {
            let progress = progress::read(&client, &options.origin).await.map_err(Side::Target.says())?;
            Ok(progress.is_some())
        }
        Err(_) => Ok(true),
    }
}

fn table(report: &Report) -> String {
    let mut published = match &report.tables {
        None => "all tables".to_owned(),
        Some(tables) => tables.join(", "),
    };
    if !report.filters.is_empty() {
        published = format!("{published}; only {}", report.filters.join(", "));
    }
    let created: BTreeSet<&str> = report.created.iter().map(String::as_str).collect();
    let made =
        if created.is_empty() { "nothing, all was there".to_owned() } else { report.created.join(", ") };
    print::pairs(&[
        ("source", format!("{} (system identifier {})", report.database, report.system_identifier)),
        ("publication", format!("{} ({published})", report.publication)),
        ("slot", format!("{} (from {})", report.slot, report.start_lsn)),
        ("archive", format!("{} ({})", report.archive, report.archive_id)),
        ("origin", report.origin.clone().unwrap_or_else(|| "none".into())),
        ("created", made),
    ])
}
