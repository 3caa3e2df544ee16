//! The transposed codec both ways: any payload is refused or gives records of the length asked for; any messages come back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_fuzz::segment::{Records, from_transposed, push_record, transposed};

fuzz_target!(|bytes: &[u8]| {
    if let Some((length, payload)) = bytes.split_first_chunk() {
        let raw_len = usize::from(u16::from_le_bytes(*length));
        if let Ok(raw) = from_transposed(payload, raw_len) {
            assert_eq!(raw.len(), raw_len);
            assert!(Records::new(&raw).all(|record| record.is_ok()));
            back(&raw);
        }
    }
    back(bytes);
    // Messages that follow each other, each with its length before it, again and again so that there is something to save.
    let mut messages = Vec::new();
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first() {
        let (message, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        push_record(&mut messages, message);
        rest = tail;
    }
    back(&messages.repeat(1 + 2_000 / (messages.len() + 1)));
});

fn back(raw: &[u8]) {
    if let Some(payload) = transposed(raw, 1) {
        assert!(payload.len() < raw.len());
        assert_eq!(from_transposed(&payload, raw.len()).as_deref(), Ok(raw));
    }
}
