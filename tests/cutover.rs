//! `cutover`: the last steps in their order, and all of them but the last can be taken back.

use crate::support::{Road, assert_tables_equal, seconds, wait_until};

/// pgbench's tables with a sequence beside, and follow at work.
fn road() -> Road {
    let road = Road::pgbench();
    for cluster in [&road.source, &road.target] {
        cluster.run_script("create table ticket(id bigserial primary key, what text)");
    }
    road.change("insert into ticket(what) select 'before' from generate_series(1, 100)");
    road
}

fn read_only(road: &Road) -> String {
    road.source.session().value("show default_transaction_read_only")
}

#[test]
fn everything_is_on_the_target_and_nobody_writes_to_the_source_any_more() {
    let road = road();
    let follow = road.follow();
    let load = road.source.start_pgbench(&["-n", "-c", "4", "-T", "600", "-R", "200"]);
    road.wait_for("select count(*) from ticket");
    let report = road.program.run(&["cutover", "--read-only", "--json"]).done().json();
    follow.wait(seconds(30)).done();
    drop(load);
    assert_tables_equal(&road.source, &road.target);
    assert_eq!(report["tables_compared"], 5, "{report}");
    assert!(report["rows_compared"].as_u64().unwrap() > 100_000, "{report}");
    assert_eq!(read_only(&road), "on");
    let refused = road.source.session().try_query("insert into ticket(what) values ('late')");
    assert!(refused.unwrap_err().as_db_error().unwrap().message().contains("read-only"));
    assert_eq!(road.target.value("select nextval('ticket_id_seq')"), "101");
    // What is left to do, on a source that stays read-only.
    road.program.run(&["cleanup"]).done();
    assert_eq!(read_only(&road), "on");
    let left = "select (select count(*) from pg_publication) + (select count(*) from pg_replication_slots)";
    assert_eq!(road.source.value(left), "0");
    // The way back.
    road.source
        .session()
        .query("begin read write; alter database postgres reset default_transaction_read_only; commit");
    assert_eq!(read_only(&road), "off");
}

#[test]
fn a_difference_takes_everything_back() {
    let road = road();
    let mut follow = road.follow();
    road.wait_for("select count(*) from ticket");
    road.target.run_script("update ticket set what = 'other' where id = 7");
    let outcome = road.program.run(&["cutover", "--read-only"]).ends_with(3);
    assert!(outcome.stderr.contains("a row differs") && outcome.stderr.contains("given up"), "{outcome}");
    assert_eq!(read_only(&road), "off");
    assert!(follow.is_running());
    road.target.run_script("update ticket set what = 'before' where id = 7");
    road.change("insert into ticket(what) values ('later')");
    road.program.run(&["cutover"]).done();
    follow.wait(seconds(30)).done();
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn what_stands_in_the_way_is_told_and_nothing_is_changed() {
    let road = road();
    let outcome = road.program.run(&["cutover", "--read-only"]).ends_with(1);
    assert!(outcome.stderr.contains("nobody receives from slot pgsluice"), "{outcome}");
    assert_eq!(read_only(&road), "off");
    let follow = road.follow();
    road.wait_for("select count(*) from ticket");
    // The target can't take what comes, so it never has everything.
    let blocker = road.target.session();
    blocker.query("begin; lock table ticket in access exclusive mode");
    road.change("insert into ticket(what) values ('waits')");
    let outcome = road.program.run(&["cutover", "--read-only", "--timeout", "3"]).ends_with(1);
    assert!(outcome.stderr.contains("has not reached") && outcome.stderr.contains("given up"), "{outcome}");
    assert_eq!(read_only(&road), "off");
    let cutover = road.program.start(&["cutover", "--read-only"]);
    // It ends sessions that it finds there, this look among them.
    wait_until(seconds(20), "it has begun", || {
        let shown = road.source.session().try_query("show default_transaction_read_only");
        shown.is_ok_and(|rows| rows == [[Some("on".to_owned())]])
    });
    cutover.terminate(seconds(20)).ends_with(1);
    assert_eq!(read_only(&road), "off");
    blocker.query("commit");
    road.finish(follow);
}
