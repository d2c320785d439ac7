//! Regions of a table: which rows lie in one, and what the statistics of a file already say about that.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::compute::kernels::boolean::{and, is_null, or};
use arrow::compute::kernels::cmp::{eq, gt, gt_eq, lt};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Date32Array, Int64Array, RecordBatch, Scalar, StringArray, TimestampMicrosecondArray,
};
use arrow_cast::cast;
use arrow_schema::{DataType, Schema};
use arrow_select::filter::prep_null_mask_filter;
use ingest_core::{Error, ErrorKind, Json, Region, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::action::Add;
use crate::writer::constant;

/// How much of a file lies in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Nothing,
    /// Some rows, none or all: the statistics do not tell.
    Unclear,
    Everything,
}

/// Regions with typed bounds: rows in any of them are meant.
#[derive(Debug)]
pub(crate) struct Regions(Vec<Vec<Term>>);

/// One condition of a region; all must hold.
#[derive(Debug)]
struct Term {
    column: String,
    data_type: DataType,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Null,
    Equals(ArrayRef),
    /// From, inclusive, to, exclusive.
    Range(ArrayRef, ArrayRef),
}

/// The parts of a file's statistics that are used, with numbers as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    num_records: Option<u64>,
    #[serde(default)]
    min_values: HashMap<String, Box<RawValue>>,
    #[serde(default)]
    max_values: HashMap<String, Box<RawValue>>,
    #[serde(default)]
    null_count: HashMap<String, Json>,
}

/// What is known of the values of a column in a file.
pub(crate) enum Bounds {
    Unknown,
    /// All of them are null.
    Nulls,
    /// The lowest and the highest, one value each.
    Between(ArrayRef, ArrayRef),
}

impl Stats {
    fn of(file: &Add) -> Self {
        file.stats.as_deref().and_then(|s| serde_json::from_str(s).ok()).unwrap_or_default()
    }

    fn bounds(&self, column: &str, data_type: &DataType) -> Bounds {
        let nulls = self.null_count.get(column).and_then(Json::as_u64);
        if nulls.is_some() && nulls == self.num_records {
            return Bounds::Nulls;
        }
        let bound = |values: &HashMap<String, Box<RawValue>>| {
            let value = serde_json::from_str::<Json>(values.get(column)?.get()).ok()?;
            // A number keeps the digits in which it is written.
            match value {
                Json::Number(_) => typed(values.get(column)?.get(), data_type),
                value => literal(&value, data_type, column).ok(),
            }
        };
        match (bound(&self.min_values), bound(&self.max_values)) {
            (Some(min), Some(max)) => Bounds::Between(min, latest(max)),
            _ => Bounds::Unknown,
        }
    }
}

/// What the log knows of the values of a column in a file.
pub(crate) fn bounds(file: &Add, column: &str, data_type: &DataType, partition_by: &[String]) -> Result<Bounds> {
    if partition_by.iter().any(|name| name == column) {
        let value = file.partition_values.get(column).and_then(Option::as_deref);
        let one = constant(value, data_type, 1, column)?;
        return Ok(if one.is_null(0) { Bounds::Nulls } else { Bounds::Between(one.clone(), one) });
    }
    Ok(Stats::of(file).bounds(column, data_type))
}

impl Regions {
    /// Types the bounds of regions by the table's schema.
    ///
    /// # Errors
    /// A column that the table does not have, or a bound that its type cannot hold.
    pub fn new(regions: &[Region], schema: &Schema) -> Result<Self> {
        let equal = |values: &BTreeMap<String, Json>| -> Result<Vec<Term>> {
            values.iter().map(|(column, value)| Term::equals(schema, column, value)).collect()
        };
        let terms = regions.iter().map(|region| match region {
            Region::All => Ok(Vec::new()),
            Region::Equals(values) => equal(values),
            Region::Range { column, from, to, also } => {
                let mut terms = equal(also)?;
                terms.push(Term::range(schema, column, from, to)?);
                Ok(terms)
            }
        });
        Ok(Self(terms.collect::<Result<_>>()?))
    }

    /// The columns that decide.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(|t| t.column.as_str())
    }

    /// The columns that decide, with their types.
    pub fn typed_columns(&self) -> Vec<(String, DataType)> {
        let mut columns: Vec<(String, DataType)> = Vec::new();
        for term in self.0.iter().flatten() {
            if !columns.iter().any(|(name, _)| *name == term.column) {
                columns.push((term.column.clone(), term.data_type.clone()));
            }
        }
        columns
    }

    /// Which rows of a batch lie in a region: true or false, never null.
    pub fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let mut any = BooleanArray::from(vec![false; batch.num_rows()]);
        for terms in &self.0 {
            let mut all = BooleanArray::from(vec![true; batch.num_rows()]);
            for term in terms {
                let column = batch
                    .column_by_name(&term.column)
                    .ok_or_else(|| Error::unexpected("a region's column was not read").with("column", &term.column))?;
                all = and(&all, &term.test.mask(column)?)?;
            }
            any = or(&any, &all)?;
        }
        Ok(any)
    }

    /// What the log says about a file.
    pub fn share(&self, file: &Add, partition_by: &[String]) -> Result<Share> {
        let stats = Stats::of(file);
        let mut share = Share::Nothing;
        for terms in &self.0 {
            let mut region = Share::Everything;
            for term in terms {
                region = match (region, term.share(file, &stats, partition_by)?) {
                    (Share::Nothing, _) | (_, Share::Nothing) => Share::Nothing,
                    (Share::Everything, Share::Everything) => Share::Everything,
                    _ => Share::Unclear,
                };
            }
            share = match (share, region) {
                (Share::Everything, _) | (_, Share::Everything) => Share::Everything,
                (Share::Nothing, Share::Nothing) => Share::Nothing,
                _ => Share::Unclear,
            };
        }
        Ok(share)
    }
}

impl Term {
    fn equals(schema: &Schema, column: &str, value: &Json) -> Result<Self> {
        let data_type = column_type(schema, column)?;
        let test = match value {
            Json::Null => Test::Null,
            value => Test::Equals(literal(value, &data_type, column)?),
        };
        Ok(Self { column: column.into(), data_type, test })
    }

    fn range(schema: &Schema, column: &str, from: &Json, to: &Json) -> Result<Self> {
        let data_type = column_type(schema, column)?;
        let test = Test::Range(literal(from, &data_type, column)?, literal(to, &data_type, column)?);
        Ok(Self { column: column.into(), data_type, test })
    }

    fn share(&self, file: &Add, stats: &Stats, partition_by: &[String]) -> Result<Share> {
        if partition_by.contains(&self.column) {
            let value = file.partition_values.get(&self.column).and_then(Option::as_deref);
            let one = constant(value, &self.data_type, 1, &self.column)?;
            return Ok(if self.test.mask(&one)?.value(0) { Share::Everything } else { Share::Nothing });
        }
        let nulls = stats.null_count.get(&self.column).and_then(Json::as_u64);
        if let Test::Null = self.test {
            return Ok(match nulls {
                Some(0) => Share::Nothing,
                nulls if nulls.is_some() && nulls == stats.num_records => Share::Everything,
                _ => Share::Unclear,
            });
        }
        let (min, max) = match stats.bounds(&self.column, &self.data_type) {
            Bounds::Nulls => return Ok(Share::Nothing),
            Bounds::Unknown => return Ok(Share::Unclear),
            Bounds::Between(min, max) => (min, max),
        };
        let inside = self.test.span(&min, &max)?;
        // A NaN lies in no bounds and may be there all the same.
        let whole = nulls == Some(0) && !self.data_type.is_floating();
        Ok(if inside == Share::Everything && !whole { Share::Unclear } else { inside })
    }
}

impl Test {
    fn mask(&self, column: &ArrayRef) -> Result<BooleanArray> {
        let mask = match self {
            Self::Null => is_null(column)?,
            Self::Equals(value) => eq(column, &Scalar::new(value))?,
            Self::Range(from, to) => and(&gt_eq(column, &Scalar::new(from))?, &lt(column, &Scalar::new(to))?)?,
        };
        Ok(if mask.null_count() == 0 { mask } else { prep_null_mask_filter(&mask) })
    }

    /// Where values from `min` to `max` lie.
    fn span(&self, min: &ArrayRef, max: &ArrayRef) -> Result<Share> {
        let holds = |mask: BooleanArray| mask.is_valid(0) && mask.value(0);
        Ok(match self {
            Self::Null => Share::Unclear,
            Self::Equals(value) if holds(lt(value, min)?) || holds(gt(value, max)?) => Share::Nothing,
            Self::Equals(value) if holds(eq(value, min)?) && holds(eq(value, max)?) => Share::Everything,
            Self::Range(from, to) if holds(lt(max, from)?) || holds(gt_eq(min, to)?) => Share::Nothing,
            Self::Range(from, to) if holds(gt_eq(min, from)?) && holds(lt(max, to)?) => Share::Everything,
            _ => Share::Unclear,
        })
    }
}

/// Timestamps may be cut to milliseconds in statistics, so the largest value may be up to a millisecond later.
fn latest(max: ArrayRef) -> ArrayRef {
    match max.data_type() {
        DataType::Timestamp(..) => Arc::new(
            max.as_primitive::<TimestampMicrosecondType>()
                .unary::<_, TimestampMicrosecondType>(|v| v.saturating_add(999))
                .with_data_type(max.data_type().clone()),
        ),
        _ => max,
    }
}

fn column_type(schema: &Schema, column: &str) -> Result<DataType> {
    let field = schema.field_with_name(column).map_err(|_| {
        Error::new(ErrorKind::SchemaChanged, "rows are to be removed by a column that the table does not have")
            .with("column", column)
            .hint("load the stream again with `--full-refresh` into a new table")
    })?;
    match field.data_type() {
        DataType::Struct(_) | DataType::List(_) | DataType::Map(..) | DataType::Binary => {
            Err(Error::new(ErrorKind::Unsupported, "rows cannot be removed by a column of this type")
                .with("column", column)
                .with("type", field.data_type()))
        }
        data_type => Ok(data_type.clone()),
    }
}

/// A JSON value as one value of a type. Numbers stand for microseconds in timestamps and for days in dates; texts are
/// read as the type spells them.
fn literal(value: &Json, data_type: &DataType, column: &str) -> Result<ArrayRef> {
    let array: Option<ArrayRef> = match (value, data_type) {
        (Json::String(text), DataType::Utf8) => Some(Arc::new(StringArray::from(vec![text.as_str()]))),
        (Json::Bool(value), DataType::Boolean) => Some(Arc::new(BooleanArray::from(vec![*value]))),
        (Json::Number(number), DataType::Timestamp(_, zone)) => number.as_i64().map(|micros| {
            Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone_opt(zone.clone())) as ArrayRef
        }),
        (Json::Number(number), DataType::Date32) => {
            let days = number.as_i64().and_then(|d| i32::try_from(d).ok());
            days.map(|days| Arc::new(Date32Array::from(vec![days])) as ArrayRef)
        }
        (Json::Number(number), DataType::Utf8) => {
            Some(Arc::new(StringArray::from(vec![number.to_string()])) as ArrayRef)
        }
        (Json::Number(number), data_type) => typed(&number.to_string(), data_type),
        (Json::String(text), data_type) => typed(text, data_type),
        _ => None,
    };
    array.ok_or_else(|| {
        Error::new(ErrorKind::DataInvalid, "a bound of the rows to be removed does not fit its column")
            .with("column", column)
            .with("type", data_type)
    })
}

/// A value from its text; `None` where it cannot be held as it is written.
fn typed(text: &str, data_type: &DataType) -> Option<ArrayRef> {
    if let DataType::Int64 = data_type {
        return Some(Arc::new(Int64Array::from(vec![text.parse::<i64>().ok()?])));
    }
    if let DataType::Decimal128(_, scale) = data_type {
        // A cast would round.
        let fraction = text.split_once('.').map_or(0, |(_, f)| f.trim_end_matches('0').len());
        if fraction > usize::try_from(*scale).ok()? {
            return None;
        }
    }
    let array = cast(&StringArray::from(vec![text]), data_type).ok()?;
    array.is_valid(0).then_some(array)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use arrow_schema::{Field, TimeUnit};

    fn schema() -> Schema {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("file", DataType::Utf8, true),
            Field::new("at", utc, true),
            Field::new("price", DataType::Decimal128(38, 2), true),
            Field::new("x", DataType::Float64, true),
            Field::new("city", DataType::Utf8, true),
        ])
    }

    fn file(stats: Json) -> Add {
        let add = json!({"path": "a", "size": 1, "partitionValues": {"city": "Rome"}, "stats": stats.to_string()});
        serde_json::from_value(add).unwrap()
    }

    fn share(region: Region, stats: Json) -> Share {
        Regions::new(&[region], &schema()).unwrap().share(&file(stats), &["city".into()]).unwrap()
    }

    fn equals(column: &str, value: Json) -> Region {
        Region::Equals(BTreeMap::from([(column.to_string(), value)]))
    }

    fn range(column: &str, from: Json, to: Json) -> Region {
        Region::Range { column: column.into(), from, to, also: BTreeMap::new() }
    }

    #[test]
    fn statistics_tell_files_that_lie_outside_inside_and_across() {
        let stats = json!({"numRecords": 3, "nullCount": {"id": 0, "file": 0, "x": 0},
            "minValues": {"id": 10, "file": "b", "x": 1.5}, "maxValues": {"id": 20, "file": "b", "x": 1.5}});
        let s = |region| share(region, stats.clone());
        assert_eq!(s(Region::All), Share::Everything);
        assert_eq!(s(equals("id", json!(9))), Share::Nothing);
        assert_eq!(s(equals("id", json!(15))), Share::Unclear);
        assert_eq!(s(equals("file", json!("b"))), Share::Everything);
        assert_eq!(s(equals("file", json!("a"))), Share::Nothing);
        assert_eq!(s(equals("file", Json::Null)), Share::Nothing);
        assert_eq!(s(equals("price", json!("1.50"))), Share::Unclear, "no statistics");
        assert_eq!(s(equals("x", json!(1.5))), Share::Unclear, "a NaN may hide there");
        assert_eq!(s(equals("city", json!("Rome"))), Share::Everything);
        assert_eq!(s(equals("city", json!("Oslo"))), Share::Nothing);
        assert_eq!(s(range("id", json!(0), json!(10))), Share::Nothing);
        assert_eq!(s(range("id", json!(21), json!(30))), Share::Nothing);
        assert_eq!(s(range("id", json!(10), json!(21))), Share::Everything);
        assert_eq!(s(range("id", json!(10), json!(20))), Share::Unclear);
    }

    #[test]
    fn nulls_and_cut_timestamps_keep_a_file_unclear() {
        let stats = json!({"numRecords": 3, "nullCount": {"id": 1, "file": 3, "at": 0},
            "minValues": {"id": 10, "at": "2026-01-01T00:00:00.000Z"},
            "maxValues": {"id": 10, "at": "2026-01-01T00:00:00.001Z"}});
        let s = |region| share(region, stats.clone());
        assert_eq!(s(equals("id", json!(10))), Share::Unclear);
        assert_eq!(s(equals("file", json!("b"))), Share::Nothing);
        assert_eq!(s(equals("file", Json::Null)), Share::Everything);
        let end = "2026-01-01T00:00:00.001500Z";
        assert_eq!(s(range("at", json!("2026-01-01T00:00:00Z"), json!(end))), Share::Unclear);
        let end = "2026-01-01T00:00:00.002Z";
        assert_eq!(s(range("at", json!("2026-01-01T00:00:00Z"), json!(end))), Share::Everything);
        assert_eq!(s(range("at", json!(1_767_225_600_002_000_i64), json!(1_767_225_601_000_000_i64))), Share::Nothing);
    }

    #[test]
    fn decimals_of_many_digits_are_compared_exactly() {
        let text = r#"{"numRecords":1,"nullCount":{"price":0},"minValues":{"price":90071992547409930.01},"maxValues":{"price":90071992547409930.01}}"#;
        let mut add = file(json!({}));
        add.stats = Some(text.into());
        let share = |value: &str| {
            let regions = Regions::new(&[equals("price", json!(value))], &schema()).unwrap();
            regions.share(&add, &[]).unwrap()
        };
        assert_eq!(share("90071992547409930.01"), Share::Everything);
        assert_eq!(share("90071992547409930.02"), Share::Nothing);
    }

    #[test]
    fn bounds_that_do_not_fit_are_errors() {
        for (column, value) in [("id", json!(1.5)), ("id", json!("x")), ("price", json!("1.234")), ("x", json!([1]))] {
            let error = Regions::new(&[equals(column, value)], &schema()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DataInvalid);
        }
        assert_eq!(Regions::new(&[equals("gone", json!(1))], &schema()).unwrap_err().kind(), ErrorKind::SchemaChanged);
    }
}
