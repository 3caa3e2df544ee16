//! Points of the log that a target can be brought to. A point parts the transactions in two, in the order of the log: those that are
//! applied come before all that are left out, whatever their times and ids say.

use serde::Serialize;

use crate::model::{Fault, Position, Timestamp, Xid};
use crate::segment::is_pin_name;

use super::lookup::{self, Found, Lookup};
use super::{Archive, Span};

/// What names a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// Inclusive: also the transaction whose commit ends just there.
    Lsn(Position),
    /// Up to the first transaction, in the order of the log, that committed later; inclusive: also those that committed at that very
    /// time. So recovery has it (xlogrecovery.c, `recoveryStopsBefore`). What comes behind that one stays out, though it may have
    /// committed earlier.
    Time(Timestamp),
    /// Inclusive: also that transaction.
    Xid(Xid),
    /// What `pgsluice pin` has written, inclusive: also its own transaction; or a pin of retention, which is an LSN.
    Pin(String),
}

/// Where a point is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// A transaction is applied if its commit ends at or before it, as with endpos.
    pub through: Position,
    /// The last one that is applied; none where the point is before all that the log still has.
    pub last: Option<Found>,
    /// The first one that is left out; none where the log has no more yet.
    pub next: Option<Found>,
    /// Where the log ended when the point was looked for.
    pub log_end: Position,
}

impl Reached {
    /// Whether a copy that is consistent at a position has nothing that lies behind the point. It may be consistent at a later one than
    /// `through`, where no commit ends between the two.
    pub fn has_not_passed(&self, consistent: Position) -> bool {
        let quiet_through = match &self.next {
            Some(next) => Position(next.end_lsn.0.saturating_sub(1)),
            None => self.log_end,
        };
        consistent <= self.through.max(quiet_through)
    }
}

/// All that is in the log now.
pub fn whole(archive: &Archive) -> Result<Span, Fault> {
    let Extent { beginning, end } = Extent::of(archive)?;
    Ok(Span { after: beginning, through: end })
}

/// What is in the log.
struct Extent {
    beginning: Position,
    /// How far it goes: what comes later is not known.
    end: Position,
}

/// Finds a point in the log; `inclusive` is so unless something else is said. One that the log does not have, has no more, or has twice is
/// a fault.
pub fn resolve(archive: &Archive, point: &Point, inclusive: Option<bool>) -> Result<Reached, Fault> {
    let inclusive = inclusive.unwrap_or(true);
    // Looked at first: what comes meanwhile is behind it, and no fault.
    let extent = Extent::of(archive)?;
    match point {
        Point::Lsn(lsn) => at_lsn(archive, &extent, *lsn, inclusive),
        Point::Time(time) => at_time(archive, &extent, *time, inclusive),
        Point::Xid(xid) => {
            let found = lookup::find(archive, Lookup::Xid(*xid))?;
            let [one] = found.as_slice() else { return Err(not_one_xid(*xid, &found, &extent)) };
            at_commit(archive, &extent, one.end_lsn, inclusive)
        }
        Point::Pin(name) => at_pin(archive, &extent, name, inclusive),
    }
}

fn at_lsn(archive: &Archive, extent: &Extent, lsn: Position, inclusive: bool) -> Result<Reached, Fault> {
    if lsn < extent.beginning {
        return Err(Fault::stop(format!("{lsn} lies before the log, which begins at {}", extent.beginning))
            .hint(PRUNED));
    }
    if lsn > extent.end {
        return Err(Fault::stop(format!("{lsn} lies behind the log, which ends at {}", extent.end))
            .hint("wait until the receiver is there; `pgsluice status` shows how far it is"));
    }
    let reached = parted(archive, extent, bound(lsn, inclusive))?;
    let through = if inclusive { lsn } else { reached.through };
    Ok(Reached { through, ..reached })
}

fn at_time(archive: &Archive, extent: &Extent, time: Timestamp, inclusive: bool) -> Result<Reached, Fault> {
    let first_out = if inclusive { Timestamp(time.0.saturating_add(1)) } else { time };
    let Some(next) = lookup::find(archive, Lookup::Time(first_out))?.pop() else {
        let last = lookup::last_before(archive, Position(u64::MAX))?;
        let what = match last {
            Some(last) => format!("its last one ends at {} and committed at {}", last.end_lsn, last.time),
            None => "it has none".into(),
        };
        return Err(Fault::stop(format!(
            "whether the log reaches {time} can't be told: no transaction in it is later; {what}"
        ))
        .hint(format!(
            "--to-lsn {} is all that it has; any later commit at the source, as by `pgsluice pin`, tells that there was none between",
            extent.end
        )));
    };
    let reached = parted(archive, extent, next.end_lsn)?;
    if reached.last.is_none() {
        return Err(Fault::stop(format!(
            "{time} lies before the log: its first transaction, which begins behind {}, committed at {}",
            extent.beginning, next.time
        ))
        .hint(format!(
            "--to-lsn {} is the log's beginning, without any transaction. {PRUNED}",
            extent.beginning
        )));
    }
    Ok(reached)
}

fn at_commit(archive: &Archive, extent: &Extent, end: Position, inclusive: bool) -> Result<Reached, Fault> {
    parted(archive, extent, bound(end, inclusive))
}

fn at_pin(archive: &Archive, extent: &Extent, name: &str, inclusive: bool) -> Result<Reached, Fault> {
    if !is_pin_name(name.as_bytes()) {
        return Err(Fault::usage(format!("'{name}' can't be a pin's name"))
            .hint("give 1 to 63 lower-case letters, digits, - and _"));
    }
    let written = lookup::find(archive, Lookup::Pin(name.to_owned()))?;
    let mut places: Vec<_> = written.iter().map(|found| found.end_lsn).collect();
    let kept = archive.pins()?.into_iter().filter(|pin| pin.name == name);
    places.extend(kept.map(|pin| pin.lsn));
    places.dedup();
    match (written.as_slice(), places.as_slice()) {
        (_, []) => Err(Fault::stop(format!("there is no pin {name} up to {}, where the log ends", extent.end))
            .hint("what `pgsluice pin` has written must have been received; `pgsluice archive pins` shows those of retention")),
        ([], [lsn]) => at_lsn(archive, extent, *lsn, inclusive),
        (_, [end]) => at_commit(archive, extent, *end, inclusive),
        (_, several) => Err(Fault::stop(format!("there is more than one pin {name}: at {}", listed(several)))
            .hint("give the one that is meant with --to-lsn")),
    }
}

/// The first position at which a commit that ends there is left out.
fn bound(end: Position, inclusive: bool) -> Position {
    if inclusive { Position(end.0.saturating_add(1)) } else { end }
}

/// Parts the log where commits begin to end at `bound` or behind it.
fn parted(archive: &Archive, extent: &Extent, bound: Position) -> Result<Reached, Fault> {
    let last = lookup::last_before(archive, bound)?;
    let next = lookup::find(archive, Lookup::Lsn(bound))?.pop();
    let through = last.as_ref().map_or(extent.beginning, |last| last.end_lsn);
    Ok(Reached { through, last, next, log_end: extent.end })
}

const PRUNED: &str =
    "what was pruned is only in a copy of the archive; `pgsluice archive list` shows what there is";

fn not_one_xid(xid: Xid, found: &[Found], extent: &Extent) -> Fault {
    let Xid(xid) = xid;
    if found.is_empty() {
        return Fault::stop(format!(
            "the log has no transaction {xid} from {} to {}",
            extent.beginning, extent.end
        ))
        .hint("it has those that changed published tables, by the id of the whole transaction; ids of savepoints are not known");
    }
    let each: Vec<_> = found.iter().map(|found| format!("{} ({})", found.end_lsn, found.time)).collect();
    Fault::stop(format!("transaction id {xid} was given {} times: ends at {}", found.len(), each.join(", ")))
        .hint("give the one that is meant with --to-lsn")
}

fn listed(positions: &[Position]) -> String {
    let each: Vec<_> = positions.iter().map(ToString::to_string).collect();
    each.join(", ")
}

impl Extent {
    fn of(archive: &Archive) -> Result<Extent, Fault> {
        let beginning = archive.beginning()?;
        Ok(Extent { beginning, end: archive.end()? })
    }
}
