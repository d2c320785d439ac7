//! Every request against stripe-mock, Stripe's own checker of requests: it refuses unknown parameters and wrong types,
//! and answers with one object of the documented shape.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ingest_connector_stripe::StripeConfig;
use ingest_core::{Connector, Context, Mode, Secret, Selection};

use crate::harness::Lake;

struct StripeMock {
    process: Child,
    url: String,
}

impl Drop for StripeMock {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

impl StripeMock {
    /// `None` when `INGEST_TEST_SKIP` names it.
    async fn start() -> Option<Self> {
        let named = std::env::var_os("INGEST_TEST_STRIPE_MOCK").map(std::path::PathBuf::from);
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        let candidates: Vec<_> = named
            .into_iter()
            .chain([
                ingest_testkit::programs::home().join("bin/stripe-mock"),
                "stripe-mock".into(),
                std::path::Path::new(&home).join("go/bin/stripe-mock"),
            ])
            .collect();
        let program = ingest_testkit::programs::find("stripe-mock", &candidates)?;
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let process = Command::new(program)
            .args(["-http-addr", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("stripe-mock starts");
        let mock = Self { process, url: format!("http://127.0.0.1:{port}") };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(mock);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("stripe-mock does not listen within 30 s");
    }

    fn config(&self) -> StripeConfig {
        let mut config = StripeConfig::default();
        config.api_key = Secret::new("sk_test_123");
        config.endpoint = Some(self.url.clone());
        config
    }
}

#[tokio::test]
async fn stripe_mock_takes_the_requests_of_every_stream_and_every_documented_field_has_a_column() {
    let Some(mock) = StripeMock::start().await else { return };
    let stripe = ingest_connector_stripe::Stripe::open(mock.config(), Context::standalone("stripe")).await.unwrap();
    assert_eq!(stripe.check(&Selection::default()).await.unwrap(), []);
    let streams = stripe.schema(&Selection::default()).await.unwrap();
    for stream in streams {
        let name = stream.name.as_str();
        for mode in [Mode::Full, Mode::Incremental] {
            let mut lake = Lake::default();
            lake.run_until(&stripe, &[name], mode, usize::MAX)
                .await
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let rows = &lake.tables[&stream.name].rows;
            let nested = ["transfer_reversals", "application_fee_refunds"];
            assert!(!rows.is_empty() || nested.contains(&name), "{name}: no row");
            for row in rows {
                let rescued = row.get("_ingest_rescued").cloned().unwrap_or_default();
                assert!(rescued.is_null(), "{name}: fields without a column: {rescued}");
                for key in &stream.key {
                    assert!(!row[key].is_null(), "{name}: {key}");
                }
            }
        }
    }
}

#[tokio::test]
async fn stripe_mock_takes_the_filters_of_the_event_feed_and_gives_objects_by_id() {
    let Some(mock) = StripeMock::start().await else { return };
    let client = ingest_http::ClientConfig::new(&mock.url, Some(&mock.url)).unwrap();
    let mut client = client;
    client.auth = ingest_http::Auth::Bearer(Secret::new("sk_test_123"));
    let client = ingest_http::HttpClient::new(client, &Context::standalone("stripe")).unwrap();
    let mut events = client.get("/v1/events").query("created[gte]", 1).query("created[lte]", 2).query("limit", 100);
    for kind in ["charge.failed", "customer.deleted"] {
        events = events.query("types[]", kind);
    }
    events.query("starting_after", "evt_1").send().await.expect("legal filters");
    let refused = client.get("/v1/events").query("updated[gte]", 1).send().await;
    assert!(refused.is_err(), "it checks what it is asked");
    let stripe = ingest_connector_stripe::Stripe::open(mock.config(), Context::standalone("stripe")).await.unwrap();
    for stream in stripe.schema(&Selection::default()).await.unwrap() {
        let Some(path) = reread_path(stream.name.as_str()) else { continue };
        client.get(&format!("/v1/{path}/x_1")).send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    }
}

/// Where an object is read again after its event.
fn reread_path(stream: &str) -> Option<String> {
    Some(match stream {
        "invoice_items" => "invoiceitems".into(),
        "checkout_sessions" => "checkout/sessions".into(),
        "subscription_items" | "invoice_line_items" | "transfer_reversals" | "application_fee_refunds" => return None,
        name => name.replace('.', "/"),
    })
}
