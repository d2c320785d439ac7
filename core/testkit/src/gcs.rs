//! Google Cloud Storage over an S3 stand-in: half of it is ours, and a test that uses it says so in its name
//! (`..._gcs_xml_over_s3`).
//!
//! `object_store` speaks GCS's XML API, which is S3's with other header names. A proxy translates them:
//!
//! | GCS | S3 |
//! | --- | --- |
//! | `Authorization: Bearer …` | a signature that moto does not check |
//! | `x-goog-if-generation-match: 0` | `If-None-Match: *` |
//! | `x-goog-if-generation-match: n` | `If-Match: n` |
//! | `x-goog-copy-source` | `x-amz-copy-source` |
//! | `x-goog-generation` (answer) | the ETag |
//!
//! What it does not show: Google's own rules for generations, tokens, and copy-if-absent, which here overwrites.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::gcp::GoogleCloudStorageBuilder;

use crate::exchange;
use crate::http::{HttpServer, Request, Response};
use crate::s3::{Bucket, S3, unsigned};

/// GCS's XML API before an S3 stand-in.
pub struct GcsOverS3 {
    proxy: HttpServer,
    bucket: Bucket,
    key_file: tempfile::NamedTempFile,
}

impl GcsOverS3 {
    /// Starts the proxy before an S3 stand-in of its own; `None` when `INGEST_TEST_SKIP` names `s3`.
    ///
    /// # Panics
    /// When the stand-in is not installed or does not start.
    pub async fn start() -> Option<Self> {
        let s3 = Arc::new(S3::stand_in().await?);
        let bucket = s3.bucket().await;
        let target = s3.endpoint().to_owned();
        let proxy = HttpServer::start_unrecorded(move |request| {
            let target = target.clone();
            async move { forward(&target, &request).await }
        })
        .await;
        let key_file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(key_file.path(), account(proxy.url())).expect("a file of our own");
        Some(Self { proxy, bucket, key_file })
    }

    /// `gs://bucket`.
    pub fn url(&self) -> String {
        format!("gs://{}", self.bucket.name())
    }

    /// `http://127.0.0.1:port` of the proxy.
    pub fn endpoint(&self) -> &str {
        self.proxy.url()
    }

    /// What a program needs in its environment to reach the bucket.
    pub fn env(&self) -> Vec<(String, String)> {
        let path = self.key_file.path().display().to_string();
        vec![("GOOGLE_SERVICE_ACCOUNT".to_owned(), path)]
    }

    /// A client, as the program under test builds it.
    ///
    /// # Panics
    /// When the client refuses the configuration.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        let store = GoogleCloudStorageBuilder::new()
            .with_service_account_key(account(self.proxy.url()))
            .with_bucket_name(self.bucket.name())
            .with_client_options(object_store::ClientOptions::new().with_allow_http(true))
            .build()
            .expect("a complete configuration");
        Arc::new(store)
    }
}

/// A service account that needs no token and points to `endpoint`.
fn account(endpoint: &str) -> String {
    serde_json::json!({
        "gcs_base_url": endpoint, "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
    })
    .to_string()
}

/// Passes one request on in S3's words, and its answer back in Google's.
async fn forward(target: &str, request: &Request) -> Response {
    let mark = if request.query.is_empty() { "" } else { "?" };
    let mut head = format!("{} {}{mark}{} HTTP/1.1\r\n", request.method, request.path, request.query);
    for (name, value) in &request.headers {
        let (name, value) = match (name.as_str(), value.as_str()) {
            ("host" | "connection" | "authorization" | "transfer-encoding", _) => continue,
            ("x-goog-if-generation-match", "0") => ("if-none-match", "*"),
            ("x-goog-if-generation-match", etag) => ("if-match", etag),
            ("x-goog-copy-source", source) => ("x-amz-copy-source", source),
            other => other,
        };
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("authorization: {}\r\n", unsigned("test")));
    match exchange::send(target, &head, &request.body).await {
        Ok(answer) => Response::raw(with_generation(answer)),
        Err(_) => Response::status(502),
    }
}

/// Adds the ETag of an answer as its generation.
fn with_generation(mut answer: Vec<u8>) -> Vec<u8> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |end| end + 2);
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let etag = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("etag").then(|| value.trim().to_owned())
    });
    if let Some(etag) = etag {
        let header = format!("x-goog-generation: {etag}\r\n");
        answer.splice(end..end, header.into_bytes());
    }
    answer
}
