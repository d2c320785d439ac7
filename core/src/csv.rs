//! Delimited text to Arrow columns: records are cut first ([`tokens`]), then each column takes its fields of all of them
//! in one loop.
//!
//! | column | takes | everything else |
//! | --- | --- | --- |
//! | Utf8 | any text | |
//! | Int32, Int64 | whole numbers in range | rescued |
//! | Float64 | numbers that a double can hold, `NaN`, `inf` | rescued |
//! | Decimal128(p, s) | numbers of at most p digits, s of them fractional; with an exponent where the type was declared | rescued |
//! | Boolean | `true`, `false` in any case; more words where the type was declared | rescued |
//! | Date32 | `2025-01-31` | rescued |
//! | Timestamp(µs) | `2025-01-31T10:20:30.5+02:00`, with an offset if the type has a zone | rescued |
//!
//! *Rescued*: the column is null, and [`Finished::rescued`] holds a JSON object of the texts under their columns' names.
//!
//! ```
//! use arrow_schema::DataType;
//! use ingest_core::csv::tokens::{Dialect, Tokens};
//! use ingest_core::csv::{Rows, Stretch};
//!
//! let data = b"1,9.50\n2,odd\n";
//! let mut tokens = Tokens::default();
//! tokens.cut(&Dialect::new(b',', Some(b'"')), data, Some(2), true, 0, usize::MAX);
//! let mut rows = Rows::new(&[String::new()]);
//! rows.column("id", 0, &DataType::Int64, false)?;
//! rows.column("price", 1, &DataType::Decimal128(10, 2), false)?;
//! rows.take(&Stretch::new(&data[..tokens.consumed], &tokens, '"'));
//! let done = rows.finish();
//! assert_eq!(done.rows, 2); // the second has no price, and {"price":"odd"} is rescued
//! # Ok::<(), ingest_core::Error>(())
//! ```

pub mod tokens;
pub mod values;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, StringArray};
use arrow_schema::{DataType, Field as ArrowField, TimeUnit};

use self::tokens::{Field, Tokens};
use crate::{Error, ErrorKind, Result};

/// Good records of a buffer, all of one width.
pub struct Stretch<'a> {
    bytes: &'a [u8],
    text: &'a str,
    fields: &'a [Field],
    records: usize,
    quote: char,
}

impl<'a> Stretch<'a> {
    /// The records that were cut out of the start of a buffer: `bytes` is what they used up. Bytes that are no UTF-8 are
    /// to be taken out before, see [`blank_invalid_bytes`]; else every field is empty.
    pub fn new(bytes: &'a [u8], tokens: &'a Tokens, quote: char) -> Self {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        Self { bytes, text, fields: &tokens.fields, records: tokens.records.len(), quote }
    }

    /// The bytes, bad records among them.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The fields of all good records, one record after another.
    pub fn fields(&self) -> &'a [Field] {
        self.fields
    }

    /// The text of a field, its quotes undoubled.
    #[inline]
    pub fn field(&self, field: Field) -> Cow<'a, str> {
        let text = self.text.get(field.range()).unwrap_or_default();
        if field.is_escaped() {
            return Cow::Owned(undoubled(text, self.quote));
        }
        Cow::Borrowed(text)
    }
}

/// A text with its doubled quotes made single.
#[cold]
pub fn undoubled(text: &str, quote: char) -> String {
    text.replace(&String::from_iter([quote, quote]), quote.encode_utf8(&mut [0; 4]))
}

/// Overwrites every byte that is no UTF-8 with `?`; the places of all others stay. Gives how many.
pub fn blank_invalid_bytes(bytes: &mut [u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Err(e) = std::str::from_utf8(bytes.get(at..).unwrap_or_default()) {
        let bad = at + e.valid_up_to();
        let length = e.error_len().unwrap_or(bytes.len() - bad);
        bytes.get_mut(bad..bad + length).unwrap_or_default().fill(b'?');
        at = bad + length;
        count += length;
    }
    count
}

/// The rows of a batch in the making.
pub struct Rows {
    columns: Vec<Column>,
    rescued: BTreeMap<usize, String>,
    nulls: Nulls,
    count: usize,
    bytes: usize,
}

/// A batch without its schema.
#[derive(Debug)]
pub struct Finished {
    /// How many rows.
    pub rows: usize,
    /// The columns that are known, in the order in which they were named.
    pub columns: Vec<(ArrowField, ArrayRef)>,
    /// The column `_ingest_rescued`, where there is anything in it.
    pub rescued: Option<StringArray>,
}

/// A column of the text.
struct Column {
    name: String,
    /// Its number among the fields of a record.
    index: usize,
    exact: bool,
    values: Values,
}

enum Values {
    Text(StringBuilder),
    Int64(Int64Builder),
    Int32(Int32Builder),
    Float64(Float64Builder),
    Boolean(BooleanBuilder),
    Decimal(Decimal128Builder, u8, i8),
    Date(Date32Builder),
    /// Whether it has a zone.
    Timestamp(TimestampMicrosecondBuilder, bool),
    /// The stream has no such column: everything is put aside.
    Unknown,
}

/// The texts that stand for null.
struct Nulls {
    empty: bool,
    others: Vec<String>,
}

impl Nulls {
    #[inline]
    fn has(&self, text: &str) -> bool {
        if text.is_empty() { self.empty } else { !self.others.is_empty() && self.others.iter().any(|o| o == text) }
    }
}

impl Rows {
    /// No columns yet. `nulls` are the texts that stand for null, the empty one only if it is among them.
    pub fn new(nulls: &[String]) -> Self {
        Self {
            columns: Vec::new(),
            rescued: BTreeMap::new(),
            nulls: Nulls {
                empty: nulls.iter().any(String::is_empty),
                others: nulls.iter().filter(|text| !text.is_empty()).cloned().collect(),
            },
            count: 0,
            bytes: 0,
        }
    }

    /// Takes the `index`-th field of each record as a column. `exact`: the type was guessed, so that a form that says more
    /// than the value (`007`, `1e3`) does not fit.
    ///
    /// # Errors
    /// `Unsupported` for a type that text is not decoded to.
    pub fn column(&mut self, name: &str, index: usize, data_type: &DataType, exact: bool) -> Result<()> {
        self.columns.push(Column { name: name.to_owned(), index, exact, values: Values::new(data_type)? });
        Ok(())
    }

    /// Rescues the `index`-th field of each record: the table has no column for it.
    pub fn unknown(&mut self, name: &str, index: usize) {
        self.columns.push(Column { name: name.to_owned(), index, exact: true, values: Values::Unknown });
    }

    /// Adds the records of a stretch.
    pub fn take(&mut self, stretch: &Stretch<'_>) {
        let rows = stretch.records;
        if rows == 0 {
            return;
        }
        let width = stretch.fields.len() / rows;
        let mut rescue = Rescue { rescued: &mut self.rescued, first: self.count };
        for column in &mut self.columns {
            let fields = stretch.fields.iter().skip(column.index).step_by(width.max(1));
            column.take(stretch, fields, &self.nulls, &mut rescue);
        }
        self.count += rows;
        self.bytes += stretch.bytes.len() + rows * 32;
    }

    /// Rows since the last [`Rows::finish`].
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of those rows, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the rows and starts anew.
    pub fn finish(&mut self) -> Finished {
        let rows = std::mem::take(&mut self.count);
        self.bytes = 0;
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            if let Some(array) = column.values.finish() {
                columns.push((ArrowField::new(&column.name, array.data_type().clone(), true), array));
            }
        }
        let mut rescued = std::mem::take(&mut self.rescued);
        let rescued = (!rescued.is_empty())
            .then(|| (0..rows).map(|row| rescued.remove(&row).map(|text| text + "}")).collect::<StringArray>());
        Finished { rows, columns, rescued }
    }
}

/// Where values go that do not fit.
struct Rescue<'a> {
    rescued: &'a mut BTreeMap<usize, String>,
    /// Number of the first row of the stretch.
    first: usize,
}

impl Rescue<'_> {
    #[cold]
    fn put(&mut self, row: usize, column: &str, text: &str) {
        let object = self.rescued.entry(self.first + row).or_default();
        object.push(if object.is_empty() { '{' } else { ',' });
        object.push_str(&serde_json::Value::from(column).to_string());
        object.push(':');
        object.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Takes the fields of one column in one loop per type.
macro_rules! take_each {
    ($column:ident, $stretch:ident, $fields:ident, $nulls:ident, $rescue:ident, $builder:ident, $parse:expr) => {
        for (row, field) in $fields.enumerate() {
            let text = $stretch.field(*field);
            if $nulls.has(&text) {
                $builder.append_null();
            } else if let Some(value) = $parse(&*text) {
                $builder.append_value(value);
            } else {
                $builder.append_null();
                $rescue.put(row, $column, &text);
            }
        }
    };
}

impl Column {
    fn take<'f>(
        &mut self,
        stretch: &Stretch<'_>,
        fields: impl Iterator<Item = &'f Field>,
        nulls: &Nulls,
        rescue: &mut Rescue<'_>,
    ) {
        let (name, exact) = (self.name.as_str(), self.exact);
        match &mut self.values {
            Values::Text(b) => {
                for field in fields {
                    let text = stretch.field(*field);
                    if nulls.has(&text) { b.append_null() } else { b.append_value(text) }
                }
            }
            Values::Int64(b) => {
                take_each!(name, stretch, fields, nulls, rescue, b, |t: &str| values::integer(t, exact));
            }
            Values::Int32(b) => {
                let parse = |t: &str| values::integer(t, exact).and_then(|n| i32::try_from(n).ok());
                take_each!(name, stretch, fields, nulls, rescue, b, parse);
            }
            Values::Float64(b) => take_each!(name, stretch, fields, nulls, rescue, b, values::float),
            Values::Boolean(b) if exact => take_each!(name, stretch, fields, nulls, rescue, b, values::boolean),
            Values::Boolean(b) => take_each!(name, stretch, fields, nulls, rescue, b, values::declared_boolean),
            Values::Decimal(b, precision, scale) => {
                let parse = |t: &str| values::decimal(t, *precision, *scale, exact);
                take_each!(name, stretch, fields, nulls, rescue, b, parse);
            }
            Values::Date(b) => take_each!(name, stretch, fields, nulls, rescue, b, values::date),
            Values::Timestamp(b, true) if exact => {
                take_each!(name, stretch, fields, nulls, rescue, b, |t: &str| values::timestamp(t, true));
            }
            Values::Timestamp(b, true) => {
                take_each!(name, stretch, fields, nulls, rescue, b, values::declared_timestamp);
            }
            Values::Timestamp(b, false) => {
                let parse = |t: &str| values::timestamp(t, false).or_else(|| values::midnight(t));
                take_each!(name, stretch, fields, nulls, rescue, b, parse);
            }
            Values::Unknown => {
                for (row, field) in fields.enumerate() {
                    let text = stretch.field(*field);
                    if !nulls.has(&text) {
                        rescue.put(row, name, &text);
                    }
                }
            }
        }
    }
}

impl Values {
    fn new(data_type: &DataType) -> Result<Self> {
        Ok(match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Float64 => Self::Float64(Float64Builder::new()),
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Decimal128(precision, scale) => {
                Self::Decimal(Decimal128Builder::new().with_data_type(data_type.clone()), *precision, *scale)
            }
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()), zone.is_some())
            }
            other => {
                return Err(
                    Error::new(ErrorKind::Unsupported, "a text file has no values of this type").with("type", other)
                );
            }
        })
    }

    fn finish(&mut self) -> Option<ArrayRef> {
        Some(match self {
            Self::Text(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Decimal(b, _, _) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Timestamp(b, _) => Arc::new(b.finish()),
            Self::Unknown => return None,
        })
    }
}
