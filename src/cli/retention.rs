//! `archive prune`, `pin`, `unpin`, `pins`, `forget`: how much of the log is kept, and for whom.

use std::str::FromStr;

use serde::Serialize;
use serde_json::json;

use super::arguments::Everywhere;
use super::place::ArchiveArguments;
use super::print;
use super::size::Size;
use crate::archive::{Archive, Candidate, Pin, Policy, Prune, Reason};
use crate::model::{Fault, Position, Timestamp};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice archive prune --keep-age 7d --name shop
  pgsluice archive prune --keep-age 7d --keep-bytes 100GiB --yes --name shop")]
pub(super) struct PruneArguments {
    /// Keep segments with a transaction that committed so short ago, such as 7d or 12h
    #[arg(long, value_name = "DURATION")]
    keep_age: Option<Age>,
    /// Keep the newest segments that together have so many bytes, such as 500MiB or 100GiB
    #[arg(long, value_name = "SIZE")]
    keep_bytes: Option<Size>,
    /// Leave targets behind that still need what goes, and where no target is registered at all go on; pins hold nevertheless
    #[arg(long)]
    force: bool,
    /// Remove the segments; without this they are only told
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) archive: ArchiveArguments,
}

/// A span of time, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age(pub(super) i64);

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Age, String> {
        let span: jiff::Span = text.parse().map_err(|error| format!("{error}"))?;
        let relative = jiff::SpanRelativeTo::days_are_24_hours();
        match span.to_duration(relative).map(|duration| duration.as_secs()) {
            Ok(seconds) if seconds >= 0 => Ok(Age(seconds)),
            Ok(_) => Err("it is negative".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[derive(Serialize)]
struct Segments {
    segments: usize,
    bytes: u64,
    after: Option<Position>,
    through: Option<Position>,
}

impl Segments {
    fn of(segments: &[Candidate]) -> Segments {
        Segments {
            segments: segments.len(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            after: segments.first().map(|segment| segment.name.after),
            through: segments.last().and_then(|segment| segment.name.through),
        }
    }

    fn shown(&self) -> String {
        match (self.after, self.through) {
            (Some(after), Some(through)) => {
                format!("{} segments, {}, ({after}, {through}]", self.segments, print::size(self.bytes))
            }
            _ => "nothing".into(),
        }
    }
}

impl PruneArguments {
    pub(super) fn run(&self, everywhere: &Everywhere, archive: &Archive) -> Result<(), Fault> {
        if self.force && self.keep_age.is_none() && self.keep_bytes.is_none() {
            return Err(Fault::usage("--force would leave nothing that is not pinned")
                .hint("say with --keep-age or --keep-bytes how much of the log stays"));
        }
        let now = jiff::Timestamp::now().as_microsecond();
        let since = |age: Age| now.saturating_sub(age.0.saturating_mul(1_000_000));
        let policy = Policy {
            keep_since: self.keep_age.map(since).map(Timestamp::from_unix_microseconds),
            keep_bytes: self.keep_bytes.map(|size| size.0),
            beyond_appliers: self.force,
        };
        let prune = Prune::plan(archive, policy)?;
        if self.yes {
            let bar = print::bar("removing");
            bar.set_length(prune.goes.len() as u64);
            let done = prune.perform(archive, |count| bar.set_position(count as u64));
            bar.finish_and_clear();
            done?;
        }
        let left_behind: Vec<_> = prune.left_behind().collect();
        let (goes, stays) = (Segments::of(&prune.goes), Segments::of(&prune.stays));
        let report = json!({
            "dry_run": !self.yes,
            "goes": goes,
            "stays": stays,
            "held_by": prune.held_by,
            "left_behind": left_behind,
            "appliers": prune.appliers,
            "pins": prune.pins,
        });
        print::report(everywhere.json, &report, || {
            let reasons: Vec<_> = prune.held_by.iter().map(reason).collect();
            let mut rows = vec![
                (if self.yes { "removed" } else { "would go" }, goes.shown()),
                ("stays", stays.shown()),
                ("held by", reasons.join("\n")),
            ];
            if !left_behind.is_empty() {
                let names: Vec<_> =
                    left_behind.iter().map(|left| format!("{} at {}", left.name, left.lsn)).collect();
                rows.push(("left behind", names.join("\n")));
            }
            let mut text = print::pairs(&rows);
            if !self.yes && !prune.goes.is_empty() {
                text.push_str("\n\nnothing was removed: this was a dry run, --yes removes");
            }
            text
        })
    }
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Applier { name, target, lsn, .. } => format!("applier {name} ({target}) at {lsn}"),
        Reason::Pin { name, lsn } => format!("pin {name} at {lsn}"),
        Reason::KeepAge => "--keep-age".into(),
        Reason::KeepBytes => "--keep-bytes".into(),
        Reason::Newest => "the newest sealed segment always stays".into(),
    }
}

pub(super) fn pin(
    everywhere: &Everywhere,
    archive: &Archive,
    name: &str,
    lsn: Position,
) -> Result<(), Fault> {
    let pin = Pin { name: name.to_owned(), lsn, created: jiff::Timestamp::now().to_string() };
    archive.pin(&pin)?;
    print::report(everywhere.json, &pin, || format!("pinned: what comes after {lsn} stays"))
}

pub(super) fn unpin(everywhere: &Everywhere, archive: &Archive, name: &str) -> Result<(), Fault> {
    if !archive.unpin(name)? {
        return Err(
            Fault::stop(format!("there is no pin '{name}'")).hint("`pgsluice archive pins` shows them")
        );
    }
    print::report(everywhere.json, &json!({ "unpinned": name }), || format!("unpinned: {name}"))
}

/// One object a line, as for every list.
pub(super) fn pins(everywhere: &Everywhere, archive: &Archive) -> Result<(), Fault> {
    let pins = archive.pins()?;
    if everywhere.json {
        return pins.iter().try_for_each(print::json);
    }
    if pins.is_empty() {
        return print::line("no pins");
    }
    let rows = pins.into_iter().map(|pin| vec![pin.name, pin.lsn.to_string(), pin.created]);
    print::line(&print::columns(&["pin", "lsn", "created"], rows))
}

pub(super) fn forget(everywhere: &Everywhere, archive: &Archive, name: &str) -> Result<(), Fault> {
    if !archive.forget_applier(name)? {
        return Err(Fault::stop(format!("there is no applier '{name}' in the archive"))
            .hint("`pgsluice status` shows them"));
    }
    print::report(everywhere.json, &json!({ "forgotten": name }), || format!("forgotten: {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spans_of_time() {
        let check = |text: &str, seconds: i64| assert_eq!(text.parse(), Ok(Age(seconds)), "{text}");
        check("7d", 7 * 86_400);
        check("12h", 12 * 3600);
        check("1d 30m", 86_400 + 1800);
        check("2w", 14 * 86_400);
        check("0s", 0);
        for text in ["", "7", "d", "-1h", "1 month"] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
    }
}
