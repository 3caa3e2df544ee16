//! Where a pull's messages go: kept while they are few, so that pulls of several tables can be under way; the log is taken for one that is larger.

use tokio::sync::Mutex;

use super::TableState;
use super::log::{Log, Transaction, unwritable};
use crate::model::{Fault, Position, Timestamp, Value};
use crate::pgoutput::{Message, Old, TupleBuffer, encode};

/// Bytes that are kept before the log is taken.
const KEPT_MAX: usize = 4 << 20;

pub(super) struct Sink<'a> {
    log: &'a Mutex<Log>,
    /// Of the commit.
    time: Timestamp,
    kept: Vec<u8>,
    /// Where each of those that are kept ends.
    ends: Vec<usize>,
    transaction: Option<Transaction<'a>>,
    row: TupleBuffer,
    message: Vec<u8>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(log: &'a Mutex<Log>, time: Timestamp) -> Sink<'a> {
        Sink {
            log,
            time,
            kept: Vec::new(),
            ends: Vec::new(),
            transaction: None,
            row: TupleBuffer::default(),
            message: Vec::new(),
        }
    }

    pub(super) async fn put(&mut self, message: &Message<'_>) -> Result<(), Fault> {
        self.message.clear();
        encode(message, &mut self.message).map_err(|error| unwritable(&error))?;
        self.give().await
    }

    pub(super) async fn insert(&mut self, relation: u32, row: &[Option<&[u8]>]) -> Result<(), Fault> {
        let row = self.filled(row)?;
        let given = self.put(&Message::Insert { relation, new: row.tuple() }).await;
        self.row = row;
        given
    }

    /// A row that is gone, by its key; all else is null.
    pub(super) async fn delete(&mut self, relation: u32, key: &[Option<&[u8]>]) -> Result<(), Fault> {
        let row = self.filled(key)?;
        let given = self.put(&Message::Delete { relation, old: Old::Key(row.tuple()) }).await;
        self.row = row;
        given
    }

    /// The memory for rows, with one in it; to be given back.
    fn filled(&mut self, row: &[Option<&[u8]>]) -> Result<TupleBuffer, Fault> {
        let mut filled = std::mem::take(&mut self.row);
        filled.clear();
        for value in row {
            let value = value.map_or(Value::Null, Value::Text);
            filled.push(value).map_err(|error| unwritable(&error))?;
        }
        Ok(filled)
    }

    async fn give(&mut self) -> Result<(), Fault> {
        if let Some(transaction) = &mut self.transaction {
            return transaction.append(&self.message).await;
        }
        self.kept.extend_from_slice(&self.message);
        self.ends.push(self.kept.len());
        if self.kept.len() > KEPT_MAX {
            self.begin().await?;
        }
        Ok(())
    }

    /// Takes the log, for all that was kept.
    async fn begin(&mut self) -> Result<(), Fault> {
        let mut transaction = Transaction::begin(self.log, self.time).await?;
        let mut start = 0;
        for end in self.ends.drain(..) {
            transaction.append(self.kept.get(start..end).unwrap_or_default()).await?;
            start = end;
        }
        self.kept = Vec::new();
        self.transaction = Some(transaction);
        Ok(())
    }

    /// Ends the transaction, also one that has nothing but the table's state.
    pub(super) async fn commit(
        mut self,
        table: &str,
        state: TableState,
        confirmable: bool,
    ) -> Result<Position, Fault> {
        if self.transaction.is_none() {
            self.begin().await?;
        }
        match self.transaction {
            Some(transaction) => transaction.commit(table, state, confirmable).await,
            None => Err(Fault::stop("the log was not taken")),
        }
    }
}
