//! Requests: signing in, versions, the org's daily budget, what answers mean. No knowledge of streams.

use std::sync::{Arc, Mutex, PoisonError};

use ingest_core::config::{Tls, is_loopback};
use ingest_core::{Context, Error, ErrorKind, Result};
use ingest_http::{
    Auth, ClientConfig, Dialect, Download, Fetch, Grant, Habits, HeaderMap, HostRule, HttpClient, Method, OAuth,
    Refusal, Reply, Request, Session, Statement, Timeouts, word,
};
use serde::{Deserialize, Serialize};

use crate::config::{Flow, LOGIN, SalesforceConfig};

/// Seconds for which a signed statement holds; Salesforce takes three minutes.
const STATEMENT_LIFE: i64 = 180;

/// Requests of one org.
pub(crate) struct Api {
    http: HttpClient,
    /// `services/data/v62.0`
    base: String,
    page_size: u16,
    share: f64,
    usage: Mutex<Option<Usage>>,
}

/// The org's requests within 24 hours, by all its users, as the last answer told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub used: u64,
    pub limit: u64,
}

/// A job of the Bulk API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Job {
    pub id: String,
    pub state: String,
    #[serde(default)]
    pub number_records_processed: Option<u64>,
    #[serde(default)]
    pub error_message: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewJob<'a> {
    operation: &'a str,
    query: &'a str,
    content_type: &'a str,
    column_delimiter: &'a str,
    line_ending: &'a str,
}

impl Api {
    pub fn open(config: &SalesforceConfig, context: &Context) -> Result<Self> {
        let mut http = ClientConfig::new(LOGIN, config.endpoint.as_deref().map(origin))?;
        let local = http.endpoint.host_str().is_some_and(is_loopback);
        http.auth = Auth::OAuth(Box::new(oauth(config, &http)?));
        http.hosts = ["*.salesforce.com", "*.salesforce.mil", "*.force.com"].map(HostRule::api).into();
        if local {
            http.hosts.extend(["127.0.0.1", "localhost"].map(HostRule::api));
        }
        http.timeouts = Timeouts::of(config.timeout.0);
        http.in_flight = usize::from(config.concurrency);
        http.danger_plaintext = config.danger_plaintext || config.tls == Some(Tls::DangerPlaintext);
        http.tls.mode = config.tls;
        http.tls.ca.clone_from(&config.tls_ca);
        http.dialect = Arc::new(SalesforceErrors);
        if let Some(retry) = config.retry {
            http.retry = retry;
        }
        Ok(Self {
            http: HttpClient::new(http, context)?,
            base: format!("services/data/v{}", config.api_version),
            page_size: config.page_size,
            share: config.daily_share,
            usage: Mutex::new(None),
        })
    }

    /// The time in microseconds: ours, or the server's where that is behind.
    pub fn now(&self) -> i64 {
        self.http.now_micros()
    }

    /// The session of the moment; a new one where `refused` was just refused.
    pub async fn session(&self, refused: Option<&Session>) -> Result<Session> {
        self.http.session(refused).await
    }

    /// GET of a path below the version.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.sent(self.http.get(&format!("{}/{path}", self.base))).await
    }

    /// What a query gives, its first page. `all`: also what is deleted or archived.
    pub fn query(&self, soql: &str, all: bool) -> Request {
        let path = if all { "queryAll" } else { "query" };
        let request = self.http.get(&format!("{}/{path}", self.base)).query("q", soql);
        request.header("Sforce-Query-Options", &format!("batchSize={}", self.page_size))
    }

    /// The page of a query behind a locator.
    ///
    /// # Errors
    /// `DataInvalid` when the locator is no path of the API.
    pub fn more(&self, locator: &str) -> Result<Request> {
        if !locator.starts_with("/services/data/") || locator.contains("..") || locator.contains('?') {
            return Err(Error::new(ErrorKind::DataInvalid, "the source names a next page that its API does not have"));
        }
        Ok(self.http.get(locator).label("GET /query/LOCATOR"))
    }

    /// Sends a request on a task of its own, unless the budget is used up.
    pub fn start(&self, request: Request) -> Result<Fetch> {
        self.afford()?;
        Ok(request.start())
    }

    /// Notes what an answer says of the budget.
    pub fn seen(&self, reply: &Reply) {
        self.note(reply.header("sforce-limit-info"));
    }

    pub async fn sent(&self, request: Request) -> Result<Reply> {
        self.afford()?;
        let reply = request.send().await?;
        self.seen(&reply);
        Ok(reply)
    }

    /// Makes a job. One that was made and whose answer was lost is left to its end, which costs nothing but its place among
    /// the day's jobs.
    pub async fn create_job(&self, soql: &str, all: bool) -> Result<Job> {
        let job = NewJob {
            operation: if all { "queryAll" } else { "query" },
            query: soql,
            content_type: "CSV",
            column_delimiter: "COMMA",
            line_ending: "LF",
        };
        let request = self.http.post(&format!("{}/jobs/query", self.base)).json(&job).repeatable();
        self.sent(request).await?.json()
    }

    pub async fn job(&self, id: &str) -> Result<Job> {
        let request = self.http.request(Method::GET, &format!("{}/jobs/query/{}", self.base, plain(id)?));
        self.sent(request.label("GET /jobs/query/ID")).await?.json()
    }

    /// A page of the results of a job; the first one where there is no locator.
    pub async fn results(&self, id: &str, locator: Option<&str>, rows: u32) -> Result<Download> {
        self.afford()?;
        let request = self.http.get(&format!("{}/jobs/query/{}/results", self.base, plain(id)?));
        let request =
            request.label("GET /jobs/query/ID/results").query("maxRecords", rows).header("accept", "text/csv");
        let request = match locator {
            Some(locator) => request.query("locator", locator),
            None => request,
        };
        let download = request.download().await?;
        self.note(text(download.headers(), "sforce-limit-info"));
        Ok(download)
    }

    pub fn usage(&self) -> Option<Usage> {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, header: Option<&str>) {
        if let Some(usage) = header.and_then(Usage::parse) {
            *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
        }
    }

    /// Refuses to go on beyond our share of the day's requests.
    fn afford(&self) -> Result<()> {
        let Some(usage) = self.usage() else { return Ok(()) };
        if usage.share() < self.share {
            return Ok(());
        }
        Err(Error::new(ErrorKind::QuotaExhausted, "the org's daily requests are used up to our share")
            .with("used", usage.used)
            .with("limit", usage.limit)
            .with("daily_share", self.share)
            .hint("what was read is committed; run again later, or raise `daily_share`"))
    }
}

impl Usage {
    /// `api-usage=18/5000`, among others.
    fn parse(header: &str) -> Option<Self> {
        let own = header.split([';', ',']).find_map(|part| part.trim().strip_prefix("api-usage="))?;
        let (used, limit) = own.split_once('/')?;
        let usage = Self { used: used.trim().parse().ok()?, limit: limit.trim().parse().ok()? };
        (usage.limit > 0).then_some(usage)
    }

    pub fn share(&self) -> f64 {
        self.used as f64 / self.limit as f64
    }
}

/// The endpoint without a path: people copy the address of the token endpoint.
fn origin(endpoint: &str) -> &str {
    let host = endpoint.find("://").map_or(0, |at| at + 3);
    let end = endpoint.get(host..).and_then(|rest| rest.find('/')).map_or(endpoint.len(), |at| host + at);
    endpoint.get(..end).unwrap_or(endpoint)
}

fn oauth(config: &SalesforceConfig, http: &ClientConfig) -> Result<OAuth> {
    let token_url = http.endpoint.join("services/oauth2/token").map_err(|_| Error::config("endpoint: is not a URL"))?;
    let grant = match config.flow() {
        Flow::ClientCredentials => Grant::ClientCredentials,
        Flow::RefreshToken => Grant::RefreshToken(config.refresh_token.clone()),
        Flow::Jwt => Statement {
            issuer: config.client_id.clone(),
            subject: config.username.clone().unwrap_or_default(),
            audience: config.audience().to_owned(),
            lifetime: STATEMENT_LIFE,
        }
        .grant(&config.private_key)?,
    };
    let hint = match config.flow() {
        Flow::ClientCredentials => {
            "check client_id, client_secret and endpoint (a sandbox has a domain of its own); the app needs the client \
             credentials flow and an integration user"
        }
        Flow::Jwt => {
            "check client_id, username, private_key and audience (a sandbox's is https://test.salesforce.com); the user \
             must be pre-authorised for the app that holds the certificate"
        }
        Flow::RefreshToken => {
            "check client_id and endpoint (a sandbox signs in at https://test.salesforce.com or its own domain); the \
             refresh token may have been revoked, or replaced by rotation: make a new one"
        }
    };
    Ok(OAuth {
        token_url: token_url.into(),
        client_id: config.client_id.clone(),
        client_secret: config.client_secret.clone(),
        grant,
        scopes: Vec::new(),
        parameters: Vec::new(),
        secret_in_form: true,
        rotated: Some(Arc::new(Rotation)),
        habits: Habits { names_api: true, hint: Some(hint), ..Habits::default() },
    })
}

/// Nobody keeps a new refresh token for the next run, and the old one is void: said before hours of reading.
struct Rotation;

#[ingest_core::async_trait]
impl ingest_http::RefreshTokens for Rotation {
    async fn rotated(&self, _token: &ingest_core::Secret) -> Result<()> {
        Err(Error::config("the app rotates its refresh tokens: the next run could not sign in")
            .hint("turn refresh token rotation off in the app and make a new token, or use client credentials"))
    }
}

/// An id as a part of a path.
fn plain(id: &str) -> Result<&str> {
    match !id.is_empty() && id.len() <= 18 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => Ok(id),
        false => Err(Error::new(ErrorKind::DataInvalid, "the source gave an id that is none of Salesforce's")),
    }
}

/// A header as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The code that Salesforce gave an error.
pub(crate) fn code_of(error: &Error) -> Option<&str> {
    error.context().iter().find(|(key, _)| *key == "code").map(|(_, code)| code.as_str())
}

/// What Salesforce's answers mean.
struct SalesforceErrors;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Fault {
    error_code: String,
    message: String,
}

impl Dialect for SalesforceErrors {
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Error> {
        let fault =
            serde_json::from_slice::<Vec<Fault>>(refusal.body).ok().and_then(|faults| faults.into_iter().next());
        let fault = fault.or_else(|| serde_json::from_slice::<Fault>(refusal.body).ok()).unwrap_or_default();
        let error = meaning(refusal, &fault);
        Some(match word(&fault.error_code) {
            Some(code) => error.with("code", code),
            None => error,
        })
    }

    fn inspect(&self, reply: &Reply) -> Result<()> {
        reply.refuse_cut_json()
    }
}

fn meaning(refusal: &Refusal<'_>, fault: &Fault) -> Error {
    let Fault { error_code, message } = fault;
    let quota = |what: &str| Error::new(ErrorKind::QuotaExhausted, what).hint("run again tomorrow, or buy more calls");
    let denied = |hint: &str| Error::new(ErrorKind::PermissionDenied, "the source refused access").hint(hint);
    match error_code.as_str() {
        _ if message.contains("per 24 hrs has been") => quota("the org's daily jobs of the Bulk API are used up"),
        "REQUEST_LIMIT_EXCEEDED" if message.contains("Concurrent") => {
            Error::new(ErrorKind::RateLimited, "the org has too many long requests under way")
        }
        "REQUEST_LIMIT_EXCEEDED" => quota("the org's daily requests are used up"),
        "INVALID_FIELD" => unreadable_field(message),
        "INVALID_TYPE" => Error::new(ErrorKind::NotFound, "the org has no such object, or the user may not see it")
            .hint("give the integration user read rights on the object, or leave the stream out"),
        _ if refusal.status == 410 || error_code == "UNSUPPORTED_API_VERSION" => {
            Error::config("the version of the API has ended").hint("leave `api_version` out, or set a later one")
        }
        "MALFORMED_QUERY" => Error::config("the source cannot read the query").hint("check `where`: it is SOQL"),
        "QUERY_TIMEOUT" => Error::new(ErrorKind::Timeout, "a query takes the source longer than it allows"),
        "API_DISABLED_FOR_ORG" | "API_CURRENTLY_DISABLED" | "FUNCTIONALITY_NOT_ENABLED" => {
            denied("the org or the user's profile needs the right \"API Enabled\"")
        }
        "TXN_SECURITY_METERING_ERROR" => denied("the user needs the right \"Exempt from Transaction Security\""),
        _ if error_code.starts_with("INSUFFICIENT_ACCESS") => {
            denied("give the integration user read rights on the object")
        }
        "INVALIDENTITY" | "FEATURENOTENABLED" => not_in_bulk(),
        _ if refusal.status == 400 && refuses_bulk(message) => not_in_bulk(),
        "UNABLE_TO_LOCK_ROW" | "SERVER_UNAVAILABLE" | "UNKNOWN_EXCEPTION" => {
            Error::new(ErrorKind::Unavailable, "the source answered with a fault of its own")
        }
        _ => match refusal.status.as_u16() {
            401 => {
                refusal.by_status().hint("the session was refused, and a new one as well: check the user and the app")
            }
            406 | 420 => Error::new(ErrorKind::Unavailable, "the source answered with a fault of its own"),
            _ => refusal.by_status(),
        },
    }
}

fn refuses_bulk(message: &str) -> bool {
    message.contains("not supported by the Bulk API") || message.contains("compound data not supported in Bulk Query")
}

fn not_in_bulk() -> Error {
    Error::new(ErrorKind::Unsupported, "the Bulk API does not read this object")
}

/// `No such column 'X' on entity 'Y'`: removed, or hidden from the user.
fn unreadable_field(message: &str) -> Error {
    let mut quoted = message.split('\'').skip(1).step_by(2).filter_map(word);
    let error = Error::new(ErrorKind::PermissionDenied, "the source does not show a field that was there").hint(
        "the field was removed, or its field-level security hides it from the integration user; run again to read the \
         columns that are left",
    );
    let error = match quoted.next() {
        Some(field) => error.with("field", field),
        None => error,
    };
    match quoted.next() {
        Some(object) => error.with("object", object),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use ingest_http::StatusCode;

    use super::*;

    fn error(status: u16, body: &str) -> Error {
        let (status, headers) = (StatusCode::from_u16(status).expect("a status"), HeaderMap::new());
        SalesforceErrors.refusal(&Refusal { status, headers: &headers, body: body.as_bytes() }).expect("always told")
    }

    #[test]
    fn answers_become_kinds_by_code_and_status() {
        let body = |code: &str, message: &str| format!(r#"[{{"errorCode":"{code}","message":"{message}"}}]"#);
        for (status, code, message, kind) in [
            (401, "INVALID_SESSION_ID", "Session expired or invalid", ErrorKind::Unauthenticated),
            (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", ErrorKind::QuotaExhausted),
            (403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests Limit exceeded.", ErrorKind::RateLimited),
            (
                400,
                "EXCEEDED_ID_LIMIT",
                "Max bulk v2 query jobs (10000) per 24 hrs has been reached",
                ErrorKind::QuotaExhausted,
            ),
            (400, "INVALID_TYPE", "sObject type 'X' is not supported", ErrorKind::NotFound),
            (400, "INVALIDENTITY", "Entity 'X' is not supported by the Bulk API", ErrorKind::Unsupported),
            (400, "API_ERROR", "Selecting compound data not supported in Bulk Query", ErrorKind::Unsupported),
            (400, "QUERY_TIMEOUT", "Your query request was running for too long", ErrorKind::Timeout),
            (400, "MALFORMED_QUERY", "unexpected token", ErrorKind::ConfigInvalid),
            (400, "INVALID_QUERY_LOCATOR", "invalid query locator", ErrorKind::DataInvalid),
            (403, "INSUFFICIENT_ACCESS_OR_READONLY", "", ErrorKind::PermissionDenied),
            (503, "SERVER_UNAVAILABLE", "", ErrorKind::Unavailable),
            (406, "", "", ErrorKind::Unavailable),
        ] {
            assert_eq!(error(status, &body(code, message)).kind(), kind, "{status} {code}");
        }
        assert_eq!(error(500, "<html>").kind(), ErrorKind::Unavailable);
        assert_eq!(code_of(&error(400, &body("INVALID_QUERY_LOCATOR", ""))), Some("INVALID_QUERY_LOCATOR"));
    }

    #[test]
    fn a_hidden_field_is_named_and_nothing_else_of_the_message() {
        let body = r#"[{"errorCode":"INVALID_FIELD","message":"\nSELECT Id, Secret__c canary\nERROR: No such column 'Secret__c' on entity 'Account'. If you"}]"#;
        let error = error(400, body);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = format!("{error:?}");
        assert!(
            text.contains("field Secret__c") && text.contains("object Account") && !text.contains("canary"),
            "{text}"
        );
    }

    #[test]
    fn the_budget_is_read_from_its_header() {
        assert_eq!(Usage::parse("api-usage=18/5000"), Some(Usage { used: 18, limit: 5_000 }));
        assert_eq!(
            Usage::parse("api-usage=1/10; per-app-api-usage=17/250(appName=x)"),
            Some(Usage { used: 1, limit: 10 })
        );
        for text in ["", "api-usage=x/1", "api-usage=1/0", "per-app-api-usage=1/2"] {
            assert_eq!(Usage::parse(text), None, "{text}");
        }
    }

    #[test]
    fn paths_behind_the_endpoint_are_left_out() {
        for (text, want) in [
            ("https://a.my.salesforce.com", "https://a.my.salesforce.com"),
            ("https://a.my.salesforce.com/", "https://a.my.salesforce.com"),
            ("https://a.my.salesforce.com/services/oauth2/token", "https://a.my.salesforce.com"),
            ("http://127.0.0.1:80/x", "http://127.0.0.1:80"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(origin(text), want);
        }
    }
}
