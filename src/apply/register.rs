//! Tells the archive how far the target is, so that what it still needs is not pruned.
//!
//! A task and a connection of its own: the loop that applies waits for none of it, and nothing that goes wrong here ends an applier.
//! What is told must be durable on the target, which the progress that another session has just committed need not be: with
//! `synchronous_commit` off a crash takes it back. So the row is read, and told once the server's WAL is flushed up to where it was
//! inserted then; the commit lies before that.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;

use crate::archive::{Archive, Registered};
use crate::model::{Fault, Position};
use crate::pg::{Conninfo, control, inspect, progress};

const INTERVAL: Duration = Duration::from_secs(10);
/// How long the server's WAL may take to be flushed; its walwriter does so several times a second.
const FLUSH_PATIENCE: Duration = Duration::from_secs(3);

/// Notes in the archive that a target needs what comes after a position.
pub async fn register(
    archive: &Archive,
    client: &Client,
    target: &Conninfo,
    stream: &str,
    lsn: Position,
) -> Result<(), Fault> {
    let server = inspect::server(client).await?;
    let (system_identifier, target) = (server.system_identifier.to_string(), target.address());
    let registered = Registered {
        name: Registered::name_of(stream, &target, &system_identifier),
        stream: stream.to_owned(),
        target,
        system_identifier,
        database: server.database,
        lsn,
        time: jiff::Timestamp::now().to_string(),
    };
    let archive = archive.clone();
    let written = tokio::task::spawn_blocking(move || archive.register(&registered)).await;
    written.map_err(|_| Fault::stop("noting how far the target is has panicked"))?
}

/// What a target is called in the archive.
pub async fn registered_name(client: &Client, target: &Conninfo, stream: &str) -> Result<String, Fault> {
    let system_identifier = inspect::server(client).await?.system_identifier.to_string();
    Ok(Registered::name_of(stream, &target.address(), &system_identifier))
}

/// Tells it again and again while it moves, and once more at the end.
pub(super) async fn keep(archive: Archive, target: Conninfo, stream: String, mut end: oneshot::Receiver<()>) {
    let mut told = None;
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    let mut warned = false;
    loop {
        let ends = tokio::select! {
            _ = &mut end => true,
            _ = interval.tick() => false,
        };
        match tell(&archive, &target, &stream, &mut client, told).await {
            Ok(now) => (told, warned) = (now, false),
            Err(error) => {
                client = None;
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, "the archive can't be told how far the target is; it keeps what comes after the last time");
                }
            }
        }
        if ends {
            return;
        }
    }
}

/// Tells where the target is, if that is another place than what was told and is durable there. Gives what was told last.
async fn tell(
    archive: &Archive,
    target: &Conninfo,
    stream: &str,
    client: &mut Option<Client>,
    told: Option<Position>,
) -> Result<Option<Position>, Fault> {
    let connected = match client.take().filter(|client| !client.is_closed()) {
        Some(connected) => connected,
        None => control::connect(target, "pgsluice register").await?,
    };
    let client = client.insert(connected);
    let row = progress::read(client, stream).await?;
    let archive_id = archive.manifest().archive_id.to_string();
    // The row of another archive is the applier's to refuse.
    let Some(lsn) = row.filter(|row| row.archive_id == archive_id).map(|row| row.lsn) else {
        return Ok(told);
    };
    if told == Some(lsn) || !inspect::wait_for_flush(client, FLUSH_PATIENCE).await? {
        return Ok(told);
    }
    register(archive, client, target, stream, lsn).await?;
    Ok(Some(lsn))
}
