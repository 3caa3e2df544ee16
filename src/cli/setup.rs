//! `setup`: looks at both sides, and only when nothing stands in the way makes publication, slot, archive, sentinel,
//! progress row and origin, in this order. Each step is safe to repeat, so a crash between two of them is mended by
//! running it again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::arguments::{
    ArchiveArguments, Everywhere, RoadArguments, SchemaArguments, SourceArguments, StreamArguments,
    TableArguments, TargetArguments,
};
use super::config::File;
use super::keepsake::{Intent, KeptIdentity};
use super::plugin::plugin_findings;
use super::preflight::{self, Finding, Plan, Severity, SourceFacts, TargetFacts, Wish};
use super::print;
use super::reach::Side;
use crate::apply::OnSchemaChange;
use crate::archive::{Archive, ArchiveId, Manifest};
use crate::model::{Fault, OutputPlugin, Position, ReplicaIdentity};
use crate::pg::filter::{ColumnList, RowFilter};
use crate::pg::pattern::Pattern;
use crate::pg::progress::{Place, Progress};
use crate::pg::publication::{Published, Unidentified};
use crate::pg::slot::Slot;
use crate::pg::{Conninfo, counterpart, inspect, origin, progress, publication, slot, tables};
use crate::sentinel::{Control, Sentinel};

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
    pub archive: PathBuf,
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
    /// Columns that the target lacks stand in the way only where the applier will stop at them.
    pub on_schema_change: OnSchemaChange,
    pub keyless: KeylessPolicy,
    /// How long to wait for other transactions when the slot is created.
    pub slot_timeout: Duration,
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

/// Both sides as they are found, before anything is changed.
struct Survey<'a> {
    options: &'a Options,
    source: Client,
    target: Option<Client>,
    facts: SourceFacts,
    progress: Option<Progress>,
    archive: Option<Archive>,
    plan: Plan,
    findings: Vec<Finding>,
}

impl<'a> Survey<'a> {
    async fn take(options: &'a Options) -> Result<Survey<'a>, Fault> {
        let source = Side::Source.connect(&options.source, APPLICATION).await?;
        let target = match &options.target {
            Some(target) => Some(Side::Target.connect(target, APPLICATION).await?),
            None => None,
        };
        let facts = source_facts(options, &source).await.map_err(Side::Source.says())?;
        let (mut target_facts, mut progress) = (None, None);
        if let Some(client) = &target {
            target_facts = Some(facts_of_target(options, client).await.map_err(Side::Target.says())?);
            let readable =
                matches!(target_facts, Some(TargetFacts { progress: Place::Table { usable: true }, .. }));
            if readable {
                progress = progress::read(client, &options.origin).await.map_err(Side::Target.says())?;
            }
        }
        let archive = existing_archive(options)?;
        let wish = Wish {
            publication: &options.publication,
            slot: &options.slot,
            tables: &options.tables,
            exclude: &options.exclude,
            columns: &options.columns,
            rows: &options.rows,
            on_schema_change: options.on_schema_change,
            keyless: options.keyless,
        };
        let plan = preflight::plan(&facts, &wish);
        let mut findings = preflight::source_findings(&facts, &wish, &plan);
        let tried = try_filters(&source, &facts, &wish, &plan).await;
        findings.extend(preflight::filter_findings(&facts, &wish, &plan, tried));
        let publication = facts.publication.as_ref();
        findings.extend(plugin_findings(options.plugin, &options.publication, publication));
        if let Some(target) = &target_facts {
            findings.extend(preflight::target_findings(&facts, target, &wish, &plan));
        }
        Ok(Survey { options, source, target, facts, progress, archive, plan, findings })
    }

    async fn perform(self) -> Result<Report, Fault> {
        self.refuse_foreign()?;
        if let Some(fault) = preflight::refusal(&self.findings) {
            return Err(fault);
        }
        for finding in self.findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            tracing::warn!(mend = %finding.mend, "{}", finding.what);
        }
        let options = self.options;
        let mut created = Vec::new();
        self.set_identities(&mut created).await?;
        self.publish(&mut created).await?;
        let archive = match &self.archive {
            Some(_) => Archive::open(&options.archive)?,
            None => self.make_archive(&mut created).await?,
        };
        Intent::forget(&options.archive)?;
        let start = archive.manifest().start;
        Sentinel::create(&options.archive, Control { startpos: start, apply: true, ..Control::default() })?;
        let origin = match &self.target {
            Some(client) => make_progress(client, &options.origin, &archive, &mut created)
                .await
                .map_err(Side::Target.says())?,
            None => None,
        };
        let manifest = archive.manifest();
        if let Some(client) = &self.target
            && counterpart::prepare(client).await.map_err(Side::Target.says())?
        {
            let tables = self.plan.arriving.iter();
            let tables: Vec<_> =
                tables.map(|table| (table.oid, table.schema.clone(), table.name.clone())).collect();
            let archive_id = manifest.archive_id.to_string();
            counterpart::note_all(client, &archive_id, &tables).await.map_err(Side::Target.says())?;
        }
        Ok(Report {
            name: options.name.clone(),
            system_identifier: manifest.system_identifier.to_string(),
            database: manifest.database.clone(),
            publication: options.publication.clone(),
            tables: match &self.plan.published {
                Published::Everything => None,
                Published::Tables(names) => {
                    Some(names.iter().map(|(schema, name)| tables::shown_name(schema, name)).collect())
                }
            },
            filters: self
                .plan
                .filters
                .iter()
                .map(|((schema, name), filter)| format!("{}{filter}", tables::shown_name(schema, name)))
                .collect(),
            slot: options.slot.clone(),
            start_lsn: start,
            archive: options.archive.display().to_string(),
            archive_id: manifest.archive_id.to_string(),
            origin,
            created,
            findings: self.findings,
        })
    }

    /// What only a person can decide about: slot, archive and progress that don't belong together.
    fn refuse_foreign(&self) -> Result<(), Fault> {
        let (options, server) = (self.options, &self.facts.server);
        let place = options.archive.display();
        if let Some(archive) = &self.archive {
            let (manifest, plugin) = (archive.manifest(), options.plugin.to_string());
            refuse_archive_of_another(archive, server)?;
            let names = [
                ("slot", &manifest.slot, &options.slot),
                ("publication", &manifest.publication, &options.publication),
                ("plugin", &manifest.plugin, &plugin),
            ];
            if let Some((what, theirs, ours)) = names.iter().find(|(_, theirs, ours)| theirs != ours) {
                return Err(Fault::person(format!(
                    "the archive {place} belongs to {what} {theirs}, not {ours}"
                ))
                .hint(format!("leave out --{what}, or choose another --archive")));
            }
        }
        match (&self.facts.slot, &self.archive) {
            (None, Some(_)) => {
                return Err(Fault::person(format!(
                    "slot {} is gone, but the archive {place} is there: changes since its end are lost to it",
                    options.slot
                ))
                .hint("move the archive away and set up anew, then load the target again"));
            }
            (Some(slot), archive) => {
                refuse_slot(slot, options.plugin, server.database.as_str(), archive.is_some())?;
                if archive.is_none() {
                    let intended = Intent::read(&options.archive)?.is_some_and(|intent| {
                        intent.slot == slot.name
                            && intent.system_identifier == server.system_identifier.to_string()
                    });
                    adoptable(slot, intended, &options.archive)?;
                }
            }
            (None, None) => {}
        }
        let Some(progress) = &self.progress else { return Ok(()) };
        let belongs = self.archive.as_ref().is_some_and(|archive| {
            progress.archive_id == archive.manifest().archive_id.to_string()
                && progress.system_identifier == archive.manifest().system_identifier.to_string()
        });
        if belongs {
            return Ok(());
        }
        Err(Fault::person(format!(
            "the target has progress of a stream \"{}\" that belongs to another archive ({}, applied up to {})",
            options.origin, progress.archive_id, progress.lsn
        ))
        .hint("choose another --origin, or remove that stream with: pgsluice cleanup"))
    }

    /// Gives keyless tables REPLICA IDENTITY FULL. What they had is written down first, so that cleanup can put it back.
    async fn set_identities(&self, created: &mut Vec<String>) -> Result<(), Fault> {
        if self.options.keyless != KeylessPolicy::Full || self.plan.keyless.is_empty() {
            return Ok(());
        }
        KeptIdentity::remember(&self.options.archive, &self.plan.keyless)?;
        for table in &self.plan.keyless {
            tables::set_identity(&self.source, &table.schema, &table.name, ReplicaIdentity::Full, None)
                .await
                .map_err(Side::Source.says())?;
            created.push(format!("replica identity full of {}", table.shown()));
        }
        Ok(())
    }

    async fn publish(&self, created: &mut Vec<String>) -> Result<(), Fault> {
        let name = &self.options.publication;
        match (&self.facts.publication, &self.plan.published) {
            (None, published) => {
                publication::create(&self.source, name, published, &self.plan.filters)
                    .await
                    .map_err(Side::Source.says())?;
                created.push(format!("publication {name}"));
            }
            (Some(existing), Published::Tables(wanted))
                if existing.published != self.plan.published || existing.filters != self.plan.filters =>
            {
                publication::set_tables(&self.source, name, wanted, &self.plan.filters)
                    .await
                    .map_err(Side::Source.says())?;
                // The server writes conditions in its own words, so whether they are new shows only now.
                let now = publication::read(&self.source, name).await.map_err(Side::Source.says())?;
                if existing.published != self.plan.published {
                    created.push(format!("tables of publication {name}"));
                }
                if now.is_some_and(|now| now.filters != existing.filters) {
                    created.push(format!("filters of publication {name}"));
                    tracing::warn!(
                        publication = name,
                        "the filters hold from now on; rows that they let in or keep out of what was there are not moved"
                    );
                }
            }
            (Some(_), _) => {}
        }
        Ok(())
    }

    /// Slot and manifest. The intent written before the slot tells a later run that a slot without archive is ours.
    async fn make_archive(&self, created: &mut Vec<String>) -> Result<Archive, Fault> {
        let (options, server) = (self.options, &self.facts.server);
        let start = match self.facts.slot.as_ref().and_then(|slot| slot.confirmed_flush) {
            Some(start) => start,
            None => {
                let intent = Intent {
                    slot: options.slot.clone(),
                    system_identifier: server.system_identifier.to_string(),
                };
                intent.write(&options.archive)?;
                let watch = Side::Source.connect(&options.source, APPLICATION).await?;
                let start =
                    slot::create(&self.source, &watch, &options.slot, options.plugin, options.slot_timeout)
                        .await
                        .map_err(Side::Source.says())?;
                created.push(format!("slot {}", options.slot));
                start
            }
        };
        let manifest = Manifest {
            format: Manifest::FORMAT,
            archive_id: ArchiveId::random()?,
            name: options.name.clone(),
            system_identifier: server.system_identifier,
            database: server.database.clone(),
            slot: options.slot.clone(),
            publication: options.publication.clone(),
            plugin: options.plugin.name().into(),
            server_version_num: server.version,
            server_encoding: server.encoding.clone(),
            start,
            created: format!("{:.0}", jiff::Timestamp::now()),
        };
        let archive = Archive::create(&options.archive, manifest)?;
        created.push(format!("archive {}", options.archive.display()));
        Ok(archive)
    }
}

/// The target's part: progress row and origin, at the start of the archive, where they are missing. Gives the origin's name
/// where privileges allow one.
async fn make_progress(
    client: &Client,
    name: &str,
    archive: &Archive,
    created: &mut Vec<String>,
) -> Result<Option<String>, Fault> {
    let manifest = archive.manifest();
    let (system, id) = (manifest.system_identifier.to_string(), manifest.archive_id.to_string());
    if progress::create(client, name, manifest.start, &system, &id).await? {
        created.push(format!("progress row {name}"));
    }
    if !origin::denied(client).await?.is_empty() {
        return Ok(None);
    }
    if origin::create(client, name).await? {
        created.push(format!("origin {name}"));
    }
    Ok(Some(name.to_owned()))
}

/// Makes a target that an archive was never applied to ready for it. It must hold the tables as they were at the
/// archive's start.
pub(crate) async fn prepare_target(target: &Conninfo, name: &str, archive: &Archive) -> Result<(), Fault> {
    let client = Side::Target.connect(target, APPLICATION).await?;
    if progress::read(&client, name).await.map_err(Side::Target.says())?.is_some() {
        return Ok(());
    }
    let mut created = Vec::new();
    make_progress(&client, name, archive, &mut created).await.map_err(Side::Target.says())?;
    tracing::warn!(
        stream = name,
        start = %archive.manifest().start,
        "a new target: it must hold the tables as they were at the archive's start"
    );
    Ok(())
}

/// What the source says of the filters that were asked for, or of those that the publication has.
async fn try_filters(
    source: &Client,
    facts: &SourceFacts,
    wish: &Wish<'_>,
    plan: &Plan,
) -> Result<Vec<Unidentified>, Fault> {
    if plan.filters.is_empty() || facts.server.version < publication::FILTERS_SINCE {
        Ok(Vec::new())
    } else if wish.filters() {
        publication::rehearse(source, &plan.published, &plan.filters).await
    } else {
        publication::unidentified(source, wish.publication).await
    }
}

async fn source_facts(options: &Options, client: &Client) -> Result<SourceFacts, Fault> {
    let server = inspect::server(client).await?;
    let denied = match inspect::replication_right(&options.source, APPLICATION).await {
        Ok(()) => None,
        Err(fault) => Some(fault.message),
    };
    Ok(SourceFacts {
        replication_denied: denied,
        tables: tables::tables(client).await?,
        publication: publication::read(client, &options.publication).await?,
        slot: slot::read(client, &options.slot).await?,
        has_progress_schema: progress::place(client).await? != Place::Absent,
        server,
    })
}

async fn facts_of_target(options: &Options, client: &Client) -> Result<TargetFacts, Fault> {
    let server = inspect::server(client).await?;
    Ok(TargetFacts {
        tables: tables::tables(client).await?,
        deferrable_keys: tables::deferrable_keys(client).await?,
        eager_triggers: tables::eager_triggers(client).await?,
        may_set_replication_role: inspect::may_set_replication_role(client, &server).await?,
        origin_functions_denied: origin::denied(client).await?,
        origin_exists: origin::exists(client, &options.origin).await?,
        progress: progress::place(client).await?,
        server,
    })
}

/// The archive, if one was made; a damaged one is a fault, never overwritten.
fn existing_archive(options: &Options) -> Result<Option<Archive>, Fault> {
    let manifest = options.archive.join("manifest.json");
    match manifest.try_exists() {
        Ok(false) => Ok(None),
        Ok(true) => Archive::open(&options.archive).map(Some),
        Err(error) => {
            Err(Fault::stop(format!("looking for the archive {}: {error}", options.archive.display())))
        }
    }
}

/// A slot of that name that is somebody else's is a mere clash of names, unless there is an archive that was fed by ours.
fn refuse_slot(slot: &Slot, plugin: OutputPlugin, database: &str, archived: bool) -> Result<(), Fault> {
    let name = &slot.name;
    let other = |what: String| {
        let fault = if archived { Fault::person(what) } else { Fault::stop(what) };
        fault.hint("choose another name with --slot")
    };
    match slot.plugin.as_deref() {
        Some(theirs) if theirs == plugin.name() => {}
        Some(theirs) => return Err(other(format!("slot {name} exists with plugin {theirs}, not {plugin}"))),
        None => return Err(other(format!("slot {name} exists and is a physical one"))),
    }
    if let Some(theirs) = slot.database.as_deref().filter(|theirs| *theirs != database) {
        return Err(other(format!("slot {name} exists and belongs to database {theirs}, not {database}")));
    }
    if slot.wal_status.as_deref() == Some("lost") {
        return Err(Fault::person(format!("slot {name} is lost: WAL that it needs was removed"))
            .hint("run pgsluice cleanup, set up anew, and load the target again"));
    }
    Ok(())
}

/// A slot without archive may only be taken over if an earlier run of setup made it and died before the manifest.
fn adoptable(slot: &Slot, intended: bool, archive: &std::path::Path) -> Result<(), Fault> {
    let (name, place) = (&slot.name, archive.display());
    if let Some(pid) = slot.active_pid {
        return Err(Fault::person(format!(
            "slot {name} is in use by process {pid} of the source, and {place} has no archive"
        ))
        .hint("choose another name with --slot, or wait until that process ends"));
    }
    if intended && slot.confirmed_flush.is_some() {
        return Ok(());
    }
    Err(Fault::person(format!("slot {name} exists, but {place} has no archive for it")).hint(format!(
        "give the --archive that belongs to the slot, choose another --slot, or drop it: SELECT pg_drop_replication_slot('{name}')"
    )))
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
}

impl SetupCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let on_schema_change = self.schema.policy(file);
        let options = Options { on_schema_change, ..self.road.options(&self.tables, file)? };
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
        on_schema_change: OnSchemaChange::Stop,
        keyless: tables.keyless(file),
        slot_timeout: tables.slot_timeout(),
    })
}

/// The archive, after setup where that was not done.
pub(crate) async fn done(options: &Options) -> Result<Archive, Fault> {
    if let Some(archive) = existing_archive(options)?
        && Sentinel::open(&options.archive).is_ok()
        && is_complete(options, &archive).await?
    {
        return Ok(archive);
    }
    let report = setup(options).await?;
    tracing::info!(slot = report.slot, publication = report.publication, start = %report.start_lsn, "set up");
    Archive::open(&options.archive)
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

fn refuse_archive_of_another(archive: &Archive, server: &inspect::Server) -> Result<(), Fault> {
    let manifest = archive.manifest();
    let system = [&manifest.system_identifier, &server.system_identifier].map(u64::to_string);
    let [theirs, ours] = &system;
    let identity = [("system identifier", theirs, ours), ("database", &manifest.database, &server.database)];
    match identity.iter().find(|(_, theirs, ours)| theirs != ours) {
        None => Ok(()),
        Some((what, theirs, ours)) => Err(Fault::person(format!(
            "the archive {} is another source's: its {what} is {theirs}, this source's is {ours}",
            archive.root().display()
        ))
        .hint("choose another --archive or --name for this source")),
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
