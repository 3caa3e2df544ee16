//! What shells and `man` know of the commands, made from the same definitions as `--help`.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use rustix::fs::Mode;

use super::{Cli, print};
use crate::model::Fault;

/// Print the script that lets a shell complete commands and flags
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice completions bash > ~/.local/share/bash-completion/completions/pgsluice
  pgsluice completions zsh > ~/.zfunc/_pgsluice
  pgsluice completions fish > ~/.config/fish/completions/pgsluice.fish")]
pub(crate) struct CompletionsCommand {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsCommand {
    pub(crate) fn run(&self) -> Result<(), Fault> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "pgsluice", &mut script);
        print::line(String::from_utf8_lossy(&script).trim_end())
    }
}

/// Write a manual page of each command into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice man /usr/local/share/man/man1")]
pub(crate) struct ManCommand {
    /// Made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManCommand {
    pub(crate) fn run(&self) -> Result<(), Fault> {
        let failed =
            |error| Fault::stop(format!("writing manual pages into {}: {error}", self.folder.display()));
        // Unlike all else that the program writes, they are for everybody.
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        clap_mangen::generate_to(Cli::command(), &self.folder).map_err(failed)
    }
}
