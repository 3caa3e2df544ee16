//! `history`: what the log says of one row, and SQL that takes changes back.

use std::io::{ErrorKind, Write};

use serde_json::{Map, Value, json};

use super::arguments::Everywhere;
use super::config::File;
use super::place::ArchiveArguments;
use super::points::{FromArguments, ToArguments, last_of, part};
use super::print;
use crate::archive::{self, Archive, Point, Span};
use crate::history::{self, Event, RowKey, Undoing, Version};
use crate::model::{Fault, Relation, Xid};
use crate::pg::pattern::Pattern;
use crate::transform::{Cell, Guard, Row, RowChange};

/// Print all versions of a row that the log has, oldest first; or SQL that takes a transaction back
///
/// The row is followed from one key to the next, and its table from one name to the next. What the source did not send, since it did not
/// change, is taken from the version before.
///
/// With --undo-sql a script for psql is printed that undoes a transaction (--xid), or all from one point of the log to another one. It does so in
/// one transaction, in reverse order, and gives up where a row is no longer as it was left. What a row was before comes from the archive: from the change
/// itself with REPLICA IDENTITY FULL, else from what was last written to the row before, or from a base. Triggers fire as for any other change.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice history public.orders 42 --name shop
  pgsluice history sales.lines order_id=7 line=2 --from-time 2026-01-31T10:00:00Z --name shop --json
  pgsluice history --undo-sql --xid 771 --name shop | psql postgresql://app@db1/shop
  pgsluice history --undo-sql --from-pin before-release-7 --to-lsn 16/B374D848 --tables public.orders --name shop")]
pub(crate) struct HistoryCommand {
    /// The table, such as public.orders; a pattern as for --tables
    #[arg(required_unless_present = "undo_sql", conflicts_with = "undo_sql")]
    table: Option<Pattern>,
    /// The row: the value of its key as PostgreSQL prints it, or COLUMN=VALUE for each column of the key
    #[arg(required_unless_present = "undo_sql")]
    key: Vec<String>,
    /// Print SQL that undoes a transaction, or a part of the log
    #[arg(long)]
    undo_sql: bool,
    /// Undo the transaction with this id
    #[arg(long, requires = "undo_sql", conflicts_with_all = ["FromArguments", "ToArguments"])]
    xid: Option<u32>,
    /// Undo what was done to these tables only, such as public.orders or sales.*
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_delimiter = ',', requires = "undo_sql")]
    tables: Vec<Pattern>,
    /// Undo what can be undone, where what some rows were before is not in the archive
    #[arg(long, requires = "undo_sql")]
    partial: bool,
    /// The script is for another server than the source, as a target: it does not look whether the tables are the ones that were changed
    #[arg(long, requires = "undo_sql")]
    elsewhere: bool,
    /// The script lets triggers fire, also where what they did then is in the log and is taken back by itself
    #[arg(long, requires = "undo_sql")]
    with_triggers: bool,
    /// The tables are published with a filter of rows: take rows that came into it for new ones, and rows that left it for deleted ones
    #[arg(long, requires = "undo_sql")]
    filtered: bool,
    #[command(flatten)]
    from: FromArguments,
    #[command(flatten)]
    to: ToArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
}

impl HistoryCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        if self.undo_sql && everywhere.json {
            return Err(
                Fault::usage("--undo-sql prints SQL, not JSON").hint("give one of --undo-sql and --json")
            );
        }
        let archive = self.archive.place(file)?.archive.open()?;
        match &self.table {
            Some(table) => self.versions(everywhere, &archive, table),
            None => self.undo(&archive),
        }
    }

    fn versions(&self, everywhere: &Everywhere, archive: &Archive, table: &Pattern) -> Result<(), Fault> {
        let part = part(archive, &self.from, &self.to)?;
        let key = row_key(&self.key)?;
        let is_named = |schema: &str, name: &str| table.matches(schema, name);
        let mut count = 0u64;
        let followed = history::versions(archive, part, &is_named, &key, |version| {
            count += 1;
            if everywhere.json { print::json(&as_json(&version)) } else { print::line(&as_text(&version)) }
        })?;
        if !followed {
            tracing::warn!(
                "so many rows of the table got another key that rows were not followed from one key to the next"
            );
        }
        if count == 0 && !everywhere.json {
            let Span { after, through } = part;
            return print::line(&format!("the log says nothing of that row from {after} to {through}"));
        }
        Ok(())
    }

    fn undo(&self, archive: &Archive) -> Result<(), Fault> {
        let (part, what) = match (self.xid, self.from.point(), self.to.point()) {
            (Some(xid), ..) => {
                let point = Point::Xid(Xid(xid));
                let after = archive::resolve(archive, &point, Some(false))?.through;
                let through = last_of(&archive::resolve(archive, &point, Some(true))?);
                (Span { after, through }, format!("transaction {xid}"))
            }
            (None, Some(_), Some(_)) => {
                (part(archive, &self.from, &self.to)?, "a part of the log".to_owned())
            }
            _ => {
                return Err(Fault::usage("it was not said what to undo")
                    .hint("give --xid, or where it begins and ends, as with --from-lsn and --to-lsn"));
            }
        };
        let is_wanted = |schema: &str, name: &str| {
            self.tables.is_empty() || self.tables.iter().any(|table| table.matches(schema, name))
        };
        let undoing = history::undo(archive, part, &is_wanted)?;
        if undoing.refused_total > 0 && !self.partial {
            return Err(Fault::stop(format!(
                "{} of the changes can't be undone from the archive, and nothing was written: {}",
                undoing.refused_total,
                refused(&undoing)
            ))
            .hint("--partial writes the SQL for all others, --tables leaves tables out; with REPLICA IDENTITY FULL, or a base by `pgsluice clone --into-archive`, the archive has rows as they were"));
        }
        if undoing.statements() == 0 {
            return Err(Fault::stop(format!("there is nothing to undo in {what}")));
        }
        tracing::info!(
            put_back = undoing.deleted,
            set_back = undoing.updated,
            removed = undoing.inserted,
            left_out = undoing.refused_total,
            "undo is written"
        );
        let guard = Guard {
            publication: archive.manifest().publication.clone(),
            elsewhere: self.elsewhere,
            with_triggers: self.with_triggers,
            filtered: self.filtered,
        };
        let comments = comments(archive, &undoing, part, &what);
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let written = undoing.script(&archive.manifest().server_encoding, &comments, &guard, |piece| {
            out.write_all(piece).map_err(|error| stdout(&error))
        });
        written.and_then(|()| out.flush().map_err(|error| stdout(&error)))
    }
}

/// Unlike a report, a script that is cut short is a fault whoever reads it.
fn stdout(error: &std::io::Error) -> Fault {
    match error.kind() {
        ErrorKind::BrokenPipe => Fault::stop("whoever reads the script went away before its end"),
        _ => Fault::stop(format!("writing to stdout: {error}")),
    }
}

fn row_key(typed: &[String]) -> Result<RowKey, Fault> {
    if let [one] = typed
        && !one.contains('=')
    {
        return Ok(RowKey::Value(one.clone()));
    }
    let pairs = typed.iter().map(|word| {
        let pair = word.split_once('=').map(|(column, value)| (column.to_owned(), value.to_owned()));
        pair.ok_or_else(|| {
            Fault::usage(format!("'{word}' is not such as id=42"))
                .hint("give COLUMN=VALUE for each column of the key")
        })
    });
    pairs.collect::<Result<_, _>>().map(RowKey::Columns)
}

fn refused(undoing: &Undoing) -> String {
    let mut text = undoing.refused.join("; ");
    let more = undoing.refused_total.saturating_sub(undoing.refused.len() as u64);
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

fn comments(archive: &Archive, undoing: &Undoing, part: Span, what: &str) -> Vec<String> {
    let time = |time: Option<crate::model::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let mut comments = vec![
        format!(
            "Undoes {what} of {}: behind {} up to {}, committed from {} to {}.",
            archive.manifest().name,
            part.after,
            part.through,
            time(undoing.first_time),
            time(undoing.last_time)
        ),
        format!(
            "Rows put back: {}, set back: {}, removed: {}.",
            undoing.deleted, undoing.updated, undoing.inserted
        ),
    ];
    if undoing.refused_total > 0 {
        comments.push(format!("NOT undone: {}: {}", undoing.refused_total, refused(undoing)));
    }
    comments
}

/// A row before and after; what is not known of it is unknown.
fn sides(change: &RowChange) -> (&'static str, Option<&Row>, Option<&Row>) {
    match change {
        RowChange::Inserted(new) => ("insert", None, Some(new)),
        RowChange::Updated { old, new } => ("update", Some(old), Some(new)),
        RowChange::Deleted(old) => ("delete", Some(old), None),
    }
}

fn table_name(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}

/// The values that are known.
fn object(relation: &Relation, row: &Row, is_shown: impl Fn(&str) -> bool) -> Value {
    let known = relation.columns.iter().zip(row).filter(|(column, _)| is_shown(&column.name));
    let known = known.filter_map(|(column, cell)| match cell {
        Cell::Unknown => None,
        Cell::Null => Some((column.name.clone(), Value::Null)),
        Cell::Text(text) => Some((column.name.clone(), Value::from(String::from_utf8_lossy(text)))),
    });
    Value::Object(known.collect::<Map<_, _>>())
}

fn as_json(version: &Version) -> Value {
    let mut line = json!({ "lsn": version.lsn, "time": version.time, "xid": version.xid.0 });
    let more = match &version.event {
        Event::Truncated { table } => json!({ "operation": "truncate", "table": table }),
        Event::Defined { before, relation } => json!({
            "operation": "alter",
            "table": table_name(relation),
            "differences": differences(before, relation),
        }),
        Event::Row { relation, change, key, moved } => {
            let (operation, old, new) = sides(change);
            let is_key = |name: &str| key.iter().any(|key| key == name);
            let mut more = json!({ "operation": operation, "table": table_name(relation) });
            if let (Some(row), Some(more)) = (new.or(old), more.as_object_mut()) {
                more.insert("key".into(), object(relation, row, is_key));
                if let Some(old) = old.filter(|_| *moved) {
                    more.insert("former_key".into(), object(relation, old, is_key));
                }
                for (name, row) in [("old", old), ("new", new)] {
                    more.insert(name.into(), row.map_or(Value::Null, |row| object(relation, row, |_| true)));
                }
                let unknown = relation.columns.iter().zip(row);
                let unknown = unknown.filter(|(_, cell)| **cell == Cell::Unknown);
                more.insert("unknown".into(), unknown.map(|(column, _)| column.name.clone()).collect());
            }
            more
        }
    };
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    line
}

/// How much of a value people are shown.
const SHOWN_CHARACTERS: usize = 100;

fn shown(cell: Option<&Cell>) -> String {
    match cell {
        None | Some(Cell::Unknown) => "?".into(),
        Some(Cell::Null) => "null".into(),
        Some(Cell::Text(text)) => {
            let text = String::from_utf8_lossy(text);
            let mut start: String = text.chars().take(SHOWN_CHARACTERS).collect();
            if start.len() < text.len() {
                start.push('…');
            }
            format!("'{}'", start.escape_debug())
        }
    }
}

fn as_text(version: &Version) -> String {
    let head = format!("{}  {}  xid {}  ", version.lsn, version.time, version.xid.0);
    match &version.event {
        Event::Truncated { table } => format!("{head}TRUNCATE {table}"),
        Event::Defined { before, relation } => {
            let differences: Vec<_> = differences(before, relation)
                .into_iter()
                .map(|difference| format!("\n    {difference}"))
                .collect();
            format!("{head}ALTER {}{}", table_name(relation), differences.concat())
        }
        Event::Row { relation, change, key, moved } => {
            let (operation, old, new) = sides(change);
            let at = |row: Option<&'_ Row>, at: usize| row.and_then(|row| row.get(at)).cloned();
            let named = |row: Option<&Row>| {
                let columns =
                    relation.columns.iter().zip(0..).filter(|(column, _)| key.contains(&column.name));
                let each = columns
                    .map(|(column, place)| format!("{}={}", column.name, shown(at(row, place).as_ref())));
                each.collect::<Vec<_>>().join(", ")
            };
            let mut text = format!(
                "{head}{} {} ({})",
                operation.to_uppercase(),
                table_name(relation),
                named(new.or(old))
            );
            if *moved {
                text.push_str(&format!(", before that ({})", named(old)));
            }
            for (column, place) in relation.columns.iter().zip(0..) {
                let (was, is) = (at(old, place), at(new, place));
                let said = match (old.is_some(), new.is_some()) {
                    (true, true) if was == is => continue,
                    (true, true) => format!("{} → {}", shown(was.as_ref()), shown(is.as_ref())),
                    (false, _) => shown(is.as_ref()),
                    (true, false) => shown(was.as_ref()),
                };
                text.push_str(&format!("\n    {}: {said}", column.name));
            }
            text
        }
    }
}

/// How one definition differs from another.
fn differences(before: &Relation, relation: &Relation) -> Vec<String> {
    let mut differences = Vec::new();
    if table_name(before) != table_name(relation) {
        differences.push(format!("renamed from {}", table_name(before)));
    }
    let find =
        |relation: &Relation, name: &str| relation.columns.iter().find(|column| column.name == name).cloned();
    for column in &before.columns {
        match find(relation, &column.name) {
            None => differences.push(format!("column {} is gone", column.name)),
            Some(now) if (now.type_oid, now.type_modifier) != (column.type_oid, column.type_modifier) => {
                differences.push(format!("column {} has another type", column.name));
            }
            Some(now) if now.key != column.key => {
                let does = if now.key { "is now" } else { "is no longer" };
                differences.push(format!("column {} {does} of the replica identity", column.name));
            }
            Some(_) => {}
        }
    }
    for column in &relation.columns {
        if find(before, &column.name).is_none() {
            differences.push(format!("column {} is new", column.name));
        }
    }
    if before.identity != relation.identity {
        differences.push(format!("replica identity is now {:?}", relation.identity).to_lowercase());
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_a_value_or_named() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(row_key(&words(&["42"])).unwrap(), RowKey::Value("42".into()));
        let columns = RowKey::Columns(vec![("a".into(), "1".into()), ("b".into(), "x=y".into())]);
        assert_eq!(row_key(&words(&["a=1", "b=x=y"])).unwrap(), columns);
        assert_eq!(row_key(&words(&["a=1", "2"])).unwrap_err().exit_code(), 2);
    }
}
