//! A run: plan, slices, pipeline, commits.
//!
//! | module | what it does |
//! | --- | --- |
//! | `target` | catalog and configuration, made one per stream |
//! | `planning` | plans found open in the lake, or made new |
//! | `work`, `jobs` | a stream on its way, and the slices that are left of it |
//! | `shared`, `part` | plans that several processes share, and what each has staged |
//! | `lag` | how far streams are behind their source |
//! | `lane` | takes slices, extracts them, retries |
//! | `writer` | the thread of a lane: conform, encode, cut files at marks |
//! | `merge` | rows that meet their table by key |
//! | `stream` | the task of a stream: commits |
//! | `sweep` | rows that the source no longer has, looked for over several runs |
//! | `round` | one round of all that: plan, read, settle, feeds |
//! | `vigil` | leases, progress, watchdog |

mod budget;
mod jobs;
mod lag;
mod lane;
mod merge;
mod part;
mod planning;
pub(crate) mod quarantine;
mod round;
mod shared;
#[cfg(test)]
mod simulation;
mod stream;
mod sweep;
mod target;
mod vigil;
mod work;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ingest_catalog::{FORMAT, Limits, RunDocument, RunStream, run_path};
use ingest_core::{Error, ErrorKind, Result, Selection, Stream, StreamName, glob_matches, nearest};

pub(crate) use merge::part_keyless;
pub use part::Gathered;
pub use planning::{Ask, Planned, ask, by_group, group_key};
pub use shared::{Share, SharedPlan, make_shared};
pub use stream::conform_to;
pub use target::{Target, selection, targets};
pub(crate) use vigil::renew_leases;

use crate::events::{Beating, ErrorReport, Event, Observer, Outcome, RequestReport, RunReport, StreamReport};
use crate::session::Session;

/// What `ingest run` was asked for.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The streams.
    pub selection: Selection,
    /// Forget positions and load everything again, replacing the rows.
    pub full_refresh: bool,
    /// Streams that are loaded again in the same way, while the others go on: names or globs.
    pub resync: Vec<String>,
    /// At most so many rows per stream; keeps no checkpoint.
    pub limit: Option<u64>,
    /// A window by hand: microseconds UTC, half-open.
    pub interval: Option<(i64, i64)>,
    /// A plan that several processes share.
    pub shared: Option<Share>,
    /// Stop after this time with what is committed: the run is partial then.
    pub time_limit: Option<Duration>,
    /// Go on with what is new until somebody stops the run.
    pub follow: bool,
    /// Give up when nothing moves for this long. Default 5 minutes.
    pub stall_timeout: Option<Duration>,
}

impl RunOptions {
    /// Whether a stream is loaded again.
    fn reloads(&self, stream: &StreamName) -> bool {
        self.full_refresh || self.resync.iter().any(|glob| glob_matches(glob, stream.as_str()))
    }

    /// Fails where a stream that shall be loaded again is none of the run.
    fn expect_resync<'a>(&self, mut names: impl Iterator<Item = &'a StreamName> + Clone) -> Result<()> {
        let unknown = self.resync.iter().find(|glob| !names.clone().any(|name| glob_matches(glob, name.as_str())));
        let Some(unknown) = unknown else { return Ok(()) };
        let error = Error::config(format!("--resync names \"{unknown}\", which is no stream of this run"));
        Err(match nearest(unknown, names.by_ref().map(StreamName::as_str)) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint("`ingest discover` lists the streams; --select and --exclude narrow the run"),
        })
    }
}

/// Runs a source. Never fails as a whole: what went wrong is in the report, and its exit code.
pub async fn run(session: &Session, options: &RunOptions, observer: Arc<dyn Observer>) -> RunReport {
    let started = Instant::now();
    observer.event(&Event::RunStarted {
        source: session.config.name.clone(),
        connector: session.spec.name.clone(),
        lake: crate::config::public_url(&session.lake.config.url),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    let mut document = begin_document(session);
    let path = run_path(document.started_at, &session.run_id);
    // The history is for people; a run must not fail because it cannot be kept.
    if let Err(error) = session.lake.documents.put(&path, &document).await {
        warn(observer.as_ref(), &format!("cannot write the run history: {error}"));
    }
    let beating = Arc::new(Beating::over(Arc::clone(&observer)));
    let told: Arc<dyn Observer> = Arc::clone(&beating) as Arc<dyn Observer>;
    let result = tokio::select! {
        result = execute(session, options, &told) => result,
        never = watch_over(session, options, &beating) => match never {},
    };
    let report = report(session, result, started, beating.is_limit_reached());
    finish_document(&mut document, &report, session);
    if let Err(error) = session.lake.documents.put(&path, &document).await {
        warn(observer.as_ref(), &format!("cannot write the run history: {error}"));
    }
    observer.event(&Event::RunFinished(report.clone()));
    report
}

/// Tells heartbeats, and stops the run when its time is over.
async fn watch_over(session: &Session, options: &RunOptions, beating: &Beating) -> std::convert::Infallible {
    let limit = async {
        let Some(limit) = options.time_limit else { return };
        tokio::time::sleep(limit).await;
        if !session.cancel.is_cancelled() {
            beating.reach_limit(limit);
            session.cancel.cancel();
        }
    };
    let ((), never) = tokio::join!(limit, beating.beat());
    never
}

async fn execute(session: &Session, options: &RunOptions, observer: &Arc<dyn Observer>) -> Result<Vec<StreamReport>> {
    if let Some(share) = &options.shared {
        share.check(session)?;
        if share.part.is_some() {
            // Others read beside us, with the same account.
            let (documents, clock) = (session.lake.documents.clone(), Arc::clone(&session.clock));
            session.limiter.share(Arc::new(Limits::new(documents, clock, &uuid::Uuid::now_v7().simple().to_string())));
        }
    }
    let selected = options.shared.as_ref().map_or_else(|| options.selection.clone(), Share::selection);
    let asked = selection(&session.config, &selected);
    let discovered = discover(session, &asked).await?;
    let found = targets(&session.config, &session.spec, discovered, &selected);
    let targets = match found {
        // Only the whole list of streams holds the name that was meant.
        Err(error) if error.kind() == ErrorKind::ConfigInvalid && !asked.select.is_empty() => {
            let all = discover(session, &Selection::default()).await?;
            return targets(&session.config, &session.spec, all, &selected).map_or_else(Err, |_| Err(error));
        }
        found => found?,
    };
    options.expect_resync(targets.iter().map(|(name, _)| name))?;
    let targets = match options.interval {
        None => targets,
        Some(_) => targets.into_iter().map(|(name, target)| (name, target.and_then(Target::by_interval))).collect(),
    };
    let targets = match &options.shared {
        None => targets,
        Some(share) => targets.into_iter().map(|(name, target)| (name, target.and_then(|t| share.fit(t)))).collect(),
    };
    round::Rounds::new(session, options, Arc::clone(observer)).run(targets).await
}

/// Asks the source for its streams; a source that is away for a moment is asked again.
pub async fn discover(session: &Session, selection: &Selection) -> Result<Vec<Stream>> {
    retried(session, || session.source.schema(selection)).await
}

/// Repeats a call of the source after retryable errors: three attempts in all.
pub(crate) async fn retried<T, F>(session: &Session, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut attempt = 1;
    loop {
        let result = tokio::select! {
            biased;
            () = session.cancel.cancelled() => Err(Error::cancelled()),
            result = call() => result,
        };
        match result {
            Err(error) if error.is_retryable() && attempt < 3 => {
                let wait = error.retry_delay().unwrap_or(Duration::from_millis(500 << attempt));
                tracing::warn!(error = ?error, attempt, "a call of the source failed and is tried again");
                attempt += 1;
                tokio::select! {
                    () = session.cancel.cancelled() => return Err(Error::cancelled()),
                    () = tokio::time::sleep(wait) => {}
                }
            }
            result => return result,
        }
    }
}

fn warn(observer: &dyn Observer, message: &str) {
    observer.event(&Event::Warning { stream: None, message: message.to_owned() });
}

fn report(session: &Session, result: Result<Vec<StreamReport>>, started: Instant, limit_reached: bool) -> RunReport {
    let (mut streams, mut error) = match result {
        Ok(streams) => (streams, None),
        Err(error) => (Vec::new(), Some(ErrorReport::from(&error))),
    };
    if limit_reached {
        streams.iter_mut().for_each(StreamReport::excuse);
        error.take_if(|error| error.exit_code == ErrorKind::Cancelled.exit_code());
    }
    streams.sort_by(|a, b| a.stream.cmp(&b.stream));
    let mut codes: Vec<u8> = streams
        .iter()
        .map(|stream| stream.error.as_ref().map_or(if stream.partial { 4 } else { 0 }, |error| error.exit_code))
        .chain(error.iter().map(|error| error.exit_code))
        .collect();
    if session.cancel.is_cancelled() && codes.iter().all(|code| *code == 0) && !all_done(&streams) {
        codes.push(if limit_reached { 4 } else { 130 });
    }
    let exit_code = [130, 1, 2, 3, 5, 6, 4].into_iter().find(|code| codes.contains(code)).unwrap_or(0);
    let outcome = match exit_code {
        0 => Outcome::Succeeded,
        4 => Outcome::Partial,
        130 => Outcome::Interrupted,
        _ => Outcome::Failed,
    };
    let total = |each: fn(&StreamReport) -> u64| streams.iter().map(each).sum();
    RunReport {
        run_id: session.run_id.clone(),
        source: session.config.name.clone(),
        outcome,
        exit_code,
        duration_ms: millis(started.elapsed()),
        rows_read: total(|s| s.rows_read),
        rows_written: total(|s| s.rows_written),
        rows_rescued: total(|s| s.rows_rescued),
        rows_quarantined: total(|s| s.rows_quarantined),
        requests: requests(session),
        streams,
        error,
    }
}

/// What a run cost at the source's API beside what its plans had thought.
fn requests(session: &Session) -> Option<RequestReport> {
    let (sent, estimated) = (session.requests.count(), session.estimated.load(Ordering::Relaxed));
    (sent > 0).then(|| RequestReport { sent, estimated: Some(estimated).filter(|calls| *calls > 0) })
}

fn all_done(streams: &[StreamReport]) -> bool {
    !streams.is_empty() && streams.iter().all(|stream| stream.error.is_none() && !stream.partial)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn begin_document(session: &Session) -> RunDocument {
    RunDocument {
        format: FORMAT,
        run_id: session.run_id.clone(),
        source: session.config.name.clone(),
        connector: format!("{} {}", session.spec.name, session.spec.version),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: session.clock.now_micros(),
        finished_at: None,
        outcome: None,
        exit_code: None,
        streams: Vec::new(),
        error: None,
    }
}

fn finish_document(document: &mut RunDocument, report: &RunReport, session: &Session) {
    let json = |error: &ErrorReport| serde_json::to_value(error).ok();
    document.finished_at = Some(session.clock.now_micros());
    document.outcome = serde_json::to_value(report.outcome).ok().and_then(|v| v.as_str().map(str::to_owned));
    document.exit_code = Some(report.exit_code);
    document.error = report.error.as_ref().and_then(json);
    document.streams = report
        .streams
        .iter()
        .map(|stream| RunStream {
            stream: stream.stream.clone(),
            rows_read: stream.rows_read,
            rows_written: stream.rows_written,
            rows_rescued: stream.rows_rescued,
            rows_quarantined: stream.rows_quarantined,
            bytes_written: stream.bytes_written,
            commit_version: stream.commit_version,
            duration_ms: stream.duration_ms,
            lag_ms: stream.lag.map(|lag| (lag.seconds * 1_000.0) as u64),
            lag_bytes: stream.lag.and_then(|lag| lag.bytes),
            checks: stream.checks.iter().filter_map(|check| serde_json::to_value(check).ok()).collect(),
            error: stream.error.as_ref().and_then(json),
        })
        .collect();
}
