//! Who still needs which part of the log: appliers, each with how far its target is, and pins. Small JSON files beside the
//! segments, or objects where the archive has a store, so that a prune anywhere knows appliers everywhere.
//!
//! ```text
//! appliers/NAME.json   overwritten by that applier alone
//! pins/NAME.json       made once
//! pruned.json          how far a prune was about to go
//! ```
//!
//! A pin and a prune may meet: each first writes what it is about to do and then reads what the other has written, so at least one of
//! them sees the other and gives way.

use std::io::ErrorKind;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{Fault, Position};
use crate::segment::is_pin_name;
use crate::store::Put;

use super::depot::{json, parsed};
use super::{Archive, disk};

pub(super) const APPLIERS: &str = "appliers";
pub(super) const PINS: &str = "pins";
pub(super) const PRUNED: &str = "pruned.json";

/// How far a target is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Of its entry, made from all that tells it from other targets.
    pub name: String,
    pub stream: String,
    /// Host, port and database, as they were typed.
    pub target: String,
    /// A string, since JSON numbers are not safe for 64 bits.
    pub system_identifier: String,
    pub database: String,
    /// Nothing that the target may do, such as to crash, takes it back behind this.
    pub lsn: Position,
    /// RFC 3339: when it was there.
    pub time: String,
}

/// A position that the log is kept for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub name: String,
    pub lsn: Position,
    /// RFC 3339.
    pub created: String,
}

/// `pruned.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct Pruned {
    pub(super) through: Position,
}

impl Registered {
    /// What an applier's entry is called. Servers that are copies of one another are told apart by their address.
    pub fn name_of(stream: &str, target: &str, system_identifier: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let stem: String = stream.chars().map(plain).take(40).collect();
        let key = [stream, target, system_identifier].join("\0");
        let hash = blake3::hash(key.as_bytes()).to_hex();
        format!("{stem}-{}", hash.chars().take(12).collect::<String>())
    }
}

impl Archive {
    /// The targets that are fed from this archive, as far as their appliers could tell.
    pub fn appliers(&self) -> Result<Vec<Registered>, Fault> {
        self.notes(APPLIERS)
    }

    /// Notes how far a target is. Blocks on disk or network.
    pub fn register(&self, applier: &Registered) -> Result<(), Fault> {
        self.put_note(&key(APPLIERS, &applier.name), &json(applier)?)
    }

    /// `false` where there is no such applier.
    pub fn forget_applier(&self, name: &str) -> Result<bool, Fault> {
        self.remove_note(APPLIERS, name)
    }

    pub fn pins(&self) -> Result<Vec<Pin>, Fault> {
        self.notes(PINS)
    }

    /// Keeps what comes after a position, until it is unpinned. Refused where the log begins behind it.
    pub fn pin(&self, pin: &Pin) -> Result<(), Fault> {
        if !is_pin_name(pin.name.as_bytes()) {
            return Err(Fault::usage(format!("'{}' can't be a pin's name", pin.name))
                .hint("give 1 to 63 lower-case letters, digits, - and _"));
        }
        self.refuse_pin_before(self.beginning()?, pin)?;
        let key = key(PINS, &pin.name);
        if !self.put_note_once(&key, &json(pin)?)? {
            return Err(Fault::stop(format!("there is a pin {} already", pin.name))
                .hint("`pgsluice archive pins` shows it, `archive unpin` removes it"));
        }
        let refused =
            self.pruned_through().and_then(|pruned| self.refuse_pin_before(pruned.unwrap_or_default(), pin));
        refused.inspect_err(|_| {
            if let Err(error) = self.remove_note(PINS, &pin.name) {
                tracing::warn!(%error, pin = pin.name, "a pin that keeps nothing can't be removed");
            }
        })
    }

    /// Takes a pin of the archive that this one is a copy of.
    pub(super) fn take_pin(&self, pin: &Pin) -> Result<(), Fault> {
        self.put_note_once(&key(PINS, &pin.name), &json(pin)?).map(|_| ())
    }

    /// `false` where there is no such pin.
    pub fn unpin(&self, name: &str) -> Result<bool, Fault> {
        self.remove_note(PINS, name)
    }

    fn refuse_pin_before(&self, beginning: Position, pin: &Pin) -> Result<(), Fault> {
        if pin.lsn >= beginning {
            return Ok(());
        }
        Err(Fault::stop(format!("the log begins at {beginning}: what comes after {} can't be kept", pin.lsn))
            .hint("`pgsluice archive list` shows what there is to keep"))
    }

    /// How far the last prune was about to go.
    pub(crate) fn pruned_through(&self) -> Result<Option<Position>, Fault> {
        let pruned: Option<Pruned> = self.note(PRUNED)?;
        Ok(pruned.map(|pruned| pruned.through))
    }

    pub(super) fn tell_pruned(&self, through: Position) -> Result<(), Fault> {
        self.put_note(PRUNED, &json(&Pruned { through })?)
    }

    pub(super) fn notes<T: DeserializeOwned>(&self, folder: &str) -> Result<Vec<T>, Fault> {
        let names: Vec<String> = match self.depot() {
            Some(depot) => depot.store().list(folder, None)?.into_iter().map(|object| object.key).collect(),
            None => {
                let path = self.root().join(folder);
                let entries = match std::fs::read_dir(&path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                    entries => entries.map_err(|error| disk::fault("cannot list", &path, &error))?,
                };
                let mut names = Vec::new();
                for entry in entries {
                    let entry = entry.map_err(|error| disk::fault("cannot list", &path, &error))?;
                    names.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
                }
                names.sort();
                names
            }
        };
        // One that was removed since is no longer needed.
        let notes = names.iter().filter(|name| name.ends_with(".json")).map(|name| self.note(name));
        notes.filter_map(Result::transpose).collect()
    }

    pub(super) fn note<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Fault> {
        let text = match self.depot() {
            Some(depot) => depot.store().get(key)?,
            None => {
                let path = self.root().join(key);
                match std::fs::read(&path) {
                    Ok(text) => Some(text.into()),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(disk::fault("cannot read", &path, &error)),
                }
            }
        };
        let Some(text) = text else { return Ok(None) };
        parsed(key, &text).map(Some)
    }

    pub(super) fn put_note(&self, key: &str, text: &Bytes) -> Result<(), Fault> {
        if let Some(depot) = self.depot() {
            return depot.store().put(key, text.clone());
        }
        let path = self.root().join(key);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.make_folder(folder)?;
        disk::write_once(folder, &name.to_string_lossy(), text)
            .map_err(|error| disk::fault("cannot write", &path, &error))
    }

    /// `false` where there is another one of that name.
    pub(super) fn put_note_once(&self, key: &str, text: &Bytes) -> Result<bool, Fault> {
        if let Some(depot) = self.depot() {
            return Ok(depot.store().put_once(key, text.clone())? == Put::Done);
        }
        let path = self.root().join(key);
        let fault = |error: std::io::Error| disk::fault("cannot write", &path, &error);
        if path.try_exists().map_err(fault)? {
            return Ok(false);
        }
        self.put_note(key, text).map(|()| true)
    }

    pub(super) fn remove_note(&self, folder: &str, name: &str) -> Result<bool, Fault> {
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Ok(false);
        }
        let key = key(folder, name);
        if let Some(depot) = self.depot() {
            let was_there = depot.store().size(&key)?.is_some();
            depot.store().delete(&key)?;
            return Ok(was_there);
        }
        let path = self.root().join(&key);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk::fault("cannot remove", &path, &error)),
        }
    }
}

fn key(folder: &str, name: &str) -> String {
    format!("{folder}/{name}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appliers_are_told_apart_by_all_that_tells_targets_apart() {
        let name = |stream: &str, target: &str| Registered::name_of(stream, target, "1");
        assert_eq!(name("shop", "h:1/d"), name("shop", "h:1/d"));
        assert_ne!(name("shop", "h:1/d"), name("shop", "h:2/d"));
        assert_ne!(name("a/b", "h:1/d"), name("a_b", "h:1/d"));
        assert!(name("a/b .é", "h").starts_with("a_b___-"), "{}", name("a/b .é", "h"));
    }
}
