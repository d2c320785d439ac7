//! The suite that every connector passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use bson::{Bson, DateTime, Document, doc};
use futures::TryStreamExt;
use ingest_connector_mongodb::Mongodb as Connector;
use ingest_core::{Builtin, ErrorKind, StreamName};
use ingest_testkit::conformance::{self, Subject};
use mongodb::Database;
use serde_json::{Map, Value, json};

use crate::support::Shop;

/// The documents of a collection in the suite's form.
async fn rows(database: &Database, stream: &StreamName) -> Vec<Map<String, Value>> {
    let found = database.collection::<Document>(stream.as_str()).find(doc! {}).await.expect("a cursor");
    let documents: Vec<Document> = found.try_collect().await.expect("documents");
    let row = |document: Document| {
        let text = |value: Bson| match value {
            Bson::Int32(number) => json!(number),
            Bson::Int64(number) => json!(number),
            Bson::String(text) => json!(text),
            Bson::Boolean(flag) => json!(flag),
            _ => Value::Null,
        };
        let compared = document.into_iter().filter(|(name, _)| ["_id", "name", "flag", "n"].contains(&name.as_str()));
        compared.map(|(name, value)| (name, text(value))).collect()
    };
    documents.into_iter().map(row).collect()
}

/// Waits until a time of the server's clock is over, so that a reader with a lag of nothing sees it.
async fn past(time: DateTime) {
    while DateTime::now() <= time {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_connector_passes_the_conformance_suite() {
    let Some(shop) = Shop::new().await else { return };
    let start = DateTime::now().timestamp_millis() - 10_000_000;
    let kind = |i: i32| {
        let at = DateTime::from_millis(start + i64::from(i));
        doc! { "_id": i, "updated_at": at, "name": format!("näme {i}"), "flag": i % 2 == 0, "ratio": f64::from(i) / 4.0, "doc": { "i": i } }
    };
    shop.insert("kinds", (1..=1_200).map(kind)).await;
    shop.insert(
        "plain",
        (1..=600).map(
            |i| doc! { "_id": format!("k{i:05}"), "n": i, "pad": "x".repeat(50), "at": DateTime::from_millis(start) },
        ),
    )
    .await;
    shop.database.create_collection("nothing").await.expect("a collection");
    let next = Arc::new(AtomicI32::new(10_000));
    let writer = shop.database.clone();
    let change = move || {
        let (database, next) = (writer.clone(), next.clone());
        async move {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let now = DateTime::now();
            let row = doc! { "_id": id, "updated_at": now, "name": "new", "flag": true };
            database.collection::<Document>("kinds").insert_one(row).await.expect("a document");
            let row = doc! { "_id": format!("new{id}"), "n": id, "at": now };
            database.collection::<Document>("plain").insert_one(row).await.expect("a document");
            past(now).await;
        }
    };
    let mut nowhere = shop.config.clone();
    (nowhere["uri"], nowhere["connect_timeout"]) = (json!("mongodb://127.0.0.1:1"), json!("500ms"));
    let mut wrong = shop.config.clone();
    wrong["uri"] = json!("http://localhost");
    let reader = shop.database.clone();
    let mut subject = Subject::new(Builtin::<Connector>::new(), shop.config.clone())
        .empty("nothing")
        .refused("nobody listens", nowhere, ErrorKind::Unavailable)
        .refused("no address of a server", wrong, ErrorKind::ConfigInvalid)
        .counterpart("FerretDB 1.24 on SQLite (another vendor's server; not MongoDB)")
        .filtered("plain", r#"{"n": {"$lte": 10}}"#, 10)
        .resumes(6)
        .skip("F01", "errors of a server, one by one, are in faults.rs, on a scripted stand-in")
        .skip(
            "I06",
            "the counterpart has no transactions; windows stay behind the server's clock by `lag`, see windows.rs",
        )
        .truth(move |stream| {
            let (reader, stream) = (reader.clone(), stream.clone());
            async move { rows(&reader, &stream).await }
        })
        .change(change);
    if !shop.server.genuine {
        subject = subject
            .skip("D03", "the counterpart has no change streams; they are in changes.rs, on a scripted stand-in");
    } else {
        subject = subject.skip("F07", "the oplog of somebody's server is left alone; a lost one is in changes.rs");
    }
    let report = conformance::run(subject).await;
    match shop.server.genuine {
        true => report.assert_passed(),
        false => report.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md")),
    }
}
