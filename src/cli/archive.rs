//! `archive`: looking after the log.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Everywhere;
use super::config::File;
use super::place::ArchiveArguments;
use super::{bases, print, retention};
use crate::archive::{
    self, Archive, Compaction, Compactor, Found, Listed, Location, Lookup, Page, SegmentDetail, SegmentState,
};
use crate::model::{Fault, Position, Timestamp, Xid};
use crate::segment::Key;
use crate::verify::{self, Checkpoint, Manner, Report};
use serde_json::json;

/// Look after the log: list, show, verify, copy, compact, reindex, prune, pin, bases, new-key
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice archive list --name shop
  pgsluice archive verify --name shop --json")]
pub(crate) struct ArchiveCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print the segments with what they hold, oldest first; without --json only the newest 50, unless more are asked for
    #[command(after_help = "Examples:
  pgsluice archive list --name shop
  pgsluice archive list --last 20 --before 16/B374D848 --name shop --json")]
    List {
        /// Only so many, the newest ones [default: 50, and with --json all]
        #[arg(long, value_name = "COUNT")]
        last: Option<usize>,
        /// Only those that begin before this position, as for the page before
        #[arg(long, value_name = "LSN")]
        before: Option<Position>,
        /// All of them
        #[arg(long, conflicts_with = "last")]
        all: bool,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Print what a segment holds, or find a transaction by LSN, time, xid or pin
    #[command(after_help = "Examples:
  pgsluice archive show 0000000001A2B3C0-0000000002FFFFF8.seg --name shop
  pgsluice archive show --time 2026-01-31T10:42:00Z --name shop")]
    Show {
        /// A segment's name, as `archive list` prints it
        #[arg(required_unless_present_any = ["lsn", "time", "xid", "pin"], conflicts_with_all = ["lsn", "time", "xid", "pin"])]
        segment: Option<String>,
        /// Find the first transaction that ends at or after this position
        #[arg(long)]
        lsn: Option<Position>,
        /// Find the first transaction, in the order of the log, that committed at this time or later (RFC 3339)
        #[arg(long, conflicts_with = "lsn")]
        time: Option<String>,
        /// Find the transactions with this id
        #[arg(long, conflicts_with_all = ["lsn", "time"])]
        xid: Option<u32>,
        /// Find the transaction that `pgsluice pin` has given this name
        #[arg(long, value_name = "NAME", conflicts_with_all = ["lsn", "time", "xid"])]
        pin: Option<String>,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Check every byte, every message, the chain of hashes and the catalog; exit code 3 where something is wrong
    ///
    /// Where there is a store, what it has is read, and not the copies in the spool. Ctrl-C ends it, and --resume goes on.
    #[command(after_help = "Examples:
  pgsluice archive verify --name shop
  pgsluice archive verify --quick --name shop --json
  pgsluice archive verify --resume --name shop")]
    Verify {
        /// Read only the two ends of each segment: their checksums, what they say of the frames between them, of each other and of
        /// the segments beside them; no message
        #[arg(long)]
        quick: bool,
        /// Go on with a verification that was broken off, unless the segments have changed since
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Copy the sealed segments, the bases and the pins to another folder or store, and verify the copy. Run it again for what came since
    #[command(after_help = "Example:
  pgsluice archive copy s3://bucket/shop --name shop --to-spool /var/spool/pgsluice/shop")]
    Copy {
        /// Where to: a path, or the URL of a store
        #[arg(value_name = "URL")]
        to: String,
        /// The copy's spool, where it is in a store
        #[arg(long, value_name = "DIR")]
        to_spool: Option<PathBuf>,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Merge small segments into larger ones, compressed harder. A receiver does that by itself, see its --compact-after
    #[command(after_help = "Examples:
  pgsluice archive compact --name shop --dry-run
  pgsluice archive compact --name shop --older-than 1d")]
    Compact {
        /// Only segments that nothing was written to for so long, such as 1h or 7d
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        older_than: retention::Age,
        /// Only tell what would be merged
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Print a new key to encrypt an archive with, at random
    #[command(after_help = "Example:\n  (umask 077; pgsluice archive new-key > shop.key)")]
    NewKey,
    /// Build the catalog anew from the segments
    #[command(after_help = "Example:\n  pgsluice archive reindex --name shop")]
    Reindex {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Remove the log's oldest segments, as far as no registered target and no pin needs them. Only tells, without --yes
    Prune(retention::PruneArguments),
    /// Keep the log from a position on, until it is unpinned. `pgsluice pin` names a moment of the source, and keeps nothing
    #[command(after_help = "Example:\n  pgsluice archive pin before-cutover 16/B374D848 --name shop")]
    Pin {
        /// 1 to 63 lower-case letters, digits, - and _
        pin: String,
        /// What comes after it stays
        lsn: Position,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Remove a pin
    #[command(after_help = "Example:\n  pgsluice archive unpin before-cutover --name shop")]
    Unpin {
        /// As `archive pins` prints it
        pin: String,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Print the pins
    #[command(after_help = "Example:\n  pgsluice archive pins --name shop")]
    Pins {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Print the bases, from which replay begins
    #[command(after_help = "Example:\n  pgsluice archive bases --name shop")]
    Bases {
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Remove a base with its pin, also one that was not finished
    #[command(after_help = "Example:\n  pgsluice archive drop-base 3f0c --name shop")]
    DropBase {
        /// What its id begins with, as `archive bases` prints it
        base: String,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
    /// Keep nothing any more for a target that is gone. Where it is still there, `cleanup` does that
    #[command(after_help = "Example:\n  pgsluice archive forget shop-0123456789ab --name shop")]
    Forget {
        /// The applier's name, as `status` prints it
        applier: String,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
}

impl ArchiveCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let open = |archive: &ArchiveArguments| archive.place(file)?.archive.open();
        match &self.verb {
            Verb::List { last, before, all, archive } => {
                let newest = if everywhere.json || *all { None } else { Some(PAGE) };
                let page = Page { last: last.or(newest), before: *before };
                print_list(everywhere, &archive::list_page(&open(archive)?, page)?)
            }
            Verb::Show { segment, lsn, time, xid, pin, archive } => {
                let archive = open(archive)?;
                match lookup(*lsn, time.as_deref(), *xid, pin.as_deref())? {
                    Some(lookup) => print_found(everywhere, &archive::find(&archive, lookup)?),
                    None => {
                        let detail = archive::show(&archive, segment.as_deref().unwrap_or_default())?;
                        print::report(everywhere.json, &detail, || detail_table(&detail))
                    }
                }
            }
            Verb::Verify { quick, resume, archive } => {
                let stop = Arc::new(AtomicBool::new(false));
                let listener = tokio::spawn(stop_at_signal(stop.clone())?);
                let checkpoint = if *resume { Checkpoint::Resume } else { Checkpoint::Keep };
                let manner = Manner { quick: *quick, checkpoint, stop: Some(&stop) };
                let report = verify(&open(archive)?, manner, everywhere);
                listener.abort();
                let report = report?;
                print::report(everywhere.json, &report, || report_table(&report))?;
                verdict(&report)
            }
            Verb::Copy { to, to_spool, archive } => {
                let to = archive.other_place(to, to_spool.clone(), file)?;
                copy(everywhere, &open(archive)?, &to)
            }
            Verb::NewKey => {
                let key = Key::new(archive::disk::random()?);
                tracing::info!(id = %key.id(), "made a key");
                print::line(&key.digits())
            }
            Verb::Reindex { archive } => {
                let segments = archive::reindex(&open(archive)?, |_, _| ())?;
                let report = serde_json::json!({ "segments": segments });
                print::report(everywhere.json, &report, || format!("{segments} segments indexed"))
            }
            Verb::Compact { older_than, dry_run, archive } => {
                compact(everywhere, &open(archive)?, *older_than, *dry_run)
            }
            Verb::Prune(prune) => prune.run(everywhere, &open(&prune.archive)?),
            Verb::Pin { pin, lsn, archive } => retention::pin(everywhere, &open(archive)?, pin, *lsn),
            Verb::Unpin { pin, archive } => retention::unpin(everywhere, &open(archive)?, pin),
            Verb::Pins { archive } => retention::pins(everywhere, &open(archive)?),
            Verb::Bases { archive } => bases::print(everywhere, &open(archive)?),
            Verb::DropBase { base, archive } => bases::drop(everywhere, &open(archive)?, base),
            Verb::Forget { applier, archive } => retention::forget(everywhere, &open(archive)?, applier),
        }
    }
}

fn copy(everywhere: &Everywhere, from: &Archive, to: &Location) -> Result<(), Fault> {
    let bar = bar(everywhere, "copying");
    let copied = archive::transfer(from, to, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (copy, done) = copied?;
    let report = verify(&copy, Manner::default(), everywhere)?;
    let shown = serde_json::json!({ "copied": done, "verified": report });
    print::report(everywhere.json, &shown, || {
        let bytes = done.bytes + done.base_bytes;
        let copied = format!("{} segments, {}", done.segments, print::size(bytes));
        format!("{}\n{}", print::pairs(&[("copied", copied), ("to", to.to_string())]), report_table(&report))
    })?;
    verdict(&report)
}

fn compact(
    everywhere: &Everywhere,
    archive: &Archive,
    older_than: retention::Age,
    dry_run: bool,
) -> Result<(), Fault> {
    let compaction = Compaction { age_seconds_min: older_than.0.unsigned_abs(), ..Compaction::default() };
    let mut compactor = Compactor::new(archive, compaction);
    let planned = compactor.plan()?;
    let would_merge: usize = planned.iter().map(Vec::len).sum();
    if dry_run {
        let report =
            json!({ "dry_run": true, "segments_before": would_merge, "segments_after": planned.len() });
        return print::report(everywhere.json, &report, || {
            format!("{would_merge} segments would become {}: this was a dry run", planned.len())
        });
    }
    let bar = print::bar("merging");
    bar.set_length(would_merge as u64);
    let done = compactor.run(|| true, |_, done| bar.set_position(done.segments_before));
    bar.finish_and_clear();
    let done = done?;
    let mut report = json!({ "dry_run": false });
    if let (Some(report), Ok(serde_json::Value::Object(done))) =
        (report.as_object_mut(), serde_json::to_value(done))
    {
        report.extend(done);
    }
    print::report(everywhere.json, &report, || {
        let size = |segments: u64, bytes: u64| format!("{segments} segments, {}", print::size(bytes));
        print::pairs(&[
            ("merged", size(done.segments_before, done.bytes_before)),
            ("into", size(done.segments_after, done.bytes_after)),
            ("left over, removed", format!("{} segments", done.left_over)),
        ])
    })
}

fn verdict(report: &Report) -> Result<(), Fault> {
    match report.problems.len() {
        0 if !report.complete => Err(Fault::stop(format!(
            "broken off at {}: what comes after it was not verified",
            report.last_lsn
        ))
        .hint("`pgsluice archive verify --resume` goes on from there")),
        0 => Ok(()),
        1 => Err(Fault::difference("the archive has a problem").hint(MEND)),
        count => Err(Fault::difference(format!("the archive has {count} problems")).hint(MEND)),
    }
}

const MEND: &str = "restore the segments named above from a copy of the archive";

fn lookup(
    lsn: Option<Position>,
    time: Option<&str>,
    xid: Option<u32>,
    pin: Option<&str>,
) -> Result<Option<Lookup>, Fault> {
    Ok(match (lsn, time, xid, pin) {
        (Some(lsn), ..) => Some(Lookup::Lsn(lsn)),
        (_, Some(time), ..) => Some(Lookup::Time(parse_time("--time", time)?)),
        (_, _, Some(xid), _) => Some(Lookup::Xid(Xid(xid))),
        (_, _, _, Some(pin)) => Some(Lookup::Pin(pin.to_owned())),
        _ => None,
    })
}

fn parse_time(flag: &str, text: &str) -> Result<Timestamp, Fault> {
    let time: jiff::Timestamp = text.parse().map_err(|error| {
        Fault::usage(format!("{flag}: {error}")).hint("give a time such as 2026-01-31T10:42:00Z")
    })?;
    Ok(Timestamp::from_unix_microseconds(time.as_microsecond()))
}

fn verify(archive: &Archive, manner: Manner<'_>, everywhere: &Everywhere) -> Result<Report, Fault> {
    let bar = bar(everywhere, "verifying");
    print::of_bytes(&bar);
    let report = verify::verify_as(archive, manner, |progress| {
        bar.set_length(progress.bytes_total);
        // What was done before is not counted into the rate.
        if bar.position() == 0 {
            bar.set_position(progress.bytes);
            bar.reset_eta();
        }
        bar.set_position(progress.bytes);
        bar.set_message(format!("verifying {}/{}", progress.segments, progress.segments_total));
    });
    bar.finish_and_clear();
    report
}

/// None where a machine reads what comes out.
fn bar(everywhere: &Everywhere, doing: &'static str) -> ProgressBar {
    if everywhere.json || everywhere.quiet { ProgressBar::hidden() } else { print::bar(doing) }
}

/// Sets it at the first SIGINT or SIGTERM. The second one ends the process.
fn stop_at_signal(stop: Arc<AtomicBool>) -> Result<impl Future<Output = ()>, Fault> {
    let listen =
        |kind| signal(kind).map_err(|error| Fault::stop(format!("cannot listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.store(true, Ordering::Relaxed);
            if is_second {
                std::process::exit(1);
            }
        }
    })
}

/// How many lines people are shown unasked.
const PAGE: usize = 50;

/// One object a line, as for every list.
fn print_list(everywhere: &Everywhere, listed: &Listed) -> Result<(), Fault> {
    let segments = &listed.segments;
    if everywhere.json {
        return segments.iter().try_for_each(print::json);
    }
    let header =
        ["segment", "state", "through", "size", "transactions", "changes", "first commit", "last commit"];
    let time = |time: &Option<Timestamp>| time.map_or_else(String::new, |time| time.to_string());
    let rows = segments.iter().map(|segment| {
        vec![
            segment.name.clone(),
            match segment.state {
                SegmentState::Sealed => "sealed".into(),
                SegmentState::Open => "open".into(),
            },
            segment.through.to_string(),
            print::size(segment.bytes),
            segment.transactions.to_string(),
            segment.changes.to_string(),
            time(&segment.first_time),
            time(&segment.last_time),
        ]
    });
    print::line(&print::columns(&header, rows))?;
    match listed.segments_total {
        total if total == segments.len() => Ok(()),
        total => print::line(&format!(
            "{} of {total} segments; --all prints all, --last COUNT and --before LSN others",
            segments.len()
        )),
    }
}

fn print_found(everywhere: &Everywhere, found: &[Found]) -> Result<(), Fault> {
    if everywhere.json {
        return found.iter().try_for_each(print::json);
    }
    if found.is_empty() {
        return print::line("no such transaction in the archive");
    }
    let rows = found.iter().map(|found| {
        vec![
            found.end_lsn.to_string(),
            found.time.to_string(),
            found.xid.to_string(),
            found.segment.clone(),
            found.frame_offset.to_string(),
        ]
    });
    print::line(&print::columns(&["end_lsn", "time", "xid", "segment", "frame offset"], rows))
}

fn detail_table(detail: &SegmentDetail) -> String {
    let head = print::pairs(&[
        ("segment", detail.summary.name.clone()),
        ("range", format!("({}, {}]", detail.summary.after, detail.summary.through)),
        ("system identifier", format!("{}, timeline {}", detail.system_identifier, detail.timeline)),
        ("bytes", format!("{} of {} raw", detail.summary.bytes, detail.summary.raw_bytes)),
        ("transactions", detail.summary.transactions.to_string()),
        ("changes", detail.summary.changes.to_string()),
        ("frames", detail.frames.len().to_string()),
        ("chain", format!("{} to {}", detail.chain_start, detail.chain_end)),
    ]);
    let rows = detail.relations.iter().map(|relation| {
        let events = relation.events;
        [events.inserts, events.updates, events.deletes, events.truncates, events.bytes].iter().fold(
            vec![relation.name.clone()],
            |mut row, number| {
                row.push(number.to_string());
                row
            },
        )
    });
    let tables = print::columns(&["table", "inserts", "updates", "deletes", "truncates", "bytes"], rows);
    format!("{head}\n\n{tables}")
}

fn report_table(report: &Report) -> String {
    let verdict = match (report.problems.len(), report.complete, report.quick) {
        (0, true, false) => "sound".into(),
        (0, true, true) => "sound at the ends of all segments; what is between them was not read".into(),
        (0, false, _) => "broken off; sound so far".into(),
        (1, ..) => "1 problem".into(),
        (count, ..) => format!("{count} problems"),
    };
    let head = print::pairs(&[
        ("verdict", verdict),
        ("range", format!("({}, {}]", report.first_lsn, report.last_lsn)),
        ("segments", format!("{}, {} of them in the catalog", report.segments, report.indexed)),
        ("bytes", report.bytes.to_string()),
        ("transactions", report.transactions.to_string()),
        ("changes", report.changes.to_string()),
        ("chain", report.chain.clone()),
        ("bases", report.bases.to_string()),
    ]);
    let problems = report.problems.iter().map(|problem| {
        let segment = problem.segment.as_deref().unwrap_or("the log");
        let offset = problem.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let through = problem.through.map_or_else(|| "…".into(), |through| through.to_string());
        format!("\n{segment}{offset}: {}; in doubt: ({}, {through}]", problem.what, problem.after)
    });
    head + &problems.collect::<String>()
}
