//! Named points: transactional logical messages of ours, which name the transaction that they stand in.

use crate::model::Position;

use super::peek::logical;

/// The prefix of the messages. Their content is the name.
pub const PIN_PREFIX: &str = "pgsluice.pin";

/// A transaction that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinEntry {
    pub name: String,
    /// Where its commit ends.
    pub end: Position,
}

/// 1 to 63 of `a-z0-9_-`.
pub fn is_pin_name(name: &[u8]) -> bool {
    let plain = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=63).contains(&name.len()) && name.iter().all(plain)
}

/// The name that a logical message gives to its transaction, if it does.
pub(super) fn pin_name(message: &[u8]) -> Option<String> {
    let (prefix, content) = logical(message)?;
    let is_one = prefix == PIN_PREFIX.as_bytes() && is_pin_name(content);
    is_one.then(|| String::from_utf8_lossy(content).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_are_plain() {
        for name in ["before-cutover", "a", "0_1"] {
            assert!(is_pin_name(name.as_bytes()), "{name}");
        }
        for name in ["", "A", "a/b", "..", "é", &"a".repeat(64)] {
            assert!(!is_pin_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn only_our_messages_are_pins() {
        let message = |prefix: &str, content: &str| {
            let mut bytes = b"M\x01\0\0\0\0\0\0\0\x10".to_vec();
            bytes.extend([prefix.as_bytes(), b"\0"].concat());
            bytes.extend((content.len() as u32).to_be_bytes());
            bytes.extend(content.as_bytes());
            bytes
        };
        assert_eq!(pin_name(&message(PIN_PREFIX, "v2")), Some("v2".into()));
        assert_eq!(pin_name(&message(PIN_PREFIX, "V 2")), None);
        assert_eq!(pin_name(&message("pgsluice.pins", "v2")), None);
        let whole = message(PIN_PREFIX, "v2");
        for end in 0..whole.len() {
            assert_eq!(pin_name(&whole[..end]), None);
        }
    }
}
