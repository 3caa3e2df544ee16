//! From a change to its statement.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::model::{Format, Relation, ReplicaIdentity, Value, quote_ident};
use crate::pgoutput::{Message, Old, Truncate, Tuple};

use super::columns::ColumnSet;
use super::fit::{self, Arriving, Choice, Lacks, Refusal, Renamed};
use super::fold::{Replaces, RowKey};
use super::statement::{self, Emptying, Mapped, Match, Place, Source, Statement};
use super::target::{self, Found, Generated, Identity, TargetColumn, TargetTable};

/// Shapes of one table's changes that are kept: where whole rows are matched, each pattern of nulls is one.
const SHAPES_MAX: usize = 256;

/// What a message asks of the target.
#[derive(Debug)]
pub enum Step<'p> {
    /// No row: transaction ends, definitions, logical messages, tables that are left out.
    Nothing,
    /// Execute this with the parameters that were filled in.
    Execute(&'p Statement),
    /// Look this relation up on the target, [`Planner::bind`] or [`Planner::leave_out`] it, and plan the message again.
    LookUp(u32),
}

/// How a change is to be applied.
#[derive(Debug)]
pub enum Way<'p> {
    /// There is nothing to apply, as with [`Step::Nothing`].
    Nothing,
    /// Look this up first, as with [`Step::LookUp`].
    LookUp(u32),
    /// At its place between all others.
    Alone,
    /// With other changes of this relation's rows, which are told apart by this.
    Fold(u32, &'p RowKey),
}

/// By what rows of a relation are told from each other, as far as an order between their changes goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Apart<'p> {
    /// Look it up first, as with [`Step::LookUp`].
    NotYet,
    /// It is not for this target.
    LeftOut,
    /// Any change may have to do with any other.
    Not,
    /// Changes of rows that differ in these columns, by place, have nothing to do with each other.
    By(&'p [usize]),
}

/// Turns changes into statements, with everything that was ever built kept for the next row.
#[derive(Default)]
pub struct Planner {
    relations: HashMap<u32, Known>,
    types: HashMap<u32, (String, String)>,
    truncate: Option<Statement>,
    statements: u32,
}

/// A relation of the log and what has been found out about it.
struct Known {
    relation: Relation,
    bound: Bound,
    /// What it was called before.
    renamed: Option<Renamed>,
}

enum Bound {
    NotYet,
    LeftOut,
    /// The target has no such table, or another one.
    Refused(Refusal),
    To(Box<Table>),
}

struct Table {
    target: TargetTable,
    columns: Vec<Mapped>,
    lacks: Lacks,
    arriving: Arriving,
    /// Columns that take no value in binary form, by place.
    only_text: Vec<usize>,
    text: Inserts,
    binary: Inserts,
    /// None where the changes of a row must not be made one.
    row_key: Option<RowKey>,
    /// Changes of different rows have nothing to do with each other.
    divisible: bool,
    shapes: HashMap<Shape, Option<Statement>>,
}

/// How rows come in.
struct Inserts {
    insert: Statement,
    copy: Option<Statement>,
}

/// What makes two changes of a table use the same statement.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Shape {
    format: Format,
    update: bool,
    old: OldShape,
    /// Columns of the new row that were not sent.
    unchanged: ColumnSet,
    /// Columns of the old row that are null, where rows are found by all columns.
    nulls: ColumnSet,
    /// An identity column that can't be updated has a new value.
    reinsert: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum OldShape {
    Absent,
    Key,
    Row,
}

/// Parameters of the statement in hand; kept by the caller so that rows need no memory of their own.
#[derive(Default)]
pub struct Parameters<'m> {
    new: Vec<Value<'m>>,
    old: Vec<Value<'m>>,
    values: Vec<Option<&'m [u8]>>,
    format: Format,
}

impl<'m> Parameters<'m> {
    /// The values in the order of the statement's parameters and in its format; `None` is null.
    pub fn values(&self) -> &[Option<&'m [u8]>] {
        &self.values
    }

    /// Of all the values.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Takes note of the format of the rows in hand. The receiver sees to it that all values of a row have the same.
    fn note_format(&mut self) {
        let first = self.new.iter().chain(&self.old).find_map(|value| value.bytes());
        self.format = first.map_or(Format::Text, |(format, _)| format);
    }

    fn fill(&mut self, sources: &[Source]) -> Result<(), Refusal> {
        self.values.clear();
        for source in sources {
            let (Source::New(at) | Source::Old(at)) = *source;
            let row = if matches!(source, Source::New(_)) { &self.new } else { &self.old };
            let Some(value) = row.get(at) else {
                return Err(Refusal::new("a row has fewer columns than its relation".into()));
            };
            self.values.push(match value.bytes() {
                None if *value == Value::Null => None,
                None => {
                    return Err(Refusal::new("a value that is needed was not sent (unchanged TOAST)".into()));
                }
                Some((format, _)) if format != self.format => {
                    return Err(Refusal::new("a row has values in text and in binary form".into()));
                }
                Some((_, bytes)) => Some(bytes),
            });
        }
        Ok(())
    }
}

impl Planner {
    /// Takes note of a table's definition. The same definition again changes nothing.
    pub fn define(&mut self, relation: Relation) {
        match self.relations.entry(relation.oid) {
            Entry::Occupied(known) if known.get().relation == relation => {}
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                let before = std::mem::replace(&mut known.relation, relation);
                known.bound = Bound::NotYet;
                known.renamed = Renamed::between(before, &known.relation).or(known.renamed.take());
            }
            Entry::Vacant(new) => {
                new.insert(Known { relation, bound: Bound::NotYet, renamed: None });
            }
        }
    }

    /// Takes note of a type that is not built in; relations name it by its OID.
    pub fn define_type(&mut self, oid: u32, schema: &str, name: &str) {
        self.types.insert(oid, (schema.to_owned(), name.to_owned()));
    }

    /// Schema and name of a type that is not built in.
    pub fn type_name(&self, oid: u32) -> Option<(&str, &str)> {
        self.types.get(&oid).map(|(schema, name)| (schema.as_str(), name.as_str()))
    }

    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relations.get(&oid).map(|known| &known.relation)
    }

    /// Changes of this relation become [`Step::Nothing`].
    pub fn leave_out(&mut self, oid: u32) {
        if let Some(known) = self.relations.get_mut(&oid) {
            known.bound = Bound::LeftOut;
        }
    }

    /// Says what the target has for the relation. Gives the columns that are left out; what it lacks is a [`Refusal`]
    /// of the first change that needs it.
    pub fn bind(&mut self, oid: u32, found: Found, choice: &Choice) -> Result<Vec<String>, Refusal> {
        let first = self.statements;
        let known = self.relations.get_mut(&oid).ok_or_else(|| undefined(oid))?;
        let relation = &known.relation;
        if let Some(refusal) = found.refused {
            known.bound = Bound::Refused(refusal);
            return Ok(Vec::new());
        }
        let Some(target) = found.table else {
            let refusal = fit::no_table(relation, &found.arriving, &choice.arriving, known.renamed.as_ref());
            known.bound = Bound::Refused(refusal);
            return Ok(Vec::new());
        };
        let (columns, lacks) = fit::fit(relation, &target, &found.arriving, choice);
        let left_out = lacks.left_out.clone();
        let inserts = |id, format| {
            let place = Place { target: &target, columns: &columns, format };
            // A COPY takes only rows that are not there.
            let copy = (choice.arriving == Arriving::New).then(|| statement::copy(id + 2, place)).flatten();
            Inserts { insert: statement::insert(id, place, &choice.arriving), copy }
        };
        let (text, binary) = (inserts(first, Format::Text), inserts(first + 4, Format::Binary));
        let is_exact = choice.exact || matches!(choice.arriving, Arriving::Versioned(_));
        let row_key = row_key(relation, &target, &columns)
            .filter(|key| !is_exact && !key.columns.iter().any(|column| choice.loose.contains(column)))
            .filter(|key| {
                // Keys of other texts may be the same row, which a unique violation would not tell.
                let is_exact = |at: &usize| columns.get(*at).is_some_and(|column| column.equality.exact);
                choice.arriving == Arriving::New || key.columns.iter().all(is_exact)
            })
            .map(|key| RowKey { replaces: choice.arriving.replaces(), ..key });
        let divisible = row_key.as_ref().is_some_and(|key| is_divisible(key, &target, &columns));
        let only_text =
            (0..).zip(&columns).filter(|(_, column)| !column.unwritten && column.binary.is_none());
        let only_text = only_text.map(|(at, _)| at).collect();
        let shapes = HashMap::new();
        let arriving = choice.arriving.clone();
        let table =
            Table { target, columns, lacks, arriving, only_text, text, binary, row_key, divisible, shapes };
        known.bound = Bound::To(Box::new(table));
        self.statements = first + 8;
        Ok(left_out)
    }

    /// Columns of the target that a row can't be inserted without, and that the relation does not have.
    pub fn unsent(&self, oid: u32) -> Vec<&str> {
        let Some(Known { relation, bound: Bound::To(table), .. }) = self.relations.get(&oid) else {
            return Vec::new();
        };
        let sent = |name: &str| relation.columns.iter().any(|column| column.name == name);
        let columns = table.target.columns.iter().filter(|column| column.must_be_given);
        columns.map(|column| column.name.as_str()).filter(|name| !sent(name)).collect()
    }

    /// Forgets what is known of the target, as after a lost connection: names of prepared statements are not reused.
    pub fn unbind(&mut self) {
        for known in self.relations.values_mut() {
            known.bound = Bound::NotYet;
        }
    }

    /// The `COPY` that takes rows like the inserts of this relation, if it is bound and has columns.
    pub fn copy(&self, oid: u32, format: Format) -> Option<&Statement> {
        match &self.relations.get(&oid)?.bound {
            Bound::To(table) => table.inserts(format).copy.as_ref(),
            Bound::NotYet | Bound::LeftOut | Bound::Refused(_) => None,
        }
    }

    /// Whether several connections may change different rows of this relation at once.
    pub fn is_divisible(&self, oid: u32) -> bool {
        let known = self.relations.get(&oid);
        matches!(known, Some(Known { bound: Bound::To(table), .. }) if table.divisible)
    }

    /// How rows of this relation are told apart.
    pub fn apart(&self, oid: u32) -> Apart<'_> {
        match self.relations.get(&oid).map(|known| &known.bound) {
            Some(Bound::NotYet) => Apart::NotYet,
            Some(Bound::LeftOut) => Apart::LeftOut,
            Some(Bound::To(table)) if table.divisible => match &table.row_key {
                Some(key) if !key.columns.is_empty() => Apart::By(&key.columns),
                _ => Apart::Not,
            },
            Some(Bound::To(_) | Bound::Refused(_)) | None => Apart::Not,
        }
    }

    /// How this message goes to the target.
    pub fn way(&self, message: &Message<'_>) -> Result<Way<'_>, Refusal> {
        let (Message::Insert { relation: oid, .. }
        | Message::Update { relation: oid, .. }
        | Message::Delete { relation: oid, .. }) = *message
        else {
            return Ok(if matches!(message, Message::Truncate(_)) { Way::Alone } else { Way::Nothing });
        };
        let known = self.relations.get(&oid).ok_or_else(|| undefined(oid))?;
        let table = match &known.bound {
            Bound::NotYet => return Ok(Way::LookUp(oid)),
            Bound::LeftOut => return Ok(Way::Nothing),
            Bound::Refused(refusal) => return Err(refusal.clone()),
            Bound::To(table) => table,
        };
        let by_key = matches!(message, Message::Delete { old: Old::Key(_), .. });
        match if by_key { &table.lacks.for_keys } else { &table.lacks.for_rows } {
            Some(refusal) => Err(refusal.clone()),
            None => match table.untakable(message) {
                Some(at) => Err(fit::no_binary(&known.relation, at, &table.columns)),
                None => Ok(table.row_key.as_ref().map_or(Way::Alone, |key| Way::Fold(oid, key))),
            },
        }
    }

    /// Plans one message; `parameters` are those of the statement that comes out.
    pub fn plan<'m>(
        &mut self,
        message: &Message<'m>,
        parameters: &mut Parameters<'m>,
    ) -> Result<Step<'_>, Refusal> {
        let oid = match message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => *relation,
            Message::Truncate(truncate) => {
                parameters.values.clear();
                return self.plan_truncate(truncate, false);
            }
            _ => return Ok(Step::Nothing),
        };
        match self.way(message)? {
            Way::LookUp(oid) => return Ok(Step::LookUp(oid)),
            Way::Nothing => return Ok(Step::Nothing),
            Way::Alone | Way::Fold(..) => {}
        }
        let Some(known) = self.relations.get_mut(&oid) else { return Ok(Step::Nothing) };
        let Bound::To(table) = &mut known.bound else { return Ok(Step::Nothing) };
        let statement = match *message {
            Message::Insert { new, .. } => {
                load(&mut parameters.new, new, &known.relation)?;
                parameters.old.clear();
                parameters.note_format();
                Some(&table.inserts(parameters.format).insert)
            }
            Message::Update { old, new, .. } => {
                load(&mut parameters.new, new, &known.relation)?;
                table.change(&known.relation, true, old, parameters, &mut self.statements)?
            }
            Message::Delete { old, .. } => {
                parameters.new.clear();
                table.change(&known.relation, false, old, parameters, &mut self.statements)?
            }
            _ => None,
        };
        let Some(statement) = statement else { return Ok(Step::Nothing) };
        parameters.fill(&statement.sources).map_err(|refusal| Refusal {
            message: format!("table {}.{}: {}", known.relation.schema, known.relation.name, refusal.message),
            ..refusal
        })?;
        Ok(Step::Execute(statement))
    }

    /// Plans what is left of a TRUNCATE that names other tables too, which are not emptied here. They may refer to these.
    pub fn plan_rest<'m>(
        &mut self,
        truncate: &Truncate,
        parameters: &mut Parameters<'m>,
    ) -> Result<Step<'_>, Refusal> {
        parameters.values.clear();
        self.plan_truncate(truncate, true)
    }

    /// Plans a TRUNCATE that is none.
    pub fn plan_emptying(&mut self, oid: u32, emptying: &Emptying) -> Result<Step<'_>, Refusal> {
        let known = self.relations.get(&oid).ok_or_else(|| undefined(oid))?;
        let table = match &known.bound {
            Bound::NotYet => return Ok(Step::LookUp(oid)),
            Bound::LeftOut => return Ok(Step::Nothing),
            Bound::Refused(refusal) => return Err(refusal.clone()),
            Bound::To(table) => table,
        };
        let statement = statement::empty(self.statements, &table.target, emptying);
        self.statements += 1;
        Ok(Step::Execute(self.truncate.insert(statement)))
    }

    /// Names of the target's tables that refer to those of a TRUNCATE, and that it does not empty here.
    pub fn referring(&self, truncate: &Truncate) -> Vec<&str> {
        let bound = truncate.relations.iter().filter_map(|oid| match &self.relations.get(oid)?.bound {
            Bound::To(table) => Some(&table.target),
            Bound::NotYet | Bound::LeftOut | Bound::Refused(_) => None,
        });
        let targets: Vec<_> = bound.collect();
        target::referring(&targets).into_iter().map(|other| other.name.as_str()).collect()
    }

    /// `is_part`: of a TRUNCATE of more tables.
    fn plan_truncate(&mut self, truncate: &Truncate, is_part: bool) -> Result<Step<'_>, Refusal> {
        let (mut targets, mut is_part) = (Vec::new(), is_part);
        for &oid in &truncate.relations {
            match &self.relations.get(&oid).ok_or_else(|| undefined(oid))?.bound {
                Bound::NotYet => return Ok(Step::LookUp(oid)),
                Bound::LeftOut => is_part = true,
                Bound::Refused(refusal) => return Err(refusal.clone()),
                Bound::To(table) => targets.push(&table.target),
            }
        }
        if targets.is_empty() {
            return Ok(Step::Nothing);
        }
        // Where the source has truncated no other table, whatever refers to these stands in the way as it would there.
        let (id, restart_identity) = (self.statements, truncate.restart_identity);
        let statement = match is_part && !target::referring(&targets).is_empty() {
            true => statement::delete_all(id, &targets, restart_identity),
            false => statement::truncate(id, targets, restart_identity),
        };
        self.statements += 1;
        Ok(Step::Execute(self.truncate.insert(statement)))
    }
}

fn undefined(oid: u32) -> Refusal {
    Refusal::new(format!("a change names relation {oid}, which the log does not define before it"))
}

fn load<'m>(values: &mut Vec<Value<'m>>, tuple: Tuple<'m>, relation: &Relation) -> Result<(), Refusal> {
    values.clear();
    values.extend(tuple.values());
    if values.len() == relation.columns.len() {
        return Ok(());
    }
    let (row, columns) = (values.len(), relation.columns.len());
    let table = format!("{}.{}", relation.schema, relation.name);
    Err(Refusal::new(format!("a row of {table} has {row} columns where its definition has {columns}")))
}

impl Table {
    fn inserts(&self, format: Format) -> &Inserts {
        match format {
            Format::Text => &self.text,
            Format::Binary => &self.binary,
        }
    }

    /// The first column for which the change has a value in binary form that it does not take.
    fn untakable(&self, message: &Message<'_>) -> Option<usize> {
        if self.only_text.is_empty() {
            return None;
        }
        let (old, new) = match *message {
            Message::Insert { new, .. } => (Old::Absent, Some(new)),
            Message::Update { old, new, .. } => (old, Some(new)),
            Message::Delete { old, .. } => (old, None),
            _ => return None,
        };
        let old = match old {
            Old::Absent => None,
            Old::Key(row) | Old::Row(row) => Some(row),
        };
        let is_binary =
            |row: &Tuple<'_>| matches!(row.values().find_map(Value::bytes), Some((Format::Binary, _)));
        let is_untakable = |(at, value): &(usize, Value<'_>)| {
            matches!(value, Value::Binary(_)) && self.only_text.contains(at)
        };
        let rows = old.into_iter().chain(new).filter(is_binary);
        rows.filter_map(|row| (0..).zip(row.values()).find(is_untakable)).map(|(at, _)| at).next()
    }

    /// The statement of an update or delete; none where there is nothing to do.
    fn change<'m>(
        &mut self,
        relation: &Relation,
        update: bool,
        old: Old<'m>,
        parameters: &mut Parameters<'m>,
        statements: &mut u32,
    ) -> Result<Option<&Statement>, Refusal> {
        let old_shape = match old {
            Old::Absent => {
                parameters.old.clear();
                OldShape::Absent
            }
            Old::Key(tuple) => {
                load(&mut parameters.old, tuple, relation)?;
                OldShape::Key
            }
            Old::Row(tuple) => {
                load(&mut parameters.old, tuple, relation)?;
                OldShape::Row
            }
        };
        parameters.note_format();
        let shape = self.shape(update, old_shape, parameters);
        if self.shapes.len() >= SHAPES_MAX && !self.shapes.contains_key(&shape) {
            self.shapes.clear();
        }
        match self.shapes.entry(shape) {
            Entry::Occupied(built) => Ok(built.into_mut().as_ref()),
            Entry::Vacant(missing) => {
                let id = *statements;
                *statements += 2; // the form for many rows has its own
                let place =
                    Place { target: &self.target, columns: &self.columns, format: missing.key().format };
                let built = build(id, relation, place, &self.arriving, missing.key())?;
                Ok(missing.insert(built).as_ref())
            }
        }
    }

    fn shape(&self, update: bool, old: OldShape, parameters: &Parameters<'_>) -> Shape {
        let mut shape = Shape {
            format: parameters.format,
            update,
            old,
            unchanged: ColumnSet::default(),
            nulls: ColumnSet::default(),
            reinsert: false,
        };
        for (at, value) in parameters.new.iter().enumerate() {
            if *value == Value::Unchanged {
                shape.unchanged.insert(at);
            }
        }
        if old == OldShape::Row && self.found_by_key(old).is_none() {
            for (at, value) in parameters.old.iter().enumerate() {
                if *value == Value::Null {
                    shape.nulls.insert(at);
                }
            }
        }
        if update && old != OldShape::Absent {
            shape.reinsert = self.columns.iter().enumerate().any(|(at, column)| {
                let known = old == OldShape::Row || column.key;
                let (before, after) = (parameters.old.get(at), parameters.new.get(at));
                column.identity == Identity::Always
                    && known
                    && before != after
                    && after != Some(&Value::Unchanged)
            });
        }
        shape
    }

    fn found_by_key(&self, old: OldShape) -> Option<Vec<(usize, Source)>> {
        key_of(&self.target, &self.columns, old)
    }
}

/// The columns that identify the row: the replica identity, or the target's primary key where whole rows are sent.
fn key_of(target: &TargetTable, columns: &[Mapped], old: OldShape) -> Option<Vec<(usize, Source)>> {
    match old {
        OldShape::Absent | OldShape::Key => {
            let source = if old == OldShape::Key { Source::Old } else { Source::New };
            let keys = columns.iter().enumerate().filter(|(_, column)| column.key);
            Some(keys.map(|(at, _)| (at, source(at))).collect())
        }
        OldShape::Row if target.primary_key.is_empty() => None,
        OldShape::Row => target
            .primary_key
            .iter()
            .map(|name| {
                let quoted = quote_ident(name);
                // What is not written is the target's own, and does not find the source's row.
                let at = columns.iter().position(|column| column.quoted == quoted && !column.unwritten)?;
                Some((at, Source::Old(at)))
            })
            .collect(),
    }
}

/// None where something on the target looks at each change (triggers that fire for replicated rows).
fn row_key(relation: &Relation, target: &TargetTable, columns: &[Mapped]) -> Option<RowKey> {
    if target.fires {
        return None;
    }
    let old = if relation.identity == ReplicaIdentity::Full { OldShape::Row } else { OldShape::Absent };
    let mut key: Vec<usize> = key_of(target, columns, old).into_iter().flatten().map(|(at, _)| at).collect();
    key.sort_unstable();
    let is_sent = |column: &TargetColumn| {
        let quoted = quote_ident(&column.name);
        columns.iter().any(|sent| !sent.unwritten && sent.quoted == quoted)
    };
    let mut stored = target.columns.iter().filter(|column| column.generated == Generated::No);
    Some(RowKey { columns: key, is_whole: stored.all(is_sent), replaces: Replaces::None })
}

/// Rows are independent where nothing but the key keeps them apart, and two keys that differ as text are never equal.
fn is_divisible(key: &RowKey, target: &TargetTable, columns: &[Mapped]) -> bool {
    let key: Option<Vec<&Mapped>> = key.columns.iter().map(|at| columns.get(*at)).collect();
    let Some(key) = key.filter(|key| key.iter().all(|column| column.equality.exact)) else { return false };
    let holds_key = |names: &Vec<String>| {
        let names: Vec<String> = names.iter().map(|name| quote_ident(name)).collect();
        !key.is_empty() && key.iter().all(|column| names.contains(&column.quoted))
    };
    target.apart.iter().all(|index| index.as_ref().is_some_and(holds_key))
}

fn build(
    id: u32,
    relation: &Relation,
    place: Place<'_>,
    arriving: &Arriving,
    shape: &Shape,
) -> Result<Option<Statement>, Refusal> {
    let Place { target, columns, .. } = place;
    let found_by = match key_of(target, columns, shape.old) {
        Some(key) if key.is_empty() => {
            let table = format!("{}.{}", relation.schema, relation.name);
            return Err(Refusal::new(format!("an UPDATE or DELETE of {table} names no key columns"))
                .hint("give the table a replica identity on the source"));
        }
        Some(key) => Match::Key(key),
        None => {
            let compared = || columns.iter().enumerate().filter(|(_, column)| !column.unwritten);
            Match::Row {
                columns: compared().map(|(at, _)| at).collect(),
                nulls: compared().map(|(at, _)| at).filter(|&at| shape.nulls.contains(at)).collect(),
            }
        }
    };
    if !shape.update {
        return Ok(Some(statement::delete(id, place, &found_by, arriving)));
    }
    if let Arriving::Versioned(versioned) = arriving {
        let ends = shape.unchanged.contains(versioned.position);
        return Ok(Some(match ends {
            true => statement::end_version(id, place, *versioned),
            false => statement::version(id, place, *versioned, &shape.unchanged),
        }));
    }
    let sent = |at: usize, column: &Mapped| !column.unwritten && !shape.unchanged.contains(at);
    let settable: Vec<usize> = (0..).zip(columns).filter(|(at, c)| sent(*at, c)).map(|(at, _)| at).collect();
    if shape.reinsert {
        return Ok(Some(statement::reinsert(id, place, &settable, &found_by)));
    }
    let always = |at: &usize| columns.get(*at).is_some_and(|column| column.identity == Identity::Always);
    let key = |at: &usize| columns.get(*at).is_some_and(|column| column.key);
    // Where the key did not change it is what finds the row, and need not be set.
    let moved = shape.old != OldShape::Absent;
    let mut set: Vec<usize> =
        settable.iter().copied().filter(|at| !always(at) && (moved || !key(at))).collect();
    // Without the old row nobody can tell whether such a column changed, so it must be as sent.
    let blind = shape.old != OldShape::Row;
    let fixed: Vec<usize> = settable.iter().copied().filter(|at| blind && always(at) && !key(at)).collect();
    if set.is_empty() {
        set.extend(settable.iter().copied().find(|at| !always(at)));
    }
    if set.is_empty() {
        return Ok(None);
    }
    Ok(Some(statement::update(id, place, &set, &fixed, &found_by, arriving)))
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fit_tests.rs"]
mod fit_tests;
