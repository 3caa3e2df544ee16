//! The text of a file of rules, checked as a whole: what each says, and whether two of them say something of the same thing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use regex::Regex;
use toml::de::DeTable;

use super::expression::Expression;
use super::kind::Kind;
use super::metadata::Metadata;
use super::read::{Lined, Reader, Section};
use crate::model::Fault;
use crate::pg::pattern::Pattern;

/// Where the key of hashes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    File(PathBuf),
    /// The name of a variable of the environment.
    Environment(String),
}

/// What is said of the tables that a pattern means.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) line: usize,
    pub(super) tables: Pattern,
    pub(super) schema: Option<Lined<String>>,
    pub(super) name: Option<Lined<String>>,
    /// Rows of several tables go into this one.
    pub(super) into: Option<Lined<(String, String)>>,
    pub(super) keep: Option<Lined<Vec<String>>>,
    pub(super) drop: Option<Lined<Vec<String>>>,
    pub(super) key: Option<Lined<Vec<String>>>,
    pub(super) filter: Option<Lined<Arc<Expression>>>,
    pub(super) only_inserts: bool,
    pub(super) truncate: Option<Lined<Truncating>>,
    pub(super) mode: Option<Lined<Mode>>,
    pub(super) conflict: Option<Lined<Conflict>>,
    /// The column that decides it.
    pub(super) by: Option<Lined<String>>,
    /// Names of sources, the one that wins over all others first.
    pub(super) order: Option<Lined<Vec<String>>>,
    pub(super) columns: Vec<ColumnRule>,
}

/// What becomes of a TRUNCATE of a table whose rows go into one with those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Truncating {
    #[default]
    Refuse,
    Ignore,
    /// A DELETE of the rows that have its constants.
    Delete,
}

/// What becomes of rows that are changed or deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// The same as on the source.
    #[default]
    Same,
    /// A deleted row stays, and is marked.
    SoftDelete,
    /// Each version of a row is a row.
    History,
}

impl Mode {
    fn parse(text: &str) -> Option<Mode> {
        match text {
            "soft-delete" => Some(Mode::SoftDelete),
            "history" => Some(Mode::History),
            _ => None,
        }
    }

    /// What the table must have for it.
    pub(super) fn needs(self) -> &'static [(Metadata, &'static str)] {
        match self {
            Mode::Same => &[],
            Mode::SoftDelete => &[(Metadata::DeletedAt, "deleted-at")],
            Mode::History => &[
                (Metadata::Position, "lsn"),
                (Metadata::ValidFrom, "valid-from"),
                (Metadata::ValidTo, "valid-to"),
            ],
        }
    }
}

/// Whose row it is where those of several sources have one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// That of the source that was there first.
    First,
    /// That which was committed last.
    Last,
    /// That of the source that comes first in a list.
    Order,
}

impl Conflict {
    fn parse(text: &str) -> Option<Conflict> {
        match text {
            "first" => Some(Conflict::First),
            "last" => Some(Conflict::Last),
            "order" => Some(Conflict::Order),
            _ => None,
        }
    }

    /// What the table must have for it.
    pub(super) fn needs(self) -> (Metadata, &'static str) {
        match self {
            Conflict::Last => (Metadata::CommitTime, "commit-time"),
            Conflict::First | Conflict::Order => (Metadata::Source, "source"),
        }
    }
}

/// What is said of a column.
#[derive(Clone, Debug)]
pub(super) struct ColumnRule {
    pub(super) line: usize,
    /// What it is called on the source, or, where it is new, on the target.
    pub(super) column: String,
    pub(super) name: Option<String>,
    pub(super) work: Option<Work>,
    pub(super) cast: Option<Kind>,
    /// The source need not have it.
    pub(super) optional: bool,
}

/// What is done with its values.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Hash,
    Fixed(String),
    Null,
    Partial {
        first: usize,
        last: usize,
        with: char,
    },
    Regex {
        regex: Regex,
        with: String,
    },
    Expression(Arc<Expression>),
    /// A new column.
    Constant(String),
    /// A new column that tells of the change.
    Metadata(Metadata),
}

impl ColumnRule {
    fn is_new(&self) -> bool {
        matches!(self.work, Some(Work::Constant(_)))
    }

    /// It makes a column that the source need not have.
    pub(super) fn makes(&self) -> bool {
        matches!(self.work, Some(Work::Constant(_) | Work::Expression(_) | Work::Metadata(_)))
    }

    fn target(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.column)
    }
}

pub(super) struct Parsed {
    pub(super) rules: Vec<Rule>,
    pub(super) hash: Option<KeyPlace>,
}

/// Names are cut at this length by PostgreSQL.
const NAME_BYTES_MAX: usize = 63;
/// Our own schema, on any target.
const OWN_SCHEMA: &str = "pgsluice";

pub(super) fn parse(text: &str) -> Result<Parsed, Fault> {
    let mut reader = Reader::new(text);
    let document = reader.parse(text);
    let mut section = Section::new(&mut reader, document.get_ref(), "a file of rules");
    let hash = section.table("hash");
    let hash = hash.and_then(|hash| key_place(section.reader, &hash));
    let tables = section.tables("table");
    let mut rules: Vec<Rule> = tables
        .into_iter()
        .filter_map(|(line, name, table)| rule(section.reader, line, name, table))
        .collect();
    section.end();
    rules.sort_by_key(|rule| rule.line);
    if rules.is_empty() && reader.is_right() {
        reader.wrong(1, "there are no rules: each is a section [table.\"pattern\"]");
    }
    if hash.is_none() {
        for rule in rules.iter().flat_map(|rule| &rule.columns) {
            if matches!(rule.work, Some(Work::Hash)) {
                reader.wrong(rule.line, "a hash wants a key: [hash] with key-file or key-env");
            }
        }
    }
    for (at, one) in rules.iter().enumerate() {
        for other in rules.iter().skip(at + 1) {
            refuse_same_rows(&mut reader, one, other);
        }
        for other in rules.iter().skip(at + 1).filter(|other| other.tables.overlaps(&one.tables)) {
            clashes(&mut reader, one, other);
        }
    }
    reader.end()?;
    Ok(Parsed { rules, hash })
}

fn key_place(reader: &mut Reader, hash: &Lined<&DeTable<'_>>) -> Option<KeyPlace> {
    let mut section = Section::new(reader, hash.it, "[hash]");
    let (file, variable) = (section.text("key-file"), section.text("key-env"));
    let place = match (file, variable) {
        (Some(file), None) if !file.it.is_empty() => Some(KeyPlace::File(file.it.into())),
        (None, Some(variable)) if !variable.it.is_empty() && !variable.it.contains(['=', '\0']) => {
            Some(KeyPlace::Environment(variable.it))
        }
        _ => {
            section
                .reader
                .wrong(hash.line, "[hash] wants either key-file, a path, or key-env, a variable's name");
            None
        }
    };
    section.end();
    place
}

fn rule(reader: &mut Reader, line: usize, name: &str, table: &DeTable<'_>) -> Option<Rule> {
    let tables = name.parse::<Pattern>();
    if let Err(error) = &tables {
        reader.wrong(line, error.to_string());
    }
    let mut section = Section::new(reader, table, format!("[table.\"{name}\"]"));
    let schema = section.text("schema").filter(|schema| is_name(section.reader, schema));
    let new_name = section.text("name").filter(|name| is_name(section.reader, name));
    let into = section.text("into").and_then(|into| into_table(section.reader, into));
    let (keep, drop, key) = (section.texts("keep"), section.texts("drop"), section.texts("key"));
    let filter = section.text("where").and_then(|text| expression(section.reader, &text));
    let only_inserts = section.flag("only-inserts").is_some_and(|flag| flag.it);
    let truncate = section.text("truncate").and_then(|text| truncating(section.reader, &text));
    let mode = section.text("mode").and_then(|text| {
        let mode = Mode::parse(&text.it);
        if mode.is_none() {
            section.reader.wrong(text.line, "mode is soft-delete or history");
        }
        mode.map(|it| Lined { line: text.line, it })
    });
    let conflict = section.text("conflict").and_then(|text| {
        let conflict = Conflict::parse(&text.it);
        if conflict.is_none() {
            section.reader.wrong(text.line, "conflict is first, last or order");
        }
        conflict.map(|it| Lined { line: text.line, it })
    });
    let (by, order) = (section.text("by"), section.texts("order"));
    let columns = section.tables("column");
    let mut columns: Vec<ColumnRule> = columns
        .into_iter()
        .filter_map(|(line, name, table)| column(section.reader, line, name, table))
        .collect();
    section.end();
    columns.sort_by_key(|column| column.line);
    let rule = Rule {
        line,
        tables: tables.ok()?,
        schema,
        name: new_name,
        into,
        keep,
        drop,
        key,
        filter,
        only_inserts,
        truncate,
        mode,
        conflict,
        by,
        order,
        columns,
    };
    inside(reader, &rule, table.is_empty());
    Some(rule)
}

/// What of one rule contradicts itself.
fn inside(reader: &mut Reader, rule: &Rule, is_empty: bool) {
    if is_empty {
        reader.wrong(rule.line, "the rule says nothing");
    }
    for schema in rule.schema.iter().filter(|schema| schema.it == OWN_SCHEMA) {
        reader.wrong(schema.line, format!("schema {OWN_SCHEMA} is our own"));
    }
    for name in rule.name.iter().filter(|_| !rule.tables.names_one_table()) {
        let what = "name would make one table of several: say that with into, or write a rule for each";
        reader.wrong(name.line, what);
    }
    for other in rule.into.iter().filter(|_| rule.schema.is_some() || rule.name.is_some()) {
        reader.wrong(other.line, "into has schema and name of the target: leave out schema and name");
    }
    if let (Some(_), Some(drop)) = (&rule.keep, &rule.drop) {
        reader.wrong(drop.line, "keep and drop say the same thing in two ways: leave out one");
    }
    match (&rule.conflict, &rule.order) {
        (Some(Lined { line, it: Conflict::Order }), None) => {
            reader.wrong(*line, "say order = [\"…\"]: the names of the sources, that which wins first");
        }
        (Some(Lined { it: Conflict::Order, .. }), Some(_)) | (_, None) => {}
        (_, Some(order)) => reader.wrong(order.line, "order is for conflict = \"order\""),
    }
    if let (None, Some(by)) = (&rule.conflict, &rule.by) {
        reader.wrong(by.line, "by is for conflict");
    }
    if let (Some(Lined { it: Mode::History, .. }), Some(conflict)) = (&rule.mode, &rule.conflict) {
        reader.wrong(conflict.line, "a history has no conflicts: give each source a table of its own");
    }
    for list in [&rule.keep, &rule.drop, &rule.key, &rule.order].into_iter().flatten() {
        let mut names = list.it.clone();
        names.sort();
        if list.it.is_empty() {
            reader.wrong(list.line, "the list is empty");
        }
        if let Some([twice, _]) = names.array_windows().find(|[one, other]| one == other) {
            reader.wrong(list.line, format!("{twice} stands twice in the list"));
        }
    }
    match &rule.truncate {
        Some(Lined { line, it: Truncating::Delete }) if rule.tables.exact().is_none() => {
            reader.wrong(*line, "a DELETE must know the rows of one table: write a rule for each");
        }
        Some(truncate) if rule.into.is_none() => {
            reader.wrong(truncate.line, "truncate is for tables with into")
        }
        Some(Lined { line, it: Truncating::Delete }) if !rule.columns.iter().any(ColumnRule::is_new) => {
            reader.wrong(*line, "a DELETE must know the table's rows: add a column with a constant");
        }
        _ => {}
    }
    for (at, column) in rule.columns.iter().enumerate() {
        claims(reader, rule, column);
        let same = |other: &&ColumnRule| other.target() == column.target() && other.column != column.column;
        if rule.columns.iter().take(at).find(same).is_some() {
            let what = format!("two columns would be called {} on the target", column.target());
            reader.wrong(column.line, what);
        }
    }
}

/// What a rule says of a column that a rule, the same or another, drops.
fn claims(reader: &mut Reader, rule: &Rule, column: &ColumnRule) {
    let named = |list: &Lined<Vec<String>>| list.it.contains(&column.column);
    if rule.drop.as_ref().is_some_and(named) {
        reader.wrong(
            column.line,
            format!("column {} is dropped, in line {}", column.column, line_of(&rule.drop)),
        );
    }
    if rule.keep.as_ref().is_some_and(|keep| !named(keep)) && !column.makes() {
        let line = line_of(&rule.keep);
        reader.wrong(column.line, format!("column {} is not kept, in line {line}", column.column));
    }
}

fn line_of<T>(lined: &Option<Lined<T>>) -> usize {
    lined.as_ref().map_or(0, |lined| lined.line)
}

/// What two rules say of the same thing, where a table may have both.
fn clashes(reader: &mut Reader, one: &Rule, other: &Rule) {
    let both = [
        ("schema", line_of(&one.schema), line_of(&other.schema)),
        ("name", line_of(&one.name), line_of(&other.name)),
        ("into", line_of(&one.into), line_of(&other.into)),
        ("into and schema", line_of(&one.into), line_of(&other.schema)),
        ("into and schema", line_of(&other.into), line_of(&one.schema)),
        ("into and name", line_of(&one.into), line_of(&other.name)),
        ("into and name", line_of(&other.into), line_of(&one.name)),
        ("keep", line_of(&one.keep), line_of(&other.keep)),
        ("key", line_of(&one.key), line_of(&other.key)),
        ("where", line_of(&one.filter), line_of(&other.filter)),
        ("truncate", line_of(&one.truncate), line_of(&other.truncate)),
        ("mode", line_of(&one.mode), line_of(&other.mode)),
        ("conflict", line_of(&one.conflict), line_of(&other.conflict)),
    ];
    let tables = format!("a table may be one of \"{}\" and of \"{}\"", one.tables, other.tables);
    for (what, first, second) in both.into_iter().filter(|(_, first, second)| *first > 0 && *second > 0) {
        let (first, second) = (first.min(second), first.max(second));
        reader.wrong(second, format!("{tables}, and line {first} says {what} too"));
    }
    for column in &other.columns {
        claims(reader, one, column);
        let first = one
            .columns
            .iter()
            .find(|first| first.column == column.column || first.target() == column.target());
        if let Some(first) = first {
            let (first, second) = (first.line.min(column.line), first.line.max(column.line));
            reader.wrong(
                second,
                format!("{tables}, and line {first} says something of column {} too", column.column),
            );
        }
    }
    one.columns.iter().for_each(|column| claims(reader, other, column));
}

/// Of tables that go into one, a DELETE of what one has must not mean the rows of the other.
fn refuse_same_rows(reader: &mut Reader, one: &Rule, other: &Rule) {
    let deletes = |rule: &Rule| matches!(rule.truncate, Some(Lined { it: Truncating::Delete, .. }));
    let (Some(into), Some(too)) = (&one.into, &other.into) else { return };
    if into.it != too.it || !(deletes(one) || deletes(other)) {
        return;
    }
    let constants = |rule: &Rule| {
        let constants = rule.columns.iter().filter_map(|column| match &column.work {
            Some(Work::Constant(text)) => Some((column.column.clone(), text.clone())),
            _ => None,
        });
        constants.collect::<BTreeMap<_, _>>()
    };
    let (ours, theirs) = (constants(one), constants(other));
    if !ours.iter().any(|(column, text)| theirs.get(column).is_some_and(|other| other != text)) {
        let what = format!("rows of \"{}\" go there too, and no constant tells them from these", one.tables);
        reader.wrong(too.line, what);
    }
}

fn is_name(reader: &mut Reader, name: &Lined<String>) -> bool {
    let is_one = (1..=NAME_BYTES_MAX).contains(&name.it.len()) && !name.it.contains('\0');
    if !is_one {
        reader.wrong(name.line, format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
    }
    is_one
}

fn into_table(reader: &mut Reader, into: Lined<String>) -> Option<Lined<(String, String)>> {
    let table = into.it.parse::<Pattern>().ok().filter(|_| into.it.contains('.')).and_then(|it| it.exact());
    match table {
        Some((schema, _)) if schema == OWN_SCHEMA => {
            reader.wrong(into.line, format!("schema {OWN_SCHEMA} is our own"));
            None
        }
        Some(table) => Some(Lined { line: into.line, it: table }),
        None => {
            reader.wrong(into.line, "into wants one table with its schema, such as public.orders");
            None
        }
    }
}

fn expression(reader: &mut Reader, text: &Lined<String>) -> Option<Lined<Arc<Expression>>> {
    match Expression::parse(&text.it) {
        Ok(it) => Some(Lined { line: text.line, it: Arc::new(it) }),
        Err(what) => {
            reader.wrong(text.line, format!("no expression: {what}"));
            None
        }
    }
}

fn truncating(reader: &mut Reader, text: &Lined<String>) -> Option<Lined<Truncating>> {
    let it = match text.it.as_str() {
        "refuse" => Truncating::Refuse,
        "ignore" => Truncating::Ignore,
        "delete" => Truncating::Delete,
        _ => {
            reader.wrong(text.line, "truncate is refuse, ignore or delete");
            return None;
        }
    };
    Some(Lined { line: text.line, it })
}

fn column(reader: &mut Reader, line: usize, name: &str, table: &DeTable<'_>) -> Option<ColumnRule> {
    let mut section = Section::new(reader, table, format!("column {name}"));
    let new_name = section.text("name").filter(|name| is_name(section.reader, name));
    let cast = section.text("cast");
    let optional = section.flag("optional").is_some_and(|flag| flag.it);
    let mut works = Vec::new();
    works.extend(section.mark("hash").map(|mark| (mark.line, Some(Work::Hash))));
    works.extend(section.text("fixed").map(|text| (text.line, Some(Work::Fixed(text.it)))));
    works.extend(section.mark("null").map(|mark| (mark.line, Some(Work::Null))));
    works.extend(section.table("partial").map(|table| (table.line, partial(section.reader, &table))));
    let with = section.text("with");
    works.extend(
        section.text("regex").map(|text| (text.line, self::regex(section.reader, &text, with.as_ref()))),
    );
    if let Some(with) = with.filter(|_| !table.keys().any(|key| key.get_ref() == "regex")) {
        section.reader.wrong(with.line, "with is for regex");
    }
    works.extend(section.text("expression").map(|text| {
        (text.line, expression(section.reader, &text).map(|expression| Work::Expression(expression.it)))
    }));
    works.extend(section.text("constant").map(|text| (text.line, Some(Work::Constant(text.it)))));
    works.extend(section.text("metadata").map(|text| {
        let metadata = Metadata::parse(&text.it);
        if metadata.is_none() {
            section.reader.wrong(text.line, format!("metadata is one of {}", Metadata::names()));
        }
        (text.line, metadata.map(Work::Metadata))
    }));
    let cast = cast.and_then(|cast| {
        let kind = Kind::parse(&cast.it);
        if kind.is_none() {
            section.reader.wrong(cast.line, format!("cast knows no type {}", cast.it));
        }
        kind
    });
    if let [(line, Some(Work::Metadata(metadata)))] = works.as_slice()
        && metadata.kind(cast).is_none()
    {
        section.reader.wrong(*line, "that has no value of this type");
    }
    section.end();
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        reader.wrong(line, format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
    }
    if let [_, (line, _), ..] = works.as_slice() {
        reader.wrong(*line, format!("column {name} can have only one value"));
    }
    for (line, work) in &works {
        match work {
            Some(Work::Constant(_) | Work::Metadata(_)) if new_name.is_some() => {
                reader.wrong(*line, "a new column has the name that it stands under");
            }
            Some(Work::Constant(text) | Work::Fixed(text)) if text.contains('\0') => {
                reader.wrong(*line, "a text of PostgreSQL has no NUL");
            }
            _ => {}
        }
    }
    if table.is_empty() {
        reader.wrong(line, format!("nothing is said of column {name}"));
    }
    let work = works.pop().and_then(|(_, work)| work);
    Some(ColumnRule {
        line,
        column: name.to_owned(),
        name: new_name.map(|name| name.it),
        work,
        cast,
        optional,
    })
}

fn partial(reader: &mut Reader, table: &Lined<&DeTable<'_>>) -> Option<Work> {
    let mut section = Section::new(reader, table.it, "partial");
    let (first, last, with) = (section.count("first"), section.count("last"), section.text("with"));
    let mut characters = with.as_ref().map_or("*", |with| with.it.as_str()).chars();
    let with = match (characters.next(), characters.next()) {
        (Some(character), None) if character != '\0' => character,
        _ => {
            section.reader.wrong(table.line, "with is one character");
            return None;
        }
    };
    section.end();
    let count = |count: Option<Lined<usize>>| count.map_or(0, |count| count.it);
    Some(Work::Partial { first: count(first), last: count(last), with })
}

fn regex(reader: &mut Reader, text: &Lined<String>, with: Option<&Lined<String>>) -> Option<Work> {
    let Some(with) = with else {
        reader.wrong(text.line, "regex wants with: what each match becomes, $1 being the first group");
        return None;
    };
    match Regex::new(&text.it) {
        Ok(regex) => Some(Work::Regex { regex, with: with.it.clone() }),
        Err(error) => {
            let what = error.to_string();
            let what = what.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            reader.wrong(text.line, format!("no regular expression: {what}"));
            None
        }
    }
}
