//! The two ways to write a connection string, turned into pairs of key and value. Pure; errors never repeat what
//! was typed beyond the name of a key, since any other part may be (a piece of) a password.

use std::borrow::Cow;

use crate::model::Fault;

pub(super) type Pairs = Vec<(String, String)>;

pub(super) fn pairs(text: &str) -> Result<Pairs, Fault> {
    if text.contains('\0') {
        return Err(Fault::usage("the connection string has a NUL character in it"));
    }
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None if text.contains("://") && !text.contains('=') => {
            Err(Fault::usage("a connection URI starts with postgresql:// or postgres://"))
        }
        None => keywords(text),
    }
}

/// `[user[:password]@][host[:port],...][/database][?key=value&...]`
fn uri(rest: &str) -> Result<Pairs, Fault> {
    let mut pairs = Pairs::new();
    let (rest, query) = match rest.split_once('?') {
        // A question mark inside the password is legal; the query starts after the last host.
        Some(_) => split_query(rest),
        None => (rest, None),
    };
    let authority_end = rest.find(['@', '/']).unwrap_or(rest.len());
    let (credentials, rest) = match rest.split_at_checked(authority_end) {
        Some((credentials, tail)) if tail.starts_with('@') => {
            (Some(credentials), tail.trim_start_matches('@'))
        }
        _ => (None, rest),
    };
    if let Some(credentials) = credentials {
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        push_decoded(&mut pairs, "user", user)?;
        push_decoded(&mut pairs, "password", password.unwrap_or_default())?;
    }
    let (hosts, database) = match rest.split_once('/') {
        Some((hosts, database)) => (hosts, database),
        None => (rest, ""),
    };
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for entry in hosts.split(',') {
            let (name, port) = host_and_port(entry)?;
            names.push(decode(name, "host")?);
            ports.push(decode(port, "port")?);
        }
        pairs.push(("host".into(), names.join(",")));
        if ports.iter().any(|port| !port.is_empty()) {
            pairs.push(("port".into(), ports.join(",")));
        }
    }
    push_decoded(&mut pairs, "dbname", database)?;
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter
            .split_once('=')
            .ok_or_else(|| Fault::usage("a parameter after '?' in the connection URI has no '='"))?;
        match (decode(key, "a parameter's name")?, decode(value, key)?) {
            // As JDBC writes it.
            (key, value) if key == "ssl" && value == "true" => {
                pairs.push(("sslmode".into(), "require".into()))
            }
            pair => pairs.push(pair),
        }
    }
    Ok(pairs)
}

/// Finds the `?` that starts the query: the first one after the credentials.
fn split_query(rest: &str) -> (&str, Option<&str>) {
    let after_credentials = match (rest.find('@'), rest.find('/')) {
        (Some(at), Some(slash)) if at < slash => at,
        (Some(at), None) => at,
        _ => 0,
    };
    let question = rest.get(after_credentials..).and_then(|tail| tail.find('?'));
    match question.and_then(|offset| rest.split_at_checked(after_credentials.saturating_add(offset))) {
        Some((head, tail)) => (head, tail.strip_prefix('?')),
        None => (rest, None),
    }
}

fn host_and_port(entry: &str) -> Result<(&str, &str), Fault> {
    let (name, tail) = match entry.strip_prefix('[') {
        Some(inner) => inner
            .split_once(']')
            .ok_or_else(|| Fault::usage("an IPv6 address in the connection URI lacks its closing ']'"))?,
        None => entry.split_at_checked(entry.find(':').unwrap_or(entry.len())).unwrap_or((entry, "")),
    };
    match tail.strip_prefix(':') {
        Some(port) => Ok((name, port)),
        None if tail.is_empty() => Ok((name, "")),
        None => Err(Fault::usage("after the ']' of an IPv6 address only ':port' may follow")),
    }
}

fn push_decoded(pairs: &mut Pairs, key: &str, value: &str) -> Result<(), Fault> {
    if !value.is_empty() {
        pairs.push((key.into(), decode(value, key)?));
    }
    Ok(())
}

/// Undoes percent-encoding. `what` names the part in the error.
fn decode(text: &str, what: &str) -> Result<String, Fault> {
    let wrong = || Fault::usage(format!("invalid percent-encoding in {what} of the connection URI"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, tail) = part.split_at_checked(2).ok_or_else(wrong)?;
        let byte =
            digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16));
        match byte {
            Some(Ok(byte)) if byte != 0 => bytes.push(byte),
            _ => return Err(wrong()),
        }
        bytes.extend_from_slice(tail.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

pub(super) fn percent_encode(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    Cow::Owned(text.bytes().map(encode).collect())
}

/// `key = value key='quoted value'`, with `\` before a quote or a backslash.
fn keywords(text: &str) -> Result<Pairs, Fault> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let key_end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (key, tail) = rest.split_at_checked(key_end).unwrap_or((rest, ""));
        let tail = tail.trim_start().strip_prefix('=').ok_or_else(|| {
            let place = match pairs.last() {
                Some((key, _)) => format!("after the value of \"{key}\""),
                None => "after the first word".into(),
            };
            Fault::usage(format!("missing '=' {place} in the connection string"))
                .hint("write postgresql://user@host:port/database, or key=value pairs; quote a value with blanks: 'a b'")
        })?;
        let (value, tail) = value(tail.trim_start(), key)?;
        pairs.push((key.into(), value));
        rest = tail.trim_start();
    }
    Ok(pairs)
}

/// Takes one value off the front.
fn value<'a>(text: &'a str, key: &str) -> Result<(String, &'a str), Fault> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        let before = characters.as_str();
        match characters.next() {
            Some('\\') => value.extend(characters.next()),
            Some('\'') if quoted => return Ok((value, characters.as_str())),
            Some(blank) if !quoted && blank.is_ascii_whitespace() => return Ok((value, before)),
            Some(character) => value.push(character),
            None if quoted => {
                return Err(Fault::usage(format!(
                    "the quoted value of \"{key}\" is not closed in the connection string"
                )));
            }
            None => return Ok((value, "")),
        }
    }
}
