//! `cleanup`: undoes what setup made, in the opposite order, so that nothing is left behind on either server.

use serde::Serialize;
use tokio_postgres::Client;

use super::arguments::{Everywhere, Names, RoadArguments};
use super::conduct::needed_target;
use super::config::File;
use super::keepsake::KeptIdentity;
use super::place;
use super::print;
use super::reach::Side;
use crate::apply;
use crate::archive::Location;
use crate::model::{Fault, OutputPlugin, ReplicaIdentity};
use crate::pg::capture::{self, Dropped};
use crate::pg::control::fault;
use crate::pg::{
    Conninfo, copied, dead, defined, joining, lane, origin, progress, publication, slot, snapshots, tables,
};

const APPLICATION: &str = "pgsluice cleanup";

/// Drop slot, publication, origin and progress row; the archive stays
///
/// Replica identities that setup changed are put back. What is not there is passed over, so it is safe to run again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice cleanup --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop
  pgsluice cleanup --target-only --target postgresql://app@db1/shop --origin rescue --name shop")]
pub(crate) struct CleanupCommand {
    #[command(flatten)]
    road: RoadArguments,
    /// Only what is on the target, and the archive's note of it, such as the stream of a table that was replayed; the source, its
    /// slot and other targets go on
    #[arg(long, conflicts_with = "archive_too")]
    target_only: bool,
    /// Remove the archive as well, with all that it holds
    #[arg(long)]
    archive_too: bool,
}

#[derive(Serialize)]
struct Report {
    /// What was removed or put back, in order.
    removed: Vec<String>,
    archive: String,
}

impl CleanupCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let place = self.road.archive.place(file)?;
        let target = self.road.target.conninfo(file)?;
        if self.target_only && target.is_none() {
            needed_target(None)?;
        }
        let cleanup = Cleanup {
            source: (!self.target_only).then(|| self.road.source.conninfo(file)).transpose()?,
            target,
            names: self.road.stream.names(&place, file)?,
            archive: place.archive,
            archive_too: self.archive_too,
        };
        let report = Report { removed: cleanup.perform().await?, archive: cleanup.archive.to_string() };
        print::report(everywhere.json, &report, || {
            let removed = if report.removed.is_empty() {
                "nothing was there".to_owned()
            } else {
                report.removed.join("\n")
            };
            let archive =
                if self.archive_too { "removed".to_owned() } else { format!("{} stays", report.archive) };
            print::pairs(&[("removed", removed), ("archive", archive)])
        })
    }
}

/// What is to be undone.
pub(super) struct Cleanup {
    /// None where it is to stay as it is.
    pub(super) source: Option<Conninfo>,
    pub(super) target: Option<Conninfo>,
    pub(super) names: Names,
    pub(super) archive: Location,
    pub(super) archive_too: bool,
}

impl Cleanup {
    /// Undoes it, and says what it was.
    pub(super) async fn perform(&self) -> Result<Vec<String>, Fault> {
        let (names, archive) = (&self.names, &self.archive);
        let mut target = match &self.target {
            Some(target) => Some(Side::Target.connect(target, APPLICATION).await?),
            None => None,
        };
        let mut removed = Vec::new();
        // A slot of that name is somebody else's, where the archive is of a polled source. One that can't be reached says nothing.
        let found = tokio::task::block_in_place(|| archive.find()).ok().flatten();
        let is_polled = found.is_some_and(|archive| archive.manifest().is_polled());
        if let Some(source) = self.source.as_ref().filter(|_| !is_polled) {
            self.undo_source(source, &mut removed).await?;
        }
        if let (Some(client), Some(at)) = (&mut target, &self.target) {
            if origin::drop(client, &names.origin).await.map_err(Side::Target.says())? {
                removed.push(format!("origin {}", names.origin));
            }
            let own = joining::own_stream(&names.origin);
            if joining::drop(client, &names.origin).await.map_err(Side::Target.says())? {
                removed.push(format!("notes of the backfill of {}", names.origin));
            }
            let name = apply::registered_name(client, at, &own).await.map_err(Side::Target.says())?;
            removed.extend(forget_applier(archive, &name));
            let lanes = lane::drop(client, &names.origin).await.map_err(Side::Target.says())?;
            if lanes > 0 {
                removed.push(format!("{lanes} lanes of {}", names.origin));
            }
            let notes = defined::drop(client, &names.origin).await.map_err(Side::Target.says())?;
            if notes > 0 {
                removed.push(format!("{notes} notes of the schema of {}", names.origin));
            }
            let dead = dead::drop(client, &names.origin).await.map_err(Side::Target.says())?;
            if dead > 0 {
                removed.push(format!("notes of {dead} transactions of {} that were set aside", names.origin));
            }
            let views = snapshots::drop(client, &names.origin).await.map_err(Side::Target.says())?;
            if views > 0 {
                removed.push(format!("notes of {views} views of {}, which stay", names.origin));
            }
            if let Err(error) = unpin_dead(archive, client, at, &names.origin).await {
                tracing::warn!(%error, "the archive goes on to keep what was set aside; `archive unpin` ends that");
            }
            if progress::drop(client, &names.origin).await.map_err(Side::Target.says())? {
                removed.push(format!("progress row {}", names.origin));
            }
            let name = apply::registered_name(client, at, &names.origin).await;
            if let Some(name) = forget_applier(archive, &name.map_err(Side::Target.says())?) {
                removed.push(name);
            }
            // The last, so that a clone whose cleaning up was cut off is known for what it is.
            if copied::drop(client, &names.origin).await.map_err(Side::Target.says())? {
                removed.push(format!("notes of the clone {}", names.origin));
            }
        } else {
            tracing::warn!("no --target was given: origin and progress row stay where they are");
        }
        if self.archive_too && remove_archive(archive)? {
            removed.push(format!("archive {}", archive));
        }
        Ok(removed)
    }

    async fn undo_source(&self, source: &Conninfo, removed: &mut Vec<String>) -> Result<(), Fault> {
        let (names, archive) = (&self.names, &self.archive);
        let client = Side::Source.connect(source, APPLICATION).await?;
        // A cut-over leaves the source's database read-only.
        client
            .batch_execute("SET default_transaction_read_only = off")
            .await
            .map_err(|error| Side::Source.says()(fault(&error)))?;
        let kept = KeptIdentity::read(&archive.folder)?;
        refuse(&client, &names.slot, names.plugin).await?;
        if self.archive_too {
            refuse_archive(archive)?;
        }
        if slot::drop(&client, &names.slot).await.map_err(Side::Source.says())? {
            removed.push(format!("slot {}", names.slot));
        }
        if publication::drop(&client, &names.publication).await.map_err(Side::Source.says())? {
            removed.push(format!("publication {}", names.publication));
        }
        match capture::drop(&client).await.map_err(Side::Source.says())? {
            Dropped::Absent => {}
            Dropped::Dropped => removed.push("ddl capture".into()),
            Dropped::Kept(slots) => {
                tracing::warn!(slots = slots.join(", "), "ddl capture stays, since these slots may use it");
            }
        }
        put_back(&client, &kept, removed).await.map_err(Side::Source.says())?;
        KeptIdentity::forget(&archive.folder)
    }
}

/// A slot that is used, or is not ours, is not dropped, and then nothing else is either.
async fn refuse(client: &Client, name: &str, plugin: OutputPlugin) -> Result<(), Fault> {
    let Some(slot) = slot::read(client, name).await? else { return Ok(()) };
    if slot.plugin.as_deref() != Some(plugin.name()) {
        return Err(Fault::person(format!("slot {name} is not one of {plugin}, so it is not ours"))
            .hint("name ours with --slot, and its plugin with --plugin"));
    }
    match slot.active_pid {
        Some(pid) => Err(Fault::stop(format!("slot {name} is in use by process {pid} of the source"))
            .hint("stop the receiver first")),
        None => Ok(()),
    }
}

/// An archive that can't be reached is no reason to stop.
async fn unpin_dead(place: &Location, client: &Client, target: &Conninfo, stream: &str) -> Result<(), Fault> {
    match tokio::task::block_in_place(|| place.find())? {
        Some(archive) => apply::dead::release(&archive, client, target, stream).await,
        None => Ok(()),
    }
}

/// Takes the target off the archive's list, for which an archive that can't be reached is no reason to stop.
fn forget_applier(place: &Location, name: &str) -> Option<String> {
    let forgotten =
        place.find().and_then(|archive| archive.map_or(Ok(false), |archive| archive.forget_applier(name)));
    match forgotten {
        Ok(forgotten) => forgotten.then(|| format!("applier {name} of the archive")),
        Err(error) => {
            tracing::warn!(%error, applier = name, "the archive goes on to keep what this target needed; `archive forget` ends that");
            None
        }
    }
}

/// Only what is an archive, and what nobody writes to, is removed.
fn refuse_archive(place: &Location) -> Result<(), Fault> {
    // One whose removal was cut off has no manifest in its store any more.
    if (place.store.is_none() && !place.folder.exists()) || place.is_gone()? {
        return Ok(());
    }
    if place.open()?.has_receiver()? {
        return Err(Fault::stop(format!("the archive {place} is in use by a receiver"))
            .hint("stop the receiver first"));
    }
    Ok(())
}

/// Whether there was something to remove.
fn remove_archive(place: &Location) -> Result<bool, Fault> {
    let stored = place.store.is_some() && !place.is_gone()?;
    if stored {
        place::sentinel(place)?.remove_stored()?;
        place.open()?.remove_stored()?;
    }
    let is_there = place.folder.exists();
    if is_there {
        std::fs::remove_dir_all(&place.folder)
            .map_err(|e| Fault::stop(format!("removing {}: {e}", place.folder.display())))?;
    }
    Ok(is_there || stored)
}

/// Gives tables the replica identity back that they had. One that is gone, or was changed since, stays as it is.
async fn put_back(client: &Client, kept: &[KeptIdentity], removed: &mut Vec<String>) -> Result<(), Fault> {
    if kept.is_empty() {
        return Ok(());
    }
    let now = tables::tables(client).await?;
    for entry in kept {
        let same = |table: &&tables::Table| table.schema == entry.schema && table.name == entry.table;
        let Some(table) = now.iter().find(same) else { continue };
        if table.identity != ReplicaIdentity::Full {
            continue;
        }
        tables::set_identity(client, &entry.schema, &entry.table, entry.identity(), entry.index.as_deref())
            .await?;
        removed.push(format!("replica identity full of {}", table.shown()));
    }
    Ok(())
}
