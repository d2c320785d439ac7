//! Reads the plain spelling of a value, and nothing else: what would be written differently is refused, because text
//! that is changed on the way is lost.

use std::fmt::Display;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Timelike};

/// A number in plain spelling: `-12.50`; not `+1`, `007`, `1e3` or `-0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number<'a> {
    negative: bool,
    whole: &'a str,
    /// Without trailing zeros.
    fraction: &'a str,
}

impl<'a> Number<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((_, "")) => return None,
            Some((whole, fraction)) => (whole, fraction.trim_end_matches('0')),
            None => (digits, ""),
        };
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let plain = !whole.is_empty() && are_digits(whole) && are_digits(fraction);
        let padded = whole.len() > 1 && whole.starts_with('0');
        let negative_zero = negative && whole == "0" && fraction.is_empty();
        (plain && !padded && !negative_zero).then_some(Self { negative, whole, fraction })
    }

    fn signed(self, magnitude: i128) -> i128 {
        if self.negative { -magnitude } else { magnitude }
    }
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// A whole number; zeros behind a point are allowed.
pub(super) fn integer<T: TryFrom<i128>>(text: &str) -> Option<T> {
    let number = Number::of(text)?;
    if !number.fraction.is_empty() {
        return None;
    }
    T::try_from(number.signed(number.whole.parse().ok()?)).ok()
}

/// A number whose shortest spelling as a float is the same number.
pub(super) fn float<T: FromStr + Display>(text: &str) -> Option<T> {
    let number = Number::of(text)?;
    let value = text.parse::<T>().ok()?;
    (Number::of(&value.to_string())? == number).then_some(value)
}

/// A number as the unscaled value of a decimal that holds all its digits.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let number = Number::of(text)?;
    let zeros = usize::try_from(scale).ok()?.checked_sub(number.fraction.len())?;
    let mut value: i128 = 0;
    let digits = number.whole.bytes().chain(number.fraction.bytes()).chain(std::iter::repeat_n(b'0', zeros));
    for digit in digits {
        value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    (value < 10_i128.checked_pow(u32::from(precision))?).then(|| number.signed(value))
}

/// `YYYY-MM-DD`, also with a midnight behind it, in the years 0001 to 9999; as days since 1970-01-01.
pub(super) fn date(text: &str) -> Option<i32> {
    let text = text.strip_suffix("T00:00:00").or_else(|| text.strip_suffix(" 00:00:00")).unwrap_or(text);
    if text.len() != "YYYY-MM-DD".len() {
        return None;
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|date| (1..=9999).contains(&date.year()))?;
    (date.to_string() == text).then(|| date.to_epoch_days())
}

/// `YYYY-MM-DDTHH:MM:SS.f` (a blank for the T is fine), no zone, at most microseconds.
pub(super) fn naive(text: &str) -> Option<i64> {
    let format = if text.as_bytes().get(10) == Some(&b'T') { "%Y-%m-%dT%H:%M:%S%.f" } else { "%Y-%m-%d %H:%M:%S%.f" };
    let time = NaiveDateTime::parse_from_str(text, format).ok()?;
    micros(time, text)
}

/// RFC 3339, at most microseconds. The instant is kept; the offset by which it was spelled is not a part of it.
pub(super) fn instant(text: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    micros(time.naive_utc(), text)
}

fn micros(time: NaiveDateTime, text: &str) -> Option<i64> {
    let fits = (1..=9999).contains(&time.year()) && time.nanosecond().is_multiple_of(1_000);
    // Digits beyond nanoseconds are dropped by the parser, leap seconds are folded: both would be a change.
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    (fits && time.nanosecond() < 1_000_000_000 && digits <= 9).then(|| time.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_plain_spelling_only() {
        assert_eq!(integer::<i64>("-12"), Some(-12));
        assert_eq!(integer::<i64>("12.00"), Some(12));
        assert_eq!(integer::<i8>("-128"), Some(-128));
        for text in ["", "-", "+1", "007", "1e3", "-0", "1.", ".5", " 1", "1 ", "1.5", "128", "٣", "1_000"] {
            assert_eq!(integer::<i8>(text), None, "{text:?}");
        }
    }

    #[test]
    fn decimals_keep_every_digit_or_are_refused() {
        assert_eq!(decimal("-12.5", 5, 2), Some(-1250));
        assert_eq!(decimal("0.10", 3, 2), Some(10));
        assert_eq!(decimal("999.99", 5, 2), Some(99_999));
        assert_eq!(decimal("1000", 5, 2), None);
        assert_eq!(decimal("1.234", 5, 2), None);
        let longest = "99999999999999999999999999999999999999";
        assert_eq!(decimal(longest, 38, 0), Some(10_i128.pow(38) - 1));
        assert_eq!(decimal(&format!("{longest}0"), 38, 0), None);
        assert_eq!(decimal("1", 38, -2), None);
    }

    #[test]
    fn floats_are_read_when_they_are_spelled_the_same_again() {
        assert_eq!(float::<f64>("0.1"), Some(0.1));
        assert_eq!(float::<f64>("1.50"), Some(1.5));
        assert_eq!(float::<f64>("9007199254740993"), None);
        assert_eq!(float::<f32>("16777217"), None);
        for text in ["NaN", "inf", "-0", "1e5"] {
            assert_eq!(float::<f64>(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_read_with_the_zone_that_the_column_has() {
        assert_eq!(date("1970-01-02"), Some(1));
        assert_eq!(date("1970-01-02T00:00:00"), Some(1));
        for text in ["0000-12-31", "1970-1-2", "1970-01-02T00:00:01", "+12970-01-01", "2023-02-29"] {
            assert_eq!(date(text), None, "{text}");
        }
        assert_eq!(naive("1970-01-01T00:00:01.000001"), Some(1_000_001));
        assert_eq!(naive("1970-01-01 00:00:01"), Some(1_000_000));
        for text in ["1970-01-01T00:00:01Z", "1970-01-01", "1970-01-01T00:00:00.0000001", "1970-01-01T23:59:60"] {
            assert_eq!(naive(text), None, "{text}");
        }
        assert_eq!(instant("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(instant("1970-01-01T00:00:00"), None);
        assert_eq!(instant("1970-01-01T00:00:00.0000000001Z"), None);
        assert_eq!(instant("0001-01-01T00:00:00+01:00"), None);
    }
}
