//! The client and its requests.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ingest_core::{CancellationToken, Clock, Context, Error, ErrorKind, Limiter, Rate, Requests, Result};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use url::Url;

use crate::auth::Credentials;
use crate::hosts::{Hosts, Target};
use crate::{Ceilings, ClientConfig, Dialect, Download, Fetch, Retry, Timeouts};

/// What a bucket without a rate allows: it is there to be blocked when the server asks to slow down.
const UNLIMITED: Rate = Rate { per_second: 1e9, burst: 1e9 };

/// The client: cheap to clone, one per source. See the [crate](crate) for what it holds to.
#[derive(Clone)]
pub struct HttpClient(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub http: reqwest::Client,
    pub hosts: Hosts,
    pub credentials: Credentials,
    pub headers: HeaderMap,
    pub timeouts: Timeouts,
    pub retry: Retry,
    pub ceilings: Ceilings,
    pub dialect: Arc<dyn Dialect>,
    pub account: (String, Rate),
    pub in_flight: Semaphore,
    pub limiter: Limiter,
    pub requests: Requests,
    pub cancel: CancellationToken,
    pub clock: Arc<dyn Clock>,
    /// Microseconds by which our clock was ahead of the server's when its last answer came; [`UNKNOWN`] before.
    pub ahead: AtomicI64,
}

/// No answer has said what time it is.
const UNKNOWN: i64 = i64::MAX;

impl HttpClient {
    /// Makes a client. Nothing is connected yet.
    ///
    /// # Errors
    /// `ConfigInvalid` for credentials that no header can carry, certificates that cannot be read, plain HTTP to
    /// another machine.
    pub fn new(config: ClientConfig, context: &Context) -> Result<Self> {
        let hosts = config.host_rules()?;
        let http = crate::transport::build(&config, &hosts)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let wrong = || Error::unexpected("a header of the connector is not a valid one").with("header", name);
            let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            headers.insert(HeaderName::try_from(name.as_str()).map_err(|_| wrong())?, value);
        }
        let credentials = Credentials::new(config.auth)?;
        if let Credentials::OAuth(tokens) = &credentials {
            hosts.token_endpoint(tokens.endpoint())?;
        }
        let bucket = config.bucket.unwrap_or_else(|| context.source.clone());
        Ok(Self(Arc::new(Inner {
            http,
            hosts,
            credentials,
            headers,
            timeouts: config.timeouts,
            retry: config.retry,
            ceilings: config.ceilings,
            dialect: config.dialect,
            account: (bucket, config.rate.unwrap_or(UNLIMITED)),
            in_flight: Semaphore::new(config.in_flight.max(1)),
            limiter: context.limiter.clone(),
            requests: context.requests.clone(),
            cancel: context.cancel.clone(),
            clock: context.clock.clone(),
            ahead: AtomicI64::new(UNKNOWN),
        })))
    }

    /// Whether an answer of the API has said what time it is.
    pub fn knows_time(&self) -> bool {
        self.0.ahead.load(Ordering::Relaxed) != UNKNOWN
    }

    /// Microseconds since 1970 by our clock, or by the API's where that was behind at its last answer: bounds fixed by a
    /// clock ahead of the server's lose rows.
    pub fn now_micros(&self) -> i64 {
        let ahead = match self.0.ahead.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            ahead => ahead.max(0),
        };
        self.0.clock.now_micros() - ahead
    }

    /// A GET of a path below the endpoint, with or without a leading slash.
    pub fn get(&self, path: &str) -> Request {
        self.request(Method::GET, path)
    }

    /// A POST to a path below the endpoint. It is repeated only where the server certainly did nothing, or when it is
    /// declared [`Request::repeatable`].
    pub fn post(&self, path: &str) -> Request {
        self.request(Method::POST, path)
    }

    /// A request of any method to a path below the endpoint.
    pub fn request(&self, method: Method, path: &str) -> Request {
        let place = path.split('?').next().unwrap_or_default();
        let label = format!("{method} /{}", place.trim_start_matches('/'));
        Request::new(self.clone(), method, label, self.0.hosts.path(path))
    }

    /// A GET of a link that a server sent, resolved against the answer it came with: `next`, `@odata.nextLink`, a
    /// `Link` header, the address of a result file.
    ///
    /// Sending fails with `DataInvalid` unless the link leads to the endpoint's origin or to a listed host.
    pub fn follow(&self, reply: &Reply, link: &str) -> Request {
        Request::new(self.clone(), Method::GET, "GET a link".into(), self.0.hosts.link(&reply.url, link))
    }

    /// The address that a link of an answer leads to, to be kept in a position: checked as [`HttpClient::follow`] does.
    ///
    /// # Errors
    /// `DataInvalid` unless the link leads to the endpoint's origin or to a listed host.
    pub fn resolve(&self, reply: &Reply, link: &str) -> Result<Url> {
        self.0.hosts.link(&reply.url, link).map(|target| target.url)
    }

    /// The same for a link that is kept in a position or a job and has no answer of this run beside it.
    pub fn follow_stored(&self, link: &str) -> Request {
        let target = self.0.hosts.path("").and_then(|base| self.0.hosts.link(&base.url, link));
        Request::new(self.clone(), Method::GET, "GET a stored link".into(), target)
    }
}

impl Inner {
    /// Compares our clock with the `Date` of an answer.
    pub(crate) fn compare_clocks(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok()) {
            self.ahead.store(self.clock.now_micros() - date.timestamp_micros(), Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

/// A request while it is put together.
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    pub(crate) client: HttpClient,
    pub(crate) method: Method,
    /// What errors and logs call it: the method and the connector's own path, never a link or a query.
    pub(crate) label: String,
    pub(crate) target: Result<Target>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
    pub(crate) buckets: Vec<(String, Rate)>,
    pub(crate) expects: Expects,
    pub(crate) repeatable: bool,
}

/// What kind of answer a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    /// JSON: an HTML page in its place is an error.
    Json,
    Anything,
}

impl Request {
    fn new(client: HttpClient, method: Method, label: String, target: Result<Target>) -> Self {
        let repeatable = method == Method::GET || method == Method::HEAD;
        Self {
            client,
            method,
            label,
            target,
            headers: HeaderMap::new(),
            body: None,
            buckets: Vec::new(),
            expects: Expects::Json,
            repeatable,
        }
    }

    /// Sets what errors and logs call it, where its path holds keys of rows: the method and the path's template.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds a query parameter, percent-encoded here.
    pub fn query(mut self, name: &str, value: impl Display) -> Self {
        if let Ok(target) = &mut self.target {
            target.url.query_pairs_mut().append_pair(name, &value.to_string());
        }
        self
    }

    /// Adds a header for this request; like those of the client it goes only where the credentials go.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                self.headers.insert(name, value);
            }
            _ => self.refuse(Error::unexpected("a header is not a valid one").with("header", name)),
        }
        self
    }

    /// Sets a JSON body.
    pub fn json(mut self, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(bytes) => self.body = Some(bytes.into()),
            Err(_) => self.refuse(Error::unexpected("cannot write the body of a request as JSON")),
        }
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self
    }

    /// Sets a form body.
    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.body = Some(body.into());
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self
    }

    /// Sets a body of another type.
    pub fn body(self, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut request = self.header("content-type", content_type);
        request.body = Some(body.into());
        request
    }

    /// Takes a token of a bucket as well, e.g. of this endpoint: `stripe/acct_1/charges`.
    pub fn bucket(mut self, name: impl Into<String>, rate: Rate) -> Self {
        self.buckets.push((name.into(), rate));
        self
    }

    /// Takes any content type. Without it an HTML page is an error.
    pub fn any_content(mut self) -> Self {
        self.expects = Expects::Anything;
        self
    }

    /// Says that sending it twice does what sending it once does: a query in a POST, a call with an idempotency key.
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Sends no credentials: pre-signed addresses of result files refuse them, and need none.
    pub fn anonymous(mut self) -> Self {
        if let Ok(target) = &mut self.target {
            target.credentials = false;
        }
        self
    }

    /// Sends it and collects the answer, repeating it within the budget.
    ///
    /// # Errors
    /// The kind says what happened; what was repeated in vain is marked exhausted. No error holds a header, a body, a
    /// query or a secret.
    pub async fn send(self) -> Result<Reply> {
        crate::send::collected(&self).await
    }

    /// Starts it on a task of its own: page n + 1 travels while page n is written. Dropping the [`Fetch`] gives it up.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> Fetch {
        Fetch::new(tokio::spawn(self.send()))
    }

    /// Sends it and gives the body out piece by piece. Faults before the first byte of the body are repeated, later
    /// ones are not.
    ///
    /// # Errors
    /// As [`Request::send`].
    pub async fn download(mut self) -> Result<Download> {
        self.expects = Expects::Anything;
        crate::send::streamed(&self).await
    }

    fn refuse(&mut self, error: Error) {
        if self.target.is_ok() {
            self.target = Err(error);
        }
    }

    /// The head of the request as it goes to a target.
    pub(crate) fn headers_for(&self, target: &Target) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        if target.credentials {
            headers.extend(self.client.0.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
            headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        if self.expects == Expects::Json {
            headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        }
        headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("gzip"));
        headers
    }
}

/// A complete answer.
pub struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) url: Url,
}

impl Reply {
    /// The status: a success.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The decoded body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The decoded body.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Reads the body as JSON. For pages of rows use [`ingest_core::json::Decoder`].
    ///
    /// # Errors
    /// `DataInvalid` when it is not what was expected. The text of the library could quote the data, so only the place
    /// is passed on.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Error::new(ErrorKind::DataInvalid, "an answer has not the shape that was expected")
                .with("line", error.line())
                .with("column", error.column())
        })
    }

    /// Refuses an object or list that was cut on its way, which is worth another try. What is no JSON at all is told by
    /// who reads it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn refuse_cut_json(&self) -> Result<()> {
        let body = self.body.trim_ascii();
        let end = match body.first() {
            Some(b'{') => b'}',
            Some(b'[') => b']',
            _ => return Ok(()),
        };
        match body.last() == Some(&end) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Unavailable, "an answer ends in the middle of its JSON")),
        }
    }

    /// The link of the relation `next` in the `Link` headers (RFC 8288).
    pub fn next_link(&self) -> Option<String> {
        self.headers.get_all("link").iter().filter_map(|value| value.to_str().ok()).find_map(crate::pages::next_of)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl Inner {
    /// Waits until every bucket of a request has a token.
    pub(crate) async fn acquire(&self, buckets: &[(String, Rate)]) -> Result<()> {
        for (name, rate) in std::iter::once(&self.account).chain(buckets) {
            self.limiter.acquire(name, *rate, &self.cancel).await?;
        }
        Ok(())
    }

    /// How long the server still wants to be left alone.
    pub(crate) fn blocked(&self, buckets: &[(String, Rate)]) -> Duration {
        let names = std::iter::once(&self.account).chain(buckets);
        names.map(|(name, _)| self.limiter.blocked(name)).max().unwrap_or_default()
    }

    /// Keeps everybody away from the buckets of a request for a while.
    pub(crate) fn block(&self, buckets: &[(String, Rate)], pause: Duration) {
        for (name, _) in std::iter::once(&self.account).chain(buckets) {
            self.limiter.block(name, pause);
        }
    }

    /// Waits, or fails when the run ends first.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<()> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.cancel.cancelled() => Err(Error::cancelled()),
        }
    }
}
