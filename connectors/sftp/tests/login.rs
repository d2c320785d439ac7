//! Who we are, and who the server is.

use std::process::{Command, Stdio};

use ingest_core::{ErrorKind, Selection};
use ingest_testkit::sshd::{Folder, Sshd, USER, password};
use ingest_testkit::table::{load, streams};
use serde_json::json;

use crate::support::{config, open, with};

#[tokio::test]
async fn keys_encrypted_keys_and_passwords_let_us_in() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("t.csv", "id\n1\n");
    let base = config(&server, &folder);
    let (locked, passphrase) = server.locked_key();
    for more in [
        json!({}),
        json!({"private_key": locked, "passphrase": passphrase}),
        json!({"private_key": null, "password": password()}),
        json!({"known_hosts": null, "host_key": server.fingerprint()}),
    ] {
        let source = open(with(base.clone(), more)).await.expect("open");
        assert_eq!(source.check(&Selection::default()).await.expect("check"), []);
        assert_eq!(load(source.as_ref(), "t").await.column("id"), ["1"]);
    }
}

#[tokio::test]
async fn wrong_credentials_and_wrong_servers_are_refused_by_name() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("t.csv", "id\n1\n");
    let base = config(&server, &folder);
    for (more, text) in [
        (json!({"private_key": server.foreign_key()}), "refuses our credentials"),
        (json!({"private_key": null, "password": "not the password"}), "refuses our credentials"),
        (json!({"private_key": server.locked_key().0, "passphrase": "wrong"}), "refuses our credentials"),
        (json!({"user": "nobody-there"}), "refuses our credentials"),
        (json!({"known_hosts": server.wrong_known_hosts()}), "is not the one of `known_hosts`"),
        (json!({"known_hosts": server.known_hosts_at(1)}), "is not in `known_hosts`"),
        (
            json!({"known_hosts": null, "host_key": format!("SHA256:{}", "A".repeat(43))}),
            "is not the one of `host_key`",
        ),
    ] {
        let source = open(with(base.clone(), more.clone())).await.expect("open");
        let error = source.schema(&Selection::default()).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{more}: {error:?}");
        assert!(error.to_string().contains(text), "{more}: {error}");
        assert!(!format!("{error:?}").contains("not the password"));
    }
    let nowhere = open(with(base, json!({"known_hosts": "/no/such/file"}))).await.expect("open");
    let error = nowhere.schema(&Selection::default()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_another_is_reached_through_it() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let Some(gate) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    let rows: String = (0..200_000).map(|i| format!("{i},a text that makes the file long enough\n")).collect();
    folder.write("t.csv", format!("id,text\n{rows}"));
    let jump = json!({
        "host": "127.0.0.1", "port": gate.port(), "user": USER, "private_key": gate.private_key(),
        "known_hosts": gate.known_hosts(),
    });
    let base = with(config(&server, &folder), json!({"jump": jump}));
    let source = open(base.clone()).await.expect("open");
    assert_eq!(load(source.as_ref(), "t").await.rows.len(), 200_000);
    assert!(gate.log().contains("Accepted publickey"), "{}", gate.log());

    let closed = Sshd::start(&["AllowTcpForwarding no"]).await.expect("not skipped");
    let jump = json!({
        "host": "127.0.0.1", "port": closed.port(), "user": USER, "private_key": closed.private_key(),
        "known_hosts": closed.known_hosts(),
    });
    let source = open(with(base, json!({"jump": jump}))).await.expect("open");
    let error = source.schema(&Selection::default()).await.expect_err("refused");
    assert!(error.to_string().contains("the jump host cannot reach the server"), "{error:?}");
}

/// The only test of this binary that reads or changes `SSH_AUTH_SOCK` is a process of its own: the agent's address is
/// the process's.
#[test]
fn keys_of_an_agent_let_us_in() {
    const INSIDE: &str = "INGEST_TEST_WITH_AGENT";
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    if std::env::var_os(INSIDE).is_some() {
        return runtime.block_on(with_agent());
    }
    if ingest_testkit::programs::find("sshd", &["ssh-agent".into()]).is_none() {
        return;
    }
    let status = Command::new("ssh-agent")
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "login::keys_of_an_agent_let_us_in", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("ssh-agent runs");
    assert!(status.success());
}

async fn with_agent() {
    let Some(server) = Sshd::start(&[]).await else { return };
    let folder = Folder::new();
    folder.write("t.csv", "id\n1\n");
    let agent = with(config(&server, &folder), json!({"private_key": null, "agent": true}));
    let refused = open(agent.clone()).await.expect("open").schema(&Selection::default()).await.expect_err("no key yet");
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    let added = Command::new("ssh-add").arg("-q").arg(server.private_key_file()).status().expect("ssh-add runs");
    assert!(added.success());
    assert_eq!(streams(open(agent).await.expect("open").as_ref()).await.len(), 1);
}
