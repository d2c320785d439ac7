//! Binary values as the text that the server prints for them (with `DateStyle` ISO, `TimeZone` UTC and `IntervalStyle`
//! `iso_8601`): for types whose column is text, and for values that do not fit their column.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use ingest_core::{Error, ErrorKind, Result};

use crate::types::Kind;
use crate::wire::Reader;

/// Days from 1970-01-01 to 2000-01-01, from which the server counts.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
/// Microseconds from 1970-01-01 to 2000-01-01.
pub(crate) const EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY: i64 = 86_400_000_000;

/// Appends the text of a value.
pub(crate) fn write(kind: &Kind, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    match kind {
        Kind::Bool => out.push(if bytes == [0] { b'f' } else { b't' }),
        Kind::Int16 => put(out, format_args!("{}", i16::from_be_bytes(exact(bytes)?))),
        Kind::Int32 => put(out, format_args!("{}", i32::from_be_bytes(exact(bytes)?))),
        Kind::Int64 => put(out, format_args!("{}", i64::from_be_bytes(exact(bytes)?))),
        Kind::Unsigned32 => put(out, format_args!("{}", u32::from_be_bytes(exact(bytes)?))),
        Kind::Float32 => float(&format!("{:e}", f32::from_be_bytes(exact(bytes)?)), 6, out),
        Kind::Float64 => float(&format!("{:e}", f64::from_be_bytes(exact(bytes)?)), 15, out),
        Kind::Text | Kind::Money | Kind::Other => out.extend_from_slice(bytes),
        Kind::Jsonb => out.extend_from_slice(jsonb(bytes)?),
        Kind::Bytes => {
            out.extend_from_slice(b"\\x");
            hex(bytes, out);
        }
        Kind::Decimal { .. } | Kind::Numeric => numeric(bytes, out)?,
        Kind::Date => date(i32::from_be_bytes(exact(bytes)?), out),
        Kind::Timestamp => timestamp(i64::from_be_bytes(exact(bytes)?), false, out),
        Kind::TimestampTz => timestamp(i64::from_be_bytes(exact(bytes)?), true, out),
        Kind::Time => time_of_day(i64::from_be_bytes(exact(bytes)?), out),
        Kind::TimeTz => time_tz(bytes, out)?,
        Kind::Interval => interval(bytes, out)?,
        Kind::Uuid => uuid(&exact(bytes)?, out),
        Kind::Inet => inet(bytes, out)?,
        Kind::MacAddr => {
            for (i, byte) in bytes.iter().enumerate() {
                put(out, format_args!("{}{byte:02x}", if i > 0 { ":" } else { "" }));
            }
        }
        Kind::Bits => bits(bytes, out)?,
        Kind::Lsn => {
            let lsn = u64::from_be_bytes(exact(bytes)?);
            put(out, format_args!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff));
        }
        Kind::List(inner) => array(inner, bytes, out)?,
        Kind::Range(inner) => range(inner, bytes, out)?,
        Kind::Multirange(inner) => multirange(inner, bytes, out)?,
        Kind::Struct(fields) => composite(fields, bytes, out)?,
        Kind::Hstore => hstore(bytes, out)?,
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Writing into a Vec cannot fail.
    let _ = out.write_fmt(arguments);
}

/// The bytes of a value of fixed size.
pub(crate) fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| {
        Error::new(ErrorKind::DataInvalid, "a value has another size than its type")
            .with("bytes", bytes.len())
            .with("expected", N)
    })
}

/// The text of a `jsonb`, which stands behind a version byte.
pub(crate) fn jsonb(bytes: &[u8]) -> Result<&[u8]> {
    match bytes {
        [1, text @ ..] => Ok(text),
        _ => Err(Error::new(ErrorKind::DataInvalid, "a jsonb value of an unknown version")),
    }
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn uuid(bytes: &[u8; 16], out: &mut Vec<u8>) {
    for (i, part) in [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]].into_iter().enumerate() {
        if i > 0 {
            out.push(b'-');
        }
        hex(part, out);
    }
}

/// Turns Rust's shortest digits with exponent into the form of the server: plain from 1e-5 to below 1e`limit`.
fn float(shortest: &str, limit: i32, out: &mut Vec<u8>) {
    let (sign, digits) = shortest.strip_prefix('-').map_or(("", shortest), |rest| ("-", rest));
    let Some((mantissa, exponent)) = digits.split_once('e') else {
        let special = match digits {
            "inf" => "Infinity",
            "NaN" => "NaN",
            other => other,
        };
        return put(out, format_args!("{}{special}", if digits == "NaN" { "" } else { sign }));
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..limit).contains(&exponent) {
        let mark = if exponent < 0 { '-' } else { '+' };
        return put(out, format_args!("{sign}{mantissa}e{mark}{:02}", exponent.abs()));
    }
    let plain: String = mantissa.chars().filter(|c| *c != '.').collect();
    let point = exponent + 1;
    out.extend_from_slice(sign.as_bytes());
    match usize::try_from(point) {
        Ok(point) if point >= plain.len() => put(out, format_args!("{plain}{}", "0".repeat(point - plain.len()))),
        Ok(point) if point > 0 => put(out, format_args!("{}.{}", &plain[..point], &plain[point..])),
        _ => put(out, format_args!("0.{}{plain}", "0".repeat(point.unsigned_abs() as usize))),
    }
}

/// Groups of four decimal digits, the weight of the first one, sign and digits to show.
pub(crate) fn numeric(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    let (count, weight, sign, scale) = (reader.u16()?, i32::from(reader.i16()?), reader.u16()?, reader.u16()?);
    match sign {
        0xC000 => out.extend_from_slice(b"NaN"),
        0xD000 => out.extend_from_slice(b"Infinity"),
        0xF000 => out.extend_from_slice(b"-Infinity"),
        _ => {
            if sign == 0x4000 {
                out.push(b'-');
            }
            let groups: Vec<u16> = (0..count).map(|_| reader.u16()).collect::<Result<_>>()?;
            let group = |at: i32| usize::try_from(at).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
            if weight < 0 {
                out.push(b'0');
            }
            for at in 0..=weight {
                match at {
                    0 => put(out, format_args!("{}", group(0))),
                    _ => put(out, format_args!("{:04}", group(at))),
                }
            }
            if scale > 0 {
                out.push(b'.');
                let start = out.len();
                let mut at = weight + 1;
                while out.len() - start < usize::from(scale) {
                    put(out, format_args!("{:04}", group(at)));
                    at += 1;
                }
                out.truncate(start + usize::from(scale));
            }
        }
    }
    Ok(())
}

/// Year, month, day of a day count from 1970-01-01, in the Gregorian calendar for all times.
fn civil(days: i64) -> (i64, u32, u32) {
    // Eras of 400 years that begin on 1 March 0000.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(0), u32::try_from(day).unwrap_or(0))
}

fn civil_text(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil(days);
    let before_christ = year <= 0;
    let year = if before_christ { 1 - year } else { year };
    put(out, format_args!("{year:04}-{month:02}-{day:02}"));
    before_christ
}

fn date(days: i32, out: &mut Vec<u8>) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            if civil_text(i64::from(days) + i64::from(EPOCH_DAYS), out) {
                out.extend_from_slice(b" BC");
            }
        }
    }
}

fn timestamp(micros: i64, zone: bool, out: &mut Vec<u8>) {
    match micros {
        i64::MAX => return out.extend_from_slice(b"infinity"),
        i64::MIN => return out.extend_from_slice(b"-infinity"),
        _ => {}
    }
    let before_christ = civil_text(micros.div_euclid(DAY) + i64::from(EPOCH_DAYS), out);
    out.push(b' ');
    time_of_day(micros.rem_euclid(DAY), out);
    if zone {
        out.extend_from_slice(b"+00");
    }
    if before_christ {
        out.extend_from_slice(b" BC");
    }
}

/// A timestamp in microseconds since 1970 as a literal of the server.
pub(crate) fn micros(since_1970: i64, zone: bool) -> String {
    let mut out = Vec::new();
    timestamp(since_1970 - EPOCH_MICROS, zone, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// A date in days since 1970 as a literal of the server.
pub(crate) fn days(since_1970: i32) -> String {
    let mut out = Vec::new();
    date(since_1970 - EPOCH_DAYS, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn time_of_day(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros / 1_000_000;
    put(out, format_args!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60));
    fraction(micros % 1_000_000, out);
}

fn fraction(micros: i64, out: &mut Vec<u8>) {
    if micros != 0 {
        put(out, format_args!(".{:06}", micros.abs()));
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn time_tz(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    let (micros, west) = (reader.i64()?, reader.i32()?);
    time_of_day(micros, out);
    // Seconds west of Greenwich; people write east.
    let (sign, offset) = if west > 0 { ('-', west.unsigned_abs()) } else { ('+', west.unsigned_abs()) };
    put(out, format_args!("{sign}{:02}", offset / 3_600));
    if offset % 3_600 != 0 {
        put(out, format_args!(":{:02}", offset / 60 % 60));
    }
    if offset % 60 != 0 {
        put(out, format_args!(":{:02}", offset % 60));
    }
    Ok(())
}

/// ISO 8601 as the server writes it: months, days and time keep signs of their own.
fn interval(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    let (micros, days, months) = (reader.i64()?, reader.i32()?, reader.i32()?);
    if micros == 0 && days == 0 && months == 0 {
        out.extend_from_slice(b"PT0S");
        return Ok(());
    }
    out.push(b'P');
    for (number, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if number != 0 {
            put(out, format_args!("{number}{unit}"));
        }
    }
    if micros != 0 {
        out.push(b'T');
        let seconds = micros / 1_000_000;
        for (number, unit) in [(seconds / 3_600, 'H'), (seconds / 60 % 60, 'M')] {
            if number != 0 {
                put(out, format_args!("{number}{unit}"));
            }
        }
        let rest = micros % 60_000_000;
        if rest != 0 {
            if rest < 0 {
                out.push(b'-');
            }
            put(out, format_args!("{}", (rest / 1_000_000).abs()));
            fraction(rest % 1_000_000, out);
            out.push(b'S');
        }
    }
    Ok(())
}

fn inet(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let invalid = || Error::new(ErrorKind::DataInvalid, "a network address of an unknown form");
    let [family, mask, is_cidr, _, address @ ..] = bytes else { return Err(invalid()) };
    let full = match family {
        2 => {
            put(out, format_args!("{}", Ipv4Addr::from(exact::<4>(address)?)));
            32
        }
        3 => {
            let octets = exact::<16>(address)?;
            // The server also writes compatible addresses (::1.2.3.4) with dots, as long as they are not ::0 to ::ffff.
            if octets[..12] == [0; 12] && octets[12..14] != [0, 0] {
                put(out, format_args!("::{}", Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15])));
            } else {
                put(out, format_args!("{}", Ipv6Addr::from(octets)));
            }
            128
        }
        _ => return Err(invalid()),
    };
    if *is_cidr != 0 || *mask != full {
        put(out, format_args!("/{mask}"));
    }
    Ok(())
}

fn bits(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    let count = usize::try_from(reader.i32()?).unwrap_or(0);
    let data = reader.take(count.div_ceil(8))?;
    out.extend((0..count).map(|i| b'0' + (data[i / 8] >> (7 - i % 8) & 1)));
    Ok(())
}

/// The dimensions of an array: size and lower bound of each. An empty array has none.
pub(crate) fn dimensions(reader: &mut Reader<'_>) -> Result<Vec<(i32, i32)>> {
    let count = reader.i32()?;
    // The server's own limit is 6.
    if !(0..=16).contains(&count) {
        return Err(Error::new(ErrorKind::DataInvalid, "an array with an impossible number of dimensions"));
    }
    // Whether there are nulls, and the type of the elements.
    reader.take(8)?;
    let dimensions = (0..count).map(|_| Ok((reader.i32()?, reader.i32()?))).collect::<Result<Vec<_>>>()?;
    // Each element has at least its length, so the sizes cannot promise more than there is.
    let elements = dimensions.iter().try_fold(1_usize, |product, (size, _)| {
        usize::try_from(*size).ok().filter(|size| *size > 0).and_then(|size| product.checked_mul(size))
    });
    match elements {
        Some(elements) if count == 0 || elements <= reader.0.len() / 4 => Ok(dimensions),
        _ => Err(Error::new(ErrorKind::DataInvalid, "an array that is larger than its value")),
    }
}

fn array(inner: &Kind, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    let dimensions = dimensions(&mut reader)?;
    if dimensions.is_empty() {
        out.extend_from_slice(b"{}");
        return Ok(());
    }
    if dimensions.iter().any(|(_, lower)| *lower != 1) {
        for (size, lower) in &dimensions {
            put(out, format_args!("[{lower}:{}]", lower.saturating_add(size - 1)));
        }
        out.push(b'=');
    }
    nested(inner, &dimensions, &mut reader, out)
}

fn nested(inner: &Kind, dimensions: &[(i32, i32)], reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    let Some(((size, _), rest)) = dimensions.split_first() else {
        return match reader.field()? {
            None => {
                out.extend_from_slice(b"NULL");
                Ok(())
            }
            Some(bytes) => {
                let text = own(inner, bytes)?;
                let quoted = text.is_empty()
                    || text.eq_ignore_ascii_case(b"null")
                    || text.iter().any(|b| b"\"\\{},".contains(b) || is_space(*b));
                quote(&text, quoted, b"\\\"", b"\\\\", out);
                Ok(())
            }
        };
    };
    out.push(b'{');
    for i in 0..*size {
        if i > 0 {
            out.push(b',');
        }
        nested(inner, rest, reader, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn own(kind: &Kind, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    write(kind, bytes, &mut text)?;
    Ok(text)
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn quote(text: &[u8], quoted: bool, for_quote: &[u8], for_backslash: &[u8], out: &mut Vec<u8>) {
    if !quoted {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(for_quote),
            b'\\' => out.extend_from_slice(for_backslash),
            other => out.push(*other),
        }
    }
    out.push(b'"');
}

/// An element of a composite or a bound of a range: quotes are doubled there.
fn element(kind: &Kind, bytes: &[u8], special: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let text = own(kind, bytes)?;
    let quoted = text.is_empty() || text.iter().any(|b| special.contains(b) || is_space(*b));
    quote(&text, quoted, b"\"\"", b"\\\\", out);
    Ok(())
}

fn composite(fields: &[(String, Kind)], bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    reader.take(4)?;
    out.push(b'(');
    for (i, (_, kind)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        reader.take(4)?;
        if let Some(bytes) = reader.field()? {
            element(kind, bytes, b"\"\\(),", out)?;
        }
    }
    out.push(b')');
    Ok(())
}

/// Flags of a range: it is empty, includes a bound, has no bound.
pub(crate) mod flags {
    pub(crate) const EMPTY: u8 = 0x01;
    pub(crate) const LOWER_INCLUSIVE: u8 = 0x02;
    pub(crate) const UPPER_INCLUSIVE: u8 = 0x04;
    pub(crate) const LOWER_INFINITE: u8 = 0x08;
    pub(crate) const UPPER_INFINITE: u8 = 0x10;
}

/// Flags, lower bound, upper bound; a bound that is missing is infinite.
pub(crate) type RangeParts<'a> = (u8, Option<&'a [u8]>, Option<&'a [u8]>);

/// A range on the wire.
pub(crate) fn range_parts(bytes: &[u8]) -> Result<RangeParts<'_>> {
    let mut reader = Reader(bytes);
    let flags = reader.u8()?;
    let mut bound = |infinite: u8| {
        if flags & (flags::EMPTY | infinite) == 0 { reader.field() } else { Ok(None) }
    };
    let lower = bound(flags::LOWER_INFINITE)?;
    Ok((flags, lower, bound(flags::UPPER_INFINITE)?))
}

fn range(inner: &Kind, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let (flags, lower, upper) = range_parts(bytes)?;
    if flags & flags::EMPTY != 0 {
        out.extend_from_slice(b"empty");
        return Ok(());
    }
    out.push(if flags & flags::LOWER_INCLUSIVE != 0 { b'[' } else { b'(' });
    if let Some(lower) = lower {
        element(inner, lower, b"\"\\()[],", out)?;
    }
    out.push(b',');
    if let Some(upper) = upper {
        element(inner, upper, b"\"\\()[],", out)?;
    }
    out.push(if flags & flags::UPPER_INCLUSIVE != 0 { b']' } else { b')' });
    Ok(())
}

fn multirange(inner: &Kind, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    out.push(b'{');
    for i in 0..reader.i32()? {
        if i > 0 {
            out.push(b',');
        }
        if let Some(bytes) = reader.field()? {
            range(inner, bytes, out)?;
        }
    }
    out.push(b'}');
    Ok(())
}

fn hstore(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader(bytes);
    for i in 0..reader.i32()? {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        quote(reader.field()?.unwrap_or_default(), true, b"\\\"", b"\\\\", out);
        out.extend_from_slice(b"=>");
        match reader.field()? {
            None => out.extend_from_slice(b"NULL"),
            Some(value) => quote(value, true, b"\\\"", b"\\\\", out),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: &Kind, bytes: &[u8]) -> String {
        String::from_utf8(own(kind, bytes).expect("well formed")).expect("UTF-8")
    }

    #[test]
    fn numerics_print_as_the_server_does() {
        let cases: [(&[u16], &str); 6] = [
            (&[3, 1, 0, 3, 1, 0x929, 0x1a7c], "12345.678"),
            (&[1, 0xffff, 0x4000, 4, 1], "-0.0001"),
            (&[2, 0, 0, 2, 1, 0x1388], "1.50"),
            (&[0, 0, 0, 0], "0"),
            (&[1, 2, 0, 0, 7], "700000000"),
            (&[0, 0, 0xC000, 0], "NaN"),
        ];
        for (words, expected) in cases {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
            assert_eq!(text(&Kind::Numeric, &bytes), expected);
        }
    }

    #[test]
    fn far_dates_print_as_the_server_does() {
        for (days, expected) in [
            (0, "2000-01-01"),
            (i32::MAX, "infinity"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (2_921_940, "10000-01-01"),
            (-730_485, "0001-01-01 BC"),
            (8_824, "2024-02-28"),
            (8_825, "2024-02-29"),
        ] {
            let mut out = Vec::new();
            date(days, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn floats_print_as_the_server_does() {
        for (value, expected) in [
            (1.5, "1.5"),
            (1e15, "1e+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-0.0, "-0"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
            (100.0, "100"),
        ] {
            assert_eq!(text(&Kind::Float64, &f64::to_be_bytes(value)), expected);
        }
    }

    #[test]
    fn cut_values_are_errors() {
        let range = Kind::Range(Box::new(Kind::Int32));
        let kinds = [Kind::Interval, Kind::Numeric, Kind::Inet, Kind::Bits, Kind::Hstore, Kind::TimeTz];
        for kind in kinds.iter().chain([&range, &Kind::List(Box::new(Kind::Int32))]) {
            assert!(own(kind, &[0, 0, 0]).is_err(), "{kind:?}");
        }
    }
}
