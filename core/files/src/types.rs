//! Types of columns: how a configuration writes them, and which one a sample of texts has.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use arrow_schema::{DataType, TimeUnit};
use ingest_core::csv::values;
use ingest_core::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

/// The type of a column as a configuration writes it: `int64`, `decimal(18,2)`, `date`, `timestamp`, `string`, ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType(DataType);

impl ColumnType {
    /// The Arrow type.
    pub fn data_type(&self) -> &DataType {
        &self.0
    }
}

/// Timestamps with a zone are held in UTC.
pub(crate) fn timestamp_utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Timestamps whose zone nobody told.
pub(crate) fn timestamp_local() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" is not a type; write string, int64, int32, float64, boolean, decimal(18,2), date, \
                 timestamp (UTC) or timestamp_ntz (no zone)"
            )
        };
        let lower = text.trim().to_ascii_lowercase();
        let plain = match lower.as_str() {
            "string" | "text" | "varchar" | "utf8" => Some(DataType::Utf8),
            "int64" | "bigint" | "long" | "int" | "integer" => Some(DataType::Int64),
            "int32" => Some(DataType::Int32),
            "float64" | "double" | "float" => Some(DataType::Float64),
            "boolean" | "bool" => Some(DataType::Boolean),
            "date" => Some(DataType::Date32),
            "timestamp" | "timestamptz" => Some(timestamp_utc()),
            "timestamp_ntz" | "datetime" => Some(timestamp_local()),
            _ => None,
        };
        if let Some(data_type) = plain {
            return Ok(Self(data_type));
        }
        let arguments = lower
            .strip_prefix("decimal")
            .or_else(|| lower.strip_prefix("numeric"))
            .and_then(|rest| rest.trim().strip_prefix('(')?.strip_suffix(')'))
            .ok_or_else(wrong)?;
        let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
        let precision: u8 = precision.trim().parse().map_err(|_| wrong())?;
        let scale: i8 = scale.trim().parse().map_err(|_| wrong())?;
        if !(1..=38).contains(&precision) || scale < 0 || scale.unsigned_abs() > precision {
            return Err(format!("\"{text}\": a decimal has 1 to 38 digits, 0 to all of them fractional"));
        }
        Ok(Self(DataType::Decimal128(precision, scale)))
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            DataType::Utf8 => f.write_str("string"),
            DataType::Timestamp(_, Some(_)) => f.write_str("timestamp"),
            DataType::Timestamp(_, None) => f.write_str("timestamp_ntz"),
            DataType::Date32 => f.write_str("date"),
            DataType::Decimal128(precision, scale) => write!(f, "decimal({precision},{scale})"),
            other => f.write_str(&other.to_string().to_ascii_lowercase()),
        }
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ColumnType {
    fn schema_name() -> Cow<'static, str> {
        "ColumnType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["int64", "decimal(18,2)", "date", "timestamp", "string"]})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// What the values of a column that were looked at have in common. The order of looking does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    booleans: bool,
    integers: bool,
    decimals: bool,
    floats: bool,
    dates: bool,
    zoned: bool,
    zoneless: bool,
    texts: bool,
    /// Most digits before the point.
    whole_digits: u16,
    /// Most and fewest digits after the point, of the values that have a point.
    scale: Option<(u16, u16)>,
    /// How many values have a point.
    fractions: u32,
    /// Whether the writer of the numbers leaves zeros at their end out, as JSON libraries do.
    trimmed: bool,
}

impl Seen {
    /// Looks at a text: a field of a CSV file.
    pub fn text(&mut self, text: &str) {
        match text.as_bytes().first() {
            Some(b'0'..=b'9' | b'-' | b'+' | b'.') => self.number_or_time(text),
            Some(b't' | b'T' | b'f' | b'F') if values::boolean(text).is_some() => self.booleans = true,
            _ => self.texts = true,
        }
    }

    fn number_or_time(&mut self, text: &str) {
        if let Some(number) = values::Number::parse(text) {
            self.number(number);
        } else if values::date(text).is_some() {
            self.dates = true;
        } else if values::timestamp(text, true).is_some() {
            self.zoned = true;
        } else if values::timestamp(text, false).is_some() {
            self.zoneless = true;
        } else {
            self.texts = true;
        }
    }

    /// Looks at a JSON value as it stands in the document.
    pub fn json(&mut self, raw: &str) {
        match raw.as_bytes().first() {
            Some(b'n') | None => {}
            Some(b't' | b'f') => self.booleans = true,
            Some(b'"') => match raw.get(1..raw.len().saturating_sub(1)) {
                // A string of digits is a text on purpose; a time has no other way to be written.
                Some(inner) if values::date(inner).is_some() => self.dates = true,
                Some(inner) if values::timestamp(inner, true).is_some() => self.zoned = true,
                _ => self.texts = true,
            },
            Some(b'-' | b'0'..=b'9') => match values::Number::parse(raw) {
                Some(number) => {
                    self.trimmed = true;
                    self.number(number);
                }
                None => self.texts = true,
            },
            _ => self.texts = true,
        }
    }

    fn number(&mut self, number: values::Number<'_>) {
        match number {
            values::Number::Padded => self.texts = true,
            values::Number::Float => self.floats = true,
            values::Number::Plain { whole, fraction } => {
                let digits = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX);
                let text = whole.trim_start_matches(['-', '0']);
                self.whole_digits = self.whole_digits.max(digits(text));
                match fraction {
                    None => self.integers = true,
                    Some(fraction) => {
                        let scale = digits(fraction);
                        let (most, fewest) = self.scale.unwrap_or((scale, scale));
                        self.scale = Some((most.max(scale), fewest.min(scale)));
                        self.decimals = true;
                        self.fractions = self.fractions.saturating_add(1);
                    }
                }
            }
        }
    }

    /// Joins what was seen elsewhere.
    pub fn join(&mut self, other: &Self) {
        self.booleans |= other.booleans;
        self.integers |= other.integers;
        self.decimals |= other.decimals;
        self.floats |= other.floats;
        self.dates |= other.dates;
        self.zoned |= other.zoned;
        self.zoneless |= other.zoneless;
        self.texts |= other.texts;
        self.trimmed |= other.trimmed;
        self.fractions = self.fractions.saturating_add(other.fractions);
        self.whole_digits = self.whole_digits.max(other.whole_digits);
        self.scale = match (self.scale, other.scale) {
            (Some((a, b)), Some((c, d))) => Some((a.max(c), b.min(d))),
            (one, other) => one.or(other),
        };
    }

    /// The narrowest type that holds everything that was seen; text where nothing was, or where it does not go together.
    pub fn data_type(&self) -> DataType {
        let numbers = self.integers || self.decimals || self.floats;
        let kinds = [self.booleans, numbers, self.dates, self.zoned, self.zoneless];
        if self.texts || kinds.iter().filter(|kind| **kind).count() > 1 {
            // A date among times without a zone is midnight; among zoned ones it is a guess.
            let times = self.dates && self.zoneless && !self.texts && !numbers && !self.booleans && !self.zoned;
            return if times { timestamp_local() } else { DataType::Utf8 };
        }
        match () {
            () if self.booleans => DataType::Boolean,
            () if self.dates => DataType::Date32,
            () if self.zoned => timestamp_utc(),
            () if self.zoneless => timestamp_local(),
            () if self.floats => DataType::Float64,
            () if self.decimals => self.decimal(),
            () if self.integers && self.whole_digits <= 18 => DataType::Int64,
            () if self.integers && self.whole_digits == 19 => DataType::Int64,
            () if self.integers && self.whole_digits <= 38 => DataType::Decimal128(38, 0),
            () => DataType::Utf8,
        }
    }

    /// Values that all have the same number of digits after the point, two at least, are amounts: so many stay. Else
    /// there is room for more than the sample has, since a digit that does not fit would put the value aside.
    fn decimal(&self) -> DataType {
        let (most, fewest) = self.scale.unwrap_or((0, 0));
        // Where zeros are left out, a few values of one length are an accident.
        let amounts = most == fewest && (2..=9).contains(&most) && (!self.trimmed || self.fractions >= 20);
        let scale = if amounts { most } else { most.max(9) };
        match i8::try_from(scale) {
            Ok(scale @ 0..=18) if self.whole_digits + u16::from(scale.unsigned_abs()) <= 38 => {
                DataType::Decimal128(38, scale)
            }
            _ => DataType::Utf8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> DataType {
        let mut seen = Seen::default();
        texts.iter().for_each(|text| seen.text(text));
        seen.data_type()
    }

    #[test]
    fn types_read_back_as_written() {
        for text in
            ["string", "int64", "int32", "float64", "boolean", "decimal(18,2)", "date", "timestamp", "timestamp_ntz"]
        {
            assert_eq!(text.parse::<ColumnType>().expect(text).to_string(), text);
        }
        for text in ["decimal(39,2)", "decimal(2,3)", "decimal(a)", "blob", ""] {
            assert!(text.parse::<ColumnType>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_sample_has_the_narrowest_type_that_bends_nothing() {
        assert_eq!(of(&["1", "-20"]), DataType::Int64);
        assert_eq!(of(&["01", "20"]), DataType::Utf8, "a leading zero is part of a code");
        assert_eq!(of(&["+49", "20"]), DataType::Utf8);
        assert_eq!(of(&["1.50", "2.25"]), DataType::Decimal128(38, 2));
        assert_eq!(of(&["1.5", "2.25", "3"]), DataType::Decimal128(38, 9));
        assert_eq!(of(&["1e5", "2.5"]), DataType::Float64);
        assert_eq!(of(&["18446744073709551616"]), DataType::Decimal128(38, 0));
        assert_eq!(of(&["true", "False"]), DataType::Boolean);
        assert_eq!(of(&["2025-01-31"]), DataType::Date32);
        assert_eq!(of(&["2025-01-31T10:00:00Z"]), timestamp_utc());
        assert_eq!(of(&["2025-01-31 10:00:00", "2025-01-31"]), timestamp_local());
        assert_eq!(of(&["2025-01-31 10:00:00", "2025-01-31T10:00:00Z"]), DataType::Utf8);
        assert_eq!(of(&["1", "x"]), DataType::Utf8);
        assert_eq!(of(&["1", "true"]), DataType::Utf8);
        assert_eq!(of(&[]), DataType::Utf8);
        assert_eq!(of(&["0", "0.5"]), DataType::Decimal128(38, 9));
        assert_eq!(of(&["2025-02-30"]), DataType::Utf8);
        assert_eq!(of(&["NaN"]), DataType::Utf8);
    }

    #[test]
    fn json_strings_stay_texts_unless_they_are_times() {
        let of = |raws: &[&str]| {
            let mut seen = Seen::default();
            raws.iter().for_each(|raw| seen.json(raw));
            seen.data_type()
        };
        assert_eq!(of(&["\"1\""]), DataType::Utf8);
        assert_eq!(of(&["1", "null"]), DataType::Int64);
        assert_eq!(of(&["\"2025-01-31T10:00:00+02:00\""]), timestamp_utc());
        assert_eq!(of(&["{\"a\":1}"]), DataType::Utf8);
        assert_eq!(of(&["0.1", "1e3"]), DataType::Float64);
        assert_eq!(of(&["1.25", "2.75"]), DataType::Decimal128(38, 9), "two values are an accident");
        assert_eq!(of(&["1.25"; 20]), DataType::Decimal128(38, 2));
    }
}
