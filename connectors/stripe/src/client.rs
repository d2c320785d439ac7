//! Calls of the API: accounts, rates, the server's clock, and what its errors mean. Knows nothing of streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use ingest_core::config::Tls;
use ingest_core::{Clock, Context, Error, ErrorKind, Rate, Result};
use ingest_http::{Auth, ClientConfig, Dialect, HttpClient, Refusal, Reply, Timeouts, word};
use serde::Deserialize;

use crate::config::{ENDPOINT, StripeConfig};

/// No answer has been seen whose date could be compared.
const UNKNOWN: i64 = i64::MAX;

/// The API of all accounts that one key may read.
pub(crate) struct Api {
    http: HttpClient,
    source: String,
    /// Per account, and per account and endpoint.
    rates: Option<(Rate, Rate)>,
    clock: Arc<dyn Clock>,
    /// Seconds by which our clock was ahead of the server's when the last answer came.
    ahead: AtomicI64,
    page_size: u8,
}

/// A query: names and values.
pub(crate) type Query<'a> = &'a [(&'a str, String)];

impl Api {
    pub fn open(config: &StripeConfig, context: &Context) -> Result<Self> {
        let user = config.endpoint.as_deref().map(|endpoint| format!("{}/v1", base(endpoint)));
        let mut http = ClientConfig::new(&format!("{ENDPOINT}/v1"), user.as_deref())?;
        let local = http.endpoint.host_str().is_some_and(ingest_core::config::is_loopback);
        http.auth = Auth::Bearer(config.api_key.clone());
        http.headers.push(("Stripe-Version".into(), config.api_version.clone()));
        http.timeouts = Timeouts::of(config.timeout.0);
        http.in_flight = usize::from(config.concurrency);
        http.danger_plaintext = config.danger_plaintext || config.tls == Some(Tls::DangerPlaintext);
        http.tls.mode = config.tls;
        http.tls.ca = config.tls_ca.clone();
        http.dialect = Arc::new(StripeErrors);
        if let Some(retry) = config.retry {
            http.retry = retry;
        }
        Ok(Self {
            http: HttpClient::new(http, context)?,
            source: context.source.clone(),
            rates: rates(config, local),
            clock: context.clock.clone(),
            ahead: AtomicI64::new(UNKNOWN),
            page_size: config.page_size,
        })
    }

    /// GET of a path below `/v1/`. `endpoint` is what the rate limit counts: the list, or one kind of object.
    pub async fn get(&self, account: Option<&str>, endpoint: &str, path: &str, query: Query<'_>) -> Result<Bytes> {
        let mut request = self.http.get(path);
        for (name, value) in query {
            request = request.query(name, value);
        }
        if let Some(account) = account {
            request = request.header("Stripe-Account", account);
        }
        if let Some((whole, each)) = self.rates {
            let bucket = format!("{}/{}", self.source, account.unwrap_or("own"));
            request = request.bucket(format!("{bucket}/{endpoint}"), each).bucket(bucket, whole);
        }
        let reply = request.send().await.map_err(|error| match account {
            Some(account) => error.with("account", account),
            None => error,
        })?;
        self.compare_clocks(&reply);
        Ok(reply.into_body())
    }

    /// A page of a list: `limit` and what `query` says.
    pub async fn list(&self, account: Option<&str>, endpoint: &str, path: &str, query: Query<'_>) -> Result<Bytes> {
        let mut query = query.to_vec();
        query.push(("limit", self.page_size.to_string()));
        self.get(account, endpoint, path, &query).await
    }

    /// Whether an answer has told the server's time.
    pub fn knows_time(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) != UNKNOWN
    }

    /// The time in seconds: ours, or the server's where that is behind. What is fixed by it is over at the server.
    pub fn now(&self) -> i64 {
        self.clock.now_micros().div_euclid(1_000_000) - self.ahead()
    }

    /// The same without the second by which an answer that travels makes us look ahead. It is for bounds that stay
    /// behind the time anyway.
    pub fn about_now(&self) -> i64 {
        self.now() + self.ahead().min(1)
    }

    fn ahead(&self) -> i64 {
        match self.ahead.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            ahead => ahead.max(0),
        }
    }

    fn compare_clocks(&self, reply: &Reply) {
        let date = reply.header("date").and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok());
        if let Some(date) = date {
            let ahead = self.clock.now_micros().div_euclid(1_000_000) - date.timestamp();
            self.ahead.store(ahead, Ordering::Relaxed);
        }
    }
}

/// An endpoint with or without the version in its path.
fn base(endpoint: &str) -> &str {
    let endpoint = endpoint.trim_end_matches('/');
    endpoint.strip_suffix("/v1").unwrap_or(endpoint)
}

/// Stripe counts 100 calls a second with a live key, 25 with a test key, and 25 per endpoint. A fifth is left to others
/// that use the key; a server on this machine is not Stripe.
fn rates(config: &StripeConfig, local: bool) -> Option<(Rate, Rate)> {
    let live = config.api_key.expose().contains("_live_");
    let default = |per_second: f64| if local { None } else { Some(per_second) };
    let rate = |per_second: Option<f64>| {
        // A second's worth at once would meet the limit of the server's own second.
        let per_second = per_second.unwrap_or(1e9);
        Rate { per_second, burst: (per_second / 4.0).max(1.0) }
    };
    let whole = config.rate.or_else(|| default(if live { 80.0 } else { 20.0 }));
    let each = config.endpoint_rate.or_else(|| default(20.0));
    (whole.is_some() || each.is_some()).then(|| (rate(whole), rate(each)))
}

/// What Stripe's answers mean.
struct StripeErrors;

#[derive(Deserialize, Default)]
struct Body {
    #[serde(default)]
    error: Details,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    r#type: Option<String>,
    code: Option<String>,
    param: Option<String>,
    message: Option<String>,
}

impl Dialect for StripeErrors {
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Error> {
        let details = serde_json::from_slice::<Body>(refusal.body).unwrap_or_default().error;
        let code = details.code.as_deref().unwrap_or_default();
        let status = refusal.status.as_u16();
        let mut error = match status {
            401 => Error::new(ErrorKind::Unauthenticated, "the source refused the API key").hint(
                "check api_key: a key that starts with sk_ or rk_, of the right mode (live or test), not revoked",
            ),
            403 => forbidden(&details),
            400 | 404 if code == "resource_missing" || details.param.as_deref() == Some("starting_after") => {
                Error::new(ErrorKind::NotFound, "the source has no such object")
            }
            // Stripe's own client leaves 429 to its caller; to read again never does harm.
            429 => refusal.by_status(),
            409 | 424 => Error::new(ErrorKind::Unavailable, "the source holds a lock on the object"),
            400 => refusal.by_status().hint(
                "the account may not have the product that the stream belongs to, or api_version does not know it; \
                 leave the stream out under `streams`",
            ),
            _ => refusal.by_status(),
        };
        match refusal.header("stripe-should-retry") {
            Some("true") if !error.is_retryable() => error = error.of_kind(ErrorKind::Unavailable),
            Some("false") if status != 429 => error = error.exhausted(),
            _ => {}
        }
        for (key, value) in [("type", details.r#type), ("code", details.code), ("param", details.param)] {
            if let Some(value) = value.as_deref().and_then(word) {
                error = error.with(key, value);
            }
        }
        let reason = refusal.header("stripe-rate-limited-reason").and_then(word);
        let request = refusal.header("request-id").and_then(word);
        if let Some(reason) = reason {
            error = error.with("reason", reason);
        }
        Some(match request {
            Some(request) => error.with("request_id", request),
            None => error,
        })
    }

    fn inspect(&self, reply: &Reply) -> Result<()> {
        reply.refuse_cut_json()
    }
}

fn forbidden(details: &Details) -> Error {
    let error = Error::new(ErrorKind::PermissionDenied, "the source refused access");
    if details.code.as_deref() == Some("account_invalid") {
        return error.hint("the account is not connected to the owner of the key; check `account`, `accounts`");
    }
    let message = details.message.as_deref().unwrap_or_default();
    match message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).find(|word| word.starts_with("rak_")) {
        Some(permission) => error.with("permission", permission).hint(format!(
            "give the restricted key the permission {permission} at https://dashboard.stripe.com/apikeys, or leave \
             the stream out under `streams`"
        )),
        None => error.hint(
            "give the restricted key read rights on the resource at https://dashboard.stripe.com/apikeys, or leave \
             the stream out under `streams`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use ingest_core::Secret;
    use ingest_http::{HeaderMap, StatusCode};

    use super::*;

    fn error(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header value"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        StripeErrors.refusal(&Refusal { status, headers: &map, body: body.as_bytes() }).expect("always told")
    }

    #[test]
    fn answers_become_kinds_by_status_code_and_header() {
        let missing = r#"{"error":{"type":"invalid_request_error","code":"resource_missing"}}"#;
        let aged = r#"{"error":{"type":"invalid_request_error","param":"starting_after"}}"#;
        let retry: &[_] = &[("stripe-should-retry", "true")];
        let no_retry: &[_] = &[("stripe-should-retry", "false")];
        for (status, headers, body, kind, repeated) in [
            (401, &[][..], "{}", ErrorKind::Unauthenticated, false),
            (403, &[], "{}", ErrorKind::PermissionDenied, false),
            (400, &[], missing, ErrorKind::NotFound, false),
            (404, &[], missing, ErrorKind::NotFound, false),
            (400, &[], aged, ErrorKind::NotFound, false),
            (400, &[], "{}", ErrorKind::DataInvalid, false),
            (400, retry, "{}", ErrorKind::Unavailable, true),
            (429, &[], "not json", ErrorKind::RateLimited, true),
            (429, no_retry, "{}", ErrorKind::RateLimited, true),
            (409, &[], "{}", ErrorKind::Unavailable, true),
            (500, &[], "{}", ErrorKind::Unavailable, true),
            (500, no_retry, "{}", ErrorKind::Unavailable, false),
        ] {
            let error = error(status, headers, body);
            assert_eq!((error.kind(), error.is_retryable()), (kind, repeated), "{status} {body}");
        }
    }

    #[test]
    fn a_missing_permission_is_named_and_nothing_else_of_the_message() {
        let body = r#"{"error":{"type":"invalid_request_error","message":"The provided key 'rk_live_x' does not have
            the required permissions on account 'acct_canary'. Having the 'rak_charge_read' permission would allow"}}"#;
        let error = error(403, &[], &body.replace('\n', " "));
        assert!(error.hint_text().expect("a hint").contains("rak_charge_read"));
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }

    #[test]
    fn a_server_on_this_machine_has_no_rate_by_default() {
        let config = StripeConfig { api_key: Secret::new("sk_live_1"), ..StripeConfig::default() };
        assert_eq!(rates(&config, true), None);
        let (whole, each) = rates(&config, false).expect("limits");
        assert_eq!((whole.per_second, each.per_second), (80.0, 20.0));
        let test = StripeConfig { api_key: Secret::new("rk_test_1"), ..StripeConfig::default() };
        assert_eq!(rates(&test, false).expect("limits").0.per_second, 20.0);
        let own = StripeConfig { endpoint_rate: Some(5.0), ..config };
        assert_eq!(rates(&own, true).expect("limits").1.per_second, 5.0);
    }

    #[test]
    fn the_version_in_the_path_of_an_endpoint_is_not_doubled() {
        for endpoint in ["http://127.0.0.1:1", "http://127.0.0.1:1/", "http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1/"]
        {
            assert_eq!(base(endpoint), "http://127.0.0.1:1");
        }
    }
}
