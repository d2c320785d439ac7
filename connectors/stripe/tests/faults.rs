//! A server that throttles, fails, cuts, redirects, and loses the place of a list.

use ingest_core::{ErrorKind, Mode};
use ingest_testkit::stripe::Fault;
use serde_json::json;

use crate::harness::{Lab, Lake, NOW};
use crate::loads::assert_same;

#[tokio::test]
async fn stand_in_bursts_of_429_and_500_cost_time_and_no_row() {
    let lab = Lab::start().await;
    lab.server.seed("charges", 1_500, NOW - 100_000, NOW - 10);
    lab.server.faults([
        Fault::RateLimited(None),
        Fault::RateLimited(Some(0)),
        Fault::Status(500),
        Fault::Status(503),
        Fault::ShouldRetry,
    ]);
    lab.server.chaos(3, 0.1);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["charges"]).await.unwrap();
    assert_eq!(lake.rows("charges"), 1_500);
    assert_same(&lake, "charges", &lab.server.truth("charges"), &["amount"]);
}

#[tokio::test]
async fn stand_in_an_error_that_is_not_to_be_repeated_is_not() {
    let lab = Lab::start().await;
    lab.server.faults([Fault::ShouldNotRetry]);
    let mut lake = Lake::default();
    let error = lake.run(&lab.open().await, &["charges"]).await.expect_err("the server said no");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, false));
    assert_eq!(lab.server.http().hits(), 1);
}

#[tokio::test]
async fn stand_in_a_long_retry_after_ends_the_call_as_a_quota() {
    let lab = Lab::start().await;
    lab.server.faults([Fault::RateLimited(Some(3_600))]);
    let error = Lake::default().run(&lab.open().await, &["charges"]).await.expect_err("an hour");
    assert_eq!(error.kind(), ErrorKind::QuotaExhausted);
}

#[tokio::test]
async fn stand_in_web_pages_and_redirects_are_refused_and_the_key_stays_here() {
    let lab = Lab::start().await;
    for fault in [Fault::Html, Fault::Redirect] {
        lab.server.faults([fault]);
        let error = Lake::default().run(&lab.open().await, &["charges"]).await.expect_err("no data");
        assert!(!error.is_retryable(), "{fault:?}: {error}");
        assert!(!format!("{error:?}").contains(ingest_testkit::stripe::API_KEY));
    }
}

#[tokio::test]
async fn stand_in_links_to_another_host_are_not_followed() {
    // Every page of the stand-in carries a `url` on another host and port; nobody listens there.
    let lab = Lab::start().await;
    let lines: Vec<_> = (0..300).map(|n| json!({"id": format!("il_{n}")})).collect();
    lab.server.state().account("").insert("invoices", json!({"lines": lines}), NOW - 10);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["invoices", "invoice_line_items"]).await.unwrap();
    assert_eq!(lake.rows("invoice_line_items"), 300);
}

#[tokio::test]
async fn stand_in_a_list_goes_on_where_the_object_it_stood_at_was_deleted() {
    let lab = Lab::start().await;
    // Four objects a second: the deleted one has neighbours that were given already.
    lab.server.seed("customers", 1_200, NOW - 400, NOW - 100);
    let ids: Vec<String> = lab.server.truth("customers").into_keys().rev().collect();
    // The first page ends with the 100th newest; the list is then read again from that second on.
    for (request, nth) in [(2, 99), (4, 196)] {
        let id = ids[nth].clone();
        lab.server.before(request, move |state| state.account("").delete("customers", &id));
    }
    let mut lake = Lake::default();
    lake.run_until(&lab.open().await, &["customers"], Mode::Incremental, usize::MAX).await.unwrap();
    assert_eq!(lake.rows("customers"), 1_200, "no row twice, the deleted ones were read before");
    lab.pass(100);
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    assert_same(&lake, "customers", &lab.server.truth("customers"), &["email"]);
}

#[tokio::test]
async fn stand_in_events_too_old_for_the_next_page_end_the_list_of_events() {
    let lab = Lab::start().await;
    for _ in 0..250 {
        lab.server.create("customers", json!({}));
    }
    lab.pass(ingest_testkit::stripe::RETENTION - 100);
    for _ in 0..150 {
        lab.server.create("customers", json!({}));
    }
    lab.pass(61);
    // While the list is read, its old end passes out of what is kept.
    let later = NOW + ingest_testkit::stripe::RETENTION + 200;
    lab.server.before(3, move |state| state.freeze(later));
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["events"]).await.unwrap();
    let (state, truth) = (lake.state("events", &["id"]), lab.server.truth("events"));
    assert_eq!(truth.len(), 150);
    assert!(truth.keys().all(|id| state.contains_key(id)));
    assert!(state.len() > truth.len(), "the older ones had begun to be read");
}

#[tokio::test]
async fn stand_in_a_customer_deleted_while_its_payment_methods_are_listed_is_skipped() {
    let lab = Lab::start().await;
    for i in 0..50 {
        let mut server = lab.server.state();
        let customer = server.account("").insert("customers", json!({}), NOW - 1_000 + i);
        server.account("").insert("payment_methods", json!({"customer": customer}), NOW - 500);
    }
    let victim = lab.server.truth("customers").into_keys().next().unwrap();
    lab.server.before(5, move |state| state.account("").delete("customers", &victim));
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["payment_methods"]).await.unwrap();
    assert!(lake.rows("payment_methods") >= 49);
}

#[tokio::test]
async fn stand_in_a_missing_right_to_events_is_told_before_the_lists_are_read() {
    let lab = Lab::start().await;
    lab.server.restrict("events", "rak_event_read");
    lab.server.seed("charges", 500, NOW - 1_000, NOW);
    let error = Lake::default().run(&lab.open().await, &["charges"]).await.expect_err("no right");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint_text().unwrap().contains("rak_event_read"));
    assert_eq!(lab.server.requests("/v1/charges").len(), 0);
}

#[tokio::test]
async fn a_configuration_is_refused_with_all_its_faults_and_without_its_key() {
    let lab = Lab::start().await;
    let config = json!({"api_key": "sk_live_canary", "endpoint": "http://example.com", "page_size": 500});
    let error = lab.source(config).await.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    let config = json!({"api_key": "sk_live_canary", "endpoint": "http://api.example.com"});
    let error = lab.source(config).await.err().expect("plain HTTP to another machine");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(!format!("{error:?}").contains("canary"));
}
