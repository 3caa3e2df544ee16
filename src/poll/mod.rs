//! Tables and views that are read again and again: a source where one may only SELECT, as the log's second way in. Hides how it is known which
//! rows are new and complete, and how they become transactions of the log that are like those of a slot.
//!
//! ```text
//! look (clock, running transactions) ─► limit ─► one snapshot: definition, batch, COPY ─► one transaction of the log
//!                                                                                          └ with the state of all polls
//! ```
//!
//! Invariants: what was read and the state that says so are one transaction of the log, so a crash loses none of it and brings none of it twice;
//! the state is read from the log's last transaction and kept nowhere else; positions are bytes of messages, counted; nothing is
//! written on the source, but that rows of a trigger's queue are deleted once what they stand for is durable.
//!
//! What rows mean in such a log is in `docs/POLL.md`. Deliberately absent: deletions where no trigger tells of them.

mod alarm;
mod drain;
mod due;
mod limit;
mod lock;
mod log;
mod look;
mod make;
mod pull;
mod queue;
mod run;
mod settings;
mod shape;
mod sink;
mod snapshot;
mod sql;
mod state;

pub use alarm::{Alarm, Tell};
pub use limit::By;
pub use make::archive;
pub use queue::script as queue_script;
pub use run::{Again, Options, Outcome, Pulls, run};
pub use settings::{Boundary, Method, Table};
pub use state::{Polled, State, TableState, last_state};

use crate::archive::Archive;
use crate::model::Fault;

/// Stands where the manifest names slot and publication.
pub const NO_SLOT: &str = "-";
/// The prefix of the logical messages that carry the [`State`].
pub const PREFIX: &str = "pgsluice.poll";

/// Refuses the archive of a polled source, for what receives from a slot.
pub fn refuse(archive: &Archive) -> Result<(), Fault> {
    if archive.manifest().is_polled() {
        let place = archive.root().display();
        return Err(Fault::person(format!("the archive {place} is of a polled source, which has no slot"))
            .hint("`pgsluice poll` feeds it and `pgsluice apply` applies it; give another --archive or --name for a slot"));
    }
    Ok(())
}

/// Refuses an archive that is fed from a slot.
fn refuse_other(archive: &Archive) -> Result<(), Fault> {
    if archive.manifest().is_polled() {
        return Ok(());
    }
    let (place, slot) = (archive.root().display(), &archive.manifest().slot);
    Err(Fault::person(format!("the archive {place} is fed from slot {slot}, not by polls"))
        .hint("a polled source has an archive of its own: give another --archive or --name"))
}
