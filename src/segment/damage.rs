use crate::model::Fault;

use super::KeyId;

/// Bytes that are not what the format says, or not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the bytes end inside {0}")]
    Short(&'static str),
    #[error("{0} has a wrong checksum")]
    Checksum(&'static str),
    #[error("{0} is malformed")]
    Malformed(&'static str),
    #[error("the segment has a frame in codec {0}, which this program does not read")]
    Codec(u8),
    #[error("the segment has format version {0}, which this program does not read")]
    Version(u16),
    #[error("{0} is not what was encrypted: it was changed, or is of another place")]
    Changed(&'static str),
    /// Nothing is wrong with it. `key` is not known where nothing in it is encrypted yet.
    #[error("it is encrypted{}, and {}", with_key(*.key), those(.given))]
    Locked { key: Option<KeyId>, given: Vec<KeyId> },
}

/// What a segment wants that can't be read.
const GIVE_KEY: &str = "give its key with --key-file, --key-command or PGSLUICE_ARCHIVE_KEY";

fn with_key(key: Option<KeyId>) -> String {
    key.map(|key| format!(" with key {key}")).unwrap_or_default()
}

fn those(keys: &[KeyId]) -> String {
    let names: Vec<_> = keys.iter().map(KeyId::to_string).collect();
    match keys {
        [] => "no key was given".into(),
        [_] => format!("the key given is {}", names.concat()),
        _ => format!("the keys given are {}", names.join(", ")),
    }
}

impl Damage {
    /// The fault of who has no key for a segment, which is no damage.
    pub fn locked(&self, segment: impl std::fmt::Display) -> Option<Fault> {
        let locked = matches!(self, Damage::Locked { .. });
        locked.then(|| Fault::usage(format!("{segment} can't be read: {self}")).hint(GIVE_KEY))
    }
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Fault {
        if let Some(fault) = damage.locked("the log") {
            return fault;
        }
        Fault::person(format!("the log is damaged: {damage}")).hint("`pgsluice archive verify` tells where")
    }
}
