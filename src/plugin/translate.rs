//! What a plugin says and what the source's catalog says, put together to what pgoutput would have said.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Published;
use super::definition::{self, Unclear};
use super::message::{Change, FieldValue, Kind, Message, Row, TableName, TypeName};
use crate::model::{Relation, ReplicaIdentity, TableFacts, Value, VisibleXids, Xid};
use crate::pgoutput::{self, Old, TupleBuffer, Unwritable};

/// Why something can't be said in pgoutput's words without a guess. The caller adds the position.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    pub hint: &'static str,
}

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// [`Translator::messages`] has what is to be said; nothing, if the table is not published.
    Said,
    /// Look this up, tell it by [`Translator::learn`], and give the same message again. Where the same is asked again, the
    /// catalog did not show yet what the transaction did: ask again after a while.
    LookUp(Question),
}

/// A table, and the names of types that the change shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub table: TableName,
    pub types: BTreeSet<String>,
}

/// What the catalog said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub seen: VisibleXids,
    /// The publication is FOR ALL TABLES.
    pub everything: bool,
    /// None where there is no such table.
    pub table: Option<TableFacts>,
    /// OIDs of types; none where there is no such type.
    pub types: HashMap<String, Option<u32>>,
}

/// A table that has been looked up.
struct Known {
    answer: Answer,
    /// Of the catalog; without columns where it knows no such table.
    relation: Arc<Relation>,
    /// The definition that the messages given so far end with.
    announced: Option<Arc<Relation>>,
}

/// Turns the messages of one connection into those of pgoutput.
pub struct Translator {
    tables: HashMap<TableName, Known>,
    published: Published,
    xid: Xid,
    said: Said,
    old: TupleBuffer,
    new: TupleBuffer,
    /// For tables that are gone. A table's id is only what ties changes to the definition before them: no two tables have the
    /// same one at a time, and the definition is repeated when one changes hands.
    last_free_oid: u32,
}

/// Messages one after the other.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Said {
    fn push(&mut self, message: &pgoutput::Message<'_>) -> Result<(), Unwritable> {
        pgoutput::encode(message, &mut self.bytes)?;
        self.ends.push(self.bytes.len());
        Ok(())
    }
}

const USE_PGOUTPUT: &str = "set up anew with --plugin pgoutput, which loses nothing";

impl Translator {
    /// `published`: what was seen in the publication before this connection's first message.
    pub fn new(published: Published) -> Translator {
        Translator {
            tables: HashMap::new(),
            published,
            xid: Xid(0),
            said: Said::default(),
            old: TupleBuffer::default(),
            new: TupleBuffer::default(),
            last_free_oid: u32::MAX,
        }
    }

    /// Takes one message in. Transaction ends say nothing: they are the caller's.
    pub fn take(&mut self, message: &Message<'_>) -> Result<Outcome, Refusal> {
        self.said.bytes.clear();
        self.said.ends.clear();
        match message {
            Message::Begin(begin) => self.xid = begin.xid,
            Message::Commit(_) => {}
            Message::Change(change) => return self.change(change),
            Message::Truncate { tables, cascade, restart_identity } => {
                return self.truncate(tables, *cascade, *restart_identity);
            }
            Message::Logical { transactional, lsn, prefix, content } => {
                let message =
                    pgoutput::Message::Logical { transactional: *transactional, lsn: *lsn, prefix, content };
                self.said.push(&message).map_err(|error| unwritable("a logical message", &error))?;
            }
        }
        Ok(Outcome::Said)
    }

    /// What the last message comes to.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.said.ends.iter().copied());
        starts.zip(&self.said.ends).filter_map(|(start, end)| self.said.bytes.get(start..*end))
    }

    /// Takes note of what the catalog says of a table now. Gives what has been seen in the publication, if that is news: to be
    /// kept before the next message.
    pub fn learn(&mut self, table: TableName, mut answer: Answer) -> Option<&Published> {
        let is_published = answer.table.as_ref().is_some_and(|facts| facts.published);
        let news = self.published.see(&table, &answer.seen, is_published);
        let before = self.tables.remove(&table);
        if let Some(before) = &before {
            for (name, oid) in &before.answer.types {
                answer.types.entry(name.clone()).or_insert(*oid);
            }
        }
        let (schema, name) = (&table.schema, &table.name);
        let relation = match &answer.table {
            Some(facts) => definition::of_catalog(schema, name, facts),
            None => {
                self.last_free_oid = self.last_free_oid.wrapping_sub(1);
                Relation {
                    oid: self.last_free_oid,
                    schema: schema.clone(),
                    name: name.clone(),
                    identity: ReplicaIdentity::Default,
                    columns: Vec::new(),
                }
            }
        };
        self.tables.retain(|_, known| known.relation.oid != relation.oid);
        let announced = before.and_then(|before| before.announced);
        self.tables.insert(table, Known { answer, relation: Arc::new(relation), announced });
        news.then_some(&self.published)
    }

    /// The definitions that were given did not get into the log: they must be given again.
    pub fn forget_announced(&mut self) {
        for known in self.tables.values_mut() {
            known.announced = None;
        }
    }

    fn change(&mut self, change: &Change<'_>) -> Result<Outcome, Refusal> {
        let look_up = || Ok(Outcome::LookUp(question(change)));
        let Some(known) = self.tables.get_mut(&change.table) else { return look_up() };
        let settled = known.answer.seen.include(self.xid);
        let was_published = self.published.may_include(&change.table, self.xid);
        let relation = match &known.answer.table {
            Some(facts) if !facts.published && !settled => return look_up(),
            Some(facts) if !facts.published && !was_published => return Ok(Outcome::Said),
            Some(facts)
                if definition::agree(facts, change)
                    && (settled || !definition::is_ambiguous(facts, change)) =>
            {
                Arc::clone(&known.relation)
            }
            _ if !settled => return look_up(),
            None if !known.answer.everything && !was_published => return Err(gone(&change.table)),
            facts => {
                refuse_missing_rows(change)?;
                let (oid, types) = (known.relation.oid, &known.answer.types);
                match definition::of_change(change, oid, facts.as_ref(), types) {
                    Ok(relation) => Arc::new(relation),
                    Err(Unclear::LookUp) => return look_up(),
                    Err(unclear) => return Err(refuse_unclear(change, &unclear)),
                }
            }
        };
        let mut say = || -> Result<(), Broken> {
            announce(&mut self.said, known, &relation)?;
            say(&mut self.said, change, &relation, &mut self.old, &mut self.new)
        };
        say().map_err(|broken| broken.refusal(&change.table))?;
        Ok(Outcome::Said)
    }

    fn truncate(
        &mut self,
        tables: &[TableName],
        cascade: bool,
        restart_identity: bool,
    ) -> Result<Outcome, Refusal> {
        let mut published = Vec::new();
        for table in tables {
            let look_up = || Ok(Outcome::LookUp(Question { table: table.clone(), types: BTreeSet::new() }));
            let Some(known) = self.tables.get(table) else { return look_up() };
            let was_published = self.published.may_include(table, self.xid);
            match &known.answer.table {
                Some(facts) if facts.published && facts.partitioned => {}
                Some(facts) if facts.published => published.push(table),
                _ if !known.answer.seen.include(self.xid) => return look_up(),
                Some(facts) if !was_published || facts.partitioned => {}
                Some(_) => published.push(table),
                None if known.answer.everything || was_published => published.push(table),
                None => return Err(gone(table)),
            }
        }
        let mut relations = Vec::new();
        for table in published {
            let Some(known) = self.tables.get_mut(table) else { continue };
            let oid = known.relation.oid;
            // Any definition serves.
            let announced = known.announced.clone().filter(|announced| announced.oid == oid);
            let relation = announced.unwrap_or_else(|| Arc::clone(&known.relation));
            announce(&mut self.said, known, &relation).map_err(|error| Broken::from(error).refusal(table))?;
            relations.push(oid);
        }
        if !relations.is_empty() {
            let truncate = pgoutput::Truncate { relations, cascade, restart_identity };
            self.said
                .push(&pgoutput::Message::Truncate(truncate))
                .map_err(|error| unwritable("a TRUNCATE", &error))?;
        }
        Ok(Outcome::Said)
    }
}

/// Gives the definition, unless it is the last one that was given.
fn announce(said: &mut Said, known: &mut Known, relation: &Arc<Relation>) -> Result<(), Unwritable> {
    if known.announced.as_ref().is_some_and(|last| Arc::ptr_eq(last, relation) || last == relation) {
        return Ok(());
    }
    let facts = known.answer.table.iter().flat_map(|facts| &facts.columns);
    for column in facts.filter(|column| relation.columns.iter().any(|c| c.type_oid == column.type_oid)) {
        if let Some((schema, name)) = column.user_type.clone() {
            said.push(&pgoutput::Message::Type { oid: column.type_oid, schema, name })?;
        }
    }
    said.push(&pgoutput::Message::Relation(Relation::clone(relation)))?;
    known.announced = Some(Arc::clone(relation));
    Ok(())
}

/// Why a row can't be said.
enum Broken {
    Unwritable(Unwritable),
    Doubtful(String),
}

impl From<Unwritable> for Broken {
    fn from(error: Unwritable) -> Broken {
        Broken::Unwritable(error)
    }
}

impl Broken {
    fn refusal(&self, table: &TableName) -> Refusal {
        match self {
            Broken::Unwritable(error) => unwritable(&format!("a change of table {table}"), error),
            Broken::Doubtful(column) => Refusal {
                message: format!(
                    "column {column} of table {table} is null, or NaN, or an infinity: this version of wal2json prints all of them as null"
                ),
                hint: "install wal2json 2.6 or later on the source, or set up anew with --plugin pgoutput",
            },
        }
    }
}

fn say(
    said: &mut Said,
    change: &Change<'_>,
    relation: &Relation,
    old_row: &mut TupleBuffer,
    new_row: &mut TupleBuffer,
) -> Result<(), Broken> {
    let oid = relation.oid;
    let full = relation.identity == ReplicaIdentity::Full;
    old_row.clear();
    new_row.clear();
    match &change.kind {
        Kind::Insert { new: Some(new) } => {
            fill(new_row, relation, new, Value::Unchanged)?;
            said.push(&pgoutput::Message::Insert { relation: oid, new: new_row.tuple() })?;
        }
        Kind::Update { old, new: Some(new) } => {
            fill(new_row, relation, new, Value::Unchanged)?;
            let moved = old.as_ref().filter(|old| full || !stands_in(old, new));
            if let Some(old) = moved {
                fill(old_row, relation, old, Value::Null)?;
            }
            let old = match moved {
                None => Old::Absent,
                Some(_) if full => Old::Row(old_row.tuple()),
                Some(_) => Old::Key(old_row.tuple()),
            };
            said.push(&pgoutput::Message::Update { relation: oid, old, new: new_row.tuple() })?;
        }
        Kind::Delete { old: Some(old) } => {
            fill(old_row, relation, old, Value::Null)?;
            let old = if full { Old::Row(old_row.tuple()) } else { Old::Key(old_row.tuple()) };
            said.push(&pgoutput::Message::Delete { relation: oid, old })?;
        }
        // Such a change agrees with no definition, and was refused.
        Kind::Insert { new: None } | Kind::Update { new: None, .. } | Kind::Delete { old: None } => {}
    }
    Ok(())
}

/// Whether the key is what it was.
fn stands_in(old: &Row<'_>, new: &Row<'_>) -> bool {
    old.iter().all(|old| new.iter().any(|new| new.name == old.name && new.value == old.value))
}

/// The relation's columns out of a row that has them in the same order, maybe with others between them.
fn fill(
    into: &mut TupleBuffer,
    relation: &Relation,
    row: &Row<'_>,
    missing: Value<'static>,
) -> Result<(), Broken> {
    let mut rest = row.as_slice();
    for column in &relation.columns {
        let found = rest.iter().position(|field| field.name == column.name);
        let Some((field, after)) = found.and_then(|at| rest.get(at..)?.split_first()) else {
            into.push(missing)?;
            continue;
        };
        rest = after;
        into.push(match &field.value {
            FieldValue::Null => Value::Null,
            FieldValue::Unchanged => Value::Unchanged,
            FieldValue::Text(text) => Value::Text(text),
            FieldValue::Doubtful => return Err(Broken::Doubtful(column.name.clone())),
        })?;
    }
    Ok(())
}

fn question(change: &Change<'_>) -> Question {
    let (one, other) = match &change.kind {
        Kind::Insert { new } => (new.as_ref(), None),
        Kind::Update { old, new } => (old.as_ref(), new.as_ref()),
        Kind::Delete { old } => (old.as_ref(), None),
    };
    let fields = one.into_iter().chain(other).flatten();
    let types = fields.filter_map(|field| match field.type_name {
        TypeName::Text(name) => Some(name.to_owned()),
        TypeName::Oid(_) => None,
    });
    Question { table: change.table.clone(), types: types.collect() }
}

fn refuse_missing_rows(change: &Change<'_>) -> Result<(), Refusal> {
    let what = match &change.kind {
        Kind::Insert { new: None } => "an INSERT",
        Kind::Update { new: None, .. } => "an UPDATE",
        Kind::Delete { old: None } => "a DELETE",
        _ => return Ok(()),
    };
    Err(Refusal {
        message: format!(
            "{what} of table {} came without its row: the table had no replica identity",
            change.table
        ),
        hint: "load the table's rows into the target again, and give it a replica identity on the source",
    })
}

fn refuse_unclear(change: &Change<'_>, unclear: &Unclear) -> Refusal {
    let table = &change.table;
    match unclear {
        Unclear::Type(name) => Refusal {
            message: format!(
                "table {table} had a column of type {name}, and neither is known to the source any more"
            ),
            hint: USE_PGOUTPUT,
        },
        Unclear::Key | Unclear::LookUp => Refusal {
            message: format!(
                "an UPDATE of table {table} came without its key, and the table is not now what it was then: the plugin does not tell which columns were the key"
            ),
            hint: USE_PGOUTPUT,
        },
    }
}

fn gone(table: &TableName) -> Refusal {
    Refusal {
        message: format!(
            "table {table} was changed, and is gone from the source: whether it was published can't be told any more"
        ),
        hint: "make an empty table of that name and columns on the source, add it to the publication if its changes are wanted, and run the same command again; or set up anew with --plugin pgoutput",
    }
}

fn unwritable(what: &str, error: &Unwritable) -> Refusal {
    Refusal { message: format!("{what}: {error}"), hint: USE_PGOUTPUT }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
