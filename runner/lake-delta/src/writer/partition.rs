//! Partition values: how the log spells them, which rows belong together, and the folder their files lie in.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow_cast::cast;
use arrow_schema::{DataType, Schema};
use arrow_select::take::take_record_batch;
use ingest_core::{Error, ErrorKind, Result};

/// What Hive and its heirs call the folder of a null.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
/// File systems end names at 255 bytes; the folder is for people, the value stands in the log.
const FOLDER_BYTES: usize = 200;

/// The values of the partition columns, in the table's order.
pub(crate) type Partition = Vec<Option<String>>;

/// Checks that a table can be partitioned by these columns.
pub(crate) fn check_columns(schema: &Schema, columns: &[String]) -> Result<()> {
    for name in columns {
        let Ok(field) = schema.field_with_name(name) else {
            return Err(Error::config("the table has no such partition column").with("column", name));
        };
        if matches!(field.data_type(), DataType::Binary | DataType::Struct(_) | DataType::List(_) | DataType::Map(..)) {
            return Err(Error::config("a table cannot be partitioned by a column of this type")
                .with("column", name)
                .with("type", field.data_type()));
        }
    }
    if !columns.is_empty() && schema.fields().iter().all(|f| columns.contains(f.name())) {
        return Err(Error::config("a table cannot be partitioned by all of its columns"));
    }
    Ok(())
}

/// Cuts a batch into its partitions, in order of first appearance.
pub(crate) fn split(batch: &RecordBatch, columns: &[String]) -> Result<Vec<(Partition, RecordBatch)>> {
    let texts = columns.iter().map(|name| spelled(batch, name)).collect::<Result<Vec<_>>>()?;
    let mut numbers: HashMap<Vec<Option<&str>>, usize> = HashMap::new();
    let mut groups: Vec<(Vec<Option<&str>>, Vec<u32>)> = Vec::new();
    let mut key = Vec::with_capacity(columns.len());
    for row in 0..batch.num_rows() {
        key.clear();
        key.extend(texts.iter().map(|t| t.is_valid(row).then(|| t.value(row))));
        let number = match numbers.get(&key) {
            Some(number) => *number,
            None => {
                numbers.insert(key.clone(), groups.len());
                groups.push((key.clone(), Vec::new()));
                groups.len() - 1
            }
        };
        let row =
            u32::try_from(row).map_err(|_| Error::new(ErrorKind::LimitExceeded, "a batch has more than 2^32 rows"))?;
        groups[number].1.push(row);
    }
    let whole = groups.len() == 1;
    groups
        .into_iter()
        .map(|(key, rows)| {
            let part = if whole { batch.clone() } else { take_record_batch(batch, &UInt32Array::from(rows))? };
            Ok((key.into_iter().map(|v| v.map(ToString::to_string)).collect(), part))
        })
        .collect()
}

/// The values of a column as the log spells them.
fn spelled(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    let array = batch
        .column_by_name(name)
        .ok_or_else(|| Error::unexpected("a batch lacks a partition column").with("column", name))?;
    let mut texts = cast(array, &DataType::Utf8)?.as_string::<i32>().clone();
    if let DataType::Timestamp(_, None) = array.data_type() {
        texts = texts.iter().map(|t| t.map(|t| t.replacen('T', " ", 1))).collect();
    }
    if texts.iter().any(|t| t == Some("")) {
        // The log's spelling of null: such rows would come back changed.
        return Err(Error::new(ErrorKind::DataInvalid, "an empty text cannot be a partition value")
            .with("column", name)
            .hint("partition the table by another column"));
    }
    Ok(texts)
}

/// A column of one partition value, for rows read from a file of that partition.
pub(crate) fn constant(value: Option<&str>, data_type: &DataType, rows: usize, column: &str) -> Result<ArrayRef> {
    let Some(value) = value.filter(|v| !v.is_empty()) else {
        return Ok(arrow_array::new_null_array(data_type, rows));
    };
    let one: ArrayRef = Arc::new(StringArray::from(vec![value]));
    let one = cast(&one, data_type)?;
    if one.is_null(0) {
        return Err(Error::new(ErrorKind::DataInvalid, "the table's log has a partition value that cannot be read")
            .with("column", column));
    }
    Ok(arrow_select::take::take(&one, &UInt32Array::from(vec![0; rows]), None)?)
}

/// The folder of a partition: `day=2026-01-01/city=S%C3%A3o`, empty for none.
pub(crate) fn folder(columns: &[String], partition: &Partition) -> String {
    let mut path = String::new();
    for (column, value) in columns.iter().zip(partition) {
        let start = path.len();
        escape(column, &mut path);
        path.push('=');
        match value {
            Some(value) => escape(value, &mut path),
            None => path.push_str(NULL_FOLDER),
        }
        path.truncate(path.len().min(start + FOLDER_BYTES));
        path.push('/');
    }
    path
}

/// All that is not plain in a path of any store is spelled by its bytes.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}
