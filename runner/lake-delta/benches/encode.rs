//! What encoding costs: rows like TPC-H `lineitem` through our writer, against the bare Parquet writer in the same run,
//! in turns. CPU is that of the whole process, so that work moved to another thread counts.
//!
//! `cargo bench -p ingest-lake-delta --bench encode [-- ROWS]`
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray};
use ingest_core::lake::{Compression, Definition, Table, TableFormat, WriterOptions};
use ingest_lake_delta::DeltaFormat;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::WriterProperties;

const BATCH_ROWS: usize = 65_536;
const TURNS: usize = 5;

/// Deterministic, like enough to the real thing: the same types, ranges and share of repeated values.
fn lineitem(number: usize) -> RecordBatch {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let words = [
        "carefully",
        "final",
        "deposits",
        "quickly",
        "express",
        "requests",
        "sleep",
        "furiously",
        "ironic",
        "packages",
        "above",
        "the",
    ];
    let first = (number * BATCH_ROWS / 4) as i64;
    let mut n = |below: u64, from: i64| -> Vec<i64> { (0..BATCH_ROWS).map(|_| from + next(below) as i64).collect() };
    let dates = |values: Vec<i64>| -> ArrayRef {
        Arc::new(Date32Array::from_iter_values(values.into_iter().map(|v| v as i32)))
    };
    let money = |values: Vec<i64>| -> ArrayRef {
        let values = values.into_iter().map(i128::from);
        Arc::new(Decimal128Array::from_iter_values(values).with_precision_and_scale(15, 2).unwrap())
    };
    let text = |values: Vec<i64>, of: &[&str]| -> ArrayRef {
        Arc::new(values.into_iter().map(|v| Some(of[v as usize])).collect::<StringArray>())
    };
    let (flag, status, instruct, mode) = (n(3, 0), n(2, 0), n(4, 0), n(7, 0));
    let (part, supplier, quantity, price) = (n(200_000, 1), n(10_000, 1), n(50, 1), n(10_000_000, 90_000));
    let (discount, tax, ship, commit, receipt) = (n(11, 0), n(9, 0), n(2500, 8000), n(2500, 8000), n(2500, 8000));
    let comments = n(u64::MAX >> 1, 0);
    let comments: StringArray = comments
        .into_iter()
        .map(|v| {
            let mut v = v as usize;
            let mut text = String::new();
            for _ in 0..4 {
                text.push_str(words[v % words.len()]);
                text.push(' ');
                v /= words.len();
            }
            text.truncate(10 + v % 30);
            Some(text)
        })
        .collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("l_orderkey", Arc::new(Int64Array::from_iter_values((0..BATCH_ROWS as i64).map(|i| first + i / 4)))),
        ("l_partkey", Arc::new(Int64Array::from(part))),
        ("l_suppkey", Arc::new(Int64Array::from(supplier))),
        ("l_linenumber", Arc::new(Int32Array::from_iter_values((0..BATCH_ROWS as i32).map(|i| i % 7 + 1)))),
        ("l_quantity", money(quantity.iter().map(|q| q * 100).collect())),
        ("l_extendedprice", money(price)),
        ("l_discount", money(discount)),
        ("l_tax", money(tax)),
        ("l_returnflag", text(flag, &["A", "N", "R"])),
        ("l_linestatus", text(status, &["F", "O"])),
        ("l_shipdate", dates(ship)),
        ("l_commitdate", dates(commit)),
        ("l_receiptdate", dates(receipt)),
        ("l_shipinstruct", text(instruct, &["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"])),
        ("l_shipmode", text(mode, &["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"])),
        ("l_comment", Arc::new(comments)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

/// CPU seconds of this process so far, user and system, to the nanosecond where the kernel counts so.
fn cpu() -> f64 {
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text.split_whitespace().next().and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
    }
    total / 1e9
}

fn bare(path: &Path, batches: &[RecordBatch], rows: usize) {
    let properties = WriterProperties::builder().set_compression(Codec::ZSTD(ZstdLevel::try_new(1).unwrap())).build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
    for i in 0..rows / BATCH_ROWS {
        writer.write(&batches[i % batches.len()]).unwrap();
    }
    writer.close().unwrap();
}

fn ours(table: &dyn Table, options: &WriterOptions, batches: &[RecordBatch], rows: usize) -> u64 {
    let mut writer = table.writers().writer(batches[0].schema(), options).unwrap();
    for i in 0..rows / BATCH_ROWS {
        writer.write(&batches[i % batches.len()]).unwrap();
    }
    writer.finish().unwrap().iter().map(|f| f.bytes).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rows = std::env::args().filter_map(|a| a.parse::<usize>().ok()).next().unwrap_or(3_000_000);
    let batches: Vec<RecordBatch> = (0..24).map(lineitem).collect();
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let format = DeltaFormat::open(folder.path().to_str().unwrap(), &Default::default()).unwrap();
    let definition = Definition { schema: batches[0].schema(), partition_by: vec![], description: None };
    let table = runtime.block_on(format.create("lineitem", &definition)).unwrap();
    let options = WriterOptions {
        target_file_bytes: 128 << 20,
        memory_bytes: 64 << 20,
        compression: Compression::Zstd,
        runtime: runtime.handle().clone(),
    };
    let (mut bare_cpu, mut our_cpu, mut bare_wall, mut our_wall) = (vec![], vec![], vec![], vec![]);
    let mut bytes = 0;
    for _ in 0..TURNS {
        let (c, t) = (cpu(), Instant::now());
        bare(&folder.path().join("bare.parquet"), &batches, rows);
        bare_cpu.push(cpu() - c);
        bare_wall.push(t.elapsed().as_secs_f64());
        let (c, t) = (cpu(), Instant::now());
        bytes = ours(table.as_ref(), &options, &batches, rows);
        our_cpu.push(cpu() - c);
        our_wall.push(t.elapsed().as_secs_f64());
    }
    let rows = (rows / BATCH_ROWS * BATCH_ROWS) as f64;
    let (bare_cpu, our_cpu) = (median(bare_cpu), median(our_cpu));
    let (bare_wall, our_wall) = (median(bare_wall), median(our_wall));
    let bare_bytes = std::fs::metadata(folder.path().join("bare.parquet")).unwrap().len();
    println!("{rows} rows of 16 columns, zstd level 1, medians of {TURNS} in turns");
    println!(
        "bare Parquet writer   {:.3} us/row CPU, {:.3} us/row wall, {bare_bytes} bytes",
        bare_cpu / rows * 1e6,
        bare_wall / rows * 1e6
    );
    println!(
        "Delta, durable        {:.3} us/row CPU, {:.3} us/row wall, {bytes} bytes",
        our_cpu / rows * 1e6,
        our_wall / rows * 1e6
    );
    println!("ratio                 {:.3} CPU, {:.3} wall", our_cpu / bare_cpu, our_wall / bare_wall);
}
