//! Both sides as they are found, before anything is changed.

use tokio_postgres::Client;

use super::super::preflight::{self, Finding, Plan, SourceFacts, TargetFacts, Wish};
use super::super::reach::Side;
use super::{APPLICATION, Options};
use crate::archive::Archive;
use crate::model::Fault;
use crate::pg::progress::{Place, Progress};
use crate::pg::publication::Unidentified;
use crate::pg::{capture, inspect, origin, progress, publication, slot, tables};
use crate::poll;

/// What was found, and what of it stands in the way.
pub(super) struct Survey<'a> {
    pub(super) options: &'a Options,
    pub(super) source: Client,
    pub(super) target: Option<Client>,
    pub(super) facts: SourceFacts,
    pub(super) progress: Option<Progress>,
    pub(super) archive: Option<Archive>,
    pub(super) plan: Plan,
    pub(super) findings: Vec<Finding>,
    pub(super) target_tables: Option<Vec<tables::Table>>,
}

impl<'a> Survey<'a> {
    pub(super) async fn take(options: &'a Options) -> Result<Survey<'a>, Fault> {
        let archive = options.archive.find()?;
        archive.as_ref().map_or(Ok(()), poll::refuse)?;
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
        let wish = Wish {
            publication: &options.publication,
            slot: &options.slot,
            tables: &options.tables,
            exclude: &options.exclude,
            columns: &options.columns,
            rows: &options.rows,
            rules: options.rules.as_deref(),
            on_schema_change: options.on_schema_change,
            keyless: options.keyless,
            format: options.format,
            failover: options.failover,
        };
        let plan = preflight::plan(&facts, &wish);
        let mut findings = preflight::source_findings(&facts, &wish, &plan);
        let tried = try_filters(&source, &facts, &wish, &plan).await;
        findings.extend(preflight::filter_findings(&facts, &wish, &plan, tried));
        findings.extend(preflight::plugin_findings(options.plugin, &facts, &wish, &plan));
        findings.extend(preflight::format_findings(&facts, target_facts.as_ref(), &wish, &plan));
        if options.capture_ddl {
            let denied = capture::denied(&source).await.map_err(Side::Source.says())?;
            findings.extend(preflight::capture_findings(&facts, &plan, denied.as_ref()));
        }
        if let Some(target) = &target_facts {
            findings.extend(preflight::target_findings(&facts, target, &wish, &plan));
        }
        let target_tables = target_facts.map(|facts| facts.tables);
        Ok(Survey { options, source, target, facts, progress, archive, plan, findings, target_tables })
    }
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
        has_progress_schema: matches!(progress::place(client).await?, Place::Table { .. }),
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
