//! What a configuration says of data classes, masks and checks.

use std::collections::BTreeMap;
use std::fmt;

use ingest_core::config::Span;
use ingest_core::{Json, JsonSchema};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Number, json};

use super::ClassRetention;

/// How the values of a column are masked.
#[derive(Debug, Clone, PartialEq)]
pub enum Mask {
    /// They are not: for a column that a glob or a class would mask.
    Keep,
    /// The column is left out.
    Drop,
    /// Every value is null.
    Null,
    /// Every text is `***`.
    Redact,
    /// All but the last characters are `*`.
    Partial(u32),
    /// HMAC-SHA256 under the mask key (SHA-256 without one) of the value's text, in hexadecimal digits.
    Hash,
    /// Encrypted so that equal values give equal tokens and the holder of the mask key can read them.
    Token,
    /// Less exact.
    Generalize(Grain),
}

/// How exact a generalised value still is.
#[derive(Debug, Clone, PartialEq)]
pub enum Grain {
    /// Dates and times: the first day of the year.
    Year,
    /// Dates and times: the first day of the month.
    Month,
    /// Times: the beginning of the day.
    Day,
    /// Numbers: the beginning of a bucket of this width.
    Bucket(Number),
}

/// What `partial` shows where no number is given.
const PARTIAL: u32 = 4;

impl Mask {
    /// Whether what comes of it depends on the mask key.
    pub fn is_keyed(&self) -> bool {
        matches!(self, Self::Hash | Self::Token)
    }

    /// Whether different values stay different.
    pub fn is_injective(&self) -> bool {
        matches!(self, Self::Keep | Self::Hash | Self::Token)
    }

    fn from_json(value: &Json) -> Option<Self> {
        let grain = |value: &Json| match value {
            Json::String(word) => match word.as_str() {
                "year" => Some(Grain::Year),
                "month" => Some(Grain::Month),
                "day" => Some(Grain::Day),
                _ => None,
            },
            Json::Number(width) if width.as_f64().is_some_and(|width| width > 0.0) => {
                Some(Grain::Bucket(width.clone()))
            }
            _ => None,
        };
        match value {
            Json::Null => Some(Self::Null),
            Json::String(word) => Some(match word.as_str() {
                "keep" => Self::Keep,
                "drop" => Self::Drop,
                "null" => Self::Null,
                "redact" => Self::Redact,
                "partial" => Self::Partial(PARTIAL),
                "hash" => Self::Hash,
                "token" => Self::Token,
                _ => return None,
            }),
            Json::Object(object) if object.len() == 1 => {
                let (key, value) = object.iter().next()?;
                match key.as_str() {
                    "partial" => value.as_u64().and_then(|n| u32::try_from(n).ok()).map(Self::Partial),
                    "generalize" => grain(value).map(Self::Generalize),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn to_json(&self) -> Json {
        match self {
            Self::Keep => "keep".into(),
            Self::Drop => "drop".into(),
            Self::Null => "null".into(),
            Self::Redact => "redact".into(),
            Self::Partial(shown) => json!({ "partial": shown }),
            Self::Hash => "hash".into(),
            Self::Token => "token".into(),
            Self::Generalize(Grain::Year) => json!({ "generalize": "year" }),
            Self::Generalize(Grain::Month) => json!({ "generalize": "month" }),
            Self::Generalize(Grain::Day) => json!({ "generalize": "day" }),
            Self::Generalize(Grain::Bucket(width)) => json!({ "generalize": width }),
        }
    }
}

/// `hash`, `partial: 4`, `generalize: year`.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_json() {
            Json::String(word) => f.write_str(&word),
            Json::Object(object) => object.iter().try_for_each(|(key, value)| match value.as_str() {
                Some(word) => write!(f, "{key}: {word}"),
                None => write!(f, "{key}: {value}"),
            }),
            other => write!(f, "{other}"),
        }
    }
}

impl Serialize for Mask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Json::deserialize(deserializer)?;
        Self::from_json(&value).ok_or_else(|| serde::de::Error::custom("this is no mask"))
    }
}

impl JsonSchema for Mask {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mask".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let grain = json!({"anyOf": [
            {"enum": ["year", "month", "day"]},
            {"type": "number", "exclusiveMinimum": 0},
        ]});
        json_schema!({"oneOf": [
            {"type": "null"},
            {"enum": ["drop", "null", "redact", "partial", "hash", "token", "keep"]},
            {"type": "object", "properties": {"partial": {"type": "integer", "minimum": 1, "maximum": 1000}},
             "required": ["partial"], "additionalProperties": false},
            {"type": "object", "properties": {"generalize": grain}, "required": ["generalize"],
             "additionalProperties": false},
        ]})
    }
}

/// What kind of data a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataClass {
    /// Data about a person: name, e-mail, phone, address.
    Pii,
    /// Data that harms the business when it is known: revenue, margins, prices.
    Sensitive,
    /// Data that few may see: salaries, payments.
    Restricted,
    /// Somebody has looked: nothing of these.
    None,
}

impl DataClass {
    /// The word of the configuration and of the field metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pii => "pii",
            Self::Sensitive => "sensitive",
            Self::Restricted => "restricted",
            Self::None => "none",
        }
    }
}

/// What holds for every source.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// Whether a stream with a column without a data class fails its plan. `classify: {COLUMN: none}` says that a column
    /// holds nothing of the kind; connectors classify what they know.
    pub require_classification: bool,
    /// Masks for all columns of a data class. `mask` of a stream says otherwise for single columns.
    pub mask: ClassMasks,
    /// How long rows are kept that have a column of a data class: `{pii: 3y, restricted: 10y}`. `retention` of a stream says
    /// otherwise.
    pub retention: ClassRetention,
}

/// Masks for all columns of a data class.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassMasks {
    /// For columns of class `pii`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pii: Option<Mask>,
    /// For columns of class `sensitive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<Mask>,
    /// For columns of class `restricted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restricted: Option<Mask>,
}

impl ClassMasks {
    /// The mask of a class, by the word of the field metadata.
    pub fn of(&self, class: &str) -> Option<(&'static str, &Mask)> {
        let all = [("pii", &self.pii), ("sensitive", &self.sensitive), ("restricted", &self.restricted)];
        all.into_iter().find(|(word, _)| *word == class).and_then(|(word, mask)| Some((word, mask.as_ref()?)))
    }
}

/// What happens when a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFail {
    /// It is reported.
    #[default]
    Warn,
    /// The rows go to the quarantine instead of the table.
    Quarantine,
    /// Nothing of the commit is committed; exit 5.
    Fail,
}

impl fmt::Display for OnFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warn => "warn",
            Self::Quarantine => "quarantine",
            Self::Fail => "fail",
        })
    }
}

/// A share of a whole, as people write it: `1%`, `0.5%`, or a number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As many digits as were written: 0.07 * 100 is not 7 in binary.
        let percent = (self.0 * 100.0 * 1e6).round() / 1e6;
        write!(f, "{percent}%")
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Json::deserialize(deserializer)?;
        let share = match &value {
            Json::Number(number) => number.as_f64(),
            Json::String(text) => text.strip_suffix('%').and_then(|p| p.trim().parse::<f64>().ok()).map(|p| p / 100.0),
            _ => None,
        };
        let share = share.filter(|share| share.is_finite() && *share >= 0.0);
        share.map(Self).ok_or_else(|| serde::de::Error::custom("this is no share"))
    }
}

impl JsonSchema for Share {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number"], "pattern": "^[0-9]+([.][0-9]+)?%$", "minimum": 0, "maximum": 1,
            "examples": ["1%"]})
    }
}

/// A bound of a range: a number, or a text such as `2024-01-31`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Bound {
    /// A number.
    Number(Number),
    /// A date, a time in RFC 3339, a number with more digits than a double holds, or a text.
    Text(String),
}

impl Bound {
    /// As it was written.
    pub fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// The least and the most that is allowed, both included.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Range {
    /// The least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Bound>,
    /// The most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Bound>,
}

/// The least and the most of a count, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Counts {
    /// The least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    /// The most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

/// A column of another table of the lake.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The table: `SOURCE.TABLE`.
    pub table: String,
    /// Its column.
    pub column: String,
}

/// A check on the rows of a stream, or on a run of it: one of `not_null`, `unique`, `accepted_values`, `range`, `regex`,
/// `length`, `references`, `sql`, `freshness`, `row_count`, `volume`, `schema`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckOptions {
    /// The column; a field of a struct by its path, `address.zip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Several columns, for `unique`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// A name for reports. Default: the check and its column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `warn`, `quarantine` or `fail`. Default: `warn`.
    pub on_fail: OnFail,
    /// The share of rows that may fail: `1%`. A larger one is reported (`warn`), or fails the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerate: Option<Share>,
    /// No value is null. Null passes every other check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_null: Option<bool>,
    /// No value comes twice in a run, nor in the table where rows are added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<bool>,
    /// Every value is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_values: Option<Vec<Json>>,
    /// Every value lies between these, both included: numbers, dates, times, texts by their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// Every text matches this expression somewhere; `^` and `$` stand for its ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Every text has so many characters, every list so many elements, every binary value so many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<Counts>,
    /// Every value occurs in a column of another table of the lake, as that table stood when the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub references: Option<Reference>,
    /// The newest value of the column is at most so old when the run commits: `2h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Span>,
    /// So many rows come in a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_count: Option<Counts>,
    /// The rows of a run differ by at most this share from the median of the runs before: `50%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<Share>,
    /// The source has these columns with these types, as `ingest discover` prints them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<BTreeMap<String, String>>,
    /// A condition in SQL on the values of a row: `"amount >= 0 and (status <> 'paid' or paid_at is not null)"`. Null passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
}

/// Characters of a condition in the name of its check.
const LABEL: usize = 60;

/// A fault of the options of a check: the key, and what is wrong with it.
pub type CheckFault = (&'static str, String);

impl CheckOptions {
    /// The keys of the checks that are asked for.
    pub fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("not_null", self.not_null == Some(true)),
            ("unique", self.unique == Some(true)),
            ("accepted_values", self.accepted_values.is_some()),
            ("range", self.range.is_some()),
            ("regex", self.regex.is_some()),
            ("length", self.length.is_some()),
            ("references", self.references.is_some()),
            ("freshness", self.freshness.is_some()),
            ("row_count", self.row_count.is_some()),
            ("volume", self.volume.is_some()),
            ("schema", self.schema.is_some()),
            ("sql", self.sql.is_some()),
        ];
        all.into_iter().filter(|(_, asked)| *asked).map(|(kind, _)| kind).collect()
    }

    /// The columns that it looks at.
    pub fn columns(&self) -> Vec<&str> {
        self.column.iter().chain(self.columns.iter().flatten()).map(String::as_str).collect()
    }

    /// The columns that it looks at, with those that a condition names.
    pub fn looks_at(&self) -> Vec<String> {
        let named = self.sql.as_ref().and_then(|text| crate::policy::Condition::read(text).ok());
        let named = named.map(|condition| condition.columns().to_vec()).unwrap_or_default();
        self.columns().into_iter().map(str::to_owned).chain(named).collect()
    }

    /// The name in reports: `not_null(id)`.
    pub fn label(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        if let Some(text) = &self.sql {
            let short: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LABEL).collect();
            return format!("sql({short})");
        }
        let kind = self.kinds().first().copied().unwrap_or("check");
        let columns = self.columns();
        if columns.is_empty() { kind.to_owned() } else { format!("{kind}({})", columns.join(", ")) }
    }

    /// What is wrong with the options by themselves, before any column is known.
    pub fn faults(&self) -> Vec<CheckFault> {
        let kinds = self.kinds();
        let [kind] = kinds.as_slice() else {
            return vec![match kinds.as_slice() {
                [] => ("", "this check checks nothing: write e.g. `{column: id, not_null: true}`".to_owned()),
                several => ("", format!("one check has one of {}: write one entry for each", several.join(", "))),
            }];
        };
        let mut faults = Vec::new();
        let of_run = matches!(*kind, "row_count" | "volume" | "schema");
        match (of_run, self.columns().len(), *kind) {
            (_, 0, "sql") | (true, 0, _) => {}
            (_, _, "sql") => faults.push(("column", "a condition in SQL names its columns itself".to_owned())),
            (false, 1, _) => {}
            (true, _, _) => faults.push(("column", format!("{kind} is about no single column"))),
            (false, 0, _) => faults.push(("column", "this key is required".to_owned())),
            (false, _, "unique") if self.column.is_none() => {}
            (false, _, _) => faults.push(("columns", format!("{kind} is about one column: write `column`"))),
        }
        if self.on_fail == OnFail::Quarantine && (of_run || *kind == "freshness") {
            faults.push(("on_fail", format!("{kind} is about no single rows: write warn or fail")));
        }
        if self.tolerate.is_some() && (of_run || *kind == "freshness") {
            faults.push(("tolerate", format!("{kind} is about no single rows")));
        }
        if let Some(regex) = &self.regex
            && let Err(error) = crate::policy::regex(regex)
        {
            faults.push(("regex", error));
        }
        for (key, counts) in [("length", &self.length), ("row_count", &self.row_count)] {
            if counts.is_some_and(|c| c.min.is_none() && c.max.is_none()) {
                faults.push((key, "write `min`, `max` or both".to_owned()));
            }
            if counts.is_some_and(|c| c.min.zip(c.max).is_some_and(|(min, max)| min > max)) {
                faults.push((key, "min is more than max".to_owned()));
            }
        }
        if self.range.as_ref().is_some_and(|range| range.min.is_none() && range.max.is_none()) {
            faults.push(("range", "write `min`, `max` or both".to_owned()));
        }
        if self.accepted_values.as_ref().is_some_and(Vec::is_empty) {
            faults.push(("accepted_values", "the list is empty".to_owned()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_as_they_are_written() {
        for (json, mask, shown) in [
            (json!("hash"), Mask::Hash, "hash"),
            (json!(null), Mask::Null, "null"),
            (json!("null"), Mask::Null, "null"),
            (json!("partial"), Mask::Partial(4), "partial: 4"),
            (json!({"partial": 2}), Mask::Partial(2), "partial: 2"),
            (json!({"generalize": "year"}), Mask::Generalize(Grain::Year), "generalize: year"),
            (json!({"generalize": 10}), Mask::Generalize(Grain::Bucket(10.into())), "generalize: 10"),
        ] {
            let read: Mask = serde_json::from_value(json).expect("a mask");
            assert_eq!((&read, read.to_string().as_str()), (&mask, shown));
            assert_eq!(serde_json::from_value::<Mask>(json!(read)).expect("as it was"), mask);
        }
        for json in [json!("hsh"), json!({"partial": -1}), json!({"generalize": 0}), json!({"a": 1, "b": 2}), json!(1)]
        {
            assert!(serde_json::from_value::<Mask>(json.clone()).is_err(), "{json}");
        }
    }

    #[test]
    fn shares_are_percent_or_a_part_of_one() {
        let share = |json: Json| serde_json::from_value::<Share>(json).map(|share| share.0).ok();
        assert_eq!(share(json!("1%")), Some(0.01));
        assert_eq!(share(json!("0.5%")), Some(0.005));
        assert_eq!(share(json!(0.25)), Some(0.25));
        assert_eq!((share(json!("x%")), share(json!("1")), share(json!(-1))), (None, None, None));
        assert_eq!(Share(0.07).to_string(), "7%");
    }

    #[test]
    fn options_of_a_check_that_make_no_sense_are_named() {
        let faults = |json: Json| -> Vec<&'static str> {
            let options: CheckOptions = serde_json::from_value(json).expect("readable");
            options.faults().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(faults(json!({"column": "a", "not_null": true})), Vec::<&str>::new());
        assert_eq!(faults(json!({"columns": ["a", "b"], "unique": true})), Vec::<&str>::new());
        assert_eq!(faults(json!({"column": "a"})), [""]);
        assert_eq!(faults(json!({"column": "a", "not_null": true, "unique": true})), [""]);
        assert_eq!(faults(json!({"not_null": true})), ["column"]);
        assert_eq!(faults(json!({"columns": ["a", "b"], "not_null": true})), ["columns"]);
        assert_eq!(
            faults(json!({"row_count": {"min": 2, "max": 1}, "on_fail": "quarantine"})),
            ["on_fail", "row_count"]
        );
        assert_eq!(faults(json!({"sql": "a > 0"})), Vec::<&str>::new());
        assert_eq!(faults(json!({"column": "a", "sql": "a > 0"})), ["column"]);
        assert_eq!(faults(json!({"column": "a", "regex": "("})), ["regex"]);
        assert_eq!(faults(json!({"column": "a", "regex": "(a{1000}){1000}"})), ["regex"]);
    }
}
