//! The archive of a polled source: made with the first run, and only gone on with from the same source.

use super::look::{self, Sessions};
use super::{NO_SLOT, refuse_other};
use crate::archive::{Archive, ArchiveId, Location, Manifest};
use crate::model::{Fault, Position};
use crate::pg::{Conninfo, Pipeline};

/// Where such a log begins: behind nothing.
const START: Position = Position(16);

/// Opens the archive, or makes it. One of another source is refused, and one that is fed from a slot.
pub async fn archive(location: &Location, name: &str, conninfo: &Conninfo) -> Result<Archive, Fault> {
    let found = location.find()?;
    if let Some(archive) = &found {
        refuse_other(archive)?;
    }
    let sessions = Sessions::default();
    let connected = async {
        let mut source = sessions.connect(conninfo).await?;
        let identity = identity(&mut source).await.map_err(|fault| fault.context("source"))?;
        Ok((source.server_version_num(), identity))
    };
    let (version, identity) = match (connected.await, found) {
        (Ok(facts), None) => facts,
        (Ok((_, identity)), Some(archive)) => {
            same(&archive, &identity)?;
            return Ok(archive);
        }
        // It is looked at again when it is back, behind the lock.
        (Err(fault), Some(archive)) => {
            tracing::debug!(error = %fault, "the source was not looked at");
            return Ok(archive);
        }
        (Err(fault), None) => return Err(fault),
    };
    location.try_out()?;
    let system_identifier = match identity.system {
        Some(system) => system,
        None => {
            let ArchiveId([a, b, c, d, e, f, g, h, ..]) = ArchiveId::random()?;
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        }
    };
    location.create(Manifest {
        format: Manifest::FORMAT,
        archive_id: ArchiveId::random()?,
        name: name.to_owned(),
        system_identifier,
        database: identity.database,
        slot: NO_SLOT.into(),
        publication: NO_SLOT.into(),
        plugin: Manifest::POLLED.into(),
        server_version_num: version,
        // What it is asked for, whatever it has.
        server_encoding: "UTF8".into(),
        start: START,
        created: format!("{:.0}", jiff::Timestamp::now()),
    })
}

struct Identity {
    /// None where the role may not know.
    system: Option<u64>,
    database: String,
}

async fn identity(source: &mut Pipeline) -> Result<Identity, Fault> {
    let database = look::cell(source, "SELECT current_database()").await?.unwrap_or_default();
    let allowed = "SELECT has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE')::text";
    let system = match look::cell(source, allowed).await?.as_deref() {
        Some("true") => look::cell(source, "SELECT system_identifier::text FROM pg_control_system()").await?,
        _ => None,
    };
    Ok(Identity { system: system.and_then(|system| system.parse().ok()), database })
}

/// Refuses a source that is not the one from which the archive came so far.
pub(super) async fn refuse_another(archive: &Archive, source: &mut Pipeline) -> Result<(), Fault> {
    let identity = identity(source).await.map_err(|fault| fault.context("source"))?;
    same(archive, &identity)
}

fn same(archive: &Archive, source: &Identity) -> Result<(), Fault> {
    let manifest = archive.manifest();
    let ours = source.system.unwrap_or(manifest.system_identifier);
    if manifest.system_identifier == ours && manifest.database == source.database {
        return Ok(());
    }
    Err(Fault::person(format!(
        "the archive {} is another source's: database {} of system {}, and this source is database {} of system {ours}",
        archive.root().display(),
        manifest.database,
        manifest.system_identifier,
        source.database
    ))
    .hint("choose another --archive or --name for this source"))
}
