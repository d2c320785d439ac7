//! What checks have found in a run, and whether a commit may be made.
//!
//! Shares are those of all rows of the stream in this run up to the commit. A commit is judged before it is made: with
//! `fail`, and with `quarantine` beyond what is tolerated, nothing of it is committed and the stream ends with exit 5.

use std::sync::{Arc, Mutex, PoisonError};

use ingest_catalog::{Documents, RunStream, list_runs};
use ingest_core::{Error, ErrorKind, JsonSchema, Result};
use serde::{Deserialize, Serialize};

use super::Policy;
use super::examine::Tally;
use super::sets::Sets;
use crate::config::{CheckOptions, Counts, OnFail};

/// Runs that are looked at for history; those of other sources are among them.
const RUNS: usize = 200;

/// Runs of the stream whose rows make the median of `volume`.
const MEDIAN_OF: usize = 10;

/// Below so many runs there is nothing to compare with.
const LEAST_RUNS: usize = 3;

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReport {
    /// The check: `not_null(id)`.
    pub check: String,
    /// `warn`, `quarantine`, `fail`.
    pub on_fail: String,
    /// `passed`, `warned`, `quarantined`, `failed`.
    pub outcome: String,
    /// Rows that were looked at.
    pub rows: u64,
    /// Rows that failed.
    pub failed: u64,
    /// What was found, for checks that are about no single rows, and what could not be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The newest value, for `freshness`: microseconds UTC. Left out where the column is masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<i64>,
}

/// What earlier runs of a stream have left.
#[derive(Debug, Default, Clone)]
pub struct History {
    /// Rows of the last runs that succeeded, the newest first.
    rows: Vec<u64>,
    /// Reports of the newest run that has any.
    reports: Vec<CheckReport>,
}

impl History {
    /// Reads what checks of a policy ask for; nothing where none asks.
    pub async fn read(documents: &Documents, source: &str, policy: &Policy) -> Result<Self> {
        let mut history = Self::default();
        if !policy.checks.iter().any(|check| check.volume.is_some() || check.freshness.is_some()) {
            return Ok(history);
        }
        for run in list_runs(documents, RUNS).await? {
            let of_stream = |stream: &&RunStream| run.source == source && stream.stream == policy.stream.as_str();
            let Some(stream) = run.streams.iter().find(of_stream) else { continue };
            if history.reports.is_empty() {
                let read = stream.checks.iter().map(|report| serde_json::from_value(report.clone()).ok());
                history.reports = read.flatten().collect();
            }
            if stream.error.is_none() && history.rows.len() < MEDIAN_OF {
                history.rows.push(stream.rows_read);
            }
        }
        Ok(history)
    }

    fn newest(&self, label: &str) -> Option<i64> {
        self.reports.iter().find(|report| report.check == label)?.newest
    }

    fn median(&self) -> Option<u64> {
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        (rows.len() >= LEAST_RUNS).then(|| rows[rows.len() / 2])
    }
}

/// The checks of a stream in a run.
#[derive(Debug)]
pub struct Quality {
    policy: Arc<Policy>,
    sets: Arc<Sets>,
    history: History,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: Tally,
    /// What checks of the whole run have said, by their place.
    said: Vec<(usize, String)>,
    /// The check that ended the stream.
    fatal: Option<usize>,
}

impl Quality {
    /// Begins to count.
    pub fn new(policy: Arc<Policy>, sets: Arc<Sets>, history: History) -> Self {
        Self { policy, sets, history, state: Mutex::default() }
    }

    /// What the checks compare with.
    pub fn sets(&self) -> &Arc<Sets> {
        &self.sets
    }

    /// Whether a commit that brings these rows may be made. `last` = nothing more comes for the stream in this run.
    ///
    /// # Errors
    /// `QualityFailed` with the check and its counts.
    pub fn judge(&self, more: Tally, last: bool, now: i64) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.total.add(more);
        let mut fatal = None;
        for (place, check) in self.policy.checks.iter().enumerate() {
            if let Some(error) = self.too_many(check, place, &state.total) {
                fatal.get_or_insert((place, error));
            }
            let said = if last { self.of_run(check, place, &state.total, now) } else { None };
            if let Some(what) = said {
                if check.on_fail == OnFail::Fail {
                    let error = failed(check, &what);
                    fatal.get_or_insert((place, error));
                }
                state.said.push((place, what));
            }
        }
        let Some((place, error)) = fatal else { return Ok(()) };
        state.fatal = Some(place);
        Err(error.with("stream", &self.policy.stream))
    }

    /// Why a check of single rows ends the stream, if it does.
    fn too_many(&self, check: &CheckOptions, place: usize, total: &Tally) -> Option<Error> {
        let rows = failing(total, place);
        let ends = match check.on_fail {
            OnFail::Warn => false,
            OnFail::Quarantine => check.tolerate.is_some(),
            OnFail::Fail => true,
        };
        if !ends || !exceeds(check, rows, total.rows) {
            return None;
        }
        let more = check.tolerate.map_or_else(String::new, |share| format!(", more than {share}"));
        Some(
            failed(check, &format!("{}: {rows} of {} rows{more}", reason(check), total.rows))
                .with("rows", rows)
                .with("of", total.rows),
        )
    }

    /// What a check of the whole run has to say, if it fails.
    fn of_run(&self, check: &CheckOptions, place: usize, total: &Tally, now: i64) -> Option<String> {
        if let Some(Counts { min, max }) = check.row_count {
            let least = min.filter(|min| total.rows < *min).map(|min| format!("at least {min}"));
            let most = max.filter(|max| total.rows > *max).map(|max| format!("at most {max}"));
            return least.or(most).map(|bound| format!("{} rows came, expected {bound}", total.rows));
        }
        if let Some(share) = check.volume {
            let median = self.history.median()?;
            let apart = total.rows.abs_diff(median);
            let what = format!("{} rows came, and {median} in the median of the runs before", total.rows);
            return (apart as f64 > share.0 * median as f64).then_some(what);
        }
        let limit = check.freshness?;
        let newest = self.newest(check, place, total)?;
        let age = u128::try_from(now.saturating_sub(newest)).unwrap_or(0);
        let limit_micros = limit.0.as_micros();
        (age > limit_micros).then(|| format!("the newest row is {} s old, and may be {limit}", age / 1_000_000))
    }

    fn newest(&self, check: &CheckOptions, place: usize, total: &Tally) -> Option<i64> {
        let came = total.newest.get(place).copied().flatten();
        came.max(self.history.newest(&check.label()))
    }

    /// What each check has found so far.
    pub fn reports(&self) -> Vec<CheckReport> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(place, check): (usize, &CheckOptions)| {
            let failed = failing(&state.total, place);
            let said = state.said.iter().rev().find(|(said, _)| *said == place).map(|(_, what)| what.clone());
            let broken = said.is_some() || exceeds(check, failed, state.total.rows);
            let outcome = match check.on_fail {
                _ if state.fatal == Some(place) => "failed",
                OnFail::Quarantine if failed > 0 => "quarantined",
                OnFail::Fail | OnFail::Quarantine => "passed",
                OnFail::Warn if broken => "warned",
                OnFail::Warn => "passed",
            };
            let partly = self.sets.limit_reached(place);
            let partly = partly.map(|limit| format!("compared with the first {limit} values alone: raise `memory`"));
            let shown = check.freshness.is_some() && !self.policy.is_masked(check.columns().first().unwrap_or(&""));
            CheckReport {
                check: check.label(),
                on_fail: check.on_fail.to_string(),
                outcome: outcome.to_owned(),
                rows: state.total.rows,
                failed,
                note: said.or(partly),
                newest: if shown { self.newest(check, place, &state.total) } else { None },
            }
        };
        let of_policy = self.policy.checks.iter().enumerate().filter(|(_, check)| check.schema.is_none()).map(report);
        self.policy.schema_reports.iter().cloned().chain(of_policy).collect()
    }

    /// What a person should know, one line for each check that has something to say.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for report in self.reports() {
            match (report.outcome.as_str(), &report.note) {
                ("warned", Some(note)) => lines.push(format!("check {}: {note}", report.check)),
                ("warned" | "quarantined", _) => lines.push(format!(
                    "check {}: {} of {} rows {}",
                    report.check,
                    report.failed,
                    report.rows,
                    if report.outcome == "warned" { "fail" } else { "went to the quarantine" }
                )),
                ("passed", Some(note)) => lines.push(format!("check {}: {note}", report.check)),
                _ => {}
            }
        }
        lines
    }
}

fn failing(total: &Tally, place: usize) -> u64 {
    total.failed.get(place).copied().unwrap_or(0)
}

/// Whether more rows fail than are tolerated.
fn exceeds(check: &CheckOptions, failed: u64, rows: u64) -> bool {
    let tolerated = check.tolerate.map_or(0.0, |share| share.0);
    failed > 0 && failed as f64 > tolerated * rows as f64
}

fn failed(check: &CheckOptions, what: &str) -> Error {
    Error::new(ErrorKind::QualityFailed, format!("the check {} failed: {what}", check.label()))
        .hint("nothing of this commit was committed; repair the source, or look at the rows with `on_fail: quarantine`")
}

/// What a row that fails has wrong; nothing of the row.
pub(super) fn reason(check: &CheckOptions) -> String {
    if check.sql.is_some() {
        return format!("{} is not true", check.label());
    }
    let columns = check.columns().join(", ");
    let what = match check.kinds().first().copied().unwrap_or_default() {
        "not_null" => "is null",
        "unique" => "is not unique",
        "accepted_values" => "is none of the accepted values",
        "range" => "is out of range",
        "regex" => "does not match",
        "length" => "is too short or too long",
        "references" => "is not in the table that it refers to",
        _ => "fails",
    };
    format!("{columns} {what}")
}
