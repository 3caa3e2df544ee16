//! Whether a column of the target keeps every value of a column of the source.
//!
//! Values travel as text. Most types refuse a text that they can't hold, and that refusal is seen; some take it and lose a
//! part without a word: `numeric(10,2)` rounds, `date` drops the time of day, `json` in `jsonb` its spaces. Such pairs are
//! refused before the first value. Types are named by their OIDs on the target.

/// A column's type as the target knows it. Domains count as what they stand on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnType {
    /// 0 where the target has no type of that name, or where the log does not tell the type.
    pub oid: u32,
    /// Of an array, the type of its elements; otherwise 0.
    pub element: u32,
    /// `pg_attribute.atttypmod`, or that of the domain; -1 is none.
    pub modifier: i32,
    pub kind: TypeKind,
    /// Without schema.
    pub name: String,
    /// As SQL names it, modifier included.
    pub sql: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TypeKind {
    #[default]
    Other,
    /// Its values are labels: a text is one of them or an error.
    Enum,
    /// Kept as text that is only compared differently (citext).
    TextLike,
    Domain,
}

/// OIDs of built-in types (`pg_type.dat`); those are the same everywhere.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const XML: u32 = 142;
    pub(super) const CIDR: u32 = 650;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const INET: u32 = 869;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const TIMETZ: u32 = 1266;
    pub(super) const BIT: u32 = 1560;
    pub(super) const VARBIT: u32 = 1562;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const JSONB: u32 = 3802;
}

/// What the most precise times have.
const MICROSECONDS: i32 = 6;
/// What a `varchar`'s or `numeric`'s modifier has on top (VARHDRSZ).
const HEADER: i32 = 4;

/// Whether every value of `source` is either kept by `target` as it is, or refused by it with an error.
pub(super) fn keeps(source: &ColumnType, target: &ColumnType) -> bool {
    if source.oid == 0 && source.name == target.name {
        // The same type in another schema, as of an extension.
        return keeps_modifier(0, source.modifier, target.modifier);
    }
    if source.element != 0 && target.element != 0 && source.oid != target.oid {
        return keeps_plain(source, source.element, target, target.element);
    }
    if source.element != 0 && target.element != 0 {
        return keeps_modifier(target.element, source.modifier, target.modifier);
    }
    keeps_plain(source, source.oid, target, target.oid)
}

fn keeps_plain(source: &ColumnType, from: u32, target: &ColumnType, to: u32) -> bool {
    let texts = matches!(from, oid::TEXT | oid::VARCHAR);
    let unlimited = target.modifier < HEADER;
    match to {
        _ if from == to => {
            // A domain's modifier is not in the log; two domains are taken to be the same one.
            target.kind == TypeKind::Domain && source.kind == TypeKind::Domain
                || keeps_modifier(to, source.modifier, target.modifier)
        }
        oid::TEXT => true,
        oid::VARCHAR if unlimited => true,
        oid::VARCHAR => match from {
            // What is too long is an error, but spaces at the end would be cut off.
            oid::BPCHAR => (HEADER..=target.modifier).contains(&source.modifier),
            _ => is_scalar(from),
        },
        oid::INT2 | oid::INT4 | oid::INT8 => is_number(from),
        oid::NUMERIC if target.modifier < HEADER => is_number(from),
        oid::NUMERIC => matches!(from, oid::INT2 | oid::INT4 | oid::INT8) && scale(target.modifier) >= 0,
        oid::FLOAT4 => from == oid::INT2,
        oid::FLOAT8 => matches!(from, oid::FLOAT4 | oid::INT2 | oid::INT4),
        oid::VARBIT => from == oid::BIT,
        oid::BIT => from == oid::VARBIT,
        oid::INET => from == oid::CIDR,
        oid::JSON => texts || from == oid::JSONB,
        oid::XML => texts,
        _ => match target.kind {
            TypeKind::Enum => texts || source.kind == TypeKind::Enum || from == 0, // the source's own enum
            TypeKind::TextLike => texts,
            TypeKind::Domain | TypeKind::Other => false,
        },
    }
}

/// The same type on both sides, with these modifiers.
fn keeps_modifier(of: u32, source: i32, target: i32) -> bool {
    if target == source || target < 0 {
        return true;
    }
    match of {
        oid::NUMERIC => source >= HEADER && scale(source) <= scale(target),
        oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            target >= if source < 0 { MICROSECONDS } else { source }
        }
        oid::VARCHAR => source >= HEADER && source <= target,
        // Another length is an error, or spaces that don't count.
        oid::BPCHAR | oid::BIT | oid::VARBIT => true,
        _ => false,
    }
}

/// Digits behind the point: eleven bits with a sign (numeric.c, `numeric_typmod_scale`).
fn scale(modifier: i32) -> i32 {
    (((modifier - HEADER) & 0x7ff) ^ 1024) - 1024
}

fn is_number(of: u32) -> bool {
    matches!(of, oid::INT2 | oid::INT4 | oid::INT8 | oid::OID | oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8)
}

/// Whose text never ends in spaces.
fn is_scalar(of: u32) -> bool {
    is_number(of)
        || matches!(of, oid::BOOL | oid::UUID | oid::INET | oid::CIDR | oid::BIT | oid::VARBIT)
        || matches!(of, oid::DATE | oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(oid: u32, modifier: i32, element: u32, kind: TypeKind) -> ColumnType {
        ColumnType { oid, element, modifier, kind, ..ColumnType::default() }
    }

    fn plain(oid: u32, modifier: i32) -> ColumnType {
        kind(oid, modifier, 0, TypeKind::Other)
    }

    fn numeric(precision: i32, scale: i32) -> ColumnType {
        plain(oid::NUMERIC, (precision << 16 | (scale & 0x7ff)) + HEADER)
    }

    #[track_caller]
    fn check(source: &ColumnType, target: &ColumnType, expected: bool) {
        assert_eq!(keeps(source, target), expected, "{source:?} in {target:?}");
    }

    #[test]
    fn the_same_type_keeps_all_unless_it_is_narrower() {
        for oid in [oid::BOOL, oid::INT4, oid::FLOAT4, oid::JSON, oid::DATE, 99_999] {
            check(&plain(oid, -1), &plain(oid, -1), true);
        }
        check(&numeric(10, 2), &numeric(10, 2), true);
        check(&numeric(10, 2), &numeric(12, 4), true);
        check(&numeric(10, 2), &numeric(8, 2), true); // what is too large is an error
        check(&numeric(10, 2), &numeric(12, 1), false);
        check(&numeric(10, 2), &plain(oid::NUMERIC, -1), true);
        check(&plain(oid::NUMERIC, -1), &numeric(10, 2), false);
        check(&numeric(10, -2), &numeric(10, 0), true);
        check(&numeric(10, 0), &numeric(10, -2), false);
        check(&plain(oid::TIMESTAMP, -1), &plain(oid::TIMESTAMP, 6), true);
        check(&plain(oid::TIMESTAMP, -1), &plain(oid::TIMESTAMP, 0), false);
        check(&plain(oid::TIMESTAMPTZ, 0), &plain(oid::TIMESTAMPTZ, 3), true);
        check(&plain(oid::TIME, 3), &plain(oid::TIME, 0), false);
        check(&plain(oid::VARCHAR, 9), &plain(oid::VARCHAR, 14), true);
        check(&plain(oid::VARCHAR, 14), &plain(oid::VARCHAR, 9), false);
        check(&plain(oid::BPCHAR, 9), &plain(oid::BPCHAR, 7), true);
        check(&plain(99_999, 7), &plain(99_999, 8), false);
    }

    #[test]
    fn wider_types_keep_what_narrower_ones_hold() {
        let check = |from: u32, to: u32, expected| check(&plain(from, -1), &plain(to, -1), expected);
        for (from, to) in [
            (oid::INT4, oid::INT8),
            (oid::INT8, oid::INT4),
            (oid::INT8, oid::NUMERIC),
            (oid::NUMERIC, oid::INT4),
            (oid::VARCHAR, oid::TEXT),
            (oid::TEXT, oid::VARCHAR),
            (oid::JSONB, oid::JSON),
            (oid::TIMESTAMP, oid::TEXT),
            (oid::FLOAT4, oid::FLOAT8),
        ] {
            check(from, to, true);
        }
        for (from, to) in [
            (oid::INT8, oid::FLOAT8),
            (oid::FLOAT8, oid::FLOAT4),
            (oid::NUMERIC, oid::FLOAT8),
            (oid::TIMESTAMP, oid::DATE),
            (oid::TIMESTAMPTZ, oid::TIMESTAMP),
            (oid::TIMESTAMP, oid::TIME),
            (oid::JSON, oid::JSONB),
            (oid::TEXT, oid::INT4),
            (oid::TEXT, oid::BPCHAR),
            (oid::INT4, oid::BOOL),
        ] {
            check(from, to, false);
        }
        assert!(!keeps(&plain(oid::TEXT, -1), &plain(oid::VARCHAR, 24)));
        assert!(keeps(&plain(oid::INT4, -1), &plain(oid::VARCHAR, 24)));
        assert!(keeps(&plain(oid::INT4, -1), &numeric(10, 2)));
        assert!(!keeps(&plain(oid::FLOAT8, -1), &numeric(10, 2)));
    }

    #[test]
    fn arrays_keep_what_their_elements_keep() {
        let array = |oid, element, modifier| kind(oid, modifier, element, TypeKind::Other);
        check(&array(1007, oid::INT4, -1), &array(1016, oid::INT8, -1), true);
        check(&array(1021, oid::FLOAT4, -1), &array(1007, oid::INT4, -1), true);
        check(&array(1115, oid::TIMESTAMP, -1), &array(1182, oid::DATE, -1), false);
        check(&array(1231, oid::NUMERIC, -1), &array(1231, oid::NUMERIC, numeric(9, 2).modifier), false);
        check(&array(1007, oid::INT4, -1), &plain(oid::TEXT, -1), true);
        check(&plain(oid::TEXT, -1), &array(1007, oid::INT4, -1), false);
    }

    #[test]
    fn named_types() {
        let label = kind(70_000, -1, 0, TypeKind::Enum);
        check(&plain(oid::TEXT, -1), &label, true);
        check(&kind(70_001, -1, 0, TypeKind::Enum), &label, true);
        check(&plain(oid::INT4, -1), &label, false);
        check(&plain(oid::VARCHAR, -1), &kind(70_002, -1, 0, TypeKind::TextLike), true);
        check(&plain(70_003, -1), &plain(oid::TEXT, -1), true);
        let domain = kind(oid::NUMERIC, numeric(10, 2).modifier, 0, TypeKind::Domain);
        check(&kind(oid::NUMERIC, -1, 0, TypeKind::Domain), &domain, true);
        check(&plain(oid::NUMERIC, -1), &domain, false);
    }
}
