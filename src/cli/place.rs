//! Where a pipeline's archive is: what was typed, and what it means once environment, file and defaults have been asked too.

use std::path::{Path, PathBuf};

use super::config::File;
use super::keys::KeyArguments;
use crate::archive::Location;
use crate::model::Fault;
use crate::segment::Keyring;
use crate::sentinel::Home;
use crate::store;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ArchiveArguments {
    /// The archive: a path, a file: URL, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, whose credentials are
    /// taken from the environment [default: $XDG_DATA_HOME/pgsluice/NAME]
    #[arg(long, env = "PGSLUICE_ARCHIVE", value_name = "URL")]
    archive: Option<String>,
    /// The folder on this machine for what is not in the archive's store yet, and for copies of what was read last; with it
    /// a folder can be a store too, as on a network disk [default: $XDG_STATE_HOME/pgsluice/NAME where the archive is a URL of a store]
    #[arg(long, env = "PGSLUICE_SPOOL", value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Sealed segments that the spool may hold. While more wait for the store, nothing is received
    #[arg(long, env = "PGSLUICE_SPOOL_LIMIT", value_name = "MIB", default_value_t = Location::SPOOL_BYTES_MAX >> 20,
          value_parser = clap::value_parser!(u64).range(1..))]
    spool_limit: u64,
    /// Make the archive in a store that can't refuse to overwrite. Then nothing but the source's slot keeps two receivers apart
    #[arg(long)]
    single_writer: bool,
    #[command(flatten)]
    keys: KeyArguments,
    /// The pipeline's name; slot, publication, origin and archive are named after it [default: pgsluice]
    #[arg(long, env = "PGSLUICE_NAME", value_name = "NAME")]
    name: Option<String>,
}

/// A pipeline's name, and where its archive is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) archive: Location,
}

impl ArchiveArguments {
    pub(crate) fn place(&self, file: &File) -> Result<Place, Fault> {
        let name = self.name.as_ref().or(file.name.as_ref()).map_or("pgsluice", String::as_str);
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Fault::usage(format!("'{name}' can't be a pipeline's name"))
                .hint("use lower-case letters, digits and underscores"));
        }
        let url = self.archive.as_ref().or(file.archive.as_ref());
        let spool = self.spool.clone().or_else(|| file.spool.as_ref().map(PathBuf::from));
        let keys = self.keys.keyring(file)?;
        Ok(Place { name: name.to_owned(), archive: self.location(name, url, spool, keys)? })
    }

    /// Another place than the one that is named, for the same pipeline's archive.
    pub(crate) fn other_place(
        &self,
        url: &String,
        spool: Option<PathBuf>,
        file: &File,
    ) -> Result<Location, Fault> {
        let Place { name, archive } = self.place(file)?;
        let other = self.location(&name, Some(url), spool, archive.keys)?;
        if is_same(&archive.folder, &other.folder) {
            return Err(Fault::usage(format!("{} is the archive's own folder", other.folder.display()))
                .hint("give another place; one in a store wants a spool of its own too"));
        }
        Ok(other)
    }

    fn location(
        &self,
        name: &str,
        url: Option<&String>,
        spool: Option<PathBuf>,
        keys: Keyring,
    ) -> Result<Location, Fault> {
        let environment = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let folder = match url {
            Some(url) => local_archive(url)?,
            None => Some(default_folder("XDG_DATA_HOME", ".local/share", name, &environment)?),
        };
        let (folder, store) = match (folder, spool) {
            (Some(folder), None) => (folder, None),
            (Some(folder), Some(spool)) => {
                if is_same(&spool, &folder) {
                    return Err(Fault::usage("the spool can't be the archive's own folder")
                        .hint("leave out --spool: without it the archive is that folder and nothing else"));
                }
                (spool, Some(store_in(&folder)?))
            }
            (None, spool) => {
                let store = url.map(|url| store::Place::parse(url)).transpose()?.flatten();
                let spool = match spool {
                    Some(spool) => spool,
                    None => default_folder("XDG_STATE_HOME", ".local/state", name, &environment)?,
                };
                (spool, store)
            }
        };
        let spool_bytes_max = self.spool_limit.saturating_mul(1 << 20);
        Ok(Location { folder, store, spool_bytes_max, single_writer: self.single_writer, keys })
    }
}

/// Where an archive's sentinel is.
pub(crate) fn sentinel(archive: &Location) -> Result<Home, Fault> {
    match &archive.store {
        Some(place) => store::Store::open(place).map(Home::Store),
        None => Ok(Home::Folder(archive.folder.clone())),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    std::path::absolute(one).ok() == std::path::absolute(other).ok()
}

/// A folder as a store.
fn store_in(folder: &Path) -> Result<store::Place, Fault> {
    let path = std::path::absolute(folder)
        .map_err(|error| Fault::usage(format!("--archive {}: {error}", folder.display())))?;
    let url = format!("file://{}", path.display());
    store::Place::parse(&url)?.ok_or_else(|| Fault::usage(format!("'{url}' is no store")))
}

/// Ours in one of the user's folders.
fn default_folder(
    variable: &str,
    at_home: &str,
    name: &str,
    environment: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<PathBuf, Fault> {
    // As the XDG base directory specification says, a relative path is as good as none.
    let absolute = |variable: &str| environment(variable).filter(|path| path.is_absolute());
    let folder = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(at_home)));
    let folder = folder.ok_or_else(|| {
        Fault::usage("it is not known where the archive is, and HOME is not set").hint("give --archive DIR")
    })?;
    Ok(folder.join("pgsluice").join(name))
}

/// The folder that is meant; none by the URL of a store.
fn local_archive(url: &str) -> Result<Option<PathBuf>, Fault> {
    let path = match url.split_once(':') {
        Some(("file", rest)) => match rest.strip_prefix("//") {
            Some(rest) => rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest),
            None => rest,
        },
        Some((_, rest)) if rest.starts_with("//") => return Ok(None),
        _ => url,
    };
    if path.is_empty() || (url.starts_with("file://") && !path.starts_with('/')) {
        return Err(Fault::usage(format!("'{url}' names no folder")).hint("give a path, or file:///path"));
    }
    Ok(Some(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Remedy;

    #[test]
    fn archives_are_folders_or_stores() {
        let check = |url: &str, path: &str| {
            assert_eq!(local_archive(url).unwrap().as_deref(), Some(Path::new(path)), "{url}");
        };
        check("/a/b", "/a/b");
        check("a/b", "a/b");
        check("file:/a", "/a");
        check("file:a", "a");
        check("file:///a/b", "/a/b");
        check("file://localhost/a", "/a");
        check("c:d", "c:d");
        for url in ["", "file:", "file://", "file://host/a"] {
            assert_eq!(local_archive(url).unwrap_err().remedy, Remedy::Usage, "{url}");
        }
        for url in ["s3://bucket/prefix", "gs://b", "az://c/d"] {
            assert_eq!(local_archive(url).unwrap(), None, "{url}");
        }
    }

    #[test]
    fn the_default_archive_is_in_the_data_folder() {
        let check = |data: Option<&str>, home: Option<&str>, path: Option<&str>| {
            let environment = |variable: &str| match variable {
                "XDG_DATA_HOME" => data.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            };
            let folder = default_folder("XDG_DATA_HOME", ".local/share", "n", &environment).ok();
            assert_eq!(folder.as_deref(), path.map(Path::new));
        };
        check(Some("/d"), Some("/h"), Some("/d/pgsluice/n"));
        check(None, Some("/h"), Some("/h/.local/share/pgsluice/n"));
        check(Some("relative"), Some("/h"), Some("/h/.local/share/pgsluice/n"));
        check(None, None, None);
    }
}
