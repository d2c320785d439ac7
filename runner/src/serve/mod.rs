//! `ingest serve`: starts what is due, each due time once, on one of the machines that could.
//!
//! | module | what it does |
//! | --- | --- |
//! | `timing` | cron expressions and words, in time zones |
//! | `job` | what the configuration says is run together |
//! | `agenda` | what is due now, decided without doing anything |
//! | `metrics` | what a server counts, as Prometheus reads it |
//! | this one | the lease of the leader, the documents, the runs |
//!
//! All state is in the lake: `_ingest/schedules/…`. A due time is *taken* by a document before its run starts and *settled* by
//! one after it has ended; both are created if absent, so that of two servers one takes it. A due time that is taken and not
//! settled is run for again by whoever leads then: runs go on where they were killed, and add nothing twice.

mod agenda;
mod job;
mod metrics;
mod timing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ingest_catalog::{Documents, Lease, ScheduleDocument, find_runs};
use ingest_core::{CancellationToken, Clock, Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use agenda::{Agenda, Step};
pub use job::{Job, jobs};
pub use metrics::{Metrics, answer};
pub use timing::Timing;

/// A server that does not lead asks so often whether it may.
const STANDBY: Duration = Duration::from_secs(10);

/// The leader's lease is renewed so often; it expires after 60 s.
const RENEWAL: i64 = 20_000_000;

/// No source can be called this, so that the lease is nobody's.
const NAME: &str = "@serve";

/// What a server runs for a due time.
#[derive(Debug, Clone)]
pub struct Start {
    /// The job.
    pub job: Job,
    /// The due time: microseconds UTC.
    pub due: i64,
    /// The id of the run. A run that is made again for the same due time has the same.
    pub run: String,
}

/// Runs jobs.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// Runs until the end, and answers the exit code. When `stop` fires it ends within ten seconds.
    async fn run(&self, start: &Start, stop: CancellationToken) -> u8;
}

/// What a server tells.
#[derive(Debug)]
pub enum Told<'a> {
    /// It leads now, or waits while another one does.
    Leads(bool),
    /// The jobs of the configuration, from now on, each with the latest due time whose run succeeded.
    Jobs(&'a [(&'a Job, Option<i64>)]),
    /// A job was started.
    Started(&'a Start),
    /// A run has ended.
    Ended(&'a Start, u8),
    /// Due times were passed over.
    PassedOver(&'a Job, i64),
    /// The lake was away, or something like that; it goes on.
    Trouble(&'a Error),
}

/// A server of schedules.
pub struct Server {
    /// The documents of the lake.
    pub documents: Documents,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Runs jobs.
    pub worker: Arc<dyn Worker>,
    /// The id of this server.
    pub id: String,
    /// So many runs at once.
    pub at_once: usize,
    /// The jobs; another value is a new configuration.
    pub jobs: watch::Receiver<Arc<Vec<Job>>>,
    /// Takes what is told.
    pub tell: Arc<dyn Fn(&Told<'_>) + Send + Sync>,
}

impl Server {
    /// Serves until `stop` fires: leads, or waits until it may. Runs that are under way then are stopped and go on with the
    /// next leader.
    pub async fn serve(mut self, stop: CancellationToken) {
        let mut waiting = false;
        while !stop.is_cancelled() {
            match Lease::take(&self.documents, NAME, "leader", &self.id, self.clock.as_ref()).await {
                Ok(lease) => {
                    (self.tell)(&Told::Leads(true));
                    waiting = false;
                    let mut lead =
                        Lead { agenda: Agenda::new(self.at_once), runs: JoinSet::new(), stop: stop.child_token() };
                    let (lease, ended) = lead.lead(&mut self, lease).await;
                    if let Err(error) = ended {
                        (self.tell)(&Told::Trouble(&error));
                    }
                    lead.end(&self).await;
                    if let Some(lease) = lease
                        && let Err(error) = lease.release(&self.documents).await
                    {
                        (self.tell)(&Told::Trouble(&error));
                    }
                }
                Err(error) if error.kind() == ErrorKind::CheckpointConflict => {
                    if !std::mem::replace(&mut waiting, true) {
                        (self.tell)(&Told::Leads(false));
                    }
                }
                Err(error) => (self.tell)(&Told::Trouble(&error)),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(STANDBY) => {}
            }
        }
    }
}

/// How a run of an earlier leader ended for good, by the run history; `None` where it did not.
async fn ended_by_itself(documents: &Documents, run: &str) -> Result<Option<u8>> {
    let runs = find_runs(documents, run).await?;
    Ok(runs.iter().filter_map(|run| run.exit_code).find(|code| !matches!(code, 1 | 6 | 130)))
}

/// A server while it leads.
struct Lead {
    agenda: Agenda,
    runs: JoinSet<(Start, u8)>,
    /// Stops the runs.
    stop: CancellationToken,
}

impl Lead {
    /// Leads until it is stopped or deposed. Answers the lease where it still holds it.
    async fn lead(&mut self, server: &mut Server, mut lease: Lease) -> (Option<Lease>, Result<()>) {
        let mut renew_at = server.clock.now_micros() + RENEWAL;
        let mut known = false;
        loop {
            let now = server.clock.now_micros();
            if now >= renew_at {
                match lease.renew(&server.documents, server.clock.as_ref()).await {
                    Err(error) if error.kind() == ErrorKind::CheckpointConflict => return (None, Err(error)),
                    // The store is away for a moment; the fence is each job's own document.
                    Err(error) => (server.tell)(&Told::Trouble(&error)),
                    Ok(()) => {}
                }
                renew_at = now + RENEWAL;
            }
            let result = async {
                if !known || server.jobs.has_changed().unwrap_or(false) {
                    self.read_jobs(server).await?;
                    known = true;
                }
                self.start_due(server).await
            };
            let wake = match result.await {
                Ok(wake) => wake,
                Err(error) if error.kind() == ErrorKind::CheckpointConflict => return (Some(lease), Err(error)),
                Err(error) => {
                    (server.tell)(&Told::Trouble(&error));
                    Some(server.clock.now_micros() + RENEWAL)
                }
            };
            let wake = wake.map_or(renew_at, |wake| wake.min(renew_at));
            let pause = u64::try_from(wake.saturating_sub(server.clock.now_micros())).unwrap_or(0);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return (Some(lease), Ok(())),
                Some(ended) = self.runs.join_next() => {
                    if let Err(error) = self.settle(server, ended).await {
                        return (Some(lease), Err(error));
                    }
                }
                Ok(()) = server.jobs.changed() => known = false,
                () = tokio::time::sleep(Duration::from_micros(pause)) => {}
            }
        }
    }

    /// Takes over the jobs of the configuration.
    async fn read_jobs(&mut self, server: &mut Server) -> Result<()> {
        let jobs = Arc::clone(&server.jobs.borrow_and_update());
        for job in jobs.iter() {
            let mut document = None;
            if !self.agenda.knows(&job.id) {
                let folder = job.folder();
                document = ScheduleDocument::latest(&server.documents, &folder).await?;
                if document.is_none() {
                    let first = ScheduleDocument::first(&job.id, &server.id, server.clock.now_micros());
                    first.create(&server.documents, &folder).await?;
                    document = Some(first);
                }
            }
            self.agenda.put(job.clone(), document);
        }
        self.agenda.keep(&jobs.iter().map(|job| job.id.as_str()).collect::<Vec<_>>());
        let known: Vec<_> = jobs.iter().filter_map(|job| self.agenda.get(&job.id)).collect();
        let known: Vec<_> = known.iter().map(|(job, document)| (*job, document.succeeded)).collect();
        (server.tell)(&Told::Jobs(&known));
        Ok(())
    }

    /// Starts what is due; answers when to look again.
    async fn start_due(&mut self, server: &Server) -> Result<Option<i64>> {
        let now = server.clock.now_micros();
        let (steps, wake) = self.agenda.steps(now);
        for step in steps {
            match step {
                Step::PassOver { job, due } => {
                    let Some(next) = self.agenda.pass_over(&job, due, &server.id, now) else { continue };
                    self.write(server, &job, next).await?;
                    if let Some((job, _)) = self.agenda.get(&job) {
                        (server.tell)(&Told::PassedOver(job, due));
                    }
                }
                Step::Start { job, due } => {
                    let run = format!("due-{due}-{}", uuid::Uuid::now_v7().simple());
                    let Some(next) = self.agenda.take(&job, due, &server.id, &run) else { continue };
                    self.write(server, &job, next).await?;
                    let Some((described, document)) = self.agenda.get(&job) else { continue };
                    let taken = document.taken.as_ref().map_or(run.clone(), |taken| taken.run.clone());
                    let start = Start { job: described.clone(), due, run: taken };
                    // A run outlives the server that started it where only that was killed.
                    let ended =
                        if start.run == run { None } else { ended_by_itself(&server.documents, &start.run).await? };
                    self.agenda.started(&job);
                    if ended.is_none() {
                        (server.tell)(&Told::Started(&start));
                    }
                    let (worker, stop) = (Arc::clone(&server.worker), self.stop.clone());
                    self.runs.spawn(async move {
                        let code = match ended {
                            Some(code) => code,
                            None => worker.run(&start, stop).await,
                        };
                        (start, code)
                    });
                }
            }
        }
        // What was passed over has a next time, which is not known yet.
        Ok(if wake.is_none() { self.agenda.steps(now).1 } else { wake })
    }

    async fn write(&mut self, server: &Server, job: &str, next: ScheduleDocument) -> Result<()> {
        let folder = self.agenda.get(job).map(|(job, _)| job.folder());
        if let Some(folder) = folder {
            next.create(&server.documents, &folder).await?;
            self.agenda.wrote(job, next);
        }
        Ok(())
    }

    async fn settle(
        &mut self,
        server: &Server,
        ended: std::result::Result<(Start, u8), tokio::task::JoinError>,
    ) -> Result<()> {
        let (start, code) = ended.map_err(|error| Error::unexpected("a run could not be watched").caused_by(error))?;
        (server.tell)(&Told::Ended(&start, code));
        let next = self.agenda.ended(&start.job.id, code, &server.id, server.clock.now_micros());
        if let Some(next) = next {
            // A lake that is away must not make a due time run again: the document is written until it is there.
            while let Err(error) = self.write(server, &start.job.id, next.clone()).await {
                if error.kind() == ErrorKind::CheckpointConflict || self.stop.is_cancelled() {
                    return Err(error);
                }
                (server.tell)(&Told::Trouble(&error));
                tokio::time::sleep(STANDBY).await;
            }
        }
        self.agenda.tidy();
        Ok(())
    }

    /// Stops the runs and waits for them. What has ended by itself is settled.
    async fn end(&mut self, server: &Server) {
        self.stop.cancel();
        while let Some(ended) = self.runs.join_next().await {
            if let Err(error) = self.settle(server, ended).await {
                (server.tell)(&Told::Trouble(&error));
            }
        }
    }
}
