//! The contract of `ingest`: what a connector answers, what a table format does, and the words both use.
//!
//! | word | meaning | type |
//! | --- | --- | --- |
//! | connector | the code for a kind of source | [`Connector`] |
//! | source | a configured instance of a connector, with a name | [`Source`] |
//! | stream | one table, collection, endpoint, topic, file set of a source | [`Stream`] |
//! | mode | how a stream is read | [`Mode`] |
//! | write mode | how rows meet the table | [`WriteMode`] |
//! | slice | an independent, serialisable piece of work | [`Slice`] |
//! | position | where a slice has been read to | [`Cursor`], at rest [`Stored`] |
//! | plan | the slices of streams with bounds fixed before reading | [`Plan`] |
//! | batch | an Arrow `RecordBatch` | |
//! | mark | a position that a connector emits where a restart is safe | [`Out::mark`] |
//! | commit | one atomic change of a lake table | [`lake::Commit`] |
//!
//! A connector crate depends on this crate and at most on `ingest-http` and `ingest-sql`; a table format on this crate.

pub mod columns;
pub mod config;
mod connector;
mod context;
pub mod csv;
pub mod durable;
mod error;
pub mod json;
pub mod lake;
mod names;
mod out;
mod plan;
#[cfg(feature = "plugin")]
pub mod plugin;
mod position;
mod secret;
mod source;
mod stream;
mod sums;

pub use connector::{Capabilities, Connector, Deletes, Replay, SetUp, Spec};
pub use context::{Clock, Context, Grant, Grants, Limiter, Rate, Requests, SystemClock};
pub use error::{BoxError, Error, ErrorKind, RESYNC, Result};
pub use names::{StreamName, nearest, table_name};
pub use out::{BadRecord, Event, Lag, Out, RawOut, Region, memory_of, store};
pub use plan::{Done, Intent, Plan, PlanRequest, Shape, Slice};
#[cfg(feature = "plugin")]
pub use plugin::serve;
pub use position::{Cursor, Seq, SliceId, Stored};
pub use secret::Secret;
pub use source::{Builtin, Factory, Source};
pub use stream::{
    CLASS, CursorColumn, Estimate, MASK, Mode, Problem, Safety, Selected, Selection, Severity, Stream, WriteMode,
    glob_matches,
};
pub use sums::SourceSums;

/// Any JSON value.
pub type Json = serde_json::Value;

/// Re-exported, so that a connector names one version.
pub use async_trait::async_trait;
pub use schemars::{self, JsonSchema};
pub use tokio_util::sync::CancellationToken;
