//! Messages made here, for transactions whose ends came in another form.

use super::{Begin, Commit};

/// `logicalrep_write_begin`.
pub fn encode_begin(begin: &Begin) -> Vec<u8> {
    let mut message = vec![b'B'];
    message.extend_from_slice(&begin.commit_lsn.0.to_be_bytes());
    message.extend_from_slice(&begin.commit_time.0.to_be_bytes());
    message.extend_from_slice(&begin.xid.0.to_be_bytes());
    message
}

/// `logicalrep_write_commit`.
pub fn encode_commit(commit: &Commit) -> Vec<u8> {
    let mut message = vec![b'C', 0];
    message.extend_from_slice(&commit.commit_lsn.0.to_be_bytes());
    message.extend_from_slice(&commit.end.0.to_be_bytes());
    message.extend_from_slice(&commit.commit_time.0.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, Position, Timestamp, Xid};
    use crate::pgoutput::{Message, decode};

    #[test]
    fn what_is_encoded_decodes() {
        let (commit_lsn, commit_time) = (Lsn(0x1_2022_AAA8), Timestamp(-7));
        let begin = Begin { commit_lsn, commit_time, xid: Xid(777) };
        assert_eq!(decode(&encode_begin(&begin)), Ok(Message::Begin(begin)));
        let commit = Commit { commit_lsn, end: Position(0x1_2022_AAD8), commit_time };
        assert_eq!(decode(&encode_commit(&commit)), Ok(Message::Commit(commit)));
    }
}
