//! The contract of a connector: what an author writes.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{
    Context, Cursor, Done, Error, ErrorKind, Json, Mode, Out, Plan, PlanRequest, Problem, Result, Selection, Slice,
    SourceSums, Stream, StreamName,
};

/// What an author writes. [`Builtin`](crate::Builtin) makes the erased form; authors never see JSON of their own state.
///
/// A connector never sleeps, retries or stores state: it classifies its errors ([`ErrorKind`]) and the runner acts on
/// the class. A job that is not ready is [`Done::Pending`].
///
/// | call | by whom, when | in parallel? | what `Ok` promises |
/// | --- | --- | --- | --- |
/// | `spec` | before any configuration exists | yes | nothing was done |
/// | `open` | once per process and source | no | the configuration is well formed |
/// | `check` | `ingest check` | no | the list is complete; empty = `plan` and `extract` have the rights they need |
/// | `schema` | `discover`, `plan`, `run`, once each | no | every selected stream, exact types |
/// | `plan` | when nothing is planned, when a plan is complete | never two at a time | slices that give exactly what `then` claims |
/// | `extract` | for many slices ([`Capabilities::parallel`]) | yes, but never twice at once for one slice | every row after `from` was given |
/// | `checkpoint` | after `committed` is durable in every table | one at a time per slice | the source may forget what is committed |
/// | `count` | `ingest verify --counts` | no | so many rows are there now |
/// | `sums` | `ingest verify` | no | the rows that are there now add up to that |
#[async_trait]
pub trait Connector: Send + Sync + Sized + 'static {
    /// The YAML of a source: `#[serde(deny_unknown_fields, default)]`, one doc comment per field.
    type Config: DeserializeOwned + JsonSchema + Send;
    /// What a slice says to this connector: an enum of its own. At most 64 KiB as JSON.
    type Work: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Where a slice has been read to: an enum of its own. At most 1 MiB as JSON, a few hundred bytes as a rule.
    type Position: Cursor;

    /// Constant; called before any configuration exists. Does no work.
    fn spec() -> Spec;

    /// Once per process and source. Ok: the configuration is well formed and clients exist. It need not have connected.
    async fn open(config: Self::Config, context: Context) -> Result<Self>;

    /// Finds everything that is wrong, all together, each with its remedy. Changes nothing at the source.
    ///
    /// Ok with an empty list promises that `plan` and `extract` have the rights they need for the selected streams.
    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>>;

    /// Finds everything that keeps changes of these streams from being captured ([`Mode::Cdc`]), beside what `check` finds:
    /// `check` is not told how streams are read. Changes nothing at the source.
    async fn check_changes(&self, _streams: &[StreamName]) -> Result<Vec<Problem>> {
        Ok(Vec::new())
    }

    /// Sets change capture up at the source for these streams, or takes it down: publications, slots. Gives the statements
    /// that were needed, in order; with `dry_run` they are given alone. Nothing to do = none.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the source needs no such thing.
    async fn set_up(&self, _streams: &[StreamName], _set_up: SetUp, _dry_run: bool) -> Result<Vec<String>> {
        Err(Error::new(ErrorKind::Unsupported, "this connector has nothing to set up at the source")
            .with("connector", Self::spec().name))
    }

    /// Describes every selected stream with exact types. May be slow; the runner caches.
    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>>;

    /// Plans all streams of a group at once. Bounds are fixed here, before reading.
    ///
    /// Ok: slices that together give exactly what `then` claims. Nothing new = a plan without slices.
    async fn plan(&self, request: &PlanRequest<Self::Position>) -> Result<Plan<Self::Work, Self::Position>>;

    /// Gives every row of a slice after `from`, the last committed mark (feeds: of `positions`), or fails.
    ///
    /// Possibly in another process than `plan`. Dropped at any await when the run ends. It must never start later than
    /// `from` in silence: what is gone is [`ErrorKind::SliceExpired`] (plan again) or
    /// [`ErrorKind::CheckpointInvalid`] (a person must act). `Ok(Complete)` promises that all rows are out.
    async fn extract(
        &self,
        slice: &Slice<Self::Work>,
        from: Option<&Self::Position>,
        out: &mut Out<'_, Self::Position>,
    ) -> Result<Done>;

    /// Lets the source forget what is durable: free the slot, delete the message, archive the file, answer the sender.
    ///
    /// May be lost; is repeated at the next start; may come late from a zombie with a lower position: it must never
    /// move the source back, and doing it twice is fine. Its failure is logged, never fatal.
    async fn checkpoint(&self, _slice: &Slice<Self::Work>, _committed: &Self::Position) -> Result<()> {
        Ok(())
    }

    /// Counts the rows that a full read of the stream would give now, where the source can do so without giving them.
    ///
    /// By `ingest verify --counts`. `None` = it cannot: the runner reads the stream and counts.
    async fn count(&self, _stream: &Stream, _filter: Option<&str>) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Adds up the rows that a full read of the stream would give now, where the source can do so without giving them.
    ///
    /// By `ingest verify`, with the columns that it compares. `None` = it cannot, or not with the stream's key. Columns of
    /// types for which it cannot make the texts of [`SourceSums`] are left out: the runner reads them.
    async fn sums(&self, _stream: &Stream, _filter: Option<&str>, _columns: &[String]) -> Result<Option<SourceSums>> {
        Ok(None)
    }

    /// Reads `Work` or `Position` written by an older `state_version`. The default refuses.
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointInvalid`] when the version is unknown.
    fn upgrade(version: u32, _state: Json) -> Result<Json> {
        Err(Error::new(ErrorKind::CheckpointInvalid, "cannot read state of another version of this connector")
            .with("connector", Self::spec().name)
            .with("state_version", version)
            .hint("use the version of `ingest` that wrote it, or `ingest state reset` and load again"))
    }
}

/// What becomes of change capture at a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetUp {
    /// It is made ready.
    Make,
    /// Everything that was made for it goes.
    Remove,
}

/// What a connector is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The word in the configuration: `postgres`.
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// One line for people: `PostgreSQL`.
    pub title: String,
    /// Markdown: what it reads, how to get credentials, streams, limits, guarantees.
    pub docs: String,
    /// Version of the JSON of `Work` and `Position`.
    pub state_version: u32,
    /// What it can do.
    pub capabilities: Capabilities,
    /// JSON Schema of its configuration; filled by [`Builtin`](crate::Builtin).
    #[serde(default)]
    pub config: Option<Json>,
}

/// What a connector can do: claimed once. A claim that does not hold is a bug that the conformance suite finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The modes that at least one stream has.
    pub modes: Vec<Mode>,
    /// How deleted rows are seen.
    pub deletes: Deletes,
    /// For how long the source can give rows again: decides "exactly once" or "at least once" in its README.
    pub replay: Replay,
    /// Slices that may be open at once in a process; 1 = one after another.
    pub parallel: u16,
    /// Plans can be run by other processes.
    pub portable: bool,
    /// A list of columns is pushed down.
    pub projection: bool,
    /// A row filter (`where`) is pushed down.
    pub filter: bool,
}

/// How deleted rows are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deletes {
    /// Not at all.
    Unseen,
    /// By a column of the row.
    Flagged,
    /// As events of their own.
    Events,
}

/// For how long the source can give rows again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    /// Always.
    Always,
    /// For a time that the source decides.
    Retention,
    /// Until `checkpoint` lets go.
    UntilCheckpoint,
    /// Never: rows exist once, at least once is all that can be promised.
    Never,
}
