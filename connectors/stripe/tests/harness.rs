//! A small run: plans, reads slices, keeps one table per stream with its positions, and can be killed at any mark. It
//! follows the contract: rows become visible up to a mark, a slice of several streams starts at the lowest position of
//! its tables and each drops what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use ingest_connector_stripe::{Position, Stripe, StripeConfig};
use ingest_core::{
    Builtin, Clock, Connector, Context, Cursor, Done, Event, Factory, Intent, Json, Mode, PlanRequest, RawOut, Result,
    Secret, Selected, Selection, Seq, Shape, Slice, SliceId, Source, Stored, StreamName, async_trait,
};
use ingest_testkit::oracle::canonical_rows;
use ingest_testkit::stripe::{API_KEY, StripeServer};
use serde_json::Map;

/// When the tests take place.
pub const NOW: i64 = 1_790_000_000;

/// A clock that a test moves.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now_micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed) * 1_000_000
    }
}

/// A server and a connector at the same time.
pub struct Lab {
    pub server: StripeServer,
    pub clock: TestClock,
    pub config: StripeConfig,
}

impl Lab {
    pub async fn start() -> Self {
        let server = StripeServer::start().await;
        server.freeze(NOW);
        let mut config = StripeConfig::default();
        config.api_key = Secret::new(API_KEY);
        config.endpoint = Some(server.url().to_owned());
        // The pauses of a test; what is decided by them is tested with the client.
        config.retry = Some(ingest_http::Retry {
            attempts: 12,
            pause: std::time::Duration::from_millis(1),
            throttled_pause: std::time::Duration::from_millis(1),
            ..ingest_http::Retry::default()
        });
        Self { server, clock: TestClock(Arc::new(AtomicI64::new(NOW))), config }
    }

    /// Lets time pass, at the server and here.
    pub fn pass(&self, seconds: i64) {
        self.server.advance(seconds);
        self.clock.advance(seconds);
    }

    pub fn context(&self) -> Context {
        Context { clock: Arc::new(self.clock.clone()), ..Context::standalone("stripe") }
    }

    pub async fn open(&self) -> Stripe {
        Stripe::open(self.config.clone(), self.context()).await.expect("a valid configuration")
    }

    /// The erased form, with a configuration as a user writes it.
    pub async fn source(&self, config: Json) -> Result<Box<dyn Source>> {
        Builtin::<Stripe>::new().open(config, self.context()).await
    }
}

/// One table of the lake: an append log and its positions.
#[derive(Default, Clone)]
pub struct Table {
    pub rows: Vec<Map<String, Json>>,
    positions: BTreeMap<SliceId, Position>,
    /// Of the plan that is under way.
    open: BTreeMap<SliceId, Position>,
    done: BTreeSet<SliceId>,
}

/// The tables of a lake.
#[derive(Default, Clone)]
pub struct Lake {
    pub tables: BTreeMap<StreamName, Table>,
    pub warnings: Vec<String>,
    plan: Option<Planned>,
}

#[derive(Clone)]
struct Planned {
    slices: Vec<Slice<ingest_connector_stripe::Work>>,
    then: BTreeMap<StreamName, BTreeMap<SliceId, Option<Position>>>,
    more: bool,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Ended {
    Whole,
    Killed,
}

impl Lake {
    /// Reads streams incrementally until there is nothing more now.
    pub async fn run(&mut self, stripe: &Stripe, streams: &[&str]) -> Result<()> {
        let ended = self.run_until(stripe, streams, Mode::Incremental, usize::MAX).await?;
        assert_eq!(ended, Ended::Whole);
        Ok(())
    }

    /// The same, killed right after the `marks`-th mark was committed by the first table of its slice alone.
    pub async fn run_until(&mut self, stripe: &Stripe, streams: &[&str], mode: Mode, marks: usize) -> Result<Ended> {
        let mut left = marks;
        for _ in 0..10 {
            if self.plan.is_none() {
                self.plan(stripe, streams, mode).await?;
            }
            let Some(planned) = self.plan.clone() else { return Ok(Ended::Whole) };
            // First what is bounded, then what it hands over to.
            let (feeds, bounded): (Vec<_>, Vec<_>) =
                planned.slices.iter().partition(|slice| slice.shape == Shape::Feed);
            for slice in bounded {
                if self.slice(stripe, slice, &mut left).await? == Ended::Killed {
                    return Ok(Ended::Killed);
                }
            }
            for (stream, positions) in planned.then.clone() {
                let table = self.tables.entry(stream).or_default();
                for (id, position) in positions {
                    match position {
                        Some(position) => table.positions.insert(id, position),
                        None => table.positions.remove(&id),
                    };
                }
            }
            self.close();
            for slice in feeds {
                if self.slice(stripe, slice, &mut left).await? == Ended::Killed {
                    return Ok(Ended::Killed);
                }
            }
            self.plan = None;
            if !planned.more {
                return Ok(Ended::Whole);
            }
        }
        panic!("plans without end");
    }

    /// The bounded slices are done: only the feeds of the plan are left.
    fn close(&mut self) {
        if let Some(plan) = &mut self.plan {
            plan.slices.retain(|slice| slice.shape == Shape::Feed);
            plan.then.clear();
        }
        for table in self.tables.values_mut() {
            table.open.clear();
            table.done.clear();
        }
    }

    async fn plan(&mut self, stripe: &Stripe, names: &[&str], mode: Mode) -> Result<()> {
        let selection = Selection { select: names.iter().map(|name| (*name).to_owned()).collect(), exclude: vec![] };
        let streams = stripe.schema(&selection).await?;
        assert_eq!(streams.len(), names.len(), "{names:?}");
        let mut groups: BTreeMap<String, Vec<Selected<Position>>> = BTreeMap::new();
        for stream in streams {
            let positions = self.tables.entry(stream.name.clone()).or_default().positions.clone();
            let group = stream.group.clone().unwrap_or_else(|| stream.name.to_string());
            let mode = if stream.modes.contains(&mode) { mode } else { stream.modes[0] };
            let selected = Selected { stream, mode, cursor: None, columns: None, filter: None, positions };
            groups.entry(group).or_default().push(selected);
        }
        let mut planned = Planned { slices: vec![], then: BTreeMap::new(), more: false };
        for streams in groups.into_values() {
            let now = stripe_now(stripe);
            let request = PlanRequest {
                streams,
                intent: Intent::Here,
                slice_bytes: 64 << 20,
                min_slices: 1,
                interval: None,
                now,
            };
            let plan = stripe.plan(&request).await?;
            planned.slices.extend(plan.slices);
            planned.then.extend(plan.then);
            planned.more |= plan.more;
        }
        self.plan = Some(planned);
        Ok(())
    }

    async fn slice(
        &mut self,
        stripe: &Stripe,
        slice: &Slice<ingest_connector_stripe::Work>,
        left: &mut usize,
    ) -> Result<Ended> {
        let feed = slice.shape == Shape::Feed;
        let members: Vec<StreamName> = slice.streams.clone();
        let place = |table: &Table| match feed {
            true => table.positions.get(&slice.id).cloned(),
            false => table.open.get(&slice.id).cloned(),
        };
        let open: Vec<&StreamName> =
            members.iter().filter(|name| !self.tables[*name].done.contains(&slice.id)).collect();
        if open.is_empty() {
            return Ok(Ended::Whole);
        }
        let places: Vec<Option<Position>> = open.iter().map(|name| place(&self.tables[*name])).collect();
        let lowest = match places.iter().any(Option::is_none) {
            true => None,
            false => places.iter().flatten().min_by_key(|position| position.seq()).cloned(),
        };
        let mut sink = Sink { feed, slice: &slice.id, lake: self, pending: vec![], left, killed: false, last: None };
        let mut out = ingest_core::Out::new(&mut sink, 1);
        let done = stripe.extract(slice, lowest.as_ref(), &mut out).await;
        if sink.killed {
            return Ok(Ended::Killed);
        }
        let done = done?;
        match done {
            Done::Complete => sink.commit(None, usize::MAX),
            Done::CaughtUp => assert!(sink.pending.is_empty(), "rows after the last mark of a feed"),
            other => panic!("{other:?}"),
        }
        if !feed {
            for name in members {
                self.tables.get_mut(&name).expect("a table").done.insert(slice.id.clone());
            }
        }
        Ok(Ended::Whole)
    }

    /// The newest row of each key, without those that are gone.
    pub fn state(&self, stream: &str, key: &[&str]) -> BTreeMap<String, Map<String, Json>> {
        let mut newest: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
        for row in &self.tables[&StreamName::from(stream)].rows {
            let id = key.iter().map(|column| text(&row[*column])).collect::<Vec<_>>().join("/");
            let seq = |row: &Map<String, Json>| text(&row["_ingest_seq"]);
            if newest.get(&id).is_none_or(|before| seq(before) <= seq(row)) {
                newest.insert(id, row.clone());
            }
        }
        newest.retain(|_, row| row.get("_ingest_op") != Some(&Json::from("D")));
        newest
    }

    pub fn rows(&self, stream: &str) -> usize {
        self.tables.get(&StreamName::from(stream)).map_or(0, |table| table.rows.len())
    }
}

fn stripe_now(_: &Stripe) -> i64 {
    NOW * 1_000_000
}

pub fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

struct Sink<'a> {
    feed: bool,
    slice: &'a SliceId,
    lake: &'a mut Lake,
    pending: Vec<(StreamName, RecordBatch)>,
    left: &'a mut usize,
    killed: bool,
    last: Option<Seq>,
}

impl Sink<'_> {
    /// Makes the pending rows visible in the first `tables` tables of the slice; the others are as a crash leaves them.
    fn commit(&mut self, mark: Option<&Stored>, tables: usize) {
        let position: Option<Position> =
            mark.map(|stored| serde_json::from_value(stored.at.clone()).expect("a position of this connector"));
        let mut names: Vec<StreamName> = self.pending.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        let kept: BTreeSet<_> = names.into_iter().take(tables).collect();
        for (name, batch) in self.pending.drain(..) {
            let table = self.lake.tables.entry(name.clone()).or_default();
            let place = if self.feed { table.positions.get(self.slice) } else { table.open.get(self.slice) };
            let from = place.and_then(Cursor::seq);
            if !kept.contains(&name) {
                continue;
            }
            let seqs = batch.column_by_name("_ingest_seq").expect("a place for each row").as_string::<i32>();
            for (row, values) in canonical_rows(&batch).expect("known types").into_iter().enumerate() {
                if from.as_ref().is_none_or(|from| seqs.value(row) > from.as_str()) {
                    table.rows.push(values);
                }
            }
        }
        if let Some(position) = position {
            let members = self.lake.plan.as_ref().expect("a plan").slices.iter().find(|s| s.id == *self.slice);
            for name in &members.expect("its slice").streams {
                if tables == usize::MAX || kept.contains(name) {
                    let table = self.lake.tables.entry(name.clone()).or_default();
                    let places = if self.feed { &mut table.positions } else { &mut table.open };
                    let before = places.get(self.slice).and_then(Cursor::seq);
                    if before.is_none_or(|before| Some(&before) <= position.seq().as_ref()) {
                        places.insert(self.slice.clone(), position.clone());
                    }
                }
            }
        }
    }
}

#[async_trait]
impl RawOut for Sink<'_> {
    async fn put(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Rows(stream, batch) => self.pending.push((stream, batch)),
            Event::Mark(stored) => {
                assert!(stored.seq >= self.last, "positions only grow: {:?} after {:?}", stored.seq, self.last);
                self.last.clone_from(&stored.seq);
                if *self.left <= 1 {
                    // The first table has its commit, then the process dies.
                    self.commit(Some(&stored), 1);
                    self.killed = true;
                    return Err(ingest_core::Error::cancelled());
                }
                *self.left -= 1;
                self.commit(Some(&stored), usize::MAX);
            }
            Event::Warning { text, .. } => self.lake.warnings.push(text),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        8 << 20
    }

    fn follow(&self) -> bool {
        false
    }
}
