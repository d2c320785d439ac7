//! A lane: takes slices one after another, extracts them, and feeds its writer thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::{RecordBatch, Scalar, StringArray};
use async_trait::async_trait;
use ingest_core::{
    CancellationToken, Clock, Done, Error, ErrorKind, Event, Lag, RawOut, Result, Seq, Source, Stored, StreamName,
    columns, memory_of,
};
use tokio::sync::{mpsc, oneshot};

use super::budget::Budget;
use super::planning::OpenPlan;
use super::stream::{Message, Settled, SliceKey};
use super::writer::{Fault, LaneWriter, Order, SliceBegin, SliceEnd, SliceStream, WriterSettings};
use crate::events::{Event as RunEvent, Observer};
use crate::failpoint;

/// How often a slice is tried without getting further.
const ATTEMPTS: u32 = 3;

/// How long a job of the source may stay unready.
const MAX_PENDING: Duration = Duration::from_secs(24 * 3600);

/// A slice to be read.
pub struct SliceJob {
    /// Its plan.
    pub plan: Arc<OpenPlan>,
    /// Its index in the plan.
    pub index: usize,
    /// How streams name it.
    pub key: SliceKey,
    /// The streams of this run that it serves.
    pub streams: Vec<SliceStream>,
    /// For each of them, what is left of it in this phase; none for feeds.
    pub remaining: Vec<Arc<Remaining>>,
}

/// How many slices of a stream are left in this phase. The lane that finishes the last one has the stream settle.
pub struct Remaining {
    /// Slices that are not finished, flushed and handed over.
    pub count: AtomicUsize,
    /// The answer of the stream, for the run to wait for.
    pub settled: Mutex<Option<oneshot::Receiver<Result<Settled>>>>,
}

impl Remaining {
    /// So many slices.
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(count), settled: Mutex::new(None) })
    }
}

/// What all lanes of a run share.
pub struct Lanes {
    /// The source.
    pub source: Arc<dyn Source>,
    /// The memory.
    pub budget: Budget,
    /// Fires when the run ends.
    pub cancel: CancellationToken,
    /// Takes warnings.
    pub observer: Arc<dyn Observer>,
    /// The last time that something moved: microseconds of `clock`.
    pub activity: Arc<AtomicU64>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// At most so many rows per stream.
    pub limit: Option<u64>,
    /// After so many rows of a stream no slice is begun, and one that was begun ends at its next mark.
    pub budgeted: Option<u64>,
    /// Feeds go on until somebody stops the run.
    pub follow: bool,
    /// How writer threads work.
    pub settings: WriterSettings,
    /// Plans that can no longer be read.
    pub expired: Mutex<Vec<String>>,
    /// Warnings that were shown already.
    pub shown: Mutex<std::collections::HashSet<String>>,
}

impl Lanes {
    /// Notes that something moved.
    pub fn stir(&self) {
        self.activity.store(self.clock.now_micros().unsigned_abs(), Ordering::Relaxed);
    }

    /// Reads all slices, so many at once. Errors are noted in the streams.
    pub async fn read(self: &Arc<Self>, jobs: Vec<SliceJob>, parallel: usize) {
        let parallel = parallel.clamp(1, jobs.len().max(1));
        let queue = Arc::new(Mutex::new(VecDeque::from(jobs)));
        let mut lanes = tokio::task::JoinSet::new();
        for _ in 0..parallel {
            let lane = Lane::start(Arc::clone(self));
            lanes.spawn(lane.work(Arc::clone(&queue)));
        }
        while let Some(ended) = lanes.join_next().await {
            if let Err(panic) = ended {
                // A panic of a connector: the streams' remaining slices stay open, which fails them at the end.
                tracing::error!(%panic, "a lane ended unexpectedly");
            }
        }
    }

    /// Whether what this run may read of a stream is read.
    fn is_spent(&self, job: &SliceJob) -> bool {
        let read = |stream: &SliceStream| stream.shared.counters.rows_read.load(Ordering::Relaxed);
        self.budgeted.is_some_and(|most| job.streams.iter().all(|stream| read(stream) >= most))
    }

    fn warn(&self, stream: Option<&StreamName>, text: String) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded: after so many different warnings a person has enough to read.
        if shown.len() < 1_000 && shown.insert(text.clone()) {
            self.observer.event(&RunEvent::Warning { stream: stream.map(ToString::to_string), message: text });
        }
    }
}

struct Lane {
    shared: Arc<Lanes>,
    orders: mpsc::Sender<Order>,
    fault: Fault,
    /// Slices that are read and not handed over yet.
    unflushed: Vec<SliceJob>,
}

impl Lane {
    fn start(shared: Arc<Lanes>) -> Self {
        let (orders, receiver) = mpsc::channel(32);
        let fault: Fault = Arc::default();
        let settings = shared.settings.clone();
        let thread_fault = Arc::clone(&fault);
        let spawned = std::thread::Builder::new()
            .name("ingest-writer".into())
            .spawn(move || LaneWriter::run(settings, receiver, &thread_fault));
        if let Err(e) = spawned {
            let error = Error::new(ErrorKind::LimitExceeded, "cannot start a writer thread").caused_by(e);
            *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        Self { shared, orders, fault, unflushed: Vec::new() }
    }

    async fn work(mut self, queue: Arc<Mutex<VecDeque<SliceJob>>>) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(job) = next else { break };
            let same = self.unflushed.last().is_none_or(|last| same_streams(last, &job));
            if !same {
                self.flush().await;
            }
            let live = job.streams.iter().any(|stream| !stream.shared.failed.load(Ordering::Acquire));
            if live && !self.shared.cancel.is_cancelled() && !self.shared.is_spent(&job) {
                self.read(&job).await;
            }
            self.unflushed.push(job);
        }
        self.flush().await;
    }

    /// Hands everything over; streams whose last slice this was are told to settle.
    async fn flush(&mut self) {
        let (done, flushed) = oneshot::channel();
        let handed_over = self.orders.send(Order::Flush(done)).await.is_ok() && flushed.await.is_ok();
        let jobs = std::mem::take(&mut self.unflushed);
        if !handed_over {
            let error = self.take_fault();
            for stream in jobs.iter().flat_map(|job| &job.streams) {
                stream.shared.fail(error.replicate());
            }
            // The thread is gone; the next slices get a new one.
            let fresh = Self::start(Arc::clone(&self.shared));
            self.orders = fresh.orders;
            self.fault = fresh.fault;
        }
        for job in jobs {
            for (stream, remaining) in job.streams.iter().zip(&job.remaining) {
                if remaining.count.fetch_sub(1, Ordering::AcqRel) == 1 {
                    settle(&stream.shared.units, remaining).await;
                }
            }
        }
    }

    fn take_fault(&self) -> Error {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        fault.unwrap_or_else(|| Error::unexpected("a writer thread ended without saying why"))
    }

    /// Reads one slice, again after retryable errors, and notes in its streams what cannot be helped.
    async fn read(&mut self, job: &SliceJob) {
        let mut from = lowest(&job.streams);
        let (mut attempt, mut pending) = (1, Duration::ZERO);
        loop {
            let begin = SliceBegin {
                key: job.key.clone(),
                id: job.plan.slices()[job.index].id.clone(),
                streams: job.streams.clone(),
                known: job.plan.slices()[job.index].streams.clone(),
            };
            if self.orders.send(Order::Begin(begin)).await.is_err() {
                return;
            }
            let (result, last_mark, stopped) = self.extract(job, from.as_ref()).await;
            // A mark that was there before is no progress: a source that ends after it each time would be read for ever.
            if last_mark.is_some() && last_mark != from {
                from = last_mark;
                attempt = 1;
            }
            let end = match &result {
                Ok(Done::Complete) => SliceEnd::Complete,
                Ok(Done::Left) => SliceEnd::Left,
                Err(_) if stopped == Some(Stop::Limit) => SliceEnd::Accepted,
                _ => SliceEnd::Stopped,
            };
            if self.orders.send(Order::End(end)).await.is_err() {
                return;
            }
            let error = match result {
                Ok(Done::Pending(wait)) => {
                    pending += wait;
                    if pending > MAX_PENDING {
                        Error::new(ErrorKind::Timeout, "a job of the source was not ready after a day").exhausted()
                    } else {
                        self.flush_open().await;
                        if self.pause(wait).await.is_err() {
                            return;
                        }
                        continue;
                    }
                }
                Ok(_) => {
                    for stream in &job.streams {
                        stream.shared.counters.slices_done.fetch_add(1, Ordering::Relaxed);
                    }
                    return;
                }
                Err(_) if stopped.is_some() => return,
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Cancelled && self.shared.cancel.is_cancelled() {
                return;
            }
            if error.is_retryable() && attempt < ATTEMPTS {
                let wait = error.retry_delay().unwrap_or_else(|| backoff(attempt));
                tracing::warn!(error = ?error, attempt, wait_ms = wait.as_millis(), "a slice failed and is tried again");
                attempt += 1;
                if self.pause(wait).await.is_err() {
                    return;
                }
                continue;
            }
            self.give_up(job, error);
            return;
        }
    }

    fn give_up(&self, job: &SliceJob, error: Error) {
        if error.kind() == ErrorKind::SliceExpired {
            let mut expired = self.shared.expired.lock().unwrap_or_else(PoisonError::into_inner);
            expired.push(job.plan.id().to_owned());
        }
        let slice = &job.plan.slices()[job.index].id;
        let error = error.with("slice", slice);
        for stream in &job.streams {
            stream.shared.fail(error.replicate().with("stream", &stream.shared.name));
        }
    }

    async fn extract(&self, job: &SliceJob, from: Option<&Stored>) -> (Result<Done>, Option<Stored>, Option<Stop>) {
        let mut out = LaneOut { lane: self, job, from, last_mark: None, stopped: None };
        let slice = &job.plan.slices()[job.index];
        let result = tokio::select! {
            biased;
            () = self.shared.cancel.cancelled() => Err(Error::cancelled()),
            result = self.shared.source.extract(slice, job.plan.version(), from, &mut out) => result,
        };
        let (last_mark, stopped) = (out.last_mark, out.stopped);
        // When the thread is gone, its error is the cause, not the closed channel that the connector saw.
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        (fault.map_or(result, Err), last_mark, stopped)
    }

    /// Hands over what is open without counting slices as finished: a job of the source takes its time.
    async fn flush_open(&self) {
        let (done, flushed) = oneshot::channel();
        if self.orders.send(Order::Flush(done)).await.is_ok() {
            // A thread that died says so at the next order.
            drop(flushed.await);
        }
    }

    async fn pause(&self, wait: Duration) -> Result<()> {
        self.shared.stir();
        tokio::select! {
            () = self.shared.cancel.cancelled() => Err(Error::cancelled()),
            () = tokio::time::sleep(wait) => {
                self.shared.stir();
                Ok(())
            }
        }
    }
}

/// Tells a stream that its bounded slices have all been tried.
pub async fn settle(units: &mpsc::Sender<Message>, remaining: &Remaining) {
    let (answer, settled) = oneshot::channel();
    if units.send(Message::Settle(answer)).await.is_ok() {
        *remaining.settled.lock().unwrap_or_else(PoisonError::into_inner) = Some(settled);
    }
}

fn same_streams(a: &SliceJob, b: &SliceJob) -> bool {
    a.streams.len() == b.streams.len()
        && a.streams.iter().zip(&b.streams).all(|(a, b)| Arc::ptr_eq(&a.shared, &b.shared))
}

/// Where a slice starts: the lowest position of its tables; from its beginning where one has none.
pub fn lowest(streams: &[SliceStream]) -> Option<Stored> {
    let mut positions = streams.iter().map(|stream| stream.from.as_ref());
    let first = positions.next()??;
    positions
        .try_fold(first, |lowest, next| next.map(|next| if next.seq < lowest.seq { next } else { lowest }))
        .cloned()
}

/// The rows that lie behind where the table stands; `None` when there are none.
pub fn beyond(batch: RecordBatch, from: Option<&Seq>) -> Result<Option<RecordBatch>> {
    let Some(from) = from else { return Ok(Some(batch)) };
    let seq = batch.column_by_name(columns::SEQ).and_then(|column| column.as_any().downcast_ref::<StringArray>());
    let Some(seq) = seq else {
        return Err(Error::unexpected(
            "the connector emitted rows without `_ingest_seq` in a slice of several streams",
        ));
    };
    let keep = arrow::compute::kernels::cmp::gt(seq, &Scalar::new(StringArray::from(vec![from.as_str()])))?;
    let kept = arrow::compute::filter_record_batch(&batch, &keep)?;
    Ok((kept.num_rows() > 0).then_some(kept))
}

fn backoff(attempt: u32) -> Duration {
    let base = 500_u64 << attempt.min(6);
    Duration::from_millis(base / 2 + rand::random_range(0..=base / 2))
}

struct LaneOut<'a> {
    lane: &'a Lane,
    job: &'a SliceJob,
    from: Option<&'a Stored>,
    last_mark: Option<Stored>,
    stopped: Option<Stop>,
}

/// Why a slice was ended from our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// `--limit`: what came counts.
    Limit,
    /// What this run may read is read: what is covered counts.
    Spent,
}

impl LaneOut<'_> {
    async fn rows(&mut self, name: StreamName, mut batch: RecordBatch) -> Result<()> {
        let shared = &self.lane.shared;
        if let Some(stream) = self.job.streams.iter().find(|stream| stream.shared.name == name) {
            if stream.shared.failed.load(Ordering::Acquire) {
                return Err(Error::cancelled());
            }
            let counters = &stream.shared.counters;
            let before = counters.rows_read.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            if let Some(limit) = shared.limit {
                let room = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
                if batch.num_rows() >= room {
                    self.stopped = Some(Stop::Limit);
                    counters.rows_read.fetch_sub((batch.num_rows() - room) as u64, Ordering::Relaxed);
                    batch = batch.slice(0, room);
                }
            }
            counters.bytes_read.fetch_add(memory_of(&batch) as u64, Ordering::Relaxed);
        }
        let permit = shared.budget.acquire(memory_of(&batch)).await?;
        self.send(Event::Rows(name, batch), Some(permit)).await?;
        if self.stopped.is_some() { Err(Error::cancelled()) } else { Ok(()) }
    }

    async fn send(&self, event: Event, permit: Option<tokio::sync::OwnedSemaphorePermit>) -> Result<()> {
        self.lane.orders.send(Order::Event(event, permit)).await.map_err(|_| Error::cancelled())
    }
}

#[async_trait]
impl RawOut for LaneOut<'_> {
    async fn put(&mut self, event: Event) -> Result<()> {
        self.lane.shared.stir();
        failpoint::reach("extract");
        match event {
            Event::Rows(name, batch) => self.rows(name, batch).await,
            Event::Mark(position) => {
                self.send(Event::Mark(position.clone()), None).await?;
                self.last_mark = Some(position);
                if self.lane.shared.is_spent(self.job) {
                    self.stopped = Some(Stop::Spent);
                    return Err(Error::cancelled());
                }
                Ok(())
            }
            Event::Warning { stream, text, partial } => {
                if partial {
                    for each in &self.job.streams {
                        if stream.as_ref().is_none_or(|name| *name == each.shared.name) {
                            each.shared.counters.partial.store(true, Ordering::Relaxed);
                        }
                    }
                }
                self.lane.shared.warn(stream.as_ref(), text);
                Ok(())
            }
            event => self.send(event, None).await,
        }
    }

    fn behind(&mut self, lag: Lag) {
        let seq = self.last_mark.as_ref().or(self.from).and_then(|at| at.seq.as_ref());
        let now = self.lane.shared.clock.now_micros();
        for stream in &self.job.streams {
            let begin = stream.from.as_ref().and_then(|at| at.seq.as_ref());
            stream.shared.trail.tell(begin, seq, lag, now);
        }
    }

    fn batch_bytes(&self) -> usize {
        self.lane.shared.budget.batch_bytes()
    }

    fn follow(&self) -> bool {
        self.lane.shared.follow && matches!(self.job.key, SliceKey::Feed(_))
    }
}
