//! pgoutput: its messages are the log's. Only what bounds transactions is looked at.

use crate::archive::Writer;
use crate::model::{Fault, Lsn, Position, Timestamp};
use crate::pgoutput::{Message, decode};

use super::Arrival;
use super::entry::Entry;

/// Takes one message in. Gives the time of a transaction's commit when it was its last one.
pub(super) fn take(
    arrival: Arrival<'_>,
    entry: &mut Entry,
    writer: &mut Writer,
) -> Result<Option<Timestamp>, Fault> {
    let Arrival { start, message, .. } = arrival;
    match message.first() {
        Some(b'B') => {
            let Ok(Message::Begin(begin)) = decode(message) else { return Err(malformed(start)) };
            entry.begin(message, begin.commit_lsn, writer)?;
        }
        Some(b'C') => {
            let Ok(Message::Commit(commit)) = decode(message) else { return Err(malformed(start)) };
            entry.commit(message, writer)?;
            return Ok(Some(commit.commit_time));
        }
        Some(b'M') if entry.is_between_transactions() => {
            let Ok(Message::Logical { lsn, .. }) = decode(message) else { return Err(malformed(start)) };
            // Its LSN is the end of its record.
            entry.lone_message(message, Position(lsn.0), writer)?;
        }
        Some(b'R' | b'Y') => entry.definition(message, writer)?,
        _ => entry.content(message, writer)?,
    }
    Ok(None)
}

fn malformed(start: Lsn) -> Fault {
    Fault::stop(format!("the source sent bytes at {start} that are no pgoutput message")).hint(
        "check that the slot's plugin is pgoutput and that nothing but the source answers at this address",
    )
}
