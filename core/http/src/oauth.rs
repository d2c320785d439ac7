//! OAuth 2 tokens: fetched when needed, once for all who wait, renewed before they expire.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ingest_core::{Error, ErrorKind, Result, Secret};
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
};
use oauth2::{
    AccessToken, AuthType, Client, ClientId, ClientSecret, HttpRequest, HttpResponse, RefreshToken, RequestTokenError,
    Scope, StandardRevocableToken, TokenResponse, TokenUrl,
};
use reqwest::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::Url;

use crate::HttpClient;
use crate::client::Inner;

/// How long a token is used when the server says nothing.
const DEFAULT_LIFE: Duration = Duration::from_secs(3_600);
/// What a server says is kept within these bounds.
const LIFE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(86_400));

/// A token that expires and is fetched from a token endpoint.
#[derive(Clone)]
pub struct OAuth {
    /// The token endpoint, from the API's documentation: never from an answer.
    pub token_url: String,
    /// The client.
    pub client_id: String,
    /// Its secret; empty for clients without one.
    pub client_secret: Secret,
    /// What is exchanged for a token.
    pub grant: Grant,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// Further fields of the form.
    pub parameters: Vec<(String, String)>,
    /// Sends client and secret as form fields, for servers that do not take them as Basic authorisation.
    pub secret_in_form: bool,
    /// Is told each new refresh token, where the server rotates them, before the token beside it is used.
    pub rotated: Option<Arc<dyn RefreshTokens>>,
    /// What a service does otherwise than most.
    pub habits: Habits,
}

/// What a token endpoint and its API do otherwise than most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Habits {
    /// The header that carries the token, bare, in place of `Authorization: Bearer`: `x-shopify-access-token`. In lower case.
    pub header: Option<&'static str>,
    /// The answer names the base URL of the API (`instance_url`); paths are appended to it instead of the endpoint. It is
    /// held to the rules of links: the endpoint's origin, or a listed host that gets the credentials.
    pub names_api: bool,
    /// What to do when the credentials are refused, where the service has more to say than most.
    pub hint: Option<&'static str>,
}

/// What is exchanged for a token.
#[derive(Clone)]
pub enum Grant {
    /// The client acts for itself (RFC 6749, 4.4).
    ClientCredentials,
    /// The client acts for a user who agreed once (RFC 6749, 6).
    RefreshToken(Secret),
    /// A signed statement (RFC 7523, 2.1), made anew for each exchange; the argument is the time in seconds since 1970.
    JwtBearer(Arc<dyn Fn(i64) -> Result<Secret> + Send + Sync>),
}

/// Keeps refresh tokens that the server rotates: the old one is void once a new one was sent.
#[async_trait]
pub trait RefreshTokens: Send + Sync {
    /// Stores a new refresh token. The exchange fails when this fails, so that nobody goes on with a token that the
    /// next run cannot renew.
    async fn rotated(&self, token: &Secret) -> Result<()>;
}

impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// A token in use.
#[derive(Clone)]
pub(crate) struct Token {
    pub header: (HeaderName, HeaderValue),
    /// The base URL of the API, where the token endpoint names it.
    pub api: Option<Url>,
    /// When it is renewed: a little before it expires.
    until: Instant,
    number: u64,
}

/// The answer of a token endpoint. Not all of them say that a token is a bearer token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answer {
    access_token: AccessToken,
    #[serde(default)]
    token_type: TokenType,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<RefreshToken>,
    #[serde(default)]
    instance_url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenType(String);

impl Default for TokenType {
    fn default() -> Self {
        Self("bearer".into())
    }
}

impl oauth2::TokenType for TokenType {}

impl TokenResponse for Answer {
    type TokenType = TokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &TokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    /// What was granted is told by the API itself.
    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

type Exchange = Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// The tokens of one client.
pub(crate) struct Tokens(Arc<Shared>);

struct Shared {
    oauth: OAuth,
    current: Mutex<Option<Token>>,
    /// Held while a token is fetched: one exchange at a time.
    flight: tokio::sync::Mutex<Flight>,
}

struct Flight {
    /// The refresh token to use next.
    refresh: Option<Secret>,
    /// Exchanges so far.
    number: u64,
    /// How the last one failed: told to those who waited for it.
    failed: Option<(ErrorKind, String, Option<String>)>,
}

impl Tokens {
    pub(crate) fn new(oauth: OAuth) -> Result<Self> {
        TokenUrl::new(oauth.token_url.clone()).map_err(|_| Error::config("the token endpoint is not a URL"))?;
        let name = oauth.habits.header.unwrap_or("authorization");
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            return Err(Error::unexpected("the token's header is not a header name in lower case"));
        }
        let refresh = match &oauth.grant {
            Grant::RefreshToken(token) => Some(token.clone()),
            _ => None,
        };
        let flight = Flight { refresh, number: 0, failed: None };
        Ok(Self(Arc::new(Shared { oauth, current: Mutex::new(None), flight: tokio::sync::Mutex::new(flight) })))
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.0.oauth.token_url
    }

    /// A token that has some life left.
    pub(crate) async fn current(&self, client: &HttpClient) -> Result<Token> {
        match self.0.token() {
            Some(token) if token.until > Instant::now() => Ok(token),
            stale => self.exchanged(client, stale.map(|token| token.number)).await,
        }
    }

    /// A token other than the one that was just refused.
    pub(crate) async fn renew(&self, client: &HttpClient, refused: &Token) -> Result<Token> {
        match self.0.token() {
            Some(token) if token.number != refused.number => Ok(token),
            _ => self.exchanged(client, Some(refused.number)).await,
        }
    }

    /// Runs the exchange on a task of its own: a rotated refresh token must be stored even if nobody waits any more.
    async fn exchanged(&self, client: &HttpClient, stale: Option<u64>) -> Result<Token> {
        let (shared, client) = (self.0.clone(), client.clone());
        let task = tokio::spawn(async move { shared.exchange_once(&client, stale).await });
        task.await.map_err(|_| Error::unexpected("the exchange of a token panicked"))?
    }
}

impl Shared {
    fn token(&self) -> Option<Token> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn exchange_once(&self, client: &HttpClient, stale: Option<u64>) -> Result<Token> {
        let queued = self.flight.try_lock();
        let (mut flight, waited) = match queued {
            Ok(flight) => (flight, false),
            Err(_) => (self.flight.lock().await, true),
        };
        if let Some(token) = self.token().filter(|token| Some(token.number) != stale) {
            return Ok(token);
        }
        if waited && let Some((kind, message, hint)) = &flight.failed {
            let error = Error::new(*kind, message.clone()).exhausted();
            return Err(if let Some(hint) = hint { error.hint(hint.clone()) } else { error });
        }
        match self.exchange(client, &mut flight).await {
            Ok(token) => {
                flight.failed = None;
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
                Ok(token)
            }
            Err(error) => {
                flight.failed = Some((error.kind(), error.message().into(), error.hint_text().map(Into::into)));
                Err(error)
            }
        }
    }

    async fn exchange(&self, client: &HttpClient, flight: &mut Flight) -> Result<Token> {
        flight.number += 1;
        let answer = self.ask(client, flight.refresh.as_ref()).await?;
        if !answer.token_type.0.eq_ignore_ascii_case("bearer") {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "the token endpoint gave a token that is not a bearer token",
            ));
        }
        if let Some(fresh) = answer.refresh_token().map(|token| Secret::new(token.secret().clone()))
            && flight.refresh.as_ref().is_some_and(|old| *old != fresh)
        {
            flight.refresh = Some(fresh.clone());
            if let Some(store) = &self.oauth.rotated {
                store.rotated(&fresh).await?;
            }
        }
        let life = answer.expires_in().unwrap_or(DEFAULT_LIFE).clamp(LIFE.0, LIFE.1);
        let early = (life / 10).min(Duration::from_secs(60));
        let header = self.header(&answer).map_err(|_| {
            Error::new(ErrorKind::DataInvalid, "the token endpoint gave a token that no header can carry")
        })?;
        let api = if self.oauth.habits.names_api { Some(api_of(client, &answer)?) } else { None };
        Ok(Token { header, api, until: Instant::now() + (life - early), number: flight.number })
    }

    fn header(&self, answer: &Answer) -> Result<(HeaderName, HeaderValue)> {
        let token = Secret::new(answer.access_token.secret().clone());
        Ok(match self.oauth.habits.header {
            None => (reqwest::header::AUTHORIZATION, crate::auth::bearer(&token)?),
            Some(name) => (HeaderName::from_static(name), crate::auth::sensitive(token.expose())?),
        })
    }

    async fn ask(&self, client: &HttpClient, refresh: Option<&Secret>) -> Result<Answer> {
        let oauth = &self.oauth;
        let endpoint =
            TokenUrl::new(oauth.token_url.clone()).map_err(|_| Error::config("the token endpoint is not a URL"))?;
        let mut basic = Exchange::new(ClientId::new(oauth.client_id.clone())).set_token_uri(endpoint);
        if !oauth.client_secret.is_empty() {
            basic = basic.set_client_secret(ClientSecret::new(oauth.client_secret.expose().to_owned()));
        }
        if oauth.secret_in_form {
            basic = basic.set_auth_type(AuthType::RequestBody);
        }
        let send = sender(client.clone());
        let scopes = oauth.scopes.iter().cloned().map(Scope::new);
        let answer = match (&oauth.grant, refresh) {
            (Grant::ClientCredentials, _) => {
                let mut request = basic.exchange_client_credentials().add_scopes(scopes);
                for (name, value) in &oauth.parameters {
                    request = request.add_extra_param(name.as_str(), value.as_str());
                }
                request.request_async(&send).await
            }
            (Grant::RefreshToken(_), Some(token)) => {
                let token = RefreshToken::new(token.expose().to_owned());
                let mut request = basic.exchange_refresh_token(&token).add_scopes(scopes);
                for (name, value) in &oauth.parameters {
                    request = request.add_extra_param(name.as_str(), value.as_str());
                }
                request.request_async(&send).await
            }
            (Grant::RefreshToken(_), None) => return Err(Error::unexpected("the refresh token is gone")),
            (Grant::JwtBearer(sign), _) => {
                let now = client.0.clock.now_micros().div_euclid(1_000_000);
                return jwt_bearer(client, oauth, &sign(now)?).await;
            }
        };
        answer.map_err(|error| match error {
            RequestTokenError::Request(error) => error,
            // The description is foreign text and may quote what was sent.
            RequestTokenError::ServerResponse(refusal) => refused(refusal.error(), oauth.habits.hint),
            _ => unreadable(),
        })
    }
}

/// Our own way out, as the library wants it.
fn sender(client: HttpClient) -> impl Fn(HttpRequest) -> Sending + Send + Sync {
    move |request| {
        let client = client.clone();
        Box::pin(async move { client.0.token_request(request).await })
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<HttpResponse>> + Send>>;

/// The grant that the library does not know.
async fn jwt_bearer(client: &HttpClient, oauth: &OAuth, assertion: &Secret) -> Result<Answer> {
    let request = oauth2::http::Request::post(oauth.token_url.as_str())
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json")
        .body(jwt_form(oauth, assertion))
        .map_err(|_| Error::config("the token endpoint is not a URL"))?;
    let answer = client.0.token_request(request).await?;
    if answer.status().is_success() {
        return serde_json::from_slice(answer.body()).map_err(|_| unreadable());
    }
    let refusal =
        serde_json::from_slice::<oauth2::basic::BasicErrorResponse>(answer.body()).map_err(|_| unreadable())?;
    Err(refused(refusal.error(), oauth.habits.hint))
}

fn jwt_form(oauth: &OAuth, assertion: &Secret) -> Vec<u8> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
    form.append_pair("assertion", assertion.expose());
    if !oauth.scopes.is_empty() {
        form.append_pair("scope", &oauth.scopes.join(" "));
    }
    form.extend_pairs(&oauth.parameters);
    form.finish().into_bytes()
}

fn refused(code: &BasicErrorResponseType, hint: Option<&str>) -> Error {
    use BasicErrorResponseType as Code;
    let (kind, code) = match code {
        Code::InvalidClient => (ErrorKind::Unauthenticated, "invalid_client"),
        Code::InvalidGrant => (ErrorKind::Unauthenticated, "invalid_grant"),
        Code::UnauthorizedClient => (ErrorKind::PermissionDenied, "unauthorized_client"),
        Code::InvalidScope => (ErrorKind::PermissionDenied, "invalid_scope"),
        Code::InvalidRequest => (ErrorKind::Unauthenticated, "invalid_request"),
        Code::UnsupportedGrantType => (ErrorKind::Unauthenticated, "unsupported_grant_type"),
        Code::Extension(_) => (ErrorKind::Unauthenticated, "a code of its own"),
    };
    Error::new(kind, "the token endpoint refused the credentials")
        .with("code", code)
        .hint(hint.unwrap_or("check client, secret and grant; a refresh token may have been revoked or used elsewhere"))
}

/// The base URL that the answer names, if the rules let requests go there.
fn api_of(client: &HttpClient, answer: &Answer) -> Result<Url> {
    let named = answer.instance_url.as_deref().ok_or_else(|| {
        Error::new(ErrorKind::DataInvalid, "the token endpoint does not say where the API is")
            .hint("compare `endpoint` with the documentation of the API")
    })?;
    client.0.hosts.api(named)
}

fn unreadable() -> Error {
    Error::new(ErrorKind::DataInvalid, "the token endpoint gave an answer that is no token")
        .hint("compare the token endpoint with the documentation of the API")
}

impl Inner {
    /// Sends a request to the token endpoint: no redirects, the same budget as any other. Answers that say why the
    /// credentials are refused are handed on.
    async fn token_request(&self, request: HttpRequest) -> Result<HttpResponse> {
        crate::send::token(self, request).await
    }
}
