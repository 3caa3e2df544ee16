//! Types of columns as rules see them, by their OIDs (`pg_type.dat`).

pub(super) const BOOL: u32 = 16;
const BYTEA: u32 = 17;
pub(super) const INT8: u32 = 20;
pub(super) const TEXT: u32 = 25;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const UUID: u32 = 2950;
pub(super) const TIMESTAMP: u32 = 1114;
pub(super) const TIMESTAMPTZ: u32 = 1184;
pub(super) const NUMERIC: u32 = 1700;
pub(super) const PG_LSN: u32 = 3220;
/// What a modifier has on top (VARHDRSZ).
const HEADER: i32 = 4;
/// Types of users, extensions and domains begin here (transam.h, `FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16_384;

/// Names that a cast may have, and the types' OIDs.
const NAMES: &[(&str, u32)] = &[
    ("bool", BOOL),
    ("boolean", BOOL),
    ("bytea", BYTEA),
    ("int8", INT8),
    ("bigint", INT8),
    ("int2", 21),
    ("smallint", 21),
    ("int4", 23),
    ("integer", 23),
    ("int", 23),
    ("text", TEXT),
    ("json", 114),
    ("xml", 142),
    ("cidr", 650),
    ("float4", 700),
    ("real", 700),
    ("float8", 701),
    ("double precision", 701),
    ("macaddr", 829),
    ("inet", 869),
    ("char", BPCHAR),
    ("varchar", VARCHAR),
    ("character varying", VARCHAR),
    ("date", 1082),
    ("time", 1083),
    ("timestamp", TIMESTAMP),
    ("timestamptz", TIMESTAMPTZ),
    ("timestamp with time zone", TIMESTAMPTZ),
    ("interval", 1186),
    ("numeric", NUMERIC),
    ("decimal", NUMERIC),
    ("uuid", UUID),
    ("jsonb", 3802),
    ("pg_lsn", PG_LSN),
];

/// A type with its modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) type_oid: u32,
    pub(super) type_modifier: i32,
}

impl Kind {
    /// That of the target's column, whatever it is: a text goes to its input function.
    pub(super) const ANY: Kind = Kind { type_oid: 0, type_modifier: -1 };

    /// `int4`, `varchar(20)`, `numeric(10,2)`.
    pub(super) fn parse(text: &str) -> Option<Kind> {
        let (name, modifiers) = match text.split_once('(') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(')')?)),
            None => (text, None),
        };
        let (_, type_oid) = NAMES.iter().find(|(known, _)| *known == name.trim())?;
        let numbers: Option<Vec<i32>> = modifiers
            .map(|numbers| numbers.split(',').map(|number| number.trim().parse().ok()).collect())
            .unwrap_or(Some(Vec::new()));
        let type_modifier = match (*type_oid, numbers?.as_slice()) {
            (_, []) => -1,
            (BPCHAR | VARCHAR, [length @ 1..=10_485_760]) => length + HEADER,
            (NUMERIC, [precision @ 1..=1000]) => (precision << 16) + HEADER,
            (NUMERIC, [precision @ 1..=1000, scale]) if (0..=*precision).contains(scale) => {
                ((precision << 16) | scale) + HEADER
            }
            _ => return None,
        };
        Some(Kind { type_oid: *type_oid, type_modifier })
    }

    /// Any text is a value of it, and its binary form is the same bytes.
    pub(super) fn is_text(self) -> bool {
        matches!(self.type_oid, TEXT | VARCHAR | BPCHAR)
    }

    /// Values may be padded with spaces that mean nothing.
    pub(super) fn is_padded(self) -> bool {
        self.type_oid == BPCHAR
    }

    /// What a hash is in a column of this type.
    pub(super) fn digest(self) -> Option<Digest> {
        match self.type_oid {
            VARCHAR | BPCHAR if self.type_modifier >= HEADER => {
                let length = usize::try_from(self.type_modifier - HEADER).ok()?.min(DIGITS);
                (length >= DIGITS_MIN).then_some(Digest::Digits(length))
            }
            TEXT | VARCHAR | BPCHAR => Some(Digest::Digits(DIGITS)),
            BYTEA => Some(Digest::Bytes),
            UUID => Some(Digest::Uuid),
            INT8 => Some(Digest::Number),
            // citext, and domains; of a type that takes no digits the target refuses them.
            other if other >= FIRST_NORMAL_OID => Some(Digest::Digits(DIGITS)),
            _ => None,
        }
    }
}

/// The form of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digest {
    /// So many hexadecimal digits.
    Digits(usize),
    /// 16 bytes.
    Bytes,
    Uuid,
    /// Of 63 bits, so that it is positive.
    Number,
}

/// 128 bits, and the fewest that keep values apart.
const DIGITS: usize = 32;
const DIGITS_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_have_the_names_of_types() {
        let check = |text: &str, expected: Option<(u32, i32)>| {
            let found = Kind::parse(text).map(|kind| (kind.type_oid, kind.type_modifier));
            assert_eq!(found, expected, "{text}");
        };
        check("int4", Some((23, -1)));
        check("double precision", Some((701, -1)));
        check("varchar(20)", Some((1043, 24)));
        check("numeric(10, 2)", Some((1700, (10 << 16 | 2) + 4)));
        check("numeric(10)", Some((1700, (10 << 16) + 4)));
        for wrong in [
            "int5",
            "int4(2)",
            "varchar(0)",
            "varchar(x)",
            "varchar(2",
            "numeric(2,3)",
            "numeric(1,1,1)",
            "",
            "(2)",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_hash_wants_a_column_that_keeps_values_apart() {
        let digest = |text: &str| Kind::parse(text).and_then(Kind::digest);
        assert_eq!(digest("text"), Some(Digest::Digits(32)));
        assert_eq!(digest("varchar(20)"), Some(Digest::Digits(20)));
        assert_eq!(digest("varchar(200)"), Some(Digest::Digits(32)));
        assert_eq!(digest("uuid"), Some(Digest::Uuid));
        assert_eq!(digest("int8"), Some(Digest::Number));
        for none in ["varchar(15)", "int4", "int2", "numeric", "date", "jsonb"] {
            assert_eq!(digest(none), None, "{none}");
        }
    }
}
