//! Tables as the binlog describes them before their rows (TABLE_MAP_EVENT).
//!
//! Source: "Table_map_event" in the source documentation of MySQL 8.0 (`binlog_event`, optional metadata), and
//! `Table_map_log_event` of MariaDB 10.11.

use std::sync::Arc;

use arrow_schema::Field;
use ingest_core::{Error, ErrorKind, Result};

use super::bytes::{Bytes, bit};
use super::charset::{Charset, Collations};
use super::image;
use crate::catalog::Column;
use crate::types::Kind;

/// How a value lies in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// So many bytes, the lowest first.
    Integer {
        bytes: usize,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: usize,
        scale: usize,
    },
    Year,
    Date,
    /// Digits of the fraction.
    DateTime(usize),
    Timestamp(usize),
    Time(usize),
    /// Bytes, the highest first.
    Bits(usize),
    /// Bytes of the index, and the labels.
    Enum(usize, Vec<String>),
    /// Bytes of the bitmap, and the labels.
    Set(usize, Vec<String>),
    /// Bytes of the length; a fixed width is filled up with zeros.
    Bytes {
        length: usize,
        width: Option<usize>,
    },
    Text {
        length: usize,
        charset: Charset,
    },
    /// Bytes of the length.
    Json(usize),
    Inet4,
    Inet6,
    Uuid,
}

/// How much of a row a value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Fixed(usize),
    /// What a length of so many bytes says, which stands before it.
    Behind(usize),
}

impl Layout {
    pub(crate) fn width(&self) -> Result<Width> {
        Ok(match self {
            Self::Integer { bytes, .. } | Self::Bits(bytes) | Self::Enum(bytes, _) | Self::Set(bytes, _) => {
                Width::Fixed(*bytes)
            }
            Self::Float => Width::Fixed(4),
            Self::Double => Width::Fixed(8),
            Self::Decimal { precision, scale } => Width::Fixed(image::decimal_width(*precision, *scale)?),
            Self::Year => Width::Fixed(1),
            Self::Date => Width::Fixed(3),
            Self::DateTime(digits) => Width::Fixed(5 + digits.div_ceil(2)),
            Self::Timestamp(digits) => Width::Fixed(4 + digits.div_ceil(2)),
            Self::Time(digits) => Width::Fixed(3 + digits.div_ceil(2)),
            Self::Bytes { length, .. } | Self::Text { length, .. } | Self::Json(length) => Width::Behind(*length),
            Self::Inet4 | Self::Inet6 | Self::Uuid => Width::Behind(1),
        })
    }
}

/// A column of a table at a place in the log.
#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    pub(crate) name: String,
    pub(crate) layout: Layout,
    pub(crate) width: Width,
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
}

impl Mapped {
    /// The column as a reader of the table would describe it.
    pub(crate) fn column(&self) -> Column {
        Column {
            name: self.name.clone(),
            kind: self.kind,
            not_null: !self.nullable,
            field: Arc::new(Field::new(&self.name, self.kind.data_type(), self.nullable || self.kind.may_not_fit())),
            readable: true,
            writable: false,
            declared: String::new(),
        }
    }
}

/// A table at a place in the log.
#[derive(Debug, Clone)]
pub(crate) struct TableMap {
    pub(crate) columns: Vec<Mapped>,
}

/// The number and the name of the table that an event describes; what follows is read by [`TableMap::parse`].
pub(crate) fn name(body: &[u8]) -> Result<(u64, String, String)> {
    let mut bytes = Bytes(body);
    let number = bytes.little(6)?;
    bytes.u16()?;
    let database = bytes.text()?;
    bytes.u8()?;
    let table = bytes.text()?;
    Ok((number, database, table))
}

/// What follows the columns' types, as far as it is needed.
#[derive(Default)]
struct Optional {
    unsigned: Vec<u8>,
    default_charset: Option<(usize, Vec<(usize, usize)>)>,
    charsets: Vec<usize>,
    names: Vec<String>,
    sets: Vec<Vec<String>>,
    enums: Vec<Vec<String>>,
}

/// A column's type and what belongs to it, before it is known what they mean.
struct Raw {
    sort: u8,
    meta: [u8; 2],
}

impl TableMap {
    /// Reads an event. `catalog`: the columns that the table has now, for types that the log does not tell from others.
    pub(crate) fn parse(body: &[u8], catalog: &[Column], collations: &Collations) -> Result<Self> {
        let mut bytes = Bytes(body);
        bytes.take(8)?;
        let database = bytes.text()?;
        bytes.u8()?;
        let table = bytes.text()?;
        bytes.u8()?;
        let count = bytes.packed()?;
        let sorts = bytes.take(count)?;
        let length = bytes.packed()?;
        let mut meta = Bytes(bytes.take(length)?);
        let raw: Vec<Raw> = sorts.iter().map(|sort| Raw::read(*sort, &mut meta)).collect::<Result<_>>()?;
        let nulls = bytes.take(count.div_ceil(8))?;
        let optional = Optional::read(bytes)?;
        if optional.names.len() != count {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "cdc: the binlog does not say the names of columns")
                .with("stream", format!("{database}.{table}"))
                .hint(format!("SET GLOBAL binlog_row_metadata = 'FULL' at the server, then {}", super::log::again())));
        }
        let columns = columns(&raw, nulls, &optional, catalog, collations)
            .map_err(|error| error.with("stream", format!("{database}.{table}")))?;
        Ok(Self { columns })
    }
}

impl Raw {
    /// Reads what follows about a column: so many bytes as its type has.
    fn read(sort: u8, meta: &mut Bytes<'_>) -> Result<Self> {
        let pair = match sort {
            // FLOAT, DOUBLE, TIMESTAMP2, DATETIME2, TIME2, VECTOR, JSON, the BLOBs, GEOMETRY
            4 | 5 | 17..=19 | 242 | 245 | 249..=252 | 255 => [meta.u8()?, 0],
            // VARCHAR, BIT, NEWDECIMAL, ENUM, SET, VAR_STRING, STRING
            15 | 16 | 246..=248 | 253 | 254 => meta.array()?,
            _ => [0, 0],
        };
        Ok(Self { sort, meta: pair }.real())
    }

    /// ENUM, SET and CHAR share a type; the high bits of a length above 255 are folded into it.
    fn real(self) -> Self {
        let [sort, length] = self.meta;
        match self.sort {
            254 if sort & 0x30 != 0x30 => {
                let long = u16::from(length) | u16::from((sort & 0x30) ^ 0x30) << 4;
                Self { sort: sort | 0x30, meta: long.to_le_bytes() }
            }
            254 => Self { sort, meta: [length, 0] },
            // MariaDB's compressed columns are as the others once they are in the log.
            140 => Self { sort: 252, ..self },
            141 => Self { sort: 15, ..self },
            _ => self,
        }
    }

    /// Whether there is a place for it among the signs. MariaDB and newer MySQL give YEAR one, MySQL 8.0.15 does not.
    fn has_sign(&self, year: bool) -> bool {
        matches!(self.sort, 0..=5 | 8 | 9 | 246) || (year && self.sort == 13)
    }
}

impl Optional {
    fn read(mut bytes: Bytes<'_>) -> Result<Self> {
        let mut found = Self::default();
        while !bytes.is_empty() {
            let sort = bytes.u8()?;
            let length = bytes.packed()?;
            let mut value = Bytes(bytes.take(length)?);
            match sort {
                1 => found.unsigned = value.0.to_vec(),
                2 => found.default_charset = Some(pairs(&mut value)?),
                3 => found.charsets = numbers(&mut value)?,
                4 => {
                    while !value.is_empty() {
                        found.names.push(value.text()?);
                    }
                }
                5 => found.sets = labels(&mut value)?,
                6 => found.enums = labels(&mut value)?,
                _ => {}
            }
        }
        Ok(found)
    }
}

fn numbers(bytes: &mut Bytes<'_>) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        numbers.push(bytes.packed()?);
    }
    Ok(numbers)
}

/// A default, and the columns that have another.
fn pairs(bytes: &mut Bytes<'_>) -> Result<(usize, Vec<(usize, usize)>)> {
    let default = bytes.packed()?;
    let mut others = Vec::new();
    while !bytes.is_empty() {
        others.push((bytes.packed()?, bytes.packed()?));
    }
    Ok((default, others))
}

fn labels(bytes: &mut Bytes<'_>) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let count = bytes.packed()?;
        // Each label takes a byte at least, so the count is bounded by the event.
        all.push((0..count).map(|_| bytes.text()).collect::<Result<_>>()?);
    }
    Ok(all)
}

fn columns(
    raw: &[Raw],
    nulls: &[u8],
    optional: &Optional,
    catalog: &[Column],
    collations: &Collations,
) -> Result<Vec<Mapped>> {
    let unsigned = unsigned(raw, optional, catalog);
    let (mut texts, mut sets, mut enums) = (0, optional.sets.iter(), optional.enums.iter());
    let charset = |default: &Option<(usize, Vec<(usize, usize)>)>, listed: &[usize], nth: usize| match default {
        Some((default, others)) => others.iter().find(|(at, _)| *at == nth).map_or(*default, |(_, charset)| *charset),
        None => listed.get(nth).copied().unwrap_or(0),
    };
    let mut columns = Vec::with_capacity(raw.len());
    for ((i, raw), name) in raw.iter().enumerate().zip(&optional.names) {
        let mut collation = 63;
        if collations.lists(raw.sort) {
            collation = charset(&optional.default_charset, &optional.charsets, texts);
            texts += 1;
        }
        let text = |length, width| match collations.charset(collation)? {
            None => Ok(Layout::Bytes { length, width }),
            Some(charset) => Ok(Layout::Text { length, charset }),
        };
        let known = catalog.iter().find(|column| column.name == *name).map_or("", |column| &column.declared);
        let labels = match raw.sort {
            247 => enums.next().cloned().unwrap_or_default(),
            248 => sets.next().cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
        let layout = layout(raw, unsigned[i], labels, known, text).map_err(|error| error.with("column", name))?;
        let kind = kind(raw, &layout);
        let width = layout.width()?;
        columns.push(Mapped { name: name.clone(), kind, layout, width, nullable: bit(nulls, i) });
    }
    Ok(columns)
}

/// Which columns have no sign. Where a YEAR makes two readings possible, that one which fits the table of today better.
fn unsigned(raw: &[Raw], optional: &Optional, catalog: &[Column]) -> Vec<bool> {
    let read = |year: bool| {
        let mut place = 0;
        let sign = |raw: &Raw| {
            if !raw.has_sign(year) {
                return false;
            }
            // The highest bit of a byte comes first here, and nowhere else.
            let set = optional.unsigned.get(place / 8).is_some_and(|byte| byte & (0x80 >> (place % 8)) != 0);
            place += 1;
            set
        };
        raw.iter().map(sign).collect::<Vec<bool>>()
    };
    let fits = |signs: &[bool]| {
        let known = |name: &String| catalog.iter().find(|column| column.name == *name && column.kind.is_integer());
        let fits =
            |(name, sign): &(&String, &bool)| known(name).is_some_and(|column| column.kind.is_unsigned() == **sign);
        optional.names.iter().zip(signs).filter(fits).count()
    };
    let (with, without) = (read(true), read(false));
    if fits(&without) > fits(&with) { without } else { with }
}

fn layout(
    raw: &Raw,
    unsigned: bool,
    labels: Vec<String>,
    known: &str,
    text: impl Fn(usize, Option<usize>) -> Result<Layout>,
) -> Result<Layout> {
    let (first, both) = (usize::from(raw.meta[0]), usize::from(u16::from_le_bytes(raw.meta)));
    let integer = |bytes| Layout::Integer { bytes, unsigned };
    Ok(match raw.sort {
        1 => integer(1),
        2 => integer(2),
        9 => integer(3),
        3 => integer(4),
        8 => integer(8),
        4 => Layout::Float,
        5 => Layout::Double,
        246 => Layout::Decimal { precision: first, scale: usize::from(raw.meta[1]) },
        13 => Layout::Year,
        10 | 14 => Layout::Date,
        17 => Layout::Timestamp(first),
        18 => Layout::DateTime(first),
        19 => Layout::Time(first),
        16 => Layout::Bits((usize::from(raw.meta[1]) * 8 + first).div_ceil(8)),
        247 => Layout::Enum(first, labels),
        248 => Layout::Set(first, labels),
        245 => Layout::Json(first),
        242 | 255 => Layout::Bytes { length: first, width: None },
        249..=252 => text(first, None)?,
        // MariaDB's own types lie in the log as fixed bytes.
        253 | 254 if known == "inet6" => Layout::Inet6,
        253 | 254 if known == "inet4" => Layout::Inet4,
        253 | 254 if known == "uuid" => Layout::Uuid,
        15 => text(if both > 255 { 2 } else { 1 }, None)?,
        253 | 254 => text(if both > 255 { 2 } else { 1 }, Some(both))?,
        other => {
            return Err(Error::new(ErrorKind::Unsupported, "cdc: a column has a type of old servers")
                .with("type", other)
                .hint("ALTER TABLE … FORCE gives it today's type; until then read the table with `mode: full`"));
        }
    })
}

fn kind(raw: &Raw, layout: &Layout) -> Kind {
    match layout {
        Layout::Integer { bytes: 1, unsigned } => [Kind::Int8, Kind::UInt8][usize::from(*unsigned)],
        Layout::Integer { bytes: 2, unsigned } => [Kind::Int16, Kind::UInt16][usize::from(*unsigned)],
        Layout::Integer { bytes: 8, unsigned } => [Kind::Int64, Kind::UInt64][usize::from(*unsigned)],
        Layout::Integer { unsigned, .. } => [Kind::Int32, Kind::UInt32][usize::from(*unsigned)],
        Layout::Float => Kind::Float32,
        Layout::Double => Kind::Float64,
        Layout::Decimal { precision, scale } => match (u8::try_from(*precision), i8::try_from(*scale)) {
            (Ok(precision @ 1..=38), Ok(scale)) => Kind::Decimal { precision, scale },
            _ => Kind::Text,
        },
        Layout::Year => Kind::Int16,
        Layout::Date => Kind::Date,
        Layout::DateTime(_) => Kind::DateTime,
        Layout::Timestamp(_) => Kind::Timestamp,
        Layout::Time(_) => Kind::Time,
        // A single bit is a flag: eight bits a byte, of which one is used.
        Layout::Bits(1) if raw.meta == [1, 0] => Kind::Flag,
        Layout::Bytes { .. } if raw.sort == 255 => Kind::Geometry,
        Layout::Bits(_) | Layout::Bytes { .. } => Kind::Binary,
        _ => Kind::Text,
    }
}
