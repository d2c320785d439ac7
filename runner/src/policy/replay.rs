//! `ingest quarantine replay`: rows that checks held back go to their table, once they pass.
//!
//! One commit of the table brings the rows and names the files of the quarantine that go; the commit of the quarantine
//! follows. A run that died in between leaves the second to the next one, so no row comes twice.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_catalog::{Lease, latest_stream};
use ingest_core::columns::{INGESTED_AT, OP, RESCUED, RUN_ID, SEQ, is_reserved};
use ingest_core::json::Decoder;
use ingest_core::lake::{DataFile, WriterOptions, Writers};
use ingest_core::{Error, ErrorKind, Json, Result, StreamName, WriteMode};
use serde::Serialize;
use serde_json::Map;

use super::{Examiner, Policy};
use crate::commit::{Author, Change, Committer};
use crate::config::{OnFail, SourceConfig};
use crate::conform::stored_name;
use crate::run::quarantine::Quarantine;

/// Records of one stream that are looked at in one go.
const MAX_RECORDS: u64 = 200_000;

/// What became of the quarantine of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The stream.
    pub stream: StreamName,
    /// Rows that went to the table.
    pub replayed: u64,
    /// Records that stay, because they fail or cannot be read as a row.
    pub kept: u64,
}

/// Replays the quarantine of a stream.
///
/// # Errors
/// `Unsupported` for tables that are merged into, and where a plan is open; `LimitExceeded` for too many records;
/// `CheckpointConflict` while a run works on the stream.
pub async fn replay(
    author: &Author,
    config: &SourceConfig,
    stream: &StreamName,
    options: &WriterOptions,
    force: bool,
) -> Result<Replayed> {
    let lease =
        Lease::take(&author.documents, &author.source, &stream.table(), &author.run, author.clock.as_ref()).await?;
    let result = replay_held(author, config, stream, options, force).await;
    if let Err(error) = lease.release(&author.documents).await {
        tracing::warn!(%error, "a lease could not be released; it expires by itself");
    }
    result.map_err(|e| e.with("stream", stream))
}

async fn replay_held(
    author: &Author,
    config: &SourceConfig,
    stream: &StreamName,
    options: &WriterOptions,
    force: bool,
) -> Result<Replayed> {
    let written = config.options_of(stream.as_str()).unwrap_or_default();
    if matches!(written.write, Some(WriteMode::Merge | WriteMode::Insert | WriteMode::Scd2)) {
        return Err(Error::new(ErrorKind::Unsupported, "rows of a quarantine cannot be merged into a table yet")
            .hint("load the stream again after the repair: `ingest run --full-refresh`"));
    }
    let mut committer = Committer::open(author.clone(), stream.clone()).await?;
    let quarantine = Quarantine::new(Arc::clone(&author.format), &author.source, stream);
    quarantine.commit(committer.checkpoint()).await?;
    if committer.checkpoint().plan.is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "a load of this stream is not finished")
            .hint("finish it with `ingest run`, then replay"));
    }
    let nothing = Replayed { stream: stream.clone(), replayed: 0, kept: 0 };
    let (Some(table), Some(held)) = (committer.table(), quarantine.open().await?) else { return Ok(nothing) };
    let files = held.files().await?;
    let records: u64 = files.iter().map(|file| file.rows).sum();
    if records > MAX_RECORDS {
        return Err(Error::new(ErrorKind::LimitExceeded, "the quarantine holds too many records to replay")
            .with("records", records)
            .with("limit", MAX_RECORDS)
            .hint("load the stream again after the repair: `ingest run --full-refresh`"));
    }
    let mut batches = held.read(usize::MAX).await?;
    // Oldest first, as they would have come.
    batches.reverse();
    let mut judge = Judge::new(author, config, stream, &committer, force).await?;
    let mut kept = Vec::new();
    for batch in &batches {
        let stays = judge.take(batch)?;
        kept.push(arrow::compute::filter_record_batch(batch, &BooleanArray::from(stays))?);
    }
    let kept_rows: u64 = kept.iter().map(|batch| batch.num_rows() as u64).sum();
    if kept_rows == records {
        return Ok(Replayed { kept: kept_rows, ..nothing });
    }
    let rows = judge.rows(&table.schema(), author)?;
    let replayed = rows.num_rows() as u64;
    let add = write(table.writers(), vec![rows], options).await?;
    let kept = write(held.writers(), kept, options).await?;
    let change = Change { add, quarantine: kept, ..Change::default() };
    committer.commit(change, |edit| edit.release(files)).await?;
    quarantine.commit(committer.checkpoint()).await?;
    Ok(Replayed { replayed, kept: kept_rows, ..nothing })
}

/// Writes batches into files, away from the async threads.
async fn write(writers: Arc<dyn Writers>, batches: Vec<RecordBatch>, options: &WriterOptions) -> Result<Vec<DataFile>> {
    let batches: Vec<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let (schema, options) = (first.schema(), options.clone());
    let written = tokio::task::spawn_blocking(move || {
        let mut writer = writers.writer(schema, &options)?;
        for batch in &batches {
            writer.write(batch)?;
        }
        writer.finish()
    });
    written.await.map_err(|e| Error::unexpected("a writer of the replay ended unexpectedly").caused_by(e))?
}

/// Decides record by record.
struct Judge {
    policy: Arc<Policy>,
    examiner: Examiner,
    /// The data columns of the table under the source's names, in types that JSON is read to.
    decoded: SchemaRef,
    /// The same in the table's types: what checks look at.
    typed: SchemaRef,
    force: bool,
    rows: Vec<RecordBatch>,
    ours: Vec<Map<String, Json>>,
}

impl Judge {
    async fn new(
        author: &Author,
        config: &SourceConfig,
        stream: &StreamName,
        committer: &Committer,
        force: bool,
    ) -> Result<Self> {
        let table = committer.table().ok_or_else(|| Error::unexpected("the table was just opened"))?;
        let document = latest_stream(&author.documents, &author.source, &stream.table()).await?;
        let columns = document.map(|document| document.columns).unwrap_or_default();
        let source_name = |stored: &str| {
            let found = columns
                .iter()
                .find(|c| c.name == stored)
                .or_else(|| columns.iter().find(|c| stored_name(&c.name).to_lowercase() == stored.to_lowercase()));
            found.map_or_else(|| stored.to_owned(), |column| column.name.clone())
        };
        let data: Vec<Field> = table
            .schema()
            .fields()
            .iter()
            .filter(|field| !is_reserved(&field.name().to_lowercase()))
            .map(|field| Field::new(source_name(field.name()), field.data_type().clone(), true))
            .collect();
        let decoded = data.iter().map(|field| field.clone().with_data_type(read_as(field.data_type())));
        let decoded: SchemaRef = Arc::new(Schema::new(decoded.collect::<Vec<_>>()));
        let policy = Policy::unmasked(config, stream);
        let policy = Arc::new(policy);
        let quality =
            policy.quality(&author.documents, author.format.as_ref(), &author.source, Some(table), 256 << 20).await?;
        let examiner = Examiner::new(Arc::clone(&policy), Arc::clone(quality.sets()));
        Ok(Self {
            policy,
            examiner,
            decoded,
            typed: Arc::new(Schema::new(data)),
            force,
            rows: Vec::new(),
            ours: Vec::new(),
        })
    }

    /// Takes the rows that may go from a batch of records; answers for each whether it stays.
    fn take(&mut self, batch: &RecordBatch) -> Result<Vec<bool>> {
        let texts = |name: &str| -> Result<StringArray> {
            let column = batch.column_by_name(name).ok_or_else(|| {
                Error::new(ErrorKind::DataInvalid, "the quarantine lacks a column of ours").with("column", name)
            })?;
            Ok(arrow_cast::cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
        };
        let (records, checks) = (texts("record")?, texts("check")?);
        let mut stays = Vec::with_capacity(records.len());
        for row in 0..records.len() {
            let is_row = records.is_valid(row) && checks.is_valid(row);
            let goes = is_row
                && (self.force || !self.policy.holds_masked(checks.value(row)))
                && self.goes(records.value(row))?;
            stays.push(!goes);
        }
        Ok(stays)
    }

    /// Whether the record of a row can be read and passes; then it is taken.
    fn goes(&mut self, record: &str) -> Result<bool> {
        let Ok(Json::Object(mut object)) = serde_json::from_str::<Json>(record) else { return Ok(false) };
        let names: Vec<String> = object.keys().filter(|name| is_reserved(name)).cloned().collect();
        let ours: Map<String, Json> =
            names.into_iter().filter_map(|name| object.remove(&name).map(|value| (name, value))).collect();
        let mut decoder = Decoder::new(Arc::clone(&self.decoded))?;
        decoder.object(Json::Object(object).to_string().as_bytes())?;
        let read = decoder.flush()?;
        // What does not fit any more would be lost from its column.
        if read.column_by_name(RESCUED).is_none_or(|rescued| rescued.null_count() < rescued.len()) {
            return Ok(false);
        }
        let arrays =
            read.columns().iter().zip(self.typed.fields()).map(|(array, field)| typed(array, field.data_type()));
        let Some(arrays) = arrays.collect::<Result<Option<Vec<ArrayRef>>>>()? else { return Ok(false) };
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::clone(&self.typed), arrays, &options)?;
        if !self.force && !self.examiner.examine(row.clone())?.held.is_empty() {
            return Ok(false);
        }
        self.rows.push(row);
        self.ours.push(ours);
        Ok(true)
    }

    /// The rows that go, as the table stores them.
    fn rows(&self, storage: &SchemaRef, author: &Author) -> Result<RecordBatch> {
        let data = arrow::compute::concat_batches(&self.typed, &self.rows)?;
        let now = author.clock.now_micros();
        let mut place = 0;
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(storage.fields().len());
        for field in storage.fields() {
            if !is_reserved(&field.name().to_lowercase()) {
                arrays.push(Arc::clone(data.column(place)));
                place += 1;
                continue;
            }
            let said = |ours: &Map<String, Json>| ours.get(field.name()).and_then(Json::as_str).map(str::to_owned);
            let texts = |each: &dyn Fn(&Map<String, Json>) -> Option<String>| -> ArrayRef {
                Arc::new(self.ours.iter().map(each).collect::<StringArray>())
            };
            let array = match field.name().as_str() {
                RUN_ID => texts(&|_| Some(author.run.clone())),
                INGESTED_AT => {
                    let times = arrow_array::TimestampMicrosecondArray::from_value(now, self.ours.len());
                    Arc::new(times.with_timezone("UTC"))
                }
                OP => texts(&|ours| Some(said(ours).unwrap_or_else(|| "R".to_owned()))),
                SEQ | RESCUED => texts(&said),
                _ => arrow_array::new_null_array(field.data_type(), self.ours.len()),
            };
            arrays.push(arrow_cast::cast(&array, field.data_type())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.ours.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(storage), arrays, &options)?)
    }
}

/// The type in which a column of a type is read from JSON.
fn read_as(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Int8 | DataType::Int16 => DataType::Int64,
        DataType::Float32 => DataType::Float64,
        DataType::Binary => DataType::Utf8,
        other => other.clone(),
    }
}

/// The values in the table's type; `None` where they do not fit.
fn typed(array: &ArrayRef, to: &DataType) -> Result<Option<ArrayRef>> {
    use base64::Engine;
    if array.data_type() == to {
        return Ok(Some(Arc::clone(array)));
    }
    let cast: ArrayRef = match to {
        DataType::Binary => {
            let texts = array.as_string::<i32>().iter();
            let bytes = texts.map(|text| text.and_then(|t| base64::engine::general_purpose::STANDARD.decode(t).ok()));
            Arc::new(bytes.collect::<arrow_array::BinaryArray>())
        }
        to => arrow_cast::cast(array, to)?,
    };
    Ok((cast.null_count() == array.null_count()).then_some(cast))
}

impl Policy {
    /// The checks of a stream that hold rows back and look at columns that are not masked: what is left to ask of records
    /// that are masked already.
    fn unmasked(config: &SourceConfig, stream: &StreamName) -> Self {
        let options = config.options_of(stream.as_str()).unwrap_or_default();
        let bare = ingest_core::Stream {
            name: stream.clone(),
            schema: Arc::new(Schema::empty()),
            key: Vec::new(),
            modes: Vec::new(),
            cursors: Vec::new(),
            group: None,
            estimate: ingest_core::Estimate::default(),
        };
        let (mut policy, _) = Self::written(config, &bare, &options);
        let holds = |check: &crate::config::CheckOptions| check.on_fail == OnFail::Quarantine;
        let (masked, plain): (Vec<_>, Vec<_>) = std::mem::take(&mut policy.checks)
            .into_iter()
            .filter(holds)
            .partition(|check| check.looks_at().iter().any(|column| policy.is_masked(column)));
        policy.checks = plain;
        policy.masked_checks = masked.iter().map(crate::config::CheckOptions::label).collect();
        policy.rules = Default::default();
        policy
    }

    /// Whether one of the checks that a record names, joined by commas, looks at a masked column.
    fn holds_masked(&self, names: &str) -> bool {
        self.masked_checks.iter().any(|label| format!(", {names}, ").contains(&format!(", {label}, ")))
    }
}
