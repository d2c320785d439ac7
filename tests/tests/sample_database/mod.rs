//! A database such as people have: each table's copy in the lake, read by other programs, equals the server's own values.

pub mod truth;

use ingest_testkit::oracle::Rows;
use ingest_testkit::postgres::{Database, Postgres};
use ingest_testkit::python::{Reader, rows};
use serde_json::{Map, Value};

use self::truth::{Relation, Types};
use crate::cli::Project;

pub const SCHEMA: &str = include_str!("schema.sql");
pub const CHANGES: &str = include_str!("changes.sql");
const RUN: [&str; 5] = ["run", "--source", "db", "--progress", "off"];

/// The folder of a stream as the documentation tells it: lower case, other characters become `_`.
pub fn folder(stream: &str) -> String {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' };
    stream.chars().flat_map(char::to_lowercase).map(plain).collect()
}

/// Rows of the lake with what was rescued as a column, in the form of [`Relation::rows`].
pub fn found(rows: Vec<Map<String, Value>>) -> impl Iterator<Item = Map<String, Value>> {
    rows.into_iter().map(|mut row| {
        let rescued = row.get("_ingest_rescued").and_then(Value::as_str).unwrap_or("{}");
        let rescued: Value = serde_json::from_str(rescued).expect("what was rescued is JSON");
        row.retain(|name, _| !name.starts_with("_ingest_"));
        row.insert(truth::RESCUED.into(), rescued);
        truth::plain(row)
    })
}

/// Compares every relation of the database with its copy; gives how many relations and rows there are.
async fn assert_equal(project: &Project, database: &Database, reader: Reader) -> Option<(usize, usize)> {
    let types = Types::of(database).await;
    let relations = Relation::all(database).await;
    let lake = project.folder.path().join("lake/bronze/db");
    let mut there: Vec<String> = std::fs::read_dir(&lake)
        .expect("the folder of the source")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    let mut wanted: Vec<String> = relations.iter().map(|relation| folder(&relation.stream)).collect();
    there.sort();
    wanted.sort();
    assert_eq!(there, wanted, "one table for each relation");
    let mut total = 0;
    for relation in &relations {
        let key = relation.key();
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        let truth = Rows::of(&key, relation.rows(database, &types).await);
        let path = lake.join(folder(&relation.stream));
        let copy = Rows::of(&key, found(rows(reader, path.to_str().expect("UTF-8"), &[]).await?));
        if let Err(difference) = copy.compare(&truth) {
            panic!("{} by {reader:?}: {difference}", relation.stream);
        }
        total += truth.len();
    }
    Some((relations.len(), total))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_all_kinds_of_tables_and_types_is_copied_value_for_value_and_again_after_changes() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database().await;
    database.client.batch_execute(SCHEMA).await.expect("valid SQL");
    let configuration = format!(
        "sources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    \
         user: postgres\n    password: ${{DB_PASSWORD}}\n",
        server.port(),
        database.name
    );
    let project = Project::new(&configuration).set("DB_PASSWORD", server.password());
    project.good(&RUN);
    let Some((tables, total)) = assert_equal(&project, &database, Reader::DuckDb).await else { return };
    assert!(tables >= 24 && total > 40_000, "{tables} tables, {total} rows");
    assert_equal(&project, &database, Reader::DeltaRs).await;
    database.client.batch_execute(CHANGES).await.expect("valid SQL");
    project.good(&RUN);
    assert_equal(&project, &database, Reader::DuckDb).await;
}
