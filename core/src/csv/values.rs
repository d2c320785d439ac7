//! Texts to values, exactly: `None` where the text says something else, or more than the type holds.

/// The days from 0001-01-01 to 9999-12-31, counted from 1970-01-01: what every table format can hold.
const FIRST_DAY: i32 = -719_162;
const LAST_DAY: i32 = 2_932_896;
const DAY: i64 = 86_400_000_000;

/// What a number looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number<'a> {
    /// Digits, perhaps with a point.
    Plain {
        /// Sign and digits before the point.
        whole: &'a str,
        /// Digits after it.
        fraction: Option<&'a str>,
    },
    /// With an exponent.
    Float,
    /// Digits whose form says more than their value: `007`, `+49`.
    Padded,
}

impl<'a> Number<'a> {
    /// Reads the form of a number.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (text.get(..at)?, Some(text.get(at + 1..)?)),
            None => (text, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(digits) || fraction.is_some_and(|f| !all_digits(f)) {
            return None;
        }
        if let Some(exponent) = exponent {
            return all_digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)).then_some(Self::Float);
        }
        if whole.starts_with('+')
            || (digits.len() > 1 && digits.starts_with('0'))
            || whole == "-0" && fraction.is_none()
        {
            return Some(Self::Padded);
        }
        Some(Self::Plain { whole, fraction })
    }
}

/// `true` or `false` in any case.
pub fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// The words for truth that a column declared boolean takes.
pub fn declared_boolean(text: &str) -> Option<bool> {
    boolean(text).or_else(|| match text {
        "1" | "t" | "T" | "y" | "Y" => Some(true),
        "0" | "f" | "F" | "n" | "N" => Some(false),
        _ if text.eq_ignore_ascii_case("yes") => Some(true),
        _ if text.eq_ignore_ascii_case("no") => Some(false),
        _ => None,
    })
}

/// A whole number. `exact`: a leading zero or a plus sign says more than the value and is refused.
#[inline]
pub fn integer(text: &str, exact: bool) -> Option<i64> {
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes.first()? {
        b'-' => (true, bytes.get(1..)?),
        b'+' if !exact => (false, bytes.get(1..)?),
        _ => (false, bytes),
    };
    if digits.is_empty() || (exact && digits.len() + usize::from(negative) > 1 && digits.first() == Some(&b'0')) {
        return None;
    }
    if digits.len() > 18 {
        return digits.iter().all(u8::is_ascii_digit).then(|| text.parse().ok()).flatten();
    }
    let mut value = 0_i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if negative { -value } else { value })
}

/// A decimal of at most `precision` digits, `scale` of them fractional; no digit is cut. `exact` as in [`integer`], and
/// a number with an exponent is refused too.
#[inline]
pub fn decimal(text: &str, precision: u8, scale: i8, exact: bool) -> Option<i128> {
    plain_decimal(text, precision, scale, exact)
        .or_else(|| if exact { None } else { scientific(text, precision, scale) })
}

/// `1.5E7`, as some services write large numbers.
#[cold]
fn scientific(text: &str, precision: u8, scale: i8) -> Option<i128> {
    crate::json::decimal_of(text, precision, scale)
}

#[inline]
fn plain_decimal(text: &str, precision: u8, scale: i8, exact: bool) -> Option<i128> {
    let bytes = text.as_bytes();
    let (negative, bytes) = match bytes.first()? {
        b'-' => (true, bytes.get(1..)?),
        b'+' if !exact => (false, bytes.get(1..)?),
        _ => (false, bytes),
    };
    if exact && bytes.len() > 1 && bytes.first() == Some(&b'0') && bytes.get(1) != Some(&b'.') {
        return None;
    }
    let scale = u32::try_from(scale).ok()?;
    let mut low = 0_u64;
    let mut wide: Option<i128> = None;
    let mut fraction: Option<u32> = None;
    let mut digits = 0_u32;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            if *byte != b'.' || fraction.is_some() {
                return None;
            }
            fraction = Some(0);
            continue;
        }
        digits += 1;
        if let Some(count) = &mut fraction {
            if *count == scale {
                // Zeros beyond the scale carry nothing.
                if digit != 0 {
                    return None;
                }
                continue;
            }
            *count += 1;
        }
        match &mut wide {
            None if digits <= 19 && low < 1_000_000_000_000_000_000 => low = low * 10 + u64::from(digit),
            None => wide = Some(i128::from(low) * 10 + i128::from(digit)),
            Some(value) => *value = value.checked_mul(10)?.checked_add(i128::from(digit))?,
        }
    }
    // `1.` is a form that no writer of numbers has; `.5` is one of some.
    if digits == 0 || bytes.last() == Some(&b'.') {
        return None;
    }
    let value = wide.unwrap_or_else(|| i128::from(low));
    let value = value.checked_mul(10_i128.pow(scale - fraction.unwrap_or(0).min(scale)))?;
    let limit = 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    (value < limit).then_some(if negative { -value } else { value })
}

/// A number for a column of doubles; also `NaN` and `inf`, which doubles hold.
pub fn float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    // A number too large for a double must not become infinity.
    (value.is_finite() || !text.bytes().any(|b| b.is_ascii_digit())).then_some(value)
}

/// `2025-01-31`, in the years 0001 to 9999, as days since 1970-01-01.
#[inline]
pub fn date(text: &str) -> Option<i32> {
    let bytes: &[u8; 10] = text.as_bytes().try_into().ok()?;
    day(bytes)
}

#[inline]
fn day(b: &[u8; 10]) -> Option<i32> {
    if b[4] != b'-' || b[7] != b'-' {
        return None;
    }
    let year = two(b[0], b[1])? * 100 + two(b[2], b[3])?;
    let month = two(b[5], b[6])?;
    let day = two(b[8], b[9])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if year == 0 || day == 0 || day > length {
        return None;
    }
    // Days from the civil date, counted from March so that the leap day is the last of its year.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    (FIRST_DAY..=LAST_DAY).contains(&days).then_some(days)
}

#[inline]
fn two(tens: u8, ones: u8) -> Option<i32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i32::from(tens) * 10 + i32::from(ones))
}

/// `2025-01-31T10:20:30.123456+02:00` (also with a space for the `T`) in microseconds since 1970, in UTC where the text
/// has an offset. `zoned`: whether it must have one, or must not. Digits below the microsecond must be zeros.
#[inline]
pub fn timestamp(text: &str, zoned: bool) -> Option<i64> {
    let (micros, offset) = instant(text)?;
    match (zoned, offset) {
        (true, Some(offset)) => in_years(micros - offset),
        (false, None) => Some(micros),
        _ => None,
    }
}

/// As [`timestamp`] for a column declared `timestamp`: a text without an offset is UTC, a date is midnight.
#[inline]
pub fn declared_timestamp(text: &str) -> Option<i64> {
    match instant(text) {
        Some((micros, offset)) => in_years(micros - offset.unwrap_or(0)),
        None => midnight(text),
    }
}

/// A date as a timestamp.
pub fn midnight(text: &str) -> Option<i64> {
    date(text).map(|day| i64::from(day) * DAY)
}

fn in_years(micros: i64) -> Option<i64> {
    (i64::from(FIRST_DAY) * DAY..(i64::from(LAST_DAY) + 1) * DAY).contains(&micros).then_some(micros)
}

/// Microseconds as written, and the offset in microseconds where there is one.
fn instant(text: &str) -> Option<(i64, Option<i64>)> {
    let (head, rest) = text.as_bytes().split_first_chunk::<10>()?;
    let (clock, rest) = rest.split_first_chunk::<6>()?;
    let [b'T' | b't' | b' ', h1, h2, b':', m1, m2] = *clock else { return None };
    let (hour, minute) = (two(h1, h2)?, two(m1, m2)?);
    let (second, rest) = match rest {
        [b':', s1, s2, rest @ ..] => (two(*s1, *s2)?, rest),
        _ => (0, rest),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, rest) = match rest {
        [b'.' | b',', rest @ ..] => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (fraction, rest) = rest.split_at_checked(digits)?;
            (micros(fraction)?, rest)
        }
        _ => (0, rest),
    };
    let offset = match rest {
        [] => None,
        [b'Z' | b'z'] => Some(0),
        [b' ', rest @ ..] | rest => Some(offset(rest)?),
    };
    let seconds = i64::from(day(head)?) * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
    Some((seconds * 1_000_000 + fraction, offset))
}

fn micros(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.iter().skip(6).any(|b| *b != b'0') {
        return None;
    }
    let value = digits.iter().take(6).fold(0_i64, |value, b| value * 10 + i64::from(b - b'0'));
    Some(value * [100_000, 10_000, 1_000, 100, 10, 1].get(digits.len().min(6) - 1)?)
}

fn offset(text: &[u8]) -> Option<i64> {
    let (sign, h1, h2, m1, m2) = match *text {
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => (sign, h1, h2, m1, m2),
        [sign, h1, h2] => (sign, h1, h2, b'0', b'0'),
        _ => return None,
    };
    let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let micros = i64::from(hours * 60 + minutes) * 60_000_000;
    match sign {
        b'+' => Some(micros),
        b'-' => Some(-micros),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_or_refused() {
        assert_eq!(integer("9223372036854775807", true), Some(i64::MAX));
        assert_eq!(integer("-9223372036854775808", true), Some(i64::MIN));
        assert_eq!(integer("0", true), Some(0));
        for text in ["9223372036854775808", "", "-", "1.0", " 1", "1 ", "+1", "007", "-0", "1e3", "١"] {
            assert_eq!(integer(text, true), None, "{text:?}");
        }
        assert_eq!(integer("007", false), Some(7));
        assert_eq!(integer("+7", false), Some(7));
    }

    #[test]
    fn decimals_lose_no_digit() {
        assert_eq!(decimal("12.50", 38, 2, true), Some(1250));
        assert_eq!(decimal("-0.5", 38, 2, true), Some(-50));
        assert_eq!(decimal("12.500", 38, 2, true), Some(1250));
        assert_eq!(decimal("12.505", 38, 2, true), None);
        assert_eq!(decimal("123.4", 5, 2, true), Some(12340));
        assert_eq!(decimal("1234.5", 5, 2, true), None);
        assert_eq!(decimal("99999999999999999999999999999999999999", 38, 0, true), Some(10_i128.pow(38) - 1));
        assert_eq!(decimal("100000000000000000000000000000000000000", 38, 0, true), None);
        assert_eq!(decimal("9007199254740993.1", 38, 1, true), Some(90_071_992_547_409_931));
        for text in ["", "-", ".", "1.", "1..2", "1e5", "NaN", "01.5", "+1"] {
            assert_eq!(decimal(text, 38, 2, true), None, "{text:?}");
        }
        assert_eq!(decimal(&"9".repeat(60), 38, 0, true), None);
        assert_eq!(decimal("1.25E7", 18, 2, false), Some(1_250_000_000));
        assert_eq!(decimal("-2.5e-1", 18, 2, false), Some(-25));
        assert_eq!(decimal("1e-3", 18, 2, false), None);
        assert_eq!(decimal("1E400", 18, 2, false), None);
    }

    #[test]
    fn floats_do_not_become_infinite() {
        assert_eq!(float("1e400"), None);
        assert_eq!(float("-2.5e-3"), Some(-0.0025));
        assert!(float("NaN").is_some_and(f64::is_nan));
        assert_eq!(float("inf"), Some(f64::INFINITY));
        assert_eq!(float("x"), None);
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date("1970-01-01"), Some(0));
        assert_eq!(date("2000-02-29"), Some(11_016));
        assert_eq!(date("0001-01-01"), Some(FIRST_DAY));
        assert_eq!(date("9999-12-31"), Some(LAST_DAY));
        for text in ["1900-02-29", "0000-01-01", "2025-13-01", "2025-00-01", "2025-1-1", "20250101", "2025-01-0x"] {
            assert_eq!(date(text), None, "{text}");
        }
    }

    #[test]
    fn timestamps_keep_their_zone_and_every_digit() {
        assert_eq!(timestamp("1970-01-01T00:00:01Z", true), Some(1_000_000));
        assert_eq!(timestamp("1970-01-01 02:00:00.5+02:00", true), Some(500_000));
        assert_eq!(timestamp("1970-01-01T00:00", false), Some(0));
        assert_eq!(timestamp("1970-01-01T00:00:00.123456000", false), Some(123_456));
        for text in [
            "1970-01-01T00:00:00.1234567",
            "1970-01-01T24:00:00",
            "1970-01-01T00:00:60",
            "1970-01-01T00:00:00.",
            "1970-01-01",
            "1970-01-01Tab:cd",
            "1970-01-01T00:00:00é",
        ] {
            assert_eq!(timestamp(text, false), None, "{text}");
        }
        assert_eq!(timestamp("9999-12-31T23:59:59-01:00", true), None, "the year 10000 in UTC");
        assert_eq!(declared_timestamp("1970-01-02"), Some(DAY));
    }
}
