//! Types of columns: how a manifest writes them, and which one the values of a sample have in common.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};
use ingest_core::JsonSchema;
use ingest_core::json::FORMAT;
use ingest_core::schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Levels of lists and structs in one type.
const MAX_DEPTH: usize = 8;

/// The type of a column: `int64`, `decimal(18,2)`, `timestamp`, `unix_s`, `json`, `list(string)`, ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType {
    data_type: DataType,
    /// How the source writes it: a value of [`FORMAT`].
    format: Option<&'static str>,
}

impl ColumnType {
    pub(crate) fn plain(data_type: DataType) -> Self {
        Self { data_type, format: None }
    }

    pub(crate) fn json() -> Self {
        Self { data_type: DataType::Utf8, format: Some("json") }
    }

    /// The Arrow type.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// A field of this type.
    pub(crate) fn field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.data_type.clone(), nullable);
        match self.format {
            Some(format) => field.with_metadata(HashMap::from([(FORMAT.to_owned(), format.to_owned())])),
            None => field,
        }
    }

    /// The type of a field that [`ColumnType::field`] made.
    pub(crate) fn of(field: &Field) -> Self {
        let known = ["json", "unix_s", "unix_ms", "unix_us"];
        let format = field.metadata().get(FORMAT).and_then(|text| known.into_iter().find(|known| known == text));
        Self { data_type: field.data_type().clone(), format }
    }

    fn parse(text: &str, depth: usize) -> Option<Self> {
        let text = text.trim();
        let utc = || timestamp();
        let (data_type, format) = match text {
            "string" => (DataType::Utf8, None),
            "boolean" => (DataType::Boolean, None),
            "int32" => (DataType::Int32, None),
            "int64" => (DataType::Int64, None),
            "float64" => (DataType::Float64, None),
            "date" => (DataType::Date32, None),
            "timestamp" => (utc(), None),
            "unix_s" => (utc(), Some("unix_s")),
            "unix_ms" => (utc(), Some("unix_ms")),
            "unix_us" => (utc(), Some("unix_us")),
            "json" => (DataType::Utf8, Some("json")),
            _ => (Self::composed(text, depth)?, None),
        };
        Some(Self { data_type, format })
    }

    fn composed(text: &str, depth: usize) -> Option<DataType> {
        if depth == MAX_DEPTH {
            return None;
        }
        let (word, inner) = text.split_once('(')?;
        let inner = inner.strip_suffix(')')?;
        match word {
            "decimal" => {
                let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
                let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
                let sound = (1..=38).contains(&precision) && scale >= 0 && scale.unsigned_abs() <= precision;
                sound.then_some(DataType::Decimal128(precision, scale))
            }
            "list" => {
                let item = Self::parse(inner, depth + 1)?;
                Some(DataType::List(Arc::new(item.field("item", true))))
            }
            "struct" => {
                let member = |part: &str| {
                    let (name, of) = part.trim().split_once(' ')?;
                    Some(Self::parse(of, depth + 1)?.field(name, true))
                };
                let fields: Fields = parts(inner).into_iter().map(member).collect::<Option<Vec<_>>>()?.into();
                Some(DataType::Struct(fields))
            }
            _ => None,
        }
    }
}

/// The parts between commas that stand in no parentheses.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, 0).ok_or_else(|| {
            format!(
                "\"{text}\" is not a type; write string, boolean, int32, int64, float64, decimal(18,2), date, timestamp, \
                 unix_s, unix_ms, unix_us, json, list(TYPE) or struct(NAME TYPE, …)"
            )
        })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.data_type, self.format) {
            (_, Some(format)) => f.write_str(format),
            (DataType::Utf8, _) => f.write_str("string"),
            (DataType::Date32, _) => f.write_str("date"),
            (DataType::Timestamp(..), _) => f.write_str("timestamp"),
            (DataType::Decimal128(precision, scale), _) => write!(f, "decimal({precision},{scale})"),
            (DataType::List(item), _) => write!(f, "list({})", Self::of(item)),
            (DataType::Struct(fields), _) => {
                let fields: Vec<String> =
                    fields.iter().map(|field| format!("{} {}", field.name(), Self::of(field))).collect();
                write!(f, "struct({})", fields.join(", "))
            }
            (other, _) => f.write_str(&other.to_string().to_ascii_lowercase()),
        }
    }
}

impl Serialize for ColumnType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ColumnType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ColumnType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["int64", "decimal(18,2)", "timestamp", "json", "list(string)"]})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// What the values of a field that were looked at have in common. The order of looking does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    booleans: bool,
    integers: bool,
    /// Whole numbers beyond 64 bits.
    large: bool,
    fractions: bool,
    /// Numbers with an exponent, or more digits than a decimal holds as it is chosen here.
    floats: bool,
    dates: bool,
    times: bool,
    texts: bool,
    composed: bool,
}

impl Seen {
    /// Looks at the JSON text of a value.
    pub fn look(&mut self, raw: &str) {
        match raw.as_bytes().first() {
            Some(b'{' | b'[') => self.composed = true,
            Some(b't' | b'f') => self.booleans = true,
            Some(b'"') => self.text(&serde_json::from_str::<String>(raw).unwrap_or_default()),
            Some(b'-' | b'0'..=b'9') => self.number(raw),
            _ => {}
        }
    }

    fn number(&mut self, raw: &str) {
        if raw.parse::<i64>().is_ok() {
            self.integers = true;
        } else if raw.contains(['e', 'E']) {
            self.floats = true;
        } else if let Some((whole, fraction)) = raw.split_once('.') {
            let fits = whole.len() <= 29 && fraction.len() <= 9;
            *(if fits { &mut self.fractions } else { &mut self.floats }) = true;
        } else {
            self.large = true;
        }
    }

    fn text(&mut self, text: &str) {
        let dated = text.len() == 10 && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok();
        let timed = || text.len() > 10 && chrono::DateTime::parse_from_rfc3339(text).is_ok();
        *(if dated {
            &mut self.dates
        } else if timed() {
            &mut self.times
        } else {
            &mut self.texts
        }) = true;
    }

    /// The narrowest type that holds every value exactly. Numbers with a fraction become decimals, since a double would
    /// bend them; what does not fit later is rescued with its digits.
    pub fn column_type(self) -> ColumnType {
        let texts = self.texts || self.dates || self.times;
        let numbers = self.integers || self.large || self.fractions || self.floats;
        if self.composed {
            return ColumnType::json();
        }
        ColumnType::plain(match (self.booleans, numbers, texts) {
            (true, false, false) => DataType::Boolean,
            (false, true, false) if self.floats => DataType::Float64,
            (false, true, false) if self.fractions => DataType::Decimal128(38, 9),
            (false, true, false) if self.large => DataType::Decimal128(38, 0),
            (false, true, false) => DataType::Int64,
            (false, false, true) if self.dates && !self.times && !self.texts => DataType::Date32,
            (false, false, true) if self.times && !self.dates && !self.texts => timestamp(),
            _ => DataType::Utf8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_back_as_they_are_written_also_from_a_field() {
        for text in [
            "string",
            "boolean",
            "int32",
            "int64",
            "float64",
            "date",
            "timestamp",
            "unix_s",
            "unix_ms",
            "unix_us",
            "json",
            "decimal(18,2)",
            "list(decimal(5,0))",
            "struct(a string, b list(int64), c struct(d unix_s))",
        ] {
            let parsed: ColumnType = text.parse().expect(text);
            assert_eq!(parsed.to_string(), text);
            assert_eq!(ColumnType::of(&parsed.field("x", true)), parsed);
        }
        for text in ["int", "decimal(39,2)", "decimal(2,3)", "list", "list()", "struct(a)", "map(string)"] {
            assert!(text.parse::<ColumnType>().is_err(), "{text}");
        }
        let deep = format!("{}int64{}", "list(".repeat(100), ")".repeat(100));
        assert!(deep.parse::<ColumnType>().is_err());
    }

    fn of(values: &[&str]) -> String {
        let mut seen = Seen::default();
        values.iter().for_each(|value| seen.look(value));
        seen.column_type().to_string()
    }

    #[test]
    fn the_type_of_a_sample_holds_every_value_exactly() {
        assert_eq!(of(&["1", "-2"]), "int64");
        assert_eq!(of(&["1", "18446744073709551616"]), "decimal(38,0)");
        assert_eq!(of(&["1", "1.25"]), "decimal(38,9)");
        assert_eq!(of(&["1e3", "1.25"]), "float64");
        assert_eq!(of(&["true", "null"]), "boolean");
        assert_eq!(of(&["true", "1"]), "string");
        assert_eq!(of(&["\"2024-01-31\""]), "date");
        assert_eq!(of(&["\"2024-01-31T00:00:00Z\""]), "timestamp");
        assert_eq!(of(&["\"2024-01-31\"", "\"2024-01-31T00:00:00Z\""]), "string");
        assert_eq!(of(&["1", "{}"]), "json");
        assert_eq!(of(&["null"]), "string");
    }
}
