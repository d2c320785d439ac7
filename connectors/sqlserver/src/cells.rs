//! Values of the protocol: how times count, and how values are written as the server reads them.

use chrono::{DateTime, NaiveDate, TimeDelta};
use tiberius::ColumnData;
use tiberius::time::{Date, DateTime as Ticks, DateTime2, SmallDateTime, Time};

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;
/// Days from 0001-01-01, where `date` begins, to 1970-01-01.
const TO_1970: i64 = 719_162;
/// Days from 1900-01-01, where `datetime` begins, to 1970-01-01.
const FROM_1900: i64 = 25_567;

/// Days since 1970-01-01.
pub(crate) fn days(date: Date) -> i32 {
    i32::try_from(i64::from(date.days()) - TO_1970).expect("a count of three bytes")
}

/// Microseconds of the day; a seventh digit after the second is cut. `None`: no time of day.
pub(crate) fn of_day(time: Time) -> Option<i64> {
    let micros = match time.scale() {
        scale @ 0..=6 => time.increments().checked_mul(10_u64.pow(6 - u32::from(scale)))?,
        7 => time.increments() / 10,
        _ => return None,
    };
    i64::try_from(micros).ok().filter(|micros| *micros < DAY)
}

/// Microseconds since 1970-01-01 of a `datetime2`.
pub(crate) fn precise(value: DateTime2) -> Option<i64> {
    Some(i64::from(days(value.date())) * DAY + of_day(value.time())?)
}

/// Microseconds since 1970-01-01 of a `datetime`, which the server prints in milliseconds.
pub(crate) fn ticks(value: Ticks) -> i64 {
    let millis = (i64::from(value.seconds_fragments()) * 10 + 1) / 3;
    (i64::from(value.days()) - FROM_1900) * DAY + millis * 1_000
}

/// Microseconds since 1970-01-01 of a `smalldatetime`.
pub(crate) fn minutes(value: SmallDateTime) -> i64 {
    (i64::from(value.days()) - FROM_1900) * DAY + i64::from(value.seconds_fragments()) * 60 * SECOND
}

/// Days since 1970-01-01 as the server reads them in any language: `2024-02-29`.
pub(crate) fn print_days(days: i64) -> String {
    let date = NaiveDate::default().checked_add_signed(TimeDelta::days(days));
    date.unwrap_or(if days < 0 { NaiveDate::MIN } else { NaiveDate::MAX }).format("%Y-%m-%d").to_string()
}

/// Microseconds since 1970-01-01, with so many digits after the second: `2024-02-29T12:34:56.123`.
pub(crate) fn print_micros(micros: i64, digits: u8) -> String {
    let at = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let text = at.format("%Y-%m-%dT%H:%M:%S").to_string();
    if digits == 0 {
        return text;
    }
    let fraction = format!("{:06}0", micros.rem_euclid(SECOND));
    let digits = usize::from(digits.min(7));
    format!("{text}.{}", fraction.get(..digits).unwrap_or(&fraction))
}

/// A `datetime2` with all its digits.
fn print_precise(value: DateTime2) -> Option<String> {
    let scale = value.time().scale();
    let text = print_micros(precise(value)?, scale.min(6));
    // The digit that microseconds do not hold.
    Some(if scale == 7 { format!("{text}{}", value.time().increments() % 10) } else { text })
}

/// A value as the server reads it, bytes as hexadecimal digits; `None` for null and for what is no cursor.
pub(crate) fn print(value: &ColumnData<'_>) -> Option<String> {
    match value {
        ColumnData::U8(number) => number.map(|number| number.to_string()),
        ColumnData::I16(number) => number.map(|number| number.to_string()),
        ColumnData::I32(number) => number.map(|number| number.to_string()),
        ColumnData::I64(number) => number.map(|number| number.to_string()),
        ColumnData::String(text) => text.as_deref().map(str::to_owned),
        ColumnData::Binary(bytes) => bytes.as_deref().map(hex),
        ColumnData::Date(date) => date.map(|date| print_days(days(date).into())),
        ColumnData::DateTime(at) => at.map(|at| print_micros(ticks(at), 3)),
        ColumnData::SmallDateTime(at) => at.map(|at| print_micros(minutes(at), 0)),
        ColumnData::DateTime2(at) => at.and_then(print_precise),
        ColumnData::DateTimeOffset(at) => {
            at.and_then(|at| print_precise(at.datetime2())).map(|text| format!("{text}+00:00"))
        }
        _ => None,
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// How much of a batch a value takes, in bytes.
pub(crate) fn size(value: &ColumnData<'_>) -> usize {
    match value {
        ColumnData::String(Some(text)) => text.len() + 4,
        ColumnData::Binary(Some(bytes)) => bytes.len() + 4,
        ColumnData::Guid(_) => 40,
        ColumnData::Numeric(_) => 16,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_of_a_datetime_are_those_that_the_server_prints() {
        let at = |fragments| print_micros(ticks(Ticks::new(25_567, fragments)), 3);
        assert_eq!(at(0), "1970-01-01T00:00:00.000");
        assert_eq!(at(1), "1970-01-01T00:00:00.003");
        assert_eq!(at(2), "1970-01-01T00:00:00.007");
        assert_eq!(at(3), "1970-01-01T00:00:00.010");
        assert_eq!(at(299), "1970-01-01T00:00:00.997");
    }

    #[test]
    fn the_whole_range_of_years_is_printed_with_every_digit() {
        let last = DateTime2::new(Date::new(3_652_058), Time::new(863_999_999_999, 7));
        assert_eq!(print_precise(last).as_deref(), Some("9999-12-31T23:59:59.9999999"));
        let first = DateTime2::new(Date::new(0), Time::new(0, 0));
        assert_eq!(print_precise(first).as_deref(), Some("0001-01-01T00:00:00"));
        assert_eq!(of_day(Time::new(u64::MAX, 0)), None);
        assert_eq!(print_days(-TO_1970), "0001-01-01");
    }
}
