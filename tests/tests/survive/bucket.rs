//! A plan that eight processes share over an object store: they are killed at random, run twice, and at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingest_testkit::python::{Reader, rows};
use ingest_testkit::s3::{Bucket, S3};

use super::{Ended, assert_exactly, chance, run_and_kill};
use crate::cli::Project;

const PROCESSES: u64 = 8;
const PARTS: u64 = 16;
const ROWS: i64 = 1_100;
const FINISH: [&str; 6] = ["run", "--plan", "plan.json", "--finish", "--progress", "off"];

/// Files of a megabyte and more, so that each is a slice; the lake in a bucket.
fn project(bucket: &Bucket) -> Project {
    let mut project = Project::new(&format!(
        "lake: {{url: \"{}/lake\", commit_interval: 0s}}\nsources:\n  shop:\n    connector: files\n    path: ./data\n    \
         files: {{orders: {{path: \"*.csv\"}}}}\n",
        bucket.url()
    ));
    let filler = "x".repeat(1_000);
    for file in 0..PARTS.cast_signed() {
        let lines: String = (file * ROWS..(file + 1) * ROWS).map(|id| format!("{id},{filler}\n")).collect();
        project = project.file(&format!("data/{file:04}.csv"), &format!("id,text\n{lines}"));
    }
    bucket.env().iter().fold(project, |project, (name, value)| project.set(name, value))
}

/// Works at a part until it is done, killed again and again. Gives how often.
fn work(project: &Project, part: u64, seed: &mut u64) -> u64 {
    let part = part.to_string();
    let arguments = ["run", "--plan", "plan.json", "--slice", &part, "--progress", "off"];
    let mut killed = 0;
    for attempt in 0.. {
        assert!(attempt < 50, "part {part} is never done");
        if killed < 2 {
            match run_and_kill(project, &arguments, Duration::from_millis(chance(seed, 1_500))) {
                Ended::Killed => killed += 1,
                // 6: another process works on the part too.
                Ended::With(0) => return killed,
                Ended::With(6) => {}
                ended @ Ended::With(_) => panic!("part {part}: {ended:?}"),
            }
        } else {
            let output = project.run(&arguments);
            match output.code {
                Some(0) => return killed,
                Some(6) => {}
                _ => panic!("part {part}: {output:#?}"),
            }
        }
    }
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_that_are_killed_load_one_plan_into_a_bucket() {
    let Some(server) = S3::shared().await else { return };
    let bucket = server.bucket().await;
    let project = Arc::new(project(&bucket));
    let slices = PARTS.to_string();
    let planned = project.json(&["plan", "--source", "shop", "--slices", &slices, "-o", "plan.json"]);
    assert_eq!(planned["parts"], PARTS);
    // Each part once, and some of them twice: two processes may have the same at once.
    let parts: VecDeque<u64> = (0..PARTS / 2).flat_map(|part| [part, part]).chain(PARTS / 2..PARTS).collect();
    let parts = Arc::new(Mutex::new(parts));
    let workers: Vec<_> = (0..PROCESSES)
        .map(|worker| {
            let (project, parts) = (Arc::clone(&project), Arc::clone(&parts));
            tokio::task::spawn_blocking(move || {
                let mut seed = 0x9e37_79b9_7f4a_7c15 ^ (worker + 1);
                let next = || parts.lock().expect("no panic").pop_front();
                let mut killed = 0;
                while let Some(part) = next() {
                    killed += work(&project, part, &mut seed);
                }
                killed
            })
        })
        .collect();
    let mut killed = 0;
    for worker in workers {
        killed += worker.await.expect("no panic");
    }
    assert!(killed >= PARTS / 2, "only {killed} processes were killed");
    // Two close it at once: one of them may find that it is closed, or that the other holds the stream.
    let both: Vec<_> = (0..2).map(|_| project.command(&FINISH).spawn().expect("the program starts")).collect();
    for mut child in both {
        let code = child.wait().expect("a child of ours").code();
        assert!(matches!(code, Some(0 | 6)), "{code:?}");
    }
    project.good(&FINISH);
    let table = format!("{}/lake/bronze/shop/orders", bucket.url());
    let Some(found) = rows(Reader::DuckDb, &table, &bucket.env()).await else { return };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in found {
        *counts.entry(row["id"].to_string()).or_default() += 1;
    }
    assert_exactly(&counts, 0..PARTS.cast_signed() * ROWS, "closed");
}
