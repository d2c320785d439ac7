//! The format: a line of names and types, then a record a line.
//!
//! ```text
//! id:int|name:text|total:decimal
//! 1|first|9.50
//! ```

use std::sync::Arc;

use arrow_array::builder::{Decimal128Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_core::{Error, ErrorKind, Result};

const DECIMAL: DataType = DataType::Decimal128(18, 2);

/// Reads the first line of a file.
pub(crate) fn schema(head: &str) -> Result<SchemaRef> {
    let wrong = || Error::new(ErrorKind::DataInvalid, "the first line of a file names no columns");
    let field = |(n, text): (usize, &str)| {
        let (name, kind) = text.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
        let kind = match kind {
            "int" => DataType::Int64,
            "text" => DataType::Utf8,
            "decimal" => DECIMAL,
            _ => return Err(wrong()),
        };
        // The first column is the key.
        Ok(Field::new(name, kind, n > 0))
    };
    let fields: Vec<Field> = head.trim_end().split('|').enumerate().map(field).collect::<Result<_>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

enum Column {
    Int(Int64Builder),
    Text(StringBuilder),
    Decimal(Decimal128Builder),
}

/// Lines become batches: values go straight into the columns.
pub(crate) struct Lines {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// About what is held.
    pub bytes: usize,
}

impl Lines {
    pub fn new(schema: &SchemaRef) -> Self {
        let column = |field: &Arc<Field>| match field.data_type() {
            DataType::Int64 => Column::Int(Int64Builder::new()),
            DataType::Utf8 => Column::Text(StringBuilder::new()),
            kind => Column::Decimal(Decimal128Builder::new().with_data_type(kind.clone())),
        };
        Self { schema: Arc::clone(schema), columns: schema.fields().iter().map(column).collect(), bytes: 0 }
    }

    /// Adds a line.
    ///
    /// # Errors
    /// Why it is no row, in words; then nothing was added.
    pub fn add(&mut self, line: &str) -> std::result::Result<(), String> {
        let values: Vec<&str> = line.trim_end_matches(['\n', '\r']).split('|').collect();
        if values.len() != self.columns.len() {
            return Err(format!("{} fields, expected {}", values.len(), self.columns.len()));
        }
        let read = |(n, (value, column)): (usize, (&&str, &Column))| match (column, value.is_empty() && n > 0) {
            (_, true) | (Column::Text(_), _) => Ok(None),
            (Column::Int(_), _) => value.parse().map(Some).map_err(|_| format!("field {} is no whole number", n + 1)),
            (Column::Decimal(_), _) => {
                cents(value).map(Some).ok_or_else(|| format!("field {} is no number with two digits", n + 1))
            }
        };
        let numbers: Vec<Option<i128>> = values.iter().zip(&self.columns).enumerate().map(read).collect::<Result<_, _>>()?;
        for ((value, number), column) in values.into_iter().zip(numbers).zip(&mut self.columns) {
            match column {
                Column::Text(builder) => builder.append_option(Some(value).filter(|value| !value.is_empty())),
                Column::Int(builder) => builder.append_option(number.and_then(|number| i64::try_from(number).ok())),
                Column::Decimal(builder) => builder.append_option(number),
            }
        }
        self.bytes += line.len() + 16 * self.columns.len();
        Ok(())
    }

    /// The rows that were added since the last call.
    pub fn flush(&mut self) -> Result<RecordBatch> {
        let finish = |column: &mut Column| -> ArrayRef {
            match column {
                Column::Int(builder) => Arc::new(builder.finish()),
                Column::Text(builder) => Arc::new(builder.finish()),
                Column::Decimal(builder) => Arc::new(builder.finish()),
            }
        };
        self.bytes = 0;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), self.columns.iter_mut().map(finish).collect())?)
    }
}

/// `12.50` in hundredths, exactly.
fn cents(text: &str) -> Option<i128> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, "00"));
    let all = format!("{whole}{digits}");
    (digits.len() == 2 && text.len() <= 19).then(|| all.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_row_is_refused_whole() {
        let schema = schema("id:int|name:text|total:decimal\n").expect("a head");
        let mut lines = Lines::new(&schema);
        lines.add("1|é|-0.05\n").expect("a row");
        lines.add("2||\n").expect("a row with nulls");
        for line in ["3|x", "x|x|1.00", "|x|1.00", "4|x|1.5", "5|x|1.00|"] {
            assert!(lines.add(line).is_err(), "{line}");
        }
        let batch = lines.flush().expect("a batch");
        assert_eq!((batch.num_rows(), batch.column(2).null_count()), (2, 1));
    }
}
