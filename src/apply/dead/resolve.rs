//! How what was set aside comes to an end: it is brought, or done without.

use super::super::Target;
use super::super::batch::Applier;
use crate::archive::Archive;
use crate::model::{Fault, Position};
use crate::pg::{control, progress};

/// What came of it.
#[derive(Debug)]
pub struct Resolved {
    /// The transactions that are set aside no more, by the ends of their commits.
    pub done: Vec<Position>,
    /// How many still are.
    pub left: usize,
    /// Where it ended before the last, and why.
    pub failed: Option<(Position, Fault)>,
}

/// Brings these transactions, or where none is named all, in the order of the log and up to the first that can't be.
pub async fn retry(archive: &Archive, target: &Target, chosen: &[Position]) -> Result<Resolved, Fault> {
    refuse_applier(target).await?;
    Applier::new(archive, None, target).retry(chosen).await
}

/// Does without these.
pub async fn skip(
    archive: &Archive,
    target: &Target,
    chosen: &[Position],
    with_dependents: bool,
) -> Result<Resolved, Fault> {
    refuse_applier(target).await?;
    Applier::new(archive, None, target).skip(chosen, with_dependents).await
}

/// Whoever applies the stream knows what is set aside from when it began.
async fn refuse_applier(target: &Target) -> Result<(), Fault> {
    let client = control::connect(&target.conninfo, "pgsluice dead").await?;
    match progress::has_applier(&client, &target.stream).await? {
        false => Ok(()),
        true => Err(Fault::stop(format!("an applier of '{}' is at work on the target", target.stream))
            .hint("stop pgsluice follow, or apply, for this; then start it again")),
    }
}
