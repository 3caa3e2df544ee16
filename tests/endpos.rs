//! The applied set is exactly { T | end LSN of T's commit <= endpos }, wherever endpos lies.
//!
//! The oracle is a second slot with test_decoding, read by SQL: none of our code has a part in it.

use std::collections::BTreeSet;

use crate::support::{Cluster, Pgsluice, Session, lsn, lsn_text};

const SCHEMA: &str = "create table t(name text primary key)";

/// What the oracle knows of a transaction: the LSNs of its rows, and of the end of its commit.
#[derive(Debug)]
struct Transaction {
    names: Vec<String>,
    changes: Vec<u64>,
    end: u64,
}

fn insert(session: &Session, name: &str) {
    session.query(&format!("insert into t values ('{name}')"));
}

/// Transactions that overlap in every way: nested, crossed, adjacent commits, rolled back in part and whole.
fn interleave(source: &Cluster) {
    let sessions: Vec<Session> = (0..5).map(|_| source.session()).collect();
    let [a, b, c, d, e] = sessions.as_slice() else { unreachable!("five sessions") };
    for round in 0..3 {
        let name = |text: &str| format!("{text}-{round}");
        for session in [a, b, c, d, e] {
            session.query("begin");
        }
        insert(a, &name("a1"));
        insert(b, &name("b1"));
        insert(a, &name("a2"));
        insert(c, &name("c1"));
        c.query("commit");
        insert(d, &name("d1"));
        insert(b, &name("b2"));
        b.query("savepoint s");
        insert(b, &name("undone"));
        b.query("rollback to savepoint s");
        insert(e, &name("never"));
        insert(a, &name("a3"));
        b.query("commit");
        insert(d, &name("d2"));
        // Their commit records touch: the end of one is the start of the other.
        a.query("commit");
        d.query("commit");
        e.query("rollback");
        insert(c, &name("alone"));
    }
}

fn oracle(source: &Cluster) -> Vec<Transaction> {
    let rows = source.query(
        "select lsn, data from pg_logical_slot_peek_changes('oracle', null, null,
            'include-xids', '1', 'skip-empty-xacts', '1')",
    );
    let mut transactions = Vec::new();
    let (mut names, mut changes) = (Vec::new(), Vec::new());
    for row in rows {
        let (at, data) = (lsn(row[0].as_ref().unwrap()), row[1].as_ref().unwrap());
        if data.starts_with("COMMIT") {
            let (names, changes) = (std::mem::take(&mut names), std::mem::take(&mut changes));
            transactions.push(Transaction { names, changes, end: at });
        } else if let Some((_, value)) = data.split_once("name[text]:'") {
            names.push(value.trim_end_matches('\'').to_owned());
            changes.push(at);
        }
    }
    transactions
}

/// Each boundary, the bytes beside it, each row's LSN and a byte after it.
fn interesting(transactions: &[Transaction]) -> BTreeSet<u64> {
    let ends = transactions.iter().flat_map(|transaction| {
        let end = transaction.end;
        [end - 1, end, end + 1]
    });
    let inside =
        transactions.iter().flat_map(|transaction| &transaction.changes).flat_map(|at| [*at, at + 1]);
    ends.chain(inside).collect()
}

fn expected(transactions: &[Transaction], endpos: u64) -> BTreeSet<String> {
    let covered = transactions.iter().filter(|transaction| transaction.end <= endpos);
    covered.flat_map(|transaction| transaction.names.iter().cloned()).collect()
}

fn applied(session: &Session) -> BTreeSet<String> {
    session.query("select name from t").into_iter().map(|mut row| row[0].take().unwrap()).collect()
}

fn source_with_oracle() -> Cluster {
    let source = Cluster::source();
    source.query(SCHEMA);
    source.query("select pg_create_logical_replication_slot('oracle', 'test_decoding')");
    source
}

#[test]
fn apply_stops_exactly_at_any_endpos() {
    let (source, target) = (source_with_oracle(), Cluster::target());
    target.query("create database form");
    target.session_of("form").query(SCHEMA);
    target.query(SCHEMA);
    let program = Pgsluice::between(&source, &target);
    program.run(&["setup"]).done();
    interleave(&source);
    program.run(&["receive", "--endpos", "current"]).done();
    let transactions = oracle(&source);
    assert_eq!(transactions.len(), 15);

    // Beyond the log's end an applier waits, as it must.
    let end = transactions[transactions.len() - 1].end;
    for (number, endpos) in interesting(&transactions).range(..=end).copied().enumerate() {
        let database = format!("e{number}");
        target.query(&format!("create database {database} template form"));
        let conninfo = target.conninfo_of(&database);
        let text = lsn_text(endpos);
        program.run(&["setup", "--target", &conninfo, "--origin", &database]).done();
        program.run(&["apply", "--target", &conninfo, "--origin", &database, "--endpos", &text]).done();
        let found = applied(&target.session_of(&database));
        assert_eq!(found, expected(&transactions, endpos), "endpos {text} of {transactions:?}");
        target.query(&format!("drop database {database} with (force)"));
        target.query(&format!(
            "select pg_replication_origin_drop(roname) from pg_replication_origin where roname = '{database}'"
        ));
    }
}

#[test]
fn follow_resumes_from_any_endpos_to_any_later_one() {
    let (source, target) = (source_with_oracle(), Cluster::target());
    target.query(SCHEMA);
    let program = Pgsluice::between(&source, &target);
    program.run(&["setup"]).done();
    interleave(&source);
    let transactions = oracle(&source);
    let session = target.session();
    for endpos in interesting(&transactions) {
        program.run(&["follow", "--endpos", &lsn_text(endpos)]).done();
        let text = lsn_text(endpos);
        assert_eq!(applied(&session), expected(&transactions, endpos), "endpos {text} of {transactions:?}");
    }
    program.follow_to_current();
    assert_eq!(applied(&session), expected(&transactions, u64::MAX));
}

/// Each run has a slot, an archive and a target of its own, so that the receiver itself meets the endpos.
#[test]
fn follow_from_the_slot_stops_exactly_at_endpos() {
    let (source, target) = (source_with_oracle(), Cluster::target());
    let names: Vec<String> = (0..8).map(|number| format!("e{number}")).collect();
    let programs: Vec<Pgsluice> = names
        .iter()
        .map(|name| {
            target.query(&format!("create database {name}"));
            target.session_of(name).query(SCHEMA);
            let program =
                Pgsluice::with(&source.conninfo(), &target.conninfo_of(name)).env("PGSLUICE_NAME", name);
            program.run(&["setup"]).done();
            program
        })
        .collect();
    interleave(&source);
    let transactions = oracle(&source);
    let candidates: Vec<u64> = interesting(&transactions).into_iter().collect();
    for (number, (name, program)) in names.iter().zip(&programs).enumerate() {
        let endpos = candidates[number * candidates.len() / programs.len()];
        program.run(&["follow", "--endpos", &lsn_text(endpos)]).done();
        let found = applied(&target.session_of(name));
        assert_eq!(found, expected(&transactions, endpos), "endpos {endpos:X} of {transactions:?}");
        // The rest was not lost by stopping there.
        program.follow_to_current();
        assert_eq!(applied(&target.session_of(name)), expected(&transactions, u64::MAX));
    }
}
