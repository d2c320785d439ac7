//! What the program survives: kills at random and at every failpoint, standstills, doubled runs, signals. After each, the
//! lake as another program reads it equals the source, with nothing lost and nothing doubled.
//!
//! `INGEST_TEST_KILLS=1000` sets the number of random kills of each loop (default 25).

mod bucket;
mod files;
mod keyed;
mod parts;
mod postgres;
mod signals;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use ingest_testkit::python::{Reader, rows};
use serde_json::Value;

use crate::cli::Project;

/// Every place of `runner/src/failpoint.rs` that a run without feeds passes.
pub const PLACES: [&str; 7] =
    ["lease_taken", "extract", "file_closed", "plan_written", "document_written", "committed", "quarantined"];

/// How many random kills a loop makes.
pub fn kills() -> u64 {
    std::env::var("INGEST_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

/// How many random batches a table gets, a run after each.
pub fn batches() -> usize {
    std::env::var("INGEST_TEST_BATCHES").ok().and_then(|text| text.parse().ok()).unwrap_or(6 * PLACES.len())
}

/// How a run that may be killed ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Killed,
    With(i32),
}

/// Runs the program and kills it after some time, as `kill -9` does.
pub fn run_and_kill(project: &Project, arguments: &[&str], after: Duration) -> Ended {
    let mut command = project.command(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    std::thread::sleep(after);
    // It may have ended by itself.
    let _ = child.kill();
    let status = child.wait().expect("a child of ours");
    status.code().map_or(Ended::Killed, Ended::With)
}

/// Runs the program up to a failpoint. False: the place was not reached so often.
pub fn run_to_failpoint(project: &Project, arguments: &[&str], place: &str, n: u32) -> bool {
    let mut command = project.command(arguments);
    command.env("INGEST_FAILPOINT", format!("{place}:{n}"));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("the program starts");
    // SIGABRT.
    status.signal() == Some(6)
}

/// How often each value of a column stands in a table, read by another program.
pub async fn counts(project: &Project, table: &str, column: &str) -> Option<BTreeMap<String, usize>> {
    let path = project.folder.path().join("lake/bronze").join(table);
    let mut counts = BTreeMap::new();
    for row in rows(Reader::DuckDb, path.to_str().expect("UTF-8"), &[]).await? {
        let value = row.get(column).unwrap_or(&Value::Null);
        *counts.entry(value.as_str().map_or_else(|| value.to_string(), str::to_owned)).or_default() += 1;
    }
    Some(counts)
}

/// Each of these ids is there, once, and no other.
pub fn assert_exactly(counts: &BTreeMap<String, usize>, ids: impl IntoIterator<Item = i64>, context: &str) {
    let mut wanted = 0;
    for id in ids {
        wanted += 1;
        assert_eq!(counts.get(&id.to_string()), Some(&1), "{context}: id {id}");
    }
    assert_eq!(counts.len(), wanted, "{context}: rows that the source does not have");
}

/// A number that looks like chance and follows from a seed.
pub fn chance(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}
