//! Change capture as the runner does it, in small: loads, follows the changes to their end, keeps a log of both.
//!
//! ```no_run
//! # async fn example(source: &dyn ingest_core::Source) {
//! use ingest_testkit::capture::{Capture, loaded};
//! let mut capture = Capture::default();
//! capture.run(source, &["shop.orders"]).await.expect("a run");
//! let now = loaded(source, "shop.orders", "id", &["status"]).await;
//! assert_eq!(capture.replay("shop.orders", "id", &["status"]), now);
//! # }
//! ```

use std::collections::{BTreeMap, HashMap};

use arrow_array::RecordBatch;
use ingest_conformance::out::Collected;
use ingest_core::{
    Done, Event, Intent, Json, Mode, PlanRequest, Region, Result, Selected, Seq, Shape, Slice, SliceId, Source, Stored,
    StreamName,
};

use crate::reading::{How, run, streams, texts};

/// One entry of a stream's history, in the order in which it came.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Rows, each with its order.
    Rows(RecordBatch),
    /// The table was emptied.
    Cleared,
}

/// What came of each stream, and where each stands.
#[derive(Debug, Default)]
pub struct Capture {
    entries: HashMap<String, Vec<Entry>>,
    /// What each table holds.
    pub positions: HashMap<String, BTreeMap<SliceId, Stored>>,
}

/// Rows by their key, as text of some columns.
pub type Rows = BTreeMap<String, Vec<Option<String>>>;

impl Capture {
    /// One run: plans, loads what is new, follows the changes to their end.
    ///
    /// # Errors
    /// Those of the source. What came before the last mark is held nevertheless.
    ///
    /// # Panics
    /// When a slice ends otherwise than it should.
    pub async fn run(&mut self, source: &dyn Source, names: &[impl AsRef<str>]) -> Result<()> {
        self.run_while(source, names, async || {}).await
    }

    /// The same; `between` happens after the loads, before the changes are read.
    ///
    /// # Errors
    /// As [`Capture::run`].
    ///
    /// # Panics
    /// As [`Capture::run`].
    pub async fn run_while(
        &mut self,
        source: &dyn Source,
        names: &[impl AsRef<str>],
        between: impl AsyncFnOnce(),
    ) -> Result<()> {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let selected = streams(source, &names).await.into_iter().map(|stream| Selected {
            mode: Mode::Cdc,
            cursor: None,
            columns: None,
            filter: None,
            positions: self.positions.get(stream.name.as_str()).cloned().unwrap_or_default(),
            stream,
        });
        let request = PlanRequest {
            streams: selected.collect(),
            intent: Intent::Here,
            slice_bytes: 1 << 20,
            min_slices: 1,
            interval: None,
            now: 0,
        };
        let plan = source.plan(&request).await?;
        for slice in plan.slices.iter().filter(|slice| slice.shape != Shape::Feed) {
            let mut out = Collected::new();
            assert_eq!(source.extract(slice, 1, None, &mut out).await?, Done::Complete);
            self.take(&out, slice.streams.iter().map(|name| (name, None)));
        }
        for (stream, then) in plan.then {
            let at = self.positions.entry(stream.to_string()).or_default();
            at.extend(then.into_iter().filter_map(|(id, position)| Some((id, position?))));
        }
        between().await;
        for slice in plan.slices.iter().filter(|slice| slice.shape == Shape::Feed) {
            self.follow(source, slice).await?;
        }
        Ok(())
    }

    async fn follow(&mut self, source: &dyn Source, slice: &Slice<Json>) -> Result<()> {
        let place = |name: &StreamName| self.positions.get(name.as_str())?.get(&slice.id).cloned();
        let places: Vec<_> = slice.streams.iter().map(|name| (name, place(name))).collect();
        let lowest = places.iter().filter_map(|(_, at)| at.clone()).min_by(|a, b| a.seq.cmp(&b.seq));
        let mut out = Collected::new();
        let done = source.extract(slice, 1, lowest.as_ref(), &mut out).await;
        // What comes before a mark is held, also of a call that fails later.
        let held = out.events.iter().rposition(|event| matches!(event, Event::Mark(_)));
        out.events.truncate(held.map_or(0, |at| at + 1));
        self.take(&out, places.into_iter().map(|(name, at)| (name, at.and_then(|at| at.seq))));
        if let Some(Event::Mark(mark)) = out.events.last() {
            for name in &slice.streams {
                let at = self.positions.entry(name.to_string()).or_default();
                if at.get(&slice.id).is_none_or(|held| held.seq < mark.seq) {
                    at.insert(slice.id.clone(), mark.clone());
                }
            }
        }
        assert_eq!(done?, Done::CaughtUp);
        Ok(())
    }

    /// Keeps what came, without what a table holds already.
    fn take<'a>(&mut self, out: &Collected, places: impl Iterator<Item = (&'a StreamName, Option<Seq>)>) {
        for (name, held) in places {
            let entries = self.entries.entry(name.to_string()).or_default();
            for event in &out.events {
                match event {
                    Event::Rows(stream, batch) if stream == name => {
                        let seqs = texts(std::slice::from_ref(batch), "_ingest_seq");
                        let new = |seq: &Option<String>| {
                            held.as_ref().is_none_or(|held| seq.as_deref() > Some(held.as_str()))
                        };
                        let first = seqs.iter().position(new).unwrap_or(seqs.len());
                        entries.push(Entry::Rows(batch.slice(first, seqs.len() - first)));
                    }
                    Event::Remove(stream, Region::All, seq) if stream == name && (seq.is_none() || *seq > held) => {
                        entries.push(Entry::Cleared);
                    }
                    _ => {}
                }
            }
        }
    }

    /// All that came of a stream, in order; what a table lost at once is not left out.
    pub fn batches(&self, stream: &str) -> impl Iterator<Item = &RecordBatch> {
        self.entries.get(stream).into_iter().flatten().filter_map(|entry| match entry {
            Entry::Rows(batch) => Some(batch),
            Entry::Cleared => None,
        })
    }

    /// The values of a column of all that came, as text.
    pub fn column(&self, stream: &str, column: &str) -> Vec<Option<String>> {
        self.batches(stream).flat_map(|batch| texts(std::slice::from_ref(batch), column)).collect()
    }

    /// What happened, row by row: `R`, `I`, `U`, `D`. A row that does not say it was loaded.
    pub fn ops(&self, stream: &str) -> Vec<String> {
        self.column(stream, "_ingest_op").into_iter().map(|op| op.unwrap_or_else(|| "R".to_owned())).collect()
    }

    /// The places of all changes in the log.
    pub fn order(&self, stream: &str) -> Vec<String> {
        let both = self.column(stream, "_ingest_seq").into_iter().zip(self.ops(stream));
        both.filter_map(|(seq, op)| seq.filter(|_| op != "R")).collect()
    }

    /// The last state of each row by its key, as text of these columns. Rows without an order were loaded, before all changes.
    ///
    /// # Panics
    /// When a row has no key, a change has no order, or one came twice.
    pub fn replay(&self, stream: &str, key: &str, columns: &[&str]) -> Rows {
        let mut rows: Vec<(String, String, String, Vec<Option<String>>)> = Vec::new();
        for entry in self.entries.get(stream).into_iter().flatten() {
            let Entry::Rows(batch) = entry else {
                rows.clear();
                continue;
            };
            let of = |column: &str| texts(std::slice::from_ref(batch), column);
            let (seqs, keys, ops) = (of("_ingest_seq"), of(key), of("_ingest_op"));
            let values: Vec<_> = columns.iter().map(|column| of(column)).collect();
            for row in 0..batch.num_rows() {
                let op = ops[row].clone().unwrap_or_else(|| "R".to_owned());
                assert!(op == "R" || seqs[row].is_some(), "{stream}: a change without an order");
                rows.push((
                    seqs[row].clone().unwrap_or_default(),
                    keys[row].clone().expect("a key"),
                    op,
                    values.iter().map(|column| column[row].clone()).collect(),
                ));
            }
        }
        rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let double =
            rows.windows(2).find(|pair| (&pair[0].0, &pair[0].1, &pair[0].2) == (&pair[1].0, &pair[1].1, &pair[1].2));
        assert!(double.is_none(), "{stream}: a change came twice: {double:?}");
        let mut state = Rows::new();
        for (_, key, op, values) in rows {
            match op.as_str() {
                "D" => state.remove(&key),
                _ => state.insert(key, values),
            };
        }
        state
    }
}

/// What a full load gives, in the form of [`Capture::replay`].
///
/// # Panics
/// When the source fails, or a row has no key.
pub async fn loaded(source: &dyn Source, stream: &str, key: &str, columns: &[&str]) -> Rows {
    let batches = run(source, stream, &mut How::full()).await.expect("a load");
    let keys = texts(&batches, key);
    let values: Vec<_> = columns.iter().map(|column| texts(&batches, column)).collect();
    let row =
        |row: usize| (keys[row].clone().expect("a key"), values.iter().map(|column| column[row].clone()).collect());
    (0..keys.len()).map(row).collect()
}
