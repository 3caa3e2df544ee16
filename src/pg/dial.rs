//! From a host to a stream of bytes: TCP or unix socket, and TLS over it where the mode asks for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::conninfo::{Conninfo, Endpoint, Host, SslMode};
use super::frames::{ReadHalf, WriteHalf};
use super::tls;
use crate::model::Fault;

/// Whether TLS is used on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    Off,
    /// If the server has it.
    Offered,
    Demanded,
}

/// A connection before the protocol's first message.
pub(super) struct Dialled {
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    pub(super) encrypted: bool,
    /// The `tls-server-end-point` of the certificate that the server showed.
    pub(super) end_point: Option<Vec<u8>>,
}

/// Why there is no connection.
pub(super) enum Undialled {
    /// TLS could not be agreed upon.
    Handshake(Fault),
    Other(Fault),
}

impl From<Fault> for Undialled {
    fn from(fault: Fault) -> Undialled {
        Undialled::Other(fault)
    }
}

/// A stream whose directions can be given to different tasks.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf);
}

impl Duplex for TcpStream {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.into_split();
        (Box::new(read), Box::new(write))
    }
}

impl Duplex for UnixStream {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.into_split();
        (Box::new(read), Box::new(write))
    }
}

/// The addresses of a host to try in turn. `None` is its unix socket.
pub(super) async fn addresses(host: &Host) -> Result<Vec<Option<SocketAddr>>, Fault> {
    match &host.endpoint {
        Endpoint::Unix(_) => Ok(vec![None]),
        Endpoint::Tcp { address: Some(address), .. } => Ok(vec![Some(SocketAddr::new(*address, host.port))]),
        Endpoint::Tcp { name, address: None } => {
            let unknown = |reason: String| {
                Fault::retry(format!("can't find the address of host \"{name}\": {reason}"))
                    .hint("check the host's name in the connection string")
            };
            let found = tokio::net::lookup_host((name.as_str(), host.port)).await;
            let found: Vec<_> = found.map_err(|error| unknown(error.to_string()))?.map(Some).collect();
            if found.is_empty() { Err(unknown("no address".into())) } else { Ok(found) }
        }
    }
}

pub(super) async fn dial(
    conninfo: &Conninfo,
    host: &Host,
    address: Option<SocketAddr>,
    encryption: Encryption,
) -> Result<Dialled, Undialled> {
    let mut stream = open(conninfo, host, address).await?;
    let Endpoint::Tcp { name, .. } = &host.endpoint else { return Ok(plain(stream)) };
    if encryption == Encryption::Off {
        return Ok(plain(stream));
    }
    if !conninfo.tls.direct && !server_has_tls(&mut stream).await? {
        return match encryption {
            Encryption::Demanded => {
                let mode = conninfo.sslmode_for(host).name();
                let fault = Fault::stop(format!("the server has no TLS, but sslmode={mode} demands it"));
                Err(Undialled::Other(match conninfo.tls.mode {
                    Some(_) => {
                        fault.hint("turn ssl on in the server's postgresql.conf, or choose another sslmode")
                    }
                    None => fault.hint(DEFAULT_MODE_HINT),
                }))
            }
            _ => Ok(plain(stream)),
        };
    }
    let stream = handshake(conninfo, host, name, stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let end_point = certificate.and_then(|certificate| tls::server_end_point(certificate));
    let (read, write) = tokio::io::split(stream);
    Ok(Dialled { read: Box::new(read), write: Box::new(write), encrypted: true, end_point })
}

const DEFAULT_MODE_HINT: &str = "no sslmode was given, and the host is not this machine, so its certificate must be \
     valid for its name (verify-full): give sslrootcert=FILE of its authority, or choose an sslmode explicitly";

fn plain(stream: Box<dyn Duplex>) -> Dialled {
    let (read, write) = stream.halves();
    Dialled { read, write, encrypted: false, end_point: None }
}

async fn open(
    conninfo: &Conninfo,
    host: &Host,
    address: Option<SocketAddr>,
) -> Result<Box<dyn Duplex>, Fault> {
    let refused = |error: io::Error| {
        let fault = Fault::retry(format!("can't connect: {error}"));
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => fault.hint(
                "is the server running there, and does it accept connections on this address and port?",
            ),
            io::ErrorKind::PermissionDenied => fault.hint("this user may not open the server's socket"),
            _ => fault,
        }
    };
    match (&host.endpoint, address) {
        (Endpoint::Unix(folder), _) => {
            let path = folder.join(format!(".s.PGSQL.{}", host.port));
            Ok(Box::new(UnixStream::connect(path).await.map_err(refused)?))
        }
        (_, Some(address)) => {
            let stream = TcpStream::connect(address).await.map_err(refused)?;
            tune(conninfo, &stream).map_err(refused)?;
            Ok(Box::new(stream))
        }
        (_, None) => Err(Fault::stop("no address to connect to")),
    }
}

fn tune(conninfo: &Conninfo, stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    if let Some(keepalive) = conninfo.keepalive {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, keepalive.idle)?;
        sockopt::set_tcp_keepintvl(stream, keepalive.interval)?;
        sockopt::set_tcp_keepcnt(stream, keepalive.count)?;
    }
    if conninfo.tcp_user_timeout_milliseconds > 0 {
        sockopt::set_tcp_user_timeout(stream, conninfo.tcp_user_timeout_milliseconds)?;
    }
    Ok(())
}

/// SSLRequest. The answer is read as one byte alone: whatever follows it in plain text must come from the handshake,
/// not from somebody in between who wants it taken for the server's encrypted words (CVE-2021-23222).
async fn server_has_tls(stream: &mut Box<dyn Duplex>) -> Result<bool, Fault> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::retry("the server closed the connection"),
        _ => Fault::retry(format!("connection to the server lost: {error}")),
    };
    stream.write_all(&SSL_REQUEST).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    match stream.read_u8().await.map_err(lost)? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // An error before TLS can't be trusted to be the server's: it is not shown (CVE-2024-10977).
        b'E' => Err(Fault::retry("the server answered the request for TLS with an error")
            .hint("it may be out of processes or memory; its log tells")),
        _ => Err(Fault::stop("the answer to the request for TLS makes no sense; is it a PostgreSQL server?")),
    }
}

async fn handshake(
    conninfo: &Conninfo,
    host: &Host,
    name: &str,
    stream: Box<dyn Duplex>,
) -> Result<TlsStream<Box<dyn Duplex>>, Undialled> {
    let mode = conninfo.sslmode_for(host);
    let config = tls::config(&conninfo.tls, mode)?;
    let server_name = ServerName::try_from(name.to_owned())
        .map_err(|_| Fault::usage(format!("\"{name}\" can't be the name in a TLS certificate")))?;
    TlsConnector::from(Arc::clone(&config)).connect(server_name, stream).await.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(inner) = inner else {
            return Undialled::Handshake(Fault::retry(format!(
                "TLS handshake with the server failed: {error}"
            )));
        };
        let fault = Fault::stop(format!("TLS handshake with the server failed: {}", explain(inner)));
        Undialled::Handshake(match (inner, conninfo.tls.mode, mode) {
            (rustls::Error::InvalidCertificate(_), None, SslMode::VerifyFull) => {
                fault.hint(DEFAULT_MODE_HINT)
            }
            (rustls::Error::InvalidCertificate(reason), ..) => fault.hint(certificate_hint(reason)),
            _ => fault,
        })
    })
}

fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            "the server's certificate is not signed by a known authority".into()
        }
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. },
        ) => "the server's certificate is not for this host name".into(),
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
        ) => "the server's certificate has expired".into(),
        other => other.to_string(),
    }
}

fn certificate_hint(reason: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer,
    };
    match reason {
        UnknownIssuer => {
            "sslrootcert=FILE must hold the certificate of the authority that signed the server's"
        }
        NotValidForName | NotValidForNameContext { .. } => {
            "connect by the name that the certificate holds (hostaddr=IP may say where), or use sslmode=verify-ca"
        }
        Expired | ExpiredContext { .. } => "the server needs a new certificate",
        _ => "the certificate must be X.509 version 3, and its key strong enough",
    }
}
