//! A connection from the first byte to ReadyForQuery: which host, with which encryption, as whom, with which
//! settings of the session. Replication, pipeline and control all begin here.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::auth::{self, Circumstances};
use super::conninfo::{Conninfo, Host, SslMode, TargetSession};
use super::dial::{self, Encryption, Undialled};
use super::frames::{Incoming, Outgoing, put_string};
use super::server_message::ServerMessage;
use super::sql::quote_literal;
use crate::model::{Fault, Remedy};

/// Settings that make values print as the same text wherever they come from, and that keep the server from ending
/// work that takes long. They go out as start-up options, which outrank what role and database have set.
const PINNED: [(&str, &str); 11] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("timezone", "UTC"),
    ("lc_monetary", "C"),
    ("xmlbinary", "base64"),
    ("search_path", ""),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// As [`PINNED`], but unknown to servers older than a version; an unknown one among the start-up options would be
/// the end of the connection, so these are set after it.
const PINNED_SINCE: [(u32, &str); 2] = [(140_000, "idle_session_timeout"), (170_000, "transaction_timeout")];

/// What a session is for.
#[derive(Clone, Copy, Default)]
pub(super) struct Session<'a> {
    pub(super) application_name: &'a str,
    pub(super) replication: bool,
    /// `None`: that of the server, so that bytes come and go as they are stored.
    pub(super) client_encoding: Option<&'a str>,
    /// Besides the pinned ones.
    pub(super) settings: &'a [(&'a str, &'a str)],
}

/// An open connection, ready for a query.
pub(super) struct Wire {
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    /// What the server reported of itself.
    pub(super) parameters: BTreeMap<String, String>,
    /// Body of BackendKeyData.
    pub(super) backend_key: Vec<u8>,
    /// `host:port`, for messages.
    pub(super) place: String,
}

/// Rows of a simple query, as text.
pub type Rows = Vec<Vec<Option<String>>>;

enum Failure {
    /// Another address or host may do better.
    Next(Fault),
    /// As `Next`; where TLS is merely preferred, this one may do better without.
    Handshake(Fault),
    /// The server has spoken: others are not asked.
    Final(Fault),
}

/// Connects to the first host that fits.
pub(super) async fn connect(conninfo: &Conninfo, session: &Session<'_>) -> Result<Wire, Fault> {
    let targets: &[TargetSession] = match conninfo.target_session {
        TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
        other => &[other],
    };
    let mut faults = Vec::new();
    for target in targets {
        for host in &conninfo.hosts {
            match first_address(conninfo, host, session, *target).await {
                Ok(wire) => return Ok(wire),
                Err(Failure::Final(fault)) => return Err(fault),
                Err(Failure::Next(fault) | Failure::Handshake(fault)) => faults.push(fault),
            }
        }
    }
    Err(together(faults))
}

/// One fault out of those of all hosts: to be tried again if one of them is.
fn together(faults: Vec<Fault>) -> Fault {
    let mut messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    messages.dedup();
    let message = messages.join("; ");
    let retry = faults.iter().any(|fault| fault.remedy == Remedy::Retry);
    let Some(mut fault) = faults.into_iter().next_back() else {
        return Fault::usage("no host to connect to");
    };
    fault.message = message;
    if retry {
        fault.remedy = Remedy::Retry;
    }
    fault
}

async fn first_address(
    conninfo: &Conninfo,
    host: &Host,
    session: &Session<'_>,
    target: TargetSession,
) -> Result<Wire, Failure> {
    let mut faults = Vec::new();
    let addresses = match limited(conninfo, dial::addresses(host)).await {
        Ok(addresses) => addresses,
        Err(fault) => return Err(Failure::Next(fault)),
    };
    for address in addresses {
        match any_encryption(conninfo, host, address, session, target).await {
            Err(Failure::Next(fault) | Failure::Handshake(fault)) => faults.push(fault.context(host)),
            Err(Failure::Final(fault)) => return Err(Failure::Final(fault.context(host))),
            Ok(wire) => return Ok(wire),
        }
    }
    Err(Failure::Next(together(faults)))
}

async fn limited<T>(conninfo: &Conninfo, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let Some(limit) = conninfo.connect_timeout else { return work.await };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Fault::retry(format!("no answer within {} s", limit.as_secs()))
            .hint("connect_timeout sets how long to wait; a firewall may drop the packets"))
    })
}

/// `prefer` and `allow` have a second way; the other modes have one only.
async fn any_encryption(
    conninfo: &Conninfo,
    host: &Host,
    address: Option<SocketAddr>,
    session: &Session<'_>,
    target: TargetSession,
) -> Result<Wire, Failure> {
    let attempt = async |encryption| {
        // The inner result is the server's word, the outer one what came before it.
        let work = async { Ok(one(conninfo, host, address, session, target, encryption).await) };
        limited(conninfo, work).await.map_err(Failure::Next)?
    };
    let not_admitted = |fault: &Fault| fault.sqlstate.as_deref() == Some("28000");
    match conninfo.sslmode_for(host) {
        SslMode::Disable => attempt(Encryption::Off).await,
        SslMode::Allow => match attempt(Encryption::Off).await {
            Err(Failure::Final(fault)) if not_admitted(&fault) => attempt(Encryption::Demanded).await,
            other => other,
        },
        SslMode::Prefer => match attempt(Encryption::Offered).await {
            Err(Failure::Final(fault)) if not_admitted(&fault) => attempt(Encryption::Off).await,
            Err(Failure::Handshake(_)) => attempt(Encryption::Off).await,
            other => other,
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => attempt(Encryption::Demanded).await,
    }
}

async fn one(
    conninfo: &Conninfo,
    host: &Host,
    address: Option<SocketAddr>,
    session: &Session<'_>,
    target: TargetSession,
    encryption: Encryption,
) -> Result<Wire, Failure> {
    let dialled =
        dial::dial(conninfo, host, address, encryption).await.map_err(|undialled| match undialled {
            Undialled::Handshake(fault) => Failure::Handshake(fault),
            Undialled::Other(fault) => Failure::Next(fault),
        })?;
    let mut wire = Wire {
        incoming: Incoming::new(dialled.read),
        outgoing: Outgoing::new(dialled.write),
        parameters: BTreeMap::new(),
        backend_key: Vec::new(),
        place: host.to_string(),
    };
    let circumstances = Circumstances {
        conninfo,
        host,
        encrypted: dialled.encrypted,
        end_point: dialled.end_point.as_deref(),
    };
    let started = async {
        wire.start(conninfo, session).await?;
        auth::authenticate(&circumstances, &mut wire.incoming, &mut wire.outgoing).await?;
        wire.read_greeting().await
    };
    started.await.map_err(|fault| match fault.sqlstate.as_deref() {
        // Starting up, or the connection broke: the next host may serve.
        Some("57P03") => Failure::Next(fault),
        None if fault.remedy == Remedy::Retry => Failure::Next(fault),
        _ => Failure::Final(fault),
    })?;
    if !wire.fits(target).await.map_err(Failure::Next)? {
        let wanted = format!("the server is not what target_session_attrs asks for ({target:?})");
        return Err(Failure::Next(Fault::retry(wanted)));
    }
    wire.pin_rest(session).await.map_err(Failure::Final)?;
    Ok(wire)
}

impl Wire {
    async fn start(&mut self, conninfo: &Conninfo, session: &Session<'_>) -> Result<(), Fault> {
        const PROTOCOL_3_0: u32 = 3 << 16;
        let options = options(conninfo.options.as_deref(), session.settings);
        let application_name = conninfo.application_name.as_deref().unwrap_or(session.application_name);
        let mut parameters = vec![
            ("user", conninfo.user.as_str()),
            ("database", conninfo.database.as_str()),
            ("application_name", application_name),
            ("options", options.as_str()),
        ];
        if session.replication {
            parameters.push(("replication", "database"));
        }
        if let Some(encoding) = session.client_encoding {
            parameters.push(("client_encoding", encoding));
        }
        self.outgoing.untagged(|body| {
            body.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
            for (name, value) in parameters {
                put_string(body, name);
                put_string(body, value);
            }
            body.push(0);
        })?;
        self.outgoing.flush().await
    }

    async fn read_greeting(&mut self) -> Result<(), Fault> {
        loop {
            let frame = self.incoming.next().await?;
            match frame.tag {
                b'Z' => return Ok(()),
                b'E' => return Err(ServerMessage::parse(frame.body).into_fault()),
                b'K' => self.backend_key = frame.body.to_vec(),
                b'S' => {
                    let mut strings = frame.body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                    if let (Some(name), Some(value)) = (strings.next(), strings.next()) {
                        self.parameters.insert(name.into_owned(), value.into_owned());
                    }
                }
                _ => {}
            }
        }
    }

    async fn fits(&mut self, target: TargetSession) -> Result<bool, Fault> {
        if target == TargetSession::Any {
            return Ok(true);
        }
        let rows = self
            .simple(
                "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')",
            )
            .await?;
        let mut fields = rows.iter().flatten().flatten();
        let standby = fields.next().is_some_and(|value| value == "t");
        let read_only = fields.next().is_some_and(|value| value == "on");
        Ok(match target {
            TargetSession::Any | TargetSession::PreferStandby => true,
            TargetSession::ReadWrite => !read_only,
            TargetSession::ReadOnly => read_only,
            TargetSession::Primary => !standby,
            TargetSession::Standby => standby,
        })
    }

    async fn pin_rest(&mut self, session: &Session<'_>) -> Result<(), Fault> {
        let version = self.server_version_num();
        let settings = PINNED_SINCE.iter().filter(|(since, _)| version >= *since);
        let mut sql: String = settings.map(|(_, name)| format!("SET {name} = 0;")).collect();
        // The role may have one of its own, which would convert.
        let encodings = (self.parameter("server_encoding"), self.parameter("client_encoding"));
        if let (None, (Some(server), Some(client))) = (session.client_encoding, encodings)
            && server != client
        {
            sql.push_str(&format!("SET client_encoding = {}", quote_literal(server)));
        }
        if !sql.is_empty() {
            self.simple(&sql).await.map_err(|fault| fault.context("setting up the session"))?;
        }
        Ok(())
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// As the server's `server_version_num`, for example 150020.
    pub(super) fn server_version_num(&self) -> u32 {
        self.parameter("server_version").map_or(0, version_num)
    }

    /// Runs a simple query and gives its rows (of all statements, where there are several).
    pub(super) async fn simple(&mut self, sql: &str) -> Result<Rows, Fault> {
        simple(&mut self.incoming, &mut self.outgoing, sql).await
    }
}

pub(super) async fn simple(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    sql: &str,
) -> Result<Rows, Fault> {
    outgoing.frame(b'Q', |body| put_string(body, sql))?;
    outgoing.flush().await?;
    let (mut rows, mut failed) = (Rows::new(), None);
    loop {
        let frame = incoming.next().await?;
        match frame.tag {
            b'D' => {
                let row = Fields::new(frame.body)
                    .map(|field| field.map(|text| String::from_utf8_lossy(text).into_owned()));
                rows.push(row.collect());
            }
            b'E' => {
                let message = ServerMessage::parse(frame.body);
                if message.ends_session() {
                    return Err(message.into_fault());
                }
                failed.get_or_insert(message);
            }
            b'Z' => return failed.map_or(Ok(rows), |message| Err(message.into_fault())),
            b'G' | b'H' | b'W' => return Err(Fault::stop("a simple query can't be a COPY")),
            _ => {}
        }
    }
}

/// The fields of a DataRow, in order; `None` is null. Ends early on broken bytes.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a [u8]) -> Fields<'a> {
        // The count says nothing that the lengths don't.
        Fields { rest: body.get(2..).unwrap_or_default() }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.rest = rest;
            return Some(None);
        };
        let (field, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Some(field))
    }
}

/// The `options` of the start-up message: those of the user first, so that the pinned ones outrank them.
fn options(of_user: Option<&str>, settings: &[(&str, &str)]) -> String {
    let mut options = of_user.unwrap_or_default().to_owned();
    for (name, value) in PINNED.iter().chain(settings) {
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str("-c ");
        options.push_str(name);
        options.push('=');
        for character in value.chars() {
            if character == '\\' || character.is_ascii_whitespace() {
                options.push('\\');
            }
            options.push(character);
        }
    }
    options
}

/// `15.4 (Debian ...)` is 150004, `9.6.3` is 90603, `18beta1` is 180000.
fn version_num(text: &str) -> u32 {
    let number = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0).min(9999);
    match (part(), part()) {
        (major, minor) if major < 10 => major * 10_000 + minor * 100 + part(),
        (major, minor) => major * 10_000 + minor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_numbers() {
        for (text, number) in [
            ("15.20 (Debian 15.20-1.pgdg12+1)", 150_020),
            ("17.0", 170_000),
            ("18beta1", 180_000),
            ("19devel", 190_000),
            ("9.6.3", 90_603),
            ("", 0),
            ("nonsense", 0),
        ] {
            assert_eq!(version_num(text), number, "{text}");
        }
    }

    #[test]
    fn options_are_escaped_and_outrank_the_users() {
        let options = options(Some("-c timezone=Japan"), &[("application", r"a b\c")]);
        assert!(options.starts_with("-c timezone=Japan -c datestyle=ISO "));
        assert!(options.find("timezone=UTC") > options.find("timezone=Japan"));
        assert!(options.contains("-c search_path= -c "));
        assert!(options.ends_with(r"-c application=a\ b\\c"));
    }

    #[test]
    fn fields_stop_at_broken_bytes() {
        let row = b"\0\x03\0\0\0\x02hi\xff\xff\xff\xff\0\0\0\0";
        let fields: Vec<_> = Fields::new(row).collect();
        assert_eq!(fields, [Some(&b"hi"[..]), None, Some(&b""[..])]);
        assert_eq!(Fields::new(b"\0\x01\0\0\0\x09hi").count(), 0);
        assert_eq!(Fields::new(b"").count(), 0);
    }
}
