//! Slot, archive and progress that don't belong together: only a person can decide about them.

use super::super::keepsake::Intent;
use super::survey::Survey;
use crate::archive::{Archive, Location};
use crate::model::{Fault, OutputPlugin};
use crate::pg::inspect::Server;
use crate::pg::slot::Slot;

impl Survey<'_> {
    /// Refuses them; `is_succeeding`: the source is to become the archive's.
    pub(super) fn refuse_foreign(&self, is_succeeding: bool) -> Result<(), Fault> {
        let (options, server) = (self.options, &self.facts.server);
        let place = &options.archive;
        if let Some(archive) = &self.archive {
            let (manifest, plugin) = (archive.manifest(), options.plugin.to_string());
            if !is_succeeding {
                refuse_archive_of_another(archive, server)?;
            }
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
                    let intended = Intent::read(&options.archive.folder)?.is_some_and(|intent| {
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
fn adoptable(slot: &Slot, intended: bool, archive: &Location) -> Result<(), Fault> {
    let (name, place) = (&slot.name, archive);
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

pub(crate) fn refuse_archive_of_another(archive: &Archive, server: &Server) -> Result<(), Fault> {
    let manifest = archive.manifest();
    let system = [archive.origin()?.system_identifier, server.system_identifier].map(|id| id.to_string());
    let [theirs, ours] = &system;
    let identity = [("system identifier", theirs, ours), ("database", &manifest.database, &server.database)];
    match identity.iter().find(|(_, theirs, ours)| theirs != ours) {
        None => Ok(()),
        Some((what, theirs, ours)) => Err(Fault::person(format!(
            "the archive {} is another source's: its {what} is {theirs}, this source's is {ours}",
            archive.root().display()
        ))
        .hint("choose another --archive or --name for this source; after a pg_upgrade that has kept the slot: pgsluice setup --source-upgraded")),
    }
}
