//! The control plane: an ordinary client (tokio-postgres) for look-ups, DDL and whatever is not in a hurry.
//!
//! The connection is made and authenticated by this room's own code, so that every connection obeys the same
//! rules. Then it is handed over: the client's start-up message goes nowhere, and it reads the greeting that the
//! server has already given.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use super::conninfo::Conninfo;
use super::frames::{ReadHalf, WriteHalf};
use super::server_message::ServerMessage;
use super::session::Session;
use super::wire::{self, Wire};
use crate::model::Fault;

/// Connects, with the settings of the session pinned and an empty `search_path`: names must be qualified.
/// The connection's task ends by itself when the client is dropped.
pub async fn connect(conninfo: &Conninfo, application_name: &str) -> Result<Client, Fault> {
    // The client insists on UTF-8.
    let session = Session { application_name, client_encoding: Some("UTF8"), ..Session::default() };
    let wire = wire::connect(conninfo, &session).await?;
    let place = wire.place.clone();
    let mut config = Config::new();
    config.user(conninfo.user()).ssl_mode(SslMode::Disable);
    let (client, connection) = config
        .connect_raw(HandedOver::new(wire), NoTls)
        .await
        .map_err(|error| fault(&error).context(&place))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Each request in flight has failed with it already.
            tracing::debug!(server = %place, %error, "control connection ended");
        }
    });
    Ok(client)
}

/// A client that speaks through `stream` to somebody who has the connection to the server. What it says first is a start-up message,
/// to which it has to find [`GREETING`] as the answer.
pub async fn through(stream: tokio::io::DuplexStream) -> Result<Client, Fault> {
    let mut config = Config::new();
    config.user("nobody").ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|error| fault(&error))?;
    tokio::spawn(connection);
    Ok(client)
}

/// AuthenticationOk and ReadyForQuery.
pub const GREETING: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// What an error of the client leaves to be done.
pub fn fault(error: &tokio_postgres::Error) -> Fault {
    if let Some(answer) = error.as_db_error() {
        let optional = |text: Option<&str>| text.map(str::to_owned);
        return ServerMessage {
            severity: answer.severity().into(),
            sqlstate: answer.code().code().into(),
            message: answer.message().into(),
            detail: optional(answer.detail()),
            hint: optional(answer.hint()),
            table: match (answer.schema(), answer.table()) {
                (Some(schema), Some(table)) => Some(format!("{schema}.{table}")),
                (_, table) => optional(table),
            },
        }
        .into_fault();
    }
    let cause = std::error::Error::source(error);
    let lost = error.is_closed() || cause.is_some_and(|cause| cause.is::<io::Error>());
    let message = match cause {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    // The request may have been carried out before the connection broke.
    if lost {
        Fault::reread(format!("connection to the server lost: {message}"))
    } else {
        Fault::stop(message)
    }
}

/// A connection past its start-up, for a client that wants to go through it.
struct HandedOver {
    stream: Join<ReadHalf, WriteHalf>,
    /// What the server said at its start, and `read` bytes of it are read.
    greeting: Vec<u8>,
    read: usize,
    startup: Startup,
}

/// How much of the client's start-up message was swallowed.
enum Startup {
    Length(Vec<u8>),
    Body(usize),
    Swallowed,
}

impl HandedOver {
    fn new(wire: Wire) -> HandedOver {
        let mut greeting = Vec::new();
        let mut frame = |tag: u8, body: &[u8]| {
            greeting.push(tag);
            greeting.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            greeting.extend_from_slice(body);
        };
        frame(b'R', &[0; 4]);
        for (name, value) in &wire.parameters {
            frame(b'S', format!("{name}\0{value}\0").as_bytes());
        }
        if !wire.backend_key.is_empty() {
            frame(b'K', &wire.backend_key);
        }
        frame(b'Z', b"I");
        let (read, ahead) = wire.incoming.into_parts();
        greeting.extend_from_slice(&ahead);
        let stream = tokio::io::join(read, wire.outgoing.into_half());
        HandedOver { stream, greeting, read: 0, startup: Startup::Length(Vec::new()) }
    }
}

impl AsyncRead for HandedOver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.greeting.get(self.read..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = rest.len().min(into.remaining());
        into.put_slice(rest.get(..count).unwrap_or_default());
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandedOver {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match &mut this.startup {
            Startup::Swallowed => Pin::new(&mut this.stream).poll_write(context, bytes),
            Startup::Length(length) => {
                let count = bytes.len().min(4 - length.len());
                length.extend(bytes.iter().take(count));
                if let Some(length) = length.first_chunk::<4>() {
                    this.startup = match u32::from_be_bytes(*length).saturating_sub(4) {
                        0 => Startup::Swallowed,
                        rest => Startup::Body(rest as usize),
                    };
                }
                Poll::Ready(Ok(count))
            }
            Startup::Body(left) => {
                let count = bytes.len().min(*left);
                *left -= count;
                if *left == 0 {
                    this.startup = Startup::Swallowed;
                }
                Poll::Ready(Ok(count))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
