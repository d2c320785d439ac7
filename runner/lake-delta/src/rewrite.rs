//! Removal of regions: whole files where the log or a look at the deciding columns says so, else rewritten without the
//! rows that go.
//!
//! What became of a file is remembered: when another writer was first, only files that are new since then are looked
//! at, and the result of a file that another writer took away is thrown away with it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::compute::not;
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use async_trait::async_trait;
use chrono::Utc;
use futures::StreamExt;
use futures::stream::BoxStream;
use ingest_core::lake::{CommitError, DataFile, DataWriter, WriterOptions};
use ingest_core::{Error, ErrorKind, Region, Result};
use object_store::ObjectStoreExt;
use tokio::sync::mpsc;

use crate::action::Add;
use crate::commit::{Change, Removing};
use crate::log::Log;
use crate::read::{object_path, scan};
use crate::region::{Regions, Share};
use crate::table::{DeltaTable, TableWriters};

/// Batches between reader and encoder.
const BATCHES: usize = 2;

/// What becomes of a file.
enum Outcome {
    Stays,
    Goes,
    /// What stays of it.
    Becomes(Vec<DataFile>),
}

/// Removes regions from whatever files are live.
pub(crate) struct Rewrite {
    regions: Regions,
    options: WriterOptions,
    outcomes: HashMap<String, Outcome>,
}

impl Rewrite {
    /// `schema` is the table's, with the columns that the same commit brings.
    pub fn new(regions: &[Region], schema: &Schema, options: WriterOptions) -> Result<Self> {
        Ok(Self { regions: Regions::new(regions, schema)?, options, outcomes: HashMap::new() })
    }

    async fn outcome(&self, table: &DeltaTable, file: &Add) -> Result<Outcome> {
        let partition_by = table.snapshot.partition_by();
        match self.regions.share(file, partition_by)? {
            Share::Nothing => return Ok(Outcome::Stays),
            Share::Everything => return Ok(Outcome::Goes),
            Share::Unclear => {}
        }
        // A look at the deciding columns is cheap beside writing the file anew for nothing.
        let names: BTreeSet<&str> = self.regions.columns().collect();
        let schema = &table.snapshot.schema;
        let fields: Vec<_> = schema.fields().iter().filter(|f| names.contains(f.name().as_str())).cloned().collect();
        let deciding: SchemaRef = Arc::new(Schema::new(fields));
        let mut rows = self.widened(scan(&table.log, file, &deciding, partition_by).await?);
        let (mut all, mut hit) = (0, 0);
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            all += batch.num_rows();
            hit += self.regions.mask(&batch)?.true_count();
        }
        if hit == 0 || hit == all {
            return Ok(if hit == 0 { Outcome::Stays } else { Outcome::Goes });
        }
        let rows = self.widened(scan(&table.log, file, schema, partition_by).await?);
        let schema = schema.clone();
        let kept = rows.map(move |batch| {
            let batch = batch?;
            let mask = self.regions.mask(&batch)?;
            // Columns that only the regions know stand at the end.
            let batch = batch.project(&(0..schema.fields().len()).collect::<Vec<_>>())?;
            Ok(if mask.true_count() == 0 { batch } else { filter_record_batch(&batch, &not(&mask)?)? })
        });
        let writer = TableWriters::of(table).parquet_writer(&table.snapshot.schema, &self.options)?;
        Ok(Outcome::Becomes(write_all(kept.boxed(), Box::new(writer)).await?))
    }

    /// Adds the deciding columns that the table does not have yet: null in every file that is there.
    fn widened(&self, rows: BoxStream<'static, Result<RecordBatch>>) -> BoxStream<'static, Result<RecordBatch>> {
        let missing = self.regions.typed_columns();
        rows.map(move |batch| {
            let batch = batch?;
            let mut columns: Vec<(String, arrow_array::ArrayRef)> = Vec::new();
            for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                columns.push((field.name().clone(), array.clone()));
            }
            for (name, data_type) in &missing {
                if batch.column_by_name(name).is_none() {
                    columns.push((name.clone(), arrow_array::new_null_array(data_type, batch.num_rows())));
                }
            }
            if columns.len() == batch.num_columns() {
                return Ok(batch);
            }
            Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))?)
        })
        .boxed()
    }

    /// Removes what was written for files that are gone by now.
    async fn forget_gone(&mut self, table: &mut DeltaTable) -> Result<()> {
        let log = table.log.clone();
        let live = table.live_files().await?;
        let gone: Vec<String> = self.outcomes.keys().filter(|path| !live.contains_key(*path)).cloned().collect();
        for path in gone {
            if let Some(Outcome::Becomes(files)) = self.outcomes.remove(&path) {
                discard(&log, &files).await;
            }
        }
        Ok(())
    }

    async fn work_out(&mut self, table: &mut DeltaTable) -> Result<Change> {
        self.forget_gone(table).await?;
        let now = Utc::now().timestamp_millis();
        let files: Vec<Add> = table.live_files().await?.values().cloned().collect();
        let mut change = Change::default();
        for file in files {
            if !self.outcomes.contains_key(&file.path) {
                let outcome = self.outcome(table, &file).await.map_err(|e| e.with("table", &table.log.folder))?;
                self.outcomes.insert(file.path.clone(), outcome);
            }
            match self.outcomes.get(&file.path) {
                None | Some(Outcome::Stays) => {}
                Some(Outcome::Goes) => change.remove.push(file.tombstone(now, true)),
                Some(Outcome::Becomes(files)) => {
                    change.remove.push(file.tombstone(now, true));
                    change.add.extend(files.iter().map(|f| Add::of(f, true)));
                }
            }
        }
        Ok(change)
    }
}

#[async_trait]
impl Removing for Rewrite {
    async fn change(&mut self, table: &mut DeltaTable) -> Result<Change, CommitError> {
        self.work_out(table).await.map_err(CommitError::Failed)
    }

    async fn give_up(&mut self, log: &Log) {
        for outcome in self.outcomes.values() {
            if let Outcome::Becomes(files) = outcome {
                discard(log, files).await;
            }
        }
    }
}

/// Writes a stream of batches; the encoder has a thread of its own.
pub(crate) async fn write_all(
    mut rows: BoxStream<'_, Result<RecordBatch>>,
    mut writer: Box<dyn DataWriter>,
) -> Result<Vec<DataFile>> {
    let (batches, mut receiver) = mpsc::channel::<Result<RecordBatch>>(BATCHES);
    let encoder = tokio::task::spawn_blocking(move || {
        while let Some(batch) = receiver.blocking_recv() {
            if let Err(e) = batch.and_then(|batch| writer.write(&batch)) {
                writer.abort();
                return Err(e);
            }
        }
        writer.finish()
    });
    while let Some(batch) = rows.next().await {
        let failed = batch.is_err();
        // A closed channel means that the encoder failed; its error comes below.
        if batches.send(batch).await.is_err() || failed {
            break;
        }
    }
    drop(batches);
    encoder.await.map_err(|e| Error::unexpected("writing a data file was broken off").caused_by(e))?
}

/// Removes files that no commit names, as far as that is possible; the others fall to vacuum.
pub(crate) async fn discard(log: &Log, files: &[DataFile]) {
    for file in files {
        let removed = match object_path(log, &file.path) {
            Ok(path) => log.lake.store.delete(&path).await.map_err(|e| {
                Error::new(ErrorKind::Unavailable, "cannot remove a file that no commit names").caused_by(e)
            }),
            Err(e) => Err(e),
        };
        if let Err(e) = removed {
            tracing::warn!(table = %log.folder, error = ?e, "a rewritten file stays behind until the next vacuum");
        }
    }
}
