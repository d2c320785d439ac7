//! The event feed: changes, ends, ties, and what is not an event.

use ingest_core::{Connector, ErrorKind, Json, Selection};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::harness::{Lab, Lake, NOW, text};
use crate::loads::assert_same;

#[tokio::test]
async fn stand_in_changes_deletes_and_new_objects_reach_the_lake_in_the_shape_of_today() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 250, NOW - 10_000, NOW - 5_000);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers", "products"]).await.unwrap();
    lab.pass(10);
    let ids: Vec<String> = lab.server.truth("customers").into_keys().collect();
    lab.server.update("customers", &ids[0], json!({"email": "first@example.com"}));
    lab.server.update("customers", &ids[0], json!({"email": "second@example.com"}));
    lab.server.delete("customers", &ids[1]);
    let new = lab.server.create("customers", json!({"email": "new@example.com"}));
    let gone = lab.server.create("products", json!({}));
    lab.pass(5);
    lab.server.update("customers", &new, json!({"email": "newer@example.com"}));
    lab.server.delete("products", &gone);
    lab.pass(100);
    lake.run(&lab.open().await, &["customers", "products"]).await.unwrap();
    assert_same(&lake, "customers", &lab.server.truth("customers"), &["email", "livemode"]);
    assert_same(&lake, "products", &lab.server.truth("products"), &[]);
    let ops: Vec<(String, String)> = lake.tables[&"customers".into()]
        .rows
        .iter()
        .filter(|row| row.contains_key("_ingest_op"))
        .map(|row| (text(&row["id"]), text(&row["_ingest_op"])))
        .collect();
    let op = |id: &String, op: &str| (id.clone(), op.to_owned());
    assert_eq!(ops, [op(&ids[0], "U"), op(&ids[1], "D"), op(&new, "I")], "one row per object and window, in order");
    // Nothing new: no row.
    let before = lake.rows("customers");
    lab.pass(10);
    lake.run(&lab.open().await, &["customers", "products"]).await.unwrap();
    assert_eq!(lake.rows("customers"), before);
}

#[tokio::test]
async fn stand_in_random_changes_between_runs_end_equal_to_the_server() {
    let seed = std::env::var("INGEST_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("INGEST_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let lab = Lab::start().await;
    let paths = ["customers", "invoices", "subscriptions", "charges", "products", "prices", "refunds", "transfers"];
    for path in paths {
        lab.server.seed(path, 700, NOW - 40 * 86_400, NOW - 100);
    }
    let streams = [
        "customers",
        "invoices",
        "invoice_line_items",
        "subscriptions",
        "subscription_items",
        "charges",
        "products",
        "prices",
        "refunds",
        "transfers",
        "transfer_reversals",
    ];
    let mut lake = Lake::default();
    for round in 0..6 {
        lake.run(&lab.open().await, &streams).await.unwrap();
        for _ in 0..150 {
            let path = paths[rng.random_range(0..paths.len())];
            change(&lab, &mut rng, path);
            if rng.random_bool(0.3) {
                lab.pass(rng.random_range(1..20));
            }
        }
        lab.server.chaos(seed + round, if round % 2 == 1 { 0.05 } else { 0.0 });
        lab.pass(rng.random_range(0..400));
    }
    lab.server.chaos(0, 0.0);
    lab.pass(100);
    lake.run(&lab.open().await, &streams).await.unwrap();
    for path in paths {
        assert_same(&lake, path, &lab.server.truth(path), &["status", "amount", "email"]);
    }
    for (stream, path) in [
        ("invoice_line_items", "invoices"),
        ("subscription_items", "subscriptions"),
        ("transfer_reversals", "transfers"),
    ] {
        let truth = lab.server.state().account("").nested_truth(path);
        assert!(!truth.is_empty(), "{stream}");
        assert_same(&lake, stream, &truth, &["amount"]);
    }
}

fn change(lab: &Lab, rng: &mut StdRng, path: &str) {
    let truth = lab.server.truth(path);
    let id = truth.keys().nth(rng.random_range(0..truth.len())).unwrap();
    let field = match path {
        "invoices" => Some("lines"),
        "subscriptions" => Some("items"),
        "transfers" => Some("reversals"),
        _ => None,
    };
    let entries = |rng: &mut StdRng| -> Vec<Json> {
        let n = rng.random_range(0..25);
        (0..n).map(|i| json!({"id": format!("{id}_{}", rng.random_range(0..10) + i * 10), "amount": i})).collect()
    };
    match (rng.random_range(0..10), field) {
        (0..2, _) => {
            lab.server.create(path, json!({"amount": rng.random_range(0..1_000)}));
        }
        (2, _) if ["customers", "invoices", "products", "prices"].contains(&path) => lab.server.delete(path, id),
        (3..6, Some(field)) => lab.server.update(path, id, json!({field: entries(rng)})),
        _ => {
            let fields = json!({"status": "changed", "amount": rng.random_range(0..1_000), "email": "x@example.com"});
            lab.server.update(path, id, fields);
        }
    }
}

#[tokio::test]
async fn stand_in_a_canceled_subscription_keeps_its_row() {
    let lab = Lab::start().await;
    let id = lab.server.create("subscriptions", json!({"items": [{"id": "si_1", "quantity": 1}]}));
    let old = lab.server.create("subscriptions", json!({"status": "canceled"}));
    let mut lake = Lake::default();
    let streams = ["subscriptions", "subscription_items"];
    lake.run(&lab.open().await, &streams).await.unwrap();
    assert!(lake.state("subscriptions", &["id"]).contains_key(&old), "the list was asked for all");
    lab.pass(10);
    let deleted = "customer.subscription.deleted";
    lab.server.state().account("").update_as("subscriptions", &id, deleted, json!({"status": "canceled"}));
    lab.pass(100);
    lake.run(&lab.open().await, &streams).await.unwrap();
    let state = lake.state("subscriptions", &["id"]);
    assert_eq!(text(&state[&id]["status"]), "canceled");
    assert_eq!(lake.state("subscription_items", &["id"]).len(), 1);
}

#[tokio::test]
async fn stand_in_events_of_one_second_are_all_seen_and_ties_are_settled_by_reading_again() {
    let lab = Lab::start().await;
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["coupons"]).await.unwrap();
    // Ids of coupons are chosen by users: one may come back in the second in which it was deleted.
    lab.server.create("coupons", json!({"id": "SUMMER", "amount": 1}));
    lab.server.delete("coupons", "SUMMER");
    lab.server.create("coupons", json!({"id": "SUMMER", "amount": 2}));
    for i in 0..230 {
        lab.server.create("coupons", json!({"id": format!("C{i}/../x y")}));
    }
    lab.pass(60);
    lake.run(&lab.open().await, &["coupons"]).await.unwrap();
    // More of the same second become visible only now.
    assert_same(&lake, "coupons", &lab.server.truth("coupons"), &["amount"]);
    let before = lake.rows("coupons");
    lab.pass(1);
    lake.run(&lab.open().await, &["coupons"]).await.unwrap();
    assert_eq!(lake.rows("coupons"), before, "what was seen at the boundary is not read again");
}

#[tokio::test]
async fn stand_in_events_that_become_visible_late_are_not_passed_by() {
    let lab = Lab::start().await;
    lab.server.state().event_delay = 55;
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    for step in 0..30 {
        lab.server.create("customers", json!({"balance": step}));
        lab.pass(7);
        lake.run(&lab.open().await, &["customers"]).await.unwrap();
    }
    lab.pass(61);
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    assert_same(&lake, "customers", &lab.server.truth("customers"), &["balance"]);
}

#[tokio::test]
async fn stand_in_a_clock_ahead_of_the_server_loses_nothing() {
    let lab = Lab::start().await;
    lab.clock.advance(3_600);
    lab.server.seed("customers", 50, NOW - 1_000, NOW - 10);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers", "files"]).await.unwrap();
    lab.server.create("customers", json!({}));
    lab.server.create("files", json!({}));
    lab.pass(100);
    lake.run(&lab.open().await, &["customers", "files"]).await.unwrap();
    assert_same(&lake, "customers", &lab.server.truth("customers"), &[]);
    assert_same(&lake, "files", &lab.server.truth("files"), &[]);
}

#[tokio::test]
async fn stand_in_a_change_during_the_load_is_seen_by_the_feed() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 1_000, NOW - 100_000, NOW - 10);
    let ids: Vec<String> = lab.server.truth("customers").into_keys().collect();
    let (newest, oldest) = (ids[999].clone(), ids[0].clone());
    lab.server.before(6, move |state| {
        state.account("").update("customers", &newest, json!({"email": "changed@example.com"}));
        state.account("").delete("customers", &oldest);
        state.account("").create("customers", json!({"email": "born@example.com"}));
    });
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    lab.pass(61);
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    assert_same(&lake, "customers", &lab.server.truth("customers"), &["email"]);
}

#[tokio::test]
async fn stand_in_a_feed_older_than_the_events_stops_with_the_remedy() {
    let lab = Lab::start().await;
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    lab.pass(30 * 86_400);
    let error = lake.run(&lab.open().await, &["customers"]).await.expect_err("a hole");
    assert_eq!(error.kind(), ErrorKind::CheckpointInvalid);
    assert!(error.to_string().contains("customers"), "{error}");
    assert!(error.hint_text().unwrap().contains("--resync"));
}

#[tokio::test]
async fn stand_in_payloads_serve_where_objects_are_not_to_be_read_again() {
    let mut lab = Lab::start().await;
    lab.config.hydrate = false;
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    let id = lab.server.create("customers", json!({"email": "a@example.com"}));
    lab.pass(100);
    let before = lab.server.http().hits();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    let row = &lake.state("customers", &["id"])[&id];
    assert_eq!(text(&row["email"]), "a@example.com");
    assert!(text(&row["_ingest_rescued"]).contains("of_an_old_version"), "what has no column is kept");
    assert_eq!(lab.server.requests("/v1/customers/").len(), 0);
    assert!(lab.server.http().hits() - before <= 2);
}

#[tokio::test]
async fn stand_in_few_types_are_filtered_by_the_server_and_many_by_us() {
    let lab = Lab::start().await;
    let mut lake = Lake::default();
    let few = ["customers"];
    let many = ["customers", "invoices", "charges", "payment_intents"];
    for streams in [&few[..], &many[..]] {
        lake.run(&lab.open().await, streams).await.unwrap();
        lab.server.create("customers", json!({}));
        lab.server.create("plans", json!({}));
        lab.pass(100);
        lake.run(&lab.open().await, streams).await.unwrap();
    }
    let types: Vec<usize> = lab
        .server
        .requests("/v1/events")
        .iter()
        .filter(|request| request.param("limit").as_deref() == Some("100"))
        .map(|request| request.params().iter().filter(|(name, _)| name == "types[]").count())
        .collect();
    assert!(types.contains(&3) && types.contains(&0), "{types:?}");
    assert!(types.iter().all(|n| *n <= 20));
    assert_same(&lake, "customers", &lab.server.truth("customers"), &[]);
}

#[tokio::test]
async fn stand_in_a_stream_that_joins_is_loaded_and_then_follows_the_same_feed() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 20, NOW - 1_000, NOW - 10);
    lab.server.seed("products", 20, NOW - 1_000, NOW - 10);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    lab.pass(1_000);
    for product in lab.server.truth("products").keys().take(5) {
        lab.server.update("products", product, json!({"status": "changed"}));
    }
    lab.server.create("customers", json!({}));
    lab.pass(1_000);
    for _ in 0..2 {
        lake.run(&lab.open().await, &["customers", "products"]).await.unwrap();
    }
    assert_eq!(lake.rows("products"), 20, "changes before its load are not given again");
    assert_same(&lake, "products", &lab.server.truth("products"), &["status"]);
    assert_same(&lake, "customers", &lab.server.truth("customers"), &[]);
}

#[tokio::test]
async fn stand_in_streams_that_only_grow_are_read_by_the_time_of_creation() {
    let lab = Lab::start().await;
    lab.server.seed("balance_transactions", 300, NOW - 10_000, NOW - 100);
    let mut lake = Lake::default();
    let streams = ["balance_transactions", "files", "events"];
    for _ in 0..4 {
        lake.run(&lab.open().await, &streams).await.unwrap();
        for _ in 0..25 {
            lab.server.create("balance_transactions", json!({}));
            lab.server.create("files", json!({}));
            lab.server.create("customers", json!({}));
        }
        lab.pass(61);
    }
    lake.run(&lab.open().await, &streams).await.unwrap();
    for stream in streams {
        assert_same(&lake, stream, &lab.server.truth(stream), &[]);
        assert_eq!(lake.rows(stream), lab.server.truth(stream).len(), "{stream}: each row once");
    }
    // A status that moves without an event is found by listing the youngest again.
    let id = lab.server.truth("balance_transactions").into_keys().next_back().unwrap();
    lab.server.state().account("").update_as("balance_transactions", &id, "", json!({"status": "available"}));
    lab.pass(2 * 86_400);
    lake.run(&lab.open().await, &streams).await.unwrap();
    assert_same(&lake, "balance_transactions", &lab.server.truth("balance_transactions"), &["status"]);
}

#[tokio::test]
async fn stand_in_changes_without_an_event_are_found_when_young_objects_are_listed_again() {
    let lab = Lab::start().await;
    let intent = lab.server.create("payment_intents", json!({}));
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["payment_intents"]).await.unwrap();
    lab.server.state().account("").update_as("payment_intents", &intent, "", json!({"amount": 99}));
    lab.pass(3_600);
    lake.run(&lab.open().await, &["payment_intents"]).await.unwrap();
    assert_eq!(lake.rows("payment_intents"), 2, "its creation in the second of the load; not listed again yet");
    lab.pass(86_400);
    lake.run(&lab.open().await, &["payment_intents"]).await.unwrap();
    assert_same(&lake, "payment_intents", &lab.server.truth("payment_intents"), &["amount"]);
}

#[tokio::test]
async fn stand_in_a_refunded_application_fee_is_found_by_the_event_of_its_refund() {
    let lab = Lab::start().await;
    let fee = lab.server.create("application_fees", json!({"refunds": []}));
    let mut lake = Lake::default();
    let streams = ["application_fees", "application_fee_refunds"];
    lake.run(&lab.open().await, &streams).await.unwrap();
    lab.pass(10);
    let refunds = json!({"refunds": [{"id": "fr_1", "object": "fee_refund", "amount": 5}], "amount_refunded": 5});
    lab.server.state().account("").update_as("application_fees", &fee, "", refunds);
    let event = json!({"type": "application_fee.refund.updated", "data": {"object":
        {"id": "fr_1", "object": "fee_refund", "fee": fee}}});
    lab.server.state().account("").insert("events", event, NOW + 10);
    lab.pass(100);
    lake.run(&lab.open().await, &streams).await.unwrap();
    assert_eq!(text(&lake.state("application_fees", &["id"])[&fee]["amount_refunded"]), "5");
    assert_eq!(text(&lake.state("application_fee_refunds", &["id"])["fr_1"]["fee"]), fee);
}

#[tokio::test]
async fn every_stream_says_how_it_can_be_read() {
    let lab = Lab::start().await;
    let stripe = lab.open().await;
    let streams = stripe.schema(&Selection::default()).await.unwrap();
    assert!(streams.len() >= 36, "{}", streams.len());
    for stream in &streams {
        assert!(!stream.key.is_empty() && !stream.modes.is_empty(), "{}", stream.name);
        assert_eq!(stream.key.iter().filter(|key| stream.schema.field_with_name(key).is_err()).count(), 0);
    }
}
