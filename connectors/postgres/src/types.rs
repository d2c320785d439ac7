//! Types of PostgreSQL, and what they become in Arrow.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};

/// How a value looks on the wire, which decides what it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int16,
    Int32,
    Int64,
    /// Object and transaction ids: 32 bits without sign.
    Unsigned32,
    Float32,
    Float64,
    /// Texts, enum labels, `json`.
    Text,
    Jsonb,
    Bytes,
    /// A number with declared digits: `scale` of them after the point, `precision` in all.
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// A number without declared digits, or with more than 38: text as the server prints it.
    Numeric,
    Date,
    Timestamp,
    TimestampTz,
    /// Microseconds of the day; 24:00:00 is a value.
    Time,
    TimeTz,
    Interval,
    Uuid,
    Inet,
    MacAddr,
    Bits,
    Lsn,
    List(Box<Kind>),
    Range(Box<Kind>),
    Multirange(Box<Kind>),
    Struct(Vec<(String, Kind)>),
    Hstore,
    /// An amount of `money`: only ever read as a decimal.
    Money,
    /// Everything else: only ever read as text.
    Other,
}

/// How a column is written in a SELECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cast {
    /// As it is.
    None,
    Text,
    TextArray,
    Numeric,
    NumericArray,
}

impl Cast {
    /// What follows the column's name.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Text => "::pg_catalog.text",
            Self::TextArray => "::pg_catalog.text[]",
            Self::Numeric => "::pg_catalog.numeric",
            Self::NumericArray => "::pg_catalog.numeric[]",
        }
    }

    /// The type that the server then sends.
    pub(crate) fn oid(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Text => Some(25),
            Self::TextArray => Some(1009),
            Self::Numeric => Some(1700),
            Self::NumericArray => Some(1231),
        }
    }
}

/// A row of `pg_type` with what hangs on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TypeRow {
    pub(crate) name: String,
    /// `pg_type.typtype`: base, composite, domain, enum, range, multirange, pseudo.
    pub(crate) typtype: String,
    pub(crate) element: u32,
    pub(crate) base: u32,
    pub(crate) modifier: i32,
    /// Name of the function that writes the binary form: it decides the form, whatever the type is called.
    pub(crate) send: String,
    /// Of a range its subtype, of a multirange its range.
    pub(crate) inner: u32,
    /// Of a composite: name, type, modifier.
    pub(crate) attributes: Vec<(String, u32, i32)>,
}

/// The types that the tables of a selection use.
pub(crate) type Types = HashMap<u32, TypeRow>;

/// A type as a column has it: without its domains.
pub(crate) fn base_type(types: &Types, oid: u32, modifier: i32) -> (u32, i32) {
    let (mut oid, mut modifier) = (oid, modifier);
    // Domains over domains; a cycle cannot exist, the bound is against a damaged catalog.
    for _ in 0..32 {
        match types.get(&oid) {
            Some(row) if row.typtype == "d" => {
                if modifier < 0 {
                    modifier = row.modifier;
                }
                oid = row.base;
            }
            _ => break,
        }
    }
    (oid, modifier)
}

/// How a column of this type is selected, and what comes then.
pub(crate) fn column_kind(types: &Types, oid: u32, modifier: i32) -> (Kind, Cast) {
    let money = || Kind::Decimal { precision: 19, scale: 2 };
    match resolve(types, oid, modifier, 0) {
        Kind::Money => (money(), Cast::Numeric),
        Kind::List(inner) if *inner == Kind::Money => (Kind::List(Box::new(money())), Cast::NumericArray),
        Kind::List(inner) if !is_binary(&inner) => (Kind::List(Box::new(Kind::Text)), Cast::TextArray),
        kind if is_binary(&kind) => (kind, Cast::None),
        _ => (Kind::Text, Cast::Text),
    }
}

fn is_binary(kind: &Kind) -> bool {
    match kind {
        Kind::Other | Kind::Money => false,
        Kind::List(inner) | Kind::Range(inner) | Kind::Multirange(inner) => is_binary(inner),
        Kind::Struct(fields) => !fields.is_empty() && fields.iter().all(|(_, kind)| is_binary(kind)),
        _ => true,
    }
}

fn resolve(types: &Types, oid: u32, modifier: i32, depth: u8) -> Kind {
    let (oid, modifier) = base_type(types, oid, modifier);
    let Some(row) = types.get(&oid) else { return Kind::Other };
    if depth > 16 {
        return Kind::Other;
    }
    let inner = |oid, modifier| Box::new(resolve(types, oid, modifier, depth + 1));
    match row.send.as_str() {
        "boolsend" => Kind::Bool,
        "int2send" => Kind::Int16,
        "int4send" => Kind::Int32,
        "int8send" => Kind::Int64,
        "oidsend" | "xidsend" | "cidsend" => Kind::Unsigned32,
        "float4send" => Kind::Float32,
        "float8send" => Kind::Float64,
        "textsend" | "varcharsend" | "bpcharsend" | "namesend" | "citextsend" | "enum_send" | "json_send" => Kind::Text,
        "jsonb_send" => Kind::Jsonb,
        "byteasend" => Kind::Bytes,
        "numeric_send" => decimal(modifier),
        "cash_send" => Kind::Money,
        "date_send" => Kind::Date,
        "timestamp_send" => Kind::Timestamp,
        "timestamptz_send" => Kind::TimestampTz,
        "time_send" => Kind::Time,
        "timetz_send" => Kind::TimeTz,
        "interval_send" => Kind::Interval,
        "uuid_send" => Kind::Uuid,
        "inet_send" | "cidr_send" => Kind::Inet,
        "macaddr_send" | "macaddr8_send" => Kind::MacAddr,
        "bit_send" | "varbit_send" => Kind::Bits,
        "pg_lsn_send" => Kind::Lsn,
        "hstore_send" => Kind::Hstore,
        "array_send" => Kind::List(inner(row.element, modifier)),
        "range_send" => Kind::Range(inner(row.inner, -1)),
        "multirange_send" => match *inner(row.inner, -1) {
            Kind::Range(bound) => Kind::Multirange(bound),
            _ => Kind::Other,
        },
        "record_send" => Kind::Struct(
            row.attributes.iter().map(|(name, oid, modifier)| (name.clone(), *inner(*oid, *modifier))).collect(),
        ),
        _ => Kind::Other,
    }
}

/// `numeric(p, s)`: precision in the upper half of the modifier, scale as 11 bits with sign in the lower one.
fn decimal(modifier: i32) -> Kind {
    if modifier < 4 {
        return Kind::Numeric;
    }
    let precision = ((modifier - 4) >> 16) & 0xffff;
    let scale = (((modifier - 4) & 0x7ff) ^ 1024) - 1024;
    // A negative scale is zeros before the point, a scale above the precision is zeros behind it: Arrow wants
    // 0 <= scale <= precision.
    let (precision, scale) = if scale < 0 { (precision - scale, 0) } else { (precision.max(scale), scale) };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if precision <= 38 => Kind::Decimal { precision, scale },
        _ => Kind::Numeric,
    }
}

impl Kind {
    /// The Arrow type.
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 | Self::Unsigned32 | Self::Time => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Bytes => DataType::Binary,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List(inner) => DataType::List(item(inner.data_type())),
            Self::Range(inner) => DataType::Struct(range_fields(inner)),
            Self::Multirange(inner) => DataType::List(item(DataType::Struct(range_fields(inner)))),
            Self::Struct(fields) => DataType::Struct(struct_fields(fields)),
            Self::Hstore => DataType::Map(entries(), false),
            Self::Text
            | Self::Jsonb
            | Self::Numeric
            | Self::TimeTz
            | Self::Interval
            | Self::Uuid
            | Self::Inet
            | Self::MacAddr
            | Self::Bits
            | Self::Lsn
            | Self::Money
            | Self::Other => DataType::Utf8,
        }
    }

    /// Whether a value may have to be rescued, so that the column must hold nulls whatever the table says.
    pub(crate) fn may_not_fit(&self) -> bool {
        matches!(
            self,
            Self::Text
                | Self::Decimal { .. }
                | Self::Date
                | Self::Timestamp
                | Self::TimestampTz
                | Self::List(_)
                | Self::Range(_)
                | Self::Multirange(_)
                | Self::Struct(_)
                | Self::Hstore
        )
    }
}

pub(crate) fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

pub(crate) fn struct_fields(fields: &[(String, Kind)]) -> Fields {
    fields.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect()
}

pub(crate) fn range_fields(bound: &Kind) -> Fields {
    Fields::from(vec![
        Field::new("lower", bound.data_type(), true),
        Field::new("upper", bound.data_type(), true),
        Field::new("lower_inc", DataType::Boolean, true),
        Field::new("upper_inc", DataType::Boolean, true),
        Field::new("empty", DataType::Boolean, true),
    ])
}

pub(crate) fn entry_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)])
}

pub(crate) fn entries() -> Arc<Field> {
    Arc::new(Field::new("entries", DataType::Struct(entry_fields()), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_of_numeric_become_precision_and_scale() {
        assert_eq!(decimal(786_439), Kind::Decimal { precision: 12, scale: 3 });
        assert_eq!(decimal(657_410), Kind::Decimal { precision: 12, scale: 0 }, "numeric(10,-2)");
        assert_eq!(decimal((3 << 16) + 5 + 4), Kind::Decimal { precision: 5, scale: 5 }, "numeric(3,5)");
        assert_eq!(decimal((39 << 16) + 4), Kind::Numeric);
        assert_eq!(decimal(-1), Kind::Numeric);
    }

    #[test]
    fn an_unknown_type_is_read_as_text() {
        assert_eq!(column_kind(&Types::new(), 99_999, -1), (Kind::Text, Cast::Text));
    }
}
