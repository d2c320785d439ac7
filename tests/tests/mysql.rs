//! MySQL and MariaDB from outside: loads, cursors and the binlog through the program, read by another one.

use std::collections::BTreeMap;
use std::path::Path;

use ingest_testkit::mysql::{Database, Flavour, Mysql, Options, PASSWORD};
use ingest_testkit::python::{self, Reader};
use serde_json::Value;

use crate::cli::Project;

/// What a run over this database reads: the table as it is, and what is new by a cursor.
fn project(server: &Mysql, database: &str) -> Project {
    let text = format!(
        "lake: {{url: ./lake}}
sources:
  db:
    connector: mysql
    host: 127.0.0.1
    port: {}
    database: {database}
    user: root
    password: ${{DB_PASSWORD}}
    streams:
      {database}.orders: {{mode: cdc, write: merge}}
      {database}.payments: {{mode: incremental, cursor: updated_at}}
      {database}.notes: {{mode: full}}
",
        server.port()
    );
    Project::new(&text).set("DB_PASSWORD", PASSWORD)
}

const SCHEMA: [&str; 3] = [
    "CREATE TABLE orders (id bigint unsigned PRIMARY KEY, customer varchar(40) NOT NULL, total decimal(20,4), \
     placed_at datetime(6) NOT NULL)",
    "CREATE TABLE payments (id int PRIMARY KEY, amount decimal(12,2) NOT NULL, updated_at timestamp(6) NOT NULL)",
    "CREATE TABLE notes (id int PRIMARY KEY, text text)",
];

/// The rows of a table of the lake as another program reads them: key to the texts of the columns.
async fn lake(path: &Path, columns: &[&str]) -> Option<BTreeMap<u64, Vec<Option<String>>>> {
    let rows = python::rows(Reader::DeltaRs, path.to_str().expect("UTF-8"), &[]).await?;
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let key = |value: &Value| {
        text(value).expect("a key").split('.').next().and_then(|key| key.parse().ok()).expect("a number")
    };
    let count = rows.len();
    let found: BTreeMap<_, _> =
        rows.iter().map(|row| (key(&row["id"]), columns.iter().map(|c| text(&row[*c])).collect())).collect();
    assert_eq!(found.len(), count, "every key once in {}", path.display());
    Some(found)
}

async fn source(database: &Database, table: &str, columns: &[&str]) -> BTreeMap<u64, Vec<Option<String>>> {
    let rows = database.texts(&format!("SELECT id, {} FROM {table}", columns.join(", "))).await;
    rows.into_iter()
        .map(|row| (row[0].as_deref().expect("a key").parse().expect("a number"), row[1..].to_vec()))
        .collect()
}

#[tokio::test]
async fn tables_of_both_servers_follow_their_source_by_binlog_by_cursor_and_in_full() {
    for flavour in Flavour::ALL {
        let settings = [
            "--log-bin=binlog",
            "--server-id=7",
            "--binlog-format=ROW",
            "--binlog-row-image=FULL",
            "--binlog-row-metadata=FULL",
        ];
        let gtid = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
        let settings = [&settings[..], if flavour == Flavour::Mysql { &gtid } else { &[] }].concat();
        let Some(server) = Mysql::private(flavour, &Options { settings: &settings, ..Options::default() }) else {
            continue;
        };
        let database = server.database().await;
        for statement in SCHEMA {
            database.sql(statement).await;
        }
        let insert = |first: u64, count: u64| {
            let rows: Vec<String> = (first..first + count)
                .map(|n| format!("({n}, 'Zoë {n}', {n}.1250, '2026-01-01 10:00:00.{:06}')", n % 1_000_000))
                .collect();
            format!("INSERT INTO orders VALUES {}", rows.join(","))
        };
        database.sql(&insert(1, 2_000)).await;
        database.sql(&insert(18_446_744_073_709_551_000, 3)).await;
        database.sql("INSERT INTO payments SELECT id, id / 4, now(6) FROM orders WHERE id < 500").await;
        database.sql("INSERT INTO notes VALUES (1, 'one'), (2, NULL)").await;
        let project = project(&server, &database.name);
        let run = ["run", "--source", "db", "--progress", "off"];
        for round in 0..4_u64 {
            project.good(&run);
            let bronze = project.folder.path().join("lake/bronze/db");
            let table = |name: &str| bronze.join(format!("{}_{name}", database.name));
            let columns = ["customer", "total"];
            if let Some(found) = lake(&table("orders"), &columns).await {
                assert_eq!(found, source(&database, "orders", &columns).await, "{flavour:?}, round {round}");
                let notes = lake(&table("notes"), &["text"]).await.expect("the same reader");
                assert_eq!(notes, source(&database, "notes", &["text"]).await, "{flavour:?}, round {round}");
                let payments = lake(&table("payments"), &["amount"]).await.expect("the same reader");
                assert_eq!(payments, source(&database, "payments", &["amount"]).await, "{flavour:?}, round {round}");
            }
            let at = 5_000 + round * 100;
            database.sql(&insert(at, 50)).await;
            database
                .sql(&format!("UPDATE orders SET total = -1, customer = 'changed {round}' WHERE id % 7 = {round}"))
                .await;
            database
                .sql(&format!("UPDATE orders SET id = id + 100000 WHERE id BETWEEN {} AND {}", at + 10, at + 12))
                .await;
            database.sql(&format!("DELETE FROM orders WHERE id % 11 = {round}")).await;
            database.sql(&format!("INSERT INTO payments VALUES ({at}, 3.50, now(6))")).await;
            database.sql(&format!("UPDATE notes SET text = 'round {round}' WHERE id = 2")).await;
        }
    }
}
