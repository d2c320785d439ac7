//! What masks and checks cost: TPC-H `lineitem` from a CSV file into a Delta table in memory, plain, with two text columns
//! masked, and with three checks.
//!
//! `bash benches/run policies`, or `cargo bench -p ingest-runner --bench policies`. CPU time of the process, user and system; each figure is the median of
//! several turns, the cases taken in turns, printed as a ratio to the plain load of the same run. `ROWS` sets the rows.

use std::error::Error;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use ingest_core::{CancellationToken, Json};
use ingest_lake_delta::DeltaFormat;
use ingest_runner::config::{Common, Config, LakeConfig, SourceConfig, StreamOptions};
use ingest_runner::events::Silent;
use ingest_runner::registry::Registry;
use ingest_runner::run::{RunOptions, run};
use ingest_runner::session::{Lake, Session};
use object_store::memory::InMemory;
use serde_json::json;

const TURNS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let rows: u64 = std::env::var("ROWS").ok().map_or(Ok(600_000), |rows| rows.parse())?;
    let folder = tempfile::tempdir()?;
    write_lineitem(&folder.path().join("lineitem.csv"), rows)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cases = [
        ("plain", json!({})),
        (
            "two text columns masked: hash, partial",
            json!({"mask": {"l_comment": "hash", "l_shipinstruct": {"partial": 4}}}),
        ),
        (
            "three checks: not_null, range, accepted_values",
            json!({"checks": [
                {"column": "l_orderkey", "not_null": true, "on_fail": "fail"},
                {"column": "l_quantity", "range": {"min": 0, "max": 100}, "on_fail": "quarantine"},
                {"column": "l_shipmode", "accepted_values": ["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"]},
            ]}),
        ),
        (
            "three checks: not_null, range, regex",
            json!({"checks": [
                {"column": "l_orderkey", "not_null": true, "on_fail": "fail"},
                {"column": "l_quantity", "range": {"min": 0, "max": 100}, "on_fail": "quarantine"},
                {"column": "l_comment", "regex": "^[a-z ]+$", "on_fail": "quarantine"},
            ]}),
        ),
    ];
    let mut turns: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for turn in 0..=TURNS {
        for (case, (name, options)) in cases.iter().enumerate() {
            let before = cpu_seconds()?;
            let written = runtime.block_on(load(folder.path(), options))?;
            assert_eq!(written, rows, "{name}");
            // The first turn warms up.
            if turn > 0 {
                turns[case].push(cpu_seconds()? - before);
            }
        }
    }
    let median = |turns: &mut Vec<f64>| {
        turns.sort_by(f64::total_cmp);
        turns[turns.len() / 2]
    };
    let plain = median(&mut turns[0]);
    println!("{rows} rows of lineitem, CSV to Delta; CPU of the process");
    for ((name, _), turns) in cases.iter().zip(&mut turns) {
        let seconds = median(turns);
        println!("{name:50} {:.3} us/row   {:.3} of the plain load", seconds * 1e6 / rows as f64, seconds / plain);
    }
    Ok(())
}

async fn load(folder: &std::path::Path, options: &Json) -> Result<u64, Box<dyn Error>> {
    let store = Arc::new(InMemory::new());
    let lake = Lake {
        format: Arc::new(DeltaFormat::new(store.clone(), "memory:///".parse()?)),
        documents: ingest_catalog::Documents::new(store.clone()),
        store,
        config: LakeConfig::default(),
    };
    let mut options: StreamOptions = serde_json::from_value(options.clone())?;
    options.mode = Some(ingest_core::Mode::Full);
    let common =
        Common { mask_key: Some(ingest_core::Secret::new("a key of thirty-two characters..")), ..Common::default() };
    let source = SourceConfig {
        fields: json!({"path": folder.to_string_lossy()}),
        streams: vec![("lineitem".into(), options)],
        common: common.clone(),
        ..SourceConfig::named("files")
    };
    let config = Config {
        lake: LakeConfig::default(),
        memory: ingest_core::config::ByteSize(512 << 20),
        sources: [("files".to_owned(), source)].into(),
        common,
        file: None,
    };
    let session =
        Session::open_in(lake, &config, &Registry::builtin(), "files", None, CancellationToken::new()).await?;
    let report = run(&session, &RunOptions::default(), Arc::new(Silent)).await;
    match report.streams.first().and_then(|stream| stream.error.as_ref()).or(report.error.as_ref()) {
        Some(error) => Err(error.message.clone().into()),
        None => Ok(report.rows_written),
    }
}

/// User and system time of this process, in seconds. Linux counts it in hundredths.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

fn write_lineitem(path: &std::path::Path, rows: u64) -> std::io::Result<()> {
    const WORDS: [&str; 12] = [
        "carefully",
        "final",
        "deposits",
        "sleep",
        "furiously",
        "regular",
        "requests",
        "above",
        "the",
        "ironic",
        "packages",
        "haggle",
    ];
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    writeln!(
        out,
        "l_orderkey,l_partkey,l_suppkey,l_linenumber,l_quantity,l_extendedprice,l_discount,l_tax,l_returnflag,l_linestatus,l_shipdate,l_commitdate,l_receiptdate,l_shipinstruct,l_shipmode,l_comment"
    )?;
    let mut state = 42_u64;
    let mut chance = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for row in 0..rows {
        let words = 3 + chance(4);
        let comment: Vec<&str> = (0..words).map(|_| WORDS[chance(12) as usize]).collect();
        let mut date = || format!("199{}-{:02}-{:02}", 2 + chance(7), 1 + chance(12), 1 + chance(28));
        let (ship, commit, receipt) = (date(), date(), date());
        writeln!(
            out,
            "{},{},{},{},{},{}.{:02},0.0{},0.0{},{},{},{ship},{commit},{receipt},{},{},{}",
            row / 4 + 1,
            1 + chance(200_000),
            1 + chance(10_000),
            row % 4 + 1,
            1 + chance(50),
            900 + chance(100_000),
            chance(100),
            chance(10),
            chance(9),
            ["A", "N", "R"][chance(3) as usize],
            ["O", "F"][chance(2) as usize],
            ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"][chance(4) as usize],
            ["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"][chance(7) as usize],
            comment.join(" "),
        )?;
    }
    out.flush()
}
