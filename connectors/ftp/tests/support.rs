//! Servers, and connectors to them.

use ingest_connector_ftp::Ftp as Connector;
use ingest_core::{Builtin, Context, Factory, Json, Result, Source};
use ingest_testkit::ftp::{Ftp, Protection};
use ingest_testkit::sshd::{Folder, USER, password};
use serde_json::json;

/// What pyftpdlib is told to ask for.
pub(crate) const PASSWORD: &str = "canary-of-ftp";

/// pyftpdlib over a folder, and the configuration of a source.
pub(crate) async fn pyftpdlib(folder: &Folder, protection: Protection) -> Option<(Ftp, Json)> {
    let server = Ftp::pyftpdlib(folder.path(), PASSWORD, protection).await?;
    let mut config = json!({"host": "localhost", "port": server.port(), "user": USER, "password": PASSWORD});
    let more = match protection {
        Protection::Plain => json!({"danger_plaintext": true}),
        Protection::Explicit => json!({"tls_ca": server.authority()}),
        Protection::Implicit => json!({"tls_ca": server.authority(), "tls": "implicit"}),
    };
    config = with(config, more);
    Some((server, config))
}

/// vsftpd over a folder, and the configuration of a source.
pub(crate) async fn vsftpd(folder: &Folder, settings: &[&str]) -> Option<(Ftp, Json)> {
    let server = Ftp::vsftpd(settings).await?;
    let config = json!({
        "host": "localhost", "port": server.port(), "user": USER, "password": password(), "tls_ca": server.authority(),
        "path": folder.path(),
    });
    Some((server, config))
}

pub(crate) fn with(mut config: Json, more: Json) -> Json {
    for (key, value) in more.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

pub(crate) async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Connector>::new().open(config, Context::standalone("drop")).await
}
