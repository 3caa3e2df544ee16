//! One run at a time: an advisory lock of the source, held by a session that does nothing else. It tells runs on other machines, too.

use std::time::{Duration, Instant};

use super::look::Sessions;
use crate::archive::ArchiveId;
use crate::model::{Fault, Remedy};
use crate::pg::{Conninfo, Pipeline};

/// Who holds it is asked so often whether he still does.
const BEAT: Duration = Duration::from_secs(5);
const TRY: Duration = Duration::from_millis(200);

pub(super) struct Lock {
    session: Pipeline,
}

/// The two numbers of the lock, of which the first is ours: "pgsp".
fn key(archive: ArchiveId) -> String {
    let ArchiveId([a, b, c, d, ..]) = archive;
    format!("{}, {}", i32::from_be_bytes(*b"pgsp"), i32::from_be_bytes([a, b, c, d]))
}

impl Lock {
    /// Waits for whoever has it, until the limit.
    pub(super) async fn take(
        conninfo: &Conninfo,
        sessions: &Sessions,
        archive: ArchiveId,
        limit: Duration,
    ) -> Result<Lock, Fault> {
        let mut session = sessions.connect(conninfo).await?;
        let sql = format!("SELECT pg_try_advisory_lock({})::text", key(archive));
        let began = Instant::now();
        let mut is_told = false;
        loop {
            let is_taken = super::look::cell(&mut session, &sql).await?;
            if is_taken.as_deref() == Some("true") {
                return Ok(Lock { session });
            }
            if began.elapsed() >= limit {
                return Err(Fault::stop(format!(
                    "another run polls for this archive, and has not ended within {} s",
                    limit.as_secs()
                ))
                .hint("end it first, or wait longer with --lock-wait"));
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::info!(
                    limit_seconds = limit.as_secs(),
                    "waiting for another run that polls for this archive"
                );
            }
            tokio::time::sleep(TRY).await;
        }
    }

    /// Ends when it is held no more, with why.
    pub(super) async fn lost(&mut self) -> Fault {
        loop {
            tokio::time::sleep(BEAT).await;
            if let Err(fault) = self.session.simple("SELECT 1").await {
                return Fault { remedy: Remedy::Retry, ..fault.context("the lock on the source is lost") };
            }
        }
    }
}
