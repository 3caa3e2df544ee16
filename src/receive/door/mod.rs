//! What the output plugin says becomes what the log says: messages of pgoutput's protocol version 1, whole transactions in
//! the order of their commits. Hides which plugin the slot has; behind the door there is one language.

mod entry;
mod pgoutput;

use crate::archive::Writer;
use crate::model::{Fault, Lsn, Timestamp};

use entry::Entry;

/// One message of the output plugin, as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    /// What the stream says of its place in WAL. What that means, and whether it is there at all, is the plugin's affair.
    pub(super) start: Lsn,
    pub(super) send_time: Timestamp,
    pub(super) message: &'a [u8],
}

/// The way into the log, for as long as one connection lasts.
pub(super) struct Door {
    plugin: Plugin,
    entry: Entry,
}

/// Who reads what the plugin says.
enum Plugin {
    Pgoutput,
}

impl Door {
    pub(super) fn pgoutput() -> Door {
        Door { plugin: Plugin::Pgoutput, entry: Entry::default() }
    }

    /// Takes one message in. Gives the time of a transaction's commit when it was its last one.
    pub(super) fn take(
        &mut self,
        arrival: Arrival<'_>,
        writer: &mut Writer,
    ) -> Result<Option<Timestamp>, Fault> {
        match self.plugin {
            Plugin::Pgoutput => pgoutput::take(arrival, &mut self.entry, writer),
        }
    }

    /// Whether what was sent so far ends between transactions, so that idle progress may be believed.
    pub(super) fn is_between_transactions(&self) -> bool {
        self.entry.is_between_transactions()
    }
}
