//! Where an archive's objects are, as somebody typed it.

use std::fmt;
use std::path::PathBuf;

use crate::model::Fault;

/// Who keeps the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    S3,
    Google,
    Azure,
    /// A folder of this machine, or one that is mounted here.
    Folder,
}

impl Keeper {
    const ALL: [Keeper; 4] = [Keeper::S3, Keeper::Google, Keeper::Azure, Keeper::Folder];

    fn scheme(self) -> &'static str {
        match self {
            Keeper::S3 => "s3",
            Keeper::Google => "gs",
            Keeper::Azure => "az",
            Keeper::Folder => "file",
        }
    }
}

/// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///path`. It holds no secret: credentials
/// come from the environment, and a text that has some is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) keeper: Keeper,
    /// Empty for a folder.
    pub(super) bucket: String,
    /// Without slashes at its ends; may be empty but for a folder.
    pub(super) prefix: String,
}

const HINT: &str = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path; \
     credentials and endpoints come from the environment";

impl Place {
    /// `None` for a plain path. The text is taken as it is: nothing in it is decoded, and what would have a meaning of its
    /// own in a URL is refused rather than dropped.
    pub fn parse(text: &str) -> Result<Option<Place>, Fault> {
        let Some((scheme, rest)) = split_scheme(text) else { return Ok(None) };
        let refuse = |what: &str| Err(Fault::usage(format!("{scheme}://...: {what}")).hint(HINT));
        let Some(keeper) = Keeper::ALL.into_iter().find(|keeper| keeper.scheme() == scheme) else {
            return refuse("no store of this kind is known");
        };
        let Some(rest) = rest.strip_prefix("//") else { return refuse("two slashes must follow the colon") };
        // A secret is most likely before an @ or behind a ?, so what was typed is not repeated.
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return refuse("a user or password has no place here");
        }
        if rest.contains(['?', '#']) {
            return refuse("options have no place here");
        }
        if rest.contains(['%', '\\']) || rest.contains(|c: char| c.is_control()) {
            return refuse("percent signs, backslashes and control characters are not allowed in it");
        }
        let prefix = path.strip_suffix('/').unwrap_or(path);
        if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return refuse("each part of the path must have a name");
        }
        match keeper {
            Keeper::Folder if !bucket.is_empty() => return refuse("the path must begin with a third slash"),
            Keeper::Folder if prefix.is_empty() => return refuse("the path is missing"),
            Keeper::Folder => {}
            _ if !is_bucket_name(bucket) => {
                return refuse("the name of the bucket is missing or not allowed");
            }
            _ => {}
        }
        Ok(Some(Place { keeper, bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
    }

    pub fn keeper(&self) -> Keeper {
        self.keeper
    }

    /// The path of a folder; none where the objects are elsewhere.
    pub fn folder(&self) -> Option<PathBuf> {
        (self.keeper == Keeper::Folder).then(|| PathBuf::from(format!("/{}", self.prefix)))
    }

    /// Where an object is, for messages.
    pub(super) fn describe(&self, key: &str) -> String {
        if key.is_empty() { self.to_string() } else { format!("{self}/{key}") }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.keeper.scheme(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// What is before a colon, if it is a scheme: `scheme://` of any name, `scheme:` of those known.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let is_known = Keeper::ALL.iter().any(|keeper| keeper.scheme() == scheme);
    (is_scheme && (is_known || rest.starts_with("//"))).then_some((scheme, rest))
}

fn is_bucket_name(name: &str) -> bool {
    !name.is_empty()
        && !name.chars().all(|c| c == '.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.$".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_shown_alike() {
        for text in [
            "s3://bucket/one/two",
            "s3://bucket",
            "gs://my-bucket/x",
            "az://container/a b/c",
            "file:///var/lib/archive",
        ] {
            let place = Place::parse(text).unwrap().unwrap();
            assert_eq!(place.to_string(), text);
        }
        let place = Place::parse("s3://bucket/one/").unwrap().unwrap();
        assert_eq!(place.to_string(), "s3://bucket/one");
        assert_eq!(place.describe("two"), "s3://bucket/one/two");
        let folder = Place::parse("file:///var/lib").unwrap().unwrap().folder();
        assert_eq!(folder, Some(PathBuf::from("/var/lib")));
    }

    #[test]
    fn a_path_is_no_place() {
        for text in ["/var/lib/archive", "archive", "./s3/x", "a:b", "C:/x", "", "with space://x"] {
            assert_eq!(Place::parse(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn what_would_be_dropped_is_refused_and_never_repeated() {
        for text in [
            "s3://bucket/x?region=SECRET",
            "s3://KEY:SECRET@bucket/x",
            "az://container/x?sv=1&sig=SECRET",
            "s3://bucket/x#SECRET",
            "s3://bucket/%41",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3:///x",
            "s3://",
            "s3:bucket",
            "file://x/y",
            "file:///",
            "file:/x",
            "http://host/SECRET",
            "ftp://host/x",
        ] {
            let fault = Place::parse(text).unwrap_err();
            assert_eq!(fault.exit_code(), 2, "{text}");
            assert!(fault.hint.is_some() && !format!("{fault:?}").contains("SECRET"), "{fault:?}");
        }
    }
}
