//! A served folder, and a connector to it.

use ingest_connector_sftp::Sftp;
use ingest_core::{Builtin, Context, Factory, Json, Result, Source};
use ingest_testkit::sshd::{Folder, Sshd, USER};
use serde_json::json;

/// The configuration of a source that logs in by key.
pub(crate) fn config(server: &Sshd, folder: &Folder) -> Json {
    json!({
        "host": "127.0.0.1", "port": server.port(), "user": USER, "private_key": server.private_key(),
        "known_hosts": server.known_hosts(), "path": folder.path(),
    })
}

/// The same through a proxy on another port.
pub(crate) fn config_at(server: &Sshd, folder: &Folder, port: u16) -> Json {
    with(config(server, folder), json!({"port": port, "known_hosts": server.known_hosts_at(port)}))
}

pub(crate) fn with(mut config: Json, more: Json) -> Json {
    for (key, value) in more.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

pub(crate) async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Sftp>::new().open(config, Context::standalone("drop")).await
}
