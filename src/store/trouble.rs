//! What a store's refusal means, and what of it may be shown.
//!
//! A store's answer may repeat what was signed, an address may carry a signature: only the code and the message are taken of
//! an answer's text, nothing behind a question mark of an address, and no value that is known to be secret.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use object_store::client::HttpError;

use super::access::hint;
use super::place::Place;
use crate::model::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No object of this name.
    Absent,
    /// There was something at a create, or another writer at the same time.
    Exists,
    /// The object is not, or no longer, the one that was meant.
    Changed,
    /// Away, overloaded, cut off, too slow: it may have happened, and may succeed later.
    Away,
    /// The store has no such operation.
    Unsupported,
    /// Of no use to try again.
    Refused,
}

#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    text: String,
}

impl Trouble {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Trouble {
        Trouble { kind, text: text.into() }
    }

    /// A client that could not be made.
    pub(super) fn from_setting(error: &object_store::Error) -> Trouble {
        Trouble::new(Kind::Refused, innermost(error))
    }

    /// Whether it may have happened all the same.
    pub(super) fn is_unclear(&self) -> bool {
        matches!(self.kind, Kind::Exists | Kind::Changed | Kind::Away)
    }

    /// Whether the same call may succeed later.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Exists | Kind::Away)
    }

    /// The same, as something that may succeed later.
    pub(super) fn passing(self) -> Trouble {
        Trouble { kind: Kind::Away, ..self }
    }

    /// Says how long it was tried.
    pub(super) fn after(mut self, elapsed: Duration) -> Trouble {
        if self.may_pass() && elapsed.as_secs() > 0 {
            let _ = write!(self.text, " (tried for {} s)", elapsed.as_secs());
        }
        self
    }

    /// `action` is what could not be done, such as `can't be written`.
    pub(super) fn into_fault(self, place: &Place, key: &str, action: &str, secrets: &Secrets) -> Fault {
        let message = format!("{} {action}: {}", place.describe(key), secrets.hide(&self.text));
        match self.kind {
            Kind::Refused | Kind::Absent => Fault::stop(message).hint(hint(place.keeper)),
            Kind::Unsupported => Fault::stop(message).hint("this store can't keep an archive"),
            Kind::Exists | Kind::Changed | Kind::Away => Fault::retry(message).hint(hint(place.keeper)),
        }
    }
}

impl From<object_store::Error> for Trouble {
    fn from(error: object_store::Error) -> Trouble {
        use object_store::Error;
        let answer = Answer::find(&error);
        let text = answer.as_ref().map_or_else(|| innermost(&error), Answer::describe);
        let kind = match &error {
            Error::NotFound { .. } if answer.as_ref().is_some_and(Answer::is_without_bucket) => Kind::Refused,
            Error::NotFound { .. } => Kind::Absent,
            Error::AlreadyExists { .. } => Kind::Exists,
            Error::Precondition { .. } | Error::NotModified { .. } => Kind::Changed,
            Error::NotImplemented { .. } | Error::NotSupported { .. } => Kind::Unsupported,
            Error::Generic { .. } => match &answer {
                Some(answer) => answer.kind(),
                None => kind_without_answer(&error),
            },
            _ => Kind::Refused,
        };
        Trouble { kind, text }
    }
}

type Link<'a> = &'a (dyn std::error::Error + 'static);

/// The links of an error's chain, itself first.
fn chain(error: &object_store::Error) -> impl Iterator<Item = Link<'_>> {
    std::iter::successors(Some(error as Link<'_>), |link: &Link<'_>| link.source())
}

fn innermost(error: &object_store::Error) -> String {
    chain(error).last().map(|link| link.to_string()).unwrap_or_default()
}

fn kind_without_answer(error: &object_store::Error) -> Kind {
    // Plain HTTP that was not allowed, and a redirect to another region, are settings.
    let settings = ["URL scheme is not allowed", "Received redirect without LOCATION"];
    if settings.iter().any(|text| innermost(error).contains(text)) {
        return Kind::Refused;
    }
    if chain(error).any(|link| link.is::<HttpError>()) {
        return Kind::Away;
    }
    use io::ErrorKind::{
        InvalidFilename, InvalidInput, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem,
        Unsupported,
    };
    match chain(error).find_map(|link| link.downcast_ref::<io::Error>()).map(io::Error::kind) {
        Some(
            PermissionDenied | ReadOnlyFilesystem | NotADirectory | IsADirectory | InvalidInput
            | InvalidFilename,
        ) => Kind::Refused,
        Some(Unsupported) => Kind::Unsupported,
        _ => Kind::Away,
    }
}

/// An answer that was no success.
struct Answer {
    status: u16,
    code: String,
    message: String,
}

impl Answer {
    /// The client keeps the answer in a type of its own, which only tells it as text.
    fn find(error: &object_store::Error) -> Option<Answer> {
        chain(error).find_map(|link| Answer::parse(&link.to_string()))
    }

    fn parse(text: &str) -> Option<Answer> {
        let (status, body) = match text.strip_prefix("Server returned non-2xx status code: ") {
            Some(rest) => (rest.get(..3)?.parse().ok()?, rest.split_once(": ").map_or("", |(_, body)| body)),
            None => (200, text.strip_prefix("Server returned error response: ")?),
        };
        let code = element(body, "Code").unwrap_or_default();
        let message = element(body, "Message").or_else(|| json_message(body)).unwrap_or_default();
        Some(Answer { status, code: shorten(&code), message: shorten(&message) })
    }

    fn kind(&self) -> Kind {
        match self.status {
            501 => Kind::Unsupported,
            // An error inside of a success is one that the client was prepared to try again.
            200 | 408 | 429 | 500.. => Kind::Away,
            _ => Kind::Refused,
        }
    }

    fn is_without_bucket(&self) -> bool {
        let words = format!("{} {}", self.code, self.message).to_ascii_lowercase();
        ["nosuchbucket", "containernotfound", "bucket does not exist"].iter().any(|name| words.contains(name))
    }

    fn describe(&self) -> String {
        let mut text = format!("the store answered {}", self.status);
        let parts = [(" ", &self.code), (": ", &self.message)];
        for (separator, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
            let _ = write!(text, "{separator}{part}");
        }
        text
    }
}

/// The text of the first XML element of this name.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.to_owned())
}

fn json_message(body: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(body).ok()?;
    let message = answer.pointer("/error/message").or_else(|| answer.get("error_description"))?;
    message.as_str().map(str::to_owned)
}

/// The first line, and not too much of it.
fn shorten(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(300).collect()
}

/// Values that must never be shown.
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a str>) -> Secrets {
        // Parts too: a SAS token comes in parts, and may be in one form here and in another there.
        let parts = values.flat_map(|value| std::iter::once(value).chain(value.split(['&', '=', '?'])));
        let mut parts: Vec<String> =
            parts.filter(|part| part.len() >= SECRET_LENGTH_MIN).map(str::to_owned).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        Secrets(parts)
    }

    pub(super) fn hide(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for secret in &self.0 {
            shown = shown.replace(secret, "***");
        }
        let words = shown.split(' ').map(|word| match word.split_once('?') {
            Some((address, _)) if address.contains("://") => format!("{address}?***"),
            _ => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Shorter ones would take words of the message with them.
const SECRET_LENGTH_MIN: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_by_status_code_and_message() {
        let cases = [
            (
                "503 Service Unavailable: <Error><Code>SlowDown</Code><Message>less\nplease</Message></Error>",
                Kind::Away,
                "the store answered 503 SlowDown: less",
            ),
            (
                "403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>",
                Kind::Refused,
                "the store answered 403 SignatureDoesNotMatch",
            ),
            (
                r#"400 Bad Request: {"error": {"code": 400, "message": "no"}}"#,
                Kind::Refused,
                "the store answered 400: no",
            ),
            ("429 Too Many Requests: ", Kind::Away, "the store answered 429"),
            ("501 Not Implemented: <html>", Kind::Unsupported, "the store answered 501"),
        ];
        for (text, kind, shown) in cases {
            let answer = Answer::parse(&format!("Server returned non-2xx status code: {text}")).unwrap();
            assert_eq!((answer.kind(), answer.describe().as_str()), (kind, shown));
        }
        assert!(Answer::parse("Server returned non-2xx status code: x").is_none());
        assert!(Answer::parse("connection refused").is_none());
    }

    #[test]
    fn secrets_are_hidden_whole_and_in_parts() {
        let secrets = Secrets::new(["?sv=2024&sig=abcdefgh%3D", "topsecret"].into_iter());
        let shown = secrets.hide("GET https://host/x?sig=other failed: abcdefgh%3D, topsecret, why?");
        assert_eq!(shown, "GET https://host/x?*** failed: ***, ***, why?");
    }
}
