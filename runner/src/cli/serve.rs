//! `ingest serve`: schedules, and webhooks that are received meanwhile.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use clap::ValueEnum;
use ingest_catalog::{Documents, find_runs_since};
use ingest_core::{CancellationToken, Clock, Error, Result, SystemClock};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::App;
use super::args::{Global, ServeArgs};
use super::output::{Outcome, Stop, note, print, print_json, print_problems, safe};
use super::receive::{self, Receiving};
use super::table::Table;
use crate::config::Config;
use crate::serve::{Job, Metrics, Server, Start, Told, Worker, answer, jobs};
use crate::session::Lake;

/// A run that was told to stop has this long.
const GRACE: Duration = Duration::from_secs(10);

/// The history of a run is read for the metrics within this time, or not at all.
const HISTORY: Duration = Duration::from_secs(30);

/// Runs the verb.
pub fn run(app: &App, args: &ServeArgs) -> Outcome {
    let config = app.load_lake()?;
    let scheduled = jobs(&config);
    if args.dry_run {
        return show(app, &scheduled);
    }
    if scheduled.is_empty() && receive::sources(&config).next().is_none() {
        return Err(Error::config("no source has a schedule, and none receives webhooks")
            .hint("write e.g. `schedule: hourly` under a source or one of its streams")
            .into());
    }
    app.with_runtime(|cancel| async { serve(app, args, &config, scheduled, cancel).await })
}

/// What is due when.
fn show(app: &App, scheduled: &[Job]) -> Outcome {
    let now = SystemClock.now_micros();
    let due = |job: &Job| job.timing.next_after(now).map(|due| due + job.timing.delay(&job.id, due)).map(time);
    if app.global.json {
        let list: Vec<_> = scheduled
            .iter()
            .map(|job| {
                json!({"job": job.id, "source": job.source, "select": job.select, "exclude": job.exclude,
                       "priority": job.priority, "concurrency": job.concurrency, "next": due(job)})
            })
            .collect();
        print_json(&list)?;
        return Ok(0);
    }
    let mut table = Table::new(["job", "next", "priority"]);
    table.align_right(2);
    for job in scheduled {
        table.row([safe(&job.id).into_owned(), due(job).unwrap_or_default(), job.priority.to_string()]);
    }
    if table.is_empty() {
        note("no source has a schedule");
    } else {
        print(&table.render())?;
    }
    Ok(0)
}

async fn serve(
    app: &App,
    args: &ServeArgs,
    config: &Config,
    scheduled: Vec<Job>,
    cancel: CancellationToken,
) -> Outcome {
    let lake = Lake::open(&config.lake)?;
    let (sender, receiver) = watch::channel(Arc::new(scheduled));
    let program = std::env::current_exe()
        .map_err(|error| Error::unexpected("this program does not know where it is").caused_by(error))?;
    let metrics = Arc::new(Metrics::default());
    let listener = match args.metrics {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let counted = Arc::clone(&metrics);
    let server = Server {
        documents: lake.documents.clone(),
        clock: Arc::new(SystemClock),
        worker: Arc::new(Program {
            program: program.into(),
            common: common(&app.global),
            progress: word(args.progress),
            history: listener.is_some().then(|| (lake.documents, Arc::clone(&metrics))),
        }),
        id: uuid::Uuid::now_v7().simple().to_string(),
        at_once: usize::from(args.at_once),
        jobs: receiver,
        tell: Arc::new(move |told: &Told<'_>| {
            counted.told(told, SystemClock.now_micros());
            tell(told);
        }),
    };
    let receiving = Receiving::start(config, &args.listen, &cancel).await?;
    let mut hangups = hangups()?;
    let page = async {
        match listener {
            Some(listener) => answer(listener, move || metrics.render(SystemClock.now_micros())).await,
            None => std::future::pending().await,
        }
    };
    let serving = server.serve(cancel);
    tokio::pin!(serving, page);
    loop {
        tokio::select! {
            () = &mut serving => break,
            _ = hangups.recv() => reload(app, config, &sender, &receiving),
            never = &mut page => match never {},
        }
    }
    receiving.end().await?;
    Ok(0)
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let failed = |error: std::io::Error| {
        Error::config("cannot listen for requests of the metrics")
            .with("address", address)
            .caused_by(error)
            .hint("give `--metrics` a port that is free; 0 takes any")
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    note(&format!("metrics: http://{bound}/metrics"));
    Ok(listener)
}

fn hangups() -> Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
        .map_err(|error| Error::unexpected("cannot listen for signals of the operating system").caused_by(error))
}

/// Takes a new configuration over; one that is wrong is refused, and the old one holds.
fn reload(app: &App, before: &Config, jobs_now: &watch::Sender<Arc<Vec<Job>>>, receiving: &Receiving) {
    match app.load_lake() {
        Ok(config) if config.lake.url != before.lake.url => {
            note("the configuration names another lake: the one before holds; start `ingest serve` again for it");
        }
        Ok(config) => {
            if let Err(error) = receiving.reload(&config) {
                return tell(&Told::Trouble(&error));
            }
            let scheduled = jobs(&config);
            note(&format!("the configuration was read again: {} jobs", scheduled.len()));
            jobs_now.send_replace(Arc::new(scheduled));
        }
        Err(stop) => {
            if let Stop::Config(problems) = &stop {
                print_problems(problems, &app.global);
            }
            note("the configuration is wrong: the one before holds");
        }
    }
}

/// The flags of every verb, for the runs that are started.
fn common(global: &Global) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut flag = |name: &str, value: OsString| words.extend([name.into(), value]);
    if let Some(config) = &global.config {
        flag("--config", config.into());
    }
    if let Some(env) = &global.env {
        flag("--env", env.into());
    }
    flag("--log-level", word(global.log_level).into());
    flag("--log-format", word(global.log_format).into());
    words
}

fn word<T: ValueEnum>(value: T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn time(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map_or_else(String::new, |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn tell(told: &Told<'_>) {
    let now = time(SystemClock.now_micros());
    let line = match told {
        Told::Leads(true) => "this server leads".to_owned(),
        Told::Jobs(_) => return,
        Told::Leads(false) => "another server leads; this one waits".to_owned(),
        Told::Started(start) => format!("{}: due {}, run {} started", safe(&start.job.id), time(start.due), start.run),
        Told::Ended(start, code) => {
            format!("{}: due {}, run {} ended with {code}", safe(&start.job.id), time(start.due), start.run)
        }
        Told::PassedOver(job, due) => format!("{}: due {} was missed and is passed over", safe(&job.id), time(*due)),
        Told::Trouble(error) => format!("warning: {}", safe(&error.to_string())),
    };
    note(&format!("{now} {line}"));
}

/// Runs jobs as processes of this program: what one does to its memory, it does to itself.
struct Program {
    program: OsString,
    common: Vec<OsString>,
    progress: String,
    /// Where runs leave their figures, and where they are counted.
    history: Option<(Documents, Arc<Metrics>)>,
}

#[async_trait]
impl Worker for Program {
    async fn run(&self, start: &Start, stop: CancellationToken) -> u8 {
        let since = SystemClock.now_micros();
        let code = match self.process(start, stop).await {
            Ok(code) => code,
            Err(error) => {
                tell(&Told::Trouble(&error));
                error.kind().exit_code()
            }
        };
        match tokio::time::timeout(HISTORY, self.count(start, since)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, run = start.run, "the figures of a run are not counted"),
            Err(_) => tracing::warn!(run = start.run, "the figures of a run are not counted: the lake does not answer"),
        }
        code
    }
}

impl Program {
    async fn count(&self, start: &Start, since: i64) -> Result<()> {
        if let Some((documents, metrics)) = &self.history {
            for run in find_runs_since(documents, since, &start.run).await? {
                metrics.ran(&start.job, &run);
            }
        }
        Ok(())
    }

    async fn process(&self, start: &Start, stop: CancellationToken) -> Result<u8> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.common).args(["run", "--source", &start.job.source, "--run-id", &start.run]);
        command.args(["--progress", &self.progress]).stdin(Stdio::null());
        for (flag, names) in [("--select", &start.job.select), ("--exclude", &start.job.exclude)] {
            for name in names {
                command.args([flag, name]);
            }
        }
        // What selects streams here is the job, not the environment of the server.
        for name in ["INGEST_SELECT", "INGEST_EXCLUDE", "INGEST_RESYNC", "INGEST_PLAN", "INGEST_SLICE", "INGEST_FINISH"]
        {
            command.env_remove(name);
        }
        // Ctrl-C goes to this process, which stops its runs itself.
        command.process_group(0);
        let failed = |error: std::io::Error| Error::unexpected("cannot start a run").caused_by(error);
        let mut child = command.spawn().map_err(failed)?;
        let status = tokio::select! {
            status = child.wait() => status,
            () = stop.cancelled() => {
                terminate(&child);
                match tokio::time::timeout(GRACE, child.wait()).await {
                    Ok(status) => status,
                    Err(_) => {
                        // All commits are whole at any time.
                        child.kill().await.map_err(failed)?;
                        return Ok(130);
                    }
                }
            }
        };
        let code = status.map_err(failed)?.code();
        // Killed from outside: the next run goes on.
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(130))
    }
}

fn terminate(child: &tokio::process::Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::warn!(%error, "a run could not be told to stop");
    }
}
