//! What PostgreSQL printed as the values of a Parquet column, exactly or not at all. Pure.

use crate::model::Column;

/// What a column becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// With its bits.
    Int32(i8),
    Int64,
    /// `oid`.
    Unsigned,
    Float,
    Double,
    /// Of at most 38 digits.
    Decimal {
        precision: i32,
        scale: i32,
    },
    Date,
    Timestamp {
        utc: bool,
    },
    Uuid,
    Bytes,
    Text,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Typed {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Float(f32),
    Double(f64),
    Int128(i128),
    Bytes(Vec<u8>),
}

/// Decimals of more digits fit no 64 bits.
pub(super) const DIGITS_64: i32 = 18;
const DIGITS_128: i32 = 38;

impl Kind {
    /// By the type's OID at the source, where it is built in (pg_type.dat).
    pub(super) fn of(column: &Column) -> Kind {
        match column.type_oid {
            16 => Kind::Bool,
            17 => Kind::Bytes,
            20 => Kind::Int64,
            21 => Kind::Int32(16),
            23 => Kind::Int32(32),
            26 => Kind::Unsigned,
            700 => Kind::Float,
            701 => Kind::Double,
            1082 => Kind::Date,
            1114 => Kind::Timestamp { utc: false },
            1184 => Kind::Timestamp { utc: true },
            1700 => decimal(column.type_modifier).unwrap_or(Kind::Text),
            2950 => Kind::Uuid,
            _ => Kind::Text,
        }
    }

    /// `None` where a column of this kind can't hold the value, as an infinity.
    pub(super) fn read(self, text: &str) -> Option<Typed> {
        match self {
            Kind::Bool if text == "t" => Some(Typed::Bool(true)),
            Kind::Bool if text == "f" => Some(Typed::Bool(false)),
            Kind::Bool => None,
            Kind::Int32(bits) => {
                let number: i32 = text.parse().ok()?;
                (bits == 32 || i16::try_from(number).is_ok()).then_some(Typed::Int32(number))
            }
            Kind::Int64 => text.parse().ok().map(Typed::Int64),
            Kind::Unsigned => text.parse().ok().map(|number: u32| Typed::Int32(number.cast_signed())),
            // The shortest text that gives the very same bits, with extra_float_digits = 3.
            Kind::Float => text.parse().ok().map(Typed::Float),
            Kind::Double => text.parse().ok().map(Typed::Double),
            Kind::Decimal { precision, scale } => {
                let number = scaled(text, scale)?;
                let fits = number.unsigned_abs() < 10u128.pow(precision.unsigned_abs());
                let number = fits.then_some(number)?;
                if precision <= DIGITS_64 {
                    i64::try_from(number).ok().map(Typed::Int64)
                } else {
                    Some(Typed::Int128(number))
                }
            }
            Kind::Date => date(text).and_then(|days| i32::try_from(days).ok()).map(Typed::Int32),
            Kind::Timestamp { utc } => timestamp(text, utc).map(Typed::Int64),
            Kind::Uuid => {
                let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
                hex(&digits).filter(|bytes| bytes.len() == 16).map(Typed::Bytes)
            }
            Kind::Bytes => hex(text.strip_prefix("\\x")?.as_bytes()).map(Typed::Bytes),
            Kind::Text => Some(Typed::Bytes(text.as_bytes().to_vec())),
        }
    }
}

/// By the modifier of `numeric(precision, scale)` (numeric.c): none without one, or with one that Parquet does not have.
fn decimal(modifier: i32) -> Option<Kind> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = (packed >> 16) & 0xffff;
    // 11 bits with a sign, since PostgreSQL 15.
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    (precision <= DIGITS_128 && (0..=precision).contains(&scale))
        .then_some(Kind::Decimal { precision, scale })
}

/// `-1.50` at a scale of 3 is -1500.
fn scaled(text: &str, scale: i32) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let missing = usize::try_from(scale).ok()?.checked_sub(fraction.len())?;
    let is_number =
        !whole.is_empty() && [whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    if !is_number {
        return None;
    }
    let number: i128 = format!("{whole}{fraction}{}", "0".repeat(missing)).parse().ok()?;
    Some(if negative { -number } else { number })
}

/// Days since 1970-01-01 of `2026-01-31` and `0044-03-15 BC`.
fn date(text: &str) -> Option<i64> {
    let (text, is_before) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let mut parts = text.split('-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let is_date = parts.next().is_none() && (1..=12).contains(&month) && (1..=31).contains(&day) && year > 0;
    is_date.then(|| days(if is_before { 1 - year } else { year }, month, day))
}

fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && text.len() < 8 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

/// Of the proleptic Gregorian calendar, as PostgreSQL has it; years are counted from March, so that the leap day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

const SECOND: i64 = 1_000_000;

/// Microseconds since 1970 of `2026-01-31 10:42:00.5`, and with `utc` of one that ends in `+00`.
fn timestamp(text: &str, utc: bool) -> Option<i64> {
    let (rest, before) = text.strip_suffix(" BC").map_or((text, ""), |text| (text, " BC"));
    let (day, time) = rest.split_once(' ')?;
    let (time, offset) = match (utc, time.find(['+', '-'])) {
        (true, Some(at)) => (time.get(..at)?, offset(time.get(at..)?)?),
        (false, None) => (time, 0),
        _ => return None,
    };
    let days = date(&format!("{day}{before}"))?;
    let seconds = days.checked_mul(86_400)?.checked_sub(offset)?;
    seconds.checked_mul(SECOND)?.checked_add(time_of_day(time)?)
}

fn time_of_day(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = if fraction.is_empty() { 0 } else { number(&format!("{fraction:0<6}"))? };
    Some(clock_seconds(clock)? * SECOND + fraction)
}

/// `10:42:01`; an offset may have fewer parts.
fn clock_seconds(text: &str) -> Option<i64> {
    let mut parts = text.split(':').map(number);
    let mut part = || parts.next().unwrap_or(Some(0));
    let (hours, minutes, seconds) = (part()?, part()?, part()?);
    (parts.next().is_none() && minutes < 60 && seconds < 61).then_some(hours * 3600 + minutes * 60 + seconds)
}

/// Seconds east of Greenwich.
fn offset(text: &str) -> Option<i64> {
    let seconds = clock_seconds(text.get(1..)?)?;
    Some(if text.starts_with('-') { -seconds } else { seconds })
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(type_oid: u32, type_modifier: i32) -> Kind {
        Kind::of(&Column { name: "c".into(), key: false, type_oid, type_modifier })
    }

    #[test]
    fn numerics_are_decimals_where_all_their_digits_fit() {
        let numeric = |precision: i32, scale: i32| kind(1700, (precision << 16 | scale & 0x7ff) + 4);
        assert_eq!(kind(1700, -1), Kind::Text);
        assert_eq!(numeric(9, 2), Kind::Decimal { precision: 9, scale: 2 });
        assert_eq!(numeric(38, 38), Kind::Decimal { precision: 38, scale: 38 });
        assert_eq!([numeric(39, 0), numeric(5, -2), numeric(2, 3)], [Kind::Text; 3]);
        let check = |precision: i32, scale: i32, text: &str, expected: Option<Typed>| {
            assert_eq!(Kind::Decimal { precision, scale }.read(text), expected, "{text}");
        };
        check(9, 2, "-1.50", Some(Typed::Int64(-150)));
        check(9, 2, "0.05", Some(Typed::Int64(5)));
        check(9, 2, "7", Some(Typed::Int64(700)));
        check(20, 0, "12345678901234567890", Some(Typed::Int128(12_345_678_901_234_567_890)));
        for text in ["NaN", "1.234", "Infinity", "", "-", "1e5", "12345678.90"] {
            check(9, 2, text, None);
        }
    }

    #[test]
    fn times_are_microseconds_and_infinities_are_not() {
        let check = |utc: bool, text: &str, expected: Option<i64>| {
            assert_eq!(Kind::Timestamp { utc }.read(text), expected.map(Typed::Int64), "{text}");
        };
        check(false, "1970-01-01 00:00:00", Some(0));
        check(false, "2000-01-01 00:00:00.000001", Some(946_684_800_000_001));
        check(false, "1969-12-31 23:59:59.5", Some(-500_000));
        check(false, "0001-12-31 00:00:00 BC", Some(-62_135_683_200_000_000));
        check(true, "2026-01-01 08:00:00+00", Some(1_767_254_400_000_000));
        check(true, "2026-01-01 10:30:00+02:30", Some(1_767_254_400_000_000));
        check(true, "2026-01-01 08:00:00", None);
        check(false, "2026-01-01 08:00:00+00", None);
        check(false, "infinity", None);
        check(false, "-infinity", None);
        // It does not fit 64 bits, counted from 1970.
        check(false, "294276-12-31 23:59:59.999999", None);
        let date = |text: &str, expected: Option<i32>| {
            assert_eq!(Kind::Date.read(text), expected.map(Typed::Int32), "{text}");
        };
        date("1970-01-01", Some(0));
        date("2024-02-29", Some(19_782));
        date("4714-11-24 BC", Some(-2_440_588));
        date("5874897-12-31", Some(2_145_042_905));
        date("infinity", None);
    }

    #[test]
    fn other_values_are_exact() {
        let check = |type_oid: u32, text: &str, expected: Option<Typed>| {
            let read = kind(type_oid, -1).read(text);
            // Of floats the bits.
            assert_eq!(format!("{read:?}"), format!("{expected:?}"), "{type_oid} {text}");
        };
        check(16, "t", Some(Typed::Bool(true)));
        check(21, "-32768", Some(Typed::Int32(-32768)));
        check(21, "32768", None);
        check(20, "9223372036854775807", Some(Typed::Int64(i64::MAX)));
        check(26, "4294967295", Some(Typed::Int32(-1)));
        check(700, "3.4028235e+38", Some(Typed::Float(f32::MAX)));
        check(701, "0.1", Some(Typed::Double(0.1)));
        check(701, "-0", Some(Typed::Double(-0.0)));
        check(701, "-Infinity", Some(Typed::Double(f64::NEG_INFINITY)));
        check(701, "NaN", Some(Typed::Double(f64::NAN)));
        check(17, "\\x00ff", Some(Typed::Bytes(vec![0, 255])));
        check(17, "\\x0", None);
        check(
            2950,
            "00000000-0000-0000-0000-0000000000ff",
            Some(Typed::Bytes([&[0; 15][..], &[255]].concat())),
        );
        check(114, "{ }", Some(Typed::Bytes(b"{ }".to_vec())));
    }
}
