//! The suite that every connector passes, against the stand-in.

use std::sync::Arc;

use ingest_connector_stripe::Stripe;
use ingest_core::{Builtin, ErrorKind, Json, StreamName};
use ingest_testkit::conformance::{self, CanonicalRows, Subject};
use ingest_testkit::stripe::{API_KEY, Fault, RETENTION, StripeServer};
use serde_json::json;

const PATHS: [&str; 5] = ["charges", "customers", "invoices", "balance_transactions", "subscriptions"];

fn truth(server: &StripeServer, stream: &StreamName) -> CanonicalRows {
    let (objects, fields) = match stream.as_str() {
        "invoice_line_items" => (server.state().account("").nested_truth("invoices"), ["id", "invoice", "amount"]),
        path => (server.truth(path), ["id", "status", "amount"]),
    };
    let row = |object: Json| {
        let value = |field: &str| object.get(field).cloned().map(|value| (field.to_owned(), value));
        fields.iter().filter_map(|field| value(field)).collect()
    };
    objects.into_values().map(row).collect()
}

fn change(server: &StripeServer) {
    server.advance(100);
    for path in PATHS {
        let id = server.create(path, json!({"status": "new"}));
        if path == "invoices" {
            server.update(path, &id, json!({"lines": [{"id": format!("il_{id}"), "amount": 1}]}));
        }
    }
    for path in ["charges", "customers"] {
        let id = server.truth(path).into_keys().next().unwrap();
        server.update(path, &id, json!({"status": "changed"}));
    }
    let id = server.truth("customers").into_keys().nth(1).unwrap();
    server.delete("customers", &id);
    server.advance(100);
}

#[tokio::test]
async fn stand_in_stripe_conforms() {
    let server = Arc::new(StripeServer::start().await);
    // The server's clock is behind ours and moves with the test; the connector goes by it.
    let now = chrono::Utc::now().timestamp() - 40 * 86_400;
    server.freeze(now);
    for path in PATHS {
        server.seed(path, 230, now - 100_000, now - 1_000);
    }
    for (i, id) in server.truth("invoices").into_keys().enumerate() {
        let lines: Vec<Json> = (0..i % 13).map(|n| json!({"id": format!("il_{i}_{n}"), "amount": n})).collect();
        server.state().account("").update_as("invoices", &id, "", json!({"lines": lines}));
    }
    let config = |key: &str| json!({"api_key": key, "endpoint": server.url(), "page_size": 25});
    let subject = Subject::new(Builtin::<Stripe>::new(), config(API_KEY))
        .streams(&["charges", "customers", "invoices", "invoice_line_items", "balance_transactions", "products"])
        .refused("a wrong key", config("sk_test_wrong"), ErrorKind::Unauthenticated)
        .empty("products")
        .truth({
            let server = server.clone();
            move |stream| {
                let rows = truth(&server, stream);
                async move { rows }
            }
        })
        .change({
            let server = server.clone();
            move || {
                change(&server);
                async {}
            }
        })
        .late(
            {
                let server = server.clone();
                move || {
                    server.state().event_delay = 50;
                    server.create("customers", json!({"status": "late"}));
                    server.advance(10);
                    async {}
                }
            },
            {
                let server = server.clone();
                move || {
                    server.advance(100);
                    async {}
                }
            },
        )
        .counterpart("a stand-in of ours; shapes also against stripe-mock 0.203")
        .outage(
            {
                let server = server.clone();
                move || {
                    server.faults([Fault::Status(503); 1_000]);
                    async {}
                }
            },
            {
                let server = server.clone();
                move || {
                    server.no_faults();
                    async {}
                }
            },
            {
                let server = server.clone();
                move || server.http().hits() as u64
            },
        )
        .lose_log({
            let server = server.clone();
            move || {
                server.advance(RETENTION + 86_400);
                async {}
            }
        });
    conformance::run(subject).await.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}
