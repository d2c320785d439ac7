//! How the batches of one schema become batches for the table. Made once per schema of a batch, used for every batch.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use ingest_core::{Error, ErrorKind, Result, columns as reserved};

use super::Conform;
use super::bounds::{Bounds, either, valid_among};
use super::columns::FROM_CONNECTOR;
use super::exact::{Rule, all_valid, blank, convert, rule, same_type, texts};
use super::names::stored_fields;
use super::rescue::Rescued;
use super::text::{is_json, kernel};
use crate::config::SchemaPolicy;

/// Where the columns of the table come from, for one schema of a batch.
#[derive(Debug)]
pub(super) struct Layout {
    /// One per column of the storage schema.
    pub columns: Vec<Origin>,
    /// Columns of the batch that have no place: all their values are rescued.
    rescued: Vec<Homeless>,
    /// Where the reserved columns stand in the batch.
    reserved: HashMap<&'static str, usize>,
    /// The columns that the table format casts: as they come, and as they are stored.
    cast: Option<(SchemaRef, SchemaRef)>,
}

/// Where a column of the table comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// The batch has no such column.
    Null,
    /// A column of the batch.
    Data(Step),
    /// A column of ours.
    Ours(String),
}

/// A column of a batch without a place in the table.
#[derive(Debug)]
struct Homeless {
    index: usize,
    column: Arc<str>,
    json: bool,
}

/// What is done to a column of a batch.
#[derive(Debug)]
pub(super) struct Step {
    index: usize,
    column: Arc<str>,
    json: bool,
    /// The plain type with the names of the table, where it differs from what comes.
    plain: Option<Plain>,
    bounds: Option<Bounds>,
    /// Its place among the columns that the table format casts.
    cast: Option<usize>,
    last: Last,
}

/// The last part of the way to the table's type.
#[derive(Debug)]
enum Last {
    /// It is there.
    Keep,
    /// An exact conversion from the stored type.
    Convert(DataType),
    /// The table's column is text: that of the column as it came.
    Text,
    /// No value fits.
    Rescue(DataType),
}

/// Types on the way to a plain array.
#[derive(Debug)]
struct Plain {
    /// Without dictionaries, runs and list views.
    flat: DataType,
    /// With the stored names.
    named: DataType,
}

/// The data columns of a batch in the table's types.
pub(super) struct Columns {
    /// By place in the storage schema; `None` where the column is null or ours.
    pub arrays: Vec<Option<ArrayRef>>,
    /// What did not fit.
    pub rescued: Vec<Rescued>,
}

impl Layout {
    /// Finds the way of every column.
    ///
    /// # Errors
    /// `Unexpected` for a column that the connector must not give; `SchemaChanged` for another type than announced under
    /// `freeze` and `fail`.
    pub(super) fn of(conform: &Conform, batch: &SchemaRef) -> Result<Self> {
        let mut columns: Vec<Origin> = conform
            .storage
            .fields()
            .iter()
            .map(|field| match reserved::is_reserved(&field.name().to_lowercase()) {
                true => Origin::Ours(field.name().clone()),
                false => Origin::Null,
            })
            .collect();
        let places: HashMap<&str, usize> =
            conform.storage.fields().iter().enumerate().map(|(i, field)| (field.name().as_str(), i)).collect();
        let announced: HashMap<&str, &(Arc<str>, Option<Arc<str>>)> =
            conform.columns.iter().map(|column| (column.0.as_ref(), column)).collect();
        let (mut rescued, mut reserved) = (Vec::new(), HashMap::new());
        let (mut came, mut stored) = (Vec::new(), Vec::new());
        let mut seen = std::collections::HashSet::new();
        for (index, field) in batch.fields().iter().enumerate() {
            if !seen.insert(field.name()) {
                return Err(bug(conform, field, "the connector gave two columns of one name"));
            }
            if let Some(name) = FROM_CONNECTOR.into_iter().find(|name| name == field.name()) {
                reserved.insert(name, index);
                continue;
            }
            if reserved::is_reserved(field.name()) {
                return Err(bug(conform, field, "the connector filled a column that is ours alone"));
            }
            let json = is_json(field) || conform.source.field_with_name(field.name()).is_ok_and(is_json);
            let homeless = || Homeless { index, column: field.name().as_str().into(), json };
            match announced.get(field.name().as_str()) {
                Some((_, Some(name))) => {
                    let place = *places
                        .get(name.as_ref())
                        .ok_or_else(|| bug(conform, field, "a column has no place in its own schema"))?;
                    let mut step = Step::of(conform, field, conform.storage.field(place), &mut came, &mut stored)?;
                    (step.index, step.json) = (index, json);
                    columns[place] = Origin::Data(step);
                }
                Some((_, None)) => rescued.push(homeless()),
                None if matches!(conform.policy, SchemaPolicy::Evolve | SchemaPolicy::Rescue) => {
                    rescued.push(homeless());
                }
                None => {
                    return Err(bug(conform, field, "the connector gave a column that is not in the stream's schema"));
                }
            }
        }
        let cast = (!came.is_empty()).then(|| (Arc::new(Schema::new(came)), Arc::new(Schema::new(stored))));
        Ok(Self { columns, rescued, reserved, cast })
    }

    /// A reserved column of the batch.
    pub(super) fn reserved<'b>(&self, batch: &'b RecordBatch, name: &str) -> Option<&'b ArrayRef> {
        self.reserved.get(name).map(|index| batch.column(*index))
    }

    /// Brings the data columns of a batch into the table's types.
    pub(super) fn apply(&self, conform: &Conform, batch: &RecordBatch) -> Result<Columns> {
        let mut rescued = self.homeless(batch);
        let mut work = Vec::with_capacity(self.columns.len());
        for origin in &self.columns {
            work.push(match origin {
                Origin::Data(step) => Some((step, step.checked(batch)?)),
                Origin::Null | Origin::Ours(_) => None,
            });
        }
        let cast = self.cast(conform, batch, &work)?;
        let mut arrays = Vec::with_capacity(work.len());
        for item in work {
            let Some((step, checked)) = item else {
                arrays.push(None);
                continue;
            };
            let array = match (&cast, step.cast) {
                (Some(cast), Some(place)) => Arc::clone(cast.column(place)),
                _ => checked.array,
            };
            let (array, lost) = step.finish(array, batch)?;
            if let Some(rows) = either(checked.lost, lost) {
                let array = Arc::clone(batch.column(step.index));
                rescued.push(Rescued { column: Arc::clone(&step.column), array, json: step.json, rows });
            }
            arrays.push(Some(array));
        }
        Ok(Columns { arrays, rescued })
    }

    fn homeless(&self, batch: &RecordBatch) -> Vec<Rescued> {
        let values = self.rescued.iter().filter_map(|homeless| {
            let array = Arc::clone(batch.column(homeless.index));
            let rows = all_valid(&array)?;
            Some(Rescued { column: Arc::clone(&homeless.column), array, json: homeless.json, rows })
        });
        values.collect()
    }

    /// Lets the table format cast the columns that it stores in another type.
    fn cast(
        &self,
        conform: &Conform,
        batch: &RecordBatch,
        work: &[Option<(&Step, Checked)>],
    ) -> Result<Option<RecordBatch>> {
        let Some((came, stored)) = &self.cast else { return Ok(None) };
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; came.fields().len()];
        for (step, checked) in work.iter().flatten() {
            if let Some(place) = step.cast {
                arrays[place] = Some(Arc::clone(&checked.array));
            }
        }
        let arrays = arrays.into_iter().flatten().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let came = RecordBatch::try_new_with_options(Arc::clone(came), arrays, &options)?;
        let cast = conform.format.to_storage(&came, stored).map_err(|e| e.with("stream", &conform.stream))?;
        Ok(Some(cast))
    }
}

fn bug(conform: &Conform, field: &Field, message: &str) -> Error {
    Error::unexpected(message)
        .with("stream", &conform.stream)
        .with("column", field.name())
        .hint("this is a bug of the connector: report it to its author")
}

/// A column with the values that can be stored, and the rows of the others.
struct Checked {
    array: ArrayRef,
    lost: Option<BooleanBuffer>,
}

impl Step {
    fn of(
        conform: &Conform,
        field: &FieldRef,
        table: &Field,
        came: &mut Vec<Field>,
        stored: &mut Vec<FieldRef>,
    ) -> Result<Self> {
        let plain = Plain::of(conform, field)?;
        let named = plain.as_ref().map_or(field.data_type(), |plain| &plain.named);
        // The format looks at the name too; here it is the table's, which it has accepted.
        let one = Field::new(table.name(), named.clone(), true);
        let as_stored = conform
            .format
            .storage_schema(&Arc::new(Schema::new(vec![one.clone()])))
            .map_err(|e| e.with("stream", &conform.stream))?;
        let as_stored = as_stored.fields()[0].clone();
        refuse_unannounced(conform, field, as_stored.data_type())?;
        let last = match rule(as_stored.data_type(), table.data_type()) {
            Rule::Same if as_stored.data_type() == table.data_type() => Last::Keep,
            Rule::Text => Last::Text,
            Rule::Never => Last::Rescue(table.data_type().clone()),
            _ => Last::Convert(table.data_type().clone()),
        };
        let mut step = Self {
            index: 0,
            column: field.name().as_str().into(),
            json: false,
            bounds: None,
            cast: None,
            last,
            plain: None,
        };
        if matches!(step.last, Last::Keep | Last::Convert(_)) {
            step.bounds = Bounds::of(named, as_stored.data_type());
            if named != as_stored.data_type() {
                step.cast = Some(came.len());
                came.push(one);
                stored.push(as_stored);
            }
        }
        step.plain = plain;
        Ok(step)
    }

    /// The column in plain types, with what the format cannot store set to null.
    fn checked(&self, batch: &RecordBatch) -> Result<Checked> {
        let came = batch.column(self.index);
        let array = match &self.plain {
            Some(plain) => plain.apply(came, &self.column)?,
            None => Arc::clone(came),
        };
        let outside = self.bounds.as_ref().and_then(|bounds| bounds.outside(&array));
        Ok(match outside {
            Some(rows) => Checked { array: blank(&array, &rows, &self.column)?, lost: valid_among(&array, rows) },
            None => Checked { array, lost: None },
        })
    }

    /// Brings the column, stored by now, into the table's type.
    fn finish(&self, array: ArrayRef, batch: &RecordBatch) -> Result<(ArrayRef, Option<BooleanBuffer>)> {
        match &self.last {
            Last::Keep => Ok((array, None)),
            Last::Text => Ok((texts(batch.column(self.index), &self.column)?, None)),
            Last::Rescue(to) => Ok((arrow_array::new_null_array(to, array.len()), all_valid(&array))),
            Last::Convert(to) => {
                let converted = convert(&array, to, &self.column)?;
                match converted.lost {
                    Some(rows) => Ok((blank(&converted.array, &rows, &self.column)?, Some(rows))),
                    None => Ok((converted.array, None)),
                }
            }
        }
    }
}

/// Under `freeze` and `fail` a batch must have the types that were announced.
fn refuse_unannounced(conform: &Conform, field: &Field, stored: &DataType) -> Result<()> {
    if !matches!(conform.policy, SchemaPolicy::Freeze | SchemaPolicy::Fail) {
        return Ok(());
    }
    let announced = conform.source.field_with_name(field.name())?;
    if announced.data_type() == field.data_type() || field.data_type() == &DataType::Null {
        return Ok(());
    }
    let named = stored_fields(&conform.stream, &Fields::from(vec![announced.clone()]))?;
    let was = conform.format.storage_schema(&Arc::new(Schema::new(named)))?;
    if same_type(was.field(0).data_type(), stored) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::SchemaChanged, "a column came with another type than its stream has")
        .with("stream", &conform.stream)
        .with("column", field.name())
        .with("from", announced.data_type())
        .with("to", field.data_type())
        .hint("restore the type at the source, leave the column out with `columns`, or accept the change with `on_schema_change: evolve` or `rescue`"))
}

impl Plain {
    fn of(conform: &Conform, field: &FieldRef) -> Result<Option<Self>> {
        let flat = flatten(field.data_type());
        let one = Fields::from(vec![Field::new(field.name(), flat.clone(), true)]);
        let named = stored_fields(&conform.stream, &one)?[0].data_type().clone();
        Ok((named != *field.data_type()).then_some(Self { flat, named }))
    }

    fn apply(&self, array: &ArrayRef, column: &str) -> Result<ArrayRef> {
        let flat = match *array.data_type() == self.flat {
            true => Arc::clone(array),
            false => arrow_cast::cast(array, &self.flat).map_err(|e| kernel(e, column))?,
        };
        if self.flat == self.named {
            return Ok(flat);
        }
        let data = rename(flat.to_data(), &self.named).map_err(|e| kernel(e, column))?;
        Ok(make_array(data))
    }
}

/// The type without dictionaries, runs and list views at any depth.
fn flatten(data_type: &DataType) -> DataType {
    use DataType as D;
    let inner =
        |field: &FieldRef| -> FieldRef { Arc::new(field.as_ref().clone().with_data_type(flatten(field.data_type()))) };
    match data_type {
        D::Dictionary(_, values) => flatten(values),
        D::RunEndEncoded(_, values) => flatten(values.data_type()),
        D::List(field) => D::List(inner(field)),
        D::LargeList(field) => D::LargeList(inner(field)),
        D::ListView(field) => D::List(inner(field)),
        D::LargeListView(field) => D::LargeList(inner(field)),
        D::FixedSizeList(field, size) => D::FixedSizeList(inner(field), *size),
        D::Struct(fields) => D::Struct(fields.iter().map(inner).collect()),
        D::Map(field, sorted) => D::Map(inner(field), *sorted),
        other => other.clone(),
    }
}

/// The same data under a type that differs in the names of fields alone.
fn rename(
    data: arrow::array::ArrayData,
    to: &DataType,
) -> std::result::Result<arrow::array::ArrayData, arrow_schema::ArrowError> {
    let inner: Vec<&DataType> = match to {
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => vec![field.data_type()],
        _ => return Ok(data),
    };
    let children = data.child_data().iter().cloned().zip(inner).map(|(child, to)| rename(child, to));
    let children = children.collect::<std::result::Result<Vec<_>, _>>()?;
    data.into_builder().data_type(to.clone()).child_data(children).build()
}
