//! Runs of an interval: its rows as they are at the source, in one commit, beside the position.

use std::collections::BTreeMap;

use ingest_testkit::python::{Reader, rows};
use serde_json::Value;

use crate::cli::Project;
use crate::late_rows::{Lab, RUN};
use crate::survive::{PLACES, batches, chance, run_to_failpoint};

const JANUARY: [&str; 9] =
    ["run", "--source", "db", "--progress", "off", "--interval-start", "2024-01-01", "--interval-end", "2024-02-01"];

impl Lab {
    /// The versions in the lake, sorted.
    pub(crate) async fn versions(&self) -> Option<Vec<String>> {
        let path = self.project.folder.path().join("lake/bronze/db/public_entry");
        let found = rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await?;
        let mut versions: Vec<_> =
            found.iter().map(|row| row["version"].as_str().expect("a text").to_owned()).collect();
        versions.sort();
        Some(versions)
    }

    /// The versions as our own reader has them, sorted.
    fn shown(&self) -> Vec<String> {
        let rows = self.project.json(&["show", "db.public_entry", "--limit", "100000"]);
        let version = |row: &Value| row["version"].as_str().expect("a text").to_owned();
        let mut versions: Vec<String> = rows.as_array().expect("rows").iter().map(version).collect();
        versions.sort();
        versions
    }

    /// The versions at the source, sorted.
    pub(crate) async fn source(&self) -> Vec<String> {
        let rows = self.database.client.query("SELECT version FROM entry ORDER BY version COLLATE \"C\"", &[]).await;
        rows.expect("valid SQL").iter().map(|row| row.get(0)).collect()
    }

    fn positions(&self) -> Value {
        let state = self.project.json(&["state", "show", "--source", "db"]);
        state[0]["positions"].clone()
    }
}

/// What the program says when it refuses a command.
fn refused(project: &Project, arguments: &[&str]) -> String {
    let output = project.run(arguments);
    assert_eq!(output.code, Some(2), "{arguments:?}: {output:#?}");
    output.stderr
}

const YEAR: &str = "INSERT INTO entry (at, version) \
    SELECT timestamptz '2023-12-01 00:00+00' + i * interval '6 hours', 'first ' || i FROM generate_series(1, 400) i";

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_interval_give_way_to_what_the_source_holds_and_the_position_stays() {
    let Some(lab) = Lab::new("at").await else { return };
    lab.sql(YEAR).await;
    lab.project.good(&RUN);
    let position = lab.positions();
    assert!(!position.as_object().expect("positions").is_empty());
    // A correction that leaves the cursor alone, a row that comes with an old cursor, one that goes: no window sees them.
    lab.sql(
        "UPDATE entry SET version = 'corrected' WHERE id = 150; DELETE FROM entry WHERE id = 160; \
             INSERT INTO entry (at, version) VALUES ('2024-01-15 12:00:00.000001+00', 'late')",
    )
    .await;
    lab.project.good(&JANUARY);
    assert_eq!(lab.positions(), position);
    let Some(found) = lab.versions().await else { return };
    assert_eq!(found, lab.source().await);
    lab.project.good(&RUN);
    lab.project.good(&JANUARY);
    assert_eq!(lab.versions().await.expect("a reader"), lab.source().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_an_interval_read_beyond_the_position_do_not_come_again() {
    let Some(lab) = Lab::new("at").await else { return };
    lab.sql("INSERT INTO entry (at, version) VALUES ('2024-01-05', 'first'), ('2024-01-06', 'second')").await;
    lab.project.good(&RUN);
    lab.sql("INSERT INTO entry (at, version) VALUES ('2024-01-06', 'equal'), ('2024-01-20', 'third'), ('2024-03-01', 'march')").await;
    let open = lab.begin("INSERT INTO entry (at, version) VALUES ('2024-01-21', 'open')").await;
    lab.sql("INSERT INTO entry (at, version) VALUES ('2024-01-22', 'behind it')").await;
    lab.project.good(&JANUARY);
    lab.project.good(&JANUARY);
    let Some(found) = lab.versions().await else { return };
    assert_eq!(found, ["equal", "first", "second", "third"], "what is not decided waits");
    open.client.batch_execute("COMMIT").await.expect("a commit");
    lab.sql("INSERT INTO entry (at, version) VALUES ('2024-01-10', 'after it')").await;
    lab.project.good(&RUN);
    lab.assert_each_version_once().await;
    lab.sql("INSERT INTO entry (at, version) VALUES ('2024-03-01', 'march again'), ('2024-04-01', 'april')").await;
    lab.project.good(&RUN);
    lab.project.good(&RUN);
    lab.assert_each_version_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_load_takes_the_place_of_intervals_that_came_before_it() {
    let Some(lab) = Lab::new("at").await else { return };
    lab.sql(YEAR).await;
    lab.project.good(&JANUARY);
    let Some(found) = lab.versions().await else { return };
    assert_eq!(found.len(), 124, "31 days of 4 rows");
    refused(&lab.project, &["run", "--source", "db", "--limit", "5"]);
    lab.project.good(&[
        "run",
        "--source",
        "db",
        "--interval-start",
        "2024-02-01",
        "--interval-end",
        "2024-02-02T06:00:00Z",
    ]);
    assert_eq!(lab.versions().await.expect("a reader").len(), 129);
    lab.project.good(&RUN);
    lab.assert_each_version_once().await;
}

#[test]
fn an_interval_of_a_stream_without_a_cursor_is_refused() {
    let project = Project::new("sources: {files: {path: ./data}}");
    std::fs::create_dir(project.folder.path().join("data")).expect("a folder");
    std::fs::write(project.folder.path().join("data/a.csv"), "id\n1\n").expect("a file");
    let run = ["run", "--source", "files", "--interval-start", "2024-01-01", "--interval-end", "2024-02-01"];
    let said = refused(&project, &run);
    assert!(said.contains("needs a cursor"), "{said}");
    assert!(
        refused(&project, &["run", "--source", "files", "--interval-start", "2024-01-01"]).contains("--interval-end")
    );
    let backwards = ["run", "--source", "files", "--interval-start", "2024-02-01", "--interval-end", "2024-01-01"];
    assert!(refused(&project, &backwards).contains("ends before it starts"));
}

/// A stream whose last three days are read again with each run.
async fn restated(write: &str) -> Option<Lab> {
    let lab = Lab::new("at").await?;
    let file = lab.project.folder.path().join("ingest.yaml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    std::fs::write(&file, text.replace("write: append", &format!("write: {write}, restate: 3d"))).expect("written");
    Some(lab)
}

/// Rows that are restated lie within the window whatever the time of day is; others lie before it.
const DAYS: &str = "INSERT INTO entry (at, version) \
    SELECT clock_timestamp() - i * interval '1 hour', 'first ' || i FROM generate_series(1, 240) i";

/// The last three days of a source change at random, without a trace in the cursor. Each run is killed at some failpoint and
/// made again: then the table is as the source.
async fn restates(write: &str, mut seed: u64) {
    let Some(lab) = restated(write).await else { return };
    lab.sql(DAYS).await;
    lab.project.good(&RUN);
    let mut killed = BTreeMap::new();
    // `INGEST_TEST_BATCHES=200` as for the other write modes; each failpoint once where it is not set.
    let batches = if std::env::var_os("INGEST_TEST_BATCHES").is_some() { batches() } else { PLACES.len() };
    for batch in 0..batches {
        // Corrections, late rows, rows that go, and one that is new.
        let hours = 1 + chance(&mut seed, 70);
        lab.sql(&format!(
            "UPDATE entry SET version = 'batch {batch} of ' || id WHERE id % 7 = {} AND at > clock_timestamp() - interval '71 hours'; \
             DELETE FROM entry WHERE id % 31 = {} AND at > clock_timestamp() - interval '71 hours'; \
             INSERT INTO entry (at, version) VALUES (clock_timestamp() - interval '{hours} hours', 'late {batch}'), \
             (clock_timestamp(), 'new {batch}')",
            batch % 7,
            batch % 31,
        ))
        .await;
        let place = PLACES[batch % PLACES.len()];
        // The first time that a place is reached at first, so that each kills once.
        let n = if batch < PLACES.len() { 1 } else { u32::try_from(chance(&mut seed, 3)).expect("small") + 1 };
        *killed.entry(place).or_insert(0) += usize::from(run_to_failpoint(&lab.project, &RUN, place, n));
        lab.project.good(&RUN);
        assert_eq!(lab.shown(), lab.source().await, "{write}, batch {batch}");
        if batch % 16 == 15 {
            lab.project.good(&["maintain"]);
            assert_eq!(lab.shown(), lab.source().await, "{write}, batch {batch}, maintained");
        }
    }
    for place in ["lease_taken", "extract", "file_closed", "document_written", "committed"] {
        assert!(killed.get(place).is_some_and(|times| *times > 0), "{write}: {place} killed nothing: {killed:?}");
    }
    let all: usize = killed.values().sum();
    assert!(all >= batches / 3, "{write}: only {all} runs were killed");
    if let Some(found) = lab.versions().await {
        assert_eq!(found, lab.source().await, "{write}, as another program reads it");
    }
    // What lies before the window is not looked at.
    lab.sql("UPDATE entry SET version = 'too late' WHERE at < clock_timestamp() - interval '5 days'").await;
    lab.project.good(&RUN);
    let found = lab.shown();
    assert!(!found.is_empty() && !found.iter().any(|version| version == "too late"), "{write}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_restated_come_right_where_rows_are_added_after_every_kill() {
    restates("append", 0x853c_49e6_748f_ea9b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_restated_come_right_where_rows_are_merged_after_every_kill() {
    restates("merge", 0xda3e_39cb_94b9_5bdb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_restated_come_right_where_new_keys_are_inserted_after_every_kill() {
    restates("insert", 0x4d59_5df4_d0f3_3173).await;
}

#[test]
fn a_window_that_cannot_be_restated_is_refused() {
    let project =
        Project::new("sources: {files: {path: ./data, streams: {a: {restate: 3d}}}}").file("data/a.csv", "id\n1\n");
    let said = refused(&project, &["run", "--source", "files"]);
    assert!(said.contains("restate needs") && said.contains("a time"), "{said}");
}
