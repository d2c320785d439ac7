//! The suite that every connector is run against, on the client itself.

use ingest_core::{ErrorKind, Secret};
use ingest_http::Auth;
use ingest_testkit::hostile::{Attack, Suite};
use ingest_testkit::http::{Request, Response};

use crate::{CANARY, config, open, read_all};

/// Three pages of two records, linked by relative URLs.
fn honest(request: &Request) -> Response {
    let next = match request.param("page").as_deref() {
        None => r#""?page=2""#,
        Some("2") => r#""/items?page=3""#,
        _ => "null",
    };
    page(next)
}

fn page(next: &str) -> Response {
    let padding = "x".repeat(200);
    Response::json(format!(r#"{{"data": [{{"id": 1}}, {{"id": "{padding}"}}], "next": {next}}}"#))
}

fn suite(auth: impl Fn() -> Auth + Send + Sync + Clone + 'static) -> Suite {
    Suite::new(CANARY, 6, honest, move |endpoint| {
        let auth = auth.clone();
        async move {
            let mut config = config(&endpoint);
            config.auth = auth();
            config.headers.push(("x-second-secret".into(), CANARY.into()));
            read_all(&open(config), "/items").await
        }
    })
    .with_links(|_, link| page(&format!("{link:?}")))
}

#[tokio::test(start_paused = true)]
async fn no_attack_gets_a_bearer_token_or_stops_the_client_for_ever() {
    suite(|| Auth::Bearer(Secret::new(CANARY))).play_all().await;
}

#[tokio::test(start_paused = true)]
async fn no_attack_gets_a_basic_password() {
    suite(|| Auth::Basic { user: Secret::new("user"), password: Secret::new(CANARY) }).play_all().await;
}

#[tokio::test(start_paused = true)]
async fn no_attack_gets_a_key_in_a_header_of_its_own() {
    suite(|| Auth::Header { name: "x-api-key".into(), value: Secret::new(CANARY) }).play_all().await;
}

#[tokio::test(start_paused = true)]
async fn no_attack_gets_a_key_in_the_query() {
    suite(|| Auth::Query { name: "api_key".into(), value: Secret::new(CANARY) }).play_all().await;
}

/// A client as people write it: follows redirects and links with all its headers, and waits for ever.
async fn careless(endpoint: String) -> ingest_core::Result<usize> {
    let failed = |error: reqwest::Error| ingest_core::Error::new(ErrorKind::Unavailable, error.to_string());
    let client = reqwest::Client::new();
    let mut url = format!("{endpoint}/items?key={CANARY}");
    for _ in 0..150 {
        let answer = client.get(&url).header("x-api-key", CANARY).send().await.map_err(failed)?;
        let page: serde_json::Value = answer.json().await.map_err(failed)?;
        match page["next"].as_str() {
            Some(next) => url = url::Url::parse(&url).expect("a URL").join(next).expect("a link").to_string(),
            None => return Ok(6),
        }
    }
    Ok(6)
}

#[tokio::test(start_paused = true)]
async fn the_suite_finds_the_faults_of_a_careless_client() {
    let suite = Suite::new(CANARY, 6, honest, careless).with_links(|_, link| page(&format!("{link:?}")));
    for (attack, fault) in [
        (Attack::RedirectToAnotherHost, "it took"),
        (Attack::LinkToAnotherPort, "it took"),
        (Attack::SamePageForEver, "it made"),
        (Attack::FaultOnce, "it should have got through"),
        (Attack::FailsAndQuotes, "it took"),
        (Attack::ClosesAtOnce, "the secret is in an error"),
        (Attack::Silence, "it hung"),
    ] {
        let found = suite.play(attack).await.err().unwrap_or_else(|| panic!("{attack:?} was withstood"));
        assert!(found.contains(fault), "{attack:?}: {found}");
    }
}
