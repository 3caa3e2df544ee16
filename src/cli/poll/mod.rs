//! `poll`: a source where one may only SELECT, to archive.

mod settings;

use std::collections::BTreeSet;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::arguments::{Everywhere, SourceArguments};
use super::conduct::{Delay, SegmentArguments};
use super::config::File;
use super::place::{self, ArchiveArguments};
use super::print;
use crate::model::{Fault, Timestamp};
use crate::pg::now;
use crate::poll::{self, Again, Alarm, Method, Options, Outcome, Polled, Pulls, Table};
use crate::sentinel::{Control, Sentinel};
use crate::serve::{self, Change, Hooks, Level};

pub(crate) use settings::PollSettings;

/// Read tables and views that can only be read, again and again, into an archive of their own; run it again to resume
///
/// Which tables, and how, is said by [[poll]] in the file of --config (docs/POLL.md).
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  pgsluice poll --config shop.toml
  pgsluice poll --config shop.toml --once --now
  pgsluice poll --config shop.toml --table public.orders --from 2026-01-01 --to 2026-01-31
  pgsluice poll status --config shop.toml")]
pub(crate) struct PollCommand {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    #[command(flatten)]
    source: SourceArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
    #[command(flatten)]
    segments: SegmentArguments,
    /// Pull each table that is due once, and end; 1 is the exit code where one could not be pulled
    #[arg(long)]
    once: bool,
    /// With --once: each table, due or not
    #[arg(long, requires = "once")]
    now: bool,
    /// Only this table of the file
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Pull the rows with these values of --table's control column again, both included, once; what comes next stays as it is
    #[arg(long, value_name = "VALUE", requires = "table", requires = "to", conflicts_with = "once")]
    from: Option<String>,
    #[arg(long, value_name = "VALUE", requires = "from")]
    to: Option<String>,
    /// Do so with method append, too: rows that were brought before are there twice then
    #[arg(long, requires = "from")]
    append_again: bool,
    /// Tables that are pulled at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// How long to wait for another run that polls for this archive
    #[arg(long, value_name = "TIME", default_value = "60s")]
    lock_wait: Delay,
    /// Run this in a shell when an alarm is raised and when it is over: JSON on its standard input, and in PGSLUICE_ALARM_…
    #[arg(long, env = "PGSLUICE_ALARM_EXEC", value_name = "COMMAND", help_heading = "Operation")]
    alarm_exec: Option<String>,
    /// POST the same JSON there
    #[arg(
        long,
        env = "PGSLUICE_ALARM_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Operation"
    )]
    alarm_url: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// How far the polls are, as the archive says it; asks no source
    #[command(after_help = "Example:\n  pgsluice poll status --name shop --json")]
    Status {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Print the SQL of queue and trigger for method queue, to be run on the source by who may
    #[command(after_help = "Examples:
  pgsluice poll queue-sql --table public.orders --key id --queue public.orders_queue
  pgsluice poll queue-sql --config shop.toml")]
    QueueSql {
        /// The table; without it all tables of the file with method queue
        #[arg(long, value_name = "TABLE", requires = "key", requires = "queue")]
        table: Option<String>,
        /// The columns that tell its rows apart
        #[arg(long, value_name = "COLUMN", num_args = 1.., value_delimiter = ',', requires = "table")]
        key: Vec<String>,
        /// What the queue is to be called
        #[arg(long, value_name = "TABLE", requires = "table")]
        queue: Option<String>,
    },
}

impl PollCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        match &self.verb {
            None => self.run.run(everywhere, file).await,
            Some(Verb::Status { archive }) => status(archive, everywhere, file),
            Some(Verb::QueueSql { table, key, queue }) => {
                let tables = match (table, queue) {
                    (Some(table), Some(queue)) => vec![queue_of(table, key, queue)?],
                    _ => tables(file)?,
                };
                let scripts: Vec<_> = (tables.iter())
                    .filter(|table| table.method == Method::Queue)
                    .map(poll::queue_script)
                    .collect();
                if scripts.is_empty() {
                    return Err(Fault::usage("the file has no table with method queue")
                        .hint("give --table, --key and --queue, or --config"));
                }
                print::line(scripts.join("\n").trim_end())
            }
        }
    }
}

fn queue_of(table: &str, key: &[String], queue: &str) -> Result<Table, Fault> {
    let named = |flag: &str, text: &str| {
        settings::table_name(text).map_err(|why| Fault::usage(format!("--{flag}: {why}")))
    };
    let (schema, name) = named("table", table)?;
    let mut table = Table::new(&schema, &name, Method::Queue);
    table.key = key.to_vec();
    table.queue = Some(named("queue", queue)?);
    Ok(table)
}

/// All tables of the file.
fn tables(file: &File) -> Result<Vec<Table>, Fault> {
    let tables: Vec<Table> = file.poll.iter().map(|settings| settings.0.clone()).collect();
    if tables.is_empty() {
        return Err(Fault::usage("no table is to be polled")
            .hint("say which in the file of --config, by [[poll]] (docs/POLL.md)"));
    }
    let mut names = BTreeSet::new();
    match tables.iter().map(Table::shown).find(|name| !names.insert(name.clone())) {
        Some(twice) => Err(Fault::usage(format!("{twice} stands twice in [[poll]]"))
            .hint("leave one out: a table is polled in one way")),
        None => Ok(tables),
    }
}

impl RunArguments {
    async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let source = self.source.conninfo(file)?;
        let place = self.archive.place(file)?;
        let tables = self.tables(file)?;
        let pulls = match (&self.from, &self.to) {
            (Some(from), Some(to)) => Pulls::Again(Again { from: from.clone(), to: to.clone() }),
            _ if self.once => Pulls::Once { all: self.now },
            _ => Pulls::UntilStopped,
        };
        let writer = self.segments.options(&place.archive, file)?;
        let hooks = Hooks {
            command: self.alarm_exec.clone().or_else(|| file.alarm_exec.clone()),
            url: self.alarm_url.clone().or_else(|| file.alarm_url.clone()),
            name: place.name.clone(),
        };
        let teller = hooks.start()?;
        let archive = poll::archive(&place.archive, &place.name, &source).await?;
        let startpos = archive.manifest().start;
        let home = place::sentinel(&place.archive)?;
        Sentinel::create(&home, Control { startpos, apply: true, ..Control::default() })?;
        let (stopping, stop) = watch::channel(false);
        let (mut interrupt, mut terminate) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stopping.send_replace(true);
            // As long as anybody listens.
            stopping.closed().await;
        });
        let options = Options {
            archive,
            source,
            tables,
            writer,
            jobs: self.jobs.into(),
            lock_wait: self.lock_wait.0,
            pulls,
            stop,
        };
        let tell = |alarm: &Alarm, is_raised: bool| teller.tell(&change(alarm, is_raised, now()));
        let outcome = poll::run(options, &tell).await?;
        print::report(everywhere.json, &outcome, || table(&outcome))?;
        match outcome.failed.iter().next() {
            Some((name, why)) if self.once || self.from.is_some() => {
                Err(Fault::stop(match outcome.failed.len() {
                    1 => why.clone(),
                    count => format!("{count} tables could not be pulled; {name}: {why}"),
                })
                .hint("`pgsluice poll status` tells how far each table is"))
            }
            _ => Ok(()),
        }
    }

    /// Those of the file that are meant.
    fn tables(&self, file: &File) -> Result<Vec<Table>, Fault> {
        let mut tables = tables(file)?;
        if let Some(text) = &self.table {
            let (schema, name) =
                settings::table_name(text).map_err(|why| Fault::usage(format!("--table: {why}")))?;
            tables.retain(|table| table.schema == schema && table.name == name);
            let Some(table) = tables.first() else {
                return Err(Fault::usage(format!("{text} is not in [[poll]]")));
            };
            if self.from.is_some() {
                match table.method {
                    Method::Append if !self.append_again => {
                        return Err(Fault::usage(format!(
                            "{text} is polled by method append: rows that were brought before would be there twice"
                        ))
                        .hint("say so with --append-again, and remove them from the target first"));
                    }
                    Method::Append | Method::Upsert => {}
                    Method::Queue | Method::Snapshot => {
                        return Err(Fault::usage(format!(
                            "a range of {text} can't be pulled again: method {} has no control column",
                            table.method.name()
                        ))
                        .hint("leave out --from and --to"));
                    }
                }
            }
        }
        Ok(tables)
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Fault> {
    signal(kind).map_err(|error| Fault::stop(format!("cannot listen for signals: {error}")))
}

fn change(alarm: &Alarm, is_raised: bool, now: Timestamp) -> Change {
    let told = serve::Alarm {
        alarm: alarm.kind,
        subject: alarm.table.clone(),
        level: if alarm.is_critical { Level::Critical } else { Level::Warning },
        since: now,
        message: alarm.message.clone(),
        cure: alarm.cure.clone(),
    };
    if is_raised { Change::Raised(told) } else { Change::Over(told) }
}

fn table(outcome: &Outcome) -> String {
    let mut rows = vec![
        ("pulls", outcome.pulls.to_string()),
        ("rows", outcome.rows.to_string()),
        ("deleted", outcome.deleted.to_string()),
        ("durable", outcome.through.to_string()),
    ];
    rows.extend(outcome.failed.iter().map(|(table, why)| (table.as_str(), why.clone())));
    print::pairs(&rows)
}

/// What the log's last transaction says.
fn status(archive: &ArchiveArguments, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
    let archive = archive.place(file)?.archive.open()?;
    let last = poll::last_state(&archive)?;
    let polled = last.as_ref().map(|(_, state)| state.polled()).unwrap_or_default();
    let json = serde_json::json!({
        "through": last.as_ref().map(|(through, _)| through),
        "tables": polled,
    });
    print::report(everywhere.json, &json, || table_of(&polled))
}

pub(super) fn table_of(polled: &[Polled<'_>]) -> String {
    let header =
        ["table", "method", "last value", "last run", "rows", "deletes", "limit", "decided by", "last error"];
    print::columns(&header, polled.iter().map(row))
}

fn row(polled: &Polled<'_>) -> Vec<String> {
    let dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let state = polled.state;
    vec![
        polled.table.to_owned(),
        state.method.name().to_owned(),
        dash(state.last.as_deref()),
        dash(state.last_run.as_deref()),
        state.rows.to_string(),
        if polled.sees_deletes { "seen" } else { "not seen" }.to_owned(),
        dash(state.limit.as_deref()),
        dash(state.limit_by.map(poll::By::name).or(state.decided_by.as_deref())),
        dash(state.error.as_deref()),
    ]
}
