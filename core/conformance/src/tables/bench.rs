//! What the checks do with tables, in short words.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use ingest_core::lake::{
    Commit, CommitError, Compression, DataFile, Definition, Meeting, Merge, Removal, Sweep, Table, TableFormat,
    WriterOptions,
};
use ingest_core::{Error, columns};

use super::Subject;
use crate::oracle::canonical_rows;
use crate::{Fault, wrong};

/// The application id that fences.
pub const APP: &str = "conformance";

/// Rows as canonical JSON texts, sorted.
pub type Texts = Vec<String>;

pub struct Bench {
    pub subject: Subject,
}

/// A call of the format that must succeed.
pub fn ok<T>(what: &str, result: Result<T, Error>) -> Result<T, Fault> {
    result.map_err(|error| Fault::Wrong(format!("{what} failed: {error:?}")))
}

/// A commit that must succeed.
pub fn committed(result: Result<u64, CommitError>) -> Result<u64, Fault> {
    result.map_err(|error| Fault::Wrong(format!("a commit failed: {error:?}")))
}

/// Compares the rows of a table with what they should be.
pub fn same(what: &str, found: &Texts, expected: &Texts) -> Result<(), Fault> {
    if found == expected {
        return Ok(());
    }
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    expected.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    found.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    let first =
        |wanted: fn(i64) -> bool| counts.iter().find(|(_, n)| wanted(**n)).map_or("none", |(row, _)| row.as_str());
    wrong(format!(
        "{what}: {} rows, expected {}; one that is missing: {}; one too many: {}",
        found.len(),
        expected.len(),
        first(|n| n > 0),
        first(|n| n < 0)
    ))
}

/// The rows of batches.
pub fn texts<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<Texts, Fault> {
    let mut rows = Vec::new();
    for batch in batches {
        let canonical = canonical_rows(batch).map_err(|error| Fault::Wrong(error.to_string()))?;
        // A column that is null says the same as one that is not there.
        let present = canonical.into_iter().map(|row| row.into_iter().filter(|(_, value)| !value.is_null()).collect());
        rows.extend(present.map(|row: serde_json::Map<_, _>| ingest_core::Json::Object(row).to_string()));
    }
    rows.sort_unstable();
    Ok(rows)
}

/// A batch of named columns, all of which may lack values.
pub fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, Fault> {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| Fault::Wrong(error.to_string()))
}

/// Orders with these ids: whole numbers, texts, decimals, times, some of them null.
pub fn orders(ids: Range<i64>, note: &str) -> Result<RecordBatch, Fault> {
    let amounts: Decimal128Array =
        ids.clone().map(|id| (id % 7 != 3).then_some(i128::from(id) * 125 - 4_000)).collect();
    let amounts = amounts.with_precision_and_scale(12, 2).map_err(|error| Fault::Wrong(error.to_string()))?;
    let times: TimestampMicrosecondArray = ids.clone().map(|id| Some(1_700_000_000_000_000 + id * 1_000_001)).collect();
    batch(vec![
        ("id", Arc::new(ids.clone().map(Some).collect::<Int64Array>())),
        ("note", Arc::new(ids.map(|id| (id % 5 != 1).then(|| format!("{note} {id}"))).collect::<StringArray>())),
        ("amount", Arc::new(amounts)),
        ("at", Arc::new(times.with_timezone("UTC"))),
    ])
}

/// One change of a row: its key, what it says, what happens, its place in the source's order, when it was read.
#[derive(Debug, Clone)]
pub struct ChangeRow {
    pub region: &'static str,
    pub id: i64,
    pub note: String,
    pub op: &'static str,
    pub seq: u64,
    pub at: i64,
}

/// Changes as a batch, with the columns that the runner adds.
pub fn changes(rows: &[ChangeRow]) -> Result<RecordBatch, Fault> {
    let at = || rows.iter().map(|row| Some(row.at)).collect::<TimestampMicrosecondArray>().with_timezone("UTC");
    let nothing = TimestampMicrosecondArray::from(vec![None::<i64>; rows.len()]).with_timezone("UTC");
    batch(vec![
        ("region", Arc::new(rows.iter().map(|row| Some(row.region)).collect::<StringArray>())),
        ("id", Arc::new(rows.iter().map(|row| Some(row.id)).collect::<Int64Array>())),
        ("note", Arc::new(rows.iter().map(|row| Some(row.note.as_str())).collect::<StringArray>())),
        ("at", Arc::new(at())),
        (columns::INGESTED_AT, Arc::new(at())),
        (columns::OP, Arc::new(rows.iter().map(|row| Some(row.op)).collect::<StringArray>())),
        (columns::SEQ, Arc::new(rows.iter().map(|row| Some(format!("{:016x}", row.seq))).collect::<StringArray>())),
        (columns::DELETED_AT, Arc::new(nothing)),
    ])
}

/// A merge by region and id.
pub fn merge(rows: Vec<DataFile>, meeting: Meeting) -> Merge {
    Merge {
        rows,
        key: vec!["region".into(), "id".into()],
        order: Some(columns::SEQ.into()),
        meeting,
        sweep: Sweep::Nothing,
        now: 9_000_000,
        memory_bytes: 1 << 20,
        options: options(),
        progress: Arc::default(),
    }
}

pub fn options() -> WriterOptions {
    WriterOptions {
        target_file_bytes: 16 << 20,
        memory_bytes: 8 << 20,
        compression: Compression::Zstd,
        runtime: tokio::runtime::Handle::current(),
    }
}

/// Rows that come in with a number of ours.
pub fn numbered(add: Vec<DataFile>, number: i64) -> Commit {
    Commit { add, transactions: vec![(APP.into(), number)], ..Commit::default() }
}

/// Takes all rows that are there, and puts others in their place.
pub fn replacing(add: Vec<DataFile>, number: i64) -> Commit {
    Commit { remove: Removal::All, ..numbered(add, number) }
}

impl Bench {
    pub fn new(subject: Subject) -> Self {
        Self { subject }
    }

    /// The format, as a process of its own sees it.
    pub fn format(&self) -> Arc<dyn TableFormat> {
        (self.subject.open)()
    }

    /// As the format stores it.
    pub fn stored(&self, batch: &RecordBatch) -> Result<RecordBatch, Fault> {
        let format = self.format();
        let schema = ok("storage_schema", format.storage_schema(&batch.schema()))?;
        ok("to_storage", format.to_storage(batch, &schema))
    }

    /// Makes an empty table for batches like this one.
    pub async fn create(
        &self,
        folder: &str,
        like: &RecordBatch,
        partition_by: &[&str],
    ) -> Result<Box<dyn Table>, Fault> {
        let format = self.format();
        let definition = Definition {
            schema: ok("storage_schema", format.storage_schema(&like.schema()))?,
            partition_by: partition_by.iter().map(|column| (*column).to_owned()).collect(),
            description: Some("made by the conformance suite".into()),
        };
        ok("create", format.create(&path(folder), &definition).await)
    }

    /// Opens a table that must be there, as another process.
    pub async fn open(&self, folder: &str) -> Result<Box<dyn Table>, Fault> {
        match ok("open", self.format().open(&path(folder)).await)? {
            Some(table) => Ok(table),
            None => wrong("open finds no table where one was created"),
        }
    }

    /// Writes batches to data files, which stay invisible.
    pub async fn upload(&self, table: &dyn Table, batches: &[RecordBatch]) -> Result<Vec<DataFile>, Fault> {
        let batches: Vec<RecordBatch> = batches.iter().map(|batch| self.stored(batch)).collect::<Result<_, _>>()?;
        let schema = batches.first().map_or_else(|| table.schema(), RecordBatch::schema);
        let mut writer = ok("writer", table.writers().writer(schema, &options()))?;
        let written = tokio::task::spawn_blocking(move || {
            for batch in &batches {
                writer.write(batch)?;
            }
            writer.finish()
        });
        match written.await {
            Ok(files) => ok("writing data files", files),
            Err(error) => wrong(format!("a writer panicked: {error}")),
        }
    }

    /// Uploads a batch and commits it under a number.
    pub async fn append(&self, table: &mut dyn Table, number: i64, batch: &RecordBatch) -> Result<u64, Fault> {
        let files = self.upload(table, std::slice::from_ref(batch)).await?;
        committed(table.commit(numbered(files, number)).await)
    }

    /// All rows of a table, as a process sees them that opens it now.
    pub async fn rows(&self, folder: &str) -> Result<Texts, Fault> {
        let table = self.open(folder).await?;
        texts(&ok("read", table.read(usize::MAX).await)?)
    }

    /// What rows should look like once they are stored.
    pub fn expected<'a>(&self, batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<Texts, Fault> {
        let stored: Vec<RecordBatch> = batches.into_iter().map(|batch| self.stored(batch)).collect::<Result<_, _>>()?;
        texts(&stored)
    }

    /// The number of ours that a table holds.
    pub async fn number(&self, folder: &str) -> Result<Option<i64>, Fault> {
        ok("number", self.open(folder).await?.number(APP).await)
    }
}

/// Where tables of the suite lie.
pub fn path(folder: &str) -> String {
    format!("bronze/conformance/{folder}")
}
