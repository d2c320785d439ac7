//! What a table holds of the rows of its source, as they are now.

use std::collections::{HashMap, HashSet};

use arrow::row::{RowConverter, SortField};
use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_buffer::BooleanBuffer;
use arrow_schema::Schema;
use ingest_core::columns::{CURRENT, DELETED_AT, INGESTED_AT, OP, SEQ};
use ingest_core::lake::Table;
use ingest_core::{Error, ErrorKind, Result, WriteMode};

use super::sums::{Adder, Sums};

/// What the rows of a batch add up to, of those that count.
pub type Add<'a> = dyn FnMut(&RecordBatch, Option<&BooleanArray>) -> Result<Sums> + Send + 'a;

/// Adds up the rows of a table that stand for what the source has now.
///
/// | table | rows |
/// | --- | --- |
/// | `replace`, or added to without a key | all |
/// | `merge` | all that are not marked as deleted |
/// | `scd2` | the current versions |
/// | added to, with a key | the newest row of each key, unless it says that the key was deleted |
///
/// `add` says what the rows of a batch add up to, and which of them count.
///
/// # Errors
/// `LimitExceeded` where the newest rows of more keys are to be found than fit into memory.
pub async fn sums(
    table: &dyn Table,
    write: WriteMode,
    columns: &[String],
    key: &[String],
    cursor: Option<&str>,
    memory: u64,
    add: &mut Add<'_>,
) -> Result<Sums> {
    let schema = table.schema();
    let mut sums = Sums::default();
    let marks: &[&str] = match write {
        WriteMode::Scd2 => &[CURRENT],
        WriteMode::Merge => &[DELETED_AT],
        _ => &[],
    };
    let marks: Vec<String> = existing(&schema, marks);
    let mut names = unique(columns.iter().chain(key).chain(&marks));
    if names.is_empty() {
        // A table without a column to compare still has rows.
        names.extend(schema.fields().first().map(|field| field.name().clone()));
    }
    let winners = match write {
        WriteMode::Append if !key.is_empty() => Some(newest(table, &schema, key, cursor, memory).await?),
        _ => None,
    };
    let mut place = 0_u64;
    table
        .scan(&names, &mut |batch| {
            let counts = match &winners {
                Some(winners) => Some(among(winners, place, batch.num_rows())),
                None => there(&batch, write),
            };
            place += batch.num_rows() as u64;
            sums.add(&add(&batch, counts.as_ref())?);
            Ok(())
        })
        .await?;
    Ok(sums)
}

fn existing(schema: &Schema, names: &[&str]) -> Vec<String> {
    names.iter().filter(|name| schema.column_with_name(name).is_some()).map(|name| (*name).to_owned()).collect()
}

fn unique<'n>(names: impl Iterator<Item = &'n String>) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        if !unique.contains(name) {
            unique.push(name.clone());
        }
    }
    unique
}

/// The rows that hold now; `None` = all of them.
fn there(batch: &RecordBatch, write: WriteMode) -> Option<BooleanArray> {
    match write {
        WriteMode::Scd2 => {
            let current = batch.column_by_name(CURRENT)?.as_boolean_opt()?;
            Some(BooleanArray::new(current.iter().map(|now| now.unwrap_or(false)).collect::<BooleanBuffer>(), None))
        }
        WriteMode::Merge => {
            let deleted = batch.column_by_name(DELETED_AT)?;
            Some(arrow::compute::is_null(deleted).ok()?)
        }
        _ => None,
    }
}

fn among(winners: &HashSet<u64>, first: u64, rows: usize) -> BooleanArray {
    let is_winner = |row: usize| winners.contains(&(first + row as u64));
    BooleanArray::new(BooleanBuffer::collect_bool(rows, is_winner), None)
}

/// The newest row that is known of a key.
struct Newest {
    order: Box<[u8]>,
    place: u64,
    deleted: bool,
}

/// The places of the newest row of each key, in the order of a scan.
async fn newest(
    table: &dyn Table,
    schema: &Schema,
    key: &[String],
    cursor: Option<&str>,
    memory: u64,
) -> Result<HashSet<u64>> {
    let mut order = existing(schema, &[SEQ]);
    if order.is_empty() {
        order.extend(existing(schema, cursor.as_slice()));
    }
    order.extend(existing(schema, &[INGESTED_AT]));
    let op = existing(schema, &[OP]);
    let names = unique(key.iter().chain(&order).chain(&op));
    let mut adder = Adder::new(&[], key);
    let mut converter: Option<RowConverter> = None;
    let mut known: HashMap<u128, Newest> = HashMap::new();
    let (mut place, mut bytes) = (0_u64, 0_u64);
    table
        .scan(&names, &mut |batch| {
            let ids = adder.key_ids(&batch)?.unwrap_or_default();
            let arrays: Vec<_> = order.iter().filter_map(|name| batch.column_by_name(name).cloned()).collect();
            if converter.is_none() {
                let fields = arrays.iter().map(|array| SortField::new(array.data_type().clone()));
                converter = Some(RowConverter::new(fields.collect())?);
            }
            let rows = match &converter {
                Some(converter) if !arrays.is_empty() => Some(converter.convert_columns(&arrays)?),
                _ => None,
            };
            let ops = batch.column_by_name(OP).and_then(|array| array.as_string_opt::<i32>().cloned());
            for (row, id) in ids.into_iter().enumerate() {
                let order: &[u8] = rows.as_ref().map_or(&[], |rows| rows.row(row).data());
                let deleted = ops.as_ref().is_some_and(|ops| ops.is_valid(row) && ops.value(row) == "D");
                let newer = known.get(&id).is_none_or(|before| order >= before.order.as_ref());
                if newer {
                    let now = Newest { order: order.into(), place: place + row as u64, deleted };
                    bytes += 80 + order.len() as u64;
                    if let Some(before) = known.insert(id, now) {
                        bytes = bytes.saturating_sub(80 + before.order.len() as u64);
                    }
                }
            }
            place += batch.num_rows() as u64;
            if bytes > memory / 2 {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    "the table has too many keys to find their newest rows",
                )
                .with("keys", known.len())
                .hint("raise `memory`, or keep the table with `write: merge`"));
            }
            Ok(())
        })
        .await?;
    Ok(known.into_values().filter(|newest| !newest.deleted).map(|newest| newest.place).collect())
}
