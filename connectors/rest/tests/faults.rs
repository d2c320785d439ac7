//! Servers that fail for a while, and how they are borne: bursts, expired tokens, lists that shift.

use std::time::Duration;

use ingest_connector_rest::{ManifestSource, Rest, RestConfig};
use ingest_core::{Connector, Context, Error, ErrorKind, Mode, Secret};
use ingest_http::Retry;
use ingest_testkit::http::{HttpServer, Response};
use serde_json::json;

use crate::harness::{
    Table, extract, full, github, hubspot, hubspot_stand_in, inline, name, open, plan, seconds_now, shop,
};
use crate::stand_ins::{CANARY, GitHub, Shop, StandIn, refuse};

/// What one list gives by one stream of a manifest.
async fn read(server: &HttpServer, stream: serde_json::Value) -> Result<Table, Error> {
    full(inline(server.url(), json!({"items": stream})), "items").await
}

#[tokio::test(start_paused = true)]
async fn stand_in_github_burst_of_429_and_500_is_borne_and_nothing_is_lost() {
    let server = StandIn::start(GitHub::new(seconds_now())).await;
    server.fail([Response::status(500), Response::status(429).header("retry-after", "3")]);
    assert_eq!(full(github(server.url()), "repos").await.unwrap().rows.len(), 23);
    server.fail([Response::status(503), Response::status(502)]);
    assert_eq!(full(github(server.url()), "repos").await.unwrap().rows.len(), 23);
}

#[tokio::test(start_paused = true)]
async fn stand_in_github_403_is_a_limit_or_a_missing_right_by_its_header() {
    let server = StandIn::start(GitHub::new(seconds_now())).await;
    let reset = (seconds_now() + 20).to_string();
    let limited = || refuse(403, "{}").header("x-ratelimit-remaining", "0").header("x-ratelimit-reset", reset.clone());
    server.fail([limited()]);
    assert_eq!(full(github(server.url()), "repos").await.unwrap().rows.len(), 23);
    let reset = (seconds_now() + 3_000).to_string();
    server.fail([refuse(403, "{}").header("x-ratelimit-remaining", "0").header("x-ratelimit-reset", reset)]);
    let error = full(github(server.url()), "repos").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::QuotaExhausted);
    server.fail([refuse(403, "{}").header("x-ratelimit-remaining", "17")]);
    let error = full(github(server.url()), "repos").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn stand_in_hubspot_token_that_expires_between_pages_is_renewed_once() {
    let server = hubspot_stand_in().await;
    let source = open(hubspot(server.url())).await.unwrap();
    let plan = plan(source.as_ref(), "contacts", Mode::Full, &Default::default()).await.unwrap();
    let mut table = Table::default();
    table.take(&extract(source.as_ref(), &plan.slices[0], None).await.unwrap());
    let exchanges = server.state().exchanges;
    server.state().token += 100;
    table.take(&extract(source.as_ref(), &plan.slices[0], None).await.unwrap());
    assert_eq!((table.rows.len(), server.state().exchanges), (140, exchanges + 1));
}

#[tokio::test(start_paused = true)]
async fn stand_in_hubspot_daily_limit_ends_the_run_as_a_quota() {
    let server = hubspot_stand_in().await;
    let source = open(hubspot(server.url())).await.unwrap();
    let plan = plan(source.as_ref(), "contacts", Mode::Full, &Default::default()).await.unwrap();
    extract(source.as_ref(), &plan.slices[0], None).await.unwrap();
    server.fail([refuse(429, r#"{"policyName": "DAILY", "message": "canary-in-a-message"}"#)]);
    let error = extract(source.as_ref(), &plan.slices[0], None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::QuotaExhausted);
    let shown = format!("{error:?} {:?}", error.hint_text());
    assert!(shown.contains("midnight") && !shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn stand_in_shop_error_inside_a_success_is_seen_by_its_rule() {
    let server = StandIn::start(Shop::new(seconds_now())).await;
    let retry = Retry { pause: Duration::from_millis(1), ..Retry::default() };
    let mut config = RestConfig::default();
    config.manifest = ManifestSource(crate::harness::example("shop.yaml").to_str().unwrap().into());
    config.endpoint = Some(format!("{}/api/v2", server.url()));
    config.secrets = [("api_key".to_owned(), Secret::new(CANARY))].into();
    config.retry = Some(retry);
    config.rate = Some(1e6);
    let rest = Rest::open(config, Context::standalone("shop")).await.unwrap();
    server.fail([Response::json(r#"{"error": "maintenance"}"#)]);
    let problems = rest.check(&Default::default()).await.unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    server.fail((0..3).map(|_| Response::json(r#"{"error": "maintenance"}"#)));
    let problems = rest.check(&Default::default()).await.unwrap();
    assert_eq!(problems[0].exit_code, ErrorKind::Unavailable.exit_code());
}

#[tokio::test]
async fn stand_in_shop_orders_that_leave_while_they_are_read_are_noticed() {
    let server = StandIn::start(Shop::new(seconds_now())).await;
    let source = open(shop(server.url())).await.unwrap();
    let plan = plan(source.as_ref(), "orders", Mode::Full, &Default::default()).await.unwrap();
    for change in [
        |shop: &mut Shop| drop(shop.orders.remove(&2)),
        |shop: &mut Shop| {
            shop.orders.insert(0, crate::stand_ins::order(1));
        },
    ] {
        server.state().disturb = Some((2, change));
        let error = extract(source.as_ref(), &plan.slices[0], None).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(!error.is_exhausted(), "the runner reads the slice again");
    }
    // At rest, the second attempt gives every order once.
    let out = extract(source.as_ref(), &plan.slices[0], None).await.unwrap();
    assert_eq!(out.rows(), server.state().orders.len());
}

#[tokio::test]
async fn stand_in_without_an_end_reaches_the_ceiling_and_a_circle_is_found() {
    let endless = HttpServer::start(|request| async move {
        let n = request.param("after").map_or(0, |after| after.parse::<u64>().unwrap()) + 1;
        Response::json(json!({"data": [{"id": n}], "next": n.to_string()}).to_string())
    })
    .await;
    let stream = json!({"path": "/x", "records": "data", "columns": {"id": "int64"},
        "pages": {"cursor": {"parameter": "after", "at": "next"}}});
    let mut config = inline(endless.url(), json!({"items": stream}));
    config["manifest"]["limits"] = json!({"pages": 25});
    let error = full(config, "items").await.err().unwrap();
    assert_eq!((error.kind(), endless.hits()), (ErrorKind::LimitExceeded, 26));
    let circle = HttpServer::start(|request| async move {
        let next = if request.param("after").as_deref() == Some("b") { "a" } else { "b" };
        Response::json(json!({"data": [{"id": 1}], "next": next}).to_string())
    })
    .await;
    let error = read(&circle, stream).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error:?}");
    assert_eq!(circle.hits(), 3);
}

#[tokio::test]
async fn stand_in_that_ignores_the_page_number_is_found_by_its_keys() {
    let server = HttpServer::start(|_| async { Response::json(r#"[{"id": 1}, {"id": 2}]"#) }).await;
    let stream =
        json!({"path": "/x", "key": ["id"], "columns": {"id": "int64"}, "pages": {"number": {"parameter": "p"}}});
    assert_eq!(read(&server, stream).await.err().unwrap().kind(), ErrorKind::DataInvalid);
    assert_eq!(server.hits(), 2);
}

#[tokio::test]
async fn stand_in_values_of_wrong_types_are_rescued_and_a_record_without_its_key_fails() {
    let body = r#"[{"id": 1, "n": "seven", "at": "soon", "new": {"a": [1]}}, {"id": 2, "n": 7, "at": "2026-01-01T00:00:00Z"}]"#;
    let server = HttpServer::start(move |_| async move { Response::json(body) }).await;
    let columns = json!({"id": "int64", "n": "int64", "at": "timestamp"});
    let stream = json!({"path": "/x", "key": ["id"], "columns": columns});
    let table = read(&server, stream.clone()).await.unwrap();
    assert_eq!(table.rows[0]["_ingest_rescued"], r#"{"at":"soon","n":"seven","new":{"a":[1]}}"#);
    assert!(table.rows[0]["n"].is_null() && table.rows[1]["n"] == 7);
    for body in [r#"[{"id": "x", "n": 1}]"#, r#"[{"n": 1}]"#] {
        let server = HttpServer::start(move |_| async move { Response::json(body) }).await;
        let error = read(&server, stream.clone()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        let shown = format!("{error:?}");
        assert!(shown.contains("items") && shown.contains("id"), "{shown}");
    }
}

#[tokio::test]
async fn stand_in_page_without_its_list_is_an_error_unless_it_is_optional() {
    let server = HttpServer::start(|_| async { Response::json(r#"{"error": "denied"}"#) }).await;
    let mut stream = json!({"path": "/x", "records": "data.items", "columns": {"id": "int64"}});
    let error = read(&server, stream.clone()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    stream["optional"] = true.into();
    assert_eq!(read(&server, stream).await.unwrap().rows.len(), 0);
}

#[tokio::test]
async fn stand_in_that_forgot_the_page_of_a_position_has_the_list_read_again() {
    let server = HttpServer::start(|request| async move {
        match request.param("after").as_deref() {
            None => Response::json(r#"{"data": [{"id": 1}], "next": "gone"}"#),
            Some("gone") if request.nth == 1 => Response::json(r#"{"data": [{"id": 2}]}"#),
            Some(_) => refuse(400, "{}"),
        }
    })
    .await;
    let stream = json!({"path": "/x", "records": "data", "columns": {"id": "int64"},
        "pages": {"cursor": {"parameter": "after", "at": "next"}}});
    let source = open(inline(server.url(), json!({"items": stream}))).await.unwrap();
    let plan = plan(source.as_ref(), "items", Mode::Full, &Default::default()).await.unwrap();
    let out = extract(source.as_ref(), &plan.slices[0], None).await.unwrap();
    assert_eq!(out.batches(&name("items")).count(), 2);
    let mark = out.last_mark().cloned().unwrap();
    let error = extract(source.as_ref(), &plan.slices[0], Some(&mark)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SliceExpired);
}
