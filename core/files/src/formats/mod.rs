//! Files to record batches. Blocking: everything here runs on threads of its own.

pub mod avro;
pub mod blocks;
pub mod conform;
pub mod csv;
pub mod elements;
pub mod fixed;
pub mod json;
pub mod parquet;
pub mod records;
pub mod sheet;
pub mod xml;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow_schema::{DataType, Field, Schema};
use ingest_core::{BadRecord, CancellationToken, Error, columns};
use tokio::sync::mpsc;

use crate::input::Limits;
use crate::options::{Format, StreamOptions};
use crate::state::{Inside, Work};
use crate::store::{Fault, Reading};
use crate::types::Seen;

/// The column that names the file of a row.
pub const SOURCE_FILE: &str = "_source_file";

/// How much of a bad record is kept.
const BAD_BYTES: usize = 64 << 10;

/// What comes out of a file, in order.
#[derive(Debug)]
pub enum Item {
    /// Rows, and where the file stands behind them.
    Rows(RecordBatch, Inside),
    /// A record that is no row.
    Bad(BadRecord),
    /// What a person should know.
    Warning(String),
}

/// Where the items of a file go.
pub enum Sink {
    /// To the slice, as fast as it takes them.
    Channel {
        /// The way.
        send: mpsc::Sender<Item>,
        /// Wanted size of a batch.
        batch_bytes: Arc<AtomicUsize>,
        /// Fires when the run ends.
        cancel: CancellationToken,
    },
    /// To nowhere: the file is only looked at.
    Nowhere,
}

impl Sink {
    fn put(&self, item: Item) -> Result<(), Fault> {
        match self {
            Self::Channel { send, cancel, .. } => {
                if cancel.is_cancelled() {
                    return Err(Error::cancelled().into());
                }
                send.blocking_send(item).map_err(|_| Error::cancelled().into())
            }
            Self::Nowhere => Ok(()),
        }
    }

    /// Passes a batch on.
    pub fn rows(&self, batch: RecordBatch, behind: Inside) -> Result<(), Fault> {
        self.put(Item::Rows(batch, behind))
    }

    /// Passes a record on that is no row; `why` begins with its place in the file.
    pub fn bad(&self, path: &str, why: &str, record: &[u8]) -> Result<(), Fault> {
        let record = record.get(..BAD_BYTES).unwrap_or(record);
        let record = String::from_utf8_lossy(record).into_owned();
        self.put(Item::Bad(BadRecord { reason: format!("{path} {why}"), record }))
    }

    /// Says something.
    pub fn warn(&self, text: String) -> Result<(), Fault> {
        self.put(Item::Warning(text))
    }

    /// Wanted size of a batch.
    pub fn batch_bytes(&self) -> usize {
        match self {
            Self::Channel { batch_bytes, .. } => batch_bytes.load(Ordering::Relaxed).clamp(64 << 10, 64 << 20),
            Self::Nowhere => 1 << 20,
        }
    }
}

/// Rows of a batch at most.
pub const BATCH_ROWS: usize = 16_384;

/// What a file is to become.
#[derive(Debug, Clone)]
pub struct Target {
    /// The stream.
    pub options: Arc<StreamOptions>,
    /// The columns, without `_source_file`.
    pub columns: Vec<(String, DataType)>,
    /// Whether what has no column is rescued.
    pub all: bool,
    /// Columns of the stream that nobody asked for.
    pub unwanted: Vec<String>,
    /// Whether `_source_file` is wanted.
    pub source_file: bool,
    /// The ceilings.
    pub limits: Limits,
    order: HashMap<String, usize>,
}

impl Target {
    /// What a slice asks for.
    pub fn new(options: Arc<StreamOptions>, work: &Work, limits: Limits) -> Self {
        Self {
            options,
            columns: work.columns.clone(),
            all: work.all,
            unwanted: work.unwanted.clone(),
            source_file: work.source_file,
            limits,
            order: work.columns.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect(),
        }
    }

    /// Whether the type of a column was declared, so that `007` is a number where a number was declared.
    pub fn is_declared(&self, column: &str) -> bool {
        self.options.types.contains_key(column)
    }

    /// Makes a batch of columns, adding `_source_file` and `_ingest_rescued`.
    pub fn batch(
        &self,
        path: &str,
        rows: usize,
        columns: Vec<(Field, ArrayRef)>,
        rescued: Option<StringArray>,
    ) -> Result<RecordBatch, Fault> {
        // Every file has its own order of columns; batches of one stream have one, so that they can be joined.
        let mut columns: Vec<_> =
            columns.into_iter().map(|(field, array)| (self.order.get(field.name()).copied(), field, array)).collect();
        columns.sort_by_key(|(at, _, _)| *at);
        let (mut fields, mut arrays): (Vec<_>, Vec<_>) = columns.into_iter().map(|(_, f, a)| (f, a)).unzip();
        if self.source_file {
            fields.push(Field::new(SOURCE_FILE, DataType::Utf8, true));
            arrays.push(Arc::new(StringArray::new_repeated(path, rows)));
        }
        fields.push(columns::field(columns::RESCUED));
        arrays.push(rescued.map_or_else(|| new_null_array(&DataType::Utf8, rows), |texts| Arc::new(texts)));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .map_err(|e| Error::from(e).into())
    }
}

/// The columns that a sample shows, in the order in which they appeared.
#[derive(Debug, Default)]
pub struct Columns {
    columns: Vec<(String, Sight)>,
    index: HashMap<String, usize>,
}

/// What is known about a column.
#[derive(Debug)]
enum Sight {
    /// Texts without a type.
    Values(Seen),
    /// The file says its type.
    Type(DataType),
}

impl Columns {
    /// The columns of a file that knows their types.
    pub fn of_schema(schema: &Schema) -> Self {
        let mut columns = Self::default();
        conform::plain_schema(schema).into_iter().for_each(|(name, ty)| columns.add(name, Sight::Type(ty)));
        columns
    }

    /// Takes note of values of a column.
    pub fn saw(&mut self, name: String, seen: &Seen) {
        self.add(name, Sight::Values(*seen));
    }

    /// Takes the columns of another file in.
    pub fn join(&mut self, other: Self) {
        other.columns.into_iter().for_each(|(name, sight)| self.add(name, sight));
    }

    /// Names and types.
    pub fn types(self) -> Vec<(String, DataType)> {
        let ty = |sight| match sight {
            Sight::Values(seen) => seen.data_type(),
            Sight::Type(DataType::Null) => DataType::Utf8,
            Sight::Type(ty) => ty,
        };
        self.columns.into_iter().map(|(name, sight)| (name, ty(sight))).collect()
    }

    fn add(&mut self, name: String, sight: Sight) {
        match self.index.get(&name).and_then(|at| self.columns.get_mut(*at)) {
            Some((_, known)) => match (known, sight) {
                (Sight::Values(known), Sight::Values(seen)) => known.join(&seen),
                (Sight::Type(known), Sight::Type(ty)) => *known = conform::join(known, &ty),
                // One stream has one format.
                _ => {}
            },
            None => {
                self.index.insert(name.clone(), self.columns.len());
                self.columns.push((name, sight));
            }
        }
    }
}

/// Decodes one file from a place on, which is its start except for line formats.
pub fn decode(reading: &Reading, target: &Target, from: Inside, sink: &Sink) -> Result<(), Fault> {
    match target.options.format {
        Format::Csv | Format::Tsv => csv::decode(reading, target, from, sink),
        Format::Ndjson => json::decode_lines(reading, target, from, sink),
        Format::Json => json::decode_document(reading, target, sink),
        Format::Xml => xml::decode(reading, target, sink),
        Format::Parquet => parquet::decode(reading, target, sink),
        Format::Avro => avro::decode(reading, target, sink),
        Format::Fixed | Format::Excel => {
            let mut records = records::Decode::new(target, sink, &reading.file.path);
            read_records(reading, &target.options, target.limits, &mut records)?;
            records.finish()
        }
    }?;
    reading.unchanged()
}

/// Looks at the first records of a file whose records come as fields.
pub fn sample_records(reading: &Reading, options: &StreamOptions, limits: Limits) -> Result<Columns, Fault> {
    let mut sample = records::Sample::new(options);
    read_records(reading, options, limits, &mut sample)?;
    Ok(sample.columns())
}

fn read_records(
    reading: &Reading,
    options: &StreamOptions,
    limits: Limits,
    take: &mut dyn records::Take,
) -> Result<(), Fault> {
    match options.format {
        Format::Excel => sheet::read(reading, options, limits, take),
        _ => fixed::read(reading, options, limits, take),
    }
}
