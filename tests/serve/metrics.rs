//! What Prometheus reads.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Served;

use crate::support::{Road, Running, http, seconds, wait_until};

/// Names without labels and values.
fn names(text: &str) -> BTreeSet<&str> {
    let figures = text.lines().filter(|line| !line.starts_with('#'));
    figures.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        println!("skipped: there is no {program}");
    }
    there
}

#[test]
fn every_figure_is_counted_and_explained() {
    let road = Road::pgbench();
    let served = Served::start(&road, &["follow"]);
    road.source.pgbench(&["-n", "-c", "2", "-t", "200"]);
    road.wait_for("select count(*) from pgbench_history");
    served.seen();
    let metrics = || http::ask(&served.address, "GET", "/metrics", b"");
    wait_until(seconds(20), "everything applied is counted", || {
        metrics().contains("\npgsluice_applied_changes_total 1600\n")
    });
    let text = metrics();
    assert!(text.contains("application/openmetrics-text"), "{text}");
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_else(|| panic!("no {name}: {text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert_eq!(value("pgsluice_applied_transactions_total"), 400.0);
    assert_eq!(value("pgsluice_batch_changes_sum"), 1600.0);
    assert_eq!(value("pgsluice_batches_total"), value("pgsluice_batch_seconds_count"));
    assert!(value("pgsluice_sync_seconds_count") > 1.0);
    assert_eq!(value("pgsluice_lag_bytes"), 0.0);
    assert!(value("pgsluice_memory_bytes") > 1e6);
    assert!(text.contains("pgsluice_mode{mode=\"live\"} 1"), "{text}");
    // The target breaks off: counted.
    road.target.session().query(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgsluice apply'",
    );
    road.change("update pgbench_branches set bbalance = bbalance + 1");
    wait_until(seconds(30), "the lost connection is counted", || {
        metrics()
            .lines()
            .any(|line| line.starts_with("pgsluice_target_retries_total ") && !line.ends_with(" 0"))
    });
    for family in names(&text) {
        let family = ["_total", "_bucket", "_sum", "_count", "_info"]
            .iter()
            .fold(family, |name, end| name.strip_suffix(end).unwrap_or(name));
        assert!(
            family.is_empty()
                || !family.starts_with("pgsluice")
                || text.contains(&format!("# HELP {family} ")),
            "{family} is not explained"
        );
    }
    road.finish(served.running);
}

/// The dashboard and the rules name figures that exist, and a real Prometheus takes both the rules and what is served.
#[test]
fn a_real_prometheus_takes_figures_and_rules() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/prometheus");
    let rules = folder.join("alerts.yml");
    let dashboard: Value =
        serde_json::from_slice(&std::fs::read(folder.join("grafana.json")).unwrap()).unwrap();
    let road = Road::new("create table t(id int primary key)");
    let served = Served::start(&road, &["follow"]);
    served.seen();
    let text = http::ask(&served.address, "GET", "/metrics", b"");
    let known = names(&text);
    let mut expressions = vec![std::fs::read_to_string(&rules).unwrap()];
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 8);
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        expressions.push(target["expr"].as_str().unwrap().to_owned());
    }
    for expression in &expressions {
        for word in expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            assert!(!word.starts_with("pgsluice_") || known.contains(word), "no figure {word} is served");
        }
    }
    if !has("prometheus") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n- job_name: pgsluice\n  static_configs: [{{targets: ['{}']}}]\n",
        rules.display(),
        served.address
    );
    std::fs::write(&config, text).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", place.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let mut running = Running::spawn(command);
    let query = |path: &str| -> Value {
        match std::net::TcpStream::connect(&address) {
            // In the older protocol, so that an answer comes in one piece.
            Ok(_) => {
                super::answer(&super::raw(&address, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())).1
            }
            Err(_) => Value::Null,
        }
    };
    wait_until(seconds(60), "prometheus has read the figures", || {
        assert!(running.is_running(), "{}", running.log());
        query("/api/v1/targets")["data"]["activeTargets"][0]["health"] == "up"
    });
    wait_until(seconds(30), "a figure is there", || {
        !query("/api/v1/query?query=pgsluice_slot_safe_wal_bytes")["data"]["result"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    let read = query("/api/v1/rules");
    let rules = read["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() >= 6, "{read}");
    wait_until(seconds(30), "the rules were evaluated", || {
        let read = query("/api/v1/rules");
        let rules = read["data"]["groups"][0]["rules"].as_array().unwrap().clone();
        rules.iter().all(|rule| rule["health"] == "ok")
    });
    served.running.terminate(seconds(30)).done();
}
