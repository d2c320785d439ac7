//! Reads data files of a table as the table's schema has them.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use ingest_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use percent_encoding::percent_decode_str;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::action::Add;
use crate::log::Log;
use crate::types::convert;
use crate::writer::constant;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// Batches that are decoded before they are asked for.
const AHEAD: usize = 2;

/// Bytes of a Parquet file in the lake's store.
#[derive(Clone)]
struct Bytewise {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Bytewise {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader =
                ParquetMetaDataReader::new().with_arrow_reader_options(options).with_prefetch_hint(Some(64 << 10));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// Where a data file lies, from its spelling in the log.
pub(crate) fn object_path(log: &Log, path: &str) -> Result<Path> {
    if path.contains("://") || path.starts_with('/') {
        return Err(Error::new(ErrorKind::Unsupported, "a data file lies outside its table")
            .with("table", &log.folder)
            .hint("the table is a shallow clone: load into a table of its own"));
    }
    let fault = || Error::new(ErrorKind::DataInvalid, "the log names a data file by a path that cannot be used");
    let decoded = percent_decode_str(path).decode_utf8().map_err(|e| fault().caused_by(e))?;
    let folder = &log.folder;
    let whole = if folder.as_ref().is_empty() { decoded.into_owned() } else { format!("{folder}/{decoded}") };
    Path::parse(whole).map_err(|e| fault().with("table", folder).caused_by(e))
}

/// The rows of a data file, in `schema` with all of its columns, row group by row group. Other columns are not read.
///
/// At most one row group is held, as it is stored, and a few batches.
pub(crate) async fn scan(
    log: &Log,
    file: &Add,
    schema: &SchemaRef,
    partition_by: &[String],
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    Opened::of(log, file).await?.rows(schema, partition_by, Part::All, Ok)
}

/// Which rows of a data file are read.
pub(crate) enum Part {
    All,
    /// From a row on, so many or all that follow.
    From(u32, Option<u32>),
    Rows(RowSelection),
}

/// The selection of some rows of a data file, by their numbers in rising order.
pub(crate) fn selected(rows: impl Iterator<Item = u32>) -> RowSelection {
    let mut next = 0_u32;
    let mut selectors = Vec::new();
    for row in rows {
        if row > next {
            selectors.push(RowSelector::skip((row - next) as usize));
        }
        selectors.push(RowSelector::select(1));
        next = row.saturating_add(1);
    }
    RowSelection::from(selectors)
}

/// A data file whose footer is read.
#[derive(Clone)]
pub(crate) struct Opened {
    bytes: Bytewise,
    footer: ArrowReaderMetadata,
    file: Add,
    table: Path,
}

impl Opened {
    pub async fn of(log: &Log, file: &Add) -> Result<Self> {
        if file.deletion_vector.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "cannot read a data file with a deletion vector")
                .with("table", &log.folder)
                .hint("purge the table's deletion vectors with the tool that made them"));
        }
        let path = object_path(log, &file.path)?;
        let table = log.folder.clone();
        let mut bytes = Bytewise { store: log.lake.store.clone(), path, size: file.size };
        let footer = ArrowReaderMetadata::load_async(&mut bytes, ArrowReaderOptions::new())
            .await
            .map_err(|e| fault(&table, e))?;
        Ok(Self { bytes, footer, file: file.clone(), table })
    }

    /// What `take` makes of the rows of a part, batch by batch; see [`scan`]. It works on the thread that decodes.
    pub fn rows<T: Send + 'static>(
        &self,
        schema: &SchemaRef,
        partition_by: &[String],
        part: Part,
        mut take: impl FnMut(RecordBatch) -> Result<T> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<T>>> {
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.bytes.clone(), self.footer.clone());
        let roots = builder.parquet_schema().root_schema().get_fields();
        let wanted: Vec<usize> =
            (0..roots.len()).filter(|i| schema.fields().iter().any(|f| f.name() == roots[*i].name())).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        let builder = match part {
            Part::All | Part::From(0, None) => builder,
            Part::From(first, rows) => {
                let all = usize::try_from(self.footer.metadata().file_metadata().num_rows()).unwrap_or_default();
                let rest = all.saturating_sub(first as usize);
                let rows = rows.map_or(rest, |rows| rest.min(rows as usize));
                let skipped = RowSelector::skip(all - rest);
                builder.with_row_selection(RowSelection::from(vec![skipped, RowSelector::select(rows)]))
            }
            Part::Rows(selection) => builder.with_row_selection(selection),
        };
        let table = self.table.clone();
        let rows = builder.build().map_err(|e| fault(&table, e))?;
        let file = &self.file;
        let constants: Vec<Option<Option<String>>> = schema
            .fields()
            .iter()
            .map(|f| partition_by.contains(f.name()).then(|| file.partition_values.get(f.name()).cloned().flatten()))
            .collect();
        let schema = schema.clone();
        let made = rows.map(move |batch| {
            let batch = batch.map_err(|e| fault(&table, e))?;
            take(assemble(&batch, &schema, &constants)?)
        });
        Ok(ahead(made.boxed()))
    }
}

fn fault(table: &Path, error: ParquetError) -> Error {
    let kind = match &error {
        ParquetError::External(cause) if cause.downcast_ref::<object_store::Error>().is_some() => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::DataInvalid,
    };
    Error::new(kind, "cannot read a data file of the table").with("table", table).caused_by(error)
}

/// Decodes on a thread of its own while the caller works on the batches before; ends with the stream.
fn ahead<T: Send + 'static>(mut rows: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    let (batches, receiver) = mpsc::channel(AHEAD);
    let mut decoder = JoinSet::new();
    let runtime = Handle::current();
    // A task would take turns with its reader on one thread: whom a task wakes runs where the task ran.
    decoder.spawn_blocking(move || {
        runtime.block_on(async move {
            while let Some(batch) = rows.next().await {
                // Nobody wants the rest.
                if batches.send(batch).await.is_err() {
                    break;
                }
            }
        });
    });
    futures::stream::unfold((receiver, decoder), |(mut receiver, mut decoder)| async move {
        if let Some(batch) = receiver.recv().await {
            return Some((batch, (receiver, decoder)));
        }
        let Err(broken) = decoder.join_next().await? else { return None };
        let error = Error::unexpected("reading a data file was broken off").caused_by(broken);
        Some((Err(error), (receiver, decoder)))
    })
    .boxed()
}

/// The table's columns from those of the file: by name, missing ones null, partition columns from the log.
fn assemble(batch: &RecordBatch, schema: &SchemaRef, constants: &[Option<Option<String>>]) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let columns = schema
        .fields()
        .iter()
        .zip(constants)
        .map(|(field, partition)| match (partition, batch.column_by_name(field.name())) {
            (Some(value), _) => constant(value.as_deref(), field.data_type(), rows, field.name()),
            (None, Some(array)) => convert(array, field.data_type(), field.name()),
            (None, None) => Ok(arrow_array::new_null_array(field.data_type(), rows)),
        })
        .collect::<Result<Vec<_>>>()?;
    // Another writer's file may hold nulls or not, whatever the table says.
    let nullable =
        Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>());
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::new(nullable), columns, &options)?)
}
