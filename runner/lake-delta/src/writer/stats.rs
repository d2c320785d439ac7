//! Statistics of a data file as Delta spells them, taken from the footer of the Parquet file.
//!
//! Text bounds are cut by the Parquet writer at 64 bytes, the upper one rounded up so that it stays a bound. A column
//! that holds a NaN gets no bounds: Parquet leaves NaN out of its own, and readers order it differently.

use std::cmp::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use chrono::{DateTime, Datelike, NaiveDate};
use parquet::data_type::AsBytes;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

/// How many columns get statistics where the table does not say: nested fields count one by one.
pub(crate) const INDEXED_COLUMNS: usize = 32;

/// Which float columns of a file hold a NaN, by number of the Parquet leaf.
#[derive(Debug, Default)]
pub(crate) struct NanColumns(Vec<usize>);

impl NanColumns {
    /// Looks at a batch of the file.
    pub fn observe(&mut self, batch: &RecordBatch) {
        let mut leaf = 0;
        for array in batch.columns() {
            self.observe_array(array, &mut leaf);
        }
    }

    fn observe_array(&mut self, array: &ArrayRef, leaf: &mut usize) {
        match array.data_type() {
            DataType::Struct(_) => array.as_struct().columns().iter().for_each(|c| self.observe_array(c, leaf)),
            other => {
                let number = *leaf;
                *leaf += leaves(other);
                if matches!(other, DataType::Float32 | DataType::Float64) && !self.0.contains(&number) && has_nan(array)
                {
                    self.0.push(number);
                }
            }
        }
    }
}

fn has_nan(array: &ArrayRef) -> bool {
    // Slots below a null may hold anything; a bound too few does no harm.
    match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().values().iter().any(|v| v.is_nan()),
        _ => array.as_primitive::<Float64Type>().values().iter().any(|v| v.is_nan()),
    }
}

fn leaves(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|f| leaves(f.data_type())).sum(),
        DataType::List(element) => leaves(element.data_type()),
        DataType::Map(entries, _) => leaves(entries.data_type()),
        _ => 1,
    }
}

/// The statistics of a file as JSON text.
pub(crate) fn statistics(schema: &Schema, footer: &ParquetMetaData, nan: &NanColumns, columns: usize) -> String {
    let mut walk = Walk { footer, nan, leaf: 0, left: columns };
    let mut text = Texts::default();
    for field in schema.fields() {
        walk.field(field, &mut text);
    }
    format!(
        "{{\"numRecords\":{},\"minValues\":{{{}}},\"maxValues\":{{{}}},\"nullCount\":{{{}}}}}",
        footer.file_metadata().num_rows(),
        text.min,
        text.max,
        text.nulls
    )
}

/// The members of the three JSON objects.
#[derive(Default)]
struct Texts {
    min: String,
    max: String,
    nulls: String,
}

fn push(object: &mut String, name: &str, value: &str) {
    if !object.is_empty() {
        object.push(',');
    }
    object.push_str(&json_text(name));
    object.push(':');
    object.push_str(value);
}

struct Walk<'a> {
    footer: &'a ParquetMetaData,
    nan: &'a NanColumns,
    leaf: usize,
    left: usize,
}

impl Walk<'_> {
    fn field(&mut self, field: &Field, out: &mut Texts) {
        if let DataType::Struct(fields) = field.data_type() {
            let mut inner = Texts::default();
            for field in fields {
                self.field(field, &mut inner);
            }
            for (object, text) in [(&mut out.min, inner.min), (&mut out.max, inner.max), (&mut out.nulls, inner.nulls)]
            {
                if !text.is_empty() {
                    push(object, field.name(), &format!("{{{text}}}"));
                }
            }
            return;
        }
        let leaf = self.leaf;
        self.leaf += leaves(field.data_type());
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        // The nulls that Parquet counts below a list or a map are those of the elements.
        if matches!(field.data_type(), DataType::List(_) | DataType::Map(..)) {
            return;
        }
        if let Some(nulls) = self.nulls(leaf) {
            push(&mut out.nulls, field.name(), &nulls.to_string());
        }
        if self.nan.0.contains(&leaf) {
            return;
        }
        if let Some((min, max)) = self.bounds(leaf) {
            if let Some(text) = bound_text(&min, field.data_type()) {
                push(&mut out.min, field.name(), &text);
            }
            if let Some(text) = bound_text(&max, field.data_type()) {
                push(&mut out.max, field.name(), &text);
            }
        }
    }

    fn nulls(&self, leaf: usize) -> Option<u64> {
        self.footer.row_groups().iter().map(|g| g.column(leaf).statistics()?.null_count_opt()).sum()
    }

    fn bounds(&self, leaf: usize) -> Option<(Bound, Bound)> {
        let mut bounds: Option<(Bound, Bound)> = None;
        for group in self.footer.row_groups() {
            let column = group.column(leaf);
            let statistics = column.statistics()?;
            if statistics.null_count_opt() == Some(column.num_values().cast_unsigned()) {
                continue;
            }
            let (min, max) = Bound::of(statistics)?;
            bounds = Some(match bounds {
                None => (min, max),
                Some((low, high)) => (
                    if min.order(&low)? == Ordering::Less { min } else { low },
                    if max.order(&high)? == Ordering::Greater { max } else { high },
                ),
            });
        }
        bounds
    }
}

/// The smallest or largest value of a column.
enum Bound {
    Int(i64),
    Float(f64),
    Bytes(Vec<u8>),
    /// Big-endian two's complement.
    Fixed(i128),
}

impl Bound {
    fn of(statistics: &Statistics) -> Option<(Self, Self)> {
        Some(match statistics {
            Statistics::Int32(s) => (Self::Int((*s.min_opt()?).into()), Self::Int((*s.max_opt()?).into())),
            Statistics::Int64(s) => (Self::Int(*s.min_opt()?), Self::Int(*s.max_opt()?)),
            Statistics::Float(s) => (Self::Float((*s.min_opt()?).into()), Self::Float((*s.max_opt()?).into())),
            Statistics::Double(s) => (Self::Float(*s.min_opt()?), Self::Float(*s.max_opt()?)),
            Statistics::ByteArray(s) => {
                (Self::Bytes(s.min_opt()?.as_bytes().to_vec()), Self::Bytes(s.max_opt()?.as_bytes().to_vec()))
            }
            Statistics::FixedLenByteArray(s) => {
                (Self::Fixed(signed(s.min_opt()?.as_bytes())?), Self::Fixed(signed(s.max_opt()?.as_bytes())?))
            }
            Statistics::Boolean(_) | Statistics::Int96(_) => return None,
        })
    }

    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Fixed(a), Self::Fixed(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

fn signed(bytes: &[u8]) -> Option<i128> {
    let fill = if bytes.first()? & 0x80 == 0 { 0 } else { 0xff };
    let mut all = [fill; 16];
    all.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(all))
}

fn bound_text(bound: &Bound, data_type: &DataType) -> Option<String> {
    match (bound, data_type) {
        (Bound::Int(v), DataType::Date32) => {
            let date = NaiveDate::from_epoch_days(i32::try_from(*v).ok()?)?;
            in_calendar(date.year()).then(|| format!("\"{}\"", date.format("%Y-%m-%d")))
        }
        (Bound::Int(v), DataType::Timestamp(_, zone)) => {
            let time = DateTime::from_timestamp_micros(*v)?;
            let end = if zone.is_some() { "Z" } else { "" };
            in_calendar(time.year()).then(|| format!("\"{}{end}\"", time.format("%Y-%m-%dT%H:%M:%S%.6f")))
        }
        (Bound::Int(v), DataType::Decimal128(_, scale)) => Some(decimal_text((*v).into(), *scale)),
        (Bound::Fixed(v), DataType::Decimal128(_, scale)) => Some(decimal_text(*v, *scale)),
        (Bound::Int(v), DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64) => Some(v.to_string()),
        (Bound::Float(v), DataType::Float32 | DataType::Float64) => v.is_finite().then(|| format!("{v:?}")),
        (Bound::Bytes(v), DataType::Utf8) => std::str::from_utf8(v).ok().map(json_text),
        _ => None,
    }
}

fn in_calendar(year: i32) -> bool {
    (1..=9999).contains(&year)
}

/// A decimal as a JSON number with all its digits.
pub(crate) fn decimal_text(value: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or(0);
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
