//! What conforming costs per row: TPC-H `lineitem` batches into a table of the same types, and into tables that differ.
//!
//! `cargo bench -p ingest-runner --bench conform`. Each figure is the median of several turns, the cases taken in turns; CPU
//! time where Linux tells it, since wall time on a shared machine says little.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_core::StreamName;
use ingest_core::lake::TableFormat;
use ingest_lake_delta::DeltaFormat;
use ingest_runner::config::SchemaPolicy;
use ingest_runner::conform::{Conform, Input, Stamp, reconcile};

const ROWS: usize = 16_384;
const TURNS: usize = 21;
const BATCHES: u32 = 40;

struct Case {
    name: &'static str,
    conform: Conform,
    batch: RecordBatch,
    rescued: usize,
    turns: Vec<Duration>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let format: Arc<dyn TableFormat> =
        Arc::new(DeltaFormat::new(Arc::new(object_store::memory::InMemory::new()), "memory:///".parse()?));
    let whole = lineitem(0)?;
    let far_dates = lineitem(100)?;
    let mut cases = vec![
        case(&format, "same types", &whole, None, 0)?,
        case(&format, "table has wider integers", &whole, Some(("l_linenumber", DataType::Int64)), 0)?,
        case(&format, "one date in 100 out of bounds", &far_dates, None, ROWS.div_ceil(100))?,
        case(&format, "one integer column is text in the table", &whole, Some(("l_partkey", DataType::Utf8)), 0)?,
        case(&format, "one decimal column is a double in the table", &whole, Some(("l_tax", DataType::Float64)), 0)?,
    ];
    let stamp = Stamp { run_id: "019ab4c2f4e77d1e8a1b2c3d4e5f6071".into(), ingested_at: 1_763_668_800_000_000 };
    for _ in 0..TURNS {
        for case in &mut cases {
            let start = Clock::now();
            for _ in 0..BATCHES {
                let conformed = case.conform.batch(black_box(case.batch.clone()), &stamp)?;
                assert_eq!(black_box(&conformed).rescued, case.rescued, "{}", case.name);
            }
            case.turns.push(start.elapsed());
        }
    }
    println!("{ROWS} rows of 16 columns a batch");
    for case in &mut cases {
        case.turns.sort();
        let rows = f64::from(BATCHES) * ROWS as f64;
        let micros = case.turns[TURNS / 2].as_secs_f64() * 1e6 / rows;
        println!("{:48} {micros:.4} us/row", case.name);
    }
    Ok(())
}

/// CPU time of this thread, else wall time.
struct Clock {
    cpu: Option<Duration>,
    wall: Instant,
}

impl Clock {
    fn now() -> Self {
        Self { cpu: Self::cpu(), wall: Instant::now() }
    }

    fn elapsed(&self) -> Duration {
        let wall = self.wall.elapsed();
        self.cpu.zip(Self::cpu()).map_or(wall, |(before, after)| after.saturating_sub(before))
    }

    /// The first figure of `schedstat` is the time on a CPU in nanoseconds.
    fn cpu() -> Option<Duration> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    }
}

/// A case whose table is that of the batch, but for one column of another type.
fn case(
    format: &Arc<dyn TableFormat>,
    name: &'static str,
    batch: &RecordBatch,
    other: Option<(&str, DataType)>,
    rescued: usize,
) -> Result<Case, Box<dyn Error>> {
    let table = with_ours(format, &batch.schema(), other)?;
    let conform = reconcile(format, &input(&StreamName::from("lineitem"), &batch.schema(), Some(&table)))?;
    Ok(Case { name, conform, batch: batch.clone(), rescued, turns: Vec::new() })
}

fn with_ours(
    format: &Arc<dyn TableFormat>,
    schema: &SchemaRef,
    other: Option<(&str, DataType)>,
) -> Result<SchemaRef, Box<dyn Error>> {
    let fields = schema.fields().iter().map(|field| match &other {
        Some((name, data_type)) if name == field.name() => Field::new(*name, data_type.clone(), true),
        _ => field.as_ref().clone(),
    });
    let source: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let conform = reconcile(format, &input(&StreamName::from("lineitem"), &source, None))?;
    Ok(Arc::clone(conform.storage()))
}

static COMMENTS: [&str; 3] =
    ["egular courts above the", "ly final dependencies: slyly bold", "riously. regular, express dep"];

static NONE_OFF: BTreeMap<String, bool> = BTreeMap::new();

fn input<'a>(stream: &'a StreamName, source: &'a SchemaRef, table: Option<&'a SchemaRef>) -> Input<'a> {
    let added_columns = &NONE_OFF;
    Input { stream, source, table, policy: SchemaPolicy::Evolve, added_columns, seq: false, absent: false }
}

/// A batch shaped like `lineitem`; every `far`-th ship date lies beyond the year 9999 (0 = none).
fn lineitem(far: usize) -> Result<RecordBatch, Box<dyn Error>> {
    let longs = |step: i64| -> ArrayRef { Arc::new((0..ROWS as i64).map(|i| i * step).collect::<Int64Array>()) };
    let decimals = |step: i128| -> Result<ArrayRef, Box<dyn Error>> {
        let values = (0..ROWS as i128).map(|i| Some(i * step)).collect::<Decimal128Array>();
        Ok(Arc::new(values.with_precision_and_scale(15, 2)?))
    };
    let texts = |words: &'static [&'static str]| -> ArrayRef {
        Arc::new((0..ROWS).map(|i| Some(words[i % words.len()])).collect::<StringArray>())
    };
    let dates = |far: usize| -> ArrayRef {
        let day = |i: usize| if far > 0 && i.is_multiple_of(far) { 3_000_000 } else { 9_000 + (i % 2_500) as i32 };
        Arc::new((0..ROWS).map(|i| Some(day(i))).collect::<Date32Array>())
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("l_orderkey", longs(1)),
        ("l_partkey", longs(37)),
        ("l_suppkey", longs(11)),
        ("l_linenumber", Arc::new((0..ROWS).map(|i| (i % 7) as i32).collect::<Int32Array>())),
        ("l_quantity", decimals(100)?),
        ("l_extendedprice", decimals(2_399)?),
        ("l_discount", decimals(1)?),
        ("l_tax", decimals(3)?),
        ("l_returnflag", texts(&["N", "R", "A"])),
        ("l_linestatus", texts(&["O", "F"])),
        ("l_shipdate", dates(far)),
        ("l_commitdate", dates(0)),
        ("l_receiptdate", dates(0)),
        ("l_shipinstruct", texts(&["DELIVER IN PERSON", "TAKE BACK RETURN", "NONE", "COLLECT COD"])),
        ("l_shipmode", texts(&["TRUCK", "MAIL", "REG AIR", "AIR", "FOB", "RAIL", "SHIP"])),
        ("l_comment", texts(&COMMENTS)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
