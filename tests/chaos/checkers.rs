//! What must hold, as functions over what was read: each says what is wrong, or nothing.

use crate::support::lsn_text;

/// A transaction that changed rows of published tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) xid: u32,
    /// The first byte after its commit record.
    pub(super) end: u64,
    pub(super) rows: u64,
}

/// The log has what the source has committed: the same, in the same order, each once.
pub(super) fn difference(source: &[Transaction], log: &[Transaction]) -> Option<String> {
    let first = (0..source.len().max(log.len())).find(|at| source.get(*at) != log.get(*at))?;
    Some(format!(
        "transaction {first} of {} is {:?} on the source, and in the log, which has {}, {:?}",
        source.len(),
        source.get(first),
        log.len(),
        log.get(first)
    ))
}

/// A position that may only go forward.
#[derive(Default)]
pub(super) struct Forward {
    last: u64,
}

impl Forward {
    /// `may_go_back`: what was told was not durable, and its server has crashed since.
    pub(super) fn step(&mut self, what: &str, position: u64, may_go_back: bool) -> Option<String> {
        let last = std::mem::replace(&mut self.last, position);
        (position < last && !may_go_back)
            .then(|| format!("{what} has gone back from {} to {}", lsn_text(last), lsn_text(position)))
    }
}

/// Nothing is confirmed to the source that is not durable. What is confirmed must have been read before what is durable.
pub(super) fn confirmed_too_much(confirmed: u64, durable: u64) -> Option<String> {
    (confirmed > durable).then(|| {
        format!("{} is confirmed to the source, and {} is durable", lsn_text(confirmed), lsn_text(durable))
    })
}

/// The newest end among names of sealed segments, such as `…/0000000001A2B3C0-0000000002FFFFF8.seg`.
pub(super) fn newest_end<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<u64> {
    let end = |name: &str| {
        let (_, end) = name.strip_suffix(".seg")?.rsplit_once('-')?;
        u64::from_str_radix(end, 16).ok()
    };
    names.into_iter().filter_map(end).max()
}

#[test]
fn checkers_see_what_is_wrong() {
    let transaction = |xid, end| Transaction { xid, end, rows: 1 };
    let all = [transaction(7, 10), transaction(5, 20), transaction(9, 30)];
    assert_eq!(difference(&all, &all), None);
    assert!(difference(&all, &all[..2]).is_some());
    assert!(difference(&all, &[all[0].clone(), all[2].clone(), all[1].clone()]).is_some());
    assert!(difference(&all, &[all[0].clone(), all[0].clone(), all[1].clone()]).is_some());
    let mut forward = Forward::default();
    assert_eq!(forward.step("it", 5, false), None);
    assert_eq!(forward.step("it", 4, true), None);
    assert!(forward.step("it", 3, false).is_some());
    assert_eq!(confirmed_too_much(5, 5), None);
    assert!(confirmed_too_much(6, 5).is_some());
    assert_eq!(newest_end(["a/0000-000A.seg", "0000000A-.seg", "0A-1F.seg.new", "durable"]), Some(10));
}
