//! What the target has for the log's tables, and what is done when that is not enough.

use tokio_postgres::Client;

use crate::model::{Fault, Relation};
use crate::pg::counterpart;
use crate::pg::pattern::Rename;
use crate::pgoutput::Message;
use crate::rules::Shaped;
use crate::transform::{Arriving, Choice, Found, Refusal};

use super::super::{OnSchemaChange, columns, describe, lookup, rules};
use super::{Applier, Flow, Inside, Run};

/// Our own schema, should it be published by a source that is itself a target.
const OWN_SCHEMA: &str = "pgsluice";

/// Schemas and names of tables.
type Names = Vec<(String, String)>;

impl Applier<'_> {
    /// Looks a relation up between the changes of a batch. What the batch has altered shows only inside of it, where all before must
    /// have got its verdict.
    pub(super) async fn look_up_between(&mut self, run: &mut Run, oid: u32) -> Result<Flow, Fault> {
        if run.has_altered()
            && let Err(refused) = run.lanes.main.verdict().await
        {
            return self.refused(run, refused).await;
        }
        self.look_up(run, oid).await?;
        Ok(Flow::On)
    }

    pub(super) async fn look_up(&mut self, run: &mut Run, oid: u32) -> Result<(), Fault> {
        let Some(relation) = self.planner.relation(oid).cloned() else { return Ok(()) };
        let source = self.shaper.source(oid).cloned();
        let source = source.as_ref().unwrap_or(&relation);
        if source.schema == OWN_SCHEMA {
            self.planner.leave_out(oid);
            return Ok(());
        }
        let has_counterparts = run.has_counterparts;
        let is_noted = run.stitches.knows(oid);
        let found = if run.has_altered() {
            run.within(async |client| self.find(client, source, &relation, has_counterparts, is_noted).await)
                .await
        } else {
            self.find(&run.catalog, source, &relation, has_counterparts, is_noted).await
        };
        let (family, found) = found.map_err(|fault| run.at(fault))?;
        self.seen.extend(family);
        let Some((found, choice)) = found else {
            self.planner.leave_out(oid);
            return Ok(());
        };
        let bound = self.planner.bind(oid, found, &choice);
        let left_out = bound.map_err(|refusal| run.refusal(refusal))?;
        if !left_out.is_empty() {
            let table = format!("{}.{}", relation.schema, relation.name);
            tracing::warn!(table, columns = left_out.join(", "), "columns are left out on this target");
        }
        Ok(())
    }

    /// The names of a relation's table and those above it; and what the target has for it, or none where it is left out. `source`: as
    /// the log has it, which is what patterns mean.
    async fn find(
        &self,
        client: &Client,
        source: &Relation,
        relation: &Relation,
        has_counterparts: bool,
        is_noted: bool,
    ) -> Result<(Names, Option<(Found, Choice)>), Fault> {
        let rules = &self.target.rules;
        let family = rules.family(client, source, relation).await?;
        let Some(mut choice) = rules.choose(&family) else { return Ok((family, None)) };
        let shaped = self.shaper.shaped(relation.oid);
        let is_routed = shaped.is_some_and(Shaped::is_routed);
        choice.exact |= is_routed;
        choice.loose = shaped.map(Shaped::loose).unwrap_or_default();
        choice.arriving = shaped.map(Shaped::arriving).unwrap_or_default();
        let is_polled = self.archive.manifest().is_polled();
        let is_kept = choice.arriving != Arriving::New;
        if is_polled && relation.columns.iter().any(|column| column.key) {
            choice.arriving = Arriving::Replacing;
        }
        let source_version = self.archive.manifest().server_version_num;
        let (schema, name) = Rename::place(&rules.renames, &relation.schema, &relation.name);
        // Whoever renames a table has said which one stands for it, perhaps beside the one that did so far.
        let is_told = (&schema, &name) != (&relation.schema, &relation.name);
        let place = Relation { schema, name, ..relation.clone() };
        let mut found = lookup::look_up(client, &self.planner, &place, source_version).await?;
        if is_told && !is_noted {
            found.refused = Some(rules::another(relation, &place));
        }
        if let Some(table) = found.table.as_ref().filter(|_| has_counterparts && !is_told) {
            let archive_id = self.archive.manifest().archive_id.to_string();
            let mismatch = counterpart::note(client, &archive_id, relation.oid, table.oid, is_routed).await?;
            found.refused = mismatch.map(|mismatch| rules::not_the_same(relation, table.oid, mismatch));
        }
        if is_polled && is_kept {
            found.refused = Some(rules::polled(relation));
        }
        if let Some(refusal) = self.shaper.refusal(relation.oid) {
            found.refused = Some(refusal.clone());
        }
        Ok((family, Some((found, choice))))
    }

    /// The target lacks what a change needs. That is believed only of what was just looked up, and with everything before the
    /// change's transaction committed.
    pub(super) async fn unfit(
        &mut self,
        run: &mut Run,
        message: &Message<'_>,
        refusal: Refusal,
    ) -> Result<Flow, Fault> {
        let flow = self.settle(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        if !self.is_fresh {
            tracing::info!(error = refusal.message, "looking the target's tables up anew");
            return self.go_carefully(run).await;
        }
        let add = refusal.add_columns.as_deref();
        let add = add.filter(|_| self.target.rules.on_schema_change == OnSchemaChange::AddColumns);
        let Inside::Applying(begin) = run.inside else { return Err(run.refusal(refusal)) };
        let Some(add) = add else {
            return Err(Fault::from(refusal).context(describe::change(&self.planner, message, begin)));
        };
        // The batch may hold locks on the table.
        run.give_up().await?;
        self.refusals += 1;
        columns::add(&run.catalog, add).await.map_err(|fault| run.at(fault))?;
        tracing::warn!(
            statement = add,
            transaction = describe::begun(begin),
            "columns added on the target; rows that were there have NULL in them"
        );
        self.planner.unbind();
        Ok(Flow::Again)
    }
}
