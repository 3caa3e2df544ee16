//! The whole way: a table and a view of a source that can only be read, polled while others write, and read on the target.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Cluster, Pgsluice, seconds, wait_until};

const SOURCE: &str = "create table accounts(id int primary key, cents bigint not null);
    insert into accounts select i, 100 from generate_series(1, 1000) i;
    create view richest as select id, cents from accounts order by cents desc, id limit 10;
    create role poller login; grant select on all tables in schema public to poller";

#[test]
fn what_is_polled_under_load_is_read_whole_and_without_waiting() {
    let (source, target) = (Cluster::target(), Cluster::target());
    source.run_script(SOURCE);
    let poller = source.conninfo().replace("user=postgres", "user=poller");
    let program = Pgsluice::with(&poller, &target.conninfo());
    let polls = "[[poll]]\ntable = 'public.accounts'\nmethod = 'snapshot'\nevery = '200ms'
        [[poll]]\ntable = 'public.richest'\nmethod = 'snapshot'\nevery = '200ms'";
    std::fs::write(program.folder().join("poll.toml"), polls).unwrap();
    program.run(&["poll", "--config", "poll.toml", "--once", "--now"]).done();
    let polling = program.start(&["poll", "--config", "poll.toml"]);
    let applying = program.start(&["apply", "--config", "poll.toml"]);
    wait_until(seconds(30), "both views are there", || {
        target.value("select count(*) from pg_views where schemaname = 'public'") == "2"
    });
    target.run_script(
        "create index on accounts__a(cents); create role reader; grant select on accounts to reader",
    );
    let (done, reads) =
        (AtomicBool::new(false), "select format('%s %s', count(*), sum(cents)) from accounts");
    std::thread::scope(|scope| {
        for number in 0..2 {
            let (source, done) = (&source, &done);
            scope.spawn(move || {
                let session = source.session();
                for turn in 0u32.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let (one, other) = (1 + (turn * 7 + number) % 1000, 1 + (turn * 13 + 5) % 1000);
                    let (low, high) = (one.min(other), one.max(other));
                    session.query(&format!(
                        "begin; update accounts set cents = cents - 1 where id = {low}; select pg_sleep(0.01);
                         update accounts set cents = cents + 1 where id = {high}; commit"
                    ));
                }
            });
        }
        let (target, done) = (&target, &done);
        let reading = scope.spawn(move || {
            let session = target.session();
            session.query("set lock_timeout = '50ms'");
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(session.value(reads), "1000 100000");
                assert_eq!(
                    session.value("set role reader; select count(*) from accounts; reset role"),
                    "1000"
                );
                assert_eq!(session.value("select count(*) from richest"), "10");
                count += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            count
        });
        std::thread::sleep(seconds(5));
        source.query("alter table accounts add column note text default 'new'");
        std::thread::sleep(seconds(5));
        done.store(true, Ordering::Relaxed);
        eprintln!("{} rounds of reads", reading.join().unwrap());
    });
    let swaps = applying.log().matches("the view shows a new snapshot").count();
    eprintln!("{swaps} swaps");
    assert!(swaps > 20, "{swaps}");
    for table in ["accounts", "richest"] {
        let rows = format!("select string_agg(t::text, ';' order by id) from {table} t");
        let wanted = source.value(&rows);
        wait_until(seconds(30), "the last snapshot", || target.value(&rows) == wanted);
    }
    assert_eq!(
        target.value(
            "select count(*) from pg_indexes where indexdef like '%(cents)' and tablename like 'accounts%'"
        ),
        "2"
    );
    polling.terminate(seconds(20)).done();
    applying.terminate(seconds(20)).done();
}
