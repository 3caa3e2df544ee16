//! `quickstart`: from two connection strings to a pipeline that runs, with each step explained.
//!
//! It looks, says what it found and what it would do, asks where something can't be found out, and then runs the very command that a person
//! would have typed, which it prints.

use std::io::{BufRead, IsTerminal, Write};
use std::net::TcpListener;

use clap::Parser;
use serde::Serialize;

use super::arguments::{Everywhere, RoadArguments, SourceArguments, TargetArguments};
use super::clone::CloneCommand;
use super::conduct::needed_target;
use super::config::File;
use super::follow::FollowCommand;
use super::print;
use super::reach::Side;
use crate::model::Fault;
use crate::pg::inspect::{self, version_name};
use crate::pg::tables::{self, Table};
use crate::pg::{Conninfo, copied, defined, extent, progress};

/// Look at both databases, explain what is to be done, and do it: copy, follow, and show it on a page
///
/// Asks only what can't be found out; --yes takes what is proposed. It ends as follow does, by Ctrl-C, and is gone on with by running it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice quickstart --source postgresql://app@db1/shop --target postgresql://app@db2/shop")]
pub(crate) struct QuickstartCommand {
    #[command(flatten)]
    road: RoadArguments,
    /// Do what is proposed without asking
    #[arg(long)]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

const APPLICATION: &str = "pgsluice quickstart";
/// Where the page is, if nobody else is there.
const PORT: u16 = 9187;

/// What is to be done, and why.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Plan {
    explanation: Vec<String>,
    /// As a person would type it, without the connection strings, which are in the environment or were typed already.
    command: Vec<String>,
    /// Asked before it is done.
    questions: Vec<String>,
}

/// What was found on both sides.
#[derive(Debug, Default)]
struct Found {
    source_tables: Vec<String>,
    keyless: Vec<String>,
    source_bytes: u64,
    target_tables: usize,
    /// Of the target, with rows.
    filled: Vec<String>,
    /// A clone of this name was begun on the target.
    cloned: bool,
    /// And not with the schema.
    without_schema: bool,
    /// Something is applied to the target already.
    runs: bool,
}

impl QuickstartCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let mut road = self.road.clone();
        let source = match road.source.optional(file)? {
            Some(source) => source,
            None => {
                let typed =
                    ask("The source, from which the data comes (such as postgresql://me@host/database): ")?;
                road.source = SourceArguments::given(typed);
                road.source.conninfo(file)?
            }
        };
        let target = match road.target.conninfo(file)? {
            Some(target) => target,
            None => {
                let typed = ask("The target, into which it goes, empty: ")?;
                road.target = TargetArguments::given(typed);
                needed_target(road.target.conninfo(file)?)?
            }
        };
        let place = road.archive.place(file)?;
        let names = road.stream.names(&place, file)?;
        say("Looking at both databases.");
        let found = look(&source, &target, &names.origin).await?;
        let plan = plan(&found, free_port())?;
        if everywhere.json {
            print::json(&plan)?;
        }
        plan.explanation.iter().for_each(|line| say(line));
        say(&format!("\n    pgsluice {}\n", plan.command.join(" ")));
        if self.dry_run {
            return Ok(());
        }
        for question in &plan.questions {
            self.must_agree(question)?;
        }
        say("Here it goes. Ctrl-C stops it at any time; run the same command again and it resumes.\n");
        match plan.parsed()? {
            Started::Clone(clone) => clone.along(road).run(everywhere, file).await,
            Started::Follow(follow) => follow.along(road).run(everywhere, file).await,
        }
    }

    fn must_agree(&self, question: &str) -> Result<(), Fault> {
        if self.yes {
            return Ok(());
        }
        match ask(&format!("{question} [y/N] "))?.as_str() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Fault::stop("nothing was done")
                .hint("the command above does the same, with other flags if you like")),
        }
    }
}

/// Asks a person; without one it is wrong usage.
fn ask(question: &str) -> Result<String, Fault> {
    if !std::io::stdin().is_terminal() {
        return Err(Fault::usage(format!("nobody is there to be asked: {}", question.trim()))
            .hint("give --source and --target, and --yes to agree to what is proposed"));
    }
    let told = |error| Fault::stop(format!("asking: {error}"));
    let mut stderr = std::io::stderr();
    stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).map_err(told)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(told)?;
    Ok(answer.trim().to_owned())
}

/// To whoever sits there; stdout is for data.
fn say(line: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

fn free_port() -> u16 {
    let is_free = TcpListener::bind(("127.0.0.1", PORT)).is_ok();
    if is_free { PORT } else { 0 }
}

async fn look(source: &Conninfo, target: &Conninfo, stream: &str) -> Result<Found, Fault> {
    let (source, target) = tokio::try_join!(
        Side::Source.connect(source, APPLICATION),
        Side::Target.connect(target, APPLICATION)
    )?;
    let says = Side::Source.says();
    let server = inspect::server(&source).await.map_err(&says)?;
    let of_source = tables::tables(&source).await.map_err(&says)?;
    let oids: Vec<u32> = of_source.iter().filter(|table| !table.partitioned).map(|table| table.oid).collect();
    let extents = extent::extents(&source, &oids).await.map_err(&says)?;
    let says = Side::Target.says();
    let other = inspect::server(&target).await.map_err(&says)?;
    say(&format!(
        "  source: PostgreSQL {}, database {}; target: PostgreSQL {}, database {}",
        version_name(server.version),
        server.database,
        version_name(other.version),
        other.database
    ));
    let of_target = tables::tables(&target).await.map_err(&says)?;
    let mut filled = Vec::new();
    for table in of_target.iter().filter(|table| !table.partitioned) {
        let query = format!("SELECT EXISTS (SELECT FROM {})", table.quoted());
        let row = target.query_one(&query, &[]).await;
        // One that may not be read is told of by setup.
        if row.is_ok_and(|row| row.get(0)) {
            filled.push(table.shown());
        }
    }
    let cloned = copied::clone(&target, stream).await.map_err(&says)?.is_some();
    // Who has made the schema has noted it.
    let without_schema =
        cloned && defined::read(&target, stream).await.map_or(true, |noted| noted.is_empty());
    Ok(Found {
        keyless: of_source.iter().filter(|table| table.keyless().is_some()).map(Table::shown).collect(),
        source_tables: of_source.iter().map(Table::shown).collect(),
        source_bytes: extents.values().map(|extent| extent.bytes).sum(),
        target_tables: of_target.len(),
        filled,
        cloned,
        without_schema,
        runs: progress::read(&target, stream).await.map_err(&says)?.is_some(),
    })
}

/// Decides: pure.
fn plan(found: &Found, port: u16) -> Result<Plan, Fault> {
    let Found { source_tables, keyless, filled, .. } = found;
    if source_tables.is_empty() {
        return Err(Fault::stop("the source has no tables").hint("is it the right database?"));
    }
    let listen = format!("--listen=127.0.0.1:{port}");
    let mut explanation = vec![format!(
        "  the source has {} tables, {}; the target has {}, of which {} have rows",
        source_tables.len(),
        print::size(found.source_bytes),
        found.target_tables,
        filled.len()
    )];
    let mut questions = Vec::new();
    let mut command: Vec<String> = match (found.cloned, found.runs) {
        (true, _) => {
            explanation.push(
                "A copy was begun here before: it is gone on with, and what is there is not copied again."
                    .into(),
            );
            let mut command = vec!["clone".into(), "--follow".into()];
            command.extend(found.without_schema.then(|| "--no-schema".to_owned()));
            command
        }
        (false, true) => {
            explanation
                .push("The target is fed already: its changes are followed from where they were.".into());
            vec!["follow".into()]
        }
        (false, false) if filled.is_empty() => {
            explanation.push(match found.target_tables {
                0 => "The schema is made on the target, the rows are copied, then indexes and keys are made."
                    .into(),
                _ => "The target has the tables already, without rows: the rows are copied.".into(),
            });
            explanation.push(
                "From the first moment the source's changes are received into a log on this machine, so its WAL does not pile up; when all is copied they are applied, and go on to be."
                    .into(),
            );
            explanation.push(
                "On the source a publication and a replication slot are made, on the target a schema pgsluice; pgsluice cleanup takes them away."
                    .into(),
            );
            let mut command = vec!["clone".into(), "--follow".into()];
            command.extend((found.target_tables > 0).then(|| "--no-schema".to_owned()));
            questions.push("Shall it begin?".into());
            command
        }
        (false, false) => {
            let shown: Vec<&str> = filled.iter().take(5).map(String::as_str).collect();
            return Err(Fault::stop(format!("the target has rows already: {}", shown.join(", "))).hint(
                "empty these tables, or name another --target; if the rows are those of the source, and nothing has written there since: pgsluice follow",
            ));
        }
    };
    let is_new = command.first().is_some_and(|first| first == "clone") && !found.cloned;
    if !keyless.is_empty() && is_new {
        let shown: Vec<&str> = keyless.iter().take(10).map(String::as_str).collect();
        explanation.push(format!(
            "{} tables have no primary key ({}): without one an UPDATE or DELETE can't be told to another server. REPLICA IDENTITY FULL is set on them on the source; they are then found by all their columns, which is slow where they are large. pgsluice cleanup puts back what was.",
            keyless.len(),
            shown.join(", ")
        ));
        command.push("--keyless=full".into());
        questions.insert(0, "Set REPLICA IDENTITY FULL on these tables of the source?".into());
    }
    explanation.push(format!(
        "A status page shows how it goes, with metrics and alarms: http://127.0.0.1:{}/",
        if port == 0 { "… (the log says where)".to_owned() } else { port.to_string() }
    ));
    command.push(listen);
    Ok(Plan { explanation, command, questions })
}

/// What may be run.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true)]
enum Started {
    Clone(Box<CloneCommand>),
    Follow(Box<FollowCommand>),
}

impl Plan {
    fn parsed(&self) -> Result<Started, Fault> {
        Started::try_parse_from(&self.command)
            .map_err(|error| Fault::stop(format!("the command that was put together is not one: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found { source_tables: vec!["a".into()], source_bytes: 5 << 20, ..Found::default() }
    }

    /// The command of a plan, which must be one, and how many questions it has.
    fn planned(found: &Found) -> (String, usize) {
        let plan = plan(found, 1).unwrap();
        plan.parsed().unwrap();
        (plan.command.join(" "), plan.questions.len())
    }

    #[test]
    fn an_empty_target_is_cloned_into() {
        assert_eq!(planned(&found()), ("clone --follow --listen=127.0.0.1:1".into(), 1));
        let tables = Found { target_tables: 1, ..found() };
        assert_eq!(planned(&tables), ("clone --follow --no-schema --listen=127.0.0.1:1".into(), 1));
        let keyless = Found { keyless: vec!["a".into()], ..found() };
        assert_eq!(planned(&keyless), ("clone --follow --keyless=full --listen=127.0.0.1:1".into(), 2));
    }

    #[test]
    fn what_was_begun_is_gone_on_with() {
        let cloned = Found { cloned: true, runs: true, filled: vec!["a".into()], ..found() };
        assert_eq!(planned(&cloned).0, "clone --follow --listen=127.0.0.1:1");
        let without = Found { without_schema: true, ..cloned };
        assert_eq!(planned(&without).0, "clone --follow --no-schema --listen=127.0.0.1:1");
        let runs = Found { runs: true, filled: vec!["a".into()], ..found() };
        assert_eq!(planned(&runs).0, "follow --listen=127.0.0.1:1");
    }

    #[test]
    fn rows_that_are_there_are_nobodys_to_guess_about() {
        let filled = Found { filled: vec!["a".into()], target_tables: 1, ..found() };
        assert!(plan(&filled, 1).unwrap_err().message.contains("has rows already: a"));
        assert!(plan(&Found::default(), 1).is_err());
    }
}
