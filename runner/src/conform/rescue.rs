//! `_ingest_rescued`: one JSON object per row that has something to rescue.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_buffer::BooleanBuffer;
use ingest_core::columns::RESCUED;
use ingest_core::{Error, Result};
use serde_json::value::RawValue;

use super::text::{room, write_quoted, write_rescued};

/// Values of a column that go into `_ingest_rescued`.
pub(super) struct Rescued {
    /// The source's name of the column.
    pub column: Arc<str>,
    /// The column as it came.
    pub array: ArrayRef,
    /// Its texts are JSON.
    pub json: bool,
    /// The rows, none of them null.
    pub rows: BooleanBuffer,
}

/// Puts rescued values into the objects that the connector gave.
///
/// # Errors
/// `Unexpected` where the connector gave something else than a JSON object.
pub(super) fn merge(given: Option<&StringArray>, rescued: &[Rescued], rows: usize) -> Result<StringArray> {
    let mut builder = StringBuilder::with_capacity(rows, 0);
    let (mut object, mut bytes) = (String::new(), 0);
    for row in 0..rows {
        let given = given.filter(|given| given.is_valid(row)).map(|given| given.value(row));
        let mut ours = rescued.iter().filter(|rescued| rescued.rows.value(row)).peekable();
        if ours.peek().is_none() {
            // What the connector gave stands as it is.
            bytes += given.map_or(0, str::len);
            room(bytes, RESCUED)?;
            builder.append_option(given);
            continue;
        }
        object.clear();
        let mut keys = begin(&mut object, given)?;
        for value in ours {
            if !object.ends_with('{') {
                object.push(',');
            }
            write_quoted(&mut object, &free_key(&mut keys, &value.column));
            object.push(':');
            write_rescued(&mut object, &value.array, row, value.json)?;
        }
        object.push('}');
        bytes += object.len();
        room(bytes, RESCUED)?;
        builder.append_value(&object);
    }
    Ok(builder.finish())
}

/// Opens an object with what the connector gave, character by character; returns the keys in it.
fn begin(object: &mut String, given: Option<&str>) -> Result<Vec<String>> {
    let Some(given) = given else {
        object.push('{');
        return Ok(Vec::new());
    };
    let fields: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(given).map_err(|_| {
        Error::unexpected("the connector filled a column of ours with something else than a JSON object")
            .with("column", RESCUED)
            .hint("this is a bug of the connector: report it to its author")
    })?;
    let inside = given.trim_end();
    object.push_str(inside[..inside.len() - 1].trim_end());
    Ok(fields.into_keys().map(Cow::into_owned).collect())
}

/// The column's name, with as many `_` behind it as part it from the keys that are there.
fn free_key<'a>(keys: &mut Vec<String>, column: &'a str) -> Cow<'a, str> {
    let mut key = Cow::Borrowed(column);
    while keys.iter().any(|taken| *taken == key) {
        key.to_mut().push('_');
    }
    keys.push(key.clone().into_owned());
    key
}
