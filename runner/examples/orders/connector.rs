//! A connector whose source is arithmetic: orders in windows, and a feed of changes if one is wanted. The same one in
//! Python, without the feed, is `examples/plugin-python/orders.py`.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ingest_core::{
    Capabilities, Connector, Context, Cursor, Deletes, Done, Error, ErrorKind, Estimate, JsonSchema, Mode, Out, Plan,
    PlanRequest, Problem, Replay, Result, Secret, Selection, Seq, Shape, Slice, Spec, Stream, StreamName, async_trait,
};
use serde::{Deserialize, Serialize};

/// Reads orders that are computed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OrdersConfig {
    /// How many orders there are. Default: 1000.
    pub rows: Option<i64>,
    /// How many changes the feed holds. Default: 0, and no such stream.
    pub changes: Option<i64>,
    /// The connector panics before it reads this order. Default: it does not.
    pub panic_at: Option<i64>,
    /// Rows of a batch. Default: 250.
    pub page_size: Option<i64>,
    /// The password of the shop. Left out, none is needed.
    pub password: Secret,
}

/// Where a slice stands: all below this number is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct At {
    next: i64,
    feed: bool,
}

impl Cursor for At {
    fn seq(&self) -> Option<Seq> {
        self.feed.then(|| seq(self.next - 1))
    }
}

/// A range of orders; the feed has none.
#[derive(Debug, Serialize, Deserialize)]
pub struct Range {
    start: i64,
    end: i64,
}

/// The connector.
pub struct Orders {
    rows: i64,
    changes: i64,
    page: i64,
    panic_at: Option<i64>,
}

fn seq(number: i64) -> Seq {
    Seq::new(format!("{number:016}"))
}

fn orders_schema() -> SchemaRef {
    let tag = Arc::new(Field::new_list_field(DataType::Utf8, true));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("customer", DataType::Utf8, true),
        Field::new("total", DataType::Decimal128(12, 2), true),
        Field::new("paid", DataType::Boolean, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("weight", DataType::Float64, true),
        Field::new("day", DataType::Date32, true),
        Field::new("tags", DataType::List(tag), true),
    ]))
}

fn orders(ids: std::ops::Range<i64>) -> Result<RecordBatch> {
    let ids: Vec<i64> = ids.collect();
    let mut tags = ListBuilder::new(StringBuilder::new());
    for id in &ids {
        for _ in 0..id % 4 {
            tags.values().append_value(format!("t{}", id % 3));
        }
        tags.append(id % 7 != 0);
    }
    let each = ids.iter().copied();
    let totals = Decimal128Array::from_iter_values(each.clone().map(|id| i128::from(id * 37 % 100_000)));
    let at = TimestampMicrosecondArray::from_iter_values(each.clone().map(|id| 1_700_000_000_000_000 + id * 1_234_567));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(StringArray::from_iter_values(each.clone().map(|id| format!("Zoë {}", id % 97)))),
        Arc::new(totals.with_precision_and_scale(12, 2)?),
        Arc::new(each.clone().map(|id| (id % 5 != 0).then_some(id % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(at.with_timezone("UTC")),
        Arc::new(Float64Array::from_iter_values(each.clone().map(|id| id as f64 / 8.0))),
        Arc::new(Date32Array::from_iter_values(each.map(|id| 19_000 + (id % 1_000) as i32))),
        Arc::new(tags.finish()),
    ];
    Ok(RecordBatch::try_new(orders_schema(), columns)?)
}

fn changes_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)]))
}

fn changes(numbers: std::ops::Range<i64>) -> Result<RecordBatch> {
    let numbers: Vec<i64> = numbers.collect();
    let each = numbers.iter().copied();
    let op = |number: i64| ["I", "U", "D"][(number % 3) as usize];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(each.clone().map(|number| number % 10).collect::<Int64Array>())),
        ("value", Arc::new(Int64Array::from(numbers.clone()))),
        ("_ingest_op", Arc::new(StringArray::from_iter_values(each.clone().map(op)))),
        ("_ingest_seq", Arc::new(StringArray::from_iter_values(each.map(|n| seq(n).as_str().to_owned())))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

#[async_trait]
impl Connector for Orders {
    type Config = OrdersConfig;
    type Work = Range;
    type Position = At;

    fn spec() -> Spec {
        Spec {
            name: "orders".into(),
            version: "1.0.0".into(),
            title: "Orders".into(),
            docs: "Orders that are computed.".into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Full, Mode::Incremental],
                deletes: Deletes::Events,
                replay: Replay::Always,
                parallel: 4,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: OrdersConfig, _: Context) -> Result<Self> {
        if !config.password.is_empty() && config.password.expose() != "open sesame" {
            // A mistake that people make, for the tests: the secret stands in the error.
            let what = format!("the password {} is wrong", config.password.expose());
            return Err(Error::new(ErrorKind::Unauthenticated, what).hint("ask the shop for it"));
        }
        let or = |value: Option<i64>, default| value.unwrap_or(default).max(0);
        Ok(Self {
            rows: or(config.rows, 1_000),
            changes: or(config.changes, 0),
            page: or(config.page_size, 250).max(1),
            panic_at: config.panic_at,
        })
    }

    async fn check(&self, _: &Selection) -> Result<Vec<Problem>> {
        Ok(Vec::new())
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let stream = |name: &str, schema, mode| Stream {
            name: name.into(),
            schema,
            key: if mode == Mode::Full { vec!["id".into()] } else { Vec::new() },
            modes: vec![mode],
            cursors: Vec::new(),
            group: None,
            estimate: Estimate::default(),
        };
        let streams =
            [stream("orders", orders_schema(), Mode::Full), stream("changes", changes_schema(), Mode::Incremental)];
        let there = |stream: &Stream| self.changes > 0 || stream.name.as_str() != "changes";
        Ok(streams.into_iter().filter(|stream| there(stream) && selection.matches(stream.name.as_str())).collect())
    }

    async fn plan(&self, request: &PlanRequest<At>) -> Result<Plan<Range, At>> {
        let mut plan = Plan::default();
        for selected in &request.streams {
            let name = selected.stream.name.clone();
            let slice = |id: String, shape, work| Slice {
                id: id.into(),
                streams: vec![name.clone()],
                shape,
                work,
                estimate: Estimate::default(),
            };
            if name.as_str() == "changes" {
                plan.slices.push(slice("changes".into(), Shape::Feed, Range { start: 0, end: 0 }));
                if !selected.positions.contains_key(&"changes".into()) {
                    let start = Some(At { next: 0, feed: true });
                    plan.then.entry(name.clone()).or_default().insert("changes".into(), start);
                }
                continue;
            }
            let quarter = self.rows / 4 + 1;
            for start in (0..self.rows).step_by(quarter as usize) {
                let end = (start + quarter).min(self.rows);
                plan.slices.push(slice(format!("orders {start}"), Shape::Window, Range { start, end }));
            }
        }
        Ok(plan)
    }

    async fn extract(&self, slice: &Slice<Range>, from: Option<&At>, out: &mut Out<'_, At>) -> Result<Done> {
        let stream: &StreamName = &slice.streams[0];
        if !["orders", "changes"].contains(&stream.as_str()) {
            return Err(Error::new(ErrorKind::NotFound, "there is no such stream").with("stream", stream));
        }
        let feed = slice.shape == Shape::Feed;
        let end = if feed { self.changes } else { slice.work.end };
        let mut next = from.map_or(slice.work.start, |at| at.next);
        while next < end {
            let until = (next + self.page).min(end);
            assert!(!self.panic_at.is_some_and(|at| (next..until).contains(&at)), "as it was told");
            out.rows(stream, if feed { changes(next..until)? } else { orders(next..until)? }).await?;
            next = until;
            out.mark(&At { next, feed }).await?;
        }
        Ok(if feed { Done::CaughtUp } else { Done::Complete })
    }
}
