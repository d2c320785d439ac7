//! Loads, full and incremental: complete with all nested lists, in the fewest calls; what was changed and deleted.

use ingest_core::{Mode, Selection, Severity};
use ingest_testkit::lake::Lake;
use ingest_testkit::shopify::{ACCESS_TOKEN, CLIENT_ID, CLIENT_SECRET};
use serde_json::json;

use crate::harness::{DAY, Lab, MINUTE, NOW, STREAMS, open, open_at};

#[tokio::test]
async fn stand_in_with_10000_objects_that_change_equals_the_lake_after_three_runs() {
    let lab = Lab::start().await;
    for list in ["orders", "products", "inventoryItems", "customers"] {
        lab.server.seed(list, 2_500, NOW - 90 * DAY, NOW - DAY);
    }
    let mut lake = Lake::new(1);
    for round in 0..3 {
        let before = lab.server.http().hits();
        lake.run(lab.open().await.as_ref(), &STREAMS, Mode::Incremental).await.unwrap();
        let (calls, planned) = ((lab.server.http().hits() - before) as u64, lake.estimated_calls);
        println!("round {round}: {calls} calls, {planned} of them estimated by the plan, 4 for the time");
        // Each of the four lists is started, looked at and fetched, and has asked for the time; deletions of two of them are
        // a page each. An operation that finds nothing has no file.
        match round {
            0 => assert_eq!((calls, planned), (4 + 12, 12)),
            _ => assert!(calls <= 4 + planned && planned == 14, "round {round}: {calls} calls, {planned} planned"),
        }
        for stream in STREAMS {
            lake.assert_equals(stream, &["id"], &lab.server.truth(stream));
        }
        for (list, label) in [("orders", "name"), ("products", "title"), ("customers", "firstName")] {
            let ids: Vec<String> = lab.server.truth(list).into_keys().collect();
            for id in ids.iter().skip(round).step_by(97) {
                lab.server.update(list, id, json!({label: format!("round {round}")}));
            }
            lab.server.create(list, json!({label: "new"}));
        }
        // Objects without children, whose end leaves nothing behind.
        for list in ["orders", "products"] {
            let id = lab.server.create(list, json!({}));
            lab.server.advance(6 * MINUTE);
            lake.run(lab.open().await.as_ref(), &STREAMS, Mode::Incremental).await.unwrap();
            lab.server.delete(list, &id);
        }
        lab.server.advance(6 * MINUTE);
    }
}

#[tokio::test]
async fn stand_in_lists_of_any_length_are_whole() {
    let lab = Lab::start().await;
    let lines: Vec<_> = (0..3_000).map(|n| json!({"quantity": n})).collect();
    let transactions: Vec<_> = (0..300).map(|n| json!({"kind": format!("SALE {n}")})).collect();
    lab.server.create("orders", json!({"lineItems": lines, "transactions": transactions}));
    lab.server.advance(6 * MINUTE);
    let mut lake = Lake::new(1);
    // Streams of a list are read alike without the list's own.
    let streams = ["order_line_items", "transactions"];
    lake.run(lab.open().await.as_ref(), &streams, Mode::Incremental).await.unwrap();
    assert_eq!((lake.rows("order_line_items").len(), lake.rows("transactions").len()), (3_000, 300));
    for stream in streams {
        lake.assert_equals(stream, &["id"], &lab.server.truth(stream));
    }
}

#[tokio::test]
async fn stand_in_events_and_locations_are_read_by_pages() {
    let lab = Lab::start().await;
    lab.server.seed("events", 600, NOW - DAY, NOW - 10 * MINUTE);
    lab.server.seed("locations", 3, NOW - DAY, NOW);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["events"], Mode::Incremental).await.unwrap();
    lake.assert_equals("events", &["id"], &lab.server.truth("events"));
    // The time, and pages of 250.
    assert_eq!(lab.server.http().hits(), 1 + 3);
    lab.server.create("events", json!({}));
    lab.server.advance(6 * MINUTE);
    lake.run(lab.open().await.as_ref(), &["events"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("events").len(), 601);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["locations"], Mode::Full).await.unwrap();
    assert_eq!(lake.rows("locations").len(), 3);
}

#[tokio::test]
async fn stand_in_amounts_are_exact_and_texts_as_they_are() {
    let lab = Lab::start().await;
    lab.server.create(
        "orders",
        json!({"totalPriceSet": {"shopMoney": {"amount": "12345678901234567890.1234", "currencyCode": "EUR"}}}),
    );
    lab.server.advance(6 * MINUTE);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["orders"], Mode::Incremental).await.unwrap();
    let row = &lake.rows("orders")[0];
    assert_eq!(row["totalPriceSet"]["shopMoney"]["amount"], "12345678901234567890.123400");
    assert_eq!(row["tags"], json!(["a", "b \u{fc}"]));
    assert_eq!(row["_ingest_rescued"], json!(null));
}

#[tokio::test]
async fn stand_in_takes_a_client_and_its_secret_and_files_get_no_token() {
    let lab = Lab::start().await;
    lab.server.seed("customers", 10, NOW - DAY, NOW - 10 * MINUTE);
    let config =
        json!({"shop": "acme", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "endpoint": lab.server.url()});
    let source = open(config).await.unwrap();
    let mut lake = Lake::new(1);
    lake.run(source.as_ref(), &["customers"], Mode::Incremental).await.unwrap();
    // A token that ends in the middle is fetched anew.
    lab.server.state().end_tokens();
    lab.server.create("customers", json!({}));
    lab.server.advance(6 * MINUTE);
    lake.run(source.as_ref(), &["customers"], Mode::Incremental).await.unwrap();
    assert_eq!(lake.rows("customers").len(), 11);
    let requests = lab.server.http().requests();
    let exchanges = requests.iter().filter(|request| request.path.ends_with("/access_token")).count();
    assert_eq!(exchanges, 2);
    for file in requests.iter().filter(|request| request.path.starts_with("/bulk/")) {
        assert_eq!((file.header("x-shopify-access-token"), file.header("authorization")), (None, None));
    }
}

#[tokio::test]
async fn stand_in_missing_scopes_old_orders_and_an_ended_version_are_told() {
    let lab = Lab::start().await;
    lab.server.state().scopes = vec!["read_orders"];
    lab.server.state().version = Some("2027-01".into());
    let selection = Selection { select: vec!["orders".into(), "customers".into()], exclude: vec![] };
    let problems = lab.open().await.check(&selection).await.unwrap();
    let errors: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert_eq!(errors.len(), 1, "{problems:?}");
    assert!(errors[0].what.contains("read_customers") && errors[0].exit_code == 3);
    for part in ["last 60 days", "answers as 2027-01"] {
        assert!(problems.iter().any(|problem| problem.what.contains(part)), "{part}: {problems:?}");
    }
    // A run says so as well.
    lab.server.seed("customers", 1, NOW - DAY, NOW - 10 * MINUTE);
    let mut lake = Lake::new(1);
    lake.run(lab.open().await.as_ref(), &["customers"], Mode::Full).await.unwrap();
    assert!(lake.warnings.iter().any(|text| text.contains("2027-01")), "{:?}", lake.warnings);
    // Ninety days before its end there is a word.
    lab.server.state().version = None;
    let september_2027 = 1_819_756_800;
    lab.server.freeze(september_2027);
    let selection = Selection { select: vec!["orders".into()], exclude: vec![] };
    let source = open_at(lab.config(json!({})), september_2027).await.unwrap();
    let problems = source.check(&selection).await.unwrap();
    assert!(problems.iter().any(|problem| problem.what.contains("may end in 30 days")), "{problems:?}");
    let wrong = open(lab.config(json!({"access_token": "shpat_canary_wrong"}))).await.unwrap();
    let problems = wrong.check(&selection).await.unwrap();
    assert_eq!((problems.len(), problems[0].exit_code), (1, 3));
    assert!(!format!("{problems:?}").contains(ACCESS_TOKEN) && !format!("{problems:?}").contains("canary"));
}
