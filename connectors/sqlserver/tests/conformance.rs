//! The suite that every connector passes.

use std::sync::Arc;

use ingest_connector_sqlserver::SqlServer as Connector;
use ingest_core::{Builtin, ErrorKind, StreamName};
use ingest_testkit::conformance::{self, Subject};
use serde_json::{Map, Value, json};

use crate::support::{Session, Shop, numbered};

fn statements(session: &Arc<Session>, sql: String) -> impl Fn() -> futures::future::BoxFuture<'static, ()> + use<> {
    let session = session.clone();
    move || {
        let (session, sql) = (session.clone(), sql.clone());
        Box::pin(async move { session.sql(&sql).await })
    }
}

/// The rows of a table as the server prints them, in the suite's form.
async fn rows(session: &Session, stream: &StreamName) -> Vec<Map<String, Value>> {
    let columns: &[&str] = match stream.as_str().rsplit('.').next().expect("a table") {
        "kinds" => &["id", "name", "day", "amount"],
        "plain" => &["id", "pad"],
        _ => return Vec::new(),
    };
    let list: Vec<String> = columns.iter().map(|column| format!("CONVERT(nvarchar(100), {column})")).collect();
    let found = session.texts(&format!("SELECT {} FROM {stream}", list.join(", "))).await;
    let row = |row: Vec<Option<String>>| {
        let values = columns.iter().zip(row).map(|(column, text)| {
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

/// How the database tells what has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Captured,
    Tracked,
}

impl Way {
    fn set_up(self) -> String {
        let table = |table: &str| match self {
            Self::Captured => format!(
                "EXEC sys.sp_cdc_enable_table @source_schema = N'$', @source_name = N'{table}', @role_name = NULL"
            ),
            Self::Tracked => format!("ALTER TABLE $.{table} ENABLE CHANGE_TRACKING"),
        };
        let database = match self {
            Self::Captured => "EXEC sys.sp_cdc_enable_db",
            Self::Tracked => "ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON",
        };
        let tables = ["kinds", "plain", "nothing"].map(table);
        format!("{database};\n{}", tables.join(";\n"))
    }

    /// Set up anew: what was known of changes before is gone.
    fn again(self) -> String {
        if self == Self::Captured {
            let table = |table: &str| {
                let named = format!("@source_schema = N'$', @source_name = N'{table}'");
                format!(
                    "EXEC sys.sp_cdc_disable_table {named}, @capture_instance = N'all';\nEXEC sys.sp_cdc_enable_table {named}, @role_name = NULL"
                )
            };
            return ["kinds", "plain", "nothing"].map(table).join(";\n");
        }
        let set = |tables: &[&str], to: &str| {
            let statements: Vec<String> =
                tables.iter().map(|table| format!("ALTER TABLE $.{table} {to} CHANGE_TRACKING")).collect();
            statements.join(";\n")
        };
        // The version goes on in between.
        [
            set(&["kinds", "nothing"], "DISABLE"),
            "INSERT INTO $.plain (pad) VALUES ('unseen')".to_owned(),
            set(&["kinds", "nothing"], "ENABLE"),
            set(&["plain"], "DISABLE"),
            "INSERT INTO $.kinds (name) VALUES (N'unseen')".to_owned(),
            set(&["plain"], "ENABLE"),
        ]
        .join(";\n")
    }
}

#[tokio::test]
async fn the_connector_passes_the_conformance_suite() {
    let (_shop, subject) = subject(Way::Captured).await;
    let report = conformance::run(subject).await;
    report.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}

#[tokio::test]
async fn the_connector_passes_the_conformance_suite_with_change_tracking() {
    let (_shop, subject) = subject(Way::Tracked).await;
    conformance::run(subject).await.assert_passed();
}

/// The server must live as long as it is used.
async fn subject(way: Way) -> (Shop, Subject) {
    let kinds = numbered("$.kinds", "flag, amount, name, day, ratio, doc", 1_500, |i| {
        let day = format!("N'20{:02}-{:02}-{:02}'", i % 90, i % 12 + 1, i % 28 + 1);
        format!("{}, {}.{:02}, N'näme {i}', {day}, {i}.25, N'<i>{i}</i>'", i % 2, i / 7, i % 100)
    });
    let shop = Shop::new(&format!(
        "CREATE TABLE $.kinds (id bigint IDENTITY PRIMARY KEY, updated_at datetime2(6) NOT NULL DEFAULT SYSUTCDATETIME(), flag bit,
           amount decimal(12, 2), name nvarchar(100), day date, ratio float, doc xml);
         CREATE INDEX by_change ON $.kinds (updated_at);
         {kinds};
         CREATE TABLE $.plain (id int IDENTITY PRIMARY KEY, pad varchar(50), changed rowversion);
         {};
         CREATE TABLE $.nothing (note int{});
         {}",
        numbered("$.plain", "pad", 800, |_| format!("'{}'", "x".repeat(50))),
        if way == Way::Tracked { " PRIMARY KEY" } else { "" },
        way.set_up(),
    )
    .replace(";\n         ", ";\n"))
    .await;
    let (reader, writer, late) =
        (Arc::new(shop.session().await), Arc::new(shop.session().await), Arc::new(shop.session().await));
    let schema = shop.schema.clone();
    let mut wrong = shop.config.clone();
    wrong["password"] = "wrong".into();
    let mut nowhere = shop.config.clone();
    nowhere["port"] = 1.into();
    let insert = |name: &str| {
        format!(
            "INSERT INTO {schema}.kinds (name) VALUES (N'{name}'), (N'{name}'), (N'{name}');\nINSERT INTO {schema}.plain (pad) VALUES ('{name}')"
        )
    };
    let again = way.again().replace('$', &schema);
    let password = shop.config["password"].as_str().expect("a password").to_owned();
    let subject = Subject::new(Builtin::<Connector>::new(), shop.config.clone())
        .streams(&[&format!("{schema}.*")])
        .empty(shop.stream("nothing").as_str())
        .refused("wrong password", wrong, ErrorKind::Unauthenticated)
        .refused("nobody listens", nowhere, ErrorKind::Unavailable)
        .secret(&password)
        .counterpart("a scripted stand-in for SQL Server, never SQL Server itself")
        .filtered(shop.stream("plain").as_str(), "id <= 10", 10)
        .skip("F01", "a server that fails in every way is in access.rs")
        .truth(move |stream| {
            let (reader, stream) = (reader.clone(), stream.clone());
            async move { rows(&reader, &stream).await }
        })
        .change(statements(&writer, insert("new")))
        .late(
            statements(&late, format!("BEGIN TRANSACTION;\n{}", insert("late"))),
            statements(&late, "COMMIT".to_owned()),
        )
        .lose_log(statements(&writer, again));
    (shop, subject)
}
