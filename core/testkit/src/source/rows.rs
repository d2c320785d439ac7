//! The rows of the model: every value follows from stream, id and version.

use std::sync::Arc;

use arrow_array::builder::{Decimal128Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::{Seq, StreamName, columns};

/// The key.
pub const ID: &str = "id";
/// The cursor: a number that grows with each transaction; several rows share one.
pub const CHANGED: &str = "changed";
/// Microseconds of the first transaction, 2026-01-01; each later one comes a second after its predecessor.
pub const EPOCH: i64 = 1_767_225_600_000_000;

/// One version of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub id: i64,
    /// The transaction that wrote this version.
    pub changed: u64,
    /// How many versions came before.
    pub version: u32,
}

/// The name of the n-th stream.
pub fn stream_name(stream: u32) -> StreamName {
    format!("shop.stream_{stream}").into()
}

/// The number of a stream, by its name.
pub fn stream_number(name: &StreamName) -> Option<u32> {
    name.as_str().strip_prefix("shop.stream_")?.parse().ok()
}

/// The schema of every stream.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(ID, DataType::Int64, false),
        Field::new(CHANGED, DataType::Int64, false),
        Field::new("version", DataType::Int32, false),
        Field::new("amount", DataType::Decimal128(18, 2), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("payload", DataType::Utf8, false),
    ]))
}

/// A number that follows from stream, id and version and looks like chance (SplitMix64).
pub fn digest(stream: u32, id: i64, version: u32) -> u64 {
    let mut z = (u64::from(stream) << 32 | u64::from(version))
        .wrapping_mul(0xff51_afd7_ed55_8ccd)
        .wrapping_add(id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The text of a row: `bytes` characters that follow from its digest.
fn payload(mut digest: u64, bytes: usize, text: &mut String) {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    text.clear();
    while text.len() < bytes {
        digest = digest.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut chunk = digest >> 16;
        for _ in 0..8.min(bytes - text.len()) {
            text.push(LETTERS[(chunk & 63) as usize].into());
            chunk >>= 6;
        }
    }
}

/// The rows as a batch; `payload_bytes` is the length of their text.
///
/// # Errors
/// Never for the values that this module makes.
pub fn batch(stream: u32, rows: &[Row], payload_bytes: usize) -> Result<RecordBatch, ArrowError> {
    let n = rows.len();
    let (mut id, mut changed) = (Int64Builder::with_capacity(n), Int64Builder::with_capacity(n));
    let mut version = Int32Builder::with_capacity(n);
    let mut amount = Decimal128Builder::with_capacity(n).with_data_type(DataType::Decimal128(18, 2));
    let mut at = TimestampMicrosecondBuilder::with_capacity(n).with_timezone("UTC");
    let mut payloads = StringBuilder::with_capacity(n, n * payload_bytes);
    let mut text = String::with_capacity(payload_bytes);
    for row in rows {
        let digest = digest(stream, row.id, row.version);
        id.append_value(row.id);
        changed.append_value(row.changed.cast_signed());
        version.append_value(row.version.cast_signed());
        // One row in eight has no amount: nulls must survive too.
        amount.append_option((!digest.is_multiple_of(8)).then(|| i128::from(digest >> 20)));
        at.append_option((digest % 16 != 1).then(|| EPOCH + row.changed.cast_signed() * 1_000_000));
        payload(digest, payload_bytes, &mut text);
        payloads.append_value(&text);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(id.finish()),
        Arc::new(changed.finish()),
        Arc::new(version.finish()),
        Arc::new(amount.finish()),
        Arc::new(at.finish()),
        Arc::new(payloads.finish()),
    ];
    RecordBatch::try_new(schema(), columns)
}

/// Adds operation and order of change events to a batch.
///
/// # Errors
/// When there are not as many as rows.
pub fn with_events(batch: &RecordBatch, events: &[(&str, Seq)]) -> Result<RecordBatch, ArrowError> {
    let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
    fields.extend([Arc::new(columns::field(columns::OP)), Arc::new(columns::field(columns::SEQ))]);
    let mut arrays = batch.columns().to_vec();
    let (mut op, mut seq) = (StringBuilder::new(), StringBuilder::new());
    for (name, order) in events {
        op.append_value(name);
        seq.append_value(order.as_str());
    }
    arrays.extend([Arc::new(op.finish()) as ArrayRef, Arc::new(seq.finish())]);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_streams_never_look_alike() {
        let mut seen = std::collections::HashSet::new();
        for stream in 0..4 {
            for id in 0..1_000 {
                for version in 0..4 {
                    assert!(seen.insert(digest(stream, id, version)));
                }
            }
        }
    }

    #[test]
    fn a_payload_has_its_length() {
        let rows = [Row { id: 1, changed: 1, version: 0 }];
        for bytes in [0, 1, 31, 1_000] {
            let batch = batch(0, &rows, bytes).unwrap();
            let text = arrow_array::cast::AsArray::as_string::<i32>(batch.column(5)).value(0).to_owned();
            assert_eq!(text.len(), bytes);
        }
    }
}
