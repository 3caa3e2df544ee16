//! The manifest: whose log this is. Written once, by `setup`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{Fault, Position};

use super::disk;

/// Random; tells apart archives of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveId(pub [u8; 16]);

impl ArchiveId {
    pub fn random() -> Result<ArchiveId, Fault> {
        disk::random().map(ArchiveId)
    }

    /// Reads what [`fmt::Display`] writes.
    pub(super) fn parse(text: &str) -> Option<ArchiveId> {
        let valid = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = valid.then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
        Some(ArchiveId(number.to_be_bytes()))
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for ArchiveId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArchiveId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ArchiveId, D::Error> {
        let text = String::deserialize(deserializer)?;
        ArchiveId::parse(&text).ok_or_else(|| serde::de::Error::custom("not an archive id"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`Manifest::FORMAT`].
    pub format: u32,
    pub archive_id: ArchiveId,
    pub name: String,
    /// A string in JSON, where numbers of 64 bits are not safe.
    #[serde(with = "decimal_string")]
    pub system_identifier: u64,
    pub database: String,
    pub slot: String,
    pub publication: String,
    pub plugin: String,
    pub server_version_num: u32,
    pub server_encoding: String,
    /// Where the log begins: the slot's consistent point.
    pub start: Position,
    /// RFC 3339.
    pub created: String,
}

#[derive(Serialize, Deserialize)]
struct Checked {
    #[serde(flatten)]
    manifest: Manifest,
    checksum: String,
}

impl Manifest {
    pub const FORMAT: u32 = 1;
    /// [`Manifest::plugin`] of a source that is read by SELECT alone.
    pub const POLLED: &str = "poll";

    /// Rows of the log are states: what is inserted is the row as it is, whether it was there or not (`docs/FORMAT.md`).
    pub fn is_polled(&self) -> bool {
        self.plugin == Manifest::POLLED
    }

    pub(super) fn to_json(&self) -> Result<String, Fault> {
        let checked = Checked { manifest: self.clone(), checksum: self.checksum()? };
        let json = serde_json::to_string_pretty(&checked);
        json.map(|text| text + "\n")
            .map_err(|error| Fault::stop(format!("cannot write the manifest: {error}")))
    }

    pub(super) fn read(text: &[u8]) -> Result<Manifest, Fault> {
        Manifest::from_json(&String::from_utf8_lossy(text))
    }

    fn from_json(text: &str) -> Result<Manifest, Fault> {
        let corrupted = |what: String| {
            Fault::person(format!("the archive's manifest is corrupted: {what}"))
                .hint("restore manifest.json from a copy; the log itself is in segments/ and is not touched")
        };
        let Checked { manifest, checksum } =
            serde_json::from_str(text).map_err(|error| corrupted(error.to_string()))?;
        if manifest.format != Manifest::FORMAT {
            return Err(Fault::person(format!(
                "the archive has format {}, this program reads {}",
                manifest.format,
                Manifest::FORMAT
            ))
            .hint("use the version of pgsluice that made it"));
        }
        if manifest.checksum()? != checksum {
            return Err(corrupted("its checksum is wrong".into()));
        }
        Ok(manifest)
    }

    fn checksum(&self) -> Result<String, Fault> {
        let bytes = serde_json::to_vec(self);
        let bytes = bytes.map_err(|error| Fault::stop(format!("cannot write the manifest: {error}")))?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    }

    /// The first thing in which `other` is of another source, slot or way of decoding.
    pub(super) fn difference(&self, other: &Manifest) -> Option<String> {
        let pairs = [
            ("system identifier", self.system_identifier.to_string(), other.system_identifier.to_string()),
            ("database", self.database.clone(), other.database.clone()),
            ("slot", self.slot.clone(), other.slot.clone()),
            ("publication", self.publication.clone(), other.publication.clone()),
            ("plugin", self.plugin.clone(), other.plugin.clone()),
        ];
        pairs
            .into_iter()
            .find(|(_, mine, theirs)| mine != theirs)
            .map(|(what, mine, theirs)| format!("its {what} is {mine}, the source's is {theirs}"))
    }
}

pub(super) mod decimal_string {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::archive) fn serialize<S: Serializer>(
        value: &u64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in crate::archive) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
