//! The suite that every connector passes.

use std::sync::Arc;

use ingest_connector_mysql::Mysql as Connector;
use ingest_core::{Builtin, ErrorKind, StreamName};
use ingest_testkit::conformance::{self, Report, Subject};
use ingest_testkit::mysql::{Flavour, PASSWORD};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::support::{Shop, numbered};

type Client = Arc<Mutex<Conn>>;

async fn client(shop: &Shop) -> Client {
    let mut client = shop.server.client().await;
    client.query_drop(format!("USE {}", shop.database.name)).await.expect("SQL");
    Arc::new(Mutex::new(client))
}

fn statements(client: &Client, sql: &'static str) -> impl Fn() -> futures::future::BoxFuture<'static, ()> + use<> {
    let client = client.clone();
    move || {
        let client = client.clone();
        Box::pin(async move { client.lock().await.query_drop(sql).await.expect("valid SQL") })
    }
}

/// The rows of a table as the server prints them, in the suite's form.
async fn rows(client: &Client, stream: &StreamName) -> Vec<Map<String, Value>> {
    let table = stream.as_str().rsplit('.').next().expect("a table");
    let columns: &[&str] = match table {
        "kinds" => &["id", "name", "day", "amount"],
        "plain" => &["id", "pad"],
        _ => return Vec::new(),
    };
    let list: Vec<String> = columns.iter().map(|column| format!("CAST({column} AS CHAR)")).collect();
    let sql = format!("SELECT {} FROM {table}", list.join(", "));
    let found: Vec<mysql_async::Row> = client.lock().await.query(sql).await.expect("valid SQL");
    let row = |row: mysql_async::Row| {
        let values = columns.iter().enumerate().map(|(i, column)| {
            let text: Option<String> = row.get(i).expect("a column");
            let value = match (*column, text) {
                (_, None) => Value::Null,
                ("id", Some(text)) => json!(text.parse::<i64>().expect("a number")),
                (_, Some(text)) => json!(text),
            };
            ((*column).to_owned(), value)
        });
        values.collect()
    };
    found.into_iter().map(row).collect()
}

async fn conform(flavour: Flavour, counterpart: &str) -> Option<Report> {
    let tables = format!(
        "CREATE TABLE kinds (id BIGINT PRIMARY KEY AUTO_INCREMENT, updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
           flag BIT(1), amount DECIMAL(12,2), name TEXT, day DATE, ratio DOUBLE, doc JSON, KEY (updated_at));
         {};
         CREATE TABLE plain (id INT PRIMARY KEY AUTO_INCREMENT, pad VARCHAR(50));
         {};
         CREATE TABLE nothing (note INT)",
        numbered(
            "kinds (flag, amount, name, day, ratio, doc)",
            "i % 2, i / 7, CONCAT('näme ', i), DATE '2026-01-01' + INTERVAL i DAY, i / 4, JSON_OBJECT('i', i)",
            1_500
        ),
        numbered("plain", "i, REPEAT('x', 50)", 800),
    );
    let shop = Shop::alone(flavour, &tables).await?;
    let (reader, writer, late) = (client(&shop).await, client(&shop).await, client(&shop).await);
    let mut wrong = shop.config.clone();
    wrong["password"] = "wrong".into();
    let mut nowhere = shop.config.clone();
    nowhere["port"] = 1.into();
    let subject = Subject::new(Builtin::<Connector>::new(), shop.config.clone())
        .empty(shop.stream("nothing").as_str())
        .refused("wrong password", wrong, ErrorKind::Unauthenticated)
        .refused("nobody listens", nowhere, ErrorKind::Unavailable)
        .secret(PASSWORD)
        .counterpart(counterpart)
        .filtered(shop.stream("plain").as_str(), "id <= 10", 10)
        .skip("F01", "a server behind a proxy that fails in every way is in faults.rs")
        .truth(move |stream| {
            let (reader, stream) = (reader.clone(), stream.clone());
            async move { rows(&reader, &stream).await }
        })
        .change(statements(
            &writer,
            "INSERT INTO kinds (name) VALUES ('new'), ('new'), ('new'); INSERT INTO plain (pad) VALUES ('new')",
        ))
        .late(
            statements(
                &late,
                "BEGIN; INSERT INTO kinds (name) VALUES ('late'); INSERT INTO plain (pad) VALUES ('late')",
            ),
            statements(&late, "COMMIT"),
        )
        .lose_log(statements(&writer, "RESET MASTER"));
    Some(conformance::run(subject).await)
}

#[tokio::test]
async fn the_connector_passes_the_conformance_suite_on_mariadb() {
    let Some(report) = conform(Flavour::MariaDb, "MariaDB 10.11, MySQL 8.0.15").await else { return };
    report.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}

#[tokio::test]
async fn the_connector_passes_the_conformance_suite_on_mysql() {
    let Some(report) = conform(Flavour::Mysql, "MySQL 8.0.15").await else { return };
    report.assert_passed();
}
