//! What reading costs against the limit: our extract to nowhere, in turns with `psql \copy … to /dev/null`.
//!
//! A table like TPC-H `lineitem` is generated in a private server. `INGEST_BENCH_ROWS` is its size (by default that of
//! scale factor 1), `INGEST_BENCH_TURNS` the number of turns (by default three); medians are printed. CPU is that of the
//! client alone, user and system, in microseconds a row.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ingest_connector_postgres::Postgres as Connector;
use ingest_core::{
    Builtin, Context, Event, Factory, Intent, Mode, PlanRequest, RawOut, Result, Selected, Selection, Source,
    async_trait,
};
use ingest_testkit::postgres::{Options, Postgres};
use serde_json::json;

const TABLE: &str = "
CREATE UNLOGGED TABLE lineitem (
  l_orderkey bigint, l_partkey integer, l_suppkey integer, l_linenumber integer,
  l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2),
  l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date,
  l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44));
INSERT INTO lineitem SELECT
  i / 4, h % 200000, h % 10000, i % 7 + 1,
  h % 50 + 1, (h % 10000000) / 100.0, (h % 11) / 100.0, (h % 9) / 100.0,
  substr('ANR', (h % 3)::int + 1, 1), substr('OF', (h % 2)::int + 1, 1),
  date '1992-01-01' + (h % 2500)::int, date '1992-01-01' + (h % 2511)::int, date '1992-01-01' + (h % 2521)::int,
  (ARRAY['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[h % 4 + 1],
  (ARRAY['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[h % 7 + 1],
  substr('carefully final deposits haggle slyly about the furious ideas nag', (h % 20)::int + 1, (h % 34)::int + 10)
FROM (SELECT i, (i::bigint * 2654435761) % 4294967291 AS h FROM generate_series(1, {rows}) i) s;
VACUUM (ANALYZE, FREEZE) lineitem";

/// Counts rows and forgets them.
#[derive(Default)]
struct Nowhere {
    rows: usize,
    bytes: usize,
}

#[async_trait]
impl RawOut for Nowhere {
    async fn put(&mut self, event: Event) -> Result<()> {
        if let Event::Rows(_, batch) = event {
            self.rows += batch.num_rows();
            self.bytes = self.bytes.max(batch.get_array_memory_size());
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

struct Turn {
    wall: Duration,
    cpu: f64,
}

fn main() {
    let rows: usize = number("INGEST_BENCH_ROWS", 6_001_215);
    let turns: usize = number("INGEST_BENCH_TURNS", 3);
    let settings = [("shared_buffers", "2GB"), ("max_wal_size", "8GB"), ("autovacuum", "off")];
    let options = Options { settings: &settings, ..Options::default() };
    let Some(server) = Postgres::private(&options) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = server.client("postgres").await;
        for statement in TABLE.replace("{rows}", &rows.to_string()).split(';') {
            client.batch_execute(statement).await.expect("valid SQL");
        }
    });
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..turns {
        found[0].push(psql(&server));
        found[1].push(runtime.block_on(extract(&server, 1, rows)));
        found[2].push(runtime.block_on(extract(&server, 2, rows)));
    }
    println!("{rows} rows, 16 columns, median of {turns}");
    for (name, turns) in
        ["psql \\copy to /dev/null", "extract, 1 connection", "extract, 2 connections"].iter().zip(&mut found)
    {
        turns.sort_by_key(|turn| turn.wall);
        let wall = turns[turns.len() / 2].wall;
        turns.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
        let cpu = turns[turns.len() / 2].cpu;
        println!(
            "{name:26} wall {:6.2} s  {:9.0} rows/s  client CPU {:5.2} s  {:.3} us/row",
            wall.as_secs_f64(),
            rows as f64 / wall.as_secs_f64(),
            cpu,
            cpu * 1e6 / rows as f64
        );
    }
    many_small(&server, &runtime);
}

/// 300 tables of 1,000 rows: what a table costs beyond its COPY.
fn many_small(server: &Postgres, runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let client = server.client("postgres").await;
        client
            .batch_execute(
                "CREATE SCHEMA small; DO $$ BEGIN FOR i IN 1..300 LOOP
                 EXECUTE format('CREATE TABLE small.t%s AS SELECT i AS id, ''row '' || i AS name FROM generate_series(1, 1000) i', i);
                 END LOOP; END $$",
            )
            .await
            .expect("valid SQL");
        let source = source(server).await;
        let (started, cpu) = (Instant::now(), cpu(false));
        let rows = read(&*source, "small.*", 1).await;
        let cpu = crate::cpu(false) - cpu;
        assert_eq!(rows, 300_000);
        println!(
            "300 tables of 1,000 rows: wall {:.2} s, client CPU {:.2} ms a table, with discovery and plan",
            started.elapsed().as_secs_f64(),
            cpu * 1e3 / 300.0
        );
    });
}

fn psql(server: &Postgres) -> Turn {
    let (started, before) = (Instant::now(), cpu(true));
    let status = Command::new("psql")
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", "postgres", "-qc"])
        .arg("\\copy lineitem to /dev/null (format binary)")
        .env("PGPASSWORD", server.password())
        .stdout(Stdio::null())
        .status()
        .expect("psql");
    assert!(status.success());
    Turn { wall: started.elapsed(), cpu: cpu(true) - before }
}

async fn source(server: &Postgres) -> Box<dyn Source> {
    let config = json!({"host": "127.0.0.1", "port": server.port(), "database": "postgres", "user": "postgres",
        "password": server.password()});
    Builtin::<Connector>::new().open(config, Context::standalone("bench")).await.expect("a valid configuration")
}

async fn extract(server: &Postgres, connections: u32, rows: usize) -> Turn {
    let source = source(server).await;
    let (started, before) = (Instant::now(), cpu(false));
    let read = read(&*source, "public.lineitem", connections).await;
    assert_eq!(read, rows);
    Turn { wall: started.elapsed(), cpu: cpu(false) - before }
}

async fn read(source: &dyn Source, select: &str, connections: u32) -> usize {
    let selection = Selection { select: vec![select.into()], exclude: Vec::new() };
    let streams = source.schema(&selection).await.expect("streams");
    let selected = streams.into_iter().map(|stream| Selected {
        stream,
        mode: Mode::Full,
        cursor: None,
        columns: None,
        filter: None,
        positions: Default::default(),
    });
    let request = PlanRequest {
        streams: selected.collect(),
        intent: Intent::Here,
        slice_bytes: if connections > 1 { 64 << 20 } else { 1 << 40 },
        min_slices: connections,
        interval: None,
        now: 0,
    };
    let plan = source.plan(&request).await.expect("a plan");
    let next = AtomicUsize::new(0);
    let worker = async || {
        let mut out = Nowhere::default();
        while let Some(slice) = plan.slices.get(next.fetch_add(1, Ordering::Relaxed)) {
            source.extract(slice, 1, None, &mut out).await.expect("a slice");
        }
        out.rows
    };
    if connections > 1 {
        let (a, b) = tokio::join!(worker(), worker());
        a + b
    } else {
        worker().await
    }
}

/// Seconds of CPU of this process, or of its children that have ended.
fn cpu(children: bool) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let at = if children { 13 } else { 11 };
    let ticks: f64 = fields[at..at + 2].iter().map(|ticks| ticks.parse::<f64>().unwrap_or(0.0)).sum();
    ticks / 100.0
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
