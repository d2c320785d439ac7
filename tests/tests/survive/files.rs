//! Loads of files that are killed.

use std::fmt::Write;
use std::time::Duration;

use super::{Ended, PLACES, assert_exactly, chance, counts, kills, run_and_kill, run_to_failpoint};
use crate::cli::Project;

const RUN: [&str; 5] = ["run", "--source", "shop", "--progress", "off"];

/// Files of one stream with so many rows each; one line in each cannot be read.
struct Folder {
    project: Project,
    files: i64,
    rows: i64,
    overlap: bool,
}

impl Folder {
    fn new(rows: i64) -> Self {
        Self::with(rows, "")
    }

    fn with(rows: i64, options: &str) -> Self {
        // A commit at every mark: as many instants to be killed at as possible.
        let configuration = format!(
            "lake: {{commit_interval: 0s}}\n\
            sources:\n  shop:\n    connector: files\n    path: ./data\n    files: {{orders: {{path: \"*.csv\"}}}}\n{options}"
        );
        Self { project: Project::new(&configuration), files: 0, rows, overlap: !options.is_empty() }
    }

    fn add(&mut self, files: i64) {
        let data = self.project.folder.path().join("data");
        std::fs::create_dir_all(&data).expect("made");
        for _ in 0..files {
            let mut text = String::from("id,text\n");
            // Some rows of the file before come again.
            let first = if self.overlap { (self.files * self.rows - 20).max(0) } else { self.files * self.rows };
            for id in first..(self.files + 1) * self.rows {
                writeln!(text, "{id},row {id}").expect("to memory");
            }
            writeln!(text, "bad,bad,bad {}", self.files).expect("to memory");
            std::fs::write(data.join(format!("part-{:05}.csv", self.files)), text).expect("written");
            self.files += 1;
        }
    }

    async fn assert_whole(&self, context: &str) {
        if let Some(found) = counts(&self.project, "shop/orders", "id").await {
            assert_exactly(&found, 0..self.files * self.rows, context);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_survive_kills_at_random_moments() {
    let mut folder = Folder::new(500);
    let (mut killed, mut seed) = (0, 0x9e37_79b9_7f4a_7c15);
    folder.add(30);
    while killed < kills() {
        let after = Duration::from_millis(chance(&mut seed, 250));
        match run_and_kill(&folder.project, &RUN, after) {
            Ended::Killed => killed += 1,
            Ended::With(0) => folder.add(10),
            ended => panic!("{ended:?}"),
        }
    }
    folder.project.good(&RUN);
    folder.assert_whole("after random kills").await;
    // Every record that could not be read stands in the quarantine, once.
    let path = folder.project.folder.path().join("lake/quarantine/shop/orders");
    let reader = ingest_testkit::python::Reader::DuckDb;
    if let Some(rows) = ingest_testkit::python::rows(reader, path.to_str().expect("UTF-8"), &[]).await {
        assert_eq!(rows.len(), usize::try_from(folder.files).expect("small"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_survive_a_kill_at_every_failpoint() {
    survive_every_failpoint("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_files_survive_a_kill_at_every_failpoint() {
    survive_every_failpoint("    streams: {orders: {write: merge, key: [id]}}\n").await;
}

async fn survive_every_failpoint(options: &str) {
    for place in PLACES {
        let mut folder = Folder::with(200, options);
        folder.add(6);
        let mut reached = 0;
        for n in 1..=4 {
            reached += u32::from(run_to_failpoint(&folder.project, &RUN, place, n));
            folder.add(1);
        }
        assert!(reached > 0, "no run has passed {place}");
        folder.project.good(&RUN);
        folder.assert_whole(place).await;
    }
}
