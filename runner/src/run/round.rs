//! Rounds of a run: open the tables, plan, read, settle, follow the feeds; again while a plan says that there is more.

mod closing;
mod reading;
mod restating;
mod sharing;
mod sweeping;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use futures::StreamExt;
use ingest_catalog::{Feed, Lease, record_stream};
use ingest_core::lake::WriterOptions;
use ingest_core::{Error, ErrorKind, Intent, Region, Result, Shape, Slice, Stored, StreamName, WriteMode};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::budget::Budget;
use super::lag::Trail;
use super::part::PartLog;
use super::planning::{Ask, OpenPlan, Planned, by_group, group_key, make};
use super::quarantine::Quarantine;
use super::shared::adopt;
use super::stream::{Counters, Message, Scope, StreamShared, conform_to};
use super::target::Target;
use super::work::{State, Work, fail};
use super::{RunOptions, millis, retried, vigil};
use crate::commit::{Author, Change, Committer, Floor, effective_positions};
use crate::events::{ErrorReport, Event, Observer, StreamReport};
use crate::failpoint;
use crate::session::Session;

/// A plan that says `more` is followed by another, at most so often in one run.
const MAX_ROUNDS: usize = 100_000;

/// A replacement is resumed when at least so much of it is uploaded.
const RESUMED_BYTES: u64 = 256 << 20;

/// Tables that are opened at once.
const OPEN_AT_ONCE: usize = 8;

/// All rounds of a run.
pub struct Rounds<'a> {
    session: &'a Session,
    options: &'a RunOptions,
    observer: Arc<dyn Observer>,
    author: Author,
    floor: Floor,
    activity: Arc<AtomicU64>,
    leases: Arc<tokio::sync::Mutex<Vec<Lease>>>,
    /// Why the run was ended from inside: a lost lease, a standstill.
    ended: Arc<Mutex<Option<Error>>>,
    shown: Mutex<HashSet<String>>,
    /// Reports of streams whose task panicked.
    lost: Mutex<Vec<StreamReport>>,
}

impl<'a> Rounds<'a> {
    /// The rounds of a run.
    pub fn new(session: &'a Session, options: &'a RunOptions, observer: Arc<dyn Observer>) -> Self {
        let now = session.clock.now_micros().unsigned_abs();
        Self {
            floor: Floor::new(session.lake.documents.clone(), &session.config.name),
            session,
            options,
            observer,
            author: session.author(),
            activity: Arc::new(AtomicU64::new(now)),
            leases: Arc::default(),
            ended: Arc::default(),
            shown: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Runs all targets; answers a report per stream.
    pub async fn run(&self, targets: Vec<(StreamName, Result<Target>)>) -> Result<Vec<StreamReport>> {
        let mut reports = Vec::new();
        let mut work = self.open(targets, &mut reports).await;
        let renewal = AbortOnDropHandle::new(tokio::spawn(vigil::renew_leases(
            Arc::clone(&self.leases),
            self.session.lake.documents.clone(),
            Arc::clone(&self.session.clock),
            self.session.cancel.clone(),
            Arc::clone(&self.ended),
        )));
        work = self.rounds(work).await;
        work = self.restate(work).await;
        work = self.sweep_all(work).await;
        renewal.abort();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        for mut w in work {
            if w.state == State::Due {
                let error = ended.as_ref().map_or_else(Error::cancelled, |e| {
                    Error::new(e.kind(), e.message()).hint(e.hint_text().unwrap_or("run again"))
                });
                w.report.error.get_or_insert_with(|| ErrorReport::from(&error));
            }
            if let Err(error) = w.committer().sweep().await {
                tracing::warn!(%error, "old checkpoints stay");
            }
            w.report.duration_ms = millis(w.started.elapsed());
            if let Some(error) = &mut w.report.error {
                error.name(&self.session.config.name, &w.report.stream);
            }
            self.observer.event(&Event::StreamFinished(w.report.clone()));
            reports.push(w.report);
        }
        reports.append(&mut self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for lease in std::mem::take(&mut *self.leases.lock().await) {
            if let Err(error) = lease.release(&self.session.lake.documents).await {
                tracing::warn!(%error, "a lease could not be released; it expires by itself");
            }
        }
        Ok(reports)
    }

    /// Rounds until nothing is due any more.
    async fn rounds(&self, mut work: Vec<Work>) -> Vec<Work> {
        for _ in 0..MAX_ROUNDS {
            if self.session.cancel.is_cancelled() || work.iter().all(|w| w.state != State::Due) {
                break;
            }
            work = self.round(work).await;
        }
        work
    }

    /// Takes the lease of each stream and opens its table.
    async fn open(&self, targets: Vec<(StreamName, Result<Target>)>, reports: &mut Vec<StreamReport>) -> Vec<Work> {
        let opened: Vec<_> = futures::stream::iter(targets.into_iter().map(|(name, target)| async move {
            let result = match target {
                Ok(target) => self.open_one(target).await,
                Err(error) => Err(error),
            };
            (name, result)
        }))
        .buffered(OPEN_AT_ONCE)
        .collect()
        .await;
        let mut work = Vec::new();
        for (name, result) in opened {
            match result {
                Ok(one) => work.push(one),
                Err(error) => {
                    let mut report = self.blank_report(&name);
                    report.error = Some(ErrorReport::from(&error.with("stream", &name)));
                    self.observer.event(&Event::StreamFinished(report.clone()));
                    reports.push(report);
                }
            }
        }
        work
    }

    fn blank_report(&self, name: &StreamName) -> StreamReport {
        StreamReport {
            stream: name.to_string(),
            table: format!("{}.{}", self.session.config.name, name.table()),
            ..StreamReport::default()
        }
    }

    async fn open_one(&self, target: Target) -> Result<Work> {
        let name = target.stream.name.clone();
        let documents = &self.session.lake.documents;
        let source = &self.session.config.name;
        // Parts of a plan do not touch the table, and run beside each other.
        if self.part().is_none() {
            let clock = self.session.clock.as_ref();
            let lease = Lease::take(documents, source, &name.table(), &self.session.run_id, clock).await?;
            self.leases.lock().await.push(lease);
            failpoint::reach("lease_taken");
        }
        let mut committer = Committer::open(self.author.clone(), name.clone()).await?;
        let checkpoint = committer.checkpoint();
        // An earlier run may have died between its commit and that of the quarantine.
        Quarantine::new(Arc::clone(&self.author.format), source, &name).commit(checkpoint).await?;
        let fresh = checkpoint.positions.is_empty() && checkpoint.plan.is_none();
        if self.options.limit.is_some() && committer.number().is_some() && !(checkpoint.limited && fresh) {
            return Err(Error::config("--limit works on a stream without a checkpoint")
                .hint("`ingest preview` shows rows without writing; or load into another lake"));
        }
        if self.options.interval.is_some() && checkpoint.plan.is_some() {
            return Err(Error::config("an interval cannot be read while a plan of the stream is open")
                .hint("finish it by a run without --interval-start and --interval-end"));
        }
        let loose = (checkpoint.limited || checkpoint.intervals) && checkpoint.plan.is_none();
        let by_hand = self.options.interval.is_some() || self.options.shared.is_some();
        let reloads = self.options.reloads(&name);
        let refresh = reloads || (loose && !by_hand);
        let first = refresh || fresh;
        if reloads && checkpoint.plan.is_some() {
            committer.commit(Change::default(), |edit| edit.abandon()).await?;
        }
        Ok(Work {
            report: self.blank_report(&name),
            target,
            committer: Some(committer),
            started: Instant::now(),
            refresh,
            plan: None,
            gathered: None,
            resumed: false,
            expiries: 0,
            interval: self.options.interval,
            first,
            sweeping: false,
            state: State::Due,
        })
    }

    /// One round: every due stream is planned and read once.
    async fn round(&self, mut work: Vec<Work>) -> Vec<Work> {
        let feeds = match self.floor.feeds().await {
            Ok(feeds) => feeds,
            Err(error) => {
                work.iter_mut().filter(|w| w.state == State::Due).for_each(|w| fail(w, &error));
                return work;
            }
        };
        self.plan_all(&mut work, &feeds).await;
        let parallel = usize::from(self.session.spec.capabilities.parallel.max(1)).min(MAX_LANES);
        let budget = Budget::new(self.session.memory, parallel);
        let mut rest = Vec::new();
        let mut running = Vec::new();
        for mut w in work {
            if w.state != State::Due || w.plan.is_none() {
                rest.push(w);
                continue;
            }
            let started = match self.gather(&mut w).await {
                Ok(true) => self.start(&mut w, &budget).await,
                Ok(false) => {
                    rest.push(w);
                    continue;
                }
                Err(error) => Err(error),
            };
            match started {
                Ok(started) => running.push(Running { work: w, started }),
                Err(error) => {
                    fail(&mut w, &error);
                    rest.push(w);
                }
            }
        }
        if !running.is_empty() {
            rest.extend(self.read(running, budget, parallel, &feeds).await);
        }
        rest
    }

    /// Finds or makes a plan for every due stream.
    async fn plan_all(&self, work: &mut [Work], feeds: &[Feed]) {
        if let Some(share) = &self.options.shared {
            return self.plan_shared(work, share);
        }
        let mut plans: BTreeMap<String, Arc<OpenPlan>> = BTreeMap::new();
        for w in work.iter_mut().filter(|w| w.state == State::Due) {
            w.plan = None;
            w.resumed = false;
            let Some(id) = w.committer().checkpoint().plan.as_ref().map(|plan| plan.id.clone()) else { continue };
            if w.refresh || w.expiries > 0 {
                continue;
            }
            let known = plans.get(&id).cloned();
            let found = match known {
                Some(plan) => Ok(plan),
                None => {
                    OpenPlan::read(&self.session.lake.documents, &self.session.config.name, &id).await.map(Arc::new)
                }
            };
            let plan = match found {
                Ok(plan) => plan,
                Err(error) => {
                    fail(w, &error);
                    continue;
                }
            };
            match self.is_worth_resuming(w, &plan).await {
                Ok(true) => {
                    plans.insert(id, Arc::clone(&plan));
                    w.plan = Some(plan);
                }
                Ok(false) => {
                    if let Err(error) = self.abandon(w).await {
                        fail(w, &error);
                    }
                }
                Err(error) => fail(w, &error),
            }
        }
        // A plan that only some of its streams have adopted is adopted by each other stream that still stands at its base
        // (invariant `adoption_is_per_table`); not one that can die, of which nobody knows what is left.
        for w in work.iter_mut().filter(|w| w.state == State::Due && w.plan.is_none() && !w.refresh && w.expiries == 0)
        {
            let name = &w.target.stream.name;
            w.plan = plans
                .values()
                .find(|plan| {
                    !plan.can_die() && plan.stream(name).is_some_and(|planned| planned.base == w.committer().number())
                })
                .cloned();
        }
        work.iter_mut().for_each(|w| w.resumed = w.plan.is_some());
        self.plan_new(work, feeds).await;
    }

    /// A replacement that is found open, or a complete read that sweeps, shows the source as it was when it was planned. It is
    /// finished where much of it is uploaded already; where little is lost it is made again, and shows the source as it is.
    async fn is_worth_resuming(&self, w: &Work, plan: &OpenPlan) -> Result<bool> {
        let sweeps = w.target.keyed.as_ref().is_some_and(|keyed| keyed.sweeps);
        let replaces = plan.write_mode(&w.target.stream.name) == WriteMode::Replace;
        if !(replaces || sweeps) || plan.document().parts.is_some() {
            return Ok(true);
        }
        let staged: u64 = w.committer().staged().await?.iter().map(|file| file.bytes).sum();
        Ok(staged >= RESUMED_BYTES)
    }

    /// Makes plans for the streams that have none, group by group.
    async fn plan_new(&self, work: &mut [Work], feeds: &[Feed]) {
        let due = (0..work.len()).filter(|i| work[*i].state == State::Due && work[*i].plan.is_none());
        let groups = by_group(due, |i| format!("{} {:?}", group_key(&work[*i].target.stream), work[*i].interval));
        let single = groups.iter().map(Vec::len).sum::<usize>() <= 1;
        for members in groups {
            if let Err(error) = self.plan_group(work, &members, feeds, single).await {
                let alone = members.len() == 1 || error.is_exhausted() || error.kind() == ErrorKind::Cancelled;
                for i in members {
                    // A group fails together only where the source itself is at fault.
                    let result =
                        if alone { Err(error.replicate()) } else { self.plan_group(work, &[i], feeds, single).await };
                    if let Err(error) = result {
                        fail(&mut work[i], &error);
                    }
                }
            }
        }
    }

    async fn plan_group(&self, work: &mut [Work], members: &[usize], feeds: &[Feed], single: bool) -> Result<()> {
        if let Some(group) = &work[members[0]].target.stream.group {
            let joining: Vec<_> = members
                .iter()
                .filter(|i| work[**i].refresh || work[**i].committer().checkpoint().positions.is_empty())
                .map(|i| (work[*i].target.stream.name.clone(), work[*i].committer().number()))
                .collect();
            if !joining.is_empty() {
                self.floor.join(group, &joining).await?;
            }
        }
        let streams: Vec<Planned<'_>> = members
            .iter()
            .map(|i| {
                let w = &work[*i];
                let positions =
                    if w.refresh { BTreeMap::new() } else { effective_positions(w.committer().checkpoint(), feeds) };
                Planned { target: &w.target, positions, base: w.committer().number(), replace: w.refresh }
            })
            .collect();
        // One stream alone is cut for all lanes; many streams fill them by themselves.
        let min_slices = if single { u32::from(self.session.spec.capabilities.parallel.clamp(1, 64)) } else { 1 };
        let question = Ask { intent: Intent::Here, min_slices, interval: work[members[0]].interval };
        let plan = retried(self.session, || make(self.session, question, &streams)).await;
        drop(streams);
        if let Some(group) = &work[members[0]].target.stream.group {
            let takes_part = |name: &StreamName| {
                plan.as_ref().is_ok_and(|plan| plan.feeds().any(|feed| plan.then(name).contains_key(&feed.id)))
            };
            let names = members.iter().map(|i| work[*i].target.stream.name.clone());
            let out: Vec<StreamName> = names.filter(|name| !takes_part(name)).collect();
            self.floor.stay_out(group, &out).await?;
        }
        let plan = plan?;
        let plan = Arc::new(plan);
        for i in members {
            work[*i].plan = Some(Arc::clone(&plan));
        }
        Ok(())
    }

    /// What the commits of a stream leave behind, and the bounded slices that are left of its plan.
    async fn left(&self, w: &mut Work, plan: &OpenPlan, interval: Option<Region>) -> Result<Left> {
        let name = w.target.stream.name.clone();
        let bounded = plan.bounded(&name).iter().copied();
        if let Some(gathered) = w.gathered.take() {
            return Ok(Left { scope: Scope::Close(Box::new(gathered)), slices: Vec::new(), open: BTreeMap::new() });
        }
        if let (Some(part), Some(parts)) = (self.part_of(w), plan.document().parts) {
            let documents = &self.session.lake.documents;
            let log = PartLog::open(documents, plan.id(), part, &name.table(), &self.session.run_id).await?;
            let slices = bounded.filter(|slice| parts.part(*slice) == part && !log.done().contains(*slice)).collect();
            let open = log.open_slices().clone();
            let log = Box::new(log);
            let scope = if w.sweeping { Scope::Sweep(log) } else { Scope::Part(log) };
            return Ok(Left { scope, slices, open });
        }
        let progress = w.committer().checkpoint().plan.as_ref().filter(|progress| progress.id == plan.id());
        let done = |slice: u32| progress.is_some_and(|progress| progress.done.contains(slice));
        Ok(Left {
            slices: bounded.filter(|slice| !done(*slice)).collect(),
            open: progress.map(|progress| progress.open.clone()).unwrap_or_default(),
            scope: match (self.options.limit, interval) {
                (Some(_), _) => Scope::Limit,
                (None, Some(region)) => Scope::Interval(region),
                (None, None) => Scope::Plan,
            },
        })
    }

    /// Opens the way for a stream: its table, its shared part, its task.
    async fn start(&self, w: &mut Work, budget: &Budget) -> Result<Started> {
        let plan = w.plan.clone().ok_or_else(|| Error::unexpected("a stream without a plan cannot start"))?;
        let name = w.target.stream.name.clone();
        let table = w.committer().table().map(|table| table.schema());
        // Rows carry their order where a slice serves several streams or a feed follows, and wherever the table has it.
        let ordered =
            |slice: &Slice<_>| slice.streams.contains(&name) && (slice.shape == Shape::Feed || slice.streams.len() > 1);
        let seq = plan.slices().iter().any(ordered)
            || table.as_ref().is_some_and(|table| table.column_with_name(ingest_core::columns::SEQ).is_some());
        let replaces = plan.write_mode(&name) == WriteMode::Replace;
        let values = Arc::clone(&w.target.values);
        values.guard(&self.session.lake.documents, &self.session.config, replaces && !w.resumed).await?;
        let conform = conform_to(&self.author.format, &w.target, &w.target.stream.schema, table.as_ref(), seq)?;
        let definition = w.target.definition(&conform);
        if self.part().is_some() {
            adopt(w.committer_mut(), &self.author, &plan, &definition).await?;
        }
        w.committer_mut().ensure(&definition).await?;
        let writers = w.committer().table().ok_or_else(|| Error::unexpected("the table was just ensured"))?.writers();
        if !w.sweeping {
            self.record_schema(w).await?;
        }
        let held = w.committer().table().filter(|_| {
            plan.write_mode(&name) == WriteMode::Append && w.interval.is_none() && self.options.limit.is_none()
        });
        let (documents, format) = (&self.session.lake.documents, self.author.format.as_ref());
        let quality = values.quality(documents, format, &self.session.config.name, held, self.session.memory).await?;
        let interval = w.interval.map(|interval| w.target.region(&conform, interval)).transpose()?;
        let left = self.left(w, &plan, interval).await?;
        let sweep = w.committer().checkpoint().sweep.as_ref().filter(|sweep| sweep.plan.is_some());
        let not_before = sweep.map_or(i64::MIN, |sweep| sweep.since);
        let (units, messages) = mpsc::channel(16);
        let config = &self.session.lake.config;
        let shared = Arc::new(StreamShared {
            name: name.clone(),
            target: w.target.clone(),
            counters: Counters::default(),
            quality,
            writers,
            options: WriterOptions {
                target_file_bytes: config.file_size.0,
                memory_bytes: budget.writer_bytes(),
                compression: config.compression,
                runtime: tokio::runtime::Handle::current(),
            },
            quarantine: Arc::new(Quarantine::new(Arc::clone(&self.author.format), &self.session.config.name, &name)),
            conform: RwLock::new(Arc::new(conform)),
            seq,
            clock: Arc::clone(&self.session.clock),
            not_before,
            merges: budget.merges(),
            merge_bytes: budget.merge_bytes(),
            commit_interval: config.commit_interval.0,
            follows: self.options.follow,
            followed: Mutex::default(),
            trail: Trail::default(),
            format: Arc::clone(&self.author.format),
            units,
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        });
        if !w.sweeping {
            self.tell_start(w, &plan, &shared);
        }
        Ok(Started { shared, plan, messages, left })
    }

    async fn record_schema(&self, w: &Work) -> Result<()> {
        let stream = &w.target.stream;
        let (documents, source) = (&self.session.lake.documents, &self.session.config.name);
        let now = self.session.clock.now_micros();
        let recorded =
            record_stream(documents, source, &stream.name, &stream.schema, &stream.key, &self.session.run_id, now)
                .await;
        match recorded {
            Ok(changes) => {
                for change in changes {
                    self.observer.event(&Event::Warning { stream: Some(stream.name.to_string()), message: change });
                }
            }
            // The next run must know which key the rows were masked with.
            Err(error) if w.target.values.is_keyed() => return Err(error),
            // The history of schemas is for people; rows are worth more.
            Err(error) => tracing::warn!(%error, stream = %stream.name, "the schema history could not be written"),
        }
        Ok(())
    }

    fn tell_start(&self, w: &Work, plan: &OpenPlan, shared: &StreamShared) {
        let name = &w.target.stream.name;
        let progress = w.committer().checkpoint().plan.as_ref().filter(|progress| progress.id == plan.id());
        let slices_done = progress.map_or(0, |progress| progress.done.len());
        shared.counters.slices_done.store(slices_done as u64, Ordering::Relaxed);
        let bounded = plan.bounded(name);
        let snapshot = bounded.iter().any(|i| plan.slices()[*i as usize].shape == Shape::Snapshot);
        let note = match bounded.len() {
            0 => None,
            1 => None,
            n if snapshot => Some(format!("{n} slices of one snapshot")),
            n => Some(format!("{n} slices")),
        };
        self.observer.event(&Event::StreamStarted {
            stream: name.to_string(),
            mode: w.target.mode.to_string(),
            write: plan.write_mode(name).to_string(),
            slices: bounded.len(),
            slices_done,
            rows: w.target.stream.estimate.rows,
            bytes: w.target.stream.estimate.bytes,
            note,
        });
    }
}

/// At most so many slices are read at once, whatever a connector claims.
const MAX_LANES: usize = 64;

/// What is left to do of a plan for one stream, and what its commits leave behind.
struct Left {
    scope: Scope,
    /// Bounded slices, by index.
    slices: Vec<u32>,
    /// Where those that were begun stand.
    open: BTreeMap<u32, Stored>,
}

struct Started {
    shared: Arc<StreamShared>,
    plan: Arc<OpenPlan>,
    messages: mpsc::Receiver<Message>,
    left: Left,
}

struct Running {
    work: Work,
    started: Started,
}
