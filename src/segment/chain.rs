//! The running hash that proves that nothing was taken out, put in, changed or moved.

/// A running BLAKE3 over the transactions: after each one `value = H(value ‖ for each message: u32 length ‖ message)`.
///
/// Relation ('R') and Type ('Y') messages are left out, since a reconnect repeats them and each segment does too: the
/// chain covers what was said and not how it is stored, so re-encoding and merging segments leave it as it is.
/// A message outside of a transaction ('M') counts as a transaction of its own.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    value: [u8; 32],
    hasher: blake3::Hasher,
    /// Whether the hasher has begun with a transaction.
    begun: bool,
}

impl Chain {
    /// A chain that goes on from `value`; an archive begins with zeros.
    pub fn from_value(value: [u8; 32]) -> Chain {
        Chain { value, ..Chain::default() }
    }

    /// The value after the last whole transaction.
    pub fn value(&self) -> [u8; 32] {
        self.value
    }

    pub fn message(&mut self, message: &[u8]) {
        if !self.begun {
            self.hasher.reset();
            self.hasher.update(&self.value);
            self.begun = true;
        }
        self.hasher.update(&(message.len() as u32).to_le_bytes());
        self.hasher.update(message);
    }

    pub fn commit(&mut self) {
        self.value = *self.hasher.finalize().as_bytes();
        self.begun = false;
    }

    /// Forgets the messages of the unfinished transaction.
    pub fn discard(&mut self) {
        self.begun = false;
    }
}
