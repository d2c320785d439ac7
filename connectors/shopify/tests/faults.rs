//! A server that throttles, fails, cuts and forgets; operations that come to nothing; processes that die.

use std::sync::Arc;

use ingest_core::{ErrorKind, Mode};
use ingest_testkit::hostile::Suite;
use ingest_testkit::lake::{Ended, Lake};
use ingest_testkit::shopify::{ACCESS_TOKEN, Fault, OperationFault, ShopifyServer};
use serde_json::json;

use crate::harness::{DAY, Lab, MINUTE, NOW, open};

const ORDERS: [&str; 3] = ["order_line_items", "orders", "transactions"];

#[tokio::test(start_paused = true)]
async fn stand_in_bursts_of_faults_cost_time_and_no_row() {
    let lab = Lab::start().await;
    lab.server.seed("orders", 1_000, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.seed("events", 1_000, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.faults([Fault::RateLimited, Fault::Throttled]);
    lab.server.chaos(5, 0.05);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &ORDERS, Mode::Incremental).await.unwrap();
    lab.server.faults([Fault::Internal, Fault::Status(500)]);
    lake.run(lab.open().await.as_ref(), &["events"], Mode::Incremental).await.unwrap();
    for stream in ["orders", "order_line_items", "transactions", "events"] {
        lake.assert_equals(stream, &["id"], &lab.server.truth(stream));
    }
}

#[tokio::test(start_paused = true)]
async fn stand_in_queries_wait_for_the_points_of_the_shop() {
    let lab = Lab::start().await;
    lab.server.seed("events", 1_000, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.state().points = (25.0, 10.0);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["events"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("events").len(), 1_000);
}

#[tokio::test]
async fn stand_in_a_run_killed_at_any_mark_goes_on_as_if_nothing_had_happened() {
    let lab = Lab::start().await;
    lab.server.seed("orders", 120, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.seed("events", 1_200, NOW - DAY, NOW - 10 * MINUTE);
    for (streams, list) in [(&ORDERS[..], "orders"), (&["events"][..], "events")] {
        for mark in 1.. {
            let mut lake = Lake::new(1).batch_bytes(16 << 10);
            let ended = lake.run_until(lab.open().await.as_ref(), streams, Mode::Incremental, mark).await.unwrap();
            if ended == Ended::Whole {
                assert!(mark > 3, "{list}: {mark} marks");
                break;
            }
            // Another process, to which the operation is all that is known.
            lake.run(lab.open().await.as_ref(), streams, Mode::Incremental).await.unwrap();
            for stream in streams {
                assert_eq!(lake.rows(stream).len(), lab.server.truth(stream).len(), "{stream} killed at mark {mark}");
                lake.assert_equals(stream, &["id"], &lab.server.truth(stream));
            }
        }
    }
}

#[tokio::test]
async fn stand_in_operations_that_come_to_nothing_are_started_again_a_few_times() {
    let lab = Lab::start().await;
    lab.server.seed("orders", 30, NOW - DAY, NOW - 10 * MINUTE);
    // One of somebody else is waited for, and not cancelled.
    lab.server.state().busy = 2;
    lab.server.state().operation_faults.extend([OperationFault::Failed, OperationFault::Canceled]);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["orders"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("orders").len(), 30);
    for (faults, kind) in [
        (vec![OperationFault::Failed; 3], ErrorKind::Unavailable),
        (vec![OperationFault::Denied], ErrorKind::PermissionDenied),
    ] {
        lab.server.state().operation_faults.extend(faults);
        let mut lake = Lake::new(1);
        let error = lake.run(lab.open().await.as_ref(), &["orders"], Mode::Incremental).await.expect_err("nothing");
        assert_eq!((error.kind(), error.is_retryable()), (kind, false));
    }
}

#[tokio::test]
async fn stand_in_a_result_that_is_cut_is_no_whole_one() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 30, NOW - DAY, NOW - 10 * MINUTE);
    // In the middle of a line, and a whole line.
    let line = lab.server.truth("customers").len();
    assert_eq!(line, 30);
    for cut in [5, 2_000] {
        lab.server.state().cut = cut;
        let mut lake = Lake::new(1);
        let error = lake.run(lab.open().await.as_ref(), &["customers"], Mode::Incremental).await.expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert_eq!(lake.rows("customers").len(), 0);
    }
}

#[tokio::test]
async fn stand_in_a_result_that_is_gone_is_planned_again() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 30, NOW - DAY, NOW - 10 * MINUTE);
    let mut lake = Lake::new(1);
    lake.run_until(lab.open().await.as_ref(), &["customers"], Mode::Incremental, 1).await.unwrap();
    lab.server.state().forget_operations();
    lake.run(lab.open().await.as_ref(), &["customers"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("customers").len(), 30);
}

#[tokio::test(start_paused = true)]
async fn no_hostile_server_gets_the_token_bends_rows_or_holds_a_run_for_ever() {
    let stand_in = Arc::new(ShopifyServer::start().await);
    stand_in.freeze(NOW);
    stand_in.seed("events", 400, NOW - DAY, NOW - 10 * MINUTE);
    let honest = {
        let stand_in = stand_in.clone();
        move |request: &ingest_testkit::http::Request| stand_in.answer(request)
    };
    let read = |endpoint: String| async move {
        let source = open(json!({"shop": "acme", "access_token": ACCESS_TOKEN, "endpoint": endpoint})).await?;
        let mut lake = Lake::new(1);
        lake.run(source.as_ref(), &["events"], Mode::Full).await?;
        Ok(lake.rows("events").len())
    };
    Suite::new(ACCESS_TOKEN, 400, honest, read).play_all().await;
}
