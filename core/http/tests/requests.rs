//! What is sent, what is repeated, and what an answer means.

use std::sync::Arc;
use std::time::Duration;

use ingest_core::{Context, Error, ErrorKind, Rate, Result};
use ingest_http::{Dialect, HttpClient, Refusal, Reply};
use ingest_testkit::hostile::assert_shows_nothing;
use ingest_testkit::http::{HttpServer, Response};
use tokio::time::Instant;

use crate::{CANARY, client, config, open, read_all};

/// A server that answers 200 after some requests that it answers with a status.
async fn recovering(after: usize, status: u16) -> HttpServer {
    HttpServer::start(move |request| async move {
        if request.nth < after { Response::status(status) } else { Response::json("{}") }
    })
    .await
}

#[tokio::test]
async fn queries_are_encoded_and_headers_sent() {
    let server = HttpServer::start(|_| async { Response::json(r#"{"ok": true}"#) }).await;
    let mut config = config(server.url());
    config.headers.push(("Api-Version".into(), "2025-09-30".into()));
    let client = open(config);
    let reply = client
        .get("/v1/items")
        .query("cursor", "a&b=c d/ü")
        .query("limit", 100)
        .header("X-Account", "acct_1")
        .send()
        .await
        .expect("an answer");
    assert_eq!(reply.json::<serde_json::Value>().expect("JSON")["ok"], true);
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v1/items"));
    assert_eq!(request.param("cursor").as_deref(), Some("a&b=c d/ü"));
    assert_eq!(request.param("limit").as_deref(), Some("100"));
    assert_eq!(request.header("authorization"), Some(format!("Bearer {CANARY}").as_str()));
    assert_eq!(request.header("api-version"), Some("2025-09-30"));
    assert_eq!(request.header("x-account"), Some("acct_1"));
    assert_eq!(request.header("accept-encoding"), Some("gzip"));
    assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("ingest/")));
}

#[tokio::test]
async fn a_base_path_comes_before_every_path() {
    let server = HttpServer::start(|_| async { Response::json("{}") }).await;
    let client = client(&format!("{}/base/v2", server.url()));
    client.get("/items?x=1").send().await.expect("an answer");
    assert_eq!(server.requests()[0].path, "/base/v2/items");
    assert_eq!(server.requests()[0].query, "x=1");
}

#[tokio::test]
async fn pages_travel_over_one_connection() {
    let server = HttpServer::start(|request| async move {
        let page: usize = request.param("page").and_then(|page| page.parse().ok()).unwrap_or(0);
        let next = if page < 20 { format!("\"?page={}\"", page + 1) } else { "null".into() };
        let padding = "x".repeat(100_000);
        Response::json(format!(r#"{{"data": [{{"id": "{padding}"}}], "next": {next}}}"#))
    })
    .await;
    assert_eq!(read_all(&client(server.url()), "/items").await.expect("all pages"), 21);
    assert_eq!((server.hits(), server.connections()), (21, 1));
}

#[tokio::test(start_paused = true)]
async fn faults_are_repeated_and_what_cannot_be_helped_is_not() {
    for (status, kind, requests) in [
        (401, ErrorKind::Unauthenticated, 1),
        (403, ErrorKind::PermissionDenied, 1),
        (404, ErrorKind::NotFound, 1),
        (410, ErrorKind::NotFound, 1),
        (422, ErrorKind::DataInvalid, 1),
        (304, ErrorKind::DataInvalid, 1),
        (408, ErrorKind::Timeout, 3),
        (425, ErrorKind::Unavailable, 3),
        (429, ErrorKind::Unavailable, 3),
        (500, ErrorKind::Unavailable, 3),
        (503, ErrorKind::Unavailable, 3),
    ] {
        let server = HttpServer::start(move |_| async move { Response::status(status) }).await;
        let error = client(server.url()).get("/x").query("q", CANARY).send().await.expect_err("refused");
        assert_eq!((error.kind(), server.hits()), (kind, requests), "{status}");
        assert_eq!(error.is_exhausted(), requests == 3, "{status}");
        assert!(
            error.to_string().contains(&format!("status {status}")) && error.to_string().contains("GET /x"),
            "{error}"
        );
        assert_shows_nothing(&error, CANARY);
    }
    let server = recovering(2, 500).await;
    client(server.url()).get("/x").send().await.expect("the third attempt is good");
    assert_eq!(server.hits(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_repeated_only_where_nothing_was_done_or_it_is_said_to_be_harmless() {
    let server = recovering(1, 500).await;
    let error = client(server.url()).post("/x").json(&1).send().await.expect_err("not repeated");
    assert!(error.is_exhausted());
    assert_eq!(server.hits(), 1);
    let server = recovering(1, 500).await;
    client(server.url()).post("/x").form(&[("q", "a b")]).repeatable().send().await.expect("repeated");
    assert_eq!(server.hits(), 2);
    assert_eq!(server.requests()[1].form()["q"], "a b");
    let server = recovering(1, 429).await;
    client(server.url()).post("/x").send().await.expect("throttled is not done");
    assert_eq!(server.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_call_takes_longer_than_its_budget() {
    let answers: [fn() -> Response; 5] = [
        Response::never,
        || Response::json("x".repeat(1 << 10)).trickle(Duration::from_secs(1)),
        || Response::status(429).header("retry-after", "60"),
        || Response::status(503).delay(Duration::from_secs(25)),
        || Response::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"),
    ];
    for (i, answer) in answers.into_iter().enumerate() {
        let server = HttpServer::start(move |_| async move { answer() }).await;
        let begun = Instant::now();
        let error = client(server.url()).get("/x").send().await.expect_err("no good answer");
        assert!(begun.elapsed() <= Duration::from_secs(91), "answer {i}: {:?}", begun.elapsed());
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "answer {i}: {error:?}");
        assert!(error.is_exhausted(), "answer {i}");
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_keeps_everybody_away_from_the_account() {
    let server = HttpServer::start(|request| async move {
        if request.nth == 0 { Response::status(429).header("retry-after", "20") } else { Response::json("{}") }
    })
    .await;
    let client = client(server.url());
    let begun = Instant::now();
    let first = client.get("/a").start();
    server.wait_for(1).await;
    // Lets the first call see its answer before the second one starts.
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.get("/b").send().await.expect("an answer");
    assert!(begun.elapsed() >= Duration::from_secs(20), "{:?}", begun.elapsed());
    first.await.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_throttled_together_are_given_up_together() {
    let server = HttpServer::start(|_| async { Response::status(429).header("retry-after", "60") }).await;
    let client = client(server.url());
    let begun = Instant::now();
    let first = client.get("/a").start();
    server.wait_for(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let others: Vec<_> = (0..5).map(|_| client.get("/b").start()).collect();
    for call in others.into_iter().chain([first]) {
        assert_eq!(call.await.expect_err("throttled").kind(), ErrorKind::Unavailable);
    }
    assert!(begun.elapsed() < Duration::from_secs(91), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn requests_take_tokens_of_the_account_and_of_their_own_buckets() {
    let server = HttpServer::start(|_| async { Response::json("{}") }).await;
    let mut config = config(server.url());
    config.rate = Some(Rate { per_second: 10.0, burst: 1.0 });
    let client = open(config);
    let begun = Instant::now();
    for _ in 0..11 {
        client.get("/a").send().await.expect("an answer");
    }
    assert!((1_000..1_100).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..3 {
        let slow = Rate { per_second: 1.0, burst: 1.0 };
        client.get("/b").bucket("test/b", slow).send().await.expect("an answer");
    }
    assert!((2_000..2_200).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_ends_the_call_at_once_with_the_delay() {
    let server = HttpServer::start(|_| async { Response::status(429).header("retry-after", "3600") }).await;
    let error = client(server.url()).get("/x").send().await.expect_err("nobody waits an hour");
    assert_eq!((error.kind(), server.hits()), (ErrorKind::QuotaExhausted, 1));
    assert_eq!(error.retry_delay(), Some(Duration::from_secs(3_600)));
    assert_eq!(error.kind().exit_code(), 4);
}

/// Reads codes out of error bodies, as connectors do.
struct Coded;

impl Dialect for Coded {
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Error> {
        let body: serde_json::Value = serde_json::from_slice(refusal.body).ok()?;
        match body["code"].as_str()? {
            "quota" => Some(Error::new(ErrorKind::QuotaExhausted, "the daily quota is used up")),
            "busy" => Some(Error::new(ErrorKind::RateLimited, "busy").retry_after(Some(Duration::from_secs(1)))),
            _ => None,
        }
    }

    fn inspect(&self, reply: &Reply) -> Result<()> {
        match reply.json::<serde_json::Value>()?.get("errors") {
            Some(_) => Err(Error::new(ErrorKind::RateLimited, "throttled inside a good answer")),
            None => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dialect_reads_errors_from_refusals_and_from_good_answers() {
    let server = HttpServer::start(|request| async move {
        match (request.path.as_str(), request.nth) {
            ("/quota", _) => Response::status(403).body(r#"{"code": "quota"}"#).gzip(),
            ("/busy", 1) => Response::status(400).body(r#"{"code": "busy"}"#),
            ("/graphql", 3) => Response::json(r#"{"errors": [1]}"#),
            ("/other", _) => Response::status(403).body(r#"{"code": "?"}"#),
            _ => Response::json("{}"),
        }
    })
    .await;
    let mut config = config(server.url());
    config.dialect = Arc::new(Coded);
    let client = open(config);
    let error = client.get("/quota").send().await.expect_err("the quota");
    assert_eq!(error.kind(), ErrorKind::QuotaExhausted);
    client.get("/busy").send().await.expect("the second attempt");
    client.get("/graphql").send().await.expect("the second attempt");
    assert_eq!(server.hits(), 5);
    assert_eq!(client.get("/other").send().await.expect_err("403").kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn the_end_of_the_run_ends_calls_and_pauses() {
    let server = HttpServer::start(|_| async { Response::status(503).header("retry-after", "60") }).await;
    let context = Context::standalone("test");
    let client = HttpClient::new(config(server.url()), &context).expect("a client");
    let call = client.get("/x").start();
    server.wait_for(1).await;
    context.cancel.cancel();
    assert_eq!(call.await.expect_err("the end").kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_fetch_that_is_dropped_leaves_its_place_to_the_next() {
    let server =
        HttpServer::start(
            |request| async move { if request.nth == 0 { Response::never() } else { Response::json("{}") } },
        )
        .await;
    let mut config = config(server.url());
    config.in_flight = 1;
    let client = open(config);
    let fetch = client.get("/x").start();
    server.wait_for(1).await;
    drop(fetch);
    client.get("/x").send().await.expect("the only place is free again");
}

#[tokio::test]
async fn the_next_link_of_a_header_is_followed() {
    let server = HttpServer::start(|request| async move {
        let response = Response::json("[]");
        if request.path == "/first" { response.header("link", r#"</second?x=1>; rel="next""#) } else { response }
    })
    .await;
    let client = client(server.url());
    let first = client.get("/first").send().await.expect("an answer");
    let link = first.next_link().expect("a link");
    let second = client.follow(&first, &link).send().await.expect("an answer");
    assert_eq!(second.next_link(), None);
    assert_eq!(server.requests()[1].path, "/second");
    assert!(server.requests()[1].header("authorization").is_some());
}
