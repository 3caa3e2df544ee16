//! The transactions that committed at a time or later, and the lowest of their ids. One that began long before may be among them, so that
//! the first one's id is not the lowest.

use crate::model::{Fault, Position, Timestamp, Xid};

use super::Archive;
use super::lookup::{self, Found, Lookup};

/// What committed since a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The first of them, in the order of the log.
    pub first: Found,
    /// The last that the log has.
    pub last: Xid,
    /// How far the lowest of their ids is behind the last one's. Ids that come round meanwhile are counted on.
    pub behind: u64,
}

/// Finds them. A time before the log, or behind all that it has, is a fault.
pub fn since(archive: &Archive, time: Timestamp) -> Result<Since, Fault> {
    let Some(first) = lookup::find(archive, Lookup::Time(time))?.pop() else {
        let last = match lookup::last_before(archive, Position(u64::MAX))? {
            Some(last) => format!("its last one committed at {}", last.time),
            None => "it has none".into(),
        };
        return Err(Fault::stop(format!("the log has no transaction of {time} or later: {last}"))
            .hint("wait until the receiver has come to it; `pgsluice status` shows how far it is"));
    };
    if lookup::last_before(archive, first.end_lsn)?.is_none() {
        return Err(Fault::stop(format!(
            "{time} lies before the log, whose first transaction committed at {}: what was written between is not known",
            first.time
        ))
        .hint("bring all rows of the table, or name the transaction with --min-xid"));
    }
    let xids = lookup::xids_from(archive, first.end_lsn)?;
    let last = xids.last().copied().unwrap_or(Xid(first.xid));
    Ok(Since { first, last, behind: behind(&xids) })
}

/// How far the lowest of these ids is behind the last. One that follows another is less than 2^31 away from it, in either direction.
fn behind(xids: &[Xid]) -> u64 {
    let steps =
        xids.iter().zip(xids.iter().skip(1)).map(|(one, next)| next.0.wrapping_sub(one.0).cast_signed());
    let (mut at, mut lowest) = (0i64, 0i64);
    for step in steps {
        at += i64::from(step);
        lowest = lowest.min(at);
    }
    at.abs_diff(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_come_round_are_counted_on() {
        for (xids, expected) in [
            (&[][..], 0),
            (&[7], 0),
            (&[7, 8, 9], 2),
            (&[9, 7, 12], 5),
            (&[9, 12, 4], 0),
            (&[u32::MAX, 5, u32::MAX - 1, 7], 9),
            (&[0, 1 << 30, 1 << 31, 3 << 30, 0, 1], (1 << 32) + 1),
        ] {
            let xids: Vec<_> = xids.iter().copied().map(Xid).collect();
            assert_eq!(behind(&xids), expected, "{xids:?}");
        }
    }
}
