//! Who gets the credentials when a server sends us elsewhere.

use ingest_core::{ErrorKind, Secret};
use ingest_http::{Auth, HostRule};
use ingest_testkit::http::{HttpServer, Response};

use crate::{CANARY, client, config, open};

/// A server to which another one leads, and that other one.
async fn pair(status: u16) -> (HttpServer, HttpServer) {
    let other = HttpServer::start(|_| async { Response::json(r#"{"from": "other"}"#) }).await;
    let url = other.url().to_owned();
    let api = HttpServer::start(move |request| {
        let response = match request.path.as_str() {
            "/elsewhere" => Response::redirect(status, format!("{url}/landing")),
            "/here" => Response::redirect(status, "/landing?x=1"),
            "/there-and-back" => Response::redirect(status, format!("{url}/back")),
            _ => Response::json(r#"{"from": "api"}"#),
        };
        async move { response }
    })
    .await;
    (api, other)
}

#[tokio::test]
async fn a_redirect_within_the_origin_keeps_the_credentials() {
    for status in [301, 302, 303, 307, 308] {
        let (api, _) = pair(status).await;
        client(api.url()).get("/here").send().await.expect("followed");
        let landing = &api.requests()[1];
        assert_eq!((landing.path.as_str(), landing.query.as_str()), ("/landing", "x=1"));
        assert!(landing.header("authorization").is_some());
    }
}

#[tokio::test]
async fn a_redirect_to_a_listed_host_goes_without_credentials() {
    let auths = [
        Auth::Bearer(Secret::new(CANARY)),
        Auth::Header { name: "x-api-key".into(), value: Secret::new(CANARY) },
        Auth::Query { name: "key".into(), value: Secret::new(CANARY) },
    ];
    for auth in auths {
        let (api, other) = pair(302).await;
        let mut config = config(api.url());
        config.auth = auth;
        config.headers.push(("x-account".into(), CANARY.into()));
        config.hosts.push(HostRule::api("127.0.0.1"));
        open(config).get("/elsewhere").header("x-more", CANARY).send().await.expect("followed");
        assert!(!format!("{:?}", other.requests()).contains(CANARY), "{:?}", other.requests());
        assert!(format!("{:?}", api.requests()).contains(CANARY));
    }
}

#[tokio::test]
async fn a_redirect_to_an_unlisted_host_is_an_error() {
    let (api, other) = pair(302).await;
    let error = client(api.url()).get("/elsewhere").send().await.expect_err("refused");
    assert_eq!((error.kind(), other.hits()), (ErrorKind::DataInvalid, 0));
}

#[tokio::test]
async fn a_post_is_not_redirected() {
    let (api, _) = pair(307).await;
    let error = client(api.url()).post("/here").send().await.expect_err("refused");
    assert_eq!((error.kind(), api.hits()), (ErrorKind::DataInvalid, 1));
}

#[tokio::test]
async fn a_link_to_a_listed_host_gets_what_its_rule_says() {
    for (rule, credentials) in [(HostRule::api("127.0.0.1"), true), (HostRule::download("127.0.0.1"), false)] {
        let (api, other) = pair(302).await;
        let mut config = config(api.url());
        config.hosts.push(rule);
        let client = open(config);
        let reply = client.get("/x").send().await.expect("an answer");
        client.follow(&reply, &format!("{}/file", other.url())).send().await.expect("an answer");
        client.follow_stored(&format!("{}/file", other.url())).anonymous().send().await.expect("an answer");
        assert_eq!(other.requests()[0].header("authorization").is_some(), credentials);
        assert_eq!(other.requests()[1].header("authorization"), None);
    }
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_used_for_this_machine() {
    // Were the variable obeyed, the request would go to a port where nobody listens. The variable is set for a child,
    // so that other tests do not see it.
    if std::env::var("INGEST_TEST_BEHIND_PROXY").is_ok() {
        let server = HttpServer::start(|_| async { Response::json("{}") }).await;
        client(server.url()).get("/x").send().await.expect("straight to the server");
        return;
    }
    let program = std::env::current_exe().expect("this program");
    let child = tokio::process::Command::new(program)
        .args(["--exact", "hosts::proxies_of_the_environment_are_not_used_for_this_machine"])
        .env("INGEST_TEST_BEHIND_PROXY", "1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .await
        .expect("a child of this program");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}
