//! Rows as they lie in the binlog.
//!
//! Source: "Rows_event" in the source documentation of MySQL 8.0, and the storage formats of `field.cc`.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use ingest_core::Result;

use super::bytes::{Bytes, bit, cut};
use super::json;
use super::map::{Layout, Mapped, Width};
use crate::cells::{Cell, Moment, SECOND, clock, hex};

/// One value of a row, as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// The row does not carry the column.
    Absent,
    Null,
    /// Its bytes, without those of a length.
    Given(&'a [u8]),
}

/// Finds the values of the row at the front of `rows`, which carries the columns whose bit is set in `present`. `values` is
/// filled anew, so that a row costs no memory of its own.
pub(crate) fn read<'a>(
    rows: &mut Bytes<'a>,
    columns: &[Mapped],
    present: &[u8],
    values: &mut Vec<Value<'a>>,
) -> Result<()> {
    values.clear();
    let count = (0..columns.len()).filter(|i| bit(present, *i)).count();
    if count == 0 {
        // Such rows would take no room, and never end.
        return Err(cut());
    }
    let nulls = rows.take(count.div_ceil(8))?;
    let mut nth = 0;
    for (i, column) in columns.iter().enumerate() {
        if !bit(present, i) {
            values.push(Value::Absent);
            continue;
        }
        let null = bit(nulls, nth);
        nth += 1;
        values.push(match null {
            true => Value::Null,
            false => Value::Given(bytes(rows, column.width).map_err(|error| error.with("column", &column.name))?),
        });
    }
    Ok(())
}

fn bytes<'a>(rows: &mut Bytes<'a>, width: Width) -> Result<&'a [u8]> {
    match width {
        Width::Fixed(bytes) => rows.take(bytes),
        Width::Behind(length) => {
            let bytes = usize::try_from(rows.little(length)?).map_err(|_| cut())?;
            rows.take(bytes)
        }
    }
}

/// Reads a value that is there. What has to be made of its bytes stands in `made` then.
pub(crate) fn cell<'a>(layout: &'a Layout, given: &'a [u8], made: &'a mut Vec<u8>) -> Result<Cell<'a>> {
    let mut bytes = Bytes(given);
    made.clear();
    Ok(match layout {
        Layout::Integer { unsigned, .. } => integer(given, *unsigned)?,
        Layout::Float => Cell::Float(f32::from_le_bytes(bytes.array()?)),
        Layout::Double => Cell::Double(f64::from_le_bytes(bytes.array()?)),
        Layout::Decimal { precision, scale } => match u8::try_from(*scale) {
            Ok(scale) if *precision <= 38 => Cell::Decimal(unscaled(given, *precision, usize::from(scale))?, scale),
            _ => keep(made, decimal(&mut bytes, *precision, *scale)?.as_bytes()),
        },
        Layout::Year => {
            let year = i64::from(bytes.u8()?);
            Cell::Int(if year == 0 { 0 } else { 1_900 + year })
        }
        Layout::Date => Cell::Moment(date(&mut bytes)?),
        Layout::DateTime(digits) => Cell::Moment(date_time(&mut bytes, *digits)?),
        Layout::Timestamp(digits) => timestamp(&mut bytes, *digits)?,
        Layout::Time(digits) => Cell::Time(time(&mut bytes, *digits)?),
        Layout::Enum(length, labels) => {
            // The index 0 is the empty text of a value that was no label.
            let index = usize::try_from(bytes.little(*length)?).map_err(|_| cut())?;
            let label = if index == 0 { "" } else { labels.get(index - 1).ok_or_else(cut)? };
            Cell::Bytes(label.as_bytes())
        }
        Layout::Set(length, labels) => {
            let bits = bytes.little(*length)?;
            let chosen = labels.iter().enumerate().filter(|(i, _)| bits.checked_shr(*i as u32).unwrap_or(0) & 1 == 1);
            let chosen: Vec<&str> = chosen.map(|(_, label)| label.as_str()).collect();
            keep(made, chosen.join(",").as_bytes())
        }
        Layout::Bits(_) => Cell::Bytes(given),
        Layout::Bytes { width, .. } => match width {
            // BINARY(n) loses its zeros at the end in the log.
            Some(width) if *width > given.len() => {
                made.extend_from_slice(given);
                made.resize(*width, 0);
                Cell::Bytes(made)
            }
            _ => Cell::Bytes(given),
        },
        Layout::Text { charset, .. } => match charset.decode(given) {
            Cow::Borrowed(text) => Cell::Bytes(text),
            Cow::Owned(text) => keep(made, &text),
        },
        Layout::Json(_) => keep(made, json::print(given)?.as_bytes()),
        Layout::Inet4 => keep(made, Ipv4Addr::from(padded::<4>(given)?).to_string().as_bytes()),
        Layout::Inet6 => keep(made, Ipv6Addr::from(padded::<16>(given)?).to_string().as_bytes()),
        Layout::Uuid => keep(made, uuid(padded(given)?).as_bytes()),
    })
}

fn keep<'a>(made: &'a mut Vec<u8>, bytes: &[u8]) -> Cell<'a> {
    made.extend_from_slice(bytes);
    Cell::Bytes(made)
}

/// A value of fixed width, whose zeros at the end are left out.
fn padded<const N: usize>(given: &[u8]) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    bytes.get_mut(..given.len()).ok_or_else(cut)?.copy_from_slice(given);
    Ok(bytes)
}

pub(crate) fn uuid(bytes: [u8; 16]) -> String {
    let hex = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn integer(given: &[u8], unsigned: bool) -> Result<Cell<'static>> {
    let number = Bytes(given).little(given.len())?;
    if unsigned {
        return Ok(Cell::UInt(number));
    }
    let unused = 64 - 8 * given.len().clamp(1, 8) as u32;
    Ok(Cell::Int((number << unused).cast_signed() >> unused))
}

/// Days in 5 bits, months in 4, years above.
fn date(rows: &mut Bytes<'_>) -> Result<Moment> {
    let packed = rows.little(3)?;
    Ok(Moment { year: (packed >> 9) as u16, month: (packed >> 5 & 15) as u8, day: (packed & 31) as u8, time: 0 })
}

/// A fraction of so many digits, in microseconds.
fn fraction(rows: &mut Bytes<'_>, digits: usize) -> Result<i64> {
    let bytes = digits.div_ceil(2);
    let scale = [1, 10_000, 100, 1].get(bytes).copied().ok_or_else(cut)?;
    Ok(rows.big(bytes)?.cast_signed() * scale)
}

/// `(year * 13 + month) << 22 | day << 17 | hour << 12 | minute << 6 | second` in five bytes, and the fraction.
fn date_time(rows: &mut Bytes<'_>, digits: usize) -> Result<Moment> {
    let packed = rows.big(5)? & 0x7f_ffff_ffff;
    let months = packed >> 22;
    let seconds = clock((packed >> 12 & 31) as u32, (packed >> 6 & 63) as u8, (packed & 63) as u8, 0);
    Ok(Moment {
        year: (months / 13) as u16,
        month: (months % 13) as u8,
        day: (packed >> 17 & 31) as u8,
        time: seconds + fraction(rows, digits)?,
    })
}

/// Seconds since 1970, UTC. 0 is `0000-00-00 00:00:00`.
fn timestamp(rows: &mut Bytes<'_>, digits: usize) -> Result<Cell<'static>> {
    let seconds = rows.big(4)?.cast_signed();
    let micros = fraction(rows, digits)?;
    if seconds == 0 && micros == 0 {
        return Ok(Cell::Moment(Moment { year: 0, month: 0, day: 0, time: 0 }));
    }
    Ok(Cell::Instant(seconds * SECOND + micros))
}

/// A sign, ten bits of hours, six of minutes and seconds each, and the fraction; as one number, 0 in the middle.
fn time(rows: &mut Bytes<'_>, digits: usize) -> Result<i64> {
    let bytes = digits.div_ceil(2);
    let packed = rows.big(3 + bytes)?.cast_signed() - (1_i64 << (8 * (3 + bytes) - 1));
    let (negative, packed) = (packed < 0, packed.unsigned_abs());
    let (whole, part) = (packed >> (8 * bytes), packed & ((1 << (8 * bytes)) - 1));
    let scale = [1, 10_000, 100, 1].get(bytes).copied().ok_or_else(cut)?;
    let time = clock((whole >> 12 & 0x3ff) as u32, (whole >> 6 & 63) as u8, (whole & 63) as u8, 0);
    let time = time + part.cast_signed() * scale;
    Ok(if negative { -time } else { time })
}

/// So many bytes do the last digits of a decimal take that make no group of nine.
const LOOSE: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// So many bytes does a decimal take: of the digits before and after the point, groups of nine in four bytes each, and the rest.
pub(crate) fn decimal_width(precision: usize, scale: usize) -> Result<usize> {
    let whole = precision.checked_sub(scale).ok_or_else(cut)?;
    let length = |digits: usize| digits / 9 * 4 + LOOSE[digits % 9];
    Ok(length(whole) + length(scale))
}

/// A decimal of up to 38 digits as a whole number of its smallest unit; it lies in the row as [`decimal`] says.
fn unscaled(stored: &[u8], precision: usize, scale: usize) -> Result<i128> {
    let whole = precision.checked_sub(scale).ok_or_else(cut)?;
    let negative = stored.first().is_some_and(|byte| byte & 0x80 == 0);
    let flip = if negative { u64::MAX } else { 0 };
    let (mut bytes, mut number, mut first) = (Bytes(stored), 0_i128, true);
    let mut group = |digits: usize| -> Result<()> {
        let length = LOOSE[digits];
        if length == 0 {
            return Ok(());
        }
        let bits = 8 * length as u32;
        // The sign is the highest bit of all.
        let sign = if std::mem::take(&mut first) { 1 << (bits - 1) } else { 0 };
        let group = ((bytes.big(length)? ^ sign) ^ flip) & (u64::MAX >> (64 - bits));
        let limit = 10_u64.pow(digits as u32);
        if group >= limit {
            return Err(cut());
        }
        number = number * i128::from(limit) + i128::from(group);
        Ok(())
    };
    group(whole % 9)?;
    for _ in 0..whole / 9 + scale / 9 {
        group(9)?;
    }
    group(scale % 9)?;
    Ok(if negative { -number } else { number })
}

/// A decimal as text: groups of nine digits in four bytes, the outer groups in fewer. The first bit is the sign, flipped; of a
/// negative number all bits are.
pub(crate) fn decimal(rows: &mut Bytes<'_>, precision: usize, scale: usize) -> Result<String> {
    let whole = precision.checked_sub(scale).ok_or_else(cut)?;
    let stored = rows.take(decimal_width(precision, scale)?)?;
    let negative = stored.first().is_some_and(|byte| byte & 0x80 == 0);
    let flip = if negative { 0xff } else { 0 };
    let mut bytes: Vec<u8> = stored.iter().map(|byte| byte ^ flip).collect();
    if let Some(first) = bytes.first_mut() {
        *first &= 0x7f;
    }
    let mut bytes = Bytes(&bytes);
    let mut text = String::with_capacity(precision + 3);
    if negative {
        text.push('-');
    }
    // Writing into a String cannot fail.
    let start = text.len();
    let _ = write!(text, "{:0width$}", bytes.big(LOOSE[whole % 9])?, width = whole % 9);
    for _ in 0..whole / 9 {
        let _ = write!(text, "{:09}", bytes.big(4)?);
    }
    let zeros =
        text[start..].bytes().take_while(|byte| *byte == b'0').count().min((text.len() - start).saturating_sub(1));
    text.replace_range(start..start + zeros, "");
    if scale > 0 {
        text.push('.');
    }
    for _ in 0..scale / 9 {
        let _ = write!(text, "{:09}", bytes.big(4)?);
    }
    if !scale.is_multiple_of(9) {
        let _ = write!(text, "{:0width$}", bytes.big(LOOSE[scale % 9])?, width = scale % 9);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("digits")).collect()
    }

    fn printed(layout: Layout, stored: &str) -> String {
        let stored = bytes(stored);
        let mut rows = Bytes(&stored);
        let given = super::bytes(&mut rows, layout.width().expect("a width")).expect("a value");
        assert!(rows.is_empty(), "{layout:?} leaves bytes");
        match cell(&layout, given, &mut Vec::new()).expect("a value") {
            Cell::Instant(micros) => crate::cells::print_micros(micros),
            cell => cell.print(),
        }
    }

    #[test]
    fn values_are_read_as_servers_have_written_them() {
        use Layout as L;
        let integer = |bytes, unsigned| L::Integer { bytes, unsigned };
        for (layout, stored, value) in [
            (integer(4, true), "00286bee", "4000000000"),
            (integer(1, true), "c8", "200"),
            (integer(3, false), "ffffff", "-1"),
            (integer(8, false), "0000000000000080", "-9223372036854775808"),
            (L::Decimal { precision: 10, scale: 3 }, "7ffffff3fea6", "-12.345"),
            (L::Decimal { precision: 10, scale: 0 }, "8000000000", "0"),
            (L::Year, "7c", "2024"),
            (L::Year, "00", "0"),
            (L::DateTime(6), "99b2bac8b801e240", "2024-02-29 12:34:56.123456"),
            (L::DateTime(0), "8000000000", "0000-00-00"),
            (L::Timestamp(3), "65e079f004ce", "2024-02-29 12:34:56.123000"),
            (L::Timestamp(0), "00000000", "0000-00-00"),
            (L::Time(0), "7fef7d", "-01:02:03"),
            (L::Time(0), "80b9f8", "11:39:56"),
            (L::Enum(1, vec!["a".into(), "b".into()]), "02", "b"),
            (L::Enum(1, vec!["a".into()]), "00", ""),
            (L::Set(1, vec!["a".into(), "b".into(), "c".into()]), "05", "a,c"),
            (L::Bits(1), "16", "\u{16}"),
            (L::Bytes { length: 1, width: Some(3) }, "0161", "a\0\0"),
            (L::Inet4, "047f000001", "127.0.0.1"),
        ] {
            assert_eq!(printed(layout.clone(), stored), value, "{layout:?}");
        }
    }

    #[test]
    fn damaged_rows_are_errors() {
        let column = |layout: Layout| Mapped {
            name: "a".into(),
            width: layout.width().expect("a width"),
            layout,
            kind: crate::types::Kind::Text,
            nullable: true,
        };
        let columns = [
            column(Layout::Decimal { precision: 65, scale: 30 }),
            column(Layout::Decimal { precision: 38, scale: 10 }),
            column(Layout::Json(4)),
            column(Layout::Enum(2, vec![])),
        ];
        let mut state = 1_u64;
        let mut made = Vec::new();
        for length in 0..200 {
            let stored: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let mut values = Vec::new();
            let _ = read(&mut Bytes(&stored), &columns, &[15], &mut values);
            for (value, column) in values.iter().zip(&columns) {
                if let Value::Given(given) = value {
                    let _ = cell(&column.layout, given, &mut made);
                }
            }
        }
        assert!(unscaled(&[0xff, 0xff], 3, 0).is_err(), "more than 999");
    }

    #[test]
    fn a_row_that_carries_nothing_is_damaged() {
        let layout = Layout::Year;
        let width = layout.width().expect("a width");
        let column = Mapped { name: "a".into(), width, layout, kind: crate::types::Kind::Int16, nullable: true };
        assert!(read(&mut Bytes(&[1, 2]), &[column], &[0], &mut Vec::new()).is_err());
    }

    #[test]
    fn decimals_are_the_same_as_numbers_and_as_texts() {
        for (precision, scale, stored) in [
            (12, 2, "80075bcd150c"),
            (12, 2, "7ff8a432eaf3"),
            (10, 3, "7ffffff3fea6"),
            (9, 9, "80000001"),
            (1, 0, "85"),
        ] {
            let stored = bytes(stored);
            let text = decimal(&mut Bytes(&stored), precision, scale).expect("a decimal");
            let number = unscaled(&stored, precision, scale).expect("a decimal");
            assert_eq!(Some(number), crate::cells::decimal(text.as_bytes(), scale as i8), "{text}");
        }
    }
}
