//! One connection to the target that takes a batch as a single pipeline.
//!
//! A batch is one target transaction: BEGIN, the progress row read FOR UPDATE, the changes, the new progress, Sync. Only
//! when every answer has been read and is right does COMMIT follow. An origin is set up beside the row where privileges allow;
//! it tags the changes, but is never trusted, since from PostgreSQL 16 on an aborted transaction advances it.

mod changes;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_postgres::Client;

use crate::faults;
use crate::meter::METER;
use crate::model::{Fault, Position, Remedy, Timestamp};
use crate::pg::{Conninfo, Pipeline, PipelineOptions, PipelineWriter, lane};

use super::inside::Inside;
use super::lanes::Torn;
use super::origin::{create_origin, fence, set_up_origin, take_lane, torn, value};
use super::replies::{self, Diverted, Expected, Lost, Report};
use super::run::Run;
use changes::{Copy, name_of};

/// Number of a batch's first change: BEGIN and the reading of the progress come before it.
pub(super) const FIRST_CHANGE: u64 = 2;

/// Names of the statements that every batch uses; those of the planner are `p` and a number.
const BEGIN: &str = "begin";
const READ: &str = "read_progress";
const WRITE: &str = "write_progress";
const ORIGIN: &str = "origin";
const COMMIT: &str = "commit";
const ROLLBACK: &str = "rollback";

/// Why a batch was not taken.
#[derive(Debug)]
pub(super) struct Refused {
    /// The statement of the batch that the target refused, from 0; none where it was the commit or the connection.
    pub(super) statement: Option<u64>,
    pub(super) fault: Fault,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Refused {
        Refused { statement: None, fault }
    }
}

/// Which progress row this applier owns, and for which log.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) archive_id: String,
}

/// The row in which a session notes how far it is.
#[derive(Clone, Debug)]
enum Mark {
    /// The stream's own.
    Stream,
    /// That of a lane beside it, with the epoch in which it is ours.
    Lane(u32, String),
}

/// What a batch adds to the progress row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Advance {
    pub(super) end: Position,
    pub(super) commit_time: Timestamp,
    pub(super) xid: u32,
    pub(super) transactions: u64,
    pub(super) changes: u64,
}

/// What a lane notes of its part in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Over how many lanes the batch goes.
    pub(super) lanes: u32,
    /// Tells its rows from others.
    pub(super) digest: u32,
}

pub(super) struct Session {
    writer: PipelineWriter,
    reports: mpsc::UnboundedReceiver<Result<Report, Fault>>,
    expected: mpsc::UnboundedSender<Expected>,
    reading: AbortHandle,
    lost: Lost,
    diverted: Diverted,
    stream: Stream,
    mark: Mark,
    /// Where the row stood when it was last known.
    progress: Position,
    /// What it said of tables that are left out.
    joining: i64,
    backend_pid: String,
    has_origin: bool,
    prepared: HashSet<u32>,
    copy: Option<Copy>,
    copied: u64,
    run: Run,
    /// Statements since the last Sync.
    statements: u64,
    /// The batch's progress row was seen to be ours.
    is_ours: bool,
    /// The batch in hand was sent whole, and its verdict has not been asked for.
    is_sent: bool,
}

impl Session {
    /// Connects, fences other appliers of the stream off, and reads the progress and what lanes have committed beyond it. `again`:
    /// this process has had the stream before, so whoever has it now is most likely its own old backend.
    pub(super) async fn open(
        target: &Conninfo,
        stream: Stream,
        client_encoding: &str,
        again: bool,
    ) -> Result<(Session, Option<Torn>), Fault> {
        let mut connection = connect(target, client_encoding).await?;
        let (row, joining) = fence(&mut connection, &stream, again).await?;
        let torn = torn(&mut connection, &stream.name, row).await?;
        let has_origin = set_up_origin(&mut connection, &stream.name, row).await?;
        let mut session = Session::over(connection, stream, Mark::Stream, row, has_origin).await?;
        session.joining = joining;
        Ok((session, torn))
    }

    /// Connects one more lane of the stream.
    pub(super) async fn open_lane(
        &mut self,
        target: &Conninfo,
        client_encoding: &str,
        lane: u32,
    ) -> Result<Session, Fault> {
        let mut connection = connect(target, client_encoding).await?;
        let (row, epoch) = take_lane(&mut connection, &self.stream.name, lane).await?;
        let name = lane::origin(&self.stream.name, lane);
        if self.has_origin {
            create_origin(&mut connection, &name).await?;
        }
        let has_origin = self.has_origin && set_up_origin(&mut connection, &name, row).await?;
        Session::over(connection, self.stream.clone(), Mark::Lane(lane, epoch), row, has_origin).await
    }

    async fn over(
        mut connection: Pipeline,
        stream: Stream,
        mark: Mark,
        progress: Position,
        has_origin: bool,
    ) -> Result<Session, Fault> {
        let backend_pid = value(&mut connection, "SELECT pg_backend_pid()").await?.unwrap_or_default();
        let (writer, reader) = connection.into_halves();
        let (lost, diverted) = (Lost::default(), Diverted::default());
        let (sender, reports) = mpsc::unbounded_channel();
        let (expected, expectations) = mpsc::unbounded_channel();
        let reading = tokio::spawn(replies::read(
            reader,
            Arc::clone(&lost),
            expectations,
            sender,
            Arc::clone(&diverted),
        ))
        .abort_handle();
        let mut session = Session {
            writer,
            reports,
            expected,
            reading,
            lost,
            diverted,
            stream,
            mark,
            progress,
            joining: 0,
            backend_pid,
            has_origin,
            prepared: HashSet::new(),
            copy: None,
            copied: 0,
            run: Run::default(),
            statements: 0,
            is_ours: false,
            is_sent: false,
        };
        session.prepare().await?;
        Ok(session)
    }

    /// Whether all answers are there to a batch that was sent.
    pub(super) fn is_answered(&self) -> bool {
        self.is_sent && !self.reports.is_empty()
    }

    pub(super) fn progress(&self) -> Position {
        self.progress
    }

    /// What the progress row says of tables that are left out, as long as it stays so.
    pub(super) fn joining(&self) -> i64 {
        self.joining
    }

    /// The target's process that serves it.
    pub(super) fn backend_pid(&self) -> &str {
        &self.backend_pid
    }

    /// Whether the target has already refused something of the batch in hand.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    async fn prepare(&mut self) -> Result<(), Fault> {
        let (read, write) = match &self.mark {
            Mark::Stream => (
                "SELECT lsn || ' ' || joining FROM pgsluice.progress WHERE stream = $1 FOR UPDATE",
                "UPDATE pgsluice.progress SET lsn = $2, commit_time = $3, xid = $4, transactions = transactions + $5, \
                 changes = changes + $6, updated_at = pg_catalog.now() WHERE stream = $1",
            ),
            Mark::Lane(..) => (
                "SELECT lsn || ' ' || epoch FROM pgsluice.lane WHERE stream = $1 AND lane = $2 FOR UPDATE",
                "UPDATE pgsluice.lane SET lsn = $3, lanes = $4, digest = $5 WHERE stream = $1 AND lane = $2",
            ),
        };
        let read = match read {
            read if faults::mutated("progress_is_not_locked") => read.trim_end_matches(" FOR UPDATE"),
            _ if faults::mutated("origin_is_progress") => {
                "SELECT pg_catalog.pg_replication_origin_progress($1, false) || ' 0'"
            }
            read => read,
        };
        self.writer.parse(BEGIN, "BEGIN")?;
        self.writer.parse(READ, read)?;
        self.writer.parse(WRITE, write)?;
        if self.has_origin {
            self.writer.parse(ORIGIN, "SELECT pg_catalog.pg_replication_origin_xact_setup($1, $2)")?;
        }
        self.writer.parse(COMMIT, "COMMIT")?;
        self.writer.parse(ROLLBACK, "ROLLBACK")?;
        match self.sync().await?.failed {
            Some((_, fault)) => Err(fault),
            None => Ok(()),
        }
    }

    /// Opens a batch.
    pub(super) async fn begin(&mut self) -> Result<(), Fault> {
        self.copied = 0;
        self.is_ours = false;
        self.run(BEGIN, &[])?;
        self.run_own(READ, &[])?;
        self.writer.drain().await?;
        faults::point("apply.after_begin");
        Ok(())
    }

    /// Drops all prepared statements, as before DDL. Nothing else may be under way.
    pub(super) async fn forget_prepared(&mut self) -> Result<(), Fault> {
        self.close_prepared()?;
        self.sync().await.map(drop)
    }

    fn close_prepared(&mut self) -> Result<(), Fault> {
        for id in self.prepared.drain() {
            self.writer.close_statement(name_of(id, &mut [0; 12]))?;
        }
        Ok(())
    }

    fn run(&mut self, name: &str, parameters: &[Option<&[u8]>]) -> Result<(), Fault> {
        self.statements += 1;
        self.writer.bind_execute(name, parameters.iter().copied())
    }

    /// Runs a statement about the session's own row, whose key are the first parameters.
    fn run_own(&mut self, name: &str, more: &[String]) -> Result<(), Fault> {
        let lane = match &self.mark {
            Mark::Stream => None,
            Mark::Lane(lane, _) => Some(lane.to_string()),
        };
        let stream = self.stream.name.clone();
        let parameters: Vec<_> =
            [&stream].into_iter().chain(&lane).chain(more).map(|text| Some(text.as_bytes())).collect();
        self.run(name, &parameters)
    }

    /// Waits for what the target says to the batch so far.
    pub(super) async fn verdict(&mut self) -> Result<(), Refused> {
        self.end_copy()?;
        self.end_run()?;
        let report = self.sync().await?;
        self.take(report)
    }

    fn take(&mut self, report: Report) -> Result<(), Refused> {
        self.check(report)?;
        self.is_ours = true;
        self.copied = 0;
        Ok(())
    }

    /// Lets a client work inside the batch in hand, whose changes must have got their verdict.
    pub(super) async fn inside<T>(
        &mut self,
        inside: &mut Inside,
        work: impl AsyncFnOnce(&Client) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.divert(Some(inside.elsewhere.clone()));
        let Inside { client, line, answers, .. } = inside;
        let mut work = pin!(work(client));
        let mut outcome = None;
        let served = loop {
            if outcome.is_some() && line.is_idle() {
                break Ok(());
            }
            tokio::select! {
                biased;
                done = &mut work, if outcome.is_none() => outcome = Some(done),
                Some(answer) = answers.recv() => line.answered(&answer),
                ended = self.reports.recv() => break Err(match ended {
                    Some(Err(fault)) => fault,
                    _ => Fault::retry("the connection to the target has ended"),
                }),
                message = line.next(), if outcome.is_none() => match message {
                    Ok(message) => {
                        self.writer.raw(&message);
                        if let Err(fault) = self.writer.flush().await {
                            break Err(fault);
                        }
                    }
                    Err(error) => break Err(Fault::retry(format!("a client of our own has ended: {error}"))),
                }
            }
        };
        self.divert(None);
        served.and(outcome.unwrap_or_else(|| Err(Fault::retry("a client of our own was left alone"))))
    }

    fn divert(&self, elsewhere: Option<mpsc::UnboundedSender<Vec<u8>>>) {
        *self.diverted.lock().unwrap_or_else(PoisonError::into_inner) = elsewhere;
    }

    /// Sends the last of a batch, the progress with it, and waits for nothing: [`Session::settle`] is to follow.
    pub(super) async fn send(&mut self, advance: Advance, share: Share) -> Result<(), Fault> {
        self.end_copy()?;
        self.end_run()?;
        faults::point("apply.after_last_change");
        let (lsn, time) = (advance.end.to_string(), advance.commit_time.to_string());
        let row = match self.mark {
            Mark::Stream => {
                let numbers = [u64::from(advance.xid), advance.transactions, advance.changes];
                [vec![lsn.clone(), time.clone()], numbers.map(|number| number.to_string()).to_vec()].concat()
            }
            Mark::Lane(..) => vec![lsn.clone(), share.lanes.to_string(), share.digest.to_string()],
        };
        self.run_own(WRITE, &row)?;
        if self.has_origin {
            self.run(ORIGIN, &[Some(lsn.as_bytes()), Some(time.as_bytes())])?;
        }
        self.writer.sync()?;
        self.is_sent = true;
        self.writer.flush().await?;
        faults::point("apply.after_progress");
        Ok(())
    }

    /// Checks every answer to a batch that was sent.
    pub(super) async fn settle(&mut self) -> Result<(), Refused> {
        let report = self.report().await?;
        self.take(report)
    }

    /// Asks for the commit of a batch that is settled, and waits for nothing: [`Session::committed`] is to follow.
    pub(super) async fn commit(&mut self) -> Result<(), Fault> {
        faults::point("apply.before_commit");
        self.run(COMMIT, &[])?;
        self.writer.sync()?;
        self.writer.flush().await?;
        faults::point("apply.after_commit_sent");
        Ok(())
    }

    /// The same with statements of our own just before: where one is refused nothing is committed, and [`Session::go_back`] goes back to the
    /// savepoint that was made before.
    pub(super) async fn commit_behind(&mut self, statements: &[String]) -> Result<(), Fault> {
        for sql in statements {
            self.writer.parse("", sql)?;
            self.run("", &[])?;
        }
        self.commit().await
    }

    /// Makes a savepoint in a batch that is settled.
    pub(super) async fn savepoint(&mut self, name: &str) -> Result<(), Refused> {
        self.execute_sql(&format!("SAVEPOINT {name}"), &[]).await?;
        self.verdict().await
    }

    /// Goes back to a savepoint, after a refusal.
    pub(super) async fn go_back(&mut self, name: &str) -> Result<(), Refused> {
        self.execute_sql(&format!("ROLLBACK TO SAVEPOINT {name}"), &[]).await?;
        self.verdict().await?;
        self.lost.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for the commit up to `end`. On an error the target is as before the batch, or, where the remedy is
    /// [`Remedy::Reread`], may have taken it.
    pub(super) async fn committed(&mut self, end: Position) -> Result<(), Refused> {
        let unknown = |fault| Fault { remedy: Remedy::Reread, ..fault };
        if let Some((_, fault)) = self.report().await.map_err(unknown)?.failed {
            return Err(Refused { statement: None, fault });
        }
        faults::point("apply.after_commit");
        self.progress = end;
        Ok(())
    }

    fn check(&self, report: Report) -> Result<(), Refused> {
        let expected = match &self.mark {
            Mark::Stream => format!("{} {}", self.progress, self.joining),
            Mark::Lane(_, epoch) => format!("{} {epoch}", self.progress),
        };
        // What was refused or did not fit may be so because of that.
        let is_told = report.failed.is_none() || report.value.is_some();
        if !self.is_ours && is_told && report.value.as_deref() != Some(&expected) {
            let found = report.value.unwrap_or_else(|| "gone".into());
            if matches!(self.mark, Mark::Stream) && found.starts_with(&format!("{} ", self.progress)) {
                return Err(others_tables().into());
            }
            let name = &self.stream.name;
            let message = format!("progress of '{name}' on the target is {found}, expected {expected}");
            return Err(Fault::reread(message)
                .hint("somebody else applies to this target or changed its progress")
                .into());
        }
        METER.gave_way.inc_by(report.gave_way);
        if let Some((statement, fault)) = report.failed {
            return Err(Refused { statement: Some(statement), fault });
        }
        if let Some((statement, tag)) = report.mismatch {
            let rows = tag.rsplit(' ').next().unwrap_or_default();
            let fault = Fault::stop(format!(
                "the change touched {rows} rows on the target where it must touch 1"
            ))
            .hint(
                "source and target differ: find out who else writes to the target, mend the row, run again",
            );
            return Err(Refused { statement: Some(statement), fault });
        }
        if report.copied != self.copied {
            let fault = Fault::stop(format!("COPY stored {} of {} rows", report.copied, self.copied))
                .hint("a trigger on the target leaves rows out");
            return Err(Refused { statement: Some(FIRST_CHANGE), fault });
        }
        Ok(())
    }

    /// Gives the batch in hand up.
    pub(super) async fn rollback(&mut self) -> Result<(), Fault> {
        if self.is_sent {
            self.report().await?;
        }
        self.end_copy()?;
        self.run.clear();
        self.run(ROLLBACK, &[])?;
        let report = self.sync().await?;
        if report.failed.is_some() {
            // The ROLLBACK was skipped, as everything is after an error until a Sync.
            self.run(ROLLBACK, &[])?;
            self.sync().await?;
        }
        self.lost.store(false, Ordering::Relaxed);
        // What came after an error was skipped, the preparing of statements too; which, nobody knows.
        self.close_prepared()
    }

    /// Makes all commits so far survive a crash of the target; they are made with `synchronous_commit` off, which can lose
    /// the last ones, rows and progress together.
    pub(super) async fn make_durable(&mut self) -> Result<(), Fault> {
        self.note(self.progress).await
    }

    /// Says in the progress row that everything up to a position is applied, also where nothing of it was for this target, and makes
    /// that and all before it durable.
    pub(super) async fn note(&mut self, position: Position) -> Result<(), Fault> {
        for sql in ["BEGIN", "SET LOCAL synchronous_commit = on"] {
            self.writer.parse("", sql)?;
            self.run("", &[])?;
        }
        let update = "UPDATE pgsluice.progress SET lsn = $2, updated_at = pg_catalog.now() \
                      WHERE stream = $1 AND lsn = $3 AND joining = $4";
        self.writer.parse("", update)?;
        let (stream, from, to) = (self.stream.name.clone(), self.progress.to_string(), position.to_string());
        let joining = self.joining.to_string();
        self.run("", &[&stream, &to, &from, &joining].map(|text| Some(text.as_bytes())))?;
        self.run(COMMIT, &[])?;
        let report = self.sync().await?;
        if let Some((_, fault)) = report.failed {
            return Err(fault);
        }
        if report.mismatch.is_some() {
            let message =
                format!("progress of '{stream}' on the target is not {from} any more, or of other tables");
            return Err(
                Fault::reread(message).hint("somebody else applies to this target or changed its progress")
            );
        }
        self.progress = position;
        Ok(())
    }

    /// Waits for all answers so far.
    async fn sync(&mut self) -> Result<Report, Fault> {
        self.writer.sync()?;
        self.report().await
    }

    /// Waits for the answers up to the Sync that was written.
    async fn report(&mut self) -> Result<Report, Fault> {
        self.statements = 0;
        self.is_sent = false;
        // A broken connection shows in the reading half too, which knows why.
        let sent = self.writer.flush().await;
        match self.reports.recv().await {
            Some(report) => report,
            None => Err(sent.err().unwrap_or_else(|| Fault::retry("the connection to the target has ended"))),
        }
    }
}

/// The connection ends with the session: under TLS both halves must be gone for that, and its backend holds the fence.
impl Drop for Session {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// What is left out is not what it was: all is read again.
pub(super) fn others_tables() -> Fault {
    Fault::reread("other tables than before are left out, for a backfill")
}

async fn connect(target: &Conninfo, client_encoding: &str) -> Result<Pipeline, Fault> {
    let options = PipelineOptions {
        application_name: "pgsluice apply",
        client_encoding: Some(client_encoding),
        synchronous_commit: Some("off"),
        replica_role: true,
    };
    Pipeline::connect(target, &options).await
}
