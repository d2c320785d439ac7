//! Recordings of an HTTP API: made once against the real one, played back for ever, secrets left out.
//!
//! ```no_run
//! # async fn example(read_everything: impl AsyncFn(&str)) {
//! use ingest_testkit::cassette::Cassette;
//! // With INGEST_TEST_RECORD set the API is asked and the file is written; without it the file is played back.
//! let key = std::env::var("ACME_API_KEY").unwrap_or_else(|_| "none".into());
//! let cassette = Cassette::open("tests/acme.json", "https://api.acme.example", &[&key]).await;
//! read_everything(cassette.url()).await;
//! cassette.finish();
//! # }
//! ```
//!
//! What is written down: method, path, query and body of each request; status, body and the headers of the answer that mean
//! something to a reader of pages. Headers of requests are not written at all. Wherever they stand, these become `***`:
//! texts that the test names, what followed `Bearer` or `Basic`, and values under names such as `access_token`, `client_secret`,
//! `password`. The API's own address becomes a placeholder, so that links to the next page lead to the player.
//!
//! A request is found by method, path, query and body. The same request may have had several answers: they are played in
//! their order, the last one for ever. A request that was never made is answered with 501 and [`Cassette::finish`] fails.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use ingest_core::Json;
use serde::{Deserialize, Serialize};

use crate::hostile::forms;
use crate::http::{HttpServer, Request, Response};

/// Set by who wants recordings made anew.
const RECORD: &str = "INGEST_TEST_RECORD";
/// What stands for the API's address in a file.
const ENDPOINT: &str = "{{endpoint}}";
/// What stands for a secret.
const SCRUBBED: &str = "***";
/// Names of fields and parameters whose values are secrets.
const SECRET_NAMES: [&str; 13] = [
    "access_token",
    "refresh_token",
    "id_token",
    "client_secret",
    "client_assertion",
    "password",
    "api_key",
    "apikey",
    "secret",
    "private_key",
    "authorization",
    "signature",
    "sig",
];
/// Headers of answers that are kept; `date`, cookies and the like are not.
const KEPT_HEADERS: [&str; 6] = ["content-type", "link", "retry-after", "location", "x-total-count", "etag"];
/// A shorter text occurs by chance.
const SHORTEST_SECRET: usize = 6;

/// A file as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    format: u32,
    exchanges: Vec<Exchange>,
}

/// One request and its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Exchange {
    request: Asked,
    status: u16,
    #[serde(default)]
    headers: Vec<(String, String)>,
    body: Body,
}

/// What finds an exchange again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Asked {
    method: String,
    path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    query: String,
    #[serde(default, skip_serializing_if = "Body::is_empty")]
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Text(String),
    Base64(String),
}

impl Default for Body {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Body {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    fn change(&mut self, change: impl Fn(&str) -> String) {
        if let Self::Text(text) = self {
            *text = change(text);
        }
    }
}

#[derive(Default)]
struct State {
    exchanges: Vec<Exchange>,
    secrets: BTreeSet<String>,
    misses: Vec<String>,
}

/// A server that records or plays; it stops when it is dropped.
pub struct Cassette {
    http: HttpServer,
    path: PathBuf,
    recording: Option<String>,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cassette {
    /// Plays a file, or records it against `api` where the environment says `INGEST_TEST_RECORD`.
    ///
    /// # Panics
    /// When there is no file to play, or it cannot be read.
    pub async fn open(path: impl AsRef<Path>, api: &str, secrets: &[&str]) -> Self {
        match std::env::var_os(RECORD) {
            Some(_) => Self::record(path, api, secrets).await,
            None => Self::play(path).await,
        }
    }

    /// Records: every request goes to `api` (`https://host/base`), its answer back and into the file.
    ///
    /// # Panics
    /// When no client can be made.
    pub async fn record(path: impl AsRef<Path>, api: &str, secrets: &[&str]) -> Self {
        let api = api.trim_end_matches('/').to_owned();
        let secrets = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let state = Arc::new(Mutex::new(State { secrets, ..State::default() }));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let (shared, base) = (Arc::clone(&state), api.clone());
        let http = HttpServer::start(move |request| {
            let (client, base, shared) = (client.clone(), base.clone(), Arc::clone(&shared));
            async move {
                let Some(host) = request.header("host").map(|host| format!("http://{host}")) else {
                    return Response::status(400);
                };
                match forward(&client, &base, &request).await {
                    Ok(exchange) => {
                        let response = exchange.response(&base, &host);
                        lock(&shared).keep(&request, exchange);
                        response
                    }
                    Err(error) => Response::status(502).body(error.without_url().to_string()),
                }
            }
        })
        .await;
        Self { http, path: path.as_ref().to_owned(), recording: Some(api), state }
    }

    /// Plays a file.
    ///
    /// # Panics
    /// When it is not there, or no recording.
    pub async fn play(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let text = std::fs::read(&path)
            .unwrap_or_else(|e| panic!("cannot read {}: {e}; {RECORD}=1 records it", path.display()));
        let file: File = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(file.format, 1, "{} is of another format", path.display());
        let mut tapes: HashMap<Asked, Vec<Exchange>> = HashMap::new();
        for exchange in file.exchanges {
            tapes.entry(exchange.request.clone()).or_default().push(exchange);
        }
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, played) = (Arc::clone(&state), Mutex::new(HashMap::<Asked, usize>::new()));
        let http = HttpServer::start(move |request| {
            let asked = Asked::of(&request);
            let host = format!("http://{}", request.header("host").unwrap_or_default());
            let response = match tapes.get(&asked) {
                None => {
                    lock(&shared).misses.push(format!("{} {}", asked.method, asked.path));
                    Response::status(501).body("the recording has no answer to this request")
                }
                Some(answers) => {
                    let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
                    let nth = played.entry(asked).or_default();
                    let answer = &answers[(*nth).min(answers.len() - 1)];
                    *nth += 1;
                    answer.response(ENDPOINT, &host)
                }
            };
            async move { response }
        })
        .await;
        Self { http, path, recording: None, state }
    }

    /// Where the connector's `endpoint` points.
    pub fn url(&self) -> &str {
        self.http.url()
    }

    /// Requests that the recording has no answer to: methods and paths.
    pub fn misses(&self) -> Vec<String> {
        lock(&self.state).misses.clone()
    }

    /// Writes a recording; looks whether a player had all answers.
    ///
    /// # Panics
    /// When the file cannot be written, or an answer was missing.
    pub fn finish(self) {
        let Some(api) = &self.recording else {
            let misses = self.misses();
            assert!(misses.is_empty(), "{} has no answer to {misses:?}; {RECORD}=1 records anew", self.path.display());
            return;
        };
        let mut state = lock(&self.state);
        let secrets = state.forms_of_secrets();
        let scrub = |text: &str| {
            let text = secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), SCRUBBED));
            text.replace(api.as_str(), ENDPOINT)
        };
        let mut exchanges = std::mem::take(&mut state.exchanges);
        for exchange in &mut exchanges {
            exchange.request.path = scrub(&exchange.request.path);
            exchange.request.query = scrub(&exchange.request.query);
            exchange.request.body.change(scrub);
            exchange.body.change(scrub);
            exchange.headers.iter_mut().for_each(|(_, value)| *value = scrub(value));
        }
        let text = serde_json::to_string_pretty(&File { format: 1, exchanges }).expect("a recording is JSON");
        std::fs::write(&self.path, text + "\n").unwrap_or_else(|e| panic!("cannot write {}: {e}", self.path.display()));
    }
}

/// Asks the API.
async fn forward(client: &reqwest::Client, api: &str, request: &Request) -> reqwest::Result<Exchange> {
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let method = reqwest::Method::from_bytes(request.method.as_bytes()).unwrap_or_default();
    let mut ask = client.request(method, format!("{api}{}{query}", request.path)).body(request.body.clone());
    for (name, value) in &request.headers {
        // Those of this connection, and the packing of the body, are the client's own.
        if !["host", "connection", "content-length", "accept-encoding", "transfer-encoding"].contains(&name.as_str()) {
            ask = ask.header(name, value);
        }
    }
    let answer = ask.send().await?;
    let status = answer.status().as_u16();
    let kept = answer.headers().iter().filter(|(name, _)| KEPT_HEADERS.contains(&name.as_str()));
    let headers =
        kept.filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))).collect();
    let body: Bytes = answer.bytes().await?;
    Ok(Exchange { request: Asked::of(request), status, headers, body: Body::of(&body) })
}

impl Exchange {
    /// The answer, with links that lead to `to` in place of `from`.
    fn response(&self, from: &str, to: &str) -> Response {
        let mut response = Response::status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value.replace(from, to));
        }
        match &self.body {
            Body::Text(text) => response.body(text.replace(from, to)),
            Body::Base64(text) => response.body(BASE64_STANDARD.decode(text).unwrap_or_default()),
        }
    }
}

impl Asked {
    /// A request without what a secret of today would change.
    fn of(request: &Request) -> Self {
        let is_form = request.header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form"));
        let mut body = Body::of(&request.body);
        if is_form {
            body.change(without_secret_values);
        }
        Self {
            method: request.method.clone(),
            path: request.path.clone(),
            query: without_secret_values(&request.query),
            body,
        }
    }
}

fn is_secret(name: &str) -> bool {
    SECRET_NAMES.contains(&name.to_ascii_lowercase().as_str())
}

/// Parameters or fields of a form, the values of secret ones left out.
fn without_secret_values(text: &str) -> String {
    let part = |part: &str| match part.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={SCRUBBED}"),
        _ => part.to_owned(),
    };
    text.split('&').map(part).collect::<Vec<_>>().join("&")
}

impl State {
    /// Keeps an exchange, and the secrets that it shows.
    fn keep(&mut self, request: &Request, exchange: Exchange) {
        for (name, value) in &request.headers {
            let credentials = value.split_once(' ').map_or(value.as_str(), |(_, credentials)| credentials);
            if name == "authorization" || is_secret(&name.replace('-', "_")) || name.ends_with("-token") {
                self.secrets.insert(credentials.to_owned());
            }
        }
        let pairs = request.params().into_iter().chain(request.form());
        self.secrets.extend(pairs.filter(|(name, _)| is_secret(name)).map(|(_, value)| value));
        for body in [&Body::of(&request.body), &exchange.body] {
            if let Body::Text(text) = body
                && let Ok(json) = serde_json::from_str::<Json>(text)
            {
                secrets_of(&json, &mut self.secrets);
            }
        }
        self.exchanges.push(exchange);
    }

    /// Secrets in every form in which they may be written, the longest first.
    fn forms_of_secrets(&self) -> Vec<String> {
        let long = self.secrets.iter().filter(|secret| secret.len() >= SHORTEST_SECRET);
        let mut all: Vec<String> =
            long.flat_map(|secret| forms(secret)).filter(|f| f.len() >= SHORTEST_SECRET).collect();
        all.sort_by_key(|form| std::cmp::Reverse(form.len()));
        all.dedup();
        all
    }
}

/// Texts under names of secrets.
fn secrets_of(json: &Json, found: &mut BTreeSet<String>) {
    match json {
        Json::Object(map) => {
            for (name, value) in map {
                match value {
                    Json::String(text) if is_secret(name) => drop(found.insert(text.clone())),
                    inner => secrets_of(inner, found),
                }
            }
        }
        Json::Array(list) => list.iter().for_each(|inner| secrets_of(inner, found)),
        _ => {}
    }
}
