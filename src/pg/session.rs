//! What a session is set to: the settings that decide how values print, and those that let work take its time.

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
pub(super) const PINNED_SINCE: [(u32, &str); 2] =
    [(140_000, "idle_session_timeout"), (170_000, "transaction_timeout")];

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

/// The `options` of the start-up message: those of the user first, so that the pinned ones outrank them.
pub(super) fn options(of_user: Option<&str>, settings: &[(&str, &str)]) -> String {
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
pub(super) fn version_num(text: &str) -> u32 {
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
}
