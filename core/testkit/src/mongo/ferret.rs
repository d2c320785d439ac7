//! A server that speaks MongoDB's protocol: FerretDB 1.24 over SQLite, another vendor's; or the one that `INGEST_TEST_MONGODB_URL` names.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::certificates::Authority;
use crate::process::{Server, free_port};
use crate::programs;

/// A server of tests.
pub struct Mongo {
    /// Its address.
    pub uri: String,
    /// Whether it is MongoDB itself: it knows every type, change streams and transactions.
    pub genuine: bool,
    databases: AtomicU32,
    _ferret: Option<Ferret>,
}

/// A FerretDB process.
pub struct Ferret {
    /// Its port.
    pub port: u16,
    /// Its port with TLS, where a certificate was given.
    pub tls_port: u16,
    _server: Server,
    _folder: TempDir,
}

impl Mongo {
    /// The server that all tests of a process share; `None` where `INGEST_TEST_SKIP` names `ferretdb`.
    ///
    /// # Panics
    /// When FerretDB is missing or does not start.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Mongo>> = OnceCell::const_new();
        let start = || async {
            let (databases, genuine) = (AtomicU32::new(0), true);
            if let Ok(uri) = std::env::var("INGEST_TEST_MONGODB_URL") {
                return Some(Self { uri, genuine, databases, _ferret: None });
            }
            let ferret = Ferret::start(None).await?;
            let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", ferret.port);
            Some(Self { uri, genuine: false, databases, _ferret: Some(ferret) })
        };
        SHARED.get_or_init(start).await.as_ref()
    }

    /// The name of a database that nobody else uses.
    pub fn database(&self) -> String {
        format!("t{}_{}", std::process::id(), self.databases.fetch_add(1, Ordering::Relaxed))
    }
}

impl Ferret {
    /// Starts a process of one's own, with TLS on a second port for `localhost` where there is an authority; `None` where
    /// `INGEST_TEST_SKIP` names `ferretdb`.
    ///
    /// # Panics
    /// When FerretDB is missing or does not start.
    pub async fn start(authority: Option<&Authority>) -> Option<Self> {
        let program = programs::find("ferretdb", &[programs::home().join("bin/ferretdb")])?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder of our own");
        let (port, tls_port) = (free_port(), free_port());
        let mut command = Command::new(program);
        command.arg(format!("127.0.0.1:{port}")).arg(&data);
        if let Some(authority) = authority {
            let identity = authority.identity(&["localhost"]);
            let [certificate, key] = [("cert", identity.certificate), ("key", identity.key)].map(|(name, text)| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).expect("a file in a folder of our own");
                path
            });
            command.arg(format!("127.0.0.1:{tls_port}")).args([certificate, key]);
        }
        let server = Server::start("FerretDB", command);
        server.ready(async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Some(Self { port, tls_port, _server: server, _folder: folder })
    }
}
