//! Rows that a source no longer has and tells nobody of: how they are looked for beside incremental reads.

use std::sync::Arc;

use ingest_core::{Error, Mode, Result, Spec, Stream, columns};

use super::target::{Target, target};
use crate::config::{Deletes, SourceConfig, StreamOptions, SweepOptions};

/// What a stream's options ask for.
#[derive(Debug, Clone)]
pub struct Sweeps {
    /// From the end of one search to the beginning of the next: microseconds.
    pub every: i64,
    /// Keys to read in one run.
    pub budget: u64,
    /// The stream as its keys are read: all of them, and nothing else where the connector can leave columns out.
    pub keys: Target,
}

impl Sweeps {
    /// What the options of an incremental stream ask for; `None` where they do not.
    ///
    /// # Errors
    /// `ConfigInvalid` for a stream of which not all keys can be read, and for a table that does not say when rows came.
    pub fn of(
        config: &SourceConfig,
        discovered: Stream,
        key: &[String],
        options: &StreamOptions,
        spec: &Spec,
    ) -> Result<Option<Arc<Self>>> {
        let asked = match (&options.sweep, options.deletes) {
            (Some(asked), _) => *asked,
            (None, Some(Deletes::Sweep)) => SweepOptions::default(),
            (None, _) => return Ok(None),
        };
        let wrong = |message: &str| Error::config(message).with("stream", &discovered.name);
        if !discovered.modes.contains(&Mode::Full) {
            return Err(wrong("the keys of this stream cannot be read in full, so nothing can be swept")
                .hint("remove sweep and deletes"));
        }
        let added = options.added_columns.as_ref().and_then(|added| added.get(columns::INGESTED_AT));
        if added == Some(&false) {
            return Err(wrong("a sweep spares rows that came after it began, and needs `_ingested_at` for that")
                .hint("remove `_ingested_at` from added_columns"));
        }
        let read = StreamOptions {
            mode: Some(Mode::Full),
            cursor: None,
            key: Some(key.to_vec()),
            columns: spec.capabilities.projection.then(|| key.to_vec()),
            on_schema_change: None,
            checks: None,
            restate: None,
            sweep: None,
            deletes: Some(Deletes::Ignore),
            ..options.clone()
        };
        let every = i64::try_from(asked.every.0.as_micros()).unwrap_or(i64::MAX);
        let keys = target(config, discovered, read, spec)?;
        Ok(Some(Arc::new(Self { every, budget: asked.budget.get(), keys })))
    }
}
