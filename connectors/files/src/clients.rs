//! Clients of object stores, as the configuration describes them.

use std::sync::Arc;
use std::time::Duration;

use ingest_core::config::is_loopback;
use ingest_core::{Error, Result};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::config::FilesConfig;
use crate::store::{Root, without_queries};

/// A folder given as a `file://` URL.
pub fn local(path: &str) -> Result<Root> {
    Url::parse(path)
        .ok()
        .and_then(|url| url.to_file_path().ok())
        .map(Root::Local)
        .ok_or_else(|| Error::config("invalid configuration: path: is not a file URL of this machine"))
}

/// The client of an object store or a web server. Connects to nothing.
pub fn objects(config: &FilesConfig, path: &str) -> Result<Root> {
    let wrong = |text: &str| Error::config(format!("invalid configuration: path: {text}"));
    let url = Url::parse(path).map_err(|e| wrong("is not a URL").caused_by(e))?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a URL must not hold credentials or a query").hint("use the fields for credentials"));
    }
    let host =
        url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("the URL names no bucket or host"))?;
    let reached = match url.scheme() {
        "http" | "https" => Some(url.clone()),
        _ => config
            .endpoint
            .as_deref()
            .map(Url::parse)
            .transpose()
            .map_err(|e| Error::config("invalid configuration: endpoint: is not a URL").caused_by(e))?,
    };
    let plaintext = reached.as_ref().is_some_and(|url| url.scheme() == "http");
    let near = reached.as_ref().and_then(Url::host_str).is_some_and(is_loopback);
    if plaintext && !near && !config.danger_plaintext {
        return Err(Error::config("invalid configuration: plain http goes to this machine alone")
            .hint("use https, or set `danger_plaintext: true`"));
    }
    let client = ClientOptions::new()
        .with_allow_http(plaintext)
        .with_connect_timeout(Duration::from_secs(10))
        // Bodies of any length may take any time; silence is what is limited.
        .with_timeout_disabled();
    let retry = RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
    let prefix = percent_decoded(url.path().trim_matches('/'));
    let root = Path::parse(&prefix).map_err(|e| wrong("the prefix cannot be addressed").caused_by(e))?;
    let (store, root): (Arc<dyn ObjectStore>, Path) = match url.scheme() {
        "s3" | "s3a" => (s3(config, host, client, retry)?, root),
        "gs" | "gcs" => (gcs(config, host, client, retry)?, root),
        "az" | "azure" | "abfs" | "abfss" => (azure(config, &url, client, retry)?, root),
        "http" | "https" => {
            let mut base = url.clone();
            base.set_path("");
            (
                built(
                    object_store::http::HttpBuilder::new()
                        .with_url(base)
                        .with_client_options(client)
                        .with_retry(retry)
                        .build(),
                )?,
                root,
            )
        }
        other => {
            return Err(wrong(&format!("the scheme {other}:// is not known"))
                .hint("write a folder, s3://, gs://, az:// or https://"));
        }
    };
    Ok(Root::Objects { store, root, lists: !matches!(url.scheme(), "http" | "https") })
}

fn percent_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn built<S: ObjectStore>(store: object_store::Result<S>) -> Result<Arc<dyn ObjectStore>> {
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(e) => Err(Error::config("cannot set up the object store").caused_by(without_queries(&e.to_string()))),
    }
}

fn s3(config: &FilesConfig, bucket: &str, client: ClientOptions, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = object_store::aws::AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(retry)
        .with_skip_signature(config.anonymous);
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &config.endpoint {
        let plain = endpoint.starts_with("http://");
        builder = builder.with_endpoint(endpoint).with_allow_http(plain).with_virtual_hosted_style_request(false);
    }
    if let Some(key) = &config.access_key_id {
        builder = builder.with_access_key_id(key.expose());
    }
    if let Some(key) = &config.secret_access_key {
        builder = builder.with_secret_access_key(key.expose());
    }
    if let Some(token) = &config.session_token {
        builder = builder.with_token(token.expose());
    }
    built(builder.build())
}

fn gcs(config: &FilesConfig, bucket: &str, client: ClientOptions, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = object_store::gcp::GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(retry)
        .with_skip_signature(config.anonymous);
    if let Some(key) = &config.service_account_key {
        builder = builder.with_service_account_key(key.expose());
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_config(object_store::gcp::GoogleConfigKey::BaseUrl, endpoint);
    }
    built(builder.build())
}

fn azure(config: &FilesConfig, url: &Url, client: ClientOptions, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>> {
    // abfss://container@account.dfs.core.windows.net/path has its container before the `@`, which is refused above.
    let container = url.host_str().unwrap_or_default();
    let mut builder = object_store::azure::MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_client_options(client)
        .with_retry(retry)
        .with_skip_signature(config.anonymous);
    if let Some(account) = &config.account {
        builder = builder.with_account(account);
    }
    if let Some(key) = &config.account_key {
        builder = builder.with_access_key(key.expose());
    }
    if let Some(token) = &config.sas_token {
        builder =
            builder.with_config(object_store::azure::AzureConfigKey::SasKey, token.expose().trim_start_matches('?'));
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone()).with_allow_http(endpoint.starts_with("http://"));
    }
    built(builder.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_needs_a_word() {
        let config =
            |path: &str, danger| FilesConfig { path: path.into(), danger_plaintext: danger, ..FilesConfig::default() };
        assert!(Root::open(&config("http://example.com/x", false)).is_err());
        assert!(Root::open(&config("http://example.com/x", true)).is_ok());
        assert!(Root::open(&config("http://127.0.0.1:1/x", false)).is_ok());
        assert!(Root::open(&config("https://user:pw@example.com/x", false)).is_err());
        assert!(Root::open(&config("ftp://example.com/x", false)).is_err());
    }
}
