//! An opened table.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use ingest_core::lake::{
    Commit, CommitError, DataFile, DataWriter, Erased, Erasure, Maintained, Maintenance, Merged, RowFilter, Table,
    Traces, WriterOptions, Writers,
};
use ingest_core::{Error, ErrorKind, Result};
use tokio::sync::Mutex;

use crate::erase::{erase, search};
use crate::log::{Live, Log, State};
use crate::maintain::maintain;
use crate::protocol::{check_readable, check_writable};
use crate::read::scan;
use crate::rewrite::discard;
use crate::schema::StructType;
use crate::snapshot::Snapshot;
use crate::writer::{Target, Writer};

/// One version of a table, and what our own commits made of it.
pub(crate) struct DeltaTable {
    pub log: Log,
    pub snapshot: Snapshot,
    /// The live files, once they were asked for; kept in step from then on.
    pub live: Mutex<Option<Live>>,
    /// When the handle was last known to stand on the newest version.
    pub stood: DateTime<Utc>,
    /// What the last commit did by key.
    pub merged: Option<Merged>,
}

impl DeltaTable {
    /// Opens the table at its newest version; `None` when there is none.
    pub async fn open(log: Log) -> Result<Option<Self>> {
        let stood = Utc::now();
        match log.open().await? {
            Some(state) => Self::at(log, state, stood).map(Some),
            None => Ok(None),
        }
    }

    /// A handle on a version that was the newest at a time.
    pub fn at(log: Log, state: State, stood: DateTime<Utc>) -> Result<Self> {
        let snapshot = Snapshot::new(state).map_err(|e| e.with("table", &log.folder))?;
        Ok(Self { log, snapshot, live: Mutex::new(None), stood, merged: None })
    }

    /// The live files at the handle's version.
    pub async fn live_files(&mut self) -> Result<&mut Live> {
        let live = self.live.get_mut();
        if live.is_none() {
            *live = Some(self.log.files(self.snapshot.version()).await?.live);
        }
        live.as_mut().ok_or_else(|| Error::unexpected("the live files are not loaded"))
    }

    async fn live_sorted(&self) -> Result<Vec<DataFile>> {
        let mut live = self.live.lock().await;
        if live.is_none() {
            *live = Some(self.log.files(self.snapshot.version()).await?.live);
        }
        let columns = self.snapshot.partition_by();
        Ok(live.iter().flat_map(|l| l.values()).map(|add| add.data_file(columns)).collect())
    }
}

/// Makes writers of data files from what a handle knew when it was asked.
pub(crate) struct TableWriters {
    log: Log,
    snapshot: Snapshot,
}

impl TableWriters {
    pub fn of(table: &DeltaTable) -> Self {
        let mut snapshot = table.snapshot.clone();
        snapshot.state.transactions.clear();
        Self { log: table.log.clone(), snapshot }
    }

    /// A writer for rows in `schema`, without asking whether the table may be written to.
    pub fn parquet_writer(&self, schema: &SchemaRef, options: &WriterOptions) -> Result<Writer> {
        let target = Target {
            lake: self.log.lake.clone(),
            folder: self.log.folder.clone(),
            schema: schema.clone(),
            partition_by: self.snapshot.partition_by().to_vec(),
            indexed: self.snapshot.indexed_columns(),
        };
        Writer::new(target, options).map_err(|e| e.with("table", &self.log.folder))
    }
}

impl Writers for TableWriters {
    fn writer(&self, schema: SchemaRef, options: &WriterOptions) -> Result<Box<dyn DataWriter>> {
        let snapshot = &self.snapshot;
        let fault = |e: Error| e.with("table", &self.log.folder);
        check_writable(&snapshot.state.protocol, &snapshot.state.metadata, &snapshot.columns, false).map_err(fault)?;
        // Rows that the commit would not take are found before they are written.
        snapshot.columns.clone().widen(&StructType::of(&schema).map_err(fault)?).map_err(fault)?;
        Ok(Box::new(self.parquet_writer(&schema, options)?))
    }
}

#[async_trait]
impl Table for DeltaTable {
    fn id(&self) -> &str {
        &self.snapshot.state.metadata.id
    }

    fn version(&self) -> u64 {
        self.snapshot.version()
    }

    fn schema(&self) -> SchemaRef {
        self.snapshot.schema.clone()
    }

    async fn number(&self, app: &str) -> Result<Option<i64>> {
        Ok(self.snapshot.state.transactions.get(app).copied())
    }

    async fn reopen(&self) -> Result<Box<dyn Table>> {
        // From the log alone: what this handle knows may be of a table that was dropped and made again.
        let table = Self::open(self.log.clone()).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the table is gone")
                .with("table", &self.log.folder)
                .hint("it was dropped while the run was under way: run again")
        })?;
        Ok(Box::new(table))
    }

    fn writers(&self) -> Arc<dyn Writers> {
        Arc::new(TableWriters::of(self))
    }

    async fn commit(&mut self, commit: Commit) -> Result<u64, CommitError> {
        self.commit_files(commit).await
    }

    fn merged(&self) -> Option<Merged> {
        self.merged
    }

    async fn discard(&self, files: &[DataFile]) -> Result<()> {
        let live: HashSet<String> = self.live_sorted().await?.into_iter().map(|file| file.path).collect();
        let dead: Vec<DataFile> = files.iter().filter(|file| !live.contains(&file.path)).cloned().collect();
        discard(&self.log, &dead).await;
        Ok(())
    }

    async fn files(&self) -> Result<Vec<DataFile>> {
        self.live_sorted().await
    }

    async fn files_at(&self, app: &str, number: i64) -> Result<Option<Vec<DataFile>>> {
        // Newest first: what somebody goes back to is rarely far away, and the log ends where it was cleaned.
        for version in (0..=self.snapshot.version()).rev() {
            let Some(lines) = self.log.commit(version, false).await? else { return Ok(None) };
            if lines.iter().filter_map(|line| line.txn.as_ref()).any(|txn| txn.app_id == app && txn.version == number) {
                let files = self.log.files(version).await?;
                let columns = self.snapshot.partition_by();
                return Ok(Some(files.live.values().map(|add| add.data_file(columns)).collect()));
            }
        }
        Ok(None)
    }

    async fn read(&self, limit: usize) -> Result<Vec<RecordBatch>> {
        let state = &self.snapshot.state;
        check_readable(&state.protocol, &state.metadata).map_err(|e| e.with("table", &self.log.folder))?;
        let mut adds = {
            let mut live = self.live.lock().await;
            if live.is_none() {
                *live = Some(self.log.files(self.snapshot.version()).await?.live);
            }
            live.iter().flat_map(|l| l.values()).cloned().collect::<Vec<_>>()
        };
        adds.sort_by(|a, b| (b.modification_time, &b.path).cmp(&(a.modification_time, &a.path)));
        let mut batches = Vec::new();
        let mut left = limit;
        for add in adds {
            if left == 0 {
                break;
            }
            let mut rows = scan(&self.log, &add, &self.snapshot.schema, self.snapshot.partition_by()).await?;
            while let Some(batch) = rows.try_next().await? {
                let batch = batch.slice(0, batch.num_rows().min(left));
                left -= batch.num_rows();
                batches.push(batch);
                if left == 0 {
                    break;
                }
            }
        }
        Ok(batches)
    }

    async fn values(&self, column: &str, take: &mut (dyn FnMut(ArrayRef) -> Result<()> + Send)) -> Result<()> {
        self.scan(&[column.to_owned()], &mut |batch| take(Arc::clone(batch.column(0)))).await
    }

    async fn scan(&self, columns: &[String], take: &mut (dyn FnMut(RecordBatch) -> Result<()> + Send)) -> Result<()> {
        let state = &self.snapshot.state;
        check_readable(&state.protocol, &state.metadata).map_err(|e| e.with("table", &self.log.folder))?;
        let field = |name: &String| self.snapshot.schema.field_with_name(name).cloned();
        let fields: Vec<_> = columns.iter().map(field).collect::<std::result::Result<_, _>>()?;
        let schema = Arc::new(Schema::new(fields));
        let adds: Vec<_> = {
            let mut live = self.live.lock().await;
            if live.is_none() {
                *live = Some(self.log.files(self.snapshot.version()).await?.live);
            }
            live.iter().flat_map(|l| l.values()).cloned().collect()
        };
        for add in adds {
            let mut rows = scan(&self.log, &add, &schema, self.snapshot.partition_by()).await?;
            while let Some(batch) = rows.try_next().await? {
                take(batch)?;
            }
        }
        Ok(())
    }

    async fn maintain(&mut self, options: &Maintenance) -> Result<Maintained> {
        maintain(&self.log, options).await
    }

    async fn search(&self, rows: &Arc<dyn RowFilter>) -> Result<Traces> {
        search(&self.log, rows).await
    }

    async fn erase(&self, erasure: &Erasure) -> Result<Erased> {
        erase(&self.log, erasure).await
    }
}
