//! Avro object container files.

use std::io::BufReader;

use arrow_avro::reader::{Reader, ReaderBuilder};
use arrow_schema::SchemaRef;

use super::blocks::Blocks;
use super::conform::Conform;
use super::{Sink, Target};
use crate::input::{CHUNK, Input, Limits};
use crate::options::StreamOptions;
use crate::state::Inside;
use crate::store::{Fault, Reading};

/// Rows that are decoded at once: nothing is known about their size before.
const ROWS: usize = 8_192;

/// Decodes a whole file.
pub fn decode(reading: &Reading, target: &Target, sink: &Sink) -> Result<(), Fault> {
    let reader = open(reading, &target.options, target.limits)?;
    let conform = Conform::new(target, &reader.schema());
    let columns = conform.roots();
    for batch in reader {
        let batch = batch.and_then(|batch| batch.project(&columns)).map_err(damaged)?;
        sink.rows(conform.batch(target, &reading.file.path, &batch)?, Inside::default())?;
    }
    Ok(())
}

/// The schema of a file, from its header.
pub fn schema(reading: &Reading, options: &StreamOptions, limits: Limits) -> Result<SchemaRef, Fault> {
    Ok(open(reading, options, limits)?.schema())
}

fn open(
    reading: &Reading,
    options: &StreamOptions,
    limits: Limits,
) -> Result<Reader<BufReader<Blocks<BufReader<Input>>>>, Fault> {
    let input = BufReader::with_capacity(CHUNK, Input::open(reading, options, limits)?);
    // A block holds many records; the ceiling of one record is far too low for it only where it was lowered.
    let blocks = Blocks::open(input, (limits.record as u64).max(64 << 20))?;
    ReaderBuilder::new().with_batch_size(ROWS).build(BufReader::with_capacity(CHUNK, blocks)).map_err(damaged)
}

fn damaged(error: arrow_schema::ArrowError) -> Fault {
    match error {
        arrow_schema::ArrowError::IoError(_, error) => Fault::from(error),
        error => Fault::Damaged(error.to_string()),
    }
}
