//! The connector that reads a model.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ingest_core::{
    Capabilities, Connector, Context, Cursor, CursorColumn, Deletes, Done, Error, ErrorKind, Estimate, Intent,
    JsonSchema, Mode, Out, Plan, PlanRequest, Problem, Replay, Result, Safety, Secret, Selected, Selection, Seq, Shape,
    Slice, SliceId, Spec, Stream, StreamName, async_trait,
};
use serde::{Deserialize, Serialize};

use super::defects::Defect;
use super::reading;
use super::rows::{self, CHANGED, EPOCH, ID};
use super::server::{Call, Model, Trouble};

/// The name of the position of windows by cursor.
const CURSOR: &str = "cursor";
/// The name of the feed.
const LOG: &str = "log";

/// A model source: rows that a program makes up, for tests and measurements.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// The name of a running model of this process. Left out, the source has a model of its own.
    pub server: Option<String>,
    /// The key that opens a running model.
    pub api_key: Secret,
    /// Streams: `shop.stream_0` and so on.
    pub streams: u32,
    /// Rows of each stream at the start.
    pub rows: u64,
    /// Slices of a full read.
    pub slices: u32,
    /// A mark follows so many rows.
    pub mark_every: u64,
    /// Rows in a batch, at most.
    pub batch_rows: u64,
    /// Length of the text of a row in bytes: large values make wide rows.
    pub payload_bytes: usize,
    /// How a full read works.
    pub reading: Reading,
    /// Whether the log forgets what was confirmed.
    pub forget_acknowledged: bool,
    /// A deliberate mistake.
    pub defect: Option<Defect>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            server: None,
            api_key: Secret::default(),
            streams: 1,
            rows: 1_000,
            slices: 4,
            mark_every: 100,
            batch_rows: 50,
            payload_bytes: 32,
            reading: Reading::Windows,
            forget_acknowledged: false,
            defect: None,
        }
    }
}

/// How a full read works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// Ranges of keys of the live table.
    Windows,
    /// Ranges of keys of a frozen copy, which dies with the process that planned it.
    Snapshot,
}

/// What a slice says to the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Rows with `above < id < to`, of a snapshot or of the live table.
    Keys {
        /// The stream's number.
        stream: u32,
        /// The snapshot.
        snapshot: Option<u64>,
        /// Exclusive.
        above: i64,
        /// Exclusive.
        to: i64,
    },
    /// Rows with `above < changed <= to`.
    Changed {
        /// The stream's number.
        stream: u32,
        /// Exclusive.
        above: u64,
        /// Inclusive.
        to: u64,
    },
    /// The change log of all streams.
    Log,
}

/// Where a slice has been read to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// In a range of keys: the last one.
    Key(i64),
    /// In a window of the cursor: the last row.
    Row {
        /// Its cursor value.
        changed: u64,
        /// Its key.
        id: i64,
    },
    /// All windows of the cursor up to this value are read.
    Bound(u64),
    /// The log is read up to this transaction.
    Commit(u64),
}

impl Cursor for At {
    fn seq(&self) -> Option<Seq> {
        match self {
            Self::Commit(commit) => Some(Seq::of(&[*commit, u64::MAX])),
            _ => None,
        }
    }
}

/// The connector that reads a [`Model`].
pub struct ModelConnector {
    pub(super) model: Model,
    /// Snapshots of this process; they die with it.
    frozen: Mutex<Vec<u64>>,
    key_is_right: bool,
    /// For [`Defect::ForgetsOnCancel`].
    pub(super) memory: Mutex<HashMap<SliceId, At>>,
}

impl ModelConnector {
    pub(super) fn config(&self) -> &ModelConfig {
        &self.model.0.config
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.config().defect == Some(defect)
    }

    fn frozen(&self) -> MutexGuard<'_, Vec<u64>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a call does first: it counts, takes its trouble, and shows its key.
    async fn begin(&self, call: Call, name: &str) -> Result<Option<Trouble>> {
        let trouble = self.model.called(call, name).await?;
        if self.has(Defect::LogsKey) {
            tracing::debug!(key = self.model.api_key(), "calling the model");
        }
        if self.key_is_right || self.has(Defect::AcceptsAnyKey) { Ok(trouble) } else { Err(self.refusal()) }
    }

    fn refusal(&self) -> Error {
        let shown = if self.has(Defect::ErrorShowsKey) { self.model.api_key() } else { "***" };
        Error::new(ErrorKind::Unauthenticated, "the model does not know this key")
            .with("api_key", shown)
            .hint("use the configuration that the model gives out")
    }

    fn describe(&self, stream: u32, calls: u64) -> Stream {
        let mut schema = rows::schema();
        if self.has(Defect::UnstableSchema) && calls.is_multiple_of(2) {
            let fields: Vec<_> = schema.fields().iter().rev().cloned().collect();
            schema = std::sync::Arc::new(arrow_schema::Schema::new(fields));
        }
        Stream {
            name: rows::stream_name(stream),
            schema,
            key: vec![ID.into()],
            modes: vec![Mode::Full, Mode::Incremental, Mode::Cdc],
            cursors: vec![CursorColumn { column: CHANGED.into(), safety: Safety::Snapshot }],
            group: Some("model".into()),
            estimate: Estimate { rows: Some(self.model.end(stream).cast_unsigned()), ..Estimate::default() },
        }
    }

    /// A full read: ranges of keys. There is always one, so that an empty stream is read too.
    fn full(&self, name: &StreamName, stream: u32, snapshot: Option<u64>, wanted: u32) -> Vec<Slice<Work>> {
        let end = self.model.end(stream);
        let n = i64::from(wanted.max(self.config().slices)).clamp(1, end.max(1));
        let bound = |i: i64| end / n * i + (end % n).min(i);
        let shape = if snapshot.is_some() { Shape::Snapshot } else { Shape::Window };
        let mut slices = Vec::new();
        for i in 0..n {
            let (first, to) = (bound(i), bound(i + 1));
            let rows = if self.has(Defect::WildEstimate) { 1_000_000 } else { (to - first).cast_unsigned() };
            slices.push(Slice {
                id: format!("{name}/{i}").into(),
                streams: vec![name.clone()],
                shape,
                work: Work::Keys { stream, snapshot, above: first - 1, to },
                estimate: Estimate { rows: Some(rows), ..Estimate::default() },
            });
        }
        slices
    }

    /// Windows of the cursor with `above < changed <= to`.
    fn windows(&self, name: &StreamName, stream: u32, above: u64, to: u64, wanted: u32) -> Vec<Slice<Work>> {
        let span = to.saturating_sub(above);
        let n = u64::from(wanted.max(self.config().slices)).min(span);
        let bound = |i: u64| above + span / n * i + (span % n).min(i);
        (0..n)
            .map(|i| Slice {
                id: format!("{name}/{i}").into(),
                streams: vec![name.clone()],
                shape: Shape::Window,
                work: Work::Changed { stream, above: bound(i), to: bound(i + 1) },
                estimate: Estimate::default(),
            })
            .collect()
    }

    fn bound(&self) -> u64 {
        if self.has(Defect::LosesLateRows) { self.model.highest_change() } else { self.model.safe_bound() }
    }

    fn plan_incremental(
        &self,
        plan: &mut Plan<Work, At>,
        selected: &Selected<At>,
        stream: u32,
        request: &PlanRequest<At>,
    ) -> Result<()> {
        let name = &selected.stream.name;
        if let Some((start, end)) = request.interval {
            // A row of transaction n was written n seconds after the epoch; both ends are inclusive bounds here.
            let before = |time: i64| ((time - EPOCH).max(0).cast_unsigned()).div_ceil(1_000_000).saturating_sub(1);
            let to = before(end).min(self.bound());
            plan.slices.extend(self.windows(name, stream, before(start), to, request.min_slices));
            if self.has(Defect::IntervalMovesPosition) {
                plan.then.insert(name.clone(), BTreeMap::from([(CURSOR.into(), Some(At::Bound(to)))]));
            }
            return Ok(());
        }
        let above = match selected.positions.get(&CURSOR.into()) {
            None => 0,
            Some(At::Bound(_)) if self.has(Defect::IgnoresCursor) => 0,
            Some(At::Bound(bound)) => *bound,
            Some(_) => return Err(foreign_position(name)),
        };
        let to = self.bound();
        plan.slices.extend(self.windows(name, stream, above, to, request.min_slices));
        let then = BTreeMap::from([(CURSOR.into(), Some(At::Bound(to)))]);
        plan.then.insert(name.clone(), then);
        Ok(())
    }

    /// A snapshot for a plan, where the configuration wants one and the plan may have it.
    fn snapshot(&self, intent: Intent) -> Option<u64> {
        match (self.config().reading, intent) {
            (Reading::Windows, _) | (_, Intent::Portable) => None,
            // A number that is never given out: nothing may be left behind.
            (Reading::Snapshot, Intent::Explain) => Some(0),
            (Reading::Snapshot, Intent::Here) => {
                let snapshot = self.model.freeze();
                self.frozen().push(snapshot);
                Some(snapshot)
            }
        }
    }
}

impl Drop for ModelConnector {
    fn drop(&mut self) {
        for snapshot in self.frozen().drain(..) {
            self.model.thaw(snapshot);
        }
    }
}

pub(super) fn foreign_position(stream: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::CheckpointInvalid, "the position is of another kind of slice")
        .with("stream", stream)
        .hint("`ingest state reset` forgets it")
}

fn unknown(name: &StreamName) -> Error {
    Error::config("the model has no such stream").with("stream", name).hint("`ingest discover` lists them")
}

#[async_trait]
impl Connector for ModelConnector {
    type Config = ModelConfig;
    type Work = Work;
    type Position = At;

    fn spec() -> Spec {
        Spec {
            name: "model".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Model".into(),
            docs: "Rows that a program makes up, for tests and measurements.".into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Full, Mode::Incremental, Mode::Cdc],
                deletes: Deletes::Events,
                replay: Replay::Retention,
                parallel: 8,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: ModelConfig, _context: Context) -> Result<Self> {
        let (model, key_is_right) = match &config.server {
            None => (Model::new(config), true),
            Some(name) => {
                let model = Model::named(name).ok_or_else(|| {
                    Error::config("there is no model of this name").with("server", name).hint("it ended with its test")
                })?;
                let key_is_right = model.key_is(config.api_key.expose());
                (model, key_is_right)
            }
        };
        model.called(Call::Open, "").await?;
        Ok(Self { model, frozen: Mutex::default(), key_is_right, memory: Mutex::default() })
    }

    async fn check(&self, _selection: &Selection) -> Result<Vec<Problem>> {
        if self.has(Defect::CheckWrites) {
            self.model.insert(0, 1);
        }
        match self.begin(Call::Check, "").await {
            Ok(_) => Ok(Vec::new()),
            Err(error) if error.kind() == ErrorKind::Unauthenticated => Ok(vec![Problem::from_error(None, &error)]),
            Err(error) => Err(error),
        }
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        self.begin(Call::Schema, "").await?;
        let calls = self.model.calls(Call::Schema);
        let streams = (0..self.config().streams).map(|stream| self.describe(stream, calls));
        Ok(streams.filter(|s| self.has(Defect::IgnoresSelection) || selection.matches(s.name.as_str())).collect())
    }

    async fn plan(&self, request: &PlanRequest<At>) -> Result<Plan<Work, At>> {
        self.begin(Call::Plan, "").await?;
        let mut plan = Plan::default();
        let mut numbered = Vec::with_capacity(request.streams.len());
        for selected in &request.streams {
            let name = &selected.stream.name;
            match rows::stream_number(name).filter(|n| *n < self.config().streams) {
                Some(stream) => numbered.push((selected, stream)),
                None if self.has(Defect::AcceptsUnknownStream) => {}
                None => return Err(unknown(name)),
            }
        }
        let first_load = |s: &Selected<At>| s.mode == Mode::Cdc && !s.positions.contains_key(&LOG.into());
        // The log's head is read before the rows: what changes in between comes again from the log, and nothing is lost.
        let head = self.model.head();
        let whole = numbered.iter().any(|(s, _)| s.mode == Mode::Full || first_load(s));
        let snapshot = if whole { self.snapshot(request.intent) } else { None };
        let mut followers = Vec::new();
        for (selected, stream) in numbered {
            let name = &selected.stream.name;
            match selected.mode {
                Mode::Full => plan.slices.extend(self.full(name, stream, snapshot, request.min_slices)),
                Mode::Incremental => self.plan_incremental(&mut plan, selected, stream, request)?,
                Mode::Cdc if first_load(selected) => {
                    plan.slices.extend(self.full(name, stream, snapshot, request.min_slices));
                    plan.then.insert(name.clone(), BTreeMap::from([(LOG.into(), Some(At::Commit(head)))]));
                    plan.more = true;
                }
                Mode::Cdc => followers.push(name.clone()),
            }
        }
        if !followers.is_empty() {
            plan.slices.push(Slice {
                id: LOG.into(),
                streams: followers,
                shape: Shape::Feed,
                work: Work::Log,
                estimate: Estimate::default(),
            });
        }
        Ok(plan)
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&At>, out: &mut Out<'_, At>) -> Result<Done> {
        let trouble = self.begin(Call::Extract, slice.id.as_str()).await?;
        reading::extract(self, slice, from, trouble, out).await
    }

    async fn checkpoint(&self, slice: &Slice<Work>, committed: &At) -> Result<()> {
        self.begin(Call::Checkpoint, slice.id.as_str()).await?;
        match (&slice.work, committed) {
            (Work::Log, At::Commit(commit))
                if *commit <= self.model.acknowledged() && self.has(Defect::RefusesRepeatedCheckpoint) =>
            {
                Err(Error::unexpected("the position is confirmed already").with("position", commit))
            }
            (Work::Log, At::Commit(commit)) => {
                self.model.acknowledge(*commit);
                Ok(())
            }
            (Work::Log, _) => Err(foreign_position(LOG)),
            _ => Ok(()),
        }
    }
}
