//! Tells a run to Dagster: messages of the Pipes protocol, where Dagster started this process.
//!
//! `DAGSTER_PIPES_CONTEXT` and `DAGSTER_PIPES_MESSAGES` are base64 of zlib of JSON. The first holds the path of a file that says which
//! assets are made, the second the path of a file to which messages are appended, one JSON object a line
//! (`dagster_pipes`, protocol 0.1).

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use ingest_core::{Error, Json, Result};
use serde_json::json;

use super::output::note;
use crate::events::{Event, Observer, StreamReport};

/// Version of the protocol.
const VERSION: &str = "0.1";

/// What a variable or the context may hold at most.
const MAX_BYTES: u64 = 4 << 20;

/// Passes events on, and tells Dagster what it wants to know.
struct Pipes {
    inner: Arc<dyn Observer>,
    messages: Mutex<File>,
    assets: Vec<String>,
}

/// The observer that also tells Dagster, where Dagster started this process. A pipe that cannot be opened is said, and the run
/// goes on without it.
pub fn with_pipes(inner: Arc<dyn Observer>) -> Arc<dyn Observer> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let (Some(context), Some(messages)) = (variable("DAGSTER_PIPES_CONTEXT"), variable("DAGSTER_PIPES_MESSAGES"))
    else {
        return inner;
    };
    match Pipes::open(Arc::clone(&inner), &context, &messages) {
        Ok(pipes) => {
            pipes.send("opened", json!({ "extras": {} }));
            Arc::new(pipes)
        }
        Err(error) => {
            note(&format!("warning: {error}"));
            inner
        }
    }
}

impl Pipes {
    fn open(inner: Arc<dyn Observer>, context: &str, messages: &str) -> Result<Self> {
        let context = decode(context)?;
        let context = match context["path"].as_str() {
            Some(path) => read(Path::new(path))?,
            None => context,
        };
        let context = context.get("data").unwrap_or(&context);
        let assets = context["asset_keys"].as_array().into_iter().flatten();
        let assets = assets.filter_map(|key| key.as_str().map(str::to_owned)).collect();
        let messages = decode(messages)?;
        let path = messages["path"].as_str().ok_or_else(|| {
            Error::config("this way of sending messages to Dagster is not known")
                .hint("start the process with PipesSubprocessClient, whose messages go through a file")
        })?;
        let file = File::options().append(true).create(true).open(path);
        let file = file.map_err(|error| Error::config("cannot open the messages of Dagster").caused_by(error))?;
        Ok(Self { inner, messages: Mutex::new(file), assets })
    }

    fn send(&self, method: &str, parameters: Json) {
        let message = json!({ "__dagster_pipes_version": VERSION, "method": method, "params": parameters });
        let line = format!("{message}\n");
        let mut file = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        // A run does not fail because nobody listens.
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "Dagster could not be told");
        }
    }

    fn log(&self, level: &str, message: &str) {
        self.send("log", json!({ "message": message, "level": level }));
    }

    /// The asset that a stream makes: the only one, or the one whose last part is the name of its table.
    fn asset(&self, report: &StreamReport) -> Option<&str> {
        if let [only] = &self.assets[..] {
            return Some(only);
        }
        let table = report.table.rsplit('.').next().unwrap_or_default();
        self.assets.iter().find(|key| key.rsplit('/').next() == Some(table)).map(String::as_str)
    }

    fn finished(&self, report: &StreamReport) {
        if let Some(error) = &report.error {
            self.log("ERROR", &format!("{}: {}", report.stream, error.message));
        }
        let Some(asset) = self.asset(report) else { return };
        for check in &report.checks {
            let severity = if check.on_fail == "fail" { "ERROR" } else { "WARN" };
            self.send(
                "report_asset_check",
                json!({
                    "asset_key": asset,
                    "check_name": check_name(&check.check),
                    "passed": check.outcome == "passed",
                    "severity": severity,
                    "metadata": {"rows": typed(check.rows.into(), "int"), "failed": typed(check.failed.into(), "int")},
                }),
            );
        }
        if report.error.is_some() {
            return;
        }
        let version = report.commit_version.map_or(Json::Null, |version| version.to_string().into());
        self.send(
            "report_asset_materialization",
            json!({
                "asset_key": asset,
                "data_version": version,
                "metadata": {
                    "stream": typed(report.stream.as_str().into(), "text"),
                    "table": typed(report.table.as_str().into(), "text"),
                    "dagster/row_count": typed(report.rows_written.into(), "int"),
                    "rows_read": typed(report.rows_read.into(), "int"),
                    "rows_staged": typed(report.rows_staged.into(), "int"),
                    "rows_quarantined": typed(report.rows_quarantined.into(), "int"),
                    "bytes_written": typed(report.bytes_written.into(), "int"),
                    "duration_ms": typed(report.duration_ms.into(), "int"),
                },
            }),
        );
    }
}

impl Observer for Pipes {
    fn event(&self, event: &Event) {
        match event {
            Event::StreamStarted { stream, mode, write, slices, .. } => {
                self.log("INFO", &format!("{stream}: {mode}, {write}; {slices} slices"));
            }
            Event::Commit { stream, version, rows, .. } => {
                self.log("INFO", &format!("{stream}: version {version}, {rows} rows"));
            }
            Event::Warning { stream, message } => {
                let of = stream.as_ref().map_or_else(String::new, |stream| format!("{stream}: "));
                self.log("WARNING", &format!("{of}{message}"));
            }
            Event::StreamFinished(report) => self.finished(report),
            Event::RunFinished(report) => {
                if let Some(error) = &report.error {
                    self.log("ERROR", &error.message);
                }
                self.send("closed", json!({}));
            }
            _ => {}
        }
        self.inner.event(event);
    }
}

fn typed(value: Json, kind: &str) -> Json {
    json!({ "raw_value": value, "type": kind })
}

/// `not_null(id)` as Dagster wants names: `not_null_id`.
fn check_name(check: &str) -> String {
    let name: String = check.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    name.trim_matches('_').to_owned()
}

fn wrong(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::config("cannot read what Dagster says").caused_by(error)
}

fn decode(text: &str) -> Result<Json> {
    let bytes = STANDARD.decode(text.trim()).map_err(wrong)?;
    let mut plain = Vec::new();
    ZlibDecoder::new(&bytes[..]).take(MAX_BYTES).read_to_end(&mut plain).map_err(wrong)?;
    serde_json::from_slice(&plain).map_err(wrong)
}

fn read(path: &Path) -> Result<Json> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(wrong)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(wrong)?;
    serde_json::from_slice(&bytes).map_err(wrong)
}
