//! Objects a second, and CPU time per object, of `extract` to nowhere, over pages of 100 objects of 1 kB from a server
//! on this machine.
//!
//! `cargo bench -p ingest-connector-stripe`; `OBJECTS=200000 ROUNDS=5` change the size. The pages are made once, so the
//! server costs little; what it costs is measured by a client that drains the same pages and parses nothing, in turns.
//! Both processes are one: the CPU time of the drain is the limit that is taken off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use ingest_connector_stripe::{ListWork, Stripe, StripeConfig, Work};
use ingest_core::{Connector, Context, Event, Out, RawOut, Result, Secret, Shape, Slice, async_trait};
use ingest_http::{Auth, ClientConfig, HttpClient};
use ingest_testkit::http::{HttpServer, Request, Response};

const PAGE: usize = 100;

/// Counts rows and drops them.
#[derive(Default)]
struct Nowhere {
    rows: usize,
}

#[async_trait]
impl RawOut for Nowhere {
    async fn put(&mut self, event: Event) -> Result<()> {
        if let Event::Rows(_, batch) = event {
            self.rows += RecordBatch::num_rows(&batch);
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

/// Answers any page of a list of `objects` charges, one a second.
async fn server(objects: usize) -> HttpServer {
    let object = |n: usize| {
        format!(
            r#"{{"id":"ch_{n:010}","object":"charge","amount":{n},"amount_captured":{n},"amount_refunded":0,"balance_transaction":"txn_{n:010}","billing_details":{{"address":{{"city":"Wien","country":"AT","line1":"Ring 1","line2":null,"postal_code":"1010","state":null}},"email":"c{n}@example.com","name":"Jane Doe","phone":null}},"calculated_statement_descriptor":"EXAMPLE.COM","captured":true,"created":{n},"currency":"eur","customer":"cus_{n:010}","description":"Order 17","disputed":false,"failure_code":null,"failure_message":null,"fraud_details":{{}},"livemode":false,"metadata":{{"order":"{n}"}},"outcome":{{"network_status":"approved_by_network","reason":null,"risk_level":"normal","risk_score":5}},"paid":true,"payment_intent":"pi_{n:010}","payment_method":"pm_{n:010}","payment_method_details":{{"card":{{"brand":"visa","exp_month":8,"exp_year":2030,"last4":"4242"}},"type":"card"}},"receipt_url":"https://pay.example.com/receipts/{n}","refunded":false,"status":"succeeded"}}"#
        )
    };
    // The place of an object in `texts` is its time of creation.
    let texts: Arc<Vec<String>> = Arc::new((0..objects).map(object).collect());
    HttpServer::start_unrecorded(move |request: Request| {
        let texts = texts.clone();
        async move {
            let number = |name: &str| request.param(name).and_then(|text| text.parse::<usize>().ok());
            let after = request.param("starting_after").and_then(|id| id.strip_prefix("ch_")?.parse::<usize>().ok());
            let low = number("created[gte]").unwrap_or(0);
            let high = number("created[lte]").map_or(texts.len(), |to| (to + 1).min(texts.len()));
            let high = after.unwrap_or(high).min(high);
            let from = high.saturating_sub(PAGE).max(low);
            let mut body = String::with_capacity(110 * 1_024);
            body.push_str(r#"{"object":"list","url":"/v1/charges","has_more":"#);
            body.push_str(if from > low { "true" } else { "false" });
            body.push_str(r#","data":["#);
            for (i, n) in (from..high).rev().enumerate() {
                body.push_str(if i == 0 { "" } else { "," });
                body.push_str(&texts[n]);
            }
            body.push_str("]}");
            Response::json(body)
        }
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

async fn extract(url: &str, objects: usize) -> usize {
    let mut config = StripeConfig::default();
    config.api_key = Secret::new("sk_test_bench");
    config.endpoint = Some(url.to_owned());
    let stripe = Stripe::open(config, Context::standalone("stripe")).await.expect("valid");
    let to = objects as i64;
    let work = Work::List(ListWork { list: "charges".into(), account: None, from: None, to, at: to });
    let streams = vec!["charges".into()];
    let slice = Slice { id: "charges".into(), streams, shape: Shape::Window, work, estimate: Default::default() };
    let mut nowhere = Nowhere::default();
    stripe.extract(&slice, None, &mut Out::new(&mut nowhere, 1)).await.expect("all pages");
    nowhere.rows
}

/// Reads the same pages, four at once, and parses nothing.
async fn drain(url: &str, objects: usize) -> usize {
    let mut config = ClientConfig::new(url, Some(url)).expect("a URL");
    config.auth = Auth::Bearer(Secret::new("sk_test_bench"));
    let client = HttpClient::new(config, &Context::standalone("drain")).expect("valid");
    let mut readers = tokio::task::JoinSet::new();
    for part in 0..4 {
        let client = client.clone();
        readers.spawn(async move {
            let (mut page, mut bytes) = (part, 0);
            while page * PAGE < objects {
                let request = client.get("/v1/charges").query("created[lte]", page * PAGE + PAGE - 1);
                bytes += request.send().await.expect("a page").body().len();
                page += 4;
            }
            bytes
        });
    }
    readers.join_all().await.into_iter().sum()
}

fn main() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (objects, rounds) = (number("OBJECTS", 200_000_usize), number("ROUNDS", 5_usize));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async move {
        let server = server(objects).await;
        let (mut ours, mut limit) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (begun, before) = (Instant::now(), cpu());
            let bytes = drain(server.url(), objects).await;
            limit.push((begun.elapsed(), cpu() - before));
            assert!(bytes > objects * 900);
            let (begun, before, hits) = (Instant::now(), cpu(), server.hits());
            assert_eq!(extract(server.url(), objects).await, objects);
            ours.push((begun.elapsed(), cpu() - before));
            let calls = server.hits() - hits;
            assert!(calls <= 2 * objects.div_ceil(PAGE), "{calls} calls");
            println!("{calls} calls for {} pages", objects.div_ceil(PAGE));
        }
        let (wall, spent) = medians(&mut ours);
        let (limit_wall, limit_spent) = medians(&mut limit);
        let each = |seconds: f64| seconds / objects as f64 * 1e6;
        println!(
            "drain:   {:>9.0} objects/s, {:.2} us CPU each, server included",
            objects as f64 / limit_wall,
            each(limit_spent)
        );
        println!("extract: {:>9.0} objects/s, {:.2} us CPU each, server included", objects as f64 / wall, each(spent));
        println!(
            "extract less drain: {:.2} us CPU each; wall ratio {:.2}",
            each(spent - limit_spent),
            wall / limit_wall
        );
    });
}

fn medians(rounds: &mut [(Duration, f64)]) -> (f64, f64) {
    let middle = rounds.len() / 2;
    rounds.sort_by_key(|round| round.0);
    let wall = rounds[middle].0.as_secs_f64();
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    (wall, rounds[middle].1)
}
