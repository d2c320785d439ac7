//! Second readers of lake tables: programs that share no code with the writer under test, or not all of it.
//!
//! | reader | what it stands on |
//! | --- | --- |
//! | [`Reader::DuckDb`] | DuckDB's delta extension, which is delta-kernel: independent of delta-rs |
//! | [`Reader::DeltaRs`] | the Python package of delta-rs with pyarrow's Parquet reader: the log is read by the same library as ours |

use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use ingest_core::Json;
use serde_json::Map;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::programs;

/// A program that reads Delta tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// DuckDB's delta extension. Tables on this machine, and on S3.
    DuckDb,
    /// delta-rs in Python. Tables anywhere.
    DeltaRs,
}

impl Reader {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::DuckDb, Self::DeltaRs];

    fn name(self) -> &'static str {
        match self {
            Self::DuckDb => "duckdb",
            Self::DeltaRs => "deltalake",
        }
    }
}

/// The Python that `.ci/install` made, or `INGEST_TEST_PYTHON`; `None` when `INGEST_TEST_SKIP` names `server`.
///
/// # Panics
/// When there is none.
pub fn program(server: &str) -> Option<PathBuf> {
    let named = std::env::var_os("INGEST_TEST_PYTHON").map(PathBuf::from);
    programs::find(server, &[named.unwrap_or_else(|| programs::home().join("venv/bin/python"))])
}

/// Runs a script and gives what it printed; `None` when `INGEST_TEST_SKIP` names `server`. `env` is added to the
/// environment.
///
/// # Panics
/// When the script fails; the message holds what it complained about.
pub async fn run(server: &str, script: &str, arguments: &[&str], env: &[(String, String)]) -> Option<String> {
    let mut text = String::new();
    each_line(server, script, arguments, env, |line| {
        text.push_str(line);
        text.push('\n');
    })
    .await
    .then_some(text)
}

/// The rows of a Delta table as another program sees them, with [canonical](crate::oracle) values; `None` when
/// `INGEST_TEST_SKIP` names `python`. `env` says how to reach an object store, as in [`crate::s3::Bucket::env`].
///
/// # Panics
/// When the table cannot be read.
pub async fn rows(reader: Reader, table: &str, env: &[(String, String)]) -> Option<Vec<Map<String, Json>>> {
    let mut rows = Vec::new();
    each_row(reader, table, env, |row| rows.push(row)).await.then_some(rows)
}

/// As [`rows`], one by one: memory stays small with big tables. False = skipped.
///
/// # Panics
/// When the table cannot be read.
pub async fn each_row(
    reader: Reader,
    table: &str,
    env: &[(String, String)],
    mut take: impl FnMut(Map<String, Json>),
) -> bool {
    let script = include_str!("python/read_table.py");
    each_line("python", script, &[reader.name(), table], env, |line| match serde_json::from_str(line) {
        Ok(row) => take(row),
        Err(error) => panic!("{} printed something that is no row: {error}: {line}", reader.name()),
    })
    .await
}

/// Ends a script without tearing the interpreter down. Threads of pyarrow still hold Python objects then (the file system
/// that deltalake hands to it), and a thread that asks for the interpreter's lock while it goes away is unwound through
/// C++ code, which aborts the process after everything was printed: "terminate called without an active exception".
const LEAVE: &str = "
import os, sys
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
";

async fn each_line(
    server: &str,
    script: &str,
    arguments: &[&str],
    env: &[(String, String)],
    mut take: impl FnMut(&str),
) -> bool {
    let Some(python) = program(server) else { return false };
    let mut command = Command::new(python);
    let script = format!("{script}\n{LEAVE}");
    command.arg("-c").arg(script).args(arguments).envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = async {
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = async {
            let mut lines = BufReader::new(stdout.ok_or_else(closed)?).lines();
            while let Some(line) = lines.next_line().await? {
                take(&line);
            }
            io::Result::Ok(())
        };
        let complaints = async {
            let mut text = String::new();
            stderr.ok_or_else(closed)?.read_to_string(&mut text).await?;
            io::Result::Ok(text)
        };
        let (output, complaints) = tokio::join!(output, complaints);
        output?;
        io::Result::Ok((child.wait().await?, complaints?))
    };
    match run.await {
        Ok((status, _)) if status.success() => true,
        Ok((status, complaints)) => panic!("a Python script for {server} failed ({status}):\n{complaints}"),
        Err(error) => panic!("cannot run a Python script for {server}: {error}"),
    }
}

fn closed() -> io::Error {
    io::Error::other("no pipe to the child")
}
