//! MySQL's binary JSON, as the text that the server prints of it.
//!
//! Source: "JSON binary format" in `json_binary.h` of MySQL 8.0.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ingest_core::{Error, ErrorKind, Result};

use super::bytes::{Bytes, cut};
use super::image;

/// The server itself refuses deeper documents.
const DEEPEST: usize = 100;

/// The text of a document. No bytes at all stand for null, as the server has it.
pub(crate) fn print(document: &[u8]) -> Result<String> {
    let mut text = String::with_capacity(document.len() * 2);
    match document.split_first() {
        None => text.push_str("null"),
        Some((sort, value)) => write(*sort, value, DEEPEST, &mut text)?,
    }
    Ok(text)
}

fn write(sort: u8, value: &[u8], depth: usize, text: &mut String) -> Result<()> {
    if depth == 0 {
        return Err(Error::new(ErrorKind::DataInvalid, "a JSON document is deeper than the server allows"));
    }
    let mut bytes = Bytes(value);
    // Writing into a String cannot fail.
    let _ = match sort {
        0 | 1 => return object(value, sort == 1, depth, text),
        2 | 3 => return array(value, sort == 3, depth, text),
        4 => write!(text, "{}", ["null", "true", "false"].get(usize::from(bytes.u8()?)).ok_or_else(cut)?),
        5 => write!(text, "{}", i16::from_le_bytes(bytes.array()?)),
        6 => write!(text, "{}", bytes.u16()?),
        7 => write!(text, "{}", i32::from_le_bytes(bytes.array()?)),
        8 => write!(text, "{}", bytes.little(4)?),
        9 => write!(text, "{}", i64::from_le_bytes(bytes.array()?)),
        10 => write!(text, "{}", bytes.little(8)?),
        11 => write!(text, "{}", double(f64::from_le_bytes(bytes.array()?))),
        12 => {
            let length = varying(&mut bytes)?;
            return quoted(bytes.take(length)?, text);
        }
        15 => return opaque(&mut bytes, text),
        _ => return Err(cut()),
    };
    Ok(())
}

/// The length of a text: seven bits a byte, the lowest first.
fn varying(bytes: &mut Bytes<'_>) -> Result<usize> {
    let mut length = 0_usize;
    for shift in (0..35).step_by(7) {
        let byte = bytes.u8()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(cut())
}

/// Doubles always show that they are none of the integers.
fn double(number: f64) -> String {
    let text = number.to_string();
    let plain = if text.len() > 17 { format!("{number:e}") } else { text };
    if plain.contains(['.', 'e']) { plain } else { plain + ".0" }
}

fn quoted(bytes: &[u8], text: &mut String) -> Result<()> {
    let value = std::str::from_utf8(bytes)
        .map_err(|e| Error::new(ErrorKind::DataInvalid, "a JSON text is not UTF-8").caused_by(e))?;
    let quoted =
        serde_json::to_string(value).map_err(|e| Error::unexpected("a text cannot be written as JSON").caused_by(e))?;
    text.push_str(&quoted);
    Ok(())
}

/// A container: how many, how long, then entries of fixed size.
struct Container<'a> {
    value: &'a [u8],
    wide: usize,
}

impl<'a> Container<'a> {
    fn number(&self, at: usize) -> Result<usize> {
        let number = Bytes(self.value.get(at..).ok_or_else(cut)?).little(self.wide)?;
        usize::try_from(number).map_err(|_| cut())
    }

    /// The value whose entry is at a place: small ones lie in the entry itself.
    fn entry(&self, at: usize, depth: usize, text: &mut String) -> Result<()> {
        let sort = *self.value.get(at).ok_or_else(cut)?;
        let inlined = matches!(sort, 4..=6) || (self.wide == 4 && matches!(sort, 7 | 8));
        let start = if inlined { at + 1 } else { self.number(at + 1)? };
        write(sort, self.value.get(start..).ok_or_else(cut)?, depth - 1, text)
    }

    fn key(&self, at: usize) -> Result<&'a [u8]> {
        let start = self.number(at)?;
        let length = Bytes(self.value.get(at + self.wide..).ok_or_else(cut)?).u16()?;
        self.value.get(start..start + usize::from(length)).ok_or_else(cut)
    }
}

fn array(value: &[u8], large: bool, depth: usize, text: &mut String) -> Result<()> {
    let container = Container { value, wide: if large { 4 } else { 2 } };
    text.push('[');
    for i in 0..container.number(0)? {
        if i > 0 {
            text.push_str(", ");
        }
        container.entry(2 * container.wide + i * (1 + container.wide), depth, text)?;
    }
    text.push(']');
    Ok(())
}

fn object(value: &[u8], large: bool, depth: usize, text: &mut String) -> Result<()> {
    let container = Container { value, wide: if large { 4 } else { 2 } };
    let count = container.number(0)?;
    let keys = 2 * container.wide;
    let values = keys + count.checked_mul(container.wide + 2).ok_or_else(cut)?;
    text.push('{');
    for i in 0..count {
        if i > 0 {
            text.push_str(", ");
        }
        quoted(container.key(keys + i * (container.wide + 2))?, text)?;
        text.push_str(": ");
        container.entry(values + i * (1 + container.wide), depth, text)?;
    }
    text.push('}');
    Ok(())
}

/// A value of a type that JSON does not have: decimals are numbers, times are texts, the rest is base64 with its type.
fn opaque(bytes: &mut Bytes<'_>, text: &mut String) -> Result<()> {
    let sort = bytes.u8()?;
    let length = varying(bytes)?;
    let mut value = Bytes(bytes.take(length)?);
    match sort {
        246 => {
            let (precision, scale) = (usize::from(value.u8()?), usize::from(value.u8()?));
            let number = image::decimal(&mut value, precision, scale)?;
            text.push_str(number.strip_prefix('+').unwrap_or(&number));
        }
        7 | 10 | 11 | 12 => {
            let packed = i64::from_le_bytes(value.array()?);
            let _ = write!(text, "\"{}\"", moment(sort, packed));
        }
        _ => {
            let _ = write!(text, "\"base64:type{sort}:{}\"", BASE64.encode(value.0));
        }
    }
    Ok(())
}

/// A packed time, date or both: 24 bits of microseconds below, years, months and so on above.
fn moment(sort: u8, packed: i64) -> String {
    let micros = packed.unsigned_abs() & 0xff_ffff;
    let whole = packed.unsigned_abs() >> 24;
    let (hours, minutes, seconds) = (whole >> 12, whole >> 6 & 0x3f, whole & 0x3f);
    if sort == 11 {
        let sign = if packed < 0 { "-" } else { "" };
        return format!("{sign}{:02}:{minutes:02}:{seconds:02}.{micros:06}", hours & 0x3ff);
    }
    let (date, hours) = (whole >> 17, hours & 0x1f);
    let (day, month) = (date & 0x1f, date >> 5);
    let date = format!("{:04}-{:02}-{day:02}", month / 13, month % 13);
    match sort {
        10 => date,
        _ => format!("{date} {hours:02}:{minutes:02}:{seconds:02}.{micros:06}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_printed_as_the_server_does() {
        // {"a": [1, true, null, "x"], "b": 1.5}, as the server lays it out.
        let inner = [4, 0, 21, 0, 5, 1, 0, 4, 1, 0, 4, 0, 0, 12, 16, 0, 1, b'x', 0, 0, 0];
        let mut document = vec![0, 2, 0, 49, 0, 18, 0, 1, 0, 19, 0, 1, 0, 2, 20, 0, 11, 41, 0, b'a', b'b'];
        document.remove(0);
        let mut whole = vec![0];
        whole.extend(&document);
        whole.extend(inner);
        whole.extend(1.5_f64.to_le_bytes());
        assert_eq!(print(&whole).expect("a document"), r#"{"a": [1, true, null, "x"], "b": 1.5}"#);
        assert_eq!(print(&[]).expect("nothing"), "null");
        assert_eq!(print(&[5, 0xff, 0xff]).expect("a number"), "-1");
        assert_eq!(print(&[12, 3, b'"', b'\n', b'h']).expect("a text"), r#""\"\nh""#);
    }

    #[test]
    fn damaged_documents_are_errors() {
        let document = [0, 1, 0, 20, 0, 11, 0, 1, 0, 2, 12, 0, b'k', 1, 0, 8, 0, 5, 1, 0];
        for end in 1..document.len() {
            for byte in 0..=255 {
                let mut damaged = document[..end].to_vec();
                damaged[end - 1] = byte;
                let _ = print(&damaged);
            }
        }
        // A container that holds itself.
        assert!(print(&[2, 1, 0, 7, 0, 2, 0, 0]).is_err());
    }
}
