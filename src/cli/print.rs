//! What a command found goes to stdout: one JSON object, or a table for people. Errors go to stderr.

use std::io::{ErrorKind, Write};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::model::Fault;

pub(crate) use crate::serve::size;

/// Prints a report in the form that was asked for.
pub(crate) fn report(
    json: bool,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Result<(), Fault> {
    if json { self::json(value) } else { line(&table()) }
}

pub(crate) fn json(value: &impl Serialize) -> Result<(), Fault> {
    line(&serde_json::to_string(value).map_err(|error| Fault::stop(format!("writing JSON: {error}")))?)
}

/// A reader that has gone away (`| head`) is no fault.
pub(crate) fn line(text: &str) -> Result<(), Fault> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Fault::stop(format!("writing to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// A progress bar on stderr where that is a terminal.
pub(crate) fn bar(doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(doing);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Lets a bar count bytes.
pub(crate) fn of_bytes(bar: &ProgressBar) {
    if let Ok(style) = ProgressStyle::with_template(
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    ) {
        bar.set_style(style);
    }
}

/// Names on the left, values on the right.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let mut table = plain();
    table.add_rows(rows.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]));
    table.trim_fmt()
}

pub(crate) fn columns(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = plain();
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    table.trim_fmt()
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

pub(crate) fn fault(fault: &Fault) {
    let mut text = format!("error: {}\n", fault.message);
    if let Some(hint) = &fault.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Nothing is left to be told to, if stderr is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
