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
    /// What the transaction has said and the hasher has not taken yet; nothing where none has begun.
    waiting: Vec<u8>,
}

/// The hasher is several times as fast on runs of that many bytes, counted from the start, as on messages.
const RUN_BYTES: usize = 16 << 10;

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
        if self.waiting.is_empty() {
            self.hasher.reset();
            let value = self.value;
            self.push(&value);
        }
        self.push(&(message.len() as u32).to_le_bytes());
        self.push(message);
    }

    fn push(&mut self, mut bytes: &[u8]) {
        // Never all that waits: it would look as if nothing had begun.
        while let Some((run, rest)) = bytes.split_at_checked(RUN_BYTES - self.waiting.len())
            && !rest.is_empty()
        {
            self.waiting.extend_from_slice(run);
            self.hasher.update(&self.waiting);
            self.waiting.clear();
            bytes = rest;
        }
        self.waiting.extend_from_slice(bytes);
    }

    pub fn commit(&mut self) {
        self.hasher.update(&self.waiting);
        self.value = *self.hasher.finalize().as_bytes();
        self.waiting.clear();
    }

    /// Forgets the messages of the unfinished transaction.
    pub fn discard(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_that_of_all_bytes_in_a_row() {
        let mut chain = Chain::default();
        let mut value = [0; 32];
        for lengths in [
            &[3][..],
            &[0, 1],
            &[RUN_BYTES - 36],
            &[RUN_BYTES - 35, 7],
            &[RUN_BYTES, 5 * RUN_BYTES + 1],
            &[500; 200],
        ] {
            chain.message(b"not to be");
            chain.discard();
            let mut said = value.to_vec();
            for (number, length) in lengths.iter().enumerate() {
                let message = vec![number as u8; *length];
                said.extend_from_slice(&(*length as u32).to_le_bytes());
                said.extend_from_slice(&message);
                chain.message(&message);
            }
            chain.commit();
            value = *blake3::hash(&said).as_bytes();
            assert_eq!(chain.value(), value, "{lengths:?}");
        }
    }
}
