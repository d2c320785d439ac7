//! Very many tables in one feed: the memory of the run holds whatever their number.
//!
//! `INGEST_TEST_TABLES=10000` makes so many (default 120); the release build takes some minutes for ten thousand.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ingest_testkit::postgres::{Database, Options, Postgres};
use serde_json::{Map, Value};

use super::log;
use super::replay::{Shape, replay};
use crate::cli::Project;

/// What the run may take, and what it may take at most (a quarter more), in KiB.
const MEMORY: &str = "256MiB";
const MOST: u64 = 320 << 10;
/// Tables of one statement: each takes locks.
const AT_ONCE: usize = 500;
/// Times that each table is changed, in a transaction with many others.
const ROUNDS: usize = 3;

fn tables() -> usize {
    std::env::var("INGEST_TEST_TABLES").ok().and_then(|text| text.parse().ok()).unwrap_or(120)
}

/// Runs a statement for each table, many in a transaction; `$` is the table's number.
async fn each(database: &Database, count: usize, statement: &str) {
    for first in (0..count).step_by(AT_ONCE) {
        let last = (first + AT_ONCE).min(count) - 1;
        let sql = format!(
            "DO $do$ BEGIN FOR i IN {first}..{last} LOOP EXECUTE replace($sql${statement}$sql$, '$', i::text); END LOOP; END $do$"
        );
        database.client.batch_execute(&sql).await.expect("valid SQL");
    }
}

/// Runs the program to its end; gives the most memory that it took, in KiB, and what it said of its streams.
fn measured(project: &Project) -> (u64, Vec<Value>) {
    let path = project.folder.path().join("events.ndjson");
    let began = Instant::now();
    let mut child = project
        .command(&["run", "--source", "db", "--progress", "json"])
        .stdout(File::create(&path).expect("a file"))
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the program starts");
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break status;
        }
        // The kernel keeps the highest value; it is gone with the process.
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        most = peak.and_then(|peak| peak.trim().parse().ok()).map_or(most, |peak: u64| most.max(peak));
        std::thread::sleep(Duration::from_millis(20));
    };
    let events = std::fs::read_to_string(&path).expect("UTF-8");
    let last: Value = serde_json::from_str(events.lines().last().expect("an event")).expect("JSON");
    assert!(status.success(), "{status}: {}", &events[events.len().saturating_sub(2_000)..]);
    println!("{} MiB at most, {:?}", most >> 10, began.elapsed());
    (most, last["streams"].as_array().expect("streams").clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_tables_of_one_feed_take_no_more_memory_than_few() {
    let settings = [("max_locks_per_transaction", "256")];
    let Some(server) = Postgres::private(&Options { settings: &settings, ..Options::default() }) else { return };
    let (database, count) = (server.database().await, tables());
    each(&database, count, "CREATE TABLE t$ (id int PRIMARY KEY, v text, at timestamptz, n numeric(12,2))").await;
    each(&database, count, "INSERT INTO t$ SELECT i, 'v' || i, now(), i / 4.0 FROM generate_series(1, 3) i").await;
    let project = Project::new(&format!(
        "memory: {MEMORY}\nsources:\n  db:\n    connector: postgres\n    host: 127.0.0.1\n    port: {}\n    database: {}\n    user: postgres\n    \
         password: ${{DB_PASSWORD}}\n    streams: {{\"public.*\": {{mode: cdc}}}}\n",
        server.port(),
        database.name
    ))
    .set("DB_PASSWORD", server.password());
    let (loading, _) = tokio::task::block_in_place(|| measured(&project));
    for round in 0..ROUNDS {
        each(&database, count, &format!("UPDATE t$ SET v = 'changed {round}' WHERE id = {}", round + 1)).await;
        each(&database, count, &format!("INSERT INTO t$ VALUES ({}, 'new', now(), 1)", round + 10)).await;
        each(&database, count, &format!("DELETE FROM t$ WHERE id = {}", round + 9)).await;
    }
    let (following, streams) = tokio::task::block_in_place(|| measured(&project));
    assert_eq!(streams.len(), count);
    for stream in &streams {
        // The first round deletes nothing.
        assert_eq!(stream["rows_written"], ROUNDS * 3 - 1, "{stream}");
        assert!(stream["error"].is_null(), "{stream}");
    }
    for number in (0..count).step_by(count.div_ceil(5)) {
        assert_equal(&database, &project, number).await;
    }
    assert!(loading.max(following) <= MOST, "{} MiB", loading.max(following) >> 10);
}

/// Fails unless the log of a table comes to what the table holds.
async fn assert_equal(database: &Database, project: &Project, number: usize) {
    let stream = format!("public.t{number}");
    let Some(log) = log(&project.folder.path().join("lake/bronze/db"), stream.clone()).await else { return };
    let names: Vec<String> = ["id", "v"].map(str::to_owned).to_vec();
    let shape = Shape { names: &names, key: &names[..1], is_keyed: true, is_exact: true };
    let shown = |row: Map<String, Value>| (row["id"].as_i64(), row["v"].as_str().map(str::to_owned));
    let mut found: Vec<_> = replay(&stream, &shape, log).into_iter().map(shown).collect();
    found.sort();
    let rows = database.client.query(&format!("SELECT id::bigint, v FROM t{number} ORDER BY id"), &[]).await;
    let truth: Vec<(Option<i64>, Option<String>)> =
        rows.expect("valid SQL").iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, truth, "{stream}");
}
