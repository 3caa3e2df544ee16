//! Which keys there are, where each gets its value from (string, then service, then environment, then default),
//! and what the values mean together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{self, Wanted};
use super::{
    AuthMethod, ChannelBinding, Conninfo, Endpoint, Host, Keepalive, RootCertificates, Secret, SslMode,
    TargetSession, TlsOptions, syntax,
};
use crate::model::Fault;

/// Every key that means something here, with its environment variable.
const KEYS: [(&str, &str); 30] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("service", "PGSERVICE"),
    ("servicefile", "PGSERVICEFILE"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("require_auth", "PGREQUIREAUTH"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("gssencmode", "PGGSSENCMODE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("fallback_application_name", ""),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
];

/// Keys of libpq that change nothing here, whatever they say.
const WITHOUT_EFFECT: [&str; 8] = [
    "client_encoding",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "sslcompression",
    "sslsni",
    "max_protocol_version",
    "min_protocol_version",
];

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) struct Settings<'a> {
    values: BTreeMap<&'static str, String>,
    environment: Environment<'a>,
}

impl<'a> Settings<'a> {
    pub(super) fn gather(text: &str, environment: Environment<'a>) -> Result<Settings<'a>, Fault> {
        let mut settings = Settings { values: BTreeMap::new(), environment };
        for (key, value) in syntax::pairs(text)? {
            settings.set(&key, value, true)?;
        }
        settings.add_service()?;
        for (key, variable) in KEYS {
            if let Some(value) = environment(variable).filter(|_| !variable.is_empty()) {
                settings.values.entry(key).or_insert(value);
            }
        }
        Ok(settings)
    }

    fn set(&mut self, key: &str, value: String, replace: bool) -> Result<(), Fault> {
        if WITHOUT_EFFECT.contains(&key) {
            return Ok(());
        }
        let (known, _) = KEYS.iter().find(|(known, _)| *known == key).ok_or_else(|| {
            Fault::usage(format!("unknown or unsupported connection parameter \"{key}\"")).hint(
                "the parameters are those of libpq, such as host, port, user, dbname, sslmode, sslrootcert",
            )
        })?;
        if replace || !self.values.contains_key(known) {
            self.values.insert(known, value);
        }
        Ok(())
    }

    /// The value of a key, where it is neither missing nor empty.
    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    fn in_home(&self, name: &str) -> Option<PathBuf> {
        self.variable("HOME").map(|home| Path::new(&home).join(name))
    }

    fn add_service(&mut self) -> Result<(), Fault> {
        let Some(service) = self.get("service").map(str::to_owned).or_else(|| self.variable("PGSERVICE"))
        else {
            return Ok(());
        };
        let own = self
            .get("servicefile")
            .map(str::to_owned)
            .or_else(|| self.variable("PGSERVICEFILE"))
            .map(PathBuf::from)
            .or_else(|| self.in_home(".pg_service.conf"));
        let system = self.variable("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".into());
        let places: Vec<PathBuf> =
            own.into_iter().chain([Path::new(&system).join("pg_service.conf")]).collect();
        for place in &places {
            if let Some(pairs) = files::service(place, &service)? {
                for (key, value) in pairs {
                    self.set(&key, value, false).map_err(|fault| fault.context(place.display()))?;
                }
                return Ok(());
            }
        }
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Err(Fault::usage(format!("service \"{service}\" is not defined in {}", places.join(" or "))))
    }

    pub(super) fn resolve(self) -> Result<Conninfo, Fault> {
        for unsupported in ["sslcrl", "sslcrldir"] {
            if self.get(unsupported).is_some() {
                return Err(Fault::usage(format!(
                    "{unsupported} is not supported: revocation lists can't be checked"
                )));
            }
        }
        if self.get("gssencmode") == Some("require") {
            return Err(Fault::usage("gssencmode=require is not supported: encryption is by TLS only"));
        }
        let user = match self.get("user") {
            Some(user) => user.to_owned(),
            None => files::operating_system_user()
                .or_else(|| self.variable("USER"))
                .ok_or_else(|| Fault::usage("no user name given, and the system doesn't tell one"))?,
        };
        let database = self.get("dbname").unwrap_or(&user).to_owned();
        Ok(Conninfo {
            hosts: self.hosts(&user, &database)?,
            tls: self.tls()?,
            channel_binding: self.choice(
                "channel_binding",
                &[
                    ("prefer", ChannelBinding::Prefer),
                    ("disable", ChannelBinding::Disable),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            require_auth: self.require_auth()?,
            target_session: self.choice(
                "target_session_attrs",
                &[
                    ("any", TargetSession::Any),
                    ("read-write", TargetSession::ReadWrite),
                    ("read-only", TargetSession::ReadOnly),
                    ("primary", TargetSession::Primary),
                    ("standby", TargetSession::Standby),
                    ("prefer-standby", TargetSession::PreferStandby),
                ],
            )?,
            connect_timeout: match self.integer("connect_timeout")? {
                None => Some(Duration::from_secs(15)),
                Some(seconds) if seconds <= 0 => None,
                Some(seconds) => Some(Duration::from_secs(seconds.unsigned_abs().into())),
            },
            keepalive: self.keepalive()?,
            tcp_user_timeout_milliseconds: self.count("tcp_user_timeout")?.unwrap_or(0),
            options: self.get("options").map(str::to_owned),
            application_name: self
                .get("application_name")
                .or_else(|| self.get("fallback_application_name"))
                .map(str::to_owned),
            user,
            database,
        })
    }

    fn hosts(&self, user: &str, database: &str) -> Result<Vec<Host>, Fault> {
        let list = |key: &str| -> Vec<&str> {
            self.get(key).map(|value| value.split(',').collect()).unwrap_or_default()
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
            return Err(Fault::usage(format!(
                "{} host names do not match {} hostaddr values",
                names.len(),
                addresses.len()
            )));
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(Fault::usage(format!("{} port numbers do not match {count} hosts", ports.len())));
        }
        (0..count)
            .map(|index| {
                let port = ports.get(index).or(ports.first()).copied().unwrap_or_default().trim();
                let port = match port {
                    "" => 5432,
                    port => match port.parse() {
                        Ok(port) if port != 0 => port,
                        _ => return Err(invalid_port(port)),
                    },
                };
                let name = names.get(index).copied().unwrap_or_default().trim();
                let endpoint = endpoint(name, addresses.get(index).copied().unwrap_or_default().trim())?;
                let password = self.password(&endpoint, port, user, database);
                Ok(Host { endpoint, port, password })
            })
            .collect()
    }

    fn password(&self, endpoint: &Endpoint, port: u16, user: &str, database: &str) -> Option<Secret> {
        if let Some(password) = self.get("password") {
            return Some(Secret(password.into()));
        }
        let file = self.get("passfile").map(PathBuf::from).or_else(|| self.in_home(".pgpass"))?;
        let host = match endpoint {
            Endpoint::Tcp { name, .. } => name.clone(),
            // libpq looks the default socket up as localhost.
            Endpoint::Unix(folder) if *folder == default_socket_folder() => "localhost".into(),
            Endpoint::Unix(folder) => folder.to_string_lossy().into_owned(),
        };
        files::password(&file, &Wanted { host: &host, port: &port.to_string(), database, user })
    }

    fn tls(&self) -> Result<TlsOptions, Fault> {
        let mut mode = match self.get("sslmode") {
            None => None,
            Some(_) => Some(self.choice(
                "sslmode",
                &[
                    ("disable", SslMode::Disable),
                    ("allow", SslMode::Allow),
                    ("prefer", SslMode::Prefer),
                    ("require", SslMode::Require),
                    ("verify-ca", SslMode::VerifyCa),
                    ("verify-full", SslMode::VerifyFull),
                ],
            )?),
        };
        let in_home = |name: &str| self.in_home(&format!(".postgresql/{name}")).filter(|path| path.exists());
        let roots = match self.get("sslrootcert") {
            Some("system") => {
                // Anybody can get a certificate from one of the system's authorities: without the host's name it
                // proves nothing.
                if *mode.get_or_insert(SslMode::VerifyFull) != SslMode::VerifyFull {
                    return Err(Fault::usage("sslrootcert=system needs sslmode=verify-full"));
                }
                Some(RootCertificates::System)
            }
            Some(path) => Some(RootCertificates::File(path.into())),
            None => in_home("root.crt").map(RootCertificates::File),
        };
        let certificate = self.get("sslcert").map(PathBuf::from);
        let key = self.get("sslkey").map(PathBuf::from);
        let client = match (
            certificate.or_else(|| in_home("postgresql.crt")),
            key.or_else(|| in_home("postgresql.key")),
        ) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(certificate), None) => {
                let message = format!("certificate {} is given, but no private key", certificate.display());
                return Err(Fault::usage(message).hint("sslkey=FILE"));
            }
            (None, _) => None,
        };
        let direct = self.choice("sslnegotiation", &[("postgres", false), ("direct", true)])?;
        if direct && matches!(mode, Some(SslMode::Disable | SslMode::Allow | SslMode::Prefer)) {
            return Err(Fault::usage("sslnegotiation=direct needs sslmode=require or stronger"));
        }
        let only_tls13 = self.choice(
            "ssl_min_protocol_version",
            &[("TLSv1.2", false), ("TLSv1.3", true), ("TLSv1.1", false), ("TLSv1", false)],
        )?;
        Ok(TlsOptions { mode, roots, client, direct, only_tls13 })
    }

    fn require_auth(&self) -> Result<Option<Vec<AuthMethod>>, Fault> {
        let Some(list) = self.get("require_auth") else { return Ok(None) };
        let all = [
            ("none", AuthMethod::None),
            ("password", AuthMethod::Password),
            ("md5", AuthMethod::Md5),
            ("scram-sha-256", AuthMethod::ScramSha256),
        ];
        let (mut named, mut excluded) = (Vec::new(), Vec::new());
        for word in list.split(',').map(str::trim) {
            let (name, into) = match word.strip_prefix('!') {
                Some(name) => (name, &mut excluded),
                None => (word, &mut named),
            };
            let known = all.iter().find(|(known, _)| *known == name);
            match known {
                Some((_, method)) => into.push(*method),
                // Methods that don't exist here can be excluded at no cost.
                None if ["gss", "sspi", "oauth"].contains(&name) && word.starts_with('!') => {}
                None => return Err(Fault::usage(format!("invalid require_auth method: \"{word}\""))),
            }
        }
        match (named.is_empty(), list.contains('!')) {
            (false, true) => Err(Fault::usage("require_auth can't mix methods with excluded ones")),
            (false, false) => Ok(Some(named)),
            (true, _) => {
                Ok(Some(all.iter().map(|(_, method)| *method).filter(|m| !excluded.contains(m)).collect()))
            }
        }
    }

    /// As libpq, on unless `keepalives=0`; but probing after a minute rather than the system's two hours, since a
    /// half-open connection holds up the whole road.
    fn keepalive(&self) -> Result<Option<Keepalive>, Fault> {
        if self.integer("keepalives")? == Some(0) {
            return Ok(None);
        }
        let seconds = |key, default: u32| -> Result<Duration, Fault> {
            Ok(Duration::from_secs(self.count(key)?.filter(|count| *count > 0).unwrap_or(default).into()))
        };
        Ok(Some(Keepalive {
            idle: seconds("keepalives_idle", 60)?,
            interval: seconds("keepalives_interval", 10)?,
            count: self.count("keepalives_count")?.filter(|count| *count > 0).unwrap_or(6),
        }))
    }

    fn integer(&self, key: &str) -> Result<Option<i32>, Fault> {
        let number = |value: &str| {
            let wrong = |_| Fault::usage(format!("{key} must be an integer, not \"{value}\""));
            value.trim().parse().map_err(wrong)
        };
        self.get(key).map(number).transpose()
    }

    fn count(&self, key: &str) -> Result<Option<u32>, Fault> {
        Ok(self.integer(key)?.map(|number| u32::try_from(number).unwrap_or(0)))
    }

    /// One of several words; the first is the default.
    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T, Fault> {
        let wanted = self.get(key);
        choices
            .iter()
            .find(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
            .map(|(_, choice)| *choice)
            .ok_or_else(|| {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                let message = format!("invalid {key} value: \"{}\"", wanted.unwrap_or_default());
                Fault::usage(message).hint(format!("it is one of {}", names.join(", ")))
            })
    }
}

/// Of a URI whose password holds a bare `@` or `/` this may be a piece of it, so only digits are repeated.
fn invalid_port(port: &str) -> Fault {
    let what = match port.bytes().all(|byte| byte.is_ascii_digit()) && port.len() <= 5 {
        true => format!("invalid port number: {port}"),
        false => "invalid port number".into(),
    };
    Fault::usage(what).hint("in a URI the characters @ : / ? # % of user name and password are written as %40 %3A %2F %3F %23 %25")
}

fn endpoint(name: &str, address: &str) -> Result<Endpoint, Fault> {
    if !address.is_empty() {
        let parsed = address
            .parse()
            .map_err(|_| Fault::usage(format!("hostaddr \"{address}\" is not an IP address")))?;
        let name = if name.is_empty() { address } else { name };
        return Ok(Endpoint::Tcp { name: name.into(), address: Some(parsed) });
    }
    match name {
        "" => Ok(Endpoint::Unix(default_socket_folder())),
        path if path.starts_with('/') => Ok(Endpoint::Unix(path.into())),
        abstract_name if abstract_name.starts_with('@') => Err(Fault::usage(
            "unix sockets in the abstract namespace (a host that starts with '@') are not supported",
        )),
        name => Ok(Endpoint::Tcp { name: name.into(), address: None }),
    }
}

/// Where packaged servers put their socket, else where PostgreSQL itself would.
fn default_socket_folder() -> PathBuf {
    let packaged = Path::new("/var/run/postgresql");
    if packaged.is_dir() { packaged.into() } else { "/tmp".into() }
}
