//! Arrow rows as tables for people.

use arrow_array::RecordBatch;
use ingest_core::{Json, Result};

pub use crate::rows::{column_order, rows, value};

/// The rows of batches as a table for people.
///
/// # Errors
/// `DataInvalid` for a value that cannot be printed.
pub fn table(schema: &arrow_schema::Schema, batches: &[RecordBatch]) -> Result<String> {
    let order = column_order(schema);
    let mut table = super::table::Table::new(order.iter().map(|i| schema.field(*i).name().as_str()));
    for (place, column) in order.iter().enumerate() {
        if schema.field(*column).data_type().is_numeric() {
            table.align_right(place);
        }
    }
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells: Result<Vec<String>> = order
                .iter()
                .map(|column| {
                    let name = schema.field(*column).name();
                    // A batch of an older schema may lack columns.
                    let Some(column) = batch.column_by_name(name) else { return Ok(String::new()) };
                    Ok(cell(&value(column.as_ref(), row)?))
                })
                .collect();
            table.row(cells?);
        }
    }
    Ok(table.render())
}

/// A JSON value as a cell of a table: texts without quotes, null as nothing that a text could look like.
fn cell(value: &Json) -> String {
    match value {
        Json::Null => "∅".to_owned(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use arrow_schema::{DataType, Field};

    use super::*;

    #[test]
    fn a_table_is_aligned_and_safe() {
        let schema = Arc::new(arrow_schema::Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(22), None]));
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("Zoë"), Some("\u{1b}[2J"), None]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![ids, names]).expect("whole");
        assert_eq!(
            table(&schema, &[batch]).expect("printable"),
            "id | name\n---+----------\n 1 | Zoë\n22 | \\u{1b}[2J\n ∅ | ∅\n"
        );
    }
}
