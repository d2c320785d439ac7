//! The suite that every connector passes.

use ingest_connector_files::Files;
use ingest_core::{Builtin, ErrorKind, StreamName};
use ingest_testkit::conformance::{self, Subject};
use serde_json::{Map, Value as Json, json};

use crate::support::Folder;

#[tokio::test]
async fn the_connector_passes_the_suite() {
    let folder = std::sync::Arc::new(Folder::new());
    for file in 0..5 {
        let rows: String = (0..60).map(|i| format!("{},name {i},2025-01-31\n", file * 60 + i)).collect();
        folder.write(&format!("orders/{file}.csv"), format!("id,name,day\n{rows}"));
    }
    folder.write("none.csv", "id,name\n");
    let truth = {
        let folder = folder.clone();
        move |stream: &StreamName| {
            let rows = if stream.as_str() == "orders" { truth(&folder) } else { Vec::new() };
            async move { rows }
        }
    };
    let change = {
        let folder = folder.clone();
        let next = std::sync::atomic::AtomicUsize::new(300);
        move || {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            folder.write(&format!("orders/new-{n}.csv"), format!("id,name,day\n{n},new,2025-02-01\n"));
            async {}
        }
    };
    let subject = Subject::new(Builtin::<Files>::new(), folder.config(json!({})))
        .refused("no such folder", json!({"path": "/nowhere/at/all"}), ErrorKind::NotFound)
        .empty("none")
        .truth(truth)
        .change(change)
        .skip("I06", "a file has no late rows: one that changes is read again, see incremental.rs")
        .counterpart("a folder; objects also against moto, Azurite and a translation of Google Cloud Storage")
        .skip("F01", "a folder does not fail for a while; stores that do are in objects.rs")
        .skip("F07", "there is no log that could be lost");
    conformance::run(subject).await.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}

fn truth(folder: &Folder) -> Vec<Map<String, Json>> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(folder.path().join("orders")).expect("folder") {
        let text = std::fs::read_to_string(entry.expect("entry").path()).expect("file");
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let row = json!({"id": fields[0].parse::<i64>().expect("id"), "name": fields[1], "day": fields[2]});
            rows.push(row.as_object().cloned().expect("object"));
        }
    }
    rows
}
