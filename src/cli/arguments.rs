//! The flags that several commands share, and what they mean once environment, file and defaults have been asked too.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::config::File;
use super::place::{ArchiveArguments, Place};
use super::setup::KeylessPolicy;
use crate::apply::{OnSchemaChange, Rules};
use crate::archive::Archive;
use crate::model::{Fault, Format, OutputPlugin, Position, UnknownPlugin};
use crate::pg::Conninfo;
use crate::pg::filter::{ColumnList, RowFilter};
use crate::pg::pattern::Pattern;

/// Flags of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Everywhere {
    /// Print JSON instead of a table
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub(crate) verbose: u8,
    /// Log only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub(crate) quiet: bool,
    /// How log lines are written
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) log_format: Option<LogFormat>,
    /// Take what is neither a flag nor in the environment from this file
    #[arg(long, global = true, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SourceArguments {
    /// The source: a libpq URI or key=value string
    #[arg(long, env = "PGSLUICE_SOURCE", hide_env_values = true, value_name = "URI")]
    source: Option<String>,
}

impl SourceArguments {
    /// As if it had been typed.
    pub(crate) fn given(source: String) -> SourceArguments {
        SourceArguments { source: Some(source) }
    }

    pub(crate) fn conninfo(&self, file: &File) -> Result<Conninfo, Fault> {
        self.optional(file)?.ok_or_else(|| {
            Fault::usage("no source was given")
                .hint("give --source URI, set PGSLUICE_SOURCE, or write it into --config")
        })
    }

    pub(crate) fn optional(&self, file: &File) -> Result<Option<Conninfo>, Fault> {
        conninfo("--source", self.source.as_ref().or(file.source.as_ref()))
    }
}

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TargetArguments {
    /// The target: a libpq URI or key=value string
    #[arg(long, env = "PGSLUICE_TARGET", hide_env_values = true, value_name = "URI")]
    target: Option<String>,
}

impl TargetArguments {
    /// As if it had been typed.
    pub(crate) fn given(target: String) -> TargetArguments {
        TargetArguments { target: Some(target) }
    }

    pub(crate) fn conninfo(&self, file: &File) -> Result<Option<Conninfo>, Fault> {
        conninfo("--target", self.target.as_ref().or(file.target.as_ref()))
    }
}

fn conninfo(flag: &str, text: Option<&String>) -> Result<Option<Conninfo>, Fault> {
    text.map(|text| Conninfo::parse(text)).transpose().map_err(|fault| fault.context(flag))
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StreamArguments {
    /// The replication slot on the source [default: NAME]
    #[arg(long, value_name = "SLOT")]
    slot: Option<String>,
    /// The publication on the source [default: NAME]
    #[arg(long, value_name = "PUBLICATION")]
    publication: Option<String>,
    /// The replication origin and the progress row on the target [default: NAME]
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// The slot's output plugin: pgoutput, or where that can't be had test_decoding or wal2json [default: pgoutput]
    #[arg(long, env = "PGSLUICE_PLUGIN", value_name = "PLUGIN")]
    plugin: Option<OutputPlugin>,
}

/// What the stream's parts are called.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) plugin: OutputPlugin,
    pub(crate) slot: String,
    pub(crate) publication: String,
    pub(crate) origin: String,
}

impl StreamArguments {
    /// An archive that exists says what its slot and publication are called and which plugin it has, unless that was typed.
    pub(crate) fn names(&self, place: &Place, file: &File) -> Result<Names, Fault> {
        let parse =
            |text: &String| text.parse().map_err(|error: UnknownPlugin| Fault::usage(error.to_string()));
        let written = file.plugin.as_ref().map(parse).transpose()?;
        let archive = place.archive.find().ok().flatten();
        // That of a polled source has neither slot nor publication.
        let manifest = archive.as_ref().map(Archive::manifest).filter(|manifest| !manifest.is_polled());
        let choose = |typed: &Option<String>, written: &Option<String>, kept: Option<&String>| {
            typed.as_ref().or(written.as_ref()).or(kept).unwrap_or(&place.name).clone()
        };
        let kept = manifest.and_then(|manifest| manifest.plugin.parse().ok());
        let names = Names {
            plugin: self.plugin.or(written).or(kept).unwrap_or_default(),
            slot: choose(&self.slot, &file.slot, manifest.map(|m| &m.slot)),
            publication: choose(&self.publication, &file.publication, manifest.map(|m| &m.publication)),
            origin: choose(&self.origin, &file.origin, None),
        };
        let slot_character = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !(1..=63).contains(&names.slot.len()) || !names.slot.chars().all(slot_character) {
            return Err(Fault::usage(format!("'{}' can't be a slot's name", names.slot))
                .hint("up to 63 lower-case letters, digits and underscores, in --name or --slot"));
        }
        for (what, name) in [("publication", &names.publication), ("origin", &names.origin)] {
            if name.is_empty() || name.len() > 63 || name.contains('\0') {
                return Err(Fault::usage(format!("'{name}' can't be the name of the {what}"))
                    .hint(format!("give 1 to 63 bytes, in --name or --{what}")));
            }
        }
        Ok(names)
    }
}

/// Both ends, the archive between them, and what the stream's parts are called.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RoadArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) archive: ArchiveArguments,
    #[command(flatten)]
    pub(crate) stream: StreamArguments,
}

/// Which tables and columns are meant: of the source where the publication is made, and of the log where it is applied.
#[derive(Debug, clap::Args)]
pub(crate) struct FilterArguments {
    /// Only these tables, such as public.orders, sales.* or '"Mixed Case".*' [default: all of user schemas]
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    tables: Vec<String>,
    /// Tables to leave out; wins over --tables
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    exclude: Vec<String>,
    /// Only these columns of a table, such as public.users=id,name; those of the key are needed
    #[arg(long, value_name = "TABLE=COLUMN,…", num_args = 1..)]
    columns: Vec<String>,
}

impl FilterArguments {
    pub(crate) fn tables(&self, file: &File) -> Result<Vec<Pattern>, Fault> {
        parsed("--tables", split(&self.tables), file.tables.as_deref())
    }

    pub(crate) fn exclude(&self, file: &File) -> Result<Vec<Pattern>, Fault> {
        parsed("--exclude", split(&self.exclude), file.exclude.as_deref())
    }

    pub(crate) fn columns(&self, file: &File) -> Result<Vec<ColumnList>, Fault> {
        parsed("--columns", self.columns.clone(), file.columns.as_deref())
    }
}

/// How changes are applied.
#[derive(Debug, clap::Args)]
pub(crate) struct RulesArguments {
    #[command(flatten)]
    pub(crate) schema: SchemaArguments,
    /// Whether several changes of a row may become one [default: net]
    #[arg(long, env = "PGSLUICE_APPLY", value_name = "HOW")]
    apply: Option<Manner>,
    /// Tables whose changes are applied one by one, such as those that something on the target audits
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    exact: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Manner {
    /// The net change of each row over what one transaction on the target brings
    #[default]
    Net,
    /// Each change by itself, in the source's order
    Exact,
}

impl RulesArguments {
    pub(crate) fn rules(&self, filter: &FilterArguments, file: &File) -> Result<Rules, Fault> {
        let exact = match self.apply.or(file.apply).unwrap_or_default() {
            Manner::Net => parsed("--exact", split(&self.exact), file.exact.as_deref())?,
            Manner::Exact => parsed("--exact", vec!["*.*".to_owned()], None)?,
        };
        Ok(Rules {
            tables: filter.tables(file)?,
            exclude: filter.exclude(file)?,
            columns: filter.columns(file)?,
            exact,
            renames: Vec::new(),
            on_schema_change: self.schema.policy(file),
        })
    }
}

/// What happens where the target lacks something.
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArguments {
    /// What to do when the target has no column for a value of the log [default: stop]
    #[arg(long, env = "PGSLUICE_ON_SCHEMA_CHANGE", value_name = "POLICY")]
    on_schema_change: Option<SchemaPolicy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SchemaPolicy {
    /// Stop, and name the DDL after which the same command goes on
    #[default]
    Stop,
    /// Add the column; rows that are there already have NULL in it
    AddColumns,
    /// Leave the column out
    IgnoreExtra,
}

impl SchemaArguments {
    pub(crate) fn policy(&self, file: &File) -> OnSchemaChange {
        match self.on_schema_change.or(file.on_schema_change).unwrap_or_default() {
            SchemaPolicy::Stop => OnSchemaChange::Stop,
            SchemaPolicy::AddColumns => OnSchemaChange::AddColumns,
            SchemaPolicy::IgnoreExtra => OnSchemaChange::IgnoreExtra,
        }
    }
}

/// What is published, and how the slot is made.
#[derive(Debug, clap::Args)]
pub(crate) struct TableArguments {
    #[command(flatten)]
    pub(crate) filter: FilterArguments,
    /// Publish only rows of a table of which an SQL condition is true, such as "public.orders=region = 'EU'" (PostgreSQL 15)
    #[arg(long = "where", value_name = "TABLE=CONDITION", num_args = 1..)]
    rows: Vec<String>,
    /// What to do with tables without a usable replica identity [default: refuse]
    #[arg(long, value_name = "POLICY")]
    keyless: Option<KeylessPolicy>,
    /// How the source sends values: binary is faster to send and to apply, where all columns are of built-in types, the same on both
    /// sides, and the plugin is pgoutput [default: text]
    #[arg(long, env = "PGSLUICE_FORMAT", value_name = "text|binary", hide_possible_values = true)]
    format: Option<ValueFormat>,
    /// Put event triggers on the source that write DDL into the log, for --ddl of apply and follow
    #[arg(long)]
    capture_ddl: bool,
    /// How long the slot's creation may wait for running transactions
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    slot_timeout: u64,
    /// Let the source's standbys have the slot too, so that the log goes on when one is promoted (PostgreSQL 17)
    #[arg(long)]
    failover: bool,
}

impl TableArguments {
    pub(crate) fn rows(&self, file: &File) -> Result<Vec<RowFilter>, Fault> {
        parsed("--where", self.rows.clone(), file.rows.as_deref())
    }

    pub(crate) fn capture_ddl(&self, file: &File) -> bool {
        self.capture_ddl || file.capture_ddl.unwrap_or(false)
    }

    pub(crate) fn keyless(&self, file: &File) -> KeylessPolicy {
        self.keyless.or(file.keyless).unwrap_or_default()
    }

    pub(crate) fn format(&self, plugin: OutputPlugin, file: &File) -> Result<Format, Fault> {
        match self.format.or(file.format).unwrap_or_default() {
            ValueFormat::Text => Ok(Format::Text),
            ValueFormat::Binary if plugin == OutputPlugin::Pgoutput => Ok(Format::Binary),
            ValueFormat::Binary => Err(Fault::usage(format!("{plugin} sends no binary values"))
                .hint("use --format text, or --plugin pgoutput")),
        }
    }

    pub(crate) fn failover(&self, file: &File) -> bool {
        self.failover || file.failover.unwrap_or(false)
    }

    pub(crate) fn slot_timeout(&self) -> Duration {
        Duration::from_secs(self.slot_timeout)
    }
}

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ValueFormat {
    #[default]
    Text,
    Binary,
}

/// What was typed, or else what the file holds.
fn parsed<T: FromStr<Err: std::fmt::Display>>(
    flag: &str,
    typed: Vec<String>,
    written: Option<&[String]>,
) -> Result<Vec<T>, Fault> {
    let texts = if typed.is_empty() { written.unwrap_or_default() } else { &typed };
    texts.iter().map(|text| text.parse().map_err(|error| Fault::usage(format!("{flag}: {error}")))).collect()
}

/// Cuts at commas that are not inside quotes.
fn split(typed: &[String]) -> Vec<String> {
    let mut quoted = false;
    let separates = |character: char| {
        quoted ^= character == '"';
        character == ',' && !quoted
    };
    typed.join(",").split(separates).filter(|_| !typed.is_empty()).map(str::to_owned).collect()
}

/// Where to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpos {
    /// Where the source's WAL ends when the command is run.
    Current,
    At(Position),
}

impl FromStr for Endpos {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpos, String> {
        if text == "current" {
            return Ok(Endpos::Current);
        }
        text.parse().map(Endpos::At).map_err(|error| format!("{error}, nor 'current'"))
    }
}

/// Whether a connection string holds a password, so that it should not be typed where others can read the process list.
pub(crate) fn holds_password(text: &str) -> bool {
    if let Some((_, rest)) = text.split_once("://") {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let credentials = authority.rsplit_once('@').map(|(credentials, _)| credentials);
        let typed = credentials.and_then(|credentials| credentials.split_once(':'));
        return typed.is_some_and(|(_, password)| !password.is_empty()) || rest.contains("password=");
    }
    text.split_whitespace().any(|word| word.starts_with("password")) && text.contains('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_separated_outside_of_quotes() {
        let split = |typed: &[&str]| split(&typed.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(split(&["a.b,c", "\"d,e\".\"f\"\",g\",h"]), ["a.b", "c", "\"d,e\".\"f\"\",g\"", "h"]);
        assert_eq!(split(&[]), Vec::<String>::new());
    }

    #[test]
    fn typed_passwords_are_noticed() {
        for text in [
            "postgresql://u:secret@h/d",
            "postgres://u@h/d?password=secret",
            "host=h password=secret",
            "host=h password = 'a b'",
        ] {
            assert!(holds_password(text), "{text}");
        }
        for text in ["postgresql://u@h:5432/d", "postgresql://h/d?user=u", "host=h user=u", ""] {
            assert!(!holds_password(text), "{text}");
        }
    }

    #[test]
    fn endpos_is_a_position_or_current() {
        assert_eq!("current".parse(), Ok(Endpos::Current));
        assert_eq!("1/A".parse(), Ok(Endpos::At(Position(0x1_0000_000A))));
        assert!("yesterday".parse::<Endpos>().is_err());
    }
}
