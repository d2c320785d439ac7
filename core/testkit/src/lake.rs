//! A small run over any source: it plans, reads bounded slices mark by mark, keeps an append log and positions for each
//! stream, and can be killed at any mark. It follows the contract of the runner without being it: for tests of connectors,
//! which must not build a table format.
//!
//! ```no_run
//! use ingest_core::Mode;
//! use ingest_testkit::lake::Lake;
//! # async fn test(source: &dyn ingest_core::Source) -> ingest_core::Result<()> {
//! let mut lake = Lake::new(1);
//! // Killed at its third mark, and run again: as if nothing had happened.
//! lake.run_until(source, &["Account"], Mode::Incremental, 3).await?;
//! lake.run(source, &["Account"], Mode::Incremental).await?;
//! assert_eq!(lake.newest("Account", &["Id"]).len(), 2_500);
//! # Ok(()) }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow_array::RecordBatch;
use ingest_conformance::oracle::{canonical_rows, newest};
use ingest_core::{
    Done, Error, ErrorKind, Event, Intent, Json, Mode, Plan, PlanRequest, RawOut, Result, Selected, Selection, Shape,
    Slice, SliceId, Source, Stored, StreamName, async_trait,
};
use serde_json::Map;

/// Rounds of planning in one run, and looks at one job.
const ROUNDS: usize = 1_000;
/// Attempts of one slice.
const ATTEMPTS: usize = 20;

/// How a run ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Ended {
    /// Nothing more is planned.
    Whole,
    /// At the mark where it was to be killed.
    Killed,
}

/// The tables of a source.
#[derive(Default)]
pub struct Lake {
    version: u32,
    batch_bytes: usize,
    tables: BTreeMap<StreamName, Table>,
    open: Option<Plan<Json, Stored>>,
    done: BTreeSet<SliceId>,
    at: BTreeMap<SliceId, Stored>,
    /// What was said.
    pub warnings: Vec<String>,
    /// Records that were no rows.
    pub quarantined: Vec<String>,
    /// Calls of an API that the plans of the last run estimated.
    pub estimated_calls: u64,
}

#[derive(Default)]
struct Table {
    rows: Vec<Map<String, Json>>,
    positions: BTreeMap<SliceId, Stored>,
}

impl Lake {
    /// No tables. `version` is the connector's `state_version`.
    pub fn new(version: u32) -> Self {
        Self { version, batch_bytes: 8 << 20, ..Self::default() }
    }

    /// Wants batches of so many bytes.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Reads streams until nothing more is planned.
    ///
    /// # Errors
    /// What the source says; what was marked before is kept, and the next run goes on from there.
    pub async fn run(&mut self, source: &dyn Source, streams: &[&str], mode: Mode) -> Result<()> {
        self.run_until(source, streams, mode, usize::MAX).await.map(|_| ())
    }

    /// The same, killed when the `marks`-th mark is committed.
    ///
    /// # Errors
    /// As [`Lake::run`].
    pub async fn run_until(
        &mut self,
        source: &dyn Source,
        streams: &[&str],
        mode: Mode,
        marks: usize,
    ) -> Result<Ended> {
        let mut left = marks;
        self.estimated_calls = 0;
        for _ in 0..ROUNDS {
            if self.open.is_none() {
                self.plan(source, streams, mode).await?;
            }
            let Some(plan) = self.open.clone() else { return Err(Error::unexpected("there is no plan")) };
            for slice in &plan.slices {
                if self.done.contains(&slice.id) {
                    continue;
                }
                assert_ne!(slice.shape, Shape::Feed, "this run reads no feeds");
                match self.slice(source, slice, &mut left).await {
                    Ok(Ended::Whole) => {}
                    Ok(Ended::Killed) => return Ok(Ended::Killed),
                    Err(error) if error.kind() == ErrorKind::SliceExpired && self.at.is_empty() => {
                        self.close();
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            if self.open.is_none() {
                continue;
            }
            for (stream, positions) in plan.then {
                let table = self.tables.entry(stream).or_default();
                for (id, position) in positions {
                    match position {
                        Some(position) => drop(table.positions.insert(id, position)),
                        None => drop(table.positions.remove(&id)),
                    }
                }
            }
            self.close();
            if !plan.more {
                return Ok(Ended::Whole);
            }
        }
        Err(Error::unexpected("plans without end"))
    }

    fn close(&mut self) {
        self.open = None;
        self.done.clear();
        self.at.clear();
    }

    async fn plan(&mut self, source: &dyn Source, names: &[&str], mode: Mode) -> Result<()> {
        let selection = Selection { select: names.iter().map(|name| (*name).to_owned()).collect(), exclude: vec![] };
        let streams = source.schema(&selection).await?;
        if streams.len() != names.len() {
            return Err(Error::config("a stream that was named is not there").with("found", streams.len()));
        }
        let mut groups: BTreeMap<String, Vec<Selected<Stored>>> = BTreeMap::new();
        for stream in streams {
            let table = self.tables.entry(stream.name.clone()).or_default();
            if mode == Mode::Full {
                *table = Table::default();
            }
            let positions = table.positions.clone();
            let group = stream.group.clone().unwrap_or_else(|| format!("stream {}", stream.name));
            let mode = if stream.modes.contains(&mode) { mode } else { stream.modes[0] };
            let cursor = stream.cursors.first().map(|cursor| cursor.column.clone());
            let cursor = cursor.filter(|_| mode == Mode::Incremental);
            groups.entry(group).or_default().push(Selected {
                stream,
                mode,
                cursor,
                columns: None,
                filter: None,
                positions,
            });
        }
        let mut all = Plan::default();
        for streams in groups.into_values() {
            let plan = source
                .plan(&PlanRequest {
                    streams,
                    intent: Intent::Here,
                    slice_bytes: 64 << 20,
                    min_slices: 1,
                    interval: None,
                    now: ingest_core::Clock::now_micros(&ingest_core::SystemClock),
                })
                .await?;
            all.slices.extend(plan.slices);
            all.then.extend(plan.then);
            all.more |= plan.more;
        }
        self.estimated_calls += all.slices.iter().filter_map(|slice| slice.estimate.calls).sum::<u64>();
        self.open = Some(all);
        Ok(())
    }

    async fn slice(&mut self, source: &dyn Source, slice: &Slice<Json>, left: &mut usize) -> Result<Ended> {
        let version = self.version;
        let mut attempts = 0;
        for _ in 0..ROUNDS {
            let from = self.at.get(&slice.id).cloned();
            let mut out = Sink { lake: self, slice: &slice.id, pending: Vec::new(), left, killed: false };
            let done = source.extract(slice, version, from.as_ref(), &mut out).await;
            if out.killed {
                return Ok(Ended::Killed);
            }
            let done = match done {
                // As the runner does: again from the last mark; what came after it was not kept.
                Err(error) if error.is_retryable() && attempts < ATTEMPTS => {
                    attempts += 1;
                    continue;
                }
                done => done?,
            };
            match done {
                Done::Complete => {
                    out.commit();
                    self.done.insert(slice.id.clone());
                    self.at.remove(&slice.id);
                    return Ok(Ended::Whole);
                }
                Done::Pending(wait) => {
                    assert!(out.pending.is_empty(), "rows after the last mark of a job that is not ready");
                    // Stand-ins count looks, not time.
                    tokio::time::sleep(wait.min(Duration::from_millis(1))).await;
                }
                other => return Err(Error::unexpected(format!("a bounded slice ended as {other:?}"))),
            }
        }
        Err(Error::unexpected("a job that is never ready"))
    }

    /// All rows of a stream, as they came.
    pub fn rows(&self, stream: &str) -> &[Map<String, Json>] {
        self.tables.get(&StreamName::from(stream)).map_or(&[], |table| &table.rows)
    }

    /// The newest row of each key, without those that are gone, by the key's text.
    pub fn newest(&self, stream: &str, key: &[&str]) -> BTreeMap<String, Map<String, Json>> {
        let rows = newest(key, self.rows(stream).iter().cloned());
        let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let name = |row: &Map<String, Json>| key.iter().map(|c| text(&row[*c])).collect::<Vec<_>>().join("/");
        rows.into_iter().map(|row| (name(&row), row)).collect()
    }

    /// Checks that the newest rows are those of the truth, in all columns that the truth knows.
    ///
    /// # Panics
    /// When they are not; the text says how.
    pub fn assert_equals(&self, stream: &str, key: &[&str], truth: &BTreeMap<String, Map<String, Json>>) {
        let found = self.newest(stream, key);
        let (have, want): (BTreeSet<_>, BTreeSet<_>) = (found.keys().collect(), truth.keys().collect());
        let lost: Vec<_> = want.difference(&have).take(5).collect();
        let unknown: Vec<_> = have.difference(&want).take(5).collect();
        assert!(lost.is_empty() && unknown.is_empty(), "{stream}: lost {lost:?}, unknown {unknown:?}");
        for (id, row) in truth {
            for (column, value) in row {
                let found = found[id].get(column).unwrap_or_else(|| panic!("{stream} has no column {column}"));
                assert_eq!(found, value, "{stream} {id} {column}");
            }
        }
    }
}

struct Sink<'a> {
    lake: &'a mut Lake,
    slice: &'a SliceId,
    pending: Vec<(StreamName, RecordBatch)>,
    left: &'a mut usize,
    killed: bool,
}

impl Sink<'_> {
    fn commit(&mut self) {
        for (name, batch) in self.pending.drain(..) {
            let rows = canonical_rows(&batch).expect("types that have a canonical form");
            self.lake.tables.entry(name).or_default().rows.extend(rows);
        }
    }
}

#[async_trait]
impl RawOut for Sink<'_> {
    async fn put(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Rows(stream, batch) => self.pending.push((stream, batch)),
            Event::Mark(stored) => {
                self.commit();
                self.lake.at.insert(self.slice.clone(), stored);
                if *self.left <= 1 {
                    self.killed = true;
                    return Err(Error::cancelled());
                }
                *self.left -= 1;
            }
            Event::Warning { text, .. } => self.lake.warnings.push(text),
            Event::Quarantine(_, bad) => self.lake.quarantined.push(bad.reason),
            other => return Err(Error::unexpected(format!("this run does not know {other:?}"))),
        }
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        self.lake.batch_bytes
    }

    fn follow(&self) -> bool {
        false
    }
}
