//! Certificates: checked by default, and what the options change.

use ingest_core::config::Tls;
use ingest_core::{ErrorKind, Secret};
use ingest_http::TlsOptions;
use ingest_testkit::certificates::Authority;
use ingest_testkit::http::{HttpServer, Request, Response};

use crate::{config, open};

async fn answer(_: Request) -> Response {
    Response::json("{}")
}

/// What a call comes to under some options.
async fn call(server: &HttpServer, tls: TlsOptions) -> Result<(), ErrorKind> {
    let mut config = config(server.url());
    config.tls = tls;
    config.retry.attempts = 1;
    open(config).get("/x").send().await.map(|_| ()).map_err(|error| error.kind())
}

fn trusting(authority: &Authority, mode: Option<Tls>) -> TlsOptions {
    TlsOptions { mode, ca: Some(authority.pem().to_owned()), ..TlsOptions::default() }
}

#[tokio::test]
async fn a_certificate_must_be_of_a_trusted_authority() {
    let authority = Authority::new();
    let server = HttpServer::start_tls(authority.server(&["localhost"]), answer).await;
    assert_eq!(call(&server, TlsOptions::default()).await, Err(ErrorKind::ConfigInvalid));
    assert_eq!(call(&server, trusting(&Authority::new(), None)).await, Err(ErrorKind::ConfigInvalid));
    assert_eq!(call(&server, trusting(&authority, None)).await, Ok(()));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), authority.pem()).expect("written");
    let path = file.path().to_str().expect("UTF-8").to_owned();
    assert_eq!(call(&server, TlsOptions { ca: Some(path), ..TlsOptions::default() }).await, Ok(()));
}

#[tokio::test]
async fn a_certificate_must_be_in_date_and_of_the_right_name() {
    let authority = Authority::new();
    let expired = HttpServer::start_tls(authority.expired_server(&["localhost"]), answer).await;
    let other = HttpServer::start_tls(authority.server(&["other.example.com"]), answer).await;
    for mode in [None, Some(Tls::VerifyFull)] {
        assert_eq!(call(&expired, trusting(&authority, mode)).await, Err(ErrorKind::ConfigInvalid));
        assert_eq!(call(&other, trusting(&authority, mode)).await, Err(ErrorKind::ConfigInvalid));
    }
    assert_eq!(call(&expired, trusting(&authority, Some(Tls::VerifyCa))).await, Err(ErrorKind::ConfigInvalid));
    assert_eq!(call(&other, trusting(&authority, Some(Tls::VerifyCa))).await, Ok(()));
    let unchecked = TlsOptions { mode: Some(Tls::Require), ..TlsOptions::default() };
    assert_eq!(call(&expired, unchecked.clone()).await, Ok(()));
    assert_eq!(call(&other, unchecked).await, Ok(()));
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_asked_for() {
    let authority = Authority::new();
    let server = HttpServer::start_tls(authority.mutual_server(&["localhost"]), answer).await;
    let without = call(&server, trusting(&authority, None)).await;
    assert_eq!(without, Err(ErrorKind::Unauthenticated));
    let identity = authority.client();
    let with = TlsOptions {
        cert: Some(identity.certificate),
        key: Some(Secret::new(identity.key)),
        ..trusting(&authority, None)
    };
    assert_eq!(call(&server, with).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_speak_tls_is_given_up() {
    let server = HttpServer::start(answer).await;
    let mut config = config(&server.url().replace("http:", "https:"));
    config.retry.attempts = 1;
    let error = open(config).get("/x").send().await.expect_err("no TLS");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
}

#[test]
fn options_that_do_not_fit_are_refused_at_once() {
    let authority = Authority::new();
    let wrong = [
        TlsOptions { mode: Some(Tls::VerifyCa), ..TlsOptions::default() },
        TlsOptions { ca: Some("/no/such/file.pem".into()), ..TlsOptions::default() },
        TlsOptions { ca: Some("-----BEGIN NOTHING-----".into()), ..TlsOptions::default() },
        TlsOptions { cert: Some(authority.client().certificate), ..TlsOptions::default() },
        TlsOptions {
            cert: Some(authority.client().certificate),
            key: Some(Secret::new("-----BEGIN canary-----")),
            ..TlsOptions::default()
        },
    ];
    for tls in wrong {
        let mut config = config("https://localhost:1");
        config.tls = tls;
        let error =
            ingest_http::HttpClient::new(config, &ingest_core::Context::standalone("test")).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(!format!("{error:?} {:?}", error.causes()).contains("canary"), "{error:?}");
    }
}
