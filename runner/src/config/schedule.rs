//! When a source or a stream is due, as it stands in the configuration.

use std::num::NonZeroU16;

use ingest_core::JsonSchema;
use ingest_core::config::Span;
use serde::{Deserialize, Serialize};

/// When something is due: `hourly`, `daily`, `weekly`, `monthly`, `realtime`, a cron expression; or a map with more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Schedule {
    /// A word, or a cron expression of five fields.
    At(String),
    /// With more to say.
    With(ScheduleOptions),
}

/// What can be said of a schedule. Streams take from their source what they leave out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleOptions {
    /// `hourly`, `daily`, `weekly` (Monday), `monthly` (the first), `realtime` (every 10 s), or a cron expression of five fields.
    pub at: Option<String>,
    /// The time zone of these times: `Europe/Berlin`. Default: `UTC`.
    pub zone: Option<String>,
    /// Start up to so much later, always as much for the same due time, so that not all start at once. Default: none.
    pub jitter: Option<Span>,
    /// What becomes of due times that passed while no server ran or the run before was not done: `once` runs once for all of
    /// them, `each` once for each, `skip` waits for the next. Default: `once`.
    pub missed: Option<Missed>,
    /// Of two that are due, the higher starts first. Default: 0.
    pub priority: Option<i32>,
    /// Of the whole source: so many of its runs at once. Default: 1.
    pub concurrency: Option<NonZeroU16>,
}

/// What becomes of due times that were missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// One run for all of them.
    #[default]
    Once,
    /// One run for each, in order.
    Each,
    /// None: the next due time is the next run.
    Skip,
}

impl Schedule {
    /// All that is said, in the long form.
    pub fn options(&self) -> ScheduleOptions {
        match self {
            Self::At(at) => ScheduleOptions { at: Some(at.clone()), ..ScheduleOptions::default() },
            Self::With(options) => options.clone(),
        }
    }
}

impl ScheduleOptions {
    /// What is said here, else there.
    pub fn over(self, defaults: &Self) -> Self {
        Self {
            at: self.at.or_else(|| defaults.at.clone()),
            zone: self.zone.or_else(|| defaults.zone.clone()),
            jitter: self.jitter.or(defaults.jitter),
            missed: self.missed.or(defaults.missed),
            priority: self.priority.or(defaults.priority),
            concurrency: self.concurrency.or(defaults.concurrency),
        }
    }
}
