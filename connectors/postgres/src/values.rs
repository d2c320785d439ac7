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

/// A numeric as an integer of its last digit. `None`: NaN, infinity, or more digits than the column has.
#[inline]
pub(crate) fn read_decimal(bytes: &[u8], precision: u8, scale: i8) -> Result<Option<i128>> {
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
}
