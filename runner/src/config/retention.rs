//! How long rows are kept.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Days, Months};
use ingest_core::JsonSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An age as people write it: `3y`, `18mo`, `90d`. Years and months are those of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    months: u32,
    days: u32,
}

impl Age {
    /// The time that lies so long before another, both in microseconds UTC; `None` where the calendar does not reach so far.
    pub fn before(self, now: i64) -> Option<i64> {
        let then = DateTime::from_timestamp_micros(now)?
            .checked_sub_months(Months::new(self.months))?
            .checked_sub_days(Days::new(u64::from(self.days)))?;
        Some(then.timestamp_micros())
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("\"{text}\" is not an age; write e.g. 3y, 18mo, 90d");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u32 = number.parse().ok().filter(|n| (1..=36_500).contains(n)).ok_or_else(wrong)?;
        match unit {
            "y" if number <= 100 => Ok(Self { months: number * 12, days: 0 }),
            "mo" if number <= 1_200 => Ok(Self { months: number, days: 0 }),
            "d" => Ok(Self { months: 0, days: number }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.months {
            0 => write!(f, "{}d", self.days),
            months if months.is_multiple_of(12) => write!(f, "{}y", months / 12),
            months => write!(f, "{months}mo"),
        }
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Age {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Age".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]+(y|mo|d)$", "examples": ["3y"]})
    }
}

/// How long the rows of a stream are kept: an age, or an age and the column that says how old a row is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Retention {
    /// So long.
    After(Age),
    /// For ever, whatever the classes of the columns say.
    Word(Forever),
    /// So long after the time in a column.
    By(RetentionBy),
}

/// For ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Forever {
    /// Rows are kept.
    Forever,
}

/// An age, and the column that it is counted by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionBy {
    /// How long rows are kept: `3y`. Left out, as long as the classes of the columns say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Age>,
    /// A column with a date or a time. Default: `_ingested_at`; in tables with versions `expiry_date`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// How long rows are kept that have a column of a data class. The shortest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassRetention {
    /// Rows with a column of class `pii`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pii: Option<Age>,
    /// Rows with a column of class `sensitive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<Age>,
    /// Rows with a column of class `restricted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restricted: Option<Age>,
}

impl ClassRetention {
    /// The age of a class, by the word of the field metadata.
    pub fn of(&self, class: &str) -> Option<Age> {
        match class {
            "pii" => self.pii,
            "sensitive" => self.sensitive,
            "restricted" => self.restricted,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_back_as_written_and_count_by_the_calendar() {
        for text in ["3y", "18mo", "90d"] {
            assert_eq!(text.parse::<Age>().expect(text).to_string(), text);
        }
        for text in ["3", "0d", "3m", "101y", "y", "-3y", ""] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
        let day =
            |text: &str| DateTime::parse_from_rfc3339(&format!("{text}T00:00:00Z")).expect("a day").timestamp_micros();
        let age = |text: &str| text.parse::<Age>().expect(text);
        assert_eq!(age("3y").before(day("2024-02-29")), Some(day("2021-02-28")));
        assert_eq!(age("1mo").before(day("2024-03-31")), Some(day("2024-02-29")));
        assert_eq!(age("90d").before(day("2024-03-31")), Some(day("2024-01-01")));
    }

    #[test]
    fn a_retention_is_an_age_a_word_or_both_parts() {
        let read = |text: &str| serde_json::from_str::<Retention>(text);
        assert_eq!(read("\"3y\"").expect("an age"), Retention::After("3y".parse().expect("an age")));
        assert_eq!(read("\"forever\"").expect("a word"), Retention::Word(Forever::Forever));
        assert!(matches!(read(r#"{"after": "10y", "by": "paid_at"}"#).expect("both"), Retention::By(_)));
        assert!(read("\"soon\"").is_err() && read(r#"{"afer": "3y"}"#).is_err());
    }
}
