//! Records: what a frame's payload is made of. Each is a varint length and a pgoutput message as it came.

use super::Damage;
use super::take::{Take, put_varint};

/// The largest message that is taken: PostgreSQL's own limit for one is 1 GiB.
pub const MESSAGE_BYTES_MAX: usize = 1 << 30;

pub fn push_record(raw: &mut Vec<u8>, message: &[u8]) {
    match u8::try_from(message.len()) {
        Ok(length) if length < 0x80 => raw.push(length),
        _ => put_varint(raw, message.len() as u64),
    }
    raw.extend_from_slice(message);
}

/// The messages of a payload, in order. After an error it ends.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: Take<'a>,
}

impl<'a> Records<'a> {
    pub fn new(raw: &'a [u8]) -> Records<'a> {
        Records { rest: Take::new(raw, "a record") }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], Damage>;

    fn next(&mut self) -> Option<Result<&'a [u8], Damage>> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.rest.block();
        if message.is_err() {
            self.rest = Take::new(&[], "a record");
        }
        Some(message)
    }
}
