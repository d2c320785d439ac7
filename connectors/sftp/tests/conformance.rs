//! The suite that every connector passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ingest_connector_sftp::Sftp;
use ingest_core::{Builtin, ErrorKind, StreamName};
use ingest_testkit::conformance::{self, Subject};
use ingest_testkit::sshd::{Folder, Sshd};
use serde_json::{Map, Value as Json, json};

use crate::support::{config, with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connector_passes_the_suite() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Arc::new(Folder::new());
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
        let next = AtomicUsize::new(300);
        move || {
            let n = next.fetch_add(1, Ordering::Relaxed);
            folder.write(&format!("orders/new-{n}.csv"), format!("id,name,day\n{n},new,2025-02-01\n"));
            async {}
        }
    };
    let good = config(&server, &folder);
    let foreign = with(good.clone(), json!({"private_key": server.foreign_key()}));
    let nowhere = with(good.clone(), json!({"path": "/nowhere/at/all"}));
    let wrong = with(good.clone(), json!({"known_hosts": server.wrong_known_hosts()}));
    let subject = Subject::new(Builtin::<Sftp>::new(), good)
        .refused("a key that the server does not know", foreign, ErrorKind::Unauthenticated)
        .refused("another host key", wrong, ErrorKind::Unauthenticated)
        .refused("no such folder", nowhere, ErrorKind::NotFound)
        .secret(server.private_key().lines().nth(1).expect("a key has lines"))
        .empty("none")
        .truth(truth)
        .change(change)
        .skip("I06", "a file has no late rows: one that changes is read again")
        .skip("F01", "every file that is open tries the line for itself, once; lines that are cut are in faults.rs")
        .skip("F07", "there is no log that could be lost")
        .counterpart("OpenSSH 9.2, also with its lines cut");
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
