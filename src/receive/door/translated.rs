//! test_decoding and wal2json: their messages are translated, and spooled until their transaction's commit, since what they
//! leave out by the table may need a look at the source's catalog, and test_decoding tells only at the end where a
//! transaction commits.
//!
//! The catalog is asked in a task of its own, while nothing more is taken in.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Arrival;
use super::entry::Entry;
use crate::archive::{Archive, Writer};
use crate::model::{Fault, Lsn, Position, Timestamp, Xid};
use crate::pg::facts;
use crate::pgoutput::Begin;
use crate::plugin::{
    Answer, Malformed, Message, Outcome, Published, Question, Refusal, TableName, Translator,
};
use crate::plugin::{test_decoding, wal2json};
use crate::receive::published;

/// How long to wait until the catalog is asked again what it did not show yet: a commit is sent before others see it.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Whose text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::receive) enum Dialect {
    TestDecoding,
    Wal2json {
        /// NaN is not printed as null.
        all_numbers: bool,
    },
}

impl Dialect {
    fn parse<'a>(self, payload: &'a [u8], start: Lsn) -> Result<Message<'a>, Malformed> {
        match self {
            Dialect::TestDecoding => test_decoding::parse(payload, start),
            Dialect::Wal2json { all_numbers } => wal2json::parse(payload, all_numbers),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Dialect::TestDecoding => "test_decoding",
            Dialect::Wal2json { .. } => "wal2json",
        }
    }
}

/// Where tables are looked up.
pub(in crate::receive) struct Catalog {
    pub(in crate::receive) client: Client,
    pub(in crate::receive) publication: String,
    /// What was seen in it, the look at the beginning of this connection included.
    pub(in crate::receive) published: Published,
}

pub(super) struct Translated {
    archive: Archive,
    dialect: Dialect,
    catalog: Arc<Catalog>,
    translator: Translator,
    /// The transaction that is being sent.
    current: Option<Xid>,
    /// Of the TRUNCATE whose record is there: wal2json names its tables in one message each.
    truncated: Option<(Lsn, Vec<TableName>)>,
    waiting: Option<Waiting>,
}

/// A message that waits for the catalog.
struct Waiting {
    start: Lsn,
    message: Vec<u8>,
    question: Question,
    pause: Duration,
    asked: JoinHandle<Result<Answer, Fault>>,
    answer: Option<Result<Answer, Fault>>,
}

impl Translated {
    pub(super) fn new(dialect: Dialect, mut catalog: Catalog, archive: &Archive) -> Translated {
        let published = std::mem::take(&mut catalog.published);
        Translated {
            archive: archive.clone(),
            dialect,
            catalog: Arc::new(catalog),
            translator: Translator::new(published),
            current: None,
            truncated: None,
            waiting: None,
        }
    }

    /// Takes one message in. Gives the time of a transaction's commit when it was its last one.
    pub(super) fn take(
        &mut self,
        arrival: Arrival<'_>,
        entry: &mut Entry,
        writer: &mut Writer,
    ) -> Result<Option<Timestamp>, Fault> {
        let Arrival { start, message, .. } = arrival;
        let parsed = self.dialect.parse(message, start).map_err(|error| self.malformed(start, &error))?;
        match self.say(&parsed, start, entry, writer)? {
            Said::Everything => Ok(None),
            Said::Committed(time) => Ok(Some(time)),
            Said::NotBefore(question) => {
                self.ask(start, message.to_vec(), question, Duration::ZERO);
                Ok(None)
            }
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Waits for the catalog's answer, if it was asked. Cancel-safe.
    pub(super) async fn answered(&mut self) {
        let Some(waiting) = &mut self.waiting else { return std::future::pending().await };
        if waiting.answer.is_none() {
            let answer = (&mut waiting.asked).await;
            waiting.answer = Some(answer.unwrap_or_else(|_| Err(Fault::retry("the look-up was called off"))));
        }
    }

    /// Goes on with the message that waited, if its answer is there.
    pub(super) fn work(&mut self, entry: &mut Entry, writer: &mut Writer) -> Result<(), Fault> {
        let Some(answered) = self.waiting.take_if(|waiting| waiting.answer.is_some()) else { return Ok(()) };
        let Waiting { start, message, question, pause, answer, .. } = answered;
        if let Some(answer) = answer
            && let Some(published) = self.translator.learn(question.table.clone(), answer?)
        {
            published::write(&self.archive, published)?;
        }
        let parsed = self.dialect.parse(&message, start).map_err(|error| self.malformed(start, &error))?;
        if let Said::NotBefore(next) = self.say(&parsed, start, entry, writer)? {
            let again = next.table == question.table;
            if again && pause * 2 > PAUSE_MAX && pause < PAUSE_MAX {
                tracing::warn!(
                    table = %next.table,
                    "a transaction has committed and others don't see it yet: does it wait for a synchronous standby? It must not be this receiver (synchronous_standby_names)"
                );
            }
            let pause = if again { (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX) } else { Duration::ZERO };
            self.ask(start, message, next, pause);
        }
        Ok(())
    }

    fn ask(&mut self, start: Lsn, message: Vec<u8>, question: Question, pause: Duration) {
        let (catalog, asking) = (Arc::clone(&self.catalog), question.clone());
        let asked = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            look_up(&catalog, &asking).await
        });
        self.waiting = Some(Waiting { start, message, question, pause, asked, answer: None });
    }

    fn say(
        &mut self,
        message: &Message<'_>,
        start: Lsn,
        entry: &mut Entry,
        writer: &mut Writer,
    ) -> Result<Said, Fault> {
        if let (Message::Truncate { tables, .. }, Dialect::Wal2json { .. }) = (message, self.dialect) {
            match &mut self.truncated {
                Some((record, truncated)) if *record == start => truncated.extend(tables.iter().cloned()),
                // The one before is said first, and then this message is given again.
                Some(_) => return self.say_truncated(message, start, entry, writer),
                None => self.truncated = Some((start, tables.clone())),
            }
            return Ok(Said::Everything);
        }
        if self.truncated.is_some() {
            return self.say_truncated(message, start, entry, writer);
        }
        match message {
            Message::Begin(begin) => {
                if self.current.replace(begin.xid).is_some() || !entry.is_between_transactions() {
                    return Err(self.out_of_place(start));
                }
                entry.open();
                self.translate(message, start)?;
            }
            Message::Commit(commit) => {
                let Some(xid) = self.current.take() else { return Err(self.out_of_place(start)) };
                let begin = Begin { commit_lsn: commit.commit_lsn, commit_time: commit.commit_time, xid };
                entry.join(begin, *commit, writer);
                return Ok(Said::Committed(commit.commit_time));
            }
            Message::Logical { transactional: false, lsn, .. } => {
                self.translate(message, start)?;
                for said in self.translator.messages() {
                    // Its LSN is the end of its record.
                    entry.lone_message(said, Position(lsn.0), writer)?;
                }
            }
            Message::Change(_) | Message::Truncate { .. } | Message::Logical { .. } => {
                let Some(xid) = self.current else { return Err(self.out_of_place(start)) };
                if let Outcome::LookUp(question) = self.translate(message, start)? {
                    return Ok(Said::NotBefore(question));
                }
                for said in self.translator.messages() {
                    if let Some((tag, rest)) = said.split_first() {
                        entry.spool(xid, xid, *tag, rest)?;
                    }
                }
            }
        }
        Ok(Said::Everything)
    }

    /// Says the TRUNCATE that is complete now, and then `message`.
    fn say_truncated(
        &mut self,
        message: &Message<'_>,
        start: Lsn,
        entry: &mut Entry,
        writer: &mut Writer,
    ) -> Result<Said, Fault> {
        let (Some((record, tables)), Some(xid)) = (self.truncated.take(), self.current) else {
            return Err(self.out_of_place(start));
        };
        // RESTART IDENTITY and CASCADE are not told: the former is about sequences, for the latter all tables are named.
        let truncate = Message::Truncate { tables, cascade: false, restart_identity: false };
        if let Outcome::LookUp(question) = self.translate(&truncate, record)? {
            if let Message::Truncate { tables, .. } = truncate {
                self.truncated = Some((record, tables));
            }
            return Ok(Said::NotBefore(question));
        }
        for said in self.translator.messages() {
            if let Some((tag, rest)) = said.split_first() {
                entry.spool(xid, xid, *tag, rest)?;
            }
        }
        self.say(message, start, entry, writer)
    }

    fn translate(&mut self, message: &Message<'_>, start: Lsn) -> Result<Outcome, Fault> {
        self.translator.take(message).map_err(|refusal| refused(&refusal, start))
    }

    fn malformed(&self, start: Lsn, error: &Malformed) -> Fault {
        let plugin = self.dialect.name();
        Fault::stop(format!("the source sent at {start} what is no message of {plugin}: {error}")).hint(
            format!("check that the slot's plugin is {plugin} in a version that is known; pgoutput is there in any case"),
        )
    }

    fn out_of_place(&self, start: Lsn) -> Fault {
        Fault::stop(format!("the source sent a message of {} out of place at {start}", self.dialect.name()))
            .hint("start again: the source repeats what is not yet acknowledged")
    }
}

/// What became of a message.
enum Said {
    Everything,
    Committed(Timestamp),
    /// Nothing of it, before this is known.
    NotBefore(Question),
}

async fn look_up(catalog: &Catalog, question: &Question) -> Result<Answer, Fault> {
    let TableName { schema, name } = &question.table;
    let found = facts::look_up(&catalog.client, &catalog.publication, schema, name).await?;
    let names: Vec<String> = question.types.iter().cloned().collect();
    let types = facts::types(&catalog.client, &names).await?;
    Ok(Answer { seen: found.seen, everything: found.everything, table: found.table, types })
}

fn refused(refusal: &Refusal, start: Lsn) -> Fault {
    Fault::person(format!("at {start}: {}", refusal.message)).hint(refusal.hint)
}
