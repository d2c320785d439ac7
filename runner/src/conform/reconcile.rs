//! Compares what a source offers with what its table has, under the stream's policy.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use ingest_core::lake::TableFormat;
use ingest_core::{Error, ErrorKind, Result, StreamName, columns as reserved};

use super::bounds::{element, pair};
use super::changes::{Handling, SchemaChange};
use super::columns::{Constants, wanted};
use super::exact::{Rule, rule, same_type};
use super::names::{folded, same_column, stored_fields};
use super::{Conform, Input};
use crate::config::SchemaPolicy;

/// Compares the schema of a source with that of its table.
///
/// The storage schema is the table's, in the table's order, with what it lacks behind: new columns of the source (under
/// `evolve`, and in a new table), then columns of ours. Our own columns are no change of the source and are added under
/// every policy.
///
/// # Errors
/// `SchemaChanged` for any change under `freeze` and `fail`; `ConfigInvalid` for names that clash and for
/// `added_columns` that are none of ours; whatever the table format says of a type that it cannot store.
pub fn reconcile(format: &Arc<dyn TableFormat>, input: &Input<'_>) -> Result<Conform> {
    let wanted = wanted(input.stream, input.added_columns, input.seq, input.absent)?;
    let renamed = Arc::new(Schema::new(stored_fields(input.stream, input.source.fields())?));
    let stored = format.storage_schema(&renamed).map_err(|e| e.with("stream", input.stream))?;
    let ours = format
        .storage_schema(&Arc::new(Schema::new(wanted.iter().map(|name| reserved::field(name)).collect::<Vec<_>>())))?;
    let mut comparison = Comparison::new(input);
    for (source, stored) in input.source.fields().iter().zip(stored.fields()) {
        comparison.column(source, stored);
    }
    comparison.missing();
    refuse_drift(input, &comparison.changes)?;
    comparison.finish(format, &ours)
}

/// The comparison as far as it has come.
struct Comparison<'a> {
    input: &'a Input<'a>,
    /// The table's data columns first, then new ones.
    data: Vec<FieldRef>,
    /// What the table had of columns of ours.
    ours: Vec<FieldRef>,
    /// The places in `data` of the table's columns by name, and by name in lower case.
    exact: HashMap<String, usize>,
    folded: HashMap<String, usize>,
    /// Whether a column of the source fills the place.
    filled: Vec<bool>,
    /// By the source's spelling: the place, or `None` where the column is rescued.
    columns: Vec<(Arc<str>, Option<usize>)>,
    changes: Vec<SchemaChange>,
    widens: bool,
}

impl<'a> Comparison<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        let fields = input.table.map_or_else(Fields::empty, |table| table.fields().clone());
        let (ours, data): (Vec<_>, Vec<_>) =
            fields.iter().cloned().partition(|field| reserved::is_reserved(&field.name().to_lowercase()));
        let by = |key: fn(&str) -> String| data.iter().enumerate().map(|(i, field)| (key(field.name()), i)).collect();
        Self {
            input,
            exact: by(str::to_owned),
            folded: by(folded),
            filled: vec![false; data.len()],
            data,
            ours,
            columns: Vec::new(),
            changes: Vec::new(),
            widens: false,
        }
    }

    fn is_new_table(&self) -> bool {
        self.input.table.is_none()
    }

    /// Takes a column of the source: as it is there, and with the name and type with which it is stored.
    fn column(&mut self, source: &Field, stored: &FieldRef) {
        let exact = self.exact.get(stored.name());
        let place = exact.or_else(|| self.folded.get(&folded(source.name()))).copied();
        let place = match place {
            Some(place) => {
                self.compare(place, source, stored);
                Some(place)
            }
            None => self.add(source, stored),
        };
        let name: Arc<str> = source.name().as_str().into();
        if let Some(kept) = place.map(|place| self.data[place].name()).filter(|kept| *kept != source.name()) {
            let (column, stored_as) = (source.name().clone(), kept.clone());
            self.changes.push(if stored_as == *stored.name() {
                SchemaChange::Renamed { column, stored_as }
            } else {
                SchemaChange::Respelled { column, stored_as }
            });
        }
        if place.is_some_and(|place| loses_nanoseconds(source.data_type(), self.data[place].data_type())) {
            self.changes.push(SchemaChange::Cut {
                column: source.name().clone(),
                from: source.data_type().to_string(),
                to: stored.data_type().to_string(),
            });
        }
        self.columns.push((name, place));
    }

    fn add(&mut self, source: &Field, stored: &FieldRef) -> Option<usize> {
        let adds = self.is_new_table() || self.input.policy == SchemaPolicy::Evolve;
        if !self.is_new_table() {
            self.changes.push(SchemaChange::Added {
                column: source.name().clone(),
                r#type: source.data_type().to_string(),
                handling: if adds { Handling::Added } else { Handling::Rescued },
            });
        }
        if !adds {
            return None;
        }
        self.widens |= !self.is_new_table();
        self.data.push(Arc::new(stored.as_ref().clone().with_nullable(true)));
        self.filled.push(true);
        Some(self.data.len() - 1)
    }

    /// Compares the types of a column that the table has.
    fn compare(&mut self, place: usize, source: &Field, stored: &FieldRef) {
        self.filled[place] = true;
        let evolves = self.input.policy == SchemaPolicy::Evolve;
        let table = Arc::clone(&self.data[place]);
        let mut fields = NestedFields::default();
        let merged = merge(source.name(), table.data_type(), stored.data_type(), &mut fields);
        if evolves && !fields.added.is_empty() {
            self.data[place] = Arc::new(table.as_ref().clone().with_data_type(merged.clone()));
            self.widens = true;
        }
        let handling = if evolves { Handling::Added } else { Handling::Rescued };
        let added = fields.added.into_iter();
        self.changes.extend(added.map(|(column, r#type)| SchemaChange::Added { column, r#type, handling }));
        let missing = fields.missing.into_iter();
        self.changes.extend(missing.map(|(column, r#type)| SchemaChange::Missing { column, r#type }));
        // With the added fields taken out of the question, what is left is a change of type. Nulls alone are of any type.
        if source.data_type() != &DataType::Null && !holds(&merged, stored.data_type()) {
            let handling = match rule(stored.data_type(), &merged) {
                Rule::Same | Rule::Widen | Rule::Text => Handling::Widened,
                Rule::Never => Handling::Rescued,
                Rule::Fit | Rule::Parse | Rule::Nested => Handling::Checked,
            };
            self.changes.push(SchemaChange::Retyped {
                column: source.name().clone(),
                from: table.data_type().to_string(),
                to: stored.data_type().to_string(),
                handling,
            });
        }
    }

    fn missing(&mut self) {
        for (field, _) in self.data.iter().zip(&self.filled).filter(|(_, filled)| !**filled) {
            self.changes
                .push(SchemaChange::Missing { column: field.name().clone(), r#type: field.data_type().to_string() });
        }
    }

    /// The storage schema, and where each column goes.
    fn finish(self, format: &Arc<dyn TableFormat>, wanted: &Schema) -> Result<Conform> {
        let stream = self.input.stream;
        let mut ours = self.ours;
        let mut widens = self.widens;
        for field in wanted.fields() {
            match ours.iter().find(|has| same_column(has.name(), field.name())) {
                Some(has) if has.name() == field.name() && same_type(has.data_type(), field.data_type()) => {}
                Some(has) => return Err(not_ours(stream, has, field)),
                None => {
                    widens |= self.input.table.is_some();
                    ours.push(Arc::new(field.as_ref().clone().with_nullable(true)));
                }
            }
        }
        let names: Vec<Arc<str>> = self.data.iter().map(|field| field.name().as_str().into()).collect();
        let storage = match self.input.table {
            Some(table) if !widens => Arc::clone(table),
            _ => Arc::new(Schema::new(self.data.into_iter().chain(ours).collect::<Vec<_>>())),
        };
        if storage.fields().is_empty() {
            return Err(Error::config("the stream has no columns")
                .with("stream", stream)
                .hint("select at least one with `columns`, or switch a column of ours on with `added_columns`"));
        }
        let absent_places = self.columns.iter().map(|(_, place)| *place).collect();
        let columns = self
            .columns
            .into_iter()
            .map(|(source, place)| (source, place.map(|place| Arc::clone(&names[place]))))
            .collect();
        // What guards against loss is used wherever the table has it.
        let is_stamp = |name: &str| ![reserved::RESCUED, reserved::ABSENT].contains(&name);
        let off = self.input.added_columns.iter().filter(|(name, on)| !**on && is_stamp(name));
        Ok(Conform {
            silenced: off.map(|(name, _)| name.clone()).collect(),
            format: Arc::clone(format),
            stream: stream.clone(),
            policy: self.input.policy,
            source: Arc::clone(self.input.source),
            storage,
            widens,
            changes: self.changes,
            absent_places,
            columns,
            constants: Constants::default(),
            layout: std::sync::Mutex::default(),
        })
    }
}

fn refuse_drift(input: &Input<'_>, changes: &[SchemaChange]) -> Result<()> {
    let policy = match input.policy {
        SchemaPolicy::Freeze => "freeze",
        SchemaPolicy::Fail => "fail",
        SchemaPolicy::Evolve | SchemaPolicy::Rescue => return Ok(()),
    };
    let drift: Vec<String> = changes.iter().filter(|change| change.is_drift()).map(SchemaChange::what).collect();
    if drift.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::SchemaChanged, format!("the schema of the source has changed: {}", drift.join("; ")))
        .with("stream", input.stream)
        .with("on_schema_change", policy)
        .hint("restore the schema at the source, select the old columns with `columns`, or accept the change with `on_schema_change: evolve` or `rescue`"))
}

fn not_ours(stream: &StreamName, has: &Field, wanted: &Field) -> Error {
    Error::new(ErrorKind::SchemaChanged, "the table has a column with a name of ours that is not ours")
        .with("stream", stream)
        .with("column", has.name())
        .with("type", has.data_type())
        .with("expected", wanted.data_type())
        .hint("another program wrote the table: load into another lake, or switch the column off with `added_columns`")
}

/// Fields of structs that one side lacks: path and type.
#[derive(Default)]
struct NestedFields {
    /// Only the source has them.
    added: Vec<(String, String)>,
    /// Only the table has them.
    missing: Vec<(String, String)>,
}

/// The table's type, with the fields of structs that only the source has.
fn merge(path: &str, table: &DataType, source: &DataType, found: &mut NestedFields) -> DataType {
    use DataType as D;
    let mut inner = |field: &Field, with: &Field| -> FieldRef {
        let data_type = merge(path, field.data_type(), with.data_type(), found);
        Arc::new(field.clone().with_data_type(data_type))
    };
    match (table, source) {
        (D::Struct(table), D::Struct(source)) => D::Struct(merge_fields(path, table, source, found)),
        (D::List(field), D::List(with)) => D::List(inner(field, with)),
        (D::Map(entries, sorted), D::Map(with, _)) => match (pair(entries), pair(with)) {
            (Some((key, value)), Some((_, with))) => {
                let fields = Fields::from(vec![Arc::new(key.clone()), inner(value, with)]);
                D::Map(Arc::new(entries.as_ref().clone().with_data_type(D::Struct(fields))), *sorted)
            }
            _ => table.clone(),
        },
        _ => table.clone(),
    }
}

fn merge_fields(path: &str, table: &Fields, source: &Fields, found: &mut NestedFields) -> Fields {
    let mut merged = Vec::with_capacity(source.len());
    for field in table {
        let path = format!("{path}.{}", field.name());
        match source.iter().find(|new| same_column(new.name(), field.name())) {
            Some(new) => {
                let data_type = merge(&path, field.data_type(), new.data_type(), found);
                merged.push(Arc::new(field.as_ref().clone().with_data_type(data_type)));
            }
            None => {
                found.missing.push((path, field.data_type().to_string()));
                merged.push(Arc::clone(field));
            }
        }
    }
    for new in source.iter().filter(|new| !table.iter().any(|field| same_column(new.name(), field.name()))) {
        found.added.push((format!("{path}.{}", new.name()), new.data_type().to_string()));
        merged.push(Arc::new(new.as_ref().clone().with_nullable(true)));
    }
    merged.into()
}

/// Whether a merged type holds a source's type without a change of any part; structs may have more fields.
fn holds(merged: &DataType, source: &DataType) -> bool {
    use DataType as D;
    match (merged, source) {
        (D::Struct(merged), D::Struct(source)) => source.iter().all(|field| {
            let place = merged.iter().find(|has| same_column(has.name(), field.name()));
            place.is_some_and(|has| holds(has.data_type(), field.data_type()))
        }),
        (D::List(merged), D::List(source)) => holds(merged.data_type(), source.data_type()),
        (D::Map(merged, _), D::Map(source, _)) => match (pair(merged), pair(source)) {
            (Some((key, value)), Some((source_key, source_value))) => {
                holds(key.data_type(), source_key.data_type()) && holds(value.data_type(), source_value.data_type())
            }
            _ => false,
        },
        (merged, source) => same_type(merged, source),
    }
}

/// Whether times in nanoseconds, at any depth, meet a column that is no text.
fn loses_nanoseconds(source: &DataType, stored: &DataType) -> bool {
    stored != &DataType::Utf8 && has_nanoseconds(source)
}

fn has_nanoseconds(data_type: &DataType) -> bool {
    use DataType as D;
    match data_type {
        D::Timestamp(TimeUnit::Nanosecond, _) | D::Time64(TimeUnit::Nanosecond) | D::Duration(TimeUnit::Nanosecond) => {
            true
        }
        D::Struct(fields) => fields.iter().any(|field| has_nanoseconds(field.data_type())),
        D::Map(entries, _) => pair(entries)
            .is_some_and(|(key, value)| has_nanoseconds(key.data_type()) || has_nanoseconds(value.data_type())),
        D::Dictionary(_, values) => has_nanoseconds(values),
        D::RunEndEncoded(_, values) => has_nanoseconds(values.data_type()),
        other => element(other).is_some_and(|element| has_nanoseconds(element.data_type())),
    }
}
