//! `doctor`: everything that stands in the way on source, target and in the archive, each with what mends it. Changes nothing.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::arguments::{Everywhere, RoadArguments, SchemaArguments, TableArguments};
use super::config::File;
use super::place;
use super::preflight::{Finding, Severity};
use super::print;
use super::setup::{self, Checked};
use crate::follow::Mode;
use crate::model::{Fault, Remedy};
use crate::pg::vitals::Blocker;
use crate::serve::{Level, Look, Road, span};

/// Check source, target and archive, before a start and while things run; each finding names the SQL or command that mends it
///
/// Changes nothing. The exit code is 0 where all is well or only worth to know, 3 with warnings, 1 where something stands in the way, and 4
/// where nothing can go on without a decision, such as after the loss of the slot.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice doctor --source postgresql://app@db1/shop --target postgresql://app@db2/shop --name shop")]
pub(crate) struct DoctorCommand {
    #[command(flatten)]
    road: RoadArguments,
    #[command(flatten)]
    tables: TableArguments,
    #[command(flatten)]
    schema: SchemaArguments,
}

/// What the doctor says.
#[derive(Clone, Debug, Serialize)]
struct Said {
    level: Level,
    message: String,
    cure: String,
    /// Nothing goes on until somebody decides.
    #[serde(skip)]
    needs_a_person: bool,
}

impl Said {
    fn new(level: Level, message: impl Into<String>, cure: impl Into<String>) -> Said {
        Said { level, message: message.into(), cure: cure.into(), needs_a_person: false }
    }
}

/// A transaction of the source that is younger holds nothing up worth telling.
const TRANSACTION_AGE: Duration = Duration::from_secs(10);
/// From here on it is more than worth to know.
const LONG_SECONDS: f64 = 300.0;

impl DoctorCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let on_schema_change = self.schema.policy(file);
        let options = setup::Options { on_schema_change, ..self.road.options(&self.tables, file)? };
        let road = Road {
            source: Some(options.source.clone()),
            target: options.target.clone(),
            slot: options.slot.clone(),
            publication: options.publication.clone(),
            stream: options.origin.clone(),
            transaction_age: TRANSACTION_AGE,
        };
        let mut said = Vec::new();
        let is_set_up = options.archive.find().is_ok_and(|archive| archive.is_some());
        match setup::check(&options).await {
            Ok(checked) => of_setup(&checked, is_set_up, &mut said),
            Err(fault) => said.push(of_fault(&fault)),
        }
        if is_set_up {
            let look = Look::at(&road, &options.archive, place::sentinel(&options.archive)).await;
            of_running(&look, &road, &mut said);
            of_sequences(&options, &look, &road, &mut said).await;
        }
        said.sort_by_key(|said| std::cmp::Reverse(said.level));
        let mut seen = std::collections::HashSet::new();
        said.retain(|said| seen.insert(said.message.clone()));
        let found = json!({ "set_up": is_set_up, "findings": said });
        print::report(everywhere.json, &found, || table(&said, is_set_up))?;
        verdict(&said)
    }
}

/// What setup would say. What it only warns of is known to who has set the stream up.
fn of_setup(checked: &Checked, is_set_up: bool, said: &mut Vec<Said>) {
    said.extend(checked.findings.iter().map(|Finding { severity, what, mend }| Said {
        level: match severity {
            Severity::Error => Level::Critical,
            Severity::Warning if is_set_up => Level::Notice,
            Severity::Warning => Level::Warning,
        },
        message: what.clone(),
        cure: mend.clone(),
        needs_a_person: false,
    }));
    for (level, drift) in [(Level::Warning, &checked.drift), (Level::Notice, &checked.perhaps_meant)] {
        said.extend(drift.iter().map(|(message, cure)| Said::new(level, message, cure)));
    }
    if checked.is_target_empty && !is_set_up {
        said.push(Said::new(
            Level::Notice,
            "the target has no tables yet",
            "pgsluice clone --follow makes them, and copies the rows",
        ));
    }
    said.extend(checked.foreign.as_ref().map(of_fault));
}

fn of_fault(fault: &Fault) -> Said {
    Said {
        level: Level::Critical,
        message: fault.message.clone(),
        cure: fault.hint.clone().unwrap_or_default(),
        needs_a_person: fault.remedy == Remedy::Person,
    }
}

fn of_running(look: &Look, road: &Road, said: &mut Vec<Said>) {
    let status = look.status(road);
    let is_long = look.source.as_ref().is_ok_and(|source| {
        source.holders.iter().any(|holder| holder.age_seconds.is_some_and(|age| age >= LONG_SECONDS))
    });
    said.extend(status.alarms.iter().map(|alarm| Said {
        level: if alarm.alarm == "slot_held" && !is_long { Level::Notice } else { alarm.level },
        message: alarm.message.clone(),
        cure: alarm.cure.clone(),
        needs_a_person: alarm.alarm == "slot_lost",
    }));
    for (part, why) in [("target", look.target.as_ref().err()), ("archive", look.archive.as_ref().err())] {
        said.extend(why.filter(|_| part == "archive" || road.target.is_some()).map(|why| {
            let message = format!("the {part} can't be looked at: {why}");
            Said::new(Level::Critical, message, format!("mend the way to the {part}, then ask again"))
        }));
    }
    if look.target.as_ref().is_ok_and(|target| target.progress.is_none()) {
        said.push(Said::new(
            Level::Notice,
            "nothing was ever applied to this target",
            "pgsluice follow, apply or clone",
        ));
    }
    let Ok(source) = &look.source else { return };
    let Some(slot) = &source.slot else { return };
    if slot.active_pid.is_none() && status.mode != Some(Mode::Done) {
        said.push(Said::new(
            Level::Warning,
            format!(
                "nobody receives from slot {}: the source keeps {} of WAL for it, and more each minute",
                slot.name,
                print::size(slot.retained_bytes)
            ),
            "pgsluice follow, or pgsluice receive; or pgsluice cleanup where it is not needed any more",
        ));
    }
    let held = slot.retained_bytes.saturating_sub(
        slot.confirmed_flush.map_or(0, |confirmed| source.current_lsn.bytes_since(confirmed)),
    );
    if held > HELD_BYTES {
        let why = match source.holders.first() {
            Some(Blocker { age_seconds: Some(age), who, .. }) => {
                format!("the oldest transaction that runs is {} old ({who})", span(*age))
            }
            Some(_) => {
                "a transaction of another role runs; GRANT pg_read_all_stats to this role shows more".into()
            }
            None => {
                "it moves when the source next logs its running transactions, some seconds after the last one"
                    .into()
            }
        };
        said.push(Said::new(
            Level::Notice,
            format!(
                "restart_lsn of slot {} is {} behind what was confirmed: {why}",
                slot.name,
                print::size(held)
            ),
            "let long transactions end; nothing where there is none",
        ));
    }
}

/// WAL that is kept beyond what was confirmed: two segments are nothing.
const HELD_BYTES: u64 = 32 << 20;

/// Where all is applied, the target's sequences must not give numbers that the source has given.
async fn of_sequences(options: &setup::Options, look: &Look, road: &Road, said: &mut Vec<Said>) {
    let Some(target) = &options.target else { return };
    if look.status(road).mode != Some(Mode::Done) {
        return;
    }
    match setup::sequences_behind(&options.source, target, &options.publication).await {
        Ok(behind) => said.extend(behind.into_iter().map(|(message, cure)| Said {
            level: Level::Warning,
            message,
            cure,
            needs_a_person: false,
        })),
        Err(fault) => said.push(of_fault(&fault)),
    }
}

fn table(said: &[Said], is_set_up: bool) -> String {
    if said.is_empty() {
        let next = if is_set_up { "" } else { "; pgsluice setup, clone or follow can begin" };
        return format!("nothing stands in the way{next}");
    }
    let lines = said.iter().map(|said| format!("{}: {}\n    {}", said.level.name(), said.message, said.cure));
    lines.collect::<Vec<_>>().join("\n")
}

/// The fault that the exit code comes from; the findings are told already.
fn verdict(said: &[Said]) -> Result<(), Fault> {
    let worst = said.iter().map(|said| said.level).max();
    let count = |level| said.iter().filter(|said| said.level == level).count();
    if said.iter().any(|said| said.needs_a_person) {
        return Err(Fault::person("nothing can go on without a decision"));
    }
    match worst {
        Some(Level::Critical) => Err(Fault::stop(format!("{} stand in the way", count(Level::Critical)))),
        Some(Level::Warning) => Err(Fault::difference(format!("{} to be looked at", count(Level::Warning)))),
        Some(Level::Notice) | None => Ok(()),
    }
}
