//! What the output plugin says becomes what the log says: messages of pgoutput's protocol version 1, whole transactions in
//! the order of their commits. Hides which plugin the slot has; behind the door there is one language.

mod entry;
mod join;
mod pgoutput;
mod spool;
mod translated;

use crate::archive::{Archive, Writer};
use crate::model::{Fault, Format, Lsn, Timestamp};

use super::Again;
use entry::Entry;
use spool::Spool;
use translated::Translated;
pub(super) use translated::{Catalog, Dialect};

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
    Pgoutput(pgoutput::Blocks),
    Other(Box<Translated>),
}

fn spool(archive: &Archive) -> Result<Spool, Fault> {
    let folder = archive.spool_folder();
    archive.make_folder(&folder)?;
    Spool::open(folder, !archive.keys().is_empty())
}

impl Door {
    /// To be called only by the holder of the archive's lock: what an earlier door left in the spool is removed.
    pub(super) fn pgoutput(archive: &Archive, format: Format) -> Result<Door, Fault> {
        let spool = spool(archive)?;
        Ok(Door { plugin: Plugin::Pgoutput(pgoutput::Blocks::new(format)), entry: Entry::new(spool) })
    }

    /// The same for another plugin, whose tables are looked up in the catalog.
    pub(super) fn translating(archive: &Archive, dialect: Dialect, catalog: Catalog) -> Result<Door, Fault> {
        let spool = spool(archive)?;
        let plugin = Plugin::Other(Box::new(Translated::new(dialect, catalog, archive)));
        Ok(Door { plugin, entry: Entry::new(spool) })
    }

    /// Takes one message in, when the door [is ready](Door::is_ready). Gives the time of a transaction's commit when it
    /// was its last one.
    pub(super) fn take(
        &mut self,
        arrival: Arrival<'_>,
        writer: &mut Writer,
    ) -> Result<Option<Timestamp>, Fault> {
        match &mut self.plugin {
            Plugin::Pgoutput(blocks) => blocks.take(arrival, &mut self.entry, writer),
            Plugin::Other(translated) => translated.take(arrival, &mut self.entry, writer),
        }
    }

    /// Whether what was sent so far ends between transactions, so that idle progress may be believed. Those that are
    /// spooled don't count: their commits are still to come.
    pub(super) fn is_between_transactions(&self) -> bool {
        self.entry.is_between_transactions()
    }

    /// Whether it takes messages now. If not, [`Door::work`] is to be called until it does: again and again while
    /// something [joins](Door::is_joining) the log, from time to time while the disk is full.
    pub(super) fn is_ready(&self) -> bool {
        self.entry.is_ready() && !self.is_asking() && self.unportable().is_none()
    }

    /// Whether the source's catalog has been asked for what must be known first.
    pub(super) fn is_asking(&self) -> bool {
        matches!(&self.plugin, Plugin::Other(translated) if translated.is_waiting())
    }

    /// Waits for the catalog's answer; then there is [work](Door::work) to do. Cancel-safe.
    pub(super) async fn answered(&mut self) {
        match &mut self.plugin {
            Plugin::Pgoutput(_) => std::future::pending().await,
            Plugin::Other(translated) => translated.answered().await,
        }
    }

    pub(super) fn is_joining(&self) -> bool {
        self.entry.is_joining()
    }

    /// Goes on for a moment with what could not be done at once.
    pub(super) fn work(&mut self, writer: &mut Writer) -> Result<(), Fault> {
        self.entry.work(writer)?;
        match &mut self.plugin {
            Plugin::Pgoutput(_) => Ok(()),
            Plugin::Other(translated) => translated.work(&mut self.entry, writer),
        }
    }

    /// What follows the last whole transaction must be sent again, in this way. Nothing is taken any more.
    pub(super) fn again(&self) -> Option<Again> {
        let column = self.unportable().map(|column| Again::Text { column: column.to_owned() });
        column.or(self.entry.whole_until().map(Again::Whole))
    }

    fn unportable(&self) -> Option<&str> {
        match &self.plugin {
            Plugin::Pgoutput(blocks) => blocks.unportable(),
            Plugin::Other(_) => None,
        }
    }
}
