//! New and changed files only: none missed, none read twice.

use serde_json::json;

use crate::support::{Folder, Table, load, run, stream, streams, types};

#[tokio::test]
async fn every_format_of_a_folder_becomes_a_stream() {
    let folder = Folder::new();
    folder.write("orders.csv", "id,total,day\n1,1.50,2025-01-31\n2,2.25,\n");
    folder.write("events/1.ndjson", "{\"id\": 1, \"tags\": [1, 2]}\n{\"id\": 2}\n");
    folder.write("events/deep/2.ndjson", "{\"id\": 3, \"new\": true}\n");
    folder.write("readme.txt", "no rows");
    let source = folder.source(json!({})).await;
    let names: Vec<String> = streams(source.as_ref()).await.iter().map(|s| s.name.to_string()).collect();
    assert_eq!(names, ["events", "orders"]);
    let orders = stream(source.as_ref(), "orders").await;
    let expected = [("id", "Int64"), ("total", "Decimal128(38, 2)"), ("day", "Date32"), ("_source_file", "Utf8")];
    assert_eq!(types(&orders), expected.map(|(n, t)| (n.to_owned(), t.to_owned())));
    let table = load(source.as_ref(), "orders").await;
    assert_eq!(table.column("total"), ["1.50", "2.25"]);
    assert_eq!(table.column("day"), ["2025-01-31", "null"]);
    assert_eq!(table.column("_source_file"), ["orders.csv", "orders.csv"]);
    let table = load(source.as_ref(), "events").await;
    assert_eq!(table.column("id"), ["1", "2", "3"]);
    assert_eq!(table.column("tags"), ["[1,2]", "null", "null"]);
    assert_eq!(table.column("_source_file"), ["events/1.ndjson", "events/1.ndjson", "events/deep/2.ndjson"]);
}

#[tokio::test]
async fn only_new_and_changed_files_are_read() {
    let folder = Folder::new();
    folder.write("in/a.csv", "id\n1\n");
    folder.write("in/b.csv", "id\n2\n");
    let source = folder.source(json!({"t": {"path": "in/*.csv"}})).await;
    let mut table = Table::default();
    assert_eq!(run(source.as_ref(), "t", &mut table).await.expect("first"), 1);
    assert_eq!(run(source.as_ref(), "t", &mut table).await.expect("nothing new"), 0);
    assert_eq!(table.column("id"), ["1", "2"]);

    folder.write("in/late.csv", "id\n3\n");
    folder.touch("in/late.csv", 1_000_000);
    folder.write("in/b.csv", "id\n20\n21\n");
    assert_eq!(run(source.as_ref(), "t", &mut table).await.expect("late and changed"), 1);
    assert_eq!(table.column("id"), ["1", "20", "21", "3"]);
    assert_eq!(run(source.as_ref(), "t", &mut table).await.expect("nothing new"), 0);
}
