//! What a server refuses, on a scripted stand-in; and certificates, on FerretDB.

use bson::doc;
use ingest_core::{ErrorKind, Selection};
use ingest_testkit::certificates::Authority;
use ingest_testkit::mongo::{Fault, Ferret, MongoScript};
use serde_json::json;

use crate::support::{How, fails, open, run};

#[tokio::test]
async fn errors_of_a_server_keep_their_kind_on_a_stand_in() {
    let server = MongoScript::start().await;
    for id in 1..=10_i64 {
        server.state().insert("shop", "t", doc! { "_id": id });
    }
    let config = json!({"uri": server.uri(), "database": "shop", "connect_timeout": "5s"});
    let source = open(config).await.expect("a valid configuration");
    for (code, kind) in [
        (13, ErrorKind::PermissionDenied),
        (18, ErrorKind::Unauthenticated),
        (6, ErrorKind::Unavailable),
        (43, ErrorKind::Unavailable),
        (89, ErrorKind::Unavailable),
        (91, ErrorKind::Unavailable),
        (10_107, ErrorKind::Unavailable),
        (59, ErrorKind::Unsupported),
        (462, ErrorKind::RateLimited),
        (8_888, ErrorKind::Unexpected),
    ] {
        server.state().fault("getMore", Fault::code(code, "Scripted"));
        // The sample reads to its end, too.
        let error = source.schema(&Selection::default()).await.map(drop);
        assert_eq!(fails(error).kind(), kind, "{code}");
    }
    server.state().fault("getMore", Fault::Close);
    assert_eq!(fails(source.schema(&Selection::default()).await).kind(), ErrorKind::Unavailable);
    assert_eq!(
        run(&*source, "t", &mut How::full()).await.expect("rows").iter().map(|batch| batch.num_rows()).sum::<usize>(),
        10
    );
}

#[tokio::test]
async fn a_silent_server_is_given_up_on_a_stand_in() {
    let server = MongoScript::start().await;
    server.state().insert("shop", "t", doc! { "_id": 1_i64 });
    let config = json!({"uri": server.uri(), "database": "shop", "timeout": "1s", "connect_timeout": "3s"});
    let source = open(config).await.expect("a valid configuration");
    server.state().fault("find", Fault::Silence);
    let error = fails(source.schema(&Selection::default()).await);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("`timeout`")), "{error:?}");
}

#[tokio::test]
async fn certificates_are_checked_unless_that_is_switched_off() {
    let authority = Authority::new();
    let Some(ferret) = Ferret::start(Some(&authority)).await else { return };
    let uri = format!("mongodb://localhost:{}/?directConnection=true", ferret.tls_port);
    let config = |more: serde_json::Value| {
        let mut config = json!({"uri": uri, "database": "t", "connect_timeout": "4s"});
        config.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
        config
    };
    let kind =
        async |config| match open(config).await.expect("a valid configuration").schema(&Selection::default()).await {
            Ok(_) => None,
            Err(error) => Some(error.kind()),
        };
    assert_eq!(kind(config(json!({"tls_ca": authority.pem()}))).await, None);
    assert_eq!(kind(config(json!({"tls": "require"}))).await, None);
    assert_eq!(
        kind(config(json!({"tls": "verify-full"}))).await,
        Some(ErrorKind::Unauthenticated),
        "the system does not know it"
    );
    let other = Authority::new();
    assert_eq!(kind(config(json!({"tls_ca": other.pem()}))).await, Some(ErrorKind::Unauthenticated));
    let elsewhere = uri.replace("localhost", "127.0.0.1");
    let named = config(json!({"uri": elsewhere, "tls_ca": authority.pem()}));
    assert_eq!(kind(named).await, Some(ErrorKind::Unauthenticated), "the certificate names localhost");
}

#[tokio::test]
async fn wrong_certificates_are_refused_before_anything_connects() {
    for (key, value) in [("tls_ca", "/no/such/file"), ("tls_ca", "-----BEGIN NOTHING-----\n")] {
        let error = fails(open(json!({"uri": "mongodb://db.example.com", key: value})).await);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(key), "{error}");
    }
}
