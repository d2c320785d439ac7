//! Records that could not become rows: a table of their own beside each stream's.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_catalog::Checkpoint;
use ingest_core::lake::{
    Commit, CommitError, DataFile, Definition, Removal, Table, TableFormat, WriterOptions, Writers,
};
use ingest_core::{BadRecord, Error, Result, StreamName};
use tokio::sync::Mutex;

use crate::policy::Held;

/// A record on its way to the quarantine: masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What is wrong with it.
    pub reason: String,
    /// The checks that hold it back; none = it could not be read as a row.
    pub check: Option<String>,
    /// The record: as it came, or a JSON object of its row.
    pub record: String,
}

impl Record {
    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        self.record.len() + self.reason.len() + self.check.as_ref().map_or(0, String::len)
    }
}

impl From<BadRecord> for Record {
    fn from(bad: BadRecord) -> Self {
        Self { reason: bad.reason, check: None, record: bad.record }
    }
}

impl From<Held> for Record {
    fn from(held: Held) -> Self {
        Self { reason: held.reason, check: Some(held.check), record: held.record }
    }
}

/// The quarantine of a stream. Its table comes into being with the first record.
pub struct Quarantine {
    format: Arc<dyn TableFormat>,
    folder: String,
    app: String,
    table: Mutex<Option<Box<dyn Table>>>,
}

impl Quarantine {
    /// The quarantine of a stream.
    pub fn new(format: Arc<dyn TableFormat>, source: &str, stream: &StreamName) -> Self {
        Self {
            format,
            folder: format!("quarantine/{}/{}", ingest_core::table_name(source), stream.table()),
            app: format!("ingest/{source}/{stream}/quarantine"),
            table: Mutex::new(None),
        }
    }

    /// Opens the table; `None` where there is none.
    pub async fn open(&self) -> Result<Option<Box<dyn Table>>> {
        self.format.open(&self.folder).await
    }

    /// Makes a writer for records; the table is created where there is none.
    pub async fn writers(&self) -> Result<Arc<dyn Writers>> {
        let mut table = self.table.lock().await;
        Ok(self.opened(&mut table).await?.writers())
    }

    async fn opened<'t>(&self, slot: &'t mut Option<Box<dyn Table>>) -> Result<&'t mut Box<dyn Table>> {
        if slot.is_none() {
            let found = match self.format.open(&self.folder).await? {
                Some(found) => found,
                None => {
                    let definition = Definition {
                        schema: schema(),
                        partition_by: Vec::new(),
                        description: Some(
                            "records that could not become rows, and rows that a check holds back (ingest)".into(),
                        ),
                    };
                    self.format.create(&self.folder, &definition).await?
                }
            };
            *slot = Some(found);
        }
        slot.as_mut().ok_or_else(|| Error::unexpected("the quarantine was just opened"))
    }

    /// Makes files visible that belong to the stream's commit of this number. Doing it twice is fine: a run that died
    /// between the two commits leaves the second to the next run.
    pub async fn commit(&self, checkpoint: &Checkpoint) -> Result<()> {
        let (files, released, number) = (&checkpoint.quarantine, &checkpoint.released, checkpoint.number);
        if files.is_empty() && released.is_empty() {
            return Ok(());
        }
        let mut slot = self.table.lock().await;
        for attempt in 0..4 {
            let table = self.opened(&mut slot).await?;
            if table.number(&self.app).await?.is_some_and(|n| n >= number) {
                return Ok(());
            }
            let commit = Commit {
                transactions: vec![(self.app.clone(), number)],
                add: files.clone(),
                remove: if released.is_empty() { Removal::Nothing } else { Removal::Files(released.clone()) },
                ..Commit::default()
            };
            match table.commit(commit).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict(e) | CommitError::Unknown(e)) if attempt < 3 => {
                    tracing::warn!(error = %e, "a commit to the quarantine is looked up");
                    *slot = None;
                }
                Err(e) => return Err(e.into_error()),
            }
        }
        Err(Error::unexpected("cannot commit to the quarantine").with("table", &self.folder))
    }
}

/// The columns of a quarantine.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("reason", DataType::Utf8, true),
        Field::new("check", DataType::Utf8, true),
        Field::new("run_id", DataType::Utf8, true),
        Field::new("quarantined_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("record", DataType::Utf8, true),
    ]))
}

/// Writes records into files; blocking, for the writer thread.
pub fn write(
    records: &[Record],
    writers: &dyn Writers,
    options: &WriterOptions,
    run_id: &str,
    now: i64,
) -> Result<Vec<DataFile>> {
    let texts =
        |each: fn(&Record) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(records.iter().map(each))) };
    let columns: Vec<ArrayRef> = vec![
        texts(|record| &record.reason),
        Arc::new(records.iter().map(|record| record.check.as_deref()).collect::<StringArray>()),
        Arc::new(StringArray::from_iter_values(records.iter().map(|_| run_id))),
        Arc::new(TimestampMicrosecondArray::from(vec![now; records.len()]).with_timezone("UTC")),
        texts(|record| &record.record),
    ];
    let mut writer = writers.writer(schema(), options)?;
    writer.write(&RecordBatch::try_new(schema(), columns)?)?;
    writer.finish()
}
