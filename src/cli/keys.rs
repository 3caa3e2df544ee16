//! Where the keys of an archive come from: a file, the environment, or a command.

use std::fs::File as KeyFile;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::config::File;
use crate::model::Fault;
use crate::segment::{Keyring, wipe};

const VARIABLE: &str = "PGSLUICE_ARCHIVE_KEY";
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// More is not read of a file or a command.
const TEXT_BYTES_MAX: u64 = 64 << 10;
/// Of what a command that failed has said, so much is shown.
const SAID_BYTES_MAX: usize = 1 << 10;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KeyArguments {
    /// Encrypt what is archived, with the first key in this file; the others only read. A key is 64 hexadecimal digits on a line of its
    /// own, and the file must be its owner's alone. In the environment PGSLUICE_ARCHIVE_KEY holds the keys themselves
    #[arg(long, value_name = "FILE", conflicts_with = "key_command", help_heading = "Encryption")]
    key_file: Option<PathBuf>,
    /// Take what would be in --key-file from the output of a shell command
    #[arg(long, value_name = "COMMAND", help_heading = "Encryption")]
    key_command: Option<String>,
}

impl KeyArguments {
    /// No keys where none were given.
    pub(crate) fn keyring(&self, file: &File) -> Result<Keyring, Fault> {
        if let Some(path) = &self.key_file {
            return from_file(path);
        }
        if let Some(command) = &self.key_command {
            return from_command(command, COMMAND_PATIENCE);
        }
        if let Some(text) = std::env::var_os(VARIABLE) {
            return parse(text.into_encoded_bytes(), VARIABLE);
        }
        match (&file.key_file, &file.key_command) {
            (Some(path), None) => from_file(Path::new(path)),
            (None, Some(command)) => from_command(command, COMMAND_PATIENCE),
            (Some(_), Some(_)) => Err(Fault::usage("--config has both key-file and key-command")),
            (None, None) => Ok(Keyring::default()),
        }
    }
}

fn parse(mut text: Vec<u8>, place: &str) -> Result<Keyring, Fault> {
    let parsed = Keyring::parse(&text);
    wipe(&mut text);
    let hint = "`pgsluice archive new-key` makes a key; each has a line of its own";
    let keys = parsed.map_err(|error| Fault::usage(format!("{place}: {error}")).hint(hint))?;
    match keys.is_empty() {
        true => Err(Fault::usage(format!("{place} holds no key")).hint(hint)),
        false => Ok(keys),
    }
}

fn from_file(path: &Path) -> Result<Keyring, Fault> {
    let place = format!("the key file {}", path.display());
    let read = || {
        let file = KeyFile::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut text = Vec::new();
        file.take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
        Ok::<_, std::io::Error>((mode, text))
    };
    let (mode, text) = read().map_err(|error| Fault::usage(format!("cannot read {place}: {error}")))?;
    if mode & 0o077 != 0 {
        return Err(Fault::usage(format!("{place} is open to others, with mode {:04o}", mode & 0o7777))
            .hint(format!("chmod 600 {}; and if others may have read it, make a new key", path.display())));
    }
    parse(text, &place)
}

/// What a command prints. It is not told apart from its shell, whose end is waited for.
fn from_command(command: &str, patience: Duration) -> Result<Keyring, Fault> {
    let failed = |what: String| {
        Fault::usage(format!("the key command {what}")).hint("run it by itself; it must print the keys")
    };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("can't be run: {error}")))?;
    let deadline = Instant::now() + patience;
    let (printed, said) = (gather(child.stdout.take()), gather(child.stderr.take()));
    let ended =
        wait(&mut child, deadline).map_err(|error| failed(format!("can't be waited for: {error}")))?;
    let late = || failed(format!("has not ended within {} seconds", patience.as_secs()));
    let status = ended.ok_or_else(late)?;
    let left = || deadline.saturating_duration_since(Instant::now());
    if !status.success() {
        let said = said.recv_timeout(left()).unwrap_or_default();
        let said = said.get(said.len().saturating_sub(SAID_BYTES_MAX)..).unwrap_or_default();
        let said = String::from_utf8_lossy(said);
        return Err(failed(format!("has failed with {status}: {}", said.trim())));
    }
    parse(printed.recv_timeout(left()).map_err(|_| late())?, "what the key command prints")
}

/// Reads all of it, on a thread of its own: something that the command has left behind may hold it open.
fn gather(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, gathered) = channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(pipe) = pipe {
            // What was read until an error may still tell something.
            let _ = pipe.take(TEXT_BYTES_MAX).read_to_end(&mut text);
        }
        let _ = sender.send(text);
    });
    gathered
}

/// None where it was ended, since it was too slow.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<std::process::ExitStatus>> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Remedy;

    fn refused(result: Result<Keyring, Fault>, what: &str) {
        let fault = result.unwrap_err();
        assert_eq!(fault.remedy, Remedy::Usage);
        assert!(fault.message.contains(what), "{}", fault.message);
        assert!(!fault.message.contains("5ec"), "{}", fault.message);
    }

    #[test]
    fn a_command_gives_keys_or_says_why_not() {
        let run = |command: &str| from_command(command, Duration::from_secs(5));
        assert_eq!(run(&format!("echo {0}; echo; echo {0}", "a1".repeat(32))).unwrap().ids().count(), 2);
        refused(run("echo 5ec; echo 5ec; exit 0"), "line 1");
        refused(run("true"), "no key");
        refused(
            run("echo 5ec; echo 'the vault is sealed' >&2; exit 7"),
            "exit status: 7: the vault is sealed",
        );
        refused(from_command("exec sleep 60", Duration::from_millis(100)), "has not ended within 0 seconds");
        // What it leaves behind is not waited for.
        refused(from_command("sleep 3 & exit 0", Duration::from_secs(1)), "has not ended");
    }

    #[test]
    fn a_key_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "a1".repeat(32)).unwrap();
        let mode = |mode: u32| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            from_file(&path)
        };
        assert_eq!(mode(0o600).unwrap().ids().count(), 1);
        refused(mode(0o640), "mode 0640");
        refused(mode(0o604), "mode 0604");
        mode(0o400).unwrap();
        refused(from_file(&folder.path().join("other")), "cannot read");
    }
}
