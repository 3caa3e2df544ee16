//! The applier's connection: requests are written one after another without waiting, under one Sync for a whole
//! transaction, while another task reads what comes of them (PostgreSQL documentation, 55.2.3 and 55.2.4).
//!
//! The two halves must be driven at the same time: a writer that is not read from stops once the socket's buffers
//! are full in both directions. Results are text, and so are parameters unless the caller says otherwise.
//! After an error the server ignores everything up to the next Sync.

use super::array::put_array;
use super::conninfo::Conninfo;
use super::frames::{Frame, Incoming, Outgoing, put_string};
use super::rows::{self, Fields, Rows};
use super::server_message::ServerMessage;
use super::session::Session;
use super::sql::quote_ident;
use super::wire::{self, Wire};
use crate::model::{Fault, Format, Remedy};

/// [`PipelineWriter::drain`] writes once this much waits.
const DRAIN_SIZE: usize = 128 * 1024;

/// Keepalives that the server sends to an applier, in seconds and in number.
const KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

/// What an applier's session differs in.
#[derive(Clone, Copy, Debug)]
pub struct PipelineOptions<'a> {
    pub application_name: &'a str,
    /// The encoding of statements and values; the server converts. `None`: that of the server.
    pub client_encoding: Option<&'a str>,
    /// `None`: as the server has it.
    pub synchronous_commit: Option<&'a str>,
    /// Sets `session_replication_role = replica`, so that ordinary triggers and foreign keys rest.
    pub replica_role: bool,
}

/// Both halves of a connection.
pub struct Pipeline {
    pub writer: PipelineWriter,
    pub reader: PipelineReader,
    server_version_num: u32,
}

impl Pipeline {
    pub async fn connect(conninfo: &Conninfo, options: &PipelineOptions<'_>) -> Result<Pipeline, Fault> {
        let mut settings = vec![("xmloption", "content"), ("standard_conforming_strings", "on")];
        // A backend whose client is gone keeps its locks until it notices; that must not take the system's two hours.
        settings.extend(KEEPALIVES);
        if let Some(level) = options.synchronous_commit {
            settings.push(("synchronous_commit", level));
        }
        let session = Session {
            application_name: options.application_name,
            replication: false,
            client_encoding: options.client_encoding,
            settings: &settings,
        };
        let mut wire = wire::connect(conninfo, &session).await?;
        if options.replica_role {
            wire.simple("SET session_replication_role = replica")
                .await
                .map_err(|fault| role_fault(fault, conninfo))?;
        }
        let server_version_num = wire.server_version_num();
        let Wire { incoming, outgoing, .. } = wire;
        Ok(Pipeline {
            writer: PipelineWriter { outgoing },
            reader: PipelineReader { incoming },
            server_version_num,
        })
    }

    pub fn server_version_num(&self) -> u32 {
        self.server_version_num
    }

    pub fn into_halves(self) -> (PipelineWriter, PipelineReader) {
        (self.writer, self.reader)
    }

    /// Runs SQL by itself and gives its rows. Nothing else may be under way.
    pub async fn simple(&mut self, sql: &str) -> Result<Rows, Fault> {
        rows::simple(&mut self.reader.incoming, &mut self.writer.outgoing, sql).await
    }
}

fn role_fault(fault: Fault, conninfo: &Conninfo) -> Fault {
    match fault.sqlstate.as_deref() {
        Some("42501") => {
            let user = quote_ident(conninfo.user());
            Fault::stop(format!("user {user} of the target may not set session_replication_role"))
                .sqlstate("42501")
                .hint(format!("as a superuser: GRANT SET ON PARAMETER session_replication_role TO {user} (PostgreSQL 15 and later)"))
        }
        _ => fault,
    }
}

/// Appends what `put` appends, behind its length. One beyond the server's limit is refused with the whole message.
fn put_sized(body: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let start = body.len();
    body.extend_from_slice(&[0; 4]);
    put(body);
    let length = (body.len() - start - 4) as u32;
    if let Some(place) = body.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// The writing half: everything is appended to one buffer until [`PipelineWriter::drain`] or
/// [`PipelineWriter::flush`].
pub struct PipelineWriter {
    pub(super) outgoing: Outgoing,
}

impl PipelineWriter {
    /// Prepares a statement under a name (the empty name: until the next one).
    pub fn parse(&mut self, name: &str, sql: &str) -> Result<(), Fault> {
        self.parse_typed(name, sql, &[])
    }

    /// The same with the types of its parameters (OIDs); 0, or what is missing, is left to the statement.
    pub fn parse_typed(&mut self, name: &str, sql: &str, types: &[u32]) -> Result<(), Fault> {
        let count = u16::try_from(types.len()).map_err(|_| too_many())?;
        self.outgoing.frame(b'P', |body| {
            put_string(body, name);
            put_string(body, sql);
            body.extend_from_slice(&count.to_be_bytes());
            types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
        })
    }

    /// Runs a prepared statement once, with parameters in text form. `None` is null.
    pub fn bind_execute<'a>(
        &mut self,
        name: &str,
        parameters: impl IntoIterator<Item = Option<&'a [u8]>>,
    ) -> Result<(), Fault> {
        self.bind_execute_in(Format::Text, name, parameters)
    }

    /// The same with parameters in either format.
    pub fn bind_execute_in<'a>(
        &mut self,
        format: Format,
        name: &str,
        parameters: impl IntoIterator<Item = Option<&'a [u8]>>,
    ) -> Result<(), Fault> {
        self.bind(name, format, parameters, |body, parameter| match parameter {
            Some(bytes) => put_sized(body, |body| body.extend_from_slice(bytes)),
            None => body.extend_from_slice(&(-1i32).to_be_bytes()),
        })
    }

    /// Runs a prepared statement once, whose parameters are all arrays, each given with its elements' type (OID).
    pub fn bind_arrays_execute<'a, A: ExactSizeIterator<Item = Option<&'a [u8]>>>(
        &mut self,
        name: &str,
        parameters: impl IntoIterator<Item = (u32, A)>,
    ) -> Result<(), Fault> {
        self.bind(name, Format::Binary, parameters, |body, (element, array)| {
            put_sized(body, |body| put_array(body, element, array));
        })
    }

    fn bind<P>(
        &mut self,
        name: &str,
        format: Format,
        parameters: impl IntoIterator<Item = P>,
        put: impl Fn(&mut Vec<u8>, P),
    ) -> Result<(), Fault> {
        let mut count = Some(0u16);
        let start = self.outgoing.buffer.len();
        self.outgoing.frame(b'B', |body| {
            // The unnamed portal, the statement, and one format for all parameters.
            body.push(0);
            put_string(body, name);
            body.extend_from_slice(&[0, 1, 0, format as u8]);
            let counted_at = body.len();
            body.extend_from_slice(&[0; 2]);
            for parameter in parameters {
                count = count.and_then(|count| count.checked_add(1));
                put(body, parameter);
            }
            if let (Some(count), Some(place)) = (count, body.get_mut(counted_at..counted_at + 2)) {
                place.copy_from_slice(&count.to_be_bytes());
            }
            // Results as text.
            body.extend_from_slice(&[0; 2]);
        })?;
        if count.is_none() {
            self.outgoing.buffer.truncate(start);
            return Err(too_many());
        }
        // Execute the unnamed portal, all rows.
        self.outgoing.buffer.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
        Ok(())
    }

    /// Forgets a prepared statement.
    pub fn close_statement(&mut self, name: &str) -> Result<(), Fault> {
        self.outgoing.frame(b'C', |body| {
            body.push(b'S');
            put_string(body, name);
        })
    }

    /// A piece of a COPY's rows, of any size below the limit of a message.
    pub fn copy_data(&mut self, rows: &[u8]) -> Result<(), Fault> {
        self.outgoing.frame(b'd', |body| body.extend_from_slice(rows))
    }

    pub fn copy_done(&mut self) -> Result<(), Fault> {
        self.outgoing.frame(b'c', |_| {})
    }

    /// Ends a COPY with an error.
    pub fn copy_fail(&mut self, reason: &str) -> Result<(), Fault> {
        self.outgoing.frame(b'f', |body| put_string(body, reason))
    }

    /// Asks the server to send the results so far; no barrier. Ignored by it during a COPY.
    pub fn flush_message(&mut self) -> Result<(), Fault> {
        self.outgoing.frame(b'H', |_| {})
    }

    /// Ends the pipeline: errors stop here, and [`Reply::Ready`] answers it.
    pub fn sync(&mut self) -> Result<(), Fault> {
        self.outgoing.frame(b'S', |_| {})
    }

    /// A whole message that somebody else has made.
    pub fn raw(&mut self, message: &[u8]) {
        self.outgoing.buffer.extend_from_slice(message);
    }

    /// Bytes that wait to be written.
    pub fn pending(&self) -> usize {
        self.outgoing.pending()
    }

    /// Writes what waits, if that is worth a system call. Cancel-safe.
    pub async fn drain(&mut self) -> Result<(), Fault> {
        if self.pending() >= DRAIN_SIZE { self.flush().await } else { Ok(()) }
    }

    /// Writes what waits. Cancel-safe.
    pub async fn flush(&mut self) -> Result<(), Fault> {
        self.outgoing.flush().await.map_err(outcome_unknown)
    }

    /// Says good-bye.
    pub async fn terminate(mut self) -> Result<(), Fault> {
        self.outgoing.frame(b'X', |_| {})?;
        self.outgoing.flush().await
    }
}

fn too_many() -> Fault {
    Fault::stop("a statement can have at most 65535 parameters")
}

/// A connection that broke may have carried out a COMMIT before.
fn outcome_unknown(mut fault: Fault) -> Fault {
    if fault.remedy == Remedy::Retry {
        fault.remedy = Remedy::Reread;
    }
    fault
}

/// State of the transaction at a ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

/// One answer of the server.
#[derive(Debug)]
pub enum Reply<'a> {
    ParseComplete,
    BindComplete,
    CloseComplete,
    /// A statement is done. `rows`: how many it touched, where it says so.
    CommandComplete {
        tag: &'a str,
        rows: Option<u64>,
    },
    DataRow(Fields<'a>),
    CopyInResponse,
    ReadyForQuery {
        status: TransactionStatus,
    },
    /// What follows is ignored by the server up to the next Sync; where the connection ends with it, the next
    /// read fails.
    Error(Fault),
    Notice {
        sqlstate: String,
        message: String,
    },
}

/// The reading half.
pub struct PipelineReader {
    pub(super) incoming: Incoming,
}

impl PipelineReader {
    /// The next answer out of what has been read already, without a system call.
    pub fn try_next(&mut self) -> Result<Option<Reply<'_>>, Fault> {
        self.skip_reports()?;
        match self.incoming.try_next().map_err(outcome_unknown)? {
            Some(frame) => reply(frame).map(Some),
            None => Ok(None),
        }
    }

    /// Reads more from the connection. Cancel-safe.
    pub async fn fill(&mut self) -> Result<(), Fault> {
        self.incoming.fill().await.map(drop).map_err(outcome_unknown)
    }

    /// The next answer, waiting for it. Cancel-safe.
    pub async fn next(&mut self) -> Result<Reply<'_>, Fault> {
        self.skip_reports()?;
        while !self.incoming.has_next().map_err(outcome_unknown)? {
            self.fill().await?;
            self.skip_reports()?;
        }
        self.try_next()?.ok_or_else(|| Fault::reread("the server sent an empty message"))
    }

    /// The next answer that tells something, without the completions of Parse, Bind and Close, out of what has been read.
    pub fn try_result(&mut self) -> Result<Option<Reply<'_>>, Fault> {
        self.skip_reports()?;
        while matches!(self.incoming.next_tag(), Some(b'1' | b'2' | b'3'))
            && self.incoming.has_next().map_err(outcome_unknown)?
        {
            self.incoming.try_next()?;
            self.skip_reports()?;
        }
        self.try_next()
    }

    /// As [`PipelineReader::try_result`], waiting for it. Cancel-safe.
    pub async fn next_result(&mut self) -> Result<Reply<'_>, Fault> {
        loop {
            self.skip_reports()?;
            if !self.incoming.has_next().map_err(outcome_unknown)? {
                self.fill().await?;
            } else if matches!(self.incoming.next_tag(), Some(b'1' | b'2' | b'3')) {
                self.incoming.try_next()?;
            } else {
                return self.next().await;
            }
        }
    }

    /// The next message of the server as it came, out of what has been read.
    pub fn try_raw(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let frame = self.incoming.try_next().map_err(outcome_unknown)?;
        Ok(frame.map(|frame| {
            let mut bytes = vec![frame.tag];
            bytes.extend_from_slice(&(frame.body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(frame.body);
            bytes
        }))
    }

    /// ParameterStatus, NotificationResponse, NoData and the like: nobody waits for them.
    fn skip_reports(&mut self) -> Result<(), Fault> {
        while matches!(self.incoming.next_tag(), Some(b'S' | b'A' | b'n' | b't' | b'T'))
            && self.incoming.has_next()?
        {
            self.incoming.try_next()?;
        }
        Ok(())
    }
}

fn reply(frame: Frame<'_>) -> Result<Reply<'_>, Fault> {
    Ok(match frame.tag {
        b'1' => Reply::ParseComplete,
        b'2' => Reply::BindComplete,
        b'3' => Reply::CloseComplete,
        b'C' => {
            let tag = frame.body.strip_suffix(&[0]).unwrap_or(frame.body);
            let tag = std::str::from_utf8(tag).unwrap_or_default();
            let rows = tag.rsplit_once(' ').and_then(|(_, rows)| rows.parse().ok());
            Reply::CommandComplete { tag, rows }
        }
        // An empty statement.
        b'I' => Reply::CommandComplete { tag: "", rows: None },
        b'D' => Reply::DataRow(Fields::new(frame.body)),
        b'G' => Reply::CopyInResponse,
        b'Z' => Reply::ReadyForQuery {
            status: match frame.body.first() {
                Some(b'I') => TransactionStatus::Idle,
                Some(b'T') => TransactionStatus::InTransaction,
                _ => TransactionStatus::Failed,
            },
        },
        b'E' => {
            let message = ServerMessage::parse(frame.body);
            // A session that is ended while it waits for synchronous replication has committed.
            let ends = message.ends_session();
            let fault = message.into_fault();
            Reply::Error(if ends { outcome_unknown(fault) } else { fault })
        }
        b'N' => {
            let notice = ServerMessage::parse(frame.body);
            Reply::Notice { sqlstate: notice.sqlstate, message: notice.message }
        }
        tag => {
            return Err(Fault::stop(format!(
                "message '{}' is out of place in a pipeline",
                tag.escape_ascii()
            )));
        }
    })
}
