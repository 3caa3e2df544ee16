//! The ground that the other tests stand on holds.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{
    Cluster, StopMode, Version, assert_tables_equal, pair, seconds, tables_difference, wait_until,
};

#[test]
fn a_cluster_starts_dies_and_comes_back() {
    let cluster = Cluster::source();
    assert_eq!(cluster.value("show wal_level"), "logical");
    cluster.psql("create table kept(id int primary key); insert into kept values (1)");

    cluster.kill();
    assert!(!cluster.is_running());
    cluster.start();
    assert_eq!(cluster.value("select count(*) from kept"), "1");

    cluster.restart(StopMode::Immediate);
    cluster.restart(StopMode::Fast);
    assert_eq!(cluster.value("select count(*) from kept"), "1");

    let folder = cluster.folder().to_owned();
    drop(cluster);
    assert!(!folder.exists());
}

#[test]
fn two_clusters_are_two_and_compare() {
    let (source, target) = pair();
    for cluster in [&source, &target] {
        cluster.psql("create table t(id int, note text); insert into t values (1, 'a'), (1, 'a')");
    }
    assert_tables_equal(&source, &target);
    target.query("delete from t where ctid = (select min(ctid) from t)");
    assert!(tables_difference(&source, &target).unwrap().starts_with("public.t: source 2 rows"));
    target.query("drop table t");
    target.copy_from(&source);
    assert_tables_equal(&source, &target);
    target.query("create table more()");
    assert!(tables_difference(&source, &target).unwrap().contains("more"));
}

#[test]
fn a_fresh_cluster_is_another_system() {
    let identifier = "select system_identifier from pg_control_system()";
    let (copy, fresh) = (Cluster::target(), Cluster::prepare().fresh().start());
    assert_ne!(copy.value(identifier), fresh.value(identifier));
}

#[test]
fn sessions_hold_transactions_open() {
    let cluster = Cluster::source();
    let (one, two) = (cluster.session(), cluster.session());
    one.query("create table t(id int)");
    one.query("begin; insert into t values (1)");
    assert_eq!(two.value("select count(*) from t"), "0");
    one.query("commit");
    assert_eq!(two.value("select count(*) from t"), "1");
    assert!(two.try_query("select 1/0").is_err());
}

#[test]
fn every_version_at_hand_starts() {
    let versions = Version::all();
    assert!(!versions.is_empty());
    for version in versions {
        let cluster = Cluster::prepare_source().version(&version).start();
        let number: u32 = cluster.value("show server_version_num").parse().unwrap();
        assert_eq!(number / 10_000, version.major);
    }
}

/// Also what the next test runs as a process of its own, to be killed.
#[test]
fn a_cluster_has_a_folder() {
    let cluster = Cluster::target();
    assert!(cluster.data_folder().exists());
    if std::env::var_os("PGSLUICE_TEST_WAITS").is_some() {
        println!("folder={}", cluster.folder().display());
        std::thread::sleep(seconds(60));
    }
}

#[test]
fn no_server_outlives_a_killed_test() {
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "harness::a_cluster_has_a_folder", "--nocapture"])
        .env("PGSLUICE_TEST_WAITS", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines().map(Result::unwrap);
    let folder = lines.find_map(|line| line.split_once("folder=").map(|(_, path)| path.to_owned())).unwrap();
    assert!(Path::new(&folder).exists());
    test.kill().unwrap();
    test.wait().unwrap();
    wait_until(seconds(20), "the folder is removed", || !Path::new(&folder).exists());
}
