//! Keys as numbers: 128 bits stand for the key of a row.
//!
//! One column of a number, date or time is its own number, in its own order. All else is hashed with keys of this process
//! that nobody knows: two different keys share a number about as often as two UUIDs do.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use arrow::row::{RowConverter, SortField};
use arrow_array::cast::AsArray;
use arrow_array::types::Decimal128Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{DataType, Schema};
use ingest_core::{Error, ErrorKind, Result};

/// The number of a key.
pub(super) type KeyId = u128;

/// A map by key.
pub(super) type KeyMap<V> = HashMap<KeyId, V, Fold>;

/// Turns the key columns of batches into numbers.
pub(super) struct Keys {
    pub columns: Vec<String>,
    kind: Kind,
}

enum Kind {
    /// One column that an `i64` holds.
    Integer,
    Decimal,
    Text(Digest),
    Rows(Box<RowConverter>, Digest),
}

impl Keys {
    /// # Errors
    /// `ConfigInvalid` for a column that the table does not have or that cannot be a key.
    pub fn new(schema: &Schema, columns: &[String]) -> Result<Self> {
        if columns.is_empty() {
            return Err(Error::config("rows cannot be merged without a key"));
        }
        let types = columns.iter().map(|name| key_type(schema, name)).collect::<Result<Vec<_>>>()?;
        let kind = match types.as_slice() {
            [one] if is_integer(one) => Kind::Integer,
            [DataType::Decimal128(..)] => Kind::Decimal,
            [DataType::Utf8] => Kind::Text(Digest::new()),
            _ => Kind::Rows(Box::new(converter(types)?), Digest::new()),
        };
        Ok(Self { columns: columns.to_vec(), kind })
    }

    /// Whether numbers are in the order of the values, so that bounds of a file can be looked up among them.
    pub fn is_ordered(&self) -> bool {
        matches!(self.kind, Kind::Integer | Kind::Decimal)
    }

    /// The numbers of a batch; `None` where a column of the key is null.
    pub fn ids(&self, batch: &RecordBatch) -> Result<Vec<Option<KeyId>>> {
        let arrays = self.columns.iter().map(|name| column(batch, name)).collect::<Result<Vec<_>>>()?;
        self.of(&arrays)
    }

    /// The numbers of columns in the key's types and order.
    pub fn of(&self, arrays: &[ArrayRef]) -> Result<Vec<Option<KeyId>>> {
        let first = arrays.first().ok_or_else(|| Error::unexpected("a key without columns"))?;
        Ok(match &self.kind {
            Kind::Integer => integers(first)?.iter().map(|v| v.map(ordered)).collect(),
            Kind::Decimal => first
                .as_primitive::<Decimal128Type>()
                .iter()
                .map(|v| v.map(|v| v.cast_unsigned() ^ (1 << 127)))
                .collect(),
            Kind::Text(digest) => first.as_string::<i32>().iter().map(|v| v.map(|v| digest.of(v.as_bytes()))).collect(),
            Kind::Rows(converter, digest) => {
                let rows = converter.convert_columns(arrays)?;
                let null = |row: usize| arrays.iter().any(|array| array.is_null(row));
                (0..rows.num_rows()).map(|row| (!null(row)).then(|| digest.of(rows.row(row).as_ref()))).collect()
            }
        })
    }
}

fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let array = batch.column_by_name(name);
    array.cloned().ok_or_else(|| Error::unexpected("a column of the key was not read").with("column", name))
}

fn key_type(schema: &Schema, name: &str) -> Result<DataType> {
    let field = schema.field_with_name(name).map_err(|_| {
        Error::config("a column of the key is not in the table")
            .with("column", name)
            .hint("name the key's columns with `key`")
    })?;
    match field.data_type() {
        DataType::Struct(_) | DataType::List(_) | DataType::Map(..) => {
            Err(Error::config("a column of this type cannot be part of a key")
                .with("column", name)
                .with("type", field.data_type())
                .hint("name other columns with `key`"))
        }
        data_type => Ok(data_type.clone()),
    }
}

fn is_integer(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Timestamp(..)
    )
}

fn integers(array: &ArrayRef) -> Result<Int64Array> {
    let wide = match array.data_type() {
        // A date becomes a number of milliseconds only by way of its days.
        DataType::Date32 => cast(&cast(array, &DataType::Int32)?, &DataType::Int64)?,
        DataType::Int64 => array.clone(),
        _ => cast(array, &DataType::Int64)?,
    };
    Ok(wide.as_primitive::<arrow_array::types::Int64Type>().clone())
}

fn ordered(value: i64) -> KeyId {
    u128::from(value.cast_unsigned() ^ (1 << 63))
}

/// A converter to bytes that compare as the values do.
pub(crate) fn converter(types: Vec<DataType>) -> Result<RowConverter> {
    Ok(RowConverter::new(types.into_iter().map(SortField::new).collect())?)
}

/// 128 bits that stand for bytes, by two keyed hashes.
pub(super) struct Digest(RandomState, RandomState);

impl Digest {
    pub fn new() -> Self {
        Self(RandomState::new(), RandomState::new())
    }

    pub fn of(&self, bytes: &[u8]) -> u128 {
        u128::from(self.0.hash_one(bytes)) << 64 | u128::from(self.1.hash_one(bytes))
    }
}

/// A quick hasher for numbers of keys; its seed keeps a source from choosing keys that collide.
#[derive(Clone)]
pub(super) struct Fold {
    seed: (u64, u64),
    state: u64,
}

impl Fold {
    fn new() -> Self {
        let random = RandomState::new();
        Self { seed: (random.hash_one(0_u8), random.hash_one(1_u8) | 1), state: 0 }
    }

    fn mix(&self, id: u128) -> u64 {
        let low = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
        let high = u64::try_from(id >> 64).unwrap_or_default();
        let product = u128::from(low ^ self.seed.0) * u128::from(high.rotate_left(32) ^ self.seed.1);
        (product >> 64) as u64 ^ (product & u128::from(u64::MAX)) as u64
    }
}

impl BuildHasher for Fold {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        self.clone()
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u128(u128::from(u64::from_le_bytes(word)) ^ u128::from(self.state));
        }
    }

    fn write_u128(&mut self, id: u128) {
        self.state = self.mix(id);
    }
}

/// An empty map by key.
pub(super) fn map<V>() -> KeyMap<V> {
    HashMap::with_hasher(Fold::new())
}

/// The keys are worked on in classes where not all of them fit into memory.
#[derive(Clone)]
pub(super) struct Classes {
    fold: Fold,
    count: u64,
}

impl Classes {
    /// As many classes as it takes for `rows` of `bytes` each.
    pub fn new(rows: u64, bytes: u64, memory: u64) -> Result<Self> {
        let count = rows.saturating_mul(bytes).div_ceil(memory.max(1 << 20)).max(1);
        if count > MAX_CLASSES {
            return Err(Error::new(ErrorKind::LimitExceeded, "too many rows to be merged with so little memory")
                .with("rows", rows)
                .with("memory", memory)
                .hint("raise `memory`"));
        }
        Ok(Self { fold: Fold::new(), count })
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether a key is of a class. Rows without a key are of the first.
    pub fn has(&self, class: u64, id: Option<KeyId>) -> bool {
        self.count == 1 || id.map_or(0, |id| self.fold.mix(id) % self.count) == class
    }
}

/// Tells most keys that did not come from those that did, in two to four bytes a key.
pub(super) struct Sieve {
    fold: Fold,
    /// Their number is a power of two. A key sets three bits of one of them, so that a look costs one access to memory.
    words: Vec<u64>,
}

impl Sieve {
    pub fn of(keys: impl ExactSizeIterator<Item = KeyId>) -> Self {
        let mut sieve = Self { fold: Fold::new(), words: vec![0; (keys.len() / 4).next_power_of_two()] };
        for id in keys {
            let (word, bits) = sieve.place(id);
            sieve.words[word] |= bits;
        }
        sieve
    }

    /// Whether the key may have come: one in some hundred that did not passes.
    pub fn may_hold(&self, id: KeyId) -> bool {
        let (word, bits) = self.place(id);
        self.words[word] & bits == bits
    }

    fn place(&self, id: KeyId) -> (usize, u64) {
        let hash = self.fold.mix(id);
        let bits = (1 << (hash & 63)) | (1 << (hash >> 6 & 63)) | (1 << (hash >> 12 & 63));
        ((hash >> 18) as usize & (self.words.len() - 1), bits)
    }
}

/// Passes over the key columns of a table, at most.
const MAX_CLASSES: u64 = 10_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow_array::{Decimal128Array, StringArray};
    use arrow_schema::Field;

    fn ids(array: ArrayRef) -> Vec<Option<KeyId>> {
        let schema = Arc::new(Schema::new(vec![Field::new("k", array.data_type().clone(), true)]));
        let keys = Keys::new(&schema, &["k".into()]).unwrap();
        keys.ids(&RecordBatch::try_new(schema, vec![array]).unwrap()).unwrap()
    }

    #[test]
    fn numbers_keep_their_order_and_nulls_have_none() {
        let found = ids(Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(-1), Some(0), Some(i64::MAX), None])));
        assert!(found[..4].is_sorted() && found[3] > found[0]);
        assert_eq!(found[4], None);
        let decimals = Decimal128Array::from(vec![-5_i128, 0, 7]).with_precision_and_scale(38, 2).unwrap();
        let found = ids(Arc::new(decimals));
        assert!(found.is_sorted());
    }

    #[test]
    fn texts_and_composites_are_told_apart() {
        let found = ids(Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some("a"), None])));
        assert_eq!((found[0], found[3]), (found[2], None));
        assert_ne!(found[0], found[1]);
        let schema =
            Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Utf8, true)]));
        let keys = Keys::new(&schema, &["a".into(), "b".into()]).unwrap();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("x"), Some("xy"), Some("x")])),
            Arc::new(StringArray::from(vec![Some("yz"), Some("z"), None])),
        ];
        let found = keys.ids(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
        assert_ne!(found[0], found[1]);
        assert_eq!(found[2], None);
    }

    #[test]
    fn a_sieve_holds_back_most_keys_that_did_not_come_and_none_that_did() {
        let sieve = Sieve::of((0..10_000_u128).map(|id| id * 3).collect::<Vec<_>>().into_iter());
        assert!((0..10_000).all(|id| sieve.may_hold(id * 3)));
        let passed = (0..10_000).filter(|id| sieve.may_hold(id * 3 + 1)).count();
        assert!(passed < 500, "{passed} of 10,000 pass");
        assert!(!Sieve::of(std::iter::empty()).may_hold(7));
    }

    #[test]
    fn classes_part_the_keys() {
        let classes = Classes::new(1_000_000, 64, 1 << 20).unwrap();
        assert_eq!(classes.count(), 62);
        for id in 0..1_000_u128 {
            assert_eq!((0..classes.count()).filter(|class| classes.has(*class, Some(id))).count(), 1);
        }
        assert!(Classes::new(u64::MAX, 64, 1 << 20).is_err());
    }
}
