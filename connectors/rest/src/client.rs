//! Requests of the API: where they go, who they say we are, the server's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ingest_core::config::Tls;
use ingest_core::{Clock, Context, Rate, Result, Secret};
use ingest_http::{Auth, ClientConfig, Grant, HostRule, HttpClient, OAuth, Reply, Request, Timeouts, Url};

use crate::config::RestConfig;
use crate::manifest::{Auth as AuthDef, GrantDef, Manifest, OAuthDef};
use crate::rules::Rules;
use crate::state::Next;
use crate::streams::{Def, Problems, is_header, rate_of};
use crate::template::{Scope, Template, secret};

/// No answer has been seen whose date could be compared.
const UNKNOWN: i64 = i64::MAX;

/// What the manifest and the source say about requests, put together.
pub(crate) struct Connection {
    base_url: String,
    auth: Auth,
    /// Credentials in further headers.
    headers: Vec<(String, Secret)>,
    rules: Rules,
    rate: Option<Rate>,
}

/// The API.
pub(crate) struct Api {
    http: HttpClient,
    source: String,
    clock: Arc<dyn Clock>,
    /// Microseconds by which our clock was ahead of the server's when the last answer came.
    ahead: AtomicI64,
    /// What must not be kept of links: the source's secrets, and the parameter that carries one.
    secrets: Vec<Secret>,
    query_key: Option<String>,
}

/// The first request of a list, and what every further one has of it.
pub(crate) struct Ask {
    pub path: String,
    pub label: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
}

impl Connection {
    /// Reads what the manifest says; what is wrong goes to `problems`.
    pub fn read(manifest: &Manifest, config: &RestConfig, scope: &Scope<'_>, problems: &mut Problems) -> Self {
        if manifest.base_url.is_empty() && config.endpoint.is_none() {
            problems.push(("base_url".into(), "is missing".into()));
        }
        let (auth, headers) = match &manifest.auth {
            Some(auth) => read_auth(auth, scope, problems),
            None => (Auth::None, Vec::new()),
        };
        let rate = manifest.rate.as_ref().and_then(|rate| {
            let made = rate_of(rate);
            if made.is_none() {
                problems.push(("rate".into(), "must be greater than 0".into()));
            }
            made
        });
        let own = config.rate.map(|per_second| Rate { per_second, burst: (per_second / 4.0).max(1.0) });
        Self {
            base_url: base_url(&manifest.base_url, scope, problems),
            auth,
            headers,
            rules: Rules::read(&manifest.errors, problems),
            rate: own.or(rate),
        }
    }
}

/// The base URL. A value in it may be a part of a name, nothing that leads elsewhere.
fn base_url(text: &str, scope: &Scope<'_>, problems: &mut Problems) -> String {
    let mut wrong = |what: String| problems.push(("base_url".into(), what));
    let tame = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    for (name, value) in scope.values.iter().filter(|(name, _)| text.contains(&format!("${{values.{name}}}"))) {
        if value.is_empty() || !value.chars().all(tame) || value.contains("..") {
            wrong(format!("the value `{name}` may hold letters, digits, `-`, `_` and `.` alone"));
        }
    }
    let made = Template::parse(text, scope)
        .and_then(|template| template.text(&Default::default()).map_err(|error| error.to_string()));
    made.unwrap_or_else(|what| {
        wrong(what);
        String::new()
    })
}

fn read_auth(auth: &AuthDef, scope: &Scope<'_>, problems: &mut Problems) -> (Auth, Vec<(String, Secret)>) {
    let mut read = |key: &str, text: &Secret, must: bool| {
        secret(text, scope, must).unwrap_or_else(|what| {
            problems.push((format!("auth.{key}"), what));
            Secret::default()
        })
    };
    let (mut kinds, mut headers) = (Vec::new(), Vec::new());
    if let Some(token) = &auth.bearer {
        kinds.push(Auth::Bearer(read("bearer", token, true)));
    }
    if let Some(basic) = &auth.basic {
        let held = basic.user.expose().contains("${secrets.");
        let password = read("basic.password", &basic.password, !held);
        kinds.push(Auth::Basic { user: read("basic.user", &basic.user, false), password });
    }
    if let Some((name, value)) = auth.headers.first_key_value() {
        kinds.push(Auth::Header { name: name.clone(), value: read(&format!("headers.{name}"), value, true) });
        // Some APIs want two of them, one of which names an application.
        let more = auth.headers.iter().skip(1);
        headers = more.map(|(name, value)| (name.clone(), read(&format!("headers.{name}"), value, false))).collect();
    }
    if let Some(query) = &auth.query {
        kinds.push(Auth::Query { name: query.name.clone(), value: read("query.value", &query.value, true) });
    }
    if let Some(oauth) = &auth.oauth {
        let client_secret = oauth.client_secret.as_ref().map(|text| read("oauth.client_secret", text, true));
        let refresh = oauth.refresh_token.as_ref().map(|text| read("oauth.refresh_token", text, true));
        kinds.push(Auth::OAuth(Box::new(read_oauth(oauth, client_secret, refresh, scope, problems))));
    }
    let named = auth.query.iter().map(|query| ("auth.query.name", !query.name.is_empty()));
    let headers_named = auth.headers.keys().map(|name| ("auth.headers", is_header(name)));
    for (key, _) in named.chain(headers_named).filter(|(_, sound)| !sound) {
        problems.push((key.into(), "is not a name that can be sent".into()));
    }
    if kinds.len() != 1 {
        problems.push(("auth".into(), "takes exactly one of bearer, basic, headers, query and oauth".into()));
    }
    (kinds.into_iter().next().unwrap_or_default(), headers)
}

fn read_oauth(
    oauth: &OAuthDef,
    client_secret: Option<Secret>,
    refresh: Option<Secret>,
    scope: &Scope<'_>,
    problems: &mut Problems,
) -> OAuth {
    let open = Scope { values: scope.values, secrets: None, parent: false };
    let mut text = |key: &str, text: &str| {
        let read = Template::parse(text, &open).and_then(|t| t.text(&Default::default()).map_err(|e| e.to_string()));
        read.unwrap_or_else(|what| {
            problems.push((format!("auth.oauth.{key}"), what));
            String::new()
        })
    };
    let token_url = text("token_url", &oauth.token_url);
    let client_id = text("client_id", &oauth.client_id);
    let parameters = oauth.parameters.iter().map(|(name, value)| (name.clone(), text(name, value))).collect();
    for (key, value) in [("token_url", &token_url), ("client_id", &client_id)] {
        if value.is_empty() {
            problems.push((format!("auth.oauth.{key}"), "is missing".into()));
        }
    }
    let grant = match (oauth.grant, refresh) {
        (GrantDef::ClientCredentials, None) => Grant::ClientCredentials,
        (GrantDef::RefreshToken, Some(token)) => Grant::RefreshToken(token),
        (GrantDef::ClientCredentials, Some(_)) => {
            problems.push(("auth.oauth.refresh_token".into(), "needs `grant: refresh_token`".into()));
            Grant::ClientCredentials
        }
        (GrantDef::RefreshToken, None) => {
            problems.push(("auth.oauth.refresh_token".into(), "is missing".into()));
            Grant::ClientCredentials
        }
    };
    OAuth {
        token_url,
        client_id,
        client_secret: client_secret.unwrap_or_default(),
        grant,
        scopes: oauth.scopes.clone(),
        parameters,
        secret_in_form: oauth.secret_in_form,
        rotated: None,
        habits: ingest_http::Habits::default(),
    }
}

impl Api {
    pub fn open(connection: Connection, manifest: &Manifest, config: &RestConfig, context: &Context) -> Result<Self> {
        let mut http = ClientConfig::new(&connection.base_url, config.endpoint.as_deref())?;
        let query_key = match &connection.auth {
            Auth::Query { name, .. } => Some(name.clone()),
            _ => None,
        };
        http.auth = connection.auth;
        if let Auth::OAuth(oauth) = &mut http.auth
            && oauth.token_url.starts_with('/')
            && let Ok(url) = http.endpoint.join(&oauth.token_url)
        {
            oauth.token_url = url.into();
        }
        http.hosts = manifest.hosts.iter().map(HostRule::api).collect();
        http.headers =
            connection.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
        http.timeouts = Timeouts::of(config.timeout.0);
        http.in_flight = usize::from(config.concurrency);
        http.rate = connection.rate;
        http.ceilings.page_bytes = usize::try_from(manifest.limits.page_bytes.0).unwrap_or(usize::MAX);
        http.danger_plaintext = config.danger_plaintext || config.tls == Some(Tls::DangerPlaintext);
        http.tls.mode = config.tls;
        http.tls.ca = config.tls_ca.clone();
        http.dialect = Arc::new(connection.rules.with_clock(context.clock.clone()));
        if let Some(retry) = config.retry {
            http.retry = retry;
        }
        Ok(Self {
            http: HttpClient::new(http, context)?,
            source: context.source.clone(),
            clock: context.clock.clone(),
            ahead: AtomicI64::new(UNKNOWN),
            secrets: config.secrets.values().filter(|secret| !secret.is_empty()).cloned().collect(),
            query_key,
        })
    }

    /// The request of a page; `None` = the first one.
    pub fn request(&self, def: &Def, ask: &Ask, page: Option<&Next>) -> Request {
        let mut request = match page {
            Some(Next::Link(link)) => self.http.follow_stored(link),
            _ => ask.query.iter().fold(self.http.get(&ask.path), |request, (name, value)| request.query(name, value)),
        };
        let parameter = crate::pages::parameter(&def.pages);
        match (page, parameter) {
            (Some(Next::Token(token)), Some(parameter)) => request = request.query(parameter, token),
            (Some(Next::Number(number)), Some(parameter)) => request = request.query(parameter, number),
            _ => {}
        }
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(rate) = def.rate {
            request = request.bucket(format!("{}/{}", self.source, def.name), rate);
        }
        request.label(ask.label.clone())
    }

    /// A link as it is followed and kept: without anything secret. What has to be in it is added where it is sent.
    ///
    /// # Errors
    /// `DataInvalid` where it leads to a host that is not the API's.
    pub fn link(&self, reply: &Reply, link: &str) -> Result<String> {
        let url = self.http.resolve(reply, link)?;
        let secret = |name: &str, value: &str| {
            name == "access_token"
                || self.query_key.as_deref() == Some(name)
                || self.secrets.iter().any(|secret| secret.expose() == value)
        };
        if !url.query_pairs().any(|(name, value)| secret(&name, &value)) {
            return Ok(url.into());
        }
        let kept: Vec<(String, String)> =
            url.query_pairs().filter(|(name, value)| !secret(name, value)).map(|(n, v)| (n.into(), v.into())).collect();
        Ok(with_query(url, &kept))
    }

    /// The time in microseconds: ours, or the server's where that is behind. `None` before an answer told it.
    pub fn now(&self) -> Option<i64> {
        match self.ahead.load(Ordering::Relaxed) {
            UNKNOWN => None,
            ahead => Some(self.clock.now_micros() - ahead.max(0)),
        }
    }

    /// Notes the server's time. An answer without one leaves our own.
    pub fn compare_clocks(&self, reply: &Reply) {
        let date = reply.header("date").and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok());
        let ahead = date.map(|date| self.clock.now_micros() - date.timestamp_micros());
        if ahead.is_some() || self.now().is_none() {
            self.ahead.store(ahead.unwrap_or(0), Ordering::Relaxed);
        }
    }
}

fn with_query(mut url: Url, pairs: &[(String, String)]) -> String {
    url.set_query(None);
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    url.into()
}
