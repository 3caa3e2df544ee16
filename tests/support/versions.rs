//! Which PostgreSQL servers are at hand, and where.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process;

/// A major version and the folder of its programs.
#[derive(Clone, Debug)]
pub struct Version {
    pub major: u32,
    pub bin: PathBuf,
}

impl Version {
    /// All that are found: `PGSLUICE_PG_BIN_<major>` before distribution packages before what `tools/servers` made.
    pub fn all() -> Vec<Version> {
        let mut found = BTreeMap::new();
        for (name, folder) in std::env::vars() {
            if let Some(major) = name.strip_prefix("PGSLUICE_PG_BIN_").and_then(|text| text.parse().ok()) {
                found.insert(major, PathBuf::from(folder));
            }
        }
        for root in [PathBuf::from("/usr/lib/postgresql"), servers_folder()] {
            for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
                let Ok(major) = entry.file_name().to_string_lossy().parse() else { continue };
                let bin = entry.path().join("bin");
                if bin.join("initdb").exists() {
                    found.entry(major).or_insert(bin);
                }
            }
        }
        found.into_iter().map(|(major, bin)| Version { major, bin }).collect()
    }

    pub fn find(major: u32) -> Option<Version> {
        Version::all().into_iter().find(|version| version.major == major)
    }

    /// `PGSLUICE_PG_VERSION`, else the newest of the distribution, else the newest of all.
    pub fn default_one() -> Version {
        let all = Version::all();
        if let Ok(wanted) = std::env::var("PGSLUICE_PG_VERSION") {
            let major: u32 = wanted.parse().expect("PGSLUICE_PG_VERSION is a major version such as 15");
            let known: Vec<u32> = all.iter().map(|version| version.major).collect();
            return Version::find(major).unwrap_or_else(|| {
                panic!("PostgreSQL {major} (PGSLUICE_PG_VERSION) is not among {known:?}")
            });
        }
        let packaged = all.iter().rfind(|version| version.bin.starts_with("/usr/lib/postgresql"));
        packaged
            .or(all.last())
            .cloned()
            .expect("no PostgreSQL server found: install postgresql, or set PGSLUICE_PG_BIN_<major>")
    }

    /// A program of this version, else of the version that is nearest above it, else of the newest that has it: some packages
    /// have the server only, and a pg_dump reads servers of its own version and older ones.
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.bin.join(name);
        if own.exists() {
            return own;
        }
        let all = Version::all();
        let (newer, older): (Vec<_>, Vec<_>) = all.into_iter().partition(|other| other.major > self.major);
        let others = newer.into_iter().chain(older.into_iter().rev()).map(|other| other.bin.join(name));
        others.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} not found"))
    }

    /// The library of wal2json, where it is installed.
    pub fn wal2json(&self) -> Option<Vec<u8>> {
        std::fs::read(self.bin.join("../lib/wal2json.so")).ok()
    }

    /// Whether wal2json prints all numbers: 2.6 and later.
    pub fn wal2json_prints_all_numbers(&self) -> bool {
        let option = b"numeric-data-types-as-string";
        self.wal2json().is_some_and(|library| library.windows(option.len()).any(|bytes| bytes == option))
    }

    /// Such as `15.20`: what a template belongs to.
    pub fn full(&self) -> String {
        let text = process::output(Command::new(self.bin.join("postgres")).arg("--version"));
        let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        word.unwrap_or_else(|| panic!("no version in '{text}'")).to_owned()
    }
}

/// Where `tools/servers` puts what it installs; servers don't run as root, who therefore keeps them outside of his home.
fn servers_folder() -> PathBuf {
    match std::env::var_os("PGSLUICE_SERVERS") {
        Some(folder) => folder.into(),
        None if process::is_root() => Path::new("/var/cache/pgsluice/servers").into(),
        None => cache_folder().join("servers"),
    }
}

pub fn cache_folder() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("PGSLUICE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("pgsluice")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/pgsluice")))
        .unwrap_or_else(|| std::env::temp_dir().join("pgsluice-cache"))
}
