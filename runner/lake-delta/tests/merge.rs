//! Merges against a model: random batches of inserts, updates, deletes, late, doubled and partial rows, each in one commit,
//! and the table equal to a map after every one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::columns;
use ingest_core::lake::{Commit, Meeting, Merge, Merged, Sweep, Table, TableFormat};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::removal::maintenance;
use crate::support::*;

/// How keys look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Number,
    Text,
    Decimal,
    Composite,
}

impl KeyKind {
    fn columns(self) -> Vec<String> {
        match self {
            Self::Number => vec!["id".into()],
            Self::Text => vec!["code".into()],
            Self::Decimal => vec!["price".into()],
            Self::Composite => vec!["code".into(), "part".into()],
        }
    }
}

/// A change as the model sees it.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: i64,
    pub name: Option<String>,
    pub amount: Option<i64>,
    pub op: &'static str,
    pub seq: Option<u64>,
    /// Which of name and amount it does not carry.
    pub absent: Option<u8>,
    pub at: i64,
}

pub fn merge_schema() -> SchemaRef {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("code", DataType::Utf8, true),
        Field::new("part", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(38, 4), true),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
        Field::new(columns::INGESTED_AT, utc.clone(), true),
        Field::new(columns::OP, DataType::Utf8, true),
        Field::new(columns::SEQ, DataType::Utf8, true),
        Field::new(columns::ABSENT, DataType::Binary, true),
        Field::new(columns::DELETED_AT, utc, true),
    ]))
}

/// Places of `name` and `amount` among the data columns.
const NAME: usize = 4;
const AMOUNT: usize = 5;

pub fn batch_of(rows: &[Row]) -> RecordBatch {
    let absent = |bits: u8| -> Vec<u8> { vec![(bits & 1) << NAME | (bits >> 1 & 1) << AMOUNT] };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| Some(r.id)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(format!("code {:03}", r.id / 3))).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| Some(r.id % 3)).collect::<Int64Array>()),
        Arc::new(
            rows.iter()
                .map(|r| Some(i128::from(r.id) * 7 - 300))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(38, 4)
                .unwrap(),
        ),
        Arc::new(rows.iter().map(|r| r.name.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.amount).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.at)).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        Arc::new(rows.iter().map(|r| Some(r.op)).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.seq.map(|seq| format!("{seq:016x}"))).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.absent.map(absent)).collect::<BinaryArray>()),
        Arc::new(TimestampMicrosecondArray::from(vec![None::<i64>; rows.len()]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(merge_schema(), columns).unwrap()
}

fn batch_for(rows: &[Row], kind: KeyKind) -> RecordBatch {
    let batch = batch_of(rows);
    if kind != KeyKind::Text {
        return batch;
    }
    // As a key of its own the text must name the row.
    let mut columns = batch.columns().to_vec();
    columns[1] = Arc::new(rows.iter().map(|r| Some(format!("é{}", r.id))).collect::<StringArray>());
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

pub fn merge_of(key: &[String], meeting: Meeting) -> Merge {
    Merge {
        rows: Vec::new(),
        key: key.to_vec(),
        order: Some(columns::SEQ.into()),
        meeting,
        sweep: Sweep::Nothing,
        now: 5_000_000,
        memory_bytes: 1 << 20,
        options: options(),
        progress: Arc::default(),
    }
}

pub async fn apply(table: &mut Box<dyn Table>, batches: Vec<RecordBatch>, mut merge: Merge) -> Merged {
    for batch in batches {
        merge.rows.extend(write(table.as_ref(), vec![batch]).await);
    }
    let rows = merge.rows.clone();
    table.commit(Commit { merge: Some(merge), ..Commit::default() }).await.unwrap();
    let merged = table.merged().expect("figures");
    table.discard(&rows).await.unwrap();
    merged
}

/// Name, amount, sequence, whether it is marked as deleted.
type Value = (Option<String>, Option<i64>, Option<u64>, bool);

/// What a table should hold by key.
#[derive(Debug, Default, Clone)]
struct Model(BTreeMap<i64, Value>);

impl Model {
    fn apply(&mut self, rows: &[Row], soft: bool, keep: bool) {
        // What a batch deletes, it remembers.
        let mut gone: BTreeMap<i64, u64> = BTreeMap::new();
        for row in rows {
            let there = self.0.get(&row.id);
            if keep {
                if row.op != "D" && there.is_none() {
                    self.0.insert(row.id, (row.name.clone(), row.amount, row.seq, false));
                }
                continue;
            }
            let newest = there.and_then(|value| value.2).or(gone.get(&row.id).copied());
            if newest.zip(row.seq).is_some_and(|(there, came)| came < there) {
                continue;
            }
            match (row.op, soft) {
                ("D", false) => {
                    self.0.remove(&row.id);
                    row.seq.map(|seq| gone.insert(row.id, seq));
                }
                ("D", true) => {
                    let value = self.0.entry(row.id).or_insert((row.name.clone(), row.amount, None, false));
                    (value.2, value.3) = (row.seq, true);
                }
                _ => {
                    let before = there.cloned().unwrap_or_default();
                    let bits = row.absent.unwrap_or(0);
                    let name = if bits & 1 == 1 { before.0 } else { row.name.clone() };
                    let amount = if bits & 2 == 2 { before.1 } else { row.amount };
                    self.0.insert(row.id, (name, amount, row.seq, false));
                }
            }
        }
    }
}

async fn held(table: &dyn Table) -> BTreeMap<i64, Value> {
    let mut found = BTreeMap::new();
    for batch in table.read(usize::MAX).await.unwrap() {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let ids = column("id").as_primitive::<Int64Type>();
        let prices = column("price").as_primitive::<Decimal128Type>();
        let names = column("name").as_string::<i32>();
        let amounts = column("amount").as_primitive::<Int64Type>();
        let (ops, seqs) = (column(columns::OP).as_string::<i32>(), column(columns::SEQ).as_string::<i32>());
        let deleted = column(columns::DELETED_AT).as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            assert!(column(columns::ABSENT).is_null(row), "every row of a merged table is whole");
            assert_eq!(prices.value(row), i128::from(ids.value(row)) * 7 - 300);
            assert_eq!(deleted.is_valid(row), ops.value(row) == "D");
            let value = (
                names.is_valid(row).then(|| names.value(row).to_owned()),
                amounts.is_valid(row).then(|| amounts.value(row)),
                seqs.is_valid(row).then(|| u64::from_str_radix(seqs.value(row), 16).unwrap()),
                ops.value(row) == "D",
            );
            assert!(found.insert(ids.value(row), value).is_none(), "key {} is there twice", ids.value(row));
        }
    }
    found
}

/// Rows of one batch; `seq` counts on.
fn random_rows(random: &mut StdRng, model: &Model, seq: &mut u64, partial: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let alive: Vec<i64> = model.0.iter().filter(|(_, value)| !value.3).map(|(id, _)| *id).collect();
    let mut written: Vec<i64> = Vec::new();
    for _ in 0..random.random_range(0..40) {
        let id = random.random_range(0..150);
        *seq += 1;
        // One in eight comes late, with the order of something that happened before.
        let own = if random.random_ratio(1, 8) { *seq - random.random_range(1..40).min(*seq - 1) } else { *seq };
        let op = if random.random_ratio(1, 5) { "D" } else { "U" };
        let whole = !partial
            || !(alive.contains(&id) || written.contains(&id))
            || rows.iter().any(|r| r.id == id && r.op == "D");
        let row = Row {
            id,
            name: random.random_bool(0.9).then(|| format!("name {}", *seq)),
            amount: random.random_bool(0.9).then_some((*seq).cast_signed()),
            op,
            // Partial rows come in order: a late one would be put together with what is newer.
            seq: Some(if partial { *seq } else { own }),
            absent: (op == "U" && !whole && random.random()).then(|| random.random_range(1..4)),
            at: 1_000_000,
        };
        written.push(id);
        rows.push(row.clone());
        if random.random_ratio(1, 10) {
            rows.push(row);
        }
    }
    rows
}

async fn sequence(seed: u64, kind: KeyKind, meeting: Meeting, partial: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let format = in_memory();
    let mut table = format.create(FOLDER, &definition(merge_schema(), &[])).await.unwrap();
    let (soft, keep) = (meeting == Meeting::Update { soft_delete: true }, meeting == Meeting::Keep);
    let mut model = Model::default();
    let mut seq = 1;
    for step in 0..200 {
        let rows = random_rows(&mut random, &model, &mut seq, partial);
        model.apply(&rows, soft, keep);
        let chunks = rows.chunks(random.random_range(1..30)).map(|rows| batch_for(rows, kind)).collect();
        let merge = merge_of(&kind.columns(), meeting.clone());
        apply(&mut table, chunks, merge).await;
        assert_eq!(held(table.as_ref()).await, model.0, "seed {seed} {kind:?} {meeting:?} step {step}: {rows:#?}");
        if random.random_ratio(1, 20) {
            table.maintain(&maintenance()).await.unwrap();
            table = open(&format).await;
        }
    }
    // Nothing that was written on the way is left beside the table, but what versions before need.
    assert_eq!(held(open(&format).await.as_ref()).await, model.0);
}

#[tokio::test]
async fn random_batches_by_a_number_equal_the_model_after_each() {
    sequence(1, KeyKind::Number, Meeting::Update { soft_delete: false }, false).await;
}

#[tokio::test]
async fn random_batches_by_a_text_equal_the_model_after_each() {
    sequence(2, KeyKind::Text, Meeting::Update { soft_delete: false }, false).await;
}

#[tokio::test]
async fn random_batches_by_a_decimal_equal_the_model_after_each() {
    sequence(3, KeyKind::Decimal, Meeting::Update { soft_delete: false }, false).await;
}

#[tokio::test]
async fn random_batches_by_two_columns_equal_the_model_after_each() {
    sequence(4, KeyKind::Composite, Meeting::Update { soft_delete: false }, false).await;
}

#[tokio::test]
async fn random_batches_that_keep_deleted_rows_equal_the_model_after_each() {
    sequence(11, KeyKind::Number, Meeting::Update { soft_delete: true }, false).await;
}

#[tokio::test]
async fn random_batches_of_partial_rows_equal_the_model_after_each() {
    sequence(12, KeyKind::Number, Meeting::Update { soft_delete: false }, true).await;
    sequence(13, KeyKind::Composite, Meeting::Update { soft_delete: true }, true).await;
}

#[tokio::test]
async fn random_batches_that_only_insert_equal_the_model_after_each() {
    sequence(14, KeyKind::Text, Meeting::Keep, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_as_large_as_several_writers_keeps_every_row_once() {
    let format = in_memory();
    let mut random = StdRng::seed_from_u64(15);
    let mut row = |id: i64, seq: u64| {
        let noise: String = (0..32).map(|_| format!("{:016x}", random.random::<u64>())).collect();
        Row { id, name: Some(noise), amount: Some(id), op: "U", seq: Some(seq), absent: None, at: 1_000_000 }
    };
    let mut table = format.create(FOLDER, &definition(merge_schema(), &[])).await.unwrap();
    let first: Vec<Row> = (0..40_000).map(|id| row(id, 1)).collect();
    // Every seventh, whichever writer it falls to; two of the keys are new.
    let second: Vec<Row> = (0..40_000).step_by(7).chain(40_000..40_002).map(|id| row(id, 2)).collect();
    let mut model = Model::default();
    for rows in [first, second] {
        model.apply(&rows, false, false);
        apply(&mut table, vec![batch_of(&rows)], merge_of(&["id".into()], Meeting::Update { soft_delete: false }))
            .await;
    }
    let files = table.files().await.unwrap();
    assert!(files.iter().map(|file| file.bytes).sum::<u64>() > 8 << 20, "{files:?}");
    assert!(held(table.as_ref()).await == model.0, "the table differs from the model");
}
