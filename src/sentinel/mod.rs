//! How control is kept: one small object in the archive, changed by compare-and-set.
//!
//! It hides where that object is and how a change is made whole. Operators write `endpos` and `apply`, a comparison `hold`, the processes
//! that run write their positions, and each of them sees the others' changes. It is `sentinel.json`, beside the manifest: in the
//! archive's folder, where a lock makes read, change and replace one step, or in its store, where an object is replaced only while
//! it is what was read. A version that every change increments tells readers that something is new. The positions in it
//! are for looking only: what was acknowledged or applied is never decided by them.

mod file;
mod holder;
mod link;
mod object;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Fault, Position};
use crate::store::Store;

use file::File;
pub(crate) use file::replace;
pub use holder::Holder;
pub use link::{Link, Reached};
use object::Object;

/// What is kept. Positions are `0/0` where unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub startpos: Position,
    /// Where to stop; unset means never.
    pub endpos: Position,
    /// Whether what is received is also applied; otherwise it is only prefetched.
    pub apply: bool,
    pub write_lsn: Position,
    pub flush_lsn: Position,
    pub replay_lsn: Position,
    /// Unset almost always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// What appliers are asked to stand at for a while, by somebody who says again and again that he still wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Transactions whose commit ends at or before it are applied, no others. One that is further stands where it is.
    pub lsn: Position,
    /// Tells whose it is.
    pub owner: u32,
    /// Another number every few seconds. Where it stays the same its owner is gone.
    pub beat: u64,
}

impl Hold {
    /// How long it holds without a beat, by the clock of who obeys it.
    pub const LEASE: Duration = Duration::from_secs(30);
}

impl Control {
    pub fn endpos(&self) -> Option<Position> {
        (self.endpos != Position::ZERO).then_some(self.endpos)
    }
}

/// What is written: a version beside the fields.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    #[serde(flatten)]
    control: Control,
}

/// Where an archive's sentinel is kept.
#[derive(Clone, Debug)]
pub enum Home {
    /// The archive's folder.
    Folder(PathBuf),
    /// The archive's store, so that it reaches processes on other machines.
    Store(Store),
}

/// A handle on an archive's sentinel. With a store each call asks it, and may take as long as its retries.
pub struct Sentinel {
    keeper: Keeper,
    /// What [`Sentinel::changed`] has given last.
    known: Option<Control>,
}

enum Keeper {
    File(File),
    Object(Object),
}

const NAME: &str = "sentinel.json";

impl Sentinel {
    /// Makes the sentinel. One that is there stays as it is.
    pub fn create(home: &Home, control: Control) -> Result<Sentinel, Fault> {
        let sentinel = Sentinel::at(home);
        let stored = Stored { version: 1, control };
        match &sentinel.keeper {
            Keeper::File(file) => file.create(&stored)?,
            Keeper::Object(object) => object.create(&stored)?,
        }
        Ok(sentinel)
    }

    pub fn open(home: &Home) -> Result<Sentinel, Fault> {
        let sentinel = Sentinel::at(home);
        sentinel.read()?;
        Ok(sentinel)
    }

    fn at(home: &Home) -> Sentinel {
        let keeper = match home {
            Home::Folder(folder) => Keeper::File(File::new(folder)),
            Home::Store(store) => Keeper::Object(Object(store.clone())),
        };
        Sentinel { keeper, known: None }
    }

    pub fn read(&self) -> Result<Control, Fault> {
        Ok(self.load()?.control)
    }

    /// Reads, changes and replaces in one step; gives what is kept now. Nothing is written where nothing changes. The change is
    /// made anew where another came first.
    pub fn update(&self, mut change: impl FnMut(&mut Control)) -> Result<Control, Fault> {
        let change = |stored: &mut Stored| {
            let before = stored.control;
            change(&mut stored.control);
            let is_new = stored.control != before;
            stored.version += u64::from(is_new);
            is_new
        };
        let stored = match &self.keeper {
            Keeper::File(file) => file.update(change)?,
            Keeper::Object(object) => object.update(change)?,
        };
        stored.map(|stored| stored.control).ok_or_else(|| self.missing())
    }

    /// What is kept, if it changed since this handle last asked (the first time always). In a folder it costs one `stat` otherwise, in
    /// a store one request.
    pub fn changed(&mut self) -> Result<Option<Control>, Fault> {
        let stored = match &mut self.keeper {
            Keeper::File(file) => file.load_changed()?,
            Keeper::Object(_) => Some(self.load()?),
        };
        let control = stored.map(|stored| stored.control).filter(|control| self.known != Some(*control));
        self.known = control.or(self.known);
        Ok(control)
    }

    fn load(&self) -> Result<Stored, Fault> {
        let stored = match &self.keeper {
            Keeper::File(file) => file.load()?,
            Keeper::Object(object) => object.load()?.map(|(stored, _)| stored),
        };
        stored.ok_or_else(|| self.missing())
    }

    fn place(&self) -> String {
        match &self.keeper {
            Keeper::File(file) => file.folder().display().to_string(),
            Keeper::Object(object) => object.0.place().to_string(),
        }
    }

    fn missing(&self) -> Fault {
        missing(&self.place())
    }
}

impl Home {
    /// Removes the sentinel from a store; in a folder it goes with the folder.
    pub fn remove_stored(&self) -> Result<(), Fault> {
        match self {
            Home::Folder(_) => Ok(()),
            Home::Store(store) => store.delete(NAME),
        }
    }
}

fn missing(place: &dyn std::fmt::Display) -> Fault {
    Fault::stop(format!("no sentinel in {place}")).hint("make the archive with: pgsluice setup")
}

/// Reads what was written; `place` is for the message.
fn parse(bytes: &[u8], place: &str) -> Result<Stored, Fault> {
    serde_json::from_slice(bytes).map_err(|error| {
        Fault::person(format!("the sentinel {place} is damaged: {error}")).hint(
            "it holds control only, no data: remove it, run pgsluice setup, and set endpos and apply again",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Remedy;
    use crate::store::Place;

    fn homes(folder: &std::path::Path) -> [Home; 2] {
        let place = Place::parse(&format!("file://{}", folder.join("store").display())).unwrap().unwrap();
        [Home::Folder(folder.to_owned()), Home::Store(Store::open(&place).unwrap())]
    }

    fn with_each(check: impl Fn(&Home)) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        for home in homes(folder.path()) {
            let control = Control { startpos: Position(0x10), apply: true, ..Control::default() };
            Sentinel::create(&home, control).unwrap();
            check(&home);
        }
    }

    #[test]
    fn creation_keeps_what_is_there() {
        with_each(|home| {
            let sentinel = Sentinel::open(home).unwrap();
            sentinel.update(|control| control.endpos = Position(0x20)).unwrap();
            let again = Sentinel::create(home, Control::default()).unwrap().read().unwrap();
            assert_eq!(again.endpos(), Some(Position(0x20)));
            assert!(again.apply);
        });
    }

    #[test]
    fn is_written_as_the_contract_says() {
        with_each(|home| {
            let text = serde_json::to_string(&Sentinel::open(home).unwrap().read().unwrap()).unwrap();
            let expected = r#"{"startpos":"0/10","endpos":"0/0","apply":true,"write_lsn":"0/0","flush_lsn":"0/0","replay_lsn":"0/0"}"#;
            assert_eq!(text, expected);
        });
    }

    #[test]
    fn a_hold_is_written_only_while_there_is_one() {
        with_each(|home| {
            let sentinel = Sentinel::open(home).unwrap();
            let hold = Hold { lsn: Position(0x30), owner: 7, beat: 2 };
            sentinel.update(|control| control.hold = Some(hold)).unwrap();
            let control = Sentinel::open(home).unwrap().read().unwrap();
            assert_eq!(control.hold, Some(hold));
            let text = serde_json::to_string(&control).unwrap();
            assert!(text.ends_with(r#""hold":{"lsn":"0/30","owner":7,"beat":2}}"#), "{text}");
            sentinel.update(|control| control.hold = None).unwrap();
            assert!(!serde_json::to_string(&sentinel.read().unwrap()).unwrap().contains("hold"));
        });
    }

    #[test]
    fn a_reader_sees_each_change_once() {
        with_each(|home| {
            let (writer, mut reader) = (Sentinel::open(home).unwrap(), Sentinel::open(home).unwrap());
            assert!(reader.changed().unwrap().is_some());
            assert!(reader.changed().unwrap().is_none());
            writer.update(|control| control.apply = false).unwrap();
            assert!(!reader.changed().unwrap().unwrap().apply);
            writer.update(|control| control.apply = false).unwrap();
            assert!(reader.changed().unwrap().is_none());
        });
    }

    #[test]
    fn concurrent_changes_are_all_kept() {
        with_each(|home| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let own = Sentinel::open(home).unwrap();
                        for _ in 0..10 {
                            own.update(|control| control.write_lsn.0 += 1).unwrap();
                        }
                    });
                }
            });
            assert_eq!(Sentinel::open(home).unwrap().read().unwrap().write_lsn, Position(40));
        });
    }

    #[test]
    fn one_that_is_gone_is_missed() {
        with_each(|home| {
            let mut sentinel = Sentinel::open(home).unwrap();
            match home {
                Home::Folder(folder) => std::fs::remove_file(folder.join(NAME)).unwrap(),
                Home::Store(_) => home.remove_stored().unwrap(),
            }
            for fault in [
                sentinel.changed().unwrap_err(),
                sentinel.update(|control| control.apply = true).unwrap_err(),
                Sentinel::open(home).err().unwrap(),
            ] {
                assert!(fault.message.starts_with("no sentinel in "), "{}", fault.message);
            }
        });
    }

    #[test]
    fn damage_is_told_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        std::fs::create_dir(&store).unwrap();
        for (home, at) in homes(folder.path()).iter().zip([folder.path(), &store]) {
            let sentinel = Sentinel::create(home, Control::default()).unwrap();
            let path = at.join(NAME);
            for damage in [&b""[..], b"{", b"{\"version\":1}", &[b' '; 100_000]] {
                std::fs::write(&path, damage).unwrap();
                let fault = sentinel.update(|control| control.apply = true).unwrap_err();
                assert_eq!(fault.remedy, Remedy::Person);
                assert!(fault.hint.is_some());
                assert_eq!(std::fs::read(&path).unwrap(), damage);
            }
        }
    }
}
