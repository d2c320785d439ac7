//! Arrow on the pipe: batches and schemas as IPC streams, without compression.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamEncoder;
use arrow_schema::{Schema, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::frame::{Arrow, MAX_BODY};
use crate::{Error, ErrorKind, Result};

/// The most rows of a batch on the pipe: columns without bytes, of nulls for example, would know no other limit.
pub const MAX_ROWS: usize = 1 << 22;

/// Encodes a batch; in several streams where one would be larger than a frame.
///
/// # Errors
/// [`ErrorKind::LimitExceeded`] when a single row is larger than a frame.
pub fn encode(batch: &RecordBatch) -> Result<Vec<Arrow>> {
    let mut encoded = Vec::with_capacity(1);
    let mut left = vec![batch.clone()];
    while let Some(part) = left.pop() {
        let rows = part.num_rows();
        if rows <= MAX_ROWS {
            let stream = stream(&part)?;
            if stream.length() <= MAX_BODY {
                encoded.push(stream);
                continue;
            }
        }
        if rows < 2 {
            return Err(Error::new(ErrorKind::LimitExceeded, "a row is larger than 64 MiB")
                .hint("leave its largest column out with `columns`"));
        }
        // The first half is taken off the stack first.
        left.push(part.slice(rows / 2, rows - rows / 2));
        left.push(part.slice(0, rows / 2));
    }
    Ok(encoded)
}

fn stream(batch: &RecordBatch) -> Result<Arrow> {
    let mut encoder = StreamEncoder::try_new(batch.schema_ref())?;
    let mut pieces = encoder.encode(batch)?;
    pieces.extend(encoder.finish()?);
    Ok(Arrow::new(pieces))
}

/// Encodes a schema as a stream without batches.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for types that Arrow IPC does not know.
pub fn encode_schema(schema: &Schema) -> Result<Arrow> {
    Ok(Arrow::new(StreamEncoder::try_new(schema)?.finish()?))
}

/// A schema inside JSON: the stream of [`encode_schema`] in base64.
///
/// # Errors
/// As [`encode_schema`].
pub fn schema_text(schema: &Schema) -> Result<String> {
    let mut bytes = Vec::new();
    for piece in StreamEncoder::try_new(schema)?.finish()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(STANDARD.encode(bytes))
}

/// Reads what [`schema_text`] wrote; a bare schema message, as other libraries write one, will do.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] when it is none.
pub fn read_schema_text(text: &str) -> Result<SchemaRef> {
    let bytes = STANDARD.decode(text).map_err(|e| {
        Error::new(ErrorKind::DataInvalid, "a schema is an Arrow IPC stream in base64, and this is no base64")
            .caused_by(e)
    })?;
    let (schema, _) = decode(bytes)?;
    Ok(schema)
}

/// Reads a stream of a schema and at most one batch, without copying its columns.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] and [`ErrorKind::LimitExceeded`] name the rule that it breaks.
pub fn decode(bytes: Vec<u8>) -> Result<(SchemaRef, Option<RecordBatch>)> {
    // The decoder checks what it reads, but nobody has proved that of every combination of foreign bytes.
    catch_unwind(AssertUnwindSafe(|| read_stream(bytes)))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::DataInvalid, "an Arrow IPC stream cannot be read")))
}

fn read_stream(bytes: Vec<u8>) -> Result<(SchemaRef, Option<RecordBatch>)> {
    let invalid = |e| Error::new(ErrorKind::DataInvalid, "an Arrow IPC stream cannot be read").caused_by(e);
    let mut decoder = StreamDecoder::new();
    let mut rest = Buffer::from_vec(bytes);
    let batch = decoder.decode(&mut rest).map_err(invalid)?;
    if batch.is_some() && decoder.decode(&mut rest).map_err(invalid)?.is_some() {
        return Err(Error::new(ErrorKind::DataInvalid, "an Arrow frame holds one batch, and a second one came"));
    }
    decoder.finish().map_err(invalid)?;
    let schema = decoder
        .schema()
        .ok_or_else(|| Error::new(ErrorKind::DataInvalid, "an Arrow frame begins with a schema, and none came"))?;
    if let Some(rows) = batch.as_ref().map(RecordBatch::num_rows).filter(|rows| *rows > MAX_ROWS) {
        return Err(Error::new(ErrorKind::LimitExceeded, "a batch has at most 4,194,304 rows").with("rows", rows));
    }
    Ok((schema, batch))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::StringBuilder;
    use arrow_array::{Array, ArrayRef, Int64Array, ListArray, NullArray, StringArray, types::Int32Type};
    use arrow_schema::{DataType, Field};

    use super::*;

    fn bytes(arrow: &Arrow) -> Vec<u8> {
        arrow.pieces().iter().flat_map(|piece| piece.to_vec()).collect()
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
            .expect("a batch")
    }

    #[test]
    fn a_batch_reads_back_and_counts_its_memory_once() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("Zoë"), None, Some("")]));
        let batch = batch(vec![("t", text), ("l", Arc::new(list)), ("n", Arc::new(NullArray::new(3)))]);
        let sliced = batch.slice(1, 2);
        for batch in [batch, sliced] {
            let encoded = encode(&batch).expect("encodes");
            let length = encoded[0].length();
            let (schema, read) = decode(bytes(&encoded[0])).expect("decodes");
            let read = read.expect("a batch");
            assert_eq!((&schema, &read), (batch.schema_ref(), &batch));
            assert!(crate::memory_of(&read) <= 2 * length, "{} of {length}", crate::memory_of(&read));
        }
    }

    #[test]
    fn a_batch_above_the_limits_is_split_in_order() {
        let mut texts = StringBuilder::new();
        let long = "x".repeat(40 << 20);
        for _ in 0..3 {
            texts.append_value(&long);
        }
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let parts = encode(&batch(vec![("id", ids), ("text", Arc::new(texts.finish()))])).expect("encodes");
        assert_eq!(parts.len(), 3);
        let first = decode(bytes(&parts[0])).expect("decodes").1.expect("a batch");
        assert_eq!(first.column(0).as_ref(), &Int64Array::from(vec![1]) as &dyn Array);
        let many = encode(&batch(vec![("n", Arc::new(NullArray::new(MAX_ROWS + 1)))])).expect("encodes");
        assert_eq!(many.len(), 2);
    }

    #[test]
    fn a_row_above_the_limit_is_refused() {
        let huge: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(MAX_BODY)]));
        assert_eq!(encode(&batch(vec![("t", huge)])).expect_err("too large").kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn schemas_read_back_from_json() {
        let field = Field::new("email", DataType::Utf8, true);
        let schema = Schema::new(vec![field.with_metadata([("ingest.class".into(), "pii".into())].into())]);
        assert_eq!(*read_schema_text(&schema_text(&schema).expect("text")).expect("read"), schema);
        assert!(read_schema_text("no base64!").is_err());
        assert!(read_schema_text("").is_err());
    }

    /// Whatever comes, it is an error or a batch; nothing ends the process or takes memory without limit.
    #[test]
    fn damaged_streams_are_errors() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")]));
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        let good = bytes(&encode(&batch(vec![("t", text), ("l", Arc::new(list))])).expect("encodes")[0]);
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..4_000 {
            let mut bad = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % bad.len();
                bad[at] = (seed >> 24) as u8;
            }
            if let Ok((_, Some(batch))) = decode(bad) {
                assert!(batch.num_rows() <= MAX_ROWS);
            }
        }
        for end in 0..good.len() - 8 {
            drop(decode(good[..end].to_vec()));
        }
    }
}
