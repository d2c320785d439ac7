//! A server to test a connector against: in the process of the test, or a program that is told what to do.
//!
//! The program prints one line when it is ready, `{"address": "http://127.0.0.1:4711", "can": ["truth", "change"]}`.
//! From then on it reads [commands](Command), one JSON object a line, and answers each with one line. It ends when its
//! standard input does. Rust programs call [`serve`]; any other language can do the same.
//!
//! | `can` | commands | answer | for |
//! | --- | --- | --- | --- |
//! | `truth` | `{"do": "truth", "stream": "orders"}` | `{"rows": [{…}]}`, [canonical](crate::oracle) | R05, I03, R09, K04 |
//! | `change` | `{"do": "change"}`: at least one new row in every incremental stream | `{}` | I03, R09 |
//! | `late` | `{"do": "late_begin"}`, `{"do": "late_commit"}` | `{}` | I06 |
//! | `lose_log` | `{"do": "lose_log"}` | `{}` | F07 |
//! | `outage` | `{"do": "outage_begin"}`, `{"do": "outage_end"}`, `{"do": "requests"}` | `{}`, `{}`, `{"count": 3}` | F01 |
//!
//! `{"error": "…"}` says that a command failed.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ingest_core::{Error, ErrorKind, Json, Result, async_trait};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Mutex;

/// A server may have to be built before it starts.
const START: Duration = Duration::from_secs(900);
/// A line of an answer: the rows of a stream.
const LONGEST_LINE: u64 = 64 << 20;

/// What a server is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Say what a stream holds now.
    Truth {
        /// Its name.
        stream: String,
    },
    /// Change the data: at least one new row in every stream that can be read incrementally.
    Change,
    /// Write a row that is not visible yet.
    LateBegin,
    /// Make it visible.
    LateCommit,
    /// Forget what follows the last position of the feeds.
    LoseLog,
    /// Fail every request as unavailable.
    OutageBegin,
    /// Work again.
    OutageEnd,
    /// Say how many requests came.
    Requests,
}

/// A server to test a connector against.
#[async_trait]
pub trait Server: Send + Sync + 'static {
    /// Where it listens: what `${server}` stands for in a configuration.
    fn address(&self) -> String;

    /// What it can do: `truth`, `change`, `late`, `lose_log`, `outage`.
    fn can(&self) -> Vec<String>;

    /// Does what it is told.
    ///
    /// # Errors
    /// Why it cannot, in words.
    async fn tell(&self, command: Command) -> Result<Json, String>;
}

/// Lets a program be told over its standard input what its server shall do; returns when that ends.
///
/// # Errors
/// When standard input or output breaks.
pub async fn serve(server: impl Server) -> std::io::Result<()> {
    let mut line = json!({"address": server.address(), "can": server.can()}).to_string();
    loop {
        line.push('\n');
        let Some(command) = tokio::task::spawn_blocking(move || exchange(&line)).await?? else { return Ok(()) };
        let answer = match serde_json::from_str(&command) {
            Ok(command) => server.tell(command).await,
            Err(error) => Err(format!("the command cannot be read: {error}")),
        };
        line = answer.unwrap_or_else(|error| json!({"error": error})).to_string();
    }
}

/// Prints a line and waits for the next one; `None` at the end of the input.
fn exchange(line: &str) -> std::io::Result<Option<String>> {
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.flush()?;
    let mut command = String::new();
    let read = std::io::stdin().lock().read_line(&mut command)?;
    Ok((read > 0).then_some(command))
}

/// A server that is a program of its own.
pub struct Process {
    address: String,
    can: Vec<String>,
    pipes: Mutex<Pipes>,
    // Ends when its standard input does, and is killed when it is dropped.
    _child: Child,
}

struct Pipes {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Ready {
    address: String,
    #[serde(default)]
    can: Vec<String>,
}

impl Process {
    /// Starts a program in a folder and waits until it is ready.
    ///
    /// # Errors
    /// `ConfigInvalid` when it cannot be started, ends, or prints something else.
    pub async fn start(command: &[String], folder: &Path) -> Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(Error::config("the command of the server is empty"));
        };
        let cannot = |what: &str| {
            Error::config(format!("the server to test against {what}"))
                .with("command", command.join(" "))
                .with("folder", folder.display())
                .hint("run the command by hand: it prints one line of JSON with its address when it is ready")
        };
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| cannot("cannot be started").caused_by(error))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::unexpected("a child has no pipes"));
        };
        let mut pipes = Pipes { input, output: BufReader::new(output) };
        let line = tokio::time::timeout(START, pipes.line())
            .await
            .map_err(|_| cannot("is not ready in time").of_kind(ErrorKind::Timeout))?
            .map_err(|error| cannot("ended before it was ready").caused_by(error))?;
        let ready: Ready =
            serde_json::from_str(&line).map_err(|error| cannot("did not print its address").caused_by(error))?;
        Ok(Self { address: ready.address, can: ready.can, pipes: Mutex::new(pipes), _child: child })
    }
}

impl Pipes {
    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        let read = (&mut self.output).take(LONGEST_LINE).read_line(&mut line).await?;
        if read == 0 || !line.ends_with('\n') {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }

    async fn ask(&mut self, command: &Command) -> std::io::Result<String> {
        let line = serde_json::to_string(command)? + "\n";
        self.input.write_all(line.as_bytes()).await?;
        self.input.flush().await?;
        self.line().await
    }
}

#[async_trait]
impl Server for Process {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn can(&self) -> Vec<String> {
        self.can.clone()
    }

    async fn tell(&self, command: Command) -> Result<Json, String> {
        let mut pipes = self.pipes.lock().await;
        let line = pipes.ask(&command).await.map_err(|error| format!("the server does not answer: {error}"))?;
        let answer: Json = serde_json::from_str(&line).map_err(|error| format!("the answer is not JSON: {error}"))?;
        match answer.get("error").and_then(Json::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }
}
