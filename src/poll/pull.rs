//! One pull of one table: what is new under one snapshot of the source, as one transaction of the log.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::alarm::Alarm;
use super::limit::{self, By, Candidates, Highest, Mode, Point};
use super::log::Log;
use super::look::{self, Clock, Sessions};
use super::shape::{self, Control, Shape};
use super::sink::Sink;
use super::sql::Range;
use super::{Method, Table, TableState};
use crate::model::{Fault, Position, Timestamp};
use crate::pg::{Pipeline, quote_ident, read_text, unload};

/// What is asked of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// What is new.
    New,
    /// Rows with values from one to the other, both included, that were brought before, maybe.
    Again { from: String, to: String },
}

/// What a pull has come to.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    pub(super) rows: u64,
    pub(super) deleted: u64,
    /// None where the log has nothing of it.
    pub(super) position: Option<Position>,
    /// There is more to bring already.
    pub(super) has_more: bool,
    pub(super) alarms: Vec<Alarm>,
    /// What decided, for who reads the log.
    pub(super) by: Option<String>,
}

/// A table and what is kept of it from pull to pull.
pub(super) struct Puller<'a> {
    pub(super) table: &'a Table,
    pub(super) log: &'a Mutex<Log>,
    pub(super) sessions: &'a Sessions,
    pub(super) candidates: Mutex<Candidates>,
}

/// How long a pull waits for transactions to end that ran at its beginning.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where an earlier point is complete, so that there may be something to bring.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(50);
const WARNING_PER_CENT: u64 = 75;

impl Puller<'_> {
    pub(super) async fn pull(&self, source: &mut Pipeline, which: &Which) -> Result<Pulled, Fault> {
        let shown = self.table.shown();
        let before = self.log.lock().await.state().tables.get(&shown).cloned().unwrap_or_default();
        let began = Instant::now();
        let clock = look::clock(source).await?;
        let pulled = match (which, self.table.method) {
            (Which::Again { from, to }, Method::Append | Method::Upsert) => {
                let range = Range { from: Some(from.clone()), to: Some(to.clone()), ..Range::default() };
                let range = self.reached(range, &before)?;
                self.read(source, &before, &range, None, before.clone()).await
            }
            (Which::Again { .. }, method) => {
                return Err(Fault::usage(format!(
                    "a range of {shown} can't be pulled again: method {} has no control column",
                    method.name()
                ))
                .hint("leave out --from and --to"));
            }
            (Which::New, Method::Append | Method::Upsert) => self.new_rows(source, &before, clock).await,
            (Which::New, Method::Snapshot) => self.snapshot(source, &before, clock).await,
            (Which::New, Method::Queue) => self.drain(source, &before, clock).await,
        };
        let mut pulled = pulled?;
        let took = began.elapsed();
        if took > self.table.every {
            pulled.alarms.push(Alarm {
                kind: "poll_slow",
                table: shown.clone(),
                is_critical: false,
                message: format!(
                    "a pull of {shown} took {:.1} s, longer than its period of {:.1} s",
                    took.as_secs_f64(),
                    self.table.every.as_secs_f64()
                ),
                cure: "a longer `every`, an index on the control column, or for a snapshot another method"
                    .into(),
            });
        }
        Ok(pulled)
    }

    /// What is above the last value and complete.
    async fn new_rows(
        &self,
        source: &mut Pipeline,
        before: &TableState,
        clock: Clock,
    ) -> Result<Pulled, Fault> {
        let mut state = before.clone();
        let shape = Shape::read(source, self.table).await?;
        let control = shape.control(self.table)?;
        let zone = self.table.time_zone.as_deref().unwrap_or_default();
        let counts = format!("{control:?} {zone}").trim_end().to_ascii_lowercase();
        if before.last.is_some() && before.control.as_ref().is_some_and(|before| *before != counts) {
            let was = before.control.as_deref().unwrap_or_default();
            let shown = self.table.shown();
            return Err(Fault::stop(format!(
                "the control column of {shown} was of type {was} so far, and is {counts}"
            ))
            .hint("values of one say nothing of the other: begin a new archive (--name)"));
        }
        state.control = Some(counts);
        let mode = shape::mode(self.table, clock.is_standby)?;
        let (point, by) = match control {
            Control::Number => self.highest_number(source, &shape, &mut state, clock, mode).await?,
            Control::Instant | Control::Local | Control::Day => self.latest_time(source, clock, mode).await?,
        };
        state.last_run = Some(clock.now.to_string());
        state.last_rows = 0;
        state.limit_by = Some(by);
        state.error = None;
        let mut range = Range { above: before.last.clone(), ..Range::default() };
        match point {
            None => state.limit = None,
            Some(point) if control == Control::Number => {
                range.to = Some(point.to_string());
                state.limit = range.to.clone();
            }
            Some(point) => {
                let zone = self.table.time_zone.as_deref();
                range.below = Some(look::limit_text(source, control, zone, point).await?);
                state.limit = range.below.clone();
            }
        }
        let mut pulled = match point {
            // Nothing is complete yet, or there is nothing.
            None => self.note(before, state, clock.now).await?,
            Some(_) => self.read(source, before, &range, self.table.limit, state).await?,
        };
        pulled.by = Some(by.name().to_owned());
        let waits_for = self.candidates.lock().await.waits_for();
        if mode != Mode::Boundary && point.is_none() && waits_for > 0 {
            let shown = self.table.shown();
            tracing::info!(
                table = shown,
                transactions = waits_for,
                "waits for transactions that run on the source"
            );
        }
        Ok(pulled)
    }

    /// Of a range that is to come again what has come: what has not would come twice.
    fn reached(&self, range: Range, before: &TableState) -> Result<Range, Fault> {
        match (&before.last, self.table.method) {
            (Some(last), Method::Append) => Ok(Range { through: Some(last.clone()), ..range }),
            (None, Method::Append) => {
                Err(Fault::stop(format!("no row of {} has come yet", self.table.shown()))
                    .hint("leave out --from and --to"))
            }
            _ => Ok(range),
        }
    }

    async fn latest_time(
        &self,
        source: &mut Pipeline,
        clock: Clock,
        mode: Mode,
    ) -> Result<(Option<Point>, By), Fault> {
        let point = clock.now.0.saturating_sub(look::MARGIN_MICROSECONDS).into();
        let complete = self.complete(source, point, mode).await?;
        Ok(limit::of_time(mode, clock.now.0.into(), self.table.boundary_time(), complete))
    }

    async fn highest_number(
        &self,
        source: &mut Pipeline,
        shape: &Shape,
        state: &mut TableState,
        clock: Clock,
        mode: Mode,
    ) -> Result<(Option<Point>, By), Fault> {
        let column = quote_ident(self.table.column.as_deref().unwrap_or_default());
        let rows = Range { above: state.last.clone(), ..Range::default() }.rows(self.table);
        let highest = look::cell(source, &format!("SELECT max({column})::text{rows}")).await?;
        let Some(highest) = highest else {
            state.highest = None;
            return Ok((None, if mode == Mode::Exact { By::Exact } else { By::Stillness }));
        };
        let number: Point = highest.parse().map_err(|_| {
            Fault::stop(format!("{highest} in column {column} of {} is no whole number", self.table.shown()))
                .hint("a control column counts: name another one")
        })?;
        if state.highest.as_ref() != Some(&highest) {
            state.highest = Some(highest);
            state.highest_since = Some(clock.now.0);
        }
        let since = clock.now.0.saturating_sub(state.highest_since.unwrap_or(clock.now.0));
        let mut since = Duration::from_micros(u64::try_from(since).unwrap_or(0));
        let cache = shape::sequence_cache(source, self.table).await?;
        let is_hidden = cache.is_none() && shape.hides_sequences(source.server_version_num());
        if is_hidden || cache.is_some_and(|cache| cache > 1) {
            since = Duration::ZERO;
        }
        let complete = self.complete(source, number, mode).await?;
        let highest = Highest { number, since };
        let every = self.table.every;
        Ok(limit::of_numbers(mode, highest, self.table.boundary_numbers(), every, complete))
    }

    /// Notes a point, and gives the newest one that is complete. Waits a little for that.
    async fn complete(
        &self,
        source: &mut Pipeline,
        point: Point,
        mode: Mode,
    ) -> Result<Option<Point>, Fault> {
        if mode == Mode::Boundary {
            return Ok(None);
        }
        let mut candidates = self.candidates.lock().await;
        let running = look::running(source, self.sessions).await?;
        candidates.look(&running);
        candidates.note(point, &running);
        let began = Instant::now();
        loop {
            let patience = match (candidates.complete(), mode) {
                (Some(complete), _) if complete >= point => break,
                // The boundary is further back than what the last pull has noted.
                (Some(_), Mode::Both) => break,
                (Some(_), _) => SHORT_PATIENCE,
                (None, _) => PATIENCE,
            };
            if began.elapsed() >= patience.min(self.table.every) {
                break;
            }
            tokio::time::sleep(GLANCE).await;
            let running = look::running(source, self.sessions).await?;
            candidates.look(&running);
        }
        Ok(candidates.complete())
    }

    /// Begins the one snapshot, with the table as it is under it. What would empty or rewrite the table behind the snapshot's back waits.
    pub(super) async fn begin(&self, source: &mut Pipeline) -> Result<(Shape, Timestamp), Fault> {
        let version = source.server_version_num();
        let shape = Shape::read(source, self.table).await?;
        source.simple("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        // Before anything is asked, so that the snapshot is behind the lock.
        if shape.can_be_locked(version) {
            source.simple(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", self.table.quoted())).await?;
        }
        let now = look::cell(source, "SELECT clock_timestamp()::text").await?;
        let now = now.as_deref().and_then(look::time);
        let now = now.ok_or_else(|| Fault::stop("the source's clock makes no sense"))?;
        Ok((Shape::read(source, self.table).await?, now))
    }

    /// Reads rows of a range in the order of the control column; `state` is the table's behind it, but for what the rows say.
    pub(super) async fn read(
        &self,
        source: &mut Pipeline,
        before: &TableState,
        range: &Range,
        limit: Option<u64>,
        mut state: TableState,
    ) -> Result<Pulled, Fault> {
        let shown = self.table.shown();
        let (shape, now) = self.begin(source).await?;
        let mut pulled = Pulled::default();
        let mut range = range.clone();
        if let Some(limit) = limit {
            let row =
                source.simple(&range.probe(self.table, limit)).await?.into_iter().next().unwrap_or_default();
            let mut fields = row.into_iter();
            let (lowest, behind) = (fields.next().flatten(), fields.next().flatten());
            if behind.is_some() && lowest == behind {
                source.simple("ROLLBACK").await?;
                return self.cancelled(before, state, now, limit, &behind.unwrap_or_default()).await;
            }
            if let Some(behind) = behind {
                pulled.has_more = true;
                range = Range { below: Some(behind), to: None, ..range };
            }
        }
        let mut sink = Sink::new(self.log, now);
        for message in shape.messages(self.table) {
            sink.put(&message).await?;
        }
        let place = self.table.column.as_deref().and_then(|column| shape.place(column));
        let mut last = None;
        let copy = range.copy(self.table, &shape.list());
        let mut reading = Reading { shape: &shape, sink, spare: Vec::new() };
        let rows = reading
            .copy(source, &copy, async |sink, oid, row| {
                let value = place.and_then(|place| *row.get(place)?);
                if let Some(value) = value {
                    let last: &mut Vec<u8> = last.get_or_insert_default();
                    last.clear();
                    last.extend_from_slice(value);
                }
                sink.insert(oid, row).await
            })
            .await?;
        source.simple("COMMIT").await?;
        pulled.rows = rows;
        state.method = self.table.method;
        state.column.clone_from(&self.table.column);
        state.rows = state.rows.saturating_add(rows);
        // A range that is pulled again moves nothing.
        if range.from.is_none() {
            state.last_rows = rows;
            if let Some(last) = last {
                state.last = Some(String::from_utf8_lossy(&last).into_owned());
            }
            if state.highest == state.last {
                (state.highest, state.highest_since) = (None, None);
            }
        }
        if let Some(limit) = limit
            && (pulled.has_more || rows.saturating_mul(100) >= limit.saturating_mul(WARNING_PER_CENT))
        {
            pulled.alarms.push(near_limit(&shown, rows, limit));
        }
        if rows == 0 && !state.is_news_to(before) {
            self.note(before, state, now).await?;
            return Ok(pulled);
        }
        look::settle(source).await?;
        pulled.position = Some(reading.sink.commit(&shown, state, false).await?);
        Ok(pulled)
    }

    /// All rows of a pull have one value, which can't be parted.
    async fn cancelled(
        &self,
        before: &TableState,
        mut state: TableState,
        now: Timestamp,
        limit: u64,
        value: &str,
    ) -> Result<Pulled, Fault> {
        let (shown, column) = (self.table.shown(), self.table.column.as_deref().unwrap_or_default());
        let message = format!(
            "more than {limit} rows of {shown} have the same {column}, {value}: the pull is cancelled"
        );
        state.error = Some(message.clone());
        let cure = format!(
            "raise limit of {shown} above the number of such rows, or choose another control column that parts them"
        );
        let mut pulled = self.note(before, state, now).await?;
        pulled.alarms.push(Alarm { kind: "poll_limit", table: shown, is_critical: true, message, cure });
        Ok(pulled)
    }

    /// Writes a state without rows, where that is news; else it is kept for the next transaction.
    pub(super) async fn note(
        &self,
        before: &TableState,
        mut state: TableState,
        now: Timestamp,
    ) -> Result<Pulled, Fault> {
        state.method = self.table.method;
        state.column.clone_from(&self.table.column);
        let shown = self.table.shown();
        let mut pulled = Pulled::default();
        // The time of the last look is worth a transaction once in a while.
        let noted = before.last_run.as_deref().and_then(look::time);
        let is_old = noted.is_none_or(|noted| now.seconds_since(noted) >= 60.0);
        if is_old || state.is_news_to(before) {
            pulled.position = Some(Sink::new(self.log, now).commit(&shown, state, false).await?);
        }
        Ok(pulled)
    }
}

fn near_limit(table: &str, rows: u64, limit: u64) -> Alarm {
    Alarm {
        kind: "poll_limit",
        table: table.to_owned(),
        is_critical: false,
        message: format!("a pull of {table} brought {rows} rows, near its limit of {limit}"),
        cure: format!(
            "a shorter `every` for {table}, or a higher limit, before so many rows have one value that none can be brought"
        ),
    }
}

/// Rows on their way from a COPY to the log.
pub(super) struct Reading<'a, 's> {
    pub(super) shape: &'s Shape,
    pub(super) sink: Sink<'a>,
    pub(super) spare: Vec<u8>,
}

impl<'a> Reading<'a, '_> {
    /// Runs a COPY in text form, and gives each row to `each`, with the sink and the relation's OID. Gives how many they were.
    pub(super) async fn copy(
        &mut self,
        source: &mut Pipeline,
        sql: &str,
        mut each: impl AsyncFnMut(&mut Sink<'a>, u32, &[Option<&[u8]>]) -> Result<(), Fault>,
    ) -> Result<u64, Fault> {
        let mut rest: Vec<u8> = Vec::new();
        let Reading { shape, sink, spare } = self;
        let oid = shape.oid;
        let hand_on = async |piece: Vec<u8>| {
            let piece = match rest.is_empty() {
                true => piece,
                false => [std::mem::take(&mut rest), piece].concat(),
            };
            for line in piece.split_inclusive(|byte| *byte == b'\n') {
                match line.strip_suffix(b"\n") {
                    Some(line) => each(sink, oid, &read_text(line, spare)).await?,
                    None => rest = line.to_vec(),
                }
            }
            Ok(())
        };
        unload(source, sql, hand_on, |_, _| ()).await
    }
}
