//! How fast pages of a job's results become batches, on one core: MB of CSV a second.
//!
//! `cargo bench -p ingest-connector-salesforce`; `ROWS=500000 ROUNDS=9` change the size.

use std::time::Instant;

use arrow_schema::{DataType, TimeUnit};
use ingest_connector_salesforce::decode_results;

fn main() {
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rows, rounds) = (number("ROWS", 200_000), number("ROUNDS", 7));
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns: Vec<(String, DataType)> = [
        ("Id", DataType::Utf8),
        ("Name", DataType::Utf8),
        ("Description", DataType::Utf8),
        ("AnnualRevenue", DataType::Decimal128(18, 2)),
        ("NumberOfEmployees", DataType::Int32),
        ("IsActive__c", DataType::Boolean),
        ("OwnerId", DataType::Utf8),
        ("BillingCity", DataType::Utf8),
        ("CreatedDate", time.clone()),
        ("LastModifiedDate", time.clone()),
        ("SystemModstamp", time),
        ("IsDeleted", DataType::Boolean),
    ]
    .map(|(name, ty)| (name.to_owned(), ty))
    .into();
    let names: Vec<String> = columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let mut page = format!("{}\n", names.join(","));
    for n in 0..rows {
        let time = format!("2024-01-{:02}T03:{:02}:05.000Z", n % 28 + 1, n % 60);
        page.push_str(&format!(
            "\"001{n:012}AAA\",\"Account {n}\",\"line 1, \"\"{n}\"\"\nline 2\",\"{n}.25\",\"{}\",\"true\",\"005{n:012}AAA\",\"Wien\",\
             \"{time}\",\"{time}\",\"{time}\",\"false\"\n",
            n % 1_000
        ));
    }
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let begun = Instant::now();
        assert_eq!(decode_results(columns.clone(), page.as_bytes()).expect("rows"), rows);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    let megabytes = page.len() as f64 / 1e6;
    println!(
        "salesforce, CSV of bulk results: {:.0} MB/s per core ({rows} rows, {megabytes:.0} MB, best of {rounds})",
        megabytes / best
    );
}
