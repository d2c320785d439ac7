//! `ingest run`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingest_core::{CancellationToken, Error, ErrorKind};

use super::App;
use super::args::{ProgressMode, RunArgs};
use super::output::{Outcome, Stop, note, print, wants_json};
use super::progress::{observer, print_failures, summary};
use super::refused;
use crate::config::{Config, public_url};
use crate::events::{ErrorReport, Event, Observer, Outcome as How, RunReport};
use crate::run::{RunOptions, run as execute};
use crate::session::Session;

/// A run that was asked to stop ends within ten seconds, if need be without its own consent: commits are whole at any time.
const GRACE: Duration = Duration::from_millis(9_500);

/// Runs the verb.
pub fn run(app: &App, args: &RunArgs) -> Outcome {
    for (asked, name) in
        [(args.follow, "run --follow"), (args.plan.is_some(), "run --plan"), (args.slice.is_some(), "run --slice")]
    {
        if asked {
            return refused::flag(name);
        }
    }
    let interval = args.interval_start.zip(args.interval_end);
    if interval.is_some_and(|(start, end)| start >= end) {
        return Err(Error::config("the interval ends before it starts")
            .hint("--interval-start is inclusive, --interval-end is exclusive")
            .into());
    }
    let config = app.load_source(&args.source.source)?;
    let options = RunOptions {
        selection: args.source.selection(),
        full_refresh: args.full_refresh,
        limit: args.limit,
        interval,
        stall_timeout: None,
    };
    let run_id = args.run_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string());
    // Where data is wanted as JSON, the data of a run are its events.
    let mode = if app.global.json && args.progress == ProgressMode::Auto { ProgressMode::Json } else { args.progress };
    let observer = observer(mode, &run_id);
    app.with_runtime(|cancel| async {
        let report = watched(app, &config, &args.source.source, run_id, &options, Arc::clone(&observer), cancel).await;
        finish(app, mode, &report)
    })
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
            let report = failed(source, &run_id, &error, started);
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
        if report.outcome == How::Interrupted {
            note("interrupted: all commits are whole, the same command goes on from the last one");
        }
    }
    Ok(report.exit_code)
}
