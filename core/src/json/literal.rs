//! JSON literals to values, without a detour over floating point: `None` where a digit would be lost.

use arrow_schema::TimeUnit;

/// Seconds of 0001-01-01T00:00:00Z and of 10000-01-01T00:00:00Z: the years that every table format can hold.
const FIRST_SECOND: i64 = -62_135_596_800;
const END_SECOND: i64 = 253_402_300_800;

/// The text between the quotes of a JSON string without escapes.
pub(super) fn unescaped(raw: &str) -> Option<&str> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.as_bytes().contains(&b'\\')).then_some(inner)
}

/// The text of a JSON string; `None` for anything else and for a lone surrogate, which no Rust text can hold.
pub(super) fn string(raw: &str) -> Option<std::borrow::Cow<'_, str>> {
    match unescaped(raw) {
        Some(inner) => Some(inner.into()),
        None if raw.starts_with('"') => serde_json::from_str::<String>(raw).ok().map(Into::into),
        None => None,
    }
}

/// The literal of a number, also of one that the source wrote as a string (`"10.50"`).
pub(super) fn number(raw: &str) -> Option<&str> {
    let text = if raw.starts_with('"') { unescaped(raw)? } else { raw };
    is_number(text).then_some(text)
}

/// Whether a text follows the JSON grammar of a number: no plus sign, no leading zero, no `inf`.
fn is_number(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text);
    let (digits, rest) = split_digits(rest);
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return false;
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => match split_digits(fraction) {
            ("", _) => return false,
            (_, rest) => rest,
        },
        None => rest,
    };
    match rest.strip_prefix(['e', 'E']) {
        Some(exponent) => {
            let (digits, rest) = split_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
            !digits.is_empty() && rest.is_empty()
        }
        None => rest.is_empty(),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len()))
}

/// A whole number; `1.0` and `1e3` are whole, `1.5` is not.
pub(super) fn integer(raw: &str) -> Option<i64> {
    if let Ok(value) = raw.parse() {
        return Some(value);
    }
    i64::try_from(scaled(number(raw)?, 0)?).ok()
}

/// The nearest double of a decimal; a whole number that no double holds does not fit.
pub(super) fn float(raw: &str) -> Option<f64> {
    let text = number(raw)?;
    let value: f64 = text.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    let whole = text.len() > 15 && !text.contains(['.', 'e', 'E']);
    (!whole || text.parse::<i128>() == Ok(value as i128)).then_some(value)
}

/// A decimal as an integer of `10^-scale`, if it has at most `precision` digits and none beyond the scale.
pub(super) fn decimal(raw: &str, precision: u8, scale: i8) -> Option<i128> {
    let value = scaled(number(raw)?, i32::from(scale))?;
    (value.unsigned_abs() < 10_u128.checked_pow(u32::from(precision))?).then_some(value)
}

/// The value of a number literal times `10^scale`, if that is whole.
fn scaled(text: &str, scale: i32) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        // An exponent of more than nine digits is beyond every type, unless the number is zero.
        Some((mantissa, exponent)) => {
            let small = exponent.parse::<i32>().ok().filter(|e| e.abs() < 1_000_000);
            (mantissa, small.unwrap_or(if exponent.starts_with('-') { -1_000_000 } else { 1_000_000 }))
        }
        None => (text, 0),
    };
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let value = digits(whole, fraction)?;
    if value == 0 {
        return Some(0);
    }
    let shift = scale + exponent - i32::try_from(fraction.len()).ok()?;
    let factor = 10_i128.checked_pow(shift.unsigned_abs())?;
    let value = match shift {
        0.. => value.checked_mul(factor)?,
        _ if value % factor == 0 => value / factor,
        _ => return None,
    };
    Some(if negative { -value } else { value })
}

/// The number that two runs of digits make together.
fn digits(whole: &str, fraction: &str) -> Option<i128> {
    let all = whole.bytes().chain(fraction.bytes()).map(|digit| digit.wrapping_sub(b'0'));
    if whole.len() + fraction.len() <= 18 {
        return Some(i128::from(all.fold(0_u64, |value, digit| value * 10 + u64::from(digit))));
    }
    let mut all = all;
    all.try_fold(0_i128, |value, digit| value.checked_mul(10)?.checked_add(i128::from(digit)))
}

/// How many decimal digits of a second a unit holds.
pub(super) fn unit_digits(unit: TimeUnit) -> i32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// A count since 1970 in `10^-given` seconds as one in `10^-wanted` seconds, within the years 0001 to 9999.
pub(super) fn unix_time(raw: &str, given: i32, wanted: i32) -> Option<i64> {
    let value = match raw.parse::<i64>() {
        Ok(whole) if wanted >= given => whole.checked_mul(10_i64.pow((wanted - given).unsigned_abs()))?,
        _ => i64::try_from(scaled(number(raw)?, wanted - given)?).ok()?,
    };
    let second = 10_i64.pow(wanted.unsigned_abs());
    (FIRST_SECOND..END_SECOND).contains(&value.div_euclid(second)).then_some(value)
}

/// An RFC 3339 time in `10^-digits` seconds since 1970. With `zoned` an offset is needed, without it there must be none.
pub(super) fn rfc3339(raw: &str, digits: i32, zoned: bool) -> Option<i64> {
    let text = string(raw)?;
    let bytes = text.as_bytes();
    let days = date_of(bytes.get(..10)?)?;
    if !matches!(bytes.get(10)?, b'T' | b't' | b' ') || *bytes.get(13)? != b':' || *bytes.get(16)? != b':' {
        return None;
    }
    let (hour, minute, second) = (two(bytes, 11)?, two(bytes, 14)?, two(bytes, 17)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = bytes.get(19..)?;
    let mut fraction = 0_i64;
    let mut left = digits;
    if let Some(tail) = rest.strip_prefix(b".") {
        let count = tail.iter().take_while(|b| b.is_ascii_digit()).count();
        for digit in tail.get(..count).filter(|digits| !digits.is_empty())? {
            match (left, digit - b'0') {
                (0, 0) => {}
                (0, _) => return None,
                (_, digit) => {
                    fraction = fraction * 10 + i64::from(digit);
                    left -= 1;
                }
            }
        }
        rest = tail.get(count..)?;
    }
    let offset = match (rest, zoned) {
        (b"Z" | b"z", true) | (b"", false) => 0,
        // Some services leave the colon out (ISO 8601, basic form).
        ([sign @ (b'+' | b'-'), clock @ ..], true) if clock.len() == 4 || (clock.len() == 5 && clock[2] == b':') => {
            let (hours, minutes) = (two(clock, 0)?, two(clock, clock.len() - 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3_600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = i64::from(days) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    if !(FIRST_SECOND..END_SECOND).contains(&seconds) {
        return None;
    }
    let fraction = fraction * 10_i64.pow(left.unsigned_abs());
    seconds.checked_mul(10_i64.pow(digits.unsigned_abs()))?.checked_add(fraction)
}

/// Days since 1970 of a date `2025-01-31`.
pub(super) fn date(raw: &str) -> Option<i32> {
    date_of(string(raw)?.as_bytes())
}

fn date_of(bytes: &[u8]) -> Option<i32> {
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = two(bytes, 0)? * 100 + two(bytes, 2)?;
    let (month, day) = (two(bytes, 5)?, two(bytes, 8)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || day == 0 || day > last {
        return None;
    }
    // Days from civil: years that start in March have their leap day at the end.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    i32::try_from(days).ok()
}

fn two(bytes: &[u8], at: usize) -> Option<i64> {
    match bytes.get(at..at + 2)? {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

/// Appends a JSON value without the blanks and line breaks between its tokens.
pub(super) fn compact(raw: &str, out: &mut Vec<u8>) {
    let bytes = raw.as_bytes();
    if !may_have_blanks(bytes) {
        return out.extend_from_slice(bytes);
    }
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let run = match rest[0] {
            b'"' => string_length(rest),
            b' ' | b'\n' | b'\r' | b'\t' => {
                at += 1;
                continue;
            }
            _ => rest.iter().position(|b| matches!(b, b'"' | b' ' | b'\n' | b'\r' | b'\t')).unwrap_or(rest.len()),
        };
        out.extend_from_slice(&rest[..run]);
        at += run;
    }
}

/// Whether there may be blanks between the tokens of a valid JSON value.
///
/// Of two tokens side by side one is a bracket, a comma or a colon, so a blank between them stands beside one of these
/// or beside another blank. Blanks inside strings seldom do; where they do, the slow way finds out. Without a branch in
/// its loop this runs at many bytes a nanosecond.
fn may_have_blanks(bytes: &[u8]) -> bool {
    fn blank(b: u8) -> bool {
        b <= b' '
    }
    fn mark(b: u8) -> bool {
        // Setting the bit makes `{` of `[` and `}` of `]`; of other characters it makes neither.
        (b | 0x20 == b'{') | (b | 0x20 == b'}') | (b == b',') | (b == b':') | blank(b)
    }
    let Some(after) = bytes.get(1..) else { return false };
    bytes.chunks(256).zip(after.chunks(256)).any(|(here, next)| {
        here.iter().zip(next).fold(false, |found, (a, b)| found | (blank(*a) & mark(*b)) | (mark(*a) & blank(*b)))
    })
}

/// The length of the JSON string at the start, with its quotes.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(b) = bytes.get(at) {
        match b {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Whether a valid JSON value is nested at most `limit` deep.
pub(super) fn within_depth(raw: &str, limit: usize) -> bool {
    let bytes = raw.as_bytes();
    // Cheap proofs first: each level takes two bytes, and one opening bracket.
    if bytes.len() < 2 * limit || bytes.iter().filter(|b| matches!(b, b'{' | b'[')).count() <= limit {
        return true;
    }
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(b) = bytes.get(at) {
        match b {
            b'"' => at += string_length(&bytes[at..]) - 1,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_or_refused() {
        for (raw, value) in [
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1.0", Some(1)),
            ("12e2", Some(1200)),
            ("1.5", None),
            ("\"42\"", Some(42)),
            ("\"007\"", None),
            ("\"+7\"", None),
            ("\"\"", None),
            ("true", None),
            ("-0", Some(0)),
            ("1e400", None),
            ("0e999999999999", Some(0)),
        ] {
            assert_eq!(integer(raw), value, "{raw}");
        }
    }

    #[test]
    fn decimals_keep_every_digit_or_are_refused() {
        for (raw, value) in [
            ("9007199254740993.1", Some(900_719_925_474_099_310)),
            ("10.50", Some(1050)),
            ("10.5000000000000000000000000000000000000000000000000", Some(1050)),
            ("\"-0.01\"", Some(-1)),
            ("0.001", None),
            ("1e3", Some(100_000)),
            ("1.5e-1", Some(15)),
            ("1.5e-2", None),
            ("1e400", None),
            ("99999999999999999999999999999999999999999", None),
            ("\"ten\"", None),
        ] {
            assert_eq!(decimal(raw, 38, 2), value, "{raw}");
        }
        assert_eq!(decimal("999.99", 5, 2), Some(99_999));
        assert_eq!(decimal("1000.00", 5, 2), None);
    }

    #[test]
    fn floats_refuse_what_no_double_holds() {
        assert_eq!(float("0.1"), Some(0.1));
        assert_eq!(float("9007199254740992"), Some(9_007_199_254_740_992.0));
        assert_eq!(float("9007199254740993"), None);
        assert_eq!(float("1e400"), None);
        assert_eq!(float("\"NaN\""), None);
    }

    #[test]
    fn times_are_exact_within_the_years_1_to_9999() {
        for (raw, value) in [
            (r#""1970-01-01T00:00:00Z""#, Some(0)),
            (r#""2025-11-21T10:20:30.123456+02:00""#, Some(1_763_713_230_123_456)),
            (r#""2025-11-21T10:20:30.123456+0200""#, Some(1_763_713_230_123_456)),
            (r#""2025-11-21T10:20:30+02""#, None),
            (r#""2025-11-21 10:20:30.5z""#, Some(1_763_720_430_500_000)),
            (r#""2025-11-21T10:20:30.1234560Z""#, Some(1_763_720_430_123_456)),
            (r#""2025-11-21T10:20:30.1234567Z""#, None),
            (r#""2025-11-21T10:20:30""#, None),
            (r#""2025-02-29T00:00:00Z""#, None),
            (r#""2024-02-29T00:00:00Z""#, Some(1_709_164_800_000_000)),
            (r#""0000-01-01T00:00:00Z""#, None),
            (r#""0001-01-01T00:00:00Z""#, Some(-62_135_596_800_000_000)),
            (r#""9999-12-31T23:59:59.999999Z""#, Some(253_402_300_799_999_999)),
            (r#""9999-12-31T23:59:59-01:00""#, None),
            (r#""2025-11-21T24:00:00Z""#, None),
            (r#""2025-11-21T23:59:60Z""#, None),
            (r#""2025-11-21T10:20:30.Z""#, None),
            ("1700000000", None),
        ] {
            assert_eq!(rfc3339(raw, 6, true), value, "{raw}");
        }
        assert_eq!(rfc3339(r#""1970-01-01T00:00:01""#, 6, false), Some(1_000_000));
        assert_eq!(unix_time("1700000000", 0, 6), Some(1_700_000_000_000_000));
        assert_eq!(unix_time("1700000000.25", 0, 6), Some(1_700_000_000_250_000));
        assert_eq!(unix_time("1700000000123", 3, 6), Some(1_700_000_000_123_000));
        assert_eq!(unix_time("253402300800", 0, 6), None);
        assert_eq!(date(r#""1969-12-31""#), Some(-1));
        assert_eq!(date(r#""2025-13-01""#), None);
    }

    #[test]
    fn compacting_touches_blanks_between_tokens_alone() {
        let mut out = Vec::new();
        compact("{ \"a b\" : [ 1 , \"x \\\" y\" ,\n\t0.10 ] }", &mut out);
        assert_eq!(String::from_utf8(out).expect("UTF-8"), "{\"a b\":[1,\"x \\\" y\",0.10]}");
        let tight = r#"{"a b":[1,"x y"]}"#;
        assert!(!may_have_blanks(tight.as_bytes()));
        for at in (0..=tight.len()).filter(|at| tight.as_bytes().get(..*at).is_some_and(between_tokens)) {
            for blanks in [" ", "\n", "  ", "\r\n\t"] {
                let (front, back) = tight.split_at(at);
                let mut out = Vec::new();
                compact(format!("{front}{blanks}{back}").trim(), &mut out);
                assert_eq!(String::from_utf8(out).expect("UTF-8"), tight, "{blanks:?} at {at}");
            }
        }
    }

    /// Whether the text ends outside a string and not inside a literal: here that is after any of these.
    fn between_tokens(front: &[u8]) -> bool {
        let quotes = front.iter().filter(|b| **b == b'"').count();
        quotes.is_multiple_of(2)
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(within_depth(&deep, 100));
        assert!(!within_depth(&deep, 99));
        let quoted = format!("[\"{}\"]", "[".repeat(300));
        assert!(within_depth(&quoted, 10));
    }
}
