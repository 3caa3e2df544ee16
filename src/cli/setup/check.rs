//! What setup would say, without doing anything; and what has drifted since it was run.

use std::collections::HashMap;

use super::super::preflight::{Finding, MISSING};
use super::super::reach::Side;
use super::survey::Survey;
use super::{APPLICATION, KeylessPolicy, Options};
use crate::model::Fault;
use crate::pg::pattern::choose;
use crate::pg::publication::Published;
use crate::pg::{Conninfo, sequences};

/// What a look at both sides gave.
pub(crate) struct Checked {
    pub(crate) findings: Vec<Finding>,
    /// Slot, archive and progress don't belong together.
    pub(crate) foreign: Option<Fault>,
    /// What has become different since the stream began: what it is, and what mends it.
    pub(crate) drift: Vec<(String, String)>,
    /// Of the same, what may well be meant so.
    pub(crate) perhaps_meant: Vec<(String, String)>,
    /// The target has none of the tables, as before a clone.
    pub(crate) is_target_empty: bool,
}

pub(crate) async fn check(options: &Options) -> Result<Checked, Fault> {
    let survey = Survey::take(options).await?;
    let (unpublished, types) = (survey.unpublished(), survey.types());
    // A publication without patterns is itself what says which tables are meant.
    let is_chosen = !(options.tables.is_empty() && options.exclude.is_empty());
    let (drift, perhaps_meant) =
        if is_chosen { (unpublished, types) } else { (Vec::new(), [unpublished, types].concat()) };
    let is_target_empty = survey.target_tables.as_ref().is_some_and(Vec::is_empty);
    let mut findings = survey.findings.clone();
    if is_target_empty && survey.archive.is_none() {
        findings.retain(|finding| !finding.what.ends_with(MISSING));
    }
    Ok(Checked {
        foreign: survey.refuse_foreign(false).err(),
        drift,
        perhaps_meant,
        is_target_empty,
        findings,
    })
}

/// The target's sequences that are behind the source's.
pub(crate) async fn sequences_behind(
    source: &Conninfo,
    target: &Conninfo,
    publication: &str,
) -> Result<Vec<(String, String)>, Fault> {
    let source = Side::Source.connect(source, APPLICATION).await?;
    let sample = sequences::read(&source, publication).await.map_err(Side::Source.says())?;
    let Some((sample, _)) = sample else { return Ok(Vec::new()) };
    let target = Side::Target.connect(target, APPLICATION).await?;
    let behind = sequences::behind(&target, &sample).await.map_err(Side::Target.says())?;
    let said = |(name, cure)| (format!("sequence {name} of the target is behind the source's"), cure);
    Ok(behind.into_iter().map(said).collect())
}

impl Survey<'_> {
    /// Tables of the source that the publication does not have, such as new ones.
    fn unpublished(&self) -> Vec<(String, String)> {
        let Some(publication) = &self.facts.publication else { return Vec::new() };
        let Published::Tables(names) = &publication.published else { return Vec::new() };
        let is_in = |oid: u32| {
            let table = self.facts.tables.iter().find(|table| table.oid == oid);
            table.is_some_and(|table| names.contains(&(table.schema.clone(), table.name.clone())))
        };
        let outside = choose(&self.facts.tables, &self.options.tables, &self.options.exclude)
            .into_iter()
            .filter(|table| {
                let is_left_out = self.options.keyless == KeylessPolicy::Exclude && table.keyless().is_some();
                !table.partitioned
                    && !is_left_out
                    && !std::iter::once(table.oid).chain(table.ancestors.iter().copied()).any(is_in)
            });
        let said = outside.map(|table| {
            (
                format!(
                    "table {} of the source is not published: none of its changes are in the log",
                    table.shown()
                ),
                format!(
                    "pgsluice backfill {} brings it in, rows and changes; or leave it out with --exclude",
                    table.shown()
                ),
            )
        });
        said.collect()
    }

    /// Columns of another type on the target, whose values may not fit.
    fn types(&self) -> Vec<(String, String)> {
        let Some(target) = &self.target_tables else { return Vec::new() };
        let there: HashMap<_, _> = target.iter().map(|table| ((&table.schema, &table.name), table)).collect();
        let mut said = Vec::new();
        for wanted in &self.plan.arriving {
            let Some(table) = there.get(&(&wanted.schema, &wanted.name)) else { continue };
            for column in wanted.columns.iter().filter(|column| !column.generated) {
                let other = table.columns.iter().find(|other| other.name == column.name);
                let Some(other) = other.filter(|other| other.type_name != column.type_name) else { continue };
                let name = crate::pg::quote_ident(&column.name);
                said.push((
                    format!(
                        "column {name} of {} is {} on the source and {} on the target: a value that does not fit stops the applier, and none is changed silently",
                        wanted.shown(),
                        column.type_name,
                        other.type_name
                    ),
                    format!(
                        "ALTER TABLE {} ALTER COLUMN {name} TYPE {}; -- on the target, unless it is meant so",
                        wanted.quoted(),
                        column.type_name
                    ),
                ));
            }
        }
        said
    }
}
