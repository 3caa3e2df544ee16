//! Values in UTF-8, which both JSON and Parquet want.

use std::borrow::Cow;

use super::change::shown;
use crate::archive::Manifest;
use crate::model::{Fault, Relation};

/// In which the source's values are.
pub(super) enum Encoding {
    /// Also where nobody knows: then it has to turn out to be.
    Utf8,
    Latin1,
    /// All encodings of a server have ASCII in common.
    Other(String),
}

impl Encoding {
    pub(super) fn of(manifest: &Manifest) -> Encoding {
        match manifest.server_encoding.as_str() {
            "UTF8" | "SQL_ASCII" => Encoding::Utf8,
            "LATIN1" => Encoding::Latin1,
            other => Encoding::Other(other.to_owned()),
        }
    }

    pub(super) fn utf8<'t>(
        &self,
        text: &'t [u8],
        relation: &Relation,
        column: &str,
    ) -> Result<Cow<'t, str>, Fault> {
        let (read, name) = match self {
            Encoding::Latin1 => return Ok(text.iter().map(|byte| char::from(*byte)).collect()),
            Encoding::Utf8 => (std::str::from_utf8(text).ok(), "SQL_ASCII"),
            Encoding::Other(name) => (
                text.is_ascii().then_some(text).and_then(|text| std::str::from_utf8(text).ok()),
                name.as_str(),
            ),
        };
        read.map(Cow::Borrowed).ok_or_else(|| {
            Fault::stop(format!(
                "a value of {} of {} is in {name}, and this format wants UTF-8",
                column,
                shown(relation)
            ))
            .hint("--format sql writes values in the source's encoding")
        })
    }
}
