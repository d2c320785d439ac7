//! What all checks use: calls with a time limit, reads of whole plans, comparisons.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use ingest_core::{
    Context, Done, Error, Event, Intent, Json, Mode, Plan, PlanRequest, Selected, Selection, Shape, Slice, SliceId,
    Source, Spec, Stored, Stream, StreamName,
};
use serde_json::Map;
use tracing::instrument::WithSubscriber;

use super::changing::{Meanwhile, Through};
use super::logs::{Keep, Texts};
use super::specification::masked;
use super::watched::{Sent, Watched};
use super::{CanonicalRows, Count, Fault, Hook, Subject, wrong};
use crate::oracle::{Rows, canonical_rows};
use crate::out::Collected;

/// How often a plan may say that there is more, and a slice that it is not ready.
const ROUNDS: usize = 200;
/// However long a job says that it takes, the suite asks again after this time.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The positions of streams: what their tables would hold.
pub(super) type Positions = BTreeMap<StreamName, BTreeMap<SliceId, Stored>>;

/// A slice that was read from a position to its end.
pub(super) struct Run {
    pub slice: Slice<Json>,
    pub from: Option<Stored>,
    pub events: Vec<Event>,
}

/// What reading gave.
#[derive(Default)]
pub(super) struct Read {
    pub runs: Vec<Run>,
    pub positions: Positions,
    pub plans: Vec<Plan<Json, Stored>>,
}

pub(super) struct Suite {
    pub subject: Subject,
    pub spec: Spec,
    /// Every text that came out of the connector.
    pub texts: Texts,
    /// The last call.
    pub sent: Sent,
    /// A change that is to come in the middle of the next read.
    pub meanwhile: Meanwhile,
}

impl Suite {
    pub fn new(subject: Subject) -> Self {
        let spec = subject.factory.spec();
        Self { subject, spec, texts: Texts::default(), sent: Sent::default(), meanwhile: Meanwhile::default() }
    }

    /// Lets the test do something at the source.
    pub async fn act(&self, what: &str, hook: &Hook) -> Result<(), Fault> {
        self.told(what, hook()).await
    }

    /// Asks the test for a number.
    pub async fn count(&self, what: &str, count: &Count) -> Result<u64, Fault> {
        self.told(what, count()).await
    }

    /// Asks the test what a stream holds.
    pub async fn truth(&self, stream: &StreamName) -> Result<CanonicalRows, Fault> {
        match &self.subject.truth {
            Some(truth) => self.told("say what the source holds", truth(stream)).await,
            None => Err(Fault::Needs("truth(rows of a stream)")),
        }
    }

    async fn told<T>(&self, what: &str, told: super::Done<T>) -> Result<T, Fault> {
        match tokio::time::timeout(self.subject.timeout, told).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(why)) => wrong(format!("the test cannot {what}: {why}")),
            Err(_) => wrong(format!("the test did not {what} within {:?}", self.subject.timeout)),
        }
    }

    /// Makes a call: with a time limit, its logs and its error kept, a panic turned into a fault.
    pub async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = ingest_core::Result<T>>,
    ) -> Result<Result<T, Error>, Fault> {
        let call = AssertUnwindSafe(call).catch_unwind().with_subscriber(Keep(self.texts.clone()));
        match tokio::time::timeout(self.subject.timeout, call).await {
            Err(_) => wrong(format!("{what} did not end within {:?}", self.subject.timeout)),
            Ok(Err(panic)) => {
                let text = panic_text(panic.as_ref());
                self.texts.add(&text);
                wrong(format!("{what} panicked: {text}"))
            }
            Ok(Ok(result)) => {
                if let Err(error) = &result {
                    self.texts.add(&format!("{error:?} {error} {:?} {:?}", error.hint_text(), error.context()));
                }
                Ok(result)
            }
        }
    }

    /// Makes a call that must succeed.
    pub async fn ok<T>(&self, what: &str, call: impl Future<Output = ingest_core::Result<T>>) -> Result<T, Fault> {
        match self.call(what, call).await? {
            Ok(value) => Ok(value),
            Err(error) => wrong(format!("{what} failed: {error:?}")),
        }
    }

    pub async fn open(&self) -> Result<Box<dyn Source>, Fault> {
        match self.open_with(self.subject.config.clone()).await? {
            Ok(source) => Ok(source),
            Err(error) => wrong(format!("open failed: {error:?}")),
        }
    }

    /// Opens a source with another configuration.
    pub async fn open_with(&self, config: Json) -> Result<Result<Box<dyn Source>, Error>, Fault> {
        self.sent.note("open", &masked(self, &config));
        let opened = self.call("open", self.subject.factory.open(config, context())).await?;
        Ok(opened.map(|source| Box::new(Watched { source, sent: self.sent.clone() }) as Box<dyn Source>))
    }

    /// The streams under test.
    pub async fn streams(&self, source: &dyn Source) -> Result<Vec<Stream>, Fault> {
        self.schema(source, &self.subject.selection).await
    }

    pub async fn schema(&self, source: &dyn Source, selection: &Selection) -> Result<Vec<Stream>, Fault> {
        let streams = self.ok("schema", source.schema(selection)).await?;
        self.texts.add(&json(&streams)?);
        Ok(streams)
    }

    /// The modes that streams under test have, the streams of each.
    pub async fn modes(&self, source: &dyn Source) -> Result<Vec<(Mode, Vec<Stream>)>, Fault> {
        let streams = self.streams(source).await?;
        let modes: BTreeSet<Mode> = streams.iter().flat_map(|stream| stream.modes.iter().copied()).collect();
        let of = |mode: Mode| streams.iter().filter(|s| s.modes.contains(&mode)).cloned().collect();
        Ok(modes.into_iter().map(|mode| (mode, of(mode))).collect())
    }

    pub async fn plan(
        &self,
        source: &dyn Source,
        streams: &[&Stream],
        mode: Mode,
        positions: &Positions,
    ) -> Result<Plan<Json, Stored>, Fault> {
        let request = request(streams, mode, positions);
        let plan = self.ok("plan", source.plan(&request)).await?;
        self.texts.add(&json(&plan.slices)?);
        self.texts.add(&json(&plan.then)?);
        Ok(plan)
    }

    /// Reads a slice from a position to its end, waiting where it is not ready, and gives what came.
    pub async fn extract(
        &self,
        source: &dyn Source,
        slice: &Slice<Json>,
        from: Option<&Stored>,
    ) -> Result<(Vec<Event>, Done), Fault> {
        let mut out = Collected::new().at_most(self.subject.most_rows);
        let done = self.extract_to(source, slice, from, &mut out).await?;
        for event in &out.events {
            match event {
                Event::Mark(at) => self.texts.add(&json(at)?),
                Event::Warning { text, .. } => self.texts.add(text),
                Event::Quarantine(_, bad) => self.texts.add(&bad.reason),
                Event::Schema(..) | Event::Rows(..) | Event::Remove(..) => {}
            }
        }
        Ok((out.events, done))
    }

    async fn extract_to(
        &self,
        source: &dyn Source,
        slice: &Slice<Json>,
        from: Option<&Stored>,
        out: &mut Collected,
    ) -> Result<Done, Fault> {
        let what = format!("extract of slice {}", slice.id);
        let mut from = from.cloned();
        for _ in 0..ROUNDS {
            let mut through = Through { out, meanwhile: &self.meanwhile };
            let call = source.extract(slice, self.spec.state_version, from.as_ref(), &mut through);
            let done = match self.call(&what, call).await? {
                _ if out.overflowed() => return wrong(endless(&what, self.subject.most_rows)),
                Ok(done) => done,
                Err(error) => return wrong(format!("{what} failed: {error:?}")),
            };
            if done != Done::Complete
                && out.covered().len() < out.events.len()
                && has_rows(&out.events[out.covered().len()..])
            {
                return wrong(format!(
                    "{what} ended with {done:?} and rows after its last mark: they can never be committed"
                ));
            }
            match done {
                Done::Pending(delay) => tokio::time::sleep(delay.min(LONGEST_WAIT)).await,
                done => return Ok(done),
            }
            from = out.last_mark().cloned().or(from);
        }
        wrong(format!("{what} was not ready {ROUNDS} times"))
    }

    /// Reads streams in a mode from positions until nothing more is planned, as the runner does.
    pub async fn read(
        &self,
        source: &dyn Source,
        streams: &[Stream],
        mode: Mode,
        positions: &Positions,
    ) -> Result<Read, Fault> {
        let mut read = Read { positions: positions.clone(), ..Read::default() };
        for group in groups(streams) {
            let mut rounds = 0;
            loop {
                let plan = self.plan(source, &group, mode, &read.positions).await?;
                let feeds = |wanted: bool| plan.slices.iter().filter(move |s| (s.shape == Shape::Feed) == wanted);
                for slice in feeds(false) {
                    let (events, done) = self.extract(source, slice, None).await?;
                    if done != Done::Complete {
                        return wrong(format!("bounded slice {} ended with {done:?}", slice.id));
                    }
                    read.runs.push(Run { slice: slice.clone(), from: None, events });
                }
                // Once the bounded slices are complete, a feed of the same plan starts from what holds then.
                hold(&mut read.positions, &plan);
                for slice in feeds(true) {
                    let from = position(&read.positions, slice);
                    let (events, _) = self.extract(source, slice, from.as_ref()).await?;
                    advance(&mut read.positions, slice, &events);
                    read.runs.push(Run { slice: slice.clone(), from, events });
                }
                let more = plan.more;
                read.plans.push(plan);
                rounds += 1;
                if !more {
                    break;
                }
                if rounds == ROUNDS {
                    return wrong(format!("plan said `more` {ROUNDS} times"));
                }
            }
        }
        Ok(read)
    }

    /// Calls `check` with everything that can be read in every mode: first a first load, then, where the test can change
    /// the source, what came of a change.
    pub async fn each_read(
        &self,
        check: impl AsyncFn(&dyn Source, Mode, &Read) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let modes = self.modes(self.open().await?.as_ref()).await?;
        for (mode, streams) in modes {
            let source = self.open().await?;
            let first = self.read(source.as_ref(), &streams, mode, &Positions::new()).await?;
            check(source.as_ref(), mode, &first).await?;
            if let Some(change) = self.subject.change.as_ref().filter(|_| mode != Mode::Full) {
                self.act("change the source", change).await?;
                let second = self.read(source.as_ref(), &streams, mode, &first.positions).await?;
                check(source.as_ref(), mode, &second).await?;
            }
        }
        Ok(())
    }
}

impl Read {
    /// The rows of a stream, after removals.
    pub fn rows(&self, stream: &StreamName) -> Result<Vec<Map<String, Json>>, Fault> {
        let mut rows = Vec::new();
        for event in self.runs.iter().flat_map(|run| &run.events) {
            match event {
                Event::Rows(name, batch) if name == stream => rows.extend(canonical(batch)?),
                Event::Remove(name, region, _) if name == stream => rows.retain(|row| !lies_in(row, region)),
                _ => {}
            }
        }
        Ok(rows)
    }

    pub fn slices(&self, shape: Shape) -> usize {
        self.runs.iter().filter(|run| run.slice.shape == shape).count()
    }
}

pub(super) fn endless(what: &str, rows: usize) -> String {
    format!("{what} gave {rows} rows and did not end; if there are so many, say `.most_rows(n)`")
}

pub(super) fn context() -> Context {
    Context::standalone("conformance")
}

pub(super) fn request(streams: &[&Stream], mode: Mode, positions: &Positions) -> PlanRequest<Stored> {
    let selected = |stream: &&Stream| Selected {
        stream: (*stream).clone(),
        mode,
        cursor: stream.cursors.first().filter(|_| mode == Mode::Incremental).map(|cursor| cursor.column.clone()),
        columns: None,
        filter: None,
        positions: positions.get(&stream.name).cloned().unwrap_or_default(),
    };
    PlanRequest {
        streams: streams.iter().map(selected).collect(),
        intent: Intent::Here,
        slice_bytes: 64 << 20,
        min_slices: 1,
        interval: None,
        now: ingest_core::Clock::now_micros(&ingest_core::SystemClock),
    }
}

/// The streams that are planned together.
pub(super) fn groups(streams: &[Stream]) -> Vec<Vec<&Stream>> {
    let mut groups: BTreeMap<String, Vec<&Stream>> = BTreeMap::new();
    for stream in streams {
        // The prefixes keep a group apart from a stream of its name.
        let group = stream.group.as_ref().map_or_else(|| format!("s:{}", stream.name), |group| format!("g:{group}"));
        groups.entry(group).or_default().push(stream);
    }
    groups.into_values().collect()
}

/// Where a feed starts: at the lowest position of its streams.
fn position(positions: &Positions, slice: &Slice<Json>) -> Option<Stored> {
    let held = slice.streams.iter().filter_map(|stream| positions.get(stream)?.get(&slice.id));
    held.min_by(|a, b| a.seq.cmp(&b.seq)).cloned()
}

/// What the streams hold once a plan's bounded slices are complete.
fn hold(positions: &mut Positions, plan: &Plan<Json, Stored>) {
    for (stream, then) in &plan.then {
        let held = positions.entry(stream.clone()).or_default();
        for (id, at) in then {
            match at {
                Some(at) => drop(held.insert(id.clone(), at.clone())),
                None => drop(held.remove(id)),
            }
        }
    }
}

/// What the streams of a feed hold after its events.
fn advance(positions: &mut Positions, slice: &Slice<Json>, events: &[Event]) {
    let last = events.iter().rev().find_map(|event| if let Event::Mark(at) = event { Some(at) } else { None });
    for stream in &slice.streams {
        if let Some(at) = last {
            positions.entry(stream.clone()).or_default().insert(slice.id.clone(), at.clone());
        }
    }
}

pub(super) fn has_rows(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Rows(..) | Event::Remove(..)))
}

pub(super) fn canonical(batch: &arrow_array::RecordBatch) -> Result<Vec<Map<String, Json>>, Fault> {
    canonical_rows(batch).map_err(|error| Fault::Wrong(error.to_string()))
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Wrong(format!("cannot be written as JSON: {error}")))
}

/// Whether a row lies in a region that is removed.
fn lies_in(row: &Map<String, Json>, region: &ingest_core::Region) -> bool {
    use ingest_core::Region;
    let equals = |columns: &BTreeMap<String, Json>| columns.iter().all(|(name, value)| row.get(name) == Some(value));
    match region {
        Region::All => true,
        Region::Equals(columns) => equals(columns),
        Region::Range { column, from, to, also } => {
            let value = row.get(column).unwrap_or(&Json::Null);
            let before = |a: &Json, b: &Json| match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => a < b,
                _ => a.as_str() < b.as_str(),
            };
            equals(also) && !value.is_null() && !before(value, from) && before(value, to)
        }
    }
}

/// Compares what two lists of events say about rows: the same rows and removals of every stream, in any order.
pub(super) fn same_rows(what: &str, streams: &[Stream], found: &[Event], expected: &[Event]) -> Result<(), Fault> {
    for stream in streams {
        let of = |events: &[Event]| -> Result<(Rows, Vec<String>), Fault> {
            let key: Vec<&str> = stream.key.iter().map(String::as_str).collect();
            let (mut rows, mut removals) = (Rows::new(&key), Vec::new());
            for event in events {
                match event {
                    Event::Rows(name, batch) if *name == stream.name => {
                        canonical(batch)?.iter().for_each(|row| rows.add(row));
                    }
                    Event::Remove(name, region, _) if *name == stream.name => removals.push(json(region)?),
                    _ => {}
                }
            }
            Ok((rows, removals))
        };
        let ((found, found_removals), (expected, expected_removals)) = (of(found)?, of(expected)?);
        if let Err(difference) = found.compare(&expected) {
            return wrong(format!("{what}: stream {}: {difference}", stream.name));
        }
        if found_removals != expected_removals {
            return wrong(format!("{what}: stream {}: other regions are removed", stream.name));
        }
    }
    Ok(())
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a text".to_owned())
}
