//! Write modes by key, from outside.

use std::collections::BTreeMap;
use std::fmt::Write;

use ingest_testkit::python::{Reader, rows};

use crate::cli::Project;

const RUN: [&str; 5] = ["run", "--source", "shop", "--progress", "json"];

fn project(options: &str) -> Project {
    Project::new(&format!(
        "lake: {{commit_interval: 0s}}\n\
        sources:\n  shop:\n    connector: files\n    path: ./data\n    files: {{orders: {{path: \"*.csv\"}}}}\n    \
        streams: {{orders: {options}}}\n"
    ))
}

fn add(project: &Project, file: usize, ids: std::ops::Range<i64>) {
    let data = project.folder.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    let mut text = String::from("id,text\n");
    for id in ids {
        writeln!(text, "{id},of {file}").expect("to memory");
    }
    std::fs::write(data.join(format!("part-{file:05}.csv")), text).expect("written");
}

/// The text of each id, as another program reads it; every id is there once.
async fn texts(project: &Project) -> Option<BTreeMap<i64, String>> {
    let path = project.folder.path().join("lake/bronze/shop/orders");
    let mut texts = BTreeMap::new();
    for row in rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await? {
        let id = row["id"].as_i64().or_else(|| row["id"].as_str()?.parse().ok()).expect("a number");
        let before = texts.insert(id, row["text"].as_str().expect("a text").to_owned());
        assert_eq!(before, None, "id {id} is there twice");
    }
    Some(texts)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_files_with_the_same_keys_the_last_one_wins() {
    let project = project("{write: merge, key: [id]}");
    for file in 0..30 {
        add(&project, file, 0..200);
    }
    project.good(&RUN);
    for file in 30..40 {
        add(&project, file, 150..250);
    }
    let output = project.good(&RUN);
    let last: serde_json::Value = serde_json::from_str(output.stdout.lines().last().expect("a line")).expect("JSON");
    let merge = &last["streams"][0]["merge"];
    assert!(merge["files_touched"].as_u64() > Some(0) && merge["bytes_per_changed_row"].as_u64() > Some(0), "{last}");
    if let Some(texts) = texts(&project).await {
        for (id, text) in &texts {
            assert_eq!(text, if *id < 150 { "of 29" } else { "of 39" }, "id {id}");
        }
        assert_eq!(texts.len(), 250);
    }
}

#[test]
fn a_stream_without_a_key_cannot_be_merged() {
    let project = project("{write: merge}");
    add(&project, 0, 0..10);
    let failed = project.run(&RUN);
    assert_eq!(failed.code, Some(2));
    let errors = &failed.stderr;
    assert!(errors.contains("needs a key") && errors.contains("key: [id]"), "{errors}");
}
