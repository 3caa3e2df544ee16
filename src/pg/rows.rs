//! Rows as they come, and the simple query that gives them.

use super::frames::{Incoming, Outgoing, put_string};
use super::server_message::ServerMessage;
use crate::model::Fault;

/// Rows of a simple query, as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Runs a simple query and gives its rows (of all statements, where there are several).
pub(super) async fn simple(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    sql: &str,
) -> Result<Rows, Fault> {
    outgoing.frame(b'Q', |body| put_string(body, sql))?;
    outgoing.flush().await?;
    let (mut rows, mut failed) = (Rows::new(), None);
    loop {
        let frame = incoming.next().await?;
        match frame.tag {
            b'D' => {
                let row = Fields::new(frame.body)
                    .map(|field| field.map(|text| String::from_utf8_lossy(text).into_owned()));
                rows.push(row.collect());
            }
            b'E' => {
                let message = ServerMessage::parse(frame.body);
                if message.ends_session() {
                    return Err(message.into_fault());
                }
                failed.get_or_insert(message);
            }
            b'Z' => return failed.map_or(Ok(rows), |message| Err(message.into_fault())),
            b'G' | b'H' | b'W' => return Err(Fault::stop("a simple query can't be a COPY")),
            _ => {}
        }
    }
}

/// Reads to the end of a COPY's command; gives how many rows it says.
pub(super) async fn settle(incoming: &mut Incoming) -> Result<u64, Fault> {
    let (mut rows, mut failed) = (None, None);
    loop {
        let frame = incoming.next().await?;
        match frame.tag {
            b'C' => {
                let tag = frame.body.strip_suffix(&[0]).unwrap_or(frame.body);
                let count = std::str::from_utf8(tag).ok().and_then(|tag| tag.strip_prefix("COPY "));
                rows = count.and_then(|count| count.parse().ok());
            }
            b'E' => {
                let message = ServerMessage::parse(frame.body);
                if message.ends_session() {
                    return Err(message.into_fault());
                }
                failed.get_or_insert(message);
            }
            b'Z' => {
                return match (failed, rows) {
                    (Some(message), _) => Err(message.into_fault()),
                    (None, Some(rows)) => Ok(rows),
                    (None, None) => Err(Fault::stop("COPY ended without a number of rows")),
                };
            }
            _ => {}
        }
    }
}

/// The fields of a DataRow, in order; `None` is null. Ends early on broken bytes.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a [u8]) -> Fields<'a> {
        // The count says nothing that the lengths don't.
        Fields { rest: body.get(2..).unwrap_or_default() }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.rest = rest;
            return Some(None);
        };
        let (field, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Some(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stop_at_broken_bytes() {
        let row = b"\0\x03\0\0\0\x02hi\xff\xff\xff\xff\0\0\0\0";
        let fields: Vec<_> = Fields::new(row).collect();
        assert_eq!(fields, [Some(&b"hi"[..]), None, Some(&b""[..])]);
        assert_eq!(Fields::new(b"\0\x01\0\0\0\x09hi").count(), 0);
        assert_eq!(Fields::new(b"").count(), 0);
    }
}
