//! Proving who we are: SCRAM-SHA-256 with or without channel binding, MD5, clear text, or nothing
//! (PostgreSQL documentation, 55.2.1 and 55.3).
//!
//! What is let through without `require_auth`: SCRAM and a server that asks for nothing, always; a password in MD5
//! or clear text only where the bytes are encrypted or stay on this machine. Who must use it over an open network
//! says so: `require_auth=md5`.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};

use super::conninfo::{AuthMethod, ChannelBinding, Conninfo, Host};
use super::frames::{Incoming, Outgoing, put_string};
use super::server_message::ServerMessage;
use crate::model::Fault;

pub(super) struct Circumstances<'a> {
    pub(super) conninfo: &'a Conninfo,
    pub(super) host: &'a Host,
    pub(super) encrypted: bool,
    pub(super) end_point: Option<&'a [u8]>,
}

/// One request of the server.
enum Request {
    Ok,
    ClearText,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    Continue(Vec<u8>),
    Final(Vec<u8>),
    Other(u32),
}

/// Answers what the server asks until it is content.
pub(super) async fn authenticate(
    circumstances: &Circumstances<'_>,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
) -> Result<(), Fault> {
    let mut proved: Option<AuthMethod> = None;
    loop {
        match next_request(incoming).await? {
            Request::Ok => return circumstances.admit_end(proved),
            Request::ClearText => {
                circumstances.admit(AuthMethod::Password)?;
                let password = circumstances.password()?;
                outgoing.frame(b'p', |body| put_string(body, password))?;
                proved = Some(AuthMethod::Password);
            }
            Request::Md5(salt) => {
                circumstances.admit(AuthMethod::Md5)?;
                let (user, password) = (circumstances.conninfo.user.as_bytes(), circumstances.password()?);
                let hash = md5_hash(user, password.as_bytes(), salt);
                outgoing.frame(b'p', |body| put_string(body, &hash))?;
                proved = Some(AuthMethod::Md5);
            }
            Request::Sasl(mechanisms) => {
                circumstances.admit(AuthMethod::ScramSha256)?;
                scram(circumstances, &mechanisms, incoming, outgoing).await?;
                proved = Some(AuthMethod::ScramSha256);
            }
            Request::Continue(_) | Request::Final(_) => {
                return Err(Fault::stop("the server continues an authentication that was not begun"));
            }
            Request::Other(kind) => {
                return Err(Fault::stop(format!(
                    "the server asks for authentication method {kind}, which is not supported"
                ))
                .hint("pg_hba.conf should offer scram-sha-256 (not GSSAPI, SSPI or others) to this client"));
            }
        }
        outgoing.flush().await?;
    }
}

impl Circumstances<'_> {
    fn password(&self) -> Result<&str, Fault> {
        self.host.password.as_ref().map(|secret| secret.0.as_str()).ok_or_else(|| {
            Fault::stop(format!(
                "the server asks for a password for user \"{}\", and none was given",
                self.conninfo.user
            ))
            .hint("PGPASSWORD, a password file (~/.pgpass or PGPASSFILE), or a service file can hold it")
        })
    }

    /// Whether a method may be used here, before anything secret is sent.
    fn admit(&self, method: AuthMethod) -> Result<(), Fault> {
        if self.conninfo.channel_binding == ChannelBinding::Require && method != AuthMethod::ScramSha256 {
            return Err(Fault::stop(
                "channel_binding=require, but the server asks for a method without channel binding",
            ));
        }
        let name = match method {
            AuthMethod::None => "none",
            AuthMethod::Password => "password",
            AuthMethod::Md5 => "md5",
            AuthMethod::ScramSha256 => "scram-sha-256",
        };
        match &self.conninfo.require_auth {
            Some(admitted) if admitted.contains(&method) => Ok(()),
            Some(_) => Err(Fault::stop(format!("require_auth does not admit the method \"{name}\" that the server wants"))),
            None if matches!(method, AuthMethod::Password | AuthMethod::Md5) && !self.nobody_can_listen() => {
                Err(Fault::stop(format!(
                    "the server asks for a password by method \"{name}\" over an unencrypted connection; it was not sent"
                ))
                .hint(format!(
                    "use TLS (sslmode=require or stronger) or SCRAM; require_auth={name} admits it where the network is trusted"
                )))
            }
            None => Ok(()),
        }
    }

    fn nobody_can_listen(&self) -> bool {
        self.encrypted || self.host.endpoint.is_local()
    }

    /// The server is content: was enough proved?
    fn admit_end(&self, proved: Option<AuthMethod>) -> Result<(), Fault> {
        match proved {
            Some(_) => Ok(()),
            None => self.admit(AuthMethod::None),
        }
    }
}

async fn scram(
    circumstances: &Circumstances<'_>,
    mechanisms: &[String],
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
) -> Result<(), Fault> {
    let broken = |error: std::io::Error| Fault::stop(format!("SCRAM authentication failed: {error}"));
    let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
    let wanted = circumstances.conninfo.channel_binding;
    let end_point = circumstances.end_point.filter(|_| wanted != ChannelBinding::Disable);
    let (binding, mechanism) = match end_point {
        Some(hash) if offered(sasl::SCRAM_SHA_256_PLUS) => {
            (sasl::ChannelBinding::tls_server_end_point(hash.to_vec()), sasl::SCRAM_SHA_256_PLUS)
        }
        _ if wanted == ChannelBinding::Require => {
            return Err(Fault::stop("channel_binding=require, but this connection has no channel binding")
                .hint("it needs TLS, and a server that offers SCRAM-SHA-256-PLUS"));
        }
        // Tells the server that we could: if it could too, somebody in between hid it, and the server stops.
        Some(_) if offered(sasl::SCRAM_SHA_256) => (sasl::ChannelBinding::unrequested(), sasl::SCRAM_SHA_256),
        None if offered(sasl::SCRAM_SHA_256) => (sasl::ChannelBinding::unsupported(), sasl::SCRAM_SHA_256),
        _ => {
            return Err(Fault::stop(format!(
                "none of the server's SASL mechanisms is supported: {}",
                mechanisms.join(", ")
            )));
        }
    };
    let mut exchange = ScramSha256::new(circumstances.password()?.as_bytes(), binding);
    outgoing.frame(b'p', |body| {
        put_string(body, mechanism);
        body.extend_from_slice(&(exchange.message().len() as u32).to_be_bytes());
        body.extend_from_slice(exchange.message());
    })?;
    outgoing.flush().await?;
    let Request::Continue(challenge) = next_request(incoming).await? else { return Err(out_of_order()) };
    exchange.update(&challenge).map_err(broken)?;
    outgoing.frame(b'p', |body| body.extend_from_slice(exchange.message()))?;
    outgoing.flush().await?;
    let Request::Final(proof) = next_request(incoming).await? else { return Err(out_of_order()) };
    exchange.finish(&proof).map_err(broken)
}

fn out_of_order() -> Fault {
    Fault::stop("the server's SCRAM messages came out of order")
}

async fn next_request(incoming: &mut Incoming) -> Result<Request, Fault> {
    loop {
        let frame = incoming.next().await?;
        match frame.tag {
            b'R' => {
                return parse(frame.body)
                    .ok_or_else(|| Fault::stop("the server sent a broken authentication request"));
            }
            b'E' => return Err(ServerMessage::parse(frame.body).into_fault()),
            b'N' => {}
            b'v' => return Err(Fault::stop("the server does not speak version 3.0 of the protocol")),
            tag => {
                return Err(Fault::stop(format!(
                    "message '{}' in the middle of authentication",
                    tag.escape_ascii()
                )));
            }
        }
    }
}

fn parse(body: &[u8]) -> Option<Request> {
    let (kind, rest) = body.split_first_chunk::<4>()?;
    Some(match u32::from_be_bytes(*kind) {
        0 => Request::Ok,
        3 => Request::ClearText,
        5 => Request::Md5(*rest.first_chunk()?),
        10 => Request::Sasl(
            rest.split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect(),
        ),
        11 => Request::Continue(rest.to_vec()),
        12 => Request::Final(rest.to_vec()),
        other => Request::Other(other),
    })
}
