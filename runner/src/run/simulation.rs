//! One table loaded by up to a thousand workers, simulated: the code that adopts a plan, stages its parts and closes it, over
//! a store that takes its time, with workers that crash and workers that are slow. Only the reading of rows is made up. The
//! clock is tokio's own, paused; a seed says all.
//!
//! `INGEST_TEST_SIMULATION=full cargo test -p ingest-runner --lib simulation -- --nocapture` prints the table of `docs/scaling.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arrow_schema::{DataType, Field, Schema};
use ingest_catalog::{Documents, FORMAT, Parts, PlanDocument, PlannedStream};
use ingest_core::lake::{DataFile, Definition};
use ingest_core::{
    Clock, Error, ErrorKind, Estimate, Json, Mode, Result, Shape, Slice, SliceId, StreamName, WriteMode,
};
use ingest_lake_delta::DeltaFormat;
use ingest_testkit::store::{Fault, FaultStore, Operation};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::part::{Gathered, PartLog};
use super::planning::OpenPlan;
use super::shared::{Stand, adopt, stand};
use super::stream::{Cover, SliceKey, Unit};
use crate::commit::{Author, Change, Committer};

/// A slice takes 20 to 40 s to read.
const READ: std::ops::Range<f64> = 20.0..40.0;
/// A process needs so long until it reads: a container, the configuration, the connection.
const BOOT: f64 = 1.5;
/// Of a hundred attempts so many crash somewhere.
const CRASHES: f64 = 0.02;
/// The orchestrator sees a crash after so long.
const NOTICED: f64 = 10.0;
/// Of a hundred workers so many are slow, by this factor.
const STRAGGLERS: f64 = 0.02;
const SLOWNESS: f64 = 3.0;
/// Slices for each worker, and at most in all: `--slices` takes no more.
const SLICES: (u32, u32) = (32, 10_000);

/// How parts reach the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// They stage, and one commit closes the plan.
    Staged,
    /// Each commits by itself, as a process without a plan would.
    Alone,
}

struct Ticking(Instant);

impl Clock for Ticking {
    fn now_micros(&self) -> i64 {
        1_700_000_000_000_000 + i64::try_from(self.0.elapsed().as_micros()).expect("less than ages")
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<u32>,
    /// Since when, and by how many workers.
    running: BTreeMap<u32, (Option<Instant>, u32)>,
    done: BTreeSet<u32>,
}

/// What it cost.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    /// Seconds of reading that were of use.
    useful: f64,
    /// Seconds of reading that were thrown away.
    wasted: f64,
    crashes: u32,
    /// Attempts that met another one at the same part, or commits that met another one.
    conflicts: u32,
}

struct World {
    author: Author,
    plan: OpenPlan,
    definition: Definition,
    store: FaultStore,
    random: Mutex<StdRng>,
    queue: Mutex<Queue>,
    changed: Notify,
    cost: Mutex<Cost>,
    how: How,
}

fn stream() -> StreamName {
    StreamName::from("events")
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl World {
    fn new(seed: u64, slices: u32, how: How) -> Arc<Self> {
        let store = FaultStore::in_memory();
        for (operation, millis) in
            [(Operation::Put, 40), (Operation::Get, 15), (Operation::List, 60), (Operation::Delete, 20)]
        {
            store.always(operation, "*", Fault::Delay(Duration::from_millis(millis)));
        }
        let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
        let documents = Documents::new(Arc::clone(&shared));
        let url = "memory:///lake".parse().expect("a URL");
        let author = Author {
            documents: documents.clone(),
            format: Arc::new(DeltaFormat::new(shared, url)),
            source: "shop".into(),
            run: "simulated".into(),
            connector: "model".into(),
            clock: Arc::new(Ticking(Instant::now())),
        };
        let planned = PlannedStream {
            mode: Mode::Full,
            write: WriteMode::Append,
            staged: how == How::Staged,
            base: None,
            columns: Vec::new(),
        };
        let slice = |i: u32| Slice {
            id: SliceId::from(format!("s{i}").as_str()),
            streams: vec![stream()],
            shape: Shape::Window,
            work: Json::Null,
            estimate: Estimate::default(),
        };
        let document = PlanDocument {
            format: FORMAT,
            id: "plan".into(),
            source: "shop".into(),
            connector: "model".into(),
            state_version: 1,
            made_at: author.clock.now_micros(),
            streams: BTreeMap::from([(stream(), planned)]),
            slices: (0..slices).map(slice).collect(),
            then: BTreeMap::new(),
            more: false,
            parts: Some(Parts { of: slices, first: 0 }),
        };
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        Arc::new(Self {
            plan: OpenPlan::shared(document, &documents),
            author,
            definition: Definition { schema, partition_by: Vec::new(), description: None },
            store,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            queue: Mutex::new(Queue { waiting: (0..slices).collect(), ..Queue::default() }),
            changed: Notify::new(),
            cost: Mutex::default(),
            how,
        })
    }

    fn random(&self, range: std::ops::Range<f64>) -> f64 {
        self.random.lock().expect("no panic").random_range(range)
    }

    fn cost(&self) -> MutexGuard<'_, Cost> {
        self.cost.lock().expect("no panic")
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic")
    }

    /// What the orchestrator gives a worker that is free: the next part, else a second attempt at one that takes too long.
    /// `Err` = not now; `Ok(None)` = nothing is left.
    fn next(&self) -> std::result::Result<Option<u32>, ()> {
        let mut queue = self.queue();
        if let Some(part) = queue.waiting.pop_front() {
            queue.running.insert(part, (Some(Instant::now()), 1));
            return Ok(Some(part));
        }
        if queue.running.is_empty() {
            return Ok(None);
        }
        // Longer than any that is well.
        let late = seconds(BOOT + READ.end);
        let slow = queue
            .running
            .iter_mut()
            .find(|(_, (since, workers))| *workers == 1 && since.is_some_and(|since| since.elapsed() > late));
        slow.map(|(part, (_, workers))| {
            *workers += 1;
            Some(*part)
        })
        .ok_or(())
    }

    fn finished(&self, part: u32, done: bool) {
        let mut queue = self.queue();
        if done {
            queue.done.insert(part);
            queue.running.remove(&part);
        } else if !queue.done.contains(&part)
            && let Some((_, workers)) = queue.running.get_mut(&part)
        {
            *workers -= 1;
            if *workers == 0 {
                queue.running.remove(&part);
                queue.waiting.push_back(part);
            }
        }
        drop(queue);
        self.changed.notify_waiters();
    }

    /// A machine that takes parts until there are none.
    async fn worker(self: Arc<Self>, id: u32) {
        let slowness = if self.random(0.0..1.0) < STRAGGLERS { SLOWNESS } else { 1.0 };
        let mut attempt = 0;
        loop {
            let changed = self.changed.notified();
            let part = match self.next() {
                Ok(Some(part)) => part,
                Ok(None) => return,
                Err(()) => {
                    // Somebody may become late without anything happening.
                    let _ = tokio::time::timeout(Duration::from_secs(5), changed).await;
                    continue;
                }
            };
            attempt += 1;
            let crash = (self.random(0.0..1.0) < CRASHES).then(|| self.random(0.0..READ.end * slowness));
            let begun = Instant::now();
            let name = format!("{id}-{attempt}");
            let work = self.attempt(part, slowness, &name);
            let ended = match crash {
                None => Some(work.await),
                Some(after) => tokio::time::timeout(seconds(after), work).await.ok(),
            };
            match ended {
                Some(Ok(useful)) => {
                    self.cost().useful += useful;
                    self.finished(part, true);
                }
                Some(Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::CheckpointConflict, "{error:?}");
                    self.cost().conflicts += 1;
                    self.cost().wasted += begun.elapsed().as_secs_f64();
                    self.finished(part, false);
                }
                None => {
                    self.cost().crashes += 1;
                    self.cost().wasted += begun.elapsed().as_secs_f64();
                    tokio::time::sleep(seconds(NOTICED)).await;
                    self.finished(part, false);
                }
            }
        }
    }

    /// `ingest run --plan --slice`: answers the seconds of reading.
    async fn attempt(&self, part: u32, slowness: f64, name: &str) -> Result<f64> {
        tokio::time::sleep(seconds(BOOT)).await;
        let mut committer = Committer::open(self.author.clone(), stream()).await?;
        if self.how == How::Staged {
            adopt(&mut committer, &self.author, &self.plan, &self.definition).await?;
        } else {
            while let Err(error) = committer.ensure(&self.definition).await {
                self.lost(&error);
                committer = Committer::open(self.author.clone(), stream()).await?;
            }
        }
        let documents = &self.author.documents;
        let table = stream().table();
        let mut log = PartLog::open(documents, self.plan.id(), part, &table, name).await?;
        if log.done().contains(part) {
            return Ok(0.0);
        }
        let reading = self.random(READ) * slowness;
        tokio::time::sleep(seconds(reading)).await;
        let file = DataFile {
            path: format!("{part:05}-{name}.parquet"),
            bytes: 1 << 20,
            rows: 1,
            partition: Vec::new(),
            stats: None,
            modified: 0,
        };
        let path = Path::from(format!("bronze/shop/{table}/{}", file.path));
        let put = self.store.put(&path, PutPayload::from_static(b"PAR1")).await;
        put.map_err(|error| Error::unexpected("the simulated store fails").caused_by(error))?;
        match self.how {
            How::Staged => {
                let covers = vec![(SliceKey::Bounded(part), Cover::Done)];
                log.stage(Unit { files: vec![file], covers, ..Unit::default() }).await?;
            }
            How::Alone => loop {
                let change = Change { add: vec![file.clone()], ..Change::default() };
                match committer.commit(change, |_| {}).await {
                    Ok(_) => break,
                    Err(error) => self.lost(&error),
                }
                committer = Committer::open(self.author.clone(), stream()).await?;
            },
        }
        Ok(reading)
    }

    /// A commit that met another one is made again.
    fn lost(&self, error: &Error) {
        assert_eq!(error.kind(), ErrorKind::CheckpointConflict, "{error:?}");
        self.cost().conflicts += 1;
    }

    /// `ingest run --plan --finish`.
    async fn finish(&self) -> Result<()> {
        tokio::time::sleep(seconds(BOOT)).await;
        let mut committer = Committer::open(self.author.clone(), stream()).await?;
        assert!(matches!(stand(&committer, self.plan.document())?, Stand::Adopted));
        let parts = self.plan.document().parts.expect("it is shared");
        let bounded = self.plan.bounded(&stream());
        let gathered =
            Gathered::read(&self.author.documents, self.plan.id(), &stream().table(), parts, bounded).await?;
        assert!(bounded.iter().all(|slice| gathered.done.contains(*slice)), "slices are missing");
        let change = Change { add: gathered.files, ..Change::default() };
        committer
            .commit(change, |edit| {
                edit.close(&BTreeMap::new());
                edit.closed(self.plan.id());
            })
            .await?;
        Ok(())
    }
}

/// What a simulation showed.
#[derive(Debug)]
struct Shown {
    took: f64,
    finish: f64,
    cost: Cost,
    /// Useful work for each second of each worker.
    efficiency: f64,
    requests: usize,
}

async fn simulate(seed: u64, workers: u32, how: How) -> Shown {
    let slices = slices(workers);
    let world = World::new(seed, slices, how);
    let begun = Instant::now();
    let mut machines = JoinSet::new();
    for id in 0..workers {
        machines.spawn(Arc::clone(&world).worker(id));
    }
    while let Some(ended) = machines.join_next().await {
        ended.expect("no panic");
    }
    let read = Instant::now();
    if how == How::Staged {
        world.finish().await.expect("it closes");
    }
    let took = begun.elapsed().as_secs_f64();
    world.store.heal();
    let committer = Committer::open(world.author.clone(), stream()).await.expect("opens");
    let files = committer.table().expect("a table").files().await.expect("files");
    let mut seen: Vec<&str> = files.iter().map(|file| &file.path[..5]).collect();
    seen.sort_unstable();
    let wanted: Vec<String> = (0..slices).map(|slice| format!("{slice:05}")).collect();
    match how {
        How::Staged => assert_eq!(seen, wanted, "seed {seed}: each slice is there once"),
        // Without a plan nothing says that a slice is in the table already: a crash after the commit doubles it.
        How::Alone => assert!(seen.len() >= wanted.len()),
    }
    let cost = *world.cost();
    Shown {
        took,
        finish: read.elapsed().as_secs_f64(),
        efficiency: cost.useful / (f64::from(workers) * took),
        requests: world.store.log().len(),
        cost,
    }
}

fn slices(workers: u32) -> u32 {
    (workers * SLICES.0).min(SLICES.1)
}

fn row(workers: u32, shown: &Shown, one: f64) -> String {
    format!(
        "| {workers} | {:.0} | {:.2} | {:.1} | {} | {} | {:.1} % | {:.1} |",
        shown.took,
        shown.efficiency / one,
        shown.finish,
        shown.cost.crashes,
        shown.cost.conflicts,
        100.0 * shown.cost.wasted / (shown.cost.useful + shown.cost.wasted),
        shown.requests as f64 / f64::from(slices(workers)),
    )
}

const HEAD: &str = "| workers | s | of linear | s to close | crashes | conflicts | work thrown away | requests a slice |\n\
                    | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |";

fn full() -> bool {
    std::env::var("INGEST_TEST_SIMULATION").is_ok_and(|how| how == "full")
}

#[tokio::test(start_paused = true)]
async fn parts_of_one_table_scale_with_their_workers() {
    // Linear is what one worker does in an hour, without crashes of its own to speak of.
    let mut one = 0.0;
    for seed in 0..4 {
        one += simulate(seed, 1, How::Staged).await.efficiency / 4.0;
    }
    let sizes: &[u32] = if full() { &[1, 8, 64, 256, 1_000] } else { &[8, 32] };
    println!("{HEAD}");
    for workers in sizes {
        let shown = simulate(1, *workers, How::Staged).await;
        println!("{}", row(*workers, &shown, one));
        let wanted = if *workers <= 64 { 0.9 } else { 0.7 };
        assert!(shown.efficiency / one >= wanted || *workers == 1, "{workers} workers: {shown:?}, one worker {one}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_seed_says_all_of_a_simulation() {
    let (first, second) = (simulate(5, 16, How::Staged).await, simulate(5, 16, How::Staged).await);
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

#[tokio::test(start_paused = true)]
async fn workers_that_commit_by_themselves_fight_for_the_log() {
    let sizes: &[u32] = if full() { &[8, 32, 64] } else { &[16] };
    println!("{HEAD}");
    for workers in sizes {
        let alone = simulate(1, *workers, How::Alone).await;
        println!("{}", row(*workers, &alone, 1.0));
        let staged = simulate(1, *workers, How::Staged).await;
        assert!(alone.cost.conflicts > staged.cost.conflicts, "{alone:?} {staged:?}");
    }
}
