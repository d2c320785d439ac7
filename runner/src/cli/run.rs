//! `ingest run`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingest_core::{CancellationToken, Error, ErrorKind};

use super::App;
use super::args::{ProgressMode, RunArgs};
use super::output::{Outcome, Stop, note, print, wants_json};
use super::pipes::with_pipes;
use super::progress::{observer, print_failures, requests_line, summary};
use crate::config::{Config, public_url};
use crate::events::{ErrorReport, Event, Observer, Outcome as How, RunReport};
use crate::run::{RunOptions, Share, run as execute};
use crate::session::Session;

/// A run that was asked to stop ends within ten seconds, if need be without its own consent: commits are whole at any time.
const GRACE: Duration = Duration::from_millis(9_500);

/// Runs the verb.
pub fn run(app: &App, args: &RunArgs) -> Outcome {
    let shared = args.plan.as_deref().map(|path| share(path, args)).transpose()?;
    let source = match (&args.source, &shared) {
        (Some(source), _) => source.clone(),
        (None, Some(share)) => share.plan.source.clone(),
        (None, None) => return Err(Error::config("no source is named").hint("say --source NAME").into()),
    };
    let interval = args.interval_start.zip(args.interval_end);
    if interval.is_some_and(|(start, end)| start >= end) {
        return Err(Error::config("the interval ends before it starts")
            .hint("--interval-start is inclusive, --interval-end is exclusive")
            .into());
    }
    let config = app.load_source(&source)?;
    let options = RunOptions {
        selection: args.streams.selection(),
        full_refresh: args.full_refresh,
        resync: args.resync.clone(),
        limit: args.limit,
        interval,
        shared,
        time_limit: args.timeout,
        follow: args.follow,
        stall_timeout: None,
    };
    let run_id = args.run_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string());
    // Where data is wanted as JSON, the data of a run are its events.
    let mode = if app.global.json && args.progress == ProgressMode::Auto { ProgressMode::Json } else { args.progress };
    let observer = with_pipes(observer(mode, &run_id));
    app.with_runtime(|cancel| async {
        let report = watched(app, &config, &source, run_id, &options, Arc::clone(&observer), cancel).await;
        finish(app, mode, &report)
    })
}

/// Where schedulers of indexed jobs say which one this is: Kubernetes, AWS Batch, Cloud Run.
const INDEXES: [&str; 3] = ["JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", "CLOUD_RUN_TASK_INDEX"];

/// Largest plan that is read.
const MAX_PLAN_BYTES: u64 = 256 << 20;

/// Reads a plan of `ingest plan -o`, and which part of it is meant.
fn share(path: &Path, args: &RunArgs) -> Result<Share, Error> {
    let failed = |message: &str| Error::config(message).with("path", path.display());
    let bytes = match std::fs::metadata(path) {
        Ok(found) if found.len() > MAX_PLAN_BYTES => return Err(failed("the plan is too large to be one")),
        Ok(_) => std::fs::read(path),
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(|error| {
        failed("cannot read the plan")
            .caused_by(error)
            .hint("`ingest plan -o FILE` writes one; give each process its path")
    })?;
    let plan = serde_json::from_slice(&bytes)
        .map_err(|error| failed("the file is no plan").caused_by(error).hint("`ingest plan -o FILE` writes one"))?;
    let index = || {
        INDEXES.iter().find_map(|name| {
            let text = std::env::var(name).ok()?;
            Some(text.parse().map_err(|_| Error::config(format!("{name} is no number")).with("value", text)))
        })
    };
    let part = match (args.finish, args.slice) {
        (true, _) => None,
        (false, Some(slice)) => Some(slice),
        (false, None) => Some(index().ok_or_else(|| {
            Error::config("which slice of the plan shall be read is not said")
                .hint("say --slice I, or --finish when all are done")
        })??),
    };
    Ok(Share { plan, part })
}

/// Runs until the end, or until the time that a stop may take has passed.
async fn watched(
    app: &App,
    config: &Config,
    source: &str,
    run_id: String,
    options: &RunOptions,
    observer: Arc<dyn Observer>,
    cancel: CancellationToken,
) -> RunReport {
    let started = Instant::now();
    let overdue = async {
        cancel.cancelled().await;
        note("stopping: what is read and whole is committed; a second signal stops at once");
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        report = whole(app, config, source, &run_id, options, &observer, cancel.clone()) => report,
        () = overdue => {
            let error = Error::new(ErrorKind::Cancelled, "the run did not stop in time and was broken off")
                .hint("all commits are whole; the same command goes on from the last one");
            let mut report = failed(source, &run_id, &error, started);
            if options.time_limit.is_some_and(|limit| started.elapsed() >= limit + GRACE) {
                (report.outcome, report.exit_code) = (How::Partial, 4);
            }
            observer.event(&Event::RunFinished(report.clone()));
            report
        }
    }
}

async fn whole(
    app: &App,
    config: &Config,
    source: &str,
    run_id: &str,
    options: &RunOptions,
    observer: &Arc<dyn Observer>,
    cancel: CancellationToken,
) -> RunReport {
    let started = Instant::now();
    match Session::open(config, &app.registry, source, Some(run_id.to_owned()), cancel).await {
        Ok(session) => execute(&session, options, Arc::clone(observer)).await,
        Err(error) => {
            // A run that cannot begin has the same first and last event as any other.
            observer.event(&Event::RunStarted {
                source: source.to_owned(),
                connector: config.sources.get(source).map_or_else(String::new, |source| source.connector.clone()),
                lake: public_url(&config.lake.url),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            });
            let report = failed(source, run_id, &error, started);
            observer.event(&Event::RunFinished(report.clone()));
            report
        }
    }
}

/// The report of a run that got nowhere.
fn failed(source: &str, run_id: &str, error: &Error, started: Instant) -> RunReport {
    let exit_code = error.kind().exit_code();
    RunReport {
        run_id: run_id.to_owned(),
        source: source.to_owned(),
        outcome: match exit_code {
            130 => How::Interrupted,
            4 => How::Partial,
            _ => How::Failed,
        },
        exit_code,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        rows_read: 0,
        rows_written: 0,
        rows_rescued: 0,
        rows_quarantined: 0,
        requests: None,
        streams: Vec::new(),
        error: Some(ErrorReport::from(error)),
    }
}

/// The last words: errors on stderr, a line for each stream on stdout.
fn finish(app: &App, mode: ProgressMode, report: &RunReport) -> Outcome {
    print_failures(report, wants_json(&app.global));
    if mode != ProgressMode::Json {
        let lines: String = report.streams.iter().map(summary).collect();
        // The code says how the run ended, also to somebody who has stopped reading.
        match print(&lines) {
            Ok(()) | Err(Stop::PipeClosed) => {}
            Err(stop) => return Err(stop),
        }
        if let Some(requests) = report.requests.filter(|_| mode != ProgressMode::Off) {
            note(&requests_line(requests));
        }
        if report.outcome == How::Interrupted {
            note("interrupted: all commits are whole, the same command goes on from the last one");
        }
    }
    Ok(report.exit_code)
}
