//! An Azure Blob server for tests: [Azurite](https://github.com/Azure/Azurite), the vendor's emulator.
//!
//! Flat namespace, shared keys. What it does not show: hierarchical namespaces, Entra tokens.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use object_store::ObjectStore;
use object_store::azure::MicrosoftAzureBuilder;
use tokio::sync::OnceCell;

use crate::process::Server;
use crate::{exchange, hmac, programs};

/// The account that the emulator knows.
const ACCOUNT: &str = "devstoreaccount1";
/// Its key: public, the same in every installation.
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running Azurite.
pub struct Azurite {
    endpoint: String,
    _server: Server,
}

impl Azurite {
    /// Starts a server of one's own; `None` when `INGEST_TEST_SKIP` names `azurite`.
    ///
    /// # Panics
    /// When Azurite is not installed or does not start.
    pub async fn start() -> Option<Self> {
        let installed = programs::home().join("node/node_modules/.bin/azurite-blob");
        let mut command = Command::new(programs::find("azurite", &[installed, "azurite-blob".into()])?);
        command.args(["--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"]);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0"]);
        let (server, address) = Server::start_announced("azurite", command, "successfully listens on ").await;
        Some(Self { endpoint: format!("{address}/{ACCOUNT}"), _server: server })
    }

    /// The server that all tests of this process share; `None` as for [`Azurite::start`].
    pub async fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceCell<Option<Arc<Azurite>>> = OnceCell::const_new();
        SHARED.get_or_init(async || Self::start().await.map(Arc::new)).await.clone()
    }

    /// `http://127.0.0.1:port/devstoreaccount1`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a new, empty container with a name that no other test has.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn container(self: &Arc<Self>) -> Container {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("test{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // "Shared Key" of the Blob service: verb, eleven standard headers (all empty), the x-ms headers, the resource.
        let headers = "x-ms-date:Thu, 01 Jan 2026 00:00:00 GMT\nx-ms-version:2021-08-06";
        let signed = format!("PUT{}{headers}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container", "\n".repeat(12));
        let key = BASE64_STANDARD.decode(KEY).expect("a constant");
        let signature = BASE64_STANDARD.encode(hmac::sha256(&key, signed.as_bytes()));
        let head = format!(
            "PUT /{ACCOUNT}/{name}?restype=container HTTP/1.1\r\n{}\r\nauthorization: SharedKey {ACCOUNT}:{signature}\r\n\
             content-length: 0\r\n",
            headers.replace('\n', "\r\n")
        );
        let endpoint = self.endpoint.trim_end_matches(&format!("/{ACCOUNT}"));
        let answer =
            exchange::send(endpoint, &head, b"").await.unwrap_or_else(|error| panic!("cannot reach Azurite: {error}"));
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(exchange::status(&answer), Some(201), "cannot make container {name}: {text}");
        Container { server: Arc::clone(self), name }
    }
}

/// A container of one test.
pub struct Container {
    server: Arc<Azurite>,
    name: String,
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `az://container`.
    pub fn url(&self) -> String {
        format!("az://{}", self.name)
    }

    /// What a program needs in its environment to reach the container.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
            ("AZURE_STORAGE_ENDPOINT", self.server.endpoint()),
            ("AZURE_STORAGE_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// A client, as the program under test builds it.
    ///
    /// # Panics
    /// When the client refuses the configuration.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        let store = MicrosoftAzureBuilder::new()
            .with_account(ACCOUNT)
            .with_access_key(KEY)
            .with_endpoint(self.server.endpoint().to_owned())
            .with_allow_http(true)
            .with_container_name(&self.name)
            .build()
            .expect("a complete configuration");
        Arc::new(store)
    }
}
