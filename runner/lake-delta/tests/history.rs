//! Versions (scd2) against a model: for each key the moments at which its value changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::columns;
use ingest_core::lake::{Commit, Meeting, Merge, Table, TableFormat};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::merge::merge_of;
use crate::removal::maintenance;
use crate::support::*;

/// What is tracked, and what is not.
type Value = (i64, i64);

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    value: Value,
    time: i64,
    deleted: bool,
}

/// From when on each key has which value; `None` = it is not there.
#[derive(Debug, Default)]
struct Model(BTreeMap<i64, BTreeMap<i64, Option<Value>>>);

impl Model {
    fn apply(&mut self, rows: &[Row], read_times: bool) {
        let mut rows = rows.to_vec();
        if !read_times {
            rows.sort_by_key(|row| row.time);
        }
        for row in rows {
            let line = self.0.entry(row.id).or_default();
            let mut time = row.time;
            if read_times && let Some((last, value)) = line.last_key_value() {
                time = time.max(if value.is_some() { last + 1 } else { *last });
            }
            let now = line.range(..=time).next_back().map(|(since, value)| (*since, *value));
            match now {
                Some((_, Some(value))) if row.deleted || value.0 != row.value.0 => {
                    line.insert(time, (!row.deleted).then_some(row.value));
                }
                // The tracked part is the same.
                Some((since, Some(value))) if value != row.value => drop(line.insert(since, Some(row.value))),
                Some((_, Some(_))) => {}
                _ if row.deleted => {}
                _ => drop(line.insert(time, Some(row.value))),
            }
            // Versions remember when they end, not that nothing followed: one end after another is none.
            let mut there = false;
            line.retain(|_, value| std::mem::replace(&mut there, value.is_some()) || value.is_some());
        }
    }

    fn versions(&self) -> Vec<(i64, i64, Option<i64>, Value)> {
        let mut versions = Vec::new();
        for (id, line) in &self.0 {
            for (since, value) in line {
                let until = line.range(since + 1..).next().map(|(until, _)| *until);
                versions.extend(value.map(|value| (*id, *since, until, value)));
            }
        }
        versions
    }
}

fn history_schema() -> SchemaRef {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("value", DataType::Int64, true),
        Field::new("other", DataType::Int64, true),
        Field::new("at", utc.clone(), true),
        Field::new(columns::INGESTED_AT, utc, true),
        Field::new(columns::OP, DataType::Utf8, true),
    ]))
}

fn table_schema() -> SchemaRef {
    let added = [columns::EFFECTIVE, columns::EXPIRY, columns::CURRENT].map(|name| Arc::new(columns::field(name)));
    Arc::new(Schema::new(history_schema().fields().iter().cloned().chain(added).collect::<Vec<_>>()))
}

fn batch_of(rows: &[Row]) -> RecordBatch {
    let times = || rows.iter().map(|r| Some(r.time)).collect::<TimestampMicrosecondArray>().with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| Some(r.id)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.value.0)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.value.1)).collect::<Int64Array>()),
        // The time of a row is not what is compared.
        Arc::new(times()),
        Arc::new(times()),
        Arc::new(rows.iter().map(|r| Some(if r.deleted { "D" } else { "U" })).collect::<StringArray>()),
    ];
    RecordBatch::try_new(history_schema(), columns).unwrap()
}

async fn held(table: &dyn Table) -> Vec<(i64, i64, Option<i64>, Value)> {
    let mut found = Vec::new();
    for batch in table.read(usize::MAX).await.unwrap() {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let number = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
        let from = column(columns::EFFECTIVE).as_primitive::<TimestampMicrosecondType>();
        let to = column(columns::EXPIRY).as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            assert_eq!(column(columns::CURRENT).as_boolean().value(row), to.is_null(row));
            let end = to.is_valid(row).then(|| to.value(row));
            found.push((number("id", row), from.value(row), end, (number("value", row), number("other", row))));
        }
    }
    found.sort_unstable();
    found
}

fn random_rows(random: &mut StdRng, clock: &mut i64) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..random.random_range(0..30) {
        *clock += random.random_range(0..3);
        let late = random.random_ratio(1, 6);
        let row = Row {
            id: random.random_range(0..40),
            value: (random.random_range(0..4), random.random_range(0..3)),
            time: if late { (*clock - random.random_range(0..200)).max(1) } else { *clock },
            deleted: random.random_ratio(1, 6),
        };
        rows.push(row.clone());
        if random.random_ratio(1, 10) {
            rows.push(row);
        }
    }
    rows
}

async fn sequence(seed: u64, time: &str) {
    let mut random = StdRng::seed_from_u64(seed);
    let format = in_memory();
    let mut table = format.create(FOLDER, &definition(table_schema(), &[])).await.unwrap();
    let (mut model, mut clock) = (Model::default(), 1_000);
    let read_times = time == columns::INGESTED_AT;
    for step in 0..200 {
        let rows = random_rows(&mut random, &mut clock);
        model.apply(&rows, read_times);
        let meeting = Meeting::History { time: time.into(), tracked: vec!["value".into()] };
        let mut merge = Merge { order: None, ..merge_of(&["id".into()], meeting) };
        for chunk in rows.chunks(random.random_range(1..20)) {
            merge.rows.extend(write(table.as_ref(), vec![batch_of(chunk)]).await);
        }
        let came = merge.rows.clone();
        table.commit(Commit { merge: Some(merge), ..Commit::default() }).await.unwrap();
        table.discard(&came).await.unwrap();
        assert_eq!(held(table.as_ref()).await, model.versions(), "seed {seed} step {step}: {rows:#?}");
        if random.random_ratio(1, 20) {
            table.maintain(&maintenance()).await.unwrap();
            table = open(&format).await;
        }
    }
}

#[tokio::test]
async fn random_versions_by_their_own_time_equal_the_model_after_each_batch() {
    for seed in [2, 5] {
        sequence(seed, "at").await;
    }
}

#[tokio::test]
async fn random_versions_by_the_time_of_reading_equal_the_model_after_each_batch() {
    for seed in [2, 5] {
        sequence(seed, columns::INGESTED_AT).await;
    }
}
