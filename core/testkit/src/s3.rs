//! An S3 server for tests: [moto](https://github.com/getmoto/moto), a stand-in.
//!
//! It honours create-if-absent (`If-None-Match: *`, also at the end of a multipart upload) and update-if-unchanged
//! (`If-Match`), which is what commits rest on. It checks no signatures. `INGEST_TEST_S3_URL`, with
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, names another server to use instead, for example MinIO.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use tokio::sync::OnceCell;

use crate::process::Server;
use crate::{exchange, programs, python};

/// The region that every client of the stand-in names.
const REGION: &str = "us-east-1";

/// A running S3 server.
pub struct S3 {
    endpoint: String,
    key: String,
    secret: String,
    _server: Option<Server>,
}

impl S3 {
    /// Starts a server of one's own; `None` when `INGEST_TEST_SKIP` names `s3`.
    ///
    /// # Panics
    /// When moto is not installed or does not start.
    pub async fn start() -> Option<Self> {
        if programs::skipped("s3") {
            return None;
        }
        if let Ok(endpoint) = std::env::var("INGEST_TEST_S3_URL") {
            let credential = |name| std::env::var(name).unwrap_or_else(|_| panic!("INGEST_TEST_S3_URL needs {name}"));
            let (key, secret) = (credential("AWS_ACCESS_KEY_ID"), credential("AWS_SECRET_ACCESS_KEY"));
            return Some(Self { endpoint, key, secret, _server: None });
        }
        Self::stand_in().await
    }

    /// Starts the stand-in, whatever else there is; `None` when `INGEST_TEST_SKIP` names `s3`.
    ///
    /// # Panics
    /// When moto is not installed or does not start.
    pub async fn stand_in() -> Option<Self> {
        if programs::skipped("s3") {
            return None;
        }
        let mut command = Command::new(python::program("s3")?);
        command.args(["-u", "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", "0"]);
        let (server, endpoint) = Server::start_announced("moto", command, "Running on ").await;
        Some(Self { endpoint, key: "test".into(), secret: "test".into(), _server: Some(server) })
    }

    /// The server that all tests of this process share; `None` as for [`S3::start`].
    pub async fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceCell<Option<Arc<S3>>> = OnceCell::const_new();
        SHARED.get_or_init(async || Self::start().await.map(Arc::new)).await.clone()
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a new, empty bucket with a name that no other test has.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn bucket(self: &Arc<Self>) -> Bucket {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Letters and digits alone: some clients encode everything else, and the stand-in does not decode it.
        let name = format!("test{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        if self._server.is_some() {
            let authorization = unsigned(&self.key);
            let answer = exchange::send(
                &self.endpoint,
                &format!("PUT /{name} HTTP/1.1\r\nauthorization: {authorization}\r\ncontent-length: 0\r\n"),
                b"",
            )
            .await
            .unwrap_or_else(|error| panic!("cannot reach the S3 stand-in: {error}"));
            assert_eq!(exchange::status(&answer), Some(200), "cannot make bucket {name}");
        } else {
            let script = include_str!("python/make_bucket.py");
            python::run("s3", script, &[&self.endpoint, REGION, &name], &self.credentials()).await;
        }
        Bucket { server: Arc::clone(self), name }
    }

    fn credentials(&self) -> Vec<(String, String)> {
        [("AWS_ACCESS_KEY_ID", &self.key), ("AWS_SECRET_ACCESS_KEY", &self.secret)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .to_vec()
    }
}

/// A header that looks like a signature; the stand-in reads the key and checks nothing.
pub(crate) fn unsigned(key: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={key}/20260101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature={}",
        "0".repeat(64)
    )
}

/// A bucket of one test.
pub struct Bucket {
    server: Arc<S3>,
    name: String,
}

impl Bucket {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `s3://bucket`.
    pub fn url(&self) -> String {
        format!("s3://{}", self.name)
    }

    /// What a program needs in its environment to reach the bucket; the Python readers take the same as options.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.server.credentials();
        for (name, value) in
            [("AWS_ENDPOINT_URL", self.server.endpoint.as_str()), ("AWS_REGION", REGION), ("AWS_ALLOW_HTTP", "true")]
        {
            env.push((name.to_owned(), value.to_owned()));
        }
        env
    }

    /// A client, as the program under test builds it.
    ///
    /// # Panics
    /// When the client refuses the configuration.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        let store = AmazonS3Builder::new()
            .with_endpoint(&self.server.endpoint)
            .with_allow_http(true)
            .with_region(REGION)
            .with_access_key_id(&self.server.key)
            .with_secret_access_key(&self.server.secret)
            .with_bucket_name(&self.name)
            .build()
            .expect("a complete configuration");
        Arc::new(store)
    }
}
