//! Merged tables of the lake, as another program reads them, against what a server holds; and runs that are killed once
//! they have asked the server so often.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use ingest_testkit::http::HttpServer;
use ingest_testkit::python::{Reader, rows};
use serde_json::{Map, Value};

use crate::cli::Project;
use crate::survive::{chance, kills};

/// Rows by key.
pub type Truth = BTreeMap<String, Map<String, Value>>;

/// The table holds each row of the truth once and no other, and every value that the truth knows.
pub async fn assert_table(project: &Project, table: &str, key: &str, truth: &Truth, context: &str) {
    let path = project.folder.path().join("lake/bronze").join(table);
    let Some(rows) = rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await else { return };
    let count = rows.len();
    let found: Truth = rows.into_iter().map(|row| (row[key].as_str().expect("a key").to_owned(), row)).collect();
    assert_eq!(found.len(), count, "{context}: {table}: a key is there twice");
    let (have, want): (BTreeSet<_>, BTreeSet<_>) = (found.keys().collect(), truth.keys().collect());
    let lost: Vec<_> = want.difference(&have).take(5).collect();
    let unknown: Vec<_> = have.difference(&want).take(5).collect();
    assert!(lost.is_empty() && unknown.is_empty(), "{context}: {table}: lost {lost:?}, unknown {unknown:?}");
    for (id, row) in truth {
        for (column, value) in row {
            let have = found[id].get(column).unwrap_or_else(|| panic!("{table} has no column {column}"));
            assert_eq!(have, value, "{context}: {table} {id} {column}");
        }
    }
}

/// Runs the program and wants it to succeed, while the server of this runtime answers.
pub async fn run(project: &Project, arguments: &[&str]) {
    let mut command = project.command(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs the program and kills it, as `kill -9` does, once it has made so many requests. One that makes fewer must succeed.
pub async fn run_and_kill_at(project: &Project, arguments: &[&str], server: &HttpServer, requests: usize) {
    let reached = server.hits() + requests;
    let mut command = project.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("the program starts");
    let status = tokio::select! {
        status = child.wait() => status,
        () = server.wait_for(reached) => {
            child.start_kill().expect("it runs, or has ended");
            child.wait().await
        }
    };
    let code = status.expect("a child of ours").code();
    assert!(matches!(code, None | Some(0)), "a run that nobody killed ended with {code:?}");
}

/// Runs the program and kills it a few times, each after another number of requests, `most` of them at the most.
pub async fn run_and_kill(project: &Project, arguments: &[&str], server: &HttpServer, seed: &mut u64, most: u64) {
    for _ in 0..kills().div_ceil(5) {
        let requests = chance(seed, most) as usize + 1;
        run_and_kill_at(project, arguments, server, requests).await;
    }
}
