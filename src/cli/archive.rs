//! `archive`: looking after the log, also while a receiver writes it.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::arguments::{ArchiveArguments, Everywhere};
use super::config::File;
use super::print;
use crate::archive::{self, Archive, Found, Lookup, SegmentDetail, SegmentState, SegmentSummary};
use crate::model::{Fault, Position, Timestamp, Xid};
use crate::verify;

/// List, show, verify or reindex the archive
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice archive list --name shop
  pgsluice archive show 16/B374D848 --name shop
  pgsluice archive verify --archive /var/lib/pgsluice/shop --json")]
pub(crate) struct ArchiveCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the segments, oldest first
    #[command(after_help = "Example:\n  pgsluice archive list --name shop --json")]
    List {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Show the archive, one segment, or where a transaction is
    #[command(after_help = "Examples:
  pgsluice archive show --name shop
  pgsluice archive show 16/B374D848 --name shop
  pgsluice archive show --time 2026-03-01T12:00:00Z --name shop")]
    Show {
        /// A segment's name, or an LSN that it holds
        #[arg(value_name = "SEGMENT|LSN", conflicts_with_all = ["lsn", "time", "xid"])]
        segment: Option<String>,
        /// Find the first transaction whose commit ends at or behind this LSN
        #[arg(long, value_name = "LSN", conflicts_with_all = ["time", "xid"])]
        lsn: Option<Position>,
        /// Find the first transaction in the log that committed then or later
        #[arg(long, value_name = "TIME", conflicts_with = "xid")]
        time: Option<jiff::Timestamp>,
        /// Find the transactions of this id
        #[arg(long, value_name = "XID")]
        xid: Option<u32>,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Check every byte of the log, and the chain that links its transactions
    #[command(after_help = "Example:\n  pgsluice archive verify --name shop")]
    Verify {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Build the catalog anew from the segments
    #[command(after_help = "Example:\n  pgsluice archive reindex --name shop")]
    Reindex {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
}

impl ArchiveCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        tokio::task::block_in_place(|| self.act(everywhere, file))
    }

    fn act(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let open = |arguments: &ArchiveArguments| Archive::open(&arguments.place(file)?.archive);
        match &self.verb {
            Verb::List { archive } => list(everywhere, &open(archive)?),
            Verb::Show { segment: Some(segment), archive, .. } => {
                let detail = archive::show(&open(archive)?, segment)?;
                print::report(everywhere.json, &detail, || segment_table(&detail))
            }
            Verb::Show { segment: None, lsn, time, xid, archive } => {
                let lookup = match (lsn, time, xid) {
                    (Some(lsn), _, _) => Lookup::Lsn(*lsn),
                    (_, Some(time), _) => {
                        Lookup::Time(Timestamp::from_unix_microseconds(time.as_microsecond()))
                    }
                    (_, _, Some(xid)) => Lookup::Xid(Xid(*xid)),
                    (None, None, None) => return show(everywhere, &open(archive)?),
                };
                found(everywhere, &archive::find(&open(archive)?, lookup)?)
            }
            Verb::Verify { archive } => verify(everywhere, &open(archive)?),
            Verb::Reindex { archive } => reindex(everywhere, &open(archive)?),
        }
    }
}

fn list(everywhere: &Everywhere, archive: &Archive) -> Result<(), Fault> {
    let segments = archive::list(archive)?;
    if everywhere.json {
        return segments.iter().try_for_each(print::json);
    }
    let row = |segment: &SegmentSummary| {
        vec![
            segment.name.clone(),
            state(segment.state).to_owned(),
            segment.after.to_string(),
            segment.through.to_string(),
            print::size(segment.bytes),
            print::size(segment.raw_bytes),
            segment.transactions.to_string(),
            segment.changes.to_string(),
            segment.last_time.map_or_else(|| "-".into(), |time| time.to_string()),
        ]
    };
    let header =
        ["segment", "state", "after", "through", "size", "raw", "transactions", "changes", "last commit"];
    print::line(&print::columns(&header, segments.iter().map(row)))
}

fn state(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Sealed => "sealed",
        SegmentState::Open => "open",
    }
}

fn show(everywhere: &Everywhere, archive: &Archive) -> Result<(), Fault> {
    let manifest = archive.manifest();
    let totals = archive::totals(archive)?;
    let value = json!({ "manifest": manifest, "totals": totals });
    print::report(everywhere.json, &value, || {
        print::pairs(&[
            ("archive", format!("{} ({})", manifest.name, manifest.archive_id)),
            ("source", format!("{} (system identifier {})", manifest.database, manifest.system_identifier)),
            ("slot", manifest.slot.clone()),
            ("publication", manifest.publication.clone()),
            ("created", manifest.created.clone()),
            ("range", format!("{} to {}", totals.first_lsn, totals.last_lsn)),
            ("size", format!("{} ({} raw)", print::size(totals.bytes), print::size(totals.raw_bytes))),
            ("segments", totals.segments.to_string()),
            ("transactions", totals.transactions.to_string()),
            ("changes", totals.changes.to_string()),
        ])
    })
}

fn segment_table(detail: &SegmentDetail) -> String {
    let summary = &detail.summary;
    let mut text = print::pairs(&[
        ("segment", format!("{} ({})", summary.name, state(summary.state))),
        ("range", format!("{} to {}", summary.after, summary.through)),
        ("timeline", detail.timeline.to_string()),
        ("size", format!("{} ({} raw)", print::size(summary.bytes), print::size(summary.raw_bytes))),
        ("transactions", summary.transactions.to_string()),
        ("changes", summary.changes.to_string()),
        ("frames", detail.frames.len().to_string()),
        ("chain", format!("{} to {}", detail.chain_start, detail.chain_end)),
    ]);
    if !detail.relations.is_empty() {
        let rows = detail.relations.iter().map(|relation| {
            let events = relation.events;
            let counts = [events.inserts, events.updates, events.deletes, events.truncates];
            let mut row = vec![relation.name.clone()];
            row.extend(counts.iter().map(u64::to_string));
            row.push(print::size(events.bytes));
            row
        });
        text.push_str("\n\n");
        text.push_str(&print::columns(
            &["table", "inserts", "updates", "deletes", "truncates", "size"],
            rows,
        ));
    }
    text
}

fn found(everywhere: &Everywhere, found: &[Found]) -> Result<(), Fault> {
    if everywhere.json {
        return found.iter().try_for_each(print::json);
    }
    if found.is_empty() {
        return print::line("no such transaction");
    }
    let row = |found: &Found| {
        vec![found.end_lsn.to_string(), found.time.to_string(), found.xid.to_string(), found.segment.clone()]
    };
    print::line(&print::columns(&["end", "committed", "xid", "segment"], found.iter().map(row)))
}

fn verify(everywhere: &Everywhere, archive: &Archive) -> Result<(), Fault> {
    let bar = bar();
    let report = verify::verify(archive, |progress| {
        bar.set_length(progress.segments_total as u64);
        bar.set_position(progress.segments as u64);
    })?;
    bar.finish_and_clear();
    print::report(everywhere.json, &report, || {
        let mut text = print::pairs(&[
            ("range", format!("{} to {}", report.first_lsn, report.last_lsn)),
            ("segments", report.segments.to_string()),
            ("size", print::size(report.bytes)),
            ("transactions", report.transactions.to_string()),
            ("changes", report.changes.to_string()),
            ("chain", report.chain.clone()),
            ("problems", report.problems.len().to_string()),
        ]);
        for problem in &report.problems {
            let through = problem.through.map_or_else(|| "…".into(), |through| through.to_string());
            let place = problem.segment.as_deref().unwrap_or("the log");
            text.push_str(&format!("\n{place}: {}; in doubt ({}, {through}]", problem.what, problem.after));
        }
        text
    })?;
    match report.problems.first() {
        None => Ok(()),
        Some(first) => Err(Fault::difference(format!(
            "{} problems in the archive {}, the first in {}: {}",
            report.problems.len(),
            archive.root().display(),
            first.segment.as_deref().unwrap_or("the log as a whole"),
            first.what
        ))
        .hint("restore the named segments from a copy, then verify again")),
    }
}

fn reindex(everywhere: &Everywhere, archive: &Archive) -> Result<(), Fault> {
    let bar = bar();
    let segments = archive::reindex(archive, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let value: Value = json!({ "segments": segments });
    print::report(everywhere.json, &value, || print::pairs(&[("indexed segments", segments.to_string())]))
}

/// Drawn where a person looks on, and nowhere else.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} segments, {eta}");
    style.map_or_else(|_| ProgressBar::new(0), |style| ProgressBar::new(0).with_style(style))
}
