//! Whether a stream goes on by the rules by which its rows came so far.

use tokio_postgres::Client;

use super::Target;
use crate::model::Fault;
use crate::pg::{copied, progress, ruled};

/// Refuses other rules than those before, unless they are taken as they are; notes those that hold. The stream must be ours.
pub async fn settle(client: &Client, target: &Target) -> Result<(), Fault> {
    let stream = &target.stream;
    let given = target.shapes.as_ref().map(|rules| rules.fingerprint());
    let noted = ruled::read(client, stream).await?;
    if noted == given {
        return Ok(());
    }
    let is_new = !has_rows(client, stream).await?;
    if !is_new && !target.accept_rules {
        let message = match (&noted, &given) {
            (None, _) => format!("rows of stream {stream} came to the target without rules"),
            (_, None) => format!("rows of stream {stream} came to the target by rules, and none are given"),
            _ => format!(
                "rows of stream {stream} came to the target by other rules, or with another key of hashes"
            ),
        };
        return Err(Fault::person(format!("{message}: what came and what comes would not be alike"))
            .hint("give the same --rules as then; or bring the target's rows in line with the new ones, then run the same command with --accept-rules; or make a new target with another --origin"));
    }
    if !is_new {
        tracing::warn!(stream, "the rules are others from here on: rows that are there stay as they are");
    }
    ruled::note(client, stream, given.as_deref()).await
}

/// Whether something has come to the target that rules could have been about.
async fn has_rows(client: &Client, stream: &str) -> Result<bool, Fault> {
    let applied = progress::read(client, stream).await?.is_some_and(|progress| progress.transactions > 0);
    if applied || copied::clone(client, stream).await?.is_none() {
        return Ok(applied);
    }
    // A copy that was refused before it began has brought nothing.
    Ok(!copied::tables(client, stream).await?.is_empty())
}
