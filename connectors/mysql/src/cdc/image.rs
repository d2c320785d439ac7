//! Rows as they lie in the binlog.
//!
//! Source: "Rows_event" in the source documentation of MySQL 8.0, and the storage formats of `field.cc`.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ingest_core::Result;

use super::bytes::{Bytes, bit, cut};
use super::json;
use super::map::{Layout, Mapped};
use crate::cells::{Cell, Moment, SECOND, clock, hex};

/// One value of a row: at hand, in the row's bytes, or made of them.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    /// The row does not carry the column.
    Absent,
    At(Cell<'static>),
    Row(Range<usize>),
    Made(Range<usize>),
}

/// A row that has been read. Kept for the next one, so that a row costs no memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pieces: Vec<Piece>,
    made: Vec<u8>,
}

impl Image {
    /// Reads the row at the front of `rows`: of the columns whose bit is set in `present`.
    pub(crate) fn read(
        &mut self,
        rows: &mut Bytes<'_>,
        whole: &[u8],
        columns: &[Mapped],
        present: &[u8],
    ) -> Result<()> {
        self.pieces.clear();
        self.made.clear();
        let count = (0..columns.len()).filter(|i| bit(present, *i)).count();
        let nulls = rows.take(count.div_ceil(8))?;
        let mut nth = 0;
        for (i, column) in columns.iter().enumerate() {
            if !bit(present, i) {
                self.pieces.push(Piece::Absent);
                continue;
            }
            let null = bit(nulls, nth);
            nth += 1;
            let piece = match null {
                true => Piece::At(Cell::Null),
                false => self.value(rows, whole, &column.layout).map_err(|error| error.with("column", &column.name))?,
            };
            self.pieces.push(piece);
        }
        Ok(())
    }

    /// The value of a column; `None` where the row does not carry it. `whole` are the bytes that the row was read from.
    pub(crate) fn cell<'a>(&'a self, whole: &'a [u8], column: usize) -> Option<Cell<'a>> {
        match self.pieces.get(column)? {
            Piece::Absent => None,
            Piece::At(cell) => Some(*cell),
            Piece::Row(range) => whole.get(range.clone()).map(Cell::Bytes),
            Piece::Made(range) => self.made.get(range.clone()).map(Cell::Bytes),
        }
    }

    fn value(&mut self, rows: &mut Bytes<'_>, whole: &[u8], layout: &Layout) -> Result<Piece> {
        let at = |cell| Ok(Piece::At(cell));
        match layout {
            Layout::Integer { bytes, unsigned } => at(integer(rows, *bytes, *unsigned)?),
            Layout::Float => at(Cell::Float(f32::from_le_bytes(rows.array()?))),
            Layout::Double => at(Cell::Double(f64::from_le_bytes(rows.array()?))),
            Layout::Decimal { precision, scale } => {
                let text = decimal(rows, *precision, *scale)?;
                Ok(self.keep(text.as_bytes()))
            }
            Layout::Year => {
                let year = i64::from(rows.u8()?);
                at(Cell::Int(if year == 0 { 0 } else { 1_900 + year }))
            }
            Layout::Date => at(Cell::Moment(date(rows)?)),
            Layout::DateTime(digits) => at(Cell::Moment(date_time(rows, *digits)?)),
            Layout::Timestamp(digits) => at(timestamp(rows, *digits)?),
            Layout::Time(digits) => at(Cell::Time(time(rows, *digits)?)),
            Layout::Enum(bytes, labels) => {
                // The index 0 is the empty text of a value that was no label.
                let index = usize::try_from(rows.little(*bytes)?).map_err(|_| cut())?;
                let label = if index == 0 { "" } else { labels.get(index - 1).ok_or_else(cut)? };
                Ok(self.keep(label.as_bytes()))
            }
            Layout::Set(bytes, labels) => {
                let bits = rows.little(*bytes)?;
                let chosen =
                    labels.iter().enumerate().filter(|(i, _)| bits.checked_shr(*i as u32).unwrap_or(0) & 1 == 1);
                let chosen: Vec<&str> = chosen.map(|(_, label)| label.as_str()).collect();
                Ok(self.keep(chosen.join(",").as_bytes()))
            }
            Layout::Bits(bytes) => Ok(Piece::Row(within(rows, whole, *bytes)?)),
            Layout::Bytes { length, width } => {
                let length = usize::try_from(rows.little(*length)?).map_err(|_| cut())?;
                let range = within(rows, whole, length)?;
                match width {
                    // BINARY(n) loses its zeros at the end in the log.
                    Some(width) if *width > length => {
                        let start = self.made.len();
                        self.made.extend_from_slice(&whole[range]);
                        self.made.resize(start + width, 0);
                        Ok(Piece::Made(start..self.made.len()))
                    }
                    _ => Ok(Piece::Row(range)),
                }
            }
            Layout::Text { length, charset } => {
                let length = usize::try_from(rows.little(*length)?).map_err(|_| cut())?;
                let range = within(rows, whole, length)?;
                match charset.decode(&whole[range.clone()]) {
                    std::borrow::Cow::Borrowed(_) => Ok(Piece::Row(range)),
                    std::borrow::Cow::Owned(text) => Ok(self.keep(&text)),
                }
            }
            Layout::Json(length) => {
                let length = usize::try_from(rows.little(*length)?).map_err(|_| cut())?;
                let text = json::print(rows.take(length)?)?;
                Ok(self.keep(text.as_bytes()))
            }
            Layout::Inet4 => {
                let bytes: [u8; 4] = padded(rows)?;
                Ok(self.keep(Ipv4Addr::from(bytes).to_string().as_bytes()))
            }
            Layout::Inet6 => {
                let bytes: [u8; 16] = padded(rows)?;
                Ok(self.keep(Ipv6Addr::from(bytes).to_string().as_bytes()))
            }
            Layout::Uuid => {
                let bytes: [u8; 16] = padded(rows)?;
                Ok(self.keep(uuid(bytes).as_bytes()))
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Piece {
        let start = self.made.len();
        self.made.extend_from_slice(bytes);
        Piece::Made(start..self.made.len())
    }
}

/// Where the next bytes lie in the whole.
fn within(rows: &mut Bytes<'_>, whole: &[u8], count: usize) -> Result<Range<usize>> {
    let start = whole.len() - rows.0.len();
    rows.take(count)?;
    Ok(start..start + count)
}

/// A value of fixed width behind its length, whose zeros at the end are left out.
fn padded<const N: usize>(rows: &mut Bytes<'_>) -> Result<[u8; N]> {
    let length = usize::from(rows.u8()?);
    let mut bytes = [0; N];
    bytes.get_mut(..length).ok_or_else(cut)?.copy_from_slice(rows.take(length)?);
    Ok(bytes)
}

pub(crate) fn uuid(bytes: [u8; 16]) -> String {
    let hex = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn integer(rows: &mut Bytes<'_>, bytes: usize, unsigned: bool) -> Result<Cell<'static>> {
    let number = rows.little(bytes)?;
    if unsigned {
        return Ok(Cell::UInt(number));
    }
    let unused = 64 - 8 * bytes as u32;
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

/// A decimal as text: groups of nine digits in four bytes, the outer groups in fewer. The first bit is the sign, flipped; of a
/// negative number all bits are.
pub(crate) fn decimal(rows: &mut Bytes<'_>, precision: usize, scale: usize) -> Result<String> {
    const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
    let whole = precision.checked_sub(scale).ok_or_else(cut)?;
    let length = |digits: usize| digits / 9 * 4 + BYTES[digits % 9];
    let stored = rows.take(length(whole) + length(scale))?;
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
    let _ = write!(text, "{:0width$}", bytes.big(BYTES[whole % 9])?, width = whole % 9);
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
        let _ = write!(text, "{:0width$}", bytes.big(BYTES[scale % 9])?, width = scale % 9);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("digits")).collect()
    }

    fn read(layout: Layout, stored: &str) -> String {
        let stored = bytes(stored);
        let (mut rows, mut image) = (Bytes(&stored), Image::default());
        let piece = image.value(&mut rows, &stored, &layout).expect("a value");
        assert!(rows.is_empty(), "{layout:?} leaves bytes");
        image.pieces.push(piece);
        match image.cell(&stored, 0).expect("a value") {
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
            assert_eq!(read(layout.clone(), stored), value, "{layout:?}");
        }
    }

    #[test]
    fn damaged_rows_are_errors() {
        let columns = [
            Mapped {
                name: "a".into(),
                layout: Layout::Decimal { precision: 65, scale: 30 },
                kind: crate::types::Kind::Text,
                nullable: true,
            },
            Mapped { name: "b".into(), layout: Layout::Json(4), kind: crate::types::Kind::Text, nullable: true },
            Mapped {
                name: "c".into(),
                layout: Layout::Enum(2, vec![]),
                kind: crate::types::Kind::Text,
                nullable: true,
            },
        ];
        let mut state = 1_u64;
        for length in 0..200 {
            let stored: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let _ = Image::default().read(&mut Bytes(&stored), &stored, &columns, &[7]);
        }
    }
}
