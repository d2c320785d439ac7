//! Types of columns: what the server calls them, and what they are in Arrow.

use arrow_schema::{DataType, TimeUnit};

/// How values of a column are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Decimal {
        precision: u8,
        scale: i8,
    },
    Date,
    /// Without a zone.
    DateTime,
    /// UTC.
    Timestamp,
    /// Microseconds, from -838:59:59 to 838:59:59.
    Time,
    /// `bit(1)`.
    Flag,
    Binary,
    /// Four bytes of SRID, then WKB; the bytes of WKB are kept.
    Geometry,
    Text,
}

/// A column's type as `information_schema.COLUMNS` describes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    /// `DATA_TYPE`: `int`.
    pub(crate) name: String,
    /// `COLUMN_TYPE`: `int(10) unsigned`.
    pub(crate) full: String,
    pub(crate) precision: Option<u64>,
    pub(crate) scale: Option<u64>,
}

impl Kind {
    /// What a declared type becomes. What is not known is what the server prints.
    pub(crate) fn of(declared: &Declared) -> Self {
        let unsigned = declared.full.contains(" unsigned") || declared.full.contains(" zerofill");
        let integer = |signed, without_sign| if unsigned { without_sign } else { signed };
        match declared.name.as_str() {
            "tinyint" => integer(Self::Int8, Self::UInt8),
            "smallint" => integer(Self::Int16, Self::UInt16),
            "mediumint" | "int" => integer(Self::Int32, Self::UInt32),
            "bigint" => integer(Self::Int64, Self::UInt64),
            "float" => Self::Float32,
            "double" => Self::Float64,
            "decimal" => decimal(declared),
            "date" => Self::Date,
            "datetime" => Self::DateTime,
            "timestamp" => Self::Timestamp,
            "time" => Self::Time,
            "year" => Self::Int16,
            "bit" if declared.precision == Some(1) => Self::Flag,
            "bit" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector" => Self::Binary,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" => Self::Geometry,
            _ => Self::Text,
        }
    }

    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 | Self::Time => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Date => DataType::Date32,
            Self::DateTime => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Flag => DataType::Boolean,
            Self::Binary | Self::Geometry => DataType::Binary,
            Self::Text => DataType::Utf8,
        }
    }

    /// Whether there are values that have no place in the column: it can be null whatever the table says.
    pub(crate) fn may_not_fit(self) -> bool {
        matches!(self, Self::Date | Self::DateTime | Self::Timestamp | Self::Text | Self::Geometry)
    }

    /// Whether a value is a whole number.
    pub(crate) fn is_integer(self) -> bool {
        matches!(
            self,
            Self::Int8
                | Self::Int16
                | Self::Int32
                | Self::Int64
                | Self::UInt8
                | Self::UInt16
                | Self::UInt32
                | Self::UInt64
        )
    }

    /// Whether it is a whole number without a sign.
    pub(crate) fn is_unsigned(self) -> bool {
        matches!(self, Self::UInt8 | Self::UInt16 | Self::UInt32 | Self::UInt64)
    }

    /// Whether a value is a point in time.
    pub(crate) fn is_clock(self) -> bool {
        matches!(self, Self::Date | Self::DateTime | Self::Timestamp)
    }
}

/// Decimals of more than 38 digits are text: a wider column would lose digits in most table formats.
fn decimal(declared: &Declared) -> Kind {
    let scale = declared.scale.unwrap_or(0);
    match (declared.precision.and_then(|p| u8::try_from(p).ok()), i8::try_from(scale)) {
        (Some(precision @ 1..=38), Ok(scale)) => Kind::Decimal { precision, scale },
        _ => Kind::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, full: &str, precision: u64, scale: u64) -> Kind {
        let declared =
            Declared { name: name.into(), full: full.into(), precision: Some(precision), scale: Some(scale) };
        Kind::of(&declared)
    }

    #[test]
    fn declared_types_have_exact_kinds() {
        assert_eq!(kind("tinyint", "tinyint(1)", 3, 0), Kind::Int8);
        assert_eq!(kind("int", "int(10) unsigned zerofill", 10, 0), Kind::UInt32);
        assert_eq!(kind("mediumint", "mediumint unsigned", 8, 0), Kind::UInt32);
        assert_eq!(kind("decimal", "decimal(38,10)", 38, 10), Kind::Decimal { precision: 38, scale: 10 });
        assert_eq!(kind("decimal", "decimal(39,0)", 39, 0), Kind::Text);
        assert_eq!(kind("bit", "bit(1)", 1, 0), Kind::Flag);
        assert_eq!(kind("bit", "bit(64)", 64, 0), Kind::Binary);
        assert_eq!(kind("enum", "enum(' unsigned')", 0, 0), Kind::Text);
        assert_eq!(kind("inet6", "inet6", 0, 0), Kind::Text);
    }
}
