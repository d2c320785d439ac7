//! The rows of a person: by the values of columns, or by a text anywhere.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow_buffer::BooleanBuffer;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Schema};
use ingest_core::columns::{RESCUED, is_reserved};
use ingest_core::lake::RowFilter;
use ingest_core::{Json, Result};

use super::words::Words;
use crate::conform::{column_of, texts};
use crate::failpoint;
use crate::policy::{column_at, type_at};

/// A value in all spellings that the lake may have of it: in clear, as a hash, as a token. The clear one is the first.
pub type Forms = Vec<String>;

/// Where the rows of a person are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In these columns of the table, together.
    Columns(Vec<String>),
    /// In any text of a row.
    Anywhere,
}

/// Finds the rows of people.
pub struct Trace {
    place: Place,
    /// For each person, for each column.
    people: Vec<Vec<Forms>>,
    words: Words,
    /// Whether rows stand in the texts of a quarantine.
    quarantine: bool,
}

impl Trace {
    /// Finds rows of a table.
    pub fn of_table(place: Place, people: Vec<Vec<Forms>>, words: Words) -> Self {
        Self { place, people, words, quarantine: false }
    }

    /// Finds records of a quarantine.
    pub fn of_quarantine(place: Place, people: Vec<Vec<Forms>>, words: Words) -> Self {
        Self { place, people, words, quarantine: true }
    }

    fn by_columns(&self, names: &[String], batch: &RecordBatch) -> Result<Vec<bool>> {
        let mut found = vec![false; batch.num_rows()];
        let arrays: Option<Vec<ArrayRef>> = names.iter().map(|name| column_at(batch, name)).collect();
        if let Some(arrays) = arrays {
            let shown = arrays.iter().zip(names).map(|(array, name)| texts(array, name));
            let shown = shown.collect::<Result<Vec<_>>>()?;
            for person in &self.people {
                let accepted = person.iter().zip(&arrays).map(|(forms, array)| accepted(forms, array.data_type()));
                let accepted = accepted.collect::<Result<Vec<_>>>()?;
                for (row, found) in found.iter_mut().enumerate() {
                    let is = |(shown, accepted): (&ArrayRef, &HashSet<String>)| {
                        shown.is_valid(row) && accepted.contains(shown.as_string::<i32>().value(row))
                    };
                    *found |= shown.iter().zip(&accepted).all(is);
                }
            }
        }
        if let Some(rescued) = batch.column_by_name(RESCUED) {
            let rescued = rescued.as_string_opt::<i32>().into_iter().flatten();
            for (found, text) in found.iter_mut().zip(rescued) {
                *found = *found || text.is_some_and(|text| self.in_object(names, text));
            }
        }
        Ok(found)
    }

    /// Whether a JSON object has the values of a person in the columns; for a text that is none, whether it holds one.
    fn in_object(&self, names: &[String], text: &str) -> bool {
        let Ok(Json::Object(object)) = serde_json::from_str::<Json>(text) else {
            return self.words.are_in(text.as_bytes());
        };
        let object = Json::Object(object);
        let values: Option<Vec<String>> = names.iter().map(|name| at(&object, name).and_then(plain)).collect();
        let Some(values) = values else { return false };
        self.people.iter().any(|person| person.iter().zip(&values).all(|(forms, value)| forms.contains(value)))
    }

    fn anywhere(&self, batch: &RecordBatch) -> Result<Vec<bool>> {
        let mut found = vec![false; batch.num_rows()];
        for column in batch.columns() {
            match column.data_type() {
                DataType::Utf8 => {
                    for (found, text) in found.iter_mut().zip(column.as_string::<i32>()) {
                        *found = *found || text.is_some_and(|text| self.words.are_in(text.as_bytes()));
                    }
                }
                _ => {
                    let options = FormatOptions::default();
                    let shown = ArrayFormatter::try_new(column.as_ref(), &options)?;
                    for (row, found) in found.iter_mut().enumerate() {
                        *found = *found || self.words.are_in(shown.value(row).try_to_string()?.as_bytes());
                    }
                }
            }
        }
        Ok(found)
    }
}

impl RowFilter for Trace {
    fn columns(&self, schema: &Schema) -> Vec<String> {
        let names = schema.fields().iter().map(|field| field.name());
        if self.quarantine {
            return names.filter(|name| matches!(name.as_str(), "record" | "reason")).cloned().collect();
        }
        match &self.place {
            Place::Columns(wanted) => {
                let rescued = names.clone().filter(|name| *name == RESCUED);
                let tops = wanted.iter().filter_map(|path| top(schema, path));
                tops.chain(rescued.cloned()).collect()
            }
            Place::Anywhere => schema
                .fields()
                .iter()
                .filter(|field| bears_text(field.data_type()))
                .filter(|field| field.name() == RESCUED || !is_reserved(field.name()))
                .map(|field| field.name().clone())
                .collect(),
        }
    }

    fn rows(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        failpoint::reach("forget_looked");
        let found = match &self.place {
            Place::Columns(names) if self.quarantine => {
                let records = batch.column_by_name("record").and_then(|array| array.as_string_opt::<i32>());
                let mut found = vec![false; batch.num_rows()];
                for (found, text) in found.iter_mut().zip(records.into_iter().flatten()) {
                    *found = text.is_some_and(|text| self.in_object(names, text));
                }
                found
            }
            Place::Columns(names) => self.by_columns(names, batch)?,
            Place::Anywhere => self.anywhere(batch)?,
        };
        Ok(BooleanArray::new(BooleanBuffer::from(found), None))
    }

    fn in_text(&self, text: &[u8]) -> bool {
        self.words.are_in(text)
    }
}

/// The column of a table that is meant by a name, or by the path of a field; columns of tables may be spelled otherwise than
/// at the source.
pub fn resolve(schema: &Schema, name: &str) -> Option<String> {
    type_at(schema, name).map(|_| name.to_owned()).or_else(|| column_of(schema, name))
}

/// The column in which a path begins.
fn top(schema: &Schema, path: &str) -> Option<String> {
    let mut begins = path.match_indices('.').map(|(dot, _)| &path[..dot]).chain([path]);
    begins.find(|name| schema.column_with_name(name).is_some()).map(str::to_owned)
}

fn bears_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().any(|field| bears_text(field.data_type())),
        DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) => {
            bears_text(inner.data_type())
        }
        DataType::Map(entries, _) => bears_text(entries.data_type()),
        other => other.is_string(),
    }
}

/// What values of a type are written like.
fn accepted(forms: &Forms, data_type: &DataType) -> Result<HashSet<String>> {
    let mut accepted: HashSet<String> = HashSet::new();
    let Some(clear) = forms.first() else { return Ok(accepted) };
    if data_type.is_string() {
        accepted.extend(forms.iter().cloned());
        return Ok(accepted);
    }
    accepted.insert(clear.clone());
    if let DataType::Decimal128(_, scale) = data_type
        && clear.split_once('.').is_some_and(|(_, f)| i64::try_from(f.len()).is_ok_and(|n| n > i64::from(*scale)))
    {
        // A cast would round.
        return Ok(accepted);
    }
    // 1.5 of a decimal with two digits is written 1.50. What cannot be read as the type is in no such column.
    let one: ArrayRef = Arc::new(StringArray::from(vec![clear.as_str()]));
    if let Ok(typed) = arrow_cast::cast(&one, data_type)
        && typed.is_valid(0)
    {
        accepted.insert(texts(&typed, "value")?.as_string::<i32>().value(0).to_owned());
    }
    Ok(accepted)
}

/// The value of a path in an object.
fn at<'j>(object: &'j Json, path: &str) -> Option<&'j Json> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(dot, _)| at(object.get(&path[..dot])?, &path[dot + 1..]))
}

/// The text of a plain value.
pub fn plain(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}
