//! Standstills, doubled runs, and being asked to stop.

use std::fmt::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::{assert_exactly, counts};
use crate::cli::{Project, signal, wait};

const RUN: [&str; 5] = ["run", "--source", "shop", "--progress", "off"];
/// Little memory makes many marks and as many commits, so that a run is not done reading when it is interrupted.
const FILES: i64 = 80;
const ROWS: i64 = 4_000;

fn project() -> Project {
    let configuration = "lake: {commit_interval: 0s}\nmemory: 32MiB\n\
        sources:\n  shop:\n    connector: files\n    path: ./data\n    files: {orders: {path: \"*.csv\"}}\n";
    let mut project = Project::new(configuration);
    for file in 0..FILES {
        let mut text = String::from("id,text\n");
        for id in file * ROWS..(file + 1) * ROWS {
            writeln!(text, "{id},row {id} of many").expect("to memory");
        }
        project = project.file(&format!("data/part-{file:05}.csv"), &text);
    }
    project
}

fn start(project: &Project) -> Child {
    project.command(&RUN).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Waits until the first rows are committed.
fn until_a_commit(project: &Project) {
    let second = project.folder.path().join("lake/bronze/shop/orders/_delta_log/00000000000000000002.json");
    let start = std::time::Instant::now();
    while !second.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "no commit");
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn assert_whole(project: &Project) {
    if let Some(found) = counts(project, "shop/orders", "id").await {
        assert_exactly(&found, 0..FILES * ROWS, "after it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_at_once_is_refused_and_doubles_nothing() {
    let project = project();
    let mut first = start(&project);
    until_a_commit(&project);
    let second = project.run(&RUN);
    let (code, _) = wait(&mut first, Duration::from_secs(60));
    assert_eq!((code, second.code), (0, Some(6)), "{second:#?}");
    assert!(second.stderr.contains("another run holds the stream"), "{second:#?}");
    assert_whole(&project).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_stood_still_and_wakes_up_doubles_nothing() {
    let project = project();
    let mut frozen = start(&project);
    until_a_commit(&project);
    signal(&frozen, "STOP");
    assert_eq!(project.run(&RUN).code, Some(6), "its lease still holds");
    // The lease of a process that stands still is free 60 s after its last renewal.
    tokio::time::sleep(Duration::from_secs(62)).await;
    project.good(&RUN);
    assert_whole(&project).await;
    signal(&frozen, "CONT");
    let (code, _) = wait(&mut frozen, Duration::from_secs(60));
    assert!([0, 6].contains(&code), "exit {code}");
    assert_whole(&project).await;
    project.good(&RUN);
    assert_whole(&project).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_asked_to_stop_leaves_whole_commits_and_the_next_one_goes_on() {
    for name in ["TERM", "INT"] {
        let project = project();
        let mut child = start(&project);
        until_a_commit(&project);
        signal(&child, name);
        let (code, took) = wait(&mut child, Duration::from_secs(30));
        assert_eq!(code, 130);
        assert!(took < Duration::from_secs(10), "it took {took:?}");
        project.good(&RUN);
        assert_whole(&project).await;
    }
}
