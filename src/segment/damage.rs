use crate::model::Fault;

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
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Fault {
        Fault::person(format!("the log is damaged: {damage}")).hint("`pgsluice archive verify` tells where")
    }
}
