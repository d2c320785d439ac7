//! The suite that every connector is run against, on the client itself.

use ingest_core::Secret;
use ingest_http::Auth;
use ingest_testkit::hostile::Suite;
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
