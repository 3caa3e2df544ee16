//! What was typed to name a server, as libpq reads it: URIs, `key=value` strings, `PG*` variables, service and
//! password files (PostgreSQL documentation, chapter "libpq", sections 34.1 and 34.15 to 34.17).
//!
//! Where it differs from libpq, on purpose: without any `sslmode` a host that is neither loopback nor a socket is
//! checked as by `verify-full`; a connection attempt ends after 15 s where libpq would wait for ever; and a key
//! that is understood by libpq but not here is an error, never ignored when it guards something.
//!
//! A password never shows in `Debug`, in [`Conninfo::display`] or in an error.

mod files;
mod libpq;
mod settings;
mod syntax;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Fault;
use settings::Settings;

pub(super) use files::key_is_private;
pub use libpq::LibpqEnvironment;

/// A server, or several to be tried in order, and how to reach it.
#[derive(Clone, Debug)]
pub struct Conninfo {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) tls: TlsOptions,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) require_auth: Option<Vec<AuthMethod>>,
    pub(crate) target_session: TargetSession,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) tcp_user_timeout_milliseconds: u32,
    pub(crate) options: Option<String>,
    pub(crate) application_name: Option<String>,
}

/// One server to try.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) endpoint: Endpoint,
    pub(crate) port: u16,
    pub(crate) password: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A name (or an address as text) that certificates are checked against, and where to connect if that is not
    /// to be looked up.
    Tcp { name: String, address: Option<IpAddr> },
    /// The folder of a unix socket.
    Unix(PathBuf),
}

/// A password. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// From the laxest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthMethod {
    None,
    Password,
    Md5,
    ScramSha256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootCertificates {
    /// Those of the operating system.
    System,
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct TlsOptions {
    /// What was asked for; `None` when nothing was, see [`Conninfo::sslmode_for`].
    pub(crate) mode: Option<SslMode>,
    pub(crate) roots: Option<RootCertificates>,
    /// Certificate and key files of the client.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    /// TLS from the first byte, without asking (`sslnegotiation=direct`, PostgreSQL 17).
    pub(crate) direct: bool,
    pub(crate) only_tls13: bool,
}

impl Conninfo {
    /// Reads a URI or a `key=value` string (an empty one leaves all to the environment), and completes it from the
    /// service file, the `PG*` variables, the password file and the defaults.
    pub fn parse(text: &str) -> Result<Conninfo, Fault> {
        Conninfo::parse_with(text, &|name| std::env::var(name).ok())
    }

    /// As [`Conninfo::parse`], with the environment given.
    pub fn parse_with(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Conninfo, Fault> {
        Settings::gather(text, environment)?.resolve()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// The same server, another database. The password stays that of the first one.
    pub fn with_database(&self, database: &str) -> Conninfo {
        Conninfo { database: database.into(), ..self.clone() }
    }

    /// The mode that holds for a host: what was asked for, else `prefer` where nobody can listen (a socket or
    /// loopback) and `verify-full` everywhere else.
    pub(crate) fn sslmode_for(&self, host: &Host) -> SslMode {
        match (&host.endpoint, self.tls.mode) {
            (Endpoint::Unix(_), _) => SslMode::Disable,
            (_, Some(mode)) => mode,
            (endpoint, None) if endpoint.is_local() && !self.tls.direct => SslMode::Prefer,
            (_, None) => SslMode::VerifyFull,
        }
    }

    /// The servers and the database as they were named, without who connects and how.
    pub fn address(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        format!("{}/{}", hosts.join(","), syntax::percent_encode(&self.database))
    }

    /// A URI for messages: without the password.
    pub fn display(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        let mode = match self.tls.mode {
            Some(mode) => format!("?sslmode={}", mode.name()),
            None => String::new(),
        };
        let (user, database) = (syntax::percent_encode(&self.user), syntax::percent_encode(&self.database));
        format!("postgresql://{user}@{}/{database}{mode}", hosts.join(","))
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Tcp { name, .. } if name.parse::<Ipv6Addr>().is_ok() => {
                write!(f, "[{name}]:{}", self.port)
            }
            Endpoint::Tcp { name, .. } => write!(f, "{}:{}", syntax::percent_encode(name), self.port),
            Endpoint::Unix(folder) => {
                write!(f, "{}:{}", syntax::percent_encode(&folder.to_string_lossy()), self.port)
            }
        }
    }
}

impl Endpoint {
    /// Whether the bytes stay on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Endpoint::Unix(_) => true,
            Endpoint::Tcp { address: Some(address), .. } => address.is_loopback(),
            Endpoint::Tcp { name, address: None } => match name.parse::<IpAddr>() {
                Ok(address) => address.is_loopback(),
                Err(_) => name.eq_ignore_ascii_case("localhost"),
            },
        }
    }
}

impl SslMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}
