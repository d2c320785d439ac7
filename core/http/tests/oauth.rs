//! Tokens that expire.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingest_core::{Context, Error, ErrorKind, Result, Secret, async_trait};
use ingest_http::{Auth, Grant, Habits, HostRule, HttpClient, OAuth, RefreshTokens, Statement};
use ingest_testkit::hostile::assert_shows_nothing;
use ingest_testkit::http::{HttpServer, Request, Response};

use crate::{CANARY, config, open, read_all};

fn oauth(server: &HttpServer, grant: Grant) -> OAuth {
    OAuth {
        token_url: format!("{}/token", server.url()),
        client_id: "id".into(),
        client_secret: Secret::new(CANARY),
        grant,
        scopes: vec!["read".into()],
        parameters: vec![("audience".into(), "api".into())],
        secret_in_form: false,
        rotated: None,
        habits: Habits::default(),
    }
}

fn client(server: &HttpServer, oauth: OAuth) -> HttpClient {
    let mut config = config(server.url());
    config.auth = Auth::OAuth(Box::new(oauth));
    open(config)
}

fn tokens(server: &HttpServer) -> Vec<Request> {
    server.requests().into_iter().filter(|request| request.path == "/token").collect()
}

/// An API that takes the tokens `t1`, `t2`, … which it gives out; `/token` says they live for `life` seconds.
async fn api(life: &'static str) -> HttpServer {
    let given = Arc::new(AtomicUsize::new(0));
    HttpServer::start(move |request| {
        let response = if request.path == "/token" {
            let n = given.fetch_add(1, Ordering::Relaxed) + 1;
            let refresh = format!(r#""refresh_token": "{CANARY}-{n}""#);
            Response::json(format!(r#"{{"access_token": "t{n}", "token_type": "Bearer", {refresh}{life}}}"#))
        } else if request.header("authorization").is_some_and(|value| value.starts_with("Bearer t")) {
            let page: usize = request.param("page").and_then(|page| page.parse().ok()).unwrap_or(1);
            let next = if page < 5 { format!("\"?page={}\"", page + 1) } else { "null".into() };
            Response::json(format!(r#"{{"data": [{{"id": 1}}], "next": {next}}}"#))
        } else {
            Response::status(401)
        };
        async move { response }
    })
    .await
}

#[tokio::test]
async fn client_credentials_are_exchanged_as_basic_or_in_the_form() {
    for in_form in [false, true] {
        let server = api("").await;
        let oauth = OAuth { secret_in_form: in_form, ..oauth(&server, Grant::ClientCredentials) };
        assert_eq!(read_all(&client(&server, oauth), "/items").await.expect("all pages"), 5);
        let exchange = &tokens(&server)[0];
        let form = exchange.form();
        assert_eq!(form["grant_type"], "client_credentials");
        assert_eq!((form["scope"].as_str(), form["audience"].as_str()), ("read", "api"));
        assert_eq!(exchange.header("authorization").is_some(), !in_form);
        assert_eq!(form.get("client_secret").map(String::as_str), in_form.then_some(CANARY));
        assert_eq!((server.hits(), tokens(&server).len()), (6, 1));
    }
}

#[tokio::test]
async fn a_signed_statement_is_exchanged() {
    let server = api("").await;
    let sign = |now: i64| {
        assert!(now > 1_700_000_000);
        Ok(Secret::new("header.claims.signature"))
    };
    let client = client(&server, oauth(&server, Grant::JwtBearer(Arc::new(sign))));
    assert_eq!(read_all(&client, "/items").await.expect("all pages"), 5);
    let form = tokens(&server)[0].form();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(form["assertion"], "header.claims.signature");
}

#[tokio::test]
async fn many_requests_wait_for_one_exchange() {
    let server = api("").await;
    let client = client(&server, oauth(&server, Grant::ClientCredentials));
    let fetches: Vec<_> = (0..20).map(|_| client.get("/items").start()).collect();
    for fetch in fetches {
        fetch.await.expect("an answer");
    }
    assert_eq!((server.hits(), tokens(&server).len()), (21, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_expires_and_none_lives_longer_than_a_day() {
    for (life, seconds) in [(r#", "expires_in": 600"#, 560), (r#", "expires_in": 99999999999"#, 86_400), ("", 3_600)] {
        let server = api(life).await;
        let client = client(&server, oauth(&server, Grant::ClientCredentials));
        client.get("/items").send().await.expect("an answer");
        client.get("/items").send().await.expect("an answer");
        assert_eq!(tokens(&server).len(), 1, "{life}");
        tokio::time::advance(Duration::from_secs(seconds)).await;
        client.get("/items").send().await.expect("an answer");
        assert_eq!(tokens(&server).len(), 2, "{life}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_said_to_live_no_time_at_all_is_used_for_a_while() {
    let server = api(r#", "expires_in": 0"#).await;
    assert_eq!(read_all(&client(&server, oauth(&server, Grant::ClientCredentials)), "/items").await.expect("all"), 5);
    assert_eq!(tokens(&server).len(), 1);
}

/// An API that refuses the token `t1` from the third page on, and every token if `stubborn`.
async fn forgetful(stubborn: bool) -> HttpServer {
    let given = Arc::new(AtomicUsize::new(0));
    HttpServer::start(move |request| {
        let page: usize = request.param("page").and_then(|page| page.parse().ok()).unwrap_or(1);
        let first = request.header("authorization") == Some("Bearer t1");
        let response = if request.path == "/token" {
            let n = given.fetch_add(1, Ordering::Relaxed) + 1;
            Response::json(format!(r#"{{"access_token": "t{n}", "token_type": "bearer"}}"#))
        } else if page >= 3 && (first || stubborn) {
            Response::status(401)
        } else {
            let next = if page < 5 { format!("\"?page={}\"", page + 1) } else { "null".into() };
            Response::json(format!(r#"{{"data": [{{"id": 1}}], "next": {next}}}"#))
        };
        async move { response }
    })
    .await
}

#[tokio::test]
async fn a_token_revoked_in_the_middle_of_the_pages_is_renewed_once() {
    let server = forgetful(false).await;
    assert_eq!(read_all(&client(&server, oauth(&server, Grant::ClientCredentials)), "/items").await.expect("all"), 5);
    assert_eq!((server.hits(), tokens(&server).len()), (8, 2));
    let server = forgetful(true).await;
    let error = read_all(&client(&server, oauth(&server, Grant::ClientCredentials)), "/items").await.expect_err("401");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert_eq!((server.hits(), tokens(&server).len()), (6, 2));
}

#[derive(Default)]
struct Kept {
    tokens: Mutex<Vec<Secret>>,
    fails: bool,
}

#[async_trait]
impl RefreshTokens for Kept {
    async fn rotated(&self, token: &Secret) -> Result<()> {
        if self.fails {
            return Err(Error::new(ErrorKind::Unavailable, "cannot store the refresh token"));
        }
        self.tokens.lock().expect("not poisoned").push(token.clone());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotated_refresh_token_is_stored_before_its_access_token_is_used() {
    let server = api("").await;
    let kept = Arc::new(Kept::default());
    let grant = Grant::RefreshToken(Secret::new("first"));
    let rotating = OAuth { rotated: Some(kept.clone()), ..oauth(&server, grant.clone()) };
    let client = client(&server, rotating);
    client.get("/items").send().await.expect("an answer");
    tokio::time::advance(Duration::from_secs(4_000)).await;
    client.get("/items").send().await.expect("an answer");
    let sent: Vec<String> = tokens(&server).iter().map(|request| request.form()["refresh_token"].clone()).collect();
    assert_eq!(sent, ["first".to_owned(), format!("{CANARY}-1")]);
    let stored: Vec<String> =
        kept.tokens.lock().expect("not poisoned").iter().map(|token| token.expose().to_owned()).collect();
    assert_eq!(stored, [format!("{CANARY}-1"), format!("{CANARY}-2")]);

    let lost = OAuth { rotated: Some(Arc::new(Kept { fails: true, ..Kept::default() })), ..oauth(&server, grant) };
    let before = server.hits();
    let error = crate::oauth::client(&server, lost).get("/items").send().await.expect_err("not stored");
    assert_eq!(error.message(), "cannot store the refresh token");
    assert_eq!(server.hits(), before + 1, "a token whose successor is lost must not be used");
}

#[tokio::test]
async fn a_refresh_token_is_stored_even_if_nobody_waits_any_more() {
    let (answer, hold) = tokio::sync::watch::channel(false);
    let server = HttpServer::start(move |_| {
        let mut hold = hold.clone();
        async move {
            hold.wait_for(|go| *go).await.expect("the test still runs");
            Response::json(r#"{"access_token": "t", "token_type": "bearer", "refresh_token": "second"}"#)
        }
    })
    .await;
    let kept = Arc::new(Kept::default());
    let grant = Grant::RefreshToken(Secret::new("first"));
    let client = client(&server, OAuth { rotated: Some(kept.clone()), ..oauth(&server, grant) });
    let fetch = client.get("/items").start();
    server.wait_for(1).await;
    drop(fetch);
    answer.send(true).expect("the server still runs");
    while kept.tokens.lock().expect("not poisoned").is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_token_endpoint_may_do_wrong() {
    type Case = (fn() -> Response, ErrorKind, usize);
    let cases: [Case; 8] = [
        (|| Response::status(400).body(r#"{"error": "invalid_grant"}"#), ErrorKind::Unauthenticated, 1),
        (|| Response::status(401).body(r#"{"error": "invalid_client"}"#), ErrorKind::Unauthenticated, 1),
        (|| Response::status(400).body(r#"{"error": "invalid_scope"}"#), ErrorKind::PermissionDenied, 1),
        (|| Response::html("<html>sign in</html>"), ErrorKind::DataInvalid, 1),
        (|| Response::redirect(307, "http://127.0.0.1:1/token"), ErrorKind::DataInvalid, 1),
        (|| Response::json(r#"{"access_token": "a\nb", "token_type": "bearer"}"#), ErrorKind::DataInvalid, 1),
        (|| Response::json(r#"{"access_token": "a", "token_type": "mac"}"#), ErrorKind::DataInvalid, 1),
        (|| Response::status(503), ErrorKind::Unavailable, 3),
    ];
    for (i, (answer, kind, requests)) in cases.into_iter().enumerate() {
        let server = HttpServer::start(move |request: Request| async move {
            // Servers quote what they were sent.
            let quoted = format!("{:?}", request.form());
            answer().header("x-quoted", quoted)
        })
        .await;
        let error =
            client(&server, oauth(&server, Grant::ClientCredentials)).get("/x").send().await.expect_err("no token");
        assert_eq!((error.kind(), server.hits()), (kind, requests), "case {i}: {error:?}");
        assert_shows_nothing(&error, CANARY);
    }
}

#[tokio::test]
async fn who_waited_for_an_exchange_that_failed_does_not_start_another() {
    let server = HttpServer::start(|_| async {
        Response::status(400).body(r#"{"error": "invalid_grant"}"#).delay(Duration::from_millis(50))
    })
    .await;
    let client = client(&server, oauth(&server, Grant::ClientCredentials));
    let fetches: Vec<_> = (0..20).map(|_| client.get("/items").start()).collect();
    for fetch in fetches {
        assert_eq!(fetch.await.expect_err("no token").kind(), ErrorKind::Unauthenticated);
    }
    assert_eq!(server.hits(), 1);
}

#[test]
fn a_token_endpoint_must_be_encrypted_or_on_this_machine() {
    for (endpoint, token_url, good) in [
        ("https://api.example.com", "https://login.example.com/token", true),
        ("https://api.example.com", "http://login.example.com/token", false),
        ("https://api.example.com", "http://127.0.0.1/token", false),
        ("https://api.example.com", "token", false),
        ("http://127.0.0.1:1", "http://127.0.0.1:2/token", true),
    ] {
        let mut config = config(endpoint);
        config.auth = Auth::OAuth(Box::new(OAuth {
            token_url: token_url.into(),
            client_id: "id".into(),
            client_secret: Secret::new(CANARY),
            grant: Grant::ClientCredentials,
            scopes: Vec::new(),
            parameters: Vec::new(),
            secret_in_form: false,
            rotated: None,
            habits: Habits::default(),
        }));
        assert!(!format!("{config:?}").contains(CANARY));
        assert_eq!(HttpClient::new(config, &Context::standalone("test")).is_ok(), good, "{token_url}");
    }
}

/// A token endpoint that says where the API is, and that API.
async fn named(api: &str) -> (HttpServer, HttpServer) {
    let elsewhere = HttpServer::start(|request: Request| async move {
        assert_eq!(request.path, "/items");
        Response::json(r#"{"data": [{"id": 1}]}"#).header("date", "Fri, 21 Nov 2025 10:20:30 GMT")
    })
    .await;
    let api = api.replace("ELSEWHERE", elsewhere.url());
    let login = HttpServer::start(move |_| {
        let answer = format!(r#"{{"access_token": "t", "instance_url": "{api}", "issued_at": "1"}}"#);
        async move { Response::json(answer) }
    })
    .await;
    (login, elsewhere)
}

fn naming(login: &HttpServer) -> HttpClient {
    let mut config = config(login.url());
    config.hosts =
        vec![HostRule::api("127.0.0.1"), HostRule::api("*.api.example.com"), HostRule::download("files.example.com")];
    let habits = Habits { names_api: true, header: Some("x-token"), hint: None };
    config.auth = Auth::OAuth(Box::new(OAuth { habits, ..oauth(login, Grant::ClientCredentials) }));
    open(config)
}

#[tokio::test]
async fn paths_lead_to_the_api_that_the_token_endpoint_names_and_its_clock_is_known() {
    let (login, elsewhere) = named("ELSEWHERE").await;
    let client = naming(&login);
    assert!(!client.knows_time());
    assert_eq!(read_all(&client, "/items").await.expect("a page"), 1);
    let request = &elsewhere.requests()[0];
    assert_eq!(request.header("x-token"), Some("t"));
    assert_eq!(request.header("authorization"), None);
    assert_eq!((login.hits(), elsewhere.hits()), (1, 1));
    // The server's clock is years behind ours.
    assert!(client.knows_time() && client.now_micros() < 1_763_720_430_000_000 + 60_000_000);
}

#[tokio::test]
async fn an_api_on_a_host_that_is_not_listed_gets_no_token() {
    for api in ["https://evil.example.net", "http://na1.api.example.com", "https://files.example.com", "ELSEWHERE/x"] {
        let (login, elsewhere) = named(api).await;
        let error = naming(&login).get("/items").send().await.expect_err(api);
        assert_eq!(error.kind(), ErrorKind::DataInvalid, "{api}: {error:?}");
        assert_eq!(elsewhere.hits(), 0, "{api}");
        assert_shows_nothing(&error, CANARY);
    }
}

#[test]
fn what_is_no_rsa_key_is_refused_and_not_shown() {
    let statement = || Statement { issuer: "i".into(), subject: "s".into(), audience: "a".into(), lifetime: 180 };
    for text in [CANARY, "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n"] {
        let error = statement().grant(&Secret::new(text)).err().expect("no key");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert_shows_nothing(&error, CANARY);
    }
}
