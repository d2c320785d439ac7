//! Parquet files.

use arrow_schema::SchemaRef;
use ingest_core::Error;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::conform::Conform;
use super::{BATCH_ROWS, Sink, Target};
use crate::state::Inside;
use crate::store::{Fault, Reading};

/// Decodes a whole file.
pub fn decode(reading: &Reading, target: &Target, sink: &Sink) -> Result<(), Fault> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(reading.whole()?).map_err(damaged)?;
    let schema = builder.schema().clone();
    let conform = Conform::new(target, &schema);
    let groups = builder.metadata().row_groups();
    let rows: i64 = groups.iter().map(|group| group.num_rows()).sum();
    let bytes: i64 = groups.iter().map(|group| group.total_byte_size()).sum();
    let row_bytes = usize::try_from(bytes.max(0) / rows.max(1)).unwrap_or(usize::MAX).max(1);
    let batch = (sink.batch_bytes() / row_bytes).clamp(1, BATCH_ROWS);
    let mask = ProjectionMask::roots(builder.parquet_schema(), conform.roots());
    let reader = builder.with_projection(mask).with_batch_size(batch).build().map_err(damaged)?;
    for batch in reader {
        let batch = batch.map_err(damaged)?;
        sink.rows(conform.batch(target, &reading.file.path, &batch)?, Inside::default())?;
    }
    Ok(())
}

/// The schema of a file, from its footer.
pub fn schema(reading: &Reading) -> Result<SchemaRef, Fault> {
    Ok(ParquetRecordBatchReaderBuilder::try_new(reading.whole()?).map_err(damaged)?.schema().clone())
}

fn damaged(error: impl std::error::Error) -> Fault {
    let mut text = error.to_string();
    if let Some(cause) = error.source() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    Fault::Damaged(text)
}

impl From<arrow_schema::ArrowError> for Fault {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::Failed(Error::from(error))
    }
}
