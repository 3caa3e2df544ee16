//! Values as a template and numbers: `2026-01-05 07:31:33.25` is `#-#-# #:#:#.#` and seven numbers.

/// Stands in a template for a number. No text has it.
pub(super) const MARK: u8 = 0;
/// Longer values are not looked at.
pub(super) const VALUE_BYTES_MAX: usize = 96;
pub(super) const NUMBERS_MAX: usize = 12;
/// Any number of so many digits fits into 64 bits, scaled or not.
pub(super) const DIGITS_MAX: usize = 18;

/// A number of a value, and how many digits were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digits {
    pub(super) value: i64,
    pub(super) digits: u8,
}

/// Splits a value into its template and its numbers. A minus at the start belongs to the number behind it unless that begins
/// with a zero. `false` where the value is not of that kind.
pub(super) fn split(value: &[u8], template: &mut Vec<u8>, numbers: &mut Vec<Digits>) -> bool {
    template.clear();
    numbers.clear();
    if value.len() > VALUE_BYTES_MAX {
        return false;
    }
    let negative = matches!(value, [b'-', b'1'..=b'9', ..]);
    let (mut number, mut digits) = (0i64, 0);
    let mut end = |number: i64, digits: u8, template: &mut Vec<u8>| {
        let value = if negative && numbers.is_empty() { -number } else { number };
        numbers.push(Digits { value, digits });
        template.push(MARK);
        numbers.len() <= NUMBERS_MAX
    };
    for byte in value.iter().skip(negative.into()) {
        if byte.is_ascii_digit() {
            // What wraps is refused below.
            number = number.wrapping_mul(10).wrapping_add((byte - b'0').into());
            digits += 1;
            continue;
        }
        if usize::from(digits) > DIGITS_MAX || *byte == MARK {
            return false;
        }
        if digits > 0 && !end(number, digits, template) {
            return false;
        }
        (number, digits) = (0, 0);
        template.push(*byte);
    }
    usize::from(digits) <= DIGITS_MAX && (digits == 0 || end(number, digits, template))
}

/// How the numbers of one place of a template are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Without leading zeros.
    Natural,
    /// With leading zeros, so many digits.
    Padded(u8),
    /// What stands behind a decimal point, without trailing zeros: kept as if it had so many digits.
    Fraction(u8),
}

impl Format {
    pub(super) fn of(numbers: &[Digits], behind_point: bool) -> Option<Format> {
        let most = numbers.iter().map(|number| number.digits).max()?;
        let natural = || {
            numbers.iter().all(|n| n.digits == n.value.unsigned_abs().checked_ilog10().unwrap_or(0) as u8 + 1)
        };
        let padded = || numbers.iter().all(|number| number.digits == most && number.value >= 0);
        let fraction = || numbers.iter().all(|number| number.value > 0 && number.value % 10 != 0);
        match behind_point {
            true if padded() => Some(Format::Padded(most)),
            true if fraction() => Some(Format::Fraction(most)),
            _ if natural() => Some(Format::Natural),
            _ if padded() => Some(Format::Padded(most)),
            _ if fraction() => Some(Format::Fraction(most)),
            _ => None,
        }
    }

    pub(super) fn code(self) -> [u8; 2] {
        match self {
            Format::Natural => [0, 0],
            Format::Padded(digits) => [1, digits],
            Format::Fraction(digits) => [2, digits],
        }
    }

    pub(super) fn from_code(code: [u8; 2]) -> Option<Format> {
        match code {
            [0, 0] => Some(Format::Natural),
            [1, digits] if usize::from(digits) <= DIGITS_MAX => Some(Format::Padded(digits)),
            [2, digits] if usize::from(digits) <= DIGITS_MAX => Some(Format::Fraction(digits)),
            _ => None,
        }
    }

    /// What is kept of a number.
    pub(super) fn kept(self, number: Digits) -> u64 {
        match self {
            Format::Fraction(digits) => {
                number.value.wrapping_mul(10i64.wrapping_pow((digits - number.digits).into())) as u64
            }
            _ => number.value as u64,
        }
    }

    /// Writes a number as it was.
    pub(super) fn write(self, kept: u64, out: &mut Vec<u8>) {
        let mut digits = [b'0'; 20];
        let negative = self == Format::Natural && (kept as i64) < 0;
        let mut left = if negative { kept.wrapping_neg() } else { kept };
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
            used += 1;
            if left == 0 {
                break;
            }
        }
        let wanted = match self {
            Format::Natural => used,
            Format::Padded(wanted) | Format::Fraction(wanted) => used.max(wanted.into()),
        };
        let mut text = digits.get(digits.len().saturating_sub(wanted)..).unwrap_or_default();
        if matches!(self, Format::Fraction(_)) {
            while let [head @ .., b'0'] = text {
                text = head;
            }
        }
        if negative {
            out.push(b'-');
        }
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[&str]) -> bool {
        let (mut template, mut numbers, mut first) = (Vec::new(), Vec::new(), None);
        let mut fields: Vec<Vec<Digits>> = Vec::new();
        for value in values {
            if !split(value.as_bytes(), &mut template, &mut numbers) {
                return false;
            }
            assert_eq!(*first.get_or_insert_with(|| template.clone()), template);
            fields.resize(numbers.len(), Vec::new());
            fields.iter_mut().zip(&numbers).for_each(|(field, number)| field.push(*number));
        }
        let literals: Vec<&[u8]> = template.split(|byte| *byte == MARK).collect();
        let formats: Option<Vec<Format>> = fields
            .iter()
            .zip(&literals)
            .map(|(field, before)| Format::of(field, before.last() == Some(&b'.')))
            .collect();
        let Some(formats) = formats else { return false };
        for (row, value) in values.iter().enumerate() {
            let mut out = literals[0].to_vec();
            for ((format, field), behind) in formats.iter().zip(&fields).zip(&literals[1..]) {
                assert_eq!(Format::from_code(format.code()), Some(*format));
                format.write(format.kept(field[row]), &mut out);
                out.extend_from_slice(behind);
            }
            assert_eq!(String::from_utf8(out).unwrap(), *value);
        }
        true
    }

    #[test]
    fn usual_values_are_templates() {
        for values in [
            &["0", "7", "-12", "999999999999999999"][..],
            &["2026-01-05 07:31:33.25+00", "2025-12-31 23:59:59.000001+00"],
            &["1234.5600", "0.0001"],
            &["-0.5", "-0.25"],
            &["00:00:00", "23:59:59"],
            &["{1,20,-3}", "{100,2,-3}"],
            &["", ""],
            &["new", "new"],
            &["5.1", "17.25"],
        ] {
            assert!(check(values), "{values:?}");
        }
        for values in [&["1234567890123456789"][..], &["a\0b"], &["007", "7", "10", "00"]] {
            assert!(!check(values), "{values:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_numbers_come_back(values in prop::collection::vec("-?[0-9]{1,20}", 1..6), dotted in "[0-9]{1,4}\\.[0-9]{1,9}") {
            for value in &values {
                check(&[value.as_str()]);
            }
            check(&[dotted.as_str()]);
        }

        #[test]
        fn any_text_comes_back(value in "[ -~]{0,40}") {
            check(&[value.as_str()]);
        }
    }
}
