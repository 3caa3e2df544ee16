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

/// Tells where the target is now; false where that is not durable yet.
pub async fn register(
    archive: &Archive,
    client: &Client,
    target: &Conninfo,
    stream: &str,
) -> Result<bool, Fault> {
    let mut registrar = Registrar::new(archive, target, stream);
    Ok(registrar.tell_over(client).await?.is_some())
}

/// What a target is called in the archive.
pub async fn registered_name(client: &Client, target: &Conninfo, stream: &str) -> Result<String, Fault> {
    let system_identifier = inspect::server(client).await?.system_identifier.to_string();
    Ok(Registered::name_of(stream, &target.address(), &system_identifier))
}

/// Tells it again and again while it moves, and once more at the end.
pub(super) async fn keep(archive: Archive, target: Conninfo, stream: String, mut end: oneshot::Receiver<()>) {
    let mut registrar = Registrar::new(&archive, &target, &stream);
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    let mut warned = false;
    loop {
        let ends = tokio::select! {
            _ = &mut end => true,
            _ = interval.tick() => false,
        };
        match registrar.tell(&mut client).await {
            Ok(()) => warned = false,
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

struct Registrar<'a> {
    archive: &'a Archive,
    target: &'a Conninfo,
    stream: &'a str,
    told: Option<Position>,
}

impl<'a> Registrar<'a> {
    fn new(archive: &'a Archive, target: &'a Conninfo, stream: &'a str) -> Registrar<'a> {
        Registrar { archive, target, stream, told: None }
    }

    async fn tell(&mut self, client: &mut Option<Client>) -> Result<(), Fault> {
        let connected = match client.take().filter(|client| !client.is_closed()) {
            Some(connected) => connected,
            None => control::connect(self.target, "pgsluice register").await?,
        };
        self.tell_over(client.insert(connected)).await?;
        Ok(())
    }

    /// Gives what was told last; none where nothing was.
    async fn tell_over(&mut self, client: &Client) -> Result<Option<Position>, Fault> {
        let archive_id = self.archive.manifest().archive_id.to_string();
        let row = progress::read(client, self.stream).await?;
        let Some(lsn) = row.filter(|row| row.archive_id == archive_id).map(|row| row.lsn) else {
            return Ok(self.told);
        };
        if self.told == Some(lsn) || !inspect::wait_for_flush(client, FLUSH_PATIENCE).await? {
            return Ok(self.told);
        }
        let server = inspect::server(client).await?;
        let (system_identifier, target) = (server.system_identifier.to_string(), self.target.address());
        let registered = Registered {
            name: Registered::name_of(self.stream, &target, &system_identifier),
            stream: self.stream.to_owned(),
            target,
            system_identifier,
            database: server.database,
            lsn,
            time: jiff::Timestamp::now().to_string(),
        };
        let archive = self.archive.clone();
        let written = tokio::task::spawn_blocking(move || archive.register(&registered)).await;
        written.map_err(|_| Fault::stop("noting how far the target is has panicked"))??;
        self.told = Some(lsn);
        Ok(self.told)
    }
}
