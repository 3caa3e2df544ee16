//! `quickstart`: two connection strings, and it runs.

use crate::support::{Cluster, Pgsluice, Road, assert_tables_equal, http, seconds, wait_until};

#[test]
fn an_empty_target_ends_as_a_copy_that_follows_with_a_page() {
    let (source, target) = (Cluster::source(), Cluster::target());
    source.pgbench(&["-i", "-q", "-s", "1"]);
    let program = Pgsluice::between(&source, &target);
    // Nobody is there to agree.
    let refused = program.run(&["quickstart"]).ends_with(2);
    assert!(
        refused.stderr.contains("nobody is there to be asked") && refused.stderr.contains("--yes"),
        "{refused}"
    );
    let dry = program.run(&["quickstart", "--dry-run", "--json"]).done();
    assert_eq!(dry.json()["command"][0], "clone");
    assert_eq!(source.value("select count(*) from pg_replication_slots"), "0");
    assert_eq!(target.value("select count(*) from pg_class where relname like 'pgbench%'"), "0");
    let mut running = program.start(&["quickstart", "--yes"]);
    let log = |running: &crate::support::Running| running.log();
    let mut address = None;
    wait_until(seconds(60), "the page's address is told", || {
        assert!(running.is_running(), "{}", running.log());
        let log = log(&running);
        address = log
            .split_once("status page: http://")
            .map(|(_, rest)| rest.split('/').next().unwrap().to_owned());
        address.is_some()
    });
    for part in
        ["Looking at both databases", "PostgreSQL", "pgsluice clone --follow", "REPLICA IDENTITY FULL is set"]
    {
        assert!(running.log().contains(part), "{part}: {}", running.log());
    }
    source.pgbench(&["-n", "-c", "2", "-t", "100"]);
    let road = Road { source, target, program };
    wait_until(seconds(60), "it is live", || {
        http::ask(address.as_ref().unwrap(), "GET", "/status", b"").contains("\"mode\":\"live\"")
    });
    road.wait_for("select count(*) from pgbench_history");
    running.terminate(seconds(30)).done();
    // Run again, it goes on.
    let again = road.program.run(&["quickstart", "--dry-run", "--json"]).done();
    assert!(again.json()["explanation"].to_string().contains("gone on with"), "{again}");
    road.source.rests();
    road.program.follow_to_current();
    assert_tables_equal(&road.source, &road.target);
}

#[test]
fn rows_on_the_target_are_left_alone() {
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.run_script("create table t(id int primary key); insert into t values (1)");
    }
    let program = Pgsluice::between(&source, &target);
    let refused = program.run(&["quickstart", "--yes"]).ends_with(1);
    assert!(refused.stderr.contains("the target has rows already: public.t"), "{refused}");
    assert_eq!(source.value("select count(*) from pg_replication_slots"), "0");
    let away = Pgsluice::with("host=127.0.0.1 port=1", &target.conninfo())
        .run(&["quickstart", "--yes"])
        .ends_with(1);
    assert!(away.stderr.contains("source: 127.0.0.1:1: can't connect"), "{away}");
}
