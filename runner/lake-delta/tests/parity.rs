//! The same random batches through our merge and through MERGE of delta-rs: equal content after every batch.

use std::collections::BTreeMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use ingest_core::lake::{Meeting, Merge, Table, TableFormat};
use ingest_testkit::python;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::merge::{Row, apply, batch_of, merge_of, merge_schema};
use crate::support::*;

/// Reads batches, one a line; prints the rows of the table after each. MERGE takes each key once: the last row counts.
const MERGE: &str = r#"
import json, os, sys
import pyarrow as pa
from deltalake import DeltaTable
schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("amount", pa.int64()), ("op", pa.string())])
fields = [pa.field(name, schema.field(name).type) for name in ("id", "name", "amount")]
table = DeltaTable.create(sys.argv[1], schema=pa.schema(fields))
for line in open(sys.argv[2]):
    newest = {}
    for row in json.loads(line):
        newest[row["id"]] = row
    if newest:
        source = pa.Table.from_pylist(list(newest.values()), schema=schema)
        columns = {name: "s." + name for name in ("id", "name", "amount")}
        (table.merge(source, "t.id = s.id", source_alias="s", target_alias="t")
            .when_matched_delete("s.op = 'D'")
            .when_matched_update(columns)
            .when_not_matched_insert(columns, "s.op <> 'D'")
            .execute())
    rows = table.to_pyarrow_table().to_pylist()
    print(json.dumps(sorted([row["id"], row["name"], row["amount"]] for row in rows)))
# Threads of the library may outlive the interpreter, which ends badly.
sys.stdout.flush()
os._exit(0)
"#;

fn random_rows(random: &mut StdRng, next: &mut i64) -> Vec<Row> {
    let many = random.random_range(0..60);
    let row = |random: &mut StdRng, next: &mut i64| {
        *next += 1;
        Row {
            id: random.random_range(0..200),
            name: random.random_bool(0.9).then(|| format!("näme {next}")),
            amount: random.random_bool(0.9).then_some(*next),
            op: if random.random_ratio(1, 4) { "D" } else { "U" },
            seq: None,
            absent: None,
            at: 1_000_000,
        }
    };
    (0..many).map(|_| row(random, next)).collect()
}

async fn held(table: &dyn Table) -> Value {
    let mut found: BTreeMap<i64, Value> = BTreeMap::new();
    for batch in table.read(usize::MAX).await.unwrap() {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let (ids, amounts) = (column("id").as_primitive::<Int64Type>(), column("amount").as_primitive::<Int64Type>());
        let names = column("name").as_string::<i32>();
        for row in 0..batch.num_rows() {
            let name = names.is_valid(row).then(|| names.value(row));
            let amount = amounts.is_valid(row).then(|| amounts.value(row));
            let before = found.insert(ids.value(row), json!([ids.value(row), name, amount]));
            assert_eq!(before, None, "a key is there twice");
        }
    }
    found.into_values().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_batches_leave_what_merge_of_delta_rs_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let mut random = StdRng::seed_from_u64(20);
    let mut next = 0;
    let batches: Vec<Vec<Row>> = (0..40).map(|_| random_rows(&mut random, &mut next)).collect();
    let lines = batches.iter().map(|rows| {
        let rows = rows.iter().map(|r| json!({"id": r.id, "name": r.name, "amount": r.amount, "op": r.op}));
        format!("{}\n", Value::from_iter(rows))
    });
    std::fs::write(path("batches"), lines.collect::<String>()).unwrap();
    let arguments = [path("theirs"), path("batches")];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(theirs) = python::run("python", MERGE, &arguments, &[]).await else { return };
    let theirs: Vec<Value> = theirs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(theirs.len(), batches.len());

    let format = local(&folder);
    let mut table = format.create("ours", &definition(merge_schema(), &[])).await.unwrap();
    for (step, (rows, theirs)) in batches.iter().zip(theirs).enumerate() {
        let chunks = rows.chunks(random.random_range(1..30)).map(batch_of).collect();
        let merge = Merge { order: None, ..merge_of(&["id".into()], Meeting::Update { soft_delete: false }) };
        apply(&mut table, chunks, merge).await;
        assert_eq!(held(table.as_ref()).await, theirs, "step {step}");
    }
}
