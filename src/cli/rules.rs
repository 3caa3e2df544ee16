//! `rules`: a file of rules looked at by itself, and what it makes of what the archive has.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::arguments::Everywhere;
use super::config::File;
use super::place::ArchiveArguments;
use super::points::{FromArguments, ToArguments, part};
use super::print;
use crate::archive::{self, Archive, Said, Span};
use crate::model::{Fault, Relation, Value};
use crate::pg::pattern::Pattern;
use crate::pgoutput::{Begin, Message, Old, Tuple};
use crate::rules::{KeyPlace, RuleSet, Shaped, Spare, Truncated};
use crate::transform::{Emptying, Refusal, Removal};

/// The file of rules, where a command applies changes.
#[derive(Debug, clap::Args)]
pub(crate) struct RulesFileArguments {
    /// A file that says what rows, columns and tables are on the target, where that is not a copy (docs/RULES.md) [default: a copy]
    #[arg(long, env = "PGSLUICE_RULES", value_name = "FILE")]
    rules: Option<PathBuf>,
}

impl RulesFileArguments {
    /// None where the target is a copy. `stream`: what the source is called on the target.
    pub(crate) fn read(&self, file: &File, stream: &str) -> Result<Option<Arc<RuleSet>>, Fault> {
        let path = self.rules.as_ref().or(file.rules.as_ref());
        path.map(|path| read(path)?.of_source(stream).map(Arc::new)).transpose()
    }

    /// For what knows no target.
    pub(crate) fn refuse(&self, file: &File, what: &str, hint: &str) -> Result<(), Fault> {
        match self.rules.as_ref().or(file.rules.as_ref()) {
            None => Ok(()),
            Some(_) => Err(Fault::usage(format!("{what} does not go with --rules")).hint(hint)),
        }
    }
}

/// Reads a file of rules, and the key that it names.
fn read(path: &Path) -> Result<RuleSet, Fault> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fault::usage(format!("reading {}: {error}", path.display())))?;
    let rules = RuleSet::parse(&text).map_err(|fault| fault.context(path.display()))?;
    let key = match rules.key_place() {
        None => return Ok(rules),
        Some(KeyPlace::File(path)) => std::fs::read(path).map_err(|error| {
            Fault::usage(format!("the key of hashes, {}, can't be read: {error}", path.display()))
        })?,
        Some(KeyPlace::Environment(name)) => {
            std::env::var_os(name).map(|key| key.into_encoded_bytes()).ok_or_else(|| {
                Fault::usage(format!("the key of hashes is not there: variable {name} is not set"))
            })?
        }
    };
    rules.with_key(&key)
}

/// Check a file of rules, and try it on what the archive has
///
/// Rules say what the rows of a table are on a target that is not a copy: --rules of apply and follow. docs/RULES.md is their reference.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice rules check shop.rules
  pgsluice rules test shop.rules --tables public.users --limit 10 --name shop")]
pub(crate) struct RulesCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check a file as a whole: all errors, each with its line. What only a table's columns tell shows in a test
    #[command(after_help = "Example:\n  pgsluice rules check shop.rules")]
    Check {
        /// The file of rules
        file: PathBuf,
    },
    /// Print changes before and after, from the archive: no target is needed, and nothing is changed. Exit code 3 where the rules refuse one
    ///
    /// Values of rows are shown as the source has them, and as the target would have them.
    #[command(after_help = "Examples:
  pgsluice rules test shop.rules --tables public.users --limit 10 --name shop
  pgsluice rules test shop.rules --from-lsn 16/B374D848 --archive s3://bucket/shop --json")]
    Test {
        /// The file of rules
        file: PathBuf,
        /// Only changes of these tables of the source, such as public.orders or sales.*
        #[arg(long, value_name = "PATTERN", num_args = 1.., value_delimiter = ',')]
        tables: Vec<Pattern>,
        /// So many changes of each table; 0: all
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u64,
        #[command(flatten)]
        from: Box<FromArguments>,
        #[command(flatten)]
        to: Box<ToArguments>,
        #[command(flatten)]
        archive: Box<ArchiveArguments>,
    },
}

impl RulesCommand {
    pub(crate) fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        match &self.verb {
            Verb::Check { file } => {
                let rules = read(file)?;
                let report = json!({ "rules": rules.count(), "fingerprint": rules.fingerprint() });
                print::report(everywhere.json, &report, || {
                    print::pairs(&[
                        ("rules", rules.count().to_string()),
                        ("fingerprint", rules.fingerprint()),
                    ])
                })
            }
            Verb::Test { file: path, tables, limit, from, to, archive } => {
                let archive = archive.place(file)?.archive.open()?;
                let rules = read(path)?.of_source(&archive.manifest().name)?;
                let part = part(&archive, from, to)?;
                rules.refuse_encoding(&archive.manifest().server_encoding)?;
                let mut test = Test {
                    rules: &rules,
                    limit: *limit,
                    json: everywhere.json,
                    tables: HashMap::new(),
                    counts: BTreeMap::new(),
                };
                test.run(&archive, part, tables)?;
                test.end()
            }
        }
    }
}

/// A table of the source, as it was last defined.
struct Table {
    shaped: Result<Option<Shaped>, Refusal>,
    source: Relation,
}

/// What became of a table's changes.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Count {
    shown: u64,
    refused: u64,
}

struct Test<'r> {
    rules: &'r RuleSet,
    limit: u64,
    json: bool,
    tables: HashMap<u32, Table>,
    counts: BTreeMap<String, Count>,
}

impl Test<'_> {
    fn run(&mut self, archive: &Archive, part: Span, patterns: &[Pattern]) -> Result<(), Fault> {
        let rules = self.rules;
        let is_wanted = |schema: &str, name: &str| {
            let is_named =
                patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(schema, name));
            is_named && rules.place(schema, name).is_some()
        };
        let places = archive::whereabouts(archive, part, |_, schema, name| is_wanted(schema, name))?;
        let mut begun = None;
        let of_relation = |relation: &Relation| is_wanted(&relation.schema, &relation.name);
        archive::read_tables(archive, &places.spans, &of_relation, |said| match (said, begun) {
            (Said::Begin { begin, .. }, _) => {
                begun = Some(begin);
                Ok(())
            }
            (Said::Changed { relation, message }, Some(begin)) => self.change(begin, relation, message),
            (Said::Truncated { relations, .. }, Some(begin)) => {
                relations.iter().try_for_each(|relation| self.truncate(begin, relation))
            }
            _ => Ok(()),
        })
    }

    /// Takes note of a definition. False where enough of its table was shown.
    fn is_due(&mut self, relation: &Relation) -> bool {
        let known = self.tables.get(&relation.oid).is_some_and(|table| table.source == *relation);
        if !known {
            let table = Table { shaped: self.rules.shape(relation), source: relation.clone() };
            self.tables.insert(relation.oid, table);
        }
        let count = self.counts.entry(shown_name(relation)).or_default();
        let is_due = self.limit == 0 || count.shown < self.limit;
        count.shown += u64::from(is_due);
        is_due
    }

    fn change(&mut self, begin: Begin, relation: &Relation, message: &Message<'_>) -> Result<(), Fault> {
        if !self.is_due(relation) {
            return Ok(());
        }
        let mut spare = Spare::default();
        let given = match self.tables.get(&relation.oid).map(|table| &table.shaped) {
            Some(Ok(Some(shaped))) => {
                shaped.change(message, begin, &mut spare).map(|given| (given, shaped.relation()))
            }
            Some(Err(refusal)) => Err(refusal.clone()),
            Some(Ok(None)) | None => return Ok(()),
        };
        let after = match &given {
            Ok((given, relation)) => {
                Ok(given.iter().flatten().map(|message| Shown::of(relation, message)).collect())
            }
            Err(refusal) => Err(refusal),
        };
        self.tell(begin, &Shown::of(relation, message), after)
    }

    fn truncate(&mut self, begin: Begin, relation: &Relation) -> Result<(), Fault> {
        if !self.is_due(relation) {
            return Ok(());
        }
        let here = |operation, relation: &Relation| Shown {
            operation,
            table: shown_name(relation),
            old: None,
            new: None,
        };
        let given = match self.tables.get(&relation.oid).map(|table| &table.shaped) {
            Some(Ok(Some(shaped))) => shaped.truncated(begin).map(|truncated| match truncated {
                Truncated::Whole => vec![here("truncate", shaped.relation())],
                Truncated::Nothing => Vec::new(),
                Truncated::Rows(Emptying { rows, by, set }) => {
                    let cell = |(column, text): (String, String)| (column, Json::from(text));
                    let cells = |cells: Vec<_>| Some(cells.into_iter().map(cell).collect());
                    let (operation, new) = match by {
                        Removal::Delete => ("delete", None),
                        Removal::Mark(_) => ("update", cells(set)),
                        Removal::End { to, time, .. } => ("update", cells(vec![(to, time)])),
                    };
                    let rows = Some(rows).filter(|rows| !rows.is_empty()).and_then(cells);
                    vec![Shown { old: rows, new, ..here(operation, shaped.relation()) }]
                }
            }),
            Some(Err(refusal)) => Err(refusal.clone()),
            Some(Ok(None)) | None => return Ok(()),
        };
        self.tell(begin, &here("truncate", relation), given.as_ref().cloned())
    }

    fn tell(
        &mut self,
        begin: Begin,
        before: &Shown,
        after: Result<Vec<Shown>, &Refusal>,
    ) -> Result<(), Fault> {
        if after.is_err() {
            self.counts.entry(before.table.clone()).or_default().refused += 1;
        }
        if self.json {
            let (given, refused) = match &after {
                Ok(given) => (given.iter().map(Shown::json).collect(), None),
                Err(refusal) => (Vec::new(), Some(&refusal.message)),
            };
            return print::json(&json!({
                "xid": begin.xid.0, "time": begin.commit_time.to_string(), "commit_lsn": begin.commit_lsn.to_string(),
                "before": before.json(), "after": given, "refused": refused,
            }));
        }
        let what = match &after {
            Ok(given) if given.is_empty() => "nothing".into(),
            Ok(given) => given.iter().map(Shown::text).collect::<Vec<_>>().join("\n  -> "),
            Err(refusal) => {
                let hint = refusal.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!("refused: {}{hint}", refusal.message)
            }
        };
        print::line(&format!("{}\n  -> {what}", before.text()))
    }

    fn end(self) -> Result<(), Fault> {
        let seen: Vec<_> = self.tables.values().map(|table| &table.source).collect();
        let seen = seen.iter().map(|table| (table.schema.as_str(), table.name.as_str()));
        for pattern in self.rules.unmatched(seen) {
            tracing::warn!(%pattern, "no change of a table that this pattern means was met");
        }
        match self.counts.values().map(|count| count.refused).sum() {
            0_u64 => Ok(()),
            refused => {
                Err(Fault::difference(format!("the rules refuse {refused} of the changes that are shown")))
            }
        }
    }
}

fn shown_name(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}

/// A change, for a person or a machine.
#[derive(Clone)]
struct Shown {
    operation: &'static str,
    table: String,
    old: Option<Map<String, Json>>,
    new: Option<Map<String, Json>>,
}

impl Shown {
    fn of(relation: &Relation, message: &Message<'_>) -> Shown {
        let (operation, old, new) = match *message {
            Message::Insert { new, .. } => ("insert", Old::Absent, Some(new)),
            Message::Update { old, new, .. } => ("update", old, Some(new)),
            Message::Delete { old, .. } => ("delete", old, None),
            _ => ("other", Old::Absent, None),
        };
        let old = match old {
            Old::Absent => None,
            Old::Key(row) => Some(cells(relation, row, true)),
            Old::Row(row) => Some(cells(relation, row, false)),
        };
        let new = new.map(|row| cells(relation, row, false));
        Shown { operation, table: shown_name(relation), old, new }
    }

    fn json(&self) -> Json {
        json!({ "op": self.operation, "table": self.table, "old": self.old, "new": self.new })
    }

    fn text(&self) -> String {
        let row = |name: &str, row: &Option<Map<String, Json>>| {
            let row = row.as_ref()?;
            let cells: Vec<_> = row.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Some(format!(" {name} {}", cells.join(" ")))
        };
        let rows = [row("old", &self.old), row("new", &self.new)];
        format!("{} {}{}", self.operation, self.table, rows.into_iter().flatten().collect::<String>())
    }
}

/// What was sent of a row.
fn cells(relation: &Relation, row: Tuple<'_>, is_key: bool) -> Map<String, Json> {
    let columns = relation.columns.iter().zip(row.values()).filter(|(column, _)| column.key || !is_key);
    let cell = |value: Value<'_>| match value {
        Value::Null => Some(Json::Null),
        Value::Unchanged => None,
        Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned().into()),
        Value::Binary(bytes) => {
            Some(bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")).into())
        }
    };
    columns.filter_map(|(column, value)| Some((column.name.clone(), cell(value)?))).collect()
}
