//! All versions of a row.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::archive::{Archive, Said, Span, read_tables, whereabouts};
use crate::model::{Fault, Position, Relation, Timestamp, Xid};
use crate::pgoutput::{Begin, Message, Old};
use crate::transform::{Cell, RowChange, has_key};

use super::known::{Images, Key, Known, known, remember};
use super::trail::{Followed, Moment, Move};

/// With more rows that got another key, rows are not followed from one to the next.
const MOVES_MAX: usize = 1_000_000;

/// Which row is meant. Values are as PostgreSQL prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowKey {
    /// Of the one column of the key.
    Value(String),
    /// By the names of the columns.
    Columns(Vec<(String, String)>),
}

/// What happened to the row, or to its table.
#[derive(Clone, Debug)]
pub struct Version {
    /// The end of the transaction's commit.
    pub lsn: Position,
    pub time: Timestamp,
    pub xid: Xid,
    pub event: Event,
}

#[derive(Clone, Debug)]
pub enum Event {
    Row {
        relation: Arc<Relation>,
        change: RowChange,
        /// The names of the columns of the key.
        key: Vec<String>,
        /// It has another key than before.
        moved: bool,
    },
    Truncated {
        table: String,
    },
    /// The table's definition is another: before, and now.
    Defined {
        before: Relation,
        relation: Relation,
    },
}

/// Gives all versions of a row in a part of the log, oldest first, under whatever keys it went, and its table, told by schema and name, under
/// whatever name. `false` where rows have moved from key to key too often to be followed.
pub fn versions(
    archive: &Archive,
    part: Span,
    is_named: &dyn Fn(&str, &str) -> bool,
    key: &RowKey,
    mut each: impl FnMut(Version) -> Result<(), Fault>,
) -> Result<bool, Fault> {
    let places = whereabouts(archive, part, |_, schema, name| is_named(schema, name))?;
    let is_wanted = |relation: &Relation| places.oids.contains(&relation.oid);
    let asked = Asked::new(key);
    let (moves, all) = moves(archive, &places.spans, &is_wanted, &asked)?;
    let followed = Followed::new(asked.targets.borrow().iter().cloned(), &moves);

    let mut images = Images::new();
    let (mut at, mut begun, mut has_any) = (0, None, false);
    // What the transaction in hand says; where it ends is told at its end.
    let mut pending: Vec<Event> = Vec::new();
    read_tables(archive, &places.spans, &is_wanted, |said| {
        match said {
            Said::Begin { begin, .. } => begun = Some(begin),
            Said::Commit(lsn) => {
                for event in pending.drain(..) {
                    let Some(Begin { commit_time: time, xid, .. }) = begun else { break };
                    each(Version { lsn, time, xid, event })?;
                }
            }
            // What comes before the first version says nothing of the row.
            Said::Defined { before, relation } if has_any => {
                pending.push(Event::Defined { before: before.clone(), relation: relation.clone() });
            }
            Said::Truncated { relations, .. } if has_any => {
                for relation in relations {
                    images.retain(|key, _| key.table != relation.oid);
                    pending
                        .push(Event::Truncated { table: format!("{}.{}", relation.schema, relation.name) });
                }
            }
            Said::Defined { .. } | Said::Truncated { .. } => {}
            Said::Changed { relation, message } => {
                let columns = asked.columns(relation)?;
                let known = known(relation, &columns.places, message, &images)?;
                let is_it = |key: &Option<Key>| key.as_ref().is_some_and(|key| followed.has(key, at));
                if is_it(&known.old_key) || is_it(&known.new_key) {
                    remember(&mut images, relation, &known, |key| followed.has(key, at));
                    has_any = true;
                    let moved = is_moved(&known);
                    let (relation, change) = (Arc::clone(relation), known.change);
                    let key = columns.names.clone();
                    pending.push(Event::Row { relation, change, key, moved });
                }
                at += 1;
            }
        }
        Ok(())
    })?;
    Ok(all)
}

fn is_moved(known: &Known) -> bool {
    known.old_key.is_some() && known.new_key.is_some() && known.old_key != known.new_key
}

/// Rows that get another key; and whether that was all of them.
fn moves(
    archive: &Archive,
    spans: &[Span],
    is_wanted: &dyn Fn(&Relation) -> bool,
    asked: &Asked<'_>,
) -> Result<(Vec<Move>, bool), Fault> {
    let (mut moves, mut at, nothing): (Vec<Move>, Moment, Images) = Default::default();
    let mut all = true;
    read_tables(archive, spans, is_wanted, |said| {
        let Said::Changed { relation, message } = said else { return Ok(()) };
        let columns = asked.columns(relation)?;
        if let Message::Update { old: Old::Key(_) | Old::Row(_), .. } = message {
            let known = known(relation, &columns.places, message, &nothing)?;
            if is_moved(&known)
                && let (Some(old), Some(new)) = (known.old_key, known.new_key)
            {
                all &= moves.len() < MOVES_MAX;
                moves.push(Move { at, old, new });
            }
        }
        if !all {
            moves.clear();
        }
        at += 1;
        Ok(())
    })?;
    Ok((if all { moves } else { Vec::new() }, all))
}

/// The key that was asked for, in the tables in question.
struct Asked<'a> {
    key: &'a RowKey,
    targets: RefCell<Vec<Key>>,
    /// Of the definition that was asked for last.
    last: RefCell<Option<(Arc<Relation>, Rc<KeyColumns>)>>,
}

/// Of the key, in a definition of the table.
struct KeyColumns {
    names: Vec<String>,
    places: Vec<usize>,
}

impl<'a> Asked<'a> {
    fn new(key: &'a RowKey) -> Asked<'a> {
        Asked { key, targets: RefCell::default(), last: RefCell::default() }
    }

    fn columns(&self, relation: &Arc<Relation>) -> Result<Rc<KeyColumns>, Fault> {
        if let Some((last, columns)) = &*self.last.borrow()
            && Arc::ptr_eq(last, relation)
        {
            return Ok(Rc::clone(columns));
        }
        let columns = Rc::new(self.look(relation)?);
        self.last.replace(Some((Arc::clone(relation), Rc::clone(&columns))));
        Ok(columns)
    }

    /// Looks for the key's columns, and notes the key.
    fn look(&self, relation: &Relation) -> Result<KeyColumns, Fault> {
        let own = || relation.columns.iter().filter(|column| column.key).map(|column| column.name.clone());
        let own: Vec<String> = if has_key(relation) { own().collect() } else { Vec::new() };
        let (names, values): (Vec<String>, Vec<&String>) = match (self.key, own.as_slice()) {
            (RowKey::Value(value), [one]) => (vec![one.clone()], vec![value]),
            (RowKey::Value(_), _) => return Err(wrong(relation, &own)),
            (RowKey::Columns(columns), own) => {
                let names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
                let is_key = own.len() == names.len() && own.iter().all(|name| names.contains(name));
                if !own.is_empty() && !is_key {
                    return Err(wrong(relation, own));
                }
                (names, columns.iter().map(|(_, value)| value).collect())
            }
        };
        let place = |name: &String| relation.columns.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = names.iter().map(place).collect();
        let places = places.ok_or_else(|| wrong(relation, &own))?;
        let mut targets = self.targets.borrow_mut();
        let row = relation.columns.iter().map(|column| {
            let value = names.iter().zip(&values).find(|(name, _)| **name == column.name);
            value.map_or(Cell::Unknown, |(_, value)| Cell::Text(value.as_bytes().into()))
        });
        let key = Key::of(relation, &places, &row.collect());
        if !targets.contains(&key) {
            targets.push(key);
        }
        Ok(KeyColumns { names, places })
    }
}

fn wrong(relation: &Relation, own: &[String]) -> Fault {
    let table = format!("{}.{}", relation.schema, relation.name);
    let names: Vec<_> = relation.columns.iter().map(|column| column.name.as_str()).collect();
    if own.is_empty() {
        return Fault::usage(format!("whole rows of {table} are sent, so any of its columns may tell a row"))
            .hint(format!("name them, as in column=value: {}", names.join(", ")));
    }
    let each: Vec<_> = own.iter().map(|name| format!("{name}=…")).collect();
    Fault::usage(format!("rows of {table} are told by {}", own.join(", ")))
        .hint(format!("give {}", each.join(" ")))
}
