mod ours;
mod policies;
mod preserved;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::columns::RESCUED;
use ingest_core::lake::TableFormat;
use ingest_core::{Json, Result, StreamName};
use ingest_lake_delta::DeltaFormat;

use super::{Conform, Conformed, Input, Stamp, reconcile};
use crate::config::SchemaPolicy;

pub(super) const MICROS: TimeUnit = TimeUnit::Microsecond;

/// Delta over a store in memory: only its types matter here.
pub(super) fn delta() -> Arc<dyn TableFormat> {
    let url = "memory:///".parse().expect("a URL");
    Arc::new(DeltaFormat::new(Arc::new(object_store::memory::InMemory::new()), url))
}

pub(super) fn schema<const N: usize>(columns: [(&str, DataType); N]) -> SchemaRef {
    let fields = columns.into_iter().map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub(super) fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    let fields = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let rows = columns.first().map_or(0, |(_, array)| array.len());
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, arrays, &options).expect("a batch")
}

pub(super) fn stamp() -> Stamp {
    Stamp { run_id: "run-1".into(), ingested_at: 1_763_668_800_000_000 }
}

/// A stream in a test: what is not said is the default.
pub(super) struct Setting<'a> {
    pub source: &'a SchemaRef,
    pub table: Option<&'a SchemaRef>,
    pub policy: SchemaPolicy,
    pub added_columns: BTreeMap<String, bool>,
    pub seq: bool,
    pub absent: bool,
}

impl<'a> Setting<'a> {
    pub fn new(source: &'a SchemaRef) -> Self {
        let added_columns = BTreeMap::new();
        Self { source, table: None, policy: SchemaPolicy::Evolve, added_columns, seq: false, absent: false }
    }

    pub fn table(self, table: &'a SchemaRef) -> Self {
        Self { table: Some(table), ..self }
    }

    pub fn policy(self, policy: SchemaPolicy) -> Self {
        Self { policy, ..self }
    }

    pub fn without(mut self, column: &str) -> Self {
        self.added_columns.insert(column.to_owned(), false);
        self
    }

    pub fn reconcile(&self) -> Result<Conform> {
        reconcile(
            &delta(),
            &Input {
                stream: &StreamName::from("orders"),
                source: self.source,
                table: self.table,
                policy: self.policy,
                added_columns: &self.added_columns,
                seq: self.seq,
                absent: self.absent,
            },
        )
    }

    pub fn batch(&self, batch: RecordBatch) -> Result<Conformed> {
        self.reconcile()?.batch(batch, &stamp())
    }
}

/// The table that a first load of these columns makes.
pub(super) fn table_of<const N: usize>(columns: [(&str, DataType); N]) -> SchemaRef {
    let source = schema(columns);
    let conform = Setting::new(&source).reconcile().expect("a schema that can be stored");
    Arc::clone(conform.storage())
}

/// Loads one column into a table whose column has another type (`None` = a new table), under `evolve`.
pub(super) fn load(array: ArrayRef, table: Option<DataType>) -> Conformed {
    let source = schema([("c", array.data_type().clone())]);
    let table = table.map(|data_type| table_of([("c", data_type)]));
    let mut setting = Setting::new(&source);
    setting.table = table.as_ref();
    setting.batch(batch([("c", array)])).expect("a batch")
}

pub(super) fn names(schema: &SchemaRef) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

pub(super) fn column<'a>(conformed: &'a Conformed, name: &str) -> &'a ArrayRef {
    conformed.batch.column_by_name(name).expect(name)
}

/// `_ingest_rescued` of a row.
pub(super) fn rescued(conformed: &Conformed, row: usize) -> Option<Json> {
    let texts = column(conformed, RESCUED).as_string::<i32>();
    texts.is_valid(row).then(|| serde_json::from_str(texts.value(row)).expect("JSON"))
}

/// `_ingest_rescued` of a row, as it is written.
pub(super) fn rescued_text(conformed: &Conformed, row: usize) -> Option<String> {
    let texts = column(conformed, RESCUED).as_string::<i32>();
    texts.is_valid(row).then(|| texts.value(row).to_owned())
}
