//! The service file, the password file, and the name of the operating system's user.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::Secret;
use crate::model::Fault;

/// The pairs of section `[service]`, or `None` where the file or the section isn't there.
pub(super) fn service(path: &Path, service: &str) -> Result<Option<Vec<(String, String)>>, Fault> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
    let mut found: Option<Vec<(String, String)>> = None;
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            inside = found.is_none() && section.strip_suffix(']') == Some(service);
            if inside {
                found = Some(Vec::new());
            }
            continue;
        }
        if !inside || line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("{} line {}", path.display(), number.saturating_add(1));
        match (line.split_once('='), &mut found) {
            (Some(("service" | "servicefile", _)), _) => {
                return Err(Fault::usage(format!("{}: a service can't name another service", place())));
            }
            (Some((key, value)), Some(pairs)) => pairs.push((key.trim().into(), value.trim().into())),
            _ => return Err(Fault::usage(format!("{}: no key=value pair", place()))),
        }
    }
    Ok(found)
}

/// What a line of the password file is matched with.
pub(super) struct Wanted<'a> {
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password of the first line that fits. As in libpq, a file that others may read is left alone.
pub(super) fn password(path: &Path, wanted: &Wanted<'_>) -> Option<Secret> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "password file is not a plain file; ignored");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "password file is readable by others; ignored, chmod 0600 mends it");
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| password_of_line(line, wanted))
}

fn password_of_line(line: &str, wanted: &Wanted<'_>) -> Option<Secret> {
    let mut rest = line.chars();
    for wanted in [wanted.host, wanted.port, wanted.database, wanted.user] {
        let (text, ended, escaped) = field(&mut rest);
        // A wildcard only where the star stands alone and bare.
        if !ended || (text != wanted && (text != "*" || escaped)) {
            return None;
        }
    }
    let (password, ..) = field(&mut rest);
    (!password.is_empty()).then_some(Secret(password))
}

/// One field up to a bare colon: its text, whether a colon ended it, and whether it held an escape.
fn field(rest: &mut std::str::Chars<'_>) -> (String, bool, bool) {
    let (mut text, mut escaped) = (String::new(), false);
    while let Some(character) = rest.next() {
        match character {
            ':' => return (text, true, escaped),
            '\\' => {
                escaped = true;
                text.extend(rest.next());
            }
            _ => text.push(character),
        }
    }
    (text, false, escaped)
}

/// A private key that others may read is refused: owned by us with 0600, or by root with at most 0640 (as libpq).
pub(in crate::pg) fn key_is_private(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| {
        let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
        metadata.permissions().mode() & forbidden == 0
    })
}

/// The name that the operating system gives to who runs this.
pub(super) fn operating_system_user() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid.as_str())).then(|| name.to_owned())
    })
}
