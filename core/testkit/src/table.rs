//! Runs of a connector that keep their state as the runner does, and the table that comes of them.
//!
//! It is much smaller than the runner and knows no commits: what stands before a mark is in the table, what a failed
//! attempt gave behind its last mark is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use ingest_core::{
    BadRecord, Done, Error, Event, Intent, Json, Mode, Plan, PlanRequest, RawOut, Region, Result, Selected, Selection,
    Slice, SliceId, Source, Stored, Stream, StreamName, async_trait,
};

/// What a slice gave, mark by mark, as the runner sees it.
#[derive(Debug, Default)]
pub struct Given {
    /// In order.
    pub events: Vec<Event>,
}

#[async_trait]
impl RawOut for Given {
    async fn put(&mut self, event: Event) -> Result<()> {
        self.events.push(event);
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        1 << 20
    }

    fn follow(&self) -> bool {
        false
    }
}

/// A table in memory: rows as JSON objects.
#[derive(Debug, Default, Clone)]
pub struct Table {
    /// The rows.
    pub rows: Vec<Json>,
    /// What went to quarantine.
    pub bad: Vec<BadRecord>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// What makes a run partial.
    pub skipped: Vec<String>,
    /// Where the stream stands.
    pub positions: BTreeMap<SliceId, Stored>,
}

impl Table {
    /// Takes what stands before a mark.
    ///
    /// # Panics
    /// At events that sources of bounded slices do not give.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            match event {
                Event::Rows(_, batch) => self.rows.extend(rows(&batch)),
                Event::Remove(_, Region::Equals(equals), _) => {
                    self.rows.retain(|row| !equals.iter().all(|(column, value)| row.get(column) == Some(value)));
                }
                Event::Quarantine(_, bad) => self.bad.push(bad),
                Event::Warning { text, partial: false, .. } => self.warnings.push(text),
                Event::Warning { text, partial: true, .. } => self.skipped.push(text),
                Event::Mark(_) => {}
                other => panic!("unexpected event {other:?}"),
            }
        }
    }

    /// The values of a column as texts, sorted.
    pub fn column(&self, name: &str) -> Vec<String> {
        let text = |row: &Json| match row.get(name) {
            None | Some(Json::Null) => "null".to_owned(),
            Some(Json::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let mut values: Vec<String> = self.rows.iter().map(text).collect();
        values.sort();
        values
    }
}

/// The rows of a batch: every value as the text that Arrow shows, `null` for null.
pub fn rows(batch: &RecordBatch) -> Vec<Json> {
    let options = FormatOptions::default();
    let schema = batch.schema();
    // The formatter of this build knows no names of zones.
    let zoned = |array: &ArrayRef| match array.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("+00:00")) as ArrayRef
        }
        _ => array.clone(),
    };
    let columns: Vec<ArrayRef> = batch.columns().iter().map(zoned).collect();
    let formatters: Vec<_> =
        columns.iter().map(|array| ArrayFormatter::try_new(array, &options).expect("formatter")).collect();
    (0..batch.num_rows())
        .map(|row| {
            let cell = |i: usize| match batch.column(i).is_null(row) {
                true => Json::Null,
                false => Json::from(formatters[i].value(row).to_string()),
            };
            Json::Object(schema.fields().iter().enumerate().map(|(i, f)| (f.name().clone(), cell(i))).collect())
        })
        .collect()
}

/// All streams.
///
/// # Panics
/// When they cannot be described.
pub async fn streams(source: &dyn Source) -> Vec<Stream> {
    source.schema(&Selection::default()).await.expect("schema")
}

/// One stream.
///
/// # Panics
/// When there is none of that name.
pub async fn stream(source: &dyn Source, name: &str) -> Stream {
    streams(source).await.into_iter().find(|s| s.name.as_str() == name).unwrap_or_else(|| panic!("no stream {name}"))
}

/// The columns of a stream and their types.
pub fn types(stream: &Stream) -> Vec<(String, String)> {
    stream.schema.fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect()
}

/// Plans one stream; the clock of each plan is later than that of the one before.
///
/// # Errors
/// Those of the connector.
pub async fn plan(
    source: &dyn Source,
    stream: &Stream,
    mode: Mode,
    positions: &BTreeMap<SliceId, Stored>,
    slice_bytes: u64,
) -> Result<Plan<Json, Stored>> {
    static CLOCK: AtomicI64 = AtomicI64::new(0);
    let tick = CLOCK.fetch_add(1, Ordering::Relaxed);
    source
        .plan(&PlanRequest {
            streams: vec![Selected {
                stream: stream.clone(),
                mode,
                cursor: None,
                columns: None,
                filter: None,
                positions: positions.clone(),
            }],
            intent: Intent::Here,
            slice_bytes,
            min_slices: 1,
            interval: None,
            now: chrono::Utc::now().timestamp_micros() + tick,
        })
        .await
}

/// Reads a slice once.
pub async fn extract(source: &dyn Source, slice: &Slice<Json>, from: Option<&Stored>) -> (Given, Result<Done>) {
    let mut given = Given::default();
    let done = source.extract(slice, 1, from, &mut given).await;
    (given, done)
}

/// Runs a slice to its end as the runner does: rows count up to a mark, a retryable failure is repeated from there.
///
/// # Errors
/// Those of the connector, after three attempts.
///
/// # Panics
/// When the connector breaks the contract.
pub async fn finish(source: &dyn Source, slice: &Slice<Json>, from: Option<Stored>, table: &mut Table) -> Result<Done> {
    let mut from = from;
    for _ in 0..3 {
        let (given, done) = extract(source, slice, from.as_ref()).await;
        let mut unit = Vec::new();
        for event in given.events {
            match event {
                Event::Mark(mark) => {
                    from = Some(mark);
                    table.apply(unit.drain(..));
                }
                warning @ Event::Warning { .. } => table.apply([warning]),
                event => unit.push(event),
            }
        }
        match done {
            Ok(Done::Complete) => {
                table.apply(unit);
                return Ok(Done::Complete);
            }
            Ok(Done::Left) => {
                assert!(unit.is_empty(), "rows behind the last mark of a slice that leaves something");
                table.positions.insert(slice.id.clone(), from.expect("a mark says what is left"));
                return Ok(Done::Left);
            }
            Ok(other) => panic!("unexpected {other:?}"),
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::unexpected("three attempts were not enough"))
}

/// One run of a stream, in append mode. Gives the number of slices.
///
/// # Errors
/// Those of the connector.
pub async fn run(source: &dyn Source, name: &str, table: &mut Table) -> Result<usize> {
    let mut slices = 0;
    loop {
        let stream = stream(source, name).await;
        let plan = plan(source, &stream, Mode::Incremental, &table.positions, 1 << 30).await?;
        for slice in &plan.slices {
            finish(source, slice, None, table).await?;
            slices += 1;
        }
        let then = plan.then.get(&StreamName::from(name)).cloned().unwrap_or_default();
        for (id, position) in then {
            match position {
                Some(position) => table.positions.insert(id, position),
                None => table.positions.remove(&id),
            };
        }
        if !plan.more {
            return Ok(slices);
        }
    }
}

/// Everything at once.
///
/// # Panics
/// When it cannot be read.
pub async fn load(source: &dyn Source, name: &str) -> Table {
    let mut table = Table::default();
    run(source, name, &mut table).await.expect("run");
    table
}
