//! The log is kept from before the oldest transaction that is set aside, by a pin of the archive: made before the transaction is noted, and
//! removed when it is known for good that none is left that needs it.

use tokio_postgres::Client;

use crate::archive::{Archive, Pin};
use crate::model::{Fault, Lsn, Position};
use crate::pg::{Conninfo, dead, inspect};

use super::super::Target;

/// What the names of a stream's pins for one target begin with. Servers that are copies of one another are told apart by their address.
async fn stem(client: &Client, target: &Conninfo, stream: &str) -> Result<String, Fault> {
    let server = inspect::server(client).await?;
    let key = [stream, &target.address(), &server.system_identifier.to_string()].join("\0");
    let hash = blake3::hash(key.as_bytes()).to_hex();
    Ok(format!("dead-{}-", hash.chars().take(16).collect::<String>()))
}

fn ours(archive: &Archive, stem: &str) -> Result<Vec<Pin>, Fault> {
    let pins = archive.pins()?;
    Ok(pins.into_iter().filter(|pin| pin.name.starts_with(stem)).collect())
}

/// Keeps the log from before this commit on. Blocks on disk or network.
pub(in crate::apply) async fn keep(
    archive: &Archive,
    client: &Client,
    target: &Target,
    commit_lsn: Lsn,
) -> Result<(), Fault> {
    let stem = stem(client, &target.conninfo, &target.stream).await?;
    let lsn = Position(commit_lsn.0);
    tokio::task::block_in_place(|| {
        if ours(archive, &stem)?.iter().any(|pin| pin.lsn <= lsn) {
            return Ok(());
        }
        archive.pin(&Pin { name: format!("{stem}{:x}", lsn.0), lsn, created: now() })
    })
}

/// Keeps no more of the log than what is still set aside. To be called by who has the stream's lock, or while nobody applies it. Blocks on disk or
/// network.
pub async fn release(
    archive: &Archive,
    client: &Client,
    target: &Conninfo,
    stream: &str,
) -> Result<(), Fault> {
    let stem = stem(client, target, stream).await?;
    let oldest = dead::read(client, stream).await?.first().map(|note| Position(note.commit_lsn.0));
    tokio::task::block_in_place(|| {
        let pins = ours(archive, &stem)?;
        if let Some(lsn) = oldest.filter(|lsn| pins.iter().all(|pin| pin.lsn != *lsn)) {
            archive.pin(&Pin { name: format!("{stem}{:x}", lsn.0), lsn, created: now() })?;
        }
        for pin in pins.iter().filter(|pin| oldest != Some(pin.lsn)) {
            archive.unpin(&pin.name)?;
        }
        Ok(())
    })
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}
