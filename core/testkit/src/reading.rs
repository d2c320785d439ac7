//! What tests of connectors do with a source: describe, plan and read it as the runner would, and look at what came.
//!
//! ```no_run
//! # async fn example(source: &dyn ingest_core::Source) {
//! use ingest_testkit::reading::{How, assert_range, run};
//! let batches = run(source, "shop.orders", &mut How::by("updated_at")).await.expect("rows");
//! assert_range(&batches, "id", 1, 100);
//! # }
//! ```

use std::collections::BTreeMap;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_array::RecordBatch;
use ingest_conformance::out::Collected;
use ingest_core::{
    Done, Error, Event, Intent, Json, Mode, Plan, PlanRequest, Result, Selected, Selection, Slice, SliceId, Source,
    Stored, Stream, StreamName,
};

/// How a stream shall be read.
#[derive(Clone)]
pub struct How {
    /// The mode.
    pub mode: Mode,
    /// The cursor column.
    pub cursor: Option<String>,
    /// The columns; all where there is no list.
    pub columns: Option<Vec<String>>,
    /// The row filter.
    pub filter: Option<String>,
    /// What was read before.
    pub positions: BTreeMap<SliceId, Stored>,
    /// What planning may leave behind.
    pub intent: Intent,
    /// Wanted size of a slice.
    pub slice_bytes: u64,
    /// At least so many slices.
    pub min_slices: u32,
    /// A window by hand.
    pub interval: Option<(i64, i64)>,
    /// Wanted size of a batch.
    pub batch_bytes: usize,
}

impl How {
    /// Everything, in one slice.
    pub fn full() -> Self {
        Self {
            mode: Mode::Full,
            cursor: None,
            columns: None,
            filter: None,
            positions: BTreeMap::new(),
            intent: Intent::Here,
            slice_bytes: 1 << 30,
            min_slices: 1,
            interval: None,
            batch_bytes: 1 << 20,
        }
    }

    /// What is new by a cursor.
    pub fn by(cursor: &str) -> Self {
        Self { mode: Mode::Incremental, cursor: Some(cursor.into()), ..Self::full() }
    }
}

/// The streams that match.
///
/// # Panics
/// When the source fails.
pub async fn streams(source: &dyn Source, select: &[&str]) -> Vec<Stream> {
    let selection = Selection { select: select.iter().map(|s| (*s).to_owned()).collect(), exclude: Vec::new() };
    source.schema(&selection).await.expect("streams")
}

/// Plans streams.
///
/// # Errors
/// Those of the source.
pub async fn plan(source: &dyn Source, streams: &[Stream], how: &How) -> Result<Plan<Json, Stored>> {
    let selected = streams.iter().map(|stream| Selected {
        stream: stream.clone(),
        mode: how.mode,
        cursor: how.cursor.clone(),
        columns: how.columns.clone(),
        filter: how.filter.clone(),
        positions: how.positions.clone(),
    });
    let request = PlanRequest {
        streams: selected.collect(),
        intent: how.intent,
        slice_bytes: how.slice_bytes,
        min_slices: how.min_slices,
        interval: how.interval,
        now: 0,
    };
    source.plan(&request).await
}

/// Reads a slice to its end.
///
/// # Errors
/// Those of the source.
///
/// # Panics
/// When the slice does not say that it is complete.
pub async fn read(source: &dyn Source, slice: &Slice<Json>, from: Option<&Stored>, how: &How) -> Result<Collected> {
    let mut out = Collected::new().batch_bytes(how.batch_bytes);
    let done = source.extract(slice, 1, from, &mut out).await?;
    assert_eq!(done, Done::Complete);
    Ok(out)
}

/// Plans and reads one stream; moves `how` to the position that then holds.
///
/// # Errors
/// Those of the source.
///
/// # Panics
/// When a slice does not say that it is complete.
pub async fn run(source: &dyn Source, stream: &str, how: &mut How) -> Result<Vec<RecordBatch>> {
    let found = streams(source, &[stream]).await;
    let plan = plan(source, &found, how).await?;
    let mut batches = Vec::new();
    for slice in &plan.slices {
        let out = read(source, slice, None, how).await?;
        batches.extend(out.batches(&StreamName::from(stream)).cloned());
    }
    for (id, position) in plan.then.into_values().flatten() {
        match position {
            Some(position) => how.positions.insert(id, position),
            None => how.positions.remove(&id),
        };
    }
    Ok(batches)
}

/// Warnings that a slice gave.
pub fn warnings(out: &Collected) -> Vec<String> {
    out.events
        .iter()
        .filter_map(|e| if let Event::Warning { text, .. } = e { Some(text.clone()) } else { None })
        .collect()
}

/// The values of a column of all batches as text, in order.
pub fn texts(batches: &[RecordBatch], column: &str) -> Vec<Option<String>> {
    let options = FormatOptions::default();
    let mut texts = Vec::new();
    for batch in batches {
        let Some(array) = batch.column_by_name(column) else {
            texts.extend(std::iter::repeat_n(None, batch.num_rows()));
            continue;
        };
        // Named zones cannot be printed without a database of zones.
        let formatter = ArrayFormatter::try_new(array, &options).ok();
        let text = |row| formatter.as_ref().map_or("?".to_owned(), |formatter| formatter.value(row).to_string());
        texts.extend((0..batch.num_rows()).map(|row| (!array.is_null(row)).then(|| text(row))));
    }
    texts
}

/// The values of an integer column, sorted.
///
/// # Panics
/// When one is null or no integer.
pub fn ids(batches: &[RecordBatch], column: &str) -> Vec<i64> {
    let mut ids: Vec<i64> =
        texts(batches, column).into_iter().map(|id| id.expect("not null").parse().expect("a number")).collect();
    ids.sort_unstable();
    ids
}

/// The error of something that must fail.
///
/// # Panics
/// When it does not.
pub fn fails<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("it must fail"),
        Err(error) => error,
    }
}

/// Fails unless the ids are exactly `first..=last`; says what is lost and what is double.
///
/// # Panics
/// When they are not.
pub fn assert_range(batches: &[RecordBatch], column: &str, first: i64, last: i64) {
    let found = ids(batches, column);
    let lost: Vec<i64> = (first..=last).filter(|id| found.binary_search(id).is_err()).take(10).collect();
    let double: Vec<i64> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).take(10).collect();
    assert!(lost.is_empty() && double.is_empty(), "{} rows, lost {lost:?}, double {double:?}", found.len());
    assert_eq!(i64::try_from(found.len()).expect("few"), last - first + 1, "unknown ids");
}
