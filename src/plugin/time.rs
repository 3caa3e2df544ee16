//! Commit times as `timestamptz_to_str` prints them in a session in UTC: `2026-11-22 04:06:05.123456+00`.

use crate::model::Timestamp;

/// None where the text is something else. Times beyond the calendar at hand come out at its end; they are only shown.
pub(super) fn parse(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (date, clock) = text.strip_suffix("+00")?.split_once(' ')?;
    let mut date = date.split('-');
    let mut part = || date.next()?.parse::<i32>().ok();
    let (year, month, day) = (part()?, part()?, part()?);
    let year = if before_christ { 1 - year } else { year };
    let day = jiff::civil::Date::new(
        i16::try_from(year.min(9999)).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
    );
    let time = day.ok()?.to_datetime(clock.parse::<jiff::civil::Time>().ok()?);
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp::from_unix_microseconds(time.timestamp().as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, shown) in [
            ("2026-11-22 04:06:05.123456+00", "2026-11-22T04:06:05.123456Z"),
            ("2000-01-01 00:00:00+00", "2000-01-01T00:00:00.000000Z"),
            ("2026-11-22 04:06:05.12+00", "2026-11-22T04:06:05.120000Z"),
            ("0044-03-15 12:00:00+00 BC", "-000043-03-15T12:00:00.000000Z"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().to_string(), shown);
        }
        for text in
            ["", "2026-11-22", "2026-13-22 04:06:05+00", "2026-11-22 04:06:05+09", "infinity", "\u{fc}"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
