//! What a row on the target tells of the change that has made it.

use std::borrow::Cow;

use super::kind::{BOOL, INT8, Kind, NUMERIC, PG_LSN, TEXT, TIMESTAMP, TIMESTAMPTZ};
use crate::model::{Format, Timestamp, Value};
use crate::pgoutput::Begin;

/// What a column tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metadata {
    /// Where the transaction's commit stands in the log; 0 of a row that was copied, which is below all others.
    Position,
    /// When the transaction was committed; null of a row that was copied.
    CommitTime,
    /// The transaction's id; null of a row that was copied.
    Xid,
    /// `copy`, `insert`, `update` or `delete`.
    Operation,
    /// From where it comes: the name of its stream on the target.
    Source,
    /// Whether the row is deleted.
    Deleted,
    /// When it was; null while it is there.
    DeletedAt,
    /// When a version of a row begins: with the transaction that makes it, and `-infinity` of a row that was copied.
    ValidFrom,
    /// When it ends: `infinity` while it is the last.
    ValidTo,
}

const NAMES: &[(&str, Metadata)] = &[
    ("lsn", Metadata::Position),
    ("commit-time", Metadata::CommitTime),
    ("xid", Metadata::Xid),
    ("operation", Metadata::Operation),
    ("source", Metadata::Source),
    ("deleted", Metadata::Deleted),
    ("deleted-at", Metadata::DeletedAt),
    ("valid-from", Metadata::ValidFrom),
    ("valid-to", Metadata::ValidTo),
];

/// What has made a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Copy,
    Insert,
    Update,
    Delete,
}

/// The change from which a row comes; of a copied one there is no transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp<'s> {
    pub(super) begin: Option<Begin>,
    pub(super) operation: Operation,
    pub(super) source: &'s str,
}

impl Metadata {
    pub(super) fn parse(name: &str) -> Option<Metadata> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, metadata)| *metadata)
    }

    pub(super) fn names() -> String {
        NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Types that it can have, the first where nothing else is said.
    fn types(self) -> &'static [u32] {
        match self {
            Metadata::Position => &[PG_LSN, INT8, NUMERIC, TEXT],
            Metadata::Xid => &[INT8, NUMERIC, TEXT],
            Metadata::Operation | Metadata::Source => &[TEXT],
            Metadata::Deleted => &[BOOL, TEXT],
            Metadata::ValidFrom | Metadata::ValidTo => &[TIMESTAMPTZ, TIMESTAMP],
            Metadata::CommitTime | Metadata::DeletedAt => &[TIMESTAMPTZ, TIMESTAMP, TEXT],
        }
    }

    /// The type of its column, or none where it can't have the one that is wanted.
    pub(super) fn kind(self, cast: Option<Kind>) -> Option<Kind> {
        let kind = cast.or_else(|| {
            self.types().first().map(|type_oid| Kind { type_oid: *type_oid, type_modifier: -1 })
        })?;
        (kind.type_modifier == -1 && self.types().contains(&kind.type_oid)).then_some(kind)
    }

    /// What it is of a row, as a text; none is null.
    pub(super) fn text(self, stamp: Stamp<'_>, kind: Kind) -> Option<Cow<'_, str>> {
        let Stamp { begin, operation, source } = stamp;
        let time = |begin: Option<Begin>| begin.map(|begin| begin.commit_time.to_string().into());
        match self {
            Metadata::Position => {
                let lsn = begin.map_or(crate::model::Lsn(0), |begin| begin.commit_lsn);
                let is_number = matches!(kind.type_oid, INT8 | NUMERIC);
                Some(if is_number { lsn.0.to_string().into() } else { lsn.to_string().into() })
            }
            Metadata::CommitTime => time(begin),
            Metadata::Xid => begin.map(|begin| begin.xid.0.to_string().into()),
            Metadata::Operation => Some(Cow::Borrowed(match operation {
                Operation::Copy => "copy",
                Operation::Insert => "insert",
                Operation::Update => "update",
                Operation::Delete => "delete",
            })),
            Metadata::Source => Some(Cow::Borrowed(source)),
            Metadata::Deleted => Some(Cow::Borrowed(if operation == Operation::Delete { "t" } else { "f" })),
            Metadata::DeletedAt => time(begin.filter(|_| operation == Operation::Delete)),
            Metadata::ValidFrom => time(begin).or(Some(Cow::Borrowed("-infinity"))),
            Metadata::ValidTo if operation == Operation::Delete => time(begin),
            Metadata::ValidTo => Some(Cow::Borrowed("infinity")),
        }
    }

    /// What it is of a row in this format, written into `spare`; none where it has no binary form of this type.
    pub(super) fn value<'s>(
        self,
        stamp: Stamp<'_>,
        kind: Kind,
        format: Format,
        spare: &'s mut Vec<u8>,
    ) -> Option<Value<'s>> {
        let Some(text) = self.text(stamp, kind) else { return Some(Value::Null) };
        spare.clear();
        if format == Format::Text {
            spare.extend_from_slice(text.as_bytes());
            return Some(Value::Text(spare));
        }
        let begin = stamp.begin;
        let time = |infinite: i64| begin.map_or(Timestamp(infinite), |begin| begin.commit_time).0;
        match (self, kind.type_oid) {
            (_, TEXT) => spare.extend_from_slice(text.as_bytes()),
            (Metadata::Position, PG_LSN | INT8) => {
                spare.extend_from_slice(&begin.map_or(0, |begin| begin.commit_lsn.0).to_be_bytes());
            }
            (Metadata::Xid, INT8) => {
                spare.extend_from_slice(&begin.map_or(0, |begin| u64::from(begin.xid.0)).to_be_bytes());
            }
            (Metadata::Deleted, BOOL) => spare.push(u8::from(stamp.operation == Operation::Delete)),
            (Metadata::ValidTo, TIMESTAMPTZ | TIMESTAMP) if stamp.operation != Operation::Delete => {
                spare.extend_from_slice(&i64::MAX.to_be_bytes());
            }
            (
                Metadata::CommitTime | Metadata::DeletedAt | Metadata::ValidFrom | Metadata::ValidTo,
                TIMESTAMPTZ | TIMESTAMP,
            ) => spare.extend_from_slice(&time(i64::MIN).to_be_bytes()),
            _ => return None,
        }
        Some(Value::Binary(spare))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, Xid};

    const COPIED: Stamp<'_> = Stamp { begin: None, operation: Operation::Copy, source: "eu" };
    const STAMP: Stamp<'_> = Stamp {
        begin: Some(Begin { commit_lsn: Lsn(0x1_0000_0010), commit_time: Timestamp(1), xid: Xid(7) }),
        operation: Operation::Update,
        source: "eu",
    };

    #[test]
    fn a_row_tells_of_its_change() {
        let text = |name: &str, stamp: Stamp<'_>| {
            let metadata = Metadata::parse(name).unwrap();
            metadata.text(stamp, metadata.kind(None).unwrap()).map(|text| text.to_string())
        };
        let deleted = Stamp { operation: Operation::Delete, ..STAMP };
        let time = Some("2000-01-01T00:00:00.000001Z");
        for (name, updated, gone, copied) in [
            ("lsn", Some("1/10"), Some("1/10"), Some("0/0")),
            ("commit-time", time, time, None),
            ("xid", Some("7"), Some("7"), None),
            ("source", Some("eu"), Some("eu"), Some("eu")),
            ("operation", Some("update"), Some("delete"), Some("copy")),
            ("deleted", Some("f"), Some("t"), Some("f")),
            ("deleted-at", None, time, None),
            ("valid-from", time, time, Some("-infinity")),
            ("valid-to", Some("infinity"), time, Some("infinity")),
        ] {
            assert_eq!(text(name, STAMP).as_deref(), updated, "{name}");
            assert_eq!(text(name, deleted).as_deref(), gone, "{name}");
            assert_eq!(text(name, COPIED).as_deref(), copied, "{name}");
        }
        let number = Metadata::Position.text(STAMP, Kind::parse("int8").unwrap());
        assert_eq!(number.as_deref(), Some("4294967312"));
    }

    #[test]
    fn in_binary_form_it_is_the_same() {
        let binary = |name: &str, cast: Option<&str>, stamp: Stamp<'_>| {
            let metadata = Metadata::parse(name).unwrap();
            let kind = metadata.kind(cast.and_then(Kind::parse)).unwrap();
            let mut spare = Vec::new();
            match metadata.value(stamp, kind, Format::Binary, &mut spare) {
                Some(Value::Binary(bytes)) => Some(bytes.to_vec()),
                Some(Value::Null) => Some(Vec::new()),
                _ => None,
            }
        };
        let number = |number: i64| Some(number.to_be_bytes().to_vec());
        assert_eq!(binary("lsn", None, STAMP), number(0x1_0000_0010));
        assert_eq!(binary("lsn", Some("text"), STAMP), Some(b"1/10".to_vec()));
        assert_eq!(binary("lsn", Some("numeric"), STAMP), None);
        assert_eq!(binary("xid", None, STAMP), number(7));
        assert_eq!(binary("deleted", None, STAMP), Some(vec![0]));
        assert_eq!(binary("deleted-at", None, STAMP), Some(vec![]));
        assert_eq!(binary("valid-from", None, STAMP), number(1));
        assert_eq!(binary("valid-from", None, COPIED), number(i64::MIN));
        assert_eq!(binary("valid-to", None, STAMP), number(i64::MAX));
        assert_eq!(binary("valid-to", None, Stamp { operation: Operation::Delete, ..STAMP }), number(1));
    }

    #[test]
    fn it_has_types_that_hold_it() {
        let kind = |name: &str, cast: &str| Metadata::parse(name).unwrap().kind(Kind::parse(cast));
        assert!(kind("lsn", "numeric").is_some());
        assert!(kind("valid-to", "timestamp").is_some());
        for (name, cast) in [
            ("lsn", "int4"),
            ("lsn", "numeric(5)"),
            ("valid-to", "text"),
            ("xid", "uuid"),
            ("operation", "int8"),
        ] {
            assert_eq!(kind(name, cast), None, "{name} as {cast}");
        }
    }
}
