//! The same connection for a program of PostgreSQL's, by the environment variables of libpq.

use std::fmt;

use super::{AuthMethod, ChannelBinding, Conninfo, Endpoint, RootCertificates, SslMode, TargetSession};
use crate::model::Fault;

/// Variables of the environment, a password among them. `Debug` shows their names alone.
pub struct LibpqEnvironment {
    variables: Vec<(&'static str, String)>,
}

impl fmt::Debug for LibpqEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.variables.iter().map(|(name, _)| name)).finish()
    }
}

impl LibpqEnvironment {
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Whether libpq of a major version guards what it is told to: older ones ignore what they don't know.
    pub fn understood_by(&self, major: u32) -> Result<(), Fault> {
        let is_set = |name, value: Option<&str>| {
            self.variables().any(|(known, set)| known == name && value.is_none_or(|value| value == set))
        };
        if major < 16 && is_set("PGREQUIREAUTH", None) {
            return Err(Fault::usage(format!("require_auth is not known to programs of PostgreSQL {major}"))
                .hint("install the client programs of PostgreSQL 16 or later"));
        }
        if major < 16 && is_set("PGSSLROOTCERT", Some("system")) {
            let message = format!(
                "programs of PostgreSQL {major} can't check the server's certificate with the authorities of the system"
            );
            return Err(Fault::usage(message)
                .hint("give sslrootcert=FILE of the server's authority, or choose an sslmode explicitly"));
        }
        Ok(())
    }
}

impl Conninfo {
    /// What to set, with no other `PG*` variable beside it, so that libpq connects as we do. Keepalives and `tcp_user_timeout` have no variable.
    pub fn libpq_environment(&self) -> Result<LibpqEnvironment, Fault> {
        let mut variables = vec![
            (
                "PGHOST",
                self.list(|endpoint| match endpoint {
                    Endpoint::Tcp { name, .. } => name.clone(),
                    Endpoint::Unix(folder) => folder.to_string_lossy().into_owned(),
                }),
            ),
            ("PGPORT", self.hosts.iter().map(|host| host.port.to_string()).collect::<Vec<_>>().join(",")),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.database.clone()),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.map_or(0, |limit| limit.as_secs()).to_string()),
            // What we don't speak must not be what it prefers.
            ("PGGSSENCMODE", "disable".into()),
        ];
        let address = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp { address: Some(address), .. } => address.to_string(),
            _ => String::new(),
        };
        let addresses = self.list(address);
        if self.hosts.iter().any(|host| !address(&host.endpoint).is_empty()) {
            variables.push(("PGHOSTADDR", addresses));
        }
        let mut passwords: Vec<_> = self.hosts.iter().map(|host| host.password.as_ref()).collect();
        passwords.dedup();
        match passwords.as_slice() {
            [Some(password)] => variables.push(("PGPASSWORD", password.0.clone())),
            [_] | [] => {}
            _ => {
                return Err(Fault::usage("pg_dump can be given one password, but the hosts have several")
                    .hint("name one host"));
            }
        }
        // One mode is for all hosts there; that of the most distant one guards the others too.
        let mode = self.hosts.iter().map(|host| self.sslmode_for(host)).max().unwrap_or(SslMode::VerifyFull);
        variables.push(("PGSSLMODE", mode.name().into()));
        match &self.tls.roots {
            Some(RootCertificates::File(path)) => {
                variables.push(("PGSSLROOTCERT", path.to_string_lossy().into_owned()));
            }
            Some(RootCertificates::System) => variables.push(("PGSSLROOTCERT", "system".into())),
            None if mode == SslMode::VerifyFull => variables.push(("PGSSLROOTCERT", "system".into())),
            None => {}
        }
        if let Some((certificate, key)) = &self.tls.client {
            variables.push(("PGSSLCERT", certificate.to_string_lossy().into_owned()));
            variables.push(("PGSSLKEY", key.to_string_lossy().into_owned()));
        }
        if self.tls.direct {
            variables.push(("PGSSLNEGOTIATION", "direct".into()));
        }
        if self.tls.only_tls13 {
            variables.push(("PGSSLMINPROTOCOLVERSION", "TLSv1.3".into()));
        }
        variables.push(("PGCHANNELBINDING", self.channel_binding.name().into()));
        if let Some(methods) = &self.require_auth {
            let names: Vec<_> = methods.iter().map(|method| method.name()).collect();
            variables.push(("PGREQUIREAUTH", names.join(",")));
        }
        if self.target_session != TargetSession::Any {
            variables.push(("PGTARGETSESSIONATTRS", self.target_session.name().into()));
        }
        if let Some(options) = &self.options {
            variables.push(("PGOPTIONS", options.clone()));
        }
        if let Some(name) = &self.application_name {
            variables.push(("PGAPPNAME", name.clone()));
        }
        Ok(LibpqEnvironment { variables })
    }

    fn list(&self, text: impl Fn(&Endpoint) -> String) -> String {
        self.hosts.iter().map(|host| text(&host.endpoint)).collect::<Vec<_>>().join(",")
    }
}

impl ChannelBinding {
    fn name(self) -> &'static str {
        match self {
            ChannelBinding::Disable => "disable",
            ChannelBinding::Prefer => "prefer",
            ChannelBinding::Require => "require",
        }
    }
}

impl AuthMethod {
    fn name(self) -> &'static str {
        match self {
            AuthMethod::None => "none",
            AuthMethod::Password => "password",
            AuthMethod::Md5 => "md5",
            AuthMethod::ScramSha256 => "scram-sha-256",
        }
    }
}

impl TargetSession {
    fn name(self) -> &'static str {
        match self {
            TargetSession::Any => "any",
            TargetSession::ReadWrite => "read-write",
            TargetSession::ReadOnly => "read-only",
            TargetSession::Primary => "primary",
            TargetSession::Standby => "standby",
            TargetSession::PreferStandby => "prefer-standby",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)], absent: &[&str]) {
        let environment = Conninfo::parse_with(text, &|_| None).unwrap().libpq_environment().unwrap();
        for (name, value) in expected {
            let found = environment.variables().find(|(known, _)| known == name).map(|(_, value)| value);
            assert_eq!(found, Some(*value), "{name} of {text}");
        }
        for name in absent {
            assert!(environment.variables().all(|(known, _)| known != *name), "{name} of {text}");
        }
    }

    #[test]
    fn one_host() {
        check(
            "postgres://me:p%40%20ss@db:99/a%20b?options=-c%20x%3D1",
            &[
                ("PGHOST", "db"),
                ("PGPORT", "99"),
                ("PGUSER", "me"),
                ("PGDATABASE", "a b"),
                ("PGPASSWORD", "p@ ss"),
                ("PGSSLMODE", "verify-full"),
                ("PGSSLROOTCERT", "system"),
                ("PGOPTIONS", "-c x=1"),
                ("PGCONNECT_TIMEOUT", "15"),
            ],
            &["PGHOSTADDR", "PGREQUIREAUTH", "PGTARGETSESSIONATTRS", "PGSSLCERT"],
        );
        check("host=127.0.0.1 user=me", &[("PGSSLMODE", "prefer")], &["PGPASSWORD", "PGSSLROOTCERT"]);
        check("host=/run/pg port=7 user=me", &[("PGHOST", "/run/pg"), ("PGSSLMODE", "disable")], &[]);
    }

    #[test]
    fn several_hosts() {
        check(
            "host=a,/run/b,127.0.0.1 hostaddr=10.0.0.1,, port=1,2,3 user=me password=x sslmode=require target_session_attrs=primary",
            &[
                ("PGHOST", "a,/run/b,127.0.0.1"),
                ("PGHOSTADDR", "10.0.0.1,,"),
                ("PGPORT", "1,2,3"),
                ("PGPASSWORD", "x"),
                ("PGSSLMODE", "require"),
                ("PGTARGETSESSIONATTRS", "primary"),
            ],
            &["PGSSLROOTCERT"],
        );
        check("host=localhost,far user=me", &[("PGSSLMODE", "verify-full")], &[]);
        let mut two = Conninfo::parse_with("host=a,b user=me password=SECRET", &|_| None).unwrap();
        two.hosts[1].password = None;
        let fault = two.libpq_environment().unwrap_err();
        assert!(fault.message.contains("one password") && !fault.message.contains("SECRET"), "{fault}");
    }

    #[test]
    fn guards_are_not_lost_on_older_programs() {
        for (text, guarded) in [
            ("host=db user=me", true),
            ("host=db user=me sslmode=require require_auth=scram-sha-256", true),
            ("host=db user=me sslmode=require", false),
        ] {
            let environment = Conninfo::parse_with(text, &|_| None).unwrap().libpq_environment().unwrap();
            assert_eq!(environment.understood_by(15).is_err(), guarded, "{text}");
            assert!(environment.understood_by(16).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_password_never_shows() {
        let conninfo = Conninfo::parse_with("host=db user=me password=SECRET", &|_| None).unwrap();
        let shown = format!("{:?}", conninfo.libpq_environment().unwrap());
        assert!(shown.contains("PGPASSWORD") && !shown.contains("SECRET"), "{shown}");
    }
}
