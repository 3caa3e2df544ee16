//! The schema of a database, as pg_dump says it. Hides pg_dump and pg_restore: where they are, how they are run, and what is in the file
//! that goes from one to the other.
//!
//! ```text
//! source ─► pg_dump ─► file ─┬─► toc ─► entries, each with its phase ─► chosen ones ─┐
//!                            └─► pg_restore ◄───────────────────────────────────────┘──► SQL
//! ```
//!
//! The file says what there is and what needs what; that is read here, since the listing that pg_restore gives can't be read back. The SQL is
//! pg_restore's, which knows of owners and access methods; of an entry that has neither it stands in the file as it is. Deliberately absent:
//! a connection to the target (`copy`).

mod choose;
mod entry;
mod programs;
mod script;
mod toc;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

use crate::model::Fault;
use crate::pg::pattern::Pattern;

pub use entry::{Entry, Phase};
pub use programs::Programs;

/// What of the objects is kept besides themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub owners: bool,
    pub privileges: bool,
    pub tablespaces: bool,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted { owners: true, privileges: true, tablespaces: true }
    }
}

impl Wanted {
    /// For pg_dump and for pg_restore.
    fn arguments(self) -> impl Iterator<Item = &'static str> {
        let arguments = [
            (self.owners, "--no-owner"),
            (self.privileges, "--no-privileges"),
            (self.tablespaces, "--no-tablespaces"),
        ];
        arguments.into_iter().filter(|(wanted, _)| !wanted).map(|(_, argument)| argument)
    }
}

/// A file of pg_dump's, and what of it is to be made.
#[derive(Debug)]
pub struct Dump {
    programs: Programs,
    file: PathBuf,
    wanted: Wanted,
    entries: Vec<Entry>,
    /// pg_restore's script of no entries: what it sets before the first one.
    head: OnceCell<String>,
}

/// An entry with its comments, labels and privileges.
#[derive(Clone, Debug)]
pub struct Unit<'a> {
    pub main: &'a Entry,
    followers: Vec<&'a Entry>,
}

impl<'a> Unit<'a> {
    pub fn entries(&self) -> impl Iterator<Item = &'a Entry> {
        std::iter::once(self.main).chain(self.followers.iter().copied())
    }

    /// The entries that must be there before it, by their ids.
    pub fn needs(&self) -> &'a [u32] {
        &self.main.needs
    }
}

impl Dump {
    /// Reads what is in the file; things of our own are no part of it.
    pub fn open(programs: &Programs, file: &Path, wanted: Wanted) -> Result<Dump, Fault> {
        let bytes =
            std::fs::read(file).map_err(|e| Fault::stop(format!("reading {}: {e}", file.display())))?;
        let items = toc::read(&bytes).map_err(|e| Fault::stop(format!("{}: {e}", file.display())))?;
        let entries = choose::without_ours(entry::entries(items, wanted.tablespaces));
        Ok(Dump { programs: programs.clone(), file: file.to_owned(), wanted, entries, head: OnceCell::new() })
    }

    /// Leaves out all tables but the chosen ones (`wanted`, where it names any, without `excluded`), and what can't be without them; says what
    /// that is, a line each. Schemas, types, functions and extensions that need no table stay.
    pub fn choose(self, wanted: &[Pattern], excluded: &[Pattern]) -> Result<(Dump, Vec<String>), Fault> {
        let (entries, left_out) = choose::choose(self.entries, wanted, excluded)?;
        Ok((Dump { entries, ..self }, left_out))
    }

    /// In the order of the dump.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What is made in a phase, in an order in which it can be made.
    pub fn units(&self, phase: Phase) -> Vec<Unit<'_>> {
        let here = || self.entries.iter().filter(|entry| entry.phase == phase);
        let ids: HashSet<u32> = here().map(|entry| entry.id).collect();
        let mut followers: HashMap<u32, Vec<&Entry>> = HashMap::new();
        let (following, leading): (Vec<&Entry>, Vec<&Entry>) =
            here().partition(|entry| entry.of.is_some_and(|of| ids.contains(&of)));
        for entry in following {
            followers.entry(entry.of.unwrap_or_default()).or_default().push(entry);
        }
        let mut units: Vec<Unit<'_>> = leading
            .into_iter()
            .map(|main| Unit { main, followers: followers.remove(&main.id).unwrap_or_default() })
            .collect();
        // As pg_restore does: a refresh may fire event triggers, and may read whatever there is.
        units.sort_by_key(|unit| match unit.main.kind.as_str() {
            "MATERIALIZED VIEW DATA" => 1,
            "EVENT TRIGGER" => 2,
            _ => 0,
        });
        units
    }

    /// The SQL of these entries for a server that has those settings, in the order given, but for privileges, which pg_restore puts to the end. It can be
    /// run in one transaction, and sets the session up as it needs it.
    pub async fn sql(&self, entries: &[&Entry], known_settings: &BTreeSet<String>) -> Result<String, Fault> {
        let script = async |ids: &[u32]| self.programs.script(&self.file, &self.wanted, ids).await;
        // pg_restore reads the whole file each time, which for each index of very many would take longer than to make it.
        if let Some(scripts) = entries.iter().map(|entry| entry.script.as_deref()).collect::<Option<Vec<_>>>()
        {
            let head = self.head.get_or_try_init(|| script(&[])).await?;
            return Ok(script::clean(head, known_settings) + &scripts.concat());
        }
        let ids: Vec<u32> = entries.iter().map(|entry| entry.id).collect();
        Ok(script::clean(&script(&ids).await?, known_settings))
    }
}
