//! `dead`: transactions that the target has refused and that were set aside.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::arguments::{
    Everywhere, FilterArguments, Names, RulesArguments, StreamArguments, TargetArguments,
};
use super::conduct::needed_target;
use super::config::File;
use super::place::ArchiveArguments;
use super::print;
use super::reach::Side;
use super::rules::RulesFileArguments;
use crate::apply::dead::{self as letters, Cell, Change, Resolved};
use crate::apply::{Ddl, OnError, Target};
use crate::archive::Archive;
use crate::model::{Fault, Position};
use crate::pg::Conninfo;
use crate::pg::dead::{self, Note};

const APPLICATION: &str = "pgsluice dead";

/// Show transactions that were set aside, bring them, or do without them
///
/// follow and apply with --on-error quarantine set aside what the target refuses, and what touches the same rows later (docs/DEAD.md).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice dead list --name shop --target postgresql://app@db2/shop
  pgsluice dead retry --name shop --target postgresql://app@db2/shop")]
pub(crate) struct DeadCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
    #[command(flatten)]
    stream: StreamArguments,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print which are set aside, in the order of the log, and why
    #[command(
        after_help = "Example:\n  pgsluice dead list --name shop --target postgresql://app@db2/shop --json"
    )]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Print the changes of one: values of rows
    #[command(
        after_help = "Example:\n  pgsluice dead show 16/B374D848 --name shop --target postgresql://app@db2/shop"
    )]
    Show {
        /// The end of its commit, as `dead list` prints it
        lsn: Position,
        #[command(flatten)]
        place: Place,
    },
    /// Bring them, in the order of the log, each in one transaction, up to the first that is refused again. The applier must not run
    ///
    /// Give the filters with which the changes are applied, or take them from --config.
    #[command(after_help = "Example:\n  pgsluice dead retry --name shop --target postgresql://app@db2/shop")]
    Retry {
        /// Only these, by the ends of their commits [default: all]
        lsns: Vec<Position>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        rules: Box<Rules>,
    },
    /// Do without them, for good: the target's rows stay as they are. The applier must not run
    #[command(
        after_help = "Example:\n  pgsluice dead skip 16/B374D848 --name shop --target postgresql://app@db2/shop"
    )]
    Skip {
        /// By the ends of their commits
        #[arg(required = true)]
        lsns: Vec<Position>,
        /// With those that were set aside later since they touch the same rows
        #[arg(long)]
        with_dependents: bool,
        /// Don't ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        rules: Box<Rules>,
    },
}

#[derive(Debug, clap::Args)]
struct Rules {
    #[command(flatten)]
    rules: RulesArguments,
    #[command(flatten)]
    file: RulesFileArguments,
    #[command(flatten)]
    filter: FilterArguments,
}

impl DeadCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        match &self.verb {
            Verb::List { place } => {
                let notes = Known::of(place, file)?.notes().await?;
                let values: Vec<Value> = notes.iter().map(as_json).collect();
                print::report(everywhere.json, &values, || table(&notes))
            }
            Verb::Show { lsn, place } => {
                let known = Known::of(place, file)?;
                let notes = known.notes().await?;
                let note = notes.iter().find(|note| note.lsn == *lsn).ok_or_else(|| {
                    Fault::usage(format!("no transaction that ends at {lsn} is set aside"))
                        .hint("pgsluice dead list shows those that are")
                })?;
                tokio::task::block_in_place(|| {
                    letters::show(&known.archive, note, |change| match everywhere.json {
                        true => print::json(&change_json(&change)),
                        false => print::line(&change_text(&change)),
                    })
                })
            }
            Verb::Retry { lsns, place, rules } => {
                let known = Known::of(place, file)?;
                let target = known.stream(rules, file)?;
                let resolved = letters::retry(&known.archive, &target, lsns).await?;
                report(everywhere, "brought", &resolved)?;
                match resolved.failed {
                    None => Ok(()),
                    Some((lsn, fault)) => {
                        Err(fault.context(format!("the transaction that ends at {lsn} stays set aside")))
                    }
                }
            }
            Verb::Skip { lsns, with_dependents, yes, place, rules } => {
                let known = Known::of(place, file)?;
                let target = known.stream(rules, file)?;
                if !yes {
                    must_agree(lsns, *with_dependents)?;
                }
                let resolved = letters::skip(&known.archive, &target, lsns, *with_dependents).await?;
                report(everywhere, "skipped", &resolved)
            }
        }
    }
}

/// What was typed, as it is needed.
struct Known {
    target: Conninfo,
    archive: Archive,
    names: Names,
}

impl Known {
    fn of(typed: &Place, file: &File) -> Result<Known, Fault> {
        let place = typed.archive.place(file)?;
        let names = typed.stream.names(&place, file)?;
        let target = needed_target(typed.target.conninfo(file)?)?;
        Ok(Known { target, archive: place.archive.open()?, names })
    }

    async fn notes(&self) -> Result<Vec<Note>, Fault> {
        let client = Side::Target.connect(&self.target, APPLICATION).await?;
        dead::read(&client, &self.names.origin).await.map_err(Side::Target.says())
    }

    fn stream(&self, typed: &Rules, file: &File) -> Result<Target, Fault> {
        Ok(Target {
            conninfo: self.target.clone(),
            stream: self.names.origin.clone(),
            sequences: false,
            rules: typed.rules.rules(&typed.filter, file)?,
            shapes: typed.file.read(file, &self.names.origin)?,
            accept_rules: false,
            only_local: false,
            ddl: Ddl::default(),
            after: [].into(),
            lanes: 1,
            delay: Duration::ZERO,
            on_error: OnError::Stop,
            only: None,
            parts: None,
        })
    }
}

fn must_agree(lsns: &[Position], with_dependents: bool) -> Result<(), Fault> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Fault::usage("nobody is there to be asked whether changes are done without").hint("give --yes")
        );
    }
    let names: Vec<_> = lsns.iter().map(Position::to_string).collect();
    let more = if with_dependents { " and those that depend on them" } else { "" };
    eprintln!("The changes of {}{more} will not come to the target. Type yes to go on:", names.join(", "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Fault::stop(format!("asking: {error}")))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Fault::stop("nothing was done")),
    }
}

fn report(everywhere: &Everywhere, what: &'static str, resolved: &Resolved) -> Result<(), Fault> {
    let failed = resolved.failed.as_ref().map(|(lsn, fault)| json!({ "lsn": lsn, "error": fault.message }));
    let value = json!({ what: resolved.done, "left": resolved.left, "failed": failed });
    print::report(everywhere.json, &value, || {
        print::pairs(&[(what, resolved.done.len().to_string()), ("left", resolved.left.to_string())])
    })
}

fn reason(note: &Note) -> &'static str {
    if note.held_by.is_some() { "held" } else { "refused" }
}

fn as_json(note: &Note) -> Value {
    json!({
        "lsn": note.lsn,
        "commit_lsn": note.commit_lsn.to_string(),
        "xid": note.xid,
        "commit_time": note.commit_time,
        "reason": reason(note),
        "sqlstate": note.sqlstate,
        "error": note.error,
        "held_by": note.held_by,
        "noted_at": note.noted_at,
    })
}

fn table(notes: &[Note]) -> String {
    if notes.is_empty() {
        return "nothing is set aside".into();
    }
    let rows = notes.iter().map(|note| {
        let sqlstate = note.sqlstate.clone().unwrap_or_else(|| "-".into());
        let (lsn, xid) = (note.lsn.to_string(), note.xid.to_string());
        vec![lsn, xid, note.commit_time.to_string(), reason(note).into(), sqlstate, note.error.clone()]
    });
    print::columns(&["lsn", "xid", "committed", "reason", "sqlstate", "error"], rows)
}

fn change_json(change: &Change) -> Value {
    let row = |cells: &[(String, Cell)]| {
        let sent = cells.iter().filter(|(_, cell)| *cell != Cell::Unchanged);
        let value = |cell: &Cell| match cell {
            Cell::Null | Cell::Unchanged => Value::Null,
            Cell::Text(text) => json!(text),
            Cell::Binary(digits) => json!({ "binary": digits }),
        };
        Value::Object(sent.map(|(name, cell)| (name.clone(), value(cell))).collect::<Map<_, _>>())
    };
    let unchanged: Vec<_> =
        change.new.iter().filter(|(_, cell)| *cell == Cell::Unchanged).map(|(name, _)| name).collect();
    json!({
        "table": change.table,
        "operation": change.operation,
        "key": row(&change.key),
        "old": row(&change.old),
        "new": row(&change.new),
        "unchanged": unchanged,
    })
}

fn change_text(change: &Change) -> String {
    let row = |cells: &[(String, Cell)]| {
        let shown = cells.iter().map(|(name, cell)| match cell {
            Cell::Null => format!("{name} = null"),
            Cell::Unchanged => format!("{name} (not sent)"),
            Cell::Text(text) => format!("{name} = '{text}'"),
            Cell::Binary(digits) => format!("{name} = '\\x{digits}'"),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("{} {}", change.operation, change.table);
    for (what, cells) in [("key", &change.key), ("old", &change.old), ("new", &change.new)] {
        if !cells.is_empty() {
            text.push_str(&format!("\n    {what}: {}", row(cells)));
        }
    }
    text
}
