//! Answers over HTTP: the page, REST, metrics. Hides connections and their limits.
//!
//! Who hangs costs a socket until his time is over, and nobody else anything. Reading needs no token: there is nothing of a row in any
//! answer. Writing does, and is refused where none was set.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::model::{Fault, Position};
use crate::pg::{Conninfo, control, inspect};
use crate::sentinel::{Control, Home, Sentinel};

use super::board::Board;

/// The page: one file, nothing from elsewhere.
const PAGE: &str = include_str!("page.html");

/// Connections at a time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 512;
/// How long a request's head may take, and so how long a connection may stay without one.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last at all, so that one who reads nothing is not kept for ever.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(120);
const BODY_BYTES_MAX: usize = 4 << 10;
const TOKEN_BYTES_MIN: usize = 16;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl std::str::FromStr for Listen {
    type Err = String;

    /// `9187`, `:9187`, `127.0.0.1:9187`, `[::1]:9187`. A port alone is on loopback.
    fn from_str(text: &str) -> Result<Listen, String> {
        let loopback = |port| Listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        let port = text.strip_prefix(':').unwrap_or(text);
        if let Ok(port) = port.parse() {
            return Ok(loopback(port));
        }
        let text = text.replacen("localhost:", "127.0.0.1:", 1);
        text.parse().map(Listen).map_err(|_| format!("'{text}' is no ADDRESS:PORT, such as 127.0.0.1:9187"))
    }
}

/// What is behind the door, besides the board.
pub(super) struct Door {
    pub home: Home,
    /// For an endpos of `current`.
    pub source: Option<Conninfo>,
    /// Only this machine is meant to reach it.
    pub is_loopback: bool,
    /// Who has it may write.
    pub token: Option<String>,
}

impl Door {
    /// A token that can be guessed is none.
    pub(super) fn checked(self) -> Result<Door, Fault> {
        match &self.token {
            Some(token) if token.len() < TOKEN_BYTES_MIN => {
                Err(Fault::usage(format!("the token has fewer than {TOKEN_BYTES_MIN} characters"))
                    .hint("make one with: openssl rand -hex 24"))
            }
            _ => Ok(self),
        }
    }

    /// Compares all of it whatever differs first, so that time tells nothing.
    fn opens(&self, given: Option<&HeaderValue>) -> bool {
        let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match (&self.token, given) {
            (Some(token), Some(given)) => blake3::hash(token.as_bytes()) == blake3::hash(given),
            _ => false,
        }
    }
}

/// Takes the address at once, so that what is wrong with it is said before anything begins.
pub(super) fn bind(listen: Listen) -> Result<std::net::TcpListener, Fault> {
    let fault = |error: std::io::Error| {
        Fault::stop(format!("can't listen on {}: {error}", listen.0))
            .hint("choose another port with --listen")
    };
    let listener = std::net::TcpListener::bind(listen.0).map_err(fault)?;
    listener.set_nonblocking(true).map_err(fault)?;
    Ok(listener)
}

/// Answers until it is dropped.
pub(super) async fn serve(listener: TcpListener, board: Arc<Board>, door: Arc<Door>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: they come back.
                tracing::debug!(%error, "a connection to the status page could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (board, door) = (Arc::clone(&board), Arc::clone(&door));
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CONNECTION_PATIENCE, connection(stream, board, door)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, board: Arc<Board>, door: Arc<Door>) {
    let service = service_fn(move |request| {
        let (board, door) = (Arc::clone(&board), Arc::clone(&door));
        async move { Ok::<_, std::convert::Infallible>(answer(request, &board, &door).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::trace!(%error, "a connection to the status page has ended");
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, board: &Board, door: &Door) -> Answer {
    board.exposition().count_request();
    if door.is_loopback && !names_loopback(request.headers().get(HOST)) {
        return refused(
            StatusCode::MISDIRECTED_REQUEST,
            "this is served for this machine: ask for 127.0.0.1 or localhost",
        );
    }
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::PUT, "/sentinel") => put_sentinel(request, door).await,
        (&Method::GET | &Method::HEAD, path) => get(path, board),
        (_, "/sentinel") => refused(StatusCode::METHOD_NOT_ALLOWED, "only GET and PUT"),
        _ => refused(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
    }
}

fn get(path: &str, board: &Board) -> Answer {
    let shown = board.shown();
    match path {
        "/" => with(StatusCode::OK, "text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes())),
        "/sentinel" => match shown.control {
            Some(control) => json_answer(StatusCode::OK, json!(control)),
            None => refused(StatusCode::SERVICE_UNAVAILABLE, "the sentinel was not seen yet"),
        },
        "/status" => json_answer(StatusCode::OK, shown.status_json.clone()),
        "/tables" => json_answer(StatusCode::OK, shown.tables_json.clone()),
        "/history" => json_answer(StatusCode::OK, shown.history_json.clone()),
        "/healthz" => match shown.is_alive {
            true => json_answer(StatusCode::OK, json!({"alive": true})),
            false => json_answer(StatusCode::SERVICE_UNAVAILABLE, json!({"alive": false})),
        },
        "/readyz" => match &shown.unready {
            None => json_answer(StatusCode::OK, json!({"ready": true})),
            Some(why) => json_answer(StatusCode::SERVICE_UNAVAILABLE, json!({"ready": false, "reason": why})),
        },
        "/metrics" => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            with(StatusCode::OK, kind, board.exposition().text().into())
        }
        _ => match path.strip_prefix("/tables/").and_then(unescaped) {
            Some(name) => {
                let tables = shown.status.as_ref().map(|status| status.tables()).unwrap_or_default();
                match tables.into_iter().find(|table| table.name == name) {
                    Some(table) => json_answer(StatusCode::OK, json!(table)),
                    None => refused(StatusCode::NOT_FOUND, "the log has no change of a table of that name"),
                }
            }
            None => refused(StatusCode::NOT_FOUND, "nothing is here; see docs/SERVE.md"),
        },
    }
}

/// What may be changed; what is not named stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    /// An LSN, `current`, or `0/0` for never.
    endpos: Option<String>,
    apply: Option<bool>,
}

async fn put_sentinel(request: Request<Incoming>, door: &Door) -> Answer {
    if !door.opens(request.headers().get(AUTHORIZATION)) {
        let why = match door.token {
            Some(_) => "the token is missing or wrong: Authorization: Bearer TOKEN",
            None => "read only: start with --token-file to change anything here",
        };
        return refused(
            if door.token.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN },
            why,
        );
    }
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or was cut off"),
    };
    let change: Change = match serde_json::from_slice(&body) {
        Ok(change) => change,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let endpos = match change.endpos.as_deref() {
        None => None,
        Some("current") => match current(door).await {
            Ok(position) => Some(position),
            Err(fault) => return refused(StatusCode::BAD_GATEWAY, &fault.message),
        },
        Some(text) => match text.parse::<Position>() {
            Ok(position) => Some(position),
            Err(error) => {
                return refused(StatusCode::BAD_REQUEST, &format!("endpos: {error}, nor 'current'"));
            }
        },
    };
    let home = door.home.clone();
    let changed = tokio::task::spawn_blocking(move || {
        Sentinel::open(&home)?.update(|control| {
            control.endpos = endpos.unwrap_or(control.endpos);
            control.apply = change.apply.unwrap_or(control.apply);
        })
    });
    let changed = changed.await.unwrap_or_else(|_| Err(Fault::stop("changing the sentinel has panicked")));
    if let Ok(control) = &changed {
        tracing::info!(endpos = %control.endpos, apply = control.apply, "the sentinel was changed over HTTP");
    }
    sentinel_answer(changed)
}

async fn current(door: &Door) -> Result<Position, Fault> {
    let Some(source) = &door.source else {
        return Err(Fault::usage("'current' asks the source, and none was given to this process"));
    };
    let client = control::connect(source, "pgsluice sentinel").await?;
    inspect::current_position(&client).await
}

fn sentinel_answer(control: Result<Control, Fault>) -> Answer {
    match control {
        Ok(control) => json_answer(StatusCode::OK, json!(control)),
        Err(fault) => refused(StatusCode::BAD_GATEWAY, &fault.message),
    }
}

fn json_answer(status: StatusCode, body: impl JsonBytes) -> Answer {
    with(status, "application/json", body.bytes())
}

fn refused(status: StatusCode, why: &str) -> Answer {
    json_answer(status, json!({"error": why}))
}

fn with(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        ("content-type", kind),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        // The page has its style and its script inside; nothing may come from elsewhere, nor frame it.
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// What can be an answer's body.
trait JsonBytes {
    fn bytes(self) -> Bytes;
}

impl JsonBytes for Bytes {
    fn bytes(self) -> Bytes {
        self
    }
}

impl JsonBytes for serde_json::Value {
    fn bytes(self) -> Bytes {
        self.to_string().into()
    }
}

/// Whether a request is meant for this machine: a page from elsewhere whose name was made to lead here says that name.
fn names_loopback(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// Undoes percent-encoding; none where that is broken.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit()? << 4 | digit()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_loopback() {
        for text in ["9187", ":9187", "127.0.0.1:9187", "localhost:9187"] {
            assert_eq!(text.parse::<Listen>().unwrap().0.to_string(), "127.0.0.1:9187", "{text}");
        }
        assert_eq!("[::1]:1".parse::<Listen>().unwrap().0.to_string(), "[::1]:1");
        for text in ["", "here", "127.0.0.1", "70000", "a:1"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_come_percent_encoded() {
        assert_eq!(unescaped("public.a%20b%C3%A4").unwrap(), "public.a bä");
        for broken in ["%", "%2", "%zz", "%ff", "%+1"] {
            assert_eq!(unescaped(broken), None, "{broken}");
        }
    }

    #[test]
    fn other_names_than_this_machines_are_not_answered() {
        let named = |host: &'static str| names_loopback(Some(&HeaderValue::from_static(host)));
        for host in ["localhost", "localhost:9187", "127.0.0.1:9187", "[::1]:9187", "[::1]"] {
            assert!(named(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9187", "localhost.evil.example", "", "127.0.0.1.evil.example:1"]
        {
            assert!(!named(host), "{host}");
        }
    }

    #[test]
    fn only_the_whole_token_opens() {
        let home = Home::Folder("/nowhere".into());
        let door = Door {
            home: home.clone(),
            source: None,
            is_loopback: true,
            token: Some("0123456789abcdef".into()),
        }
        .checked()
        .unwrap();
        let given = |text: &'static str| door.opens(Some(&HeaderValue::from_static(text)));
        assert!(given("Bearer 0123456789abcdef"));
        for wrong in ["Bearer 0123456789abcde", "0123456789abcdef", "Bearer ", "Bearer 0123456789abcdef0"] {
            assert!(!given(wrong), "{wrong}");
        }
        assert!(!door.opens(None));
        let short = Door { home, source: None, is_loopback: true, token: Some("short".into()) };
        assert!(short.checked().is_err());
    }
}
