//! The steps, in their order; each is safe to repeat.

use super::super::keepsake::{Intent, KeptIdentity};
use super::super::place;
use super::super::preflight::{self, Severity};
use super::super::reach::Side;
use super::survey::Survey;
use super::target::make_progress;
use super::{APPLICATION, KeylessPolicy, Report};
use crate::archive::{Archive, ArchiveId, Manifest};
use crate::model::{Fault, OutputPlugin, ReplicaIdentity};
use crate::pg::publication::Published;
use crate::pg::{capture, counterpart, publication, slot, tables};
use crate::receive;
use crate::sentinel::{Control, Sentinel};

impl Survey<'_> {
    /// Makes what is missing, unless something stands in the way.
    pub(super) async fn perform(self) -> Result<Report, Fault> {
        let successor = self.successor().await?;
        self.refuse_foreign(successor.is_some())?;
        if let Some(fault) = preflight::refusal(&self.findings) {
            return Err(fault);
        }
        for finding in self.findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            tracing::warn!(mend = %finding.mend, "{}", finding.what);
        }
        let options = self.options;
        if self.archive.is_none() {
            options.archive.try_out()?;
        }
        let mut created = Vec::new();
        if let (Some(archive), Some(successor)) = (&self.archive, &successor) {
            archive.succeed(successor)?;
            created.push(format!("the log goes on from system {}", successor.system_identifier));
        }
        self.set_identities(&mut created).await?;
        self.publish(&mut created).await?;
        if options.capture_ddl && capture::install(&self.source).await.map_err(Side::Source.says())? {
            created.push("ddl capture".into());
        }
        let archive = match &self.archive {
            Some(archive) => archive.clone(),
            None => self.make_archive(&mut created).await?,
        };
        if let (Published::Tables(tables), true) =
            (&self.plan.published, options.plugin != OutputPlugin::Pgoutput)
        {
            receive::published::add(&archive, tables.iter().cloned())?;
        }
        Intent::forget(&options.archive.folder)?;
        let start = archive.manifest().start;
        Sentinel::create(
            &place::sentinel(&options.archive)?,
            Control { startpos: start, apply: true, ..Control::default() },
        )?;
        let origin = match (&self.target, &options.target) {
            (Some(client), Some(target)) => {
                make_progress(client, target, &options.origin, &archive, start, &mut created)
                    .await
                    .map_err(Side::Target.says())?
            }
            _ => None,
        };
        let manifest = archive.manifest();
        if let Some(client) = &self.target
            && counterpart::prepare(client).await.map_err(Side::Target.says())?
        {
            // Rules say which table stands for one; the applier notes that with the first change.
            let rules = self.options.rules.as_deref();
            let is_ruled = |schema: &str, name: &str| rules.is_some_and(|rules| rules.means(schema, name));
            let tables = self.plan.arriving.iter().filter(|table| !is_ruled(&table.schema, &table.name));
            let tables: Vec<_> =
                tables.map(|table| (table.oid, table.schema.clone(), table.name.clone())).collect();
            let archive_id = manifest.archive_id.to_string();
            counterpart::note_all(client, &archive_id, &tables).await.map_err(Side::Target.says())?;
        }
        Ok(Report {
            name: options.name.clone(),
            system_identifier: archive.origin()?.system_identifier.to_string(),
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
            archive: options.archive.to_string(),
            archive_id: manifest.archive_id.to_string(),
            origin,
            created,
            findings: self.findings,
        })
    }

    /// Gives keyless tables REPLICA IDENTITY FULL. What they had is written down first, so that cleanup can put it back.
    async fn set_identities(&self, created: &mut Vec<String>) -> Result<(), Fault> {
        if self.options.keyless != KeylessPolicy::Full || self.plan.keyless.is_empty() {
            return Ok(());
        }
        KeptIdentity::remember(&self.options.archive.folder, &self.plan.keyless)?;
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
                intent.write(&options.archive.folder)?;
                let watch = Side::Source.connect(&options.source, APPLICATION).await?;
                let start = slot::create(
                    &self.source,
                    &watch,
                    &options.slot,
                    options.plugin,
                    options.failover,
                    options.slot_timeout,
                )
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
        let archive = options.archive.create(manifest)?;
        created.push(format!("archive {}", options.archive));
        Ok(archive)
    }
}
