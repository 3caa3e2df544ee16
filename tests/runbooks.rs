//! The runbooks of docs/OPERATIONS.md: each script does its job on real servers, and has the page's commands word for word.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Running, Version, Watcher, seconds};

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

/// Ends what the script has started, whatever became of it.
const CLEAN_UP: &str = r#"kill -9 -- "-$1"; PGSLUICE_PLAY="$2" "$3" stop"#;

#[track_caller]
fn does_its_job(name: &str) {
    let folder = tempfile::Builder::new().prefix("pgsluice-runbook-").tempdir().unwrap();
    let mut command = Command::new(tools().join("runbooks").join(name));
    command.env("PGSLUICE_BIN", env!("CARGO_BIN_EXE_pgsluice")).env("PGSLUICE_RUNBOOK_FOLDER", folder.path());
    command.process_group(0);
    let running = Running::spawn(command);
    let id = running.id().to_string();
    let arguments =
        [id.as_ref(), folder.path().as_os_str(), tools().join("cluster").as_os_str()].map(ToOwned::to_owned);
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    let _watcher = Watcher::new(CLEAN_UP, &arguments);
    let outcome = running.wait(seconds(180)).done();
    assert!(outcome.stderr.contains("==> "), "it tells what it does: {outcome}");
}

/// For those that take two versions.
fn two_versions() -> bool {
    let versions = Version::all();
    let enough = versions.len() > 1;
    if !enough {
        eprintln!("left out: it takes two versions of PostgreSQL; tools/servers brings another");
    }
    enough
}

#[test]
fn first_migration() {
    does_its_job("first-migration");
}

#[test]
fn cutover_and_back() {
    does_its_job("cutover-and-back");
}

#[test]
fn upgrade_of_the_source() {
    if two_versions() {
        does_its_job("upgrade-source");
    }
}

#[test]
fn upgrade_of_the_source_with_its_slot() {
    if Version::all().iter().any(|version| version.major >= 17) {
        does_its_job("upgrade-source-slot");
    } else {
        eprintln!("left out: it takes PostgreSQL 17 or later; tools/servers brings one");
    }
}

#[test]
fn upgrade_of_the_target() {
    if two_versions() {
        does_its_job("upgrade-target");
    }
}

#[test]
fn slot_lost() {
    does_its_job("slot-lost");
}

#[test]
fn failover_without_the_slot() {
    does_its_job("failover");
}

#[test]
fn failover_with_the_slot() {
    if Version::all().iter().any(|version| version.major >= 17) {
        does_its_job("failover-slot");
    } else {
        eprintln!("left out: it takes PostgreSQL 17 or later; tools/servers brings one");
    }
}

#[test]
fn bucket_lost() {
    does_its_job("bucket-lost");
}

#[test]
fn one_table_restored() {
    does_its_job("restore-table");
}

/// The page's sections that are runbooks: the script's name, and the blocks of commands.
fn sections() -> Vec<(String, Vec<String>)> {
    let page = std::fs::read_to_string(tools().join("../docs/OPERATIONS.md")).unwrap();
    let mut sections = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let Some((_, rest)) = section.split_once("`tools/runbooks/") else { continue };
        let name = rest.split('`').next().unwrap().to_owned();
        let blocks = section.split("```bash\n").skip(1);
        let blocks = blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect();
        sections.push((name, blocks));
    }
    sections
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_page_and_the_scripts_have_the_same_commands() {
    let sections = sections();
    for (name, blocks) in &sections {
        let script = std::fs::read_to_string(tools().join("runbooks").join(name)).expect(name);
        let script = lines(&script);
        assert!(!blocks.is_empty(), "{name} has no commands in docs/OPERATIONS.md");
        for block in blocks {
            let block = lines(block);
            let is_there = script.windows(block.len()).any(|window| window == block);
            assert!(
                is_there,
                "not in tools/runbooks/{name}, in this order and nothing between:\n{}",
                block.join("\n")
            );
        }
    }
    let mut scripts: Vec<String> = std::fs::read_dir(tools().join("runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lib.sh")
        .collect();
    scripts.sort();
    let mut named: Vec<String> = sections.into_iter().map(|(name, _)| name).collect();
    named.sort();
    assert_eq!(named, scripts, "the page's runbooks, and the scripts");
}
