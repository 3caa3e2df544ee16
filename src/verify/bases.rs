//! The files of the bases.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive::Archive;
use crate::model::{Fault, Remedy};

use super::{Problem, Report};

/// Reads them all. What is missing or damaged is a problem, and in doubt is the base as a whole.
pub(super) fn read(archive: &Archive, stop: Option<&AtomicBool>, report: &mut Report) -> Result<(), Fault> {
    let beginning = archive.beginning()?;
    for begin in archive.begun_bases()? {
        let problem = |through, what| Problem {
            segment: Some(format!("base {}", begin.id)),
            offset: None,
            after: begin.start,
            through,
            what,
        };
        let base = match archive.base(&begin) {
            Ok(Some(base)) => base,
            Ok(None) => continue,
            Err(fault) if fault.remedy == Remedy::Person => {
                report.problems.push(problem(None, fault.message));
                continue;
            }
            Err(fault) => return Err(fault),
        };
        report.bases += 1;
        for (table, number, file) in base.files() {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                report.complete = false;
                return Ok(());
            }
            let fault = match archive.base_reader(&base.begin, table, number, file) {
                Ok(mut reader) => loop {
                    match reader.block() {
                        Ok(Some(_)) => {}
                        Ok(None) => break None,
                        Err(fault) => break Some(fault),
                    }
                },
                Err(fault) => Some(fault),
            };
            report.bytes += file.bytes;
            match fault {
                None => {}
                // Only what can't be mended by trying again is damage; a key that is missing is none.
                Some(fault) if fault.remedy == Remedy::Person => {
                    report.problems.push(problem(Some(base.through), fault.message));
                }
                Some(fault) => return Err(fault),
            }
        }
        if base.begin.start < beginning {
            let what = "the log that it needs was pruned: pgsluice archive drop-base removes it";
            report.problems.push(problem(Some(base.through), what.into()));
        }
    }
    Ok(())
}
