//! What a run tells while it works: one value per event, rendered by the command line as bars, lines or JSON.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ingest_core::config::Span;
use ingest_core::{Error, ErrorKind, Json, JsonSchema, RESYNC};
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::policy::CheckReport;

/// Takes events. Called from many tasks; it must be quick.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event);
}

/// An observer that ignores everything.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event) {}
}

/// Passes the events of a run on, tells heartbeats while there are none, and knows whether the run's own time is over.
pub struct Beating {
    inner: Arc<dyn Observer>,
    told: Mutex<Instant>,
    limit_reached: AtomicBool,
}

impl Beating {
    /// A heartbeat is told after so much silence, and again after as much.
    const EVERY: Duration = Duration::from_secs(10);

    /// Over another observer.
    pub fn over(inner: Arc<dyn Observer>) -> Self {
        Self { inner, told: Mutex::new(Instant::now()), limit_reached: AtomicBool::new(false) }
    }

    /// The run is about to be stopped because its time is over.
    pub fn reach_limit(&self, limit: Duration) {
        self.limit_reached.store(true, Ordering::Release);
        let message = format!("the time limit of {} is reached: what is whole is committed", Span(limit));
        self.event(&Event::Warning { stream: None, message });
    }

    /// Whether [`Beating::reach_limit`] was called.
    pub fn is_limit_reached(&self) -> bool {
        self.limit_reached.load(Ordering::Acquire)
    }

    /// Tells heartbeats for ever.
    pub async fn beat(&self) -> std::convert::Infallible {
        loop {
            let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let silent = told.elapsed();
            let beats = u32::try_from(silent.as_secs() / Self::EVERY.as_secs()).unwrap_or(u32::MAX);
            if beats > 0 {
                self.inner.event(&Event::Heartbeat { idle_seconds: silent.as_secs() });
            }
            tokio::time::sleep_until(told + Self::EVERY.saturating_mul(beats.saturating_add(1))).await;
        }
    }
}

impl Observer for Beating {
    fn event(&self, event: &Event) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        match event {
            Event::StreamFinished(report) if self.is_limit_reached() => {
                let mut report = report.clone();
                report.excuse();
                self.inner.event(&Event::StreamFinished(report));
            }
            event => self.inner.event(event),
        }
    }
}

/// The JSON Schema of a line of `--progress json`.
pub fn schema() -> Json {
    let written = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = Json::from(written.into_generator().into_root_schema_for::<Event>());
    let about = "One line of `ingest run --progress json`. Later versions may add types and fields: pass over what you do not know.";
    let envelope = json!({
        "type": {"type": "string", "description": "What happened."},
        "time": {"type": "string", "format": "date-time", "description": "When, by the clock of the machine: RFC 3339, UTC."},
        "run_id": {"type": "string", "description": "The run: `--run-id`, or one that was made up."},
    });
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".into(), "Events of ingest".into());
        object.insert("description".into(), about.into());
        object.insert("type".into(), "object".into());
        object.insert("properties".into(), envelope);
        object.insert("required".into(), json!(["type", "time", "run_id"]));
    }
    schema
}

/// What happened. `--progress json` prints it with `type`, `time` (RFC 3339) and `run_id` in front.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The configuration was read and the source is being opened.
    RunStarted {
        /// The source.
        source: String,
        /// The connector.
        connector: String,
        /// The lake, without credentials.
        lake: String,
        /// This program's version.
        version: String,
    },
    /// A stream is planned and about to be read.
    StreamStarted {
        /// The stream.
        stream: String,
        /// `full`, `incremental`, `cdc`.
        mode: String,
        /// `append`, `replace`, …
        write: String,
        /// Slices of the plan.
        slices: usize,
        /// Slices of it that an earlier run has finished.
        slices_done: usize,
        /// Estimated rows.
        rows: Option<u64>,
        /// Estimated bytes.
        bytes: Option<u64>,
        /// How it will be read, for people: `2 ctid ranges under one snapshot`.
        note: Option<String>,
    },
    /// How far a stream is; about once a second.
    Progress {
        /// The stream.
        stream: String,
        /// Rows read so far in this run.
        rows_read: u64,
        /// Bytes read so far in this run, as Arrow.
        bytes_read: u64,
        /// Slices finished, earlier runs included.
        slices_done: usize,
        /// Slices of the plan.
        slices: usize,
        /// How far it is behind its source, of streams with a change feed.
        #[serde(skip_serializing_if = "Option::is_none")]
        lag: Option<LagReport>,
    },
    /// A commit is durable.
    Commit {
        /// The stream.
        stream: String,
        /// Version of the table.
        version: u64,
        /// Rows that became visible.
        rows: u64,
        /// Files that became visible.
        files: usize,
        /// The checkpoint number.
        number: i64,
    },
    /// Something that a person should know.
    Warning {
        /// The stream; none = the source or the run.
        stream: Option<String>,
        /// What.
        message: String,
    },
    /// A stream is done or has failed.
    StreamFinished(StreamReport),
    /// Nothing was told for a while; the run is alive. Every ten seconds.
    Heartbeat {
        /// Seconds since the last other event.
        idle_seconds: u64,
    },
    /// The last event.
    RunFinished(RunReport),
}

/// The figures of a stream.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct StreamReport {
    /// The stream.
    pub stream: String,
    /// The table, `source.table`.
    pub table: String,
    /// Rows that came out of the source.
    pub rows_read: u64,
    /// Rows that became visible.
    pub rows_written: u64,
    /// Rows with a rescued value.
    pub rows_rescued: u64,
    /// Records that went to quarantine.
    pub rows_quarantined: u64,
    /// Rows that a part of a plan has staged: they become visible when the plan is closed.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows_staged: u64,
    /// Bytes read, as Arrow.
    pub bytes_read: u64,
    /// Files that became visible.
    pub files: u64,
    /// Bytes of those files.
    pub bytes_written: u64,
    /// What merges cost, under `merge` and `scd2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeReport>,
    /// What a sweep of this run did: the search for rows that the source no longer has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepReport>,
    /// The table's version after the last commit of this run; none = no commit.
    pub commit_version: Option<u64>,
    /// Wall time.
    pub duration_ms: u64,
    /// How far the table was behind its source in the end, of streams with a change feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagReport>,
    /// Something was left for the next run.
    pub partial: bool,
    /// Slices of a shared plan that are not finished yet, so that it could not be closed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_slices: Vec<u32>,
    /// What checks have found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

impl StreamReport {
    /// To be stopped by one's own time limit is no failure: the rest is for the next run.
    pub fn excuse(&mut self) {
        let stopped = self.error.take_if(|error| error.exit_code == ErrorKind::Cancelled.exit_code());
        self.partial |= stopped.is_some();
    }
}

/// How far a stream is behind its source. While a run follows, that is what is committed; else what is read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct LagReport {
    /// How long ago the source was where the stream is.
    pub seconds: f64,
    /// Bytes of the source's log behind that place when it was read, where the source tells.
    pub bytes: Option<u64>,
}

/// What the merges of a stream cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MergeReport {
    /// Rows that were inserted, updated, closed or deleted.
    pub rows_changed: u64,
    /// Files of the table that were rewritten or removed.
    pub files_touched: u64,
    /// Unchanged rows that were written again because their file was.
    pub rows_rewritten: u64,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// `bytes_written` for each row that changed; none = no row did.
    pub bytes_per_changed_row: Option<u64>,
}

impl MergeReport {
    /// Adds what another merge cost.
    pub fn add(&mut self, other: &Self) {
        self.rows_changed += other.rows_changed;
        self.files_touched += other.files_touched;
        self.rows_rewritten += other.rows_rewritten;
        self.bytes_written += other.bytes_written;
        self.bytes_per_changed_row = self.bytes_written.checked_div(self.rows_changed);
    }
}

/// What a run did of a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SweepReport {
    /// Keys that were read in this run.
    pub keys_read: u64,
    /// Slices of all keys.
    pub slices: u64,
    /// Slices that are read, by earlier runs too.
    pub slices_done: u64,
    /// Rows that the source no longer had.
    pub rows_deleted: u64,
    /// All keys are read, and the rows are deleted.
    pub ended: bool,
}

/// The figures of a run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RunReport {
    /// The run. Left out in JSON: every event carries it.
    #[serde(skip)]
    pub run_id: String,
    /// The source.
    pub source: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The exit code.
    pub exit_code: u8,
    /// Wall time.
    pub duration_ms: u64,
    /// Totals.
    pub rows_read: u64,
    /// Totals.
    pub rows_written: u64,
    /// Totals.
    pub rows_rescued: u64,
    /// Totals.
    pub rows_quarantined: u64,
    /// Requests of the source's API, where it is read through one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestReport>,
    /// The streams, in the order of their names.
    pub streams: Vec<StreamReport>,
    /// What failed before any stream could start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// The requests of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RequestReport {
    /// Those that were sent: for streams, plans and slices, repeats among them; not those for tokens.
    pub sent: u64,
    /// What the plans that this run made have estimated for their slices; none = they did not say.
    pub estimated: Option<u64>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything is in the lake.
    Succeeded,
    /// What was read is committed; something was left for the next run.
    Partial,
    /// At least one stream failed.
    Failed,
    /// It was asked to stop; all commits are whole.
    Interrupted,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An error as JSON and text show it: `{kind, message, hint, context}`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ErrorReport {
    /// The kind, e.g. `Unavailable`.
    pub kind: String,
    /// What was attempted, and the causes.
    pub message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names, counts, positions.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub context: serde_json::Map<String, serde_json::Value>,
    /// The exit code of this error alone.
    #[serde(skip)]
    pub exit_code: u8,
}

impl ErrorReport {
    /// Puts the names of a source and a stream into the command that its hint may hold.
    pub fn name(&mut self, source: &str, stream: &str) {
        self.hint = self.hint.take().map(|hint| named(&hint, source, Some(stream)));
    }
}

/// A hint with the names of a source and a stream in the command that loads the stream again ([`RESYNC`]).
pub fn named(hint: &str, source: &str, stream: Option<&str>) -> String {
    let command = RESYNC.replace("SOURCE", &word(source));
    hint.replace(RESYNC, &stream.map_or_else(|| command.clone(), |stream| command.replace("STREAM", &word(stream))))
}

/// A name as a word of a shell.
fn word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-/:@".contains(c);
    if name.chars().all(plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        let mut message = error.message().to_owned();
        for cause in error.causes() {
            message.push_str(": ");
            message.push_str(&cause);
        }
        Self {
            kind: error.kind().name().to_owned(),
            message,
            hint: error.hint_text().map(str::to_owned),
            context: error.context().iter().map(|(k, v)| ((*k).to_owned(), v.clone().into())).collect(),
            exit_code: error.kind().exit_code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl Observer for Heard {
        fn event(&self, event: &Event) {
            self.0.lock().expect("no panic").push(event.clone());
        }
    }

    #[test]
    fn the_command_that_loads_a_stream_again_names_it() {
        let error = Error::config("lost").hint(format!("run `{RESYNC}`; then see to the log"));
        let mut report = ErrorReport::from(&error);
        report.name("shop db", "public.orders");
        let hint = "run `ingest run --source 'shop db' --resync public.orders`; then see to the log";
        assert_eq!(report.hint.as_deref(), Some(hint));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_run_tells_every_ten_seconds_that_it_lives() {
        let heard = Arc::new(Heard::default());
        let beating = Beating::over(Arc::clone(&heard) as Arc<dyn Observer>);
        let silence = tokio::time::sleep(Duration::from_secs(35));
        tokio::select! {
            never = beating.beat() => match never {},
            () = silence => {}
        }
        beating.event(&Event::Warning { stream: None, message: "something".into() });
        tokio::select! {
            never = beating.beat() => match never {},
            () = tokio::time::sleep(Duration::from_secs(15)) => {}
        }
        let heard = heard.0.lock().expect("no panic");
        let beats: Vec<u64> = heard
            .iter()
            .filter_map(|event| match event {
                Event::Heartbeat { idle_seconds } => Some(*idle_seconds),
                _ => None,
            })
            .collect();
        assert_eq!(beats, [10, 20, 30, 10]);
    }
}
