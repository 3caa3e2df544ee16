//! `export`: the log as SQL, JSON lines or Parquet files.

use std::path::PathBuf;

use indicatif::ProgressBar;

use super::arguments::Everywhere;
use super::config::File;
use super::place::ArchiveArguments;
use super::points::{FromArguments, ToArguments, part};
use super::print;
use crate::archive::{self, Archive, Base, Span};
use crate::export::{self, Destination, Format, Options, Output, Report};
use crate::model::Fault;
use crate::pg::pattern::Pattern;
use crate::store::{Place, Store};

/// Write the log, or a part of it, out as SQL, JSON lines or Parquet files
///
/// The sql is a script for psql that does the changes again, transaction by transaction, on a database that has the tables as they were before. The json is a
/// line for each change, much as Debezium has it. The parquet is a row for each change, in files by table. docs/EXPORT.md describes them.
///
/// Without --to-dir the output goes to stdout. A folder gets its name when all in it is whole, and nothing is ever overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pgsluice export --format sql --name shop | psql postgresql://app@db2/shop
  pgsluice export --format json --tables 'sales.*' --from-time 2026-01-31T10:00:00Z --name shop | head
  pgsluice export --format parquet --to-dir s3://bucket/changes --archive s3://bucket/shop")]
pub(crate) struct ExportCommand {
    /// What is written
    #[arg(long)]
    format: Typed,
    /// Where to: a folder that is empty or not there yet, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix [default: stdout]
    #[arg(long, value_name = "DIR")]
    to_dir: Option<String>,
    /// Only the changes of these tables, such as public.orders or sales.*, as they are called when they are changed
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_delimiter = ',')]
    tables: Vec<Pattern>,
    /// Not those of these tables
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_delimiter = ',')]
    exclude: Vec<Pattern>,
    /// The script lets triggers fire and foreign keys be checked: it does not set session_replication_role, which not everybody may
    #[arg(long)]
    with_triggers: bool,
    /// The script begins with the rows of the newest base that the archive has of that time (clone --into-archive), into tables that are empty, and
    /// goes on with the changes since
    #[arg(long, conflicts_with = "FromArguments")]
    with_base: bool,
    #[command(flatten)]
    from: FromArguments,
    #[command(flatten)]
    to: ToArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Typed {
    Sql,
    Json,
    Parquet,
}

impl ExportCommand {
    pub(crate) fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let format = match self.format {
            Typed::Sql => Format::Sql,
            Typed::Json => Format::Json,
            Typed::Parquet => Format::Parquet,
        };
        if (self.with_triggers || self.with_base) && format != Format::Sql {
            return Err(
                Fault::usage("--with-triggers and --with-base are for --format sql").hint("leave them out")
            );
        }
        let destination = self.destination(everywhere, format)?;
        let archive = self.archive.place(file)?.archive.open()?;
        let mut part = part(&archive, &self.from, &self.to)?;
        let base = if self.with_base { Some(needed_base(&archive, part)?) } else { None };
        if let Some(base) = &base {
            part = Span { after: base.begin.start, through: part.through.max(base.through) };
        }
        if part.after > part.through {
            return Err(Fault::usage(format!(
                "the part begins at {} and ends at {}",
                part.after, part.through
            ))
            .hint("give a point behind the first one to --to-lsn, --to-time, --to-xid or --to-pin"));
        }
        self.refuse_unmatched(&archive, part)?;
        let is_wanted = |schema: &str, name: &str| {
            let among = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(schema, name));
            (self.tables.is_empty() || among(&self.tables)) && !among(&self.exclude)
        };
        let options =
            Options { format, part, is_wanted: &is_wanted, with_triggers: self.with_triggers, base };
        let bar = bar(everywhere, part);
        let output = Output::open(destination)?;
        let done =
            export::export(&archive, &options, output, &|at| bar.set_position(at.bytes_since(part.after)));
        bar.finish_and_clear();
        match done {
            Ok(report) => self.tell(everywhere, &report),
            // As for any other filter whose output nobody wants any more.
            Err(fault) if fault.message == export::READER_GONE => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    fn destination(&self, everywhere: &Everywhere, format: Format) -> Result<Destination, Fault> {
        let Some(to) = &self.to_dir else {
            if format == Format::Parquet {
                return Err(Fault::usage("Parquet files don't go to stdout").hint("give --to-dir"));
            }
            if everywhere.json {
                return Err(Fault::usage(
                    "--json is for the report of what was written, and stdout has the export",
                )
                .hint("give --to-dir, or leave out --json; --format json writes JSON"));
            }
            return Ok(Destination::Stdout);
        };
        if to.is_empty() {
            return Err(Fault::usage("--to-dir names no folder").hint("give a path, or s3://bucket/prefix"));
        }
        match Place::parse(to)? {
            None => Ok(Destination::Folder(PathBuf::from(to))),
            Some(place) => match place.folder() {
                Some(folder) => Ok(Destination::Folder(folder)),
                None => Store::open(&place).map(Destination::Store),
            },
        }
    }

    /// A pattern that means nothing is a mistake.
    fn refuse_unmatched(&self, archive: &Archive, part: Span) -> Result<(), Fault> {
        if self.tables.is_empty() {
            return Ok(());
        }
        let tables = export::tables(archive, part)?;
        let matches = |pattern: &&Pattern| tables.iter().any(|(schema, name)| pattern.matches(schema, name));
        match self.tables.iter().find(|pattern| !matches(pattern)) {
            None => Ok(()),
            Some(pattern) => Err(Fault::usage(format!("--tables {pattern}: the log has no such table"))
                .hint(
                    "`pgsluice status` lists the tables; those that were never changed are not in the log",
                )),
        }
    }

    fn tell(&self, everywhere: &Everywhere, report: &Report) -> Result<(), Fault> {
        let Report { after, through, transactions, changes, .. } = report;
        if self.to_dir.is_none() {
            tracing::info!(%after, %through, transactions, changes, "export is written");
            return Ok(());
        }
        print::report(everywhere.json, report, || {
            let bytes: u64 = report.files.iter().map(|file| file.bytes).sum();
            print::pairs(&[
                ("after", after.to_string()),
                ("through", through.to_string()),
                ("transactions", transactions.to_string()),
                ("changes", changes.to_string()),
                ("tables", report.tables.len().to_string()),
                ("files", report.files.len().to_string()),
                ("size", print::size(bytes)),
            ])
        })
    }
}

fn needed_base(archive: &Archive, part: Span) -> Result<Base, Fault> {
    archive::base_before(archive, part.through)?.ok_or_else(|| {
        Fault::stop(format!("the archive has no base to begin with that is as old as {}", part.through))
            .hint("pgsluice clone --into-archive takes one; `pgsluice archive bases` prints what there is")
    })
}

fn bar(everywhere: &Everywhere, part: Span) -> ProgressBar {
    let bar = if everywhere.quiet { ProgressBar::hidden() } else { print::bar("exporting") };
    print::of_bytes(&bar);
    bar.set_length(part.through.bytes_since(part.after));
    bar
}
