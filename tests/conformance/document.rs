//! `docs/CONFORMANCE.md`: how each case fared with each plugin and version. Written from the results of a run, by `tools/conformance`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Deserialize;

use super::Plugin;
use super::case::{self, Case};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFORMANCE.md");

const HEAD: &str = "# Conformance

What PostgreSQL can say, case by case, and what came of it. `tools/conformance` runs the cases and writes this page;
`tests/conformance/cases/` holds them, one readable SQL file each.

Every case is taken through the program three times: *live* (`follow` runs while the changes are made), in *catchup* (the changes
are made first), and once more *from the archive* into another target. After each all rows of all tables are compared with the source, as text.

- **equal**: all three targets hold what the source holds.
- **refused**: the program stops and says why, as listed below the table; nothing is different in silence.
- **not at hand**: that server was built without something that the case needs.
- –: the case is not for this plugin or version.

The columns are the plugin and the server's version, the same for source and target.
";

/// A line of a run's results.
#[derive(Deserialize)]
struct Line {
    case: String,
    plugin: String,
    version: u32,
    result: String,
    detail: String,
}

/// Column: place of the plugin, version.
type Lane = (usize, u32);

fn page(cases: &[Case], results: &str) -> String {
    let mut found: BTreeMap<(String, Lane), Line> = BTreeMap::new();
    for line in results.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        let plugin = Plugin::ALL.iter().position(|plugin| plugin.name() == line.plugin).unwrap();
        found.insert((line.case.clone(), (plugin, line.version)), line);
    }
    let lanes: BTreeSet<Lane> = found.keys().map(|(_, lane)| *lane).collect();
    let mut page = HEAD.to_owned();
    let mut theme = "";
    let mut refusals = Vec::new();
    for case in cases {
        let (of, name) = case.name.split_once('/').unwrap();
        if of != theme {
            end_theme(&mut page, &mut refusals);
            let heads =
                lanes.iter().map(|(plugin, version)| format!(" {} {version} |", Plugin::ALL[*plugin].name()));
            write!(page, "\n## {of}\n\n| case | shows |{}\n", heads.collect::<String>()).unwrap();
            writeln!(page, "| --- | --- |{}", " --- |".repeat(lanes.len())).unwrap();
            theme = of;
        }
        write!(page, "| {name} | {} |", case.title).unwrap();
        for lane in &lanes {
            let line = found.get(&(case.name.clone(), *lane));
            write!(page, " {} |", line.map_or("–", |line| line.result.as_str())).unwrap();
            if let Some(line) = line.filter(|line| line.result == "refused") {
                refusals.push((name.to_owned(), line.plugin.clone(), line.detail.clone()));
            }
        }
        page.push('\n');
    }
    end_theme(&mut page, &mut refusals);
    page
}

/// The refusals of a theme, the same one of several versions once.
fn end_theme(page: &mut String, refusals: &mut Vec<(String, String, String)>) {
    refusals.dedup();
    for (at, (case, plugin, says)) in refusals.drain(..).enumerate() {
        let gap = if at == 0 { "\n" } else { "" };
        writeln!(page, "{gap}- *{case}*, {plugin}: “{says}”").unwrap();
    }
}

/// With `PGSLUICE_CONFORMANCE_WRITE=RESULTS` it is written anew first.
#[test]
fn the_document_lists_every_case_and_no_failure() {
    let cases = case::all();
    if let Some(results) = std::env::var_os("PGSLUICE_CONFORMANCE_WRITE") {
        std::fs::write(PATH, page(&cases, &std::fs::read_to_string(results).unwrap())).unwrap();
    }
    let text = std::fs::read_to_string(PATH).unwrap();
    let mut listed = Vec::new();
    let mut theme = "";
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            theme = heading;
        }
        assert!(!line.contains("| failed |"), "{theme}: {line}");
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if line.starts_with("| ") && !line.starts_with("| case |") && !line.starts_with("| --- |") {
            listed.push(format!("{theme}/{} | {}", cells[0], cells[1]));
        }
    }
    let there: Vec<String> = cases.iter().map(|case| format!("{} | {}", case.name, case.title)).collect();
    assert_eq!(listed, there, "run tools/conformance");
}
