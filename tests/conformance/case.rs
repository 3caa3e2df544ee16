//! A case as it is written: `cases/THEME/NAME.sql`. `cases/README.md` says what may be in it.

use std::path::{Path, PathBuf};

use super::{Lane, Plugin};

/// One file of `cases/`.
#[derive(Debug, Default)]
pub struct Case {
    /// `theme/name`.
    pub name: String,
    /// The first comment line.
    pub title: String,
    pub only: Vec<Condition>,
    /// A query that fails where the server lacks what the case shows, such as XML.
    pub needs: Option<String>,
    /// More arguments of `setup`.
    pub setup: Vec<String>,
    /// Variables of the environment of every command.
    pub environment: Vec<(String, String)>,
    pub source_encoding: String,
    pub target_encoding: String,
    pub source_role: Option<String>,
    pub target_role: Option<String>,
    pub refusals: Vec<Refusal>,
    /// SQL of both ends.
    pub schema: String,
    pub source: String,
    pub target: String,
    pub steps: Vec<Step>,
    /// What a person does on the target after a refusal.
    pub mend: Option<String>,
    /// Queries that must give the same on both ends, instead of all tables.
    pub compare: Vec<String>,
}

#[derive(Debug)]
pub enum Step {
    /// A script, run by psql.
    Script(String),
    /// Sent over a connection that stays open under this name.
    Session(String, String),
}

/// Where something holds: `pgoutput`, `15`, `18+`.
#[derive(Debug)]
pub enum Condition {
    Plugin(Plugin),
    /// `wal2json before 2.6`, which prints numbers that JSON lacks as null.
    OldWal2json,
    Version {
        least: u32,
        most: u32,
    },
}

#[derive(Debug)]
pub struct Refusal {
    pub by: Command,
    pub where_: Vec<Condition>,
    pub code: i32,
    /// Must be in the message.
    pub says: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Setup,
    Follow,
}

impl Case {
    /// Whether the case says anything for this plugin and version.
    pub fn is_for(&self, lane: &Lane) -> bool {
        hold(&self.only, lane)
    }

    pub fn refusal(&self, lane: &Lane) -> Option<&Refusal> {
        self.refusals.iter().find(|refusal| hold(&refusal.where_, lane))
    }

    fn read(name: String, text: &str) -> Result<Case, String> {
        let mut case =
            Case { name, source_encoding: "UTF8".into(), target_encoding: "UTF8".into(), ..Case::default() };
        let mut section: Option<Section> = None;
        for (line, number) in text.lines().zip(1..) {
            let wrong = |what: String| format!("line {number}: {what}");
            let directive = line.strip_prefix("-- [").and_then(|rest| rest.strip_suffix(']'));
            let Some(directive) = directive else {
                match &mut section {
                    Some(section) => section.add(&mut case, line),
                    None => case.head(line).map_err(wrong)?,
                }
                continue;
            };
            match Section::new(directive) {
                Some(begun) => {
                    begun.begin(&mut case).map_err(wrong)?;
                    section = Some(begun);
                }
                None if section.is_none() => case.directive(directive).map_err(wrong)?,
                None => {
                    return Err(wrong(format!(
                        "[{directive}] is unknown, or belongs before the first section"
                    )));
                }
            }
        }
        if case.title.is_empty() {
            return Err("the first line must be a comment that says what the case shows".into());
        }
        Ok(case)
    }

    /// A line before the first section.
    fn head(&mut self, line: &str) -> Result<(), String> {
        match line.strip_prefix("-- ") {
            Some(comment) if self.title.is_empty() => self.title = comment.trim_end_matches('.').into(),
            Some(_) => {}
            None if line.trim().is_empty() || line == "--" => {}
            None => return Err("SQL before the first section".into()),
        }
        Ok(())
    }

    fn directive(&mut self, text: &str) -> Result<(), String> {
        if let Some(rest) = text.strip_prefix("refused by ") {
            self.refusals.push(refusal(rest)?);
            return Ok(());
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match (word, rest.split_once(' ')) {
            ("only", _) => self.only = conditions(rest)?,
            ("with", _) => {
                let (name, value) = rest.split_once('=').ok_or("[with NAME=VALUE]")?;
                self.environment.push((name.into(), value.into()));
            }
            ("needs", _) => self.needs = Some(rest.into()),
            ("setup", _) => self.setup = rest.split_whitespace().map(str::to_owned).collect(),
            ("encoding", None) => {
                self.source_encoding = rest.into();
                self.target_encoding = rest.into();
            }
            ("source", Some(("encoding", name))) => self.source_encoding = name.into(),
            ("target", Some(("encoding", name))) => self.target_encoding = name.into(),
            ("source", Some(("role", name))) => self.source_role = Some(name.into()),
            ("target", Some(("role", name))) => self.target_role = Some(name.into()),
            _ => return Err(format!("[{text}] is unknown")),
        }
        Ok(())
    }
}

enum Section {
    Schema,
    Source,
    Target,
    Changes,
    Session(String),
    Mend,
    Compare,
}

impl Section {
    fn new(directive: &str) -> Option<Section> {
        Some(match directive {
            "schema" => Section::Schema,
            "source" => Section::Source,
            "target" => Section::Target,
            "changes" => Section::Changes,
            "mend" => Section::Mend,
            "compare" => Section::Compare,
            _ => Section::Session(directive.strip_prefix("session ")?.into()),
        })
    }

    fn begin(&self, case: &mut Case) -> Result<(), String> {
        match self {
            Section::Changes => case.steps.push(Step::Script(String::new())),
            Section::Session(name) => case.steps.push(Step::Session(name.clone(), String::new())),
            Section::Mend => case.mend = Some(String::new()),
            Section::Compare => case.compare.push(String::new()),
            Section::Schema | Section::Source | Section::Target if !case.steps.is_empty() => {
                return Err("both ends are made before the changes".into());
            }
            Section::Schema | Section::Source | Section::Target => {}
        }
        Ok(())
    }

    fn add(&self, case: &mut Case, line: &str) {
        let text = match self {
            Section::Schema => Some(&mut case.schema),
            Section::Source => Some(&mut case.source),
            Section::Target => Some(&mut case.target),
            Section::Mend => case.mend.as_mut(),
            Section::Compare => case.compare.last_mut(),
            Section::Changes | Section::Session(_) => case.steps.last_mut().map(|step| match step {
                Step::Script(sql) | Step::Session(_, sql) => sql,
            }),
        };
        if let Some(text) = text {
            text.push_str(line);
            text.push('\n');
        }
    }
}

/// `follow with wal2json, 18+, exit 4: text`
fn refusal(text: &str) -> Result<Refusal, String> {
    let (head, says) = text.split_once(": ").ok_or("a refusal ends with ': TEXT'")?;
    let (by, listed) = head.split_once(" with ").unwrap_or((head, ""));
    let by = match by {
        "setup" => Command::Setup,
        "follow" => Command::Follow,
        other => return Err(format!("'{other}' is neither setup nor follow")),
    };
    let (codes, rest): (Vec<_>, Vec<_>) =
        listed.split(", ").filter(|word| !word.is_empty()).partition(|word| word.starts_with("exit "));
    let code = match codes.first() {
        None => 1,
        Some(word) => {
            word.trim_start_matches("exit ").parse().map_err(|_| format!("'{word}' is no exit code"))?
        }
    };
    Ok(Refusal { by, where_: conditions(&rest.join(", "))?, code, says: says.into() })
}

fn conditions(text: &str) -> Result<Vec<Condition>, String> {
    text.split(", ").filter(|word| !word.is_empty()).map(condition).collect()
}

fn condition(word: &str) -> Result<Condition, String> {
    if word == "wal2json before 2.6" {
        return Ok(Condition::OldWal2json);
    }
    if let Some(plugin) = Plugin::named(word) {
        return Ok(Condition::Plugin(plugin));
    }
    let unknown = |_| format!("'{word}' is neither a plugin nor a version such as 18 or 16+");
    match word.strip_suffix('+') {
        Some(least) => Ok(Condition::Version { least: least.parse().map_err(unknown)?, most: u32::MAX }),
        None => {
            let exact = word.parse().map_err(unknown)?;
            Ok(Condition::Version { least: exact, most: exact })
        }
    }
}

/// One of the plugins, if any is listed, and one of the versions, if any is listed.
fn hold(conditions: &[Condition], lane: &Lane) -> bool {
    let (mut plugins, mut versions) = (Vec::new(), Vec::new());
    for condition in conditions {
        match condition {
            Condition::Plugin(plugin) => plugins.push(*plugin == lane.plugin),
            Condition::OldWal2json => {
                plugins.push(lane.plugin == Plugin::Wal2json && !lane.version.wal2json_prints_all_numbers());
            }
            Condition::Version { least, most } => {
                versions.push((*least..=*most).contains(&lane.version.major))
            }
        }
    }
    [plugins, versions].iter().all(|held| held.is_empty() || held.contains(&true))
}

/// All cases, by name. A file that can't be read as one fails the test.
pub fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/cases");
    let mut files = Vec::new();
    for theme in entries(&folder).iter().filter(|path| path.is_dir()) {
        files.extend(entries(theme).into_iter().filter(|path| path.extension().is_some_and(|e| e == "sql")));
    }
    let cases = files.iter().map(|path| {
        let name = path.strip_prefix(&folder).unwrap().with_extension("").display().to_string();
        let text = std::fs::read_to_string(path).unwrap();
        Case::read(name, &text).unwrap_or_else(|what| panic!("{}: {what}", path.display()))
    });
    cases.collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_case_is_read_as_it_is_written() {
    let text = "-- Rows go back and forth.\n-- more\n-- [only pgoutput, 15, 17+]\n-- [setup --keyless full]\n\
        -- [target role clerk]\n-- [refused by follow with wal2json, exit 4: no such row]\n-- [schema]\ncreate table t();\n\
        -- [changes]\ninsert;\n-- [session a]\nbegin;\n-- no section\n-- [mend]\nalter;\n";
    let case = Case::read("theme/name".into(), text).unwrap();
    assert_eq!(case.title, "Rows go back and forth");
    assert_eq!((case.schema.as_str(), case.mend.as_deref()), ("create table t();\n", Some("alter;\n")));
    assert_eq!(case.setup, ["--keyless", "full"]);
    assert_eq!(case.target_role.as_deref(), Some("clerk"));
    let [Step::Script(script), Step::Session(name, sql)] = case.steps.as_slice() else { panic!("{case:?}") };
    assert_eq!((script.as_str(), name.as_str(), sql.as_str()), ("insert;\n", "a", "begin;\n-- no section\n"));
    let [refusal] = case.refusals.as_slice() else { panic!("{case:?}") };
    assert_eq!((refusal.by, refusal.code, refusal.says.as_str()), (Command::Follow, 4, "no such row"));
    for wrong in [
        "create table t();",
        "-- title\n-- [schemas]",
        "-- title\n-- [changes]\n-- [schema]",
        "-- t\n-- [only pgoutputs]",
    ] {
        assert!(Case::read("theme/name".into(), wrong).is_err(), "{wrong}");
    }
}
