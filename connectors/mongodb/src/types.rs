//! Types of fields: which one a sample shows, how a configuration writes it, and what each holds.

use std::fmt;
use std::str::FromStr;

use arrow_schema::{DataType, Field, TimeUnit};
use bson::raw::RawBsonRef;
use bson::spec::BinarySubtype;
use ingest_core::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Key of the field metadata that names the [`Kind`] of a column.
const KIND: &str = "ingest.mongodb";
/// Whole numbers up to here are exact as doubles.
const EXACT: i64 = 1 << 53;

/// What the values of a field are, and so what its column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `boolean`.
    Boolean,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `float64`.
    Float64,
    /// `decimal(p,s)`: only where it is declared, as BSON's decimals have exponents.
    Decimal(u8, i8),
    /// `number`: a decimal as text, with all its digits.
    Number,
    /// `string`.
    Text,
    /// `objectid`: 24 hexadecimal digits.
    ObjectId,
    /// `timestamp`: microseconds, UTC.
    Timestamp,
    /// `uuid`: text of a binary value of subtype 4.
    Uuid,
    /// `binary(0)`: bytes of this subtype.
    Binary(u8),
    /// `json`: any value, as canonical extended JSON.
    Json,
}

impl Kind {
    /// The Arrow type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Binary(_) => DataType::Binary,
            Self::Number | Self::Text | Self::ObjectId | Self::Uuid | Self::Json => DataType::Utf8,
        }
    }

    /// The column of a field.
    pub(crate) fn field(self, name: &str, nullable: bool) -> Field {
        let metadata = [(KIND.to_owned(), self.to_string())];
        Field::new(name, self.data_type(), nullable).with_metadata(metadata.into_iter().collect())
    }

    /// The kind of a column that [`Kind::field`] has made.
    pub(crate) fn of(field: &Field) -> Option<Self> {
        field.metadata().get(KIND)?.parse().ok()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::Int32 => f.write_str("int32"),
            Self::Int64 => f.write_str("int64"),
            Self::Float64 => f.write_str("float64"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
            Self::Number => f.write_str("number"),
            Self::Text => f.write_str("string"),
            Self::ObjectId => f.write_str("objectid"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Uuid => f.write_str("uuid"),
            Self::Binary(subtype) => write!(f, "binary({subtype})"),
            Self::Json => f.write_str("json"),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let arguments =
            |word: &str| lower.strip_prefix(word).and_then(|rest| rest.trim().strip_prefix('(')?.strip_suffix(')'));
        let decimal = || {
            let (precision, scale) = arguments("decimal").map(|text| text.split_once(',').unwrap_or((text, "0")))?;
            let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            let fits = (1..=38).contains(&precision) && scale >= 0 && scale.unsigned_abs() <= precision;
            fits.then_some(Self::Decimal(precision, scale))
        };
        let binary = || Some(Self::Binary(arguments("binary")?.trim().parse().ok()?));
        let known = match lower.as_str() {
            "boolean" | "bool" => Some(Self::Boolean),
            "int32" => Some(Self::Int32),
            "int64" => Some(Self::Int64),
            "float64" | "double" => Some(Self::Float64),
            "number" => Some(Self::Number),
            "string" => Some(Self::Text),
            "objectid" => Some(Self::ObjectId),
            "timestamp" => Some(Self::Timestamp),
            "uuid" => Some(Self::Uuid),
            "binary" => Some(Self::Binary(0)),
            "json" => Some(Self::Json),
            _ => decimal().or_else(binary),
        };
        known.ok_or_else(|| {
            format!(
                "\"{text}\" is not a type; write boolean, int32, int64, float64, decimal(18,2), number, string, objectid, \
                 timestamp, uuid, binary(0) or json"
            )
        })
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Kind {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Kind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["int64", "decimal(18,2)", "timestamp", "json"]})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// What the values of a field that were looked at have in common. The order of looking does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    booleans: bool,
    small: bool,
    long: bool,
    /// Whole numbers that a double would bend.
    large: bool,
    doubles: bool,
    decimals: bool,
    texts: bool,
    ids: bool,
    times: bool,
    uuids: bool,
    /// Subtypes of other binary values.
    binary: Option<u8>,
    /// Documents, arrays, rare types, binary values of several subtypes.
    others: bool,
}

impl Seen {
    /// Looks at a value.
    pub(crate) fn look(&mut self, value: RawBsonRef<'_>) {
        match value {
            RawBsonRef::Null => {}
            RawBsonRef::Boolean(_) => self.booleans = true,
            RawBsonRef::Int32(_) => self.small = true,
            RawBsonRef::Int64(number) => {
                self.long = true;
                self.large |= !is_exact(number);
            }
            RawBsonRef::Double(_) => self.doubles = true,
            RawBsonRef::Decimal128(_) => self.decimals = true,
            RawBsonRef::String(_) => self.texts = true,
            RawBsonRef::ObjectId(_) => self.ids = true,
            RawBsonRef::DateTime(_) => self.times = true,
            RawBsonRef::Binary(binary) if binary.subtype == BinarySubtype::Uuid && binary.bytes.len() == 16 => {
                self.uuids = true;
            }
            RawBsonRef::Binary(binary) => {
                let subtype = u8::from(binary.subtype);
                self.others |= self.binary.is_some_and(|other| other != subtype);
                self.binary = Some(subtype);
            }
            _ => self.others = true,
        }
    }

    /// The narrowest kind that holds every value exactly; `None` where there was none but null.
    pub(crate) fn kind(self) -> Option<Kind> {
        let integers = self.small || self.long;
        let numbers = integers || self.doubles || self.decimals;
        let families =
            [self.booleans, numbers, self.texts, self.ids, self.times, self.uuids, self.binary.is_some(), self.others];
        match families.iter().filter(|family| **family).count() {
            0 => return None,
            1 => {}
            _ => return Some(Kind::Json),
        }
        Some(match (self.doubles, self.decimals, self.binary) {
            _ if self.booleans => Kind::Boolean,
            _ if self.texts => Kind::Text,
            _ if self.ids => Kind::ObjectId,
            _ if self.times => Kind::Timestamp,
            _ if self.uuids => Kind::Uuid,
            _ if self.others => Kind::Json,
            (_, _, Some(subtype)) => Kind::Binary(subtype),
            (true, false, _) if !self.large => Kind::Float64,
            (true, ..) => Kind::Json,
            (false, true, _) => Kind::Number,
            (false, false, _) if self.long => Kind::Int64,
            (false, false, _) => Kind::Int32,
        })
    }
}

/// Whether a double holds this number.
pub(crate) fn is_exact(number: i64) -> bool {
    (-EXACT..=EXACT).contains(&number)
}

/// The whole number that a double is, if it is one that no other has.
pub(crate) fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() <= EXACT as f64).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use bson::raw::RawDocumentBuf;
    use bson::{Binary, Bson, DateTime, Decimal128, doc};

    use super::*;

    #[test]
    fn kinds_read_back_as_they_are_written_also_from_a_field() {
        for text in [
            "boolean",
            "int32",
            "int64",
            "float64",
            "decimal(18,2)",
            "number",
            "string",
            "objectid",
            "timestamp",
            "uuid",
            "binary(128)",
            "json",
        ] {
            let kind: Kind = text.parse().expect(text);
            assert_eq!(kind.to_string(), text);
            assert_eq!(Kind::of(&kind.field("x", true)), Some(kind));
        }
        for text in ["int", "decimal(39,2)", "decimal(2,3)", "binary(300)", "list(string)"] {
            assert!(text.parse::<Kind>().is_err(), "{text}");
        }
    }

    fn of(values: impl IntoIterator<Item = Bson>) -> Option<String> {
        let mut seen = Seen::default();
        for value in values {
            let document = RawDocumentBuf::try_from(&doc! { "v": value }).expect("BSON");
            seen.look(document.get("v").expect("BSON").expect("a value"));
        }
        seen.kind().map(|kind| kind.to_string())
    }

    #[test]
    fn the_kind_of_a_sample_holds_every_value_exactly() {
        let decimal: Decimal128 = "1.5".parse().expect("a decimal");
        let binary = |subtype, length| Bson::Binary(Binary { subtype, bytes: vec![1; length] });
        let cases: Vec<(Vec<Bson>, Option<&str>)> = vec![
            (vec![], None),
            (vec![Bson::Null], None),
            (vec![1.into(), Bson::Null], Some("int32")),
            (vec![1.into(), 2_i64.into()], Some("int64")),
            (vec![1.into(), 1.5.into()], Some("float64")),
            (vec![i64::MAX.into(), 1.5.into()], Some("json")),
            (vec![1.into(), decimal.into()], Some("number")),
            (vec![1.5.into(), decimal.into()], Some("json")),
            (vec!["a".into(), 1.into()], Some("json")),
            (vec![DateTime::MIN.into()], Some("timestamp")),
            (vec![binary(BinarySubtype::Uuid, 16)], Some("uuid")),
            (vec![binary(BinarySubtype::Uuid, 3)], Some("binary(4)")),
            (vec![binary(BinarySubtype::Generic, 3), binary(BinarySubtype::Md5, 3)], Some("json")),
            (vec![Bson::Document(doc! {})], Some("json")),
            (vec![Bson::MinKey], Some("json")),
        ];
        for (values, expected) in cases {
            assert_eq!(of(values.clone()).as_deref(), expected, "{values:?}");
        }
    }
}
