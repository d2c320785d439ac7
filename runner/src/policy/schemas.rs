//! Data classes on schemas, at every depth of structs.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use ingest_core::CLASS;

use super::classes::{guess_by_name, written};
use super::{Policy, masks};
use crate::config::DataClass;

/// The fields with a change of each, at every depth of structs.
fn map_fields(path: &str, fields: &Fields, change: &impl Fn(&str, &FieldRef) -> FieldRef) -> Fields {
    fields
        .iter()
        .map(|field| {
            let path = masks::below(path, field.name());
            let inner = map_type(&path, field.data_type(), change);
            let field = match inner {
                Some(inner) => Arc::new(Field::clone(field).with_data_type(inner)),
                None => Arc::clone(field),
            };
            change(&path, &field)
        })
        .collect()
}

fn map_type(path: &str, data_type: &DataType, change: &impl Fn(&str, &FieldRef) -> FieldRef) -> Option<DataType> {
    let element = |inner: &FieldRef| -> Option<FieldRef> {
        let data_type = map_type(path, inner.data_type(), change)?;
        Some(Arc::new(Field::clone(inner).with_data_type(data_type)))
    };
    match data_type {
        DataType::Struct(fields) => Some(DataType::Struct(map_fields(path, fields, change))),
        DataType::List(inner) => element(inner).map(DataType::List),
        DataType::LargeList(inner) => element(inner).map(DataType::LargeList),
        DataType::FixedSizeList(inner, size) => element(inner).map(|inner| DataType::FixedSizeList(inner, *size)),
        _ => None,
    }
}

impl Policy {
    /// The schema with the data classes of the configuration over those of the connector.
    pub fn classified(&self, schema: &SchemaRef) -> SchemaRef {
        if self.classify.is_empty() {
            return Arc::clone(schema);
        }
        let change = |path: &str, field: &FieldRef| match written(&self.classify, path) {
            Some(class) => {
                let mut metadata = field.metadata().clone();
                match class {
                    DataClass::None => metadata.remove(CLASS),
                    class => metadata.insert(CLASS.to_owned(), class.name().to_owned()),
                };
                Arc::new(Field::clone(field).with_metadata(metadata))
            }
            None => Arc::clone(field),
        };
        let fields = map_fields("", schema.fields(), &change);
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    /// Names under `classify` that no column has.
    pub(super) fn unknown_classes(&self, schema: &SchemaRef) -> Vec<String> {
        let paths = masks::paths(schema.fields());
        let names = self.classify.keys().filter(|name| !name.contains(['*', '?']) && !paths.contains(name.as_str()));
        names.cloned().collect()
    }

    /// Columns without a class: what, and a proposal.
    pub(super) fn unclassified(&self, schema: &SchemaRef) -> Vec<(String, String)> {
        let is_open = |field: &&FieldRef| {
            let within =
                |path: &str| path.strip_prefix(field.name().as_str()).is_some_and(|rest| rest.starts_with('.'));
            !ingest_core::columns::is_reserved(field.name())
                && written(&self.classify, field.name()).is_none()
                && !field.metadata().contains_key(CLASS)
                && !self.classify.keys().any(|path| within(path))
        };
        let open: Vec<&str> = schema.fields().iter().filter(is_open).map(|field| field.name().as_str()).collect();
        if open.is_empty() {
            return Vec::new();
        }
        let what =
            format!("`require_classification` asks for a data class of every column; without one: {}", open.join(", "));
        let guesses: Vec<String> = open
            .iter()
            .map(|name| format!("{name}: {}", guess_by_name(name).map_or("none", |guess| guess.class.name())))
            .take(50)
            .collect();
        vec![(what, format!("look at each, and write e.g. `classify: {{{}}}`", guesses.join(", ")))]
    }
}
