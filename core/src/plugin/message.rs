//! What the frames say: the JSON of both sides. `docs/plugins.md` is its description for other languages.
//!
//! Unknown fields are ignored, so that a version may add some; unknown types of messages are not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::batch::{read_schema_text, schema_text};
use crate::{
    CursorColumn, Done, Error, ErrorKind, Estimate, Json, Mode, Region, Result, Selected, Selection, Seq, Severity,
    Slice, SliceId, Spec, Stored, StreamName,
};

/// The version of the protocol. Another number is another language.
pub const PROTOCOL: u32 = 1;

/// What the runner says. Each call has a number of its own; the answers carry it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// The first frame.
    Hello {
        /// The version that the runner speaks.
        protocol: u32,
    },
    /// Are you alive? Answered by [`Reply::Pong`], at any time, within seconds.
    Ping,
    /// Opens the source; once. The secrets of the configuration are in the clear here, and nowhere else.
    Open {
        /// The call.
        call: u64,
        /// The connector's own fields.
        config: Json,
        /// The name of the source.
        source: String,
        /// The run.
        run_id: String,
        /// A folder for temporary files.
        temp_dir: PathBuf,
    },
    /// See [`Connector::check`](crate::Connector::check).
    Check {
        /// The call.
        call: u64,
        /// The streams.
        selection: Selection,
    },
    /// See [`Connector::schema`](crate::Connector::schema).
    Schema {
        /// The call.
        call: u64,
        /// The streams.
        selection: Selection,
    },
    /// See [`Connector::plan`](crate::Connector::plan).
    Plan {
        /// The call.
        call: u64,
        /// What is asked.
        request: PlanRequest,
    },
    /// See [`Connector::extract`](crate::Connector::extract).
    Extract {
        /// The call.
        call: u64,
        /// The slice.
        slice: Slice<Json>,
        /// The `state_version` that wrote the slice's work.
        version: u32,
        /// Where to begin; `null` = at its start.
        from: Option<Stored>,
        /// Whether the run follows feeds.
        follow: bool,
        /// Bytes of frames that the plug-in may send before it must wait for [`Request::Credit`].
        credit: u64,
        /// Wanted size of a batch in bytes.
        batch_bytes: u64,
    },
    /// See [`Connector::checkpoint`](crate::Connector::checkpoint).
    Checkpoint {
        /// The call.
        call: u64,
        /// The slice.
        slice: Slice<Json>,
        /// The `state_version` that wrote the slice's work.
        version: u32,
        /// What is durable.
        committed: Stored,
    },
    /// More may be sent.
    Credit {
        /// The call of `extract`.
        call: u64,
        /// So many bytes more.
        bytes: u64,
        /// Wanted size of a batch from now on.
        batch_bytes: u64,
    },
    /// Nobody waits for a call any more. It is still answered, by an error `Cancelled` or whatever it came to.
    Cancel {
        /// The call.
        call: u64,
    },
}

/// What the plug-in says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The answer to [`Request::Hello`].
    Hello {
        /// The version that the plug-in speaks.
        protocol: u32,
        /// What the connector is; `config` is filled.
        spec: Box<Spec>,
    },
    /// The answer to [`Request::Ping`].
    Pong,
    /// A line for the log.
    Log {
        /// `error`, `warn`, `info` or `debug`.
        level: String,
        /// The line.
        text: String,
    },
    /// `open` is done.
    Opened {
        /// The call.
        call: u64,
    },
    /// `check` is done.
    Problems {
        /// The call.
        call: u64,
        /// What is wrong.
        problems: Vec<Problem>,
    },
    /// `schema` is done.
    Streams {
        /// The call.
        call: u64,
        /// The streams.
        streams: Vec<Stream>,
    },
    /// `plan` is done.
    Plan {
        /// The call.
        call: u64,
        /// The plan.
        plan: Plan,
    },
    /// `checkpoint` is done.
    Ok {
        /// The call.
        call: u64,
    },
    /// `extract` is done.
    Done {
        /// The call.
        call: u64,
        /// How it ended.
        end: End,
        /// With `pending`: when to call again, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },
    /// A call has failed.
    Error(Failure),
    /// From here on the rows of a stream look as the Arrow frame says that follows.
    Schema {
        /// The call of `extract`.
        call: u64,
        /// The stream.
        stream: StreamName,
    },
    /// Rows of a stream, in the Arrow frame that follows.
    Rows {
        /// The call of `extract`.
        call: u64,
        /// The stream.
        stream: StreamName,
    },
    /// A region of the table is to be removed.
    Remove {
        /// The call of `extract`.
        call: u64,
        /// The stream.
        stream: StreamName,
        /// The region.
        region: Region,
        /// Its place in the order of a slice that serves several streams.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<Seq>,
    },
    /// A record that could not be read as a row.
    Quarantine {
        /// The call of `extract`.
        call: u64,
        /// The stream.
        stream: StreamName,
        /// Why, with the place.
        reason: String,
        /// The record as it came.
        record: String,
    },
    /// All before is covered.
    Mark {
        /// The call of `extract`.
        call: u64,
        /// Where the slice stands.
        position: Stored,
    },
    /// Something that a person should know.
    Warning {
        /// The call of `extract`.
        call: u64,
        /// The stream it concerns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stream: Option<StreamName>,
        /// What happened, where, and what to do.
        text: String,
        /// Whether a part of the source was left out.
        #[serde(default)]
        partial: bool,
    },
}

/// How a call of `extract` ended; see [`Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// [`Done::Complete`].
    Complete,
    /// [`Done::CaughtUp`].
    CaughtUp,
    /// [`Done::Left`].
    Left,
    /// [`Done::Pending`].
    Pending,
}

impl Reply {
    /// The answer to `extract`.
    pub fn done(call: u64, done: Done) -> Self {
        let (end, after) = match done {
            Done::Complete => (End::Complete, None),
            Done::CaughtUp => (End::CaughtUp, None),
            Done::Left => (End::Left, None),
            Done::Pending(wait) => (End::Pending, Some(millis(wait))),
        };
        Self::Done { call, end, after_ms: after }
    }
}

impl End {
    /// The word of the contract.
    pub fn with(self, after_ms: Option<u64>) -> Done {
        match self {
            Self::Complete => Done::Complete,
            Self::CaughtUp => Done::CaughtUp,
            Self::Left => Done::Left,
            Self::Pending => Done::Pending(Duration::from_millis(after_ms.unwrap_or(1_000))),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// [`crate::Stream`] on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stream {
    /// The source's own name.
    pub name: StreamName,
    /// An Arrow IPC stream without batches, in base64.
    pub schema: String,
    /// Columns that name a row.
    #[serde(default)]
    pub key: Vec<String>,
    /// How it can be read, the default first.
    pub modes: Vec<Mode>,
    /// Columns by which it can be read incrementally, the best first.
    #[serde(default)]
    pub cursors: Vec<CursorColumn>,
    /// Streams of one group are planned together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What is known about its size.
    #[serde(default)]
    pub estimate: Estimate,
}

impl Stream {
    /// For the pipe.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for types that Arrow IPC does not know.
    pub fn of(stream: &crate::Stream) -> Result<Self> {
        Ok(Self {
            name: stream.name.clone(),
            schema: schema_text(&stream.schema)?,
            key: stream.key.clone(),
            modes: stream.modes.clone(),
            cursors: stream.cursors.clone(),
            group: stream.group.clone(),
            estimate: stream.estimate,
        })
    }

    /// From the pipe.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] when the schema cannot be read.
    pub fn read(self) -> Result<crate::Stream> {
        let schema = read_schema_text(&self.schema).map_err(|e| e.with("stream", &self.name))?;
        Ok(crate::Stream {
            name: self.name,
            schema,
            key: self.key,
            modes: self.modes,
            cursors: self.cursors,
            group: self.group,
            estimate: self.estimate,
        })
    }
}

/// [`crate::Problem`] on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Whether a run would fail.
    pub severity: Severity,
    /// The stream it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// The exit code of a run because of it; left out, 1 for errors and 0 for warnings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
}

impl From<crate::Problem> for Problem {
    fn from(problem: crate::Problem) -> Self {
        Self {
            severity: problem.severity,
            stream: problem.stream,
            what: problem.what,
            remedy: problem.remedy,
            exit_code: Some(problem.exit_code),
        }
    }
}

impl From<Problem> for crate::Problem {
    fn from(problem: Problem) -> Self {
        let exit_code = match problem.severity {
            Severity::Error => problem.exit_code.filter(|code| *code != 0).unwrap_or(1),
            Severity::Warning => 0,
        };
        Self {
            severity: problem.severity,
            stream: problem.stream,
            what: problem.what,
            remedy: problem.remedy,
            exit_code,
        }
    }
}

/// [`crate::PlanRequest`] on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The streams, with what their tables hold.
    pub streams: Vec<SelectedStream>,
    /// What planning may leave behind at the source.
    pub intent: Intent,
    /// Wanted size of a slice in bytes at the source.
    pub slice_bytes: u64,
    /// At least so many slices.
    pub min_slices: u32,
    /// A window by hand: microseconds UTC, half-open.
    #[serde(default)]
    pub interval: Option<(i64, i64)>,
    /// The clock of the run: microseconds UTC.
    pub now: i64,
}

/// [`crate::Intent`] on the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// [`crate::Intent::Explain`].
    Explain,
    /// [`crate::Intent::Portable`].
    Portable,
    /// [`crate::Intent::Here`].
    Here,
}

/// [`Selected`] on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct SelectedStream {
    /// The stream as discovered.
    pub stream: Stream,
    /// How it shall be read.
    pub mode: Mode,
    /// The cursor column.
    #[serde(default)]
    pub cursor: Option<String>,
    /// The columns to read; `null` = all.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// A row filter in the source's own language.
    #[serde(default, rename = "where")]
    pub filter: Option<String>,
    /// What the table holds.
    #[serde(default)]
    pub positions: BTreeMap<SliceId, Stored>,
}

impl PlanRequest {
    /// For the pipe.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for types that Arrow IPC does not know.
    pub fn of(request: &crate::PlanRequest<Stored>) -> Result<Self> {
        let selected = |selected: &Selected<Stored>| {
            Ok(SelectedStream {
                stream: Stream::of(&selected.stream)?,
                mode: selected.mode,
                cursor: selected.cursor.clone(),
                columns: selected.columns.clone(),
                filter: selected.filter.clone(),
                positions: selected.positions.clone(),
            })
        };
        Ok(Self {
            streams: request.streams.iter().map(selected).collect::<Result<_>>()?,
            intent: match request.intent {
                crate::Intent::Explain => Intent::Explain,
                crate::Intent::Portable => Intent::Portable,
                crate::Intent::Here => Intent::Here,
            },
            slice_bytes: request.slice_bytes,
            min_slices: request.min_slices,
            interval: request.interval,
            now: request.now,
        })
    }

    /// From the pipe.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] when a schema cannot be read.
    pub fn read(self) -> Result<crate::PlanRequest<Stored>> {
        let selected = |selected: SelectedStream| {
            Ok(Selected {
                stream: selected.stream.read()?,
                mode: selected.mode,
                cursor: selected.cursor,
                columns: selected.columns,
                filter: selected.filter,
                positions: selected.positions,
            })
        };
        Ok(crate::PlanRequest {
            streams: self.streams.into_iter().map(selected).collect::<Result<_>>()?,
            intent: match self.intent {
                Intent::Explain => crate::Intent::Explain,
                Intent::Portable => crate::Intent::Portable,
                Intent::Here => crate::Intent::Here,
            },
            slice_bytes: self.slice_bytes,
            min_slices: self.min_slices,
            interval: self.interval,
            now: self.now,
        })
    }
}

/// [`crate::Plan`] on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The slices.
    pub slices: Vec<Slice<Json>>,
    /// Positions that hold once the bounded slices are complete; `null` forgets one.
    #[serde(default)]
    pub then: BTreeMap<StreamName, BTreeMap<SliceId, Option<Stored>>>,
    /// The plan does not cover everything.
    #[serde(default)]
    pub more: bool,
}

impl From<crate::Plan<Json, Stored>> for Plan {
    fn from(plan: crate::Plan<Json, Stored>) -> Self {
        Self { slices: plan.slices, then: plan.then, more: plan.more }
    }
}

impl From<Plan> for crate::Plan<Json, Stored> {
    fn from(plan: Plan) -> Self {
        Self { slices: plan.slices, then: plan.then, more: plan.more }
    }
}

/// [`Error`] on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The call; left out when the plug-in as a whole cannot go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// The name of an [`ErrorKind`].
    pub kind: String,
    /// What was attempted, on what.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How long the source asked to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// A lower layer has retried and given up.
    #[serde(default)]
    pub exhausted: bool,
    /// Names, counts and positions: pairs of a key and a text.
    #[serde(default)]
    pub context: Vec<(String, String)>,
    /// The texts of the causes, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
}

impl Failure {
    /// For the pipe.
    pub fn of(call: Option<u64>, error: &Error) -> Self {
        Self {
            call,
            kind: error.kind().name().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint_text().map(str::to_owned),
            retry_after_ms: error.retry_delay().map(millis),
            exhausted: error.is_exhausted(),
            context: error.context().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            causes: error.causes(),
        }
    }

    /// From the pipe; each text goes through `clean` first. A kind that we do not know is a bug of the plug-in.
    pub fn read(self, clean: impl Fn(&str) -> String) -> Error {
        let kind = ErrorKind::ALL.into_iter().find(|kind| kind.name() == self.kind).unwrap_or(ErrorKind::Unexpected);
        let mut error = Error::new(kind, clean(&self.message));
        for (name, value) in &self.context {
            if let Some(name) = context_key(name) {
                error = error.with(name, clean(value));
            }
        }
        if let Some(hint) = &self.hint {
            error = error.hint(clean(hint));
        }
        if self.exhausted {
            error = error.exhausted();
        }
        let causes: Vec<String> = self.causes.iter().map(|cause| clean(cause)).collect();
        if !causes.is_empty() {
            error = error.caused_by(causes.join(": "));
        }
        error.retry_after(self.retry_after_ms.map(Duration::from_millis))
    }
}

/// The keys of an error's context are constants. Those that come over a pipe become constants here: a few dozen words in
/// practice; what comes after 256 of them is left out.
fn context_key(name: &str) -> Option<&'static str> {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known.get(name) {
        return Some(known);
    }
    if known.len() >= 256 || name.len() > 64 {
        return None;
    }
    let constant: &'static str = String::leak(name.to_owned());
    known.insert(constant);
    Some(constant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_back_whole_and_cleaned() {
        let error = Error::new(ErrorKind::RateLimited, "cannot read page of hunter2")
            .with("stream", "orders")
            .with("page", 3)
            .hint("wait")
            .retry_after(Some(Duration::from_secs(7)))
            .exhausted()
            .caused_by("hunter2 refused");
        let text = serde_json::to_string(&Reply::Error(Failure::of(Some(4), &error))).expect("JSON");
        let Ok(Reply::Error(failure)) = serde_json::from_str(&text) else { panic!("{text}") };
        assert_eq!(failure.call, Some(4));
        let read = failure.read(|text| text.replace("hunter2", "***"));
        assert_eq!(format!("{read:?}"), "RateLimited: cannot read page of *** (stream orders, page 3): *** refused");
        assert_eq!(read.retry_delay(), Some(Duration::from_secs(7)));
        assert_eq!((read.hint_text(), read.is_exhausted()), (Some("wait"), true));
    }

    #[test]
    fn every_kind_is_listed() {
        let names: BTreeSet<&str> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn messages_have_the_form_that_the_documentation_shows() {
        let done = serde_json::to_value(Reply::done(3, Done::Pending(Duration::from_millis(500)))).expect("JSON");
        assert_eq!(done, serde_json::json!({"type": "done", "call": 3, "end": "pending", "after_ms": 500}));
        let mark = r#"{"type":"mark","call":1,"position":{"v":1,"seq":"0a","at":{"id":7}},"more":"is ignored"}"#;
        let Ok(Reply::Mark { call: 1, position }) = serde_json::from_str(mark) else { panic!("{mark}") };
        assert_eq!(position.at["id"], 7);
        assert!(serde_json::from_str::<Reply>(r#"{"type":"shout","call":1}"#).is_err());
    }
}
