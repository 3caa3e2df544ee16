//! Small files beside the archive's manifest that let an interrupted setup be finished, and a finished one be undone.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{Fault, ReplicaIdentity};
use crate::pg::tables::Table;
use crate::sentinel::replace;

const INTENT: &str = "setup.json";
const KEYLESS: &str = "keyless.json";

/// Written before the slot is created: a slot of this name that is found later without an archive is our own.
#[derive(Serialize, Deserialize)]
pub(crate) struct Intent {
    pub(crate) slot: String,
    pub(crate) system_identifier: String,
}

impl Intent {
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Fault> {
        write(folder, INTENT, self)
    }

    pub(crate) fn read(folder: &Path) -> Result<Option<Intent>, Fault> {
        read(folder, INTENT)
    }

    pub(crate) fn forget(folder: &Path) -> Result<(), Fault> {
        remove(folder, INTENT)
    }
}

/// What a table's replica identity was before it was set to FULL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptIdentity {
    pub(crate) schema: String,
    pub(crate) table: String,
    /// `d`, `n` or `i`, as in `pg_class.relreplident`.
    identity: String,
    /// Of `i`, where the index was still there.
    pub(crate) index: Option<String>,
}

impl KeptIdentity {
    /// Adds the tables to those that are remembered. One that is there already keeps its first entry: it was FULL by our
    /// own doing when it was looked at again.
    pub(crate) fn remember(folder: &Path, tables: &[Table]) -> Result<(), Fault> {
        let mut kept = KeptIdentity::read(folder)?;
        for table in tables {
            if kept.iter().any(|entry| entry.schema == table.schema && entry.table == table.name) {
                continue;
            }
            let identity = match table.identity {
                ReplicaIdentity::Default => "d",
                ReplicaIdentity::Nothing => "n",
                ReplicaIdentity::Index => "i",
                ReplicaIdentity::Full => continue,
            };
            kept.push(KeptIdentity {
                schema: table.schema.clone(),
                table: table.name.clone(),
                identity: identity.into(),
                index: table.identity_index.clone(),
            });
        }
        write(folder, KEYLESS, &kept)
    }

    pub(crate) fn read(folder: &Path) -> Result<Vec<KeptIdentity>, Fault> {
        Ok(read(folder, KEYLESS)?.unwrap_or_default())
    }

    pub(crate) fn forget(folder: &Path) -> Result<(), Fault> {
        remove(folder, KEYLESS)
    }

    pub(crate) fn identity(&self) -> ReplicaIdentity {
        match self.identity.as_str() {
            "n" => ReplicaIdentity::Nothing,
            "i" => ReplicaIdentity::Index,
            _ => ReplicaIdentity::Default,
        }
    }
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Fault {
    Fault::stop(format!("{doing} {}: {error}", path.display()))
}

fn write(folder: &Path, name: &str, value: &impl Serialize) -> Result<(), Fault> {
    let path = folder.join(name);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| failed("creating", folder, &e))?;
    let text = serde_json::to_vec_pretty(value).map_err(|e| failed("writing", &path, &e.into()))?;
    replace(&path, &text).map_err(|e| failed("writing", &path, &e))
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, Fault> {
    let path: PathBuf = folder.join(name);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| failed("reading", &path, &e))?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Fault::person(format!("{} is damaged: {error}", path.display())))
}

fn remove(folder: &Path, name: &str) -> Result<(), Fault> {
    let path = folder.join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removing", &path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::tables::PrimaryKey;

    #[test]
    fn the_first_identity_is_the_one_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = Table {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            partitioned: false,
            ancestors: Vec::new(),
            logged: true,
            identity: ReplicaIdentity::Nothing,
            identity_index: None,
            primary_key: PrimaryKey::Absent,
            owned: true,
            denied: Vec::new(),
            row_security: false,
            columns: Vec::new(),
        };
        KeptIdentity::remember(folder.path(), std::slice::from_ref(&table)).unwrap();
        table.identity = ReplicaIdentity::Default;
        KeptIdentity::remember(folder.path(), std::slice::from_ref(&table)).unwrap();
        let kept = KeptIdentity::read(folder.path()).unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept.first().unwrap().identity(), ReplicaIdentity::Nothing);
    }
}
