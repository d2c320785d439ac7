//! Full and first loads: complete, in few calls, of every account, without secrets.

use std::collections::{BTreeMap, BTreeSet};

use ingest_core::{Connector, Json, Mode, Selection, Severity};
use serde_json::json;

use crate::harness::{Lab, Lake, NOW, text};

/// The lake holds exactly the objects of the truth, with these fields as they are.
pub fn assert_same(lake: &Lake, stream: &str, truth: &BTreeMap<String, Json>, fields: &[&str]) {
    let state = lake.state(stream, &["id"]);
    let (have, want): (BTreeSet<_>, BTreeSet<_>) = (state.keys().collect(), truth.keys().collect());
    let lost: Vec<_> = want.difference(&have).take(5).collect();
    let unknown: Vec<_> = have.difference(&want).take(5).collect();
    assert!(lost.is_empty() && unknown.is_empty(), "{stream}: lost {lost:?}, unknown {unknown:?}");
    for (id, object) in truth {
        for field in fields {
            // A stream without the column keeps the field as rescued.
            let Some(value) = state[id].get(*field) else { continue };
            assert_eq!(text(value), text(&object[*field]), "{stream} {id} {field}");
        }
        let rescued = state[id].get("_ingest_rescued").cloned().unwrap_or_default();
        assert!(!rescued.to_string().contains("of_an_old_version"), "{stream} {id}: {rescued}");
    }
}

fn lists(lab: &Lab) -> usize {
    let listed = |request: &&ingest_testkit::http::Request| request.param("limit").is_some_and(|limit| limit != "1");
    lab.server.http().requests().iter().filter(listed).count()
}

#[tokio::test]
async fn stand_in_full_load_of_5000_objects_equals_the_server_within_twice_the_calls() {
    let lab = Lab::start().await;
    lab.server.seed("charges", 5_000, NOW - 90 * 86_400, NOW - 1_000);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["charges"]).await.unwrap();
    assert_eq!(lake.rows("charges"), 5_000);
    assert_same(&lake, "charges", &lab.server.truth("charges"), &["amount", "customer", "status", "currency"]);
    let calls = lab.server.http().hits();
    assert!(calls <= 2 * 50, "{calls} calls for 50 pages");
    assert!(calls <= 65, "{calls} calls for 50 pages: windows are chosen badly");
}

#[tokio::test]
async fn stand_in_loads_of_any_size_and_spread_stay_within_twice_the_calls() {
    for (n, from, to) in [
        (0, NOW - 100, NOW - 50),
        (1, NOW - 100, NOW - 50),
        (100, NOW - 1_000, NOW - 500),
        (101, NOW - 1_000, NOW - 500),
        (1_500, NOW - 500, NOW - 499),
        (1_000, NOW - 2_000, NOW - 1_990),
        (3_000, NOW - 400_000_000, NOW - 399_999_000),
    ] {
        let lab = Lab::start().await;
        lab.server.seed("refunds", n, from, to);
        // A few old ones behind a gap, and a few new ones before it.
        lab.server.seed("refunds", 5, from - 300_000_000, from - 200_000_000);
        let mut lake = Lake::default();
        let stripe = lab.open().await;
        lake.run_until(&stripe, &["refunds"], Mode::Full, usize::MAX).await.unwrap();
        assert_eq!(lake.rows("refunds"), n + 5, "{n} objects");
        assert_same(&lake, "refunds", &lab.server.truth("refunds"), &["amount"]);
        let (calls, pages) = (lists(&lab), (n + 5).div_ceil(100));
        assert!(calls <= 2 * pages, "{n} objects: {calls} calls for {pages} pages");
    }
}

#[tokio::test]
async fn stand_in_gaps_between_bursts_do_not_cost_calls_without_end() {
    let lab = Lab::start().await;
    for burst in 0..20 {
        let from = NOW - 300_000_000 + burst * 14_000_000;
        lab.server.seed("refunds", 230, from, from + 300);
    }
    let mut lake = Lake::default();
    lake.run_until(&lab.open().await, &["refunds"], Mode::Full, usize::MAX).await.unwrap();
    assert_eq!(lake.rows("refunds"), 4_600);
    let calls = lists(&lab);
    assert!(calls <= 92, "{calls} calls for 46 pages");
}

#[tokio::test]
async fn stand_in_nested_lists_are_followed_and_give_their_own_streams() {
    let lab = Lab::start().await;
    let line = |i: usize, n: usize| json!({"id": format!("il_{i}_{n}"), "object": "line_item", "amount": n});
    for i in 0..130 {
        let lines: Vec<Json> = (0..(i % 13) * 20).map(|n| line(i, n)).collect();
        lab.server.state().account("").insert("invoices", json!({"lines": lines}), NOW - 50_000 + i as i64);
        let items: Vec<Json> = (0..i % 15).map(|n| json!({"id": format!("si_{i}_{n}"), "quantity": n})).collect();
        lab.server.state().account("").insert("subscriptions", json!({"items": items}), NOW - 40_000 + i as i64);
    }
    let mut lake = Lake::default();
    let streams = ["invoices", "invoice_line_items", "subscriptions", "subscription_items"];
    lake.run(&lab.open().await, &streams).await.unwrap();
    let lines = lab.server.state().account("").nested_truth("invoices");
    let items = lab.server.state().account("").nested_truth("subscriptions");
    assert!(lines.len() > 10_000 && items.len() > 800);
    assert_same(&lake, "invoice_line_items", &lines, &["invoice", "amount"]);
    assert_same(&lake, "subscription_items", &items, &["subscription", "quantity"]);
    assert_same(&lake, "invoices", &lab.server.truth("invoices"), &["status"]);
    for (id, row) in lake.state("invoices", &["id"]) {
        let list: Json = serde_json::from_str(row["lines"].as_str().unwrap()).unwrap();
        let truth = &lab.server.truth("invoices")[&id]["lines"]["data"];
        assert_eq!(&list["data"], truth, "the list in the row is whole");
    }
    // The parents and the children came from the same pages.
    assert_eq!(lab.server.http().requests().iter().filter(|r| r.path == "/v1/invoices").count(), 2);
}

#[tokio::test]
async fn stand_in_payment_methods_come_from_each_customer() {
    let lab = Lab::start().await;
    for i in 0..150 {
        let mut server = lab.server.state();
        let customer = server.account("").insert("customers", json!({}), NOW - 10_000 + i);
        for _ in 0..(if i == 7 { 230 } else { i % 3 }) {
            server.account("").insert("payment_methods", json!({"customer": customer}), NOW - 5_000);
        }
    }
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["payment_methods"]).await.unwrap();
    assert_same(&lake, "payment_methods", &lab.server.truth("payment_methods"), &["customer"]);
}

#[tokio::test]
async fn stand_in_connected_accounts_are_read_with_their_header_and_named_in_rows() {
    let mut lab = Lab::start().await;
    for (account, n) in [("acct_1", 120), ("acct_2", 30)] {
        lab.server.state().account(account).seed("charges", n, NOW - 10_000, NOW - 1_000);
        // The same id in both: ids are unique within an account alone.
        lab.server.state().account(account).insert("charges", json!({"id": "ch_same"}), NOW - 500);
    }
    lab.config.accounts = vec!["acct_1".into(), "acct_2".into()];
    let stripe = lab.open().await;
    let charges = &stripe.schema(&Selection { select: vec!["charges".into()], exclude: vec![] }).await.unwrap()[0];
    assert_eq!(charges.key, ["id", "account_id"]);
    let mut lake = Lake::default();
    lake.run(&stripe, &["charges", "accounts"]).await.unwrap();
    let state = lake.state("charges", &["account_id", "id"]);
    assert_eq!(state.len(), 152);
    for account in ["acct_1", "acct_2"] {
        for id in lab.server.state().account(account).truth("charges").keys() {
            assert!(state.contains_key(&format!("{account}/{id}")), "{account} {id}");
        }
    }
    for request in lab.server.requests("/v1/charges") {
        assert!(request.header("stripe-account").is_some_and(|account| account.starts_with("acct_")));
    }
    for request in lab.server.requests("/v1/accounts") {
        assert_eq!(request.header("stripe-account"), None, "the list of accounts belongs to the platform");
    }
    assert_eq!(lake.state("accounts", &["id"]).len(), 2);
    // Changes of one account reach its rows alone.
    lab.pass(100);
    lab.server.state().account("acct_2").update("charges", "ch_same", json!({"amount": 77}));
    lab.pass(100);
    lake.run(&lab.open().await, &["charges"]).await.unwrap();
    let state = lake.state("charges", &["account_id", "id"]);
    assert_eq!(text(&state["acct_2/ch_same"]["amount"]), "77");
    assert_ne!(text(&state["acct_1/ch_same"]["amount"]), "77");
}

#[tokio::test]
async fn stand_in_secrets_of_objects_never_reach_a_row() {
    let lab = Lab::start().await;
    let intent = lab.server.create("payment_intents", json!({}));
    lab.server.update("payment_intents", &intent, json!({"metadata": {"client_secret": "pi_secret_by_hand"}}));
    lab.server.create("invoices", json!({"confirmation_secret": {"client_secret": "pi_9_secret_abc", "type": "x"}}));
    lab.pass(100);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["payment_intents", "invoices", "events"]).await.unwrap();
    for (stream, table) in &lake.tables {
        assert!(!table.rows.is_empty(), "{stream}");
        for row in &table.rows {
            let row = Json::from(row.clone()).to_string();
            assert!(!row.contains("_secret_"), "{stream}: {row}");
        }
    }
}

#[tokio::test]
async fn stand_in_objects_that_do_not_say_when_they_were_made_are_read_page_by_page() {
    let lab = Lab::start().await;
    for i in 0..730 {
        lab.server.state().account("").insert("accounts", json!({"created": null}), NOW - i);
    }
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["accounts"]).await.unwrap();
    assert_same(&lake, "accounts", &lab.server.truth("accounts"), &[]);
    assert_eq!(lake.rows("accounts"), 730);
}

#[tokio::test]
async fn stand_in_start_leaves_older_objects_out() {
    let mut lab = Lab::start().await;
    lab.server.seed("customers", 300, NOW - 3_000, NOW);
    lab.config = serde_json::from_value(json!({
        "api_key": ingest_testkit::stripe::API_KEY, "endpoint": lab.server.url(),
        "start": chrono::DateTime::from_timestamp(NOW - 1_500, 0).unwrap().to_rfc3339(),
    }))
    .unwrap();
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    assert_eq!(lake.rows("customers"), 150);
}

#[tokio::test]
async fn stand_in_check_names_every_missing_permission_at_once() {
    let lab = Lab::start().await;
    lab.server.restrict("charges", "rak_charge_read");
    lab.server.restrict("events", "rak_event_read");
    lab.server.create("customers", json!({}));
    let stripe = lab.open().await;
    let problems = stripe.check(&Selection::default()).await.unwrap();
    let told: Vec<_> = problems.iter().map(|p| (p.stream.as_ref().map(|s| s.as_str()), p.exit_code)).collect();
    assert_eq!(told, [(Some("charges"), 3), (Some("events"), 3)]);
    assert!(problems[0].remedy.contains("rak_charge_read") && problems[1].remedy.contains("rak_event_read"));
    assert!(problems.iter().all(|problem| problem.severity == Severity::Error));
    let few = Selection { select: vec!["customers".into(), "payment_methods".into()], exclude: vec![] };
    let problems = stripe.check(&few).await.unwrap();
    assert_eq!(problems.len(), 1, "the feed is told even where the stream `events` is not selected: {problems:?}");
    lab.server.state().account("acct_1");
    let requests = lab.server.http().requests();
    assert!(requests.iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn stand_in_a_wrong_key_is_one_problem_and_never_shown() {
    let mut lab = Lab::start().await;
    lab.config.api_key = ingest_core::Secret::new("sk_test_canary");
    let problems = lab.open().await.check(&Selection::default()).await.unwrap();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].exit_code, 3);
    assert!(!format!("{problems:?}").contains("canary"));
}

#[tokio::test]
async fn stand_in_an_account_that_is_not_connected_is_named_with_the_remedy() {
    let mut lab = Lab::start().await;
    lab.server.state().account("acct_1");
    lab.config.accounts = vec!["acct_1".into(), "acct_foreign".into()];
    let few = Selection { select: vec!["charges".into()], exclude: vec![] };
    let problems = lab.open().await.check(&few).await.unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].what.contains("acct_foreign") && problems[0].remedy.contains("accounts"), "{problems:?}");
    assert_eq!(problems[0].exit_code, 3);
}

#[tokio::test]
async fn stand_in_every_request_pins_the_api_version() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 120, NOW - 1_000, NOW);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers", "payment_methods", "events"]).await.unwrap();
    for request in lab.server.http().requests() {
        assert_eq!(request.header("stripe-version"), Some("2026-10-28.endive"));
        assert!(request.header("authorization").is_some_and(|value| value.starts_with("Bearer ")));
    }
}
