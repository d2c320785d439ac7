//! Types of columns: what the server calls them, how they are asked for, and what they are in Arrow.

use arrow_schema::{DataType, TimeUnit};
use ingest_core::Result;
use ingest_sql::Dialect;

/// How values of a column are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag,
    UInt8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal {
        precision: u8,
        scale: i8,
    },
    Date,
    /// Microseconds of the day.
    Time,
    /// `datetime`: steps of 1/300 s, printed in milliseconds.
    DateTime,
    /// `smalldatetime`: minutes.
    Minute,
    /// `datetime2`: digits after the second.
    DateTime2 {
        scale: u8,
    },
    /// `datetimeoffset`, in UTC.
    Instant {
        scale: u8,
    },
    Uuid,
    Text,
    Binary,
    /// Eight bytes that the database counts up with every change.
    RowVersion,
}

/// How a column is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// By its name.
    Plain,
    /// The client reads money as a floating point number.
    Money(u8),
    /// A text that only the server can write, or whose code page only the server knows.
    Text,
    /// A value of the common language runtime that prints itself: `hierarchyid`.
    Printed,
    /// A geometry.
    Shape,
    /// What may be of any type.
    Variant,
    /// A value of the common language runtime as it is stored.
    Stored,
}

/// A column's type as the catalog describes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    /// The name of the system's type: `int`.
    pub(crate) name: String,
    pub(crate) precision: u8,
    pub(crate) scale: u8,
    /// The code page of its collation; 0 where it has none.
    pub(crate) code_page: i64,
}

/// The code page that the client reads as the server does: Windows Western European. Texts of others are asked for in Unicode; of
/// UTF-8 the client knows nothing, and would read it as another page.
const KNOWN_PAGE: i64 = 1252;

impl Kind {
    /// What a declared type becomes, and how it is asked for. What is not known is what the server prints.
    pub(crate) fn of(declared: &Declared) -> (Self, Asked) {
        let scale = declared.scale;
        let plain = |kind| (kind, Asked::Plain);
        match declared.name.as_str() {
            "bit" => plain(Self::Flag),
            "tinyint" => plain(Self::UInt8),
            "smallint" => plain(Self::Int16),
            "int" => plain(Self::Int32),
            "bigint" => plain(Self::Int64),
            "real" => plain(Self::Float32),
            "float" => plain(Self::Float64),
            "decimal" | "numeric" => {
                plain(Self::Decimal { precision: declared.precision, scale: i8::try_from(scale).unwrap_or(0) })
            }
            "money" => (Self::Decimal { precision: 19, scale: 4 }, Asked::Money(19)),
            "smallmoney" => (Self::Decimal { precision: 10, scale: 4 }, Asked::Money(10)),
            "date" => plain(Self::Date),
            "time" => plain(Self::Time),
            "datetime" => plain(Self::DateTime),
            "smalldatetime" => plain(Self::Minute),
            "datetime2" => plain(Self::DateTime2 { scale }),
            "datetimeoffset" => plain(Self::Instant { scale }),
            "uniqueidentifier" => plain(Self::Uuid),
            "char" | "varchar" | "text" if declared.code_page == KNOWN_PAGE => plain(Self::Text),
            "nchar" | "nvarchar" | "ntext" => plain(Self::Text),
            "binary" | "varbinary" | "image" => plain(Self::Binary),
            "timestamp" | "rowversion" => plain(Self::RowVersion),
            "hierarchyid" => (Self::Text, Asked::Printed),
            "geometry" | "geography" => (Self::Binary, Asked::Shape),
            "sql_variant" => (Self::Text, Asked::Variant),
            "char" | "varchar" | "text" | "xml" | "json" | "vector" => (Self::Text, Asked::Text),
            _ => (Self::Binary, Asked::Stored),
        }
    }

    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::Flag => DataType::Boolean,
            Self::UInt8 => DataType::UInt8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 | Self::Time => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Date => DataType::Date32,
            Self::DateTime | Self::Minute | Self::DateTime2 { .. } => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Instant { .. } => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Uuid | Self::Text => DataType::Utf8,
            Self::Binary | Self::RowVersion => DataType::Binary,
        }
    }

    /// Whether a value is a whole number.
    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::UInt8 | Self::Int16 | Self::Int32 | Self::Int64)
    }

    /// Whether a value is a point in time.
    pub(crate) fn is_clock(self) -> bool {
        matches!(self, Self::Date | Self::DateTime | Self::Minute | Self::DateTime2 { .. } | Self::Instant { .. })
    }

    /// Whether two values that are equal here are equal at the server: a seventh digit after the second is cut here.
    pub(crate) fn is_exact(self) -> bool {
        !matches!(self, Self::DateTime2 { scale: 7 } | Self::Instant { scale: 7 })
    }
}

impl Asked {
    /// The expression for a column.
    ///
    /// `AsBinaryZM` keeps the third and fourth number of a point. Styles of `CONVERT`: 126 prints times as ISO 8601 and money
    /// with four digits, 3 prints every digit of a floating point number, 1 prints bytes as `0x…`.
    pub(crate) fn expression(self, column: &str) -> Result<String> {
        let name = Dialect::SqlServer.name(column)?;
        Ok(match self {
            Self::Plain => name,
            Self::Money(precision) => format!("CONVERT(decimal({precision}, 4), {name})"),
            Self::Text => format!("CONVERT(nvarchar(max), {name})"),
            Self::Printed => format!("{name}.ToString()"),
            Self::Shape => format!("{name}.AsBinaryZM()"),
            Self::Stored => format!("CONVERT(varbinary(max), {name})"),
            Self::Variant => format!(
                "CASE CONVERT(nvarchar(128), SQL_VARIANT_PROPERTY({name}, N'BaseType')) \
                 WHEN N'binary' THEN CONVERT(nvarchar(max), CONVERT(varbinary(8000), {name}), 1) \
                 WHEN N'varbinary' THEN CONVERT(nvarchar(max), CONVERT(varbinary(8000), {name}), 1) \
                 WHEN N'float' THEN CONVERT(nvarchar(max), CONVERT(float, {name}), 3) \
                 WHEN N'real' THEN CONVERT(nvarchar(max), CONVERT(real, {name}), 3) \
                 WHEN N'char' THEN CONVERT(nvarchar(max), CONVERT(varchar(8000), {name})) \
                 WHEN N'varchar' THEN CONVERT(nvarchar(max), CONVERT(varchar(8000), {name})) \
                 ELSE CONVERT(nvarchar(4000), {name}, 126) END"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, precision: u8, scale: u8, code_page: i64) -> (Kind, Asked) {
        Kind::of(&Declared { name: name.into(), precision, scale, code_page })
    }

    #[test]
    fn declared_types_have_exact_kinds() {
        assert_eq!(declared("tinyint", 3, 0, 0), (Kind::UInt8, Asked::Plain));
        assert_eq!(declared("numeric", 38, 10, 0).0, Kind::Decimal { precision: 38, scale: 10 });
        assert_eq!(declared("money", 19, 4, 0), (Kind::Decimal { precision: 19, scale: 4 }, Asked::Money(19)));
        assert_eq!(declared("varchar", 0, 0, 1252), (Kind::Text, Asked::Plain));
        assert_eq!(declared("varchar", 0, 0, 850), (Kind::Text, Asked::Text));
        assert_eq!(declared("varchar", 0, 0, 65001), (Kind::Text, Asked::Text));
        assert_eq!(declared("timestamp", 0, 0, 0).0, Kind::RowVersion);
        assert_eq!(declared("my_clr_type", 0, 0, 0), (Kind::Binary, Asked::Stored));
        assert!(!declared("datetime2", 27, 7, 0).0.is_exact());
    }

    #[test]
    fn expressions_quote_the_name() {
        assert_eq!(Asked::Shape.expression("a]b").expect("a name"), "[a]]b].AsBinaryZM()");
        assert_eq!(Asked::Money(19).expression("m").expect("a name"), "CONVERT(decimal(19, 4), [m])");
    }
}
