//! What holds of the bank at every commit.

use std::collections::BTreeMap;

use super::target::Target;

/// What all accounts had at the start, each.
pub(super) const BALANCE: i64 = 1000;

/// The sum of the balances never changes; the entries of each account are numbered without a gap and explain its balance; the table
/// without a key has each entry once.
pub(super) fn bank(target: &Target) {
    let number =
        |field: &Option<Vec<u8>>| String::from_utf8(field.clone().unwrap()).unwrap().parse::<i64>().unwrap();
    let mut entries: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    for row in target.table("ledger") {
        entries.entry(number(&row[0])).or_default().push((number(&row[1]), number(&row[2])));
    }
    let mut sum = 0;
    let mut accounts = 0;
    for row in target.table("account") {
        let (account, balance, n) = (number(&row[0]), number(&row[1]), number(&row[2]));
        let mut of_account = entries.remove(&account).unwrap_or_default();
        of_account.sort_unstable();
        let numbers: Vec<i64> = of_account.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, (1..=n).collect::<Vec<_>>(), "entries of account {account}");
        let moved: i64 = of_account.iter().map(|(_, delta)| delta).sum();
        assert_eq!(balance, BALANCE + moved, "balance of account {account}");
        sum += balance;
        accounts += 1;
    }
    assert_eq!(sum, BALANCE * accounts);
    assert!(entries.is_empty(), "entries of no account: {entries:?}");
    let mut entered: Vec<_> = target.table("entered").map(|row| (number(&row[0]), number(&row[1]))).collect();
    let mut ledger: Vec<_> = target.table("ledger").map(|row| (number(&row[0]), number(&row[1]))).collect();
    entered.sort_unstable();
    ledger.sort_unstable();
    assert_eq!(entered, ledger, "what was entered, and the ledger");
}
