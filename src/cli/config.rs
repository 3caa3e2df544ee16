//! The file of `--config`: the same words as the flags. Flags win over the environment, the environment over the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::arguments::{LogFormat, Manner, SchemaPolicy, ValueFormat};
use super::backfill::TableSettings;
use super::conduct::{DdlChoice, Delay, Durable, ErrorChoice, Lanes, OriginChoice, Switch};
use super::poll::PollSettings;
use super::setup::KeylessPolicy;
use super::size::Size;
use crate::model::Fault;

/// What the file may hold. A key that is not here is an error, since a misspelt one would silently do nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) archive: Option<String>,
    pub(crate) spool: Option<String>,
    pub(crate) key_file: Option<String>,
    pub(crate) key_command: Option<String>,
    pub(crate) durable: Option<Durable>,
    pub(crate) name: Option<String>,
    pub(crate) slot: Option<String>,
    pub(crate) publication: Option<String>,
    pub(crate) origin: Option<String>,
    pub(crate) plugin: Option<String>,
    pub(crate) tables: Option<Vec<String>>,
    pub(crate) exclude: Option<Vec<String>>,
    pub(crate) columns: Option<Vec<String>>,
    #[serde(rename = "where")]
    pub(crate) rows: Option<Vec<String>>,
    pub(crate) keyless: Option<KeylessPolicy>,
    pub(crate) format: Option<ValueFormat>,
    pub(crate) sequences: Option<Switch>,
    pub(crate) ddl: Option<DdlChoice>,
    pub(crate) capture_ddl: Option<bool>,
    pub(crate) failover: Option<bool>,
    pub(crate) on_schema_change: Option<SchemaPolicy>,
    pub(crate) apply: Option<Manner>,
    pub(crate) exact: Option<Vec<String>>,
    pub(crate) rules: Option<PathBuf>,
    pub(crate) lanes: Option<Lanes>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) apply_delay: Option<Delay>,
    pub(crate) on_error: Option<ErrorChoice>,
    pub(crate) origins: Option<OriginChoice>,
    pub(crate) listen: Option<String>,
    pub(crate) token_file: Option<String>,
    pub(crate) ready_lag: Option<u32>,
    pub(crate) alarm_exec: Option<String>,
    pub(crate) alarm_url: Option<String>,
    pub(crate) alarm_patience: Option<u32>,
    pub(crate) alarm_transaction_age: Option<u32>,
    pub(crate) alarm_wal: Option<Size>,
    /// By a table's name or pattern.
    #[serde(default)]
    pub(crate) backfill: BTreeMap<String, TableSettings>,
    /// Tables and views that are polled.
    #[serde(default)]
    pub(crate) poll: Vec<PollSettings>,
}

impl File {
    pub(crate) fn read(path: Option<&Path>) -> Result<File, Fault> {
        let Some(path) = path else { return Ok(File::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Fault::usage(format!("reading {}: {error}", path.display())))?;
        File::parse(&text).map_err(|fault| fault.context(path.display()))
    }

    fn parse(text: &str) -> Result<File, Fault> {
        toml::from_str(text).map_err(|error| {
            // The error's own display quotes the line, which may hold a secret.
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count().saturating_add(1));
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            Fault::usage(format!("{place}{}", error.message().trim_end()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Remedy;

    #[test]
    fn holds_the_words_of_the_flags() {
        let file =
            File::parse("name = 'n'\ntables = ['a.*']\nlog-format = 'json'\nkeyless = 'full'\nwhere = ['t=a > 1']\non-schema-change = 'add-columns'").unwrap();
        assert_eq!(file.name.as_deref(), Some("n"));
        assert_eq!(file.tables.unwrap(), ["a.*"]);
        assert_eq!(file.log_format, Some(LogFormat::Json));
        assert_eq!(file.keyless, Some(KeylessPolicy::Full));
        assert_eq!(file.rows.unwrap(), ["t=a > 1"]);
        assert_eq!(file.on_schema_change, Some(SchemaPolicy::AddColumns));
    }

    #[test]
    fn a_table_has_settings_of_its_own() {
        let text = "[backfill.'a.t']\nmode = 'only-changes'\nrate = 5\npriority = -1\n[backfill.'s.*']\nwhere = 'a > 1'\nsince = {}";
        let parse = |time: &str| File::parse(&text.replace("{}", time));
        let file = parse("2026-01-31T10:42:00Z").unwrap();
        assert_eq!(file.backfill.keys().collect::<Vec<_>>(), ["a.t", "s.*"]);
        let quoted = parse("'2026-01-31T11:42:00+01:00'").unwrap();
        assert_eq!(quoted.backfill["s.*"], file.backfill["s.*"]);
        for (time, said) in [("2026-01-31", "such as"), ("7", "a time"), ("'soon'", "such as")] {
            let fault = parse(time).unwrap_err();
            assert!(fault.message.contains(said), "{}", fault.message);
        }
    }

    /// What may stand where nothing of this name may.
    fn keys(text: &str) -> Vec<String> {
        let message = File::parse(text).unwrap_err().message;
        let (_, expected) = message.split_once("expected one of ").unwrap();
        expected.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
    }

    /// The keys of the first table behind a heading.
    fn documented<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
        let (_, table) = page.split_once(heading).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('`').nth(1).unwrap()).collect()
    }

    #[test]
    fn the_page_has_every_key_and_no_other() {
        let page = include_str!("../../docs/CONFIG.md");
        let example = page.split("```toml").nth(1).unwrap().split("```").next().unwrap();
        File::parse(example).unwrap();
        let (above, sections) = example.split_once("[backfill").unwrap();
        let (sections, polls) = sections.split_once("[[poll]]").unwrap();
        let places = [
            ("| key | ", "nothing-of-the-kind = 1", above),
            ("| key in a section | ", "[backfill.t]\nnothing-of-the-kind = 1", sections),
            ("| key of a poll | ", "[[poll]]\nnothing-of-the-kind = 1", polls),
        ];
        for (heading, nothing, example) in places {
            assert_eq!(documented(page, heading), keys(nothing));
            let has = |key: &&String| {
                ["backfill", "poll"].contains(&key.as_str()) || example.contains(&format!("\n{key} = "))
            };
            assert_eq!(keys(nothing).iter().find(|key| !has(key)), None, "not in the example");
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_line_without_quoting_it() {
        for text in [
            "name = 'n'\nsuorce = 'secret'",
            "name = 'n'\nsource = 'secret' x",
            "name = 'n'\nname = 'secret'",
            "[backfill.'secret.t']\nmin_xid = 7",
            "[[poll]]\ntabel = 'secret.t'",
            "\n[[poll]]\ntable = 'secret.t'\nmethod = 'append'",
        ] {
            let fault = File::parse(text).unwrap_err();
            assert_eq!(fault.remedy, Remedy::Usage);
            assert!(fault.message.contains("line 2"), "{}", fault.message);
            assert!(!fault.message.contains("secret"), "{}", fault.message);
        }
    }
}
