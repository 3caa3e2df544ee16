//! What PostgreSQL answered to the control plane, said with what was being done.

use tokio_postgres::types::PgLsn;

use super::control;
use crate::model::{Fault, Position};

/// `doing` is what was tried, such as `creating publication "p"`.
pub(super) fn fault(doing: &str, error: &tokio_postgres::Error) -> Fault {
    control::fault(error).context(doing)
}

pub(super) fn position(lsn: PgLsn) -> Position {
    Position(u64::from(lsn))
}
