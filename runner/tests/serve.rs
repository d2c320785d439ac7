//! `ingest serve` over a simulated week: two servers that are killed, stopped and started again, runs that fail, take too
//! long or outlive their server. The clock is tokio's own, paused: a week takes seconds, and a seed says all.
//!
//! `INGEST_TEST_SEED=n` runs one history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use ingest_catalog::{Documents, FORMAT, RunDocument, ScheduleDocument, run_path};
use ingest_core::config::Span;
use ingest_core::{CancellationToken, Clock};
use ingest_runner::config::{Missed, ScheduleOptions};
use ingest_runner::serve::{Job, Server, Start, Timing, Worker};
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

/// 2024-03-25T00:00:00Z: a week in which Europe changes its clocks.
const START: i64 = 1_711_324_800_000_000;
const MINUTE: i64 = 60_000_000;
const WEEK: i64 = 7 * 1_440 * MINUTE;

struct Simulated(Instant);

impl Clock for Simulated {
    fn now_micros(&self) -> i64 {
        START + i64::try_from(self.0.elapsed().as_micros()).expect("less than ages")
    }
}

#[derive(Debug, Clone)]
struct Ran {
    job: String,
    source: String,
    due: i64,
    from: i64,
    to: i64,
    code: u8,
}

/// The machines, and the streams' leases, which runs hold also when their server is gone.
struct World {
    clock: Simulated,
    documents: Documents,
    random: Mutex<StdRng>,
    /// Jobs that run now, by whichever server.
    held: Mutex<BTreeSet<String>>,
    ran: Mutex<Vec<Ran>>,
    /// Longest run, in seconds.
    longest: u64,
    /// Of a hundred runs so many fail.
    failing: u32,
}

impl World {
    fn new(seed: u64, longest: u64, failing: u32) -> Arc<Self> {
        Arc::new(Self {
            clock: Simulated(Instant::now()),
            documents: Documents::new(Arc::new(InMemory::new())),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            held: Mutex::default(),
            ran: Mutex::default(),
            longest,
            failing,
        })
    }

    fn random(&self) -> MutexGuard<'_, StdRng> {
        self.random.lock().expect("no panic")
    }

    fn ran(&self) -> Vec<Ran> {
        self.ran.lock().expect("no panic").clone()
    }

    /// What a process does: holds the stream's lease, takes its time, leaves its end in the history.
    async fn process(self: Arc<Self>, start: Start, stop: CancellationToken) -> u8 {
        if !self.held.lock().expect("no panic").insert(start.job.id.clone()) {
            return 6;
        }
        let from = self.clock.now_micros();
        let (takes, code) = {
            let mut random = self.random();
            let code = if random.random_range(0..100) < self.failing { 1 } else { 0 };
            (Duration::from_secs(random.random_range(1..=self.longest)), code)
        };
        let code = tokio::select! {
            () = tokio::time::sleep(takes) => code,
            () = stop.cancelled() => 130,
        };
        let to = self.clock.now_micros();
        let document = RunDocument {
            format: FORMAT,
            run_id: start.run.clone(),
            source: start.job.source.clone(),
            connector: String::new(),
            version: String::new(),
            started_at: from,
            finished_at: Some(to),
            outcome: None,
            exit_code: Some(code),
            streams: Vec::new(),
            error: None,
        };
        self.documents.put(&run_path(from, &start.run), &document).await.expect("written");
        self.held.lock().expect("no panic").remove(&start.job.id);
        let ran = Ran { job: start.job.id, source: start.job.source, due: start.due, from, to, code };
        self.ran.lock().expect("no panic").push(ran);
        code
    }
}

/// A process of its own: it goes on when the server that waits for it is killed.
struct Processes(Arc<World>);

#[async_trait]
impl Worker for Processes {
    async fn run(&self, start: &Start, stop: CancellationToken) -> u8 {
        tokio::spawn(Arc::clone(&self.0).process(start.clone(), stop)).await.expect("no panic")
    }
}

fn job(id: &str, at: &str, missed: Missed, priority: i32) -> Job {
    let options = ScheduleOptions {
        at: Some(at.into()),
        zone: Some("Europe/Berlin".into()),
        jitter: Some(Span::seconds(60)),
        missed: Some(missed),
        ..ScheduleOptions::default()
    };
    let source = id.split('/').next().unwrap_or(id).to_owned();
    let timing = Timing::new(&options).expect(at);
    Job { id: id.into(), source, select: vec![], exclude: vec![], timing, priority, concurrency: 2 }
}

fn week() -> Vec<Job> {
    vec![
        job("shop", "hourly", Missed::Each, 0),
        job("shop/orders", "*/15 * * * *", Missed::Each, 5),
        job("shop/items", "*/20 * * * *", Missed::Once, 0),
        job("shop/log", "*/10 8-18 * * MON-FRI", Missed::Skip, -1),
        job("crm", "daily", Missed::Each, 0),
        job("crm/people", "30 2 * * *", Missed::Each, 0),
        job("ads", "weekly", Missed::Each, 9),
    ]
}

/// A server that can be killed or stopped.
struct Running {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    _jobs: watch::Sender<Arc<Vec<Job>>>,
}

fn serve(world: &Arc<World>, id: &str, jobs: Vec<Job>, at_once: usize) -> Running {
    let (sender, jobs) = watch::channel(Arc::new(jobs));
    let server = Server {
        documents: world.documents.clone(),
        clock: Arc::new(Simulated(world.clock.0)),
        worker: Arc::new(Processes(Arc::clone(world))),
        id: id.into(),
        at_once,
        jobs,
        tell: Arc::new(|_| {}),
    };
    let stop = CancellationToken::new();
    Running { task: tokio::spawn(server.serve(stop.clone())), stop, _jobs: sender }
}

/// All due times of a job after the start of the world, up to a time.
fn due_times(job: &Job, until: i64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut at = START;
    while let Some(due) = job.timing.next_after(at).filter(|due| *due <= until) {
        found.push(due);
        at = due;
    }
    found
}

/// No two of these at the same time.
fn assert_no_overlap(runs: &[&Ran], at_once: usize, why: &str) {
    for run in runs {
        let beside = runs.iter().filter(|other| other.from <= run.from && run.from < other.to).count();
        assert!(beside <= at_once, "{why}: {beside} runs at once at {}", run.from);
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("INGEST_TEST_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => vec![0, 1],
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_week_with_restarts_each_due_time_is_run_for_once_and_none_overlap() {
    for seed in seeds() {
        let world = World::new(seed, 600, 5);
        let mut servers: Vec<Option<Running>> = vec![None, None];
        let mut generation = 0;
        while world.clock.now_micros() < START + WEEK {
            let (which, minutes, kill) = {
                let mut random = world.random();
                (random.random_range(0..2), random.random_range(1..300), random.random_bool(0.7))
            };
            match servers[which].take() {
                Some(server) if kill => server.task.abort(),
                Some(server) => {
                    server.stop.cancel();
                    server.task.await.expect("no panic");
                }
                None => {
                    generation += 1;
                    servers[which] = Some(serve(&world, &format!("server-{generation}"), week(), 4));
                }
            }
            tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
        }
        for server in servers.into_iter().flatten() {
            server.stop.cancel();
            server.task.await.expect("no panic");
        }
        // Somebody catches up.
        let last = serve(&world, "last", week(), 4);
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        last.stop.cancel();
        last.task.await.expect("no panic");
        check(&world, seed).await;
    }
}

async fn check(world: &World, seed: u64) {
    let ran = world.ran();
    let counted = |code: u8| ran.iter().filter(|run| run.code == code).count();
    assert!(counted(130) > 0 && counted(1) > 0, "seed {seed}: nothing was interrupted or failed");
    assert_no_overlap(&ran.iter().filter(|run| run.source == "shop").collect::<Vec<_>>(), 4, "one source");
    for job in week() {
        let why = format!("seed {seed}, {}", job.id);
        let runs: Vec<&Ran> = ran.iter().filter(|run| run.job == job.id).collect();
        assert_no_overlap(&runs, 1, &why);
        let mut done: BTreeMap<i64, usize> = BTreeMap::new();
        for run in runs.iter().filter(|run| run.code == 0) {
            *done.entry(run.due).or_default() += 1;
        }
        assert!(done.values().all(|times| *times == 1), "{why}: a due time was run for twice: {done:?}");
        let document = ScheduleDocument::latest(&world.documents, &job.folder()).await.expect("read").expect("one");
        let first = runs.iter().map(|run| run.due).min().expect("it ran");
        let failed = |due: i64| runs.iter().filter(|run| run.due == due && run.code == 1).count() >= 3;
        for due in due_times(&job, START + WEEK).into_iter().filter(|due| *due >= first) {
            assert!(due <= document.settled || document.taken.is_some(), "{why}: {due} is forgotten");
            let kept = done.contains_key(&due) || failed(due);
            // What was missed is in the run after it, or was meant to be left out.
            let covered = job.timing.missed() != Missed::Each && document.settled >= due;
            assert!(kept || covered, "{why}: nothing ran for {due}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_run_for_once_or_for_each_or_not() {
    for (missed, wanted) in
        [(Missed::Once, vec![5 * 60]), (Missed::Each, vec![60, 120, 180, 240, 300]), (Missed::Skip, vec![])]
    {
        let world = World::new(1, 5, 0);
        let jobs = || vec![job("shop", "hourly", missed, 0)];
        let server = serve(&world, "before", jobs(), 4);
        tokio::time::sleep(Duration::from_secs(30 * 60)).await;
        server.task.abort();
        // From 00:30 to 05:30 nobody serves.
        tokio::time::sleep(Duration::from_secs(5 * 3_600)).await;
        let server = serve(&world, "after", jobs(), 4);
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
        let due: Vec<i64> = world.ran().iter().map(|run| (run.due - START) / MINUTE).collect();
        assert_eq!(due, wanted, "{missed:?}");
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(world.ran().len(), wanted.len() + 1, "{missed:?}: the next due time is as ever");
        server.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn the_more_urgent_runs_first_and_a_source_has_so_many_runs_at_once() {
    let world = World::new(7, 60, 0);
    let options = ScheduleOptions { at: Some("hourly".into()), ..ScheduleOptions::default() };
    let punctual = Timing::new(&options).expect("a schedule");
    let of = |source: &str, i: i32, concurrency| Job {
        concurrency,
        timing: punctual.clone(),
        ..job(&format!("{source}/s{i}"), "hourly", Missed::Once, i)
    };
    let jobs = (0..6).map(|i| of("shop", i, 1)).chain((0..6).map(|i| of("crm", i, 2))).collect();
    let server = serve(&world, "one", jobs, 2);
    tokio::time::sleep(Duration::from_secs(5_400)).await;
    server.task.abort();
    let mut ran = world.ran();
    ran.sort_by_key(|run| run.from);
    let of_source = |source: &str| ran.iter().filter(|run| run.source == source).collect::<Vec<_>>();
    assert_eq!(
        of_source("shop").iter().map(|run| run.job.as_str()).collect::<Vec<_>>(),
        ["shop/s5", "shop/s4", "shop/s3", "shop/s2", "shop/s1", "shop/s0"]
    );
    assert_eq!(ran.len(), 12);
    assert_no_overlap(&of_source("shop"), 1, "one of a source");
    assert_no_overlap(&ran.iter().collect::<Vec<_>>(), 2, "two in all");
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_is_read_again_adds_and_removes_jobs() {
    let world = World::new(3, 5, 0);
    let server = serve(&world, "one", vec![job("shop", "hourly", Missed::Once, 0)], 4);
    tokio::time::sleep(Duration::from_secs(3_700)).await;
    server._jobs.send_replace(Arc::new(vec![job("crm", "*/30 * * * *", Missed::Once, 0)]));
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    server.stop.cancel();
    server.task.await.expect("no panic");
    let ids: Vec<String> = world.ran().into_iter().map(|run| run.job).collect();
    assert_eq!(ids, ["shop", "crm", "crm"]);
}
