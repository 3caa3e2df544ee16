//! A room imports only from rooms of a lower level, and from itself; each crate has its reason written down.

use std::path::{Path, PathBuf};

/// The layers of `ARCHITECTURE.md`.
const LEVELS: [&[&str]; 8] = [
    &["model", "faults", "meter"],
    &["pgoutput"],
    &["segment", "transform", "plugin", "ddl", "pg", "catalog", "store"],
    &["archive", "sentinel", "dump", "rules"],
    &["receive", "poll", "copy", "apply", "verify", "compare", "history", "export"],
    &["follow"],
    &["serve"],
    &["cli"],
];

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that a source text reaches by `crate::room` and `crate::{room::.., room::..}`; `super::room` counts too
/// where it names one. Comments don't count.
fn rooms_named(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let mut rooms = Vec::new();
    for prefix in ["crate::", "super::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = code[at + prefix.len()..].trim_start();
            match rest.strip_prefix('{') {
                Some(group) => rooms.extend(first_words(group)),
                None => rooms.push(word(rest)),
            }
        }
    }
    rooms.retain(|room| level(room).is_some());
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first word of each member of a group that began before `text`.
fn first_words(text: &str) -> Vec<String> {
    let (mut depth, mut words, mut at_start) = (0, Vec::new(), true);
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                words.push(word(&text[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    words
}

/// What is wrong with a file of a room, one line each.
fn violations(room: &str, text: &str) -> Vec<String> {
    let Some(own) = level(room) else {
        return vec![format!("{room} has no level: give it one here and in ARCHITECTURE.md")];
    };
    let named = rooms_named(text).into_iter().filter(|named| named != room);
    let above = named.filter(|named| level(named).is_some_and(|level| level >= own));
    above.map(|named| format!("{room} (level {own}) imports {named}, which is not below it")).collect()
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn rooms_import_only_from_below() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&source, &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let inside = path.strip_prefix(&source).unwrap();
        let room = inside.iter().next().unwrap().to_string_lossy().into_owned();
        // lib.rs names all rooms, main.rs calls the topmost.
        if room == "lib.rs" || room == "main.rs" {
            continue;
        }
        let room = room.trim_end_matches(".rs");
        let text = std::fs::read_to_string(&path).unwrap();
        wrong.extend(violations(room, &text).into_iter().map(|line| format!("{}: {line}", inside.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_import_is_seen() {
    let cases = [
        ("archive", "use crate::model::Lsn;\nuse crate::segment::{Header, Footer};", 0),
        (
            "archive",
            "use crate::archive::Reader; use super::lock::Lock; use super::super::segment::Header;",
            0,
        ),
        ("archive", "/// See [`crate::follow`].\nfn f() {} // crate::cli", 0),
        ("archive", "use crate::apply::Applier;", 1),
        ("archive", "use crate::sentinel::Sentinel;", 1),
        (
            "archive",
            "use crate::{\n    model::{Lsn, Position},\n    follow::{Machine, Event},\n    pg,\n};",
            1,
        ),
        ("archive", "fn f() { crate::cli::main(); crate::receive::run() }", 2),
        ("model", "use super::super::pg::Control;", 1),
        ("cli", "use crate::{apply, receive, follow, archive::{Reader, Writer}};", 0),
        ("attic", "", 1),
    ];
    for (room, text, count) in cases {
        assert_eq!(violations(room, text).len(), count, "{room}: {text}");
    }
}

/// The names in the tables of dependencies of a manifest.
fn crates(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]" || line == "[dev-dependencies]";
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) {
            names.push(name.trim().to_owned());
        }
    }
    names
}

#[test]
fn each_crate_has_its_reason() {
    let manifest = include_str!("../Cargo.toml");
    let reasons = include_str!("../docs/DEPENDENCIES.md");
    let names = crates(manifest);
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        assert!(reasons.contains(&format!("\n| {name} | ")), "{name} has no line in docs/DEPENDENCIES.md");
    }
    let lines = reasons
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| crate") && !line.contains("---"));
    assert_eq!(lines.count(), names.len(), "a line in docs/DEPENDENCIES.md for a crate that is gone");
}
