//! Messages of test_decoding, one a line: read, and translated with what a catalog might say. What comes out is always a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_fuzz::model::{Lsn, VisibleXids, Xid};
use pgsluice_fuzz::pgoutput::decode;
use pgsluice_fuzz::plugin::{Answer, Outcome, Published, Translator, test_decoding};

fuzz_target!(|bytes: &[u8]| {
    let mut translator = Translator::new(Published::default());
    for text in bytes.split(|byte| *byte == b'\n') {
        let Ok(message) = test_decoding::parse(text, Lsn(256)) else { continue };
        for _ in 0..3 {
            match translator.take(&message) {
                Ok(Outcome::LookUp(question)) => {
                    let seen =
                        VisibleXids { min: Xid(u32::MAX / 2), max: Xid(u32::MAX / 2), running: Vec::new() };
                    let types = question.types.into_iter().map(|name| (name, Some(25))).collect();
                    translator.learn(question.table, Answer { seen, everything: true, table: None, types });
                }
                Ok(Outcome::Said) => {
                    for said in translator.messages() {
                        assert!(decode(said).is_ok(), "{}", said.escape_ascii());
                    }
                    break;
                }
                Err(_) => break,
            }
        }
    }
});
