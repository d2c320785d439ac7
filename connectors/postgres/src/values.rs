//! Values that may not fit: dates, timestamps, decimals.

use ingest_core::{Error, ErrorKind, Result};

use crate::text::{EPOCH_DAYS, EPOCH_MICROS, exact};

/// Days from 1970-01-01 to 0001-01-01 and to 9999-12-31.
const DAYS: std::ops::RangeInclusive<i64> = -719_162..=2_932_896;
/// Microseconds from 1970-01-01 to the first of year 1 and to the last of year 9999.
const MICROS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// Days since 1970; `None`: infinite, or outside the years 1 to 9999.
#[inline]
pub(crate) fn read_date(bytes: &[u8]) -> Result<Option<i32>> {
    let days = i64::from(i32::from_be_bytes(exact(bytes)?)) + i64::from(EPOCH_DAYS);
    Ok(if DAYS.contains(&days) { i32::try_from(days).ok() } else { None })
}

/// Microseconds since 1970; `None`: infinite, or outside the years 1 to 9999.
#[inline]
pub(crate) fn read_timestamp(bytes: &[u8]) -> Result<Option<i64>> {
    let micros = i64::from_be_bytes(exact(bytes)?).checked_add(EPOCH_MICROS);
    Ok(micros.filter(|micros| MICROS.contains(micros)))
}

const POWERS: [i128; 39] = {
    let mut powers = [1; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// Reads the numerics of a column as integers of its last digit. `None`: NaN, infinity, or more digits than it has.
pub(crate) fn decimals(precision: u8, scale: i8) -> impl Fn(&[u8]) -> Result<Option<i128>> {
    let limit = short_limit(precision);
    move |bytes| match read_short_decimal(bytes, limit, scale) {
        Some(value) => Ok(Some(i128::from(value))),
        None => read_decimal(bytes, precision, scale),
    }
}

/// A numeric of up to 16 digits as an integer of its last digit, below `limit`. `None`: ask [`read_decimal`].
///
/// Nearly all values are that short, and all of this happens in registers.
#[inline(always)]
fn read_short_decimal(bytes: &[u8], limit: u64, scale: i8) -> Option<i64> {
    let (header, groups) = bytes.split_first_chunk::<8>()?;
    let header = u64::from_be_bytes(*header);
    let (count, weight, sign) = ((header >> 48) as usize, i32::from((header >> 32) as i16), (header >> 16) as u16);
    if count > 4 || groups.len() != count * 2 || sign & !0x4000 != 0 {
        return None;
    }
    let group = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair[1]);
    let digits = groups.chunks_exact(2).fold(0, |sum, pair| sum * 10_000 + group(pair));
    if digits == 0 {
        return Some(0);
    }
    // The last group counts 10000^(weight - count + 1); the column counts 10^-scale.
    let exponent = 4 * (weight - count as i32 + 1) + i32::from(scale);
    // Divisions by constants are multiplications.
    let (value, rest) = match exponent {
        -3 => (digits / 1_000, digits % 1_000),
        -2 => (digits / 100, digits % 100),
        -1 => (digits / 10, digits % 10),
        0 => (digits, 0),
        1..=16 => (digits.checked_mul(10_u64.pow(exponent.unsigned_abs()))?, 0),
        _ => return None,
    };
    if rest != 0 || value >= limit {
        return None;
    }
    let value = value.cast_signed();
    Some(if sign == 0 { value } else { -value })
}

/// What [`read_short_decimal`] may give for a precision: all of its digits, as far as they fit.
fn short_limit(precision: u8) -> u64 {
    let limit = POWERS.get(usize::from(precision)).and_then(|limit| u64::try_from(*limit).ok());
    limit.unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs())
}

/// A numeric as an integer of its last digit. `None`: NaN, infinity, or more digits than the column has.
fn read_decimal(bytes: &[u8], precision: u8, scale: i8) -> Result<Option<i128>> {
    let Some((header, groups)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::new(ErrorKind::DataInvalid, "a numeric value that is cut short"));
    };
    let word = |i: usize| u16::from_be_bytes([header[i], header[i + 1]]);
    let (count, weight, sign) = (usize::from(word(0)), i32::from(word(2).cast_signed()), word(4));
    if groups.len() != count * 2 {
        return Err(Error::new(ErrorKind::DataInvalid, "a numeric value of another size than it says"));
    }
    if sign & 0xC000 == 0xC000 {
        return Ok(None);
    }
    // The last group counts 10000^(weight - count + 1); the column counts 10^-scale.
    let group = |i: usize| u64::from(u16::from_be_bytes([groups[2 * i], groups[2 * i + 1]]));
    // The server sends no groups of zeros at the end; others might.
    let count = (0..count).rev().find(|i| group(*i) != 0).map_or(0, |i| i + 1);
    if count == 0 {
        return Ok(Some(0));
    }
    let exponent = 4 * (weight - i32::try_from(count).unwrap_or(i32::MAX - 4) + 1) + i32::from(scale);
    // Digits behind those of the column must be zeros, and fewer than a group: the last group is not zero.
    let (shift, last) = match usize::try_from(-exponent) {
        Ok(behind @ 1..4) if group(count - 1) % SMALL[behind] == 0 => (4 - behind, group(count - 1) / SMALL[behind]),
        Ok(1..) => return Ok(None),
        _ => (4, group(count - 1)),
    };
    let magnitude = if count <= 4 {
        let before = (0..count - 1).fold(0, |sum, i| sum * 10_000 + group(i));
        Some(i128::from(before * SMALL[shift] + last))
    } else {
        let before =
            (0..count - 1).try_fold(0_i128, |sum, i| sum.checked_mul(10_000)?.checked_add(i128::from(group(i))));
        before.and_then(|sum| sum.checked_mul(i128::from(SMALL[shift]))?.checked_add(i128::from(last)))
    };
    let power = POWERS.get(usize::try_from(exponent).unwrap_or(0));
    let value = magnitude
        .zip(power)
        .and_then(|(magnitude, power)| magnitude.checked_mul(*power))
        .filter(|value| POWERS.get(usize::from(precision)).is_some_and(|limit| value < limit));
    Ok(value.map(|value| if sign == 0x4000 { -value } else { value }))
}

/// Powers of ten within a group.
const SMALL: [u64; 5] = [1, 10, 100, 1_000, 10_000];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numeric(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let read =
            |words: &[u16], precision, scale| read_decimal(&numeric(words), precision, scale).expect("well formed");
        assert_eq!(read(&[3, 1, 0, 3, 1, 0x929, 0x1a7c], 12, 3), Some(12_345_678));
        assert_eq!(read(&[1, 0xffff, 0x4000, 4, 1], 10, 4), Some(-1));
        assert_eq!(read(&[2, 0, 0, 2, 1, 0x1388], 10, 2), Some(150));
        assert_eq!(read(&[0, 0, 0, 0], 10, 2), Some(0));
        assert_eq!(read(&[0, 0, 0xC000, 0], 10, 2), None, "NaN");
        assert_eq!(read(&[1, 0, 0, 0, 1000], 3, 0), None, "too many digits before the point");
        assert_eq!(read(&[2, 0, 0, 4, 1, 1], 10, 2), None, "too many digits behind the point");
        let nines = [10, 9, 0, 0, 99, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999];
        assert_eq!(read(&nines, 38, 0), Some(POWERS[38] - 1));
        let behind = [10, 0xffff, 0, 38, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9900];
        assert_eq!(read(&behind, 38, 38), Some(POWERS[38] - 1));
        assert_eq!(read(&[2, 1, 0, 0, 7, 0], 10, 2), Some(7_000_000), "a group of zeros at the end");
        assert!(read_decimal(&[0, 1], 10, 2).is_err());
    }

    /// Numerics of any groups, weights and signs, well formed or not.
    fn any_numeric() -> impl Strategy<Value = Vec<u8>> {
        let group = prop_oneof![Just(0), Just(1), Just(9999), (0_u16..100).prop_map(|n| n * 100), 0_u16..10_000];
        let sign =
            prop_oneof![4 => Just(0), 4 => Just(0x4000), 1 => Just(0xC000), 1 => Just(0xF000), 1 => any::<u16>()];
        let groups = prop::collection::vec(group, 0..7);
        (groups, -4_i16..6, sign, prop_oneof![9 => Just(0_u16), 1 => Just(1)]).prop_map(
            |(groups, weight, sign, more)| {
                let count = groups.len() as u16 + more;
                let words = [count, weight.cast_unsigned(), sign, 2].into_iter().chain(groups);
                words.flat_map(u16::to_be_bytes).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn short_decimals_are_those_of_the_long_way(bytes in any_numeric(), precision in 1_u8..=38, scale in 0_i8..=20) {
            if let Some(short) = read_short_decimal(&bytes, short_limit(precision), scale) {
                prop_assert_eq!(read_decimal(&bytes, precision, scale).expect("well formed"), Some(i128::from(short)));
            }
        }
    }

    #[test]
    fn ordinary_decimals_go_the_short_way() {
        let short = |words: &[u16]| read_short_decimal(&numeric(words), short_limit(15), 2);
        assert_eq!(short(&[2, 0, 0, 2, 901, 2300]), Some(90_123));
        assert_eq!(short(&[2, 0, 0x4000, 2, 901, 2300]), Some(-90_123));
        assert_eq!(short(&[0, 0, 0, 2]), Some(0));
        assert_eq!(short(&[1, 1, 0, 2, 7]), Some(7_000_000));
        assert_eq!(short(&[2, 0, 0, 4, 1, 1]), None, "too many digits behind the point");
        assert_eq!(short(&[4, 3, 0, 2, 10, 0, 0, 0]), None, "too many digits before the point");
    }
}
