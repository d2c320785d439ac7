//! CPU of reading CSV and NDJSON through the connector into Parquet, as a ratio to the plain arrow-rs readers into the
//! same Parquet writer, taken in turns.
//!
//! `cargo bench -p ingest-connector-files --bench decode [-- ROWS]`; with `memory` instead of a number it says what a
//! record of 200 MB costs.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use ingest_connector_files::Files;
use ingest_core::{
    Builtin, Context, Event, Factory, Intent, Mode, PlanRequest, RawOut, Result, Selected, Selection, async_trait,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

const ROUNDS: usize = 5;

fn main() {
    if std::env::args().any(|argument| argument == "memory") {
        return memory();
    }
    let rows: u64 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir().expect("temporary folder");
    write_csv(&dir.path().join("orders.csv"), rows);
    write_ndjson(&dir.path().join("events.ndjson"), rows);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    for (name, file) in [("csv", "orders.csv"), ("ndjson", "events.ndjson")] {
        let path = dir.path().join(file);
        let stream = file.split('.').next().expect("stem");
        let schema = runtime.block_on(schema(dir.path(), stream));
        let bytes = std::fs::metadata(&path).expect("file").len();
        for parquet in [false, true] {
            let (mut ours, mut plain) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let (cpu, read) = timed(|| runtime.block_on(connector(dir.path(), stream, parquet)));
                assert_eq!(read, rows);
                ours.push(cpu);
                let reader = if name == "csv" { plain_csv } else { plain_ndjson };
                let (cpu, read) = timed(|| reader(&path, &schema, parquet));
                assert_eq!(read, rows);
                plain.push(cpu);
            }
            let (ours, plain) = (median(ours), median(plain));
            println!(
                "{name}{}: {rows} rows, {} MB: connector {:.2} us/row, arrow-rs {:.2} us/row, ratio {:.2}",
                if parquet { " -> parquet (zstd 1)" } else { " decoded alone" },
                bytes >> 20,
                ours * 1e6 / rows as f64,
                plain * 1e6 / rows as f64,
                ours / plain
            );
        }
    }
}

/// Reads a file with one record of 200 MB among small ones and says how much memory that took.
fn memory() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut file = BufWriter::new(File::create(dir.path().join("huge.csv")).expect("file"));
    file.write_all(b"id,text\n1,a\n2,").expect("write");
    (0..200).for_each(|_| file.write_all(&[b'x'; 1_000_000]).expect("write"));
    file.write_all(b"\n3,c\n").expect("write");
    drop(file);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let rows = runtime.block_on(connector(dir.path(), "huge", true));
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    println!("a record of 200 MB, max_record 64MiB: {rows} rows read, peak {peak}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU seconds of this process, user and system.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    ticks / 100.0
}

fn timed(work: impl FnOnce() -> u64) -> (f64, u64) {
    let before = cpu();
    let rows = work();
    (cpu() - before, rows)
}

fn write_csv(path: &Path, rows: u64) {
    let mut file = BufWriter::new(File::create(path).expect("file"));
    writeln!(file, "id,customer,amount,tax,day,placed_at,paid,country,quantity,note").expect("write");
    for i in 0..rows {
        let note = match i % 20 {
            0 => format!("\"said \"\"hello, {i}\"\"\""),
            7 => String::new(),
            _ => format!("order number {} of the customer", i * 7919 % 100_003),
        };
        writeln!(
            file,
            "{},C-{:06},{}.{:02},{}.{:04},20{:02}-{:02}-{:02},2024-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z,{},{},{},{note}",
            1_000_000_000 + i,
            i * 31 % 50_000,
            i * 37 % 10_000,
            i % 100,
            i % 90,
            i * 13 % 10_000,
            i % 25,
            i % 12 + 1,
            i % 28 + 1,
            i % 12 + 1,
            i % 28 + 1,
            i % 24,
            i % 60,
            i * 7 % 60,
            i % 1000,
            i % 3 == 0,
            ["DE", "FR", "US", "PT", "JP"][(i % 5) as usize],
            if i % 11 == 0 { String::new() } else { (i % 500).to_string() },
        )
        .expect("write");
    }
}

fn write_ndjson(path: &Path, rows: u64) {
    let mut file = BufWriter::new(File::create(path).expect("file"));
    for i in 0..rows {
        writeln!(
            file,
            "{{\"id\":{},\"customer\":\"C-{:06}\",\"amount\":{}.{:02},\"placed_at\":\"2024-{:02}-{:02}T{:02}:00:00Z\",\
             \"paid\":{},\"country\":\"{}\",\"quantity\":{},\"note\":\"order number {} of the customer\"}}",
            1_000_000_000 + i,
            i * 31 % 50_000,
            i * 37 % 10_000,
            i % 100,
            i % 12 + 1,
            i % 28 + 1,
            i % 24,
            i % 3 == 0,
            ["DE", "FR", "US", "PT", "JP"][(i % 5) as usize],
            if i % 11 == 0 { "null".to_owned() } else { (i % 500).to_string() },
            i * 7919 % 100_003,
        )
        .expect("write");
    }
}

fn writer(schema: SchemaRef) -> ArrowWriter<std::io::Sink> {
    let level = ZstdLevel::try_new(1).expect("level");
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    ArrowWriter::try_new(std::io::sink(), schema, Some(properties)).expect("writer")
}

async fn source(dir: &Path) -> Box<dyn ingest_core::Source> {
    let config = serde_json::json!({"path": dir});
    Builtin::<Files>::new().open(config, Context::standalone("bench")).await.expect("open")
}

/// The columns of the file, without those that the connector adds.
async fn schema(dir: &Path, stream: &str) -> SchemaRef {
    let selection = Selection { select: vec![stream.into()], exclude: Vec::new() };
    let streams = source(dir).await.schema(&selection).await.expect("schema");
    let fields: Vec<_> = streams[0].schema.fields().iter().filter(|f| f.name() != "_source_file").cloned().collect();
    println!(
        "{stream}: {}",
        fields.iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
    );
    Arc::new(Schema::new(fields))
}

struct Encode {
    writer: Option<ArrowWriter<std::io::Sink>>,
    parquet: bool,
    rows: u64,
}

impl Encode {
    fn take(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        if self.parquet {
            self.writer.get_or_insert_with(|| writer(batch.schema())).write(batch).expect("encode");
        }
    }

    fn close(self) -> u64 {
        self.writer.map(|writer| writer.close().expect("close"));
        self.rows
    }
}

#[async_trait]
impl RawOut for Encode {
    async fn put(&mut self, event: Event) -> Result<()> {
        if let Event::Rows(_, batch) = event {
            self.take(&batch);
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

async fn connector(dir: &Path, stream: &str, parquet: bool) -> u64 {
    let source = source(dir).await;
    let selection = Selection { select: vec![stream.into()], exclude: Vec::new() };
    let stream = source.schema(&selection).await.expect("schema").remove(0);
    let selected =
        Selected { stream, mode: Mode::Full, cursor: None, columns: None, filter: None, positions: Default::default() };
    let request = PlanRequest {
        streams: vec![selected],
        intent: Intent::Here,
        slice_bytes: 1 << 40,
        min_slices: 1,
        interval: None,
        now: 0,
    };
    let plan = source.plan(&request).await.expect("plan");
    let mut out = Encode { writer: None, parquet, rows: 0 };
    for slice in &plan.slices {
        source.extract(slice, 1, None, &mut out).await.expect("extract");
    }
    out.close()
}

fn plain_csv(path: &Path, schema: &SchemaRef, parquet: bool) -> u64 {
    let reader = arrow_csv::ReaderBuilder::new(schema.clone())
        .with_header(true)
        .with_batch_size(8192)
        .build(BufReader::with_capacity(256 << 10, File::open(path).expect("file")))
        .expect("reader");
    let mut out = Encode { writer: None, parquet, rows: 0 };
    reader.for_each(|batch| out.take(&batch.expect("batch")));
    out.close()
}

fn plain_ndjson(path: &Path, schema: &SchemaRef, parquet: bool) -> u64 {
    let reader = arrow_json::ReaderBuilder::new(schema.clone())
        .with_batch_size(8192)
        .build(BufReader::with_capacity(256 << 10, File::open(path).expect("file")))
        .expect("reader");
    let mut out = Encode { writer: None, parquet, rows: 0 };
    reader.for_each(|batch| out.take(&batch.expect("batch")));
    out.close()
}
