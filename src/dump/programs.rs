//! pg_dump and pg_restore: where they are, and how they are run.
//!
//! They get the connection by environment variables alone, since what is on a command line everybody can read, and none of the `PG*` variables
//! that we were started with. Neither outlives us: what they write goes through a pipe, which breaks when we are killed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;

use crate::model::Fault;
use crate::pg::Conninfo;

use super::Wanted;

/// Where they are looked for, separated as in `PATH`; then nowhere else.
const FOLDER_VARIABLE: &str = "PGSLUICE_PG_BIN";

/// Packages put them into folders of these, with the version in the name, so that several can be there.
const PACKAGED: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// Of what a program says when it fails, as much as a message needs.
const WORDS_BYTES_MAX: usize = 4000;

/// Both programs of one installation.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    major: u32,
}

impl Programs {
    /// Those that can read a server of that `server_version_num`: of its major version, or else of the next one above it that is there.
    pub async fn find(source_version: u32) -> Result<Programs, Fault> {
        Programs::among(&folders(), source_version).await
    }

    /// As [`Programs::find`], in these folders.
    pub async fn among(folders: &[PathBuf], source_version: u32) -> Result<Programs, Fault> {
        let wanted = source_version / 10_000;
        let mut found = BTreeMap::new();
        for folder in folders {
            if let Some(major) = major_version(folder).await {
                found.entry(major).or_insert_with(|| folder.clone());
            }
        }
        if let Some((&major, folder)) = found.range(wanted..).next() {
            return Ok(Programs { folder: folder.clone(), major });
        }
        let fault = match found.last_key_value() {
            None => Fault::stop("pg_dump and pg_restore are not installed"),
            Some((newest, folder)) => Fault::stop(format!(
                "pg_dump can't read a server of version {wanted}: the newest one is of version {newest}, in {}",
                folder.display()
            )),
        };
        Err(fault.hint(format!(
            "install the client programs of PostgreSQL {wanted} or later (the package postgresql-client-{wanted}, or \
             postgresql{wanted}), or say in {FOLDER_VARIABLE} in which folder they are"
        )))
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    /// Writes the schema of the source into `file`, so that it is there whole or not at all: everything but data, publications and
    /// subscriptions. With a snapshot, as that shows it.
    pub async fn dump(
        &self,
        source: &Conninfo,
        wanted: &Wanted,
        snapshot: Option<&str>,
        file: &Path,
    ) -> Result<(), Fault> {
        let environment = source.libpq_environment()?;
        environment.understood_by(self.major)?;
        let mut command = self.command("pg_dump");
        command.envs(environment.variables());
        // Not --schema-only, which would leave out which materialized views are to be filled.
        command.args(["--section=pre-data", "--section=post-data", "--no-blobs", "--no-password"]);
        command.args(["--format=custom", "--encoding=UTF8", "--no-publications", "--no-subscriptions"]);
        command.arg("--lock-wait-timeout=60000");
        command.args(wanted.arguments());
        command.args(snapshot.map(|snapshot| format!("--snapshot={snapshot}")));
        let staged = file.with_added_extension("tmp");
        let doing = |e: std::io::Error| Fault::stop(format!("writing {}: {e}", file.display()));
        let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged);
        let mut output = tokio::fs::File::from_std(open.map_err(doing)?);
        run(command, "pg_dump", "", &mut output).await?;
        let put = async {
            output.sync_all().await?;
            std::fs::rename(&staged, file)?;
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        put.await.map_err(doing)
    }

    /// The script that makes these entries of a dump.
    pub(super) async fn script(&self, file: &Path, wanted: &Wanted, ids: &[u32]) -> Result<String, Fault> {
        let mut command = self.command("pg_restore");
        command.args(["--use-list=/dev/stdin", "--file=-"]).args(wanted.arguments()).arg(file);
        let list: String = ids.iter().map(|id| format!("{id};\n")).collect();
        let mut script = Vec::new();
        run(command, "pg_restore", &list, &mut script).await?;
        String::from_utf8(script).map_err(|_| Fault::stop("pg_restore wrote what is not UTF-8"))
    }

    fn command(&self, name: &str) -> Command {
        clean_command(&self.folder.join(name))
    }
}

/// One that knows nothing of our own connections and settings, and speaks English.
fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Gives the program its input and takes its output, up to its end. What it complains about is the fault, or a warning where it succeeds.
async fn run(
    mut command: Command,
    name: &str,
    input: &str,
    output: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Fault> {
    let doing = |e: std::io::Error| Fault::stop(format!("running {name}: {e}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(doing)?;
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Fault::stop(format!("running {name}: it has no pipes")));
    };
    let feed = async move {
        match stdin.write_all(input.as_bytes()).await {
            // It ended early; how it did tells more.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    };
    let take = async {
        tokio::io::copy(&mut stdout, output).await?;
        output.flush().await
    };
    let mut words = Vec::new();
    tokio::try_join!(feed, take, stderr.read_to_end(&mut words)).map_err(doing)?;
    let status = child.wait().await.map_err(doing)?;
    let words = said(name, &words);
    if !status.success() {
        return Err(failure(name, status, &words));
    }
    for line in words {
        tracing::warn!(program = name, said = line, "told by a program of postgresql");
    }
    Ok(())
}

fn failure(name: &str, status: ExitStatus, words: &[String]) -> Fault {
    let said = match words {
        [] => status.to_string(),
        words => words.join("; "),
    };
    let message = format!("{name} failed: {said}");
    let passes = [
        "server closed the connection",
        "terminating connection",
        "could not connect",
        "connection to server",
        "lock timeout",
        "snapshot",
    ];
    match passes.iter().any(|what| said.contains(what)) && !said.contains("authentication") {
        true => Fault::retry(message),
        false => Fault::stop(message),
    }
}

/// Its lines, without its own name in front.
fn said(name: &str, words: &[u8]) -> Vec<String> {
    let words = words.get(..WORDS_BYTES_MAX).unwrap_or(words);
    let words = String::from_utf8_lossy(words).into_owned();
    let lines = words.lines().map(|line| {
        let line =
            line.trim().strip_prefix(name).and_then(|line| line.strip_prefix(": ")).unwrap_or(line.trim());
        line.strip_prefix("error: ").unwrap_or(line).to_owned()
    });
    lines.filter(|line| !line.is_empty()).collect()
}

/// The folders to look in, the better known ones first.
fn folders() -> Vec<PathBuf> {
    let split = |name| std::env::var_os(name).map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
    if let Some(named) = split(FOLDER_VARIABLE) {
        return named;
    }
    let mut folders = split("PATH").unwrap_or_default();
    for (parent, prefix) in PACKAGED {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        let versions = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        folders.extend(versions.map(|entry| entry.path().join("bin")));
    }
    folders
}

/// That of the programs in a folder, where both are there.
async fn major_version(folder: &Path) -> Option<u32> {
    for name in ["pg_dump", "pg_restore"] {
        let program = std::fs::canonicalize(folder.join(name)).ok()?;
        // A link to something else is a wrapper, which chooses the version anew each time.
        if program.file_name() != Some(OsStr::new(name)) {
            return None;
        }
    }
    let told = clean_command(&folder.join("pg_dump")).arg("--version").output().await.ok()?;
    major_of(&String::from_utf8_lossy(&told.stdout))
}

/// Of `pg_dump (PostgreSQL) 15.20 (Debian ...)`.
fn major_of(told: &str) -> Option<u32> {
    let version = told.split_once("(PostgreSQL) ")?.1;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_words() {
        assert_eq!(major_of("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("pg_dump (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(major_of("something else 3"), None);
        assert_eq!(said("pg_dump", b"pg_dump: error: no\n  DETAIL: why\n\n"), ["no", "DETAIL: why"]);
    }
}
