//! JSON objects to Arrow rows, without a tree of values in between.
//!
//! A [`Decoder`] is made of the schema of a stream. It takes pages of an API ([`Decoder::page`]) or single objects
//! ([`Decoder::object`], lines of an NDJSON file) and appends each value to its column straight from the bytes.
//!
//! | column | takes | everything else |
//! | --- | --- | --- |
//! | Boolean | `true`, `false`, also as strings | rescued |
//! | Int32, Int64 | whole numbers in range, also as strings; `1.0` is whole | rescued |
//! | Float64 | numbers a double can hold (decimals are rounded to the nearest) | rescued |
//! | Decimal128(p, s) | numbers of at most p digits, s of them fractional, from their text, also as strings | rescued |
//! | Utf8 | any literal: strings unquoted, numbers as written, objects and lists as compact JSON | lone surrogates rescued |
//! | Utf8 with [`FORMAT`] `json` | any value as compact JSON text | |
//! | Utf8 with [`FORMAT`] `id` | a literal as above; of an object its `id` (the object is rescued as well) | objects without a text `id` rescued |
//! | Timestamp | RFC 3339 text (with an offset, its colon optional, if and only if the type has a zone); with [`FORMAT`] `unix_s`, `unix_ms`, `unix_us` a number; years 0001 to 9999 | rescued |
//! | Date32 | `2025-01-31` | rescued |
//! | List, Map with Utf8 keys, Struct | lists and objects whose parts all fit | rescued whole |
//!
//! *Rescued*: the column is null, and the column `_ingest_rescued` holds a JSON object of the values under the names
//! that the source gave them, as the source wrote them; unknown keys go there too. A Struct that an object fits except
//! for members without a field is filled, and the object is rescued as well. A key that occurs twice counts as it
//! stands last. An absent key is null; [`Decoder::tracking_absent`] tells the two apart.
//!
//! ```
//! use std::sync::Arc;
//! use arrow_schema::{DataType, Field, Schema};
//! use ingest_core::json::{Decoder, PageShape};
//!
//! let schema = Schema::new(vec![
//!     Field::new("id", DataType::Utf8, false),
//!     Field::new("amount", DataType::Int64, true),
//! ]);
//! let mut decoder = Decoder::new(Arc::new(schema))?;
//! let shape = PageShape::at("data").pick("has_more");
//! let page = br#"{"data": [{"id": "a", "amount": 9007199254740993, "new": [1, 2]}], "has_more": true}"#;
//! let envelope = decoder.page(page, &shape)?;
//! assert_eq!(envelope.records, 1);
//! assert_eq!(envelope.flag("has_more")?, Some(true));
//! assert_eq!(decoder.last_text("id"), Some("a"));
//! let batch = decoder.flush()?;
//! assert_eq!(batch.schema().field(2).name(), "_ingest_rescued"); // {"new":[1,2]}
//! # Ok::<(), ingest_core::Error>(())
//! ```

mod column;
mod envelope;
mod literal;
mod read;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{Schema, SchemaRef};

use self::column::{Column, Fit, Texts};
pub use self::envelope::{Envelope, PageShape};
pub use self::read::Record;
use crate::{Error, ErrorKind, Result, columns};

/// Key of the field metadata that says how a source writes the values of a column: `json`, `id`, `rfc3339`,
/// `unix_s`, `unix_ms`, `unix_us`.
pub const FORMAT: &str = "ingest.json";

/// Key of the field metadata that holds the source's name of a column, where the column has another.
pub const SOURCE_NAME: &str = "ingest.json.name";

/// Ceilings on foreign JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Levels of objects and lists inside a record. Default 100.
    pub depth: usize,
    /// Bytes of one record. Default 32 MiB.
    pub object_bytes: usize,
    /// Keys of one record. Default 20,000.
    pub keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 100, object_bytes: 32 << 20, keys: 20_000 }
    }
}

/// Turns JSON objects into record batches; see the [module](self).
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    required: Vec<bool>,
    keys: Keys,
    rescued: Texts,
    rescued_nulls: NullBufferBuilder,
    absent: Option<Absent>,
    rows: usize,
    limits: Limits,
}

/// The bits of `_ingest_absent`, one slice a row; empty = the row is whole.
#[derive(Default)]
struct Absent {
    rows: Vec<Option<Vec<u8>>>,
}

/// Where the value of a key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Column(usize),
    Taken(usize),
    Unknown,
}

/// The keys of the source, as they stand in a page with their quotes.
struct Keys {
    names: Vec<String>,
    taken: Vec<String>,
    targets: HashMap<String, Target>,
    /// What the n-th key of the record before was: most sources write the same keys in the same order.
    memory: Vec<(String, Target)>,
}

impl Decoder {
    /// Makes a decoder for the columns of a schema. Reserved columns in it are left to the caller, but for
    /// `_ingest_rescued`, which is always the last column of a batch.
    ///
    /// # Errors
    /// `Unsupported` for a type that JSON is not decoded to.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let fields: Vec<_> =
            schema.fields().iter().filter(|field| !columns::is_reserved(field.name())).cloned().collect();
        let columns = fields.iter().map(|field| Column::new(field)).collect::<Result<Vec<_>>>()?;
        let required = fields.iter().map(|field| !field.is_nullable()).collect();
        let names: Vec<String> =
            fields.iter().map(|field| field.metadata().get(SOURCE_NAME).unwrap_or(field.name()).clone()).collect();
        let mut targets = HashMap::new();
        for (i, name) in names.iter().enumerate() {
            if targets.insert(quoted(name), Target::Column(i)).is_some() {
                return Err(Error::config("two columns take the same key of a record").with("key", name));
            }
        }
        let mut fields = fields;
        fields.push(Arc::new(columns::field(columns::RESCUED)));
        Ok(Self {
            schema: Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())),
            columns,
            required,
            keys: Keys { names, taken: Vec::new(), targets, memory: Vec::new() },
            rescued: Texts::new(),
            rescued_nulls: NullBufferBuilder::new(0),
            absent: None,
            rows: 0,
            limits: Limits::default(),
        })
    }

    /// Sets the ceilings.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Names keys that are neither columns nor rescued: they carry nothing, or the caller reads them himself through
    /// [`Record::raw`].
    #[must_use]
    pub fn taking<'a>(mut self, keys: impl IntoIterator<Item = &'a str>) -> Self {
        for key in keys {
            let next = Target::Taken(self.keys.taken.len());
            self.keys.targets.entry(quoted(key)).or_insert_with(|| {
                self.keys.taken.push(key.to_owned());
                next
            });
        }
        self
    }

    /// Adds the column `_ingest_absent`: which columns a record did not carry, for sources whose records are partial.
    #[must_use]
    pub fn tracking_absent(mut self) -> Self {
        if self.absent.replace(Absent::default()).is_none() {
            let mut fields = self.schema.fields().to_vec();
            fields.push(Arc::new(columns::field(columns::ABSENT)));
            self.schema = Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()));
        }
        self
    }

    /// The schema of the batches: the columns, then `_ingest_rescued`, then `_ingest_absent` where it was asked for.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends the records of a page and gives back what was picked from around them. A page that cannot be read to
    /// its end adds no row.
    ///
    /// # Errors
    /// `DataInvalid` when the page is not what `shape` says or a record lacks a required column; `LimitExceeded` when a
    /// ceiling is reached.
    pub fn page(&mut self, page: &[u8], shape: &PageShape) -> Result<Envelope> {
        self.page_with(page, shape, |_| Ok(()))
    }

    /// Does what [`Decoder::page`] does and shows each record to `look` after it was read and before it becomes a row.
    ///
    /// # Errors
    /// As `page`, and whatever `look` returns.
    pub fn page_with(
        &mut self,
        page: &[u8],
        shape: &PageShape,
        mut look: impl FnMut(&Record<'_, '_>) -> Result<()>,
    ) -> Result<Envelope> {
        let before = self.rows;
        let read = read::page(self, page, shape, &mut look);
        if read.is_err() {
            self.truncate(before);
        }
        read
    }

    /// Appends one record: a line of NDJSON, the object inside an event. An error adds no row.
    ///
    /// # Errors
    /// As [`Decoder::page`].
    pub fn object(&mut self, object: &[u8]) -> Result<()> {
        self.object_with(object, |_| Ok(()))
    }

    /// Does what [`Decoder::object`] does and shows the record to `look` before it becomes a row.
    ///
    /// # Errors
    /// As `page_with`.
    pub fn object_with(&mut self, object: &[u8], mut look: impl FnMut(&Record<'_, '_>) -> Result<()>) -> Result<()> {
        let before = self.rows;
        let read = read::object(self, object, &mut look);
        if read.is_err() {
            self.truncate(before);
        }
        read
    }

    /// Rows since the last flush.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of those rows, about.
    pub fn bytes(&self) -> usize {
        let absent = self.absent.as_ref().map_or(0, |absent| absent.rows.len() * 24);
        self.columns.iter().map(Column::size).sum::<usize>() + self.rescued.size() + absent
    }

    /// The text of a column in the last row, while it was not flushed yet: the cursor of lists that go on after an id.
    pub fn last_text(&self, column: &str) -> Option<&str> {
        let at = self.schema.fields().iter().position(|field| field.name() == column)?;
        self.columns.get(at)?.last_text()
    }

    /// Takes the rows as a batch and starts anew.
    ///
    /// # Errors
    /// `DataInvalid` when Arrow refuses the columns, which would be a fault of this module.
    pub fn flush(&mut self) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for column in &mut self.columns {
            arrays.push(column.finish()?);
        }
        let nulls = self.rescued_nulls.finish();
        arrays.push(Arc::new(self.rescued.finish(nulls)?));
        if let Some(absent) = &mut self.absent {
            arrays.push(Arc::new(std::mem::take(&mut absent.rows).into_iter().collect::<BinaryArray>()));
        }
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?)
    }

    /// Makes a row of one value per column and of what has no column.
    fn append(&mut self, slots: &[Option<&str>], unknown: &[(&str, &str)]) -> Result<()> {
        let mut rescue = Rescue { texts: &mut self.rescued, open: false };
        let mut absent = None;
        for (i, slot) in slots.iter().enumerate() {
            let fit = match slot {
                Some(raw) => self.columns[i].push(raw)?,
                None => {
                    self.columns[i].push_null();
                    if self.absent.is_some() {
                        let bits: &mut Vec<u8> = absent.get_or_insert_with(|| vec![0; slots.len().div_ceil(8)]);
                        bits[i / 8] |= 1 << (i % 8);
                    }
                    Fit::Null
                }
            };
            if let (Fit::Refused | Fit::InPart, Some(raw)) = (fit, slot) {
                rescue.add(&quoted(&self.keys.names[i]), raw);
            }
            if fit == Fit::Refused {
                self.columns[i].push_null();
            }
            if self.required[i] && matches!(fit, Fit::Refused | Fit::Null) {
                let fault = match fit {
                    Fit::Refused => "a record has a value of another type in a required column",
                    _ => "a record lacks a required column",
                };
                return Err(Error::new(ErrorKind::DataInvalid, fault).with("column", &self.keys.names[i]));
            }
        }
        for (key, raw) in unknown {
            rescue.add(key, raw);
        }
        let rescued = rescue.close()?;
        self.rescued_nulls.append(rescued);
        if let Some(rows) = &mut self.absent {
            rows.rows.push(absent);
        }
        self.rows += 1;
        Ok(())
    }

    /// Takes the rows after the first `rows` away, and whatever a row that failed has left in some columns.
    fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.rescued.truncate(rows);
        self.rescued_nulls.truncate(rows);
        if let Some(absent) = &mut self.absent {
            absent.rows.truncate(rows);
        }
        self.rows = rows;
    }
}

/// The text of `_ingest_rescued` of one row while it is written.
struct Rescue<'a> {
    texts: &'a mut Texts,
    open: bool,
}

impl Rescue<'_> {
    fn add(&mut self, key: &str, raw: &str) {
        let out = self.texts.open();
        out.push(if self.open { b',' } else { b'{' });
        self.open = true;
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        literal::compact(raw, out);
    }

    fn close(self) -> Result<bool> {
        if self.open {
            self.texts.open().push(b'}');
        }
        self.texts.close()?;
        Ok(self.open)
    }
}

impl Keys {
    /// Where the value of the n-th key of a record goes; `raw` has its quotes.
    fn find(&mut self, nth: usize, raw: &str) -> Target {
        if let Some((known, target)) = self.memory.get(nth)
            && known == raw
        {
            return *target;
        }
        let target = match self.targets.get(raw) {
            Some(target) => *target,
            // The same key may be written with escapes.
            None if raw.contains('\\') => literal::string(raw)
                .and_then(|name| self.targets.get(&quoted(&name)).copied())
                .unwrap_or(Target::Unknown),
            None => Target::Unknown,
        };
        if nth < 1_024 && raw.len() < 256 {
            if let Some((known, remembered)) = self.memory.get_mut(nth) {
                known.clear();
                known.push_str(raw);
                *remembered = target;
            } else if self.memory.len() == nth {
                self.memory.push((raw.to_owned(), target));
            }
        }
        target
    }
}

/// A decimal out of the literal of a number, which may have an exponent; see the table of the [module](self).
pub(crate) fn decimal_of(text: &str, precision: u8, scale: i8) -> Option<i128> {
    literal::decimal(text, precision, scale)
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
