//! Writes data files: Parquet, encoded on the caller's thread while the bytes are on their way.

mod dictionary;
mod partition;
mod sink;
mod stats;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use chrono::Utc;
use ingest_core::durable::sync_folder;
use ingest_core::lake::{Compression, DataFile, DataWriter, WriterOptions};
use ingest_core::{Error, Result};
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use uuid::Uuid;

pub(crate) use partition::{check_columns, constant};
pub(crate) use stats::INDEXED_COLUMNS;

use crate::store::Lake;
use crate::types::fit;
use partition::Partition;
use sink::{Closing, Sink};
use stats::NanColumns;

/// Rows of a row group, at most.
const GROUP_ROWS: usize = 1 << 20;
/// Files of different partitions that are open at once; one more closes the largest.
const OPEN_FILES: usize = 16;

/// What a writer writes, and where.
pub(crate) struct Target {
    pub lake: Arc<Lake>,
    pub folder: Path,
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    /// Columns that get statistics.
    pub indexed: usize,
}

/// A writer of data files.
pub(crate) struct Writer {
    target: Target,
    options: WriterOptions,
    /// The schema without partition columns, and where its columns stand in a batch.
    file_schema: SchemaRef,
    file_columns: Vec<usize>,
    properties: WriterProperties,
    open: HashMap<Partition, OpenFile>,
    closing: Vec<(Closing, DataFile)>,
    closed_bytes: u64,
}

struct OpenFile {
    parquet: ArrowWriter<Sink>,
    /// As the log spells it.
    path: String,
    nan: NanColumns,
}

impl OpenFile {
    fn bytes(&self) -> u64 {
        (self.parquet.bytes_written() + self.parquet.in_progress_size()) as u64
    }

    fn memory(&self) -> u64 {
        self.parquet.memory_size() as u64 + self.parquet.inner().memory()
    }
}

impl Writer {
    pub fn new(target: Target, options: &WriterOptions) -> Result<Self> {
        check_columns(&target.schema, &target.partition_by)?;
        let file_columns: Vec<usize> = target
            .schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, f)| !target.partition_by.contains(f.name()))
            .map(|(i, _)| i)
            .collect();
        let file_schema = Arc::new(Schema::new(target.schema.project(&file_columns)?.fields));
        Ok(Self {
            target,
            options: options.clone(),
            file_schema,
            file_columns,
            properties: properties(options.compression)?,
            open: HashMap::new(),
            closing: Vec::new(),
            closed_bytes: 0,
        })
    }

    fn write_part(&mut self, partition: Partition, batch: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(&partition) {
            if self.open.len() >= OPEN_FILES {
                self.close_where(|files| largest(files, OpenFile::bytes))?;
            }
            let file = self.open_file(&partition, batch)?;
            self.open.insert(partition.clone(), file);
        }
        let file = self.open.get_mut(&partition).ok_or_else(|| Error::unexpected("a data file is not open"))?;
        file.nan.observe(batch);
        if let Err(error) = file.parquet.write(batch) {
            return Err(self.broken(&partition, error));
        }
        if file.bytes() >= self.options.target_file_bytes {
            self.close(&partition)?;
        }
        Ok(())
    }

    /// Opens a file for a batch, and those that come after it.
    fn open_file(&self, partition: &Partition, first: &RecordBatch) -> Result<OpenFile> {
        let name = format!("{}{}.parquet", partition::folder(&self.target.partition_by, partition), Uuid::now_v7());
        let path = Path::parse(format!("{}/{name}", self.target.folder))
            .map_err(|e| Error::unexpected("a data file's name cannot be used").caused_by(e))?;
        let properties = dictionary::choose(self.properties.clone().into_builder(), first)?.build();
        let sink = Sink::open(&self.target.lake, &path, &self.options.runtime)?;
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let parquet = ArrowWriter::try_new_with_options(sink, self.file_schema.clone(), options)
            .map_err(|e| Error::unexpected("cannot begin a Parquet file").caused_by(e))?;
        // The log holds URLs: what stands for itself in the name is spelled once more.
        Ok(OpenFile { parquet, path: name.replace('%', "%25"), nan: NanColumns::default() })
    }

    /// Frees memory by writing out row groups, largest first.
    fn relieve(&mut self) -> Result<()> {
        while self.open.values().map(|f| f.parquet.memory_size() as u64).sum::<u64>() > self.options.memory_bytes {
            let Some(partition) = largest(&self.open, |f| f.parquet.memory_size() as u64) else { return Ok(()) };
            let Some(file) = self.open.get_mut(&partition) else { return Ok(()) };
            if file.parquet.in_progress_rows() == 0 {
                return Ok(());
            }
            if let Err(error) = file.parquet.flush() {
                return Err(self.broken(&partition, error));
            }
        }
        Ok(())
    }

    fn close_where(&mut self, choose: impl Fn(&HashMap<Partition, OpenFile>) -> Option<Partition>) -> Result<()> {
        match choose(&self.open) {
            Some(partition) => self.close(&partition),
            None => Ok(()),
        }
    }

    fn close(&mut self, partition: &Partition) -> Result<()> {
        let Some(mut file) = self.open.remove(partition) else { return Ok(()) };
        let footer = match file.parquet.finish() {
            Ok(footer) => footer,
            Err(error) => {
                self.open.insert(partition.clone(), file);
                return Err(self.broken(partition, error));
            }
        };
        let bytes = file.parquet.bytes_written() as u64;
        let stats = stats::statistics(&self.file_schema, &footer, &file.nan, self.target.indexed);
        let closing = file.parquet.inner_mut().take().close(&self.options.runtime)?;
        self.closed_bytes += bytes;
        let columns = self.target.partition_by.iter().cloned();
        let data_file = DataFile {
            path: file.path,
            bytes,
            rows: footer.file_metadata().num_rows().cast_unsigned(),
            partition: columns.zip(partition.iter().cloned()).collect(),
            stats: Some(stats),
            modified: Utc::now().timestamp_millis(),
        };
        self.closing.push((closing, data_file));
        Ok(())
    }

    /// The error behind a failed write: that of the upload, where there is one.
    fn broken(&mut self, partition: &Partition, error: parquet::errors::ParquetError) -> Error {
        match self.open.remove(partition) {
            Some(mut file) => file.parquet.inner_mut().take().into_error(&self.options.runtime, error),
            None => Error::unexpected("cannot encode a data file").caused_by(error),
        }
    }
}

impl DataWriter for Writer {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let fitted;
        let batch = if batch.schema_ref().fields() == self.target.schema.fields() {
            batch
        } else {
            fitted = fit(batch, &self.target.schema)?;
            &fitted
        };
        if self.target.partition_by.is_empty() {
            self.write_part(Vec::new(), batch)?;
        } else {
            for (partition, part) in partition::split(batch, &self.target.partition_by)? {
                self.write_part(partition, &part.project(&self.file_columns)?)?;
            }
        }
        self.relieve()
    }

    fn bytes(&self) -> u64 {
        self.closed_bytes + self.open.values().map(OpenFile::bytes).sum::<u64>()
    }

    fn memory(&self) -> u64 {
        self.open.values().map(OpenFile::memory).sum()
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<DataFile>> {
        let result = self.finish_all();
        if result.is_err() {
            self.abort();
        }
        result
    }

    fn abort(mut self: Box<Self>) {
        for (_, mut file) in self.open.drain() {
            file.parquet.inner_mut().take().abort(&self.options.runtime);
        }
        for (closing, _) in self.closing.drain(..) {
            closing.abort(&self.options.runtime);
        }
    }
}

impl Writer {
    fn finish_all(&mut self) -> Result<Vec<DataFile>> {
        // In a stable order, so that the same rows give the same list.
        let mut partitions: Vec<Partition> = self.open.keys().cloned().collect();
        partitions.sort();
        for partition in partitions {
            self.close(&partition)?;
        }
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        let mut files = Vec::with_capacity(self.closing.len());
        // From the end, so that an error leaves the others to be given up.
        while let Some((closing, file)) = self.closing.pop() {
            folders.extend(closing.wait(&self.options.runtime)?);
            files.push(file);
        }
        files.reverse();
        for folder in folders {
            sync_folder(&folder)
                .map_err(|e| Error::new(crate::store::io_kind(&e), "cannot make a data file durable").caused_by(e))?;
        }
        Ok(files)
    }
}

fn largest(files: &HashMap<Partition, OpenFile>, size: impl Fn(&OpenFile) -> u64) -> Option<Partition> {
    files.iter().max_by_key(|(_, f)| size(f)).map(|(p, _)| p.clone())
}

fn properties(compression: Compression) -> Result<WriterProperties> {
    let codec = match compression {
        Compression::Zstd => {
            Codec::ZSTD(ZstdLevel::try_new(1).map_err(|e| Error::unexpected("zstd has no level 1").caused_by(e))?)
        }
        Compression::Snappy => Codec::SNAPPY,
    };
    Ok(WriterProperties::builder()
        .set_compression(codec)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(concat!("ingest ", env!("CARGO_PKG_VERSION")).to_string())
        .build())
}
