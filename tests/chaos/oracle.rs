//! What the source has committed, by test_decoding and SQL, in which none of our code has a part; and what the log says of it.

use std::path::Path;

use pgsluice::archive::{Archive, Reader};
use pgsluice::pgoutput::{Message, decode};

use super::checkers::Transaction;
use crate::support::{Session, lsn};

/// A second slot of the source, made before anything is changed.
pub(super) struct Oracle {
    transactions: Vec<Transaction>,
    under_way: u64,
    last: u64,
}

impl Oracle {
    pub(super) fn create(source: &Session) -> Oracle {
        source.query("select pg_create_logical_replication_slot('oracle', 'test_decoding')");
        Oracle { transactions: Vec::new(), under_way: 0, last: 0 }
    }

    /// Takes what was committed since. After a crash of the source the slot may give some again.
    pub(super) fn listen(&mut self, source: &Session) {
        let rows = source.query(
            "select lsn, left(data, 20) from pg_logical_slot_get_changes('oracle', null, null, 'include-xids', '1', 'skip-empty-xacts', '1')",
        );
        for row in rows {
            let (at, data) = (lsn(row[0].as_ref().unwrap()), row[1].as_ref().unwrap());
            if let Some(xid) = data.strip_prefix("COMMIT ") {
                let rows = std::mem::take(&mut self.under_way);
                if at > self.last && rows > 0 {
                    self.last = at;
                    self.transactions.push(Transaction { xid: xid.parse().unwrap(), end: at, rows });
                }
            } else if data.starts_with("table public.") {
                self.under_way += 1;
            }
        }
    }

    pub(super) fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }
}

/// The transactions of an archive whose segments are all sealed.
pub(super) fn transactions_of(folder: &Path) -> Vec<Transaction> {
    let archive = Archive::open(folder).unwrap();
    let mut reader = Reader::open(&archive, archive.manifest().start, None).unwrap();
    let mut transactions = Vec::new();
    let (mut xid, mut rows) = (0, 0);
    while let Some(frame) = reader.try_next().unwrap() {
        for record in frame.records() {
            match decode(record.unwrap()).unwrap() {
                Message::Begin(begin) => (xid, rows) = (begin.xid.0, 0),
                Message::Insert { .. }
                | Message::Update { .. }
                | Message::Delete { .. }
                | Message::Truncate(_) => rows += 1,
                Message::Commit(commit) if rows > 0 => {
                    transactions.push(Transaction { xid, end: commit.end.0, rows });
                }
                _ => {}
            }
        }
    }
    transactions
}
