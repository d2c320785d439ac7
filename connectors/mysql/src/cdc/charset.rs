//! Texts of the binlog, which come in the character set of their column.

use std::borrow::Cow;
use std::collections::HashMap;

use encoding_rs::Encoding;
use ingest_core::{Error, ErrorKind, Result};

use crate::server::{Connection, Flavour};

/// A character set, as far as it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charset {
    /// UTF-8 as it is, of up to three or four bytes.
    Utf8,
    /// Two or four bytes a unit, the highest first; or two, the lowest first.
    Utf16,
    Utf16Le,
    Utf32,
    Other(&'static Encoding),
}

/// The character sets of the server's collations, by number.
#[derive(Debug)]
pub(crate) struct Collations {
    names: HashMap<usize, String>,
    flavour: Flavour,
}

impl Collations {
    /// Asks the server.
    pub(crate) async fn load(connection: &mut Connection) -> Result<Self> {
        // MariaDB lists its newer collations here alone, once for each character set that has them.
        let table = match connection.flavour {
            Flavour::MariaDb => "COLLATION_CHARACTER_SET_APPLICABILITY",
            Flavour::Mysql => "COLLATIONS",
        };
        let sql = format!(
            "SELECT CAST(ID AS UNSIGNED), CHARACTER_SET_NAME FROM information_schema.{table} WHERE ID IS NOT NULL"
        );
        let rows = connection.rows::<(u64, String)>(&sql, "cannot read the server's collations").await;
        let rows = match rows {
            // Before MariaDB 10.10 that table has no numbers.
            Err(_) if connection.flavour == Flavour::MariaDb => {
                let sql = sql.replace(table, "COLLATIONS");
                connection.rows(&sql, "cannot read the server's collations").await?
            }
            rows => rows?,
        };
        let names = rows.into_iter().filter_map(|(id, name)| Some((usize::try_from(id).ok()?, name))).collect();
        Ok(Self { names, flavour: connection.flavour })
    }

    /// Whether a column of this type of the log has a place among the collations: texts, and with MariaDB geometries.
    pub(crate) fn lists(&self, sort: u8) -> bool {
        matches!(sort, 15 | 249..=254) || (sort == 255 && self.flavour == Flavour::MariaDb)
    }

    /// The character set of a collation; `None` for binary values.
    pub(crate) fn charset(&self, collation: usize) -> Result<Option<Charset>> {
        let name = self.names.get(&collation).map_or("", String::as_str);
        if name == "binary" {
            return Ok(None);
        }
        Charset::of(name).map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "cdc: a column has a character set that cannot be read from the binlog")
                .with("collation", collation)
                .with("charset", name)
                .hint("convert the column to utf8mb4, leave the table out, or read it with `mode: full`: then the server converts")
        })
    }
}

impl Charset {
    /// By the server's name of it. The server's `latin1` is windows-1252.
    fn of(name: &str) -> Option<Self> {
        use encoding_rs as e;
        Some(match name {
            "utf8" | "utf8mb3" | "utf8mb4" | "ascii" => Self::Utf8,
            "ucs2" | "utf16" => Self::Utf16,
            "utf16le" => Self::Utf16Le,
            "utf32" => Self::Utf32,
            "latin1" => Self::Other(e::WINDOWS_1252),
            "latin2" => Self::Other(e::ISO_8859_2),
            "latin5" => Self::Other(e::WINDOWS_1254),
            "latin7" => Self::Other(e::ISO_8859_13),
            "greek" => Self::Other(e::ISO_8859_7),
            "hebrew" => Self::Other(e::ISO_8859_8),
            "cp1250" => Self::Other(e::WINDOWS_1250),
            "cp1251" => Self::Other(e::WINDOWS_1251),
            "cp1256" => Self::Other(e::WINDOWS_1256),
            "cp1257" => Self::Other(e::WINDOWS_1257),
            "cp866" => Self::Other(e::IBM866),
            "koi8r" => Self::Other(e::KOI8_R),
            "koi8u" => Self::Other(e::KOI8_U),
            "macroman" => Self::Other(e::MACINTOSH),
            "tis620" => Self::Other(e::WINDOWS_874),
            "gb2312" | "gbk" => Self::Other(e::GBK),
            "gb18030" => Self::Other(e::GB18030),
            "big5" => Self::Other(e::BIG5),
            "sjis" | "cp932" => Self::Other(e::SHIFT_JIS),
            "ujis" | "eucjpms" => Self::Other(e::EUC_JP),
            "euckr" => Self::Other(e::EUC_KR),
            _ => return None,
        })
    }

    /// The text as UTF-8; what is none in its character set comes back as it is, and is rescued.
    pub(crate) fn decode(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        let decoded = match self {
            Self::Utf8 => return Cow::Borrowed(bytes),
            Self::Utf16 => utf16(bytes, u16::from_be_bytes),
            Self::Utf16Le => utf16(bytes, u16::from_le_bytes),
            Self::Utf32 => utf32(bytes),
            Self::Other(encoding) => {
                encoding.decode_without_bom_handling_and_without_replacement(bytes).map(Cow::into_owned)
            }
        };
        decoded.map_or(Cow::Borrowed(bytes), |text| Cow::Owned(text.into_bytes()))
    }
}

fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    rest.is_empty().then_some(())?;
    char::decode_utf16(units.iter().map(|bytes| unit(*bytes))).collect::<std::result::Result<_, _>>().ok()
}

fn utf32(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then_some(())?;
    units.iter().map(|bytes| char::from_u32(u32::from_be_bytes(*bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_in_their_character_set() {
        for (name, bytes, text) in [
            ("latin1", &b"h\xe9\x80"[..], "h\u{e9}\u{20ac}"),
            ("utf8mb4", "né😀".as_bytes(), "né😀"),
            ("ucs2", &[0, b'a', 0x20, 0xac], "a€"),
            ("utf16le", &[b'a', 0], "a"),
            ("utf32", &[0, 1, 0xf6, 0], "😀"),
            ("sjis", &[0x93, 0xfa], "日"),
            ("cp1251", &[0xe6], "ж"),
        ] {
            let charset = Charset::of(name).expect(name);
            assert_eq!(&*charset.decode(bytes), text.as_bytes(), "{name}");
        }
        assert_eq!(Charset::of("cp850"), None);
        assert_eq!(&*Charset::Utf16.decode(&[0xd8, 0]), &[0xd8, 0], "half a pair is no text");
    }
}
