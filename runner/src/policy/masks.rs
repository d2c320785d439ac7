//! Which column gets which mask, and masks on batches.
//!
//! A name in `mask` is a column, a field of a struct by its path (`address.zip`, also within lists), or a glob. A name
//! wins over a glob, a longer glob over a shorter one, both over the mask of a data class. A glob and a class reach into
//! structs and lists; a name of a struct takes `drop` and `null` alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, BinaryArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray,
};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use ingest_core::{CLASS, Error, MASK, Result, columns, glob_matches, nearest};

use super::key::MaskKey;
use super::values::{mask_values, masked_type, plain, takes};
use crate::config::{ClassMasks, Mask};

/// What the configuration says of the masks of a stream.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// By column, path or glob.
    pub named: BTreeMap<String, Mask>,
    /// By data class.
    pub by_class: ClassMasks,
}

/// How a mask was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Name,
    Glob,
    Class,
}

/// What is wrong with a mask: the name in the configuration where it has one, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskFault {
    /// The key under `mask`; `None` = the mask comes from a data class.
    pub name: Option<String>,
    /// The column.
    pub column: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

#[derive(Debug, Clone, Copy)]
struct Found<'r> {
    mask: &'r Mask,
    by: By,
    /// The key under `mask`, or the class.
    key: &'r str,
}

impl Rules {
    /// Whether nothing is masked.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.by_class == ClassMasks::default()
    }

    fn find(&self, path: &str, class: Option<&str>) -> Option<Found<'_>> {
        if let Some((key, mask)) = self.named.get_key_value(path) {
            return Some(Found { mask, by: By::Name, key });
        }
        let globs = self.named.iter().filter(|(glob, _)| glob.contains(['*', '?']) && glob_matches(glob, path));
        if let Some((key, mask)) = globs.max_by_key(|(glob, _)| glob.len()) {
            return Some(Found { mask, by: By::Glob, key });
        }
        let class = class?;
        let (key, mask) = self.by_class.of(class)?;
        Some(Found { mask, by: By::Class, key })
    }

    /// The mask of a path by its name or a glob alone, for values that have no column.
    pub(super) fn mask_of(&self, path: &str, class: Option<&str>) -> Option<&Mask> {
        self.find(path, class).map(|found| found.mask)
    }

    /// Whether a name or glob may speak of something below a path.
    pub(super) fn reaches_below(&self, path: &str) -> bool {
        let below =
            |name: &String| name.contains(['*', '?']) || name.strip_prefix(path).is_some_and(|r| r.starts_with('.'));
        self.named.keys().any(below)
    }

    /// Finds the masks for the columns of a schema.
    ///
    /// # Errors
    /// All masks that cannot take the type of their column.
    pub fn compile(&self, schema: &SchemaRef) -> std::result::Result<Masks, Vec<MaskFault>> {
        let mut faults = Vec::new();
        let (mut steps, mut fields) = (Vec::new(), Vec::new());
        for field in schema.fields() {
            if columns::is_reserved(field.name()) {
                steps.push(Step::Keep);
                fields.push(Arc::clone(field));
                continue;
            }
            let (step, masked) = self.field(field.name(), field, None, &mut faults);
            steps.push(step);
            fields.extend(masked);
        }
        faults.extend(self.lost(schema));
        if !faults.is_empty() {
            return Err(faults);
        }
        let idle = steps.iter().all(|step| matches!(step, Step::Keep));
        let masked = match idle {
            true => Arc::clone(schema),
            false => Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())),
        };
        Ok(Masks { steps, schema: masked, idle })
    }

    /// Fields of structs whose struct came as something else: their values would be written in clear.
    fn lost(&self, schema: &SchemaRef) -> Vec<MaskFault> {
        let paths = paths(schema.fields());
        let has_parts = |path: &str| paths.iter().any(|p| p.strip_prefix(path).is_some_and(|r| r.starts_with('.')));
        let mut faults = Vec::new();
        for (name, mask) in self.named.iter().filter(|(name, _)| !name.contains(['*', '?']) && !paths.contains(*name)) {
            let mut parents = name.match_indices('.').map(|(dot, _)| &name[..dot]);
            let lost =
                parents.find(|path| paths.contains(*path) && !has_parts(path) && self.find(path, None).is_none());
            faults.extend(lost.filter(|_| *mask != Mask::Keep).map(|parent| MaskFault {
                name: Some(name.clone()),
                column: name.clone(),
                what: format!("the mask of {name:?} cannot be placed: column {parent:?} has no such field"),
                hint: format!("mask {parent:?} as a whole"),
            }));
        }
        faults
    }

    /// Names that no column has.
    pub fn unknown(&self, schema: &SchemaRef) -> Vec<MaskFault> {
        let paths = paths(schema.fields());
        let unknown = self.named.keys().filter(|name| !name.contains(['*', '?']) && !paths.contains(name.as_str()));
        let fault = |name: &String| MaskFault {
            name: Some(name.clone()),
            column: name.clone(),
            what: format!("there is no column {name:?} to mask"),
            hint: match nearest(name, paths.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`ingest discover` lists the columns".to_owned(),
            },
        };
        unknown.map(fault).collect()
    }

    fn field<'r>(
        &'r self,
        path: &str,
        field: &'r FieldRef,
        inherited: Option<Found<'r>>,
        faults: &mut Vec<MaskFault>,
    ) -> (Step, Option<FieldRef>) {
        let class = field.metadata().get(CLASS).map(String::as_str);
        let found = self.find(path, class).or(inherited);
        if found.is_some_and(|found| *found.mask == Mask::Drop) {
            return (Step::Drop, None);
        }
        let (step, data_type) = self.data_type(path, field.data_type(), found, faults);
        if matches!(step, Step::Keep) {
            return (step, Some(Arc::clone(field)));
        }
        let mut metadata = field.metadata().clone();
        if data_type != *field.data_type() {
            // What the source said of the values does not hold for masked ones.
            metadata.retain(|key, _| key == CLASS);
        }
        if let Some(found) = found {
            metadata.insert(MASK.to_owned(), found.mask.to_string());
        }
        let masked = Field::new(field.name(), data_type, true).with_metadata(metadata);
        (step, Some(Arc::new(masked)))
    }

    fn data_type<'r>(
        &'r self,
        path: &str,
        data_type: &'r DataType,
        found: Option<Found<'r>>,
        faults: &mut Vec<MaskFault>,
    ) -> (Step, DataType) {
        use DataType as D;
        if let Some(found) = found
            && *found.mask == Mask::Null
        {
            return (Step::Mask(Mask::Null), data_type.clone());
        }
        if found.is_some_and(|found| *found.mask == Mask::Keep) && !self.reaches_below(path) {
            return (Step::Keep, data_type.clone());
        }
        let mut element = |inner: &'r FieldRef| {
            let (step, masked) = self.data_type(path, inner.data_type(), found, faults);
            let field = Arc::new(inner.as_ref().clone().with_data_type(masked).with_nullable(true));
            (step, field)
        };
        let listed = |step: Step, to: D| match step {
            Step::Keep => (Step::Keep, data_type.clone()),
            step => (Step::Each(Box::new(step)), to),
        };
        match data_type {
            D::List(inner) => {
                let (step, field) = element(inner);
                listed(step, D::List(field))
            }
            D::LargeList(inner) => {
                let (step, field) = element(inner);
                listed(step, D::LargeList(field))
            }
            D::FixedSizeList(inner, size) => {
                let (step, field) = element(inner);
                listed(step, D::FixedSizeList(field, *size))
            }
            D::Dictionary(_, values) => self.data_type(path, values, found, faults),
            D::Struct(fields) => self.fields(path, fields, found, faults),
            _ => self.leaf(path, data_type, found, faults),
        }
    }

    fn fields<'r>(
        &'r self,
        path: &str,
        fields: &'r Fields,
        found: Option<Found<'r>>,
        faults: &mut Vec<MaskFault>,
    ) -> (Step, DataType) {
        if let Some(found) = found.filter(|found| found.by == By::Name && *found.mask != Mask::Keep) {
            faults.push(unfit(path, "a struct", &found, &format!("name its fields, `{path}.FIELD`")));
        }
        let inherited = found.filter(|found| found.by != By::Name);
        let (mut steps, mut masked) = (Vec::new(), Vec::new());
        for field in fields {
            let (step, field) = self.field(&format!("{path}.{}", field.name()), field, inherited, faults);
            steps.push(step);
            masked.extend(field);
        }
        if steps.iter().all(|step| matches!(step, Step::Keep)) {
            return (Step::Keep, DataType::Struct(fields.clone()));
        }
        if masked.is_empty() {
            // A struct without fields is nothing that a table holds; that the value was there is not said either.
            return (Step::Mask(Mask::Null), DataType::Struct(fields.clone()));
        }
        (Step::Inside(steps), DataType::Struct(masked.into()))
    }

    fn leaf(
        &self,
        path: &str,
        data_type: &DataType,
        found: Option<Found<'_>>,
        faults: &mut Vec<MaskFault>,
    ) -> (Step, DataType) {
        let Some(found) = found.filter(|found| *found.mask != Mask::Keep) else {
            return (Step::Keep, data_type.clone());
        };
        match masked_type(found.mask, data_type) {
            Some(masked) => (Step::Mask(found.mask.clone()), masked),
            None => {
                let hint = format!("it takes {}: choose another mask, `null`, `drop` or `keep`", takes(found.mask));
                faults.push(unfit(path, &data_type.to_string(), &found, &hint));
                (Step::Keep, data_type.clone())
            }
        }
    }
}

fn unfit(path: &str, kind: &str, found: &Found<'_>, hint: &str) -> MaskFault {
    let by_class = found.by == By::Class;
    let of = if by_class { format!(" of class {}", found.key) } else { String::new() };
    MaskFault {
        name: (!by_class).then(|| found.key.to_owned()),
        column: path.to_owned(),
        what: format!("the mask `{}`{of} cannot take column {path:?}, which is {kind}", found.mask),
        hint: hint.to_owned(),
    }
}

/// Every column and field of a struct by its path.
pub fn paths(fields: &Fields) -> BTreeSet<String> {
    fn collect(path: &str, field: &Field, into: &mut BTreeSet<String>) {
        into.insert(path.to_owned());
        let mut data_type = field.data_type();
        while let DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) = data_type {
            data_type = inner.data_type();
        }
        if let DataType::Struct(fields) = data_type {
            fields.iter().for_each(|field| collect(&format!("{path}.{}", field.name()), field, into));
        }
    }
    let mut paths = BTreeSet::new();
    fields.iter().for_each(|field| collect(field.name(), field, &mut paths));
    paths
}

/// The masks of the columns of one schema.
#[derive(Debug, Clone)]
pub struct Masks {
    steps: Vec<Step>,
    schema: SchemaRef,
    idle: bool,
}

/// What is done to a column.
#[derive(Debug, Clone)]
enum Step {
    Keep,
    Drop,
    Mask(Mask),
    /// The fields of a struct.
    Inside(Vec<Step>),
    /// The elements of a list.
    Each(Box<Step>),
}

impl Masks {
    /// The schema after the masks.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether nothing is masked.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// The batch after the masks. It must have the schema that the masks were compiled for.
    ///
    /// # Errors
    /// As [`mask_values`].
    pub fn apply(&self, batch: &RecordBatch, key: &MaskKey) -> Result<RecordBatch> {
        if self.idle {
            return Ok(batch.clone());
        }
        let schema = batch.schema_ref();
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        for ((step, array), field) in self.steps.iter().zip(batch.columns()).zip(schema.fields()) {
            let array = match field.name() == columns::ABSENT {
                true => self.counted_again(array, schema),
                false => Arc::clone(array),
            };
            arrays.extend(step.apply(&array, key, field.name())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?)
    }

    /// Bits that count columns, where some of these are left out.
    fn counted_again(&self, bits: &ArrayRef, schema: &Schema) -> ArrayRef {
        let Some(came) = bits.as_binary_opt::<i32>() else { return Arc::clone(bits) };
        let data = self.steps.iter().zip(schema.fields()).filter(|(_, field)| !columns::is_reserved(field.name()));
        let kept: Vec<usize> =
            data.enumerate().filter(|(_, (step, _))| !matches!(step, Step::Drop)).map(|(i, _)| i).collect();
        if kept.iter().enumerate().all(|(to, from)| to == *from) {
            return Arc::clone(bits);
        }
        let moved = came.iter().map(|bits| {
            bits.map(|bits| {
                let mut moved = vec![0_u8; kept.len().div_ceil(8)];
                for (to, from) in kept.iter().enumerate() {
                    if bits.get(from / 8).is_some_and(|byte| byte >> (from % 8) & 1 == 1) {
                        moved[to / 8] |= 1 << (to % 8);
                    }
                }
                moved
            })
        });
        Arc::new(moved.collect::<BinaryArray>())
    }
}

impl Step {
    /// The column after the mask; `None` where it is left out.
    fn apply(&self, array: &ArrayRef, key: &MaskKey, column: &str) -> Result<Option<ArrayRef>> {
        Ok(Some(match self {
            Self::Keep => Arc::clone(array),
            Self::Drop => return Ok(None),
            Self::Mask(Mask::Null) => arrow_array::new_null_array(array.data_type(), array.len()),
            Self::Mask(mask) => mask_values(mask, key, array, column)?,
            Self::Inside(steps) => {
                let array = plain(array)?;
                let came = array.as_struct();
                let (mut fields, mut arrays) = (Vec::new(), Vec::new());
                for ((step, inner), field) in steps.iter().zip(came.columns()).zip(came.fields()) {
                    let path = format!("{column}.{}", field.name());
                    let Some(masked) = step.apply(inner, key, &path)? else { continue };
                    fields.push(masked_field(step, field, &masked));
                    arrays.push(masked);
                }
                Arc::new(StructArray::try_new(fields.into(), arrays, came.nulls().cloned())?)
            }
            Self::Each(step) => each(step, &plain(array)?, key, column)?,
        }))
    }
}

/// A field as [`Rules::compile`] has announced it.
fn masked_field(step: &Step, field: &FieldRef, array: &ArrayRef) -> FieldRef {
    if matches!(step, Step::Keep) {
        return Arc::clone(field);
    }
    let mut metadata = field.metadata().clone();
    if array.data_type() != field.data_type() {
        metadata.retain(|key, _| key == CLASS);
    }
    if let Step::Mask(mask) = step {
        metadata.insert(MASK.to_owned(), mask.to_string());
    }
    Arc::new(Field::new(field.name(), array.data_type().clone(), true).with_metadata(metadata))
}

fn each(step: &Step, array: &ArrayRef, key: &MaskKey, column: &str) -> Result<ArrayRef> {
    fn list<O: OffsetSizeTrait>(
        step: &Step,
        inner: &FieldRef,
        came: &GenericListArray<O>,
        key: &MaskKey,
        column: &str,
    ) -> Result<ArrayRef> {
        let (field, values) = elements(step, inner, came.values(), key, column)?;
        Ok(Arc::new(GenericListArray::<O>::try_new(field, came.offsets().clone(), values, came.nulls().cloned())?))
    }
    match array.data_type() {
        DataType::List(inner) => list(step, inner, array.as_list::<i32>(), key, column),
        DataType::LargeList(inner) => list(step, inner, array.as_list::<i64>(), key, column),
        DataType::FixedSizeList(inner, size) => {
            let came = array.as_fixed_size_list();
            let (field, values) = elements(step, inner, came.values(), key, column)?;
            Ok(Arc::new(FixedSizeListArray::try_new(field, *size, values, came.nulls().cloned())?))
        }
        other => {
            Err(Error::unexpected("a list was announced, and none came").with("column", column).with("type", other))
        }
    }
}

fn elements(
    step: &Step,
    inner: &FieldRef,
    values: &ArrayRef,
    key: &MaskKey,
    column: &str,
) -> Result<(FieldRef, ArrayRef)> {
    // Lists have no fields that a mask could leave out.
    let masked =
        step.apply(values, key, column)?.ok_or_else(|| Error::unexpected("the elements of a list are gone"))?;
    let field = inner.as_ref().clone().with_data_type(masked.data_type().clone()).with_nullable(true);
    Ok((Arc::new(field), masked))
}

/// A path below another.
pub(super) fn below<'p>(path: &'p str, name: &'p str) -> Cow<'p, str> {
    if path.is_empty() { Cow::Borrowed(name) } else { Cow::Owned(format!("{path}.{name}")) }
}
