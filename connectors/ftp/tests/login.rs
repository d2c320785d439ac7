//! TLS, accounts, and what is refused.

use ingest_core::{ErrorKind, Selection};
use ingest_testkit::ftp::Protection;
use ingest_testkit::sshd::Folder;
use ingest_testkit::table::load;
use serde_json::json;

use crate::support::{open, pyftpdlib, vsftpd, with};

#[tokio::test]
async fn explicit_implicit_and_plain_connections_read_the_same() {
    for protection in [Protection::Explicit, Protection::Implicit, Protection::Plain] {
        let folder = Folder::new();
        folder.write("in/a.csv", "id\n1\n");
        folder.write("in/deep/b.csv", "id\n2\n");
        let Some((_server, config)) = pyftpdlib(&folder, protection).await else { return };
        for more in [json!({}), json!({"tls_max": "1.2"})] {
            let source = open(with(config.clone(), more)).await.expect("open");
            assert_eq!(source.check(&Selection::default()).await.expect("check"), [], "{protection:?}");
            let table = load(source.as_ref(), "in").await;
            assert_eq!(table.column("id"), ["1", "2"], "{protection:?}");
            assert_eq!(table.column("_source_file"), ["in/a.csv", "in/deep/b.csv"]);
        }
    }
}

#[tokio::test]
async fn a_server_that_wants_the_session_continued_for_data_gets_that() {
    let folder = Folder::new();
    for i in 0..20 {
        folder.write(&format!("in/{i}.csv"), format!("id\n{i}\n"));
    }
    let Some((_server, config)) = vsftpd(&folder, &[]).await else { return };
    for more in [json!({}), json!({"tls_max": "1.2"})] {
        let source = open(with(config.clone(), more.clone())).await.expect("open");
        assert_eq!(load(source.as_ref(), "in").await.rows.len(), 20, "{more}");
    }
}

#[tokio::test]
async fn wrong_passwords_certificates_and_plain_servers_are_refused_by_name() {
    let folder = Folder::new();
    folder.write("t.csv", "id\n1\n");
    let Some((_server, good)) = pyftpdlib(&folder, Protection::Explicit).await else { return };
    let other = ingest_testkit::certificates::Authority::new();
    for (more, kind) in [
        (json!({"password": "not-the-password"}), ErrorKind::Unauthenticated),
        (json!({"tls_ca": other.pem()}), ErrorKind::Unauthenticated),
        (json!({"tls_ca": null}), ErrorKind::Unauthenticated),
        (json!({"path": "/nowhere/at/all"}), ErrorKind::NotFound),
        // The server takes nothing without TLS.
        (json!({"danger_plaintext": true, "tls_ca": null}), ErrorKind::Unauthenticated),
    ] {
        let source = open(with(good.clone(), more.clone())).await.expect("open");
        let error = source.schema(&Selection::default()).await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{more}: {error:?}");
        assert!(!format!("{error:?}").contains("not-the-password"));
    }
    let Some((plain, _)) = pyftpdlib(&folder, Protection::Plain).await else { return };
    let source = open(with(good, json!({"port": plain.port()}))).await.expect("open");
    let error = source.schema(&Selection::default()).await.expect_err("no TLS");
    assert!(error.to_string().contains("does not begin TLS"), "{error:?}");
}
