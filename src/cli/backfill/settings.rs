//! How each table is treated: as it was typed for all, or else as the file says for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::super::points::parse_time;
use super::Mode;
use crate::copy::{Rate, Selection, Written};
use crate::model::{Fault, Timestamp};
use crate::pg::joining::Joining;
use crate::pg::pattern::{self, BadPattern, Pattern};
use crate::pg::tables::Table;

/// A section `[backfill."public.orders"]` of the file: the words of the flags.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TableSettings {
    mode: Option<Mode>,
    #[serde(rename = "where")]
    condition: Option<String>,
    min_xid: Option<u64>,
    #[serde(default, deserialize_with = "time")]
    since: Option<Timestamp>,
    /// MiB in a second, of all tables of the section.
    rate: Option<u64>,
    priority: Option<i64>,
}

/// A time of TOML, or its text.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    use serde::de::Error;
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text,
        toml::Value::Datetime(time) => time.to_string(),
        _ => return Err(D::Error::custom("not a time; a time is such as 2026-01-31T10:42:00Z")),
    };
    parse_time(&text).map(Some).map_err(D::Error::custom)
}

/// How a table is treated, where that is said.
#[derive(Clone, Debug, Default)]
pub(super) struct Treatment {
    pub(super) mode: Option<Mode>,
    pub(super) selection: Selection,
    /// Instead of what holds for all.
    pub(super) rate: Option<Arc<Rate>>,
    pub(super) priority: i64,
}

/// What was typed and written.
pub(super) struct Settings {
    typed: Treatment,
    /// Sections of the file, by the patterns of their tables.
    sections: Vec<(Pattern, Treatment)>,
    /// The tables in the order in which they are to be copied, if they are.
    order: Vec<Pattern>,
}

impl Settings {
    /// `typed` outranks what the file says. With `rate` typed no table has its own; `order`: nor a priority, where it is not empty.
    pub(super) fn new(
        typed: Treatment,
        has_rate: bool,
        order: &[Pattern],
        file: &BTreeMap<String, TableSettings>,
    ) -> Result<Settings, Fault> {
        let section = |(name, written): (&String, &TableSettings)| {
            let place = |fault: Fault| fault.context(format!("[backfill.\"{name}\"] of --config"));
            let pattern: Result<Pattern, BadPattern> = name.parse();
            let pattern = pattern.map_err(|error| place(Fault::usage(error.to_string())))?;
            let mut treatment = treatment(written, &typed, has_rate).map_err(place)?;
            if !order.is_empty() {
                treatment.priority = 0;
            }
            Ok((pattern, treatment))
        };
        let sections = file.iter().map(section).collect::<Result<Vec<_>, Fault>>()?;
        refuse_senseless(&typed)?;
        Ok(Settings { typed, sections, order: order.to_vec() })
    }

    /// How each of the source's tables is treated for which something else than for all is said. A section of the file is for partitions too.
    pub(super) fn of_tables(&self, all: &[Table]) -> Result<Treatments, Fault> {
        let mut of_tables: HashMap<u32, Treatment> = HashMap::new();
        for (pattern, treatment) in &self.sections {
            let chosen = pattern::choose(all, std::slice::from_ref(pattern), &[]);
            if chosen.is_empty() {
                return Err(Fault::usage(format!("the source has no logged table {pattern}"))
                    .hint(format!("[backfill.\"{pattern}\"] of --config names it")));
            }
            for table in chosen {
                if of_tables.insert(table.oid, treatment.clone()).is_some() {
                    return Err(Fault::usage(format!(
                        "more than one section [backfill.…] of --config is for {}",
                        table.shown()
                    ))
                    .hint(format!("one of them is [backfill.\"{pattern}\"]")));
                }
            }
        }
        for (pattern, priority) in self.order.iter().zip((i64::MIN..0).rev()) {
            for table in pattern::choose(all, std::slice::from_ref(pattern), &[]) {
                let treatment = of_tables.entry(table.oid).or_insert_with(|| self.typed.clone());
                // Where two patterns mean it, it is copied with the first.
                if treatment.priority >= 0 {
                    treatment.priority = priority;
                }
            }
        }
        Ok(Treatments { typed: self.typed.clone(), of_tables })
    }
}

/// What a section and the flags say together.
fn treatment(written: &TableSettings, typed: &Treatment, has_rate: bool) -> Result<Treatment, Fault> {
    let since = match (written.min_xid, written.since) {
        (Some(_), Some(_)) => return Err(Fault::usage("min-xid and since both say since when")),
        (xid, time) => xid.map(Written::Xid).or(time.map(Written::Time)),
    };
    if written.rate == Some(0) {
        return Err(Fault::usage("rate is to be at least 1"));
    }
    let rate = written.rate.filter(|_| !has_rate);
    Ok(Treatment {
        mode: typed.mode.or(written.mode),
        selection: Selection {
            condition: typed.selection.condition.clone().or_else(|| written.condition.clone()),
            written: typed.selection.written.or(since),
        },
        rate: rate.map(|rate| Arc::new(Rate::new(rate << 20))),
        priority: written.priority.unwrap_or_default(),
    })
}

/// What is typed may not go with what a section says of its tables.
pub(super) fn refuse_senseless(treatment: &Treatment) -> Result<(), Fault> {
    match treatment.mode == Some(Mode::OnlyChanges) && !treatment.selection.is_everything() {
        true => Err(Fault::usage(
            "--mode only-changes brings no rows, which --where, --min-xid and --since choose",
        )),
        false => Ok(()),
    }
}

/// How tables of the source are treated.
pub(super) struct Treatments {
    typed: Treatment,
    of_tables: HashMap<u32, Treatment>,
}

impl Treatments {
    pub(super) fn of(&self, oid: u32) -> &Treatment {
        self.of_tables.get(&oid).unwrap_or(&self.typed)
    }

    pub(super) fn rates(&self) -> HashMap<u32, Arc<Rate>> {
        self.of_tables.iter().filter_map(|(oid, treatment)| Some((*oid, treatment.rate.clone()?))).collect()
    }

    pub(super) fn priorities(&self) -> HashMap<u32, i64> {
        self.of_tables.iter().map(|(oid, treatment)| (*oid, treatment.priority)).collect()
    }
}

/// Whether something else is said of a table than what it was begun with. One of which all rows are brought has all that anybody may mean, and
/// may have come to that by itself.
pub(super) fn is_other(treatment: &Treatment, begun: &Joining) -> bool {
    if begun.copies && selection_of(begun).is_everything() {
        return false;
    }
    let is_other_mode = treatment.mode.is_some_and(|mode| begun.copies == (mode == Mode::OnlyChanges));
    let selection = &treatment.selection;
    is_other_mode || (!selection.is_everything() && *selection != selection_of(begun))
}

/// Which of a table's rows are meant.
pub(super) fn selection_of(table: &Joining) -> Selection {
    let written = table.min_xid.map(Written::Xid).or(table.changed_since.map(Written::Time));
    Selection { condition: table.condition.clone(), written }
}

/// Those of which the same rows are meant, and which.
pub(super) fn by_selection<T>(tables: impl IntoIterator<Item = (Selection, T)>) -> Vec<(Selection, Vec<T>)> {
    let mut groups: Vec<(Selection, Vec<T>)> = Vec::new();
    for (selection, table) in tables.into_iter().filter(|(selection, _)| !selection.is_everything()) {
        match groups.iter_mut().find(|(other, _)| *other == selection) {
            Some((_, group)) => group.push(table),
            None => groups.push((selection, vec![table])),
        }
    }
    groups
}
