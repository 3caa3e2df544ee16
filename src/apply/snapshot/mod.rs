//! A snapshot of a polled table on the target: a view over one of two tables.
//!
//! ```text
//! readers ─► view NAME ─► table NAME__a        the snapshot before
//!                  ┆
//!                  └┄┄┄┄► table NAME__b  ◄─ rows of the next one; then the view is made to show it
//! ```
//!
//! The table that is not shown has only us, so it may be locked for as long as its rows take; the view is locked for the instant
//! between its change and the commit, and whoever waits for it waits at most [`view::LOCK_TIMEOUT`] for us. All of it is one transaction of the
//! target, with its progress. Rows go in frozen, so that a transaction whose snapshot is older than the swap sees the new rows, and not
//! none: a TRUNCATE shows to everybody at once.
//!
//! Which table is shown is read from the view itself; that the view is ours, from `pgsluice.snapshot`.

mod hidden;
mod kept;
mod names;
mod place;
mod view;

use crate::model::{Fault, quote_ident};
use crate::pg::control::fault;

pub(super) use hidden::{Ready, finish, prepare};
pub(super) use place::{Place, Users, users};
pub(super) use view::swap;

/// What PostgreSQL says where a lock was not to be had in time.
pub(super) const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The client insists on UTF-8; the session that it speaks through has the source's encoding.
const OURS: &str = "SET LOCAL client_encoding = 'UTF8'";
const ITS_OWN: &str = "SET LOCAL client_encoding TO DEFAULT";

fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

async fn run(client: &tokio_postgres::Client, sql: &str) -> Result<(), Fault> {
    client.batch_execute(sql).await.map_err(|error| fault(&error))
}
