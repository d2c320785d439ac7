//! The suite that every connector passes, against the stand-in.

use ingest_connector_shopify::Shopify;
use ingest_core::{Builtin, ErrorKind, StreamName};
use ingest_testkit::conformance::{self, Subject};
use ingest_testkit::shopify::{ACCESS_TOKEN, Fault, ShopifyServer};
use serde_json::json;

use crate::harness::{DAY, Lab, MINUTE, NOW};

fn change(server: &ShopifyServer) {
    server.advance(MINUTE);
    for list in ["orders", "products", "customers", "events"] {
        server.create(
            list,
            json!({"lineItems": [{"quantity": 1}], "transactions": [{"kind": "SALE"}], "variants": [{"sku": "x"}]}),
        );
    }
    let id = server.truth("customers").into_keys().next().unwrap();
    server.update("customers", &id, json!({"firstName": "changed"}));
    // One without children.
    let with: Vec<_> = server.truth("product_variants").into_values().map(|row| row["productId"].clone()).collect();
    let id = server.truth("products").into_keys().find(|id| !with.contains(&json!(id)));
    if let Some(id) = id {
        server.delete("products", &id);
    }
    server.advance(6 * MINUTE);
}

#[tokio::test]
async fn stand_in_shopify_conforms() {
    let lab = Lab::start().await;
    let server = lab.server.clone();
    for list in ["orders", "products", "customers", "events"] {
        server.seed(list, 120, NOW - 30 * DAY, NOW - DAY);
    }
    let act = |what: fn(&ShopifyServer)| {
        let server = server.clone();
        move || {
            what(&server);
            async {}
        }
    };
    let subject = Subject::new(Builtin::<Shopify>::new(), lab.config(json!({"page_size": 40})))
        .streams(&[
            "orders",
            "order_line_items",
            "transactions",
            "products",
            "product_variants",
            "customers",
            "events",
            "collections",
        ])
        .secret(ACCESS_TOKEN)
        .refused("a wrong token", lab.config(json!({"access_token": "shpat_canary_wrong"})), ErrorKind::Unauthenticated)
        .refused("no token", lab.config(json!({"access_token": ""})), ErrorKind::ConfigInvalid)
        .empty("collections")
        .truth({
            let server = server.clone();
            move |stream: &StreamName| {
                let rows = server.truth(stream.as_str()).into_values().collect();
                async move { rows }
            }
        })
        .change(act(change))
        .late(
            act(|server| {
                server.state().visible_after = 4 * MINUTE;
                server.create("customers", json!({"firstName": "late"}));
                server.advance(MINUTE);
            }),
            act(|server| server.advance(10 * MINUTE)),
        )
        .resumes(8)
        .counterpart("a stand-in of ours, which does not know the schema")
        .outage(act(|server| server.faults([Fault::Status(503); 1_000])), act(ShopifyServer::no_faults), {
            let server = server.clone();
            move || server.http().hits() as u64
        });
    conformance::run(subject).await.assert_documented(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md"));
}
