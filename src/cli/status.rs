//! `status`: slot, archive, applier, lag, and what stands in the way. Looks only, takes no lock, and says what it could not reach.

use std::time::Duration;

use super::arguments::{Everywhere, RoadArguments};
use super::config::File;
use super::place;
use super::print;
use crate::archive::Registered;
use crate::model::{Fault, Position};
use crate::poll;
use crate::serve::{Look, Road, Source, Status, TableStatus};

/// From which age on a transaction of the source is told of.
pub(super) const TRANSACTION_AGE: Duration = Duration::from_secs(300);

/// Show slot, archive, applier and lag
///
/// Works without the archive's lock, beside running processes, and also when source, target or archive can't be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice status --name shop --source postgresql://app@db1/shop --target postgresql://app@db2/shop --json")]
pub(crate) struct StatusCommand {
    #[command(flatten)]
    road: RoadArguments,
}

impl StatusCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let place = self.road.archive.place(file)?;
        let names = self.road.stream.names(&place, file)?;
        let road = Road {
            source: self.road.source.optional(file)?,
            target: self.road.target.conninfo(file)?,
            slot: names.slot,
            publication: names.publication,
            stream: names.origin,
            transaction_age: TRANSACTION_AGE,
        };
        let look = Look::at(&road, &place.archive, place::sentinel(&place.archive)).await;
        let status = look.status(&road);
        let archive = place.archive.find().ok().flatten().filter(|archive| archive.manifest().is_polled());
        let state = archive.and_then(|archive| match poll::last_state(&archive) {
            Ok(last) => last.map(|(_, state)| state),
            Err(fault) => {
                tracing::warn!(error = %fault, "how far the polls are can't be read");
                None
            }
        });
        let polled = state.as_ref().map(poll::State::polled);
        let mut json = status.json();
        if let (Some(polled), Some(fields)) = (&polled, json.as_object_mut()) {
            fields.insert("polls".into(), serde_json::json!(polled));
        }
        print::report(everywhere.json, &json, || match &polled {
            Some(polled) => table(&status) + "\n\n" + &super::poll::table_of(polled),
            None => table(&status),
        })
    }
}

fn table(status: &Status) -> String {
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let lsn = |position: Option<Position>| dash(position.map(|position| position.to_string()));
    let source = match &status.source {
        Ok(source) => format!(
            "slot {} confirmed {}, WAL ends {}, {} retained",
            source.slot,
            lsn(source.confirmed_flush_lsn),
            source.current_lsn,
            dash(source.retained_wal_bytes.map(print::size)),
        ),
        Err(reason) => format!("unknown: {reason}"),
    };
    let archive = match &status.archive {
        Ok(contents) => format!(
            "{} to {}{}, {} segments, {} ({} raw), {} transactions, {} changes",
            contents.first_lsn,
            contents.last_lsn,
            status.stored.map(|lsn| format!(" (in the store up to {lsn})")).unwrap_or_default(),
            contents.segments,
            print::size(contents.bytes),
            print::size(contents.raw_bytes),
            contents.transactions,
            contents.changes,
        ),
        Err(reason) => format!("unknown: {reason}"),
    };
    let applier = match &status.applier {
        Ok(applier) => format!(
            "at {} ({}), lag {} and {}, {} transactions, {} changes",
            applier.replay_lsn,
            dash(applier.replay_time.map(|time| time.to_string())),
            dash(applier.lag_bytes.map(print::size)),
            dash(applier.lag_seconds.map(|seconds| format!("{seconds:.1} s"))),
            dash(applier.transactions.map(|count| count.to_string())),
            dash(applier.changes.map(|count| count.to_string())),
        ),
        Err(reason) => format!("unknown: {reason}"),
    };
    let mut mode = status.mode_name().to_owned();
    if status.mode.is_none() {
        mode.push_str(match &status.source {
            Ok(Source { active_pid: Some(_), .. }) => {
                ": somebody receives from the slot, and the archive can't be read"
            }
            Ok(_) => ": nobody receives from the slot now, and the archive can't be read",
            Err(_) => ": neither the source nor the archive can be read",
        });
    }
    if status.held {
        mode.push_str(", held for a comparison");
    }
    let mut text =
        print::pairs(&[("mode", mode), ("source", source), ("archive", archive), ("applier", applier)]);
    if !status.appliers.is_empty() {
        let rows = status.appliers.iter().map(|applier| {
            let Registered { name, target, lsn, time, .. } = applier.clone();
            vec![name, target, lsn.to_string(), time]
        });
        text.push_str("\n\n");
        text.push_str(&print::columns(&["registered applier", "target", "durable there", "noted"], rows));
    }
    for alarm in &status.alarms {
        text.push_str(&format!("\n\n{}: {}\n    {}", alarm.level.name(), alarm.message, alarm.cure));
    }
    let rows: Vec<_> = status.tables().iter().map(row).collect();
    if !rows.is_empty() {
        text.push_str("\n\n");
        text.push_str(&print::columns(&["table", "received", "applied", "size"], rows));
    }
    text
}

fn row(table: &TableStatus<'_>) -> Vec<String> {
    let [received, applied] = [table.received_events, table.applied_events].map(|count| count.to_string());
    vec![table.name.to_owned(), received, applied, print::size(table.bytes)]
}
