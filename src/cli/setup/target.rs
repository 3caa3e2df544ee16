//! The target's part: progress row and origin.

use tokio_postgres::Client;

use super::super::reach::Side;
use super::APPLICATION;
use crate::apply;
use crate::archive::Archive;
use crate::model::{Fault, Position};
use crate::pg::{Conninfo, origin, progress};

/// Makes both at a position of the log, where they are missing, and registers the target there. Gives the origin's name
/// where privileges allow one.
pub(crate) async fn make_progress(
    client: &Client,
    target: &Conninfo,
    name: &str,
    archive: &Archive,
    start: Position,
    created: &mut Vec<String>,
) -> Result<Option<String>, Fault> {
    let manifest = archive.manifest();
    let beginning = archive.beginning()?;
    if beginning > start && progress::read(client, name).await?.is_none() {
        return Err(Fault::person(format!(
            "the log begins at {beginning}: what comes before, from {start} on, was pruned, and a new target needs it"
        ))
        .hint("make another archive for this target with `pgsluice setup` and another --name"));
    }
    let (system, id) = (manifest.system_identifier.to_string(), manifest.archive_id.to_string());
    if progress::create(client, name, start, &system, &id).await? {
        created.push(format!("progress row {name}"));
        if let Err(error) = apply::register(archive, client, target, name, start).await {
            tracing::warn!(%error, "the target can't be registered in the archive, which may be pruned beyond it");
        }
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
    let start = archive.manifest().start;
    make_progress(&client, target, name, archive, start, &mut created).await.map_err(Side::Target.says())?;
    tracing::warn!(
        stream = name,
        %start,
        "a new target: it must hold the tables as they were at the archive's start"
    );
    Ok(())
}
