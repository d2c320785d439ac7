//! Object stores and web servers.

use bytes::Bytes;
use ingest_core::{ErrorKind, Selection};
use ingest_testkit::http::{HttpServer, Response};
use object_store::{ObjectStoreExt, path::Path};
use serde_json::json;

use crate::formats::gzip;
use crate::support::{Table, load, open, plan, run, stream, streams};

#[tokio::test]
async fn s3_is_listed_and_read_by_version() {
    let Some(server) = ingest_testkit::s3::S3::shared().await else { return };
    let bucket = server.bucket().await;
    let store = bucket.store();
    let put = async |path: &str, content: &[u8]| {
        store.put(&Path::from(path), Bytes::copy_from_slice(content).into()).await.expect("put");
    };
    put("drop/in/1.csv", b"id\n1\n").await;
    put("drop/in/2.csv.gz", &gzip(b"id\n2\n")).await;
    put("drop/in/.hidden.csv", b"id\n9\n").await;
    put("drop/other/x.json", b"[{\"id\": 7}]").await;
    put("dropped/in/no.csv", b"id\n9\n").await;
    let env: std::collections::HashMap<String, String> = bucket.env().into_iter().collect();
    let config = json!({
        "path": format!("{}/drop", bucket.url()), "endpoint": env["AWS_ENDPOINT_URL"], "region": env["AWS_REGION"],
        "access_key_id": env["AWS_ACCESS_KEY_ID"], "secret_access_key": env["AWS_SECRET_ACCESS_KEY"],
    });
    let source = open(config.clone()).await.expect("open");
    let names: Vec<String> = streams(source.as_ref()).await.iter().map(|s| s.name.to_string()).collect();
    assert_eq!(names, ["in", "other"]);
    assert_eq!(source.check(&Selection::default()).await.expect("check"), []);
    let mut table = Table::default();
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1", "2"]);
    assert_eq!(table.column("_source_file"), ["in/1.csv", "in/2.csv.gz"]);
    assert_eq!(run(source.as_ref(), "in", &mut table).await.expect("run"), 0);

    // Between plan and reading one object is replaced and one is deleted.
    put("drop/in/3.csv", b"id\n3\n").await;
    put("drop/in/4.csv", b"id\n4\n").await;
    let listed = stream(source.as_ref(), "in").await;
    let planned =
        plan(source.as_ref(), &listed, ingest_core::Mode::Incremental, &table.positions, 1 << 30).await.expect("plan");
    put("drop/in/3.csv", b"id\n30\n").await;
    store.delete(&Path::from("drop/in/4.csv")).await.expect("delete");
    for slice in &planned.slices {
        crate::support::finish(source.as_ref(), slice, None, &mut table).await.expect("slice");
    }
    assert_eq!(table.column("id"), ["1", "2"]);
    for (id, position) in planned.then.values().next().expect("then") {
        table.positions.insert(id.clone(), position.clone().expect("seen"));
    }
    put("drop/in/1.csv", b"id\n10\n").await;
    run(source.as_ref(), "in", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["10", "2", "30"]);
    assert!(table.skipped.is_empty());

    let mut wrong = config;
    wrong["path"] = json!("s3://no-such-bucket-here/x");
    let source = open(wrong).await.expect("open");
    let problems = source.check(&Selection::default()).await.expect("check");
    assert!(problems.iter().any(|p| p.severity == ingest_core::Severity::Error), "{problems:?}");
}

#[tokio::test]
async fn parquet_in_s3_is_read_through_a_temporary_file() {
    let Some(server) = ingest_testkit::s3::S3::shared().await else { return };
    let bucket = server.bucket().await;
    let rows =
        crate::formats::batch(vec![("id", std::sync::Arc::new(arrow_array::Int64Array::from_iter_values(0..5_000)))]);
    bucket.store().put(&Path::from("t.parquet"), crate::formats::parquet(&rows).into()).await.expect("put");
    let env: std::collections::HashMap<String, String> = bucket.env().into_iter().collect();
    let source = open(json!({
        "path": bucket.url(), "endpoint": env["AWS_ENDPOINT_URL"], "region": env["AWS_REGION"],
        "access_key_id": env["AWS_ACCESS_KEY_ID"], "secret_access_key": env["AWS_SECRET_ACCESS_KEY"],
    }))
    .await
    .expect("open");
    assert_eq!(load(source.as_ref(), "t").await.rows.len(), 5_000);
}

#[tokio::test]
async fn azure_is_listed_and_read() {
    let Some(server) = ingest_testkit::azurite::Azurite::shared().await else { return };
    let container = server.container().await;
    let store = container.store();
    for (path, content) in [("in/1.csv", "id\n1\n"), ("in/2.csv", "id\n2\n"), ("inside.csv", "id\n9\n")] {
        store.put(&Path::from(path), Bytes::from_static(content.as_bytes()).into()).await.expect("put");
    }
    let env: std::collections::HashMap<String, String> = container.env().into_iter().collect();
    let source = open(json!({
        "path": container.url(), "account": env["AZURE_STORAGE_ACCOUNT_NAME"],
        "account_key": env["AZURE_STORAGE_ACCOUNT_KEY"], "endpoint": env["AZURE_STORAGE_ENDPOINT"],
        "files": {"t": {"path": "in/*.csv"}},
    }))
    .await
    .expect("open");
    let mut table = Table::default();
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1", "2"]);
    store.put(&Path::from("in/2.csv"), Bytes::from_static(b"id\n3\n").into()).await.expect("put");
    run(source.as_ref(), "t", &mut table).await.expect("run");
    assert_eq!(table.column("id"), ["1", "3"]);
}

#[tokio::test]
async fn google_cloud_storage_is_listed_and_read_over_a_stand_in() {
    let Some(server) = ingest_testkit::gcs::GcsOverS3::start().await else { return };
    let store = server.store();
    for (path, content) in [("in/1.csv", "id\n1\n"), ("in/2.csv", "id\n2\n")] {
        store.put(&Path::from(path), Bytes::from_static(content.as_bytes()).into()).await.expect("put");
    }
    let key = json!({"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
        "gcs_base_url": server.endpoint()});
    let source = open(json!({
        "path": format!("{}/in", server.url()), "service_account_key": key.to_string(), "endpoint": server.endpoint(),
        "files": {"t": {"path": "*.csv"}},
    }))
    .await
    .expect("open");
    assert_eq!(load(source.as_ref(), "t").await.column("id"), ["1", "2"]);
}

/// A web server with one version of each file.
async fn server() -> HttpServer {
    HttpServer::start(|request| async move {
        let content: &[u8] = match request.path.as_str() {
            "/data/orders.csv" => b"id,name\n1,a\n2,b\n",
            "/data/broken.csv.gz" => b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01",
            _ => return Response::status(404),
        };
        let response = Response::status(200)
            .header("etag", "\"v1\"")
            .header("last-modified", "Tue, 21 Oct 2025 07:28:00 GMT")
            .header("content-length", content.len().to_string());
        match request.method.as_str() {
            "HEAD" => response,
            _ => response.body(content),
        }
    })
    .await
}

#[tokio::test]
async fn files_of_a_web_server_are_read_by_name() {
    let server = server().await;
    let config = |files: serde_json::Value| json!({"path": format!("{}/data", server.url()), "files": files});
    let source =
        open(config(json!({"orders": {"path": "orders.csv"}, "gone": {"path": "gone.csv"}}))).await.expect("open");
    let mut table = Table::default();
    assert_eq!(run(source.as_ref(), "orders", &mut table).await.expect("run"), 1);
    assert_eq!(table.column("name"), ["a", "b"]);
    assert_eq!(run(source.as_ref(), "orders", &mut table).await.expect("run"), 0, "the etag says that nothing changed");
    assert_eq!(load(source.as_ref(), "gone").await.rows.len(), 0);

    let source = open(config(json!({"t": {"path": "*.csv"}}))).await.expect("open");
    let problems = source.check(&Selection::default()).await.expect("check");
    assert!(problems[0].remedy.contains("without wildcards"), "{problems:?}");
}

#[tokio::test]
async fn secrets_are_not_shown_when_a_store_refuses() {
    let server = HttpServer::start(|_| async { Response::status(403).body("<Error>no</Error>") }).await;
    let source = open(json!({
        "path": "az://box/in", "account": "acct", "sas_token": "sv=2024&sig=canary%2Bsas", "endpoint": server.url(),
        "files": {"t": {"path": "*.csv"}},
    }))
    .await
    .expect("open");
    let error = source.schema(&Selection::default()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = format!("{error:?} {error} {:?}", error.causes());
    assert!(!text.contains("canary"), "{text}");
}
