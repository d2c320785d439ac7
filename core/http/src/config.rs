//! What a client is made of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ingest_core::config::Tls;
use ingest_core::{Error, Rate, Result, Secret};
use url::Url;

use crate::hosts::{HostRule, Hosts};
use crate::{Auth, Dialect};

/// What a client is made of. Start with [`ClientConfig::new`], change the fields that differ.
///
/// ```
/// use ingest_core::{Context, Secret};
/// use ingest_http::{Auth, ClientConfig, HttpClient};
///
/// # fn main() -> ingest_core::Result<()> {
/// let user_endpoint: Option<&str> = None; // the field `endpoint` of the source
/// let mut config = ClientConfig::new("https://api.example.com", user_endpoint)?;
/// config.auth = Auth::Bearer(Secret::new("key"));
/// config.headers.push(("Example-Version".into(), "2025-09-30".into()));
/// let client = HttpClient::new(config, &Context::standalone("example"))?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ClientConfig {
    /// The base URL; paths of requests are appended to it.
    pub endpoint: Url,
    /// Further hosts that links, redirects and downloads may lead to.
    pub hosts: Vec<HostRule>,
    /// How requests prove who we are.
    pub auth: Auth,
    /// Headers of every request to a host that gets the credentials, e.g. the version of the API.
    pub headers: Vec<(String, String)>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// When to repeat a request.
    pub retry: Retry,
    /// Ceilings on answers.
    pub ceilings: Ceilings,
    /// The rate of the whole account. All requests take a token of it, besides those they name themselves.
    pub rate: Option<Rate>,
    /// The name of the account's bucket; the source's name when left out. Sources of one account name the same.
    pub bucket: Option<String>,
    /// Requests that may be under way at once. Default: 8.
    pub in_flight: usize,
    /// Certificates.
    pub tls: TlsOptions,
    /// Lets plain HTTP leave this machine.
    pub danger_plaintext: bool,
    /// Lets host names resolve to private addresses. An endpoint that the user wrote may do so anyway.
    pub allow_private: bool,
    /// What the API's errors mean.
    pub dialect: Arc<dyn Dialect>,
    pub(crate) endpoint_by_user: bool,
}

impl ClientConfig {
    /// Takes the API's own base URL and what the user wrote in `endpoint`, which takes its place. Only an endpoint that
    /// the user wrote may be on loopback or in a private network.
    ///
    /// # Errors
    /// `ConfigInvalid` when the URL is none, is neither `http` nor `https`, or holds a user name or a query.
    pub fn new(api: &str, user: Option<&str>) -> Result<Self> {
        let text = user.unwrap_or(api);
        let wrong = |what: &str| {
            Error::config(format!("the endpoint {what}")).hint("write it as https://HOST or https://HOST/PATH")
        };
        let mut endpoint = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(wrong("is not an http or https URL"));
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err(wrong("holds a user name or password; these have fields of their own"));
        }
        if endpoint.query().is_some() || endpoint.fragment().is_some() {
            return Err(wrong("holds a query or fragment"));
        }
        if !endpoint.path().ends_with('/') {
            let path = format!("{}/", endpoint.path());
            endpoint.set_path(&path);
        }
        Ok(Self {
            endpoint,
            hosts: Vec::new(),
            auth: Auth::None,
            headers: Vec::new(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            ceilings: Ceilings::default(),
            rate: None,
            bucket: None,
            in_flight: 8,
            tls: TlsOptions::default(),
            danger_plaintext: false,
            allow_private: false,
            dialect: Arc::new(crate::classify::Plain),
            endpoint_by_user: user.is_some(),
        })
    }

    pub(crate) fn host_rules(&self) -> Result<Hosts> {
        Hosts::new(self)
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("endpoint", &self.endpoint.as_str())
            .field("hosts", &self.hosts)
            .field("auth", &self.auth)
            .field("timeouts", &self.timeouts)
            .field("retry", &self.retry)
            .field("ceilings", &self.ceilings)
            .finish_non_exhaustive()
    }
}

/// How long to wait for what, within one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, name look-up and TLS included. Default 10 s.
    pub connect: Duration,
    /// For the head of the answer, from the start of the request. Default 30 s.
    pub first_byte: Duration,
    /// Between two pieces of a body. Default 30 s.
    pub idle: Duration,
    /// For the whole attempt; downloads that are read piece by piece are exempt. Default 60 s.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(60),
        }
    }
}

impl Timeouts {
    /// One limit for silence of every kind: what the field `timeout` of a source means.
    pub fn of(timeout: Duration) -> Self {
        let default = Self::default();
        Self {
            connect: default.connect.min(timeout),
            first_byte: timeout,
            idle: timeout,
            total: default.total.max(timeout),
        }
    }
}

/// When to repeat a request. The defaults are what users were promised: a call without a good answer is given up
/// within 90 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Attempts in all. Default 3.
    pub attempts: u32,
    /// Time for all of them, pauses included; also the longest `Retry-After` that is obeyed. Default 90 s.
    pub budget: Duration,
    /// Pause before the second attempt; each further one is four times as long. Default 1 s.
    pub pause: Duration,
    /// The same where the server asked to slow down and did not say for how long. Default 4 s.
    pub throttled_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            budget: Duration::from_secs(90),
            pause: Duration::from_secs(1),
            throttled_pause: Duration::from_secs(4),
        }
    }
}

/// Ceilings on answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    /// Decoded bytes of one page. Default 64 MiB.
    pub page_bytes: usize,
    /// Decoded bytes of one download. Default 64 GiB.
    pub download_bytes: u64,
    /// Decoded bytes per compressed byte, once 1 MiB was decoded. Default 200.
    pub gzip_ratio: u64,
    /// Redirects that are followed in a row. Default 5.
    pub redirects: usize,
}

impl Default for Ceilings {
    fn default() -> Self {
        Self { page_bytes: 64 << 20, download_bytes: 64 << 30, gzip_ratio: 200, redirects: 5 }
    }
}

/// Certificates: the fields `tls`, `tls_ca`, `tls_cert`, `tls_key` of a source.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// How certificates are checked. Left out: fully.
    pub mode: Option<Tls>,
    /// Authorities to trust in place of the system's: PEM text, or the path of a PEM file.
    pub ca: Option<String>,
    /// Our certificate: PEM text, or the path of a PEM file.
    pub cert: Option<String>,
    /// Its private key: PEM text, or the path of a PEM file.
    pub key: Option<Secret>,
}
