//! A connection from the first byte to ReadyForQuery: which host, with which encryption, as whom, with which
//! settings of the session. Replication, pipeline and control all begin here.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::auth::{self, Circumstances};
use super::conninfo::{Conninfo, Host, SslMode, TargetSession};
use super::dial::{self, Encryption, Undialled};
use super::frames::{Incoming, Outgoing, put_string};
use super::rows::{self, Rows};
use super::server_message::ServerMessage;
use super::session::{PINNED_SINCE, Session, options, version_num};
use super::sql::quote_literal;
use crate::model::{Fault, Remedy};

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
        rows::simple(&mut self.incoming, &mut self.outgoing, sql).await
    }
}
