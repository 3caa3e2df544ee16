//! What was typed becomes what is needed: flags, then environment, then file, validated whole before anything runs.
//! One small file a command.

mod apply;
mod archive;
mod arguments;
mod backfill;
mod bases;
mod cleanup;
mod clone;
mod compare;
mod completions;
mod conduct;
mod config;
mod copying;
mod cutover;
mod dead;
mod doctor;
mod export;
mod follow;
mod history;
mod keepsake;
mod keys;
mod log;
mod notify;
mod pin;
mod place;
mod points;
mod poll;
mod preflight;
mod print;
mod quickstart;
mod reach;
mod receive;
mod replay;
mod retention;
mod rules;
mod scratch;
mod sentinel;
pub mod setup;
mod size;
mod status;
mod watching;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use rustix::fs::Mode;

use crate::model::Fault;
use arguments::Everywhere;
use config::File;

/// Takes the changes of a PostgreSQL database off its replication slot, keeps them in a log, and replays them into a target
#[derive(Debug, clap::Parser)]
#[command(name = "pgsluice", version, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "Example:
  pgsluice setup --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop
  pgsluice status --name shop --source postgresql://app@db1/shop --target postgresql://app@db2/shop")]
struct Cli {
    #[command(flatten)]
    everywhere: Everywhere,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Quickstart(quickstart::QuickstartCommand),
    Setup(setup::SetupCommand),
    Clone(clone::CloneCommand),
    Backfill(backfill::BackfillCommand),
    Follow(follow::FollowCommand),
    Receive(receive::ReceiveCommand),
    Poll(poll::PollCommand),
    Apply(apply::ApplyCommand),
    Replay(replay::ReplayCommand),
    Cutover(cutover::CutoverCommand),
    Sentinel(sentinel::SentinelCommand),
    Pin(pin::PinCommand),
    Status(status::StatusCommand),
    Doctor(doctor::DoctorCommand),
    Archive(archive::ArchiveCommand),
    History(history::HistoryCommand),
    Dead(dead::DeadCommand),
    Rules(rules::RulesCommand),
    Export(export::ExportCommand),
    Compare(compare::CompareCommand),
    Cleanup(cleanup::CleanupCommand),
    Completions(completions::CompletionsCommand),
    #[command(hide = true)]
    Man(completions::ManCommand),
}

impl Command {
    async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        match self {
            Command::Quickstart(command) => command.run(everywhere, file).await,
            Command::Setup(command) => command.run(everywhere, file).await,
            Command::Clone(command) => command.run(everywhere, file).await,
            Command::Backfill(command) => command.run(everywhere, file).await,
            Command::Follow(command) => command.run(everywhere, file).await,
            Command::Receive(command) => command.run(everywhere, file).await,
            Command::Poll(command) => command.run(everywhere, file).await,
            Command::Apply(command) => command.run(everywhere, file).await,
            Command::Replay(command) => command.run(everywhere, file).await,
            Command::Archive(command) => command.run(everywhere, file).await,
            Command::History(command) => command.run(everywhere, file).await,
            Command::Dead(command) => command.run(everywhere, file).await,
            Command::Rules(command) => command.run(everywhere, file),
            Command::Export(command) => command.run(everywhere, file),
            Command::Compare(command) => command.run(everywhere, file).await,
            Command::Cutover(command) => command.run(everywhere, file).await,
            Command::Sentinel(command) => command.run(everywhere, file).await,
            Command::Pin(command) => command.run(everywhere, file).await,
            Command::Status(command) => command.run(everywhere, file).await,
            Command::Doctor(command) => command.run(everywhere, file).await,
            Command::Cleanup(command) => command.run(everywhere, file).await,
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    }
}

/// Runs what was typed. The exit code is 0 when done, and otherwise that of the fault.
pub fn main() -> ExitCode {
    // Whatever is made has rows of somebody in it.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let typed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, typed_a_password(&matches)))
    });
    let (cli, password) = match typed {
        Ok(typed) => typed,
        // Help and version are asked for; the rest is wrong usage, which clap gives 2 as well.
        Err(error) => error.exit(),
    };
    match run(&cli, password) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            print::fault(&fault);
            ExitCode::from(fault.exit_code())
        }
    }
}

fn run(cli: &Cli, password: bool) -> Result<(), Fault> {
    let file = File::read(cli.everywhere.config.as_deref())?;
    log::start(&cli.everywhere, file.log_format)?;
    if password {
        tracing::warn!(
            "a password was typed on the command line, where other users can read it; use PGSLUICE_SOURCE and PGSLUICE_TARGET, PGPASSFILE or --config"
        );
    }
    // One worker: what has much to do has a thread of its own, and a second one would be woken again and again to find nothing,
    // which a live applier feels.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Fault::stop(format!("starting the runtime: {error}")))?;
    runtime.block_on(cli.command.run(&cli.everywhere, &file))
}

/// Whether a connection string with a password stands on the command line itself, not in the environment.
fn typed_a_password(matches: &ArgMatches) -> bool {
    let here = ["source", "target"].iter().any(|id| {
        matches.try_contains_id(id).unwrap_or(false)
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && matches.get_one::<String>(id).is_some_and(|text| arguments::holds_password(text))
    });
    here || matches.subcommand().is_some_and(|(_, inner)| typed_a_password(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("pgsluice") || command.get_name() == "set", "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn a_password_counts_only_where_it_was_typed() {
        let typed =
            |arguments: &[&str]| typed_a_password(&Cli::command().try_get_matches_from(arguments).unwrap());
        assert!(typed(&["pgsluice", "setup", "--source", "postgres://u:p@h/d"]));
        assert!(typed(&["pgsluice", "sentinel", "set", "endpos", "current", "--source", "password=p"]));
        assert!(!typed(&["pgsluice", "setup", "--source", "postgres://u@h/d"]));
    }
}
