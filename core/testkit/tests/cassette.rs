//! Recordings of an HTTP API.

use std::sync::atomic::{AtomicUsize, Ordering};

use ingest_testkit::cassette::Cassette;
use ingest_testkit::http::{HttpServer, Response};

const KEY: &str = "live-key-5e81c09a";

/// An API with a token, two pages that link each other, and a counter.
async fn api() -> HttpServer {
    let polls = AtomicUsize::new(0);
    HttpServer::start(move |request| {
        let host = request.header("host").unwrap_or_default().to_owned();
        let known = request.header("authorization") == Some("Bearer fresh-token-77aa");
        let response = match (request.path.as_str(), request.param("page").as_deref()) {
            ("/oauth/token", _) => Response::json(r#"{"access_token": "fresh-token-77aa", "expires_in": 60}"#),
            _ if !known => Response::status(401),
            ("/jobs/1", _) => {
                let nth = polls.fetch_add(1, Ordering::Relaxed);
                Response::json(if nth == 0 { r#"{"state":"running"}"# } else { r#"{"state":"done"}"# })
            }
            ("/items", None) => {
                Response::json(format!(r#"{{"items": [1,  2], "next": "http://{host}/items?page=2"}}"#))
                    .header("set-cookie", "session=abcdef123456")
                    .header("link", format!("<http://{host}/items?page=2>; rel=\"next\""))
            }
            ("/items", Some("2")) => Response::json(format!(r#"{{"items": [3], "echo": "{KEY}"}}"#)),
            ("/blob", _) => Response::status(200).body(vec![0_u8, 159, 146, 150]),
            _ => Response::status(404),
        };
        async move { response }
    })
    .await
}

/// What a connector would see: bodies in their order, its own address taken out.
async fn read(url: &str, secret: &str) -> Vec<Vec<u8>> {
    let client = reqwest::Client::new();
    let form = format!("grant_type=client_credentials&client_secret={secret}");
    let token = client.post(format!("{url}/oauth/token")).header("content-type", "application/x-www-form-urlencoded");
    let token = token.body(form).send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    let token = token["access_token"].as_str().unwrap().to_owned();
    let mut bodies = Vec::new();
    let mut next = Some(format!("{url}/items"));
    while let Some(page) = next {
        assert!(page.starts_with(url), "the link {page} leads away from {url}");
        let answer = client.get(&page).bearer_auth(&token).send().await.unwrap();
        let body = answer.bytes().await.unwrap().to_vec();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        next = json["next"].as_str().map(str::to_owned);
        bodies.push(String::from_utf8(body).unwrap().replace(url, "").replace(secret, "***").into_bytes());
    }
    for path in ["jobs/1", "jobs/1", "jobs/1", "blob"] {
        let answer = client.get(format!("{url}/{path}")).bearer_auth(&token).send().await.unwrap();
        bodies.push(answer.bytes().await.unwrap().to_vec());
    }
    bodies
}

#[tokio::test]
async fn what_was_recorded_is_played_byte_for_byte_without_the_api_and_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acme.json");
    let recorded = {
        let api = api().await;
        let cassette = Cassette::record(&file, api.url(), &[KEY]).await;
        let bodies = read(cassette.url(), KEY).await;
        cassette.finish();
        bodies
    };
    let text = std::fs::read_to_string(&file).unwrap();
    for secret in [KEY, "fresh-token-77aa", "abcdef123456", "127.0.0.1"] {
        assert!(!text.contains(secret), "{secret} is in the recording:\n{text}");
    }
    for _ in 0..2 {
        let cassette = Cassette::play(&file).await;
        assert_eq!(read(cassette.url(), "another-secret").await, recorded);
        assert_eq!(cassette.misses(), Vec::<String>::new());
        cassette.finish();
    }
}

#[tokio::test]
#[should_panic(expected = "has no answer to [\"GET /items\"]")]
async fn a_request_that_was_never_made_fails_the_test() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty.json");
    std::fs::write(&file, r#"{"format": 1, "exchanges": []}"#).unwrap();
    let cassette = Cassette::play(&file).await;
    let answer = reqwest::get(format!("{}/items", cassette.url())).await.unwrap();
    assert_eq!(answer.status().as_u16(), 501);
    cassette.finish();
}
