//! The rows of a table as a database adds up its own; see [`ingest_core::SourceSums`].

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Float32Type, Float64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{DataType, TimeUnit};
use chrono::{DateTime, Datelike, NaiveDateTime};
use ingest_core::{Error, Result, SourceSums};
use md5::{Digest, Md5};

use super::sums::{Sums, column};
use crate::conform::texts;
use crate::policy::hex;

/// Whether the values of a type have texts that a database can make too.
pub fn has_text(data_type: &DataType) -> bool {
    use DataType as D;
    data_type.is_integer()
        || matches!(
            data_type,
            D::Boolean
                | D::Decimal128(..)
                | D::Utf8
                | D::LargeUtf8
                | D::Utf8View
                | D::Binary
                | D::Float32
                | D::Float64
                | D::Date32
                | D::Timestamp(TimeUnit::Microsecond, _)
        )
}

/// What the rows of a batch add up to; `only` says which of them count.
///
/// # Errors
/// `Unexpected` for a column that was not read.
pub fn add(batch: &RecordBatch, columns: &[String], key: &[String], only: Option<&BooleanArray>) -> Result<Sums> {
    let texts = |names: &[String]| names.iter().map(|name| value_texts(batch, name)).collect::<Result<Vec<_>>>();
    let (key, values) = (texts(key)?, texts(columns)?);
    let mut sums = Sums { columns: vec![0; columns.len()], ..Sums::default() };
    let mut text = Vec::new();
    for row in (0..batch.num_rows()).filter(|row| only.is_none_or(|only| only.value(*row))) {
        sums.rows += 1;
        text.clear();
        if key.iter().any(|part| part.is_null(row)) {
            // A database adds nothing up for it either.
            continue;
        }
        for part in &key {
            let part = part.value(row).as_bytes();
            text.extend(part.len().to_string().bytes());
            text.push(b':');
            text.extend(part);
        }
        if !key.is_empty() {
            sums.keys = sums.keys.wrapping_add(hash(&text));
        }
        let of_key = text.len();
        for (values, sum) in values.iter().zip(&mut sums.columns) {
            text.truncate(of_key);
            if values.is_null(row) {
                text.push(b'n');
            } else {
                text.push(b'v');
                text.extend(values.value(row).as_bytes());
            }
            *sum = sum.wrapping_add(hash(&text));
        }
    }
    Ok(sums)
}

/// The number that the first digits of an MD5 make.
fn hash(text: &[u8]) -> u128 {
    let digest: [u8; 16] = Md5::digest(text).into();
    u128::from_be_bytes(digest) >> (128 - 4 * SourceSums::DIGITS)
}

fn value_texts(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    let array = column(batch, name)?;
    let made: ArrayRef = match array.data_type() {
        DataType::Utf8 => array,
        DataType::LargeUtf8 | DataType::Utf8View => arrow_cast::cast(&array, &DataType::Utf8)?,
        DataType::Binary => Arc::new(each(array.as_binary::<i32>(), |bytes| Some(hex(bytes)))),
        DataType::Float32 => {
            Arc::new(each(array.as_primitive::<Float32Type>(), |value| Some(hex(&value.to_be_bytes()))))
        }
        DataType::Float64 => {
            Arc::new(each(array.as_primitive::<Float64Type>(), |value| Some(hex(&value.to_be_bytes()))))
        }
        DataType::Date32 => Arc::new(each(array.as_primitive::<Date32Type>(), |days| {
            let mut text = moment(i64::from(days).checked_mul(86_400_000_000)?)?;
            text.replace_range(10..26, "");
            Some(text)
        })),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Arc::new(each(array.as_primitive::<TimestampMicrosecondType>(), moment))
        }
        data_type if has_text(data_type) => texts(&array, name)?,
        other => return Err(Error::unexpected("a column cannot be added up").with("column", name).with("type", other)),
    };
    Ok(made.as_string::<i32>().clone())
}

/// Texts of values; one that cannot be written takes a text that no database makes.
fn each<T>(values: impl arrow_array::ArrayAccessor<Item = T>, text: impl Fn(T) -> Option<String>) -> StringArray {
    let unwritten = || "beyond".to_owned();
    arrow_array::iterator::ArrayIter::new(values).map(|value| Some(text(value?).unwrap_or_else(unwritten))).collect()
}

/// `2024-01-31 23:59:59.000001 AD`; `None` for years of which databases have several spellings.
fn moment(micros: i64) -> Option<String> {
    let moment: NaiveDateTime = DateTime::from_timestamp_micros(micros)?.naive_utc();
    let mut text = String::with_capacity(29);
    (1..=9999).contains(&moment.year()).then_some(())?;
    write!(text, "{} AD", moment.format("%Y-%m-%d %H:%M:%S%.6f")).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use arrow_array::{BinaryArray, Date32Array, Decimal128Array, Float64Array, Int64Array, TimestampMicrosecondArray};

    use super::*;

    fn text_of(array: ArrayRef) -> String {
        let batch = RecordBatch::try_from_iter([("a", array)]).expect("a batch");
        value_texts(&batch, "a").expect("a text").value(0).to_owned()
    }

    #[test]
    fn values_have_the_texts_of_the_contract() {
        let decimal = Decimal128Array::from(vec![-150]).with_precision_and_scale(10, 2).expect("a decimal");
        for (array, text) in [
            (Arc::new(Int64Array::from(vec![-42])) as ArrayRef, "-42"),
            (Arc::new(decimal), "-1.50"),
            (Arc::new(BooleanArray::from(vec![true])), "true"),
            (Arc::new(BinaryArray::from_vec(vec![b"\x00\xff"])), "00ff"),
            (Arc::new(Float64Array::from(vec![-0.0])), "8000000000000000"),
            (Arc::new(Date32Array::from(vec![19_753])), "2024-01-31 AD"),
            (Arc::new(Date32Array::from(vec![i32::MAX])), "beyond"),
            (Arc::new(TimestampMicrosecondArray::from(vec![1_706_745_599_000_001])), "2024-01-31 23:59:59.000001 AD"),
        ] {
            assert_eq!(text_of(array), text);
        }
    }

    #[test]
    fn a_hash_is_the_first_fifteen_digits_of_an_md5() {
        // md5('') = d41d8cd98f00b204e9800998ecf8427e
        assert_eq!(hash(b""), 0xd41_d8cd_98f0_0b20);
    }

    #[test]
    fn keys_of_several_columns_cannot_be_taken_for_each_other() {
        let sums = |a: &str, b: &str| {
            let columns = [("a", a), ("b", b)].map(|(n, v)| (n, Arc::new(StringArray::from(vec![v])) as ArrayRef));
            let batch = RecordBatch::try_from_iter(columns).expect("a batch");
            add(&batch, &[], &["a".into(), "b".into()], None).expect("sums").keys
        };
        assert_ne!(sums("a", "bc"), sums("ab", "c"));
    }
}
