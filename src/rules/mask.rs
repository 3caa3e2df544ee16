//! Masks: a value that stands for another one. The same value gives the same mask in every column and at any time, so that keys stay
//! keys; NULL stays NULL.

use regex::Regex;
use ring::hmac;

use super::expression::hexadecimal;
use super::kind::{Digest, Kind};

/// What hashes are made with. Without it nobody can try values until one fits.
#[derive(Clone)]
pub(super) struct Secret(hmac::Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(super) fn new(bytes: &[u8]) -> Secret {
        Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    fn sign(&self, value: &[u8]) -> [u8; 16] {
        let tag = hmac::sign(&self.0, value);
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(tag.as_ref()).for_each(|(byte, of_tag)| *byte = *of_tag);
        bytes
    }

    /// Tells it from others without telling it.
    pub(super) fn mark(&self) -> String {
        hexadecimal("", &self.sign(b"pgsluice rules"))
    }
}

/// What becomes of a value that is there.
#[derive(Clone, Debug)]
pub(super) enum Mask {
    /// The first 128 bits of HMAC-SHA-256 over the value's text.
    Hash {
        secret: Secret,
        digest: Digest,
        is_padded: bool,
    },
    Fixed(String),
    /// All but the first and the last so many characters are replaced, each by this one; all of a value that is not longer.
    Partial {
        first: usize,
        last: usize,
        with: char,
    },
    /// Each match is replaced. What has no match stays as it is.
    Regex {
        regex: Regex,
        with: String,
    },
}

impl Mask {
    /// Whether equal values of the column are equal as text, and others are not.
    pub(super) fn is_canonical(&self) -> bool {
        matches!(self, Mask::Hash { .. })
    }

    /// Whether it looks at the value.
    pub(super) fn reads(&self) -> bool {
        !matches!(self, Mask::Fixed(_))
    }

    /// The mask of a value, or why there is none.
    pub(super) fn of(&self, value: &[u8]) -> Result<String, &'static str> {
        let text = || std::str::from_utf8(value).map_err(|_| "is not UTF-8");
        Ok(match self {
            Mask::Fixed(text) => text.clone(),
            Mask::Hash { secret, digest, is_padded } => {
                let value = if *is_padded { trimmed(value) } else { value };
                hashed(secret.sign(value), *digest)
            }
            Mask::Partial { first, last, with } => partial(text()?, *first, *last, *with),
            Mask::Regex { regex, with } => regex.replace_all(text()?, with.as_str()).into_owned(),
        })
    }
}

/// Without the spaces at the end.
fn trimmed(value: &[u8]) -> &[u8] {
    let kept = value.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    value.get(..kept).unwrap_or_default()
}

fn hashed(mut bytes: [u8; 16], digest: Digest) -> String {
    match digest {
        Digest::Digits(length) => hexadecimal("", &bytes).chars().take(length).collect(),
        Digest::Bytes => hexadecimal("\\x", &bytes),
        Digest::Uuid => {
            // Version 8, of whoever makes it (RFC 9562).
            let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
            *version = *version & 0x0f | 0x80;
            *variant = *variant & 0x3f | 0x80;
            let digits = hexadecimal("", &bytes);
            let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
            format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
        }
        Digest::Number => {
            let number = bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            (number >> 1).to_string()
        }
    }
}

fn partial(text: &str, first: usize, last: usize, with: char) -> String {
    let length = text.chars().count();
    let is_longer = first.checked_add(last).is_some_and(|shown| shown < length);
    let (first, last) = if is_longer { (first, last) } else { (0, 0) };
    let is_shown = |at: usize| at < first || at >= length - last;
    text.chars().enumerate().map(|(at, character)| if is_shown(at) { character } else { with }).collect()
}

/// The hash of values of a type, if one fits into it.
pub(super) fn hash(secret: &Secret, from: Kind, to: Kind) -> Option<Mask> {
    let digest = to.digest()?;
    Some(Mask::Hash { secret: secret.clone(), digest, is_padded: from.is_padded() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(from: &str, to: &str) -> Mask {
        let kind = |text| Kind::parse(text).unwrap();
        hash(&Secret::new(b"0123456789abcdef"), kind(from), kind(to)).unwrap()
    }

    /// As pgcrypto has it: `encode(hmac('42', '0123456789abcdef', 'sha256'), 'hex')`.
    #[test]
    fn a_hash_is_the_beginning_of_hmac_sha_256() {
        let value = b"42".as_slice();
        assert_eq!(mask("int4", "text").of(value).unwrap(), "8d24a2a526d5f556469db8b6280e3a7b");
        assert_eq!(mask("text", "varchar(20)").of(value).unwrap(), "8d24a2a526d5f556469d");
        assert_eq!(mask("text", "bytea").of(value).unwrap(), "\\x8d24a2a526d5f556469db8b6280e3a7b");
        assert_eq!(mask("uuid", "uuid").of(value).unwrap(), "8d24a2a5-26d5-8556-869d-b8b6280e3a7b");
        assert_eq!(mask("int8", "int8").of(value).unwrap(), (0x8d24_a2a5_26d5_f556_u64 >> 1).to_string());
        assert_eq!(mask("char(5)", "text").of(b"42   ").unwrap(), mask("text", "text").of(value).unwrap());
    }

    #[test]
    fn the_middle_is_hidden() {
        for (text, first, last, expected) in [
            ("4111-1111", 0, 4, "*****1111"),
            ("Ärger", 1, 1, "Ä***r"),
            ("ab", 1, 1, "**"),
            ("abc", 1, 1, "a*c"),
            ("", 1, 1, ""),
            ("abc", usize::MAX, 1, "***"),
        ] {
            assert_eq!(partial(text, first, last, '*'), expected, "{text}");
        }
    }

    #[test]
    fn a_regular_expression_replaces_each_match() {
        let mask = Mask::Regex { regex: Regex::new("(\\w)\\w*@").unwrap(), with: "$1…@".into() };
        assert_eq!(mask.of("ada@x, bob@y".as_bytes()).unwrap(), "a…@x, b…@y");
        assert_eq!(mask.of(b"none").unwrap(), "none");
        assert!(mask.of(b"\xff@").is_err());
    }
}
