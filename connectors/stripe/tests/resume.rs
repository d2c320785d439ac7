//! Killed at every mark, in the middle of its tables: nothing lost, nothing twice.

use ingest_core::Mode;
use serde_json::{Value as Json, json};

use crate::harness::{Ended, Lab, Lake, NOW};
use crate::loads::assert_same;

async fn finish(lab: &Lab, lake: &mut Lake, streams: &[&str], mode: Mode) {
    let ended = lake.run_until(&lab.open().await, streams, mode, usize::MAX).await.unwrap();
    assert_eq!(ended, Ended::Whole);
}

#[tokio::test]
async fn stand_in_load_resumed_from_every_mark_gives_each_row_once() {
    let mut lab = Lab::start().await;
    lab.config.page_size = 10;
    // Several objects in most seconds, so that pages end in the middle of one.
    lab.server.seed("charges", 400, NOW - 150, NOW - 10);
    for marks in 1.. {
        let mut lake = Lake::default();
        let stripe = lab.open().await;
        let ended = lake.run_until(&stripe, &["charges"], Mode::Full, marks).await.unwrap();
        if ended == Ended::Killed {
            finish(&lab, &mut lake, &["charges"], Mode::Full).await;
        }
        assert_eq!(lake.rows("charges"), 400, "killed at mark {marks}");
        assert_same(&lake, "charges", &lab.server.truth("charges"), &["amount"]);
        if ended == Ended::Whole {
            assert!(marks > 10, "{marks} marks only");
            return;
        }
    }
}

#[tokio::test]
async fn stand_in_load_of_parents_and_children_resumed_from_every_mark_gives_each_row_once() {
    let mut lab = Lab::start().await;
    lab.config.page_size = 10;
    for i in 0..120 {
        let lines: Vec<Json> = (0..i % 14).map(|n| json!({"id": format!("il_{i}_{n}"), "amount": n})).collect();
        lab.server.state().account("").insert("invoices", json!({"lines": lines}), NOW - 500 + i as i64 / 2);
    }
    let streams = ["invoices", "invoice_line_items"];
    let lines = lab.server.state().account("").nested_truth("invoices");
    for marks in 1.. {
        let mut lake = Lake::default();
        let ended = lake.run_until(&lab.open().await, &streams, Mode::Full, marks).await.unwrap();
        if ended == Ended::Killed {
            finish(&lab, &mut lake, &streams, Mode::Full).await;
        }
        assert_eq!((lake.rows("invoices"), lake.rows("invoice_line_items")), (120, lines.len()), "mark {marks}");
        assert_same(&lake, "invoice_line_items", &lines, &["amount", "invoice"]);
        if ended == Ended::Whole {
            return assert!(marks > 2, "{marks} marks only");
        }
    }
}

#[tokio::test]
async fn stand_in_feed_resumed_from_every_mark_ends_equal_and_doubles_nothing() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 600, NOW - 10_000, NOW - 5_000);
    lab.server.seed("products", 600, NOW - 10_000, NOW - 5_000);
    let streams = ["customers", "products", "subscriptions", "subscription_items"];
    let subscription = lab.server.create("subscriptions", json!({"items": [{"id": "si_1"}, {"id": "si_2"}]}));
    lab.pass(1);
    let mut loaded = Lake::default();
    loaded.run(&lab.open().await, &streams).await.unwrap();
    for (i, id) in lab.server.truth("customers").into_keys().enumerate() {
        lab.server.update("customers", &id, json!({"balance": i}));
        lab.pass(i64::from(i % 3 == 0));
    }
    lab.server.update("subscriptions", &subscription, json!({"items": [{"id": "si_2"}]}));
    lab.pass(1);
    for (i, id) in lab.server.truth("products").into_keys().enumerate() {
        match i % 5 {
            0 => lab.server.delete("products", &id),
            _ => lab.server.update("products", &id, json!({"status": "changed"})),
        }
        lab.pass(i64::from(i % 3 == 0));
    }
    lab.server.update("subscriptions", &subscription, json!({"status": "changed"}));
    lab.pass(100);
    for marks in 1.. {
        let mut lake = loaded.clone();
        let ended = lake.run_until(&lab.open().await, &streams, Mode::Incremental, marks).await.unwrap();
        lake.run(&lab.open().await, &streams).await.unwrap();
        assert_same(&lake, "customers", &lab.server.truth("customers"), &["balance"]);
        assert_same(&lake, "products", &lab.server.truth("products"), &["status"]);
        assert_same(&lake, "subscription_items", &lab.server.state().account("").nested_truth("subscriptions"), &[]);
        assert_eq!(lake.rows("customers"), 1_200, "mark {marks}: one row per change and window");
        assert_eq!(lake.rows("products"), 1_200, "mark {marks}");
        if ended == Ended::Whole {
            return;
        }
    }
}

#[tokio::test]
async fn stand_in_a_feed_read_late_is_taken_in_windows_that_fit() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 100, NOW - 10_000, NOW - 5_000);
    let mut lake = Lake::default();
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    let ids: Vec<String> = lab.server.truth("customers").into_keys().collect();
    // More events than a window may hold, over days, dense at the end.
    for i in 0..21_000_usize {
        lab.server.update("customers", &ids[i % ids.len()], json!({"balance": i}));
        lab.pass(if i < 2_000 { 300 } else { i64::from(i % 7 == 0) });
    }
    lab.pass(100);
    lake.run(&lab.open().await, &["customers"]).await.unwrap();
    assert_same(&lake, "customers", &lab.server.truth("customers"), &["balance"]);
    let rows = lake.rows("customers");
    assert!(rows < 1_500, "{rows} rows: windows are too short");
}
