//! Pages and objects a second, and CPU time per object, of `extract` to nowhere: one slice, one page after another, objects of
//! 1 kB from a server on this machine.
//!
//! `cargo bench -p ingest-connector-rest`; `OBJECTS=400000 PAGE=1000 ROUNDS=5` change the size. Pages are made once, so the
//! server costs little; what it costs is measured by a client that drains the same pages and parses nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingest_connector_rest::{ManifestSource, Rest, RestConfig, Work};
use ingest_core::{Connector, Context, Event, Out, RawOut, Result, Shape, Slice, async_trait};
use ingest_http::{ClientConfig, HttpClient};
use ingest_testkit::http::{HttpServer, Request, Response};
use serde_json::json;

/// Counts rows and drops them.
#[derive(Default)]
struct Nowhere {
    rows: usize,
}

#[async_trait]
impl RawOut for Nowhere {
    async fn put(&mut self, event: Event) -> Result<()> {
        if let Event::Rows(_, batch) = event {
            self.rows += batch.num_rows();
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

fn object(n: usize) -> String {
    let note = "lorem ipsum dolor sit amet ".repeat(15);
    format!(
        r#"{{"id":{n},"status":"open","total":"{n}.50","currency":"eur","created_at":"2026-01-31T12:00:00Z","updated_at":"2026-02-01T12:30:00.123Z","customer":{{"id":"cus_{n:010}","name":"Jane Doe","email":"c{n}@example.com","address":{{"city":"Wien","line1":"Ring 1","postal_code":"1010"}}}},"lines":[{{"sku":"sku-1","quantity":1,"price":"9.99"}},{{"sku":"sku-2","quantity":3,"price":"1.99"}}],"paid":true,"weight":1.25,"tags":["a","b","c"],"note":"{note}","score":{n},"channel":null,"reference":"ref-{n:012}"}}"#
    )
}

/// Answers pages of a list with a cursor in the body.
async fn server(objects: usize, page: usize) -> HttpServer {
    let body = |start: usize| {
        let items: Vec<String> = (start..(start + page).min(objects)).map(object).collect();
        let next = (start + page < objects).then(|| (start + page).to_string());
        format!(r#"{{"data":[{}],"paging":{{"next":{}}}}}"#, items.join(","), json!(next))
    };
    let bodies: Arc<Vec<String>> = Arc::new((0..objects).step_by(page).map(body).collect());
    HttpServer::start_unrecorded(move |request: Request| {
        let after = request.param("after").map_or(0, |text| text.parse::<usize>().expect("a number"));
        let body = bodies[after / page].clone();
        async move { Response::json(body) }
    })
    .await
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after = stat.rsplit(')').next().expect("a name in parentheses");
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
    ticks as f64 / 100.0
}

async fn extract(url: &str) -> usize {
    let columns = json!({"id": "int64", "status": "string", "total": "decimal(18,2)", "currency": "string",
        "created_at": "timestamp", "updated_at": "timestamp", "customer": "json", "lines": "json", "paid": "boolean",
        "weight": "decimal(10,4)", "tags": "list(string)", "note": "string", "score": "int64", "channel": "string",
        "reference": "string"});
    let stream = json!({"path": "/orders", "records": "data", "key": ["id"], "columns": columns,
        "pages": {"cursor": {"parameter": "after", "at": "paging.next"}}});
    let mut config = RestConfig::default();
    config.manifest = ManifestSource(json!({"base_url": "https://api.example.com", "streams": {"orders": stream}}));
    config.endpoint = Some(url.to_owned());
    let rest = Rest::open(config, Context::standalone("rest")).await.expect("valid");
    let work = Work::all("orders");
    let streams = vec!["orders".into()];
    let slice = Slice { id: "orders".into(), streams, shape: Shape::Snapshot, work, estimate: Default::default() };
    let mut nowhere = Nowhere::default();
    rest.extract(&slice, None, &mut Out::new(&mut nowhere, 1)).await.expect("all pages");
    nowhere.rows
}

/// Reads the same pages one after another and parses nothing.
async fn drain(url: &str, objects: usize, page: usize) -> usize {
    let client = HttpClient::new(ClientConfig::new(url, Some(url)).expect("a URL"), &Context::standalone("drain"));
    let (client, mut bytes) = (client.expect("valid"), 0);
    for after in (0..objects).step_by(page) {
        bytes += client.get("/orders").query("after", after).send().await.expect("a page").body().len();
    }
    bytes
}

fn medians(rounds: &mut [(Duration, f64)]) -> (f64, f64) {
    let middle = rounds.len() / 2;
    rounds.sort_by_key(|round| round.0);
    let wall = rounds[middle].0.as_secs_f64();
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    (wall, rounds[middle].1)
}

fn main() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (objects, page, rounds) =
        (number("OBJECTS", 200_000_usize), number("PAGE", 100_usize), number("ROUNDS", 5_usize));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async move {
        let server = server(objects, page).await;
        let (mut ours, mut limit, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            let (begun, before) = (Instant::now(), cpu());
            bytes = drain(server.url(), objects, page).await;
            limit.push((begun.elapsed(), cpu() - before));
            let (begun, before) = (Instant::now(), cpu());
            assert_eq!(extract(server.url()).await, objects);
            ours.push((begun.elapsed(), cpu() - before));
        }
        let (wall, spent) = medians(&mut ours);
        let (limit_wall, limit_spent) = medians(&mut limit);
        let each = |seconds: f64| seconds / objects as f64 * 1e6;
        let pages = objects.div_ceil(page) as f64;
        println!("{} bytes an object, {page} objects a page", bytes / objects);
        for (what, wall, spent) in [("drain:  ", limit_wall, limit_spent), ("extract:", wall, spent)] {
            println!(
                "{what} {:>8.0} objects/s, {:>6.0} pages/s, {:.2} us CPU an object, server included",
                objects as f64 / wall,
                pages / wall,
                each(spent)
            );
        }
        println!("extract less drain: {:.2} us CPU an object", each(spent - limit_spent));
    });
}
