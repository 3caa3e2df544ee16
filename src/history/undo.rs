//! The SQL that takes transactions back.
//!
//! What a row was before is told by the change itself where the replica identity is the whole row, else by what was last said of
//! that row before, in the log or in a base. So the part in question is read for the keys that it touches, what is before it for the rows of
//! these keys, and then the part again, for the changes. They are taken back in reverse, each from the state that it has left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::archive::{Archive, Said, Span, Whereabouts, read_tables, whereabouts};
use crate::model::{Fault, Position, Relation, Timestamp};
use crate::pgoutput::{Message, Old};
use crate::transform::{self, Cell, Guard, Row, RowChange};

use super::base::rows_before;
use super::known::{Image, Images, Key, Known, known, remember};

/// What is kept in memory of one part of the log.
const BYTES_MAX: u64 = 2 << 30;
/// Of what can't be taken back, so much is named.
const NAMED_MAX: usize = 20;
/// How large a command of the script becomes.
const BLOCK_BYTES: usize = 256 << 10;

/// What it takes to undo a part of the log.
#[derive(Debug, Default)]
pub struct Undoing {
    pub transactions: u64,
    /// Rows that are put back, set back and removed.
    pub deleted: u64,
    pub updated: u64,
    pub inserted: u64,
    /// Updates that have changed nothing.
    pub without_effect: u64,
    /// What can't be undone from the log; the first of them.
    pub refused: Vec<String>,
    pub refused_total: u64,
    pub first_time: Option<Timestamp>,
    pub last_time: Option<Timestamp>,
    /// Of the statements: OIDs of the source, by the names that the statements have.
    tables: BTreeMap<(String, String), u32>,
    /// In the order of the log.
    statements: Vec<Vec<u8>>,
    bytes: u64,
}

impl Undoing {
    pub fn statements(&self) -> usize {
        self.statements.len()
    }

    /// The script, piece by piece, in the source's encoding.
    pub fn script(
        &self,
        encoding: &str,
        comments: &[String],
        guard: &Guard,
        mut write: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        write(transform::script_head(encoding, comments).as_bytes())?;
        let tables = self.tables.iter().map(|((schema, name), oid)| (*oid, schema.as_str(), name.as_str()));
        write(&transform::block_of(&guard.sql(tables)))?;
        let mut block = Vec::new();
        for statement in self.statements.iter().rev() {
            block.extend_from_slice(statement);
            if block.len() >= BLOCK_BYTES {
                write(&transform::block(&std::mem::take(&mut block)))?;
            }
        }
        if !block.is_empty() {
            write(&transform::block(&block))?;
        }
        write(transform::SCRIPT_TAIL.as_bytes())
    }

    fn refuse(&mut self, what: String) {
        self.refused_total += 1;
        if self.refused.len() < NAMED_MAX {
            self.refused.push(what);
        }
    }

    fn take(&mut self, relation: &Relation, change: &RowChange) -> Result<(), Fault> {
        match transform::undo(relation, change) {
            Ok(None) => self.without_effect += 1,
            Ok(Some(sql)) => {
                match change {
                    RowChange::Inserted(_) => self.inserted += 1,
                    RowChange::Updated { .. } => self.updated += 1,
                    RowChange::Deleted(_) => self.deleted += 1,
                }
                self.bytes += sql.len() as u64;
                self.tables.insert((relation.schema.clone(), relation.name.clone()), relation.oid);
                self.statements.push(sql);
            }
            Err(lacking) => {
                let (did, row) = match change {
                    RowChange::Inserted(row) => ("INSERT", row),
                    RowChange::Updated { new, .. } => ("UPDATE", new),
                    RowChange::Deleted(row) => ("DELETE", row),
                };
                let name = transform::named(relation, row);
                self.refuse(format!(
                    "{did} of {}: what was before is not in the archive for {}",
                    String::from_utf8_lossy(&name),
                    lacking.columns.join(", ")
                ));
            }
        }
        self.within_memory()
    }

    fn within_memory(&self) -> Result<(), Fault> {
        if self.bytes <= BYTES_MAX {
            return Ok(());
        }
        Err(Fault::stop(format!("to undo all that takes more than {} GiB of memory", BYTES_MAX >> 30))
            .hint("take a smaller range, the newest part first, or some of the --tables at a time"))
    }
}

/// Works out how to undo what was done in a part of the log to these tables, told by schema and name.
pub fn undo(archive: &Archive, part: Span, is_wanted: &dyn Fn(&str, &str) -> bool) -> Result<Undoing, Fault> {
    let Whereabouts { spans, oids } = whereabouts(archive, part, |_, schema, name| is_wanted(schema, name))?;
    // By whatever name it goes in between.
    let wanted = |relation: &Relation| oids.contains(&relation.oid);
    let mut undoing = Undoing::default();
    let touched = Touched::read(archive, &spans, &wanted)?;
    let mut images = match touched.keys.is_empty() {
        true => Images::new(),
        false => images_before(archive, part.after, &touched, &mut undoing)?,
    };
    drop(touched);
    read_tables(archive, &spans, &wanted, |said| {
        match said {
            Said::Begin { begin, .. } => {
                let time = begin.commit_time;
                undoing.first_time = Some(undoing.first_time.map_or(time, |first| first.min(time)));
                undoing.last_time = Some(undoing.last_time.map_or(time, |last| last.max(time)));
                undoing.transactions += 1;
            }
            Said::Commit(_) => {}
            Said::Defined { before, relation } => {
                tracing::warn!(
                    table = format!("{}.{}", before.schema, before.name),
                    now = format!("{}.{}", relation.schema, relation.name),
                    "the table was altered in what is to be undone; that it was is not taken back"
                );
                forget_altered(&mut images, before, relation);
            }
            Said::Truncated { relations, .. } => {
                for relation in relations {
                    undoing.refuse(format!("TRUNCATE of {}.{}", relation.schema, relation.name));
                    images.retain(|key, _| key.table != relation.oid);
                }
            }
            Said::Changed { relation, message } => {
                let places = key_places(relation);
                let known = known(relation, &places, message, &images)?;
                undoing.take(relation, &known.change)?;
                keep(&mut undoing, &mut images, relation, &known, |_| transform::has_key(relation))?;
            }
        }
        Ok(())
    })?;
    Ok(undoing)
}

fn key_places(relation: &Relation) -> Vec<usize> {
    relation.columns.iter().zip(0..).filter(|(column, _)| column.key).map(|(_, at)| at).collect()
}

/// The rows whose values before a change are to be looked for.
#[derive(Default)]
struct Touched {
    keys: HashSet<Key>,
    /// Definitions of their tables.
    relations: HashMap<u32, Arc<Relation>>,
}

impl Touched {
    fn read(archive: &Archive, spans: &[Span], wanted: &dyn Fn(&Relation) -> bool) -> Result<Touched, Fault> {
        let (mut touched, nothing, mut bytes) = (Touched::default(), Images::new(), 0u64);
        read_tables(archive, spans, wanted, |said| {
            let Said::Changed { relation, message } = said else { return Ok(()) };
            let tells_all = matches!(
                message,
                Message::Insert { .. }
                    | Message::Update { old: Old::Row(_), .. }
                    | Message::Delete { old: Old::Row(_), .. }
            );
            if tells_all {
                return Ok(());
            }
            let places = key_places(relation);
            touched.relations.entry(relation.oid).or_insert_with(|| Arc::clone(relation));
            if let Some(key) = known(relation, &places, message, &nothing)?.old_key {
                bytes += key.bytes().len() as u64;
                touched.keys.insert(key);
            }
            Undoing { bytes, ..Undoing::default() }.within_memory()
        })?;
        Ok(touched)
    }
}

/// How these rows were at a position.
fn images_before(
    archive: &Archive,
    position: Position,
    touched: &Touched,
    undoing: &mut Undoing,
) -> Result<Images, Fault> {
    let mut images = Images::new();
    let covered = rows_before(archive, position, &touched.relations, |relation, row| {
        let key = Key::of(relation, &key_places(relation), &row);
        if touched.keys.contains(&key) {
            undoing.bytes += bytes_of(&row);
            images.insert(key, Image { relation: Arc::clone(relation), row });
        }
        undoing.within_memory()
    })?;
    let start = covered.as_ref().and_then(|covered| covered.start(touched.relations.keys().copied()));
    let before = Span { after: start.map_or_else(|| archive.beginning(), Ok)?, through: position };
    let Whereabouts { spans, .. } =
        whereabouts(archive, before, |oid, _, _| touched.relations.contains_key(&oid))?;
    // By whatever name the table went then, and whatever identified its rows.
    let was_it = |relation: &Relation| touched.relations.contains_key(&relation.oid);
    let mut begun = None;
    read_tables(archive, &spans, &was_it, |said| {
        let is_covered = |table: u32| {
            covered.as_ref().zip(begun.as_ref()).is_some_and(|(covered, begin)| covered.has(table, begin))
        };
        match said {
            Said::Begin { begin, .. } => begun = Some(begin),
            Said::Truncated { relations, .. } => {
                for relation in relations.iter().filter(|relation| !is_covered(relation.oid)) {
                    images.retain(|key, _| key.table != relation.oid);
                }
            }
            Said::Changed { relation, message } if !is_covered(relation.oid) => {
                let Some(asked) = touched.relations.get(&relation.oid) else { return Ok(()) };
                let name = |at: usize| asked.columns.get(at).map(|column| &column.name);
                let place = |name: &String| relation.columns.iter().position(|column| column.name == *name);
                let places: Vec<usize> =
                    key_places(asked).into_iter().filter_map(name).filter_map(place).collect();
                let known = known(relation, &places, message, &images)?;
                keep(undoing, &mut images, relation, &known, |key| touched.keys.contains(key))?;
            }
            Said::Defined { before, relation } => forget_altered(&mut images, before, relation),
            Said::Changed { .. } | Said::Commit(_) => {}
        }
        Ok(())
    })?;
    Ok(images)
}

/// What was said of a table's rows before it was altered holds no more, but where columns were only added: a column may have another's name now,
/// or a value that was never said.
fn forget_altered(images: &mut Images, before: &Relation, relation: &Relation) {
    let only_added = before.identity == relation.identity
        && before.columns.len() <= relation.columns.len()
        && before.columns.iter().zip(&relation.columns).all(|(before, column)| before == column);
    if !only_added {
        images.retain(|key, _| key.table != relation.oid);
    }
}

fn bytes_of(row: &Row) -> u64 {
    let size = |cell: &Cell| match cell {
        Cell::Text(text) => text.len() as u64,
        Cell::Null | Cell::Unknown => 0,
    };
    row.iter().map(size).sum()
}

/// [`remember`]s, with an eye on the memory that it takes.
fn keep(
    undoing: &mut Undoing,
    images: &mut Images,
    relation: &Arc<Relation>,
    known: &Known,
    is_wanted: impl Fn(&Key) -> bool,
) -> Result<(), Fault> {
    let before = images.len();
    remember(images, relation, known, is_wanted);
    if images.len() > before
        && let RowChange::Inserted(row) | RowChange::Updated { new: row, .. } = &known.change
    {
        undoing.bytes += bytes_of(row);
    }
    undoing.within_memory()
}
