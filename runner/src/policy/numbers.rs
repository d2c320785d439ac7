//! Numbers of the configuration in units of the last digit of a column.

/// A number between two whole numbers of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Units {
    /// The whole number, where it is one.
    pub exact: Option<i128>,
    /// The next whole number that is not below it.
    pub ceil: i128,
    /// The next whole number that is not above it.
    pub floor: i128,
}

/// A number as text, `-12.5` or `1e3`, in units of `10^-scale`. Beyond 128 bits it is the nearest that there is. `None`
/// where the text is no number.
pub(super) fn units(text: &str, scale: i8) -> Option<Units> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok().filter(|e| e.abs() <= 400)?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    // So many of the digits stand before the point of the result.
    let kept = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(scale);
    let mut magnitude: i128 = 0;
    let mut rest = false;
    for (place, digit) in (0_i64..).zip(&all) {
        if place < kept {
            magnitude = magnitude.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
        } else {
            rest |= *digit != b'0';
        }
    }
    for _ in i64::try_from(all.len()).ok()?..kept.min(4_096) {
        magnitude = magnitude.saturating_mul(10);
    }
    let (floor, ceil) = match (negative, rest) {
        (false, false) => (magnitude, magnitude),
        (false, true) => (magnitude, magnitude.saturating_add(1)),
        (true, false) => (-magnitude, -magnitude),
        (true, true) => ((-magnitude).saturating_sub(1), -magnitude),
    };
    Some(Units { exact: (!rest && magnitude != i128::MAX).then_some(floor), ceil, floor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_placed_between_units() {
        let at = |text, scale| units(text, scale).map(|u| (u.exact, u.floor, u.ceil));
        assert_eq!(at("12", 0), Some((Some(12), 12, 12)));
        assert_eq!(at("12.5", 0), Some((None, 12, 13)));
        assert_eq!(at("-12.5", 0), Some((None, -13, -12)));
        assert_eq!(at("12.5", 2), Some((Some(1250), 1250, 1250)));
        assert_eq!(at("1e3", 1), Some((Some(10_000), 10_000, 10_000)));
        assert_eq!(at("1.5e-2", 2), Some((None, 1, 2)));
        assert_eq!(at("1500", -2), Some((Some(15), 15, 15)));
        assert_eq!(at(".5", 1), Some((Some(5), 5, 5)));
        assert_eq!(at("1e60", 0).map(|u| u.1), Some(i128::MAX));
        for text in ["", "-", ".", "1x", "e5", "1e", "1e9999999999", "NaN"] {
            assert_eq!(units(text, 0), None, "{text}");
        }
    }
}
