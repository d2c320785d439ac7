//! The suite that every connector passes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ingest_connector_webhooks::Webhooks;
use ingest_core::{Builtin, ErrorKind, StreamName};
use ingest_testkit::conformance::{self, Subject};
use serde_json::{Map, Value as Json, json};

/// The name that the suite gives to its source.
const SOURCE: &str = "conformance";

fn line(n: usize) -> Json {
    json!({
        "id": format!("evt_{n}"), "type": "charge.updated", "account": null, "created": "2025-01-31T10:20:30.000000Z",
        "received_at": "2025-01-31T10:20:31.000001Z", "payload": format!("{{\"id\": \"evt_{n}\", \"n\": {n}}}"),
    })
}

fn write(folder: &Path, file: usize, lines: std::ops::Range<usize>) {
    let text: String = lines.map(|n| format!("{}\n", line(n))).collect();
    std::fs::write(folder.join(format!("{file:020}-a.ndjson")), text).expect("a file");
}

fn truth(folder: &Path) -> Vec<Map<String, Json>> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let lines = files.flat_map(|path: PathBuf| {
        let text = std::fs::read_to_string(path).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect::<Vec<_>>()
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connector_passes_the_suite() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Arc::new(dir.path().join(SOURCE));
    std::fs::create_dir(folder.as_path()).expect("a folder");
    (0..5).for_each(|file| write(&folder, file, file * 60..(file + 1) * 60));
    let good = json!({"secret": "canary-of-webhooks", "path": dir.path(), "keep_loaded": true});
    let change = {
        let (folder, next) = (folder.clone(), AtomicUsize::new(300));
        move || {
            let n = next.fetch_add(1, Ordering::Relaxed);
            write(&folder, n, n..n + 1);
            async {}
        }
    };
    let rows = move |_: &StreamName| {
        let rows = truth(&folder);
        async move { rows }
    };
    let subject = Subject::new(Builtin::<Webhooks>::new(), good)
        .refused("no secret", json!({"path": "x"}), ErrorKind::ConfigInvalid)
        .refused("no folder", json!({"secret": "x"}), ErrorKind::ConfigInvalid)
        .secret("canary-of-webhooks")
        .truth(rows)
        .change(change)
        .skip("R10", "shown with a folder of its own")
        .skip("I06", "a delivery is never late: its file is new when it is kept")
        .skip("F01", "a folder of this machine does not fail for a while")
        .skip("F07", "there is no log that could be lost")
        .counterpart("files as the receiver writes them");
    conformance::run(subject).await.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}

#[tokio::test]
async fn before_the_first_delivery_there_are_no_rows_and_no_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let subject = Subject::new(Builtin::<Webhooks>::new(), json!({"secret": "canary-of-webhooks", "path": dir.path()}));
    let report = conformance::run(subject.empty("events").only(&["R10"])).await;
    report.assert_passed();
    assert_eq!(report.counts()[0], 1, "it was tried");
}
