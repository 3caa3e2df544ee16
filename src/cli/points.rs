//! Points of the log as they are typed.

use crate::archive::{self, Archive, Point, Reached, Span};
use crate::model::{Fault, Position, Timestamp, Xid};

/// Where a part of the log begins.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct FromArguments {
    /// From the transaction that ends there, or the first one behind it
    #[arg(long, value_name = "LSN")]
    from_lsn: Option<Position>,
    /// From the first transaction, in the order of the log, that committed at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from_time: Option<Timestamp>,
    /// From the transaction with this id
    #[arg(long, value_name = "XID")]
    from_xid: Option<u32>,
    /// From the transaction, or the position, that has this name
    #[arg(long, value_name = "NAME")]
    from_pin: Option<String>,
}

/// Where a part of the log ends.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct ToArguments {
    /// Up to what ends at or before this position
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Position>,
    /// Up to the first transaction, in the order of the log, that committed later than this (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_time: Option<Timestamp>,
    /// Up to and with the transaction with this id
    #[arg(long, value_name = "XID")]
    to_xid: Option<u32>,
    /// Up to and with the transaction, or the position, that has this name
    #[arg(long, value_name = "NAME")]
    to_pin: Option<String>,
}

impl FromArguments {
    pub(crate) fn point(&self) -> Option<Point> {
        point(self.from_lsn, self.from_time, self.from_xid, self.from_pin.as_ref())
    }
}

impl ToArguments {
    pub(crate) fn point(&self) -> Option<Point> {
        point(self.to_lsn, self.to_time, self.to_xid, self.to_pin.as_ref())
    }
}

/// What lies between the points that were typed.
pub(crate) fn part(archive: &Archive, from: &FromArguments, to: &ToArguments) -> Result<Span, Fault> {
    let mut part = archive::whole(archive)?;
    if let Some(from) = from.point() {
        part.after = archive::resolve(archive, &from, Some(false))?.through;
    }
    if let Some(to) = to.point() {
        part.through = last_of(&archive::resolve(archive, &to, Some(true))?);
    }
    Ok(part)
}

/// The end of the last transaction up to a point.
pub(crate) fn last_of(reached: &Reached) -> Position {
    reached.last.as_ref().map_or(reached.through, |last| last.end_lsn)
}

fn point(
    lsn: Option<Position>,
    time: Option<Timestamp>,
    xid: Option<u32>,
    pin: Option<&String>,
) -> Option<Point> {
    let lsn = lsn.map(Point::Lsn).or(time.map(Point::Time));
    lsn.or(xid.map(|xid| Point::Xid(Xid(xid)))).or(pin.cloned().map(Point::Pin))
}

pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|error| format!("{error}; a time is such as 2026-01-31T10:42:00Z"))?;
    Ok(Timestamp::from_unix_microseconds(time.as_microsecond()))
}
