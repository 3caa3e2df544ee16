//! Keys, and what is encrypted with them. Hides the algorithms: BLAKE3 derives keys, AES-256-GCM makes *boxes*.
//!
//! ```text
//! box = id of the key (8) | nonce (12) | ciphertext | tag (16)
//! ```
//!
//! Each segment has a key of its own, derived from its header, so that nothing of it means anything in another one and a header that
//! was changed opens nothing. A box is bound to what stands beside it and to its place (its *about*). Nonces count up
//! from a random start, which who begins to write a segment hands in: the writer, the recovery and each press of one segment draw anew,
//! so that none has to know how far another one came.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::{Damage, HEADER_BYTES, Header};

const ID_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// By how much a box is longer than what is in it.
pub const BOX_BYTES: usize = ID_BYTES + NONCE_LEN + TAG_BYTES;

/// Where the nonces of one who writes begin; random.
pub type NonceStart = [u8; NONCE_LEN];

const ID: &str = "pgsluice archive format 1: the id of a key";
const OF_SEGMENT: &str = "pgsluice archive format 1: the key of a segment";

/// Tells keys apart and tells nothing of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret of 32 bytes.
pub struct Key {
    secret: [u8; 32],
    id: KeyId,
}

impl Key {
    pub fn new(secret: [u8; 32]) -> Key {
        let [a, b, c, d, e, f, g, h, ..] = blake3::derive_key(ID, &secret);
        Key { secret, id: KeyId([a, b, c, d, e, f, g, h]) }
    }

    /// Reads 64 hexadecimal digits.
    fn parse(digits: &[u8]) -> Option<Key> {
        let mut secret = [0; 32];
        if digits.len() != 2 * secret.len() {
            return None;
        }
        for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                *byte = *byte << 4 | char::from(*digit).to_digit(16)? as u8;
            }
        }
        Some(Key::new(secret))
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// As a file of keys has it.
    pub fn digits(&self) -> String {
        self.secret.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn of_segment(&self, header: &[u8; HEADER_BYTES]) -> LessSafeKey {
        let mut hasher = blake3::Hasher::new_derive_key(OF_SEGMENT);
        hasher.update(&self.secret).update(header);
        let Ok(key) = UnboundKey::new(&AES_256_GCM, hasher.finalize().as_bytes()) else {
            unreachable!("AES-256 takes any 32 bytes");
        };
        LessSafeKey::new(key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        wipe(&mut self.secret);
    }
}

/// Overwrites a secret that is needed no more.
pub fn wipe(secret: &mut [u8]) {
    secret.fill(0);
    // Else it might be found to change nothing.
    std::hint::black_box(secret);
}

/// The keys of an archive: the first encrypts, all decrypt. Without any nothing is encrypted.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<[Key]>);

/// A line that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not 64 hexadecimal digits")]
pub struct NoKey(usize);

impl Keyring {
    pub fn new(keys: Vec<Key>) -> Keyring {
        Keyring(keys.into())
    }

    /// Reads keys, one a line, with empty lines and lines that begin with `#` between them.
    pub fn parse(text: &[u8]) -> Result<Keyring, NoKey> {
        let mut keys = Vec::new();
        for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
            let line = line.trim_ascii();
            if !line.is_empty() && !line.starts_with(b"#") {
                keys.push(Key::parse(line).ok_or(NoKey(number))?);
            }
        }
        Ok(Keyring::new(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first one encrypts.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.iter().map(Key::id)
    }

    fn locked(&self, key: Option<KeyId>) -> Damage {
        Damage::Locked { key, given: self.ids().collect() }
    }
}

/// That what is written is encrypted.
pub struct Encryption {
    keys: Keyring,
    nonces: NonceStart,
}

impl Encryption {
    /// With the first of the keys; none where there is none.
    pub fn new(keys: &Keyring, nonces: NonceStart) -> Option<Encryption> {
        (!keys.is_empty()).then(|| Encryption { keys: keys.clone(), nonces })
    }

    /// For the segment with this header.
    pub(super) fn cipher(&self, header: &Header) -> Cipher {
        self.cipher_of(&header.encode())
    }

    /// For the file that begins with these bytes.
    pub(super) fn cipher_of(&self, header: &[u8; HEADER_BYTES]) -> Cipher {
        let [key, ..] = &*self.keys.0 else { unreachable!("there is no encryption without a key") };
        Cipher::new(key.id, key.of_segment(header), self.nonces)
    }

    /// Why a segment that is encrypted can't be gone on with, where there is none.
    pub(super) fn missing() -> Damage {
        Damage::Locked { key: None, given: Vec::new() }
    }
}

/// Makes boxes.
pub struct Cipher {
    id: KeyId,
    key: LessSafeKey,
    nonces: u128,
    made: AtomicU64,
}

impl Cipher {
    fn new(id: KeyId, key: LessSafeKey, nonces: NonceStart) -> Cipher {
        let nonces = nonces.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
        Cipher { id, key, nonces, made: AtomicU64::new(0) }
    }

    /// With a key that is used for nothing else, and forgotten.
    pub fn passing(secret: [u8; 32]) -> Cipher {
        let key = Key::new(secret);
        Cipher::new(key.id, key.of_segment(&[0; HEADER_BYTES]), [0; NONCE_LEN])
    }

    /// Makes a box that opens only with the same `about`.
    pub fn seal(&self, plain: &[u8], about: &[u8]) -> Vec<u8> {
        let number = self.nonces.wrapping_add(self.made.fetch_add(1, Ordering::Relaxed).into());
        let mut nonce = [0; NONCE_LEN];
        nonce.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(at, byte)| *at = byte);
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(BOX_BYTES));
        sealed.extend_from_slice(&self.id.0);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let (_, inside) = sealed.split_at_mut(ID_BYTES + NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let Ok(tag) = self.key.seal_in_place_separate_tag(nonce, Aad::from(about), inside) else {
            unreachable!("only what is longer than 64 GiB can't be encrypted");
        };
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// What is in a box of its own making; none where it is not.
    pub fn open(&self, sealed: &[u8], about: &[u8]) -> Option<Vec<u8>> {
        unseal(&self.key, Parts::take(sealed)?, about)
    }
}

/// A box, taken apart.
struct Parts<'a> {
    id: KeyId,
    nonce: [u8; NONCE_LEN],
    /// Ciphertext and tag.
    inside: &'a [u8],
}

impl Parts<'_> {
    fn take(sealed: &[u8]) -> Option<Parts<'_>> {
        let (id, rest) = sealed.split_first_chunk()?;
        let (nonce, inside) = rest.split_first_chunk()?;
        Some(Parts { id: KeyId(*id), nonce: *nonce, inside })
    }
}

fn unseal(key: &LessSafeKey, sealed: Parts<'_>, about: &[u8]) -> Option<Vec<u8>> {
    let nonce = Nonce::assume_unique_for_key(sealed.nonce);
    let mut inside = sealed.inside.to_vec();
    let length = key.open_in_place(nonce, Aad::from(about), &mut inside).ok()?.len();
    inside.truncate(length);
    Some(inside)
}

/// What the payloads of one segment are read through, be it encrypted or not.
#[derive(Clone, Debug)]
pub struct Opener {
    /// The header that they are bound to; none where nothing is encrypted.
    header: Option<[u8; HEADER_BYTES]>,
    keys: Keyring,
}

impl Opener {
    pub fn new(header: &Header, keys: &Keyring) -> Opener {
        Opener::of(header.encrypted.then(|| header.encode()), keys)
    }

    /// For the file that begins with these bytes, where it is encrypted.
    pub(super) fn of(header: Option<[u8; HEADER_BYTES]>, keys: &Keyring) -> Opener {
        Opener { header, keys: keys.clone() }
    }

    /// What is in a box, or the same bytes where there are none.
    pub(super) fn open<'a>(
        &self,
        stored: &'a [u8],
        about: impl FnOnce() -> Vec<u8>,
        what: &'static str,
    ) -> Result<Cow<'a, [u8]>, Damage> {
        let Some(header) = &self.header else { return Ok(Cow::Borrowed(stored)) };
        let sealed = Parts::take(stored).ok_or(Damage::Short(what))?;
        let key = self.keys.0.iter().find(|key| key.id == sealed.id);
        let key = key.ok_or_else(|| self.keys.locked(Some(sealed.id)))?;
        let plain = unseal(&key.of_segment(header), sealed, &about());
        plain.map(Cow::Owned).ok_or(Damage::Changed(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_one_a_line_and_never_shown() {
        let text = format!("# comment\n\n {} \r\n{}", "0aF1".repeat(16), "11".repeat(32));
        let keys = Keyring::parse(text.as_bytes()).unwrap();
        assert_eq!(keys.0.len(), 2);
        assert_eq!(keys.0[0].digits(), "0af1".repeat(16));
        assert_ne!(keys.0[0].id, keys.0[1].id);
        let shown = format!("{keys:?}");
        assert!(shown.contains(&keys.0[1].id.to_string()) && !shown.contains("1111"), "{shown}");
        for (text, line) in [("0", 1), ("\n\nzz", 3), (&"1".repeat(63), 1), (&"é".repeat(32), 1)] {
            assert_eq!(Keyring::parse(text.as_bytes()).unwrap_err(), NoKey(line), "{text}");
        }
        assert!(Keyring::parse(b"\n").unwrap().is_empty());
    }

    #[test]
    fn a_box_opens_only_as_it_was_made() {
        let cipher = Cipher::passing([1; 32]);
        let sealed = cipher.seal(b"plain", b"about");
        assert_eq!(sealed.len(), 5 + BOX_BYTES);
        assert_eq!(cipher.open(&sealed, b"about").unwrap(), b"plain");
        assert_eq!(cipher.open(&sealed, b"other"), None);
        assert_eq!(Cipher::passing([2; 32]).open(&sealed, b"about"), None);
        for at in ID_BYTES..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(cipher.open(&changed, b"about"), None, "{at}");
            assert_eq!(cipher.open(&sealed[..at], b"about"), None, "{at}");
        }
    }

    #[test]
    fn no_nonce_is_used_twice() {
        let key = Key::new([1; 32]);
        let cipher = Cipher::new(key.id, key.of_segment(&[0; HEADER_BYTES]), [0xFF; NONCE_LEN]);
        let nonces: Vec<_> = (0..3).map(|_| Parts::take(&cipher.seal(b"", b"")).unwrap().nonce).collect();
        let mut one = [0; NONCE_LEN];
        one[NONCE_LEN - 1] = 1;
        assert_eq!(nonces, [[0xFF; NONCE_LEN], [0; NONCE_LEN], one]);
    }
}
