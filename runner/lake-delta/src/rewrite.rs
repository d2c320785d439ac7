//! Removal of rows: whole files where the log or a look at the deciding columns says so, else rewritten without the rows
//! that go.
//!
//! What became of a file is remembered: when another writer was first, only files that are new since then are looked
//! at, and the result of a file that another writer took away is thrown away with it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::compute::not;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use async_trait::async_trait;
use chrono::Utc;
use futures::StreamExt;
use futures::stream::BoxStream;
use ingest_core::lake::{CommitError, DataFile, DataWriter, RowFilter, WriterOptions};
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

/// Which rows go.
pub(crate) enum Choice {
    /// Those of regions.
    Regions(Regions),
    /// Those that a filter finds.
    Filter(Arc<dyn RowFilter>),
}

impl Choice {
    fn share(&self, file: &Add, partition_by: &[String]) -> Result<Share> {
        match self {
            Self::Regions(regions) => regions.share(file, partition_by),
            Self::Filter(_) => Ok(Share::Unclear),
        }
    }

    /// The columns that decide.
    fn columns(&self, schema: &Schema) -> BTreeSet<String> {
        match self {
            Self::Regions(regions) => regions.columns().map(ToOwned::to_owned).collect(),
            Self::Filter(filter) => filter.columns(schema).into_iter().collect(),
        }
    }

    fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        match self {
            Self::Regions(regions) => regions.mask(batch),
            Self::Filter(filter) => filter.rows(batch),
        }
    }
}

/// Removes rows from whatever files are live.
pub(crate) struct Rewrite {
    choice: Choice,
    options: WriterOptions,
    outcomes: HashMap<String, Outcome>,
    /// Rows that go, of the files that are not what they were.
    hits: HashMap<String, u64>,
}

impl Rewrite {
    /// `schema` is the table's, with the columns that the same commit brings.
    pub fn new(regions: &[Region], schema: &Schema, options: WriterOptions) -> Result<Self> {
        Ok(Self::of(Choice::Regions(Regions::new(regions, schema)?), options))
    }

    /// Takes the chosen rows away.
    pub fn of(choice: Choice, options: WriterOptions) -> Self {
        Self { choice, options, outcomes: HashMap::new(), hits: HashMap::new() }
    }

    /// Rows that went, and the paths of the files that they were in.
    pub fn gone(&self) -> (u64, Vec<String>) {
        let changed = self.outcomes.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Stays));
        let paths: Vec<String> = changed.map(|(path, _)| path.clone()).collect();
        (paths.iter().filter_map(|path| self.hits.get(path)).sum(), paths)
    }

    /// How many rows the table would lose.
    pub async fn count(&self, table: &mut DeltaTable) -> Result<u64> {
        let files: Vec<Add> = table.live_files().await?.values().cloned().collect();
        let mut rows = 0;
        for file in &files {
            rows += self.hit(table, file).await?.0;
        }
        Ok(rows)
    }

    /// Rows of a file that go, and all of its rows.
    async fn hit(&self, table: &DeltaTable, file: &Add) -> Result<(u64, u64)> {
        let partition_by = table.snapshot.partition_by();
        let rows = file.data_file(&[]).rows;
        match self.choice.share(file, partition_by)? {
            Share::Nothing => return Ok((0, rows)),
            // A log without statistics does not say how many they are.
            Share::Everything => return Ok((rows.max(1), rows.max(1))),
            Share::Unclear => {}
        }
        // A look at the deciding columns is cheap beside writing the file anew for nothing.
        let schema = &table.snapshot.schema;
        let names = self.choice.columns(schema);
        if names.is_empty() {
            return Ok((0, rows));
        }
        let fields: Vec<_> = schema.fields().iter().filter(|f| names.contains(f.name())).cloned().collect();
        let deciding: SchemaRef = Arc::new(Schema::new(fields));
        let mut rows = self.widened(scan(&table.log, file, &deciding, partition_by).await?);
        let (mut all, mut hit) = (0, 0);
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            all += batch.num_rows() as u64;
            hit += self.choice.mask(&batch)?.true_count() as u64;
        }
        Ok((hit, all))
    }

    async fn outcome(&mut self, table: &DeltaTable, file: &Add) -> Result<Outcome> {
        let (hit, all) = self.hit(table, file).await?;
        self.hits.insert(file.path.clone(), hit);
        if hit == 0 || hit == all {
            return Ok(if hit == 0 { Outcome::Stays } else { Outcome::Goes });
        }
        let (schema, partition_by) = (&table.snapshot.schema, table.snapshot.partition_by());
        let rows = self.widened(scan(&table.log, file, schema, partition_by).await?);
        let (schema, choice) = (schema.clone(), &self.choice);
        let kept = rows.map(move |batch| {
            let batch = batch?;
            let mask = choice.mask(&batch)?;
            // Columns that only the regions know stand at the end.
            let batch = batch.project(&(0..schema.fields().len()).collect::<Vec<_>>())?;
            Ok(if mask.true_count() == 0 { batch } else { filter_record_batch(&batch, &not(&mask)?)? })
        });
        let writer = TableWriters::of(table).parquet_writer(&table.snapshot.schema, &self.options)?;
        Ok(Outcome::Becomes(write_all(kept.boxed(), Box::new(writer)).await?))
    }

    /// Adds the deciding columns that the table does not have yet: null in every file that is there.
    fn widened(&self, rows: BoxStream<'static, Result<RecordBatch>>) -> BoxStream<'static, Result<RecordBatch>> {
        let missing = match &self.choice {
            Choice::Regions(regions) => regions.typed_columns(),
            Choice::Filter(_) => Vec::new(),
        };
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
