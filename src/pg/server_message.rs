//! ErrorResponse and NoticeResponse, and what an error of the server leaves to be done (PostgreSQL documentation,
//! appendix A and section 55.8).

use crate::model::{Fault, Remedy};

/// The fields that are shown or acted upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerMessage {
    /// Not translated: `ERROR`, `FATAL`, `PANIC`, `WARNING`, ...
    pub(crate) severity: String,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) table: Option<String>,
}

impl ServerMessage {
    /// Reads a body: fields of a type byte and a string that ends in a zero byte.
    pub(crate) fn parse(body: &[u8]) -> ServerMessage {
        let mut parsed = ServerMessage::default();
        let (mut schema, mut table) = (None, None);
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'V' => parsed.severity = text,
                b'S' if parsed.severity.is_empty() => parsed.severity = text,
                b'C' => parsed.sqlstate = text,
                b'M' => parsed.message = text,
                b'D' => parsed.detail = Some(text),
                b'H' => parsed.hint = Some(text),
                b's' => schema = Some(text),
                b't' => table = Some(text),
                _ => {}
            }
        }
        parsed.table = match (schema, table) {
            (Some(schema), Some(table)) => Some(format!("{schema}.{table}")),
            (_, table) => table,
        };
        parsed
    }

    /// Whether the server closes the connection after it.
    pub(crate) fn ends_session(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    pub(crate) fn into_fault(self) -> Fault {
        let mut message = self.message;
        if let Some(table) = self.table {
            message = format!("{message} (table {table})");
        }
        if let Some(detail) = self.detail {
            message = format!("{message}: {detail}");
        }
        let mut fault = Fault::stop(message);
        fault.remedy = remedy(&self.sqlstate);
        fault.hint = self.hint.or_else(|| own_hint(&self.sqlstate).map(str::to_owned));
        fault.sqlstate = Some(self.sqlstate);
        fault
    }
}

/// Whether the same request may succeed later without anybody mending anything.
fn remedy(sqlstate: &str) -> Remedy {
    match sqlstate {
        // Shut down, crashed elsewhere, starting up, idle session ended; too many connections; slot or object in
        // use; lock not available; statement cancelled (a time-out); serialization failure, deadlock.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "55006" | "55P03" | "57014" | "40001" | "40P01" => {
            Remedy::Retry
        }
        "08P01" => Remedy::Stop,
        code if code.starts_with("08") => Remedy::Retry,
        _ => Remedy::Stop,
    }
}

/// What to try, where the server does not say.
fn own_hint(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "28P01" => "check the user name and the password (PGPASSWORD, the password file, or the URI)",
        "28000" => "pg_hba.conf of the server must admit this user, database, address and TLS mode",
        "08P01" => "connect to the PostgreSQL server itself; poolers don't take all of the protocol",
        "3D000" => "check the database's name in the connection string",
        "53300" => "max_connections, or the limit of the role or database, is reached; close idle sessions",
        "57P03" => "the server is starting up or shutting down; try again",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_detail_hint_and_table() {
        let body = b"SFEHLER\0VERROR\0C23505\0Mduplicate key\0DKey (id)=(1) already exists.\0spublic\0tt\0\0";
        let message = ServerMessage::parse(body);
        assert!(!message.ends_session());
        let fault = message.into_fault();
        assert_eq!(fault.message, "duplicate key (table public.t): Key (id)=(1) already exists.");
        assert_eq!(fault.sqlstate.as_deref(), Some("23505"));
        assert_eq!(fault.remedy, Remedy::Stop);
    }

    #[test]
    fn tells_what_may_pass_from_what_needs_mending() {
        for (sqlstate, expected) in [
            ("57P01", Remedy::Retry),
            ("57P03", Remedy::Retry),
            ("53300", Remedy::Retry),
            ("08006", Remedy::Retry),
            ("08P01", Remedy::Stop),
            ("55006", Remedy::Retry),
            ("28P01", Remedy::Stop),
            ("28000", Remedy::Stop),
            ("3D000", Remedy::Stop),
            ("42501", Remedy::Stop),
        ] {
            let message = ServerMessage { sqlstate: sqlstate.into(), ..ServerMessage::default() };
            assert_eq!(message.into_fault().remedy, expected, "{sqlstate}");
        }
    }

    #[test]
    fn odd_bytes_do_not_panic() {
        for body in [&b""[..], b"\0", b"\0\0\0", b"M", b"\xff\xff", b"C\0M\xe9\0"] {
            ServerMessage::parse(body);
        }
    }
}
