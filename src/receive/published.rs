//! Where a slot of another plugin than pgoutput keeps which tables have been seen in its publication: `published.json` in
//! the archive's folder.

use std::io::ErrorKind;

use crate::archive::{Archive, disk};
use crate::model::Fault;
use crate::plugin::{Published, TableName};

const NAME: &str = "published.json";

/// Takes note of tables that the publication has from the log's first change on. For `setup`.
pub(crate) fn add(archive: &Archive, tables: impl Iterator<Item = (String, String)>) -> Result<(), Fault> {
    let mut published = read(archive)?;
    match published.add(tables.map(|(schema, name)| TableName { schema, name })) {
        true => write(archive, &published),
        false => Ok(()),
    }
}

pub(super) fn read(archive: &Archive) -> Result<Published, Fault> {
    let path = archive.root().join(NAME);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Published::default()),
        read => read.map_err(|error| disk::fault("reading", &path, &error))?,
    };
    serde_json::from_slice(&text).map_err(|error| {
        Fault::person(format!("{} is damaged: {error}", path.display())).hint(
            "remove it if no table has left the publication since the slot's last confirmed position; else put all of them back first",
        )
    })
}

pub(super) fn write(archive: &Archive, published: &Published) -> Result<(), Fault> {
    let path = archive.root().join(NAME);
    let text = serde_json::to_vec(published).map_err(std::io::Error::from);
    text.and_then(|text| disk::write_once(archive.root(), NAME, &text))
        .map_err(|error| disk::fault("writing", &path, &error))
}
