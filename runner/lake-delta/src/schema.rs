//! Delta's schema JSON and Arrow's schema, and what a wider schema adds.
//!
//! Source: the Delta protocol, section "Schema Serialization Format".

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use ingest_core::{Error, ErrorKind, Json, Result};
use serde::{Deserialize, Serialize};

/// A struct type: the whole schema, or a nested column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StructType {
    #[serde(rename = "type")]
    tag: StructTag,
    pub fields: Vec<StructField>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StructTag {
    Struct,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StructField {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: Type,
    pub nullable: bool,
    #[serde(default)]
    pub metadata: BTreeMap<String, Json>,
}

/// A type: a name, or a nested type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Type {
    Primitive(String),
    Nested(Box<Nested>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Nested {
    Struct {
        fields: Vec<StructField>,
    },
    #[serde(rename_all = "camelCase")]
    Array {
        element_type: Type,
        contains_null: bool,
    },
    #[serde(rename_all = "camelCase")]
    Map {
        key_type: Type,
        value_type: Type,
        value_contains_null: bool,
    },
}

impl StructType {
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::new(ErrorKind::DataInvalid, "cannot read the table's schema").caused_by(e))
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::unexpected("cannot write a schema as JSON").caused_by(e))
    }

    /// The schema of an Arrow schema in storage types.
    pub fn of(schema: &Schema) -> Result<Self> {
        let fields = schema.fields().iter().map(|f| field_of(f)).collect::<Result<_>>()?;
        Ok(Self { tag: StructTag::Struct, fields })
    }

    pub fn to_arrow(&self) -> Result<SchemaRef> {
        let fields = self.fields.iter().map(arrow_field).collect::<Result<Fields>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Adds the columns of `wider` that are new, also inside structs. What is there stays as it is written, with all
    /// its metadata.
    ///
    /// # Errors
    /// `SchemaChanged` with the column's name, where a type differs or a column is missing.
    pub fn widen(&mut self, wider: &Self) -> Result<bool> {
        widen_fields(&mut self.fields, &wider.fields, "")
    }

    /// Calls `visit` with every column, nested ones too.
    pub fn visit(&self, visit: &mut dyn FnMut(&StructField)) {
        visit_fields(&self.fields, visit);
    }
}

fn visit_fields(fields: &[StructField], visit: &mut dyn FnMut(&StructField)) {
    for field in fields {
        visit(field);
        visit_type(&field.data_type, visit);
    }
}

fn visit_type(data_type: &Type, visit: &mut dyn FnMut(&StructField)) {
    let Type::Nested(nested) = data_type else { return };
    match nested.as_ref() {
        Nested::Struct { fields } => visit_fields(fields, visit),
        Nested::Array { element_type, .. } => visit_type(element_type, visit),
        Nested::Map { key_type, value_type, .. } => {
            visit_type(key_type, visit);
            visit_type(value_type, visit);
        }
    }
}

/// Whether a column of this type, at any depth, holds timestamps without a zone: they need a table feature.
pub(crate) fn has_timestamp_ntz(schema: &StructType) -> bool {
    fn within(data_type: &Type) -> bool {
        match data_type {
            Type::Primitive(name) => name == "timestamp_ntz",
            Type::Nested(nested) => match nested.as_ref() {
                Nested::Struct { fields } => fields.iter().any(|f| within(&f.data_type)),
                Nested::Array { element_type, .. } => within(element_type),
                Nested::Map { key_type, value_type, .. } => within(key_type) || within(value_type),
            },
        }
    }
    schema.fields.iter().any(|f| within(&f.data_type))
}

fn widen_fields(have: &mut Vec<StructField>, want: &[StructField], parent: &str) -> Result<bool> {
    let mut changed = false;
    for new in want {
        let name = if parent.is_empty() { new.name.clone() } else { format!("{parent}.{}", new.name) };
        match have.iter().position(|f| f.name == new.name) {
            Some(place) => {
                let old = &mut have[place];
                changed |= widen_type(&mut old.data_type, &new.data_type, &name)?;
                if new.nullable && !old.nullable {
                    old.nullable = true;
                    changed = true;
                }
            }
            None if have.iter().any(|f| f.name.eq_ignore_ascii_case(&new.name)) => {
                return Err(Error::new(ErrorKind::SchemaChanged, "a new column differs from another by case alone")
                    .with("column", name)
                    .hint("Delta's column names are the same in any case: rename one at the source or leave it out"));
            }
            None => {
                // Files that are there have no such column: they read as null.
                have.push(StructField { nullable: true, ..new.clone() });
                changed = true;
            }
        }
    }
    Ok(changed)
}

fn widen_type(have: &mut Type, want: &Type, name: &str) -> Result<bool> {
    let (old, new) = match (have, want) {
        (Type::Primitive(a), Type::Primitive(b)) if a == b => return Ok(false),
        (Type::Nested(a), Type::Nested(b)) => (a.as_mut(), b.as_ref()),
        (have, want) => return Err(type_changed(name, have, want)),
    };
    match (old, new) {
        (Nested::Struct { fields: old }, Nested::Struct { fields: new }) => widen_fields(old, new, name),
        (Nested::Array { element_type: old, .. }, Nested::Array { element_type: new, .. }) => {
            widen_type(old, new, &format!("{name}.element"))
        }
        (
            Nested::Map { key_type: old_key, value_type: old, .. },
            Nested::Map { key_type: new_key, value_type: new, .. },
        ) => {
            let key = widen_type(old_key, new_key, &format!("{name}.key"))?;
            Ok(widen_type(old, new, &format!("{name}.value"))? | key)
        }
        (old, new) => {
            Err(type_changed(name, &Type::Nested(Box::new(old.clone())), &Type::Nested(Box::new(new.clone()))))
        }
    }
}

fn type_changed(name: &str, have: &Type, want: &Type) -> Error {
    Error::new(ErrorKind::SchemaChanged, "a column's type changed in a way that the table cannot follow")
        .with("column", name)
        .with("table has", have.name())
        .with("source has", want.name())
        .hint("load the stream again with `--full-refresh` into a new table, or set `on_schema_change: rescue`")
}

impl Type {
    fn name(&self) -> &str {
        match self {
            Self::Primitive(name) => name,
            Self::Nested(nested) => match nested.as_ref() {
                Nested::Struct { .. } => "struct",
                Nested::Array { .. } => "array",
                Nested::Map { .. } => "map",
            },
        }
    }
}

fn field_of(field: &Field) -> Result<StructField> {
    Ok(StructField {
        name: field.name().clone(),
        data_type: type_of(field.data_type(), field.name())?,
        nullable: field.is_nullable(),
        metadata: field
            .metadata()
            .iter()
            .filter(|(key, _)| !key.starts_with("ARROW:") && !key.starts_with("PARQUET:"))
            .map(|(key, value)| (key.clone(), Json::String(value.clone())))
            .collect(),
    })
}

fn type_of(data_type: &DataType, column: &str) -> Result<Type> {
    let name = match data_type {
        DataType::Boolean => "boolean".to_string(),
        DataType::Int8 => "byte".into(),
        DataType::Int16 => "short".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "long".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 => "string".into(),
        DataType::Binary => "binary".into(),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp_ntz".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => "timestamp".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Struct(fields) => {
            return Ok(Type::Nested(Box::new(Nested::Struct {
                fields: fields.iter().map(|f| field_of(f)).collect::<Result<_>>()?,
            })));
        }
        DataType::List(element) => {
            return Ok(Type::Nested(Box::new(Nested::Array {
                element_type: type_of(element.data_type(), column)?,
                contains_null: element.is_nullable(),
            })));
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(Error::unexpected("a map without key and value").with("column", column));
            };
            let [key, value] = pair.as_ref() else {
                return Err(Error::unexpected("a map without key and value").with("column", column));
            };
            return Ok(Type::Nested(Box::new(Nested::Map {
                key_type: type_of(key.data_type(), column)?,
                value_type: type_of(value.data_type(), column)?,
                value_contains_null: value.is_nullable(),
            })));
        }
        other => {
            return Err(Error::unexpected("a column is not in a storage type")
                .with("column", column)
                .with("type", other));
        }
    };
    Ok(Type::Primitive(name))
}

fn arrow_field(field: &StructField) -> Result<FieldRef> {
    let metadata: HashMap<String, String> = field
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().map_or_else(|| value.to_string(), ToString::to_string)))
        .collect();
    let data_type = arrow_type(&field.data_type, &field.name)?;
    Ok(Arc::new(Field::new(&field.name, data_type, field.nullable).with_metadata(metadata)))
}

fn arrow_type(data_type: &Type, column: &str) -> Result<DataType> {
    let name = match data_type {
        Type::Primitive(name) => name.as_str(),
        Type::Nested(nested) => {
            return Ok(match nested.as_ref() {
                Nested::Struct { fields } => {
                    DataType::Struct(fields.iter().map(arrow_field).collect::<Result<Fields>>()?)
                }
                Nested::Array { element_type, contains_null } => {
                    DataType::List(element_field(arrow_type(element_type, column)?, *contains_null))
                }
                Nested::Map { key_type, value_type, value_contains_null } => map_type(
                    Field::new("key", arrow_type(key_type, column)?, false),
                    Field::new("value", arrow_type(value_type, column)?, *value_contains_null),
                ),
            });
        }
    };
    Ok(match name {
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "string" => DataType::Utf8,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => decimal(other).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "the table has a column of a type that is not known here")
                .with("column", column)
                .with("type", other)
        })?,
    })
}

fn decimal(name: &str) -> Option<DataType> {
    let inner = name.strip_prefix("decimal(")?.strip_suffix(')')?;
    let (precision, scale) = inner.split_once(',')?;
    let (precision, scale) = (precision.trim().parse::<u8>().ok()?, scale.trim().parse::<i8>().ok()?);
    ((1..=38).contains(&precision) && (0..=precision.cast_signed()).contains(&scale))
        .then_some(DataType::Decimal128(precision, scale))
}

/// The element of a list as Parquet spells it.
pub(crate) fn element_field(data_type: DataType, nullable: bool) -> FieldRef {
    Arc::new(Field::new("element", data_type, nullable))
}

/// A map as Parquet spells it.
pub(crate) fn map_type(key: Field, value: Field) -> DataType {
    let entries = Fields::from(vec![key.with_name("key").with_nullable(false), value.with_name("value")]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
}
