//! Version 2 of the protocol: transactions that are sent while they are under way, in blocks.
//!
//! Source: `src/backend/replication/logical/proto.c` (`logicalrep_write_stream_*`). A block is opened by Start and closed by
//! Stop, and between the two every message but Origin carries, behind its tag, the id of the (sub)transaction that it is of.
//! Blocks don't nest; transactions that came whole, and logical messages outside of transactions, may stand between them.

use crate::model::{Lsn, Position, Timestamp, Xid};

use super::cursor::Cursor;
use super::{Commit, Malformed};

/// What bounds the blocks and ends the transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    /// A block of this transaction follows.
    Start {
        xid: Xid,
    },
    Stop,
    /// All of the transaction was sent, and it has committed.
    Commit {
        xid: Xid,
        commit: Commit,
    },
    /// The subtransaction was rolled back; the whole transaction where both are the same.
    Abort {
        xid: Xid,
        subxid: Xid,
    },
}

/// Reads one of these, all of it; none where it is another message.
pub fn decode_stream(bytes: &[u8]) -> Result<Option<StreamMessage>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let message = match cursor.u8()? {
        b'S' => {
            let xid = Xid(cursor.u32()?);
            cursor.u8()?; // whether it is the first block, which the xid tells as well
            StreamMessage::Start { xid }
        }
        b'E' => StreamMessage::Stop,
        b'c' => {
            let xid = Xid(cursor.u32()?);
            cursor.u8()?; // flags, none defined
            let commit = Commit {
                commit_lsn: Lsn(cursor.u64()?),
                end: Position(cursor.u64()?),
                commit_time: Timestamp(cursor.u64()?.cast_signed()),
            };
            StreamMessage::Commit { xid, commit }
        }
        b'A' => StreamMessage::Abort { xid: Xid(cursor.u32()?), subxid: Xid(cursor.u32()?) },
        _ => return Ok(None),
    };
    cursor.end()?;
    Ok(Some(message))
}

/// A message of a block, taken apart: the (sub)transaction, and the tag and the rest that are its form in version 1.
pub fn split_streamed(bytes: &[u8]) -> Result<(Xid, u8, &[u8]), Malformed> {
    let mut cursor = Cursor::new(bytes);
    match cursor.u8()? {
        tag @ (b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M') => {
            Ok((Xid(cursor.u32()?), tag, cursor.rest()))
        }
        other => Err(Malformed::Tag(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: StreamMessage) {
        assert_eq!(decode_stream(bytes), Ok(Some(expected)));
        for cut in 0..bytes.len() {
            assert!(decode_stream(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode_stream(&longer), Err(Malformed::Long(1)));
    }

    #[test]
    fn blocks_and_their_ends() {
        check(b"S\0\0\x03\x09\x01", StreamMessage::Start { xid: Xid(777) });
        check(b"E", StreamMessage::Stop);
        check(b"A\0\0\x03\x09\0\0\x03\x0A", StreamMessage::Abort { xid: Xid(777), subxid: Xid(778) });
        check(
            b"c\0\0\x03\x09\0\0\0\0\0\x02\x02\x2A\xA8\0\0\0\0\x02\x02\x2A\xD8\0\0\0\0\0\0\0\x07",
            StreamMessage::Commit {
                xid: Xid(777),
                commit: Commit {
                    commit_lsn: Lsn(0x2022AA8),
                    end: Position(0x2022AD8),
                    commit_time: Timestamp(7),
                },
            },
        );
        assert_eq!(decode_stream(b"I\0\0\0\x09N\0\0"), Ok(None));
    }

    #[test]
    fn without_their_xid_messages_are_those_of_version_1() {
        assert_eq!(
            split_streamed(b"I\0\0\x03\x09\0\0\0\x09N\0\0"),
            Ok((Xid(777), b'I', &b"\0\0\0\x09N\0\0"[..]))
        );
        assert_eq!(split_streamed(b"I\0\0\x03"), Err(Malformed::Short));
        assert_eq!(split_streamed(b"B\0\0\x03\x09"), Err(Malformed::Tag(b'B')));
    }
}
