//! Columns of files that know their own types, as the columns of the stream.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::Target;
use crate::store::Fault;

/// How the columns of a file become those of the stream.
pub struct Conform {
    /// Numbers of the columns of the file that are read.
    roots: Vec<usize>,
    /// What becomes of each of them, in the same order; `None` = it has no column and is put aside.
    types: Vec<Option<DataType>>,
    /// Columns of the stream that the file does not have.
    missing: Vec<(String, DataType)>,
}

impl Conform {
    /// Compares a file with what is wanted of it.
    pub fn new(target: &Target, file: &SchemaRef) -> Self {
        let wanted: HashMap<&str, &DataType> = target.columns.iter().map(|(name, ty)| (name.as_str(), ty)).collect();
        let (mut roots, mut types) = (Vec::new(), Vec::new());
        for (index, field) in file.fields().iter().enumerate() {
            let data_type = wanted.get(field.name().as_str()).copied().cloned();
            if data_type.is_some() || (target.all && !target.unwanted.contains(field.name())) {
                roots.push(index);
                types.push(data_type);
            }
        }
        let has = |name: &str| file.fields().iter().any(|field| field.name() == name);
        let missing = target.columns.iter().filter(|(name, _)| !has(name)).cloned().collect();
        Self { roots, types, missing }
    }

    /// The numbers of the columns that a reader shall give.
    pub fn roots(&self) -> Vec<usize> {
        self.roots.clone()
    }

    /// Makes a batch of the stream of one of the file.
    pub fn batch(&self, target: &Target, path: &str, batch: &RecordBatch) -> Result<RecordBatch, Fault> {
        let rows = batch.num_rows();
        let mut rescued: BTreeMap<usize, String> = BTreeMap::new();
        let mut arrays: Vec<(Field, ArrayRef)> = Vec::with_capacity(target.columns.len());
        for ((field, array), data_type) in batch.schema().fields().iter().zip(batch.columns()).zip(&self.types) {
            let Some(data_type) = data_type else {
                put_aside(&mut rescued, field.name(), array, |row| array.is_valid(row))?;
                continue;
            };
            let fitted = fit(array, data_type)?;
            if fitted.null_count() > array.null_count() {
                put_aside(&mut rescued, field.name(), array, |row| array.is_valid(row) && fitted.is_null(row))?;
            }
            arrays.push((Field::new(field.name(), data_type.clone(), true), fitted));
        }
        for (name, data_type) in &self.missing {
            arrays.push((Field::new(name, data_type.clone(), true), new_null_array(data_type, rows)));
        }
        let texts = (!rescued.is_empty())
            .then(|| (0..rows).map(|row| rescued.remove(&row).map(|text| text + "}")).collect::<StringArray>());
        target.batch(path, rows, arrays, texts)
    }
}

/// The schema of a file with types that every table format can hold: no dictionaries, no views, no wide offsets.
pub fn plain_schema(schema: &Schema) -> Vec<(String, DataType)> {
    schema.fields().iter().map(|field| (field.name().clone(), plain(field.data_type()))).collect()
}

fn plain(data_type: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Arc::new(Field::new(field.name(), plain(field.data_type()), field.is_nullable()));
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(inner(item))
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

/// The one type that holds the values of both exactly; text where there is none.
pub fn join(one: &DataType, other: &DataType) -> DataType {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Null, UInt8, UInt16, UInt32, Utf8};
    let rank = |ty: &DataType| match ty {
        Int8 | UInt8 => Some(1),
        Int16 | UInt16 => Some(2),
        Int32 | UInt32 => Some(3),
        Int64 => Some(4),
        _ => None,
    };
    match (one, other) {
        (a, b) if a == b => a.clone(),
        (Null, ty) | (ty, Null) => ty.clone(),
        (Float32, Float64) | (Float64, Float32) => Float64,
        (Decimal128(p, s), Decimal128(q, t)) => {
            let scale = *s.max(t);
            let whole = (i16::from(*p) - i16::from(*s)).max(i16::from(*q) - i16::from(*t));
            u8::try_from(whole + i16::from(scale)).ok().filter(|p| *p <= 38).map_or(Utf8, |p| Decimal128(p, scale))
        }
        (DataType::Timestamp(_, zone), DataType::Timestamp(_, other)) if zone.is_some() == other.is_some() => {
            DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        (a, b) => match (rank(a), rank(b)) {
            // One signed width more holds an unsigned type beside any of its own width.
            (Some(a), Some(b)) => match a.max(b) {
                1 => Int16,
                2 => Int32,
                _ => Int64,
            },
            _ => Utf8,
        },
    }
}

/// Casts values; one that would come out as another is null.
fn fit(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, Fault> {
    let from = array.data_type();
    if from == to {
        return Ok(array.clone());
    }
    if !can_cast_types(from, to) {
        return Ok(new_null_array(to, array.len()));
    }
    let options = CastOptions { safe: true, format_options: FormatOptions::default() };
    let array = &named_by_offset(array);
    let from = array.data_type();
    // What cannot be cast does not fit: it is put aside as it is.
    let Ok(cast) = cast_with_options(array, to, &options) else { return Ok(new_null_array(to, array.len())) };
    if &plain(from) == to || !can_cast_types(to, from) {
        return Ok(cast);
    }
    // Casts round and cut in silence: only what comes back as it went is kept.
    let Ok(back) = cast_with_options(&cast, from, &options) else { return Ok(new_null_array(to, array.len())) };
    match arrow_ord::cmp::not_distinct(&back, array) {
        Ok(same) if same.true_count() == array.len() => Ok(cast),
        Ok(same) => {
            let lost = arrow::compute::not(&same)?;
            Ok(arrow::compute::nullif(&cast, &lost)?)
        }
        // Nested values cannot be compared so; their casts keep every leaf or make it null.
        Err(_) => Ok(cast),
    }
}

fn put_aside(
    rescued: &mut BTreeMap<usize, String>,
    column: &str,
    array: &ArrayRef,
    is_lost: impl Fn(usize) -> bool,
) -> Result<(), Fault> {
    let options = FormatOptions::default();
    let array = named_by_offset(array);
    let unfit = |_| Fault::Damaged(format!("its column {column} does not fit the table and cannot be written as text"));
    let texts = ArrayFormatter::try_new(array.as_ref(), &options).map_err(unfit)?;
    for row in (0..array.len()).filter(|row| is_lost(*row)) {
        let object = rescued.entry(row).or_default();
        object.push(if object.is_empty() { '{' } else { ',' });
        object.push_str(&serde_json::Value::from(column).to_string());
        object.push(':');
        object.push_str(&serde_json::Value::from(texts.value(row).try_to_string().map_err(unfit)?).to_string());
    }
    Ok(())
}

/// Timestamps in `UTC` as timestamps in `+00:00`: the formatter of this build knows no names of zones.
fn named_by_offset(array: &ArrayRef) -> ArrayRef {
    let DataType::Timestamp(unit, Some(zone)) = array.data_type() else { return array.clone() };
    if !zone.eq_ignore_ascii_case("UTC") {
        return array.clone();
    }
    match unit {
        TimeUnit::Second => Arc::new(array.as_primitive::<TimestampSecondType>().clone().with_timezone("+00:00")),
        TimeUnit::Millisecond => {
            Arc::new(array.as_primitive::<TimestampMillisecondType>().clone().with_timezone("+00:00"))
        }
        TimeUnit::Microsecond => {
            Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("+00:00"))
        }
        TimeUnit::Nanosecond => {
            Arc::new(array.as_primitive::<TimestampNanosecondType>().clone().with_timezone("+00:00"))
        }
    }
}
